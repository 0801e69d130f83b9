r"""The prompt that asks a model to make up samples, and the samples in what it answers.

    You write examples for an assistant that can use tools. ...

    calculator: Works out an expression. Parameters: {"type": "object", ...}

    Question: ...                    examples, by people and by the model, in random order
    Thought: ...
    ...
    Final Answer: ...

    Question:                        here the model goes on, with as many samples as it likes

So the model needs no training on instructions: it only has to go on with a list.

Paper:    Qwen Technical Report, 3.4: Qwen is asked to write queries and ReAct outputs, few-shot.
Origin:   Wang et al. 2022 (Self-Instruct), arXiv:2212.10560, 2.2 step 1 and table 5: the model goes
          on with a list of tasks; of 8 examples 6 are by people and 2 by the model.
Differs:  Wang has questions made up first and answers later, by other prompts; here, as in Qwen's
          report, a sample comes whole. The words of the prompt are ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..tool import Tool
from .sample import Sample, sample_text

OPENING = {
    "en": (
        "You write examples for an assistant that can use tools. It has these tools:",
        "An example is a question that a person may ask, and the work of the assistant: it thinks, "
        "chooses a tool, writes the input, reads what the tool gives back, and says the final "
        "answer. Each question must differ from those before it, in what it is about and in its "
        "words, and these tools must be enough to answer it.",
    ),
    "zh": (
        "请为一个会使用工具的助手编写例子。它可以使用以下工具：",
        "一个例子包括一个人们可能会问的问题，以及助手的做法：先思考，再选择工具，写出工具的输入，"
        "读取工具返回的结果，最后给出最终答案。每个问题的主题和说法都要与前面的不同，"
        "并且只用这些工具就能回答。",
    ),
}
NEXT = re.compile(
    r"^[ \t]*(?:\*\*)?Question[ \t]*\d*[ \t]*[:：](?:\*\*)?", re.IGNORECASE | re.MULTILINE
)
BETWEEN = re.compile(r"[-=#*_]*|\W*Example\W*\d*\W*|\d+\.", re.IGNORECASE)


def draw_examples(
    seeds: Sequence[Sample],
    kept: Sequence[Sample],
    names: Sequence[str],
    rng: np.random.Generator,
    *,
    human_examples: int = 6,
    model_examples: int = 2,
    most_tools: int = 5,
) -> tuple[list[Sample], list[str]]:
    """Draw the tools of a prompt, and examples that need no others.

    Args:
        seeds: samples that people wrote.
        kept: samples that the model made up.
        names: of all tools.
        rng: draws; the same state draws the same.
        human_examples: how many of the seeds.
        model_examples: how many of the kept ones; seeds stand in for those that are missing.
        most_tools: how many tools are told at most, but those of one seed are told in any case.

    Returns:
        The examples and the names of the tools, both in random order. One seed is always there.

    >>> seed = Sample("2 + 3?", ("add",), (), "Easy.", "5")
    >>> draw_examples([seed], [], ["add", "now"], np.random.default_rng(0), most_tools=1)[0]
    [Sample(question='2 + 3?', tools=('add',), calls=(), thought='Easy.', answer='5')]
    """
    first = seeds[int(rng.integers(len(seeds)))]
    needed = _used(first)
    others = [name for name in names if name not in needed]
    more = rng.permutation(len(others))[: max(0, most_tools - len(needed))]
    told = [*sorted(needed), *(others[i] for i in more)]

    def fitting(samples: Sequence[Sample]) -> list[Sample]:
        found = [s for s in samples if s is not first and _used(s) <= set(told)]
        return [found[i] for i in rng.permutation(len(found))]

    by_model = fitting(kept)[:model_examples]
    wanted = human_examples + model_examples - len(by_model)
    examples = [first, *fitting(seeds)[: max(0, wanted - 1)], *by_model]
    return (
        [examples[i] for i in rng.permutation(len(examples))],
        [told[i] for i in rng.permutation(len(told))],
    )


def sample_prompt(
    examples: Sequence[Sample], tools: Mapping[str, Tool], language: str = "en"
) -> str:
    """Write the prompt.

    Args:
        examples: of `draw_examples`.
        tools: those that are told, in their order.
        language: of the instructions, "en" or "zh".

    Returns:
        The prompt; the model goes on after its last word, "Question:".

    Raises:
        ValueError: the language is none of the two.

    >>> print(sample_prompt([Sample("2 + 3?", ("add",), (), "Easy.", "5")], {})[-58:])
    Question: 2 + 3?
    Thought: Easy.
    Final Answer: 5
    <BLANKLINE>
    Question:
    """
    if language not in OPENING:
        raise ValueError(f"language must be one of {', '.join(OPENING)}, got {language!r}")
    opening, task = OPENING[language]
    lines = [
        f"{name}: {tool.description} Parameters: {json.dumps(tool.parameters, ensure_ascii=False)}"
        for name, tool in tools.items()
    ]
    return "\n\n".join([opening, *lines, task, *map(sample_text, examples), "Question:"])


def split_answer(answer: str) -> list[str]:
    r"""Cut what the model went on with into the texts of its samples.

    Args:
        answer: of the model to `sample_prompt`.

    Returns:
        Texts for `parse_sample`, each from its question on. Lines between samples that only part or
        number them are left out. The last one may be cut off.

    >>> split_answer(" Who?\nThought: Hm.\n\n---\n\nQuestion 2: How")
    ['Question: Who?\nThought: Hm.', 'Question: How']
    """
    texts = []
    for piece in NEXT.split(answer.replace("\r\n", "\n").replace("\r", "\n")):
        lines = piece.split("\n")
        while lines and BETWEEN.fullmatch(lines[-1].strip()):
            lines.pop()
        if lines:
            texts.append("Question: " + "\n".join(lines).strip())
    return texts


def _used(sample: Sample) -> set[str]:
    return {call.action for call in sample.calls}

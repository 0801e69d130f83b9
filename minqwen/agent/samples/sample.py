r"""A sample of tool use: a question, the tools offered for it, and how they answered it.

    Question: What is 21 times 2?
    Thought: I need the product.                    written by the model
    Action: calculator                              written by the model
    Action Input: {"expression": "21 * 2"}          written by the model
    Observation:                                    written by the model: so it stops and waits
                 42                                 given: what the tool says
    Thought:                                        given
             I now know it.                         written by the model
    Final Answer: 21 times 2 is 42.                 written by the model

A question may take several calls, or none. What is given must not be learnt: a model that learns to
write observations makes them up. But the label in front of one must be learnt, or the model does
not know where to stop. In a file a sample is a line of JSON,

    {"question": "What is 21 times 2?", "tools": ["calculator"], "trace": "Thought: I need ..."}

What a model makes up is read as react_parse.py reads it, but nothing in it may be left over: a
second action, text after an input, a label inside of an observation. Spacing, the case of the
labels and their bold print are forgiven. The sample is then written in the one form above, so that
a model which learns from it learns one form.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   Yao et al. 2022 (ReAct), arXiv:2210.03629.
Differs:  the report does not publish its samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..react_parse import LABEL, Step, parse_react, render_react

QUESTION = re.compile(r"[ \t]*Question[ \t]*[:：]", re.IGNORECASE)
THOUGHT = re.compile(r"^[ \t]*(?:\*\*)?Thought[ \t]*[:：]", re.IGNORECASE | re.MULTILINE)
OBSERVATION = re.compile(
    r"^[ \t]*(?:\*\*)?Observation[ \t]*[:：](?:\*\*)?", re.IGNORECASE | re.MULTILINE
)
FORGIVEN = re.compile(r"[\s*_:：]+")


class Call(NamedTuple):
    thought: str
    action: str  # name of the tool
    action_input: str
    observation: str


class Sample(NamedTuple):
    question: str
    tools: tuple[str, ...]  # names of those offered, in their order
    calls: tuple[Call, ...]
    thought: str  # before the answer
    answer: str


class Part(NamedTuple):
    text: str
    written: bool  # by the model, so to be learnt; else it was given to it


def sample_parts(sample: Sample) -> list[Part]:
    r"""Write the work on a question, apart from what was given in between.

    Args:
        sample: any.

    Returns:
        Parts, written and given in turn; joined they are the trace.

    >>> sample = Sample("2 + 3?", ("add",), (Call("Add.", "add", "[2, 3]", "5"),), "Good.", "5")
    >>> for part in sample_parts(sample):
    ...     part
    Part(text='Thought: Add.\nAction: add\nAction Input: [2, 3]\nObservation:', written=True)
    Part(text=' 5\nThought:', written=False)
    Part(text=' Good.\nFinal Answer: 5', written=True)
    """
    parts = []
    for thought, action, action_input, observation in sample.calls:
        asked = render_react(Step(thought, action, action_input))
        parts.append(Part(f"{asked}\nObservation:", True))
        parts.append(Part(f" {observation}\nThought:", False))
    parts.append(Part(render_react(Step(sample.thought, final_answer=sample.answer)), True))
    first, *others = parts
    return [first, *(p._replace(text=p.text.removeprefix("Thought:")) for p in others)]


def sample_text(sample: Sample) -> str:
    """Write a sample as text; `parse_sample` reads the same sample from it.

    >>> print(sample_text(Sample("2 + 3?", ("add",), (), "That is easy.", "5")))
    Question: 2 + 3?
    Thought: That is easy.
    Final Answer: 5
    """
    return f"Question: {sample.question}\n" + "".join(p.text for p in sample_parts(sample))


def parse_sample(text: str, tools: Iterable[str]) -> Sample:
    r"""Read a sample.

    Args:
        text: from the question to the final answer. `Question:` in front may be missing.
        tools: names of those that were offered. The sample may name others; see sample_rules.py.

    Raises:
        ValueError: the text is not such a sample; the message says what is missing or left over.

    >>> parse_sample("Question: 2 + 3?\nThought: Easy.\nFinal  answer: 5", ["add"])
    Sample(question='2 + 3?', tools=('add',), calls=(), thought='Easy.', answer='5')
    """
    sample = _read(text, tuple(tools))
    if _read(sample_text(sample), sample.tools) != sample:
        raise ValueError("written in the one form, it would be read in another way")
    return sample


def _read(text: str, tools: tuple[str, ...]) -> Sample:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if label := QUESTION.match(text):
        text = text[label.end() :]
    first = THOUGHT.search(text)
    if first is None:
        raise ValueError("there is no thought")
    question, rest = text[: first.start()].strip(), text[first.start() :]
    if not question:
        raise ValueError("there is no question before the first thought")
    if LABEL.search(question):
        raise ValueError(f"a label stands inside of the question: {question!r:.80}")

    calls = []
    while label := OBSERVATION.search(rest):
        written, after = rest[: label.start()], rest[label.end() :]
        following = THOUGHT.search(after)
        if following is None:
            raise ValueError("no thought comes after the last observation")
        step = _strict(written)
        if not step.action or not step.action_input:
            raise ValueError("an observation comes without an action and its input before it")
        observation = after[: following.start()].strip()
        if LABEL.search(observation):
            raise ValueError(f"a label stands inside of an observation: {observation!r:.80}")
        calls.append(Call(step.thought or "", step.action, step.action_input, observation))
        rest = after[following.start() :]
    step = _strict(rest)
    if step.action is not None:
        raise ValueError("no observation comes after the last action")
    if not step.final_answer:
        raise ValueError("there is no final answer")
    return Sample(question, tools, tuple(calls), step.thought or "", step.final_answer)


def _strict(written: str) -> Step:
    """Read a step of which nothing may be left over."""
    step = parse_react(written)
    read, whole = (FORGIVEN.sub("", text).casefold() for text in (render_react(step), written))
    if not step.thought:
        raise ValueError("a thought is empty")
    if read != whole:
        pairs = enumerate(zip(read, whole, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(read), len(whole)))
        raise ValueError(f"something is left over: {whole[same:]!r:.60}")
    return step

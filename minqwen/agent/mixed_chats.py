r"""Samples of tool use as chats for `minqwen sft`, mixed with other chats.

What a tool gave stands in the middle of what the model wrote, and must not be learnt. Two forms:

    form="each"     a chat for each answer of the model: everything that stood before is the turn
                    of the user, what it wrote is the answer

                        user        tools, Question: ... Thought: ... Observation: 42\nThought:
                        assistant    I now know it.\nFinal Answer: ...

    form="whole"    one chat: the question is the turn of the user, all the rest the answer, and
                    `given` says which characters of it are no label

                        user        tools, Question: ...
                        assistant   Thought: ... Observation: 42\nThought: I now know it. ...
                        given                               ****************

"each" needs nothing but turns, and is what a model sees that gets every prompt as a question, such
as one behind an OpenAI-compatible server. It repeats what stood before. "whole" is what Qwen's own
code does, and run_react with a generator that knows `Prompt.answer_begins`, as text_generator with
chat=True; `minqwen sft` reads `given`. A model must be used in the form that it learnt: one that
learnt "each" by `lambda prompt: generate(str(prompt))`.

All samples are used. Of the other chats all are, or as many as make the samples' share of the lines
what you ask for. The order is drawn from the seed.

Chats of one sample are much alike. Put samples aside for validation before they are written, not
lines of the file after it.

Paper:    Qwen Technical Report, 3.4: about 2,000 samples are learnt in one stage together with all
          other data for fine-tuning; the share is not published.
Origin:   the glued answer: openai_api.py of the Qwen release.
Differs:  the report does not say whether observations are learnt. Here they are not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.records import ChatRecord
from .react_prompt import react_prompt
from .samples.sample import Sample, sample_parts
from .samples.sample_files import write_json_lines
from .tool import Tool

FORMS = ("each", "whole")
ORDER = 0x4D58  # first word of the seed: no other use shares its stream


class MixedReport(NamedTuple):
    samples: int
    agent_chats: int  # lines made of samples
    general_chats: int  # other lines
    share: float  # of the lines that are made of samples


def sample_chats(
    sample: Sample, tools: Mapping[str, Tool], *, form: str = "whole", language: str = "en"
) -> list[list[dict[str, Any]]]:
    r"""Write a sample as chats.

    Args:
        sample: any.
        tools: of `make_tools`; those that the sample was offered are told in its prompt.
        form: "each" or "whole", see above.
        language: of the prompt, "en" or "zh".

    Returns:
        Messages of a chat for each answer of the model, or of one chat.

    Raises:
        ValueError: form is none of the two, or the sample was offered a tool that tools lacks.

    >>> from .samples.sample import Call
    >>> add = Tool("add", "Add", "Adds.", {"type": "object"}, lambda: "5")
    >>> sample = Sample("2 + 3?", ("add",), (Call("Add.", "add", "{}", "5"),), "Good.", "Five")
    >>> for _, answer in sample_chats(sample, {"add": add}, form="each"):
    ...     answer["content"]
    'Thought: Add.\nAction: add\nAction Input: {}\nObservation:'
    ' Good.\nFinal Answer: Five'
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if missing := [name for name in sample.tools if name not in tools]:
        raise ValueError(f"the sample was offered {missing[0]!r}, which is not in tools")
    told = {name: tools[name] for name in sample.tools}
    question = react_prompt(sample.question, told, language=language)

    before, given = "", []
    chats = []
    for text, written in sample_parts(sample):
        if written:
            asked = f"{question}\n{before}".rstrip()  # as alignment/text_generation.py does
            chats.append([_message("user", asked), _message("assistant", text)])
        else:
            given.append([len(before), len(before) + len(text)])
        before += text
    if form == "each":
        return chats
    answer = _message("assistant", before) | ({"given": given} if given else {})
    return [[_message("user", question), answer]]


def write_mixed(
    path: str | os.PathLike[str],
    samples: Sequence[Sample],
    tools: Mapping[str, Tool],
    general: Sequence[ChatRecord] = (),
    *,
    share: float | None = None,
    seed: int = 0,
    form: str = "whole",
    language: str = "en",
) -> MixedReport:
    """Write samples and other chats, mixed, as a file for `minqwen sft`.

    Args:
        path: JSONL; replaced if it exists, whole or not at all.
        samples: all are used, each once.
        tools: of `make_tools`.
        general: other chats, of `read_chats`; their fields stay.
        share: of the lines that are to be made of samples, above 0, at most 1; None: all there are
            on both sides.
        seed: of the order, and of which other chats are taken.
        form: "each" or "whole", see above.
        language: of the prompts.

    Returns:
        What was written. A line of a sample also says "source": "self_instruct" and its number.

    Raises:
        ValueError: there is no sample, share is out of range, there are too few other chats for it,
            or see `sample_chats`. Nothing has been written.
        OSError: the file cannot be written.
    """
    if not samples:
        raise ValueError("samples must hold at least one")
    lines: list[dict[str, Any]] = [
        {"messages": messages, "source": "self_instruct", "sample": i}
        for i, sample in enumerate(samples)
        for messages in sample_chats(sample, tools, form=form, language=language)
    ]
    agent_chats = len(lines)
    rng = np.random.default_rng([ORDER, seed])
    taken = _how_many(agent_chats, len(general), share)
    for i in rng.permutation(len(general))[:taken].tolist():
        messages, described, fields, _ = general[i]
        beside = fields | ({"tools": described} if described else {})
        lines.append({"messages": messages} | beside)
    write_json_lines(path, (lines[i] for i in rng.permutation(len(lines)).tolist()))
    return MixedReport(len(samples), agent_chats, taken, agent_chats / len(lines))


def _how_many(agent_chats: int, general_chats: int, share: float | None) -> int:
    """Return how many other chats make the share of the samples the one that is asked for."""
    if share is None:
        return general_chats
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    taken = round(agent_chats * (1 - share) / share)
    if taken > general_chats:
        least = agent_chats / (agent_chats + general_chats)
        raise ValueError(
            f"a share of {share} needs {taken} other chats beside {agent_chats} of samples, there "
            f"are {general_chats}: the lowest share is {least:.4g}"
        )
    return taken


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}

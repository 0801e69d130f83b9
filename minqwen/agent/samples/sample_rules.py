"""Rules for samples that a model made up: which are fit to be learnt from, and why others are not.

    format         no question, thought, action, observation or answer where one must be (sample.py)
    calls          fewer or more than are wanted; by default it may not answer without a tool
    unknown tool   it calls a tool that was not offered
    arguments      no JSON, or not what the tool's schema asks for
    length         words of the question or of the answer
    language       question or thoughts are in another language; the answer may be
    blocked        it holds a blocked word
    overlap        ROUGE-L F of the question with one that is kept, or with a seed, is 0.7 or more
    check          what your own check says, such as: the tool gives another result

The first rule that fails is told. They stand in this order because the last two cost most. A sample
that passes them all may still be poor: the report also had people look at them.

`agrees_with_tools` runs the tools on what a model wrote: give it only tools that may be run so.

Paper:    Qwen Technical Report, 3.4: a filter of rules and people, no numbers.
Origin:   Wang et al. 2022 (Self-Instruct), arXiv:2212.10560, 2.2 step 4: overlap below 0.7, words
          such as image, picture and graph, a length of 4 to 150 words.
Differs:  the rules on tools are ours. The words that the paper names stand in WITHOUT_SIGHT; they
          are not blocked unless you ask, as a code interpreter may draw a graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...data.blocklist import find_blocked, make_blocklist
from ...data.text_units import read_text
from ..json_arguments import read_arguments
from ..json_schema import schema_errors
from ..rouge import RougePool, rouge_words
from ..tool import Tool, call_tool
from .sample import Sample, sample_text

WITHOUT_SIGHT = ("image", "images", "picture", "pictures", "graph", "graphs")

Check = Callable[[Sample], str | None]  # why a sample is wrong; None = nothing found


class Rules(NamedTuple):
    question_words: tuple[int, int] = (4, 150)  # least and most; of Chinese, characters
    answer_words: tuple[int, int] = (1, 300)
    calls: tuple[int, int] = (1, 5)
    language: str = "en"  # "en" or "zh": whether at least half of the units are Chinese characters
    blocked: tuple[str, ...] = ()  # words and phrases, as blocklist.py reads them
    overlap: float = 0.7  # an F below it is new


class Dropped(NamedTuple):
    reason: str  # one of those above
    why: str  # to be read
    text: str  # what the model wrote


def why_dropped(
    sample: Sample,
    tools: Mapping[str, Tool],
    rules: Rules,
    pool: RougePool | None = None,
    check: Check | None = None,
) -> Dropped | None:
    """Ask every rule of a sample until one fails.

    Args:
        sample: of `parse_sample`.
        tools: of `make_tools`; those that are offered must be among them.
        rules: see Rules.
        pool: questions that are kept already; None asks nothing about overlap.
        check: asked last.

    Returns:
        The rule that failed, None if the sample is fit.

    >>> sample = Sample("What is 2 + 3?", ("add",), (), "Easy.", "5")
    >>> why_dropped(sample, {}, Rules())[:2]
    ('calls', 'it calls 0 tools, wanted 1 to 5')
    """
    found = _first_failure(sample, tools, rules, pool, check)
    return None if found is None else Dropped(*found, sample_text(sample))


def agrees_with_tools(tools: Mapping[str, Tool]) -> Check:
    """Make a check that calls the tools again and compares what they say with the observations.

    Args:
        tools: of `make_tools`; they must give the same result each time.

    Returns:
        A check. Space at the beginning and end of an observation does not count.

    >>> from .sample import Call
    >>> no_arguments = {"type": "object", "properties": {}}
    >>> tools = {"six": Tool("six", "Six", "Says 6.", no_arguments, lambda: "6")}
    >>> sample = Sample("Say six.", ("six",), (Call("Ask.", "six", "{}", "7"),), "Good.", "7")
    >>> agrees_with_tools(tools)(sample)
    "six gives '6', the observation was '7'"
    """

    def check(sample: Sample) -> str | None:
        for _, action, action_input, observation in sample.calls:
            found = call_tool(tools, action, action_input)
            if found.error:
                return f"{action} failed: {found.text:.200}"
            if found.text.strip() != observation.strip():
                gives, was = f"{found.text!r:.100}", f"{observation!r:.100}"
                return f"{action} gives {gives}, the observation was {was}"
        return None

    return check


def _first_failure(
    sample: Sample,
    tools: Mapping[str, Tool],
    rules: Rules,
    pool: RougePool | None,
    check: Check | None,
) -> tuple[str, str] | None:
    calls, (least, most) = len(sample.calls), rules.calls
    if not least <= calls <= most:
        return "calls", f"it calls {calls} tools, wanted {least} to {most}"
    for call in sample.calls:
        if call.action not in sample.tools:
            offered = ", ".join(sample.tools)
            return "unknown tool", f"it calls {call.action!r:.80}, offered were: {offered}"
        if wrong := _wrong_arguments(tools[call.action], call.action_input):
            return "arguments", wrong
    for what, text, (least, most) in (
        ("question", sample.question, rules.question_words),
        ("answer", sample.answer, rules.answer_words),
    ):
        if not least <= (words := len(rouge_words(text))) <= most:
            return "length", f"the {what} has {words} words, wanted {least} to {most}"
    for text in (sample.question, *(call.thought for call in sample.calls), sample.thought):
        if rules.language != ("zh" if read_text(text).undivided else "en"):
            return "language", f"not {rules.language}: {text!r:.80}"
    blocklist = make_blocklist(rules.blocked) if rules.blocked else None
    if blocklist and (found := find_blocked(blocklist, sample_text(sample))):
        return "blocked", f"it holds {next(iter(found))!r:.80}"
    if pool is not None and (near := pool.nearest(sample.question, rules.overlap)) is not None:
        f1, most_f1 = f"{near.f1:.2f}", f"{rules.overlap:g}"
        return "overlap", f"F {f1} with question {near.place}, wanted below {most_f1}"
    if check is not None and (says := check(sample)):
        return "check", says
    return None


def _wrong_arguments(tool: Tool, action_input: str) -> str:
    """Say what `call_tool` would say of the arguments before it calls the tool; "" if they fit."""
    try:
        arguments = read_arguments(action_input, tool.code_argument)
        if tool.code_argument is None:
            json.loads(action_input, strict=False)  # what a model may write, no sample may teach
    except ValueError as error:
        return f"the input of {tool.name} {error}"
    return "; ".join(schema_errors(tool.parameters, arguments))

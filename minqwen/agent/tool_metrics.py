r"""How well a model uses tools: the three numbers of the report's table.

    tool selection    share of the answers that name the right tool
    tool input        mean ROUGE-L F of the arguments against the right ones
    false positives   share of the answers that call a tool where none is of use

An answer calls a tool when a line of it, not its first, begins with `Action:`. Only the first call
counts, of the answer and of the reference. Names are compared without regard to case and to space
around them. Arguments are read as JSON and written again with their keys in order, so that order
and spacing of the model's JSON cost nothing; what is no JSON counts as empty, which scores 0. Input
is scored even where the tool is a wrong one.

These rules stand apart from react_parse.py on purpose: that one forgives what a model may write,
and a score that forgives more each year could not be compared with the table.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent: table 6.
Origin:   evaluate_plugin.py of the Qwen release.
Differs:  the program wants a space after `Action:`; a call without one runs here too, so it counts.
          It reads JSON5, which allows single quotes and commas at the end; here they are no JSON.
          It cuts arguments into tokens of the model; here into those of `tokenize`, words and signs
          unless you give it the model's. It finds the first `Action:` anywhere, also inside of a
          thought; here at the beginning of a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from ..data.text_units import TOKEN
from .rouge import lcs_length

Tokenize = Callable[[str], Sequence[Hashable]]

CALL = "\nAction:"
INPUT = "Action Input:"
RESULT = "\nObservation:"


class ToolCall(NamedTuple):
    name: str  # stripped, in lower case
    arguments: str  # JSON, keys in order; "" where there were none, or no JSON


class ToolScores(NamedTuple):
    selection: float  # share of the answers
    input_rouge_l: float  # mean over all answers
    answers: int


def first_call(text: str) -> ToolCall | None:
    r"""Return the first call of a tool in an answer, None where there is none.

    Args:
        text: what the model wrote, observations between or not.

    >>> first_call('Thought: sum\nAction: Calculator\nAction Input: {"b": 1, "a": 2}\nObservation:')
    ToolCall(name='calculator', arguments='{"a": 2, "b": 1}')
    """
    _, call, rest = text.partition(CALL)
    if not call:
        return None
    rest = rest.partition(RESULT)[0]
    name, _, arguments = rest.partition(INPUT)
    return ToolCall(name.strip().lower(), _sorted_json(arguments))


def input_score(reference: str, answer: str, tokenize: Tokenize = TOKEN.findall) -> float:
    r"""Return the ROUGE-L F of the arguments of two first calls.

    Args:
        reference: a right answer.
        answer: that of the model.
        tokenize: cuts the JSON; such as the `encode` of the model's tokenizer.

    >>> input_score('\nAction: t\nAction Input: {"a": 1}', '\nAction: t\nAction Input: {"a":2}')
    0.8571428571428571
    """
    texts = (call.arguments if (call := first_call(t)) else "" for t in (reference, answer))
    a, b = map(tokenize, texts)
    return 2 * lcs_length(a, b) / (len(a) + len(b)) if a and b else 0.0


def tool_scores(
    references: Sequence[str], answers: Sequence[str], tokenize: Tokenize = TOKEN.findall
) -> ToolScores:
    r"""Score answers to questions that each need a tool.

    Args:
        references: right answers, each with a call.
        answers: what the model wrote, in the same order.
        tokenize: see `input_score`.

    Raises:
        ValueError: there is nothing to score, the numbers differ, or a reference calls no tool.

    >>> right = 'Thought: sum\nAction: calculator\nAction Input: {"a": 1}'
    >>> tool_scores([right, right], [right, "Final Answer: 1"])
    ToolScores(selection=0.5, input_rouge_l=0.5, answers=2)
    """
    if len(references) != len(answers) or not answers:
        raise ValueError(
            f"need as many answers as references, at least one, got {len(answers)} and "
            f"{len(references)}"
        )
    named, overlap = 0, 0.0
    for i, (reference, answer) in enumerate(zip(references, answers, strict=True)):
        right, call = first_call(reference), first_call(answer)
        if right is None:
            raise ValueError(f"references[{i}] calls no tool: {reference!r:.80}")
        named += call is not None and call.name == right.name
        overlap += input_score(reference, answer, tokenize)
    return ToolScores(named / len(answers), overlap / len(answers), len(answers))


def false_positive_rate(answers: Sequence[str]) -> float:
    r"""Return the share of the answers that call a tool, for questions that need none.

    Args:
        answers: what the model wrote.

    Raises:
        ValueError: there is no answer.

    >>> false_positive_rate(["Hello!", "Thought: hm\nAction: calculator"])
    0.5
    """
    if not answers:
        raise ValueError("answers must hold at least one")
    return sum(CALL in answer for answer in answers) / len(answers)


def _sorted_json(text: str) -> str:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, sort_keys=True)
    except (ValueError, RecursionError):
        return ""

"""A writer of samples for self-instruct: a grammar that stands in for a large model.

In the report a large Qwen makes up the samples. A model of our size cannot: it has no knowledge of
tools before it learns from these samples. So what self_instruct.py asks here is a program. It reads
the tools in the prompt, as a model would, and writes samples for them. About a third have a fault
of a kind that models make, so that the rules have something to find:

    no JSON         a bracket is missing
    a made-up tool  a name that was not offered
    a guess         an observation that is not what the tool says
    no thought      the first thought is empty
    cut off         no final answer
    chatter         a line of text after the action input
    a repetition    a question that stands in the prompt

What it shows is that prompt, rules, files, mixture and training work together. It does not show
that a model can make up its own samples.

Paper:    Qwen Technical Report, 3.4: self-instruct.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

import numpy as np

from ..agent.samples.sample import Call, Sample, sample_text
from ..agent.tool import Tool
from .agent_tasks import draw_question, kind_of, right_sample

TOLD = re.compile(r"^(\S+): .* Parameters: \{", re.MULTILINE)
ASKED = re.compile(r"^Question: (.+)$", re.MULTILINE)
FAULTS = ("no JSON", "made-up tool", "guess", "no thought", "cut off", "chatter", "repetition")
USUAL_TOOLS = ("calculator", "dictionary", "count_words", "convert_unit")


class GrammarWriter:
    """Continues a prompt of self-instruct with samples; the same prompt gives the same ones."""

    def __init__(self, tools: Mapping[str, Tool], samples: int = 6, faulty: float = 0.33) -> None:
        """Take the tools, the samples in an answer, and the share of them that has a fault."""
        self.tools, self.samples, self.faulty = tools, samples, faulty

    def __call__(self, prompt: str) -> str:
        """Write an answer."""
        rng = np.random.default_rng([zlib.crc32(prompt.encode())])
        told = [name for name in TOLD.findall(prompt) if name in self.tools]
        asked = ASKED.findall(prompt)
        texts = [self._sample(told, asked, rng) for _ in range(self.samples)]
        return "\n\n".join(texts).removeprefix("Question:")

    def _sample(self, told: list[str], asked: list[str], rng: np.random.Generator) -> str:
        usual = [name for name in told if name in USUAL_TOOLS]
        likely = usual if usual and rng.random() < 0.6 else told
        tool = "" if rng.random() < 0.2 else likely[int(rng.integers(len(likely)))]
        kind = kind_of(tool)
        sample = right_sample(kind, tool, told, self.tools, draw_question(kind, tool, rng, False))
        if rng.random() >= self.faulty:
            return sample_text(sample)
        return spoil(sample, FAULTS[int(rng.integers(len(FAULTS)))], asked)


def spoil(sample: Sample, fault: str, asked: list[str]) -> str:
    """Write a sample with a fault; one without a call is cut off, or repeats a question.

    >>> print(spoil(Sample("2 + 3?", (), (), "Easy.", "5"), "cut off", []))
    Question: 2 + 3?
    Thought: Easy.
    """
    if fault == "repetition" and asked:
        return sample_text(sample._replace(question=asked[0]))
    if not sample.calls or fault in ("cut off", "repetition"):
        return sample_text(sample).rpartition("\nFinal Answer:")[0]
    (call,) = sample.calls
    changed: dict[str, Call] = {
        "no JSON": call._replace(action_input=call.action_input.rstrip("}")),
        "made-up tool": call._replace(action=f"{call.action}_pro"),
        "guess": call._replace(observation=f"{call.observation}7"),
        "no thought": call._replace(thought=""),
        "chatter": call._replace(action_input=f"{call.action_input}\nI hope it helps."),
    }
    return sample_text(sample._replace(calls=(changed[fault],)))

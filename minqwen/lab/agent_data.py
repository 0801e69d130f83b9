"""The samples of tool use of the study of agents: what self_instruct.py made and kept.

See agent_writer.py for who wrote them. No number, thing or tool that is held out stands in them.

Paper:    Qwen Technical Report, 3.4: about 2,000 samples, mixed with other data for fine-tuning.
Differs:  questions count as new below a ROUGE-L F of 0.9, not 0.7: the same words with other
          numbers are a new question here. Of 553 answers, 0.9 kept 2,005 samples, 0.7 kept 513.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..agent.react_prompt import react_prompt
from ..agent.samples.sample import Sample
from ..agent.samples.sample_rules import Rules, agrees_with_tools
from ..agent.self_instruct import SelfInstructReport, SelfInstructSettings, self_instruct
from ..agent.tool import Tool
from .agent_tasks import draw_question, kind_of, right_sample
from .agent_tools import LOOK_UPS
from .agent_writer import USUAL_TOOLS, GrammarWriter

RULES = Rules(calls=(0, 1), question_words=(3, 150), overlap=0.9)


def draw_samples(
    n: int, tools: Mapping[str, Tool], offered: int, rng: np.random.Generator
) -> list[Sample]:
    """Draw samples of training, as people would write them for a start: all kinds in turn."""
    look_ups = [name for name in tools if name in LOOK_UPS]
    found = []
    for i in range(n):
        look_up = look_ups[int(rng.integers(len(look_ups)))]
        tool = (*USUAL_TOOLS, *["calculator"] * 4, look_up, "")[i % 10]
        others = [name for name in tools if name != tool]
        told = [others[int(j)] for j in rng.permutation(len(others))[: offered - bool(tool)]]
        told += [tool] * bool(tool)
        if tool == "calculator" and rng.random() < 1 / 3:  # alone, as `minqwen agent` tells it
            told = [tool]
        told = [told[int(j)] for j in rng.permutation(len(told))]
        kind = kind_of(tool)
        found.append(right_sample(kind, tool, told, tools, draw_question(kind, tool, rng, False)))
    return found


def prompt_of(sample: Sample, tools: Mapping[str, Tool]) -> str:
    """Return the prompt for the question of a sample, with the tools that it is offered."""
    return react_prompt(sample.question, {name: tools[name] for name in sample.tools})


def make_samples(
    folder: Path, tools: Mapping[str, Tool], wanted: int, *, seeds: int, offered: int, seed: int
) -> SelfInstructReport:
    """Let self-instruct make samples; a finished run is only read.

    Args:
        folder: of the run.
        tools: that may be learnt.
        wanted: how many samples, about.
        seeds: how many it starts from.
        offered: tools that a question is offered.
        seed: of both.
    """
    first = draw_samples(seeds, tools, offered, np.random.default_rng([31, seed]))
    settings = SelfInstructSettings(wanted=wanted, seed=seed, most_tools=offered, rules=RULES)
    check = agrees_with_tools(tools)
    return self_instruct(first, tools, GrammarWriter(tools), folder, settings, check=check)

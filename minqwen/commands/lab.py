"""Train small, see: long context, experts, copies, alignment, recipes, tools, 16 bits.

    minqwen lab long-context --out lab
    minqwen lab long-context --out lab-quick --quick
    minqwen lab moe --out lab-moe
    minqwen lab alignment --out lab-alignment
    minqwen lab code --out lab-code
    minqwen lab math --out lab-math
    minqwen lab instructions --out lab-instructions
    minqwen lab dedup --out lab-dedup
    minqwen lab agent --out lab-agent
    minqwen lab precision --out lab-precision

long-context trains a small model on short texts and reads long ones with every technique. moe
trains a dense model, experts from scratch, and experts cut from the dense model, on the same text.
alignment goes through SFT, reward models, PPO and DPO in a small world whose true reward is known;
code continues a base on code and fine-tunes it in stages; math fine-tunes on exam questions, with
the loss on answers or on everything; instructions puts tasks into pretraining; dedup trains on text
with copies, and with what deduplication leaves of it; agent fine-tunes on traces of tool use, and
asks for sums through the calculator; precision trains in float32, bfloat16 and float16, and rounds
the table of RoPE.
All write index.html, table.md, plots and results.json. The same command goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .files import add_device_argument, require_seed

EXPERIMENTS = (
    "long-context", "moe", "alignment", "code", "math", "instructions", "dedup", "agent",
    "precision",
)  # fmt: skip

ON_CPU = {
    "alignment": "its models are too small for a gpu",
    "precision": "its models are too small for a gpu",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen lab`."""
    parser.add_argument("experiment", choices=EXPERIMENTS, help="what to try")
    parser.add_argument("--out", type=Path, help="folder (lab; of others lab-NAME)")
    parser.add_argument("--quick", action="store_true", help="a toy, in half a minute")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the laboratory, with one BLAS thread unless the caller says otherwise; see the tour."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    require_seed(args.seed)
    if args.experiment in ON_CPU and args.device != "cpu":
        raise ValueError(f"lab {args.experiment} runs on the cpu: {ON_CPU[args.experiment]}")
    from ..backend import require_device  # brings NumPy, which reads the variable

    require_device(args.device)
    long = args.experiment == "long-context"
    args.out = args.out or Path("lab" if long else f"lab-{args.experiment}")

    def say(line: str) -> None:
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)

    studies = {"long-context": _long_context, "moe": _moe, "alignment": _alignment}
    numbers = studies.get(args.experiment, _recipe)(args, say)
    if args.json:
        print(json.dumps(numbers, indent=1))
    return 0


def _long_context(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    from ..lab.long_context import long_context_lab
    from ..lab.settings import QUICK, LabSettings

    settings = _changed(QUICK if args.quick else LabSettings(), args)
    results = long_context_lab(args.out, settings, say=say, device=args.device)
    perplexity = {
        name: {length: cell["perplexity"] for length, cell in row.items()}
        for name, row in results.cells.items()
    }
    return {"facts": results.facts, "perplexity": perplexity}


def _moe(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    from ..lab.moe_settings import QUICK, MoeSettings
    from ..lab.moe_study import moe_study

    settings = _changed(QUICK if args.quick else MoeSettings(), args)
    results = moe_study(args.out, settings, say=say, device=args.device)
    loss = {run: cells["end"]["nll"] for run, cells in results.cells.items()}
    return {"facts": results.facts, "loss": loss}


def _alignment(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the study of alignment; --steps is of PPO."""
    from ..lab.alignment_settings import QUICK, AlignmentSettings
    from ..lab.alignment_study import alignment_study

    settings = _changed(QUICK if args.quick else AlignmentSettings(), args)
    results = alignment_study(args.out, settings, say=say)
    return {"facts": results.facts, "cells": results.cells}


def _recipe(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Run one of the recipes; --steps is of the stage that the study is about."""
    from ..lab import (
        agent_study,
        dedup_study,
        precision_study,
        recipe_code,
        recipe_instructions,
        recipe_math,
    )
    from ..lab.recipe_study import RecipeSettings
    from ..lab.results import Results

    of_base = ("instructions", "dedup", "precision")
    steps = "base_steps" if args.experiment in of_base else "steps"
    studies: dict[str, tuple[Callable[..., Results], RecipeSettings, RecipeSettings]] = {
        "code": (recipe_code.code_study, recipe_code.CodeSettings(), recipe_code.QUICK),
        "math": (recipe_math.math_study, recipe_math.MathSettings(), recipe_math.QUICK),
        "instructions": (
            recipe_instructions.instructions_study,
            recipe_instructions.InstructionSettings(),
            recipe_instructions.QUICK,
        ),
        "dedup": (dedup_study.dedup_study, dedup_study.DedupSettings(), dedup_study.QUICK),
        "agent": (agent_study.agent_study, agent_study.AgentSettings(), agent_study.QUICK),
        "precision": (
            precision_study.precision_study,
            precision_study.PrecisionSettings(),
            precision_study.QUICK,
        ),
    }
    study, usual, quick = studies[args.experiment]
    settings = replace(quick if args.quick else usual, seed=args.seed)
    if args.steps is not None:
        changed: dict[str, Any] = {steps: args.steps}
        settings = replace(settings, **changed)
    results = study(args.out, settings, say=say, device=args.device)
    return {"facts": results.facts, "cells": results.cells}


def _changed(settings: Any, args: argparse.Namespace) -> Any:
    settings = replace(settings, seed=args.seed)
    return settings if args.steps is None else replace(settings, steps=args.steps)

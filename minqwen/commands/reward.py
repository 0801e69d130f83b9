"""Train a reward model on pairs of answers, or score pairs with one.

    minqwen reward pairs.jsonl --start-from runs/chat --out runs/reward
    minqwen reward more-pairs.jsonl --start-from runs/reward --out runs/reward-2 --epochs 1
    minqwen reward held-out.jsonl --start-from runs/reward --out runs/reward --score

A line of the file says which of two answers is better:

    {"prompt": "2 + 2?", "chosen": "Four.", "rejected": "Five."}

A language model gets a score head in the place of its output table; a reward model goes on
learning, as after preference model pretraining. The same command goes on where it was stopped.

Writes into the folder: checkpoint/, metrics.jsonl, metrics.png, and for pairs that were not trained
on calibration.png: is it right as often as it says? With --score that is all, nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..alignment.calibration import calibration, plot_calibration
from ..alignment.reward_model import pair_rewards, to_reward_model
from ..alignment.reward_training import train_reward_model
from ..alignment.settings import REPORT_REWARD, RewardSettings
from ..backend import require_device, to_device
from ..cli import program
from ..extras import require_extra
from ..model.config import QwenConfig
from ..params import Params
from ..training.progress import wants_bar
from .alignment_files import (
    Option,
    add_run_arguments,
    add_settings_arguments,
    add_validation_argument,
    choose_settings,
    hold_out,
    open_start,
)
from .files import require_folder, told_how_to_go_on
from .preference_files import (
    OPTIONS as PAIR_OPTIONS,
)
from .preference_files import (
    NumberedPair,
    add_epochs_argument,
    read_pairs,
    require_steps_or_epochs,
    settings_for,
)

SCORE_HEAD = 5  # first word of the seed
PRESETS = {"small": RewardSettings(), "report": REPORT_REWARD}
OPTIONS = (*PAIR_OPTIONS, Option("center_coef", "holds rewards around 0, 0 = off"))

FOR_SCORE = ("dtype", "batch_size", "context_length")  # what it reads too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen reward`."""
    parser.add_argument("pairs", type=Path, metavar="PAIRS.jsonl", help="the pairs of answers")
    add_run_arguments(parser)
    add_validation_argument(parser)
    add_settings_arguments(parser, PRESETS, OPTIONS)
    add_epochs_argument(parser, "; 1 in the preset report")
    parser.add_argument("--score", action="store_true", help="train nothing, score the pairs")
    parser.add_argument("--json", action="store_true", help="with --score: print rewards as JSON")


def run(args: argparse.Namespace) -> int:
    """Read pairs and model, then train or score."""
    require_device(args.device)
    require_extra("matplotlib", *["tqdm"] * wants_bar(not args.quiet))
    require_folder(args.out)
    if args.json and not args.score:
        raise ValueError("--json goes with --score")
    if args.score:
        require_only_scoring(args)
    require_steps_or_epochs(args)
    if args.preset == "report" and args.steps is None and args.epochs is None:
        args.epochs = 1
    settings = choose_settings(args, PRESETS, OPTIONS)
    start = open_start(
        args.start_from, settings.dtype, args.tokenizer, score_head=True if args.score else None
    )

    def read(path: Path) -> list[NumberedPair]:
        return read_pairs(path, start.tokenizer, args.template, settings.context_length)

    if args.score:
        scored = read(args.pairs)
        params = to_device(start.params, args.device)
        score_pairs(args, start.config, params, scored, start.pad_id, settings.batch_size)
        return 0
    pairs, held_out = hold_out(read(args.pairs), args.validation, settings.seed, read)
    settings = settings_for(args, PRESETS, OPTIONS, settings.batch_size, len(pairs))
    config, params = start.config, start.params
    if not config.num_labels:
        rng = np.random.default_rng([SCORE_HEAD, settings.seed])
        config, params = to_reward_model(params, config, rng)
    if not args.quiet:
        print(
            f"{len(pairs)} pairs; {len(held_out or [])} pairs held out; {settings.steps} steps; "
            f"{sum(w.size for w in params.values()):,} parameters",
            file=sys.stderr,
        )
    with told_how_to_go_on(args.out):
        params = train_reward_model(
            config,
            params,
            [pair for pair, _ in pairs],
            args.out,
            settings,
            validation_pairs=None if held_out is None else [pair for pair, _ in held_out],
            pad_id=start.pad_id,
            tokenizer=start.tokenizer,
            progress=not args.quiet,
            device=args.device,
        )
    print(f"trained {settings.steps} steps")
    if held_out is not None:
        score_pairs(args, config, params, held_out, start.pad_id, settings.batch_size)
    else:
        folder = shlex.quote(str(args.out))
        print(f"score other pairs: {program()} reward FILE --start-from {folder} --score ...")
    return 0


def require_only_scoring(args: argparse.Namespace) -> None:
    """Raise ValueError, naming the option, when one is of training, and so not of --score."""
    names = {option.field: option.flag for option in OPTIONS}
    names |= {"epochs": "--epochs", "validation": "--validation"}
    for field, name in names.items():
        if field not in FOR_SCORE and getattr(args, field) is not None:
            raise ValueError(f"{name} is of training, with --score nothing is trained")


def score_pairs(
    args: argparse.Namespace,
    config: QwenConfig,
    params: Params,
    pairs: Sequence[NumberedPair],
    pad_id: int,
    batch_size: int,
) -> None:
    """Print how well the pairs are ranked, and draw calibration.png."""
    chosen, rejected = pair_rewards(params, config, [p for p, _ in pairs], pad_id, batch_size)
    found = calibration(chosen - rejected)
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / "calibration.png"
    plot_calibration(found, picture, f"{len(pairs)} pairs")
    if args.json:
        rewards = [
            {"line": line, "chosen": float(c), "rejected": float(r)}
            for (_, line), c, r in zip(pairs, chosen, rejected, strict=True)
        ]
        numbers = {"accuracy": found.accuracy, "calibration_error": found.error}
        print(json.dumps({"pairs": len(pairs), **numbers, "rewards": rewards}))
        return
    print(
        f"{len(pairs)} pairs: {found.accuracy:.1%} ranked right, mean margin "
        f"{float((chosen - rejected).mean()):.3f}, calibration error {found.error:.3f}; {picture}"
    )

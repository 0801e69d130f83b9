"""Cut a trained dense model into experts, and say how far its outputs moved.

    minqwen upcycle runs/first --experts 16 --chosen 4 --width 96 --out runs/moe
    minqwen pretrain TEXTS --start-from runs/moe --out runs/further

Reads a checkpoint, or the folder of a run, and writes a new checkpoint folder: the experts, what
lay beside the weights (tokenizer), and the receipt that is printed, in config.json as "upcycling".
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, widen
from ..data.corpora import bilingual_stories, python_reference
from ..model.atomic_folder import whole
from ..model.checkpoint import BESIDE, load_checkpoint, require_replaceable, save_checkpoint
from ..model.config import QwenConfig
from ..model.dense_to_experts import GRANULARITIES, ROUTERS
from ..model.moe_fields import sparse_layers
from ..model.upcycling import upcycle
from ..tokenizer.bpe import Tokenizer
from .files import checkpoint_of, read_text, require_folder, require_seed

ROWS, TOKENS = 8, 128  # of the text on which outputs are compared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen upcycle`."""
    flag = argparse.BooleanOptionalAction
    parser.add_argument("folder", type=Path, help="checkpoint or run of a dense model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new checkpoint")
    sizes = parser.add_argument_group("sizes")
    sizes.add_argument("--experts", type=int, required=True, help="E, routed experts in a layer")
    sizes.add_argument("--chosen", type=int, required=True, help="K, that work on a token")
    sizes.add_argument("--width", type=int, required=True, help="Fe, of one of them")
    sizes.add_argument("--shared-width", type=int, default=0, help="Fs; 0 = no shared expert (0)")
    sizes.add_argument("--sparse-step", type=int, default=1, help="every so many layers (1)")
    sizes.add_argument("--dense-layers", type=int, nargs="*", default=[], help="these stay dense")
    start = parser.add_argument_group("start")
    start.add_argument("--reinitialise", type=float, default=0.5, help="share drawn anew (0.5)")
    start.add_argument("--granularity", choices=GRANULARITIES, default="neuron", help="(neuron)")
    start.add_argument("--router", choices=ROUTERS, default="grouped", help="(grouped)")
    start.add_argument("--norm-topk-prob", action=flag, default=True, help="weights sum to 1 (yes)")
    start.add_argument("--match-scale", action=flag, default=True, help="rescale w_down (yes)")
    start.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--probe-text", type=Path, metavar="FILE", help="default: built-in text")
    parser.add_argument("--json", action="store_true", help="print the receipt as JSON")


def run(args: argparse.Namespace) -> int:
    """Upcycle, save, and print the receipt."""
    require_seed(args.seed)
    require_folder(args.out)
    require_replaceable(args.out)
    source = whole(checkpoint_of(args.folder))
    require_elsewhere(args.out, source)
    config = QwenConfig.from_pretrained(source)
    if any(sparse_layers(config)):
        raise ValueError(f"{source} is a mixture of experts already")
    probe, probe_name = find_probe(source, args.probe_text, config.vocab_size)
    config, params = load_checkpoint(source, dtype=None)
    stored = next(iter(params.values())).dtype.name
    params = {name: widen(w) for name, w in params.items()}  # half precision is for the file
    params, config, receipt = upcycle(
        params,
        config,
        num_experts=args.experts,
        num_experts_per_tok=args.chosen,
        moe_intermediate_size=args.width,
        shared_expert_intermediate_size=args.shared_width,
        decoder_sparse_step=args.sparse_step,
        mlp_only_layers=args.dense_layers,
        norm_topk_prob=args.norm_topk_prob,
        reinitialised=args.reinitialise,
        granularity=args.granularity,
        router=args.router,
        match_scale=args.match_scale,
        rng=np.random.default_rng(args.seed),
        probe_ids=probe,
    )
    choices = {
        "reinitialised": args.reinitialise,
        "granularity": args.granularity,
        "router": args.router,
        "match_scale": args.match_scale,
        "seed": args.seed,
    }
    facts = {"source": str(args.folder), **choices, "probe": probe_name, **receipt.to_dict()}
    config = replace(config, extra={**config.extra, "upcycling": facts})
    save_checkpoint(args.out, config, params, tokenizer=Beside(source), dtype=stored)
    if args.json:
        print(json.dumps({"folder": str(args.out), **facts}, ensure_ascii=False))
    else:
        print(f"probe: {probe_name}")
        print(receipt.table())
        print(f"saved in {args.out}")
    return 0


def require_elsewhere(out: Path, source: Path) -> None:
    """Raise ValueError when the new checkpoint would lie in or on the old one."""
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"--out {out} is the checkpoint that is read, or in it: choose another")


def find_probe(source: Path, text: Path | None, vocab_size: int) -> tuple[Array, str]:
    """Return token ids on which outputs are compared, (B, T), and what they are.

    Raises:
        ValueError: the text is shorter than two tokens, or has ids that the model has not.
        FileNotFoundError: a text was given, but the folder has no tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_pretrained(source)
    except FileNotFoundError:
        if text is not None:
            raise
        print(
            f"note: {source} has no tokenizer, so random ids are tried; their loss means little",
            file=sys.stderr,
        )
        ids = np.random.default_rng(0).integers(0, vocab_size, (ROWS, TOKENS + 1))
        return ids, "random ids"
    if text is None:  # both kinds, a part of each document
        pairs = zip(bilingual_stories(60, seed=0), python_reference(), strict=False)
        documents = [document[:500] for pair in pairs for document in pair]
        name = "built-in stories and Python reference"
    else:
        documents, name = [read_text(text)], str(text)
    found: list[int] = []
    for document in documents:
        found += tokenizer.encode(document, disallowed_special=())
        if len(found) >= ROWS * (TOKENS + 1):
            break
    if len(found) < 2:
        raise ValueError(f"{name}: a text to try needs two tokens at least, got {len(found)}")
    length = min(TOKENS + 1, len(found))
    rows = np.array(found[: len(found) // length * length][: ROWS * length]).reshape(-1, length)
    if rows.max() >= vocab_size:
        raise ValueError(
            f"the tokenizer of {source} gives the id {rows.max()}, the model has {vocab_size}"
        )
    return rows, name


class Beside:
    """What lies beside the weights of a checkpoint, for save_checkpoint to put beside new ones."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def save_pretrained(self, folder: str | Path) -> Any:
        """Copy tokenizer files and the like into the folder."""
        for path in self.source.iterdir():
            if BESIDE.fullmatch(path.name):
                shutil.copy2(path, Path(folder) / path.name)

"""Record every intermediate of a forward pass, and its gradients, in one file.

    minqwen trace runs/first --prompt "Once upon a time" --out ours.safetensors
    minqwen trace runs/first --ids 5,17,3 --backward --out ours.npz
    minqwen trace runs/first --prompt "Once" --transformers --out theirs.safetensors

Without --out the names are listed, with the axes, shape and size of each. `minqwen diff` compares
two such files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, require_device, to_device
from ..check.tracing.trace import trace_model
from ..check.tracing.trace_file import ENDINGS, Trace
from ..model.atomic_folder import whole
from ..model.checkpoint import load_checkpoint
from ..tokenizer.bpe import Tokenizer
from .files import add_device_argument, checkpoint_of

DTYPES = ("float32", "float64", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen trace`."""
    parser.add_argument("folder", type=Path, help="a checkpoint folder, or the folder of a run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="ends in .safetensors or .npz")
    add_prompt_arguments(parser)
    parser.add_argument(
        "--transformers", action="store_true", help="run transformers in place of minqwen"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `minqwen trace` and `minqwen diff` share: the input, and how it is computed."""
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--prompt", metavar="TEXT", help="is cut into tokens; needs a tokenizer")
    given.add_argument("--ids", metavar="1,2,3", help="token ids in place of a text")
    parser.add_argument("--tokenizer", type=Path, metavar="PATH", help="if not in the folder")
    parser.add_argument("--special", action="store_true", help="read control tokens in the prompt")
    parser.add_argument(
        "--backward", action="store_true", help="also the loss of the next tokens, and gradients"
    )
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="(float32)")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Trace, and write or list what was found."""
    require_device(args.device)
    if args.transformers and args.device != "cpu":
        raise ValueError("--device is of minqwen, transformers are run on the cpu")
    ids = prompt_ids(args)
    if args.out is not None:
        if args.out.is_dir():
            raise IsADirectoryError(f"--out {args.out} is a folder; name a file in it")
        if args.out.suffix not in ENDINGS:
            raise ValueError(f"--out must end in {' or '.join(ENDINGS)}, got {args.out}")
        if not args.out.absolute().parent.is_dir():
            raise FileNotFoundError(f"no folder {args.out.parent} to write into")
    found = trace_of_transformers(args, ids) if args.transformers else trace_of_ours(args, ids)[0]
    if args.out is not None:
        found.save(args.out)
    size = sum(value.nbytes for value in found.tensors.values())
    if args.json:
        print(json.dumps(facts(found, args.out), ensure_ascii=False))
        return 0
    if args.out is None:
        print_table(found)
    count = f"{len(found)} tensors of {ids.shape[1]} tokens, {size / 1e6:.1f} MB"
    print(count if args.out is None else f"{count}, in {args.out}")
    for note in found.notes:
        print(f"note: {note}")
    return 0


def prompt_ids(args: argparse.Namespace) -> Array:
    """Return the token ids to run, (1, T).

    Raises:
        ValueError: neither --prompt nor --ids was given, or there is no token.
        FileNotFoundError: --prompt, and the folder has no tokenizer.
    """
    if args.ids is not None:
        try:
            ids = [int(word) for word in args.ids.replace(",", " ").split()]
        except ValueError:
            raise ValueError(f"--ids must be whole numbers, as 1,2,3, got {args.ids!r}") from None
    elif args.prompt is not None:
        tokenizer = Tokenizer.from_pretrained(checkpoint_of(args.tokenizer or args.folder))
        if args.special:
            ids = tokenizer.encode(args.prompt, allowed_special="all")
        else:
            ids = tokenizer.encode(args.prompt, disallowed_special=())
    else:
        raise ValueError("what to run? Give --prompt TEXT or --ids 1,2,3")
    if not ids:
        raise ValueError("the prompt is empty: give one token at least")
    return np.array([ids])


def trace_of_ours(args: argparse.Namespace, ids: Array) -> tuple[Trace, dict[str, Array]]:
    """Load the model of args.folder and trace it on args.device; return its parameters, too."""
    config, params = load_checkpoint(checkpoint_of(args.folder), dtype=args.dtype)
    there = to_device(params, args.device)
    found = trace_model(there, config, ids, backward=args.backward)
    if args.prompt is not None:
        found.more["prompt"] = args.prompt
    return found, params


def trace_of_transformers(args: argparse.Namespace, ids: Array) -> Trace:
    """Let transformers open the same folder, and trace it."""
    from ..check.tracing.hf_model import load_transformers
    from ..check.tracing.hf_recorder import record_transformers

    model = load_transformers(whole(checkpoint_of(args.folder)), args.dtype)
    found = record_transformers(model, ids, backward=args.backward)
    if args.prompt is not None:
        found.more["prompt"] = args.prompt
    return found


def print_table(found: Trace) -> None:
    """Print a line for each tensor."""
    long = max(map(len, found))
    print(f"{'name':<{long}}  {'axes':<12} {'shape':<18} {'dtype':<9} {'rms':>9} {'largest':>9}")
    for name in found:
        value = found[name]
        line = f"{name:<{long}}  {found.axes[name]:<12} {value.shape!s:<18} {value.dtype.name:<9}"
        if value.dtype.kind not in "iub" and value.size:
            wide = value.astype(np.float64)
            line += f" {np.sqrt((wide * wide).mean()):>9.3g} {np.abs(wide).max():>9.3g}"
        print(line)


def facts(found: Trace, out: Path | None) -> dict[str, Any]:
    """Return what was recorded as plain data."""
    tensors = [
        {
            "name": name,
            "axes": found.axes[name],
            "shape": list(found[name].shape),
            "dtype": found[name].dtype.name,
        }
        for name in found
    ]
    return {
        "file": None if out is None else str(out),
        "input_ids": found["input_ids"].tolist(),
        "tensors": tensors,
        "notes": found.notes,
        "versions": found.versions,
    }

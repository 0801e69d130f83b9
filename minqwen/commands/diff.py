"""Find the first tensor at which two traces, or a model and transformers, part.

    minqwen diff FOLDER --against transformers --prompt "Once upon a time"
    minqwen diff FOLDER theirs.safetensors --map names.json
    minqwen diff ours.safetensors theirs.safetensors --weights FOLDER

Tensors are compared in the order of the computation. One that differs is computed again by our own
step from *their* inputs: so the first step that is itself different is found, and, if a known
mistake or two of them explain it, named. With a FOLDER, or --weights, that works for all steps; of
two files alone for those without weights: RoPE, attention, the activation, sums, the choice of
experts.

Their file needs names and nothing else: it may hold all intermediates or a few, made by any
program. names.json is an object {"our name": "their name"}; `minqwen trace FOLDER --ids 1,2` lists
ours. Axes may be in another order, heads cut or joined.

Where both have NaN or infinity at the same places, that is no difference, and the report says from
which tensor on agreement means nothing.

Exit codes: 0 no difference, 1 they part, 2 wrong use, or an input that cannot be read.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, require_device
from ..check.tracing.diff_facts import as_dict
from ..check.tracing.diff_text import text
from ..check.tracing.tensor_diff import compare_traces
from ..check.tracing.torch_module import require_torch
from ..check.tracing.trace_file import Trace
from ..model.atomic_folder import whole
from ..model.checkpoint import load_checkpoint
from ..model.config import QwenConfig
from .files import checkpoint_of
from .trace import add_prompt_arguments, prompt_ids, trace_of_ours, trace_of_transformers

PASSED_OVER = ("use_dynamic_ntk", "use_logn_attn", "layer_windows", "dual_chunk_attention_config")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen diff`."""
    parser.add_argument("ours", type=Path, help="a checkpoint folder, or a file of minqwen trace")
    parser.add_argument("theirs", type=Path, nargs="?", help="a file: .safetensors or .npz")
    parser.add_argument("--against", choices=("transformers",), help="in place of a file")
    parser.add_argument("--map", type=Path, metavar="JSON", help="{our name: their name}")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="of the model, for files")
    parser.add_argument(
        "--rtol", type=float, help="allowed error over the scale (a few units of rounding)"
    )
    add_prompt_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Compare, report, and say by the exit code whether the two agree."""
    require_device(args.device)
    if (args.theirs is None) == (args.against is None):
        raise ValueError("compare with what? Give their file, or --against transformers")
    if args.rtol is not None and not 0 < args.rtol < math.inf:
        raise ValueError(f"--rtol must be a number above 0, got {args.rtol}")
    names = None if args.map is None else read_map(args.map)
    ours, theirs, params = traces(args, names or {})
    diff = compare_traces(ours, theirs, params=params, names=names, rtol=args.rtol)
    if args.json:
        print(json.dumps(as_dict(diff), ensure_ascii=False))
    else:
        print(text(diff))
    return 0 if diff.ok else 1


def traces(
    args: argparse.Namespace, names: dict[str, str]
) -> tuple[Trace, Trace, dict[str, Array] | None]:
    """Return both traces, and the weights if they are known."""
    if args.against is None:
        theirs = Trace.load(args.theirs)
        if not args.ours.is_dir():
            if args.device != "cpu":
                raise ValueError("--device is of a model: of two files nothing is computed anew")
            params = None
            if args.weights is not None:
                params = load_checkpoint(checkpoint_of(args.weights), dtype=None)[1]
            return Trace.load(args.ours), theirs, params
        args.folder = args.ours
        given = names.get("input_ids", "input_ids")
        if args.prompt is None and args.ids is None and given in theirs:
            ids = np.atleast_2d(theirs[given])
        else:
            ids = prompt_ids(args)
        args.backward = args.backward or any(name.startswith("grad.") for name in theirs)
        ours, params = trace_of_ours(args, ids)
        return ours, theirs, params
    if not args.ours.is_dir():
        raise FileNotFoundError(
            f"--against transformers needs a checkpoint folder, not {args.ours}"
        )
    args.folder = args.ours
    ids = prompt_ids(args)
    require_torch()  # before any work
    ours, params = trace_of_ours(args, ids)  # first: what it says of a damaged folder is plain
    theirs = trace_of_transformers(args, ids)
    config = QwenConfig.from_pretrained(whole(checkpoint_of(args.folder)))
    for name in PASSED_OVER:
        if getattr(config, name):
            theirs.note(f"transformers passes over {name} of the config")
    return ours, theirs, params


def read_map(path: Path) -> dict[str, str]:
    """Read the names of --map.

    Raises:
        ValueError: it is not a JSON object from text to text, or has a name twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, number in Counter(name for name, _ in pairs).items():
            if number > 1:
                raise KeyError(name)
        return dict(pairs)

    try:
        names = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except KeyError as error:
        raise ValueError(f"{path} has {error.args[0]!r} twice: which one?") from None
    except ValueError:
        raise ValueError(f"{path} is not JSON") from None
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise ValueError(f'{path} must be a JSON object {{"our name": "their name"}}')
    return names

"""How time and memory grow with the length, the batch, the layers and the vocabulary.

    python -m benchmarks.growth [--json FILE] [--quick]

Forward, loss and backward of a small model, one size at a time made larger. Beside what is measured
stands what model/accounting.py counts: its FLOPs at the rate of a large product of matrices in the
same run, and its bytes. Time lies above its line by what is not a product (norms, softmax,
rotations, the loss) and by products that are too small for the full rate. The pictures go to
docs/pictures/growth_*.svg.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.model.accounting import cost
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.model.language_model import language_model_backward, language_model_forward
from minqwen.tour_page import new_figure

from .harness import machine_limits, peak_memory, sample
from .run import MARKER, describe, restart, save

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
BASE = {"T": 128, "B": 2, "layers": 2, "vocabulary": 2048, "D": 128, "H": 4, "Hkv": 2, "F": 352}
AXES: dict[str, tuple[str, list[int]]] = {  # size: what it is, and its values
    "T": ("T, tokens in a row", [128, 256, 512, 1024, 2048]),
    "B": ("B, rows", [1, 2, 4, 8, 16]),
    "layers": ("layers", [1, 2, 4, 8, 16]),
    "vocabulary": ("V, tokens in the vocabulary", [1024, 4096, 16384, 65536]),
}
ROUNDS = 3


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there")
    parser.add_argument("--quick", action="store_true", help="the two smallest of each size")
    args = parser.parse_args(argv)
    if MARKER not in os.environ:
        return restart("benchmarks.growth", 1, sys.argv[1:] if argv is None else argv)
    results = measure(quick=args.quick)
    draw(results, PICTURES)
    if args.json:
        save(results, args.json)
    return 0


def measure(quick: bool = False) -> dict[str, Any]:
    """Return time, memory and what is counted for each size; plain data."""
    machine, limits = describe(1), machine_limits(1)
    axes, start = {}, time.perf_counter()
    for letter, (label, sizes) in AXES.items():
        points = []
        for size in sizes[:2] if quick else sizes:
            points.append({"size": size, **point({**BASE, letter: size}, limits["sgemm"])})
            print(letter, points[-1], flush=True)
        axes[letter] = {"label": label, "points": points}
    return {
        "machine": machine,
        "limits": limits,
        "base": BASE,
        "rounds": ROUNDS,
        "axes": axes,
        "minutes": (time.perf_counter() - start) / 60,
    }


def point(sizes: dict[str, int], sgemm: float) -> dict[str, float]:
    """Measure one model, and count it."""
    config = QwenConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["D"],
        intermediate_size=sizes["F"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["H"],
        num_key_value_heads=sizes["Hkv"],
    )
    params = init_params(config, np.random.default_rng(0))
    B, T = sizes["B"], sizes["T"]
    ids, labels = np.random.default_rng(1).integers(0, config.vocab_size, (2, B, T))

    def step() -> Any:
        logits, cache = language_model_forward(params, config, ids, training=True)
        _loss, loss_cache = cross_entropy_forward(logits, labels)
        return tuple(
            language_model_backward(cross_entropy_backward(1.0, loss_cache), cache).values()
        )

    step()
    seconds = min(sample(step, 1, threads=1)[0] for _ in range(ROUNDS))
    counted = cost(config, B, T)
    logits = 2 * B * T * config.vocab_size  # and their gradient
    return {
        "seconds": seconds,
        "seconds_counted": counted.training_flops / sgemm,
        "bytes": peak_memory(step)["peak"],
        "bytes_counted": 4 * (counted.activations + counted.parameters + logits),
    }


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw a picture for each size: time on the left, memory on the right."""
    import matplotlib
    from matplotlib.ticker import LogLocator

    folder.mkdir(parents=True, exist_ok=True)
    for letter, axis in results["axes"].items():
        drawing, (left, right) = new_figure(9, 3.6, 2)
        points = axis["points"]
        sizes = [p["size"] for p in points]
        for axes, key, unit, what in (
            (left, "seconds", 1e-3, "forward and backward, ms"),
            (right, "bytes", 2**20, "peak memory, MiB"),
        ):
            counted = "counted: FLOPs at the sgemm rate" if key == "seconds" else "counted"
            axes.plot(
                sizes, [p[f"{key}_counted"] / unit for p in points], "--",
                color="#888888", label=counted,
            )  # fmt: skip
            axes.plot(
                sizes, [p[key] / unit for p in points], "-", marker="o", ms=5,
                color="#1f5fa8", label="measured",
            )  # fmt: skip
            axes.set(xscale="log", yscale="log", xlabel=f"{axis['label']} (log)")
            axes.set_ylabel(f"{what} (log)")
            axes.set_xticks(sizes, [f"{n:,}" for n in sizes], fontsize=8)
            axes.minorticks_off()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        with matplotlib.rc_context({"svg.hashsalt": f"growth_{letter}"}):  # no new file each time
            drawing.savefig(folder / f"growth_{letter}.svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())

"""Precision: what do 16 bits cost, what do masters and a loss scale save, why is RoPE in float32?

    float32             everything
    bfloat16            mixed precision: 16 bits to compute, masters of 32 to remember
    bfloat16 weights    no masters: AdamW rounds the weights to bfloat16 in each step
    float16, scaled     masters, and a dynamic scale of the loss
    float32, skipping   float32, without the updates that the arm above had to skip
    float16             masters, no scale
    float16, of 4M      the same, but the gradient is small as it is in a batch of 4M tokens

In a mean over 4M tokens a token counts 1 / 4M, and with it all that goes backwards. Cut into small
pieces, each starts from its share of the batch (training/accumulate.py). The last arm starts from
the share that our small batch has in one of 4M tokens, 2^-14, and divides it out again in float32,
so without rounding it would do what the others do. In bfloat16 it does, bit for bit. In float16 a
logit's gradient is p * 2^-22 for each of 256 tokens, (p - 1) * 2^-22 at the label, and the smallest
number is 2^-24: what pulls the label up is left, what pushes the others down is zero below p = 1/8.

All arms of a seed start from the same weights and read the same rows in the same order. Measured
are the held-out loss, the share of weights that an update left as they were, and, for the gradient
of the model that float32 trained, how much of it float16 loses at which scale. The models that look
far back are in precision_rope.py.

Paper:    Qwen Technical Report, 2.4 Training: BFloat16 mixed precision "for training stability";
          2.3.1: float32 for RoPE's inverse frequencies, "to prioritize model performance".
Origin:   Micikevicius et al. 2018, arXiv:1710.03740.
Differs:  the report gives no numbers. float16 is not in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from ..data.corpora import bilingual_stories
from ..data.packing import batch_rows
from ..extras import require_extra
from ..model.init import init_params
from ..params import Params
from ..training.accumulate import as_batch, evaluate
from ..training.adamw import adamw_init
from ..training.grad_clip import clip_grad_norm
from ..training.loss_scaling import LossScale, all_finite, next_loss_scale
from ..training.mixed_precision import half_params, mixed_loss_and_grads
from ..training.settings import require_in
from ..training.update import apply_adamw, scheduled_lr
from .precision_report import write_report
from .precision_rope import DISTANCES, FAR, ROUNDED, look_back, text_at
from .recipe_study import RecipeSettings, Text, make_tokenizer, packed, run_study
from .results import Results

KIND = "minqwen lab precision"
CELL = ("seconds",)
OWN = ("lab/precision_study.py", "lab/precision_rope.py")
FULL_BATCH = 4 * 2**20  # tokens, the report's 4M
SCALES = tuple(range(-22, 31, 4))  # powers of two, at which gradients are counted
INFINITE = 100.0  # stands in results.json, as JSON cannot hold it, for a loss that is not finite


class Arm(NamedTuple):
    precision: str
    masters: bool = True
    scale: str = "one"  # or "dynamic", or "share": of our batch in FULL_BATCH


ARMS = {
    "float32": Arm("float32"),
    "bfloat16": Arm("bfloat16"),
    "bfloat16_weights": Arm("bfloat16", masters=False),
    "float16_scaled": Arm("float16", scale="dynamic"),
    "float32_skipping": Arm("float32"),
    "float16": Arm("float16"),
    "float16_share": Arm("float16", scale="share"),
}


@dataclass(frozen=True)
class PrecisionSettings(RecipeSettings):
    """The settings of the study.

    >>> PrecisionSettings().share
    6.103515625e-05
    """

    base_steps: int = 300
    base_batch_size: int = 4
    base_context: int = 64
    base_lr: float = 3e-3
    stories: int = 1200
    held_out_rows: int = 48
    looks: int = 10  # at the held-out loss, while training
    growth_interval: int = 40  # steps; PyTorch's 2000 would be longer than the run
    far_steps: int = 200  # of the models that look far back
    far_tokens: int = 24  # that they bring back

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        super().__post_init__()
        require_in(self, "looks", self.looks <= self.base_steps, f"at most {self.base_steps}")

    @property
    def share(self) -> float:
        """Share of a batch in one of 4M tokens."""
        return self.base_batch_size * self.base_context / FULL_BATCH


QUICK = PrecisionSettings(
    hidden_size=32,
    vocab_size=420,
    seeds=1,
    base_steps=20,
    base_context=32,
    stories=60,
    held_out_rows=8,
    looks=2,
    growth_interval=5,
    far_steps=20,
    far_tokens=8,
)  # shows what the page looks like; its numbers mean nothing


class Data(NamedTuple):
    text: Text
    rows: Array
    held_out: Array


def prepare(settings: PrecisionSettings) -> Data:
    """Lay out tokenizer and rows, which do not depend on the seeds."""
    s, stories = settings, bilingual_stories(settings.stories, seed=0)
    text = make_tokenizer(stories[:300], s)
    rows = packed(text, stories, s.base_context, 0)
    return Data(text, rows[s.held_out_rows :], rows[: s.held_out_rows])


def train(
    arm: Arm, s: PrecisionSettings, data: Data, seed: int, skip: Sequence[int] = ()
) -> tuple[Params, dict[str, Any]]:
    """Train an arm, without the updates of the steps in `skip`.

    Returns:
        params: masters, or the weights of 16 bits where there are none.
        cell: curve [step, held-out loss], scales [step, log2 of the scale], unmoved [step, share of
            weights that this update left as they were], skipped: how many updates, skipped_at:
            their steps, seconds.
    """
    start, settings, config = time.perf_counter(), s.base(seed), data.text.config
    params = init_params(config, np.random.default_rng([8, seed]))
    params = params if arm.masters else half_params(params, arm.precision)
    first_scale = {"one": 1.0, "share": s.share, "dynamic": LossScale().scale}[arm.scale]
    state, scale = adamw_init(params), LossScale(first_scale)
    curve, scales, unmoved, skipped = [], [], [], []
    looks = {s.base_steps * (i + 1) // s.looks for i in range(s.looks)}
    for step in range(s.base_steps):
        batch = as_batch(data.rows[batch_rows(len(data.rows), s.base_batch_size, step, seed)])
        _, grads = mixed_loss_and_grads(params, config, batch, arm.precision, scale.scale)
        finite, look = all_finite(grads), step + 1 in looks
        scales.append([step + 1, math.log2(scale.scale)])
        if arm.scale == "dynamic":
            scale = next_loss_scale(scale, finite, interval=s.growth_interval)
        before = {key: w.copy() for key, w in params.items()} if look else {}
        if finite and step + 1 not in skip:
            grads, _ = clip_grad_norm(grads, settings.max_norm, in_place=True)
            apply_adamw(params, grads, state, settings, scheduled_lr(step, settings))
        else:
            skipped.append(step + 1)
        if look:
            same = sum(int((before[key] == w).sum()) for key, w in params.items())
            unmoved.append([step + 1, same / sum(w.size for w in params.values())])
            curve.append([step + 1, held_out_loss(params, arm.precision, data)])
    return params, {
        "curve": curve,
        "loss": curve[-1][1],
        "scales": scales if arm.scale == "dynamic" else [],
        "unmoved": unmoved,
        "skipped": len(skipped),
        "skipped_at": skipped,
        "seconds": time.perf_counter() - start,
    }


def held_out_loss(params: Params, precision: str, data: Data) -> float:
    """Return the loss on the held-out rows, in the precision of the arm."""
    with np.errstate(over="ignore", invalid="ignore"):
        loss = evaluate(half_params(params, precision), data.text.config, data.held_out, 16).loss
    return loss if math.isfinite(loss) else INFINITE


def lost_gradients(params: Params, s: PrecisionSettings, data: Data, seed: int) -> dict[str, Any]:
    """Count which part of a gradient float16 turns into zero, or into infinity, at which scale.

    Returns:
        lost: [log2 of the scale, share of zeros where float32 has none, share not finite].
        bfloat16: share of zeros at the smallest of these scales.
    """
    start, config = time.perf_counter(), data.text.config
    batch = as_batch(data.rows[batch_rows(len(data.rows), s.base_batch_size, 0, seed)])
    _, exact = mixed_loss_and_grads(params, config, batch, "float32")
    size = sum(int((g != 0).sum()) for g in exact.values())

    def count(precision: str, scale: float) -> list[float]:
        _, grads = mixed_loss_and_grads(params, config, batch, precision, scale)
        zeros = sum(int(((g == 0) & (exact[key] != 0)).sum()) for key, g in grads.items())
        bad = sum(int((~np.isfinite(g) & (exact[key] != 0)).sum()) for key, g in grads.items())
        return [zeros / size, bad / size]

    return {
        "lost": [[k, *count("float16", 2.0**k)] for k in SCALES],
        "bfloat16": count("bfloat16", 2.0 ** SCALES[0])[0],
        "seconds": time.perf_counter() - start,
    }


def precision_study(
    out: Path,
    settings: PrecisionSettings | None = None,
    *,
    say: Callable[[str], None] = print,
    device: str = "cpu",
) -> Results:
    """Run the study, or what is missing of it.

    Args:
        out: folder of the study; made if missing.
        settings: None takes PrecisionSettings().
        say: is told one line after another.
        device: "cpu".

    Returns:
        The results: a cell for each arm and for each distance, by seed.

    Raises: see run_study; ImportError without ml_dtypes; ValueError for another device.
    """
    require_extra("ml_dtypes", extra="hf")
    if device != "cpu":
        raise ValueError("lab precision runs on the cpu: its models are too small for a gpu")
    s = settings or PrecisionSettings()
    data = cache(partial(prepare, s))  # once, and only if something is missing

    def measure(results: Results, seed: int) -> None:
        measure_seed(results, s, data, seed, say)

    return run_study(out, KIND, CELL, s, OWN, measure, write_report, say)


def measure_seed(
    results: Results,
    s: PrecisionSettings,
    data: Callable[[], Data],
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Train and measure what is missing of a seed; what float32 trained is measured with it."""
    for name, arm in ARMS.items():
        if results.get(name, seed) is not None:
            continue
        scaled = results.get("float16_scaled", seed) if name == "float32_skipping" else None
        params, cell = train(arm, s, data(), seed, scaled["skipped_at"] if scaled else ())
        if name == "float32":
            cell["gradients"] = lost_gradients(params, s, data(), seed)
            rows = data().held_out
            cell["text"] = {
                what: [text_at(params, data().text.config, rows, p, what) for p in (0, FAR)]
                for what in ROUNDED
            }
        results.put(name, seed, cell)
        say(f"seed {seed}, {name}: held-out loss {cell['loss']:.3f}, {cell['skipped']} skipped, "
            f"{cell['seconds']:.0f} s")  # fmt: skip
    for distance in DISTANCES:
        name = f"back_{distance}"
        if results.get(name, seed) is None:
            cell = look_back(distance, s.far_steps, s.far_tokens, seed)
            results.put(name, seed, cell)
            found = ", ".join(f"{what} {100 * x:.0f} %" for what, x in cell["right"].items())
            say(f"seed {seed}, {distance} tokens back: right {found}")

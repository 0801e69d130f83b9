"""The learning rate: a straight warm-up, then half a cosine down to a tenth of the peak.

    s < W:       lr = peak * (s + 1) / (W + 1)                     W = warmup_steps
    W <= s < T:  lr = peak * c + min * (1 - c)                     T = total_steps
                 c = (1 + cos(pi * (s - W) / (T - W))) / 2         falls from 1 to 0
    s >= T:      lr = min

s counts updates from 0. AdamW's running means know nothing in the first steps; the warm-up keeps
those steps small.

Paper:    Qwen Technical Report, 2.4 Training: cosine to 10 % of the peak. The report gives no
          warm-up; the authors' memo says 2000 steps.
Origin:   Loshchilov and Hutter 2017, arXiv:1608.03983 (the cosine).
Differs:  The usual PyTorch and Hugging Face warm-up is peak * s / W. Its first update has rate 0:
          a whole batch is computed and thrown away. Here the first update already moves, and the
          peak is still reached at s = W.
"""

from __future__ import annotations

import math


def cosine_lr(
    step: int,
    *,
    peak_lr: float,
    min_lr: float | None = None,
    warmup_steps: int,
    total_steps: int,
) -> float:
    """Return the learning rate of one update.

    Args:
        step: index of the update, 0 for the first.
        peak_lr: the highest rate, that of update `warmup_steps`.
        min_lr: the rate from update `total_steps` on, exactly; None is 10 % of the peak.
        warmup_steps: updates before the peak; 0 starts at the peak.
        total_steps: updates of the whole run.

    Returns:
        A Python float, which leaves float32 arrays float32 when they are multiplied by it.

    Raises:
        ValueError: a number is out of range; the message says which.

    >>> [cosine_lr(s, peak_lr=1.0, warmup_steps=1, total_steps=3) for s in range(5)]
    [0.5, 1.0, 0.55, 0.1, 0.1]
    """
    if min_lr is None:
        min_lr = 0.1 * peak_lr
    if step < 0:
        raise ValueError(f"step must be 0 or more, got {step}")
    if not 0 <= min_lr <= peak_lr < math.inf:
        raise ValueError(f"need 0 <= min_lr <= peak_lr, got {min_lr=} and {peak_lr=}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"need 0 <= warmup_steps <= total_steps, got {warmup_steps=}, {total_steps=}"
        )

    if step < warmup_steps:
        return float(peak_lr * (step + 1) / (warmup_steps + 1))
    if step >= total_steps:
        return float(min_lr)
    cosine = (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2
    return float(peak_lr * cosine + min_lr * (1 - cosine))  # so written, both ends are exact

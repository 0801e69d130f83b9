"""What a pretraining run depends on beside the model and the data: its numbers, checked.

Paper:    Qwen Technical Report, 2.4 Training: AdamW with betas 0.9 and 0.95 and eps 1e-8, cosine
          to 10 % of the peak rate (3e-4 for the 7B model), context 2048, batches of 4M tokens.
Differs:  float32 throughout instead of bfloat16. Batch, steps and warm-up have toy defaults.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class PretrainSettings:
    """The settings of one run; impossible ones are refused when it is made.

    >>> PretrainSettings(steps=10, warmup_steps=20)
    Traceback (most recent call last):
    ...
    ValueError: warmup_steps must be at most steps=10, got 20
    """

    steps: int = 1000  # updates
    batch_size: int = 8  # rows in an update, B
    accumulate: int = 1  # micro-batches into which a batch is cut
    context_length: int = 2048  # tokens in a row of inputs, T
    peak_lr: float = 3e-4
    min_lr_ratio: float = 0.1  # last learning rate over the peak
    warmup_steps: int = 100
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_norm: float = 1.0  # of the gradient, see grad_clip; math.inf = no clipping
    z_loss_coef: float = 0.0  # of a mixture of experts: on the size of the routers' logits
    router_loss_pooled: bool = False  # balance the experts of all layers together: router_loss.py
    seed: int = 0  # of fresh parameters, of the order of the rows and of dropout
    dtype: str = "float32"
    checkpoint_every: int = 100  # steps
    eval_every: int = 100  # steps between looks at the validation rows; 0 = only at the end
    validation_share: float = 0.0  # of the rows, held out when no validation rows are given

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the field."""
        for name, least in (
            ("steps", 1),
            ("batch_size", 1),
            ("accumulate", 1),
            ("context_length", 1),
            ("warmup_steps", 0),
            ("seed", 0),
            ("checkpoint_every", 1),
            ("eval_every", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and type(value) is not int and not isinstance(value, float):
                raise ValueError(f"{field.name} must be an int or a float, got {value!r}")
        if not isinstance(self.router_loss_pooled, bool):
            raise ValueError(
                f"router_loss_pooled must be true or false, got {self.router_loss_pooled!r}"
            )
        for name, inside, range_ in (
            ("peak_lr", 0 < self.peak_lr < math.inf, "positive"),
            ("min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "in [0, 1]"),
            ("beta1", 0 <= self.beta1 < 1, "in [0, 1)"),
            ("beta2", 0 <= self.beta2 < 1, "in [0, 1)"),
            ("eps", 0 <= self.eps < math.inf, "0 or more"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("max_norm", self.max_norm > 0, "positive"),
            ("z_loss_coef", 0 <= self.z_loss_coef < math.inf, "0 or more"),
            ("dtype", self.dtype in ("float32", "float64"), "float32 or float64"),
            ("validation_share", 0 <= self.validation_share < 1, "in [0, 1)"),
            ("warmup_steps", self.warmup_steps <= self.steps, f"at most steps={self.steps}"),
            (
                "accumulate",
                self.accumulate <= self.batch_size,
                f"at most batch_size={self.batch_size}",
            ),
        ):
            if not inside:
                raise ValueError(f"{name} must be {range_}, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, which knows no infinity: no clipping is written as None.

        >>> PretrainSettings(max_norm=math.inf).to_dict()["max_norm"] is None
        True
        """
        return asdict(self) | {"max_norm": None if self.max_norm == math.inf else self.max_norm}

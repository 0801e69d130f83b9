"""What a pretraining run depends on beside the model and the data: its numbers, checked.

Paper:    Qwen Technical Report, 2.4 Training: AdamW with betas 0.9 and 0.95 and eps 1e-8, cosine
          to 10 % of the peak rate (3e-4 for the 7B model), context 2048, batches of 4M tokens.
Differs:  float32 throughout by default; the report's bfloat16 is precision="bfloat16", see
          mixed_precision.py. Batch, steps and warm-up have toy defaults.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from .mixed_precision import PRECISIONS


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
    separator_id: int | None = None  # documents of a row do not see each other; None: they do
    seed: int = 0  # of fresh parameters, of the order of the rows and of dropout
    dtype: str = "float32"  # of the parameters and of AdamW's means
    precision: str = "float32"  # of forward and backward: mixed_precision.py; float32 = as dtype
    loss_scale_interval: int = 2000  # with float16: finite steps after which the scale doubles
    checkpoint_every: int = 100  # steps
    eval_every: int = 100  # steps between looks at the validation rows; 0 = only at the end
    validation_share: float = 0.0  # of the rows, held out when no validation rows are given

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the field."""
        require_whole(
            self,
            steps=1,
            batch_size=1,
            accumulate=1,
            context_length=1,
            warmup_steps=0,
            seed=0,
            checkpoint_every=1,
            eval_every=0,
            loss_scale_interval=1,
        )
        require_kinds(self)
        require_optimizer(self)
        require_in(self, "z_loss_coef", 0 <= self.z_loss_coef < math.inf, "0 or more")
        require_in(self, "validation_share", 0 <= self.validation_share < 1, "in [0, 1)")
        fits = self.accumulate <= self.batch_size
        require_in(self, "accumulate", fits, f"at most batch_size={self.batch_size}")
        if self.separator_id is not None:
            require_whole(self, separator_id=0)
        require_in(self, "precision", self.precision in PRECISIONS, f"one of {list(PRECISIONS)}")
        fits = self.precision == "float32" or self.dtype == "float32"
        require_in(self, "precision", fits, f"float32 where dtype is {self.dtype}")

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, which knows no infinity: no clipping is written as None.

        >>> PretrainSettings(max_norm=math.inf).to_dict()["max_norm"] is None
        True
        """
        return asdict(self) | {"max_norm": None if self.max_norm == math.inf else self.max_norm}


def require_whole(settings: Any, **least: int) -> None:
    """Raise ValueError unless these fields are whole numbers of at least so much."""
    for name, smallest in least.items():
        value = getattr(settings, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            raise ValueError(f"{name} must be a whole number, at least {smallest}, got {value!r}")


def require_kinds(settings: Any) -> None:
    """Raise ValueError unless fields declared float are numbers, and those declared bool truths."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.type == "float" and type(value) is not int and not isinstance(value, float):
            raise ValueError(f"{field.name} must be an int or a float, got {value!r}")
        if field.type == "bool" and not isinstance(value, bool):
            raise ValueError(f"{field.name} must be true or false, got {value!r}")


def require_in(settings: Any, name: str, inside: bool, range_: str) -> None:
    """Raise ValueError, naming the field and its range, unless `inside`."""
    if not inside:
        raise ValueError(f"{name} must be {range_}, got {getattr(settings, name)!r}")


def require_optimizer(settings: Any) -> None:
    """Raise ValueError unless the fields of the optimizer and of its schedule make sense."""
    s = settings
    for name, inside, range_ in (
        ("peak_lr", 0 < s.peak_lr < math.inf, "positive"),
        ("min_lr_ratio", 0 <= s.min_lr_ratio <= 1, "in [0, 1]"),
        ("beta1", 0 <= s.beta1 < 1, "in [0, 1)"),
        ("beta2", 0 <= s.beta2 < 1, "in [0, 1)"),
        ("eps", 0 <= s.eps < math.inf, "0 or more"),
        ("weight_decay", 0 <= s.weight_decay < math.inf, "0 or more"),
        ("max_norm", s.max_norm > 0, "positive"),
        ("dtype", s.dtype in ("float32", "float64"), "float32 or float64"),
        ("warmup_steps", s.warmup_steps <= s.steps, f"at most steps={s.steps}"),
    ):
        require_in(s, name, inside, range_)

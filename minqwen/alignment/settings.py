"""What the stages of alignment depend on beside model and data: their numbers, checked.

    SftSettings      supervised fine-tuning      Qwen Technical Report 3.1.2
    RewardSettings   reward model                3.2.1
    PpoSettings      PPO                         3.2.2
    DpoSettings      DPO                         Qwen2 Technical Report, 4.3 (it gives no number)

The defaults are for a small model. What the reports give is in REPORT_SFT, REPORT_REWARD and
REPORT_PPO; what they leave open has a value of ours there, and the comment beside the field says
so.

Paper:    Qwen Technical Report, 3.1.2 Training, 3.2.1 Reward Model, 3.2.2 Reinforcement Learning;
          Qwen2 Technical Report, Post-training.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..training.settings import require_in, require_kinds, require_optimizer, require_whole


def _require_stage(settings: Any) -> None:
    """Raise ValueError unless the fields that SFT, reward model and DPO share make sense."""
    s = settings
    require_whole(
        s,
        **{"steps": 1, "batch_size": 1, "accumulate": 1, "context_length": 2},
        **{"warmup_steps": 0, "seed": 0, "checkpoint_every": 1, "eval_every": 0},
    )
    require_kinds(s)
    require_optimizer(s)
    fits = s.accumulate <= s.batch_size
    require_in(s, "accumulate", fits, f"at most batch_size={s.batch_size}")


def to_json(settings: Any) -> dict[str, Any]:
    """Return the fields of settings as JSON can hold them: no clipping is written as None."""
    return asdict(settings) | {
        "max_norm": None if settings.max_norm == math.inf else settings.max_norm
    }


@dataclass(frozen=True)
class SftSettings:
    """Supervised fine-tuning; impossible values are refused when it is made.

    >>> SftSettings(steps=10, warmup_steps=20)
    Traceback (most recent call last):
    ...
    ValueError: warmup_steps must be at most steps=10, got 20
    """

    steps: int = 300  # updates
    batch_size: int = 8  # chats in an update, or rows of chats when packed
    accumulate: int = 1  # pieces into which a batch is cut
    context_length: int = 256  # tokens; a longer chat is cut at its end
    packed: bool = False  # several chats a row, each read as if alone; False: padded
    train_on: str = "answers"  # which tokens count in the loss: tokenizer/chatml.py
    peak_lr: float = 1e-3
    min_lr_ratio: float = 1.0  # after the warm-up; the report does not say: constant
    warmup_steps: int = 20
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_norm: float = 1.0
    dropout: float = 0.1
    seed: int = 0
    dtype: str = "float32"
    checkpoint_every: int = 100
    eval_every: int = 100

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the field."""
        _require_stage(self)
        require_in(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return to_json(self)


@dataclass(frozen=True)
class RewardSettings:
    """A reward model, or the preference model that is trained before it on more and coarser pairs.

    >>> RewardSettings(center_coef=-1.0)
    Traceback (most recent call last):
    ...
    ValueError: center_coef must be 0 or more, got -1.0
    """

    steps: int = 300  # updates; steps_of_epochs() gives those of an epoch
    batch_size: int = 16  # pairs in an update
    accumulate: int = 1  # pieces into which a batch is cut
    context_length: int = 256  # tokens; pairs longer than that are left out and counted
    peak_lr: float = 3e-4
    min_lr_ratio: float = 1.0  # constant
    warmup_steps: int = 0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # not stated for this stage: that of 3.1.2
    max_norm: float = 1.0  # the same
    center_coef: float = 0.0  # times the mean of (chosen + rejected)**2, ours: keeps rewards near 0
    seed: int = 0
    dtype: str = "float32"
    checkpoint_every: int = 100
    eval_every: int = 100

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the field."""
        _require_stage(self)
        require_in(self, "center_coef", 0 <= self.center_coef < math.inf, "0 or more")

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return to_json(self)


@dataclass(frozen=True)
class DpoSettings:
    """Direct preference optimisation. Qwen2's numbers are not published: all values are ours.

    >>> DpoSettings(beta=0)
    Traceback (most recent call last):
    ...
    ValueError: beta must be positive, got 0
    """

    steps: int = 200  # updates
    batch_size: int = 16  # pairs in an update
    accumulate: int = 1
    context_length: int = 256
    beta: float = 0.1  # that of Rafailov et al. and of TRL
    reduction: str = "sum"  # of an answer's log-probabilities; "mean" is not DPO's
    peak_lr: float = 1e-4
    min_lr_ratio: float = 0.1
    warmup_steps: int = 10
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_norm: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    checkpoint_every: int = 100
    eval_every: int = 100

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the field."""
        _require_stage(self)
        require_in(self, "beta", 0 < self.beta < math.inf, "positive")
        require_in(self, "reduction", self.reduction in ("sum", "mean"), "sum or mean")

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return to_json(self)


@dataclass(frozen=True)
class PpoSettings:
    """PPO. A step is one rollout of batch_size queries and the updates on its answers.

    >>> PpoSettings(batch_size=8, responses_per_query=2, minibatches=3)
    Traceback (most recent call last):
    ...
    ValueError: minibatches must be a divisor of batch_size * responses_per_query=16, got 3
    """

    steps: int = 200  # rollouts; of the first value_warmup_steps only the value model learns
    batch_size: int = 16  # queries in a rollout
    responses_per_query: int = 2  # report
    max_new_tokens: int = 32  # of an answer
    temperature: float = 1.0  # of sampling, and of all log-probabilities
    top_p: float = 0.9  # report; of sampling only: log-probabilities are those of the full softmax
    epochs: int = 1  # passes over a rollout; not stated
    minibatches: int = 1  # updates in a pass; not stated
    policy_lr: float = 1e-6  # report
    value_lr: float = 5e-6  # report
    value_warmup_steps: int = 50  # report
    cliprange: float = 0.2  # of the policy; not stated: that of Schulman et al.
    cliprange_value: float = 0.15  # report
    kl_coef: float = 0.04  # report
    kl_estimator: str = "k1"  # see kl_penalty.py
    gamma: float = 1.0  # not stated
    lam: float = 0.95  # not stated
    whiten_advantages: bool = True  # not stated
    scale_rewards: bool = False  # divide by the running deviation too; the report: a running mean
    missing_end: str = "subtract"  # what happens to the score of an answer without its end token
    missing_end_penalty: float = 1.0  # subtracted, or the score in its place is minus this
    entropy_coef: float = 0.0  # the report names none
    ptx_coef: float = 0.0  # times the pretraining loss; the report gives no value
    ptx_batch_size: int = 8  # rows of pretraining text in an update; "much more" than PPO's
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0  # not stated
    max_norm: float = 1.0  # not stated
    seed: int = 0
    dtype: str = "float32"
    checkpoint_every: int = 50
    eval_every: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the field."""
        require_whole(
            self,
            **{"steps": 1, "batch_size": 1, "responses_per_query": 1, "max_new_tokens": 1},
            **{"epochs": 1, "minibatches": 1, "value_warmup_steps": 0, "ptx_batch_size": 1},
            **{"seed": 0, "checkpoint_every": 1, "eval_every": 0},
        )
        require_kinds(self)
        for name in ("policy_lr", "value_lr", "temperature", "cliprange", "cliprange_value"):
            require_in(self, name, 0 < getattr(self, name) < math.inf, "positive")
        for name in ("beta1", "beta2"):
            require_in(self, name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("gamma", "lam"):
            require_in(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("kl_coef", "entropy_coef", "ptx_coef", "eps", "weight_decay"):
            require_in(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        penalty = self.missing_end_penalty
        require_in(self, "missing_end_penalty", 0 <= penalty < math.inf, "0 or more")
        require_in(self, "top_p", 0 < self.top_p <= 1, "in (0, 1]")
        require_in(self, "max_norm", self.max_norm > 0, "positive")
        require_in(self, "dtype", self.dtype in ("float32", "float64"), "float32 or float64")
        for name, known in (
            ("kl_estimator", ("k1", "k2", "k3")),
            ("missing_end", ("subtract", "replace")),
        ):
            require_in(self, name, getattr(self, name) in known, " or ".join(known))
        answers = self.batch_size * self.responses_per_query
        divides = answers % self.minibatches == 0
        what = f"a divisor of batch_size * responses_per_query={answers}"
        require_in(self, "minibatches", divides, what)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return to_json(self)


REPORT_SFT = SftSettings(
    steps=4000,
    batch_size=128,
    context_length=2048,
    peak_lr=2e-6,
    warmup_steps=1430,
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    max_norm=1.0,
    dropout=0.1,
)
REPORT_REWARD = RewardSettings(batch_size=64, context_length=2048, peak_lr=3e-6)  # 1 epoch
REPORT_PPO = PpoSettings()  # every number of the report is the default


def steps_of_epochs(epochs: int, examples: int, batch_size: int) -> int:
    """Return how many updates show every example `epochs` times; the last one may be smaller.

    >>> steps_of_epochs(1, 130, 64)
    3
    """
    if min(epochs, examples, batch_size) < 1:
        raise ValueError(
            f"epochs, examples and batch_size must be 1 or more, got {epochs}, {examples}, "
            f"{batch_size}"
        )
    return -(-epochs * examples // batch_size)

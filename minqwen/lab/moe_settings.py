"""What the study of experts depends on: the models, their training, and which runs there are.

Dense and sparse models have the same activated parameters: on every token works one network of
width F, or K experts of width Fe and the shared one of width Fs,

    F = K * Fe + Fs

and attention, norms and embeddings are alike. Only the router, E * D numbers a layer, and the gate
of the shared expert, D, come on top. F is narrow on purpose, 1.5 D instead of 8/3 D and more: with
little text, experts can help only where the network is what is missing.

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model: 64 experts, 8 chosen.
Differs:  there the activated parameters of the sparse model are twice those of the dense one that
          it is made from; here they are equal, so that a lower loss is not bought with more work.
          The weights of the chosen experts are made to sum to 1, as in Qwen3; Qwen2 does not. It
          made no difference from scratch, but a cut dense model needs w_down E / K times longer
          without it, and learns worse: the run upcycled_raw.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ..model.config import QwenConfig
from ..training.settings import PretrainSettings

LOOKS = 20  # at the validation rows during a run


class Run(NamedTuple):
    name: str  # folder, and in results.json
    label: str  # in the tables
    sparse: bool
    upcycled: bool = False  # from the dense model at upcycle_step
    balance: bool = True  # with the balance loss
    reinitialised: float = 0.5  # share of every expert that is drawn anew, if upcycled
    renormalised: bool = True  # the weights of the chosen experts are made to sum to 1
    again: bool = False  # other first numbers


RUNS = (
    Run("dense", "dense", sparse=False),
    Run("dense_again", "dense, other first numbers", sparse=False, again=True),
    Run("moe", "from scratch", sparse=True),
    Run("moe_no_balance", "from scratch, no balance loss", sparse=True, balance=False),
    Run("upcycled", "upcycled", sparse=True, upcycled=True),
    Run("upcycled_copies", "upcycled, nothing drawn anew", True, True, reinitialised=0.0),
    Run("upcycled_raw", "upcycled, not renormalised", True, True, renormalised=False),
)
BY_NAME = {run.name: run for run in RUNS}


@dataclass(frozen=True)
class MoeSettings:
    """The settings of one study; impossible ones are refused when it is made.

    >>> MoeSettings().intermediate_size  # 2 * 32 + 32
    96
    >>> MoeSettings(steps=3)
    Traceback (most recent call last):
    ...
    ValueError: steps must be a whole number, at least 4, got 3
    """

    hidden_size: int = 64  # D
    num_hidden_layers: int = 4  # L
    num_attention_heads: int = 2  # H
    num_key_value_heads: int = 1  # Hkv
    num_experts: int = 32  # E
    num_experts_per_tok: int = 2  # K
    moe_intermediate_size: int = 32  # Fe
    shared_expert_intermediate_size: int = 32  # Fs
    router_aux_loss_coef: float = 0.01
    vocab_size: int = 1024  # V
    context_length: int = 64  # tokens in a row
    rows_of_a_source: int = 3000  # to train on, at most
    validation_rows_of_a_source: int = 48
    steps: int = 1200
    batch_size: int = 16
    warmup_steps: int = 60  # at most; a shorter run warms up as long as a tenth of it lasts
    peak_lr: float = 6e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what could not be measured; QwenConfig and PretrainSettings check the rest."""
        for name, least in (
            ("steps", 4),
            ("rows_of_a_source", 1),
            ("validation_rows_of_a_source", 2),
            ("shared_expert_intermediate_size", 1),
            ("num_experts", 2),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")
        self.training()
        self.config(300, sparse=True)

    @property
    def intermediate_size(self) -> int:
        """F of the dense model: as wide as all experts that work on a token."""
        return (
            self.num_experts_per_tok * self.moe_intermediate_size
            + self.shared_expert_intermediate_size
        )

    @property
    def eval_every(self) -> int:
        """Steps between looks at the validation rows."""
        return max(1, self.steps // LOOKS)

    @property
    def upcycle_step(self) -> int:
        """After how many steps the dense model is cut into experts: a quarter, at a look."""
        return self.eval_every * max(1, self.steps // self.eval_every // 4)

    def config(
        self, vocab_size: int, *, sparse: bool, balance: bool = True, renormalised: bool = True
    ) -> QwenConfig:
        """Return the dense or the sparse model.

        Args:
            vocab_size: of the tokenizer, which may have found fewer merges than asked for.
            sparse: experts instead of one network.
            balance: with the balance loss, if sparse.
            renormalised: weights of the chosen experts sum to 1, if sparse.
        """
        experts: dict[str, Any] = {}
        if sparse:
            experts = {
                "model_type": "qwen2_moe",
                "num_experts": self.num_experts,
                "num_experts_per_tok": self.num_experts_per_tok,
                "moe_intermediate_size": self.moe_intermediate_size,
                "shared_expert_intermediate_size": self.shared_expert_intermediate_size,
                "norm_topk_prob": renormalised,
                "router_aux_loss_coef": self.router_aux_loss_coef if balance else 0.0,
            }
        return QwenConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            max_position_embeddings=self.context_length,
            tie_word_embeddings=True,
            **experts,
        )

    def training(self) -> PretrainSettings:
        """Return the settings of every run: the same rows in the same order, at the same rates."""
        return PretrainSettings(
            steps=self.steps,
            batch_size=self.batch_size,
            context_length=self.context_length,
            peak_lr=self.peak_lr,
            warmup_steps=min(self.warmup_steps, self.steps // 10),
            seed=self.seed,
            checkpoint_every=max(self.steps // 4, 1),
            eval_every=self.eval_every,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return asdict(self)


QUICK = replace(
    MoeSettings(),
    hidden_size=32,
    num_hidden_layers=2,
    num_experts=8,
    moe_intermediate_size=32,
    shared_expert_intermediate_size=32,
    vocab_size=400,
    rows_of_a_source=600,
    validation_rows_of_a_source=16,
    steps=100,
    peak_lr=1e-2,
)  # shows what the page looks like; its numbers mean little

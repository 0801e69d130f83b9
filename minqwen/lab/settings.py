"""What the long-context laboratory depends on: the model, its training, and what is measured.

The trained length is short on purpose: 16 times as much is still quick to read, and a few minutes
of training are enough to see what the report saw at 2048 tokens.

Paper:    Qwen Technical Report, 2.3.2 Context Length Extension, and 3, Table 3: a model trained at
          2048, measured at 1024 to 16384.
Differs:  we measure at 1, 2, 4, 8 and 16 times the trained length. The base of RoPE is as much
          smaller than Qwen's 10,000 as our texts are shorter than its 2048 tokens, so that the
          slowest pair turns by 0.2 to 0.3 rad within the trained length in both models. With
          10,000, only 5 of our 16 pairs would turn once within it (here: 7 of 16, Qwen: 41 of
          64), and NTK, which slows a pair the more the slower it is, could do less.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ..model.config import QwenConfig
from ..training.settings import PretrainSettings

MULTIPLES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class LabSettings:
    """The settings of one laboratory; impossible ones are refused when it is made.

    >>> LabSettings().lengths
    (64, 128, 256, 512, 1024)
    >>> LabSettings(train_length=6)
    Traceback (most recent call last):
    ...
    ValueError: train_length must be a multiple of 8, at least 16, got 6
    """

    train_length: int = 64  # L0, tokens in a row of training
    hidden_size: int = 64  # D
    num_hidden_layers: int = 4  # L
    num_attention_heads: int = 2  # H
    num_key_value_heads: int = 1  # Hkv
    intermediate_size: int = 192  # F
    rope_theta: float = 312.5  # 10,000 * 64 / 2048: the slowest pair turns as far as in Qwen
    vocab_size: int = 512  # V
    text_bytes: int = 100_000_000  # of the standard library's sources, at most
    steps: int = 4000
    batch_size: int = 16
    warmup_steps: int = 200  # at most; a shorter run warms up as long as it lasts
    peak_lr: float = 4e-3
    texts: int = 48  # that are measured, each of 16 L0 tokens and of another file
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what could not be measured; QwenConfig and PretrainSettings check the rest."""
        L0 = self.train_length
        if not isinstance(L0, int) or L0 < 16 or L0 % 8:
            raise ValueError(f"train_length must be a multiple of 8, at least 16, got {L0!r}")
        if not isinstance(self.texts, int) or self.texts < 2:
            raise ValueError(
                f"texts must be at least 2, for an error of the mean, got {self.texts!r}"
            )
        if self.num_hidden_layers < 2:
            raise ValueError("num_hidden_layers must be at least 2, to have a lower and an upper")
        self.training()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in the texts that are measured."""
        return tuple(multiple * self.train_length for multiple in MULTIPLES)

    def config(self, vocab_size: int) -> QwenConfig:
        """Return the model; max_position_embeddings is the trained length that NTK and LogN read.

        Args:
            vocab_size: of the tokenizer, which may have found fewer merges than asked for.
        """
        return QwenConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            max_position_embeddings=self.train_length,
            rope_theta=self.rope_theta,
            tie_word_embeddings=True,
        )

    def training(self) -> PretrainSettings:
        """Return the settings of the training run."""
        return PretrainSettings(
            steps=self.steps,
            batch_size=self.batch_size,
            context_length=self.train_length,
            peak_lr=self.peak_lr,
            warmup_steps=min(self.warmup_steps, self.steps),
            seed=self.seed,
            checkpoint_every=max(self.steps // 8, 1),
            eval_every=max(self.steps // 8, 1),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return asdict(self)


QUICK = replace(
    LabSettings(),
    train_length=32,
    hidden_size=48,
    num_hidden_layers=2,
    intermediate_size=128,
    rope_theta=156.25,
    vocab_size=300,
    text_bytes=4_000_000,
    steps=800,
    warmup_steps=30,
    peak_lr=1e-2,
    texts=16,
)  # half a minute: the plain model fails as it should, but small differences mean little

"""The rows of the laboratory's table: each is a config made from the plain one and a length.

A technique never changes a parameter: the same trained model reads the text, by another rule.

    "+" rows pile up, as in Table 3 of the report: NTK; NTK and LogN; NTK, LogN and windows.

Paper:    Qwen Technical Report, 2.3.2 and Table 3; Qwen2 Technical Report, 3.2 (YaRN, DCA).
Differs:  YaRN's factor is T / L0 for a text of T tokens, as NTK's alpha is dynamic too; the
          factor in Qwen2's model cards is one for all lengths. Sizes of windows and chunks are our
          choice, as the reports give none: see `ladder` and `chunks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from ..long_context.window import ladder_windows
from ..long_context.yarn import yarn_attention_factor
from ..model.config import QwenConfig


class Technique(NamedTuple):
    name: str  # in results.json
    label: str  # in the table
    group: str  # "report" = Table 3, "more" = others, "windows" and "layers" = experiments
    config: Callable[[QwenConfig, int], QwenConfig]  # of the plain config and the length T


def ladder(config: QwenConfig) -> list[int | None]:
    """Return windows from L0 upwards, twice as long every quarter of the layers.

    >>> from ..model.presets import own_size
    >>> config = own_size("small", vocab_size=300)
    >>> config.max_position_embeddings = 64
    >>> ladder(config)
    [64, 128, 256, 512]
    """
    L = config.num_hidden_layers
    return list(ladder_windows(L, config.max_position_embeddings, max(1, L // 4)))


def half_windows(config: QwenConfig, lower: bool, upper: bool) -> list[int | None]:
    """Return the window L0 for the lower and/or the upper half of the layers, none elsewhere.

    >>> from ..model.presets import own_size
    >>> config = own_size("small", vocab_size=300)
    >>> config.max_position_embeddings = 64
    >>> half_windows(config, lower=True, upper=False)
    [64, 64, None, None]
    """
    L = config.num_hidden_layers
    L0 = config.max_position_embeddings
    return [L0 if (lower if i < L // 2 else upper) else None for i in range(L)]


def chunks(config: QwenConfig) -> dict[str, int]:
    """Return DCA's sizes: the trained range, and a quarter of it for the neighbouring chunk.

    Keys are counted modulo 3/4 of the trained length, the share that the DCA paper took.
    """
    return {
        "chunk_size": config.max_position_embeddings,
        "local_size": config.max_position_embeddings // 4,
    }


def yarn(config: QwenConfig, length: int) -> dict[str, Any]:
    """Return rope_scaling for a text of `length` tokens."""
    trained = config.max_position_embeddings
    return {
        "rope_type": "yarn",
        "factor": max(1.0, length / trained),
        "original_max_position_embeddings": trained,
    }


def temperature(config: QwenConfig, length: int) -> dict[str, Any]:
    """Return rope_scaling with the temperature of YaRN, but the frequencies of training.

    Qwen2 names YaRN for rescaling the attention weights, and vLLM's DCA does only that.
    """
    trained = config.max_position_embeddings
    return yarn(config, trained) | {"attention_factor": yarn_attention_factor(length / trained)}


def interpolation(config: QwenConfig, length: int) -> dict[str, Any]:
    """Return rope_scaling that squeezes the positions into the trained range."""
    factor = max(1.0, length / config.max_position_embeddings)
    return {"rope_type": "linear", "factor": factor}


NTK: dict[str, Any] = {"use_dynamic_ntk": True}
BOTH: dict[str, Any] = {"use_dynamic_ntk": True, "use_logn_attn": True}

TECHNIQUES = (
    Technique("plain", "plain", "report", lambda c, T: c),
    Technique("ntk", "+ dynamic NTK", "report", lambda c, T: replace(c, **NTK)),
    Technique("ntk_logn", "+ LogN", "report", lambda c, T: replace(c, **BOTH)),
    Technique(
        "ntk_logn_window",
        "+ window",
        "report",
        lambda c, T: replace(c, **BOTH, layer_windows=ladder(c)),
    ),
    Technique(
        "interpolation",
        "position interpolation",
        "more",
        lambda c, T: replace(c, rope_scaling=interpolation(c, T)),
    ),
    Technique("logn", "LogN alone", "more", lambda c, T: replace(c, use_logn_attn=True)),
    Technique(
        "window",
        "windows alone",
        "more",
        lambda c, T: replace(c, layer_windows=ladder(c)),
    ),
    Technique("yarn", "YaRN", "more", lambda c, T: replace(c, rope_scaling=yarn(c, T))),
    Technique("dca", "DCA", "more", lambda c, T: replace(c, dual_chunk_attention_config=chunks(c))),
    Technique(
        "dca_temperature",
        "DCA + YaRN's temperature",
        "more",
        lambda c, T: replace(
            c, dual_chunk_attention_config=chunks(c), rope_scaling=temperature(c, T)
        ),
    ),
    Technique(
        "dca_yarn",
        "DCA + YaRN",
        "more",
        lambda c, T: replace(c, dual_chunk_attention_config=chunks(c), rope_scaling=yarn(c, T)),
    ),
    Technique(
        "window_reversed",
        "windows alone, short ones high",
        "windows",
        lambda c, T: replace(c, layer_windows=ladder(c)[::-1]),
    ),
    Technique(
        "ntk_logn_window_reversed",
        "NTK + LogN, short windows high",
        "windows",
        lambda c, T: replace(c, **BOTH, layer_windows=ladder(c)[::-1]),
    ),
    Technique(
        "lower_half",
        "lower half of the layers sees L0",
        "windows",
        lambda c, T: replace(c, layer_windows=half_windows(c, True, False)),
    ),
    Technique(
        "upper_half",
        "upper half of the layers sees L0",
        "windows",
        lambda c, T: replace(c, layer_windows=half_windows(c, False, True)),
    ),
    Technique(
        "all_layers",
        "every layer sees L0",
        "windows",
        lambda c, T: replace(c, layer_windows=half_windows(c, True, True)),
    ),
)


def one_free_layer(config: QwenConfig, free: int) -> list[int | None]:
    """Return the window L0 for every layer but one."""
    L, L0 = config.num_hidden_layers, config.max_position_embeddings
    return [None if i == free else L0 for i in range(L)]


def techniques(num_hidden_layers: int) -> tuple[Technique, ...]:
    """Return all rows: those above, and one for each layer that alone reads beyond L0.

    >>> [t.label for t in techniques(2)[-2:]]
    ['only layer 0 sees more than L0', 'only layer 1 sees more than L0']
    """
    return (*TECHNIQUES, *map(_only, range(num_hidden_layers)))


def _only(i: int) -> Technique:
    def change(config: QwenConfig, length: int) -> QwenConfig:
        return replace(config, layer_windows=one_free_layer(config, i))

    return Technique(f"layer_{i}", f"only layer {i} sees more than L0", "layers", change)


BY_NAME = {technique.name: technique for technique in TECHNIQUES}

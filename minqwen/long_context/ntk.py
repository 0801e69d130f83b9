"""NTK-aware interpolation: RoPE reaches further with a larger base, and the positions stay.

A model trained on L0 tokens has never seen the angles that lie beyond L0. The fast pairs of RoPE
turned around many times within L0: they know every angle, and they tell neighbours apart. The slow
pairs did not finish one turn: beyond L0 they meet angles that are new to them.

Dividing all positions by alpha (position interpolation) brings every angle back, but it also
divides the fast pairs, so that neighbours look closer together than they ever did in training. A
larger base divides the slow pairs only:

    base' = base * alpha ** (Dh / (Dh - 2))
    inv_freq'_i = base' ** (-2i / Dh) = inv_freq_i * alpha ** (-2i / (Dh - 2))

The first pair (i = 0) keeps its frequency, the last (i = Dh/2 - 1) is divided by exactly alpha:
this is where the exponent Dh / (Dh - 2) comes from.

Dynamic NTK takes alpha from the length T, the number of keys. Qwen's rule is a staircase,

    alpha(T) = max(1, 2 ** ceil(log2(T / L0) + 1) - 1)        1 up to L0, 3 up to 2 L0, then 7, 15

and that of transformers ("dynamic") is a line, alpha = factor * T / L0 - (factor - 1). With factor
2 the line touches the staircase at T = 2 L0, 4 L0, 8 L0, and lies below it in between.

The gradient is that of rope.py with the new tables; alpha and the base are not trained. The
technique is for inference: training runs with alpha = 1.

With a KV cache. Keys are stored after their rotation, so a new alpha comes too late for them. And
turning them again would mend the first layer only: keys of the layers above come from outputs that
the old alpha has gone into. What a run without a cache gives is had by passing the whole text once
more when alpha changes; on the staircase that is once each time the text doubles. The released
Qwen keeps the alpha of the prompt instead: after one of at most L0 tokens it stays 1 for ever.
transformers turns new tokens by a new base beside keys turned by the old one. model/kv_cache.py
has both, the consistent way and the released one.

Paper:    Qwen Technical Report, 2.3.2 Context Length Extension, "NTK-aware interpolation" and
          "dynamic NTK-aware interpolation".
Origin:   bloc97 and emozilla, 2023, posts in r/LocalLLaMA; written up by Peng et al. 2023,
          arXiv:2309.00071. Position interpolation: Chen et al. 2023, arXiv:2306.15595.
Differs:  the report gives no formula; alpha(T) is that of the released code, here in whole numbers
          where the code rounds a logarithm.
"""

from __future__ import annotations

from ..backend import Array
from ..layers.rope import rope_inv_freq


def ntk_base(base: float, alpha: float, head_dim: int) -> float:
    """Return the base that divides the slowest frequency by alpha and leaves the fastest.

    Args:
        base: `rope_theta` of the config.
        alpha: at least 1; 1 changes nothing.
        head_dim: Dh, above 2 unless alpha is 1: the only pair of Dh = 2 is the first, which no base
            can change.

    Raises:
        ValueError: alpha is below 1, or head_dim has no pair to slow down.

    >>> ntk_base(100.0, 3.0, 4)  # Dh / (Dh - 2) = 2
    900.0
    """
    if not alpha >= 1:
        raise ValueError(f"alpha must be at least 1, got {alpha}")
    if alpha == 1:
        return float(base)
    if not head_dim > 2:
        raise ValueError(f"head_dim must be above 2, to have a pair to slow down, got {head_dim}")
    return float(base * alpha ** (head_dim / (head_dim - 2)))


def ntk_inv_freq(
    head_dim: int, base: float = 10000.0, alpha: float = 1.0, dtype: str = "float32"
) -> Array:
    """Return the Dh/2 frequencies of RoPE with the base made larger, on the host.

    Args:
        head_dim: Dh, even, and above 2 unless alpha is 1.
        base: `rope_theta` of the config.
        alpha: at least 1, from dynamic_ntk_alpha or continuous_ntk_alpha.
        dtype: "float32" or "float64".

    Raises:
        ValueError: as ntk_base and rope_inv_freq.

    >>> ntk_inv_freq(4, base=100.0, alpha=4.0, dtype="float64").tolist()  # alpha = 1 gives 1, 0.1
    [1.0, 0.025]
    """
    return rope_inv_freq(head_dim, ntk_base(base, alpha, head_dim), dtype)


def interpolated_inv_freq(
    head_dim: int, base: float, factor: float, dtype: str = "float32"
) -> Array:
    """Return the frequencies of position interpolation: all divided by factor, on the host.

    Position / factor * frequency = position * (frequency / factor). This is what NTK improves on,
    and what transformers calls "linear".

    Args:
        head_dim: Dh, even.
        base: `rope_theta` of the config.
        factor: above 0; 4 squeezes four times the trained length into it.
        dtype: "float32" or "float64".

    Raises:
        ValueError: factor is not above 0, or as rope_inv_freq.

    >>> interpolated_inv_freq(4, base=100.0, factor=4.0, dtype="float64").tolist()
    [0.25, 0.025]
    """
    if not factor > 0:
        raise ValueError(f"factor must be above 0, got {factor}")
    rope_inv_freq(head_dim, base, dtype)  # its checks
    inv_freq: Array = (rope_inv_freq(head_dim, base, "float64") / factor).astype(dtype)
    return inv_freq


def dynamic_ntk_alpha(length: int, train_length: int) -> float:
    """Return Qwen's alpha for a length: 2 * (length / train_length, up to a power of two) - 1.

    Args:
        length: T, all keys, cached ones too; a whole number.
        train_length: L0, at least 1.

    Raises:
        ValueError: length is below 0 or train_length below 1.

    >>> [dynamic_ntk_alpha(length, 2048) for length in (1, 2048, 2049, 4096, 4097, 8192)]
    [1.0, 1.0, 3.0, 3.0, 7.0, 7.0]
    """
    _check_lengths(length, train_length)
    doubled = 1  # no logarithm: math.log(2**29, 2) is a little above 29, and ceil makes it 30
    while doubled * train_length < length:
        doubled *= 2
    return float(2 * doubled - 1)


def continuous_ntk_alpha(length: int, train_length: int, factor: float) -> float:
    """Return transformers' alpha for a length: 1 up to train_length, then a line of slope factor.

    Args:
        length: T, all keys, cached ones too.
        train_length: L0, at least 1; transformers takes `max_position_embeddings`.
        factor: above 0; "factor" of rope_scaling. 1 gives alpha = T / L0.

    Raises:
        ValueError: length is below 0, train_length below 1, or factor not above 0.

    >>> [continuous_ntk_alpha(length, 2048, 2.0) for length in (1, 2048, 3072, 4096, 8192)]
    [1.0, 1.0, 2.0, 3.0, 7.0]
    """
    _check_lengths(length, train_length)
    if not factor > 0:
        raise ValueError(f"factor must be above 0, got {factor}")
    return float(factor * max(length, train_length) / train_length - (factor - 1))


def _check_lengths(length: int, train_length: int) -> None:
    """Raise unless both are lengths."""
    if not length >= 0:
        raise ValueError(f"length must be at least 0, got {length}")
    if not train_length >= 1:
        raise ValueError(f"train_length must be at least 1, got {train_length}")

"""YaRN: slow pairs of RoPE are interpolated, fast ones are left, and attention is sharpened.

Which pair needs what depends on how often it turned around within the trained length L. The pair
that makes n turns has the index (a real number)

    dim(n) = Dh * ln(L / (2 pi n)) / (2 ln base)        from L * base ** (-2 i / Dh) = 2 pi n

Pairs with more than beta_fast = 32 turns know every angle, and they carry the order of neighbours:
they stay. Pairs with less than beta_slow = 1 turn would meet new angles: they are divided by s, the
factor of the extension. In between, a straight ramp blends:

    low = floor(dim(beta_fast)), high = ceil(dim(beta_slow)), kept within 0 .. Dh - 1
    ramp_i = clip((i - low) / (high - low), 0, 1)
    inv_freq'_i = inv_freq_i * (1 - ramp_i) + inv_freq_i / s * ramp_i

Attention over more keys is flatter, its entropy grows. YaRN makes up for that with a temperature,

    m = 0.1 ln(s) + 1

which multiplies cos and sin, so that queries and keys both come out m times longer and their
product, the score, grows by m squared: 1.2965 for s = 4.

The gradient. y = m R x with a rotation R, so dx = m R^T dy: the rotation backwards, times m. With
the tables cos' = m cos and sin' = m sin this is what rope_backward computes anyway,
dy * cos' - rotate_half(dy) * sin', so YaRN needs no backward pass of its own. Nothing is trained.

YaRN is static: s is set once, for all lengths, and keys may be stored turned. The price is that
short texts change too: dynamic NTK leaves them as they were.

Paper:    Qwen2 Technical Report, "Long-context Training": YaRN "to rescale the attention weights
          for better length extrapolation". The model cards: factor 4, original 32,768.
Origin:   Peng et al. 2023, arXiv:2309.00071.
Differs:  this is what transformers does for "yarn". The authors of Qwen2 serve it in vLLM with the
          temperature alone, next to dual chunk attention. Where low > high (a trained length below
          one turn of the fastest pair, or many turns of the slowest) transformers' ramp runs
          backwards; here it is an error.
"""

from __future__ import annotations

import math

import numpy as np

from ..backend import Array
from ..layers.rope import rope_inv_freq, rope_tables


def yarn_range(
    head_dim: int,
    base: float,
    original_max_position_embeddings: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> tuple[float, float]:
    """Return low and high: the pairs below low stay, those above high are interpolated.

    Args:
        head_dim: Dh, even.
        base: `rope_theta` of the config, above 1.
        original_max_position_embeddings: L, the trained length, at least 1.
        beta_fast: turns within L from which a pair stays.
        beta_slow: turns within L below which a pair is divided by the whole factor.
        truncate: round low down and high up, as the authors do.

    Raises:
        ValueError: a number is out of its range, beta_fast is not above beta_slow, or no pair lies
            between low and high.

    >>> yarn_range(128, 1e6, 32768)  # Qwen2-7B: 24 of its 64 pairs stay
    (23, 40)
    """
    if not base > 1:
        raise ValueError(f"base must be above 1, got {base}")
    if not original_max_position_embeddings >= 1:
        raise ValueError(
            "original_max_position_embeddings must be at least 1, "
            f"got {original_max_position_embeddings}"
        )
    if not beta_fast > beta_slow > 0:
        raise ValueError(
            f"beta_fast must be above beta_slow, and both above 0, got {beta_fast} and {beta_slow}"
        )

    def dim(turns: float) -> float:
        length = original_max_position_embeddings / (2 * math.pi * turns)
        return head_dim * math.log(length) / (2 * math.log(base))

    low, high = dim(beta_fast), dim(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low > high:
        raise ValueError(
            f"no pair of Dh={head_dim} lies between {beta_slow} and {beta_fast} turns within "
            f"original_max_position_embeddings={original_max_position_embeddings} at base {base}"
        )
    return low, high


def yarn_ramp(head_dim: int, low: float, high: float) -> Array:
    """Return (Dh/2,) float64, how much of each pair is interpolated: 0 stays, 1 is divided by s.

    >>> yarn_ramp(8, 0, 2)
    array([0. , 0.5, 1. , 1. ])
    """
    high = high + 0.001 if low == high else high  # a step, and no division by 0
    ramp: Array = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0.0, 1.0)
    return ramp


def yarn_inv_freq(
    head_dim: int,
    base: float,
    factor: float,
    original_max_position_embeddings: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    dtype: str = "float32",
) -> Array:
    """Return the Dh/2 frequencies, fast ones as they were and slow ones divided, on the host.

    Args:
        factor: s, above 0: how many times longer than trained a text may be.
        dtype: "float32" or "float64".
        The others: as yarn_range.

    Raises:
        ValueError: factor is not above 0, or as yarn_range and rope_inv_freq.

    >>> inv_freq = yarn_inv_freq(8, 10000.0, factor=4.0, original_max_position_embeddings=64)
    >>> inv_freq.round(6).tolist() == np.float32([1, 0.0625, 0.0025, 0.00025]).tolist()
    True
    """
    if not factor > 0:
        raise ValueError(f"factor must be above 0, got {factor}")
    rope_inv_freq(head_dim, base, dtype)  # its checks
    low, high = yarn_range(
        head_dim, base, original_max_position_embeddings, beta_fast, beta_slow, truncate
    )

    plain, ramp = rope_inv_freq(head_dim, base, "float64"), yarn_ramp(head_dim, low, high)
    inv_freq: Array = (plain * (1 - ramp) + plain / factor * ramp).astype(dtype)
    return inv_freq


def yarn_attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """Return m, by which cos and sin are multiplied: 0.1 ln(factor) + 1, and 1 for factor <= 1.

    Args:
        factor: s, above 0.
        mscale, mscale_all_dim: of rope_scaling, in DeepSeek's models. With both given and not 0,
            m = (0.1 mscale ln(s) + 1) / (0.1 mscale_all_dim ln(s) + 1).

    Raises:
        ValueError: factor is not above 0.

    >>> round(yarn_attention_factor(4.0), 7), yarn_attention_factor(1.0)
    (1.1386294, 1.0)
    """
    if not factor > 0:
        raise ValueError(f"factor must be above 0, got {factor}")
    log = math.log(max(factor, 1.0))
    if mscale and mscale_all_dim:
        return (0.1 * mscale * log + 1.0) / (0.1 * mscale_all_dim * log + 1.0)
    return 0.1 * log + 1.0


def yarn_tables(positions: Array, inv_freq: Array, attention_factor: float) -> tuple[Array, Array]:
    """Return cos and sin for rope_forward, both multiplied by the attention factor.

    Both, so that a turned vector is m times longer whatever its angle; queries and keys read the
    same tables, so a score takes the factor twice.

    Args:
        positions: (T,) or (B, T) int.
        inv_freq: (Dh/2,) or (B, 1, Dh/2) float32 or float64, on the device of positions.
        attention_factor: m, from yarn_attention_factor, or the config's own.

    Returns:
        cos, sin: (T, Dh) or (B, T, Dh) in the dtype of inv_freq.

    Raises:
        ValueError: attention_factor is not above 0.
        TypeError: as rope_tables.

    >>> cos, sin = yarn_tables(np.array([0]), rope_inv_freq(2), 1.5)
    >>> cos.tolist(), sin.tolist()
    ([[1.5, 1.5]], [[0.0, 0.0]])
    """
    if not attention_factor > 0:
        raise ValueError(f"attention_factor must be above 0, got {attention_factor}")
    cos, sin = rope_tables(positions, inv_freq)
    factor = float(attention_factor)  # a NumPy float64 would widen float32 tables
    return cos * factor, sin * factor

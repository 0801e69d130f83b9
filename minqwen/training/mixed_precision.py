"""Mixed precision: compute with numbers of 16 bits, remember in 32.

    half   = round(master)                  every parameter, anew in each step
    loss   = forward(half)                  products and sums in float32, each output rounded
    grads  = backward(loss_scale) / loss_scale      the same way; the division in float32
    master = adamw(master, grads)           all in float32

Two formats of 16 bits, and what they cut from float32 (1 sign, 8 exponent, 23 fraction bits):

               exponent  fraction  largest  smallest normal  smallest  after 1 comes
    bfloat16       8         7     3.4e38      1.2e-38       9.2e-41     1 + 2^-7
    float16        5        10      65504      6.1e-5        6.0e-8      1 + 2^-10

bfloat16 is the upper half of a float32: the same range, coarse steps. float16 has finer steps, but
gradients fall below its range: loss_scaling.py.

Rounding to the nearest bfloat16, in integers. Let low be the 16 bits to be cut off, and odd the
lowest bit to be kept. Up, if low > 0x8000; at the tie low = 0x8000, up if odd, so that ties end
even; else down. One sum says all of it, as it carries into the kept bits in exactly these cases:

    kept = (bits + 0x7FFF + odd) >> 16

A carry out of the fraction raises the exponent, and that is the next number, up to infinity. Only
a NaN must not be summed (it could carry into the sign): it keeps its upper bits, and becomes quiet.

Why masters: an update below half a step, 2^-9 to 2^-8 of the weight, would be rounded away every
time, however many of them point the same way.

What is rounded: parameters, the embedding, and the output of every layer, so the residual stream,
queries, keys, values, gate and up, logits; and on the way back the gradient of each of them. The
layers do so by themselves when they are given arrays of 16 bits. What is not:

    sums inside a product           as on a GPU, whose units multiply 16 bits and add in 32
    statistics of the norms         layers/rmsnorm.py
    RoPE frequencies, tables, turn  layers/rope.py
    scores, softmax, and its sums   layers/block_attention.py; the router's softmax too
    loss                            layers/cross_entropy.py; the router's losses too
    sums over pieces and processes  accumulate.py, data_parallel.py
    norm of the gradient            grad_clip.py
    masters, AdamW's m and v        adamw.py

`minqwen pretrain --precision` and `minqwen lab precision` compute their gradients by the same
lines, sum_pieces of accumulate.py. With float32, nothing is rounded and nothing is copied.

Paper:    Qwen Technical Report, 2.4 Training: "BFloat16 mixed precision". What stays float32 is
          not published, but for the RoPE frequencies (2.3.1).
Origin:   Micikevicius et al. 2018, arXiv:1710.03740 (masters, loss scale); Kalamkar et al. 2019,
          arXiv:1905.12322 (bfloat16).
Differs:  attention multiplies its weights with the values in float32; GPU code rounds them first.
          PyTorch's autocast keeps the residual stream in float32, a model in bfloat16 does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from ..backend import Array, DType, array_module
from ..extras import require_extra
from ..model.config import QwenConfig
from ..params import Params
from .accumulate import Batch, count_tokens, sum_pieces

PRECISIONS = ("float32", "bfloat16", "float16")


def bfloat16_bits(x: Array) -> Array:
    """Round to the nearest bfloat16, ties to even, and return its 16 bits.

    Args:
        x: (any shape) float32.

    Returns:
        bits: like x, uint16.

    Raises:
        TypeError: x is not float32; float64 would be rounded twice.

    >>> hex(bfloat16_bits(np.array([1.0], np.float32))[0])
    '0x3f80'
    """
    if x.dtype != np.float32:
        raise TypeError(f"x must be float32, got {x.dtype}")
    xp = array_module(x)
    flat = x.reshape(-1)  # an axis even for a single number, as scalars warn when they wrap
    bits = flat.view("uint32")

    odd = (bits >> 16) & 1
    kept = (bits + 0x7FFF + odd) >> 16
    quiet = (bits >> 16) | 0x40
    kept = xp.where(xp.isnan(flat), quiet, kept).astype("uint16")
    rounded: Array = kept.reshape(x.shape)
    return rounded


def round_to_bfloat16(x: Array) -> Array:
    """Return the nearest numbers that bfloat16 has, as float32.

    Args:
        x: (any shape) float32.

    Raises:
        TypeError: x is not float32.

    Around 1 they are 2^-7 apart above, 2^-8 below; 1 + 2^-8 is a tie, and 1 is even:

    >>> round_to_bfloat16(np.array([1 + 2**-8, 1 + 2**-8 + 2**-20, 1 - 2**-8], np.float32))
    array([1.        , 1.0078125 , 0.99609375], dtype=float32)
    """
    rounded: Array = bfloat16_bits(x).astype("uint32") << 16
    return rounded.view("float32")


def precision_dtype(precision: str) -> DType:
    """Return the dtype of this name.

    Raises:
        ImportError: bfloat16 without ml_dtypes, which gives NumPy the type; with the pip line.
        ValueError: the name is not one of PRECISIONS.

    >>> precision_dtype("float16")
    dtype('float16')
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "bfloat16":
        return np.dtype(precision)
    require_extra("ml_dtypes", extra="hf")
    import ml_dtypes

    bfloat16: DType = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


def to_precision(x: Array, precision: str) -> Array:
    """Round an array to a precision; it is returned as it is if it has that dtype already.

    Args:
        x: (any shape) float32, or of that dtype.
        precision: one of PRECISIONS. float16 turns what is above 65504 into infinity.

    Raises:
        ImportError, ValueError: see precision_dtype.
        TypeError: x is of another dtype.

    >>> to_precision(np.array([1e5, 1e-8], np.float32), "float16")
    array([inf,  0.], dtype=float16)
    """
    dtype = precision_dtype(precision)
    if x.dtype == dtype:
        return x
    if precision == "bfloat16":
        bits: Array = bfloat16_bits(x)
        return bits.view(dtype)
    if x.dtype != np.float32:
        raise TypeError(f"x must be float32 or {precision}, got {x.dtype}")
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def silent_overflow(precision: str) -> AbstractContextManager[object]:
    """Return a block in which 16 bits overflow without a warning: all_finite says so, in one place.

    >>> with silent_overflow("float16"):
    ...     np.full(1, 60000, np.float16) * np.float16(2)
    array([inf], dtype=float16)
    """
    if precision == "float32":
        return nullcontext()
    return np.errstate(over="ignore", invalid="ignore")


def half_params(masters: Params, precision: str) -> Params:
    """Return the parameters as forward and backward see them; the masters stay as they are.

    >>> half_params({"w": np.ones(1, np.float32)}, "float16")
    {'w': array([1.], dtype=float16)}
    """
    return {key: to_precision(w, precision) for key, w in masters.items()}


def mixed_loss_and_grads(
    masters: Params,
    config: QwenConfig,
    batch: Batch,
    precision: str,
    loss_scale: float = 1.0,
    seed: Sequence[int] = (),
) -> tuple[Array, Params]:
    """Return the loss of a batch and its gradient, computed in a precision; waits for no GPU.

    Args:
        masters: parameters, float32. Parameters of 16 bits are used as they are: no masters.
        config: of the model; its dropout acts.
        batch: see accumulate.Batch; on the host.
        precision: one of PRECISIONS.
        loss_scale: what the backward pass starts from, and what its end is divided by.
        seed: of the dropout.

    Returns:
        loss: () float32, mean over the counted tokens, in nats, not scaled.
        grads: of the loss, float32, with the keys of masters. Where 16 bits overflowed they are
            infinite or NaN: see loss_scaling.all_finite.

    Raises:
        ImportError, TypeError, ValueError: see to_precision; ValueError: no token counts.
    """
    tokens = count_tokens(batch)
    if tokens == 0:
        raise ValueError("the batch has no token that counts in the loss")
    half = half_params(masters, precision)
    with silent_overflow(precision):
        sums = sum_pieces(half, config, [batch], tokens, seed, loss_scale=loss_scale)
    return sums.loss, sums.grads

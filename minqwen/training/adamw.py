"""AdamW: gradient descent with a step size per number, and decay beside the gradient.

    m = beta1 * m + (1 - beta1) * g            running mean of the gradient
    v = beta2 * v + (1 - beta2) * g**2         running mean of its square
    m_hat = m / (1 - beta1**t)                 both start at 0: undo that, t = 1, 2, ...
    v_hat = v / (1 - beta2**t)
    w = (1 - lr * weight_decay) * w - lr * m_hat / (sqrt(v_hat) + eps)

m_hat / sqrt(v_hat) is about the sign of a gradient that keeps its direction and near 0 for one
that keeps changing it, so lr is roughly the distance that a weight may move in one step.

The decay is "decoupled": it shrinks w directly. Added to the gradient instead (L2, as in plain
Adam) it would be divided by sqrt(v_hat) too, and weights with large gradients would hardly decay.

Paper:    Qwen Technical Report, 2.4 Training: betas 0.9 and 0.95, eps 1e-8.
Origin:   Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101.
Differs:  which tensors decay is not published; see `decays`. The decay of 0.1 is the one that the
          report names for fine-tuning (3.1.2). lr * weight_decay shrinks the weights, as in
          PyTorch; Loshchilov and Hutter leave the peak lr out of that product.
"""

from __future__ import annotations

import math
from typing import TypedDict

from ..backend import Array, array_module, at_least_float32
from ..params import Params, name_list
from .blocks import flat_blocks


class AdamWState(TypedDict):
    step: int  # updates done so far
    m: Params  # running means of the gradients, in at_least_float32
    v: Params  # running means of their squares


def adamw_init(params: Params) -> AdamWState:
    """Return the state before the first update: zeros for every parameter.

    >>> import numpy as np
    >>> adamw_init({"w": np.ones(2, np.float16)})["m"]
    {'w': array([0., 0.], dtype=float32)}
    """
    return {"step": 0, "m": _wide_zeros(params), "v": _wide_zeros(params)}


def _wide_zeros(params: Params) -> Params:
    return {
        key: array_module(w).zeros(w.shape, dtype=at_least_float32(w)) for key, w in params.items()
    }


def decays(name: str, w: Array) -> bool:
    """Say whether weight decay shrinks this parameter: True for matrices, not for gains and biases.

    Decay pulls every number towards 0. In a matrix, 0 is harmless: this input has no influence on
    that output. A gain of a norm multiplies a whole channel and starts at 1; at 0 the channel is
    switched off. A bias is an offset, as large as it has to be. Embeddings are matrices and decay
    like the others, also the tied one, which serves as input and as output layer. (nanoGPT divides
    the parameters in the same way. How Qwen does is not published.)

    Args:
        name: key of the parameter; a bias or gain is known by it whatever its number of axes.
        w: the parameter.

    >>> import numpy as np
    >>> decays("model.norm.weight", np.ones(3)), decays("lm_head.weight", np.ones((5, 3)))
    (False, True)
    """
    return w.ndim >= 2 and not name.endswith((".bias", "norm.weight"))


def adamw_update(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    step: int,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> tuple[Array, Array, Array]:
    """Return w, m and v after one update: the equation, for one tensor, nothing modified.

    Args:
        w: (any shape) float, parameter.
        g: like w, its gradient.
        m: like w, running mean of the gradient, in at_least_float32.
        v: like w, running mean of its square, in at_least_float32.
        step: number of this update, 1 for the first.
        lr: learning rate.
        beta1: share of the old m.
        beta2: share of the old v.
        eps: added to the square root, so in units of g.
        weight_decay: share of w that an update with lr = 1 would take away.

    Returns:
        New w in w.dtype, new m and v.

    A first step moves w by lr, whatever the size of the gradient:

    >>> import numpy as np
    >>> zero = np.zeros(2)
    >>> w, m, v = adamw_update(zero, np.array([0.5, -20]), zero, zero, 1, lr=0.1)
    >>> w.round(6)
    array([-0.1,  0.1])
    """
    xp = array_module(w)
    lr, beta1, beta2, eps, weight_decay = map(float, (lr, beta1, beta2, eps, weight_decay))
    g = g.astype(m.dtype, copy=False)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    new_w = (1 - lr * weight_decay) * w.astype(m.dtype) - lr * m_hat / (xp.sqrt(v_hat) + eps)
    return new_w.astype(w.dtype, copy=False), m, v


def adamw_step(
    params: Params,
    grads: Params,
    state: AdamWState,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> None:
    """Update params and state IN PLACE, so that no second copy of the model is needed.

    Computes `adamw_update` for every tensor, in pieces and without temporary arrays, which is
    three times as fast. With s = sqrt(1 - beta2**t) the last line of the equation is also

        w = (1 - lr * weight_decay) * w - (lr * s / (1 - beta1**t)) * m / (sqrt(v) + s * eps)

    where all corrections are plain numbers.

    Args:
        params: flat dict; every array is overwritten.
        grads: exactly the keys and shapes of params; left as they are.
        state: of `adamw_init`; its step grows by 1, m and v are overwritten.
        lr: learning rate of this update, see `lr_schedule`.
        beta1: share of the old m.
        beta2: share of the old v.
        eps: added to the square root, so in units of the gradient.
        weight_decay: for the keys that `decays` chooses; 0 for the others.

    Raises:
        ValueError: keys or shapes differ (nothing has been changed), or a number is out of range.

    >>> import numpy as np
    >>> params = {"w": np.ones((1, 1)), "b": np.ones(1)}
    >>> adamw_step(params, {"w": np.zeros((1, 1)), "b": np.zeros(1)}, adamw_init(params), lr=0.1)
    >>> params  # without a gradient there is only decay, by lr * weight_decay
    {'w': array([[0.99]]), 'b': array([1.])}
    """
    _require_same_keys(params, grads, state)
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1 and eps >= 0 and lr >= 0 and weight_decay >= 0):
        raise ValueError(
            "adamw_step needs 0 <= beta < 1 and eps, lr, weight_decay >= 0, got "
            f"{beta1=}, {beta2=}, {eps=}, {lr=}, {weight_decay=}"
        )

    lr, beta1, beta2, eps, weight_decay = map(float, (lr, beta1, beta2, eps, weight_decay))
    state["step"] += 1
    root = math.sqrt(1 - beta2 ** state["step"])
    step_size = lr * root / (1 - beta1 ** state["step"])
    for key, w in params.items():
        xp = array_module(w)
        shrink = 1 - lr * weight_decay if decays(key, w) else 1.0
        contiguous = w if w.flags.c_contiguous else w.copy()  # else pieces would be copies
        pieces = flat_blocks(contiguous, grads[key], state["m"][key], state["v"][key])
        for w_piece, g, m, v in pieces:
            g = g.astype(m.dtype, copy=False)
            move = g * (1 - beta1)  # the one temporary array, reused below
            m *= beta1
            m += move
            xp.multiply(g, g, out=move)
            move *= 1 - beta2
            v *= beta2
            v += move
            xp.sqrt(v, out=move)
            move += root * eps
            xp.divide(m, move, out=move)
            move *= step_size
            if w_piece.dtype == m.dtype:
                w_piece *= shrink
                w_piece -= move
            else:  # half-precision weights: rounded once
                w_piece[...] = shrink * w_piece.astype(m.dtype) - move
        if contiguous is not w:
            w[...] = contiguous


def _require_same_keys(params: Params, grads: Params, state: AdamWState) -> None:
    for what, other in (("grads", grads), ("state m", state["m"]), ("state v", state["v"])):
        if missing := params.keys() - other.keys():
            raise ValueError(f"{what} lacks {name_list(missing)}")
        if extra := other.keys() - params.keys():
            raise ValueError(f"{what} has {name_list(extra)}, params has not")
        for key, w in params.items():
            if other[key].shape != w.shape:
                raise ValueError(f"{what}: {key} has shape {other[key].shape}, params {w.shape}")
            if other is not grads and not other[key].flags.c_contiguous:
                raise ValueError(f"{what}: {key} is not C-contiguous; adamw_init makes it so")

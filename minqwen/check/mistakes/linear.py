"""Linear layer: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute y with a copy of layers/linear.py."""
    return (m.linear_forward(a["x"], a["w"], a["b"])[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients with a copy of layers/linear.py; none for a bias that is not there."""
    _, cache = m.linear_forward(a["x"], a["w"], a["b"])
    gradients = zip(("x", "w", "b"), m.linear_backward(dy[0], cache), strict=True)
    return {name: gradient for name, gradient in gradients if gradient is not None}


def inputs(
    rng: np.random.Generator, *shape: int, out: int, bias: bool = True, size: float = 1.0
) -> Arguments:
    """Return x of this shape and size, and a weight and a bias of order 1."""
    x = size * rng.standard_normal(shape)
    w = rng.standard_normal((out, shape[-1]))
    return {"x": x, "w": w, "b": rng.standard_normal(out) if bias else None}


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 2, 3, 5, out=7), "ordinary vectors", hard=False),
    Probe("two axes", lambda rng: inputs(rng, 5, 11, out=3), "other sizes, two axes", hard=False),
    Probe("no bias", lambda rng: inputs(rng, 3, 7, out=5, bias=False), "a layer without a bias"),
    Probe("square", lambda rng: inputs(rng, 5, 5, out=5), "all sizes equal: axes can be mixed up"),
    Probe("one vector", lambda rng: inputs(rng, 7, out=5), "a single vector, no batch axis"),
    Probe("large", lambda rng: inputs(rng, 3, 11, out=7, size=300.0), "large numbers"),
    Probe("zeros", lambda rng: inputs(rng, 2, 5, out=3, size=0.0), "zeros: only the bias is left"),
)

_PRODUCT = "y = widen(x).reshape(-1, w.shape[1]) @ widen(w).T  # (N, Dout)"
_RESHAPE = "y = y.reshape(*x.shape[:-1], w.shape[0]).astype"
FORWARD = (
    Mistake(
        "no_bias",
        "    if b is not None:\n",
        "    if False:\n",
        "the bias is not added.",
        "Give zeros for x: what must come out?",
    ),
    Mistake(
        "bias_subtracted",
        "y += widen(b)",
        "y -= widen(b)",
        "the bias is subtracted; it must be added.",
        "Give zeros for x, and look at the sign.",
    ),
    Mistake(
        "bias_twice",
        "y += widen(b)",
        "y += 2 * widen(b)",
        "the bias is added twice.",
        "Give zeros for x: y must be b. Is b added in two places?",
    ),
    Mistake(
        "weight_reshaped",
        _PRODUCT,
        "y = widen(x).reshape(-1, w.shape[1]) @ widen(w).reshape(w.shape[1], w.shape[0])",
        "the weight is reshaped to (in, out), or used as if it were stored so, not transposed.",
        "Output o is the dot product of x with row o of w: print one of them.",
    ),
    Mistake(
        "weight_not_transposed",
        _PRODUCT,
        "y = widen(x).reshape(-1, w.shape[1]) @ widen(w)",
        "the product is x @ w; w is (out, in), so it must be x @ w.T.",
        "Output o is the dot product of x with row o of w: print one of them.",
    ),
    Mistake(
        "input_reshaped",
        _PRODUCT,
        "y = widen(x).reshape(w.shape[1], -1).T @ widen(w).T",
        "features and tokens are mixed up when x is flattened: the last axis must stay whole.",
        "Change one token: how many rows of y change?",
    ),
    Mistake(
        "output_reshaped",
        _RESHAPE,
        "y = y.T.reshape(*x.shape[:-1], w.shape[0]).astype",
        "the result is (out, tokens) and is reshaped, not transposed: its numbers are elsewhere.",
        "Change one token: which rows of y change?",
    ),
    Mistake(
        "mean_for_sum",
        "@ widen(w).T  #",
        "@ widen(w).T / w.shape[1]  #",
        "the products are averaged over the inputs; they must be summed.",
        "Without the bias, all numbers are off by one factor: which size of w is it?",
    ),
    Mistake(
        "scaled_by_root",
        "@ widen(w).T  #",
        "@ widen(w).T * w.shape[1] ** -0.5  #",
        "the product is divided by sqrt(in), as in a layer with a scaled weight; here it is not.",
        "Without the bias, all numbers are off by one factor: what is its square?",
        "convention",
    ),
    Mistake(
        "relu",
        _RESHAPE,
        "y = (y * (y > 0)).reshape(*x.shape[:-1], w.shape[0]).astype",
        "negative results are cut to zero; a linear layer has no activation.",
        "Are there any negative numbers in your result?",
    ),
)
BACKWARD = (
    Mistake(
        "weight_gradient_mean",
        "dy_rows.T @ x_rows",
        "dy_rows.T @ x_rows / len(x_rows)",
        "dw is a mean over the tokens; it must be their sum.",
        "Two tokens that want the same of w: the gradient doubles.",
    ),
    Mistake(
        "bias_gradient_mean",
        "column_sums(dy_rows)",
        "(column_sums(dy_rows) / len(dy_rows))",
        "db is a mean over the tokens; it must be their sum.",
        "b is added once to every token: how often does it act?",
    ),
    Mistake(
        "bias_gradient_first_axis",
        "column_sums(dy_rows)",
        "dy_rows.reshape(dy.shape).sum(axis=0)",
        "db is summed over the first axis alone; it must be summed over all axes but the last.",
        "Compare the shape of db with that of b, for x with three axes.",
    ),
    Mistake(
        "weight_gradient_last_token",
        "dy_rows.T @ x_rows",
        "dy_rows[-1:].T @ x_rows[-1:]",
        "dw comes from the last token alone: the others were overwritten, not added.",
        "A weight that is used many times gets the sum: look for = in place of +=.",
    ),
    Mistake(
        "bias_gradient_last_token",
        "column_sums(dy_rows)",
        "(1 * dy_rows[-1])",
        "db comes from the last token alone: the others were overwritten, not added.",
        "A bias that is used many times gets the sum: look for = in place of +=.",
    ),
    Mistake(
        "weight_gradient_reshaped",
        "dy_rows.T @ x_rows",
        "(x_rows.T @ dy_rows).reshape(Dout, Din)",
        "dw is (in, out), reshaped to the shape of w or left so; it must be transposed.",
        "dw[o, i] belongs to output o and input i: which of dy and x gives which axis?",
    ),
    Mistake(
        "input_gradient_reshaped",
        "(dy_rows @ widen(w)).reshape",
        "(dy_rows @ widen(w).T.reshape(Dout, Din)).reshape",
        "dx is taken with the transpose of the weight; it needs the weight as it is.",
        "dx_i sums over the outputs: which axis of w is that?",
    ),
    Mistake(
        "dy_ignored",
        "widen(dy).reshape(-1, Dout), widen(x)",
        "widen(0 * dy + 1).reshape(-1, Dout), widen(x)",
        "the incoming gradient is not used: ones are taken for it.",
        "Double dy: every gradient must double.",
    ),
    Mistake(
        "input_gradient_doubled",
        "(dy_rows @ widen(w)).reshape",
        "(2 * dy_rows @ widen(w)).reshape",
        "dx is twice too large: it is added twice.",
        "Run the backward pass once more with fresh arrays: does dx grow?",
    ),
)

SPEC = Spec(
    name="linear",
    module="minqwen.layers.linear",
    arguments=("x", "w", "b"),
    axes={"x": "... Din", "w": "Dout Din", "b": "Dout", "y": "... Dout"},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="w is (out, in), as checkpoints store it; b may be None.",
    defaults={"b": None},
)

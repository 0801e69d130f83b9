"""SwiGLU: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec

NAMES = ("x", "w_gate", "w_up", "w_down")


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute y with a copy of layers/swiglu.py."""
    return (m.swiglu_forward(*(a[name] for name in NAMES))[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients with a copy of layers/swiglu.py."""
    _, cache = m.swiglu_forward(*(a[name] for name in NAMES))
    return dict(zip(NAMES, m.swiglu_backward(dy[0], cache), strict=True))


def inputs(rng: np.random.Generator, *shape: int, width: int, size: float = 1.0) -> Arguments:
    """Return x of this shape and size, and three weights of order 1."""
    D = shape[-1]
    shapes = ((width, D), (width, D), (D, width))
    weights = (rng.standard_normal(s) for s in shapes)
    return dict(zip(NAMES, (size * rng.standard_normal(shape), *weights), strict=True))


def large(rng: np.random.Generator) -> Arguments:
    """Return gates in the thousands, with small weights behind them: y fits float16.

    One row stays ordinary: where exp overflows the others are NaN, or as small as exp(-1000).
    """
    a = inputs(rng, 3, 7, width=5, size=1000.0)
    a["x"][0] /= 1000
    a["w_up"], a["w_down"] = 1e-3 * a["w_up"], 0.1 * a["w_down"]
    return a


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 2, 3, 5, width=7), "ordinary vectors", hard=False),
    Probe("two axes", lambda rng: inputs(rng, 5, 3, width=11), "other sizes, two axes", hard=False),
    Probe(
        "square", lambda rng: inputs(rng, 5, 5, width=5), "all sizes equal: axes can be mixed up"
    ),
    Probe("tiny", lambda rng: inputs(rng, 3, 5, 7, width=3, size=1e-3), "small numbers"),
    Probe(
        "large",
        large,
        "gates in the thousands, of both signs, where exp overflows",
        gradient=False,
    ),
    Probe("zeros", lambda rng: inputs(rng, 2, 3, width=5, size=0.0), "zeros give zeros"),
    Probe("one vector", lambda rng: inputs(rng, 7, width=13), "a single vector, no batch axis"),
)

_H = "h = widen(gate) * sigmoid(gate) * widen(up)"
_GATE = "gate, gate_cache = linear_forward(x, w_gate)  # (..., F)"
_DOWN = "linear_forward(h.astype(x.dtype, copy=False), w_down)  # (..., D)"
_RETURN = "return y, SwigluCache"
_SIGMOID = "s: Array = 0.5 * (1 + array_module(x).tanh(0.5 * widen(x)))"


def _act(activation: str) -> str:
    """Return the line with another activation of the gate a."""
    return f"a = widen(gate)\n    h = ({activation}) * widen(up)"


FORWARD = (
    Mistake(
        "branches_swapped",
        _H,
        "h = widen(gate) * sigmoid(up) * widen(up)",
        "the activation sits on the up branch, or the two weights are exchanged.",
        "With gate = -10 and up = 1 the product must be almost 0.",
    ),
    Mistake(
        "weight_not_transposed",
        _GATE,
        f"w_gate, w_up, w_down = w_gate.T, w_up.T, w_down.T\n    {_GATE}",
        "the products are x @ w; each weight is (out, in), so they must be x @ w.T.",
        "What are the shapes of x and w_gate, and what must that of their product be?",
    ),
    Mistake(
        "llama_order",
        _GATE,
        f"w_up, w_down = w_down, w_up\n    {_GATE}",
        "the weights are taken in the order w1, w2, w3 of Llama's code: gate, down, up; here it is "
        "gate, up, down.",
        "Which of the three weights has the shape (D, F)?",
    ),
    Mistake(
        "halves_interleaved",
        _GATE,
        "both = array_module(x).concatenate((w_gate, w_up))\n"
        "    w_gate, w_up = both[::2], both[1::2]\n"
        "    gate, gate_cache = linear_forward(x, w_gate)",
        "gate and up are joined in one matrix and taken apart row by row, not in two halves.",
        "The first F rows of the joined matrix are the gate.",
    ),
    Mistake(
        "sigmoid_for_silu",
        _H,
        "h = sigmoid(gate) * widen(up)",
        "the gate is a sigmoid, as in the first GLU; SiLU has the factor a in front of it.",
        "How large can the activation of the gate become?",
    ),
    Mistake(
        "relu",
        _H,
        _act("a * (a > 0)"),
        "the activation is ReLU; Qwen has SiLU.",
        "What does your activation give for -1?",
    ),
    Mistake(
        "relu_squared",
        _H,
        _act("a * a * (a > 0)"),
        "the activation is the square of ReLU; Qwen has SiLU.",
        "What does your activation give for -1?",
    ),
    Mistake(
        "gelu",
        _H,
        "np, math = __import__('numpy'), __import__('math')\n"
        "    h = 0.5 * gate * (1 + np.vectorize(math.erf)(widen(gate) / 2**0.5)) * widen(up)",
        "the activation is GELU; Qwen has SiLU.",
        "What does your activation give for 1? SiLU gives 0.7311.",
    ),
    Mistake(
        "gelu_by_tanh",
        _H,
        _act(
            "0.5 * a * (1 + array_module(a).tanh((2 / 3.141592653589793) ** 0.5"
            " * (a + 0.044715 * a**3)))"
        ),
        "the activation is GELU by its tanh formula; Qwen has SiLU.",
        "What does your activation give for 1? SiLU gives 0.7311.",
    ),
    Mistake(
        "quick_gelu",
        _H,
        _act("a * sigmoid(1.702 * a)"),
        "the activation is the quick GELU, a sigmoid(1.702 a); SiLU has no factor there.",
        "What does your activation give for 1? SiLU gives 0.7311.",
    ),
    Mistake(
        "tanh_gate",
        _H,
        _act("a * array_module(a).tanh(a)"),
        "the activation is a tanh(a); SiLU is a sigmoid(a).",
        "What does your activation give for -1? SiLU gives -0.2689.",
    ),
    Mistake(
        "tanh",
        _H,
        _act("array_module(a).tanh(a)"),
        "the activation is tanh; Qwen has SiLU.",
        "How large can the activation of the gate become?",
    ),
    Mistake(
        "mish",
        _H,
        _act("a * array_module(a).tanh(array_module(a).logaddexp(0.0, a))"),
        "the activation is Mish; Qwen has SiLU.",
        "What does your activation give for 1? SiLU gives 0.7311.",
    ),
    Mistake(
        "hard_swish",
        _H,
        _act("a * (a + 3).clip(0, 6) / 6"),
        "the activation is the hard Swish, made of straight lines and a parabola.",
        "What does your activation give for 1? SiLU gives 0.7311.",
    ),
    Mistake(
        "sign_in_sigmoid",
        _H,
        "h = widen(gate) * sigmoid(-gate) * widen(up)",
        "the sigmoid has the wrong sign inside: large gates are closed, not opened.",
        "What does your activation give for 10? SiLU gives almost 10.",
    ),
    Mistake(
        "silu_twice",
        _H,
        _act("a * sigmoid(a) * sigmoid(a * sigmoid(a))"),
        "SiLU is applied twice.",
        "What does your activation give for 1? SiLU gives 0.7311.",
    ),
    Mistake(
        "no_activation",
        _H,
        _act("a"),
        "there is no activation: the two branches are only multiplied.",
        "Flip the sign of w_gate: must y just flip?",
    ),
    Mistake(
        "no_up",
        _H,
        "h = widen(gate) * sigmoid(gate) * (0 * widen(up) + 1)",
        "the up branch is not multiplied in.",
        "Change w_up: does the result change?",
    ),
    Mistake(
        "no_gate",
        _H,
        "h = widen(up) * sigmoid(up)",
        "the gate branch is missing: SiLU of the up branch goes straight to the down matrix.",
        "Change w_gate: does the result change?",
    ),
    Mistake(
        "added",
        _H,
        "h = widen(gate) * sigmoid(gate) + widen(up)",
        "the two branches are added; the gate must multiply.",
        "With an up branch of zeros, what must come out?",
    ),
    Mistake(
        "activation_on_both",
        _H,
        "h = widen(gate) * sigmoid(gate) * widen(up) * sigmoid(up)",
        "both branches have the activation; only the gate has one.",
        "Double w_up: the result must double.",
    ),
    Mistake(
        "activation_after",
        _H,
        "h = widen(gate) * widen(up) * sigmoid(widen(gate) * widen(up))",
        "the activation comes after the product; it belongs to the gate alone.",
        "Double w_up: the result must double.",
    ),
    Mistake(
        "down_reshaped",
        _DOWN,
        "linear_forward(h.astype(x.dtype, copy=False), w_down.reshape(F, D).T)",
        "the down matrix is reshaped to (F, D), or used as if it were stored so, not transposed.",
        "Output d is a dot product with row d of w_down.",
    ),
    Mistake(
        "residual_added",
        _RETURN,
        "return y + x, SwigluCache",
        "x is added to the result; that sum belongs to the block around it.",
        "With w_down all zeros, what must come out?",
    ),
    Mistake(
        "sigmoid_overflows",
        _SIGMOID,
        "s = array_module(x).exp(widen(x)) / (1 + array_module(x).exp(widen(x)))",
        "exp(a) / (1 + exp(a)) gives NaN for large a: infinity over infinity.",
        "Which form of the sigmoid has an exponential that cannot overflow where it matters?",
        "numeric",
    ),
    Mistake(
        "clamped",
        _GATE,
        "gate, gate_cache = linear_forward(x, w_gate)\n"
        "    gate = array_module(x).minimum(gate, 7.0)",
        "the gate is cut at 7, as gpt-oss does; Qwen has no limit there.",
        "Double a large x: does the result still grow?",
        "convention",
    ),
)

_DUP = "dup = dh * (widen(gate) * s)"
_DGATE = "dgate = dh * widen(up) * (s * (1 + widen(gate) * (1 - s)))"
_DX = "return dx_gate + dx_up, dw_gate, dw_up, dw_down"
BACKWARD = (
    Mistake(
        "slope_of_sigmoid",
        _DGATE,
        "dgate = dh * widen(up) * (s * (1 - s))",
        "the slope of the sigmoid, s (1 - s), is taken for the slope of SiLU.",
        "SiLU is a product of two things that both depend on a.",
    ),
    Mistake(
        "slope_without_second_term",
        _DGATE,
        "dgate = dh * widen(up) * s",
        "the slope of SiLU is taken to be s: the term a s (1 - s) is missing.",
        "SiLU is a product of two things that both depend on a.",
    ),
    Mistake(
        "slope_sign",
        _DGATE,
        "dgate = dh * widen(up) * (s * (1 - widen(gate) * (1 - s)))",
        "the second term in the slope of SiLU has the wrong sign.",
        "The slope of SiLU at 2 is 1.0908, that is above 1.",
    ),
    Mistake(
        "slope_lost",
        _DGATE,
        "dgate = dh * widen(up)",
        "the activation is left out of the gradient of the gate.",
        "The chain rule: what stands between the gate and the product?",
    ),
    Mistake(
        "silu_for_its_slope",
        _DGATE,
        "dgate = dh * widen(up) * (widen(gate) * s)",
        "SiLU itself is taken for its slope.",
        "The slope of SiLU at 0 is 0.5.",
    ),
    Mistake(
        "up_not_multiplied",
        _DGATE,
        "dgate = dh * (s * (1 + widen(gate) * (1 - s)))",
        "the gradient of the gate lacks the factor of the up branch.",
        "The derivative of a product: each factor gets the other one.",
    ),
    Mistake(
        "gate_for_silu",
        _DUP,
        "dup = dh * widen(gate)",
        "the gradient of the up branch has the gate itself for a factor; it needs SiLU of it.",
        "The derivative of a product: each factor gets the other one, as it stood there.",
    ),
    Mistake(
        "sigmoid_for_silu",
        _DUP,
        "dup = dh * s",
        "the gradient of the up branch has sigmoid(gate) for a factor; it needs SiLU.",
        "The derivative of a product: each factor gets the other one, as it stood there.",
    ),
    Mistake(
        "no_up_path",
        _DX,
        "return dx_gate, dw_gate, dw_up, dw_down",
        "dx comes through the gate alone: the up branch is missing.",
        "x is used twice: how many gradients come back to it?",
    ),
    Mistake(
        "no_gate_path",
        _DX,
        "return dx_up, dw_gate, dw_up, dw_down",
        "dx comes through the up branch alone: the gate is missing.",
        "x is used twice: how many gradients come back to it?",
    ),
    Mistake(
        "paths_averaged",
        _DX,
        "return (dx_gate + dx_up) / 2, dw_gate, dw_up, dw_down",
        "dx is the mean of the two branches; it must be their sum.",
        "x is used twice: how do two gradients of one array combine?",
    ),
    Mistake(
        "weight_gradients_swapped",
        _DX,
        "return dx_gate + dx_up, dw_up, dw_gate, dw_down",
        "the gradients of w_gate and w_up are exchanged.",
        "Change w_up a little: which of the two gradients tells what happens?",
    ),
    Mistake(
        "dy_ignored",
        "linear_backward(dy, down_cache)",
        "linear_backward(0 * dy + 1, down_cache)",
        "the incoming gradient is not used: ones are taken for it.",
        "Double dy: every gradient must double.",
    ),
)

SPEC = Spec(
    name="swiglu",
    module="minqwen.layers.swiglu",
    arguments=NAMES,
    axes={"x": "... D", "w_gate": "F D", "w_up": "F D", "w_down": "D F", "y": "... D"},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="weights are (out, in), as checkpoints store them; SiLU acts on the gate.",
)

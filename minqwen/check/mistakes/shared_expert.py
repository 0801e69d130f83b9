"""The shared expert of a mixture: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec

ARGUMENTS = ("x", "w_gate", "w_up", "w_down", "w_shared_gate")


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute y with a copy of layers/shared_expert.py."""
    return (m.shared_expert_forward(*(a[name] for name in ARGUMENTS))[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients with a copy of layers/shared_expert.py."""
    _, cache = m.shared_expert_forward(*(a[name] for name in ARGUMENTS))
    return dict(zip(ARGUMENTS, m.shared_expert_backward(dy[0], cache), strict=True))


def inputs(
    rng: np.random.Generator, *shape: int, Fs: int, size: float = 1.0, gate: float = 1.0
) -> Arguments:
    """Return x of this shape and size, a network of width Fs, and its gate."""
    D = shape[-1]
    w_gate, w_up, w_down = (rng.standard_normal(s) for s in ((Fs, D), (Fs, D), (D, Fs)))
    return {
        "x": size * rng.standard_normal(shape),
        "w_gate": w_gate,
        "w_up": w_up,
        "w_down": w_down,
        "w_shared_gate": gate * rng.standard_normal((1, D)),
    }


def one_zero(rng: np.random.Generator) -> Arguments:
    """Return five tokens of which two are zero."""
    a = inputs(rng, 5, 7, Fs=3)
    a["x"][[0, 3]] = 0
    return a


def far_apart(rng: np.random.Generator) -> Arguments:
    """Return whole numbers, so that no rounding enters the logits of the gates."""
    a = inputs(rng, 7, 5, Fs=3)
    a["x"] = rng.integers(-3, 4, (7, 5)).astype(float)
    a["w_shared_gate"] = np.array([[512.0, -256.0, 128.0, 256.0, -512.0]])
    return a


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 2, 3, 7, Fs=11), "ordinary tokens", hard=False),
    Probe("other sizes", lambda rng: inputs(rng, 5, 11, Fs=3), "two axes, a narrow network"),
    Probe(
        "tiny", lambda rng: inputs(rng, 3, 5, 7, Fs=5, size=1e-3), "small numbers: gates near 1/2"
    ),
    Probe(
        "gate half open",
        lambda rng: inputs(rng, 5, 7, Fs=11, gate=0.0),
        "w_shared_gate = 0: half of the network's output",
    ),
    Probe(
        "gates far apart",
        far_apart,
        "gates that are wide open or shut: logits up to a thousand and more",
        gradient=False,
    ),
    Probe("zeros", one_zero, "tokens of zeros between others"),
    Probe("square", lambda rng: inputs(rng, 5, 5, Fs=5), "all sizes equal: axes can be mixed up"),
    # its gate is not nearly shut: then all of y is as exact as 1 - tanh, and that depends on how
    # the sigmoid is written
    Probe("one token", lambda rng: inputs(rng, 1, 1, 5, Fs=7, gate=0.3), "a single token"),
)

_GATE = "gate = sigmoid(a)"
_Y = "y = gate * widen(out)"
_RUN = "swiglu_forward(x, w_gate, w_up, w_down)"
FORWARD = (
    Mistake(
        "no_gate",
        _Y,
        "y = widen(out) + 0 * gate",
        "the gate is missing: each token gets the whole output of the network.",
        "With w_shared_gate = 0 half of the output must come through.",
    ),
    Mistake(
        "gate_per_feature",
        _GATE,
        "gate = sigmoid(x * w_shared_gate[0])",
        "each feature has a gate of its own; there is one number per token.",
        "What shape has x times w_shared_gate, transposed?",
    ),
    Mistake(
        "no_sigmoid",
        _GATE,
        "gate = a",
        "the output is multiplied by the logit of the gate; a sigmoid belongs between.",
        "A gate is between 0 and 1: what makes it so?",
    ),
    Mistake(
        "silu_gate",
        _GATE,
        "gate = a * sigmoid(a)",
        "the gate goes through silu; it is a sigmoid. silu belongs inside the network.",
        "A gate is between 0 and 1: is it?",
    ),
    Mistake(
        "tanh_gate",
        _GATE,
        "import numpy as np\n\n    gate = np.tanh(a)",
        "the gate goes through tanh; it is a sigmoid.",
        "With w_shared_gate = 0 half of the output must come through.",
    ),
    Mistake(
        "relu_gate",
        _GATE,
        "gate = a * (a > 0)",
        "the gate goes through ReLU; it is a sigmoid.",
        "With w_shared_gate = 0 half of the output must come through.",
    ),
    Mistake(
        "shut_for_open",
        _GATE,
        "gate = 1 - sigmoid(a)",
        "the gate is turned round: the larger its logit, the less comes through.",
        "A large positive logit must leave the output as it is.",
    ),
    Mistake(
        "one_gate_for_all",
        _GATE,
        "gate = sigmoid(a).mean(keepdims=True)",
        "one gate, the mean, serves all tokens; each has its own.",
        "Change one token: the others must stay as they are.",
    ),
    Mistake(
        "gate_of_mean",
        _GATE,
        "gate = sigmoid(a.mean(keepdims=True))",
        "one gate, from the mean of the logits, serves all tokens; each has its own.",
        "Change one token: the others must stay as they are.",
    ),
    Mistake(
        "gate_twice",
        _Y,
        "y = gate * gate * widen(out)",
        "the output goes through the gate twice.",
        "With w_shared_gate = 0 half of the output must come through.",
    ),
    Mistake(
        "gate_before",
        f"out, swiglu = {_RUN}  # (..., D)\n    gate = sigmoid(a)\n    y = gate * widen(out)",
        "gate = sigmoid(a)\n"
        "    out, swiglu = swiglu_forward(gate * x, w_gate, w_up, w_down)\n"
        "    y = widen(out)",
        "the gate is applied to what goes into the network, not to what comes out.",
        "The network is not linear: where does the formula have the gate?",
    ),
    Mistake(
        "gate_added",
        _Y,
        "y = gate + widen(out)",
        "the gate is added to the output; it multiplies.",
        "A shut gate must give 0.",
    ),
    Mistake(
        "gate_of_output",
        "gate = sigmoid(a)",
        "gate = sigmoid(widen(out) @ w_shared_gate.T)",
        "the gate looks at the output of the network; it must look at its input.",
        "Change w_down: the gate must stay as it is.",
    ),
    Mistake(
        "weight_not_transposed",
        _RUN,
        "swiglu_forward(x, w_gate.T, w_up.T, w_down.T)",
        "the products in the network are x @ w; each weight is (out, in), so they must be x @ w.T.",
        "What are the shapes of x and w_gate, and what must that of their product be?",
    ),
    Mistake(
        "branches_swapped",
        _RUN,
        "swiglu_forward(x, w_up, w_gate, w_down)",
        "inside the network silu acts on the up branch; it belongs to the gate branch.",
        "Try the network alone: minqwen check swiglu.",
    ),
    Mistake(
        "sigmoid_for_silu",
        "h = widen(gate) * sigmoid(gate) * widen(up)",
        "h = sigmoid(gate) * widen(up)",
        "inside the network the gate branch goes through a sigmoid; it is silu.",
        "Try the network alone: minqwen check swiglu.",
        module="minqwen.layers.swiglu",
    ),
    Mistake(
        "no_up",
        "h = widen(gate) * sigmoid(gate) * widen(up)",
        "h = widen(gate) * sigmoid(gate) + 0 * widen(up)",
        "inside the network the up branch is not multiplied in.",
        "Try the network alone: minqwen check swiglu.",
        module="minqwen.layers.swiglu",
    ),
    Mistake(
        "sigmoid_overflows",
        _GATE,
        "e = 2.718281828459045 ** widen(a)\n    gate = e / (1 + e)",
        "the sigmoid of a large logit is NaN: its exponential overflows above and below the line.",
        "On paper exp(a) / (1 + exp(a)) is 1 / (1 + exp(-a)): which one can divide infinities?",
        "numeric",
    ),
    Mistake(
        "residual",
        _Y,
        "y = widen(x) + gate * widen(out)",
        "x is added to the result; that is done outside, once for the whole layer.",
        "A shut gate must give 0.",
    ),
)

_DA = "dgate * gate * (1 - gate)"
_SUM = "return dx_out + dx_gate, dw_gate"
_DGATE = "dgate = (widen(out) * dy_wide).sum(axis=-1, keepdims=True)"
BACKWARD = (
    Mistake(
        "gate_path_lost",
        _SUM,
        "return dx_out, dw_gate",
        "dx lacks what comes back through the gate.",
        "x goes two ways in the forward pass.",
    ),
    Mistake(
        "network_path_lost",
        _SUM,
        "return dx_gate, dw_gate",
        "dx lacks what comes back through the network.",
        "x goes two ways in the forward pass.",
    ),
    Mistake(
        "slope_forgotten",
        _DA,
        "dgate",
        "the derivative of the gate's sigmoid is missing.",
        "What lies between the gate and its logit?",
    ),
    Mistake(
        "half_slope",
        _DA,
        "dgate * gate",
        "the derivative of the gate's sigmoid lacks a factor.",
        "A gate that is wide open does not move any more: is its gradient 0?",
    ),
    Mistake(
        "gate_forgotten",
        "(gate * dy_wide)",
        "(1 * dy_wide)",
        "what goes back into the network is not multiplied by the gate.",
        "A shut gate lets nothing through, in either direction.",
    ),
    Mistake(
        "mean_over_features",
        "(widen(out) * dy_wide).sum(",
        "(widen(out) * dy_wide).mean(",
        "the gradient of the gate is a mean over the features; it must be their sum.",
        "One gate acts on all D features.",
    ),
    Mistake(
        "gated_output",
        "(widen(out) * dy_wide)",
        "(gate * widen(out) * dy_wide)",
        "the gradient of the gate is taken with the output after the gate; it must be the one "
        "before.",
        "What stood beside the gate in the product?",
    ),
    Mistake(
        "output_forgotten",
        _DGATE,
        "dgate = dy_wide.sum(axis=-1, keepdims=True)",
        "the gradient of the gate is not multiplied by the network's output.",
        "What stood beside the gate in the product?",
    ),
    Mistake(
        "token_mean",
        "dw_down, dw_shared_gate\n",
        "dw_down, dw_shared_gate / (dy.size // dy.shape[-1])\n",
        "the gradient of w_shared_gate is a mean over the tokens; it must be their sum.",
        "Two tokens that both want it to grow: the gradient doubles.",
    ),
)

SPEC = Spec(
    name="shared_expert",
    module="minqwen.layers.shared_expert",
    arguments=ARGUMENTS,
    axes={
        "x": "... D",
        "w_gate": "Fs D",
        "w_up": "Fs D",
        "w_down": "D Fs",
        "w_shared_gate": "1 D",
        "y": "... D",
    },
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="w_gate is the gate branch within the network, w_shared_gate (1, D) the gate behind it.",
)

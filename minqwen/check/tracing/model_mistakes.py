"""Mistakes that only a whole model can have, step by step, and what a step gives with them.

The bank (mistakes/) changes a line of one of our files. In a model more can go wrong: the weights
of another layer, positions that start elsewhere, a missing bias, a branch that is not added. Such a
mistake is written as what it hands to the step in place of the right thing: {"eps": 1e-3}. RUN
computes a step with any of these. Where names are those of the bank's arguments, a mistake of the
bank can be made at the same time, and so can another of these with other names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ...layers.linear import linear_forward
from ...layers.moe_router import softmax
from ...layers.rmsnorm import rmsnorm_forward
from ...layers.rope import rope_forward, rope_inv_freq, rope_tables
from ...layers.swiglu import sigmoid
from ..specs import names
from .step import Step

LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")
EPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-12)  # to try where it cannot be worked out
BASES = (10_000.0, 100_000.0, 500_000.0, 1_000_000.0, 10_000_000.0)
Changes = dict[str, Any]  # a function is called with the step to make the value


class Hand(NamedTuple):
    """A mistake that is no line of our files."""

    name: str
    says: str  # one plain sentence
    changes: Changes
    kind: str = "error"


def by_hand(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Hand]:
    """Yield the mistakes that a model can have in this step.

    Args:
        step: what is computed.
        inputs: of it.
        theirs: what they have got, to work out a number from; None: it is to be guessed.
    """
    made = {
        "linear": linear_mistakes,
        "rmsnorm": norm_mistakes,
        "rope": rope_mistakes,
        "averaged": averaged_mistakes,
        "shared_expert": shared_mistakes,
        "weighted": weighted_mistakes,
        "residual": residual_mistakes,
        "moe_router": router_mistakes,
    }.get(step.kind)
    if made is not None:
        yield from made(step, inputs, theirs)


def resolved(step: Step, changes: Changes) -> Changes:
    """Return the values themselves: one that depends on the layer is made for this step."""
    return {name: value(step) if callable(value) else value for name, value in changes.items()}


def linear_mistakes(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Hand]:
    """Other weights, no bias."""
    model = step.facts["model"]
    biased = model.bias(step.weight) is not None

    def zeros(step: Step) -> Array:
        return np.zeros(len(model.params[step.weight]))

    if biased:
        bias = step.weight.removesuffix("weight") + "bias"
        yield Hand("linear.no_bias", f"the bias is missing ({bias}).", {"b": zeros})
    for other in others(model.params, step.weight):

        def weight(step: Step, other: str = other) -> Array:
            w: Array = model.wide(other)
            return w

        def with_bias(step: Step, other: str = other) -> Array:
            b = model.bias(other)
            return zeros(step) if b is None else b

        yield Hand(*taken_from(other, step.weight), {"w": weight, "b": with_bias})
        if biased:
            says = f"it is computed with {other} and the bias of {step.weight}."
            yield Hand(f"weight_alone_of:{other}", says, {"w": weight})
    shape = model.params[step.weight].shape
    if shape[0] == shape[1]:
        turned = {"w": lambda step: model.wide(step.weight).T}
        yield Hand("linear.transposed", f"{step.weight} is transposed.", turned)


def linear(step: Step, x: Array, **changes: Any) -> Array:
    """Compute a linear layer, with another w or b."""
    model = step.facts["model"]
    w, b = (changes.get("w"), changes.get("b"))
    w = model.wide(step.weight) if w is None else w
    b = model.bias(step.weight) if b is None else b
    return linear_forward(step.facts["shaped"](x), w, b)[0]


def split_layer(name: str) -> tuple[str, str]:
    """Return the number of the layer, "" outside of layers, and the name within it."""
    found = LAYER.match(name)
    return (found[1], found[2]) if found else ("", name)


def taken_from(other: str, weight: str) -> tuple[str, str]:
    """Name the mistake of a weight in another's place, alike for all weights of a layer.

    >>> taken_from("model.layers.1.norm.weight", "model.layers.0.norm.weight")
    ('weights_of_layer_1', 'it is computed with the weights of layer 1.')
    """
    (layer, place), (_, own) = (split_layer(name) for name in (other, weight))
    if place == own and layer:
        return f"weights_of_layer_{layer}", f"it is computed with the weights of layer {layer}."
    return f"weights_of:{other}", f"it is computed with {other} in place of {weight}."


def others(params: dict[str, Array], weight: str) -> Iterator[str]:
    """Yield weights of the same shape with which this one could be mixed up.

    Those of the same place in other layers, then others of the same layer.
    """
    shape = params[weight].shape
    head, _, rest = weight.partition("layers.")
    number, _, place = rest.partition(".")
    for name, value in params.items():
        if name != weight and value.shape == shape and value.ndim == len(shape):
            same_layer = rest and name.startswith(f"{head}layers.{number}.")
            same_place = rest and name.startswith(f"{head}layers.") and name.endswith(f".{place}")
            if same_layer or same_place or not rest:
                yield name


def norm_mistakes(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Hand]:
    """Another eps, the gain of another norm, no norm."""
    model = step.facts["model"]
    eps = model.config.rms_norm_eps
    likely: tuple[float, ...] = EPS
    if theirs is not None:
        found = eps_of(step.facts["shaped"](inputs[0]), model.wide(step.weight), theirs)
        likely = () if found is None else (found,)
    for value in likely:
        if abs(value / eps - 1) > 0.01:
            name = f"rmsnorm.eps_{value:g}".replace("e-0", "e-")
            yield Hand(name, f"eps is {value:g} where the config has {eps:g}.", {"eps": value})
    for other in others(model.params, step.weight):

        def gain(step: Step, other: str = other) -> Array:
            w: Array = model.wide(other)
            return w

        yield Hand(*taken_from(other, step.weight), {"w": gain})
    says = "it is not normalised: the input comes out as it is."
    yield Hand("rmsnorm.skipped", says, {"skipped": True})


def norm(step: Step, x: Array, **changes: Any) -> Array:
    """Compute RMSNorm, with another eps or w, or not at all."""
    model = step.facts["model"]
    y: Array = step.facts["shaped"](x)
    if changes.get("skipped"):
        return y
    w = changes["w"] if "w" in changes else model.wide(step.weight)
    return rmsnorm_forward(y, w, changes.get("eps", model.config.rms_norm_eps))[0]


def eps_of(x: Array, w: Array, y: Array) -> float | None:
    """Return the eps with which y is RMSNorm of x, in one digit if that is near, else in three.

    >>> x = np.array([[1.0, 2.0], [3.0, -1.0]])
    >>> eps_of(x, np.ones(2), x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-3))
    0.001
    """
    if x.shape != y.shape:
        return None
    xw = x * w
    with np.errstate(all="ignore"):
        inverse = (xw * y).sum(axis=-1) / (xw * xw).sum(axis=-1)
        mean = (x * x).mean(axis=-1)
        weight = mean**-2.0  # small vectors tell more
        eps = float(((1 / inverse**2 - mean) * weight).sum() / weight.sum())
    if not (np.isfinite(eps) and eps > 0):
        return None
    short = float(f"{eps:.0e}")
    return short if abs(short / eps - 1) < 0.05 else float(f"{eps:.3g}")


def rope_mistakes(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Hand]:
    """Other positions, another base, no turn at all."""
    model = step.facts["model"]
    positions, theta = model.one_row(), model.config.rope_theta
    for by in (1, -1, 2, -2):
        way = f"{abs(by)} too {'high' if by > 0 else 'low'}"
        name = {1: "rope.position_plus_one", -1: "rope.position_minus_one"}
        name_of = name.get(by, f"rope.positions{by:+d}")
        yield Hand(name_of, f"positions are {way}.", {"positions": positions + by})
    counting = {"positions": np.arange(model.T)}
    yield Hand("rope.positions_of_all", "positions count padding too.", counting)
    backwards = {"positions": positions[..., ::-1]}
    yield Hand("rope.positions_backwards", "positions run backwards.", backwards)
    says = "RoPE is not applied: it comes out as it went in."
    yield Hand("rope.not_turned", says, {"not_turned": True})
    for base in BASES:
        if base != theta:
            says = f"the base is {base:g}; rope_theta of the config is {theta:g}."
            yield Hand(f"rope.base_{base:.0f}", says, {"base": base})
    if model.config.rope_scaling is not None:
        says = "rope_scaling of the config is not applied."
        yield Hand("rope.no_scaling", says, {"base": theta})
    if not step.bank or "rope" not in names():
        says = (
            "pairs are interleaved, (0, 1), (2, 3) and so on; Qwen pairs feature i with i + Dh/2."
        )
        yield Hand("rope.interleaved", says, {"interleaved": True}, "convention")
    if inputs[0].ndim == 3:
        says = "heads are cut with a reshape to (B, H, T, Dh); the axes must be exchanged."
        yield Hand("heads_reshaped", says, {"reshaped": True})


def rope(step: Step, x: Array, **changes: Any) -> Array:
    """Turn queries or keys, at other positions, with another base, in other pairs."""
    model = step.facts["model"]
    if changes.get("reshaped"):
        x = x.reshape(model.B, step.facts["heads"], model.T, -1)
    else:
        x = step.facts["shaped"](x)
    if changes.get("not_turned"):
        return x
    positions = changes.get("positions", model.positions)
    if "base" in changes:
        frequencies = rope_inv_freq(x.shape[-1], changes["base"], "float64")
        cos, sin = rope_tables(positions, frequencies)
    elif "positions" in changes:
        cos, sin = step.facts["tables_at"](positions)
    else:
        cos, sin = step.facts["cos"], step.facts["sin"]
    if not changes.get("interleaved"):
        return rope_forward(x, cos, sin)[0]
    half = cos.shape[-1] // 2
    cos, sin = ((t if t.ndim == 2 else t[:, None])[..., :half] for t in (cos, sin))
    a, b, y = x[..., ::2], x[..., 1::2], np.empty_like(x)
    y[..., ::2], y[..., 1::2] = a * cos - b * sin, a * sin + b * cos
    return y


def averaged_mistakes(
    step: Step, inputs: tuple[Array, ...], theirs: Array | None
) -> Iterator[Hand]:
    """Which values a head averages."""
    if 1 < step.facts["Hkv"] < inputs[0].shape[1]:
        says = "value heads are tiled, 0 1 0 1; head h must read value head h // G, 0 0 1 1."
        yield Hand("attention.heads_by_tiling", says, {"tiled": True})
    says = "value heads are cut with a reshape to (B, Hkv, T, Dh); the axes must be exchanged."
    yield Hand("heads_reshaped", says, {"reshaped": True})


def averaged(step: Step, probs: Array, v: Array, **changes: Any) -> Array:
    """Average the values of a head, tiled or cut in another way."""
    Hkv = step.facts["Hkv"]
    if changes.get("reshaped"):
        v = v.reshape(v.shape[0], Hkv, v.shape[1], -1) if v.ndim == 3 else v
    else:
        v = step.facts["values"](v)
    G = probs.shape[1] // Hkv
    means: Array = probs @ (
        np.tile(v, (1, G, 1, 1)) if changes.get("tiled") else np.repeat(v, G, axis=1)
    )
    return means


def shared_mistakes(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Hand]:
    """How the shared expert is added."""
    for name, says, changes in (
        ("no_gate", "the shared expert is added without its gate.", {"gate": "none"}),
        ("no_sigmoid", "the gate of the shared expert has no sigmoid.", {"gate": "no sigmoid"}),
        ("no_shared", "the shared expert is not added.", {"shared": 0}),
        ("no_routed", "the routed experts are not added.", {"routed": 0}),
        ("gate_twice", "the gate is on the routed experts too.", {"on_routed": "gate"}),
        ("complement", "the routed experts are multiplied by 1 - gate.", {"on_routed": "rest"}),
    ):
        yield Hand(f"shared_expert.{name}", says, changes)


def shared(step: Step, y: Array, s: Array, g: Array, **changes: Any) -> Array:
    """Add the shared expert s to the routed ones y."""
    kinds: dict[str, Any] = {"none": 1.0, "no sigmoid": g}
    gate = kinds[changes["gate"]] if "gate" in changes else sigmoid(g)
    share = {"gate": gate, "rest": 1 - gate}.get(changes.get("on_routed", ""), 1.0)
    both: Array = changes.get("routed", 1) * share * y + changes.get("shared", 1) * gate * s
    return both.reshape(step.facts["shape"])


def weighted_mistakes(
    step: Step, inputs: tuple[Array, ...], theirs: Array | None
) -> Iterator[Hand]:
    """How the outputs of the chosen experts are added up."""
    for name, says, changes in (
        ("no_weights", "the experts are added up without their weights.", {"weights": "ones"}),
        ("mean", "the experts are averaged, without their weights.", {"weights": "mean"}),
        ("first_only", "only the first expert of each token is taken.", {"chosen": 1}),
        (
            "renormalised",
            "the weights of the chosen experts are made to sum to 1 here.",
            {"weights": "renormalised"},
        ),
        (
            "weights_backwards",
            "the weights are in the opposite order of the experts.",
            {"weights": "backwards"},
        ),
    ):
        yield Hand(f"moe.{name}", says, changes)


def weighted(step: Step, w: Array, y: Array, **changes: Any) -> Array:
    """Add up what the chosen experts gave."""
    rule = changes.get("weights")
    if rule in ("ones", "mean"):
        w = np.full_like(w, 1.0 if rule == "ones" else 1 / w.shape[1])
    elif rule == "renormalised":
        w = w / w.sum(axis=1, keepdims=True)
    elif rule == "backwards":
        w = w[:, ::-1]
    K = changes.get("chosen", w.shape[1])
    sums: Array = (w[:, :K, None] * y[:, :K]).sum(axis=1)
    return sums


def residual_mistakes(
    step: Step, inputs: tuple[Array, ...], theirs: Array | None
) -> Iterator[Hand]:
    """How a branch is added to the stream."""
    for name, says, changes in (
        ("no_stream", "the stream is not added: only the branch is left.", {"stream": 0}),
        ("no_branch", "the branch is not added.", {"branch": 0}),
        ("subtracted", "the branch is subtracted.", {"branch": -1}),
        ("stream_twice", "the stream is added twice.", {"stream": 2}),
        ("branch_twice", "the branch is added twice.", {"branch": 2}),
    ):
        yield Hand(f"residual.{name}", says, changes)


def residual(step: Step, x: Array, y: Array, **changes: Any) -> Array:
    """Add a branch y to the stream x, so many times each."""
    total: Array = changes.get("stream", 1) * x + changes.get("branch", 1) * y.reshape(x.shape)
    return total


def router_mistakes(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Hand]:
    """norm_topk_prob the other way round."""
    norm = bool(step.facts["norm"])
    says = f"the weights of the chosen experts are {'not ' if norm else ''}made to sum to 1."
    yield Hand("norm_topk_prob", says, {"norm_topk_prob": not norm})


def router(step: Step, logits: Array, **changes: Any) -> Array:
    """Choose experts, and weigh them."""
    K, norm, which = (step.facts[n] for n in ("K", "norm", "which"))
    probs = softmax(logits)[0]
    ids = np.argsort(-probs, axis=-1, kind="stable")[:, :K]
    weights = np.take_along_axis(probs, ids, axis=-1)
    if changes.get("norm_topk_prob", norm):
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return ids if which else weights


RUN: dict[str, Callable[..., Array]] = {
    "linear": linear,
    "rmsnorm": norm,
    "rope": rope,
    "averaged": averaged,
    "shared_expert": shared,
    "weighted": weighted,
    "residual": residual,
    "moe_router": router,
}

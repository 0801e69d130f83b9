"""What a step would give with a known mistake: the bank's, and those that only a whole model has.

The bank (mistakes/) changes a line of one of our files. In a model more can go wrong: the weights
of another layer, positions that start elsewhere, a missing bias, a branch that is not added. Both
kinds are tried on a step whose inputs agree and whose output does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ...layers.moe_router import softmax
from ...layers.rmsnorm import rmsnorm_forward
from ...layers.rope import rope_forward, rope_inv_freq, rope_tables
from ...layers.swiglu import sigmoid
from ..edited import Edit, edited_module
from ..spec import Mistake
from ..specs import names, spec
from .trace_steps import Step

LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")
EPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-12)  # to try where only later tensors are known
BASES = (10_000.0, 100_000.0, 500_000.0, 1_000_000.0, 10_000_000.0)


class Variant(NamedTuple):
    """A step computed in another way."""

    of: str  # the kind of step, or the spec of the bank
    name: str
    says: str  # what is wrong, one plain sentence
    kind: str  # of spec.KINDS
    hint: str
    run: Callable[..., Array]  # (step, *inputs)

    def applies(self, step: Step) -> bool:
        """Say whether a step can be computed so."""
        return self.of == step.kind or any(self.of == name for name, _ in step.bank)


def variants(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Variant]:
    """Yield all ways to get a step wrong that we know; those of the bank first."""
    for name, _ in step.bank:
        yield from of_bank(name)
    for what, says, kind, run in by_hand(step, inputs, theirs):
        yield Variant(step.kind, what, says, kind, "", run)


@cache
def of_bank(name: str) -> tuple[Variant, ...]:
    """Return the mistakes of one concept's forward pass as variants."""
    if name not in names():
        return ()
    found = []
    for mistake in spec(name).forward:

        def run(step: Step, *inputs: Array, mistake: Mistake = mistake) -> Array:
            module = edited(name, mistake)
            if module is None:
                raise ValueError(f"{name}.{mistake.name} cannot be made")

            def call(**arguments: Any) -> tuple[Array, ...]:
                return spec(name).run(module, {**spec(name).defaults, **arguments})

            return dict(step.bank)[name](call, *inputs)

        more = (mistake.says, mistake.kind, mistake.hint)
        found.append(Variant(name, f"{name}.{mistake.name}", *more, run))
    return tuple(found)


@cache
def edited(name: str, mistake: Mistake) -> ModuleType | None:
    """Return our file with the line of a mistake changed."""
    edit = Edit(mistake.module or spec(name).module, mistake.find, mistake.put)
    return edited_module(spec(name).module, [edit])


Hand = tuple[str, str, str, Callable[..., Array]]


def by_hand(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Hand]:
    """Yield name, sentence, kind and function of the mistakes that a model can have."""
    made = {
        "linear": linear_mistakes,
        "rmsnorm": norm_mistakes,
        "rope": rope_mistakes,
        "averaged": averaged_mistakes,
        "shared_expert": shared_mistakes,
        "weighted": weighted_mistakes,
        "residual": residual_mistakes,
    }.get(step.kind)
    if made is not None:
        yield from made(step, inputs, theirs)
    if step.kind == "moe_router":
        toggled = "not made" if step.facts.get("norm") else "made"
        yield (
            "norm_topk_prob",
            f"the weights of the chosen experts are {toggled} to sum to 1.",
            "error",
            router,
        )


def router(step: Step, logits: Array) -> Array:
    """Route with norm_topk_prob the other way round."""
    K, norm, which = (step.facts[n] for n in ("K", "norm", "which"))
    probs = softmax(logits)[0]
    ids = np.argsort(-probs, axis=-1, kind="stable")[:, :K]
    weights = np.take_along_axis(probs, ids, axis=-1)
    return ids if which else weights if norm else weights / weights.sum(axis=-1, keepdims=True)


def here(step: Step, x: Array) -> Array:
    """Return the input of a step in the shape that it works on."""
    y: Array = step.facts["shaped"](x)
    return y


def linear_mistakes(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Hand]:
    """Other weights, no bias."""
    model = step.facts["model"]

    def product(x: Array, weight: Array, bias: Array | None) -> Array:
        y: Array = x @ weight.T
        return y if bias is None else y + bias

    if model.bias(step.weight) is not None:
        yield (
            "linear.no_bias",
            f"the bias is missing ({step.weight.removesuffix('weight')}bias).",
            "error",
            lambda step, x: product(here(step, x), model.wide(step.weight), None),
        )
    for other in others(model.params, step.weight):

        def run(step: Step, x: Array, other: str = other) -> Array:
            return product(here(step, x), model.wide(other), model.bias(other))

        yield *taken_from(other, step.weight), "error", run
        if model.bias(step.weight) is not None:

            def mixed(step: Step, x: Array, other: str = other) -> Array:
                return product(here(step, x), model.wide(other), model.bias(step.weight))

            says = f"it is computed with {other} and the bias of {step.weight}."
            yield f"weight_alone_of:{other}", says, "error", mixed
    shape = model.params[step.weight].shape
    if shape[0] == shape[1]:
        yield (
            "linear.transposed",
            f"{step.weight} is transposed.",
            "error",
            lambda step, x: product(
                here(step, x), model.wide(step.weight).T, model.bias(step.weight)
            ),
        )


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
    x = step.facts["shaped"](inputs[0])
    likely: tuple[float, ...] = EPS
    if theirs is not None:
        found = eps_of(x, model.wide(step.weight), theirs)
        likely = () if found is None else (found,)
    for value in likely:
        if abs(value / eps - 1) > 0.01:
            yield (
                f"rmsnorm.eps_{value:g}".replace("e-0", "e-"),
                f"eps is {value:g} where the config has {eps:g}.",
                "error",
                lambda step, x, value=value: rmsnorm_forward(
                    here(step, x), step.facts["model"].wide(step.weight), value
                )[0],
            )
    for other in others(model.params, step.weight):

        def run(step: Step, x: Array, other: str = other) -> Array:
            return rmsnorm_forward(here(step, x), model.wide(other), eps)[0]

        yield *taken_from(other, step.weight), "error", run
    yield (
        "rmsnorm.skipped",
        "it is not normalised: the input comes out as it is.",
        "error",
        here,
    )


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
    positions = np.asarray(model.positions)

    def turned(step: Step, x: Array, where: Array, base: float | None = None) -> Array:
        x = step.facts["shaped"](x)
        if base is not None:
            return rope_forward(
                x, *rope_tables(where, rope_inv_freq(x.shape[-1], base, "float64"))
            )[0]
        tables = step.facts["tables_at"](where)
        return rope_forward(x, *tables)[0]

    for by in (1, -1, 2, -2):
        way = f"{abs(by)} too {'high' if by > 0 else 'low'}"
        yield (
            {1: "rope.position_plus_one", -1: "rope.position_minus_one"}.get(
                by, f"rope.positions{by:+d}"
            ),
            f"positions are {way}.",
            "error",
            lambda step, x, by=by: turned(step, x, positions + by),
        )
    counting = np.arange(model.T)
    yield (
        "rope.positions_of_all",
        "positions count padding too.",
        "error",
        lambda step, x: turned(step, x, counting),
    )
    yield (
        "rope.positions_backwards",
        "positions run backwards.",
        "error",
        lambda step, x: turned(step, x, positions[..., ::-1]),
    )
    yield (
        "rope.not_turned",
        "RoPE is not applied: it comes out as it went in.",
        "error",
        lambda step, x: step.facts["shaped"](x),
    )
    for base in BASES:
        if base != model.config.rope_theta:
            yield (
                f"rope.base_{base:.0f}",
                f"the base is {base:g}; rope_theta of the config is {model.config.rope_theta:g}.",
                "error",
                lambda step, x, base=base: turned(step, x, positions, base),
            )
    if model.config.rope_scaling is not None:
        yield (
            "rope.no_scaling",
            "rope_scaling of the config is not applied.",
            "error",
            lambda step, x: turned(step, x, positions, model.config.rope_theta),
        )

    def interleaved(step: Step, x: Array) -> Array:
        cos, sin = (
            t if t.ndim == 2 else t[:, None] for t in (step.facts["cos"], step.facts["sin"])
        )
        x, half = step.facts["shaped"](x), cos.shape[-1] // 2
        a, b, cos, sin = x[..., ::2], x[..., 1::2], cos[..., :half], sin[..., :half]
        y = np.empty_like(x)
        y[..., ::2], y[..., 1::2] = a * cos - b * sin, a * sin + b * cos
        return y

    if not step.bank or "rope" not in names():
        says = (
            "pairs are interleaved, (0, 1), (2, 3) and so on; Qwen pairs feature i with i + Dh/2."
        )
        yield "rope.interleaved", says, "convention", interleaved

    def uncut(step: Step, x: Array) -> Array:
        heads = step.facts["heads"]
        x = x.reshape(model.B, heads, model.T, -1)
        return rope_forward(x, step.facts["cos"], step.facts["sin"])[0]

    if inputs[0].ndim == 3:
        says = "heads are cut with a reshape to (B, H, T, Dh); the axes must be exchanged."
        yield "heads_reshaped", says, "error", uncut


def averaged_mistakes(
    step: Step, inputs: tuple[Array, ...], theirs: Array | None
) -> Iterator[Hand]:
    """Which values a head averages."""
    Hkv, values = step.facts["Hkv"], step.facts["values"]
    H = inputs[0].shape[1]
    if 1 < Hkv < H:

        def tiled(step: Step, probs: Array, v: Array) -> Array:
            means: Array = probs @ np.tile(values(v), (1, H // Hkv, 1, 1))
            return means

        says = "value heads are tiled, 0 1 0 1; head h must read value head h // G, 0 0 1 1."
        yield "attention.heads_by_tiling", says, "error", tiled

    def reshaped(step: Step, probs: Array, v: Array) -> Array:
        B, T = v.shape[:2]
        flat = v.reshape(B, Hkv, T, -1) if v.ndim == 3 else v
        means: Array = probs @ np.repeat(flat, H // Hkv, axis=1)
        return means

    says = "value heads are cut with a reshape to (B, Hkv, T, Dh); the axes must be exchanged."
    yield "heads_reshaped", says, "error", reshaped


def shared_mistakes(step: Step, inputs: tuple[Array, ...], theirs: Array | None) -> Iterator[Hand]:
    """How the shared expert is added."""
    for name, says, rule in (
        (
            "shared_expert.no_gate",
            "the shared expert is added without its gate.",
            lambda y, s, g: y + s,
        ),
        (
            "shared_expert.no_sigmoid",
            "the gate of the shared expert has no sigmoid.",
            lambda y, s, g: y + g * s,
        ),
        ("shared_expert.no_shared", "the shared expert is not added.", lambda y, s, g: y),
        (
            "shared_expert.no_routed",
            "the routed experts are not added.",
            lambda y, s, g: sigmoid(g) * s,
        ),
        (
            "shared_expert.gate_twice",
            "the gate is on the routed experts too.",
            lambda y, s, g: sigmoid(g) * (y + s),
        ),
        (
            "shared_expert.complement",
            "the routed experts are multiplied by 1 - gate.",
            lambda y, s, g: (1 - sigmoid(g)) * y + sigmoid(g) * s,
        ),
    ):
        yield (
            name,
            says,
            "error",
            lambda step, y, s, g, rule=rule: rule(y, s, g).reshape(step.facts["shape"]),
        )


def weighted_mistakes(
    step: Step, inputs: tuple[Array, ...], theirs: Array | None
) -> Iterator[Hand]:
    """How the outputs of the chosen experts are added up."""
    for name, says, rule in (
        (
            "moe.no_weights",
            "the experts are added up without their weights.",
            lambda w, y: y.sum(axis=1),
        ),
        (
            "moe.mean",
            "the experts are averaged, without their weights.",
            lambda w, y: y.mean(axis=1),
        ),
        (
            "moe.first_only",
            "only the first expert of each token is taken.",
            lambda w, y: w[:, :1] * y[:, 0],
        ),
        (
            "moe.renormalised",
            "the weights of the chosen experts are made to sum to 1 here.",
            lambda w, y: ((w / w.sum(axis=1, keepdims=True))[:, :, None] * y).sum(axis=1),
        ),
        (
            "moe.weights_backwards",
            "the weights are in the opposite order of the experts.",
            lambda w, y: (w[:, ::-1, None] * y).sum(axis=1),
        ),
    ):
        yield name, says, "error", lambda step, w, y, rule=rule: rule(w, y)


def residual_mistakes(
    step: Step, inputs: tuple[Array, ...], theirs: Array | None
) -> Iterator[Hand]:
    """How a branch is added to the stream."""
    for name, says, rule in (
        ("residual.no_stream", "the stream is not added: only the branch is left.", lambda x, y: y),
        ("residual.no_branch", "the branch is not added.", lambda x, y: x),
        ("residual.subtracted", "the branch is subtracted.", lambda x, y: x - y),
        ("residual.stream_twice", "the stream is added twice.", lambda x, y: 2 * x + y),
        ("residual.branch_twice", "the branch is added twice.", lambda x, y: x + 2 * y),
    ):
        yield name, says, "error", lambda step, x, y, rule=rule: rule(x, y.reshape(x.shape))

"""Attention with a mask: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute out with a copy of layers/attention.py."""
    return (m.attention_forward(a["q"], a["k"], a["v"], a["mask"])[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients with a copy of layers/attention.py."""
    _, cache = m.attention_forward(a["q"], a["k"], a["v"], a["mask"])
    return dict(zip(("q", "k", "v"), m.attention_backward(dy[0], cache), strict=True))


def qkv(rng: np.random.Generator, B: int, H: int, Hkv: int, T: int, S: int, Dh: int) -> Arguments:
    """Return queries, keys and values of order 1."""
    shapes = {"q": (B, H, T, Dh), "k": (B, Hkv, S, Dh), "v": (B, Hkv, S, Dh)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def whole_scores(
    rng: np.random.Generator, a: Arguments, low: int, high: int, *, key_sign: int = 1
) -> Arguments:
    """Put whole numbers into q and k: with Dh = 16 every score is exact, however large it is."""
    a["q"], a["k"] = (rng.integers(low, high + 1, a[x].shape).astype(np.float64) for x in "qk")
    a["k"] *= key_sign
    return a


def inputs(rng: np.random.Generator, *sizes: int, causal: bool = False) -> Arguments:
    """Return q, k, v of sizes B, H, Hkv, T, S, Dh, and a mask (T, S) that leaves each some keys."""
    T, S = sizes[3], sizes[4]
    mask = np.tri(T, S, S - T, dtype=bool) if causal else rng.random((T, S)) < 0.6
    if not causal:
        mask[np.arange(T), rng.integers(0, S, T)] = True
        mask[0] = True  # every key is seen by somebody
    return {**qkv(rng, *sizes), "mask": mask}


def padded(rng: np.random.Generator, *sizes: int, hidden: int) -> Arguments:
    """Return q, k, v and a causal mask (B, T, S); the first keys of the first text are padding."""
    a = inputs(rng, *sizes, causal=True)
    real = np.ones((sizes[0], sizes[4]), dtype=bool)
    real[0, :hidden] = False
    return {**a, "mask": a["mask"] & real[:, None, :]}


def low_visible(rng: np.random.Generator) -> Arguments:
    """Return keys whose scores are about -14000 where they may be seen, and about 0 where not."""
    a = whole_scores(rng, inputs(rng, 2, 3, 3, 5, 5, 16), 58, 60, key_sign=-1)
    a["mask"] = np.ones((5, 5), dtype=bool)
    a["mask"][:, 2:4] = False
    a["k"][:, :, 2:4] = rng.integers(-1, 2, a["k"][:, :, 2:4].shape)
    return a


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 2, 3, 3, 5, 11, 7),
        "three heads and a random mask",
        hard=False,
    ),
    Probe(
        "no mask",
        lambda rng: {**qkv(rng, 2, 2, 2, 3, 7, 5), "mask": None},
        "no mask at all: everything may be seen",
    ),
    Probe(
        "causal",
        lambda rng: inputs(rng, 2, 5, 5, 7, 7, 3, causal=True),
        "a causal mask, as many queries as keys",
        hard=False,
    ),
    Probe(
        "grouped heads",
        lambda rng: inputs(rng, 2, 6, 2, 5, 7, 3, causal=True),
        "six query heads share two key and value heads",
    ),
    Probe(
        "other groups",
        lambda rng: inputs(rng, 1, 6, 3, 3, 5, 11),
        "six query heads share three key and value heads",
    ),
    Probe(
        "mask per row",
        lambda rng: padded(rng, 2, 3, 3, 4, 7, 5, hidden=3),
        "a mask (B, T, S): the first text starts with padding",
    ),
    Probe(
        "nothing to see",
        lambda rng: padded(rng, 2, 4, 2, 5, 5, 3, hidden=2),
        "queries of padding that may see nothing: they must give zeros",
    ),
    Probe(
        "huge scores",
        lambda rng: whole_scores(rng, inputs(rng, 2, 3, 3, 7, 7, 16, causal=True), -40, 40),
        "scores in the thousands, where exp overflows",
        gradient=False,
    ),
    Probe(
        "low scores",
        low_visible,
        "scores of about -14000 beside hidden ones of about 0",
        gradient=False,
    ),
    Probe("one token", lambda rng: inputs(rng, 1, 1, 1, 1, 1, 5, causal=True), "a single token"),
    Probe(
        "square",
        lambda rng: inputs(rng, 4, 4, 4, 4, 4, 4, causal=True),
        "all sizes equal: axes can be mixed up",
    ),
)

_SCALE = "    scale = Dh**-0.5 if scale is None else scale\n\n    dtype"
_HEADS = "q, k, v = q.reshape(B, Hkv, H // Hkv, T, Dh), k[:, :, None], v[:, :, None]"
_ALL_HEADS = "q, k, v = q.reshape(B, H, 1, T, Dh), "
_EACH = "xp.{0}({1}, H // Hkv, axis=1)[:, :, None]"
_TILED, _REPEATED = "xp.tile({}, (1, H // Hkv, 1, 1))[:, :, None]", _EACH.format("repeat", "{}")
_SCORES = "scores = (q @ k.swapaxes(-1, -2)) * scale  # (B, Hkv, G, T, S)"
_MASKED = "scores = xp.where(mask, scores, -xp.inf)"
_PROBS = "probs = weights / (total + (total == 0))  # a row that sees nothing stays 0"
_OUT = "out = (probs @ v).reshape(B, H, T, Dh)"


def _scale(value: str) -> str:
    return f"    scale = {value}\n\n    dtype"


SCALE = (
    Mistake(
        "no_scale",
        _SCALE,
        _scale("1.0"),
        "scores are not divided by sqrt(Dh).",
        "The scores of random vectors must have a variance of about 1.",
    ),
    Mistake(
        "scale_by_width",
        _SCALE,
        _scale("1 / Dh"),
        "scores are divided by Dh, not by its square root; or by the root, twice.",
        "The scores of random vectors must have a variance of about 1.",
    ),
    Mistake(
        "scale_multiplied",
        _SCALE,
        _scale("Dh**0.5"),
        "scores are multiplied by sqrt(Dh); they must be divided.",
        "Wider heads give larger products: which way must the factor go?",
    ),
    Mistake(
        "scale_of_all_heads",
        _SCALE,
        _scale("(H * Dh) ** -0.5"),
        "scores are divided by the root of the width of all heads; each head has its own width.",
        "Over how many products does one score sum?",
    ),
    Mistake(
        "scale_of_keys",
        _SCALE,
        _scale("S**-0.5"),
        "scores are divided by the root of the number of keys: the size of another axis.",
        "Over how many products does one score sum?",
    ),
    Mistake(
        "scale_of_heads",
        _SCALE,
        _scale("H**-0.5"),
        "scores are divided by the root of the number of heads: the size of another axis.",
        "Over how many products does one score sum?",
    ),
    Mistake(
        "scale_of_queries",
        _SCALE,
        _scale("T**-0.5"),
        "scores are divided by the root of the number of queries: the size of another axis.",
        "Over how many products does one score sum?",
    ),
    Mistake(
        "scale_after",
        _SCALE,
        "    v, scale = v * v.dtype.type(Dh**-0.5), 1.0\n\n    dtype",
        "the result is divided by sqrt(Dh), not the scores.",
        "With all values equal to 1 the result must be 1.",
    ),
)
SOFTMAX = (
    Mistake(
        "no_shift",
        _PROBS,
        "weights = xp.exp(scores)\n    probs = weights / weights.sum(axis=-1, keepdims=True)",
        "large scores overflow: exp(710) is infinite in float64, exp(89) in float32.",
        "On paper a constant can be taken from a whole row: which one helps?",
        "numeric",
    ),
    Mistake(
        "shift_of_all",
        _PROBS,
        "weights = xp.exp(scores - scores.max())\n"
        "    probs = weights / weights.sum(axis=-1, keepdims=True)",
        "one maximum is taken out for all rows: rows far below it underflow to 0 / 0.",
        "Each row needs its own maximum.",
        "numeric",
    ),
    Mistake(
        "softmax_over_queries",
        _PROBS,
        "weights = xp.exp(scores - scores.max(axis=-2, keepdims=True))\n"
        "    probs = weights / weights.sum(axis=-2, keepdims=True)",
        "the softmax runs over the queries; it must run over the keys.",
        "With values of 1 the result must be 1: along which axis do the weights sum to 1?",
    ),
    Mistake(
        "softmax_over_heads",
        _PROBS,
        "weights = xp.exp(scores - scores.max(axis=(1, 2), keepdims=True))\n"
        "    probs = weights / weights.sum(axis=(1, 2), keepdims=True)",
        "the softmax runs over the heads; it must run over the keys.",
        "With values of 1 the result must be 1: along which axis do the weights sum to 1?",
    ),
    Mistake(
        "softmax_over_batch",
        _PROBS,
        "weights = xp.exp(scores - scores.max(axis=0, keepdims=True))\n"
        "    probs = weights / weights.sum(axis=0, keepdims=True)",
        "the softmax runs over the batch; it must run over the keys.",
        "With values of 1 the result must be 1: along which axis do the weights sum to 1?",
    ),
    Mistake(
        "softmax_over_all",
        _PROBS,
        "weights = xp.exp(scores - scores.max(axis=(-2, -1), keepdims=True))\n"
        "    probs = weights / weights.sum(axis=(-2, -1), keepdims=True)",
        "one sum is taken over all queries and keys; each query has its own.",
        "With all values equal to 1 the result must be 1 for every query.",
    ),
    Mistake(
        "not_normalised",
        _PROBS,
        "probs = weights",
        "the weights are not divided by their sum.",
        "With all values equal to 1 the result must be 1.",
    ),
    Mistake(
        "one_in_the_sum",
        _PROBS,
        "probs = weights / (total + xp.exp(-peak))",
        "the sum has an extra 1, so that a query may look at nothing; Qwen has no such sink.",
        "With all values equal to 1 the result must be 1, and not a little less.",
        "convention",
    ),
    Mistake(
        "eps_in_the_sum",
        _PROBS,
        "probs = weights / (total + 1e-6)",
        "1e-6 is added to the sum of the weights; after the shift it is at least 1 already.",
        "With all values equal to 1 the result must be 1 to the last digit.",
        "numeric",
    ),
    Mistake(
        "powers_of_two",
        "weights = xp.exp(scores - peak)",
        "weights = xp.exp2(scores - peak)",
        "powers of 2 are taken for powers of e, as if the scores had the factor log2(e).",
        "A score that is higher by 1 weighs 2.718 times as much.",
    ),
)
MIXED_UP = (
    Mistake(
        "keys_for_values",
        _OUT,
        "out = (probs @ k).reshape(B, H, T, Dh)",
        "the weighted mean is taken of the keys; it must be of the values.",
        "Change v: does the result change?",
    ),
    Mistake(
        "values_for_keys",
        _SCORES,
        "scores = (q @ v.swapaxes(-1, -2)) * scale",
        "queries are compared with the values; they must be compared with the keys.",
        "Change k: does the result change?",
    ),
    Mistake(
        "keys_and_values_swapped",
        "k[:, :, None], v[:, :, None]",
        "v[:, :, None], k[:, :, None]",
        "keys and values are exchanged.",
        "Double v: the result must double.",
    ),
    Mistake(
        "keys_reshaped",
        _SCORES,
        "scores = (q @ k.reshape(*k.shape[:-2], Dh, S)) * scale",
        "the keys are reshaped to (Dh, S), not transposed: their numbers are elsewhere.",
        "Change one key: how many columns of the scores change?",
    ),
    Mistake(
        "heads_by_tiling",
        _HEADS,
        f"{_ALL_HEADS}{_TILED.format('k')}, {_TILED.format('v')}",
        "query head h reads head h % Hkv of k and v; it must read head h // G, with G = H / Hkv.",
        "With 6 query heads and 2 of k and v: which does query head 1 read?",
    ),
    Mistake(
        "keys_by_tiling",
        _HEADS,
        f"{_ALL_HEADS}{_TILED.format('k')}, {_REPEATED.format('v')}",
        "k is tiled and v repeated: a query head reads a value head that is not its key head.",
        "Both are spread over the query heads in one order.",
    ),
    Mistake(
        "values_by_tiling",
        _HEADS,
        f"{_ALL_HEADS}{_REPEATED.format('k')}, {_TILED.format('v')}",
        "v is tiled and k repeated: a query head reads a value head that is not its key head.",
        "Both are spread over the query heads in one order.",
    ),
    Mistake(
        "first_head_for_all",
        _HEADS,
        "q, k, v = q.reshape(B, Hkv, H // Hkv, T, Dh), k[:, :1, None], v[:, :1, None]",
        "all query heads read the first head of k and v.",
        "Change the last head of k: does the result change?",
    ),
    Mistake(
        "mean_of_heads",
        _HEADS,
        "q, k, v = q.reshape(B, Hkv, H // Hkv, T, Dh), *(x.mean(axis=1)[:, None, None] "
        "for x in (k, v))",
        "all query heads read the mean of the heads of k and v.",
        "Change the last head of k: which query heads may notice?",
    ),
    Mistake(
        "heads_out_of_order",
        _OUT,
        "out = (probs @ v).swapaxes(1, 3).reshape(B, T, -1, Dh).swapaxes(1, 2)",
        "heads come out in another order than they went in.",
        "Change query head 0 alone: which head of the result changes?",
    ),
)
# what a hidden key gets: seen with every mask that hides something
HIDDEN = (
    Mistake(
        "hidden_score_zero",
        _MASKED,
        "scores = xp.where(mask, scores, 0.0)",
        "hidden scores are set to 0, or multiplied by 0: exp(0) = 1, so they still take part.",
        "Which score gives the weight 0?",
    ),
    Mistake(
        "hidden_score_minus_10",
        _MASKED,
        "scores = xp.where(mask, scores, -10.0)",
        "hidden scores are set to -10: they keep a little weight.",
        "Which score gives the weight 0, whatever the others are?",
        "numeric",
    ),
    Mistake(
        "hidden_score_minus_10000",
        _MASKED,
        "scores = xp.where(mask, scores, -10000.0)",
        "hidden scores are set to a number such as -10000, not below every score there can be.",
        "Which score gives the weight 0, whatever the others are?",
        "numeric",
    ),
    Mistake(
        "minus_10000_added",
        _MASKED,
        "scores = scores + xp.where(mask, 0.0, -10000.0)",
        "a number such as 10000 is taken from hidden scores: they may still be above others.",
        "Which score gives the weight 0, whatever the others are?",
        "numeric",
    ),
    Mistake(
        "hidden_nan",
        _MASKED,
        "scores = scores + ~mask * -xp.inf",
        "0 times minus infinity is NaN: it is added to the scores that may be seen.",
        "Choose between two numbers, do not multiply.",
    ),
    Mistake(
        "mask_after_softmax",
        _PROBS,
        "full = (q @ k.swapaxes(-1, -2)) * scale\n"
        "    full = xp.exp(full - full.max(axis=-1, keepdims=True))\n"
        "    full = full / full.sum(axis=-1, keepdims=True)\n"
        "    probs = xp.where(scores == -xp.inf, 0.0, full)",
        "the mask acts after the softmax: the weights of a query no longer sum to 1.",
        "With all values equal to 1 the result must be 1.",
    ),
)
MASK = (
    Mistake(
        "no_mask",
        "    if mask is not None:\n",
        "    if False:\n",
        "the mask is not used.",
        "Change a hidden key: the result must stay.",
    ),
    Mistake(
        "mask_inverted",
        "mask = mask[:, None, None] if mask.ndim == 3 else mask",
        "mask = ~mask[:, None, None] if mask.ndim == 3 else ~mask",
        "True is taken for hidden, as in torch.nn.MultiheadAttention; here True is visible.",
        "Change a key that may be seen: does the result change?",
        "convention",
    ),
    Mistake(
        "mask_of_first_row",
        "mask[:, None, None] if mask.ndim == 3",
        "mask[:1, None, None] if mask.ndim == 3",
        "the mask of the first text is used for the whole batch.",
        "Pad one text alone: do the others change?",
    ),
    Mistake(
        "nan_when_nothing_is_seen",
        "weights / (total + (total == 0))",
        "weights / total",
        "a query that may see nothing gives NaN; it must give zeros.",
        "Its weights are 0 / 0: what should be there?",
        "numeric",
    ),
    Mistake(
        "mean_when_nothing_is_seen",
        _MASKED,
        "scores = xp.where(mask, scores, np.finfo(scores.dtype).min)",
        "hidden scores are finite, not minus infinity: where all are hidden, all count the same.",
        "All its scores are equal then: which weights follow?",
        "convention",
    ),
    Mistake(
        "all_when_nothing_is_seen",
        _MASKED,
        "scores = scores + xp.where(mask, 0.0, -1e9)",
        "a large number is taken from hidden scores: a query that may see nothing sees everything.",
        "The same number is taken from all its scores: what does a softmax make of that?",
        "convention",
    ),
)
FORWARD = (*SCALE, *SOFTMAX, *MIXED_UP, *HIDDEN, *MASK)

_DSCORES = "dscores = probs * (dprobs - delta) * scale"
_DK = "dk = (dscores.swapaxes(-1, -2) @ q).sum(axis=2)"
_DV = "dv = (probs.swapaxes(-1, -2) @ dout).sum(axis=2)"
BACKWARD = (
    Mistake(
        "softmax_sum_lost",
        _DSCORES,
        "dscores = probs * dprobs * scale",
        "the sum is missing in the gradient of the softmax: the weights of a row depend on each "
        "other.",
        "The gradients of the scores of one query sum to 0: do yours?",
    ),
    Mistake(
        "softmax_sum_sign",
        _DSCORES,
        "dscores = probs * (dprobs + delta) * scale",
        "the sum in the gradient of the softmax is added; it must be subtracted.",
        "The gradients of the scores of one query sum to 0: do yours?",
    ),
    Mistake(
        "softmax_mean_for_sum",
        "delta = (dprobs * probs).sum(axis=-1",
        "delta = (dprobs * probs).mean(axis=-1",
        "a mean stands where the gradient of the softmax has a sum.",
        "The gradients of the scores of one query sum to 0: do yours?",
    ),
    Mistake(
        "softmax_diagonal",
        _DSCORES,
        "dscores = probs * (1 - probs) * dprobs * scale",
        "only p (1 - p) is used for the softmax: each score acts on all weights of its row.",
        "The gradients of the scores of one query sum to 0: do yours?",
    ),
    Mistake(
        "softmax_factor_lost",
        _DSCORES,
        "dscores = (dprobs - delta) * scale",
        "the factor p is missing in the gradient of the softmax.",
        "A key that has no weight gets no gradient.",
    ),
    Mistake(
        "scale_forgotten",
        _DSCORES,
        "dscores = probs * (dprobs - delta)",
        "dq and dk lack the factor 1 / sqrt(Dh) of the scores.",
        "Both are off by one factor: what is its square?",
    ),
    Mistake(
        "scale_twice",
        _DSCORES,
        "dscores = probs * (dprobs - delta) * scale**2",
        "dq and dk have the factor 1 / sqrt(Dh) twice.",
        "Both are off by one factor: what is its square?",
    ),
    Mistake(
        "scale_forgotten_in_dq",
        "dq = (dscores @ k)",
        "dq = (dscores @ k / scale)",
        "dq lacks the factor 1 / sqrt(Dh) of the scores; dk has it.",
        "dq is off by one factor: what is its square?",
    ),
    Mistake(
        "scale_forgotten_in_dk",
        _DK,
        "dk = (dscores.swapaxes(-1, -2) @ q / scale).sum(axis=2)",
        "dk lacks the factor 1 / sqrt(Dh) of the scores; dq has it.",
        "dk is off by one factor: what is its square?",
    ),
    Mistake(
        "dk_mean_of_group",
        _DK,
        "dk = (dscores.swapaxes(-1, -2) @ q).mean(axis=2)",
        "dk is a mean over the query heads that share a key head; it must be their sum.",
        "Try as many key heads as query heads: is dk right then?",
    ),
    Mistake(
        "dv_mean_of_group",
        _DV,
        "dv = (probs.swapaxes(-1, -2) @ dout).mean(axis=2)",
        "dv is a mean over the query heads that share a value head; it must be their sum.",
        "Try as many value heads as query heads: is dv right then?",
    ),
    Mistake(
        "dk_of_last_head",
        _DK,
        "dk = (dscores.swapaxes(-1, -2) @ q)[:, :, -1]",
        "dk comes from the last query head of each group: the others were overwritten.",
        "A key head that is read several times gets the sum.",
    ),
    Mistake(
        "dv_of_last_head",
        _DV,
        "dv = (probs.swapaxes(-1, -2) @ dout)[:, :, -1]",
        "dv comes from the last query head of each group: the others were overwritten.",
        "A value head that is read several times gets the sum.",
    ),
    Mistake(
        "dv_without_weights",
        _DV,
        "dv = ((0 * probs + 1).swapaxes(-1, -2) @ dout).sum(axis=2)",
        "dv is not weighted: every value gets the gradient of all queries in full.",
        "A value that nobody looks at gets no gradient.",
    ),
    Mistake(
        "weights_constant",
        _DSCORES,
        "dscores = probs * (dprobs - delta) * 0",
        "dq and dk are zero: the weights are taken for constants.",
        "Are the weights cut off from the graph, or detached?",
    ),
    Mistake(
        "dy_ignored",
        "dout = widen(dout).reshape(q.shape)",
        "dout = 0 * widen(dout).reshape(q.shape) + 1",
        "the incoming gradient is not used: ones are taken for it.",
        "Double dy: every gradient must double.",
    ),
)

SPEC = Spec(
    name="attention",
    module="minqwen.layers.attention",
    arguments=("q", "k", "v", "mask"),
    axes={
        "q": "B H T Dh",
        "k": "B Hkv S Dh",
        "v": "B Hkv S Dh",
        "mask": "T S",
        "out": "B H T Dh",
    },
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    outputs=("out",),
    notes="mask is (T, S) or (B, T, S), True = the query may see the key, or None; q may have more "
    "heads than k and v; a query that may see nothing gives zeros.",
    defaults={"mask": None},
)

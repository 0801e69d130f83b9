"""The value loss of PPO: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec
from .kl_penalty import spans

ARGUMENTS = ("values", "old_values", "returns", "mask", "cliprange_value")


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the loss with a copy of alignment/ppo_loss.py."""
    return (m.ppo_value_loss_forward(*(a[name] for name in ARGUMENTS))[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of the values with a copy of alignment/ppo_loss.py."""
    _, cache = m.ppo_value_loss_forward(*(a[name] for name in ARGUMENTS))
    return {"values": m.ppo_value_loss_backward(np.asarray(dy[0]), cache)}


def inputs(
    rng: np.random.Generator,
    T: int,
    *answers: tuple[int, int],
    cliprange_value: float = 0.15,
    size: float = 1.0,
) -> Arguments:
    """Return values, old ones and returns, away from the kinks of the loss.

    The change from the old value is well inside or outside of the limit, and the return is not
    half way between the value and the clipped one, where both branches are equal.
    """
    mask, c = spans(T, answers), cliprange_value
    order = rng.permutation(mask.size).reshape(mask.shape)
    change = np.where(
        order % 3 == 0,
        c * rng.uniform(0.1, 0.8, mask.shape),
        c + size * rng.uniform(0.1, 0.6, mask.shape),
    ) * np.where(order % 2, 1.0, -1.0)
    old = size * rng.uniform(0.3, 2.0, mask.shape) * rng.choice([-1.0, 1.0], mask.shape)
    middle = old + (change + np.clip(change, -c, c)) / 2
    apart = size * rng.uniform(0.2, 1.0, mask.shape) * rng.choice([-1.0, 1.0], mask.shape)
    return {
        "values": old + change,
        "old_values": old,
        "returns": middle + apart,
        "mask": mask,
        "cliprange_value": c,
    }


def close(rng: np.random.Generator) -> Arguments:
    """Return values that have hardly changed: no clip acts."""
    a = inputs(rng, 7, (0, 7), (0, 4))
    a["values"] = a["old_values"] + rng.uniform(-0.1, 0.1, a["mask"].shape)
    return a


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 7, (0, 7), (0, 7), (0, 7)),
        "three answers of the same length, changes inside and outside of the limits",
        hard=False,
    ),
    Probe(
        "padding",
        lambda rng: inputs(rng, 11, (0, 4), (0, 11), (0, 7), (0, 2), (0, 5)),
        "five answers of different length, padding on the right",
        hard=False,
    ),
    Probe("close", close, "values that have hardly changed: no clip acts"),
    Probe(
        "large",
        lambda rng: inputs(rng, 5, (0, 5), (0, 3), (0, 4), size=30.0),
        "values in the tens, far from the returns",
    ),
    Probe(
        "other limit",
        lambda rng: inputs(rng, 5, (0, 3), (0, 5), cliprange_value=0.7),
        "a clip range of 0.7",
    ),
    Probe(
        "padding on the left",
        lambda rng: inputs(rng, 7, (3, 7), (0, 7), (5, 7), cliprange_value=0.3),
        "padding on the left, and a clip range of 0.3",
    ),
    Probe("one token", lambda rng: inputs(rng, 3, (0, 1)), "a single token"),
    Probe(
        "no token",
        lambda rng: inputs(rng, 3, (0, 0), (0, 0)),
        "nothing but padding: the loss is 0",
        gradient=False,
    ),
)

_LIMITED = "limited = xp.clip(V, V_old - cliprange_value, V_old + cliprange_value)"
_ERRORS = "error, limited_error = V - R, limited - R"
_SQUARES = "far, near = error * error, limited_error * limited_error"
_LOSS = "loss = xp.maximum(far, near).sum() / 2 / tokens"
_TOKENS = "tokens = xp.maximum(mask.sum(), 1).astype(V.dtype)"
_RAW = "V, V_old, R = (x.astype(V.dtype) for x in (values, old_values, returns))"
_START = "xp, cliprange_value = array_module(values), float(cliprange_value)"


def _loss(value: str) -> str:
    return f"loss = {value}"


FORWARD = (
    Mistake(
        "min",
        _LOSS,
        _loss("xp.minimum(far, near).sum() / 2 / tokens"),
        "the smaller of the two errors is taken: the clip must never make the loss smaller.",
        "A value far from the old one and from the return: may the clip help?",
    ),
    Mistake(
        "no_half",
        _LOSS,
        _loss("xp.maximum(far, near).sum() / tokens"),
        "the factor 1/2 is missing.",
        "A value that is off by 1: what is the loss?",
        "convention",
    ),
    Mistake(
        "no_clip",
        _LOSS,
        _loss("far.sum() / 2 / tokens + 0 * near.sum()"),
        "the clipped branch is missing: it is a plain squared error.",
        "Which numbers depend on the old values?",
    ),
    Mistake(
        "clip_only",
        _LOSS,
        _loss("near.sum() / 2 / tokens"),
        "only the clipped branch is there: a value that went the wrong way gets no gradient back.",
        "A value far from the old one, away from the return: does the loss still depend on it?",
    ),
    Mistake(
        "clip_of_value",
        _LIMITED,
        "limited = xp.clip(V, -cliprange_value, cliprange_value)",
        "the value itself is clipped; it must be its change from the old value.",
        "A value of 3 that has not changed: is it clipped?",
    ),
    Mistake(
        "clip_of_factor",
        _LIMITED,
        "limited = xp.clip(V, V_old * (1 - cliprange_value), V_old * (1 + cliprange_value))",
        "the limits are shares of the old value; they must be distances from it.",
        "How far may a value move whose old one is 0?",
    ),
    Mistake(
        "clip_around_return",
        _LIMITED,
        "limited = xp.clip(V, R - cliprange_value, R + cliprange_value)",
        "the value is held near the return, which changes nothing; it must be near the old value.",
        "Which numbers depend on the old values?",
        same_as="no_clip",
    ),
    Mistake(
        "return_clipped",
        _ERRORS,
        "limited = xp.clip(R, V_old - cliprange_value, V_old + cliprange_value)\n"
        "    error, limited_error = V - R, V - limited",
        "the return is held near the old value; it must be the new value.",
        "A value that has not changed: is its error what you expect?",
    ),
    Mistake(
        "change_alone",
        _LIMITED,
        "limited = xp.clip(V - V_old, -cliprange_value, cliprange_value)",
        "the clipped change is compared with the return; the old value must be added to it.",
        "A value that has not changed: what is the clipped one?",
    ),
    Mistake(
        "one_sided",
        _LIMITED,
        "limited = xp.minimum(V, V_old + cliprange_value)",
        "the lower limit is missing: a value may fall as far as it likes.",
        "A value falls far below the old one, towards the return: does the loss follow?",
    ),
    Mistake(
        "no_upper_limit",
        _LIMITED,
        "limited = xp.maximum(V, V_old - cliprange_value)",
        "the upper limit is missing: a value may rise as far as it likes.",
        "A value rises far above the old one, towards the return: does the loss follow?",
    ),
    Mistake(
        "range_fixed",
        _START,
        "xp, cliprange_value = array_module(values), 0.2",
        "the clip range is 0.2, whatever is given.",
        "Which numbers depend on the argument cliprange_value?",
    ),
    Mistake(
        "range_doubled",
        _START,
        "xp, cliprange_value = array_module(values), 2 * float(cliprange_value)",
        "the clip range is twice as wide: it is the distance to each side.",
        "How far from the old value does the clip begin?",
    ),
    Mistake(
        "absolute",
        _SQUARES,
        "far, near = abs(error), abs(limited_error)",
        "the absolute error is taken for the square.",
        "Double all numbers and the limit: by how much must the loss grow?",
    ),
    Mistake(
        "root",
        _LOSS,
        _loss("xp.sqrt(xp.maximum(far, near).sum() / 2 / tokens)"),
        "the root of the loss is taken.",
        "Double all numbers and the limit: by how much must the loss grow?",
    ),
    Mistake(
        "max_of_sums",
        _LOSS,
        _loss("xp.maximum(far.sum(), near.sum()) / 2 / tokens"),
        "the larger of the two sums is taken; it must be the larger error of each token.",
        "Two tokens, of which the clip acts on one: which errors are added?",
    ),
    Mistake(
        "mean_of_both",
        _LOSS,
        _loss("((far + near) / 2).sum() / 2 / tokens"),
        "the two errors are averaged; it must be the larger one.",
        "A value far from the old one and from the return: may the clip help?",
    ),
    Mistake(
        "huber",
        _LOSS,
        _loss(
            "xp.maximum(*(xp.where(s <= 1, s / 2, xp.sqrt(s) - 0.5) for s in (far, near)))"
            ".sum() / tokens"
        ),
        "errors above 1 grow in a straight line (Huber loss); they must grow as their square.",
        "A value that is off by 10: what is the loss?",
        "convention",
    ),
    Mistake(
        "mean_all",
        _LOSS,
        _loss("xp.maximum(far, near).sum() / 2 / mask.size"),
        "padding is left out of the sum, but the sum is divided by the number of all places.",
        "Add a column of padding: the loss must stay as it is.",
    ),
    Mistake(
        "unmasked",
        _TOKENS,
        f"{_RAW}\n    mask = xp.ones_like(mask)\n    {_TOKENS}",
        "padding counts like any token.",
        "Change the return of a padding token: the loss must stay as it is.",
    ),
    Mistake(
        "padding_in_sum",
        _TOKENS,
        f"{_TOKENS}\n    {_RAW}",
        "padding is added to the sum, which is divided by the number of real tokens.",
        "Change the return of a padding token: the loss must stay as it is.",
    ),
    Mistake(
        "per_answer",
        _LOSS,
        _loss("(xp.maximum(far, near).sum(axis=1) / 2 / xp.maximum(mask.sum(axis=1), 1)).mean()"),
        "every answer weighs the same: a mean of means; here every token weighs the same.",
        "Two answers of 1 and 9 tokens: how much weighs the single token?",
        "convention",
    ),
    Mistake(
        "sum",
        _LOSS,
        _loss("xp.maximum(far, near).sum() / 2 + 0 * tokens"),
        "the losses are summed over the tokens, not averaged.",
        "Take every answer twice: the loss must stay as it is.",
    ),
    Mistake(
        "no_tokens_nan",
        _LOSS,
        _loss("xp.maximum(far, near).sum() / 2 / mask.sum()"),
        "with nothing but padding, 0 is divided by 0.",
        "A batch may hold no token that counts: what should it add to the loss?",
        "numeric",
    ),
)

_SHARE = "share = xp.where(limited == V, 1, (1 + xp.sign(far - near)) / 2)"
_WEIGHT = "weight = (dloss / tokens).astype(error.dtype)"
_SLOPE = "(error * share * weight)"
BACKWARD = (
    Mistake(
        "clip_forgotten",
        _SLOPE,
        "(error * weight)",
        "the gradient flows also where the clip acts; the clipped branch is flat.",
        "A value beyond the limit on the way to the return: does the loss change with it?",
    ),
    Mistake(
        "zero_outside",
        _SHARE,
        "share = xp.where(limited == V, 1.0, 0.0)",
        "every value outside of the limits gets no gradient; one that went the wrong way must come "
        "back.",
        "A value beyond the limit, away from the return: does the loss change with it?",
    ),
    Mistake(
        "branches_exchanged",
        _SHARE,
        "share = xp.where(limited == V, 1, (1 - xp.sign(far - near)) / 2)",
        "the gradient flows where the clipped branch is the larger one, and not where it should.",
        "A value beyond the limit on the way to the return: does the loss change with it?",
    ),
    Mistake(
        "slope_of_the_clipped",
        "return loss, PPOValueLossCache(error, share,",
        "return loss, PPOValueLossCache(xp.where(far > near, error, limited_error), share**0,",
        "where the clip acts, the error of the clipped value is passed on; that branch is flat.",
        "Where the clip acts, does the loss change with the value?",
    ),
    Mistake(
        "factor_2",
        _SLOPE,
        "(2 * error * share * weight)",
        "the gradient is twice too large: the 2 of the square and the 1/2 cancel.",
        "What is the derivative of x * x / 2?",
    ),
    Mistake(
        "half_left",
        _SLOPE,
        "(0.5 * error * share * weight)",
        "the gradient is half of what it should be: the 2 of the square is forgotten.",
        "What is the derivative of x * x / 2?",
    ),
    Mistake(
        "sign",
        _SLOPE,
        "(-error * share * weight)",
        "the sign is wrong: values are pushed away from the returns.",
        "A value above its return: does the loss grow with it?",
    ),
    Mistake(
        "sign_only",
        _SLOPE,
        "(array_module(error).sign(error) * share * weight)",
        "the gradient is that of the absolute error: its size is lost.",
        "Is a value that is off by 2 pulled more strongly than one that is off by 1?",
    ),
    Mistake(
        "not_divided",
        _WEIGHT,
        "weight = (dloss + 0 * tokens).astype(error.dtype)",
        "the gradient is not divided by the number of tokens.",
        "Take every answer twice: the gradient of each must be halved.",
    ),
    Mistake(
        "all_tokens",
        _WEIGHT,
        "weight = (dloss / (share.size + 0 * tokens)).astype(error.dtype)",
        "the gradient is divided by the number of all places; padding does not count.",
        "Add a column of padding: the gradient must stay as it is.",
    ),
    Mistake(
        "dloss_ignored",
        _WEIGHT,
        "weight = (1 / tokens).astype(error.dtype)",
        "the gradient that arrives from above is taken for 1.",
        "The loss is multiplied by a coefficient later: where does it enter?",
    ),
    Mistake(
        "padding_too",
        _TOKENS,
        f"{_TOKENS}\n    {_RAW}",
        "padding gets a gradient.",
        "Does the loss change with the value of a padding token?",
    ),
)

SPEC = Spec(
    name="ppo_value_loss",
    module="minqwen.alignment.ppo_loss",
    arguments=ARGUMENTS,
    axes={"values": "B T", "old_values": "B T", "returns": "B T", "mask": "B T", "loss": ""},
    outputs=("loss",),
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="One number, half of the mean over the tokens where mask is True; without one it is 0. "
    "Only values has a gradient: the old ones and the returns are constants (None is fine).",
)

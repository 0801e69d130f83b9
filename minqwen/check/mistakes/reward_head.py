"""The reward head: how it is called, tried, and got wrong."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the rewards with a copy of alignment/reward_head.py."""
    return (m.reward_head_forward(a["hidden"], a["w"], a["end_index"])[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients with a copy of alignment/reward_head.py."""
    _, cache = m.reward_head_forward(a["hidden"], a["w"], a["end_index"])
    return dict(zip(("hidden", "w"), m.reward_head_backward(dy[0], cache), strict=True))


def inputs(
    rng: np.random.Generator, T: int, D: int, ends: Sequence[int], size: float = 1.0
) -> Arguments:
    """Return hidden states that are not centred, a head, and where the rows end."""
    hidden = size * (0.5 + rng.standard_normal((len(ends), T, D)))
    return {"hidden": hidden, "w": rng.standard_normal((1, D)), "end_index": np.array(ends)}


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 7, 5, (3, 5, 2)),
        "rows of different length, padding behind them",
        hard=False,
    ),
    Probe(
        "no padding",
        lambda rng: inputs(rng, 5, 3, (4, 4)),
        "every row ends with its last token",
        hard=False,
    ),
    Probe(
        "both ends",
        lambda rng: inputs(rng, 7, 3, (0, 6, 0, 3, 6)),
        "answers that end with the first or the last token of the row",
    ),
    Probe(
        "square",
        lambda rng: inputs(rng, 5, 5, (1, 4, 0, 2, 3)),
        "all sizes equal: axes can be mixed up",
    ),
    Probe("one row", lambda rng: inputs(rng, 11, 7, (6,)), "a single row"),
    Probe("one token", lambda rng: inputs(rng, 1, 5, (0, 0)), "rows of a single token"),
    Probe("large", lambda rng: inputs(rng, 5, 3, (2, 1), size=1000.0), "hidden states near 1000"),
)

_READ = "end_hidden = hidden[xp.arange(B), end_index]"
_REWARDS = "rewards = (widen(end_hidden) @ widen(w)[0])"
FORWARD = (
    Mistake(
        "last_position",
        _READ,
        "end_index = xp.full(B, T - 1)\n    end_hidden = hidden[:, -1]",
        "the last position of the row is read, which may be padding.",
        "Add padding: the reward must stay as it is.",
    ),
    Mistake(
        "first_position",
        _READ,
        "end_index = xp.zeros(B, dtype=int)\n    end_hidden = hidden[:, 0]",
        "the first position is read, as in BERT; in a causal model it knows nothing of the answer.",
        "Which token has seen the whole answer?",
    ),
    Mistake(
        "one_early",
        _READ,
        "end_index = xp.maximum(end_index - 1, 0)\n"
        "    end_hidden = hidden[xp.arange(B), end_index]",
        "the token before the end is read, as where the end token is taken for padding.",
        "Which token has seen the whole answer?",
    ),
    Mistake(
        "one_late",
        _READ,
        "end_index = xp.minimum(end_index + 1, T - 1)\n"
        "    end_hidden = hidden[xp.arange(B), end_index]",
        "the token behind the end is read, that is padding: a length is taken for an index.",
        "Add padding: the reward must stay as it is.",
    ),
    Mistake(
        "from_the_end",
        _READ,
        "end_index = T - 1 - end_index\n    end_hidden = hidden[xp.arange(B), end_index]",
        "the index is counted from the end of the row.",
        "Index 0 is the first token of the row.",
    ),
    Mistake(
        "end_of_first_row",
        _READ,
        "end_index = xp.broadcast_to(end_index[:1], B)\n"
        "    end_hidden = hidden[xp.arange(B), end_index]",
        "the end of the first row is used for all rows.",
        "Each row has an end of its own.",
    ),
    Mistake(
        "longest_row",
        _READ,
        "end_index = xp.broadcast_to(end_index.max(), B)\n"
        "    end_hidden = hidden[xp.arange(B), end_index]",
        "the end of the longest row is used for all rows.",
        "Each row has an end of its own.",
    ),
    Mistake(
        "mean_of_all",
        _READ,
        "end_hidden = hidden.mean(axis=1)",
        "the mean over all positions is read, padding included; one token must be.",
        "Change a token that is not the end: the reward must stay as it is.",
    ),
    Mistake(
        "mean_to_the_end",
        _READ,
        "seen = (xp.arange(T) <= end_index[:, None])[:, :, None]\n"
        "    end_hidden = (hidden * seen).sum(axis=1) / seen.sum(axis=1)",
        "the mean over the tokens up to the end is read; one token must be.",
        "Change a token that is not the end: the reward must stay as it is.",
    ),
    Mistake(
        "largest",
        _READ,
        "end_hidden = hidden.max(axis=1)",
        "the largest entry of each feature is read, over all positions; one token must be.",
        "Change a token that is not the end: the reward must stay as it is.",
    ),
    Mistake(
        "sigmoid",
        _REWARDS,
        "rewards = 1 / (1 + xp.exp(-(widen(end_hidden) @ widen(w)[0])))",
        "a sigmoid is taken of the reward; the loss takes its own.",
        "Can a reward be below 0?",
    ),
    Mistake(
        "tanh",
        _REWARDS,
        "rewards = xp.tanh(widen(end_hidden) @ widen(w)[0])",
        "a tanh is taken of the reward, which has no limit here.",
        "Can a reward be above 1?",
    ),
    Mistake(
        "scaled",
        _REWARDS,
        "rewards = (widen(end_hidden) @ widen(w)[0] / D**0.5)",
        "the reward is divided by the root of the width.",
        "A head of ones: is the reward the sum of the features?",
    ),
    Mistake(
        "centred",
        _REWARDS,
        "rewards = widen(end_hidden) @ widen(w)[0]\n    rewards = (rewards - rewards.mean())",
        "the mean of the batch is subtracted: the reward of a row depends on the others.",
        "Change another row: the reward must stay as it is.",
        "convention",
    ),
    Mistake(
        "sign",
        _REWARDS,
        "rewards = -(widen(end_hidden) @ widen(w)[0])",
        "the sign is wrong.",
        "A head of ones: is the reward the sum of the features?",
    ),
)

_PUT = "dhidden[xp.arange(shape[0]), end_index] = dr[:, None] * widen(w)"
_DW = "dw = (dr @ widen(end_hidden))[None]"
BACKWARD = (
    Mistake(
        "all_positions",
        _PUT,
        "dhidden[...] = (dr[:, None] * widen(w))[:, None]",
        "every position gets the gradient; only the end token was read.",
        "Does the reward change with another token?",
    ),
    Mistake(
        "spread",
        _PUT,
        "dhidden[...] = (dr[:, None] * widen(w))[:, None] / shape[1]",
        "the gradient is spread over all positions, as that of a mean.",
        "Does the reward change with another token?",
    ),
    Mistake(
        "last_position",
        _PUT,
        "dhidden[:, -1] = dr[:, None] * widen(w)",
        "the last position of the row gets the gradient; the end token was read.",
        "Does the reward change with the padding?",
    ),
    Mistake(
        "w_forgotten",
        _PUT,
        "dhidden[xp.arange(shape[0]), end_index] = dr[:, None] + 0 * widen(w)",
        "every feature gets the same gradient: the head's weights are forgotten.",
        "What is the derivative of w h, by h?",
    ),
    Mistake(
        "dhidden_lost",
        _PUT,
        "pass",
        "the hidden states get no gradient: only the head would learn.",
        "What is the derivative of w h, by h?",
    ),
    Mistake(
        "dhidden_sign",
        _PUT,
        "dhidden[xp.arange(shape[0]), end_index] = -dr[:, None] * widen(w)",
        "the sign of the gradient of the hidden states is wrong.",
        "What is the derivative of w h, by h?",
    ),
    Mistake(
        "dw_averaged",
        _DW,
        "dw = (dr @ widen(end_hidden))[None] / len(dr)",
        "the gradient of w is the mean over the rows; it must be the sum.",
        "Every row reads the same w: what each gives is added.",
    ),
    Mistake(
        "dw_drewards_ignored",
        _DW,
        "dw = ((0 * dr + 1) @ widen(end_hidden))[None]",
        "the gradient of w does not use the incoming gradient.",
        "Double it: the gradient must double.",
    ),
    Mistake(
        "dhidden_drewards_ignored",
        _PUT,
        "dhidden[xp.arange(shape[0]), end_index] = (0 * dr[:, None] + 1) * widen(w)",
        "the gradient of the hidden states does not use the incoming gradient.",
        "Double it: the gradient must double.",
    ),
)

SPEC = Spec(
    name="reward_head",
    module="minqwen.alignment.reward_head",
    arguments=("hidden", "w", "end_index"),
    axes={"hidden": "B T D", "w": "1 D", "end_index": "B", "rewards": "B"},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    outputs=("rewards",),
    notes="end_index is the place of the token that ends each answer; w has one row, without a "
    "bias; one reward comes out for each row.",
)

"""Log-probabilities of whole answers: how they are called, tried, and got wrong."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the sums with a copy of alignment/token_logprobs.py."""
    return (m.sequence_logprobs_forward(a["logprobs"], a["mask"])[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of each token with a copy of alignment/token_logprobs.py."""
    _, cache = m.sequence_logprobs_forward(a["logprobs"], a["mask"])
    return {"logprobs": m.sequence_logprobs_backward(dy[0], cache)}


def inputs(
    rng: np.random.Generator, T: int, starts: Sequence[int], lengths: Sequence[int]
) -> Arguments:
    """Return log-probabilities of rows whose answers start and are long as given."""
    behind = np.arange(T) - np.array(starts)[:, None]
    mask = (0 <= behind) & (behind < np.array(lengths)[:, None])
    return {"logprobs": -np.exp(rng.standard_normal(mask.shape)), "mask": mask}


def impossible(rng: np.random.Generator) -> Arguments:
    """Return rows in which tokens that are hidden have probability 0."""
    a = inputs(rng, 7, (2, 0, 3), (3, 5, 2))
    a["logprobs"][~a["mask"]] = -np.inf
    return a


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 7, (2, 3, 1), (3, 2, 5)),
        "prompt, answer and padding in each of three rows",
        hard=False,
    ),
    Probe(
        "no padding",
        lambda rng: inputs(rng, 11, (4, 7), (7, 4)),
        "answers that go to the end of the row",
        hard=False,
    ),
    Probe(
        "no prompt",
        lambda rng: inputs(rng, 5, (0, 0, 0), (5, 3, 1)),
        "answers that start with the row",
    ),
    Probe(
        "square",
        lambda rng: inputs(rng, 5, (0, 1, 2, 3, 1), (2, 4, 1, 2, 3)),
        "as many rows as tokens: axes can be mixed up",
    ),
    Probe(
        "impossible",
        impossible,
        "hidden tokens of probability 0, whose log is minus infinity",
        gradient=False,
    ),
    Probe(
        "an empty answer",
        lambda rng: inputs(rng, 7, (2, 3), (3, 0)),
        "a row without a token of an answer: 0",
    ),
    Probe("one token", lambda rng: inputs(rng, 1, (0,), (1,)), "a single token"),
)

_MASK = "    mask = xp.asarray(mask)\n"
_SUM = "y = (counted * weight).sum(axis=1)"
_COUNTED = "counted = xp.where(mask, widen(logprobs), 0)"
_SO_FAR = "mask.cumsum(axis=1)"
_TO_COME = "mask[:, ::-1].cumsum(axis=1)[:, ::-1]"


def _mask(value: str) -> str:
    return f"{_MASK}    mask = {value}\n"


FORWARD = (
    Mistake(
        "mean_for_sum",
        _SUM,
        "y = (counted * weight).sum(axis=1) / xp.maximum(weight.sum(axis=1), 1)",
        "the mean over the answer's tokens, as in SimPO and IPO; DPO compares sums.",
        "An answer twice as long with the same tokens: twice as unlikely?",
        "convention",
    ),
    Mistake(
        "mean_over_row",
        _SUM,
        "y = (counted * weight).mean(axis=1)",
        "the sum is divided by the length of the row, padding included.",
        "Add padding: the answer must stay as it is.",
    ),
    Mistake(
        "mask_ignored",
        _MASK,
        _mask("xp.ones_like(mask)"),
        "the mask is not used: prompt and padding take part.",
        "Change a token of the padding: the answer must stay as it is.",
    ),
    Mistake(
        "mask_inverted",
        _MASK,
        _mask("~mask"),
        "the mask is the wrong way round: True is taken for hidden.",
        "Change a token of the padding: the answer must stay as it is.",
    ),
    Mistake(
        "prompt_included",
        _MASK,
        _mask(f"{_TO_COME} > 0"),
        "the prompt takes part too. In a pair with one prompt it cancels, otherwise not.",
        "Change a token of the prompt: the answer must stay as it is.",
    ),
    Mistake(
        "padding_included",
        _MASK,
        _mask(f"{_SO_FAR} > 0"),
        "the padding behind the answer takes part too.",
        "Change a token of the padding: the answer must stay as it is.",
    ),
    Mistake(
        "end_left_out",
        _MASK,
        _mask(f"mask & ({_TO_COME} > 1)"),
        "the last token of the answer is left out: nothing teaches the model to stop.",
        "An answer of one token: is its sum 0?",
    ),
    Mistake(
        "start_left_out",
        _MASK,
        _mask(f"mask & ({_SO_FAR} > 1)"),
        "the first token of the answer is left out, as after a second shift.",
        "An answer of one token: is its sum 0?",
    ),
    Mistake(
        "mask_one_late",
        _MASK,
        _mask("xp.roll(mask, 1, axis=1)"),
        "the mask stands one place late, and its last entry comes first.",
        "An answer of one token: which token do you read?",
    ),
    Mistake(
        "mask_one_early",
        _MASK,
        _mask("xp.roll(mask, -1, axis=1)"),
        "the mask stands one place early, and its first entry comes last.",
        "An answer of one token: which token do you read?",
    ),
    Mistake(
        "sign",
        _SUM,
        "y = -(counted * weight).sum(axis=1)",
        "the sign is wrong: this is a loss; a log-probability is never above 0.",
        "Can the log of a probability be above 0?",
    ),
    Mistake(
        "probabilities_added",
        _SUM,
        "y = (xp.exp(counted) * weight).sum(axis=1)",
        "the probabilities of the tokens are added; their logs must be.",
        "What is the probability that two things happen one after the other?",
    ),
    Mistake(
        "exponential",
        _SUM,
        "y = xp.exp((counted * weight).sum(axis=1))",
        "this is the probability of the answer, not its log: for long answers it underflows.",
        "A text of a thousand tokens: how large is your number?",
    ),
    Mistake(
        "over_rows",
        _SUM,
        "y = (counted * weight).sum(axis=0)",
        "the sum runs over the rows of the batch; it must run over the tokens of a row.",
        "Add a row to the batch: how many numbers come out?",
    ),
    Mistake(
        "product_with_mask",
        _COUNTED,
        "counted = widen(logprobs)",
        "the mask is multiplied, so that a hidden minus infinity becomes NaN.",
        "What is 0 times infinity?",
        "numeric",
    ),
)

_BACK = "dlogprobs: Array = (weight * widen(dy)[:, None])"
BACKWARD = (
    Mistake(
        "mask_forgotten",
        _BACK,
        "dlogprobs: Array = (weight * 0 + widen(dy)[:, None])",
        "tokens of the prompt and the padding get a gradient.",
        "Does the sum change with a token of the padding?",
    ),
    Mistake(
        "mean_for_sum",
        _BACK,
        "weight = weight / array_module(weight).maximum(weight.sum(axis=1, keepdims=True), 1)\n"
        "    dlogprobs: Array = (weight * widen(dy)[:, None])",
        "the gradient is divided by the length of the answer, as that of a mean.",
        "Raise one token by 1: by how much does a sum grow?",
    ),
    Mistake(
        "mean_over_row",
        _BACK,
        "dlogprobs: Array = (weight / weight.shape[1] * widen(dy)[:, None])",
        "the gradient is divided by the length of the row.",
        "Raise one token by 1: by how much does a sum grow?",
    ),
    Mistake(
        "mean_over_batch",
        _BACK,
        "dlogprobs: Array = (weight / len(weight) * widen(dy)[:, None])",
        "the gradient is divided by the number of rows, but there was no mean over them.",
        "Raise one token by 1: by how much does a sum grow?",
    ),
    Mistake(
        "sign",
        _BACK,
        "dlogprobs: Array = (-weight * widen(dy)[:, None])",
        "the sign is wrong.",
        "Raise one token by 1: by how much does a sum grow?",
    ),
    Mistake(
        "dy_ignored",
        _BACK,
        "dlogprobs: Array = (weight * (0 * widen(dy)[:, None] + 1))",
        "the incoming gradient is not used: 1 is taken for it.",
        "Double it: the gradient must double.",
    ),
    Mistake(
        "dy_of_all_rows",
        _BACK,
        "dlogprobs: Array = (weight * widen(dy).sum())",
        "every row gets the gradients of all rows.",
        "Does the sum of one row change with a token of another?",
    ),
    Mistake(
        "end_only",
        _BACK,
        "weight = weight * (weight[:, ::-1].cumsum(axis=1)[:, ::-1] == 1)\n"
        "    dlogprobs: Array = (weight * widen(dy)[:, None])",
        "only the last token of the answer gets a gradient.",
        "Which tokens does the sum run over?",
    ),
)

SPEC = Spec(
    name="sequence_logprobs",
    module="minqwen.alignment.token_logprobs",
    arguments=("logprobs", "mask"),
    axes={"logprobs": "B T", "mask": "B T", "sequence_logprobs": "B"},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    outputs=("sequence_logprobs",),
    notes="mask is True for a token of the answer, its end token too, and False for the prompt and "
    "the padding; a row without a token gives 0.",
)

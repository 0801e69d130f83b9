"""Advantages and returns: how they are asked for, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec
from .kl_penalty import spans


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute advantages and returns with a copy of alignment/gae.py."""
    numbers = {name: a[name] for name in ("gamma", "lam", "last_values")}
    advantages, returns = m.gae(a["rewards"], a["values"], a["mask"], **numbers)
    return advantages, returns


def inputs(
    rng: np.random.Generator,
    T: int,
    *answers: tuple[int, int],
    gamma: float = 0.9,
    lam: float = 0.8,
    open_end: bool = False,
) -> Arguments:
    """Return rewards and values; padding has numbers too, and an open end a value per row."""
    B = len(answers)
    return {
        "rewards": rng.standard_normal((B, T)),
        "values": rng.standard_normal((B, T)),
        "mask": spans(T, answers),
        "gamma": gamma,
        "lam": lam,
        "last_values": rng.uniform(1.0, 2.0, B) if open_end else None,
    }


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 7, (0, 7), (0, 7), (0, 7)),
        "three answers of the same length",
        hard=False,
    ),
    Probe(
        "padding",
        lambda rng: inputs(rng, 11, (0, 4), (0, 11), (0, 7), (0, 2), (0, 5)),
        "five answers of different length, padding on the right",
        hard=False,
    ),
    Probe(
        "no discount",
        lambda rng: inputs(rng, 7, (0, 5), (0, 7), (0, 3), gamma=1.0, lam=0.95),
        "gamma 1 and lambda 0.95, as usual for texts",
    ),
    Probe(
        "padding on the left",
        lambda rng: inputs(rng, 7, (3, 7), (0, 7), (5, 7)),
        "padding on the left: every answer ends in the last column",
    ),
    Probe(
        "open end",
        lambda rng: inputs(rng, 5, (0, 5), (0, 5), (0, 5), open_end=True),
        "texts cut off by the horizon, with a value for what would have come",
    ),
    Probe(
        "open end, padding",
        lambda rng: inputs(rng, 7, (0, 5), (0, 2), open_end=True),
        "texts cut off by the horizon, at different lengths",
    ),
    Probe(
        "lambda 0",
        lambda rng: inputs(rng, 5, (0, 3), (0, 5), lam=0.0),
        "lambda 0: one step only",
    ),
    Probe(
        "lambda 1",
        lambda rng: inputs(rng, 5, (0, 3), (0, 5), lam=1.0),
        "lambda 1: all that really came",
    ),
    Probe(
        "one token",
        lambda rng: inputs(rng, 3, (0, 1), (1, 2), (2, 3)),
        "answers of a single token",
    ),
)

_DELTA = "delta = r[:, t] + gamma * next_value - V[:, t]"
_RUN = "running = xp.where(real, delta + gamma * lam * running, running)"
_NEXT = "next_value = xp.where(real, V[:, t], next_value)"
_RAW = "delta = widen(rewards)[:, t] + gamma * next_value - widen(values)[:, t]"
_A = "A = xp.where(mask, xp.stack(steps, axis=1), 0) if steps else r"
_RETURNS = "(A + V).astype("
_LAST = "next_value = widen(last_values)"
_NUMBERS = "gamma, lam = float(gamma), float(lam)"


def _run(value: str) -> str:
    return f"running = xp.where(real, {value}, running)"


FORWARD = (
    Mistake(
        "no_done_boot",
        _NEXT,
        "next_value = widen(values)[:, t]",
        "the value of the padding behind an answer leaks into its last step.",
        "What comes after the last token of an answer: what is it worth?",
    ),
    Mistake(
        "no_done_run",
        _RUN,
        f"{_RAW}\n        running = delta + gamma * lam * running",
        "the running sum is not cut at the end of an answer: it carries what stands in the padding "
        "into it.",
        "Change a reward in the padding: which advantages may change?",
    ),
    Mistake(
        "masked_at_the_end",
        f"{_RUN}\n        {_NEXT}",
        f"{_RAW}\n        running = delta + gamma * lam * running\n"
        "        next_value = widen(values)[:, t]",
        "the recursion runs through padding as through an answer, and is masked only afterwards.",
        "Change a reward in the padding: which advantages may change?",
    ),
    Mistake(
        "through_padding",
        _NUMBERS,
        f"{_NUMBERS}\n    mask = xp.ones_like(mask)\n    r, V = widen(rewards), widen(values)",
        "padding is taken for tokens of the answer, and gets numbers itself.",
        "Change a reward in the padding: which advantages may change?",
    ),
    Mistake(
        "done_shift",
        "real = mask[:, t]",
        "real = mask[:, min(t + 1, T - 1)]",
        "the mask is read one step late: the last token of an answer is lost.",
        "Does the score at the last token reach the first one?",
    ),
    Mistake(
        "no_last",
        _LAST,
        "next_value = 0 * widen(last_values)",
        "a text cut off by the horizon gets 0 for what would have come; it needs last_values.",
        "A text that would have gone on: what is its end worth?",
    ),
    Mistake(
        "last_in_sum",
        _LAST,
        "next_value = running = widen(last_values)",
        "the value after the end is also taken for an advantage, from which the sum starts.",
        "After the last token: what is the value, and what the advantage?",
    ),
    Mistake(
        "gamma_only",
        _RUN,
        _run("delta + gamma * running"),
        "the running sum decays by gamma; it must be gamma times lambda.",
        "Which numbers depend on lambda?",
    ),
    Mistake(
        "lam_only",
        _RUN,
        _run("delta + lam * running"),
        "the running sum decays by lambda; it must be gamma times lambda.",
        "How is a reward discounted that comes two steps later?",
    ),
    Mistake(
        "no_decay",
        _RUN,
        _run("delta + running"),
        "the running sum does not decay at all; it must by gamma times lambda.",
        "Which numbers depend on lambda?",
    ),
    Mistake(
        "no_gamma_v",
        _DELTA,
        "delta = r[:, t] + next_value - V[:, t]",
        "the value of the next state is not discounted by gamma.",
        "What is a value worth that comes one step later?",
    ),
    Mistake(
        "lam_on_v",
        _DELTA,
        "delta = r[:, t] + gamma * lam * next_value - V[:, t]",
        "the value of the next state is multiplied by lambda too; it is discounted by gamma alone.",
        "With lambda 0, is anything expected of the next state?",
    ),
    Mistake(
        "no_next_v",
        _DELTA,
        "delta = r[:, t] - V[:, t]",
        "the value of the next state is missing.",
        "With lambda 0, is anything expected of the next state?",
    ),
    Mistake(
        "reward_discounted",
        _DELTA,
        "delta = gamma * (r[:, t] + next_value) - V[:, t]",
        "the reward of the step itself is discounted; it comes at once.",
        "A single token with a reward of 1 and a value of 0: what is its advantage?",
    ),
    Mistake(
        "td_only",
        _RUN,
        _run("delta"),
        "only the error of one step is there; the sum over later steps is missing.",
        "Does the score at the last token reach the first one?",
    ),
    Mistake(
        "forward",
        _A,
        "running = xp.zeros(B, dtype=r.dtype)\n"
        "    after = xp.zeros(B, dtype=r.dtype) if last_values is None else widen(last_values)\n"
        "    later, sums = [], []\n"
        "    for t in reversed(range(T)):\n"
        "        later.insert(0, after)\n"
        "        after = xp.where(mask[:, t], V[:, t], after)\n"
        "    for t in range(T):\n"
        "        step = r[:, t] + gamma * later[t] - V[:, t] + gamma * lam * running\n"
        "        running = xp.where(mask[:, t], step, running)\n"
        "        sums.append(running)\n"
        "    A = xp.where(mask, xp.stack(sums, axis=1), 0)",
        "the sum runs from the front: each token gets what came before it.",
        "Does the score at the last token reach the first one?",
    ),
    Mistake(
        "no_minus_v",
        _DELTA,
        "delta = r[:, t] + gamma * next_value",
        "the value of the state itself is not subtracted.",
        "A token that brings exactly what was expected: what is its advantage?",
    ),
    Mistake(
        "plus_v",
        _DELTA,
        "delta = r[:, t] - gamma * next_value + V[:, t]",
        "the signs of the two values are exchanged.",
        "A token that brings more than was expected: is its advantage positive?",
    ),
    Mistake(
        "advantages_are_returns",
        "advantages: Array = A.astype(",
        "advantages: Array = (A + V).astype(",
        "the advantages are the returns: the value is added to them.",
        "A token that brings exactly what was expected: what is its advantage?",
    ),
    Mistake(
        "returns_are_advantages",
        _RETURNS,
        "A.astype(",
        "the returns are the advantages: the value is not added.",
        "What should the value model have said?",
    ),
    Mistake(
        "returns_minus_v",
        _RETURNS,
        "(A - V).astype(",
        "the value is subtracted from the advantages; it must be added.",
        "What should the value model have said?",
    ),
    Mistake(
        "returns_whitened",
        _RETURNS,
        "((A - A.sum() / mask.sum()) * mask / xp.sqrt((mask * (A - A.sum() / mask.sum()) ** 2)"
        ".sum() / mask.sum() + 1e-8) + V).astype(",
        "the returns are made from whitened advantages: the values learn numbers of size 1.",
        "Multiply rewards and values by 10: what must happen to the returns?",
    ),
    Mistake(
        "returns_from_rewards",
        _RETURNS,
        "xp.where(mask, (xp.stack([gamma ** xp.maximum(xp.cumsum(mask, axis=1) - "
        "xp.cumsum(mask, axis=1)[:, t : t + 1], 0) for t in range(T)], axis=1) * "
        "xp.tri(T).T * r[:, None]).sum(axis=2), 0).astype(",
        "the returns are discounted sums of the rewards alone; they must be advantage plus value.",
        "With lambda 0, which rewards may a return depend on?",
        "convention",
    ),
    Mistake(
        "padding_kept",
        _A,
        "A = xp.stack(steps, axis=1) if steps else r",
        "padding before an answer gets the advantage of its first token; it must be 0.",
        "What do the advantages in the padding add up to?",
    ),
    Mistake(
        "returns_padding",
        _RETURNS,
        "(A + widen(values)).astype(",
        "padding has returns; they must be 0 there.",
        "What do the returns in the padding add up to?",
    ),
)

SPEC = Spec(
    name="gae",
    module="minqwen.alignment.gae",
    arguments=("rewards", "values", "mask", "gamma", "lam", "last_values"),
    axes={
        "rewards": "B T",
        "values": "B T",
        "mask": "B T",
        "last_values": "B",
        "advantages": "B T",
        "returns": "B T",
    },
    run=run,
    probes=PROBES,
    forward=FORWARD,
    outputs=("advantages", "returns"),
    notes="mask is True for a token of the answer; padding gets 0. last_values (B,) is the value "
    "after the last token of a text that was cut off; None: all texts ended, and it is 0.",
)

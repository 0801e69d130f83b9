"""The pairwise loss of a reward model: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec

PAIRWISE = "minqwen.alignment.pairwise_loss"


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the loss with a copy of alignment/pairwise_loss.py."""
    loss, _ = m.pairwise_loss_forward(a["chosen_rewards"], a["rejected_rewards"], a["margin"])
    return (np.asarray(loss),)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients of the rewards with a copy of alignment/pairwise_loss.py."""
    _, cache = m.pairwise_loss_forward(a["chosen_rewards"], a["rejected_rewards"], a["margin"])
    gradients = m.pairwise_loss_backward(np.asarray(dy[0]), cache)
    return dict(zip(("chosen_rewards", "rejected_rewards"), gradients, strict=True))


def inputs(rng: np.random.Generator, B: int, margin: bool = False, size: float = 1.5) -> Arguments:
    """Return the rewards of B pairs, and their margins."""
    chosen, rejected, by = rng.standard_normal((3, B))
    return {
        "chosen_rewards": size * (0.3 + chosen),
        "rejected_rewards": size * rejected,
        "margin": np.abs(by) if margin else None,
    }


def far_apart(rng: np.random.Generator) -> Arguments:
    """Return whole rewards that are 800 apart, right and wrong, and one pair that is close."""
    a = inputs(rng, 5)
    a["chosen_rewards"] = np.array([400.0, -400.0, 3.0, -30.0, 60.0])
    a["rejected_rewards"] = np.array([-400.0, 400.0, 2.0, 10.0, 20.0])
    return a


def equal(rng: np.random.Generator) -> Arguments:
    """Return pairs with equal rewards."""
    a = inputs(rng, 3)
    return {**a, "rejected_rewards": a["chosen_rewards"].copy()}


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 7), "seven pairs", hard=False),
    Probe(
        "margin",
        lambda rng: inputs(rng, 5, margin=True),
        "a margin for each pair",
        hard=False,
        gradient=False,  # it is a constant: nobody has to return a gradient for it
    ),
    Probe("one pair", lambda rng: inputs(rng, 1), "a single pair"),
    Probe("far apart", far_apart, "rewards 800 apart, the right way round and the wrong one"),
    Probe("equal", equal, "chosen and rejected are worth the same: ln 2"),
    Probe("small", lambda rng: inputs(rng, 5, size=0.01), "rewards of a fresh head, near 0"),
)

_LEAD = "lead = widen(chosen_rewards) - widen(rejected_rewards)"
_MARGIN = "lead = lead - widen(margin)"
_SURPRISE = "surprise = xp.maximum(-lead, 0) + xp.log1p(xp.exp(-xp.abs(lead)))"
_LOSS = "loss = surprise.mean()"
_SIGMOID = "1 / (1 + xp.exp(-lead))"

SHARED = (  # with dpo_loss, which is this loss of other rewards
    Mistake(
        "sum",
        _LOSS,
        "loss = surprise.sum()",
        "the losses are summed over the pairs, not averaged.",
        "Take every pair twice: the loss must stay as it is.",
        module=PAIRWISE,
    ),
    Mistake(
        "half",
        _LOSS,
        "loss = surprise.mean() / 2",
        "the sum is divided by the number of answers, two for each pair.",
        "Equal rewards: the loss must be ln 2.",
        module=PAIRWISE,
    ),
    Mistake(
        "bits",
        _LOSS,
        "loss = surprise.mean() / xp.log(2.0)",
        "the logarithm has base 2; it must be the natural one.",
        "Equal rewards: the loss must be ln 2.",
        module=PAIRWISE,
    ),
    Mistake(
        "log_of_mean",
        _LOSS,
        "loss = -xp.log(xp.exp(-surprise).mean())",
        "the probabilities are averaged and the log is taken then; each pair has its own log.",
        "One pair that is badly wrong: how large can the loss become?",
        module=PAIRWISE,
    ),
    Mistake(
        "mean_first",
        _LOSS,
        "mean = lead.mean()\n    loss = xp.maximum(-mean, 0) + xp.log1p(xp.exp(-xp.abs(mean)))",
        "the differences are averaged first: pairs that are right hide those that are wrong.",
        "One pair that is badly wrong among others: does the loss show it?",
        module=PAIRWISE,
    ),
    Mistake(
        "prob",
        _SURPRISE,
        f"surprise = 1 - {_SIGMOID}",
        "this is the probability of the wrong answer: the log is missing.",
        "Equal rewards: the loss must be ln 2.",
        module=PAIRWISE,
    ),
    Mistake(
        "hinge",
        _SURPRISE,
        "surprise = xp.maximum(1 - lead, 0)",
        "a hinge, max(0, 1 - x), stands for the logistic loss.",
        "Equal rewards: the loss must be ln 2.",
        "convention",
        PAIRWISE,
    ),
    Mistake(
        "sigmoid_missing",
        _SURPRISE,
        "surprise = -lead",
        "the difference itself is the loss: without log sigmoid it has no lower end.",
        "Two rewards that move apart: does the loss ever stop falling?",
        module=PAIRWISE,
    ),
    Mistake(
        "log_of_sigmoid",
        _SURPRISE,
        f"surprise = -xp.log({_SIGMOID})",
        "the log is taken of a sigmoid that underflows to 0: the loss is infinite.",
        "Rewards that are 800 apart: what is the loss on paper?",
        "numeric",
        PAIRWISE,
    ),
    Mistake(
        "log_of_sigmoid_1e-8",
        _SURPRISE,
        f"surprise = -xp.log({_SIGMOID} + 1e-8)",
        "1e-8 is added to the sigmoid: the loss stops at 18.4.",
        "Rewards that are 800 apart: what is the loss on paper?",
        "numeric",
        PAIRWISE,
    ),
    Mistake(
        "softplus_overflow",
        _SURPRISE,
        "surprise = xp.log1p(xp.exp(-lead))",
        "log(1 + exp(-x)) overflows where x is far below 0: the loss is infinite.",
        "Rewards that are 800 apart: what is the loss on paper?",
        "numeric",
        PAIRWISE,
        same_as="log_of_sigmoid",
    ),
)


FORWARD = (
    Mistake(
        "swapped",
        _LEAD,
        "lead = widen(rejected_rewards) - widen(chosen_rewards)",
        "chosen and rejected are exchanged: the worse answer is learnt.",
        "Raise a chosen reward: the loss must fall.",
    ),
    Mistake(
        "all_pairs",
        _LEAD,
        "lead = (widen(chosen_rewards)[:, None] - widen(rejected_rewards)).reshape(-1)\n"
        "    margin = margin if margin is None else xp.tile(margin, len(margin))",
        "each chosen answer meets the rejected ones of all pairs: (B, 1) and (B,) were broadcast.",
        "How many differences do B pairs have?",
    ),
    Mistake(
        "each_alone",
        _SURPRISE,
        "surprise = xp.logaddexp(0, -widen(chosen_rewards)) + xp.logaddexp(0, "
        "widen(rejected_rewards))",
        "each reward is classified for itself, as good or bad; the difference must be.",
        "Add 1 to all rewards: the loss must stay as it is.",
    ),
    Mistake(
        "squared",
        _SURPRISE,
        "surprise = (lead - 1) ** 2",
        "the difference is pulled to 1 by a square; the loss is logistic.",
        "A pair that is right by far: must it be punished?",
    ),
    Mistake(
        "rewards_centred",
        _LOSS,
        "both = widen(chosen_rewards) + widen(rejected_rewards)\n"
        "    loss = surprise.mean() + 0.01 * (both * both).mean()",
        "0.01 times the mean square of the sum of both rewards is added, which keeps them near 0, "
        "as in TRL; Qwen does not say so.",
        "Add 1 to all rewards: the loss must stay as it is.",
        "convention",
    ),
    Mistake(
        "margin_ignored",
        _MARGIN,
        "pass",
        "the margin is not used.",
        "A larger margin makes a pair harder: the loss must grow.",
    ),
    Mistake(
        "margin_added",
        _MARGIN,
        "lead = lead + widen(margin)",
        "the margin has the wrong sign: it makes a pair easier.",
        "A larger margin makes a pair harder: the loss must grow.",
    ),
    Mistake(
        "margin_as_weight",
        _MARGIN,
        "lead = lead * widen(margin)",
        "the difference is multiplied by the margin; it must be made smaller by it.",
        "A margin of 0: is the loss that without a margin?",
    ),
    *SHARED,
)

_WRONG = "wrong = array_module(lead).exp(-(lead + surprise))"
_DIVIDED = "drejected = (wrong * dloss / len(lead))"
_RETURN = "return -drejected, drejected"
SHARED_BACKWARD = (
    Mistake(
        "right_for_wrong",
        _WRONG,
        "wrong = array_module(lead).exp(-surprise)",
        "the probability of the right answer stands for that of the wrong one.",
        "A pair that is right by far: how much does it still teach?",
        module=PAIRWISE,
    ),
    Mistake(
        "slope_of_sigmoid",
        _WRONG,
        "wrong = array_module(lead).exp(-(lead + 2 * surprise))",
        "the derivative of the sigmoid alone, p (1 - p): the log before it is forgotten.",
        "A pair that is wrong by far: how hard must it pull?",
        module=PAIRWISE,
    ),
    Mistake(
        "sigmoid_forgotten",
        _WRONG,
        "wrong = 0 * lead + 1",
        "every pair pulls alike, however right it is.",
        "A pair that is right by far: how much does it still teach?",
        module=PAIRWISE,
    ),
    Mistake(
        "not_averaged",
        _DIVIDED,
        "drejected = (wrong * dloss)",
        "the gradient is not divided by the number of pairs.",
        "Take every pair twice: the gradient of each must be halved.",
        module=PAIRWISE,
    ),
    Mistake(
        "dloss_ignored",
        _DIVIDED,
        "drejected = (wrong / len(lead))",
        "the incoming gradient is not used: 1 is taken for it.",
        "Double it: the gradient must double.",
        module=PAIRWISE,
    ),
    Mistake(
        "swapped",
        _RETURN,
        "return drejected, -drejected",
        "the signs are exchanged: the loss would grow.",
        "Raise a chosen reward: the loss must fall.",
        module=PAIRWISE,
    ),
    Mistake(
        "rejected_lost",
        _RETURN,
        "return -drejected, 0 * drejected",
        "the rejected answers get no gradient, as after a detach.",
        "Lower a rejected reward: the loss must fall.",
        module=PAIRWISE,
    ),
    Mistake(
        "same_sign",
        _RETURN,
        "return -drejected, -drejected",
        "both answers get the same gradient; one must rise where the other falls.",
        "Add 1 to both rewards of a pair: the loss must stay as it is.",
        module=PAIRWISE,
    ),
)
BACKWARD = SHARED_BACKWARD

SPEC = Spec(
    name="pairwise_loss",
    module=PAIRWISE,
    arguments=("chosen_rewards", "rejected_rewards", "margin"),
    axes={"chosen_rewards": "B", "rejected_rewards": "B", "margin": "B", "loss": ""},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    outputs=("loss",),
    notes="margin is how far chosen must be ahead of rejected to count as equal, a constant; None "
    "stands for 0.",
    defaults={"margin": None},
)

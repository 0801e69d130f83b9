"""The policy loss of PPO: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec
from .kl_penalty import spans

ARGUMENTS = ("logprobs", "old_logprobs", "advantages", "mask", "cliprange")


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the loss with a copy of alignment/ppo_loss.py."""
    return (m.ppo_policy_loss_forward(*(a[name] for name in ARGUMENTS))[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of the new log-probabilities with a copy of alignment/ppo_loss.py."""
    _, cache = m.ppo_policy_loss_forward(*(a[name] for name in ARGUMENTS))
    return {"logprobs": m.ppo_policy_loss_backward(np.asarray(dy[0]), cache)}


def inputs(
    rng: np.random.Generator,
    T: int,
    *answers: tuple[int, int],
    cliprange: float = 0.2,
    wide: float = 1.0,
) -> Arguments:
    """Return two policies and advantages; no ratio is near a limit, where the loss has a kink.

    Ratios lie on both sides of both limits, `wide` times as far in their logarithm. The losses of
    bad tokens outweigh those of good ones, so that the sum is no difference of large numbers.
    """
    mask = spans(T, answers)
    low, high = np.log(1 - cliprange), np.log(1 + cliprange)
    inside = rng.uniform(0.7 * low, 0.7 * high, mask.shape)
    below = low - wide * rng.uniform(0.1, 1.0, mask.shape)
    above = high + wide * rng.uniform(0.1, 1.0, mask.shape)
    third = rng.permutation(mask.size).reshape(mask.shape) % 3  # of each about as many
    old = -rng.uniform(0.5, 3.0, mask.shape)
    good, bad = rng.uniform(0.3, 1.0, mask.shape), -rng.uniform(1.0, 3.0, mask.shape)
    return {
        "logprobs": old + np.choose(third, (inside, below, above)),
        "old_logprobs": old,
        "advantages": np.where(rng.permutation(mask.size).reshape(mask.shape) % 2, good, bad),
        "mask": mask,
        "cliprange": cliprange,
    }


def close(rng: np.random.Generator) -> Arguments:
    """Return policies that are close: no clip acts."""
    a = inputs(rng, 7, (0, 7), (0, 4))
    a["logprobs"] = a["old_logprobs"] + rng.uniform(-0.1, 0.1, a["mask"].shape)
    return a


def beyond(rng: np.random.Generator) -> Arguments:
    """Return ratios of exp(300) where the clip holds them, and of exp(-300)."""
    a = inputs(rng, 5, (0, 5), (0, 3))
    far = np.where(a["advantages"] > 0, 300.0, -300.0)
    a["old_logprobs"] = np.where(far > 0, -301.0, -1.0)
    a["logprobs"] = a["old_logprobs"] + far
    return a


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, 7, (0, 7), (0, 7), (0, 7)),
        "three answers of the same length, ratios on both sides of both limits",
        hard=False,
    ),
    Probe(
        "padding",
        lambda rng: inputs(rng, 11, (0, 4), (0, 11), (0, 7), (0, 2), (0, 5)),
        "five answers of different length, padding on the right",
        hard=False,
    ),
    Probe("close", close, "two policies that are close: no clip acts"),
    Probe(
        "wide",
        lambda rng: inputs(rng, 7, (0, 7), (0, 5), (0, 6), wide=4.0),
        "ratios from 0.02 to 50",
    ),
    Probe(
        "other limit",
        lambda rng: inputs(rng, 5, (0, 3), (0, 5), cliprange=0.45),
        "a clip range of 0.45",
    ),
    Probe(
        "padding on the left",
        lambda rng: inputs(rng, 7, (3, 7), (0, 7), (5, 7), cliprange=0.1),
        "padding on the left, and a clip range of 0.1",
    ),
    Probe("one token", lambda rng: inputs(rng, 3, (0, 1)), "a single token"),
    Probe(
        "huge",
        beyond,
        "ratios of exp(300), too large for float32, which the clip holds, and of exp(-300)",
        gradient=False,  # no sum of other sizes would be seen beside them
    ),
    Probe(
        "no token",
        lambda rng: inputs(rng, 3, (0, 0), (0, 0)),
        "nothing but padding: the loss is 0",
        gradient=False,
    ),
)

_DIFFERENCE = "log_ratio = new - old"
_RATIO = "ratio = xp.exp(bounded_exponent(log_ratio))"
_CLIPPED = "clipped = xp.clip(ratio, 1 - cliprange, 1 + cliprange)"
_LOSS = "loss = xp.maximum(-A * ratio, -A * clipped).sum() / tokens"
_TOKENS = "tokens = xp.maximum(mask.sum(), 1).astype(new.dtype)"
_RAW = "new, old, A = (x.astype(new.dtype) for x in (logprobs, old_logprobs, advantages))"
_START = "xp, cliprange = array_module(logprobs), float(cliprange)"


def _loss(value: str) -> str:
    return f"loss = {value}"


FORWARD = (
    Mistake(
        "max",
        _LOSS,
        _loss("xp.minimum(-A * ratio, -A * clipped).sum() / tokens"),
        "the better of the two is taken: clipping never acts where it should.",
        "A good token whose probability has doubled: does the loss still fall?",
    ),
    Mistake(
        "sign",
        _LOSS,
        _loss("xp.minimum(A * ratio, A * clipped).sum() / tokens"),
        "the minus is missing: the objective is to grow, the loss to fall.",
        "A good token becomes more likely: does the loss rise or fall?",
    ),
    Mistake(
        "sign_inside",
        _LOSS,
        _loss("xp.maximum(A * ratio, A * clipped).sum() / tokens"),
        "the minus is missing in both branches, and the larger is taken.",
        "A good token becomes more likely: does the loss rise or fall?",
    ),
    Mistake(
        "no_clip",
        _LOSS,
        _loss("(-A * ratio).sum() / tokens"),
        "there is no clip: a good token may become more and more likely.",
        "Which numbers depend on the argument cliprange?",
    ),
    Mistake(
        "clip_only",
        _LOSS,
        _loss("(-A * clipped).sum() / tokens"),
        "only the clipped branch is there: a token that went the wrong way gets no gradient back.",
        "A good token whose probability was halved: does the loss still depend on it?",
    ),
    Mistake(
        "ratio_inverted",
        _DIFFERENCE,
        "log_ratio = old - new",
        "the ratio is old over new; it must be new over old.",
        "A good token becomes more likely: does the loss rise or fall?",
    ),
    Mistake(
        "ratio_log",
        _RATIO,
        "ratio = log_ratio",
        "the exponential is missing: a difference of logarithms is taken for the ratio.",
        "With two equal policies the ratio is 1.",
    ),
    Mistake(
        "ratio_of_logs",
        _RATIO,
        "ratio = xp.where(mask, new, 1) / xp.where(mask, old, 1)",
        "one log-probability is divided by the other; the ratio is of probabilities.",
        "The log-probabilities are -1 and -2: how many times as likely is the token?",
    ),
    Mistake(
        "ratio_linear",
        _RATIO,
        "ratio = 1 + log_ratio",
        "the ratio is 1 plus the difference of the logarithms, which holds only near 1.",
        "The log-probability rises by 2: how many times as likely is the token?",
    ),
    Mistake(
        "old_is_new",
        _DIFFERENCE,
        "log_ratio = new - new",
        "the old policy is taken to be the new one: all ratios are 1.",
        "Which numbers depend on the old log-probabilities?",
    ),
    Mistake(
        "no_old",
        _DIFFERENCE,
        "log_ratio = new",
        "the old policy is left out: the probability itself is taken for the ratio.",
        "Which numbers depend on the old log-probabilities?",
    ),
    Mistake(
        "asymmetric",
        _CLIPPED,
        "clipped = xp.clip(ratio, 1 / (1 + cliprange), 1 + cliprange)",
        "the lower limit is 1 / (1 + c), as far from 1 as the upper one in the logarithm; here it "
        "is 1 - c.",
        "Where does the clip begin, with a range of 0.5?",
        "convention",
    ),
    Mistake(
        "clip_of_log",
        _CLIPPED,
        "clipped = xp.exp(xp.clip(log_ratio, -cliprange, cliprange))",
        "the logarithm of the ratio is clipped; it must be the ratio itself.",
        "Where does the clip begin, with a range of 0.5?",
        "convention",
    ),
    Mistake(
        "no_lower_limit",
        _CLIPPED,
        "clipped = xp.minimum(ratio, 1 + cliprange)",
        "the lower limit of the clip is missing.",
        "A bad token becomes less and less likely: when does the loss stop falling?",
    ),
    Mistake(
        "no_upper_limit",
        _CLIPPED,
        "clipped = xp.maximum(ratio, 1 - cliprange)",
        "the upper limit of the clip is missing.",
        "A good token becomes more and more likely: when does the loss stop falling?",
    ),
    Mistake(
        "clip_of_product",
        _LOSS,
        _loss(
            "xp.maximum(-A * ratio, -1 * mask * xp.clip(A * ratio, 1 - cliprange, 1 + cliprange))"
            ".sum() / tokens"
        ),
        "ratio times advantage is clipped; the ratio is clipped, and then multiplied.",
        "Double all advantages: what must happen to the loss?",
    ),
    Mistake(
        "range_fixed",
        _START,
        "xp, cliprange = array_module(logprobs), 0.2",
        "the clip range is 0.2, whatever is given.",
        "Which numbers depend on the argument cliprange?",
    ),
    Mistake(
        "range_around_0",
        _CLIPPED,
        "clipped = xp.clip(ratio, -cliprange, cliprange)",
        "the ratio is clipped around 0; it must be around 1.",
        "With two equal policies nothing is clipped.",
    ),
    Mistake(
        "absolute_advantage",
        _LOSS,
        _loss("xp.maximum(-abs(A) * ratio, -abs(A) * clipped).sum() / tokens"),
        "the sign of the advantage is lost: bad tokens are made more likely too.",
        "A bad token becomes more likely: does the loss rise or fall?",
    ),
    Mistake(
        "no_advantage",
        _LOSS,
        _loss("xp.maximum(-1 * mask * ratio, -1 * mask * clipped).sum() / tokens"),
        "the advantage is missing: all tokens are taken to be equally good.",
        "Which numbers depend on the advantages?",
    ),
    Mistake(
        "whitened",
        _TOKENS,
        f"{_TOKENS}\n"
        "    A = xp.where(mask, A - A.sum() / tokens, 0)\n"
        "    A = A / xp.sqrt((A * A).sum() / tokens + 1e-8)",
        "the advantages are whitened in here; that is done once, before all updates.",
        "Add 1 to all advantages: must the loss change?",
        "convention",
    ),
    Mistake(
        "dual_clip",
        _LOSS,
        _loss(
            "xp.where(A < 0, xp.minimum(-3 * A, xp.maximum(-A * ratio, -A * clipped)), "
            "xp.maximum(-A * ratio, -A * clipped)).sum() / tokens"
        ),
        "the loss of a bad token ends at 3 times its advantage (dual clip); here it has no end.",
        "A bad token becomes 10 times as likely: how much is paid for it?",
        "convention",
    ),
    Mistake(
        "mean_all",
        _LOSS,
        _loss("xp.maximum(-A * ratio, -A * clipped).sum() / mask.size"),
        "padding is left out of the sum, but the sum is divided by the number of all places.",
        "Add a column of padding: the loss must stay as it is.",
    ),
    Mistake(
        "unmasked",
        _TOKENS,
        f"{_RAW}\n    mask = xp.ones_like(mask)\n    {_TOKENS}",
        "padding counts like any token.",
        "Change the advantage of a padding token: the loss must stay as it is.",
    ),
    Mistake(
        "padding_in_sum",
        _TOKENS,
        f"{_TOKENS}\n    {_RAW}",
        "padding is added to the sum, which is divided by the number of real tokens.",
        "Change the advantage of a padding token: the loss must stay as it is.",
    ),
    Mistake(
        "per_answer",
        _LOSS,
        _loss(
            "(xp.maximum(-A * ratio, -A * clipped).sum(axis=1) / xp.maximum(mask.sum(axis=1), 1))"
            ".mean()"
        ),
        "every answer weighs the same: a mean of means; here every token weighs the same.",
        "Two answers of 1 and 9 tokens: how much weighs the single token?",
        "convention",
    ),
    Mistake(
        "sum",
        _LOSS,
        _loss("xp.maximum(-A * ratio, -A * clipped).sum() + 0 * tokens"),
        "the losses are summed over the tokens, not averaged.",
        "Take every answer twice: the loss must stay as it is.",
    ),
    Mistake(
        "sum_per_answer",
        _LOSS,
        _loss("xp.maximum(-A * ratio, -A * clipped).sum() / len(mask)"),
        "the losses are summed over an answer, and averaged over the answers only.",
        "Every token of an answer comes twice: the loss must stay as it is.",
        "convention",
    ),
    Mistake(
        "ratio_of_answer",
        _DIFFERENCE,
        "log_ratio = mask * (new - old).sum(axis=1, keepdims=True)",
        "the ratio is that of the whole answer, a product over its tokens; here each has its own.",
        "Change one token: does the ratio of the one before it change?",
    ),
    Mistake(
        "no_tokens_nan",
        _LOSS,
        _loss("xp.maximum(-A * ratio, -A * clipped).sum() / mask.sum()"),
        "with nothing but padding, 0 is divided by 0.",
        "A batch may hold no token that counts: what should it add to the loss?",
        "numeric",
    ),
)

_HELD = "held = xp.where(A > 0, ratio > 1 + cliprange, (A < 0) & (ratio < 1 - cliprange))"
_CACHE = "ratio, A, held, tokens, logprobs.dtype, clip_fraction"
_SCALE = "scale = (dloss / tokens).astype(ratio.dtype)"
_SLOPE = "(-A * ratio * ~held * scale)"
BACKWARD = (
    Mistake(
        "ratio_forgotten",
        _SLOPE,
        "(-A * ~held * scale)",
        "the derivative of the ratio, which is the ratio itself, is forgotten.",
        "What is the derivative of exp(x)?",
    ),
    Mistake(
        "clip_forgotten",
        _SLOPE,
        "(-A * ratio * scale)",
        "the gradient flows also where the clip acts; the clipped branch is flat.",
        "A good token far above the upper limit: does the loss change with it?",
    ),
    Mistake(
        "zero_outside",
        _HELD,
        "held = (ratio > 1 + cliprange) | (ratio < 1 - cliprange)",
        "every token outside of the limits gets no gradient; one that went the wrong way must come "
        "back.",
        "A good token far below the lower limit: does the loss change with it?",
    ),
    Mistake(
        "sides_exchanged",
        _HELD,
        "held = xp.where(A < 0, ratio > 1 + cliprange, ratio < 1 - cliprange)",
        "the limits of good and bad tokens are exchanged.",
        "A good token far above the upper limit: does the loss change with it?",
    ),
    Mistake(
        "lower_side_forgotten",
        _HELD,
        "held = (A > 0) & (ratio > 1 + cliprange)",
        "a bad token below the lower limit still gets a gradient.",
        "A bad token far below the lower limit: does the loss change with it?",
    ),
    Mistake(
        "upper_side_forgotten",
        _HELD,
        "held = (A < 0) & (ratio < 1 - cliprange)",
        "a good token above the upper limit still gets a gradient.",
        "A good token far above the upper limit: does the loss change with it?",
    ),
    Mistake(
        "slope_of_the_clipped",
        _CACHE,
        "clipped, A, held & False, tokens, logprobs.dtype, clip_fraction",
        "the clipped ratio is taken for the derivative, and all tokens get one.",
        "Where the clip acts, does the loss change with the ratio?",
    ),
    Mistake(
        "sign",
        _SLOPE,
        "(A * ratio * ~held * scale)",
        "the sign is wrong: the gradient is that of the objective, not of the loss.",
        "A good token becomes more likely: does the loss rise or fall?",
    ),
    Mistake(
        "not_divided",
        _SCALE,
        "scale = (dloss + 0 * tokens).astype(ratio.dtype)",
        "the gradient is not divided by the number of tokens.",
        "Take every answer twice: the gradient of each must be halved.",
    ),
    Mistake(
        "all_tokens",
        _SCALE,
        "scale = (dloss / (held.size + 0 * tokens)).astype(ratio.dtype)",
        "the gradient is divided by the number of all places; padding does not count.",
        "Add a column of padding: the gradient must stay as it is.",
    ),
    Mistake(
        "dloss_ignored",
        _SCALE,
        "scale = (1 / tokens).astype(ratio.dtype)",
        "the gradient that arrives from above is taken for 1.",
        "The loss is multiplied by a coefficient later: where does it enter?",
    ),
    Mistake(
        "padding_too",
        _TOKENS,
        f"{_TOKENS}\n    {_RAW}",
        "padding gets a gradient.",
        "Does the loss change with the log-probability of a padding token?",
    ),
)

SPEC = Spec(
    name="ppo_policy_loss",
    module="minqwen.alignment.ppo_loss",
    arguments=ARGUMENTS,
    axes={
        "logprobs": "B T",
        "old_logprobs": "B T",
        "advantages": "B T",
        "mask": "B T",
        "loss": "",
    },
    outputs=("loss",),
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="One number, the mean over the tokens where mask is True; without one it is 0. Only "
    "logprobs has a gradient: the old ones and the advantages are constants (None is fine).",
)

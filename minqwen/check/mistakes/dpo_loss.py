"""The loss of direct preference optimisation: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec
from .pairwise_loss import PAIRWISE, SHARED, SHARED_BACKWARD

NAMES = ("chosen_logprobs", "rejected_logprobs", "ref_chosen_logprobs", "ref_rejected_logprobs")


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the loss with a copy of alignment/dpo_loss.py."""
    return (np.asarray(m.dpo_loss_forward(*(a[name] for name in NAMES), a["beta"])[0]),)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients of the policy's terms with a copy of alignment/dpo_loss.py."""
    _, cache = m.dpo_loss_forward(*(a[name] for name in NAMES), a["beta"])
    return dict(zip(NAMES[:2], m.dpo_loss_backward(np.asarray(dy[0]), cache), strict=True))


def inputs(rng: np.random.Generator, B: int, beta: float, size: float = 3.0) -> Arguments:
    """Return log-probabilities of B pairs of answers, by the policy and the reference."""
    chosen, rejected = -12.0 - 4 * np.abs(rng.standard_normal((2, B)))
    moved = size * rng.standard_normal((2, B))
    values = (chosen, rejected, chosen + moved[0], rejected + moved[1])
    return {**dict(zip(NAMES, values, strict=True)), "beta": beta}


def far_apart(rng: np.random.Generator) -> Arguments:
    """Return whole log-probabilities of long answers; the policy has moved by thousands of nats."""
    a = inputs(rng, 5, 0.5)
    a["chosen_logprobs"] = np.array([-900.0, -2900.0, -1003.0, -950.0, -801.0])
    a["rejected_logprobs"] = np.array([-2500.0, -1100.0, -1001.0, -940.0, -870.0])
    a["ref_chosen_logprobs"] = np.array([-1700.0, -1100.0, -1001.0, -900.0, -840.0])
    a["ref_rejected_logprobs"] = np.array([-1000.0, -2900.0, -1002.0, -900.0, -830.0])
    return a


def start(rng: np.random.Generator) -> Arguments:
    """Return a policy that equals the reference."""
    a = inputs(rng, 3, 0.1)
    return {**a, **{f"ref_{name}": a[name].copy() for name in NAMES[:2]}}


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 7, 0.1), "beta 0.1", hard=False),
    Probe("larger beta", lambda rng: inputs(rng, 5, 0.5), "beta 0.5", hard=False),
    Probe("one pair", lambda rng: inputs(rng, 1, 0.3), "a single pair"),
    Probe("far apart", far_apart, "long answers, and a policy far from its reference"),
    Probe("start", start, "policy and reference are equal: ln 2"),
)

_CHOSEN = "chosen_rewards = beta * (widen(chosen_logprobs) - widen(ref_chosen_logprobs))"
_REJECTED = "rejected_rewards = beta * (widen(rejected_logprobs) - widen(ref_rejected_logprobs))"
_BOTH = f"{_CHOSEN}\n    {_REJECTED}"
_LOSS = "loss, pairs = pairwise_loss_forward(chosen_rewards, rejected_rewards)"
_SURPRISE = "surprise = xp.maximum(-lead, 0) + xp.log1p(xp.exp(-xp.abs(lead)))"


def _both(chosen: str, rejected: str) -> str:
    return f"chosen_rewards = {chosen}\n    rejected_rewards = {rejected}"


FORWARD = (
    Mistake(
        "swapped",
        _LOSS,
        "loss, pairs = pairwise_loss_forward(rejected_rewards, chosen_rewards)",
        "chosen and rejected are exchanged: the worse answer is learnt.",
        "Make a chosen answer likelier: the loss must fall.",
    ),
    Mistake(
        "no_ref",
        _BOTH,
        _both("beta * widen(chosen_logprobs)", "beta * widen(rejected_logprobs)"),
        "the log-probabilities of the reference are not used.",
        "Policy and reference are equal: the loss must be ln 2.",
        "convention",
    ),
    Mistake(
        "ref_only",
        _BOTH,
        _both("beta * widen(ref_chosen_logprobs)", "beta * widen(ref_rejected_logprobs)"),
        "only the reference is used: nothing can be learnt.",
        "Policy and reference are equal: the loss must be ln 2.",
    ),
    Mistake(
        "ref_added",
        _BOTH,
        _both(
            "beta * (widen(chosen_logprobs) + widen(ref_chosen_logprobs))",
            "beta * (widen(rejected_logprobs) + widen(ref_rejected_logprobs))",
        ),
        "the reference is added; it must be subtracted.",
        "Policy and reference are equal: the loss must be ln 2.",
    ),
    Mistake(
        "refs_exchanged",
        _BOTH,
        _both(
            "beta * (widen(chosen_logprobs) - widen(ref_rejected_logprobs))",
            "beta * (widen(rejected_logprobs) - widen(ref_chosen_logprobs))",
        ),
        "the reference's chosen and rejected are exchanged; then its part is as good as added.",
        "Policy and reference are equal: the loss must be ln 2.",
        same_as="ref_added",
    ),
    Mistake(
        "ref_of_chosen_only",
        _REJECTED,
        "rejected_rewards = beta * widen(rejected_logprobs)",
        "the reference is subtracted from the chosen answer only.",
        "Policy and reference are equal: the loss must be ln 2.",
    ),
    Mistake(
        "no_beta",
        _BOTH,
        _both(
            "widen(chosen_logprobs) - widen(ref_chosen_logprobs)",
            "widen(rejected_logprobs) - widen(ref_rejected_logprobs)",
        ),
        "beta is not used.",
        "A beta near 0: the loss must come to ln 2, wherever the policy is.",
    ),
    Mistake(
        "beta_divides",
        _BOTH,
        _both(
            "(widen(chosen_logprobs) - widen(ref_chosen_logprobs)) / beta",
            "(widen(rejected_logprobs) - widen(ref_rejected_logprobs)) / beta",
        ),
        "the difference is divided by beta; it must be multiplied.",
        "A beta near 0: the loss must come to ln 2, wherever the policy is.",
    ),
    Mistake(
        "beta_out",
        f"{_BOTH}\n    {_LOSS}",
        _both(
            "widen(chosen_logprobs) - widen(ref_chosen_logprobs)",
            "widen(rejected_logprobs) - widen(ref_rejected_logprobs)",
        )
        + f"\n    {_LOSS}\n    loss = beta * loss",
        "beta stands in front of the loss; it belongs inside the sigmoid.",
        "Policy and reference are equal: the loss must be ln 2, for every beta.",
    ),
    Mistake(
        "beta_on_policy_only",
        _BOTH,
        _both(
            "beta * widen(chosen_logprobs) - widen(ref_chosen_logprobs)",
            "beta * widen(rejected_logprobs) - widen(ref_rejected_logprobs)",
        ),
        "beta multiplies the policy's part only: a bracket is missing.",
        "Policy and reference are equal: the loss must be ln 2.",
    ),
    Mistake(
        "probabilities",
        _BOTH,
        "import numpy as np\n\n    "
        + _both(
            "beta * np.exp(widen(chosen_logprobs) - widen(ref_chosen_logprobs))",
            "beta * np.exp(widen(rejected_logprobs) - widen(ref_rejected_logprobs))",
        ),
        "ratios of probabilities are compared; their logs must be.",
        "What is the reward where policy and reference are equal?",
    ),
    Mistake(
        "ipo",
        _SURPRISE,
        "surprise = (lead - 0.5) ** 2",
        "a square around 1/2 stands for the logistic loss, as in IPO.",
        "Policy and reference are equal: the loss must be ln 2.",
        "convention",
        PAIRWISE,
    ),
    Mistake(
        "label_smoothing",
        _SURPRISE,
        f"{_SURPRISE} + 0.1 * lead",
        "a tenth of the pairs is taken for mislabelled, as in conservative DPO.",
        "A pair that is right by far: does its loss come to 0?",
        "convention",
        PAIRWISE,
    ),
    *SHARED,
)

_BACK = "dchosen, drejected = beta * dchosen_rewards, beta * drejected_rewards"
BACKWARD = (
    Mistake(
        "beta_forgotten",
        _BACK,
        "dchosen, drejected = dchosen_rewards, drejected_rewards",
        "the gradient is not multiplied by beta.",
        "What is the derivative of beta times x, by x?",
    ),
    Mistake(
        "beta_twice",
        _BACK,
        "dchosen, drejected = beta**2 * dchosen_rewards, beta**2 * drejected_rewards",
        "the gradient is multiplied by beta twice.",
        "What is the derivative of beta times x, by x?",
    ),
    Mistake(
        "beta_divides",
        _BACK,
        "dchosen, drejected = dchosen_rewards / beta, drejected_rewards / beta",
        "the gradient is divided by beta; it must be multiplied.",
        "What is the derivative of beta times x, by x?",
    ),
    *SHARED_BACKWARD,
)

SPEC = Spec(
    name="dpo_loss",
    module="minqwen.alignment.dpo_loss",
    arguments=(*NAMES, "beta"),
    axes={**dict.fromkeys(NAMES, "B"), "loss": ""},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    outputs=("loss",),
    notes="Log-probabilities are sums over the answers. The reference is a constant: a backward by "
    "hand returns the gradients of the first two, and None for the other two.",
)

"""Log-probabilities of given tokens: how they are called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the log-probabilities with a copy of alignment/token_logprobs.py."""
    return (m.token_logprobs_forward(a["logits"], a["ids"], a["temperature"])[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of the logits with a copy of alignment/token_logprobs.py."""
    _, cache = m.token_logprobs_forward(a["logits"], a["ids"], a["temperature"])
    return {"logits": m.token_logprobs_backward(dy[0], cache)}


def inputs(rng: np.random.Generator, B: int, T: int, V: int, temperature: float) -> Arguments:
    """Return logits, ids drawn from all V, and the temperature."""
    logits, ids = 2 * rng.standard_normal((B, T, V)), rng.integers(0, V, (B, T))
    return {"logits": logits, "ids": ids, "temperature": temperature}


def huge(rng: np.random.Generator) -> Arguments:
    """Return whole logits in the hundreds, with rows thousands apart; no id is the likeliest."""
    a = inputs(rng, 3, 5, 13, 1.0)
    a["logits"] = rng.integers(-700, 701, a["logits"].shape).astype(np.float64)
    a["ids"] = a["logits"].argmin(axis=-1)
    a["logits"][1] += 3000
    a["logits"][2] -= 3000
    return a


def hopeless(rng: np.random.Generator) -> Arguments:
    """Return logits of 0 and below, and ids whose logit is -900, at temperature 1."""
    a = inputs(rng, 2, 3, 7, 1.0)
    a["logits"] = rng.integers(-40, 1, a["logits"].shape).astype(np.float64)
    np.put_along_axis(a["logits"], a["ids"][..., None], -900.0, axis=-1)
    return a


def equal(rng: np.random.Generator) -> Arguments:
    """Return logits that are all alike."""
    return {**inputs(rng, 2, 3, 17, 1.0), "logits": np.full((2, 3, 17), 0.5)}


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 2, 5, 11, 1.0), "temperature 1", hard=False),
    Probe("warm", lambda rng: inputs(rng, 3, 7, 13, 0.7), "temperature 0.7", hard=False),
    Probe("square", lambda rng: inputs(rng, 5, 5, 5, 1.3), "all sizes equal: axes can be mixed up"),
    Probe("cold", lambda rng: inputs(rng, 2, 3, 7, 0.05), "temperature 0.05: nearly one choice"),
    Probe(
        "huge",
        huge,
        "logits in the hundreds and rows thousands apart, where exp overflows",
        gradient=False,
    ),
    Probe(
        "hopeless",
        hopeless,
        "the largest logit is about 0 and that of the token -900",
        gradient=False,
    ),
    Probe("equal logits", equal, "all tokens are equally likely: log(1 / V)"),
    Probe("one token", lambda rng: inputs(rng, 1, 1, 7, 2.0), "a single token"),
)

_START = "    z, token = logits.reshape(-1, logits.shape[-1])"
_TEMPERATURE = "xp, temperature = array_module(logits), float(temperature)"
_TOTAL = "log_total[rows] = xp.log(total + (total == 0))"
_LOGPROBS = "logprobs = (chosen - peak) / temperature - log_total"
_LOG_OF_P = "xp.exp((chosen - peak) / temperature - log_total)"


def _before(*lines: str) -> str:
    """Return lines in front of the first use of the logits."""
    return "".join(f"    {line}\n" for line in lines) + _START


FORWARD = (
    Mistake(
        "temperature_ignored",
        _TEMPERATURE,
        "xp, temperature = array_module(logits), 1.0",
        "the temperature is not used.",
        "Answers that were sampled at 0.7: how likely were they then?",
    ),
    Mistake(
        "temperature_multiplied",
        _TEMPERATURE,
        "xp, temperature = array_module(logits), 1.0 / temperature",
        "the logits are multiplied by the temperature; they must be divided by it.",
        "A low temperature makes the likeliest token likelier.",
    ),
    Mistake(
        "temperature_on_logprobs",
        _LOGPROBS,
        "logprobs = chosen - peak - xp.log(xp.exp(widen(z) - peak[:, None]).sum(axis=-1))\n"
        "    logprobs = logprobs / temperature",
        "the log-probability is divided by the temperature, not the logits: nothing sums to 1.",
        "Do the probabilities of all tokens add up to 1?",
    ),
    Mistake(
        "temperature_on_token_only",
        _LOGPROBS,
        "logprobs = (chosen - peak) / temperature - xp.log(xp.exp(widen(z) - peak[:, None])"
        ".sum(axis=-1))",
        "the logit of the token is divided by the temperature, those in the sum are not.",
        "Do the probabilities of all tokens add up to 1?",
    ),
    Mistake(
        "no_log",
        _LOGPROBS,
        f"logprobs = {_LOG_OF_P}",
        "these are probabilities: the log is missing.",
        "For equal logits the answer is -log V: what is yours?",
    ),
    Mistake(
        "sign",
        _LOGPROBS,
        "logprobs = log_total - (chosen - peak) / temperature",
        "the sign is wrong: this is the loss; a log-probability is never above 0.",
        "Can the log of a probability be above 0?",
    ),
    Mistake(
        "logits_returned",
        _LOGPROBS,
        "logprobs = chosen / temperature",
        "these are the logits of the tokens: the log of the sum of exponentials is not subtracted.",
        "Add 1 to all logits: the answer must stay as it is.",
    ),
    Mistake(
        "largest_for_sum",
        _LOGPROBS,
        "logprobs = (chosen - peak) / temperature",
        "the largest logit stands for the log of the sum of exponentials.",
        "For equal logits the answer is -log V: what is yours?",
    ),
    Mistake(
        "likeliest_token",
        _LOGPROBS,
        "logprobs = 0 * chosen - log_total",
        "these belong to the likeliest tokens, not to the given ones.",
        "Change an id: does anything change?",
    ),
    Mistake(
        "bits",
        _LOGPROBS,
        "logprobs = ((chosen - peak) / temperature - log_total) / xp.log(2.0)",
        "the logarithm has base 2; it must be the natural one.",
        "For equal logits the answer is -log V: of which base?",
    ),
    Mistake(
        "base_two_in_sum",
        _TOTAL,
        "log_total[rows] = xp.log2(total + (total == 0))",
        "the log of the sum has base 2, the exponentials have base e.",
        "For equal logits the answer is -log V: of which base?",
    ),
    Mistake(
        "softmax_first",
        _START,
        _before(
            "logits = xp.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)",
            "logits, temperature = logits / logits.sum(axis=-1, keepdims=True), 1.0",
        ),
        "a softmax is taken first, and then the log of a softmax of its probabilities.",
        "How unlikely can a token become?",
    ),
    Mistake(
        "softmax_over_tokens",
        _LOGPROBS,
        "tall = widen(logits) / temperature\n"
        "    top = tall.max(axis=-2, keepdims=True)\n"
        "    tall = tall - top - xp.log(xp.exp(tall - top).sum(axis=-2, keepdims=True))\n"
        "    logprobs = tall.reshape(z.shape)[xp.arange(len(token)), token]",
        "the softmax runs over the positions; it must run over the vocabulary.",
        "Change the logits of one position: how many answers change?",
    ),
    Mistake(
        "shifted_inside",
        _START,
        _before("logits, ids = logits[:, :-1], ids[:, 1:]"),
        "the ids are shifted inside, and one position gets lost; here they are the next tokens "
        "already.",
        "How many positions go in, and how many come out?",
        "convention",
    ),
    Mistake(
        "ids_one_early",
        _START,
        _before("ids = xp.roll(ids, -1, axis=-1)"),
        "every position has the id of the next one, and the last that of the first.",
        "Change the id at position 0: which answer changes?",
    ),
    Mistake(
        "ids_one_late",
        _START,
        _before("ids = xp.roll(ids, 1, axis=-1)"),
        "every position has the id of the one before, and the first that of the last.",
        "Change the id at position 0: which answer changes?",
    ),
    Mistake(
        "no_shift",
        _TOTAL,
        "peak[rows] = 0\n"
        "        log_total[rows] = xp.log(xp.exp(widen(z[rows]) / temperature).sum(axis=-1))",
        "large logits overflow: exp(710) is infinite in float64, exp(89) in float32.",
        "On paper a constant can be taken from a whole row: which one helps?",
        "numeric",
    ),
    Mistake(
        "shift_of_all",
        _TOTAL,
        "peak[rows] = widen(z).max()\n"
        "        part = (widen(z[rows]) - widen(z).max()) / temperature\n"
        "        log_total[rows] = xp.log(xp.exp(part).sum(axis=-1))",
        "one maximum is taken out for all rows: rows far below it underflow to log(0).",
        "Each row needs its own maximum.",
        "numeric",
    ),
    Mistake(
        "log_of_softmax",
        _LOGPROBS,
        f"logprobs = xp.log({_LOG_OF_P})",
        "the log is taken of a probability that underflows to 0: minus infinity.",
        "exp and log undo each other on paper: can both be left out?",
        "numeric",
    ),
    Mistake(
        "log_of_softmax_1e-8",
        _LOGPROBS,
        f"logprobs = xp.log({_LOG_OF_P} + 1e-8)",
        "1e-8 is added to the probability: nothing can be below -18.4.",
        "exp and log undo each other on paper: can both be left out?",
        "numeric",
    ),
    Mistake(
        "log_of_softmax_1e-10",
        _LOGPROBS,
        f"logprobs = xp.log({_LOG_OF_P} + 1e-10)",
        "1e-10 is added to the probability: nothing can be below -23.03.",
        "exp and log undo each other on paper: can both be left out?",
        "numeric",
    ),
)

_DL = "dl = widen(dlogprobs).reshape(-1) / temperature"
_ONE_HOT = "dz[xp.arange(len(token)), token] += dl.astype(dz.dtype)"
_PART = "part = (widen(z[rows]) - peak[rows, None]) / temperature - log_total[rows, None]"
_RETURN = "dlogits: Array = dz.reshape(shape)"
BACKWARD = (
    Mistake(
        "one_hot_lost",
        _ONE_HOT,
        "pass",
        "the token itself gets no more than the others: 1 is missing at its place.",
        "The gradients of one position sum to 0: do yours?",
    ),
    Mistake(
        "softmax_lost",
        "p *= -dl[rows, None]",
        "p *= 0",
        "only the token gets a gradient: the log of the sum depends on all logits.",
        "The gradients of one position sum to 0: do yours?",
    ),
    Mistake(
        "sign",
        _RETURN,
        "dlogits: Array = -dz.reshape(shape)",
        "the sign is wrong: this is the gradient of the loss, of minus the log-probability.",
        "A larger logit of the token makes it likelier.",
    ),
    Mistake(
        "temperature_forgotten",
        _DL,
        "dl = widen(dlogprobs).reshape(-1)",
        "the gradient is not divided by the temperature.",
        "The logits are divided by the temperature on the way forward.",
    ),
    Mistake(
        "temperature_multiplied",
        _DL,
        "dl = widen(dlogprobs).reshape(-1) * temperature",
        "the gradient is multiplied by the temperature; it must be divided.",
        "The logits are divided by the temperature on the way forward.",
    ),
    Mistake(
        "softmax_at_temperature_1",
        _PART,
        "part = widen(z[rows]) - peak[rows, None]\n"
        "        part = part - xp.log(xp.exp(part).sum(axis=-1, keepdims=True))",
        "the probabilities in the gradient are those at temperature 1.",
        "Of what is the softmax taken on the way forward?",
    ),
    Mistake(
        "dlogprobs_ignored",
        _DL,
        "dl = xp.ones_like(peak) / temperature",
        "the incoming gradient is not used: 1 is taken for it.",
        "Double it: the gradient must double.",
    ),
    Mistake(
        "averaged",
        _DL,
        "dl = widen(dlogprobs).reshape(-1) / (temperature * len(token))",
        "the gradient is divided by the number of tokens, but there was no mean.",
        "Does the answer of one position depend on how many positions there are?",
    ),
    Mistake(
        "of_probability",
        _RETURN,
        "own = widen(z[xp.arange(len(token)), token])\n"
        "    own = xp.exp((own - peak) / temperature - log_total)\n"
        "    dlogits: Array = (dz * own[:, None]).reshape(shape)",
        "this is the gradient of the probability, not of its log: a factor p too many.",
        "What is the derivative of log p, by p?",
    ),
)

SPEC = Spec(
    name="token_logprobs",
    module="minqwen.alignment.token_logprobs",
    arguments=("logits", "ids", "temperature"),
    axes={"logits": "B T V", "ids": "B T", "logprobs": "B T"},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    outputs=("logprobs",),
    notes="ids are the next tokens already, one for each position: nothing is shifted. The logits "
    "are divided by the temperature.",
)

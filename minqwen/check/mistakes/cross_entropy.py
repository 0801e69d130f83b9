"""Cross-entropy: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute the mean loss with a copy of layers/cross_entropy.py."""
    loss = m.cross_entropy_forward(a["logits"], a["labels"], a["loss_mask"])[0]
    return (np.asarray(loss),)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of the logits with a copy of layers/cross_entropy.py."""
    _, cache = m.cross_entropy_forward(a["logits"], a["labels"], a["loss_mask"])
    return {"logits": m.cross_entropy_backward(np.asarray(dy[0]), cache)}


def inputs(
    rng: np.random.Generator, *shape: int, V: int, counted: tuple[int, ...] | None = None
) -> Arguments:
    """Return logits and labels; of row b the first counted[b] tokens count, all without it."""
    logits, labels = rng.standard_normal((*shape, V)), rng.integers(0, V, shape)
    mask = np.ones(shape, dtype=bool)
    if counted is not None:
        mask = np.arange(shape[-1]) < np.array(counted)[:, None]
    return {"logits": 2 * logits, "labels": labels, "loss_mask": mask}


def ignored(rng: np.random.Generator) -> Arguments:
    """Return labels of which some are -100, more in one row than in the other."""
    a = inputs(rng, 2, 7, V=101)
    a["labels"][0, :4] = a["labels"][1, 6:] = -100
    return a


def huge(rng: np.random.Generator) -> Arguments:
    """Return whole logits in the hundreds, with rows thousands apart; no label is the largest."""
    a = inputs(rng, 3, 5, V=13)
    a["logits"] = rng.integers(-700, 701, a["logits"].shape).astype(np.float64)
    a["labels"] = a["logits"].argmin(axis=-1)
    a["logits"][1] += 3000
    a["logits"][2] -= 3000
    return a


def sure_and_wrong(rng: np.random.Generator) -> Arguments:
    """Return logits of 0 and below, and labels that have no chance."""
    a = inputs(rng, 2, 3, V=7)
    a["logits"] = rng.integers(-40, 1, a["logits"].shape).astype(np.float64)
    np.put_along_axis(a["logits"], a["labels"][..., None], -900.0, axis=-1)
    return a


PROBES = (
    Probe("ordinary", lambda rng: inputs(rng, 2, 5, V=11), "all tokens count", hard=False),
    Probe(
        "masked",
        lambda rng: inputs(rng, 3, 7, V=13, counted=(7, 2, 4)),
        "rows of different length: the mask hides the rest",
        hard=False,
    ),
    Probe(
        "no mask",
        lambda rng: {**inputs(rng, 2, 3, V=11), "loss_mask": None},
        "no mask at all: all tokens count",
    ),
    Probe("one axis", lambda rng: inputs(rng, 7, V=5), "no batch axis"),
    Probe("ignored labels", ignored, "labels of -100, which do not count"),
    Probe("square", lambda rng: inputs(rng, 5, 5, V=5), "all sizes equal: axes can be mixed up"),
    Probe(
        "huge",
        huge,
        "logits in the hundreds and rows thousands apart, where exp overflows",
        gradient=False,
    ),
    Probe(
        "sure and wrong",
        sure_and_wrong,
        "the largest logit is 0 and that of the label about -900",
        gradient=False,
    ),
    Probe(
        "equal logits",
        lambda rng: {**inputs(rng, 2, 3, V=17), "logits": np.full((2, 3, 17), 0.5)},
        "all tokens are equally likely: the loss is log V",
    ),
    Probe(
        "nothing counts",
        lambda rng: inputs(rng, 2, 3, V=5, counted=(0, 0)),
        "the mask hides every token: the loss is 0",
    ),
    Probe("one token", lambda rng: inputs(rng, 1, 1, V=7), "a single token"),
)

_SURPRISE = "surprise = xp.where(counted > 0, lse - z_label, 0)"
_LOSS = "loss = surprise.sum() / tokens"
_START = "z, counts = logits.reshape(-1, V), labels.reshape(-1) != IGNORED"
_LSE = "lse[rows] = peak + xp.log(total + (total == 0))"
_MASKED = "counts = counts & loss_mask.reshape(-1)"


def _surprise(value: str) -> str:
    return f"surprise = xp.where(counted > 0, {value}, 0)"


def _before(*lines: str) -> str:
    """Return lines in front of the first use of the logits."""
    return "\n    ".join((*lines, _START))


FORWARD = (
    Mistake(
        "mean_of_all",
        _LOSS,
        "loss = surprise.sum() / len(label)",
        "the sum is divided by the number of all tokens; it must be by that of the counted ones.",
        "Add padding that does not count: the loss must stay.",
    ),
    Mistake(
        "mask_ignored",
        _MASKED,
        "pass",
        "the mask is not used: hidden tokens take part in the loss.",
        "Change the label of a hidden token: the loss must stay.",
    ),
    Mistake(
        "mask_inverted",
        _MASKED,
        "counts = counts & ~loss_mask.reshape(-1)",
        "the mask is the wrong way round: True is taken for hidden.",
        "Change the label of a hidden token: the loss must stay.",
    ),
    Mistake(
        "mean_per_row",
        _LOSS,
        "rows = surprise.reshape(labels.shape).sum(axis=-1)\n"
        "    loss = (rows / xp.maximum(counted.reshape(labels.shape).sum(axis=-1), 1)).mean()",
        "the loss is the mean of the means of the rows: a token of a short row weighs more.",
        "With rows of equal length, is it right?",
        "convention",
    ),
    Mistake(
        "sum_of_all",
        _LOSS,
        "loss = surprise.sum()",
        "the losses of the tokens are summed, not averaged.",
        "Give every row twice: the loss must stay.",
    ),
    Mistake(
        "mean_over_rows",
        _LOSS,
        "loss = surprise.sum() / len(labels)",
        "the sum is divided by the number of rows, not by the number of tokens.",
        "Give a text twice as long: the loss must stay about the same.",
    ),
    Mistake(
        "mean_over_vocabulary",
        _LOSS,
        "loss = surprise.sum() / (tokens * V)",
        "the sum is divided by the size of the vocabulary too.",
        "For equal logits the loss is log V: what is yours?",
    ),
    Mistake(
        "sign",
        _SURPRISE,
        _surprise("z_label - lse"),
        "the sign is wrong: the loss is minus the log of the probability.",
        "Can the loss be below 0?",
    ),
    Mistake(
        "bits",
        _SURPRISE,
        _surprise("(lse - z_label) / np.log(2)"),
        "the loss is in bits; it must be in nats.",
        "For equal logits the loss is log V: of which base?",
    ),
    Mistake(
        "base_two_in_sum",
        "lse[rows] = peak + xp.log(total",
        "lse[rows] = peak + xp.log2(total",
        "the log of the sum has base 2, the exponentials have base e.",
        "For equal logits the loss is log V: of which base?",
    ),
    Mistake(
        "no_shift",
        _LSE,
        "lse[rows] = xp.log(xp.exp(widen(z[rows])).sum(axis=-1))",
        "large logits overflow: exp(710) is infinite in float64, exp(89) in float32.",
        "On paper a constant can be taken from a whole row: which one helps?",
        "numeric",
    ),
    Mistake(
        "shift_of_all",
        _LSE,
        "lse[rows] = widen(z[rows]).max() + xp.log(xp.exp(widen(z[rows]) - widen(z[rows]).max())"
        ".sum(axis=-1))",
        "one maximum is taken out for all rows: rows far below it underflow to log(0).",
        "Each row needs its own maximum.",
        "numeric",
    ),
    Mistake(
        "double_softmax",
        _START,
        _before(
            "logits = xp.exp(logits - logits.max(axis=-1, keepdims=True))",
            "logits = logits / logits.sum(axis=-1, keepdims=True)",
        ),
        "a softmax is taken of the logits first, and the loss takes another one of that.",
        "How large can the loss become? A wrong and certain answer costs almost nothing.",
    ),
    Mistake(
        "log_of_softmax_without_shift",
        _SURPRISE,
        _surprise("-xp.log(xp.exp(z_label) / xp.exp(widen(z)).sum(axis=-1))"),
        "the softmax overflows to infinity over infinity, and the log is taken of what it gives.",
        "exp and log undo each other on paper: can both be left out?",
        "numeric",
    ),
    Mistake(
        "log_of_softmax",
        _SURPRISE,
        _surprise("-xp.log(xp.exp(z_label - lse))"),
        "the log is taken of a probability that underflows to 0: the loss is infinite.",
        "exp and log undo each other on paper: can both be left out?",
        "numeric",
    ),
    Mistake(
        "log_of_softmax_1e-12",
        _SURPRISE,
        _surprise("-xp.log(xp.exp(z_label - lse) + 1e-12)"),
        "1e-12 is added to the probability: the loss stops at 27.6.",
        "exp and log undo each other on paper: can both be left out?",
        "numeric",
    ),
    Mistake(
        "log_of_softmax_1e-8",
        _SURPRISE,
        _surprise("-xp.log(xp.exp(z_label - lse) + 1e-8)"),
        "1e-8 is added to the probability: the loss stops at 18.4.",
        "exp and log undo each other on paper: can both be left out?",
        "numeric",
    ),
    Mistake(
        "log_of_softmax_1e-6",
        _SURPRISE,
        _surprise("-xp.log(xp.exp(z_label - lse) + 1e-6)"),
        "1e-6 is added to the probability: the loss stops at 13.8.",
        "exp and log undo each other on paper: can both be left out?",
        "numeric",
    ),
    Mistake(
        "probability_clipped",
        _SURPRISE,
        _surprise("-xp.log(xp.exp(z_label - lse).clip(1e-7, 1 - 1e-7))"),
        "the probability is kept above 1e-7, as in Keras: the loss stops at 16.1.",
        "exp and log undo each other on paper: can both be left out?",
        "numeric",
    ),
    Mistake(
        "no_log",
        _SURPRISE,
        _surprise("-xp.exp(z_label - lse)"),
        "the loss is minus the probability itself: the log is missing.",
        "For equal logits the loss is log V: what is yours?",
    ),
    Mistake(
        "largest_for_sum",
        _SURPRISE,
        _surprise("z.max(axis=-1) - z_label"),
        "the largest logit stands for the log of the sum of exponentials.",
        "For equal logits the loss is log V: what is yours?",
    ),
    Mistake(
        "softmax_over_tokens",
        _SURPRISE,
        "tall = widen(logits)\n"
        "    top = tall.max(axis=-2, keepdims=True)\n"
        "    tall = top + xp.log(xp.exp(tall - top).sum(axis=-2, keepdims=True)) + 0 * tall\n"
        "    lse = tall.reshape(-1, V)[xp.arange(len(label)), label]\n"
        f"    {_surprise('lse - z_label')}",
        "the softmax runs over the tokens of a row; it must run over the vocabulary.",
        "Change the logits of one token: how many losses change?",
    ),
    Mistake(
        "shifted_inside",
        _START,
        _before(
            "logits, labels = logits[..., :-1, :], labels[..., 1:]",
            "loss_mask = None if loss_mask is None else loss_mask[..., 1:]",
        ),
        "labels are shifted inside, as in Hugging Face models; here they are the next tokens "
        "already, so that the shift is done twice.",
        "Which token does the label at position 0 name?",
        "convention",
    ),
    Mistake(
        "labels_one_early",
        _START,
        _before("labels = xp.roll(labels, -1, axis=-1)"),
        "every position has the label of the next one, and the last that of the first.",
        "Change the label at position 0: whose loss changes?",
    ),
    Mistake(
        "labels_one_late",
        _START,
        _before("labels = xp.roll(labels, 1, axis=-1)"),
        "every position has the label of the one before, and the first that of the last.",
        "Change the label at position 0: whose loss changes?",
    ),
    Mistake(
        "minus_100_as_index",
        _START,
        "z, counts, labels = logits.reshape(-1, V), labels.reshape(-1) >= -V, labels % V",
        "a label of -100 counts, and picks an entry from the end; it must not count.",
        "Change -100 to another label that you do not count: the loss must stay.",
    ),
    Mistake(
        "nan_when_nothing_counts",
        "tokens = xp.maximum(counted.sum(), 1)",
        "tokens = counted.sum()",
        "when no token counts the loss is 0 / 0, NaN, as in PyTorch; here it is 0.",
        "By how many tokens is the sum divided?",
        "numeric",
    ),
    Mistake(
        "labels_smoothed",
        _SURPRISE,
        _surprise("lse - 0.9 * z_label - 0.1 * z.mean(axis=-1)"),
        "labels are smoothed by 0.1: a tenth of the target is spread over the vocabulary.",
        "Raise all logits but that of the label: how does the loss change?",
        "convention",
    ),
    Mistake(
        "z_loss_added",
        _SURPRISE,
        _surprise("lse - z_label + 1e-4 * lse**2"),
        "1e-4 times the square of the log of the sum is added, as in PaLM; Qwen does not.",
        "Add 1 to all logits: the loss must stay.",
        "convention",
    ),
    Mistake(
        "logits_capped",
        _START,
        _before("logits = 30 * xp.tanh(logits / 30)"),
        "logits are capped at 30 by a tanh, as in Gemma 2; Qwen does not.",
        "Try logits of 100: how large can the loss become?",
        "convention",
    ),
    Mistake(
        "perplexity",
        _LOSS,
        "loss = xp.exp(surprise.sum() / tokens)",
        "the exponential of the loss is returned, that is the perplexity.",
        "For equal logits the loss is log V: what is yours?",
    ),
)

_WEIGHT = "weight = counted * (dloss / tokens).astype(lse.dtype)"
_ONE_HOT = "dz[xp.arange(len(label)), label] -= weight.astype(dz.dtype)"
_SOFTMAX = "        part *= weight[rows, None]\n"
_RETURN = "dlogits: Array = dz.reshape(shape)"
BACKWARD = (
    Mistake(
        "one_hot_lost",
        _ONE_HOT,
        "pass",
        "the gradient is the probability alone: 1 must be subtracted at the label.",
        "The gradients of one token sum to 0: do yours?",
    ),
    Mistake(
        "softmax_lost",
        _SOFTMAX,
        "        part *= 0 * weight[rows, None]\n",
        "only the label gets a gradient: the log of the sum depends on all logits.",
        "The gradients of one token sum to 0: do yours?",
    ),
    Mistake(
        "sign",
        _RETURN,
        "dlogits: Array = -dz.reshape(shape)",
        "the sign is wrong: one_hot - p, where p - one_hot must stand.",
        "A larger logit at the label lowers the loss.",
    ),
    Mistake(
        "not_averaged",
        _WEIGHT,
        "weight = counted * (dloss + 0 * tokens).astype(lse.dtype)",
        "the gradient is not divided by the number of counted tokens.",
        "Give every row twice: the gradient of each must be halved.",
    ),
    Mistake(
        "mean_of_all",
        _WEIGHT,
        "weight = counted * (dloss / (len(label) + 0 * tokens)).astype(lse.dtype)",
        "the gradient is divided by the number of all tokens, not of those that count.",
        "Add padding that does not count: the gradient must stay.",
    ),
    Mistake(
        "mask_forgotten",
        "return loss, CrossEntropyCache(z, label, lse, counted,",
        "label = xp.where(labels == IGNORED, 0, labels).reshape(-1)\n"
        "    return loss, CrossEntropyCache(z, label, lse, 0 * counted + 1,",
        "tokens that do not count get a gradient.",
        "Look at the gradient of a hidden token.",
    ),
    Mistake(
        "mask_forgotten_in_softmax",
        _SOFTMAX,
        "        part *= (0 * weight[rows, None] + dloss / tokens)\n",
        "tokens that do not count get their probabilities for a gradient.",
        "Look at the gradient of a hidden token.",
    ),
    Mistake(
        "dloss_ignored",
        _WEIGHT,
        "weight = counted * (1 / tokens).astype(lse.dtype)",
        "the incoming gradient is not used: 1 is taken for it.",
        "Double it: the gradient must double.",
    ),
    Mistake(
        "slope_of_softmax",
        _RETURN,
        "p = xp.exp(widen(z) - lse[:, None])\n"
        "    dlogits: Array = (dz * p * (1 - p)).reshape(shape)",
        "p - one_hot is multiplied by p (1 - p): the softmax is differentiated twice.",
        "p - one_hot is the gradient of loss and softmax together.",
    ),
    Mistake(
        "over_vocabulary",
        _RETURN,
        "dlogits: Array = dz.reshape(shape) / z.shape[1]",
        "the gradient is divided by the size of the vocabulary.",
        "Over what does the loss take its mean?",
    ),
)

SPEC = Spec(
    name="cross_entropy",
    module="minqwen.layers.cross_entropy",
    arguments=("logits", "labels", "loss_mask"),
    axes={"logits": "B T V", "labels": "B T", "loss_mask": "B T", "loss": ""},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    outputs=("loss",),
    notes="labels are the next tokens already; those of -100, and those where loss_mask is False, "
    "do not count; when nothing counts the loss is 0. loss_mask may be None: all count.",
    defaults={"loss_mask": None},
)

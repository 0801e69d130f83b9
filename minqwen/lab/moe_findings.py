"""What the study of experts saw: sentences and verdicts, computed from its numbers.

A difference of losses counts only where moe_numbers.py calls it sure. The other limits are ours:

    uneven     the busiest expert has at least 4 times an even share, or experts are idle
    idle       less than a tenth of an even share
    few        as uneven as half of them used evenly
    much       a share that the router tells about the text, of at least 0.1
    more       a factor of 1.2 between what two runs tell; there is no error to hold it against
    mostly     at least 0.8 of it is explained by the token alone

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model; the page "Qwen1.5-MoE",
          qwenlm.github.io/blog/qwen-moe.
Origin:   Jiang et al. 2024, arXiv:2401.04088 (Mixtral), section 5, Routing analysis.
"""

from __future__ import annotations

from .findings import AGREES, DISAGREES, PARTLY, UNDECIDED, Finding
from .moe_numbers import (
    AGAIN,
    COPIES,
    DENSE,
    RAW,
    SCRATCH,
    UNBALANCED,
    UPCYCLED,
    MoeNumbers,
    source_names,
)
from .moe_settings import BY_NAME
from .numbers import Gain

UNEVEN, IDLE, FEW, MUCH, MORE, MOSTLY = 4.0, 0.1, 0.5, 0.1, 1.2, 0.8
LIMITS = (
    f"The use of experts is 'uneven' when the busiest has at least {UNEVEN:g} times an even share, "
    f"or some are idle, below {IDLE:.0%} of one; 'a few' are as uneven as {FEW:.0%} of them used "
    f"evenly; the router tells 'much' from {MUCH:.0%} on; one run tells 'more' than another from "
    f"{MORE:g} times on; 'mostly' is {MOSTLY:.0%}. These limits are ours."
).replace("%", " %")


def findings(n: MoeNumbers) -> list[Finding]:
    """Return claims of others, what we measured, and the verdicts."""
    makers = (_equal_parameters, _scratch, _randomness, _balance, _specialised, _token)
    return [make(n) for make in makers]


def _equal_parameters(n: MoeNumbers) -> Finding:
    gains = [n.gain(run, DENSE) for run in (SCRATCH, UPCYCLED)]
    signs = [n.sure(gain) for gain in gains]
    return Finding(
        "With as many activated parameters, experts learn more from the same tokens.",
        "Qwen1.5-MoE: 2.7B activated do as well as 7B dense. No comparison at equal activated "
        "parameters.",
        f"against dense at the end: from scratch {nats(gains[0])}, upcycled {nats(gains[1])}; "
        f"two dense runs differ by up to {n.noise:.3f}",
        AGREES if min(signs) > 0 else PARTLY if max(signs) > 0 else _against(signs),
    )


def _scratch(n: MoeNumbers) -> Finding:
    gain, since = n.gain(UPCYCLED, SCRATCH), n.overtaken(UPCYCLED, SCRATCH)
    when = "never" if since is None else f"from step {since} on"
    return Finding(
        "Upcycling gets further than experts from scratch.",
        "Qwen1.5-MoE: from scratch is inefficient, and hardly reaches the best; so both models are "
        "upcycled, from models trained on trillions of tokens",
        f"at the end upcycled is at {nats(gain)} against scratch, after as many tokens in all; "
        f"scratch is the lower one {when}",
        {1: AGREES, 0: UNDECIDED, -1: DISAGREES}[n.sure(gain)],
    )


def _randomness(n: MoeNumbers) -> Finding:
    gain = n.gain(UPCYCLED, COPIES)
    starts = [n.loss(run, moment="start") for run in (COPIES, UPCYCLED)]
    return Finding(
        "Half of the numbers drawn anew help the experts to become different, and the model to "
        "learn.",
        "Qwen2 2.2.2: promotes exploration; Qwen1.5-MoE: faster and better throughout. No numbers",
        f"loss just after the cut {starts[0]:.2f} without and {starts[1]:.2f} with new numbers; at "
        f"the end, with them, {nats(gain)}; told about the source: {share(n.told(COPIES))} "
        f"without, {share(n.told(UPCYCLED))} with",
        {1: AGREES, 0: UNDECIDED, -1: DISAGREES}[n.sure(gain)],
    )


def _balance(n: MoeNumbers) -> Finding:
    busiest, idle, effective = n.uneven(UNBALANCED)
    even, _, even_effective = n.uneven(SCRATCH)
    few = FEW * n.num_experts
    uneven = busiest >= UNEVEN or idle > 0 or busiest > even * MORE
    return Finding(
        "Without a balance loss a router comes to use a few experts only.",
        "Shazeer et al. 2017 and Switch Transformer say so; the Qwen reports name no loss, their "
        "configs have the coefficient 0.001",
        f"{_used(n, UNBALANCED)} without, {_used(n, SCRATCH)} with it",
        AGREES if effective <= few < even_effective else PARTLY if uneven else DISAGREES,
    )


def _specialised(n: MoeNumbers) -> Finding:
    ours = {run: n.told(run) for run in (SCRATCH, UPCYCLED)}
    start = n.told(SCRATCH, moment="start")
    return Finding(
        "Experts do not specialise in kinds of text.",
        "Mixtral: no obvious patterns by topic. Its topics are mostly in one language; our sources "
        "are code, two kinds of English, and Chinese",
        f"of four sources, the choice of an expert tells {share(ours[SCRATCH])} from scratch, "
        f"{share(ours[UPCYCLED])} upcycled; an untrained router {share(start)}",
        DISAGREES
        if min(ours.values()) >= MUCH
        else PARTLY
        if max(ours.values()) >= MUCH
        else AGREES,
    )


def _token(n: MoeNumbers) -> Finding:
    shares = {run: n.by_token(run) for run in (SCRATCH, UPCYCLED)}
    last = {run: n.routing(run)["by_token"][-1] for run in (SCRATCH, UPCYCLED)}
    return Finding(
        "What looks like specialisation in text is mostly the router knowing tokens.",
        "Mixtral: experts look aligned with syntax more than with the domain",
        f"of what the choice tells about the source, the token alone explains "
        f"{share(shares[SCRATCH])} from scratch, {share(shares[UPCYCLED])} upcycled (last layer: "
        f"{share(last[SCRATCH])}, {share(last[UPCYCLED])})",
        AGREES if min(shares.values()) >= MOSTLY else PARTLY if max(shares.values()) >= MOSTLY
        else DISAGREES,
    )  # fmt: skip


def seen(n: MoeNumbers) -> list[str]:
    """Return what was seen, in plain sentences."""
    makers = (
        _seen_loss,
        _seen_sources,
        _seen_cut,
        _seen_raw,
        _seen_load,
        _seen_special,
        _seen_time,
    )
    return [make(n) for make in makers]


def _seen_loss(n: MoeNumbers) -> str:
    losses = {run: n.loss(run) for run in (DENSE, AGAIN, SCRATCH, UPCYCLED)}
    told = [_words(n, run, DENSE) for run in (SCRATCH, UPCYCLED)]
    return (
        f"At the end dense has {losses[DENSE]:.3f} nats a token, experts from scratch "
        f"{losses[SCRATCH]:.3f}, upcycled {losses[UPCYCLED]:.3f}. The same dense model with other "
        f"first numbers has {losses[AGAIN]:.3f}, and the two are up to {n.noise:.3f} apart in the "
        f"second half. So, against dense, the run from scratch {told[0]}, and the upcycled one "
        f"{told[1]}."
    )


def _words(n: MoeNumbers, run: str, other: str) -> str:
    sure = n.sure(n.gain(run, other))
    return {1: "is surely lower", 0: "is not surely different", -1: "is surely higher"}[sure]


def _seen_sources(n: MoeNumbers) -> str:
    def minus(run: str, source: int) -> str:
        return f"{n.loss(run, source) - n.loss(DENSE, source):+.3f}"

    parts = [
        f"{name} {', '.join(minus(run, i) for run in (SCRATCH, UPCYCLED, AGAIN))}"
        for i, name in enumerate(source_names())
    ]
    return (
        "Source by source, minus dense: from scratch, upcycled, and as a measure of chance dense "
        f"with other first numbers: {'; '.join(parts)}."
    )


def _seen_cut(n: MoeNumbers) -> str:
    step, start = n.facts["upcycle_step"], n.loss(UPCYCLED, moment="start")
    return (
        f"The cut into experts at step {step} costs: from {n.at(DENSE, step):.2f} to {start:.2f} "
        f"nats. Upcycled is {_first(n, DENSE)} and {_first(n, SCRATCH)}."
    )


def _first(n: MoeNumbers, other: str) -> str:
    step, name = n.caught_up(UPCYCLED, other), "dense" if other == DENSE else "the run from scratch"
    if step is None:
        return f"never below {name} at the same step"
    return f"below {name} first at step {step}, {step - n.facts['upcycle_step']} steps later"


def _seen_raw(n: MoeNumbers) -> str:
    times = [n.facts["receipts"][run]["w_down_factors"][0] for run in (UPCYCLED, RAW)]
    starts = [n.loss(run, moment="start") for run in (UPCYCLED, RAW)]
    gain = n.gain(RAW, UPCYCLED)
    reason = (
        " A likely reason: AdamW's steps are as long for large numbers as for small ones, so large "
        "ones learn slowly."
    )
    return (
        "The released models do not make the weights of the chosen experts sum to 1. They are "
        f"small then, and w_down is made {times[1]:g} times as long to start near the dense model, "
        f"instead of {times[0]:g} times: the loss is {starts[1]:.2f} instead of {starts[0]:.2f} "
        f"just after the cut. At the end such a model {_words(n, RAW, UPCYCLED)}: {nats(gain)}."
        f"{reason if n.sure(gain) < 0 else ''}"
    )


def _seen_load(n: MoeNumbers) -> str:
    parts = [f"{BY_NAME[run].label}, {_used(n, run)}" for run in (SCRATCH, UPCYCLED, UNBALANCED)]
    return (
        f"How the experts are used at the end: {'; '.join(parts)}. Without the balance loss, the "
        f"loss of the words {_words(n, UNBALANCED, SCRATCH)}: {nats(n.gain(UNBALANCED, SCRATCH))}."
    )


def _seen_special(n: MoeNumbers) -> str:
    one, other = n.told(SCRATCH), n.told(UPCYCLED)
    kinds = [n.told(run, "kind") for run in (SCRATCH, UPCYCLED)]
    starts = [n.told(run, moment="start") for run in (SCRATCH, UPCYCLED)]
    if max(one, other) < MORE * min(one, other):
        which = "the two are alike"
    else:
        which = f"{'scratch' if one > other else 'upcycled'} more than the other"
    most = [
        told.index(max(told))
        for told in (n.routing(run)["told_source"] for run in (SCRATCH, UPCYCLED))
    ]
    return (
        f"The choice of an expert tells {share(one)} of the source from scratch and "
        f"{share(other)} upcycled ({which}), most in layer {most[0]} and layer {most[1]}; and "
        f"{share(kinds[0])} and {share(kinds[1])} of the kind of token. To know how much of that "
        f"was learned: a random router tells {share(starts[0])} of the source in a model that "
        f"knows nothing, and {share(starts[1])} in the dense model as it was cut."
    )


def _seen_time(n: MoeNumbers) -> str:
    dense, sparse = (n.cell(run)["step_seconds"] for run in (DENSE, SCRATCH))
    spent = dense * n.facts["settings"]["steps"]  # of the whole dense run
    there = [y for x, y in n.curve(SCRATCH) if x * sparse <= spent][-1]
    return (
        f"A step takes {1000 * dense:.0f} ms of one core dense and {1000 * sparse:.0f} ms with "
        f"experts, {sparse / dense:.2f} times as long for as many multiplications: many small "
        f"products are slower than one large one. In the time of the dense run scratch gets to "
        f"{there:.3f}, with its learning rate not yet at the end; dense has {n.loss(DENSE):.3f}."
    )


def _used(n: MoeNumbers, run: str) -> str:
    busiest, idle, effective = n.uneven(run)
    count = n.num_experts * n.facts["settings"]["num_hidden_layers"]
    return (
        f"the busiest has {busiest:.1f} times an even share, {idle} of {count} are idle, "
        f"as uneven as {effective:.1f} of {n.num_experts} used evenly"
    )


def _against(signs: list[int]) -> str:
    return DISAGREES if min(signs) < 0 else UNDECIDED


def nats(gain: Gain) -> str:
    """Return the change of the loss with the rows' standard error; minus is better.

    >>> nats(Gain(0.05, 0.01))
    '-0.050 (± 0.010)'
    """
    return f"{-gain.nats + 0.0:+.3f} (± {gain.error:.3f})"


def share(value: float) -> str:
    """Return percent.

    >>> share(0.123)
    '12 %'
    """
    return f"{100 * value:.0f} %"

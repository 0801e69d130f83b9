"""Where our small model agrees with the report and where it does not: read from the numbers.

Each finding is a claim of the report, what the report measured, what we measured, and a verdict. A
difference counts only when it is above twice its standard error. "Little" is below 1 %; "explodes"
is at least twice at 2 L0, in part at least twice at 16 L0; "most" of the plain row's rise is 90 %,
in part 50 %. These limits are ours.

Paper:    Qwen Technical Report, Table 3 and 2.3.2; Qwen2 Technical Report, 3.2 and NeedleBench.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from .numbers import Gain, Numbers
from .techniques import BY_NAME

AGREES, DISAGREES, PARTLY, UNDECIDED = "agrees", "does not agree", "agrees in part", "not decided"
LITTLE, MOST, SOME, EXPLODES = 0.01, 0.9, 0.5, 2.0
LIMITS = (
    f"'Little' is below {LITTLE:.0%}; 'explodes' is at least times {EXPLODES:g} at 2 L0, in part "
    f"at 16 L0; 'most' of the plain row's rise is {MOST:.0%}, in part {SOME:.0%}. "
    "These limits are ours."
).replace("%", " %")

REPORT_MULTIPLES = (0.5, 1, 2, 4, 8)  # of the trained length, the columns of REPORT
REPORT: dict[str, tuple[float, ...]] = {  # Table 3, 7B, trained at 2048
    "plain": (4.23, 3.78, 39.35, 469.81, 2645.09),
    "ntk": (4.23, 3.78, 3.59, 3.66, 5.71),
    "ntk_logn": (4.23, 3.78, 3.58, 3.56, 4.62),
    "ntk_logn_window": (4.23, 3.78, 3.58, 3.49, 4.32),
}
BEYOND = (2, 4, 8, 16)  # multiples of the trained length


class Finding(NamedTuple):
    claim: str
    report: str
    ours: str
    verdict: str


def findings(n: Numbers) -> list[Finding]:
    """Return the findings, in the order of the report's table."""
    makers = (_short, _plain, _ntk, _logn, _window, _windows_alone, _context, _dca, _temperature,
              _layers)  # fmt: skip
    return [make(n) for make in makers]


def _short(n: Numbers) -> Finding:
    plain = n.cell("plain", 1)["by_text"]
    rows = {name: n.cell(name, 1)["by_text"] == plain for name in REPORT}
    differ = ", ".join(BY_NAME[name].label for name, same in rows.items() if not same)
    return Finding(
        "Up to the trained length nothing changes: all rows are the same.",
        "4.23 and 3.78 in every row",
        f"not the same at L0: {differ}" if differ else "all rows are the same at L0, bit for bit",
        DISAGREES if differ else AGREES,
    )


def _plain(n: Numbers) -> Finding:
    values = [n.perplexity("plain", k) for k in (1, *BEYOND)]
    ratios = [b / a for a, b in pairwise(values)]
    in_all = values[-1] / values[0]
    if min(ratios) > 1 and ratios[0] >= EXPLODES:
        verdict = AGREES
    else:
        verdict = PARTLY if in_all >= EXPLODES else DISAGREES
    return Finding(
        "Without help the perplexity explodes beyond the trained length.",
        "times 10.4 at 2 L0, times 12 more at 4 L0, times 5.6 more at 8 L0",
        f"times {ratios[0]:.2f} at 2 L0, times {in_all:.2f} at 16 L0. Each further doubling: times "
        f"{ratios[1]:.2f}, {ratios[2]:.2f}, {ratios[3]:.2f}.",
        verdict,
    )


def _ntk(n: Numbers) -> Finding:
    removed = _removed(n, "ntk")
    good = [removed[k] >= MOST for k in (2, 4, 8)]
    return Finding(
        "Dynamic NTK takes most of that rise away, without any training.",
        "100 % at 2, 4 and 8 L0, where it is 3.59, 3.66 and 5.71",
        _text({k: f"{share:.0%}".replace("%", " %") for k, share in removed.items()}, (2, 4, 8)),
        AGREES if all(good) else PARTLY if any(good) else DISAGREES,
    )


def _removed(n: Numbers, technique: str) -> dict[int, float]:
    """Return, at each multiple, the share of plain's rise over L0 that the technique removes."""
    start, shares = n.perplexity("plain", 1), {}
    for k in BEYOND:
        plain, other = n.perplexity("plain", k), n.perplexity(technique, k)
        shares[k] = (plain - other) / (plain - start) if plain > start else 0.0
    return shares


def _logn(n: Numbers) -> Finding:
    gains = _gains(n, "ntk_logn", "ntk")
    little = abs(gains[2].nats) < LITTLE
    grows = n.growth("ntk_logn", "ntk", 2, 8).sure > 0
    return Finding(
        "LogN on top of NTK helps little at 2 L0, and surely more at 8 L0.",
        "-0.3 % at 2 L0, -2.7 % at 4 L0, -19 % at 8 L0",
        _text(gains, (2, 8)),
        AGREES if little and grows else PARTLY if grows else DISAGREES,
    )


def _window(n: Numbers) -> Finding:
    gains = _gains(n, "ntk_logn_window", "ntk_logn")
    little, late = abs(gains[2].nats) < LITTLE, [gains[k].sure > 0 for k in (4, 8)]
    return Finding(
        "Windows on top of both change little at 2 L0, and help from 4 L0 on.",
        "0 % at 2 L0, -2.0 % at 4 L0, -6.5 % at 8 L0",
        _text(gains, (2, 4, 8)),
        AGREES if little and all(late) else PARTLY if any(late) else DISAGREES,
    )


def _windows_alone(n: Numbers) -> Finding:
    same, short = _gains(n, "ntk_logn", "window"), _gains(n, "ntk_logn", "all_layers")
    won = [min(gains[k].sure for k in (4, 8)) > 0 for gains in (same, short)]
    return Finding(
        "Windows alone are worse than NTK with LogN.",
        "said by the authors (QwenLM/Qwen, issue 422), without numbers",
        f"NTK + LogN against the same windows alone: {same[4]} at 4 L0, {same[8]} at 8 L0; against "
        f"windows of L0 in all layers: {short[4]} and {short[8]}. At 16 L0: {same[16].percent} and "
        f"{short[16].percent}.",
        AGREES if all(won) else PARTLY if any(won) else DISAGREES,
    )


def _context(n: Numbers) -> Finding:
    gains = {k: n.gain("ntk_logn_window", "plain", k, than=1) for k in BEYOND}
    good = [gains[k].sure > 0 for k in (2, 4)]
    others = ", ".join(
        f"{BY_NAME[name].label} {n.gain(name, 'plain', 4, than=1).percent}"
        for name in ("dca", "all_layers")
    )
    return Finding(
        "Read well, more text than L0 helps: with everything on, perplexity falls below its value "
        "at L0.",
        "-5.3 % at 2 L0, -7.7 % at 4 L0, +14 % at 8 L0",
        f"{_text(gains, (2, 4))} Other rows at 4 L0: {others}.",
        AGREES if all(good) else PARTLY if any(good) else DISAGREES,
    )


def _dca(n: Numbers) -> Finding:
    removed = _removed(n, "dca")
    shares = {k: f"{share:.0%}".replace("%", " %") for k, share in removed.items()}
    return Finding(
        "Qwen2: DCA reads 4 L0 without any training, so most of the plain row's rise is gone.",
        "found needles with DCA and YaRN, 7B at 4 L0: 66 % instead of 39 % (NeedleBench)",
        f"perplexity, not needles; share of the rise gone: {_text(shares, (4,))}",
        AGREES if removed[4] >= MOST else PARTLY if removed[4] >= SOME else DISAGREES,
    )


def _temperature(n: Numbers) -> Finding:
    gains = _gains(n, "dca_temperature", "dca")
    return Finding(
        "Qwen2: on top of DCA, YaRN's rescaling of the attention weights helps.",
        "said in 3.2, without numbers for it alone",
        f"perplexity, not needles; with it instead of without: {_text(gains, BEYOND)}",
        _vote(gain.sure for gain in gains.values()),
    )


def _layers(n: Numbers) -> Finding:
    pairs = (
        ("window", "window_reversed", "short windows low instead of high"),
        ("ntk_logn_window", "ntk_logn_window_reversed", "so with NTK and LogN"),
        ("lower_half", "upper_half", "lower half limited instead of upper"),
    )
    votes, lines = [], []
    for low, high, what in pairs:
        gains = {k: n.gain(low, high, k) for k in (4, 16)}
        votes += [gain.sure for gain in gains.values()]
        lines.append(f"{what} {gains[16].percent}")
    alone = n.single_layers
    votes.append(n.gain(alone[-1], alone[0], 16).sure)  # beyond L0, is the lowest layer worse?
    values = [n.perplexity(name, 16) for name in alone]
    most, least = values.index(max(values)), values.index(min(values))
    return Finding(
        "Lower layers are more sensitive to length than upper ones: give them the short windows.",
        "said in 2.3.2, without numbers",
        f"{votes.count(1)} of {len(votes)} comparisons for, {votes.count(-1)} against; layer "
        f"{most} is the most sensitive, layer {least} the least. At 16 L0: {'; '.join(lines)}; "
        f"only the lowest layer beyond L0 instead of the highest "
        f"{n.gain(alone[0], alone[-1], 16).percent}.",
        _vote(votes),
    )


def _vote(signs: Iterable[int]) -> str:
    """Return the verdict of several comparisons; for and against together decide nothing."""
    signs = list(signs)
    agree, against = 1 in signs, -1 in signs
    if agree == against:
        return UNDECIDED
    return AGREES if agree else DISAGREES


def _gains(n: Numbers, better: str, worse: str) -> dict[int, Gain]:
    return {k: n.gain(better, worse, k) for k in BEYOND}


def _text(values: dict[int, Gain] | dict[int, str], decide: Sequence[int]) -> str:
    """Return the values that decide, with their errors, and then the others."""
    first = ", ".join(f"{values[k]} at {k} L0" for k in decide)
    rest = [(k, v.percent if isinstance(v, Gain) else v) for k, v in values.items()]
    others = ", ".join(f"{v} at {k} L0" for k, v in rest if k not in decide)
    return f"{first}. Also {others}." if others else f"{first}."

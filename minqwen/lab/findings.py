"""Where our small model agrees with the report and where it does not: read from the numbers.

Each finding is a claim of the report, what the report measured, what we measured, and a verdict. A
difference counts only when it is above twice its standard error; below that it is "not decided".

Paper:    Qwen Technical Report, Table 3 and 2.3.2.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from .numbers import Gain, Numbers
from .techniques import BY_NAME

AGREES, DISAGREES, PARTLY, UNDECIDED = "agrees", "does not agree", "agrees in part", "not decided"

REPORT: dict[str, tuple[float, ...]] = {  # Table 3, 7B, trained at 2048; from 1/2 to 8 times that
    "plain": (4.23, 3.78, 39.35, 469.81, 2645.09),
    "ntk": (4.23, 3.78, 3.59, 3.66, 5.71),
    "ntk_logn": (4.23, 3.78, 3.58, 3.56, 4.62),
    "ntk_logn_window": (4.23, 3.78, 3.58, 3.49, 4.32),
}


class Finding(NamedTuple):
    claim: str
    report: str
    ours: str
    verdict: str


def findings(n: Numbers) -> list[Finding]:
    """Return the findings, in the order of the report's table."""
    makers = (_short, _plain, _ntk, _logn, _window, _windows_alone, _context, _qwen2, _layers)
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
    values = [n.perplexity("plain", k) for k in (1, 2, 4, 8, 16)]
    ratios = [b / a for a, b in pairwise(values)]
    rises = min(ratios) > 1
    verdict = (
        AGREES if rises and ratios[0] >= 2 else PARTLY if values[-1] >= 2 * values[0] else DISAGREES
    )
    return Finding(
        "Without help the perplexity explodes behind the trained length.",
        "times 10.4 at 2 L0, times 12 more at 4 L0, times 5.6 more at 8 L0",
        ", ".join(f"times {r:.2f} at {k} L0" for k, r in zip((2, 4, 8, 16), ratios, strict=True)),
        verdict,
    )


def _ntk(n: Numbers) -> Finding:
    removed = _removed(n, "ntk")
    good = [removed[k] >= 0.9 for k in (2, 4, 8)]
    return Finding(
        "Dynamic NTK takes at least 90 % of that rise away, without any training.",
        "100 % at 2, 4 and 8 L0, where it is 3.59, 3.66 and 5.71",
        ", ".join(f"{100 * share:.0f} % at {k} L0" for k, share in removed.items()),
        AGREES if all(good) else PARTLY if any(good) else DISAGREES,
    )


def _removed(n: Numbers, technique: str) -> dict[int, float]:
    """Return, at each multiple, the share of plain's rise over L0 that the technique removes."""
    start, shares = n.perplexity("plain", 1), {}
    for k in (2, 4, 8, 16):
        plain, other = n.perplexity("plain", k), n.perplexity(technique, k)
        shares[k] = (plain - other) / (plain - start) if plain > start else 0.0
    return shares


def _gains(n: Numbers, better: str, worse: str) -> tuple[dict[int, Gain], str]:
    gains = {k: n.gain(better, worse, k) for k in (2, 4, 8, 16)}
    return gains, ", ".join(f"{gain} at {k} L0" for k, gain in gains.items())


def _logn(n: Numbers) -> Finding:
    gains, ours = _gains(n, "ntk_logn", "ntk")
    small = abs(gains[2].nats) < 0.01
    grows = gains[8].nats > gains[2].nats + 2 * gains[8].error
    return Finding(
        "LogN on top of NTK helps little at 2 L0 and more the longer the text is.",
        "-0.3 % at 2 L0, -2.7 % at 4 L0, -19 % at 8 L0",
        ours,
        AGREES if small and grows else PARTLY if grows else DISAGREES,
    )


def _window(n: Numbers) -> Finding:
    gains, ours = _gains(n, "ntk_logn_window", "ntk_logn")
    late = gains[8].sure > 0
    return Finding(
        "Windows on top of both help too, from 4 L0 on.",
        "0 % at 2 L0, -2.0 % at 4 L0, -6.5 % at 8 L0",
        ours,
        AGREES if late and abs(gains[2].nats) < 0.01 else PARTLY if late else DISAGREES,
    )


def _windows_alone(n: Numbers) -> Finding:
    gains, ours = _gains(n, "ntk_logn", "window")
    short, ours_short = _gains(n, "ntk_logn", "all_layers")
    won = [min(part[k].sure for k in (4, 8)) > 0 for part in (gains, short)]
    return Finding(
        "Windows alone are worse than NTK with LogN.",
        "said by the authors (QwenLM/Qwen, issue 422), without numbers",
        f"NTK + LogN against the same windows alone: {ours}; against windows of L0 in all layers: "
        f"{ours_short}",
        AGREES if all(won) else PARTLY if any(won) else DISAGREES,
    )


def _context(n: Numbers) -> Finding:
    lines, below = [], []
    for name in ("ntk_logn_window", "dca", "all_layers"):
        gains = {k: n.gain(name, "plain", k, than=1) for k in (2, 4, 8, 16)}
        what = "everything on" if name == "ntk_logn_window" else BY_NAME[name].label
        lines.append(f"{what}: " + ", ".join(f"{g} at {k} L0" for k, g in gains.items()))
        below.append(gains[2].sure > 0 and gains[4].sure > 0)
    return Finding(
        "Read well, more text than L0 helps: with everything on, perplexity falls below its value "
        "at L0.",
        "-5.3 % at 2 L0, -7.7 % at 4 L0, +14 % at 8 L0",
        "; ".join(lines),
        AGREES if below[0] else PARTLY if any(below) else DISAGREES,
    )


def _qwen2(n: Numbers) -> Finding:
    removed = _removed(n, "dca_temperature")
    return Finding(
        "Qwen2: DCA with YaRN's temperature reads 4 L0 without any training.",
        "found needles, 7B at 4 L0: 66 % instead of 39 % (Qwen2 report, NeedleBench)",
        ", ".join(
            f"{100 * share:.0f} % of the rise gone at {k} L0" for k, share in removed.items()
        ),
        AGREES if removed[4] >= 0.9 else PARTLY if removed[4] >= 0.5 else DISAGREES,
    )


def _layers(n: Numbers) -> Finding:
    pairs = (
        ("window", "window_reversed", "short windows low instead of high"),
        ("ntk_logn_window", "ntk_logn_window_reversed", "the same with NTK and LogN"),
        ("lower_half", "upper_half", "only the lower half limited to L0, instead of the upper"),
    )
    lines, votes = [], []
    for low, high, what in pairs:
        gains = {k: n.gain(low, high, k) for k in (4, 16)}
        lines.append(f"{what}: " + ", ".join(f"{g} at {k} L0" for k, g in gains.items()))
        votes += [gain.sure for gain in gains.values()]
    alone = [n.perplexity(name, 16) for name in n.results.cells if name.startswith("layer_")]
    each = ", ".join(f"{value:.2f}" for value in alone)
    lines.append(f"only one layer beyond L0, from the lowest to the highest, at 16 L0: {each}")
    votes.append(1 if alone[0] > alone[-1] else -1)  # the lowest layer against the highest
    agree, against = votes.count(1), votes.count(-1)
    verdict = AGREES if agree and not against else DISAGREES if against and not agree else PARTLY
    return Finding(
        "Lower layers are more sensitive to length than upper ones: give them the short windows.",
        "said in 2.3.2, without numbers",
        "; ".join(lines),
        verdict if agree or against else UNDECIDED,
    )

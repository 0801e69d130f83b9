"""Make the tables of docs/checker.md: python docs/make_checker_table.py [--check]

Every mistake of the bank is planted into the implementations of tests/check/independent/, and right
implementations are checked too. It takes some minutes and needs PyTorch and transformers. The page
is never edited between its two markers; a slow test runs this with --check.
"""

import contextlib
import io
import re
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "checker.md"
COMMAND = re.compile(r"```text\n\$ minqwen (check .*)\n[^`]*```")  # and what it prints
BEGIN, END = "<!-- made by docs/make_checker_table.py -->", "<!-- end -->"
COLUMNS = (
    "concept",
    "side",
    "code",
    "planted",
    "caught",
    "named",
    "wrong name",
    "pairs",
    "caught",
    "equal one mistake",
    "both named",
    "wrong name",
)
CODE = {"numpy": "NumPy", "torch": "PyTorch"}


def table(header, rows):
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |"]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def numbers(tallies):
    """Return the numbers of a row, summed over these tallies."""
    singles = [o for t in tallies for o in t.singles]
    pairs = [o for t in tallies for o in t.pairs]
    both = [o for o in pairs if not o.single]
    return (
        len(singles),
        sum(o.caught for o in singles),
        sum(o.named for o in singles),
        sum(o.wrong for o in singles),
        len(pairs),
        sum(o.caught for o in pairs),
        len(pairs) - len(both),
        f"{sum(o.named for o in both)} of {len(both)}",
        sum(o.wrong for o in pairs),
    )


def exceptions(tallies):
    """Yield a line for each single mistake that is not caught, or not named by its name alone."""
    for t in tallies:
        for o in t.singles:
            if not (o.caught and o.named):
                what = "not caught" if not o.caught else "caught, not named"
                if o.wrong:
                    what = f"named {', '.join(' and '.join(names) for names in o.said)}"
                yield f"- `{t.concept}.{o.planted[0]}` in {CODE[t.framework]}, {t.side}: {what}"
        for o in t.pairs:
            if o.wrong:
                said = ", ".join(" and ".join(names) for names in o.said)
                yield f"- `{t.concept}`, {t.side}, {' and '.join(o.planted)}: named {said}"


def planted_part():
    """Return the lines about planted mistakes."""
    from check.independent.proof import independents, proved

    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # a process for each core
        tallies = [t for found in pool.map(proved, independents()) for t in found]
    rows = [(f"`{t.concept}`", t.side, CODE[t.framework], *numbers([t])) for t in tallies]
    total = numbers(tallies)
    rows.append(("**all**", "", "", *(f"**{number}**" for number in total)))
    pairs = [o for t in tallies for o in t.pairs if not o.single]
    lines = [
        f"{total[0]} single mistakes: {percent(total[1], total[0])} caught, "
        f"{percent(total[2], total[0])} named. {len(pairs)} pairs that equal no single mistake: "
        f"{percent(sum(o.caught for o in pairs), len(pairs))} caught, "
        f"{percent(sum(o.named for o in pairs), len(pairs))} named. "
        f"Wrong names given alone: {total[3] + total[8]}.",
        "",
        *table(COLUMNS, rows),
        "",
    ]
    found = list(exceptions(tallies))
    if found:
        lines += ["What is not as it should be:", "", *found, ""]
    return lines


def percent(part, whole):
    """Return a share in words, rounded down, so that 100 % means all.

    >>> percent(999, 1000), percent(2, 2)
    ('99.9 %', '100 %')
    """
    return "100 %" if part == whole else f"{int(1000 * part / whole) / 10} %"


def right_part():
    """Return the lines about right implementations."""
    from check.independent.proof import independents, quiet, report_of
    from check.independent.right import everything

    from minqwen.check.compare import compare

    found = {}
    for whose, concept, function, options in everything():
        if whose != "JAX":  # not among what CI installs
            with quiet():
                report = compare(concept, function, **options)
            found.setdefault(whose, []).append((concept, report.ok))
    for one in independents():
        side = "backward" if one.planted["backward"] else "forward"
        whose = f"independent, {CODE[one.framework]}"
        found.setdefault(whose, []).append((one.concept, report_of(one, side).ok))
    rows = []
    for whose, reports in found.items():
        bad = [f"`{concept}`" for concept, ok in reports if not ok]
        concepts = ", ".join(f"`{concept}`" for concept, _ in reports)
        rows.append((whose, len(reports), ", ".join(bad) or "none", concepts))
    return table(("right code", "functions", "false alarms", "concepts"), rows)


def with_outputs(text):
    """Return the text with what each command in it prints now."""
    from minqwen.cli import main

    def run(found):
        printed = io.StringIO()
        with contextlib.chdir(ROOT), contextlib.redirect_stdout(printed):
            main(shlex.split(found[1]))
        return f"```text\n$ minqwen {found[1]}\n{printed.getvalue().rstrip()}\n```"

    return COMMAND.sub(run, text)


def page():
    """Return the whole page with fresh tables."""
    lines = ["## How well it works", "", *planted_part(), *right_part()]
    before, rest = with_outputs(PAGE.read_text(encoding="utf-8")).split(BEGIN)
    after = rest.split(END)[1]
    return "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"])


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    fresh = page()
    if "--check" in sys.argv:
        sys.exit("docs/checker.md is stale" if fresh != PAGE.read_text("utf-8") else 0)
    PAGE.write_text(fresh, encoding="utf-8")

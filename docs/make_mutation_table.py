"""Make docs/assignments_mutations.md: python docs/make_mutation_table.py [--check]

Every wrong solution of tests/course/wrong_solutions.py is graded; it takes some minutes. The page
is written whole, never by hand; a slow test compares it with what comes out.
"""

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "assignments_mutations.md"
STALE = "run: python docs/make_mutation_table.py"
ASPECTS = ("shape", "values", "more values", "hard inputs", "gradient", "stability")
HEAD = """\
# Does grading find what is wrong?

Each exercise of the ladder is handed in many times, each time with one thing wrong, as an
assignment of its own of 100 points. The mistakes of the bank are put where their line stands in
the files that students write; the others are tricks that fit any exercise: zeros, answers that
are written into the file, sizes that are hard-coded, a cache that is kept outside, and so on
(`tests/course/tricks.py`). The right files earn 100.

Points left are what the wrong solution still earns. It can be a lot: who hands in a right forward
and a wrong gradient has done three quarters of the work, and float64 where float32 came in is a
blemish. What loses points where:

| aspect | what it is |
| --- | --- |
| shape | every output has the right shape |
| values, more values | right on the numbers that students can try, and on others |
| hard inputs | right on large, tiny, zero, single, masked ones |
| gradient | every gradient, on every input |
| stability | dtype kept, float32, half precision, arguments left alone, the same answer twice |

"Named" says that the report names the very mistake that was made (or one that computes the same).
This page is made by `docs/make_mutation_table.py`.
"""
NO_FAULT = """\
What is marked "no fault" concerns which of several equals is taken: the checker says so, and takes
no points for it. To compute in float32 and to return what came in is no fault either, since many
libraries do; so noise of a millionth can pass for float32 on some inputs.
"""


def share(part, whole):
    """Return a share in words, rounded down, so that 100 means all.

    >>> share(999, 1000), share(2, 2)
    ('99.9 %', '100 %')
    """
    return "100 %" if part == whole else f"{int(1000 * part / whole) / 10} %"


def table(header, rows):
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |"]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def summary(name, found):
    """Return the row of an exercise, or of all of them."""
    faults = [c for c in found if c.wrong.fault]
    bank = [c for c in faults if c.wrong.side]
    lost = [c for c in faults if c.points < 100]
    where = Counter(aspect for c in lost for aspect in c.lost)
    points = [c.points for c in lost]
    return (
        name,
        sum(bool(c.wrong.side) for c in found),
        sum(not c.wrong.side for c in found),
        len(faults),
        len(lost),
        f"{sum(c.named for c in bank)} of {len(bank)}",
        *(where[aspect] for aspect in ASPECTS),
        f"{min(points):.4g} / {median(points):.4g} / {max(points):.4g}",
    )


SUMMARY = (
    "exercise",
    "of the bank",
    "tricks",
    "faults",
    "lose points",
    "named",
    *ASPECTS,
    "points left: least / median / most",
)


def details(name, found):
    """Return the lines of one exercise: a row for each wrong solution."""
    rows = []
    for c in found:
        kind = f"bank, {c.wrong.side}" if c.wrong.side else "trick"
        named = ("yes" if c.named else "no") if c.wrong.side else ""
        lost = ", ".join(c.lost) if c.wrong.fault else "no fault"
        title = f"`{c.wrong.part}.{c.wrong.name}`" if c.wrong.side else c.wrong.name
        if not c.wrong.side and len({other.wrong.part for other in found}) > 1:
            title += f" (`{c.wrong.part}`)"
        rows.append((title, kind, lost or "nothing", f"{c.points:g}", named))
    header = ("what is wrong", "from", "loses points in", "points left", "named")
    return [f"### {name}", "", *table(header, rows), ""]


def tried(name):
    """Grade all wrong solutions of an exercise; a process can be asked for it."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from course.wrong_solutions import try_all

    return try_all(name)


def page(jobs=None):
    """Return the page, made anew."""
    from minqwen.course.ladder import LADDER

    names = [one.name for one in LADDER]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return page_of(dict(zip(names, pool.map(tried, names), strict=True)))


def page_of(found):
    """Return the page; found holds what became of the wrong solutions of each exercise."""
    every = [c for some in found.values() for c in some]
    faults = [c for c in every if c.wrong.fault]
    bank = [c for c in faults if c.wrong.side]
    silent = [f"`{c.wrong.part}.{c.wrong.name}`" for c in bank if not c.named]
    lines = [
        HEAD,
        f"{len(faults)} wrong solutions, of which {sum(c.points < 100 for c in faults)} lose "
        f"points. Of the bank's mistakes {share(sum(c.named for c in bank), len(bank))} are named.",
        *([f"Not named: {', '.join(silent)}."] if silent else []),
        "",
        *table(SUMMARY, [summary(f"[`{n}`](#{n})", some) for n, some in found.items()]),
        f"| {' | '.join(f'**{cell}**' for cell in summary('all', every))} |",
        "",
        NO_FAULT,
        "## Every wrong solution",
        "",
    ]
    for name, some in found.items():
        lines += details(name, some)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    fresh = page(int(os.environ.get("JOBS", 0)) or None)
    if "--check" in sys.argv:
        sys.exit(f"{PAGE.name} is stale: {STALE}" if fresh != PAGE.read_text("utf-8") else 0)
    PAGE.write_text(fresh, encoding="utf-8")

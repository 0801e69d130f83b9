"""Plant every mistake of the bank into independent code and see what the checker says.

Run it: PYTHONPATH=.:tests python tests/check/independent/proof.py [CONCEPT ...]. It prints a line
for each file and side, and every case that was not caught, or not named, or named wrongly.
"""

import contextlib
import random
import sys
import time
import warnings
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from helpers.kept_answers import KEPT, kept_work

from minqwen.check.compare import compare
from minqwen.check.diagnose import fits
from minqwen.check.edited import Edit, edited_text, source_of
from minqwen.check.outside.worker import InProcess
from minqwen.check.questions import Questions
from minqwen.check.specs import spec as spec_of

FOLDER = Path(__file__).parent
MARK = "# --- planted"
PAIRS = {"numpy": 25, "torch": 5}  # on each side of a file
OTHERS = ("conftest", "proof", "right")  # files here that are no implementation


class Independent(NamedTuple):
    """One independent implementation, and how the mistakes of the bank are written in it."""

    name: str  # of the file
    concept: str
    framework: str
    source: str
    planted: dict  # side -> name of a mistake -> texts: find, put, find, put, ...
    left_out: dict  # side -> name -> why it cannot be written in this code


class Outcome(NamedTuple):
    """What the checker said about one function with planted mistakes."""

    planted: tuple  # names
    caught: bool
    named: bool  # among the names that are said to fit, or alone
    wrong: bool  # names are said, and none of the planted ones is among them
    said: tuple  # of names, each a tuple
    single: tuple = ()  # names of single mistakes that this pair equals


class Tally(NamedTuple):
    """Outcomes of one file and side."""

    file: str
    concept: str
    framework: str
    side: str
    singles: list
    pairs: list


def read(path):
    """Return the implementation in a file; the tables below the mark need nothing but the mark."""
    text = path.read_text(encoding="utf-8")
    source, tables = text.split(MARK)
    found = {}
    exec(compile(f"# {tables}", str(path), "exec"), found)
    concept = path.stem.removesuffix("_torch")
    return Independent(
        path.stem,
        concept,
        "torch" if path.stem.endswith("_torch") else "numpy",
        source,
        {"forward": found["FORWARD"], "backward": found.get("BACKWARD", {})},
        {"forward": found.get("LEFT_OUT", {}), "backward": found.get("LEFT_OUT_BACKWARD", {})},
    )


def independents(concepts=(), framework=None):
    """Yield all implementations, of these concepts and in this framework."""
    for path in sorted(FOLDER.glob("*.py")):
        if path.stem not in OTHERS:
            one = read(path)
            if (not concepts or one.concept in concepts) and framework in (None, one.framework):
                yield one


def edits_of(one, side, names):
    """Return the edits of all these mistakes."""
    texts = [one.planted[side][name] for name in names]
    return [Edit("", t[i], t[i + 1]) for t in texts for i in range(0, len(t), 2)]


def functions(one, edits=()):
    """Return forward and backward (or None) with these edits; None when two edits meet."""
    text = edited_text(one.source, list(edits))
    if text is None:
        return None
    found = {"__name__": one.name}
    exec(compile(text, f"{one.name}, edited", "exec"), found)
    return found["forward"], found.get("backward")


@contextlib.contextmanager
def quiet():
    """Let wrong code divide by zero."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def report_of(one, side, edits=(), seed=0):
    """Return what the checker says about this code."""
    forward, backward = functions(one, edits)
    backward = backward if side == "backward" else None
    with quiet(), kept_work():
        return compare(one.concept, forward, backward, framework=one.framework, seed=seed)


def bank_name(name):
    """Return the name in the bank: "eps_outside/2" is a second way to write eps_outside."""
    return name.split("/")[0]


def said_by(report, side):
    """Return the sets of names that are said to fit: one for each alternative."""
    found = []
    for where, diagnosis in report.diagnoses:
        if where == side or (where == "ties" and side == "forward"):
            alike = (diagnosis.mistakes, *diagnosis.also)
            found += [tuple(sorted(m.name for m in mistakes)) for mistakes in alike]
    return tuple(found)


def caught(report):
    """Say whether the report finds anything: another order of equals is told, and is no fault."""
    return not report.ok or any(f.name == "ties" and f.ok is None for f in report.facets)


def judge(report, side, names, single=()):
    """Say whether the report is right about these planted mistakes."""
    said = said_by(report, side)
    right = {tuple(sorted(map(bank_name, names)))} | {(bank_name(n),) for n in single}
    named = bool(right & set(said))
    true = {name for set_ in right for name in set_}
    wrong = bool(said) and not any(true & set(one) for one in said)
    return Outcome(tuple(names), caught(report), named, wrong, said, single)


def answers(one, side, edits, seed=0):
    """Return what the code says on every probe, as the checker asks it; nothing where it raises."""
    spec = spec_of(one.concept)
    found = functions(one, edits)
    if found is None:
        return None
    function = InProcess(
        found[0],
        found[1] if side == "backward" else None,
        framework=one.framework,
        outputs=spec.outputs,
        optional=tuple(spec.defaults),
    )
    questions = Questions(spec, function, seed)
    replies = []
    for probe in spec.probes:
        if side == "backward" and not probe.gradient:
            continue
        with quiet():
            if side == "forward":
                reply = questions.forward(probe)
                got = dict(zip(spec.outputs, reply.outputs or (), strict=False))
            else:
                got = dict(questions.backward(probe).gradients)
        replies.append((questions.make(probe), got))
    return replies


def same(spec, one, other):
    """Say whether two functions gave the same on every probe, or both raise there."""
    return any(got for _, got in one) and all(
        a.keys() == b.keys() and same_numbers(spec, a, b, arguments)
        for (arguments, a), (_, b) in zip(one, other, strict=True)
    )


def same_numbers(spec, one, other, arguments):
    """Say whether answers are the same; a gradient may be missing in both."""
    there = {name for name, g in one.items() if g is not None}
    if there != {name for name, g in other.items() if g is not None}:
        return False
    one, other = ({name: got[name] for name in there} for got in (one, other))
    return fits(spec, one, other, arguments, "float64")


def composable(one, side, names):
    """Say whether these mistakes can be planted together, here and in the bank."""
    if len({bank_name(n) for n in names}) < len(names):
        return False
    if edited_text(one.source, edits_of(one, side, names)) is None:
        return False
    spec = spec_of(one.concept)
    bank = {m.name: m for m in getattr(spec, side)}
    chosen = [bank[bank_name(n)] for n in names]
    modules = {m.module or spec.module for m in chosen}
    return all(
        edited_text(
            source_of(module),
            [Edit(module, m.find, m.put) for m in chosen if (m.module or spec.module) == module],
        )
        is not None
        for module in modules
    )


def prove_singles(one, side, seed=0):
    """Return an outcome for every mistake planted alone."""
    return [
        judge(report_of(one, side, edits_of(one, side, [name]), seed), side, [name])
        for name in one.planted[side]
    ]


def prove_pairs(one, side, count, seed=0):
    """Return an outcome for a fixed random sample of pairs."""
    spec = spec_of(one.concept)
    choices = [c for c in combinations(one.planted[side], 2) if composable(one, side, c)]
    random.Random(f"{one.name} {side}").shuffle(choices)
    right = answers(one, side, [], seed)
    alone = {n: answers(one, side, edits_of(one, side, [n]), seed) for n in one.planted[side]}
    outcomes = []
    for names in choices:
        if len(outcomes) == count:
            break
        got = answers(one, side, edits_of(one, side, names), seed)
        if same(spec, got, right):
            continue  # two mistakes that cancel: there is nothing to be found
        single = tuple(n for n, other in alone.items() if same(spec, got, other))
        report = report_of(one, side, edits_of(one, side, names), seed)
        outcomes.append(judge(report, side, names, single))
    return outcomes


def proved(one):
    """Return all that prove() yields: a process can be asked for it."""
    return list(prove(one))


def prove(one, count=None, seed=0):
    """Yield a tally for each side of an implementation."""
    count = PAIRS[one.framework] if count is None else count
    KEPT.clear()
    for side in ("forward", "backward"):
        if one.planted[side]:
            pairs = prove_pairs(one, side, count, seed) if count else []
            singles = prove_singles(one, side, seed)
            yield Tally(one.name, one.concept, one.framework, side, singles, pairs)


def missing(one, side):
    """Return names of the bank that are not planted, and names that are in no bank."""
    bank = {m.name for m in getattr(spec_of(one.concept), side)}
    there = {bank_name(n) for n in one.planted[side]} | set(one.left_out[side])
    return bank - there, there - bank


def main(concepts):
    """Print all outcomes that are not as they should be, and the sums."""
    for one in independents(concepts):
        start = time.perf_counter()
        report = report_of(one, "backward" if one.planted["backward"] else "forward")
        if not report.ok:
            print(f"{one.name}: FALSE ALARM\n{report}")
        for side in ("forward", "backward"):
            gone, unknown = missing(one, side)
            if (one.framework == "numpy" and gone) or unknown:
                print(f"{one.name} {side}: not planted {sorted(gone)}, unknown {sorted(unknown)}")
        for t in prove(one):
            for kind, outcomes in (("single", t.singles), ("pair", t.pairs)):
                for o in outcomes:
                    if not (o.caught and o.named):
                        print(f"  {t.file} {t.side} {kind} {o}")
            real = [o for o in t.pairs if not o.single]
            print(
                f"{t.file:<22}{t.side:<9} planted {len(t.singles)}, caught "
                f"{sum(o.caught for o in t.singles)}, named {sum(o.named for o in t.singles)}, "
                f"wrong {sum(o.wrong for o in t.singles)}; pairs {len(t.pairs)}, caught "
                f"{sum(o.caught for o in t.pairs)}, equal a single {len(t.pairs) - len(real)}, "
                f"others named {sum(o.named for o in real)} of {len(real)}, wrong "
                f"{sum(o.wrong for o in t.pairs)}   {time.perf_counter() - start:.1f} s"
            )


if __name__ == "__main__":
    main(sys.argv[1:])

"""Wrong solutions of every exercise lose points, and most of the bank's mistakes are named.

The page docs/assignments_mutations.md counts them all. Here a few exercises are tried in this
process; the slow tests try every one, some once more as `minqwen grade` does, behind the guards.
"""

import pathlib
import re

import pytest
from course.grading import graded
from course.tricks import tricks_of
from course.wrong_solutions import (
    caught,
    graded_here,
    of_bank,
    of_tricks,
    right_files,
    task_of,
    try_all,
    wrong_solutions,
)
from helpers.scripts import load_script

from minqwen.course.ladder import LADDER, exercise

ROOT = pathlib.Path(__file__).parent.parent.parent
NAMES = [one.name for one in LADDER]
GATES = {"shape", "values", "more values", "hard inputs", "gradient", "stability"}


def make_table():
    return load_script(ROOT / "docs" / "make_mutation_table.py")


@pytest.mark.parametrize("name", NAMES)
def test_there_are_enough_of_each_kind(name):
    bank, tricks = list(of_bank(name)), list(of_tricks(name))
    assert sum(wrong.fault for wrong in bank) >= 10
    assert len(tricks) >= 3
    assert {wrong.part for wrong in bank} == {part.spec for part in exercise(name).parts}
    for wrong in (*bank, *tricks):
        changed = [f for f, text in wrong.files.items() if text != right_files(name)[f]]
        assert len(changed) == 1, wrong.name
        compile(wrong.files[changed[0]], changed[0], "exec")
    assert len({(w.part, w.side, w.name) for w in (*bank, *tricks)}) == len(bank) + len(tricks)


@pytest.mark.parametrize("name", NAMES)
def test_the_right_files_earn_everything_in_this_process_too(name):
    found = graded_here(right_files(name), task_of(name))
    assert (found.points, found.max_points) == (100, 100)


@pytest.mark.parametrize("name", ["rmsnorm", "gae", "bpe_encode"])
def test_some_wrong_solutions_lose_points(name):
    task = task_of(name)
    for wrong in [one for one in wrong_solutions(name) if one.fault][::7]:
        assert graded_here(wrong.files, task, names=False).points < 100, wrong.name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_wrong_solution_loses_points(name):
    found = try_all(name)
    assert not [f"{c.wrong.part}.{c.wrong.name}" for c in found if c.wrong.fault != bool(c.lost)]
    assert all(c.points < 100 for c in found if c.wrong.fault)
    assert all(set(c.lost) <= GATES for c in found)
    bank = [c for c in found if c.wrong.side and c.wrong.fault]
    assert sum(c.named for c in bank) >= 0.95 * len(bank)


@pytest.mark.parametrize(
    ("trick", "aspect"),
    [
        ("gradients of zero", "gradient"),
        ("float64 returned", "stability"),
        ("an argument changed", "stability"),
        ("cache kept outside", "stability"),
        ("hard-coded sizes", "hard inputs"),
        ("answers written into the file", "more values"),
        ("zeros", "values"),
    ],
)
def test_tricks_are_caught_where_they_should_be(trick, aspect):
    wrong = next(w for w in of_tricks("linear") if w.name == trick)
    assert aspect in caught(wrong, graded_here(wrong.files, task_of("linear"), False)).lost


@pytest.mark.parametrize("trick", ["answers written into the file", "cache kept outside"])
def test_the_points_are_those_of_the_real_grading(trick):
    """Behind the guards, in a process of its own."""
    same_as_real(next(w for w in of_tricks("rmsnorm") if w.name == trick))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_points_are_those_of_the_real_grading(name):
    """A second or two for each, so every seventeenth; all of them take half an hour."""
    for wrong in list(wrong_solutions(name))[::17]:
        same_as_real(wrong)


def same_as_real(wrong):
    task = task_of(wrong.exercise)
    here = graded_here(wrong.files, task, names=bool(wrong.side))
    real = graded(wrong.files, task)
    told = [(row.name, row.points) for row in here.rows]
    assert told == [(row.name, row.points) for row in real.rows], wrong.name
    assert caught(wrong, here) == caught(wrong, real)


def test_a_trick_is_offered_only_where_it_makes_a_difference():
    names = {name: dict(tricks_of(exercise(name).parts[0])) for name in ("gae", "bpe_train", "dpo")}
    assert "no backward" not in names["gae"]
    assert "no step at all" in names["bpe_train"]
    assert "float64 returned" not in names["dpo"]  # a loss is a number


def test_the_page_counts_what_there_is():
    """The cheap part of freshness."""
    module = make_table()
    text = module.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", text, re.M)
    assert [row[0] for row in rows] == NAMES, module.STALE
    for name, bank, tricks, faults, lost in rows:
        mine, others = list(of_bank(name)), list(of_tricks(name))
        assert (int(bank), int(tricks)) == (len(mine), len(others)), module.STALE
        assert int(faults) == sum(wrong.fault for wrong in (*mine, *others)), module.STALE
        assert lost == faults


def test_the_page_shows_what_was_asked_for():
    text = make_table().PAGE.read_text(encoding="utf-8")
    wrong, lose, named = re.search(
        r"(\d+) wrong solutions, of which (\d+) lose points\. "
        r"Of the bank's mistakes ([\d.]+) % are named", text
    ).groups()  # fmt: skip
    assert wrong == lose
    assert float(named) >= 95


@pytest.mark.slow
def test_the_page_is_fresh():
    module = make_table()
    fresh = module.page_of({name: try_all(name) for name in NAMES})
    assert fresh == module.PAGE.read_text(encoding="utf-8"), module.STALE

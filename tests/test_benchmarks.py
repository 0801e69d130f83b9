"""The benchmarks run and agree with their rivals. Nothing is timed here, and only on tiny sizes."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks import dedup, growth, harness, run
from benchmarks.cases import CASES
from benchmarks.harness import Case, Work, difference, measure, shares, start_rivals
from benchmarks.page import page, report

SMALL = [case for case in CASES if case.tiny]


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    monkeypatch.setattr(harness, "LEAST", 1e-4)


def example(ours=0.0, theirs=0.0, goals=None, name="example", exact=(), **fields):
    def missing():
        raise ImportError("No module named 'nothing'")

    def make(size):
        one = np.ones(size)
        rivals = {"there": lambda: lambda: one + theirs, "missing": missing}
        work = Work(lambda: one + ours, rivals, flops=1, items=1, unit="things/s", memory=True)
        return work._replace(exact=exact)

    return Case(name, make, {"size": 3}, {}, goals or {}, **fields)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_ours_runs(case):
    if case.tiny.get("python_threads"):
        pytest.importorskip("threadpoolctl")
    result = case.make(**case.tiny).ours()
    for array in result:
        assert np.isfinite(array).all()
        assert array.dtype in (np.float32, np.int64)  # a float64 would be a leak, at half the speed


@pytest.mark.parity
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_agrees_with_torch(case):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    if case.tiny.get("python_threads"):
        pytest.importorskip("threadpoolctl")
    work = case.make(**case.tiny)
    rivals, absent = start_rivals(work)
    assert rivals
    assert not absent
    # A second call sees what the first one left behind. Not after Adam's first step, which moves
    # a weight by the sign of its gradient, also of one that is 0 but for rounding.
    for _ in range(1 if "training step" in case.name else 2):
        if work.before:
            work.before()
        ours = work.ours()
        for name, call in rivals.items():
            bound = 0 if name in work.exact else work.tolerance
            assert difference(ours, call()) <= bound, name


def test_difference():
    one = np.array([1.0, 2.0])
    assert difference((one, np.array([3])), (one + 0.5, np.array([3]))) == 0.2
    assert difference(np.array([3]), np.array([4])) == np.inf
    assert difference(one, np.ones(3)) == np.inf


def test_measure_keeps_going_without_a_rival():
    result = measure(example(goals={"there": 1000.0, "missing": 1.0}), threads=1, rounds=3)
    assert result["rounds"] == 3
    assert result["absent"] == {"missing": "not installed (No module named 'nothing')"}
    assert list(result["ratios"]) == ["there"]
    assert result["missed"] == []
    assert result["memory"]["result"] == 24


def test_measure_reports_a_missed_goal():
    assert measure(example(goals={"there": 1e-9}), 1, 3)["missed"] == ["there"]


def test_measure_refuses_a_wrong_result():
    with pytest.raises(AssertionError, match=r"example: ours and there differ by 1\.0e-01"):
        measure(example(theirs=-0.1 / 1.1), 1, 3)


TEXTS = ["to be or not to be", "that is the question", "whether it is nobler to be"]


def test_signatures_of_the_rows_of_deduplication_are_of_the_same_sets():
    sets = [dedup.shingles(text, dedup.NGRAM) for text in TEXTS]
    texts, numbers = dedup.from_texts(TEXTS), dedup.from_numbers(sets)
    assert texts.keys() == numbers.keys()
    for name in ("ours, fast", "ours, minhash"):
        signatures = texts[name](1)
        assert signatures.shape == (3, dedup.PERMUTATIONS)
        np.testing.assert_array_equal(numbers[name](1), signatures)
    for text, numbers_of_text in zip(TEXTS, sets, strict=True):
        assert len(set(dedup.runs(text))) == len(dedup.runs(text)) == len(numbers_of_text)


@pytest.mark.parity
def test_deduplication_gives_datasketch_what_its_readme_does():
    pytest.importorskip("datasketch")
    first = next(iter(dedup.schemes()))
    bulk = dedup.from_texts(TEXTS)[f"datasketch bulk{first}"](3)
    for one, other in zip(bulk, dedup.one_by_one(TEXTS)(3), strict=True):
        np.testing.assert_array_equal(one.digest(), other.digest())


def test_deduplication_finds_all_equal_pairs_and_no_others(capsys):
    bands = dedup.lsh_choose(dedup.THRESHOLD, dedup.PERMUTATIONS)
    for make in dedup.from_texts(TEXTS + TEXTS).values():
        assert dedup.pairs_found(make(0), bands) == 3
    for make in dedup.from_texts(TEXTS + ["x" * 30, "y" * 30, "z" * 30]).values():
        assert dedup.pairs_found(make(0), bands) == 0
    dedup.recall([text * 3 for text in TEXTS], seeds=2)
    out = capsys.readouterr().out
    assert "3 pairs, 2 seeds: the curve says" in out
    assert out.count("ours, ") == 2


def test_list(capsys):
    assert run.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len([c for c in CASES if 1 in c.threads])
    assert run.main(["--list", "--threads", "2", "--only", "Python threads"]) == 0
    assert "transformers eager 1.2" in capsys.readouterr().out
    assert run.main(["--list", "--quick", "--only", "attention"]) == 0
    assert capsys.readouterr().out.count("attention 512") == 2


def test_names_are_unique_and_goals_have_a_rival():
    assert len({case.name for case in CASES}) == len(CASES)
    for case in SMALL:
        if case.tiny.get("python_threads") and find_spec("threadpoolctl") is None:
            continue
        assert case.goals.keys() <= case.make(**case.tiny).rivals.keys(), case.name


def test_unknown_case(capsys):
    with pytest.raises(SystemExit):
        run.main(["--list", "--only", "nothing"])
    assert "no case has nothing in its name" in capsys.readouterr().err


def run_of(threads, *cases):
    """Return what a run with these cases would have written."""
    machine = {**run.describe(1), "date": "2000-01-01", "threads": threads}
    limits = {"sgemm": 1e9, "read": 1e9, "exp": 1e9, "cache": 1e9}
    results = [measure(case, threads, 3) for case in cases]
    return {"machine": machine, "limits": limits, "cases": results, "minutes": 1.0, "options": ""}


def test_the_page_comes_from_json(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "busy_seconds", lambda: 0.0)  # nobody disturbs
    case = example(goals={"there": (1000.0, 1e-9)}, why="because")
    skipped = example(name="too large", gib=1e9)
    files = []
    for threads in (2, 1):
        files.append(tmp_path / f"{threads}.json")
        run.save(run_of(threads, case, skipped), files[-1])
    monkeypatch.setattr(run, "PAGE", tmp_path / "page.md")
    assert run.main(["--docs", *map(str, files)]) == 1  # with two threads the goal is missed
    text = run.PAGE.read_text(encoding="utf-8")
    assert "2000-01-01" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| example | there |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == "1e+03, 1e-09"
    assert cells[4] == "yes"
    assert cells[6] == "**no**"
    assert "- example, two threads. because" in text
    assert "skipped: needs 1e+09 GiB of memory" in text
    assert text.index("## Everything, one thread") < text.index("## Everything, two threads")
    assert run.main(["--docs", str(files[1])]) == 0
    assert "because" not in run.PAGE.read_text(encoding="utf-8")


def test_limits_are_shared_out():
    work = {"flops": 5.0, "exps": 2.0, "nbytes": 0.0, "cached": 1.0}
    limits = {"sgemm": 10.0, "read": 1.0, "exp": 2.0, "cache": 4.0}
    assert list(shares(work, 2.0, limits).items()) == [
        ("exp", 0.5),
        ("sgemm", 0.25),
        ("cache", 0.125),
    ]


def test_goals_for_threads():
    case = example(goals={"one": 0.5, "two": (1.0, 1.2)})
    assert case.goals_with(1) == {"one": 0.5, "two": 1.0}
    assert case.goals_with(2) == {"one": 0.5, "two": 1.2}


def test_memory_has_goals_too():
    def make(size):
        def at(n):
            return lambda: np.ones(n * n if size else n)

        return Work(
            lambda: np.ones(2**18).astype(np.float32),
            {},
            memory=True,
            memory_at={n: at(n) for n in (512, 1024)},
        )

    few, many = (
        Case("few", make, {"size": 0}, {}, most_extra=3),
        Case("many", make, {"size": 1}, {}, most_extra=1),
    )
    assert measure(few, 1, 1)["missed"] == []
    assert measure(many, 1, 1)["missed"] == ["memory", "linear memory"]
    assert measure(many, 2, 1)["missed"] == []  # not measured twice


def test_a_case_that_does_not_fit_is_skipped_and_says_so():
    result = measure(example(gib=1e9), 1, 3)
    assert result["skipped"].startswith("needs 1e+09 GiB of memory, ")
    assert report(result, {}).startswith("example: skipped: needs")


def test_not_one_bit_may_differ_where_that_is_claimed():
    with pytest.raises(AssertionError, match=r"example: ours and there differ by 1\.0e-07"):
        measure(example(theirs=-1e-7, exact=("there",)), 1, 3)


def test_a_short_growth_has_all_it_needs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    small = {"T": 5, "B": 2, "layers": 1, "vocabulary": 11, "D": 8, "H": 2, "Hkv": 1, "F": 12}
    monkeypatch.setattr(growth, "BASE", small)
    monkeypatch.setattr(growth, "AXES", {"T": ("T, tokens", [5, 70])})
    monkeypatch.setattr(growth, "ROUNDS", 1)
    monkeypatch.setattr(growth, "machine_limits", lambda threads: {"sgemm": 1e9})
    results = json.loads(json.dumps(growth.measure()))
    first, last = (p["bytes_counted"] for p in results["axes"]["T"]["points"])
    assert first < last
    pictures = set()
    for _ in range(2):  # the same numbers give the same file
        growth.draw(results, tmp_path)
        pictures.add((tmp_path / "growth_T.svg").read_bytes())
    assert len(pictures) == 1
    text = page([], results)
    assert "![time and memory against T, tokens](pictures/growth_T.svg)" in text
    assert len([line for line in text.splitlines() if line.startswith("| 70 |")]) == 1


def test_the_program_restarts_itself_with_the_variables():
    env = {key: value for key, value in os.environ.items() if key != run.MARKER}
    program = """if True:
        import sys
        from benchmarks import dedup, run
        run.os.execve = lambda path, command, env: print(
            env["MALLOC_TOP_PAD_"], env["OMP_NUM_THREADS"], command[3:])
        run.subprocess.call = lambda command, env: 0
        sys.exit(run.main(["--quick", "--threads", "2"]))
    """
    command = [sys.executable, "-c", program]
    root = Path(run.__file__).parents[1]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=True)
    if os.name == "posix":
        assert done.stdout == f"{2**28} 2 ['--quick', '--threads', '2']\n"

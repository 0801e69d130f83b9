"""The benchmarks run and agree with their rivals. Nothing is timed here, and only on tiny sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import dedup, run
from benchmarks.cases import CASES
from benchmarks.harness import Case, Work, difference, measure, start_rivals

SMALL = [case for case in CASES if case.tiny]


def example(ours=0.0, theirs=0.0, goals=None):
    def missing():
        raise ImportError("No module named 'nothing'")

    def make(size):
        one = np.ones(size)
        rivals = {"there": lambda: lambda: one + theirs, "missing": missing}
        return Work(lambda: one + ours, rivals, flops=1, items=1, unit="things/s", memory=True)

    return Case("example", make, {"size": 3}, {}, goals or {})


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_ours_runs(case):
    result = case.make(**case.tiny).ours()
    for array in result:
        assert np.isfinite(array).all()
        assert array.dtype in (np.float32, np.int64)  # a float64 would be a leak, at half the speed


@pytest.mark.parity
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_agrees_with_torch(case):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    work = case.make(**case.tiny)
    rivals, absent = start_rivals(work)
    assert rivals
    assert not absent
    # A second call sees what the first one left behind. Not after Adam's first step, which moves
    # a weight by the sign of its gradient, also of one that is 0 but for rounding.
    for _ in range(1 if case.name == "training step" else 2):
        ours = work.ours()
        for name, call in rivals.items():
            assert difference(ours, call()) <= work.tolerance, name


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
    assert len(capsys.readouterr().out.splitlines()) == len(CASES)
    assert run.main(["--list", "--quick", "--only", "attention"]) == 0
    assert capsys.readouterr().out.count("attention 512") == 2


def test_names_are_unique_and_goals_have_a_rival():
    assert len({case.name for case in CASES}) == len(CASES)
    for case in SMALL:
        assert case.goals.keys() <= case.make(**case.tiny).rivals.keys(), case.name


def test_unknown_case(capsys):
    with pytest.raises(SystemExit):
        run.main(["--list", "--only", "nothing"])
    assert "no case has nothing in its name" in capsys.readouterr().err


def test_the_readme_table_comes_from_json(tmp_path):
    result = measure(example(goals={"there": 1000.0}), 1, 3)
    machine = {**run.describe(1), "date": "2000-01-01"}
    results = {"machine": machine, "limits": {"sgemm": 1e9, "read": 1e9}, "cases": [result]}
    readme = tmp_path / "README.md"
    readme.write_text(f"before {run.BEGIN} old {run.END} after", encoding="utf-8")
    run.write_readme(json.loads(json.dumps(results)), readme)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert "old" not in text
    assert "2000-01-01" in text
    assert "| example |" in text


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

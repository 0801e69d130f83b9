"""`minqwen dedup`: files in, the same files out, with a report; exit codes and messages."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import error_of
from helpers.document_files import (
    corpus,
    everything,
    in_memory,
    json_lines,
    on_disk,
    require_nothing_lost,
    write_files,
)

from minqwen.cli import main
from minqwen.commands import passes
from minqwen.data.streaming.dedup_sketch import DedupSettings


def dedup(folder, *more, out="out"):
    return ["dedup", str(folder / "in"), "--out", str(folder / out), *more]


def test_end_to_end(tmp_path, capsys):
    texts = corpus(8, seed=0)
    places = write_files(tmp_path / "in", texts)
    assert main(dedup(tmp_path)) == 0
    shown = capsys.readouterr()
    want = in_memory(texts, DedupSettings())
    assert on_disk(tmp_path / "out", places) == want
    require_nothing_lost(tmp_path / "in", tmp_path / "out")
    dropped = sum(verdict is not None for verdict in want.values())
    rows = (re.match(r"(.{42}) +([\d,]+)", line) for line in shown.out.splitlines()[:6])
    assert {row[1].rstrip(): row[2] for row in rows} == {
        "documents": str(len(texts)),
        "kept": str(len(texts) - dropped),
        "dropped": str(dropped),
        "  near copy": str(sum(v is not None and v[0] == "near copy" for v in want.values())),
        "  exact copy": str(sum(v is not None and v[0] == "exact copy" for v in want.values())),
        "put aside": str(len(json_lines(tmp_path / "out/aside.jsonl"))),
    }
    assert f"what is kept: {tmp_path / 'out' / 'documents'}\n" in shown.out
    assert shown.err == ""  # one block: each phase is of one job


def test_the_report_as_json_is_the_file(tmp_path, capsys):
    write_files(tmp_path / "in", corpus(8, seed=0))
    assert main(dedup(tmp_path, "--json", "--seed", "3", "--threshold", "0.6")) == 0
    printed = capsys.readouterr().out
    report = json.loads(printed)
    assert printed.count("\n") == 1
    assert report == json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    assert report["kind"] == "minqwen dedup"
    assert (report["settings"]["seed"], report["settings"]["threshold"]) == (3, 0.6)
    before = everything(tmp_path / "out")
    assert main(dedup(tmp_path, "--json", "--seed", "3", "--threshold", "0.6")) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert everything(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("texts", "options", "kept"),
    [
        (["a  b", "a b"], [], 1),
        (["a  b", "a b"], ["--keep-white-space", "--exact-only"], 2),
        (["Cafe\u0301", "Café"], ["--exact-only"], 1),
        (["Cafe\u0301", "Café"], ["--exact-only", "--keep-forms"], 2),
        (["ABC", "abc"], [], 2),
        (["ABC", "abc"], ["--fold-case"], 1),
        (["one line of text.", "one line of text!"], [], 1),
        (["one line of text.", "one line of text!"], ["--exact-only"], 2),
        (["one line of text.", "one line of text!"], ["--threshold", "0.95"], 2),
        (["one line of text.", "one line of text!"], ["--ngram-size", "17"], 2),
    ],
)
def test_options_reach_the_comparison(tmp_path, texts, options, kept, capsys):
    path = tmp_path / "in"
    path.mkdir()
    lines = [json.dumps({"t": text}) for text in texts]
    (path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    options = [*options, "--num-perm", "64"] if "--threshold" not in options else options
    assert main(dedup(tmp_path, "--field", "t", "--json", *options)) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == kept
    assert (tmp_path / "out/documents/in/a.jsonl").read_text(encoding="utf-8").split("\n")[
        :-1
    ] == lines[:kept]


def test_reading_options(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl.gz").write_bytes(
        gzip.compress(b'{"text":"a\xff"}\n{"text":"%s"}\n' % (b"x" * 1100))
    )
    assert main(dedup(tmp_path, "--json", "--bad-utf8", "replace", "--max-mib", "0.001")) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["documents"], report["kept"], report["aside"]) == (1, 1, 1)
    kept = gzip.decompress((tmp_path / "out/documents/in/a.jsonl.gz").read_bytes())
    assert kept == '{"text":"a�"}\n'.encode()
    (row,) = json_lines(tmp_path / "out/aside.jsonl")
    assert row == {
        "file": "in/a.jsonl.gz", "line": 2, "problem": "longer than 1048 bytes, left in the input"
    }  # fmt: skip


def test_names_that_are_odd(tmp_path, capsys):
    """Not UTF-8, very long, with line ends: reports are JSON all the same."""
    (tmp_path / "in").mkdir()
    names = [b"\xff\xfe.jsonl", b"n" * 249 + b".jsonl", b"new\nline.txt", "文.txt".encode()]
    for name in names:
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(b'{"text":"same"}\n[]\n')
    assert main(dedup(tmp_path)) == 0
    kept = os.listdir(os.fsencode(tmp_path / "out/documents/in"))
    found = {os.fsencode(row["file"]) for row in json_lines(tmp_path / "out/dropped.jsonl")}
    found |= {os.fsencode(row["file"]) for row in json_lines(tmp_path / "out/aside.jsonl")}
    assert found | set(b"in/" + name for name in kept) == {b"in/" + name for name in names}
    assert json.loads((tmp_path / "out/report.json").read_text("utf-8"))["documents"] == 4


WRONG = [
    (["--threshold", "1"], "threshold must be between 0 and 1, got 1.0"),
    (["--threshold", "nan"], "threshold must be between 0 and 1"),
    (["--num-perm", "0"], "num_perm must be positive, got 0"),
    (["--num-perm", "2049"], "--num-perm must be 2048 at most, got 2049"),
    (["--ngram-size", "0"], "--ngram-size must be positive, got 0"),
    (["--ngram-size", "1025"], "--ngram-size must be 1024 at most, got 1025"),
    (["--seed", "-1"], "--seed must be 0 or more, got -1"),
    (["--max-mib", "0"], "--max-mib must be"),
    (["--max-mib", "nan"], "--max-mib must be"),
    (["--max-mib", "inf"], "--max-mib must be"),
    (["--max-mib", "1e-9"], "--max-mib must be"),
    (["--workers", "2"], "--workers needs --cluster local and a positive number"),
    (["--workers", "0", "--cluster", "local"], "--workers needs"),
    (["--workers", "2", "--cluster", "tcp://x:1"], "--workers needs"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options_are_told_before_anything_is_made(tmp_path, capsys, options, message):
    write_files(tmp_path / "in", ["a"] * 12)
    assert message in error_of(capsys, *dedup(tmp_path, *options))
    assert not (tmp_path / "out").exists()


def test_wrong_use_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert "no file or folder" in error_of(capsys, *dedup(tmp_path))
    write_files(tmp_path / "in", ["a"] * 12)
    twice = [str(tmp_path / "in"), *dedup(tmp_path)[1:]]
    assert "a.jsonl is named twice" in error_of(capsys, "dedup", *twice)
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    assert "is a file, not a folder" in error_of(capsys, *dedup(tmp_path, out="mine"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x").write_text("mine", encoding="utf-8")
    assert "holds something else" in error_of(capsys, *dedup(tmp_path, out="other"))
    assert main(dedup(tmp_path)) == 0
    assert "has threshold = 0.7, not 0.8" in error_of(
        capsys, *dedup(tmp_path, "--threshold", "0.8")
    )
    (tmp_path / "in/new.txt").write_text("new", encoding="utf-8")
    assert "in/new.txt was changed since" in error_of(capsys, *dedup(tmp_path))
    for words in (["dedup"], ["dedup", "x"], ["dedup", "--out", "x"]):
        with pytest.raises(SystemExit) as found:
            main(words)
        assert found.value.code == 2


def test_help(capsys):
    with pytest.raises(SystemExit) as found:
        main(["dedup", "--help"])
    assert found.value.code == 0
    shown = capsys.readouterr().out
    assert all(
        word in shown for word in ("dropped.jsonl", "--exact-only", "--cluster", "--max-mib")
    )


def test_a_full_disk_is_told_and_the_same_command_goes_on(tmp_path, capsys):
    """A limit on the size of files stands for it."""
    resource = pytest.importorskip("resource")
    write_files(tmp_path / "in", corpus(8, seed=0))
    assert main(dedup(tmp_path, "--quiet", out="whole")) == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    told = []
    for most in (1200, 4000, 8000):  # the plan, keys, a report
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            told.append(error_of(capsys, *dedup(tmp_path, "--quiet")))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not (tmp_path / "out/report.json").exists()
    assert all("File too large: " in line and str(tmp_path / "out") in line for line in told), told
    assert main(dedup(tmp_path, "--quiet")) == 0
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


def test_two_processes_keep_out_of_each_others_folder(tmp_path, capsys):
    write_files(tmp_path / "in", ["a"] * 12)
    with passes.locked(tmp_path / "out"):
        assert "another process" in error_of(capsys, *dedup(tmp_path))


def test_progress(tmp_path, capsys, monkeypatch):
    write_files(tmp_path / "in", corpus(8, seed=0))
    monkeypatch.setattr("minqwen.data.streaming.stream_dedup.AT_ONCE", 200)
    assert main(dedup(tmp_path)) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("group bands: ")
    assert all(line.partition(": ")[2].split("/")[0].isdigit() for line in lines)
    assert main(dedup(tmp_path, "--quiet", out="quiet")) == 0
    assert capsys.readouterr().err == ""


def started(folder, *more):
    tests = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-m", "minqwen", *dedup(folder, *more)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(tests.parent)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--cluster", "local", "--workers", "2"]])
def test_ctrl_c_stops_in_one_line_and_the_same_command_goes_on(tmp_path, more):
    if more:
        pytest.importorskip("distributed")
    for number in range(4):
        texts = corpus(150, seed=number)
        write_files(tmp_path / "in" if not number else tmp_path / f"in/{number}", texts)
    assert main(dedup(tmp_path, "--quiet", out="whole")) == 0
    process = started(tmp_path, "--quiet", *more)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/.work").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all processes, workers as well
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.endswith("minqwen: stopped\n")
    assert "KeyboardInterrupt" not in err  # of a worker
    assert err.count("\n") == 1 or "in cancel" in err  # a slip of Dask, at unlucky moments
    assert not (tmp_path / "out/report.json").exists()
    with started(tmp_path, "--quiet", *more) as process:
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


@pytest.mark.slow
def test_a_cluster_makes_the_same_folder(tmp_path, capsys):
    pytest.importorskip("distributed")
    write_files(tmp_path / "in", corpus(30, seed=0))
    assert main(dedup(tmp_path, "--quiet", out="one")) == 0
    assert main(dedup(tmp_path, "--cluster", "local", "--workers", "2", "--quiet")) == 0
    assert capsys.readouterr().err.count("\n") == 0
    assert everything(tmp_path / "out") == everything(tmp_path / "one")


def test_a_wrong_path_leaves_no_folder(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["dedup", str(tmp_path / "nothing"), "--out", str(out)]) == 2
    assert "no file or folder" in capsys.readouterr().err
    assert not out.exists()

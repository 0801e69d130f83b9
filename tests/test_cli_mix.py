"""`minqwen mix`: sources in, one text out, with a table; exit codes and messages."""

import json

import pytest
from helpers.commands import error_of
from helpers.document_files import everything, json_lines

from minqwen.cli import main


@pytest.fixture
def words(tmp_path):
    """Write two sources, and return the words of a command that mixes them."""
    (tmp_path / "web").mkdir()
    for i in range(30):
        (tmp_path / "web" / f"{i}.txt").write_text(f"page {i} " * 10, "utf-8")
    lines = [json.dumps({"text": f"任务 {i}"}) for i in range(10)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(["no json", *lines]), "utf-8")

    def make(*more, out="out"):
        sources = [f"web={tmp_path / 'web'}", f"tasks={tmp_path / 'tasks.jsonl'}"]
        return ["mix", *sources, "--out", str(tmp_path / out), *more]

    return make


def test_end_to_end(tmp_path, words, capsys):
    assert main(words("--fixed", "tasks=0.25", "--megabytes", "0.02")) == 0
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines()]
    assert rows[0] == ["source", "documents", "MB", "drawn", "MB", "wanted", "met", "epochs"]
    assert (rows[1][0], rows[1][1], rows[1][5]) == ("web", "30", "75.00%")
    assert (rows[2][0], rows[2][1], rows[2][5]) == ("tasks", "10", "25.00%")
    assert rows[3][:2] == ["together", "40"]
    assert rows[4:] == [
        ["put", "aside:", "1,", "why:", str(tmp_path / "out/aside.jsonl")],
        ["the", "mixture:", str(tmp_path / "out/documents")],
    ]
    drawn = json_lines(tmp_path / "out/documents/mixed-00000.jsonl")
    assert rows[3][3] == f"{len(drawn):,}"
    size = {name: 0 for name in ("web", "tasks")}
    for row in drawn:
        size[row["source"]] += len(row["text"].encode())
    assert sum(size.values()) == pytest.approx(20_000, rel=0.05)
    assert size["tasks"] / sum(size.values()) == pytest.approx(0.25, abs=0.01)
    (aside,) = json_lines(tmp_path / "out/aside.jsonl")
    assert (aside["file"], aside["line"]) == ("tasks/tasks.jsonl", 1)

    before = everything(tmp_path / "out")
    assert main(words("--fixed", "tasks=0.25", "--megabytes", "0.02", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["of"]["tasks"]["share"] == 0.25
    assert everything(tmp_path / "out") == before


def test_pretrain_reads_it(tmp_path, words):
    assert main(words("--megabytes", "0.01")) == 0
    run = ["pretrain", str(tmp_path / "out/documents"), "--out", str(tmp_path / "run")]
    sizes = ["--size", "tiny", "--vocab-size", "300", "--context", "16", "--batch-size", "2"]
    assert main([*run, *sizes, "--steps", "1", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--boost", "books=2"], "there is no source 'books'; the sources are web, tasks"),
        (["--boost", "web"], "--boost SOURCE=NUMBER is needed, got 'web'"),
        (["--boost", "web=x"], "--boost web=x: 'x' is no number"),
        (["--boost", "web=2", "--boost", "web=3"], "--boost names 'web' twice"),
        (["--fixed", "web=nan"], "fixed['web'] must be positive, got nan"),
        (["--weight", "web=1"], "source 'tasks' has no weight, and others have"),
        (["--megabytes", "0"], "--megabytes must be positive, got 0"),
        (["--megabytes", "nan"], "--megabytes must be positive, got nan"),
        (["--temperature", "inf"], "--temperature must be finite"),
        (["--temperature", "nan"], "temperature must be positive, got nan"),
        (["--seed", "-1"], "--seed must be"),
        (["--workers", "2"], "--workers needs --cluster local"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(tmp_path, words, capsys, more, message):
    assert message in error_of(capsys, *words(*more))
    assert not any((tmp_path / "out").glob("**/*"))


def test_wrong_sources(tmp_path, words, capsys):
    out = ["--out", str(tmp_path / "out")]
    for source, message in (
        ("web", "SOURCE=FILE|FOLDER is needed, got 'web'"),
        ("=web", "SOURCE=FILE|FOLDER is needed, got '=web'"),
        ("a/b=web", "the name of a source has no slash, got 'a/b'"),
        ("a=nowhere", "no file or folder nowhere"),
    ):
        assert message in error_of(capsys, "mix", source, *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_cluster_writes_the_same_bytes(tmp_path, words, capsys):
    pytest.importorskip("distributed")
    assert main(words("--quiet")) == 0
    assert main(words("--quiet", "--cluster", "local", "--workers", "2", out="other")) == 0
    assert everything(tmp_path / "out") == everything(tmp_path / "other")

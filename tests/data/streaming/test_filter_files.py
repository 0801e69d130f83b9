"""Filtering of files: document for document what judge says of it, for blocks of any size."""

from functools import partial

import pytest
from helpers.document_files import (
    all_of,
    corpus,
    everything,
    json_lines,
    require_nothing_lost,
    write_files,
)
from helpers.edits import edited

from minqwen.data.blocklist import blocklist_rule, make_blocklist
from minqwen.data.quality_rules import GOPHER_QUALITY, count_reasons, judge
from minqwen.data.streaming import filter_files as file
from minqwen.data.streaming.document_files import Form
from minqwen.data.streaming.workers import OneProcess

RULES = (
    *(rule._replace(low=min(rule.low, 3)) for rule in GOPHER_QUALITY),
    blocklist_rule(make_blocklist(["order", "她"])),
)
ASK = partial(judge, rules=RULES)
PLAIN = Form()


def run(folder, out, module=file, block_bytes=2000, ask=ASK, settings=None, form=PLAIN):
    settings = {"n": 1} if settings is None else settings
    return module.filter_files(
        [folder / "in"], folder / out, settings, ask, form, OneProcess(), all_of, block_bytes
    )


def compare(folder, texts, module=file, out="out"):
    """Raise AssertionError where the folder is not what judge says of the texts."""
    places = write_files(folder / "in", texts)
    report = run(folder, out, module)
    decisions = [judge(text, RULES) for text in texts]
    want = {
        place: ([f.rule for f in decision.failures], [f.reason for f in decision.failures])
        for place, decision in zip(places, decisions, strict=True)
        if not decision.kept
    }
    rows = json_lines(folder / out / "dropped.jsonl")
    found = {(row["file"], row["line"]): (row["why"], row["reasons"]) for row in rows}
    assert len(rows) == len(found)
    assert found == want
    require_nothing_lost(folder / "in", folder / out)
    assert report["why"] == count_reasons(decisions)
    assert (report["documents"], report["kept"]) == (len(texts), len(texts) - len(want))
    size = sum(len(text.encode("utf-8")) for text in texts)
    assert report["bytes"] >= report["bytes_kept"] > 0
    assert report["bytes"] >= size / 2  # lines may be written in escapes, or not
    return report, want


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_judge(tmp_path, seed):
    report, want = compare(tmp_path, corpus(20, seed))
    assert 0.1 < len(want) / report["documents"] < 0.9
    assert len({tuple(why) for why, _ in want.values()}) >= 4
    assert any(len(why) > 1 for why, _ in want.values())
    assert report["aside"] > 1


def test_blocks_of_any_size_make_the_same_folder(tmp_path):
    write_files(tmp_path / "in", corpus(10, 2))
    run(tmp_path, "out")
    before = everything(tmp_path / "out")
    for size in (1, 300, 10**9):
        run(tmp_path, f"out {size}", block_bytes=size)
        assert everything(tmp_path / f"out {size}") == before


def test_the_form_decides_what_is_judged(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(b'{"text": "the a\xff and"}\n{"text": "x"}\n{"t": "y"}\n')
    asked = []

    def ask(text):
        asked.append(text)
        return judge(text, ())

    report = run(tmp_path, "out", ask=ask, form=Form(replace=True))
    assert asked == ["the a\ufffd and", "x"]
    assert (report["kept"], report["aside"]) == (2, 1)
    kept = (tmp_path / "out/documents/in/a.jsonl").read_bytes()
    assert kept == '{"text": "the a\ufffd and"}\n{"text": "x"}\n'.encode()


def test_stopped_it_goes_on_and_judges_no_block_twice(tmp_path):
    texts = corpus(15, 1)
    write_files(tmp_path / "in", texts)
    run(tmp_path, "whole")
    asked = []

    def ask(text, stop):
        asked.append(text)
        if len(asked) == stop:
            raise KeyboardInterrupt
        return ASK(text)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "out", ask=partial(ask, stop=40))
    assert not (tmp_path / "out/report.json").exists()
    assert not (tmp_path / "out/documents").exists()
    run(tmp_path, "out", ask=partial(ask, stop=None))
    assert len(asked) < len(texts) + 40
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")
    run(tmp_path, "out", ask=None)  # done: nobody is asked
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


@pytest.mark.parametrize("done", [True, False])
def test_settings_that_changed_are_refused(tmp_path, done):
    write_files(tmp_path / "in", corpus(5, 1))
    settings = {"n": 1, "files": {"/q.npz": "ab"}, "more": {"x": 1}}

    def fail(text):
        raise OSError("stopped")

    if done:
        run(tmp_path, "out", settings=settings)
    else:
        with pytest.raises(OSError, match="stopped"):
            run(tmp_path, "out", settings=settings, ask=fail)
    for changed, message in (
        ({"n": 2}, "out has n = 1, not 2: use the same value"),
        ({"files": {"/q.npz": "cd"}}, r"/q\.npz is another than in the pass in .*out: another"),
        ({"files": {}}, r"/q\.npz is another than in the pass in"),
        ({"files": {"/q.npz": "ab", "/r": "x"}}, "/r is another than in the pass in"),
        ({"more": {"x": None}}, r"out has more\.x = 1, not None"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, "out", settings=settings | changed)
    with pytest.raises(ValueError, match=r"out has form\.field = 'text', not 'body'"):
        run(tmp_path, "out", settings=settings, form=Form("body"))
    run(tmp_path, "out", settings=settings)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if decision.kept:", "if not decision.kept:"),
        ("[failure.rule for failure in decision.failures]", "decision.failures[0].rule"),
        ("[failure.reason for", "[failure.rule for"),
        ("judge(document.text)", "judge(document.raw.decode())"),
        (".blocks[job.block]", ".blocks[0]"),
        ("for i in range(len(plan.blocks))", "for i in range(1)"),
    ],
)
def test_wrong_variants_fail(tmp_path, old, new):
    with pytest.raises((AssertionError, ValueError)):
        compare(tmp_path, corpus(12, 0), edited(file, old, new))

"""Mixtures of files: line for line what the mixture of the same texts in memory draws."""

import gzip
import json
from collections import Counter
from itertools import islice

import pytest
from helpers.document_files import all_of, everything, json_lines
from helpers.edits import edited

from minqwen.data.mixture import draw_documents, make_mixture
from minqwen.data.streaming import mix_files as file
from minqwen.data.streaming import mix_lines, mix_plan
from minqwen.data.streaming.document_files import Form
from minqwen.data.streaming.mix_plan import MixSettings, byte_shares, plan_draws
from minqwen.data.streaming.workers import OneProcess

WEB = [f"page {i} " * (1 + i % 7) for i in range(60)]
BOOKS = ["第一章，从前有一个小镇。" * 9, "a book\nof two lines " * 8, "book 3 " * 31]
TASKS = [f"Question: {i} + 1\nAnswer: {i + 1}" for i in range(25)]
FIXED = MixSettings(fixed={"tasks": 0.1}, boosts={"books": 2.0}, seed=3)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    for module in (file, mix_lines, mix_plan):
        monkeypatch.setattr(module, "SHARD", 50)


def sources(folder):
    """Write the three sources as folders, lines and zipped lines, with bad lines between them."""
    for name in ("web", "books"):
        (folder / name).mkdir()
    for i, text in enumerate(WEB[:20]):
        (folder / "web" / f"{i:02d}.txt").write_text(text, "utf-8")
    (folder / "web/z.bin").write_bytes(b"\0")
    lines = [json.dumps({"text": text}).encode() for text in WEB[20:]]
    (folder / "web/zz.jsonl").write_bytes(b"\n".join([*lines[:9], b"[1]", b"", *lines[9:]]))
    books = "".join(json.dumps({"text": text, "n": 1}) + "\r\n" for text in BOOKS)
    (folder / "books/a.jsonl.gz").write_bytes(gzip.compress(books.encode()))
    tasks = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TASKS)
    (folder / "tasks.jsonl").write_text(tasks, "utf-8")
    return {
        "web": [folder / "web"],
        "books": [folder / "books"],
        "tasks": [folder / "tasks.jsonl"],
    }


def mix(folder, out="out", settings=FIXED, module=file, block_bytes=700, watch=all_of, of=None):
    of = of or sources(folder)
    return module.mix_files(of, folder / out, settings, OneProcess(), watch, block_bytes)


def lines_of(out):
    paths = sorted((out / "documents").iterdir())
    return [row for path in paths for row in json_lines(path)]


def want(draws, mean=None):
    """Return the texts that should be drawn, by hand: shares of bytes, then of draws."""
    texts = {"web": WEB, "books": BOOKS, "tasks": TASKS}
    size = {name: sum(len(t.encode()) for t in texts[name]) for name in texts}
    boosted = size["web"] + 2 * size["books"]
    shares = {"web": 0.9 * size["web"] / boosted, "books": 0.9 * 2 * size["books"] / boosted}
    shares["tasks"] = 0.1
    ask = {name: shares[name] / (size[name] / len(texts[name])) for name in texts}
    drawn = {name: n / sum(ask.values()) for name, n in ask.items()}
    mixture = make_mixture({n: len(t) for n, t in texts.items()}, drawn, seed=3, block=50)
    found = islice(draw_documents(mixture), draws)
    return [(draw.source, texts[draw.source][draw.document]) for draw in found], shares, size


def compare(folder, module=file):
    report = mix(folder, module=module)
    rows = lines_of(folder / "out")
    found, shares, size = want(len(rows))
    assert [(row["source"], row["text"]) for row in rows] == found
    assert [len(json_lines(p)) for p in sorted((folder / "out/documents").iterdir())][:-1] == [
        50
    ] * ((len(rows) - 1) // 50)
    told = report["of"]
    assert {name: told[name]["share"] for name in shares} == pytest.approx(shares)
    assert {name: told[name]["bytes"] for name in shares} == size
    got = Counter()
    for name, text in found:
        got[name] += len(text.encode())
    assert {name: told[name]["bytes_drawn"] for name in shares} == got
    assert report["bytes"] == got.total()
    assert got.total() == pytest.approx(sum(size.values()), rel=0.1)
    for name in shares:
        assert told[name]["share_met"] == pytest.approx(got[name] / got.total())
        assert told[name]["drawn"] == sum(source == name for source, _ in found)
        assert told[name]["epochs"] == told[name]["drawn"] / told[name]["documents"]
    return report, rows


def test_equals_the_mixture_in_memory(tmp_path):
    report, rows = compare(tmp_path)
    assert report["documents"] == len(rows) > 50  # more shards than one
    for row in rows:
        place = row["file"].removeprefix(f"{row['source']}/")
        if row["line"] is None:
            assert (tmp_path / place).read_text("utf-8") == row["text"]
            continue
        data = (tmp_path / place).read_bytes()
        lines = (gzip.decompress(data) if place.endswith("gz") else data).split(b"\n")
        assert json.loads(lines[row["line"] - 1])["text"] == row["text"]
    assert json_lines(tmp_path / "out/aside.jsonl") == [
        {"problem": "not text, it holds NUL bytes", "file": "web/web/z.bin", "line": None},
        {"problem": "an object is needed, got list", "file": "web/web/zz.jsonl", "line": 10},
    ]
    assert report["aside"] == 2


def test_shares_are_met_in_bytes_and_every_document_comes_once_before_twice(tmp_path):
    report = mix(tmp_path, settings=FIXED._replace(bytes=300_000.0))
    for row in report["of"].values():
        assert row["share_met"] == pytest.approx(row["share"], abs=0.02)
    assert report["bytes"] == pytest.approx(300_000, rel=0.03)  # a block of 50 rounds
    for name, row in report["of"].items():
        count = Counter(r["text"] for r in lines_of(tmp_path / "out") if r["source"] == name)
        assert len(count) == row["documents"]
        assert max(count.values()) - min(count.values()) <= 1


def test_without_wishes_every_document_comes_once(tmp_path):
    mix(tmp_path, settings=MixSettings())
    texts = [row["text"] for row in lines_of(tmp_path / "out")]
    assert sorted(texts) == sorted(WEB + BOOKS + TASKS)
    assert texts[:60] != WEB


def test_blocks_of_any_size_make_the_same_folder(tmp_path):
    of = sources(tmp_path)
    mix(tmp_path, of=of)
    before = everything(tmp_path / "out")
    assert set(before) >= {"documents/mixed-00000.jsonl", "aside.jsonl", "report.json"}
    assert not any("work" in name for name in before)
    for size in (1, 10**9):
        mix(tmp_path, f"out {size}", block_bytes=size, of=of)
        assert everything(tmp_path / f"out {size}") == before


def test_another_seed_is_another_order(tmp_path):
    of = sources(tmp_path)
    mix(tmp_path, of=of)
    mix(tmp_path, "b", settings=FIXED._replace(seed=4), of=of)
    one, other = ([r["text"] for r in lines_of(tmp_path / name)] for name in ("out", "b"))
    assert one != other
    assert len(one) == len(other)


def test_stopped_anywhere_it_goes_on(tmp_path, monkeypatch):
    of = sources(tmp_path)
    mix(tmp_path, "whole", of=of)
    before = everything(tmp_path / "whole")
    jobs = []

    def count(phase, results, total):
        for result in results:
            jobs.append(phase)
            yield result

    mix(tmp_path, "counted", watch=count, of=of)
    assert {"cut", "read", "write"} == set(jobs)
    for stop in range(len(jobs)):
        left = [stop]

        def watch(phase, results, total, left=left):
            for result in results:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                yield result

        with pytest.raises(KeyboardInterrupt):
            mix(tmp_path, f"{stop}", watch=watch, of=of)
        mix(tmp_path, f"{stop}", of=of)
        assert everything(tmp_path / f"{stop}") == before

    moved, replace = [], file.os.replace  # and among the moves at the end

    def stop_after_one(one, other):
        if "mixed-" in str(other):
            if moved:
                raise KeyboardInterrupt
            moved.append(other)
        replace(one, other)

    with monkeypatch.context() as patch:
        patch.setattr(file.os, "replace", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            mix(tmp_path, "moves", of=of)
    assert moved[0].exists()
    mix(tmp_path, "moves", of=of)
    assert everything(tmp_path / "moves") == before


def test_other_settings_or_sources_are_refused(tmp_path):
    of = sources(tmp_path)
    mix(tmp_path, of=of)
    with pytest.raises(ValueError, match=r"has boosts\.books = 2\.0, not 3\.0"):
        mix(tmp_path, settings=FIXED._replace(boosts={"books": 3.0}), of=of)
    with pytest.raises(ValueError, match=r"has sources = \['web', 'books', 'tasks'\], not"):
        mix(tmp_path, of={"web": of["web"], "tasks": of["tasks"], "books": of["books"]})
    (tmp_path / "tasks.jsonl").write_text('{"text": "new"}\n', "utf-8")
    with pytest.raises(ValueError, match=r"tasks\.jsonl was changed since the pass"):
        mix(tmp_path, of=of)


def test_what_is_wrong_with_the_shares_is_told_before_anything_is_read(tmp_path):
    of = sources(tmp_path)
    for settings, message in (
        (MixSettings(fixed={"x": 0.1}), "no source 'x'; the sources are web, books, tasks"),
        (MixSettings(boosts={"tasks": -1.0}), r"boosts\['tasks'\] must be positive, got -1"),
        (MixSettings(weights={"web": 1.0}), "source 'books' has no weight, and others have"),
        (MixSettings(temperature=0), "temperature must be positive"),
        (MixSettings(fixed={"web": 1.5}), "fixed must leave a share"),
    ):
        with pytest.raises(ValueError, match=message):
            mix(tmp_path, settings=settings, of=of)
    assert not (tmp_path / "out").exists()
    (tmp_path / "tasks.jsonl").write_text("", "utf-8")
    with pytest.raises(ValueError, match="source 'tasks' holds no text"):
        mix(tmp_path, of=of)


def test_a_share_that_cannot_be_met_is_told():
    count, size = {"web": 10_000, "book": 1}, {"web": 10**6, "book": 10**6}
    shares = byte_shares(size, MixSettings())
    with pytest.raises(ValueError, match=r"'book' has 0\.0001 of the draws, less than one in 50"):
        plan_draws(count, size, shares, MixSettings())
    message = "less than one in 1: give it a larger share, or write more"
    with pytest.raises(ValueError, match=message):
        plan_draws({"a": 1, "b": 1}, {"a": 1, "b": 1}, {"a": 0.5, "b": 0.5}, MixSettings(bytes=1.0))


def test_weights_take_the_place_of_sizes():
    size = {"a": 10, "b": 70, "c": 1}
    settings = MixSettings(weights={"a": 1.0, "b": 3.0}, fixed={"c": 0.2})
    assert byte_shares(size, settings) == pytest.approx({"a": 0.2, "b": 0.6, "c": 0.2})


def test_names_of_files_may_be_any_bytes_and_the_field_any_name(tmp_path):
    (tmp_path / "in").mkdir()
    name = "\udcffx.jsonl"
    try:
        (tmp_path / "in" / name).write_bytes(b'{"body": "one"}\n{"body": "\xff"}\n')
    except (OSError, UnicodeError):
        pytest.skip("this disk takes names in UTF-8 only")
    settings = MixSettings(form=Form("body", replace=True))
    mix(tmp_path, settings=settings, of={"a": [tmp_path / "in"]})
    assert {row["text"] for row in lines_of(tmp_path / "out")} == {"one", "\ufffd"}
    assert {row["file"] for row in lines_of(tmp_path / "out")} == {f"a/in/{name}"}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (mix_plan, "share * mean[name]", "share"),
        (mix_plan, "{name: size[name] / count[name]", "{name: 1.0"),
        (mix_plan, "boosts=s.boosts, ", ""),
        (mix_lines, "job.number * SHARD", "0"),
        (mix_lines, "- (int(ends[block - 1]) if block else 0)", ""),
        (mix_lines, '"right"', '"left"'),
        (mix_lines, "stream.seek(line.start)", "stream.seek(0)"),
        (mix_lines, 'encode("utf-8", "surrogatepass")', 'encode("utf-16", "surrogatepass")'),
        (mix_lines, ".blocks[job.block]", ".blocks[0]"),
        (file, "min(SHARD, draws - start)", "SHARD"),
        (file, "cumsum(axis=0)", "cumsum(axis=1)"),
    ],
)
def test_wrong_variants_fail(tmp_path, monkeypatch, module, old, new):
    wrong = edited(module, old, new)
    for name in ("read_block", "write_shard", "byte_shares", "plan_draws"):
        if hasattr(wrong, name) and module is not file:
            monkeypatch.setattr(file, name, getattr(wrong, name))
    with pytest.raises((AssertionError, ValueError, IndexError, OSError)):
        compare(tmp_path, wrong if module is file else file)

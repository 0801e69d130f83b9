"""Deduplication of files: document for document what exact_dedup and fuzzy_dedup say in memory."""

import itertools
import random
from collections import Counter

import pytest
from helpers.document_files import (
    SETTINGS,
    all_of,
    corpus,
    everything,
    in_memory,
    on_disk,
    require_nothing_lost,
    write_files,
)

from minqwen.check.edited import Edit, edited_module
from minqwen.data.fast_sketch import fast_sketch
from minqwen.data.shingles import jaccard, shingles
from minqwen.data.streaming import dedup_files as file
from minqwen.data.streaming import stream_dedup
from minqwen.data.streaming.document_files import Form
from minqwen.data.streaming.workers import OneProcess

MANY = {"AT_ONCE": 400, "TASK": 3, "ROUND": 7}  # so that there are several of each


def run(paths, out, settings, block_bytes=2000, files=file, stream=stream_dedup, limits=MANY):
    """Deduplicate with small limits, and perhaps with a file of ours changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "find_clusters", stream.find_clusters)
        for name, value in limits.items():
            patch.setattr(stream, name, value)
        return files.dedup_files(paths, out, settings, OneProcess(), all_of, block_bytes)


def clusters_of(found):
    """Follow copies to the document that stays."""
    kept = {}
    for i in sorted(found):  # what it is a copy of comes before
        kept[i] = i if found[i] is None else kept[found[i][1]]
    return Counter(kept.values())


def compare(folder, texts, settings, block_bytes=2000, **changes):
    """Raise AssertionError where files and memory differ."""
    source, out = folder / "in", folder / "out"
    places = write_files(source, texts)
    report = run([source], out, settings, block_bytes, **changes)
    want = in_memory(texts, settings)
    assert on_disk(out, places) == want
    require_nothing_lost(source, out)
    sizes = clusters_of(want)
    assert report["kept"] == sum(verdict is None for verdict in want.values())
    assert report["documents"] == len(texts)
    assert report["why"] == Counter(verdict[0] for verdict in want.values() if verdict)
    large = [size for size in sizes.values() if size > 1]
    assert report["clusters"]["of_size"] == {str(s): n for s, n in sorted(Counter(large).items())}
    assert report["clusters"]["number"] == len(large)
    largest = sorted(((-n, first) for first, n in sizes.items() if n > 1))[: file.SHOWN]
    firsts = [(places[first], -n) for n, first in largest]
    told = report["clusters"]["largest"]
    assert [(tuple(c["documents"][0].values()), c["size"]) for c in told] == firsts
    assert all(len(c["documents"]) == min(c["size"], file.SHOWN) for c in told)
    return report, want


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        SETTINGS._replace(threshold=0.5, seed=3, case=True),
        SETTINGS._replace(threshold=0.9, ngram_size=1, nfc=False, bands=13, rows=3),
        SETTINGS._replace(white_space=False, ngram_size=2, bands=40, rows=1),
        SETTINGS._replace(near=False),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_what_is_found_in_memory(tmp_path, settings, seed):
    report, want = compare(tmp_path, corpus(16, seed), settings)
    why = Counter(verdict and verdict[0] for verdict in want.values())
    assert why["exact copy"] >= 5
    assert (why["near copy"] >= 5) == settings.near
    assert report["aside"] > 1


def test_blocks_rounds_and_ranges_of_any_size_make_the_same_folder(tmp_path):
    """Only how many pairs were compared may depend on the order in which they were joined."""
    compare(tmp_path, corpus(10, seed=2), SETTINGS, 1)
    before = everything(tmp_path / "out")
    for size, limits in (
        (300, MANY), (3000, {"AT_ONCE": 91, "TASK": 1, "ROUND": 1}), (10**9, {}),
    ):  # fmt: skip
        run([tmp_path / "in"], tmp_path / f"out {size}", SETTINGS, size, limits=limits)
        now = everything(tmp_path / f"out {size}")
        if limits != MANY:
            now["report.json"] = before["report.json"]
        assert now == before


def test_a_folder_that_is_used_again_knows_nothing_of_the_pass_before(tmp_path):
    for seed in (0, 1):
        (tmp_path / "x").rename(tmp_path / f"x{seed}") if seed else None
        (tmp_path / "x").mkdir()
        compare(tmp_path / "x", corpus(10, seed), SETTINGS)


def test_nothing_to_compare(tmp_path):
    for number, texts in enumerate((["a"] * 6, [""] * 6, list("abcdef"), ["", "b", " "])):
        (tmp_path / str(number)).mkdir()
        compare(tmp_path / str(number), texts, SETTINGS)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.jsonl").write_bytes(b"")
    report = run([tmp_path / "x"], tmp_path / "out", SETTINGS)
    assert (report["documents"], report["clusters"]["number"]) == (0, 0)
    report = run([tmp_path / "x"], tmp_path / "bad", SETTINGS._replace(form=Form("text", True, 3)))
    assert report["documents"] == 0


def second_round_texts():
    """Three texts in one bucket, the first unlike the two others, and the seed that puts them so.

    With one band of one row there is no other bucket in which the two could meet.
    """
    rng = random.Random(5)
    common = "".join(rng.choices("abcdefgh", k=40))
    ends = ["".join(rng.choices("stuvwxyz", k=100)) for _ in range(2)]
    texts = [common + ends[0], common + ends[1], common + ends[1] + "."]
    sets = [shingles(text, 3) for text in texts]
    assert jaccard(sets[0], sets[1]) < 0.4 < 0.9 < jaccard(sets[1], sets[2])
    for seed in itertools.count():
        if len({fast_sketch(s, 1, seed).tobytes() for s in sets}) == 1:
            return texts, SETTINGS._replace(num_perm=1, bands=1, rows=1, seed=seed)
    raise AssertionError


def test_two_that_are_alike_meet_though_the_first_of_their_group_is_unlike(tmp_path):
    texts, settings = second_round_texts()
    report, want = compare(tmp_path, texts, settings)
    assert [verdict and verdict[:2] for verdict in want.values()] == [None, None, ("near copy", 1)]
    assert report["pairs_compared"] == 3


NAMES = "Ann and Bo", "Cy or Dan's", "Evelyn too"
STREAM, GROUPS, FILES = (
    f"minqwen.data.streaming.{name}" for name in ("stream_dedup", "dedup_groups", "dedup_files")
)
WRONG = {
    "one round": (STREAM, "(_with_the_first, _with_all)", "(_with_the_first,)"),
    "offsets": (STREAM, "np.cumsum([0, *counts])", "np.cumsum([1, *counts])"),
    "exact copies go on": (STREAM, "first == np.arange(n))", "first >= 0)"),
    "all copies go on": (STREAM, "alike == np.arange(n))\n\n", "alike >= 0)\n\n"),
    "exact copies are forgotten": (STREAM, "alike = parent.copy()", "alike = np.arange(n)"),
    "the last stays": (
        STREAM,
        "groups[1, first[group]]])",
        "groups[1, np.searchsorted(groups[0], groups[0], 'right') - 1]])",
    ),
    "more than alike": (STREAM, "likeness >= settings", "likeness > settings"),
    "likeness of another": (STREAM, "similarity[alike]", "similarity"),
    "rounds stop early": (STREAM, "range(0, pairs.shape[1], ROUND)", "[0]"),
    "several first": (STREAM, "cluster[starts] != cluster[starts + distance]", "starts < 0"),
    "a block's own": (
        GROUPS,
        "[offsets[job.block] : offsets[job.block + 1]]",
        "[: offsets[job.block + 1] - offsets[job.block]]",
    ),
    "those not asked for are rows": (GROUPS, "if document.line in lines:", "if True:"),
    "text of the others": (GROUPS, "len(parts), ~wanted)", "len(parts), wanted)"),
    "lines of the next part": (GROUPS, "np.arange(1, parts)", "np.arange(parts - 1)"),
    "shingles of the next": (GROUPS, "starts[-1] + len", "1 + starts[-1] + len"),
    "the next block": (FILES, '"right")) - 1', '"left")) - 1'),
    "number of the block": (FILES, "int(block_offsets(work)[job.block]) - 1", "-1"),
    "all exact": (FILES, "if first[number] != number:", "if True:"),
    "all near": (FILES, "if first[number] != number:", "if False:"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_noticed(tmp_path, name):
    module, old, new = WRONG[name]
    edits = [Edit(module, old, new)]
    changes = {"stream": edited_module(STREAM, edits)}
    if module == FILES:
        changes = {"files": edited_module(FILES, edits)}
    odd = ["pqrst", "qrstu"]  # a similarity of exactly 1/2
    odd += ["xyz" * 5 + "w", "xyz" * 6 + "w"]  # same shingles, and near those of another
    one_bucket = SETTINGS._replace(bands=1, rows=1)
    cases = [
        (corpus(12, seed=0) + odd, SETTINGS._replace(threshold=0.5)),
        ([f"{name * 20} makes {i}" for i in range(10) for name in NAMES], one_bucket),
        second_round_texts(),
    ]
    for number, (texts, settings) in enumerate(cases):
        (tmp_path / str(number)).mkdir()
        try:
            compare(tmp_path / str(number), texts, settings, **changes)
        except (AssertionError, IndexError, KeyError, ValueError, OSError):
            return
    pytest.fail("nobody noticed")

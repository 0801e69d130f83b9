"""All pairs of a large group at once: the same clusters as pair by pair, for tiles of any size."""

import itertools
import random

import numpy as np
import pytest
from data.streaming.test_dedup_files import MANY, clusters_of, compare
from helpers.document_files import (
    SETTINGS,
    all_of,
    corpus,
    everything,
    in_memory,
    on_disk,
    write_files,
)

from minqwen.check.edited import Edit, edited_module
from minqwen.data.fast_sketch import fast_sketch
from minqwen.data.shingles import jaccard, shingles
from minqwen.data.streaming import dedup_files, dedup_tiles, stream_dedup
from minqwen.data.streaming.dedup_tiles import common_shingles
from minqwen.data.streaming.workers import OneProcess, dask_workers

ONE_BUCKET = SETTINGS._replace(bands=20, rows=1)
AT_THRESHOLD = SETTINGS._replace(ngram_size=1, threshold=0.7, num_perm=1, bands=1, rows=1)


def template_texts(n, seed, own=40):
    """Pages of one template whose own texts differ, some of them nearly copies of others."""
    rng = random.Random(seed)
    template = "".join(rng.choices("abcdefgh", k=60))
    texts = []
    for _ in range(n):
        text = template + "".join(rng.choices("stuvwxyz", k=own))
        texts.append(rng.choice(texts)[:-1] + "." if texts and rng.random() < 0.3 else text)
    return texts


def texts_at_the_threshold():
    """Six texts with 7 letters in common and 6 of their own, then two of which 7 of 10 are common.

    The product 0.7 * 10 is 7; the quotient 7 / 10 is 0.7. All are in the one bucket that there is.
    """
    common = "abcdefg"
    others = [common + "".join(chr(0x4E00 + 6 * i + j) for j in range(6)) for i in range(6)]
    texts = [*others, *(common + own for own in ("xy", "z"))]
    for seed in itertools.count():
        if len({fast_sketch(shingles(text, 1), 1, seed).tobytes() for text in texts}) == 1:
            return texts, AT_THRESHOLD._replace(seed=seed)
    raise AssertionError


def random_sets(rng, n, largest):
    return [
        np.unique(rng.integers(0, 30, rng.integers(0, largest)).astype(np.uint64)) for _ in range(n)
    ]


@pytest.mark.parametrize("width", [1, 3, 2048])
def test_counts_are_those_of_sets(monkeypatch, width):
    monkeypatch.setattr(dedup_tiles, "WIDTH", width)
    rng = np.random.default_rng(0)
    for m, k, largest in ((1, 1, 1), (5, 7, 20), (3, 1, 40), (4, 4, 2)):
        rows, columns = random_sets(rng, m, largest), random_sets(rng, k, largest)
        want = [[len(set(a.tolist()) & set(b.tolist())) for b in columns] for a in rows]
        counts = common_shingles(rows, columns)
        assert counts.dtype == np.int64
        assert counts.tolist() == want


def small_tiles(patch, tile=4, shingles=2**21):
    patch.setattr(dedup_tiles, "TILE", tile)
    patch.setattr(dedup_tiles, "SHINGLES", shingles)


@pytest.mark.parametrize(("tile", "shingles"), [(1, 2**21), (4, 2**21), (50, 2**21), (50, 150)])
def test_equals_what_is_found_in_memory(tmp_path, monkeypatch, tile, shingles):
    small_tiles(monkeypatch, tile, shingles)
    limits = MANY | {"LARGE": 2}
    texts = template_texts(18, 0) + corpus(2, 0)
    _, want = compare(tmp_path, texts, ONE_BUCKET._replace(bands=6), limits=limits)
    assert max(clusters_of(want).values()) > 2


def test_tiles_are_what_compares_a_large_group(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_dedup, "_with_all", lambda groups, parent: iter(()))
    compare(
        tmp_path, template_texts(30, 3), ONE_BUCKET._replace(bands=6), limits={"LARGE": 2} | MANY
    )


def test_a_similarity_at_the_threshold_is_alike(tmp_path):
    texts, settings = texts_at_the_threshold()
    assert jaccard(*(shingles(text, 1) for text in texts[-2:])) == AT_THRESHOLD.threshold == 0.7
    _, want = compare(tmp_path, texts, settings, limits=MANY | {"LARGE": 2})
    assert list(want.values()) == [None] * 7 + [("near copy", 6, 0.7)]


TILES = "minqwen.data.streaming.dedup_tiles"
STREAM = "minqwen.data.streaming.stream_dedup"
WRONG = {
    "no tiles": (STREAM, "compared += _join_large", "0 and _join_large"),
    "tiles of the diagonal": (
        TILES,
        "combinations_with_replacement(sides, 2)",
        "zip(sides, sides)",
    ),
    "more than alike": (TILES, "both[i, j] >= job", "both[i, j] > job"),
    "of one side": (TILES, "[len(x) for x in columns]) - common", "[0 for x in columns])"),
    "the last tile is lost": (TILES, "[*cuts[1:], len(sizes)]", "[*cuts[1:], cuts[-1]]"),
    "columns from the first on": (TILES, "place[low:high] - start", "place[low:high] % 2"),
    "another document": (TILES, "rows.documents[i[first]]", "rows.documents[i[first] - 1]"),
    "rounded up": (TILES, "(1 - 1e-9) * job.threshold", "(1 + 1e-9) * job.threshold"),
    "joined already": (TILES, "np.not_equal.outer", "np.equal.outer"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*WRONG, None])
def test_wrong_variants_are_noticed(tmp_path, monkeypatch, name):
    edits = [Edit(*WRONG[name])] if name else []
    stream = edited_module(STREAM, edits) if name else stream_dedup
    tiles = stream.tile_jobs.__globals__
    for limit, value in (("TILE", 4), ("WIDTH", 8)):
        monkeypatch.setitem(tiles, limit, value)
    for limit, value in (MANY | {"LARGE": 2}).items():
        monkeypatch.setattr(stream, limit, value)
    monkeypatch.setattr(dedup_files, "find_clusters", stream.find_clusters)
    cases = [
        (template_texts(30, 0), ONE_BUCKET),
        texts_at_the_threshold(),
        (template_texts(30, 1), ONE_BUCKET._replace(bands=1)),
    ]
    same = True
    for number, (texts, settings) in enumerate(cases):
        source, out = tmp_path / f"{number}", tmp_path / f"out {number}"
        places = write_files(source, texts)
        try:
            dedup_files.dedup_files([source], out, settings, OneProcess(), all_of, 2000)
            same = same and on_disk(out, places) == in_memory(texts, settings)
        except (AssertionError, IndexError, ValueError):
            same = False
    assert same == (name is None)


@pytest.mark.slow
def test_a_cluster_makes_the_same_folder(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(stream_dedup, "LARGE", 2)
    write_files(tmp_path / "in", template_texts(60, 0))
    dedup_files.dedup_files([tmp_path / "in"], tmp_path / "one", ONE_BUCKET, OneProcess(), all_of)
    with dask_workers("local", 2) as workers:
        dedup_files.dedup_files([tmp_path / "in"], tmp_path / "dask", ONE_BUCKET, workers, all_of)
    assert everything(tmp_path / "dask") == everything(tmp_path / "one")

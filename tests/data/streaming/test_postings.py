"""Groups of equal keys over many files, against a dictionary, for any number of ranges."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from helpers.edits import edited

from minqwen.data.streaming import postings as file
from minqwen.data.streaming.postings import groups_in, ranges, write_postings

EXTREME = [0, 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]


def by_dictionary(blocks):
    """Return the documents of each key that several have."""
    owners, offset = defaultdict(set), 0
    for keys, documents, count in blocks:
        for key, document in zip(map(tuple, keys.T.tolist()), documents.tolist(), strict=True):
            owners[key].add(offset + document)
        offset += count
    return sorted(sorted(documents) for documents in owners.values() if len(documents) > 1)


def random_blocks(rng, w, blocks):
    """Make few different keys, so that many are equal, also twice in a document, or in one word."""
    pool = rng.choice(np.array(EXTREME, np.uint64), 10 if w == 1 else 3, replace=False)
    made = []
    for _ in range(blocks):
        count = int(rng.integers(0, 6))
        m = int(rng.integers(0, 12)) if count else 0
        keys = rng.choice(pool, size=(w, m)) if m else np.empty((w, 0), np.uint64)
        made.append((keys, np.sort(rng.integers(0, max(count, 1), m)), count))
    return made


def found_by(module, folder, blocks, at_once):
    paths, offsets, offset, postings = [], [], 0, 0
    for number, (keys, documents, count) in enumerate(blocks):
        paths.append(folder / f"{number}.npy")
        module.write_postings(paths[-1], keys, documents)
        offsets.append(offset)
        offset += count
        postings += len(documents)
    groups = []
    for bounds in module.ranges(postings, at_once):
        table = module.groups_in(paths, offsets, bounds)
        assert table.dtype == np.int64
        assert (np.diff(table[0]) >= 0).all()
        for number in np.unique(table[0]):
            documents = table[1, table[0] == number].tolist()
            assert documents == sorted(set(documents))
            groups.append(documents)
    return sorted(groups)


@pytest.mark.parametrize("w", [1, 2])
@pytest.mark.parametrize("at_once", [1, 3, 10**6])
def test_groups_are_those_of_a_dictionary(tmp_path, w, at_once):
    rng = np.random.default_rng(at_once + w)
    sizes = set()
    for _ in range(12):
        blocks = random_blocks(rng, w, int(rng.integers(1, 5)))
        groups = by_dictionary(blocks)
        assert found_by(file, tmp_path, blocks, at_once) == groups
        sizes.update(map(len, groups))
    assert sizes >= {2, 3}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("part[-1] += np.uint64(offset)", "part[-1] += np.uint64(0)"),
        ("if bounds[0]:", "if False:"),
        ("if bounds[1] < 2**64:", "if False:"),
        ("group[~twice], table[-1, ~twice]", "group, table[-1]"),
        ("(table[:-1, 1:] != table[:-1, :-1]).any(axis=0)", "table[0, 1:] != table[0, :-1]"),
        ("table = table[:, np.lexsort(table[-2::-1])]", ""),
        ("values[order]", "values"),
    ],
)
def test_wrong_variants_fail(tmp_path, old, new):
    wrong, rng = edited(file, old, new), np.random.default_rng(0)
    for _ in range(60):
        blocks = random_blocks(rng, 2, 4)
        try:
            same = found_by(wrong, tmp_path, blocks, 3) == by_dictionary(blocks)
        except AssertionError:
            same = False
        if not same:
            return
    pytest.fail("nobody noticed")


@pytest.mark.parametrize("postings", [0, 1, 5, 99, 10**12])
def test_ranges_cover_all_keys_once(postings):
    found = ranges(postings, at_once=max(1, postings // 37))
    assert found[0][0] == 0
    assert found[-1][1] == 2**64
    assert all(one[1] == other[0] for one, other in pairwise(found))
    assert all(low < high for low, high in found)
    assert len(ranges(100, 100)) == 1
    assert len(ranges(101, 100)) == 2


def test_empty_files_have_no_groups(tmp_path):
    for w in (1, 2):
        write_postings(tmp_path / "a.npy", np.empty((w, 0), np.uint64), np.arange(0))
        assert groups_in([tmp_path / "a.npy"], [0], (0, 2**64)).shape == (2, 0)

"""Packing: no token lost, each a label once, batches that need no memory."""

import numpy as np
import pytest

from minqwen.data.packing import batch_rows, epoch_order, pack_documents


def naive_pack(documents, context_length, separator):
    stream = []
    for document in documents:
        stream += [*document, separator]
    rows = []
    while len(stream) > context_length:
        rows.append(stream[: context_length + 1])
        stream = stream[context_length:]
    return rows


@pytest.mark.parametrize("context_length", [1, 2, 3, 5, 7, 13, 23])
def test_matches_the_description(context_length):
    documents = [[1, 2, 3], [4], [5, 6], list(range(10, 25))]
    rows = pack_documents(documents, context_length, 0)
    assert rows.tolist() == naive_pack(documents, context_length, 0)
    assert rows.dtype == np.int32
    assert rows.flags.c_contiguous


def test_every_token_but_the_first_is_a_label_exactly_once():
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 100, n) for n in rng.integers(1, 30, 50)]
    rows = pack_documents(documents, 7, 0)
    stream = np.concatenate([[*d, 0] for d in documents])
    labels = rows[:, 1:].ravel()
    np.testing.assert_array_equal(labels, stream[1 : len(labels) + 1])
    assert len(stream) - 1 - len(labels) < 7


def test_shuffles_documents_whole_and_by_the_seed_only():
    documents = [[i] * 3 for i in range(1, 41)]
    one, same, other = (
        pack_documents(documents, 4, 0, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (one != pack_documents(documents, 4, 0)).any()
    assert (one[:, :3] == one[:, :1]).all()  # three tokens of a document and its separator
    assert (one[:, 3] == 0).all()


def test_empty_documents_are_left_out_and_generators_will_do():
    assert pack_documents(iter([[], [1, 2], []]), 2, 9).tolist() == [[1, 2, 9]]


def test_errors():
    with pytest.raises(
        ValueError, match="2 documents make 5 tokens with separators, one row needs"
    ):
        pack_documents([[1, 2], [3]], 5, 0)
    with pytest.raises(ValueError, match="0 documents make 0 tokens"):
        pack_documents([], 1, 0)
    with pytest.raises(ValueError, match="context_length must be positive, got 0"):
        pack_documents([[1, 2]], 0, 0)
    with pytest.raises(TypeError, match="integer ids, got float64"):
        pack_documents([[1.0, 2.0]], 1, 0)
    with pytest.raises(TypeError, match="integer ids, got <U"):
        pack_documents(["text"], 1, 0)


@pytest.mark.parametrize(
    ("documents", "separator", "message"),
    [
        ([[1], [2, 2**33]], 0, "document 1 holds ids from 2 to 8589934592, rows hold 0 to 21474"),
        ([[2**31]], 0, "document 0 holds ids from 2147483648 to 2147483648"),
        ([[], [3, -1]], 0, "document 1 holds ids from -1 to 3"),
        ([np.array([2**63], np.uint64)], 0, "document 0 holds ids from 9223372036854775808"),
        ([[1, 2]], 2**33, "separator_id holds ids from 8589934592 to 8589934592, rows hold 0 to"),
        ([[1, 2]], -100, "separator_id holds ids from -100"),
    ],
)
def test_ids_that_int32_would_wrap_are_named(documents, separator, message):
    with pytest.raises(ValueError, match=message):
        pack_documents(documents, 1, separator)


@pytest.mark.parametrize(
    ("documents", "separator", "message"),
    [
        ([[1, 2]], 1.5, r"separator_id must be integer ids, got float64"),
        ([[1, 2]], None, r"separator_id must be integer ids, got object"),
        ([[1, 2], [2**70]], 0, r"document 1 must be integer ids, got object of shape \(1,\)"),
        ([[[1, 2]]], 0, r"document 0 must be integer ids, got int64 of shape \(1, 2\)"),
    ],
)
def test_what_is_no_list_of_ids_is_named(documents, separator, message):
    with pytest.raises(TypeError, match=message):
        pack_documents(documents, 1, separator)


def test_the_largest_id_and_every_integer_dtype_will_do():
    most = 2**31 - 1
    assert pack_documents([[most]], 1, most).tolist() == [[most, most]]
    for dtype in (np.uint8, np.int16, np.uint64):
        rows = pack_documents([np.array([1, 2], dtype), [3]], 1, 0)
        assert rows.dtype == np.int32
        assert rows.tolist() == [[1, 2], [2, 0], [0, 3], [3, 0]]


@pytest.mark.parametrize(
    ("n_rows", "batch_size"), [(6, 2), (7, 3), (5, 5), (3, 8), (1, 4), (11, 1)]
)
def test_every_row_once_an_epoch_also_across_its_end(n_rows, batch_size):
    batches = [batch_rows(n_rows, batch_size, step, seed=3) for step in range(40)]
    assert {len(batch) for batch in batches} == {batch_size}
    stream = np.concatenate(batches)
    epochs = stream[: len(stream) // n_rows * n_rows].reshape(-1, n_rows)
    assert (np.sort(epochs, axis=1) == np.arange(n_rows)).all()
    for epoch, order in enumerate(epochs):
        np.testing.assert_array_equal(order, epoch_order(n_rows, epoch, 3))


def test_epochs_and_seeds_differ_and_calls_do_not():
    assert (
        len({tuple(epoch_order(50, epoch, seed)) for epoch in range(5) for seed in range(5)}) == 25
    )
    first = batch_rows(50, 8, 20, 0)
    batch_rows(9, 2, 3, 4)
    epoch_order.cache_clear()
    np.testing.assert_array_equal(batch_rows(50, 8, 20, 0), first)


@pytest.mark.parametrize("arguments", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_batch_errors(arguments):
    with pytest.raises(ValueError, match="need n_rows >= 1"):
        batch_rows(*arguments, seed=0)

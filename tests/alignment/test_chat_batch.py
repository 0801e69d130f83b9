"""Rows of chats: nothing lost, nothing asked that belongs to the next, the same gradient."""

import dataclasses

import numpy as np
import pytest
from training.small_run import CONFIG

from minqwen.alignment.chat_batch import pack_chats, pad_chats
from minqwen.model.init import init_params
from minqwen.tokenizer.chatml import Chat
from minqwen.training.accumulate import Batch, count_tokens, loss_and_grads

F, T = False, True
ABCD = Chat([1, 2, 3, 4], [F, F, T, T])
EFG = Chat([5, 6, 7], [F, F, T])


def random_chats(n, seed=0, longest=9):
    rng = np.random.default_rng(seed)
    chats = []
    for _ in range(n):
        size = rng.integers(2, longest + 1)
        mask = rng.random(size) < 0.5
        mask[-1] = True
        chats.append(Chat(rng.integers(0, 11, size).tolist(), mask.tolist()))
    return chats


def questions(chat):
    """What a chat asks: the tokens so far, the next one, whether it counts."""
    ids, mask = chat
    return [(tuple(ids[: t + 1]), ids[t + 1], mask[t + 1]) for t in range(len(ids) - 1)]


def questions_of(rows):
    """The same, read back from the arrays, by chat."""
    batch, found = rows.batch, {}
    for i, chats in enumerate(rows.rows):
        n_real = int(batch.real[i].sum())
        assert batch.real[i, :n_real].all()
        assert (batch.labels[i, n_real:] == -100).all()
        assert not batch.loss_mask[i, n_real:].any()
        segments = np.zeros(n_real, int) if batch.segments is None else batch.segments[i, :n_real]
        for segment, chat in enumerate(chats):
            (places,) = np.nonzero(segments == segment)
            assert (np.diff(places) == 1).all()
            ids = batch.input_ids[i, places].tolist()
            found[chat] = [
                (tuple(ids[: k + 1]), int(batch.labels[i, t]), bool(batch.loss_mask[i, t]))
                for k, t in enumerate(places)
            ]
    return found


def test_the_table_of_the_docstring():
    padded = pad_chats([ABCD, EFG], pad_id=9, length=4)
    assert padded.batch.input_ids.tolist() == [[1, 2, 3, 9], [5, 6, 9, 9]]
    assert padded.batch.labels.tolist() == [[2, 3, 4, -100], [6, 7, -100, -100]]
    assert padded.batch.loss_mask.tolist() == [[F, T, T, F], [F, T, F, F]]
    assert padded.batch.real.tolist() == [[T, T, T, F], [T, T, F, F]]
    assert padded.batch.segments is None
    assert padded[1:] == ([[0], [1]], [], [])

    packed = pack_chats([ABCD, EFG], length=6, pad_id=9)
    assert packed.batch.input_ids.tolist() == [[1, 2, 3, 5, 6, 9]]
    assert packed.batch.labels.tolist() == [[2, 3, 4, 6, 7, -100]]
    assert packed.batch.loss_mask.tolist() == [[F, T, T, F, T, F]]
    assert packed.batch.real.tolist() == [[T, T, T, T, T, F]]
    assert packed.batch.segments.tolist() == [[0, 0, 0, 1, 1, 2]]
    assert packed[1:] == ([[0, 1]], [], [])
    assert count_tokens(padded.batch) == count_tokens(packed.batch) == 3


@pytest.mark.parametrize("length", [8, 9, 13, 40])
def test_every_question_once_and_no_other(length):
    chats = random_chats(60)
    for rows in (pad_chats(chats, 0, length), pack_chats(chats, length)):
        assert questions_of(rows) == {i: questions(chat) for i, chat in enumerate(chats)}
        assert not rows.cut
        assert not rows.left_out
        assert rows.batch.input_ids.shape == (len(rows.rows), length)
    assert [row[0] for row in pad_chats(chats, 0, length).rows] == list(range(60))


def test_no_label_is_the_beginning_of_the_next_chat():
    """Whatever counts, as with the labels of finetune.py, in which the first token does."""
    chats = [Chat([1, 2], [T, T]), Chat([3, 4], [T, T]), Chat([5, 6], [T, T])]
    batch = pack_chats(chats, length=3).batch
    assert batch.labels.tolist() == [[2, 4, 6]]
    assert batch.segments.tolist() == [[0, 1, 2]]


def test_packing_fills_rows_and_the_shortest_padding_is_found():
    chats = random_chats(200, seed=1)
    rows = pack_chats(chats, length=24)
    places = sum(len(chat.ids) - 1 for chat in chats)
    assert len(rows.rows) <= 1.05 * places / 24 + 1
    assert sorted(chat for row in rows.rows for chat in row) == list(range(200))
    assert pad_chats(chats, 0).batch.input_ids.shape == (200, 8)


def test_a_pad_id_within_a_chat_is_a_token():
    chat = Chat([9, 1, 9, 9], [F, T, T, T])
    batch = pad_chats([chat, Chat([1] * 6, [T] * 6)], pad_id=9).batch
    assert batch.real[0].tolist() == [T, T, T, F, F]
    assert batch.labels[0].tolist() == [1, 9, 9, -100, -100]
    assert batch.loss_mask[0].tolist() == [T, T, T, F, F]


@pytest.mark.parametrize("make", [pad_chats, pack_chats])
def test_what_is_too_long_is_cut_or_left_out_and_reported(make):
    late = Chat([1, 2, 3, 4, 5, 6], [T, F, F, F, T, T])
    early = Chat([1, 2, 3, 4, 5, 6], [F, F, F, T, F, T])
    exact = Chat([1, 2, 3, 4], [F, F, F, T])
    unasked = Chat([1, 2], [T, F])  # its first token is nobody's label
    rows = make([late, early, exact, unasked, Chat([1], [T])], length=3, pad_id=0)
    assert rows.rows == [[1], [2]]
    assert rows.batch.labels.tolist() == [[2, 3, 4]] * 2
    assert rows.cut == [1]
    assert rows.left_out == [
        (0, "cut from 6 to 4 tokens; the first label is token 5"),
        (3, "no token of it is a label"),
        (4, "no token of it is a label"),
    ]
    with pytest.raises(
        ValueError, match=r"none of 1 chats has a label; chats\[0\]: cut from 6 to 4"
    ):
        make([late], length=3, pad_id=0)


@pytest.mark.parametrize("make", [pad_chats, pack_chats])
@pytest.mark.parametrize(
    ("chat", "error", "message"),
    [
        (Chat([1, 2], [T]), ValueError, r"chats\[1\] has 2 ids and a loss_mask of shape \(1,\)"),
        (Chat([1, 2], [0, 1]), TypeError, r"chats\[1\].loss_mask must be boolean, got dtype int64"),
        (Chat([1.0, 2.0], [F, T]), TypeError, r"chats\[1\].ids must be a list of integer ids"),
        (Chat([], []), TypeError, r"chats\[1\].ids must be a list of integer ids, at least one"),
        (Chat([1, -1], [F, T]), ValueError, r"chats\[1\] holds ids from -1 to 1"),
        (Chat([1, 2**31], [F, T]), ValueError, r"chats\[1\] holds ids from 1 to 2147483648"),
    ],
)
def test_what_is_no_chat(make, chat, error, message):
    with pytest.raises(error, match=message):
        make([ABCD, chat], length=4, pad_id=0)


@pytest.mark.parametrize("make", [pad_chats, pack_chats])
def test_wrong_use(make):
    with pytest.raises(ValueError, match="length must be positive, got 0"):
        make([ABCD], length=0, pad_id=0)
    with pytest.raises(ValueError, match="none of 0 chats has a label"):
        make([], length=4, pad_id=0)
    for pad_id in (-100, 2**31):
        with pytest.raises(ValueError, match="pad_id must be an id"):
            make([ABCD], length=4, pad_id=pad_id)


def one_by_one(chats):
    return [
        Batch(np.array([ids[:-1]]), np.array([ids[1:]]), np.array([mask[1:]]))
        for ids, mask in chats
    ]


@pytest.mark.parametrize("make", [pad_chats, pack_chats])
def test_the_gradient_of_rows_is_that_of_the_chats_one_by_one(make):
    config = dataclasses.replace(CONFIG, dropout=0.0, num_hidden_layers=2)
    params = init_params(config, np.random.default_rng(2), dtype="float64")
    params = {name: w * (10 if w.ndim > 1 else 1) for name, w in params.items()}
    chats = random_chats(9, seed=2)
    want = loss_and_grads(params, config, one_by_one(chats))
    batch = make(chats, length=20, pad_id=7).batch
    found = loss_and_grads(params, config, [batch])
    assert found.tokens == want.tokens
    assert found.loss == pytest.approx(want.loss, rel=1e-12)
    for name, grad in want.grads.items():
        np.testing.assert_allclose(found.grads[name], grad, atol=1e-12 * np.abs(grad).max())
    if make is pack_chats:  # and looking into the neighbour would be seen
        blind = loss_and_grads(params, config, [batch._replace(segments=None)])
        assert blind.loss != pytest.approx(want.loss, rel=1e-4)

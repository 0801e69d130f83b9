"""Dual chunk attention: the matrix of distances, plain attention as a limit, merge, KV cache."""

import tracemalloc

import numpy as np
import pytest
from helpers import references
from helpers.fake_device import count_syncs, from_fake, install, to_fake

from minqwen.layers.attention import attention_backward, attention_forward, causal_mask
from minqwen.layers.block_attention import block_attention_backward, block_attention_forward
from minqwen.layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables
from minqwen.long_context.chunk_pieces import key_pieces, row_blocks
from minqwen.long_context.dual_chunk import (
    dual_chunk_attention_backward,
    dual_chunk_attention_forward,
    dual_chunk_positions,
    dual_chunk_tables,
)

DH, INV_FREQ = 10, rope_inv_freq(10, 100.0, "float64")
SIZES = [(10, 4), (12, 2), (7, 3), (5, 4), (2, 1), (9, 1), (8, 5)]  # (c, w), the last with w > s


def qkv(H=6, Hkv=3, T=29, S=29, B=2, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in ((B, H, T, DH), (B, Hkv, S, DH), (B, Hkv, S, DH))]


def run(q, k, v, c, w, highest=None, positions=None, real=None, block=None, factor=1.0):
    """Turn the keys, attend: (out, cache) of all tokens at once."""
    positions = np.arange(k.shape[2]) if positions is None else positions
    tables = dual_chunk_tables(positions, positions, INV_FREQ, c, w, highest, factor)
    k, _ = rope_forward(k, *tables.key)
    return dual_chunk_attention_forward(q, k, v, tables, real, block=block)


def plain(q, k, v, **options):
    cos, sin = rope_tables(np.arange(k.shape[2]), INV_FREQ)
    q, k = rope_forward(q, cos, sin)[0], rope_forward(k, cos, sin)[0]
    return block_attention_forward(q, k, v, **options)


def distances(T, c, w, highest=None):
    """Return the matrix that the package's positions make; what lies in the future is 0."""
    key, intra, succ, inter, chunk = dual_chunk_positions(np.arange(T), c, w, highest)
    ahead = chunk[:, None] - chunk
    place = np.where(
        ahead >= 2, inter[:, None], np.where(ahead == 1, succ[:, None], intra[:, None])
    )
    return np.where(np.tri(T, dtype=bool), place - key, 0)


# ---------------------------------------------------------------- the matrix of distances


@pytest.mark.parametrize(
    ("row", "paper", "released"),
    [
        (9, "9 8 7 6 5 4 3 2 1 0", "9 8 7 6 5 4 3 2 1 0"),
        (10, "9 8 7 6 5 4 4 3 2 1 0", "10 9 8 7 6 5 4 3 2 1 0"),
        (11, "9 8 7 6 5 4 5 4 3 2 1 0", "10 9 8 7 6 5 5 4 3 2 1 0"),
        (12, "9 8 7 6 5 4 6 5 4 3 2 1 0", "10 9 8 7 6 5 6 5 4 3 2 1 0"),
    ],
)
def test_rows_written_down_by_hand(row, paper, released):
    """Chunks of 6 tokens, c = 10, w = 4. In row 12 keys 0 .. 5 are inter."""
    for text, highest in ((paper, None), (paper, 9), (released, 10)):
        want = [int(word) for word in text.split()]
        assert distances(row + 1, 10, 4, highest)[row].tolist() == want
        assert references.dual_chunk_distances(range(row + 1), 10, 4, highest)[row] == want


@pytest.mark.parametrize(("c", "w"), SIZES)
@pytest.mark.parametrize("released", [False, True])
def test_the_matrix_is_that_of_the_papers_lists(c, w, released):
    for T in (1, c - w, c, c + 2, 5 * c):
        want = references.dual_chunk_distances(range(T), c, w, c if released else None)
        want = [[0 if m is None else m for m in row] for row in want]
        assert distances(T, c, w, c if released else None).tolist() == want


@pytest.mark.parametrize(("c", "w"), SIZES)
def test_no_distance_is_outside_of_the_trained_range(c, w):
    """For every length up to 12 chunks: a longer text only adds rows."""
    M = distances(12 * c, c, w)
    assert M.min() == 0
    assert M.max() == min(c - 1, 2 * (c - w) - 1)
    assert distances(12 * c, c, w, highest=c).max() <= c  # the released code: one more


@pytest.mark.parametrize(("c", "w"), SIZES)
@pytest.mark.parametrize("released", [False, True])
def test_the_nearest_w_distances_are_exact(c, w, released):
    T, s = 12 * c, c - w
    M = distances(T, c, w, c if released else None)
    real = np.arange(T)[:, None] - np.arange(T)
    near = (real >= 0) & (real <= min(w + released, s))
    np.testing.assert_array_equal(M[near], real[near])
    if w + released < s:  # and not one more
        assert (M != real)[real == w + released + 1].any()


@pytest.mark.parametrize(("c", "w"), SIZES)
def test_far_keys_are_at_one_distance_from_all_queries(c, w):
    """What distinguishes a far key is only where it stands in its chunk."""
    T, s = 12 * c, c - w
    M, chunk = distances(T, c, w), np.arange(T) // s
    for j in range(T):
        far = chunk - chunk[j] >= 2
        assert len(set(M[far, j])) <= 1
        assert set(M[far, j]) <= {min(c - 1, 2 * s - 1) - j % s}


@pytest.mark.parametrize(("c", "w"), SIZES)
@pytest.mark.parametrize("released", [False, True])
def test_the_first_row_that_is_not_plain(c, w, released):
    """Up to one chunk nothing changes, and not before row highest + 1; T = s + 1 proves nothing."""
    highest = c if released else c - 1
    last = min(highest, 2 * (c - w) - 1)
    M = distances(last + 3, c, w, highest)
    real = np.arange(last + 3)[:, None] - np.arange(last + 3)
    changed = (np.tri(last + 3, dtype=bool) & (M != real)).any(axis=1)
    assert changed.argmax() == last + 1


# ---------------------------------------------------------------- the attention


@pytest.mark.parametrize(("c", "w"), SIZES)
@pytest.mark.parametrize("highest", [None, 0])
def test_matches_the_equation(c, w, highest):
    q, k, v = qkv(H=2, Hkv=1)
    highest = None if highest is None else c
    want = references.dual_chunk_attention(q, k, v, range(29), highest, c=c, w=w)
    for block in (1, 3, None):
        out, _ = run(q, k, v, c, w, highest, block=block)
        assert np.abs(out - want).max() < 1e-12


@pytest.mark.parametrize("T", [1, 5, 6, 7, 10, 11])
@pytest.mark.parametrize("highest", [9, 10])
def test_is_plain_attention_up_to_row_highest(T, highest):
    q, k, v = qkv(T=T, S=T)
    out, want = run(q, k, v, 10, 4, highest)[0], plain(q, k, v)[0]
    same = min(T, highest + 1)
    assert np.abs(out - want)[:, :, :same].max() < 1e-12
    if T > same:
        assert np.abs(out - want)[:, :, same:].max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_chunk_is_plain_attention_to_the_last_bit(dtype):
    q, k, v = (x.astype(dtype) for x in qkv(T=6, S=6))
    inv_freq = INV_FREQ.astype(dtype)
    tables = dual_chunk_tables(np.arange(6), np.arange(6), inv_freq, 10, 4)
    turned = rope_forward(k, *tables.key)[0]
    out, cache = dual_chunk_attention_forward(q, turned, v, tables, scale=0.25)
    q, rope = rope_forward(q, *rope_tables(np.arange(6), inv_freq))
    want, plain_cache = block_attention_forward(q, turned, v, scale=0.25)
    np.testing.assert_array_equal(out, want)

    dout = np.random.default_rng(1).standard_normal(q.shape).astype(dtype)
    dq, dk, dv = dual_chunk_attention_backward(dout, cache)
    want_dq, want_dk, want_dv = block_attention_backward(dout, plain_cache)
    np.testing.assert_array_equal(dk, want_dk)
    np.testing.assert_array_equal(dv, want_dv)
    np.testing.assert_allclose(dq, rope_backward(want_dq, rope), atol=1e-6)


@pytest.mark.parametrize("highest", [9, 10])
def test_paper_and_released_code_part_in_the_row_after_c_minus_1(highest):
    q, k, v = qkv()
    paper, released = run(q, k, v, 10, 4)[0], run(q, k, v, 10, 4, highest=highest)[0]
    parted = np.abs(paper - released).max(axis=(0, 1, 3)) > 1e-12
    assert parted.tolist() == [highest == 10 and i >= 10 for i in range(29)]


# ---------------------------------------------------------------- three softmaxes or one


def flash_like(q, k, v, causal):
    """One branch as the authors call it: its own softmax; returns out and log-sum-exp."""
    k, v = (np.repeat(a, q.shape[1] // a.shape[1], axis=1) for a in (k, v))
    scores = q @ k.swapaxes(-1, -2) / DH**0.5
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    peak = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True)
    return weights / total @ v, peak + np.log(total)


def chunk_by_chunk(q, k, v, c, w, highest, merge):
    """The released algorithm, written again: a loop over chunks, up to three calls, one merge."""
    T, s = q.shape[2], c - w

    def turn(x, places):
        return rope_forward(x, *rope_tables(np.asarray(places), INV_FREQ))[0]

    k = turn(k, [j % s for j in range(T)])
    outs = []
    for begin in range(0, T, s):
        end = min(begin + s, T)  # the last chunk may be short
        rows, within = q[:, :, begin:end], np.arange(end - begin)
        before = slice(begin - s, begin)
        branches = [flash_like(turn(rows, within), k[:, :, begin:end], v[:, :, begin:end], True)]
        if begin:
            succ = turn(rows, np.minimum(within + s, highest))
            branches.append(flash_like(succ, k[:, :, before], v[:, :, before], False))
        if begin > s:
            inter = turn(rows, np.full(end - begin, min(2 * s - 1, highest)))
            far = slice(0, begin - s)
            branches.append(flash_like(inter, k[:, :, far], v[:, :, far], False))
        outs.append(merge(branches))
    return np.concatenate(outs, axis=2)


def merge_by_lse(branches):
    out, lse = (np.stack(parts) for parts in zip(*branches, strict=True))  # (b, B, H, rows, .)
    peak = lse.max(axis=0)
    total = peak + np.log(np.exp(lse - peak).sum(axis=0))
    return (np.exp(lse - total) * out).sum(axis=0)


@pytest.mark.parametrize("T", [1, 9, 10, 11, 20, 21, 29, 30])
@pytest.mark.parametrize("highest", [11, 12])
def test_equals_the_released_algorithm(T, highest):
    """Chunks of 10 tokens, c = 12, w = 2; the released code has highest = 12."""
    q, k, v = qkv(T=T, S=T)
    want = chunk_by_chunk(q, k, v, 12, 2, highest, merge_by_lse)
    assert np.abs(run(q, k, v, 12, 2, highest)[0] - want).max() < 1e-12
    if T > 12:
        other = chunk_by_chunk(q, k, v, 12, 2, 23 - highest, merge_by_lse)
        assert np.abs(other - want).max() > 1e-3  # c or c - 1 is no detail


def test_the_mean_of_the_branches_is_not_the_merge():
    q, k, v = qkv()

    def mean(branches):
        return sum(out for out, _ in branches) / len(branches)

    right = chunk_by_chunk(q, k, v, 12, 2, 11, merge_by_lse)
    assert np.abs(chunk_by_chunk(q, k, v, 12, 2, 11, mean) - right).max() > 0.1
    v[:] = 1  # equal values do not show it
    for merge in (mean, merge_by_lse):
        np.testing.assert_allclose(chunk_by_chunk(q, k, v, 12, 2, 11, merge), 1, atol=1e-12)


def test_the_gradient_is_that_of_one_softmax_over_three_branches():
    """paper-facts 9: with the global L, dS_b = P_b (dout v^T - delta) on the pairs of branch b."""
    T, c, w = 29, 10, 4
    q, k, v = qkv(H=3)
    dout = np.random.default_rng(1).standard_normal(q.shape)
    tables = dual_chunk_tables(np.arange(T), np.arange(T), INV_FREQ, c, w)
    k, _ = rope_forward(k, *tables.key)
    out, cache = dual_chunk_attention_forward(q, k, v, tables)
    got = dual_chunk_attention_backward(dout, cache)

    ahead = tables.query_chunk[:, None] - tables.key_chunk
    turned = [rope_forward(q, *t) for t in (tables.intra, tables.succ, tables.inter)]
    S = [y @ k.swapaxes(-1, -2) / DH**0.5 for y, _ in turned]
    on = [np.tri(T, dtype=bool) & (ahead == 0), ahead == 1, ahead >= 2]
    L = np.log(sum((np.exp(s) * o).sum(axis=-1, keepdims=True) for s, o in zip(S, on, strict=True)))
    delta = (dout * out).sum(axis=-1, keepdims=True)
    dq, dk, dv = (np.zeros_like(x) for x in (q, k, v))
    for s, o, (y, rope) in zip(S, on, turned, strict=True):
        P = np.exp(s - L) * o
        dS = P * (dout @ v.swapaxes(-1, -2) - delta) / DH**0.5
        dv += P.swapaxes(-1, -2) @ dout
        dq += rope_backward(dS @ k, rope)
        dk += dS.swapaxes(-1, -2) @ y
    for ours, want in zip(got, (dq, dk, dv), strict=True):
        assert np.abs(ours - want).max() < 1e-12


def test_merge_weights_held_constant_lose_a_part_of_the_gradient():
    """The released code detaches them: fine for reading, not for training."""
    T, c, w = 29, 10, 4
    q, k, v = qkv(H=3)
    dout = np.random.default_rng(1).standard_normal(q.shape)
    tables = dual_chunk_tables(np.arange(T), np.arange(T), INV_FREQ, c, w)
    k, _ = rope_forward(k, *tables.key)
    _, cache = dual_chunk_attention_forward(q, k, v, tables)
    right = dual_chunk_attention_backward(dout, cache)[0]

    ahead = tables.query_chunk[:, None] - tables.key_chunk
    detached = np.zeros_like(q)
    for b, table in enumerate((tables.intra, tables.succ, tables.inter)):
        y, rope = rope_forward(q, *table)
        mask = causal_mask(T, T) & (np.clip(ahead, 0, 2) == b)
        _, branch = attention_forward(y, k, v, mask)
        scores = np.where(mask, y @ k.swapaxes(-1, -2) / DH**0.5, -np.inf)
        lse = np.log(np.exp(scores).sum(axis=-1, keepdims=True) + 1e-300)
        weight = np.exp(lse.reshape(2, 3, T, 1) - cache.lse.reshape(2, 3, T, 1))
        detached += rope_backward(attention_backward(weight * dout, branch)[0], rope)
    assert np.abs(detached - right)[:, :, :6].max() < 1e-12  # one branch: nothing to merge
    assert np.abs(detached - right)[:, :, 6:].max() > 0.1 * np.abs(right).max()


# ---------------------------------------------------------------- batches, caches, blocks


@pytest.mark.parametrize("split", range(1, 29))
@pytest.mark.parametrize("step", [1, 5, 29])
def test_decoding_with_turned_keys_equals_the_full_pass(split, step):
    """Keys are turned once, when they are new, whatever chunk the query will be in."""
    q, k, v = qkv(B=1)
    want = run(q, k, v, 10, 4)[0]
    kept = np.zeros((1, 3, 0, DH))
    outs, start = [], 0
    while start < 29:
        end = split if start == 0 else min(29, start + step)
        tables = dual_chunk_tables(np.arange(start, end), np.arange(end), INV_FREQ, 10, 4)
        new = rope_forward(k[:, :, start:end], *tables.key)[0]
        kept = np.concatenate((kept, new), axis=2)
        out = dual_chunk_attention_forward(q[:, :, start:end], kept, v[:, :, :end], tables)[0]
        outs.append(out)
        start = end
    assert np.abs(np.concatenate(outs, axis=2) - want).max() < 1e-12


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_for_the_real_tokens(side):
    """Chunks are counted in real tokens, so those of a padded row begin elsewhere."""
    q, k, v = qkv()
    lengths = (22, 29)
    real = np.array([np.arange(29) < n for n in lengths])
    real = real[:, ::-1] if side == "left" else real
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    for block in (2, 8, None):
        out, cache = run(q, k, v, 10, 4, positions=positions, real=real, block=block)
        dout = np.random.default_rng(1).standard_normal(q.shape) * real[:, None, :, None]
        grads = dual_chunk_attention_backward(dout, cache)
        for b, n in enumerate(lengths):
            cut = slice(29 - n, None) if side == "left" else slice(0, n)
            alone = [x[b : b + 1, :, cut] for x in (q, k, v)]
            want, one = run(*alone, 10, 4)
            assert np.abs(out[b : b + 1, :, cut] - want).max() < 1e-12
            for g, h in zip(
                grads, dual_chunk_attention_backward(dout[b : b + 1, :, cut], one), strict=True
            ):
                assert np.abs(g[b : b + 1, :, cut] - h).max() < 1e-12
        if side == "left":
            assert (out[0, :, :7] == 0).all()  # they see no real token
        assert all(np.isfinite(g).all() for g in (out, *grads))


def test_decoding_with_padding_equals_the_full_pass():
    q, k, v = qkv()
    real = np.ones((2, 29), dtype=bool)
    real[0, :7] = False
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    want = run(q, k, v, 10, 4, positions=positions, real=real)[0]
    all_tables = dual_chunk_tables(positions, positions, INV_FREQ, 10, 4)
    k = rope_forward(k, *all_tables.key)[0]
    for start in range(29):
        for end in (start + 1, min(29, start + 8)):
            tables = dual_chunk_tables(positions[:, start:end], positions[:, :end], INV_FREQ, 10, 4)
            got, _ = dual_chunk_attention_forward(
                q[:, :, start:end], k[:, :, :end], v[:, :, :end], tables, real[:, :end]
            )
            assert np.abs(got - want[:, :, start:end]).max() < 1e-12


def test_positions_per_row_that_are_equal_change_nothing():
    q, k, v = qkv()
    one = run(q, k, v, 10, 4)[0]
    two = run(q, k, v, 10, 4, positions=np.array([range(29)] * 2))[0]
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("Hkv", [1, 2, 3, 6])
def test_grouped_heads_are_repeated_heads(Hkv):
    q, k, v = qkv(Hkv=Hkv)
    out = run(q, k, v, 10, 4)[0]
    repeated = run(q, *(np.repeat(x, 6 // Hkv, axis=1) for x in (k, v)), 10, 4)[0]
    assert np.abs(out - repeated).max() < 1e-12


@pytest.mark.parametrize("block", [1, 2, 5, 7, 64])
@pytest.mark.parametrize("padding", [False, True])
def test_blocks_do_not_matter(block, padding):
    q, k, v = qkv()
    real = np.ones((2, 29), dtype=bool)
    real[0, : 7 * padding] = False
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    dout = np.random.default_rng(1).standard_normal(q.shape)
    want, cache = run(q, k, v, 10, 4, positions=positions, real=real, block=29)
    out, other = run(q, k, v, 10, 4, positions=positions, real=real, block=block)
    assert np.abs(out - want).max() < 1e-12
    for a, b in zip(
        dual_chunk_attention_backward(dout, other),
        dual_chunk_attention_backward(dout, cache),
        strict=True,
    ):
        assert np.abs(a - b).max() < 1e-12


def test_every_pair_is_multiplied_once_as_in_plain_attention():
    chunks = (np.arange(29)[None] // 6, np.arange(29)[None] // 6)
    for block in (1, 4, 64):
        blocks = list(row_blocks(chunks[0], block))
        assert [i for rows in blocks for i in range(29)[rows]] == list(range(29))
        for rows in blocks:
            pieces = list(key_pieces(chunks, rows, 1, 1, np.ones(1)))
            assert all(picked is None for _, _, picked in pieces)
            assert sorted(j for _, keys, _ in pieces for j in range(29)[keys]) == list(
                range(rows.stop)
            )


def test_with_padding_every_pair_is_picked_once():
    positions = np.stack([np.maximum(np.arange(29) - 7, 0), np.arange(29)])
    chunks = (positions // 6, positions // 6)
    twice = 0
    for rows in row_blocks(chunks[0], 4):
        count = np.zeros((2, rows.stop - rows.start, rows.stop), dtype=int)
        for b, keys, picked in key_pieces(chunks, rows, 1, 1, np.ones(1)):
            count[:, :, keys] += 1 if picked is None else picked
            twice += keys.stop - keys.start
            ahead = np.clip(chunks[0][:, rows, None] - chunks[1][:, None, keys], 0, 2)
            np.testing.assert_array_equal(ahead == b, True if picked is None else picked)
        twice -= rows.stop
        assert (count == 1).all()
    assert twice > 0  # the price of chunks that begin elsewhere in each row


def test_later_tokens_do_not_reach_earlier_ones():
    q, k, v = qkv()
    out = run(q, k, v, 10, 4)[0]
    k[:, :, 17:], v[:, :, 17:] = 100, -100
    np.testing.assert_array_equal(run(q, k, v, 10, 4)[0][:, :, :17], out[:, :, :17])


def test_every_key_so_far_is_seen():
    """One-hot values show the weight of each key: a causal mask between chunks would hide some."""
    q, k, _ = qkv(H=1, Hkv=1, T=10, S=10, B=1)
    v = np.eye(10)[None, None]  # (1, 1, S, Dh): Dh is 10 too
    weights = run(q, k, v, 5, 2)[0][0, 0]
    np.testing.assert_array_equal(weights > 0, np.tri(10, dtype=bool))
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_the_attention_factor_multiplies_scores_by_its_square():
    q, k, v = qkv()
    np.testing.assert_allclose(
        run(q, k, v, 10, 4, factor=1.2)[0], run(1.44 * q, k, v, 10, 4)[0], atol=1e-12
    )


def test_large_scores_do_not_overflow():
    q, k, v = (x.astype(np.float32) for x in qkv())
    tables = dual_chunk_tables(np.arange(29), np.arange(29), INV_FREQ.astype("f4"), 10, 4)
    out, cache = dual_chunk_attention_forward(1e4 * q, k, v, tables)
    assert np.isfinite(out).all()
    assert all(np.isfinite(g).all() for g in dual_chunk_attention_backward(out, cache))


def test_float16_is_turned_and_summed_in_float32():
    exact = qkv()
    halves = [x.astype(np.float16) for x in exact]
    tables = dual_chunk_tables(np.arange(29), np.arange(29), INV_FREQ.astype("f4"), 10, 4)
    out, cache = dual_chunk_attention_forward(*halves, tables)
    assert out.dtype == np.float16
    assert {a.dtype for a in (*cache.q, cache.k, cache.lse)} == {np.dtype("f4")}
    wide = dual_chunk_attention_forward(*(x.astype("f4") for x in halves), tables)[0]
    np.testing.assert_array_equal(out, wide.astype(np.float16))


def test_no_matrix_of_all_pairs_is_held():
    q, k, v = qkv(H=2, Hkv=1, T=1024, S=1024, B=1)
    tables = dual_chunk_tables(np.arange(1024), np.arange(1024), INV_FREQ, 200, 50)
    tracemalloc.start()
    _, cache = dual_chunk_attention_forward(q, k, v, tables)
    dual_chunk_attention_backward(np.ones_like(q), cache)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 1024 * 1024 * 8 / 3, peak  # one third of the probabilities alone


@pytest.mark.parametrize("kind", ["uint8", "int32", "int64", "uint64"])
def test_any_integers_count(kind):
    q, k, v = qkv()
    out = run(q, k, v, 10, 4, positions=np.arange(29).astype(kind))[0]
    np.testing.assert_array_equal(out, run(q, k, v, 10, 4)[0])


def test_positions_on_the_host_cost_no_synchronisation(monkeypatch):
    q, k, v = qkv()
    want, _ = run(q, k, v, 10, 4)
    install(monkeypatch)
    q, k, v, inv_freq = to_fake((q, k, v, INV_FREQ))
    for positions, waits in ((np.arange(29), 0), (to_fake(np.arange(29)), 2)):
        with count_syncs() as syncs:
            tables = dual_chunk_tables(positions, positions, inv_freq, 10, 4)
            turned = rope_forward(k, *tables.key)[0]
            out, cache = dual_chunk_attention_forward(q, turned, v, tables)
            dual_chunk_attention_backward(out, cache)
        assert sum(syncs.values()) == waits
        np.testing.assert_array_equal(from_fake(out), want)


def test_errors_of_positions():
    at = np.arange(7)
    with pytest.raises(ValueError, match=r"local_window must be in \[1, chunk_size=10\), got 10"):
        dual_chunk_positions(at, 10, 10)
    with pytest.raises(ValueError, match=r"local_window must be in \[1, chunk_size=10\), got 0"):
        dual_chunk_positions(at, 10, 0)
    with pytest.raises(ValueError, match="highest must be at least the chunk length 6, got 5"):
        dual_chunk_positions(at, 10, 4, highest=5)
    with pytest.raises(TypeError, match="positions must be integers, got dtype float64"):
        dual_chunk_positions(at * 1.0, 10, 4)
    with pytest.raises(ValueError, match=r"key_positions, shape \(7,\), must end in positions"):
        dual_chunk_tables(at[:3], at, INV_FREQ, 10, 4)
    with pytest.raises(ValueError, match=r"key_positions, shape \(2,\), must end in positions"):
        dual_chunk_tables(at, at[:2], INV_FREQ, 10, 4)
    with pytest.raises(ValueError, match="key_positions must not fall along a row"):
        dual_chunk_tables(at[::-1] % 5, at[::-1] % 5, INV_FREQ, 10, 4)
    with pytest.raises(TypeError, match="inv_freq must be float32 or float64"):
        dual_chunk_tables(at, at, INV_FREQ.astype("f2"), 10, 4)


def test_errors_of_the_attention():
    q, k, v = qkv()
    tables = dual_chunk_tables(np.arange(29), np.arange(29), INV_FREQ, 10, 4)
    short = dual_chunk_tables(np.arange(28), np.arange(28), INV_FREQ, 10, 4)
    with pytest.raises(ValueError, match=r"query_chunk must have shape \(T=29\), got \(28,\)"):
        dual_chunk_attention_forward(q, k, v, short)
    with pytest.raises(ValueError, match=r"key_chunk must have shape \(S=28\), got \(29,\)"):
        dual_chunk_attention_forward(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:], tables._replace(
            query_chunk=tables.query_chunk[1:]))  # fmt: skip
    with pytest.raises(ValueError, match="T=29 queries cannot be the last of S=28"):
        dual_chunk_attention_forward(q, k[:, :, 1:], v[:, :, 1:], tables)
    with pytest.raises(ValueError, match=r"v must have shape \(B=2, Hkv=3, S=29, Dh=10\)"):
        dual_chunk_attention_forward(q, k, v[..., :4], tables)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        dual_chunk_attention_forward(q, k, v, tables, block=0)
    with pytest.raises(TypeError, match="real must be boolean"):
        dual_chunk_attention_forward(q, k, v, tables, np.ones((2, 29)))
    with pytest.raises(TypeError, match="k must have the dtype of q, float64, got float32"):
        dual_chunk_attention_forward(q, k.astype("f4"), v, tables)
    with pytest.raises(ValueError, match=r"dout must have shape \(B=2, H=6, T=29, Dh=10\)"):
        dual_chunk_attention_backward(q[:, :1], dual_chunk_attention_forward(q, k, v, tables)[1])

"""Public bug reports about long context as tests; the numbers are those of the collection."""

import numpy as np
import pytest

from minqwen.layers.block_attention import block_attention_forward
from minqwen.layers.rope import rope_forward, rope_inv_freq, rope_tables
from minqwen.long_context.dual_chunk import (
    dual_chunk_attention_forward,
    dual_chunk_positions,
    dual_chunk_tables,
)
from minqwen.long_context.logn import logn_forward, logn_scale
from minqwen.long_context.ntk import dynamic_ntk_alpha, ntk_base, ntk_inv_freq
from minqwen.long_context.yarn import yarn_attention_factor, yarn_inv_freq, yarn_tables


def test_28_alpha_of_dynamic_ntk_at_a_trained_length_of_2048():
    lengths = (1, 2048, 2049, 4096, 4097, 8192)
    assert [dynamic_ntk_alpha(length, 2048) for length in lengths] == [1, 1, 3, 3, 7, 7]
    assert round(ntk_base(10000.0, 3.0, 128), 3) == 30527.737


@pytest.mark.parametrize("train_length", [16, 1000, 6144, 32768])
def test_28_neighbours_other_trained_lengths(train_length):
    """Also one that is not a power of two: the ratio counts."""
    L0 = train_length
    lengths = (L0 - 1, L0, L0 + 1, 2 * L0, 2 * L0 + 1, 4 * L0, 4 * L0 + 1, 8 * L0)
    assert [dynamic_ntk_alpha(n, L0) for n in lengths] == [1, 1, 3, 3, 7, 7, 15, 15]


@pytest.mark.parametrize("head_dim", [4, 64, 128])
def test_28_neighbours_the_base_of_other_head_dims(head_dim):
    base = ntk_base(10000.0, 3.0, head_dim)
    plain = rope_inv_freq(head_dim, 10000.0, "float64")
    moved = rope_inv_freq(head_dim, base, "float64")
    np.testing.assert_array_equal(moved, ntk_inv_freq(head_dim, alpha=3.0, dtype="float64"))
    assert moved[0] == plain[0]
    assert abs(3 * moved[-1] / plain[-1] - 1) < 1e-12


def test_29_logn_at_a_trained_length_of_2048():
    scale = logn_scale(np.array([2048, 4096, 8192]) - 1, 2048, "float64")  # 1-based positions
    np.testing.assert_allclose(scale, [1, 1.0909091, 1.1818182], atol=5e-8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 5)])
def test_29_neighbours_short_texts_batches_and_heads(shape):
    """Within the trained length nothing changes, not in the last bit."""
    q = np.random.default_rng(0).standard_normal((*shape, 7, 4))
    np.testing.assert_array_equal(logn_forward(q, logn_scale(np.arange(7), 7, "float64"))[0], q)
    longer = logn_forward(q, logn_scale(np.arange(7), 6, "float64"))[0]
    np.testing.assert_array_equal(longer[:, :, :6], q[:, :, :6])
    assert (longer[:, :, 6] != q[:, :, 6]).all()


def test_30_the_attention_factor_of_yarn():
    assert round(yarn_attention_factor(4.0), 7) == 1.1386294
    assert yarn_attention_factor(1.0) == 1
    inv_freq = yarn_inv_freq(128, 1e6, 4.0, 32768, dtype="float64")
    for factor in (yarn_attention_factor(4.0), 1.0):  # 1.0: the config's explicit attention_factor
        cos, sin = yarn_tables(np.array([0]), inv_freq, factor)
        assert (cos == factor).all()
        assert (sin == 0).all()


@pytest.mark.parametrize("factor", [1.5, 2.0, 8.0, 40.0])
def test_30_neighbours_other_factors_and_positions(factor):
    m = yarn_attention_factor(factor)
    assert abs(m - 1 - np.log(factor) / 10) < 1e-15
    inv_freq = yarn_inv_freq(64, 10000.0, factor, 2048, dtype="float64")
    x = np.random.default_rng(0).standard_normal((1, 1, 3, 64))
    positions = np.array([0, 1, 5000])
    longer, _ = rope_forward(x, *yarn_tables(positions, inv_freq, m))
    plain, _ = rope_forward(x, *rope_tables(positions, inv_freq))
    np.testing.assert_allclose(longer, m * plain, atol=1e-14)


def dual_chunk_and_plain(T, c, w, highest=None, heads=(4, 2)):
    """Attention of T random tokens: by dual chunks, and by RoPE as trained."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, h, T, 8)) for h in (heads[0], heads[1], heads[1]))
    at, inv_freq = np.arange(T), rope_inv_freq(8, dtype="float64")
    tables = dual_chunk_tables(at, at, inv_freq, c, w, highest)
    turned = rope_forward(k, *tables.key)[0]
    ours, _ = dual_chunk_attention_forward(q, turned, v, tables)
    cos, sin = rope_tables(at, inv_freq)
    q, k = rope_forward(q, cos, sin)[0], rope_forward(k, cos, sin)[0]
    return ours, block_attention_forward(q, k, v)[0]


def test_32_dual_chunks_up_to_one_chunk_and_with_three():
    ours, plain = dual_chunk_and_plain(T=12, c=16, w=4)  # a chunk has 12 tokens
    assert np.abs(ours - plain).max() < 1e-12
    ours, plain = dual_chunk_and_plain(T=36, c=16, w=4)  # three chunks
    changed = np.abs(ours - plain).max(axis=(0, 1, 3)) > 1e-12
    assert changed.tolist() == [i >= 16 for i in range(36)]
    at = dual_chunk_positions(np.arange(36), 16, 4)
    used = {
        int(query[i] - at.key[j])
        for i in range(36)
        for j in range(i + 1)
        for query in [(at.intra, at.succ, at.inter)[min(2, at.chunk[i] - at.chunk[j])]]
    }
    assert used == set(range(16))  # all that training has seen, and nothing else


@pytest.mark.parametrize("T", [1, 11, 12, 13, 15, 16, 17, 24, 25, 48])
@pytest.mark.parametrize("highest", [None, 16])
@pytest.mark.parametrize("heads", [(1, 1), (4, 1), (6, 2)])
def test_32_neighbours_chunk_borders_short_last_chunks_and_the_released_code(T, highest, heads):
    ours, plain = dual_chunk_and_plain(T, 16, 4, highest, heads)
    first = 16 if highest is None else 17
    changed = np.abs(ours - plain).max(axis=(0, 1, 3)) > 1e-12
    assert changed.tolist() == [i >= first for i in range(T)]

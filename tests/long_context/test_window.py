"""Windows: the mask against loops, the fast way against the mask, reach through layers, rules."""

import numpy as np
import pytest

from minqwen.layers.attention import attention_backward, attention_forward, causal_mask
from minqwen.layers.block_attention import block_attention_backward, block_attention_forward
from minqwen.long_context.window import ladder_windows, qwen2_windows, window_mask


@pytest.mark.parametrize("window", [1, 2, 3, 6, 7, 100])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (5, 5), (1, 7), (4, 7)])
def test_the_mask_one_pair_at_a_time(T, S, window):
    mask = window_mask(T, S, window)
    assert mask.shape == (T, S)
    assert mask.dtype == bool
    for t, s in np.ndindex(T, S):
        i = S - T + t  # the T queries are the last of S positions
        assert mask[t, s] == (i - window < s <= i)


def test_window_3_on_5_tokens_is_12_pairs():
    assert window_mask(5, 5, 3).sum() == 12
    assert np.flatnonzero(window_mask(8, 8, 3)[5]).tolist() == [3, 4, 5]


def test_every_query_sees_w_keys_or_all_there_are():
    assert window_mask(7, 7, 3).sum(axis=1).tolist() == [1, 2, 3, 3, 3, 3, 3]
    assert window_mask(2, 7, 3).sum(axis=1).tolist() == [3, 3]


@pytest.mark.parametrize("window", [7, 8, 1000])
def test_a_window_as_long_as_the_text_is_the_causal_mask(window):
    np.testing.assert_array_equal(window_mask(5, 7, window), causal_mask(5, 7))


@pytest.mark.parametrize("seed", range(20))
def test_the_mask_and_the_fast_way_agree(seed):
    rng = np.random.default_rng(seed)
    Hkv, G, T = (int(n) for n in rng.integers(1, (4, 4, 30)))
    S, window, block = T + int(rng.integers(0, 9)), *(int(n) for n in rng.integers(1, 20, 2))
    q, dout = rng.standard_normal((2, 2, Hkv * G, T, 5))
    k, v = rng.standard_normal((2, 2, Hkv, S, 5))
    out, cache = attention_forward(q, k, v, window_mask(T, S, window))
    fast, fast_cache = block_attention_forward(q, k, v, block=block, window=window)
    np.testing.assert_allclose(fast, out, rtol=0, atol=1e-12)
    grads = attention_backward(dout, cache), block_attention_backward(dout, fast_cache)
    for slow, ours in zip(*grads, strict=True):
        np.testing.assert_allclose(ours, slow, rtol=0, atol=1e-12)


@pytest.mark.parametrize("windows", [(3,), (3, 3, 3), (2, 3, 5), (1, 1), (5, 3, 2)])
def test_the_reach_of_a_stack_is_one_more_than_the_sum_of_the_steps(windows):
    """Attention after attention: which tokens can change the last output?"""
    rng, T = np.random.default_rng(0), 20
    x = rng.standard_normal((1, 1, T, 4))
    caches, y = [], x
    for window in windows:
        y, cache = block_attention_forward(y, y, y, window=window)
        caches.append(cache)
    dy = np.zeros_like(y)
    dy[:, :, -1] = rng.standard_normal(4)
    for cache in reversed(caches):
        dy = sum(block_attention_backward(dy, cache))
    reached = np.flatnonzero(np.abs(dy).max(axis=(0, 1, 3)))
    reach = 1 + sum(window - 1 for window in windows)
    assert reached.tolist() == list(range(T - reach, T))


def test_only_upper_layers_slide_in_transformers_rule():
    assert qwen2_windows(4, True, 7, 2) == (None, None, 7, 7)
    assert qwen2_windows(4, True, 7, 0) == (7,) * 4
    assert qwen2_windows(4, True, 7, 28) == (None,) * 4  # the default of a small model: none
    assert qwen2_windows(4, False, 7, 0) == (None,) * 4  # every released Qwen2
    assert qwen2_windows(4, True, None, 0) == (None,) * 4


def test_layer_types_win():
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    assert qwen2_windows(3, True, 7, 3, types) == (7, None, 7)
    assert qwen2_windows(3, False, None, 0, ["full_attention"] * 3) == (None,) * 3


def test_the_ladder_is_shorter_below():
    windows = ladder_windows(24, 2048, 4)
    assert windows[:9] == (2048,) * 4 + (4096,) * 4 + (8192,)
    assert list(windows) == sorted(windows)
    assert ladder_windows(3, 5, 1) == (5, 10, 20)


def test_errors():
    with pytest.raises(ValueError, match="window must be at least 1, a token sees itself, got 0"):
        window_mask(3, 3, 0)
    with pytest.raises(ValueError, match="layer_types must have L=3 entries"):
        qwen2_windows(3, True, 7, 0, ["full_attention"])
    with pytest.raises(ValueError, match="layer_types: chunked_attention is not known"):
        qwen2_windows(1, True, 7, 0, ["chunked_attention"])
    with pytest.raises(ValueError, match="layer_types has sliding_attention, but sliding_window"):
        qwen2_windows(1, False, 7, 0, ["sliding_attention"])
    with pytest.raises(ValueError, match="must be at least 1, got 0, 2"):
        ladder_windows(3, 0, 2)
    with pytest.raises(ValueError, match="must be at least 1, got 2, 0"):
        ladder_windows(3, 2, 0)

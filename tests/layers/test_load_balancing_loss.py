"""The load-balancing loss: both conventions, uniform and collapsed, padding, gradient, errors."""

import numpy as np
import pytest
from helpers import references

from minqwen.check.gradients import check_gradients
from minqwen.layers.load_balancing_loss import (
    load_balancing_loss_backward,
    load_balancing_loss_forward,
)

BOTH = pytest.mark.parametrize("f_sums_to_k", [False, True])


def top(logits, K):
    """Return the K largest of each row."""
    return np.argsort(-logits, axis=-1, kind="stable")[:, :K]


@pytest.fixture
def logits():
    return np.random.default_rng(0).standard_normal((11, 7))


@pytest.fixture
def real():
    return ~np.isin(np.arange(11), (0, 4, 5))


@BOTH
@pytest.mark.parametrize("K", [1, 2, 7])
@pytest.mark.parametrize("padding", [False, True])
def test_matches_the_equation(logits, real, K, padding, f_sums_to_k):
    case = (logits, top(logits, K), real if padding else None)
    loss, _ = load_balancing_loss_forward(*case, f_sums_to_k=f_sums_to_k)
    assert abs(loss - references.load_balancing_loss(*case, f_sums_to_k)) < 1e-14


@pytest.mark.parametrize(("E", "K"), [(4, 2), (7, 3), (64, 8), (5, 1), (3, 3), (1, 1)])
def test_uniform_routing_gives_one_or_k(E, K):
    logits, ids = np.zeros((E, E)), (np.arange(E)[:, None] + np.arange(K)) % E
    assert abs(load_balancing_loss_forward(logits, ids)[0] - 1) < 1e-14
    assert abs(load_balancing_loss_forward(logits, ids, f_sums_to_k=True)[0] - K) < 1e-13


@pytest.mark.parametrize("K", [1, 2, 3])
def test_all_on_one_expert_gives_e_or_its_kth_part(K):
    """P is 1 for one expert: E is the most there can be, for f is at most 1 and P sums to 1."""
    logits = np.tile([0.0, 0.0, 1e4, 0.0, 0.0], (6, 1))
    ids = top(logits, K)
    assert load_balancing_loss_forward(logits, ids, f_sums_to_k=True)[0] == 5
    assert abs(load_balancing_loss_forward(logits, ids)[0] - 5 / K) < 1e-15


def test_the_conventions_are_a_factor_k_apart(logits, real):
    for K in (1, 2, 5):
        case = (logits, top(logits, K), real)
        (one, a), (k, b) = (
            load_balancing_loss_forward(*case, f_sums_to_k=choice) for choice in (False, True)
        )
        assert abs(K * one - k) < 1e-14
        ours = K * load_balancing_loss_backward(0.7, a)
        assert np.abs(ours - load_balancing_loss_backward(0.7, b)).max() < 1e-15
        assert abs(a.f.sum() - 1) < 1e-15
        assert abs(b.f.sum() - K) < 1e-14


def test_the_uniform_value_is_not_the_least():
    """Two tokens choose expert 0 by a hair, the third expert 1 for sure: f (2, 1)/3, P (1, 2)/3."""
    logits = np.array([[1e-6, 0.0], [1e-6, 0.0], [0.0, 1e4]])
    loss, _ = load_balancing_loss_forward(logits, top(logits, 1))
    assert abs(loss - 2 * (2 / 3 * 1 / 3 + 1 / 3 * 2 / 3)) < 1e-6
    assert loss < 1


@BOTH
def test_all_experts_chosen_makes_a_constant(logits, f_sums_to_k):
    """f is the same for all, P sums to 1: nothing to push."""
    loss, cache = load_balancing_loss_forward(logits, top(logits, 7), f_sums_to_k=f_sums_to_k)
    assert abs(loss - (7 if f_sums_to_k else 1)) < 1e-14
    assert np.abs(load_balancing_loss_backward(1.0, cache)).max() < 1e-15


@BOTH
def test_padding_changes_nothing_and_gets_nothing(logits, real, f_sums_to_k):
    ids = top(logits, 2)
    want, want_cache = load_balancing_loss_forward(logits[real], ids[real], f_sums_to_k=f_sums_to_k)
    for filling in (0.0, 1e4, np.nan):
        padded = np.where(real[:, None], logits, filling)
        loss, cache = load_balancing_loss_forward(padded, ids, real, f_sums_to_k=f_sums_to_k)
        assert abs(loss - want) < 1e-15
        dlogits = load_balancing_loss_backward(0.7, cache)
        assert not dlogits[~real].any()
        want_dlogits = load_balancing_loss_backward(0.7, want_cache)
        assert np.abs(dlogits[real] - want_dlogits).max() < 1e-16


def test_all_real_is_none(logits):
    ids = top(logits, 2)
    none, _ = load_balancing_loss_forward(logits, ids)
    assert load_balancing_loss_forward(logits, ids, np.ones(11, dtype=bool))[0] == none


@BOTH
def test_no_token_and_all_padding_give_zero(logits, f_sums_to_k):
    ids = top(logits, 2)
    for case in (
        (logits[:0], ids[:0], None),
        (logits[:0], ids[:0], np.ones(0, dtype=bool)),
        (logits, ids, np.zeros(11, dtype=bool)),
    ):
        loss, cache = load_balancing_loss_forward(*case, f_sums_to_k=f_sums_to_k)
        assert loss == 0
        dlogits = load_balancing_loss_backward(1.0, cache)
        assert dlogits.shape == case[0].shape
        assert not dlogits.any()


def test_one_expert_gives_one_and_no_gradient():
    logits = np.array([[3.0], [-2.0]])
    loss, cache = load_balancing_loss_forward(logits, np.zeros((2, 1), dtype=int))
    assert loss == 1
    assert not load_balancing_loss_backward(1.0, cache).any()


@BOTH
def test_gradients_with_choices_that_the_router_made(logits, real, f_sums_to_k):
    """The choice is made again at every step of the difference, and stays what it was."""

    def forward(logits):
        return load_balancing_loss_forward(logits, top(logits, 3), real, f_sums_to_k=f_sums_to_k)

    ranked = np.sort(logits, axis=-1)
    assert (ranked[:, -3] - ranked[:, -4]).min() > 1e-3
    check_gradients(forward, load_balancing_loss_backward, logits)


def test_gradient_pushes_unchosen_experts_too(logits):
    ids = top(logits[:, :6], 2)  # nobody chooses the last
    _, cache = load_balancing_loss_forward(logits, ids)
    dlogits = load_balancing_loss_backward(1.0, cache)
    assert cache.f[6] == 0
    assert (dlogits[:, 6] < 0).all()  # a step down the gradient makes it likelier
    chosen = (ids[:, :, None] == np.arange(7)).any(axis=1)
    assert (np.abs(dlogits[~chosen]) > 1e-6).all()
    busiest = int(np.argmax(cache.f))
    assert (dlogits[:, busiest] > 0).all()
    assert np.abs(dlogits.sum(axis=-1)).max() < 1e-16


def test_gradient_scales_with_dloss(logits):
    _, cache = load_balancing_loss_forward(logits, top(logits, 2))
    once = load_balancing_loss_backward(1.0, cache)
    for two in (2, 2.0, np.float32(2), np.array(2.0)):
        np.testing.assert_array_equal(load_balancing_loss_backward(two, cache), 2 * once)


def test_layers_pooled_hide_what_each_layer_shows():
    """Four layers of E = 8, K = 2, each collapsed on a pair of its own: 2.0 pooled, 8.0 each."""
    layers = []
    for i in range(4):
        logits = np.zeros((5, 8))
        logits[:, 2 * i : 2 * i + 2] = 1e3
        layers.append(logits)
    each = [load_balancing_loss_forward(z, top(z, 2), f_sums_to_k=True)[0] for z in layers]
    pool = np.concatenate(layers)
    assert each == [8, 8, 8, 8]
    assert load_balancing_loss_forward(pool, top(pool, 2), f_sums_to_k=True)[0] == 2


@BOTH
def test_dtypes(logits, real, f_sums_to_k):
    ids = top(logits, 2)
    for dtype, wide in ((np.float16, "f4"), (np.float32, "f4"), (np.float64, "f8")):
        case = (logits.astype(dtype), ids.astype(np.int32), real)
        loss, cache = load_balancing_loss_forward(*case, f_sums_to_k=f_sums_to_k)
        assert loss.dtype == cache.f.dtype == cache.probs.dtype == wide
        assert load_balancing_loss_backward(1.0, cache).dtype == dtype
        assert load_balancing_loss_backward(np.float64(1), cache).dtype == dtype


def test_many_tokens_in_float32_stay_close_to_float64():
    logits = np.random.default_rng(0).standard_normal((20_000, 60)).astype(np.float32)
    ids = top(logits, 4)
    loss, cache = load_balancing_loss_forward(logits, ids)
    want, want_cache = load_balancing_loss_forward(logits.astype(np.float64), ids)
    assert abs(loss / want - 1) < 1e-5
    error = load_balancing_loss_backward(1, cache) - load_balancing_loss_backward(1, want_cache)
    assert np.abs(error).max() < 1e-5 * np.abs(load_balancing_loss_backward(1, want_cache)).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_do_not_overflow(dtype):
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], dtype)
    loss, cache = load_balancing_loss_forward(logits, top(logits, 1))
    assert abs(loss - 3 * (0.5 * 0.5 + 0.5 * 0.25)) < 1e-6
    assert np.isfinite(load_balancing_loss_backward(1.0, cache)).all()


def test_errors(logits):
    ids = top(logits, 2)
    with pytest.raises(
        ValueError, match=r"expert_ids must have shape \(N=11, K=2\), got \(10, 2\)"
    ):
        load_balancing_loss_forward(logits, ids[:10])
    with pytest.raises(ValueError, match=r"expert_ids must have axes \(N, K\), got shape \(11,\)"):
        load_balancing_loss_forward(logits, ids[:, 0])
    with pytest.raises(ValueError, match=r"router_logits must have axes \(N, E\), got shape"):
        load_balancing_loss_forward(logits[None], ids)
    with pytest.raises(ValueError, match=r"expert_ids must be in \[0, E=7\), got values from .* 7"):
        load_balancing_loss_forward(logits, np.where(ids == 6, 7, ids))
    with pytest.raises(ValueError, match=r"expert_ids must be in \[0, E=7\), got values from -1"):
        load_balancing_loss_forward(logits, np.where(ids == 0, -1, ids))
    with pytest.raises(TypeError, match="expert_ids must be an integer array, got dtype float64"):
        load_balancing_loss_forward(logits, ids.astype(float))
    with pytest.raises(TypeError, match="router_logits must be a floating-point array, got dtype"):
        load_balancing_loss_forward(ids, ids)
    with pytest.raises(ValueError, match=r"real must have shape \(N=11\), got \(1, 11\)"):
        load_balancing_loss_forward(logits, ids, np.ones((1, 11), dtype=bool))
    with pytest.raises(TypeError, match=r"real must be boolean \(True = a real token\), got dtype"):
        load_balancing_loss_forward(logits, ids, np.ones(11))
    with pytest.raises(TypeError, match="positional"):
        load_balancing_loss_forward(logits, ids, None, True)

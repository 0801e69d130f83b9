"""The router: equation, ties, gradient with and without renormalising, edges, errors."""

import numpy as np
import pytest
from helpers import references
from helpers.fake_device import count_syncs, from_fake, install, to_fake

from minqwen.check.gradients import check_gradients
from minqwen.check.rows_moe import spread_logits, spread_tokens
from minqwen.layers.load_balancing_loss import (
    load_balancing_loss_backward,
    load_balancing_loss_forward,
)
from minqwen.layers.moe_router import moe_router_backward, moe_router_forward, softmax
from minqwen.layers.router_z_loss import router_z_loss_backward, router_z_loss_forward

NORMS = pytest.mark.parametrize("norm", [False, True], ids=["as they are", "divided"])


def route(logits, K, norm=False):
    """Route tokens with these logits: with x = 1, w^T is the logits, and dw^T their gradient."""
    return moe_router_forward(np.eye(len(logits), dtype=logits.dtype), logits.T.copy(), K, norm)


def dlogits(dweights, cache, drouter_logits=None):
    """Return the gradient of such logits."""
    return moe_router_backward(dweights, cache, drouter_logits)[1].T


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@NORMS
@pytest.mark.parametrize("K", [1, 2, 6, 7])
def test_matches_the_equation_one_number_at_a_time(rng, K, norm):
    x, w = rng.standard_normal((11, 5)), rng.standard_normal((7, 5))
    weights, ids, cache = moe_router_forward(x, w, K, norm)
    want, want_ids = references.routed(x, w, K, norm)
    np.testing.assert_array_equal(ids, want_ids)
    assert np.abs(weights - want).max() < 1e-14
    np.testing.assert_array_equal(cache.expert_ids, ids)
    assert np.abs(cache.router_logits - references.linear(x, w)).max() < 1e-14


@pytest.mark.parametrize(
    ("norm", "want"), [(False, [0.643914, 0.236883]), (True, [0.731059, 0.268941])]
)
def test_by_hand(norm, want):
    weights, ids, _ = route(np.array([[2.0, 1.0, 0.0, -1.0]]), 2, norm)
    assert ids.tolist() == [[0, 1]]
    assert np.abs(weights - want).max() < 5e-7


@pytest.mark.parametrize("E", [2, 7, 64])
def test_a_uniform_router_gives_k_over_e_or_one(E):
    for K in {1, E // 2, E}:
        weights, ids, _ = route(np.zeros((3, E)), K)
        assert ids.tolist() == [list(range(K))] * 3
        np.testing.assert_array_equal(weights, 1 / E)
        assert np.abs(route(np.zeros((3, E)), K, norm=True)[0] - 1 / K).max() < 1e-15


@NORMS
def test_numbering_the_experts_otherwise_changes_only_the_ids(rng, norm):
    logits, order = spread_logits(rng, 5, 7), rng.permutation(7)
    weights, ids, _ = route(logits, 3, norm)
    again, other_ids, _ = route(logits[:, order], 3, norm)
    np.testing.assert_array_equal(order[other_ids], ids)
    np.testing.assert_allclose(again, weights, rtol=1e-14)


def half_types():
    """Float16 and, where the package that brings it is there, bfloat16."""
    types = [np.float16]
    try:
        import ml_dtypes
    except ImportError:
        return types
    return [*types, ml_dtypes.bfloat16]


@NORMS
@pytest.mark.parametrize("dtype", [*half_types(), np.float32, np.float64], ids=lambda t: t.__name__)
def test_of_equals_the_lower_number_goes_first(dtype, norm):
    logits = np.array([[1, 3, 3, 1, 3], [0, 0, 0, 0, 0], [2, 0, 2, 2, 4]], dtype)
    weights, ids, _ = route(logits, 4, norm)
    assert ids.tolist() == [[1, 2, 4, 0], [0, 1, 2, 3], [4, 0, 2, 3]]
    assert weights.dtype == dtype
    assert (weights[0, :3] == weights[0, 0]).all()
    assert (weights[1] == weights[1, 0]).all()
    many = np.tile(np.arange(300) % 3, (2, 1)).astype(dtype)  # enough for a sort that mixes equals
    assert (route(many, 100)[1] == 3 * np.arange(100) + 2).all()


def test_numbers_that_become_equal_in_half_precision_are_a_tie_too():
    logits = np.array([[1.0, 1.0001, 0.5]], np.float16)
    assert route(logits, 1)[1].tolist() == [[0]]
    assert route(logits.astype(np.float64) + [[0, 1e-4, 0]], 1)[1].tolist() == [[1]]


def test_tokens_do_not_know_of_each_other(rng):
    x, w = spread_tokens(rng, 5, 11, 7)
    weights, ids, _ = moe_router_forward(x, w, 3)
    for n in range(5):
        alone, alone_ids, _ = moe_router_forward(x[n : n + 1], w, 3)
        assert alone_ids.tolist() == ids[n : n + 1].tolist()
        assert np.abs(alone - weights[n]).max() < 1e-15


def test_divided_weights_are_the_softmax_over_the_chosen_logits(rng):
    logits, dweights = spread_logits(rng, 5, 7), rng.standard_normal((5, 3))
    weights, ids, cache = route(logits, 3, norm=True)
    q, _ = softmax(np.take_along_axis(logits, ids, axis=-1))
    assert np.abs(weights - q).max() < 1e-15
    want = np.zeros_like(logits)
    dz = q * (dweights - (q * dweights).sum(axis=-1, keepdims=True))
    np.put_along_axis(want, ids, dz, axis=-1)
    assert np.abs(dlogits(dweights, cache) - want).max() < 1e-15


def chosen(ids, E):
    """Return which experts each token chose, (N, E) bool."""
    return (ids[:, :, None] == np.arange(E)).any(axis=1)


def test_unchosen_logits_get_exactly_nothing_when_the_weights_are_divided(rng):
    logits = rng.standard_normal((11, 7))
    _, ids, cache = route(logits, 3, norm=True)
    dz = dlogits(rng.standard_normal((11, 3)), cache)
    assert (dz[~chosen(ids, 7)] == 0).all()
    assert (dz[chosen(ids, 7)] != 0).all()


def test_unchosen_logits_get_minus_p_m_when_they_are_not(rng):
    logits, dweights = rng.standard_normal((11, 7)), rng.standard_normal((11, 3))
    weights, ids, cache = route(logits, 3)
    dz, out = dlogits(dweights, cache), ~chosen(ids, 7)
    m = (weights * dweights).sum(axis=-1, keepdims=True)
    assert np.abs(dz[out] - (-softmax(logits)[0] * m)[out]).max() < 1e-16
    assert (dz != 0).all()


@NORMS
def test_gradient_of_each_token_sums_to_zero(rng, norm):
    """Adding a number to all logits of a token changes nothing."""
    _, _, cache = route(rng.standard_normal((11, 7)), 3, norm)
    assert np.abs(dlogits(rng.standard_normal((11, 3)), cache).sum(axis=-1)).max() < 1e-15


def test_the_general_formula_gives_the_same(rng):
    """The docstring's derivation, step by step: dq to dp, dp through the softmax over all."""
    logits, dq = rng.standard_normal((11, 7)), rng.standard_normal((11, 3))
    p, _ = softmax(logits)
    for norm in (False, True):
        q, ids, cache = route(logits, 3, norm)
        dchosen = dq
        if norm:
            S = np.take_along_axis(p, ids, axis=-1).sum(axis=-1, keepdims=True)
            dchosen = (dq - (q * dq).sum(axis=-1, keepdims=True)) / S
        dp = np.zeros_like(p)
        np.put_along_axis(dp, ids, dchosen, axis=-1)
        want = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
        assert np.abs(dlogits(dq, cache) - want).max() < 1e-15


@NORMS
@pytest.mark.parametrize("side", [-1, 1])
def test_the_gradient_holds_on_both_sides_of_a_jump(rng, norm, side):
    """Experts 2 and 5 are all but equal, and second or third: the choice changes with `side`."""
    logits = np.array([[0.3, -1.0, 1.0, 2.0, -0.5, 1.0 + side * 0.01, 0.0]])
    ids = route(logits, 2, norm)[1]
    assert ids.tolist() == [[3, 5 if side > 0 else 2]]

    def forward(logits):
        weights, _, cache = route(logits, 2, norm)
        return weights, cache

    check_gradients(forward, dlogits, logits)


@NORMS
@pytest.mark.parametrize("f_sums_to_k", [False, True])
def test_gradient_of_weights_and_losses_together(rng, norm, f_sums_to_k):
    x, w = spread_tokens(rng, 5, 11, 7)
    real = np.array([True, False, True, True, False])

    def forward(x, w):
        weights, ids, cache = moe_router_forward(x, w, 3, norm)
        balance, balance_cache = load_balancing_loss_forward(
            cache.router_logits, ids, real, f_sums_to_k=f_sums_to_k
        )
        z, z_cache = router_z_loss_forward(cache.router_logits, real)
        return np.array([*weights.ravel(), balance, z]), (cache, balance_cache, z_cache)

    def backward(dy, caches):
        cache, balance_cache, z_cache = caches
        dlogits = load_balancing_loss_backward(dy[-2], balance_cache)
        dlogits = dlogits + router_z_loss_backward(dy[-1], z_cache)
        return moe_router_backward(dy[:-2].reshape(5, 3), cache, dlogits)

    check_gradients(forward, backward, x, w)


@NORMS
def test_no_token(norm):
    weights, ids, cache = moe_router_forward(np.ones((0, 5)), np.ones((7, 5)), 3, norm)
    assert weights.shape == ids.shape == (0, 3)
    assert ids.dtype.kind == "i"
    dx, dw = moe_router_backward(weights, cache, np.ones((0, 7)))
    assert dx.shape == (0, 5)
    assert dw.shape == (7, 5)
    assert not dw.any()


@NORMS
def test_one_expert_gets_everything_and_the_router_nothing(rng, norm):
    logits = rng.standard_normal((5, 1))
    weights, ids, cache = route(logits, 1, norm)
    assert (weights == 1).all()
    assert (ids == 0).all()
    assert not dlogits(rng.standard_normal((5, 1)), cache).any()


def test_all_experts_chosen_is_the_softmax_sorted(rng):
    logits, dweights = rng.standard_normal((5, 7)), rng.standard_normal((5, 7))
    outs = [route(logits, 7, norm) for norm in (False, True)]
    for weights, ids, _ in outs:
        assert (np.sort(ids, axis=-1) == np.arange(7)).all()
        assert (np.diff(weights, axis=-1) <= 0).all()
        assert np.abs(weights.sum(axis=-1) - 1).max() < 1e-15
    plain, divided = (dlogits(dweights, cache) for *_, cache in outs)
    assert np.abs(plain - divided).max() < 1e-15


@NORMS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_do_not_overflow(rng, dtype, norm):
    logits = np.array([[1e4, -1e4, 0, 1e4], [-1e4, -1e4, -1e4, -1e4]], dtype)
    weights, ids, cache = route(logits, 2, norm)
    assert ids.tolist() == [[0, 3], [0, 1]]
    assert np.abs(weights - [[0.5, 0.5], [0.5, 0.5] if norm else [0.25, 0.25]]).max() < 1e-7
    assert np.isfinite(dlogits(np.ones((2, 2), dtype), cache)).all()


@NORMS
def test_weights_that_underflow_leave_no_nan(norm):
    weights, ids, cache = route(np.array([[0.0, -1e4, 1e4, -2e4]]), 3, norm)
    assert ids.tolist() == [[2, 0, 1]]  # all but one are 0: a tie
    assert weights.tolist() == [[1, 0, 0]]
    assert np.isfinite(dlogits(np.ones((1, 3)), cache)).all()


@pytest.mark.parametrize("dtype", [*half_types(), np.float32, np.float64], ids=lambda t: t.__name__)
def test_dtypes(rng, dtype):
    x, w = (a.astype(dtype) for a in spread_tokens(rng, 5, 11, 7))
    weights, ids, cache = moe_router_forward(x, w, 3)
    assert weights.dtype == cache.router_logits.dtype == dtype
    assert ids.dtype == np.int64
    wide = np.float64 if dtype == np.float64 else np.float32
    assert cache.router_probs.dtype == cache.weights.dtype == wide
    assert np.abs(cache.router_probs.sum(axis=-1) - 1).max() < 1e-6
    grads = moe_router_backward(weights, cache, cache.router_logits)
    assert all(g.dtype == dtype for g in grads)


def test_runs_on_the_device_without_waiting_for_it(rng, monkeypatch):
    x, w = spread_tokens(rng, 5, 11, 7)
    real = np.array([True, False, True, True, False])

    def run(x, w, real):
        weights, ids, cache = moe_router_forward(x, w, 3)
        z = cache.router_logits
        balance, balance_cache = load_balancing_loss_forward(z, ids, real)
        zloss, z_cache = router_z_loss_forward(z, real)
        dz = load_balancing_loss_backward(0.5, balance_cache) + router_z_loss_backward(2, z_cache)
        return weights, ids, balance, zloss, *moe_router_backward(weights, cache, dz)

    want = run(x, w, real)
    install(monkeypatch)
    with count_syncs() as syncs:
        got = run(*to_fake((x, w, real)))
    assert not syncs
    for ours, device in zip(want, got, strict=True):
        np.testing.assert_array_equal(from_fake(device), ours)


@pytest.mark.parametrize("K", [-1, 0, 8])
def test_a_wrong_number_of_experts_is_named(K):
    with pytest.raises(ValueError, match=rf"num_experts_per_tok must be in \[1, E=7\], got {K}"):
        moe_router_forward(np.ones((2, 5)), np.ones((7, 5)), K)


def test_errors():
    x, w = np.ones((2, 5)), np.ones((7, 5))
    with pytest.raises(ValueError, match=r"x must have axes \(N, D\), got shape \(1, 2, 5\)"):
        moe_router_forward(x[None], w, 2)
    with pytest.raises(ValueError, match=r"w must have axes \(E, D\), got shape \(5,\)"):
        moe_router_forward(x, w[0], 2)
    with pytest.raises(ValueError, match=r"x must have shape \(N=2, D=4\), got \(2, 5\)"):
        moe_router_forward(x, w[:, :4], 2)
    with pytest.raises(TypeError, match="w must have the dtype of x, float64, got float32"):
        moe_router_forward(x, w.astype(np.float32), 2)
    with pytest.raises(TypeError, match="x must be a floating-point array, got dtype int64"):
        moe_router_forward(x.astype(np.int64), w, 2)
    with pytest.raises(TypeError, match="x must be an array, got list"):
        moe_router_forward([[1.0]], w, 2)
    _, _, cache = moe_router_forward(x, w, 2)
    with pytest.raises(ValueError, match=r"dexpert_weights must have shape \(N=2, K=2\), got"):
        moe_router_backward(np.ones((2, 3)), cache)
    with pytest.raises(ValueError, match=r"drouter_logits must have shape \(N=2, E=7\), got"):
        moe_router_backward(np.ones((2, 2)), cache, np.ones((7, 2)))

"""The whole layer: the dense case, batches, order, isolation, losses on the router, errors."""

import numpy as np
import pytest
from helpers import references

from minqwen.check.gradients import check_gradients
from minqwen.check.rows_moe import spread_tokens
from minqwen.layers.moe import moe_backward, moe_forward
from minqwen.layers.moe_router import moe_router_forward
from minqwen.layers.shared_expert import shared_expert_backward, shared_expert_forward
from minqwen.layers.swiglu import swiglu_backward, swiglu_forward


def layer(N, E, D, Fe=3, seed=0):
    """x, w_router, w_gate_up, w_down; with a clear margin between the experts if D >= E."""
    own = np.random.default_rng([seed, N, E, D])
    if D >= E:
        x, w_router = spread_tokens(own, N, D, E)
    else:
        x, w_router = own.standard_normal((N, D)), own.standard_normal((E, D))
    return x, w_router, own.standard_normal((E, 2 * Fe, D)), own.standard_normal((E, D, Fe))


def shared_of(D, Fs=11):
    own = np.random.default_rng(D)
    return tuple(own.standard_normal(shape) for shape in ((Fs, D), (Fs, D), (D, Fs), (1, D)))


def run(inputs, dy, *args, drouter_logits=None):
    """y and all gradients in one tuple."""
    y, cache = moe_forward(*inputs, *args)
    *grads, dshared = moe_backward(dy, cache, drouter_logits)
    return y, *grads, *(dshared or ())


def upstream(x):
    return np.random.default_rng(1).standard_normal(x.shape)


@pytest.mark.parametrize("norm", [False, True])
def test_one_expert_is_the_dense_layer_and_its_router_learns_nothing(norm):
    """The softmax over one expert is 1, divided by the sum or not."""
    x, _, w_gate_up, w_down = inputs = layer(13, 1, 5)
    dy = upstream(x)
    y, dx, dw_router, dw_gate_up, dw_down = run(inputs, dy, 1, norm)
    dense, cache = swiglu_forward(x, w_gate_up[0, :3], w_gate_up[0, 3:], w_down[0])
    dense_dx, dw_gate, dw_up, dw = swiglu_backward(dy, cache)
    np.testing.assert_array_equal(y, dense)
    assert (dw_router == 0).all()
    np.testing.assert_array_equal(dx, dense_dx)
    np.testing.assert_array_equal(dw_gate_up[0], np.concatenate((dw_gate, dw_up)))
    np.testing.assert_array_equal(dw_down[0], dw)


def test_one_choice_divided_by_the_sum_has_weight_one_and_its_router_learns_nothing():
    x, w_router, w_gate_up, w_down = inputs = layer(13, 5, 7)
    y, _, dw_router, *_ = run(inputs, upstream(x), 1, True)
    assert (dw_router == 0).all()
    best = (x @ w_router.T).argmax(1)
    for n, e in enumerate(best):
        want, _ = swiglu_forward(x[n], w_gate_up[e, :3], w_gate_up[e, 3:], w_down[e])
        np.testing.assert_allclose(y[n], want, rtol=1e-12)
    assert (run(inputs, upstream(x), 1, False)[2] != 0).all()


@pytest.mark.parametrize("norm", [False, True])
def test_64_experts_of_which_8_are_chosen(norm):
    inputs = layer(17, 64, 5)
    y, cache = moe_forward(*inputs, 8, norm, shared_of(5))
    want = references.moe(*inputs, 8, norm, *shared_of(5))
    np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-13)
    assert cache.router.expert_ids.shape == (17, 8)


@pytest.mark.parametrize("norm", [False, True])
def test_all_experts_chosen_is_a_dense_mixture(norm):
    """Then the weights are the whole softmax, and dividing by the sum changes nothing."""
    x, w_router, w_gate_up, w_down = inputs = layer(13, 5, 7)
    logits = x @ w_router.T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    want = sum(
        p[:, e : e + 1] * swiglu_forward(x, *np.split(w_gate_up[e], 2), w_down[e])[0]
        for e in range(5)
    )
    np.testing.assert_allclose(moe_forward(*inputs, 5, norm)[0], want, rtol=1e-11, atol=1e-13)
    check_gradients(
        lambda *arrays: moe_forward(*arrays, 5, norm),
        lambda dy, cache: moe_backward(dy, cache)[:4],
        *inputs,
    )


def test_the_shared_expert_is_added_in_value_and_in_every_gradient():
    x, *_ = inputs = layer(13, 5, 7)
    shared, dy = shared_of(7), upstream(x)
    y, dx, *dw = run(inputs, dy, 2, False, shared)
    alone, alone_dx, *alone_dw = run(inputs, dy, 2, False)
    s, cache = shared_expert_forward(x, *shared)
    ds_x, *ds = shared_expert_backward(dy, cache)
    np.testing.assert_allclose(y, alone + s, rtol=1e-13)
    np.testing.assert_allclose(dx, alone_dx + ds_x, rtol=1e-13)
    for ours, want in zip(dw, (*alone_dw, *ds), strict=True):
        np.testing.assert_array_equal(ours, want)
    y, cache = moe_forward(*inputs, 2)
    assert cache.shared is None
    assert moe_backward(dy, cache)[4] is None


def test_the_shared_expert_is_halved_by_a_gate_of_zeros():
    x, *_ = inputs = layer(13, 5, 7)
    *network, w_shared_gate = shared_of(7)
    half = moe_forward(*inputs, 2, shared=(*network, 0 * w_shared_gate))[0]
    none = moe_forward(*inputs, 2)[0]
    np.testing.assert_allclose(half - none, swiglu_forward(x, *network)[0] / 2, rtol=1e-11)


@pytest.mark.parametrize("norm", [False, True])
def test_losses_on_the_router_reach_x_and_the_router(norm):
    """The gradient of sum(y dy) + sum(router_logits c), with the logits as more results."""
    inputs = layer(13, 5, 7)

    def forward(*arrays):
        y, cache = moe_forward(*arrays[:4], 2, norm, arrays[4:])
        return np.concatenate((y.ravel(), cache.router.router_logits.ravel())), cache

    def backward(d, cache):
        dy, dlogits = d[: 13 * 7].reshape(13, 7), d[13 * 7 :].reshape(13, 5)
        *grads, dshared = moe_backward(dy, cache, dlogits)
        return *grads, *dshared

    check_gradients(forward, backward, *inputs, *shared_of(7))


def test_losses_on_the_router_alone_leave_the_experts_untouched():
    x, w_router, *_ = inputs = layer(13, 5, 7)
    c = np.random.default_rng(2).standard_normal((13, 5))
    _, dx, dw_router, *dw = run(inputs, 0 * x, 2, False, shared_of(7), drouter_logits=c)
    np.testing.assert_allclose(dx, c @ w_router, rtol=1e-12)
    np.testing.assert_allclose(dw_router, c.T @ x, rtol=1e-12)
    assert all(not grad.any() for grad in dw)


@pytest.mark.parametrize("shape", [(2, 3, 7), (6, 1, 7), (1, 1, 7), (7,), (2, 0, 7), (0, 7)])
def test_any_leading_axes(shape):
    x, *weights = layer(6, 5, 7)
    x = x[: int(np.prod(shape[:-1]))]
    flat = run((x, *weights), upstream(x), 2, False, shared_of(7))
    shaped = x.reshape(shape)
    y, dx, *dw = run((shaped, *weights), upstream(x).reshape(shape), 2, False, shared_of(7))
    assert y.shape == dx.shape == shape
    np.testing.assert_array_equal(y.reshape(-1, 7), flat[0])
    np.testing.assert_array_equal(dx.reshape(-1, 7), flat[1])
    for ours, want in zip(dw, flat[2:], strict=True):
        np.testing.assert_array_equal(ours, want)
    if not x.size:
        assert all(not grad.any() for grad in dw)


def test_the_order_of_the_tokens_does_not_matter():
    x, *weights = layer(31, 5, 7)
    dy, shuffled = upstream(x), np.random.default_rng(2).permutation(31)
    y, dx, *dw = run((x, *weights), dy, 2, False, shared_of(7))
    y2, dx2, *dw2 = run((x[shuffled], *weights), dy[shuffled], 2, False, shared_of(7))
    np.testing.assert_allclose(y2, y[shuffled], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dx2, dx[shuffled], rtol=1e-12, atol=1e-13)
    for ours, want in zip(dw2, dw, strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-11, atol=1e-12)


def test_a_token_does_not_see_the_others():
    x, *weights = layer(31, 5, 7)
    dy = upstream(x)
    y, dx, *_ = run((x, *weights), dy, 2, True, shared_of(7))
    for n in (0, 11, 30):
        y_n, dx_n, *_ = run((x[n : n + 1], *weights), dy[n : n + 1], 2, True, shared_of(7))
        np.testing.assert_allclose(y_n[0], y[n], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(dx_n[0], dx[n], rtol=1e-12, atol=1e-13)


def test_gradients_of_a_batch_are_the_sum_over_its_tokens():
    x, *weights = layer(11, 5, 7)
    dy = upstream(x)
    _, _, *dw = run((x, *weights), dy, 2, False, shared_of(7))
    alone = [
        run((x[n : n + 1], *weights), dy[n : n + 1], 2, False, shared_of(7))[2:] for n in range(11)
    ]
    for ours, *pieces in zip(dw, *alone, strict=True):
        np.testing.assert_allclose(ours, sum(pieces), rtol=1e-11, atol=1e-12)


def test_the_cache_shows_what_the_router_did():
    x, w_router, *_ = inputs = layer(13, 5, 7)
    _, cache = moe_forward(*inputs, 2)
    weights, ids, router = moe_router_forward(x, w_router, 2)
    np.testing.assert_array_equal(cache.router.router_logits, router.router_logits)
    np.testing.assert_array_equal(cache.router.expert_ids, ids)
    np.testing.assert_array_equal(cache.experts.expert_weights, weights)


def test_errors():
    x, w_router, w_gate_up, w_down = layer(13, 5, 7)
    with pytest.raises(TypeError, match="x must be an array, got list"):
        moe_forward(x.tolist(), w_router, w_gate_up, w_down, 2)
    with pytest.raises(TypeError, match="w_router must have the dtype of x, float64, got float32"):
        moe_forward(x, w_router.astype(np.float32), w_gate_up, w_down, 2)
    with pytest.raises(TypeError, match="w_gate_up must have the dtype of x, float64, got float32"):
        moe_forward(x, w_router, w_gate_up.astype(np.float32), w_down, 2)
    with pytest.raises(ValueError, match=r"w_gate_up must have shape \(E=5, 2Fe=6, D=7\), got"):
        moe_forward(x, w_router, w_gate_up.swapaxes(1, 2), w_down, 2)
    for K in (0, 6):
        with pytest.raises(ValueError, match=rf"num_experts_per_tok must be .*E=5\], got {K}"):
            moe_forward(x, w_router, w_gate_up, w_down, K)
    with pytest.raises(ValueError, match=r"w_router must have shape \(E=5, D=7\), got \(6, 7\)"):
        moe_forward(x, np.ones((6, 7)), w_gate_up, w_down, 2)
    with pytest.raises(ValueError, match="shared must be four arrays or None, got 3 arrays"):
        moe_forward(x, w_router, w_gate_up, w_down, 2, shared=shared_of(7)[:3])
    _, cache = moe_forward(x, w_router, w_gate_up, w_down, 2)
    with pytest.raises(ValueError, match=r"dy must have the shape of x, \(13, 7\), got \(12, 7\)"):
        moe_backward(np.ones((12, 7)), cache)
    with pytest.raises(ValueError, match=r"drouter_logits must have shape \(N=13, E=5\), got"):
        moe_backward(x, cache, np.ones((13, 4)))


@pytest.mark.parametrize("shape", [(5, 1, 4), (2, 10), (10, 2), (20,)])
def test_a_gradient_of_another_shape_is_refused(shape):
    """As many numbers, but rows and batch mixed up."""
    rng = np.random.default_rng(0)
    x, w_router, w_gate_up, w_down = (
        rng.standard_normal(s) for s in ((1, 5, 4), (3, 4), (3, 6, 4), (3, 4, 3))
    )
    _, cache = moe_forward(x, w_router, w_gate_up, w_down, 2)
    with pytest.raises(ValueError, match=r"dy must have the shape of x, \(1, 5, 4\), got"):
        moe_backward(np.ones(shape), cache)

"""Routed experts: who computes what, idle and crowded experts, order, isolation, errors."""

import tracemalloc

import numpy as np
import pytest
from helpers import references
from helpers.fake_device import count_syncs, install, to_fake

from minqwen.layers.moe_experts import (
    group_by_expert,
    moe_experts_backward,
    moe_experts_forward,
    put_back,
)
from minqwen.layers.swiglu import swiglu_backward, swiglu_forward


def layer(N, E, K, D=5, Fe=2, seed=0, dtype=np.float64):
    """x, expert_ids, expert_weights, w_gate_up, w_down: K of E experts for each token."""
    rng = np.random.default_rng([seed, N, E, K])
    ids = np.array([rng.permutation(E)[:K] for _ in range(N)], dtype=int).reshape(N, K)
    shapes = ((N, D), (N, K), (E, 2 * Fe, D), (E, D, Fe))
    x, weights, w_gate_up, w_down = (rng.standard_normal(s).astype(dtype) for s in shapes)
    return x, ids, weights, w_gate_up, w_down


def run(inputs, dy):
    """y and the four gradients."""
    y, cache = moe_experts_forward(*inputs)
    return y, *moe_experts_backward(dy, cache)


def upstream(x):
    return np.random.default_rng(1).standard_normal(x.shape).astype(x.dtype)


def one_expert(inputs, dy, e, tokens):
    """y, dx, dweights and the gradients of expert e's three matrices if it has these tokens."""
    x, ids, weights, w_gate_up, w_down = inputs
    w_gate, w_up = np.split(w_gate_up[e], 2)
    k = np.argmax(ids[tokens] == e, axis=1)
    weight = weights[tokens, k][:, None]
    y, cache = swiglu_forward(x[tokens], w_gate, w_up, w_down[e])
    dx, *dw = swiglu_backward(weight * dy[tokens], cache)
    return weight * y, dx, (y * dy[tokens]).sum(-1), dw


def by_expert(inputs, dy):
    """The same as run, in a loop over all experts that looks up who chose each."""
    x, ids, weights, w_gate_up, w_down = inputs
    y, *grads = (np.zeros_like(a) for a in (x, x, weights, w_gate_up, w_down))
    dx, dweights, dw_gate_up, dw_down = grads
    for e in range(len(w_down)):
        tokens = np.flatnonzero((ids == e).any(axis=1))
        y_e, dx_e, dweights_e, (dw_gate, dw_up, dw_down[e]) = one_expert(inputs, dy, e, tokens)
        y[tokens] += y_e
        dx[tokens] += dx_e
        dweights[ids == e] = dweights_e
        dw_gate_up[e] = np.concatenate((dw_gate, dw_up))
    return y, *grads


@pytest.mark.parametrize(
    ("N", "E", "K"), [(13, 5, 2), (7, 7, 7), (1, 5, 3), (31, 64, 8), (3, 64, 8), (200, 3, 1)]
)
def test_value_and_gradients_equal_a_search_for_the_tokens_of_each_expert(N, E, K):
    inputs = layer(N, E, K)
    dy = upstream(inputs[0])
    np.testing.assert_allclose(
        moe_experts_forward(*inputs)[0], references.moe_experts(*inputs), rtol=1e-12, atol=1e-13
    )
    for ours, want in zip(run(inputs, dy), by_expert(inputs, dy), strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-12, atol=1e-13)


def test_one_expert_for_all_is_the_dense_layer_and_weight_one_changes_nothing():
    x, ids, _, w_gate_up, w_down = layer(13, 1, 1)
    dy = upstream(x)
    y, dx, dweights, dw_gate_up, dw_down = run((x, ids, np.ones((13, 1)), w_gate_up, w_down), dy)
    dense, cache = swiglu_forward(x, w_gate_up[0, :2], w_gate_up[0, 2:], w_down[0])
    dense_dx, dw_gate, dw_up, dw = swiglu_backward(dy, cache)
    for ours, want in (
        (y, dense),
        (dx, dense_dx),
        (dw_gate_up[0, :2], dw_gate),
        (dw_gate_up[0, 2:], dw_up),
        (dw_down[0], dw),
        (dweights[:, 0], (dense * dy).sum(-1)),
    ):
        np.testing.assert_array_equal(ours, want)


def test_all_experts_on_every_token_is_a_weighted_sum_of_dense_layers():
    inputs = layer(7, 3, 3)
    x, ids, weights, w_gate_up, w_down = inputs
    dy = upstream(x)
    by_id = np.take_along_axis(weights, np.argsort(ids, axis=1), axis=1)  # (N, E)
    y, dx, dweights, dw_gate_up, dw_down = run(inputs, dy)
    want_y, want_dx = np.zeros_like(x), np.zeros_like(x)
    for e in range(3):
        out, cache = swiglu_forward(x, *np.split(w_gate_up[e], 2), w_down[e])
        dx_e, dw_gate, dw_up, dw = swiglu_backward(by_id[:, e : e + 1] * dy, cache)
        want_y += by_id[:, e : e + 1] * out
        want_dx += dx_e
        np.testing.assert_allclose(dw_gate_up[e], np.concatenate((dw_gate, dw_up)), rtol=1e-12)
        np.testing.assert_allclose(dw_down[e], dw, rtol=1e-12)
        np.testing.assert_allclose(dweights[ids == e], (out * dy).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(y, want_y, rtol=1e-12)
    np.testing.assert_allclose(dx, want_dx, rtol=1e-12)


def test_no_token_is_dropped_when_all_choose_the_same_expert():
    x, _, weights, w_gate_up, w_down = layer(200, 5, 1)
    dy = upstream(x)
    inputs = (x, np.full((200, 1), 3), weights, w_gate_up, w_down)
    y, dx, dweights, dw_gate_up, dw_down = run(inputs, dy)
    want_y, want_dx, want_dweights, dw = one_expert(inputs, dy, 3, np.arange(200))
    np.testing.assert_allclose(y, want_y, rtol=1e-12)
    np.testing.assert_allclose(dx, want_dx, rtol=1e-12)
    np.testing.assert_allclose(dweights[:, 0], want_dweights, rtol=1e-12)
    np.testing.assert_allclose(dw_gate_up[3], np.concatenate(dw[:2]), rtol=1e-12)
    np.testing.assert_allclose(dw_down[3], dw[2], rtol=1e-12)


def test_an_expert_without_a_token_gets_zeros_and_is_not_even_read():
    x, ids, weights, w_gate_up, w_down = layer(13, 5, 2)
    ids = ids + (ids >= 2)  # of six experts, nobody chooses number 2
    w_gate_up, w_down = (np.insert(w, 2, np.nan, axis=0) for w in (w_gate_up, w_down))
    y, dx, dweights, dw_gate_up, dw_down = run((x, ids, weights, w_gate_up, w_down), upstream(x))
    assert (dw_gate_up[2] == 0).all()
    assert (dw_down[2] == 0).all()
    assert all(np.isfinite(a).all() for a in (y, dx, dweights, dw_gate_up, dw_down))
    assert all((dw[e] != 0).all() for dw in (dw_gate_up, dw_down) for e in (0, 1, 3, 4, 5))


def test_no_tokens_at_all():
    inputs = layer(0, 5, 2)
    y, dx, dweights, dw_gate_up, dw_down = run(inputs, np.zeros((0, 5)))
    assert (y.shape, dx.shape, dweights.shape) == ((0, 5), (0, 5), (0, 2))
    assert dw_gate_up.shape == (5, 4, 5)
    assert dw_down.shape == (5, 5, 2)
    assert not dw_gate_up.any()
    assert not dw_down.any()


def test_the_order_of_the_tokens_does_not_matter():
    x, ids, weights, w_gate_up, w_down = layer(31, 7, 3)
    dy, shuffled = upstream(x), np.random.default_rng(2).permutation(31)
    y, dx, dweights, *dw = run((x, ids, weights, w_gate_up, w_down), dy)
    moved = (x[shuffled], ids[shuffled], weights[shuffled], w_gate_up, w_down)
    y2, dx2, dweights2, *dw2 = run(moved, dy[shuffled])
    for ours, want in ((y2, y), (dx2, dx), (dweights2, dweights)):
        np.testing.assert_allclose(ours, want[shuffled], rtol=1e-12, atol=1e-14)
    for ours, want in zip(dw2, dw, strict=True):  # sums over the same tokens in another order
        np.testing.assert_allclose(ours, want, rtol=1e-12, atol=1e-13)


def test_the_order_of_a_tokens_choices_does_not_matter():
    x, ids, weights, w_gate_up, w_down = layer(31, 7, 3)
    dy = upstream(x)
    y, dx, dweights, *dw = run((x, ids, weights, w_gate_up, w_down), dy)
    turned = (x, ids[:, ::-1], weights[:, ::-1], w_gate_up, w_down)
    y2, dx2, dweights2, *dw2 = run(turned, dy)
    for ours, want in zip((y2, dx2, dweights2, *dw2), (y, dx, dweights[:, ::-1], *dw), strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-12, atol=1e-13)


def test_a_token_does_not_see_the_others():
    inputs = layer(31, 7, 3)
    x, ids, weights, *experts = inputs
    dy = upstream(x)
    together = run(inputs, dy)[:3]
    for n in range(31):
        row = slice(n, n + 1)
        alone = run((x[row], ids[row], weights[row], *experts), dy[row])[:3]
        for ours, want in zip(alone, together, strict=True):
            np.testing.assert_allclose(ours, want[row], rtol=1e-12, atol=1e-13)
    x = x.copy()
    x[11] = np.nan  # does not spread
    poisoned = run((x, ids, weights, *experts), dy)[:3]
    for ours, want in zip(poisoned, together, strict=True):
        np.testing.assert_array_equal(np.delete(ours, 11, 0), np.delete(want, 11, 0))
        assert np.isnan(ours[11]).all()


def test_the_experts_of_a_token_are_added_in_float32():
    """2048 + 1 + 1 in float16, one after the other, is 2048."""
    x, weights = np.ones((1, 2), np.float16), np.ones((1, 3), np.float16)
    w_gate_up = np.full((3, 2, 2), 8, np.float16)  # the gate is silu(8 + 8) = 16
    w_gate_up[:, 1] = 1 / 32  # up is 1 / 16
    w_down = np.array([2048, 1, 1], np.float16).repeat(2).reshape(3, 2, 1)
    y, _ = moe_experts_forward(x, np.arange(3)[None], weights, w_gate_up, w_down)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, [[2050, 2050]])


def test_put_back_undoes_the_sort():
    ids = np.random.default_rng(0).integers(0, 5, 31)
    order = np.argsort(ids, kind="stable")
    np.testing.assert_array_equal(put_back(ids[order], order), ids)


def test_groups_keep_the_order_of_the_tokens():
    order, segments = group_by_expert(np.array([[4, 1], [1, 4], [4, 0]]), E=6)
    assert order.tolist() == [5, 1, 2, 0, 3, 4]
    assert [(e, rows.start, rows.stop) for e, rows in segments] == [(0, 0, 1), (1, 1, 3), (4, 3, 6)]
    order, segments = group_by_expert(np.random.default_rng(0).integers(0, 3, (500, 1)), E=3)
    assert all((np.diff(order[rows]) > 0).all() for _, rows in segments)


@pytest.mark.parametrize("ids", ["uint8", "int8", "int32", "int64"])
def test_ids_of_any_integer_type(ids):
    inputs = layer(13, 5, 2)
    want, _ = moe_experts_forward(*inputs)
    y, _ = moe_experts_forward(inputs[0], inputs[1].astype(ids), *inputs[2:])
    np.testing.assert_array_equal(y, want)


def test_memory_grows_with_the_choices_and_not_with_the_experts():
    inputs = layer(256, 64, 2, D=32, Fe=16, dtype=np.float32)
    rows = 256 * 2 * 4  # bytes of one feature of all choices
    tracemalloc.start()
    _, cache = moe_experts_forward(*inputs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert cache.outputs.dtype == np.float32
    assert peak < rows * (6 * 32 + 6 * 16)  # x, out, put back, y; gate, up, h and a few temporaries


def test_one_wait_for_the_device_forward_and_none_backward(monkeypatch):
    inputs = layer(13, 5, 2)
    install(monkeypatch)
    moved, dy = to_fake(inputs), to_fake(upstream(inputs[0]))
    with count_syncs() as syncs:
        _, cache = moe_experts_forward(*moved)
    assert dict(syncs) == {"asnumpy": 1}
    with count_syncs() as syncs:
        moe_experts_backward(dy, cache)
    assert not syncs


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0, 5], [1, 2]], r"expert_ids must be in \[0, E=5\), got 1 that are not"),
        ([[0, -1], [4, 2]], r"expert_ids must be in \[0, E=5\), got 1 that are not"),
        ([[0, -1], [9, 2]], r"expert_ids must be in \[0, E=5\), got 2 that are not"),
        ([[3, 3], [1, 2]], "expert_ids must differ within a token, got 1 that stand twice"),
    ],
)
def test_wrong_ids_are_refused_on_the_device_too(ids, message, device, monkeypatch):
    inputs = layer(2, 5, 2)
    inputs = (inputs[0], np.array(ids), *inputs[2:])
    if device:
        install(monkeypatch)
        inputs = to_fake(inputs)
    with pytest.raises(ValueError, match=message):
        moe_experts_forward(*inputs)


def test_errors():
    x, ids, weights, w_gate_up, w_down = layer(13, 5, 2)
    with pytest.raises(TypeError, match="expert_ids must be an integer array, got dtype float64"):
        moe_experts_forward(x, weights, weights, w_gate_up, w_down)
    with pytest.raises(TypeError, match="expert_ids must be an array, got list"):
        moe_experts_forward(x, ids.tolist(), weights, w_gate_up, w_down)
    with pytest.raises(TypeError, match="w_down must have the dtype of x, float64, got float32"):
        moe_experts_forward(x, ids, weights, w_gate_up, w_down.astype(np.float32))
    with pytest.raises(ValueError, match=r"x must have shape \(N=13, D=5\), got \(13, 1, 5\)"):
        moe_experts_forward(x[:, None], ids, weights, w_gate_up, w_down)
    with pytest.raises(ValueError, match=r"expert_ids must have axes \(N, K\), got shape \(26,\)"):
        moe_experts_forward(x, ids.ravel(), weights, w_gate_up, w_down)
    with pytest.raises(ValueError, match=r"expert_weights must have shape \(N=13, K=2\), got"):
        moe_experts_forward(x, ids, weights[:, :1], w_gate_up, w_down)
    with pytest.raises(ValueError, match=r"w_gate_up must have shape \(E=5, 2Fe=4, D=5\), got"):
        moe_experts_forward(x, ids, weights, w_gate_up[:, :2], w_down)
    with pytest.raises(ValueError, match=r"w_down must have axes \(E, D, Fe\), got shape \(5, 2\)"):
        moe_experts_forward(x, ids, weights, w_gate_up, w_down[0])
    _, cache = moe_experts_forward(x, ids, weights, w_gate_up, w_down)
    with pytest.raises(ValueError, match=r"dy must have shape \(N=13, D=5\), got \(1, 5\)"):
        moe_experts_backward(x[:1], cache)

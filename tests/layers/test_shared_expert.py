"""The shared expert: its gate is one number per token; halves, extremes, joint width, errors."""

import numpy as np
import pytest
from helpers import references

from minqwen.layers.shared_expert import shared_expert_backward, shared_expert_forward
from minqwen.layers.swiglu import swiglu_backward, swiglu_forward


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    shapes = ((2, 3, 5), (7, 5), (7, 5), (5, 7), (1, 5))
    return tuple(rng.standard_normal(shape) for shape in shapes)


def test_matches_the_equation(inputs):
    y, _ = shared_expert_forward(*inputs)
    np.testing.assert_allclose(y, references.shared_expert(*inputs), rtol=1e-12)


def test_a_gate_of_zeros_lets_half_through_in_value_and_gradient(inputs):
    x, *network, w_shared_gate = inputs
    y, cache = shared_expert_forward(x, *network, 0 * w_shared_gate)
    out, swiglu = swiglu_forward(x, *network)
    np.testing.assert_array_equal(y, out / 2)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    *grads, dw_shared_gate = shared_expert_backward(dy, cache)
    for ours, want in zip(grads, swiglu_backward(dy / 2, swiglu), strict=True):
        np.testing.assert_array_equal(ours, want)  # with w = 0, dx has nothing from the gate
    want = ((out * dy).sum(-1)[..., None] / 4 * x).sum((0, 1))  # slope 1/4
    np.testing.assert_allclose(dw_shared_gate, want[None], rtol=1e-12)


def test_the_gate_is_one_number_per_token(inputs):
    x, *network, _ = inputs
    y, cache = shared_expert_forward(*inputs)
    out, _ = swiglu_forward(x, *network)
    assert cache.gate.shape == (2, 3, 1)
    np.testing.assert_allclose(y / out, np.broadcast_to(cache.gate, y.shape), rtol=1e-12)
    assert len(np.unique(cache.gate)) == 6


def test_wide_open_and_shut(inputs):
    x, *network, _ = inputs
    x = np.abs(x)
    out, _ = swiglu_forward(x, *network)
    with np.errstate(all="raise"):
        y, cache = shared_expert_forward(x, *network, np.full((1, 5), 1e4))
        np.testing.assert_array_equal(y, out)
        assert not shared_expert_backward(y, cache)[4].any()  # a gate that is open learns nothing
        y, cache = shared_expert_forward(x, *network, np.full((1, 5), -1e4))
        assert not y.any()
        assert all(not grad.any() for grad in shared_expert_backward(out, cache))


def test_added_networks_are_one_of_their_joint_width(inputs):
    """Why one shared expert can stand for the eight of the report."""
    x, w_gate, w_up, w_down, w_shared_gate = inputs
    whole, _ = shared_expert_forward(*inputs)
    parts = [slice(0, 2), slice(2, 3), slice(3, 7)]
    pieces = [
        shared_expert_forward(x, w_gate[part], w_up[part], w_down[:, part], w_shared_gate)[0]
        for part in parts
    ]
    np.testing.assert_allclose(sum(pieces), whole, rtol=1e-12, atol=1e-14)


def test_no_tokens(inputs):
    y, cache = shared_expert_forward(np.zeros((2, 0, 5)), *inputs[1:])
    assert y.shape == (2, 0, 5)
    dx, *dw = shared_expert_backward(y, cache)
    assert dx.shape == (2, 0, 5)
    assert all(not grad.any() for grad in dw)


def test_errors(inputs):
    x, *network, w_shared_gate = inputs
    for wrong in (w_shared_gate[0], w_shared_gate[:, :4], w_shared_gate.T, np.ones((5, 5))):
        shape = str(wrong.shape).replace("(", r"\(").replace(")", r"\)")
        message = rf"w_shared_gate must have shape \(rows=1, D=5\), got {shape}"
        with pytest.raises(ValueError, match=message):
            shared_expert_forward(x, *network, wrong)
    with pytest.raises(ValueError, match=r"w_down must have shape \(D=5, F=7\), got \(7, 5\)"):
        shared_expert_forward(x, *network[:2], network[0], w_shared_gate)
    with pytest.raises(TypeError, match="w_shared_gate must have the dtype of x, float64, got"):
        shared_expert_forward(x, *network, w_shared_gate.astype(np.float32))
    with pytest.raises(TypeError, match="x must be an array, got list"):
        shared_expert_forward(x.tolist(), *network, w_shared_gate)
    _, cache = shared_expert_forward(*inputs)
    with pytest.raises(ValueError, match=r"dy \(2, 4, 5\), y \(2, 3, 5\) must have the same shape"):
        shared_expert_backward(np.ones((2, 4, 5)), cache)

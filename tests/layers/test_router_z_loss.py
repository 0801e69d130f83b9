"""The router z-loss: equation, padding, gradient, edges, errors."""

import numpy as np
import pytest
from helpers import references

from minqwen.layers.router_z_loss import router_z_loss_backward, router_z_loss_forward


@pytest.fixture
def logits():
    return np.random.default_rng(0).standard_normal((11, 7))


@pytest.fixture
def real():
    return ~np.isin(np.arange(11), (0, 4, 5))


def test_matches_the_equation(logits, real):
    for mask in (None, real):
        loss, _ = router_z_loss_forward(logits, mask)
        assert abs(loss - references.router_z_loss(logits, mask)) < 1e-14


def test_by_hand():
    """Logits of 0 give ln(E)^2; -ln E instead, that is lse = 0, is where the loss is 0."""
    assert abs(router_z_loss_forward(np.zeros((3, 7)))[0] - np.log(7) ** 2) < 1e-15
    loss, cache = router_z_loss_forward(np.full((3, 7), -np.log(7)))
    assert loss < 1e-30
    assert np.abs(router_z_loss_backward(1.0, cache)).max() < 1e-15


def test_one_expert_is_the_mean_square_of_its_logit():
    logits = np.array([[3.0], [-2.0]])
    loss, cache = router_z_loss_forward(logits)
    assert loss == 6.5
    np.testing.assert_array_equal(router_z_loss_backward(1.0, cache), [[3.0], [-2.0]])


def test_gradient_moves_every_logit_of_a_token_to_the_same_side(logits):
    _, cache = router_z_loss_forward(logits)
    dlogits = router_z_loss_backward(1.0, cache)
    assert (np.sign(dlogits) == np.sign(cache.lse)).all()
    assert np.abs(dlogits.sum(axis=-1) - 2 / 11 * cache.lse[:, 0]).max() < 1e-15
    for two in (2, 2.0, np.float32(2), np.array(2.0)):
        np.testing.assert_array_equal(router_z_loss_backward(two, cache), 2 * dlogits)


def test_padding_changes_nothing_and_gets_nothing(logits, real):
    want, want_cache = router_z_loss_forward(logits[real])
    for filling in (0.0, 1e4, np.nan):
        loss, cache = router_z_loss_forward(np.where(real[:, None], logits, filling), real)
        assert abs(loss - want) < 1e-14
        dlogits = router_z_loss_backward(0.7, cache)
        assert not dlogits[~real].any()
        assert np.abs(dlogits[real] - router_z_loss_backward(0.7, want_cache)).max() < 1e-15


def test_no_token_and_all_padding_give_zero(logits):
    for case in ((logits[:0], None), (logits, np.zeros(11, dtype=bool))):
        loss, cache = router_z_loss_forward(*case)
        assert loss == 0
        dlogits = router_z_loss_backward(1.0, cache)
        assert dlogits.shape == case[0].shape
        assert not dlogits.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_do_not_overflow(dtype):
    logits = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], dtype)
    loss, cache = router_z_loss_forward(logits)
    want = (1e4**2 + (np.log(3) - 1e4) ** 2) / 2
    assert abs(loss / want - 1) < 1e-6
    dlogits = router_z_loss_backward(1.0, cache)
    want = [[1e4, 0, 0], [(np.log(3) - 1e4) / 3] * 3]
    assert np.abs(dlogits - want).max() < 1e-6 * 1e4


def test_dtypes(logits, real):
    for dtype, wide in ((np.float16, "f4"), (np.float32, "f4"), (np.float64, "f8")):
        loss, cache = router_z_loss_forward(logits.astype(dtype), real)
        assert loss.dtype == cache.lse.dtype == wide
        assert router_z_loss_backward(1.0, cache).dtype == dtype
        assert router_z_loss_backward(np.float64(1), cache).dtype == dtype


def test_errors(logits):
    with pytest.raises(
        ValueError, match=r"router_logits must have axes \(N, E\), got shape \(7,\)"
    ):
        router_z_loss_forward(logits[0])
    with pytest.raises(TypeError, match="router_logits must be a floating-point array, got dtype"):
        router_z_loss_forward(logits.astype(int))
    with pytest.raises(ValueError, match=r"real must have shape \(N=11\), got \(7,\)"):
        router_z_loss_forward(logits, np.ones(7, dtype=bool))
    with pytest.raises(TypeError, match=r"real must be boolean \(True = a real token\), got dtype"):
        router_z_loss_forward(logits, np.ones(11))

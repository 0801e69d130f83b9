"""The losses of PPO: tables of cases, a whole step by hand, kinks, padding, extremes, errors."""

import numpy as np
import pytest
from helpers.fake_device import count_syncs, install, to_fake

from minqwen.alignment.gae import gae
from minqwen.alignment.kl_penalty import kl_penalty
from minqwen.alignment.ppo_loss import (
    ppo_policy_loss_backward,
    ppo_policy_loss_forward,
    ppo_value_loss_backward,
    ppo_value_loss_forward,
)
from minqwen.alignment.whitening import whiten
from minqwen.check.gradients import gradient_errors
from minqwen.check.mistakes import ppo_policy_loss as policy_bank
from minqwen.check.mistakes import ppo_value_loss as value_bank

ONE = np.ones((1, 1), dtype=bool)


def policy(ratio, advantage, cliprange=0.2):
    """Return loss and gradient of one token."""
    new, old, A = (np.array([[x]]) for x in (np.log(ratio) - 1.0, -1.0, float(advantage)))
    loss, cache = ppo_policy_loss_forward(new, old, A, ONE, cliprange)
    return float(loss), float(ppo_policy_loss_backward(1.0, cache)[0, 0]), cache


def value(V, old, R, clip=0.15):
    """Return loss and gradient of one token."""
    loss, cache = ppo_value_loss_forward(*(np.array([[float(x)]]) for x in (V, old, R)), ONE, clip)
    return float(loss), float(ppo_value_loss_backward(1.0, cache)[0, 0]), cache


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "gradient"),
    [
        (1, 1.3, -1.2, 0.0),  # the four cases of the facts
        (1, 0.7, -0.7, -0.7),
        (-1, 1.3, 1.3, 1.3),
        (-1, 0.7, 0.8, 0.0),
        (1, 1.1, -1.1, -1.1),  # inside, both signs
        (-1, 0.9, 0.9, 0.9),
        (1, 1.5, -1.2, 0.0),  # case 56
        (-1, 0.5, 0.8, 0.0),
        (-1, 1.5, 1.5, 1.5),
        (1, 0.5, -0.5, -0.5),
        (0, 1.5, 0.0, 0.0),
        (-2, 1.3, 2.6, 2.6),
    ],
)
def test_policy_table(advantage, ratio, loss, gradient):
    got = policy(ratio, advantage)
    assert abs(got[0] - loss) < 1e-15
    assert abs(got[1] - gradient) < 1e-15
    clipped = (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
    assert got[2].clip_fraction == clipped


@pytest.mark.parametrize(
    ("V", "old", "R", "loss", "gradient"),
    [
        (0.5, 0.2, 1.0, 0.21125, 0.0),  # the four cases of the facts
        (0.5, 0.2, 0.0, 0.125, 0.5),
        (0.3, 0.2, 1.0, 0.245, -0.7),
        (0.1, 0.4, 0.0, 0.03125, 0.0),
        (0.1, 0.4, 1.0, 0.405, -0.9),  # the other sides: below, away from the return
        (0.3, 0.4, 0.0, 0.045, 0.3),  # inside, above the return
    ],
)
def test_value_table(V, old, R, loss, gradient):
    got = value(V, old, R)
    assert abs(got[0] - loss) < 1e-15
    assert abs(got[1] - gradient) < 1e-15
    assert got[2].clip_fraction == (gradient == 0)


def test_kinks():
    """Exactly on a limit the token counts in full; a tie of two errors counts half."""
    for near, A in ((1.25, 1.0), (0.75, -1.0)):
        new = np.log(np.array([[near]]))
        ratio = float(np.exp(new)[0, 0])  # so that 1 + c or 1 - c is this ratio to the last digit
        c = abs(ratio - 1)
        _, cache = ppo_policy_loss_forward(new, 0 * new, np.full((1, 1), A), ONE, c)
        assert ppo_policy_loss_backward(1.0, cache)[0, 0] == -A * ratio
        _, cache = ppo_policy_loss_forward(new, 0 * new, np.full((1, 1), A), ONE, c - 1e-15)
        assert ppo_policy_loss_backward(1.0, cache)[0, 0] == 0
    assert value(1.25, 1.0, 3.0, 0.25)[1] == -1.75  # on the limit
    assert value(0.75, 1.0, -3.0, 0.25)[1] == 3.75
    assert value(2.0, 1.0, 1.625, 0.25)[1] == 0.375 / 2  # 2 and the held 1.25 are both 0.375 off


def test_a_whole_step_by_hand():
    """Two answers, of two tokens and of one: rewards, advantages, whitening, both losses."""
    mask = np.array([[True, True], [True, False]])
    old, ref = np.array([[-1.0, -1.0], [-2.0, -5.0]]), np.array([[-1.5, -0.75], [-3.0, -6.0]])
    values, scores = np.array([[0.5, 0.25], [-0.17, 8.0]]), np.array([1.0, -1.0])

    rewards = kl_penalty(old, ref, mask, scores, kl_coef=0.04)
    np.testing.assert_allclose(rewards, [[-0.02, 1.01], [-1.04, 0.0]], rtol=1e-14)

    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.5)
    # 1.01 - 0.25 = 0.76;  -0.02 + 0.25 - 0.5 + 0.5 * 0.76 = 0.11;  -1.04 + 0.17 = -0.87
    np.testing.assert_allclose(advantages, [[0.11, 0.76], [-0.87, 0.0]], rtol=1e-13)
    np.testing.assert_allclose(returns, [[0.61, 1.01], [-1.04, 0.0]], rtol=1e-14)

    A = whiten(advantages, mask)  # mean 0, variance 1.3466 / 3 = 0.448867, root 0.669975
    np.testing.assert_allclose(A, [[0.164185, 1.134370], [-1.298556, 0.0]], atol=1e-6)

    new = old + np.log([[1.1, 1.5], [0.5, 7.0]])
    loss, cache = ppo_policy_loss_forward(new, old, A, mask, cliprange=0.2)
    # (-0.164185 * 1.1 - 1.134370 * 1.2 + 1.298556 * 0.8) / 3
    assert abs(loss - -0.167667) < 1e-6
    dlogprobs = ppo_policy_loss_backward(1.0, cache)
    np.testing.assert_allclose(dlogprobs, [[-0.164185 * 1.1 / 3, 0.0], [0.0, 0.0]], atol=1e-6)
    assert abs(cache.clip_fraction - 2 / 3) < 1e-15
    assert abs(cache.mean_ratio - 3.1 / 3) < 1e-15
    k3 = (0.1 - np.log(1.1) + 0.5 - np.log(1.5) - 0.5 - np.log(0.5)) / 3
    assert abs(cache.approx_kl - k3) < 1e-15

    V = np.array([[0.6, 0.55], [-0.17, -3.0]])
    loss, cache = ppo_value_loss_forward(V, values, returns, mask, cliprange_value=0.15)
    # (0.01^2 + (0.40 - 1.01)^2 + 0.87^2) / 6: the second value may not go beyond 0.40
    assert abs(loss - (0.0001 + 0.3721 + 0.7569) / 6) < 1e-15
    np.testing.assert_allclose(
        ppo_value_loss_backward(1.0, cache), [[-0.01 / 3, 0.0], [0.87 / 3, 0.0]], atol=1e-15
    )


def drawn(bank, seed=0, **more):
    """Return inputs of the bank: both sides of every clip, away from the kinks, with padding."""
    a = bank.inputs(np.random.default_rng(seed), 11, (0, 4), (0, 11), (3, 9), (0, 2), **more)
    return tuple(a[name] for name in bank.ARGUMENTS)


PAIRS = [
    pytest.param(policy_bank, ppo_policy_loss_forward, ppo_policy_loss_backward, id="policy"),
    pytest.param(value_bank, ppo_value_loss_forward, ppo_value_loss_backward, id="value"),
]


@pytest.mark.parametrize(("bank", "forward", "backward"), PAIRS)
def test_gradient_away_from_the_kinks(bank, forward, backward):
    for seed in range(3):
        x, a, b, mask, clip = drawn(bank, seed)
        (error,) = gradient_errors(
            lambda x, a=a, b=b, m=mask, c=clip: forward(x, a, b, m, c), backward, x
        )
        assert error.error < 1e-8


@pytest.mark.parametrize(("bank", "forward", "backward"), PAIRS)
def test_padding_changes_nothing_and_gets_nothing(bank, forward, backward):
    x, a, b, mask, clip = drawn(bank)
    want, cache = forward(x, a, b, mask, clip)
    gradient = backward(0.7, cache)
    assert not gradient[~mask].any()
    assert gradient[mask].any()
    for filling in (0.0, 1e30, -np.inf, np.nan):
        filled = (np.where(mask, y, filling) for y in (x, a, b))
        loss, cache = forward(*filled, mask, clip)
        assert loss == want
        np.testing.assert_array_equal(backward(0.7, cache), gradient)
    wider = (np.pad(y, ((0, 1), (2, 3))) for y in (x, a, b, mask))
    assert abs(forward(*wider, clip)[0] - want) < 1e-15


@pytest.mark.parametrize(("bank", "forward", "backward"), PAIRS)
def test_no_token_gives_zero(bank, forward, backward):
    x, a, b, mask, clip = drawn(bank)
    loss, cache = forward(x, a, b, np.zeros_like(mask), clip)
    assert loss == 0
    assert not backward(1.0, cache).any()
    assert cache.clip_fraction == 0
    assert forward(x[:0], a[:0], b[:0], mask[:0], clip)[0] == 0


@pytest.mark.parametrize(("bank", "forward", "backward"), PAIRS)
def test_the_mean_is_over_tokens_and_scales_with_dloss(bank, forward, backward):
    x, a, b, mask, clip = drawn(bank)
    loss, cache = forward(x, a, b, mask, clip)
    twice, twice_cache = forward(*(np.concatenate([y, y]) for y in (x, a, b, mask)), clip)
    assert abs(loss - twice) < 1e-14
    gradient = backward(1.0, cache)
    np.testing.assert_allclose(backward(1.0, twice_cache)[: len(x)], gradient / 2, rtol=1e-14)
    for two in (2, 2.0, np.float32(2), np.array(2.0)):
        np.testing.assert_allclose(backward(two, cache), 2 * gradient, rtol=1e-15)


@pytest.mark.parametrize(("bank", "forward", "backward"), PAIRS)
def test_dtypes(bank, forward, backward):
    x, a, b, mask, clip = drawn(bank)
    want, _ = forward(x, a, b, mask, clip)
    for dtype, wide in (("f2", "f4"), ("f4", "f4"), ("f8", "f8")):
        low = (y.astype(dtype) for y in (x, a, b))
        loss, cache = forward(*low, mask, np.float64(clip))
        assert loss.dtype == wide
        assert all(y.dtype in (wide, bool, dtype) for y in cache if hasattr(y, "dtype"))
        assert backward(np.float64(1), cache).dtype == dtype
        assert abs(loss - want) < (1e-2 if dtype == "f2" else 1e-6)


def test_before_any_update_all_ratios_are_1():
    x, _, A, mask, _ = drawn(policy_bank)
    loss, cache = ppo_policy_loss_forward(x, x, A, mask)
    assert (cache.ratio == 1).all()
    assert cache.mean_ratio == 1
    assert cache.approx_kl == cache.clip_fraction == 0
    assert abs(loss + A[mask].mean()) < 1e-15  # minus the mean advantage
    gradient = ppo_policy_loss_backward(1.0, cache)
    np.testing.assert_allclose(gradient[mask], -A[mask] / mask.sum(), rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_extreme_ratios_give_no_nan(dtype):
    """exp(2000) is infinite: 0 * inf, inf - inf and the square of the gradient's norm are not."""
    far = np.array([[2000.0, -2000.0, 2000.0, -2000.0, 2000.0]], dtype)
    A = np.array([[1.0, 1.0, -1.0, -1.0, 0.0]], dtype)
    loss, cache = ppo_policy_loss_forward(far, 0 * far, A, np.ones((1, 5), bool))
    assert np.isfinite(loss)
    assert all(np.isfinite(x).all() for x in cache[5:])
    if dtype != np.float16:  # in which large numbers do not fit
        gradient = ppo_policy_loss_backward(1.0, cache)
        assert np.isfinite((gradient * gradient).sum())
        assert gradient[0, 2] > 1e18  # the bad token that became far too likely must come back
        assert not gradient[0, [0, 3, 4]].any()


@pytest.mark.parametrize(("bank", "forward", "backward"), PAIRS)
def test_on_the_device_with_the_mask_on_the_host(bank, forward, backward, monkeypatch):
    x, a, b, mask, clip = drawn(bank)
    install(monkeypatch)
    device = to_fake((x, a, b))
    with count_syncs() as syncs:
        _, cache = forward(*device, mask, clip)
        backward(1.0, cache)
    assert not syncs


@pytest.mark.parametrize(("bank", "forward", "backward"), PAIRS)
def test_errors(bank, forward, backward):
    x, a, b, mask, _ = drawn(bank)
    names = bank.ARGUMENTS
    with pytest.raises(ValueError, match=rf"{names[0]} must have axes \(B, T\), got shape \(11,\)"):
        forward(x[0], a[0], b[0], mask[0])
    with pytest.raises(ValueError, match="must have the same shape"):
        forward(x, a[:2], b, mask)
    with pytest.raises(TypeError, match=f"{names[1]} must have the dtype of {names[0]}"):
        forward(x, a.astype("f4"), b, mask)
    with pytest.raises(TypeError, match=r"mask must be boolean \(True = a token of the answer\)"):
        forward(x, a, b, mask.astype(float))

"""Pairwise loss: golden numbers, huge differences, margin, gradients, errors."""

import math

import numpy as np
import pytest

from minqwen.alignment.pairwise_loss import pairwise_loss_backward, pairwise_loss_forward
from minqwen.check.gradients import check_gradients


@pytest.fixture
def rewards():
    rng = np.random.default_rng(0)
    return rng.standard_normal(7), rng.standard_normal(7)


def by_hand(chosen, rejected, margin=None):
    """Mean of -log(1 / (1 + exp(-x))), one pair after another."""
    losses = []
    for b in range(len(chosen)):
        x = chosen[b] - rejected[b] - (0 if margin is None else margin[b])
        losses.append(-math.log(1 / (1 + math.exp(-x))))
    return sum(losses) / len(losses)


def test_matches_the_equation(rewards):
    margin = np.random.default_rng(1).random(7)
    for case in (rewards, (*rewards, margin)):
        assert abs(pairwise_loss_forward(*case)[0] - by_hand(*case)) < 1e-15


@pytest.mark.parametrize(
    ("lead", "loss", "slope"),
    [(0.0, 0.693147, -0.5), (1.0, 0.313262, -0.268941), (-1.0, 1.313262, -0.731059)],
)
def test_golden_numbers(lead, loss, slope):
    """A pair whose chosen answer is ahead by `lead`: the loss, and its derivative by chosen."""
    found, cache = pairwise_loss_forward(np.array([2.0 + lead]), np.array([2.0]))
    dchosen, drejected = pairwise_loss_backward(1.0, cache)
    assert abs(found - loss) < 5e-7
    assert abs(dchosen[0] - slope) < 5e-7
    assert drejected[0] == -dchosen[0]


def test_gradients(rewards):
    check_gradients(pairwise_loss_forward, pairwise_loss_backward, *rewards)


def test_equal_rewards_give_ln_2_and_every_pair_pulls_alike():
    loss, cache = pairwise_loss_forward(np.full(4, 3.7), np.full(4, 3.7))
    assert abs(loss - 0.6931471805599453) < 1e-15
    dchosen, drejected = pairwise_loss_backward(1.0, cache)
    np.testing.assert_array_equal(dchosen, np.full(4, -0.125))
    np.testing.assert_array_equal(drejected, np.full(4, 0.125))


def test_margins_are_taken_from_the_lead(rewards):
    margin = np.random.default_rng(1).random(7)
    loss, cache = pairwise_loss_forward(*rewards, margin)
    want, want_cache = pairwise_loss_forward(rewards[0] - margin, rewards[1])
    assert loss == want
    for ours, theirs in zip(
        pairwise_loss_backward(0.7, cache), pairwise_loss_backward(0.7, want_cache), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert loss > pairwise_loss_forward(*rewards)[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rewards_800_apart_stay_finite_and_exact(dtype):
    """log(sigmoid(-800)) would be minus infinity; log(1 + exp(800)) would be infinity."""
    chosen, rejected = np.array([-400, 400, 1e30], dtype), np.array([400, -400, 0], dtype)
    loss, cache = pairwise_loss_forward(chosen, rejected)
    assert abs(loss - 800 / 3) < (1e-4 if dtype == np.float32 else 1e-12)
    dchosen, drejected = pairwise_loss_backward(3.0, cache)
    np.testing.assert_array_equal(dchosen, [-1, 0, 0])
    np.testing.assert_array_equal(drejected, [1, 0, 0])


def test_small_probabilities_keep_their_digits():
    """1 - sigmoid(40) by subtraction is 0, and by tanh too."""
    for lead in (40.0, 100.0, 700.0):
        loss, cache = pairwise_loss_forward(np.array([lead]), np.array([0.0]))
        assert abs(loss / math.exp(-lead) - 1) < 1e-12
        assert abs(-pairwise_loss_backward(1.0, cache)[0][0] / math.exp(-lead) - 1) < 1e-12


def test_only_differences_count_and_order_does_not(rewards):
    chosen, rejected = rewards
    loss, cache = pairwise_loss_forward(chosen, rejected)
    assert abs(pairwise_loss_forward(chosen + 5, rejected + 5)[0] - loss) < 1e-14
    assert abs(pairwise_loss_forward(chosen[::-1], rejected[::-1])[0] - loss) < 1e-15
    assert abs(pairwise_loss_forward(*(np.tile(x, 3) for x in rewards))[0] - loss) < 1e-15
    dchosen, drejected = pairwise_loss_backward(1.0, cache)
    assert (dchosen < 0).all()
    np.testing.assert_array_equal(dchosen, -drejected)
    for two in (2, np.float32(2), np.array(2.0)):
        np.testing.assert_array_equal(pairwise_loss_backward(two, cache)[0], 2 * dchosen)


def test_the_other_way_round_costs_the_lead_more(rewards):
    """-log s(-x) = x - log s(x), for each pair."""
    forth, back = pairwise_loss_forward(*rewards)[0], pairwise_loss_forward(*rewards[::-1])[0]
    assert abs(back - forth - (rewards[0] - rewards[1]).mean()) < 1e-14


@pytest.mark.parametrize(
    ("dtype", "wide"), [(np.float16, "f4"), (np.float32, "f4"), (np.float64, "f8")]
)
def test_dtypes(rewards, dtype, wide):
    loss, cache = pairwise_loss_forward(*(x.astype(dtype) for x in rewards))
    assert loss.dtype == wide
    assert loss.shape == ()
    for dloss in (1.0, np.float64(1), loss):
        assert {g.dtype for g in pairwise_loss_backward(dloss, cache)} == {np.dtype(dtype)}


def test_errors(rewards):
    chosen, rejected = rewards
    with pytest.raises(ValueError, match=r"chosen_rewards \(7,\), rejected_rewards \(6,\) must"):
        pairwise_loss_forward(chosen, rejected[:6])
    with pytest.raises(ValueError, match=r"chosen_rewards must have axes \(B\), got shape \(7, 1"):
        pairwise_loss_forward(chosen[:, None], rejected)  # which would meet all rejected ones
    with pytest.raises(ValueError, match=r"margin must have shape \(B=7\), got \(1,\)"):
        pairwise_loss_forward(chosen, rejected, np.ones(1))
    with pytest.raises(TypeError, match="margin must have the dtype of chosen_rewards, float64"):
        pairwise_loss_forward(chosen, rejected, np.ones(7, np.float32))
    with pytest.raises(TypeError, match="chosen_rewards must be a floating-point array"):
        pairwise_loss_forward(chosen.astype(int), rejected)
    with pytest.raises(ValueError, match="chosen_rewards must hold at least one pair"):
        pairwise_loss_forward(chosen[:0], rejected[:0])

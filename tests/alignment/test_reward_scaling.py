"""The running mean of rewards: exact, in any order, saved and read, with and without dividing."""

import json

import numpy as np
import pytest
from helpers.fake_device import from_fake, install, to_fake

from minqwen.alignment.reward_scaling import (
    merge_reward_stats,
    new_reward_stats,
    scale_rewards,
    update_reward_stats,
)


def seen(*batches):
    state = new_reward_stats()
    for scores in batches:
        state = update_reward_stats(state, scores)
    return state


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    return [3 + 2 * rng.standard_normal(n) for n in (5, 1, 8, 13, 2)]


def test_the_statistics_are_those_of_all_scores(batches):
    state, together = seen(*batches), np.concatenate(batches)
    assert state["count"] == len(together)
    assert abs(state["mean"] - together.mean()) < 1e-15 * 4
    assert abs(state["m2"] / state["count"] - together.var()) < 1e-14


def test_by_hand():
    """1 and 3, then 5: mean 3, squares 4 + 0 + 4."""
    assert seen(np.array([1.0, 3.0]), np.array([5.0])) == {"count": 3.0, "mean": 3.0, "m2": 8.0}


def test_order_and_grouping_do_not_matter(batches):
    want = seen(np.concatenate(batches))
    rng = np.random.default_rng(1)
    for _ in range(20):
        shuffled = rng.permutation(np.concatenate(batches))
        cuts = np.sort(rng.integers(0, len(shuffled), 4))
        got = seen(*np.split(shuffled, cuts))
        assert got["count"] == want["count"]
        for name in ("mean", "m2"):
            assert abs(got[name] / want[name] - 1) < 1e-13
    halves = merge_reward_stats(seen(*batches[:2]), seen(*batches[2:]))
    other = merge_reward_stats(seen(*batches[2:]), seen(*batches[:2]))
    for name in ("mean", "m2"):
        assert abs(halves[name] / want[name] - 1) < 1e-14
        assert abs(other[name] / want[name] - 1) < 1e-14


def test_a_mean_that_is_large_against_the_spread():
    """A sum of squares minus a square of sums gives nothing here but rounding."""
    scores = 1e8 + np.array([1.0, 2.0, 3.0, 4.0])
    state = seen(scores[:1], scores[1:3], scores[3:])
    assert abs(state["m2"] - 5.0) < 1e-6
    naive = (scores**2).sum() - scores.sum() ** 2 / 4
    assert abs(naive - 5.0) > 0.1


def test_an_empty_batch_and_an_empty_state(batches):
    state = seen(batches[0])
    assert update_reward_stats(state, np.zeros(0)) == state
    assert merge_reward_stats(new_reward_stats(), state) == state
    assert merge_reward_stats(new_reward_stats(), new_reward_stats()) == new_reward_stats()
    np.testing.assert_array_equal(scale_rewards(batches[0], new_reward_stats()), batches[0])


def test_states_are_plain_and_stay(batches):
    state = seen(batches[0])
    kept = dict(state)
    after = update_reward_stats(state, batches[1])
    assert state == kept != after
    assert json.loads(json.dumps(after)) == after
    assert all(type(x) is float for x in after.values())


def test_subtract_and_divide(batches):
    state, together = seen(*batches), np.concatenate(batches)
    np.testing.assert_allclose(scale_rewards(together, state), together - together.mean())
    divided = scale_rewards(together, state, divide=True)
    assert abs(divided.mean()) < 1e-14
    assert abs(divided.std() - 1) < 1e-8
    equal = seen(np.full(3, 2.0))
    assert not scale_rewards(np.full(3, 2.0), equal, divide=True).any()


def test_dtypes_and_the_device(batches, monkeypatch):
    for dtype in (np.float16, np.float32, np.float64):
        scores = batches[0].astype(dtype)
        state = seen(scores)
        assert scale_rewards(scores, state).dtype == dtype
        assert scale_rewards(scores, state, divide=True).dtype == dtype
    install(monkeypatch)
    device = to_fake(batches[0])
    assert update_reward_stats(new_reward_stats(), device) == state
    np.testing.assert_array_equal(
        from_fake(scale_rewards(device, state, divide=True)),
        scale_rewards(batches[0], state, divide=True),
    )


def test_errors():
    with pytest.raises(ValueError, match="scores must be finite, got nan"):
        update_reward_stats(new_reward_stats(), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match=r"scores must have axes \(B\), got shape \(1, 2\)"):
        update_reward_stats(new_reward_stats(), np.ones((1, 2)))
    with pytest.raises(TypeError, match="scores must be a floating-point array"):
        update_reward_stats(new_reward_stats(), np.array([1, 2]))
    with pytest.raises(ValueError, match=r"scores must have axes \(B\), got shape \(1, 2\)"):
        scale_rewards(np.ones((1, 2)), new_reward_stats())

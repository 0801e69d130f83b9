"""The rewards of PPO: equation, estimators, place of the score, padding, missing end, errors."""

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake

from minqwen.alignment.kl_penalty import (
    bounded_exponent,
    kl_estimate,
    kl_penalty,
    missing_end_penalty,
)

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
MASK = np.array(
    [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
    ],
    dtype=bool,
)


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    logprobs, ref = -rng.uniform(0.1, 3.0, (2, 5, 5))
    return logprobs, ref, MASK, rng.standard_normal(5)


def slow(logprobs, ref, mask, scores, kl_coef):
    """r_t = -kl_coef d_t, and the score beside the last token of the answer."""
    rewards = np.zeros(mask.shape)
    for b in range(len(mask)):
        end = None
        for t in range(mask.shape[1]):
            if mask[b, t]:
                rewards[b, t] = -kl_coef * (logprobs[b, t] - ref[b, t])
                end = t
        if end is not None:
            rewards[b, end] += scores[b]
    return rewards


def test_matches_the_equation(inputs):
    for kl_coef in (0.04, 0.0, 1.7):
        got = kl_penalty(*inputs, kl_coef=kl_coef)
        assert np.abs(got - slow(*inputs, kl_coef)).max() < 1e-15


def test_by_hand():
    """log pi - log ref = 0.5, -0.25; then the end token of the shorter answer, and its padding."""
    new = np.array([[-1.0, -1.0], [-2.0, -9.0]])
    ref = np.array([[-1.5, -0.75], [-3.0, -1.0]])
    mask = np.array([[True, True], [True, False]])
    got = kl_penalty(new, ref, mask, np.array([1.0, -1.0]))
    np.testing.assert_allclose(got, [[-0.02, 1.01], [-1.04, 0.0]], rtol=1e-14)


def test_one_token(inputs):
    """pi = 0.5 where the reference has 0.2: k1 and k3 of the facts."""
    d = np.log(P[:1] / Q[:1])
    assert abs(kl_estimate(d, "k1")[0] - 0.916291) < 1e-6
    assert abs(kl_estimate(d, "k3")[0] - 0.316291) < 1e-6
    assert abs(kl_estimate(d, "k2")[0] - 0.916291**2 / 2) < 1e-6


def test_which_estimators_are_unbiased():
    d, exact = np.log(P / Q), 0.223805
    mean = {name: float((P * kl_estimate(d, name)).sum()) for name in ("k1", "k2", "k3")}
    assert abs(mean["k1"] - exact) < 1e-6
    assert abs(mean["k3"] - mean["k1"]) < 1e-15
    assert abs(mean["k2"] - 0.265479) < 1e-6
    assert (kl_estimate(d, "k3") >= 0).all()
    assert (kl_estimate(d, "k1") < 0).any()


def test_what_an_estimator_in_the_reward_pushes_towards():
    """k1 gives the gradient of KL(pi || ref); k3 that of KL(pi || ref) - KL(ref || pi)."""

    def divergence(z, other_way=False):
        p = np.exp(z) / np.exp(z).sum()
        return (Q * np.log(Q / p)).sum() if other_way else (p * np.log(p / Q)).sum()

    z, h, eye = np.log(P), 1e-6, np.eye(3)
    score = eye - P  # row a: the gradient of log pi(a)
    for name, other in (("k1", 0.0), ("k3", 1.0)):
        push = (P * kl_estimate(np.log(P / Q), name)) @ score
        want = [
            (divergence(z + h * e) - divergence(z - h * e)) / (2 * h)
            - other * (divergence(z + h * e, True) - divergence(z - h * e, True)) / (2 * h)
            for e in eye
        ]
        assert np.abs(push - want).max() < 1e-9, name


def test_k3_is_exact_for_close_policies():
    d = np.array([1e-4], np.float32)
    assert abs(kl_estimate(d, "k3")[0] / 5e-9 - 1) < 1e-3  # d^2 / 2; exp(-d) - 1 + d gives 0


def test_equal_policies_leave_the_score_alone(inputs):
    logprobs, _, mask, scores = inputs
    for estimator in ("k1", "k2", "k3"):
        got = kl_penalty(logprobs, logprobs, mask, scores, estimator=estimator)
        assert np.count_nonzero(got, axis=1).tolist() == [1, 1, 1, 1, 0]  # exactly one entry
        assert got.sum(axis=1)[:4].tolist() == scores[:4].tolist()
        assert got[1, 2] == scores[1]
        assert got[2, 3] == scores[2]


def test_padding_gives_and_gets_nothing(inputs):
    logprobs, ref, mask, scores = inputs
    want = kl_penalty(*inputs, estimator="k3")
    for filling in (0.0, -np.inf, np.nan, 1e4):
        filled = (np.where(mask, x, filling) for x in (logprobs, ref))
        np.testing.assert_array_equal(kl_penalty(*filled, mask, scores, estimator="k3"), want)
    assert not want[~mask].any()
    wider = [np.pad(x, ((0, 0), (2, 3))) for x in (logprobs, ref, mask)]
    np.testing.assert_array_equal(kl_penalty(*wider, scores, estimator="k3")[:, 2:-3], want)


def test_policies_that_are_far_apart_stay_finite():
    new, ref = np.full((1, 3), -1.0), np.full((1, 3), -1.0)
    ref[0, 0], new[0, 1] = -2000.0, -2000.0
    for dtype in (np.float32, np.float64):
        arrays = (x.astype(dtype) for x in (new, ref))
        got = kl_penalty(*arrays, np.ones((1, 3), bool), np.ones(1, dtype), estimator="k3")
        assert np.isfinite(got).all()
    assert bounded_exponent(np.array([3.5, -3.5])).tolist() == [3.5, -3.5]


def test_missing_end():
    scores, ended = np.array([2.0, 2.0, -3.0]), np.array([True, False, False])
    assert missing_end_penalty(scores, ended, 0.5).tolist() == [2.0, 1.5, -3.5]
    assert missing_end_penalty(scores, ended, 0.5, how="replace").tolist() == [2.0, -0.5, -0.5]
    assert missing_end_penalty(scores.astype("f4"), ended).dtype == np.float32
    with pytest.raises(ValueError, match='how must be "subtract" or "replace", got \'add\''):
        missing_end_penalty(scores, ended, how="add")
    with pytest.raises(ValueError, match=r"ended must have shape \(B=3\), got \(2,\)"):
        missing_end_penalty(scores, ended[:2])
    with pytest.raises(TypeError, match="ended must be boolean"):
        missing_end_penalty(scores, scores)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(inputs, dtype):
    arrays = [x.astype(dtype) if x.dtype != bool else x for x in inputs]
    got = kl_penalty(*arrays, kl_coef=np.float64(0.04))
    assert got.dtype == dtype
    assert np.abs(got - kl_penalty(*inputs)).max() < 3e-3


def test_on_the_device_without_waiting(inputs, monkeypatch):
    arrays = [x.astype("f4") if x.dtype != bool else x for x in inputs]
    want = kl_penalty(*arrays, estimator="k3")
    install(monkeypatch)
    logprobs, ref, _, scores = to_fake(tuple(arrays))
    with count_syncs() as syncs:
        got = kl_penalty(logprobs, ref, MASK, scores, estimator="k3")  # the mask may be on the host
        missing_end_penalty(scores, MASK[0])
    assert not syncs
    np.testing.assert_array_equal(from_fake(got), want)


def test_errors(inputs):
    logprobs, ref, mask, scores = inputs
    with pytest.raises(ValueError, match='estimator must be "k1", "k2" or "k3", got \'k4\''):
        kl_penalty(*inputs, estimator="k4")
    with pytest.raises(ValueError, match=r"scores must have shape \(B=5\), got \(4,\)"):
        kl_penalty(logprobs, ref, mask, scores[:4])
    with pytest.raises(ValueError, match=r"logprobs must have axes \(B, T\), got shape \(5,\)"):
        kl_penalty(logprobs[0], ref[0], mask[0], scores)
    with pytest.raises(ValueError, match="must have the same shape"):
        kl_penalty(logprobs, ref[:, :4], mask, scores)
    with pytest.raises(TypeError, match=r"mask must be boolean \(True = a token of the answer\)"):
        kl_penalty(logprobs, ref, mask.astype(float), scores)
    with pytest.raises(TypeError, match="ref_logprobs must have the dtype of logprobs"):
        kl_penalty(logprobs, ref.astype("f4"), mask, scores)

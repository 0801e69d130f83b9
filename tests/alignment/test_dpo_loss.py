"""DPO: golden numbers, the start, beta, lengths, the prompt (case 58), gradients, errors."""

import math

import numpy as np
import pytest

from minqwen.alignment.dpo_loss import dpo_loss_backward, dpo_loss_forward
from minqwen.alignment.pairwise_loss import pairwise_loss_forward
from minqwen.alignment.token_logprobs import (
    sequence_logprobs_backward,
    sequence_logprobs_forward,
    token_logprobs_backward,
    token_logprobs_forward,
)
from minqwen.check.gradients import check_gradients


@pytest.fixture
def pairs():
    """Log-probabilities of five pairs: chosen, rejected, and both by the reference."""
    return tuple(4 * np.random.default_rng(0).standard_normal((4, 5)) - 20)


def by_hand(chosen, rejected, ref_chosen, ref_rejected, beta):
    losses = []
    for c, r, rc, rr in zip(chosen, rejected, ref_chosen, ref_rejected, strict=True):
        delta = beta * ((c - rc) - (r - rr))
        losses.append(-math.log(1 / (1 + math.exp(-delta))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5])
def test_matches_the_equation(pairs, beta):
    assert abs(dpo_loss_forward(*pairs, beta)[0] - by_hand(*pairs, beta)) < 1e-15


def test_gradients(pairs):
    chosen, rejected, *reference = pairs
    check_gradients(
        lambda c, r: dpo_loss_forward(c, r, *reference, 0.3), dpo_loss_backward, chosen, rejected
    )


@pytest.mark.parametrize("beta", [0.01, 0.1, 2.0])
def test_equal_policies_give_ln_2_for_every_beta(pairs, beta):
    """Case 58. Every pair pulls with beta / 2B."""
    chosen, rejected, _, _ = pairs
    loss, cache = dpo_loss_forward(chosen, rejected, chosen, rejected, beta)
    assert abs(loss - 0.6931471805599453) < 1e-15
    dchosen, drejected = dpo_loss_backward(1.0, cache)
    np.testing.assert_allclose(dchosen, -beta / 10, rtol=1e-14)
    np.testing.assert_allclose(drejected, beta / 10, rtol=1e-14)


@pytest.mark.parametrize(
    ("ahead", "loss", "slope"),
    [(0.0, 0.693147, -0.05), (10.0, 0.313262, -0.0268941), (-10.0, 1.313262, -0.0731059)],
)
def test_golden_numbers(ahead, loss, slope):
    """Ten nats at beta 0.1 are a reward of 1: the pairwise loss, its slope times beta."""
    logprobs = np.array([-30.0 + ahead]), np.array([-50.0]), np.array([-30.0]), np.array([-50.0])
    found, cache = dpo_loss_forward(*logprobs)
    assert abs(found - loss) < 5e-7
    assert abs(dpo_loss_backward(1.0, cache)[0][0] - slope) < 5e-8


def test_is_the_pairwise_loss_of_the_implicit_rewards(pairs):
    chosen, rejected, ref_chosen, ref_rejected = pairs
    loss, cache = dpo_loss_forward(*pairs, 0.2)
    np.testing.assert_array_equal(cache.chosen_rewards, 0.2 * (chosen - ref_chosen))
    np.testing.assert_array_equal(cache.rejected_rewards, 0.2 * (rejected - ref_rejected))
    assert loss == pairwise_loss_forward(cache.chosen_rewards, cache.rejected_rewards)[0]


def test_what_both_answers_share_falls_out(pairs):
    """The prompt's log Z(x), or its log-probability, moves chosen and rejected alike."""
    chosen, rejected, *reference = pairs
    loss, _ = dpo_loss_forward(*pairs)
    assert abs(dpo_loss_forward(chosen - 7, rejected - 7, *reference)[0] - loss) < 1e-14


def test_the_reference_is_frozen(pairs):
    """The backward pass has two gradients, and none of them is the reference's."""
    _, cache = dpo_loss_forward(*pairs)
    gradients = dpo_loss_backward(1.0, cache)
    assert len(gradients) == 2
    assert (gradients[0] < 0).all()
    np.testing.assert_array_equal(gradients[0], -gradients[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_answers_far_from_the_reference_stay_finite(dtype):
    far = [np.array(x, dtype) for x in ([-9000, -1000], [-1000, -9000], [-1000] * 2, [-1000] * 2)]
    loss, cache = dpo_loss_forward(*far, beta=0.5)
    assert loss == 2000  # 8000 nats times 0.5, in one of two pairs
    dchosen, drejected = dpo_loss_backward(1.0, cache)
    np.testing.assert_array_equal(dchosen, [-0.25, 0])
    np.testing.assert_array_equal(drejected, [0.25, 0])


def whole(policy, reference, chosen_ids, rejected_ids, masks, reduction="sum"):
    """Return the loss from logits (2, B, T, V) and its gradient with respect to them."""
    caches, sums = [], []
    for logits, ids, mask in zip(policy, (chosen_ids, rejected_ids), masks, strict=True):
        logprobs, cache = token_logprobs_forward(logits, ids)
        total, sum_cache = sequence_logprobs_forward(logprobs, mask, reduction)
        caches.append((cache, sum_cache))
        sums.append(total)
    refs = [
        sequence_logprobs_forward(token_logprobs_forward(logits, ids)[0], mask, reduction)[0]
        for logits, ids, mask in zip(reference, (chosen_ids, rejected_ids), masks, strict=True)
    ]
    loss, cache = dpo_loss_forward(*sums, *refs)
    gradients = [
        token_logprobs_backward(sequence_logprobs_backward(d, sum_cache), token_cache)
        for d, (token_cache, sum_cache) in zip(dpo_loss_backward(1.0, cache), caches, strict=True)
    ]
    return float(loss), np.array(gradients)


def prompts_and_answers(same_prompt):
    """Logits of prompts of 4 tokens and answers of 3; a causal model sees the prompt first."""
    rng = np.random.default_rng(3)
    B, P, A, V = 3, 4, 3, 11
    policy, reference = rng.standard_normal((2, 2, B, P + A, V))
    ids = rng.integers(0, V, (2, B, P + A))
    if same_prompt:
        policy[1, :, :P], reference[1, :, :P] = policy[0, :, :P], reference[0, :, :P]
        ids[1, :, :P] = ids[0, :, :P]
    answer = np.broadcast_to(np.arange(P + A) >= P, (B, P + A))
    return policy, reference, *ids, answer


def test_a_prompt_that_both_share_cancels_whether_masked_or_not():
    """Case 58: the same loss, and in the logits of the shared prompt the gradients sum to 0."""
    *data, answer = prompts_and_answers(same_prompt=True)
    masked, gradient = whole(*data, (answer, answer))
    everything = np.ones_like(answer)
    unmasked, with_prompt = whole(*data, (everything, everything))
    assert abs(masked - unmasked) < 1e-14
    np.testing.assert_allclose(gradient[:, :, 4:], with_prompt[:, :, 4:], atol=1e-15)
    assert np.abs(with_prompt[:, :, :4]).max() > 1e-3  # each side has some,
    np.testing.assert_allclose(with_prompt[:, :, :4].sum(axis=0), 0, atol=1e-16)  # together none
    assert not gradient[:, :, :4].any()


def test_prompts_that_differ_do_not_cancel():
    *data, answer = prompts_and_answers(same_prompt=False)
    everything = np.ones_like(answer)
    masked, unmasked = (whole(*data, (mask, mask))[0] for mask in (answer, everything))
    assert abs(masked - unmasked) > 1e-2


def test_twice_the_length_doubles_the_lead_with_sums_and_not_with_means():
    """Mean for sum: the lead does not grow with the length, so long answers teach too little."""
    policy, reference, chosen, rejected, _ = prompts_and_answers(same_prompt=False)
    leads = {}
    for copies in (1, 2):
        logits = [np.tile(z[:, :1], (1, 1, copies, 1)) for z in (policy, reference)]  # of one pair
        ids = [np.tile(row[:1], (1, copies)) for row in (chosen, rejected)]
        mask = np.ones_like(ids[0], dtype=bool)
        for reduction in ("sum", "mean"):
            loss, _ = whole(*logits, *ids, (mask, mask), reduction)
            leads[copies, reduction] = -math.log(math.expm1(loss))  # loss = log(1 + exp(-lead))
    assert abs(leads[2, "sum"] - 2 * leads[1, "sum"]) < 1e-13
    assert abs(leads[2, "mean"] - leads[1, "mean"]) < 1e-13
    assert abs(leads[1, "sum"]) > 0.01


@pytest.mark.parametrize(
    ("dtype", "wide"), [(np.float16, "f4"), (np.float32, "f4"), (np.float64, "f8")]
)
def test_dtypes(pairs, dtype, wide):
    loss, cache = dpo_loss_forward(*(x.astype(dtype) for x in pairs), np.float64(0.1))
    assert loss.dtype == cache.chosen_rewards.dtype == wide
    for dloss in (1.0, np.float64(1), loss):
        assert {g.dtype for g in dpo_loss_backward(dloss, cache)} == {np.dtype(dtype)}


def test_errors(pairs):
    chosen, rejected, *reference = pairs
    with pytest.raises(ValueError, match=r"rejected_logprobs \(4,\).*must have the same shape"):
        dpo_loss_forward(chosen, rejected[:4], *reference)
    with pytest.raises(ValueError, match=r"chosen_logprobs must have axes \(B\), got shape"):
        dpo_loss_forward(*(x[:, None] for x in pairs))  # of tokens, not of answers
    with pytest.raises(TypeError, match="ref_chosen_logprobs must have the dtype of chosen_log"):
        dpo_loss_forward(chosen, rejected, *(x.astype(np.float32) for x in reference))
    for wrong in (0, -0.1):
        with pytest.raises(ValueError, match=f"beta must be above 0, got {wrong}"):
            dpo_loss_forward(*pairs, wrong)
    with pytest.raises(ValueError, match="at least one pair"):
        dpo_loss_forward(*(x[:0] for x in pairs))

"""Rollouts: who answers what, where answers end, and which column says what about a token."""

import numpy as np
import pytest
from alignment.small_ppo import END, PAD, QUERIES, WIDE, policy_params, settings, value_model

from minqwen.alignment.answer_heads import (
    answer_logits_backward,
    answer_logits_forward,
    answer_values_backward,
    answer_values_forward,
)
from minqwen.alignment.experience import observe
from minqwen.alignment.rollout import Rollout, as_lists, lay_out, require_queries, rollout
from minqwen.check.gradients import numerical_gradient
from minqwen.model.backbone import backbone_forward
from minqwen.model.language_model import language_model_forward

F, T = False, True


def answer(**changes):
    options = {
        "responses_per_query": 2,
        "max_new_tokens": 6,
        "temperature": 0.7,
        "top_p": 0.8,
        "eos_token_ids": [END],
        "pad_id": PAD,
        "rng": np.random.default_rng(0),
    }
    return rollout(policy_params(), WIDE, changes.pop("queries", QUERIES), **options | changes)


def more_padding(rolled, left, right):
    """The same texts with more padding on both sides, of ids that would disturb."""
    B = len(rolled.mask)

    def pad(x, before, after, value):
        parts = [np.full((B, before), value, x.dtype), x, np.full((B, after), value, x.dtype)]
        return np.concatenate(parts, axis=1)

    return Rollout(
        pad(rolled.input_ids, left, right, 7),
        pad(rolled.real, left, right, False),
        pad(rolled.answers, 0, right, 7),
        pad(rolled.mask, 0, right, False),
        rolled.ended,
    )


def test_the_layout_of_the_docstring():
    prompt = np.array([[8, 8], [PAD, 9]])
    real = np.array([[T, T], [F, T]])
    rolled = lay_out(prompt, real, np.array([[5, END, 4], [6, 7, 4]]), [END, 1], PAD)
    assert rolled.input_ids.tolist() == [[8, 8, 5, END, PAD], [PAD, 9, 6, 7, 4]]
    assert rolled.real.tolist() == [[T, T, T, T, F], [F, T, T, T, T]]
    assert rolled.answers.tolist() == [[5, END, PAD], [6, 7, 4]]
    assert rolled.mask.tolist() == [[T, T, F], [T, T, T]]
    assert rolled.ended.tolist() == [True, False]
    assert as_lists(rolled) == ([[8, 8], [9]], [[5, END], [6, 7, 4]])


def test_any_of_several_end_tokens_ends_an_answer_and_only_the_first_counts():
    prompt, real = np.array([[9]] * 3), np.ones((3, 1), bool)
    answers = np.array([[1, END, 4], [4, END, 1], [4, 4, 1]])
    rolled = lay_out(prompt, real, answers, [END, 1], 10)
    assert as_lists(rolled)[1] == [[1], [4, END], [4, 4, 1]]
    assert rolled.ended.all()
    assert rolled.answers[0].tolist() == [1, 10, 10]


def test_a_stop_that_is_no_end_leaves_the_answer_without_one():
    prompt, real = np.array([[9]] * 4), np.ones((4, 1), bool)
    answers = np.array([[1, END, 4], [4, END, 1], [4, 4, 1], [4, 4, 4]])
    rolled = lay_out(prompt, real, answers, [END, 1], 10, [END])
    assert as_lists(rolled)[1] == [[1], [4, END], [4, 4, 1], [4, 4, 4]]  # as with both
    assert rolled.ended.tolist() == [False, True, False, False]
    both, one = answer(eos_token_ids=[END, 3]), answer(eos_token_ids=[END, 3], end_token_ids=[END])
    np.testing.assert_array_equal(both.input_ids, one.input_ids)
    last = [ids[-1] for ids in as_lists(one)[1]]
    assert one.ended.tolist() == [token == END for token in last]
    assert both.ended.tolist() == [token in (END, 3) for token in last]
    assert one.ended.sum() < both.ended.sum()


def test_answers_stand_beside_their_query_and_are_cut_after_the_end_token():
    rolled = answer()
    queries, answers = as_lists(rolled)
    assert queries == [query for query in QUERIES for _ in range(2)]
    assert any(a != b for a, b in zip(answers[::2], answers[1::2], strict=True))
    for ids, ended, mask in zip(answers, rolled.ended, rolled.mask, strict=True):
        assert END not in ids[:-1]
        assert ended == (ids[-1] == END)
        assert ended or len(ids) == 6
        assert mask.sum() == len(ids)
    assert 0 < rolled.ended.sum() < len(answers)  # both kinds are in this test
    assert {True, False} == set(rolled.mask[:, -1].tolist())


def test_the_same_generator_gives_the_same_answers():
    one, two = answer(), answer()
    other = answer(rng=np.random.default_rng(1))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert as_lists(one)[1] != as_lists(other)[1]


def test_padding_in_front_does_not_change_an_answer():
    greedy = {"top_p": 1e-9, "responses_per_query": 1}
    together = as_lists(answer(**greedy))[1]
    alone = [as_lists(answer(queries=[query], **greedy))[1][0] for query in QUERIES]
    assert together == alone


def test_logprobs_are_those_of_the_whole_softmax_at_the_column_before():
    """Each text alone, without padding, and with log softmax spelled out."""
    params, temperature = policy_params(), 0.7
    value_config, value_params = value_model()
    rolled = answer()
    observed, _ = observe(
        rolled,
        (WIDE, params),
        policy_params(seed=9),
        (value_config, value_params),
        settings(temperature=temperature),
    )
    below_one = 0
    for b, (query, ids) in enumerate(zip(*as_lists(rolled), strict=True)):
        text = np.array([[*query, *ids]])
        logits, _ = language_model_forward(params, WIDE, text)
        ref_logits, _ = language_model_forward(policy_params(seed=9), WIDE, text)
        hidden, _ = backbone_forward(value_params, value_config, text)
        for t, token in enumerate(ids):
            at = len(query) + t - 1
            p, q = (np.exp(z[0, at] / temperature) for z in (logits, ref_logits))
            p, q = p / p.sum(), q / q.sum()
            assert observed.logprobs[b, t] == pytest.approx(np.log(p[token]), abs=1e-12)
            assert observed.ref_logprobs[b, t] == pytest.approx(np.log(q[token]), abs=1e-12)
            assert observed.entropy[b, t] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)
            value = hidden[0, at] @ value_params["score.weight"][0]
            assert observed.values[b, t] == pytest.approx(value, abs=1e-12)
            kept = p[np.argsort(-p)]
            below_one += (kept[: int((kept.cumsum() < 0.8).sum()) + 1]).sum() < 0.99
    assert below_one > 10  # the cut softmax would have been another one


def test_more_padding_gives_the_same_numbers():
    rolled = answer()
    models = (WIDE, policy_params()), policy_params(seed=9), value_model(), settings()
    observed, _ = observe(rolled, *models)
    padded, _ = observe(more_padding(rolled, 3, 2), *models)
    for x, y in zip(observed, padded, strict=True):
        assert y.shape == (x.shape[0], x.shape[1] + 2)
        np.testing.assert_allclose(y[:, :-2][rolled.mask], x[rolled.mask], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["logits", "values"])
def test_the_way_back_through_the_heads(kind):
    rolled = more_padding(answer(queries=QUERIES[1:4], responses_per_query=1), 1, 1)
    if kind == "logits":
        config, params = WIDE, policy_params()
        forward, backward = answer_logits_forward, answer_logits_backward
    else:
        config, params = value_model()
        forward, backward = answer_values_forward, answer_values_backward
    y, cache = forward(params, config, rolled)
    dy = np.random.default_rng(3).standard_normal(y.shape)
    dy[~rolled.mask] = 0
    grads = backward(dy, cache)
    assert grads.keys() == params.keys()
    for key in params:
        expected = numerical_gradient(
            lambda: float((forward(params, config, rolled)[0] * dy).sum()), params[key]
        )
        scale = max(np.abs(expected).max(), 1e-6)
        assert np.abs(grads[key] - expected).max() <= 1e-7 * scale, key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses_per_query": 0}, "must be 1 or more, got 0 and 6"),
        ({"max_new_tokens": 0}, "must be 1 or more, got 2 and 0"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"eos_token_ids": []}, "eos_token_ids must name at least one token"),
        ({"queries": [[1], []]}, "at least one list of at least one id"),
        ({"top_p": 0.0}, "top_p must be in"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        answer(**changes)


def test_queries_are_checked_by_number():
    for queries, message in (
        ([], "queries must be at least one list of ids"),
        ([[1], []], r"queries\[1\] is empty"),
        ([[1], [2, 11]], r"queries\[1\] must be in \[0, V=11\), got values from 2 to 11"),
    ):
        with pytest.raises(ValueError, match=message):
            require_queries(queries, 11)


def test_models_with_the_wrong_head_are_refused():
    rolled = answer()
    value_config, value_params = value_model()
    with pytest.raises(ValueError, match="the policy needs logits"):
        answer_logits_forward(value_params, value_config, rolled)
    with pytest.raises(ValueError, match="the value model needs a score head"):
        answer_values_forward(policy_params(), WIDE, rolled)

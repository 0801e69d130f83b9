"""Sampling rules with their edges, and the decoding loop: batches, stops, streams."""

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.model.generate import generate, left_pad
from minqwen.model.language_model import language_model_forward
from minqwen.model.sampling import keep_top_k, keep_top_p, sample

P = np.array([[0.5, 0.3, 0.1, 0.06, 0.04]])


def kept(probs):
    return np.flatnonzero(probs[0]).tolist()


def test_top_p_keeps_the_smallest_set_and_no_extra_token_at_exactly_p():
    assert kept(keep_top_p(P, 0.9, 1e-15)) == [0, 1, 2]  # .5 + .3 + .1 is exactly .9
    assert kept(keep_top_p(P, 0.91)) == [0, 1, 2, 3]
    assert kept(keep_top_p(P, 0.5)) == [0]
    assert kept(keep_top_p(P, 0.500001)) == [0, 1]
    assert kept(keep_top_p(P, 1e-9)) == [0]  # at least one
    assert kept(keep_top_p(P, 1.0)) == [0, 1, 2, 3, 4]
    assert kept(keep_top_p(P[:, ::-1], 0.9)) == [2, 3, 4]


def test_top_p_of_float32_logits_at_exactly_p():
    logits = np.log(P).astype(np.float32)
    counts = np.bincount(
        [int(sample(logits, top_p=0.9, rng=np.random.default_rng(i))[0]) for i in range(300)]
    )
    assert len(counts) == 3


def test_top_k_and_its_ties():
    assert kept(keep_top_k(P, 2)) == [0, 1]
    assert kept(keep_top_k(P, 0)) == [0, 1, 2, 3, 4]
    assert kept(keep_top_k(P, 99)) == [0, 1, 2, 3, 4]
    assert kept(keep_top_k(np.array([[0.2, 0.2, 0.4, 0.2]]), 2)) == [0, 2]
    assert kept(keep_top_k(np.array([[0.25] * 4]), 3)) == [0, 1, 2]


def test_frequencies_follow_the_probabilities():
    rng = np.random.default_rng(0)
    drawn = sample(np.log(np.repeat(P, 20000, axis=0)), rng=rng)
    np.testing.assert_allclose(np.bincount(drawn) / 20000, P[0], atol=0.012)


def test_temperature():
    logits = np.log(np.repeat(P, 5000, axis=0))
    assert (sample(logits, temperature=0) == 0).all()
    assert (sample(logits, temperature=0.01, rng=np.random.default_rng(0)) == 0).mean() > 0.999
    hot = np.bincount(sample(logits, temperature=100.0, rng=np.random.default_rng(0)), minlength=5)
    assert hot.min() > 800
    assert sample(np.array([[1.0, 1.0]]), temperature=0)[0] == 0  # ties to the lower id
    assert sample(np.array([[1e30, -1e30]], np.float32), rng=np.random.default_rng(0))[0] == 0


def test_a_token_with_no_probability_is_never_drawn():
    logits = np.array([[-np.inf, 0.0, -np.inf, 0.0, -np.inf]])
    drawn = {int(sample(logits, rng=np.random.default_rng(i))[0]) for i in range(200)}
    assert drawn == {1, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_k": -1}, "top_k must be"),
        ({"top_k": 1.5}, "top_k must be"),
        ({"top_p": 0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\]"),
        ({"rng": None}, "needs rng"),
    ],
)
def test_sampling_errors(options, message):
    with pytest.raises(ValueError, match=message):
        sample(np.log(P), **{"rng": np.random.default_rng(0), **options})


@pytest.mark.parametrize("row", [[0, np.nan], [0, np.inf], [-np.inf, -np.inf]])
def test_logits_that_leave_no_choice_are_an_error(row):
    with pytest.raises(ValueError, match="logits hold NaN"):
        sample(np.array([row]), temperature=0)


@pytest.fixture
def model():
    config = small_config()
    return random_params(config), config


def test_greedy_is_the_argmax_of_the_full_pass_at_every_step(model):
    ids = np.array([[5, 3, 8, 1]])
    out = generate(*model, ids, max_new_tokens=7)
    assert out.shape == (1, 11)
    np.testing.assert_array_equal(out[:, :4], ids)
    logits, _ = language_model_forward(*model, out)
    np.testing.assert_array_equal(logits[0, 3:-1].argmax(-1), out[0, 4:])


def test_rows_of_different_length_get_what_they_get_alone(model):
    rows = [[5, 3, 8, 1, 9], [7], [2, 2]]
    ids, mask = left_pad(rows, pad_id=0)
    together = generate(*model, ids, attention_mask=mask, max_new_tokens=6)
    for i, row in enumerate(rows):
        alone = generate(*model, np.array([row]), max_new_tokens=6)
        np.testing.assert_array_equal(together[i, 5:], alone[0, len(row) :])


def test_each_row_stops_by_itself(model):
    ids = np.array([[5, 3], [7, 9], [1, 4]])
    free = generate(*model, ids, max_new_tokens=9)[:, 2:]
    stop = int(free[0, 2])  # a token that row 0 writes third
    out = generate(*model, ids, max_new_tokens=9, eos_token_ids=[stop])[:, 2:]
    lengths = []
    for row, want in zip(out, free, strict=True):
        end = (list(want).index(stop) + 1) if stop in want else 9
        lengths.append(end)
        assert row[:end].tolist() == want[: min(end, len(row))].tolist()
        assert (row[end:] == stop).all()
    assert out.shape[1] == max(lengths)  # nobody is waited for once all are done


def test_a_stream_gives_the_same_tokens_one_step_at_a_time(model):
    ids = np.array([[5, 3], [7, 9]])
    options = {"max_new_tokens": 5, "temperature": 1.0}
    whole = generate(*model, ids, rng=np.random.default_rng(0), **options)
    steps = list(generate(*model, ids, rng=np.random.default_rng(0), stream=True, **options))
    assert all(step.shape == (2,) for step in steps)
    np.testing.assert_array_equal(np.stack(steps, axis=1), whole[:, 2:])


def test_zero_new_tokens(model):
    ids = np.array([[5, 3]])
    np.testing.assert_array_equal(generate(*model, ids, max_new_tokens=0), ids)


def test_generate_errors_come_before_any_work(model):
    ids = np.array([[5, 3]])
    for changes, message in [
        ({"max_new_tokens": -1}, "max_new_tokens must be"),
        ({"top_p": 2.0}, "top_p must be"),
        ({"temperature": 1.0}, "needs rng"),
        ({"eos_token_ids": [61]}, r"eos_token_ids must be in \[0, V=61\)"),
        ({"attention_mask": np.array([[True, False]])}, "must end with a real token"),
        ({"input_ids": np.array([[1, 61]])}, r"input_ids must be in \[0, V=61\)"),
        ({"input_ids": np.zeros((1, 0), int)}, "at least one token"),
        ({"params": {}}, "params do not fit the config"),
        ({"attention_mask": np.array([[True]])}, r"attention_mask must have shape \(B=1, T=2\)"),
    ]:
        for stream in (False, True):
            arguments = {"params": model[0], "config": model[1], "input_ids": ids}
            with pytest.raises(ValueError, match=message):
                generate(**{**arguments, "max_new_tokens": 1, "stream": stream, **changes})
    with pytest.raises(ValueError, match="at least one list of at least one id"):
        left_pad([[1], []], 0)

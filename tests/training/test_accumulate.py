"""Gradient accumulation: pieces of a batch give what the batch gives, whatever they count."""

import dataclasses

import numpy as np
import pytest
from training.small_run import CONFIG, ROWS

from minqwen.model.init import init_params
from minqwen.training.accumulate import Batch, as_batch, count_tokens, evaluate, loss_and_grads

NO_DROPOUT = dataclasses.replace(CONFIG, dropout=0.0)


@pytest.fixture
def params():
    return init_params(NO_DROPOUT, np.random.default_rng(2), dtype="float64")


def unequal_pieces():
    rng = np.random.default_rng(3)
    mask = rng.random((7, 5)) < np.linspace(0.1, 1, 7)[:, None]  # few tokens count in the first
    batch = Batch(ROWS[:7, :-1], ROWS[:7, 1:], mask)
    cuts = [slice(0, 3), slice(3, 4), slice(4, 7)]
    return batch, [Batch(*(part[cut] for part in batch)) for cut in cuts]


def largest_difference(grads, others):
    return max(np.abs(grads[key] - others[key]).max() / np.abs(grads[key]).max() for key in grads)


def test_micro_batches_of_unequal_counts_equal_one_batch(params):
    batch, pieces = unequal_pieces()
    loss, grads, tokens = loss_and_grads(params, NO_DROPOUT, [batch])[:3]
    loss_2, grads_2, tokens_2 = loss_and_grads(params, NO_DROPOUT, pieces)[:3]
    assert tokens == tokens_2 == batch.loss_mask.sum()
    assert loss_2 == pytest.approx(loss, rel=1e-13)
    assert grads.keys() == grads_2.keys() == params.keys()
    assert largest_difference(grads, grads_2) < 1e-12


def test_the_mean_of_means_would_be_seen(params):
    batch, pieces = unequal_pieces()
    grads = loss_and_grads(params, NO_DROPOUT, [batch]).grads
    alone = [loss_and_grads(params, NO_DROPOUT, [piece])[1] for piece in pieces]
    means = {key: sum(g[key] for g in alone) / len(alone) for key in grads}
    assert largest_difference(grads, means) > 1e-2


def test_ignored_labels_and_pieces_without_a_token_change_nothing(params):
    batch, _ = unequal_pieces()
    labels = np.where(batch.loss_mask, batch.labels, -100)
    loss, grads, tokens = loss_and_grads(params, NO_DROPOUT, [batch])[:3]
    nothing = Batch(batch.input_ids, np.full_like(labels, -100))
    same = loss_and_grads(params, NO_DROPOUT, [nothing, Batch(batch.input_ids, labels), nothing])
    assert same[0] == loss
    assert same[2] == tokens
    assert largest_difference(grads, same[1]) == 0
    assert count_tokens(nothing) == 0
    with pytest.raises(ValueError, match="no token that counts"):
        loss_and_grads(params, NO_DROPOUT, [nothing])


def test_every_micro_batch_and_step_drops_other_numbers(params):
    config = dataclasses.replace(CONFIG, dropout=0.5)
    batch = as_batch(ROWS[:2])
    losses = [loss_and_grads(params, config, [batch], seed=(1, 0, step))[0] for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]
    double = loss_and_grads(params, config, [batch, batch], seed=(1, 0, 0))[0]
    assert double != pytest.approx(losses[0])


def test_evaluate_is_the_mean_over_tokens_whatever_the_pieces(params):
    whole = loss_and_grads(params, NO_DROPOUT, [as_batch(ROWS)]).loss
    for size in (1, 4, 13, 100):
        assert evaluate(params, CONFIG, ROWS, size).loss == pytest.approx(whole, rel=1e-12)

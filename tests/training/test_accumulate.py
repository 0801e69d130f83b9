"""Gradient accumulation: pieces of a batch give what the batch gives, whatever they count."""

import dataclasses

import numpy as np
import pytest
from training.small_run import CONFIG, ROWS

from minqwen.layers.cross_entropy import cross_entropy_forward
from minqwen.model.init import init_params
from minqwen.model.language_model import language_model_forward, router_caches
from minqwen.model.router_loss import expert_counts, router_loss_forward
from minqwen.training import accumulate
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
    return batch, [Batch(*(part[cut] for part in batch[:3])) for cut in cuts]


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


def test_a_chunked_head_gives_the_same(params, monkeypatch):
    _, pieces = unequal_pieces()
    loss, grads = loss_and_grads(params, NO_DROPOUT, pieces)[:2]

    def never(*args, **options):
        raise AssertionError("all logits were made")

    monkeypatch.setattr(accumulate, "language_model_forward", never)
    loss_2, grads_2 = loss_and_grads(params, NO_DROPOUT, pieces, chunked_head=True)[:2]
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


EXPERTS = dataclasses.replace(
    NO_DROPOUT,
    model_type="qwen2_moe",
    num_hidden_layers=2,
    num_experts=5,
    num_experts_per_tok=2,
    moe_intermediate_size=3,
    shared_expert_intermediate_size=4,
    router_aux_loss_coef=0.4,
)


@pytest.mark.parametrize(
    "options",
    [{}, {"z_loss_coef": 0.3, "pool_router_layers": True}, {"chunked_head": True}],
)
def test_the_gradient_of_uneven_pieces_with_losses_on_routers(options):
    """Each piece has its share of all losses, also of those on the routers."""
    params = init_params(EXPERTS, np.random.default_rng(3), dtype="float64")
    params = {k: w * (10 if w.ndim > 1 else 1) for k, w in params.items()}
    _, pieces = unequal_pieces()
    counts = [count_tokens(piece) for piece in pieces]
    assert len(set(counts)) > 1

    def total(params):
        loss = 0.0
        for piece, n in zip(pieces, counts, strict=True):
            logits, cache = language_model_forward(params, EXPERTS, piece.input_ids)
            words, _ = cross_entropy_forward(logits, piece.labels, piece.loss_mask)
            extra, _, _ = router_loss_forward(
                router_caches(cache),
                0.4,
                z_coef=options.get("z_loss_coef", 0.0),
                pool_layers=options.get("pool_router_layers", False),
            )
            loss += n / sum(counts) * (words + extra)
        return loss

    found = loss_and_grads(params, EXPERTS, pieces, **options)
    rng = np.random.default_rng(4)
    for name, w in params.items():
        direction = rng.standard_normal(w.shape)
        sides = [total({**params, name: w + s * 1e-6 * direction}) for s in (1, -1)]
        got, want = (found.grads[name] * direction).sum(), (sides[0] - sides[1]) / 2e-6
        assert abs(got - want) < 1e-6 * (np.sqrt((found.grads[name] ** 2).sum()) + 1e-3), name


def test_the_use_of_experts_is_counted_over_all_pieces():
    params = init_params(EXPERTS, np.random.default_rng(3), dtype="float64")
    batch = as_batch(ROWS[:6])
    pieces = [as_batch(ROWS[:1]), as_batch(ROWS[1:4]), as_batch(ROWS[4:6])]
    whole = loss_and_grads(params, EXPERTS, [batch])
    assert loss_and_grads(params, EXPERTS, pieces).max_load == pytest.approx(whole.max_load)
    _, cache = language_model_forward(params, EXPERTS, batch.input_ids)
    counts = expert_counts(router_caches(cache))
    assert whole.max_load == pytest.approx(counts.max() / counts.sum(axis=1)[0] * 5)
    for size in (1, 4, 13):
        load = evaluate(params, EXPERTS, ROWS[:6], size).expert_load
        np.testing.assert_allclose(load, counts / counts.sum(axis=1, keepdims=True))


def test_padding_is_no_token():
    """Neither for attention nor for the balance of the experts, whatever ids stand there."""
    params = init_params(EXPERTS, np.random.default_rng(3), dtype="float64")
    rows = ROWS[:3]
    real = np.ones((3, 5), bool)
    real[0, 3:] = real[2, 1:] = False
    found = []
    for ids in (rows[:, :-1], np.where(real, rows[:, :-1], 7)):
        batch = Batch(ids, np.where(real, rows[:, 1:], -100), real=real)
        found.append(loss_and_grads(params, EXPERTS, [batch]))
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-12)
    assert found[0].aux_loss == pytest.approx(found[1].aux_loss, rel=1e-12)
    assert found[0].max_load == pytest.approx(found[1].max_load)
    assert largest_difference(found[0].grads, found[1].grads) < 1e-9

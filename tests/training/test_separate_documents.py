"""Documents that share a row: with a separator id none sees another, and each is read as alone."""

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.data.packing import document_segments, pack_documents
from minqwen.layers.cross_entropy import IGNORED
from minqwen.training.accumulate import Batch, as_batch, count_tokens, evaluate, loss_and_grads
from minqwen.training.pretrain import pretrain
from minqwen.training.resume import load_run
from minqwen.training.settings import PretrainSettings

SEPARATOR = 60
DOCUMENTS = [np.random.default_rng(n).integers(0, 60, n) for n in (3, 9, 1, 5, 7, 2, 11, 4)]
ROWS = pack_documents(DOCUMENTS, 12, SEPARATOR)


def pieces_of(rows):
    """Return a batch of one document, or of what a row has of it, for each; nothing shared."""
    found = []
    for row in rows:
        start = 0
        for t in range(len(row) - 1):
            if row[t] == SEPARATOR or t == len(row) - 2:
                inputs, labels = row[start : t + 1], row[start + 1 : t + 2].copy()
                if row[t] == SEPARATOR:
                    labels[-1] = IGNORED  # what comes after a separator is another document
                found.append(Batch(inputs[None], labels[None]))
                start = t + 1
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_windows": [4, None]},
        {"model_type": "qwen3", "attention_bias": False, "tie_word_embeddings": True},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 5},
    ],
    ids=["plain", "windows", "qwen3", "dynamic"],
)
def test_a_row_gives_the_loss_and_gradient_of_its_documents_one_by_one(changes):
    config = small_config(**changes)
    params = random_params(config)
    together = loss_and_grads(params, config, [as_batch(ROWS, SEPARATOR)])
    alone = loss_and_grads(params, config, pieces_of(ROWS))
    assert together.tokens == alone.tokens
    assert together.loss == pytest.approx(alone.loss, rel=1e-13)
    for key, grad in alone.grads.items():
        assert np.abs(together.grads[key] - grad).max() < 1e-11 * np.abs(grad).max(), key


def test_it_matters():
    config = small_config()
    params = random_params(config)
    apart = loss_and_grads(params, config, [as_batch(ROWS, SEPARATOR)]).loss
    mixed = as_batch(ROWS, SEPARATOR)._replace(segments=None)
    assert abs(apart - loss_and_grads(params, config, [mixed]).loss) > 0.01


def test_a_separator_ends_its_document_and_asks_for_nothing():
    inputs = ROWS[:, :-1]
    batch = as_batch(ROWS, SEPARATOR)
    np.testing.assert_array_equal(batch.segments, document_segments(inputs, SEPARATOR))
    assert (batch.labels[inputs == SEPARATOR] == IGNORED).all()
    kept = inputs != SEPARATOR
    np.testing.assert_array_equal(batch.labels[kept], ROWS[:, 1:][kept])
    assert count_tokens(batch) == kept.sum()
    for row, numbers in zip(inputs, batch.segments, strict=True):
        for t in range(1, len(row)):
            assert numbers[t] - numbers[t - 1] == (row[t - 1] == SEPARATOR)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_evaluation_is_the_mean_over_what_counts(batch_size):
    config = small_config()
    params = random_params(config)
    want = loss_and_grads(params, config, [as_batch(ROWS, SEPARATOR)]).loss
    got = evaluate(params, config, ROWS, batch_size, SEPARATOR).loss
    assert got == pytest.approx(want, rel=1e-12)
    assert evaluate(params, config, ROWS, batch_size).loss != pytest.approx(want, rel=1e-3)


def settings(**changes):
    values = {"steps": 4, "batch_size": 2, "context_length": 12, "warmup_steps": 1}
    values |= {"separator_id": SEPARATOR, "dtype": "float64", "checkpoint_every": 2}
    return PretrainSettings(**{**values, **changes})


def test_pretraining_separates_and_goes_on_bit_by_bit(tmp_path):
    config = small_config(initializer_range=0.3)
    quiet = {"progress": False, "plot": False, "validation_rows": ROWS[:2]}
    pretrain(config, ROWS, tmp_path / "cut", settings(steps=2), **quiet)
    cut = pretrain(config, ROWS, tmp_path / "cut", settings(), **quiet)
    whole = pretrain(config, ROWS, tmp_path / "whole", settings(steps=4), **quiet)
    mixed = pretrain(config, ROWS, tmp_path / "mixed", settings(separator_id=None), **quiet)
    for key, w in whole.items():
        assert not np.array_equal(w, mixed[key]) or "bias" in key
    # the schedule depends on steps, so only runs of the same plan are equal
    again = pretrain(config, ROWS, tmp_path / "again", settings(steps=2), **quiet)
    assert load_run(tmp_path / "again", "float64")[1]["step"] == 2
    assert set(again) == set(cut)
    with pytest.raises(ValueError, match="separator_id = 60, not None"):
        pretrain(config, ROWS, tmp_path / "whole", settings(separator_id=None), **quiet)


@pytest.mark.parametrize(
    ("changes", "config", "error", "says"),
    [
        ({"separator_id": 61}, {}, ValueError, "separator_id must be below config.vocab_size=61"),
        (
            {},
            {"dual_chunk_attention_config": {"chunk_size": 8, "local_size": 2}},
            NotImplementedError,
            "dual chunk attention",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    changes, config, error, says, tmp_path
):
    with pytest.raises(error, match=says):
        pretrain(
            small_config(**config), ROWS, tmp_path / "run", settings(**changes), progress=False,
            plot=False,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [-1, 2.0, True, "60"])
def test_a_separator_is_an_id(value):
    with pytest.raises(ValueError, match="separator_id must be a whole number, at least 0"):
        settings(separator_id=value)

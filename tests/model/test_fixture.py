"""The whole model against a file that transformers wrote: how the layers are joined."""

import pytest
from helpers.model_fixture import MODELS, arrays, logits_error, loss_and_gradient_errors

from minqwen.model.language_model import language_model_backward, language_model_forward


@pytest.mark.parametrize("model", MODELS)
def test_logits_loss_and_every_gradient(model):
    assert logits_error(model, language_model_forward) < 1e-9
    errors = loss_and_gradient_errors(model, language_model_forward, language_model_backward)
    more = {"tied": -1, "moe": 2 * (7 - 3), "qwen3_moe": 2 * (2 - 3)}  # there norms for biases
    assert len(errors) == 1 + 27 + more.get(model, 0)
    assert max(errors.values()) < 1e-9, max(errors.items(), key=lambda item: item[1])


def test_what_the_file_holds():
    """Padding, gaps in the positions that differ between rows, ignored labels; versions."""
    mask, positions, labels = (arrays()[k] for k in ("mask", "positions", "labels"))
    assert not mask[1:, 0].any()
    assert mask[:, -1].all()
    gaps = positions[:, 1:] - positions[:, :-1]
    assert len({tuple(row) for row in gaps.tolist()}) == 3
    assert gaps.min() != gaps.max()
    assert (labels[~mask] == -100).all()
    assert (labels[mask] == -100).sum() == 1
    assert "transformers" in str(arrays()["made with"])

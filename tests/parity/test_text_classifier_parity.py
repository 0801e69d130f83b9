"""Loss and gradient of the text classifier, against torch's own."""

import numpy as np
import pytest

from minqwen.data.hashed_ngrams import hash_texts
from minqwen.data.text_classifier import logistic_loss_backward, logistic_loss_forward

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TEXTS = ["a small cat", "", "一只小猫 cat cat", "buy it now", "cat"]


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("buckets", [5, 997])
def test_loss_and_gradient(buckets, l2):
    rng = np.random.default_rng(0)
    x = hash_texts(TEXTS, buckets)
    rows = np.zeros((len(TEXTS), buckets))
    rows[x.text, x.bucket] = x.value
    w, b, targets = rng.normal(0, 3, buckets), np.array(-0.8), rng.random(len(TEXTS))
    loss, cache = logistic_loss_forward(x, w, b, targets, l2)
    dw, db = logistic_loss_backward(1.7, cache)

    w_torch, b_torch = (torch.tensor(a, requires_grad=True) for a in (w, b))
    expected = (
        torch.nn.functional.binary_cross_entropy_with_logits(
            torch.from_numpy(rows) @ w_torch + b_torch, torch.from_numpy(targets)
        )
        + l2 / 2 * (w_torch**2).sum()
    )
    (1.7 * expected).backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-12)
    np.testing.assert_allclose(dw, w_torch.grad, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(db, b_torch.grad, rtol=1e-11)

"""Learning from preferences against PyTorch autograd, float64: TRL's formulas, derived again.

TRL (trl/trainer/utils.py, reward_trainer.py, dpo_trainer.py) writes them so: log-probabilities as
log_softmax and gather of logits divided by the temperature; the reward loss as
-logsigmoid(chosen - rejected - margin), averaged; the DPO loss as -logsigmoid(beta * (log ratio of
the policy - log ratio of the reference)), averaged over the pairs, from sums over the answer.
"""

import numpy as np
import pytest

from minqwen.alignment.dpo_loss import dpo_loss_backward, dpo_loss_forward
from minqwen.alignment.pairwise_loss import pairwise_loss_backward, pairwise_loss_forward
from minqwen.alignment.reward_head import last_real, reward_head_backward, reward_head_forward
from minqwen.alignment.token_logprobs import (
    sequence_logprobs_backward,
    sequence_logprobs_forward,
    token_logprobs_backward,
    token_logprobs_forward,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

BOUNDS = [("float64", 1e-12), ("float32", 1e-5)]


def largest(ours, want):
    want = np.asarray(want.detach())
    return np.abs(ours - want).max() / np.abs(want).max()


def leaf(x):
    return torch.from_numpy(x.copy()).requires_grad_()


def log_sigmoid(x):
    return torch.nn.functional.logsigmoid(x)


def gathered(logits, ids, temperature):
    """Log-probabilities of ids, as TRL's selective_log_softmax."""
    return torch.log_softmax(logits / temperature, -1).gather(-1, ids[..., None])[..., 0]


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
@pytest.mark.parametrize("shape", [(2, 5, 11), (3, 7, 1009)])
def test_token_logprobs(shape, temperature, dtype, bound):
    rng = np.random.default_rng(0)
    logits = 4 * rng.standard_normal(shape).astype(dtype)
    ids, dl = rng.integers(0, shape[-1], shape[:-1]), rng.standard_normal(shape[:-1]).astype(dtype)
    logprobs, cache = token_logprobs_forward(logits, ids, temperature, block=100)
    dlogits = token_logprobs_backward(dl, cache)

    z = leaf(logits)
    want = gathered(z, torch.from_numpy(ids), temperature)
    want.backward(torch.from_numpy(dl))
    assert largest(logprobs, want) < bound
    assert largest(dlogits, z.grad) < bound


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sequence_logprobs(reduction):
    rng = np.random.default_rng(0)
    logprobs, mask, dy = rng.standard_normal((5, 13)), rng.random((5, 13)) < 0.6, rng.random(5)
    y, cache = sequence_logprobs_forward(logprobs, mask, reduction)
    x, m = leaf(logprobs), torch.from_numpy(mask)
    want = (x * m).sum(-1) / (m.sum(-1) if reduction == "mean" else 1)
    want.backward(torch.from_numpy(dy))
    assert largest(y, want) < 1e-12
    assert largest(sequence_logprobs_backward(dy, cache), x.grad) < 1e-12


@pytest.fixture(scope="module")
def classifier():
    """A small Qwen2ForSequenceClassification whose padding has the id 30."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=31,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_labels=1,
        pad_token_id=30,
    )
    return transformers.Qwen2ForSequenceClassification(config).double().eval()


def their_rewards(classifier, ids):
    """Return the hidden states that their head saw, and the reward of each row.

    No mask: what the padding does to attention is not asked here, only where the reward is read.
    """
    seen = []
    hook = classifier.score.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    rewards = classifier(input_ids=torch.from_numpy(ids)).logits[:, 0]
    hook.remove()
    seen[0].retain_grad()
    return seen[0], rewards


@pytest.mark.parametrize("padding", ["left", "right"])
def test_reward_head_is_qwen2_for_sequence_classification(classifier, padding):
    rng = np.random.default_rng(0)
    order = np.arange(7) if padding == "right" else 6 - np.arange(7)
    real = order < np.array([[7], [4], [2]])
    ids = np.where(real, rng.integers(0, 30, (3, 7)), 30)
    dr = rng.standard_normal(3)
    hidden, want = their_rewards(classifier, ids)
    classifier.zero_grad()
    want.backward(torch.from_numpy(dr))

    w = classifier.score.weight
    assert tuple(w.shape) == (1, 12)
    assert classifier.score.bias is None
    rewards, cache = reward_head_forward(
        hidden.detach().numpy(), w.detach().numpy(), last_real(real)
    )
    dhidden, dw = reward_head_backward(dr, cache)
    assert largest(rewards, want) < 1e-12
    assert largest(dhidden, hidden.grad) < 1e-12
    assert largest(dw, w.grad) < 1e-12


def test_an_end_token_that_is_also_the_padding_is_passed_over_by_theirs_and_not_by_ours(classifier):
    ids = np.array([[3, 5, 7, 30, 30]])  # the first 30 ends the answer, the second is padding
    hidden, want = their_rewards(classifier, ids)
    h, w = hidden.detach().numpy(), classifier.score.weight.detach().numpy()
    before, end = (reward_head_forward(h, w, np.array([place]))[0] for place in (2, 3))
    assert largest(before, want) < 1e-12
    assert largest(end, want) > 1e-3


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("with_margin", [False, True])
@pytest.mark.parametrize("size", [0.1, 3.0, 300.0])
def test_pairwise_loss(size, with_margin, dtype, bound):
    rng = np.random.default_rng(0)
    chosen, rejected = (size * rng.standard_normal((2, 13))).astype(dtype)
    margin = rng.random(13).astype(dtype) if with_margin else None
    loss, cache = pairwise_loss_forward(chosen, rejected, margin)
    gradients = pairwise_loss_backward(0.7, cache)

    c, r = leaf(chosen), leaf(rejected)
    by = torch.from_numpy(margin) if with_margin else 0
    want = -log_sigmoid(c - r - by).mean()
    (0.7 * want).backward()
    assert largest(loss, want) < bound
    assert largest(gradients[0], c.grad) < bound
    assert largest(gradients[1], r.grad) < bound


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("size", [0.1, 10.0, 1000.0])
def test_dpo_loss(size, beta, dtype, bound):
    rng = np.random.default_rng(0)
    values = (size * rng.standard_normal((4, 13))).astype(dtype)
    loss, cache = dpo_loss_forward(*values, beta)
    gradients = dpo_loss_backward(0.7, cache)

    c, r = leaf(values[0]), leaf(values[1])
    rc, rr = (torch.from_numpy(x) for x in values[2:])
    want = -log_sigmoid(beta * ((c - r) - (rc - rr))).mean()
    (0.7 * want).backward()
    scale = max(1.0, size if dtype == "float32" else 1.0)  # they subtract in another order
    assert largest(loss, want) < bound * scale
    assert largest(gradients[0], c.grad) < bound * scale
    assert largest(gradients[1], r.grad) < bound * scale


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_dpo_from_logits_to_logits(reduction):
    """The whole chain, with prompts of other lengths than the answers, against autograd."""
    rng = np.random.default_rng(1)
    policy, reference = 2 * rng.standard_normal((2, 2, 3, 9, 17))
    ids, mask = rng.integers(0, 17, (2, 3, 9)), rng.random((2, 3, 9)) < 0.5
    mask[..., 4] = True
    sums, refs, caches = [], [], []
    for side in range(2):
        logprobs, cache = token_logprobs_forward(policy[side], ids[side])
        total, total_cache = sequence_logprobs_forward(logprobs, mask[side], reduction)
        sums.append(total)
        caches.append((cache, total_cache))
        logprobs, _ = token_logprobs_forward(reference[side], ids[side])
        refs.append(sequence_logprobs_forward(logprobs, mask[side], reduction)[0])
    loss, cache = dpo_loss_forward(*sums, *refs, 0.3)
    dlogits = [
        token_logprobs_backward(sequence_logprobs_backward(d, total_cache), token_cache)
        for d, (token_cache, total_cache) in zip(dpo_loss_backward(1.0, cache), caches, strict=True)
    ]

    z, m = leaf(policy), torch.from_numpy(mask)
    tokens = torch.from_numpy(ids)
    ours, theirs = (
        (gathered(x, tokens, 1.0) * m).sum(-1) / (m.sum(-1) if reduction == "mean" else 1)
        for x in (z, torch.from_numpy(reference))
    )
    want = -log_sigmoid(0.3 * ((ours[0] - ours[1]) - (theirs[0] - theirs[1]))).mean()
    want.backward()
    assert largest(loss, want) < 1e-12
    assert largest(np.array(dlogits), z.grad) < 1e-12

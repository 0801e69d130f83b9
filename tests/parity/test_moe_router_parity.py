"""Router and its losses against PyTorch autograd and transformers, float64."""

import contextlib
from unittest import mock

import numpy as np
import pytest

from minqwen.layers.load_balancing_loss import (
    load_balancing_loss_backward,
    load_balancing_loss_forward,
)
from minqwen.layers.moe_router import moe_router_backward, moe_router_forward
from minqwen.layers.router_z_loss import router_z_loss_backward, router_z_loss_forward

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


@contextlib.contextmanager
def no_float32():
    """Where transformers asks for float32, it gets float64."""
    with (
        mock.patch.multiple(torch, float=torch.float64, float32=torch.float64),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        yield


def their_router(kind, w, K, norm):
    """The router of transformers with this weight, in its dtype."""
    if kind == "qwen2_moe":
        from transformers.models.qwen2_moe import modeling_qwen2_moe as hf

        make, config = hf.Qwen2MoeTopKRouter, hf.Qwen2MoeConfig()
    else:
        from transformers.models.qwen3_moe import modeling_qwen3_moe as hf

        make, config = hf.Qwen3MoeTopKRouter, hf.Qwen3MoeConfig()
    config.num_experts, config.hidden_size = w.shape
    config.num_experts_per_tok, config.norm_topk_prob = K, norm
    router = make(config)
    router.weight = torch.nn.Parameter(torch.from_numpy(w))
    return router


def written_again(x, w, K, norm):
    """The router, as its text says, in the dtype of its inputs."""
    logits = x @ w.T
    weights, ids = torch.topk(torch.softmax(logits, -1), K, dim=-1)
    return logits, weights / weights.sum(-1, keepdim=True) if norm else weights, ids


def largest(ours, want):
    return np.abs(ours - want.detach().numpy()).max() / np.abs(want.detach().numpy()).max()


@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen3_moe", "written again"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("N", "D", "E", "K"), [(37, 16, 60, 4), (37, 16, 64, 8), (11, 5, 7, 7), (3, 5, 2, 1)]
)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_router(kind, norm, N, D, E, K, dtype, bound):
    rng = np.random.default_rng(0)
    x, w, dweights = (rng.standard_normal(s).astype(dtype) for s in ((N, D), (E, D), (N, K)))
    drouter_logits = rng.standard_normal((N, E)).astype(dtype)
    weights, ids, cache = moe_router_forward(x, w, K, norm)
    dx, dw = moe_router_backward(dweights, cache, drouter_logits)

    tx = torch.from_numpy(x).requires_grad_()
    if kind == "written again":
        tw = torch.from_numpy(w).requires_grad_()
        logits, theirs, their_ids = written_again(tx, tw, K, norm)
    else:
        router = their_router(kind, w, K, norm)
        tw = router.weight
        with no_float32() if dtype == np.float64 else contextlib.nullcontext():
            logits, theirs, their_ids = router(tx)
    (
        (theirs * torch.from_numpy(dweights)).sum()
        + (logits * torch.from_numpy(drouter_logits)).sum()
    ).backward()
    np.testing.assert_array_equal(ids, their_ids.numpy())
    assert largest(cache.router_logits, logits) < bound
    assert largest(weights, theirs) < bound
    assert largest(dx, tx.grad) < bound
    assert largest(dw, tw.grad) < bound


def their_loss(layers, K, attention_mask=None):
    """The value and gradients of transformers' loss, in float64."""
    from transformers.models.qwen2_moe.modeling_qwen2_moe import load_balancing_loss_func

    tensors = tuple(torch.from_numpy(z).requires_grad_() for z in layers)
    mask = None if attention_mask is None else torch.from_numpy(attention_mask)
    with no_float32():
        loss = load_balancing_loss_func(tensors, layers[0].shape[1], K, mask)
    assert loss.dtype == torch.float64
    loss.backward()
    return loss.item(), [t.grad.numpy() for t in tensors]


def top(logits, K):
    return moe_router_forward(logits, np.eye(logits.shape[1]), K)[1]


@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize(("E", "K"), [(7, 2), (60, 4), (64, 8), (5, 5), (4, 1)])
@pytest.mark.parametrize("padding", [False, True])
def test_balance_loss_of_layers_pooled_is_that_of_the_rows_of_all(L, E, K, padding):
    rng = np.random.default_rng(0)
    B, T = 3, 13
    layers = [rng.standard_normal((B * T, E)) for _ in range(L)]
    attention_mask = (np.arange(T) >= np.array([[0], [4], [9]])).astype(int) if padding else None
    want, grads = their_loss(layers, K, attention_mask)

    pool = np.concatenate(layers)
    real = None if attention_mask is None else np.tile(attention_mask.reshape(-1) == 1, L)
    loss, cache = load_balancing_loss_forward(pool, top(pool, K), real, f_sums_to_k=True)
    dlogits = load_balancing_loss_backward(1.0, cache)
    assert abs(loss - want) < 1e-12 * want
    scale = max(np.abs(np.concatenate(grads)).max(), 1e-3)
    assert np.abs(dlogits - np.concatenate(grads)).max() < 1e-12 * scale

    switch, cache = load_balancing_loss_forward(pool, top(pool, K), real)
    assert abs(K * switch - want) < 1e-12 * want
    error = K * load_balancing_loss_backward(1.0, cache) - np.concatenate(grads)
    assert np.abs(error).max() < 1e-12 * scale


@pytest.mark.parametrize("padding", [False, True])
def test_z_loss(padding):
    rng = np.random.default_rng(0)
    logits, real = 3 * rng.standard_normal((39, 7)), np.arange(39) % 5 > 0
    loss, cache = router_z_loss_forward(logits, real if padding else None)
    dlogits = router_z_loss_backward(0.7, cache)
    tensor = torch.from_numpy(logits).requires_grad_()
    rows = tensor[torch.from_numpy(real)] if padding else tensor
    want = (torch.logsumexp(rows, -1) ** 2).mean()
    (0.7 * want).backward()
    assert abs(loss - want.item()) < 1e-12
    assert largest(dlogits, tensor.grad) < 1e-12

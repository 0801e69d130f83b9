"""Each layer alone against PyTorch, values and gradients, float64."""

import numpy as np
import pytest

from minqwen.check.concepts import concept

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
F = torch.nn.functional


def attention(q, k, v, mask):
    mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, -1).nan_to_num(0) @ v


def block_attention(q, k, v, real, window):
    T, S = q.shape[2], k.shape[2]
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    if window is not None:
        mask = mask.triu(S - T - window + 1)
    mask = mask if real is None else mask & real[:, None]
    return attention(q, k, v, mask)


def rope(x, positions):
    angle = positions[..., None] * 100.0 ** -(torch.arange(3, dtype=torch.float64) / 3)
    angle = angle if angle.ndim == 2 else angle.unsqueeze(1)
    a, b = x[..., :3], x[..., 3:]
    z = torch.complex(a, b) * torch.exp(1j * angle)
    return torch.cat((z.real, z.imag), -1)


def cross_entropy(logits, labels, loss_mask):
    labels = labels if loss_mask is None else torch.where(loss_mask, labels, -100)
    return F.cross_entropy(logits.reshape(-1, 7), labels.reshape(-1))


THEIRS = {
    "linear": F.linear,
    "embedding": lambda ids, w: F.embedding(ids, w),
    "rmsnorm": lambda x, w: F.rms_norm(x, (x.shape[-1],), w, 1e-6),
    "rope": rope,
    "attention": attention,
    "block_attention": block_attention,
    "flash_attention": block_attention,
    "swiglu": lambda x, g, u, d: F.linear(F.silu(F.linear(x, g)) * F.linear(x, u), d),
    "cross_entropy": cross_entropy,
}
CASES = [(name, case) for name in THEIRS for case in concept(name).cases]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_value_and_gradients(name, case):
    row = concept(name)
    inputs = row.cases[case](np.random.default_rng(0))
    if name == "attention":  # a fully hidden row is NaN in torch, also in its gradient
        assert case != "GQA, padding" or not inputs[3].any(-1).all()
    y, cache = row.forward(*inputs)
    dy = np.asarray(np.random.default_rng(1).standard_normal(np.shape(y)))
    grads = row.backward(dy, cache)
    grads = [g for g in (grads if isinstance(grads, tuple) else (grads,)) if g is not None]

    tensors = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in inputs]
    floats = [t.requires_grad_() for t in tensors if torch.is_tensor(t) and t.is_floating_point()]
    theirs = THEIRS[name](*tensors)
    theirs.backward(torch.from_numpy(dy))
    for ours, want in zip((y, *grads), (theirs.detach(), *(t.grad for t in floats)), strict=True):
        want = want.numpy()
        assert np.abs(ours - np.nan_to_num(want)).max() < 1e-12 * max(1, np.nanmax(np.abs(want)))

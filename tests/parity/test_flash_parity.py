"""Flash attention against PyTorch's scaled_dot_product_attention and logsumexp, float64."""

import numpy as np
import pytest

from minqwen.layers.flash_attention import flash_attention_backward, flash_attention_forward
from minqwen.long_context.window import window_mask

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
attend = torch.nn.functional.scaled_dot_product_attention


def inputs(H, Hkv, T, S, Dh=8, B=2, dtype=np.float64):
    rng = np.random.default_rng(0)
    shapes = ((B, H, T, Dh), (B, Hkv, S, Dh), (B, Hkv, S, Dh), (B, H, T, Dh))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize(("H", "Hkv"), [(3, 3), (6, 2), (5, 1)])
@pytest.mark.parametrize(("T", "S"), [(37, 37), (1, 20), (11, 37)])
@pytest.mark.parametrize("window", [None, 1, 9])
@pytest.mark.parametrize("tiles", [(8, 8), (5, 16), (None, None)])
def test_value_gradients_and_lse(H, Hkv, T, S, window, tiles):
    q, k, v, dout = inputs(H, Hkv, T, S)
    out, cache = flash_attention_forward(q, k, v, None, None, window, *tiles)
    grads = flash_attention_backward(dout, cache)

    tensors = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
    repeated = [x.repeat_interleave(H // Hkv, 1) for x in tensors[1:]]
    mask = torch.from_numpy(window_mask(T, S, window or S))
    theirs = attend(tensors[0], *repeated, attn_mask=mask)
    theirs.backward(torch.from_numpy(dout))
    for ours, want in zip(
        (out, *grads), (theirs.detach(), *(t.grad for t in tensors)), strict=True
    ):
        assert np.abs(ours - want.numpy()).max() < 1e-9  # numbers of order 1

    scores = tensors[0].detach() @ repeated[0].detach().transpose(-1, -2) * 8**-0.5
    lse = torch.logsumexp(scores.masked_fill(~mask, -torch.inf), -1).numpy()  # (B, H, T)
    ours = cache.lse[..., 0].swapaxes(1, 2).reshape(lse.shape)
    assert np.abs(ours - lse).max() < 1e-12


def test_is_causal_of_torch_is_ours_when_no_token_came_before():
    q, k, v, _ = inputs(3, 3, 300, 300, dtype=np.float32)
    ours, _ = flash_attention_forward(q, k, v)
    theirs = attend(*(torch.from_numpy(x) for x in (q, k, v)), is_causal=True).numpy()
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_near_ten_thousand(dtype):
    q, k, v, dout = inputs(2, 1, 50, 50, dtype=dtype)
    q[..., 0], k[..., 0] = 100, 100 * 8**0.5
    assert (q @ k.swapaxes(-1, -2)).min() * 8**-0.5 > 9900
    out, cache = flash_attention_forward(q, k, v, block_q=16, block_k=16)
    grads = flash_attention_backward(dout, cache)
    tensors = [torch.from_numpy(x.astype(np.float64)).requires_grad_() for x in (q, k, v)]
    repeated = [x.repeat_interleave(2, 1) for x in tensors[1:]]
    theirs = attend(tensors[0], *repeated, attn_mask=torch.ones(50, 50, dtype=torch.bool).tril())
    theirs.backward(torch.from_numpy(dout.astype(np.float64)))
    bound = 1e-9 if dtype == np.float64 else 1e-2  # float32 knows a score of 1e4 to 5e-4 only
    for ours, want in zip(
        (out, *grads), (theirs.detach(), *(t.grad for t in tensors)), strict=True
    ):
        assert np.abs(ours - want.numpy()).max() < bound * np.abs(want.numpy()).max()

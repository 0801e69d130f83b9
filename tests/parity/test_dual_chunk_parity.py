"""Dual chunk attention against PyTorch: loops over pairs of tokens, gradients by autograd."""

import numpy as np
import pytest
from helpers.references import dual_chunk_distances

from minqwen.check.concepts import concept
from minqwen.layers.rope import rope_backward, rope_forward, rope_inv_freq
from minqwen.long_context.dual_chunk import (
    dual_chunk_attention_backward,
    dual_chunk_attention_forward,
    dual_chunk_tables,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

ROW = concept("dual_chunk_attention")


def loops(q, k, v, positions, highest, real, c=5, w=2, base=100.0):
    """Each pair of features is a complex number; a pair of tokens is turned by its distance."""
    B, H, T, Dh = q.shape
    S, G = k.shape[2], H // k.shape[1]
    as_complex = [torch.complex(x[..., : Dh // 2], x[..., Dh // 2 :]) for x in (q, k)]
    freq = base ** -(2 * torch.arange(Dh // 2, dtype=torch.float64) / Dh)
    rows = []
    for b in range(B):
        row = positions[b] if np.ndim(positions) == 2 else positions
        M = dual_chunk_distances(row, c, w, highest)
        for h in range(H):
            for t in range(T):
                seen = [j for j in range(S - T + t + 1) if real is None or real[b, j]]
                if not seen:
                    rows.append(torch.zeros(Dh, dtype=q.dtype))
                    continue
                scores = [
                    (
                        as_complex[0][b, h, t]
                        * torch.exp(1j * M[S - T + t][j] * freq)
                        * as_complex[1][b, h // G, j].conj()
                    ).real.sum()
                    / Dh**0.5
                    for j in seen
                ]
                rows.append(torch.softmax(torch.stack(scores), 0) @ v[b, h // G, seen])
    return torch.stack(rows).reshape(q.shape)


@pytest.mark.parametrize("case", ROW.cases)
def test_value_and_gradients(case):
    inputs = ROW.cases[case](np.random.default_rng(0))
    q, k, v = (torch.tensor(x, requires_grad=True) for x in inputs[:3])
    want = loops(q, k, v, *inputs[3:])
    out, cache = ROW.forward(*inputs)
    dout = np.random.default_rng(1).standard_normal(out.shape)
    (want * torch.tensor(dout)).sum().backward()

    pairs = [(out, want.detach())]
    pairs += zip(ROW.backward(dout, cache), (q.grad, k.grad, v.grad), strict=True)
    for ours, theirs in pairs:
        theirs = theirs.numpy()
        assert np.abs(ours - theirs).max() < 1e-9 * np.abs(theirs).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("highest", [63, 64])
def test_many_chunks_as_one_masked_softmax(dtype, highest):
    """200 tokens in chunks of 48, c = 64: three full score matrices, chosen by a mask."""
    rng = np.random.default_rng(0)
    shapes = ((2, 4, 200, 16), (2, 2, 200, 16), (2, 2, 200, 16), (2, 4, 200, 16))
    q, k, v, dout = (rng.standard_normal(s).astype(dtype) for s in shapes)
    at = np.arange(200)
    tables = dual_chunk_tables(at, at, rope_inv_freq(16, dtype=dtype), 64, 16, highest)
    turned, k_rope = rope_forward(k, *tables.key)
    out, cache = dual_chunk_attention_forward(q, turned, v, tables)
    dq, dk, dv = dual_chunk_attention_backward(dout, cache)
    dk = rope_backward(dk, k_rope)

    tq, tk, tv = (torch.tensor(x.astype("f8"), requires_grad=True) for x in (q, k, v))
    freq = 10000.0 ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)

    def turn(x, places):
        z = torch.complex(x[..., :8], x[..., 8:])
        z = z * torch.exp(1j * torch.tensor(places, dtype=torch.float64)[:, None] * freq)
        return torch.cat((z.real, z.imag), -1)

    keys = turn(tk, at % 48).repeat_interleave(2, 1)
    ahead = torch.tensor(at[:, None] // 48 - at // 48)
    places = (at % 48, np.minimum(at % 48 + 48, highest), 0 * at + min(95, highest))
    intra, succ, inter = (turn(tq, p) @ keys.transpose(-1, -2) / 4 for p in places)
    scores = torch.where(ahead == 0, intra, torch.where(ahead == 1, succ, inter))
    scores = scores.masked_fill(~torch.ones(200, 200, dtype=torch.bool).tril(), -torch.inf)
    want = torch.softmax(scores, -1) @ tv.repeat_interleave(2, 1)
    (want * torch.tensor(dout.astype("f8"))).sum().backward()

    bound = {"float32": 1e-5, "float64": 1e-9}[dtype]
    pairs = ((out, want.detach()), (dq, tq.grad), (dk, tk.grad), (dv, tv.grad))
    for ours, theirs in pairs:
        theirs = theirs.numpy()
        assert np.abs(ours - theirs).max() < bound * np.abs(theirs).max()

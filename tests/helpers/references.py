"""The equations of the layers, one number at a time; slow, and independent of the package.

REFERENCES has, for a row of the concept table, a function of the same inputs that returns y.
"""

import math

import numpy as np


def linear(x, w, b=None):
    """y_no = sum_i x_ni w_oi + b_o."""
    y = np.empty((*x.shape[:-1], len(w)))
    for n in np.ndindex(x.shape[:-1]):
        for o in range(len(w)):
            y[n][o] = sum(x[n][i] * w[o, i] for i in range(w.shape[1]))
            y[n][o] += 0 if b is None else b[o]
    return y


def embedding(ids, w):
    """x_n = w[ids_n]."""
    x = np.empty((*ids.shape, w.shape[1]))
    for n in np.ndindex(ids.shape):
        for d in range(w.shape[1]):
            x[n][d] = w[int(ids[n]), d]
    return x


def rmsnorm(x, w, eps=1e-6):
    """y_i = w_i x_i / sqrt(mean_j x_j^2 + eps)."""
    y = np.empty_like(x)
    for n in np.ndindex(x.shape[:-1]):
        rms = math.sqrt(sum(value**2 for value in x[n]) / len(w) + eps)
        for i in range(len(w)):
            y[n][i] = w[i] * x[n][i] / rms
    return y


def rope(x, positions, base=100.0):
    """Turn the pair (i, i + Dh/2) at position p by the angle p * base^(-2i / Dh)."""
    B, H, T, Dh = x.shape
    y = np.empty_like(x)
    for b, h, t in np.ndindex(B, H, T):
        p = int(positions[t] if positions.ndim == 1 else positions[b, t])
        for i in range(Dh // 2):
            angle = p * base ** (-2 * i / Dh)
            turned = complex(x[b, h, t, i], x[b, h, t, i + Dh // 2]) * complex(
                math.cos(angle), math.sin(angle)
            )
            y[b, h, t, i], y[b, h, t, i + Dh // 2] = turned.real, turned.imag
    return y


def causal_mask(T, S):
    """The T queries are the last of S tokens; each sees itself and what came before."""
    return np.array([[s <= S - T + t for s in range(S)] for t in range(T)])


def attention(q, k, v, mask):
    """out_t = sum_s w_s v_s / sum_s w_s over the visible s, w_s = exp(q_t k_s / sqrt(Dh)).

    Query head h reads key head h // G. A query that sees nothing gets zeros.
    """
    B, H, T, Dh = q.shape
    G, S = H // k.shape[1], k.shape[2]
    out = np.zeros_like(q)
    for b, h, t in np.ndindex(B, H, T):
        seen = [s for s in range(S) if mask[b, t, s]]
        weights = [
            math.exp(sum(q[b, h, t, d] * k[b, h // G, s, d] for d in range(Dh)) / math.sqrt(Dh))
            for s in seen
        ]
        for weight, s in zip(weights, seen, strict=True):
            for d in range(Dh):
                out[b, h, t, d] += weight / sum(weights) * v[b, h // G, s, d]
    return out


def block_attention(q, k, v, real=None):
    """Attention to the real ones of the tokens so far."""
    B, T, S = q.shape[0], q.shape[2], k.shape[2]
    mask = np.empty((B, T, S), dtype=bool)
    for b, t, s in np.ndindex(B, T, S):
        mask[b, t, s] = s <= S - T + t and (real is None or real[b, s])
    return attention(q, k, v, mask)


def swiglu(x, w_gate, w_up, w_down):
    """y = (silu(x w_gate^T) * (x w_up^T)) w_down^T with silu(a) = a / (1 + exp(-a))."""
    h, up = linear(x, w_gate), linear(x, w_up)
    for n in np.ndindex(h.shape):
        h[n] = h[n] / (1 + math.exp(-h[n])) * up[n]
    return linear(h, w_down)


def cross_entropy(logits, labels, counted=None):
    """Mean over the counted tokens of log sum_v exp(z_v) - z_label; a label -100 never counts."""
    losses = []
    for n in np.ndindex(labels.shape):
        if labels[n] != -100 and (counted is None or counted[n]):
            losses.append(math.log(sum(math.exp(z) for z in logits[n])) - logits[n][labels[n]])
    return sum(losses) / len(losses)


REFERENCES = {
    f.__name__: f
    for f in (linear, embedding, rmsnorm, rope, attention, block_attention, swiglu, cross_entropy)
}


def reference_error(row):
    """Return the largest difference between a concept's forward and its reference, over the scale.

    All cases of the concept are tried.
    """
    worst = 0.0
    for make in row.cases.values():
        inputs = make(np.random.default_rng(0))
        y, want = row.forward(*inputs)[0], REFERENCES[row.name](*inputs)
        assert np.shape(y) == np.shape(want)
        worst = max(worst, float(np.abs(y - want).max() / np.abs(want).max()))
    return worst

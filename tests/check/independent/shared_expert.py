"""The shared expert of Qwen2-MoE, one token at a time: sigmoid(g . x) times a SwiGLU network."""

import numpy as np


def squash(a):
    """1 / (1 + exp(-a)), through tanh, which never overflows."""
    return (np.tanh(a / 2) + 1) / 2


def forward(x, w_gate, w_up, w_down, w_shared_gate):
    dtype, shape = x.dtype, x.shape
    w_gate, w_up, w_down = (np.asarray(w, float) for w in (w_gate, w_up, w_down))
    pointer = np.asarray(w_shared_gate, float)[0]
    tokens = np.asarray(x, float).reshape(-1, shape[-1])
    rows, saved = [], []
    for token in tokens:
        logit = pointer @ token
        gate = squash(logit)
        inside = token
        a, b = w_gate @ inside, w_up @ inside
        hidden = a * squash(a) * b
        out = w_down @ hidden
        rows.append(gate * out)
        saved.append((token, gate, a, b, hidden, out))
    y = np.array(rows).reshape(shape).astype(dtype)
    return y, (saved, w_gate, w_up, w_down, pointer)


def backward(dy, cache):
    """One token after the other; the gradients of the weights add up."""
    saved, w_gate, w_up, w_down, pointer = cache
    dx = np.zeros((len(saved), len(pointer)))
    grad_gate, grad_up, grad_down = (
        np.zeros(w_gate.shape),
        np.zeros(w_up.shape),
        np.zeros(w_down.shape),
    )
    grad_pointer = np.zeros(len(pointer))
    for t, (token, gate, a, b, hidden, out) in enumerate(saved):
        up = dy.reshape(dx.shape)[t]
        into_gate = np.dot(up, out)
        into_logit = into_gate * gate * (1 - gate)
        grad_pointer += into_logit * token
        into_out = gate * up
        grad_down += np.outer(into_out, hidden)
        into_hidden = w_down.T @ into_out
        s = squash(a)
        into_a = into_hidden * b * (s + a * s * (1 - s))
        into_b = into_hidden * a * s
        grad_gate += np.outer(into_a, token)
        grad_up += np.outer(into_b, token)
        by_network = w_gate.T @ into_a + w_up.T @ into_b
        dx[t] = by_network + into_logit * pointer
    return dx.reshape(dy.shape), grad_gate, grad_up, grad_down, grad_pointer[None]


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "no_gate": ("rows.append(gate * out)", "rows.append(out)"),
    "gate_per_feature": ("logit = pointer @ token", "logit = pointer * token"),
    "no_sigmoid": ("gate = squash(logit)", "gate = logit"),
    "silu_gate": ("gate = squash(logit)", "gate = logit * squash(logit)"),
    "tanh_gate": ("gate = squash(logit)", "gate = np.tanh(logit)"),
    "relu_gate": ("gate = squash(logit)", "gate = max(logit, 0)"),
    "shut_for_open": ("gate = squash(logit)", "gate = squash(-logit)"),
    "one_gate_for_all": (
        "gate = squash(logit)",
        "gate = sum(squash(pointer @ other) for other in tokens) / len(tokens)",
    ),
    "gate_of_mean": ("logit = pointer @ token", "logit = pointer @ tokens.mean(0)"),
    "gate_twice": ("rows.append(gate * out)", "rows.append(gate**2 * out)"),
    "gate_before": ("inside = token", "inside, gate = gate * token, 1.0"),
    "gate_added": ("rows.append(gate * out)", "rows.append(gate + out)"),
    "gate_of_output": ("rows.append(gate * out)", "rows.append(squash(pointer @ out) * out)"),
    "weight_not_transposed": (
        "    rows, saved = [], []\n",
        "    w_gate, w_up, w_down = w_gate.T, w_up.T, w_down.T\n    rows, saved = [], []\n",
    ),
    "branches_swapped": ("hidden = a * squash(a) * b", "hidden = a * b * squash(b)"),
    "sigmoid_for_silu": ("hidden = a * squash(a) * b", "hidden = squash(a) * b"),
    "no_up": ("hidden = a * squash(a) * b", "hidden = a * squash(a)"),
    "sigmoid_overflows": ("gate = squash(logit)", "gate = np.exp(logit) / (np.exp(logit) + 1)"),
    "residual": ("rows.append(gate * out)", "rows.append(token + gate * out)"),
}

BACKWARD = {
    "gate_path_lost": ("dx[t] = by_network + into_logit * pointer", "dx[t] = by_network"),
    "network_path_lost": (
        "dx[t] = by_network + into_logit * pointer",
        "dx[t] = into_logit * pointer",
    ),
    "slope_forgotten": ("into_gate * gate * (1 - gate)", "into_gate"),
    "half_slope": ("into_gate * gate * (1 - gate)", "into_gate * gate"),
    "gate_forgotten": ("into_out = gate * up", "into_out = up"),
    "mean_over_features": ("into_gate = np.dot(up, out)", "into_gate = np.mean(up * out)"),
    "gated_output": ("into_gate = np.dot(up, out)", "into_gate = np.dot(up, gate * out)"),
    "output_forgotten": ("into_gate = np.dot(up, out)", "into_gate = np.sum(up)"),
    "token_mean": ("grad_pointer[None]", "grad_pointer[None] / len(saved)"),
}

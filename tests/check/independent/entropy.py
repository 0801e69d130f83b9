"""The entropy of a softmax (Shannon 1948), one position at a time."""

import numpy as np


def softmax(z):
    """Return the probabilities of one position and their logarithms."""
    shifted = z - z.max()
    total = np.exp(shifted).sum()
    return np.exp(shifted) / total, shifted - np.log(total)


def forward(logits):
    z = logits.astype(np.promote_types(logits.dtype, np.float64))
    H = np.zeros(z.shape[:-1])
    for i in np.ndindex(*H.shape):
        p, surprise = softmax(z[i])
        H[i] = -np.dot(p, surprise)
    return H.astype(logits.dtype), (z, H)


def backward(dy, cache):
    """Through p log p for each token, and then through the matrix of derivatives of the softmax."""
    z, H = cache
    dz = np.zeros(z.shape)
    for i in np.ndindex(*H.shape):
        p, logs = softmax(z[i])
        dp = -(logs + 1)
        jacobian = np.diag(p) - np.outer(p, p)
        dz[i] = dy[i] * (jacobian @ dp)
    return (dz,)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_H = "H[i] = -np.dot(p, surprise)"
_P = "p, surprise = softmax(z[i])"
_PEAK = "shifted = z - z.max()"

FORWARD = {
    "sign": (_H, "H[i] = np.dot(p, surprise)"),
    "log2": (_H, "H[i] = -np.dot(p, surprise / np.log(2))"),
    "over_log_vocabulary": (_H, "H[i] = -np.dot(p, surprise) / max(np.log(len(p)), 1e-15)"),
    "mean_over_vocabulary": (_H, "H[i] = -np.mean(p * surprise)"),
    "perplexity": (_H, "H[i] = np.exp(-np.dot(p, surprise))"),
    "not_weighted": (_H, "H[i] = -surprise.sum()"),
    "surprise_averaged": (_H, "H[i] = -surprise.mean()"),
    "of_logits": (_H, "H[i] = -np.dot(p, z[i])"),
    "no_softmax": (_H, "H[i] = -np.dot(z[i], surprise)"),
    "softmax_twice": (_P, "p, surprise = softmax(softmax(z[i])[0])"),
    "surprise_of_the_best": (_H, "H[i] = -surprise[p.argmax()]"),
    "minus_plain_mean": (_H, "H[i] = -max(surprise)"),
    "gini": (_H, "H[i] = 1 - np.dot(p, p)"),
    "collision": (_H, "H[i] = -np.log(np.dot(p, p))"),
    "variance_of_surprise": (_H, "H[i] = np.dot(p, (surprise - np.dot(p, surprise)) ** 2)"),
    "log_sum_exp": (_H, "H[i] = (z[i] - surprise)[p.argmax()]"),
    "other_axis": (
        _P,
        "columns = [softmax(column) for column in z[i[:-1]].T]\n"
        "        p, surprise = (np.array([c[k][i[-1]] for c in columns]) for k in (0, 1))",
    ),
    "eps_in_log": (_H, "H[i] = -np.dot(p, np.log(p + 1e-8))"),
    "log_of_p": (_H, "H[i] = -np.dot(p, np.log(p))"),
    "no_max": (_PEAK, "shifted = z"),
}

_DP = "dp = -(logs + 1)"
_DZ = "dz[i] = dy[i] * (jacobian @ dp)"
_JACOBIAN = "jacobian = np.diag(p) - np.outer(p, p)"
BACKWARD = {
    "no_entropy": (_DP, "dp = -logs", _JACOBIAN, "jacobian = np.diag(p)"),
    "plus_1": (_JACOBIAN, "jacobian = np.diag(p)"),
    "with_respect_to_p": (_JACOBIAN, "jacobian = np.eye(len(p))"),
    "entropy_subtracted": (_JACOBIAN, "jacobian = np.diag(p) + np.outer(p, p)", _DP, "dp = -logs"),
    "sign": (_DP, "dp = logs + 1"),
    "no_p": (_JACOBIAN, "jacobian = np.eye(len(p)) - np.outer(np.ones(len(p)), p)"),
    "logits_for_log_p": (_DZ, "dz[i] = -dy[i] * p * (z[i] - np.dot(p, logs))"),
    "dentropy_ignored": (_DZ, "dz[i] = jacobian @ dp"),
    "softmax_again": (_DZ, "dz[i] = dy[i] * (jacobian @ (jacobian @ dp))"),
    "squared_p": (_DZ, "dz[i] = dy[i] * p * (jacobian @ dp)"),
    "averaged": (_DZ, "dz[i] = dy[i] * (jacobian @ dp) / H.size"),
}

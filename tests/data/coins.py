"""Texts that are good with a known probability, for the tests of the classifier."""

import numpy as np


def coins(n, seed):
    """Return texts of one word of three, good with probability 0.9, 0.5 or 0.2, and the truth."""
    rng = np.random.default_rng(seed)
    words, rates = np.array(["sun", "fog", "ice"]), np.array([0.9, 0.5, 0.2])
    kinds = rng.integers(0, 3, n)
    is_good = rng.random(n) < rates[kinds]
    texts = words[kinds]
    return texts[is_good].tolist(), texts[~is_good].tolist()

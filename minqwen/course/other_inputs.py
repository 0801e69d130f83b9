"""Other inputs for the hidden seed, where a concept's own are the same for every seed.

Most inputs of the bank are drawn from the seed. Texts and lengths are not: they were chosen by
hand, so that each shows something. If they were asked again for the points that are told later, a
table of the visible ones would earn them all. So here, from the hidden seed:

    texts       ordinary ones in another order; in all of them other letters, digits and characters
    numbers     others that lie in the same way: "one token above twice the trained length"

Letters are exchanged byte by byte, one for one, within classes that leave UTF-8 whole, so nobody's
merges change but for the names of the bytes. Nothing that is about equals is changed: there the
order of the bytes decides, and no points are given for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np

from ..check.spec import Arguments, Probe, Spec
from ..tokenizer.merges import learn_merges_steps

Change = Callable[[np.random.Generator, Arguments, Probe], Arguments]

CLASSES = (b"0123456789", bytes(range(65, 91)), bytes(range(97, 123)),
           bytes(range(0x80, 0x90)), bytes(range(0x90, 0xC0)))  # fmt: skip
TRIES = 200  # orders of a text in which no two pairs stand equally often are not rare


def other_spec(spec: Spec) -> Spec:
    """Return a concept with inputs that depend on the seed, in the same order.

    >>> from ..check.specs import spec
    >>> one = other_spec(spec("bpe_merges")).probes[0]
    >>> one.name, one.make(np.random.default_rng(7))["text"] == spec("bpe_merges").probes[0].make(
    ...     np.random.default_rng(7))["text"]
    ('words', False)
    """
    change = OTHERS.get(spec.name)
    if change is None:
        return spec
    probes = [p if p.ties else p._replace(make=changed(p, change)) for p in spec.probes]
    return replace(spec, probes=tuple(probes))


def changed(probe: Probe, change: Change) -> Callable[[np.random.Generator], Arguments]:
    """Return what draws the inputs of a probe anew."""

    def make(rng: np.random.Generator) -> Arguments:
        return change(rng, probe.make(rng), probe)

    return make


# --- texts ---------------------------------------------------------------------------------------


def other_bytes(rng: np.random.Generator) -> bytes:
    """Draw which byte stands for which: a table for bytes.translate.

    >>> table = other_bytes(np.random.default_rng(0))
    >>> len(set(table)), "书 x".encode().translate(table).decode()[1]
    (256, ' ')
    """
    table = bytearray(range(256))
    for one in CLASSES:
        for byte, other in zip(one, rng.permutation(list(one)), strict=True):
            table[byte] = int(other)
    return bytes(table)


def other_order(rng: np.random.Generator, text: str) -> str:
    """Return a text with its words, or the letters of its only word, in another order."""
    between = " " if " " in text else ""
    units = text.split(" ") if between else list(text)
    return between.join(units[i] for i in rng.permutation(len(units)))


def has_ties(text: str, merges: int) -> bool:
    """Say whether two pairs stand equally often when one of them is to be joined.

    >>> has_ties("abab", 1), has_ties("abcd", 1)
    (False, True)
    """
    words = [[bytes([byte]) for byte in text.encode()]]
    for step in islice(learn_merges_steps([text]), merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        if sum(count == step.frequency for count in counts.values()) > 1:
            return True
        words = step.pieces
    return False


def other_training(rng: np.random.Generator, given: Arguments, probe: Probe) -> Arguments:
    """Return another text to learn merges from."""
    text, merges = given["text"], given["merges"]
    orders = (other_order(rng, text) for _ in range(0 if probe.hard else TRIES))
    text = next((t for t in orders if t != text and not has_ties(t, merges)), text)
    return {"text": text.encode().translate(other_bytes(rng)).decode(), "merges": merges}


def other_text(rng: np.random.Generator, given: Arguments, probe: Probe) -> Arguments:
    """Return another text to encode, with merges of its letters."""
    text = given["text"] if probe.hard else other_order(rng, given["text"])
    table = other_bytes(rng)
    merges = [tuple(table[i] if i < 256 else i for i in pair) for pair in given["merges"]]
    return {"text": text.encode().translate(table).decode(), "merges": merges}


# --- numbers -------------------------------------------------------------------------------------


def other_frequencies(rng: np.random.Generator, given: Arguments, probe: Probe) -> Arguments:
    """Return another width, base and alpha, near those of the bank."""
    width = given["head_dim"] + 2 * int(rng.integers(1, 6))
    base = float(round(given["base"] * rng.uniform(1.1, 2.9)))
    alpha = given["alpha"]
    if alpha != 1:  # there nothing changes, whatever the base
        alpha = alpha + 2 * int(rng.integers(1, 9))
    return {"head_dim": width, "base": base, "alpha": float(alpha)}


def other_lengths(rng: np.random.Generator, given: Arguments, probe: Probe) -> Arguments:
    """Return another length, as far from the doubles of another trained length as in the bank."""
    length, train = given["length"], given["train_length"]
    new = train + 2 * int(rng.integers(1, train // 2))
    times, rest = divmod(length, train)
    if rest < 2:  # whole multiples, one token more, a single token
        return {"length": times * new + rest, "train_length": new}
    if length < train:
        return {"length": int(rng.integers(2, new)), "train_length": new}
    low = new * 2 ** ((length - 1) // train).bit_length() // 2  # the stair on which it lies
    return {"length": int(rng.integers(low + 2, 2 * low)), "train_length": new}


OTHERS: dict[str, Change] = {
    "bpe_merges": other_training,
    "bpe_encode": other_text,
    "ntk_inv_freq": other_frequencies,
    "dynamic_ntk_alpha": other_lengths,
}

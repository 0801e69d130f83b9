"""What deduplication found in a crawl of known copies, and what a model has memorised of it.

A continuation is memorised when greedy decoding repeats it: the model is given k tokens of a
document and has to write exactly the n that follow. It does if and only if each of them is the
likeliest after all that stands before it, so one pass over the k + n tokens answers that.

Origin:   extractable memorisation: Carlini et al. 2022, arXiv:2202.07646.
Differs:  the prompts are short and of a small vocabulary, as the models are small.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..alignment.token_logprobs import token_logprobs_forward
from ..backend import Array, to_numpy
from ..data.exact_dedup import exact_dedup
from ..data.fuzzy_dedup import fuzzy_dedup
from ..data.shingles import jaccard, shingles
from ..model.language_model import language_model_forward
from ..params import Params
from .dedup_changes import CHANGES
from .dedup_corpus import NGRAM, Base, Document, index_of, likeness
from .recipe_study import Text

ARMS = {"raw": "raw", "exact": "exact", "fuzzy": "exact + fuzzy", "clean": "no copies"}
GROUPS = {"held out": 0, "1": 1, "2 to 9": 2, "10 to 49": 10, "50 to 99": 50, "100 or more": 100}
# name -> the least number of times that raw reads a document or a copy of it
OFTEN = 50
LOOKED_AT = 100  # copies of each kind whose likeness is computed, at most about so many
Encode = Callable[[str], Array]


class Found(NamedTuple):
    kept: dict[str, Sequence[int]]  # arm -> documents, ascending
    copy_of: dict[int, int]  # dropped document -> the one that was kept for it
    seconds: float


def deduplicate(documents: Sequence[Document]) -> Found:
    """Choose the documents of each arm."""
    start, texts = time.perf_counter(), [document.text for document in documents]
    exact = exact_dedup(texts)
    at = exact.kept
    fuzzy = fuzzy_dedup([texts[i] for i in at])
    kept = {
        "raw": range(len(texts)),
        "exact": at,
        "fuzzy": [at[i] for i in fuzzy.kept],
        "clean": [i for i, document in enumerate(documents) if not document.change],
    }
    copy_of = {copy.document: copy.copy_of for copy in exact.dropped}
    copy_of |= {at[copy.document]: at[copy.copy_of] for copy in fuzzy.dropped}
    return Found(kept, copy_of, time.perf_counter() - start)


def count_found(
    documents: Sequence[Document], found: Found, held_out: Sequence[Base], encode: Encode
) -> dict[str, Any]:
    """Return what was dropped, by what had been done to it, and how like the first of its family.

    Returns:
        changes: change -> planted, how many; exact and fuzzy, the shares that were dropped up to
            there; likeness, mean true Jaccard similarity.
        precision: share of the dropped documents whose kept one is of the same family.
        documents, tokens: of the crawl; dropped: arm -> share of the tokens.
        held_out_likeness: the highest of any held-out document with any of the crawl.
        seconds: of the deduplication.
    """
    kept = {arm: set(found.kept[arm]) for arm in ("exact", "fuzzy")}
    first = {d.family: shingles(d.text, NGRAM) for d in documents if not d.change}
    changes = {}
    for change in CHANGES:
        planted = [i for i, d in enumerate(documents) if d.change == change]
        some = [documents[i] for i in planted[:: max(1, len(planted) // LOOKED_AT)]]
        alike = [jaccard(first[d.family], shingles(d.text, NGRAM)) for d in some]
        shares = {arm: share_of([i not in kept[arm] for i in planted]) for arm in kept}
        changes[change] = {"planted": len(planted), "likeness": share_of(alike), **shares}
    right = [documents[i].family == documents[j].family for i, j in found.copy_of.items()]
    sizes = np.array([len(encode(d.text)) + 1 for d in documents])
    index = index_of([d.text for d in documents])
    return {
        "changes": changes,
        "precision": share_of(right),
        "documents": len(documents),
        "tokens": int(sizes.sum()),
        "dropped": {arm: 1 - float(sizes[list(kept[arm])].sum() / sizes.sum()) for arm in kept},
        "held_out_likeness": max(float(likeness(d.text, index).max()) for d in held_out),
        "seconds": found.seconds,
    }


def share_of(values: Sequence[float]) -> float:
    """Return the mean; 0 of nothing, as JSON has no NaN."""
    return float(np.mean(values)) if values else 0.0


def count_read(documents: Sequence[Document], pieces: Sequence[Array]) -> dict[str, Any]:
    """Return how many documents were read, and which share of the tokens was no first of a family.

    >>> first, copy = (Document("a", "code", 7, "exact", change) for change in ("", "same"))
    >>> count_read([first, copy], [np.zeros(3), np.zeros(1)])
    {'documents': 2, 'copied': 0.25}
    """
    sizes = np.array([len(ids) for ids in pieces])
    copied = np.array([bool(document.change) for document in documents])
    return {"documents": len(documents), "copied": float(sizes[copied].sum() / sizes.sum())}


class Question(NamedTuple):
    group: str  # of GROUPS
    kind: str  # of the family
    ids: Array  # (k + n,) int32


def questions(
    documents: Sequence[Document],
    held_out: Sequence[Base],
    encode: Encode,
    *,
    prompt: int,
    answer: int,
    asked: int,
    rng: np.random.Generator,
) -> list[Question]:
    """Cut prompts with their continuations out of documents that were copied and that were not.

    Args:
        documents: what the raw arm reads; the other arms have met all of it too. How many copies
            there are is counted here.
        held_out: what no arm reads.
        encode: text to ids.
        prompt: k, tokens that the model is given.
        answer: n, tokens that it has to repeat.
        asked: of the documents that come once, and of the held-out ones, so many are taken.
        rng: for the choice of these.

    Returns:
        The questions, at every n / 2 tokens of the first of a family, but for the templates.

    Raises:
        ValueError: all documents are too short.
    """
    copies = Counter(d.family for d in documents)
    firsts = [d for d in documents if not d.change and d.kind != "template"]
    chosen = [(copies[d.family], d.kind, d.text) for d in firsts if copies[d.family] > 1]
    alone = [(1, d.kind, d.text) for d in firsts if copies[d.family] == 1]
    nowhere = [(0, "once", d.text) for d in held_out]
    for some in (alone, nowhere):
        chosen += [some[i] for i in rng.permutation(len(some))[:asked]]
    found = []
    for times, kind, text in chosen:
        group = next(name for name, least in reversed(GROUPS.items()) if times >= least)
        ids, length = encode(text), prompt + answer
        for at in range(0, len(ids) - length + 1, max(1, answer // 2)):
            found.append(Question(group, kind, ids[at : at + length]))
    if not found:
        raise ValueError(f"no document has prompt + answer = {prompt + answer} tokens")
    return found


def repeated(
    params: Params, text: Text, ids: Array, prompt: int, batch_size: int = 64
) -> tuple[Array, Array]:
    """Say which continuations the model repeats.

    Args:
        params: of the model.
        text: whose config is the model's.
        ids: (N, k + n) int.
        prompt: k, tokens that the model is given.
        batch_size: rows in a piece.

    Returns:
        right: (N, n) bool, whether the token is the likeliest one; a row of True is repeated.
        loss: (N,) float, mean of -log p over the n tokens.
    """
    rights, losses = [np.empty((0, ids.shape[1] - prompt), bool)], [np.empty(0)]
    for start in range(0, len(ids), batch_size):
        rows = ids[start : start + batch_size]
        logits, _ = language_model_forward(params, text.config, rows[:, :-1])
        logits, labels = logits[:, prompt - 1 :], rows[:, prompt:]
        logprobs = to_numpy(token_logprobs_forward(logits, labels)[0])
        rights.append(to_numpy(logits.argmax(axis=-1)) == labels)
        losses.append(-logprobs.mean(axis=1))
    return np.concatenate(rights), np.concatenate(losses)


def memory(
    params: Params, text: Text, asked: Sequence[Question], prompt: int
) -> dict[str, dict[str, float]]:
    """Return what the model has memorised.

    Returns:
        Of each of GROUPS, of "often" (OFTEN copies and more), and of "exact" and "near" of these:
        share, continuations that are repeated; tokens, share that is the likeliest; loss, in nats a
        token; prompts, how many.
    """
    right, loss = repeated(params, text, np.stack([q.ids for q in asked]), prompt)
    groups = {name: np.array([q.group == name for q in asked]) for name in GROUPS}
    groups["often"] = np.array([GROUPS[q.group] >= OFTEN for q in asked])
    for kind in ("exact", "near"):
        groups[kind] = groups["often"] & np.array([q.kind == kind for q in asked])
    return {
        name: {
            "share": share_of(right[chosen].all(axis=1).tolist()),
            "tokens": share_of(right[chosen].ravel().tolist()),
            "loss": share_of(loss[chosen].tolist()),
            "prompts": int(chosen.sum()),
        }
        for name, chosen in groups.items()
    }

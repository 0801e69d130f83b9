"""What an expert reads: its share of the tokens, by source, by kind, and by token.

    n[e, s]   choices of expert e by tokens of source s

    I(E; S) = sum_es p(e, s) log2 p(e, s) / (p(e) p(s))        bits

is how much the choice of an expert tells about the source of the text. 0: the experts are the same
for all sources; H(S), 2 bits for four sources alike: the expert gives the source away. `told` is
I / H, from 0 to 1.

A token may say by itself where it comes from: 的 is in no Python file. So I is also computed for an
expert that is drawn from what its token's experts are in other rows, wherever the token stands;
`by_token` is that I over the true one. Near 1, the router looks at the token; near 0, at what is
around it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..backend import Array, to_numpy
from ..model.config import QwenConfig
from ..model.language_model import language_model_forward, router_caches
from ..params import Params
from .measure import BATCH_TOKENS, losses_of
from .moe_text import KINDS, SOURCES, SourcedText

SHOWN_TOKENS = 10


def read(params: Params, config: QwenConfig, rows: Array) -> tuple[Array, Array]:
    """Read rows, and note the loss of every token and the experts that it was given to.

    Args:
        params: of the model.
        config: of the model.
        rows: (n, T + 1) int, on the host.

    Returns:
        losses: (n, T) float64 in nats, on the host.
        ids: (L, n, T, K) int, the experts in each sparse layer; L = 0 for a dense model.
    """
    T = rows.shape[1] - 1
    size, losses, ids = max(1, BATCH_TOKENS // T), [], []
    for i in range(0, len(rows), size):
        part = rows[i : i + size]
        logits, cache = language_model_forward(params, config, part[:, :-1])
        assert cache is not None  # without kv_cache there is one
        losses.append(to_numpy(losses_of(logits, part[:, 1:])))
        routers = router_caches(cache)
        shape = len(routers), len(part), T, config.num_experts_per_tok
        chosen = [to_numpy(router.expert_ids) for router in routers]
        ids.append(np.array(chosen, np.int64).reshape(shape))
    return np.concatenate(losses), np.concatenate(ids, axis=1)


def measure_run(params: Params, config: QwenConfig, text: SourcedText) -> dict[str, Any]:
    """Return what the validation rows tell about a model, as JSON holds it.

    Returns:
        nll: mean loss, in nats a token.
        by_row: of each row.
        routing: see `routing`; None for a dense model.
        seconds: that it took.
    """
    start = time.perf_counter()
    losses, ids = read(params, config, text.validation_rows)
    return {
        "nll": float(losses.mean()),
        "by_row": losses.mean(axis=1).tolist(),
        "routing": routing(ids, config.num_experts, text) if len(ids) else None,
        "seconds": time.perf_counter() - start,
    }


def routing(ids: Array, num_experts: int, text: SourcedText) -> dict[str, Any]:
    """Return who reads what.

    Args:
        ids: (L, n, T, K) int, the experts of each token.
        num_experts: E.
        text: whose validation rows were read.

    Returns:
        by_source: (L, E, sources) choices.
        by_kind: (L, E, kinds) choices.
        told_source, told_kind: (L,) share of the source's, or kind's, information in the choice.
        by_token: (L,) how much of told_source the token alone explains.
        experts: one dict for each expert that was chosen: what it reads more than others do.
    """
    tokens = text.validation_rows[:, :-1]  # the inputs: these are routed
    sources = np.broadcast_to(text.sources[:, None], tokens.shape)
    kinds = text.kinds[tokens]
    by_source = [table(layer, sources, num_experts, len(SOURCES)) for layer in ids]
    by_kind = [table(layer, kinds, num_experts, len(KINDS)) for layer in ids]
    return {
        "by_source": [t.tolist() for t in by_source],
        "by_kind": [t.tolist() for t in by_kind],
        "told_source": [told(t) for t in by_source],
        "told_kind": [told(t) for t in by_kind],
        "by_token": [
            by_token(layer, tokens, sources, num_experts, len(text.kinds)) for layer in ids
        ],
        "experts": [
            {"layer": i, **expert}
            for i, layer in enumerate(ids)
            for expert in describe_experts(layer, tokens, by_source[i], by_kind[i], text)
        ],
    }


def table(ids: Array, classes: Array, num_experts: int, num_classes: int) -> Array:
    """Count choices: (E, classes) from the experts (n, T, K) and the classes (n, T) of tokens.

    >>> table(np.array([[[0, 2], [2, 1]]]), np.array([[0, 1]]), 3, 2)
    array([[1, 0],
           [0, 1],
           [1, 1]])
    """
    pairs = ids * num_classes + classes[..., None]
    counts = np.bincount(pairs.ravel(), minlength=num_experts * num_classes)
    return counts.reshape(num_experts, num_classes)


def information(counts: Array) -> float:
    """Return I in bits between the rows and the columns of a table of counts.

    >>> information(np.array([[5, 0], [0, 5]])), information(np.array([[5, 5], [5, 5]]))
    (1.0, 0.0)
    """
    p = counts / counts.sum()
    alone = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    seen = p > 0
    return float((p[seen] * np.log2(p[seen] / alone[seen])).sum())


def told(counts: Array) -> float:
    """Return I over the entropy of the columns: 1 when a row gives its column away.

    >>> told(np.array([[5, 0], [0, 5], [0, 0]]))
    1.0
    """
    entropy = information(np.diag(counts.sum(axis=0)))
    return information(counts) / entropy if entropy else 0.0


def by_token(ids: Array, tokens: Array, sources: Array, num_experts: int, V: int) -> float:
    """Return how much of I(expert; source) is left when the expert depends on the token alone.

    The experts of each token are counted in every second row, and used in the others.
    """
    of_token = table(ids[::2], tokens[::2], num_experts, V).T.astype(float)  # (V, E)
    of_token[of_token.sum(axis=1) == 0] = of_token.sum(axis=0)  # not seen: as all
    of_token /= of_token.sum(axis=1, keepdims=True)
    ids, tokens, sources = ids[1::2], tokens[1::2], sources[1::2]
    S = int(sources.max()) + 1
    guess = np.stack([of_token[tokens[sources == s]].sum(axis=0) for s in range(S)], axis=1)
    true = information(table(ids, sources, num_experts, S))
    return information(guess) / true if true else 0.0


def describe_experts(
    ids: Array, tokens: Array, by_source: Array, by_kind: Array, text: SourcedText
) -> list[dict[str, Any]]:
    """Return for each expert of a layer what it reads more than the others.

    A token's score is n log(p(token | expert) / p(token)): often chosen, and unlike elsewhere.
    """
    E, V = len(by_source), len(text.kinds)
    counts = table(ids, tokens, E, V)  # (E, V)
    of_all = counts.sum(axis=0) / counts.sum()
    found = []
    for e in range(E):
        n = counts[e].sum()
        if n == 0:
            continue
        seen = counts[e] > 0
        score = np.zeros(V)
        score[seen] = counts[e, seen] * np.log(counts[e, seen] / n / of_all[seen])
        top = np.argsort(-score, kind="stable")[:SHOWN_TOKENS]
        found.append(
            {
                "expert": e,
                "share": float(n / counts.sum()),
                "source": _strongest(by_source, e),
                "kind": _strongest(by_kind, e),
                "bits": float(score.sum() / n / np.log(2)),
                "tokens": [
                    text.tokenizer.decode([int(i)], errors="backslashreplace")
                    for i in top
                    if score[i] > 0
                ],
            }
        )
    return found


def _strongest(counts: Array, e: int) -> list[Any]:
    """Return the class with the largest share over its share among all: number, share, times."""
    share = counts[e] / counts[e].sum()
    times = share / np.maximum(counts.sum(axis=0) / counts.sum(), 1e-12)
    best = int(times.argmax())
    return [best, float(share[best]), float(times[best])]

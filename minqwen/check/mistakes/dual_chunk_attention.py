"""Dual chunk attention: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ...backend import Array
from ...layers.rope import rope_inv_freq
from ..spec import Arguments, Mistake, Probe, Spec


def forward(m: ModuleType, a: Arguments) -> tuple[Array, Any]:
    """Turn the keys, and attend; in blocks of 4 queries, so that there are several."""
    dtype = "float64" if a["q"].dtype == np.float64 else "float32"
    inv_freq = rope_inv_freq(a["q"].shape[-1], a["base"], dtype)
    positions, T = np.arange(a["k"].shape[2]), a["q"].shape[2]
    sizes = inv_freq, a["chunk_size"], a["local_size"]
    keys = m.dual_chunk_tables(positions, positions, *sizes).key
    tables = m.dual_chunk_tables(positions[len(positions) - T :], positions, *sizes)
    k, rope = m.rope_forward(a["k"], *keys)
    out, cache = m.dual_chunk_attention_forward(a["q"], k, a["v"], tables, block=4)
    return out, (cache, rope)


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Compute out with a copy of long_context/dual_chunk.py."""
    return (forward(m, a)[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradients with a copy of long_context/dual_chunk.py."""
    cache, rope = forward(m, a)[1]
    dq, dk, dv = m.dual_chunk_attention_backward(dy[0], cache)
    return {"q": dq, "k": m.rope_backward(dk, rope), "v": dv}


def inputs(
    rng: np.random.Generator,
    heads: tuple[int, int],
    T: int,
    S: int,
    chunk_size: int,
    local_size: int,
    Dh: int = 4,
    B: int = 2,
) -> Arguments:
    """Return queries, keys and values of (query heads, key heads), not turned yet."""
    H, Hkv = heads
    q, k, v = (rng.standard_normal((B, h, n, Dh)) for h, n in ((H, T), (Hkv, S), (Hkv, S)))
    sizes = {"chunk_size": chunk_size, "local_size": local_size}
    return {"q": q, "k": k, "v": v, **sizes, "base": 100.0}


PROBES = (
    Probe(
        "ordinary",
        lambda rng: inputs(rng, (3, 3), 19, 19, chunk_size=7, local_size=3),
        "five chunks of 4 tokens",
        hard=False,
    ),
    Probe(
        "other sizes",
        lambda rng: inputs(rng, (2, 2), 17, 17, chunk_size=8, local_size=2, Dh=6, B=1),
        "three chunks of 6 tokens",
        hard=False,
    ),
    Probe(
        "groups, cached",
        lambda rng: inputs(rng, (6, 2), 5, 17, chunk_size=7, local_size=3),
        "three query heads share a key head; 5 new tokens after 12 cached ones",
    ),
    Probe(
        "one chunk",
        lambda rng: inputs(rng, (3, 3), 5, 5, chunk_size=8, local_size=3),
        "a text of one chunk: plain attention",
    ),
    Probe(
        "as long as trained",
        lambda rng: inputs(rng, (2, 1), 7, 7, chunk_size=7, local_size=3, B=3),
        "a text of two chunks, as long as trained: plain attention",
    ),
    Probe(
        "one token",
        lambda rng: inputs(rng, (4, 2), 1, 13, chunk_size=5, local_size=2),
        "one new token, the first of its chunk, after 12 cached ones",
    ),
    Probe(
        "smallest window",
        lambda rng: inputs(rng, (3, 3), 11, 11, chunk_size=4, local_size=1),
        "a window of one distance",
    ),
    Probe(
        "largest window",
        lambda rng: inputs(rng, (2, 2), 13, 13, chunk_size=6, local_size=3),
        "a window as long as a chunk",
    ),
)

PIECES, ROPE = "minqwen.long_context.chunk_pieces", "minqwen.layers.rope"
_PLACE = "place = dual_chunk_positions(new, chunk_size, local_window, highest)"
_SUCC = "succ = xp.minimum(within + length, highest)"
_INTER = "inter = xp.full_like(positions, min(2 * length - 1, highest))"
_TURNED = "for t in (tables.intra, tables.succ, tables.inter)"
_QUERIES = "queries = [(y * scale)"
_MEANS = "means = (weights @ v[:, : weights.shape[-1]]) / total"
_PIECE = "piece = tile_scores(queries[b], k, bias, rows, keys, None)"
_TABLES = "return DualChunkTables(key, key, succ, inter, *chunks)"
_EACH = "(weights[:, :, at] @ v[:, at]) / weights[:, :, at].sum(axis=-1, keepdims=True)"
FORWARD = (
    Mistake(
        "plain",
        _PLACE,
        "place = DualChunkPositions(new, new, new, new, new // (chunk_size - local_window))",
        "this is plain attention: no distance is limited.",
        "What is the largest distance that RoPE may see?",
    ),
    Mistake(
        "limit_c",
        "highest = chunk_size - 1 if highest is None",
        "highest = chunk_size if highest is None",
        "distances are limited to c, as in the released code; the paper limits them to c - 1.",
        "Which is the largest distance among c tokens?",
        "convention",
    ),
    Mistake(
        "chunks_of_c",
        _PLACE,
        "own, last = new % chunk_size, 0 * new + chunk_size - 1\n"
        "    place = DualChunkPositions(own, own, last, last, new // chunk_size)\n"
        "    local_window = 0",
        "the chunks have chunk_size tokens; they have chunk_size - local_size.",
        "How many distances within a neighbouring chunk must come out exactly?",
    ),
    Mistake(
        "keys_in_text",
        _TABLES,
        "in_text = yarn_tables(xp.asarray(new), inv_freq, attention_factor)\n"
        "    return DualChunkTables(in_text, key, succ, inter, *chunks)",
        "keys keep their place in the text; they must start again with every chunk.",
        "A key is turned once: at which place does the table of positions have it?",
    ),
    Mistake(
        "far_own_place",
        _INTER,
        "inter = succ",
        "far keys are seen from the place that is meant for the chunk before; for them all queries "
        "stand at one place.",
        "Do two queries of a chunk see a far key at different distances?",
    ),
    Mistake(
        "far_not_limited",
        _INTER,
        "inter = xp.full_like(positions, 2 * length - 1)",
        "far keys are seen from twice the chunk's length, which may be beyond what was trained.",
        "What is the largest distance that RoPE may see?",
    ),
    Mistake(
        "far_from_chunk",
        _INTER,
        "inter = within",
        "far keys are seen from the query's place in its own chunk: distances may be negative.",
        "A far key must look far away.",
    ),
    Mistake(
        "before_not_limited",
        _SUCC,
        "succ = within + length",
        "distances to the chunk before are not limited.",
        "What is the largest distance that RoPE may see?",
    ),
    Mistake(
        "before_not_moved",
        _SUCC,
        "succ = within",
        "the chunk before is seen from the query's place in its own chunk: distances may be "
        "negative.",
        "The first token of a chunk and the last of the one before are neighbours: how far apart?",
    ),
    Mistake(
        "before_as_far",
        _TURNED,
        "for t in (tables.intra, tables.inter, tables.inter)",
        "the chunk before is treated like the far ones.",
        "The first token of a chunk and the last of the one before are neighbours: how far apart?",
    ),
    Mistake(
        "before_causal",
        _PIECE,
        f"{_PIECE}\n"
        "        if b == 1:\n"
        "            within = k.shape[1] - T + rows.start - keys.stop\n"
        "            seen = xp.tri(rows.stop - rows.start, keys.stop - keys.start, within, "
        "dtype=bool)\n"
        "            piece = xp.where(xp.repeat(seen, G, axis=0), piece, -xp.inf)",
        "a causal mask lies over the chunk before too: some of its keys are hidden.",
        "May the first token of a chunk see all of the chunk before?",
        module=PIECES,
    ),
    Mistake(
        "far_hidden",
        _PIECE,
        f"{_PIECE}\n        if b == 2:\n            piece = piece - xp.inf",
        "far chunks are not seen: attention ends with the chunk before.",
        "Change the first value: the last output must change.",
        module=PIECES,
    ),
    Mistake(
        "own_chunk_only",
        _PIECE,
        f"{_PIECE}\n        if b > 0:\n            piece = piece - xp.inf",
        "a token sees its own chunk only.",
        "Change the first value: the last output must change.",
        module=PIECES,
    ),
    Mistake(
        "mean_of_three",
        _MEANS,
        f"means = sum(\n            {_EACH}\n            for _, at, _ in pieces\n"
        "        ) / len(pieces)",
        "each kind of chunk has a softmax of its own, and the results are averaged; they must "
        "be weighted by their sums of exponentials.",
        "All the weights of a query must sum to 1 in one softmax.",
    ),
    Mistake(
        "sum_of_three",
        _MEANS,
        f"means = sum(\n            {_EACH}\n            for _, at, _ in pieces\n        )",
        "each kind of chunk has a softmax of its own, and the results are added; they must be "
        "weighted by their sums of exponentials.",
        "With values that are all 1, what must come out?",
    ),
    Mistake(
        "no_scale",
        _QUERIES,
        "queries = [(y * 1)",
        "the scores are not divided by sqrt(Dh).",
        "Try the attention alone: minqwen check causal_attention.",
    ),
    Mistake(
        "scale_dh",
        _QUERIES,
        "queries = [(y * scale**2)",
        "the scores are divided by Dh; it must be by its root.",
        "Try the attention alone: minqwen check causal_attention.",
    ),
    Mistake(
        "queries_not_turned",
        _QUERIES,
        "queries = [(q * scale)",
        "the queries are not turned by RoPE, or turned to position 0.",
        "Both sides of a score are turned, each by its own place.",
    ),
    Mistake(
        "keys_not_turned",
        _TABLES,
        "key_only = (0 * key[0] + 1, 0 * key[1])\n"
        "    return DualChunkTables(key_only, key, succ, inter, *chunks)",
        "the keys are not turned by RoPE, or turned to position 0.",
        "Both sides of a score are turned, each by its own place.",
    ),
    Mistake(
        "heads_tiled",
        "group_heads(q, k, v, real, scale, None)",
        "group_heads(\n"
        "        q,\n"
        "        *(xp.tile(x, (1, q.shape[1] // x.shape[1], 1, 1)) for x in (k, v)),\n"
        "        real,\n"
        "        scale,\n"
        "        None,\n"
        "    )",
        "query head h uses key head h % Hkv; it must be h // G.",
        "Are neighbouring query heads of one group, or those Hkv apart?",
    ),
    Mistake(
        "interleaved",
        "y: Array = widen(x) * cos + rotate_half(widen(x)) * sin",
        "half = Dh // 2\n"
        "    c, s, one, two = cos[..., :half], sin[..., :half], x[..., ::2], x[..., 1::2]\n"
        "    y: Array = array_module(x).stack((one * c - two * s, one * s + two * c), axis=-1)\n"
        "    y = y.reshape(x.shape)",
        "RoPE turns neighbouring features, as in the RoFormer paper and GPT-J; Qwen pairs feature "
        "i with i + Dh/2.",
        "Try RoPE alone: minqwen check rope.",
        "convention",
        ROPE,
    ),
)

_DQ = "dq += rope_backward((d * scale).swapaxes(1, 2).reshape(shape), rope)"
BACKWARD = (
    Mistake(
        "turned_back_from_first",
        "zip(dqueries, ropes, strict=True)",
        "zip(dqueries, ropes[:1] * 3, strict=True)",
        "all parts of dq are turned back from the query's place in its own chunk; each must be "
        "turned back from its own.",
        "A query stood at three places in the forward pass.",
    ),
    Mistake(
        "last_place_only",
        "        dq += rope_backward(",
        "        dq = rope_backward(",
        "only the far keys count for dq; it is the sum over the three places of a query.",
        "A query was used three times in the forward pass.",
    ),
    Mistake(
        "own_chunk_only",
        "zip(dqueries, ropes, strict=True)",
        "zip(dqueries[:1], ropes[:1], strict=True)",
        "only keys of the own chunk count for dq; it is the sum over the three places of a query.",
        "A query was used three times in the forward pass.",
    ),
    Mistake(
        "dq_not_turned_back",
        _DQ,
        "dq += (d * scale).swapaxes(1, 2).reshape(shape)",
        "dq is not turned back.",
        "The gradient of a rotation is the rotation backwards.",
    ),
    Mistake(
        "scale_in_dq",
        "rope_backward((d * scale)",
        "rope_backward((d * 1)",
        "dq is not multiplied by the scale 1 / sqrt(Dh).",
        "Where did the scale enter the scores?",
    ),
    Mistake(
        "scale_twice_in_dk",
        "@ matrix(queries[b], rows)  # scale",
        "@ matrix(queries[b], rows) * scale  # scale",
        "the scale is applied twice on the way to dk.",
        "Do the saved queries have the scale in them already?",
    ),
    Mistake(
        "dk_from_own_chunk",
        "@ matrix(queries[b], rows)",
        "@ matrix(queries[0], rows)",
        "dk is made with the queries as they stand in their own chunk, also for other chunks.",
        "Which of the three turned queries met this key?",
    ),
    Mistake(
        "dk_own_chunk_only",
        "dk[:, keys] += ds",
        "dk[:, keys] += (b == 0) * ds",
        "only queries of the own chunk count for dk; later chunks saw the key too.",
        "Is a key's gradient added to, or overwritten?",
    ),
    Mistake(
        "dk_far_only",
        "dk[:, keys] += ds",
        "dk[:, keys] += (b == 2) * ds",
        "only far queries count for dk; those of the own chunk and of the next saw the key too.",
        "Is a key's gradient added to, or overwritten?",
    ),
    Mistake(
        "group_mean",
        "for d in (dk, dv))",
        "for d in (dk / G, dv / G))",
        "dk and dv are means over the query heads of a group; they must be sums.",
        "How many query heads read one key?",
    ),
    Mistake(
        "delta_lost",
        "for x in (lse, dout, delta))",
        "for x in (lse, dout, 0 * delta))",
        "the second term of the softmax's derivative is missing.",
        "The gradients of a query's scores must add up to 0: do they?",
    ),
)

SPEC = Spec(
    name="dual_chunk_attention",
    module="minqwen.long_context.dual_chunk",
    arguments=("q", "k", "v", "chunk_size", "local_size", "base"),
    axes={"q": "B H T Dh", "k": "B Hkv S Dh", "v": "B Hkv S Dh", "out": "B H T Dh"},
    outputs=("out",),
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    depth=4,
    notes="q and k come without RoPE, which is part of this function; the T queries are the last "
    "of the S tokens. chunk_size is c, the trained length, local_size is w, and a chunk has "
    "c - w tokens. No distance exceeds c - 1, as in the paper.",
)

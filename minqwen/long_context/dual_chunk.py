"""Dual chunk attention (DCA): a long text is read with the distances that training has seen.

RoPE knows the distances 0 .. c - 1 from training and no others. So the text is cut into chunks of
s = c - w tokens. A key stands at its place within its chunk, a query at one of three places, by
n = i // s - j // s, the number of chunks from key j up to query i:

    key                j mod s
    query    n = 0     i mod s                    intra: the same chunk
             n = 1     min(i mod s + s, highest)  succ: the chunk before; w distances stay exact
             n >= 2    min(2s - 1, highest)       inter: far; a constant, the same for all queries

RoPE sees the query's place minus the key's: 0 .. highest, never more. With w <= s, distances i - j
up to w come out exactly, and for i <= highest all do: a short text is read as by plain attention.

`highest` is c - 1 in the paper, where c is the trained length. The authors' released code has c in
its place, with a c of 3/4 of the trained length, and so keeps w + 1 distances: pass highest=c.

The authors run three attentions, one for each line of the table, and merge them by the logs of
their sums: out = sum_b exp(L_b - L) out_b with L = log sum_b exp(L_b). As out_b is a sum over
exp(s_ij - L_b) v_j, this is sum_j exp(s_ij - L) v_j: one softmax over all keys, which we run.

Blocks of queries as in block_attention.py. They end where a chunk ends, so each key is of one line
of the table and needs one product, as in plain attention. Only where padding moves the chunks of
some rows are the keys in between multiplied twice, and a mask picks.

The gradient. As in attention.py, with one dq for each place of the query, turned back from there:

    dq_b = scale * ds_b k        dk = scale * sum_b ds_b^T q_b        dq = sum_b R_b^T dq_b

Paper:    Qwen2 Technical Report, "Qwen2 Dense Model", Dual Chunk Attention with YARN.
Origin:   An et al. 2024, "Training-Free Long-Context Scaling of LLMs", arXiv:2402.17463.
Differs:  2s - 1 is the released code's; the paper's inter is c - 1 also where that is more, which
          needs w > s. The report gives no sizes; in the paper w is about c / 4.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from ..backend import Array, DType, array_module, to_numpy, widen
from ..layers.attention import group_heads
from ..layers.attention_tiles import matrix, row_softmax, tile_gradients
from ..layers.rope import RopeCache, rope_backward, rope_forward
from ..shapes import require_shape
from .chunk_pieces import Chunks, key_pieces, row_blocks, scores_of_pieces
from .yarn import yarn_tables

Table: TypeAlias = tuple[Array, Array]  # cos, sin: (T, Dh) or (B, T, Dh)


class DualChunkPositions(NamedTuple):
    """Where RoPE puts each token, as a key and as a query; all shaped like the positions."""

    key: Array
    intra: Array
    succ: Array
    inter: Array
    chunk: Array  # the number of the token's chunk


class DualChunkTables(NamedTuple):
    """What dual chunk attention needs to know of the positions; one for all layers."""

    key: Table  # for the keys of the T new tokens
    intra: Table  # for the queries, by where the key is
    succ: Table
    inter: Table
    query_chunk: Array  # (T,) or (B, T) int, on the host
    key_chunk: Array  # (S,) or (B, S) int, on the host


class DualChunkCache(NamedTuple):
    q: list[Array]  # intra, succ, inter: (B*Hkv, T, G, Dh) turned queries times scale
    ropes: list[RopeCache]  # of the three
    k: Array  # (B*Hkv, S, Dh) turned
    v: Array  # (B*Hkv, S, Dh)
    bias: Array | None  # (B*Hkv, 1, S) 0 for a real key, -inf for padding
    out: Array  # (B*Hkv, T, G, Dh)
    lse: Array  # (B*Hkv, T, G, 1) log of the sum of exponentials, one per query
    chunks: Chunks  # (1, T) or (B, T), (1, S) or (B, S) int, on the host
    block: int
    scale: float
    shape: tuple[int, ...]  # of the argument q
    dtype: DType  # of the arguments


def dual_chunk_attention_forward(
    q: Array,
    k: Array,
    v: Array,
    tables: DualChunkTables,
    real: Array | None = None,
    scale: float | None = None,
    block: int | None = None,
) -> tuple[Array, DualChunkCache]:
    """Let every query average the values so far, from one of three places for each key.

    Args:
        q: (B, H, T, Dh) float, queries, NOT turned by RoPE: the last T of the S positions.
        k: (B, Hkv, S, Dh) float, keys, turned by tables.key when they were new. A KV cache keeps
            turned keys: unlike its query, a key never moves.
        v: (B, Hkv, S, Dh) float, values.
        tables: from dual_chunk_tables.
        real: (B, S) bool, True = a real token, False = padding, on either side; None = all real.
        scale: factor on the scores; None means 1 / sqrt(Dh).
        block: most queries per block; None: 64, or 1024 on a GPU.

    Returns:
        out: (B, H, T, Dh) in q.dtype; zeros for a query that sees no real token.
        cache: for dual_chunk_attention_backward.

    Raises:
        TypeError: q, k, v are not floating point or not of one dtype, or real is not boolean.
        ValueError: a shape does not fit, H is not a multiple of Hkv, T > S, or block < 1.

    >>> tables = dual_chunk_tables(np.arange(2), np.arange(2), np.ones(1), 4, 2)
    >>> v = np.array([[[[1.0, 1.0], [3.0, 3.0]]]])  # equal scores: the mean of what is seen
    >>> dual_chunk_attention_forward(0 * v, 0 * v, v, tables)[0][0, 0, :, 0]
    array([1., 2.])
    """
    xp = array_module(q)
    grouped, k, v, bias, scale, shape, dtype = group_heads(q, k, v, real, scale, None)
    (B, H, T, Dh), (BHkv, _, G, _), S = shape, grouped.shape, k.shape[1]
    for name, sizes in (("query_chunk", {"T": T}), ("key_chunk", {"S": S})):
        chunk = getattr(tables, name)
        require_shape(name, chunk, **({"B": B} if chunk.ndim == 2 else {}), **sizes)
    chunks = (np.atleast_2d(tables.query_chunk), np.atleast_2d(tables.key_chunk))
    if block is None:
        block = 64 if isinstance(q, np.ndarray) else 1024
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")

    turned = [rope_forward(widen(q), *t) for t in (tables.intra, tables.succ, tables.inter)]
    queries = [(y * scale).reshape(BHkv, G, T, Dh).swapaxes(1, 2) for y, _ in turned]
    out, lse = xp.empty_like(grouped), xp.empty_like(grouped[..., :1])
    for rows in row_blocks(chunks[0], block):
        pieces = list(key_pieces(chunks, rows, H // G, G, like=k))
        scores = scores_of_pieces(queries, k, bias, rows, pieces)  # (B*Hkv, rows*G, e)
        weights, total, lse_rows = row_softmax(scores)
        means = (weights @ v[:, : weights.shape[-1]]) / total
        out[:, rows] = means.reshape(out[:, rows].shape)
        lse[:, rows] = lse_rows.reshape(lse[:, rows].shape)
    y = out.swapaxes(1, 2).reshape(shape).astype(dtype, copy=False)  # (B, H, T, Dh)
    ropes = [cache for _, cache in turned]
    return y, DualChunkCache(
        queries, ropes, k, v, bias, out, lse, chunks, block, scale, shape, dtype
    )


def dual_chunk_attention_backward(dout: Array, cache: DualChunkCache) -> tuple[Array, Array, Array]:
    """Return (dq, dk, dv) from dout (B, H, T, Dh): of q before turning, of k after turning."""
    queries, ropes, k, v, bias, out, lse, chunks, block, scale, shape, dtype = cache
    xp = array_module(k)
    (B, H, T, Dh), (BHkv, _, G, _) = shape, out.shape
    require_shape("dout", dout, B=B, H=H, T=T, Dh=Dh)

    dout = widen(dout).reshape(BHkv, G, T, Dh).swapaxes(1, 2)  # (B*Hkv, T, G, Dh)
    delta = (dout * out).sum(axis=-1, keepdims=True)  # (B*Hkv, T, G, 1)
    dqueries = [xp.zeros_like(out) for _ in queries]
    dk, dv = xp.zeros_like(k), xp.zeros_like(v)
    for rows in row_blocks(chunks[0], block):
        pieces = list(key_pieces(chunks, rows, H // G, G, like=k))
        scores = scores_of_pieces(queries, k, bias, rows, pieces)  # (B*Hkv, rows*G, e)
        of_rows = (matrix(x, rows) for x in (lse, dout, delta))
        dscores, dv_keys = tile_gradients(scores, v[:, : scores.shape[-1]], *of_rows)
        dv[:, : scores.shape[-1]] += dv_keys
        for b, keys, picked in pieces:
            ds = dscores[:, :, keys] if picked is None else dscores[:, :, keys] * picked
            dqueries[b][:, rows] += (ds @ k[:, keys]).reshape(out[:, rows].shape)
            dk[:, keys] += ds.swapaxes(-1, -2) @ matrix(queries[b], rows)  # scale is in q already
    dq = xp.zeros(shape, dtype=k.dtype)
    for d, rope in zip(dqueries, ropes, strict=True):
        dq += rope_backward((d * scale).swapaxes(1, 2).reshape(shape), rope)
    dk, dv = (d.reshape(B, H // G, *k.shape[1:]) for d in (dk, dv))
    return tuple(d.astype(dtype, copy=False) for d in (dq, dk, dv))


def dual_chunk_positions(
    positions: Array, chunk_size: int, local_window: int, highest: int | None = None
) -> DualChunkPositions:
    """Return where RoPE puts each token, as a key and as a query.

    Args:
        positions: (...) int, 0-based, on the host or a device.
        chunk_size: c, the number of positions that training has seen.
        local_window: w, 1 <= w < c.
        highest: the highest place of a query. None: c - 1, as in the paper; the released code: c.

    Raises:
        TypeError: positions are not integers.
        ValueError: local_window is not in [1, c), or highest is below the chunk length c - w.

    >>> p = dual_chunk_positions(np.array([0, 5, 6, 9, 10, 11]), chunk_size=10, local_window=4)
    >>> p.key, p.succ, int(p.inter[0])
    (array([0, 5, 0, 3, 4, 5]), array([6, 9, 6, 9, 9, 9]), 9)
    """
    if positions.dtype.kind not in "iu":
        raise TypeError(f"positions must be integers, got dtype {positions.dtype}")
    if not 1 <= local_window < chunk_size:
        raise ValueError(
            f"local_window must be in [1, chunk_size={chunk_size}), got {local_window}"
        )
    length = chunk_size - local_window
    highest = chunk_size - 1 if highest is None else highest
    if highest < length:
        raise ValueError(f"highest must be at least the chunk length {length}, got {highest}")
    xp = array_module(positions)
    within = positions % length
    succ = xp.minimum(within + length, highest)
    inter = xp.full_like(positions, min(2 * length - 1, highest))
    return DualChunkPositions(within, within, succ, inter, positions // length)


def dual_chunk_tables(
    positions: Array,
    key_positions: Array,
    inv_freq: Array,
    chunk_size: int,
    local_window: int,
    highest: int | None = None,
    attention_factor: float = 1.0,
) -> DualChunkTables:
    """Return the tables of cos and sin, and the chunks, made once for all layers.

    Args:
        positions: (T,) or (B, T) int, of the new tokens. Copied to the host: on a device, that
            waits for it, once per pass.
        key_positions: (S,) or (B, S) int, of all tokens, ending in `positions`; never falling.
        inv_freq: (Dh/2,) float32 or float64, on the device of the model, or (B, 1, Dh/2) with
            frequencies of its own for each row.
        chunk_size, local_window, highest: see dual_chunk_positions.
        attention_factor: multiplies all cos and sin; YaRN's temperature.

    Raises:
        TypeError: positions are not integers, or inv_freq is below float32.
        ValueError: key_positions fall, are below 0, or do not end in positions; and see
            dual_chunk_positions.
    """
    xp = array_module(inv_freq)
    new, all_ = to_numpy(positions), to_numpy(key_positions)
    if new.ndim < all_.ndim:  # the same for all rows, where earlier tokens were not
        new = np.broadcast_to(new, (len(all_), len(new)))
    place = dual_chunk_positions(new, chunk_size, local_window, highest)
    if not np.array_equal(new, all_[..., max(0, all_.shape[-1] - new.shape[-1]) :]):
        raise ValueError(
            f"key_positions, shape {all_.shape}, must end in positions, shape {new.shape}"
        )
    if (all_[..., 1:] < all_[..., :-1]).any():
        raise ValueError("key_positions must not fall along a row")
    if all_.size and all_.min() < 0:
        raise ValueError(f"key_positions must be 0 or above, got {all_.min()}")

    key, succ, inter = (
        yarn_tables(xp.asarray(where), inv_freq, attention_factor)
        for where in (place.key, place.succ, place.inter)
    )
    key_chunk = all_ // (chunk_size - local_window)
    chunks = (chunk.astype(np.int64) for chunk in (place.chunk, key_chunk))  # differences are taken
    return DualChunkTables(key, key, succ, inter, *chunks)

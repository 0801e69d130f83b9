"""Our checks must fail on the known mistakes: each is planted into a copy of the real source.

A wrong backward fails the gradient check, a wrong forward the comparison with slow loops, wrong
wiring the comparison with the file that transformers wrote.
"""

import dataclasses
import importlib
import pathlib
import sys
import types

import numpy as np
import pytest
from helpers.model_fixture import MODELS, logits_error
from helpers.references import causal_mask, reference_error

from minqwen.check.concepts import concept, gradient_table
from minqwen.layers import attention
from minqwen.long_context import chunk_pieces, dual_chunk
from minqwen.model import decoder_block, language_model, layer_plan

# concept, what is wrong, the line as it stands, the line as people write it
BACKWARD = [
    (
        "linear",
        "bias gradient is the mean",
        "column_sums(dy_rows)",
        "(column_sums(dy_rows) / len(dy_rows))",
    ),
    (
        "linear",
        "weight gradient divided by rows",
        "dy_rows.T @ x_rows",
        "dy_rows.T @ x_rows / len(x_rows)",
    ),
    ("linear", "weight gradient lost", "dy_rows.T @ x_rows", "0 * (dy_rows.T @ x_rows)"),
    (
        "embedding",
        "repeated ids keep one row",
        "xp.add.at(dw, ids.reshape(-1), rows)",
        "dw[ids.reshape(-1)] += rows",
    ),
    ("rmsnorm", "rms taken for constant", "g - x_hat * (g * x_hat)", "g - 0 * (g * x_hat)"),
    ("rmsnorm", "sum for mean", "(g * x_hat).mean(", "(g * x_hat).sum("),
    ("rmsnorm", "gain forgotten", "g = dy * widen(w)", "g = dy"),
    (
        "rope",
        "turned forwards again",
        "- rotate_half(widen(dy)) * sin",
        "+ rotate_half(widen(dy)) * sin",
    ),
    ("rope", "sine part lost", "- rotate_half(widen(dy)) * sin", ""),
    (
        "attention",
        "softmax correction lost",
        "probs * (dprobs - delta) * scale",
        "probs * dprobs * scale",
    ),
    (
        "attention",
        "scale forgotten",
        "probs * (dprobs - delta) * scale",
        "probs * (dprobs - delta)",
    ),
    (
        "attention",
        "mean over the group",
        "dk = (dscores.swapaxes(-1, -2) @ q).sum(axis=2)",
        "dk = (dscores.swapaxes(-1, -2) @ q).mean(axis=2)",
    ),
    (
        "attention",
        "dv without probabilities of the right shape",
        "@ dout).sum(axis=2)",
        "@ dout)[:, :, 0]",
    ),
    ("block_attention", "delta lost", "dscores -= delta", "dscores -= 0"),
    ("block_attention", "scale forgotten in dq", "dq = (dq * scale)", "dq = (dq * 1)"),
    ("block_attention", "only the last block counts for dk", "dk[:, keys] +=", "dk[:, keys] ="),
    ("block_attention", "only the last block counts for dv", "dv[:, keys] +=", "dv[:, keys] ="),
    (
        "block_attention",
        "window ignored backwards",
        "row_blocks(T, k.shape[1], block, window):\n        scores = tile_scores(q, k, bias, rows, keys, window)",
        "row_blocks(T, k.shape[1], block, None):\n        scores = tile_scores(q, k, bias, rows, keys, None)",
    ),
    (
        "block_attention",
        "window too long backwards",
        "k.shape[1], block, window):\n        scores = tile_scores(q, k, bias, rows, keys, window)",
        "k.shape[1], block, window and window + 1):\n        scores = tile_scores(q, k, bias, rows, keys, window and window + 1)",
    ),
    (
        "flash_attention",
        "delta lost",
        "delta = (dout * out).sum(axis=-1, keepdims=True)",
        "delta = (dout * out).sum(axis=-1, keepdims=True) * 0",
    ),
    ("flash_attention", "scale forgotten in dq", "dq = (dq * scale)", "dq = (dq * 1)"),
    ("flash_attention", "scale twice in dk", "@ q_rows", "@ q_rows * scale"),
    ("flash_attention", "only the last tile counts for dq", "dq_rows +=", "dq_rows ="),
    ("flash_attention", "only the last tile counts for dk", "dk[:, tile] +=", "dk[:, tile] ="),
    ("flash_attention", "only the last tile counts for dv", "dv[:, tile] +=", "dv[:, tile] ="),
    ("flash_attention", "lse without the maximum", "(peak + xp.log(total))", "xp.log(total)"),
    (
        "flash_attention",
        "lse of the last tile",
        "lse[:, rows] = (peak + xp.log(total))",
        "lse[:, rows] = (peak + xp.log(weights.sum(axis=-1, keepdims=True) + 1e-9))",
    ),
    (
        "flash_attention",
        "window ignored backwards",
        "k.shape[1], block_q, window):",
        "k.shape[1], block_q, (window := None)):",
    ),
    ("swiglu", "silu' without its second term", "(s * (1 + widen(gate) * (1 - s)))", "s"),
    ("swiglu", "silu taken for sigmoid", "dup = dh * (widen(gate) * s)", "dup = dh * s"),
    ("swiglu", "one branch lost", "return dx_gate + dx_up", "return dx_gate"),
    (
        "dropout",
        "scale forgotten",
        "dx: Array = dy * cache.factor",
        "dx: Array = dy * (cache.factor != 0)",
    ),
    ("dropout", "mask forgotten", "dx: Array = dy * cache.factor", "dx: Array = dy"),
    ("cross_entropy", "one-hot lost", "-= weight.astype(dz.dtype)", "-= 0"),
    (
        "cross_entropy",
        "not averaged",
        "counted * (dloss / tokens)",
        "counted * (dloss / (tokens / tokens))",
    ),
    ("cross_entropy", "mask forgotten", "counted * (dloss", "(counted * 0 + 1) * (dloss"),
    ("decoder_block", "residual lost at the MLP", "dh = dy + dn", "dh = dn"),
    ("decoder_block", "residual lost at attention", "return dh + dn, grads", "return dn, grads"),
    ("self_attention", "RoPE not undone on k", "rope_backward(dk, cache.k_rope)", "dk"),
    ("self_attention", "RoPE not undone on q", "rope_backward(dq, cache.q_rope)", "dq"),
    ("self_attention", "LogN not undone", "dq = logn_backward(dq, cache.logn)", "pass"),
    ("language_model", "tied table: head part lost", "dw_table + dw_head", "dw_table"),
    ("language_model", "tied table: lookup part lost", "dw_table + dw_head", "dw_head"),
    ("logn", "scale forgotten", "dq: Array = widen(dy) * scale", "dq: Array = widen(dy)"),
    ("logn", "divided", "dq: Array = widen(dy) * scale", "dq: Array = widen(dy) / scale"),
    (
        "dual_chunk_attention",
        "all three places turned back from the first",
        "zip(dqueries, ropes, strict=True)",
        "zip(dqueries, ropes[:1] * 3, strict=True)",
    ),
    (
        "dual_chunk_attention",
        "only the last place counts for dq",
        "        dq += rope_backward(",
        "        dq = rope_backward(",
    ),
    (
        "dual_chunk_attention",
        "dq not turned back",
        "dq += rope_backward((d * scale).swapaxes(1, 2).reshape(shape), rope)",
        "dq += (d * scale).swapaxes(1, 2).reshape(shape)",
    ),
    (
        "dual_chunk_attention",
        "scale forgotten in dq",
        "rope_backward((d * scale)",
        "rope_backward((d * 1)",
    ),
    (
        "dual_chunk_attention",
        "dk from the intra queries only",
        "@ matrix(queries[b], rows)",
        "@ matrix(queries[0], rows)",
    ),
    (
        "dual_chunk_attention",
        "only the last block counts for dk",
        "dk[:, keys] +=",
        "dk[:, keys] =",
    ),
    (
        "dual_chunk_attention",
        "only the last block counts for dv",
        "dv[:, : scores.shape[-1]] +=",
        "dv[:, : scores.shape[-1]] =",
    ),
    (
        "dual_chunk_attention",
        "delta lost",
        "for x in (lse, dout, delta))",
        "for x in (lse, dout, 0 * delta))",
    ),
    (
        "dual_chunk_attention",
        "a pair of two pieces counts twice",
        "dscores[:, :, keys] * picked",
        "dscores[:, :, keys]",
    ),
]
# a wrong forward is a wrong function: its gradient may be right, its value is not that of the loops
FORWARD = [
    (
        "self_attention",
        "LogN on keys",
        "q, logn = logn_forward(q, q_scale)",
        "k, _ = logn_forward(k, q_scale)",
    ),
    ("self_attention", "LogN forgotten", "if q_scale is not None:", "if False:"),
    ("self_attention", "window forgotten", "real, window=window)", "real)"),
    (
        "self_attention",
        "plain attention for dual chunks",
        "    if chunks is None:\n        a,",
        "    if True:\n        a,",
    ),
    (
        "self_attention",
        "padding forgotten with chunks",
        "(q, k, v, chunks, real)",
        "(q, k, v, chunks)",
    ),
    (
        "self_attention",
        "queries turned before dual chunks",
        "if chunks is None:\n        q, q_rope",
        "if True:\n        q, q_rope",
    ),
    ("linear", "bias dropped", "if b is not None:", "if False:"),
    (
        "embedding",
        "scaled by the root of D",
        "return w[ids], Emb",
        "return w[ids] * w.shape[1] ** 0.5, Emb",
    ),
    (
        "rmsnorm",
        "mean subtracted",
        "x_wide = widen(x)",
        "x_wide = widen(x) - x.mean(-1, keepdims=True)",
    ),
    ("rmsnorm", "eps outside the root", "keepdims=True) + eps)", "keepdims=True)) - 0 + eps"),
    ("rmsnorm", "eps forgotten", "keepdims=True) + eps)", "keepdims=True))"),
    ("rmsnorm", "gain forgotten", "(x_wide * inv_rms) * widen(w)", "x_wide * inv_rms"),
    (
        "rope",
        "interleaved pairs",
        "turned: Array = array_module(x).concatenate((-x[..., half:], x[..., :half]), axis=-1)",
        "turned: Array = array_module(x).stack((-x[..., 1::2], x[..., ::2]), axis=-1).reshape(x.shape)",
    ),
    ("rope", "turned the other way", "y: Array = widen(x) * cos +", "y: Array = widen(x) * cos -"),
    (
        "rope",
        "frequencies of half the width",
        "np.float64) / head_dim",
        "np.float64) / (head_dim // 2)",
    ),
    (
        "rope",
        "every row at the positions of the first",
        "angles = positions[..., None]",
        "angles = (positions if positions.ndim == 1 else positions[:1].repeat(len(positions), 0))[..., None]",
    ),
    ("attention", "no scale", "scale = Dh**-0.5 if scale is None else scale", "scale = 1.0"),
    ("attention", "mask ignored", "if mask is not None:", "if False:"),
    (
        "attention",
        "key heads tiled, not repeated",
        "q, k, v = q.reshape(B, Hkv, H // Hkv, T, Dh), k[:, :, None], v[:, :, None]",
        "q, k, v = q[:, :, None], *(xp.tile(a, (1, H // Hkv, 1, 1))[:, :, None] for a in (k, v))",
    ),
    (
        "block_attention",
        "no scale",
        "group_heads(q, k, v, real, scale, window)",
        "group_heads(q, k, v, real, 1.0, window)",
    ),
    (
        "block_attention",
        "mask ignored",
        "group_heads(q, k, v, real, scale, window)",
        "group_heads(q, k, v, None, scale, window)",
    ),
    (
        "block_attention",
        "diagonal one too high",
        "xp.tri(n, m - start, own - start, dtype=bool)",
        "xp.tri(n, m - start, own - start + 1, dtype=bool)",
    ),
    (
        "block_attention",
        "diagonal one too low",
        "start = max(own + 1, 0)",
        "own, start = own - 1, max(own, 0)",
    ),
    (
        "block_attention",
        "queries are the first of the S tokens",
        "    T, S = q.shape[1], k.shape[1]\n",
        "    T, k, v = q.shape[1], k[:, : q.shape[1]], v[:, : q.shape[1]]\n    S = T\n",
    ),
    (
        "block_attention",
        "window one too long",
        "    T, S = q.shape[1], k.shape[1]\n",
        "    T, S, window = q.shape[1], k.shape[1], window and window + 1\n",
    ),
    ("block_attention", "window one too short", "own - window, dtype", "own - window + 1, dtype"),
    ("block_attention", "oldest key kept", "own - window, dtype", "own - window - 1, dtype"),
    (
        "block_attention",
        "window of the block, not of each query",
        "if window is not None and own + n > window:",
        "if False:",
    ),
    (
        "block_attention",
        "first keys of the window not computed",
        "S - T + i - window + 1)",
        "S - T + i - window + 2)",
    ),
    (
        "block_attention",
        "key heads tiled, not repeated",
        "group_heads(q, k, v, real, scale, window)",
        "group_heads(q, *(np.tile(x, (1, q.shape[1] // x.shape[1], 1, 1)) for x in (k, v)), real, scale, window)",
    ),
    ("flash_attention", "sum not shrunk", "total = total * shrink", "total = total"),
    ("flash_attention", "values not shrunk", "total_v = total_v * shrink", "total_v = total_v"),
    ("flash_attention", "maximum not updated", "            peak = new_peak\n", ""),
    (
        "flash_attention",
        "shrunk the other way",
        "xp.exp(peak - new_peak)",
        "xp.exp(xp.maximum(new_peak - peak, -9).clip(-9, 9))",
    ),
    (
        "flash_attention",
        "divided by the sum in every tile",
        "@ v[:, tile]\n",
        "@ v[:, tile] / (total + 1e-9)\n",
    ),
    (
        "flash_attention",
        "a tile that is not full is lost",
        "keys.stop, block):",
        "keys.stop - block + 1, block):",
    ),
    (
        "flash_attention",
        "window ignored",
        "block_q, window):\n        total_v",
        "block_q, (window := None)):\n        total_v",
    ),
    (
        "flash_attention",
        "window one too long",
        "T, S = q.shape[1], k.shape[1]",
        "T, S, window = q.shape[1], k.shape[1], window and window + 1",
    ),
    (
        "flash_attention",
        "no scale",
        "group_heads(q, k, v, real, scale, window)",
        "group_heads(q, k, v, real, 1.0, window)",
    ),
    (
        "flash_attention",
        "mask ignored",
        "group_heads(q, k, v, real, scale, window)",
        "group_heads(q, k, v, None, scale, window)",
    ),
    (
        "swiglu",
        "gate and up swapped",
        "widen(gate) * sigmoid(gate) * widen(up)",
        "widen(up) * sigmoid(up) * widen(gate)",
    ),
    ("swiglu", "sigmoid for silu", "widen(gate) * sigmoid(gate) *", "sigmoid(gate) *"),
    (
        "cross_entropy",
        "mean over all tokens",
        "surprise.sum() / tokens",
        "surprise.sum() / len(label)",
    ),
    ("cross_entropy", "mask ignored", "counts = counts & loss_mask.reshape(-1)", "pass"),
    ("window", "one too long", "S - T - window, dtype", "S - T - window - 1, dtype"),
    ("window", "one too short", "S - T - window, dtype", "S - T - window + 1, dtype"),
    ("window", "future not hidden", "causal_mask(T, S, like) & ~too_old", "~too_old"),
    ("window", "window ignored", "causal_mask(T, S, like) & ~too_old", "causal_mask(T, S, like)"),
    (
        "window",
        "queries are the first of the S tokens",
        "tri(T, S, S - T - window",
        "tri(T, S, -window",
    ),
    (
        "ntk",
        "all positions divided",
        "rope_inv_freq(head_dim, ntk_base(base, alpha, head_dim), dtype)",
        "interpolated_inv_freq(head_dim, base, alpha, dtype)",
    ),
    (
        "ntk",
        "exponent missing",
        "alpha ** (head_dim / (head_dim - 2))",
        "alpha",
    ),
    (
        "ntk",
        "exponent upside down",
        "alpha ** (head_dim / (head_dim - 2))",
        "alpha ** ((head_dim - 2) / head_dim)",
    ),
    (
        "ntk",
        "floor for ceil",
        "while doubled * train_length < length",
        "while doubled * 2 * train_length <= length",
    ),
    (
        "ntk",
        "not one doubling further",
        "2 * doubled - 1",
        "doubled",
    ),
    (
        "ntk",
        "1 not taken away",
        "2 * doubled - 1",
        "2 * doubled",
    ),
    (
        "ntk",
        "the ratio itself",
        "2 * doubled - 1",
        "max(1, length / train_length)",
    ),
    (
        "yarn",
        "no temperature",
        "cos * factor, sin * factor",
        "cos, sin",
    ),
    (
        "yarn",
        "temperature on cos only",
        "cos * factor, sin * factor",
        "cos * factor, sin",
    ),
    (
        "yarn",
        "temperature twice",
        "cos * factor, sin * factor",
        "cos * factor**2, sin * factor**2",
    ),
    (
        "yarn",
        "temperature of ChunkLlama",
        "return 0.1 * log + 1.0",
        "return 0.05 * log + 1.0",
    ),
    (
        "yarn",
        "ramp reversed",
        "plain * (1 - ramp) + plain / factor * ramp",
        "plain * ramp + plain / factor * (1 - ramp)",
    ),
    (
        "yarn",
        "wavelengths blended",
        "plain * (1 - ramp) + plain / factor * ramp",
        "plain / (1 - ramp + factor * ramp)",
    ),
    (
        "yarn",
        "all pairs interpolated",
        "plain * (1 - ramp) + plain / factor * ramp",
        "plain / factor",
    ),
    (
        "yarn",
        "factor 2 lost in dim",
        "/ (2 * math.log(base))",
        "/ math.log(base)",
    ),
    (
        "yarn",
        "2 pi lost in dim",
        "/ (2 * math.pi * turns)",
        "/ turns",
    ),
    (
        "yarn",
        "low up and high down",
        "math.floor(low), math.ceil(high)",
        "math.ceil(low), math.floor(high)",
    ),
    (
        "yarn",
        "always rounded",
        "if truncate:",
        "if True:",
    ),
    (
        "yarn",
        "ramp over features, not pairs",
        "np.arange(head_dim // 2)",
        "np.arange(0, head_dim, 2)",
    ),
    (
        "logn",
        "off by one",
        "positions.astype(dtype) + 1",
        "positions.astype(dtype)",
    ),
    (
        "logn",
        "below the trained length too",
        "xp.maximum(positions.astype(dtype) + 1, train_length)",
        "positions.astype(dtype) + 1",
    ),
    (
        "logn",
        "by the length of the text",
        "positions.astype(dtype) + 1",
        "(0 * positions + positions.max()).astype(dtype) + 1",
    ),
    (
        "logn",
        "log of base 2",
        "/ math.log(train_length)",
        "/ math.log2(train_length)",
    ),
    (
        "logn",
        "no logarithm",
        "1 + xp.log(n / train_length) / math.log(train_length)",
        "n / train_length",
    ),
    (
        "logn",
        "twice",
        "y: Array = widen(q) * scale",
        "y: Array = widen(q) * scale**2",
    ),
    (
        "logn",
        "every row at the positions of the first",
        "scale[:, None, :, None]",
        "scale[:1, None, :, None]",
    ),
    (
        "dual_chunk_attention",
        "clamped to c for c - 1",
        "highest = chunk_size - 1 if highest is None",
        "highest = chunk_size if highest is None",
    ),
    (
        "dual_chunk_attention",
        "chunks as long as the trained range",
        "within = positions % length",
        "within, length = positions % chunk_size, chunk_size",
    ),
    (
        "dual_chunk_attention",
        "keys at their place in the text",
        "(place.key, place.succ, place.inter)",
        "(new, place.succ, place.inter)",
    ),
    (
        "dual_chunk_attention",
        "far queries at a place of their own",
        "inter = xp.full_like(positions, min(2 * length - 1, highest))",
        "inter = succ",
    ),
    (
        "dual_chunk_attention",
        "no clamp for the chunk before",
        "succ = xp.minimum(within + length, highest)",
        "succ = within + length",
    ),
    (
        "dual_chunk_attention",
        "chunk before taken for far",
        "for t in (tables.intra, tables.succ, tables.inter)",
        "for t in (tables.intra, tables.inter, tables.inter)",
    ),
    (
        "dual_chunk_attention",
        "queries not turned",
        "queries = [(y * scale)",
        "queries = [(q * scale)",
    ),
    (
        "dual_chunk_attention",
        "no scale",
        "queries = [(y * scale)",
        "queries = [(y * 1)",
    ),
    (
        "dual_chunk_attention",
        "chunks of the first row for all rows",
        "np.atleast_2d(tables.key_chunk))",
        "0 * np.atleast_2d(tables.key_chunk) + np.atleast_2d(tables.key_chunk)[:1])",
    ),
    (
        "dual_chunk_attention",
        "three softmaxes, and their mean",
        "means = (weights @ v[:, : weights.shape[-1]]) / total",
        "means = sum(weights[:, :, at] @ v[:, at] / (weights[:, :, at].sum(-1, keepdims=True) + 1e-300) for _, at, _ in pieces) / len(pieces)",
    ),
]
CAUSAL_MASK = [
    ("diagonal one too high", "tri(T, S, S - T, dtype", "tri(T, S, S - T + 1, dtype"),
    ("diagonal one too low", "tri(T, S, S - T, dtype", "tri(T, S, S - T - 1, dtype"),
    ("queries are the first of the S tokens", "tri(T, S, S - T, dtype", "tri(T, S, 0, dtype"),
]
# in the helper of dual_chunk_attention: what is wrong, and the two lines
CHUNK_PIECES = [
    (
        "chunk before hidden by a causal mask",
        "piece = tile_scores(queries[b], k, bias, rows, keys, None)",
        "piece = tile_scores(queries[b], k, bias, rows, keys, None); piece = xp.where(xp.tri(*piece.shape[1:], dtype=bool), piece, -xp.inf) if b == 1 else piece",
    ),
    (
        "overlapping pieces not told apart",
        "xp.where(picked, piece, scores[:, :, keys])",
        "piece",
    ),
    (
        "heads of the mask tiled, not repeated",
        "xp.repeat(xp.repeat(picked, Hkv, axis=0), G, axis=1)",
        "xp.tile(picked, (Hkv, G, 1))",
    ),
    (
        "queries are the first of the S tokens",
        "chunks[1].shape[1] - chunks[0].shape[1] + rows.stop",
        "rows.stop",
    ),
]
# how the layers are joined: the module, what is wrong, and the two lines
WIRING_LONG = [  # seen by the model with YaRN and a window only
    (
        "layer_plan",
        "attention factor forgotten",
        "cos, sin = yarn_tables(xp.asarray(positions), freq, factor)",
        "cos, sin = yarn_tables(xp.asarray(positions), freq, 1.0)",
    ),
    ("rope_scaling", "rope_scaling ignored", 'if kind == "yarn":', 'if kind == "yarns":'),
    ("layer_plan", "window lost", "q_scale, plan.window, chunks", "q_scale, None, chunks"),
]
WIRING = [
    (
        "rope_scaling",
        "RoPE base ignored",
        "base, scaling = config.head_dim, config.rope_theta",
        "base, scaling = config.head_dim, 10000.0",
    ),
    ("language_model", "final eps dropped", "params[NORM], config.rms_norm_eps)", "params[NORM])"),
    ("language_model", "positions ignored", "if positions is None:", "if True:"),
    (
        "language_model",
        "padding mask not passed on",
        "            real=real,\n",
        "            real=None,\n",
    ),
    (
        "language_model",
        "one layer used twice",
        'scopes(params, "model.layers", config.num_hidden_layers)',
        'scopes(params, "model.layers", config.num_hidden_layers)[:1] * config.num_hidden_layers',
    ),
    (
        "decoder_block",
        "first eps dropped",
        'params["input_layernorm.weight"], eps)',
        'params["input_layernorm.weight"])',
    ),
    (
        "decoder_block",
        "second eps dropped",
        '_forward(h, params["post_attention_layernorm.weight"], eps)',
        '_forward(h, params["post_attention_layernorm.weight"])',
    ),
    (
        "decoder_block",
        "gate and up swapped",
        'MLP = ("gate", "up", "down")',
        'MLP = ("up", "gate", "down")',
    ),
    (
        "decoder_block",
        "norms swapped",
        '_forward(h, params["post_attention_layernorm.weight"]',
        '_forward(h, params["input_layernorm.weight"]',
    ),
    (
        "self_attention",
        "keys not turned",
        "k, k_rope = rope_forward(k, cos, sin)",
        "_, k_rope = rope_forward(k, cos, sin)",
    ),
    (
        "self_attention",
        "values turned",
        "v = split_heads(v, config.num_key_value_heads)",
        "v = rope_forward(split_heads(v, config.num_key_value_heads), cos, sin)[0]",
    ),
    (
        "self_attention",
        "heads and features mixed up",
        "x.reshape(B, T, heads, width // heads).swapaxes(1, 2)",
        "x.reshape(B, T, width // heads, heads).transpose(0, 3, 1, 2)",
    ),
    ("self_attention", "biases dropped", 'params.get(f"{name}.bias")', "None"),
    ("decoder_block", "no residual around attention", "h = x + a\n", "h = a\n"),
    ("decoder_block", "no residual around the MLP", "y = h + m", "y = m"),
    ("decoder_block", "MLP beside attention", "_forward(h, params[", "_forward(x, params["),
]

USED_BY = {
    "rope_scaling": (layer_plan, "inv_freq"),
    "layer_plan": (language_model, "position_tables"),
    "self_attention": (decoder_block, "self_attention_forward"),
    "decoder_block": (language_model, "decoder_block_forward"),
}


# rules of long_context/ at points that a row of the table does not reach; each point stands in
# tests/long_context/ with its right value
RULES = [
    (
        "ntk",
        "one step too early",
        "doubled * train_length < length",
        "doubled * train_length <= length",
        lambda m: m.dynamic_ntk_alpha(4096, 2048),
    ),
    (
        "ntk",
        "the line below the trained length",
        "factor * max(length, train_length)",
        "factor * length",
        lambda m: m.continuous_ntk_alpha(7, 2048, 3.0),
    ),
    (
        "ntk",
        "the line does not start at 1",
        "/ train_length - (factor - 1))",
        "/ train_length)",
        lambda m: m.continuous_ntk_alpha(4096, 2048, 2.0),
    ),
    (
        "ntk",
        "interpolation makes faster",
        '"float64") / factor)',
        '"float64") * factor)',
        lambda m: m.interpolated_inv_freq(6, 100.0, 4.0)[0],
    ),
    (
        "yarn",
        "colder below factor 1",
        "math.log(max(factor, 1.0))",
        "math.log(factor)",
        lambda m: m.yarn_attention_factor(0.5),
    ),
    (
        "yarn",
        "mscale ignored",
        "if mscale and mscale_all_dim:",
        "if False:",
        lambda m: m.yarn_attention_factor(40.0, 0.707, 1.2),
    ),
    (
        "yarn",
        "mscale alone counts",
        "if mscale and mscale_all_dim:",
        "if mscale or mscale_all_dim:\n        mscale_all_dim = mscale_all_dim or 0",
        lambda m: m.yarn_attention_factor(40.0, 0.707, None),
    ),
    (
        "yarn",
        "high clamped to the pairs",
        "min(high, head_dim - 1)",
        "min(high, head_dim // 2 - 1)",
        lambda m: m.yarn_range(8, 1e4, 100_000),
    ),
    (
        "yarn",
        "low not clamped",
        "max(low, 0), min(",
        "low, min(",
        lambda m: m.yarn_range(8, 1e4, 64),
    ),
    (
        "yarn",
        "tables widened by a NumPy number",
        "factor = float(attention_factor)",
        "factor = np.float64(attention_factor)",
        lambda m: m.yarn_tables(np.arange(2), np.ones(1, np.float32), 1.5)[0].dtype,
    ),
    (
        "logn",
        "not quite 1 at the trained length",
        "1 + xp.log(n / train_length) / math.log(train_length)",
        "xp.log(n) / math.log(train_length)",
        lambda m: [(m.logn_scale(np.arange(n), n) == 1).all() for n in range(2, 200)],
    ),
]


def edited(module, old, new):
    """Return a copy of the module with one edit."""
    source = pathlib.Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {module.__name__}"
    copy = types.ModuleType(module.__name__ + "_wrong")
    copy.__package__ = module.__package__
    sys.modules[copy.__name__] = copy
    exec(compile(source.replace(old, new), module.__file__, "exec"), copy.__dict__)
    return copy


def wrapped(function, module, name):
    """Return `function`, an adapter of the table, calling the edited pair."""
    if function.__name__ == name and hasattr(module, name):
        return getattr(module, name)
    scope = dict(function.__globals__)
    for key in list(scope):
        if hasattr(module, key) and getattr(scope[key], "__module__", "") == module.__name__[:-6]:
            scope[key] = getattr(module, key)
    return types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__)


def with_mistake(name, old, new):
    row = concept(name)
    module = edited(importlib.import_module(row.module), old, new)
    return dataclasses.replace(
        row,
        forward=wrapped(row.forward, module, row.functions[0]),
        backward=wrapped(row.backward, module, row.functions[1]),
    )


@pytest.mark.parametrize(("name", "what", "old", "new"), BACKWARD, ids=lambda v: str(v)[:40])
def test_a_wrong_backward_fails_the_gradient_check(name, what, old, new):
    errors = gradient_table(with_mistake(name, old, new))
    assert any(e.error > 1e-2 for _, e in errors), what  # the rest need not be computed


@pytest.mark.parametrize(("name", "what", "old", "new"), FORWARD, ids=lambda v: str(v)[:40])
def test_a_wrong_forward_fails_the_comparison_with_the_loops(name, what, old, new):
    assert reference_error(with_mistake(name, old, new)) > 1e-7, what


@pytest.mark.parametrize(("what", "old", "new"), CAUSAL_MASK, ids=lambda v: str(v)[:40])
def test_a_wrong_causal_mask_fails_the_comparison_with_the_loops(what, old, new):
    wrong = edited(attention, old, new)
    assert not np.array_equal(wrong.causal_mask(4, 7), causal_mask(4, 7)), what


@pytest.mark.parametrize(("what", "old", "new"), CHUNK_PIECES, ids=lambda v: str(v)[:40])
def test_wrong_pieces_of_chunks_fail_the_comparison_with_the_loops(what, old, new, monkeypatch):
    wrong = edited(chunk_pieces, old, new)
    for name in ("key_pieces", "scores_of_pieces"):
        monkeypatch.setattr(dual_chunk, name, getattr(wrong, name))
    assert reference_error(concept("dual_chunk_attention")) > 1e-7, what


@pytest.mark.parametrize(
    ("name", "what", "old", "new", "model"),
    [(*mistake, model) for mistake in WIRING for model in MODELS]
    + [(*mistake, "long") for mistake in WIRING_LONG],
    ids=lambda v: str(v)[:40],
)
def test_wrong_wiring_fails_the_comparison_with_the_file(name, what, old, new, model, monkeypatch):
    wrong = edited(importlib.import_module(f"minqwen.model.{name}"), old, new)
    if name != "language_model":
        user, function = USED_BY[name]
        monkeypatch.setattr(user, function, getattr(wrong, function))
        wrong = language_model
    assert logits_error(model, wrong.language_model_forward) > 1e-7, what


@pytest.mark.parametrize(("name", "what", "old", "new", "value"), RULES, ids=lambda v: str(v)[:40])
def test_a_wrong_rule_gives_another_value(name, what, old, new, value):
    module = importlib.import_module(f"minqwen.long_context.{name}")
    assert value(edited(module, old, new)) != value(module), what


def test_with_ones_for_dy_a_softmax_that_returns_zeros_would_pass():
    """Why the upstream gradient is random."""
    row = concept("attention")
    q, k, _, mask = row.cases["GQA, S > T"](np.random.default_rng(0))
    v = np.ones_like(k)  # then out = 1 whatever the scores are
    y, cache = row.forward(q, k, v, mask)
    dq, dk, _ = row.backward(np.ones_like(y), cache)
    assert max(np.abs(dq).max(), np.abs(dk).max()) < 1e-12

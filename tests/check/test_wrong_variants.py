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
from minqwen.model import language_model

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
    ("block_attention", "delta lost", "dscores -= delta_rows", "dscores -= 0"),
    ("block_attention", "scale forgotten in dq", "dq = (dq * scale)", "dq = (dq * 1)"),
    ("block_attention", "only the last block counts for dk", "dk[:, :e] +=", "dk[:, :e] ="),
    ("block_attention", "only the last block counts for dv", "dv[:, :e] +=", "dv[:, :e] ="),
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
    ("decoder_block", "RoPE not undone on k", "rope_backward(dk, cache.k_rope)", "dk"),
    ("language_model", "tied table: head part lost", "dw_table + dw_head", "dw_table"),
    ("language_model", "tied table: lookup part lost", "dw_table + dw_head", "dw_head"),
]
# a wrong forward is a wrong function: its gradient may be right, its value is not that of the loops
FORWARD = [
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
        "scale, G, shape, dtype = Dh**-0.5 if scale is None else scale",
        "scale, G, shape, dtype = 1.0",
    ),
    ("block_attention", "mask ignored", "if real is not None:", "if False:"),
    (
        "block_attention",
        "diagonal one too high",
        "~xp.tri(rows, dtype=bool)",
        "~xp.tri(rows, k=1, dtype=bool)",
    ),
    (
        "block_attention",
        "diagonal one too low",
        "~xp.tri(rows, dtype=bool)",
        "~xp.tri(rows, k=-1, dtype=bool)",
    ),
    (
        "block_attention",
        "queries are the first of the S tokens",
        "e = k.shape[1] - T + i + rows",
        "e = i + rows",
    ),
    (
        "block_attention",
        "key heads tiled, not repeated",
        "H // Hkv, q.shape, q.dtype\n",
        "H // Hkv, q.shape, q.dtype\n    Hkv, G, k, v = H, 1, xp.tile(k, (1, G, 1, 1)), xp.tile(v, (1, G, 1, 1))\n",
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
]
CAUSAL_MASK = [
    ("diagonal one too high", "tri(T, S, S - T, dtype", "tri(T, S, S - T + 1, dtype"),
    ("diagonal one too low", "tri(T, S, S - T, dtype", "tri(T, S, S - T - 1, dtype"),
    ("queries are the first of the S tokens", "tri(T, S, S - T, dtype", "tri(T, S, 0, dtype"),
]
# how the layers are joined: the module, what is wrong, and the two lines
WIRING = [
    ("language_model", "final eps dropped", "params[NORM], config.rms_norm_eps)", "params[NORM])"),
    ("language_model", "RoPE base ignored", "config.rope_theta, ", "10000.0, "),
    ("language_model", "positions ignored", "if positions is None:", "if True:"),
    ("language_model", "padding mask not passed on", "real=real, kv_cache", "real=None, kv_cache"),
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
        "decoder_block",
        "keys not turned",
        "k, k_rope = rope_forward(split_heads(k, kv_heads), cos, sin)",
        "_, k_rope = rope_forward(split_heads(k, kv_heads), cos, sin); k = split_heads(k, kv_heads)",
    ),
    (
        "decoder_block",
        "values turned",
        "v = split_heads(v, kv_heads)",
        "v = rope_forward(split_heads(v, kv_heads), cos, sin)[0]",
    ),
    (
        "decoder_block",
        "heads and features mixed up",
        "x.reshape(B, T, heads, width // heads).swapaxes(1, 2)",
        "x.reshape(B, T, width // heads, heads).transpose(0, 3, 1, 2)",
    ),
    ("decoder_block", "biases dropped", 'params.get(f"{name}.bias")', "None"),
    ("decoder_block", "no residual around attention", "h = x + o\n", "h = o\n"),
    ("decoder_block", "no residual around the MLP", "y = h + m", "y = m"),
    ("decoder_block", "MLP beside attention", "_forward(h, params[", "_forward(x, params["),
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


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "what", "old", "new"), WIRING, ids=lambda v: str(v)[:40])
def test_wrong_wiring_fails_the_comparison_with_the_file(name, what, old, new, model, monkeypatch):
    wrong = edited(importlib.import_module(f"minqwen.model.{name}"), old, new)
    if name == "decoder_block":
        monkeypatch.setattr(language_model, "decoder_block_forward", wrong.decoder_block_forward)
        wrong = language_model
    assert logits_error(model, wrong.language_model_forward) > 1e-7, what


def test_with_ones_for_dy_a_softmax_that_returns_zeros_would_pass():
    """Why the upstream gradient is random."""
    row = concept("attention")
    q, k, _, mask = row.cases["GQA, S > T"](np.random.default_rng(0))
    v = np.ones_like(k)  # then out = 1 whatever the scores are
    y, cache = row.forward(q, k, v, mask)
    dq, dk, _ = row.backward(np.ones_like(y), cache)
    assert max(np.abs(dq).max(), np.abs(dk).max()) < 1e-12

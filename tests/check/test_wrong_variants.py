"""The gradient checks must fail on the known mistakes: each is planted into the real source."""

import dataclasses
import importlib
import pathlib
import sys
import types

import numpy as np
import pytest

from minqwen.check.concepts import concept
from minqwen.check.gradients import gradient_errors

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
# a wrong forward is a wrong function: it is not its gradient that shows it, but its value
FORWARD = [
    (
        "rmsnorm",
        "mean subtracted",
        "x_wide = widen(x)",
        "x_wide = widen(x) - x.mean(-1, keepdims=True)",
    ),
    ("rmsnorm", "eps outside the root", "keepdims=True) + eps)", "keepdims=True)) - 0 + eps"),
    (
        "rope",
        "interleaved pairs",
        "turned: Array = array_module(x).concatenate((-x[..., half:], x[..., :half]), axis=-1)",
        "turned: Array = array_module(x).stack((-x[..., 1::2], x[..., ::2]), axis=-1).reshape(x.shape)",
    ),
    ("rope", "turned the other way", "y: Array = widen(x) * cos +", "y: Array = widen(x) * cos -"),
    ("attention", "no scale", "scale = Dh**-0.5 if scale is None else scale", "scale = 1.0"),
    (
        "swiglu",
        "gate and up swapped",
        "widen(gate) * sigmoid(gate) * widen(up)",
        "widen(up) * sigmoid(up) * widen(gate)",
    ),
    (
        "cross_entropy",
        "mean over all tokens",
        "/ tokens\n    return loss",
        "/ len(label)\n    return loss",
    ),
]


def planted(name, old, new):
    """Return the concept with one edit in a copy of its module."""
    row = concept(name)
    module = importlib.import_module(row.module)
    source = pathlib.Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {row.module}"
    copy = types.ModuleType(row.module + "_wrong")
    copy.__package__ = module.__package__
    sys.modules[copy.__name__] = copy
    exec(compile(source.replace(old, new), module.__file__, "exec"), copy.__dict__)
    return row, copy


def wrapped(function, module, name):
    """Return `function`, an adapter of the table, calling the edited pair."""
    if function.__name__ == name:
        return getattr(module, name)
    scope = dict(function.__globals__)
    for key in list(scope):
        if hasattr(module, key) and getattr(scope[key], "__module__", "") == module.__name__[:-6]:
            scope[key] = getattr(module, key)
    return types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__)


def with_mistake(name, old, new):
    row, module = planted(name, old, new)
    return dataclasses.replace(
        row,
        forward=wrapped(row.forward, module, f"{name}_forward"),
        backward=wrapped(row.backward, module, f"{name}_backward"),
    )


def worst_gradient(row):
    worst = 0.0
    for make in row.cases.values():
        inputs = make(np.random.default_rng(0))
        for error in gradient_errors(row.forward, row.backward, *inputs, names=row.arguments):
            worst = max(worst, error.error)
    return worst


@pytest.mark.parametrize(("name", "what", "old", "new"), BACKWARD, ids=lambda v: str(v)[:40])
def test_a_wrong_backward_fails_the_gradient_check(name, what, old, new):
    assert worst_gradient(with_mistake(name, old, new)) > 1e-2, what


@pytest.mark.parametrize(("name", "what", "old", "new"), FORWARD, ids=lambda v: str(v)[:40])
def test_a_wrong_forward_changes_the_value(name, what, old, new):
    right, wrong = concept(name), with_mistake(name, old, new)
    moved = 0.0
    for make in right.cases.values():
        inputs = make(np.random.default_rng(0))
        y, y_wrong = right.forward(*inputs)[0], wrong.forward(*inputs)[0]
        moved = max(moved, float(np.abs(y - y_wrong).max() / np.abs(y).max()))
    assert moved > 1e-7, what


def test_with_ones_for_dy_a_softmax_that_returns_zeros_would_pass():
    """Why the upstream gradient is random."""
    row = concept("attention")
    q, k, _, mask = row.cases["GQA, S > T"](np.random.default_rng(0))
    v = np.ones_like(k)  # then out = 1 whatever the scores are
    y, cache = row.forward(q, k, v, mask)
    dq, dk, _ = row.backward(np.ones_like(y), cache)
    assert max(np.abs(dq).max(), np.abs(dk).max()) < 1e-12

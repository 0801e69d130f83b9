"""Public bug reports as tests; the numbers are those of the collection they come from."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers.fake_device import DeviceArray, from_fake, install, to_fake
from helpers.models import random_params, small_config

from minqwen.check.concepts import concept
from minqwen.check.gradients import check_gradients
from minqwen.layers.attention import attention_forward
from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.layers.linear import linear_backward, linear_forward
from minqwen.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward
from minqwen.layers.rope import rope_forward, rope_inv_freq, rope_tables
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_backward, language_model_forward

ROOT = pathlib.Path(__file__).parent.parent.parent


def turn(x, positions):
    tables = rope_tables(np.asarray(positions), rope_inv_freq(x.shape[-1], dtype="float64"))
    return rope_forward(x, *tables)[0]


def test_22_half_split_rope_at_position_one():
    y = turn(np.array([[[[1.0, 2, 3, 4]]]]), [1]).ravel()
    np.testing.assert_allclose(y, [-1.984111, 1.959901, 2.462378, 4.0198], atol=1e-6)
    assert np.abs(y - [-1.14264, 1.922076, 2.959851, 4.0298]).max() > 0.5  # interleaved


@pytest.mark.parametrize("shift", [1, 100, 1000])
def test_23_scores_are_relative(shift):
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 64))

    def score(m, n):
        return float((turn(q, [m]) * turn(k, [n])).sum())

    assert abs(score(3, 7) - score(3 + shift, 7 + shift)) < 1e-12
    assert abs(score(3, 7) - score(3, 8)) > 1e-6


def test_26_heads_and_positions_are_not_confused():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 8))  # heads = 3, positions = 5
    other = x.swapaxes(1, 2)  # (B, T, H, Dh)
    np.testing.assert_array_equal(turn(x, range(5)), turn(other.swapaxes(1, 2), range(5)))
    with pytest.raises(ValueError, match=r"cos must have shape \(T=3, Dh=8\)"):
        turn(other, range(5))
    np.testing.assert_array_equal(turn(x[:, ::-1], range(5)), turn(x, range(5))[:, ::-1])


@pytest.mark.parametrize("past", [0, 1, 30])
def test_35_one_token_with_and_without_a_cache(past):
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 1, 4))
    np.testing.assert_allclose(attention_forward(q, k, v)[0], v)

    config = small_config()
    params = random_params(config)
    ids = np.random.default_rng(1).integers(0, 61, (2, past + 1))
    full, _ = language_model_forward(params, config, ids)
    kv_cache = KVCache(config, 2, past + 1, dtype="float64")
    if past:
        language_model_forward(params, config, ids[:, :past], kv_cache=kv_cache)
    last, _ = language_model_forward(params, config, ids[:, past:], kv_cache=kv_cache)
    assert np.abs(last[:, 0] - full[:, -1]).max() < 1e-12 * np.abs(full).max()


@pytest.mark.parametrize("t", [0, 3, 6])
def test_38_the_future_does_not_reach_the_past(t):
    config = small_config()
    params = random_params(config)
    ids = np.random.default_rng(1).permutation(61)[:16].reshape(2, 8)  # no id comes twice
    a, cache = language_model_forward(params, config, ids)
    changed = ids.copy()
    changed[:, t + 1 :] = (ids[:, t + 1 :] + 7) % 61
    b, _ = language_model_forward(params, config, changed)
    np.testing.assert_array_equal(a[:, : t + 1], b[:, : t + 1])
    assert (np.abs(a[:, t + 1 :] - b[:, t + 1 :]).max(axis=-1) > 0).all()

    _, loss_cache = cross_entropy_forward(a[:, t], ids[:, t + 1])
    dlogits = np.zeros_like(a)
    dlogits[:, t] = cross_entropy_backward(1.0, loss_cache)
    table = language_model_backward(dlogits, cache)["model.embed_tokens.weight"]
    assert (table[ids[:, t + 1 :]] == 0).all()
    assert (np.abs(table[ids[:, : t + 1]]).max(axis=-1) > 0).all()


def test_43_rmsnorm_of_zeros_of_300s_in_float16_and_of_any_rank():
    y, cache = rmsnorm_forward(np.zeros((2, 3)), np.ones(3))
    assert (y == 0).all()
    assert np.isfinite(rmsnorm_backward(np.ones((2, 3)), cache)[0]).all()
    ones, _ = rmsnorm_forward(np.full((2, 8), 300, np.float16), np.ones(8, np.float16))
    assert (ones == 1).all()
    for shape in ((3,), (2, 3), (5, 2, 3), (2, 5, 7, 3)):
        x, w = np.random.default_rng(0).standard_normal(shape), np.arange(1.0, 4)
        assert max(check_gradients(rmsnorm_forward, rmsnorm_backward, x, w)) < 1e-7


def test_46_a_transposed_gradient_is_caught():
    x, w = (np.random.default_rng(0).standard_normal(s) for s in ((3, 5), (5, 5)))

    def transposed(dy, cache):
        dx, dw, _ = linear_backward(dy, cache)
        return dx, dw.T

    check_gradients(linear_forward, linear_backward, x, w)
    with pytest.raises(AssertionError, match="gradient 1: relative error"):
        check_gradients(linear_forward, transposed, x, w)


def test_47_cross_entropy_of_the_real_vocabulary_and_of_ignored_labels():
    logits = np.zeros((3, 151936), np.float32)
    loss, _ = cross_entropy_forward(logits, np.array([0, 7, 151935]))
    assert abs(loss - 11.9312147) < 1e-6
    some, _ = cross_entropy_forward(logits, np.array([0, -100, 151935]))
    assert abs(some - loss) < 1e-6
    none, cache = cross_entropy_forward(logits, np.array([-100, -100, -100]))
    assert none == 0
    assert (cross_entropy_backward(1.0, cache) == 0).all()


def test_64_the_whole_model_runs_on_the_strict_fake(monkeypatch):
    """One row of the table; tests/check/test_concepts.py runs all of it so."""
    row = concept("language_model")
    inputs = row.cases["tied, padding"](np.random.default_rng(0))
    want, cache = row.forward(*inputs)
    want_grads = row.backward(np.ones_like(want), cache)
    install(monkeypatch)
    got, cache = row.forward(*to_fake(inputs))
    got_grads = row.backward(to_fake(np.ones_like(want)), cache)
    assert isinstance(got, DeviceArray)
    for ours, theirs in zip((got, *got_grads), (want, *want_grads), strict=True):
        np.testing.assert_array_equal(from_fake(ours), theirs)


@pytest.mark.slow
def test_65_scripts_run_in_the_c_locale_with_utf8_mode_off(tmp_path):
    """Files are read and written as UTF-8 by name, whatever the locale says."""
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "text.txt").write_text("很久以前，豆豆有三个苹果。\n" * 50, encoding="utf-8")

    def minqwen(*words):
        done = subprocess.run(
            [sys.executable, "-m", "minqwen", *map(str, words)],
            env=env, cwd=ROOT, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode("utf-8")
        return done.stdout.decode("utf-8")

    run = tmp_path / "run"
    minqwen(
        "pretrain", tmp_path / "text.txt", "--out", run, "--size", "tiny", "--steps", 3,
        "--context", 8, "--batch-size", 2, "--vocab-size", 280, "--quiet",
    )  # fmt: skip
    assert minqwen("generate", run, "很久", "--max-new-tokens", 4).startswith("很久")
    assert "很" in minqwen("tokenize", "很久", "--tokenizer", run / "checkpoint", "--json")

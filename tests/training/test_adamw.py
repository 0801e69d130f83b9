"""AdamW: the equation, its known mistakes, the fast loop against it, precision, errors."""

import math

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake

from minqwen.training import adamw, blocks
from minqwen.training.adamw import adamw_init, adamw_step, adamw_update, decays

OPTIONS = {"lr": 0.01, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.2}


def naive_adamw(w, gradients, *, lr, beta1, beta2, eps, weight_decay, mistake=None):
    """The equation, one number at a time, right or with a known mistake."""
    w = w.astype(float).copy()
    for index in np.ndindex(w.shape):
        m = v = 0.0
        for t, gradient in enumerate(gradients, start=1):
            g = gradient[index]
            if mistake == "L2 in the gradient":
                g += weight_decay * w[index]
            else:
                w[index] *= 1 - lr * weight_decay
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g * g
            corrected = mistake != "no bias correction"
            m_hat = m / (1 - beta1**t) if corrected else m
            v_hat = v / (1 - beta2**t) if corrected else v
            if mistake == "eps inside the root":
                w[index] -= lr * m_hat / math.sqrt(v_hat + eps)
            elif mistake == "eps before the correction":
                w[index] -= lr * m_hat / ((math.sqrt(v) + eps) / math.sqrt(1 - beta2**t))
            else:
                w[index] -= lr * m_hat / (math.sqrt(v_hat) + eps)
    return w


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return rng.standard_normal((3, 5)), [rng.standard_normal((3, 5)) * 0.01 for _ in range(4)]


def run_step(w, gradients, name="w", **options):
    params = {name: w.copy()}
    state = adamw_init(params)
    for g in gradients:
        adamw_step(params, {name: g}, state, **options)
    return params[name]


def run_update(w, gradients, **options):
    m = v = np.zeros(w.shape, np.promote_types(w.dtype, np.float32))
    for t, g in enumerate(gradients, start=1):
        w, m, v = adamw_update(w, g, m, v, t, **options)
    return w


@pytest.mark.parametrize("run", [run_step, run_update])
def test_matches_the_equation(problem, run):
    np.testing.assert_allclose(run(*problem, **OPTIONS), naive_adamw(*problem, **OPTIONS), 1e-12)


@pytest.mark.parametrize(
    "mistake",
    [
        "L2 in the gradient",
        "no bias correction",
        "eps inside the root",
        "eps before the correction",
    ],
)
def test_known_mistakes_would_be_seen(problem, mistake):
    wrong = naive_adamw(*problem, **OPTIONS, mistake=mistake)
    assert np.abs(run_step(*problem, **OPTIONS) - wrong).max() > 1e-5


def test_the_fast_loop_equals_the_equation_across_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 7)
    rng = np.random.default_rng(1)
    shapes = {
        "a.weight": (5, 4),
        "a.bias": (13,),
        "norm.weight": (7,),
        "scalar": (),
        "none": (0, 2),
    }
    params = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    params["turned.weight"] = rng.standard_normal((4, 6)).T
    expected, state = dict(params), adamw_init(params)
    moments = {key: (state["m"][key].copy(), state["v"][key].copy()) for key in params}
    arrays = dict(params)
    for step in (1, 2, 3):
        grads = {key: np.asarray(rng.standard_normal(w.shape)) for key, w in params.items()}
        for key, g in grads.items():
            decay = 0.2 if decays(key, params[key]) else 0.0
            options = {**OPTIONS, "weight_decay": decay}
            expected[key], *moments[key] = adamw_update(
                expected[key], g, *moments[key], step, **options
            )
        adamw_step(params, grads, state, **OPTIONS)
    assert state["step"] == 3
    for key in params:
        assert params[key] is arrays[key]  # modified, not replaced
        np.testing.assert_allclose(params[key], expected[key], rtol=1e-13)
        np.testing.assert_allclose(state["m"][key], moments[key][0], rtol=1e-13)
        np.testing.assert_allclose(state["v"][key], moments[key][1], rtol=1e-13)


def test_the_first_step_is_lr_long_whatever_the_gradient():
    w = run_step(np.zeros(3), [np.array([1e-3, 1.0, -1e6])], lr=0.1)
    np.testing.assert_allclose(w, [-0.1, -0.1, 0.1], rtol=1e-4)  # 0.0447 without correction


def test_without_a_gradient_a_weight_shrinks_by_lr_times_decay():
    w = run_step(np.ones((1, 1)), [np.zeros((1, 1))] * 3, lr=0.1, weight_decay=0.5)
    np.testing.assert_allclose(w, 0.95**3, rtol=1e-14)


def test_eps_counts_after_the_root_and_the_correction():
    w = run_step(np.zeros(1), [np.array([1e-8])], lr=1.0, eps=1e-8)
    np.testing.assert_allclose(w, -0.5, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.embed_tokens.weight", (5, 3), True),
        ("model.layers.0.self_attn.q_proj.weight", (3, 3), True),
        ("model.layers.0.mlp.shared_expert_gate.weight", (1, 3), True),
        ("lm_head.weight", (5, 3), True),
        ("model.layers.0.self_attn.q_proj.bias", (3,), False),
        ("model.layers.0.input_layernorm.weight", (3,), False),
        ("model.layers.0.post_attention_layernorm.weight", (3,), False),
        ("model.layers.0.self_attn.q_norm.weight", (3,), False),
        ("model.norm.weight", (3,), False),
        ("model.norm.weight", (1, 3), False),
    ],
)
def test_matrices_decay_and_gains_and_biases_do_not(name, shape, expected):
    assert decays(name, np.ones(shape)) is expected
    w = run_step(np.ones(shape), [np.zeros(shape)], name=name, lr=0.1, weight_decay=0.5)
    np.testing.assert_allclose(w, 0.95 if expected else 1.0)


def test_float32_stays_float32_and_float16_has_float32_moments():
    for dtype, wide in ((np.float16, np.float32), (np.float32, np.float32)):
        w, g = np.ones((2, 3), dtype), np.full((2, 3), 300, dtype)  # 300 squared: inf in float16
        params = {"w": w}
        state = adamw_init(params)
        adamw_step(params, {"w": g}, state, lr=0.1, weight_decay=0.0)
        assert params["w"].dtype == dtype
        assert state["m"]["w"].dtype == state["v"]["w"].dtype == wide
        np.testing.assert_allclose(params["w"], np.float16(0.9), rtol=1e-3)
        zero = np.zeros((2, 3), wide)
        updated = adamw_update(np.ones((2, 3), dtype), g, zero, zero, 1, lr=0.1, weight_decay=0.0)
        assert [a.dtype for a in updated] == [dtype, wide, wide]
        np.testing.assert_array_equal(updated[0], params["w"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numbers_of_numpy_do_not_widen_the_arrays(dtype):
    rng = np.random.default_rng(4)
    w, g = (rng.standard_normal((3, 5)).astype(dtype) for _ in range(2))
    zero = np.zeros((3, 5), np.float32)
    numpys = {key: np.float64(value) for key, value in OPTIONS.items()}
    expected = adamw_update(w, g, zero, zero, 1, **OPTIONS)
    updated = adamw_update(w, g, zero, zero, 1, **numpys)
    assert [a.dtype for a in updated] == [dtype, np.float32, np.float32]
    for a, b in zip(updated, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    stepped = run_step(w, [g], **numpys)
    assert stepped.dtype == dtype
    np.testing.assert_array_equal(stepped, run_step(w, [g], **OPTIONS))


def test_update_modifies_nothing_and_step_leaves_the_gradient(problem):
    w, (g, *_) = problem
    m, v = np.ones_like(w), np.ones_like(w)
    before = [a.copy() for a in (w, g, m, v)]
    adamw_update(w, g, m, v, 1, lr=0.1)
    for a, b in zip((w, g, m, v), before, strict=True):
        np.testing.assert_array_equal(a, b)
    run_step(w, [g], lr=0.1)
    np.testing.assert_array_equal(g, before[1])


def test_runs_on_the_device_without_a_sync(monkeypatch, problem):
    w, gradients = problem
    expected = run_step(w, gradients, **OPTIONS)
    install(monkeypatch)
    with count_syncs() as syncs:
        params = {"w": to_fake(w.copy())}
        state = adamw_init(params)
        for g in gradients:
            adamw_step(params, {"w": to_fake(g)}, state, **OPTIONS)
        adamw_update(params["w"], to_fake(g), state["m"]["w"], state["v"]["w"], 1, lr=0.1)
    assert not syncs
    np.testing.assert_array_equal(from_fake(params["w"]), expected)


def test_errors_name_the_keys_and_nothing_has_changed():
    params = {"a": np.ones(2), "b": np.ones(2)}
    state = adamw_init(params)
    for grads, message in (
        ({"a": np.ones(2)}, "grads lacks b"),
        ({"a": np.ones(2), "b": np.ones(2), "c": np.ones(1)}, "grads has c, params has not"),
        ({"a": np.ones(2), "b": np.ones(3)}, r"grads: b has shape \(3,\), params \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            adamw_step(params, grads, state, lr=0.1)
    with pytest.raises(ValueError, match=r"beta1=1\.0"):
        adamw_step(params, params, state, lr=0.1, beta1=1.0)
    del state["v"]["b"]
    with pytest.raises(ValueError, match="state v lacks b"):
        adamw_step(params, params, state, lr=0.1)
    assert state["step"] == 0
    assert (params["a"] == 1).all()
    state = adamw_init({"w": np.ones((2, 3))})
    state["m"]["w"] = np.zeros((3, 2)).T
    with pytest.raises(ValueError, match="state m: w is not C-contiguous"):
        adamw_step({"w": np.ones((2, 3))}, {"w": np.ones((2, 3))}, state, lr=0.1)


def test_defaults_are_those_of_the_report():
    for function in (adamw.adamw_update, adamw.adamw_step):
        assert function.__kwdefaults__ == {
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-8,
            "weight_decay": 0.1,
        }

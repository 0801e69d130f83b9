"""Every row of the concept table: gradients, precision, purity, and the strict fake device."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from helpers.fake_device import count_syncs, from_fake, install, to_fake
from helpers.references import REFERENCES, reference_error

import minqwen.layers
from minqwen.check.concepts import CONCEPTS, concept, gradient_table

IDS = ("embedding", "cross_entropy", "token_logprobs", "reward_head")  # concepts that read ids
# the numbers of a concept beside them in fewer walks or less memory: held equal in tests/layers
FASTER = ("cross_entropy_in_place", "linear_cross_entropy", "rmsnorm_fast")
ROWS = [pytest.param(row, case, id=f"{row.name}-{case}") for row in CONCEPTS for case in row.cases]


def run(row, inputs, dy=None, seed=1):
    """Return y and the gradients, for a random dy of y's dtype."""
    y, cache = row.forward(*inputs)
    if dy is None:
        dy = np.random.default_rng(seed).standard_normal(np.shape(y)).astype(y.dtype)
    grads = row.backward(dy, cache)
    return y, tuple(g for g in (grads if isinstance(grads, tuple) else (grads,)) if g is not None)


def cast(inputs, dtype):
    return tuple(
        x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in inputs
    )


@pytest.mark.parametrize("row", CONCEPTS, ids=lambda row: row.name)
def test_gradients(row):
    errors = {(case, e.name): e.error for case, e in gradient_table(row)}
    assert max(errors.values()) < 1e-7, max(errors.items(), key=lambda item: item[1])


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_the_equation_one_number_at_a_time(name):
    assert reference_error(concept(name)) < 1e-12


def half_types():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.mark.parametrize(("row", "case"), ROWS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_keeps_the_dtype_and_stays_close_to_float64(row, case, dtype):
    exact = row.cases[case](np.random.default_rng(0))
    dt = np.dtype(half_types()[dtype] if "16" in dtype else dtype)
    inputs = cast(exact, dt)
    y, grads = run(row, inputs)
    # a loss is one number, kept in float32 or wider
    is_loss = row.name.endswith(("cross_entropy", "_loss"))
    assert np.asarray(y).dtype == (np.promote_types(dt, "f4") if is_loss else dt)
    assert all(g.dtype == dt for g in grads)

    tolerance = {"float16": 2e-2, "bfloat16": 2e-1, "float32": 2e-5, "float64": 0.0}[dtype]
    if row.name == "language_model":  # softmaxes near 0 and 1 leave small gradients of q and k
        tolerance *= 3
    dy = np.random.default_rng(1).standard_normal(np.shape(y)).astype(dt).astype(np.float64)
    y64, grads64 = run(row, cast(inputs, np.float64), dy)
    for low, high in zip((y, *grads), (y64, *grads64), strict=True):
        scale = np.abs(high).max()
        assert np.abs(np.asarray(low, dtype=np.float64) - high).max() <= tolerance * scale


@pytest.mark.parametrize(("row", "case"), ROWS)
def test_changes_no_argument_and_two_forwards_may_come_before_two_backwards(row, case):
    first, second = (row.cases[case](np.random.default_rng(seed)) for seed in (0, 1))
    kept = [x.copy() if isinstance(x, np.ndarray) else x for x in first]
    want = [run(row, first), run(row, second)]

    caches = [row.forward(*inputs)[1] for inputs in (first, second)]
    rng = np.random.default_rng(1)
    dy = rng.standard_normal(np.shape(want[0][0]))
    for cache, (_, grads) in zip(reversed(caches), reversed(want), strict=True):
        again = row.backward(dy, cache)
        again = [g for g in (again if isinstance(again, tuple) else (again,)) if g is not None]
        for a, b in zip(again, grads, strict=True):
            np.testing.assert_array_equal(a, b)
    for x, old in zip(first, kept, strict=True):
        np.testing.assert_array_equal(x, old)


@pytest.mark.parametrize(("row", "case"), ROWS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_runs_on_the_strict_fake_device_with_the_same_result(row, case, dtype, monkeypatch):
    inputs = cast(row.cases[case](np.random.default_rng(0)), dtype)
    y, grads = run(row, inputs)
    dy = np.random.default_rng(1).standard_normal(np.shape(y)).astype(dtype)
    install(monkeypatch)
    with count_syncs() as syncs:
        fake_y, fake_grads = run(row, to_fake(inputs), to_fake(dy))
    # ids on the device are range-checked there, and three techniques need to know on the host where
    # the tokens are: dual chunks, NTK with rows of different length, and the experts of a mixture,
    # once a layer. Nothing else may wait.
    looks = {"dual chunks": 2, "NTK": 1, "experts": 1}
    assert set(syncs) <= {"int", "asnumpy"}, dict(syncs)
    assert syncs["asnumpy"] <= sum(n for technique, n in looks.items() if technique in case)
    assert syncs["int"] <= (2 if row.name in (*IDS, "language_model") else 0)
    for ours, device in zip((y, *grads), (fake_y, *fake_grads), strict=True):
        np.testing.assert_array_equal(from_fake(device), ours)


@pytest.mark.parametrize("name", [*IDS, "language_model"])
def test_ids_on_the_host_cost_no_synchronisation(name, monkeypatch):
    row = concept(name)
    inputs = cast(next(iter(row.cases.values()))(np.random.default_rng(0)), "float32")
    install(monkeypatch)
    moved = [to_fake(x) if getattr(x, "dtype", None) == np.float32 else x for x in inputs]
    with count_syncs() as syncs:
        run(row, moved, to_fake(np.ones(row.forward(*inputs)[0].shape, np.float32)))
    assert not syncs


def test_every_file_in_layers_has_a_row_with_both_functions():
    files = {f"minqwen.layers.{m.name}" for m in pkgutil.iter_modules(minqwen.layers.__path__)}
    files -= {"minqwen.layers.attention_tiles"}  # steps that three of them share
    files -= {f"minqwen.layers.{name}" for name in FASTER}
    assert files <= {row.module for row in CONCEPTS}
    for row in CONCEPTS:
        module = importlib.import_module(row.module)
        for name in row.functions:  # with `pair`, the functions may be those of another file
            assert row.pair or inspect.isfunction(getattr(module, name))
        for line in ("Paper:", "Differs:"):
            assert line in module.__doc__, f"{row.module} has no {line} line"


def test_every_concept_but_dropout_and_the_model_has_a_reference():
    layers = {row.name for row in CONCEPTS if not row.module.startswith("minqwen.model.")}
    assert layers - set(REFERENCES) == {"dropout"}


def test_sizes_of_the_inputs_differ():
    """An axis summed or transposed by mistake must not fit by accident."""
    for row in CONCEPTS:
        for make in row.cases.values():
            for x in make(np.random.default_rng(0)):
                if isinstance(x, np.ndarray) and x.dtype.kind == "f":
                    one_row = (
                        row.name in ("shared_expert", "moe", "feed_forward", "reward_head")
                        and len(x) == 1
                    )
                    assert min(x.shape) > 1 or one_row, row.name  # the gate of the shared expert

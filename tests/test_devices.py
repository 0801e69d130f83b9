"""The package on the strict fake device: what NumPy gives, bit by bit, and how often Python waits.

Every row of the concept table is in tests/check/test_concepts.py, the commands in
tests/test_cli_devices.py; the same on a real GPU, and with tolerances, in tests/gpu. Here: the
helpers of backend.py, the functions of long context, a step of every stage of training, generation,
and mistakes of the kinds that only a GPU would show, planted to see that they are caught.

How often a step may wait is stated as a dict {name: count}, not as a bound: a new wait must be
noticed. On a GPU a wait costs some 10 to 100 microseconds, in which nothing is put into its queue.
"""

import builtins
import importlib
import sys
import types
from functools import partial

import numpy as np
import pytest
from helpers import stages
from helpers.edits import edited
from helpers.fake_device import count_syncs, from_fake, install, to_fake
from helpers.models import random_params, small_config
from helpers.stages import CACHES, CHOICES, CONFIGS, padded_prompts, state_of

from minqwen import backend
from minqwen.alignment.reward_model import to_reward_model
from minqwen.check.concepts import concept
from minqwen.layers.cross_entropy_in_place import cross_entropy_in_place
from minqwen.layers.linear_cross_entropy import (
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
)
from minqwen.layers.rmsnorm_fast import fast_rmsnorm_backward, fast_rmsnorm_forward
from minqwen.long_context.dual_chunk import (
    dual_chunk_attention_backward,
    dual_chunk_attention_forward,
    dual_chunk_positions,
    dual_chunk_tables,
)
from minqwen.long_context.logn import logn_scale
from minqwen.long_context.window import window_mask
from minqwen.long_context.yarn import yarn_tables
from minqwen.model.generate import generate
from minqwen.model.language_model import language_model_forward
from minqwen.training.update import apply_adamw


def assert_same(one, two, name=""):
    """Everything in two nested tuples, lists and dicts is the same, bit by bit."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), name
        for key in one:
            assert_same(one[key], two[key], f"{name}.{key}")
    elif isinstance(one, tuple | list):
        for i, pair in enumerate(zip(one, two, strict=True)):
            assert_same(*pair, f"{name}.{i}")
    else:
        assert np.asarray(one).dtype == np.asarray(two).dtype, name
        np.testing.assert_array_equal(one, two, err_msg=name)


def on_both(monkeypatch, run, *there, **options):
    """Run with NumPy and on the device; the results are the same. Return them and the waits.

    Args:
        run: a function.
        there: its arguments, which lie on the device.
        options: the same on both.
    """
    want = run(*from_fake(to_fake(list(there))), **options)
    install(monkeypatch)
    with count_syncs() as syncs:
        found = run(*to_fake(list(there)), **options)
    assert_same(from_fake(found), want)
    return want, dict(syncs)


# --- backend.py ----------------------------------------------------------------------------------


def added(x, indices, values):
    backend.add_at(x, indices, values)
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_adding_at_repeated_places(dtype, monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.integers(-9, 9, (31, 3)).astype(dtype)
    x, ids = rng.integers(-9, 9, (7, 3)).astype(dtype), rng.integers(0, 7, 31)
    want, syncs = on_both(monkeypatch, added, x, ids, values)
    assert not syncs
    for i in range(7):
        np.testing.assert_array_equal(want[i], x[i] + values[ids == i].sum(axis=0))


@pytest.mark.parametrize("k", [0, 1, 3, 11])
def test_the_largest_come_first_and_of_equals_the_lower_index(k, monkeypatch):
    x = np.random.default_rng(0).integers(0, 5, (2, 13, 11)).astype(np.float32)  # with ties
    want, syncs = on_both(monkeypatch, partial(backend.top_k, k=k), x)
    assert not syncs
    for row, found in zip(x.reshape(-1, 11), want.reshape(26, k), strict=True):
        assert found.tolist() == sorted(range(11), key=lambda i: (-row[i], i))[:k]


@pytest.mark.parametrize(
    ("draw", "like", "dtype"),
    [
        (backend.uniform, "float16", "float32"),
        (backend.uniform, "float64", "float32"),
        (backend.standard_normal, "float16", "float32"),
        (backend.standard_normal, "float32", "float32"),
        (backend.standard_normal, "float64", "float64"),
    ],
)
def test_the_host_draws_so_that_a_seed_gives_one_run(draw, like, dtype, monkeypatch):
    def run(like):
        return draw((3, 5), like, np.random.default_rng(3))

    want, syncs = on_both(monkeypatch, run, np.ones(1, like))
    assert not syncs
    assert want.dtype == dtype
    rng = np.random.default_rng(3)
    numbers = (rng.random if draw is backend.uniform else rng.standard_normal)((3, 5), dtype=dtype)
    np.testing.assert_array_equal(want, numbers)


def test_a_device_is_asked_for_by_its_name():
    for device in ("gpu", "cuda:0", "CPU", None):
        with pytest.raises(ValueError, match='device must be "cpu" or "cuda"'):
            backend.require_device(device)
    backend.require_device("cpu")


def test_cupy_that_cannot_be_loaded_says_why(monkeypatch):
    right = builtins.__import__

    def broken(name, *args, **options):
        if name == "cupy":
            raise ImportError("libcublas.so.12: cannot open shared object file")
        return right(name, *args, **options)

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(RuntimeError, match=r"CuPy cannot be imported: libcublas\.so\.12"):
        backend.require_device("cuda")


def test_nothing_falls_back_in_silence(monkeypatch):
    install(monkeypatch).is_available = lambda: False
    for ask in (backend.require_device, partial(backend.to_device, np.ones(1))):
        with pytest.raises(RuntimeError, match="finds no usable GPU"):
            ask("cuda")


# --- long context --------------------------------------------------------------------------------

AT = np.arange(23)
FREQ = 100.0 ** -np.linspace(0, 0.8, 5)
ROWS_OF_POSITIONS = np.stack((np.maximum(AT - 4, 0), AT))  # two rows, the first one padded


def dual_chunks(q, k, v, freq, positions, real=None):
    tables = dual_chunk_tables(positions, positions, freq, 10, 4)
    out, cache = dual_chunk_attention_forward(q, k, v, tables, real)
    return out, dual_chunk_attention_backward(out, cache)


def qkv(dtype):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, H, 23, 10)).astype(dtype) for H in (6, 3, 3)]


LONG = {  # name: function, its arguments on the device
    "logn": (partial(logn_scale, train_length=7), lambda d: [AT]),
    "yarn": (partial(yarn_tables, attention_factor=1.2), lambda d: [AT, FREQ.astype(d)]),
    "yarn, rows": (
        partial(yarn_tables, attention_factor=1.2),
        lambda d: [ROWS_OF_POSITIONS, FREQ.astype(d)],
    ),
    "window": (lambda like: window_mask(5, 9, 3, like), lambda d: [np.ones(1, d)]),
    "chunks of positions": (partial(dual_chunk_positions, chunk_size=10, local_window=4), None),
    "dual chunks": (partial(dual_chunks, positions=AT), lambda d: [*qkv(d), FREQ.astype(d)]),
    "dual chunks, padded rows": (
        partial(dual_chunks, positions=ROWS_OF_POSITIONS, real=ROWS_OF_POSITIONS >= 0),
        lambda d: [*qkv(d), FREQ.astype(d)],
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LONG)
def test_functions_of_long_context_never_wait(name, dtype, monkeypatch):
    run, make = LONG[name]
    _, syncs = on_both(monkeypatch, run, *(make(dtype) if make else [AT]))
    assert not syncs


# --- files beside the plain ones, which are no concepts of their own ------------------------------


def test_the_loss_and_its_gradient_in_place(monkeypatch):
    rng = np.random.default_rng(0)
    labels, mask = rng.integers(0, 11, (2, 7)), rng.random((2, 7)) < 0.7

    def run(logits):
        return cross_entropy_in_place(logits, labels, mask, 0.7)

    _, syncs = on_both(monkeypatch, run, rng.standard_normal((2, 7, 11)))
    assert not syncs


def test_head_and_loss_together(monkeypatch):
    rng = np.random.default_rng(0)
    labels, mask = rng.integers(0, 11, (2, 7)), rng.random((2, 7)) < 0.7

    def run(x, w):
        loss, cache = linear_cross_entropy_forward(x, w, labels, mask, block=40)
        return loss, linear_cross_entropy_backward(0.7, cache)

    there = rng.standard_normal((2, 7, 5)), rng.standard_normal((11, 5))
    _, syncs = on_both(monkeypatch, run, *there)
    assert not syncs


def test_the_fast_norm(monkeypatch):
    rng = np.random.default_rng(0)

    def run(x, w, dy):
        y, cache = fast_rmsnorm_forward(x, w)
        return y, fast_rmsnorm_backward(dy, cache)

    shapes = ((2, 7, 5), (5,), (2, 7, 5))
    _, syncs = on_both(monkeypatch, run, *(rng.standard_normal(shape) for shape in shapes))
    assert not syncs


# --- a step of every stage -----------------------------------------------------------------------


def update(params, grads):
    """Parameters and moments after AdamW's update."""
    params = {key: w.copy() for key, w in params.items()}
    state = state_of(params)
    apply_adamw(params, grads, state, stages.SFT, 0.01)
    return params, state


def stepped(step, params, **options):
    found = step(params, **options)
    return found, update(params, found["grads"])


# the loss and the norm of the gradient; of a mixture also its balance, the busiest expert, and in
# each piece and sparse layer where the tokens of an expert end
PER_STEP = {"float": 2}
MIXTURE = {"float": 4, "asnumpy": 2 * 2}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_of_pretraining(name, dtype, monkeypatch):
    config = small_config(**CONFIGS[name])
    params = random_params(config, dtype=dtype)
    step = partial(stepped, stages.pretrain_step, config=config)
    _, syncs = on_both(monkeypatch, step, params)
    assert syncs == (MIXTURE if name == "experts" else PER_STEP)


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_a_step_on_documents_kept_apart(name, monkeypatch):
    config = small_config(**CONFIGS[name])
    params = random_params(config, dtype="float32")
    step = partial(stepped, stages.pretrain_step, config=config, separator_id=3)
    _, syncs = on_both(monkeypatch, step, params)
    assert syncs == (MIXTURE if name == "experts" else PER_STEP)


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_a_step_of_fine_tuning_and_a_look_at_held_out_chats(name, monkeypatch):
    config = small_config(**CONFIGS[name])
    params = random_params(config, dtype="float32")
    _, syncs = on_both(monkeypatch, partial(stepped, stages.sft_step, config=config), params)
    experts = {"float": MIXTURE["float"] + 1, "asnumpy": MIXTURE["asnumpy"] + 2}
    assert syncs == (experts if name == "experts" else {"float": PER_STEP["float"] + 1})


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_a_step_of_the_reward_model(name, monkeypatch):
    config = small_config(**CONFIGS[name])
    params = random_params(config, dtype="float32")
    config, params = to_reward_model(params, config, np.random.default_rng(0))
    waits = {}
    on_both(monkeypatch, partial(stepped, stages.reward_step, config=config, waits=waits), params)
    # loss and norm, and all rewards at once; the balance, and two layers of experts
    experts = {"float": 3, "asnumpy": 1 + 2}
    assert waits == (experts if name == "experts" else {"float": 2, "asnumpy": 1})


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_a_step_of_dpo(name, monkeypatch):
    config = small_config(**CONFIGS[name])
    params = random_params(config, dtype="float32")
    waits = {}
    on_both(monkeypatch, partial(stepped, stages.dpo_step, config=config, waits=waits), params)
    # the same; the log-probabilities by the model, and by the reference
    experts = {"float": 3, "asnumpy": 2 + 2}
    assert waits == (experts if name == "experts" else {"float": 2, "asnumpy": 2})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_of_ppo_with_its_rollout(dtype, monkeypatch):
    there, options = stages.ppo_arguments(dtype)
    want, syncs = on_both(monkeypatch, stages.ppo, *there, **options)
    assert len(want["grads"]) == 2
    tokens = want["answers"].shape[1]
    # loss and norm of each model, and the loss of the text; a token, the scores. Beside the step,
    # the row of metrics reads the experience: 7 arrays, and 4 numbers of the two losses
    assert syncs == {"float": 5 + 4, "asnumpy": tokens + 1 + 7}


# --- generation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CACHES)
def test_generation_waits_once_a_token(name, padded, choice, monkeypatch):
    config = small_config(**CACHES[name])
    ids, mask = padded_prompts(padded)

    def run(params):
        rng = np.random.default_rng(0)
        return generate(
            params, config, ids, max_new_tokens=8, attention_mask=mask, rng=rng, **CHOICES[choice]
        )

    _, syncs = on_both(monkeypatch, run, random_params(config, dtype="float32"))
    layers = config.num_hidden_layers if name == "experts" else 0  # each waits for its experts
    assert syncs == {"asnumpy": 8 * (1 + layers)}


def test_a_mask_on_the_device_is_taken_too(monkeypatch):
    config = small_config(**CACHES["NTK and LogN"])
    ids = np.random.default_rng(1).integers(0, 61, (2, 11))
    mask = np.ones((2, 11), dtype=bool)
    mask[1, :3] = False

    def run(params, mask):
        return language_model_forward(params, config, ids, attention_mask=mask)[0]

    _, syncs = on_both(monkeypatch, run, random_params(config), mask)
    assert syncs == {"asnumpy": 1}  # how long the rows are


# --- mistakes that only a GPU would show ---------------------------------------------------------

# what: concept, the line, the mistake, and what is raised, or counted where it is one word
PLANTED = {
    "NumPy's function on a device array": (
        "rope",
        "array_module(x).concatenate((-x[..., half:], x[..., :half]), axis=-1)",
        "__import__('numpy').concatenate((-x[..., half:], x[..., :half]), axis=-1)",
        r"np\.concatenate was called on a device array: use xp\.concatenate",
    ),
    "NumPy's ufunc on a device array": (
        "swiglu",
        "array_module(x).tanh(0.5 * widen(x))",
        "__import__('numpy').tanh(0.5 * widen(x))",
        r"np\.tanh was called on a device array: use xp\.tanh",
    ),
    "zeros of the host mixed in": (
        "rmsnorm",
        "g = dy * widen(w)",
        "g = dy * widen(w) + __import__('numpy').zeros(w.shape, w.dtype)",
        "a host array met a device array",
    ),
    "indices of the host": (
        "cross_entropy",
        "widen(z[xp.arange(len(label)), label])",
        "widen(z[__import__('numpy').arange(len(label)), label])",
        "a host array met a device array as its index",
    ),
    "a mask of the host": (
        "attention",
        "        mask = xp.asarray(mask)\n        mask = mask[:, None, None]",
        "        mask = mask[:, None, None]",
        r"a host array met a device array in xp\.where",
    ),
    "a name that CuPy lacks": (
        "rmsnorm",
        "(x_wide * x_wide).mean(axis=-1, keepdims=True)",
        "xp.vecdot(x_wide, x_wide)[..., None] / x.shape[-1]",
        "has no vecdot in common with NumPy",
    ),
    "a keyword that CuPy lacks": (
        "moe_router",
        "xp.exp(z - peak)",
        "xp.exp(z - peak, out=xp.zeros_like(z), where=z <= peak)",
        "exp: no keyword where",
    ),
    "repeated indices": (
        "embedding",
        "add_at(dw, ids.reshape(-1), rows)",
        "dw[ids.reshape(-1)] += rows",
        "assignment to repeated indices: which value wins is undefined on a GPU",
    ),
    "a number is read": (
        "moe_router",
        "peak = z.max(axis=-1, keepdims=True)",
        "peak = z.max().item()",
        "item",
    ),
    "a condition is asked": (
        "linear",
        "    dw = dy_rows.T @ x_rows",
        "    dw = dy_rows.T @ x_rows if (dy != 0).any() else widen(w) * 0",
        "bool",
    ),
    "a loop over an array": (
        "rmsnorm",
        "dw = column_sums(dy * x_hat)",
        "dw = sum(list((dy * x_hat).reshape(-1, x.shape[-1])))",
        "iteration",
    ),
    "a size is asked for": (
        "load_balancing_loss",
        "    add_at(counts, expert_ids.reshape(-1), xp.repeat(real, K).astype(np.int64))",
        "    counts = xp.bincount(expert_ids.reshape(-1), xp.repeat(real, K), E)",
        "bincount",
    ),
}


def from_module(function, module):
    """Return the function as it is in a changed copy of its file.

    Some rows of the table call theirs through one of their own, which sorts the arguments.
    """
    if hasattr(module, function.__name__):
        return getattr(module, function.__name__)
    around = {name: vars(module)[name] for name in function.__globals__.keys() & vars(module)}
    return types.FunctionType(
        function.__code__, function.__globals__ | around, None, function.__defaults__
    )


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_passes_on_the_host_and_is_caught_on_the_device(name, monkeypatch):
    row = concept(PLANTED[name][0])
    _, old, new, caught = PLANTED[name]
    module = edited(importlib.import_module(row.module), old, new)
    forward, backward = (from_module(f, module) for f in (row.forward, row.backward))
    inputs = next(iter(row.cases.values()))(np.random.default_rng(0))

    def run(*inputs):
        y, cache = forward(*inputs)
        return backward(backend.array_module(y).ones_like(y), cache)

    run(*inputs)
    install(monkeypatch)
    floats = [to_fake(x) if getattr(x, "dtype", None) == np.float64 else x for x in inputs]
    moved = floats if name == "a mask of the host" else to_fake(inputs)
    with count_syncs() as right:
        y, cache = row.forward(*moved)
        row.backward(backend.array_module(y).ones_like(y), cache)
    with count_syncs() as syncs:
        if " " not in caught:
            run(*moved)
            assert syncs[caught] > right[caught] == 0
            return
        with pytest.raises((TypeError, AttributeError, IndexError), match=caught):
            run(*moved)

"""Dense to experts: what is exact, what is lost, and that the receipt says which."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from helpers.edits import edited
from helpers.ids import short
from helpers.models import random_params, small_config

from minqwen.layers.cross_entropy import cross_entropy_forward
from minqwen.layers.moe import moe_forward
from minqwen.layers.shared_expert import shared_expert_forward
from minqwen.layers.swiglu import swiglu_forward
from minqwen.model import dense_to_experts, upcycling
from minqwen.model.config import check_params, param_shapes
from minqwen.model.dense_to_experts import (
    copy_of_expert,
    cut_of,
    expert_columns,
    reinitialise,
    upcycle_ffn,
)
from minqwen.model.language_model import language_model_backward, language_model_forward
from minqwen.model.upcycling import upcycle
from minqwen.params import count

F, D = 12, 5
IDS = np.random.default_rng(9).integers(0, 61, (3, 11))
GATE_UP, DOWN, ROUTER = "mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"


def ffn(width=F, seed=0):
    """Return (w_gate, w_up, w_down) in which no two columns are alike."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in ((width, D), (width, D), (D, width))]


def inputs(rows=7, seed=1):
    return np.random.default_rng(seed).standard_normal((rows, D))


def expert_outputs(x, w_gate_up, w_down):
    """Return the output of every expert on every token, (E, N, D), by loops over the equation."""
    E, _, Fe = w_down.shape
    y = np.zeros((E, *x.shape))
    for e, n, j in itertools.product(range(E), range(len(x)), range(Fe)):
        gate, up = x[n] @ w_gate_up[e, j], x[n] @ w_gate_up[e, Fe + j]
        y[e, n] += gate / (1 + np.exp(-gate)) * up * w_down[e, :, j]
    return y


def relative(y, want):
    return np.abs(y - want).max() / np.abs(want).max()


def cut(module=dense_to_experts, experts=6, width=4, seed=2, w=None):
    return module.upcycle_ffn(*(w or ffn()), experts, width, np.random.default_rng(seed))


# ---- copies, shuffled and cut


def test_a_column_of_an_expert_is_one_column_of_the_dense_network():
    w_gate, w_up, w_down = ffn()
    w_gate_up, down = cut()
    assert w_gate_up.shape == (6, 8, D)
    assert down.shape == (6, D, 4)
    columns = []
    for e, j in itertools.product(range(6), range(4)):
        (c,) = (c for c in range(F) if np.array_equal(w_gate[c], w_gate_up[e, j]))
        np.testing.assert_array_equal(w_gate_up[e, 4 + j], w_up[c])
        np.testing.assert_array_equal(down[e, :, j], w_down[:, c])
        columns.append(c)
    copies = np.reshape(columns, (2, F))
    assert [sorted(copy) for copy in copies.tolist()] == [list(range(F))] * 2
    assert copies[0].tolist() != copies[1].tolist()
    assert list(range(F)) not in copies.tolist()


@pytest.mark.parametrize(
    ("width", "experts", "expert_width", "copies", "dropped"),
    [(12, 6, 4, 2, 0), (12, 5, 4, 2, 4), (12, 2, 5, 1, 2), (37, 64, 5, 9, 13), (7, 3, 11, 5, 2)],
)
def test_no_column_is_there_oftener_than_there_are_copies(
    width, experts, expert_width, copies, dropped
):
    facts = cut_of(width, experts, expert_width)
    assert (facts.copies, facts.dropped) == (copies, dropped)
    columns = expert_columns(width, experts, expert_width, np.random.default_rng(0))
    assert columns.shape == (experts, expert_width)
    times = np.bincount(columns.ravel(), minlength=width)
    assert set(times) <= {copies - 1, copies}
    assert (copies - times).sum() == dropped


def test_straddling_experts_and_the_copy_they_count_to():
    # copies end at column 37, 74, ...: 5 columns to an expert, the numbers of Qwen2-57B over 512
    owners = [{(5 * e + j) // 37 for j in range(5)} for e in range(64)]
    assert cut_of(37, 64, 5).straddling == sum(len(owner) > 1 for owner in owners) == 7
    for e, copy in enumerate(copy_of_expert(37, 64, 5)):
        held = [(5 * e + j) // 37 for j in range(5)]
        assert held.count(copy) >= 3  # most of its columns


def test_all_experts_add_up_to_the_copies():
    x, w = inputs(), ffn()
    want = swiglu_forward(x, *w)[0]
    for experts, width in ((6, 4), (3, 4), (1, 12), (2, 24), (12, 1), (4, 3)):
        y = expert_outputs(x, *cut(experts=experts, width=width)).sum(axis=0)
        assert relative(y, experts * width / F * want) < 1e-12


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_numbers_are_moved_not_computed(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    w = [a.astype(dtype) for a in ffn()]
    before = [a.copy() for a in w]
    w_gate_up, w_down = cut(w=w)
    assert w_gate_up.dtype == w_down.dtype == np.dtype(dtype)
    for part, whole in ((w_gate_up[:, :4], w[0]), (w_gate_up[:, 4:], w[1]), (w_down, w[2])):
        np.testing.assert_array_equal(np.sort(part.ravel()), np.sort(np.tile(whole.ravel(), 2)))
    assert all(np.array_equal(a, b) for a, b in zip(w, before, strict=True))
    renewed = reinitialise(w_gate_up, w_down, 0.5, 1.0, "element", np.random.default_rng(0))
    assert {a.dtype for a in renewed} == {np.dtype(dtype)}


# ---- half of the numbers anew


@pytest.mark.parametrize("granularity", ["neuron", "element"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_share_is_exact_in_every_matrix_of_every_expert(share, granularity):
    old = cut()
    kept = [a.copy() for a in old]
    new = reinitialise(*old, share, 0.3, granularity, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(old, kept, strict=True))  # pure
    changed = [a != b for a, b in zip(new, old, strict=True)]
    gate, up, down = changed[0][:, :4], changed[0][:, 4:], changed[1].swapaxes(1, 2)  # (E, Fe, D)
    for matrix in (gate, up, down):
        assert (matrix.sum(axis=(1, 2)) == round(share * 4 * D)).all()
    if granularity == "neuron":
        assert np.isin(gate.sum(axis=2), (0, D)).all()  # a whole row or nothing
        assert np.array_equal(gate, up)
        assert np.array_equal(gate, down)
    elif 0 < share < 1:
        assert not np.array_equal(gate, up)
        assert not np.array_equal(gate, down)
        assert not np.array_equal(up, down)
    if 0 < share < 1:
        assert len({places.tobytes() for places in gate}) > 1  # every expert has its own places


def test_an_odd_half_is_rounded():
    old = cut(experts=4, width=3)  # 3 columns, 15 numbers a matrix
    for granularity, counts in (("neuron", {2 * D}), ("element", {8})):
        new = reinitialise(*old, 0.5, 1.0, granularity, np.random.default_rng(0))
        assert set((new[1] != old[1]).sum(axis=(1, 2)).tolist()) == counts


def test_new_numbers_are_normal_with_this_std():
    old = np.full((3, 2 * 40, 50), 9.0), np.full((3, 50, 40), 9.0)
    new = reinitialise(*old, 0.5, 0.02, "neuron", np.random.default_rng(0))
    for a in new:
        drawn = a[a != 9.0]
        assert drawn.size == a.size // 2
        assert abs(drawn.mean()) < 0.02 * 4 / drawn.size**0.5
        assert abs(drawn.std() / 0.02 - 1) < 0.05
        assert abs((np.abs(drawn) < 0.02).mean() - 0.6827) < 0.03  # one sigma of a normal
    assert not np.intersect1d(new[0][new[0] != 9.0], new[1][new[1] != 9.0]).size


# ---- the whole model


def dense_model(**changes):
    config = small_config(**{"intermediate_size": F, **changes})
    return config, random_params(config)


def upcycled(config, params, seed=5, **choices):
    values = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 4, **choices}
    return upcycle(params, config, rng=np.random.default_rng(seed), **values)


def logits_of(params, config):
    return language_model_forward(params, config, IDS)[0]


EQUAL = {
    "one copy chosen": {},
    "two copies chosen": {"num_experts": 9, "num_experts_per_tok": 6},
    "all chosen": {"num_experts_per_tok": 6},
    "all chosen, not renormalised": {"num_experts_per_tok": 6, "norm_topk_prob": False},
    "uniform router, not renormalised": {"router_std": 0.0, "norm_topk_prob": False},
    "whole copies, random router": {
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": F,
        "router": "random",
    },
    "two copies in an expert": {
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 2 * F,
        "router": "random",
    },
    "shared expert of width F": {"shared_expert_intermediate_size": F},
    "shared expert of width 2 F": {
        "shared_expert_intermediate_size": 2 * F,
        "num_experts_per_tok": 6,
    },
    "a sharp router": {"router_std": 3.0},
}


@pytest.mark.parametrize("name", EQUAL)
def test_identity_before_noise(name):
    config, params = dense_model()
    new, moe, receipt = upcycled(config, params, reinitialised=0, probe_ids=IDS, **EQUAL[name])
    assert receipt.starts_equal
    assert relative(logits_of(new, moe), logits_of(params, config)) < 1e-12
    assert max(layer.routed for layer in receipt.layers) < 1e-12
    assert abs(receipt.losses.routed - receipt.losses.dense) < 1e-12
    assert receipt.losses.new == receipt.losses.routed


def test_the_rule_for_a_start_that_is_equal_is_what_one_measures():
    """Every combination of sizes and choices: equal to 1e-12 where the rule says so, else not."""
    config, params = dense_model(num_hidden_layers=1)
    equal = other = 0
    for (E, Fe), Fs, norm, router, std in itertools.product(
        ((2, 12), (3, 24), (3, 4), (6, 4), (5, 4), (4, 6), (3, 5), (2, 18)),
        (0, 7, 24),
        (True, False),
        ("grouped", "random"),
        (0.0, 0.5),
    ):
        for K in range(1, E + 1):
            choices = {
                "num_experts": E,
                "num_experts_per_tok": K,
                "moe_intermediate_size": Fe,
                "shared_expert_intermediate_size": Fs,
                "norm_topk_prob": norm,
                "router": router,
                "router_std": std,
                "reinitialised": 0,
            }
            if router == "grouped" and K < np.bincount(copy_of_expert(F, E, Fe)).max():
                continue  # refused: see test_errors
            receipt = upcycled(config, params, **choices)[2]
            distance = receipt.layers[0].routed
            assert receipt.starts_equal == (distance < 1e-12), (choices, distance)
            assert receipt.starts_equal or distance > 1e-4, choices
            equal += receipt.starts_equal
            other += not receipt.starts_equal
    assert min(equal, other) > 50  # the test is about both


def test_without_the_scale_a_copy_gives_its_mth_part():
    config, params = dense_model()
    new, _, receipt = upcycled(config, params, reinitialised=0, match_scale=False)
    assert not receipt.starts_equal
    x = np.random.default_rng(0).standard_normal((4, 29))
    layer = {k.removeprefix("model.layers.1."): v for k, v in new.items() if "layers.1." in k}
    y = moe_forward(x, layer[ROUTER], layer[GATE_UP], layer[DOWN], 3, True)[0]
    names = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
    assert relative(y, swiglu_forward(x, *(params[name] for name in names))[0] / 3) < 1e-12
    assert abs(receipt.layers[1].routed - 2 / 3) < 1e-12


def test_routed_and_shared_give_one_half_each():
    config, params = dense_model()
    new, _, receipt = upcycled(
        config, params, reinitialised=0, shared_expert_intermediate_size=F, router_std=1.0
    )
    assert receipt.w_down_factors == (1.5, 1.0)
    x, mlp = np.random.default_rng(0).standard_normal((4, 29)), "model.layers.0.mlp"
    want = swiglu_forward(x, *(params[f"{mlp}.{n}_proj.weight"] for n in ("gate", "up", "down")))[0]
    shared = [new[f"{mlp}.shared_expert.{name}_proj.weight"] for name in ("gate", "up", "down")]
    assert not new[f"{mlp}.shared_expert_gate.weight"].any()
    y = shared_expert_forward(x, *shared, new[f"{mlp}.shared_expert_gate.weight"])[0]
    assert relative(y, want / 2) < 1e-12
    routed = (new[f"{mlp}.gate.weight"], new[f"{mlp}.experts.gate_up_proj"])
    y = moe_forward(x, *routed, new[f"{mlp}.experts.down_proj"], 3, True)[0]
    assert relative(y, want / 2) < 1e-12


def test_not_renormalised_is_near_only_and_nearer_the_flatter_the_router():
    config, params = dense_model(num_hidden_layers=1)
    distances = []
    for std in (1.0, 0.1, 0.01, 0.001):
        receipt = upcycled(config, params, norm_topk_prob=False, router_std=std)[2]
        assert not receipt.starts_equal
        distances.append(receipt.layers[0].routed)
    assert distances[0] > 0.3
    ratios = np.divide(distances[1:], distances[:-1])
    assert (ratios < 0.5).all()
    assert abs(ratios[-1] - 0.1) < 0.01  # to first order in the logits

    # the chosen have more than their share: no output is shorter than the dense one
    new, moe, _ = upcycled(config, params, norm_topk_prob=False, router_std=0.1, reinitialised=0)
    x, mlp = np.random.default_rng(0).standard_normal((50, 29)), "model.layers.0.mlp"
    want = swiglu_forward(x, *(params[f"{mlp}.{n}_proj.weight"] for n in ("gate", "up", "down")))[0]
    experts = (new[f"{mlp}.experts.gate_up_proj"], new[f"{mlp}.experts.down_proj"])
    y = moe_forward(x, new[f"{mlp}.gate.weight"], *experts, 3, False)[0]
    factors = (y * want).sum(axis=1) / (want * want).sum(axis=1)
    np.testing.assert_allclose(y, factors[:, None] * want, atol=1e-12)
    assert factors.min() >= 1
    assert factors.max() > 1.1
    assert moe.norm_topk_prob is False


def test_sizes_of_qwen2_57b_lose_columns_and_the_receipt_says_how_much():
    """F = 37 and Fe = 5 have its ratio: 9 copies, a third of the last one dropped."""
    config, params = dense_model(intermediate_size=37)
    sizes = {"num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 5}
    _, _, receipt = upcycled(config, params, probe_ids=IDS, **sizes)
    assert receipt.cut == (7.4, 9, 13, 7)
    assert not receipt.starts_equal
    for layer in receipt.layers:
        assert 0.005 < layer.cut < 0.2  # 13 of 333 columns
        assert layer.cut < layer.routed < 1
        assert layer.routed < layer.new


def test_what_is_no_expert_stays_and_is_copied():
    config, params = dense_model(num_hidden_layers=4, tie_word_embeddings=True)
    before = {name: w.copy() for name, w in params.items()}
    choices = {"decoder_sparse_step": 2, "mlp_only_layers": [3]}  # layers 1 and 3, but not 3
    new, moe, receipt = upcycled(config, params, **choices)
    assert list(new) == list(param_shapes(moe))
    check_params(new, moe)
    assert [layer.layer for layer in receipt.layers] == [1]
    assert all(np.array_equal(before[name], params[name]) for name in params)
    for name in params:
        if name.startswith("model.layers.1.mlp."):
            assert name not in new
        else:
            np.testing.assert_array_equal(new[name], params[name])
            assert not np.shares_memory(new[name], params[name])
    assert moe.decoder_sparse_step == 2
    assert moe.mlp_only_layers == [3]
    kept = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    kept |= choices | {"model_type": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 3}
    assert moe == type(config)(**kept | {"moe_intermediate_size": 4, "norm_topk_prob": True})


def test_layers_are_shuffled_by_themselves():
    config, params = dense_model(num_hidden_layers=3)
    for name in params:  # all networks alike
        if ".mlp." in name:
            params[name] = params["model.layers.0" + name[len("model.layers.0") :]]
    new, _, _ = upcycled(config, params, shared_expert_intermediate_size=7, reinitialised=0)
    for name in (GATE_UP, DOWN, ROUTER, "mlp.shared_expert.up_proj.weight"):
        layers = [new[f"model.layers.{i}.{name}"] for i in range(3)]
        assert len({layer.tobytes() for layer in layers}) == 3, name
        if name != ROUTER and "shared" not in name:
            assert len({np.sort(layer.ravel()).tobytes() for layer in layers}) == 1


def test_the_seed_decides_everything_and_noise_comes_last():
    config, params = dense_model()
    sizes = {"shared_expert_intermediate_size": 7, "shared_gate_std": 0.1}
    first, _, receipt = upcycled(config, params, seed=1, **sizes)
    again, _, same_receipt = upcycled(config, params, seed=1, **sizes)
    other, _, _ = upcycled(config, params, seed=2, **sizes)
    clean, _, _ = upcycled(config, params, seed=1, reinitialised=0, **sizes)
    assert receipt == same_receipt
    for name in first:
        assert np.array_equal(first[name], again[name])
        moved = "mlp." in name and "shared_expert_gate" not in name and ROUTER not in name
        assert np.array_equal(first[name], clean[name]) != moved
        assert np.array_equal(first[name], other[name]) != (".mlp." in name)


def test_the_shared_expert_has_a_share_of_its_own():
    config, params = dense_model(num_hidden_layers=1)
    name = "model.layers.0.mlp.shared_expert.down_proj.weight"
    results = {}
    for share in (0.0, None, 1.0):
        choices = {"shared_expert_intermediate_size": F, "shared_reinitialised": share}
        results[share] = upcycled(config, params, **choices)[0][name]
    clean = results[0.0]
    assert sorted(clean.ravel()) == sorted(params["model.layers.0.mlp.down_proj.weight"].ravel())
    assert (results[None] != clean).mean() == 0.5
    assert (results[1.0] != clean).all()


@pytest.mark.parametrize(
    ("choice", "name", "std"),
    [
        ({"noise_std": 0.3, "reinitialised": 1}, GATE_UP, 0.3),
        ({"reinitialised": 1}, DOWN, 0.02),
        ({"router_std": 0.4}, ROUTER, 0.4),
        ({}, ROUTER, 0.02),
        ({"router": "random"}, ROUTER, 0.02),
        ({"shared_gate_std": 0.7, "shared_expert_intermediate_size": 7}, None, 0.7),
    ],
)
def test_where_new_numbers_come_from(choice, name, std):
    config, params = dense_model(hidden_size=201, intermediate_size=F)
    new, _, _ = upcycled(config, params, **choice)
    drawn = new[f"model.layers.0.{name or 'mlp.shared_expert_gate.weight'}"]
    assert abs(np.unique(drawn).std() / std - 1) < 0.15
    if name == ROUTER:
        rows = len({row.tobytes() for row in drawn})
        assert rows == (6 if choice.get("router") == "random" else 2)
        assert (rows == 6) != np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen2_moe", {"model_type": "qwen", "use_dynamic_ntk": True, "use_logn_attn": True}),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
        ("qwen2_moe", {"layer_windows": [3, None]}),
        ("qwen3_moe", {"model_type": "qwen3", "attention_bias": False}),
        ("qwen3_moe", {"model_type": "qwen3", "attention_bias": False, "use_sliding_window": True,
                       "sliding_window": 3, "max_window_layers": 1}),
    ],
)  # fmt: skip
def test_every_kind_of_dense_model(kind, changes):
    """Also its windows: qwen2_moe and qwen3_moe would read max_window_layers in another way."""
    config, params = dense_model(max_position_embeddings=8, **changes)
    new, moe, receipt = upcycled(config, params, reinitialised=0)
    assert moe.model_type == kind
    assert receipt.starts_equal
    assert relative(logits_of(new, moe), logits_of(params, config)) < 1e-12
    again = type(moe).from_dict(json.loads(json.dumps(moe.to_dict())))
    assert relative(logits_of(new, again), logits_of(params, config)) < 1e-12


def test_the_mixture_can_be_trained():
    config, params = dense_model()
    new, moe, _ = upcycled(config, params, shared_expert_intermediate_size=7)
    logits, cache = language_model_forward(new, moe, IDS)
    grads = language_model_backward(np.ones_like(logits), cache)
    assert {name: g.shape for name, g in grads.items()} == param_shapes(moe)


# ---- the receipt


def test_the_receipt_counts_and_measures():
    config, params = dense_model()
    choices = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 5}
    new, moe, receipt = upcycled(config, params, probe_ids=IDS, **choices)
    assert receipt.parameters == (count(params), count(new))
    idle = 2 * (7 - 3) * 3 * 5 * 29  # two layers, four experts that do not work, three matrices
    assert receipt.activated_parameters == (count(params), count(new) - idle)
    assert receipt.cut == cut_of(F, 7, 5)
    assert receipt.probe_tokens == 30
    assert receipt.w_down_factors == (12 / 5, 1.0)

    dense_logits = logits_of(params, config)[:, :-1]
    assert abs(receipt.losses.dense - cross_entropy_forward(dense_logits, IDS[:, 1:])[0]) < 1e-12
    new_logits = logits_of(new, moe)[:, :-1]
    assert abs(receipt.losses.new - cross_entropy_forward(new_logits, IDS[:, 1:])[0]) < 1e-12

    _, cache = language_model_forward(params, config, IDS[:, :-1])
    clean = upcycled(config, params, reinitialised=0, **choices)[0]
    for i, layer in enumerate(receipt.layers):
        x, mlp = cache.blocks[i].mlp.gate_cache.x.reshape(-1, 29), f"model.layers.{i}.mlp"
        want = swiglu_forward(
            x, *(params[f"{mlp}.{n}_proj.weight"] for n in ("gate", "up", "down"))
        )[0]
        ys = [
            moe_forward(
                x,
                p[f"{mlp}.gate.weight"],
                p[f"{mlp}.experts.gate_up_proj"],
                p[f"{mlp}.experts.down_proj"],
                3,
                True,
            )[0]
            for p in (clean, new)
        ]
        everyone = expert_outputs(
            x, clean[f"{mlp}.experts.gate_up_proj"], clean[f"{mlp}.experts.down_proj"] / (12 / 5)
        )
        ys.insert(0, everyone.sum(axis=0) * F / (7 * 5))
        moved = [np.linalg.norm(y - want) / np.linalg.norm(want) for y in ys]
        np.testing.assert_allclose(layer[1:], moved, rtol=1e-9)


def test_the_receipt_as_data_and_as_text():
    config, params = dense_model()
    for probe in (None, IDS):
        receipt = upcycled(config, params, probe_ids=probe)[2]
        values = receipt.to_dict()
        assert json.loads(json.dumps(values)) == values
        assert values["layers"][1]["new"] == receipt.layers[1].new
        assert (values["losses"] is None) == (probe is None)
        table = receipt.table()
        assert ("on random inputs" if probe is None else "on 30 tokens") in table
        assert ("loss   dense" in table) == (probe is not None)
        assert "the dense model exactly" in table
        assert f"-> {receipt.parameters[1]:,}" in table
        assert len(table.splitlines()) == 6 + 2 + (probe is not None)


def test_probing_does_not_change_the_result():
    config, params = dense_model()
    results = [upcycled(config, params, probe_ids=probe)[0] for probe in (None, IDS, IDS[:1, :5])]
    for name in results[0]:
        assert all(np.array_equal(results[0][name], other[name]) for other in results[1:])


# ---- errors


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"num_experts": 0}, "num_experts and expert_width must be at least 1, got 12, 0, 4"),
        ({"moe_intermediate_size": 0}, "must be at least 1, got 12, 6, 0"),
        ({"num_experts_per_tok": 7}, "num_experts_per_tok must be from 1 to num_experts=6, got 7"),
        ({"shared_expert_intermediate_size": -1}, "shared_expert_intermediate_size must be"),
        ({"num_experts_per_tok": 2}, "needs num_experts_per_tok of at least 3"),
        ({"mlp_only_layers": [0, 1]}, "no layer becomes sparse"),
        ({"decoder_sparse_step": 3}, "no layer becomes sparse"),
        ({"router": "hash"}, "router must be one of"),
        ({"granularity": "row"}, "granularity must be one of"),
        ({"reinitialised": 1.5}, r"must be in \[0, 1\], got \(1.5, 1.5\)"),
        ({"shared_reinitialised": -0.5}, r"must be in \[0, 1\], got \(0.5, -0.5\)"),
        ({"noise_std": -1.0}, "noise_std must be 0 or above, got -1.0"),
        ({"router_std": float("nan")}, "router_std must be 0 or above, got nan"),
        ({"shared_gate_std": -0.5}, "shared_gate_std must be 0 or above, got -0.5"),
        ({"probe_ids": IDS[:, :1]}, "T > 1, got T = 1"),
        ({"probe_ids": IDS[0]}, r"probe_ids must have axes \(B, T\)"),
        ({"probe_ids": IDS + 61}, r"ids must be in \[0, V=61\)"),
    ],
)
def test_errors(choices, message):
    config, params = dense_model()
    with pytest.raises(ValueError, match=message):
        upcycled(config, params, **choices)


def test_more_errors():
    config, params = dense_model()
    new, moe, _ = upcycled(config, params)
    with pytest.raises(ValueError, match="is a mixture of experts already"):
        upcycled(moe, new)
    with pytest.raises(ValueError, match=r"missing model\.norm\.weight"):
        upcycled(config, {k: v for k, v in params.items() if k != "model.norm.weight"})
    qwen3 = dense_model(model_type="qwen3", attention_bias=False)
    with pytest.raises(ValueError, match="qwen3_moe has no shared expert"):
        upcycled(*qwen3, shared_expert_intermediate_size=4)
    w_gate, w_up, w_down = ffn()
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"w_up must have shape \(F=12, D=5\), got \(5, 12\)"):
        upcycle_ffn(w_gate, w_up.T, w_down, 3, 4, rng)
    with pytest.raises(ValueError, match=r"w_down must have shape \(D=5, F=12\), got \(12, 5\)"):
        upcycle_ffn(w_gate, w_up, w_down.T, 3, 4, rng)
    with pytest.raises(TypeError, match="w_up must have the dtype of w_gate"):
        upcycle_ffn(w_gate, w_up.astype("float32"), w_down, 3, 4, rng)
    with pytest.raises(ValueError, match=r"w_gate_up must have shape \(E=6, 2Fe=8, D=5\)"):
        reinitialise(w_gate, cut()[1], 0.5, 1.0, "neuron", rng)
    with pytest.raises(ValueError, match=r"w_down must have axes \(E, D, Fe\)"):
        reinitialise(cut()[0], w_down, 0.5, 1.0, "neuron", rng)
    for share, std, granularity, message in (
        (-0.1, 1.0, "neuron", r"share to draw anew must be in \[0, 1\], got -0.1"),
        (0.5, -1.0, "neuron", "std of new numbers must be 0 or above, got -1.0"),
        (0.5, 1.0, "expert", "granularity must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            reinitialise(*cut(), share, std, granularity, rng)


# ---- known mistakes


def error_of_sum(module):
    """All experts against the copies."""
    y = expert_outputs(inputs(), *cut(module)).sum(axis=0)
    return relative(y, 2 * swiglu_forward(inputs(), *ffn())[0])


def error_of_shuffle(module):
    """Copies that are alike, or as they were."""
    columns = module.expert_columns(F, 6, 4, np.random.default_rng(0)).reshape(2, F)
    return np.array_equal(columns[0], columns[1]) + np.array_equal(columns[0], np.arange(F))


def error_of_share(module):
    """Numbers too many or too few in a matrix; places that do not make up columns."""
    old = cut()
    new = module.reinitialise(*old, 0.5, 0.3, "neuron", np.random.default_rng(0))
    gate, up = np.split(new[0] != old[0], 2, axis=1)
    down = (new[1] != old[1]).swapaxes(1, 2)
    off = sum(np.abs(places.sum(axis=(1, 2)) - 2 * D).sum() for places in (gate, up, down))
    return off + (gate != up).sum() + (gate != down).sum()


@pytest.mark.parametrize(
    ("what", "old", "new", "error"),
    [
        (
            "gate and up in different orders",
            "w_up[columns]",
            "w_up[expert_columns(F, num_experts, expert_width, rng)]",
            error_of_sum,
        ),
        (
            "down as it was",
            "w_down[:, columns]",
            "w_down[:, np.arange(columns.size).reshape(columns.shape) % F]",
            error_of_sum,
        ),
        ("up over gate", "[w_gate[columns], w_up[columns]]", "[w_up[columns], w_gate[columns]]",
         error_of_sum),
        ("drawn with replacement", "rng.permutation(ffn_width)",
         "rng.integers(0, ffn_width, ffn_width)", error_of_sum),
        ("not shuffled", "rng.permutation(ffn_width)", "np.arange(ffn_width)", error_of_shuffle),
        ("one order for all copies", "[rng.permutation(ffn_width) for _ in range(copies)]",
         "[rng.permutation(ffn_width)] * copies", error_of_shuffle),
        ("half on average", "rng.permuted(places, axis=1, out=places)",
         "rng.random((rows, count)) < share", error_of_share),
        ("down by itself", "down = np.broadcast_to(new[:, None, :]",
         "down = np.broadcast_to(random_places(E, Fe, share, rng)[:, None, :]", error_of_share),
        ("up kept", "(w_gate_up[:, Fe:], up), ", "", error_of_share),
    ],
    ids=short,
)  # fmt: skip
def test_mistakes_in_the_cut_are_seen(what, old, new, error):
    assert error(dense_to_experts) < 1e-12
    assert error(edited(dense_to_experts, old, new)) > 1e-3, what


def start_error(module, **choices):
    """Return how far the logits are from the dense model's, before noise."""
    config, params = dense_model()
    values = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 4,
              "shared_expert_intermediate_size": F, "reinitialised": 0, "router_std": 1.0,
              **choices}  # fmt: skip
    new, moe, _ = module.upcycle(params, config, rng=np.random.default_rng(0), **values)
    return relative(logits_of(new, moe), logits_of(params, config))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('if router == "grouped" else np.arange(E)', 'if router != "grouped" else np.arange(E)'),
        ("DOWN: scaled(down, factors[0])", "DOWN: down"),
        ("scaled(down[0], factors[1])", "scaled(down[0], factors[0])"),
        ("(gate, up, scaled(down[0]", "(up, gate, scaled(down[0]"),
        ("norm_topk_prob=norm_topk_prob,", "norm_topk_prob=False,"),
        ("upcycle_ffn(w_gate, w_up, w_down, E, Fe, rng)",
         "upcycle_ffn(w_up, w_gate, w_down, E, Fe, rng)"),
        ("(dense[name] for name in SWIGLU)", "(0.9 * dense[name] for name in SWIGLU)"),
        ("config.hidden_size), shared_gate_std,", "config.hidden_size), 1.0,"),
    ],
)  # fmt: skip
def test_mistakes_in_the_model_are_seen(old, new):
    assert start_error(upcycling) < 1e-12
    assert start_error(edited(upcycling, old, new)) > 1e-3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("F / Fe * (", "1 * ("),
        ("(1 if norm_topk_prob else E / K)", "(1 if norm_topk_prob else K / E)"),
        ("(routed / 2, F / Fs)", "(routed, F / Fs)"),
        ("(routed / 2, F / Fs)", "(routed / 2, Fs / F)"),
    ],
)
def test_mistakes_in_the_scale_are_seen(old, new, monkeypatch):
    wrong = edited(dense_to_experts, old, new)
    choices = {"shared_expert_intermediate_size": 2 * F, "norm_topk_prob": False, "router_std": 0.0}
    assert start_error(upcycling, **choices) < 1e-12
    monkeypatch.setattr(upcycling, "w_down_factors", wrong.w_down_factors)
    assert start_error(upcycling, **choices) > 1e-3

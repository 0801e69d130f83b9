"""Two traces side by side, against another Qwen2 in NumPy: right, with mistakes, in odd layouts."""

import json

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.check.specs import spec
from minqwen.check.tracing.closeness import Closeness
from minqwen.check.tracing.diff_facts import as_dict
from minqwen.check.tracing.diff_text import text
from minqwen.check.tracing.not_finite import causes
from minqwen.check.tracing.redo import Redo
from minqwen.check.tracing.step_variants import pairs
from minqwen.check.tracing.tensor_diff import Comparison, compare_traces
from minqwen.check.tracing.tensor_layout import match_names, to_our_layout
from minqwen.check.tracing.trace import trace_model
from minqwen.check.tracing.trace_file import Trace

IDS = np.random.default_rng(0).integers(0, 61, (2, 7))


def other_qwen(params, config, ids, wrong=""):
    """Another Qwen2, after the papers: complex rotations, einsum, (B, T, H, Dh), own names.

    wrong: what is wrong in it, "eps"; of two, "eps + no bias".
    """
    wrong = wrong.split(" + ")
    H, Hkv, Dh = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    B, T = ids.shape
    found = {}

    def norm(x, w):
        eps = 1e-3 if "eps" in wrong else config.rms_norm_eps
        if "layernorm" in wrong:
            x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * w

    def project(x, name, heads):
        y = np.einsum("btd,od->bto", x, params[f"{name}.weight"])
        if not ("no bias" in wrong and "k_proj" in name):
            y = y + params[f"{name}.bias"]
        return y.reshape(B, T, heads, Dh)

    base = 1e4 if "base" in wrong else config.rope_theta
    start = 1 if "positions" in wrong else 0
    frequencies = base ** (-2 * np.arange(Dh // 2) / Dh)
    turn = np.exp(1j * (start + np.arange(T))[:, None] * frequencies)[:, None]  # (T, 1, Dh/2)

    def rotate(x):
        if "interleaved" in wrong:
            z = (x[..., ::2] + 1j * x[..., 1::2]) * turn
            return np.stack((z.real, z.imag), axis=-1).reshape(x.shape)
        z = (x[..., : Dh // 2] + 1j * x[..., Dh // 2 :]) * turn
        return np.concatenate((z.real, z.imag), axis=-1)

    def shared(x):  # one key or value head for H / Hkv query heads
        if "tiled" in wrong:
            return np.concatenate([x] * (H // Hkv), axis=2)
        return np.repeat(x, H // Hkv, axis=2)

    def silu(x):
        return x / (1 + np.exp(-x))

    x = found["tokens"] = params["model.embed_tokens.weight"][ids]
    for i in range(config.num_hidden_layers):
        j = 0 if "layer" in wrong else i
        w = f"model.layers.{i}"
        n = found[f"{i}.n1"] = norm(x, params[f"{w}.input_layernorm.weight"])
        q = found[f"{i}.q"] = project(n, f"{w}.self_attn.q_proj", H)
        k = found[f"{i}.k"] = project(n, f"{w}.self_attn.k_proj", Hkv)
        v = found[f"{i}.v"] = project(n, f"{w}.self_attn.v_proj", Hkv)
        q, k = found[f"{i}.q_turned"], found[f"{i}.k_turned"] = rotate(q), rotate(k)
        scores = np.einsum("bthd,bshd->bhts", q, shared(k))
        if "no scale" not in wrong:
            scores = scores / np.sqrt(Dh)
        if "no mask" not in wrong:
            scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = found[f"{i}.weights"] = weights / weights.sum(axis=-1, keepdims=True)
        mixed = found[f"{i}.mixed"] = np.einsum("bhts,bshd->bthd", weights, shared(v))
        a = mixed.reshape(B, T, H * Dh) @ params[f"{w}.self_attn.o_proj.weight"].T
        found[f"{i}.a"] = a
        a = -a if "minus" in wrong else a
        x = found[f"{i}.mid"] = a if "no stream" in wrong else x + a
        n = found[f"{i}.n2"] = norm(x, params[f"{w}.post_attention_layernorm.weight"])
        gate = found[f"{i}.gate"] = n @ params[f"model.layers.{j}.mlp.gate_proj.weight"].T
        up = found[f"{i}.up"] = n @ params[f"{w}.mlp.up_proj.weight"].T
        h = found[f"{i}.h"] = gate * silu(up) if "swapped" in wrong else silu(gate) * up
        m = found[f"{i}.m"] = h @ params[f"{w}.mlp.down_proj.weight"].T
        x = found[f"{i}.out"] = x + m
    n = found["final"] = norm(x, params["model.norm.weight"])
    found["scores"] = n @ params["lm_head.weight"].T
    return found


NAMES = {
    **{"input_layernorm": "n1", "self_attn.q_proj": "q", "self_attn.k_proj": "k"},
    **{"self_attn.v_proj": "v", "self_attn.q_rope": "q_turned", "self_attn.k_rope": "k_turned"},
    **{"self_attn.probs": "weights", "self_attn.attention": "mixed", "self_attn.o_proj": "a"},
    **{"after_attention": "mid", "post_attention_layernorm": "n2", "mlp.gate_proj": "gate"},
    **{"mlp.up_proj": "up", "mlp.hidden": "h", "mlp.down_proj": "m", "": "out"},
}
MAP = {
    **{"model.embed_tokens": "tokens", "model.norm": "final", "logits": "scores"},
    **{f"model.layers.{i}.{a}".rstrip("."): f"{i}.{b}" for i in (0, 1) for a, b in NAMES.items()},
}


def both(wrong="", keep=None, dtype="float64"):
    """Return our trace, that of the other model, the names and the weights."""
    config = small_config()
    params = random_params(config, dtype=dtype)
    ours = trace_model(params, config, IDS)
    theirs = Trace()
    for name, value in other_qwen(params, config, IDS, wrong).items():
        if keep is None or name in keep:
            theirs.add(name, "", value)
    names = {a: b for a, b in MAP.items() if b in theirs}
    return ours, theirs, names, params


def compare(wrong="", keep=None, weights=True, dtype="float64"):
    ours, theirs, names, params = both(wrong, keep, dtype)
    return compare_traces(ours, theirs, params=params if weights else None, names=names)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("keep", [None, ["scores"], ["0.out", "1.out"]])
def test_no_difference_to_another_right_model(keep, dtype):
    diff = compare("", keep, dtype=dtype)
    assert diff.ok
    assert len(diff.order) == (len(MAP) if keep is None else len(keep))
    assert "no difference" in text(diff)


A0 = "model.layers.0.self_attn"
MISTAKES = {  # what is planted -> the first tensor that parts, and the name of the mistake
    "interleaved": (f"{A0}.q_rope", "rope.interleaved"),
    "base": (f"{A0}.q_rope", "rope.base_10000"),
    "positions": (f"{A0}.q_rope", "rope.position_plus_one"),
    "no scale": (f"{A0}.probs", "attention.no_scale"),
    "no mask": (f"{A0}.probs", "attention.no_mask"),
    "tiled": (f"{A0}.probs", "attention.heads_by_tiling"),
    "swapped": ("model.layers.0.mlp.hidden", "swiglu.branches_swapped"),
    "layer": ("model.layers.1.mlp.gate_proj", "weights_of_layer_0"),
    "no bias": (f"{A0}.k_proj", "linear.no_bias"),
    "eps": ("model.layers.0.input_layernorm", "rmsnorm.eps_0.001"),
    "layernorm": ("model.layers.0.input_layernorm", "rmsnorm.centred"),
    "no stream": ("model.layers.0.after_attention", "residual.no_stream"),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("wrong", MISTAKES)
def test_the_first_step_that_is_wrong_is_found_and_named(wrong, dtype):
    diff = compare(wrong, dtype=dtype)
    name, mistake = MISTAKES[wrong]
    assert diff.parted.name == name
    assert diff.parted.fits[0].name == mistake
    ends = [fit.name.rpartition(".")[2] for fit in diff.parted.fits]
    assert len(set(ends)) == len(ends)  # causal_attention.no_mask is not said once more
    # every other step with the mistake is told apart from those that only inherit
    assert all(one.fits[0].name == mistake for one in diff.later)
    assert diff.right[-1] == list(diff.order)[len(diff.right) - 1]
    assert not diff.unclear
    said = text(diff)
    assert said.index("right") < said.index("PARTS")
    assert f"{mistake}\n" in said


PAIRS = {  # two in one step -> the first tensor that parts, and the names of both
    "interleaved + base": (f"{A0}.q_rope", {"rope.interleaved", "rope.base_10000"}),
    "interleaved + positions": (f"{A0}.q_rope", {"rope.interleaved", "rope.position_plus_one"}),
    "base + positions": (f"{A0}.q_rope", {"rope.base_10000", "rope.position_plus_one"}),
    "no scale + no mask": (f"{A0}.probs", {"attention.no_scale", "attention.no_mask"}),
    "tiled + no scale": (f"{A0}.probs", {"attention.heads_by_tiling", "attention.no_scale"}),
    "eps + layernorm": (
        "model.layers.0.input_layernorm",
        {"rmsnorm.eps_0.001", "rmsnorm.centred"},
    ),
    "no stream + minus": (
        "model.layers.0.after_attention",
        {"residual.no_stream", "residual.subtracted"},
    ),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("wrong", PAIRS)
def test_two_mistakes_in_one_step_are_named_together(wrong, dtype):
    diff = compare(wrong, dtype=dtype)
    name, mistakes = PAIRS[wrong]
    assert diff.parted.name == name
    assert set(diff.parted.fits[0].names) == mistakes, [fit.names for fit in diff.parted.fits]
    said = " ".join(text(diff).split())
    assert f"{diff.parted.fits[0].names[0]} together with {diff.parted.fits[0].names[1]}" in said
    assert "with both changes gives their numbers" in said
    assert as_dict(diff)["parted"]["fits"][0]["names"] == list(diff.parted.fits[0].names)
    # the other steps with the same two are told from those that inherit
    assert diff.later
    assert all(set(one.fits[0].names) <= mistakes for one in diff.later)


def test_a_pair_that_equals_a_single_mistake_is_none():
    ours, theirs, names, params = both("interleaved")
    comparison = Comparison(ours, theirs, params, names, None)
    naming, name = comparison.naming, f"{A0}.q_rope"
    singles = list(naming.tried(name, naming.changes(name)))
    allowed = comparison.close.allowed(name)
    assert min(units for _, units in singles) <= allowed
    assert naming.two_at_once(name, allowed, singles) == []
    assert naming.two_at_once(name, allowed, []) != []  # so it is the comparison that sees it


def test_pairs_take_the_place_of_no_other_argument():
    ours, theirs, names, params = both()
    steps = Comparison(ours, theirs, params, names, None).redo.steps
    found = {}
    for place in ("q_rope", "probs"):
        (step,) = steps[f"{A0}.{place}"]
        inputs = tuple(ours[one] for one in step.inputs)
        found[place] = [set(v.names) for v in pairs(step, inputs)]
    assert {"rope.base_10000", "rope.interleaved"} in found["q_rope"]
    assert {"rope.positions+2", "rope.base_500000"} in found["q_rope"]
    assert {"rope.positions+2", "rope.positions-2"} not in found["q_rope"]
    assert {"rope.base_500000", "rope.base_10000000"} not in found["q_rope"]
    assert {"heads_reshaped", "rope.positions+2"} in found["q_rope"]
    assert {"heads_reshaped", "rope.interleaved"} not in found["q_rope"]  # the bank knows no such
    assert {"attention.no_scale", "attention.no_mask"} in found["probs"]
    assert {"attention.no_scale", "causal_attention.no_mask"} not in found["probs"]
    kinds = {m.name: m.kind for m in spec("rope").forward}
    numeric = {f"rope.{name}" for name, kind in kinds.items() if kind == "numeric"}
    assert numeric
    assert not any(numeric & names for names in found["q_rope"])


@pytest.mark.parametrize("keep", [["0.out", "1.out"], ["scores"]], ids=["blocks", "logits"])
@pytest.mark.parametrize("wrong", [w for w in MISTAKES if w not in ("layer", "positions")])
def test_a_file_with_few_tensors_is_enough(wrong, keep):
    diff = compare(wrong, keep)
    assert MISTAKES[wrong][1] in [fit.name for fit in diff.parted.fits]


@pytest.mark.parametrize("wrong", ["interleaved", "no scale", "swapped", "tiled", "no stream"])
def test_without_weights_the_steps_that_need_none_are_done_again(wrong):
    diff = compare(wrong, weights=False)
    name, mistake = MISTAKES[wrong]
    assert diff.parted.name == name
    assert diff.parted.fits[0].name == mistake
    assert any("--weights" in note for note in diff.notes)


def test_what_cannot_be_done_again_is_not_guessed():
    diff = compare("layer", weights=False)
    assert diff.parted.name == "model.layers.1.mlp.gate_proj"
    assert diff.parted.fits == ()
    assert not diff.parted.redone
    assert "looks exactly like" not in text(diff)


def test_a_mistake_that_nobody_knows_is_not_given_a_name():
    ours, theirs, names, params = both()
    rng = np.random.default_rng(1)
    theirs.tensors["0.q_turned"] = rng.standard_normal(theirs["0.q_turned"].shape)
    diff = compare_traces(ours, theirs, params=params, names=names)
    assert diff.parted.name == f"{A0}.q_rope"
    assert diff.parted.fits == ()
    assert "no guess is made" in text(diff)
    assert diff.later == []


def test_the_report_names_the_first_place_in_time_and_both_numbers():
    ours, theirs, names, params = both()
    changed = theirs["1.gate"].copy()
    changed[1, 3:, 5] += 1.0
    theirs.tensors["1.gate"] = changed
    parted = compare_traces(ours, theirs, params=params, names=names).parted
    assert parted.name == "model.layers.1.mlp.gate_proj"
    assert parted.theirs_name == "1.gate"
    assert parted.where == "batch 1, time 3, feature 5"
    assert parted.theirs - parted.ours == pytest.approx(1.0)
    assert (parted.wrong, parted.total) == (4, 2 * 7 * 23)
    assert "wrong from time 3 on; before it everything is right" in parted.patterns
    assert "only feature 5 of 23 is wrong" in parted.patterns
    diff = compare_traces(ours, theirs, params=params, names=names)
    assert "units of rounding; 1 % of the entries\n" in text(diff)  # 4 of 322


def test_nan_and_shapes():
    ours, theirs, names, params = both()
    theirs.tensors["0.h"] = theirs["0.h"].copy()
    theirs.tensors["0.h"][0, 2] = np.nan
    diff = compare_traces(ours, theirs, params=params, names=names)
    assert diff.parted.name == "model.layers.0.mlp.hidden"
    assert "NaN or infinity in 23 of" in diff.parted.patterns[0]
    assert as_dict(diff)["parted"]["theirs"] is None  # JSON has no NaN
    theirs.tensors["0.h"] = theirs["0.h"][..., :-1]
    diff = compare_traces(ours, theirs, params=params, names=names)
    assert "no order of the axes fits" in text(diff)
    assert "(B=2, T=7, F=23)" in diff.parted.problem


def with_nan(name, place, value=np.nan, dtype="float64", weights=True):
    """Compare two equal traces with numbers that are not finite at the same places."""
    ours, theirs, names, params = both(dtype=dtype)
    for trace, called in ((ours, name), (theirs, names[name])):
        trace.tensors[called] = trace[called].copy()
        trace.tensors[called].reshape(ours[name].shape)[place] = value
    return compare_traces(ours, theirs, params=params if weights else None, names=names)


def test_nan_on_both_sides_is_no_difference_and_is_said():
    diff = with_nan(f"{A0}.v_proj", (1, 2))
    found = diff.not_finite
    assert (found.name, found.theirs_name) == (f"{A0}.v_proj", "0.v")
    assert (found.nan, found.infinite, found.total) == (30, 0, 2 * 7 * 30)
    assert found.where == "batch 1, time 2, kv head 0, feature 0"
    assert (found.rows, found.rows_total) == (("batch 1, time 2",), 14)
    assert (found.behind, found.behind_too) == (30, 0)
    assert diff.ok
    assert diff.right[-1] == f"{A0}.k_proj"  # what comes before, and nothing behind
    said = text(diff)
    assert f"up to {A0}.k_proj: " in said
    assert f"NaN     {A0}.v_proj   (theirs: 0.v)\n" in said
    assert "both have 30 NaN of 420 numbers, at the same places" in said
    assert "rows: batch 1, time 2 (of 14)\n" in said
    assert "from here on agreement means nothing" in said
    assert said.endswith(f"no difference; from {A0}.v_proj on this means nothing\n".strip())
    facts = as_dict(diff)
    assert facts["ok"]
    assert facts["not_finite"]["rows"] == ["batch 1, time 2"]
    json.dumps(facts, allow_nan=False)
    assert compare().not_finite is None
    assert "NaN" not in text(compare())


def test_where_nan_comes_from_and_what_it_hides():
    probs = with_nan(f"{A0}.probs", (0, slice(None), 3)).not_finite
    assert probs.rows == ("batch 0, time 3",)
    assert any("without a visible key" in cause for cause in probs.likely)
    assert "log of 0" in causes("loss")[0]
    assert "overflow" in causes("model.layers.0.mlp.gate_proj")[0]
    assert "squares" in causes("model.norm")[0]
    assert "loss scale" in causes("grad.model.norm.weight")[0]
    assert "our step gives finite numbers" in probs.known
    assert with_nan(f"{A0}.probs", (0, slice(None), 3), weights=False).not_finite.known
    infinite = with_nan("logits", ..., np.inf).not_finite
    assert (infinite.nan, infinite.infinite) == (0, infinite.total)
    assert len(infinite.rows) == infinite.rows_total == 14
    assert "rows: all 14 rows\n" in text(with_nan("logits", ..., np.inf))
    # a weight that is itself not finite
    config = small_config()
    params = random_params(config)
    params["model.layers.1.mlp.up_proj.weight"][3, 2] = np.inf
    with np.errstate(all="ignore"):
        ours, theirs = (trace_model(params, config, IDS) for _ in range(2))
        diff = compare_traces(ours, theirs, params=params)
    assert diff.ok
    assert diff.not_finite.name == "model.layers.1.mlp.up_proj"
    assert diff.not_finite.known == "model.layers.1.mlp.up_proj.weight has them itself"
    assert diff.not_finite.behind_too == diff.not_finite.behind == 5
    assert all("feature 3" in one for one in [diff.not_finite.where])
    # a difference behind it is found all the same
    theirs.tensors["logits"] = np.zeros_like(theirs["logits"])
    diff = compare_traces(ours, theirs, params=params)
    assert not diff.ok
    assert diff.parted.name == "logits"
    assert text(diff).index("NaN  ") < text(diff).index("PARTS")


def test_nan_at_other_places_is_a_difference():
    ours, theirs, names, params = both()
    for trace, called, row in ((ours, f"{A0}.v_proj", 0), (theirs, "0.v", 1)):
        trace.tensors[called] = trace[called].copy()
        trace.tensors[called][0, row] = np.nan
    diff = compare_traces(ours, theirs, params=params, names=names)
    assert diff.parted.name == f"{A0}.v_proj"
    assert diff.not_finite is None


def test_nan_in_padding_means_nothing():
    config = small_config()
    mask = np.ones((2, 7), bool)
    mask[1, :3] = False
    params = random_params(config)
    ours, theirs = (trace_model(params, config, IDS, attention_mask=mask) for _ in range(2))
    for trace in (ours, theirs):
        for name in ("logits", "model.norm"):
            trace.tensors[name] = trace[name].copy()
            trace.tensors[name][1, 0] = np.nan
    assert compare_traces(ours, theirs, params=params).not_finite is None
    for trace in (ours, theirs):
        trace.tensors["logits"][1, 3, 5] = -np.inf
    found = compare_traces(ours, theirs, params=params).not_finite
    assert (found.name, found.rows) == ("logits", ("batch 1, time 3",))


def test_padding_is_not_compared():
    config = small_config()
    params = random_params(config)
    mask = np.ones((2, 7), bool)
    mask[1, :3] = False
    ours = trace_model(params, config, IDS, attention_mask=mask)
    theirs = trace_model(params, config, IDS, attention_mask=mask)
    for name in theirs:
        if name.startswith("model.layers.0.mlp"):
            theirs.tensors[name] = theirs[name].copy()
            theirs.tensors[name][1, :3] = 7.0  # where nothing means anything
    assert compare_traces(ours, theirs, params=params).ok
    theirs.tensors["model.layers.0.mlp.hidden"][1, 3] = 7.0
    parted = compare_traces(ours, theirs, params=params).parted
    assert parted.name == "model.layers.0.mlp.hidden"
    assert parted.where == "batch 1, time 3, feature 0"


def test_a_mask_counts_what_is_in_a_cache():
    """(B, S) with S above T: the new tokens are the last ones."""
    ours = Trace()
    mask = np.random.default_rng(0).integers(0, 2, (2, 9)).astype(bool)
    ours.add("attention_mask", "B S", mask)
    ours.add("x", "B T D", np.zeros((2, 3, 4)))
    ours.add("y", "N E", np.zeros((6, 5)))
    close = Closeness(ours, "float64", {}, Redo({}, {}), None)
    assert np.array_equal(close.real_entries("x", ours["x"])[..., 0], mask[:, -3:])
    assert np.array_equal(close.real_entries("y", ours["y"])[:, 0], mask[:, -3:].ravel())
    assert close.real_entries("attention_mask", mask) is None


def test_rounding_may_grow_where_a_step_cannot_be_done_again():
    """x is off by 100 units of rounding, of 128 allowed; y is made of it, nobody says how."""
    x = np.random.default_rng(0).standard_normal((3, 8))
    x /= np.abs(x).max()

    def parted(units_of_y, rtol=None):
        ours, theirs = Trace(), Trace()
        for name, units in (("x", 100), ("y", units_of_y)):
            ours.add(name, "N D", x.astype(np.float32))
            theirs.add(name, "", (x + units * 2.0**-24).astype(np.float32))
        diff = compare_traces(ours, theirs, rtol=rtol)
        return diff.parted.name if diff.parted else None

    assert parted(100) is None
    assert parted(1500) is None
    assert parted(1700) == "y"
    assert parted(1500, rtol=128 * 2.0**-24) == "y"  # an error that was asked for does not grow


def test_positions_that_count_padding():
    config = small_config()
    params = random_params(config)
    mask = np.ones((2, 7), bool)
    mask[1, :3] = False
    from minqwen.check.tracing import trace as tracer
    from minqwen.model.language_model import language_model_forward

    ours = trace_model(params, config, IDS, attention_mask=mask)
    with tracer.trace() as theirs:
        language_model_forward(params, config, IDS, attention_mask=mask, positions=np.arange(7))
    del theirs.tensors["positions"]
    parted = compare_traces(ours, theirs, params=params).parted
    assert parted.name == f"{A0}.q_rope"
    assert parted.fits[0].name == "rope.positions_of_all"


def test_experts():
    config = small_config(
        model_type="qwen2_moe",
        num_experts=7,
        num_experts_per_tok=3,
        moe_intermediate_size=5,
        shared_expert_intermediate_size=11,
    )
    params = random_params(config)
    ours = trace_model(params, config, IDS)

    def changed(name, rule):
        theirs = trace_model(params, config, IDS)
        theirs.tensors[name] = rule(theirs)
        return compare_traces(ours, theirs, params=params).parted

    mlp = "model.layers.1.mlp"
    weights, outputs = f"{mlp}.expert_weights", f"{mlp}.expert_outputs"
    parted = changed(weights, lambda t: t[weights] / t[weights].sum(axis=1, keepdims=True))
    assert (parted.name, parted.fits[0].kind) == (weights, "convention")
    parted = changed(f"{mlp}.experts", lambda t: t[outputs].mean(axis=1))
    assert parted.fits[0].name == "moe.mean"
    shared = f"{mlp}.shared_expert.down_proj"
    parted = changed(mlp, lambda t: (t[f"{mlp}.experts"] + t[shared]).reshape(2, 7, -1))
    assert parted.fits[0].name == "shared_expert.no_gate"
    gate = f"{mlp}.shared_expert_gate"
    parted = changed(mlp, lambda t: (t[f"{mlp}.experts"] + t[gate] * t[shared]).reshape(2, 7, -1))
    assert parted.fits[0].name == "shared_expert.no_sigmoid"
    parted = changed(mlp, lambda t: (t[gate] * (t[f"{mlp}.experts"] + t[shared])).reshape(2, 7, -1))
    assert set(parted.fits[0].names) == {"shared_expert.no_sigmoid", "shared_expert.gate_twice"}
    a_third = lambda t: (t[weights][:, :1] ** 0 * t[outputs][:, 0]) / 3  # noqa: E731
    parted = changed(f"{mlp}.experts", a_third)
    assert set(parted.fits[0].names) == {"moe.first_only", "moe.mean"}
    parted = changed(f"{mlp}.expert_ids", lambda t: t[f"{mlp}.expert_ids"][:, ::-1])
    assert parted.name == f"{mlp}.expert_ids"
    assert parted.where == "token 0, choice 0"


def test_rounding_of_their_dtype_is_no_difference_but_a_narrower_one_is():
    ours, theirs, names, params = both()
    for name in theirs:
        theirs.tensors[name] = theirs[name].astype(np.float32)
    assert compare_traces(ours, theirs, params=params, names=names).ok
    for name in theirs:
        theirs.tensors[name] = theirs[name].astype(np.float16).astype(np.float32)
    diff = compare_traces(ours, theirs, params=params, names=names)
    assert diff.parted.name == "model.embed_tokens"
    assert diff.parted.fits[0].name.startswith("embedding.")
    assert diff.parted.fits[0].kind == "numeric"
    assert compare_traces(ours, theirs, params=params, names=names, rtol=1e-2).ok


def test_names_and_layouts():
    ours, theirs = Trace(), Trace()
    q = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    ours.config = {"num_attention_heads": 3, "hidden_size": 12}
    ours.add("input_ids", "B T", np.zeros((2, 5), int))
    ours.add("positions", "T", np.arange(5))
    ours.add("q_rope", "B H T Dh", q)
    ours.config = None
    theirs.add("module.q_rope", "", q.transpose(0, 2, 1, 3).reshape(2, 5, 12))
    theirs.add("mystery", "", q)
    diff = compare_traces(ours, theirs)
    assert diff.ok
    assert diff.layouts == {"q_rope": "B T H Dh"}
    assert diff.match.unknown == ["mystery"]
    assert "mystery" in text(diff)
    with pytest.raises(ValueError, match="no tensor 'k' in ours"):
        match_names(ours, theirs, {"k": "mystery"})
    with pytest.raises(ValueError, match="no name in common"):
        compare_traces(ours, Trace())
    assert to_our_layout(q, q[:, :, :, :3], "B H T Dh", {}) is None
    # where several orders have the shape, the one nearest to ours is taken
    cube = np.random.default_rng(1).standard_normal((2, 3, 3))
    turned, layout = to_our_layout(cube.transpose(2, 0, 1), cube, "H T S", {})
    assert layout == "S H T"
    assert np.array_equal(turned, cube)
    # a shape that is ours already is taken as it is: an exchange of equal axes is a difference
    square = np.arange(9.0).reshape(3, 3)
    assert to_our_layout(square.T, square, "T S", {})[1] == ""

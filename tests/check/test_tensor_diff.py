"""Two traces side by side, against another Qwen2 in NumPy: right, with mistakes, in odd layouts."""

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.check.patterns import patterns, rounded
from minqwen.check.tracing.diff_facts import as_dict
from minqwen.check.tracing.diff_text import text
from minqwen.check.tracing.tensor_diff import compare_traces
from minqwen.check.tracing.tensor_layout import match_names, to_our_layout
from minqwen.check.tracing.trace import trace_model
from minqwen.check.tracing.trace_file import Trace

IDS = np.random.default_rng(0).integers(0, 61, (2, 7))


def other_qwen(params, config, ids, wrong=""):
    """Another Qwen2, after the papers: complex rotations, einsum, (B, T, H, Dh), own names."""
    H, Hkv, Dh = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    B, T = ids.shape
    found = {}

    def norm(x, w):
        eps = 1e-3 if wrong == "eps" else config.rms_norm_eps
        if wrong == "layernorm":
            x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * w

    def project(x, name, heads):
        y = np.einsum("btd,od->bto", x, params[f"{name}.weight"])
        if not (wrong == "no bias" and "k_proj" in name):
            y = y + params[f"{name}.bias"]
        return y.reshape(B, T, heads, Dh)

    base = 1e4 if wrong == "base" else config.rope_theta
    start = 1 if wrong == "positions" else 0
    frequencies = base ** (-2 * np.arange(Dh // 2) / Dh)
    turn = np.exp(1j * (start + np.arange(T))[:, None] * frequencies)[:, None]  # (T, 1, Dh/2)

    def rotate(x):
        if wrong == "interleaved":
            z = (x[..., ::2] + 1j * x[..., 1::2]) * turn
            return np.stack((z.real, z.imag), axis=-1).reshape(x.shape)
        z = (x[..., : Dh // 2] + 1j * x[..., Dh // 2 :]) * turn
        return np.concatenate((z.real, z.imag), axis=-1)

    def shared(x):  # one key or value head for H / Hkv query heads
        if wrong == "tiled":
            return np.concatenate([x] * (H // Hkv), axis=2)
        return np.repeat(x, H // Hkv, axis=2)

    def silu(x):
        return x / (1 + np.exp(-x))

    x = found["tokens"] = params["model.embed_tokens.weight"][ids]
    for i in range(config.num_hidden_layers):
        j = 0 if wrong == "layer" else i
        w = f"model.layers.{i}"
        n = found[f"{i}.n1"] = norm(x, params[f"{w}.input_layernorm.weight"])
        q = found[f"{i}.q"] = project(n, f"{w}.self_attn.q_proj", H)
        k = found[f"{i}.k"] = project(n, f"{w}.self_attn.k_proj", Hkv)
        v = found[f"{i}.v"] = project(n, f"{w}.self_attn.v_proj", Hkv)
        q, k = found[f"{i}.q_turned"], found[f"{i}.k_turned"] = rotate(q), rotate(k)
        scores = np.einsum("bthd,bshd->bhts", q, shared(k))
        if wrong != "no scale":
            scores = scores / np.sqrt(Dh)
        if wrong != "no mask":
            scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = found[f"{i}.weights"] = weights / weights.sum(axis=-1, keepdims=True)
        mixed = found[f"{i}.mixed"] = np.einsum("bhts,bshd->bthd", weights, shared(v))
        a = mixed.reshape(B, T, H * Dh) @ params[f"{w}.self_attn.o_proj.weight"].T
        found[f"{i}.a"] = a
        x = found[f"{i}.mid"] = a if wrong == "no stream" else x + a
        n = found[f"{i}.n2"] = norm(x, params[f"{w}.post_attention_layernorm.weight"])
        gate = found[f"{i}.gate"] = n @ params[f"model.layers.{j}.mlp.gate_proj.weight"].T
        up = found[f"{i}.up"] = n @ params[f"{w}.mlp.up_proj.weight"].T
        h = found[f"{i}.h"] = gate * silu(up) if wrong == "swapped" else silu(gate) * up
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
    # every other step with the mistake is told apart from those that only inherit
    assert all(one.fits[0].name == mistake for one in diff.later)
    assert diff.right[-1] == list(diff.order)[len(diff.right) - 1]
    assert not diff.unclear
    said = text(diff)
    assert said.index("right") < said.index("PARTS")
    assert f"{mistake}\n" in said


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
    # a shape that is ours already is taken as it is: an exchange of equal axes is a difference
    square = np.arange(9.0).reshape(3, 3)
    assert to_our_layout(square.T, square, "T S", {})[1] == ""


def told(change, shape=(2, 3, 5, 8), axes=("B", "H", "T", "Dh")):
    x = np.random.default_rng(0).standard_normal(shape)
    return told_of(change(x), x, axes, {"Dh": 8, "H": 3})


def told_of(got, want, axes, sizes=None, whole=False, close=1e-12):
    return patterns(got, want, np.abs(got - want) > close, list(axes), close, sizes, whole)


@pytest.mark.parametrize(
    ("change", "sentence"),
    {
        "every number has the wrong sign": lambda x: -x,
        "all numbers are 0.353553 times the right ones, that is 1 / sqrt(Dh)": lambda x: x / 8**0.5,
        "all numbers are 0.693147 times the right ones, that is ln 2": lambda x: x * np.log(2),
        "all numbers are 3 times the right ones, that is H": lambda x: 3 * x,
        "all numbers are the right ones plus 2": lambda x: x + 2,
        "every number is zero": lambda x: 0 * x,
        "the right numbers, one place later along time": lambda x: np.roll(
            np.concatenate((x[:, :, :1] * 0, x), axis=2)[:, :, :5], 0, axis=2
        ),
        "the right numbers in another order along feature: the two halves are interleaved": (
            lambda x: x[..., [0, 4, 1, 5, 2, 6, 3, 7]]
        ),
        "the right numbers in another order along feature: the even ones first, then the odd ones": (
            lambda x: x[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        ),
        "the right numbers in another order along feature: the two halves are exchanged": (
            lambda x: np.roll(x, 4, axis=-1)
        ),
        "the right numbers in another order along time: backwards": lambda x: x[:, :, ::-1],
        "the right numbers in another order along head: number 1, 0, 2 of the right ones": (
            lambda x: x[:, [1, 0, 2]]
        ),
        "each feature has a factor of its own: 1, 2, 3, 4, ...": lambda x: x * np.arange(1, 9),
        "only head 1 of 3 is wrong": lambda x: x + np.array([0, 1, 0])[:, None, None] * x**2,
        "wrong from time 3 on; before it everything is right": (
            lambda x: x + (np.arange(5) >= 3)[:, None] * x**2
        ),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_patterns(change, sentence):
    if isinstance(change, str):
        change, sentence = sentence, change
    assert sentence in told(change)


def test_patterns_that_are_none():
    assert told(lambda x: x**3) == []
    x = np.random.default_rng(0).standard_normal((6, 6))
    assert told_of(x.T, x, "TS")[0] == "the right numbers transposed: time and key are exchanged"
    heads = np.repeat(np.random.default_rng(0).standard_normal((2, 5)), 2, axis=0)
    tiled = told_of(heads[[0, 2, 0, 2]], heads, ["H", "Dh"])
    assert "tiled" in tiled[0]
    assert list(rounded(x * (1 + 2**-9), x)) == []
    half = x.astype(np.float16).astype(np.float64)
    assert list(rounded(half, x)) == [
        "every number is a float16 number: they were rounded to it"
    ]

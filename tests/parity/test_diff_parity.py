"""Our models beside those of transformers: no difference where both are right, and every mistake
that is planted into transformers is found at its place and called by its name."""

import contextlib
import sys
from unittest import mock

import numpy as np
import pytest
from helpers.models import random_params, small_config
from parity.oracle import transformers_model

from minqwen.check.tracing.diff_text import text
from minqwen.check.tracing.hf_model import load_transformers
from minqwen.check.tracing.hf_recorder import record_transformers
from minqwen.check.tracing.tensor_diff import compare_traces
from minqwen.check.tracing.torch_module import record
from minqwen.check.tracing.trace import trace_model
from minqwen.check.tracing.trace_file import Trace
from minqwen.model.checkpoint import save_checkpoint

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

IDS = np.random.default_rng(0).integers(0, 61, (2, 7))
MASK = np.ones((2, 7), bool)
MASK[1, :3] = False
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
MOE = {
    "model_type": "qwen2_moe",
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
    "shared_expert_intermediate_size": 11,
}
QWEN3 = {"model_type": "qwen3", "attention_bias": False}
QWEN3_MOE = {
    **{**MOE, **QWEN3, "model_type": "qwen3_moe"},
    **{"shared_expert_intermediate_size": 0, "norm_topk_prob": True, "mlp_only_layers": [0]},
}
RIGHT = {
    "dense": {},
    "tied": {"tie_word_embeddings": True},
    "windows": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "yarn": {"rope_scaling": YARN, "max_position_embeddings": 128},
    "dynamic": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 3.0},
        "max_position_embeddings": 5,
    },
    "qwen2_moe": MOE,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
}


def compare(case=None, dtype="float32", mask=None, backward=False, edit=None, patch=None):
    """Trace both, with a mistake on the side of transformers; return ours, theirs and the diff."""
    config = small_config(**(case or {}))
    params = random_params(config, dtype=dtype)
    ours = trace_model(params, config, IDS, attention_mask=mask, backward=backward)
    model = transformers_model(config, params)
    if edit is not None:
        edit(model)
    with contextlib.nullcontext() if patch is None else patch(sys.modules[type(model).__module__]):
        theirs = record_transformers(model, IDS, attention_mask=mask, backward=backward)
    return ours, theirs, compare_traces(ours, theirs, params=params)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("case", "padded"),  # dynamic: transformers takes the longest row's length for all rows
    [
        (case, padded)
        for case in RIGHT
        for padded in (False, True)
        if (case, padded) != ("dynamic", True)
    ],
)
def test_right_models_do_not_differ(case, padded, dtype):
    mask = MASK if padded else None
    ours, theirs, diff = compare(RIGHT[case], dtype, mask, backward=True)
    assert diff.ok, text(diff)
    only_ours = {name for name in ours if name not in theirs}
    assert only_ours <= {name for name in ours if name.endswith("router_probs")}
    assert set(theirs) <= set(ours)
    forward = [name for name in theirs if not name.startswith("grad.")]
    assert forward == [name for name in ours if name in theirs and not name.startswith("grad.")]
    assert diff.layouts == {}
    assert diff.inherited == diff.unclear == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_right_models_in_half_precision(tmp_path, dtype):
    config = small_config()
    params = random_params(config, dtype="float32")
    save_checkpoint(tmp_path / "m", config, params, dtype=dtype)
    from minqwen.model.checkpoint import load_checkpoint

    _, stored = load_checkpoint(tmp_path / "m", dtype=None)
    ours = trace_model(stored, config, IDS)
    theirs = record_transformers(load_transformers(tmp_path / "m", dtype), IDS)
    diff = compare_traces(ours, theirs, params=stored)
    assert diff.ok, text(diff)
    assert diff.dtype == dtype


# mistakes in the code: a patch of the module
def interleaved(hf):
    def turn(x, cos, sin):
        half = cos.shape[-1] // 2
        cos, sin, a, b = cos[..., :half], sin[..., :half], x[..., ::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)

    def rotary(q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos[:, None], sin[:, None]
        return turn(q, cos, sin), turn(k, cos, sin)

    return mock.patch.object(hf, "apply_rotary_pos_emb", rotary)


def keys_not_turned(hf):
    right = hf.apply_rotary_pos_emb

    def rotary(q, k, cos, sin, **kwargs):
        return right(q, k, cos, sin)[0], k

    return mock.patch.object(hf, "apply_rotary_pos_emb", rotary)


def turned_backwards(hf):
    right = hf.apply_rotary_pos_emb
    wrong = lambda q, k, cos, sin, **kwargs: right(q, k, cos, -sin)  # noqa: E731
    return mock.patch.object(hf, "apply_rotary_pos_emb", wrong)


def heads_tiled(hf):
    return mock.patch.object(hf, "repeat_kv", lambda x, n: x.repeat(1, n, 1, 1))


def no_mask(hf):
    right = hf.eager_attention_forward
    wrong = lambda m, q, k, v, mask, **kwargs: right(m, q, k, v, None, **kwargs)  # noqa: E731
    return mock.patch.object(hf, "eager_attention_forward", wrong)


# mistakes in a model: a change of its parts
def no_scale(model):
    for layer in model.model.layers:
        layer.self_attn.scaling = 1.0


def branches_swapped(model):
    for layer in model.model.layers:
        m = layer.mlp
        m.forward = lambda x, m=m: m.down_proj(m.gate_proj(x) * m.act_fn(m.up_proj(x)))


def gelu(model):
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()


def eps(model):
    for part in model.modules():
        if hasattr(part, "variance_epsilon"):
            part.variance_epsilon = 1e-5


def eps_of_one(model):
    model.model.layers[1].post_attention_layernorm.variance_epsilon = 1e-3


def up_of_another_layer(model):
    layers = model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight


def layers_exchanged(model):
    model.model.layers = torch.nn.ModuleList(list(model.model.layers)[::-1])


def values_of_keys(model):
    attention = model.model.layers[0].self_attn
    attention.v_proj.weight = attention.k_proj.weight
    attention.v_proj.bias = attention.k_proj.bias


def no_bias(model):
    model.model.layers[1].self_attn.k_proj.bias = None


def positions_shifted(model):
    rotary = model.model.rotary_emb
    right = rotary.forward
    rotary.forward = lambda x, position_ids: right(x, position_ids + 1)


def other_base(model):
    rotary = model.model.rotary_emb
    rotary.config.rope_parameters["rope_theta"] = 1e4
    rotary.inv_freq = rotary.compute_default_rope_parameters(rotary.config)[0]


def not_normalised(model):
    model.model.norm = torch.nn.Identity()


def tied(model):
    model.lm_head.weight = model.model.embed_tokens.weight


def embedding_scaled(model):
    model.model.embed_tokens.register_forward_hook(lambda part, args, out: out * 29**0.5)


A0, A1 = "model.layers.0.self_attn", "model.layers.1.self_attn"
WRONG = [  # what is planted, the first tensor that parts, the mistake that is named
    (interleaved, f"{A0}.q_rope", "rope.interleaved"),
    (turned_backwards, f"{A0}.q_rope", "rope.backwards"),
    (keys_not_turned, f"{A0}.k_rope", "rope.not_turned"),
    (positions_shifted, f"{A0}.q_rope", "rope.position_plus_one"),
    (other_base, f"{A0}.q_rope", "rope.base_10000"),
    (heads_tiled, f"{A0}.probs", "attention.heads_by_tiling"),
    (no_scale, f"{A0}.probs", "attention.no_scale"),
    (no_mask, f"{A0}.probs", "attention.no_mask"),
    (branches_swapped, "model.layers.0.mlp.hidden", "swiglu.branches_swapped"),
    (gelu, "model.layers.0.mlp.hidden", "swiglu.gelu"),
    (eps, "model.layers.0.input_layernorm", "rmsnorm.eps_1e-5"),
    (eps_of_one, "model.layers.1.post_attention_layernorm", "rmsnorm.eps_0.001"),
    (up_of_another_layer, "model.layers.1.mlp.up_proj", "weights_of_layer_0"),
    (layers_exchanged, "model.layers.0.input_layernorm", "weights_of_layer_1"),
    (values_of_keys, f"{A0}.v_proj", f"weights_of:{A0}.k_proj.weight"),
    (no_bias, f"{A1}.k_proj", "linear.no_bias"),
    (not_normalised, "model.norm", "rmsnorm.skipped"),
    (tied, "logits", "weights_of:model.embed_tokens.weight"),
    (embedding_scaled, "model.embed_tokens", "embedding.scaled_by_root"),
]
PATCHES = {interleaved, turned_backwards, keys_not_turned, heads_tiled, no_mask}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("wrong", "where", "name"), WRONG, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_planted_mistake_is_found_and_named(wrong, where, name, dtype):
    how = {"patch": wrong} if wrong in PATCHES else {"edit": wrong}
    _, _, diff = compare(dtype=dtype, **how)
    assert diff.parted.name == where
    assert diff.parted.fits[0].name == name, [fit.name for fit in diff.parted.fits]
    others = {one.fits[0].name for one in diff.later}
    assert others <= {name} | ({"weights_of_layer_0"} if wrong is layers_exchanged else set())
    assert not diff.unclear


def two_experts(model):
    for layer in model.model.layers:
        layer.mlp.gate.top_k = 3
        layer.mlp.gate.norm_topk_prob = True


def no_shared_gate(model):
    for layer in model.model.layers:
        layer.mlp.shared_expert_gate.register_forward_hook(lambda part, args, out: out * 0 + 50)


@pytest.mark.parametrize(
    ("wrong", "where", "name"),
    [
        (two_experts, "model.layers.0.mlp.expert_weights", "moe_router"),
        (no_shared_gate, "model.layers.0.mlp.shared_expert_gate", None),
    ],
)
def test_a_planted_mistake_among_experts(wrong, where, name):
    _, _, diff = compare(MOE, edit=wrong)
    assert diff.parted.name == where
    assert [fit.name.partition(".")[0] for fit in diff.parted.fits[:1]] == [name] * bool(name)


def test_qwen3_without_its_norms():
    def edit(model):
        for layer in model.model.layers:
            layer.self_attn.q_norm = torch.nn.Identity()

    _, _, diff = compare(QWEN3, edit=edit)
    assert diff.parted.name == f"{A0}.q_norm"
    assert diff.parted.fits[0].name == "rmsnorm.skipped"


def test_a_wrong_gradient_is_found():
    def edit(model):
        model.model.layers[0].mlp.up_proj.weight.register_hook(lambda grad: 2 * grad)

    _, _, diff = compare(edit=edit, backward=True)
    assert diff.parted.name == "grad.model.layers.0.mlp.up_proj.weight"
    assert diff.parted.patterns[0] == "all numbers are 2 times the right ones, that is 2 or G"
    assert "loss" in diff.right


def test_recording_leaves_the_model_as_it_was():
    config = small_config(**MOE)
    model = transformers_model(config, random_params(config))
    hf = sys.modules[type(model).__module__]
    before = hf.apply_rotary_pos_emb, hf.torch, torch.Tensor.float, torch.get_default_dtype()
    ids = torch.from_numpy(IDS)
    with torch.no_grad():
        logits = model(ids).logits
        record_transformers(model, IDS, backward=True)
        assert torch.equal(model(ids).logits, logits)
    assert before == (
        hf.apply_rotary_pos_emb,
        hf.torch,
        torch.Tensor.float,
        torch.get_default_dtype(),
    )
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_any_module_is_recorded():
    torch.manual_seed(0)
    inner = torch.nn.Linear(3, 3)
    module = torch.nn.Sequential(inner, torch.nn.Tanh(), inner)
    x = torch.randn(2, 3)
    found = record(module, x, gradients=True)
    assert list(found) == ["0", "1", "0#1", "output", "grad.0.weight", "grad.0.bias"]
    assert np.array_equal(found["output"], module(x).detach().numpy())
    assert np.array_equal(found["1"], np.tanh(found["0"])) or np.allclose(
        found["1"], np.tanh(found["0"]), rtol=1e-6
    )
    model = transformers_model(small_config(), random_params(small_config(), dtype="float32"))
    theirs = Trace()
    for name, value in record(model, {"input_ids": torch.from_numpy(IDS)}).items():
        theirs.add(name, "", value)
    config = small_config()
    params = random_params(config, dtype="float32")
    diff = compare_traces(trace_model(params, config, IDS), theirs, params=params)
    assert diff.ok  # the names of their modules are understood
    assert {"logits", "model.layers.1", f"{A0}.o_proj"} <= set(diff.order)


def test_folders_that_transformers_cannot_open(tmp_path):
    config = small_config()
    save_checkpoint(tmp_path / "m", config, random_params(config), file_format="npz")
    with pytest.raises(ValueError, match="reads safetensors"):
        load_transformers(tmp_path / "m")

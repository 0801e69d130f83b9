"""What is recorded is what is computed, and recording changes nothing; the files hold all of it."""

import contextlib
import json
import sys

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.alignment.reward_model import reward_forward
from minqwen.check.tracing.trace import trace, trace_model
from minqwen.check.tracing.trace_file import Trace
from minqwen.check.tracing.trace_steps import all_steps
from minqwen.layers.embedding import EmbeddingCache, embedding_backward
from minqwen.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward
from minqwen.layers.rope import rope_forward, rope_inv_freq, rope_tables
from minqwen.model.backbone import backbone_backward, backbone_forward
from minqwen.model.config import param_shapes
from minqwen.model.generate import generate
from minqwen.model.language_model import language_model_backward, language_model_forward

IDS = np.random.default_rng(0).integers(0, 61, (2, 7))
MASK = np.ones((2, 7), bool)
MASK[1, :3] = False
MOE = {
    "model_type": "qwen2_moe",
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
    "shared_expert_intermediate_size": 11,
}
QWEN3_MOE = {
    **MOE,
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "shared_expert_intermediate_size": 0,
    "norm_topk_prob": True,
    "mlp_only_layers": [0],
}
CASES = {
    "dense": {},
    "tied": {"tie_word_embeddings": True},
    "windows": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "qwen2_moe": MOE,
    "qwen3_moe, first layer dense": QWEN3_MOE,
    "qwen3": {"model_type": "qwen3", "attention_bias": False},
    "logn, dynamic ntk": {
        "use_logn_attn": True,
        "use_dynamic_ntk": True,
        "max_position_embeddings": 5,
    },
    "dual chunk": {"dual_chunk_attention_config": {"chunk_size": 6, "local_size": 2}},
    "yarn": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "max_position_embeddings": 128,
    },
}


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
@pytest.mark.parametrize("case", CASES)
def test_each_recorded_tensor_follows_from_those_before(case, mask):
    """The steps of trace_steps.py, with plain attention, give what the caches hold."""
    config = small_config(**CASES[case])
    params = random_params(config)
    t = trace_model(params, config, IDS, attention_mask=mask)
    steps = all_steps(config, params, IDS, t["positions"], mask)
    done = set()
    for name in t:
        for step in steps.get(name, []):
            if all(one in t for one in step.inputs):
                y = step.run(*(t[one] for one in step.inputs))
                assert y.shape == t[name].shape, name
                assert np.abs(y - t[name]).max() <= 1e-13 * np.abs(t[name]).max(), name
                done.add(name)
    free = {"input_ids", "positions", "attention_mask"}
    free |= {n for n in t if n.endswith(("q_intra", "q_succ", "q_inter"))}
    assert set(t) - done == free & set(t)
    assert set(steps) <= set(t) | {n for n in steps if n.endswith("probs")}
    logits, _ = language_model_forward(params, config, IDS, attention_mask=mask)
    assert np.array_equal(t["logits"], logits)
    for name in t:
        axes = t.axes[name].split()
        assert len(axes) == t[name].ndim, name
        sizes = {"B": 2, "T": 7, "S": 7, "N": 14, "D": 29, "V": 61, "H": 6, "Dh": 10, "K": 3}
        for letter, size in zip(axes, t[name].shape, strict=True):
            assert sizes.get(letter, size) == size, name


@pytest.mark.parametrize("case", ["dense", "windows", "qwen2_moe"])
def test_several_texts_in_a_row(case):
    """Steps that passed over `segments` would let a token see another text."""
    config = small_config(**CASES[case])
    params = random_params(config)
    segments = np.array([[0, 0, 0, 1, 1, 1, 2], [4, 4, 4, 4, 4, 4, 9]])
    with trace() as t:
        language_model_forward(params, config, IDS, segments=segments)
    assert np.array_equal(t["segments"], segments)
    assert t["positions"].tolist() == [[0, 1, 2, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5, 0]]
    probs = t["model.layers.0.self_attn.probs"]
    assert (probs[0, :, 3:, :3] == 0).all()
    assert np.abs(probs.sum(axis=-1) - 1).max() < 1e-12
    steps = all_steps(config, params, IDS, t["positions"], None, segments)
    for name in t:
        for step in steps.get(name, []):
            if all(one in t for one in step.inputs):
                y = step.run(*(t[one] for one in step.inputs))
                assert np.abs(y - t[name]).max() <= 1e-13 * np.abs(t[name]).max(), name


def test_another_head_on_the_same_backbone():
    config = small_config()
    params = random_params(config)
    with trace() as t:
        hidden, cache = backbone_forward(params, config, IDS)
        grads = backbone_backward(np.ones_like(hidden), cache)
        logits, _ = language_model_forward(params, config, IDS)
    whole = trace_model(params, config, IDS)
    assert [n for n in t if n in whole and n != "logits"] == list(whole)[:-1]
    assert np.array_equal(t["model.norm"], hidden)
    assert np.array_equal(t["call1.logits"], logits)
    assert "logits" not in t
    assert grads.keys() == params.keys() - {"lm_head.weight"}
    config = small_config(num_labels=1)
    params = random_params(config)
    with trace() as t:
        rewards, _ = reward_forward(params, config, IDS)
        reward_forward(params, config, IDS)
    assert np.array_equal(t["reward.y"], rewards)
    assert t["model.norm"].shape == (2, 7, 29)
    assert "call1.model.layers.1" in t
    # everything below the head has its name already, and is not listed once more
    assert [n for n in t if n.startswith("reward")] == ["reward.y", "reward#1.y"]


def test_recording_changes_no_bit_and_leaves_no_trace_behind():
    config = small_config()
    params = random_params(config)
    logits, cache = language_model_forward(params, config, IDS)
    grads = language_model_backward(np.ones_like(logits), cache)
    seen = []
    sys.setprofile(lambda *event: seen.append(event) if len(seen) < 10 else None)
    before = sys.getprofile()
    try:
        with trace() as t:
            logits2, cache = language_model_forward(params, config, IDS)
            grads2 = language_model_backward(np.ones_like(logits), cache)
        assert sys.getprofile() is before
    finally:
        sys.setprofile(None)
    assert np.array_equal(logits, logits2)
    assert all(np.array_equal(grads[n], grads2[n]) for n in grads)
    assert np.array_equal(t["logits"], logits)
    with contextlib.suppress(ZeroDivisionError), trace() as t:
        language_model_forward(params, config, IDS)
        _ = 1 / 0
    assert sys.getprofile() is None
    assert "logits" in t
    recorded = len(t)
    language_model_forward(params, config, IDS)
    assert len(t) == recorded


def test_a_call_that_raises_is_left_out():
    config = small_config()
    params = random_params(config)
    with trace() as t:
        with pytest.raises(ValueError, match="ids must be"):
            language_model_forward(params, config, IDS + 60)
        language_model_forward(params, config, IDS)
    assert [n for n in t if n.endswith("logits")] == ["logits"]


@pytest.mark.parametrize("case", ["dense", "tied", "qwen2_moe", "qwen3_moe, first layer dense"])
def test_gradients(case):
    config = small_config(**CASES[case])
    params = random_params(config)
    t = trace_model(params, config, IDS, attention_mask=MASK, backward=True)
    names = [n.removeprefix("grad.") for n in t if n.startswith("grad.")]
    assert set(param_shapes(config)) <= set(names)
    for name, shape in param_shapes(config).items():
        assert t[f"grad.{name}"].shape == shape
    layers = [n for n in names if n in ("model.layers.0", "model.layers.1", "model.embed_tokens")]
    assert layers == ["model.layers.1", "model.layers.0", "model.embed_tokens"]
    if case != "tied":
        table = embedding_backward(
            t["grad.model.embed_tokens"], EmbeddingCache(IDS, params["model.embed_tokens.weight"])
        )
        assert np.array_equal(table, t["grad.model.embed_tokens.weight"])
    # the loss that `loss` says, of the logits that `logits` says
    z = t["logits"][:, :-1]
    z = z - z.max(axis=-1, keepdims=True)
    log_probs = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    counted = MASK[:, 1:] & MASK[:, :-1]
    picked = np.take_along_axis(log_probs, IDS[:, 1:, None], axis=-1)[..., 0]
    assert t["loss"] == pytest.approx(-picked[counted].mean(), rel=1e-12)
    # the gradient behind block 0 is what the loss changes by when the stream does
    name = "model.layers.0.mlp.down_proj.weight" if case == "dense" else "model.norm.weight"
    step = np.zeros_like(params[name])
    step.flat[3] = 1e-5
    up, down = (
        trace_model(
            {**params, name: params[name] + s}, config, IDS, attention_mask=MASK, backward=True
        )
        for s in (step, -step)
    )
    slope = (up["loss"] - down["loss"]) / 2e-5
    assert t[f"grad.{name}"].flat[3] == pytest.approx(slope, rel=1e-6)


def test_a_loss_needs_two_tokens():
    config = small_config()
    with pytest.raises(ValueError, match="two tokens at least"):
        trace_model(random_params(config), config, IDS[:, :1], backward=True)


@pytest.mark.parametrize("case", ["dense", "qwen2_moe", "windows"])
def test_every_step_of_decoding_is_recorded(case):
    config = small_config(**CASES[case])
    params = random_params(config)
    with trace() as t:
        out = generate(params, config, IDS, max_new_tokens=4)
    assert [n for n in t if n.endswith("input_ids")] == [
        "input_ids",
        "call1.input_ids",
        "call2.input_ids",
        "call3.input_ids",
    ]
    whole = trace_model(params, config, out[:, :-1])
    for name in whole:
        if name.endswith(("q_rope", "k_rope", "attention", "mlp.hidden", "down_proj", ".0", ".1")):
            axis = whole.axes[name].split().index("T") if "T" in whole.axes[name] else None
            if axis is None:
                continue
            parts = [t[name], *(t[f"call{i}.{name}"] for i in (1, 2, 3))]
            joined = np.concatenate(parts, axis=axis)
            assert np.abs(joined - whole[name]).max() < 1e-12 * np.abs(whole[name]).max(), name
    assert t["call2.model.layers.0.self_attn.probs"].shape == (2, 6, 1, 9)


def test_a_function_alone():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 5)), np.ones(5)
    cos, sin = rope_tables(np.arange(3), rope_inv_freq(4, dtype="float64"))
    with trace() as t:
        y, cache = rmsnorm_forward(x, w)
        dx, dw = rmsnorm_backward(y, cache)
        again, _ = rmsnorm_forward(y, w)
        turned, _ = rope_forward(rng.standard_normal((1, 1, 3, 4)), cos, sin)
    assert np.array_equal(t["rmsnorm.y"], y)
    assert np.array_equal(t["rmsnorm_back.0"], dx)
    assert np.array_equal(t["rmsnorm_back.1"], dw)
    assert np.array_equal(t["rmsnorm#1.y"], again)
    assert np.array_equal(t["rope.y"], turned)
    assert list(t)[:4] == ["rmsnorm.y", "rmsnorm.x", "rmsnorm.w", "rmsnorm.inv_rms"]


def test_too_many_probabilities_are_left_out_and_said():
    config = small_config()
    t = trace_model(random_params(config), config, IDS, most_probs=2 * 6 * 7 * 7 - 1)
    assert not any(n.endswith("probs") for n in t)
    assert "probabilities are left out" in t.notes[0]
    t = trace_model(random_params(config), config, IDS, most_probs=2 * 6 * 7 * 7)
    assert t["model.layers.0.self_attn.probs"].shape == (2, 6, 7, 7)
    assert t.notes == []


@pytest.mark.parametrize("name", ["t.safetensors", "t.npz"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_holds_all_of_it(tmp_path, name, dtype):
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    config = small_config(**MOE)
    t = trace_model(random_params(config, dtype=dtype), config, IDS, backward=True)
    t.note("带注释")
    t.more["prompt"] = "从前"
    t.save(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    u = Trace.load(tmp_path / name)
    assert list(u) == list(t)
    for n in t:
        assert u[n].dtype == t[n].dtype
        assert u[n].shape == t[n].shape
        assert np.array_equal(u[n], t[n])
    assert (u.axes, u.notes, u.config, u.more) == (t.axes, t.notes, config.to_dict(), t.more)
    assert u.ordered
    assert u.versions["numpy"] == np.__version__


def test_bfloat16(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    pytest.importorskip("safetensors")
    config = small_config()
    t = trace_model(random_params(config, dtype=ml_dtypes.bfloat16), config, IDS)
    t.save(tmp_path / "t.safetensors")
    u = Trace.load(tmp_path / "t.safetensors")
    assert u["logits"].dtype == ml_dtypes.bfloat16
    assert all(np.array_equal(u[n], t[n]) for n in t)
    with pytest.raises(ValueError, match="cannot hold bfloat16"):
        t.save(tmp_path / "t.npz")
    assert not (tmp_path / "t.npz").exists()


def test_the_name_says_the_format_and_what_is_no_number_is_left_out(tmp_path):
    t = Trace()
    t.add("b", "D", np.arange(3.0))
    t.add("words", "", np.array(["a"]))
    t.add("a", "D", np.arange(3))
    for name in ("t.txt", "t", "t.NPZ"):
        with pytest.raises(ValueError, match=r"must end in \.safetensors or \.npz"):
            t.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    t.save(tmp_path / "t.npz")
    u = Trace.load(tmp_path / "t.npz")
    assert list(u) == ["b", "a"]
    assert u.ordered  # what is left out does not disturb the order
    assert u.notes == ["words is left out: its dtype is <U1, not real numbers"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    t = Trace()
    t.add("a", "D", np.arange(3.0))
    t.save(tmp_path / "t.npz")
    t.add("b", "D", np.arange(3.0))

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        t.save(tmp_path / "t.npz")
    monkeypatch.undo()
    assert list(Trace.load(tmp_path / "t.npz")) == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


def test_files_of_others(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    place = tmp_path / "theirs.safetensors"
    numpy.save_file({"b": np.ones(2), "a": np.zeros((1, 2))}, place, metadata={"format": "pt"})
    u = Trace.load(place)
    assert set(u) == {"a", "b"}
    assert not u.ordered
    assert u.config is None
    np.savez(tmp_path / "theirs.npz", b=np.ones(2), a=np.zeros(()))
    assert list(Trace.load(tmp_path / "theirs.npz")) == ["b", "a"]


@pytest.mark.parametrize("name", ["t.safetensors", "t.npz"])
def test_damaged_files_are_one_plain_error(tmp_path, name):
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    t = Trace()
    t.add("a", "D", np.arange(300.0))
    t.save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for cut in (0, 5, 40, len(data) - 7):
        (tmp_path / name).write_bytes(data[:cut])
        with pytest.raises(ValueError, match=name):
            Trace.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no file"):
        Trace.load(tmp_path / "nothing.npz")
    with pytest.raises(ValueError, match="is a folder"):
        Trace.load(tmp_path)


def test_metadata_that_lies_is_passed_over(tmp_path):
    t = Trace()
    t.add("a", "D", np.arange(3.0))
    facts = {**t.metadata(), "order": json.dumps(["x"]), "axes": "3", "notes": "{", "config": "[]"}
    np.savez(tmp_path / "t.npz", a=t["a"], __metadata__=np.array(json.dumps(facts)))
    u = Trace.load(tmp_path / "t.npz")
    assert list(u) == ["a"]
    assert (u.ordered, u.axes, u.notes, u.config) == (False, {"a": ""}, [], None)


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    t = Trace()
    t.add("a", "D", np.arange(3.0))
    with pytest.raises(ImportError, match="pip install 'minqwen\\[hf\\]'"):
        t.save(tmp_path / "t.safetensors")
    t.save(tmp_path / "t.npz")
    assert list(Trace.load(tmp_path / "t.npz")) == ["a"]
    with pytest.raises(ValueError, match="recorded twice"):
        t.add("a", "D", np.arange(3.0))

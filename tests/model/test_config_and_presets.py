"""Config files of both generations, presets with the published parameter counts, errors."""

import json
import math

import numpy as np
import pytest

from minqwen.model.config import QwenConfig, check_params, param_shapes
from minqwen.model.init import init_params
from minqwen.model.long_context_fields import layer_windows
from minqwen.model.presets import PRESETS, preset
from minqwen.params import count

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
DCA = {"chunk_size": 8, "local_size": 2}
SMALL = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 23,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen-1.8b", 1_836_828_672),
        ("qwen-7b", 7_721_324_544),
        ("qwen-14b", 14_167_290_880),
        ("qwen2-0.5b", 494_032_768),
        ("qwen2-1.5b", 1_543_714_304),
        ("qwen2-7b", 7_615_616_512),
        ("qwen2-72b", 72_706_203_648),
    ],
)
def test_published_parameter_counts(name, parameters):
    assert sum(math.prod(shape) for shape in param_shapes(preset(name)).values()) == parameters


def test_there_is_a_count_for_every_preset_and_a_list_in_the_error():
    assert len(PRESETS) == 9
    with pytest.raises(ValueError, match=r"no preset 'qwen9'; there are qwen-1\.8b, qwen-7b"):
        preset("qwen9")


def test_reads_the_config_of_qwen2_in_both_styles_of_transformers():
    old = {
        **SMALL,
        "model_type": "qwen2",
        "num_key_value_heads": 2,
        "rope_theta": 1e6,
        "bos_token_id": 3,
    }
    config = QwenConfig.from_dict(old)
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta) == (2, 4, 1e6)
    assert config.extra == {"bos_token_id": 3}
    assert config.to_dict()["bos_token_id"] == 3
    new = {k: v for k, v in old.items() if k != "rope_theta"}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    assert QwenConfig.from_dict(new).rope_theta == 1e6
    assert QwenConfig.from_dict(config.to_dict()) == config


def test_reads_the_config_of_the_first_qwen():
    config = QwenConfig.from_dict(
        {
            "model_type": "qwen",
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 22016,  # twice the width of a branch
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "kv_channels": 128,
            "layer_norm_epsilon": 1e-6,
            "rotary_emb_base": 10000,
            "seq_length": 8192,
            "max_position_embeddings": 32768,
            "no_bias": True,
            "use_dynamic_ntk": True,
            "use_logn_attn": True,
        }
    )
    assert param_shapes(config) == param_shapes(preset("qwen-7b"))
    assert config.max_position_embeddings == 8192
    assert config.use_dynamic_ntk
    assert config.use_logn_attn
    assert config.unsupported() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be a whole number of at least 1, got 0"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers must be a whole number"),
        ({"vocab_size": "61"}, "vocab_size must be a whole number"),
        (
            {"num_key_value_heads": 4},
            "num_attention_heads=6 must be a multiple of num_key_value_heads=4",
        ),
        (
            {"hidden_size": 25},
            "hidden_size=25 is not a multiple of num_attention_heads=6: give head_dim",
        ),
        ({"head_dim": 5}, "head_dim must be an even whole number, got 5"),
        ({"rope_theta": -1}, "rope_theta must be a number above 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number above 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false"),
        ({"rope_scaling": "yarn"}, "rope_scaling must be an object or null"),
        ({"sliding_window": "4"}, "sliding_window must be a whole number or null"),
        ({"hidden_act": "gelu"}, 'hidden_act must be "silu"'),
        ({"model_type": "llama"}, "model_type must be one of qwen, qwen2"),
    ],
)
def test_a_wrong_field_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        QwenConfig(**{**SMALL, **changes})


def test_missing_fields_and_broken_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="config has no vocab_size, num_hidden_layers"):
        QwenConfig.from_dict({"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2})
    with pytest.raises(FileNotFoundError, match=r"no config\.json at"):
        QwenConfig.from_pretrained(tmp_path)
    for text in ("{", "[1]", json.dumps({**SMALL, "head_dim": 3})):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"config\.json: "):
            QwenConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "rope_scaling"),
        ({"rope_scaling": {"type": "mrope"}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6}}, "rope_scaling"),
        (
            {"model_type": "qwen3", "attention_bias": True, "num_key_value_heads": 6},
            "attention_bias, .* o_proj too",
        ),
    ],
)
def test_what_is_not_computed_yet_is_refused_and_not_ignored(extra, what):
    from minqwen.model.language_model import language_model_forward

    config = QwenConfig.from_dict({**SMALL, **extra})
    params = init_params(config, np.random.default_rng(0))
    with pytest.raises(NotImplementedError, match=what):
        language_model_forward(params, config, np.zeros((1, 5), int))


def test_which_layers_have_a_window():
    for extra, windows in (
        ({"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 0}, (None, None)),
        ({"use_sliding_window": True}, (None, None)),  # from layer 28 on
        ({"use_sliding_window": True, "max_window_layers": 1}, (None, 4096)),
        ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, (4, 4)),
        ({"layer_windows": [2, None], "use_sliding_window": True}, (2, None)),
    ):
        assert layer_windows(QwenConfig.from_dict({**SMALL, **extra})) == windows


def test_fresh_parameters():
    config = QwenConfig(**{**SMALL, "vocab_size": 997})
    params = init_params(config, np.random.default_rng(0))
    again = init_params(config, np.random.default_rng(0))
    assert {k: v.shape for k, v in params.items()} == param_shapes(config)
    assert all((params[k] == again[k]).all() and params[k].dtype == np.float32 for k in params)
    assert abs(params["model.embed_tokens.weight"].std() - 0.02) < 5e-4
    assert abs(params["model.layers.0.mlp.down_proj.weight"].std() - 0.02 / 4**0.5) < 1e-3
    assert (params["model.layers.1.self_attn.q_proj.bias"] == 0).all()
    assert (params["model.norm.weight"] == 1).all()
    assert count(params) == sum(math.prod(s) for s in param_shapes(config).values())


def test_wrong_parameters_are_listed_ten_names_at_most():
    config = QwenConfig(**SMALL)
    params = init_params(config, np.random.default_rng(0))
    params["model.norm.weight"] = np.ones(5)
    params["wte"] = params.pop("lm_head.weight")
    with pytest.raises(
        ValueError, match=r"missing lm_head\.weight; extra wte; mis-shaped model\.norm"
    ):
        check_params(params, config)
    with pytest.raises(ValueError, match="and 17 more") as error:
        check_params({}, config)
    assert str(error.value).count(",") == 9


def test_rope_stands_in_many_places_of_config_files():
    """Which one counts; tests/parity/test_config_parity.py compares with transformers."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    for extra, theta, scaling in (
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 500.0}}, 500.0, None),
        ({"rope_theta": 9.0, "rope_parameters": {"rope_theta": 500.0}}, 500.0, None),
        ({"rope_scaling": None, "rope_parameters": yarn}, 10000.0, yarn),
        ({"rope_scaling": {**yarn, "rope_theta": 77.0}, "rope_theta": 9.0}, 77.0, yarn),
        ({"rope_scaling": yarn, "rope_parameters": {"rope_type": "linear"}}, 10000.0, yarn),
    ):
        config = QwenConfig.from_dict({**SMALL, **extra})
        assert (config.rope_theta, config.rope_scaling) == (theta, scaling)
        assert "rope_theta" not in (config.to_dict().get("rope_scaling") or {})
    config = QwenConfig.from_dict(
        {**SMALL, "rope_scaling": yarn, "original_max_position_embeddings": 64}
    )
    assert config.rope_scaling["original_max_position_embeddings"] == 64
    with pytest.raises(ValueError, match="rope_theta must stand beside rope_scaling"):
        QwenConfig(**{**SMALL, "rope_scaling": {**yarn, "rope_theta": 77.0}})
    with pytest.raises(ValueError, match="rope_parameters must be an object or null, got 3"):
        QwenConfig.from_dict({**SMALL, "rope_parameters": 3})


def test_nested_or_partial_rope_is_refused():
    nested = {"full_attention": {"rope_type": "default", "rope_theta": 5.0}}
    config = QwenConfig.from_dict({**SMALL, "rope_parameters": nested})
    assert config.unsupported() == ["rope_scaling of type nested"]
    for extra in (
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}},
    ):
        assert QwenConfig.from_dict({**SMALL, **extra}).unsupported() == ["partial_rotary_factor"]


def test_nested_fields_are_copies():
    windows, scaling = [2, None], {"rope_type": "linear", "factor": 2.0}
    config = QwenConfig(**{**SMALL, "layer_windows": windows, "rope_scaling": scaling})
    windows[0], scaling["factor"] = 99, 99.0
    config.to_dict()["layer_windows"][1] = 99
    assert config.layer_windows == [2, None]
    assert config.rope_scaling["factor"] == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": [["a"], {}]}, "layer_types must be a list of L=2 times"),
        ({"rope_theta": 10**400}, "rope_theta or head_dim cannot be"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 10**400}}, "cannot be"),
        ({"rope_scaling": YARN | {"attention_factor": 0}}, "attention_factor must be above 0"),
        ({"rope_scaling": YARN | {"truncate": "no"}}, "truncate must be true or false, got 'no'"),
        (
            {"rope_scaling": YARN | {"beta_fast": 0.5}},
            "rope_theta or head_dim cannot",
        ),
        ({"rope_scaling": YARN | {"factor": True}}, "rope_scaling.factor must be at least 1"),
        ({"rope_scaling": YARN | {"mscale": float("inf")}}, "rope_scaling.mscale must be 0 or"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": "x"}}, "a whole number"),
        ({"use_logn_attn": True, "max_position_embeddings": 1}, "use_logn_attn needs"),
        ({"use_logn_attn": 1}, "use_logn_attn must be true or false"),
        ({"use_dynamic_ntk": True, "head_dim": 2}, "head_dim must be above 2"),
        ({"layer_types": ["sliding_attention"] * 2}, "sliding_window is off"),
        ({"dual_chunk_attention_config": DCA | {"highest_position": 8.0}}, "highest_position must"),
        (
            {"dual_chunk_attention_config": DCA | {"highest_position": True}},
            "highest_position must",
        ),
        (
            {"dual_chunk_attention_config": DCA | {"original_max_position_embeddings": "x"}},
            "original_max_position_embeddings must be a whole number, got 'x'",
        ),
    ],
)
def test_what_would_fail_later_is_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        QwenConfig(**{**SMALL, **changes})

"""Windows against transformers: which layers slide, which pairs are visible."""

import numpy as np
import pytest

from minqwen.long_context.window import qwen2_windows, window_mask

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SETTINGS = [
    {"use_sliding_window": use, "sliding_window": window, "max_window_layers": first}
    for use in (False, True)
    for window in (None, 3, 4096)
    for first in (0, 2, 5, 28)
]
TYPES = [
    [
        "sliding_attention",
        "full_attention",
        "sliding_attention",
        "full_attention",
        "full_attention",
    ],
    ["sliding_attention"] * 5,
    ["full_attention"] * 5,
]


def hf_config(**fields):
    return transformers.Qwen2Config(
        num_hidden_layers=5, hidden_size=12, num_attention_heads=3, num_key_value_heads=3, **fields
    )


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_which_layers_slide(setting):
    config = hf_config(**setting)
    theirs = tuple(
        config.sliding_window if kind == "sliding_attention" else None
        for kind in config.layer_types
    )
    assert qwen2_windows(5, **setting) == theirs


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_layer_types_win_there_too(types):
    setting = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
    config = hf_config(layer_types=types, **setting)
    theirs = tuple(3 if kind == "sliding_attention" else None for kind in config.layer_types)
    assert qwen2_windows(5, **setting, layer_types=types) == theirs


def test_the_attention_modules_hold_these_windows():
    setting = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}
    model = transformers.Qwen2Model(hf_config(vocab_size=7, intermediate_size=5, **setting))
    theirs = tuple(layer.self_attn.sliding_window for layer in model.layers)
    assert qwen2_windows(5, **setting) == theirs == (None, None, 3, 3, 3)


@pytest.mark.parametrize("window", [1, 2, 3, 6, 7, 11, 50])
@pytest.mark.parametrize(("T", "S"), [(7, 7), (1, 7), (4, 11)])
def test_which_pairs_are_visible(T, S, window):
    """The mask of a cached pass: T queries behind S - T tokens."""
    from transformers.masking_utils import eager_mask, sliding_window_causal_mask_function

    theirs = eager_mask(
        batch_size=1,
        q_length=T,
        kv_length=S,
        q_offset=S - T,
        mask_function=sliding_window_causal_mask_function(window),
        dtype=torch.float64,
    )
    np.testing.assert_array_equal(window_mask(T, S, window), (theirs[0, 0] == 0).numpy())

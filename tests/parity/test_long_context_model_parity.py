"""Long context against transformers beyond one pass: KV cache, generation, checkpoint folders."""

import numpy as np
import pytest
from helpers.models import random_params, small_config
from parity.oracle import float64_transformers, transformers_model

from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.generate import generate
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.parity

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
WINDOWS = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
CASES = {
    "yarn": {"rope_scaling": YARN, "max_position_embeddings": 128},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "dynamic": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        "max_position_embeddings": 8,
    },
    "windows": WINDOWS,
    "windows, yarn": {**WINDOWS, "rope_scaling": YARN, "max_position_embeddings": 128},
}


def tokens(length=19):
    return np.random.default_rng(5).integers(0, 61, (2, length))


@pytest.mark.parametrize("case", CASES)
def test_decoding_token_by_token(case):
    """Logits of every step with both caches; for dynamic NTK ours must do as released."""
    config = small_config(**CASES[case])
    params, ids = random_params(config), tokens()
    kv_cache = KVCache(config, 2, 19, dtype="float64", as_released=True)
    with float64_transformers(), torch.no_grad():
        model = transformers_model(config, params)
        past = transformers.DynamicCache(config=model.config)
        for start, end in ((0, 7), *((i, i + 1) for i in range(7, 19))):
            got, _ = language_model_forward(params, config, ids[:, start:end], kv_cache=kv_cache)
            piece = torch.from_numpy(ids[:, start:end])
            want = model(piece, cache=past, use_cache=True).logits.numpy()
            assert np.abs(got - want).max() < 1e-9 * np.abs(want).max(), (start, end)


@pytest.mark.parametrize("case", [case for case in CASES if case != "dynamic"])
def test_greedy_generation(case):
    config = small_config(**CASES[case])
    params, ids = random_params(config, dtype="float32"), tokens(6)
    model = transformers_model(config, params)
    theirs = model.generate(
        torch.from_numpy(ids),
        attention_mask=torch.ones(ids.shape, dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    ours = generate(params, config, ids, max_new_tokens=20)
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("case", CASES)
def test_folders_go_both_ways(tmp_path, case):
    config = small_config(**CASES[case])
    params, ids = random_params(config, dtype="float32"), tokens(13)
    save_checkpoint(tmp_path / "ours", config, params)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype=torch.float32, attn_implementation="eager"
    )
    theirs = model(torch.from_numpy(ids)).logits.detach().numpy()
    ours, _ = language_model_forward(params, config, ids)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()

    model.save_pretrained(tmp_path / "theirs")
    again, loaded = load_checkpoint(tmp_path / "theirs")
    ours, _ = language_model_forward(loaded, again, ids)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()

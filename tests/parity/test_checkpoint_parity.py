"""Folders go both ways between minqwen and transformers."""

import numpy as np
import pytest
from helpers.models import random_params, small_config
from parity.oracle import transformers_model

from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.language_model import language_model_forward

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.parity
IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_opens_what_we_save(tmp_path, tied):
    config = small_config(tie_word_embeddings=tied)
    params = random_params(config, dtype="float32")
    save_checkpoint(tmp_path / "m", config, params)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", dtype=torch.float32, attn_implementation="eager"
    )
    theirs = model(torch.from_numpy(IDS)).logits.detach().numpy()
    ours, _ = language_model_forward(params, config, IDS)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    assert model.config.rope_parameters["rope_theta"] == 1000.0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shard", ["50GB", "20KB"])
def test_we_open_what_transformers_saves(tmp_path, dtype, shard):
    config = small_config()
    model = transformers_model(config, random_params(config, dtype="float32"))
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "m", max_shard_size=shard)
    loaded_config, loaded = load_checkpoint(tmp_path / "m")
    assert (loaded_config.head_dim, loaded_config.rope_theta) == (10, 1000.0)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(loaded[name], value.float().numpy())
    # a fresh model: .to(bfloat16) also rounded the rotary buffer of the old one
    model = transformers_model(loaded_config, loaded)
    theirs = model(torch.from_numpy(IDS)).logits.detach().numpy()
    ours, _ = language_model_forward(loaded, loaded_config, IDS)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()

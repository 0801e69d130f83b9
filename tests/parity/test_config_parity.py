"""The many ways in which config files say what RoPE is: read as transformers reads them."""

import json

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.language_model import language_model_forward

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.parity

IDS = np.random.default_rng(5).integers(0, 61, (2, 13))
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
OLD_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
WAYS = {
    "base beside": {"rope_theta": 500.0},
    "base in rope_parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "null beside": {
        "rope_theta": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "two bases": {
        "rope_theta": 1000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "null rope_scaling": {"rope_scaling": None, "rope_parameters": {**YARN, "rope_theta": 77.0}},
    "empty rope_scaling": {"rope_scaling": {}, "rope_parameters": {**YARN, "rope_theta": 77.0}},
    "both": {"rope_scaling": YARN, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
    "old key": {"rope_parameters": OLD_YARN, "rope_theta": 500.0},
    "old key, older place": {"rope_scaling": OLD_YARN, "rope_theta": 500.0},
    "two keys": {"rope_scaling": {**YARN, "type": "linear"}, "rope_theta": 500.0},
    "base in rope_scaling": {"rope_scaling": {**YARN, "rope_theta": 77.0}, "rope_theta": 500.0},
    "original beside": {"rope_scaling": YARN, "original_max_position_embeddings": 64},
    "default with a base": {"rope_scaling": {"rope_type": "default", "rope_theta": 77.0}},
    "no original": {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    "nothing": {},
}


@pytest.mark.parametrize("way", WAYS)
def test_rope_is_read_as_transformers_reads_it(way, tmp_path, caplog):
    params = random_params(small_config(), dtype="float32")
    save_checkpoint(tmp_path / "m", small_config(max_position_embeddings=128), params)
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config = {k: v for k, v in config.items() if not k.startswith("rope")} | WAYS[way]
    file.write_text(json.dumps(config), encoding="utf-8")

    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", dtype=torch.float32, attn_implementation="eager"
    )
    theirs = model(torch.from_numpy(IDS)).logits.detach().numpy()
    ours_config, loaded = load_checkpoint(tmp_path / "m")
    ours, _ = language_model_forward(loaded, ours_config, IDS)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()

    save_checkpoint(tmp_path / "again", ours_config, loaded)  # and written so that both agree
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "again", dtype=torch.float32, attn_implementation="eager"
    )
    theirs = model(torch.from_numpy(IDS)).logits.detach().numpy()
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()

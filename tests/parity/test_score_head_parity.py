"""Models that give a score, against ...ForSequenceClassification of transformers."""

import json

import numpy as np
import pytest
from helpers.models import random_params, small_config
from parity.oracle import float64_transformers, transformers_model

from minqwen.alignment.reward_head import last_real, reward_head_backward, reward_head_forward
from minqwen.model.backbone import backbone_backward, backbone_forward
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.config import QwenConfig
from minqwen.model.language_model import language_model_forward

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

PAD = 60
CASES = {
    "qwen2": {},
    "tied": {"tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "attention_bias": False},
    "qwen2_moe": {
        "model_type": "qwen2_moe",
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 7,
        "shared_expert_intermediate_size": 11,
    },
}


def scorer(name):
    return small_config(num_labels=1, extra={"pad_token_id": PAD}, **CASES[name])


def batch():
    """Three texts of 9, 5 and 1 tokens, padded at the right; no text holds the pad id."""
    ids = np.random.default_rng(1).integers(0, PAD, (3, 9))
    real = np.arange(9) < np.array([9, 5, 1])[:, None]
    return np.where(real, ids, PAD), real


@pytest.mark.parametrize("name", CASES)
def test_scores_and_every_gradient(name):
    config = scorer(name)
    params = random_params(config)
    ids, real = batch()
    hidden, cache = backbone_forward(params, config, ids, attention_mask=real)
    scores, head = reward_head_forward(hidden, params["score.weight"], last_real(real))
    dscores = np.array([0.7, -1.3, 0.4])
    dhidden, dw = reward_head_backward(dscores, head)
    grads = backbone_backward(dhidden, cache) | {"score.weight": dw}
    with float64_transformers():
        model = transformers_model(config, params)
        out = model(
            input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(real.astype(int))
        ).logits[:, 0]
        (out * torch.from_numpy(dscores)).sum().backward()
    theirs = {key: p.grad.numpy() for key, p in model.named_parameters() if p.grad is not None}
    np.testing.assert_allclose(scores, out.detach().numpy(), rtol=1e-10)
    assert theirs.keys() == grads.keys()
    for key, grad in grads.items():
        assert np.abs(grad - theirs[key]).max() < 1e-9 * np.abs(theirs[key]).max(), key


@pytest.mark.parametrize("name", CASES)
def test_folders_go_both_ways(name, tmp_path):
    config = scorer(name)
    params = random_params(config, dtype="float32")
    save_checkpoint(tmp_path / "ours", config, params)
    auto = transformers.AutoModelForSequenceClassification
    more = {"experts_implementation": "eager"} if "moe" in name else {}  # others need sizes of 16
    model = auto.from_pretrained(tmp_path / "ours", **more).eval()
    assert model.config.num_labels == 1
    ids, real = batch()
    with torch.no_grad():
        theirs = model(
            input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(real.astype(int))
        ).logits[:, 0]
    model.save_pretrained(tmp_path / "theirs")
    back, params_back = load_checkpoint(tmp_path / "theirs")
    assert back.num_labels == 1
    for key, value in params.items():
        np.testing.assert_array_equal(params_back[key], value)
    hidden, _ = backbone_forward(params_back, back, ids, attention_mask=real)
    ours, _ = reward_head_forward(hidden, params_back["score.weight"], last_real(real))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=1e-4)


def test_a_language_model_stays_one(tmp_path):
    config = small_config(extra={"num_labels": 7})
    save_checkpoint(tmp_path, config, random_params(config))
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert written["architectures"] == ["Qwen2ForCausalLM"]
    assert (
        QwenConfig.from_dict({**written, "num_labels": 2, "id2label": {"0": "a"}}).num_labels == 0
    )


def test_a_scorer_gives_no_logits_and_more_labels_are_refused():
    config = scorer("qwen2")
    with pytest.raises(ValueError, match="num_labels=1: this model gives a score, not logits"):
        language_model_forward(random_params(config), config, batch()[0])
    for labels in (2, -1):
        with pytest.raises(ValueError, match="num_labels must be 0"):
            small_config(num_labels=labels)
    three = {str(i): str(i) for i in range(3)}
    says = r"num_labels must be 0 \(logits\) or 1 \(a score\), got 3"
    with pytest.raises(ValueError, match=says):
        QwenConfig.from_dict(config.to_dict() | {"id2label": three})

"""The reward model and its files against Qwen2ForSequenceClassification of transformers."""

import numpy as np
import pytest
from alignment.small_pairs import EXPERTS, PAD, some_pairs
from helpers.models import random_params, small_config
from parity.oracle import float64_transformers, transformers_config

from minqwen.alignment.pair_training import pair_gradient
from minqwen.alignment.reward_model import (
    pad_answers,
    reward_backward,
    reward_forward,
    rewards_of,
    to_reward_model,
)
from minqwen.alignment.reward_training import RewardStage
from minqwen.alignment.settings import RewardSettings
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.parity
BOUND = 1e-9
CONFIG = small_config(num_labels=1)
PARAMS = random_params(CONFIG, seed=1)
PAIRS = some_pairs(5)
CHATS = [pair.chosen for pair in PAIRS] + [pair.rejected for pair in PAIRS]


def classifier(config, params):
    """A sequence classifier of transformers with these parameters, in their dtype."""
    hf_config = transformers_config(config)
    hf_config.pad_token_id = PAD
    assert hf_config.num_labels == 1
    kind = {"qwen2": "Qwen2", "qwen2_moe": "Qwen2Moe", "qwen3": "Qwen3"}[hf_config.model_type]
    model = getattr(transformers, f"{kind}ForSequenceClassification")(hf_config)
    model = model.to(torch.from_numpy(next(iter(params.values()))[:0]).dtype).eval()
    tensors = {name: torch.from_numpy(w.copy()) for name, w in params.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == ([], [])
    return model


def theirs_of(model, input_ids, real):
    return model(torch.from_numpy(input_ids), attention_mask=torch.from_numpy(real)).logits[:, 0]


def assert_close(ours, theirs, what=""):
    theirs = theirs.detach().numpy()
    assert np.abs(ours - theirs).max() < BOUND * np.abs(theirs).max(), what


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"model_type": "qwen3", "attention_bias": False}, EXPERTS],
    ids=["dense", "tied", "qwen3", "experts"],
)
def test_rewards_and_every_gradient(changes):
    config = small_config(num_labels=1, **changes)
    params = random_params(config, seed=2)
    input_ids, real = pad_answers(CHATS, PAD)
    drewards = np.random.default_rng(0).standard_normal(len(CHATS))
    with float64_transformers():
        model = classifier(config, params)
        theirs = theirs_of(model, input_ids, real)
        (theirs @ torch.from_numpy(drewards)).backward()
    ours, cache = reward_forward(params, config, input_ids, real)
    assert_close(ours, theirs)
    grads = reward_backward(drewards, cache)
    named = dict(model.named_parameters())
    assert grads.keys() == named.keys()
    for name, grad in grads.items():
        assert_close(grad, named[name].grad, name)


@pytest.mark.parametrize("center_coef", [0.0, 0.2])
@pytest.mark.parametrize("pieces", [1, 2])
def test_the_loss_of_a_step_and_every_gradient(center_coef, pieces):
    """Theirs in one batch, ours in one or in pieces; the loss by torch's logsigmoid."""
    input_ids, real = pad_answers(CHATS, PAD)
    with float64_transformers():
        model = classifier(CONFIG, PARAMS)
        chosen, rejected = theirs_of(model, input_ids, real).split(5)
        theirs = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
        theirs = theirs + center_coef * ((chosen + rejected) ** 2).mean()
        theirs.backward()
    stage = RewardStage(CONFIG, RewardSettings(center_coef=center_coef), PAIRS, None, PAD)
    row, grads = pair_gradient(PARAMS, stage, np.arange(5), pieces)
    assert row["loss"] == pytest.approx(theirs.item(), rel=BOUND)
    for name, parameter in model.named_parameters():
        assert_close(grads[name], parameter.grad, name)


def test_an_end_token_that_is_the_padding_id_is_passed_over_by_them_only():
    """Why we never read the padding off the ids: theirs is the reward one token too early."""
    ids = np.array([[5, 6, 7, PAD, PAD, PAD]])
    real = np.array([[True] * 4 + [False] * 2])  # the first PAD is the end of the text
    with float64_transformers():
        theirs = theirs_of(classifier(CONFIG, PARAMS), ids, real).item()
    early, _ = reward_forward(PARAMS, CONFIG, ids[:, :3])
    ours, _ = reward_forward(PARAMS, CONFIG, ids, real)
    assert theirs == pytest.approx(early[0], rel=BOUND)
    assert abs(ours[0] - early[0]) > 1e-3


def test_transformers_opens_what_we_save(tmp_path):
    config = small_config()
    config, params = to_reward_model(
        random_params(config, dtype="float32"), config, np.random.default_rng(0)
    )
    save_checkpoint(tmp_path / "m", config, params)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "m", dtype=torch.float32, attn_implementation="eager"
    )
    assert type(model).__name__ == "Qwen2ForSequenceClassification"
    model.config.pad_token_id = PAD
    theirs = theirs_of(model, *pad_answers(CHATS, PAD)).detach().numpy()
    ours = rewards_of(params, config, CHATS, PAD)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_we_open_what_transformers_saves(tmp_path):
    params = random_params(CONFIG, dtype="float32")
    model = classifier(CONFIG, params)
    model.save_pretrained(tmp_path / "m")
    config, loaded = load_checkpoint(tmp_path / "m")
    assert config.num_labels == 1
    assert loaded.keys() == params.keys()
    theirs = theirs_of(model, *pad_answers(CHATS, PAD)).detach().numpy()
    ours = rewards_of(loaded, config, CHATS, PAD)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()

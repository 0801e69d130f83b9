"""The reward model: where it reads, that padding says nothing, and every gradient."""

import numpy as np
import pytest
from alignment.small_pairs import EXPERTS, PAD, directional_errors, some_pairs
from helpers.models import random_params, small_config

from minqwen.alignment.reward_model import (
    pad_answers,
    pair_rewards,
    reward_backward,
    reward_forward,
    rewards_of,
    to_reward_model,
)
from minqwen.model.backbone import backbone_forward
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.language_model import language_model_forward
from minqwen.tokenizer.chatml import Chat

CONFIG = small_config(num_labels=1, dropout=0.3)
PARAMS = random_params(CONFIG)
IDS = np.random.default_rng(4).integers(0, 60, (3, 7))


@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_gets_a_score_head(tied):
    config = small_config(tie_word_embeddings=tied)
    params = random_params(config, dtype="float32")
    before = {name: w.copy() for name, w in params.items()}
    scored, found = to_reward_model(params, config, np.random.default_rng(0))
    assert (scored.num_labels, config.num_labels) == (1, 0)
    assert found.keys() == (params.keys() - {"lm_head.weight"}) | {"score.weight"}
    assert found["score.weight"].shape == (1, 29)
    assert found["score.weight"].dtype == np.float32
    for name in params:
        np.testing.assert_array_equal(params[name], before[name])
    again = to_reward_model(params, config, np.random.default_rng(0))[1]
    np.testing.assert_array_equal(found["score.weight"], again["score.weight"])
    reward, _ = reward_forward(found, scored, IDS)
    assert reward.dtype == np.float32
    with pytest.raises(ValueError, match="score head already"):
        to_reward_model(found, scored, np.random.default_rng(0))


def test_the_head_has_the_variance_of_one_over_width_plus_one():
    config = small_config(hidden_size=99, num_hidden_layers=1)
    params = random_params(config, dtype="float32")
    heads = [
        to_reward_model(params, config, np.random.default_rng(seed))[1]["score.weight"]
        for seed in range(200)
    ]
    assert np.std(heads) == pytest.approx(0.1, rel=0.02)  # 1 / sqrt(100); 1 / 100 is not
    assert np.mean(heads) == pytest.approx(0, abs=0.003)


def test_the_reward_is_read_at_the_last_real_token():
    real = np.ones(IDS.shape, bool)
    real[1, 4:] = False
    rewards, _ = reward_forward(PARAMS, CONFIG, IDS, real)
    hidden, _ = backbone_forward(PARAMS, CONFIG, IDS, attention_mask=real)
    w = PARAMS["score.weight"][0]
    for b, end in enumerate((6, 3, 6)):
        assert rewards[b] == pytest.approx(float(hidden[b, end] @ w), abs=1e-12)
    whole, _ = reward_forward(PARAMS, CONFIG, IDS)
    np.testing.assert_allclose(whole[[0, 2]], rewards[[0, 2]], rtol=1e-12)
    assert abs(whole[1] - rewards[1]) > 1e-3


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("pad_id", [PAD, 17])
def test_padding_moves_no_reward(side, pad_id):
    """Also where the padding id is a token of the text, at its very end."""
    ids = np.concatenate([IDS, np.full((3, 1), 17)], axis=1)  # the texts end with 17
    alone, _ = reward_forward(PARAMS, CONFIG, ids)
    left, right = {"left": (5, 0), "right": (0, 5), "both": (2, 3)}[side]
    padded = np.pad(ids, ((0, 0), (left, right)), constant_values=pad_id)
    real = np.pad(np.ones(ids.shape, bool), ((0, 0), (left, right)))
    found, _ = reward_forward(PARAMS, CONFIG, padded, real)
    np.testing.assert_allclose(found, alone, rtol=1e-12)
    before_last, _ = reward_forward(PARAMS, CONFIG, IDS)
    assert np.abs(found - before_last).min() > 1e-3  # 17 is read, not passed over


def test_rewards_of_chats_keep_their_order_whatever_the_batches():
    pairs = some_pairs(5)
    chats = [chat for pair in pairs for chat in pair]
    one_by_one = [reward_forward(PARAMS, CONFIG, np.array([c.ids]))[0][0] for c in chats]
    for batch_size in (1, 3, 99):
        found = rewards_of(PARAMS, CONFIG, chats, PAD, batch_size)
        np.testing.assert_allclose(found, one_by_one, rtol=1e-11)
    chosen, rejected = pair_rewards(PARAMS, CONFIG, pairs, PAD, 4)
    np.testing.assert_allclose(chosen, one_by_one[::2], rtol=1e-11)
    np.testing.assert_allclose(rejected, one_by_one[1::2], rtol=1e-11)
    assert rewards_of(PARAMS, CONFIG, [], PAD).shape == (0,)


def test_a_chat_that_goes_on_after_its_answer_is_refused():
    """As encode_chat gives it, with a line end at the end: its reward would be read there."""
    chats = [Chat([1, 2], [False, True]), Chat([1, 2, 3], [False, True, False])]
    with pytest.raises(ValueError, match=r"chats\[1\] goes on after its answer"):
        pad_answers(chats, PAD)


def test_a_language_model_has_no_reward():
    config = small_config()
    with pytest.raises(ValueError, match="see to_reward_model"):
        reward_forward(random_params(config), config, IDS)
    with pytest.raises(ValueError, match="num_labels=1"):
        language_model_forward(PARAMS, CONFIG, IDS)
    with pytest.raises(ValueError, match="a row has none"):
        reward_forward(PARAMS, CONFIG, IDS, np.arange(3)[:, None] > np.zeros((3, 7)))


@pytest.mark.parametrize("changes", [{}, EXPERTS], ids=["dense", "experts"])
def test_every_gradient(changes):
    config = small_config(num_labels=1, **changes)
    params = random_params(config, seed=1)
    real = np.arange(7) < np.array([[7], [4], [6]])
    drewards = np.array([0.7, -1.3, 0.4])

    def f(params):
        return float(reward_forward(params, config, IDS, real)[0] @ drewards)

    grads = reward_backward(drewards, reward_forward(params, config, IDS, real)[1])
    errors = directional_errors(f, params, grads)
    assert max(errors.values()) < 1e-7, errors


def test_a_checkpoint_keeps_the_score(tmp_path):
    save_checkpoint(tmp_path / "m", CONFIG, PARAMS)
    config, params = load_checkpoint(tmp_path / "m", dtype=None)
    assert config.num_labels == 1
    np.testing.assert_array_equal(
        reward_forward(params, config, IDS)[0], reward_forward(PARAMS, CONFIG, IDS)[0]
    )

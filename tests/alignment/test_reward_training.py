"""Training a reward model: the step by hand, pieces, resuming, and that it learns."""

import dataclasses
import json
import math
import signal

import numpy as np
import pytest
from alignment.small_pairs import EXPERTS, PAD, SETTINGS, chat, directional_errors, some_pairs
from helpers.models import random_params, small_config
from training.small_run import assert_same_run, metrics

from minqwen.alignment.pair_training import pair_gradient, ranking
from minqwen.alignment.preference_pairs import Pair
from minqwen.alignment.reward_model import pair_rewards, reward_forward, to_reward_model
from minqwen.alignment.reward_training import (
    RewardStage,
    reward_loss_backward,
    reward_loss_forward,
    train_reward_model,
)
from minqwen.alignment.settings import RewardSettings
from minqwen.data.packing import batch_rows
from minqwen.model.checkpoint import load_checkpoint
from minqwen.model.init import init_params
from minqwen.training.resume import load_run, read_training

CONFIG = small_config(num_labels=1, num_hidden_layers=1)
PAIRS, HELD_OUT = some_pairs(7), some_pairs(3, seed=1)
START = init_params(CONFIG, np.random.default_rng(0))


def run(folder, *, config=CONFIG, params=START, pairs=PAIRS, held_out=HELD_OUT, **settings):
    options = settings.pop("options", {})
    return train_reward_model(
        config,
        params,
        pairs,
        folder,
        RewardSettings(**{**SETTINGS, **settings}),
        validation_pairs=held_out,
        pad_id=PAD,
        **{"progress": False, "plot": False, **options},
    )


def loss_by_hand(params, config, pairs, center_coef=0.0):
    """Each chat alone, without padding; the formula with its logarithm."""
    total = 0.0
    for pair in pairs:
        c, r = (float(reward_forward(params, config, np.array([x.ids]))[0][0]) for x in pair)
        total += math.log(1 + math.exp(r - c)) + center_coef * (c + r) ** 2
    return total / len(pairs)


@pytest.mark.parametrize("center_coef", [0.0, 0.3])
def test_the_loss_and_its_gradient(center_coef):
    rng = np.random.default_rng(2)
    rewards = {"c": rng.standard_normal(5), "r": rng.standard_normal(5)}

    def f(rewards):
        return float(reward_loss_forward(rewards["c"], rewards["r"], center_coef)[0])

    _, cache = reward_loss_forward(rewards["c"], rewards["r"], center_coef)
    dc, dr = reward_loss_backward(1.0, cache)
    errors = directional_errors(f, rewards, {"c": dc, "r": dr})
    assert max(errors.values()) < 1e-8
    shifted = {name: value + 3.0 for name, value in rewards.items()}
    assert (abs(f(shifted) - f(rewards)) < 1e-12) == (center_coef == 0)  # it alone sees the level
    assert reward_loss_forward(np.ones(2, np.float32), np.ones(2, np.float32), 0.3)[0].dtype == "f4"
    assert {
        d.dtype
        for d in reward_loss_backward(
            0.5, reward_loss_forward(np.ones(2, np.float32), np.zeros(2, np.float32), 0.3)[1]
        )
    } == {np.dtype(np.float32)}


@pytest.mark.parametrize("center_coef", [0.0, 0.3])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_step_is_the_mean_over_pairs_alone(center_coef, pieces):
    """However the batch is padded and cut: 7 pairs in 3 pieces are 3, 2 and 2."""
    params = random_params(CONFIG, seed=3)
    settings = RewardSettings(center_coef=center_coef)
    stage = RewardStage(CONFIG, settings, PAIRS, None, PAD)
    row, grads = pair_gradient(params, stage, np.arange(7), pieces)
    assert row["loss"] == pytest.approx(loss_by_hand(params, CONFIG, PAIRS, center_coef), rel=1e-11)
    errors = directional_errors(
        lambda p: loss_by_hand(p, CONFIG, PAIRS, center_coef), params, grads
    )
    assert max(errors.values()) < 1e-7, errors
    chosen, rejected = pair_rewards(params, CONFIG, PAIRS, PAD)
    for key, value in ranking(chosen, rejected).items():
        assert row[key] == pytest.approx(value, rel=1e-10)
    assert row["tokens"] == sum(len(chat.ids) for pair in PAIRS for chat in pair)


def test_the_mean_of_uneven_pieces_means_would_be_another_loss():
    params = random_params(CONFIG, seed=3)
    means = [loss_by_hand(params, CONFIG, part) for part in (PAIRS[:3], PAIRS[3:5], PAIRS[5:])]
    assert abs(np.mean(means) - loss_by_hand(params, CONFIG, PAIRS)) > 1e-3


def test_experts_are_balanced_too():
    """The gradient is that of the loss on pairs plus the balance loss of the padded batch."""
    config = small_config(num_labels=1, **EXPERTS)
    params = random_params(config, seed=3)
    stage = RewardStage(config, RewardSettings(), PAIRS, None, PAD)

    def f(params):
        row, _ = stage.piece(params, np.arange(7), 1.0)
        return row["loss"] + 0.3 * row["aux_loss"]

    row, grads = stage.piece(params, np.arange(7), 1.0)
    assert row["aux_loss"] > 2  # K for even use
    assert max(directional_errors(f, params, grads).values()) < 1e-6
    other = RewardStage(config, RewardSettings(), PAIRS, None, pad_id=17)
    assert other.piece(params, np.arange(7), 1.0)[0] == pytest.approx(row, rel=1e-11)  # not padding
    free = RewardStage(
        dataclasses.replace(config, router_aux_loss_coef=0.0), RewardSettings(), PAIRS, None, PAD
    )
    gate = "model.layers.0.mlp.gate.weight"
    assert np.abs(free.piece(params, np.arange(7), 1.0)[1][gate] - grads[gate]).max() > 1e-3


def test_it_learns_which_answer_is_better(tmp_path):
    """Answers with a 7 are better: held-out pairs are ranked right too."""
    rng = np.random.default_rng(0)

    def some(n):
        answers = rng.integers(10, 30, (n, 4))
        good = answers.copy()
        good[np.arange(n), rng.integers(0, 4, n)] = 7
        return [
            Pair(chat([1, 2], [*g, 58]), chat([1, 2], [*b, 58]))
            for g, b in zip(good.tolist(), answers.tolist(), strict=True)
        ]

    held_out = some(40)
    params = run(
        tmp_path,
        pairs=some(80),
        held_out=held_out,
        steps=60,
        batch_size=16,
        accumulate=1,
        eval_every=0,
        checkpoint_every=60,
    )
    chosen, rejected = pair_rewards(params, CONFIG, held_out, PAD)
    assert (chosen > rejected).mean() > 0.95
    rows = metrics(tmp_path)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=0.3)
    assert rows[-1]["validation_accuracy"] > 0.95
    assert rows[-1]["validation_loss"] < 0.2
    config, loaded = load_checkpoint(tmp_path / "checkpoint")
    assert config.num_labels == 1
    for name, w in params.items():
        np.testing.assert_array_equal(loaded[name], w)
        assert loaded[name].dtype == np.float32


def test_preference_model_pretraining_is_the_same_twice(tmp_path):
    coarse = run(tmp_path / "pmp", pairs=some_pairs(9, seed=5), held_out=None)
    tuned = run(tmp_path / "rm", params=coarse)
    assert any((tuned[name] != coarse[name]).any() for name in coarse)
    first = metrics(tmp_path / "rm")[0]
    stage = RewardStage(CONFIG, RewardSettings(), PAIRS, HELD_OUT, PAD)
    assert first["validation_loss"] == pytest.approx(stage.validate(coarse)["validation_loss"])


def test_metrics_say_what_happened(tmp_path):
    before = {name: w.copy() for name, w in START.items()}
    run(tmp_path, center_coef=0.1)
    rows = [row for row in metrics(tmp_path) if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0].keys() == {
        "step", "loss", "accuracy", "margin", "chosen_reward", "rejected_reward", "tokens",
        "lr", "grad_norm",
    }  # fmt: skip
    for step, row in enumerate(rows):
        numbers = batch_rows(7, 5, step, 0)
        assert row["tokens"] == sum(len(chat.ids) for i in numbers for chat in PAIRS[i])
        assert row["lr"] == 0.01
        assert row["margin"] == pytest.approx(row["chosen_reward"] - row["rejected_reward"])
    looks = [row for row in metrics(tmp_path) if "validation_loss" in row]
    assert [row["step"] for row in looks] == [0, 3, 6]
    for name in START:
        np.testing.assert_array_equal(START[name], before[name])


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_resumed_run_is_the_same_bit_by_bit(tmp_path, stop):
    run(tmp_path / "whole")
    run(tmp_path / "parts", steps=stop)
    run(tmp_path / "parts")
    if stop % 3:  # a run that ends at `stop` looks at held-out data there
        path = tmp_path / "parts" / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [x for x in lines if not ("validation" in x and json.loads(x)["step"] == stop)]
        path.write_text("".join(kept), encoding="utf-8")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_ctrl_c_saves_the_last_step(tmp_path, monkeypatch):
    real, count = RewardStage.piece, []

    def piece(self, params, numbers, share):
        count.append(1)
        if len(count) == 8:  # in the first piece of step 4
            signal.raise_signal(signal.SIGINT)
        return real(self, params, numbers, share)

    monkeypatch.setattr(RewardStage, "piece", piece)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    assert load_run(tmp_path / "stopped", "float32")[1]["step"] == 3
    run(tmp_path / "stopped")
    run(tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_another_run_is_refused(tmp_path):
    run(tmp_path)
    for changes, why in (
        ({"seed": 1}, r"settings\.seed = 0, not 1"),
        ({"center_coef": 0.1}, r"settings\.center_coef = 0\.0, not 0\.1"),
        ({"pairs": PAIRS[::-1]}, "was trained on other rows"),
        ({"held_out": None}, "was validated on other validation_rows"),
        ({"params": init_params(CONFIG, np.random.default_rng(1))}, "has another start_model"),
        ({"steps": 5}, "steps may grow, not shrink"),
    ):
        with pytest.raises(ValueError, match=why):
            run(tmp_path, **changes)
    training = read_training(tmp_path / "checkpoint")
    assert training["stage"] == "reward"


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path):
    config = small_config(num_hidden_layers=1)
    language = init_params(config, np.random.default_rng(0))
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="see to_reward_model"):
        run(folder, config=config, params=language)
    with pytest.raises(ValueError, match=r"pairs\[0\] cannot be used: .* context_length is 4"):
        run(folder, context_length=4)
    with pytest.raises(ValueError, match=r"validation_pairs must hold at least one pair"):
        run(folder, held_out=[])
    assert not folder.exists()
    scored, params = to_reward_model(language, config, np.random.default_rng(1))
    run(folder, config=scored, params=params, steps=1)
    assert (folder / "checkpoint").is_dir()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    bad = {**START, "score.weight": START["score.weight"] * np.float32(np.nan)}
    with pytest.raises(FloatingPointError, match=r"the validation loss of step 0 is nan"):
        run(tmp_path / "a", params=bad)
    with pytest.raises(FloatingPointError, match=r"the loss of step 1 is nan.*step 0"):
        run(tmp_path / "b", params=bad, held_out=None)


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    run(tmp_path, steps=1, options={"plot": True})
    assert (tmp_path / "metrics.png").read_bytes().startswith(b"\x89PNG")

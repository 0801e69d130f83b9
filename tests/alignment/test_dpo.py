"""DPO: the step by hand, the frozen reference, what counts, resuming, and that it learns."""

import json
import math

import numpy as np
import pytest
from alignment.small_pairs import EXPERTS, PAD, SETTINGS, chat, directional_errors, some_pairs
from helpers.models import random_params, small_config
from training.small_run import assert_same_run, metrics

from minqwen.alignment.answer_logprobs import (
    answer_logprobs_backward,
    answer_logprobs_forward,
    answer_logprobs_of,
    pair_logprobs,
)
from minqwen.alignment.chat_batch import pad_chats
from minqwen.alignment.dpo import DpoStage, dpo
from minqwen.alignment.pair_training import pair_gradient
from minqwen.alignment.preference_pairs import Pair
from minqwen.alignment.settings import DpoSettings
from minqwen.model.checkpoint import load_checkpoint
from minqwen.model.init import init_params
from minqwen.model.language_model import language_model_forward
from minqwen.tokenizer.chatml import Chat
from minqwen.training.lr_schedule import cosine_lr
from minqwen.training.resume import read_training

CONFIG = small_config(num_hidden_layers=1, dropout=0.3)
PAIRS, HELD_OUT = some_pairs(7), some_pairs(3, seed=1)
START = init_params(CONFIG, np.random.default_rng(0))
REFERENCE = random_params(CONFIG, seed=8)


def run(folder, *, config=CONFIG, params=START, pairs=PAIRS, held_out=HELD_OUT, **settings):
    options = settings.pop("options", {})
    return dpo(
        config,
        params,
        pairs,
        folder,
        DpoSettings(**{**SETTINGS, **settings}),
        validation_pairs=held_out,
        pad_id=PAD,
        **{"progress": False, "plot": False, **options},
    )


def logprob_by_hand(params, config, chat, reduction="sum"):
    """A chat alone, token by token."""
    logits, _ = language_model_forward(params, config, np.array([chat.ids]))
    p = np.exp(logits[0] - logits[0].max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    found = [math.log(p[t - 1, chat.ids[t]]) for t in range(1, len(chat.ids)) if chat.loss_mask[t]]
    return sum(found) / (len(found) if reduction == "mean" else 1)


def loss_by_hand(params, reference, config, pairs, beta=0.1, reduction="sum"):
    total = 0.0
    for pair in pairs:
        c, r = (
            beta
            * (
                logprob_by_hand(params, config, x, reduction)
                - logprob_by_hand(reference, config, x, reduction)
            )
            for x in pair
        )
        total += math.log(1 + math.exp(r - c))
    return total / len(pairs)


def stage(config=CONFIG, reference=REFERENCE, **settings):
    s = DpoSettings(**settings)
    known = pair_logprobs(reference, config, PAIRS, PAD, s.reduction)
    return DpoStage(config, s, PAIRS, known, None, None, PAD)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_log_probabilities_of_answers(reduction):
    params = random_params(CONFIG, seed=3)
    chats = [chat for pair in PAIRS for chat in pair]
    by_hand = [logprob_by_hand(params, CONFIG, chat, reduction) for chat in chats]
    for batch_size in (1, 3, 99):
        found = answer_logprobs_of(params, CONFIG, chats, PAD, reduction, batch_size)
        np.testing.assert_allclose(found, by_hand, rtol=1e-11)
    both = pair_logprobs(params, CONFIG, PAIRS, PAD, reduction)
    np.testing.assert_allclose(both.T.reshape(-1), by_hand, rtol=1e-11)


@pytest.mark.parametrize("pad_id", [PAD, 58])
def test_padding_says_nothing_also_where_its_id_is_in_the_text(pad_id):
    """The chosen answers end with 58."""
    params = random_params(CONFIG, seed=3)
    chats = [pair.chosen for pair in PAIRS]
    found = answer_logprobs_of(params, CONFIG, chats, pad_id)
    by_hand = [logprob_by_hand(params, CONFIG, chat) for chat in chats]
    np.testing.assert_allclose(found, by_hand, rtol=1e-11)
    wide = pad_chats(chats, pad_id, length=20).batch
    np.testing.assert_allclose(
        answer_logprobs_forward(params, CONFIG, wide)[0], by_hand, rtol=1e-11
    )


def test_tokens_of_the_prompt_do_not_count_but_are_read():
    params = random_params(CONFIG, seed=3)
    one, other = (Chat([p, 5, 6, 7], [False, False, True, True]) for p in (1, 2))
    counted = Chat(one.ids, [False, True, True, True])
    found = answer_logprobs_of(params, CONFIG, [one, other, counted], PAD)
    assert found[0] == pytest.approx(logprob_by_hand(params, CONFIG, one), rel=1e-11)
    assert len({round(x, 6) for x in found.tolist()}) == 3


def test_the_sum_of_a_doubled_answer_doubles_and_its_mean_does_not():
    """A model that gives every token the same probability, whatever came before."""
    params = {name: np.zeros_like(w) for name, w in START.items()}
    short, long = (chat([1], [5] * n) for n in (3, 6))
    sums = answer_logprobs_of(params, CONFIG, [short, long], PAD, "sum")
    means = answer_logprobs_of(params, CONFIG, [short, long], PAD, "mean")
    np.testing.assert_allclose(sums, [-3 * math.log(61), -6 * math.log(61)], rtol=1e-5)
    np.testing.assert_allclose(means, [-math.log(61)] * 2, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_every_gradient_of_the_log_probabilities(reduction):
    params = random_params(CONFIG, seed=3)
    batch = pad_chats([chat for pair in PAIRS for chat in pair], PAD).batch
    dy = np.random.default_rng(0).standard_normal(len(batch.labels))

    def f(params):
        return float(answer_logprobs_forward(params, CONFIG, batch, reduction)[0] @ dy)

    _, cache = answer_logprobs_forward(params, CONFIG, batch, reduction)
    errors = directional_errors(f, params, answer_logprobs_backward(dy, cache))
    assert max(errors.values()) < 1e-7, errors


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_step_is_the_mean_over_pairs_alone(reduction, pieces):
    params = random_params(CONFIG, seed=3)
    found = stage(reduction=reduction, beta=0.2)
    row, grads = pair_gradient(params, found, np.arange(7), pieces)

    def f(params):
        return loss_by_hand(params, REFERENCE, CONFIG, PAIRS, 0.2, reduction)

    assert row["loss"] == pytest.approx(f(params), rel=1e-11)
    errors = directional_errors(f, params, grads)
    assert max(errors.values()) < 1e-7, errors
    assert row["tokens"] == sum(sum(chat.loss_mask) for pair in PAIRS for chat in pair)
    ours, theirs = (
        np.array(
            [
                [logprob_by_hand(p, CONFIG, chat, reduction) for chat in x]
                for x in zip(*PAIRS, strict=True)
            ]
        )
        for p in (params, REFERENCE)
    )
    rewards = 0.2 * (ours - theirs)
    assert row["chosen_reward"] == pytest.approx(rewards[0].mean())
    assert row["rejected_reward"] == pytest.approx(rewards[1].mean())
    assert row["margin"] == pytest.approx((rewards[0] - rewards[1]).mean())
    assert row["accuracy"] == pytest.approx((rewards[0] > rewards[1]).mean())
    assert row["chosen_logprob"] == pytest.approx(ours[0].mean())
    assert row["rejected_logprob"] == pytest.approx(ours[1].mean())
    assert row["kl"] == pytest.approx((theirs - ours).mean())


def test_sum_and_mean_are_two_losses():
    params = random_params(CONFIG, seed=3)
    losses = [
        pair_gradient(params, stage(reduction=how), np.arange(7))[0]["loss"]
        for how in ("sum", "mean")
    ]
    assert abs(losses[0] - losses[1]) > 0.01


def test_experts_are_balanced_too():
    config = small_config(**EXPERTS)
    params = random_params(config, seed=3)
    found = stage(config, random_params(config, seed=4))

    def f(params):
        row, _ = found.piece(params, np.arange(7), 1.0)
        return row["loss"] + 0.3 * row["aux_loss"]

    row, grads = found.piece(params, np.arange(7), 1.0)
    assert row["aux_loss"] > 2
    assert max(directional_errors(f, params, grads).values()) < 1e-6
    found.pad_id = 17
    assert found.piece(params, np.arange(7), 1.0)[0] == pytest.approx(row, rel=1e-11)  # not padding


def test_the_first_loss_is_ln_2_and_every_reward_0(tmp_path):
    run(tmp_path, dtype="float64")
    first, step = metrics(tmp_path)[:2]
    assert first["validation_loss"] == pytest.approx(math.log(2), abs=1e-12)
    assert step["loss"] == pytest.approx(math.log(2), abs=1e-12)
    for key in ("margin", "chosen_reward", "rejected_reward", "kl"):
        assert step[key] == pytest.approx(0, abs=1e-12)
    assert step["grad_norm"] > 0.01  # not 0: the reference is a constant
    later = metrics(tmp_path)[-1]
    assert abs(later["validation_loss"] - math.log(2)) > 1e-3


def test_the_reference_does_not_change_and_need_not_be_the_start(tmp_path):
    before = {name: w.copy() for name, w in REFERENCE.items()}
    start = {name: w.copy() for name, w in START.items()}
    run(tmp_path, dtype="float64", held_out=None, options={"reference": REFERENCE})
    for name in START:
        np.testing.assert_array_equal(REFERENCE[name], before[name])
        np.testing.assert_array_equal(START[name], start[name])
    first = metrics(tmp_path)[0]
    found = stage()
    wide = {name: w.astype(float) for name, w in START.items()}
    row, _ = pair_gradient(wide, found, np.arange(7))
    assert abs(row["loss"] - math.log(2)) > 0.01
    assert abs(first["loss"] - math.log(2)) > 0.01


def test_it_learns_to_prefer(tmp_path):
    """Chosen answers begin with 7: so do the answers to prompts that were not seen."""
    rng = np.random.default_rng(0)

    def some(n):
        prompts, good, bad = rng.integers(10, 30, (3, n)).tolist()
        return [
            Pair(chat([p, 2], [7, g, 58]), chat([p, 2], [8, b, 58]))
            for p, g, b in zip(prompts, good, bad, strict=True)
        ]

    params = run(
        tmp_path,
        pairs=some(60),
        held_out=some(20),
        steps=25,
        batch_size=12,
        accumulate=1,
        eval_every=0,
        checkpoint_every=25,
    )
    logits, _ = language_model_forward(params, CONFIG, np.array([[40, 2]]))
    assert logits[0, -1, 7] > logits[0, -1, 8] + 2
    rows = metrics(tmp_path)
    assert rows[-1]["validation_accuracy"] == 1
    assert rows[-1]["validation_loss"] < 0.4
    config, loaded = load_checkpoint(tmp_path / "checkpoint")
    assert config.dropout == CONFIG.dropout
    for name, w in params.items():
        np.testing.assert_array_equal(loaded[name], w)
        assert loaded[name].dtype == np.float32


def test_metrics_say_what_happened(tmp_path):
    run(tmp_path, min_lr_ratio=0.1, warmup_steps=2)
    rows = [row for row in metrics(tmp_path) if "loss" in row]
    assert rows[0].keys() == {
        "step", "loss", "accuracy", "margin", "chosen_reward", "rejected_reward",
        "chosen_logprob", "rejected_logprob", "kl", "tokens", "lr", "grad_norm",
    }  # fmt: skip
    assert [row["lr"] for row in rows] == [
        cosine_lr(step, peak_lr=0.01, min_lr=0.001, warmup_steps=2, total_steps=6)
        for step in range(6)
    ]
    assert [row["step"] for row in metrics(tmp_path) if "validation_loss" in row] == [0, 3, 6]
    assert read_training(tmp_path / "checkpoint")["stage"] == "dpo"


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("reference", [None, REFERENCE], ids=["start", "other"])
def test_a_resumed_run_is_the_same_bit_by_bit(tmp_path, stop, reference):
    options = {"reference": reference}
    run(tmp_path / "whole", options=options)
    run(tmp_path / "parts", steps=stop, options=options)
    run(tmp_path / "parts", options=options)
    path = tmp_path / "parts" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [x for x in lines if not ("validation" in x and json.loads(x)["step"] == stop)]
    path.write_text("".join(kept), encoding="utf-8")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_another_run_is_refused(tmp_path):
    run(tmp_path)
    other = init_params(CONFIG, np.random.default_rng(1))
    for changes, why in (
        ({"beta": 0.2}, r"settings\.beta = 0\.1, not 0\.2"),
        ({"reduction": "mean"}, r"settings\.reduction = 'sum', not 'mean'"),
        ({"options": {"reference": other}}, "has another reference"),
        ({"params": other, "options": {"reference": START}}, "has another start_model"),
        ({"pairs": PAIRS[::-1]}, "was trained on other rows"),
    ):
        with pytest.raises(ValueError, match=why):
            run(tmp_path, **changes)
    run(tmp_path, options={"reference": dict(START)})  # the same one, by name


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path):
    folder = tmp_path / "run"
    scored = small_config(num_hidden_layers=1, num_labels=1)
    with pytest.raises(ValueError, match="num_labels=1: it is no language model"):
        run(folder, config=scored, params=random_params(scored))
    with pytest.raises(ValueError, match=r"pairs\[0\] cannot be used"):
        run(folder, context_length=4)
    with pytest.raises(ValueError, match="reference"):
        run(folder, options={"reference": random_params(scored)})
    assert not folder.exists()

"""Online DPO: which pairs it makes, one step by hand, ties, resuming, and that rewards rise."""

import json
import math

import numpy as np
import pytest
from alignment.small_pairs import PAD, SETTINGS
from helpers.models import small_config
from training.small_run import assert_same_run, metrics

from minqwen.alignment.answer_logprobs import pair_logprobs
from minqwen.alignment.dpo import DpoStage, dpo
from minqwen.alignment.online_dpo import OnlineDpoSettings, online_dpo, pick_pairs
from minqwen.alignment.pair_training import pair_gradient
from minqwen.alignment.preference_pairs import Pair
from minqwen.alignment.rollout import as_lists, rollout
from minqwen.alignment.settings import DpoSettings
from minqwen.data.packing import batch_rows
from minqwen.model.init import init_params
from minqwen.tokenizer.chatml import Chat
from minqwen.training.grad_clip import clip_grad_norm
from minqwen.training.resume import load_run

CONFIG = small_config(num_hidden_layers=1)
START = init_params(CONFIG, np.random.default_rng(0))
END = 59
QUERIES = [[1, 2], [3], [4, 5, 6], [7, 8]]
ONLINE = {
    **{k: v for k, v in SETTINGS.items() if k != "eval_every"},
    "batch_size": 3,
    "responses_per_query": 4,
    "max_new_tokens": 5,
    "missing_end_penalty": 0.5,
}


def read_steps(folder):
    return json.loads((folder / "checkpoint" / "steps.json").read_text("utf-8"))["step"]


def low_ids(queries, answers):
    """The share of ids below 20 in an answer."""
    return np.array([np.mean(np.array(answer) < 20) for answer in answers])


def run(folder, *, score=low_ids, queries=QUERIES, params=START, name="", **settings):
    return online_dpo(
        CONFIG,
        params,
        queries,
        score,
        folder,
        OnlineDpoSettings(**{**ONLINE, **settings}),
        eos_token_ids=[END],
        pad_id=PAD,
        score_name=name,
        progress=False,
        plot=False,
    )


def test_pairs_are_the_best_and_the_worst_answer_of_each_query():
    queries = [[1]] * 3 + [[2, 3]] * 3 + [[4]] * 3 + [[5]] * 3
    answers = [[10], [11], [12], [13], [14, 9], [15], [16], [17], [18], [19], [20], [19]]
    scores = [0.0, 2.0, 1.0, 5.0, -1.0, 5.0, 3.0, 3.0, 3.0, 1.0, 0.5, 0.0]
    pairs = pick_pairs(queries, answers, np.array(scores), k=3)
    assert [(p.chosen.ids, p.rejected.ids) for p in pairs[:2]] == [
        ([1, 11], [1, 10]),
        ([2, 3, 13], [2, 3, 14, 9]),
    ]
    assert pairs[1].rejected.loss_mask == [False, False, True, True]
    assert len(pairs) == 2  # the third are a tie; the fourth two equal answers


def test_a_step_by_hand(tmp_path):
    found = run(tmp_path, steps=1, dtype="float64", max_norm=0.2, missing_end_penalty=0.25)
    wide = {name: w.astype(float) for name, w in START.items()}
    numbers = batch_rows(4, 3, 0, 0)
    rolled = rollout(
        wide, CONFIG, [QUERIES[i] for i in numbers], responses_per_query=4, max_new_tokens=5,
        eos_token_ids=[END], pad_id=PAD, rng=np.random.default_rng([6, 0, 0]),
    )  # fmt: skip
    queries, answers = as_lists(rolled)
    scores = low_ids(queries, answers) - 0.25 * ~rolled.ended
    pairs = pick_pairs(queries, answers, scores, 4)
    s = OnlineDpoSettings(**ONLINE)
    known = pair_logprobs(wide, CONFIG, pairs, PAD)
    stage = DpoStage(CONFIG, s, pairs, known, None, None, PAD)
    row, grads = pair_gradient(wide, stage, np.arange(len(pairs)))
    grads, norm = clip_grad_norm(grads, 0.2)
    (first,) = metrics(tmp_path)
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-12)  # model and reference are equal
    assert first["loss"] == pytest.approx(row["loss"])
    assert first["grad_norm"] == pytest.approx(norm)
    assert first["usable"] == len(pairs) / 3
    assert first["score"] == pytest.approx(low_ids(queries, answers).mean())
    assert first["best_score"] == pytest.approx(scores.reshape(3, 4).max(axis=1).mean())
    assert first["tokens"] == sum(map(len, answers))
    for name, w in wide.items():  # the first step of AdamW is the sign of the gradient
        moved = found[name] - w
        expected = -0.01 * grads[name] / (np.abs(grads[name]) + 1e-8)
        np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=1e-12)


def test_a_step_of_ties_changes_nothing_but_its_number(tmp_path):
    """Also after steps that left momentum behind."""

    def score(queries, answers):
        calls.append(1)
        return low_ids(queries, answers) if len(calls) < 3 else np.zeros(len(answers))

    calls = []
    same = {"missing_end_penalty": 0.0, "checkpoint_every": 100}
    two = run(tmp_path / "two", steps=2, **same)
    six = run(tmp_path / "six", score=score, steps=6, **same)
    assert len(calls) == 6
    for name in two:
        np.testing.assert_array_equal(two[name], six[name])
    rows = metrics(tmp_path / "six")
    assert [row["usable"] > 0 for row in rows] == [True, True, False, False, False, False]
    assert [row["pairs"] > 0 for row in rows] == [True, True, False, False, False, False]
    assert all("loss" not in row for row in rows[2:])
    assert load_run(tmp_path / "six", "float32")[1]["step"] == 2  # of AdamW: updates
    assert read_steps(tmp_path / "six") == 6  # of the run


def test_adamw_does_not_count_a_step_of_ties(tmp_path):
    """Ties first: the first update is the sign of the gradient, as if nothing had been before."""

    def score(queries, answers):
        calls.append(1)
        return np.zeros(len(answers)) if len(calls) < 4 else low_ids(queries, answers)

    calls = []
    same = {"missing_end_penalty": 0.0, "warmup_steps": 0, "min_lr_ratio": 1.0, "dtype": "float64"}
    found = run(tmp_path, score=score, steps=4, checkpoint_every=100, weight_decay=0.0, **same)
    assert [row["usable"] > 0 for row in metrics(tmp_path)] == [False, False, False, True]
    largest = max(np.abs(found[name] - w).max() for name, w in START.items())
    assert largest == pytest.approx(0.01, rel=1e-3)  # peak_lr; 0.0056 with a correction for 4 steps


def test_a_run_with_ties_goes_on_bit_by_bit(tmp_path):
    """Which steps have pairs depends on the prompts, so on the run's own count."""

    def score(queries, answers):
        return low_ids(queries, answers) * (queries[0] != [4, 5, 6])

    same = {"score": score, "batch_size": 1, "accumulate": 1, "missing_end_penalty": 0.0}
    run(tmp_path / "whole", **same)
    for steps in (1, 2, 3, 4, 6):
        run(tmp_path / "parts", steps=steps, **same)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    having = [row["pairs"] for row in metrics(tmp_path / "whole")]
    assert 0 in having[:-1]
    assert sum(having) == load_run(tmp_path / "whole", "float32")[1]["step"] < 6
    place = tmp_path / "whole" / "checkpoint" / "steps.json"
    for text in ("", "[]", "{}", '{"step": 1e400}', '{"step": -2}', '{"step": true}'):
        place.write_text(text, "utf-8")
        with pytest.raises(ValueError, match=r"steps\.json is corrupt or cut off: "):
            run(tmp_path / "whole", **same)


def test_a_run_of_another_stage_is_named(tmp_path):
    run(tmp_path, steps=1)
    pair = Pair(*(Chat([1, i], [False, True]) for i in (2, 3)))
    kept = {key: value for key, value in ONLINE.items() if hasattr(DpoSettings(), key)}
    with pytest.raises(ValueError, match="is one of online_dpo, not of dpo: use another folder"):
        dpo(
            CONFIG, START, [pair], tmp_path, DpoSettings(**kept),
            pad_id=PAD, progress=False, plot=False,
        )  # fmt: skip


def test_every_step_and_every_seed_samples_other_answers(tmp_path):
    """Of one query, by a model that hardly moves."""
    found = []

    def score(queries, answers):
        found.append(answers)
        return low_ids(queries, answers)

    for seed in (0, 1):
        run(tmp_path / str(seed), score=score, queries=[[1]], steps=2, seed=seed, peak_lr=1e-12)
    assert len(found) == 4
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


def test_rewards_rise_and_the_reference_stays(tmp_path):
    before = {name: w.copy() for name, w in START.items()}
    run(tmp_path, steps=30, batch_size=8, accumulate=1, checkpoint_every=30)
    for name, w in before.items():
        np.testing.assert_array_equal(START[name], w)
    rows = metrics(tmp_path)
    first, last = (np.mean([row["score"] for row in part]) for part in (rows[:3], rows[-9:]))
    assert first == pytest.approx(20 / 61, abs=0.1)  # every id is equally likely
    assert last > 0.55
    assert rows[-1]["kl"] > 1  # of the model from the reference: it has moved


def test_a_resumed_run_is_the_same_bit_by_bit(tmp_path):
    run(tmp_path / "whole")
    for steps in (1, 4, 6):
        run(tmp_path / "parts", steps=steps)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    for changes, why in (
        ({"queries": QUERIES[::-1]}, "was trained on other rows"),
        ({"name": "another"}, "has another score"),
        ({"params": init_params(CONFIG, np.random.default_rng(1))}, "has another start_model"),
        ({"temperature": 0.5}, r"settings\.temperature = 1\.0, not 0\.5"),
    ):
        with pytest.raises(ValueError, match=why):
            run(tmp_path / "whole", **changes)


def test_what_makes_no_sense_is_refused(tmp_path):
    for changes, why in (
        ({"responses_per_query": 1}, "responses_per_query must be a whole number, at least 2"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"missing_end_penalty": math.inf}, "missing_end_penalty must be 0 or more"),
        ({"missing_end_penalty": -0.1}, "missing_end_penalty must be 0 or more"),
        ({"queries": []}, "queries must hold at least one prompt"),
        ({"queries": [[1], []]}, "each prompt at least one id"),
    ):
        with pytest.raises(ValueError, match=why):
            run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()

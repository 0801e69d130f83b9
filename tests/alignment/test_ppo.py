"""PPO as a step and as a run: what changes, what must not, and going on after a stop."""

import dataclasses
import json
import math
import signal

import numpy as np
import pytest
from alignment.small_ppo import (
    END,
    PAD,
    QUERIES,
    TEXT,
    WIDE,
    files,
    metrics,
    policy_params,
    run,
    score,
    settings,
    start,
    value_model,
)
from alignment.test_rollout import more_padding
from helpers.fake_device import from_fake, install, to_fake

from minqwen.alignment import learned, ppo_step
from minqwen.alignment import ppo as module
from minqwen.alignment.experience import make_experience, observe, take
from minqwen.alignment.learned import Learned
from minqwen.alignment.policy_update import policy_gradient, update_policy
from minqwen.alignment.ppo_metrics import PANELS, metrics_of
from minqwen.alignment.reward_scaling import new_reward_stats
from minqwen.alignment.rollout import as_lists
from minqwen.alignment.score import RewardModelScore
from minqwen.alignment.start_params import params_fingerprint
from minqwen.alignment.value_update import update_value, value_gradient
from minqwen.model.backbone import backbone_forward
from minqwen.model.checkpoint import load_checkpoint
from minqwen.params import count
from minqwen.training.accumulate import as_batch, evaluate, loss_and_grads


def step(now=None, queries=QUERIES, **changes):
    """One step; returns the next state and the glass."""
    options = {"ptx_rows": TEXT, "eos_token_ids": [END], "pad_id": PAD}
    now = now or start()
    reference = changes.pop("reference", policy_params())
    function = changes.pop("score", score)
    return ppo_step.ppo_step(now, reference, queries, function, settings(**changes), **options)


def two_steps(**changes):
    """A second step, after a first one that moved both models."""
    changes = {"value_warmup_steps": 0, "policy_lr": 0.05, **changes}
    now, _ = step(**changes)
    return (now, *step(now, **changes))


def different(one, two):
    return params_fingerprint(one) != params_fingerprint(two)


def nudged(params, size=0.05, seed=8):
    rng = np.random.default_rng(seed)
    return {key: w + size * rng.standard_normal(w.shape) for key, w in params.items()}


def assert_slopes(loss, params, grads, size=1e-6):
    """The slope of the loss along three random directions of each parameter is the gradient's."""
    rng = np.random.default_rng(0)
    for key, w in params.items():
        for _ in range(3):
            direction, old = rng.standard_normal(w.shape), w.copy()
            w += size * direction
            up = loss()
            w[...] = old - size * direction
            down = loss()
            w[...] = old
            slope = float((grads[key] * direction).sum())
            assert (up - down) / (2 * size) == pytest.approx(slope, rel=1e-5, abs=1e-8), key


def test_a_fresh_policy_is_its_reference_and_itself():
    """With dropout in the config, top-p below 1 and a temperature: ratio 1 and KL 0, exactly."""
    _, glass = step(value_warmup_steps=0, temperature=0.6)
    seen = glass.experience.observed
    np.testing.assert_array_equal(seen.logprobs, seen.ref_logprobs)
    assert (glass.policy_updates[0].numbers.ratio == 1).all()
    row = metrics_of(glass, 1, settings())
    assert row["kl"] == row["kl_token"] == row["clip_fraction"] == row["approx_kl"] == 0
    assert row["ratio"] == 1


def test_minibatches_of_a_fresh_policy_have_ratio_one_until_it_has_moved():
    _, glass = step(value_warmup_steps=0, minibatches=3, epochs=2, policy_lr=0.05)
    ratios = [update.numbers.ratio for update in glass.policy_updates]
    np.testing.assert_allclose(ratios[0], 1, atol=1e-12)
    assert all(np.abs(ratio - 1).max() > 1e-3 for ratio in ratios[1:])


def test_each_row_is_used_once_in_each_epoch():
    _, glass = step(value_warmup_steps=0, minibatches=3, epochs=2)
    for updates in (glass.policy_updates, glass.value_updates):
        orders = [np.concatenate([u.rows for u in updates[e : e + 3]]).tolist() for e in (0, 3)]
        assert sorted(orders[0]) == sorted(orders[1]) == list(range(6))
        assert orders[0] != orders[1]
    order = [u.rows.tolist() for u in glass.policy_updates]
    assert order == [u.rows.tolist() for u in glass.value_updates]


def test_the_order_of_the_numbers():
    """Scores, penalty, mean, KL, GAE, whitening: what enters where."""
    now, _, glass = two_steps(missing_end_penalty=0.5, kl_coef=0.1, minibatches=2)
    e = glass.experience
    queries, answers = as_lists(e.rollout)
    np.testing.assert_array_equal(e.scores, score(queries, answers))
    assert 0 < e.rollout.ended.sum() < 6
    np.testing.assert_allclose(e.penalised, e.scores - 0.5 * ~e.rollout.ended)
    mean = (now.stats["mean"] * 6 + e.penalised.sum()) / 12
    np.testing.assert_allclose(e.normalised, e.penalised - mean)
    log_ratio = np.where(e.rollout.mask, e.observed.logprobs - e.observed.ref_logprobs, 0)
    assert np.abs(log_ratio).max() > 0.01
    extra = e.rewards + 0.1 * log_ratio
    for row, mask, found in zip(extra, e.rollout.mask, e.normalised, strict=True):
        places = np.flatnonzero(np.abs(row) > 1e-12)
        assert places.tolist() == [mask.sum() - 1]  # the one that is not KL, at the last token
        assert row[places[0]] == pytest.approx(found)
    mask = e.rollout.mask
    np.testing.assert_allclose((e.returns - e.observed.values)[mask], e.raw_advantages[mask])
    assert e.advantages[mask].mean() == pytest.approx(0, abs=1e-12)
    assert e.advantages[mask].std() == pytest.approx(1, abs=1e-6)
    assert not e.advantages[~mask].any()


def test_replaced_scores_and_no_whitening():
    now, glass = step(missing_end="replace", missing_end_penalty=2.0, whiten_advantages=False)
    e = glass.experience
    np.testing.assert_array_equal(e.penalised, np.where(e.rollout.ended, e.scores, -2.0))
    np.testing.assert_array_equal(e.advantages, e.raw_advantages)
    assert now.stats["mean"] == pytest.approx(e.penalised.mean())


def test_scaled_rewards_and_another_estimator():
    _, _, glass = two_steps(scale_rewards=True, kl_estimator="k3", kl_coef=0.1)
    e, mask = glass.experience, glass.experience.rollout.mask
    now, first = step(value_warmup_steps=0, policy_lr=0.05, scale_rewards=True)
    both = np.concatenate([first.experience.penalised, e.penalised])
    assert now.stats["count"] == 6
    np.testing.assert_allclose(e.normalised, (e.penalised - both.mean()) / both.std(), rtol=1e-6)
    d = np.where(mask, e.observed.logprobs - e.observed.ref_logprobs, 0)
    extra = e.rewards + 0.1 * (np.exp(-d) - 1 + d)
    assert ((np.abs(extra) > 1e-12).sum(axis=1) == 1).all()  # the score alone is left


def test_the_running_mean_goes_on():
    now, seen = start(), []
    for _ in range(3):
        now, glass = step(now)
        seen.append(glass.experience.penalised)
    assert now.stats["count"] == 18
    assert now.stats["mean"] == pytest.approx(np.concatenate(seen).mean())


def test_while_the_value_model_is_warmed_up_the_policy_does_not_change():
    now = start()
    policies, values = [params_fingerprint(now.policy.params)], [now.value.params]
    for _ in range(4):
        now, glass = step(now, value_warmup_steps=2)
        policies.append(params_fingerprint(now.policy.params))
        assert different(values[-1], now.value.params)
        values.append(now.value.params)
        assert len(glass.value_updates) == 1
    assert policies[0] == policies[1] == policies[2]
    assert len(set(policies)) == 3
    assert now.policy.state["step"] == 2
    assert now.value.state["step"] == 4


def test_each_step_draws_its_own_numbers_and_takes_its_own_queries():
    changes, answers, asked, now = {"value_warmup_steps": 9}, [], [], start()
    for seed in (0, 0, 1):  # the policy does not move
        after, glass = step(now, [[3, 4]], seed=seed, **changes)
        answers.append(as_lists(glass.experience.rollout)[1])
        now = after if seed == 0 and len(answers) < 2 else now
    assert answers[0] != answers[1] != answers[2] != answers[0]
    now = start()
    for _ in range(5):
        now, glass = step(now, **changes)
        asked += as_lists(glass.experience.rollout)[0][::2]
    assert sorted(asked) == sorted(QUERIES * 3)  # 5 steps of 3 queries: each of 5 three times


def test_a_step_changes_none_of_its_arguments():
    now, reference = start(), policy_params()
    before = [params_fingerprint(x) for x in (now.policy.params, now.value.params, reference)]
    text = TEXT.copy()
    after, _ = step(now, value_warmup_steps=0, reference=reference, ptx_coef=1.0, epochs=2)
    assert before == [
        params_fingerprint(x) for x in (now.policy.params, now.value.params, reference)
    ]
    assert now.step == now.policy.state["step"] == now.stats["count"] == 0
    for model in (now.policy, now.value):
        assert not any(m.any() for m in model.state["m"].values())
    np.testing.assert_array_equal(TEXT, text)
    assert different(after.policy.params, now.policy.params)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_policy_gradient_is_that_of_the_loss(temperature):
    """Central differences of the whole loss, with tokens on both sides of the clip."""
    s = settings(
        value_warmup_steps=0,
        temperature=temperature,
        ptx_coef=0.4,
        entropy_coef=0.3,
        cliprange=0.1,
    )
    _, glass = step(value_warmup_steps=0, temperature=temperature)
    config = WIDE
    policy = Learned(config, nudged(policy_params()), {"step": 0, "m": {}, "v": {}})
    _, _, grads, numbers = policy_gradient(policy, glass.experience, s, TEXT[:2])
    assert 0.1 < float(numbers.clip_fraction) < 0.9

    def loss():
        found, ptx_loss, _, _ = policy_gradient(policy, glass.experience, s, TEXT[:2])
        return found + 0.4 * ptx_loss

    assert_slopes(loss, policy.params, grads)


def test_the_value_gradient_is_that_of_the_loss():
    s = settings(cliprange_value=0.05)
    _, glass = step()
    config, params = value_model()
    value = Learned(config, nudged(params), {"step": 0, "m": {}, "v": {}})
    _, grads, numbers = value_gradient(value, glass.experience, s)
    assert 0.1 < float(numbers.clip_fraction) < 0.9
    assert_slopes(lambda: value_gradient(value, glass.experience, s)[0], value.params, grads)


def test_more_padding_gives_the_same_update():
    now, s = start(), settings(value_warmup_steps=0, entropy_coef=0.1)
    _, glass = step(now, value_warmup_steps=0, entropy_coef=0.1)
    e = glass.experience
    one, _ = ppo_step.learn(now, policy_params(), e.rollout, e.scores, s)
    wide = more_padding(e.rollout, 2, 3)
    two, other = ppo_step.learn(now, policy_params(), wide, e.scores, s)
    for model, same in ((one.policy, two.policy), (one.value, two.value)):
        for key in model.params:
            np.testing.assert_allclose(same.state["m"][key], model.state["m"][key], atol=1e-12)
    row, same = metrics_of(glass, 1, s), metrics_of(other, 1, s)
    assert row.keys() == same.keys()
    for key in row:
        assert same[key] == pytest.approx(row[key], abs=1e-10), key


def test_what_the_first_update_is_handed_is_what_it_would_compute():
    now, s = start(), settings(ptx_coef=0.5)
    _, glass = step(now)
    e = glass.experience
    models = (WIDE, now.policy.params), policy_params(), now.value[:2]
    _, first = observe(e.rollout, *models, s)
    rows = np.arange(6)
    for update, model, known in (
        (update_policy, now.policy, first.logits),
        (update_value, now.value, first.values),
    ):
        more = (TEXT,) if update is update_policy else ()
        one, _ = update(model, e, rows, s, *more)
        two, _ = update(model, e, rows, s, *more, known=known)
        assert not different(one.params, two.params)
        assert different(one.params, model.params)


def test_two_epochs_read_the_models_again():
    """The second update must see the policy that the first one left."""
    _, glass = step(value_warmup_steps=0, epochs=2, policy_lr=0.05, value_lr=0.05)
    one, two = glass.policy_updates
    assert (one.numbers.ratio == 1).all()
    assert np.abs(two.numbers.ratio - 1).max() > 0.01
    assert (glass.value_updates[0].numbers.error != glass.value_updates[1].numbers.error).any()


def test_the_pretraining_gradient_is_added_times_its_coefficient():
    now, _, glass = two_steps()
    e, policy = glass.experience, now.policy
    _, none, plain, _ = policy_gradient(policy, e, settings(ptx_coef=0.5))
    _, loss, mixed, _ = policy_gradient(policy, e, settings(ptx_coef=0.5), TEXT[:3])
    still = dataclasses.replace(WIDE, dropout=0.0)
    expected, grads, *_ = loss_and_grads(policy.params, still, [as_batch(TEXT[:3])])
    assert none is None
    assert loss == expected
    for key in plain:
        np.testing.assert_allclose(mixed[key], plain[key] + 0.5 * grads[key], atol=1e-14)
    assert loss_and_grads(policy.params, WIDE, [as_batch(TEXT[:3])]).loss != expected  # dropout


def test_each_policy_update_takes_its_own_rows_of_text(monkeypatch):
    from minqwen.alignment import policy_update

    taken = []

    def seen(params, config, batches):
        taken.append(batches[0].input_ids.tolist())
        return loss_and_grads(params, config, batches)

    monkeypatch.setattr(policy_update, "loss_and_grads", seen)
    changes = {"value_warmup_steps": 1, "epochs": 2, "ptx_coef": 1.0, "ptx_batch_size": 3}
    now, _ = step(**changes)
    assert not taken
    step(now, **changes)
    assert len(taken) == 2
    rows = {tuple(row) for batch in taken for row in batch}
    assert rows <= {tuple(row) for row in TEXT[:, :-1].tolist()}
    assert len(rows) == 6  # of seven rows, none twice


def test_pretraining_keeps_the_loss_on_text_down(tmp_path):
    losses = []
    for coef in (0.0, 2.0):
        params = run(tmp_path / str(coef), steps=12, ptx_coef=coef)
        losses.append(evaluate(params, WIDE, TEXT, 7).loss)
    assert losses[1] < losses[0] - 0.2


def test_it_learns_what_is_rewarded(tmp_path):
    run(tmp_path, steps=36, batch_size=8, policy_lr=0.03, missing_end_penalty=0.0, kl_coef=0.0)
    rewards = [row["reward"] for row in metrics(tmp_path)]
    assert np.mean(rewards[:3]) < 0.1
    assert np.mean(rewards[-3:]) > 0.9


def test_a_price_on_divergence_keeps_it_small(tmp_path):
    last = {}
    for kl_coef in (0.0, 1.0):
        changes = {"steps": 36, "policy_lr": 0.03, "missing_end_penalty": 0.0}
        run(tmp_path / str(kl_coef), kl_coef=kl_coef, batch_size=8, **changes)
        last[kl_coef] = np.mean([row["kl"] for row in metrics(tmp_path / str(kl_coef))[-6:]])
    assert -1 < last[1.0] < 4 < 15 < last[0.0]


def test_metrics_say_what_happened():
    _, _, glass = two_steps(ptx_coef=0.5, epochs=2, missing_end_penalty=0.25)
    s = settings(kl_coef=0.04)
    row, e = metrics_of(glass, 2, s), glass.experience
    mask = e.rollout.mask
    kl = [(a - b)[m].sum() for a, b, m in zip(*e.observed[:2], mask, strict=True)]
    assert row["step"] == 2
    assert row["reward"] == pytest.approx(e.scores.mean())
    assert row["penalised_reward"] == pytest.approx(e.penalised.mean()) != row["reward"]
    assert row["kl"] == pytest.approx(np.mean(kl))
    assert row["kl_token"] == pytest.approx(np.sum(kl) / mask.sum())
    assert row["objective"] == pytest.approx(row["penalised_reward"] - 0.04 * np.mean(kl))
    assert row["entropy"] == pytest.approx(e.observed.entropy[mask].mean())
    assert row["length"] == mask.sum() / 6
    assert row["ended"] == e.rollout.ended.mean()
    assert row["tokens"] == mask.sum()
    assert row["advantage_std"] == pytest.approx(e.raw_advantages[mask].std())
    assert row["value_loss"] == pytest.approx(np.mean([u.loss for u in glass.value_updates]))
    assert row["ptx_loss"] == pytest.approx(np.mean([u.ptx_loss for u in glass.policy_updates]))
    assert row["loss"] == pytest.approx(np.mean([u.loss for u in glass.policy_updates]))
    clip = [float(u.numbers.clip_fraction) for u in glass.policy_updates]
    assert clip[1] > 0 == clip[0]
    assert row["clip_fraction"] == pytest.approx(np.mean(clip))
    assert row["approx_kl"] > 0
    assert row["grad_norm"] == pytest.approx(np.mean([u.grad_norm for u in glass.policy_updates]))
    spread = (e.returns - e.observed.values)[mask].var() / e.returns[mask].var()
    assert row["explained_variance"] == pytest.approx(max(-1, 1 - spread))
    json.dumps(row, allow_nan=False)
    assert {key for _, _, keys in PANELS for key in keys} <= row.keys() | {"validation_loss"}


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_objective_has_the_price_that_was_paid(estimator):
    _, _, glass = two_steps(kl_estimator=estimator, kl_coef=0.1)
    e, row = glass.experience, metrics_of(glass, 2, settings(kl_estimator=estimator, kl_coef=0.1))
    paid = e.rewards.sum() - e.normalised.sum()  # all but the scores
    assert abs(paid) > 0.01
    assert row["objective"] == pytest.approx(row["penalised_reward"] + paid / 6)


def test_an_end_that_the_score_does_not_know_is_missing(tmp_path):
    """Tokens 3 to 6 stop an answer as END does, but are no end."""
    rows, stops = [], [END, 3, 4, 5, 6]
    for name, ends in (("all", None), ("one", [END])):
        both = {"eos_token_ids": stops, "end_token_ids": ends}
        run(tmp_path / name, steps=1, batch_size=8, options=both)
        rows.append(metrics(tmp_path / name)[0])
    assert rows[0]["reward"] == rows[1]["reward"]
    assert rows[0]["length"] == rows[1]["length"]
    assert rows[0]["ended"] > rows[1]["ended"]
    for row in rows:
        lowered = row["reward"] - (1 - row["ended"])
        assert row["penalised_reward"] == pytest.approx(lowered)
    for ends in ([], [END], [7]):
        both = {"eos_token_ids": stops, "end_token_ids": ends}
        with pytest.raises(ValueError, match="end_token_ids"):  # impossible, or another run
            run(tmp_path / "all", steps=1, batch_size=8, options=both)


def test_while_warmed_up_metrics_leave_the_policys_updates_out():
    _, glass = step(ptx_coef=0.5)
    row = metrics_of(glass, 1, settings())
    assert row["loss"] == pytest.approx(0, abs=1e-12)  # minus the mean of whitened advantages
    assert not {"clip_fraction", "ratio", "grad_norm", "ptx_loss"} & row.keys()


def test_a_reward_model_scores_at_the_last_token():
    config, params = value_model()
    queries, answers = [[3, 4, 5], [6], [7, 7]], [[8, END], [9, 9, 9, END], [4, 4, 4]]
    found = RewardModelScore(config, params, PAD, batch_size=2)(queries, answers)
    for query, ids, reward in zip(queries, answers, found, strict=True):
        hidden, _ = backbone_forward(params, config, np.array([[*query, *ids]]))
        assert reward == pytest.approx(hidden[0, -1] @ params["score.weight"][0], abs=1e-12)
    with pytest.raises(ValueError, match="logits, not a score"):
        RewardModelScore(WIDE, policy_params(), PAD)(queries, answers)


def test_learns_on_the_device_as_on_the_host(monkeypatch):
    now, s = start("float32"), settings(value_warmup_steps=0, entropy_coef=0.1, minibatches=2)
    reference = policy_params("float32", seed=9)
    _, glass = step(now, reference=reference)
    rolled, scores = glass.experience.rollout, glass.experience.scores
    host, host_glass = ppo_step.learn(now, reference, rolled, scores, s)
    for update in (*host_glass.policy_updates, *host_glass.value_updates):
        assert {g.dtype for g in update.grads.values()} == {np.dtype("float32")}
    install(monkeypatch)

    def there(params):
        return {key: to_fake(w) for key, w in params.items()}

    def move(model):
        m, v = there(model.state["m"]), there(model.state["v"])
        return Learned(model.config, there(model.params), {"step": 0, "m": m, "v": v})

    moved = now._replace(policy=move(now.policy), value=move(now.value))
    device, device_glass = ppo_step.learn(moved, there(reference), rolled, scores, s)
    assert metrics_of(device_glass, 1, s).keys() == metrics_of(host_glass, 1, s).keys()
    for model, same in ((host.policy, device.policy), (host.value, device.value)):
        for key, w in model.params.items():
            np.testing.assert_allclose(from_fake(same.params[key]), w, rtol=1e-4, atol=1e-5)


def test_a_run_is_the_steps_by_hand(tmp_path):
    params = run(tmp_path, ptx_coef=0.3, steps=3)
    now, changes = start("float32"), {"ptx_coef": 0.3, "steps": 3, "dtype": "float32"}
    for _ in range(3):
        now, glass = step(now, reference=policy_params("float32"), **changes)
    assert not different(params, now.policy.params)
    last = metrics_of(glass, 3, settings(**changes))
    assert metrics(tmp_path)[-1] == json.loads(json.dumps(last))


def test_the_checkpoint_opens_like_any_other(tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            (folder / "tokenizer.json").write_text("{}", encoding="utf-8")

    start_params = policy_params("float32")
    before = params_fingerprint(start_params)
    params = run(tmp_path, options={"tokenizer": Tokenizer(), "params": start_params})
    assert params_fingerprint(start_params) == before
    config, loaded = load_checkpoint(tmp_path / "checkpoint")
    assert config.dropout == WIDE.dropout
    assert not different(loaded, params)
    assert {w.dtype for w in loaded.values()} == {np.dtype("float32")}
    value_config, value_params = load_checkpoint(tmp_path / "checkpoint" / "value")
    assert value_config.num_labels == 1
    assert different(value_params, value_model("float32")[1])
    assert (tmp_path / "checkpoint" / "tokenizer.json").is_file()


@pytest.mark.parametrize("at", [0, 1, 2, 3])
@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_the_last_complete_step(tmp_path, monkeypatch, at, how):
    changes = {"epochs": 2, "minibatches": 2, "ptx_coef": 0.5}
    calls, real = [], learned.apply_adamw

    def interrupted(*args, **options):
        calls.append(0)
        if len(calls) == 1 + 4 * at + 4 * max(0, at - 1):  # within the first update of this step
            signal.raise_signal(signal.SIGINT if how is KeyboardInterrupt else signal.SIGTERM)
        real(*args, **options)

    monkeypatch.setattr(learned, "apply_adamw", interrupted)
    with pytest.raises(how):
        run(tmp_path / "run", **changes)
    noted = json.loads((tmp_path / "run" / "checkpoint" / "ppo.json").read_text(encoding="utf-8"))
    assert noted["step"] == at
    assert noted["scores"]["count"] == 6 * at
    monkeypatch.undo()
    run(tmp_path / "run", **changes)
    run(tmp_path / "whole", **changes)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    one, two = files(tmp_path / "run"), files(tmp_path / "whole")
    assert one.keys() == two.keys()
    assert sum(name.endswith("score.weight") for name in one) == 2  # AdamW of the value model
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_a_finished_run_can_be_made_longer(tmp_path):
    run(tmp_path / "run", steps=2)
    run(tmp_path / "run", steps=4)
    run(tmp_path / "whole", steps=4)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": policy_params("float32", seed=5)}, "has another start_model"),
        ({"value_params": value_model("float32", seed=5)[1]}, "has another value_model"),
        ({"ptx_rows": TEXT[:4]}, "has another ptx_rows"),
        ({"queries": QUERIES[:4]}, "was trained on other rows"),
        ({"eos_token_ids": [1]}, "has another eos_token_ids"),
        ({"also_same": {"reward_model": "b"}}, "has another reward_model"),
        ({"settings": settings(dtype="float32", kl_coef=0.5)}, "settings.kl_coef = 0.04, not 0.5"),
    ],
)
def test_another_run_is_refused_by_name(tmp_path, options, message):
    run(tmp_path, steps=4, options={"also_same": {"reward_model": "a"}})
    with pytest.raises(ValueError, match=message):
        run(tmp_path, steps=4, options={"also_same": {"reward_model": "a"}} | options)


def test_damaged_files_are_named(tmp_path):
    run(tmp_path)
    for name in ("ppo.json", "value/state.npz", "state.npz"):
        path = tmp_path / "checkpoint" / name
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match=r"is corrupt or cut off") as error:
            run(tmp_path)
        assert str(path) in str(error.value)
        path.write_bytes(data)
    run(tmp_path)
    (tmp_path / "checkpoint" / "ppo.json").unlink()
    with pytest.raises(ValueError, match=r"not of a run of PPO, it has no ppo\.json"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"step": 4', '"step": 1e400'),
        ('"step": 4', '"step": -2'),
        ('"step": 4', '"step": 4.0'),
        ('"step": 4', '"step": true'),
        ('"mean": ', '"mean": NaN, "was": '),
        ('"mean": ', '"mean": 1e400, "was": '),
        ('"mean": ', f'"mean": 1{"0" * 400}, "was": '),
        ('"count": ', '"count": -1, "was": '),
        ('"mean": ', '"was": '),
    ],
)
def test_impossible_numbers_of_a_checkpoint_are_a_damaged_file(tmp_path, old, new):
    run(tmp_path)
    path = tmp_path / "checkpoint" / "ppo.json"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=r"ppo\.json is corrupt or cut off: "):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": value_model()[0]}, "the policy needs logits"),
        ({"value_config": WIDE}, "the value model needs a score head"),
        ({"value_params": policy_params("float32")}, "do not fit the config"),
        ({"eos_token_ids": []}, "must name at least one token"),
        ({"eos_token_ids": [11]}, r"eos_token_ids must be in \[0, V=11\), got 11"),
        ({"pad_id": -1}, r"pad_id must be in \[0, V=11\), got -1"),
        ({"queries": [[1], [99]]}, r"queries\[1\] must be in"),
        ({"ptx_rows": TEXT + 20}, "ptx_rows holds ids from"),
        ({"ptx_rows": None}, "ptx_coef=0.5 needs ptx_rows"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", ptx_coef=0.5, options=options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("found", "kind", "message"),
    [
        (np.array([0.0] * 5 + [np.nan]), FloatingPointError, "the scores of step 1 hold NaN"),
        (np.zeros(5), ValueError, r"scores must have shape \(B=6\), got \(5,\)"),
        (np.zeros((6, 1)), ValueError, r"scores must have shape \(B=6\), got \(6, 1\)"),
    ],
)
def test_scores_are_checked(tmp_path, found, kind, message):
    with pytest.raises(kind, match=message):
        run(tmp_path, options={"score": lambda queries, answers: found})
    load_checkpoint(tmp_path / "checkpoint")


def test_a_loss_that_is_not_finite_names_its_model_and_the_last_checkpoint(tmp_path, monkeypatch):
    real = ppo_step.update_value

    def broken(value, *args):
        if value.state["step"] == 3:
            params = {**value.params, "score.weight": value.params["score.weight"] * math.inf}
            value = value._replace(params=params)
        return real(value, *args)

    monkeypatch.setattr(ppo_step, "update_value", broken)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError) as error:
        run(tmp_path, minibatches=2)
    assert str(error.value).startswith("value model: the loss of step 4 is ")
    assert "the last checkpoint, of step 0, is in" in str(error.value)


def test_evaluate_is_asked_now_and_then(tmp_path):
    seen = []

    def look(params):
        seen.append(count(params))
        return {"validation_loss": 1.5, "true_reward": 0.25}

    run(tmp_path, eval_every=2, options={"evaluate": look})
    found = [row for row in metrics(tmp_path) if "true_reward" in row]
    assert [row["step"] for row in found] == [0, 2, 4]
    assert len(seen) == 3
    with pytest.raises(ValueError, match=r"evaluate must return validation_loss too, got \['a'\]"):
        run(tmp_path / "other", eval_every=2, options={"evaluate": lambda params: {"a": 1.0}})


def test_pictures_are_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(module, "plot_metrics", lambda folder, panels: drawn.append(panels))
    run(tmp_path, options={"plot": True})
    assert drawn == [PANELS] * 2  # at the first checkpoint and at the end


def test_a_minibatch_takes_the_same_rows_of_everything():
    _, glass = step()
    rows = np.array([4, 1])
    part = take(glass.experience, rows)
    assert type(part) is type(glass.experience)
    np.testing.assert_array_equal(part.scores, glass.experience.scores[rows])
    np.testing.assert_array_equal(part.observed.values, glass.experience.observed.values[rows])
    assert as_lists(part.rollout)[1] == [as_lists(glass.experience.rollout)[1][i] for i in rows]


def test_experience_needs_a_score_for_each_answer():
    _, glass = step()
    e = glass.experience
    with pytest.raises(ValueError, match=r"scores must have shape \(B=6\)"):
        make_experience(e.rollout, e.scores[:2], e.observed, new_reward_stats(), settings())


def test_the_learner_counts_rollouts(tmp_path):
    run(tmp_path, steps=3, epochs=2, minibatches=2, checkpoint_every=3)
    with np.load(tmp_path / "checkpoint" / "state.npz") as state:
        assert int(state["step"]) == 2 * 4  # the policy's updates: of two of three steps
    with np.load(tmp_path / "checkpoint" / "value" / "state.npz") as state:
        assert int(state["step"]) == 3 * 4

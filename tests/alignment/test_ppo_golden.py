"""A whole step of PPO by hand, in plain Python numbers, and what our code makes of the same.

The models are tables. Their layers write nothing into the residual stream (o_proj and down_proj are
0) and every embedding has mean square 1, so the state after a token is its embedding, and the
logits after a token are a row of a table of 4 by 4:

    token   embedding                           row A   query 0       answer 2 1       ends
    0       ( 1,  1)                            row B   query 1 3     answer 2 0 2     does not
    1       ( 1, -1)   ends an answer
    2       (-1,  1)                            columns     A   . 0 2 1 .      . = padding
    3       (-1, -1)   is padding too                       B   1 3 2 0 2
"""

import math

import numpy as np
import pytest

from minqwen.alignment.experience import Experience
from minqwen.alignment.learned import Learned, begin
from minqwen.alignment.policy_update import policy_gradient
from minqwen.alignment.ppo_metrics import metrics_of
from minqwen.alignment.ppo_step import PpoState, learn
from minqwen.alignment.rollout import lay_out
from minqwen.alignment.settings import PpoSettings
from minqwen.alignment.value_update import value_gradient
from minqwen.model.config import QwenConfig, param_shapes

EMBEDDING = [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)]
POLICY = [(0.5, -0.2), (0.1, 0.3), (-0.4, 0.6), (0.2, 0.0)]  # lm_head: one row for each token
REFERENCE = [(0.4, 0.0), (0.1, 0.1), (-0.2, 0.5), (0.0, 0.0)]
VALUE = (0.3, -0.1)  # score.weight

# (token before, token chosen) of each answer
STEPS = {"A": [(0, 2), (2, 1)], "B": [(3, 2), (2, 0), (0, 2)]}
SCORES = {"A": 1.0, "B": 0.2}
KL_COEF, GAMMA, LAM, PENALTY, LR, VALUE_LR = 0.1, 0.9, 0.8, 0.5, 0.01, 0.02


def model(table, score=None):
    """A config and parameters that make the table."""
    config = QwenConfig(
        vocab_size=4,
        hidden_size=2,
        intermediate_size=3,
        num_hidden_layers=1,
        num_attention_heads=1,
        rms_norm_eps=1e-30,
        num_labels=0 if score is None else 1,
    )
    rng = np.random.default_rng(0)
    params = {key: rng.standard_normal(shape) for key, shape in param_shapes(config).items()}
    for key in params:
        if key.endswith(("o_proj.weight", "down_proj.weight")):
            params[key][...] = 0
        if key.endswith("norm.weight"):
            params[key][...] = 1
    params["model.embed_tokens.weight"] = np.array(EMBEDDING)
    if score is None:
        params["lm_head.weight"] = np.array(table)
    else:
        params["score.weight"] = np.array([score])
    return config, params


def probabilities(table, before):
    x, y = EMBEDDING[before]
    logits = [a * x + b * y for a, b in table]
    total = sum(math.exp(z) for z in logits)
    return [math.exp(z) / total for z in logits]


def value_of(before):
    return VALUE[0] * EMBEDDING[before][0] + VALUE[1] * EMBEDDING[before][1]


def by_hand():
    """Every number of the step, for each row a list over the tokens of its answer."""
    logprob, ref, value, entropy = {}, {}, {}, {}
    for row, steps in STEPS.items():
        logprob[row] = [math.log(probabilities(POLICY, before)[token]) for before, token in steps]
        ref[row] = [math.log(probabilities(REFERENCE, before)[token]) for before, token in steps]
        value[row] = [value_of(before) for before, _ in steps]
        entropy[row] = [
            -sum(p * math.log(p) for p in probabilities(POLICY, before)) for before, _ in steps
        ]

    penalised = {"A": SCORES["A"], "B": SCORES["B"] - PENALTY}  # B has no end token
    mean = (penalised["A"] + penalised["B"]) / 2  # these are the first scores
    normalised = {row: penalised[row] - mean for row in STEPS}

    reward = {
        row: [-KL_COEF * (a - b) for a, b in zip(logprob[row], ref[row], strict=True)]
        for row in STEPS
    }
    reward["A"][1] += normalised["A"]  # at the last token of each
    reward["B"][2] += normalised["B"]

    advantage = {}
    a, b = reward["A"], value["A"]
    last = a[1] + GAMMA * 0 - b[1]
    advantage["A"] = [(a[0] + GAMMA * b[1] - b[0]) + GAMMA * LAM * last, last]
    a, b = reward["B"], value["B"]
    last = a[2] + GAMMA * 0 - b[2]
    middle = (a[1] + GAMMA * b[2] - b[1]) + GAMMA * LAM * last
    advantage["B"] = [(a[0] + GAMMA * b[1] - b[0]) + GAMMA * LAM * middle, middle, last]
    returns = {
        row: [x + v for x, v in zip(advantage[row], value[row], strict=True)] for row in STEPS
    }

    five = advantage["A"] + advantage["B"]  # the tokens; the padding of A is none
    centre = sum(five) / 5
    spread = math.sqrt(sum((x - centre) ** 2 for x in five) / 5 + 1e-8)
    white = {row: [(x - centre) / spread for x in advantage[row]] for row in STEPS}
    return {
        "logprobs": logprob,
        "ref_logprobs": ref,
        "values": value,
        "entropy": entropy,
        "penalised": penalised,
        "normalised": normalised,
        "rewards": reward,
        "raw_advantages": advantage,
        "returns": returns,
        "advantages": white,
    }


def policy_loss_by_hand(table, old, advantage, cliprange):
    """The loss, the gradient of the table's numbers, and which of the five tokens are held."""
    loss, gradient, held = 0.0, [[0.0, 0.0] for _ in range(4)], []
    for row, steps in STEPS.items():
        for t, (before, token) in enumerate(steps):
            p, A = probabilities(table, before), advantage[row][t]
            ratio = math.exp(math.log(p[token]) - old[row][t])
            limited = min(max(ratio, 1 - cliprange), 1 + cliprange)
            loss += max(-A * ratio, -A * limited) / 5
            held.append(ratio > 1 + cliprange if A >= 0 else ratio < 1 - cliprange)
            dlogprob = 0.0 if held[-1] else -A * ratio / 5
            for v in range(4):
                dlogit = dlogprob * ((1 if v == token else 0) - p[v])
                gradient[v][0] += dlogit * EMBEDDING[before][0]
                gradient[v][1] += dlogit * EMBEDDING[before][1]
    return loss, gradient, held


def settings(**changes):
    values = {
        "batch_size": 2,
        "responses_per_query": 1,
        "value_warmup_steps": 0,
        "kl_coef": KL_COEF,
        "gamma": GAMMA,
        "lam": LAM,
        "missing_end_penalty": PENALTY,
        "policy_lr": LR,
        "value_lr": VALUE_LR,
        "max_norm": math.inf,
        "dtype": "float64",
    }
    return PpoSettings(**{**values, **changes})


@pytest.fixture
def stepped():
    """The next state and the glass of the step."""
    prompt, real = np.array([[3, 0], [1, 3]]), np.array([[False, True], [True, True]])
    rolled = lay_out(prompt, real, np.array([[2, 1, 0], [2, 0, 2]]), [1], pad_id=3)
    _, reference = model(REFERENCE)
    stats = {"count": 0.0, "mean": 0.0, "m2": 0.0}
    policy, value = begin(*model(POLICY), "float64"), begin(*model(None, VALUE), "float64")
    now = PpoState(0, policy, value, stats)
    return learn(now, reference, rolled, np.array([SCORES["A"], SCORES["B"]]), settings())


def rows(found):
    """Both rows of an array, without the padding of A."""
    return {"A": found[0, :2].tolist(), "B": found[1].tolist()}


def test_the_numbers_on_the_way(stepped):
    _, glass = stepped
    e, hand = glass.experience, by_hand()
    assert e.rollout.mask.tolist() == [[True, True, False], [True, True, True]]
    assert e.rollout.ended.tolist() == [True, False]
    for name in ("logprobs", "ref_logprobs", "values", "entropy"):
        found = rows(getattr(e.observed, name))
        for row in STEPS:
            assert found[row] == pytest.approx(hand[name][row], abs=1e-14), name
    for name in ("penalised", "normalised"):
        assert getattr(e, name).tolist() == pytest.approx([hand[name][row] for row in "AB"])
    for name in ("rewards", "raw_advantages", "returns", "advantages"):
        found = rows(getattr(e, name))
        for row in STEPS:
            assert found[row] == pytest.approx(hand[name][row], abs=1e-13), name
    for name in ("rewards", "raw_advantages", "advantages"):
        assert getattr(e, name)[0, 2] == 0  # the padding


def test_the_numbers_on_paper(stepped):
    """The same once more as digits, so that a change of both sides shows."""
    e = stepped[1].experience
    assert rows(e.observed.values)["B"] == pytest.approx([-0.2, -0.4, 0.2])
    assert e.normalised.tolist() == pytest.approx([0.65, -0.65])
    white = rows(e.advantages)
    assert rows(e.rewards)["A"] == pytest.approx([0.014280, 0.641501], abs=1e-6)
    assert rows(e.rewards)["B"] == pytest.approx([-0.015776, 0.041501, -0.635720], abs=1e-6)
    assert rows(e.returns)["A"] == pytest.approx([0.404161, 0.641501], abs=1e-6)
    assert rows(e.returns)["B"] == pytest.approx([-0.361532, -0.380217, -0.635720], abs=1e-6)
    assert white["A"] == pytest.approx([0.248336, 1.629802], abs=1e-6)
    assert white["B"] == pytest.approx([-0.354995, -0.055856, -1.467287], abs=1e-6)


def test_the_first_update_of_the_policy(stepped):
    """The ratio is 1, so nothing is clipped; AdamW's first step is lr in the sign's direction."""
    after, glass = stepped
    hand = by_hand()
    loss, gradient, held = policy_loss_by_hand(POLICY, hand["logprobs"], hand["advantages"], 0.2)
    update = glass.policy_updates[0]
    assert not any(held)
    assert update.loss == pytest.approx(loss, abs=1e-13) == pytest.approx(0, abs=1e-13)
    np.testing.assert_allclose(update.grads["lm_head.weight"], gradient, atol=1e-13)
    for v in range(4):
        for d in range(2):
            g = gradient[v][d]
            moved = POLICY[v][d] - LR * g / (math.sqrt(g * g) + 1e-8)
            assert after.policy.params["lm_head.weight"][v, d] == pytest.approx(moved, abs=1e-9)


def test_the_first_update_of_the_value_model(stepped):
    after, glass = stepped
    hand = by_hand()
    errors = [-A for row in "AB" for A in hand["raw_advantages"][row]]  # V - R
    gradient = [0.0, 0.0]
    for error, (before, _) in zip(errors, STEPS["A"] + STEPS["B"], strict=True):
        gradient[0] += error / 5 * EMBEDDING[before][0]
        gradient[1] += error / 5 * EMBEDDING[before][1]
    update = glass.value_updates[0]
    assert update.loss == pytest.approx(sum(x * x for x in errors) / 2 / 5, abs=1e-13)
    np.testing.assert_allclose(update.grads["score.weight"], [gradient], atol=1e-13)
    for d in range(2):
        moved = VALUE[d] - VALUE_LR * gradient[d] / (abs(gradient[d]) + 1e-8)
        assert after.value.params["score.weight"][0, d] == pytest.approx(moved, abs=1e-9)


def test_a_later_update_with_tokens_on_which_the_clip_acts(stepped):
    e, hand, c = stepped[1].experience, by_hand(), 0.25  # not the default
    table = [(0.5, -0.9), (-0.2, 0.8), (-1.0, 0.6), (0.6, 0.2)]  # where the policy may be then
    loss, gradient, held = policy_loss_by_hand(table, hand["logprobs"], hand["advantages"], c)
    config, params = model(table)
    policy = Learned(config, params, {"step": 1, "m": {}, "v": {}})
    found, _, grads, numbers = policy_gradient(policy, e, settings(cliprange=c))
    assert held == [False, True, False, True, True]  # A > 0 and too likely, A < 0 and too unlikely
    assert float(numbers.clip_fraction) == sum(held) / 5
    assert found == pytest.approx(loss, abs=1e-13)
    np.testing.assert_allclose(grads["lm_head.weight"], gradient, atol=1e-13)
    assert np.abs(gradient).max() > 0.01


def test_a_later_update_of_the_value_model_with_clipping(stepped):
    e, hand, c = stepped[1].experience, by_hand(), 0.12  # not the default
    w = (0.2, 0.1)
    loss, gradient, counted = 0.0, [0.0, 0.0], []
    for row, steps in STEPS.items():
        for t, (before, _) in enumerate(steps):
            x, y = EMBEDDING[before]
            old, R = hand["values"][row][t], hand["returns"][row][t]
            V = w[0] * x + w[1] * y
            limited = min(max(V, old - c), old + c)
            far, near = (V - R) ** 2, (limited - R) ** 2
            loss += max(far, near) / 2 / 5
            counted.append(abs(V - old) <= c or far > near)
            if counted[-1]:
                gradient[0] += (V - R) / 5 * x
                gradient[1] += (V - R) / 5 * y
    assert counted == [True, False, True, True, True]  # of two far away one goes the right way
    config, params = model(None, w)
    value = Learned(config, params, {"step": 1, "m": {}, "v": {}})
    found, grads, numbers = value_gradient(value, e, settings(cliprange_value=c))
    assert found == pytest.approx(loss, abs=1e-13)
    np.testing.assert_allclose(grads["score.weight"], [gradient], atol=1e-13)
    assert float(numbers.clip_fraction) == counted.count(False) / 5


def test_the_row_of_metrics(stepped):
    after, glass = stepped
    hand, row = by_hand(), metrics_of(glass, after.step, settings())
    kl = sum(hand["logprobs"]["A"] + hand["logprobs"]["B"])
    kl -= sum(hand["ref_logprobs"]["A"] + hand["ref_logprobs"]["B"])
    assert row["step"] == 1
    assert row["reward"] == pytest.approx((1.0 + 0.2) / 2)
    assert row["penalised_reward"] == pytest.approx((1.0 - 0.3) / 2)
    assert row["kl"] == pytest.approx(kl / 2)
    assert row["kl_token"] == pytest.approx(kl / 5)
    assert row["objective"] == pytest.approx(0.35 - KL_COEF * kl / 2)
    assert row["entropy"] == pytest.approx(sum(hand["entropy"]["A"] + hand["entropy"]["B"]) / 5)
    assert (row["length"], row["ended"], row["tokens"]) == (2.5, 0.5, 5)
    assert after.stats["mean"] == pytest.approx(0.35)
    assert isinstance(glass.experience, Experience)

"""A whole step of PPO against PyTorch: every number from the models to both gradients, float64.

The code here knows nothing of ours: each text goes through the models of transformers alone,
without padding; GAE and whitening are written again, from the papers; autograd finds the gradients.
"""

import numpy as np
import pytest
from helpers.models import random_params, small_config
from parity.oracle import float64_transformers, transformers_config, transformers_model

from minqwen.alignment.experience import make_experience, observe
from minqwen.alignment.learned import Learned
from minqwen.alignment.policy_update import policy_gradient
from minqwen.alignment.reward_scaling import new_reward_stats
from minqwen.alignment.rollout import as_lists, rollout
from minqwen.alignment.settings import PpoSettings
from minqwen.alignment.value_update import value_gradient

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
BOUND = 1e-9
CONFIG, VALUE_CONFIG = small_config(), small_config(num_labels=1)
QUERIES = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
TEXT = np.random.default_rng(5).integers(0, 61, (3, 9))
SCORES = np.array([0.3, -1.0, 2.0, 0.5, 0.0, 1.0])
SETTINGS = PpoSettings(
    batch_size=3,
    temperature=0.8,
    kl_coef=0.1,
    gamma=0.95,
    lam=0.9,
    cliprange=0.15,
    cliprange_value=0.1,
    entropy_coef=0.05,
    ptx_coef=0.7,
    missing_end_penalty=0.5,
    dtype="float64",
)


def near(params, seed, size):
    """The same parameters, moved a little."""
    rng = np.random.default_rng(seed)
    return {key: w + size * rng.standard_normal(w.shape) for key, w in params.items()}


OLD = {key: w * 0.5 for key, w in random_params(CONFIG, seed=0).items()}  # not too sure of itself
NEW, REFERENCE = near(OLD, 1, 0.04), near(OLD, 2, 0.02)
OLD_VALUE = random_params(VALUE_CONFIG, seed=3)
NEW_VALUE = near(OLD_VALUE, 4, 0.02)


@pytest.fixture(scope="module")
def answered():
    rolled = rollout(
        OLD,
        CONFIG,
        QUERIES,
        responses_per_query=2,
        max_new_tokens=7,
        temperature=0.8,
        top_p=0.9,
        eos_token_ids=range(0, 12),  # likely enough for answers of many lengths
        pad_id=3,
        rng=np.random.default_rng(0),
    )
    assert len(set(rolled.mask.sum(axis=1).tolist())) > 2
    assert 0 < rolled.ended.sum() < 6
    return rolled


@pytest.fixture(scope="module")
def ours(answered):
    observed, _ = observe(answered, (CONFIG, OLD), REFERENCE, (VALUE_CONFIG, OLD_VALUE), SETTINGS)
    return make_experience(answered, SCORES, observed, new_reward_stats(), SETTINGS)[0]


def log_softmaxes(model, texts):
    """For each text the (answer, V) log-probabilities at temperature, where tokens are chosen."""
    found = []
    for query, answer in texts:
        ids = torch.tensor([[*query, *answer]])
        logits = model(ids).logits[0, len(query) - 1 : -1] / SETTINGS.temperature
        found.append(torch.log_softmax(logits, dim=-1))
    return found


def chosen(found, texts):
    return [
        lp[torch.arange(len(answer)), torch.tensor(answer)]
        for lp, (_, answer) in zip(found, texts, strict=True)
    ]


def value_model(params):
    hf_config = transformers_config(VALUE_CONFIG)
    hf_config.pad_token_id = 3
    model = transformers.Qwen2ForSequenceClassification(hf_config).double().eval()
    model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in params.items()})
    return model


def values(model, texts):
    found = []
    for query, answer in texts:
        hidden = model.model(torch.tensor([[*query, *answer]])).last_hidden_state
        found.append(model.score(hidden)[0, len(query) - 1 : -1, 0])
    return found


def theirs(texts, ended):
    """Old log-probabilities and values, and what they are judged to be worth."""
    s = SETTINGS
    with torch.no_grad(), float64_transformers():
        old = chosen(log_softmaxes(transformers_model(CONFIG, OLD), texts), texts)
        ref = chosen(log_softmaxes(transformers_model(CONFIG, REFERENCE), texts), texts)
        V = values(value_model(OLD_VALUE), texts)
    scores = [x - s.missing_end_penalty * (not end) for x, end in zip(SCORES, ended, strict=True)]
    mean = sum(scores) / len(scores)
    advantages = []
    for lp, lq, v, x in zip(old, ref, V, scores, strict=True):
        reward = -s.kl_coef * (lp - lq)
        reward[-1] += x - mean
        n = len(reward)
        delta = [reward[t] + s.gamma * (v[t + 1] if t + 1 < n else 0) - v[t] for t in range(n)]
        advantages.append(
            torch.stack(
                [
                    sum((s.gamma * s.lam) ** (k - t) * delta[k] for k in range(t, n))
                    for t in range(n)
                ]
            )
        )
    returns = [a + v for a, v in zip(advantages, V, strict=True)]
    flat = torch.cat(advantages)
    white = [(a - flat.mean()) / (flat.var(correction=0) + 1e-8).sqrt() for a in advantages]
    return old, V, returns, white


def texts_of(rolled):
    return list(zip(*as_lists(rolled), strict=True))


def assert_close(found, expected, what=""):
    assert np.abs(found - expected).max() < BOUND * max(np.abs(expected).max(), 1e-3), what


def test_what_the_answers_are_judged_to_be_worth(ours, answered):
    old, V, returns, white = theirs(texts_of(answered), answered.ended)
    for name, found, expected in (
        ("logprobs", ours.observed.logprobs, old),
        ("values", ours.observed.values, V),
        ("returns", ours.returns, returns),
        ("advantages", ours.advantages, white),
    ):
        for b, row in enumerate(expected):
            assert_close(found[b][answered.mask[b]], row.numpy(), name)


def test_the_policy_gradient_with_clipping_entropy_and_pretraining(ours, answered):
    s, texts = SETTINGS, texts_of(answered)
    policy = Learned(CONFIG, NEW, {"step": 0, "m": {}, "v": {}})
    loss, ptx_loss, grads, numbers = policy_gradient(policy, ours, s, TEXT)
    assert 0.1 < float(numbers.clip_fraction) < 0.9

    old, _, _, white = theirs(texts, answered.ended)
    with float64_transformers():
        model = transformers_model(CONFIG, NEW)
        full = log_softmaxes(model, texts)
        new, entropy = chosen(full, texts), torch.cat([-(lp.exp() * lp).sum(-1) for lp in full])
        ratio = torch.exp(torch.cat(new) - torch.cat(old))
        A = torch.cat(white)
        worse = torch.maximum(-A * ratio, -A * ratio.clamp(1 - s.cliprange, 1 + s.cliprange))
        expected = worse.mean() - s.entropy_coef * entropy.mean()
        logits = model(torch.from_numpy(TEXT[:, :-1])).logits
        labels = torch.from_numpy(TEXT[:, 1:]).reshape(-1)
        language = torch.nn.functional.cross_entropy(logits.reshape(-1, 61), labels)
        (expected + s.ptx_coef * language).backward()
    assert loss == pytest.approx(expected.item(), rel=BOUND)
    assert ptx_loss == pytest.approx(language.item(), rel=BOUND)
    assert_close(numbers.ratio[answered.mask], ratio.detach().numpy())
    named = dict(model.named_parameters())
    assert grads.keys() == named.keys()
    for key, grad in grads.items():
        assert_close(grad, named[key].grad.numpy(), key)


def test_the_value_gradient_with_clipping(ours, answered):
    texts, c = texts_of(answered), SETTINGS.cliprange_value
    value = Learned(VALUE_CONFIG, NEW_VALUE, {"step": 0, "m": {}, "v": {}})
    loss, grads, numbers = value_gradient(value, ours, SETTINGS)
    assert 0.05 < float(numbers.clip_fraction) < 0.95

    _, V, returns, _ = theirs(texts, answered.ended)
    old, R = torch.cat(V), torch.cat(returns)
    with float64_transformers():
        model = value_model(NEW_VALUE)
        new = torch.cat(values(model, texts))
        limited = torch.maximum(torch.minimum(new, old + c), old - c)
        expected = torch.maximum((new - R) ** 2, (limited - R) ** 2).mean() / 2
        expected.backward()
    assert loss == pytest.approx(expected.item(), rel=BOUND)
    named = dict(model.named_parameters())
    assert grads.keys() == named.keys()
    for key, grad in grads.items():
        assert_close(grad, named[key].grad.numpy(), key)

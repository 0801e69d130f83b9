"""DPO against torch autograd through Qwen2ForCausalLM of transformers, float64."""

import numpy as np
import pytest
from alignment.small_pairs import EXPERTS, PAD, some_pairs
from helpers.models import random_params, small_config
from parity.oracle import float64_transformers, transformers_model

from minqwen.alignment.answer_logprobs import pair_logprobs
from minqwen.alignment.dpo import DpoStage
from minqwen.alignment.pair_training import pair_gradient
from minqwen.alignment.settings import DpoSettings

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
BOUND = 1e-9
PAIRS = some_pairs(5)


def logprobs(model, chats, reduction):
    """Of the answers, one chat at a time: no padding, no mask, nothing to get wrong."""
    found = []
    for ids, mask in chats:
        logits = model(torch.tensor([ids])).logits[0, :-1]
        per_token = torch.log_softmax(logits, dim=-1)
        labels, counted = torch.tensor(ids[1:]), torch.tensor(mask[1:])
        chosen = per_token.gather(1, labels[:, None])[:, 0][counted]
        found.append(chosen.sum() if reduction == "sum" else chosen.mean())
    return torch.stack(found)


@pytest.mark.parametrize(
    ("changes", "pieces", "reduction"),
    [
        ({}, 1, "mean"),
        ({}, 3, "sum"),
        ({"tie_word_embeddings": True}, 2, "sum"),
        ({**EXPERTS, "router_aux_loss_coef": 0.0}, 1, "sum"),
    ],
    ids=["mean", "pieces", "tied", "experts"],
)
def test_the_loss_of_a_step_and_every_gradient(changes, pieces, reduction):
    config = small_config(**changes)
    params, reference = random_params(config, seed=2), random_params(config, seed=3)
    chosen, rejected = zip(*PAIRS, strict=True)
    with float64_transformers():
        model, frozen = (transformers_model(config, p) for p in (params, reference))
        with torch.no_grad():
            known = [logprobs(frozen, chats, reduction) for chats in (chosen, rejected)]
        rewards = [
            0.3 * (logprobs(model, chats, reduction) - before)
            for chats, before in zip((chosen, rejected), known, strict=True)
        ]
        theirs = -torch.nn.functional.logsigmoid(rewards[0] - rewards[1]).mean()
        theirs.backward()
    ours = pair_logprobs(reference, config, PAIRS, PAD, reduction)
    for found, expected in zip(ours, known, strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=BOUND)
    settings = DpoSettings(beta=0.3, reduction=reduction)
    stage = DpoStage(config, settings, PAIRS, ours, None, None, PAD)
    row, grads = pair_gradient(params, stage, np.arange(5), pieces)
    assert row["loss"] == pytest.approx(theirs.item(), rel=BOUND)
    assert row["chosen_reward"] == pytest.approx(rewards[0].mean().item(), rel=BOUND)
    named = dict(model.named_parameters())
    assert grads.keys() == named.keys()
    for name, grad in grads.items():
        expected = named[name].grad.numpy()
        assert np.abs(grad - expected).max() < BOUND * np.abs(expected).max(), name

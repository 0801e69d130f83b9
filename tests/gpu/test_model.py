"""The whole model on the device: a pass and its gradients, the KV cache, generation."""

import numpy as np
import pytest
from gpu.device import assert_close
from helpers.models import random_params, small_config
from helpers.stages import CACHES, CHOICES, CONFIGS, padded_prompts

from minqwen.backend import array_module
from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.model.generate import generate
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_backward, language_model_forward

IDS = np.random.default_rng(1).integers(0, 61, (3, 12))
LONG_IDS = np.random.default_rng(2).integers(0, 61, (2, 150))  # more than one block of attention


def loss_and_gradient(params, config, ids, mask=None):
    logits, cache = language_model_forward(params, config, ids[:, :-1], attention_mask=mask)
    loss, loss_cache = cross_entropy_forward(logits, ids[:, 1:])
    return logits, loss, language_model_backward(cross_entropy_backward(1.0, loss_cache), cache)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["dense", "tied", "experts"])
def test_logits_loss_and_every_gradient(name, dtype, device):
    config = small_config(**CONFIGS[name])
    params = random_params(config, dtype=dtype)
    want = loss_and_gradient(params, config, IDS)
    found = loss_and_gradient(device.to(params), config, IDS)
    assert_close(device.back(found), want, device, dtype)


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_a_longer_text_is_the_same_to_rounding(name, device):
    config = small_config(**CONFIGS[name])
    params = random_params(config)
    want = loss_and_gradient(params, config, LONG_IDS)
    found = loss_and_gradient(device.to(params), config, LONG_IDS)
    # a GPU takes blocks of 1024 queries and the host of 64: not bit by bit on the fake either
    assert_close(device.back(found), want, device._replace(exact=False), "float64")


def test_padding(device):
    config = small_config()
    params, mask = random_params(config), np.ones((3, 11), dtype=bool)
    mask[0, 8:] = mask[1, :4] = False
    want = loss_and_gradient(params, config, IDS, mask)
    found = loss_and_gradient(device.to(params), config, IDS, mask)
    assert_close(device.back(found[2]), want[2], device, "float64")


@pytest.mark.parametrize("name", ["plain", "window", "YaRN", "dual chunks", "experts"])
def test_token_by_token_is_the_pass_over_the_whole_text(name, device):
    config = small_config(**CACHES[name])
    params = device.to(random_params(config))
    whole, _ = language_model_forward(params, config, IDS)
    cache = KVCache(config, 3, 12, like=params["model.norm.weight"])
    pieces = [
        language_model_forward(params, config, IDS[:, i:e], kv_cache=cache)[0]
        for i, e in ((0, 5), *((i, i + 1) for i in range(5, 12)))
    ]
    found = array_module(whole).concatenate(pieces, axis=1)
    whole, found = device.back((whole, found))
    assert np.abs(found - whole).max() < 1e-11 * np.abs(whole).max()


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CACHES)
def test_generation_gives_the_same_tokens(name, padded, choice, device):
    config = small_config(**CACHES[name])
    params, (ids, mask) = random_params(config), padded_prompts(padded)

    def run(params):
        rng = np.random.default_rng(0)
        return generate(
            params, config, ids, max_new_tokens=12, attention_mask=mask, rng=rng, **CHOICES[choice]
        )

    np.testing.assert_array_equal(run(device.to(params)), run(params))


def test_an_id_that_does_not_exist_is_refused(device):
    config = small_config()
    params = device.to(random_params(config))
    for ids in (IDS + 60, device.to(IDS + 60)):
        with pytest.raises(ValueError, match=r"ids must be in \[0, V=61\)"):
            language_model_forward(params, config, ids)

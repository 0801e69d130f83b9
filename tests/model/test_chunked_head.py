"""Head and loss in one: loss and gradients of the plain model, tied or not, with experts or not."""

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.model.chunked_head import chunked_head_backward, chunked_head_forward
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import (
    language_model_backward,
    language_model_forward,
    router_caches,
)

MOE = {
    "model_type": "qwen2_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}


@pytest.mark.parametrize("block", [None, 35])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, MOE])
def test_equals_the_plain_model(changes, block):
    config = small_config(**changes)
    params, rng = random_params(config), np.random.default_rng(0)
    ids, labels = rng.integers(0, 61, (2, 2, 7))
    labels[0, 2] = -100
    real, mask = np.ones((2, 7), dtype=bool), rng.random((2, 7)) < 0.7
    real[1, :2] = False
    logits, model = language_model_forward(params, config, ids, attention_mask=real)
    want, loss_cache = cross_entropy_forward(logits, labels, mask)
    loss, cache = chunked_head_forward(
        params, config, ids, labels, mask, attention_mask=real, block=block
    )
    routers = router_caches(model)
    back = [rng.standard_normal((14, 4)) for _ in routers] or None
    grads = chunked_head_backward(0.5, cache, back)
    plain = language_model_backward(cross_entropy_backward(0.5, loss_cache), model, back)
    assert len(router_caches(cache.backbone)) == len(routers)
    assert abs(loss - want) < 1e-12
    assert grads.keys() == plain.keys() == params.keys()
    for name in grads:
        np.testing.assert_allclose(grads[name], plain[name], atol=1e-12 * np.abs(plain[name]).max())


def test_errors():
    config = small_config()
    params, ids = random_params(config), np.zeros((1, 3), int)
    with pytest.raises(ValueError, match="no backward pass through kv_cache"):
        chunked_head_forward(
            params, config, ids, ids, kv_cache=KVCache(config, 1, 3, dtype="float64")
        )
    with pytest.raises(ValueError, match=r"labels must be in \[0, V=61\)"):
        chunked_head_forward(params, config, ids, ids + 61)
    config = small_config(num_labels=1)
    with pytest.raises(ValueError, match="gives a score, not logits"):
        chunked_head_forward(params, config, ids, ids)

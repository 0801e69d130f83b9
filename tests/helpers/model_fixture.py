"""Reads tests/fixtures/qwen2_small.npz and measures how far a model is from it."""

import functools
import json
import pathlib

import numpy as np

from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.model.config import QwenConfig
from minqwen.model.language_model import router_caches
from minqwen.model.router_loss import router_loss_backward, router_loss_forward

FILE = pathlib.Path(__file__).parent.parent / "fixtures" / "qwen2_small.npz"
MODELS = ("untied", "tied", "long", "moe", "qwen3_moe")


@functools.cache
def arrays():
    with np.load(FILE) as file:
        return dict(file)


def part(prefix):
    """Return what stands below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays().items() if k.startswith(prefix)}


def difference(ours, theirs):
    """Return the largest difference over the scale of theirs."""
    assert np.shape(ours) == np.shape(theirs)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def config_of(model):
    return QwenConfig.from_dict(json.loads(str(arrays()[f"{model}/config"])))


def forward(model, language_model_forward):
    """Run a model on the inputs of the file; return (logits, cache)."""
    return language_model_forward(
        part(f"{model}/params/"),
        config_of(model),
        arrays()["ids"],
        attention_mask=arrays()["mask"],
        positions=arrays()["positions"],
    )


def logits_error(model, language_model_forward):
    """Return how far the logits are off, padding left out."""
    mask, want = arrays()["mask"], arrays()[f"{model}/logits"]
    return difference(forward(model, language_model_forward)[0][mask], want[mask])


def loss_and_gradient_errors(model, language_model_forward, language_model_backward):
    """Return {"loss" and the name of every parameter: error}."""
    logits, cache = forward(model, language_model_forward)
    loss, loss_cache = cross_entropy_forward(logits, arrays()["labels"])
    dlogits, drouter_logits = cross_entropy_backward(1.0, loss_cache), None
    if routers := router_caches(cache):
        extra, _, extra_cache = router_loss_forward(
            routers, config_of(model).router_aux_loss_coef, arrays()["mask"], pool_layers=True
        )
        loss = loss + extra
        drouter_logits = router_loss_backward(1.0, extra_cache)
    grads = language_model_backward(dlogits, cache, drouter_logits)
    want = part(f"{model}/grads/")
    assert set(grads) == set(want)
    errors = {name: difference(grads[name], want[name]) for name in want}
    return {"loss": difference(loss, arrays()[f"{model}/loss"]), **errors}

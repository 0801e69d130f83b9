"""Reads tests/fixtures/qwen2_small.npz and measures how far a model is from it."""

import functools
import json
import pathlib

import numpy as np

from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.model.config import QwenConfig

FILE = pathlib.Path(__file__).parent.parent / "fixtures" / "qwen2_small.npz"
MODELS = ("untied", "tied", "long")


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


def forward(model, language_model_forward):
    """Run a model on the inputs of the file; return (logits, cache)."""
    config = QwenConfig.from_dict(json.loads(str(arrays()[f"{model}/config"])))
    return language_model_forward(
        part(f"{model}/params/"),
        config,
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
    grads = language_model_backward(cross_entropy_backward(1.0, loss_cache), cache)
    want = part(f"{model}/grads/")
    assert set(grads) == set(want)
    errors = {name: difference(grads[name], want[name]) for name in want}
    return {"loss": difference(loss, arrays()[f"{model}/loss"]), **errors}

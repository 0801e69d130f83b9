"""Logits and every gradient against transformers, in float64 and float32."""

import numpy as np
import pytest
from helpers.models import random_params, small_config
from parity.oracle import float64_transformers, transformers_model

from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.model.language_model import language_model_backward, language_model_forward

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
YARN_OF_4096 = {"rope_type": "yarn", "factor": 6.0, "original_max_position_embeddings": 4096}
WIDE = {"head_dim": 32, "rope_theta": 1e4, "max_position_embeddings": 32768}  # each key matters
CASES = {
    "gqa, head_dim not D / H": {},
    "tied": {"tie_word_embeddings": True},
    "mha": {"num_key_value_heads": 6},
    "mqa": {"num_key_value_heads": 1},
    "base 1e6, eps 1e-5": {"rope_theta": 1e6, "rms_norm_eps": 1e-5},
    "D / H": {"hidden_size": 36, "num_attention_heads": 6, "head_dim": 6},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "dynamic, 13 tokens of 5": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 3.0},
        "max_position_embeddings": 5,
    },
    "dynamic, short enough": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 3.0},
        "max_position_embeddings": 13,
    },
    "yarn": {"rope_scaling": YARN, "max_position_embeddings": 128},
    "yarn, attention factor": {
        "rope_scaling": {**YARN, "attention_factor": 1.7, "beta_fast": 5.0, "truncate": False},
        "max_position_embeddings": 128,
    },
    **{
        f"yarn, {key}": {**WIDE, "rope_scaling": YARN_OF_4096 | scaling}
        for key, scaling in {
            "mscale above": {"mscale": 2.0, "mscale_all_dim": 0.5},
            "mscale below": {"mscale": 0.5, "mscale_all_dim": 2.0},
            "attention factor below 1": {"attention_factor": 0.8},
            "beta_fast": {"beta_fast": 8.0},
            "beta_slow": {"beta_slow": 4.0},
            "truncate": {"truncate": False},
            "no factor": {"factor": None},
            "both names": {"type": "linear"},
        }.items()
    },
    "dynamic, windows": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 3.0},
        "max_position_embeddings": 5,
        "use_sliding_window": True,
        "sliding_window": 3,
        "max_window_layers": 1,
    },
    "windows from layer 1": {
        "use_sliding_window": True,
        "sliding_window": 3,
        "max_window_layers": 1,
    },
    "windows everywhere": {
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 0,
    },
    "layer types, yarn": {
        "use_sliding_window": True,
        "sliding_window": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": YARN,
        "max_position_embeddings": 128,
    },
}


def run_both(config, params, ids, labels, mask):
    """Return ours and theirs: logits, loss and gradients."""
    logits, cache = language_model_forward(params, config, ids, attention_mask=mask)
    loss, loss_cache = cross_entropy_forward(logits, labels, labels >= 0)
    grads = language_model_backward(cross_entropy_backward(1.0, loss_cache), cache)

    model = transformers_model(config, params)
    kwargs = {} if mask is None else {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
    if mask is not None:
        kwargs["position_ids"] = torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0))
    out = model(input_ids=torch.from_numpy(ids), **kwargs).logits
    their_loss = torch.nn.functional.cross_entropy(
        out.reshape(-1, out.shape[-1]), torch.from_numpy(labels).reshape(-1), ignore_index=-100
    )
    their_loss.backward()
    theirs = {n: p.grad.numpy() for n, p in model.named_parameters()}
    return (logits, loss, grads), (out.detach().numpy(), their_loss.item(), theirs)


def worst(ours, theirs):
    """The largest difference, over the scale of theirs."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def batch(padding, case=""):
    """Return ids, labels and a mask.

    Dynamic NTK: transformers takes the longest row's length for the whole batch, we take each
    row's own, so there all rows are of one length.
    """
    rng = np.random.default_rng(3)
    ids, labels = rng.integers(0, 61, (2, 3, 13))
    mask = None
    if padding:
        mask = np.ones((3, 13), dtype=bool)
        if padding == "left":
            mask[1, :5] = mask[2, :11] = False
        else:
            mask[1, 9:] = mask[2, 4:] = False
        if "dynamic" in case:
            mask[:] = mask[1]
        labels = np.where(mask, labels, -100)
    labels[0, 4] = -100
    return ids, labels, mask


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("case", CASES)
def test_float64(case, padding):
    config = small_config(**CASES[case])
    params = random_params(config)
    ids, labels, mask = batch(padding, case)
    with float64_transformers():
        (logits, loss, grads), (their_logits, their_loss, theirs) = run_both(
            config, params, ids, labels, mask
        )
    real = np.ones(ids.shape, dtype=bool) if mask is None else mask
    assert worst(logits[real], their_logits[real]) < 1e-9
    assert abs(loss - their_loss) < 1e-9 * abs(their_loss)
    assert set(grads) == set(theirs)
    errors = {name: worst(grads[name], theirs[name]) for name in grads}
    assert max(errors.values()) < 1e-9, max(errors.items(), key=lambda item: item[1])


@pytest.mark.parametrize(
    "case", ["gqa, head_dim not D / H", "tied", "yarn", "dynamic, 13 tokens of 5", "linear"]
)
def test_float32(case):
    config = small_config(**CASES[case])
    params = random_params(config, dtype="float32")
    ids, labels, mask = batch("left", case)
    (logits, loss, grads), (their_logits, their_loss, theirs) = run_both(
        config, params, ids, labels, mask
    )
    assert logits.dtype == np.float32
    assert worst(logits[mask], their_logits[mask]) < 1e-5
    assert abs(loss - their_loss) < 1e-5 * abs(their_loss)
    errors = {name: worst(grads[name], theirs[name]) for name in grads}
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def test_greedy_decoding_gives_the_same_tokens():
    from minqwen.model.generate import generate, left_pad

    config = small_config()
    params = random_params(config, dtype="float32")
    ids, mask = left_pad([[1, 2, 3, 4, 5, 6, 7], [8, 9]], pad_id=0)
    model = transformers_model(config, params)
    theirs = model.generate(
        torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    ours = generate(params, config, ids, attention_mask=mask, max_new_tokens=12)
    np.testing.assert_array_equal(ours, theirs.numpy())

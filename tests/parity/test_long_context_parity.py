"""Frequencies, temperature and gradients of long_context/ against transformers and PyTorch.

transformers computes frequencies in float32. `in_float64` runs the same lines in float64, so that
the comparison is one of formulas and not of rounding.
"""

import contextlib
import itertools

import numpy as np
import pytest

from minqwen.check.concepts import concept
from minqwen.layers.rope import rope_inv_freq, rope_tables
from minqwen.long_context.ntk import (
    continuous_ntk_alpha,
    dynamic_ntk_alpha,
    interpolated_inv_freq,
    ntk_inv_freq,
)
from minqwen.long_context.yarn import yarn_attention_factor, yarn_inv_freq, yarn_tables

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore"),  # transformers warns of factors that do not fit lengths
]
SHAPES = list(itertools.product((8, 64, 128), (1e4, 1e6), (64, 2048, 32768)))  # Dh, base, length


@contextlib.contextmanager
def in_float64():
    kept = torch.float, torch.float32
    torch.float = torch.float32 = torch.float64
    try:
        yield
    finally:
        torch.float, torch.float32 = kept


def hf_config(head_dim, base, length, **scaling):
    return transformers.Qwen2Config(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=length,
        rope_parameters={"rope_theta": base, **scaling},
    )


def theirs(config, **kwargs):
    """Return (inv_freq in float32, the same in float64, attention factor) of transformers."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rule = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]]
    low, _ = rule(config, **kwargs)
    with in_float64():
        high, factor = rule(config, **kwargs)
    assert (low.dtype, high.dtype) == (torch.float32, torch.float64)
    return low.numpy(), high.numpy(), factor


def assert_equal_frequencies(make, low, high):
    """`make` makes ours in a dtype. transformers' own float32 table is off by up to 2e-6."""
    np.testing.assert_allclose(make("float64"), high, rtol=1e-12)
    np.testing.assert_allclose(make("float32"), low, rtol=3e-6)
    np.testing.assert_array_equal(make("float32"), make("float64").astype(np.float32))


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0, 7.5])
@pytest.mark.parametrize(("head_dim", "base", "length"), SHAPES)
def test_linear(head_dim, base, length, factor):
    config = hf_config(head_dim, base, length, rope_type="linear", factor=factor)
    low, high, attention_factor = theirs(config)
    assert attention_factor == 1.0
    assert_equal_frequencies(
        lambda dtype: interpolated_inv_freq(head_dim, base, factor, dtype), low, high
    )


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0])
@pytest.mark.parametrize(("head_dim", "base", "length"), SHAPES)
def test_dynamic(head_dim, base, length, factor):
    config = hf_config(head_dim, base, length, rope_type="dynamic", factor=factor)
    for seq_len in (1, length, length + 1, 2 * length, 3 * length, 8 * length):
        low, high, attention_factor = theirs(config, seq_len=seq_len)
        assert attention_factor == 1.0
        alpha = continuous_ntk_alpha(seq_len, length, factor)
        assert_equal_frequencies(
            lambda dtype, a=alpha: ntk_inv_freq(head_dim, base, a, dtype), low, high
        )
        if factor == 2.0 and seq_len in (length, 2 * length, 8 * length):
            assert alpha == dynamic_ntk_alpha(seq_len, length)  # Qwen's staircase


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("factor", [1.0, 1.5, 4.0, 40.0])
@pytest.mark.parametrize(("head_dim", "base", "length"), SHAPES)
def test_yarn(head_dim, base, length, factor, truncate):
    scaling = {"factor": factor, "original_max_position_embeddings": length}
    for betas in ({}, {"beta_fast": 16.0, "beta_slow": 2.0}):
        config = hf_config(
            head_dim, base, length, rope_type="yarn", truncate=truncate, **scaling, **betas
        )
        low, high, attention_factor = theirs(config)
        assert abs(attention_factor - yarn_attention_factor(factor)) < 1e-15
        assert_equal_frequencies(
            lambda dtype, b=betas: yarn_inv_freq(
                head_dim, base, **scaling, **b, truncate=truncate, dtype=dtype
            ),
            low,
            high,
        )


@pytest.mark.parametrize(
    "explicit",
    [
        {"attention_factor": 1.0},
        {"attention_factor": 1.3},
        {"mscale": 0.707, "mscale_all_dim": 1.2},
        {"mscale": 1.0, "mscale_all_dim": 1.0},
        {"mscale": 0.707},
        {"mscale_all_dim": 0.707},
        {"mscale": 0.0, "mscale_all_dim": 0.707},
        {"attention_factor": 1.3, "mscale": 0.707, "mscale_all_dim": 1.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("factor", [1.0, 4.0, 40.0])
def test_yarn_with_an_explicit_temperature(factor, explicit):
    """The table of the rotary module at some positions: cos and sin are both multiplied."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    scaling = {"factor": factor, "original_max_position_embeddings": 2048}
    config = hf_config(64, 1e6, 8192, rope_type="yarn", **scaling, **explicit)
    positions = np.array([[0, 1, 100, 2047, 8191]])
    cos, sin = Qwen2RotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(positions))

    m = explicit.get("attention_factor")
    if m is None:
        m = yarn_attention_factor(factor, explicit.get("mscale"), explicit.get("mscale_all_dim"))
    ours = yarn_tables(positions, yarn_inv_freq(64, 1e6, **scaling), m)
    for got, want in zip(ours, (cos.numpy(), sin.numpy()), strict=True):
        assert got.dtype == want.dtype == np.float32
        assert np.abs(got - want).max() < 2e-3  # float32 angles of up to 8191 rad
        assert np.abs(got - want)[:, :3].max() < 3e-5
    assert (ours[0][:, 0] == np.float32(m)).all()


def test_transformers_dynamic_keeps_the_base_of_a_longer_call():
    """What it does is not a function of the text: ours is. Hence a fresh module for each case."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    def cos(rotary, length):
        return rotary(torch.zeros(1), torch.arange(length)[None])[0][0].numpy()

    def ours(length, alpha_of):
        alpha = continuous_ntk_alpha(alpha_of, 32, 4.0)
        return rope_tables(np.arange(length), ntk_inv_freq(16, 1e4, alpha))[0]

    rotary = Qwen2RotaryEmbedding(hf_config(16, 1e4, 32, rope_type="dynamic", factor=4.0))
    np.testing.assert_allclose(cos(rotary, 16), ours(16, 16), atol=1e-5)
    np.testing.assert_allclose(cos(rotary, 160), ours(160, 160), atol=1e-4)
    np.testing.assert_allclose(cos(rotary, 100), ours(100, 160), atol=1e-4)  # as if it were 160
    assert np.abs(cos(rotary, 100) - ours(100, 100)).max() > 0.1
    np.testing.assert_allclose(cos(rotary, 31), ours(31, 31), atol=1e-5)  # this resets it


def turn(x, positions, inv_freq, m=1.0):
    """RoPE as a complex product."""
    angle = positions[..., None] * torch.from_numpy(inv_freq)
    angle = angle if angle.ndim == 2 else angle.unsqueeze(1)
    a, b = x.chunk(2, -1)
    z = torch.complex(a, b) * torch.polar(torch.tensor(m, dtype=x.dtype), angle)
    return torch.cat((z.real, z.imag), -1)


def ntk(x, positions, train_length):
    alpha = {2: 7.0, 3: 3.0}[train_length]  # T = 5
    i = np.arange(5)
    return turn(x, positions, rope_inv_freq(10, 100.0, "float64") * alpha ** (-i / 4))


def yarn(x, positions, truncate):
    scaling = {"factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 8.0}
    config = hf_config(10, 100.0, 512, rope_type="yarn", truncate=truncate, **scaling)
    _, inv_freq, m = theirs(config)
    return turn(x, positions, inv_freq, m)


def logn(q, positions):
    scale = (torch.log(positions.double() + 1) / np.log(3)).clamp(min=1)
    return q * (scale[:, None] if scale.ndim == 1 else scale[:, None, :, None])


THEIRS = {"ntk": ntk, "yarn": yarn, "logn": logn}
CASES = [(name, case) for name in THEIRS for case in concept(name).cases]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_value_and_gradient(name, case):
    row = concept(name)
    x, positions, *rest = row.cases[case](np.random.default_rng(0))
    y, cache = row.forward(x, positions, *rest)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx = row.backward(dy, cache)

    tensor = torch.from_numpy(x).requires_grad_()
    want = THEIRS[name](tensor, torch.from_numpy(positions), *rest)
    want.backward(torch.from_numpy(dy))
    assert np.abs(y - want.detach().numpy()).max() < 1e-12
    assert np.abs(dx - tensor.grad.numpy()).max() < 1e-12

"""Entropy and the whole divergence: equations, gradients, blocks, ruled-out tokens, errors."""

import math

import numpy as np
import pytest

from minqwen.alignment.entropy import (
    entropy_backward,
    entropy_forward,
    exact_kl_backward,
    exact_kl_forward,
)
from minqwen.alignment.kl_penalty import kl_estimate
from minqwen.check.gradients import gradient_errors


@pytest.fixture
def z():
    return 2 * np.random.default_rng(0).standard_normal((2, 3, 7))


@pytest.fixture
def z_ref():
    return 2 * np.random.default_rng(1).standard_normal((2, 3, 7))


def probabilities(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def test_matches_the_equations(z, z_ref):
    H, kl = entropy_forward(z)[0], exact_kl_forward(z, z_ref)[0]
    for i in np.ndindex(H.shape):
        p, q = probabilities(z[i]), probabilities(z_ref[i])
        assert abs(H[i] + sum(a * math.log(a) for a in p)) < 1e-14
        assert abs(kl[i] - sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))) < 1e-14


def test_the_facts():
    p, q = np.log([[0.5, 0.3, 0.2]]), np.log([[0.2, 0.5, 0.3]])
    assert abs(exact_kl_forward(p, q)[0][0] - 0.223805) < 1e-6
    expected = (np.exp(p) * kl_estimate(p - q, "k3")).sum()
    assert abs(exact_kl_forward(p, q)[0][0] - expected) < 1e-15


def test_by_hand():
    """Four equal tokens: ln 4. One certain token: 0. Two tokens with 1/4 and 3/4 as well."""
    assert abs(entropy_forward(np.zeros((1, 4)))[0][0] - math.log(4)) < 1e-15
    assert entropy_forward(np.array([[0.0, -1000.0]]))[0][0] == 0
    H = entropy_forward(np.log([[1.0, 3.0]]))[0][0]
    assert abs(H - (math.log(4) - 0.75 * math.log(3))) < 1e-15


def test_bounds_and_what_does_not_matter(z, z_ref):
    H, kl = entropy_forward(z)[0], exact_kl_forward(z, z_ref)[0]
    assert (H > 0).all()
    assert (H < math.log(7)).all()
    assert (kl > 0).all()
    assert np.abs(exact_kl_forward(z, z + 3.0)[0]).max() < 1e-15  # the same policy
    np.testing.assert_allclose(entropy_forward(z + 5.0)[0], H, rtol=1e-13)
    uniform = exact_kl_forward(z, np.zeros_like(z))[0]  # KL to all equal is ln V - H
    np.testing.assert_allclose(uniform, math.log(7) - H, rtol=1e-13)


def test_gradients(z, z_ref):
    (error,) = gradient_errors(entropy_forward, entropy_backward, z)
    assert error.error < 1e-8
    (error,) = gradient_errors(lambda x: exact_kl_forward(x, z_ref), exact_kl_backward, z)
    assert error.error < 1e-8


def test_gradients_of_a_position_add_up_to_nothing(z, z_ref):
    ones = np.ones((2, 3))
    for dz in (
        entropy_backward(ones, entropy_forward(z)[1]),
        exact_kl_backward(ones, exact_kl_forward(z, z_ref)[1]),
    ):
        assert np.abs(dz.sum(axis=-1)).max() < 1e-15
        assert np.abs(dz).max() > 0.1
    best = z.argmax(axis=-1)[..., None]  # a more likely best token: less undecided
    dz = entropy_backward(ones, entropy_forward(z)[1])
    assert (np.take_along_axis(dz, best, axis=-1) < 0).all()


@pytest.mark.parametrize("block", [1, 7, 20, 10**6])
def test_blocks_change_nothing(z, z_ref, block):
    dy = np.random.default_rng(2).standard_normal((2, 3))
    H, cache = entropy_forward(z, block)
    np.testing.assert_array_equal(H, entropy_forward(z)[0])
    np.testing.assert_array_equal(
        entropy_backward(dy, cache), entropy_backward(dy, entropy_forward(z)[1])
    )
    kl, cache = exact_kl_forward(z, z_ref, block)
    np.testing.assert_array_equal(kl, exact_kl_forward(z, z_ref)[0])
    np.testing.assert_array_equal(
        exact_kl_backward(dy, cache), exact_kl_backward(dy, exact_kl_forward(z, z_ref)[1])
    )


def test_no_second_array_as_large_as_the_logits():
    import tracemalloc

    z = np.zeros((64, 20_000), np.float32)  # 5 MB
    tracemalloc.start()
    entropy_forward(z)
    forward = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert forward < z.nbytes / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits(dtype):
    z = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4]], dtype)
    H, cache = entropy_forward(z)
    np.testing.assert_allclose(H, [0, math.log(3)], rtol=1e-3 if dtype == np.float32 else 1e-11)
    assert np.isfinite(entropy_backward(np.ones(2, dtype), cache)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tokens_that_are_ruled_out(z, z_ref, dtype):
    """-inf adds nothing: the rest is as if the token were not there."""
    z, z_ref = z.astype(dtype), z_ref.astype(dtype)
    out, ref_out = (np.where(np.arange(7) % 3 == 0, -np.inf, x).astype(dtype) for x in (z, z_ref))
    kept = np.arange(7) % 3 != 0
    H, cache = entropy_forward(out)
    np.testing.assert_allclose(H, entropy_forward(z[..., kept])[0], rtol=1e-5)
    dz = entropy_backward(np.ones((2, 3), dtype), cache)
    assert not dz[..., ~kept].any()
    assert np.isfinite(dz).all()
    for ref, small in ((z_ref, z_ref), (ref_out, ref_out[..., kept])):
        kl, cache = exact_kl_forward(out, ref)
        assert np.isfinite(kl).all()
        if ref is ref_out:
            np.testing.assert_allclose(kl, exact_kl_forward(z[..., kept], small)[0], rtol=1e-5)
        assert np.isfinite(exact_kl_backward(np.ones((2, 3), dtype), cache)).all()
    kl, cache = exact_kl_forward(z, ref_out)  # what the reference rules out is chosen
    assert (kl > 1e30).all()
    assert np.isfinite(kl).all()
    assert np.isfinite(exact_kl_backward(np.ones((2, 3), dtype), cache)).all()
    nothing = np.full((1, 3), -np.inf, dtype)
    H, cache = entropy_forward(nothing)
    assert H[0] == 0
    assert not entropy_backward(np.ones(1, dtype), cache).any()


def test_dtypes(z, z_ref):
    for dtype in (np.float16, np.float32, np.float64):
        low, ref = z.astype(dtype), z_ref.astype(dtype)
        H, cache = entropy_forward(low)
        assert H.dtype == entropy_backward(np.ones((2, 3)), cache).dtype == dtype
        assert cache.lse.dtype == np.promote_types(dtype, "f4")
        kl, cache = exact_kl_forward(low, ref)
        assert kl.dtype == exact_kl_backward(np.ones((2, 3)), cache).dtype == dtype
        assert np.abs(H - entropy_forward(z)[0]).max() < (2e-2 if dtype == np.float16 else 1e-6)


def test_errors(z, z_ref):
    with pytest.raises(TypeError, match="logits must be a floating-point array"):
        entropy_forward(z.astype(int))
    with pytest.raises(TypeError, match="ref_logits must have the dtype of logits"):
        exact_kl_forward(z, z_ref.astype("f4"))
    with pytest.raises(ValueError, match="must have the same shape"):
        exact_kl_forward(z, z_ref[:1])

"""Check a hand-written backward pass against central differences, in float64.

    df/dx_i  ~  (f(x + h e_i) - f(x - h e_i)) / 2h        f(x) = sum(y * dy)

The upstream gradient dy is random. With dy = 1 a wrong backward pass can be accepted: the
gradient of sum(softmax(x)) is zero, so one that returns zeros would pass.

The step is h = eps**(1/3) * rms(x), about 6e-6 for numbers of order 1: the error of the formula
falls with h**2, the rounding error grows with eps / h, and the two meet there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array


class GradientError(NamedTuple):
    name: str  # of the argument
    error: float  # largest absolute difference, over the largest entry of the gradient
    place: tuple[int, ...]  # where it is largest
    ours: float  # the analytic value there
    numerical: float  # the central difference there


def numerical_gradient(f: Callable[[], float], x: Array, step: float | None = None) -> Array:
    """Return the central difference of the scalar f() for every element of x, which f reads.

    x is changed and put back, element by element.

    >>> x = np.array([1.0, 2.0])
    >>> numerical_gradient(lambda: float((x**2).sum()), x).round(6)
    array([2., 4.])
    """
    if step is None:
        rms = float(np.sqrt(np.mean(x * x))) if x.size else 1.0
        step = float(np.finfo(np.float64).eps) ** (1 / 3) * (rms or 1.0)
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        old = x[index]
        x[index] = old + step
        up = f()
        x[index] = old - step
        down = f()
        x[index] = old
        grad[index] = (up - down) / (2 * step)
    return grad


def gradient_errors(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    *inputs: Any,
    seed: int = 0,
    names: tuple[str, ...] | None = None,
) -> list[GradientError]:
    """Measure how far each gradient is from central differences.

    Args:
        forward: maps *inputs to (y, cache); y is an array or a scalar.
        backward: maps (dy, cache) to one gradient, or a tuple with one per float array input.
        inputs: small float64 arrays; anything else (ids, masks, sizes) is passed on unchecked.
        seed: of the random upstream gradient.
        names: of the float array inputs, for messages; more names than inputs are no mistake,
            since the last inputs of a concept may be optional.

    Returns:
        One GradientError per float array input, in order.

    Raises:
        TypeError: a float input is not float64. Lower precision hides real errors.
        AssertionError: the number or a shape of the gradients is wrong.
    """
    inputs = tuple(x.copy() if isinstance(x, np.ndarray) else x for x in inputs)
    floats = [x for x in inputs if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
    names = (names or tuple(f"gradient {i}" for i in range(len(floats))))[: len(floats)]
    if any(x.dtype != np.float64 for x in floats):
        raise TypeError("gradient checking needs float64 inputs")
    y, cache = forward(*inputs)
    # a stream of its own: inputs that somebody drew from default_rng(seed) must not equal dy, or
    # dw = dy^T x is symmetric and a transposed gradient passes
    dy = np.asarray(np.random.default_rng([seed, 0x6479]).standard_normal(np.shape(y)))
    grads = backward(dy, cache)
    grads = grads if isinstance(grads, tuple) else (grads,)
    grads = tuple(g for g in grads if g is not None)
    assert len(grads) == len(floats), f"{len(floats)} float inputs but {len(grads)} gradients"

    errors = []
    for name, x, grad in zip(names, floats, grads, strict=True):
        assert grad.shape == x.shape, f"{name} has shape {grad.shape}, its input {x.shape}"
        expected = numerical_gradient(lambda: float((forward(*inputs)[0] * dy).sum()), x)
        errors.append(compare_gradient(name, grad, expected))
    return errors


def compare_gradient(name: str, ours: Array, expected: Array) -> GradientError:
    """Measure the largest difference, over the scale of the gradient as a whole.

    Over the scale and not element by element: an entry that is small only because large terms
    cancel in it has no digits to compare. A NaN or infinite entry is an error of inf.

    >>> compare_gradient("dx", np.array([1.0, 2.0]), np.array([1.0, 2.5])).error
    0.2
    """
    if not ours.size:
        return GradientError(name, 0.0, (), 0.0, 0.0)
    bad = ~(np.isfinite(ours) & np.isfinite(expected))
    difference = np.abs(np.where(bad, 0.0, ours) - np.where(bad, 0.0, expected))
    difference = np.where(bad, np.inf, difference)
    scale = 1.0 if bad.any() else max(np.abs(expected).max(), np.abs(ours).max(), 1e-12)
    place = tuple(int(i) for i in np.unravel_index(np.argmax(difference), difference.shape))
    return GradientError(
        name, float(difference[place] / scale), place, float(ours[place]), float(expected[place])
    )


def check_gradients(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    *inputs: Any,
    tol: float = 1e-7,
    seed: int = 0,
    names: tuple[str, ...] | None = None,
) -> list[float]:
    """Compare backward with central differences for every float64 input; see gradient_errors.

    Returns:
        The error of each gradient, relative to its largest entry.

    Raises:
        AssertionError: an error is above tol; the message gives the place and both numbers.

    >>> double = lambda x: (2 * x, None)
    >>> check_gradients(double, lambda dy, _: 3 * dy, np.ones(1))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    AssertionError: gradient 0: relative error 3.3e-01 > 1e-07 at (0,): ours ...
    """
    errors = gradient_errors(forward, backward, *inputs, seed=seed, names=names)
    for e in errors:
        assert e.error <= tol, (
            f"{e.name}: relative error {e.error:.1e} > {tol:.0e} at {e.place}: "
            f"ours {e.ours:.3g}, numerical {e.numerical:.3g}"
        )
    return [e.error for e in errors]

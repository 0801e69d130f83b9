"""The functions of the calculator, exact where the result is a fraction.

    sqrt(4/9)  ->  2/3          gcd(12, 18)  ->  6          ln(e)  ->  1.0, a float

The others are those of Python's `math`, in floats of 64 bits. A value that is not real, such as
sqrt(-1), is an error that names the function and its arguments.

pi is a float, so sin(pi) would be 1.2e-16 and tan(pi / 2) 1.6e16. What lies below the error of the
argument is noise: the one is 0, the other an error.

Paper:    none of Qwen's reports: the functions of calculator.py.
Origin:   the module math of the standard library.
Differs:  sin, cos and tan as above; round is half to even, of the exact value: round(2.675, 2) is
          2.68, where a float would give 2.67.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from .exact_numbers import LARGER, SMALLER, Number, in_range, printed

LARGEST_ANGLE = 1e9  # radians; a float beyond it is off by more than 1e-7
NOISE = 2.0**-52  # relative error of a float


def call_function(name: str, arguments: list[Number]) -> Number:
    """Return what a function of FUNCTIONS gives.

    Raises:
        ValueError: there is no such function, it takes another number of arguments, or it has no
            real value in range there.

    >>> call_function("sqrt", [Fraction(4, 9)])
    Fraction(2, 3)
    """
    if name not in FUNCTIONS:
        raise ValueError(f"{name[:40]!r} is no function; they are: {', '.join(FUNCTIONS)}")
    least, most, function = FUNCTIONS[name]
    if not least <= len(arguments) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise ValueError(f"{name} takes {wanted} arguments, got {len(arguments)}")
    try:
        return in_range(function(*arguments))
    except OverflowError:
        raise ValueError(LARGER) from None
    except ValueError as error:
        if "math domain" not in str(error):
            raise
        shown = ", ".join(map(printed, arguments))
        raise ValueError(f"{name}({shown}) is no real number") from None


def _sqrt(x: Number) -> Number:
    if isinstance(x, Fraction) and x >= 0:
        top, bottom = math.isqrt(x.numerator), math.isqrt(x.denominator)
        if top * top == x.numerator and bottom * bottom == x.denominator:
            return Fraction(top, bottom)
    return math.sqrt(x)


def _exp(x: Number) -> float:
    if x < -700:
        raise ValueError(SMALLER)
    return math.exp(x)


def _log(x: Number, base: Number | None = None) -> float:
    return math.log(x) if base is None else math.log(x, base)


def _circular(function: Callable[[float], float]) -> Callable[[Number], Number]:
    def of(x: Number) -> Number:
        angle = float(x)
        if abs(angle) > LARGEST_ANGLE:
            raise ValueError(f"an angle is larger than {LARGEST_ANGLE:g}")
        y, noise = function(angle), NOISE * abs(angle)
        if noise * abs(y) > 1:
            raise ValueError("math domain error")
        return Fraction(0) if abs(y) <= noise and abs(angle) > 1 else y

    return of


def _whole(x: Number) -> int:
    if x != int(x):
        raise ValueError(f"{printed(x)} is not whole")
    return int(x)


def _round(x: Number, digits: Number = Fraction(0)) -> Number:
    return Fraction(round(Fraction(x), max(-301, min(301, _whole(digits)))))


def _factorial(x: Number) -> Fraction:
    if not 0 <= _whole(x) <= 166:  # 167! is beyond 1e300
        raise ValueError(f"factorial takes 0 to 166, got {printed(x)}")
    return Fraction(math.factorial(_whole(x)))


CONSTANTS = {"pi": math.pi, "e": math.e}
FUNCTIONS: dict[str, tuple[int, int, Callable[..., Number]]] = {  # arguments: least, most
    "abs": (1, 1, abs),
    "round": (1, 2, _round),
    "floor": (1, 1, lambda x: Fraction(math.floor(x))),
    "ceil": (1, 1, lambda x: Fraction(math.ceil(x))),
    "min": (1, 99, lambda *xs: min(xs)),
    "max": (1, 99, lambda *xs: max(xs)),
    "gcd": (2, 99, lambda *xs: Fraction(math.gcd(*map(_whole, xs)))),
    "lcm": (2, 99, lambda *xs: Fraction(math.lcm(*map(_whole, xs)))),
    "factorial": (1, 1, _factorial),
    "sqrt": (1, 1, _sqrt),
    "exp": (1, 1, _exp),
    "log": (1, 2, _log),
    "ln": (1, 1, _log),
    "log2": (1, 1, math.log2),
    "log10": (1, 1, math.log10),
    "sin": (1, 1, _circular(math.sin)),
    "cos": (1, 1, _circular(math.cos)),
    "tan": (1, 1, _circular(math.tan)),
    "asin": (1, 1, math.asin),
    "acos": (1, 1, math.acos),
    "atan": (1, 1, math.atan),
    "radians": (1, 1, math.radians),
    "degrees": (1, 1, math.degrees),
}

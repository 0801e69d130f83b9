"""The numbers of the calculator: a fraction as long as that is exact, else a float.

    1/3         Fraction(1, 3)          sqrt(4/9)       Fraction(2, 3)
    sqrt(2)     1.4142135623730951      1.05 ** 9999    a float, from 40 decimal digits

So + - * / // % and whole powers are exact. A fraction whose parts grow beyond 1e300 becomes a
float; pi, e and most functions are floats of 64 bits from the start.

All numbers are from 1e-300 to 1e300, or 0, which also bounds the time: a power is refused before it
is worked out.

What is printed: a whole number in full; anything else rounded to 12 significant digits, or to a
whole number where that has more, half to even, without zeros at the end; 1.5e-7 below 1e-6, and
1.5e+20 for a float from 1e15.

Paper:    none of Qwen's reports: the numbers of calculator.py.
Origin:   the modules fractions and decimal of the standard library.
Differs:  a fraction that grows too long becomes a float by itself.
"""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation, Overflow
from fractions import Fraction
from typing import TypeAlias

Number: TypeAlias = Fraction | float

LARGEST = 10**300
DIGITS = 12  # significant, of what is not whole
WIDE = Context(prec=40, Emin=-9999, Emax=9999, traps=[InvalidOperation, Overflow])
LARGER, SMALLER = "a number is larger than 1e300", "a number is smaller than 1e-300"


def read_number(digits: str) -> Fraction:
    """Return what a number in decimal digits says, exactly.

    >>> read_number("0.1")
    Fraction(1, 10)
    """
    number = Decimal(digits)  # which keeps 1e999999999 short
    if number and abs(number.adjusted()) > 300:
        raise ValueError(LARGER if number.adjusted() > 0 else SMALLER)
    return Fraction(number)


def in_range(value: Number) -> Number:
    """Return a value that is neither too large nor too small; too long a fraction as a float.

    Raises:
        ValueError: it is, or it is infinite or NaN.

    >>> in_range(Fraction(1, 3)), in_range(Fraction(10**400, 3 * 10**400 + 1))
    (Fraction(1, 3), 0.3333333333333333)
    """
    if isinstance(value, Fraction):
        if max(abs(value.numerator), value.denominator) <= LARGEST:
            return value
        if not 1 <= abs(value) * LARGEST <= LARGEST**2 or value.denominator == 1:
            raise ValueError(LARGER if abs(value) > 1 else SMALLER)
        return value.numerator / value.denominator
    if not abs(value) <= 1e300:
        raise ValueError(LARGER)
    if 0 < abs(value) < 1e-300:
        raise ValueError(SMALLER)
    return value


def multiply(a: Number, b: Number) -> Number:
    """Return a * b, which is 0 only when one of them is.

    >>> multiply(Fraction(1, 2), Fraction(3))
    Fraction(3, 2)
    """
    product = a * b
    if product == 0 and a != 0 and b != 0:
        raise ValueError(SMALLER)
    return product


def divide(a: Number, b: Number) -> Number:
    """Return a / b, which is 0 only when a is.

    >>> divide(Fraction(1), Fraction(3))
    Fraction(1, 3)
    """
    quotient = a / b
    if quotient == 0 and a != 0:
        raise ValueError(SMALLER)
    return quotient


def floor_divide(a: Number, b: Number) -> Number:
    """Return the largest whole number that is not above a / b.

    >>> floor_divide(Fraction(-7), Fraction(2))
    Fraction(-4, 1)
    """
    return Fraction(in_range(a // b))  # of floats it may be infinite


def power(base: Number, exponent: Number) -> Number:
    """Return base to the power of exponent: exact if it is whole and the result is short enough.

    Raises:
        ValueError: the result is too large or too small, or no real number.
        ZeroDivisionError: 0 to a negative power.

    >>> power(Fraction(2, 3), Fraction(-2)), power(Fraction(2), Fraction(1, 2))
    (Fraction(9, 4), 1.4142135623730951)
    """
    if base == 0:
        if exponent < 0:
            raise ZeroDivisionError("division by zero")
        return Fraction(int(exponent == 0))
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) == 1 or size * abs(exponent) <= 2 * LARGEST.bit_length():
            return Fraction(base**exponent.numerator)
    if base < 0 and exponent != int(exponent):
        raise ValueError(f"({printed(base)}) ** {printed(exponent)} is no real number")
    try:
        result = WIDE.power(_decimal(base), _decimal(exponent))
    except Overflow:
        raise ValueError(LARGER) from None
    if not result:
        raise ValueError(SMALLER)
    return Fraction(result) if abs(result.adjusted()) > 300 else float(result)


def printed(value: Number) -> str:
    """Print a number as the head of this file says.

    >>> printed(Fraction(1, 8)), printed(Fraction(2, 3)), printed(2.0), printed(1e20 / 3)
    ('0.125', '0.666666666667', '2', '3.33333333333e+19')
    """
    has_whole_part = isinstance(value, Fraction) or abs(value) < 1e15
    if has_whole_part and value == int(value):
        return str(int(value))
    whole = len(str(abs(int(value)))) if has_whole_part else 0
    context = Context(prec=max(DIGITS, whole))
    rounded = context.plus(_decimal(value, context)).normalize(context)
    return f"{rounded:f}" if has_whole_part and rounded.adjusted() >= -6 else f"{rounded:e}"


def _decimal(value: Number, context: Context = WIDE) -> Decimal:
    if isinstance(value, Fraction):
        return context.divide(Decimal(value.numerator), Decimal(value.denominator))
    return Decimal(value)

import random
from decimal import Decimal
from fractions import Fraction

import pytest

from minqwen.agent.tools.exact_numbers import (
    divide,
    in_range,
    multiply,
    power,
    printed,
    read_number,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(-5), "-5"),
        (Fraction(10**40), "1" + "0" * 40),
        (Fraction(1, 3), "0.333333333333"),
        (Fraction(-2, 3), "-0.666666666667"),
        (Fraction(1, 8), "0.125"),
        (Fraction(5, 2 * 10**12), "2.5e-12"),
        (Fraction(1, 10**6), "0.000001"),
        (Fraction(1, 10**7), "1e-7"),
        (Fraction("0.1234567890125"), "0.123456789012"),  # half to even
        (Fraction("0.1234567890135"), "0.123456789014"),
        (Fraction("1234567890123.45"), "1234567890123"),  # the whole part stays whole
        (Fraction("9999999999.9999"), "10000000000"),
        (0.1 + 0.2, "0.3"),
        (-0.0, "0"),
        (2.0, "2"),
        (1e14 + 0.5, "100000000000000"),
        (1.5e20, "1.5e+20"),
        (1e300, "1e+300"),
        (2.5e-300, "2.5e-300"),
    ],
)
def test_what_is_printed(value, text):
    assert printed(value) == text


def test_twelve_digits_are_right_for_any_fraction():
    rng = random.Random(0)
    for _ in range(300):
        exact = Fraction(rng.randint(1, 10**15), rng.randint(1, 10 ** rng.randint(1, 25)))
        shown = Fraction(Decimal(printed(exact)))
        assert abs(shown - exact) <= exact * Fraction(1, 2 * 10**11)


def test_powers_are_exact_while_short():
    assert power(Fraction(2, 3), Fraction(-3)) == Fraction(27, 8)
    assert isinstance(power(Fraction(3), Fraction(400)), Fraction)
    assert power(Fraction(-1), Fraction(10**200 + 1)) == -1
    assert power(Fraction(0), Fraction(0)) == 1
    assert power(Fraction(0), 0.5) == 0


def test_long_powers_are_right_to_the_last_bit():
    """In floats, 365 * 30 rounded multiplications would be off in the twelfth digit."""
    base = 1 + Fraction(3, 80 * 365)
    assert power(base, Fraction(365 * 30)) == float(base ** (365 * 30))


def test_roots_of_negative_numbers_are_refused():
    with pytest.raises(ValueError, match=r"\(-8\) \*\* 0.5 is no real number"):
        power(Fraction(-8), Fraction(1, 2))


def test_a_long_fraction_becomes_a_float_and_a_long_whole_number_an_error():
    long = Fraction(10**301 + 1, 10**301)
    assert in_range(long) == 1.0
    assert isinstance(in_range(long), float)
    for value in (Fraction(10**301), Fraction(10**602, 10**301 + 1), 1.1e300, float("inf")):
        with pytest.raises(ValueError, match="larger than 1e300"):
            in_range(value)
    for value in (Fraction(1, 10**301), 1e-301, -1e-301):
        with pytest.raises(ValueError, match="smaller than 1e-300"):
            in_range(value)
    with pytest.raises(ValueError, match="larger"):
        in_range(float("nan"))


def test_nothing_becomes_zero_unseen():
    for step in (lambda: multiply(1e-200, 1e-200), lambda: divide(1e-200, 1e200)):
        with pytest.raises(ValueError, match="smaller than 1e-300"):
            step()
    assert multiply(0.0, 1e-200) == divide(0.0, 5.0) == 0


def test_numbers_are_read_as_they_are_written():
    assert read_number("0.1") == Fraction(1, 10)
    assert read_number("1e-300") == Fraction(1, 10**300)
    assert read_number("0e999999") == 0

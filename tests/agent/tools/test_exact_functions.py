import math
from fractions import Fraction

import pytest

from minqwen.agent.tools.calculator import calculate
from minqwen.agent.tools.exact_functions import FUNCTIONS, call_function


@pytest.mark.parametrize(
    ("expression", "printed"),
    [
        ("sqrt(16)", "4"),
        ("sqrt(4/9) * 3", "2"),
        ("sqrt(2)**2", "2"),
        ("sqrt(4/3)", "1.15470053838"),
        ("sqrt(10**200)", "1" + "0" * 100),
        ("abs(-3/4)", "0.75"),
        ("round(2.675, 2)", "2.68"),
        ("round(2.5)", "2"),
        ("round(1250, -2)", "1200"),
        ("round(pi, 3)", "3.142"),
        ("floor(-1.5)", "-2"),
        ("ceil(1.2)", "2"),
        ("min(3, 1/3, 2)", "0.333333333333"),
        ("gcd(12, 18, 27)", "3"),
        ("lcm(4, 6)", "12"),
        ("factorial(20)", str(math.factorial(20))),
        ("factorial(0)", "1"),
        ("exp(0)", "1"),
        ("ln(e)", "1"),
        ("log(8, 2)", "3"),
        ("log(1000, 10)", "3"),
        ("log2(1024)", "10"),
        ("log10(1/1000)", "-3"),
        ("sin(pi)", "0"),
        ("sin(pi/6)", "0.5"),
        ("cos(pi/2)", "0"),
        ("cos(0)", "1"),
        ("tan(pi/4)", "1"),
        ("sin(1e-20)", "1e-20"),  # small, but not noise
        ("degrees(pi)", "180"),
        ("radians(180) - pi", "0"),
        ("4 * atan(1)", "3.14159265359"),
        ("asin(1) + acos(1)", "1.57079632679"),
    ],
)
def test_examples_by_hand(expression, printed):
    assert calculate(expression) == printed


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("sqrt(-1)", r"sqrt\(-1\) is no real number"),
        ("ln(0)", r"ln\(0\) is no real number"),
        ("log(2, -1)", r"log\(2, -1\) is no real number"),
        ("asin(2)", r"asin\(2\) is no real number"),
        ("tan(pi/2)", r"tan\(1.57079632679\) is no real number"),
        ("sin(1e10)", "an angle is larger than 1e"),
        ("factorial(2.5)", "2.5 is not whole"),
        ("factorial(-1)", "factorial takes 0 to 166, got -1"),
        ("gcd(0.5, 2)", "0.5 is not whole"),
        ("round(1, 0.5)", "0.5 is not whole"),
        ("sqrt()", "sqrt takes 1 arguments, got 0"),
        ("round(1, 2, 3)", "round takes 1 to 2 arguments, got 3"),
    ],
)
def test_no_value_is_told(expression, message):
    with pytest.raises(ValueError, match=message):
        calculate(expression)


def test_exact_arguments_give_exact_results_where_there_are_any():
    exact = {"abs", "round", "floor", "ceil", "min", "max", "gcd", "lcm", "factorial", "sqrt"}
    for name in FUNCTIONS:
        arguments = [Fraction(4)] * FUNCTIONS[name][0]
        if name not in ("asin", "acos"):
            assert isinstance(call_function(name, arguments), Fraction) == (name in exact), name


@pytest.mark.parametrize("digits", [10**200, -(10**200)])
def test_round_to_absurd_digits_is_bounded(digits):
    assert call_function("round", [Fraction(1, 4), Fraction(digits)]) in (Fraction(1, 4), 0)

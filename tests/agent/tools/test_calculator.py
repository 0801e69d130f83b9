import math
import random
import time
from fractions import Fraction

import pytest

from minqwen.agent.tool import call_tool, make_tools
from minqwen.agent.tools.calculator import calculate, calculator_tool
from minqwen.agent.tools.exact_functions import CONSTANTS


@pytest.mark.parametrize(
    ("expression", "printed"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1/3 + 1/3 + 1/3", "1"),
        ("2/3", "0.666666666667"),
        ("1e16 + 1 - 1e16", "1"),
        ("-2**2", "-4"),
        ("2**-3", "0.125"),
        ("2**3**2", "512"),
        ("2^3 + 1", "9"),  # Python's exclusive or would bind later
        ("7 // 2 - -7 // 2", "7"),
        ("-7 % 3", "2"),
        ("7.5 % 2", "1.5"),
        ("5*-3", "-15"),
        ("(1 + 2) * (3 + 4)", "21"),
        ("2**100", "1267650600228229401496703205376"),
        ("3 × （4 + 5） ÷ 2", "13.5"),
        ("１２．５＋０．５＝", "13"),
        ("3² + 2³", "17"),
        ("−5 – 2", "-7"),
        ("2·π", "6.28318530718"),
        ("3 + 4 =?", "7"),
        ("1 +\n\u30002", "3"),
        (".5 + 5.", "5.5"),
        ("1E+3", "1000"),
        ("max(1, 2.5, sqrt(4))", "2.5"),
        ("1.05 ** 10", "1.62889462678"),
        ("(1 + 0.0375/365) ** (365*30)", "3.08003885715"),
    ],
)
def test_examples_by_hand(expression, printed):
    assert calculate(expression) == printed


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "is empty"),
        (" = ", "is empty"),
        ("2 +", "cannot be read at its end"),
        ("1 2", "cannot be read at character 3"),
        ("50%", "% is the remainder of a division"),
        ("(1", "was never closed"),
        ("2pi", "a sign is missing after 2 in '2pi'"),
        ("2(3)", "a sign is missing before a bracket in '2(3)'"),
        ("1.2.3", "a sign is missing after 1.2"),
        ("0x10", "a sign is missing after 0"),
        ("1_000", "a sign is missing after 1"),
        ("1,000", "write 1000, not 1,000"),
        ("x + 1", "'x' is not known; the names are: pi, e, abs"),
        ("sin", "'sin' is not known"),
        ("foo(1)", "'foo' is no function; they are: abs"),
        ("1 == 1", "the sign '='"),
        ("1 if 1 else 2", "'1 if 1 else 2' is no arithmetic"),
        ("1 and 2", "'1 and 2' is no arithmetic"),
        ("not 1", "'not 1' is no arithmetic"),
        ("True", "'True' is no arithmetic"),
        ("max(*pi)", "'*pi' is no arithmetic"),
        ("lambda: 1", "the sign ':'"),
        ("'1'", 'the sign "\'"'),
        ("__import__('os')", "the sign '_'"),
        ("pi.real", "the sign '.'"),
        ("1; 2", "the sign ';'"),
        ("1 # 2", "the sign '#'"),
        ("٣ + 1", "the sign '٣'"),
        ("𝟛 + 1", "the sign '𝟛'"),
        ("\0", "the sign '\\x00'"),
    ],
)
def test_what_is_no_arithmetic_is_told(expression, message):
    with pytest.raises(ValueError) as caught:
        calculate(expression)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "expression", ["1/0", "1//0", "1%0", "0**-1", "1/(0.1+0.2-0.3)", "0**-0.5"]
)
def test_division_by_zero(expression):
    with pytest.raises(ZeroDivisionError, match=r"^division by zero$"):
        calculate(expression)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("9**9**9", "larger than 1e300"),
        ("10**10**6", "larger than 1e300"),
        ("0.1**10**6", "smaller than 1e-300"),
        ("1.5**(10**290)", "larger than 1e300"),
        ("(-2)**(10**290)", "larger than 1e300"),
        ("1e999999999", "larger than 1e300"),
        ("1e-999999999", "smaller than 1e-300"),
        ("1e300 * 10", "larger than 1e300"),
        ("1e-300 / 10", "smaller than 1e-300"),
        ("exp(1000)", "larger than 1e300"),
        ("1e300 // (e / 1e99)", "larger than 1e300"),
        ("exp(-1000)", "smaller than 1e-300"),
        ("exp(-600) * exp(-600)", "smaller than 1e-300"),
        ("exp(-600) / exp(600)", "smaller than 1e-300"),
        ("factorial(10**9)", "factorial takes 0 to 166"),
        ("9" * 999, "larger than 1e300"),
        ("9" * 1001, "has 1001 characters, at most 1000"),
        ("-" * 999 + "1", "nested more than 100 deep"),
        ("(" * 499 + "1" + ")" * 499, "too many nested parentheses"),
        ("abs(" * 150 + "1" + ")" * 150, "nested more than 100 deep"),
        ("2**" * 300 + "1", "nested more than 100 deep"),
        ("lcm(" + ",".join(str(10**9 + k) for k in range(85)) + ")", "larger than 1e300"),
        ("**".join("9" * 300), "nested more than 100 deep"),
    ],
    ids=lambda text: text[:20],
)
def test_limits_are_errors_and_come_at_once(expression, message):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message):
        calculate(expression)
    assert time.perf_counter() - start < 1


def test_a_long_sum_is_not_deep():
    assert calculate("1" + "+1" * 499) == "500"
    assert calculate("*".join(["2"] * 500)) == str(2**500)


def test_the_largest_numbers_are_still_exact():
    assert calculate("10**300 - 1") == "9" * 300
    assert calculate("1e-300 * 1e300") == "1"
    assert calculate("factorial(166) / factorial(165)") == "166"


def whole_expression(rng, depth):
    if not depth or rng.random() < 0.2:
        return str(rng.randint(0, 50))
    left, right = (whole_expression(rng, depth - 1) for _ in range(2))
    sign = rng.choice(["+", "-", "*", "//", "%", "**"])
    if sign == "**":
        left, right = f"({left})", str(rng.randint(0, 4))
    return rng.choice(
        [f"{left} {sign} {right}", f"({left}{sign}{right})", f"-({left}) {sign} +{right}"]
    )


def test_whole_numbers_are_those_of_python():
    rng, compared = random.Random(1), 0
    for _ in range(600):
        expression = whole_expression(rng, 4)
        try:
            expected = eval(expression)  # digits and signs only
        except ZeroDivisionError:
            with pytest.raises(ZeroDivisionError):
                calculate(expression)
            continue
        if abs(expected) < 10**290 and len(expression) < 1000:
            try:
                assert calculate(expression) == str(expected), expression
                compared += 1
            except ValueError as error:
                assert "1e300" in str(error)  # on the way  # noqa: PT017
    assert compared > 400


NAMES = CONSTANTS | {"ln": math.log, "abs": abs}
NAMES |= {name: getattr(math, name) for name in ("sqrt", "exp", "log10", "atan", "floor", "ceil")}


def float_expression(rng, depth):
    if not depth or rng.random() < 0.2:
        return rng.choice([f"{rng.uniform(0.1, 20):.3f}", str(rng.randint(1, 9)), "pi", "e"])
    left, right = (float_expression(rng, depth - 1) for _ in range(2))
    if rng.random() < 0.3:
        return f"{rng.choice([name for name in NAMES if name not in CONSTANTS])}({left})"
    return f"({left}{rng.choice(['+', '-', '*', '/', '**'])}{right})"


def test_other_numbers_are_close_to_those_of_python():
    rng, compared = random.Random(2), 0
    for _ in range(800):
        expression = float_expression(rng, 3)
        try:
            expected = eval(expression, {"__builtins__": {}}, NAMES)
        except (ValueError, ZeroDivisionError, OverflowError, TypeError):  # complex: no argument
            continue
        if isinstance(expected, complex):
            with pytest.raises(ValueError, match="is no real number"):
                calculate(expression)
        elif 1e-290 < abs(expected) < 1e290:
            try:
                got = float(calculate(expression))
            except ValueError as error:  # out of range on the way
                assert "1e" in str(error)  # noqa: PT017
                continue
            assert math.isclose(got, expected, rel_tol=1e-9), expression
            compared += 1
    assert compared > 500


def test_decimals_are_exact_where_floats_are_not():
    rng = random.Random(3)
    for _ in range(200):
        numbers = [f"{rng.randint(0, 10**6)}.{rng.randint(0, 999):03d}" for _ in range(6)]
        signs = [rng.choice("+-") for _ in numbers]
        expected = sum(
            (1 if s == "+" else -1) * Fraction(n) for s, n in zip(signs, numbers, strict=True)
        )
        got = calculate("".join(s + n for s, n in zip(signs, numbers, strict=True)))
        assert Fraction(got) == expected


def test_noise_is_answered_or_refused():
    rng = random.Random(4)
    pieces = [
        *"109.e()*/%-+,=１×['\\\n ",
        "pi",
        "**",
        "//",
        "sqrt(",
        "log(",
        "round(",
        "max(",
        "or",
    ]
    answered = 0
    for _ in range(3000):
        try:
            calculate("".join(rng.choices(pieces, k=rng.randint(1, 12))))
            answered += 1
        except (ValueError, ZeroDivisionError):
            pass
    assert answered > 50


def test_as_a_tool_it_takes_json_and_bare_expressions():
    tools = make_tools([calculator_tool()])
    for text in ('{"expression": "6 * 7"}', "6 * 7", "```\n6 * 7\n```", "`6*7`", "6×7="):
        assert call_tool(tools, "calculator", text) == ("42", False, ())
    assert call_tool(tools, "calculator", "1/0") == (
        "ZeroDivisionError: division by zero",
        True,
        (),
    )
    assert call_tool(tools, "calculator", '{"expr": "1"}').text == (
        "wrong arguments for calculator: "
        'expression is missing; the object must not hold "expr", it may hold: expression'
    )

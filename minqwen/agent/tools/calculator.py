"""A calculator: arithmetic that a model wrote, worked out exactly where that can be done.

    0.1 + 0.2  ->  0.3          1/3 + 1/3 + 1/3  ->  1          3 × （4 + 5） ÷ 2  ->  13.5

The text is divided into numbers, names and signs, read as a Python expression and walked as a
syntax tree. Nothing in it is ever run: a node that is not in the lists below is an error. How
numbers are kept and printed is told in exact_numbers.py.

Limits keep the time short, whatever is asked: 1000 characters, 100 levels of brackets and signs,
numbers from 1e-300 to 1e300. 9**9**9 is refused before it is worked out.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   Cobbe et al. 2021, arXiv:2110.14168, who gave a calculator to a model that learns sums.
Differs:  ^ is a power, as people write it, and not Python's exclusive or.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable

from ..tool import Tool
from .exact_functions import CONSTANTS, FUNCTIONS, call_function
from .exact_numbers import (
    Number,
    divide,
    floor_divide,
    in_range,
    multiply,
    power,
    printed,
    read_number,
)

LONGEST = 1000  # characters
DEEPEST = 100  # levels

SIGNS = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {  # full width
    "×": "*",
    "·": "*",
    "÷": "/",
    "−": "-",
    "–": "-",
    "²": "**2",
    "³": "**3",
    "π": "pi",
    "^": "**",
}
UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: lambda x: x,
    ast.USub: lambda x: -x,
}
BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: multiply,
    ast.Div: divide,
    ast.FloorDiv: floor_divide,
    ast.Mod: operator.mod,
    ast.Pow: power,
}
TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?P<stuck>[A-Za-z_.])?"
    r"|[A-Za-z]\w*|\*\*|//|[-+*/%(), ]",
    re.ASCII,
)


def calculate(expression: str) -> str:
    """Work out an expression.

    Args:
        expression: numbers, + - * / // % ** ^, brackets, pi, e and the functions of FUNCTIONS.
            Chinese and full-width signs will do, and an equals sign at the end.

    Returns:
        The number, printed as the head of exact_numbers.py says.

    Raises:
        ValueError: it is too long, nested too deeply, no arithmetic, or its result is not
            real or out of range.
        ZeroDivisionError: something is divided by zero.

    >>> calculate("0.1 + 0.2"), calculate("2^10 = "), calculate("１０÷４"), calculate("2 / 3")
    ('0.3', '1024', '2.5', '0.666666666667')
    >>> calculate("9**9**9")
    Traceback (most recent call last):
    ...
    ValueError: a number is larger than 1e300
    """
    if len(expression) > LONGEST:
        raise ValueError(
            f"the expression has {len(expression)} characters, at most {LONGEST} will do"
        )
    text = "".join(" " if sign.isspace() else SIGNS.get(sign, sign) for sign in expression)
    text = text.strip().rstrip("=? ")
    if not text:
        raise ValueError("the expression is empty")
    _require_tokens(text)
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        at_end = not 0 < (error.offset or 0) <= len(text)
        place = "its end" if at_end else f"character {error.offset}"
        hint = " (% is the remainder of a division)" if "%" in text else ""
        raise ValueError(f"{text[:80]!r} cannot be read at {place}: {error.msg}{hint}") from None
    except (RecursionError, MemoryError):
        raise ValueError(_too_deep()) from None
    try:
        return printed(_value(tree, text, 1))
    except ZeroDivisionError:
        raise ZeroDivisionError("division by zero") from None


def calculator_tool() -> Tool:
    """Make a tool of `calculate`, which takes an expression in JSON or bare.

    >>> tool = calculator_tool()
    >>> tool.name, tool.call(expression="6 * 7")
    ('calculator', '42')
    """
    return Tool(
        "calculator",
        "Calculator",
        "Works out an arithmetic expression exactly. Knows + - * / // % ** and brackets, pi, e, "
        f"{', '.join(FUNCTIONS)}. Angles are in radians.",
        {
            "type": "object",
            "properties": {
                "expression": {"type": "string", "description": "such as (3 + 4) * 2"},
            },
            "required": ["expression"],
            "additionalProperties": False,
        },
        calculate,
        code_argument="expression",
    )


def _require_tokens(text: str) -> None:
    """Raise ValueError at the first sign that no arithmetic has, a quote or a bracket [ say."""
    position = 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if not match:
            raise ValueError(f"the sign {text[position]!r} in {text[:80]!r} is not known")
        if match["stuck"]:
            raise ValueError(
                f"a sign is missing after {match['number']} in {text[:80]!r}, such as *"
            )
        position = match.end()


def _value(node: ast.expr, text: str, level: int) -> Number:
    """Return the value of a node; a sum of many terms, which leans left, costs one level."""
    if level > DEEPEST:
        raise ValueError(_too_deep())
    chain: list[ast.BinOp] = []
    while isinstance(node, ast.BinOp):
        chain.append(node)
        node = node.left
    value = _operand(node, text, level)
    for step in reversed(chain):
        if type(step.op) not in BINARY:
            raise ValueError(f"{ast.unparse(step)[:80]!r} is no arithmetic")
        value = in_range(BINARY[type(step.op)](value, _value(step.right, text, level + 1)))
    return value


def _operand(node: ast.expr, text: str, level: int) -> Number:
    source = text[node.col_offset : node.end_col_offset]  # ASCII: bytes are characters
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return in_range(read_number(source))
    if isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        return UNARY[type(node.op)](_value(node.operand, text, level + 1))
    if isinstance(node, ast.Name):
        if node.id in CONSTANTS:
            return CONSTANTS[node.id]
        known = ", ".join([*CONSTANTS, *FUNCTIONS])
        raise ValueError(f"{node.id[:40]!r} is not known; the names are: {known}")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return call_function(node.func.id, [_value(part, text, level + 1) for part in node.args])
    if isinstance(node, ast.Call):
        raise ValueError(f"a sign is missing before a bracket in {source[:80]!r}, such as *")
    if isinstance(node, ast.Tuple):
        raise ValueError("a comma divides the arguments of a function; write 1000, not 1,000")
    raise ValueError(f"{source[:80]!r} is no arithmetic")


def _too_deep() -> str:
    return f"brackets or signs are nested more than {DEEPEST} deep"

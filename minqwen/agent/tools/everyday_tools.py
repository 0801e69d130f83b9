"""Small tools of every day, as examples of `local_tool`: count words, convert units, add days.

Each is a plain function that tests and notebooks call like any other; `everyday_tools` makes tools
of them. A mistake in an argument that no schema can tell, such as kilometres in kilograms, is a
ValueError, which the model reads as an observation.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   the international inch and pound of 1959; the calendar is Gregorian throughout.
Differs:  nothing.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated

from ..tool import Tool
from .model_hub import WORD, local_tool

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
UNITS: dict[str, tuple[str, float, float]] = {  # kind; base = factor * value + offset
    "mm": ("length", 0.001, 0.0),
    "cm": ("length", 0.01, 0.0),
    "m": ("length", 1.0, 0.0),
    "km": ("length", 1000.0, 0.0),
    "inch": ("length", 0.0254, 0.0),
    "foot": ("length", 0.3048, 0.0),
    "mile": ("length", 1609.344, 0.0),
    "g": ("mass", 0.001, 0.0),
    "kg": ("mass", 1.0, 0.0),
    "jin": ("mass", 0.5, 0.0),
    "pound": ("mass", 0.45359237, 0.0),
    "second": ("time", 1.0, 0.0),
    "minute": ("time", 60.0, 0.0),
    "hour": ("time", 3600.0, 0.0),
    "day": ("time", 86400.0, 0.0),
    "kelvin": ("temperature", 1.0, 0.0),
    "celsius": ("temperature", 1.0, 273.15),
    "fahrenheit": ("temperature", 5 / 9, 459.67 * 5 / 9),
}


def everyday_tools() -> list[Tool]:
    """Make tools of the functions below.

    >>> [tool.name for tool in everyday_tools()]
    ['count_words', 'convert_unit', 'add_days']
    """
    return [local_tool(function) for function in (count_words, convert_unit, add_days)]


def count_words(text: Annotated[str, "any text"]) -> dict[str, int]:
    """Count the characters, words and lines of a text. A Chinese character is a word.

    >>> count_words("two words")
    {'characters': 9, 'words': 2, 'lines': 1}
    """
    lines = len(text.splitlines())
    return {"characters": len(text), "words": len(WORD.findall(text)), "lines": lines}


def convert_unit(
    value: float,
    unit: Annotated[str, f"one of {', '.join(UNITS)}"],
    to: Annotated[str, "the unit that is wanted"],
) -> str:
    """Convert a length, mass, time or temperature from one unit to another.

    >>> convert_unit(3, "km", "m"), convert_unit(212, "fahrenheit", "celsius")
    ('3000 m', '100 celsius')
    """
    for name in (unit, to):
        if name not in UNITS:
            raise ValueError(f"the unit {name[:40]!r} is not known; they are: {', '.join(UNITS)}")
    kind, factor, offset = UNITS[unit]
    wanted, to_factor, to_offset = UNITS[to]
    if kind != wanted:
        raise ValueError(f"{unit} is a {kind}, {to} is a {wanted}")
    result = (factor * value + offset - to_offset) / to_factor
    return f"{result:.10g} {to}"


def add_days(
    day: Annotated[str, "YYYY-MM-DD"], days: Annotated[int, "may be below zero"]
) -> dict[str, str]:
    """Say which date and day of the week comes a number of days after a date.

    >>> add_days("2024-02-28", 2)
    {'date': '2024-03-01', 'weekday': 'Friday'}
    """
    then = date.fromisoformat(day) + timedelta(days=days)
    return {"date": then.isoformat(), "weekday": DAYS[then.weekday()]}

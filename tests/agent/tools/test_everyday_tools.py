import pytest

from minqwen.agent.tool import call_tool, make_tools
from minqwen.agent.tools.everyday_tools import (
    DAYS,
    UNITS,
    add_days,
    convert_unit,
    count_words,
    everyday_tools,
)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", (0, 0, 0)),
        ("two words", (9, 2, 1)),
        ("one\n\nthree", (10, 2, 3)),
        ("大模型 LLM", (7, 4, 1)),
        ("it's snake_case!", (16, 4, 1)),
    ],
)
def test_words_are_counted(text, counts):
    assert tuple(count_words(text).values()) == counts


@pytest.mark.parametrize(
    ("value", "unit", "to", "result"),
    [
        (1, "mile", "km", "1.609344 km"),
        (12, "inch", "foot", "1 foot"),
        (100, "celsius", "fahrenheit", "212 fahrenheit"),
        (-40, "fahrenheit", "celsius", "-40 celsius"),
        (0, "kelvin", "celsius", "-273.15 celsius"),
        (2, "jin", "kg", "1 kg"),
        (1.5, "hour", "minute", "90 minute"),
    ],
)
def test_units_are_converted(value, unit, to, result):
    assert convert_unit(value, unit, to) == result


def test_there_and_back_is_the_same():
    for unit, (kind, _, _) in UNITS.items():
        for to in (name for name in UNITS if UNITS[name][0] == kind):
            there = float(convert_unit(37.5, unit, to).split()[0])
            back = float(convert_unit(there, to, unit).split()[0])
            assert back == pytest.approx(37.5, rel=1e-6), (unit, to)


@pytest.mark.parametrize(
    ("day", "days", "date", "weekday"),
    [
        ("2024-02-28", 1, "2024-02-29", "Thursday"),
        ("2023-12-31", 1, "2024-01-01", "Monday"),
        ("2024-03-01", -1, "2024-02-29", "Thursday"),
        ("2000-01-01", 0, "2000-01-01", "Saturday"),
    ],
)
def test_days_are_added(day, days, date, weekday):
    assert add_days(day, days) == {"date": date, "weekday": weekday}
    assert weekday in DAYS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("convert_unit", '{"value": 1, "unit": "km", "to": "kg"}', "km is a length, kg is a mass"),
        ("convert_unit", '{"value": 1, "unit": "ell", "to": "m"}', "the unit 'ell' is not known"),
        ("convert_unit", '{"value": "1", "unit": "m", "to": "m"}', "value must be a number"),
        ("add_days", '{"day": "30.11.2026", "days": 1}', "ValueError: Invalid isoformat string"),
        ("add_days", '{"day": "2026-11-30", "days": 99999999}', "OverflowError"),
        ("count_words", "{}", "text is missing"),
    ],
)
def test_mistakes_are_observations(name, text, message):
    seen = call_tool(make_tools(everyday_tools()), name, text)
    assert seen.error
    assert message in seen.text


def test_as_tools():
    tools = make_tools(everyday_tools())
    seen = call_tool(tools, "add_days", '{"day": "2026-11-30", "days": 1.0}')
    assert seen == ('{"date": "2026-12-01", "weekday": "Tuesday"}', False, ())
    unit = tools["convert_unit"].parameters["properties"]["unit"]
    assert "fahrenheit" in unit["description"]

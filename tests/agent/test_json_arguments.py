import json
import random

import pytest

from minqwen.agent.json_arguments import read_arguments

OBJECT = '{"n": 1, "rows": [{"猫": null}, -2.5e3], "s": "a\\n\\"b"}'
MEANT = json.loads(OBJECT)


@pytest.mark.parametrize(
    "text",
    [
        OBJECT,
        f" \n {OBJECT}\n",
        f"```json\n{OBJECT}\n```",
        f"```\n{OBJECT}\n```\nObserv",
        f"```JSON {OBJECT}```",
        f"`{OBJECT}`",
        f"{OBJECT}\nI shall wait for the {{result}}.",
        f"{OBJECT} Observ",
        json.dumps(MEANT, indent=4),
    ],
)
def test_one_object_is_found(text):
    assert read_arguments(text) == MEANT
    assert read_arguments(text, code_argument="n") == MEANT  # begins as an object that holds it


def test_a_real_line_break_in_a_text_is_taken():
    assert read_arguments('{"code": "a\n\tb"}') == {"code": "a\n\tb"}


@pytest.mark.parametrize("text", ["", "  \n"])
def test_nothing_is_no_arguments(text):
    assert read_arguments(text) == read_arguments(text, "code") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "must be a JSON object, {...}, got '3'"),
        ("null", "must be a JSON object, {...}, got 'null'"),
        ('"{}"', "must be a JSON object"),
        ('Here: {"n": 1}', "must be a JSON object, {...}, got 'Here:"),
        ("{'n': 1}", "line 1, column 2, near \"'n': 1}\" (JSON has double quotes)"),
        ('{"n": 1,\n "m" 2}', "expecting ':' delimiter at line 2, column 6, near '2}'"),
        ('{"n": tru}', "expecting value at line 1, column 7, near 'tru}'"),
        ('{"n": 1,}', "is not JSON"),
        ('{"n": "x', "unterminated string starting at line 1, column 7"),
        ('{"n": 1', "at its end"),
        ('{"n": 1}, "m": 2}', "ends before line 1, column 9, near ', \"m\": 2}'"),
        ('{"n": 1}}', "a brace too many, or too early"),
        ('{"n": 1} {"n": 2}', "a second object at line 1, column 10"),
        ('{"n": 1}\nor\n{"n": 2}', "a second object at line 3, column 1"),
        ('{"n": 1, "n": 1}', "has the key 'n' twice"),
        ('{"a": {"k": 1, "k": 2}}', "has the key 'k' twice"),
        ('{"n": NaN}', "holds NaN, which is no number of JSON"),
        ('{"n": [-Infinity]}', "holds -Infinity"),
        ('{"n": 1e999}', "holds 1e999, which is too large for a float"),
        ('{"n": ' + "9" * 1001 + "}", "holds a number of 1001 digits"),
        ('{"n": "\\ud800"}', "half a surrogate pair"),
        ('{"\\udfff": 1}', "half a surrogate pair"),
        ('{"a":' * 5000, "nested too deeply"),
    ],
)
def test_what_could_be_meant_in_two_ways_says_where(text, message):
    with pytest.raises(ValueError) as caught:
        read_arguments(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_whole_surrogate_pair_and_a_long_number_are_fine():
    assert read_arguments('{"a": "\\ud83d\\ude00", "b": %s}' % ("9" * 1000)) == {
        "a": "😀",
        "b": int("9" * 1000),
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("print(1)", "print(1)"),
        ("x = {'a': 1}\nx['a']", "x = {'a': 1}\nx['a']"),
        ("  for i in x:\n      print(i)", "for i in x:\n    print(i)"),
        ("```python\nif a:\n    b\n```", "if a:\n    b"),
        ("```\n  a\n  b\n```\nObserv", "a\nb"),
        ("```py\na", "a"),
        ("```py\na```", "a"),
        ("```py\r\na\r\n```\r\n", "a"),
        ("```py\ns = '```'\n```", "s = '```'"),
        ("```1 + 1```", "1 + 1"),
        ("`1 + 1`", "1 + 1"),
        ('{"a": 1}["a"]', '{"a": 1}["a"]'),
        ("{1, 2}", "{1, 2}"),
        ("```py\n{1: 2}\n```", "{1: 2}"),
        ('"text"', '"text"'),
    ],
)
def test_code_may_come_bare_or_in_a_fence(text, code):
    assert read_arguments(text, code_argument="code") == {"code": code}


@pytest.mark.parametrize(
    "text", ['{"code": "x"}', '```json\n{"code": "x"}\n```', '{ "code" : "x"}\nthen {wait}']
)
def test_an_object_that_holds_the_code_is_json(text):
    assert read_arguments(text, code_argument="code") == {"code": "x"}


def test_an_object_alone_is_json_even_without_the_code():
    assert read_arguments('{"kode": "x"}', code_argument="code") == {"kode": "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"code": "x', "is not JSON"),  # and is not run as Python
        ("```py\na\n```\nand\n```py\nb\n```", "two blocks of code"),
        ("First:\n```py\na\n```", "text before a block"),
    ],
)
def test_code_that_cannot_be_told_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        read_arguments(text, code_argument="code")


def test_what_json_writes_is_read_back():
    rng = random.Random(0)

    def value(depth):
        kinds = [None, True, rng.randint(-(10**20), 10**20), rng.uniform(-1e9, 1e9), '猫"\\\n{}']
        kind = rng.randrange(7 if depth else 5)
        if kind < 5:
            return kinds[kind]
        inner = [value(depth - 1) for _ in range(rng.randint(0, 3))]
        return inner if kind == 5 else {f"k{i}": item for i, item in enumerate(inner)}

    for _ in range(200):
        arguments = {f"key {i}": value(3) for i in range(rng.randint(1, 4))}
        for indent, ascii_only in ((None, True), (2, False)):
            text = json.dumps(arguments, indent=indent, ensure_ascii=ascii_only)
            assert read_arguments(text) == read_arguments(f"```json\n{text}\n```") == arguments


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{'a': 1}", "JSON has double quotes"),
        ('{"a": 1,}', "no comma may stand before it"),
        ('{"a": [1,]}', "no comma may stand before it"),
        ('{"a": 1 // one\n}', "JSON has no comments"),
        ('{"a": 1} # one, "b": 2}', ""),
        ('{# one\n"a": 1}', "JSON has no comments"),
        ('{"a": True}', "JSON writes true, false, null"),
        ('{"a": None}', "JSON writes true, false, null"),
    ],
)
def test_an_error_says_how_to_mend_it(text, hint):
    if not hint:
        assert read_arguments(text) == {"a": 1}
        return
    with pytest.raises(ValueError, match=hint):
        read_arguments(text)

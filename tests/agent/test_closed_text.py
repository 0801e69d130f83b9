"""Where JSON objects and blocks of code end, and what is neither."""

import json
import random

import pytest

from minqwen.agent.closed_text import closed_blocks, closed_input


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('{"a": {"b": "}"}}', '{"a": {"b": "}"}}'),
        (' \n{"a": 1} \nmore', ' \n{"a": 1}'),
        ('{"a": "one\ntwo"}', '{"a": "one\ntwo"}'),
        ("{}", "{}"),
        ('{"a": 1}["a"]', None),
        ('{"a": 1} Observation: 5', '{"a": 1}'),
        ('{"a": 1}Observ', '{"a": 1}'),
        ('{"a": 1}.b', None),
        ('{"a": 1', None),
        ("{'a': 1}", None),
        ('[{"a": 1}]', None),
        ('{"a": ' + "[" * 100_000, None),
        ('{"a": ' + "9" * 10_000 + "}", None),  # more digits than Python reads
        ("```\na\n```\nb", "```\na\n```"),
        ("\n  ```py\na\n  ```b", "\n  ```py\na\n  ```"),
        ("```py\na\n```py\nb\n```", "```py\na\n```"),
        ("```a``` b", "```a```"),
        ("```\na ``` b", None),
        ("``a``", None),
        ("a\n```\nb\n```", None),
        ("", None),
    ],
)
def test_an_input(text, want):
    assert closed_input(text, 0) == (None if want is None else len(want))
    before = 'Action Input: {"'
    end = closed_input(before + text, len(before))
    assert end == (None if want is None else len(before) + len(want))


def test_random_objects_end_where_they_end():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices('{}"\\`\n根: ', k=9))
        written = json.dumps({text: [text, {text: None}]}, ensure_ascii=rng.random() < 0.5)
        assert closed_input(written + "\n" + text, 0) == len(written)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", []),
        ("a", []),
        ("```\na\n```", ["```\na\n```"]),
        (" ```\na\n```\nb\n```c\nd\n ``` \ne", ["```\na\n```", "```c\nd\n ``` "]),
        ("```\n```py\n```", ["```\n```py\n```"]),
        ("a\n```\nb", []),
        ("a ```\nb\n```", []),
        ("```a```\n```\nb\n```", ["```\nb\n```"]),
    ],
)
def test_blocks(text, want):
    assert [text[first:last] for first, last in closed_blocks(text, 0)] == want
    assert [(a + 2, b + 2) for a, b in closed_blocks(text, 0)] == closed_blocks("x:" + text, 2)

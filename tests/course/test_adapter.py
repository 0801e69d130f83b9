"""How a student's file is asked goes to its process without a line of the answer."""

import ast

import pytest

from minqwen.check.specs import names, spec
from minqwen.course.adapter import adapter_text, defined_names, tuple_lengths


@pytest.mark.parametrize("name", names())
def test_the_adapter_knows_no_line_of_the_answer(name):
    concept = spec(name)
    text = adapter_text(concept)
    for mistake in (*concept.forward, *concept.backward):
        assert mistake.find not in text
        assert mistake.says not in text
    place: dict[str, object] = {}
    exec(compile(text, "adapter", "exec"), place)
    assert callable(place[concept.run.__name__])


def test_the_adapter_is_cut_to_what_it_needs():
    text = adapter_text(spec("bpe_encode"))
    assert "def id_of" in text
    assert "minqwen" not in text.replace("minqwen.check", "")
    assert "CHINESE" not in text
    assert defined_names(ast.parse("a, (b, c) = 1, (2, 3)").body[0]) == [
        "a",
        "b",
        "c",
    ]


def test_tuples_of_any_length_are_not_counted():
    code = "def f() -> tuple[int, ...]: ...\ndef g() -> list[int]: ...\ndef h(): ..."
    assert tuple_lengths(code, ["f", "g", "h"]) == {}

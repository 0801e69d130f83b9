"""The symptom clinic says nothing that the code does not: commands, names, files and numbers.

The numbers under each part are doctests, which pytest runs with all other pages.
"""

import argparse
import doctest
import pathlib
import re
import shlex

import pytest

from minqwen.check.explanation.mistakes_text import mistakes_named
from minqwen.check.explanation.subject import all_names
from minqwen.check.specs import names as spec_names
from minqwen.cli import build_parser
from minqwen.tokenizer.bpe import Tokenizer

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "symptom_clinic.md"
TEXT = PAGE.read_text(encoding="utf-8")
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROSE = CODE.sub("", TEXT)
QUOTED = [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", PROSE)]
COMMANDS = sorted({q for q in QUOTED if q.startswith("minqwen ")})
NAMES = sorted({q for q in QUOTED if re.fullmatch(r"[a-z_]+\.[\w-]+", q) and "/" not in q})
OTHER = {"my.py", "np.add"}
NUMBER = re.compile(r"(?<![\w.^])-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")


def parts():
    """Return (title, prose, code) of each part of the page."""
    found = []
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        title = part.splitlines()[0]
        found.append((title, CODE.sub("", part), "\n".join(CODE.findall(part))))
    return found


def symptoms():
    """Return (title, lines) of each symptom."""
    found = []
    for section in re.split(r"^### ", PROSE, flags=re.MULTILINE)[1:]:
        section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
        title, *lines = section.strip().splitlines()
        found.append((title, [line for line in lines if line.strip()]))
    return found


def test_the_page_has_its_parts():
    assert len(parts()) == 8
    assert 30 <= len(symptoms()) <= 45
    titles = [title for title, _ in symptoms()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(("title", "lines"), symptoms(), ids=[t for t, _ in symptoms()])
def test_a_symptom_is_short_and_ends_with_a_command(title, lines):
    assert 2 <= len(lines) <= 6
    assert all(line.startswith(("- ", "  ")) for line in lines)
    ask = " ".join(" ".join(lines).split("- Ask: ")[1:])
    assert ask.strip(), "no line says what to ask"
    assert "`minqwen " in ask
    assert len(" ".join(lines).split("- Ask: ")) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command):
    words = shlex.split(command)[1:]
    args = build_parser(words).parse_args(words)
    assert args.command == words[0]
    if args.command == "check" and args.concept is not None:
        assert args.concept in (spec_names() if args.impl else all_names())
    if args.command == "explain":
        concept = args.name.partition(".")[0]
        assert concept in all_names()


def test_the_parser_refuses_a_wrong_command():
    with pytest.raises(SystemExit):
        build_parser(["check"]).parse_args(["check", "rope", "--implementation", "my.py:f"])
    assert isinstance(build_parser(["check"]), argparse.ArgumentParser)


@pytest.mark.parametrize("name", NAMES)
def test_every_mistake_is_in_the_bank(name):
    if name in OTHER or name.endswith((".safetensors", ".npz", ".json", ".py", ".weight")):
        return
    assert mistakes_named(name)


def test_enough_mistakes_are_named():
    found = [name for name in NAMES if name.partition(".")[0] in spec_names()]
    assert len(found) >= 50
    assert len({name.partition(".")[0] for name in found}) >= 15


def test_every_file_and_function_exists():
    for quoted in QUOTED:
        if "/" in quoted and quoted.endswith((".py", ".md")) and " " not in quoted:
            assert (ROOT / quoted).exists(), quoted
    assert "`Tokenizer.stream_decoder`" in PROSE
    assert hasattr(Tokenizer, "stream_decoder")


@pytest.mark.parametrize(("title", "prose", "code"), parts(), ids=[t for t, _, _ in parts()])
def test_every_number_comes_from_the_code_below(title, prose, code):
    """A number of more than one digit stands in the code of its part, or in what it prints."""
    examples = doctest.DocTestParser().get_examples(code)
    assert examples
    known = set()
    for example in examples:
        for text in (example.source, example.want):
            known |= {value(n) for n in NUMBER.findall(re.sub(r"[_()\[\]=*/:]", " ", text))}
    words = re.sub(r"`[^`]*`", " ", prose)
    words = re.sub(r"Qwen[\d.]*", " ", words)
    for number in NUMBER.findall(words):
        plain = number.rstrip(",")
        if len(plain.lstrip("-")) > 1:
            assert any(close(value(plain), k, plain) for k in known), f"{plain} in {title}"


def value(number):
    """Return a number as it is written."""
    return float(number.replace(",", "").rstrip("."))


def close(a, b, written):
    """Say whether b, rounded to the digits of what was written, is a; a sign may be a dash."""
    if a == b or a == -b:
        return True
    if "e" in written or "." not in written:
        return False
    digits = len(written.split(".")[1])
    return digits >= 2 and round(abs(b), digits) == abs(a)


def test_every_line_of_code_with_a_result_has_one():
    for _, _, code in parts():
        examples = doctest.DocTestParser().get_examples(code)
        assert sum(bool(example.want) for example in examples) >= 3

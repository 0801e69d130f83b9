"""The proof that the checker works: mistakes in code that is not ours, and right code of others."""

import pathlib
import re

import pytest
from check.independent import proof
from check.independent.right import everything, installed
from helpers.scripts import load_script

from minqwen.check.compare import compare
from minqwen.check.specs import names
from minqwen.check.specs import spec as spec_of

ROOT = pathlib.Path(__file__).parent.parent.parent
STRANGERS = ROOT / "tests" / "check" / "strangers"
ALL = {one.name: one for one in proof.independents()}
SIDES = [(name, side) for name, one in ALL.items() for side in one.planted if one.planted[side]]
CHEAP = ("rmsnorm", "cosine_lr", "swiglu")
HERE = [name for name, one in ALL.items() if one.framework == "numpy"]


def make_table():
    return load_script(ROOT / "docs" / "make_checker_table.py")


def test_every_concept_of_the_bank_is_there():
    assert set(HERE) == set(names())


@pytest.mark.parametrize("name", ALL)
def test_the_code_is_not_ours(name):
    assert not re.search(r"import minqwen|from minqwen", ALL[name].source)


@pytest.mark.parametrize("name", ALL)
def test_every_mistake_of_the_bank_is_planted(name):
    one = ALL[name]
    for side in ("forward", "backward"):
        gone, unknown = proof.missing(one, side)
        assert not unknown
        if one.framework == "numpy":
            assert not gone
        assert not set(one.left_out[side]) & set(one.planted[side])


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_every_text_to_find_stands_once(name, side):
    one = ALL[name]
    for mistake in one.planted[side]:
        for edit in proof.edits_of(one, side, [mistake]):
            assert one.source.count(edit.find) == 1, (mistake, edit.find)
            assert edit.put != edit.find


@pytest.mark.parametrize("name", HERE)
def test_no_false_alarm_on_independent_code(name):
    side = "backward" if ALL[name].planted["backward"] else "forward"
    report = proof.report_of(ALL[name], side)
    assert report.ok, report
    assert not report.diagnoses


@pytest.mark.parametrize(("name", "side"), [s for s in SIDES if s[0] in CHEAP])
def test_single_mistakes_are_named(name, side):
    for outcome in proof.prove_singles(ALL[name], side, seed=1):
        assert outcome.caught, outcome
        assert outcome.named, outcome


def test_the_page_counts_what_is_planted():
    """The cheap part of freshness: a row for each file and side, with the number of mistakes."""
    module = make_table()
    text = module.PAGE.read_text(encoding="utf-8").split(module.BEGIN)[1].split(module.END)[0]
    found = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \| (\d+) \|", text, re.M)
    want = [
        (one.concept, side, module.CODE[one.framework], str(len(one.planted[side])))
        for one in ALL.values()
        for side in ("forward", "backward")
        if one.planted[side]
    ]
    assert found == want, "run: python docs/make_checker_table.py"


def test_the_page_shows_what_was_asked_for():
    """At least 95 % of single mistakes and 80 % of pairs are named, and nothing wrongly."""
    text = make_table().PAGE.read_text(encoding="utf-8")
    single, caught, named = re.search(
        r"(\d+) single mistakes: ([\d.]+) % caught, ([\d.]+) % named", text
    ).groups()
    assert int(single) >= sum(len(spec_of(n).forward) + len(spec_of(n).backward) for n in names())
    assert float(caught) == 100
    assert float(named) >= 95
    assert float(re.search(r"([\d.]+) % named. Wrong names given alone: 0\.", text)[1]) >= 80


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.skipif(not installed("torch", "transformers"), reason="PyTorch is not installed")
def test_the_page_is_fresh():
    module = make_table()
    fresh = module.page() == module.PAGE.read_text(encoding="utf-8")
    assert fresh, "run: python docs/make_checker_table.py"


@pytest.mark.slow
def test_no_false_alarm_on_right_code():
    bad = []
    for whose, concept, function, options in everything():
        with proof.quiet():
            report = compare(concept, function, **options)
        if not report.ok:
            bad.append(f"{whose}: {report}")
    assert not bad, "\n".join(bad)


def test_the_stranger_without_scale():
    """As a user runs it: their file in a process of its own, their names for our arguments."""
    report = compare(
        "causal_attention",
        f"{STRANGERS / 'attention_without_scale.py'}:self_attention",
        arguments={"q": "query", "k": "key", "v": "value"},
    )
    assert [d.mistakes[0].name for _, d in report.diagnoses] == ["no_scale"]


@pytest.mark.parity
@pytest.mark.parametrize(
    ("concept", "target", "name"),
    [
        ("rope", "rotary_interleaved.py:apply_rotary", "interleaved"),
        ("swiglu", "swiglu_swapped.py:feed_forward", "branches_swapped"),
    ],
)
def test_strangers_in_torch(concept, target, name):
    pytest.importorskip("torch")
    report = compare(concept, f"{STRANGERS}/{target}", framework="torch")
    assert not report.ok
    assert [d.mistakes[0].name for _, d in report.diagnoses] == [name]
    assert report.diagnoses[0][1].whole

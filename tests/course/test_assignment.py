"""assignment.json: checked field by field, written as a whole, and points that sum exactly."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from minqwen.check.specs import names
from minqwen.course.assignment import (
    Assignment,
    apportion,
    points_of,
    read_assignment,
    write_assignment,
)
from minqwen.course.ladder import LADDER, PRESETS

HW = Assignment("hw1", "Homework 1", ("linear", "rmsnorm", "rope"), hidden_seed=2**62 + 1)


def test_a_round_trip_by_file_and_by_folder(tmp_path):
    this = replace(HW, lang="zh", title="作业一", variants={"rope": "interleaved"})
    write_assignment(this, tmp_path)
    assert read_assignment(tmp_path) == this == read_assignment(tmp_path / "assignment.json")
    assert "作业一" in (tmp_path / "assignment.json").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["assignment.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, r"name must be letters, digits"),
        ({"name": "../hw"}, r"name must be letters"),
        ({"title": "two\nlines"}, r"title must be one line"),
        ({"title": 3}, r"title must be a text, got 3"),
        ({"exercises": []}, r"exercises must name at least one"),
        ({"exercises": "rmsnorm"}, r"exercises must be a list of names"),
        ({"exercises": ["rmsnorm", "rmsnorm"]}, r"'rmsnorm' twice"),
        ({"exercises": ["norm"]}, r"no exercise 'norm'; the ladder has linear"),
        ({"exercises": ["attention", "causal_attention"]}, r"attention and .* are one function"),
        ({"points": 2}, r"points must be at least 1 for each of 3 exercises, got 2"),
        ({"points": "100"}, r"points must be a whole number, got '100'"),
        ({"points": True}, r"points must be a whole number, got True"),
        ({"lang": "de"}, r"lang must be en or zh, got 'de'"),
        ({"hint": 3}, r"hint must be 0, 1 or 2"),
        ({"public_seed": -1}, r"public_seed must be 0 or more"),
        ({"hidden_seed": "7"}, r"hidden_seed must be a number or null"),
        ({"variants": ["rope"]}, r"variants must be an object"),
        ({"variants": {"gae": "x"}}, r"variants: 'gae' is not in the exercises"),
        ({"variants": {"rope": "x"}}, r"no variant rope=x; there are"),
        ({"more": 1}, r"unknown field 'more'"),
    ],
)
def test_every_field_is_checked(tmp_path, change, message):
    write_assignment(HW, tmp_path)
    path = tmp_path / "assignment.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_assignment(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.skipif("decoder_block" not in names(), reason="no spec of the block yet")
def test_the_norm_of_a_block_stays():
    with pytest.raises(ValueError, match="rmsnorm cannot change where block is an exercise"):
        Assignment("a", "A", ("rmsnorm", "block"), variants={"rmsnorm": "gain_plus_one"})


def test_a_missing_field_and_no_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no assignment .*`minqwen assign` writes one"):
        read_assignment(tmp_path)
    path = tmp_path / "assignment.json"
    for text, message in (("{", "is no JSON"), ("[]", "must hold an object"), ("{}", "lacks")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_assignment(path)


@pytest.mark.parametrize("points", [16, 17, 23, 50, 99, 100, 101, 1000])
def test_points_sum_exactly_and_nobody_gets_none(points):
    weights = {name: i + 1 for i, name in enumerate(PRESETS["ladder"])}
    shares = apportion(points, weights)
    assert sum(shares.values()) == points
    assert min(shares.values()) >= 1
    values = list(shares.values())
    assert all(b >= a - 1 for a, b in pairwise(values))


def test_the_ladder_of_100_points_is_as_written():
    this = Assignment("x", "x", ("linear", "rmsnorm", "attention"), points=20)
    assert points_of(this) == {"linear": 4, "rmsnorm": 6, "attention": 10}
    written = {one.name: one.points for one in LADDER}
    assert apportion(100, written) == written

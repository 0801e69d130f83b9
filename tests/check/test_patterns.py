"""How two arrays differ, in sentences; what axes are called; the difference of an output."""

import re
from pathlib import Path

import numpy as np
import pytest

import minqwen.check
from minqwen.check.axes import NAMES, in_words, letters
from minqwen.check.difference import find_difference, two_numbers
from minqwen.check.limits import limit
from minqwen.check.patterns import patterns, rounded
from minqwen.check.specs import names, spec

ORDER = "the right numbers in another order along "


def told(change, shape=(2, 3, 5, 8), axes=("B", "H", "T", "Dh")):
    x = np.random.default_rng(0).standard_normal(shape)
    return told_of(change(x), x, axes, {"Dh": 8, "H": 3})


def told_of(got, want, axes, sizes=None, whole=False, close=1e-12):
    return patterns(got, want, np.abs(got - want) > close, list(axes), close, sizes, whole)


@pytest.mark.parametrize(
    ("change", "sentence"),
    {
        "every number has the wrong sign": lambda x: -x,
        "all numbers are 0.353553 times the right ones, that is 1 / sqrt(Dh)": lambda x: x / 8**0.5,
        "all numbers are 0.693147 times the right ones, that is ln 2": lambda x: x * np.log(2),
        "all numbers are 3 times the right ones, that is H": lambda x: 3 * x,
        "all numbers are the right ones plus 2": lambda x: x + 2,
        "every number is zero": lambda x: 0 * x,
        "the right numbers, one place later along time": lambda x: np.roll(
            np.concatenate((x[:, :, :1] * 0, x), axis=2)[:, :, :5], 0, axis=2
        ),
        "the right numbers in another order along feature: the two halves are interleaved": (
            lambda x: x[..., [0, 4, 1, 5, 2, 6, 3, 7]]
        ),
        ORDER + "feature: the even ones first, then the odd ones": (
            lambda x: x[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        ),
        "the right numbers in another order along feature: the two halves are exchanged": (
            lambda x: np.roll(x, 4, axis=-1)
        ),
        "the right numbers in another order along time: backwards": lambda x: x[:, :, ::-1],
        "the right numbers in another order along head: number 1, 0, 2 of the right ones": (
            lambda x: x[:, [1, 0, 2]]
        ),
        "each feature has a factor of its own: 1, 2, 3, 4, ...": lambda x: x * np.arange(1, 9),
        "only head 1 of 3 is wrong": lambda x: x + np.array([0, 1, 0])[:, None, None] * x**2,
        "wrong from time 3 on; before it everything is right": (
            lambda x: x + (np.arange(5) >= 3)[:, None] * x**2
        ),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_patterns(change, sentence):
    if isinstance(change, str):
        change, sentence = sentence, change
    assert sentence in told(change)


def test_patterns_that_are_none():
    assert told(lambda x: x**3) == []
    x = np.random.default_rng(0).standard_normal((6, 6))
    assert told_of(x.T, x, "TS")[0] == "the right numbers transposed: time and key are exchanged"
    heads = np.repeat(np.random.default_rng(0).standard_normal((2, 5)), 2, axis=0)
    tiled = told_of(heads[[0, 2, 0, 2]], heads, ["H", "Dh"])
    assert "tiled" in tiled[0]
    assert list(rounded(x * (1 + 2**-9), x)) == []
    half = x.astype(np.float16).astype(np.float64)
    assert list(rounded(half, x)) == ["every number is a float16 number: they were rounded to it"]


RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 5, 8))
AXES = ("B", "H", "T", "Dh")


@pytest.mark.parametrize(
    ("factor", "digits"), [(1 + 1e-7, "1.0000001"), (1 - 1e-8, "0.99999999"), (1.5, "1.5")]
)
def test_a_factor_never_reads_as_one(factor, digits):
    (said,) = told_of(X * factor, X, AXES)
    assert said == f"all numbers are {digits} times the right ones"


def test_what_is_no_factor():
    assert not any("times" in s for s in told_of(X + 1e-3 * X**3, X, AXES))
    one_number = np.zeros(4)
    one_number[2] = 3.0
    assert not any("times" in s for s in told_of(2 * one_number, one_number, ["T"]))
    assert told_of(X - 2, X, AXES)[0] == "all numbers are the right ones minus 2"
    assert told_of(X * 7, X, AXES, {"Hkv": 7})[0].endswith(", that is Hkv")
    assert told_of(X / 7, X, AXES, {"Hkv": 7})[0].endswith(", that is 1 / Hkv")
    assert told_of(X * 7**0.5, X, AXES, {"Hkv": 7})[0].endswith(", that is sqrt(Hkv)")
    assert told_of(X / 2, X, AXES, {"H": 2, "B": 2})[0].endswith(", that is 1 / 2 or 1 / H")
    assert "that is" not in told_of(X * 7.001, X, AXES, {"Hkv": 7})[0]
    assert told_of(X * (1 + 1e-13), X, AXES) == []  # within what is no difference


def test_shifts_and_orders():
    later = np.concatenate((RNG.standard_normal((2, 3, 2, 8)), X[:, :, :3]), axis=2)
    assert told_of(later, X, AXES)[0] == "the right numbers, 2 places later along time"
    earlier = np.concatenate((X[:, :, 1:], RNG.standard_normal((2, 3, 1, 8))), axis=2)
    assert told_of(earlier, X, AXES)[0] == "the right numbers, one place earlier along time"
    assert (
        told_of(X[::-1], X, AXES)[0] == "the right numbers in another order along batch: backwards"
    )
    row = RNG.standard_normal(5)
    assert told_of(row[[1, 0, 2, 4, 3]], row, ["T"])[0] == (
        "the right numbers in another order along time: number 1, 0, 2, 4, 3 of the right ones"
    )
    assert told_of(row[[0, 0, 2, 3, 4]], row, ["T"]) == ["only time 1 of 5 is wrong"]
    shuffled = RNG.permutation(X.ravel()).reshape(X.shape)
    assert told_of(shuffled, X, AXES) == ["the right numbers, all of them, in other places"]
    turned = X.reshape(2, 3, 4, 10).swapaxes(-1, -2).reshape(X.shape)
    assert told_of(turned, X, AXES)[0] == "the right numbers, all of them, in other places"
    nine = RNG.standard_normal((9, 2))
    said = told_of(nine[[0, 3, 6, 1, 4, 7, 2, 5, 8]], nine, "TD")[0]
    assert said.endswith("along time: as if (3, 3) of them were transposed")
    same = np.ones((4, 3))  # rows that are alike have no order
    assert told_of(same + np.eye(4, 3), same, "TD") == [
        "wrong up to time 2; after it everything is right"
    ]


def test_added_numbers_and_factors_of_an_index():
    added = told_of(X + np.arange(8.0), X, AXES)
    assert added[0] == "each feature has a number of its own added: 0, 1, 2, 3, ..."
    heads = told_of(X * np.array([1.0, 2.0, -1.0])[:, None, None], X, AXES)
    assert heads[0] == "each head has a factor of its own: 1, 2, -1"


def test_which_entries():
    def of(bad):
        wrong = np.zeros((9, 3), bool)
        wrong[bad] = True
        return told_of(
            np.where(wrong, 7 + X.ravel()[:27].reshape(9, 3) ** 3, 0), np.zeros((9, 3)), "TD"
        )

    assert of([4]) == ["only time 4 of 9 is wrong"]
    assert of([8]) == ["only time the last is wrong"]
    assert of([0, 1]) == ["wrong up to time 1; after it everything is right"]
    assert of([6, 7, 8]) == ["wrong from time 6 on; before it everything is right"]
    assert of([1, 4]) == ["wrong only at time 1, 4"]
    assert of([1, 3, 5, 7, 8]) == []  # most of them: that is no pattern
    assert told_of(np.ones((2, 2)), np.zeros((2, 2)), ["", ""])[0].startswith("all numbers are")
    bad = np.zeros((3, 4))
    bad[:, 2] = 5.0
    assert told_of(bad, bad * 0, ["", ""]) == ["only axis 1, index 2 of 4 is wrong"]


def test_what_is_not_finite():
    want = X.copy()
    got = X.copy()
    got[:, :, 4] = np.nan
    assert told_of(got, want, AXES) == [
        "NaN or infinity in 48 of 240 entries, where the right numbers are finite",
        "only time the last is wrong",
    ]
    want[:, :, 4] = np.inf
    assert patterns(X, want, X != want, list(AXES), 1e-12) == [
        "finite numbers in 48 of 48 entries where the right ones are NaN or infinity",
        "only time the last is wrong",
    ]
    assert told_of(0 * X, X, AXES) == ["every number is zero"]


def test_whole_numbers_have_no_scale():
    ids = np.array([[3, 1, 4], [1, 5, 9]])
    for got in (2 * ids, -ids, ids * ids, ids * np.array([1, 2, 3])):
        said = patterns(got * 1.0, ids * 1.0, got != ids, ["N", "K"], 1e-9, {}, True)
        assert not any("times" in s or "sign" in s or "factor" in s for s in said)
    off_by_one = find_difference(ids + 1, ids, "N K", 0.5)
    assert off_by_one.patterns == ("all numbers are the right ones plus 1",)
    assert off_by_one.whole
    assert off_by_one.ulps is None
    assert find_difference(ids[:, ::-1], ids, "N K", 0.5).patterns[0].endswith("choice: backwards")
    assert not find_difference(ids + 0.5, ids, "N K", 0.5).whole
    assert not find_difference(ids + 1, ids * 1.0, "N K", 0.5).whole


def test_the_letters_of_every_spec_have_a_name():
    used = {
        letter
        for name in names()
        for axes in spec(name).axes.values()
        for letter in axes.split()
        if letter != "..."
    }
    assert {"M", "2", "Dout", "Dh/2"} <= used
    assert used <= NAMES.keys(), used - NAMES.keys()
    source = Path(minqwen.check.__file__).parent / "tracing" / "trace_names.py"
    recorded = re.findall(r'"((?:B|N)(?: [A-Za-z*]+)+)"', source.read_text(encoding="utf-8"))
    assert recorded
    known = {part for axes in recorded for letter in axes.split() for part in letter.split("*")}
    assert known <= NAMES.keys()
    assert in_words((3, 1), "M 2") == "merge 3, member 1"
    assert in_words((2,), "Dh/2") == "pair 2"
    assert in_words((1, 0), "Dout Din") == "output feature 1, input feature 0"
    assert letters("B T", 3) == ["", "", ""]


def test_numbers_are_written_so_that_they_differ():
    assert two_numbers(1.0000001, 1.00000011) == ("1.0000001", "1.00000011")
    assert two_numbers(1.0, 1.0 + 2**-52) == ("1", "1.0000000000000002")


def test_differences_in_low_precision_have_a_pattern():
    """What is close follows the dtype in which the numbers were computed."""
    want = RNG.standard_normal((4, 8))
    got = (want[::-1] * (1 + 1e-7 * RNG.standard_normal((4, 8)))).astype(np.float32)
    found = find_difference(got, want, "T D", limit("float32"), "float32")
    assert found.patterns == ("the right numbers in another order along time: backwards",)

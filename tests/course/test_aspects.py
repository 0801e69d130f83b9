"""Points: they sum to what there is, and each aspect counts what it says."""

from fractions import Fraction

import pytest

from minqwen.check.facets import Facet
from minqwen.check.specs import names, spec
from minqwen.course.aspects import (
    ASPECTS,
    NO_VALUES,
    ROWS,
    VISIBLE,
    aspects_of,
    earned,
    share_of,
    split_points,
)

RMSNORM, GAE = spec("rmsnorm"), spec("gae")


def test_the_weights_are_those_of_the_page():
    assert ASPECTS == {
        "shape": 10,
        "values": 35,
        "hard inputs": 15,
        "gradient": 25,
        "stability": 15,
    }
    assert set(VISIBLE) < set(ROWS)


@pytest.mark.parametrize("name", names())
def test_shares_sum_to_one(name):
    shares = aspects_of(spec(name))
    assert sum(shares.values()) == 1
    assert ("gradient" in shares) == (spec(name).pull is not None)
    assert list(shares) == [row for row in ROWS if row in shares]


def test_what_is_missing_goes_to_the_others_in_proportion():
    shares = aspects_of(GAE)
    assert "gradient" not in shares
    assert shares["values"] + shares["more values"] == Fraction(35, 75)


@pytest.mark.parametrize("points", [1, 3, 7, 100])
def test_points_are_shared_out_exactly(points):
    cents = split_points(points, aspects_of(GAE))
    assert sum(cents.values()) == points
    assert all((100 * x).denominator == 1 for x in cents.values())


def test_only_all_of_it_earns_all_of_it():
    most = Fraction(1, 100)
    assert earned(most, Fraction(99, 100)) == 0
    assert earned(most, Fraction(1)) == most


def test_shape_is_all_or_nothing_and_needs_all_ordinary_inputs():
    shape = Facet("shape", True, "")
    assert share_of("shape", RMSNORM, [Facet("runs", True, ""), shape]) == 1
    fails_on_hard = Facet("runs", False, "it runs on ordinary inputs, and fails on zeros")
    assert share_of("shape", RMSNORM, [fails_on_hard, shape]) == 1
    assert share_of("shape", RMSNORM, [Facet("runs", False, "f raised"), shape]) == 0
    assert share_of("shape", RMSNORM, []) == 0


def test_inputs_that_gave_no_answer_are_wrong():
    hard = Facet("hard inputs", True, "", right=3, asked=3)  # the fourth raised
    assert share_of("hard inputs", RMSNORM, [hard]) == Fraction(3, 4)
    assert share_of("values", RMSNORM, [Facet("values", False, "", right=1, asked=2)]) == (
        Fraction(1, 2)
    )


def test_gradients_count_each_input_of_each():
    x = Facet("gradient of x", True, "", right=5, asked=5)
    w = Facet("gradient of w", False, "", right=1, asked=5)
    assert share_of("gradient", RMSNORM, [x, w]) == Fraction(6, 10)
    fewer = [Facet("gradient of x", True, "", right=4, asked=4),
             Facet("gradient of w", True, "", right=4, asked=4)]  # fmt: skip
    assert share_of("gradient", RMSNORM, fewer) == Fraction(4, 5)


def test_a_gradient_that_fits_a_wrong_forward_is_half():
    assert share_of("gradient", RMSNORM, [Facet("gradients", None, "fits")]) == Fraction(1, 2)
    assert share_of("gradient", RMSNORM, [Facet("gradients", False, "does not")]) == 0
    assert share_of("gradient", RMSNORM, []) == 0


def test_stability_needs_a_right_value_and_skips_what_cannot_be_asked():
    values = Facet("values", False, "", right=1, asked=2)
    good = [Facet(n, True, "") for n in ("dtype", "purity")]
    assert share_of("stability", RMSNORM, [values, *good]) == 1
    assert share_of("stability", RMSNORM, [Facet("values", False, "", 0, 2), *good]) == 0
    skipped = Facet("half precision", None, "could not be tried")
    lost = Facet("float32", None, NO_VALUES)
    assert share_of("stability", RMSNORM, [values, *good, skipped, lost]) == Fraction(2, 3)

"""The engine of the checker, one rule at a time: each test fails where a rule is left out."""

import dataclasses
import json

import numpy as np
import pytest

from minqwen.check import diagnose as engine
from minqwen.check.compare import compare, is_fine
from minqwen.check.diagnose import Tried, diagnose, doubts, enough, fits
from minqwen.check.difference import find_difference
from minqwen.check.edited import Edit, edited_module, edited_text
from minqwen.check.facets import shape_facet, size_word
from minqwen.check.limits import limit, units_off
from minqwen.check.outside.messages import Problem, Reply
from minqwen.check.outside.worker import InProcess
from minqwen.check.patterns import patterns
from minqwen.check.questions import Questions, rounded
from minqwen.check.spec import Mistake, Probe
from minqwen.check.specs import spec
from minqwen.layers import moe

UNIT = 2.0**-53


def rmsnorm(x, w, eps=1e-6):
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    y = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * w.astype(wide.dtype)
    return y.astype(x.dtype)


def rmsnorm_gradients(x, w, eps, dy):
    r = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    g = dy * w
    dx = r * g - r**3 * x * (g * x).mean(-1, keepdims=True)
    return dx, (dy * x * r).reshape(-1, len(w)).sum(0)


def facet(report, name):
    return next(f for f in report.facets if f.name == name)


# --- which mistake it is: answers from a table, one column for each input -------------------------

RNG = np.random.default_rng(5)
RIGHT, A, B, C = (RNG.standard_normal((4, 3)) for _ in range(4))
PROBES = [Probe(f"input {i}", lambda rng: {}, "an input", hard=i == 3) for i in range(4)]
LINEAR = spec("linear")
ROUTER = dataclasses.replace(LINEAR, exact=("y",))


def mistake(name, kind="error", find=""):
    return Mistake(name, find or name, "", "", "", kind)


def mixed(*rows):
    """Return a column of answers for every input; None where the function raises."""
    return [None if row is None else row[i] for i, row in enumerate(rows)]


def found(monkeypatch, theirs, bank, of=LINEAR, pairs=True, numeric=()):
    """Diagnose answers; bank: answers by the name of a mistake, or of a pair "a+b"."""
    tried = [
        Tried(
            PROBES[i],
            {},
            {} if got is None else {"y": got},
            {"y": RIGHT[i]},
            got is not None and fits(of, {"y": got}, {"y": RIGHT[i]}, {}, "float64"),
            got is None,
        )
        for i, got in enumerate(theirs)
    ]
    monkeypatch.setattr(engine, "modules", lambda spec, choices: ((c, c) for c in choices))

    def answer(chosen, one):
        column = bank.get("+".join(m.name for m in chosen), RIGHT)
        got = column[PROBES.index(one.probe)]
        if got is None:
            raise ValueError("shapes")
        return {"y": got}

    mistakes = [
        mistake(name, "numeric" if name in numeric else "error") for name in bank if "+" not in name
    ]
    return diagnose(of, tried, mistakes, answer, pairs=pairs)


def names_of(diagnoses):
    return [[m.name for m in one.mistakes] for one in diagnoses]


def test_a_mistake_that_gives_all_numbers_is_named_with_those_that_give_the_same(monkeypatch):
    (one,) = found(monkeypatch, A, {"b": B, "a": A, "again": A.copy()})
    assert one.whole
    assert names_of([one]) == [["a"]]
    assert [[m.name for m in other] for other in one.also] == [["again"]]
    assert (one.agree, one.tried, one.raises, one.numbers) == (4, 4, 0, 12)
    assert one.explains == ("input 0", "input 1", "input 2", "input 3")
    assert found(monkeypatch, RIGHT, {"a": A}) == []


def test_a_mistake_that_would_spoil_a_right_input_is_not_named(monkeypatch):
    theirs = mixed(A, A, A, RIGHT)
    assert found(monkeypatch, theirs, {"a": A}) == []
    assert names_of(found(monkeypatch, theirs, {"a": mixed(A, A, B, RIGHT)})) == [["a"]]


def test_a_partial_fit_explains_half_and_an_ordinary_input(monkeypatch):
    theirs = mixed(A, A, B, B)
    (one,) = found(monkeypatch, theirs, {"b": mixed(C, A, C, C), "a": mixed(A, A, C, C)})
    assert not one.whole
    assert names_of([one]) == [["a"]]
    assert (one.agree, one.tried, one.numbers) == (2, 4, 6)
    assert (one.explains, one.leaves) == (("input 0", "input 1"), ("input 2", "input 3"))
    assert found(monkeypatch, theirs, {"b": mixed(C, A, C, C)}) == []  # a quarter
    theirs = mixed(RIGHT, RIGHT, A, B)
    assert found(monkeypatch, theirs, {"b": mixed(RIGHT, RIGHT, C, B)}) == []  # a hard one only
    flat = np.zeros((4, 3))
    assert found(monkeypatch, mixed(flat, flat, B, B), {"a": mixed(flat, flat, C, C)}) == []


def test_of_two_partial_fits_the_one_that_explains_more_is_named(monkeypatch):
    bank = {"less": mixed(A, A, C, C), "more": mixed(A, A, A, C)}
    assert names_of(found(monkeypatch, A, bank)) == [["more"]]


def test_pairs_are_asked_where_one_is_not_enough(monkeypatch):
    bank = {"a": A, "b": B, "a+b": C}
    (one,) = found(monkeypatch, C, bank)
    assert one.whole
    assert names_of([one]) == [["a", "b"]]
    assert found(monkeypatch, C, bank, pairs=False) == []
    assert names_of(found(monkeypatch, A, {"a": A, "b": B, "a+b": A})) == [["a"]]


def test_of_equal_pairs_the_least_doubtful_is_named(monkeypatch):
    bank = {"x": A, "a": A, "b": B, "x+a": C, "a+b": C}
    (one,) = found(monkeypatch, C, bank, numeric="x")  # its constants may be others
    assert names_of([one]) == [["a", "b"]]
    assert [[m.name for m in pair] for pair in one.also] == [["x", "a"]]
    a, b, c = mistake("a"), mistake("b", find="line"), mistake("c", find="the line")
    x = mistake("x", "numeric")
    assert doubts((a, b), [(a, b), (a, c)]) == (1, 0)  # the same line, b or c: who can tell
    assert doubts((a, b), [(a, b), (a, x)]) == (0, 0)
    assert doubts((a, x), [(a, b), (a, x)]) == (0, 1)


def test_nan_for_infinity_fits_a_numeric_mistake_only(monkeypatch):
    theirs, other = A.copy(), A.copy()
    theirs[1, 1], other[1, 1] = np.inf, np.nan
    assert names_of(found(monkeypatch, theirs, {"a": other}, numeric="a")) == [["a"]]
    (one,) = found(monkeypatch, theirs, {"a": other})
    assert one.leaves == ("input 1",)


def test_raising_agrees_with_raising_only(monkeypatch):
    theirs = mixed(A, None, A, A)
    (one,) = found(monkeypatch, theirs, {"a": mixed(A, None, A, A)})
    assert (one.whole, one.raises, one.numbers) == (True, 1, 9)
    (one,) = found(monkeypatch, theirs, {"a": A})  # numbers where theirs raises
    assert one.leaves == ("input 1",)
    (one,) = found(monkeypatch, A, {"a": mixed(A, None, A, A)})  # raises where theirs does not
    assert one.leaves == ("input 1",)
    assert found(monkeypatch, mixed(RIGHT, None, RIGHT, RIGHT), {"a": theirs}) == []
    only = mixed(None, None, RIGHT, RIGHT)  # that it raises is no evidence
    assert found(monkeypatch, only, {"a": only}) == []


def test_whole_numbers_need_three_different_answers(monkeypatch):
    ids = np.arange(12).reshape(4, 3) + 50
    assert names_of(found(monkeypatch, ids, {"a": ids}, ROUTER)) == [["a"]]
    two = ids[[0, 1, 0, 1]]
    assert found(monkeypatch, two, {"a": two}, ROUTER) == []
    assert names_of(found(monkeypatch, two * 1.0, {"a": two * 1.0})) == [["a"]]  # no whole numbers
    one = [Tried(PROBES[0], {}, {"y": ids[0]}, {"y": ids[0]}, False)] * 3
    other = Tried(PROBES[1], {}, {}, {"y": ids[1]}, False, raised=True)
    assert not enough(ROUTER, [*one, other])
    assert enough(LINEAR, one)


def test_whole_numbers_are_equal_or_not():
    assert fits(ROUTER, {"y": np.array([100])}, {"y": np.array([100])}, {}, "float64")
    assert not fits(ROUTER, {"y": np.array([100])}, {"y": np.array([101])}, {}, "float64")
    assert not fits(ROUTER, {"y": np.array([1 + 1e-15])}, {"y": np.array([1.0])}, {}, "float64")
    assert fits(LINEAR, {"y": np.array([1 + 1e-15])}, {"y": np.array([1.0])}, {}, "float64")


def test_what_has_another_shape_or_is_not_there_does_not_fit():
    ones = {"y": np.ones((2, 3)), "z": np.ones(2)}
    assert fits(LINEAR, ones, ones, {}, "float64")
    for other in ({"y": np.ones((1, 3))}, {"y": np.ones(3)}, {"y": np.ones((2, 3, 1))}, {"x": 1}):
        assert not fits(LINEAR, {"y": np.ones((2, 3))}, other, {}, "float64")
    assert not fits(LINEAR, ones, {**ones, "z": np.zeros(2)}, {}, "float64")  # the second is wrong


def test_digits_that_float32_cannot_hold():
    def fine(*got):
        return is_fine(Tried(PROBES[0], {}, dict(zip("yz", got, strict=False)), {}, True))

    assert fine(np.array([0.5, 0.1]))
    assert fine(np.array([0.5]), np.array([0.1]))
    assert not fine(np.array([0.5, 0.25]), np.array([2**30 + 1]))


def test_the_limit_of_a_fit():
    """Four times that of a right answer for a mistake, which may enlarge rounding."""
    one = {"y": np.ones(2)}
    for units, right, alike in ((127, True, True), (130, False, True), (514, False, False)):
        other = {"y": 1 + np.array([0, units * UNIT])}
        assert fits(LINEAR, other, one, {}, "float64", slack=1.0) is right
        assert fits(LINEAR, other, one, {}, "float64") is alike


# --- how far is far -------------------------------------------------------------------------------


def test_limits():
    assert limit("float64") == limit("float64", terms=8) == 128
    assert limit("float64", terms=256, depth=4) == 1024
    assert (limit("float32"), limit("float16"), limit("bfloat16")) == (32, 4, 4)
    assert limit("bfloat16", terms=10**6, depth=4) == 8


def test_the_scale_in_float64_is_that_of_a_row_and_at_least_the_rms_of_all():
    row = np.array([[1.0, 1e-9]])
    off = units_off(row + [[0, UNIT]], row, "float64")
    assert off[0, 1] == pytest.approx(1, rel=1e-3)  # not 1e9: of the row, not of the entry
    want = np.zeros((100, 1))
    want[0] = 1
    got = want.copy()
    got[7] = UNIT
    assert units_off(got, want, "float64")[7, 0] == pytest.approx(10)  # the rms is 0.1
    two = np.array([[1e6, 1e6], [1e5, 1e5]])
    got = two * (1 + 64 * UNIT)
    rms = np.sqrt((1e12 + 1e10) / 2)
    assert units_off(got, two, "float64")[1] == pytest.approx(64 * 1e5 / rms, rel=0.05)
    assert units_off(got, two, "float32")[1] == pytest.approx(6.4 * 2**-29, rel=0.05)


def test_no_number_equals_only_no_number():
    nan, inf = np.nan, np.inf
    got = np.array([nan, 1.0, inf, nan, nan, inf, -inf, 1.0])
    want = np.array([1.0, nan, 1.0, nan, inf, inf, inf, 1.0])
    assert units_off(got, want, "float64").tolist() == [inf, inf, inf, 0, inf, 0, inf, 0]


def test_a_difference_is_counted_placed_and_measured():
    want = np.array([[4.0, 1.0, 2.0], [1.0, 2.0, 1.0]])
    got = want * (1 + 2**-52)  # rounding everywhere
    assert find_difference(got, want, "B T", 128) is None
    got[0, 2] += 4e-3
    got[1, 1] += 8e-3
    one = find_difference(got, want, "B T", 128)
    assert (one.wrong, one.total) == (2, 6)
    assert one.place == (1, 1)  # time 1, though it stands later in memory
    assert one.error == pytest.approx(2e-3)  # the largest, over the largest number
    assert (one.got, one.want) == (got[1, 1], 2.0)
    got = want.copy()
    got[0, 2] += 6 * 2.0**-52 * 2
    assert find_difference(got, want, "B T", 1).ulps == 6
    got[0, 0] = np.nan
    assert find_difference(got, want, "B T", 128).error == np.inf


def test_the_size_of_an_error_is_that_of_the_worst_output():
    got = {"a": np.array([2.0, 1.0]), "b": np.array([1.5, 1.0]), "ids": np.array([1, 0])}
    want = {"a": np.ones(2), "b": np.ones(2), "ids": np.ones(2, int)}
    found = {f"input 0: {n}": find_difference(got[n], want[n], "T", 0.5) for n in got}
    of = dataclasses.replace(LINEAR, exact=("ids",))
    one = Tried(PROBES[0], {}, got, want, False)
    assert size_word(of, one, found) == "off by 1"
    ids = one._replace(got={"ids": got["ids"]})
    assert size_word(of, ids, found) == "1 of 2 entries"
    assert size_word(of, one._replace(raised=True, got={}), found) == "it raises"
    assert size_word(of, one, {}) == "another shape"


def test_a_factor_explains_all_numbers_or_is_not_told():
    want = RNG.standard_normal((4, 6))
    got = 1.5 * want
    got[0, 0] += 1e-10
    said = patterns(got, want, np.abs(got - want) > 1e-12, ["B", "T"], 1e-12)
    assert not any("times" in line for line in said)


# --- what is asked --------------------------------------------------------------------------------


def test_the_upstream_gradient_is_random():
    """A backward for the sum of y, which takes no notice of dy, is right with ones only."""

    def of_the_sum(x, w, eps, dy):
        return rmsnorm_gradients(x, w, eps, np.ones_like(dy))

    report = compare("rmsnorm", rmsnorm, of_the_sum)
    assert facet(report, "gradient of x").ok is False
    assert facet(report, "gradient of w").ok is False
    with InProcess(rmsnorm, outputs=("y",)) as function:
        asked = Questions(spec("rmsnorm"), function, 0)
        for probe in asked.spec.probes:
            (dy,) = asked.upstream(probe)
            assert dy.shape == asked.make(probe)["x"].shape
            assert len(np.unique(dy)) == dy.size
            np.testing.assert_array_equal(dy, asked.upstream(probe)[0])


def test_gradients_are_asked_where_the_function_is_smooth_and_only_there():
    got = []

    def backward(x, w, eps, dy):
        got.append(x.copy())
        return rmsnorm_gradients(x, w, eps, dy)

    report = compare("rmsnorm", rmsnorm, backward)
    assert report.ok
    smooth = [probe.name for probe in spec("rmsnorm").probes if probe.gradient]
    assert facet(report, "gradient of x").says == f"right on 5 inputs: {', '.join(smooth)}"
    assert not any((x == 0).all(-1).any() for x in got)


def test_inputs_follow_the_seed():
    def seen(seed):
        given = []

        def function(x, w, eps):
            given.append(x.copy())
            return rmsnorm(x, w, eps)

        compare("rmsnorm", function, seed=seed)
        return given[0]

    np.testing.assert_array_equal(seen(3), seen(3))
    assert not np.array_equal(seen(3), seen(4))


def test_inputs_are_rounded_to_the_dtype():
    third = {"x": np.array([1 / 3]), "k": 3, "ids": np.array([7])}
    for dtype, digits in (("float64", 53), ("float32", 24), ("float16", 11), ("bfloat16", 8)):
        got = rounded(third, dtype)
        assert got["x"].dtype == np.float64
        scaled = got["x"][0] * 2.0 ** (digits + 1)
        assert scaled == round(scaled)  # so many digits and no more
        assert abs(got["x"][0] - 1 / 3) <= 2.0 ** -(digits + 1)
        assert (got["k"], got["ids"].tolist()) == (3, [7])


def test_of_what_hangs_no_new_input_is_asked():
    calls = []

    class Hangs:
        def forward(self, arguments, dtype="float64"):
            calls.append(arguments)
            return Reply(problem=Problem("hung", "it does not end"))

    asked = Questions(spec("rmsnorm"), Hangs(), 0)
    first = asked.spec.probes[0]
    for _ in range(3):
        assert asked.forward(first).problem.says == "it does not end"
    assert len(calls) == 1  # the reply is kept
    problems = [asked.forward(probe).problem for probe in asked.spec.probes]
    assert len(calls) == 2
    assert problems[-1].says == "it was stopped too often, so it was not called any more"


# --- precision, purity and the rest ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "error", "question"),
    [
        ("float32", 1e-5, "float32"),
        ("float16", 0.01, "half precision"),
        ("bfloat16", 0.06, "half precision"),
    ],
)
def test_a_loss_of_digits_in_one_dtype_shows(dtype, error, question):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")

    def coarse(x, w, eps):
        y = rmsnorm(x, w, eps)
        return (y.astype(float) * (1 + error)).astype(y.dtype) if x.dtype.name == dtype else y

    report = compare("rmsnorm", coarse)
    assert facet(report, question).ok is False
    assert f"{dtype} " in facet(report, question).says
    assert [f.name for f in report.facets if f.ok is False] == [question]


def test_a_loss_of_digits_on_one_input_shows():
    def coarse(x, w, eps):  # on the first input only
        y = rmsnorm(x, w, eps)
        return y * x.dtype.type(1 + 1e-5) if x.dtype == np.float32 and x.shape[-1] == 11 else y

    assert facet(compare("rmsnorm", coarse), "float32").ok is False


def test_what_raises_in_float32_is_not_right():
    def wide_only(x, w, eps):
        if x.dtype == np.float32:
            raise TypeError("float64 only")
        return rmsnorm(x, w, eps)

    report = compare("rmsnorm", wide_only)
    assert facet(report, "float32").ok is False
    assert "wide_only raised TypeError: float64 only" in facet(report, "float32").says


def test_no_number_in_low_precision_is_said():
    def overflows(x, w, eps):
        y = rmsnorm(x, w, eps)
        return np.where(x > 0, np.nan, y).astype(y.dtype) if x.dtype == np.float16 else y

    says = facet(compare("rmsnorm", overflows), "half precision").says
    assert says == (
        "float16, ordinary vectors: NaN or infinity in y, where the right numbers are finite"
    )


def test_an_argument_changed_on_one_input_shows():
    def changes(x, w, eps):
        y = rmsnorm(x, w, eps)
        if x.ndim == 2 and len(x) == 1:  # the last input
            w += 1
        return y

    report = compare("rmsnorm", changes)
    assert facet(report, "purity").says == "it changes its argument w: copy before you write"
    assert not report.ok


def test_a_missing_output_is_told_and_what_follows_is_the_cache():
    report = compare("moe_router", lambda x, w, K, norm_topk_prob: x @ w.T)
    says = "the function returned 1 value; 2 are needed: expert_weights, expert_ids"
    assert facet(report, "runs").says.startswith(says)
    assert compare("rmsnorm", lambda x, w, eps: (rmsnorm(x, w, eps), x)).ok
    y = np.ones(2)  # a reply is not believed either
    for outputs in ((), (y, y)):
        told = shape_facet(LINEAR, [(PROBES[0], Reply(outputs), {"y": y})])
        assert told.ok is False
        assert told.says == f"it returns {len(outputs)} arrays, it must return y"
    assert shape_facet(LINEAR, [(PROBES[0], Reply((y,)), {"y": y})]).ok


def test_an_output_of_another_shape_is_told():
    report = compare("rmsnorm", lambda x, w, eps: rmsnorm(x, w, eps)[..., None])
    assert "y, ordinary vectors: the shape is (2, 3, 11, 1)" in facet(report, "shape").says
    assert not report.ok


def test_two_calls_with_other_numbers_show():
    calls = []

    def counts(x, w, eps):
        calls.append(0)
        first = x.dtype == np.float64 and len(calls) <= len(spec("rmsnorm").probes)
        return rmsnorm(x, w, eps) * x.dtype.type(1 if first else 1 + 2**-52)

    report = compare("rmsnorm", counts)
    assert facet(report, "determinism").ok is False
    assert [f.name for f in report.facets if f.ok is False] == ["determinism"]


def test_what_raises_on_a_hard_input_only_is_not_right():
    def fails(x, w, eps):
        if (x == 0).any():
            raise ZeroDivisionError("division by zero")
        return rmsnorm(x, w, eps)

    report = compare("rmsnorm", fails)
    assert not report.ok
    assert facet(report, "runs").ok is False
    assert "vectors of zeros" in facet(report, "runs").says
    assert facet(report, "values").ok


def test_a_gradient_of_another_shape_is_told():
    def backward(x, w, eps, dy):
        dx, dw = rmsnorm_gradients(x, w, eps, dy)
        return dx, dw[None]

    report = compare("rmsnorm", rmsnorm, backward)
    assert facet(report, "gradient of w").ok is False
    assert "it must be that of w, (" in facet(report, "gradient of w").says
    assert facet(report, "gradient of x").ok


def test_with_an_accepted_convention_gradients_have_five_digits():
    def forward(x, w, eps):
        return rmsnorm(x, 1 + w, eps)

    def backward(x, w, eps, dy):
        return rmsnorm_gradients(x, 1 + w, eps, dy)

    def nearly(x, w, eps, dy):
        dx, dw = backward(x, w, eps, dy)
        return dx * (1 + 1e-3), dw

    accept = ["rmsnorm.gain_plus_one"]
    assert compare("rmsnorm", forward, backward, accept=accept).ok
    report = compare("rmsnorm", forward, nearly, accept=accept)
    assert facet(report, "gradient of x").ok is False
    assert facet(report, "gradient of w").ok


def test_another_order_of_equals_leaves_the_other_questions():
    """It is no fault, so precision is asked as of a right function."""

    def router(x, w, K, norm_topk_prob):
        z = x.astype(float) @ w.T.astype(float)
        p = np.exp(z - z.max(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        ids = np.argsort(p, kind="stable")[:, ::-1][:, :K]
        weights = np.take_along_axis(p, ids, -1)
        if norm_topk_prob:
            weights = weights / weights.sum(-1, keepdims=True)
        return weights.astype(x.dtype), ids

    report = compare("moe_router", router)
    assert facet(report, "ties").ok is None
    assert facet(report, "float32").ok
    assert facet(report, "half precision").ok


# --- the report -----------------------------------------------------------------------------------


def test_a_hint_gives_as_much_as_was_asked_for():
    def eps_outside(x, w, eps):
        return x / (np.sqrt((x**2).mean(-1, keepdims=True)) + eps) * w

    report = compare("rmsnorm", eps_outside)
    line = "+ 1.0 / (xp.sqrt("
    assert [line in report.text(hint) for hint in (0, 1, 2)] == [False, False, True]
    named = ["eps_outside" in report.text(hint).partition("\n")[2] for hint in (0, 1)]
    assert named == [False, True]
    assert ["first difference" in report.text(hint) for hint in (0, 1)] == [False, True]
    none = json.dumps(report.to_dict(hint=0))
    assert "rmsnorm.eps_outside" not in none
    assert all(f["differences"] == {} for f in report.to_dict(hint=0)["facets"])
    assert any(f["differences"] for f in report.to_dict(hint=1)["facets"])


def test_a_convention_beside_a_mistake_is_not_called_fine():
    report = compare(
        "rmsnorm", lambda x, w, eps: rmsnorm(x - x.mean(-1, keepdims=True), 1 + w, eps)
    )
    ((_, one),) = report.diagnoses
    assert {m.kind for m in one.mistakes} == {"error", "convention"}
    assert "not bad maths" not in report.text()


def test_the_first_difference_is_one_that_matters():
    def small_then_large(x, w, eps):
        return rmsnorm(x, w, eps) * (1 + (1e-9 if x.shape[-1] == 11 else 0.5))

    text = compare("rmsnorm", small_then_large).text()
    assert "first difference, other sizes: y at " in text
    same = compare("rmsnorm", lambda x, w, eps: 1.5 * rmsnorm(x, w, eps)).text()
    assert "first difference, ordinary: y at " in same


def test_what_was_accepted_is_not_told_as_a_mistake():
    def plus_one(x, w, eps):
        return rmsnorm(x, 1 + w, eps)

    told = compare("rmsnorm", plus_one).text()
    assert "forward looks exactly like: rmsnorm.gain_plus_one" in told
    text = " ".join(str(compare("rmsnorm", plus_one, accept=["rmsnorm.gain_plus_one"])).split())
    assert "right, with a convention that was accepted: rmsnorm.gain_plus_one" in text
    assert "looks exactly like" not in text


def test_no_number_can_be_held_by_json():
    report = compare("rmsnorm", lambda x, w, eps: np.where(x > 0, np.nan, rmsnorm(x, w, eps)))
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    one = next(iter(next(f for f in data["facets"] if f["differences"])["differences"].values()))
    assert one["error"] == "inf"
    assert one["got"] == "nan"


# --- our file with a line changed -----------------------------------------------------------------


def test_an_edit_stands_once():
    for text in ("a = b\na = c\n", "c = b\n"):
        with pytest.raises(ValueError, match=r"'a = ' stands \d times, not once"):
            edited_text(text, [Edit("", "a = ", "d = ")])
    touching = [Edit("", "ab", "x"), Edit("", "bc", "y")]
    assert edited_text("abcd", touching) is None
    assert edited_text("abcd", [Edit("", "ab", "x"), Edit("", "cd", "y")]) == "xy"


def test_an_edit_in_another_file_acts_and_ours_stays():
    edit = Edit("minqwen.layers.moe_router", "top_k(probs, K)", "top_k(-probs, K)")
    copy = edited_module(moe.__name__, [edit])
    changed = {
        name
        for name, value in vars(copy).items()
        if getattr(value, "__module__", "") == "minqwen.layers.moe_router_edited"
    }
    assert "moe_router_forward" in changed
    x, w = np.eye(3), np.array([[2.0, 0, 0], [0, 1, 0], [1, 0, 3]])
    assert moe.moe_router_forward(x, w, 1)[1].ravel().tolist() == [0, 1, 2]
    assert copy.moe_router_forward(x, w, 1)[1].ravel().tolist() == [1, 0, 0]

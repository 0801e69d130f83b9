"""The checker as a whole: what it says of right and of wrong functions, in usable words."""

import json

import numpy as np
import pytest

from minqwen.check.compare import compare
from minqwen.check.difference import find_difference
from minqwen.check.limits import limit, units_off
from minqwen.check.specs import names, spec
from minqwen.cli import main


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


def names_of(report):
    return [(side, tuple(m.name for m in d.mistakes)) for side, d in report.diagnoses]


def test_a_right_function_is_right():
    report = compare("rmsnorm", rmsnorm, rmsnorm_gradients)
    assert report.ok
    assert not report.diagnoses
    asked = {f.name for f in report.facets if f.ok}
    assert asked == {
        *("runs", "shape", "values", "hard inputs", "purity", "dtype", "determinism"),
        *("gradient of x", "gradient of w", "float32", "half precision"),
    }
    report.raise_if_wrong()
    assert "two forwards may come before two backwards" in facet(report, "purity").says


def eps_outside(x, w, eps):
    return x / (np.sqrt((x**2).mean(-1, keepdims=True)) + eps) * w


def layer_norm(x, w, eps):
    return rmsnorm(x - x.mean(-1, keepdims=True), w, eps)


def layer_norm_of_the_sum(x, w, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).sum(-1, keepdims=True) + eps) * w


def unit_offset(x, w, eps):
    return rmsnorm(x, 1 + w, eps)


@pytest.mark.parametrize(
    ("function", "mistakes"),
    [
        (eps_outside, {"eps_outside"}),
        (layer_norm, {"centred"}),
        (layer_norm_of_the_sum, {"centred", "sum_for_mean"}),
    ],
)
def test_a_mistake_or_a_pair_is_named(function, mistakes):
    report = compare("rmsnorm", function)
    assert not report.ok
    ((side, found),) = names_of(report)
    assert (side, set(found)) == ("forward", mistakes)
    text = report.text()
    for name in mistakes:
        assert f"rmsnorm.{name}" in text
    assert "the numbers are the same on" in text
    with pytest.raises(AssertionError, match="looks exactly like"):
        report.raise_if_wrong()


def test_a_convention_can_be_accepted():
    report = compare("rmsnorm", unit_offset)
    assert not report.ok
    assert "This is another convention, not bad maths." in str(report)
    report = compare("rmsnorm", unit_offset, accept=["rmsnorm.gain_plus_one"])
    assert report.ok
    assert "a convention that was accepted" in str(report)


def test_of_an_unknown_mistake_nothing_is_guessed():
    report = compare("rmsnorm", lambda x, w, eps: np.cbrt(rmsnorm(x, w, eps)))
    assert not report.ok
    assert not report.diagnoses
    assert "so no guess is made" in str(report)


def test_a_mistake_that_shows_on_hard_inputs_only():
    def gone(x, w, eps):  # right unless a whole vector is zero
        with np.errstate(all="ignore"):
            return x / np.sqrt((x**2).mean(-1, keepdims=True)) * w

    report = compare("rmsnorm", gone)
    assert names_of(report) == [("forward", ("no_eps",))]
    assert "zeros" in facet(report, "hard inputs").says


def test_a_wrong_backward_is_named_and_forward_is_not():
    def backward(x, w, eps, dy):
        _, dw = rmsnorm_gradients(x, w, eps, dy)
        return dy * w / np.sqrt((x**2).mean(-1, keepdims=True) + eps), dw

    report = compare("rmsnorm", rmsnorm, backward)
    assert names_of(report) == [("backward", ("rms_constant",))]
    assert facet(report, "gradient of w").ok
    assert not facet(report, "gradient of x").ok


def test_a_backward_may_fit_a_wrong_forward():
    def forward(x, w, eps):
        return 2 * rmsnorm(x, w, eps)

    def backward(x, w, eps, dy):
        return rmsnorm_gradients(x, w, eps, 2 * dy)

    report = compare("rmsnorm", forward, backward)
    assert "repair the forward only" in facet(report, "gradients").says
    assert "2 times the right ones" in str(report)
    report = compare("rmsnorm", forward, rmsnorm_gradients)
    assert "does not fit it either" in facet(report, "gradients").says


def test_what_is_not_a_matter_of_values():
    def changes(x, w, eps):
        x /= np.sqrt((x**2).mean(-1, keepdims=True) + eps)
        return x * w

    assert "changes its argument x" in facet(compare("rmsnorm", changes), "purity").says

    def widens(x, w, eps):
        return rmsnorm(x.astype(np.float64), w.astype(np.float64), eps)

    report = compare("rmsnorm", widens)
    assert "y is float64 for float32 inputs" in facet(report, "dtype").says
    assert facet(report, "values").ok

    def as_a_list(x, w, eps):
        return rmsnorm(x, w, eps).tolist()

    report = compare("rmsnorm", as_a_list)
    assert facet(report, "dtype").ok
    assert "made an array of it" in report.notes[0]

    def loss(logits, labels, loss_mask):
        z = logits.astype(float)
        lse = np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1)) + z.max(-1)
        nll = lse - np.take_along_axis(z, np.maximum(labels, 0)[..., None], -1)[..., 0]
        counts = (labels != -100) & (True if loss_mask is None else loss_mask)
        return float(nll[counts].mean()) if counts.any() else 0.0

    assert facet(compare("cross_entropy", loss), "dtype").ok  # a loss may be wider

    generator = np.random.default_rng(0)

    def dropout_left_on(x, w, eps):
        return rmsnorm(x, w, eps) * (generator.random(x.shape) > 0.1)

    report = compare("rmsnorm", dropout_left_on)
    assert "different numbers" in facet(report, "determinism").says
    assert not report.diagnoses

    def flat(x, w, eps):
        return rmsnorm(x, w, eps).reshape(-1, x.shape[-1])

    report = compare("rmsnorm", flat)
    assert "as many numbers, in another shape" in facet(report, "shape").says

    def overflows(x, w, eps):  # in float16, whose largest number is 65504
        x = x * x.dtype.type(300)
        y = x / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(min(9e4 * eps, 6e4))) * w
        return y.astype(x.dtype)

    with np.errstate(over="ignore"):
        report = compare("rmsnorm", overflows)
    assert facet(report, "float32").ok
    assert "float16" in facet(report, "half precision").says
    assert not facet(report, "half precision").ok

    kept = {}

    def forward(x, w, eps):
        kept["x"] = x
        return rmsnorm(x, w, eps), (w, eps)

    def backward(dy, cache):
        return rmsnorm_gradients(kept["x"], *cache, dy)

    report = compare("rmsnorm", forward, backward)
    assert "kept outside the cache" in facet(report, "purity").says


def test_float32_inside_is_a_note_and_no_mistake():
    def single(x, w, eps):
        return rmsnorm(x.astype(np.float32), w.astype(np.float32), eps).astype(x.dtype)

    report = compare("rmsnorm", single)
    assert facet(report, "values").ok
    assert "it computes in float32" in report.notes[0]


@pytest.mark.parametrize("name", names())
def test_our_own_functions_in_float32_are_no_mistake(name):
    """As libraries do that compute in float32 whatever they are given."""
    import importlib

    s = spec(name)
    module = importlib.import_module(s.module)

    def single(*given):
        outputs = s.run(module, dict(zip(s.arguments, given, strict=True)))
        outputs = [
            y.astype(np.float32).astype(float) if y.dtype.kind == "f" else y
            for y in map(np.asarray, outputs)
        ]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    report = compare(s, single)
    for name in ("runs", "shape", "values", "hard inputs"):
        assert facet(report, name).ok is not False, report


def test_a_small_error_is_no_rounding():
    report = compare("rmsnorm", lambda x, w, eps: rmsnorm(x, w, eps) * (1 + 1e-12))
    assert not report.ok
    assert not facet(report, "values").ok


def test_a_mistake_must_fit_where_the_function_is_right_too():
    def here_and_there(x, w, eps):  # the mistake on tiny inputs only
        return (eps_outside if 0 < np.abs(x).max() < 0.1 else rmsnorm)(x, w, eps)

    report = compare("rmsnorm", here_and_there)
    assert not report.ok
    assert not report.diagnoses


def test_zeros_are_no_known_mistake():
    for name in ("rmsnorm", "causal_attention", "swiglu", "rope"):
        s = spec(name)
        report = compare(name, lambda *given: np.zeros_like(given[0]))
        assert not report.ok
        assert not [d for _, d in report.diagnoses if not d.whole], (s.name, str(report))


def test_only_conventions_can_be_accepted_and_nothing_beside_them():
    with pytest.raises(ValueError, match=r"'rmsnorm\.eps_outside' is no convention of rmsnorm"):
        compare("rmsnorm", eps_outside, accept=["rmsnorm.eps_outside"])
    with pytest.raises(ValueError, match=r"there are .*rmsnorm\.gain_plus_one"):
        compare("rmsnorm", unit_offset, accept=["gain_plus_one"])
    accept = ["rmsnorm.gain_plus_one"]
    assert not compare("rmsnorm", unit_offset, rmsnorm_gradients, accept=accept).ok

    def fits(x, w, eps, dy):
        return rmsnorm_gradients(x, 1 + w, eps, dy)

    report = compare("rmsnorm", unit_offset, fits, accept=accept)
    assert report.ok
    assert "fits the accepted convention on 5 inputs" in facet(report, "gradient of x").says

    def no_number(x, w, eps, dy):
        return np.full_like(x, np.nan), np.full_like(w, np.nan)

    assert not compare("rmsnorm", unit_offset, no_number, accept=accept).ok

    def changes(x, w, eps):
        y = unit_offset(x, w, eps)
        x += 1
        return y

    assert not compare("rmsnorm", changes, accept=accept).ok

    def centred_too(x, w, eps):
        return rmsnorm(x - x.mean(-1, keepdims=True), 1 + w, eps)

    assert not compare("rmsnorm", centred_too, accept=accept).ok


def test_whole_numbers_are_compared_as_they_are():
    def ids_in_another_order(x, w, num_experts_per_tok, norm_topk_prob):
        z = x.astype(float) @ w.T.astype(float)
        p = np.exp(z - z.max(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        ids = np.argsort(-p, axis=-1, kind="stable")[:, :num_experts_per_tok]
        weights = np.take_along_axis(p, ids, -1)
        if norm_topk_prob:
            weights = weights / weights.sum(-1, keepdims=True)
        return weights.astype(x.dtype), np.sort(ids, axis=-1)

    report = compare("moe_router", ids_in_another_order)
    assert not report.ok
    assert [m.name for _, d in report.diagnoses for m in d.mistakes] == ["ids_sorted"], report


def test_a_function_that_does_not_run():
    def broken(x, w, eps):
        raise KeyError("weight")

    report = compare("rmsnorm", broken)
    assert not report.ok
    assert [f.name for f in report.facets] == ["runs"]
    assert "KeyError" in report.facets[0].says


def test_wrong_uses_are_refused():
    with pytest.raises(ValueError, match="no concept 'rmsprop' to check; there are"):
        compare("rmsprop", rmsnorm)
    with pytest.raises(ValueError, match="rmsnorm has no argument weight"):
        compare("rmsnorm", rmsnorm, arguments={"weight": "w"})
    with pytest.raises(ValueError, match="backward must be one too"):
        compare("rmsnorm", rmsnorm, "file.py:backward")


@pytest.mark.parametrize("name", names())
def test_our_own_functions_are_right(name):
    """Through the spec, in float64; tests of the concepts prove the other dtypes."""
    import importlib

    s = spec(name)
    module = importlib.import_module(s.module)

    def ours(*given):
        wide = [x.astype(float) if getattr(x, "dtype", None) == "float32" else x for x in given]
        outputs = s.run(module, dict(zip(s.arguments, wide, strict=True)))
        return outputs[0] if len(outputs) == 1 else outputs

    report = compare(s, ours)
    for name in ("runs", "shape", "values", "hard inputs", "purity", "determinism"):
        assert facet(report, name).ok is not False, report


def test_the_report_as_data_and_as_markdown():
    report = compare("rmsnorm", eps_outside)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["ok"] is False
    assert data["diagnoses"][0]["names"] == ["rmsnorm.eps_outside"]
    assert "| WRONG | values |" in report.markdown()
    assert "looks exactly like" not in report.text(hint=0)
    hidden = json.dumps(report.to_dict(hint=0))
    assert "want" not in hidden
    assert 'says": ["eps' not in hidden
    assert report.to_dict(hint=0)["diagnoses"] == []
    assert "+ 1.0 / (xp.sqrt(" in report.text(hint=2)


def test_the_command(tmp_path, capsys):
    file = tmp_path / "hw.py"
    file.write_text(
        "import numpy as np\n\ndef norm(a, gain, eps=1e-6):\n"
        "    return a / np.sqrt((a * a).mean(-1, keepdims=True) + eps) * gain\n\n"
        "def wrong(a, gain, eps=1e-6):\n    return a / (a * a).mean(-1, keepdims=True) ** 0.5\n",
        encoding="utf-8",
    )
    command = ["check", "rmsnorm", "--map", "x=a,w=gain", "--impl"]
    assert main([*command, f"{file}:norm"]) == 0
    assert "right" in capsys.readouterr().out.splitlines()[0]
    assert main([*command, f"{file}:wrong", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["diagnoses"][0]["names"]
    assert set(found) == {"rmsnorm.no_gain", "rmsnorm.no_eps"}
    assert main(["check", "--list"]) == 0
    assert "rmsnorm(x, w, eps) -> y" in capsys.readouterr().out
    assert main(["check", "--impl", f"{file}:norm"]) == 2
    assert "say which concept" in capsys.readouterr().err


def test_differences_in_words():
    want = np.arange(1.0, 25).reshape(2, 3, 4)
    for got, pattern in (
        (-want, "every number has the wrong sign"),
        (want * 3**-0.5, "that is 1 / sqrt(3)"),
        (want + 2, "plus 2"),
        (want[:, ::-1], "in another order along time"),
        (np.where(np.arange(3)[:, None] == 2, 0, want), "only time the last is wrong"),
        (want * np.array([1.0, 2, 3])[:, None], "each time has a factor of its own: 1, 2, 3"),
        (np.where(want > 20, np.nan, want), "NaN or infinity in 4 of 24 entries"),
    ):
        found = find_difference(got, want, "B T D", limit("float64"))
        assert any(pattern in line for line in found.patterns), (pattern, found.patterns)
    changed = want.copy()
    changed[1, 1, 2] = changed[0, 2, 0] = 99
    found = find_difference(changed, want, "B T D", limit("float64"))
    assert found.place == (1, 1, 2)  # first in time, not in memory
    assert found.where == "batch 1, time 1, feature 2"
    assert find_difference(want * (1 + 1e-15), want, "B T D", limit("float64")) is None


def test_units_of_rounding():
    want = np.array([1.0, 1e-9])
    assert units_off(want + 2**-24, want, "float32").max() <= 1  # of the scale, not of the entry
    assert units_off(np.array([np.nan, 1.0]), np.array([np.nan, np.inf]), "float64").tolist() == [
        0,
        np.inf,
    ]

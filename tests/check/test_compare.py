"""The checker as a whole: what it says of right and of wrong functions, in usable words."""

import importlib.util
import json
import re

import numpy as np
import pytest

from minqwen.check.compare import Comparison, compare
from minqwen.check.diagnose import fits
from minqwen.check.difference import find_difference
from minqwen.check.limits import limit, units_off
from minqwen.check.outside.worker import Worker
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

    report = compare("cross_entropy", loss)
    assert facet(report, "dtype").ok  # a loss may be wider
    assert report.notes == ["the function returned a float, not an array of numpy: converted"]

    def yields(x, w, eps):
        yield rmsnorm(x, w, eps)

    says = facet(compare("rmsnorm", yields), "runs").says
    assert "a generator is no array of numbers: use `return`, not `yield`" in says

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


def linear(x, w, b):
    y = x @ w.swapaxes(-1, -2)
    return y if b is None else y + b


def test_a_function_that_raises_is_asked_on_and_named_by_its_numbers():
    def not_transposed(x, w, b):
        return x @ w if b is None else x @ w + b

    report = compare("linear", not_transposed)
    assert names_of(report) == [("forward", ("weight_not_transposed",))]
    runs = facet(report, "runs")
    assert runs.ok is False
    assert "not_transposed raised ValueError: matmul" in runs.says
    assert "test_compare.py, line" in runs.says
    assert runs.details == [
        "it fails on 6 of 7 inputs: ordinary, two axes, no bias, one vector, large, zeros"
    ]
    assert "ordinary (it raises)" in facet(report, "values").says
    assert "on 1 of 7 inputs (25 numbers), and it raises on the other 6" in str(report)


def test_what_raises_is_no_evidence_by_itself():
    def llama(x, w_gate, w_up, w_down):
        return ((g := x @ w_gate.T) / (1 + np.exp(-g)) * (x @ w_down.T)) @ w_up.T

    with np.errstate(over="ignore"):
        assert names_of(compare("swiglu", llama)) == [("forward", ("llama_order",))]

    def right_where_it_runs(x, w, b):
        return linear(x, w + 0 * w.T, b)  # raises unless w is square

    report = compare("linear", right_where_it_runs)
    assert not report.ok
    assert not report.diagnoses

    def other_numbers(
        x, w, b
    ):  # it raises as weight_not_transposed does, and gives no such numbers
        return 2 * (x @ w)

    assert not compare("linear", other_numbers).diagnoses

    def not_on_two_axes(x, w, b):  # numbers where the mistake would raise
        if x.ndim == 2 and w.shape[0] != w.shape[1]:
            raise ValueError("two axes")
        return x @ (w if w.shape[0] == w.shape[1] else w.T) + (0 if b is None else b)

    assert not compare("linear", not_on_two_axes).diagnoses


def test_a_hard_input_that_raises_alone_does_not_hide_the_mistake():
    def no_bias_is_not_known(x, w, b):
        return (x @ w.T) / w.shape[1] + b * 1

    report = compare("linear", no_bias_is_not_known)
    assert names_of(report) == [("forward", ("mean_for_sum",))]
    assert "fails on a layer without a bias" in facet(report, "runs").says


def test_hanging_twice_ends_the_questions(tmp_path):
    file = tmp_path / "hw.py"
    file.write_text(
        "def f(x, w, eps):\n    while abs(x).max() < 0.1 or x.max() > 99: pass\n"
        "    return x / ((x * x).mean(-1, keepdims=True) + eps) ** 0.5 * w\n",
        "utf-8",
    )
    report = compare("rmsnorm", f"{file}:f", seconds=0.2)
    runs = facet(report, "runs")
    assert "fails on numbers as small as sqrt(eps)" in runs.says
    assert len(runs.details) == 2
    for name in ("values", "determinism", "float32", "half precision"):
        assert facet(report, name).ok


def test_a_function_that_does_not_run():
    def broken(x, w, eps):
        raise KeyError("weight")

    report = compare("rmsnorm", broken)
    assert not report.ok
    assert [f.name for f in report.facets] == ["runs"]
    assert "KeyError" in report.facets[0].says


def choose(order):
    """Return a router that sorts in its own way."""

    def router(x, w, num_experts_per_tok, norm_topk_prob):
        z = x.astype(float) @ w.T.astype(float)
        p = np.exp(z - z.max(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        ids = order(p)[:, :num_experts_per_tok]
        weights = np.take_along_axis(p, ids, -1)
        if norm_topk_prob:
            weights = weights / weights.sum(-1, keepdims=True)
        return weights.astype(x.dtype), ids

    return router


def test_another_order_of_equals_is_told_and_is_no_fault():
    report = compare("moe_router", choose(lambda p: np.argsort(-p, kind="stable")))
    assert facet(report, "ties").ok is True
    report = compare("moe_router", choose(lambda p: np.argsort(p, kind="stable")[:, ::-1]))
    assert report.ok
    assert facet(report, "ties").ok is None
    assert "ours takes the lower number first; yours does otherwise" in facet(report, "ties").says
    assert names_of(report) == [("ties", ("ties_to_the_higher",))]

    def single(x, w, k, norm):  # and all of it in float32
        weights, ids = choose(lambda p: np.argsort(p, kind="stable")[:, ::-1])(x, w, k, norm)
        return weights.astype(np.float32).astype(x.dtype), ids

    report = compare("moe_router", single)
    assert report.ok
    assert "it computes in float32" in report.notes[0]
    middle = np.array([3, 0, 6, 1, 5, 2, 4])  # an order of equals that is in no bank

    def shuffled(p):
        mine = middle[middle < p.shape[1]]
        return mine[np.argsort(-p[:, mine], kind="stable")]

    report = compare("moe_router", choose(shuffled))
    assert report.ok
    assert facet(report, "ties").ok is None
    assert not report.diagnoses
    report = compare("moe_router", choose(lambda p: shuffled(-p)))
    assert names_of(report) == [("forward", ("least_likely",))]
    assert "other values are wrong" in facet(report, "ties").says


def swiglu_gradients(x, w_gate, w_up, w_down, dy):
    a, b = x @ w_gate.T, x @ w_up.T
    s = 1 / (1 + np.exp(-a))
    dh = dy @ w_down
    da, db = dh * b * s * (1 + a * (1 - s)), dh * a * s
    rows = lambda y: y.reshape(-1, y.shape[-1])  # noqa: E731
    dx = da @ w_gate + db @ w_up
    return dx, rows(da).T @ rows(x), rows(db).T @ rows(x), rows(dy).T @ rows(a * s * b)


def swiglu(x, w_gate, w_up, w_down):
    a = x.astype(float) @ w_gate.T
    with np.errstate(over="ignore"):
        return (a / (1 + np.exp(-a)) * (x @ w_up.T) @ w_down.T).astype(x.dtype)


def test_a_missing_gradient_counts_as_zeros():
    def backward(x, w_gate, w_up, w_down, dy):
        dx, dgate, _, ddown = swiglu_gradients(x, w_gate, w_up, w_down, dy)
        return dx, dgate, None, ddown

    assert compare("swiglu", swiglu, swiglu_gradients).ok
    report = compare("swiglu", swiglu, backward)
    assert not report.ok
    assert "no gradient reaches w_up" in facet(report, "gradient of w_up").says
    assert [facet(report, f"gradient of {n}").ok for n in ("x", "w_gate", "w_down")] == [True] * 3
    assert facet(report, "purity").ok


def test_numbers_that_are_not_finite_are_alike_for_numeric_mistakes_only():
    s = spec("swiglu")
    one = {"y": np.array([np.nan, np.inf, 1.0])}
    other = {"y": np.array([np.inf, -np.inf, 1.0])}
    assert not fits(s, one, other, {}, "float64")
    assert fits(s, one, other, {}, "float64", alike=True)
    assert not fits(s, one, {"y": np.array([np.nan, 2.0, 1.0])}, {}, "float64", alike=True)


def over_queries(fill):
    def attention(q, k, v, mask):
        k, v = (np.repeat(a, q.shape[1] // a.shape[1], 1) for a in (k, v))
        scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
        if mask is not None:
            scores = np.where(mask[:, None] if mask.ndim == 3 else mask, scores, fill)
        e = np.exp(scores - scores.max(-2, keepdims=True))
        return e / e.sum(-2, keepdims=True) @ v

    return attention


@pytest.mark.parametrize("fill", [-1e9, np.finfo(np.float64).min])
def test_of_equal_pairs_the_one_is_named_whose_sentence_is_true(fill):
    report = compare("attention", over_queries(fill))
    ((_, found),) = report.diagnoses
    assert found.mistakes[0].name == "softmax_over_queries"
    assert "10000" not in found.mistakes[1].says
    assert all(len(pair) == 2 for pair in found.also)
    text = " ".join(str(report).split())
    assert "attention.softmax_over_queries together with attention.hidden_score_minus_10000" in text
    assert report.to_dict()["diagnoses"][0]["also"] == [
        ["attention.softmax_over_queries", "attention.hidden_score_minus_10000"]
    ]


@pytest.mark.parametrize("name", names())
def test_ordinary_inputs_hold_no_none(name):
    """A student who forgets it, or starts with `logits[loss_mask]`, meets it on a hard input."""
    s = spec(name)
    if name in ("gae", "pairwise_loss"):
        pytest.skip("None is the usual case there")
    for probe in s.probes:
        if not probe.hard:
            assert all(x is not None for x in probe.make(np.random.default_rng(0)).values())


def test_a_loss_that_indexes_with_its_mask_is_right_on_ordinary_inputs():
    def loss(logits, labels, loss_mask):
        z, t = logits[loss_mask].astype(float), labels[loss_mask]
        z = z - z.max(-1, keepdims=True)
        return np.mean(np.log(np.exp(z).sum(-1)) - z[np.arange(len(t)), t])

    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="empty|invalid"):
        report = compare("cross_entropy", loss)
    assert facet(report, "values").ok


def test_an_accepted_convention_is_compared_in_low_precision_too():
    accept = ["rmsnorm.gain_plus_one"]
    report = compare("rmsnorm", unit_offset, accept=accept)
    assert facet(report, "values").ok
    assert facet(report, "float32").ok
    assert facet(report, "half precision").ok

    def too_coarse(x, w, eps):
        y = unit_offset(x, w, eps)
        return y if x.dtype == np.float64 else y.astype(np.float16).astype(x.dtype)

    report = compare("rmsnorm", too_coarse, accept=accept)
    assert not report.ok
    assert facet(report, "float32").ok is False


def test_nothing_is_worked_out_while_the_process_lives(tmp_path, monkeypatch):
    file = tmp_path / "hw.py"
    file.write_text(
        "def f(x, w, eps):\n    return x / ((x * x).mean(-1, keepdims=True) + eps) ** 0.5 * w\n"
        "def g(x, w, eps):\n    return 2 * f(x, w, eps)\n"
        "def b(x, w, eps, dy):\n    return 0 * x, 0 * w\n",
        encoding="utf-8",
    )
    workers, lived = [], []
    start = Worker.__init__
    real = Comparison.wanted

    def begin(self, *given, **options):
        start(self, *given, **options)
        workers.append(self)

    def wanted(self, arguments):
        lived.append(workers[-1]._process is not None)
        return real(self, arguments)

    monkeypatch.setattr(Worker, "__init__", begin)
    monkeypatch.setattr(Comparison, "wanted", wanted)
    asked = []
    ready = Worker._ready
    monkeypatch.setattr(
        Worker, "_ready", lambda self: asked.append(self._process is None) or ready(self)
    )
    for name in "fg":
        report = compare("rmsnorm", f"{file}:{name}", f"{file}:b")
        assert not report.ok
        assert lived
        assert not any(lived)
        assert sum(asked) == 1  # no question came after the process had ended
        asked.clear()


def test_controls_in_a_target_are_not_printed():
    report = compare("rmsnorm", "no\x1b[2Jfile.py:f")
    assert "\x1b" not in str(report)
    assert "no?[2Jfile.py:f" in str(report)


def test_sentences_and_sizes_of_whole_numbers():
    def one_more(x, w, num_experts_per_tok, norm_topk_prob):
        weights, ids = choose(lambda p: np.argsort(-p, kind="stable"))(
            x, w, num_experts_per_tok, norm_topk_prob
        )
        return weights, ids + 1

    text = str(compare("moe_router", one_more))
    assert "size: 15 of 15 entries are wrong" in text
    assert "ordinary (15 of 15 entries)" in text
    assert "of the scale" not in text
    report = compare("swiglu", lambda x, *w: x + swiglu(x, *w))
    assert "\n     x is added to the result" in str(report)


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
    listed = capsys.readouterr().out
    assert "rmsnorm(x, w, eps) -> y" in listed
    told = set(re.findall(r"\b[A-Z][a-z]*(?= )", listed.partition("\nAxes: ")[2]))
    letters = {word for name in names() for axes in spec(name).axes.values()
               for word in re.findall(r"[A-Z][a-z]*", axes)}  # fmt: skip
    assert letters - {"Din", "Dout"} <= told  # of those two the names say it
    assert main(["check", "--impl", f"{file}:norm"]) == 2
    assert "say which concept" in capsys.readouterr().err
    for options, says in (
        (["--map", "x=zz,w=gain"], "norm has no argument zz; it has a, gain, eps"),
        (["--map", "x=a,x=gain"], "--map has our name x twice"),
        (["--map", "x=a,w=a"], "--map has your name a twice"),
        (["--map", "y=a"], "rmsnorm has no argument y; it has x, w, eps"),
        (["--memory", "-5"], "memory_mb must be at least 1"),
        (["--seconds", "0"], "seconds must be above 0"),
        (["--seconds", "inf"], "seconds must be above 0"),
    ):
        assert main(["check", "rmsnorm", "--impl", f"{file}:norm", *options]) == 2
        assert says in capsys.readouterr().err
    if importlib.util.find_spec("cupy") is None:
        assert main(["check", "rmsnorm", "--impl", f"{file}:norm", "--framework", "cupy"]) == 2
        assert "pip install 'minqwen[gpu]'" in capsys.readouterr().err


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


def test_a_function_that_learns_no_merge_is_told_so():
    """Its answers are empty arrays, which have no largest number."""
    report = compare("bpe_merges", lambda text, merges: np.zeros((0, 2), dtype=np.int64))
    assert not report.ok
    assert not any(one.whole for _, one in report.diagnoses)

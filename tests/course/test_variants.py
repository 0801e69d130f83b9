"""Every variant computes what its mistake of the bank computes, with a gradient and words of its
own."""

import doctest

import numpy as np
import pytest

from minqwen.check.diagnose import edits_of, fits, right_module
from minqwen.check.edited import edited_module
from minqwen.check.gradients import numerical_gradient
from minqwen.check.specs import spec
from minqwen.course.cut import handout_source, solution_source
from minqwen.course.ladder import LADDER
from minqwen.course.variants import VARIANTS, reference, variant, variant_edits

KEYS = [(one.concept, one.mistake) for one in VARIANTS]
each = pytest.mark.parametrize(("concept", "mistake"), KEYS, ids=["-".join(key) for key in KEYS])


def arguments(concept):
    for i, probe in enumerate(spec(concept).probes):
        yield probe, probe.make(np.random.default_rng([0, i]))


def outputs(concept, module, a):
    with np.errstate(all="ignore"):
        found = spec(concept).run(module, a)
    return dict(zip(spec(concept).outputs, map(np.asarray, found), strict=True))


def test_there_are_ten():
    assert len(VARIANTS) == 10
    assert {one.concept for one in VARIANTS} <= {p.spec for e in LADDER for p in e.parts}


@each
def test_it_computes_what_the_mistake_of_the_bank_computes(concept, mistake):
    """And on ordinary inputs that is not what the public file computes."""
    (known,) = [m for m in spec(concept).forward if m.name == mistake]
    bank = edited_module(spec(concept).module, edits_of(spec(concept), [known]))
    ours, differs = reference(concept, {concept: mistake}), []
    for probe, a in arguments(concept):
        got, want = outputs(concept, ours, a), outputs(concept, bank, a)
        assert fits(spec(concept), got, want, a, "float64", slack=8.0)
        public = outputs(concept, right_module(spec(concept)), a)
        if not probe.hard:
            differs.append(not fits(spec(concept), got, public, a, "float64", slack=100.0))
    assert 2 * sum(differs) >= len(differs) > 0


@each
def test_its_gradient_is_that_of_its_own_forward(concept, mistake):
    this = spec(concept)
    if this.pull is None:
        return
    ours, rng = reference(concept, {concept: mistake}), np.random.default_rng(7)
    smooth = [pair for pair in arguments(concept) if pair[0].gradient and not pair[0].hard]
    assert smooth
    for _, a in smooth:
        dy = tuple(rng.standard_normal(np.shape(y)) for y in this.run(ours, a))
        for name, got in this.pull(ours, a, dy).items():
            x = a[name]

            def loss(a=a, dy=dy):
                return float(sum((y * d).sum() for y, d in zip(this.run(ours, a), dy, strict=True)
                                 if np.asarray(y).dtype.kind == "f"))  # fmt: skip

            want = numerical_gradient(loss, x)
            assert abs(got - want).max() <= 1e-7 * max(1e-3, abs(want).max()), name


@each
def test_the_words_and_examples_of_the_file_say_so(concept, mistake):
    module = spec(concept).module
    changed = solution_source(module, (), {concept: mistake})
    assert changed != solution_source(module)
    namespace = {"__name__": "solution"}
    exec(compile(changed, "solution.py", "exec"), namespace)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False)
    tried = 0
    for name, value in list(namespace.items()):
        if getattr(value, "__module__", None) == "solution" and callable(value):
            for test in finder.find(value, name, globs=dict(namespace), module=False):
                tried += runner.run(test).attempted
    assert tried
    assert runner.failures == 0
    assert not [line for line in changed.splitlines() if len(line) > 100]


@each
def test_the_stub_announces_it(concept, mistake):
    module = spec(concept).module
    functions = [f for e in LADDER for p in e.parts if p.spec == concept for f in p.functions]
    plain = handout_source(module, functions)
    changed = handout_source(module, functions, (), {concept: mistake})
    lines = set(changed.splitlines()) - set(plain.splitlines())
    assert len([line for line in lines if not line.startswith(("#", "import", "from"))]) >= 2
    assert variant(concept, mistake).says_zh
    assert all(0 <= which <= 2 and en and zh for which, en, zh in variant(concept, mistake).hints)


def test_two_variants_of_one_file_go_together():
    both = {"ppo_policy_loss": "per_answer", "ppo_value_loss": "no_half"}
    text = solution_source("minqwen.alignment.ppo_loss", (), both)
    assert "held, share, logprobs" in text
    assert "2 * error * share" in text
    a = next(iter(arguments("ppo_value_loss")))[1]
    ours = outputs("ppo_value_loss", reference("ppo_value_loss", both), a)["loss"]
    public = outputs("ppo_value_loss", right_module(spec("ppo_value_loss")), a)["loss"]
    assert ours == pytest.approx(2 * public)


def test_unknown_variants_are_named():
    with pytest.raises(ValueError, match=r"no variant rope=x; there are rmsnorm=gain_plus_one"):
        variant_edits("rope", "x")

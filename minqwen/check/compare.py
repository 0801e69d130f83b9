"""Is an implementation right, and if not, what is wrong with it.

    report = compare("rmsnorm", my_rmsnorm)                      a function in this process
    report = compare("rmsnorm", "hw.py:rmsnorm")                 a file, in a process of its own
    report = compare("attention", f, backward=b, arguments={"q": "query"}, framework="torch")
    print(report); report.ok; report.to_dict()

All inputs of the concept are tried in float64, where nothing but a mistake is larger than rounding,
then a few in float32 and half precision. What is wrong is described, and the mistakes of the bank
that give exactly the same numbers are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from .compare_gradients import GradientComparison
from .diagnose import (
    Answers,
    Diagnosis,
    Tried,
    diagnose,
    edits_of,
    fits,
    right_module,
)
from .edited import edited_module
from .facets import (
    Facet,
    dtype_facet,
    precision_facet,
    runs_facet,
    shape_facet,
    ties_facet,
    value_facet,
)
from .limits import limit, terms_of, units_off
from .outside.messages import Reply, clean
from .outside.worker import InProcess, Worker
from .questions import Questions, rounded
from .report import Report
from .spec import Arguments, Probe, Spec
from .specs import spec as spec_of


def compare(
    concept: str | Spec,
    forward: str | Callable[..., Any],
    backward: str | Callable[..., Any] | None = None,
    *,
    framework: str = "numpy",
    arguments: dict[str, str] | None = None,
    accept: Sequence[str] = (),
    seed: int = 0,
    seconds: float = 20.0,
    memory_mb: int = 4096,
) -> Report:
    """Try a stranger's function of a concept and say what is right and what is wrong.

    Args:
        concept: name, see `minqwen check --list`.
        forward: "FILE.py:FUNCTION", which runs in a process of its own under limits, or a
            callable, which runs here.
        backward: the same for the gradient, if it is hand-written. Without it torch and jax
            differentiate forward themselves; with NumPy no gradient is asked for.
        framework: "numpy", "torch", "jax" or "cupy": of the arrays that the function takes.
        arguments: {our name: their name}; then it is called by keyword. None: in our order.
        accept: names of conventions that are fine here, as "rope.interleaved".
        seed: of the inputs.
        seconds: limit on one call, in the process.
        memory_mb: limit on its memory.

    Raises:
        ValueError: no such concept, argument, framework or convention. What is wrong with their
            file is in the report.
        ImportError: the framework is missing.
    """
    spec = spec_of(concept) if isinstance(concept, str) else concept
    conventions = [
        f"{spec.name}.{m.name}" for m in (*spec.forward, *spec.backward) if m.kind == "convention"
    ]
    if wrong := [name for name in accept if name not in conventions]:
        raise ValueError(
            f"{wrong[0]!r} is no convention of {spec.name} that can be accepted; there are "
            f"{', '.join(conventions) or 'none'}"
        )
    if unknown := set(arguments or {}) - set(spec.arguments):
        raise ValueError(
            f"{spec.name} has no argument {', '.join(sorted(unknown))}; it has "
            f"{', '.join(spec.arguments)}"
        )
    options: dict[str, Any] = {
        "framework": framework,
        "arguments": arguments,
        "outputs": spec.outputs,
        "optional": tuple(spec.defaults),
    }
    there: Worker | InProcess
    if isinstance(forward, str):
        if not isinstance(backward, (str, type(None))):
            raise ValueError("forward is the name of a file's function, so backward must be too")
        target = clean(forward)
        there = Worker(forward, backward=backward, seconds=seconds, memory_mb=memory_mb, **options)
    else:
        if isinstance(backward, str):
            raise ValueError("forward is a function, so backward must be one too")
        target = clean(getattr(forward, "__qualname__", repr(forward)))
        there = InProcess(forward, backward=backward, **options)
    by_hand = backward is not None
    gradients = spec.pull is not None and (by_hand or framework in ("torch", "jax"))
    with there as function:
        questions = Questions(spec, function, seed)
        if isinstance(function, Worker):
            questions.ask_all(gradients, by_hand)
            function.close()  # before anything is worked out that it must not see
        problem = questions.values()[0][1].problem
        if arguments and problem is not None and problem.kind == "wrong name":
            raise ValueError(problem.says)
        return Comparison(questions, accept).report(target, gradients, by_hand)


class Comparison:
    """What is to be said about the replies of one function.

    Args:
        questions: all asked, where they went to another process.
        accept: conventions that are fine beside ours.
        base: an edited copy of our file that is right instead of ours.
    """

    def __init__(
        self,
        questions: Questions,
        accept: Sequence[str] = (),
        base: ModuleType | None = None,
    ) -> None:
        self.questions, self.spec, self.accept = questions, questions.spec, tuple(accept)
        self.facets: list[Facet] = []
        self.diagnoses: list[tuple[str, Diagnosis]] = []  # "forward", "ties" or "backward"
        self.notes: list[str] = []
        self.dtype = "float64"  # in which the stranger seems to compute
        self.base = right_module(self.spec) if base is None else base  # what is right
        self.accepted: tuple[str, ...] = ()  # names of the conventions in it
        self.wants: dict[str, Answers] = {}  # by probe, see want

    def wanted(self, arguments: Arguments) -> Answers:
        """Return our answers, by the name of the output."""
        with np.errstate(all="ignore"):
            outputs = self.spec.run(self.base, arguments)
        return dict(zip(self.spec.outputs, map(np.asarray, outputs), strict=True))

    def want(self, probe: Probe) -> Answers:
        """Return our answers to a probe in float64."""
        if probe.name not in self.wants:
            self.wants[probe.name] = self.wanted(self.questions.make(probe))
        return self.wants[probe.name]

    def report(self, target: str, gradients: bool, by_hand: bool) -> Report:
        """Answer everything that can be answered, in order; the first failures end it early.

        Args:
            target: name of the function, for the report.
            gradients: there is a way to a gradient.
            by_hand: it is their own; a library's fits the forward, right or wrong.
        """
        tried = self.answer_values()
        if tried:
            numbers = [one for one in tried if not one.raised]
            self.answer_dtype_and_determinism(numbers)
            right = all(one.right for one in tried if not one.probe.ties)
            if gradients and (by_hand or right):
                asked = GradientComparison(
                    self.questions, self.base, self.dtype, bool(self.accepted), self.facets
                )
                self.diagnoses += [("backward", one) for one in asked.answer(right)]
            if right:
                self.answer_precision()
            else:  # they would be wrong for the same reason
                for name in ("float32", "half precision"):
                    self.facets.append(Facet(name, None, "not asked: the values are wrong"))
        return Report(self.spec, target, self.facets, self.diagnoses, self.notes, self.accepted)

    def answer_values(self) -> list[Tried]:
        """Judge every input in float64: runs, shape, values, hard inputs, ties, purity."""
        spec, values = self.spec, self.questions.values()
        for _, reply in values:
            self.note(reply)
        broken = [(probe, reply.problem) for probe, reply in values if reply.problem is not None]
        replies = [(probe, reply) for probe, reply in values if reply.problem is None]
        ordinary = [problem for probe, problem in broken if not probe.hard]
        self.facets.append(runs_facet(len(values), broken))
        if not replies or any(problem.kind != "raised" for problem in ordinary):
            return []
        self.facets.append(
            shape_facet(spec, [(probe, reply, self.want(probe)) for probe, reply in replies])
        )
        if len(self.questions.answered()) < len(replies):
            return []
        if not ordinary:  # a hard input that fails was said: it is no part of another mistake
            values = replies
        tried, found = self.judge([v for v in values if not v[1].problem or raised(v[1])])
        self.diagnoses += [("forward", one) for one in found]
        for name, hard in (("values", False), ("hard inputs", True)):
            some = [one for one in tried if one.probe.hard == hard and not one.probe.ties]
            self.facets.append(value_facet(spec, name, some, self.dtype))
        self.answer_ties(tried)
        if changed := sorted({name for _, reply in replies for name in reply.changed}):
            says = f"it changes its argument {', '.join(changed)}: copy before you write"
            self.facets.append(Facet("purity", False, says))
        else:
            self.facets.append(Facet("purity", True, "it leaves its arguments as they are"))
        return tried

    def judge(self, values: Sequence[tuple[Probe, Reply]]) -> tuple[list[Tried], list[Diagnosis]]:
        """Say of every input whether it is right, and which mistake explains those that are not.

        Numbers that are wrong in float64 may be right in float32, which many libraries compute in
        whatever they are given. So first the mistakes are asked, in float64; if none explains
        everything, the numbers are taken for float32, if they are right or explained then.
        """
        returned = {dtype for _, reply in values for dtype in reply.dtypes}
        first = "float32" if returned == {"float32"} else "float64"
        tried = self.tried_in(first, values)
        found = self.explained(tried, first)
        wrong = not all(one.right for one in tried if not one.probe.ties)
        if first == "float64" and wrong and not any(one.whole for one in found):
            single = self.tried_in("float32", values)
            plain = [one for one in single if not one.probe.ties]
            right = all(one.right for one in plain) and self.coarse(plain)
            others: list[Diagnosis] = []
            if not right and not any(one.right and is_fine(one) for one in tried):
                others = self.explained(single, "float32", pairs=False)
            if right or any(one.whole for one in others):
                first, tried, found = "float32", single, others
        if first == "float32":
            line = "it computes in float32 also for float64 inputs: compared as float32"
            self.notes.append(line)
        self.dtype = first
        mistakes = found[0].mistakes if found and found[0].whole else ()
        names = tuple(f"{self.spec.name}.{m.name}" for m in mistakes)
        if names and set(names) <= set(self.accept):  # from now on this is what is right
            base = edited_module(self.spec.module, edits_of(self.spec, mistakes))
            assert base is not None  # it was made before
            self.base, self.accepted = base, names
            self.wants.clear()
            tried = self.tried_in(first, values, slack=4.0)
        return tried, found

    def explained(self, tried: Sequence[Tried], dtype: str, pairs: bool = True) -> list[Diagnosis]:
        """Name what is wrong.

        Ties take part where a mistake explains them too, else they do not: many libraries leave
        open which of two equals comes first.
        """
        some = [one for one in tried if not one.probe.ties]
        if all(one.right for one in some):
            return []
        ask = (self.spec.forward, self.forward_answer, dtype, pairs)
        found = diagnose(self.spec, tried, *ask)
        if len(some) < len(tried) and not any(one.whole for one in found):
            found = diagnose(self.spec, some, *ask)
        return found

    def answer_ties(self, tried: Sequence[Tried]) -> None:
        """Compare which of several equals are taken; whoever does it otherwise is not wrong."""
        ties = [one for one in tried if one.probe.ties]
        if not ties:
            return
        right = all(one.right for one in tried if not one.probe.ties)
        self.facets.append(ties_facet(self.spec, ties, right))
        if right and not all(one.right for one in ties):
            bank = [m for m in self.spec.forward if m.kind == "convention"]
            found = diagnose(self.spec, tried, bank, self.forward_answer, self.dtype, pairs=False)
            self.diagnoses += [("ties", one) for one in found if one.whole]

    def coarse(self, tried: Sequence[Tried]) -> bool:
        """Say whether errors are of the size of rounding in float32, not of a small mistake."""
        return any(
            (units_off(got, one.want[name], "float32") > 0.01).any()
            for one in tried
            for name, got in one.got.items()
            if name not in self.spec.exact and got.shape == one.want[name].shape
        )

    def tried_in(
        self, dtype: str, values: Sequence[tuple[Probe, Reply]], slack: float = 1.0
    ) -> list[Tried]:
        """Return all inputs with what came out, judged as numbers of this dtype."""
        tried = []
        for probe, reply in values:
            arguments = self.questions.make(probe)
            want = self.want(probe)
            if raised(reply):
                tried.append(Tried(probe, arguments, {}, want, False, raised=True))
                continue
            got = dict(zip(self.spec.outputs, reply.outputs or (), strict=True))
            right = fits(self.spec, got, want, arguments, dtype, slack=slack)
            tried.append(Tried(probe, arguments, got, want, right))
        return tried

    def note(self, reply: Reply) -> None:
        """Keep what is worth saying about a call beside its numbers, once."""
        lines = list(reply.notes)
        if printed := reply.printed.strip():
            lines.append(f"it prints: {printed.splitlines()[0][:70]}")
        self.notes += [line for line in lines if line not in self.notes]

    def forward_answer(self, module: ModuleType, one: Tried) -> Answers:
        """Return what a changed copy of our file answers."""
        outputs = self.spec.run(module, self.questions.make(one.probe))
        return dict(zip(self.spec.outputs, map(np.asarray, outputs), strict=True))

    def answer_dtype_and_determinism(self, tried: Sequence[Tried]) -> None:
        """Compare with the same input again, in float64 and in float32."""
        probe = tried[0].probe
        again = self.questions.forward(probe, time=2)
        seen = {} if again.problem else {"float64": again.dtypes}
        single = self.questions.forward(probe, "float32")
        if single.problem is None:
            seen["float32"] = single.dtypes
        if any(
            isinstance(x, np.ndarray) and x.dtype.kind == "f" for x in tried[0].arguments.values()
        ):
            exempt = [name for name, want in tried[0].want.items() if want.ndim == 0]
            if any("made an array" in line for line in single.notes):
                exempt = list(self.spec.outputs)
            self.facets.append(dtype_facet(self.spec, seen, exempt))
        else:
            self.facets.append(Facet("dtype", None, "not asked: there are no float arrays"))
        same = again.problem is None and all(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            for a, b in zip(tried[0].got.values(), again.outputs or (), strict=False)
        )
        says = (
            "the same inputs give the same numbers"
            if same
            else (
                "two calls with the same inputs give different numbers: is dropout on, or a "
                "generator shared, or something kept between calls?"
            )
        )
        self.facets.append(Facet("determinism", same, says))

    def answer_precision(self) -> None:
        """Compare float32 and half precision with float64 on rounded inputs."""
        spec = self.spec
        for name in ("float32", "half precision"):
            worst: dict[str, tuple[float, float]] = {}
            problems: list[str] = []
            for dtype, probe in self.questions.precise(name):
                reply = self.questions.forward(probe, dtype)
                if reply.problem is not None:
                    if not probe.hard and name == "float32":
                        problems.append(f"{dtype}: {reply.problem.says}")
                    continue
                arguments = rounded(self.questions.make(probe), dtype)
                want = self.wanted(arguments)
                allowed = limit(dtype, terms_of(arguments), spec.depth)
                for output, got in zip(spec.outputs, reply.outputs or (), strict=False):
                    if output in spec.exact or got.shape != want[output].shape:
                        continue
                    off = float(units_off(got, want[output], dtype).max(initial=0.0))
                    if off == np.inf:
                        problems.append(
                            f"{dtype}, {probe.shows}: NaN or infinity in {output}, where the "
                            "right numbers are finite"
                        )
                    worst[dtype] = max(worst.get(dtype, (0.0, allowed)), (off, allowed))
            self.facets.append(precision_facet(name, worst, problems))


def raised(reply: Reply) -> bool:
    """Say whether a call ended with an exception: that is an answer too."""
    return reply.problem is not None and reply.problem.kind == "raised"


def is_fine(one: Tried) -> bool:
    """Say whether an answer has digits that float32 cannot hold."""
    floats = [a for a in one.got.values() if a.dtype.kind == "f"]
    with np.errstate(over="ignore"):
        return any((a.astype(np.float32) != a).any() for a in floats)

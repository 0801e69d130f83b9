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

from ..backend import Array
from .diagnose import Answers, Diagnosis, Tried, diagnose, fits, right_module
from .facets import Facet, dtype_facet, precision_facet, shape_facet, value_facet
from .limits import limit, terms_of, units_off
from .outside.arrays import round_to
from .outside.worker import InProcess, Reply, Worker
from .report import Report
from .spec import Arguments, Probe, Spec
from .specs import spec as spec_of

HALVES = ("float16", "bfloat16")


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
        raise ValueError(f"{spec.name} has no argument {', '.join(sorted(unknown))}")
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
        target = forward
        there = Worker(forward, backward=backward, seconds=seconds, memory_mb=memory_mb, **options)
    else:
        if isinstance(backward, str):
            raise ValueError("forward is a function, so backward must be one too")
        target = getattr(forward, "__qualname__", repr(forward))
        there = InProcess(forward, backward=backward, **options)
    with there as function:
        comparison = Comparison(spec, function, seed, accept)
        return comparison.report(target, backward is not None, framework in ("torch", "jax"))


class Comparison:
    """One run of the checker: what was asked and answered so far."""

    def __init__(self, spec: Spec, function: Any, seed: int, accept: Sequence[str]) -> None:
        self.spec, self.function, self.seed, self.accept = spec, function, seed, tuple(accept)
        self.facets: list[Facet] = []
        self.diagnoses: list[tuple[str, Diagnosis]] = []  # "forward" or "backward"
        self.notes: list[str] = []
        self.dys: dict[str, tuple[Array, ...]] = {}  # by probe, see upstream
        self.dtype = "float64"  # in which the stranger seems to compute

    def make(self, probe: Probe) -> Arguments:
        """Draw the inputs of a probe, always the same ones."""
        return probe.make(np.random.default_rng([self.seed, self.spec.probes.index(probe)]))

    def wanted(self, arguments: Arguments) -> Answers:
        """Return our answers, by the name of the output."""
        with np.errstate(all="ignore"):
            outputs = self.spec.run(right_module(self.spec), arguments)
        return dict(zip(self.spec.outputs, map(np.asarray, outputs), strict=True))

    def report(self, target: str, by_hand: bool, autodiff: bool) -> Report:
        """Ask everything that can be asked, in order; the first failures end it early.

        Args:
            target: name of the function, for the report.
            by_hand: there is a backward.
            autodiff: otherwise their library differentiates forward; it fits, right or wrong.
        """
        tried = self.ask_values()
        if tried:
            self.ask_dtype_and_determinism(tried)
            right = all(one.right for one in tried)
            if self.spec.pull is not None and (by_hand or (autodiff and right)):
                self.ask_gradients(tried, right)
            if right:
                self.ask_precision()
            else:  # they would be wrong for the same reason
                for name in ("float32", "half precision"):
                    self.facets.append(Facet(name, None, "not asked: the values are wrong"))
        return Report(
            self.spec, target, self.facets, self.diagnoses, self.notes, accept=self.accept
        )

    def ask_values(self) -> list[Tried]:
        """Run every input once in float64: runs, shape, values, hard inputs, purity."""
        spec, replies, broken = self.spec, [], []
        changed: set[str] = set()
        for probe in spec.probes:
            arguments = self.make(probe)
            reply: Reply = self.function.forward(arguments)
            self.note(reply)
            if reply.problem is not None:
                broken.append((probe, reply.problem))
                stopped = sum(p.kind in ("hung", "killed", "exited") for _, p in broken)
                if not probe.hard or stopped > 1:
                    break  # what hangs twice would hang again
                continue
            changed |= set(reply.changed)
            replies.append((probe, arguments, reply, self.wanted(arguments)))
        ordinary = [p for p, _ in broken if not p.hard]
        if ordinary or not replies:
            probe, problem = broken[0]
            where = f" ({problem.where})" if problem.where else ""
            self.facets.append(
                Facet("runs", False, f"{problem.says}{where}", [f"on {probe.shows}"])
            )
            return []
        says = "it runs on every input"
        details = [
            f"{p.shows}: {problem.says}" + (f" ({problem.where})" if problem.where else "")
            for p, problem in broken
        ]
        if broken:
            says = f"it runs on ordinary inputs, and fails on {broken[0][0].shows}"
        self.facets.append(Facet("runs", not broken, says, details))
        shape = shape_facet(spec, [(p, reply, want) for p, _, reply, want in replies])
        self.facets.append(shape)
        if any(len(reply.outputs or ()) != len(spec.outputs) for _, _, reply, _ in replies):
            return []
        tried, found = self.judge(replies)
        for name, hard in (("values", False), ("hard inputs", True)):
            some = [one for one in tried if one.probe.hard == hard]
            self.facets.append(value_facet(spec, name, some, self.dtype))
        if changed:
            says = f"it changes its argument {', '.join(sorted(changed))}: copy before you write"
            self.facets.append(Facet("purity", False, says))
        else:
            self.facets.append(Facet("purity", True, "it leaves its arguments as they are"))
        self.diagnoses += [("forward", one) for one in found]
        return tried

    def judge(self, replies: Sequence[Any]) -> tuple[list[Tried], list[Diagnosis]]:
        """Say of every input whether it is right, and which mistake explains those that are not.

        Numbers that are wrong in float64 may be right in float32, which many libraries compute in
        whatever they are given. So first the mistakes are asked, in float64; if none explains
        everything, the numbers are taken for float32, if they are right or explained then.
        """
        returned = {dtype for _, _, reply, _ in replies for dtype in reply.dtypes}
        first = "float32" if returned == {"float32"} else "float64"
        tried = self.tried_in(first, replies)
        found = diagnose(self.spec, tried, self.spec.forward, self.forward_answer, first)
        wrong = not all(one.right for one in tried)
        if first == "float64" and wrong and not any(one.whole for one in found):
            single = self.tried_in("float32", replies)
            right = all(one.right for one in single) and self.coarse(single)
            others: list[Diagnosis] = []
            if not right and not any(one.right and is_fine(one) for one in tried):
                bank = self.spec.forward
                others = diagnose(
                    self.spec, single, bank, self.forward_answer, "float32", pairs=False
                )
            if right or any(one.whole for one in others):
                first, tried, found = "float32", single, others
        if first == "float32":
            line = "it computes in float32 also for float64 inputs: compared as float32"
            self.notes.append(line)
        self.dtype = first
        return tried, found

    def coarse(self, tried: Sequence[Tried]) -> bool:
        """Say whether errors are of the size of rounding in float32, not of a small mistake."""
        return any(
            (units_off(got, one.want[name], "float32") > 0.01).any()
            for one in tried
            for name, got in one.got.items()
            if name not in self.spec.exact and got.shape == one.want[name].shape
        )

    def tried_in(self, dtype: str, replies: Sequence[Any]) -> list[Tried]:
        """Return all inputs with what came out, judged as numbers of this dtype."""
        tried = []
        for probe, arguments, reply, want in replies:
            got = dict(zip(self.spec.outputs, reply.outputs or (), strict=True))
            tried.append(self.answered(probe, arguments, got, want, dtype))
        return tried

    def answered(
        self, probe: Probe, arguments: Arguments, got: Answers, want: Answers, dtype: str
    ) -> Tried:
        """Judge one answer as numbers of this dtype."""
        right = fits(self.spec, got, want, arguments, dtype, slack=1.0)
        return Tried(probe, arguments, got, want, right)

    def note(self, reply: Reply) -> None:
        """Keep what is worth saying about a call beside its numbers, once."""
        lines = list(reply.notes)
        if printed := reply.printed.strip():
            lines.append(f"it prints: {printed.splitlines()[0][:70]}")
        self.notes += [line for line in lines if line not in self.notes]

    def forward_answer(self, module: ModuleType, one: Tried) -> Answers:
        """Return what a changed copy of our file answers."""
        outputs = self.spec.run(module, self.make(one.probe))
        return dict(zip(self.spec.outputs, map(np.asarray, outputs), strict=True))

    def ask_dtype_and_determinism(self, tried: Sequence[Tried]) -> None:
        """Run the ordinary input again, in float64 and in float32."""
        probe = tried[0].probe
        again: Reply = self.function.forward(self.make(probe))
        seen = {} if again.problem else {"float64": again.dtypes}
        single: Reply = self.function.forward(self.make(probe), dtype="float32")
        if single.problem is None:
            seen["float32"] = single.dtypes
        if any(map(_is_float, tried[0].arguments.values())):
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

    def ask_precision(self) -> None:
        """Run some inputs in float32 and in half precision, against float64 on rounded inputs."""
        spec = self.spec
        for name, dtypes in (("float32", ("float32",)), ("half precision", HALVES)):
            worst: dict[str, tuple[float, float]] = {}
            problems: list[str] = []
            for dtype in dtypes:
                for probe in spec.probes:
                    if name == "half precision" and probe.hard:
                        continue
                    arguments = rounded(self.make(probe), dtype)
                    reply: Reply = self.function.forward(arguments, dtype=dtype)
                    if reply.problem is not None:
                        if not probe.hard and name == "float32":
                            problems.append(f"{dtype}: {reply.problem.says}")
                        continue
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
                        before = worst.get(dtype, (0.0, allowed))
                        worst[dtype] = max(before, (off, allowed))
            self.facets.append(precision_facet(name, worst, problems))

    def ask_gradients(self, tried: Sequence[Tried], forward_right: bool) -> None:
        """Compare gradients with ours, or, where forward is wrong, with differences of theirs."""
        spec = self.spec
        assert spec.pull is not None
        asked = [one for one in tried if one.probe.gradient]
        answers: list[Tried] = []
        for one in asked:
            dys = self.upstream(one.probe)
            reply: Reply = self.function.backward(self.make(one.probe), dys)
            if reply.problem is not None:
                says = f"backward: {reply.problem.says}"
                self.facets.append(Facet("gradients", False, says, [f"on {one.probe.shows}"]))
                return
            got = {f"d{name}": g for name, g in reply.gradients.items() if g is not None}
            with np.errstate(all="ignore"):
                ours = spec.pull(right_module(spec), self.make(one.probe), dys)
            if missing := [n for n in ours if f"d{n}" not in got]:
                says = (
                    f"there is no gradient of {', '.join(missing)}: is something detached, or "
                    "not returned?"
                )
                self.facets.append(Facet("gradients", False, says))
                return
            want = {f"d{name}": np.asarray(g) for name, g in ours.items()}
            got = {name: got[name] for name in want if name in got}
            answers.append(self.answered(one.probe, one.arguments, got, want, self.dtype))
        if not answers:
            return
        if not forward_right:
            self.ask_own_gradients(answers)
            return
        for name in answers[0].want:
            some = [
                self.answered(
                    one.probe,
                    one.arguments,
                    {name: one.got[name]},
                    {name: one.want[name]},
                    self.dtype,
                )
                for one in answers
                if name in one.want
            ]
            shapes = {(one.got[name].shape, one.want[name].shape) for one in some}
            bad = [pair for pair in shapes if pair[0] != pair[1]]
            title = f"gradient of {name[1:]}"
            if bad:
                says = f"its shape is {bad[0][0]}, it must be that of {name[1:]}, {bad[0][1]}"
                self.facets.append(Facet(title, False, says))
            else:
                self.facets.append(value_facet(spec, title, some, self.dtype))
        found = diagnose(spec, answers, spec.backward, self.backward_answer, self.dtype)
        self.diagnoses += [("backward", one) for one in found]
        self.ask_twice(answers)

    def ask_twice(self, answers: Sequence[Tried]) -> None:
        """Run two forwards before two backwards: nothing may be kept outside the cache."""
        two = [answers[0], answers[-1]]
        dys = [self.upstream(one.probe) for one in two]
        replies = self.function.twice([self.make(one.probe) for one in two], dys)
        purity = next(facet for facet in self.facets if facet.name == "purity")
        for one, reply in zip(two, replies, strict=True):
            same = reply.problem is None and all(
                np.array_equal(got, reply.gradients.get(name[1:]), equal_nan=True)
                for name, got in one.got.items()
            )
            if not same:
                purity.ok = False
                purity.says = (
                    "two forwards before two backwards give other gradients than one after the "
                    "other: something is kept outside the cache"
                )
                return
        if purity.ok:
            purity.says += ", and two forwards may come before two backwards"

    def upstream(self, probe: Probe) -> tuple[Array, ...]:
        """Draw a random gradient for each float output: with ones, mistakes can hide."""
        if probe.name not in self.dys:  # asked for again with every mistake that is tried
            rng = np.random.default_rng([self.seed, 1, self.spec.probes.index(probe)])
            want = self.wanted(self.make(probe))
            self.dys[probe.name] = tuple(
                np.asarray(rng.standard_normal(np.shape(want[name])))
                for name in self.spec.outputs
                if name not in self.spec.exact
            )
        return self.dys[probe.name]

    def backward_answer(self, module: ModuleType, one: Tried) -> Answers:
        """Return the gradients that a changed copy of our file gives."""
        assert self.spec.pull is not None
        gradients = self.spec.pull(module, self.make(one.probe), self.upstream(one.probe))
        return {f"d{name}": np.asarray(g) for name, g in gradients.items()}

    def ask_own_gradients(self, answers: Sequence[Tried]) -> None:
        """Forward is wrong: does backward fit the forward that they wrote?"""
        one = answers[0]
        wrong = []
        for name in one.got:
            argument = name[1:]
            pair = self.directional(one, argument, one.got[name])
            if pair is None:
                return
            got, numerical = pair
            scale = abs(numerical) + float(np.linalg.norm(one.got[name])) + 1e-30
            if not abs(got - numerical) <= 1e-5 * scale:  # NaN is wrong too
                wrong.append(argument)
        if wrong:
            says = (
                f"forward is wrong, and the gradient of {', '.join(wrong)} does not fit it either"
            )
            self.facets.append(Facet("gradients", False, says))
        else:
            says = "backward fits the forward that you wrote: repair the forward only"
            self.facets.append(Facet("gradients", None, says))

    def directional(self, one: Tried, argument: str, gradient: Array) -> tuple[float, float] | None:
        """Return the derivative along a random direction: by their backward, by their forward.

        None where that cannot be had.
        """
        arguments = self.make(one.probe)
        x = arguments[argument]
        rng = np.random.default_rng([self.seed, 2])
        direction = rng.standard_normal(x.shape)
        step = 6e-6 * (float(np.sqrt(np.mean(x * x))) or 1.0)
        if self.dtype == "float32":
            step *= 1000
        sides = []
        dys = self.upstream(one.probe)
        floats = [n for n in self.spec.outputs if n not in self.spec.exact]
        for sign in (1, -1):
            moved = {**self.make(one.probe), argument: x + sign * step * direction}
            reply: Reply = self.function.forward(moved)
            if reply.problem is not None or reply.outputs is None:
                return None
            outputs = dict(zip(self.spec.outputs, reply.outputs, strict=True))
            if any(outputs[n].shape != dy.shape for n, dy in zip(floats, dys, strict=True)):
                return None  # of another shape than ours
            sides.append(
                sum(float((outputs[n] * dy).sum()) for n, dy in zip(floats, dys, strict=True))
            )
        return float((gradient * direction).sum()), (sides[0] - sides[1]) / (2 * step)


def is_fine(one: Tried) -> bool:
    """Say whether an answer has digits that float32 cannot hold."""
    floats = [a for a in one.got.values() if a.dtype.kind == "f"]
    with np.errstate(over="ignore"):
        return any((a.astype(np.float32) != a).any() for a in floats)


def rounded(arguments: Arguments, dtype: str) -> Arguments:
    """Return the float arrays rounded to a dtype, in float64: what the function is really given."""
    return {
        name: round_to(x, dtype).astype(np.float64) if _is_float(x) else x
        for name, x in arguments.items()
    }


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"

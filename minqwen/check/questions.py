"""What a stranger's function is asked, and what it replied; nothing here knows what is right.

Every question is asked once and its reply is kept. Whoever asks a file in a process of its own asks
everything first (`ask_all`), ends the process, and only then works out what is right: the process
belongs to the same user, and could read the memory of the checker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import Array
from .outside.arrays import round_to
from .outside.messages import Problem, Reply
from .spec import Arguments, Probe, Spec

HALVES = ("float16", "bfloat16")
STOPS = ("hung", "killed", "exited")  # after two of them there are no new inputs


class Questions:
    """The questions to one function.

    Args:
        spec: of the concept.
        function: a Worker or InProcess.
        seed: of the inputs.
    """

    def __init__(self, spec: Spec, function: Any, seed: int) -> None:
        self.spec, self.function, self.seed = spec, function, seed
        self.kept: dict[tuple[Any, ...], tuple[Reply, ...]] = {}
        self.tried: list[tuple[Probe, Reply]] = []  # in float64, once that was asked
        self.stops = 0

    def make(self, probe: Probe) -> Arguments:
        """Draw the inputs of a probe, always the same ones."""
        return probe.make(np.random.default_rng([self.seed, self.spec.probes.index(probe)]))

    def _ask(
        self, probe: Probe, key: tuple[Any, ...], ask: Callable[[], tuple[Reply, ...]]
    ) -> tuple[Reply, ...]:
        """Ask, or say again what was replied.

        A function that was stopped twice is asked only where it has answered, and after some more
        nothing at all: what hangs would hang again.
        """
        if key not in self.kept:
            before = self.kept.get(("forward", probe.name, "float64", 1))
            answered = before is not None and before[0].problem is None
            if self.stops > 3 or (self.stops > 1 and not answered):
                says = "it was stopped too often, so it was not called any more"
                return (Reply(problem=Problem("hung", says)),) * 2
            self.kept[key] = ask()
            self.stops += any(r.problem and r.problem.kind in STOPS for r in self.kept[key])
        return self.kept[key]

    def forward(self, probe: Probe, dtype: str = "float64", time: int = 1) -> Reply:
        """Return the reply to a probe, rounded to a dtype; time 2 is the same question again."""

        def ask() -> tuple[Reply, ...]:
            return (self.function.forward(rounded(self.make(probe), dtype), dtype=dtype),)

        return self._ask(probe, ("forward", probe.name, dtype, time), ask)[0]

    def backward(self, probe: Probe) -> Reply:
        """Return the reply to a probe, with gradients for a random gradient of each output."""

        def ask() -> tuple[Reply, ...]:
            return (self.function.backward(self.make(probe), self.upstream(probe)),)

        return self._ask(probe, ("backward", probe.name), ask)[0]

    def twice(self, one: Probe, other: Probe) -> tuple[Reply, ...]:
        """Return the replies when both forwards come before both backwards."""
        two = (one, other)

        def ask() -> tuple[Reply, ...]:
            found: tuple[Reply, ...] = self.function.twice(
                [self.make(probe) for probe in two], [self.upstream(probe) for probe in two]
            )
            return found

        return self._ask(one, ("twice", one.name, other.name), ask)

    def moved(self, probe: Probe, argument: str, step: float) -> Reply:
        """Return the reply to a probe of which one argument is moved along its direction."""

        def ask() -> tuple[Reply, ...]:
            arguments = self.make(probe)
            arguments[argument] = arguments[argument] + step * self.direction(arguments[argument])
            return (self.function.forward(arguments),)

        return self._ask(probe, ("moved", probe.name, argument, step), ask)[0]

    def upstream(self, probe: Probe) -> tuple[Array, ...]:
        """Draw a random gradient for each float output: with ones, mistakes can hide.

        They have the shapes that the stranger's outputs have.
        """
        rng = np.random.default_rng([self.seed, 1, self.spec.probes.index(probe)])
        outputs = self.forward(probe).outputs or ()
        return tuple(
            np.asarray(rng.standard_normal(y.shape))
            for name, y in zip(self.spec.outputs, outputs, strict=False)
            if name not in self.spec.exact
        )

    def direction(self, x: Array, number: int = 0) -> Array:
        """Draw a direction in which an argument is moved."""
        rng = np.random.default_rng([self.seed, 2, *([number] if number else [])])
        return np.asarray(rng.standard_normal(x.shape))

    def values(self) -> list[tuple[Probe, Reply]]:
        """Ask every probe in float64.

        What raises may give numbers elsewhere. What ends in another way on an ordinary input, or
        was stopped twice, is not asked any more.
        """
        for probe in self.spec.probes if not self.tried else ():
            reply = self.forward(probe)
            self.tried.append((probe, reply))
            problem = reply.problem
            if problem and ((not probe.hard and problem.kind != "raised") or self.stops > 1):
                break
        return self.tried

    def answered(self) -> list[Probe]:
        """Return the probes to which it gave as many outputs as there must be."""
        return [
            probe
            for probe, reply in self.values()
            if reply.problem is None and len(reply.outputs or ()) == len(self.spec.outputs)
        ]

    def precise(self, name: str) -> list[tuple[str, Probe]]:
        """Return the dtypes and probes of a question about precision.

        Args:
            name: "float32" or "half precision", which is asked on ordinary inputs only.
        """
        half = name == "half precision"
        return [
            (dtype, probe)
            for dtype in (HALVES if half else ("float32",))
            for probe in self.spec.probes
            if not probe.ties and not (half and probe.hard)
        ]

    def smooth(self) -> list[Probe]:
        """Return the probes whose gradients are asked for."""
        return [probe for probe in self.answered() if probe.gradient]

    def steps(self, x: Array) -> tuple[float, float]:
        """Return how far an argument is moved, for numbers in float64 and in float32."""
        step = 6e-6 * (float(np.sqrt(np.mean(x * x))) or 1.0)
        return step, 1000 * step

    def ask_all(self, gradients: bool, by_hand: bool) -> None:
        """Ask everything that may be needed, also what is not if the values are wrong.

        Args:
            gradients: there is a way to a gradient.
            by_hand: it is their own backward, which may fit a wrong forward.
        """
        values, answered = self.values(), self.answered()
        ended = any(not p.hard and r.problem and r.problem.kind != "raised" for p, r in values)
        if ended or not answered:
            return
        self.forward(answered[0], time=2)
        self.forward(answered[0], dtype="float32")
        smooth = self.smooth() if gradients else []
        if smooth and all(self.backward(probe).problem is None for probe in smooth):
            self.twice(smooth[0], smooth[-1])
            for argument in self.spec.gradients if by_hand else ():
                x: Any = self.make(smooth[0])[argument]
                for step in self.steps(x) if _is_float(x) else ():
                    for sign in (1, -1):
                        self.moved(smooth[0], argument, sign * step)
        for name in ("float32", "half precision"):
            for dtype, probe in self.precise(name):
                self.forward(probe, dtype)


def rounded(arguments: Arguments, dtype: str) -> Arguments:
    """Return the float arrays rounded to a dtype, in float64: what the function is really given.

    >>> rounded({"x": np.array([0.1]), "k": 3}, "float16")["x"]
    array([0.09997559])
    """
    return {
        name: round_to(x, dtype).astype(np.float64) if _is_float(x) else x
        for name, x in arguments.items()
    }


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"

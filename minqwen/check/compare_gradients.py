"""Are the gradients of an implementation right: compared with ours, or with differences.

forward right       every gradient is compared with ours, and the mistakes of the bank are asked
forward wrong       does backward fit the forward that they wrote? by differences of theirs
forward accepted    another convention: our backward does not know it; by differences of our
                    own file with that convention
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from ..backend import Array
from .diagnose import Answers, Diagnosis, Tried, diagnose, fits, right_module
from .facets import Facet, value_facet
from .questions import Questions
from .spec import Probe

DIRECTIONS = 2  # on each input, for a convention that was accepted


class GradientComparison:
    """What is to be said about the gradients of one function.

    Args:
        questions: with their replies.
        base: what forward is compared with: our file, or that with an accepted convention.
        dtype: in which the stranger seems to compute.
        accepted: base is not our file as it is.
        facets: those so far; the new ones are added.
    """

    def __init__(
        self,
        questions: Questions,
        base: ModuleType,
        dtype: str,
        accepted: bool,
        facets: list[Facet],
    ) -> None:
        self.questions, self.spec, self.facets = questions, questions.spec, facets
        self.base, self.dtype, self.accepted = base, dtype, accepted
        self.lost: set[str] = set()  # arguments that no gradient reaches

    def answer(self, forward_right: bool) -> list[Diagnosis]:
        """Add the facets about gradients, and return which mistakes give these numbers."""
        tried: list[Tried] = []
        for probe in self.questions.smooth():
            reply = self.questions.backward(probe)
            if reply.problem is not None:
                says = f"backward: {reply.problem.says}"
                self.facets.append(Facet("gradients", False, says, [f"on {probe.shows}"]))
                return []
            tried.append(self.tried(probe, reply.gradients))
        if not tried:
            return []
        if not forward_right:
            self.answer_own_gradients(tried[0])
            return []
        if self.accepted:
            for name in tried[0].want:
                self.facets.append(self.difference_facet(name[1:], tried))
            self.answer_twice(tried)
            return []
        for name in tried[0].want:
            self.facets.append(self.facet(name, [one for one in tried if name in one.want]))
        found = diagnose(self.spec, tried, self.spec.backward, self.backward_answer, self.dtype)
        self.answer_twice(tried)
        return found

    def tried(self, probe: Probe, gradients: dict[str, Array | None]) -> Tried:
        """Judge the gradients on one input; one that is missing counts as zeros."""
        assert self.spec.pull is not None
        arguments = self.questions.make(probe)
        with np.errstate(all="ignore"):
            ours = right_module(self.spec) if self.accepted else self.base
            outputs = self.spec.run(ours, self.questions.make(probe))
            dys = self.questions.upstream(probe)
            floats = [
                np.shape(y)
                for name, y in zip(self.spec.outputs, outputs, strict=True)
                if name not in self.spec.exact
            ]
            if [dy.shape for dy in dys] != floats:  # forward is wrong: only the names are asked for
                dys = tuple(map(np.zeros, floats))
            gradients_of_ours = self.spec.pull(ours, self.questions.make(probe), dys)
        want = {f"d{name}": np.asarray(g) for name, g in gradients_of_ours.items()}
        got: Answers = {}
        for name, g in want.items():
            theirs = gradients.get(name[1:])
            if theirs is None:
                self.lost.add(name[1:])
                theirs = np.zeros(g.shape)
            got[name] = theirs
        right = fits(self.spec, got, want, arguments, self.dtype, slack=1.0)
        return Tried(probe, arguments, got, want, right)

    def facet(self, name: str, tried: Sequence[Tried]) -> Facet:
        """Compare one gradient with ours, on all inputs."""
        some = [
            one._replace(
                got=(got := {name: one.got[name]}),
                want=(want := {name: one.want[name]}),
                right=fits(self.spec, got, want, one.arguments, self.dtype, slack=1.0),
            )
            for one in tried
        ]
        title = f"gradient of {name[1:]}"
        shapes = {(one.got[name].shape, one.want[name].shape) for one in some}
        if bad := [pair for pair in shapes if pair[0] != pair[1]]:
            says = f"its shape is {bad[0][0]}, it must be that of {name[1:]}, {bad[0][1]}"
            return Facet(title, False, says, asked=len(some))
        facet = value_facet(self.spec, title, some, self.dtype)
        if not facet.ok and name[1:] in self.lost:
            facet.says = (
                f"no gradient reaches {name[1:]}: is something detached, or not returned? It is "
                "taken for zeros"
            )
        return facet

    def answer_twice(self, tried: Sequence[Tried]) -> None:
        """Compare two forwards before two backwards: nothing may be kept outside the cache."""
        two = [tried[0], tried[-1]]
        replies = self.questions.twice(two[0].probe, two[1].probe)
        purity = next(facet for facet in self.facets if facet.name == "purity")
        for one, reply in zip(two, replies, strict=True):
            same = reply.problem is None and all(
                np.array_equal(got, theirs, equal_nan=True)
                for name, got in one.got.items()
                if (theirs := reply.gradients.get(name[1:])) is not None
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

    def backward_answer(self, module: ModuleType, one: Tried) -> Answers:
        """Return the gradients that a changed copy of our file gives."""
        assert self.spec.pull is not None
        arguments, dys = self.questions.make(one.probe), self.questions.upstream(one.probe)
        gradients = self.spec.pull(module, arguments, dys)
        return {f"d{name}": np.asarray(g) for name, g in gradients.items()}

    def answer_own_gradients(self, one: Tried) -> None:
        """Forward is wrong: does backward fit the forward that they wrote?"""
        if self.lost:
            says = (
                f"no gradient reaches {', '.join(sorted(self.lost))}: is something detached, or "
                "not returned?"
            )
            self.facets.append(Facet("gradients", False, says))
            return
        wrong = []
        for name, gradient in one.got.items():
            argument = name[1:]
            numerical = self.their_difference(one, argument)
            if numerical is None or gradient.shape != one.arguments[argument].shape:
                return
            along = self.questions.direction(one.arguments[argument])
            if not self.near(gradient, along, numerical):
                wrong.append(argument)
        if wrong:
            says = (
                f"forward is wrong, and the gradient of {', '.join(wrong)} does not fit it either"
            )
            self.facets.append(Facet("gradients", False, says))
        else:
            says = "backward fits the forward that you wrote: repair the forward only"
            self.facets.append(Facet("gradients", None, says))

    def near(self, gradient: Array, direction: Array, numerical: float) -> bool:
        """Say whether a gradient gives this derivative along a direction; NaN does not."""
        scale = abs(numerical) + float(np.linalg.norm(gradient)) + 1e-30
        allowed = 1e-5 if self.dtype == "float64" else 1e-3
        return bool(abs(float((gradient * direction).sum()) - numerical) <= allowed * scale)

    def their_difference(self, one: Tried, argument: str) -> float | None:
        """Return the derivative of their forward along a direction; None if it cannot be had."""
        dys = self.questions.upstream(one.probe)
        floats = [n for n in self.spec.outputs if n not in self.spec.exact]
        step = self.questions.steps(one.arguments[argument])[self.dtype == "float32"]
        sides = []
        for sign in (1, -1):
            reply = self.questions.moved(one.probe, argument, sign * step)
            if reply.problem is not None or len(reply.outputs or ()) != len(self.spec.outputs):
                return None
            outputs = dict(zip(self.spec.outputs, reply.outputs or (), strict=True))
            if any(outputs[n].shape != dy.shape for n, dy in zip(floats, dys, strict=True)):
                return None
            sides.append(
                sum(float((outputs[n] * d).sum()) for n, d in zip(floats, dys, strict=True))
            )
        return (sides[0] - sides[1]) / (2 * step)

    def difference_facet(self, argument: str, tried: Sequence[Tried]) -> Facet:
        """Compare a gradient with differences of our file with the accepted convention."""
        title, name = f"gradient of {argument}", f"d{argument}"
        if argument in self.lost:
            says = f"no gradient reaches {argument}: is something detached?"
            return Facet(title, False, says, asked=len(tried))
        wrong = []
        for one in tried:
            gradient, x = one.got[name], one.arguments[argument]
            if gradient.shape != x.shape:
                says = f"its shape is {gradient.shape}, it must be that of {argument}, {x.shape}"
                return Facet(title, False, says, asked=len(tried))
            for number in range(DIRECTIONS):
                along = self.questions.direction(x, number)
                if not self.near(gradient, along, self.our_difference(one, argument, along)):
                    wrong.append(one.probe.name)
                    break
        right = len(tried) - len(wrong)
        says = f"it fits the accepted convention on {len(tried)} inputs"
        if wrong:
            says = f"it does not fit the accepted convention, on {', '.join(wrong)}"
        return Facet(title, not wrong, says, right=right, asked=len(tried))

    def our_difference(self, one: Tried, argument: str, direction: Array) -> float:
        """Return the derivative of the accepted forward along a direction."""
        dys, step = (
            self.questions.upstream(one.probe),
            self.questions.steps(one.arguments[argument])[0],
        )
        sides = []
        for sign in (1, -1):
            moved = self.questions.make(one.probe)
            moved[argument] = moved[argument] + sign * step * direction
            with np.errstate(all="ignore"):
                outputs = self.spec.run(self.base, moved)
            floats = [
                np.asarray(y)
                for name, y in zip(self.spec.outputs, outputs, strict=True)
                if name not in self.spec.exact
            ]
            sides.append(sum(float((y * dy).sum()) for y, dy in zip(floats, dys, strict=True)))
        return (sides[0] - sides[1]) / (2 * step)

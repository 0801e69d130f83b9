"""What an assignment is: a list of exercises, its points, and two seeds; kept in assignment.json.

The student's copy and that of the staff differ in one field, hidden_seed: the inputs of the public
seed are those that a student can try, the hidden ones are drawn for grading.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .. import __version__
from ..check.specs import spec
from ..model.atomic_folder import write_whole
from .exercise import Exercise
from .ladder import exercise
from .variants import variant

FILE = "assignment.json"
LANGUAGES = ("en", "zh")
HINTS = (0, 1, 2)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Assignment:
    """One assignment.

    Raises:
        TypeError: a field is of the wrong kind.
        ValueError: a field cannot be used; the message names it.
    """

    name: str  # of its files: letters, digits, "_", "-" and "."
    title: str
    exercises: tuple[str, ...]
    points: int = 100
    lang: str = "en"
    public_seed: int = 0
    hidden_seed: int | None = None  # None in the student's copy
    hint: int = 1  # how much visible feedback tells: 0 the symptom, 1 the concept, 2 the line
    variants: dict[str, str] = field(default_factory=dict)  # concept -> mistake that is right here
    version: str = __version__  # of minqwen that made it

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("name", "title", "lang", "version"):
            _require(isinstance(getattr(self, name), str), name, "a text", getattr(self, name))
        for name in ("points", "public_seed", "hint"):
            _require(type(getattr(self, name)) is int, name, "a whole number", getattr(self, name))
        hidden = self.hidden_seed
        _require(hidden is None or type(hidden) is int, "hidden_seed", "a number or null", hidden)
        listed = isinstance(self.exercises, (list, tuple)) and all(
            isinstance(one, str) for one in self.exercises
        )
        _require(listed, "exercises", "a list of names", self.exercises)
        pairs = isinstance(self.variants, dict) and all(
            isinstance(text, str) for pair in self.variants.items() for text in pair
        )
        _require(pairs, "variants", "an object of texts", self.variants)
        object.__setattr__(self, "exercises", tuple(self.exercises))
        self._check_values()

    def _check_values(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"name must be letters, digits, _ - and ., and begin with one of the first two, "
                f"got {self.name!r:.120}"
            )
        if not self.title.strip() or "\n" in self.title:
            raise ValueError(f"title must be one line of text, got {self.title!r:.120}")
        if self.lang not in LANGUAGES:
            raise ValueError(f"lang must be en or zh, got {self.lang!r}")
        if self.hint not in HINTS:
            raise ValueError(f"hint must be 0, 1 or 2, got {self.hint}")
        for name, seed in (("public_seed", self.public_seed), ("hidden_seed", self.hidden_seed)):
            if seed is not None and not 0 <= seed < 2**63:
                raise ValueError(f"{name} must be 0 or more and below 2**63, got {seed}")
        if not self.exercises:
            raise ValueError("exercises must name at least one")
        if twice := [one for one in self.exercises if self.exercises.count(one) > 1]:
            raise ValueError(f"exercises has {twice[0]!r} twice")
        seen: dict[str, str] = {}
        for one in self.found:  # which raises where there is no such exercise
            for part in one.parts:
                for function in part.functions:
                    key = f"{one.name}: {function}"
                    other = seen.setdefault(f"{spec(part.spec).module}:{function}", one.name)
                    if other != one.name:
                        raise ValueError(f"exercises: {other} and {key} are one function")
        if self.points < len(self.exercises):
            raise ValueError(
                f"points must be at least 1 for each of {len(self.exercises)} exercises, "
                f"got {self.points}"
            )
        self._check_variants()

    def _check_variants(self) -> None:
        concepts = {part.spec for one in self.found for part in one.parts}
        for concept, mistake in self.variants.items():
            if concept not in concepts:
                raise ValueError(f"variants: {concept!r} is not in the exercises {concepts}")
            variant(concept, mistake)
        if "rmsnorm" in self.variants and "block" in self.exercises:
            raise ValueError(
                "variants: rmsnorm cannot change where block is an exercise, whose norms multiply "
                "by w; make two assignments"
            )

    @property
    def found(self) -> tuple[Exercise, ...]:
        """The exercises themselves, in order."""
        return tuple(exercise(name) for name in self.exercises)

    @property
    def modules(self) -> tuple[str, ...]:
        """All files of ours that the exercises are about, each once, in order."""
        return tuple(dict.fromkeys(module for one in self.found for module in one.modules))

    def functions_in(self, module: str) -> tuple[str, ...]:
        """Return the functions that are to be written in one file of ours."""
        return tuple(name for one in self.found for name in one.functions_in(module))


def _require(right: bool, name: str, what: str, got: Any) -> None:
    if not right:
        raise TypeError(f"{name} must be {what}, got {got!r:.120}")


def read_assignment(path: Path) -> Assignment:
    """Read an assignment.

    Args:
        path: assignment.json, or the folder that holds it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON, or a field is missing, unknown or wrong; the message names it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE
    if not path.is_file():
        raise FileNotFoundError(f"no assignment {path}; `minqwen assign` writes one")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold an object, got a {type(data).__name__}")
    known = [one.name for one in fields(Assignment)]
    if unknown := sorted(map(str, data.keys() - set(known))):
        raise ValueError(f"{path} has the unknown field {unknown[0]!r:.80}")
    if missing := [name for name in known if name not in data]:
        raise ValueError(f"{path} lacks the field {missing[0]}")
    try:
        return Assignment(**data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def assignment_text(assignment: Assignment) -> str:
    """Return what stands in assignment.json."""
    data = asdict(assignment) | {"exercises": list(assignment.exercises)}
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def write_assignment(assignment: Assignment, path: Path) -> None:
    """Write an assignment to a file, or as assignment.json into a folder, as a whole."""
    path = Path(path)
    write_whole(path / FILE if path.is_dir() else path, assignment_text(assignment).encode("utf-8"))


def write_texts(files: dict[Path, str]) -> list[Path]:
    """Write files, with the folders that they need; the same bytes on every system."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(files)


def require_hidden_seed(assignment: Assignment) -> None:
    """Raise ValueError when an assignment is the student's copy."""
    if assignment.hidden_seed is None:
        raise ValueError("hidden_seed is missing: this is the student's copy of the assignment")


def points_of(assignment: Assignment) -> dict[str, int]:
    """Return the points of each exercise: whole numbers, at least 1, with exactly the right sum.

    >>> points_of(Assignment("hw1", "Homework", ("linear", "rmsnorm", "rope"), points=10))
    {'linear': 2, 'rmsnorm': 3, 'rope': 5}
    """
    weights = {one.name: one.points for one in assignment.found}
    return apportion(assignment.points, weights)


def apportion(points: int, weights: dict[str, int]) -> dict[str, int]:
    """Share whole points by weights: what is left goes to the largest remainders, nobody gets 0.

    >>> apportion(7, {"a": 1, "b": 1, "c": 2}), apportion(4, {"a": 1, "b": 1, "c": 98})
    ({'a': 2, 'b': 2, 'c': 3}, {'a': 1, 'b': 1, 'c': 2})
    """
    total = sum(weights.values())
    shares = {name: max(1, points * weight // total) for name, weight in weights.items()}
    by_rest = sorted(weights, key=lambda name: -(points * weights[name] % total))  # stable
    for name in by_rest[: max(0, points - sum(shares.values()))]:
        shares[name] += 1
    while sum(shares.values()) > points:  # those that were given 1 cost the largest
        shares[max(shares, key=lambda name: shares[name])] -= 1
    return shares

"""Everything that `minqwen assign` writes, in the plain format: two folders of text files.

    student/    assignment.json, README.md, the files with their stubs, test_visible.py
    staff/      assignment.json with the hidden seed, solution/, hidden_tests.py, rubric.md,
                answer_key.md, README.md

The same assignment gives the same bytes: no clock, no random number, no name of a machine.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace
from pathlib import Path

from .answer_key import answer_key
from .assignment import FILE, Assignment, assignment_text
from .cut import handout_source, solution_source
from .pytest_files import hidden_tests_text, visible_tests_text
from .readme import student_readme
from .rubric import rubric
from .staff_readme import staff_readme


def student_files(assignment: Assignment) -> dict[str, str]:
    """Return the files of the student's folder: name -> text."""
    files = {
        FILE: assignment_text(replace(assignment, hidden_seed=None)),
        "README.md": student_readme(assignment),
    }
    siblings = assignment.modules
    for module in siblings:
        cut = assignment.functions_in(module)
        files[file_name(module)] = handout_source(module, cut, siblings, assignment.variants)
    return files | {"test_visible.py": visible_tests_text(assignment)}


def solution_files(assignment: Assignment) -> dict[str, str]:
    """Return the right files, which the students' become: name -> text."""
    siblings = assignment.modules
    return {
        file_name(module): solution_source(module, siblings, assignment.variants)
        for module in siblings
    }


def staff_files(assignment: Assignment) -> dict[str, str]:
    """Return the files of the staff's folder: path below it -> text."""
    solution = solution_files(assignment)
    return {
        FILE: assignment_text(assignment),
        "README.md": staff_readme(assignment),
        "rubric.md": rubric(assignment),
        "answer_key.md": answer_key(assignment),
        "hidden_tests.py": hidden_tests_text(assignment),
        **{f"solution/{name}": text for name, text in solution.items()},
    }


def file_name(module: str) -> str:
    """Return how a file of ours is called in an assignment.

    >>> file_name("minqwen.layers.rmsnorm")
    'rmsnorm.py'
    """
    return f"{module.rpartition('.')[2]}.py"


def write(assignment: Assignment, out: Path) -> list[Path]:
    """Write student/ and staff/ into a folder, and return the files."""
    written = []
    for folder, files in (
        ("student", student_files(assignment)),
        ("staff", staff_files(assignment)),
    ):
        for name, text in files.items():
            path = out / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            written.append(path)
    return written


def hidden_seed_of(name: str, seed: int | None) -> int:
    """Return the seed of the hidden inputs: drawn at random, or made of a number of yours.

    A large number in any case, so that it can be looked for in what students get.

    >>> hidden_seed_of("hw1", 7) == hidden_seed_of("hw1", 7) != hidden_seed_of("hw2", 7)
    True
    """
    if seed is None:
        drawn = secrets.randbits(62)
    else:
        digest = hashlib.sha256(f"minqwen assign {name} {seed}".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") >> 2
    return drawn | 1 << 61

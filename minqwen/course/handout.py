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
from .assignment import FILE, Assignment, assignment_text, write_texts
from .cut import handout_source, solution_source
from .exercise import file_of_module
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
    return files | stub_files(assignment) | {"test_visible.py": visible_tests_text(assignment)}


def stub_files(assignment: Assignment) -> dict[str, str]:
    """Return the files that students work in: name -> text."""
    siblings, variants = assignment.modules, assignment.variants
    return {
        file_of_module(module): handout_source(
            module, assignment.functions_in(module), siblings, variants
        )
        for module in siblings
    }


def solution_files(assignment: Assignment) -> dict[str, str]:
    """Return the right files, which the students' become: name -> text."""
    siblings = assignment.modules
    return {
        file_of_module(module): solution_source(module, siblings, assignment.variants)
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


def write(assignment: Assignment, out: Path) -> list[Path]:
    """Write student/ and staff/ into a folder, and return the files."""
    student = {out / "student" / name: text for name, text in student_files(assignment).items()}
    staff = {out / "staff" / name: text for name, text in staff_files(assignment).items()}
    return write_texts(student | staff)


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

"""An assignment for nbgrader: staff/nbgrader, a course folder with source/NAME/NAME.ipynb.

    one solution cell per function     named after it; the body is between BEGIN and END SOLUTION
    one locked test cell per aspect    PART_ASPECT; what needs the hidden seed is hidden, with a
                                       visible line that says so
    read-only cells                    what is given

Points are those of `minqwen grade`: a cell that earned a part of them has that number as its value,
which nbgrader counts. Every cell has an id and a name made of its place, so the same assignment
gives the same bytes. The checks run in the student's kernel, see cells.py.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from .aspects import VISIBLE
from .assignment import Assignment, require_hidden_seed, write_texts
from .cell_text import cell, check_line, notebook_text
from .file_cells import parts_of
from .notebook import IMPORT, first_cells

SCHEMA = 3
CONFIG = """\
# nbgrader reads this file when it is started in this folder.
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "{name}"
c.ClearSolutions.code_stub = {{"python": 'raise NotImplementedError("write this function")'}}
c.ExecutePreprocessor.timeout = 300  # seconds for one cell; a call of a function may take 10
"""
LATER = {
    "en": "# {part}: {aspect}. This is asked when you hand in, on other inputs.",
    "zh": "# {part}: {aspect}。提交之后用其他输入检查。",
}


def write(assignment: Assignment, out: Path) -> list[Path]:
    """Write the course folder and return its files.

    Raises:
        ValueError: the assignment has no hidden seed.
    """
    folder = out / "staff" / "nbgrader"
    name = assignment.name
    files = {
        folder / "nbgrader_config.py": CONFIG.format(name=name),
        folder / "source" / name / f"{name}.ipynb": nbgrader_notebook(assignment),
    }
    return write_texts(files)


def nbgrader_notebook(assignment: Assignment) -> str:
    """Return the source notebook, with solutions and hidden tests, as text."""
    require_hidden_seed(assignment)
    cells = first_cells(assignment)
    for number, one in enumerate(parts_of(assignment)):
        cells += [cell("markdown", text) for text in one.words]
        for i, text in enumerate(one.given):
            cells.append(cell("code", text, role(f"given_{number}_{i}", locked=True)))
        for function in one.functions:
            inner = f"    ### BEGIN SOLUTION\n{function.body}\n    ### END SOLUTION"
            source = f"{function.head}\n{inner}"
            cells.append(cell("code", source, role(function.name, solution=True)))
        for aspect, points in one.points.items():
            source = check_source(assignment, one.part.spec, aspect, points)
            name = grade_id(one.part.spec, aspect)
            cells.append(cell("code", source, role(name, locked=True, points=points)))
    return notebook_text(cells)


def check_source(assignment: Assignment, part: str, aspect: str, points: Fraction) -> str:
    """Return the code of a test cell."""
    if aspect in VISIBLE:
        line = check_line(assignment, part, aspect, "globals()", points=points)
        return f"# {part}: {aspect}\n{IMPORT}\n\n{line}"
    later = LATER[assignment.lang].format(part=part, aspect=aspect)
    seed = assignment.hidden_seed
    line = check_line(assignment, part, aspect, "globals()", seed=seed, points=points)
    return f"{later}\n### BEGIN HIDDEN TESTS\n{IMPORT}\n\n{line}\n### END HIDDEN TESTS"


def grade_id(part: str, aspect: str) -> str:
    """Return the name of a test cell: letters, digits and underscores.

    >>> grade_id("rmsnorm", "hard inputs")
    'rmsnorm_hard_inputs'
    """
    return re.sub(r"\W", "_", f"{part} {aspect}", flags=re.ASCII)


def role(
    name: str, *, solution: bool = False, locked: bool = False, points: Fraction | None = None
) -> dict[str, Any]:
    """Return the metadata of a cell, in nbgrader's schema 3."""
    found: dict[str, Any] = {
        "grade": points is not None,
        "grade_id": name,
        "locked": locked,
        "schema_version": SCHEMA,
        "solution": solution,
        "task": False,
    }
    if points is not None:
        found["points"] = float(points)
    return {"nbgrader": found}

"""An assignment for otter-grader: staff/otter/NAME.ipynb, the master that `otter assign` reads.

    raw cells          ASSIGNMENT CONFIG, and BEGIN/END of questions, solutions and tests
    a question         one part; its functions are a solution, with a stub that raises
    a test case        one aspect, in the exception format, with its points; those that need the
                       hidden seed are hidden

A test case is all or nothing: a row of which `minqwen grade` gives a part earns nothing here. The
checks run in the student's process, see cells.py.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from .aspects import VISIBLE
from .assignment import Assignment, require_hidden_seed, write_texts
from .cell_text import cell, check_line, notebook_text
from .file_cells import FunctionCell, parts_of
from .nbgrader_format import grade_id
from .notebook import IMPORT, first_cells

CONFIG = """\
# ASSIGNMENT CONFIG
name: {name}
requirements: requirements.txt
python_version: "3.11"
check_all_cell: false
export_cell: false
init_cell: true
show_question_points: true
tests:
    files: false
    ok_format: false
generate:
    points_possible: {points}
    show_hidden: false
    show_stdout: false
    pdf: false"""
REQUIREMENTS = """\
# What the autograder needs. If your copy of minqwen is not that of PyPI, write its address here.
minqwen
"""


def write(assignment: Assignment, out: Path) -> list[Path]:
    """Write the master notebook and its requirements; return the files.

    Raises:
        ValueError: the assignment has no hidden seed.
    """
    folder = out / "staff" / "otter"
    files = {
        folder / f"{assignment.name}.ipynb": otter_notebook(assignment),
        folder / "requirements.txt": REQUIREMENTS,
    }
    return write_texts(files)


def otter_notebook(assignment: Assignment) -> str:
    """Return the master notebook as text."""
    require_hidden_seed(assignment)
    config = CONFIG.format(name=assignment.name, points=assignment.points)
    cells = [cell("raw", config), *first_cells(assignment)]
    for one in parts_of(assignment):
        cells += [cell("markdown", text) for text in one.words]
        cells += [cell("code", text) for text in one.given]
        total = float(sum(one.points.values(), Fraction(0)))
        name = one.part.spec
        cells.append(cell("raw", f"# BEGIN QUESTION\nname: {name}\npoints: {total:g}"))
        cells.append(cell("markdown", " ".join(f"`{f.name}`" for f in one.functions)))
        cells.append(cell("raw", "# BEGIN SOLUTION"))
        cells += [cell("code", solution_source(function)) for function in one.functions]
        cells += [cell("raw", "# END SOLUTION"), cell("raw", "# BEGIN TESTS")]
        for aspect, points in one.points.items():
            cells.append(cell("code", check_source(assignment, name, aspect, points)))
        cells += [cell("raw", "# END TESTS"), cell("raw", "# END QUESTION")]
    return notebook_text(cells)


def solution_source(function: FunctionCell) -> str:
    """Return a function of which otter makes a stub that raises."""
    return "\n".join(
        [
            function.head,
            "    # BEGIN SOLUTION NO PROMPT",
            function.body,
            "    # END SOLUTION",
            '    """ # BEGIN PROMPT',
            function.stub,
            '    """ # END PROMPT',
        ]
    )


def check_source(assignment: Assignment, part: str, aspect: str, points: Fraction) -> str:
    """Return the code of a test case."""
    hidden = aspect not in VISIBLE
    seed = assignment.hidden_seed if hidden else None
    config: dict[str, Any] = {"points": f"{float(points):g}", "hidden": str(hidden).lower()}
    return "\n".join(
        [
            '""" # BEGIN TEST CONFIG',
            *(f"{key}: {value}" for key, value in config.items()),
            '""" # END TEST CONFIG',
            f"def test_{grade_id(part, aspect)}(env):",
            f"    {IMPORT}",
            "",
            f"    {check_line(assignment, part, aspect, 'env', seed=seed)}",
        ]
    )

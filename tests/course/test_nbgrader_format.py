"""nbgrader's source notebook: metadata of schema 3, roles, points, hidden parts."""

import json
import re

import nbformat
import pytest
from course.filled import POINTS, TASK

from minqwen.check.specs import names
from minqwen.course import nbgrader_format
from minqwen.course.aspects import VISIBLE
from minqwen.course.assignment import Assignment
from minqwen.course.ladder import LADDER
from minqwen.course.nbgrader_format import grade_id, nbgrader_notebook

KNOWN = tuple(one.name for one in LADDER if all(part.spec in names() for part in one.parts))
ALL = Assignment("all", "All", KNOWN, hidden_seed=2**61 + 12345)
FIELDS = {"schema_version", "grade_id", "grade", "solution", "locked", "task"}


def cells_of(task):
    """Return (metadata of nbgrader, text) of the cells that have some."""
    found = json.loads(nbgrader_notebook(task))["cells"]
    pairs = [(cell["metadata"].get("nbgrader"), "".join(cell["source"])) for cell in found]
    return [(data, text) for data, text in pairs if data]


def test_metadata_is_of_schema_3():
    nbformat.validate(nbformat.reads(nbgrader_notebook(ALL), as_version=4))
    ids = []
    for data, _ in cells_of(ALL):
        assert data.keys() == (FIELDS | {"points"} if data["grade"] else FIELDS)
        assert data["schema_version"] == 3
        assert re.fullmatch(r"[A-Za-z0-9_\-]+", data["grade_id"])
        assert (data["grade"], data["solution"], data["locked"]) in [
            (False, True, False),
            (True, False, True),
            (False, False, True),
        ]
        ids.append(data["grade_id"])
    assert len(ids) == len(set(ids))


def test_points_are_those_of_the_rubric():
    found = {d["grade_id"]: d["points"] for d, _ in cells_of(TASK) if d["grade"]}
    assert found == {grade_id(*key): points for key, points in POINTS.items()}
    total = sum(round(100 * d["points"]) for d, _ in cells_of(ALL) if d["grade"])
    assert total == 100 * ALL.points


def test_functions_are_solution_cells():
    found = {d["grade_id"]: text for d, text in cells_of(ALL) if d["solution"]}
    assert found.keys() == {f for one in ALL.found for part in one.parts for f in part.functions}
    for name, text in found.items():
        assert text.count("BEGIN SOLUTION") == text.count("END SOLUTION") == 1
        head, _, rest = text.partition("    ### BEGIN SOLUTION\n")
        assert f"def {name}(" in head
        assert rest.endswith("    ### END SOLUTION")
        stub = f'{head}    raise NotImplementedError("write this function")'
        compile(stub, name, "exec")


def test_what_needs_the_hidden_seed_is_hidden_and_says_so():
    seed = str(TASK.hidden_seed)
    for data, text in cells_of(TASK):
        shown = re.sub(r"### BEGIN HIDDEN TESTS.*### END HIDDEN TESTS", "", text, flags=re.DOTALL)
        assert seed not in shown
        if data["grade"]:
            hidden = not data["grade_id"].endswith(VISIBLE)
            hidden |= data["grade_id"].endswith("more_values")
            assert (seed in text) == hidden
            assert ("This is asked when you hand in" in shown) == hidden
            assert ("check_cell" in shown) == (not hidden)


def test_the_files(tmp_path):
    written = nbgrader_format.write(TASK, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "staff/nbgrader/nbgrader_config.py",
        "staff/nbgrader/source/hw1/hw1.ipynb",
    ]
    config = written[0].read_text(encoding="utf-8")
    compile(config, "config", "exec")
    assert 'course_id = "hw1"' in config
    assert written[1].read_text(encoding="utf-8") == nbgrader_notebook(TASK)


def test_the_students_copy_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="hidden_seed is missing"):
        nbgrader_format.write(Assignment("a", "A", ("gae",)), tmp_path)

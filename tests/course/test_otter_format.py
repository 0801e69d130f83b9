"""The master notebook of otter-grader: raw cells, questions, test cases in the exception format."""

import ast
import json

import nbformat
import pytest
from course.filled import POINTS, TASK

from minqwen.course import otter_format
from minqwen.course.aspects import VISIBLE
from minqwen.course.assignment import Assignment
from minqwen.course.otter_format import otter_notebook


def cells_of(kind):
    """Return the texts of the cells of one kind."""
    found = json.loads(otter_notebook(TASK))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def test_the_raw_cells_are_nested_as_otter_wants_them():
    nbformat.validate(nbformat.reads(otter_notebook(TASK), as_version=4))
    config, *marks = [text.splitlines() for text in cells_of("raw")]
    assert config[0] == "# ASSIGNMENT CONFIG"
    assert "    ok_format: false" in config
    assert "requirements: requirements.txt" in config
    assert "    points_possible: 100" in config
    order = ["# BEGIN QUESTION", "# BEGIN SOLUTION", "# END SOLUTION", "# BEGIN TESTS",
             "# END TESTS", "# END QUESTION"]  # fmt: skip
    assert [lines[0] for lines in marks] == order * 4
    asked = [lines for lines in marks if lines[0] == "# BEGIN QUESTION"]
    assert [lines[1] for lines in asked] == [
        f"name: {part}" for part in ("linear", "rmsnorm", "bpe_merges", "gae")
    ]
    assert sum(float(lines[2].removeprefix("points: ")) for lines in asked) == 100


def test_a_test_case_for_each_aspect():
    tests = [text for text in cells_of("code") if "BEGIN TEST CONFIG" in text]
    assert len(tests) == len(POINTS)
    for text, ((part, aspect), points) in zip(tests, POINTS.items(), strict=True):
        hidden = aspect not in VISIBLE
        assert text.startswith('""" # BEGIN TEST CONFIG\n')
        assert f"\npoints: {points:g}\nhidden: {str(hidden).lower()}\n" in text
        function = ast.parse(text).body[-1]
        assert [argument.arg for argument in function.args.args] == ["env"]
        assert f'check_cell("{part}", "{aspect}", env' in text
        assert (str(TASK.hidden_seed) in text) == hidden


def test_solutions_have_a_stub_that_raises():
    found = [text for text in cells_of("code") if "# BEGIN SOLUTION NO PROMPT" in text]
    functions = [f for one in TASK.found for part in one.parts for f in part.functions]
    assert len(found) == len(functions)
    for text, name in zip(found, functions, strict=True):
        ast.parse(text)
        head, _, rest = text.partition("    # BEGIN SOLUTION NO PROMPT\n")
        prompt = rest.partition("    # END SOLUTION\n")[2]
        assert f"def {name}(" in head
        assert prompt == (
            f'    """ # BEGIN PROMPT\n    raise NotImplementedError("{name}: write this function")'
            '\n    """ # END PROMPT'
        )
        assert "# SOLUTION" not in rest.replace("# END SOLUTION", "")


def test_the_files(tmp_path):
    written = otter_format.write(TASK, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "staff/otter/hw1.ipynb",
        "staff/otter/requirements.txt",
    ]
    assert written[0].read_text(encoding="utf-8") == otter_notebook(TASK)
    assert "\nminqwen\n" in written[1].read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="hidden_seed is missing"):
        otter_format.write(Assignment("a", "A", ("gae",)), tmp_path)

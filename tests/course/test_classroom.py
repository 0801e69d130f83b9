"""The workflow for GitHub Classroom: a step for each visible row, and the command of a step."""

import json

from course.filled import POINTS, TASK

from minqwen.course import classroom
from minqwen.course.aspects import VISIBLE
from minqwen.course.classroom import main, workflow


def test_a_step_for_each_visible_row(tmp_path):
    (written,) = classroom.write(TASK, tmp_path)
    place = written.relative_to(tmp_path).as_posix()
    assert place == "student/.github/workflows/classroom.yml"
    text = written.read_text(encoding="utf-8")
    assert text == workflow(TASK)
    visible = [key for key in POINTS if key[1] in VISIBLE]
    for part, aspect in visible:
        assert f"command: python -m minqwen.course.classroom grades.json {part} {aspect}\n" in text
        assert f'"${{{{steps.{part}-{aspect}.outputs.result}}}}"' in text
    assert text.count("autograding-command-grader@v1") == len(visible)
    points = [int(x.split(": ")[1]) for x in text.splitlines() if "max-score" in x]
    assert sum(points) == round(sum(POINTS[key] for key in visible))
    assert str(TASK.hidden_seed) not in text


def test_the_command_of_a_step(tmp_path, capsys):
    row = {"name": "gae: values", "points": 2.0, "max_points": 2.0, "says": "right"}
    data = {"rows": [row, {**row, "name": "gae: shape", "points": 0.0}], "diagnosis": {"gae": "so"}}
    file = tmp_path / "grades.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    assert main([str(file), "gae", "values"]) == 0
    assert capsys.readouterr().out == "gae: values: 2.0 of 2.0 points: right\n"
    assert main([str(file), "gae", "shape"]) == 1
    assert capsys.readouterr().out.endswith("so\n")
    assert main([str(file), "gae", "stability"]) == 1
    assert main([str(tmp_path / "none.json"), "gae", "values"]) == 1
    assert "was not graded" in capsys.readouterr().out

"""What is told of a grade, in every format."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from minqwen.course.grade import Grade, Row
from minqwen.course.gradescope_results import failed_results, gradescope_results
from minqwen.course.junit_results import clean, junit_xml
from minqwen.course.results import percent, to_dict, to_text

ROWS = (
    Row("norm", "rmsnorm", "shape", 4.0, 4.0, True, "every output has the right shape"),
    Row("norm", "rmsnorm", "values", 0.0, 7.5, True, "wrong on 2 of 2 inputs", ("it is averaged",),
        ("rmsnorm.sum_for_mean",)),
    Row("norm", "rmsnorm", "gradient", 1.25, 8.5, False, "right on 1 of 2 inputs", ("size",),
        ("rmsnorm.power",)),
    Row("gae", "gae", "shape", 0.0, 5.0, True, "not handed in: no file has gae"),
)  # fmt: skip
TEXTS = (("rmsnorm", "rmsnorm  WRONG\n  why"), ("gae", "gae  not handed in"))
GRADE = Grade("ann", "hw", ROWS, TEXTS, ("a.py, line 1: imports torch",), "guarded", 1.234)
WAITING = Grade(
    "ann", "hw", (ROWS[0], ROWS[2]._replace(points=None, says="graded later")), (), (), "g"
)
# the fields that Gradescope documents
TOP = {"score", "execution_time", "output", "output_format", "test_output_format",
       "test_name_format", "visibility", "stdout_visibility", "extra_data", "tests",
       "leaderboard"}  # fmt: skip
TEST = {"score", "max_score", "status", "name", "name_format", "number", "output",
        "output_format", "tags", "visibility", "extra_data"}  # fmt: skip


def test_sums():
    assert (GRADE.points, GRADE.max_points, GRADE.later) == (5.25, 25.0, 0.0)
    assert (WAITING.points, WAITING.max_points, WAITING.later) == (4.0, 4.0, 8.5)
    assert GRADE.of_exercise("norm") == (5.25, 20.0)
    assert percent(GRADE) == 21
    assert percent(Grade("x", "hw", (), (), (), "")) == 0


def test_plain_data_is_json_and_holds_no_clock():
    data = to_dict(GRADE)
    assert json.loads(json.dumps(data)) == data
    assert "execution_time" not in data
    assert to_dict(GRADE, clock=True)["execution_time"] == 1.23
    assert data["rows"][1]["name"] == "rmsnorm: values"
    assert data["notes"] == ["a.py, line 1: imports torch"]


def test_students_are_not_told_what_comes_later():
    data = to_dict(GRADE, student=True)
    assert (data["points"], data["max_points"], data["later"]) == (4.0, 16.5, 8.5)
    assert data["rows"][2]["points"] is None
    text = json.dumps(data) + to_text(GRADE, student=True)
    for secret in ("power", "1.25", "torch", "1 of 2", "size"):
        assert secret not in text


def test_text_names_every_row_and_the_reason():
    text = to_text(GRADE)
    assert text.startswith("ann   hw   5.25 of 25 points\n")
    told = ("rmsnorm: values", "0 of 7.5", "wrong on 2 of 2", "it is averaged", "rmsnorm  WRONG")
    for part in (*told, "note: a.py", "guarded"):
        assert part in text
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "8.5 more are graded later" in to_text(WAITING)


def test_gradescope_gets_its_fields_and_no_others():
    data = gradescope_results(GRADE)
    assert data.keys() <= TOP
    assert "score" not in data  # Gradescope adds up
    for test in data["tests"]:
        assert test.keys() <= TEST
        assert test.get("status") in ("passed", "failed")
        assert test["visibility"] in ("visible", "hidden", "after_due_date", "after_published")
        assert isinstance(test["output"], str)
    scored = [test for test in data["tests"] if "score" in test]
    assert sum(test["max_score"] for test in scored) == 25
    assert sum(test["score"] for test in scored) == 5.25
    assert [test["number"] for test in scored] == ["1.1", "1.2", "1.3", "2.1"]
    assert json.loads(json.dumps(data)) == data


def test_gradescope_hides_what_comes_later_and_names_it():
    data = gradescope_results(GRADE)
    assert [t["visibility"] for t in data["tests"]] == [
        "visible", "visible", "after_published", "visible", "visible"
    ]  # fmt: skip
    assert "8.5 more points, for gradient" in data["tests"][-1]["output"]
    assert "score" not in data["tests"][-1]
    assert "why" in data["tests"][1]["output"]
    assert data["stdout_visibility"] == "hidden"
    shown = gradescope_results(GRADE, after="visible")
    assert len(shown["tests"]) == 4
    with pytest.raises(ValueError, match="after must be one of"):
        gradescope_results(GRADE, after="never")


def test_gradescope_without_anything_to_grade():
    data = failed_results("no zip", 100)
    assert data.keys() <= TOP
    assert data["tests"][0].keys() <= TEST
    assert (data["tests"][0]["score"], data["tests"][0]["max_score"]) == (0.0, 100)


def test_junit_can_be_read():
    root = ElementTree.fromstring(junit_xml(GRADE))
    suites = root.findall("testsuite")
    assert [s.get("name") for s in suites] == ["norm", "gae"]
    assert (suites[0].get("tests"), suites[0].get("failures")) == ("3", "2")
    case = suites[0].findall("testcase")[1]
    assert case.find("failure").get("message") == "0 of 7.5 points: wrong on 2 of 2 inputs"
    assert case.find("properties/property[@name='max_points']").get("value") == "7.5"
    student = ElementTree.fromstring(junit_xml(GRADE, student=True))
    assert student.find("testsuite").get("skipped") == "1"
    assert ElementTree.fromstring(junit_xml(WAITING)).find(".//skipped").get("message") == (
        "graded later"
    )


def test_junit_holds_any_text():
    odd = ROWS[1]._replace(says="<&\x00\x1b \ud800 é", details=("]]>", "\ufffe"))
    found = ElementTree.fromstring(junit_xml(Grade("a\x01", "hw", (odd,), (), (), "")))
    assert "<&?? ? é" in found.find(".//failure").get("message")
    assert clean("ok\n") == "ok\n"

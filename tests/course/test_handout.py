"""The two folders: what students get, what they do not, and the same bytes each time."""

import ast
import json
import re
from fractions import Fraction

import pytest

from minqwen.check.specs import names, spec
from minqwen.course.answer_key import answer_key
from minqwen.course.assignment import Assignment, points_of, read_assignment
from minqwen.course.handout import (
    hidden_seed_of,
    solution_files,
    staff_files,
    student_files,
    write,
)
from minqwen.course.ladder import LADDER
from minqwen.course.readme import hints_of, student_readme
from minqwen.course.rubric import rows_of, rubric
from minqwen.course.staff_readme import staff_readme, title_of
from minqwen.course.variants import VARIANTS

KNOWN = tuple(one.name for one in LADDER if all(part.spec in names() for part in one.parts))
HW = Assignment("hw1", "Homework 1", ("linear", "rmsnorm", "rope"), hidden_seed=2**61 + 12345)
ALL = Assignment("all", "All", KNOWN, hidden_seed=2**61 + 12345)
CHANGED = {one.concept: one.mistake for one in VARIANTS}


def test_the_files(tmp_path):
    written = [path.relative_to(tmp_path).as_posix() for path in write(HW, tmp_path)]
    assert sorted(written) == [
        "staff/README.md",
        "staff/answer_key.md",
        "staff/assignment.json",
        "staff/hidden_tests.py",
        "staff/rubric.md",
        "staff/solution/linear.py",
        "staff/solution/rmsnorm.py",
        "staff/solution/rope.py",
        "student/README.md",
        "student/assignment.json",
        "student/linear.py",
        "student/rmsnorm.py",
        "student/rope.py",
        "student/test_visible.py",
    ]
    assert read_assignment(tmp_path / "staff") == HW
    student = read_assignment(tmp_path / "student")
    assert (student.hidden_seed, student.exercises) == (None, HW.exercises)
    assert all(b"\r" not in path.read_bytes() for path in tmp_path.rglob("*.*"))


def test_the_same_assignment_gives_the_same_texts():
    assert student_files(ALL) == student_files(ALL)
    assert staff_files(ALL) == staff_files(ALL)


def test_students_get_no_secret():
    for name, text in student_files(ALL).items():
        assert str(ALL.hidden_seed) not in text, name
    assert json.loads(student_files(ALL)["assignment.json"])["hidden_seed"] is None


@pytest.mark.parametrize("files", [student_files(ALL), staff_files(ALL)], ids=["student", "staff"])
def test_every_python_file_parses_and_ends_with_one_line_break(files):
    for name, text in files.items():
        assert text.endswith("\n"), name
        assert not text.endswith("\n\n"), name
        assert not re.search(r"[ \t]+$", text, re.MULTILINE), name
        if name.endswith(".py"):
            ast.parse(text)


def test_rows_sum_to_the_points():
    for points in (100, 37, 1000):
        this = Assignment("all", "All", KNOWN, points=points)
        rows = rows_of(this)
        assert sum(row.points for row in rows) == points
        for name, most in points_of(this).items():
            assert sum(row.points for row in rows if row.exercise == name) == most
        assert all(row.points > 0 for row in rows)
        assert all(row.points * 100 == Fraction(int(row.points * 100)) for row in rows)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_readme_names_everything(lang):
    this = Assignment("all", "Alles", KNOWN, lang=lang)
    text = student_readme(this)
    for one in this.found:
        assert one.title_zh in text if lang == "zh" else one.title in text
        for part in one.parts:
            assert all(f"`{name}`" in text for name in part.functions)
        assert all(f"`{file}`" in text for file in one.files)
        assert all(hint in text for hint in (one.hints_zh if lang == "zh" else one.hints))
    assert text.count("<details>") == text.count("</details>") == 3 * len(KNOWN)
    chinese = re.findall("[\u4e00-\u9fff]", text)
    assert len(chinese) > 3000 if lang == "zh" else not chinese
    assert "{" not in text
    assert "minqwen grade ." in text


def test_the_readme_says_how_much_is_told():
    texts = [student_readme(Assignment("a", "A", ("gae",), hint=hint)) for hint in (0, 1, 2)]
    assert "says only which question" in texts[0]
    assert "where to look" in texts[1]
    assert "shows the line" in texts[2]


def test_a_variant_is_announced_and_false_hints_go():
    concepts = {one.concept for one in VARIANTS}
    exercises = tuple(o.name for o in LADDER if concepts & {p.spec for p in o.parts})
    for lang in ("en", "zh"):
        this = Assignment("v", "V", exercises, lang=lang, variants=CHANGED)
        text = student_readme(this)
        for one in VARIANTS:
            assert (one.says_zh if lang == "zh" else one.says) in text
            for which, en, zh in one.hints:
                (exercise,) = [o for o in this.found if one.concept in {p.spec for p in o.parts}]
                usual = (exercise.hints_zh if lang == "zh" else exercise.hints)[which]
                assert usual not in text
                assert (zh if lang == "zh" else en) in hints_of(exercise, this)
        assert all(one.says in staff_readme(this) for one in VARIANTS)


def test_the_readme_shows_what_comes_before():
    text = student_readme(Assignment("a", "A", ("linear", "swiglu", "rope")))
    assert "| 6, 45 |" not in text
    assert re.search(r"\| 2 \| SwiGLU .*\| 45 \| linear \|", text)
    alone = student_readme(Assignment("a", "A", ("swiglu",)))
    assert re.search(r"\| 1 \| SwiGLU .*\| 45 \|  \|", alone)


def test_the_rubric_has_every_input():
    text = rubric(ALL)
    for one in ALL.found:
        for part in one.parts:
            for probe in spec(part.spec).probes:
                assert f"- {probe.name} (" in text
                assert probe.shows in text
    assert text.count("| values |") == text.count("| more values |") == text.count("| stability |")
    one = rubric(Assignment("a", "A", ("rmsnorm",)))
    assert "| values | 17.5 | at once | ordinary, other sizes (public seed) |" in one
    assert "| hard inputs | 15 | later | tiny, large, zeros, one vector (hidden seed) |" in one
    assert "| gradient | 25 | later | dx, dw on ordinary, other sizes, tiny, large, one " in one
    assert "| gradient | " not in rubric(Assignment("a", "A", ("gae",)))


def test_the_answer_key_has_every_function_and_mistake():
    text = answer_key(ALL)
    for one in ALL.found:
        for part in one.parts:
            for name in part.functions:
                assert text.count(f"\ndef {name}(") == 1
            for m in (*spec(part.spec).forward, *spec(part.spec).backward):
                assert f"- `{m.name}`: " in text
    assert "Not in the handout, and not asked for: `attention_sizes`, `mask_bias`" in text


def test_in_the_answer_key_a_variant_is_no_mistake():
    text = answer_key(Assignment("a", "A", ("rmsnorm",), variants={"rmsnorm": "gain_plus_one"}))
    assert "(1 + widen(w))" in text
    assert "- `gain_plus_one`" not in text
    assert "This year: the gain is 1 + w" in text


def test_visible_tests_name_visible_rows_only():
    visible = student_files(HW)["test_visible.py"]
    assert '("rope", "rope", "values"),' in visible
    assert "gradient" not in visible
    hidden = staff_files(HW)["hidden_tests.py"]
    assert '("rope", "rope", "gradient"),' in hidden
    assert hidden.count('    ("') == len(rows_of(HW))


def test_solutions_carry_the_variant():
    this = Assignment("a", "A", ("rmsnorm",), variants={"rmsnorm": "gain_plus_one"})
    assert "(1 + widen(w))" in solution_files(this)["rmsnorm.py"]
    assert "(1 + widen(w))" not in student_files(this)["rmsnorm.py"]
    assert "the gain 1 + w." in student_files(this)["rmsnorm.py"]


def test_the_hidden_seed():
    assert hidden_seed_of("hw1", 7) == hidden_seed_of("hw1", 7)
    assert len({hidden_seed_of("hw1", 7), hidden_seed_of("hw1", 8), hidden_seed_of("a", 7)}) == 3
    drawn = [hidden_seed_of("hw1", None) for _ in range(50)]
    assert len(set(drawn)) == 50
    assert all(2**61 <= seed < 2**62 for seed in (*drawn, hidden_seed_of("hw1", 0)))


def test_titles():
    found = ALL.found
    assert title_of(found[:1], "en") == "Linear layer"
    assert title_of(found[:2], "en") == "Linear layer, RMSNorm"
    assert title_of(found[:4], "en") == "Linear layer to Rotary position embedding (RoPE)"
    assert title_of(found[:2], "zh") == "线性层、RMSNorm 归一化"

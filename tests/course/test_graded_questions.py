"""What a reply says does not depend on where the files lay."""

import time

import pytest

from minqwen.check.outside.messages import Problem, Reply
from minqwen.course.graded_questions import without_folder

FOLDER = "/tmp/minqwen-grade-x1"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (f"({FOLDER}/files/rope.py, line 2)", "(rope.py, line 2)"),
        (f"'{FOLDER}/files/a.py' and {FOLDER}/scratch/b", "'a.py' and scratch/b"),
        ("../minqwen-grade-x1/files/a.py", "a.py"),
        (f"{FOLDER}{FOLDER}", ""),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_paths_lose_the_folder(text, want):
    reply = without_folder(Reply((), printed=text, notes=(text,)), FOLDER)
    assert (reply.printed, reply.notes) == (want, (want,))
    problem = without_folder(Reply(problem=Problem("raised", text, text)), FOLDER).problem
    assert problem == Problem("raised", want, want)


@pytest.mark.parametrize("text", ["y" * 10**6, f"{FOLDER}/" * 30000, "(" * 10**6])
def test_long_prints_take_no_time(text):
    start = time.process_time()
    without_folder(Reply((), printed=text), FOLDER)
    assert time.process_time() - start < 1

"""What the tests of grading share: submissions made of our own files, and how they are graded."""

from minqwen.course.assignment import Assignment
from minqwen.course.grade import grade
from minqwen.course.handout import solution_files, stub_files
from minqwen.course.submission import Submission


def assignment(*exercises, **fields):
    """Return an assignment as the staff has it."""
    return Assignment("hw", "Homework", exercises, **{"hidden_seed": 7, **fields})


def solution(task):
    """Return the files of the answer key."""
    return solution_files(task)


def stubs(task):
    """Return the files of the handout, with nothing written."""
    return stub_files(task)


def edited(files, name, *pairs):
    """Return the files with lines of one of them changed."""
    text = files[name]
    for find, put in pairs:
        assert text.count(find) == 1, find
        text = text.replace(find, put)
    return {**files, name: text}


def graded(files, task, **options):
    """Grade files that are at hand."""
    options = {"seconds": 5.0, **options}
    return grade(Submission("me", dict(files)), task, **options)


def by_aspect(found, part):
    """Return the points of one part, by aspect."""
    return {row.aspect: row.points for row in found.rows if row.part == part}

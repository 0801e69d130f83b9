"""What the tests of grading share: submissions made of our own files, and how they are graded."""

from minqwen.course.ask import file_of_module, functions_in
from minqwen.course.assignment import Assignment
from minqwen.course.cut import handout_source, solution_source
from minqwen.course.grade import grade
from minqwen.course.submission import Submission


def assignment(*exercises, **fields):
    """Return an assignment as the staff has it."""
    return Assignment("hw", "Homework", exercises, **{"hidden_seed": 7, **fields})


def solution(task):
    """Return the files of the answer key."""
    return {
        file_of_module(module): solution_source(module, task.modules, task.variants)
        for module in task.modules
    }


def stubs(task):
    """Return the files of the handout, with nothing written."""
    found = {}
    for exercise in task.found:
        for module in exercise.modules:
            names = [n for one in task.found for n in functions_in(one, module)]
            found[file_of_module(module)] = handout_source(
                module, names, task.modules, task.variants
            )
    return found


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

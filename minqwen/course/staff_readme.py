"""The README for the staff, and the words of an assignment that are made of its exercises."""

from __future__ import annotations

import shlex

from .assignment import Assignment
from .exercise import Exercise
from .variants import variant

README = """\
# For the staff: {title}

Keep this folder to yourselves: it holds the answers and the hidden seed. Students get
`../student`, and nothing else.

| file | what it is |
| --- | --- |
| `assignment.json` | the assignment with its hidden seed; `minqwen grade` reads it |
| `solution/` | the right files; they earn every point |
| `rubric.md` | points per function and aspect, and on which inputs |
| `answer_key.md` | the functions, and what people get wrong |
| `hidden_tests.py` | the rows of grading as a pytest file |

## Grading

In this folder:

```
minqwen grade --each SUBMISSIONS --assignment . --out grades -j 4     a folder of them
minqwen grade SUBMISSION --assignment .                               one, on the screen
SUBMISSION=path/to/one python -m pytest hidden_tests.py
```

A submission is a file, a folder, a zip or a notebook; with `--each`, every entry of a folder is
one, and without it the whole folder is. Each part of it runs in a process of its
own, with limits on time and memory and without the answers; the numbers are compared outside.
`minqwen grade solution --assignment .` gives every point and `minqwen grade ../student
--assignment .` gives none: `minqwen assign` has tried both.

## What students see

Shape, half of the values, and stability at once, with a hint that tells {told}
(`hint` is {hint} in assignment.json; to change it, change both copies). Hard inputs, gradients and
the other half of the values come later. Their inputs are drawn from the hidden seed, which is not
in the student's folder.

It is about {hours:g} hours of work for somebody who knows NumPy and has heard the lecture.
{change}
## Copying

The solved files are public. Functions that equal ours up to names, and imports or tricks that reach
for them, are noted for you in the results; they cost nothing by themselves (`--copied zero` if you
want it otherwise). A change of this year's, `minqwen assign --variant`, makes copying useless.

Made by minqwen {version}: `{command}`
"""
CHANGE = """
## This year's change

{listed}

Students are told, in their README and in the docstrings. Each is a right answer of its own, with a
gradient of its own. The public file of minqwen is wrong here, and the notes of grading say by name
who handed it in.
"""
TOLD = ("which question failed", "the mistake and where to look", "the mistake and its line")


def staff_readme(assignment: Assignment) -> str:
    """Return README.md of the staff's folder."""
    listed = [f"- {key[0]}: {variant(*key).says}" for key in assignment.variants.items()]
    return README.format(
        title=assignment.title,
        told=TOLD[assignment.hint],
        hint=assignment.hint,
        hours=round(sum(one.minutes for one in assignment.found) / 60, 1),
        change=CHANGE.format(listed="\n".join(listed)) if listed else "",
        version=assignment.version,
        command=command_of(assignment),
    )


def command_of(assignment: Assignment) -> str:
    """Return the command that makes such an assignment, but for its seed."""
    words = ["minqwen assign", *assignment.exercises, "--out FOLDER"]
    words += [f"--points {assignment.points}", f"--lang {assignment.lang}"]
    words += [f"--variant {concept}={mistake}" for concept, mistake in assignment.variants.items()]
    words += [f"--hint {assignment.hint}", f"--name {assignment.name}"]
    if assignment.title != title_of(assignment.found, assignment.lang):
        words.append(f"--title {shlex.quote(assignment.title)}")
    return " ".join(words)


def title_of(exercises: tuple[Exercise, ...], lang: str) -> str:
    """Return a title for some exercises: all of them, or the first and the last."""
    titles = [one.title_zh if lang == "zh" else one.title for one in exercises]
    between, to = ("、", "到") if lang == "zh" else (", ", " to ")
    return between.join(titles) if len(titles) <= 3 else titles[0] + to + titles[-1]

"""An assignment as pieces of notebooks: what is given, what is to be written, what is asked.

The pieces come from the same handout and solution as the files (cut.py), and every format of
notebooks is made of them. A solved cell stands by itself: imports and helpers that the handout
leaves out are inside of the function, so that the cells around it are the same for students.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from ..check.specs import spec
from .assignment import Assignment, points_of
from .cut import body_start, handout_source, raising, varied_source
from .exercise import Exercise, Part
from .file_imports import FIRST_LINE, Imported, import_lines, imported, used_names
from .readme import hints_of, title_of
from .readme_words import TEXT
from .rubric import rows_of
from .source_text import names_of


@dataclass
class FunctionCell:
    """One function that is to be written."""

    name: str
    head: str  # decorators, signature and docstring
    body: str  # of the solution, indented, with all that it needs
    stub: str  # the one line that students find


@dataclass
class PartCells:
    """One part of an exercise."""

    exercise: Exercise
    part: Part
    words: list[str]  # Markdown before it: the exercise, the idea and the equation of its file
    given: list[str]  # code that is there already
    functions: list[FunctionCell]
    points: dict[str, Fraction] = field(default_factory=dict)  # aspect -> points


def parts_of(assignment: Assignment) -> list[PartCells]:
    """Return the pieces of an assignment, in order; each file's given code comes once."""
    files = {module: FileCells(module, assignment) for module in assignment.modules}
    defined = {name for file in files.values() for name in names_in(file.tree)}
    rows = rows_of(assignment)
    found, shown, told = [], set[str](), set[str]()
    for exercise in assignment.found:
        for part in exercise.parts:
            module = spec(part.spec).module
            file = files[module]
            words = [] if exercise.name in told else [exercise_words(exercise, assignment)]
            given: list[str] = []
            if module not in shown:
                words += [f"`{module.replace('.', '/')}.py`:\n\n```text\n{file.doc}\n```"]
                given = file.given()
            shown.add(module)
            told.add(exercise.name)
            points = {
                row.aspect: row.points
                for row in rows
                if (row.exercise, row.part) == (exercise.name, part.spec)
            }
            functions = [file.function(name, defined) for name in part.functions]
            found.append(PartCells(exercise, part, words, given, functions, points))
    return found


class FileCells:
    """One file of an assignment, cut into cells."""

    def __init__(self, module: str, assignment: Assignment) -> None:
        self.module, self.assignment = module, assignment
        self.cut = assignment.functions_in(module)
        text = handout_source(module, self.cut, assignment.modules, assignment.variants)
        self.text = without_siblings(text, assignment.modules)
        self.solved = varied_source(module, assignment.variants)
        self.tree, self.solved_tree = ast.parse(self.text), ast.parse(self.solved)
        self.doc = (ast.get_docstring(self.tree, clean=False) or "").strip()

    def given(self) -> list[str]:
        """Return the code that students need not write: imports first, then everything else."""
        lines, stop = self.text.splitlines(), 0
        imports: list[str] = []
        others: list[str] = []
        for i, node in enumerate(self.tree.body):
            first, end = first_line(node), node.end_lineno or node.lineno
            before = [line for line in lines[stop:first] if line.strip()]  # its comments
            stop = end
            if i == 0 and ast.get_docstring(self.tree) is not None:
                continue
            is_import = isinstance(node, (ast.Import, ast.ImportFrom))
            chosen = imports if is_import else others
            if before and before[0] == FIRST_LINE:  # it stands behind the imports
                imports += ["\n".join(["", *before])]
                before = []
            if not (isinstance(node, ast.FunctionDef) and node.name in self.cut):
                chosen.append("\n".join([*before, *lines[first:end]]))
        cells = ("\n".join(imports).strip(), "\n\n\n".join(others))
        return [text for text in cells if text]

    def function(self, name: str, defined: set[str]) -> FunctionCell:
        """Return one function that is to be written.

        Args:
            name: of the function.
            defined: what all files of the assignment define: it is in the notebook.
        """
        node = function_of(self.tree, name)
        lines = self.text.splitlines()
        head = "\n".join(lines[first_line(node) : body_start(node)])
        return FunctionCell(name, head, self.body(name, defined), raising(name))

    def body(self, name: str, defined: set[str]) -> str:
        """Return the body of the solution, behind what it needs of imports and helpers."""
        definitions: dict[str, ast.stmt] = {}
        for node in self.solved_tree.body:
            definitions.update(dict.fromkeys(names_of(node), node))
        there = names_in(self.tree)
        main = function_of(self.solved_tree, name)
        needed: list[ast.stmt] = []
        uses = set().union(*map(used_names, main.body))
        waiting = sorted(uses)
        while waiting:
            found = definitions.get(waiting.pop())
            if found is not None and found not in needed and not names_of(found) & there:
                needed.append(found)
                more = used_names(found)
                uses |= more
                waiting += sorted(more)
        lines = self.solved.splitlines()
        blocks = []
        if wanted := self.imports(uses, defined):
            blocks.append("\n".join(line for line in import_lines(wanted, ()) if line))
        for node in self.solved_tree.body:
            if node in needed:
                blocks.append("\n".join(lines[first_line(node) : node.end_lineno]))
        inner = "\n".join(lines[body_start(main) : main.end_lineno])
        return "\n".join([indented(block) + "\n" for block in blocks] + [inner])

    def imports(self, uses: set[str], defined: set[str]) -> list[Imported]:
        """Return what a body needs to import: not what the cells above import or define."""
        have = {one.known_as for one in imported(self.tree, self.module)}
        return [
            one
            for one in imported(self.solved_tree, self.module)
            if one.known_as in uses - have
            and not (one.module in self.assignment.modules and one.known_as in defined)
        ]


def without_siblings(text: str, modules: Sequence[str]) -> str:
    """Take out what is imported from files of the same assignment: it stands in the notebook."""
    stems = "|".join(re.escape(module.rpartition(".")[2]) for module in modules)
    pattern = rf"^(# )?from (?:{stems}) import (?:\([^)]*\)|[^\n(]*)\n"
    text = re.sub(pattern, "", text, flags=re.MULTILINE)
    text = re.sub(rf"^{re.escape(FIRST_LINE)}\n(?!#)", "", text, flags=re.MULTILINE)
    return text.replace("  # noqa: F401", "")


def first_line(node: ast.stmt) -> int:
    """Return where a statement begins, with its decorators, as an index of lines."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)]) - 1


def function_of(tree: ast.Module, name: str) -> ast.FunctionDef:
    """Return a function of a file."""
    return next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)


def names_in(tree: ast.Module) -> set[str]:
    """Return the names that a file defines."""
    return set().union(*map(names_of, tree.body))


def indented(text: str) -> str:
    """Indent a block of code by one level.

    >>> indented("x = 1\\n\\ny = 2")
    '    x = 1\\n\\n    y = 2'
    """
    return "\n".join(f"    {line}" if line.strip() else "" for line in text.splitlines())


def exercise_words(exercise: Exercise, assignment: Assignment) -> str:
    """Return what stands above an exercise: its task, its points, three folded hints."""
    zh, say = assignment.lang == "zh", TEXT[assignment.lang]
    points = points_of(assignment)[exercise.name]
    number = assignment.exercises.index(exercise.name) + 1
    facts = str(say["facts"]).format(
        files="`, `".join(exercise.files), points=points, minutes=exercise.minutes,
        report=exercise.report,
    )  # fmt: skip
    lines = [f"## {number}. {title_of(exercise, zh)}", "", facts, ""]
    lines += [exercise.task_zh if zh else exercise.task]
    for n, hint in enumerate(hints_of(exercise, assignment), 1):
        title = str(say["hint"]).format(n=n)
        lines += ["", f"<details><summary>{title}</summary>", "", hint, "", "</details>"]
    return "\n".join(lines)

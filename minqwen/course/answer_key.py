"""The answer key: every function that was taken out, and the mistakes that people make."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ..check.report import sentence
from ..check.specs import spec
from .assignment import Assignment
from .cut import handout_source, solution_source
from .exercise import Part
from .variants import variant


def answer_key(assignment: Assignment) -> str:
    """Return answer_key.md: every function that was taken out, and what people get wrong."""
    return "\n".join(_key_lines(assignment)) + "\n"


def _key_lines(assignment: Assignment) -> Iterator[str]:
    yield f"# Answer key: {assignment.title}"
    yield ""
    yield (
        "The whole files are in `solution/`. Below the functions stand the mistakes that the "
        "checker knows and names, with the hint that goes with each."
    )
    for one in assignment.found:
        yield ""
        yield f"## {one.name}: {one.title}"
        yield ""
        yield one.task
        for part in one.parts:
            yield from _part_lines(part, assignment)


def _part_lines(part: Part, assignment: Assignment) -> Iterator[str]:
    concept = spec(part.spec)
    text = solution_source(concept.module, assignment.modules, assignment.variants)
    lines = text.splitlines()
    yield ""
    yield f"### {part.spec}"
    if part.spec in assignment.variants:
        this = variant(part.spec, assignment.variants[part.spec])
        yield ""
        yield f"This year: {this.says} Whoever hands in the public file loses the values."
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name in part.functions:
            yield from ("", "```python", *lines[node.lineno - 1 : node.end_lineno], "```")
    if gone := gone_helpers(concept.module, assignment):
        yield ""
        yield f"Not in the handout, and not asked for: {', '.join(f'`{name}`' for name in gone)}."
    right = assignment.variants.get(part.spec)
    for title, mistakes in (("Mistakes", concept.forward), ("In the gradient", concept.backward)):
        known = [m for m in mistakes if m.name != right]
        if known:
            yield from ("", f"{title}:", "")
            for m in known:
                yield f"- `{m.name}`: {sentence(m.says, concept)} Hint: {m.hint}"


def gone_helpers(module: str, assignment: Assignment) -> list[str]:
    """Return the functions of a file that the handout leaves out altogether."""
    cut = assignment.functions_in(module)
    handout = handout_source(module, cut, assignment.modules, assignment.variants)
    solution = solution_source(module, assignment.modules, assignment.variants)
    return [name for name in _names(solution) if name not in _names(handout)]


def _names(text: str) -> list[str]:
    return [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]

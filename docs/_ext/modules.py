"""What the site says of each file: its pieces, its tests, its notebooks, its exercise, its page."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import make_tables

from minqwen.check.concepts import CONCEPTS
from minqwen.check.specs import names, spec

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {  # in the order of the reports: folder -> words
    "tokenizer": "Tokenizer",
    "layers": "Layers",
    "long_context": "Longer texts",
    "model": "Model",
    "training": "Training",
    "data": "Data",
    "alignment": "Alignment",
    "agent": "Agents",
}


class Piece(NamedTuple):
    """A part of a file that stands in one row: its words beside its code."""

    name: str  # of the function or class: "Tokenizer.encode"; "" for what stands above the first
    docstring: str
    parts: tuple[tuple[int, str], ...]  # (number of the first line, code) without the docstring


@cache
def teaching_files() -> tuple[str, ...]:
    """Return the modules with a page: those of the table of concepts, and those that cite."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / "minqwen" / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            docstring = ast.get_docstring(ast.parse(text)) or ""
            listed = path.relative_to(ROOT).as_posix() in make_tables.OTHERS
            if listed or re.search(r"^(?:Paper|Origin): ", docstring, re.MULTILINE):
                found.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return tuple(found)


def path_of(module: str) -> Path:
    """Return the file of a module."""
    return ROOT / (module.replace(".", "/") + ".py")


def page_of(module: str) -> str:
    """Return the page of a module, as a document of Sphinx.

    >>> page_of("minqwen.layers.rope")
    '/docs/code/layers/rope'
    """
    return "/docs/code/" + module.removeprefix("minqwen.").replace(".", "/")


@cache
def docstring_of(module: str) -> str:
    """Return the docstring of a file."""
    return ast.get_docstring(ast.parse(path_of(module).read_text(encoding="utf-8"))) or ""


def title_of(module: str) -> str:
    """Return what stands before the first colon of a file's docstring, or its first sentence.

    >>> title_of("minqwen.layers.rmsnorm")
    'Root-mean-square normalisation (RMSNorm)'
    >>> title_of("minqwen.layers.linear")[-33:]  # a colon inside brackets ends nothing
    'only on queries, keys and values)'
    """
    first = " ".join(docstring_of(module).partition("\n\n")[0].split())
    return re.split(r": (?![^(]*\))|\.(?: |$)", first, maxsplit=1)[0]


def pieces(source: str) -> Iterator[Piece]:
    """Cut a file at its functions, classes and methods."""
    lines = source.splitlines()
    tree = ast.parse(source)
    yield from cut(lines, tree.body, 1, len(lines), tree, "", "")


def cut(lines, body, start, end, owner, name, prefix) -> Iterator[Piece]:
    """Yield what stands before the first function in lines start..end, then each function."""
    docs = body[0] if body and ast.get_docstring(owner, clean=False) is not None else None
    inner = [n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and splits(n)]
    marks = []
    for node in inner:
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        while lines[first - 2].strip().startswith("#") and first - 1 > start:
            first -= 1  # the comment above it
        marks.append(first)
    stop = marks[0] - 1 if marks else end
    parts = [(start, stop)]
    if docs is not None:
        parts = [(start, docs.lineno - 1), (docs.end_lineno + 1, stop)]
    yield Piece(name, ast.get_docstring(owner) or "", tuple(code(lines, parts)))
    for node, first, after in zip(inner, marks, [*marks, end + 1][1:], strict=True):
        full = f"{prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from cut(lines, node.body, first, after - 1, node, full, f"{full}.")
        else:
            docs = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            parts = [(first, after - 1)]
            if docs is not None:
                parts = [(first, docs.lineno - 1), (docs.end_lineno + 1, after - 1)]
            text = ast.get_docstring(node) or ""
            yield Piece(full, text, tuple(code(lines, parts)))


def splits(node) -> bool:
    """Whether a function or class gets a row of its own: what has a docstring or methods does."""
    return bool(ast.get_docstring(node)) or any(isinstance(n, ast.FunctionDef) for n in node.body)


def code(lines, parts) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, code) of each part that is not empty."""
    for first, last in parts:
        while first <= last and not lines[first - 1].strip():
            first += 1
        while last >= first and not lines[last - 1].strip():
            last -= 1
        if first <= last:
            yield first, "\n".join(lines[first - 1 : last])


@cache
def explained(module: str) -> tuple[str, ...]:
    """Return the names under which `minqwen check` and `explain` know the functions of a file."""
    return tuple(name for name in names() if spec(name).module == module)


@cache
def concepts_of(module: str) -> tuple[str, ...]:
    """Return the rows of the table of concepts that a file has."""
    return tuple(row.name for row in CONCEPTS if row.module == module)


def resolve(path: str) -> str:
    """Return the module with a page that words like "rope.py" or "model/qwen1.py" mean, or "".

    >>> resolve("layers/attention.py"), resolve("minqwen/layers/rope.py"), resolve("setup.py")
    ('minqwen.layers.attention', 'minqwen.layers.rope', '')
    """
    wanted = path.removesuffix(".py").replace("/", ".")
    found = [m for m in teaching_files() if f".{m}".endswith(f".{wanted}")]
    return found[0] if len(found) == 1 else ""

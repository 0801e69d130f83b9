"""The reference: a page for each package by autodoc, with our docstrings made fit for it.

Our docstrings are plain text. `*`, `|` and a trailing `_` mean nothing in them, but much in
reStructuredText; so they are escaped. A module's docstring is left to its page in docs/code. The
fields of a cache say their shapes in comments, which become their documentation.
"""

from __future__ import annotations

import ast
import re
from functools import cache

from docstrings import blocks
from modules import PACKAGES, ROOT, page_of, path_of, teaching_files, title_of


def packages() -> dict[str, tuple[str, list[str]]]:
    """Return page -> (title, modules) of the reference."""
    found = {
        "foundation": (
            "Foundation",
            [f"minqwen.{m}" for m in ("backend", "shapes", "params", "messages", "extras")],
        )
    }
    for package, words in {**PACKAGES, "check": "Checker"}.items():
        modules = []
        for path in sorted((ROOT / "minqwen" / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            apart = {"__init__", "__main__", "mistakes", "kernel", "outside", "samples"}
            if not apart & set(module.split(".")):
                modules.append(module)
        found[package] = (words, modules)
    return found


def write_pages() -> None:
    """Write the pages below docs/api."""
    from concept_pages import HEAD, write

    folder, made = ROOT / "docs" / "api", set()
    write(folder / ".gitignore", "*\n", made)
    for page, (words, modules) in packages().items():
        lines = [HEAD, f"# {words}", ""]
        for module in modules:
            lines += [f"## `{module}`", ""]
            if module in teaching_files():
                up = page_of(module).removeprefix("/docs/")
                lines += [f"{title_of(module)}. [The file, beside its maths](../{up}.md).", ""]
            lines += ["```{eval-rst}", f".. automodule:: {module}", "   :members:", "```", ""]
        write(folder / f"{page}.md", "\n".join(lines), made)
    for old in folder.glob("*.md"):
        if old not in made:
            old.unlink()


def escape(line: str) -> str:
    r"""Return a line of plain text in which nothing means anything to reStructuredText.

    >>> print(escape("a * b, |x|, w_ and `x_`"))
    a \* b, \|x\|, w\_ and `x_`
    """
    parts = re.split(r"(``?[^`]+``?)", line)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(?<=\w)_(?!\w)|[*|`\\]", lambda m: "\\" + m[0], parts[i])
    return "".join(parts)


def plain_to_rst(lines: list[str]) -> list[str]:
    """Return our docstring as napoleon expects it."""
    found: list[str] = []
    for block in blocks("\n".join(lines)):
        if block.kind == "prose":
            found += [escape(block.text), ""]
        elif block.kind == "equation":
            found += ["::", "", *(f"    {s}" for s in block.text.splitlines()), ""]
        elif block.kind == "example":
            found += [*block.text.splitlines(), ""]
        elif block.text == "Sources":
            found += [f"* **{name}** {escape(words)}" for name, words in block.items] + [""]
        else:
            found.append(f"{block.text}:")
            if any(name for name, _ in block.items):
                found += [f"    {name}: {escape(words)}" if name else f"    {escape(words)}"
                          for name, words in block.items]  # fmt: skip
            else:
                found += [f"    value: {escape(words)}" for _, words in block.items]
            found.append("")
    return found


@cache
def field_comments(module: str) -> dict[str, str]:
    """Return "Class.field" -> the comment behind it in the file."""
    source = path_of(module).read_text(encoding="utf-8")
    lines = source.splitlines()
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    _, mark, comment = lines[field.end_lineno - 1].partition("  # ")
                    if mark:
                        found[f"{node.name}.{field.target.id}"] = comment
    return found


FIELDS: dict[str, list[str]] = {}  # name -> words, kept from napoleon, which would look for a type


def before(app, what, name, obj, options, lines) -> None:
    """Change a docstring before napoleon reads it."""
    text = "\n".join(lines)
    if what == "module":
        lines[:] = []
    elif what in ("attribute", "property"):
        match = re.match(r"(minqwen(?:\.[a-z_0-9]+)+)\.(\w+\.\w+)$", name)
        if text.startswith("Alias for field number"):
            text = field_comments(match[1]).get(match[2], "") if match else ""
            FIELDS[name] = [escape(text), ""]
        else:
            FIELDS[name] = plain_to_rst(lines)
        lines[:] = []
    elif what == "class" and re.match(r"\w+\(.*\)$", text.strip()):  # made by NamedTuple
        lines[:] = ["What forward hands to backward.", ""] if name.endswith("Cache") else [""]
    elif not text.startswith(":"):
        lines[:] = plain_to_rst(lines)


def after(app, what, name, obj, options, lines) -> None:
    """Put the words of a field back."""
    if name in FIELDS:
        lines[:] = FIELDS.pop(name)


def setup(app):
    """Write the pages, and change docstrings before and after napoleon does."""
    write_pages()
    app.connect("autodoc-process-docstring", before, priority=100)
    app.connect("autodoc-process-docstring", after, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""What a screen reader says: words for the figures of a notebook, and the language of a page.

myst-nb names a figure by its file, a number of 64 digits. The cell that draws it has titles, names
of axes and of lines; these become its words.
"""

from __future__ import annotations

import ast
from typing import Any

from docutils import nodes

# argument or method -> what it names
NAMES = {
    "title": "title", "set_title": "title", "suptitle": "title",
    "xlabel": "x", "set_xlabel": "x", "ylabel": "y", "set_ylabel": "y",
    "label": "line",
}  # fmt: skip
CHINESE = "notebooks/zh/"


def words_of(code: str) -> str:
    """Return the words that a cell writes into its figure, or "".

    >>> words_of('ax.plot(x, label="a"); ax.set(xlabel="step", title=f"loss of {name}")')
    'loss of …; across: step; lines: a'
    """
    found: dict[str, list[str]] = {"title": [], "x": [], "y": [], "line": []}
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        named = [(word.arg, word.value) for word in call.keywords if method != "legend"]
        if method and call.args:
            named.append((method, call.args[0]))
        for name, value in named:
            text = text_of(value)
            if name in NAMES and text and text not in found[NAMES[name]]:
                found[NAMES[name]].append(text)
    parts = ["; ".join(found["title"])]
    for key, words in (("x", "across"), ("y", "up"), ("line", "lines")):
        if found[key]:
            parts.append(f"{words}: {', '.join(found[key])}")
    return "; ".join(part for part in parts if part)


def text_of(value: ast.expr) -> str:
    """Return a text that stands in the code, with … for what is put into it."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return " ".join(value.value.split())
    if isinstance(value, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.Constant) else "…" for p in value.values]
        return " ".join("".join(parts).split())
    return ""


def name_figures(app: Any, doctree: nodes.document) -> None:
    """Give each figure below a cell its words."""
    chinese = app.env.current_document.docname.startswith(CHINESE)
    start, nameless = ("图：", "上面的代码画的图") if chinese else (
        "Figure: ", "figure drawn by the code above")  # fmt: skip
    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") != "cell_code":
            continue
        images = list(cell.findall(nodes.image))
        source = next(iter(cell.findall(nodes.literal_block)), None)
        if images and source is not None:
            words = words_of(source.astext())
            for image in images:
                image["alt"] = start + words if words else nameless


def say_language(app: Any, pagename: str, template: str, context: dict[str, Any], doctree) -> None:
    """Say that a page is Chinese, so that it is read aloud as such."""
    if pagename.startswith(CHINESE):
        context["language"] = "zh-Hans"


def setup(app: Any) -> dict[str, Any]:
    """Register both."""
    app.connect("doctree-read", name_figures)
    app.connect("html-page-context", say_language)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""The directive `concept MODULE`: a file of minqwen in two columns, maths and words beside code.

Everything on the page comes from the file itself, from equations.py and from the tables; nothing is
copied by hand. Also written here, before Sphinx reads: a page for each file, package and test.
"""

from __future__ import annotations

from pathlib import Path

import make_tables
from docstrings import Block, blocks
from docutils import nodes
from equations import EQUATIONS, FORWARD_ONLY, display
from modules import (
    PACKAGES,
    ROOT,
    Piece,
    concepts_of,
    docstring_of,
    explained,
    page_of,
    path_of,
    pieces,
    teaching_files,
    title_of,
)
from sphinx.util.docutils import SphinxDirective
from words import block_nodes, entries, math, paragraph, to_page

from minqwen.check.concepts import CONCEPTS

HEAD = "<!-- made by docs/_ext/concept_pages.py -->\n"
ROWS = {row.name: row for row in CONCEPTS}


class ConceptPage(SphinxDirective):
    """Write the page of one module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = self.arguments[0]
        self.env.note_dependency(str(path_of(module)))
        self.env.note_dependency(str(ROOT / "docs" / "equations.py"))
        self.env.note_dependency(__file__)
        found: list[nodes.Node] = [path_line(module), links(module)]
        for piece in pieces(path_of(module).read_text(encoding="utf-8")):
            if piece.name:
                section = nodes.section(ids=[f"{piece.name}"], names=[])
                section += nodes.title("", "", nodes.literal(text=piece.name))
                section += row(module, piece)
                found.append(section)
            else:
                found.append(row(module, piece))
        return found


def path_line(module: str) -> nodes.Node:
    """Return the line that says which file this is."""
    path = path_of(module).relative_to(ROOT).as_posix()
    line = nodes.paragraph(classes=["anno-path"])
    line += nodes.literal(text=path, classes=["no-link"])
    return line


def links(module: str) -> nodes.Node:
    """Return the list of what belongs to a file: tests, notebook, exercise, numbers, reference."""
    stem = module.rpartition(".")[2]
    pairs = []
    reports = dict.fromkeys(ROWS[name].report for name in concepts_of(module))
    if reports:
        pairs.append(("Report", paragraph("; ".join(reports))))
    tests = nodes.paragraph()
    for i, path in enumerate(make_tables.tests_of(stem)):
        tests += [nodes.Text(", ")] * bool(i)
        tests += to_page(test_page(path), nodes.literal(text=path.removeprefix("tests/")))
    if len(tests):
        pairs.append(("Tests", tests))
    books = make_tables.notebooks_of(module)
    inside = books or make_tables.notebooks_through(module)
    if inside:
        line = nodes.paragraph()
        for i, book in enumerate(inside):
            line += [nodes.Text(", ")] * bool(i)
            line += to_page(f"/notebooks/{book}", nodes.Text(book.replace("_", " ")))
        if not books:
            line += nodes.Text(" (inside another file)")
        pairs.append(("Notebook", line))
    tasks = [make_tables.exercises()[k] for k in (*concepts_of(module), module)
             if k in make_tables.exercises()]  # fmt: skip
    if tasks:
        name, _ = tasks[0]
        pairs.append(("Exercise", paragraph(f"`minqwen assign {name} --out my-{name}`")))
    numbers = dict.fromkeys((*concepts_of(module), *explained(module)))
    if numbers:
        words = ", ".join(f"`minqwen explain {name}`" for name in list(numbers)[:3])
        pairs.append(("In numbers", paragraph(words)))
    if explained(module):
        name = explained(module)[0]
        pairs.append(("Check yours", paragraph(f"`minqwen check {name} --impl my.py:{name}`")))
    reference = nodes.paragraph()
    reference += to_page(f"/docs/api/{module.split('.')[1]}", nodes.Text(f"API of {module}"))
    pairs.append(("Reference", reference))
    return entries(pairs, "anno-links")


def row(module: str, piece: Piece) -> nodes.Node:
    """Return the row of one piece: words on the left, code on the right."""
    here = nodes.container(classes=["anno-row"])
    left, right = (nodes.container(classes=[c]) for c in ("anno-note", "anno-code"))
    if piece.name:
        for tex in equations_of(module, piece.name):
            left += math(tex)
        for block in blocks(piece.docstring):
            left += block_nodes(block)
    else:
        left += module_words(module)
    for first, text in piece.parts:
        right += nodes.literal_block(
            text, text, language="python", linenos=True, highlight_args={"linenostart": first}
        )
    here += [left, right]
    return here


def equations_of(module: str, function: str) -> list[str]:
    """Return the TeX that belongs to one function of a module."""
    found = []
    for name in concepts_of(module):
        forward, backward = ROWS[name].functions
        if function == forward:
            found.append(display(EQUATIONS[name].forward))
        elif function == backward:
            found.append(display(EQUATIONS[name].gradient))
    return found


def module_words(module: str) -> list[nodes.Node]:
    """Return a module's docstring, its equations in TeX where equations.py has them.

    The first equation is the forward one, the first after the words "The gradient" the backward
    one. The plain text stays below, folded.
    """
    names = concepts_of(module)
    forward = [EQUATIONS[name].forward for name in names] or [
        FORWARD_ONLY[m] for m in [module] if m in FORWARD_ONLY
    ]
    backward = [EQUATIONS[name].gradient for name in names]
    found: list[nodes.Node] = []
    in_gradient = False
    all_blocks = blocks(docstring_of(module))
    each = sum(starts_gradient(block) for block in all_blocks) == len(backward) > 1
    for block in all_blocks:
        starts = starts_gradient(block)
        if starts:
            # of a file whose first equation comes late, or not at all
            found += [math(display(tex)) for tex in forward]
            forward, in_gradient = [], True
        if block.kind == "equation" and (forward or (in_gradient and backward)):
            tex, left = (forward, backward) if forward else (backward, [])
            if each and not forward:  # a gradient of its own for each forward
                tex, left = backward[:1], backward[1:]
            found += [math(display(one)) for one in tex]
            found.append(folded(block))
            forward, backward, in_gradient = [], left, False if each else in_gradient
        elif block.kind == "items" and backward:
            found += [math(display(tex)) for tex in [*forward, *backward]]
            forward, backward = [], []
            found += block_nodes(block)
        else:
            found += block_nodes(block)
    return found


def starts_gradient(block: Block) -> bool:
    """Whether a paragraph begins the derivation of a gradient."""
    return block.kind == "prose" and block.text.startswith("The gradient")


def folded(block: Block) -> nodes.Node:
    """Return the plain text of an equation, folded."""
    box = nodes.container(classes=["folded"])
    box += nodes.raw("", "<details><summary>as in the file</summary>", format="html")
    box += block_nodes(block)
    box += nodes.raw("", "</details>", format="html")
    return box


def test_page(path: str) -> str:
    """Return the page that shows a test file.

    >>> test_page("tests/layers/test_rope.py")
    '/docs/code/tests/layers/test_rope'
    """
    return f"/docs/code/{path.removesuffix('.py')}"


def write(path: Path, text: str, made: set[Path]) -> None:
    """Write a page where it is new or changed, so that Sphinx does not read the others again."""
    made.add(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def write_pages(app=None) -> None:
    """Write the pages below docs/code: one for each file, package and test."""
    folder, made = ROOT / "docs" / "code", set()
    write(folder / ".gitignore", "*\n", made)
    tests = set()
    for module in teaching_files():
        stem = module.rpartition(".")[2]
        tests.update(make_tables.tests_of(stem))
        head = "---\nhide-toc: true\n---\n"
        facts = [*make_tables.tests_of(stem), *make_tables.notebooks_of(module)]
        # Sphinx reads a page again when it changes: so it has to say what its links depend on
        note = f"<!-- {', '.join(facts)} -->\n"
        body = f"{note}# {title_of(module)}\n\n```{{concept}} {module}\n```\n"
        write(ROOT / f"{page_of(module)[1:]}.md", head + HEAD + body, made)
    for path in sorted(tests):
        up = "/".join([".."] * (len(Path(path).parts) + 1))
        head = "---\norphan: true\nnosearch: true\nhide-toc: true\n---\n"
        body = f"# `{path}`\n\n```{{literalinclude}} {up}/{path}\n:linenos:\n```\n"
        write(ROOT / f"{test_page(path)[1:]}.md", head + HEAD + body, made)
    for package, words in PACKAGES.items():
        modules = [m for m in teaching_files() if m.split(".")[1] == package]
        lines = [f"# {words}: `minqwen/{package}/`", "", "| file | about |", "| --- | --- |"]
        entries_ = []
        for module in modules:
            name = module.split(".", 2)[2]
            lines.append(f"| [{name}]({page_of(module)[11:]}.md) | {title_of(module)} |")
            entries_.append(f"{name} <{page_of(module)[11:]}>")
        listed = "\n".join(entries_)
        lines += ["", f"```{{toctree}}\n:hidden:\n\n{listed}\n```", ""]
        write(folder / f"{package}.md", HEAD + "\n".join(lines), made)
    for old in folder.rglob("*.md"):
        if old not in made:
            old.unlink()


def setup(app):
    """Register the directive, and write the pages before Sphinx looks for them."""
    write_pages()
    app.add_directive("concept", ConceptPage)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

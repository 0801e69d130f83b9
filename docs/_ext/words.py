"""Plain words of our docstrings as nodes: code in backticks, papers and files as links."""

from __future__ import annotations

import re

from docstrings import Block
from docutils import nodes
from modules import page_of, resolve
from sphinx import addnodes

MARKS = re.compile(r"(``?[^`]+``?)|(arXiv:\d{4}\.\d{4,5})|(\b[\w/]+\.py\b)")


def inline(text: str) -> list[nodes.Node]:
    """Return the nodes of a line of text."""
    found: list[nodes.Node] = []
    end = 0
    for match in MARKS.finditer(text):
        found.append(nodes.Text(text[end : match.start()]))
        end = match.end()
        code, paper, file = match.groups()
        if code:
            found.append(nodes.literal(text=code.strip("`")))
        elif paper:
            url = f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}"
            found.append(nodes.reference("", paper, refuri=url))
        elif resolve(file):
            found.append(to_page(page_of(resolve(file)), nodes.Text(file)))
        else:
            found.append(nodes.Text(file))
    found.append(nodes.Text(text[end:]))
    return found


def to_page(page: str, *content: nodes.Node) -> nodes.Node:
    """Return a link to a page of the site."""
    link = addnodes.pending_xref(
        "", reftype="doc", refdomain="std", reftarget=page, refexplicit=True, refwarn=True
    )
    link += nodes.inline("", "", *content, classes=["doc"])
    return link


def paragraph(text: str, **attributes) -> nodes.paragraph:
    """Return a paragraph of plain words."""
    return nodes.paragraph("", "", *inline(text), **attributes)


def entries(pairs, css: str) -> nodes.definition_list:
    """Return a list of names and their words."""
    listed = nodes.definition_list(classes=[css])
    for name, words in pairs:
        item = nodes.definition_list_item()
        item += nodes.term("", "", nodes.Text(name))
        body = nodes.definition()
        body += words if isinstance(words, nodes.Node) else paragraph(words)
        item += body
        listed += item
    return listed


def block_nodes(block: Block) -> list[nodes.Node]:
    """Return the nodes of one block of a docstring."""
    if block.kind == "prose":
        return [paragraph(block.text)]
    if block.kind == "equation":
        return [nodes.literal_block(block.text, block.text, language="none", classes=["plain"])]
    if block.kind == "example":
        return [nodes.doctest_block(block.text, block.text)]
    title = [] if block.text == "Sources" else [paragraph(block.text, classes=["anno-section"])]
    plain = [paragraph(words) for name, words in block.items if not name]
    named = [(name, words) for name, words in block.items if name]
    css = "anno-sources" if block.text == "Sources" else "anno-items"
    return [*title, *plain, *([entries(named, css)] if named else [])]


def math(tex: str) -> nodes.math_block:
    """Return a displayed equation."""
    return nodes.math_block(tex, tex, **{"no-wrap": False, "label": None, "number": None})

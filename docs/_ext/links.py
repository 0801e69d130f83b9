"""Links that need not be written: `minqwen/layers/rope.py` or `01_bpe` leads to its page.

Also a small page at the top of the site that leads to the first one, and links to files of the
repository that are no page.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from modules import ROOT, page_of, resolve
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

FILE = re.compile(r"(?:minqwen|tests|notebooks)/[\w/]+\.(?:py|ipynb)|[0-9]{2}_\w+")


def page_for(path: str, documents) -> str:
    """Return the document of the site that shows a file of the repository, or ""."""
    if path.startswith("minqwen/"):
        module = resolve(path)
        page = page_of(module)[1:] if module else ""
    elif re.match(r"[0-9]{2}_", path):
        page = f"notebooks/{path}"
    elif path.startswith("tests/"):
        page = "docs/code/" + path.removesuffix(".py")
    else:
        page = path.rpartition(".")[0]
    return page if page in documents else ""


class LinkFiles(SphinxPostTransform):
    """Make a link of each file name in the text that has a page."""

    default_priority = 5

    def run(self, **kwargs) -> None:
        here = self.env.current_document.docname
        for literal in list(self.document.findall(nodes.literal)):
            text = literal.astext()
            inside = isinstance(literal.parent, (nodes.reference, nodes.title))
            if inside or "no-link" in literal["classes"] or not FILE.fullmatch(text):
                continue
            page = page_for(text, self.env.found_docs)
            if page and page != here:
                link = make_refnode(self.app.builder, here, page, "", literal.deepcopy())
                literal.replace_self(link)


def write_front(app, exception) -> None:
    """Write index.html at the top of the site."""
    if exception is None and app.builder.name == "html":
        target = f"{app.config.root_doc}.html"
        (Path(app.outdir) / "index.html").write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>minqwen</title>'
            f'<meta http-equiv="refresh" content="0; url={target}"><link rel="icon" href="data:,">'
            f'</head><body><main><h1>minqwen</h1><p><a href="{target}">Go to the first page</a>'
            "</p></main></body></html>\n",
            encoding="utf-8",
        )


def without_empty_globs(app, docname, source) -> None:
    """Leave out of the lists of pages what matches none yet: Sphinx would warn of it."""
    folder = (Path(app.srcdir) / docname).parent
    lines = source[0].splitlines(keepends=True)
    if docname.startswith("docs/site/"):
        kept = [s for s in lines if not (s.startswith("../") and "*" in s and empty(folder, s))]
        source[0] = "".join(kept)


def empty(folder: Path, pattern: str) -> bool:
    """Whether no page matches a pattern."""
    path = (folder / pattern.strip()).resolve()
    found = [p for p in path.parent.glob(path.name) if p.suffix in (".md", ".ipynb")]
    return not found


def setup(app):
    """Register the transform."""
    app.connect("source-read", without_empty_globs)
    assert ROOT.is_dir()
    app.add_post_transform(LinkFiles)
    app.connect("build-finished", write_front)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""The list of pages beside each page, rendered once and marked for each page.

Furo renders the whole list anew for every page, which is most of the time of a build with hundreds
of pages. Here the list of the first page is cut at its tags once; a page gets it with its own links
and with its own place marked. A test compares the two.

The links to the page before and after are named as in the list, and so is a README in its tab.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

import furo
from sphinx import addnodes
from sphinx.util.osutil import relative_uri

TAG = re.compile(r'(<li class="[^"]*">|</li>|<a [^>]*href="[^"]*"[^>]*>|<input [^>]*>)')
HREF = re.compile(r'href="([^"]*)"')
render_anew = furo._compute_navigation_tree


class Navigation:
    """The list, cut at its tags."""

    def __init__(self, html: str, root: str) -> None:
        # Sphinx's captions are headings without a level, which screen readers need
        html = html.replace('role="heading"', 'role="heading" aria-level="2"')
        self.tags = TAG.split(html)
        self.targets: dict[int, str] = {}  # link -> page
        self.owner: dict[int, int] = {}  # link or checkbox -> its entry
        self.above: dict[str, list[int]] = {}  # page -> its entry and those above
        path: list[int] = []
        for i, tag in enumerate(self.tags):
            if tag.startswith("<li "):
                path.append(i)
            elif tag == "</li>":
                path.pop()
            elif tag.startswith("<input ") and path:
                self.owner[i] = path[-1]
            elif tag.startswith("<a ") and path:
                url = HREF.search(tag)[1]
                if re.match(r"\w+:", url):
                    continue
                page = posixpath.normpath(posixpath.join(posixpath.dirname(root), url))
                page = root if url in ("", "#") else page
                self.targets[i], self.owner[i] = page, path[-1]
                self.above.setdefault(page, list(path))

    def of(self, page: str) -> str:
        """Return the list for one page, given as the path of its file."""
        path = self.above.get(page, [])
        found = []
        for i, tag in enumerate(self.tags):
            if i in path:
                mark = " current current-page" if i == path[-1] else " current"
                tag = tag.replace('">', f'{mark}">')
            elif i in self.targets:
                here = bool(path) and self.owner[i] == path[-1] and self.targets[i] == page
                url = "#" if here else relative_uri(page, self.targets[i])
                tag = HREF.sub(lambda _, url=url: f'href="{url}"', tag)
                tag = tag.replace('class="', 'class="current ') if here else tag
            elif self.owner.get(i) in path and tag.startswith("<input "):
                tag = tag.replace("<input ", '<input checked="" ')
            found.append(tag)
        return "".join(found)


def names_of_pages(env: Any, root: str) -> dict[str, str]:
    """Return page -> the name that the list gives it, where that is not its title."""
    trees = env.get_doctree(root).findall(addnodes.toctree)
    return {page: name for tree in trees for name, page in tree["entries"] if name}


def setup(app):
    """Give furo the fast list, and the names in it."""
    ready: list[Navigation] = []
    names: dict[str, str] = {}

    def render(context: dict[str, Any]) -> str:
        if "toctree" not in context:
            return render_anew(context)
        if not ready:
            builder = app.builder
            root = app.config.root_doc
            html = builder._get_local_toctree(
                root, collapse=False, titles_only=True, maxdepth=-1, includehidden=True
            )
            ready.append(Navigation(furo.get_navigation_tree(html), builder.get_target_uri(root)))
        return ready[0].of(app.builder.get_target_uri(context["pagename"]))

    def name(app, pagename, template, context, doctree) -> None:
        if not names:
            names.update(names_of_pages(app.env, app.config.root_doc))
        relations = getattr(app.builder, "relations", {}).get(pagename, (None, None, None))
        for key, page in zip(("prev", "next"), relations[1:], strict=True):
            if context.get(key) and page in names:
                context[key] = {**context[key], "title": names[page]}
        if pagename.endswith("README") and pagename in names:
            context["title"] = names[pagename]

    furo._compute_navigation_tree = render
    app.connect("html-page-context", name)
    app.connect("build-finished", lambda *_: (ready.clear(), names.clear()))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

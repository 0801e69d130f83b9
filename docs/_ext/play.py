"""Pages to play with: docs/play/NAME.html and NAME.js, in the site and as files that stand alone.

In the site, a page writes

    ```{play} rope
    ```

and gets the markup of docs/play/rope.html, with the script and the style beside it. Alone,

    python docs/_ext/play.py build/play

writes a file for each page with everything in it: it opens from a folder, without a server and
without a network, and can be sent to a class.

The JavaScript says again what Python files say; tests/site/test_play.py compares their numbers.
"""

from __future__ import annotations

import html
import shutil
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "play"
TITLES = {  # the pages in order: (English, Chinese)
    "rope": ("RoPE: positions as turns", "RoPE：用旋转表示位置"),
    "attention": ("Attention: masks, windows, groups", "注意力：掩码、窗口与分组"),
    "bpe": ("Byte-pair encoding, merge by merge", "字节对编码：一次一个合并"),
    "moe": ("Experts: routing and balance", "专家：路由与负载均衡"),
}
BAR = """<div class="play-bar" role="group" aria-label="Language">
<button type="button" data-language="en" lang="en" aria-pressed="true">English</button>
<button type="button" data-language="zh" lang="zh-Hans" aria-pressed="false">中文</button>
</div>
<noscript><p>This page needs JavaScript, and nothing else. 本页需要 JavaScript。</p></noscript>
"""
PYTHON = """<h2><span lang="en">The same numbers in Python</span>
<span lang="zh-Hans">用 Python 得到同样的数</span></h2>
<p class="play-buttons"><button type="button" data-copy><span class="play-before">
<span lang="en">copy</span><span lang="zh-Hans">复制</span></span><span class="play-after">
<span lang="en">copied</span><span lang="zh-Hans">已复制</span></span></button></p>
<pre class="play-python" tabindex="0" role="region" data-en="Python code" data-zh="Python 代码"
 data-part="python"></pre>
"""


def read(name: str) -> str:
    """Return the text of a file of docs/play."""
    return (FOLDER / name).read_text(encoding="utf-8")


def markup(name: str) -> str:
    """Return the element that a page's script fills; it starts in English.

    >>> markup("rope").split(">")[0]
    '<div class="play" data-play="rope" data-lang="en"'
    """
    start = f'<div class="play" data-play="{name}" data-lang="en">\n'
    return start + BAR + read(f"{name}.html") + PYTHON + "</div>\n"


def standalone(name: str) -> str:
    """Return a page with its style and scripts in it.

    >>> "<script src" in standalone("bpe")
    False
    """
    links = " · ".join(
        f'<a href="{other}.html"{" aria-current=page" if other == name else ""}>{other}</a>'
        for other in TITLES
    )
    english, chinese = map(html.escape, TITLES[name])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{english} | minqwen</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; max-width: 60rem; padding: 1rem; font-family: system-ui, sans-serif; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #131416; color: #e6edf3; }} nav a {{ color: #7cb0ff; }}
}}
h1 {{ font-size: 1.6rem; line-height: 1.25; }} h1 span {{ font-weight: 400; font-size: 1.1rem; }}
{read("play.css")}</style>
</head>
<body>
<nav aria-label="Pages">{links}</nav>
<main>
<h1>{english}<br><span lang="zh-Hans">{chinese}</span></h1>
{markup(name)}</main>
<script>
{read("common.js")}</script>
<script>
{read(f"{name}.js")}</script>
</body>
</html>
"""


def write(folder: Path) -> list[Path]:
    """Write all pages that stand alone; index.html is the first of them."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {f"{name}.html": standalone(name) for name in TITLES}
    pages["index.html"] = pages[f"{next(iter(TITLES))}.html"]
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


def setup(app):
    """Add the directive to Sphinx. Its packages are asked for here: the rest works without."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    class Play(SphinxDirective):
        required_arguments = 1

        def run(self):
            name = self.arguments[0]
            if name not in TITLES:
                raise self.error(f"play: no page {name!r}, there are {', '.join(TITLES)}")
            for kind in ("html", "js"):
                self.env.note_dependency(str(FOLDER / f"{name}.{kind}"))
            self.env.metadata[self.env.docname]["play"] = name
            return [nodes.raw("", markup(name), format="html")]

    def copy(app):
        target = Path(app.outdir) / "_static" / "play"
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted([*FOLDER.glob("*.js"), *FOLDER.glob("*.css")]):
            shutil.copyfile(path, target / path.name)

    def add_files(app, pagename, templatename, context, doctree):
        name = app.env.metadata.get(pagename, {}).get("play")
        if name:
            app.add_css_file("play/play.css")
            app.add_js_file("play/common.js", loading_method="defer")
            app.add_js_file(f"play/{name}.js", loading_method="defer")

    app.add_directive("play", Play)
    app.connect("builder-inited", copy)
    app.connect("html-page-context", add_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    for path in write(Path(sys.argv[1] if len(sys.argv) > 1 else "build/play")):
        print(path)

"""The built site: nothing from elsewhere, no broken link, maths that renders, a working search."""

import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from minqwen.check.concepts import CONCEPTS

pytestmark = [pytest.mark.site, pytest.mark.filterwarnings("default")]
ROOT = Path(__file__).resolve().parents[2]
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1400, "height": 1000}
KINDS = {  # a page of each kind
    "first": "docs/index.html",
    "concept": "docs/code/layers/attention.html",
    "package": "docs/code/layers.html",
    "test": "docs/code/tests/layers/test_rope.html",
    "notebook": "notebooks/05_rope_from_rotation_to_spectrum.html",
    "table": "docs/concepts.html",
    "reference": "docs/api/layers.html",
    "clinic": "docs/symptom_clinic.html",
    "benchmarks": "docs/benchmarks.html",
    "play": "docs/play/attention.html",
    "teachers": "docs/teachers.html",
    "search": "search.html",
}


class Parts(HTMLParser):
    """The links, ids and loaded files of a page."""

    def __init__(self):
        super().__init__()
        self.links, self.ids, self.loaded = [], set(), []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if found.get("id"):
            self.ids.add(found["id"])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.loaded += [found[k] for k in ("src", "srcset") if found.get(k)]
        if tag == "link" and found.get("rel") not in ("index", "search", "next", "prev", "author"):
            self.loaded.append(found.get("href", ""))


@cache
def parts(path):
    """Return the parts of one page."""
    found = Parts()
    found.feed(path.read_text(encoding="utf-8"))
    return found


def pages(site):
    return sorted(site.rglob("*.html"))


def target_of(path, url):
    """Return the file that a link of a page leads to, and its anchor; None if out of the site."""
    to = urlparse(url)
    if to.scheme or to.netloc:
        return None, ""
    # without asking the disk, as resolve() does: there are a hundred thousand links
    target = os.path.normpath(path.parent / unquote(to.path)) if to.path else path
    return Path(target), unquote(to.fragment)


def test_nothing_is_loaded_from_elsewhere(site):
    away = {
        (path.name, url)
        for path in pages(site)
        for url in parts(path).loaded
        if urlparse(url).netloc
    }
    assert not away
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", text), style


def test_no_link_anchor_or_picture_is_broken(site):
    broken, files = [], {path for path in site.rglob("*") if path.is_file()}
    for path in pages(site):
        for url in {*parts(path).links, *parts(path).loaded}:
            target, anchor = target_of(path, url)
            if target is not None and target not in files:
                broken.append(f"{path.relative_to(site)}: {url}")
            elif anchor and target.suffix == ".html" and anchor not in parts(target).ids:
                broken.append(f"{path.relative_to(site)}: no anchor {url}")
    assert not broken, "\n".join(sorted(broken)[:40])


def test_every_concept_has_a_page_with_its_maths(site):
    for row in CONCEPTS:
        page = site / f"docs/code/{row.module.removeprefix('minqwen.').replace('.', '/')}.html"
        text = page.read_text(encoding="utf-8")
        own = row.backward.__module__ == row.module  # NTK has tables, and rope's functions
        assert text.count('class="math notranslate') >= (4 if own else 2), page
        for words in ("Tests", "Notebook", "Reference", f"minqwen explain {row.name}"):
            assert words in re.sub(r"<[^>]+>", "", text), f"{page}: {words}"


@pytest.mark.parametrize("part", range(4))  # for two processes
def test_every_page_opens(site, watch, part):
    """All pages: no error in the console, no failed request, maths rendered."""
    tab, bad = watch(viewport=DESKTOP), []
    for i, path in enumerate(pages(site)[part::4]):
        if i % 40 == 39:  # a tab grows with every page that it has shown
            tab.page.close()
            tab = watch(viewport=DESKTOP)
        name = path.relative_to(site).as_posix()
        if name == "index.html":  # leads on at once: the next test
            continue
        page = tab.open(name)
        facts = page.evaluate(
            """() => ({
                maths: document.querySelectorAll(".math").length,
                drawn: document.querySelectorAll("mjx-container").length,
                wrong: [...document.querySelectorAll("[data-mml-node=merror], mjx-merror")]
                    .map(e => e.getAttribute("data-mjx-error") || e.textContent),
                raw: /\\\\\\(|\\\\\\[|\\\\begin\\{/.test(
                    [...document.querySelectorAll("article p, article .math, article li")]
                        .filter(e => !e.closest("pre, code")).map(e => e.innerText).join(" ")),
                pictures: [...document.images].filter(i => !i.naturalWidth && i.loading !== "lazy")
                    .map(i => i.src),
            })"""
        )
        bad += [f"{name}: {line}" for line in tab.wrong]
        bad += [f"{name}: {word}" for word in facts["wrong"] + facts["pictures"]]
        if facts["drawn"] < facts["maths"]:
            bad.append(f"{name}: {facts['maths']} formulas, {facts['drawn']} drawn")
        if facts["raw"]:
            bad.append(f"{name}: raw TeX")
    assert not bad, "\n".join(bad[:40])


def test_the_top_leads_to_the_first_page(watch):
    tab = watch(viewport=DESKTOP)
    tab.page.goto(f"{tab.address}/")
    tab.page.wait_for_url("**/docs/index.html")
    assert not tab.wrong


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(watch, axe, kind, mode, size):
    tab = watch(viewport=size, color_scheme=mode)
    page = tab.open(KINDS[kind])
    page.evaluate(axe)
    found = page.evaluate("() => axe.run(document)")
    faults = [  # moderate ones too
        f"{v['id']}: {v['help']}: {node['html'][:150]} {node.get('failureSummary', '')[:200]}"
        for v in found["violations"]
        for node in v["nodes"][:3]
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("kind", KINDS)
def test_a_phone_need_not_scroll_sideways(watch, kind):
    page = watch(viewport=PHONE).open(KINDS[kind])
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"] + 1


@pytest.mark.parametrize(("width", "columns"), [(1400, 2), (1000, 2), (899, 1), (390, 1)])
def test_two_columns_become_one_below_900_pixels(watch, width, columns):
    page = watch(viewport={"width": width, "height": 900}).open(KINDS["concept"])
    found = page.evaluate(
        "() => getComputedStyle(document.querySelector('.anno-row')).gridTemplateColumns"
    )
    assert len(found.split()) == columns


def test_the_search_finds_rmsnorm(watch):
    tab = watch(viewport=DESKTOP)
    page = tab.open("docs/index.html")
    page.fill(".sidebar-search", "rmsnorm")
    page.press(".sidebar-search", "Enter")
    page.wait_for_selector("ul.search li a")
    page.wait_for_function("() => /found \\d+ page|Search finished/i.test(document.body.innerText)")
    found = page.eval_on_selector_all("ul.search li a", "all => all.map(a => a.href)")
    assert any("docs/code/layers/rmsnorm.html" in url for url in found), found[:10]
    assert not any("/code/tests/" in url for url in found)
    assert not tab.wrong


def test_the_keyboard_reaches_everything(watch):
    page = watch(viewport=PHONE).open(KINDS["concept"])
    page.keyboard.press("Tab")
    assert "content" in page.evaluate("() => document.activeElement.innerText").lower()
    left_out = page.evaluate(
        """() => [...document.querySelectorAll("article pre, article div.math")]
            .filter(e => e.scrollWidth > e.clientWidth + 1 && e.tabIndex !== 0).length"""
    )
    assert left_out == 0
    assert page.evaluate("() => document.querySelectorAll('pre[tabindex]').length") > 0


def test_the_fast_list_of_pages_is_that_of_furo(site, tmp_path):
    """Built again, small and with furo's own list: the same links, and the same place marked."""
    pytest.importorskip("furo", reason="needs the extra docs", exc_type=ImportError)
    source = tmp_path / "source"
    (source / "a" / "b").mkdir(parents=True)
    toctree = "```{toctree}\n:hidden:\n:caption: Words\n\n"
    (source / "index.md").write_text(f"# Top\n\n{toctree}a/one\na/two\n```\n", encoding="utf-8")
    (source / "a" / "one.md").write_text("# One\n\n```{toctree}\nb/deep\n```\n", encoding="utf-8")
    (source / "a" / "two.md").write_text("# Two\n", encoding="utf-8")
    (source / "a" / "b" / "deep.md").write_text("# Deep\n", encoding="utf-8")
    seen = {}
    for kind in ("", "fast_navigation"):
        head = f"import sys\nsys.path.insert(0, {str(ROOT / 'docs' / '_ext')!r})\n"
        more = f"html_theme = 'furo'\nextensions = ['myst_parser', {kind!r}][:{2 if kind else 1}]\n"
        (source / "conf.py").write_text(head + more, encoding="utf-8")
        out = tmp_path / (kind or "furo")
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "-E", str(source), str(out)]
        subprocess.run(command, check=True)
        for path in out.rglob("[!gs]*.html"):
            text = path.read_text(encoding="utf-8")
            tree = text.split('<div class="sidebar-tree">')[1].split("</div>")[0]
            tags = re.findall(r"<(li|a|input|p) ([^>]*)>", tree)
            here = [(tag, sorted(words(attributes))) for tag, attributes in tags]
            seen.setdefault(path.relative_to(out).as_posix(), []).append(here)
    assert len(seen) == 4
    for page, (furos, ours) in seen.items():
        assert furos == ours, page


def words(attributes):
    """Return the words of the attributes of a tag, in any order; captions gain a level."""
    text = attributes.replace(' aria-level="2"', "")
    return re.findall(r'[\w-]+="[^" ]*"|[\w./#-]+', text)


def test_line_numbers_are_those_of_the_file(site):
    lines = (ROOT / "minqwen/layers/rmsnorm.py").read_text(encoding="utf-8").splitlines()
    number = next(i for i, s in enumerate(lines, 1) if s.startswith("def rmsnorm_backward"))
    text = (site / "docs/code/layers/rmsnorm.html").read_text(encoding="utf-8")
    shown = re.search(r'<span class="linenos">\s*(\d+)</span>[^\n]*rmsnorm_backward', text)
    assert int(shown[1]) == number


def test_every_page_is_reached_from_the_first(site):
    first = site / "docs/index.html"
    seen, waiting = {first}, [first]
    while waiting:
        path = waiting.pop()
        for target, _ in (target_of(path, url) for url in set(parts(path).links)):
            if target is not None and target.suffix == ".html" and target not in seen:
                seen.add(target)
                waiting.append(target)
    own = {"index.html", "search.html", "genindex.html", "py-modindex.html"}  # Sphinx's
    alone = {path.relative_to(site).as_posix() for path in set(pages(site)) - seen} - own
    assert not alone


def test_every_file_of_the_table_of_concepts_has_a_page(site):
    text = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`minqwen/([\w/]+)\.py`", text))
    assert len(files) > 100
    without = {f for f in files if not (site / f"docs/code/{f}.html").is_file()}
    assert {f.split("/")[0] for f in without} <= {"lab"}, without


def test_figures_have_words(site):
    """Of a built site with the notebooks executed: their pictures; of a fast one: none."""
    for path in sorted((site / "notebooks").rglob("*.html")):
        pictures = re.findall(r'<img alt="([^"]*)"', path.read_text(encoding="utf-8"))
        assert not [words for words in pictures if len(words) < 8 or ".png" in words], path


def test_chinese_pages_say_so(site):
    for name, language in (("notebooks/zh/01_bpe", "zh-Hans"), ("notebooks/01_bpe", "en")):
        text = (site / f"{name}.html").read_text(encoding="utf-8")
        assert f'lang="{language}"' in text[:200]


@pytest.mark.parametrize("word", ["注意力", "掩码", "缓存"])
def test_the_search_finds_chinese_words(watch, word):
    tab = watch(viewport=DESKTOP)
    page = tab.open(f"search.html?q={word}")
    page.wait_for_selector("ul.search li a")
    page.wait_for_function("() => /found \\d+ page|Search finished/i.test(document.body.innerText)")
    found = page.eval_on_selector_all("ul.search li a", "all => all.map(a => a.href)")
    assert any("notebooks/zh/03_attention_and_the_cache" in url for url in found), found[:10]
    assert not tab.wrong


def test_the_menus_open_with_the_keyboard(watch):
    page = watch(viewport=PHONE).open("docs/symptom_clinic.html")
    where = "document.activeElement.closest('.sidebar-drawer, .toc-drawer, header, article')"
    for name, drawer in (
        ("site navigation", "sidebar-drawer"),
        ("table of contents", "toc-drawer"),
    ):
        box = f"document.querySelector('.{drawer}').getBoundingClientRect()"
        for _ in range(8):
            page.keyboard.press("Tab")
            # nothing that has the focus may lie outside of the window
            assert page.evaluate(f"() => !{where}?.matches('.sidebar-drawer, .toc-drawer')")
            if name in (page.evaluate("() => document.activeElement.ariaLabel") or "").lower():
                break
        page.keyboard.press("Enter")
        assert page.evaluate(f"() => {where}.classList.contains('{drawer}')")
        page.wait_for_function(f"() => {box}.left >= 0 && {box}.right <= innerWidth + 1")
        page.keyboard.press("Escape")
        page.wait_for_function(f"() => {box}.right <= 0 || {box}.left >= innerWidth")
        assert name in page.evaluate("() => document.activeElement.ariaLabel").lower()


def test_the_list_of_pages_unfolds_with_the_keyboard(watch):
    page = watch(viewport=DESKTOP).open("docs/index.html")
    link = page.get_by_role("link", name="Tokenizer", exact=True)
    link.focus()
    page.keyboard.press("Tab")
    assert "tokenizer" in page.evaluate("() => document.activeElement.ariaLabel").lower()
    file = page.locator(".sidebar-tree a", has_text="stream_decoder")
    assert not file.is_visible()
    page.keyboard.press("Space")
    assert file.is_visible()


def test_the_search_puts_the_file_first(watch):
    tab = watch(viewport=DESKTOP)
    page = tab.open("search.html?q=rope")
    page.wait_for_selector("ul.search li a")
    first = page.eval_on_selector("ul.search li a", "a => a.href")
    assert "docs/code/layers/rope.html" in first

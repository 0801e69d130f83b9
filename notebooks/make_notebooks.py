"""Make every NN_name.ipynb from its NN_name.py, byte for byte and without outputs.

    python notebooks/make_notebooks.py            write what is out of date
    python notebooks/make_notebooks.py --check    write nothing; exit 1 if something is wrong

A Chinese notebook has its words in zh/NN_name.md, a text for each text cell after a line
`<!-- cell -->`, and its code in NN_name.py: no code is written twice. The words are compared with
the English ones: as many cells, and in each the same headings, formulas, code, numbers and
exercises. So who changes an English cell is told which Chinese one to look at.

Needs jupytext and what it brings (in the extra `test`). The result depends on the sources alone:
jupytext would give cells random ids and write down its own version, so ids and metadata are set
here. JupyterLab asks for a kernel when a notebook names none, so the metadata name one.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
from markdown_it import MarkdownIt

FOLDER = Path(__file__).parent
CHINESE = FOLDER / "zh"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
SEPARATOR = "<!-- cell -->"
CHECKOUT, CHECKOUT_FROM_ZH = 'SOURCE = ".."', 'SOURCE = "../.."'  # all that differs in the code
TO_CHINESE = "[中文](zh/{name}.ipynb)"
TO_ENGLISH = (
    "> [English](../{name}.ipynb)。文字在 `zh/{name}.md`，代码在 `{name}.py`：改这两个文件，不要改 "
    "`.ipynb`，然后运行 `python notebooks/make_notebooks.py`。"
)


def sources() -> list[Path]:
    """Return the files that people edit, in reading order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def chinese_texts() -> dict[Path, Path]:
    """Return the files of Chinese words: source -> text."""
    found = {source: CHINESE / f"{source.stem}.md" for source in sources()}
    return {source: text for source, text in found.items() if text.exists()}


def read(source: Path) -> nbformat.NotebookNode:
    """Return the notebook of a NN_name.py, with fixed ids and metadata."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells):
        cell.id = f"c{i:03d}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
    return notebook


def written(notebook: nbformat.NotebookNode) -> str:
    """Return a notebook as the text of its file."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def below_title(text: str, line: str) -> str:
    """Return a text cell with a paragraph put in below its first line."""
    title, rest = text.split("\n", 1)
    return f"{title}\n\n{line}\n{rest}"


def build(source: Path) -> str:
    """Return the content of the .ipynb that belongs to a NN_name.py."""
    notebook = read(source)
    if source in chinese_texts():
        first = notebook.cells[0]
        first.source = below_title(first.source, TO_CHINESE.format(name=source.stem))
    return written(notebook)


def build_chinese(source: Path, text: Path) -> str:
    """Return the content of the Chinese .ipynb: the words of the text, the code of the source."""
    notebook = read(source)
    words, code = of_kind(notebook, "markdown"), of_kind(notebook, "code")
    for cell, chinese in zip(words, cells_of_text(text.read_text(encoding="utf-8")), strict=True):
        cell.source = chinese
    words[0].source = below_title(words[0].source, TO_ENGLISH.format(name=source.stem))
    code[0].source = code[0].source.replace(CHECKOUT, CHECKOUT_FROM_ZH)
    return written(notebook)


def of_kind(notebook: nbformat.NotebookNode, kind: str) -> list[nbformat.NotebookNode]:
    """Return the cells of a kind, "markdown" or "code"."""
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def cells_of_text(text: str) -> list[str]:
    """Return the texts of a zh/NN_name.md, one for each text cell; each follows a separator."""
    before, *cells = re.split(rf"^{re.escape(SEPARATOR)}$", text, flags=re.MULTILINE)
    if before.strip():
        raise ValueError(f"a text starts with a line {SEPARATOR!r}, this one with {before[:40]!r}")
    return [cell.strip("\n") for cell in cells]


# What a Chinese cell must have in common with the English one. Each part is taken out of the text
# before the next is looked for: a $ in code starts no formula.

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`]+`")
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$]+\$", re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def formula_without_words(formula: str) -> str:
    r"""Return a formula without spaces, and without the words in its \text{...}."""
    return re.sub(r"\s+", "", re.sub(r"\\text\{[^{}]*\}", "", formula))


def one_line(text: str) -> str:
    """Return a text with its line breaks as spaces."""
    return " ".join(text.split())


def parts(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield what translations share: (name, the things found, in order)."""
    for name, pattern, normal in (
        ("code blocks", FENCE, str),
        ("code words", CODE, one_line),
        ("formulas", FORMULA, formula_without_words),
    ):
        yield name, [normal(found) for found in pattern.findall(text)]
        text = pattern.sub(" ", text)
    yield "headings", re.findall(r"^(#+) ", text, re.MULTILINE)
    yield "lines of tables", re.findall(r"^\|", text, re.MULTILINE)
    yield "items of lists", re.findall(r"^- ", text, re.MULTILINE)
    yield "HTML tags", re.findall(r"</?[a-z]+>", text)
    yield "links", LINK.findall(text)
    yield "numbers", [n.replace(",", "") for n in NUMBER.findall(LINK.sub("]", text))]


HAN, WIDE = "\u4e00-\u9fff", "，。：；！？、（）“”《》"
TYPOGRAPHY = [
    (rf"[{HAN}{WIDE}][,;:!?)]|[,;:!?(][{HAN}]|[{HAN}]\(|\)[{HAN}]", "half-width punctuation"),
    (rf"[{HAN}]\.(?!\w)", "half-width punctuation"),
    (rf"[{HAN}][A-Za-z0-9`$√σπδλγβφ]|[A-Za-z0-9`$%][{HAN}]", "no space before or after Latin"),
    (rf"[{HAN}{WIDE}]\n[{HAN}“（《]", "a line break among Chinese words, which shows as a space"),
    (rf"[{WIDE}] |(?<![-|#]) [{WIDE}]", "a space beside full-width punctuation"),
]


def typography(text: str) -> Iterator[str]:
    """Yield what is wrong with the typesetting of a Chinese cell."""
    text = FENCE.sub("", text)
    plain = FORMULA.sub("$x$", CODE.sub("`x`", text))
    plain = LINK.sub("]", plain).replace("**", "")
    for pattern, fault in TYPOGRAPHY:
        for found in re.finditer(pattern, plain, re.MULTILINE):
            yield f"{fault}: {plain[max(0, found.start() - 12) : found.end() + 12]!r}"
    for block in MarkdownIt("commonmark").enable("table").parse(FORMULA.sub("x", text)):
        italic = False
        for token in block.children or []:
            italic = token.type == "em_open" or (italic and token.type != "em_close")
            if italic and re.search(f"[{HAN}]", token.content):
                yield f"Chinese in italics, bold is readable: {token.content!r}"
            if token.type == "text" and "*" in token.content:
                # Markdown sees no end of bold text in `**字。**字`
                yield f"an asterisk is left in the text: {token.content!r}"


def faults(english: list[str], chinese: list[str]) -> list[str]:
    """Return in what a Chinese text does not belong to the English one, cell by cell."""
    if len(english) != len(chinese):
        return [f"{len(chinese)} Chinese texts for {len(english)} text cells"]
    found = []
    for i, (theirs, ours) in enumerate(zip(english, chinese, strict=True)):
        if i == 0:  # where it is made from is said anew, and differs
            theirs = re.sub(r"^\*Made from .*?\*$\n", "", theirs, flags=re.MULTILINE | re.DOTALL)
        for (name, wanted), (_, there) in zip(parts(theirs), parts(ours), strict=True):
            in_order = name in ("code blocks", "headings")
            if wanted != there if in_order else Counter(wanted) != Counter(there):
                missing, extra = Counter(wanted) - Counter(there), Counter(there) - Counter(wanted)
                what = f"missing {list(missing)}, too many {list(extra)}"
                what = what if missing or extra else "in another order"
                found.append(f"cell {i + 1}, {theirs[:30]!r}: {name}: {what}")
        found += [f"cell {i + 1}, {theirs[:30]!r}: {fault}" for fault in typography(ours)]
    return found


def translation_faults() -> list[str]:
    """Return what is wrong with the Chinese texts, a line for each fault."""
    found = [
        f"zh/{path.name}: no notebook has this name"
        for path in sorted(CHINESE.glob("*.md"))
        if path.name != "README.md" and path not in chinese_texts().values()
    ]
    for source, text in chinese_texts().items():
        english = [cell.source for cell in of_kind(read(source), "markdown")]
        chinese = cells_of_text(text.read_text(encoding="utf-8"))
        found += [f"zh/{text.name}: {fault}" for fault in faults(english, chinese)]
    return found


def stale() -> dict[Path, str]:
    """Return the notebooks that are missing or differ from their source, with the right content."""
    wanted = {source.with_suffix(".ipynb"): build(source) for source in sources()}
    for source, text in chinese_texts().items():
        wanted[text.with_suffix(".ipynb")] = build_chinese(source, text)
    return {
        path: text
        for path, text in wanted.items()
        if not path.exists() or path.read_bytes() != text.encode("utf-8")
    }


def orphans() -> list[Path]:
    """Return the notebooks that have no source."""
    english = [p for p in sorted(FOLDER.glob("*.ipynb")) if not p.with_suffix(".py").exists()]
    texts = {text.with_suffix(".ipynb") for text in chinese_texts().values()}
    return english + [p for p in sorted(CHINESE.glob("*.ipynb")) if p not in texts]


def main() -> int:
    """Write the notebooks, or compare them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    check = parser.parse_args().check
    wrong = translation_faults()
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if any("Chinese texts for" in line for line in wrong):
        return 1  # they cannot be joined
    out_of_date, without_source = stale(), orphans()
    for path, text in out_of_date.items():
        if not check:
            path.write_bytes(text.encode("utf-8"))
        print("out of date:" if check else "written:", path.relative_to(FOLDER))
    for path in without_source:
        print("no source belongs to", path.relative_to(FOLDER))
    if not out_of_date and not without_source:
        print("all notebooks are up to date")
    return int(bool(wrong or without_source or (check and out_of_date)))


if __name__ == "__main__":
    sys.exit(main())

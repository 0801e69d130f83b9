"""The TeX of the equations: one for every concept, in the letters of its file."""

import re
from pathlib import Path

import pytest
from helpers.scripts import load_script

from minqwen.check.concepts import CONCEPTS

ROOT = Path(__file__).resolve().parents[2]
equations = load_script(ROOT / "docs" / "equations.py")
ROWS = {row.name: row for row in CONCEPTS}
MODULES = {name: row.module for name, row in ROWS.items()}
MODULES |= {module: module for module in equations.FORWARD_ONLY}


def tex_of(name):
    if name in ROWS:
        return "\n".join(equations.EQUATIONS[name])
    return equations.FORWARD_ONLY[name]


def names_in(tex):
    r"""Return the letters and names in TeX: `\mathit{lse}_n` gives lse and n."""
    tex = re.sub(r"\\text\{[^}]*\}|\\(?:begin|end)\{\w+\}", " ", tex)
    tex = tex.replace(r"\_", "ß")  # part of a name, where _ alone begins an index
    tex = re.sub(r"\\(?:operatorname|mathit|mathrm)\{(\w+)\}", r" \1 ", tex)
    tex = re.sub(r"\\(alpha|lambda)\b", r" \1 ", tex)
    tex = re.sub(r"\\[A-Za-z]+|_", " ", tex)
    return {word.replace("ß", "_") for word in re.findall(r"[A-Za-z]\w*", tex)}


def names_of(module):
    """Return the words of a file and of the files that its docstring names, and their parts."""
    path = ROOT / (module.replace(".", "/") + ".py")
    text = path.read_text(encoding="utf-8")
    for other in re.findall(r"([\w/]+)\.py", text.split('"""')[1]):
        found = [p for p in (ROOT / "minqwen").rglob(f"{Path(other).name}.py")]
        text += "".join(p.read_text(encoding="utf-8") for p in found)
    whole = set(re.findall(r"[A-Za-z]\w*", text))
    parts = {part for word in whole for part in word.split("_")}
    indices = {letter for word in whole for part in word.split("_")[1:] for letter in part}
    return whole | parts, indices


def test_every_concept_has_its_equations():
    assert set(equations.EQUATIONS) == set(ROWS)
    assert all(one.forward.strip() and one.gradient.strip() for one in equations.EQUATIONS.values())


@pytest.mark.parametrize("name", MODULES)
def test_the_letters_are_those_of_the_file(name):
    words, indices = names_of(MODULES[name])
    unknown = {
        word
        for word in names_in(tex_of(name))
        if word not in words
        and not all(p in words or set(p) <= words | indices for p in word.split("_"))
    }
    assert not unknown


@pytest.mark.parametrize("name", MODULES)
def test_braces_and_environments_are_closed(name):
    for tex in equations.EQUATIONS[name] if name in ROWS else [tex_of(name)]:
        shown = equations.display(tex)
        assert shown.count("{") == shown.count("}")
        assert shown.count(r"\begin{") == shown.count(r"\end{")
        assert "\n\n" not in shown  # Sphinx would take it for two equations


def test_foreign_letters_are_noticed():
    words, _ = names_of("minqwen.layers.linear")
    assert "theta" not in words
    assert names_in(r"y = \mathit{theta}\, x_i") == {"y", "theta", "x", "i"}

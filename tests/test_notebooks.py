"""The notebooks: made from their sources, without outputs, small cells, and they run.

The Chinese ones are not run: their code is the English one's, which is tested.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
NOTEBOOKS = [path.with_suffix(".ipynb") for path in SOURCES]
CHINESE = sorted((FOLDER / "zh").glob("*.ipynb"))
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
LONG = {  # they train models: in `make ci` only
    "14_long_context_laboratory",
    "17_chat_and_masks",
    "18_reward_model",
    "19_ppo_under_glass",
    "20_dpo",
    "16_data_pipeline",
    "21_agents",
    "22_code_and_maths",
    "08_mixed_precision",
    "09_two_processes",
    "07_sampling_and_generation",
}
each_run = pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in LONG), id=p.stem) for p in SOURCES],
)
SHORT = [path for path in SOURCES if path.stem not in LONG]  # the long ones: in a kernel only
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_chinese = pytest.mark.parametrize("path", CHINESE, ids=lambda path: path.stem)


def cells_of(path):
    """Return (kind, text, line of the file) for each cell of a py:percent file.

    A parser of its own, so that the notebooks can be run where jupytext is not installed.
    """
    cells = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("# %%"):
            cells.append(("markdown" if "[markdown]" in line else "code", [], number + 1))
        else:
            cells[-1][1].append(line)
    return [(kind, "\n".join(lines).strip("\n"), first) for kind, lines, first in cells]


def code_cells(path):
    return [(text, line) for kind, text, line in cells_of(path) if kind == "code"]


def solution_of(markdown):
    """Return the Python of a folded solution, or an empty text."""
    text = "\n".join(line[2:] for line in markdown.splitlines())
    found = re.search(r"<details>.*```python\n(.*?)```.*</details>", text, flags=re.DOTALL)
    return found[1] if found else ""


def run(path, monkeypatch, with_solutions=False, draw_figures=True):
    """Run all cells in one namespace, as a kernel would, figures drawn but not shown."""
    plt = pytest.importorskip("matplotlib.pyplot", reason="the notebooks need matplotlib")
    drawn = []

    def draw():
        for number in plt.get_fignums():
            if draw_figures:
                plt.figure(number).canvas.draw()
            drawn.append(number)
        plt.close("all")

    plt.switch_backend("Agg")
    monkeypatch.setattr(plt, "show", draw)
    monkeypatch.chdir(path.parent)
    namespace = {"__name__": "__main__"}
    with plt.rc_context(), np.printoptions():
        for kind, text, line in cells_of(path):
            source = text if kind == "code" else solution_of(text) if with_solutions else ""
            # empty lines in front, so that a traceback names the line of the .py
            exec(compile("\n" * (line - 1) + source, str(path), "exec"), namespace)
    assert not plt.get_fignums(), "a figure was not shown: end the cell with plt.show()"
    return drawn


def test_there_are_notebooks():
    assert [path.stem for path in SOURCES[:2]] == ["01_bpe", "02_one_block_forward_and_backward"]


@pytest.mark.notebook
@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, monkeypatch, capsys):
    assert run(path, monkeypatch), "a notebook draws something"
    assert "not yet" in capsys.readouterr().out  # exercises that nobody has answered do not fail


@pytest.mark.notebook
@each_run
def test_solutions_pass_their_checks(path, monkeypatch, capsys):
    # the short ones have the figures of the test above
    run(path, monkeypatch, with_solutions=True, draw_figures=path.stem in LONG)
    printed = capsys.readouterr().out
    exercises = set(re.findall(r"\*\*Exercise (\d+)\.", path.read_text(encoding="utf-8")))
    assert exercises
    assert set(re.findall(r"Exercise (\d+): right", printed)) == exercises
    assert "not yet" not in printed


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's own packages, old habits and sockets
@each_notebook
def test_runs_in_a_fresh_kernel(path, monkeypatch, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nbclient = pytest.importorskip("nbclient", reason="needs nbclient, in the extra dev")
        pytest.importorskip("ipykernel", reason="needs ipykernel, in the extra dev")
        import nbformat

    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # also where minqwen is not installed
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel chooses inline
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    notebook = nbformat.read(copy, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = "".join(o["text"] for o in outputs if o.get("name") == "stdout")
    assert "not yet" in printed  # exercises that nobody has answered do not fail
    errors = [o["text"] for o in outputs if o.get("name") == "stderr"]
    assert not [text for text in errors if "minqwen" in text], errors


def test_notebooks_are_made_from_their_sources():
    pytest.importorskip("jupytext", reason="needs jupytext, in the extra test")
    make = runpy.run_path(str(FOLDER / "make_notebooks.py"))
    assert make["sources"]() == SOURCES
    names = [path.name for path in [*make["stale"](), *make["orphans"]()]]
    assert not names, f"run python notebooks/make_notebooks.py, for {', '.join(names)}"


@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *CHINESE], ids=lambda path: str(path.relative_to(FOLDER))
)
def test_stored_without_outputs_and_with_a_kernel(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"  # else JupyterLab asks
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], f"{cell['id']} has outputs; run make_notebooks.py"
            assert cell["execution_count"] is None, cell["id"]


@each_source
def test_first_cells_say_where_it_comes_from_and_find_minqwen(path):
    cells = cells_of(path)
    assert f"Made from `{path.name}`" in cells[0][1]
    text = path.read_text(encoding="utf-8")
    for heading in ("What you will do", "What you will learn", "What you need", "On your own"):
        assert f"# ## {heading}\n" in text, heading
    first, _ = code_cells(path)[0]
    assert "SOURCE" in first
    assert code_cells(path)[0] == (code_cells(SOURCES[0])[0][0], code_cells(path)[0][1])


@pytest.mark.parametrize("beside", ["nothing", "a clone of the same name"])
def test_the_first_cell_installs_what_is_not_there(tmp_path, beside):
    if beside != "nothing":
        (tmp_path / "minqwen").mkdir()  # Python takes it for an empty package
    pip = "import subprocess, sys\nsubprocess.run = lambda line, check: sys.path.append(line[5])\n"
    cell = code_cells(SOURCES[0])[0][0].replace('SOURCE = ".."', f"SOURCE = {str(ROOT)!r}")
    run = [sys.executable, "-S", "-c", pip + cell]  # -S: without what is installed here
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("minqwen 0."), done.stderr


@each_source
def test_code_cells_are_under_15_lines(path):
    long = {line: n for text, line in code_cells(path) if (n := len(text.splitlines())) >= 15}
    assert not long, f"{path.name}: line of the cell -> its length: {long}"


@functools.cache
def defined_in_minqwen():
    """Return the file of every function and class of ours."""
    return {
        node.name: file.relative_to(ROOT)
        for file in sorted((ROOT / "minqwen").rglob("*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }


@each_source
def test_nothing_that_minqwen_has_is_defined_again(path):
    ours = defined_in_minqwen()
    assert "decoder_block_forward" in ours
    defined = {
        node.name
        for text, _ in code_cells(path)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    again = {name: str(ours[name]) for name in defined & ours.keys()}
    assert not again, f"import these instead: {again}"


# The Chinese notebooks.


def stored_cells(path, kind):
    """Return the texts of the cells of a notebook, "markdown" or "code"."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def words_of(path):
    """Return the text cells of a py:percent file as Markdown."""
    texts = [text for kind, text, _ in cells_of(path) if kind == "markdown"]
    return ["\n".join(line[2:] for line in text.splitlines()) for text in texts]


@pytest.fixture(scope="module")
def make():
    """Return the names of make_notebooks.py."""
    pytest.importorskip("jupytext", reason="needs jupytext, in the extra test")
    return runpy.run_path(str(FOLDER / "make_notebooks.py"))


def test_the_core_is_there_in_chinese():
    topics = ("bpe", "one_block", "rope", "mixture_of_experts", "ppo", "attention", "swiglu")
    for topic in topics:
        assert [path for path in CHINESE if topic in path.stem], topic


@each_chinese
def test_chinese_code_is_the_english_code(path):
    english = stored_cells(FOLDER / path.name, "code")
    # only the way to the checkout differs, one folder further up
    assert english[0].startswith('SOURCE = ".."  # where')
    english[0] = english[0].replace('SOURCE = ".."', 'SOURCE = "../.."')
    assert stored_cells(path, "code") == english
    assert (path.parent / "../.." / "pyproject.toml").exists()  # what pip install is given


@each_chinese
def test_chinese_and_english_lead_to_each_other(path):
    there, back = FOLDER / path.name, f"../{path.name}"
    assert f"[中文](zh/{path.name})" in stored_cells(there, "markdown")[0].split("\n\n")[1]
    assert f"[English]({back})" in stored_cells(path, "markdown")[0].split("\n\n")[1]
    for notebook in (there, path):
        for link in re.findall(r"\]\(([^)#:]+)\)", "\n".join(stored_cells(notebook, "markdown"))):
            assert (notebook.parent / link).exists(), f"{notebook.name}: {link}"


@each_chinese
def test_chinese_text_is_chinese(path):
    for text in stored_cells(path, "markdown"):
        plain = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$", "", text, flags=re.DOTALL)
        assert re.search("[\u4e00-\u9fff]", plain), text
        latin = re.findall(r"(?:[A-Za-z]{2,}[ ,]+){5,}", plain)  # five words on end: forgotten
        assert not latin, latin


def test_chinese_texts_belong_to_the_english_ones(make):
    assert not make["translation_faults"]()


ENGLISH_CELL = """## 2 A norm

Its `x` has $n_1$ and 1,024 numbers:

$$y = \\text{mean of } x$$

- one
- **two**

```python
y = x.mean()  # of x
```
"""
CHINESE_CELL = """## 2 归一化

它的 `x` 有 $n_1$ 和 1024 个数：

$$y = x \\text{ 的平均}$$

- 一
- **二**

```python
y = x.mean()  # of x
```
"""


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("`x`", "`X`", "code words"),
        ("$n_1$", "$n_2$", "formulas"),
        ("$$y = x", "$$y = z", "formulas"),
        ("1024", "1042", "numbers"),
        ("## 2", "### 2", "headings"),
        ("- 一\n", "", "items of lists"),
        ("y = x.mean()", "y = x.sum()", "code blocks"),
        ("- 一", "- <b>一</b>", "HTML tags"),
        ("- 一", "- [一](x.md)", "links"),
        ("个数：", "个数:", "half-width punctuation"),
        ("它的 `x`", "它的`x`", "no space"),
        ("它的", "它\n的", "line break"),
        ("- 一", "- 一， 二", "a space beside"),
        ("**二**", "**二。**三", "asterisk"),
        ("**二**", "*二*", "italics"),
    ],
)
def test_a_wrong_translation_is_found(make, right, wrong, fault):
    assert not make["faults"]([ENGLISH_CELL], [CHINESE_CELL])
    assert CHINESE_CELL.count(right) == 1
    (found,) = make["faults"]([ENGLISH_CELL], [CHINESE_CELL.replace(right, wrong)])
    assert fault in found


def test_a_missing_chinese_cell_is_found(make):
    english, chinese = words_of(SOURCES[0]), make["cells_of_text"]("<!-- cell -->\n# 标题\n")
    assert make["faults"](english, chinese) == [f"1 Chinese texts for {len(english)} text cells"]
    with pytest.raises(ValueError, match="a text starts with a line '<!-- cell -->', this one"):
        make["cells_of_text"]("# 标题\n<!-- cell -->\n")


def test_texts_and_notebooks_without_a_source_are_found(make, tmp_path):
    (tmp_path / "99_none.md").write_text("<!-- cell -->\n# 标题\n", encoding="utf-8")
    (tmp_path / "98_none.ipynb").write_text("{}", encoding="utf-8")
    names = make["orphans"].__globals__
    before, names["CHINESE"] = names["CHINESE"], tmp_path
    try:
        assert make["translation_faults"]() == ["zh/99_none.md: no notebook has this name"]
        assert make["orphans"]() == [tmp_path / "98_none.ipynb"]
    finally:
        names["CHINESE"] = before


def test_the_chinese_page_lists_its_notebooks():
    text = (FOLDER / "zh" / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[\w+\]\((\w+\.ipynb)\)", text, re.MULTILINE)) == [
        path.name for path in CHINESE
    ]
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (FOLDER / "zh" / link).exists(), link

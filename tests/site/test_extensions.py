"""What docs/_ext adds to Sphinx, without a site: its examples, and notebooks that share outputs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.scripts import load_script

pytestmark = pytest.mark.site
EXTENSIONS = Path(__file__).resolve().parents[2] / "docs" / "_ext"


def test_the_examples_in_the_extensions():
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package, reason="needs the extra docs", exc_type=ImportError)
    files = sorted(str(path) for path in EXTENSIONS.glob("*.py"))
    folders = [EXTENSIONS, EXTENSIONS.parent, EXTENSIONS.parent.parent]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-m", "doctest", *files]
    ran = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]


@pytest.fixture
def run_notebooks():
    pytest.importorskip("nbformat", reason="needs the extra docs", exc_type=ImportError)
    return load_script(EXTENSIONS / "run_notebooks.py")


def written(path, *cells, words="words"):
    """Write a notebook with these cells of code below a text."""
    v4 = pytest.importorskip("nbformat.v4")
    text = [v4.new_markdown_cell(words)]
    path.parent.mkdir(exist_ok=True)
    notebook = v4.new_notebook(cells=text + [v4.new_code_cell(cell) for cell in cells])
    path.write_text(v4.writes(notebook), encoding="utf-8")
    return path


def test_a_chinese_notebook_shows_what_the_english_one_printed(run_notebooks, tmp_path):
    english = written(tmp_path / "01_x.ipynb", 'SOURCE = ".."', "print(1)")
    chinese = written(tmp_path / "zh/01_x.ipynb", 'SOURCE = "../.."', "print(1)", words="文字")
    assert run_notebooks.original(chinese) == english
    assert run_notebooks.original(english) == english
    done, shown = run_notebooks.read(english), run_notebooks.read(chinese)
    done.cells[2].outputs, done.cells[2].execution_count = ["one"], 2
    run_notebooks.with_outputs(shown, done)
    assert shown.cells[2].outputs == ["one"]
    assert [cell.source for cell in shown.cells] == ["文字", 'SOURCE = "../.."', "print(1)"]


@pytest.mark.parametrize(
    "cells",
    [
        ('SOURCE = "../.."', "print(2)"),
        ('SOURCE = "../.."', "print(1)", "print(1)"),
        ('SOURCE = "git+https://elsewhere"', "print(1)"),
    ],
)
def test_with_other_code_it_is_run_itself(run_notebooks, tmp_path, cells):
    written(tmp_path / "01_x.ipynb", 'SOURCE = ".."', "print(1)")
    chinese = written(tmp_path / "zh/01_x.ipynb", *cells)
    assert run_notebooks.original(chinese) == chinese


def test_a_notebook_without_an_english_one_is_run_itself(run_notebooks, tmp_path):
    chinese = written(tmp_path / "zh/02_y.ipynb", "print(1)")
    assert run_notebooks.original(chinese) == chinese

"""Whatever is handed in becomes plain text, or a note."""

import json
import os
import sys
import zipfile

import pytest

from minqwen.course import submission as s
from minqwen.course.submission import Submission, read_submission

CODE = "def f(x):\n    return x\n"


def notebook(*cells):
    return json.dumps(
        {
            "cells": [{"cell_type": "code", "source": cell, "metadata": {}} for cell in cells],
            "metadata": {},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


def test_a_file(tmp_path):
    (tmp_path / "hw.py").write_text(CODE, encoding="utf-8")
    found = read_submission(tmp_path / "hw.py")
    assert found == Submission("hw", {"hw.py": CODE})


def test_a_folder_of_folders(tmp_path):
    for place in ("a/b", "__MACOSX", ".git", "venv/lib"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "rope.py").write_text(f"# {place}\n", encoding="utf-8")
    (tmp_path / "data.csv").write_text("1", encoding="utf-8")
    (tmp_path / "test_visible.py").write_text("", encoding="utf-8")
    found = read_submission(tmp_path)
    assert found.files == {"rope.py": "# a/b\n"}


def test_of_two_files_of_one_name_the_outer_one_counts(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "rope.py").write_text("OLD = 1\n", encoding="utf-8")
    (tmp_path / "rope.py").write_text("NEW = 1\n", encoding="utf-8")
    found = read_submission(tmp_path)
    assert found.files == {"rope.py": "NEW = 1\n"}
    assert found.notes == ("rope.py was handed in twice: rope.py counts",)


def test_a_py_file_counts_more_than_a_notebook_of_its_name(tmp_path):
    (tmp_path / "hw.ipynb").write_text(notebook("A = 1"), encoding="utf-8")
    (tmp_path / "hw.py").write_text("B = 1\n", encoding="utf-8")
    assert read_submission(tmp_path).files["hw.py"] == "B = 1\n"


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside.py"
    outside.write_text("SECRET = 1\n", encoding="utf-8")
    folder = tmp_path / "hw"
    folder.mkdir()
    (folder / "a.py").symlink_to(outside)
    os.mkfifo(folder / "b.py")
    found = read_submission(folder)
    assert found.files == {}
    assert all("left out" in note for note in found.notes)
    assert len(found.notes) == 2


def test_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "ann.zip", "w") as archive:
        archive.writestr("hw/rope.py", CODE)
        archive.writestr("../evil.py", CODE)
        archive.writestr("/etc/evil.py", CODE)
        archive.writestr("..\\evil2.py", CODE)
        archive.writestr("__MACOSX/._rope.py", "x")
        link = zipfile.ZipInfo("link.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    found = read_submission(tmp_path / "ann.zip")
    assert found.files == {"rope.py": CODE}
    assert sum("leads out" in note for note in found.notes) == 3
    assert "link.py is a link: left out" in found.notes


def test_a_zip_bomb_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(s, "MAX_NOTEBOOK", 1000)
    monkeypatch.setattr(s, "MAX_ALL", 4000)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.py", "x" * 10**6)
        archive.writestr("small.py", CODE)
    found = read_submission(tmp_path / "b.zip")
    assert list(found.files) == ["small.py"]
    assert "big.py is larger" in found.notes[0]
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(f"f{number}.py", "x" * 900)
    with pytest.raises(ValueError, match="larger than"):
        read_submission(tmp_path / "c.zip")


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(s, "MAX_FILES", 2)
    for number in range(3):
        (tmp_path / f"f{number}.py").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="more than 2 files"):
        read_submission(tmp_path)


def test_a_zip_that_is_none_or_damaged(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\3\4 no")
    with pytest.raises(ValueError, match="is no zip archive"):
        read_submission(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("rope.py", CODE * 100)
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[60:90] = b"?" * 30
    (tmp_path / "b.zip").write_bytes(data)
    found = read_submission(tmp_path / "b.zip")
    assert found.files == {}
    assert "rope.py" in found.notes[0]


def test_what_is_no_submission(tmp_path):
    with pytest.raises(FileNotFoundError, match="no submission"):
        read_submission(tmp_path / "none.py")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(ValueError, match="folder, not "):
        read_submission(tmp_path / "a.pdf")
    if hasattr(os, "mkfifo"):  # it would be waited for
        os.mkfifo(tmp_path / "pipe.py")
        with pytest.raises(ValueError, match="no ordinary file"):
            read_submission(tmp_path / "pipe.py")


def test_a_notebook_gives_definitions_only(tmp_path):
    cells = (
        "import numpy as np\n%matplotlib inline\nEPS = 1e-6\nplt = make_plot()",
        "!pip install torch",
        "def f(x):\n    return 1",
        ["def f(x):\n", "    return 2\n", "print(f(1))"],
        "%%timeit\ndef g(x):\n    return 3",
        "for i in range(10**9): pass",
        "def broken(:",
        "class C:\n    pass\nX: int = -3\nPAIR = (EPS, np.pi)\nf?",
        "@decorated\ndef h(x):\n    return x",
    )
    (tmp_path / "hw.ipynb").write_text(notebook(*cells), encoding="utf-8")
    found = read_submission(tmp_path / "hw.ipynb")
    text = found.files["hw.py"]
    for part in ("import numpy", "EPS = 1e-6", "return 2", "class C", "X: int = -3", "np.pi"):
        assert part in text
    for part in ("make_plot", "print", "pip", "range", "return 3", "broken"):
        assert part not in text
    assert "@decorated\ndef h" in text
    assert text.index("return 1") < text.index("return 2")
    assert found.notes == ("hw.ipynb, code cell 7, line 1: invalid syntax: the cell is left out",)


def test_a_notebook_needs_no_neighbours_for_what_it_has(tmp_path):
    cells = ("from linear import linear_forward", "def linear_forward(x): return x",
             "from rope import other\nfrom __future__ import annotations",
             "def g(x): return other(x)")  # fmt: skip
    (tmp_path / "hw.ipynb").write_text(notebook(*cells), encoding="utf-8")
    text = read_submission(tmp_path / "hw.ipynb").files["hw.py"]
    assert "from linear" not in text
    assert "from rope import other" in text
    assert text.startswith("from __future__")


def test_a_notebook_needs_no_package_that_only_its_plots_need(tmp_path):
    cells = (
        "import matplotlib.pyplot as plt, numpy as np\nimport torch",
        "from google.colab import drive",
        "from tqdm import (\n    tqdm,\n    trange,\n)\nimport seaborn as sns",
        "def f(x):\n    return np.sqrt(x)",
        "def show(x):\n    sns.heatmap(x)\n    plt.show()",
        "drive.mount('/content')\nplt.plot(f(1))",
    )
    (tmp_path / "hw.ipynb").write_text(notebook(*cells), encoding="utf-8")
    text = read_submission(tmp_path / "hw.ipynb").files["hw.py"]
    for name in ("google", "torch", "tqdm"):
        assert name not in text
    space = {}
    exec(text.replace("seaborn", "no_such_package").replace("matplotlib", "no_such_either"), space)
    assert space["f"](4.0) == 2.0


def test_a_cell_that_is_timed_or_written_is_read(tmp_path):
    cells = (
        "%%time\ndef f(x):\n    return 1",
        "%%writefile rope.py\ndef g(x):\n    return 2",
        "%%writefile notes.txt\ndef h(",
        "%%bash\nls",
        "files = !ls\nhow_long = %timeit -o 1\ndef k(x):\n    return 3",
    )
    (tmp_path / "hw.ipynb").write_text(notebook(*cells), encoding="utf-8")
    found = read_submission(tmp_path / "hw.ipynb")
    space = {}
    exec(found.files["hw.py"], space)
    assert (space["f"](0), space["g"](0), space["k"](0)) == (1, 2, 3)
    assert found.notes == ()


def test_a_notebook_that_is_none(tmp_path):
    for number, text in enumerate(
        ("{", "[]", '{"cells": [1]}', '{"cells": [{"cell_type": "code"}]}')
    ):
        (tmp_path / f"n{number}.ipynb").write_text(text, encoding="utf-8")
        found = read_submission(tmp_path / f"n{number}.ipynb")
        assert found.files == {}
        assert "is no notebook" in found.notes[0]


def test_bad_text_is_told_with_its_line(tmp_path):
    (tmp_path / "a.py").write_bytes(b"# one\n# \xff\nx = 1\r\n")
    (tmp_path / "b.py").write_text("def f(:\n", encoding="utf-8")
    (tmp_path / "c.py").write_bytes(b"\xef\xbb\xbfx = 1\n")
    (tmp_path / "d.py").write_bytes("x = 'é'\r\n".encode("utf-16"))  # PowerShell's >
    found = read_submission(tmp_path)
    assert found.files["a.py"] == "# one\n# ?\nx = 1\n"
    assert found.files["c.py"] == "x = 1\n"
    assert found.files["d.py"] == "x = 'é'\n"
    assert any(note.startswith("a.py, line 2: not UTF-8") for note in found.notes)
    assert found.broken == {"b.py": "line 1: invalid syntax"}
    assert "b.py is no valid Python: line 1: invalid syntax" in found.notes


def test_names_that_are_no_modules(tmp_path):
    (tmp_path / "my answer (1).py").write_text(CODE, encoding="utf-8")
    (tmp_path / "2.py").write_text(CODE, encoding="utf-8")
    found = read_submission(tmp_path)
    assert set(found.files) == {"my_answer__1_.py", "_2.py"}
    assert len(found.notes) == 2


def test_functions_are_found_by_name():
    files = {
        "a.py": "try:\n    pass\nexcept ImportError:\n    def f(): ...\n",
        "b.py": "g = h = lambda x: x\n",
        "c.py": "def k(x):\n  return (\n",
        "d.py": "class f: ...\n",
    }
    found = Submission("x", files)
    assert [found.home_of(name) for name in "ghk"] == ["b.py", "b.py", "c.py"]
    assert found.home_of("f", "d.py") == "d.py"
    assert found.home_of("z") is None


def test_nested_beyond_reason():
    text = "x = " + "(" * 500 + ")" * 500
    assert Submission("x", {"a.py": text}).broken

"""An assignment as a plain notebook: student/NAME.ipynb, and the solved one for the staff.

Below each part stands a check: it says what the visible rows of `minqwen grade` say. The notebook
holds nothing that grading needs. `minqwen grade NAME.ipynb` reads only the functions in it, so
cells may be copied, moved and added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .aspects import VISIBLE
from .assignment import Assignment, write_texts
from .cell_text import cell, check_line, notebook_text
from .file_cells import PartCells, parts_of
from .variants import variant

WORDS = {
    "en": {
        "intro": "Write a body wherever it says `raise NotImplementedError`, run the cell, then "
        "the check below it. A check compares your numbers with the right ones, on the inputs that "
        "you may see; when you hand in, others are tried too. Hints are folded: try without them "
        "first.\n\nYou need Python 3.11 or newer and minqwen (`pip install minqwen`).",
        "change": "## This year's change\n\nHere something is asked for that differs from the "
        "public files of minqwen:",
        "check": "**Check** {functions}. It stops at the first question that is not answered "
        "right: shape, values, then stability (dtype, precision, arguments left alone).",
        "end": "## Handing in\n\nSave this notebook and hand it in. `minqwen grade {name}.ipynb "
        "--assignment .` in this folder repeats all checks from outside, as grading does.",
    },
    "zh": {
        "intro": "凡是写着 `raise NotImplementedError` 的地方，请写出函数体，运行该单元格，"
        "再运行下面的检查。检查在你可以看到的输入上把你的数与正确的数比较；"
        "提交之后还会用其他输入。提示是折叠的，请先自己尝试。\n\n"
        "需要 Python 3.11 或更新版本以及 minqwen（`pip install minqwen`）。",
        "change": "## 今年的改动\n\n以下要求与 minqwen 公开的文件不同：",
        "check": "**检查** {functions}。遇到第一个没有答对的问题就停下：形状、数值，"
        "然后是稳定性（dtype、精度、不修改参数）。",
        "end": "## 提交\n\n保存并提交这个笔记本。在这个文件夹里运行 "
        "`minqwen grade {name}.ipynb --assignment .`，会像评分那样从外部重做所有检查。",
    },
}
IMPORT = "from minqwen.course.cells import check_cell"


def write(assignment: Assignment, out: Path) -> list[Path]:
    """Write NAME.ipynb into student/ and into staff/solution_notebook/; return the files."""
    files = {
        out / "student" / f"{assignment.name}.ipynb": plain_notebook(assignment),
        out / "staff" / "solution_notebook" / f"{assignment.name}.ipynb": plain_notebook(
            assignment, solved=True
        ),
    }
    return write_texts(files)


def plain_notebook(assignment: Assignment, *, solved: bool = False) -> str:
    """Return the notebook as text, with stubs or with the solution."""
    say = WORDS[assignment.lang]
    cells = first_cells(assignment)
    for one in parts_of(assignment):
        cells += [cell("markdown", text) for text in one.words]
        cells += [cell("code", text) for text in one.given]
        for function in one.functions:
            body = function.body if solved else function.stub
            cells.append(cell("code", f"{function.head}\n{body}"))
        names = ", ".join(f"`{function.name}`" for function in one.functions)
        cells.append(cell("markdown", say["check"].format(functions=names)))
        lines = [check_line(assignment, one.part.spec, a, "globals()") for a in asked_of(one)]
        cells.append(cell("code", "\n".join([IMPORT, "", *lines])))
    cells.append(cell("markdown", say["end"].format(name=assignment.name)))
    return notebook_text(cells)


def first_cells(assignment: Assignment) -> list[dict[str, Any]]:
    """Return what stands at the top: the title, what to do, this year's change."""
    say = WORDS[assignment.lang]
    cells = [cell("markdown", f"# {assignment.title}\n\n{say['intro']}")]
    if assignment.variants:
        zh = assignment.lang == "zh"
        found = [variant(*key) for key in assignment.variants.items()]
        lines = [f"- {one.concept}: {one.says_zh if zh else one.says}" for one in found]
        cells.append(cell("markdown", "\n".join([say["change"], "", *lines])))
    return cells


def asked_of(one: PartCells) -> list[str]:
    """Return the aspects that students can check, in order."""
    return [aspect for aspect in one.points if aspect in VISIBLE]

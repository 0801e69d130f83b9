"""Submissions for the tests of notebooks: students' notebooks with the functions filled in."""

import json

from minqwen.course.assignment import Assignment
from minqwen.course.file_cells import parts_of
from minqwen.course.ladder import PRESETS
from minqwen.course.rubric import rows_of

TASK = Assignment(
    "hw1", "Homework 1", ("linear", "rmsnorm", "bpe_train", "gae"), hidden_seed=2**61 + 12345
)
LADDER = Assignment("ladder", "Ladder", PRESETS["ladder"], hidden_seed=2**61 + 54321)
POINTS = {(row.part, row.aspect): float(row.points) for row in rows_of(TASK)}
ROOT = "1.0 / xp.sqrt((x_wide * x_wide).mean(axis=-1, keepdims=True) + eps)"
OUTSIDE = "1.0 / (xp.sqrt((x_wide * x_wide).mean(axis=-1, keepdims=True)) + eps)"
NOISE = "import warnings; print('here'); warnings.warn('careful'); np.log(np.zeros(1)); "
FILLED = {  # student -> {text of the solution: what stands there instead}; None: nothing is written
    "key": {},
    "stub": None,
    "eps_outside": {ROOT: OUTSIDE},
    "widened": {"return y.astype(x.dtype, copy=False)": "return y.astype(np.float64)"},
    "noisy": {"    xp = array_module(x)\n    require_float(x=x, w=w)":
              f"    {NOISE}xp = array_module(x)\n    require_float(x=x, w=w)"},
}  # fmt: skip


def fill(notebook, edits, task=TASK):
    """Return a student's notebook with every function written, with some edits of the solution."""
    data = json.loads(notebook)
    if edits is None:
        return notebook
    solved = {f.name: f"{f.head}\n{f.body}" for one in parts_of(task) for f in one.functions}
    for find, put in edits.items():
        (name,) = [name for name, text in solved.items() if find in text]
        assert solved[name].count(find) == 1
        solved[name] = solved[name].replace(find, put)
    written = set()
    for cell in data["cells"]:
        text = "".join(cell["source"])
        for name, source in solved.items():
            if cell["cell_type"] == "code" and text.startswith(f"def {name}("):
                cell["source"] = source
                written.add(name)
    assert written == solved.keys()
    return json.dumps(data)

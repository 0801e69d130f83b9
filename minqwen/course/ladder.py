"""The exercises in teaching order, and how one is found by its name.

    layers       linear, rmsnorm, swiglu, rope, attention, cross_entropy     ladder_layers.py
    model        block, adamw, bpe_train, bpe_encode, long_context, moe_router   ladder_model.py
    alignment    reward_loss, gae, ppo_loss, dpo                             ladder_alignment.py

Their points sum to 100. A concept of minqwen.check that is no rung can be an exercise too: which
functions it needs is seen by calling them once, and its words are those of the file.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from ..check.edited import source_of
from ..check.specs import names, spec
from .exercise import Exercise, Part
from .ladder_alignment import ALIGNMENT_EXERCISES
from .ladder_layers import LAYER_EXERCISES
from .ladder_model import MODEL_EXERCISES

LADDER = (*LAYER_EXERCISES, *MODEL_EXERCISES, *ALIGNMENT_EXERCISES)
PRESETS = {
    "ladder": tuple(one.name for one in LADDER),
    "basics": ("linear", "rmsnorm", "swiglu", "cross_entropy", "adamw"),
    "transformer": tuple(one.name for one in LAYER_EXERCISES) + ("block",),
    "tokenizer": ("bpe_train", "bpe_encode"),
    "alignment": tuple(one.name for one in ALIGNMENT_EXERCISES),
}


@cache
def exercise(name: str) -> Exercise:
    """Return the exercise of this name; ValueError, with the list, if there is none.

    >>> exercise("rmsnorm").files, exercise("window_mask").parts[0].functions
    (('rmsnorm.py',), ('window_mask',))
    """
    for one in LADDER:
        if one.name == name:
            return one
    covered = {part.spec for one in LADDER for part in one.parts}
    if name in names():
        return of_concept(name)
    rungs = ", ".join(one.name for one in LADDER)
    others = ", ".join(sorted(set(names()) - covered))
    raise ValueError(f"no exercise {name!r}; the ladder has {rungs}; beside it there are {others}")


def of_concept(name: str) -> Exercise:
    """Make an exercise of a concept that the checker knows, in the words of its file."""
    concept = spec(name)
    tree = ast.parse(source_of(concept.module))
    title = (ast.get_docstring(tree) or name).partition("\n")[0].partition(":")[0].rstrip(".")
    if name != concept.module.rpartition(".")[2]:
        title += f" ({name})"  # of several in one file
    functions = called(name)
    listed = " and ".join(f"`{function}`" for function in functions)
    return Exercise(
        name=name,
        title=title,
        title_zh=title,
        parts=(Part(name, functions),),
        points=5,
        minutes=45,
        needs=(),
        report=report_line(ast.get_docstring(tree) or ""),
        task=f"Write {listed} as the docstrings of the file describe. {concept.notes}".rstrip(),
        task_zh=f"按照文件中的说明写出 {listed.replace(' and ', '、')}。",
        hints=(
            "Read the equation at the top of the file, and write the shape of every array beside "
            "it.",
            "Do the example in the docstring by hand, then with your function.",
            "Try the inputs that are not ordinary: a single row, zeros, very small and very large "
            "numbers, a mask that hides everything.",
        ),
        hints_zh=(
            "读文件开头的公式，并在旁边写下每个数组的形状。",
            "先手算说明中的例子，再用你的函数算一遍。",
            "试试不寻常的输入：只有一行、全零、极小和极大的数、遮住一切的掩码。",
        ),
    )


def report_line(docstring: str) -> str:
    """Return the section that a file's docstring names behind `Paper:`.

    >>> report_line("Title.\\n\\nPaper:    Qwen 2.4 Training, part\\n          1: all.\\nOrigin: x")
    'Qwen 2.4 Training, part 1'
    """
    _, _, rest = docstring.partition("Paper:")
    text = rest.partition("\nOrigin:")[0].partition("\nDiffers:")[0]
    return " ".join(text.partition(":")[0].split()).rstrip(".")


def called(name: str) -> tuple[str, ...]:
    """Return which functions of its file the checker calls for a concept, in file order.

    >>> called("rope")
    ('rope_inv_freq', 'rope_tables', 'rope_forward', 'rope_backward')
    """
    concept = spec(name)
    watched = Watched(importlib.import_module(concept.module))
    arguments = concept.probes[0].make(np.random.default_rng(0))
    outputs = concept.run(watched, arguments)
    if concept.pull is not None:
        concept.pull(watched, arguments, tuple(np.ones_like(output) for output in outputs))
    order = [node.name for node in ast.parse(source_of(concept.module)).body
             if isinstance(node, ast.FunctionDef)]  # fmt: skip
    return tuple(sorted(watched.asked, key=order.index))


class Watched(ModuleType):
    """A module that writes down which of its own functions it is asked for."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module.__name__)
        self.module, self.asked = module, set[str]()

    def __getattr__(self, name: str) -> Any:
        """Look the name up in the module."""
        value = getattr(self.module, name)
        if inspect.isfunction(value) and value.__module__ == self.module.__name__:
            self.asked.add(name)
        return value

"""Handouts and solutions: what stays is byte for byte ours, what goes leaves nothing behind."""

import ast
import re
import subprocess
import sys

import pytest

from minqwen.check.edited import source_of
from minqwen.check.specs import names, spec
from minqwen.course.cut import WORDS, handout_source, removed_lines, solution_source
from minqwen.course.file_imports import FIRST_LINE, from_lines, imported, used_names
from minqwen.course.ladder import LADDER, called
from minqwen.course.source_text import names_of

RMSNORM, MERGES = "minqwen.layers.rmsnorm", "minqwen.tokenizer.merges"
CUTS = {}
for _one in LADDER:
    for _part in _one.parts:
        if _part.spec in names():
            CUTS.setdefault(spec(_part.spec).module, []).extend(_part.functions)
each = pytest.mark.parametrize("module", CUTS, ids=lambda name: name.rpartition(".")[2])


def functions(text):
    return {n.name: n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}


@each
def test_what_is_cut_raises_and_the_rest_is_ours(module):
    text, ours = handout_source(module, CUTS[module], CUTS), source_of(module)
    stubs, whole = functions(text), functions(ours)
    for name, stub in stubs.items():
        if name in CUTS[module]:
            assert ast.get_docstring(stub) == ast.get_docstring(whole[name]) or any(
                edit.module == module for edit in WORDS
            )
            assert ast.unparse(stub.args) == ast.unparse(whole[name].args)
            assert ast.unparse(stub.body[1]) == (
                f"raise NotImplementedError('{name}: write this function')"
            )
            assert len(stub.body) == 2
        else:
            assert ast.get_source_segment(text, stub) == ast.get_source_segment(ours, whole[name])
    assert set(CUTS[module]) <= stubs.keys() <= whole.keys()
    code = text[text.index("from __future__") :].split(FIRST_LINE)[-1]
    known = {*ours.splitlines(), *(edit.put for edit in WORDS if edit.module == module)}
    for line in code.splitlines():
        made = line.startswith(("#", "from ", "import ", "    raise NotImplementedError"))
        assert made or line in known or any(edit.module == module for edit in WORDS), line


@each
def test_no_import_is_left_over_and_none_is_missing(module):
    for text in (handout_source(module, CUTS[module], CUTS), solution_source(module, CUTS)):
        tree = ast.parse(text)
        names = {one.known_as for one in imported(tree, "student")}
        names |= {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        names |= set().union(*map(names_of, tree.body))
        inside = {a.arg for n in ast.walk(tree) if isinstance(n, ast.arguments)
                  for a in (*n.args, *n.kwonlyargs, *n.posonlyargs)}  # fmt: skip
        inside |= {n.id for n in ast.walk(tree)
                   if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}  # fmt: skip
        inside |= {"self", *dir(__builtins__), *__builtins__}
        assert used_names(tree) <= names | inside
        assert all(not line.startswith("from .") for line in text.splitlines())
        assert all(len(line) <= 100 for line in text.splitlines())
    stub = handout_source(module, CUTS[module], CUTS)
    unused = {one.known_as for one in imported(ast.parse(stub), "student")}
    unused -= used_names(ast.parse(stub))
    assert unused <= {"np"}
    assert not unused or "import numpy as np  # noqa: F401" in stub


@each
def test_no_line_of_a_body_is_left(module):
    lines = {line.strip() for line in handout_source(module, CUTS[module], CUTS).splitlines()}
    long = [line for line in removed_lines(module, CUTS[module]) if len(line) > 30]
    assert long or len(CUTS[module]) == 1
    assert not lines & set(long)


def test_solutions_run_by_themselves_and_so_do_their_examples(tmp_path):
    """In a folder, with each other, in a process of their own."""
    for module in CUTS:
        text = solution_source(module, CUTS)
        (tmp_path / f"{module.rpartition('.')[2]}.py").write_text(text, encoding="utf-8")
    files = sorted(path.stem for path in tmp_path.iterdir())
    code = (
        "import doctest, importlib\n"
        f"for name in {files}:\n"
        "    found = doctest.testmod(importlib.import_module(name))\n"
        "    assert not found.failed, name\n"
        "    print(name, found.attempted)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == len(files)


def test_imports_go_to_neighbours_or_to_minqwen():
    alone = handout_source("minqwen.layers.swiglu", ["swiglu_forward"])
    assert "from minqwen.layers.linear import LinearCache, " in alone
    together = handout_source("minqwen.layers.swiglu", ["swiglu_forward"], CUTS)
    assert "\n\nfrom linear import LinearCache, linear_backward\n" in together
    assert "# from linear import linear_forward\n" in together


def test_a_block_is_offered_the_students_own_norm():
    functions = ["decoder_block_forward", "decoder_block_backward"]
    alone = handout_source("minqwen.model.decoder_block", functions)
    assert "# from minqwen.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward\n" in alone
    together = handout_source("minqwen.model.decoder_block", functions, [RMSNORM])
    assert "\nfrom rmsnorm import RMSNormCache\n" in together
    assert "# from rmsnorm import rmsnorm_backward, rmsnorm_forward\n" in together
    assert "fast" not in alone + together


def test_other_exercises_of_a_file_go():
    train = functions(handout_source(MERGES, ["merge_pair", "learn_merges_steps"]))
    assert list(train) == ["merge_pair", "learn_merges_steps"]
    encode = handout_source(MERGES, ["bpe_encode_steps"])
    assert list(functions(encode)) == ["bpe_encode_steps"]
    assert "class MergeStep" in encode
    assert "class TrainStep" not in encode
    assert "# from itertools import pairwise" not in encode


def test_constants_that_nobody_needs_go():
    text = handout_source("minqwen.tokenizer.pretokenizer", ["clean"])
    assert "QWEN_PATTERN" not in text
    assert "IGNORED = -100" in handout_source(
        "minqwen.layers.cross_entropy", ["cross_entropy_forward"]
    )


def test_given_functions_stay():
    text = handout_source("minqwen.layers.attention", ["attention_forward", "attention_backward"])
    assert "array_module(like).tri(T, S, S - T, dtype=bool)" in text  # causal_mask, in a docstring
    assert "group_heads" not in text
    assert "attention_sizes" not in text


def test_a_helper_that_no_exercise_asks_for_comes_from_minqwen():
    """So that no file of a student lacks what another one imports from it."""
    siblings = ["minqwen.alignment.whitening", "minqwen.alignment.kl_penalty"]
    assert "def answer_only" not in handout_source(siblings[0], ["whiten"], siblings)
    for text in (
        handout_source(siblings[1], ["kl_penalty"], siblings),
        solution_source(siblings[1], siblings),
    ):
        assert "from minqwen.alignment.whitening import answer_only" in text


def test_what_files_import_from_each_other_is_there():
    """For all exercises at once, the ladder's and the others; also what stands in comments."""
    cuts = {module: list(functions) for module, functions in CUTS.items()}
    for name in set(names()) - {part.spec for one in LADDER for part in one.parts}:
        cuts.setdefault(spec(name).module, []).extend(called(name))
    stubs = {m.rpartition(".")[2]: handout_source(m, set(f), cuts) for m, f in cuts.items()}
    seen = 0
    for text in stubs.values():
        plain = text.replace("\n# ", "\n")
        for other, listed in re.findall(r"(?m)^from (\w+) import (\([^)]*\)|.+)$", plain):
            if other in stubs:
                there = ast.parse(stubs[other]).body
                defined = {n.name for n in there if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
                defined |= set().union(*map(names_of, there))
                assert set(re.findall(r"\w+", listed)) <= defined, (other, listed)
                seen += 1
    assert seen > 12


def test_what_cannot_be_cut():
    with pytest.raises(ValueError, match=r"rmsnorm has no function swish; it has rmsnorm_forward"):
        handout_source(RMSNORM, ["rmsnorm_forward", "swish"])
    with pytest.raises(ValueError, match="no function no name"):
        handout_source(RMSNORM, [])


@pytest.mark.parametrize("edit", WORDS, ids=lambda edit: edit.module)
def test_the_words_that_go_stand_once(edit):
    assert source_of(edit.module).count(edit.find) == 1


def test_long_imports_are_broken():
    (line,) = from_lines("a", ["b"])
    assert line == "from a import b"
    assert from_lines("a", ["b" * 60, "c" * 60])[0] == "from a import ("

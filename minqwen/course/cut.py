"""Our solved files turned into exercises: some bodies are taken out, everything else stays.

    handout_source    what a student gets: signature, docstring and comments stay, a body becomes
                      one line that raises
    solution_source   the whole file, as a file that stands by itself

Lines are cut by the numbers that the syntax tree gives, so comments and layout stay as they are,
byte for byte. What changes beside the bodies: relative imports become absolute, or come from the
neighbouring file of the same assignment; a function that serves only bodies that were taken out,
and one that has to do with other exercises, goes; imports that nobody needs any more become a
comment that says what there is. WORDS are the few sentences that would then speak of nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping

from ..check.edited import Edit, edited_text, source_of
from .file_imports import used_names, with_imports
from .source_text import names_of
from .variants import variant_edits

Definition = ast.FunctionDef | ast.ClassDef

# Words of our files about what is not in the handout: taken out with it.
WORDS = (
    Edit(
        "minqwen.tokenizer.merges",
        "Each of the two is here twice: `..._steps` is the definition, a few lines that do the "
        "work anew in\nevery step and hand out each step to look at; `learn_merges` and "
        "`bpe_encode` give the same result\nwithout repeating work. The tests compare them.\n\n",
        "",
    ),
    Edit(
        "minqwen.training.adamw",
        "which tensors decay is not published; see `decays`. The decay of 0.1 is the one that "
        "the\n          report names for fine-tuning (3.1.2). lr * weight_decay shrinks the "
        "weights, as in\n          PyTorch; Loshchilov and Hutter leave the peak lr out of that "
        "product.",
        "the decay of 0.1 is the one that the report names for fine-tuning (3.1.2).\n"
        "          lr * weight_decay shrinks the weights, as in PyTorch; Loshchilov and Hutter "
        "leave\n          the peak lr out of that product.",
    ),
    Edit("minqwen.long_context.ntk", " or continuous_ntk_alpha", ""),
)
# What the model runs, and what students are offered: their own file, with the same numbers.
PLAIN = (("rmsnorm_fast", "rmsnorm"), ("fast_rmsnorm_", "rmsnorm_"))


def handout_source(
    module: str,
    cut: Collection[str],
    siblings: Collection[str] = (),
    variant: Mapping[str, str] | None = None,
) -> str:
    """Return a file of ours as an exercise.

    Args:
        module: "minqwen.layers.rmsnorm".
        cut: names of the functions whose bodies are to be written.
        siblings: modules that are files of the same assignment, imported by their last part.
        variant: {concept: mistake} of this year, see variants.py.

    Raises:
        ValueError: cut is empty, or names something that is no function of the file.
    """
    text = varied_source(module, variant)
    text = edited_text(text, [edit for edit in WORDS if edit.module == module]) or text
    for fast, plain in PLAIN:
        text = text.replace(fast, plain)
    tree = ast.parse(text)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if missing := sorted(set(cut) - functions.keys()) or (not cut and ["no name"]):
        raise ValueError(f"{module} has no function {missing[0]}; it has {', '.join(functions)}")
    kept = names_kept(tree, set(cut))
    lines = text.splitlines()
    for node in reversed(tree.body):  # from the end: the numbers of the lines stay right
        first = node.lineno - 1
        if isinstance(node, Definition):
            first -= len(node.decorator_list)
            if node.name in cut:
                assert isinstance(node, ast.FunctionDef)
                lines[body_start(node) : node.end_lineno] = [raising(node.name)]
            elif node.name not in kept:
                cut_lines(lines, first, node.end_lineno or first)
        elif (bound := names_of(node)) and not bound & kept:
            cut_lines(lines, first, node.end_lineno or first)
    helpful = names_in_bodies(tree, set(cut))
    return with_imports("\n".join(lines) + "\n", module, siblings, text, helpful)


def solution_source(
    module: str, siblings: Collection[str] = (), variant: Mapping[str, str] | None = None
) -> str:
    """Return a file of ours as one that stands by itself; see handout_source."""
    text = varied_source(module, variant)
    return with_imports(text, module, siblings, text, None)


def varied_source(module: str, variant: Mapping[str, str] | None) -> str:
    """Return the text of a file of ours, with this year's variants."""
    text = source_of(module)
    for concept, mistake in (variant or {}).items():
        here = [edit for edit in variant_edits(concept, mistake) if edit.module == module]
        text = edited_text(text, here) or text
    return text


def removed_lines(module: str, cut: Collection[str], variant: Mapping[str, str] | None = None
) -> Iterator[str]:  # fmt: skip
    """Yield the lines of code, stripped, that handout_source takes out of the bodies."""
    text = varied_source(module, variant)
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name in cut:
            for line in lines[body_start(node) : node.end_lineno]:
                if stripped := line.partition("  # ")[0].strip():
                    yield stripped


def body_start(node: ast.FunctionDef) -> int:
    """Return where the body of a function starts, behind the docstring, as an index of lines."""
    if ast.get_docstring(node) is not None:
        return node.body[0].end_lineno or node.body[0].lineno
    return node.body[0].lineno - 1


def raising(name: str) -> str:
    """Return the one line of a body that is to be written.

    >>> raising("gae")
    '    raise NotImplementedError("gae: write this function")'
    """
    return f'    raise NotImplementedError("{name}: write this function")'


def cut_lines(lines: list[str], first: int, stop: int) -> None:
    """Delete lines, with the comment and the empty lines before them."""
    while first > 0 and (not lines[first - 1].strip() or lines[first - 1].startswith("#")):
        first -= 1
    del lines[first:stop]


def words(text: str | None) -> set[str]:
    """Return the words of a text that could be names.

    >>> sorted(words("see causal_mask (1) and x."))
    ['and', 'causal_mask', 'see', 'x']
    """
    spaced = "".join(c if c.isalnum() or c == "_" else " " for c in text or "")
    return {word for word in spaced.split() if word.isidentifier()}


def names_kept(tree: ast.Module, cut: set[str]) -> set[str]:
    """Return the names of what stays at the top of a file.

    That is what the functions to be written take, return and mention in their docstrings, classes
    and constants that their bodies use, and what all of this needs in turn.
    """
    definitions: dict[str, ast.stmt] = {}
    for node in tree.body:
        definitions.update(dict.fromkeys(names_of(node), node))
    functions = {name for name, node in definitions.items() if isinstance(node, ast.FunctionDef)}
    kept, todo = set[str](), list(cut)
    while todo:
        name = todo.pop()
        if name in kept or name not in definitions:
            continue
        kept.add(name)
        node = definitions[name]
        uses = used_names(node)
        if isinstance(node, ast.FunctionDef):
            if name in cut:
                uses = used_names(node.args) | (used_names(node.returns) if node.returns else set())
                body = set().union(*map(used_names, node.body))
                uses |= body & (definitions.keys() - functions)
            uses |= words(ast.get_docstring(node)) & definitions.keys()
        todo += sorted(uses)
    return kept


def names_in_bodies(tree: ast.Module, cut: set[str]) -> set[str]:
    """Return the names that the bodies of some functions use, and those of their helpers."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    found, todo = set[str](), list(cut)
    while todo:
        uses = set().union(*map(used_names, functions[todo.pop()].body))
        todo += sorted((uses - found) & functions.keys())
        found |= uses
    return found

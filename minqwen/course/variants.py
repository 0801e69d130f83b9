"""This year's twist: a convention that other models have becomes what is right.

Our solved files are public, so a course may ask for something that they do not say: RMSNorm with
the gain 1 + w, RoPE on neighbouring features. Each variant here computes what a mistake of the bank
computes (a test holds the two together), but it is written as one would write it, with its own
gradient, and the docstrings and examples of the file say what it does. Students are told about it
in their README. Whoever hands in the public file computes something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import NamedTuple

from ..check.edited import Edit, edited_module
from ..check.specs import spec
from .variants_layers import LAYER_VARIANTS
from .variants_training import TRAINING_VARIANTS


class Variant(NamedTuple):
    """One convention that can be asked for."""

    concept: str  # "rmsnorm"
    mistake: str  # name in its bank: "gain_plus_one"
    says: str  # for students: what is asked for, and who does it
    says_zh: str
    edits: tuple[Edit, ...]  # of the concept's file: code, docstrings and examples
    hints: tuple[tuple[int, str, str], ...]  # (which, English, Chinese): in place of the exercise's


VARIANTS = tuple(
    Variant(
        concept,
        mistake,
        says,
        says_zh,
        tuple(Edit(spec(concept).module, find, put) for find, put in edits),
        hints,
    )
    for concept, mistake, says, says_zh, edits, hints in (*LAYER_VARIANTS, *TRAINING_VARIANTS)
)


def variant(concept: str, mistake: str) -> Variant:
    """Return a variant; ValueError, with the list, if there is none.

    >>> variant("rmsnorm", "gain_plus_one").says[:30]
    'the gain is 1 + w, so that w i'
    """
    for one in VARIANTS:
        if (one.concept, one.mistake) == (concept, mistake):
            return one
    offered = ", ".join(f"{one.concept}={one.mistake}" for one in VARIANTS)
    raise ValueError(f"no variant {concept}={mistake}; there are {offered}")


def variant_edits(concept: str, mistake: str) -> tuple[Edit, ...]:
    """Return what a variant changes in the file of its concept."""
    return variant(concept, mistake).edits


def reference(concept: str, variants: Mapping[str, str]) -> ModuleType:
    """Return our file as it is right in an assignment: with the variants that touch it.

    Args:
        concept: name of a spec.
        variants: concept -> mistake, of an Assignment; those of other files do not matter.

    >>> import numpy as np
    >>> reference("ppo_value_loss", {"ppo_value_loss": "no_half"}).__name__
    'minqwen.alignment.ppo_loss_edited'
    """
    return _reference(spec(concept).module, tuple(sorted(variants.items())))


@cache
def _reference(module: str, variants: tuple[tuple[str, str], ...]) -> ModuleType:
    edits = [edit for pair in variants for edit in variant_edits(*pair) if edit.module == module]
    changed = edited_module(module, edits)
    if changed is None:
        raise ValueError(f"variants {dict(variants)} change the same line of {module}")
    return changed

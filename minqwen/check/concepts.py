"""The table of concepts: for each its forward, its backward, small inputs, and where it stands.

Tests, `minqwen check`, the tour, the strict fake device and the docs are all driven by this
table: a new concept is one file and one row, in one of the files rows_*.py.

The inputs are small float64 arrays. All sizes differ, are prime or forced by another size, and are
above one, so that a transposed or wrongly summed axis cannot fit by accident; all weights are of
order one, so that no mistake hides behind a small factor.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .concept_row import Concept
from .gradients import GradientError, gradient_errors
from .rows_layers import LAYER_ROWS
from .rows_long_context import LONG_CONTEXT_ROWS
from .rows_model import MODEL_ROWS
from .rows_moe import MOE_ROWS
from .rows_ppo import PPO_ROWS
from .rows_preferences import PREFERENCE_ROWS

BOUND = 1e-7  # of a gradient's error, over its scale
CONCEPTS = (*LAYER_ROWS, *MOE_ROWS, *LONG_CONTEXT_ROWS, *MODEL_ROWS, *PREFERENCE_ROWS, *PPO_ROWS)


def gradient_table(concept: Concept, seed: int = 0) -> Iterator[tuple[str, GradientError]]:
    """Compare every gradient of a concept with central differences.

    Yields:
        (case, GradientError) for each case and each float input.
    """
    for case, make in concept.cases.items():
        inputs = make(np.random.default_rng(seed))
        for error in gradient_errors(
            concept.forward, concept.backward, *inputs, seed=seed + 1, names=concept.arguments
        ):
            yield case, error


def concept(name: str) -> Concept:
    """Return the row of this name; ValueError, with the list, if there is none.

    >>> concept("rmsnorm").module
    'minqwen.layers.rmsnorm'
    """
    for row in CONCEPTS:
        if row.name == name:
            return row
    raise ValueError(f"no concept {name!r}; there are {', '.join(row.name for row in CONCEPTS)}")

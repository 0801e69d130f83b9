"""The checker asks each copy of our file a question once: for many wrong functions of one concept.

To name a mistake it tries all pairs of the bank, and to the next function it puts the same
questions again. What our copies answer does not depend on the function.
"""

import contextlib
from functools import lru_cache
from unittest import mock

import numpy as np

from minqwen.check import diagnose
from minqwen.check.compare import Comparison
from minqwen.check.compare_gradients import GradientComparison
from minqwen.check.edited import edited_module

KEPT = {}  # question -> what a changed copy of our file answers, or the error it raises
FORWARD, BACKWARD = Comparison.forward_answer, GradientComparison.backward_answer


@lru_cache(maxsize=3000)
def kept_module(module, edits):
    """Return edited_module, made once."""
    return edited_module(module, edits)


def kept_answer(real):
    """Return a method that answers as the real one does, and a question once only."""

    def answer(self, module, one):
        asked, probe = self.questions, one.probe
        # gradients are asked for with upstream ones of these shapes
        shapes = tuple(map(np.shape, asked.forward(probe).outputs or ()))
        key = real, asked.spec.name, module, probe.name, probe.make, asked.seed, shapes
        if key not in KEPT:
            try:
                KEPT[key] = real(self, module, one)
            except Exception as error:
                KEPT[key] = error
        if isinstance(KEPT[key], Exception):
            raise KEPT[key].with_traceback(None)
        return KEPT[key]

    return answer


@contextlib.contextmanager
def kept_work():
    """Do once what would be done for each function; clear KEPT before another concept."""
    with (
        mock.patch.object(
            diagnose, "edited_module", lambda module, edits: kept_module(module, tuple(edits))
        ),
        mock.patch.object(Comparison, "forward_answer", kept_answer(FORWARD)),
        mock.patch.object(GradientComparison, "backward_answer", kept_answer(BACKWARD)),
    ):
        yield

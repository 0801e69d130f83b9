"""The rows of long_context/: for each concept its functions and small inputs; see concepts.py."""

from __future__ import annotations

from .concept_row import Concept

LONG_CONTEXT_ROWS: tuple[Concept, ...] = ()

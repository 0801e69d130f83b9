"""Where the numbers of the study of experts come from: sizes, curves, receipts, fingerprint.

The activated parameters are counted by model/accounting.py; what only routes is named apart: the
router, E * D numbers a layer, and the gate of the shared expert, D.
"""

from __future__ import annotations

import platform
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_device
from ..model.accounting import cost
from ..params import Params
from ..training.metrics import Metrics
from .moe_runs import receipt_of
from .moe_settings import RUNS, MoeSettings
from .moe_text import SourcedText
from .results import fingerprint

MEASURING = (  # the code behind a number: packages and files
    "backend.py",
    "layers",
    "model",
    "lab/measure.py",
    "lab/moe_measure.py",
    "lab/moe_text.py",
)


def describe(
    out: Path, settings: MoeSettings, text: SourcedText, models: dict[str, Params]
) -> dict[str, Any]:
    """Return what results.json says about where its numbers come from, and the curves."""
    s = settings
    on_host = {
        f"{name}.{key}": w
        for name, params in models.items()
        for key, w in to_device(params, "cpu").items()
    }
    trained = s.steps * s.batch_size * s.context_length
    return {
        "settings": s.to_dict(),
        "fingerprint": fingerprint(s.to_dict(), on_host, text.validation_rows, MEASURING),
        "upcycle_step": s.upcycle_step,
        "sizes": {
            "dense": size(settings, text, sparse=False),
            "sparse": size(settings, text, sparse=True),
        },
        "text": {
            "trained_tokens": trained,
            "tokens": int(text.rows.shape[0] * s.context_length),
            "validation_tokens": int(text.validation_rows.shape[0] * s.context_length),
            "sources": text.sources.tolist(),
            "vocab_size": text.tokenizer.vocab_size,
        },
        "runs": {run.name: curves(out / "runs" / run.name) for run in RUNS},
        "receipts": {run.name: receipt_of(out, run) for run in RUNS if run.upcycled},
        "machine": f"NumPy {np.__version__}, Python {platform.python_version()}",
    }


def size(settings: MoeSettings, text: SourcedText, sparse: bool) -> dict[str, int]:
    """Count the parameters of a model, those that work on a token, and what only routes."""
    s = settings
    counted = cost(s.config(text.tokenizer.vocab_size, sparse=sparse), 1, 1)
    routing = s.num_hidden_layers * s.hidden_size * (s.num_experts + 1) if sparse else 0
    return {
        "parameters": counted.parameters,
        "activated": counted.activated_parameters,
        "routing": routing,  # router and gate of the shared expert, among the activated ones
        "embedding": counted.embedding_parameters,
    }


def curves(run: Path) -> dict[str, Any]:
    """Return what a run noted about itself, the training loss as means over its looks."""
    rows = Metrics.read(run)
    steps = [row for row in rows if "loss" in row]
    looks = [row for row in rows if "validation_loss" in row]
    return {
        "validation": [[row["step"], row["validation_loss"]] for row in looks],
        "training": means(steps, looks, "loss"),
        "balance": means(steps, looks, "aux_loss"),
        "max_load": means(steps, looks, "max_load"),
        "load": [
            [row["step"], rounded(row["expert_load"])] for row in looks if "expert_load" in row
        ],
        "seconds": sum(row["seconds"] for row in steps),
    }


def means(steps: list[dict[str, Any]], looks: list[dict[str, Any]], key: str) -> list[list[float]]:
    """Return [step, mean of the steps since the look before] for each look but the first."""
    ends = [row["step"] for row in looks]
    found = []
    for first, last in pairwise(ends):
        values = [row[key] for row in steps if key in row and first < row["step"] <= last]
        if values:
            found.append([last, float(np.mean(values))])
    return found


def rounded(load: list[list[float]]) -> list[list[float]]:
    """Return the shares with five digits, enough for a picture."""
    return [[round(share, 5) for share in layer] for layer in load]

"""Token embedding: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Read the rows with a copy of layers/embedding.py."""
    return (m.embedding_forward(a["ids"], a["w"])[0],)


def pull(m: ModuleType, a: Arguments, dy: tuple[Array, ...]) -> dict[str, Array]:
    """Compute the gradient of the table with a copy of layers/embedding.py."""
    _, cache = m.embedding_forward(a["ids"], a["w"])
    return {"w": m.embedding_backward(dy[0], cache)}


def inputs(rng: np.random.Generator, ids: Array, V: int, D: int, size: float = 1.0) -> Arguments:
    """Return these ids and a table of V rows."""
    return {"ids": np.asarray(ids), "w": size * rng.standard_normal((V, D))}


def drawn(rng: np.random.Generator, *shape: int, V: int, D: int, size: float = 1.0) -> Arguments:
    """Return ids of this shape, drawn from all V."""
    return inputs(rng, rng.integers(0, V, shape), V, D, size)


PROBES = (
    Probe("ordinary", lambda rng: drawn(rng, 2, 3, V=11, D=5), "ordinary ids", hard=False),
    Probe("one axis", lambda rng: drawn(rng, 7, V=13, D=3), "a text without batch", hard=False),
    Probe(
        "repeated ids",
        lambda rng: inputs(rng, np.array([[2, 5, 2, 2], [2, 0, 5, 3]]), 7, 5),
        "ids that occur several times, in one row and across rows",
    ),
    Probe(
        "first and last id",
        lambda rng: inputs(rng, np.array([[0, 6, 0], [6, 6, 0]]), 7, 5),
        "the first and the last row of the table",
    ),
    Probe(
        "square", lambda rng: drawn(rng, 3, 3, V=3, D=3), "all sizes equal: axes can be mixed up"
    ),
    Probe("one token", lambda rng: drawn(rng, 1, 1, V=5, D=7), "a single token"),
    Probe("tiny", lambda rng: drawn(rng, 2, 5, V=7, D=3, size=1e-5), "a table of tiny numbers"),
)

_READ = "return w[ids], Emb"
FORWARD = (
    Mistake(
        "scaled_by_root",
        _READ,
        "return w[ids] * w.shape[1] ** 0.5, Emb",
        "the rows are multiplied by sqrt(D), as in the first Transformer and in Gemma.",
        "All numbers are off by one factor: what is its square?",
        "convention",
    ),
    Mistake(
        "divided_by_root",
        _READ,
        "return w[ids] * w.shape[1] ** -0.5, Emb",
        "the rows are divided by sqrt(D); they must come out as they are.",
        "All numbers are off by one factor: what is its square?",
    ),
    Mistake(
        "ids_from_one",
        _READ,
        "return w[ids - 1], Emb",
        "each id gives the row before its own: ids are taken to start at 1.",
        "Which row of w comes out for id 0?",
    ),
    Mistake(
        "next_row",
        _READ,
        "return w[(ids + 1) % len(w)], Emb",
        "each id gives the row after its own.",
        "Which row of w comes out for id 0?",
    ),
    Mistake(
        "padding_zero",
        _READ,
        "return w[ids] * (ids != 0)[..., None], Emb",
        "id 0 gives zeros, as padding does in some libraries; here 0 is a token like any other.",
        "Look at the rows of one id alone: which one?",
        "convention",
    ),
    Mistake(
        "unit_length",
        _READ,
        "return w[ids] / (w[ids] ** 2).sum(axis=-1, keepdims=True) ** 0.5, Emb",
        "the rows are scaled to length 1.",
        "Double w: does the result double?",
    ),
    Mistake(
        "centred",
        _READ,
        "return w[ids] - w[ids].mean(axis=-1, keepdims=True), Emb",
        "the mean of each row is subtracted.",
        "Sum one row of the result: what is in the table?",
    ),
    Mistake(
        "shifted_right",
        _READ,
        "return w[array_module(w).roll(ids, 1, axis=-1)], Emb",
        "every position reads the id before it, and the first one the last id.",
        "Change the last id alone: which position changes?",
    ),
    Mistake(
        "reversed_text",
        _READ,
        "return w[ids[..., ::-1]], Emb",
        "the text is read from its end.",
        "Change the last id alone: which position changes?",
    ),
    Mistake(
        "tokens_mixed",
        _READ,
        "return w[ids.T].reshape(*ids.shape, -1), Emb",
        "batch and time are mixed up: the ids are flattened in the wrong order.",
        "Change one id alone: which position changes?",
    ),
    Mistake(
        "first_text_only",
        _READ,
        "return w[0 * ids + ids.reshape(-1, ids.shape[-1])[0]], Emb",
        "all texts of the batch get the rows of the first.",
        "Change an id of the second text: does anything change?",
    ),
    Mistake(
        "half_precision",
        _READ,
        "return w[ids].astype('float16').astype(w.dtype), Emb",
        "the rows have gone through float16: they have three digits left.",
        "A lookup computes nothing: every bit must stay as it was.",
        "numeric",
    ),
)

_ADD = "add_at(dw, ids.reshape(-1), rows)"
BACKWARD = (
    Mistake(
        "last_one_kept",
        _ADD,
        "dw[ids.reshape(-1)] += rows",
        "where an id occurs several times only the last gradient is kept; they must be summed.",
        "Try a text with one id twice. An indexed += reads each row once.",
    ),
    Mistake(
        "mean_of_repeats",
        _ADD,
        "add_at(dw, ids.reshape(-1), rows / (ids.reshape(-1, 1) == ids.reshape(-1)).sum("
        "axis=0)[:, None])",
        "the gradients of an id are averaged over its occurrences, not summed.",
        "Try a text with one id twice: the row must get both gradients in full.",
        "convention",
    ),
    Mistake(
        "mean_of_tokens",
        _ADD,
        "add_at(dw, ids.reshape(-1), rows / len(rows))",
        "dw is divided by the number of tokens.",
        "That division belongs to the loss, if anywhere: the sum is wanted here.",
    ),
    Mistake(
        "padding_no_gradient",
        _ADD,
        "add_at(dw, ids.reshape(-1), rows * (ids.reshape(-1, 1) != 0))",
        "row 0 gets no gradient, as padding in some libraries; here 0 is a token like any other.",
        "Which row of dw is zero although its id occurs?",
        "convention",
    ),
    Mistake(
        "last_text_only",
        _ADD,
        "add_at(dw, ids.reshape(-1, ids.shape[-1])[-1], rows[-ids.shape[-1] :])",
        "only the last text of the batch is counted: the others were overwritten.",
        "Look for = in place of += in a loop over the batch.",
    ),
    Mistake(
        "neighbour_row",
        _ADD,
        "add_at(dw, ids.reshape(-1) - 1, rows)",
        "the gradient goes to the row before that of the id.",
        "Give one id alone: which row of dw is not zero?",
    ),
    Mistake(
        "scaled_by_root",
        _ADD,
        "add_at(dw, ids.reshape(-1), rows * D**0.5)",
        "dw is multiplied by sqrt(D), but the forward pass has no such factor.",
        "All numbers are off by one factor: what is its square?",
    ),
    Mistake(
        "dy_ignored",
        _ADD,
        "add_at(dw, ids.reshape(-1), 0 * rows + 1)",
        "the incoming gradient is not used: each row counts how often its id occurs.",
        "Double dy: dw must double.",
    ),
)

SPEC = Spec(
    name="embedding",
    module="minqwen.layers.embedding",
    arguments=("ids", "w"),
    axes={"ids": "B T", "w": "V D", "y": "... D"},
    run=run,
    pull=pull,
    probes=PROBES,
    forward=FORWARD,
    backward=BACKWARD,
    notes="ids are whole numbers of any shape; y has that shape and the width of w.",
)

"""RoPE in bfloat16: which part of the table is rounded, and what that breaks far away.

    nothing        float32 throughout
    tables         cos and sin rounded: an error of 0.2 % at most, wherever the token is
    frequencies    theta_i rounded, the rest in float32: what happens when a whole model is cast
    positions      p rounded: at 30,000 only every 128th number exists
    angles         p * theta_i rounded: the two errors above in one

A frequency that is off by the share e turns the angle of a distance d by d * theta_i * e: nothing
nearby, many turns far away. A shift of all positions changes nothing, as only differences enter;
so the position itself is harmless and the distance is not. Rounded positions and angles are worse:
neighbours fall together, wherever both are far from 0.

The test is a model that has to look back over one exact distance d:

    position   0 .. n-1      d .. d+n-1
    token      n at random   n times "?"
    label      none          the token at position - d

Nothing but the position says which token is meant. A model of one layer learns it with the exact
table, and is then run with the others. Positions are given, so that the row is short at any d.

Paper:    Qwen Technical Report, 2.3.1 Architecture, "Positional embedding".
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..backend import Array
from ..layers.cross_entropy import IGNORED, cross_entropy_backward, cross_entropy_forward
from ..layers.dropout import dropout_forward
from ..layers.embedding import embedding_forward
from ..layers.linear import linear_forward
from ..layers.rmsnorm import rmsnorm_forward
from ..layers.rope import rope_inv_freq
from ..model.backbone import EMBEDDING, NORM
from ..model.config import QwenConfig
from ..model.decoder_block import decoder_block_forward
from ..model.init import init_params
from ..model.language_model import HEAD, LanguageModelCache, language_model_backward
from ..model.layer_plan import PositionTables
from ..params import Params, scopes
from ..training.adamw import adamw_init, adamw_step
from ..training.lr_schedule import cosine_lr
from ..training.mixed_precision import round_to_bfloat16

ROUNDED = ("nothing", "tables", "frequencies", "positions", "angles")
TRAINED = ("frequencies", "angles")  # that the model far back may also be trained with
FAR = 30_000
DISTANCES = (100, 1000, 4000, FAR)
SYMBOLS = 64  # of the task; 0 is "?"
HEAD_DIM = 128  # of the angles in the report's models
TEST_ROWS = 64


def rounded_tables(
    positions: Array, head_dim: int, base: float = 10_000.0, rounded: str = "nothing"
) -> PositionTables:
    """Return cos and sin with one part of them rounded to bfloat16.

    Args:
        positions: (T,) int.
        head_dim: Dh.
        base: of the frequencies.
        rounded: one of ROUNDED.

    Raises:
        ValueError: rounded is none of them.

    >>> neighbours = rounded_tables(np.array([30_001, 30_002]), 4, rounded="positions").cos
    >>> bool((neighbours[0] == neighbours[1]).all())
    True
    """
    if rounded not in ROUNDED:
        raise ValueError(f"rounded must be one of {', '.join(ROUNDED)}, got {rounded!r}")
    freq, p = rope_inv_freq(head_dim, base), positions.astype(np.float32)[:, None]
    freq = round_to_bfloat16(freq) if rounded == "frequencies" else freq
    p = round_to_bfloat16(p) if rounded == "positions" else p
    angles = p * freq  # (T, Dh/2)
    angles = round_to_bfloat16(angles) if rounded == "angles" else angles
    cos, sin = (np.concatenate((x, x), axis=-1) for x in (np.cos(angles), np.sin(angles)))
    if rounded == "tables":
        cos, sin = round_to_bfloat16(cos), round_to_bfloat16(sin)
    return PositionTables(cos, sin)


def forward_with(
    params: Params, config: QwenConfig, ids: Array, tables: PositionTables
) -> tuple[Array, LanguageModelCache]:
    """Compute what language_model_forward does, with these tables in place of its own.

    Args:
        params: of the model.
        config: of a dense model.
        ids: (B, T) int.
        tables: of rounded_tables.

    Returns:
        logits: (B, T, V).
        cache: for language_model_backward.
    """
    x, embedding = embedding_forward(ids, params[EMBEDDING])
    x, dropout = dropout_forward(x, 0.0)
    blocks = []
    for layer in scopes(params, "model.layers", config.num_hidden_layers):
        x, block = decoder_block_forward(x, layer, config, tables)
        blocks.append(block)
    hidden, norm = rmsnorm_forward(x, params[NORM], config.rms_norm_eps)
    tied = config.tie_word_embeddings
    logits, head = linear_forward(hidden, params[EMBEDDING if tied else HEAD])
    return logits, LanguageModelCache(embedding, dropout, blocks, norm, head, tied)


def text_at(
    params: Params, config: QwenConfig, rows: Array, first_position: int, rounded: str
) -> float:
    """Return the loss on rows (n, T + 1) whose first token stands at first_position."""
    positions = first_position + np.arange(rows.shape[1] - 1)
    tables = rounded_tables(positions, config.head_dim, config.rope_theta, rounded)
    logits, _ = forward_with(params, config, rows[:, :-1], tables)
    return float(cross_entropy_forward(logits, rows[:, 1:])[0])


def task(rows: int, tokens: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw tokens to be brought back.

    Returns:
        ids: (rows, 2 * tokens) int: tokens at random, then "?".
        labels: the same shape: nothing, then the tokens.

    >>> ids, labels = task(1, 2, np.random.default_rng(0))
    >>> bool((ids[:, :2] == labels[:, 2:]).all()), ids[:, 2:], labels[:, :2]
    (True, array([[0, 0]]), array([[-100, -100]]))
    """
    drawn = rng.integers(1, SYMBOLS, (rows, tokens))
    ids = np.concatenate((drawn, np.zeros_like(drawn)), axis=1)
    return ids, np.concatenate((np.full_like(drawn, IGNORED), drawn), axis=1)


def train_far(
    distance: int, steps: int, tokens: int, seed: int, rounded: str
) -> tuple[Params, QwenConfig]:
    """Train a model of one layer to look back over a distance."""
    config = QwenConfig(
        vocab_size=SYMBOLS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2 * FAR,
        tie_word_embeddings=False,
    )
    rng = np.random.default_rng([31, seed])
    params = init_params(config, rng)
    state, tables = adamw_init(params), far_tables(distance, tokens, config, rounded)
    for step in range(steps):
        ids, labels = task(16, tokens, rng)
        logits, cache = forward_with(params, config, ids, tables)
        _, loss_cache = cross_entropy_forward(logits, labels)
        grads = language_model_backward(cross_entropy_backward(1.0, loss_cache), cache)
        lr = cosine_lr(step, peak_lr=5e-3, min_lr=5e-4, warmup_steps=steps // 10, total_steps=steps)
        adamw_step(params, grads, state, lr=lr)
    return params, config


def far_tables(distance: int, tokens: int, config: QwenConfig, rounded: str) -> PositionTables:
    """Return the tables of the task."""
    near = np.arange(tokens)
    positions = np.concatenate((near, distance + near))
    return rounded_tables(positions, config.head_dim, config.rope_theta, rounded)


def share_right(
    params: Params, config: QwenConfig, distance: int, tokens: int, rounded: str
) -> float:
    """Return the share of tokens brought back, in rows that no seed was trained on."""
    ids, labels = task(TEST_ROWS, tokens, np.random.default_rng([32]))
    logits, _ = forward_with(params, config, ids, far_tables(distance, tokens, config, rounded))
    asked = labels != IGNORED
    return float((logits.argmax(axis=-1) == labels)[asked].mean())


def look_back(distance: int, steps: int, tokens: int, seed: int) -> dict[str, Any]:
    """Train on one distance and measure.

    Returns:
        right: share of tokens brought back, by what of the table is rounded afterwards.
        trained: the same at FAR, where the model was trained with that rounding; else empty.
        seconds: all of it.
    """
    start = time.perf_counter()
    model = train_far(distance, steps, tokens, seed, "nothing")
    right = {what: share_right(*model, distance, tokens, what) for what in ROUNDED}
    trained = {}
    for what in TRAINED if distance == FAR else ():
        own = train_far(distance, steps, tokens, seed, what)
        trained[what] = share_right(*own, distance, tokens, what)
    return {"right": right, "trained": trained, "seconds": time.perf_counter() - start}


def score_left(distance: int, rounded: str, base: float = 10_000.0) -> float:
    """Return what is left of the score of a query that looks exactly `distance` tokens back.

    Query and key are of one length in every pair, and turned so that with exact angles all
    Dh/2 = 64 pairs agree: 1. With rounded ones, pair i is off by some angle and adds its cosine.

    >>> score_left(30_000, "nothing"), round(score_left(1, "frequencies"), 4)
    (1.0, 1.0)
    """
    return float(np.cos(angle_errors(distance, rounded, base)).mean())


def angle_errors(distance: int, rounded: str, base: float = 10_000.0) -> Array:
    """Return by how many radians each pair is off at a distance: (Dh/2,) float64.

    The key is at position 0, where every table is exact. "nothing" is exact, too, as the errors of
    float32 are no subject here.
    """
    freq = rope_inv_freq(HEAD_DIM, base, "float64")
    exact, angles = distance * freq, distance * freq
    if rounded == "frequencies":
        angles = distance * round_to_bfloat16(freq.astype(np.float32)).astype(np.float64)
    elif rounded == "positions":
        angles = float(round_to_bfloat16(np.full(1, distance, np.float32))[0]) * freq
    elif rounded == "angles":
        angles = round_to_bfloat16(exact.astype(np.float32)).astype(np.float64)
    errors: Array = angles - exact
    return errors


def neighbours_apart(position: int, rounded: str, base: float = 10_000.0) -> float:
    """Return the share of pairs whose table differs between a position and the next one.

    >>> neighbours_apart(30_000, "nothing"), neighbours_apart(30_000, "positions")
    (1.0, 0.0)
    """
    tables = rounded_tables(np.array([position, position + 1]), HEAD_DIM, base, rounded)
    differ = (tables.cos[0] != tables.cos[1]) | (tables.sin[0] != tables.sin[1])
    return float(differ.mean())

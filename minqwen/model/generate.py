"""Writing text: score the next token, choose it, append it, and again.

The prompt goes through the model once and fills the KV cache; after that every step runs the
model on the one new token of each row (decode_step.py, or the plain pass where that is not
enough). Rows of different length are padded on the left, so that
the next token of every row comes at the same place; a row that has written a stop token is
finished, and gets stop tokens until all rows are.

Paper:    neither report describes it; decoding by sampling is Qwen Technical Report, 3.2.2.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backend import Array, to_numpy
from ..params import Params
from ..shapes import require_axes, require_bool, require_ids, require_shape
from .backbone import EMBEDDING
from .config import QwenConfig, check_params
from .decode_step import decode_step, decode_weights
from .kv_cache import KVCache
from .language_model import language_model_forward
from .sampling import check_sampling, sample


def generate(
    params: Params,
    config: QwenConfig,
    input_ids: Array,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    eos_token_ids: Sequence[int] = (),
    rng: np.random.Generator | None = None,
    attention_mask: Array | None = None,
    stream: bool = False,
) -> Any:  # an Array, or an Iterator of Arrays with stream=True
    """Continue every row of input_ids.

    Args:
        params: the model, on any device.
        config: its sizes.
        input_ids: (B, T) int. Rows of different length: pad on the left, see left_pad.
        max_new_tokens: the most tokens to add to a row.
        temperature: 0 always takes the best token.
        top_k: choose among this many best tokens only; 0 = all.
        top_p: choose among the best tokens that together reach this probability; 1 = all.
        eos_token_ids: tokens that end a row. The one that ended it stays; after it the row is
            filled with the first of these.
        rng: np.random.Generator, needed when temperature > 0.
        attention_mask: (B, T) bool, False = padding. Every row must end with a real token.
        stream: return an iterator that gives the (B,) new tokens after every step.

    Returns:
        (B, T + n) int64 ids on the host, n <= max_new_tokens: it stops early when every row is
        finished. With stream=True, an iterator of (B,) int64.

    Raises:
        ValueError: a shape or an option is wrong, or a row ends with padding.
    """
    require_axes("input_ids", input_ids, "B T")
    if not isinstance(max_new_tokens, (int, np.integer)) or max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be 0 or a whole number above, got {max_new_tokens}")
    check_sampling(temperature, top_k, top_p, rng)
    if isinstance(eos_token_ids, (int, np.integer)):
        eos_token_ids = (int(eos_token_ids),)
    for token in eos_token_ids:
        if not 0 <= token < config.vocab_size:
            raise ValueError(f"eos_token_ids must be in [0, V={config.vocab_size}), got {token}")
    prompt = to_numpy(input_ids)
    require_ids("input_ids", prompt, config.vocab_size, "V")
    if prompt.shape[1] == 0:
        raise ValueError(f"input_ids must hold at least one token a row, got {prompt.shape}")
    check_params(params, config)
    prompt = prompt.astype(np.int64)
    if attention_mask is not None:
        attention_mask = to_numpy(attention_mask)
        require_bool("attention_mask", attention_mask, "True = real token")
        require_shape("attention_mask", attention_mask, B=prompt.shape[0], T=prompt.shape[1])
        if not attention_mask[:, -1].all():
            raise ValueError(
                "attention_mask: every row must end with a real token; pad on the left"
            )
        if attention_mask.all():
            attention_mask = None
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "rng": rng}
    steps = _steps(
        params, config, prompt, attention_mask, max_new_tokens, tuple(eos_token_ids), options
    )
    if stream:
        return steps
    return np.concatenate([prompt, *(new[:, None] for new in steps)], axis=1)


def _steps(
    params: Params,
    config: QwenConfig,
    prompt: Array,
    attention_mask: Array | None,
    max_new_tokens: int,
    eos_token_ids: tuple[int, ...],
    options: dict[str, Any],
) -> Iterator[Array]:
    """Yield the (B,) new tokens of every step."""
    B, T = prompt.shape
    kv_cache = KVCache(config, B, T + max_new_tokens, like=params[EMBEDDING])
    weights = decode_weights(params, config, T + max_new_tokens) if max_new_tokens > 1 else None
    finished = np.zeros(B, dtype=bool)
    ids, mask = prompt, attention_mask
    for _ in range(max_new_tokens):
        # a profiler may be trace(), which is to see every intermediate: the plain pass has them
        if weights is not None and kv_cache.length and sys.getprofile() is None:
            logits = decode_step(weights, ids[:, 0], kv_cache)  # (B, V)
        else:
            all_logits, _ = language_model_forward(
                params, config, ids, attention_mask=mask, kv_cache=kv_cache, last_only=True
            )
            logits = all_logits[:, -1]
        new = sample(logits, **options).astype(np.int64)
        if eos_token_ids:
            new[finished] = eos_token_ids[0]
            finished |= np.isin(new, eos_token_ids)
        yield new.copy()  # ours goes into the model next
        if finished.all():
            return
        ids, mask = new[:, None], None  # the cache remembers which tokens are padding


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Array, Array]:
    """Make rows of ids equally long by padding in front.

    Args:
        rows: B lists of at least one id.
        pad_id: any id of the vocabulary: the mask keeps it from being read.

    Returns:
        input_ids: (B, T) int64 with T the longest row.
        attention_mask: (B, T) bool, False = padding.

    >>> left_pad([[1, 2, 3], [4]], pad_id=0)[0]
    array([[1, 2, 3],
           [0, 0, 4]])
    """
    if not rows or not all(len(row) for row in rows):
        raise ValueError("rows must be at least one list of at least one id")
    T = max(len(row) for row in rows)
    input_ids = np.full((len(rows), T), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), T), dtype=bool)
    for i, row in enumerate(rows):
        input_ids[i, T - len(row) :] = row
        attention_mask[i, T - len(row) :] = True
    return input_ids, attention_mask

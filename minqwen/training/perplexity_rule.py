"""Perplexity of a document: how surprised a small model of ours is by it, and a rule on that.

    nats           = sum over its scored tokens of -log p(token | what stands before it)
    perplexity     = exp(nats / scored tokens)
    bits per byte  = nats / log 2 / bytes of the document in UTF-8

A model trained on good text finds text of that kind likely, and garbage unlikely; what it finds far
too likely repeats itself. Perplexity is per token, so it compares documents under one tokenizer and
in one language only. Bits per byte do not depend on how a tokenizer cuts: with 3 bytes in a Chinese
character and 1 in a letter they compare languages and tokenizers better.

    separator S given     S t1 t2 t3 ...    every token is scored; S is what a document follows in
                                            pack_documents
    none                  t1 t2 t3 ...      t1 has nothing before it and is not scored: bits per
                                            byte are a little too low, and one token has no score

The end of a document is not scored. A document of more tokens than the context is cut into chunks,
as in pack_documents: the last token of a chunk is the first input of the next, so each token is
scored once, and at a cut little stands before it. Chunks of about the same length are read
together, padded on the right, where no real token sees it; what is read together changes no score.

Paper:    Qwen Technical Report, 2.1 Data: quality is scored by language models, among others.
Origin:   Wenzek et al. 2019 (CCNet), arXiv:1911.00359, LM filtering: in each language the
          perplexity of a 5-gram model splits the documents into thirds: head, middle and tail.
Differs:  a Transformer instead of 5-grams. CCNet's thirds are np.quantile(perplexity, [1/3, 2/3])
          of a sample; take a rule per language, see data/language.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from ..backend import Array, array_module, to_numpy
from ..data.quality_rules import Rule
from ..data.text_units import DividedText
from ..layers.cross_entropy import IGNORED, cross_entropy_forward
from ..model.config import QwenConfig
from ..model.language_model import language_model_forward
from ..params import Params

Encode: TypeAlias = Callable[[str], Sequence[int] | Array]


class DocumentPerplexity(NamedTuple):
    nats: Array  # (N,) float64, sum of -log p over the scored tokens
    tokens: Array  # (N,) int64, how many were scored
    bytes: Array  # (N,) int64, of the document in UTF-8

    @property
    def perplexity(self) -> Array:
        """Per token, (N,) float64; NaN where none was scored."""
        with np.errstate(over="ignore"):  # a hopeless document is at infinity
            perplexity: Array = np.exp(_ratio(self.nats, self.tokens))
        return perplexity

    @property
    def bits_per_byte(self) -> Array:
        """(N,) float64; NaN where no token was scored."""
        return _ratio(self.nats, np.where(self.tokens > 0, self.bytes, 0)) / math.log(2)


def document_perplexity(
    params: Params,
    config: QwenConfig,
    encode: Encode,
    texts: Sequence[str],
    *,
    context_length: int,
    separator_id: int | None = None,
    batch_tokens: int = 4096,
) -> DocumentPerplexity:
    """Score documents; the result does not depend on which are scored together.

    Args:
        params: of the model.
        config: of the model; there is no dropout.
        encode: text to ids, such as partial(tokenizer.encode, disallowed_special=()).
        texts: N documents.
        context_length: T, tokens that the model reads at once; that of its training.
        separator_id: stands before each document; None: nothing does. See above.
        batch_tokens: in one forward pass, padding included, but a chunk at least: bounds memory.

    Returns:
        The sums, from which `.perplexity` and `.bits_per_byte` come.

    Raises:
        TypeError: texts is one text.
        ValueError: a number is not positive, or an id is not below V.
        FloatingPointError: a score is NaN or infinite.

    >>> from minqwen.model.config import param_shapes
    >>> heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    >>> config = QwenConfig(4, hidden_size=2, intermediate_size=2, num_hidden_layers=1, **heads)
    >>> params = {name: np.zeros(shape) for name, shape in param_shapes(config).items()}
    >>> encode = {"abc": [0, 1, 2]}.get  # all of 4 tokens are as likely as each other
    >>> found = document_perplexity(params, config, encode, ["abc"], context_length=8)
    >>> found.tokens, found.perplexity.round(6)
    (array([2]), array([4.]))
    """
    if isinstance(texts, str):
        raise TypeError("texts must be several texts, got one")
    if context_length < 1 or batch_tokens < 1:
        raise ValueError(
            f"context_length and batch_tokens must be positive, got {context_length} and "
            f"{batch_tokens}"
        )
    first = [] if separator_id is None else [separator_id]
    documents = [np.array([*first, *encode(text)], np.int64) for text in texts]
    nats = np.zeros(len(texts))
    for owners, inputs, labels in _batches(documents, context_length, batch_tokens):
        np.add.at(nats, owners, _row_nats(params, config, inputs, labels))
    if not np.isfinite(nats).all():
        i = int(np.flatnonzero(~np.isfinite(nats))[0])
        raise FloatingPointError(f"the score of document {i} is {nats[i]}")
    tokens = np.array([max(0, len(ids) - 1) for ids in documents], np.int64)
    sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts], np.int64)
    return DocumentPerplexity(nats, tokens, sizes)


def perplexity_rule(
    score: Callable[[list[str]], DocumentPerplexity],
    *,
    low: float = 0.0,
    high: float = math.inf,
    unit: Literal["perplexity", "bits per byte"] = "perplexity",
) -> Rule:
    """Make a rule for `judge` of quality_rules: neither too likely nor too unlikely.

    A document without a scored token cannot be asked, and passes. One document is scored at a
    time; for many short ones document_perplexity itself is faster.

    Args:
        score: partial(document_perplexity, params, config, encode, context_length=...), say.
        low: documents pass from here; what is more likely repeats itself, or was trained on.
        high: to here.
        unit: of low and high.

    Raises:
        ValueError: unit is another, or low is above high.

    >>> from minqwen.data.quality_rules import judge
    >>> likely = DocumentPerplexity(np.zeros(1), np.ones(1), np.ones(1))
    >>> rule = perplexity_rule(lambda texts: likely, low=2)
    >>> judge("a", [rule]).failures[0].reason
    'perplexity: 1, wanted at least 2 (language model)'
    """
    if unit not in ("perplexity", "bits per byte"):
        raise ValueError(f'unit must be "perplexity" or "bits per byte", got {unit!r}')
    if not low <= high:
        raise ValueError(f"low must not be above high, got {low} and {high}")
    return Rule(unit, partial(_measure, score, unit), low, high, "language model")


def _measure(
    score: Callable[[list[str]], DocumentPerplexity], unit: str, text: DividedText
) -> float | None:
    scores = score([text.text])
    found = scores.perplexity if unit == "perplexity" else scores.bits_per_byte
    return float(found[0]) if scores.tokens[0] else None


def _batches(
    documents: list[Array], context_length: int, batch_tokens: int
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield the documents of some chunks (B,), their inputs (B, T) and their labels (B, T)."""
    chunks = [
        (i, ids[start : start + context_length + 1])
        for i, ids in enumerate(documents)
        for start in range(0, len(ids) - 1, context_length)
    ]
    chunks.sort(key=lambda chunk: -len(chunk[1]))
    start = 0
    while start < len(chunks):
        width = len(chunks[start][1]) - 1  # of the longest that is left
        batch = chunks[start : start + max(1, batch_tokens // width)]
        start += len(batch)
        inputs = np.zeros((len(batch), width), np.int64)
        labels = np.full((len(batch), width), IGNORED)
        for row, (_, ids) in enumerate(batch):
            inputs[row, : len(ids) - 1], labels[row, : len(ids) - 1] = ids[:-1], ids[1:]
        yield np.array([i for i, _ in batch]), inputs, labels


def _row_nats(params: Params, config: QwenConfig, inputs: Array, labels: Array) -> Array:
    """Return the sum of -log p of the labels of each row, (B,) float64 on the host."""
    real = labels != IGNORED  # as an input is real where it has a label
    logits, _ = language_model_forward(params, config, inputs, attention_mask=real)
    xp = array_module(logits)
    _, cache = cross_entropy_forward(logits, labels)
    z_label = cache.logits[xp.arange(cache.labels.size), cache.labels]
    nats = xp.where(cache.counted > 0, cache.lse - z_label, 0).astype(np.float64)
    sums: Array = nats.reshape(labels.shape).sum(axis=1)
    return to_numpy(sums)


def _ratio(above: Array, below: Array) -> Array:
    ratio: Array = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return ratio

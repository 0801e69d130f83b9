"""Mixture: one endless stream of documents from several sources, each with its share.

    p_i = boost_i * n_i^(1 / temperature) / sum      over the sources of text; n_i tokens or weights
    share_i = (1 - sum of the fixed shares) * p_i    instructions and the like have fixed shares

Temperature 1 keeps the shares that the sources have, a higher one lifts the small ones, and for an
infinite one all are equal. A boost up-samples a source that is better than the others.

The stream is cut into blocks. Every block holds source i exactly m_i times, m_i = share_i * block
rounded, in an order drawn for that block. So what was taken before any position is known without
going there,

    taken_i = (position // block) * m_i + how often i stands in the begun block

and the stream is a pure function of seed and position: a resumed run starts where the other
stopped. Draw k of a source is document k of its epochs one after another, each epoch in an order
of its own: every document comes once before any comes twice.

Paper:    Qwen Technical Report, 2.1 Data: sources of high quality are up-sampled; instruction data
          is mixed into pretraining. Qwen2 Technical Report: mixture tuned on small models.
Origin:   temperature: Devlin 2018 (multilingual BERT), Conneau and Lample 2019, arXiv:1901.07291.
Differs:  Qwen's shares are not published. A share is met to within 1 / block. The order of an epoch
          is held in memory, 8 bytes per document of the sources.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ..backend import Array


class Mixture(NamedTuple):
    documents: dict[
        str, int
    ]  # how many each source has; the order of the sources is the order here
    per_block: dict[str, int]  # how often each source stands in every block, at least once
    block: int  # positions of a block
    seed: int


class Draw(NamedTuple):
    source: str
    document: int  # its number in the source, from 0
    epoch: int  # how often it was taken before


def mixture_shares(
    sizes: Mapping[str, float],
    *,
    temperature: float = 1.0,
    boosts: Mapping[str, float] | None = None,
    fixed: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the share of each source; they sum to 1.

    Args:
        sizes: tokens of each source, or weights of your own (with temperature 1 they are kept).
        temperature: 1 or more evens out the sizes; below 1 large sources win.
        boosts: factors of selected sources; those not named have 1.
        fixed: shares of the whole for sources that are not in sizes, such as instructions.

    Raises:
        ValueError: a number is out of range, or a name is unknown or comes twice.

    >>> mixture_shares({"web": 900, "books": 100}, temperature=2)
    {'web': 0.75, 'books': 0.25}
    >>> mixture_shares({"web": 1, "books": 1}, boosts={"books": 3}, fixed={"instructions": 0.5})
    {'web': 0.125, 'books': 0.375, 'instructions': 0.5}
    """
    boosts, fixed = boosts or {}, fixed or {}
    for name, numbers in (("sizes", sizes), ("boosts", boosts), ("fixed", fixed)):
        _require_positive(name, numbers)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if unknown := set(boosts) - set(sizes):
        raise ValueError(f"boosts names {sorted(unknown)}, which sizes lacks")
    if both := set(fixed) & set(sizes):
        raise ValueError(f"fixed and sizes both name {sorted(both)}")
    rest = 1.0 - math.fsum(fixed.values())
    if sizes and not 0 < rest <= 1:
        raise ValueError(f"fixed must leave a share for sizes, it sums to {1 - rest:.6g}")
    if not sizes and abs(rest) > 1e-9:
        raise ValueError(f"fixed must sum to 1 where sizes is empty, it sums to {1 - rest:.6g}")
    largest = max(sizes.values(), default=1.0)  # divided by, so that a low temperature is safe
    weights = {s: boosts.get(s, 1.0) * (n / largest) ** (1 / temperature) for s, n in sizes.items()}
    total = math.fsum(weights.values())
    return {source: rest * weight / total for source, weight in weights.items()} | dict(fixed)


def document_shares(
    token_shares: Mapping[str, float], mean_tokens: Mapping[str, float]
) -> dict[str, float]:
    """Turn shares of tokens into shares of draws: a source of long documents is drawn less often.

    Args:
        token_shares: of `mixture_shares`.
        mean_tokens: tokens of a document of each source, on average.

    Raises:
        ValueError: the names differ, or a number is not positive.

    >>> shares = document_shares({"books": 0.5, "web": 0.5}, {"books": 900, "web": 100})
    >>> {source: round(share, 6) for source, share in shares.items()}
    {'books': 0.1, 'web': 0.9}
    """
    _require_same_names("mean_tokens", mean_tokens, "token_shares", token_shares)
    _require_positive("token_shares", token_shares)
    _require_positive("mean_tokens", mean_tokens)
    draws = {source: share / mean_tokens[source] for source, share in token_shares.items()}
    return {source: n / math.fsum(draws.values()) for source, n in draws.items()}


def make_mixture(
    documents: Mapping[str, int], shares: Mapping[str, float], seed: int, block: int = 10_000
) -> Mixture:
    """Fix how often each source stands in a block: the largest rests are rounded up.

    Args:
        documents: how many documents each source has.
        shares: of the draws, for the same sources; they sum to 1.
        seed: of all orders, not negative.
        block: positions of a block. A smaller one keeps the shares also in short runs, a larger
            one meets them more exactly.

    Raises:
        ValueError: the names differ, a number is out of range, or a source has no place in a block.

    >>> shares = {"web": 0.75, "books": 0.25}
    >>> make_mixture({"web": 9, "books": 3}, shares, seed=0, block=4).per_block
    {'web': 3, 'books': 1}
    """
    _require_same_names("shares", shares, "documents", documents)
    _require_positive("documents", documents)
    _require_positive("shares", shares)
    if block < 1 or seed < 0:
        raise ValueError(f"need block >= 1 and seed >= 0, got {block} and {seed}")
    total = math.fsum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"shares must sum to 1, got {total:.6g}")
    exact = {source: shares[source] / total * block for source in documents}
    per_block = {source: math.floor(n + 1e-9) for source, n in exact.items()}
    by_rest = sorted(exact, key=lambda source: per_block[source] - exact[source])
    for source in by_rest[: block - sum(per_block.values())]:
        per_block[source] += 1
    if absent := [source for source, m in per_block.items() if not m]:
        raise ValueError(f"{absent} have no place in a block of {block}: take a larger block")
    return Mixture({source: int(n) for source, n in documents.items()}, per_block, block, seed)


def draw_documents(mixture: Mixture, start: int = 0) -> Iterator[Draw]:
    """Yield the draws from a position on, without end.

    Args:
        mixture: of `make_mixture`.
        start: position of the first; a run that has taken n documents goes on at n.

    Raises:
        ValueError: start is negative.

    >>> mixture = make_mixture({"a": 2, "b": 2}, {"a": 0.5, "b": 0.5}, seed=0, block=4)
    >>> draws = draw_documents(mixture)
    >>> sorted(next(draws) for _ in range(4))
    ... # doctest: +NORMALIZE_WHITESPACE
    [Draw(source='a', document=0, epoch=0), Draw(source='a', document=1, epoch=0),
     Draw(source='b', document=0, epoch=0), Draw(source='b', document=1, epoch=0)]
    """
    if start < 0:
        raise ValueError(f"start must not be negative, got {start}")
    return _draws(mixture, start)


def taken_documents(mixture: Mixture, position: int) -> dict[str, int]:
    """Return how many documents of each source stand before a position.

    More than documents[source] means that the source has begun to repeat.

    Raises:
        ValueError: position is negative.

    >>> mixture = make_mixture({"a": 2, "b": 2}, {"a": 0.75, "b": 0.25}, seed=0, block=4)
    >>> taken_documents(mixture, 8)
    {'a': 6, 'b': 2}
    """
    if position < 0:
        raise ValueError(f"position must not be negative, got {position}")
    number, place = divmod(position, mixture.block)
    begun = np.bincount(_block_sources(mixture, number)[:place], minlength=len(mixture.documents))
    return {
        source: number * m + int(n)
        for (source, m), n in zip(mixture.per_block.items(), begun, strict=True)
    }


def _draws(mixture: Mixture, start: int) -> Iterator[Draw]:
    number, place = divmod(start, mixture.block)
    orders: dict[str, tuple[int, Array]] = {}  # source -> the epoch it is in, and that one's order
    while True:
        sources = _block_sources(mixture, number)
        names = list(mixture.documents)
        # The n-th time that a source stands in the block, for every position of the block:
        nth = np.empty(mixture.block, np.int64)
        for i in range(len(names)):
            here = sources == i
            nth[here] = np.arange(np.count_nonzero(here))
        for i, n in zip(sources[place:].tolist(), nth[place:].tolist(), strict=True):
            source = names[i]
            taken = number * mixture.per_block[source] + n
            epoch, k = divmod(taken, mixture.documents[source])
            if source not in orders or orders[source][0] != epoch:
                orders[source] = epoch, _epoch_order(mixture, source, epoch)
            yield Draw(source, int(orders[source][1][k]), epoch)
        number, place = number + 1, 0


def _block_sources(mixture: Mixture, number: int) -> Array:
    """Return the number of the source at each position of a block, (block,) int64."""
    sources = np.repeat(np.arange(len(mixture.per_block)), list(mixture.per_block.values()))
    order: Array = np.random.default_rng([0x4D49, mixture.seed, number]).permutation(sources)
    return order


def _epoch_order(mixture: Mixture, source: str, epoch: int) -> Array:
    """Draw the order of an epoch by the source's name: another source added does not change it."""
    name = zlib.crc32(source.encode())
    rng = np.random.default_rng([0x4D4A, mixture.seed, name, epoch])
    order: Array = rng.permutation(mixture.documents[source])
    return order


def _require_positive(name: str, numbers: Mapping[str, float]) -> None:
    for source, number in numbers.items():
        if not (number > 0 and math.isfinite(number)):
            raise ValueError(f"{name}[{source!r}] must be positive, got {number}")


def _require_same_names(
    name: str, numbers: Mapping[str, float], other: str, others: Mapping[str, float]
) -> None:
    if not others or set(numbers) != set(others):
        raise ValueError(
            f"{name} must name the sources of {other}, {sorted(others)}, got {sorted(numbers)}"
        )

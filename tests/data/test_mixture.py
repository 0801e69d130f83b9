"""Mixtures: exact shares, each document once before any twice, resume at any position."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from minqwen.data.mixture import (
    document_shares,
    draw_documents,
    make_mixture,
    mixture_shares,
    taken_documents,
)

DOCUMENTS = {"web": 50, "books": 7, "instructions": 3}
SHARES = {"web": 0.6, "books": 0.3, "instructions": 0.1}


def mixture(seed=0, block=20):
    return make_mixture(DOCUMENTS, SHARES, seed, block)


def test_shares_by_hand():
    sizes = {"a": 16, "b": 1}
    assert mixture_shares(sizes) == pytest.approx({"a": 16 / 17, "b": 1 / 17})
    assert mixture_shares(sizes, temperature=2) == pytest.approx({"a": 0.8, "b": 0.2})
    assert mixture_shares(sizes, temperature=4) == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert mixture_shares(sizes, temperature=0.5) == pytest.approx({"a": 256 / 257, "b": 1 / 257})
    assert mixture_shares(sizes, temperature=np.inf) == {"a": 0.5, "b": 0.5}
    # the boost multiplies after the temperature: before it, b would have 4^(1/2) = 2 of 6
    assert mixture_shares(sizes, temperature=2, boosts={"b": 4}) == {"a": 0.5, "b": 0.5}
    shares = mixture_shares(sizes, temperature=2, fixed={"c": 0.1, "d": 0.4})
    assert shares == pytest.approx({"a": 0.4, "b": 0.1, "c": 0.1, "d": 0.4})
    assert mixture_shares({"a": 1e15, "b": 1}, temperature=0.01)["a"] == 1  # no overflow


def test_shares_of_draws_give_the_shares_of_tokens():
    tokens = {"a": 0.3, "b": 0.7}
    draws = document_shares(tokens, {"a": 10, "b": 400})
    read = {"a": draws["a"] * 10, "b": draws["b"] * 400}
    assert read["a"] / sum(read.values()) == pytest.approx(0.3)
    assert sum(draws.values()) == pytest.approx(1)


def test_every_block_has_the_shares_exactly():
    draws = list(islice(draw_documents(mixture()), 200))
    for start in range(0, 200, 20):
        counts = Counter(draw.source for draw in draws[start : start + 20])
        assert counts == {"web": 12, "books": 6, "instructions": 2}
    orders = {tuple(d.source for d in draws[i : i + 20]) for i in range(0, 200, 20)}
    assert len(orders) == 10  # no block is in the order of another


def test_rounding_gives_the_largest_rests_one_more():
    thirds = make_mixture({"a": 1, "b": 1, "c": 1}, {"a": 0.25, "b": 0.35, "c": 0.4}, 0, block=10)
    assert thirds.per_block == {"a": 3, "b": 3, "c": 4}  # 2.5, 3.5, 4: the first of equal rests
    odd = make_mixture({"a": 1, "b": 1, "c": 1}, {"a": 0.29, "b": 0.34, "c": 0.37}, 0, block=10)
    assert odd.per_block == {"a": 3, "b": 3, "c": 4}
    tenths = {f"s{i}": 0.1 for i in range(10)}  # 0.1 * 30 is not 3 in binary
    assert set(make_mixture(dict.fromkeys(tenths, 1), tenths, 0, 30).per_block.values()) == {3}


def test_every_document_once_before_any_twice():
    seen = {source: [] for source in DOCUMENTS}
    for draw in islice(draw_documents(mixture()), 400):
        assert draw.epoch == len(seen[draw.source]) // DOCUMENTS[draw.source]
        seen[draw.source].append(draw.document)
    for source, numbers in seen.items():
        n = DOCUMENTS[source]
        epochs = [numbers[i : i + n] for i in range(0, len(numbers) - n + 1, n)]
        assert len(epochs) >= 4
        assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert seen["web"][:50] != seen["web"][50:100]  # each epoch in an order of its own


@pytest.mark.parametrize("position", [0, 1, 19, 20, 21, 137])
def test_resume_gives_the_same_stream_and_counts(position):
    whole = list(islice(draw_documents(mixture()), position + 60))
    assert list(islice(draw_documents(mixture(), position), 60)) == whole[position:]
    counts = Counter(draw.source for draw in whole[:position])
    assert taken_documents(mixture(), position) == {s: counts[s] for s in DOCUMENTS}


def test_far_positions_cost_nothing_and_are_consistent():
    far = 10**12 + 7
    draws = list(islice(draw_documents(mixture(), far), 30))
    assert list(islice(draw_documents(mixture(), far + 13), 17)) == draws[13:]
    taken = taken_documents(mixture(), far)
    assert sum(taken.values()) == far
    assert draws[0].epoch == taken[draws[0].source] // DOCUMENTS[draws[0].source]


def test_the_seed_decides_and_other_sources_keep_their_order():
    def documents_of(m, source, n=50):
        return list(islice((d.document for d in draw_documents(m) if d.source == source), n))

    assert documents_of(mixture(), "web") == documents_of(mixture(), "web")
    assert documents_of(mixture(), "web") != documents_of(mixture(seed=1), "web")
    with_code = make_mixture(
        DOCUMENTS | {"code": 50}, {k: 0.25 for k in [*DOCUMENTS, "code"]}, 0, 20
    )
    assert documents_of(with_code, "web") == documents_of(mixture(), "web")
    assert documents_of(with_code, "web") != documents_of(with_code, "code")


def test_errors():
    with pytest.raises(ValueError, match=r"boosts names \['c'\], which sizes lacks"):
        mixture_shares({"a": 1}, boosts={"c": 2})
    with pytest.raises(ValueError, match=r"fixed and sizes both name \['a'\]"):
        mixture_shares({"a": 1}, fixed={"a": 0.2})
    with pytest.raises(ValueError, match="fixed must leave a share for sizes, it sums to 1"):
        mixture_shares({"a": 1}, fixed={"b": 1.0})
    with pytest.raises(ValueError, match="fixed must sum to 1 where sizes is empty"):
        mixture_shares({}, fixed={"b": 0.5})
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        mixture_shares({"a": 1}, temperature=0)
    with pytest.raises(ValueError, match=r"sizes\['a'\] must be positive, got nan"):
        mixture_shares({"a": float("nan")})
    with pytest.raises(ValueError, match=r"shares must name the sources of documents, \['a'\]"):
        make_mixture({"a": 1}, {"b": 1.0}, 0)
    with pytest.raises(ValueError, match=r"shares must sum to 1, got 0\.9"):
        make_mixture({"a": 1}, {"a": 0.9}, 0)
    with pytest.raises(ValueError, match=r"\['b'\] have no place in a block of 10: take a larger"):
        make_mixture({"a": 1, "b": 1}, {"a": 0.99, "b": 0.01}, 0, block=10)
    with pytest.raises(ValueError, match="need block >= 1 and seed >= 0, got 0 and 0"):
        make_mixture({"a": 1}, {"a": 1.0}, 0, block=0)
    for call in (draw_documents, taken_documents):
        with pytest.raises(ValueError, match="must not be negative, got -1"):
            call(mixture(), -1)

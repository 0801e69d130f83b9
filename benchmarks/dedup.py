"""Deduplication: signatures per second and recall, side by side with datasketch.

    python -m benchmarks.dedup [--quick]

Documents are pieces of 4,000 characters of the standard library's sources; both sides get texts
and cut the shingles themselves. Ours and the rivals take turns; printed are CPU seconds of one
thread, the median and [least, most]. Then pairs of a document and an edited one go through the
same bands on both sides: how many are found, beside what the S-curve says of their similarities.
Signatures cannot be compared number by number, for the families differ. Without datasketch only
ours is printed.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minqwen.backend import Array
from minqwen.data.corpora import standard_library_code
from minqwen.data.lsh import Bands, lsh_candidates, lsh_choose, lsh_keys, lsh_probability
from minqwen.data.minhash import jaccard, minhash_family, minhash_signatures, shingles

PERMUTATIONS, NGRAM, THRESHOLD, LENGTH = 128, 5, 0.7, 4000
Maker = Callable[[list[str], int], Any]  # of texts and a seed: signatures


def pieces(n: int) -> list[str]:
    text = "\n".join(standard_library_code(n * LENGTH * 2))
    return [text[i * LENGTH : (i + 1) * LENGTH] for i in range(n)]


def schemes() -> dict[str, Maker]:
    """Return what makes signatures with datasketch, by each of its kinds of hash functions."""
    try:
        from datasketch import MinHash
    except ImportError:
        return {}

    def make(**kind: str) -> Maker:
        def signatures(texts: list[str], seed: int) -> list[Any]:
            sets = map(runs, texts)
            return list(MinHash.generator(sets, num_perm=PERMUTATIONS, seed=seed, **kind))

        return signatures

    def runs(text: str) -> list[bytes]:
        return [x.encode() for x in {text[i : i + NGRAM] for i in range(len(text) - NGRAM + 1)}]

    found = {"datasketch": make()}
    for scheme in ("legacy", "affine32", "affine64"):  # since its version 2
        try:
            MinHash(num_perm=1, scheme=scheme)
        except (TypeError, ValueError):
            continue
        found[f"datasketch, {scheme}"] = make(scheme=scheme)
    return found


def ours(texts: list[str], seed: int) -> Array:
    return minhash_signatures(texts, minhash_family(PERMUTATIONS, seed), NGRAM)


def speed(texts: list[str], rounds: int) -> None:
    calls = {"ours": ours, **schemes()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        for name in sorted(calls, reverse=bool(i % 2)):
            start = time.process_time()
            calls[name](texts, 0)
            seconds[name].append(time.process_time() - start)
    for name, times in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds["ours"], times, strict=True)]
        rate = len(texts) / statistics.median(times)
        print(
            f"{name:22s}{rate:8.0f} signatures/s   {statistics.median(times):.3f} "
            f"[{min(times):.3f}, {max(times):.3f}] s   ours / it {statistics.median(ratios):.2f}"
        )


def edited(text: str, rng: random.Random) -> str:
    letters = list(text)
    for place in rng.sample(range(len(text)), rng.randrange(LENGTH // 25)):
        letters[place] = chr(rng.randrange(0x4E00, 0x9000))
    return "".join(letters)


def recall(texts: list[str], seeds: int) -> None:
    rng, n, bands = random.Random(0), len(texts), lsh_choose(THRESHOLD, PERMUTATIONS)
    others = [edited(text, rng) for text in texts]
    sets = ([shingles(text, NGRAM) for text in side] for side in (texts, others))
    s = np.array([jaccard(one, other) for one, other in zip(*sets, strict=True)])
    want = lsh_probability(s, *bands)
    sigma = ((want * (1 - want)).sum() * seeds) ** 0.5
    print(f"\n{bands}, {n} pairs, {seeds} seeds: the curve says {want.sum() * seeds:.1f}")
    print(f"found, and by how many standard deviations ({sigma:.1f}) that is more:")
    for name, call in {"ours": ours, **schemes()}.items():
        found = sum(pairs_found(name, call, texts, others, bands, seed) for seed in range(seeds))
        print(f"{name:22s}{found:6d}{(found - want.sum() * seeds) / sigma:8.2f}")


def pairs_found(
    name: str, call: Maker, one: list[str], two: list[str], bands: Bands, seed: int
) -> int:
    signatures = call(one + two, seed)
    n = len(one)
    if name == "ours":
        pairs = lsh_candidates(lsh_keys(np.asarray(signatures), *bands)).tolist()
        return sum(j == i + n for i, j in pairs)
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=PERMUTATIONS, params=tuple(bands))
    for i in range(n):
        index.insert(i, signatures[i])
    return sum(i in index.query(signatures[i + n]) for i in range(n))


if __name__ == "__main__":
    quick = "--quick" in sys.argv[1:]
    speed(pieces(50 if quick else 200), rounds=3 if quick else 5)
    recall(pieces(25 if quick else 100), seeds=2 if quick else 5)

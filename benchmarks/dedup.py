"""Deduplication: signatures per second and recall, side by side with datasketch.

    python -m benchmarks.dedup [--quick]

Documents are pieces of the standard library's sources, of 4,000, 1,000 and 200 characters. First
both sides get texts and cut the shingles themselves; then both get numbers of shingles, ours as
arrays and theirs as lists, so that only the signatures are compared. All take turns; printed are
CPU seconds of one thread, the median and [least, most].

Then pairs of a document and an edited one go through the same bands on both sides: how many are
found, beside what the S-curve says of their similarities. Signatures cannot be compared number by
number, for the families differ. Without datasketch only ours is printed.
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
from minqwen.data.fast_sketch import fast_sketches, sketch_sets
from minqwen.data.lsh import Bands, lsh_candidates, lsh_choose, lsh_keys, lsh_probability
from minqwen.data.minhash import minhash_family, minhash_signature, minhash_signatures
from minqwen.data.shingles import jaccard, shingles

PERMUTATIONS, NGRAM, THRESHOLD = 128, 5, 0.7
DOCUMENTS = {4000: 100, 1000: 300, 200: 1000}  # how many of so many characters
Maker = Callable[[int], Any]  # of a seed: signatures


def pieces(n: int, length: int) -> list[str]:
    text = "\n".join(standard_library_code(n * length * 2))
    return [text[i * length : (i + 1) * length] for i in range(n)]


def runs(text: str) -> list[bytes]:
    """Return the set of shingles as datasketch needs it."""
    return [x.encode() for x in {text[i : i + NGRAM] for i in range(len(text) - NGRAM + 1)}]


def schemes() -> dict[str, dict[str, str]]:
    """Return the kinds of hash functions of datasketch: name in a row, and keyword arguments."""
    try:
        from datasketch import MinHash
    except ImportError:
        return {}
    found = {}
    for scheme in ("affine32", "affine64", "legacy"):  # since its version 2, the first as default
        try:
            MinHash(num_perm=1, scheme=scheme)
        except (TypeError, ValueError):
            continue
        found[f", {scheme}"] = {"scheme": scheme}
    return found or {"": {}}


def from_texts(texts: list[str]) -> dict[str, Maker]:
    """Return what makes signatures of texts, by the name of its row."""
    makers: dict[str, Maker] = {
        "ours, fast": lambda seed: fast_sketches(texts, PERMUTATIONS, seed, NGRAM),
        "ours, minhash": lambda seed: minhash_signatures(
            texts, minhash_family(PERMUTATIONS, seed), NGRAM
        ),
    }
    for name, kind in schemes().items():

        def bulk(seed: int, kind: dict[str, str] = kind) -> Any:
            from datasketch import MinHash

            return MinHash.bulk(map(runs, texts), num_perm=PERMUTATIONS, seed=seed, **kind)

        makers[f"datasketch bulk{name}"] = bulk
    return makers


def one_by_one(texts: list[str]) -> Maker:
    """Return what makes signatures with datasketch as its README writes it: a call a shingle."""
    from datasketch import MinHash

    def make(seed: int) -> list[Any]:
        signatures = [MinHash(num_perm=PERMUTATIONS, seed=seed) for _ in texts]
        for signature, text in zip(signatures, texts, strict=True):
            for x in runs(text):
                signature.update(x)
        return signatures

    return make


def from_numbers(sets: list[Array]) -> dict[str, Maker]:
    """Return what makes signatures of ready sets of numbers."""

    def minhash(seed: int) -> list[Array]:
        family = minhash_family(PERMUTATIONS, seed)
        return [minhash_signature(x, family) for x in sets]

    makers: dict[str, Maker] = {
        "ours, fast": lambda seed: sketch_sets(sets, PERMUTATIONS, seed),
        "ours, minhash": minhash,
    }
    lists = [(x >> 30).tolist() for x in sets]  # 31 bits, for its functions of 32
    for name, kind in schemes().items():

        def bulk(seed: int, kind: dict[str, str] = kind) -> Any:
            from datasketch import MinHash

            settings: dict[str, Any] = {"num_perm": PERMUTATIONS, "hashfunc": int, **kind}
            return MinHash.bulk(lists, seed=seed, **settings)

        makers[f"datasketch bulk{name}"] = bulk
    return makers


def speed(makers: dict[str, Maker], n: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for i in range(rounds):
        for name in sorted(makers, reverse=bool(i % 2)):
            start = time.process_time()
            makers[name](0)
            seconds[name].append(time.process_time() - start)
    first = next(iter(makers))
    for name, times in seconds.items():
        ratios = [theirs / mine for mine, theirs in zip(seconds[first], times, strict=True)]
        print(
            f"{name:28s}{n / statistics.median(times):9.0f} signatures/s   "
            f"{statistics.median(times):.4f} [{min(times):.4f}, {max(times):.4f}] s   "
            f"its time / {first}: {statistics.median(ratios):.1f}"
        )


def edited(text: str, rng: random.Random) -> str:
    letters = list(text)
    for place in rng.sample(range(len(text)), rng.randrange(len(text) // 25)):
        letters[place] = chr(rng.randrange(0x4E00, 0x9000))
    return "".join(letters)


def recall(texts: list[str], seeds: int) -> None:
    rng, n, bands = random.Random(0), len(texts), lsh_choose(THRESHOLD, PERMUTATIONS)
    others = [edited(text, rng) for text in texts]
    sets = ([shingles(text, NGRAM) for text in side] for side in (texts, others))
    s = np.array([jaccard(one, other) for one, other in zip(*sets, strict=True)])
    want = lsh_probability(s, *bands)
    sigma = ((want * (1 - want)).sum() * seeds) ** 0.5
    print(f"{bands}, {n} pairs, {seeds} seeds: the curve says {want.sum() * seeds:.1f}")
    print(f"found, and by how many standard deviations ({sigma:.1f}) that is more:")
    for name, make in from_texts(texts + others).items():
        found = sum(pairs_found(make(seed), bands) for seed in range(seeds))
        print(f"{name:28s}{found:6d}{(found - want.sum() * seeds) / sigma:8.2f}")


def pairs_found(signatures: Any, bands: Bands) -> int:
    """Count the documents i that are found together with i + n, of 2 n."""
    n = len(signatures) // 2
    if isinstance(signatures, np.ndarray):
        pairs = lsh_candidates(lsh_keys(signatures, *bands)).tolist()
        return sum(j == i + n for i, j in pairs)
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=PERMUTATIONS, params=tuple(bands))
    for i in range(n):
        index.insert(i, signatures[i])
    return sum(i in index.query(signatures[i + n]) for i in range(n))


def main(quick: bool) -> None:
    for length, n in DOCUMENTS.items():
        texts = pieces(n // 10 if quick else n, length)
        makers = from_texts(texts)
        if schemes():
            makers["datasketch one by one"] = one_by_one(texts)
        print(f"\n{len(texts)} texts of {length} characters")
        speed(makers, len(texts), rounds=3 if quick else 5)
        sets = [shingles(text, NGRAM) for text in texts]
        print(f"the same as ready numbers, {sum(map(len, sets)) / len(sets):.0f} each")
        speed(from_numbers(sets), len(texts), rounds=3 if quick else 5)
        recall(texts, seeds=2 if quick else 5)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv[1:])

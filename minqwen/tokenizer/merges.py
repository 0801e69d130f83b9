"""Byte-pair encoding: learn merges from text, and apply them.

Learning. Start from single bytes. Count every pair of neighbours, join the most frequent pair into
one new token everywhere, and repeat. By hand, on aaabdaaabac:

    a a a b d a a a b a c     the pair a a stands here 4 times (a run of three a counts twice)
    aa a b d aa a b a c       aa is token 256; now "a b" and "aa a" stand 2 times each
    aa ab d aa ab a c         the tie goes to the smaller ids: a b = (97, 98), so ab is token 257
    aaab d aaab a c           aaab is token 258, the pair (256, 257)

The tie rule: the highest count, then the smaller id of the left token, then of the right one.

Applying. The rank of a token is its id: tokens learned earlier have lower ranks. In each pre-token,
join the two neighbours whose joined bytes have the lowest rank, the leftmost if there are several,
until no two neighbours make a token. It is not the longest match from the left:

    the tokens ab = 256, bc = 257, abcd = 258     a b c d -> ab c d, and there it ends

Each of the two is here twice: `..._steps` is the definition, a few lines that do the work anew in
every step and hand out each step to look at; `learn_merges` and `bpe_encode` give the same result
without repeating work. The tests compare them.

Paper:    Qwen Technical Report, 2.2 Tokenization: BPE on the bytes of UTF-8, as in tiktoken.
Origin:   Gage 1994, "A New Algorithm for Data Compression"; Sennrich et al. 2016,
          arXiv:1508.07909; on bytes: Radford et al. 2019 (GPT-2).
Differs:  how Qwen learned its merges, and how it broke ties, is not published.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from itertools import pairwise
from operator import add
from typing import NamedTuple

Pair = tuple[bytes, bytes]


class TrainStep(NamedTuple):
    pieces: list[list[bytes]]  # every pre-token of the text, cut into tokens, after the merge
    pair: Pair  # the two tokens that were joined
    rank: int  # the id of the new token
    frequency: int  # how often the pair stood in the text before the merge


class MergeStep(NamedTuple):
    pieces: list[bytes]  # one pre-token, cut into tokens, after the merge
    pair: Pair | None  # the two tokens that were joined; None: nothing yet, single bytes
    rank: int | None  # the id of the token they became


def merge_pair(pieces: list[bytes], pair: Pair) -> list[bytes]:
    """Join every neighbouring left, right of the pair, from left to right.

    Args:
        pieces: the tokens of one pre-token.
        pair: the left and the right token.

    Returns:
        A new list.

    >>> merge_pair([b"a", b"a", b"a", b"b"], (b"a", b"a"))
    [b'aa', b'a', b'b']
    """
    merged: list[bytes] = []
    i = 0
    while i < len(pieces):
        width = 2 if tuple(pieces[i : i + 2]) == pair else 1
        merged.append(b"".join(pieces[i : i + width]))
        i += width
    return merged


def learn_merges_steps(pretokens: Iterable[str]) -> Iterator[TrainStep]:
    """Learn merges one after the other, plainly: all pairs are counted anew in every step.

    Args:
        pretokens: the pieces of the text, see `pretokenizer.split`.

    Returns:
        An iterator with one step per merge; it ends when no pair is left.

    >>> for step in learn_merges_steps(["aaabdaaabac"]):
    ...     print(step.rank, step.frequency, *step.pair)
    ...     if step.rank == 258:
    ...         break
    256 4 b'a' b'a'
    257 2 b'a' b'b'
    258 2 b'aa' b'ab'
    """
    words = [[bytes([byte]) for byte in piece.encode("utf-8")] for piece in pretokens]
    ids = {bytes([byte]): byte for byte in range(256)}  # token -> id
    while counts := Counter(pair for word in words for pair in pairwise(word)):
        pair = min(counts, key=lambda p: (-counts[p], ids[p[0]], ids[p[1]]))
        ids[pair[0] + pair[1]] = len(ids)
        words = [merge_pair(word, pair) for word in words]
        yield TrainStep(words, pair, len(ids) - 1, counts[pair])


def bpe_encode_steps(pretoken: bytes, ranks: Mapping[bytes, int]) -> Iterator[MergeStep]:
    """Encode one pre-token plainly, one merge at a time.

    Args:
        pretoken: its UTF-8 bytes.
        ranks: token -> id; a lower id is merged first.

    Returns:
        An iterator: first the single bytes, then the state after every merge.

    >>> for step in bpe_encode_steps(b"abab", {b"ab": 256, b"abab": 257}):
    ...     print(step.pieces, step.rank)
    [b'a', b'b', b'a', b'b'] None
    [b'ab', b'a', b'b'] 256
    [b'ab', b'ab'] 256
    [b'abab'] 257
    """
    pieces = [bytes([byte]) for byte in pretoken]
    yield MergeStep(pieces, None, None)
    while places := [i for i in range(len(pieces) - 1) if pieces[i] + pieces[i + 1] in ranks]:
        i = min(places, key=lambda i: ranks[pieces[i] + pieces[i + 1]])  # the leftmost of equals
        pair = (pieces[i], pieces[i + 1])
        pieces = [*pieces[:i], pair[0] + pair[1], *pieces[i + 2 :]]
        yield MergeStep(pieces, pair, ranks[pieces[i]])


def bpe_encode(pretoken: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """Encode one pre-token of n bytes in about n log n steps.

    A heap holds every pair that could be merged: (rank, start, end). A merge makes the pairs beside
    it stale. They stay in the heap, and are passed over when they come up and no longer fit.

    Args:
        pretoken: its UTF-8 bytes.
        ranks: token -> id, with every single byte of the pre-token.

    Returns:
        The ids.

    Raises:
        KeyError: a single byte has no id.

    >>> bpe_encode(b"abcab", {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"bc": 4})
    [3, 2, 3]
    """
    n = len(pretoken)
    rank_of = ranks.get
    end = [*range(1, n + 1), 0]  # a token that starts at i ends at end[i]; 0: no token starts at i
    before = [*range(-1, n)]  # where the token to the left of the one at i starts
    heap = [
        (rank, i, i + 2) for i in range(n - 1) if (rank := rank_of(pretoken[i : i + 2])) is not None
    ]
    heapify(heap)
    while heap:
        _, i, k = heappop(heap)  # the lowest rank, of equals the leftmost
        j = end[i]  # the pair is [i:j] and [j:k]
        if not j or end[j] != k:
            continue
        end[i], end[j], before[k] = k, 0, i
        if k < n and (rank := rank_of(pretoken[i : end[k]])) is not None:
            heappush(heap, (rank, i, end[k]))
        if i > 0 and (rank := rank_of(pretoken[before[i] : k])) is not None:
            heappush(heap, (rank, before[i], k))

    ids, i = [], 0
    while i < n:
        ids.append(ranks[pretoken[i : end[i]]])
        i = end[i]
    return ids


def learn_merges(
    counts: Mapping[str, int], merges: int, progress: Callable[[int, int], None] | None = None
) -> list[Pair]:
    """Learn merges from counted pre-tokens; only the pairs beside a merge are counted anew.

    A word is a str with one character per token, so that cutting it at a pair and joining it with
    the new token are two calls of C code. A heap finds the best pair. A count in it may be too
    high, because other merges took some of the pairs; it is put back with its count of today.

    Args:
        counts: pre-token -> how often it stands in the text.
        merges: how many merges to learn.
        progress: called as progress(done, merges) after every merge.

    Returns:
        The pairs in order, fewer than asked for when no pair is left.

    >>> learn_merges({"low": 5, "lower": 2, "new": 6}, 3)  # "ne" and "ew" tie: e < n
    [(b'l', b'o'), (b'lo', b'w'), (b'e', b'w')]
    """
    words = [pretoken.encode("utf-8").decode("latin-1") for pretoken in counts]
    weights = list(counts.values())
    count: dict[str, int] = defaultdict(int)  # pair, as two characters -> how often in the text
    where: dict[str, set[int]] = defaultdict(set)  # pair -> words that have it, or had it once
    for w, word in enumerate(words):
        for pair in map(add, word, word[1:]):
            count[pair] += weights[w]
            where[pair].add(w)

    tokens = [bytes([byte]) for byte in range(256)]  # id -> token
    learned: list[Pair] = []
    heap = [(-n, pair) for pair, n in count.items()]
    heapify(heap)
    while heap and len(learned) < merges:
        n, pair = heappop(heap)
        if (n_now := count[pair]) != -n:
            if n_now:
                heappush(heap, (-n_now, pair))
            continue
        a, b, new = *pair, chr(len(tokens))
        gained: set[str] = set()
        for w in where.pop(pair):
            parts, weight = words[w].split(pair), weights[w]
            words[w] = new.join(parts)
            for i in range(len(parts) - 1):  # the new token between parts i and i + 1
                left, right = parts[i], parts[i + 1]
                if left or i:  # what stood before it: a token, or such a pair as well
                    count[(left[-1] if left else b) + a] -= weight
                    new_pair = (left[-1] if left else new) + new
                    count[new_pair] += weight
                    where[new_pair].add(w)
                    gained.add(new_pair)
                if right:
                    count[b + right[0]] -= weight
                    new_pair = new + right[0]
                    count[new_pair] += weight
                    where[new_pair].add(w)
                    gained.add(new_pair)
        del count[pair]  # no place is left, also of those that overlapped, as in aaa
        for new_pair in gained:
            heappush(heap, (-count[new_pair], new_pair))

        learned.append((tokens[ord(a)], tokens[ord(b)]))
        tokens.append(tokens[ord(a)] + tokens[ord(b)])
        if progress:
            progress(len(learned), merges)
    return learned


def merges_of(ranks: Mapping[bytes, int]) -> list[Pair]:
    """Find the merge behind every token: what its bytes become with the lower ranks alone.

    Rank files name the tokens only; other files list the merges too.

    Args:
        ranks: token -> id, with all 256 single bytes.

    Returns:
        One pair for each token of two or more bytes, in the order of the ids.

    Raises:
        ValueError: a token is not made of two tokens with lower ids.

    >>> bytes_first = {bytes([byte]): byte for byte in range(256)}
    >>> merges_of(bytes_first | {b"ab": 256, b"abab": 257})
    [(b'a', b'b'), (b'ab', b'ab')]
    """
    known = {token: rank for token, rank in ranks.items() if len(token) == 1}
    token_of = {rank: token for token, rank in ranks.items()}
    pairs: list[Pair] = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            ids = bpe_encode(token, known)
            if len(ids) != 2:
                raise ValueError(
                    f"token {token!r} (id {rank}) is not made of two tokens with lower ids, "
                    f"it is made of {len(ids)}"
                )
            pairs.append((token_of[ids[0]], token_of[ids[1]]))
            known[token] = rank
    return pairs

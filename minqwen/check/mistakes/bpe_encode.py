"""Encoding text by byte-pair encoding: how it is called, tried, and got wrong."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...backend import Array
from ...tokenizer.merges import learn_merges
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Encode with a copy of tokenizer/merges.py; the whole text is one piece."""
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in a["merges"]:
        tokens.append(tokens[left] + tokens[right])
    ranks = {token: i for i, token in enumerate(tokens)}
    *_, last = m.bpe_encode_steps(a["text"].encode("utf-8"), ranks)
    return (np.array([id_of(piece, ranks) for piece in last.pieces], dtype=np.int64),)


def id_of(token: bytes, ids: dict[bytes, int]) -> int:
    """Return the id of a token; only wrong code begins with whole characters: their code points."""
    return ids[token] if token in ids else ord(token.decode("utf-32-be"))


def learned(text: str, merges: int) -> list[tuple[int, int]]:
    """Return the merges of a text, as pairs of ids."""
    ids = {bytes([byte]): byte for byte in range(256)}
    pairs = []
    for left, right in learn_merges({text: 1}, merges):
        pairs.append((ids[left], ids[right]))
        ids[left + right] = len(ids)
    return pairs


def probe(
    name: str, text: str, merges: list[tuple[int, int]], shows: str, hard: bool = True
) -> Probe:
    """Return a probe with this text and these merges."""

    def make(rng: np.random.Generator) -> Arguments:
        return {"text": text, "merges": list(merges)}

    return Probe(name, make, shows, hard, gradient=False)


A, B, C, D = b"abcd"
# In each list a token can be made of two others in one way only: so whoever looks tokens up by
# their bytes, as tiktoken and our code do, and whoever looks up pairs of ids find the same.
ENGLISH = learned("the cat and the hat that the bat sat at", 11)
CHINESE = learned("看看书，看书看报，书看看，看书报", 9)
PROBES = (
    probe("words", "that bat sat at the hat", ENGLISH, "English words", hard=False),
    probe("by hand", "aaabdaaabac", [(A, A), (A, B), (256, 257)], "done by hand", hard=False),
    probe("numbers", "12 121 2112", learned("12 1212 121 2112", 5), "digits, spaces", hard=False),
    probe("Chinese", "书看报，看看", CHINESE, "Chinese: three bytes for a character"),
    probe(
        "other Chinese",
        "看报纸，读书。看书",
        CHINESE,
        "characters that the merges do not know, with bytes that they do",
    ),
    probe(
        "accents",
        "éa öé öö éa éé",
        learned("éa éb éa öé éa öö", 6),
        "accented letters: two bytes for a character",
    ),
    probe("emoji", "看👍 the 👍", learned("👍👍 看 👍", 7), "four bytes for a character"),
    probe(
        "crossing",
        "abc cabca bcab",
        [(B, C), (A, B)],
        "two merges that compete for a letter: the first learned wins",
    ),
    probe(
        "three compete",
        "bcd abc dabcd abcda",
        [(C, D), (B, C), (A, B), (258, 256)],
        "three merges that compete, the first learned stands on the right",
    ),
    probe(
        "bananas",
        "banana anna anna anna ban",
        learned("ban alba anal na anna anal bandana na", 12),
        "merges that compete in many places",
    ),
    probe(
        "bandanas",
        "anna bandana lab nab banana",
        learned("nab banana anna ban nab nab banana dab", 8),
        "merges that compete, and merges of merged tokens",
    ),
    probe(
        "cabanas",
        "anal band nab cab cabana",
        learned("cabana bandana lab nab abba lab ban anna", 16),
        "other merges that compete",
    ),
    probe("runs", "aaaaaaa aaa aa", [(A, A), (256, 256)], "runs of one letter"),
    probe(
        "odd run", "aaaaa", [(A, A), (256, 256)], "a run of five: the pairs are taken from the left"
    ),
    probe("no merges", "no merges", [], "an empty list of merges: the bytes themselves"),
    probe("none fits", "xyz", [(A, B), (256, C)], "merges of which none fits"),
    probe("one letter", "a", [(A, B)], "a single letter"),
)

_BYTES = "pieces = [bytes([byte]) for byte in pretoken]\n    yield MergeStep(pieces, None, None)\n"
_WHILE = (
    "while places := [i for i in range(len(pieces) - 1) if pieces[i] + pieces[i + 1] in ranks]:"
)
_BEST = "i = min(places, key=lambda i: ranks[pieces[i] + pieces[i + 1]])  # the leftmost of equals"
_JOIN = "pieces = [*pieces[:i], pair[0] + pair[1], *pieces[i + 2 :]]"
_YIELD = "yield MergeStep(pieces, pair, ranks[pieces[i]])"
FORWARD = (
    Mistake(
        "left_to_right",
        _BEST,
        "i = places[0]",
        "the first two neighbours that can be joined are; it must be those whose merge was learned "
        "first, wherever they stand.",
        "Which of two possible merges comes first?",
    ),
    Mistake(
        "right_to_left",
        _BEST,
        "i = places[-1]",
        "the last two neighbours that can be joined are; it must be those whose merge was learned "
        "first, wherever they stand.",
        "Which of two possible merges comes first?",
    ),
    Mistake(
        "latest_first",
        _BEST,
        "i = max(places, key=lambda i: ranks[pieces[i] + pieces[i + 1]])",
        "the merge that was learned last is done first; it must be the one learned first.",
        "Which of two possible merges comes first?",
    ),
    Mistake(
        "longest_first",
        _BEST,
        "joined = {i: pieces[i] + pieces[i + 1] for i in places}\n"
        "        i = min(places, key=lambda i: (-len(joined[i]), ranks[joined[i]]))",
        "the two neighbours that give the longest token are joined; it must be those whose merge "
        "was learned first.",
        "Which of two possible merges comes first?",
    ),
    Mistake(
        "longest_match",
        _BYTES,
        "pieces, i = [], 0\n"
        "    while i < len(pretoken):\n"
        "        j = next(j for j in range(len(pretoken), i, -1) if pretoken[i:j] in ranks)\n"
        "        pieces.append(pretoken[i:j])\n"
        "        i = j\n"
        "    yield MergeStep(pieces, None, None)\n"
        "    return\n",
        "at each place the longest token that fits is taken, from left to right; byte-pair "
        "encoding does its merges in the order in which they were learned.",
        "Do the merges by hand, the first learned first.",
    ),
    Mistake(
        "one_merge",
        _WHILE,
        _WHILE.replace("while", "if"),
        "one merge is done, and no more.",
        "When is a text finished?",
    ),
    Mistake(
        "each_merge_once",
        _YIELD,
        f"{_YIELD}\n"
        "        ranks = {token: rank for token, rank in ranks.items() if token != pieces[i]}",
        "each merge is done at one place only; it must be done at every place.",
        "What if a pair stands in the text twice?",
    ),
    Mistake(
        "rightmost_of_equals",
        _BEST,
        "i = min(reversed(places), key=lambda i: ranks[pieces[i] + pieces[i + 1]])",
        "a pair is joined from the right; it must be joined from the left.",
        "Three equal letters in a row: which two are joined?",
    ),
    Mistake(
        "right_kept",
        _JOIN,
        "pieces = [*pieces[:i], pair[0] + pair[1], *pieces[i + 1 :]]",
        "after a merge the right token of the pair is left in the text.",
        "Decode the result: is it the text?",
    ),
    Mistake(
        "bytes_only",
        _WHILE,
        "while places := [\n"
        "        i\n"
        "        for i in range(len(pieces) - 1)\n"
        "        if len(pieces[i] + pieces[i + 1]) == 2 and pieces[i] + pieces[i + 1] in ranks\n"
        "    ]:",
        "only single bytes are joined; tokens that came from a merge must be joined too.",
        "Can a token of your result have three bytes?",
    ),
    Mistake(
        "no_merges",
        _WHILE,
        "while places := []:",
        "no merge is done: the result are the bytes.",
        "When is a text finished?",
    ),
    Mistake(
        "characters",
        "[bytes([byte]) for byte in pretoken]\n    yield",
        '[bytes([ord(char)]) if ord(char) < 256 else char.encode("utf-32-be") '
        'for char in pretoken.decode("utf-8")]\n    yield',
        "it starts from characters, with their code points for ids; it must start from the bytes "
        "of UTF-8.",
        "How many tokens is one Chinese character before any merge?",
    ),
    Mistake(
        "ascii_only",
        "[bytes([byte]) for byte in pretoken]\n    yield",
        "[bytes([byte]) for byte in pretoken if byte < 128]\n    yield",
        "characters outside ASCII are lost.",
        "Decode the result: is it the text?",
    ),
    Mistake(
        "utf_16",
        "[bytes([byte]) for byte in pretoken]\n    yield",
        '[bytes([byte]) for byte in pretoken.decode("utf-8").encode("utf-16-le")]\n    yield',
        "the text is encoded as UTF-16; it must be UTF-8.",
        "How many tokens is the letter a before any merge?",
    ),
    Mistake(
        "no_spaces",
        "[bytes([byte]) for byte in pretoken]\n    yield",
        '[bytes([byte]) for byte in pretoken.replace(b" ", b"")]\n    yield',
        "the spaces are lost.",
        "Decode the result: is it the text?",
    ),
)

SPEC = Spec(
    name="bpe_encode",
    module="minqwen.tokenizer.merges",
    arguments=("text", "merges"),
    axes={"ids": "T"},
    outputs=("ids",),
    exact=("ids",),
    run=run,
    probes=PROBES,
    forward=FORWARD,
    notes="text is a str, and all of it one piece. merges is a list of pairs (left id, right id) "
    "in the order in which they were learned. Ids 0 to 255 are the bytes of UTF-8, the first merge "
    "makes 256. The result is the ids, one flat list.",
)

"""Learning the merges of byte-pair encoding: how it is called, tried, and got wrong."""

from __future__ import annotations

from itertools import islice
from types import ModuleType

import numpy as np

from ...backend import Array
from ..spec import Arguments, Mistake, Probe, Spec


def run(m: ModuleType, a: Arguments) -> tuple[Array, ...]:
    """Learn merges with a copy of tokenizer/merges.py; the whole text is one piece."""
    ids = {bytes([byte]): byte for byte in range(256)}
    pairs = []
    for step in islice(m.learn_merges_steps([a["text"]]), a["merges"]):
        pairs.append([id_of(token, ids) for token in step.pair])
        ids[step.pair[0] + step.pair[1]] = step.rank
    return (np.array(pairs, dtype=np.int64).reshape(-1, 2),)


def id_of(token: bytes, ids: dict[bytes, int]) -> int:
    """Return the id of a token; only wrong code begins with whole characters: their code points."""
    return ids[token] if token in ids else ord(token.decode("utf-8"))


def probe(
    name: str, text: str, merges: int, shows: str, hard: bool = True, ties: bool = False
) -> Probe:
    """Return a probe with this text."""

    def make(rng: np.random.Generator) -> Arguments:
        return {"text": text, "merges": merges}

    return Probe(name, make, shows, hard, gradient=False, ties=ties)


# In the first ones no step has two pairs that stand equally often; the others are about ties.
PROBES = (
    probe("words", "that bat that hat bat that cat that at", 6, "English words", hard=False),
    probe("by hand", "aabababaaabab", 3, "short enough to do by hand", hard=False),
    probe("numbers", "2112 2112 2 2112 1212 1212 2112", 5, "digits and spaces", hard=False),
    probe("Chinese", "不七上七上七上一七一七", 5, "Chinese: three bytes for a character"),
    probe("accents", "öa öé öa öa öa öa öé", 5, "accented letters: two bytes for a character"),
    probe("emoji", "👎 👍👍 😀 👍👍 👍", 5, "four bytes for a character"),
    probe("runs", "b bbb bbb bbbb bb aaaaa bb", 4, "runs of one letter"),
    probe("short runs", "aaaxy aaaxy yx aaa aaa", 4, "runs of three: is the middle counted?"),
    probe("odd runs", "yxyx yx yx yxyx yx zzz", 3, "other runs of three"),
    probe("all pairs", "ababab", 8, "a text that runs out of pairs"),
    probe("two letters", "no", 3, "a text with a single pair"),
    probe("one letter", "n" * 8, 6, "the same letter again and again"),
    probe("ties", "dcba abcd wxyz", 3, "pairs that stand equally often", ties=True),
    probe("more ties", "zy zy ab ab mn mn", 6, "ties of words, and of merged tokens", ties=True),
    probe("capitals", "Ba bA Ba bA aB aB", 4, "ties of capitals and small letters", ties=True),
    probe("ties in words", "the cat and the hat that the bat sat at", 7, "late ties", ties=True),
    probe("ties in Chinese", "看看书，看书看报，书看看", 6, "ties of bytes", ties=True),
)

_WORDS = 'words = [[bytes([byte]) for byte in piece.encode("utf-8")] for piece in pretokens]'
_IDS = "ids = {bytes([byte]): byte for byte in range(256)}  # token -> id"
_WHILE = "while counts := Counter(pair for word in words for pair in pairwise(word)):"
_BEST = "pair = min(counts, key=lambda p: (-counts[p], ids[p[0]], ids[p[1]]))"
_REST = """        ids[pair[0] + pair[1]] = len(ids)
        words = [merge_pair(word, pair) for word in words]
        yield TrainStep(words, pair, len(ids) - 1, counts[pair])
"""
FORWARD = (
    Mistake(
        "ties_first_seen",
        _BEST,
        "pair = min(counts, key=lambda p: -counts[p])",
        "of pairs with the same count the one that stands first in the text is joined; here it is "
        "the one with the smaller ids.",
        "What does max do with equals?",
        "convention",
    ),
    Mistake(
        "ties_last_seen",
        _BEST,
        "pair = min(reversed(counts), key=lambda p: -counts[p])",
        "of pairs with the same count the one that was first met last is joined; here it is the "
        "one with the smaller ids.",
        "What does a comparison with >= do with equals?",
        "convention",
    ),
    Mistake(
        "ties_largest_ids",
        _BEST,
        "pair = max(counts, key=lambda p: (counts[p], ids[p[0]], ids[p[1]]))",
        "of pairs with the same count the one with the larger ids is joined; here it is the one "
        "with the smaller.",
        "max over (count, pair) looks for large pairs too.",
        "convention",
    ),
    Mistake(
        "ties_largest_bytes",
        _BEST,
        "pair = max(counts, key=lambda p: (counts[p], p))",
        "of pairs with the same count the one whose bytes come last in the alphabet is joined, as "
        "in Stanford's CS336; here it is the one with the smaller ids.",
        "max over (count, pair) looks for large pairs too.",
        "convention",
    ),
    Mistake(
        "ties_smallest_bytes",
        _BEST,
        "pair = min(counts, key=lambda p: (-counts[p], p))",
        "of pairs with the same count the one whose bytes come first in the alphabet is joined; "
        "here it is the one with the smaller ids.",
        "Is a token that was learned compared by its bytes, or by its id?",
        "convention",
    ),
    Mistake(
        "ties_by_right",
        _BEST,
        "pair = min(counts, key=lambda p: (-counts[p], ids[p[1]], ids[p[0]]))",
        "of pairs with the same count the one with the smaller id on the right is joined; the "
        "left one is compared first.",
        "Which of the two ids decides?",
        "convention",
    ),
    Mistake(
        "rarest",
        _BEST,
        "pair = min(counts, key=lambda p: (counts[p], ids[p[0]], ids[p[1]]))",
        "the rarest pair is joined.",
        "Which pair saves most tokens?",
    ),
    Mistake(
        "every_second",
        _WHILE,
        "while counts := Counter(pair for word in words for pair in zip(word[::2], word[1::2])):",
        "only every second pair is counted; a pair begins at every token.",
        "How many pairs are there in a text of n tokens?",
    ),
    Mistake(
        "runs_once",
        _WHILE,
        "while counts := Counter(\n"
        "        {\n"
        "            pair: sum(len(word) - len(merge_pair(word, pair)) for word in words)\n"
        "            for word in words\n"
        "            for pair in pairwise(word)\n"
        "        }\n"
        "    ):",
        "a pair is counted as often as it could be joined; here a run of three holds it twice.",
        "How often does a a stand in a a a?",
        "convention",
    ),
    Mistake(
        "counted_once",
        f"    {_WHILE}\n        {_BEST}\n{_REST}",
        "    counts = Counter(pair for word in words for pair in pairwise(word))\n"
        "    while counts:\n"
        f"        {_BEST}\n" + _REST.replace("counts[pair])", "counts.pop(pair))"),
        "the pairs are counted once, before the first merge; each merge makes new pairs.",
        "Can a pair of your result hold a token that was learned?",
    ),
    Mistake(
        "repeated_pairs_only",
        _BEST,
        f"{_BEST}\n        if counts[pair] < 2:\n            return",
        "pairs that stand only once are not joined: the result is too short.",
        "When may the loop end?",
        "convention",
    ),
    Mistake(
        "characters",
        f"    {_WORDS}\n    {_IDS}\n    {_WHILE}\n        {_BEST}\n",
        '    words = [[char.encode("utf-8") for char in piece] for piece in pretokens]\n'
        '    codes = {char: ord(char.decode("utf-8")) for word in words for char in word}\n'
        f"    {_IDS}\n"
        f"    {_WHILE}\n"
        "        pair = min(counts, key=lambda p: (-counts[p], *(ids.get(t, codes.get(t, 0)) "
        "for t in p)))\n",
        "it starts from characters, with their code points for ids; it must start from the bytes "
        "of UTF-8.",
        "How many tokens is one Chinese character before any merge?",
    ),
    Mistake(
        "ascii_only",
        'piece.encode("utf-8")]',
        'piece.encode("ascii", "ignore")]',
        "characters outside ASCII are lost.",
        "How many tokens is one Chinese character before any merge?",
    ),
    Mistake(
        "utf_16",
        'piece.encode("utf-8")]',
        'piece.encode("utf-16-le")]',
        "the text is encoded as UTF-16; it must be UTF-8.",
        "How many tokens is the letter a before any merge?",
    ),
    Mistake(
        "no_spaces",
        "for piece in pretokens]",
        "for text in pretokens for piece in text.split()]",
        "the text is cut at spaces, and the spaces are lost; here the whole text is one piece.",
        "Can the tokens give the text back?",
        "convention",
    ),
    Mistake(
        "skip_one",
        "        i += width\n",
        "        i += 1\n",
        "after a merge the right token of the pair is left in the text, and may be joined again.",
        "By how many tokens does the place move on after a merge?",
    ),
    Mistake(
        "ids_from_257",
        "yield TrainStep(words, pair, len(ids) - 1, counts[pair])",
        "yield TrainStep(words, pair, len(ids), counts[pair])",
        "the first new token has the id 257; it must be 256.",
        "How many bytes are there, and from where are they counted?",
    ),
)

SPEC = Spec(
    name="bpe_merges",
    module="minqwen.tokenizer.merges",
    arguments=("text", "merges"),
    axes={"pairs": "M 2"},
    outputs=("pairs",),
    exact=("pairs",),
    run=run,
    probes=PROBES,
    forward=FORWARD,
    notes="text is a str, and all of it one piece; merges says how many to learn, fewer only when "
    "no pair is left. The result is a row (left id, right id) for each merge, in order. Ids 0 to "
    "255 are the bytes of UTF-8, the first merge makes 256. The most frequent pair is joined; of "
    "equals the one with the smaller left id, then the smaller right id.",
    ties="of equally frequent pairs ours joins the one with the smaller left id, then right id",
)

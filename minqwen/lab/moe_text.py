"""Text whose source is known, so that one can ask which expert reads what.

    python    sources of the standard library           prose     Python's language reference
    english   stories that count something              chinese   the same, in Chinese

Every row is of one source. The sources give equally many rows, to train on and to look at, and the
validation rows are of documents that nothing is trained on.
"""

from __future__ import annotations

import re
import warnings
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..data.corpora import bilingual_stories, python_reference, standard_library_code
from ..data.packing import pack_documents
from ..tokenizer.bpe import Tokenizer, bpe_train
from .moe_settings import MoeSettings

SOURCES = {
    "python": "Python code",
    "prose": "English prose",
    "english": "English stories",
    "chinese": "Chinese stories",
}
KINDS = ("space", "digits", "signs", "word", "part of a word", "Chinese")
HELD_OUT = 10  # every 10th document
SEPARATOR = "<|endoftext|>"
CHINESE = re.compile("[\u2e80-\u9fff\uff00-\uffef]")


class SourcedText(NamedTuple):
    tokenizer: Tokenizer
    rows: Array  # (n, T + 1) int, to train on, all sources mixed
    validation_rows: Array  # (m, T + 1) int
    sources: Array  # (m,) int, number of the source of each validation row, in the order of SOURCES
    kinds: Array  # (V,) int, number of the kind of each token, in the order of KINDS


def documents_by_source(settings: MoeSettings) -> dict[str, list[str]]:
    """Return documents of each source: as many as the rows need, and some more."""
    rows = settings.rows_of_a_source + settings.validation_rows_of_a_source
    tokens = rows * settings.context_length
    stories = bilingual_stories(100 + tokens // 25, settings.seed)  # one of 2 in 5 is enough
    return {
        "python": standard_library_code(200_000 + 6 * tokens),
        "prose": python_reference(),
        "english": [s for s in stories if not CHINESE.search(s)],
        "chinese": [s for s in stories if not re.search("[A-Za-z]", s)],
    }


def prepare_text(settings: MoeSettings) -> SourcedText:
    """Take the four sources, train a tokenizer on a bit of each, and hold documents back.

    Raises:
        ValueError: too few documents for the validation rows.
    """
    documents = documents_by_source(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer merges than asked for are fine
        tokenizer = bpe_train(_sample(documents), settings.vocab_size)
    separator = tokenizer.special_tokens[SEPARATOR]
    T, rng = settings.context_length, np.random.default_rng(settings.seed)
    train, validation, sources = [], [], []
    for number, texts in enumerate(documents.values()):
        ids = [np.array(tokenizer.encode(t, disallowed_special=()), np.int32) for t in texts]
        held_out = ids[HELD_OUT - 1 :: HELD_OUT]
        del ids[HELD_OUT - 1 :: HELD_OUT]
        train.append(pack_documents(ids, T, separator, rng)[: settings.rows_of_a_source])
        look = _spread(pack_documents(held_out, T, separator), settings.validation_rows_of_a_source)
        validation.append(look)
        sources += [number] * len(look)
    fewest = min(map(len, train))  # equally many of each
    rows = np.concatenate([part[:fewest] for part in train])
    kinds = np.array(
        [kind_of(tokenizer.decode([i], errors="replace")) for i in range(tokenizer.vocab_size)]
    )
    return SourcedText(tokenizer, rows, np.concatenate(validation), np.array(sources), kinds)


def _sample(documents: dict[str, list[str]]) -> list[str]:
    """Return about as many characters of each source: an eighth of the rarest."""
    most = min(sum(map(len, texts)) for texts in documents.values()) // 8
    sample = []
    for texts in documents.values():
        size = 0
        for text in texts[:: max(1, len(texts) // 40)]:
            part = text[: max(0, most - size)]
            size += len(part)
            sample.append(part)
    return sample


def _spread(rows: Array, most: int) -> Array:
    """Return at most so many rows, evenly from all of them."""
    spread: Array = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]
    return spread


def kind_of(piece: str) -> int:
    """Return the number of a token's kind, in the order of KINDS.

    >>> [KINDS[kind_of(piece)] for piece in (" ", "\\n    ", "7", " (", " the", "ing", "小梅")]
    ['space', 'space', 'digits', 'signs', 'word', 'part of a word', 'Chinese']
    """
    if piece.isspace():
        name = "space"
    elif not piece.isascii():
        name = "Chinese"  # with the few bytes that are no character by themselves
    elif piece.strip().isdigit():
        name = "digits"
    elif not any(map(str.isalpha, piece)):
        name = "signs"
    else:
        name = "word" if piece.startswith(" ") else "part of a word"
    return KINDS.index(name)

"""Exact deduplication: of documents that are the same after normalisation, the first stays.

    digest(text) = first 16 bytes of BLAKE2b(UTF-8 of normalise(text))
    a document is a copy of the first one before it that has the same digest

The texts themselves are not kept, so any number of documents can stream through. Two different
ones among n get one digest with a chance below n^2 / 2^129: 2e-21 for a thousand million. A digest
is 16 bytes, in Python's dictionary it takes about 130.

Paper:    Qwen Technical Report, 2.1 Data: exact-match deduplication after normalization.
Origin:   hashing of whole documents, common practice.
Differs:  the report does not say what it normalises. Here each step is a switch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

from .text_units import unicode_form


class ExactCopy(NamedTuple):
    document: int  # index of the one that is dropped
    copy_of: int  # index of the first document like it, which is kept


class ExactReport(NamedTuple):
    kept: list[int]  # in the order of the documents
    dropped: list[ExactCopy]  # likewise


def normalise(text: str, *, nfc: bool = True, white_space: bool = True, case: bool = False) -> str:
    r"""Make texts alike that differ only in how they are written.

    Args:
        text: any; compared only, what is kept is the document as it came.
        nfc: compose characters as Unicode's NFC has it, so that e + accent equals é.
        white_space: every run of white space, also line ends and the ideographic space U+3000,
            becomes one space, and none is left at the ends. Wrong for code, where it has a meaning.
        case: fold the case, so that STRASSE equals Straße.

    >>> normalise(" Cafe\u0301 \n au\u3000lait")
    'Café au lait'
    >>> normalise("Straße", case=True)
    'strasse'
    """
    if case:  # decomposed first: Unicode folds an accent's case only where it stands alone
        text = (unicode_form("NFD", text) if nfc else text).casefold()
    if nfc:
        text = unicode_form("NFC", text)
    return " ".join(text.split()) if white_space else text


def text_digest(
    text: str, *, nfc: bool = True, white_space: bool = True, case: bool = False
) -> bytes:
    """Return the 16 bytes that stand for a text: equal for texts that are alike once normalised.

    Args:
        text: any; halves of surrogate pairs are told apart like characters.
        nfc, white_space, case: see normalise.

    >>> text_digest(" one") == text_digest("one"), len(text_digest(""))
    (True, 16)
    """
    text = normalise(text, nfc=nfc, white_space=white_space, case=case)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def first_copies(
    documents: Iterable[str], *, nfc: bool = True, white_space: bool = True, case: bool = False
) -> Iterator[int]:
    """Yield for each document the index of the first one like it: its own when it is new.

    Reads one document at a time, so a filter over a long stream keeps those whose index comes back.

    Args:
        documents: texts, read once. Halves of surrogate pairs are told apart like characters.
        nfc, white_space, case: see normalise.

    Raises:
        TypeError: a document is not a str.

    >>> list(first_copies(["one", "two", " one", "two"]))
    [0, 1, 0, 1]
    """
    first: dict[bytes, int] = {}
    for index, text in enumerate(documents):
        if not isinstance(text, str):
            raise TypeError(f"document {index} must be a str, got {type(text).__name__}")
        digest = text_digest(text, nfc=nfc, white_space=white_space, case=case)
        yield first.setdefault(digest, index)


def exact_dedup(
    documents: Iterable[str], *, nfc: bool = True, white_space: bool = True, case: bool = False
) -> ExactReport:
    """Say which documents stay, and of which kept one each of the others is a copy.

    Args and Raises: as of first_copies. Empty documents are copies of the first empty one.

    >>> exact_dedup(["one", "two", "one "])
    ExactReport(kept=[0, 1], dropped=[ExactCopy(document=2, copy_of=0)])
    """
    report = ExactReport([], [])
    copies = first_copies(documents, nfc=nfc, white_space=white_space, case=case)
    for index, copy_of in enumerate(copies):
        if index == copy_of:
            report.kept.append(index)
        else:
            report.dropped.append(ExactCopy(index, copy_of))
    return report

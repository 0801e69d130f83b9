"""A crawl with planted copies: what is copied, how often and how changed is known of each document.

    base       passages of the language reference and of library sources, stories; no two are alike
    once       a base document that stays alone
    exact      one with copies that are the same, or the same in other white space
    near       one with copies of which words are changed, or the end is cut off
    template   a story with its Chinese, and with other fillings in either language

Most documents stay alone, some have a few copies, few have very many: a heavy tail, as the web has.
The order is random, but the first of a family is the one that the others were made from.

That base documents are not alike, nor any document and one that is held out, is checked by their
true Jaccard similarity and not with MinHash, which is what the study asks about.

Origin:   Lee et al. 2021, arXiv:2107.06499: kinds of copies in web text, and how often they come.
Differs:  planted here, so that what deduplication finds can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..data.corpora import bilingual_stories, python_reference, standard_library_code
from ..data.shingles import shingles
from .dedup_changes import EXACT, NEAR, TEMPLATE, Change, fill_anew

ALIKE = 0.5  # true Jaccard from which on two base documents are too alike; below dedup's threshold
NGRAM = 5  # characters of a shingle
LEAST, MOST = 160, 320  # characters of a passage; a single paragraph may be twice as long
SOURCES = ("reference", "stories", "code")
TAIL = (("few", 0.05, 2, 12), ("many", 0.012, 15, 60), ("very many", 0.005, 150, 400))
# name, share of the base documents, copies of each beside itself: from, to


class Base(NamedTuple):
    text: str
    source: str  # of SOURCES


class Document(NamedTuple):
    text: str
    source: str
    family: int  # the same for a base document and all that was made from it
    kind: str  # of the family: "once", "exact", "near" or "template"
    change: str  # what was done to the text; "" for the first of the family


class Index(NamedTuple):
    values: Array  # (m,) uint64, the shingles of all documents, ascending
    owners: Array  # (m,) int64, of which document each is
    sizes: Array  # (n,) int64, shingles of each document


def index_of(texts: Sequence[str]) -> Index:
    """Prepare documents to be compared with."""
    sets = [shingles(text, NGRAM) for text in texts]
    sizes = np.array([len(s) for s in sets], np.int64)
    values = np.concatenate([np.empty(0, np.uint64), *sets])
    order = np.argsort(values, kind="stable")
    return Index(values[order], np.repeat(np.arange(len(sets)), sizes)[order], sizes)


def likeness(text: str, index: Index) -> Array:
    """Return the true Jaccard similarity of a document with each of the index, (n,) float64.

    >>> likeness("abcdef", index_of(["abcdef", "abcdexyz", "uvwxyz"])).round(2).tolist()
    [1.0, 0.2, 0.0]
    """
    mine = shingles(text, NGRAM)
    start, end = (np.searchsorted(index.values, mine, side) for side in ("left", "right"))
    lengths = end - start  # documents that have each of my shingles
    before = np.cumsum(lengths) - lengths
    places = np.repeat(start - before, lengths) + np.arange(lengths.sum())
    common = np.bincount(index.owners[places], minlength=len(index.sizes))
    both = index.sizes + len(mine) - common
    similarity: Array = common / np.maximum(both, 1)
    return similarity


def is_apart(index: Index, text: str) -> bool:
    """Say whether a document is like none of the index."""
    return bool(likeness(text, index).max(initial=0) < ALIKE)


def unlike(documents: Sequence[Base]) -> list[Base]:
    """Leave out every document that is too like an earlier one."""
    index = index_of([d.text for d in documents])
    kept = []
    for i, document in enumerate(documents):
        if likeness(document.text, index)[:i].max(initial=0) < ALIKE:
            kept.append(document)
    return kept


def passages(text: str) -> list[str]:
    """Cut a long text at blank lines into documents of some length; what is left over is left out.

    >>> [len(p) for p in passages("\\n\\n".join(["word " * 20] * 7))]
    [304, 304]
    """
    found: list[str] = []
    current = ""
    for paragraph in re.split(r"\n[ \t]*\n", text):
        if current and len(current) + len(paragraph) > MOST:
            found.append(current)
            current = ""
        current = f"{current}\n\n{paragraph}" if current else paragraph
    return [p for p in (*found, current) if LEAST <= len(p) <= 2 * MOST]


def base_documents(stories: int, code_bytes: int, reference_every: int) -> list[Base]:
    """Return documents of three sources of which no two are alike.

    Args:
        stories: how many to make; those in two languages are left out.
        code_bytes: of the standard library.
        reference_every: takes every so many-th topic of the language reference.
    """
    topics, code = python_reference()[::reference_every], standard_library_code(code_bytes)
    texts = {
        "reference": [p for topic in topics for p in passages(topic)],
        "stories": [s for s in bilingual_stories(stories, seed=0) if not halves(s)],
        "code": [p for file in code for p in passages(file)],
    }
    return unlike([Base(text, source) for source in SOURCES for text in texts[source]])


def halves(story: str) -> tuple[str, str] | None:
    """Return the English and the Chinese of a story that has both, else None.

    >>> halves("The egg\\n\\nOne.\\n\\n鸡蛋\\n\\n一。\\n")
    ('The egg\\n\\nOne.\\n', '鸡蛋\\n\\n一。\\n')
    """
    parts = story.split("\n\n")
    if len(parts) != 4:
        return None
    return f"{parts[0]}\n\n{parts[1]}\n", f"{parts[2]}\n\n{parts[3]}"


def crawl(
    base: Sequence[Base], held_out: Sequence[Base], templates: int, fillings: int, seed: int
) -> list[Document]:
    """Plant copies among base documents and shuffle.

    Args:
        base: each becomes the first of a family.
        held_out: a copy that is too like one of these is left out.
        templates: stories of two languages to fill anew.
        fillings: of each template; each in English or in Chinese.
        seed: of the choice and of the changes.
    """
    rng = np.random.default_rng([21, seed])
    order, families = rng.permutation(len(base)).tolist(), list[list[Document]]()
    for _, share, least, most in TAIL:
        for number in range(max(2, round(share * len(base)))):
            if not order:
                break
            kind, changes = (("exact", EXACT), ("near", NEAR))[number % 2]
            copies = int(rng.integers(least, most + 1))
            families.append(_family(base[order.pop()], kind, changes, copies, rng))
    families += [[Document(base[i].text, base[i].source, 0, "once", "")] for i in order]
    apart = partial(is_apart, index_of([document.text for document in held_out]))
    families += _templates(templates, fillings, apart, rng)

    documents = [d._replace(family=i) for i, family in enumerate(families) for d in family]
    documents = [d for d in documents if not d.change or apart(d.text)]
    shuffled = [documents[i] for i in rng.permutation(len(documents))]
    place: dict[int, int] = {}
    for i, document in enumerate(shuffled):
        at = place.setdefault(document.family, i)
        if not document.change:
            shuffled[at], shuffled[i] = document, shuffled[at]
    return shuffled


def _family(
    first: Base, kind: str, changes: dict[str, Change], copies: int, rng: np.random.Generator
) -> list[Document]:
    family, names = [Document(first.text, first.source, 0, kind, "")], list(changes)
    for _ in range(copies):
        name = names[rng.integers(len(names))]
        family.append(Document(changes[name](first.text, rng), first.source, 0, kind, name))
    return family


def _templates(
    n: int, fillings: int, apart: Callable[[str], bool], rng: np.random.Generator
) -> list[list[Document]]:
    """Return families of stories: English, its translation, and fillings in both languages."""
    pairs = [pair for story in bilingual_stories(10 * n + 20, seed=1) if (pair := halves(story))]
    families = []
    for english, chinese in [pair for pair in pairs if apart(pair[0])][:n]:
        family = [Document(english, "stories", 0, "template", ""),
                  Document(chinese, "stories", 0, "template", "translated")]  # fmt: skip
        for _ in range(fillings):
            which = int(rng.integers(2))
            text = fill_anew((english, chinese)[which], rng)
            family.append(Document(text, "stories", 0, "template", TEMPLATE[which]))
        families.append(family)
    return families

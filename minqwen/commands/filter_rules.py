"""The rules that `minqwen filter` was asked for, made where they are needed: here, or in a worker.

What is sent to a worker are names of files and numbers; a model or a classifier is read there, once
for a process. With a name goes a digest of what the file holds, so that a worker that lives on does
not go by a file that was replaced since.
"""

from __future__ import annotations

import hashlib
import math
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from ..data.blocklist import blocklist_rule, make_blocklist
from ..data.classifier_file import load_text_classifier
from ..data.decontamination import HeldOut, hold_out, overlap_rule
from ..data.language import language_rule
from ..data.quality_rules import (
    C4,
    FINEWEB,
    GOPHER_QUALITY,
    GOPHER_REPETITION,
    Decision,
    Rule,
    judge,
)
from ..data.text_classifier import classifier_rule
from ..model.checkpoint import load_checkpoint
from ..tokenizer.bpe import Tokenizer
from ..tokenizer.special_tokens import ENDOFTEXT
from ..training.perplexity_rule import document_perplexity, perplexity_rule
from .files import checkpoint_of, read_text, texts_of

RULES = {
    "gopher-quality": GOPHER_QUALITY,
    "gopher-repetition": GOPHER_REPETITION,
    "c4": C4,
    "fineweb": FINEWEB,
}


class RuleBook(NamedTuple):
    """What was asked for. Paths are whole, so that a worker in another folder finds them."""

    rules: tuple[str, ...] = ()  # names of RULES
    languages: tuple[str, ...] = ()
    language_least: float = 0.5
    blocklist: str | None = None
    blocked_most: int = 0
    classifiers: tuple[tuple[str, float], ...] = ()  # file, least probability of being good
    test_sets: tuple[str, ...] = ()
    test_field: str = "text"
    overlap: int = 13  # words in a row
    model: str | None = None
    bits_least: float = 0.0  # per byte
    bits_most: float | None = None  # None: any; JSON has no infinity
    files: tuple[tuple[str, str], ...] = ()  # each that is named, and its digest

    def decide(self, text: str) -> Decision:
        """Judge a document."""
        return judge(text, make_rules(self))


@lru_cache(maxsize=1)
def make_rules(book: RuleBook) -> tuple[Rule, ...]:
    """Make the rules, cheap ones first; all are asked of every document.

    Raises:
        ValueError: a file is not what it should be, a language is unknown, or there is no rule.
        FileNotFoundError: a file does not exist.
        ImportError: a package that a rule needs is missing.
    """
    rules: list[Rule] = []
    for name in book.rules:
        rules += RULES[name]
    if book.blocklist:
        entries = read_text(Path(book.blocklist)).splitlines()
        if not "".join(entries).strip():
            raise ValueError(f"--blocklist {book.blocklist} holds no phrase")
        rules.append(blocklist_rule(make_blocklist(entries), book.blocked_most))
    if book.test_sets:
        rules.append(overlap_rule(held_out_by(book)))
    if book.languages:
        rules.append(language_rule(book.languages, book.language_least))
    for path, least in book.classifiers:
        rules.append(classifier_rule(load_text_classifier(path), least, Path(path).stem))
    if book.model:
        folder = checkpoint_of(Path(book.model))
        config, params = load_checkpoint(folder)
        tokenizer = Tokenizer.from_pretrained(folder)
        score = partial(
            document_perplexity,
            params,
            config,
            partial(tokenizer.encode, disallowed_special=()),
            context_length=config.max_position_embeddings,
            separator_id=tokenizer.special_tokens.get(ENDOFTEXT),
        )
        low, high = book.bits_least, math.inf if book.bits_most is None else book.bits_most
        rules.append(perplexity_rule(score, low=low, high=high, unit="bits per byte"))
    if not rules:
        raise ValueError(
            "no rule: name some with --rules, --languages, --blocklist, --test-set, --classifier "
            "or --model"
        )
    return tuple(rules)


@lru_cache(maxsize=1)  # asked for its note and for its rule
def held_out_by(book: RuleBook) -> HeldOut:
    """Read the test sets.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a line is no document, or no text is long enough.
    """
    texts = [
        text for path in book.test_sets for text in texts_of(Path(path), field=book.test_field)
    ]
    return hold_out(texts, book.overlap)


def sealed(book: RuleBook) -> RuleBook:
    """Add digests of the files that the book names.

    Raises:
        FileNotFoundError: a file does not exist.
    """
    files = [path for path, _ in book.classifiers]
    if book.blocklist:
        files.append(book.blocklist)
    files += book.test_sets
    if book.model:
        folder = checkpoint_of(Path(book.model))
        if not folder.is_dir():
            raise FileNotFoundError(f"no checkpoint folder {folder}")
        files += sorted(str(path) for path in folder.iterdir() if path.is_file())
    return book._replace(files=tuple((path, _digest(path)) for path in files))


def fingerprints(book: RuleBook) -> dict[str, Any]:
    """Return the settings as JSON holds them, with the digests."""
    return book._asdict() | {"files": dict(book.files)}


def _digest(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def whole_path(path: Path) -> str:
    """Return a path that means the same in another folder."""
    return os.path.abspath(path)

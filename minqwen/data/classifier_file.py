"""File of a classifier: one .npz that holds numbers only, replaced whole or not at all.

format             which file this is, and which version
w, b               (V,) and () float64
character_ngrams   lengths of the runs of characters
word_ngrams        lengths of the phrases
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..shapes import require_axes, require_shape
from .streaming.workers import naming
from .text_classifier import TextClassifier

FORMAT = "minqwen text classifier 1"
DAMAGED = (  # what zipfile and NumPy raise at wrong bytes
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


def save_text_classifier(classifier: TextClassifier, path: str | os.PathLike[str]) -> None:
    """Write a classifier to one file, whose name must end in .npz.

    Raises:
        ValueError: the name ends otherwise.
        OSError: the file cannot be written.
    """
    _require_npz(path)
    w, b, characters, words = classifier
    aside = Path(path).with_suffix(".part.npz")
    try:
        with naming(path):
            np.savez_compressed(
                aside,
                format=np.array(FORMAT),
                w=w,
                b=b,
                character_ngrams=np.array(characters, np.int64),
                word_ngrams=np.array(words, np.int64),
            )
        os.replace(aside, path)  # whole, or not at all
    finally:
        aside.unlink(missing_ok=True)


def load_text_classifier(path: str | os.PathLike[str]) -> TextClassifier:
    """Read a classifier; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of `save_text_classifier`.
    """
    _require_npz(path)
    with open(path, "rb") as stream:  # np.load leaves a damaged file open
        try:
            return _classifier_in(np.load(stream, allow_pickle=False))
        except DAMAGED:
            raise ValueError(f"{path} is not a {FORMAT!r}, or is damaged") from None


def _classifier_in(file: Any) -> TextClassifier:
    """Return what np.load found; raise one of DAMAGED unless it can be used."""
    if not isinstance(file, np.lib.npyio.NpzFile) or str(file["format"]) != FORMAT:
        raise ValueError
    w, b, *sizes = (file[name] for name in TextClassifier._fields)
    characters, words = (tuple(map(int, size)) for size in sizes)
    require_axes("w", w, "V")
    require_shape("b", b)
    usable = w.size and w.dtype == b.dtype == np.float64 and min((1, *characters, *words)) == 1
    if not usable or not (np.isfinite(w).all() and np.isfinite(b)):
        raise ValueError
    return TextClassifier(w, b, characters, words)


def _require_npz(path: str | os.PathLike[str]) -> None:
    if not os.fspath(path).endswith(".npz"):
        raise ValueError(f"the name of the file must end in .npz, got {os.fspath(path)}")

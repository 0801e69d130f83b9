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

import numpy as np

from ..shapes import require_axes, require_shape
from .text_classifier import TextClassifier

FORMAT = "minqwen text classifier 1"


def save_text_classifier(classifier: TextClassifier, path: str | os.PathLike[str]) -> None:
    """Write a classifier to one file, whose name must end in .npz.

    Raises:
        ValueError: the name ends otherwise.
    """
    _require_npz(path)
    w, b, characters, words = classifier
    aside = Path(path).with_suffix(".part.npz")
    np.savez_compressed(
        aside,
        format=np.array(FORMAT),
        w=w,
        b=b,
        character_ngrams=np.array(characters, np.int64),
        word_ngrams=np.array(words, np.int64),
    )
    os.replace(aside, path)  # whole, or not at all


def load_text_classifier(path: str | os.PathLike[str]) -> TextClassifier:
    """Read a classifier; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of `save_text_classifier`.
    """
    _require_npz(path)
    try:
        with open(path, "rb") as stream:  # np.load leaves a damaged file open
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile) or str(file["format"]) != FORMAT:
                raise ValueError
            w, b, *sizes = (file[name] for name in TextClassifier._fields)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        raise ValueError(f"{path} is not a {FORMAT!r}, or is damaged") from None
    characters, words = (tuple(map(int, size)) for size in sizes)
    require_axes("w", w, "V")
    require_shape("b", b)
    return TextClassifier(w, b, characters, words)


def _require_npz(path: str | os.PathLike[str]) -> None:
    if not os.fspath(path).endswith(".npz"):
        raise ValueError(f"the name of the file must end in .npz, got {os.fspath(path)}")

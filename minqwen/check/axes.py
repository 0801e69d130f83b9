"""What the axes of an array are called: a letter in the code, a word in a report.

Letters are those of docs/conventions.md. "..." stands for any number of axes, H*Dh for two that are
joined.
"""

from __future__ import annotations

TIME = ("T", "S")  # the axes along which a text runs
NAMES = {
    **{"B": "batch", "T": "time", "S": "key", "H": "head", "Hkv": "kv head", "Dh": "feature"},
    **{"D": "feature", "F": "feature", "V": "vocabulary", "N": "token", "E": "expert"},
    **{"K": "choice", "Fe": "feature", "Fs": "feature", "2Fe": "feature", "G": "group"},
    **{"Din": "input feature", "Dout": "output feature", "Dh/2": "pair"},  # a pair that RoPE turns
    **{"Hkv*Dh": "feature"},
    **{"M": "merge", "2": "member", "1": "row", "one": "column"},
}


def letters(axes: str, ndim: int) -> list[str]:
    """Return a letter for each axis of an array; "..." stands for any number of them.

    >>> letters("... D", 3), letters("B T", 2)
    (['', '', 'D'], ['B', 'T'])
    """
    names = axes.split()
    if "..." in names:
        at = names.index("...")
        names[at : at + 1] = [""] * (ndim - len(names) + 1)
    return names if len(names) == ndim else [""] * ndim


def axis_name(letter: str, number: int) -> str:
    """Return what one axis is called.

    >>> axis_name("Dh", 3), axis_name("", 1), axis_name("Q", 0)
    ('feature', 'axis 1', 'Q')
    """
    return NAMES.get(letter, letter) or f"axis {number}"


def index_name(letter: str, number: int) -> str:
    """Return what stands before an index of this axis.

    >>> index_name("T", 0), index_name("", 1)
    ('time', 'axis 1, index')
    """
    return NAMES.get(letter, letter) or f"axis {number}, index"


def in_words(place: tuple[int, ...], axes: str) -> str:
    """Name a place by its axes.

    >>> in_words((0, 2), "B T"), in_words((1, 0, 4), "... D")
    ('batch 0, time 2', 'row (1, 0), feature 4')
    """
    names = letters(axes, len(place))
    rows = tuple(index for letter, index in zip(names, place, strict=True) if not letter)
    words = [f"row {rows[0] if len(rows) == 1 else rows}"] if rows else []
    words += [
        f"{NAMES.get(letter, letter)} {index}"
        for letter, index in zip(names, place, strict=True)
        if letter
    ]
    return ", ".join(words) or "the number itself"

"""How many documents of each source go into a mixture: from shares of the bytes to draws.

    share of the bytes    mixture_shares of the sources' bytes, or of weights of your own
    share of the draws    document_shares: a source of long documents is drawn less often
    draws                 bytes wanted / mean bytes of a draw

Sizes are bytes of UTF-8. A token of Qwen's is about four bytes of English and also of Chinese, so
shares of bytes are nearly shares of tokens.

Paper:    Qwen Technical Report, 2.1 Data: sources of high quality are up-sampled; instruction data
          is mixed into pretraining.
Differs:  Qwen's shares are not published, see mixture.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..mixture import Mixture, document_shares, make_mixture, mixture_shares
from .document_files import Form

SHARD = 10_000  # draws of a file that is written, and of a block of mixture.py


class MixSettings(NamedTuple):
    form: Form = Form()
    temperature: float = 1.0
    boosts: Mapping[str, float] = {}
    fixed: Mapping[str, float] = {}  # shares of the whole
    weights: Mapping[str, float] = {}  # of the other sources, instead of their bytes
    bytes: float | None = None  # of text to write, about; None: as many as the sources have
    seed: int = 0


def byte_shares(size: Mapping[str, int], settings: MixSettings) -> dict[str, float]:
    """Return the share of the bytes that each source shall have, in the order of the sources.

    Args:
        size: bytes of each source.
        settings: of the mixture.

    Raises:
        ValueError: a source holds no text, a name is unknown, a weight is missing, or a number is
            out of range.

    >>> byte_shares({"web": 900, "books": 100}, MixSettings(temperature=2))
    {'web': 0.75, 'books': 0.25}
    """
    s = settings
    if empty := [name for name, n in size.items() if not n]:
        raise ValueError(f"source {empty[0]!r} holds no text")
    if unknown := sorted({*s.boosts, *s.fixed, *s.weights} - set(size)):
        raise ValueError(f"there is no source {unknown[0]!r}; the sources are {', '.join(size)}")
    others = {name: float(n) for name, n in size.items() if name not in s.fixed}
    if s.weights and (missing := [name for name in others if name not in s.weights]):
        raise ValueError(f"source {missing[0]!r} has no weight, and others have")
    shares = mixture_shares(
        s.weights or others, temperature=s.temperature, boosts=s.boosts, fixed=s.fixed
    )
    return {name: shares[name] for name in size}


def plan_draws(
    count: Mapping[str, int],
    size: Mapping[str, int],
    shares: Mapping[str, float],
    settings: MixSettings,
) -> tuple[int, Mixture]:
    """Return how many documents to draw, and the mixture that they are drawn from.

    Args:
        count: documents of each source.
        size: bytes of each source.
        shares: of byte_shares.
        settings: of the mixture.

    Raises:
        ValueError: a share is too small to be met.

    >>> count, size = {"web": 90, "books": 1}, {"web": 9000, "books": 1000}
    >>> draws, mixture = plan_draws(count, size, {"web": 0.5, "books": 0.5}, MixSettings())
    >>> draws, mixture.per_block  # 50 pages of 100 bytes, and 5 times the book of 1000
    (55, {'web': 50, 'books': 5})
    """
    mean = {name: size[name] / count[name] for name in count}
    drawn = document_shares(shares, mean)
    wanted = sum(size.values()) if settings.bytes is None else settings.bytes
    draws = max(1, round(wanted / sum(share * mean[name] for name, share in drawn.items())))
    block, rarest = min(SHARD, draws), min(drawn, key=drawn.__getitem__)
    if drawn[rarest] * block < 1 - 1e-9:
        more = ", or write more" if block < SHARD else ""
        raise ValueError(
            f"source {rarest!r} has {drawn[rarest]:.2g} of the draws, less than one in {block}: "
            f"give it a larger share{more}"
        )
    return draws, make_mixture(count, drawn, settings.seed, block)

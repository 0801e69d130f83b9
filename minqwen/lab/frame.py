"""What all studies do around their work: one folder, one process, and going on after a stop.

    with opened(out, "minqwen lab moe", CELL, settings.to_dict(), progress) as results:
        ...train what is not trained; runs keep their own checkpoints
        begin_measuring(results, facts, say)
        ...measure what results.get() does not have, and results.put() it

The folder belongs to one study of one kind with one set of settings. Numbers in results.json are
kept while everything that they came from is as it was: see results.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..extras import require_extra
from ..training.progress import wants_bar
from ..training.run_folder import locked
from .results import Results


@contextmanager
def opened(
    out: Path,
    kind: str,
    cell: Sequence[str],
    settings: dict[str, Any] | None,
    progress: bool,
) -> Iterator[Results]:
    """Make the folder ours until the end of the block.

    Args:
        out: folder of the study; made if missing. One that holds anything else is refused.
        kind: the command that makes it.
        cell: what must be in a cell of results.json.
        settings: as JSON holds them; a folder with others is refused. None: whoever trains in it
            sees to that.
        progress: whether the training will show a bar.

    Raises:
        ImportError: a package of the extra `run` is missing; before any work.
        FileExistsError: out is a file, or holds something else.
        ValueError: results.json is damaged, or is of other settings.
        OSError: out cannot be written, or another process works in it.
    """
    require_extra("matplotlib", *["tqdm"] * wants_bar(progress))
    with locked(out):
        results = Results(out, kind, cell)
        if settings is not None:
            require_same_settings(out, results, settings)
            results.facts = results.facts or {"settings": settings}
            results.save()
        yield results


def require_same_settings(out: Path, results: Results, settings: dict[str, Any]) -> None:
    """Raise ValueError, naming the first difference, if the folder is of other settings.

    Not even steps may grow: learning rates, and what else is cut by them, follow from their number.
    """
    before = results.facts.get("settings", {})
    for name, value in settings.items():
        if name in before and before[name] != value:
            raise ValueError(
                f"the study in {out} has {name} = {before[name]!r}, not {value!r}: use the same "
                "value, or another folder"
            )


def begin_measuring(
    results: Results,
    facts: dict[str, Any],
    say: Callable[[str], None],
    what: str = "parameters or code",
) -> None:
    """Take the facts; say so if numbers that came from others are dropped."""
    if results.start(facts):
        say(f"results.json came from other {what}: measured again")

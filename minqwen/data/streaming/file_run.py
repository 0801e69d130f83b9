"""A pass over files that can be stopped and goes on: what it works on, and where it keeps its work.

    OUT/.work/plan.json    kind, settings, and the blocks of files; others may not use the folder
    OUT/.work/ID/...       results of single jobs, each whole or not there, see workers.once; the ID
                           is of this pass, so that no process takes what it remembers of another
    OUT/report.json        written last; with it, the pass is done and .work goes

Files that were changed, added or taken away since the pass began would mix old results with new
ones, so that is an error.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from .input_files import InputFile, Part, cut_file, is_cut, make_blocks
from .workers import Watch, Workers, naming, once

BLOCK = 16 * 2**20  # bytes of input in a job, about
VERSION = 1  # of the files of the work; others are not read


class Plan(NamedTuple):
    kind: str  # the command
    settings: dict[str, Any]  # as JSON holds them
    blocks: list[list[Part]]


class Job(NamedTuple):
    work: str  # OUT/.work/ID, under a path that all workers see
    block: int


def begin(
    kind: str,
    files: Sequence[InputFile],
    out: Path,
    settings: dict[str, Any],
    block_bytes: int,
    workers: Workers,
    watch: Watch,
) -> tuple[Path, Plan]:
    """Cut the files into blocks and write the plan, or go on with the one that is there.

    Args:
        kind: the command.
        files: as found; no two of one name.
        out: folder of the output.
        settings: as JSON holds them.
        block_bytes: of a block, about.
        workers: who cuts large files.
        watch: see workers.py.

    Raises:
        FileExistsError: out holds something else.
        ValueError: out holds a pass with other settings or files.

    Returns:
        Folder for results, and the plan; that of a pass that is done has no blocks.
    """
    facts = {"version": VERSION, "kind": kind, "settings": settings, "files": files}
    facts = json.loads(json.dumps(facts))  # tuples are lists there
    path = out.absolute() / ".work" / "plan.json"
    if done := finished(out):
        _require_same(out, done, facts)
        shutil.rmtree(path.parent, ignore_errors=True)  # it was stopped in finish
        return path.parent, Plan(kind, settings, [])
    if path.exists():
        plan = json.loads(path.read_text(encoding="utf-8"))
        _require_same(out, plan, facts)
    else:
        _require_empty(out)
        large = [file for file in files if is_cut(file, block_bytes)]
        cut = workers.map(partial(cut_file, block_bytes=block_bytes), large)
        parts_of = dict(zip(large, watch("cut", cut, len(large)), strict=True))
        parts = (parts_of.get(file) or cut_file(file, block_bytes) for file in files)
        blocks = make_blocks(chain.from_iterable(parts), block_bytes)
        plan = facts | {"id": uuid.uuid4().hex, "blocks": blocks}
        once(path, partial(Path.write_text, data=json.dumps(plan), encoding="utf-8"))
    work = path.with_name(plan["id"])
    work.mkdir(exist_ok=True)
    return work, load_plan(work)


@lru_cache(maxsize=2)
def load_plan(work: Path) -> Plan:
    """Read the plan; each process reads it once."""
    facts = json.loads((work.parent / "plan.json").read_text(encoding="utf-8"))
    blocks = [
        [Part(InputFile(*file), *numbers) for file, *numbers in block] for block in facts["blocks"]
    ]
    return Plan(facts["kind"], facts["settings"], blocks)


def finished(out: Path) -> dict[str, Any] | None:
    """Return the report of a pass that is done, or None.

    Raises:
        FileExistsError: there is a report.json of something else.
    """
    try:
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        report = None
    if not isinstance(report, dict) or "kind" not in report:
        raise FileExistsError(f"{out / 'report.json'} is of something else: choose another folder")
    return report


def finish(work: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Write the report with what the plan says, and remove the work."""
    facts = json.loads((work.parent / "plan.json").read_text(encoding="utf-8"))
    del facts["blocks"], facts["id"]
    report = facts | report
    aside = work / "report.json"
    text = json.dumps(report, ensure_ascii=False, indent=1)
    with naming(aside):
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(aside, work.parents[1] / "report.json")
    shutil.rmtree(work.parent, ignore_errors=True)  # what stays goes when it is called again
    return report


def _require_empty(out: Path) -> None:
    """Raise unless a pass can begin in this folder; one may have been stopped at its very first."""
    work = out / ".work"
    inside = [entry for entry in out.glob("*") if entry.name != work.name]
    inside += [entry for entry in work.glob("*") if entry.suffix != ".json" or entry.name[0] != "."]
    if inside or work.is_file():
        raise FileExistsError(f"--out {out} holds something else: choose another folder")


def _require_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in ("kind", "version"):
        if before.get(name) != now[name]:
            raise ValueError(f"{out} is of {before.get(name)!r}, not {now[name]!r}: another --out")
    old, new = (dict(_flat(facts["settings"])) for facts in (before, now))
    for name in dict.fromkeys([*new, *old]):
        if old.get(name) == new.get(name):
            continue
        if name.startswith("files."):
            path = name.removeprefix("files.")
            raise ValueError(f"{path} is another than in the pass in {out}: another --out")
        raise ValueError(
            f"the pass in {out} has {name} = {old.get(name)!r}, not {new.get(name)!r}: "
            "use the same value, or another --out"
        )
    changed = _first_difference(before["files"], now["files"])
    if changed:
        raise ValueError(f"{changed} was changed since the pass in {out} began: another --out")
    if before["files"] != now["files"]:
        raise ValueError(f"the pass in {out} has the files in another order: another --out")


def _flat(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings, those of dictionaries one by one, to tell the one that differs."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _first_difference(before: Iterable[list[Any]], now: Iterable[list[Any]]) -> str:
    old, new = ({tuple(file) for file in files} for files in (before, now))
    return min((str(path) for path, *_ in old ^ new), default="")

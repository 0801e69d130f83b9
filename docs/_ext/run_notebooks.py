"""Notebooks are run before Sphinx reads them, as many at a time as it has processes.

Sphinx cuts the sorted list of pages into long stretches, one for a process. All notebooks stand
side by side in it, so that one process would run them one after another while the other waits.
Here they are run first, and put into the cache of myst-nb, which then finds every one.

A Chinese notebook has the code of the English one, but for the line that says where the checkout
is. Where that is so, it gets the outputs of the English one. A notebook that fails is left to
myst-nb, which runs it again and says what is wrong.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nbformat

CHECKOUT = re.compile(r'^SOURCE = "[./]+"', re.MULTILINE)


def read(path: Path) -> nbformat.NotebookNode:
    """Return a notebook as myst-nb reads it."""
    return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the code of a notebook, the same wherever it lies in the checkout.

    >>> cells = ['SOURCE = "../.."  # here', "print(1)"]
    >>> code(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]))
    ['SOURCE = "."  # here', 'print(1)']
    """
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return [CHECKOUT.sub('SOURCE = "."', cell) for cell in cells]


def original(path: Path) -> Path:
    """Return the notebook that is run for this one: itself, or the English one of a Chinese one."""
    english = path.parent.parent / path.name
    same = (
        path.parent.name == "zh" and english.is_file() and code(read(path)) == code(read(english))
    )
    return english if same else path


def run(path: Path, timeout: int) -> tuple[str, float] | None:
    """Return a notebook with its outputs, as text, and the seconds it took; None if it failed."""
    from jupyter_cache.executors.utils import single_nb_execution

    logging.getLogger("traitlets").setLevel(logging.WARNING)

    result = single_nb_execution(
        read(path), cwd=str(path.parent), timeout=timeout, allow_errors=False
    )
    return None if result.err else (nbformat.writes(result.nb), result.time)


def with_outputs(notebook: nbformat.NotebookNode, done: nbformat.NotebookNode) -> None:
    """Put the outputs of one notebook into another with the same code."""
    cells = iter(cell for cell in done.cells if cell.cell_type == "code")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            ran = next(cells)
            cell.outputs, cell.execution_count = ran.outputs, ran.execution_count


def fill_cache(app: Any, env: Any, docnames: list[str]) -> None:
    """Run what is not in the cache yet, of the pages that will be read."""
    if app.config.nb_execution_mode != "cache":
        return
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    cache = get_cache(app.config.nb_execution_cache_path)

    def known(path: Path) -> nbformat.NotebookNode | None:
        try:
            return cache.merge_match_into_notebook(read(path))[1]
        except KeyError:
            return None

    def keep(path: Path, notebook: nbformat.NotebookNode, seconds: float) -> None:
        bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)

    paths = [Path(env.doc2path(name)) for name in docnames]
    missing = [path for path in paths if path.suffix == ".ipynb" and known(path) is None]
    originals = {path: original(path) for path in missing}
    to_run = sorted({path for path in originals.values() if known(path) is None})
    if to_run:
        with ProcessPoolExecutor(max(1, min(app.parallel, len(to_run)))) as pool:
            timeouts = [app.config.nb_execution_timeout] * len(to_run)
            for path, result in zip(to_run, pool.map(run, to_run, timeouts), strict=True):
                if result:
                    keep(path, nbformat.reads(result[0], as_version=4), result[1])
    for path, source in originals.items():
        done = known(source)
        if path != source and done is not None:
            notebook = read(path)
            with_outputs(notebook, done)
            keep(path, notebook, 0.0)


def setup(app: Any) -> dict[str, Any]:
    """Run the notebooks once Sphinx knows which pages it will read."""
    app.connect("env-before-read-docs", fill_cache)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

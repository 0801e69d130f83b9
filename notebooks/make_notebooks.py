"""Make every NN_name.ipynb from its NN_name.py, byte for byte and without outputs.

    python notebooks/make_notebooks.py            write what is out of date
    python notebooks/make_notebooks.py --check    write nothing; exit 1 if something is out of date

Needs jupytext (in the extra `test`). The result depends on the .py alone: jupytext would give cells
random ids and write down its own version, so ids and metadata are set here. JupyterLab asks for a
kernel when a notebook names none, so the metadata name one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources() -> list[Path]:
    """Return the files that people edit, in reading order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def build(source: Path) -> str:
    """Return the content of the .ipynb that belongs to a NN_name.py."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells):
        cell.id = f"c{i:03d}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def stale() -> dict[Path, str]:
    """Return the notebooks that are missing or differ from their source, with the right content."""
    wanted = {source.with_suffix(".ipynb"): build(source) for source in sources()}
    return {
        path: text
        for path, text in wanted.items()
        if not path.exists() or path.read_bytes() != text.encode("utf-8")
    }


def orphans() -> list[Path]:
    """Return the notebooks that have no source."""
    return [p for p in sorted(FOLDER.glob("*.ipynb")) if not p.with_suffix(".py").exists()]


def main() -> int:
    """Write the notebooks, or compare them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    check = parser.parse_args().check
    out_of_date, without_source = stale(), orphans()
    for path, text in out_of_date.items():
        if not check:
            path.write_bytes(text.encode("utf-8"))
        print("out of date:" if check else "written:", path.name)
    for path in without_source:
        print("no .py belongs to", path.name)
    if not out_of_date and not without_source:
        print("all notebooks are up to date")
    return int(bool(without_source or (check and out_of_date)))


if __name__ == "__main__":
    sys.exit(main())

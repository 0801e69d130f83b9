"""MathJax 3.2.2 as one file, from a package of PyPI or of npm; it is not stored in the repository.

Version 3 and not 4: the single file of version 4 loads parts of its fonts from a server.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

SHA256 = "d4295dc33744836935c1399feece5159577b34c5c8ffb9f1c6324cd82e03a882"
NPM = "mathjax@3.2.2"


def put_mathjax(folder: Path) -> Path:
    """Put mathjax/tex-svg.js into a folder, and return the folder."""
    target = folder / "mathjax" / "tex-svg.js"
    if target.is_file() and digest(target) == SHA256:
        return folder
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        package = distribution("sphinx-mathjax-offline")
        found = package.locate_file("sphinx-mathjax-offline/static/mathjax/tex-svg.js")
        shutil.copyfile(str(found), target)
    except (PackageNotFoundError, FileNotFoundError):
        from_npm(target)
    if digest(target) != SHA256:
        target.unlink()
        raise ValueError("the file tex-svg.js that was found is not that of MathJax 3.2.2")
    return folder


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def from_npm(target: Path) -> None:
    """Take the file out of the npm package."""
    if not shutil.which("npm"):
        raise FileNotFoundError("MathJax: pip install sphinx-mathjax-offline, or install npm")
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(
            ["npm", "pack", NPM], cwd=folder, check=True, capture_output=True, text=True
        )
        with tarfile.open(Path(folder) / made.stdout.split()[-1]) as archive:
            content = archive.extractfile("package/es5/tex-svg.js")
            assert content is not None
            target.write_bytes(content.read())

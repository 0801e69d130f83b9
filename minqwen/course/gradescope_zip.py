"""An assignment for Gradescope: staff/gradescope/autograder.zip, to be uploaded as it is.

    setup.sh                 once, when the container is built: Python 3.11 or newer, NumPy, regex
    run_autograder           for every submission; see gradescope_run.py
    assignment.json          with the hidden seed
    limits.json              seconds, memory, when hidden rows are shown: yours to change
    minqwen/                 this package, so that neither it nor anything else is downloaded

No conda, no browser, no LaTeX: the container is built in about a minute. The same assignment gives
the same bytes.

Origin: Gradescope's documentation of autograder specifications.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from .assignment import FILE, Assignment, assignment_text, require_hidden_seed

LIMITS_FILE = "limits.json"
MOMENT = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip can hold
SETUP = """\
#!/usr/bin/env bash
# Gradescope runs this once, as root, when it builds the container.
set -euo pipefail
BASE="${MINQWEN_AUTOGRADER:-/autograder}"
SOURCE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

PYTHON=""
for name in python3.14 python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
    then
        PYTHON="$name"
        break
    fi
done
if [ -z "$PYTHON" ]; then # Ubuntu 22.04 has 3.10, and this one beside it
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
        python3.11 python3.11-venv
    PYTHON=python3.11
fi
"$PYTHON" -m venv "$BASE/venv"
"$BASE/venv/bin/python" -m pip install --quiet --disable-pip-version-check "numpy>=2.0" regex

# The submission is graded by a user who may read neither the hidden seed nor the results.
if [ "$(id -u)" = 0 ]; then
    USER_NAME="${MINQWEN_USER:-minqwen}"
    id "$USER_NAME" >/dev/null 2>&1 || useradd --system --no-create-home "$USER_NAME" || true
    chmod 600 "$SOURCE/assignment.json"
fi
"""
RUN = """\
#!/usr/bin/env bash
# Gradescope runs this for every submission, as root, and then reads results/results.json.
BASE="${MINQWEN_AUTOGRADER:-/autograder}"
export PYTHONPATH="$BASE/source" PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1
exec "$BASE/venv/bin/python" -m minqwen.course.gradescope_run
"""


@dataclass(frozen=True)
class Limits:
    """What a teacher may change in limits.json."""

    seconds: float = 10.0  # for one call of a function
    memory_mb: int = 2048  # of the student's process
    total_seconds: float = 540.0  # for a submission; Gradescope stops after 10 minutes by itself
    after: str = "after_published"  # when students see the hidden rows
    copied: str = "note"  # or "zero"


def write(assignment: Assignment, out: Path) -> list[Path]:
    """Write autograder.zip; return it.

    Raises:
        ValueError: the assignment has no hidden seed.
    """
    path = out / "staff" / "gradescope" / "autograder.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive(assignment))
    return [path]


def archive(assignment: Assignment) -> bytes:
    """Return the bytes of the zip."""
    require_hidden_seed(assignment)
    files = {
        "setup.sh": SETUP.encode(),
        "run_autograder": RUN.encode(),
        FILE: assignment_text(assignment).encode(),
        LIMITS_FILE: (json.dumps(asdict(Limits()), indent=2) + "\n").encode(),
        **package_files(),
    }
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, MOMENT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, which has the bits of the next line
            runs = name in ("setup.sh", "run_autograder")
            entry.external_attr = (0o100755 if runs else 0o100644) << 16
            zipped.writestr(entry, data)
    return held.getvalue()


def package_files() -> dict[str, bytes]:
    """Return the files of this package by their place in the zip: source only."""
    root = Path(__file__).parents[1]
    return {
        f"{root.name}/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.suffix in (".py", ".typed") and path.is_file()
    }

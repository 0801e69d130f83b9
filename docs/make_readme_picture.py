"""Write docs/pictures/check.svg: what `minqwen check` really says about a wrong function.

python docs/make_readme_picture.py [--check]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

PICTURE = Path(__file__).parent / "pictures" / "check.svg"
WRONG = """\
import numpy as np

def rmsnorm(x, w, eps=1e-6):
    return x / (np.sqrt(np.mean(x * x, -1, keepdims=True)) + eps) * w
"""
COMMAND = ["check", "rmsnorm", "--impl", "mine.py:rmsnorm"]
NO_BREAK = "\u00a0"  # or spaces would be joined
COLORS = {"WRONG": "#ff8a80", "ok": "#8ce99a", "looks": "#ffd43b"}
WIDTH, HEIGHT, SIZE, MARGIN = 8.05, 18, 13, 16  # of a character, a line, the letters, the border


def output() -> list[str]:
    """Return the lines of a terminal in which the file is shown and checked."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "mine.py").write_text(WRONG, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "minqwen", *COMMAND],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
    assert done.returncode == 1, done.stderr  # it is wrong, and the command says so
    shown = [*WRONG.splitlines()[2:], "", "$ minqwen " + " ".join(COMMAND)]
    return ["$ tail -n 2 mine.py", *shown, *done.stdout.rstrip().splitlines()]


def picture(lines: list[str]) -> str:
    """Return the lines as SVG."""
    width = 2 * MARGIN + WIDTH * max(map(len, lines))
    height = 2 * MARGIN + HEIGHT * len(lines)
    rows = []
    for i, line in enumerate(lines):
        word = next((w for w in line.split()[:3] if w in COLORS), "")
        color = "#74c0fc" if line.startswith("$") else COLORS.get(word, "#dee2e6")
        y = MARGIN + HEIGHT * (i + 0.75)
        text = escape(line).replace(" ", NO_BREAK)
        rows.append(f'<text x="{MARGIN}" y="{y:g}" fill="{color}">{text}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-label="minqwen check names the mistake in a wrong RMSNorm">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#1b1f24"/>\n'
        f'<g font-family="ui-monospace, Menlo, Consolas, monospace" font-size="{SIZE}">\n'
        + "\n".join(rows)
        + "\n</g>\n</svg>\n"
    )


def main(check: bool) -> int:
    """Write the picture, or say whether it is what would be written."""
    text = picture(output())
    if check:
        return int(PICTURE.read_text(encoding="utf-8") != text)
    PICTURE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))

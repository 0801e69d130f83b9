"""What a training run shows on stderr while it works."""

from __future__ import annotations

import sys
import time
from typing import Any


def wants_bar(show: bool) -> bool:
    """Say whether Progress will draw a bar, for which it needs tqdm."""
    return show and sys.stderr.isatty()


class Progress:
    """A bar on a terminal, a line every ten seconds elsewhere, or nothing."""

    def __init__(self, steps: int, done: int, show: bool) -> None:
        bar = wants_bar(show)
        self._steps, self._lines, self._next_line = steps, show and not bar, 0.0
        self._bar: Any = None
        if bar:
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)

    def step(self, row: dict[str, Any]) -> None:
        """Show the metrics of a step."""
        speed = f"{row['tokens_per_second']:,.0f} tokens/s"
        # the loss of PPO's policy is near 0 whatever happens: there the reward says more
        what = next((name for name in ("reward", "loss") if name in row), None)
        shown = "no loss" if what is None else f"{what} {row[what]:.4f}"
        if self._bar is not None:
            self._bar.set_postfix_str(f"{shown}, {speed}", refresh=False)
            self._bar.update()
        elif self._lines and (time.monotonic() >= self._next_line or row["step"] == self._steps):
            self._next_line = time.monotonic() + 10
            line = f"step {row['step']}/{self._steps}: {shown}, lr {row['lr']:.2e}"
            print(f"{line}, {speed}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Show a line of its own."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._lines:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

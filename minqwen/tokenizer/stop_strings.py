"""Stop strings: end a text at a word, wherever the borders of its tokens lie.

A model that uses tools stops at "Observation:", which is no token. In Qwen's vocabulary it is
three, and what they are depends on what follows:

    Observation:        37763 367  25
    Observation:\\n      37763 367 510        the colon and the line end are one token

The released code looks for both rows of ids, and misses any third. Here the text is searched, as it
comes, so every way to cut it into tokens is one and the same. What may be the beginning of a stop
string is held back until it is known:

    push("3 Obser")     ->  "3 "            "Obser" is held back
    push("ver")         ->  "Observer"      it was none
    push("\\nObservat")  ->  "\\n"
    push("ion:\\nab")    ->  ""              stopped; the stop string and what follows are dropped

Of several stop strings the one that is complete first ends the text; of those that are complete
at the same character, the longest.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   react_prompt.md of the Qwen release: the two rows of ids above, and a warning.
Differs:  text instead of ids, see above.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Takes a text in pieces and gives it back up to the first stop string.

    Attributes:
        stopped: the stop string that ended the text, or None.

    >>> stops = StopStrings(["Observation:"])
    >>> stops.push("3 Obser"), stops.push("ver"), stops.push(" Observat"), stops.push("ion:\\nab")
    ('3 ', 'Observer', ' ', '')
    >>> stops.stopped
    'Observation:'
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Take the stop strings, none of them empty; no stop string lets everything pass."""
        self.stops = require_stops(stops)
        self.stopped: str | None = None
        self._held = ""  # may be the beginning of a stop string

    def push(self, piece: str) -> str:
        """Take the next piece; return what is certain now to stand before any stop string.

        Args:
            piece: text, as much as there is. After a stop it is dropped.

        Returns:
            Text, often "" while the beginning of a stop string is held back.

        >>> stops = StopStrings(["\\n\\n"])
        >>> stops.push("a\\n"), stops.push("b\\n"), stops.push("\\nc"), stops.stopped
        ('a', '\\nb', '', '\\n\\n')
        """
        if self.stopped is not None:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at, stop) for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.stopped = min(found)
            self._held = ""
            return text[:at]
        # the longest end of the text that begins a stop string
        longest = max(map(len, self.stops), default=1) - 1
        start = max(0, len(text) - longest)
        while not any(stop.startswith(text[start:]) for stop in self.stops) and start < len(text):
            start += 1
        self._held = text[start:]
        return text[:start]

    def finish(self) -> str:
        """Return what is held back: the text has ended, so it was no stop string.

        >>> stops = StopStrings(["Observation:"])
        >>> stops.push("4\\nObserv"), stops.finish()
        ('4\\n', 'Observ')
        """
        rest, self._held = self._held, ""
        return rest


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Return the text up to the first stop string.

    Args:
        text: all of it.
        stops: none empty.

    Raises:
        TypeError, ValueError: see `require_stops`.

    >>> cut_at_stop("4\\nObservation: 5", ["Observation:"])
    '4\\n'
    """
    found = StopStrings(stops)
    return found.push(text) + found.finish()


def require_stops(stops: Sequence[str]) -> tuple[str, ...]:
    """Return the stop strings; raise unless they are a list of texts that are not empty.

    >>> require_stops("ab")
    Traceback (most recent call last):
    ...
    TypeError: stop must be a list of strings, got one str
    """
    if isinstance(stops, str):
        raise TypeError("stop must be a list of strings, got one str")
    for i, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise TypeError(f"stop[{i}] must be a str, got {type(stop).__name__}")
        if not stop:
            raise ValueError(f"stop[{i}] is empty, so nothing would ever be written")
    return tuple(stops)

"""Learning byte pairs (Sennrich 2016, arXiv:1508.07909, on bytes): one list of ids, no tokens."""

import numpy as np


def join(ids, pair, new):
    """Replace a pair from left to right."""
    result, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            result.append(new)
            i += 2
        else:
            result.append(ids[i])
            i += 1
    return result


def spelled(token, learned):
    """Bytes of a token, from the pairs learned so far."""
    if token < 256:
        return [token]
    left, right = learned[token - 256]
    return spelled(left, learned) + spelled(right, learned)


def forward(text, merges):
    words = [list(text.encode("utf-8"))]
    learned, start = [], 256
    while len(learned) < merges:
        counts = {}
        for ids in words:
            for i in range(len(ids) - 1):
                pair = (ids[i], ids[i + 1])
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        most = max(counts.values())
        candidates = [pair for pair in counts if counts[pair] == most]
        best = sorted(candidates)[0]
        new = start + len(learned)
        learned.append(best)
        words = [join(ids, best, new) for ids in words]
    return np.array(learned, dtype=np.int64).reshape(-1, 2)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "ties_first_seen": ("best = sorted(candidates)[0]", "best = candidates[0]"),
    "ties_last_seen": ("best = sorted(candidates)[0]", "best = candidates[-1]"),
    "ties_largest_ids": ("best = sorted(candidates)[0]", "best = max(candidates)"),
    "ties_largest_bytes": (
        "best = sorted(candidates)[0]",
        "best = max(candidates, key=lambda p: [spelled(side, learned) for side in p])",
    ),
    "ties_smallest_bytes": (
        "best = sorted(candidates)[0]",
        "best = min(candidates, key=lambda p: [spelled(side, learned) for side in p])",
    ),
    "ties_by_right": (
        "best = sorted(candidates)[0]",
        "best = min(candidates, key=lambda p: p[::-1])",
    ),
    "rarest": ("most = max(counts.values())", "most = min(counts.values())"),
    "every_second": ("for i in range(len(ids) - 1):", "for i in range(0, len(ids) - 1, 2):"),
    "runs_once": (
        "        most = max(",
        "        for pair in counts:\n"
        "            counts[pair] = sum(len(ids) - len(join(ids, pair, -1)) "
        "for ids in words)\n"
        "        most = max(",
    ),
    "counted_once": (
        "        counts = {}\n        for ids in words:\n",
        "        counts = {}\n        for ids in [list(text.encode())]:\n",
        "        if not counts:\n",
        "        for pair in learned:\n            counts.pop(pair)\n        if not counts:\n",
    ),
    "repeated_pairs_only": ("if not counts:", "if max(counts.values(), default=0) < 2:"),
    "characters": ('list(text.encode("utf-8"))', "[ord(char) for char in text]"),
    "ascii_only": ('text.encode("utf-8")', 'text.encode("ascii", errors="ignore")'),
    "utf_16": ('text.encode("utf-8")', 'text.encode("utf-16")[2:]'),
    "no_spaces": (
        '[list(text.encode("utf-8"))]',
        "[list(word.encode()) for word in text.split()]",
    ),
    "skip_one": ("            i += 2\n", "            i += 1\n"),
    "ids_from_257": ("learned, start = [], 256", "learned, start = [], 257"),
}

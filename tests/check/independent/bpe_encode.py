"""Encoding by byte pairs: every merge in the order learned, from left to right over the text."""

import numpy as np


def forward(text, merges):
    ids = list(text.encode("utf-8"))
    number = {tuple(pair): 256 + i for i, pair in enumerate(merges)}
    for pair, new in sorted(number.items(), key=lambda item: item[1]):
        i = 0
        while i < len(ids) - 1:
            if (ids[i], ids[i + 1]) == pair:
                ids[i : i + 2] = [new]
            i += 1
    return np.array(ids, dtype=np.int64)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "left_to_right": (
        "    for pair, new in sorted(number.items(), key=lambda item: item[1]):\n"
        "        i = 0\n"
        "        while i < len(ids) - 1:\n"
        "            if (ids[i], ids[i + 1]) == pair:\n"
        "                ids[i : i + 2] = [new]\n"
        "            i += 1\n",
        "    while places := [i for i in range(len(ids) - 1) if (ids[i], "
        "ids[i + 1]) in number]:\n"
        "        i = places[0]\n"
        "        ids[i : i + 2] = [number[ids[i], ids[i + 1]]]\n",
    ),
    "right_to_left": (
        "    for pair, new in sorted(number.items(), key=lambda item: item[1]):\n"
        "        i = 0\n"
        "        while i < len(ids) - 1:\n"
        "            if (ids[i], ids[i + 1]) == pair:\n"
        "                ids[i : i + 2] = [new]\n"
        "            i += 1\n",
        "    while places := [i for i in range(len(ids) - 1) if (ids[i], "
        "ids[i + 1]) in number]:\n"
        "        i = places[-1]\n"
        "        ids[i : i + 2] = [number[ids[i], ids[i + 1]]]\n",
    ),
    "latest_first": (
        "    for pair, new in sorted(number.items(), key=lambda item: item[1]):\n"
        "        i = 0\n"
        "        while i < len(ids) - 1:\n"
        "            if (ids[i], ids[i + 1]) == pair:\n"
        "                ids[i : i + 2] = [new]\n"
        "            i += 1\n",
        "    while places := [i for i in range(len(ids) - 1) if (ids[i], "
        "ids[i + 1]) in number]:\n"
        "        i = max(places, key=lambda i: number[ids[i], ids[i + 1]])\n"
        "        ids[i : i + 2] = [number[ids[i], ids[i + 1]]]\n",
    ),
    "longest_first": (
        "    for pair, new in sorted(number.items(), key=lambda item: item[1]):\n"
        "        i = 0\n"
        "        while i < len(ids) - 1:\n"
        "            if (ids[i], ids[i + 1]) == pair:\n"
        "                ids[i : i + 2] = [new]\n"
        "            i += 1\n",
        "    def spell(token):\n"
        "        if token < 256:\n"
        "            return bytes([token])\n"
        "        return spell(merges[token - 256][0]) + spell(merges[token - "
        "256][1])\n"
        "\n"
        "    while places := [i for i in range(len(ids) - 1) if (ids[i], "
        "ids[i + 1]) in number]:\n"
        "        new = [number[ids[i], ids[i + 1]] for i in places]\n"
        "        i = min(zip([-len(spell(n)) for n in new], new, places, "
        "strict=True))[2]\n"
        "        ids[i : i + 2] = [number[ids[i], ids[i + 1]]]\n",
    ),
    "longest_match": (
        "    for pair, new in sorted(number.items(), key=lambda item: item[1]):\n"
        "        i = 0\n"
        "        while i < len(ids) - 1:\n"
        "            if (ids[i], ids[i + 1]) == pair:\n"
        "                ids[i : i + 2] = [new]\n"
        "            i += 1\n",
        "    def spell(token):\n"
        "        if token < 256:\n"
        "            return bytes([token])\n"
        "        return spell(merges[token - 256][0]) + spell(merges[token - "
        "256][1])\n"
        "\n"
        "    known = {spell(token): token for token in range(256 + len(merges))}\n"
        "    rest, ids = bytes(ids), []\n"
        "    while rest:\n"
        "        piece = max((token for token in known if "
        "rest.startswith(token)), key=len)\n"
        "        ids.append(known[piece])\n"
        "        rest = rest[len(piece) :]\n",
    ),
    "one_merge": (
        "                ids[i : i + 2] = [new]\n",
        "                return np.array([*ids[:i], new, *ids[i + 2 :]])\n",
    ),
    "each_merge_once": (
        "                ids[i : i + 2] = [new]\n",
        "                ids[i : i + 2] = [new]\n                break\n",
    ),
    "rightmost_of_equals": (
        "        i = 0\n        while i < len(ids) - 1:\n",
        "        ids.reverse()\n"
        "        pair = pair[::-1]\n"
        "        i = 0\n"
        "        while i < len(ids) - 1:\n",
        "            i += 1\n",
        "            i += 1\n        ids.reverse()\n",
    ),
    "right_kept": ("ids[i : i + 2] = [new]", "ids[i] = new"),
    "bytes_only": (
        "            if (ids[i], ids[i + 1]) == pair:\n",
        "            if (ids[i], ids[i + 1]) == pair and max(pair) < 256:\n",
    ),
    "no_merges": ("sorted(number.items(), key=lambda item: item[1])", "[]"),
    "characters": ('list(text.encode("utf-8"))', "[ord(char) for char in text]"),
    "ascii_only": ('list(text.encode("utf-8"))', "[byte for byte in text.encode() if byte < 128]"),
    "utf_16": ('text.encode("utf-8")', 'text.encode("utf-16-le")'),
    "no_spaces": ('text.encode("utf-8")', 'text.replace(" ", "").encode("utf-8")'),
}

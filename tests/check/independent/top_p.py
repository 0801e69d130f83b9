"""Nucleus sampling (arXiv:1904.09751, section 3.1), row by row: the smallest set that reaches p."""

import numpy as np


def forward(logits, p):
    rows = np.asarray(logits, float)
    result = np.zeros(rows.shape)
    for r, row in enumerate(rows):
        e = np.exp(row - max(row))
        chance = e / e.sum()
        size = len(chance)
        order = sorted(range(size), key=lambda i: (-chance[i], i))
        reached, kept = 0.0, []
        for i in order:
            if reached >= p:
                break
            kept.append(i)
            reached += chance[i]
        places = kept
        result[r, places] = chance[kept]
    return (result / result.sum(1)[:, None]).astype(logits.dtype)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "crossing_dropped": (
        "            if reached >= p:\n",
        "            if kept and reached + chance[i] > p + 1e-12:\n",
    ),
    "crossing_dropped_empty": (
        "            if reached >= p:\n",
        "            if reached + chance[i] > p + 1e-12:\n",
    ),
    "one_too_many": (
        "if reached >= p:\n"
        "                break\n"
        "            kept.append(i)\n"
        "            reached += chance[i]\n",
        "kept.append(i)\n"
        "            if reached >= p:\n"
        "                break\n"
        "            reached += chance[i]\n",
    ),
    "ascending": ("key=lambda i: (-chance[i], i)", "key=lambda i: (chance[i], i)"),
    "not_sorted": ("sorted(range(size), key=lambda i: (-chance[i], i))", "range(size)"),
    "first_row_for_all": ("key=lambda i: (-chance[i], i)", "key=lambda i: (-rows[0, i], i)"),
    "over_rows": (
        "        for i in order:\n"
        "            if reached >= p:\n"
        "                break\n"
        "            kept.append(i)\n"
        "            reached += chance[i]\n",
        "        shifted = np.exp(rows - rows.max(1)[:, None])\n"
        "        ranks = np.sort(shifted / shifted.sum(1)[:, None], 1)[:, ::-1]\n"
        "        for j, i in enumerate(order):\n"
        "            if j == 0 or ranks[:r, j].sum() < p:\n"
        "                kept.append(i)\n",
    ),
    "not_put_back": ("places = kept", "places = range(len(kept))"),
    "sorted_twice": (
        "        result[r, places] = chance[kept]\n",
        "        values = np.where(np.isin(order, kept), chance[order], 0)\n"
        "        result[r] = values[order]\n",
    ),
    "ignored": ("            if reached >= p:\n                break\n", ""),
    "best_only": ("if reached >= p:", "if kept:"),
    "threshold_p": (
        "        for i in order:\n"
        "            if reached >= p:\n"
        "                break\n"
        "            kept.append(i)\n"
        "            reached += chance[i]\n",
        "        kept = [i for i in order if chance[i] >= p or i == order[0]]\n",
    ),
    "threshold_rest": (
        "        for i in order:\n"
        "            if reached >= p:\n"
        "                break\n"
        "            kept.append(i)\n"
        "            reached += chance[i]\n",
        "        kept = [i for i in order if chance[i] >= 1 - p or i == order[0]]\n",
    ),
    "min_p": (
        "        for i in order:\n"
        "            if reached >= p:\n"
        "                break\n"
        "            kept.append(i)\n"
        "            reached += chance[i]\n",
        "        kept = [i for i in order if chance[i] >= p * max(chance)]\n",
    ),
    "share_of_vocabulary": (
        "        for i in order:\n"
        "            if reached >= p:\n"
        "                break\n"
        "            kept.append(i)\n"
        "            reached += chance[i]\n",
        "        kept = order[: int(np.ceil(p * size))]\n",
    ),
    "rest_for_p": ("if reached >= p:", "if kept and reached >= 1 - p:"),
    "softmax_again": (
        "result[r, places] = chance[kept]",
        "result[r, places] = np.exp(chance[kept])",
    ),
    "zeros_in_softmax": (
        "(result / result.sum(1)[:, None])",
        "(np.exp(result) / np.exp(result).sum(1)[:, None])",
    ),
    "ties_to_the_higher": ("key=lambda i: (-chance[i], i)", "key=lambda i: (-chance[i], -i)"),
    "all_ties": (
        "        places = kept\n",
        "        kept = [i for i in order if chance[i] >= chance[kept[-1]]]\n"
        "        places = kept\n",
    ),
}

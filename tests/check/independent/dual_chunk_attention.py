"""Dual chunk attention (arXiv:2402.17463, section 3), one query and one key at a time."""

import math

import numpy as np


def turn(vector, place, base):
    """Rotate the pairs (i, i + d / 2) of a vector by place times base^(-2 i / d)."""
    half = len(vector) // 2
    result = np.empty(len(vector))
    for i in range(half):
        angle = place * base ** (-i / half)
        c, s = math.cos(angle), math.sin(angle)
        result[i] = vector[i] * c - vector[i + half] * s
        result[i + half] = vector[i] * s + vector[i + half] * c
    return result


def places(query, key, s, c):
    """Places of a query and a key: within a chunk, between neighbours, and far apart."""
    behind = query // s - key // s
    if behind == 0:
        at = query % s
    elif behind == 1:
        at = min(query % s + s, c - 1)
    else:
        at = min(2 * s - 1, c - 1)  # c - 1, unless c is wrong
    return at, key % s


def forward(q, k, v, chunk_size, local_size, base):
    dtype = q.dtype
    q, k, v = (np.asarray(x, float) for x in (q, k, v))
    (batch, heads, n_queries, d), (_, kv_heads, n_keys, _) = q.shape, k.shape
    s, c = chunk_size - local_size, chunk_size
    scale = 1 / math.sqrt(d)
    out, saved = np.zeros(q.shape), []
    for b in range(batch):
        for h in range(heads):
            g = h // (heads // kv_heads)
            for t in range(n_queries):
                query = n_keys - n_queries + t
                scores, turned = [], []
                for key in range(query + 1):
                    at, to = places(query, key, s, c)
                    a, z = turn(q[b, h, t], at, base), turn(k[b, g, key], to, base)
                    scores.append(scale * np.dot(a, z))
                    turned.append((a, z, at, to))
                e = np.exp(np.array(scores) - max(scores))
                p = e / e.sum()
                out[b, h, t] = p @ v[b, g, : query + 1]
                saved.append((b, h, g, t, p, turned))
    return out.astype(dtype), (q.shape, k.shape, v, saved, scale, base, s, heads // kv_heads)


def backward(dy, cache):
    """Softmax, product, and the rotations backwards, again one pair at a time."""
    q_shape, k_shape, v, saved, scale, base, _s, _group = cache
    dq, dk, dv = np.zeros(q_shape), np.zeros(k_shape), np.zeros(k_shape)
    for b, h, g, t, p, turned in saved:
        dp = v[b, g, : len(p)] @ dy[b, h, t]
        ds = p * (dp - np.dot(p, dp))
        for key, (a, z, at, to) in enumerate(turned):
            dv[b, g, key] += p[key] * dy[b, h, t]
            dq[b, h, t] += turn(scale * ds[key] * z, -at, base)
            dk[b, g, key] += turn(scale * ds[key] * a, -to, base)
    return dq, dk, dv


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "plain": (
        "    if behind == 0:\n"
        "        at = query % s\n"
        "    elif behind == 1:\n"
        "        at = min(query % s + s, c - 1)\n"
        "    else:\n"
        "        at = min(2 * s - 1, c - 1)  # c - 1, unless c is wrong\n"
        "    return at, key % s\n",
        "    return query - key * (behind < 0), key\n",
    ),
    "limit_c": (
        "s, c = chunk_size - local_size, chunk_size",
        "s, c = chunk_size - local_size, chunk_size + 1",
    ),
    "chunks_of_c": (
        "    if behind == 0:\n"
        "        at = query % s\n"
        "    elif behind == 1:\n"
        "        at = min(query % s + s, c - 1)\n"
        "    else:\n"
        "        at = min(2 * s - 1, c - 1)  # c - 1, unless c is wrong\n"
        "    return at, key % s\n",
        "    if query // c == key // c:\n"
        "        return query % c, key % c\n"
        "    return c - 1, key % c\n",
    ),
    "keys_in_text": (
        "    if behind == 0:\n"
        "        at = query % s\n"
        "    elif behind == 1:\n"
        "        at = min(query % s + s, c - 1)\n"
        "    else:\n"
        "        at = min(2 * s - 1, c - 1)  # c - 1, unless c is wrong\n"
        "    return at, key % s\n",
        "    if behind == 0:\n"
        "        at = query % s\n"
        "    elif behind == 1:\n"
        "        at = min(query % s + s, c - 1)\n"
        "    else:\n"
        "        at = min(2 * s - 1, c - 1)  # c - 1, unless c is wrong\n"
        "    return at, key\n",
    ),
    "far_own_place": (
        "    else:\n        at = min(2 * s - 1, c - 1)  # c - 1, unless c is wrong\n",
        "    else:\n        at = min(query % s + s, c - 1)\n",
    ),
    "far_not_limited": (
        "    else:\n        at = min(2 * s - 1, c - 1)  # c - 1, unless c is wrong\n",
        "    else:\n        at = 2 * s - 1\n",
    ),
    "far_from_chunk": (
        "    else:\n        at = min(2 * s - 1, c - 1)  # c - 1, unless c is wrong\n",
        "    else:\n        at = query % s\n",
    ),
    "before_not_limited": ("min(query % s + s, c - 1)", "query % s + s"),
    "before_not_moved": ("min(query % s + s, c - 1)", "query % s"),
    "before_as_far": ("min(query % s + s, c - 1)", "c - 1"),
    "before_causal": (
        "e = np.exp(np.array(scores) - max(scores))",
        "for key in range(query + 1):\n"
        "                    if query // s - key // s == 1 and key % s > "
        "query % s:\n"
        "                        scores[key] = -np.inf\n"
        "                e = np.exp(np.array(scores) - max(scores))",
    ),
    "far_hidden": (
        "e = np.exp(np.array(scores) - max(scores))",
        "first = max(query // s - 1, 0) * s\n"
        "                scores[:first] = [-np.inf] * first\n"
        "                e = np.exp(np.array(scores) - max(scores))",
    ),
    "own_chunk_only": (
        "e = np.exp(np.array(scores) - max(scores))",
        "first = query // s * s\n"
        "                scores[:first] = [-np.inf] * first\n"
        "                e = np.exp(np.array(scores) - max(scores))",
    ),
    "mean_of_three": (
        "p = e / e.sum()",
        "kind = np.minimum(query // s - np.arange(query + 1) // s, 2)\n"
        "                p = e / np.array([e[kind == one].sum() for one in "
        "kind]) / len(set(kind))",
    ),
    "sum_of_three": (
        "p = e / e.sum()",
        "kind = np.minimum(query // s - np.arange(query + 1) // s, 2)\n"
        "                p = e / np.array([e[kind == one].sum() for one in kind])",
    ),
    "no_scale": ("scale = 1 / math.sqrt(d)", "scale = 1.0"),
    "scale_dh": ("scale = 1 / math.sqrt(d)", "scale = 1 / d"),
    "queries_not_turned": ("a, z = turn(q[b, h, t], at, base)", "a, z = q[b, h, t]"),
    "keys_not_turned": ("turn(k[b, g, key], to, base)", "k[b, g, key]"),
    "heads_tiled": ("g = h // (heads // kv_heads)", "g = h % kv_heads"),
    "interleaved": (
        "        result[i] = vector[i] * c - vector[i + half] * s\n"
        "        result[i + half] = vector[i] * s + vector[i + half] * c\n",
        "        result[2 * i] = vector[2 * i] * c - vector[2 * i + 1] * s\n"
        "        result[2 * i + 1] = vector[2 * i] * s + vector[2 * i + 1] * c\n",
    ),
}

BACKWARD = {
    "turned_back_from_first": (
        "dq[b, h, t] += turn(scale * ds[key] * z, -at, base)",
        "dq[b, h, t] += turn(scale * ds[key] * z, -turned[-1][2], base)",
    ),
    "last_place_only": (
        "dq[b, h, t] += turn(scale * ds[key] * z, -at, base)",
        "query = k_shape[2] - q_shape[2] + t\n"
        "            if query // _s - key // _s > 1:\n"
        "                dq[b, h, t] += turn(scale * ds[key] * z, -at, base)",
    ),
    "own_chunk_only": (
        "dq[b, h, t] += turn(scale * ds[key] * z, -at, base)",
        "query = k_shape[2] - q_shape[2] + t\n"
        "            if query // _s == key // _s:\n"
        "                dq[b, h, t] += turn(scale * ds[key] * z, -at, base)",
    ),
    "dq_not_turned_back": (
        "dq[b, h, t] += turn(scale * ds[key] * z, -at, base)",
        "dq[b, h, t] += scale * ds[key] * z",
    ),
    "scale_in_dq": (
        "dq[b, h, t] += turn(scale * ds[key] * z, -at, base)",
        "dq[b, h, t] += turn(ds[key] * z, -at, base)",
    ),
    "scale_twice_in_dk": (
        "dk[b, g, key] += turn(scale * ds[key] * a, -to, base)",
        "dk[b, g, key] += turn(scale * scale * ds[key] * a, -to, base)",
    ),
    "dk_from_own_chunk": (
        "dk[b, g, key] += turn(scale * ds[key] * a, -to, base)",
        "dk[b, g, key] += turn(scale * ds[key] * turned[-1][0], -to, base)",
    ),
    "dk_own_chunk_only": (
        "dk[b, g, key] += turn(scale * ds[key] * a, -to, base)",
        "query = k_shape[2] - q_shape[2] + t\n"
        "            if query // _s == key // _s:\n"
        "                dk[b, g, key] += turn(scale * ds[key] * a, -to, base)",
    ),
    "dk_far_only": (
        "dk[b, g, key] += turn(scale * ds[key] * a, -to, base)",
        "query = k_shape[2] - q_shape[2] + t\n"
        "            if query // _s - key // _s > 1:\n"
        "                dk[b, g, key] += turn(scale * ds[key] * a, -to, base)",
    ),
    "group_mean": ("return dq, dk, dv", "return dq, dk / _group, dv / _group"),
    "delta_lost": ("ds = p * (dp - np.dot(p, dp))", "ds = p * dp"),
}

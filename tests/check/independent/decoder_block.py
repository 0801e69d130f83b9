"""A decoder block, one text and one head at a time; a turn by RoPE is a matrix for each token."""

import numpy as np


def norm(z, gain, eps):
    r = np.sqrt((z * z).mean(-1, keepdims=True) + eps)
    return z / r * gain, r


def norm_back(d, z, gain, r):
    g = d * gain
    return g / r - z * (g * z).mean(-1, keepdims=True) / r**3, (d * z / r).sum(0)


def turns(length, width, base):
    half = width // 2
    found = np.zeros((length, width, width))
    for t in range(length):
        for i in range(half):
            angle = t * base ** (-2.0 * i / width)
            found[t, i, i] = found[t, i + half, i + half] = np.cos(angle)
            found[t, i, i + half], found[t, i + half, i] = -np.sin(angle), np.sin(angle)
    return found


def forward(x, w_input_norm, w_q, b_q, w_k, b_k, w_v, b_v, w_o, w_mlp_norm, w_gate, w_up, w_down,
            num_attention_heads, num_key_value_heads, base, eps):  # fmt: skip
    dtype = x.dtype
    x, gain_1, wq, wk, wv, wo, gain_2, first, second, last = (
        np.asarray(a, float)
        for a in (x, w_input_norm, w_q, w_k, w_v, w_o, w_mlp_norm, w_gate, w_up, w_down)
    )
    heads, groups = num_attention_heads, num_attention_heads // num_key_value_heads
    length, size = x.shape[1:]
    width = size // heads
    turn = turns(length, width, base)
    visible = np.tri(length, dtype=bool)
    y, kept = np.zeros(x.shape), []
    for b in range(len(x)):
        start = x[b]
        one, r_1 = norm(start, gain_1, eps)
        q = one @ wq.T + b_q
        k = one @ wk.T + b_k
        v = one @ wv.T + b_v
        joined, parts = np.zeros((length, size)), []
        for h in range(heads):
            mine, shared = slice(h * width, (h + 1) * width), h // groups
            theirs = slice(shared * width, (shared + 1) * width)
            qh, kh, vh = q[:, mine], k[:, theirs], v[:, theirs]
            qh = np.einsum("tij,tj->ti", turn, qh)
            kh = np.einsum("tij,tj->ti", turn, kh)
            scores = np.where(visible, qh @ kh.T / np.sqrt(width), -np.inf)
            p = np.exp(scores - scores.max(1, keepdims=True))
            p = p / p.sum(1, keepdims=True)
            joined[:, mine] = p @ vh
            parts.append((mine, theirs, qh, kh, vh, p))
        found = joined @ wo.T
        middle = start + found
        two, r_2 = norm(middle, gain_2, eps)
        a = two @ first.T
        c = two @ second.T
        out = (a / (1 + np.exp(-a)) * c) @ last.T
        y[b] = middle + out
        kept.append((start, one, r_1, joined, parts, middle, two, r_2, a, c))
    return y.astype(dtype), (kept, turn, gain_1, wq, wk, wv, wo, gain_2, first, second, last)


def backward(dy, cache):
    """Go back through one text after the other; the gradients of weights add up."""
    kept, turn, gain_1, wq, wk, wv, wo, gain_2, first, second, last = cache
    dx, length = np.zeros(dy.shape), dy.shape[1]
    width = turn.shape[-1]
    weights = (gain_1, wq, wq[:, 0], wk, wk[:, 0], wv, wv[:, 0], wo, gain_2, first, second, last)
    sums = [np.zeros(w.shape) for w in weights]
    for b in range(len(dy)):
        start, one, r_1, joined, parts, middle, two, r_2, a, c = kept[b]
        s = 1 / (1 + np.exp(-a))
        d_in = dy[b] @ last
        da, dc = d_in * c * (s + a * s * (1 - s)), d_in * a * s
        d_two = da @ first + dc @ second
        back, d_gain_2 = norm_back(d_two, middle, gain_2, r_2)
        d_middle = dy[b] + back
        d_found = d_middle
        d_joined = d_found @ wo
        dq, dk, dv = (np.zeros((length, len(w))) for w in (wq, wk, wv))
        for h, (mine, theirs, qh, kh, vh, p) in enumerate(parts):  # noqa: B007 (mistakes use it)
            d_out = d_joined[:, mine]
            dp = d_out @ vh.T
            ds = p * (dp - (dp * p).sum(1, keepdims=True)) / np.sqrt(width)
            dq[:, mine] += np.einsum("tji,tj->ti", turn, ds @ kh)
            dk[:, theirs] += np.einsum("tji,tj->ti", turn, ds.T @ qh)
            dv[:, theirs] += p.T @ d_out
        d_one = dq @ wq + dk @ wk + dv @ wv
        back, d_gain_1 = norm_back(d_one, start, gain_1, r_1)
        dx[b] = d_middle + back
        d_biases = [d.sum(0) for d in (dq, dk, dv)]
        d_heads = [d.T @ one for d in (dq, dk, dv)]
        d_last = [d_found.T @ joined]
        d_mlp = [da.T @ two, dc.T @ two, dy[b].T @ (a * s * c)]
        qkv = [d for pair in zip(d_heads, d_biases, strict=True) for d in pair]
        for i, d in enumerate([d_gain_1, *qkv, *d_last, d_gain_2, *d_mlp]):
            sums[i] += d
    return dx, *sums


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_ONE = "        one, r_1 = norm(start, gain_1, eps)\n"
_TWO = "        two, r_2 = norm(middle, gain_2, eps)\n"
_MIDDLE = "        middle = start + found\n"
_Y = "y[b] = middle + out"
_START = "        start = x[b]\n"
_CUT = "            qh, kh, vh = q[:, mine], k[:, theirs], v[:, theirs]\n"
_TURN_Q = '            qh = np.einsum("tij,tj->ti", turn, qh)\n'
_TURN_K = '            kh = np.einsum("tij,tj->ti", turn, kh)\n'
_FOUND = "        found = joined @ wo.T\n"
_GATES = "        a = two @ first.T\n        c = two @ second.T\n"
_PARTS = "np.array([p @ vh for *_, vh, p in parts])"

FORWARD = {
    "post_norm": (
        _ONE,
        "        one = start\n",
        _MIDDLE,
        "        middle, r_1 = norm(start + found, gain_1, eps)\n",
        _TWO,
        "        two = middle\n",
        _Y,
        "y[b], r_2 = norm(middle + out, gain_2, eps)",
    ),
    "norm_after_branch": (
        _ONE,
        "        one = start\n",
        _MIDDLE,
        "        found, r_1 = norm(found, gain_1, eps)\n        middle = start + found\n",
        _TWO,
        "        two = middle\n",
        _Y,
        "out, r_2 = norm(out, gain_2, eps)\n        y[b] = middle + out",
    ),
    "attention_residual_missing": (_MIDDLE, "        middle = found\n"),
    "mlp_residual_missing": (_Y, "y[b] = out"),
    "normed_added_at_attention": (_MIDDLE, "        middle = one + found\n"),
    "normed_added_at_mlp": (_Y, "y[b] = two + out"),
    "second_half_from_input": (_Y, "y[b] = start + out"),
    "input_added_again": (_Y, "y[b] = start + (middle + out)"),
    "attention_added_again": (_Y, "y[b] = middle + out + found"),
    "first_norm_twice": (_TWO, "        two, r_2 = norm(middle, gain_1, eps)\n"),
    "second_norm_twice": (_ONE, "        one, r_1 = norm(start, gain_2, eps)\n"),
    "norms_exchanged": (
        _ONE,
        "        one, r_1 = norm(start, gain_2, eps)\n",
        _TWO,
        "        two, r_2 = norm(middle, gain_1, eps)\n",
    ),
    "parallel": (_TWO, "        two, r_2 = norm(start, gain_2, eps)\n"),
    "parallel_one_norm": (_TWO, "        two, r_2 = one, r_1\n"),
    "mlp_reads_attention_alone": (_TWO, "        two, r_2 = norm(found, gain_2, eps)\n"),
    "no_first_norm": (_ONE, "        one, r_1 = start, 1.0\n"),
    "no_second_norm": (_TWO, "        two, r_2 = middle, 1.0\n"),
    "mlp_first": (
        _START,
        "        read = norm(x[b], gain_2, eps)[0]\n"
        "        a, c = read @ first.T, read @ second.T\n"
        "        start = x[b] + (a / (1 + np.exp(-a)) * c) @ last.T\n",
        _Y,
        "y[b] = middle",
    ),
    "eps_ignored": ("    dtype = x.dtype\n", "    dtype, eps = x.dtype, 0.000001\n"),
    "halves_averaged": (_Y, "y[b] = 0.5 * middle + 0.5 * out"),
    "no_bias": (
        "one @ wq.T + b_q",
        "one @ wq.T",
        "one @ wk.T + b_k",
        "one @ wk.T",
        "one @ wv.T + b_v",
        "one @ wv.T",
    ),
    "values_turned": (_CUT, f'{_CUT}            vh = np.einsum("tij,tj->ti", turn, vh)\n'),
    "keys_not_turned": (_TURN_K, ""),
    "queries_not_turned": (_TURN_Q, ""),
    "positions_ignored": (_TURN_Q + _TURN_K, ""),
    "heads_interleaved": (
        _CUT,
        "            qh = q[:, h::heads]\n"
        "            kh, vh = (z[:, shared :: heads // groups] for z in (k, v))\n",
    ),
    "heads_not_moved": (
        _CUT,
        "            qh = q.reshape(heads, length, width)[h]\n"
        "            kh, vh = (z.reshape(-1, length, width)[shared] for z in (k, v))\n",
    ),
    "heads_not_moved_back": (_FOUND, f"        found = {_PARTS}.reshape(length, size) @ wo.T\n"),
    "joined_interleaved": (
        _FOUND,
        f"        found = {_PARTS}.transpose(1, 2, 0).reshape(length, size) @ wo.T\n",
    ),
    "no_out_projection": (_FOUND, "        found = joined\n"),
    "out_projection_flipped": (_FOUND, "        found = joined @ wo\n"),
    "groups_by_tiling": ("shared = slice(h * width, (h + 1) * width), h // groups",
                         "shared = slice(h * width, (h + 1) * width), h % (heads // groups)"),
    "keys_and_values_exchanged": (
        "one @ wk.T + b_k",
        "one @ wv.T + b_v",
        "        v = one @ wv.T + b_v\n",
        "        v = one @ wk.T + b_k\n",
    ),
    "no_scale": ("qh @ kh.T / np.sqrt(width)", "qh @ kh.T"),
    "scale_of_stream": ("qh @ kh.T / np.sqrt(width)", "qh @ kh.T / np.sqrt(size)"),
    "no_mask": ("visible = np.tri(length, dtype=bool)", "visible = True"),
    "gate_and_up_exchanged": (
        _GATES,
        "        c = two @ first.T\n        a = two @ second.T\n",
    ),
    "mlp_adds_its_input": (_Y, "y[b] = middle + (two + out)"),
}  # fmt: skip

_BACK_2 = "        back, d_gain_2 = norm_back(d_two, middle, gain_2, r_2)\n"
_BACK_1 = "        back, d_gain_1 = norm_back(d_one, start, gain_1, r_1)\n"
_D_MIDDLE = "d_middle = dy[b] + back"
_DX = "dx[b] = d_middle + back"
_D_ONE = "d_one = dq @ wq + dk @ wk + dv @ wv"
_DQ = 'np.einsum("tji,tj->ti", turn, ds @ kh)'
_DK = 'np.einsum("tji,tj->ti", turn, ds.T @ qh)'
_BIASES = "d_biases = [d.sum(0) for d in (dq, dk, dv)]"
_SUMS = "enumerate([d_gain_1, *qkv, *d_last, d_gain_2, *d_mlp])"
BACKWARD = {
    "mlp_residual_lost": (_D_MIDDLE, "d_middle = back"),
    "mlp_branch_lost": (_D_MIDDLE, "d_middle = dy[b]"),
    "attention_residual_lost": (_DX, "dx[b] = back"),
    "attention_branch_lost": (_DX, "dx[b] = d_middle"),
    "straight_from_dy": (_DX, "dx[b] = dy[b] + back"),
    "attention_gets_dy": ("d_found = d_middle\n", "d_found = dy[b]\n"),
    "straight_path_twice": (_DX, "dx[b] = dy[b] + d_middle + back"),
    "second_norm_skipped": (_D_MIDDLE, "d_middle = dy[b] + d_two"),
    "first_norm_skipped": (_DX, "dx[b] = d_middle + d_one"),
    "first_norm_twice": (
        _BACK_2,
        "        back, d_gain_2 = norm_back(d_two, start, gain_1, r_1)\n",
    ),
    "norm_gradients_exchanged": (
        _SUMS,
        "enumerate([d_gain_2, *qkv, *d_last, d_gain_1, *d_mlp])",
    ),
    "attention_gradients_lost": (
        _SUMS,
        "enumerate([d_gain_1, 0, 0, 0, 0, 0, 0, 0, d_gain_2, *d_mlp])",
    ),
    "queries_lost": (_D_ONE, "d_one = dk @ wk + dv @ wv"),
    "keys_lost": (_D_ONE, "d_one = dq @ wq + dv @ wv"),
    "values_lost": (_D_ONE, "d_one = dq @ wq + dk @ wk"),
    "keys_turned_on": (_DK, 'np.einsum("tij,tj->ti", turn, ds.T @ qh)'),
    "queries_not_turned_back": (_DQ, "ds @ kh"),
    "values_turned_back": (
        "dv[:, theirs] += p.T @ d_out",
        'dv[:, theirs] += np.einsum("tji,tj->ti", turn, p.T @ d_out)',
    ),
    "heads_not_moved": (
        "d_out = d_joined[:, mine]",
        "d_out = d_joined.reshape(len(parts), length, width)[h]",
    ),
    "bias_gradients_lost": (_BIASES, "d_biases = [0, 0, 0]"),
    "bias_gradients_averaged": (_BIASES, "d_biases = [d.mean(0) / len(dy) for d in (dq, dk, dv)]"),
    "gate_and_up_exchanged": (
        "d_mlp = [da.T @ two, dc.T @ two,",
        "d_mlp = [dc.T @ two, da.T @ two,",
    ),
}

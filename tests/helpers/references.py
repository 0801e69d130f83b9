"""The equations of the layers, one number at a time; slow, and independent of the package.

REFERENCES has, for a row of the concept table, a function of the same inputs that returns y.
"""

import math

import numpy as np


def linear(x, w, b=None):
    """y_no = sum_i x_ni w_oi + b_o."""
    y = np.empty((*x.shape[:-1], len(w)))
    for n in np.ndindex(x.shape[:-1]):
        for o in range(len(w)):
            y[n][o] = sum(x[n][i] * w[o, i] for i in range(w.shape[1]))
            y[n][o] += 0 if b is None else b[o]
    return y


def embedding(ids, w):
    """x_n = w[ids_n]."""
    x = np.empty((*ids.shape, w.shape[1]))
    for n in np.ndindex(ids.shape):
        for d in range(w.shape[1]):
            x[n][d] = w[int(ids[n]), d]
    return x


def rmsnorm(x, w, eps=1e-6):
    """y_i = w_i x_i / sqrt(mean_j x_j^2 + eps)."""
    y = np.empty_like(x)
    for n in np.ndindex(x.shape[:-1]):
        rms = math.sqrt(sum(value**2 for value in x[n]) / len(w) + eps)
        for i in range(len(w)):
            y[n][i] = w[i] * x[n][i] / rms
    return y


def rope(x, positions, base=100.0):
    """Turn the pair (i, i + Dh/2) at position p by the angle p * base^(-2i / Dh)."""
    B, H, T, Dh = x.shape
    y = np.empty_like(x)
    for b, h, t in np.ndindex(B, H, T):
        p = int(positions[t] if positions.ndim == 1 else positions[b, t])
        for i in range(Dh // 2):
            angle = p * base ** (-2 * i / Dh)
            turned = complex(x[b, h, t, i], x[b, h, t, i + Dh // 2]) * complex(
                math.cos(angle), math.sin(angle)
            )
            y[b, h, t, i], y[b, h, t, i + Dh // 2] = turned.real, turned.imag
    return y


def causal_mask(T, S):
    """The T queries are the last of S tokens; each sees itself and what came before."""
    return np.array([[s <= S - T + t for s in range(S)] for t in range(T)])


def attention(q, k, v, mask):
    """out_t = sum_s w_s v_s / sum_s w_s over the visible s, w_s = exp(q_t k_s / sqrt(Dh)).

    Query head h reads key head h // G. A query that sees nothing gets zeros.
    """
    B, H, T, Dh = q.shape
    G, S = H // k.shape[1], k.shape[2]
    out = np.zeros_like(q)
    for b, h, t in np.ndindex(B, H, T):
        seen = [s for s in range(S) if mask[b, t, s]]
        weights = [
            math.exp(sum(q[b, h, t, d] * k[b, h // G, s, d] for d in range(Dh)) / math.sqrt(Dh))
            for s in seen
        ]
        for weight, s in zip(weights, seen, strict=True):
            for d in range(Dh):
                out[b, h, t, d] += weight / sum(weights) * v[b, h // G, s, d]
    return out


def block_attention(q, k, v, real=None, window=None):
    """Attention to the real ones of the tokens so far, or of the last `window` of them."""
    B, T, S = q.shape[0], q.shape[2], k.shape[2]
    mask = np.empty((B, T, S), dtype=bool)
    for b, t, s in np.ndindex(B, T, S):
        distance = S - T + t - s
        seen = distance >= 0 and (window is None or distance < window)
        mask[b, t, s] = seen and (real is None or real[b, s])
    return attention(q, k, v, mask)


def flash_attention(q, k, v, real=None, window=None):
    """Tiles or not, the result is the same."""
    return block_attention(q, k, v, real, window)


def window(q, k, v, window):
    """Attention to the last `window` tokens."""
    return block_attention(q, k, v, None, window)


def swiglu(x, w_gate, w_up, w_down):
    """y = (silu(x w_gate^T) * (x w_up^T)) w_down^T with silu(a) = a / (1 + exp(-a))."""
    h, up = linear(x, w_gate), linear(x, w_up)
    for n in np.ndindex(h.shape):
        h[n] = h[n] / (1 + math.exp(-h[n])) * up[n]
    return linear(h, w_down)


def cross_entropy(logits, labels, counted=None):
    """Mean over the counted tokens of log sum_v exp(z_v) - z_label; a label -100 never counts."""
    losses = []
    for n in np.ndindex(labels.shape):
        if labels[n] != -100 and (counted is None or counted[n]):
            losses.append(math.log(sum(math.exp(z) for z in logits[n])) - logits[n][labels[n]])
    return sum(losses) / len(losses)


def turned(x, positions, inv_freq, stretch=1.0):
    """Turn pair (i, i + Dh/2) at position p by p * inv_freq[i] and make it `stretch` longer."""
    B, H, T, Dh = x.shape
    y = np.empty_like(x)
    for b, h, t in np.ndindex(B, H, T):
        p = int(positions[t] if positions.ndim == 1 else positions[b, t])
        for i in range(Dh // 2):
            pair = complex(x[b, h, t, i], x[b, h, t, i + Dh // 2])
            pair *= stretch * complex(math.cos(p * inv_freq[i]), math.sin(p * inv_freq[i]))
            y[b, h, t, i], y[b, h, t, i + Dh // 2] = pair.real, pair.imag
    return y


def ntk(x, positions, train_length, base=100.0):
    """RoPE whose pair i is slower by alpha^(2i / (Dh - 2)), with the alpha of the released code."""
    T, Dh = x.shape[2:]
    alpha = max(1, 2 ** math.ceil(math.log2(T / train_length) + 1) - 1)
    inv_freq = [base ** (-2 * i / Dh) / alpha ** (2 * i / (Dh - 2)) for i in range(Dh // 2)]
    return turned(x, positions, inv_freq)


def yarn(x, positions, truncate, base=100.0, factor=4.0, length=128, fast=8.0, slow=1.0):
    """RoPE whose fast pairs stay and whose slow ones are divided by the factor, and longer."""
    Dh = x.shape[-1]
    # the index at which a pair makes n turns within the length, from 2 pi n = length * inv_freq
    low, high = (Dh / 2 * math.log(length / (2 * math.pi * n), base) for n in (fast, slow))
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, Dh - 1)
    inv_freq = []
    for i in range(Dh // 2):
        plain = base ** (-2 * i / Dh)
        share = (i - low) / (high - low)
        if i <= low:
            inv_freq.append(plain)
        elif i >= high:
            inv_freq.append(plain / factor)
        else:
            inv_freq.append((1 - share) * plain + share * plain / factor)
    return turned(x, positions, inv_freq, stretch=1 + math.log(factor) / 10)


def logn(q, positions, train_length=3):
    """A query at position p, times ln(p + 1) / ln(train_length) where that is above 1."""
    y = np.empty_like(q)
    for b, h, t, d in np.ndindex(q.shape):
        p = int(positions[t] if positions.ndim == 1 else positions[b, t])
        longer = p + 1 > train_length
        y[b, h, t, d] = q[b, h, t, d] * (math.log(p + 1, train_length) if longer else 1)
    return y


def dual_chunk_distances(positions, c, w, highest=None):
    """The matrix of relative positions that RoPE gets to see, from the paper's lists of positions.

    M[i][j] for the query at positions[i] and the key at positions[j], j <= i; None elsewhere.
    """
    s = c - w  # tokens in a chunk
    highest = c - 1 if highest is None else highest
    keys = list(range(s))
    intra = list(range(s))
    succ = (list(range(s, highest + 1)) + [highest] * s)[:s]  # rises, then stays
    M = [[None] * len(positions) for _ in positions]
    for i, p in enumerate(positions):
        for j in range(i + 1):
            chunks_between = p // s - positions[j] // s
            if chunks_between == 0:
                place = intra[p % s]
            elif chunks_between == 1:
                place = succ[p % s]
            else:
                place = min(highest, 2 * s - 1)
            M[i][j] = place - keys[positions[j] % s]
    return M


def dual_chunk_attention(q, k, v, positions, highest=None, real=None, c=5, w=2, base=100.0):
    """Attention whose score for i, j is that of RoPE at the distance of dual_chunk_distances.

    Neither q nor k is turned yet: each pair (a, b) of features is a complex number, and for a pair
    of tokens the whole turn is by their distance.
    """
    B, H, T, Dh = q.shape
    S, G = k.shape[2], H // k.shape[1]
    out = np.zeros_like(q)
    for b in range(B):
        row = positions[b] if np.ndim(positions) == 2 else positions
        M = dual_chunk_distances([int(p) for p in row], c, w, highest)
        for h, t in np.ndindex(H, T):
            seen = [j for j in range(S - T + t + 1) if real is None or real[b, j]]
            weights = []
            for j in seen:
                score = 0.0
                for i in range(Dh // 2):
                    query = complex(q[b, h, t, i], q[b, h, t, i + Dh // 2])
                    key = complex(k[b, h // G, j, i], k[b, h // G, j, i + Dh // 2])
                    angle = M[S - T + t][j] * base ** (-2 * i / Dh)
                    turn = complex(math.cos(angle), math.sin(angle))
                    score += (query * turn * key.conjugate()).real
                weights.append(math.exp(score / math.sqrt(Dh)))
            for weight, j in zip(weights, seen, strict=True):
                for d in range(Dh):
                    out[b, h, t, d] += weight / sum(weights) * v[b, h // G, j, d]
    return out


def self_attention(x, wq, bq, wk, bk, wv, bv, wo, real, plan):
    """Projections, rotation, LogN, attention and the last projection, at the sizes of the row.

    H=4 heads share Hkv=2, Dh=6, base 100; what each plan does is written here again.
    """
    H, Hkv, positions = 4, 2, np.arange(x.shape[1])

    def heads(w, b, n):
        y = linear(x, w, b)
        return np.stack([y[:, :, h * 6 : h * 6 + 6] for h in range(n)], axis=1)

    q, k, v = heads(wq, bq, H), heads(wk, bk, Hkv), heads(wv, bv, Hkv)
    if plan == "GQA, padding":
        a = block_attention(rope(q, positions), rope(k, positions), v, real)
    elif plan == "window, LogN, alpha":  # W=2, trained length 2, alpha 3
        inv_freq = [100.0 ** (-2 * i / 6) / 3 ** (2 * i / 4) for i in range(3)]
        q, k = turned(logn(q, positions, 2), positions, inv_freq), turned(k, positions, inv_freq)
        a = block_attention(q, k, v, real, window=2)
    else:  # c=4, w=2, trained length 3
        a = dual_chunk_attention(logn(q, positions, 3), k, v, positions, real=real, c=4, w=2)
    return linear(np.concatenate([a[:, h] for h in range(H)], axis=-1), wo)


def routed(x, w, K, norm_topk_prob=False):
    """K times the likeliest expert that is left, the first of equals; weights and ids."""
    weights, ids = np.empty((len(x), K)), np.empty((len(x), K), dtype=int)
    for n in range(len(x)):
        z = [sum(x[n, d] * w[e, d] for d in range(len(w[e]))) for e in range(len(w))]
        peak = max(z)
        terms = [math.exp(value - peak) for value in z]
        left = [term / sum(terms) for term in terms]
        for k in range(K):
            ids[n, k] = left.index(max(left))
            weights[n, k] = left[ids[n, k]]
            left[ids[n, k]] = -1.0
        if norm_topk_prob:
            weights[n] = [weight / sum(weights[n]) for weight in weights[n]]
    return weights, ids


def moe_router(x, w, K, norm_topk_prob=False):
    """The weights of the chosen experts."""
    return routed(x, w, K, norm_topk_prob)[0]


def load_balancing_loss(router_logits, expert_ids, real=None, f_sums_to_k=False):
    """E sum_e f_e P_e, counted token by token; padding is passed over."""
    (N, E), K = router_logits.shape, expert_ids.shape[1]
    tokens = [n for n in range(N) if real is None or real[n]]
    choices, probs = [0] * E, [0.0] * E
    for n in tokens:
        for e in expert_ids[n]:
            choices[e] += 1
        terms = [math.exp(z) for z in router_logits[n]]
        for e in range(E):
            probs[e] += terms[e] / sum(terms)
    slots = len(tokens) * (1 if f_sums_to_k else K)
    return E * sum(choices[e] / slots * probs[e] / len(tokens) for e in range(E))


def router_z_loss(router_logits, real=None):
    """Mean over the real tokens of (log sum_e exp(z_e))^2."""
    tokens = [n for n in range(len(router_logits)) if real is None or real[n]]
    return sum(math.log(sum(math.exp(z) for z in router_logits[n])) ** 2 for n in tokens) / len(
        tokens
    )


def moe_experts(x, expert_ids, expert_weights, w_gate_up, w_down):
    """y_n = sum_k w_nk F_e(x_n), e = expert_ids_nk: token after token, expert after expert."""
    y, Fe = np.zeros_like(x), w_down.shape[2]
    for n, k in np.ndindex(expert_ids.shape):
        e = int(expert_ids[n, k])
        w_gate, w_up = w_gate_up[e][:Fe], w_gate_up[e][Fe:]
        y[n] += expert_weights[n, k] * swiglu(x[n : n + 1], w_gate, w_up, w_down[e])[0]
    return y


def shared_expert(x, w_gate, w_up, w_down, w_shared_gate):
    """y = S(x) / (1 + exp(-<w_shared_gate, x>))."""
    y, gate = swiglu(x, w_gate, w_up, w_down), linear(x, w_shared_gate)
    for n in np.ndindex(x.shape[:-1]):
        for d in range(x.shape[-1]):
            y[n][d] /= 1 + math.exp(-gate[n][0])
    return y


def moe(x, w_router, w_gate_up, w_down, K, norm_topk_prob, *shared):
    """The K largest softmax probabilities weigh their experts; the shared expert is added."""
    N, E = len(x), len(w_router)
    logits, ids, weights = linear(x, w_router), np.empty((N, K), int), np.empty((N, K))
    for n in range(N):
        total = sum(math.exp(z) for z in logits[n])
        p = [math.exp(z) / total for z in logits[n]]
        ids[n] = sorted(range(E), key=lambda e: -p[e])[:K]
        weights[n] = [p[e] for e in ids[n]]
        if norm_topk_prob:
            weights[n] /= sum(weights[n])
    y = moe_experts(x, ids, weights, w_gate_up, w_down)
    return y + shared_expert(x, *shared) if shared else y


def token_logprobs(logits, ids, temperature=1.0):
    """log of exp(z_id / temperature) / sum_v exp(z_v / temperature)."""
    found = np.empty(ids.shape)
    for n in np.ndindex(ids.shape):
        terms = [math.exp(z / temperature) for z in logits[n]]
        found[n] = math.log(terms[ids[n]] / sum(terms))
    return found


def sequence_logprobs(logprobs, mask, reduction="sum"):
    """The tokens that the mask shows, added up; for "mean" divided by how many there are."""
    found = np.zeros(len(logprobs))
    for b in range(len(logprobs)):
        shown = [logprobs[b, t] for t in range(len(mask[b])) if mask[b, t]]
        found[b] = sum(shown) / (len(shown) if reduction == "mean" else 1)
    return found


def reward_head(hidden, w, end_index):
    """r_b = sum_d w_d h_bd at the end token of row b."""
    D = hidden.shape[2]
    return np.array(
        [sum(w[0, d] * hidden[b, end, d] for d in range(D)) for b, end in enumerate(end_index)]
    )


def pairwise_loss(chosen, rejected, margin=None):
    """Mean over the pairs of -log(1 / (1 + exp(-(chosen - rejected - margin))))."""
    losses = []
    for b in range(len(chosen)):
        x = chosen[b] - rejected[b] - (0 if margin is None else margin[b])
        losses.append(-math.log(1 / (1 + math.exp(-x))))
    return sum(losses) / len(losses)


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1):
    """The pairwise loss of beta * log(policy / reference)."""
    rewards = [
        [beta * (x - ref) for x, ref in zip(side, reference, strict=True)]
        for side, reference in ((chosen, ref_chosen), (rejected, ref_rejected))
    ]
    return pairwise_loss(*rewards)


def ppo_policy_loss(logprobs, others, mask, cliprange):
    """Mean over the tokens of the worse of -A r and -A clip(r), r = exp(log pi - log pi_old)."""
    (old, advantages), losses = others, []
    for n in np.ndindex(mask.shape):
        if mask[n]:
            ratio = math.exp(logprobs[n] - old[n])
            held = min(max(ratio, 1 - cliprange), 1 + cliprange)
            losses.append(max(-advantages[n] * ratio, -advantages[n] * held))
    return sum(losses) / len(losses)


def ppo_value_loss(values, others, mask, cliprange_value):
    """Half of the mean over the tokens of the larger of two squared errors."""
    (old, returns), losses = others, []
    for n in np.ndindex(mask.shape):
        if mask[n]:
            held = old[n] + min(max(values[n] - old[n], -cliprange_value), cliprange_value)
            losses.append(max((values[n] - returns[n]) ** 2, (held - returns[n]) ** 2) / 2)
    return sum(losses) / len(losses)


def shares(z):
    """Softmax of one position."""
    terms = [math.exp(value - max(z)) for value in z]
    return [term / sum(terms) for term in terms]


def entropy(logits, block=None):
    """H = -sum_v p_v log p_v."""
    H = np.empty(logits.shape[:-1])
    for n in np.ndindex(H.shape):
        H[n] = -sum(p * math.log(p) for p in shares(logits[n]))
    return H


def exact_kl(logits, others, block=None):
    """KL = sum_v p_v log(p_v / q_v)."""
    kl = np.empty(logits.shape[:-1])
    for n in np.ndindex(kl.shape):
        p, q = shares(logits[n]), shares(others[0][n])
        kl[n] = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return kl


REFERENCES = {
    f.__name__: f
    for f in (
        linear,
        embedding,
        rmsnorm,
        rope,
        attention,
        block_attention,
        flash_attention,
        window,
        swiglu,
        cross_entropy,
        moe_router,
        load_balancing_loss,
        router_z_loss,
        moe_experts,
        shared_expert,
        moe,
        token_logprobs,
        sequence_logprobs,
        reward_head,
        pairwise_loss,
        dpo_loss,
        ppo_policy_loss,
        ppo_value_loss,
        entropy,
        exact_kl,
        ntk,
        yarn,
        logn,
        dual_chunk_attention,
        self_attention,
    )
}


def reference_error(row):
    """Return the largest difference between a concept's forward and its reference, over the scale.

    All cases of the concept are tried.
    """
    worst = 0.0
    for make in row.cases.values():
        inputs = make(np.random.default_rng(0))
        y, want = row.forward(*inputs)[0], REFERENCES[row.name](*inputs)
        assert np.shape(y) == np.shape(want)
        worst = max(worst, float(np.abs(y - want).max() / np.abs(want).max()))
    return worst

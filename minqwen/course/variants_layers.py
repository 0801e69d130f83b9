"""The variants of layers: (concept, mistake, English, Chinese, edits, hints); see variants.py.

An edit is text that stands exactly once in our file, and what stands there instead. A hint is
(which of the three, English, Chinese), where the usual one would be false.
"""

from __future__ import annotations

Row = tuple[
    str, str, str, str, tuple[tuple[str, str], ...], tuple[tuple[int, str, str], ...]
]  # fmt: skip

RMSNORM: Row = (
    "rmsnorm",
    "gain_plus_one",
    "the gain is 1 + w, so that w is 0 at the start, as in Gemma. Qwen multiplies by w.",
    "增益是 1 + w，因此 w 从 0 开始，与 Gemma 相同。Qwen 乘以 w。",
    (
        ("y = (x_wide * inv_rms) * widen(w)", "y = (x_wide * inv_rms) * (1 + widen(w))"),
        ("g = dy * widen(w)", "g = dy * (1 + widen(w))"),
        ("    y = w * x / rms(x)", "    y = (1 + w) * x / rms(x)"),
        (
            "g = dy * w, the gradient with respect to\nx_hat. Every",
            "g = dy * (1 + w), the gradient with\nrespect to x_hat. Every",
        ),
        ("and g = dy * w:", "and g = dy * (1 + w):"),
        ("multiply by the gain w.", "multiply by the gain 1 + w."),
        (
            "gain; `input_layernorm.weight` and its siblings in a checkpoint.",
            "by how much the gain differs from 1.",
        ),
        ("np.ones(2), eps=0.0", "np.zeros(2), eps=0.0"),
        (
            "Differs:  float16 and bfloat16 input is multiplied by w before the cast back, the "
            "Hugging Face code\n          multiplies after it; float32 and float64 involve no "
            "cast.",
            "Differs:  the gain is 1 + w, as in Gemma; Qwen multiplies by w.",
        ),
    ),
    (),
)
SWIGLU: Row = (
    "swiglu",
    "quick_gelu",
    "the activation of the gate is the quick GELU, a sigmoid(1.702 a), as in CLIP. Qwen has SiLU, "
    "a sigmoid(a).",
    "门的激活函数是 quick GELU，即 a sigmoid(1.702 a)，与 CLIP 相同。"
    "Qwen 用的是 SiLU，即 a sigmoid(a)。",
    (
        (
            "h = widen(gate) * sigmoid(gate) * widen(up)",
            "h = widen(gate) * sigmoid(1.702 * widen(gate)) * widen(up)",
        ),
        ("dh, s = widen(dh), sigmoid(gate)", "dh, s = widen(dh), sigmoid(1.702 * widen(gate))"),
        ("(s * (1 + widen(gate) * (1 - s)))", "(s * (1 + 1.702 * widen(gate) * (1 - s)))"),
        ("SwiGLU feed-forward network: two", "Gated network with quick GELU: two"),
        (
            "    y = (silu(gate) * up) w_down^T            silu(a) = a sigmoid(a)",
            "    y = (f(gate) * up) w_down^T               f(a) = a sigmoid(1.702 a)",
        ),
        (
            "With h = silu(gate) * up and s = sigmoid(gate):",
            "With h = f(gate) * up and s = sigmoid(1.702 gate):",
        ),
        ("    dup   = dh * silu(gate)", "    dup   = dh * f(gate)"),
        (
            "    dgate = dh * up * silu'(gate)             silu'(a) = s + a s (1 - s) = s (1 + a "
            "(1 - s))",
            "    dgate = dh * up * f'(gate)                f'(a) = s (1 + 1.702 a (1 - s))",
        ),
        (
            "Differs:  nothing. In Qwen's",
            "Differs:  the activation is quick GELU, as in CLIP; Qwen has SiLU.\n"
            "          In Qwen's",
        ),
        ("SiLU acts on this branch.", "the activation acts on this branch."),
        (
            "-10 * one, one, one)\n    >>> y.round(6)  # silu(-10) = -10 / (1 + exp(10))\n"
            "    array([[-0.000454]])",
            "-1 * one, one, one)\n    >>> y.round(6)  # f(-1) = -1 / (1 + exp(1.702))\n"
            "    array([[-0.154204]])",
        ),
    ),
    (
        (
            0,
            "The activation acts on the gate, not on up. With gate = 1 and up = -10 the product is "
            "about -8.458; if you get nearly 0, the two are exchanged.",
            "激活作用在 gate 上，而不是 up 上。gate = 1、up = -10 时乘积约为 -8.458；"
            "如果接近 0，就是两者弄反了。",
        ),
        (
            2,
            "x feeds both branches, so two gradients come back to it. The gradient of each branch "
            "holds the forward value of the other one. The derivative of the activation has two "
            "terms, and 1.702 in one of them.",
            "x 同时进入两个分支，所以有两份梯度回到它。每个分支的梯度里含有另一分支的前向值。"
            "激活函数的导数有两项，其中一项含有 1.702。",
        ),
    ),
)
ROPE: Row = (
    "rope",
    "interleaved",
    "neighbours are paired, feature 2i with feature 2i + 1, as in the original paper and in "
    "GPT-J. Qwen pairs feature i with feature i + Dh/2.",
    "相邻特征配对，即第 2i 个与第 2i + 1 个，与原论文和 GPT-J 相同。"
    "Qwen 把第 i 个与第 i + Dh/2 个配对。",
    (
        (
            "    half = x.shape[-1] // 2\n    turned: Array = array_module(x).concatenate((-x[..., "
            "half:], x[..., :half]), axis=-1)\n    return turned",
            "    turned: Array = array_module(x).stack((-x[..., 1::2], x[..., ::2]), axis=-1)\n"
            "    return turned.reshape(x.shape)",
        ),
        (
            "angles = xp.concatenate((angles, angles), axis=-1)",
            "angles = xp.repeat(angles, 2, axis=-1)",
        ),
        ("(RoPE), half-split layout,", "(RoPE), interleaved layout,"),
        (
            "Feature i of a head is paired with feature i + Dh/2. At",
            "Feature 2i of a head is paired with feature 2i + 1. At",
        ),
        (
            "Differs:  the original pairs neighbours (2i, 2i + 1); Qwen's checkpoints need the "
            "half-split.",
            "Differs:  neighbours are paired, as in the original; Qwen's checkpoints pair feature "
            "i with\n          feature i + Dh/2.",
        ),
        (
            "the Dh/2 angles twice, one for each half.",
            "each of the Dh/2 angles twice, side by side.",
        ),
        ("(feature i, feature i + Dh/2)", "(feature 2i, feature 2i + 1)"),
        ("array([-3., -4.,  1.,  2.])", "array([-2.,  1., -4.,  3.])"),
        ("-1.9841,  1.9599,  2.4624,  4.0198", "-1.1426,  1.9221,  2.9599,  4.0298"),
    ),
    (
        (
            0,
            "Here feature 2i is paired with its neighbour. At position 0 nothing turns, so a wrong "
            "pairing looks right there.",
            "这里第 2i 个特征与它的邻居配对。位置 0 不旋转，所以错误的配对在那里看起来也是对的。",
        ),
        (
            1,
            "The vector 1, 2, ..., 8 at position 3 with base 10,000 becomes -1.272233, -1.838865, "
            "1.683929, 4.707907, 4.817777, 6.147278, 6.975969, 8.020964. The tables have the "
            "precision of the frequencies, never below float32.",
            "base 为 10000 时，向量 1, 2, ..., 8 在位置 3 变为 -1.272233, -1.838865, 1.683929, "
            "4.707907, 4.817777, 6.147278, 6.975969, 8.020964。"
            "表的精度与频率相同，绝不低于 float32。",
        ),
        (
            2,
            "Each angle stands twice in the tables, side by side. To turn pairs by 90 degrees, "
            "exchange neighbours and change one sign. A rotation is an orthogonal matrix: what is "
            "its transpose?",
            "表中每个角度出现两次，彼此相邻。要把每一对转 90 度，就交换相邻的两个并改变一个符号。"
            "旋转是正交矩阵：它的转置是什么？",
        ),
    ),
)
ATTENTION: Row = (
    "attention",
    "one_in_the_sum",
    "the sum of exponentials has an extra 1, P_ij = exp(s_ij) / (1 + sum_j exp(s_ij)), so that a "
    "query may look at nothing. Qwen has no such 1.",
    "指数之和中多一个 1：P_ij = exp(s_ij) / (1 + sum_j exp(s_ij))，这样查询可以什么都不看。"
    "Qwen 没有这个 1。",
    (
        (
            "xp.maximum(scores.max(axis=-1, keepdims=True), np.finfo(scores.dtype).min)",
            "xp.maximum(scores.max(axis=-1, keepdims=True), 0)",
        ),
        (
            "probs = weights / (total + (total == 0))  # a row that sees nothing stays 0",
            "probs = weights / (total + xp.exp(-peak))  # the 1, with the peak taken out too",
        ),
        (
            "    out = softmax(scale * q k^T, hidden pairs left out) v\n",
            "    out = P v        P_ij = exp(s_ij) / (1 + sum_j exp(s_ij))        s = scale * q k^T"
            "\n\nHidden pairs are left out of the sum.\n",
        ),
        (
            "With scores s = scale * q k^T, probs P = softmax(s) and out = P v:",
            "With scores s and weights P as above:",
        ),
        ("delta_i = sum_j dP_ij P_ij: the rows of P always sum to 1", "delta_i = sum_j dP_ij P_ij"),
        (
            "Differs:  a query that may look at nothing gets zeros and passes no gradient on; "
            "softmax would be\n          0 / 0 there. All T * S probabilities are kept: "
            "block_attention.py gives the same result\n          without them, and is what the "
            "model runs.",
            "Differs:  the sum has an extra 1, so that a query may look at nothing; Qwen has a "
            "plain softmax.",
        ),
        ("each row sums to 1, or is all 0", "each row sums to less than 1"),
        (
            "[0][0, 1]  # equal scores give the mean of the values\n    array([[2., 3., 4., 5.]])",
            "[0][0, 1].round(4)  # the sum of two values over 1 + 2\n"
            "    array([[1.3333, 2.    , 2.6667, 3.3333]])",
        ),
    ),
    (
        (
            0,
            "Set q to 0: the output must be the sum of the values that the query may see, over "
            "one more than their number.",
            "把 q 设为 0：输出必须是该查询可见的值之和，除以其个数加一。",
        ),
    ),
)
CROSS_ENTROPY: Row = (
    "cross_entropy",
    "z_loss_added",
    "1e-4 times the square of lse, the log of the sum of exponentials, is added to the loss of "
    "every token, as in PaLM. Qwen does not say so.",
    "每个 token 的损失再加上 lse（指数之和的对数）平方的 1e-4 倍，与 PaLM 相同。Qwen 没有这一项。",
    (
        (
            "surprise = xp.where(counted > 0, lse - z_label, 0)  # and not a product: 0 * inf "
            "would be NaN",
            "surprise = lse - z_label + Z_LOSS * lse**2\n"
            "    surprise = xp.where(counted > 0, surprise, 0)  # no product: 0 * inf is NaN",
        ),
        ("part *= weight[rows, None]", "part *= (weight * (1 + 2 * Z_LOSS * lse))[rows, None]"),
        (
            "is not counted, as in PyTorch and Hugging Face\n",
            "is not counted, as in PyTorch and Hugging Face\n"
            "Z_LOSS = 1e-4  # factor of the squared lse\n",
        ),
        ("(lse_n - z_n[label_n])", "(lse_n - z_n[label_n] + 1e-4 lse_n^2)"),
        (
            "d lse / dz_v = p_v       so       dz_nv = dloss * c_n / M * (p_nv - [v = label_n])",
            "d lse / dz_v = p_v   so   dz_nv = dloss * c_n / M * (p_nv (1 + 2e-4 lse_n) - "
            "[v = label_n])",
        ),
        (
            "Average the surprise -log p(label) over the counted tokens.",
            "Average -log p(label) + 1e-4 lse^2 over the counted tokens.",
        ),
        ("(p - one_hot(label)) * dloss", "(p (1 + 2e-4 lse) - one_hot(label)) * dloss"),
        ("(1.098612, 1.098612)", "(1.098733, 1.098612)"),
        (
            "Differs:  labels are",
            "Differs:  1e-4 lse^2 is added, as in PaLM; Qwen does not say so.\n"
            "          Labels are",
        ),
    ),
    (
        (
            0,
            "Equal logits give ln V + 1e-4 (ln V)^2. The largest logit can be taken out before "
            "exp, but it must come back into lse.",
            "logits 全相等时损失为 ln V + 1e-4 (ln V)^2。在 exp 之前可以提出最大的 logit，"
            "但它必须回到 lse 中。",
        ),
        (
            2,
            "The gradient of lse is the softmax, that of its square has one more factor; at the "
            "label, one is taken away; all is divided by the count of the forward. A token that "
            "does not count gets zeros, and its label -100 must not be used as an index.",
            "lse 的梯度是 softmax，它的平方的梯度多一个因子；在标签处减去一；"
            "全部除以前向所用的个数。不计入的 token 梯度为零，它的标签 -100 不能当作下标。",
        ),
    ),
)
LAYER_VARIANTS = (RMSNORM, SWIGLU, ROPE, ATTENTION, CROSS_ENTROPY)

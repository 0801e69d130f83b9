"""The variants of optimiser, long context and PPO; see variants.py and variants_layers.py."""

from __future__ import annotations

from .variants_layers import Row

ADAMW: Row = (
    "adamw",
    "nesterov",
    "the first moment looks one step ahead: the corrected mean is that of beta1 * m + (1 - beta1) "
    "* g with the new m, as in NAdam. Qwen uses the plain mean.",
    "一阶矩向前看一步：用新的 m 计算 beta1 * m + (1 - beta1) * g，再做修正，与 NAdam 相同。"
    "Qwen 用普通的平均。",
    (
        (
            "m_hat = m / (1 - beta1**step)",
            "m_hat = (beta1 * m + (1 - beta1) * g) / (1 - beta1**step)",
        ),
        (
            "m_hat = m / (1 - beta1**t)                 both start at 0: undo that, t = 1, 2, ...",
            "m_hat = (beta1 * m + (1 - beta1) * g) / (1 - beta1**t)        a step ahead, t = 1, 2, "
            "...",
        ),
        ("A first step moves w by lr,", "A first step moves w by (1 + beta1) * lr,"),
        ("array([-0.1,  0.1])", "array([-0.19,  0.19])"),
        (
            "arXiv:1711.05101.\nDiffers:",
            "arXiv:1711.05101;\n          the step ahead: Dozat 2016 (NAdam).\nDiffers:",
        ),
    ),
    (
        (
            0,
            "The first step moves every weight by (1 + beta1) lr, whatever the size of its "
            "gradient. If yours moves by less than lr, the start at 0 is not corrected.",
            "第一步无论梯度多大，每个权重都移动 (1 + beta1) lr。"
            "如果移动得比 lr 少，就是没有修正从 0 开始的偏差。",
        ),
    ),
)
ALPHA: Row = (
    "dynamic_ntk_alpha",
    "not_rounded",
    "alpha grows in a straight line, max(1, 2 T / L0 - 1), as transformers' dynamic rule does with "
    "factor 2. Qwen's is a staircase.",
    "alpha 按直线增长：max(1, 2 T / L0 - 1)，与 transformers 的 dynamic 规则（factor 为 2）相同。"
    "Qwen 的是阶梯。",
    (
        (
            "    doubled = 1  # no logarithm: math.log(2**29, 2) is a little above 29, and ceil "
            "makes it 30\n    while doubled * train_length < length:\n        doubled *= 2\n"
            "    return float(2 * doubled - 1)",
            "    return float(2 * max(1, length / train_length) - 1)",
        ),
        (
            "Qwen's rule is a staircase,\n\n    alpha(T) = max(1, 2 ** ceil(log2(T / L0) + 1) - 1)"
            '        1 up to L0, 3 up to 2 L0, then 7, 15\n\nand that of transformers ("dynamic") '
            "is a line, alpha = factor * T / L0 - (factor - 1). With factor\n2 the line touches "
            "the staircase at T = 2 L0, 4 L0, 8 L0, and lies below it in between.",
            "Here it is a line,\n\n    alpha(T) = max(1, 2 T / L0 - 1)\n\nas in transformers "
            '("dynamic", factor 2). Qwen\'s own rule is a staircase, which the line touches at\n'
            "T = 2 L0, 4 L0, 8 L0.",
        ),
        (
            "Return Qwen's alpha for a length: 2 * (length / train_length, up to a power of two) "
            "- 1.",
            "Return alpha for a length: 2 * length / train_length - 1, and never below 1.",
        ),
        (
            "in (1, 2048, 2049, 4096, 4097, 8192)]\n    [1.0, 1.0, 3.0, 3.0, 7.0, 7.0]",
            "in (1, 2048, 2560, 4096, 8192)]\n    [1.0, 1.0, 1.5, 3.0, 7.0]",
        ),
        (
            "Differs:  the report gives no formula; alpha(T) is that of the released code, here in "
            "whole numbers\n          where the code rounds a logarithm.",
            "Differs:  alpha(T) is a line; Qwen's released code has a staircase.",
        ),
    ),
    (
        (
            0,
            "Look at both ends of the frequencies: the fastest stays exactly as it is, the slowest "
            "is divided by exactly alpha. With a trained length of 16, the alphas at 16, 20, 32, "
            "64 are 1, 1.5, 3, 7.",
            "看频率的两端：最快的保持不变，最慢的恰好除以 alpha。训练长度为 16 时，"
            "长度 16、20、32、64 的 alpha 是 1、1.5、3、7。",
        ),
        (
            1,
            "Alpha goes into the base, with an exponent a little above 1 that depends on Dh alone. "
            "Alpha itself is never below 1.",
            "alpha 进入 base，指数略大于 1，只取决于 Dh。alpha 本身不会小于 1。",
        ),
    ),
)
LOGN: Row = (
    "logn",
    "no_lower_limit",
    "queries within the trained length are scaled too: lambda = ln(p + 1) / ln(L0) everywhere, as "
    "in the note that LogN comes from. Qwen's is never below 1.",
    "训练长度以内的查询也要缩放：处处都是 lambda = ln(p + 1) / ln(L0)，与 LogN 的原文相同。"
    "Qwen 的不会小于 1。",
    (
        (
            "n = xp.maximum(positions.astype(dtype) + 1, train_length)",
            "n = positions.astype(dtype) + 1",
        ),
        ("lambda_p = max(1, ln(p + 1) / ln(L0))", "lambda_p = ln(p + 1) / ln(L0)"),
        ("Beyond the trained length L0 it is scaled:", "L0 is the trained length. It is scaled:"),
        (
            "of the text, and what came before L0 stays as it was, bit for bit.",
            "of the text.",
        ),
        (
            "For inference only; training never goes beyond L0, where lambda is 1. With a KV cache "
            "nothing\nspecial happens: keys are not scaled, and a new query takes the lambda of "
            "its absolute position.",
            "It acts in training too. With a KV cache nothing special happens: keys are not "
            "scaled, and a new\nquery takes the lambda of its absolute position.",
        ),
        (
            "The origin has no max(1, .). In padded",
            "As in the origin there is no\n          max(1, .), which Qwen has. In padded",
        ),
        (
            "1 up to the trained length, then slowly more.",
            "0 for the first, 1 at the trained length.",
        ),
        ("array([1.    , 1.    , 1.0219, 2.    ]", "array([0.    , 1.    , 1.0219, 2.    ]"),
    ),
    (
        (
            2,
            "LogN goes by the position of each query, counted from 1, not by the length of the "
            "text. With a trained length of 16 the first token has 0, the fourth 0.5, the 16th "
            "exactly 1, the 32nd 1.25. It is a constant, so the gradient gets the same factor; "
            "keys get none.",
            "LogN 取决于每个查询自己的位置（从 1 数起），而不是文本长度。训练长度为 16 时，"
            "第 1 个 token 为 0，第 4 个为 0.5，第 16 个恰好为 1，第 32 个为 1.25。"
            "它是常数，所以梯度乘以同一个因子；键不缩放。",
        ),
    ),
)
POLICY: Row = (
    "ppo_policy_loss",
    "per_answer",
    "every answer weighs the same: the loss is the mean over the answers of the mean over the "
    "tokens of each, as in GRPO. Usually every token weighs the same.",
    "每个回答的权重相同：先对每个回答的 token 求平均，再对回答求平均，与 GRPO 相同。"
    "通常是每个 token 的权重相同。",
    (
        (
            "    loss = xp.maximum(-A * ratio, -A * clipped).sum() / tokens\n",
            "    share = xp.maximum(mask.sum(axis=1, keepdims=True), 1) * len(mask)\n"
            "    share = share.astype(new.dtype)  # (B, 1)\n"
            "    loss = (xp.maximum(-A * ratio, -A * clipped) / share).sum()\n",
        ),
        (
            "        ratio, A, held, tokens, logprobs.dtype,",
            "        ratio, A, held, share, logprobs.dtype,",
        ),
        (
            "the clip acts, and the loss is flat\n    tokens: Array  # () how many are of answers, "
            "at least 1\n",
            "the clip acts, and the loss is flat\n    tokens: Array  # (B, 1) how many its answer "
            "has, at least 1, times B\n",
        ),
        (
            "The mean runs over the M tokens of answers. max",
            "The policy's mean is that of the means over the M_b tokens of each of B answers, the "
            "value's runs\nover the M tokens of all answers. max",
        ),
        ("dloss / M * -A ratio    else", "dloss / (B M_b) * -A ratio    else"),
        (
            "and the clipped objective, with a minus.",
            "and the clipped objective, with a minus: a mean of means.",
        ),
        (
            "Differs:  the clip 0.2",
            "Differs:  in the loss of the policy every answer weighs the same, as in GRPO.\n"
            "          The clip 0.2",
        ),
    ),
    (
        (
            1,
            "A loss is minus an objective, so the worse of two is the larger loss, in both "
            "functions. For the policy take the mean of each answer first, then that of the "
            "answers; an answer without tokens adds 0. Padding may hold any number: take it out "
            "before you use exp.",
            "损失是目标的相反数，所以“较差的一个”是较大的损失，两个函数都如此。"
            "策略先对每个回答求平均，再对回答求平均；没有 token 的回答加 0。"
            "填充处可能是任何数：用 exp 之前先去掉。",
        ),
    ),
)
VALUE: Row = (
    "ppo_value_loss",
    "no_half",
    "there is no factor 1/2 in front of the squared error of the values. The usual loss has one.",
    "价值的平方误差前没有因子 1/2。通常的损失有。",
    (
        (".sum() / 2 / tokens", ".sum() / tokens"),
        ("(error * share * weight)", "(2 * error * share * weight)"),
        (" - R)^2) / 2\n", " - R)^2)\n"),
        ("dV = dloss / M * (V - R)    if", "dV = dloss / M * 2 (V - R)    if"),
        ("Average half of the worse squared error,", "Average the worse squared error,"),
        ("so (2 - 4)^2 / 2\n    2.0", "so (2 - 4)^2\n    4.0"),
    ),
    (),
)
TRAINING_VARIANTS = (ADAMW, ALPHA, LOGN, POLICY, VALUE)

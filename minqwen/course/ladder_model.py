"""The middle rungs of the ladder: a block, its optimiser, the tokenizer, long texts, experts."""

from __future__ import annotations

from .exercise import Exercise, Part

MODEL_EXERCISES = (
    Exercise(
        name="block",
        title="Decoder block",
        title_zh="解码器块",
        parts=(Part("decoder_block", ("decoder_block_forward", "decoder_block_backward")),),
        points=7,
        minutes=60,
        needs=("rmsnorm", "swiglu", "attention"),
        report="Qwen 2.3.1 Architecture",
        task="Put the pieces together: a decoder block with attention and a feed-forward network, "
        "each behind a norm of its own and each added to the stream, and its gradient. The two "
        "branches are given; you decide what reads what, and where gradients meet.",
        task_zh="把各部分组装起来：由注意力和前馈网络组成的解码器块，两者之前各有自己的归一化，"
        "结果各自加到残差流上；再写出它的梯度。两个分支已经给出，"
        "由你决定谁读取什么、梯度在哪里汇合。",
        hints=(
            "Pre-norm: the norm stands in front of the branch, and what comes out is added to the "
            "stream that was not normalised.",
            "The second norm reads what the first branch has left in the stream, and has weights "
            "of its own. With o_proj and down_proj at 0 the block must return x.",
            "Go back through the second half first. Where the forward has a +, the gradient goes "
            "two ways, straight on and through branch and norm; where those ways began, both "
            "arrive and are added. The dict of gradients has every name that params has: from "
            "both branches and both norms.",
        ),
        hints_zh=(
            "前置归一化：归一化在分支之前，分支的输出加到未归一化的残差流上。",
            "第二个归一化读取的是第一个分支之后的残差流，并有自己的权重。"
            "当 o_proj 和 down_proj 为 0 时，这个块必须原样返回 x。",
            "反向先经过后半部分。前向有 + 的地方，梯度分两路：直接通过，以及经过分支和归一化；"
            "两路在其起点汇合并相加。梯度字典的键与 params 完全相同：来自两个分支和两个归一化。",
        ),
    ),
    Exercise(
        name="adamw",
        title="AdamW",
        title_zh="AdamW 优化器",
        parts=(Part("adamw", ("adamw_update",)),),
        points=5,
        minutes=40,
        needs=("linear",),
        report="Qwen 2.4 Training",
        task="Write one update of AdamW for one tensor: running means of the gradient and of its "
        "square, both corrected for their start at 0, and a decay beside the gradient. Return new "
        "arrays; the arguments stay as they are.",
        task_zh="写出 AdamW 对一个张量的一次更新：梯度及其平方的滑动平均，两者都对从 0 开始做修正，"
        "权重衰减与梯度分开。返回新的数组，参数保持不变。",
        hints=(
            "The first step moves every weight by lr, whatever the size of its gradient. If yours "
            "moves by 0.447 lr, the start at 0 is not corrected.",
            "The decay does not go through the gradient: with g = 0 (and m = v = 0) a weight "
            "loses exactly the share lr * weight_decay of itself. Where eps stands shows with "
            "gradients of 1e-8.",
            "In this order: new m and v; both corrected with the number of this step, which is 1 "
            "for the first; then the root; eps is added to the root. The decay acts on the weight "
            "from before the step. Python floats keep float32 arrays as they are, NumPy's float64 "
            "numbers widen them.",
        ),
        hints_zh=(
            "第一步无论梯度多大，每个权重都移动 lr。如果移动了 0.447 lr，"
            "就是没有修正从 0 开始的偏差。",
            "衰减不经过梯度：g = 0（且 m = v = 0）时，权重恰好减少自身的 lr * weight_decay。"
            "用 1e-8 大小的梯度可以看出 eps 放得对不对。",
            "顺序是：新的 m 和 v；用这一步的序号（第一步为 1）修正两者；再开方；eps 加在根上。"
            "衰减作用于这一步之前的权重。Python 的 float 不改变 float32 数组，"
            "NumPy 的 float64 数会把它们变宽。",
        ),
    ),
    Exercise(
        name="bpe_train",
        title="Byte-pair encoding: learn merges",
        title_zh="字节对编码：学习合并",
        parts=(Part("bpe_merges", ("merge_pair", "learn_merges_steps")),),
        points=7,
        minutes=60,
        needs=(),
        report="Qwen 2.2 Tokenization",
        task="Learn the merges of byte-level BPE, one step at a time: count all pairs of "
        "neighbours, join the most frequent pair everywhere, repeat. Write `merge_pair` first, "
        "then `learn_merges_steps`, which yields a TrainStep after every merge.",
        task_zh="逐步学习字节级 BPE 的合并：统计所有相邻对，把最常见的一对处处合并，如此重复。"
        "先写 `merge_pair`，再写 `learn_merges_steps`，后者每合并一次就产出一个 TrainStep。",
        hints=(
            "Start from the bytes of UTF-8, not from characters: é is two of them. Do the example "
            "at the top of the file by hand.",
            "A run of three a holds the pair a a twice when you count, and is joined once. After "
            "a join go on behind the new token. No pair reaches from one pre-token into the next.",
            "min and max take a key, and a key that is a tuple decides about ties too. The tie "
            "rule needs ids, so keep a table from token to id; new ids begin at 256. It ends when "
            "no pair is left.",
        ),
        hints_zh=(
            "从 UTF-8 的字节开始，而不是字符：é 是两个字节。把文件开头的例子手算一遍。",
            "统计时，连续三个 a 含有两个 a a，合并时只合并一次。合并后从新 token 的后面继续。"
            "任何一对都不会跨越两个预切分片段。",
            "min 和 max 可以带 key；key 是元组时，并列的情况也由它决定。"
            "并列规则要用到 id，所以要保存从 token 到 id 的表；"
            "新的 id 从 256 开始。没有相邻对时结束。",
        ),
    ),
    Exercise(
        name="bpe_encode",
        title="Byte-pair encoding: apply merges",
        title_zh="字节对编码：应用合并",
        parts=(Part("bpe_encode", ("bpe_encode_steps",)),),
        points=6,
        minutes=40,
        needs=("bpe_train",),
        report="Qwen 2.2 Tokenization",
        task="Apply learned merges to one pre-token: join the two neighbours whose joined bytes "
        "have the lowest rank, again and again, until no two neighbours make a token. Yield a "
        "MergeStep for the single bytes first, then one after every merge.",
        task_zh="把学到的合并应用于一个预切分片段：反复合并拼接后 rank 最小的两个相邻 token，"
        "直到没有相邻的两个能组成 token。先为单个字节产出一个 MergeStep，之后每合并一次产出一个。",
        hints=(
            "It is not the longest match from the left: with the tokens ab, bc, abcd in this "
            "order, the text abcd becomes ab c d.",
            "One step joins one place: the lowest rank anywhere, of equals the leftmost. Then "
            "look at all pairs anew, since the new token has new neighbours.",
            "The rank of a pair is that of its joined bytes, if they are a token at all. In the "
            "first step that you yield, pair and rank are None. Make a new list in every step, or "
            "all steps show the same one.",
        ),
        hints_zh=(
            "不是从左边开始的最长匹配：若 token 依次为 ab、bc、abcd，文本 abcd 得到 ab c d。",
            "一步只合并一处：全局 rank 最小的，相同时取最左边的。"
            "然后重新检查所有相邻对，因为新 token 有了新的邻居。",
            "一对的 rank 是拼接后的字节的 rank，前提是它确实是一个 token。"
            "产出的第一步中 pair 和 rank 都是 None。每一步都要新建列表，否则所有步显示同一个列表。",
        ),
    ),
    Exercise(
        name="long_context",
        title="Longer texts: NTK-aware RoPE and LogN",
        title_zh="长文本：NTK 感知的 RoPE 与 LogN",
        parts=(
            Part("ntk_inv_freq", ("ntk_base", "ntk_inv_freq")),
            Part("dynamic_ntk_alpha", ("dynamic_ntk_alpha",)),
            Part("logn", ("logn_scale", "logn_forward", "logn_backward"), weight=2),
        ),
        points=7,
        minutes=75,
        needs=("rope",),
        report="Qwen 2.3.2 Context Length Extension",
        task="Write what lets a Qwen model read further than it was trained: the larger base of "
        "NTK-aware RoPE, the rule for its alpha, and the LogN factor of the queries with its "
        "gradient. Nothing here is trained.",
        task_zh="写出使 Qwen 能读比训练时更长的文本的方法："
        "NTK 感知 RoPE 的更大 base、alpha 的规则，"
        "以及查询的 LogN 因子及其梯度。这里没有任何可训练的东西。",
        hints=(
            "Look at both ends of the frequencies: the fastest stays exactly as it is, the "
            "slowest is divided by exactly alpha. With a trained length of 16, the alphas at 16, "
            "17, 32, 33, 64, 65 are 1, 3, 3, 7, 7, 15.",
            "Alpha goes into the base, with an exponent a little above 1 that depends on Dh alone. "
            "A logarithm can miss a power of two by one rounding; whole numbers cannot.",
            "LogN goes by the position of each query, counted from 1, not by the length of the "
            "text. It is exactly 1 up to the trained length: with 16, the 17th token has 1.021866, "
            "the 32nd 1.25. It is a constant, so the gradient gets the same factor; keys get none.",
        ),
        hints_zh=(
            "看频率的两端：最快的保持不变，最慢的恰好除以 alpha。训练长度为 16 时，"
            "长度 16、17、32、33、64、65 的 alpha 是 1、3、3、7、7、15。",
            "alpha 进入 base，指数略大于 1，只取决于 Dh。"
            "对数可能因一次舍入而错过 2 的幂，整数则不会。",
            "LogN 取决于每个查询自己的位置（从 1 数起），而不是文本长度。"
            "在训练长度以内恰好为 1：训练长度为 16 时，第 17 个 token 为 1.021866，"
            "第 32 个为 1.25。"
            "它是常数，所以梯度乘以同一个因子；键不缩放。",
        ),
    ),
    Exercise(
        name="moe_router",
        title="Router of a mixture of experts",
        title_zh="混合专家的路由器",
        parts=(Part("moe_router", ("moe_router_forward", "moe_router_backward", "softmax")),),
        points=7,
        minutes=75,
        needs=("linear", "cross_entropy"),
        report="Qwen2 2.2.2 Qwen2 Mixture-of-experts Model",
        task="Write the router of a mixture of experts and its gradient: for every token the K "
        "most likely of E experts, and how much each of them counts. `softmax` returns the log of "
        "the sum too, for the losses on the router.",
        task_zh="写出混合专家的路由器及其梯度：为每个 token 选出 E 个专家中概率最大的 K 个，"
        "并给出各自的权重。`softmax` 还返回和的对数，供路由器的损失使用。",
        hints=(
            "Softmax over all experts first, then the choice. The other way round the weights sum "
            "to 1, which is wanted with norm_topk_prob only.",
            "For the logits 2, 1, 0, -1 and K = 2 the weights are 0.643914 and 0.236883; divided "
            "by their sum, 0.731059 and 0.268941. The largest comes first, of equals the lower "
            "number: which kind of sort keeps the order of equals?",
            "The choice has no gradient, the probabilities have. As they are, also experts that "
            "were not chosen get one, because they share the softmax; divided by their sum, those "
            "get exactly 0. In both cases the gradients of the logits of one token sum to 0.",
        ),
        hints_zh=(
            "先对所有专家做 softmax，再选择。反过来做，权重之和就是 1，"
            "只有 norm_topk_prob 时才要这样。",
            "logits 为 2, 1, 0, -1、K = 2 时，权重为 0.643914 和 0.236883；"
            "除以它们的和则为 0.731059 和 0.268941。最大的在前，相等时编号小的在前："
            "哪种排序能保持相等元素的次序？",
            "选择没有梯度，概率有梯度。不归一化时，未被选中的专家也有梯度，因为它们共用 softmax；"
            "除以和之后，它们的梯度恰好为 0。两种情况下，一个 token 的 logits 梯度之和都是 0。",
        ),
    ),
)

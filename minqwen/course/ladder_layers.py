"""The first rungs of the ladder: the layers of a Qwen model, and its loss."""

from __future__ import annotations

from .exercise import Exercise, Part

LAYER_EXERCISES = (
    Exercise(
        name="linear",
        title="Linear layer",
        title_zh="线性层",
        parts=(Part("linear", ("linear_forward", "linear_backward")),),
        points=4,
        minutes=30,
        needs=(),
        report="Qwen 2.3.1 Architecture",
        task="Write a linear layer and its gradient: one dot product with every row of the "
        "weight, plus a bias where there is one. Every projection of a Qwen model is this "
        "function; only those of queries, keys and values have a bias.",
        task_zh="写出线性层及其梯度：输入与权重的每一行做点积，有偏置时再加上偏置。"
        "Qwen 模型里的每个投影都是这个函数；只有查询、键、值的投影带偏置。",
        hints=(
            "The weight is stored as (out, in), as in checkpoints. Write down the shapes of x, w "
            "and y before you multiply.",
            "Flatten all leading axes of x into one axis of N rows: forward and backward are plain "
            "matrix products then. Try it with different sizes for in and out, so that a missing "
            "transpose shows.",
            "dx has the shape of x and dw that of w: there is only one order of dy and the other "
            "factor in which the shapes fit. The bias acts on every row, so its gradient collects "
            "all rows; without a bias return None for it.",
        ),
        hints_zh=(
            "权重按 (out, in) 存放，和检查点文件一致。相乘之前先写下 x、w、y 的形状。",
            "把 x 前面的所有轴展平成 N 行，前向和反向就都是普通的矩阵乘法。"
            "试的时候让 in 与 out 取不同的大小，漏掉的转置马上会暴露。",
            "dx 的形状与 x 相同，dw 的形状与 w 相同：dy 与另一个因子只有一种顺序能对上形状。"
            "偏置作用于每一行，所以它的梯度要把所有行加起来；没有偏置时返回 None。",
        ),
    ),
    Exercise(
        name="rmsnorm",
        title="RMSNorm",
        title_zh="RMSNorm 归一化",
        parts=(Part("rmsnorm", ("rmsnorm_forward", "rmsnorm_backward")),),
        points=6,
        minutes=40,
        needs=("linear",),
        report="Qwen 2.3.1 Architecture",
        task="Write RMSNorm and its gradient. It stands in front of every attention and every "
        "feed-forward network of Qwen and keeps the size of the numbers in check.",
        task_zh="写出 RMSNorm 及其梯度。在 Qwen 中，它位于每个注意力和每个前馈网络之前，"
        "使数值的大小保持稳定。",
        hints=(
            "The mean is not subtracted: add a constant to x, and the result must change. Which "
            "statistic of a vector is it divided by?",
            "Where eps stands decides about small inputs: try x of size 1e-3. Every vector has a "
            "root mean square of its own: change one token, and the others must stay.",
            "Every x_i acts twice: directly, and through the root mean square. Multiply dy by the "
            "gain first; what is then taken away points along the normalised x. Check: with a "
            "tiny eps, dx is orthogonal to x. dw collects all tokens, however many axes x has.",
        ),
        hints_zh=(
            "不减均值：给 x 加上一个常数，结果必须改变。那么向量要除以它的哪个统计量？",
            "eps 放在哪里，决定了小输入的结果：用大小约 1e-3 的 x 试试。"
            "每个向量有自己的均方根：改动一个 token，其余的必须不变。",
            "每个 x_i 起两次作用：直接作用，以及通过均方根起作用。先把 dy 乘以增益；"
            "随后要减去的部分沿着归一化后的 x 的方向。检验：eps 很小时 dx 与 x 正交。"
            "无论 x 有几个轴，dw 都要累加所有 token。",
        ),
    ),
    Exercise(
        name="swiglu",
        title="SwiGLU feed-forward network",
        title_zh="SwiGLU 前馈网络",
        parts=(Part("swiglu", ("swiglu_forward", "swiglu_backward", "sigmoid")),),
        points=6,
        minutes=45,
        needs=("linear",),
        report="Qwen 2.3.1 Architecture",
        task="Write SwiGLU, the feed-forward network of Qwen, and its gradient: two projections "
        "of the input, one of which gates the other, and a third one back to the width of the "
        "model. The sigmoid must not overflow for any input.",
        task_zh="写出 Qwen 的前馈网络 SwiGLU 及其梯度：对输入做两个投影，其中一个作为另一个的门，"
        "再用第三个投影回到模型宽度。sigmoid 对任何输入都不得溢出。",
        hints=(
            "SiLU acts on the gate, not on up. With gate = -10 and up = 1 the product is about "
            "-0.00045; if you get -7.31, the two are exchanged.",
            "exp of a large number overflows. Which function of NumPy levels off on both sides, "
            "and is a sigmoid after a change of scale?",
            "x feeds both branches, so two gradients come back to it. The gradient of each branch "
            "holds the forward value of the other one. silu' has two terms: silu'(2) is about "
            "1.0908, so it can be above 1.",
        ),
        hints_zh=(
            "SiLU 作用在 gate 上，而不是 up 上。gate = -10、up = 1 时乘积约为 -0.00045；"
            "如果得到 -7.31，就是两者弄反了。",
            "大数的 exp 会溢出。NumPy 里哪个函数两端都趋于平缓，换个尺度就是 sigmoid？",
            "x 同时进入两个分支，所以有两份梯度回到它。每个分支的梯度里含有另一分支的前向值。"
            "silu' 有两项：silu'(2) 约为 1.0908，可以大于 1。",
        ),
    ),
    Exercise(
        name="rope",
        title="Rotary position embedding (RoPE)",
        title_zh="旋转位置编码（RoPE）",
        parts=(
            Part(
                "rope",
                ("rope_inv_freq", "rope_tables", "rope_forward", "rope_backward", "rotate_half"),
            ),
        ),
        points=8,
        minutes=60,
        needs=("linear",),
        report="Qwen 2.3.1 Architecture",
        task="Write rotary position embedding: the frequencies, the tables of cosines and sines, "
        "the rotation of queries and keys, and its gradient. It is the only place where a Qwen "
        "model learns in which order the tokens stand.",
        task_zh="写出旋转位置编码：频率、余弦和正弦表、对查询与键的旋转，以及它的梯度。"
        "Qwen 模型只通过它得知 token 的先后顺序。",
        hints=(
            "Qwen pairs feature i with feature i + Dh/2, not with its neighbour. At position 0 "
            "nothing turns, so a wrong pairing looks right there.",
            "The vector 1, 2, ..., 8 at position 3 with base 10,000 becomes -1.695593, 0.137552, "
            "2.788682, 3.975982, -4.808842, 6.323059, 7.086837, 8.011964. The tables have the "
            "precision of the frequencies, never below float32.",
            "Each angle stands twice in the tables, once for each half. To turn pairs by 90 "
            "degrees, exchange the halves and change one sign. A rotation is an orthogonal "
            "matrix: what is its transpose?",
        ),
        hints_zh=(
            "Qwen 把第 i 个特征与第 i + Dh/2 个配对，而不是与相邻的配对。"
            "位置 0 不旋转，所以错误的配对在那里看起来也是对的。",
            "base 为 10000 时，向量 1, 2, ..., 8 在位置 3 变为 -1.695593, 0.137552, 2.788682, "
            "3.975982, -4.808842, 6.323059, 7.086837, 8.011964。"
            "表的精度与频率相同，绝不低于 float32。",
            "表中每个角度出现两次，前后两半各一次。要把每一对转 90 度，就交换两半并改变一个符号。"
            "旋转是正交矩阵：它的转置是什么？",
        ),
    ),
    Exercise(
        name="attention",
        title="Attention with grouped key/value heads",
        title_zh="分组键值头注意力",
        parts=(Part("attention", ("attention_forward", "attention_backward")),),
        points=10,
        minutes=120,
        needs=("rope",),
        report="Qwen2, Qwen2 Dense Model",
        task="Write scaled dot-product attention with grouped key/value heads and a mask, and its "
        "gradient. Every query averages the values, weighted by how well their keys match it.",
        task_zh="写出带掩码、分组键值头的缩放点积注意力及其梯度。"
        "每个查询对所有值求加权平均，权重取决于键与它的匹配程度。",
        hints=(
            "Set all values to 1: every output must be 1, whatever q and k are. Set q to 0: the "
            "output must be the mean of the values that the query may see.",
            "Query head h reads key/value head h // G, so neighbours share one. The mask acts "
            "before the softmax. A query that may see nothing gives zeros, not NaN, and scores of "
            "1e4 must not overflow.",
            "Cut the heads of q into groups over which the keys broadcast; nothing needs to be "
            "copied. Backward is the forward in reverse. In the softmax, what counts of dP is by "
            "how much it differs from its own sum weighted by P. The scale belongs to dq and to "
            "dk, and dk and dv collect all query heads of the group.",
        ),
        hints_zh=(
            "把所有值设为 1：无论 q 和 k 是什么，输出都必须是 1。把 q 设为 0："
            "输出必须是该查询可见的值的平均。",
            "第 h 个查询头读第 h // G 个键值头，所以相邻的头共用一个。掩码作用在 softmax 之前。"
            "什么都看不到的查询给出零，而不是 NaN；大小为 1e4 的分数不得溢出。",
            "把 q 的头分组，让键在组内广播，不需要复制。反向就是把前向倒过来做。"
            "在 softmax 处，dP 中起作用的是它与自身以 P 加权之和的差。缩放因子既属于 dq 也属于 dk；"
            "dk 和 dv 要累加组内的所有查询头。",
        ),
    ),
    Exercise(
        name="cross_entropy",
        title="Next-token cross-entropy",
        title_zh="下一个 token 的交叉熵",
        parts=(Part("cross_entropy", ("cross_entropy_forward", "cross_entropy_backward")),),
        points=7,
        minutes=60,
        needs=("linear",),
        report="Qwen 2.4 Training",
        task="Write the loss of pretraining, the mean of -log p(next token) over the tokens that "
        "count, and its gradient with respect to the logits. The argument `block` only saves "
        "memory: you may ignore it and work on all rows at once.",
        task_zh="写出预训练的损失，即对计入的 token 求 -log p(下一个 token) 的平均，"
        "以及它对 logits 的梯度。"
        "参数 `block` 只为节省内存：可以不管它，一次处理所有行。",
        hints=(
            "Equal logits give ln V. Add 1000 to all logits of a token, and nothing may change: "
            "what can be taken out before exp?",
            "Divide by the number of tokens that count, not by all of them; when none counts, the "
            "loss is 0. The labels are the next tokens already, so shift nothing.",
            "The gradient of a log-sum-exp is the softmax; at the label, one is taken away; both "
            "are divided by the count of the forward. The gradients of one row of logits sum to "
            "0. A token that does not count gets zeros, and its label -100 must not be used as an "
            "index.",
        ),
        hints_zh=(
            "logits 全相等时损失为 ln V。给某个 token 的所有 logits 加 1000，结果不得改变："
            "在 exp 之前可以提出什么？",
            "除以计入的 token 数，而不是全部 token 数；没有 token 计入时损失为 0。"
            "标签已经是下一个 token，不要再移位。",
            "log-sum-exp 的梯度是 softmax；在标签处减去一；两者都除以前向所用的个数。"
            "同一行 logits 的梯度之和为 0。不计入的 token 梯度为零，它的标签 -100 不能当作下标。",
        ),
    ),
)

"""The last rungs of the ladder: rewards, advantages, PPO and DPO."""

from __future__ import annotations

from .exercise import Exercise, Part

ALIGNMENT_EXERCISES = (
    Exercise(
        name="reward_loss",
        title="Reward model: head and pairwise loss",
        title_zh="奖励模型：输出头与成对损失",
        parts=(
            Part("reward_head", ("reward_head_forward", "reward_head_backward")),
            Part("pairwise_loss", ("pairwise_loss_forward", "pairwise_loss_backward")),
        ),
        points=5,
        minutes=60,
        needs=("linear",),
        report="Qwen 3.2.1 Reward Model",
        task="Write the two parts of training a reward model: the head that reads one number at "
        "the token that ends an answer, and the pairwise loss that teaches it which of two "
        "answers people prefer. Both with their gradients.",
        task_zh="写出训练奖励模型的两个部分：在回答的结束 token 处读出一个数的输出头，"
        "以及教它人们更喜欢哪个回答的成对损失。两者都要写出梯度。",
        hints=(
            "More padding behind an answer must not change its reward. Two equal rewards have the "
            "loss ln 2, and only their difference counts.",
            "log sigmoid(-800) is -800, not minus infinity. The differences 1 and -1 have the "
            "losses 0.313262 and 1.313262.",
            "Write -log sigmoid as a maximum and a log1p, so that exp never meets a positive "
            "number. The slope is minus the probability that the wrong answer wins, shared among "
            "all pairs; chosen and rejected get opposite signs. In the head only the end tokens "
            "get a gradient, and w collects all rows.",
        ),
        hints_zh=(
            "回答之后再多的填充也不能改变它的奖励。两个奖励相等时损失为 ln 2，只有差起作用。",
            "log sigmoid(-800) 是 -800，不是负无穷。差为 1 和 -1 时，损失是 0.313262 和 1.313262。",
            "把 -log sigmoid 写成一个最大值加一个 log1p，使 exp 永远不遇到正数。"
            "斜率是负的“错误回答获胜的概率”，由所有对平均分担；chosen 与 rejected 符号相反。"
            "在输出头中只有结束 token 有梯度，w 要累加所有行。",
        ),
    ),
    Exercise(
        name="gae",
        title="Generalised advantage estimation",
        title_zh="广义优势估计（GAE）",
        parts=(Part("gae", ("gae",)),),
        points=5,
        minutes=45,
        needs=(),
        report="Qwen 3.2.2 Reinforcement Learning",
        task="Write generalised advantage estimation for answers in a padded batch: for every "
        "token how much better than expected it turned out, and what its value should have been. "
        "PPO learns from nothing else.",
        task_zh="为带填充的一批回答写出广义优势估计：每个 token 的结果比预期好多少，"
        "以及它的价值本应是多少。PPO 就从这些量中学习。",
        hints=(
            "Go from the last token to the first, since each advantage needs the one after it. "
            "lam = 0 leaves the one-step errors, lam = 1 what really came less the value.",
            "A value belongs to the state before its token. After the last token of an answer "
            "there is no more value, unless last_values gives one. Padding is passed over: on "
            "either side, and it gets 0.",
            "Two numbers go along with every row: the advantage and the value of the next token "
            "of the answer. At padding both stay as they were. The returns come from these "
            "advantages, not from sums of rewards, and are 0 for padding too.",
        ),
        hints_zh=(
            "从最后一个 token 走到第一个，因为每个优势都要用到后一个。"
            "lam = 0 只剩单步误差，lam = 1 是实际得到的减去价值。",
            "价值属于该 token 之前的状态。回答的最后一个 token 之后不再有价值，"
            "除非 last_values 给出。"
            "无论填充在哪一侧都跳过，结果为 0。",
            "每一行带着两个数往前走：回答中后一个 token 的优势和价值。遇到填充时两者都不变。"
            "回报由这些优势得出，而不是奖励之和；填充处的回报也是 0。",
        ),
    ),
    Exercise(
        name="ppo_loss",
        title="The two losses of PPO",
        title_zh="PPO 的两个损失",
        parts=(
            Part("ppo_policy_loss", ("ppo_policy_loss_forward", "ppo_policy_loss_backward")),
            Part("ppo_value_loss", ("ppo_value_loss_forward", "ppo_value_loss_backward")),
        ),
        points=6,
        minutes=75,
        needs=("gae",),
        report="Qwen 3.2.2 Reinforcement Learning",
        task="Write the two losses of PPO and their gradients: the clipped objective of the policy "
        "and the clipped error of the value model. Each takes the worse of two branches and "
        "averages over the tokens of answers. The metrics in the caches are yours to fill or to "
        "leave out.",
        task_zh="写出 PPO 的两个损失及其梯度：策略的截断目标，以及价值模型的截断误差。"
        "两者都取两个分支中较差的一个，并对回答的 token 求平均。缓存中的统计量可填可不填。",
        hints=(
            "Make a table of the cases: ratio below, inside and above the limits, advantage "
            "positive and negative. In which of them is the loss flat?",
            "A loss is minus an objective, so the worse of two is the larger loss, in both "
            "functions. The mean runs over the tokens where mask is True; without one the loss is "
            "0. Padding may hold any number: take it out before you use exp.",
            "Where the clipped branch is taken and differs from the plain one, nothing flows "
            "back; elsewhere the derivative of a ratio is the ratio. Advantages, returns and "
            "everything old are constants. A log-ratio too large for exp must not give infinity: "
            "bounded_exponent is there for it.",
        ),
        hints_zh=(
            "把各种情况列成表：比率低于、处于、高于界限，优势为正或为负。哪些情况下损失是平的？",
            "损失是目标的相反数，所以“较差的一个”是较大的损失，两个函数都如此。"
            "对 mask 为 True 的 token 求平均；一个也没有时损失为 0。"
            "填充处可能是任何数：用 exp 之前先去掉。",
            "选中截断分支且它与未截断的不同时，没有梯度回传；其他地方，比率的导数就是比率本身。"
            "优势、回报和所有旧的量都是常数。过大的对数比率不能得到无穷大："
            "为此有 bounded_exponent。",
        ),
    ),
    Exercise(
        name="dpo",
        title="Direct preference optimisation (DPO)",
        title_zh="直接偏好优化（DPO）",
        parts=(Part("dpo_loss", ("dpo_loss_forward", "dpo_loss_backward")),),
        points=4,
        minutes=30,
        needs=("reward_loss",),
        report="Qwen2, Reinforcement Learning from Human Feedback",
        task="Write the loss of DPO and its gradient: the pairwise loss, with rewards that come "
        "from the policy itself and a frozen reference. No reward model and no sampling is needed.",
        task_zh="写出 DPO 的损失及其梯度：即成对损失，但奖励来自策略自身与一个冻结的参考模型。"
        "不需要奖励模型，也不需要采样。",
        hints=(
            "While policy and reference are equal all rewards are 0, and the loss is ln 2.",
            "A reward is how much more likely the policy makes an answer than the reference does, "
            "in nats, times beta. Which sign does it have when the policy has made an answer less "
            "likely?",
            "Once the rewards are there, the pairwise loss does the rest, in both directions. On "
            "the way back beta comes in once, by the chain rule, and the reference is a constant. "
            "beta as a NumPy number would widen float32.",
        ),
        hints_zh=(
            "策略与参考模型相同时，所有奖励为 0，损失为 ln 2。",
            "奖励是策略使某个回答比参考模型可能多少（以 nat 计），再乘以 beta。"
            "如果策略使回答变得更不可能，奖励是什么符号？",
            "有了奖励，前向和反向的其余部分都由成对损失完成。反向时按链式法则 beta 出现一次，"
            "参考模型是常数。beta 若是 NumPy 的数，会把 float32 变宽。",
        ),
    ),
)

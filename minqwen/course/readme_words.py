"""The words of the README for students, in English and Chinese."""

from __future__ import annotations

TEXT: dict[str, dict[str, str | tuple[str, ...]]] = {
    "en": {
        "intro": "{count} to write in NumPy, {points} points, about {hours} of work.",
        "one": "One exercise",
        "many": "{n} exercises",
        "hours": "{h} hours",
        "minutes": "{m} minutes",
        "todo": "What to do",
        "steps": (
            "The files here are solved files of minqwen from which the bodies of some functions "
            "were taken. Write a body wherever it says `raise NotImplementedError`.\n\n"
            "1. Read the top of a file: the idea, the equation and, where there is one, the "
            "derivation of the gradient.\n"
            "2. Read the docstring of a function: what goes in, with shapes, what comes out, and "
            "an example.\n"
            "3. Write the body, check it (below), and read what the check says."
        ),
        "table": "| | exercise | file | functions | points | minutes | comes after |",
        "change": "This year's change",
        "changed": (
            "In these functions something is asked for that differs from the public files of "
            "minqwen. The docstrings here say it too."
        ),
        "exercises": "The exercises",
        "facts": "`{files}`, {points} points, about {minutes} minutes. Report: {report}.",
        "to_write": "To write: {functions}.",
        "hint": "Hint {n}",
        "check": "How to check",
        "checks": (
            "You need Python 3.11 or newer and minqwen (`pip install minqwen`); no GPU, no "
            "account, no network. In this folder:\n\n"
            "```\n"
            "minqwen grade .                        every visible check, and what is wrong\n"
            "python -m doctest {file}{pad}the examples in the docstrings; silent if all is well\n"
            "python -m pytest test_visible.py       the same checks as tests (pip install pytest)\n"
            "```\n\n"
            "A check compares your numbers with the right ones in float64, where nothing but a "
            "mistake is larger than rounding. If your numbers are exactly those of a well-known "
            "mistake, it {tells}."
        ),
        "tells": (
            "says only which question was answered wrongly",
            "says which mistake that is and where to look",
            "says which mistake that is and shows the line that makes it",
        ),
        "points": "What gives points",
        "aspects": "| aspect | share | told | question |\n| --- | ---: | --- | --- |",
        "now": "at once",
        "later": "later",
        "half": "half at once, half later",
        "pointed": (
            "Within an aspect the points are proportional to the inputs that are right; shape is "
            "all or nothing. Where a function has no gradient, those points go to the other "
            "aspects. A gradient that fits your own wrong forward gets half of its points. What "
            "is told later uses numbers that are not in this folder, so do not write answers into "
            "your file."
        ),
        "rules": "Rules",
        "ruled": (
            "- NumPy and Python's standard library. Each file names the functions of minqwen that "
            "may be of use; solved functions of this assignment cannot be imported when you are "
            "graded, and it is noted if you try.\n"
            "- Keep the names of files, functions and arguments, and what they return. The cache "
            "is yours: it goes from your forward to your backward, and nobody else reads it.\n"
            "- You may add helper functions. Files may use one another, as in `from linear import "
            "linear_forward`. If that other file is wrong, yours is also tried with a right one, "
            "so no mistake costs points twice.\n"
            "- Functions must not change their arguments and must give the same answer twice. "
            "float32 in means float32 out.\n"
            "- A call may take 10 seconds and 2 GB of memory, and all calls to a function together "
            "100 seconds, far more than needed. There is no network and there are no files. Prints "
            "and warnings cost nothing.\n"
            "- Checking the arguments (`Raises:` in the docstrings) is good style and is not "
            "graded."
        ),
        "hand": "Handing in",
        "handed": (
            "Hand in {files}: as files, as a zip of this folder, or in a notebook that defines the "
            "functions. Of a notebook only imports, functions, classes and simple constants are "
            "read."
        ),
        "and": " and ",
    },
    "zh": {
        "intro": "用 NumPy 完成{count}，共 {points} 分，大约需要 {hours}。",
        "one": "一道练习",
        "many": " {n} 道练习",
        "hours": "{h} 小时",
        "minutes": "{m} 分钟",
        "todo": "要做什么",
        "steps": (
            "这里的文件是 minqwen 的完整文件，其中一些函数的函数体被取走了。"
            "凡是写着 `raise NotImplementedError` 的地方，请写出函数体。\n\n"
            "1. 读文件开头：思路、公式，以及（如果有）梯度的推导。\n"
            "2. 读函数的说明：输入及其形状、输出，以及一个例子。\n"
            "3. 写出函数体，检查（见下文），并阅读检查给出的说明。"
        ),
        "table": "| | 练习 | 文件 | 函数 | 分数 | 分钟 | 前置练习 |",
        "change": "今年的改动",
        "changed": "以下函数的要求与 minqwen 公开的文件不同。这里的函数说明中也写明了。",
        "exercises": "练习",
        "facts": "`{files}`，{points} 分，约 {minutes} 分钟。报告：{report}。",
        "to_write": "需要写：{functions}。",
        "hint": "提示 {n}",
        "check": "如何检查",
        "checks": (
            "需要 Python 3.11 或更新版本以及 minqwen（`pip install minqwen`）；"
            "不需要 GPU、账号或网络。在这个文件夹里运行：\n\n"
            "```\n"
            "minqwen grade .                        所有可见的检查，以及哪里错了\n"
            "python -m doctest {file}{pad}函数说明中的例子；全部正确时没有输出\n"
            "python -m pytest test_visible.py       同样的检查，作为测试（pip install pytest）\n"
            "```\n\n"
            "检查在 float64 中把你的数与正确的数比较，此时只有错误会大于舍入误差。"
            "如果你的数恰好是某个常见错误的结果，检查会{tells}。"
        ),
        "tells": (
            "只说明哪个方面不对",
            "说明是哪个错误、该看哪里",
            "说明是哪个错误，并给出出错的那一行",
        ),
        "points": "如何得分",
        "aspects": "| 方面 | 占比 | 何时告知 | 问题 |\n| --- | ---: | --- | --- |",
        "now": "立即",
        "later": "之后",
        "half": "一半立即，一半之后",
        "pointed": (
            "每个方面的分数与答对的输入数成正比；形状要么全得，要么不得。没有梯度的函数，"
            "这部分分数分给其他方面。如果梯度与你自己（错误）的前向一致，可得梯度分数的一半。"
            "之后告知的部分使用这个文件夹里没有的数，所以不要把答案写死在文件里。"
        ),
        "rules": "规则",
        "ruled": (
            "- 只用 NumPy 和 Python 标准库。每个文件都列出了 minqwen 中可能用到的函数；"
            "本作业要写的函数在评分时无法导入，尝试导入会被记录。\n"
            "- 文件名、函数名、参数名和返回值保持不变。"
            "缓存由你决定：它从你的前向传到你的反向，别人不读取。\n"
            "- 可以添加辅助函数。文件之间可以互相使用，例如 `from linear import linear_forward`。"
            "如果另一个文件有错，还会用正确的文件再试一次，所以同一个错误不会扣两次分。\n"
            "- 函数不得修改参数，两次调用的结果必须相同。输入 float32，输出也是 float32。\n"
            "- 每次调用最多 10 秒、2 GB 内存，同一函数的所有调用合计最多 100 秒，远多于所需。"
            "没有网络，也没有文件。打印和警告不扣分。\n"
            "- 检查参数（说明中的 `Raises:`）是好习惯，但不评分。"
        ),
        "hand": "提交",
        "handed": (
            "请提交 {files}：单个文件、整个文件夹的 zip，或者定义了这些函数的笔记本均可。"
            "笔记本中只读取导入语句、函数、类和简单的常量。"
        ),
        "and": "、",
    },
}
QUESTIONS = {
    "shape": ("the shape of every output", "每个输出的形状"),
    "values": ("the numbers, on ordinary inputs", "普通输入上的数值"),
    "hard inputs": (
        "the numbers on large, tiny, zero, single or masked inputs",
        "很大、很小、全零、单个或被遮住的输入上的数值",
    ),
    "gradient": ("every gradient, on every input", "每个输入上的每个梯度"),
    "stability": (
        "float32 stays float32 and is exact, half precision does not overflow, arguments are left "
        "alone, the same answer twice",
        "float32 保持 float32 且精确，半精度不溢出，不修改参数，两次结果相同",
    ),
}
ASPECT_ZH = {
    "shape": "形状",
    "values": "数值",
    "hard inputs": "困难输入",
    "gradient": "梯度",
    "stability": "稳定性",
}

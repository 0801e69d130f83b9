r"""A dictionary: looks a term up in a file of your own.

    gradient\t梯度                          NAME.tsv: term, tab, meaning
    {"term": "gradient", "meaning": "梯度"}  NAME.jsonl

A term is looked up as it is written; then without regard to case, width and blanks, which finds
"Gradient", "ｇｒａｄｉｅｎｔ" and "gradient "; and where that finds nothing, the answer names
the terms that are spelled most alike. That nothing was found is an answer and no error.

A term that stands in the file several times has several meanings.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   Ratcliff and Metzener 1988, whose measure of likeness is `difflib` in Python.
Differs:  likeness is that of spelling, not of meaning: "car" does not find "automobile".
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..tool import Tool

LONGEST_TERM = 200  # characters of a question: the search for alike terms takes time by them
ALIKE = 0.6  # share of characters in common, of `difflib`
MOST = 3  # terms that are named

SAMPLE = {  # English and Chinese, words of this project
    "activation": "激活值：一层网络算出的数值",
    "agent": "智能体：会使用工具的模型",
    "attention": "注意力：每个位置按相关程度读取其他位置",
    "batch": "批：一起计算的几条样本",
    "bias": "偏置：加在结果上的常数向量",
    "checkpoint": "检查点：存到磁盘的参数",
    "context": "上下文：模型能看到的文本",
    "cross-entropy": "交叉熵：预测与答案的差距",
    "dataset": "数据集：用来训练或测试的样本",
    "decoder": "解码器：逐个写出词元的网络",
    "dropout": "随机失活：训练时随机置零",
    "embedding": "嵌入：把词元变成向量",
    "epoch": "轮：把全部数据看一遍",
    "expert": "专家：混合专家模型里的一个小网络",
    "fine-tuning": "微调：在新数据上继续训练",
    "gradient": "梯度：损失对参数的导数",
    "head": "头：注意力的一个分支",
    "hallucination": "幻觉：听起来真实的假话",
    "inference": "推理：用训练好的模型计算",
    "kernel": "内核：执行代码的进程；核函数",
    "label": "标签：正确答案",
    "layer": "层：网络的一段",
    "learning rate": "学习率：每一步走多远",
    "logits": "对数几率：归一化之前的分数",
    "loss": "损失：要变小的数",
    "mask": "掩码：标出哪些位置可见",
    "model": "模型：带参数的函数",
    "observation": "观察：工具返回的结果",
    "optimizer": "优化器：更新参数的方法",
    "overfitting": "过拟合：记住了训练数据却不会推广",
    "parameter": "参数：训练中学到的数",
    "prompt": "提示：给模型的输入文本",
    "reward": "奖励：对回答的打分",
    "softmax": "归一化指数：把分数变成概率",
    "temperature": "温度：采样时的随机程度",
    "token": "词元：模型读写的最小单位",
    "tool": "工具：模型可以调用的函数",
    "weight": "权重：矩阵里的参数",
}


def read_dictionary(path: str | os.PathLike[str]) -> dict[str, str]:
    r"""Read a file of terms and meanings.

    Args:
        path: of a file in UTF-8; what ends in .jsonl is JSON, anything else has tabs. Blank lines
            and a byte-order mark are passed over.

    Returns:
        Meanings by term, in the order of the file; several meanings of a term divided by "; ".

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, a line does not hold a term and a meaning, or there is none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "words.tsv")
    ...     _ = path.write_text("cat\t猫\ndog\t狗\n", encoding="utf-8")
    ...     read_dictionary(path)
    {'cat': '猫', 'dog': '狗'}
    """
    entry = _json_entry if Path(path).suffix.lower() == ".jsonl" else _tab_entry
    found: dict[str, list[str]] = {}
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        try:
            text = line.decode("utf-8").removeprefix("\ufeff" if number == 1 else "")
            if not text.strip():
                continue
            term, meaning = (part.strip() for part in entry(text))
            if not term or not meaning:
                raise ValueError(f"{'meaning' if term else 'term'} is empty")
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are some
            raise ValueError(f"{path}, line {number}: {error}") from None
        meanings = found.setdefault(term, [])
        if meaning not in meanings:
            meanings.append(meaning)
    if not found:
        raise ValueError(f"{path} holds no terms")
    return {term: "; ".join(meanings) for term, meanings in found.items()}


def look_up(entries: Mapping[str, str], term: str) -> str:
    """Say what a term means.

    Args:
        entries: meanings by term.
        term: to look up.

    Returns:
        The meaning; or "TERM: meaning" for each term that differs in case, width or blanks only; or
        a sentence with the terms that are spelled alike.

    >>> entries = {"cat": "猫", "Cats": "《猫》"}
    >>> look_up(entries, "cat"), look_up(entries, "CATS")
    ('猫', 'Cats: 《猫》')
    >>> look_up(entries, "catt")
    "there is no entry for 'catt'; near it: cat, Cats"
    """
    return _look_up(entries, _by_fold(entries), term)


def dictionary_tool(path: str | os.PathLike[str] | None = None) -> Tool:
    """Make a tool that looks terms up.

    Args:
        path: a file for `read_dictionary`, read once, now. None takes the few words of SAMPLE.

    Raises:
        OSError, ValueError: of `read_dictionary`.

    >>> dictionary_tool().call(term="Token")
    'token: 词元：模型读写的最小单位'
    """
    entries = SAMPLE if path is None else read_dictionary(path)
    folded = _by_fold(entries)
    return Tool(
        "dictionary",
        "Dictionary",
        f"Looks up what a term means, among {len(entries)} terms. When there is no such term, it "
        "names those that are spelled alike.",
        {
            "type": "object",
            "properties": {
                "term": {
                    "type": "string",
                    "description": "the term alone, such as gradient",
                    "minLength": 1,
                    "maxLength": LONGEST_TERM,
                }
            },
            "required": ["term"],
            "additionalProperties": False,
        },
        lambda term: _look_up(entries, folded, term),
    )


def _look_up(entries: Mapping[str, str], folded: Mapping[str, list[str]], term: str) -> str:
    if term in entries:
        return entries[term]
    if same := folded.get(_fold(term)):
        return "; ".join(f"{known}: {entries[known]}" for known in same)
    near = get_close_matches(_fold(term)[:LONGEST_TERM], folded, n=MOST, cutoff=ALIKE)
    names = ", ".join(known for fold in near for known in folded[fold])
    hint = f"; near it: {names}" if names else ", and none that is spelled alike"
    return f"there is no entry for {term[:LONGEST_TERM]!r}{hint}"


def _fold(term: str) -> str:
    """Return what terms have in common that differ in case, width and blanks."""
    return " ".join(unicodedata.normalize("NFKC", term).casefold().split())


def _by_fold(entries: Mapping[str, str]) -> dict[str, list[str]]:
    folded: dict[str, list[str]] = {}
    for term in entries:
        folded.setdefault(_fold(term), []).append(term)
    return folded


def _tab_entry(line: str) -> list[str]:
    parts = line.split("\t")
    if len(parts) != 2:
        raise ValueError(f"needs a term, one tab and a meaning, got {len(parts) - 1} tabs")
    return parts


def _json_entry(line: str) -> list[str]:
    try:
        value: Any = json.loads(line)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(value, dict) or value.keys() != {"term", "meaning"}:
        got = ", ".join(map(repr, value)) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"needs an object with term and meaning only, got {got[:80]}")
    parts = [value["term"], value["meaning"]]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("term and meaning must be texts")
    return parts

"""ROUGE-L against the package rouge-score, which evaluates Qwen's arguments of tools."""

import random
import string

import pytest

from minqwen.agent.rouge import rouge_l, rouge_words
from minqwen.agent.tool_metrics import input_score

rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
pytestmark = pytest.mark.parity


class Spaces:
    """Words that are cut already."""

    def tokenize(self, text):
        return text.split()


def test_rouge_l_on_texts_in_ascii():
    scorer, rng = rouge_scorer.RougeScorer(["rougeL"]), random.Random(0)
    letters = "aAbB19_-.,'\n\t  " * 3 + string.printable
    for _ in range(400):
        a, b = ("".join(rng.choices(letters, k=rng.randrange(80))) for _ in range(2))
        theirs, ours = scorer.score(a, b)["rougeL"], rouge_l(a, b)
        assert ours == pytest.approx((theirs.precision, theirs.recall, theirs.fmeasure), abs=1e-12)


def test_rouge_l_on_chinese_that_is_cut_already():
    scorer, rng = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Spaces()), random.Random(1)
    for _ in range(100):
        a, b = ("".join(rng.choices("天地玄黄宇宙", k=rng.randrange(1, 20))) for _ in range(2))
        theirs = scorer.score(" ".join(a), " ".join(b))["rougeL"].fmeasure
        assert rouge_l(a, b).f1 == pytest.approx(theirs, abs=1e-12)


def test_input_score():
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Spaces())
    inputs = ['{"city": "Paris"}', '{"city": "Rome", "days": 3}', '{"a": 1, "b": [2, "x y"]}']
    for a in inputs:
        for b in inputs:
            theirs = scorer.score(" ".join(rouge_words(a)), " ".join(rouge_words(b)))["rougeL"]
            texts = (f"\nAction: t\nAction Input: {text}" for text in (a, b))
            assert input_score(*texts, rouge_words) == pytest.approx(theirs.fmeasure, abs=1e-12)

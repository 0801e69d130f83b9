"""Perplexity of documents: against the loss token by token, whatever is read together."""

import dataclasses
import math
import pickle
import random
from functools import partial

import numpy as np
import pytest
from training.small_run import CONFIG

from minqwen.data.corpora import bilingual_stories
from minqwen.data.packing import pack_documents
from minqwen.data.quality_rules import judge
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.model.language_model import language_model_forward
from minqwen.tokenizer.bpe import bpe_train
from minqwen.training.accumulate import evaluate
from minqwen.training.perplexity_rule import document_perplexity, perplexity_rule
from minqwen.training.pretrain import pretrain
from minqwen.training.settings import PretrainSettings

PLAIN = dataclasses.replace(CONFIG, dropout=0.0, max_position_embeddings=6)
CONFIGS = {
    "plain": PLAIN,
    "dropout is not used": dataclasses.replace(PLAIN, dropout=0.5),
    "ntk": dataclasses.replace(PLAIN, model_type="qwen", use_dynamic_ntk=True),
}
TEXTS = [
    "a fox",
    "",
    "b",
    "the fox, the dog and 一只狗 in one long document",
    "abcdefg",
    "abcdefgh",
    "ab",
]
SEPARATOR = 10


def encode(text):
    return [ord(c) % 10 for c in text]


def params_of(config, seed=2):
    return init_params(config, np.random.default_rng(seed), dtype="float64")


def by_hand(params, config, ids, context):
    """Slow and by the definition: one token, one chunk up to it, one softmax at a time."""
    nats = 0.0
    for t in range(1, len(ids)):
        chunk_start = (t - 1) // context * context
        chunk = ids[chunk_start : chunk_start + context]
        if len(ids) - 1 - chunk_start < context:  # as the length of a chunk may change its RoPE
            chunk = ids[chunk_start:-1]
        logits, _ = language_model_forward(params, config, np.array([chunk]))
        z = logits[0, t - 1 - chunk_start]
        nats += math.log(sum(math.exp(x - z.max()) for x in z)) + z.max() - z[ids[t]]
    return nats


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("separator_id", [None, SEPARATOR])
def test_equals_the_definition(name, separator_id):
    config = CONFIGS[name]
    params = params_of(config)
    found = document_perplexity(
        params, config, encode, TEXTS, context_length=8, separator_id=separator_id
    )
    first = [] if separator_id is None else [separator_id]
    documents = [first + encode(text) for text in TEXTS]
    expected = [by_hand(params, dataclasses.replace(config, dropout=0.0), d, 8) for d in documents]
    np.testing.assert_allclose(found.nats, expected, rtol=1e-12, atol=0)
    assert found.tokens.tolist() == [max(0, len(ids) - 1) for ids in documents]
    assert found.bytes.tolist() == [len(text.encode()) for text in TEXTS]
    assert found.nats.dtype == np.float64


def test_equals_evaluate():
    params = params_of(PLAIN)
    text = TEXTS[3][:40]
    rows = pack_documents([[SEPARATOR, *encode(text)]], 5, SEPARATOR)[:8]  # 40 labels
    loss = evaluate(params, PLAIN, rows, 3).loss
    found = document_perplexity(
        params, PLAIN, encode, [text], context_length=5, separator_id=SEPARATOR
    )
    assert found.tokens[0] == 40
    assert found.nats[0] == pytest.approx(40 * loss, rel=1e-12)
    assert found.perplexity[0] == pytest.approx(math.exp(loss), rel=1e-12)
    assert found.bits_per_byte[0] == pytest.approx(
        40 * loss / math.log(2) / len(text.encode()), rel=1e-12
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_does_not_depend_on_what_is_read_together(name):
    config = CONFIGS[name]
    params = params_of(config)
    score = partial(
        document_perplexity, params, config, encode, context_length=7, separator_id=SEPARATOR
    )
    alone = np.array([score([text]).nats[0] for text in TEXTS])
    for batch_tokens in (1, 10, 30, 10_000):
        together = score(TEXTS, batch_tokens=batch_tokens).nats
        np.testing.assert_allclose(together, alone, rtol=1e-12, atol=0)
    backwards = score(TEXTS[::-1]).nats[::-1]
    np.testing.assert_allclose(backwards, alone, rtol=1e-12, atol=0)


def test_memory_is_bounded(monkeypatch):
    from minqwen.training import perplexity_rule as module

    shapes = []

    def recorded(params, config, input_ids, **options):
        shapes.append(input_ids.shape)
        return language_model_forward(params, config, input_ids, **options)

    monkeypatch.setattr(module, "language_model_forward", recorded)
    document_perplexity(
        params_of(PLAIN), PLAIN, encode, TEXTS * 9, context_length=8, batch_tokens=40
    )
    assert max(rows * width for rows, width in shapes) <= 40
    assert max(width for _, width in shapes) == 8
    filled = sum(max(0, len(text) - 1) for text in TEXTS * 9)
    assert filled <= sum(rows * width for rows, width in shapes) < 1.3 * filled  # little padding


def test_a_uniform_model_by_hand():
    params = {name: np.zeros_like(value) for name, value in params_of(PLAIN).items()}
    found = document_perplexity(
        params, PLAIN, encode, ["一二三 a", "", "b"], context_length=3, separator_id=SEPARATOR
    )
    np.testing.assert_allclose(found.perplexity, [11, np.nan, 11])
    np.testing.assert_allclose(found.bits_per_byte, [5 * math.log2(11) / 11, np.nan, math.log2(11)])
    without = document_perplexity(params, PLAIN, encode, ["ab", "a"], context_length=3)
    assert without.tokens.tolist() == [1, 0]
    np.testing.assert_allclose(without.bits_per_byte, [math.log2(11) / 2, np.nan])


def test_nothing_to_score():
    found = document_perplexity(params_of(PLAIN), PLAIN, encode, [], context_length=3)
    assert [len(part) for part in found] == [0, 0, 0]
    assert found.perplexity.shape == (0,)


def test_float32_gives_float64_sums():
    params = init_params(PLAIN, np.random.default_rng(2))
    found = document_perplexity(params, PLAIN, encode, TEXTS, context_length=8)
    exact = document_perplexity(
        {k: v.astype(np.float64) for k, v in params.items()}, PLAIN, encode, TEXTS, context_length=8
    )
    assert found.nats.dtype == np.float64
    np.testing.assert_allclose(found.nats, exact.nats, rtol=1e-5)


def test_rule():
    params = {name: np.zeros_like(value) for name, value in params_of(PLAIN).items()}
    score = partial(
        document_perplexity, params, PLAIN, encode, context_length=3, separator_id=SEPARATOR
    )
    assert judge("abc", [perplexity_rule(score, low=10.9, high=11.1)]).kept
    assert judge("", [perplexity_rule(score, low=10.9, high=11.1)]).kept  # cannot be asked
    (failure,) = judge("abc", [perplexity_rule(score, high=10)]).failures
    assert failure.reason == "perplexity: 11, wanted at most 10 (language model)"
    (failure,) = judge("abc", [perplexity_rule(score, low=3.5, unit="bits per byte")]).failures
    assert failure.reason == "bits per byte: 3.459, wanted at least 3.5 (language model)"
    rule = perplexity_rule(score, high=10)
    copy = pickle.loads(pickle.dumps(rule))  # to be sent to other processes
    assert judge("abc", [copy]) == judge("abc", [rule])


def test_a_hopeless_document_is_at_infinity():
    params = params_of(PLAIN)
    params["model.embed_tokens.weight"] = params["model.embed_tokens.weight"] * 1e6
    score = partial(document_perplexity, params, PLAIN, encode, context_length=4)
    (failure,) = judge("abcabc", [perplexity_rule(score, high=1e9)]).failures
    assert failure.reason == "perplexity: inf, wanted at most 1e+09 (language model)"


def test_errors():
    params = params_of(PLAIN)
    score = partial(document_perplexity, params, PLAIN)
    with pytest.raises(TypeError, match="texts must be several texts, got one"):
        score(encode, "abc", context_length=3)
    with pytest.raises(ValueError, match="must be positive, got 0 and 4096"):
        score(encode, ["abc"], context_length=0)
    with pytest.raises(ValueError, match=r"ids must be in \[0, V=11\), got values from 5 to 11"):
        score(lambda text: [5, 11, 6], ["abc"], context_length=3)
    broken = {name: value * np.nan for name, value in params.items()}
    with pytest.raises(FloatingPointError, match="the score of document 1 is nan"):
        document_perplexity(broken, PLAIN, encode, ["", "abc"], context_length=3)
    with pytest.raises(
        ValueError, match=r'unit must be "perplexity" or "bits per byte", got .bpb.'
    ):
        perplexity_rule(score, unit="bpb")
    with pytest.raises(ValueError, match="low must not be above high, got 2 and 1"):
        perplexity_rule(score, low=2, high=1)


@pytest.mark.slow
def test_a_trained_model_knows_its_kind_of_text(tmp_path):
    config = QwenConfig(
        vocab_size=600,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    stories = [story for story in bilingual_stories(400, 0) if story.isascii()]
    held_out = [story for story in bilingual_stories(60, 1) if story.isascii()]
    encode, separator = partial(bpe_train(stories, 500).encode, disallowed_special=()), 599
    rows = pack_documents(map(encode, stories), 64, separator, np.random.default_rng(0))
    settings = PretrainSettings(
        steps=60, batch_size=8, context_length=64, peak_lr=1e-2, warmup_steps=10, eval_every=0
    )
    params = pretrain(config, rows, tmp_path, settings, progress=False, plot=False)

    score = partial(
        document_perplexity, params, config, encode, context_length=64, separator_id=separator
    )
    rng = random.Random(0)
    shuffled = ["".join(rng.sample(story, len(story))) for story in held_out]
    good, bad = score(held_out).bits_per_byte, score(shuffled).bits_per_byte
    assert good.max() < 2 < 5 < bad.min()
    untrained = init_params(config, np.random.default_rng(0))
    before = document_perplexity(
        untrained, config, encode, held_out, context_length=64, separator_id=separator
    )
    assert before.bits_per_byte.min() > good.max()
    rule = perplexity_rule(score, high=3, unit="bits per byte")
    assert all(judge(story, [rule]).kept for story in held_out[:5])
    assert not any(judge(story, [rule]).kept for story in shuffled[:5])

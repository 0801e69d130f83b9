"""One step of fine-tuning against torch autograd through transformers, in float64.

Labels are made here as the usual trainers make them: the ids, -100 where nothing is learnt, not
shifted; the shift and the mean over what is not -100 are torch's.
"""

import math

import numpy as np
import pytest
from helpers.models import random_params, small_config
from parity.oracle import float64_transformers, transformers_model

from minqwen.alignment.settings import SftSettings
from minqwen.alignment.sft import train_step
from minqwen.alignment.sft_rows import chats_to_rows
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.chat_templates import Template
from minqwen.tokenizer.chatml import encode_chat
from minqwen.training.adamw import adamw_init

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

TALKS = [
    [("user", "2 + 2?"), ("assistant", "Four.")],
    [("system", "Count."), ("user", "go"), ("assistant", "1 2 3"), ("user", "on"),
     ("assistant", "4")],
    [("assistant", ""), ("user", "?"), ("assistant", "你好")],
]  # fmt: skip
CASES = {"qwen2": {}, "tied": {"tie_word_embeddings": True}}


def encoded(tokenizer, train_on):
    return [
        encode_chat(
            tokenizer,
            [{"role": role, "content": content} for role, content in talk],
            template=Template(system=None),
            train_on=train_on,
        )
        for talk in TALKS
    ]


def labels_of(tokenizer, chat, train_on):
    """Labels by the rule, from the ids alone: who speaks is read off the text."""
    start, end = (tokenizer.special_tokens[f"<|im_{name}|>"] for name in ("start", "end"))
    markers = train_on == "answers_and_markers"
    labels, at = [], 0
    while at < len(chat.ids):
        assert chat.ids[at] == start
        stop = chat.ids.index(end, at)
        role, _, content = tokenizer.decode(chat.ids[at + 1 : stop]).partition("\n")
        said = len(tokenizer.encode(content))
        answer = role == "assistant"
        labels += [start if markers else -100] + [-100] * (stop - at - 1 - said)
        labels += chat.ids[stop - said : stop] if answer else [-100] * said
        labels += [end if answer or markers else -100]
        labels += [chat.ids[stop + 1] if markers else -100]
        at = stop + 2
    return labels


def nll(model, ids, labels, mask):
    """The sum over all labels, and how many there are."""
    logits = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
    assert logits.dtype == torch.float64
    shifted = torch.tensor(labels)[:, 1:]
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), shifted, ignore_index=-100, reduction="sum"
    )
    return loss, int((shifted != -100).sum())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("train_on", ["answers", "answers_and_markers"])
@pytest.mark.parametrize(("layout", "accumulate"), [("padded", 1), ("padded", 2), ("packed", 1)])
def test_loss_and_every_gradient(layout, accumulate, train_on, case):
    tokenizer = bpe_train("", merges=0)
    chats = encoded(tokenizer, train_on)
    labels = [labels_of(tokenizer, chat, train_on) for chat in chats]
    config = small_config(vocab_size=tokenizer.vocab_size, **CASES[case])
    params = random_params(config)
    pad = tokenizer.special_tokens["<|endoftext|>"]
    settings = SftSettings(
        **{"batch_size": 3, "accumulate": accumulate, "dropout": 0.0, "max_norm": math.inf},
        context_length=300,
    )
    rows = chats_to_rows(chats, settings, pad)
    if layout == "packed":
        settings = SftSettings(
            **{"batch_size": 1, "dropout": 0.0, "max_norm": math.inf},
            **{"context_length": 150, "packed": True},
        )
        rows = chats_to_rows(chats, settings, pad)
        assert rows.batch.input_ids.shape == (1, 150)  # all three in one row, and empty places
    grads, row = train_step(params, adamw_init(params), config, rows.batch, settings)

    with float64_transformers():
        model = transformers_model(config, params)
        if layout == "packed":  # one chat at a time, alone
            parts = [
                nll(model, [chat.ids], [label], [[1] * len(chat.ids)])
                for chat, label in zip(chats, labels, strict=True)
            ]
            loss, n = (sum(part) for part in zip(*parts, strict=True))
        else:
            longest = max(len(chat.ids) for chat in chats)
            loss, n = nll(
                model,
                [chat.ids + [pad] * (longest - len(chat.ids)) for chat in chats],
                [label + [-100] * (longest - len(label)) for label in labels],
                [[int(i < len(chat.ids)) for i in range(longest)] for chat in chats],
            )
        (loss / n).backward()
    assert row["tokens"] == n
    assert row["loss"] == pytest.approx(loss.item() / n, rel=1e-12)
    found = dict(model.named_parameters())
    for name, grad in grads.items():
        theirs = found[name].grad.numpy()
        assert np.abs(grad - theirs).max() < 1e-9 * np.abs(theirs).max(), name
    squares = sum(float((p.grad**2).sum()) for p in model.parameters())
    assert row["grad_norm"] == pytest.approx(math.sqrt(squares), rel=1e-9)

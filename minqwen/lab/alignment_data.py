"""What the study of alignment reads: a tokenizer, rows of text, prompts, chats, pairs.

    text      stories (data/corpora.py) and plain talk about the world: what pretraining reads
    chats     prompts with answers that people might write, most of them right, not all kind
    pairs     two answers of a model to a prompt; the label says which has the higher true reward,
              with the noise of Bradley and Terry:

                  P(a is chosen) = sigmoid(certainty * (true reward of a - true reward of b))

Prompts that are held out are in none of them; talk is about the other prompts only, too. Held-out
pairs have no noise, and no two answers that are worth the same.

Origin:   Bradley and Terry 1952.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..alignment.preference_pairs import Pair, teaches_nothing
from ..alignment.rollout import as_lists, rollout
from ..backend import Array
from ..data.corpora import bilingual_stories
from ..data.packing import pack_documents
from ..model.config import QwenConfig
from ..params import Params
from ..tokenizer.bpe import Tokenizer, bpe_train
from ..tokenizer.chat_templates import Template
from ..tokenizer.chatml import Chat, encode_chat
from .alignment_settings import AlignmentSettings
from .alignment_world import (
    Judged,
    Manners,
    Prompt,
    all_prompts,
    draw_answer,
    draw_prompt,
    draw_talk,
    judge,
)

SEPARATOR, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = Template(system=None)
HELD_OUT_ROWS = 64  # of stories, and of talk
IN_TEXT, IN_CHATS = Manners(named=1.0), Manners(right=0.97)
AT_A_TIME = 256  # rows, when answers are sampled
CHINESE = re.compile("[\u2e80-\u9fff\uff00-\uffef]")
WORLD, CHATS, COARSE, FINE, CLEAN, ANSWERS, ONLINE = range(10, 17)  # first words of the seeds


class Data(NamedTuple):
    tokenizer: Tokenizer
    rows: Array  # (n, C + 1) int, to pretrain on, stories and talk mixed
    stories: Array  # (m, C + 1) int, held out
    talk: Array  # (m, C + 1) int, held out
    prompts: list[Prompt]  # to train on
    held_out: list[Prompt]

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return self.tokenizer.special_tokens[END]

    @property
    def pad_id(self) -> int:
        """What stands in empty places."""
        return self.tokenizer.special_tokens[SEPARATOR]


class Answer(NamedTuple):
    prompt: Prompt
    query: list[int]  # the prompt in ChatML, up to where the answer begins
    ids: list[int]  # with its end token, if it has one
    text: str  # without it
    ended: bool
    judged: Judged


class Labelled(NamedTuple):
    pairs: list[Pair]
    flipped: float  # share of the pairs with unequal rewards whose label is the wrong one


def prepare_data(settings: AlignmentSettings) -> Data:
    """Make text and prompts, and train the tokenizer on a bit of both."""
    s, rng = settings, np.random.default_rng([WORLD, settings.seed])
    prompts = all_prompts()
    order = rng.permutation(len(prompts))
    held_out = [prompts[i] for i in order[: s.held_out_prompts]]
    kept = [prompts[i] for i in order[s.held_out_prompts :]]
    stories = [text for text in bilingual_stories(s.stories, s.seed) if not CHINESE.search(text)]
    talks = [draw_talk(rng, draw_prompt(rng, kept), IN_TEXT) for _ in range(s.talks)]
    headers = ["user\n", "assistant\n"] * 40
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer merges than asked for are fine
        tokenizer = bpe_train(
            ["".join(talks[:500]), *stories[:60], *headers],
            s.vocab_size,
            special_tokens=(SEPARATOR, START, END),
        )
    separator = tokenizer.special_tokens[SEPARATOR]

    def encode(texts: Sequence[str]) -> list[Array]:
        return [np.array(tokenizer.encode(text), np.int32) for text in texts]

    encoded = [encode(stories), encode(talks)]
    train, held = [], []
    for documents in encoded:
        count = max(1, len(documents) // 10)  # of every source
        held.append(pack_documents(documents[:count], s.context_length, separator)[:HELD_OUT_ROWS])
        train += documents[count:]
    rows = pack_documents(train, s.context_length, separator, rng)
    return Data(tokenizer, rows, held[0], held[1], kept, held_out)


def query_ids(data: Data, prompt: Prompt) -> list[int]:
    """Return the prompt in ChatML, up to where the answer begins."""
    messages = [{"role": "user", "content": prompt.text}]
    return encode_chat(data.tokenizer, messages, template=TEMPLATE, generation_prompt=True).ids


def make_chats(data: Data, settings: AlignmentSettings, seed: int) -> tuple[list[Chat], list[Chat]]:
    """Return chats to fine-tune on, and a tenth as many about held-out prompts."""
    rng = np.random.default_rng([CHATS, seed])

    def draw(prompts: Sequence[Prompt], count: int) -> list[Chat]:
        chats = []
        for _ in range(count):
            prompt = draw_prompt(rng, prompts)
            answer = draw_answer(rng, prompt, IN_CHATS)
            messages = [
                {"role": "user", "content": prompt.text},
                {"role": "assistant", "content": answer},
            ]
            chats.append(encode_chat(data.tokenizer, messages, template=TEMPLATE))
        return chats

    return draw(data.prompts, settings.chats), draw(data.held_out, settings.chats // 10)


def sample_answers(
    data: Data,
    config: QwenConfig,
    params: Params,
    prompts: Sequence[Prompt],
    count: int,
    settings: AlignmentSettings,
    rng: np.random.Generator,
    temperature: float = 1.0,
) -> list[Answer]:
    """Sample `count` answers to each prompt, and judge them; those of a prompt follow each other.

    The whole softmax is sampled from, whatever PPO does: so the divergence of two policies is the
    mean of a difference of log-probabilities.
    """
    answers = []
    for start in range(0, len(prompts), max(1, AT_A_TIME // count)):
        piece = prompts[start : start + max(1, AT_A_TIME // count)]
        rolled = rollout(
            params,
            config,
            [query_ids(data, prompt) for prompt in piece],
            responses_per_query=count,
            max_new_tokens=settings.max_new_tokens,
            temperature=temperature,
            eos_token_ids=[data.end_id],
            pad_id=data.pad_id,
            rng=rng,
        )
        queries, all_ids = as_lists(rolled)
        for i, (query, ids) in enumerate(zip(queries, all_ids, strict=True)):
            prompt, ended = piece[i // count], bool(rolled.ended[i])
            text = data.tokenizer.decode(ids[:-1] if ended else ids)
            judged = judge(prompt, text, ended)
            answers.append(Answer(prompt, query, ids, text, ended, judged))
    return answers


def as_chat(answer: Answer) -> Chat:
    """Return prompt and answer as what a reward model and DPO read.

    >>> judged = Judged(0.0, False, False, False, 0, 0)
    >>> as_chat(Answer(Prompt("Mei", "lost", "egg"), [1, 2], [3], "", True, judged)).loss_mask
    [False, False, True]
    """
    asked = len(answer.query)
    return Chat(answer.query + answer.ids, [False] * asked + [True] * len(answer.ids))


def label(
    couples: Sequence[tuple[Answer, Answer]], certainty: float, rng: np.random.Generator
) -> Labelled:
    """Make a pair of every two answers that differ: the chosen one is drawn, see above.

    Args:
        couples: two answers to one prompt each.
        certainty: of the labels, times the difference of the true rewards.
        rng: of the noise.
    """
    pairs, wrong, unequal = [], 0, 0
    for one, other in couples:
        gap = one.judged.reward - other.judged.reward
        first = rng.random() < 1 / (1 + np.exp(-certainty * gap))
        chosen, rejected = (one, other) if first else (other, one)
        pair = Pair(as_chat(chosen), as_chat(rejected))
        if teaches_nothing(pair):
            continue
        pairs.append(pair)
        unequal += gap != 0
        wrong += gap != 0 and first != (gap > 0)
    return Labelled(pairs, wrong / max(unequal, 1))


def couples_of(answers: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    """Return answers two by two."""
    return list(zip(answers[::2], answers[1::2], strict=True))


def clean_pairs(answers: Sequence[Answer]) -> list[Pair]:
    """Return the couples that are not worth the same, the better answer chosen: no noise."""
    pairs = []
    for one, other in couples_of(answers):
        gap = one.judged.reward - other.judged.reward
        if gap:
            better, worse = (one, other) if gap > 0 else (other, one)
            pairs.append(Pair(as_chat(better), as_chat(worse)))
    return pairs


class Preferences(NamedTuple):
    coarse: Labelled  # for PMP
    fine: Labelled  # for the reward model, and for DPO
    clean: list[Pair]  # held out


def make_preferences(
    data: Data, config: QwenConfig, sft: Params, settings: AlignmentSettings, seed: int
) -> Preferences:
    """Sample answers of the fine-tuned model and label them."""
    s = settings

    def draw(word: int, prompts: Sequence[Prompt], count: int, temperature: float) -> Any:
        rng = np.random.default_rng([word, seed])
        chosen = [draw_prompt(rng, prompts) for _ in range(count)]
        return sample_answers(data, config, sft, chosen, 2, s, rng, temperature), rng

    coarse, coarse_rng = draw(COARSE, data.prompts, s.coarse_pairs, s.coarse_temperature)
    fine, fine_rng = draw(FINE, data.prompts, s.pairs, 1.0)
    clean, _ = draw(CLEAN, data.held_out, 8 * s.held_out_prompts, 1.0)
    return Preferences(
        label(couples_of(coarse), s.coarse_certainty, coarse_rng),
        label(couples_of(fine), s.certainty, fine_rng),
        clean_pairs(clean),
    )

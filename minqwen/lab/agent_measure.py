"""Asks a model of the study of agents: many questions at once, through the real loop.

run_react asks a model for one text at a time, and a small model reads many prompts in nearly the
time of one. So the loop of every question runs until it wants a text that nobody has written yet;
all wanted texts are written in one batch; and the loops run again, with those texts at hand:

    round 1   every loop stops at its first prompt          -> written together
    round 2   tools are called, loops stop at the second    -> written together
    ...       until all loops have ended

It gives what each loop alone would give: decoding is greedy and the tools say the same each time.

    selection, input, false positives   of the first text, as tool_metrics.py counts them
    exact                               right tool, and all arguments right
    right                               the final answer is the right one
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..agent.mixed_chats import sample_chats
from ..agent.react import Transcript, run_react
from ..agent.samples.sample import Sample, sample_parts
from ..agent.tool import Tool
from ..agent.tool_metrics import false_positive_rate, first_call, tool_scores
from ..model.generate import generate, left_pad
from ..params import Params
from ..tokenizer.chatml import Chat, encode_chat
from ..tokenizer.special_tokens import IM_END
from ..tokenizer.stop_strings import StopStrings
from .recipe_study import TEMPLATE, Text

STOP = "Observation:"
MOST_STEPS = 3  # times that a model is asked in a loop
LONGEST = 80  # tokens of a text
NUMBER = re.compile(r"-?\d+")


class NotWritten(Exception):
    """A loop wants a text that nobody has written yet."""

    def __init__(self, prompt: str) -> None:
        """Keep the prompt."""
        super().__init__()
        self.prompt = prompt


def sample_chat(text: Text, sample: Sample, tools: Mapping[str, Tool]) -> Chat:
    """Return a sample as one chat, of which only what the model writes is trained on."""
    (messages,) = sample_chats(sample, tools)
    return encode_chat(text.tokenizer, messages, template=TEMPLATE)


def prompt_ids(text: Text, prompt: str) -> list[int]:
    """Return a prompt as a question in a chat, with the answer that has begun in it, if any."""
    begins: int = getattr(prompt, "answer_begins", len(prompt))
    messages = [{"role": "user", "content": prompt[:begins].strip("\n").rstrip()}]
    ids = encode_chat(text.tokenizer, messages, template=TEMPLATE, generation_prompt=True).ids
    return ids + text.tokenizer.encode(prompt[begins:], disallowed_special=())


def write_texts(
    params: Params, text: Text, prompts: Sequence[str], batch_size: int = 40
) -> list[str]:
    """Continue each prompt, greedily, up to "Observation:" or the end of the turn.

    Args:
        params: of the model.
        text: its tokenizer and sizes.
        prompts: each read as a chat, see `prompt_ids`.
        batch_size: prompts that are read at once.
    """
    end = text.tokenizer.special_tokens[IM_END]
    found: list[str] = []
    for start in range(0, len(prompts), batch_size):
        rows = [prompt_ids(text, prompt) for prompt in prompts[start : start + batch_size]]
        ids, mask = left_pad(rows, text.end)
        stops = [StopStrings([STOP]) for _ in rows]
        decoders = [text.tokenizer.stream_decoder() for _ in rows]
        written, open_ = [""] * len(rows), set(range(len(rows)))
        for step in generate(
            params, text.config, ids, max_new_tokens=LONGEST, eos_token_ids=[end],
            attention_mask=mask, stream=True,
        ):  # fmt: skip
            for i in sorted(open_):
                if step[i] == end:
                    written[i] += stops[i].push(decoders[i].finish())
                elif step[i] < text.tokenizer.vocab_size:
                    written[i] += stops[i].push(decoders[i].push(int(step[i])))
                if step[i] == end or stops[i].stopped:
                    open_.remove(i)
            if not open_:
                break
        for i in open_:
            written[i] += stops[i].push(decoders[i].finish())
        found += [text_ + stop.finish() for text_, stop in zip(written, stops, strict=True)]
    return found


def run_together(
    samples: Sequence[Sample],
    tools: Mapping[str, Tool],
    write: Callable[[Sequence[str]], list[str]],
) -> list[Transcript]:
    """Run the loop of every question.

    Args:
        samples: their questions, and the tools that are offered.
        tools: of `study_tools`.
        write: continues many prompts.
    """
    known: dict[str, str] = {}

    def generate_known(prompt: str) -> str:
        if prompt not in known:
            raise NotWritten(prompt)
        return known[prompt]

    done: dict[int, Transcript] = {}
    while len(done) < len(samples):
        wanted: dict[str, None] = {}
        for i, sample in enumerate(samples):
            if i in done:
                continue
            told = {name: tools[name] for name in sample.tools}
            try:
                done[i] = run_react(sample.question, told, generate_known, max_steps=MOST_STEPS)
            except NotWritten as missing:
                wanted[missing.prompt] = None
        if wanted:
            known |= dict(zip(wanted, write(list(wanted)), strict=True))
    return [done[i] for i in range(len(samples))]


def score_answers(samples: Sequence[Sample], transcripts: Sequence[Transcript]) -> dict[str, float]:
    """Compare what a model did with the right work.

    Args:
        samples: all of them with a call, or all without.
        transcripts: of `run_together`.

    Returns:
        Shares by name, see the head of this file; of questions without a tool only
        false_positives and right.
    """
    # the metrics look for a call at the beginning of a line that is not the first
    firsts = ["\n" + _first_text(transcript) for transcript in transcripts]
    rights = [t.final_answer == s.answer for s, t in zip(samples, transcripts, strict=True)]
    found = {"questions": float(len(samples)), "right": float(np.mean(rights))}
    if not samples[0].calls:
        return found | {"false_positives": false_positive_rate(firsts)}
    references = ["\n" + sample_parts(sample)[0].text for sample in samples]
    scores = tool_scores(references, firsts)
    exact = [first_call(a) == first_call(b) for a, b in zip(references, firsts, strict=True)]
    called = ["\nAction:" in first for first in firsts]
    return found | {
        "selection": scores.selection,
        "input": scores.input_rouge_l,
        "exact": float(np.mean(exact)),
        "called": float(np.mean(called)),
    }


def _first_text(transcript: Transcript) -> str:
    written = [text for text, by_model in transcript.parts if by_model]
    return written[0] if written else ""


def last_number(answer: str) -> str:
    """Return the last number in an answer; "" where there is none.

    >>> last_number("4821 + 377 = 5198.")
    '5198'
    """
    found = NUMBER.findall(answer)
    return found[-1] if found else ""

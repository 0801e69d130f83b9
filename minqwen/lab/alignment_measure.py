"""What is measured: of a policy its answers and what it still knows, of a reward model its ranking.

Policies answer the held-out prompts, several times each, with the same random numbers. Of answers y
to a prompt x:

    true      reward, see alignment_world.py
    learnt    reward, by the reward model that PPO was trained against
    kl        log pi(y|x) - log pi_sft(y|x), whose mean is KL(pi || pi_sft), nats an answer
    entropy   of the next token, mean over the tokens of answers, nats
    length    tokens, the end token included
    ended     share with an end token
    formed    share that ended, is a sentence of the world and on topic: the right format
    on_topic  share that names no wrong person and no wrong thing
    named     share that names the right person and the right thing
    words     different words in all answers together
    same      share of the answers that are the most frequent one to their prompt
    kind      kind words of an answer; flattery: share of answers with more than are welcome

and the loss on held-out text of pretraining, stories and talk: what alignment costs.

Paper:    Qwen Technical Report, 3.2.1, Table 4 (accuracies), and 3.2.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alignment.answer_logprobs import answer_logprobs_of
from ..alignment.calibration import calibration
from ..alignment.chat_batch import pad_chats
from ..alignment.entropy import entropy_forward
from ..alignment.reward_model import pair_rewards
from ..alignment.score import RewardModelScore
from ..backend import Array, to_numpy
from ..model.config import QwenConfig
from ..model.language_model import language_model_forward
from ..params import Params
from ..training.accumulate import evaluate
from .alignment_data import Answer, Data, Preferences, as_chat, sample_answers
from .alignment_settings import REWARD_MODELS, AlignmentSettings
from .alignment_world import MANY

MEASURE = 22  # first word of the seed
SHOWN = 4  # answers that the page shows
AT_ONCE = 64  # rows that go through a model together


class Seed(NamedTuple):
    """All that was trained with one seed."""

    seed: int
    policies: dict[str, Params]
    reward_models: dict[str, Params]
    reward_config: QwenConfig
    preferences: Preferences

    @property
    def reference(self) -> Params:
        """The fine-tuned model, where PPO and DPO start."""
        return self.policies["sft"]


class Context(NamedTuple):
    """What all runs share."""

    out: Path
    settings: AlignmentSettings
    data: Data
    config: QwenConfig
    say: Callable[[str], None]
    progress: bool


def learnt_score(c: Context, trained: Seed) -> RewardModelScore:
    """Return the reward model that policies are trained against."""
    return RewardModelScore(
        trained.reward_config, trained.reward_models["pmp_rm"], c.data.pad_id, AT_ONCE
    )


def measure_policy(c: Context, trained: Seed, params: Params) -> dict[str, Any]:
    """Return the cell of a policy: means, standard errors of the rewards, losses, some answers."""
    rng = np.random.default_rng([MEASURE, trained.seed])
    s, prompts = c.settings, c.data.held_out
    answers = sample_answers(c.data, c.config, params, prompts, s.answers_of_a_prompt, s, rng)
    cell = means_of(c, trained, params, answers)
    cell["loss_stories"] = evaluate(params, c.config, c.data.stories, AT_ONCE).loss
    cell["loss_talk"] = evaluate(params, c.config, c.data.talk, AT_ONCE).loss
    cell["loss"] = (cell["loss_stories"] + cell["loss_talk"]) / 2
    step = max(1, len(answers) // SHOWN)
    shown = answers[::step][:SHOWN]
    cell["answers"] = [[a.prompt.text, a.text + " …" * (not a.ended)] for a in shown]
    return cell


def means_of(
    c: Context, trained: Seed, params: Params, answers: Sequence[Answer]
) -> dict[str, Any]:
    """Return the means over answers of a policy, see above; true_error is a standard error."""
    chats = [as_chat(answer) for answer in answers]
    queries, ids = [a.query for a in answers], [a.ids for a in answers]
    true = np.array([a.judged.reward for a in answers])
    own, before = (
        to_numpy(answer_logprobs_of(p, c.config, chats, c.data.pad_id, batch_size=AT_ONCE))
        for p in (params, trained.reference)
    )
    counts = Counter((a.prompt, a.text) for a in answers)
    per_prompt = Counter(a.prompt for a in answers)
    top: dict[Any, int] = {}
    for (prompt, _), count in counts.items():
        top[prompt] = max(top.get(prompt, 0), count)
    return {
        "true": float(true.mean()),
        "true_error": float(true.std(ddof=1) / len(true) ** 0.5),
        "learnt": float(learnt_score(c, trained)(queries, ids).mean()),
        "kl": float((own.astype(np.float64) - before).mean()),
        "entropy": entropy_of(c, params, answers),
        "length": float(np.mean([len(i) for i in ids])),
        "ended": _share([a.ended for a in answers]),
        "formed": _share([a.ended and a.judged.sentence and a.judged.on_topic for a in answers]),
        "on_topic": _share([a.judged.on_topic for a in answers]),
        "named": _share([a.judged.named for a in answers]),
        "words": len({word for a in answers for word in a.text.replace(",", "").split()}),
        "same": sum(top.values()) / sum(per_prompt.values()),
        "kind": float(np.mean([a.judged.kind for a in answers])),
        "flattery": _share([a.judged.kind > MANY for a in answers]),
        "rude": float(np.mean([a.judged.rude for a in answers])),
    }


def _share(flags: Sequence[bool]) -> float:
    return sum(map(bool, flags)) / len(flags)


def entropy_of(c: Context, params: Params, answers: Sequence[Answer]) -> float:
    """Return the mean entropy of the policy at the tokens of answers, in nats."""
    total, tokens = 0.0, 0
    order = sorted(range(len(answers)), key=lambda i: len(answers[i].query + answers[i].ids))
    for start in range(0, len(order), AT_ONCE):
        chats = [as_chat(answers[i]) for i in order[start : start + AT_ONCE]]
        batch = pad_chats(chats, c.data.pad_id).batch
        logits, _ = language_model_forward(
            params, c.config, batch.input_ids, attention_mask=batch.real
        )
        entropy, _ = entropy_forward(logits)
        assert batch.loss_mask is not None  # pad_chats makes it
        total += float(to_numpy(entropy)[batch.loss_mask].sum(dtype=np.float64))
        tokens += int(batch.loss_mask.sum())
    return total / tokens


def measure_reward_model(c: Context, trained: Seed, name: str) -> dict[str, Any]:
    """Return the cell of a reward model: accuracy and calibration on held-out clean pairs."""
    pairs = trained.preferences.clean
    chosen, rejected = pair_rewards(
        trained.reward_models[name], trained.reward_config, pairs, c.data.pad_id, AT_ONCE
    )
    margins = (chosen - rejected).astype(np.float64)
    found = calibration(margins)
    coarse = name == "pmp"
    labels = trained.preferences.coarse if coarse else trained.preferences.fine
    return {
        "accuracy": found.accuracy,
        "calibration_error": found.error,
        "predicted": _numbers(found.predicted),
        "right": _numbers(found.right),
        "counts": found.counts.tolist(),
        "margin": float(margins.mean()),
        "held_out_pairs": len(pairs),
        "pairs": len(labels.pairs),
        "flipped": labels.flipped,
        "model": REWARD_MODELS[name],
    }


def _numbers(values: Array) -> list[float | None]:
    """Return what JSON can hold: NaN, of an empty bin, becomes None."""
    return [None if np.isnan(value) else float(value) for value in values]

"""The runs of the study: every stage in a folder of its own, each an ordinary run of its stage.

    base                                  pretraining on stories and talk, once
    seed-0/sft                            the base model on chats
           pmp, pmp_rm, rm_alone          reward models, from the base model
           ppo, no_kl, ...                the fine-tuned model against the reward model pmp_rm
           dpo                            the fine-tuned model on the pairs of pmp_rm
           online-1, online-2, ...        the same in rounds, on answers of its own that the reward
                                          model pmp_rm has ranked
    seed-1/...

PPO's value model starts as the reward model. Variants of PPO differ in the named setting only: they
answer the same queries in the same order, with the same random numbers.

Paper:    Qwen Technical Report, 3.1 to 3.2.2; Qwen2 Technical Report, Post-training: DPO on a fixed
          set, then on the best and the worst of several answers of the current policy.
Origin:   Ouyang et al. 2022, arXiv:2203.02155 (the value model starts as the reward model).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..alignment.dpo import dpo
from ..alignment.ppo import ppo
from ..alignment.preference_pairs import Pair, best_and_worst, teaches_nothing
from ..alignment.reward_model import to_reward_model
from ..alignment.reward_training import train_reward_model
from ..alignment.sft import sft
from ..alignment.start_params import params_fingerprint
from ..model.config import QwenConfig
from ..params import Params
from ..training.accumulate import evaluate
from ..training.metrics import Row
from ..training.pretrain import pretrain
from .alignment_data import (
    ONLINE,
    Answer,
    Preferences,
    as_chat,
    make_chats,
    make_preferences,
    query_ids,
    sample_answers,
)
from .alignment_measure import AT_ONCE, Context, Seed, learnt_score, means_of
from .alignment_settings import POLICIES, REWARD_MODELS, Policy

HEAD, LOOK = 20, 21  # first words of the seeds: of the score head, of looks during PPO


def train_base(c: Context) -> Params:
    """Pretrain; a run that is finished is only read."""
    return pretrain(
        c.config,
        c.data.rows,
        c.out / "base",
        c.settings.base_training(),
        validation_rows=np.concatenate([c.data.stories, c.data.talk]),
        tokenizer=c.data.tokenizer,
        progress=c.progress,
        plot=False,
    )


def train_seed(c: Context, base: Params, seed: int) -> Seed:
    """Train everything of one seed; what is finished is only read."""
    folder = c.out / f"seed-{seed}"
    chats, held_out = make_chats(c.data, c.settings, seed)
    c.say(f"seed {seed}: SFT in {folder / 'sft'}")
    tuned = sft(
        c.config,
        base,
        chats,
        folder / "sft",
        c.settings.sft_training(seed),
        validation_chats=held_out,
        pad_id=c.data.pad_id,
        tokenizer=c.data.tokenizer,
        progress=c.progress,
        plot=False,
    )
    preferences = make_preferences(c.data, c.config, tuned, c.settings, seed)
    reward_config, models = train_reward_models(c, base, preferences, folder, seed)
    trained = Seed(seed, {"base": base, "sft": tuned}, models, reward_config, preferences)
    for policy in POLICIES:
        if policy.name not in trained.policies:
            c.say(f"seed {seed}: {policy.label} in {folder / policy.name}")
            trained.policies[policy.name] = train_policy(c, trained, policy, folder)
    return trained


def train_reward_models(
    c: Context, base: Params, preferences: Preferences, folder: Path, seed: int
) -> tuple[QwenConfig, dict[str, Params]]:
    """Train PMP, the reward model that goes on from it, and one that does without."""
    s = c.settings
    config, start = to_reward_model(base, c.config, np.random.default_rng([HEAD, seed]))
    models: dict[str, Params] = {}
    for name, before, pairs, steps in (
        ("pmp", "", preferences.coarse.pairs, s.pmp_steps),
        ("pmp_rm", "pmp", preferences.fine.pairs, s.reward_steps),
        ("rm_alone", "", preferences.fine.pairs, s.reward_steps),
    ):
        c.say(f"seed {seed}: {REWARD_MODELS[name]} in {folder / name}")
        models[name] = train_reward_model(
            config,
            models.get(before, start),
            pairs,
            folder / name,
            s.reward_training(seed, steps),
            validation_pairs=preferences.clean,
            pad_id=c.data.pad_id,
            tokenizer=c.data.tokenizer,
            progress=c.progress,
            plot=False,
        )
    return config, models


def train_policy(c: Context, trained: Seed, policy: Policy, folder: Path) -> Params:
    """Train one policy from the fine-tuned model."""
    if policy.stage == "ppo":
        return _ppo(c, trained, policy, folder)
    if policy.stage == "dpo":
        return _dpo(c, trained, trained.preferences.fine.pairs, trained.reference, folder / "dpo")
    return _online(c, trained, folder)


def _ppo(c: Context, trained: Seed, policy: Policy, folder: Path) -> Params:
    s, data = c.settings, c.data
    value_params = trained.reward_models["pmp_rm"]
    look_prompts = data.held_out * 2
    text = np.concatenate([data.stories, data.talk])

    def look(params: Params) -> Row:
        rng = np.random.default_rng([LOOK, trained.seed])
        answers = sample_answers(data, c.config, params, look_prompts, 1, s, rng)
        found = means_of(c, trained, params, answers)
        return {
            "validation_loss": evaluate(params, c.config, text, AT_ONCE).loss,
            **{f"held_out_{name}": found[name] for name in ("true", "learnt", "kl", "entropy")},
        }

    return ppo(
        c.config,
        trained.reference,
        [query_ids(data, prompt) for prompt in data.prompts],
        learnt_score(c, trained),
        folder / policy.name,
        s.ppo_training(policy, trained.seed),
        value_config=trained.reward_config,
        value_params=value_params,
        ptx_rows=data.rows,
        eos_token_ids=[data.end_id],
        pad_id=data.pad_id,
        tokenizer=data.tokenizer,
        evaluate=look,
        also_same={"reward_model": params_fingerprint(value_params)},
        progress=c.progress,
        plot=False,
    )


def _dpo(
    c: Context,
    trained: Seed,
    pairs: list[Pair],
    start: Params,
    folder: Path,
    steps: int | None = None,
) -> Params:
    """Train on pairs; the reference is the fine-tuned model, wherever the start is."""
    return dpo(
        c.config,
        start,
        pairs,
        folder,
        c.settings.dpo_training(trained.seed, steps),
        reference=trained.reference,
        pad_id=c.data.pad_id,
        tokenizer=c.data.tokenizer,
        progress=c.progress,
        plot=False,
    )


def _online(c: Context, trained: Seed, folder: Path) -> Params:
    """Train in rounds, as many steps in all as DPO has: each round on answers of its own."""
    s, params = c.settings, trained.reference
    steps = max(1, s.dpo_steps // s.online_rounds)
    for number in range(1, s.online_rounds + 1):
        pairs = online_pairs(c, trained, params, number, 16 * steps)
        params = _dpo(c, trained, pairs, params, folder / f"online-{number}", steps)
    return params


def online_pairs(c: Context, trained: Seed, params: Params, number: int, most: int) -> list[Pair]:
    """Let the policy answer, and the reward model pick the best and the worst of each prompt.

    Args:
        c: what all runs share.
        trained: the fine-tuned model and the reward model.
        params: of the policy as it is now.
        number: of the round.
        most: pairs, so that no pair is seen twice.
    """
    s, rng = c.settings, np.random.default_rng([ONLINE, trained.seed, number])
    order = rng.integers(len(c.data.prompts), size=most)
    prompts = [c.data.prompts[i] for i in order]
    answers = sample_answers(c.data, c.config, params, prompts, s.online_answers, s, rng)
    scores = learnt_score(c, trained)([a.query for a in answers], [a.ids for a in answers])
    best, worst, usable = best_and_worst(scores.reshape(-1, s.online_answers))
    groups: list[list[Answer]] = [
        answers[i : i + s.online_answers] for i in range(0, len(answers), s.online_answers)
    ]
    pairs = [
        Pair(as_chat(group[b]), as_chat(group[w]))
        for group, b, w, fine in zip(groups, best, worst, usable, strict=True)
        if fine
    ]
    return [pair for pair in pairs if not teaches_nothing(pair)]

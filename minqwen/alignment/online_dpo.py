"""Online DPO: the model answers, a reward model picks the pairs, and DPO learns from them at once.

One step:

    answers   = several to each prompt, sampled from the model as it is now        rollout.py
    scores    = of the reward model, lower for an answer without an end token
    pairs     = (best, worst) of each prompt; a prompt whose answers are all equal is left out
    reference = log-probabilities of these answers by the frozen start
    update    = as in dpo.py

Offline, the pairs get stale: the model moves away from what they were sampled from. Here each pair
is used once. The reference does not move, so the rewards of the loss mean the same at every step.

`kl` in the metrics estimates KL(model || reference) in nats an answer, from the answers that were
picked: the model's own, where dpo.py has those of the reference.

A step in which no prompt is left changes nothing but its number: AdamW's old momentum would move
the model though nothing was learnt. Nor does AdamW count it: its correction for moments that began
at 0 goes by the gradients that they have seen. So the run has a count of its own, by which prompts,
answers and the learning rate go: steps.json of the checkpoint. In metrics.jsonl such a step has
`pairs` 0 and no `loss`.

Paper:    Qwen2 Technical Report, Post-training, Reinforcement Learning from Human Feedback: several
          answers of the current policy, of which a reward model picks the best and the worst.
Origin:   Guo et al. 2024, arXiv:2402.04792.
Differs:  how many answers are sampled is not published. Qwen2's Online Merging Optimizer is left
          out. What an answer without an end token costs is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..backend import Array, to_device, to_numpy
from ..data.packing import batch_rows
from ..extras import require_extra
from ..model.checkpoint import SavesItself
from ..model.config import QwenConfig, check_params
from ..params import Params
from ..tokenizer.chatml import Chat
from ..training.adamw import AdamWState
from ..training.metrics import Row
from ..training.progress import wants_bar
from ..training.resume import Training, describe_run
from ..training.run_folder import save_run
from ..training.run_loop import run_loop, run_opened
from ..training.settings import require_in, require_whole
from ..training.update import apply_adamw, clipped, scheduled_lr
from .answer_logprobs import pair_logprobs
from .dpo import DpoStage
from .kl_penalty import missing_end_penalty
from .metrics_plot import Panel, plot_metrics
from .pair_training import PANELS as PAIR_PANELS
from .pair_training import pair_gradient
from .ppo_step import Score
from .preference_pairs import Pair, as_numbers, best_and_worst, teaches_nothing
from .rollout import as_lists, rollout
from .settings import DpoSettings
from .start_params import params_fingerprint, start_or_resume, write_steps

SAMPLING = 6  # first word of the seed
PANELS: tuple[Panel, ...] = (
    *PAIR_PANELS[:1],
    ("scores of the answers", "", ("score", "best_score", "worst_score")),
    *PAIR_PANELS[1:],
    ("answers", "share", ("ended", "usable")),
)


@dataclass(frozen=True)
class OnlineDpoSettings(DpoSettings):
    """Those of DPO, where batch_size counts prompts, and those of the answers. All are ours."""

    responses_per_query: int = 4
    max_new_tokens: int = 32  # of an answer
    temperature: float = 1.0
    top_p: float = 1.0
    missing_end_penalty: float = 1.0  # subtracted from the score of an answer that was cut off

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the field."""
        super().__post_init__()
        require_whole(self, responses_per_query=2, max_new_tokens=1)
        require_in(self, "temperature", 0 < self.temperature < math.inf, "positive")
        require_in(self, "top_p", 0 < self.top_p <= 1, "in (0, 1]")
        penalty = self.missing_end_penalty
        require_in(self, "missing_end_penalty", 0 <= penalty < math.inf, "0 or more")


def pick_pairs(
    queries: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], scores: Array, k: int
) -> list[Pair]:
    """Return the pair of the best and the worst answer to each query, where they differ.

    Args:
        queries: n * k lists of ids; k rows in a row are the same.
        answers: n * k lists of ids.
        scores: (n * k,) float.
        k: answers to a query.

    >>> (pair,) = pick_pairs([[1], [1]], [[5], [6]], np.array([0.0, 2.0]), k=2)
    >>> pair.chosen.ids, pair.rejected.ids
    ([1, 6], [1, 5])
    """
    best, worst, usable = best_and_worst(scores.reshape(-1, k))
    pairs = []
    for i in np.flatnonzero(usable).tolist():
        places = i * k + int(best[i]), i * k + int(worst[i])
        chats = [
            Chat([*queries[j], *answers[j]], [False] * len(queries[j]) + [True] * len(answers[j]))
            for j in places
        ]
        pair = Pair(*chats)
        if not teaches_nothing(pair):  # a score may differ by rounding where the answers do not
            pairs.append(pair)
    return pairs


@dataclass
class OnlineDpo:
    """What run_loop trains here: a model on pairs of its own answers."""

    folder: Path
    config: QwenConfig
    params: Params
    reference: Params
    state: AdamWState
    step: int  # updates done so far, and steps without a pair
    settings: OnlineDpoSettings
    queries: Sequence[Sequence[int]]
    score: Score
    eos_token_ids: Sequence[int]
    pad_id: int
    training: Training
    tokenizer: SavesItself | None

    def compute(self) -> tuple[Params | None, Row]:
        """Sample and score answers, and return the gradient on their pairs, None without any."""
        s, step, k = self.settings, self.step, self.settings.responses_per_query
        numbers = batch_rows(len(self.queries), s.batch_size, step, s.seed)
        rolled = rollout(
            self.params,
            self.config,
            [self.queries[i] for i in numbers],
            responses_per_query=k,
            max_new_tokens=s.max_new_tokens,
            temperature=s.temperature,
            top_p=s.top_p,
            eos_token_ids=self.eos_token_ids,
            pad_id=self.pad_id,
            rng=np.random.default_rng([SAMPLING, s.seed, step]),
        )
        queries, answers = as_lists(rolled)
        raw = to_numpy(self.score(queries, answers)).astype(np.float64)
        scores = missing_end_penalty(raw, rolled.ended, s.missing_end_penalty)
        pairs = pick_pairs(queries, answers, scores, k)
        table = scores.reshape(-1, k)
        row: Row = {
            "step": step + 1,
            "pairs": len(pairs),
            "tokens": int(rolled.mask.sum()),
            "lr": scheduled_lr(step, s),
            "score": float(raw.mean()),
            "best_score": float(table.max(axis=1).mean()),
            "worst_score": float(table.min(axis=1).mean()),
            "ended": float(rolled.ended.mean()),
            "usable": len(pairs) / len(table),
            "length": float(rolled.mask.sum(axis=1).mean()),
        }
        if not pairs:
            return None, row
        known = pair_logprobs(
            self.reference, self.config, pairs, self.pad_id, s.reduction, s.batch_size
        )
        stage = DpoStage(self.config, s, pairs, known, None, None, self.pad_id)
        found, grads = pair_gradient(self.params, stage, np.arange(len(pairs)), s.accumulate)
        grads, norm = clipped(grads, found["loss"], step, s.max_norm)
        turned = {"kl": -found["kl"]}  # these answers are the model's: KL(model || reference)
        return grads, row | found | turned | {"tokens": row["tokens"], "grad_norm": norm}

    def update(self, grads: Params | None, row: Row) -> None:
        """Change the parameters, and count the step, also one without a pair."""
        if grads is not None:
            apply_adamw(self.params, grads, self.state, self.settings, row["lr"])
        self.step += 1

    def validate(self) -> Row | None:
        """Return None: what held-out prompts say depends on who scores them."""
        return None

    def save(self) -> None:
        """Write the checkpoint."""
        save_run(
            self.folder,
            self.config,
            self.params,
            self.state,
            self.training,
            self.tokenizer,
            lambda checkpoint: write_steps(checkpoint, self.step),
        )


def online_dpo(
    config: QwenConfig,
    params: Params,
    queries: Sequence[Sequence[int]],
    score: Score,
    run_folder: str | Path,
    settings: OnlineDpoSettings,
    *,
    eos_token_ids: Sequence[int],
    pad_id: int,
    score_name: str = "",
    tokenizer: SavesItself | None = None,
    progress: bool = True,
    plot: bool = True,
    device: str = "cpu",
) -> Params:
    """Train a language model on pairs of its own answers; continue a run that stopped.

    Args:
        config: of the model, a language model.
        params: to start from, copied; they are the reference too. A run that goes on needs them.
        queries: ids of prompts, each up to where the answer begins.
        score: of queries and answers, see score.py; the same answer should get the same score.
        run_folder: made if missing.
        settings: see OnlineDpoSettings.
        eos_token_ids: what ends an answer, <|im_end|>.
        pad_id: stands in empty places; no token sees it.
        score_name: tells one score from another, such as the fingerprint of the reward model; a run
            that goes on must have the same.
        tokenizer: saved with every checkpoint.
        progress: show a bar, or lines now and then where stderr is not a terminal.
        plot: draw metrics.png.
        device: "cpu" or "cuda".

    Returns:
        The trained parameters.

    Raises:
        ValueError: the model has a score head, there is no query, or the folder holds another run.
        ImportError, FloatingPointError, OSError, KeyboardInterrupt, SystemExit: as in
            training/pretrain.py.
    """
    folder, s = Path(run_folder), settings
    require_extra(*["matplotlib"] * plot, *["tqdm"] * wants_bar(progress))
    if config.num_labels:
        raise ValueError(f"the config has num_labels={config.num_labels}: it is no language model")
    check_params(params, config)
    if not queries or not all(len(query) for query in queries):
        raise ValueError("queries must hold at least one prompt, and each prompt at least one id")
    empty = Chat([], [])
    asked = as_numbers(Pair(Chat(list(q), [False] * len(q)), empty) for q in queries)
    frozen = {key: w.astype(s.dtype) for key, w in params.items()}
    training = describe_run(
        config,
        s,
        asked,
        None,
        stage="online_dpo",
        start_model=params_fingerprint(frozen),
        eos_token_ids=[int(i) for i in eos_token_ids],
        score=score_name,
    )
    with run_opened(folder):
        params, state, saved = start_or_resume(folder, params, training, s.dtype)
        params, frozen = to_device(params, device), to_device(frozen, device)
        state["m"], state["v"] = to_device(state["m"], device), to_device(state["v"], device)
        learner = OnlineDpo(
            folder,
            config,
            params,
            frozen,
            state,
            max(saved, 0),
            s,
            queries,
            score,
            eos_token_ids,
            pad_id,
            training,
            tokenizer,
        )
        draw = partial(plot_metrics, panels=PANELS) if plot else None
        run_loop(folder, s, learner, saved=saved, progress=progress, plot=draw)
    return params

"""Training a reward model: of two answers to a prompt, the better one shall get more.

    loss = mean over the pairs of -log sigmoid(chosen reward - rejected reward)
           + center_coef * mean of (chosen reward + rejected reward)^2

The second term is 0 in the report. Only differences count in the first, so the rewards as a whole
may drift; the second holds them around 0.

The gradient. That of the first term is in pairwise_loss.py, and for the second

    d/dchosen_b = d/drejected_b = 2 center_coef / B * (chosen_b + rejected_b)

Preference model pretraining (PMP) is the same loss on many coarse pairs, and the reward model is
then tuned on fewer clean ones: train_reward_model twice, the second time from what the first gave.

Paper:    Qwen Technical Report, 3.2.1 Reward Model: PMP, then tuning; rate 3e-6 constant, batch 64,
          length 2048, 1 epoch: REPORT_REWARD in settings.py.
Origin:   Stiennon et al. 2020, arXiv:2009.01325 (the loss); Askell et al. 2021, arXiv:2112.00861
          (PMP); Eisenstein et al. 2023, arXiv:2312.09244 (the second term).
Differs:  Askell et al. add the loss of a language model on the better answer in PMP; the report
          does not mention it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..backend import Array, array_module, to_numpy
from ..model.checkpoint import SavesItself
from ..model.config import QwenConfig, check_params
from ..params import Params
from ..training.metrics import Row
from ..training.resume import describe_run
from .pair_training import ranking, router_part, train_on_pairs
from .pairwise_loss import PairwiseLossCache, pairwise_loss_backward, pairwise_loss_forward
from .preference_pairs import Pair, as_numbers, require_pairs
from .reward_model import (
    pad_answers,
    pair_rewards,
    require_score_head,
    reward_backward,
    reward_forward,
)
from .settings import RewardSettings
from .start_params import params_fingerprint


class RewardLossCache(NamedTuple):
    pairs: PairwiseLossCache
    total: Array  # (B,) chosen + rejected
    center_coef: float


def reward_loss_forward(
    chosen_rewards: Array, rejected_rewards: Array, center_coef: float = 0.0
) -> tuple[Array, RewardLossCache]:
    """Add the two terms of the loss, see above.

    Args:
        chosen_rewards: (B,) float.
        rejected_rewards: (B,) float.
        center_coef: of the second term.

    Returns:
        loss: () in nats, and the cache for reward_loss_backward.

    >>> import numpy as np
    >>> one = np.array([1.0])
    >>> loss, _ = reward_loss_forward(one, one, center_coef=0.25)  # ln 2 + (1 + 1)^2 / 4
    >>> float(loss.round(6))
    1.693147
    """
    loss, pairs = pairwise_loss_forward(chosen_rewards, rejected_rewards)
    total = chosen_rewards + rejected_rewards
    if center_coef:
        loss = loss + float(center_coef) * (total * total).mean()
    return loss, RewardLossCache(pairs, total, float(center_coef))


def reward_loss_backward(dloss: float, cache: RewardLossCache) -> tuple[Array, Array]:
    """Return (dchosen_rewards, drejected_rewards), both (B,)."""
    dchosen, drejected = pairwise_loss_backward(dloss, cache.pairs)
    if cache.center_coef:
        center = cache.total * (2 * cache.center_coef * dloss / len(cache.total))
        dchosen, drejected = dchosen + center, drejected + center
    return dchosen, drejected


@dataclass
class RewardStage:
    """The loss of a reward model on pairs; see PairStage."""

    config: QwenConfig
    settings: RewardSettings
    pairs: Sequence[Pair]
    validation_pairs: Sequence[Pair] | None
    pad_id: int

    def piece(self, params: Params, numbers: Array, share: float) -> tuple[Row, Params]:
        """Compute the loss of some pairs, and its gradient, times share."""
        pairs, n = [self.pairs[i] for i in numbers], len(numbers)
        chats = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        input_ids, real = pad_answers(chats, self.pad_id)  # (2n, T)
        rewards, cache = reward_forward(params, self.config, input_ids, real)
        loss, loss_cache = reward_loss_forward(rewards[:n], rewards[n:], self.settings.center_coef)
        on_host = to_numpy(rewards)
        row = {"loss": float(loss), **ranking(on_host[:n], on_host[n:])}
        row = {key: value * share for key, value in row.items()} | {"tokens": int(real.sum())}
        drewards = array_module(rewards).concatenate(reward_loss_backward(share, loss_cache))
        routers, drouter_logits = router_part(cache.backbone, self.config, real, share)
        return row | routers, reward_backward(drewards, cache, drouter_logits)

    def validate(self, params: Params) -> Row | None:
        """Return the loss on the held-out pairs, and how well they are ranked."""
        if self.validation_pairs is None:
            return None
        s, pairs = self.settings, self.validation_pairs
        chosen, rejected = pair_rewards(params, self.config, pairs, self.pad_id, s.batch_size)
        loss, _ = reward_loss_forward(chosen, rejected, s.center_coef)
        found = ranking(chosen, rejected)
        return {
            "validation_loss": float(loss),
            "validation_accuracy": found["accuracy"],
            "validation_margin": found["margin"],
        }


def train_reward_model(
    config: QwenConfig,
    params: Params,
    pairs: Sequence[Pair],
    run_folder: str | Path,
    settings: RewardSettings,
    *,
    validation_pairs: Sequence[Pair] | None = None,
    pad_id: int,
    tokenizer: SavesItself | None = None,
    progress: bool = True,
    plot: bool = True,
    device: str = "cpu",
) -> Params:
    """Train a reward model on pairs; continue where the run in this folder stopped, if any.

    Metrics of a step: loss, accuracy, margin, mean rewards of chosen and rejected answers, lr,
    grad_norm, and tokens, all that were read in both answers.

    Args:
        config: with num_labels=1, of to_reward_model or of a reward model to go on with.
        params: to start from, copied. A run that goes on needs them too: they must be the same.
        pairs: of encode_pairs.
        run_folder: made if missing.
        settings: see RewardSettings.
        validation_pairs: never trained on.
        pad_id: stands in empty places, <|endoftext|> for Qwen; no token sees it.
        tokenizer: saved with every checkpoint.
        progress: show a bar, or lines now and then where stderr is not a terminal.
        plot: draw metrics.png.
        device: "cpu" or "cuda".

    Returns:
        The trained parameters.

    Raises:
        ValueError: the model has no score head, or a pair cannot be used (nothing has been written
            yet); or the folder holds another run, or one of its files is damaged.
        ImportError, FloatingPointError, OSError, KeyboardInterrupt, SystemExit: as in
            training/pretrain.py.
    """
    s = settings
    require_score_head(config)
    check_params(params, config)
    require_pairs("pairs", pairs, s.context_length, config.vocab_size)
    if validation_pairs is not None:
        require_pairs("validation_pairs", validation_pairs, s.context_length, config.vocab_size)
    training = describe_run(
        config,
        s,
        as_numbers(pairs),
        None if validation_pairs is None else as_numbers(validation_pairs),
        stage="reward",
        start_model=params_fingerprint(params, s.dtype),
    )
    return train_on_pairs(
        config,
        params,
        len(pairs),
        run_folder,
        s,
        lambda: RewardStage(config, s, pairs, validation_pairs, pad_id),
        training,
        tokenizer=tokenizer,
        progress=progress,
        plot=plot,
        device=device,
    )

"""A run of DPO: a language model learns from pairs of answers, without a reward model.

    for each pair, with the log-probabilities L of its two answers (answer_logprobs.py):

    reward = beta * (L by the model - L by the reference)       implicit: nobody was asked
    loss   = mean over the pairs of -log sigmoid(chosen reward - rejected reward)

Why, and the gradient: dpo_loss.py. Each step then is

    dL = -+ beta / B * sigmoid(-lead)      for chosen and rejected, by dpo_loss
    grads = gradient of every parameter from dL, by answer_logprobs

The reference is a model that does not change, the start of the training where no other is given. So
its log-probabilities are numbers: they are computed once for all pairs, before the first step, and
again when a run goes on. At the start both models are equal, all rewards are 0, the loss is ln 2.

The loss only asks for the lead to grow. It often grows while both answers become less likely, the
rejected one faster; the metrics chosen_logprob and rejected_logprob show it.

`kl` in the metrics is the mean of L by the reference - L by the model over all answers. Where the
answers were sampled from the reference it estimates KL(reference || model), in nats an answer.

Paper:    Qwen2 Technical Report, Post-training, Reinforcement Learning from Human Feedback:
          offline on a fixed set of pairs; then online, see best_and_worst in preference_pairs.py.
Origin:   Rafailov et al. 2023, arXiv:2305.18290.
Differs:  Qwen2 publishes no number of this stage, and merges models after each step (Online Merging
          Optimizer), which is not done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backend import Array, array_module, to_device, to_numpy
from ..model.checkpoint import SavesItself
from ..model.config import QwenConfig, check_params
from ..params import Params
from ..training.accumulate import count_tokens
from ..training.metrics import Row
from ..training.resume import describe_run
from .answer_logprobs import answer_logprobs_backward, answer_logprobs_forward, pair_logprobs
from .chat_batch import pad_chats
from .dpo_loss import dpo_loss_backward, dpo_loss_forward
from .pair_training import ranking, router_part, train_on_pairs
from .preference_pairs import Pair, as_numbers, require_pairs
from .settings import DpoSettings
from .start_params import params_fingerprint


def dpo_row(logprobs: Array, reference: Array, beta: float) -> Row:
    """Say how pairs stand.

    Args:
        logprobs: (2, B) by the model, of chosen and rejected answers.
        reference: (2, B) by the reference.
        beta: of the settings.

    Returns:
        accuracy, margin and the mean implicit rewards, as `ranking` has them; the mean
        log-probabilities; and kl, see above.

    >>> import numpy as np
    >>> row = dpo_row(np.array([[-3.0], [-9.0]]), np.array([[-4.0], [-7.0]]), beta=0.5)
    >>> row["chosen_reward"], row["rejected_reward"], row["kl"]
    (0.5, -1.0, 0.5)
    """
    logprobs, reference = to_numpy(logprobs), to_numpy(reference)
    log_ratio = logprobs - reference
    return {
        **ranking(*(float(beta) * log_ratio)),
        "chosen_logprob": float(logprobs[0].mean()),
        "rejected_logprob": float(logprobs[1].mean()),
        "kl": -float(log_ratio.mean()),
    }


@dataclass
class DpoStage:
    """The loss of DPO on pairs; see PairStage."""

    config: QwenConfig
    settings: DpoSettings
    pairs: Sequence[Pair]
    reference: Array  # (2, n) log-probabilities, on the device
    validation_pairs: Sequence[Pair] | None
    validation_reference: Array | None
    pad_id: int

    def piece(self, params: Params, numbers: Array, share: float) -> tuple[Row, Params]:
        """Compute the loss of some pairs, and its gradient, times share."""
        s, pairs = self.settings, [self.pairs[i] for i in numbers]
        chats = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        batch = pad_chats(chats, self.pad_id).batch  # (2n, T)
        logprobs, cache = answer_logprobs_forward(params, self.config, batch, s.reduction)
        both, xp = logprobs.reshape(2, -1), array_module(logprobs)  # (2, n)
        reference = self.reference[:, xp.asarray(numbers)]
        loss, loss_cache = dpo_loss_forward(both[0], both[1], reference[0], reference[1], s.beta)
        row = {"loss": float(loss), **dpo_row(both, reference, s.beta)}
        row = {key: value * share for key, value in row.items()} | {"tokens": count_tokens(batch)}
        dlogprobs = xp.concatenate(dpo_loss_backward(share, loss_cache))
        routers, drouter_logits = router_part(cache.model, self.config, batch.real, share)
        return row | routers, answer_logprobs_backward(dlogprobs, cache, drouter_logits)

    def validate(self, params: Params) -> Row | None:
        """Return the loss on the held-out pairs, and how well they are ranked."""
        if self.validation_pairs is None or self.validation_reference is None:
            return None
        s, reference = self.settings, self.validation_reference
        both = pair_logprobs(
            params, self.config, self.validation_pairs, self.pad_id, s.reduction, s.batch_size
        )
        loss, _ = dpo_loss_forward(both[0], both[1], reference[0], reference[1], s.beta)
        found = dpo_row(both, reference, s.beta)
        return {
            "validation_loss": float(loss),
            "validation_accuracy": found["accuracy"],
            "validation_margin": found["margin"],
        }


def dpo(
    config: QwenConfig,
    params: Params,
    pairs: Sequence[Pair],
    run_folder: str | Path,
    settings: DpoSettings,
    *,
    reference: Params | None = None,
    validation_pairs: Sequence[Pair] | None = None,
    pad_id: int,
    tokenizer: SavesItself | None = None,
    progress: bool = True,
    plot: bool = True,
    device: str = "cpu",
) -> Params:
    """Train a language model on pairs; continue where the run in this folder stopped, if any.

    Metrics of a step: loss, accuracy, margin and mean implicit rewards, mean log-probabilities, kl,
    lr, grad_norm, and tokens, those of the answers.

    Args:
        config: of the model, a language model.
        params: to start from, copied. A run that goes on needs them too: they must be the same.
        pairs: of encode_pairs.
        run_folder: made if missing.
        settings: see DpoSettings.
        reference: parameters of the same config, which stay as they are; None: params.
        validation_pairs: never trained on.
        pad_id: stands in empty places, <|endoftext|> for Qwen; no token sees it.
        tokenizer: saved with every checkpoint.
        progress: show a bar, or lines now and then where stderr is not a terminal.
        plot: draw metrics.png.
        device: "cpu" or "cuda".

    Returns:
        The trained parameters.

    Raises:
        ValueError: the model has a score head, or a pair cannot be used (nothing has been written
            yet); or the folder holds another run, also one with another reference, or one of its
            files is damaged.
        ImportError, FloatingPointError, OSError, KeyboardInterrupt, SystemExit: as in
            training/pretrain.py.
    """
    s = settings
    if config.num_labels:
        raise ValueError(f"the config has num_labels={config.num_labels}: it is no language model")
    check_params(params, config)
    if reference is not None:
        check_params(reference, config, where="reference")
    require_pairs("pairs", pairs, s.context_length, config.vocab_size)
    if validation_pairs is not None:
        require_pairs("validation_pairs", validation_pairs, s.context_length, config.vocab_size)
    frozen = params if reference is None else reference
    frozen = {key: w.astype(s.dtype) for key, w in frozen.items()}
    training = describe_run(
        config,
        s,
        as_numbers(pairs),
        None if validation_pairs is None else as_numbers(validation_pairs),
        stage="dpo",
        start_model=params_fingerprint(params, s.dtype),
        reference=params_fingerprint(frozen),
    )

    def begin() -> DpoStage:
        on_device = to_device(frozen, device)
        frozen.clear()  # its numbers for the pairs are all that is needed: the rest is freed

        def known(some: Sequence[Pair]) -> Array:
            return pair_logprobs(on_device, config, some, pad_id, s.reduction, s.batch_size)

        held_out = None if validation_pairs is None else known(validation_pairs)
        return DpoStage(config, s, pairs, known(pairs), validation_pairs, held_out, pad_id)

    return train_on_pairs(
        config,
        params,
        len(pairs),
        run_folder,
        s,
        begin,
        training,
        tokenizer=tokenizer,
        progress=progress,
        plot=plot,
        device=device,
    )

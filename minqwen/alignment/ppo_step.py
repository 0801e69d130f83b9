"""One step of PPO, every quantity of it visible: answer, judge, and learn from it.

    rollout       the policy answers a batch of queries                      rollout.py
    scores        any function of queries and answers                        score.py
    experience    advantages and returns                                     experience.py
    for each epoch, for each minibatch of its rows:
        the value model is updated                                           value_update.py
        the policy is updated                                                policy_update.py

During the first `value_warmup_steps` steps only the value model learns: a policy that follows a
value model that knows nothing yet follows noise.

Nothing is changed in here: a step takes a state and returns the next one. Dropout is off
throughout, as it would make the policy differ from itself. In a mixture of experts the losses on
the routers come with the pretraining loss only.

Where a pass over the rollout is one update (minibatches = 1), the first update needs just what has
been computed for the experience, so that is handed on: three passes forward instead of five.

Paper:    Qwen Technical Report, 3.2.2 Reinforcement Learning: rates 1e-6 and 5e-6, 50 steps of the
          value model alone, two answers of a query.
Origin:   Schulman et al. 2017, arXiv:1707.06347, algorithm 1.
Differs:  how often a rollout is used, and into how many minibatches it is cut, is not published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..backend import Array, to_numpy
from ..data.packing import batch_rows
from ..params import Params
from .experience import Experience, make_experience, observe, take
from .learned import Learned
from .policy_update import PolicyUpdate, update_policy
from .reward_scaling import State
from .rollout import Rollout, as_lists, rollout
from .settings import PpoSettings
from .value_update import ValueUpdate, update_value

ROLLOUT, MINIBATCHES = 3, 4  # first words of the seeds (0 and 1: pretrain, 2: data.packing)

Queries = Sequence[Sequence[int]]
Score = Callable[[list[list[int]], list[list[int]]], Array]  # queries and answers to (B,)


class PpoState(NamedTuple):
    step: int  # rollouts done
    policy: Learned
    value: Learned
    stats: State  # of all scores so far


class Glass(NamedTuple):
    experience: Experience
    value_updates: list[ValueUpdate]
    policy_updates: list[PolicyUpdate]  # none while the value model is warmed up


def ppo_step(
    now: PpoState,
    reference: Params,
    queries: Queries,
    score: Score,
    settings: PpoSettings,
    *,
    ptx_rows: Array | None = None,
    eos_token_ids: Sequence[int],
    end_token_ids: Sequence[int] | None = None,
    pad_id: int,
) -> tuple[PpoState, Glass]:
    """Answer the next batch of queries and learn from it.

    Args:
        now: models and statistics; left as they are.
        reference: parameters of the policy at the start, frozen.
        queries: all there are, as lists of ids; the step takes its own, see batch_rows.
        score: gets B queries and B answers as lists of ids; an answer that ended has its end
            token. Returns (B,) numbers.
        settings: of the run.
        ptx_rows: (n, C + 1) int of pack_documents, for settings.ptx_coef.
        eos_token_ids: tokens that end an answer.
        end_token_ids: those of them without which an end is missing; None: all.
        pad_id: fills up rows.

    Returns:
        The next state, and everything that happened.

    Raises:
        FloatingPointError: a score, a loss or a gradient is NaN or infinite.
        ValueError: score does not return one number for each answer.
    """
    s = settings
    chosen = batch_rows(len(queries), s.batch_size, now.step, s.seed)
    rolled = rollout(
        now.policy.params,
        now.policy.config,
        [queries[i] for i in chosen],
        responses_per_query=s.responses_per_query,
        max_new_tokens=s.max_new_tokens,
        temperature=s.temperature,
        top_p=s.top_p,
        eos_token_ids=eos_token_ids,
        end_token_ids=end_token_ids,
        pad_id=pad_id,
        rng=np.random.default_rng([ROLLOUT, s.seed, now.step]),
    )
    scores = to_numpy(score(*as_lists(rolled)))
    return learn(now, reference, rolled, scores, s, ptx_rows)


def learn(
    now: PpoState,
    reference: Params,
    rolled: Rollout,
    scores: Array,
    settings: PpoSettings,
    ptx_rows: Array | None = None,
) -> tuple[PpoState, Glass]:
    """Learn from answers that have got their scores.

    Args:
        now: models and statistics; left as they are.
        reference: parameters of the policy at the start, frozen.
        rolled: answers of now.policy.
        scores: (B,) numbers, on the host.
        settings: of the run.
        ptx_rows: (n, C + 1) int of pack_documents, for settings.ptx_coef.

    Returns, Raises: as ppo_step.
    """
    s, (step, policy, value, stats) = settings, now
    if not np.isfinite(scores).all():
        raise FloatingPointError(f"the scores of step {step + 1} hold NaN or infinity")
    observed, first = observe(
        rolled, (policy.config, policy.params), reference, (value.config, value.params), s
    )
    experience, stats = make_experience(rolled, scores, observed, stats, s)

    whole = s.minibatches == 1
    of_value, of_policy = (first.values, first.logits) if whole else (None, None)
    del first  # so that its activations are freed as soon as they have been used
    value_updates, policy_updates = [], []
    for rows in minibatches(len(scores), s, step):
        piece = experience if whole else take(experience, rows)
        value, value_update = update_value(value, piece, rows, s, of_value)
        value_updates.append(value_update)
        if step >= s.value_warmup_steps:
            policy, policy_update = update_policy(policy, piece, rows, s, ptx_rows, of_policy)
            policy_updates.append(policy_update)
        of_value = of_policy = None  # the models have moved
    after = PpoState(step + 1, policy, value, stats)
    return after, Glass(experience, value_updates, policy_updates)


def minibatches(rows: int, settings: PpoSettings, step: int) -> Iterator[Array]:
    """Yield the rows of each update: all of them in each epoch, in an order of its own.

    >>> settings = PpoSettings(batch_size=2, minibatches=2, epochs=1)
    >>> sorted(row for rows in minibatches(4, settings, step=0) for row in rows.tolist())
    [0, 1, 2, 3]
    """
    rng = np.random.default_rng([MINIBATCHES, settings.seed, step])
    for _ in range(settings.epochs):
        if settings.minibatches == 1:
            yield np.arange(rows)  # of a sum over all rows the order does not matter
        else:
            yield from np.split(rng.permutation(rows), settings.minibatches)

"""Scores of answers: a reward model as a function of queries and answers, as PPO wants it.

    score(queries, answers) -> (B,)

PPO knows nothing more of what it is rewarded for, so any function with these arguments will do: a
reward model, a test that counts passed cases, or the true reward of a made-up task.

Paper:    Qwen Technical Report, 3.2.1 Reward Model, which reads the reward at the end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..backend import Array
from ..model.config import QwenConfig
from ..params import Params
from ..tokenizer.chatml import Chat
from .reward_model import rewards_of


@dataclass(frozen=True)
class RewardModelScore:
    """A reward model that can be called with queries and answers.

    It is read at the last token of the answer, which is the end token of an answer that has one. An
    answer that was cut off is read where it was cut; what becomes of that score is for
    PpoSettings.missing_end to say.
    """

    config: QwenConfig  # num_labels = 1
    params: Params  # on any device
    pad_id: int
    batch_size: int = 32  # rows at a time

    def __call__(self, queries: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Array:
        """Return (B,) float on the host, from B lists of ids each."""
        chats = [
            Chat([*query, *answer], [False] * len(query) + [True] * len(answer))
            for query, answer in zip(queries, answers, strict=True)
        ]
        return rewards_of(self.params, self.config, chats, self.pad_id, self.batch_size)

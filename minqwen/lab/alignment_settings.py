"""What the study of alignment depends on: model, data, the numbers of each stage, the policies.

The rates are for models of a hundred thousand parameters that see a few hundred updates. The
report's 1e-6 and 5e-6 are for billions of parameters, and would not move these at all.

The KL coefficient is 0.2, not the report's 0.04: it is worth as much as the rewards are large, and
those of the report are not published. Ours go from about 3.5 to 7.5. With 0.04, which is one of the
variants, the first try with all seeds lost in 60 rollouts most of the true reward that it had won
in 15. That try is why it is 0.2; nothing else was changed after it.

The other numbers of PPO are the report's: value clip 0.15, top-p 0.9, two answers a query, reward
less its running mean, the value model first (15 rollouts, not 50).

Only the base model is one for all seeds. With each seed everything from fine-tuning on is another:
the chats, the answers that are sampled, the pairs and their labels, the order of all of them.

Paper:    Qwen Technical Report, 3.1 to 3.2.2; Qwen2 Technical Report, Post-training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ..alignment.settings import DpoSettings, PpoSettings, RewardSettings, SftSettings
from ..model.config import QwenConfig
from ..training.settings import PretrainSettings

LOOKS = 6  # at a policy during PPO


class Policy(NamedTuple):
    """A model that answers, and how it is made."""

    name: str  # folder, and in results.json
    label: str  # in the tables
    stage: str  # base, sft, ppo, dpo or online
    changes: dict[str, Any]  # of the settings of PPO


POLICIES = (
    Policy("base", "base", "base", {}),
    Policy("sft", "SFT", "sft", {}),
    Policy("ppo", "PPO", "ppo", {}),
    Policy("weak_kl", "PPO, KL 0.04", "ppo", {"kl_coef": 0.04}),
    Policy("no_kl", "PPO, no KL", "ppo", {"kl_coef": 0.0}),
    Policy("no_value_clip", "PPO, no value clip", "ppo", {"cliprange_value": 1e9}),
    Policy("no_warmup", "PPO, no value warm-up", "ppo", {"value_warmup_steps": 0}),
    Policy("top_p_1", "PPO, top-p 1", "ppo", {"top_p": 1.0}),
    Policy("ptx_small", "PPO-ptx 0.01", "ppo", {"ptx_coef": 0.01}),
    Policy("ptx", "PPO-ptx 0.2", "ppo", {"ptx_coef": 0.2}),
    Policy("ptx_large", "PPO-ptx 10", "ppo", {"ptx_coef": 10.0}),
    Policy("dpo", "DPO", "dpo", {}),
    Policy("online", "DPO, online", "online", {}),
)
BY_NAME = {policy.name: policy for policy in POLICIES}
PPO_NAMES = tuple(policy.name for policy in POLICIES if policy.stage == "ppo")
REWARD_MODELS = {"pmp": "PMP", "pmp_rm": "PMP, then RM", "rm_alone": "RM alone"}


@dataclass(frozen=True)
class AlignmentSettings:
    """The settings of one study; impossible ones are refused when it is made.

    >>> AlignmentSettings(steps=3)
    Traceback (most recent call last):
    ...
    ValueError: steps must be a whole number, at least 6, got 3
    """

    hidden_size: int = 64  # D
    num_hidden_layers: int = 2  # L
    num_attention_heads: int = 2  # H
    num_key_value_heads: int = 1  # Hkv
    vocab_size: int = 512  # V
    context_length: int = 64  # tokens in a row of pretraining, and the most of a chat
    stories: int = 1500  # asked of the corpus; the two in five that are English are read
    talks: int = 9000  # pieces of text about the world
    base_steps: int = 800
    base_lr: float = 8e-3
    chats: int = 1500
    sft_steps: int = 150
    sft_lr: float = 1e-3
    held_out_prompts: int = 60  # of 240; nothing about them is in talks, chats or pairs
    coarse_pairs: int = 2400  # for PMP
    coarse_temperature: float = 1.4
    coarse_certainty: float = 0.7  # of the labels: sigmoid(certainty * difference of true rewards)
    pairs: int = 2000  # for the reward model, and for DPO
    certainty: float = 2.0
    pmp_steps: int = 150
    reward_steps: int = 260
    reward_lr: float = 1e-3
    steps: int = 90  # of PPO, rollouts
    value_warmup_steps: int = 15  # the report: 50
    queries: int = 16  # in a rollout, each answered twice
    max_new_tokens: int = 26  # the best answer has 14
    kl_coef: float = 0.2  # the report: 0.04; see above
    policy_lr: float = 5e-4
    value_lr: float = 1e-3
    dpo_steps: int = 100
    dpo_lr: float = 5e-4
    dpo_beta: float = 0.1
    online_rounds: int = 4  # of answers, labels by the reward model, and DPO
    online_answers: int = 4  # of a prompt, of which the best and the worst are a pair
    answers_of_a_prompt: int = 8  # when a policy is measured, on each held-out prompt
    seeds: int = 3  # everything from fine-tuning on
    seed: int = 0  # the first of them; of the base model too

    def __post_init__(self) -> None:
        """Refuse what could not be measured; the stages' own settings check the rest."""
        least = {
            **dict.fromkeys(("stories", "talks", "chats", "coarse_pairs", "pairs"), 20),
            **{"steps": LOOKS, "seeds": 2, "seed": 0, "queries": 1, "answers_of_a_prompt": 1},
            **{"online_rounds": 1, "online_answers": 2, "held_out_prompts": 2},
        }
        for name, smallest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
                raise ValueError(
                    f"{name} must be a whole number, at least {smallest}, got {value!r}"
                )
        if self.held_out_prompts > 200:
            raise ValueError(f"held_out_prompts must be at most 200, got {self.held_out_prompts}")
        self.config(self.vocab_size)
        self.base_training(), self.sft_training(0), self.reward_training(0, 1), self.dpo_training(0)
        for policy in PPO_NAMES:
            self.ppo_training(BY_NAME[policy], 0)

    def config(self, vocab_size: int) -> QwenConfig:
        """Return the language model, with the ids that the tokenizer really has."""
        return QwenConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=2 * self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            max_position_embeddings=2 * self.context_length,
            tie_word_embeddings=True,
        )

    def base_training(self) -> PretrainSettings:
        """Return the settings of pretraining."""
        return PretrainSettings(
            steps=self.base_steps,
            batch_size=16,
            context_length=self.context_length,
            peak_lr=self.base_lr,
            warmup_steps=min(50, self.base_steps // 5),
            seed=self.seed,
            checkpoint_every=max(1, self.base_steps // 3),
            eval_every=max(1, self.base_steps // 6),
        )

    def sft_training(self, seed: int) -> SftSettings:
        """Return the settings of fine-tuning."""
        return SftSettings(
            steps=self.sft_steps,
            batch_size=16,
            context_length=self.context_length,
            peak_lr=self.sft_lr,
            warmup_steps=min(20, self.sft_steps // 5),
            seed=seed,
            checkpoint_every=self.sft_steps,
            eval_every=max(1, self.sft_steps // 3),
        )

    def reward_training(self, seed: int, steps: int) -> RewardSettings:
        """Return the settings of a reward model, or of PMP before it."""
        return RewardSettings(
            steps=steps,
            batch_size=16,
            context_length=self.context_length,
            peak_lr=self.reward_lr,
            min_lr_ratio=0.1,
            warmup_steps=min(10, steps // 5),
            seed=seed,
            checkpoint_every=steps,
            eval_every=max(1, steps // 3),
        )

    def ppo_training(self, policy: Policy, seed: int) -> PpoSettings:
        """Return the settings of PPO, as this policy has them.

        Two passes of two updates: with a single update to a rollout no value would have moved
        when it is clipped, and the clip would never act.
        """
        settings: dict[str, Any] = {
            "steps": self.steps,
            "batch_size": self.queries,
            "kl_coef": self.kl_coef,
            "max_new_tokens": self.max_new_tokens,
            "epochs": 2,
            "minibatches": 2,
            "policy_lr": self.policy_lr,
            "value_lr": self.value_lr,
            "value_warmup_steps": min(self.value_warmup_steps, self.steps // 3),
            "ptx_batch_size": 8,
            "seed": seed,
            "checkpoint_every": max(1, self.steps // 2),
            "eval_every": max(1, self.steps // LOOKS),
        }
        return PpoSettings(**(settings | policy.changes))

    def dpo_training(self, seed: int, steps: int | None = None) -> DpoSettings:
        """Return the settings of DPO; steps differ for a round of online DPO."""
        steps = steps or self.dpo_steps
        return DpoSettings(
            steps=steps,
            batch_size=16,
            context_length=self.context_length,
            beta=self.dpo_beta,
            peak_lr=self.dpo_lr,
            warmup_steps=min(10, steps // 5),
            seed=seed,
            checkpoint_every=steps,
            eval_every=0,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return asdict(self)


QUICK = replace(
    AlignmentSettings(),
    hidden_size=32,
    num_hidden_layers=1,
    stories=100,
    talks=400,
    base_steps=30,
    chats=200,
    sft_steps=30,
    held_out_prompts=6,
    max_new_tokens=16,
    coarse_pairs=60,
    pairs=60,
    pmp_steps=6,
    reward_steps=10,
    steps=6,
    value_warmup_steps=2,
    queries=4,
    dpo_steps=8,
    online_rounds=2,
    answers_of_a_prompt=2,
    seeds=2,
)  # shows what the page looks like; its numbers mean little

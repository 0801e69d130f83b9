"""One step of every stage of training, and ways to generate, for tests that run them on a device.

Each step takes parameters, which may lie anywhere, and returns {what: value}: the row of metrics
and the gradient that a stage computed, its look at held-out data.
"""

import numpy as np
from alignment import small_pairs, small_ppo
from helpers.fake_device import count_syncs
from training.small_run import ROWS

from minqwen.alignment import dpo, pair_training, ppo_step, reward_training, sft
from minqwen.alignment.answer_logprobs import pair_logprobs
from minqwen.alignment.chat_batch import pad_chats
from minqwen.alignment.learned import Learned
from minqwen.alignment.ppo_metrics import metrics_of
from minqwen.alignment.score import RewardModelScore
from minqwen.alignment.settings import DpoSettings, RewardSettings, SftSettings
from minqwen.training import pretrain
from minqwen.training.adamw import adamw_init
from minqwen.training.settings import PretrainSettings

EXPERTS = {
    "model_type": "qwen2_moe",
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
    "shared_expert_intermediate_size": 11,
    "router_aux_loss_coef": 0.01,
}
CONFIGS = {  # what small_config changes
    "dense": {},
    "tied": {"tie_word_embeddings": True},
    "experts": EXPERTS,
    "dropout": {"dropout": 0.2},
}
NTK = {"use_dynamic_ntk": True, "max_position_embeddings": 8}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
CACHES = {  # ways to keep keys and values
    "plain": {},
    "window": {"layer_windows": [3, 6]},
    "NTK": NTK,
    "NTK and LogN": {**NTK, "use_logn_attn": True},
    "YaRN": {"rope_scaling": YARN},
    "dual chunks": {"dual_chunk_attention_config": {"chunk_size": 7, "local_size": 2}},
    "experts": EXPERTS,
}
CHOICES = {"greedy": {}, "sampled": {"temperature": 0.8, "top_k": 20, "top_p": 0.9}}
PAD = small_pairs.PAD
SFT = SftSettings(steps=4, warmup_steps=0, peak_lr=0.01, batch_size=5, accumulate=2)
REWARD = RewardSettings(**{**small_pairs.SETTINGS, "accumulate": 1})
DPO = DpoSettings(**{**small_pairs.SETTINGS, "accumulate": 1})


def state_of(params, step=0):
    """AdamW's state before the first update."""
    return {**adamw_init(params), "step": step}


def pretrain_step(params, config, **options):
    settings = PretrainSettings(
        steps=4, warmup_steps=0, batch_size=4, context_length=5, accumulate=2, **options
    )
    grads, row = pretrain.train_step(params, state_of(params), config, ROWS, settings)
    return {"row": row, "grads": grads}


def sft_step(params, config):
    chats = [pair.chosen for pair in small_pairs.some_pairs(7)]
    batch = pad_chats(chats, PAD).batch
    grads, row = sft.train_step(params, state_of(params), config, batch, SFT)
    return {"row": row, "grads": grads, "held out": sft.evaluate_chats(params, config, batch, 7)}


def _pair_step(params, settings, stage, waits):
    run = pair_training.PairTraining(
        "", None, params, state_of(params), settings, stage, 9, {}, None
    )
    with count_syncs() as syncs:
        grads, row = run.compute()
    if waits is not None:
        waits.update(syncs)
    return {"row": row, "grads": grads, "held out": run.validate()}


def reward_step(params, config, waits=None):
    """`waits` gets how often the step waited, on the fake device."""
    pairs, held_out = small_pairs.some_pairs(9), small_pairs.some_pairs(3, seed=1)
    stage = reward_training.RewardStage(config, REWARD, pairs, held_out, PAD)
    return _pair_step(params, REWARD, stage, waits)


def dpo_step(params, config, waits=None):
    """The reference is another model: the policy has moved by a tenth of each weight."""
    both = small_pairs.some_pairs(9), small_pairs.some_pairs(3, seed=1)
    before = {key: w * 0.9 for key, w in params.items()}
    known = [pair_logprobs(before, config, some, PAD, DPO.reduction, 32) for some in both]
    stage = dpo.DpoStage(config, DPO, both[0], known[0], both[1], known[1], PAD)
    return _pair_step(params, DPO, stage, waits)


def ppo(policy, value, reference, judge, configs, settings):
    """A rollout of the policy, scored by the judge, and one update of both models."""

    def learned(config, params):
        return Learned(config, params, state_of(params))

    now = small_ppo.start(settings.dtype)._replace(
        policy=learned(configs[0], policy), value=learned(configs[1], value)
    )
    after, glass = ppo_step.ppo_step(
        now,
        reference,
        small_ppo.QUERIES,
        RewardModelScore(configs[1], judge, small_ppo.PAD),
        settings,
        ptx_rows=small_ppo.TEXT,
        eos_token_ids=[small_ppo.END],
        pad_id=small_ppo.PAD,
    )
    return {
        "row": metrics_of(glass, 1, settings),
        "grads": [u.grads for u in (*glass.policy_updates, *glass.value_updates)],
        "answers": glass.experience.rollout.answers,
        "after": (after.policy.params, after.value.params),
    }


def ppo_arguments(dtype):
    """What `ppo` takes: arrays that lie on the device, and what stays on the host."""
    value_config, value = small_ppo.value_model()
    value = {key: w.astype(dtype) for key, w in value.items()}
    settings = small_ppo.settings(dtype=dtype, value_warmup_steps=0, epochs=1, ptx_coef=0.3)
    there = (
        small_ppo.policy_params(dtype),
        value,
        small_ppo.policy_params(dtype, seed=9),
        {key: w * 1.1 for key, w in value.items()},
    )
    return there, {"configs": (small_ppo.WIDE, value_config), "settings": settings}


def with_dtype(params, dtype):
    """The parameters in another precision."""
    return {key: w.astype(dtype) for key, w in params.items()}


def padded_prompts(padded=True):
    """Ids (2, 7) and the mask; the second row begins with padding."""
    ids = np.random.default_rng(1).integers(0, 61, (2, 7))
    mask = np.ones((2, 7), dtype=bool)
    mask[1, :3] = not padded
    return ids, mask

"""A run of PPO that takes milliseconds."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from training.small_run import CONFIG

from minqwen.alignment.learned import begin
from minqwen.alignment.ppo import ppo
from minqwen.alignment.ppo_step import PpoState
from minqwen.alignment.reward_model import to_reward_model
from minqwen.alignment.reward_scaling import new_reward_stats
from minqwen.alignment.settings import PpoSettings
from minqwen.model.init import init_params

WIDE = dataclasses.replace(CONFIG, initializer_range=0.5)  # far from uniform; dropout is 0.1
END, PAD = 2, 0
QUERIES = [[3, 4], [5], [6, 7, 8], [9, 3, 3, 10], [4, 4]]
TEXT = np.random.default_rng(4).integers(0, 11, (7, 6)).astype(np.int32)


def policy_params(dtype="float64", seed=1):
    return init_params(WIDE, np.random.default_rng(seed), dtype=dtype)


def value_model(dtype="float64", seed=2):
    params = init_params(WIDE, np.random.default_rng(seed), dtype=dtype)
    return to_reward_model(params, WIDE, np.random.default_rng(seed))


def score(queries, answers):
    """Share of threes: easy to learn."""
    return np.array([np.mean([token == 3 for token in answer]) for answer in answers])


def settings(**changes):
    values = {
        "steps": 4,
        "batch_size": 3,
        "max_new_tokens": 5,
        "policy_lr": 0.01,
        "value_lr": 0.02,
        "value_warmup_steps": 1,
        "checkpoint_every": 2,
        "dtype": "float64",
    }
    return PpoSettings(**{**values, **changes})


def start(dtype="float64"):
    return PpoState(
        0,
        begin(WIDE, policy_params(dtype), dtype),
        begin(*value_model(dtype), dtype),
        new_reward_stats(),
    )


def run(folder, *, options=None, **changes):
    value_config, value_params = value_model("float32")
    arguments = {
        "config": WIDE,
        "params": policy_params("float32"),
        "queries": QUERIES,
        "score": score,
        "value_config": value_config,
        "value_params": value_params,
        "ptx_rows": TEXT,
        "eos_token_ids": [END],
        "pad_id": PAD,
        "progress": False,
        "plot": False,
    }
    arguments |= {"run_folder": folder, "settings": settings(dtype="float32", **changes)}
    return ppo(**{**arguments, **(options or {})})


def metrics(folder):
    """The rows, without what depends on the clock."""
    text = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def files(folder):
    """Everything that a checkpoint holds, by name, byte by byte (a zip has the time in it)."""
    found = {}
    for path in sorted((Path(folder) / "checkpoint").rglob("*")):
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{path.parent.name}/{path.name}/{k}": arrays[k] for k in arrays.files}
        elif path.is_file():
            data = np.frombuffer(path.read_bytes(), np.uint8)
            found[str(path.relative_to(folder))] = data
    return found

"""A run that takes milliseconds, for the tests of pretrain; also a script that is killed."""

import json
import sys
from pathlib import Path

import numpy as np

from minqwen.model.config import QwenConfig
from minqwen.training.pretrain import pretrain
from minqwen.training.resume import load_run
from minqwen.training.settings import PretrainSettings

CONFIG = QwenConfig(
    vocab_size=11,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=True,
    dropout=0.1,
)
ROWS = np.random.default_rng(0).integers(0, 11, (13, 6)).astype(np.int32)
VALIDATION = np.random.default_rng(1).integers(0, 11, (3, 6)).astype(np.int32)
SETTINGS = {
    "steps": 6,
    "batch_size": 5,
    "accumulate": 2,
    "context_length": 5,
    "peak_lr": 0.01,
    "warmup_steps": 2,
    "checkpoint_every": 2,
    "eval_every": 3,
}


def run(folder, *, config=CONFIG, rows=ROWS, validation=VALIDATION, options=None, **settings):
    return pretrain(
        config,
        rows,
        folder,
        PretrainSettings(**{**SETTINGS, **settings}),
        **{"validation_rows": validation, "progress": False, "plot": False, **(options or {})},
    )


def metrics(folder):
    """The rows, without what depends on the clock."""
    text = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def assert_same_run(folder, other):
    """Everything that two finished runs leave behind is the same, bit by bit."""
    assert metrics(folder) == metrics(other)
    (params, state, training), (params_2, state_2, training_2) = (
        load_run(Path(f), "float32") for f in (folder, other)
    )
    assert state["step"] == state_2["step"]
    assert training == training_2
    for one, two in ((params, params_2), (state["m"], state_2["m"]), (state["v"], state_2["v"])):
        assert one.keys() == two.keys()
        for key in one:
            assert one[key].dtype == two[key].dtype == np.float32
            np.testing.assert_array_equal(one[key], two[key])
    names = [sorted(path.name for path in Path(f).rglob("*")) for f in (folder, other)]
    assert names[0] == names[1]


if __name__ == "__main__":
    run(sys.argv[1], **json.loads(sys.argv[2]))

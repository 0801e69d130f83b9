"""Resuming: only the same run goes on; another one, or a damaged file, is refused by name."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from training.small_run import CONFIG, ROWS, VALIDATION, assert_same_run, run

from minqwen.model.atomic_folder import recover
from minqwen.training.resume import last_checkpoint, load_run, read_training, require_same_run

NO_DROPOUT = dataclasses.replace(CONFIG, dropout=0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 4),
        ("accumulate", 1),
        ("peak_lr", 0.02),
        ("min_lr_ratio", 0.2),
        ("warmup_steps", 3),
        ("beta1", 0.8),
        ("beta2", 0.99),
        ("eps", 1e-6),
        ("weight_decay", 0.0),
        ("max_norm", 2.0),
        ("seed", 1),
        ("dtype", "float64"),
    ],
)
def test_resuming_with_another_setting_names_it(tmp_path, name, value):
    run(tmp_path, steps=3)
    with pytest.raises(ValueError, match=rf"has settings\.{name} = .*, not {value!r}"):
        run(tmp_path, **{"steps": 3, name: value})


def test_resuming_another_run_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match=r"settings.steps = 6 and has done 6: steps may grow"):
        run(tmp_path, steps=5)
    with pytest.raises(ValueError, match=r"config\.dropout = 0\.1, not 0\.0"):
        run(tmp_path, config=NO_DROPOUT)
    with pytest.raises(ValueError, match="was trained on other rows"):
        run(tmp_path, rows=ROWS[::-1])
    for validation in (VALIDATION[::-1], VALIDATION[:2], None):
        with pytest.raises(ValueError, match="was validated on other validation_rows"):
            run(tmp_path, validation=validation)
    run(tmp_path, checkpoint_every=5)
    (tmp_path / "checkpoint" / "state.npz").unlink()
    with pytest.raises(ValueError, match=r"cannot be resumed, it has no state\.npz"):
        run(tmp_path)


def test_a_run_of_another_stage_is_said_to_be_one_before_anything_else(tmp_path):
    run(tmp_path)
    path = tmp_path / "checkpoint" / "training.json"
    training = json.loads(path.read_text("utf-8"))
    assert training["stage"] == "pretrain"
    path.write_text(json.dumps({**training, "stage": "reward"}), "utf-8")
    everything_else = {"steps": 5, "config": NO_DROPOUT, "rows": ROWS[::-1], "peak_lr": 0.5}
    with pytest.raises(ValueError, match=r"the run in .* is one of reward, not of pretrain: use"):
        run(tmp_path, **everything_else)
    path.write_text(json.dumps({**training, "stage": 3}), "utf-8")
    with pytest.raises(ValueError, match="missing or wrong stage"):
        run(tmp_path)


def test_a_run_from_before_the_stage_was_noted_goes_on(tmp_path):
    flat = {"min_lr_ratio": 1.0, "warmup_steps": 0}
    run(tmp_path / "whole", **flat)
    run(tmp_path / "parts", steps=4, **flat)
    path = tmp_path / "parts" / "checkpoint" / "training.json"
    training = json.loads(path.read_text("utf-8"))
    del training["stage"]
    path.write_text(json.dumps(training), "utf-8")
    run(tmp_path / "parts", **flat)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")  # and now it is noted


@pytest.mark.parametrize(
    ("before", "now"), [("reward model", "reward"), ("online dpo", "online_dpo")]
)
def test_a_stage_may_be_called_what_it_was_called_before(before, now):
    same = {"config": {}, "settings": {"steps": 1}, "rows": "", "validation_rows": None}
    require_same_run(Path("run"), {**same, "stage": before}, {**same, "stage": now}, 1)
    with pytest.raises(ValueError, match=f"one of {now}, not of dpo"):
        require_same_run(Path("run"), {**same, "stage": before}, {**same, "stage": "dpo"}, 1)


def test_another_long_context_field_is_named_with_what_it_was(tmp_path):
    """A config file leaves out what is as always; the message does not."""
    run(tmp_path, steps=3)
    changed = dataclasses.replace(CONFIG, use_logn_attn=True)
    with pytest.raises(ValueError, match=r"has config\.use_logn_attn = False, not True"):
        run(tmp_path, config=changed, steps=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_windows": [2]},
        {"use_dynamic_ntk": True, "use_logn_attn": True, "max_position_embeddings": 4},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"dual_chunk_attention_config": {"chunk_size": 4, "local_size": 1}},
    ],
    ids=str,
)
def test_a_long_context_run_goes_on_as_one(tmp_path, changes):
    config = dataclasses.replace(CONFIG, **changes)
    flat = {"min_lr_ratio": 1.0, "warmup_steps": 0, "eval_every": 2}  # the same for any `steps`
    run(tmp_path / "whole", config=config, steps=4, **flat)
    for steps in (2, 4):
        run(tmp_path / "parts", config=config, steps=steps, **flat)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_run_without_clipping_goes_on_as_one(tmp_path):
    run(tmp_path / "run", steps=3, warmup_steps=1, max_norm=math.inf)
    assert read_training(tmp_path / "run" / "checkpoint")["settings"]["max_norm"] is None
    with pytest.raises(ValueError, match=r"has settings\.max_norm = None, not 1\.0"):
        run(tmp_path / "run", steps=3, warmup_steps=1)
    run(tmp_path / "run", steps=3, warmup_steps=1, max_norm=math.inf)
    run(tmp_path / "huge", steps=3, warmup_steps=1, max_norm=1e30)
    one, two = (load_run(tmp_path / name, "float32")[0] for name in ("run", "huge"))
    assert all((one[key] == two[key]).all() for key in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(folder)
    return folder


@pytest.fixture
def damaged(finished, tmp_path):
    """Return a copy of a finished run, and what refuses it."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)

    def refusal(name):
        path = folder / "checkpoint" / name
        before = path.read_bytes()
        with pytest.raises(ValueError, match="is corrupt or cut off: ") as error:
            run(folder)
        assert str(error.value).startswith(f"{path} is corrupt or cut off: ")
        assert error.value.__context__ is None or error.value.__suppress_context__  # one error
        assert path.read_bytes() == before
        return str(error.value)

    return folder, refusal


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_state_that_was_cut_off(damaged, share):
    folder, refusal = damaged
    path = folder / "checkpoint" / "state.npz"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refusal("state.npz")


def test_a_state_with_any_damaged_byte_is_refused_or_the_same(damaged):
    folder, _ = damaged
    path = folder / "checkpoint" / "state.npz"
    data = path.read_bytes()
    _, state, _ = load_run(folder, "float32")
    rng = np.random.default_rng(0)
    refused = []
    for position in rng.integers(0, len(data), 300):
        path.write_bytes(data[:position] + bytes([rng.integers(256)]) + data[position + 1 :])
        try:
            _, loaded, _ = load_run(folder, "float32")
        except ValueError as error:
            refused.append(str(error))
        else:
            assert loaded["step"] == state["step"]
            for moment in ("m", "v"):
                for key, array in state[moment].items():
                    np.testing.assert_array_equal(loaded[moment][key], array)
    assert len(refused) > 200
    assert all(text.startswith(f"{path} is corrupt or cut off: ") for text in refused)


def change_state(folder, change):
    path = folder / "checkpoint" / "state.npz"
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("step"), "missing step"),
        (lambda a: a.pop("m.model.norm.weight"), "missing m.model.norm.weight"),
        (lambda a: a.clear() or a.update(x=np.zeros(1)), "and 19 more"),
        (
            lambda a: a.update({"v.model.norm.weight": np.zeros(7, np.float32)}),
            "mis-shaped v.model.norm.weight float32 (7,) instead of (8,)",
        ),
        (
            lambda a: a.update({"m.model.norm.weight": np.zeros(8, int)}),
            "mis-shaped m.model.norm.weight int64 (8,) instead of (8,)",
        ),
        (lambda a: a.update(step=np.array([6])), "mis-shaped step int64 (1,) instead of ()"),
        (lambda a: a.update(step=np.array(6.0)), "mis-shaped step float64 () instead of ()"),
        (lambda a: a.update({k: x[..., None] for k, x in a.items()}), "and 19 more"),
        (lambda a: a.update(step=np.array({}, dtype=object)), "allow_pickle"),
    ],
)
def test_a_state_with_other_arrays(damaged, change, message):
    folder, refusal = damaged
    change_state(folder, change)
    assert message in refusal("state.npz")


def test_a_state_that_is_no_archive(damaged):
    folder, refusal = damaged
    with open(folder / "checkpoint" / "state.npz", "wb") as file:
        np.save(file, np.zeros(3))
    refusal("state.npz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ('{"config": {"a": 1}, "sett', "Unterminated string"),
        ("5", "it holds no JSON object"),
        ("[]", "it holds no JSON object"),
        (
            "{}",
            "missing or wrong config, rows, settings, settings.steps, validation_rows",
        ),
    ],
)
def test_a_damaged_training_json(damaged, text, message):
    folder, refusal = damaged
    (folder / "checkpoint" / "training.json").write_text(text, encoding="utf-8")
    assert message in refusal("training.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": None}, "missing or wrong settings, settings.steps"),
        ({"settings": {"steps": 6, "warmup_steps": 0.5}}, "missing or wrong settings.warmup_steps"),
        ({"settings": {"steps": "6", "warmup_steps": 2}}, "missing or wrong settings.steps"),
        ({"config": []}, "missing or wrong config"),
        ({"rows": None}, "missing or wrong rows"),
        ({"validation_rows": 3}, "missing or wrong validation_rows"),
    ],
)
def test_a_training_json_with_other_contents(damaged, change, message):
    folder, refusal = damaged
    path = folder / "checkpoint" / "training.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), "utf-8")
    assert message in refusal("training.json")


def test_bytes_that_are_no_text(damaged):
    folder, refusal = damaged
    (folder / "checkpoint" / "training.json").write_bytes(b"\xff\x00")
    refusal("training.json")


def test_the_last_checkpoint_is_found_without_a_change(finished, tmp_path):
    folder = tmp_path / "run"
    assert last_checkpoint(folder) is None
    shutil.copytree(finished, folder)
    assert last_checkpoint(folder) == folder / "checkpoint"
    (folder / "checkpoint").rename(folder / ".checkpoint.old")  # killed at the wrong moment
    assert last_checkpoint(folder) == folder / ".checkpoint.old"
    assert (folder / ".checkpoint.old").exists()
    recover(folder / "checkpoint")
    assert_same_run(folder, finished)

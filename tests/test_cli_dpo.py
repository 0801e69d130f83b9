"""`minqwen dpo` as a user runs it: training, going on, the reference, and what it refuses."""

import json
import math

import pytest
from helpers.commands import error_of, tiny_run, write_story
from helpers.preferences import steps_in, write_preferences

from minqwen.cli import main
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.tokenizer.bpe import bpe_train
from minqwen.training.resume import read_training

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The run of a small base model."""
    folder = tmp_path_factory.mktemp("base")
    assert main(tiny_run(write_story(folder), folder / "run", "--quiet", steps=1)) == 0
    return folder / "run"


@pytest.fixture
def pairs(tmp_path):
    return write_preferences(tmp_path / "pairs.jsonl")


def words(pairs, base, out, *more):
    return [
        "dpo", str(pairs), "--start-from", str(base), "--out", str(out), "--quiet",
        "--batch-size", "2", "--context", "90", *more,
    ]  # fmt: skip


def first_loss(out):
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return next(row["loss"] for row in map(json.loads, lines) if "loss" in row)


def test_trains_and_goes_on(base, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(pairs, base, out, "--steps", "4", "--validation", "0.5")) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("trained 4 steps; ")
    assert "generate" in captured.out
    assert first_loss(out) == pytest.approx(math.log(2), abs=1e-5)
    assert main(words(pairs, base, out, "--steps", "6", "--validation", "0.5")) == 0
    assert steps_in(out) == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in out.iterdir()} == {"checkpoint", "metrics.jsonl", "metrics.png"}
    assert load_checkpoint(out / "checkpoint")[0].num_labels == 0
    assert main(["generate", str(out), "Count", "--max-new-tokens", "2"]) == 0


def test_another_reference_is_another_run(base, pairs, tmp_path, capsys):
    trained, out = tmp_path / "one", tmp_path / "two"
    fast = ("--epochs", "2", "--lr", "1e-2", "--warmup", "0", "--validation", "0")
    assert main(words(pairs, base, trained, *fast)) == 0
    settings = read_training(trained / "checkpoint")["settings"]
    assert (settings["steps"], settings["warmup_steps"]) == (6, 0)
    assert main(words(pairs, trained, out, "--reference", str(base), "--steps", "1",
                      "--validation", "0")) == 0  # fmt: skip
    assert abs(first_loss(out) - math.log(2)) > 1e-3
    error = error_of(capsys, *words(pairs, trained, out, "--steps", "1", "--validation", "0"))
    assert "has another reference" in error


def test_a_model_of_another_kind_is_refused(base, pairs, tmp_path, capsys):
    scored, out = tmp_path / "reward", tmp_path / "run"
    assert (
        main(["reward", *words(pairs, base, scored, "--steps", "1", "--validation", "0")[1:]]) == 0
    )
    wanted = "gives a score, but logits must come out here"
    assert wanted in error_of(capsys, *words(pairs, scored, out))
    error = error_of(capsys, *words(pairs, base, out, "--reference", str(scored)))
    assert f"the reference in {scored} has another config than the model" in error
    config, params = load_checkpoint(base / "checkpoint")
    other = bpe_train("other text " * 9, 265, special_tokens=["<|im_start|>", "<|im_end|>"])
    save_checkpoint(tmp_path / "other", config, params, tokenizer=other)
    error = error_of(capsys, *words(pairs, base, out, "--reference", str(tmp_path / "other")))
    assert f"the reference in {tmp_path / 'other'} has another tokenizer than the model" in error
    assert "beta must be positive" in error_of(capsys, *words(pairs, base, out, "--beta", "0"))
    assert not out.exists()

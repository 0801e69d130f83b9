"""`minqwen reward` as a user runs it: training, going on, scoring, and what it refuses."""

import json

import numpy as np
import pytest
from helpers.commands import error_of, tiny_run, write_story
from helpers.preferences import PREFERENCES, steps_in, write_preferences

from minqwen.alignment.settings import REPORT_REWARD
from minqwen.cli import main
from minqwen.commands import reward as command
from minqwen.model.checkpoint import load_checkpoint
from minqwen.training.resume import load_run, read_training

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
        "reward", str(pairs), "--start-from", str(base), "--out", str(out), "--quiet",
        "--batch-size", "2", "--context", "90", *more,
    ]  # fmt: skip


def test_trains_goes_on_and_says_how_well_held_out_pairs_are_ranked(base, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(pairs, base, out, "--steps", "4", "--validation", "0.5")) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("trained 4 steps\n3 pairs: ")
    assert "ranked right" in captured.out
    assert {path.name for path in out.iterdir()} == {
        "checkpoint", "metrics.jsonl", "metrics.png", "calibration.png"
    }  # fmt: skip
    config, params = load_checkpoint(out / "checkpoint")
    assert config.num_labels == 1
    assert main(words(pairs, base, out, "--steps", "6", "--validation", "0.5")) == 0
    assert steps_in(out) == [1, 2, 3, 4, 5, 6]
    after = load_run(out, "float32")[0]
    assert any((after[name] != params[name]).any() for name in params)


def test_a_reward_model_goes_on_from_a_preference_model(base, pairs, tmp_path):
    first, second = tmp_path / "pmp", tmp_path / "rm"
    none = ("--steps", "1", "--validation", "0")
    assert main(words(pairs, base, first, *none)) == 0
    assert main(words(pairs, first, second, *none, "--lr", "1e-9", "--weight-decay", "0")) == 0
    before, after = (load_checkpoint(x / "checkpoint")[1]["score.weight"] for x in (first, second))
    np.testing.assert_allclose(after, before, atol=1e-6)  # the head was not drawn again
    assert not (second / "calibration.png").exists()  # nothing was held out


def test_scores_a_file_without_training(base, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(pairs, base, out, "--steps", "1", "--validation", "0")) == 0
    before = load_run(out, "float32")[0]
    capsys.readouterr()
    assert main(words(pairs, out, tmp_path / "scores", "--score")) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("6 pairs: ")
    assert main(words(pairs, out, tmp_path / "scores", "--score", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["line"] for row in found["rewards"]] == [1, 2, 3, 4, 5, 6]
    right = [row["chosen"] > row["rejected"] for row in found["rewards"]]
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert f"{found['accuracy']:.1%} ranked right" in printed
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["calibration.png"]
    after = load_run(out, "float32")[0]
    assert all((before[name] == after[name]).all() for name in before)
    error = error_of(capsys, *words(pairs, base, tmp_path / "x", "--score"))
    assert f"the model in {base} gives logits" in error
    assert "--json goes with --score" in error_of(
        capsys, *words(pairs, base, tmp_path / "x", "--json")
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("--lr", "0.1"), ("--steps", "3"), ("--epochs", "1"), ("--validation", "0"), ("--seed", "1"),
     ("--clip", "1"), ("--center-coef", "0"), ("--checkpoint-every", "5")],
)  # fmt: skip
def test_options_of_training_do_not_go_with_score(base, pairs, tmp_path, capsys, option, value):
    error = error_of(capsys, *words(pairs, base, tmp_path / "x", "--score", option, value))
    assert f"{option} is of training, with --score nothing is trained" in error
    assert not (tmp_path / "x").exists()


def test_epochs_become_steps(base, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(pairs, base, out, "--epochs", "2", "--validation", "0")) == 0
    assert read_training(out / "checkpoint")["settings"]["steps"] == 6
    both = ("--epochs", "2", "--steps", "2")
    assert "--steps or --epochs" in error_of(capsys, *words(pairs, base, tmp_path / "x", *both))
    assert "--epochs must be 1" in error_of(capsys, *words(pairs, base, out, "--epochs", "0"))


def test_the_preset_of_the_report_is_one_epoch(base, pairs, tmp_path, monkeypatch):
    seen = []

    def stop(config, params, pairs, folder, settings, **options):
        seen.append(settings)
        raise ValueError("enough")

    monkeypatch.setattr(command, "train_reward_model", stop)
    report = [
        "reward", str(pairs), "--start-from", str(base), "--out", str(tmp_path / "r"), "--quiet",
        "--preset", "report",
    ]  # fmt: skip
    assert main(report) == 2
    assert main([*report, "--steps", "7"]) == 2
    assert [s.steps for s in seen] == [1, 7]
    for s in seen:
        assert (s.peak_lr, s.batch_size, s.context_length) == (3e-6, 64, 2048)
        assert (s.min_lr_ratio, s.warmup_steps) == (1.0, 0)  # constant
        assert s.weight_decay == REPORT_REWARD.weight_decay


def test_what_is_left_out_is_said(base, tmp_path, capsys):
    long = {"prompt": "a", "chosen": "1 2 3 4 5 " * 40, "rejected": "b"}
    pairs = write_preferences(tmp_path / "pairs.jsonl", [*PREFERENCES, long])
    out = tmp_path / "run"
    assert main(words(pairs, base, out, "--steps", "1", "--validation", "0")) == 0
    error = capsys.readouterr().err
    assert f"{pairs}: 1 of 7 pairs left out (1 too long); line 7: chosen has " in error
    assert "context_length is 90" in error
    assert "none of 7 preferences can be used" in error_of(
        capsys, *words(pairs, base, tmp_path / "x", "--context", "5")
    )


def test_a_wrong_line_is_named(base, tmp_path, capsys):
    pairs = write_preferences(tmp_path / "pairs.jsonl", [PREFERENCES[0], {"prompt": "a"}])
    error = error_of(capsys, *words(pairs, base, tmp_path / "x"))
    assert "pairs.jsonl" in error
    assert "line 2" in error
    assert "'chosen' is missing" in error
    tools = {**PREFERENCES[0], "tools": [{"name": "t"}]}
    pairs = write_preferences(tmp_path / "pairs.jsonl", [PREFERENCES[0], tools])
    error = error_of(capsys, *words(pairs, base, tmp_path / "x"))
    assert "pairs.jsonl, line 2: tools were given" in error
    assert not (tmp_path / "x").exists()
    assert "none.jsonl" in error_of(capsys, *words(tmp_path / "none.jsonl", base, tmp_path / "x"))

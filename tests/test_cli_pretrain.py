"""`minqwen pretrain` as a user runs it: resuming, other checkpoints, errors before any work."""

import json
import math
import sys

import pytest
from helpers.commands import STORY, error_of, tiny_run, write_story

from minqwen.cli import main
from minqwen.commands import pretrain as command
from minqwen.commands.files import told_how_to_go_on
from minqwen.tokenizer.bpe import bpe_train
from minqwen.training import pretrain as training
from minqwen.training.accumulate import Evaluation
from minqwen.training.resume import load_run, read_training

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")


@pytest.fixture
def text(tmp_path):
    return write_story(tmp_path)


def words(text, out, *more, steps=4):
    return tiny_run(text, out, "--quiet", *more, steps=steps)


def steps_in(out):
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["step"] for row in map(json.loads, lines) if "loss" in row]


@pytest.mark.parametrize(("first", "then", "warmup"), [(4, 8, 0), (20, 40, 1)])
def test_the_same_command_with_more_steps_goes_on(text, tmp_path, monkeypatch, first, then, warmup):
    out = tmp_path / "run"
    assert main(words(text, out, steps=first)) == 0
    assert steps_in(out) == list(range(1, first + 1))
    done, real = [], training.train_step

    def seen(params, state, *rest):
        done.append(state["step"] + 1)
        return real(params, state, *rest)

    monkeypatch.setattr(training, "train_step", seen)
    assert main(words(text, out, steps=then)) == 0
    assert done == list(range(first + 1, then + 1))
    assert steps_in(out) == list(range(1, then + 1))
    assert read_training(out / "checkpoint")["settings"]["warmup_steps"] == warmup
    assert load_run(out, "float32")[1]["step"] == then


def test_a_warm_up_that_was_given_is_kept_and_another_one_refused(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(text, out, "--warmup", "3")) == 0
    assert "has settings.warmup_steps = 3, not 2" in error_of(
        capsys, *words(text, out, "--warmup", "2", steps=8)
    )
    assert main(words(text, out, steps=8)) == 0
    assert "steps may grow, not shrink to 2" in error_of(capsys, *words(text, out, steps=2))


def test_a_run_killed_between_two_renames_goes_on(text, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert main(words(text, out, steps=20)) == 0
    (out / "checkpoint").rename(out / ".checkpoint.old")
    monkeypatch.setattr(command, "train", None)  # its tokenizer is taken, too
    assert main(words(text, out, steps=40)) == 0
    assert steps_in(out) == list(range(1, 41))


def test_starts_from_a_run_folder_or_its_checkpoint(text, tmp_path, monkeypatch):
    assert main(words(text, tmp_path / "a")) == 0
    monkeypatch.setattr(command, "train", None)
    for name, folder in (("b", tmp_path / "a"), ("c", tmp_path / "a" / "checkpoint")):
        assert main(words(text, tmp_path / name, "--start-from", str(folder))) == 0
    losses = []
    for name in "abc":
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([json.loads(line).get("validation_loss") for line in lines])
    assert losses[1] == losses[2]
    assert losses[1][0] == losses[0][-1]  # it begins where the other one ended


def test_clip_inf_means_no_clipping(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(text, out, "--clip", "inf")) == 0
    assert main(words(text, out, "--clip", "inf", steps=5)) == 0
    assert steps_in(out) == [1, 2, 3, 4, 5]
    error = error_of(capsys, *words(text, out, steps=5))
    assert "has settings.max_norm = None, not 1.0" in error
    for bad in ("0", "nan"):
        error = error_of(capsys, *words(text, tmp_path / "no", "--clip", bad))
        assert "max_norm must be positive" in error
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("package", ["matplotlib", "tqdm"])
def test_a_missing_package_is_named_before_any_work(text, tmp_path, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(command, "wants_bar", lambda show: True)  # as on a terminal
    monkeypatch.setattr(command, "train", None)  # the tokenizer is the first work
    error = error_of(capsys, *words(text, tmp_path / "run"))
    assert f"{package} is missing: pip install 'minqwen[run]'" in error
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_without_a_separator_is_named(text, tmp_path, capsys):
    bpe_train(STORY, 280, special_tokens=["<|im_end|>"]).save_pretrained(tmp_path / "t")
    error = error_of(capsys, *words(text, tmp_path / "run", "--tokenizer", str(tmp_path / "t")))
    assert "the tokenizer has no token <|endoftext|>" in error
    assert not (tmp_path / "run").exists()


def test_a_damaged_run_is_named(text, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    assert main(words(text, out)) == 0
    for name in ("training.json", "state.npz"):
        path = out / "checkpoint" / name
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        assert f"{path} is corrupt or cut off: " in error_of(capsys, *words(text, out))
        path.write_bytes(data)
    assert main(words(text, out)) == 0


def test_a_validation_loss_that_is_nan_ends_with_one(text, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    assert main(words(text, out)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", lambda *args: Evaluation(math.nan))
        error = error_of(capsys, *words(text, out, steps=8), code=1)
    assert "the validation loss of step 8 is nan; the last checkpoint, of step 8, is in" in error
    assert load_run(out, "float32")[1]["step"] == 8
    assert main(words(text, out, steps=8)) == 0


def test_other_rows_are_refused_by_name(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(text, out)) == 0
    text.write_text(STORY * 41, encoding="utf-8")
    assert "was trained on other rows" in error_of(capsys, *words(text, out))


def test_the_losses_on_routers_can_be_set(text, tmp_path, capsys):
    out = tmp_path / "run"
    more = ["--balance-loss", "0.5", "--z-loss", "0.25", "--pool-router-loss", "--size", "tiny-moe"]
    assert main(words(text, out, *more)) == 0
    training = read_training(out / "checkpoint")
    assert training["config"]["router_aux_loss_coef"] == 0.5
    assert training["settings"]["z_loss_coef"] == 0.25
    assert training["settings"]["router_loss_pooled"] is True
    dense = words(text, tmp_path / "dense", "--balance-loss", "0.5", "--size", "tiny")
    assert "this one has none" in error_of(capsys, *dense)
    assert main(["shapes", str(out)]) == 0
    assert "8 experts of width 48, 2 for each token" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_precision_can_be_set_and_belongs_to_the_run(text, tmp_path, capsys, precision):
    pytest.importorskip("ml_dtypes")
    out = tmp_path / "run"
    assert main(words(text, out, "--precision", precision)) == 0
    assert read_training(out / "checkpoint")["settings"]["precision"] == precision
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    scaled = [row["step"] for row in rows if "loss_scale" in row]
    assert scaled == ([1, 2, 3, 4] if precision == "float16" else [])
    error = error_of(capsys, *words(text, out, "--precision", "float32", "--dtype", "float64"))
    assert "has settings.dtype = 'float32', not 'float64'" in error
    if precision != "float32":  # float32 is what --precision says by itself
        error = error_of(capsys, *words(text, out, steps=8))
        assert f"has settings.precision = '{precision}', not 'float32'" in error
        more = ("--precision", precision, "--dtype", "float64")
        error = error_of(capsys, *words(text, tmp_path / "no", *more))
        assert f"precision must be float32 where dtype is float64, got '{precision}'" in error
    assert main(words(text, out, "--precision", precision, steps=5)) == 0
    assert steps_in(out)[-1] == 5
    assert not (tmp_path / "no").exists()


def test_bfloat16_without_its_package_is_named_before_any_work(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    monkeypatch.setattr(command, "train", None)  # the tokenizer is the first work
    error = error_of(capsys, *words(text, tmp_path / "run", "--precision", "bfloat16"))
    assert "ml_dtypes is missing: pip install 'minqwen[hf]'" in error
    assert not (tmp_path / "run").exists()


def test_ctrl_c_says_that_the_same_command_goes_on(text, tmp_path, monkeypatch, capsys):
    real = training.train_step

    def interrupted(params, state, *rest):
        if state["step"] == 2:
            raise KeyboardInterrupt
        return real(params, state, *rest)

    out = tmp_path / "run"
    monkeypatch.setattr(training, "train_step", interrupted)
    assert main(words(text, out)) == 130
    told = f"saved in {out}; the same command goes on from there\nminqwen: stopped\n"
    assert capsys.readouterr().err == told
    assert load_run(out, "float32")[1]["step"] == 2
    monkeypatch.setattr(training, "train_step", real)
    assert main(words(text, out)) == 0
    assert steps_in(out) == [1, 2, 3, 4]


@pytest.mark.parametrize(("saved", "tell"), [(False, True), (True, False)])
def test_nothing_is_said_of_a_run_without_a_checkpoint_or_twice(tmp_path, capsys, saved, tell):
    if saved:
        (tmp_path / "checkpoint").mkdir()
    with pytest.raises(KeyboardInterrupt), told_how_to_go_on(tmp_path, tell):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""

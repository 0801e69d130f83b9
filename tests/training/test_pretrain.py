"""The training loop: it learns, can be stopped anywhere, says what is wrong."""

import dataclasses
import io
import json
import math
import signal
import sys

import numpy as np
import pytest
from helpers.fake_device import install
from training.small_run import CONFIG, ROWS, VALIDATION, assert_same_run, metrics, run

from minqwen.data.packing import batch_rows
from minqwen.model.checkpoint import load_checkpoint
from minqwen.model.init import init_params
from minqwen.training import pretrain as module
from minqwen.training import update
from minqwen.training.accumulate import as_batch, evaluate, loss_and_grads
from minqwen.training.lr_schedule import cosine_lr
from minqwen.training.resume import load_run

NO_DROPOUT = dataclasses.replace(CONFIG, dropout=0.0)


@pytest.fixture
def params():
    return init_params(NO_DROPOUT, np.random.default_rng(2), dtype="float64")


def test_learns_a_text_by_heart(tmp_path):
    rows = np.arange(12).reshape(2, 6).astype(np.int32) % 11
    params = run(
        tmp_path,
        config=NO_DROPOUT,
        rows=rows,
        validation=None,
        steps=80,
        batch_size=2,
        peak_lr=0.05,
        checkpoint_every=80,
    )
    assert evaluate(params, NO_DROPOUT, rows, 2).loss < 0.05
    rows = metrics(tmp_path)
    assert rows[0]["loss"] == pytest.approx(math.log(11), abs=0.1)
    assert [row["step"] for row in rows] == list(range(1, 81))


def test_a_loop_by_hand_gives_the_same(tmp_path, params):
    """One step of the loop spelled out: rows, clipping, schedule, decay."""
    result = run(
        tmp_path,
        config=NO_DROPOUT,
        steps=2,
        warmup_steps=1,
        max_norm=0.01,
        weight_decay=0.3,
        dtype="float64",
        options={"params": params},
    )
    w = {key: value.copy() for key, value in params.items()}
    m = {key: np.zeros_like(value) for key, value in params.items()}
    v = {key: np.zeros_like(value) for key, value in params.items()}
    for step in range(2):
        batch = as_batch(ROWS[batch_rows(13, 5, step, 0)])
        grads = loss_and_grads(w, NO_DROPOUT, [batch]).grads
        norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
        assert norm > 0.01
        lr = cosine_lr(step, peak_lr=0.01, min_lr=0.001, warmup_steps=1, total_steps=2)
        for key, g in grads.items():
            g = g * 0.01 / (norm + 1e-6)
            m[key] = 0.9 * m[key] + 0.1 * g
            v[key] = 0.95 * v[key] + 0.05 * g**2
            decay = 0.3 if w[key].ndim == 2 else 0.0
            m_hat, v_hat = m[key] / (1 - 0.9 ** (step + 1)), v[key] / (1 - 0.95 ** (step + 1))
            w[key] = w[key] * (1 - lr * decay) - lr * m_hat / (np.sqrt(v_hat) + 1e-8)
    for key in params:
        np.testing.assert_allclose(result[key], w[key], rtol=1e-9, atol=1e-12)


def test_the_given_parameters_are_not_changed(tmp_path):
    start = init_params(CONFIG, np.random.default_rng(5))
    before = {key: w.copy() for key, w in start.items()}
    result = run(tmp_path, options={"params": start})
    for key in start:
        np.testing.assert_array_equal(start[key], before[key])
    assert any((result[key] != start[key]).any() for key in start)


def test_the_checkpoint_opens_like_any_other(tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            (folder / "tokenizer.json").write_text("{}", encoding="utf-8")

    result = run(tmp_path, options={"tokenizer": Tokenizer()})
    config, loaded = load_checkpoint(tmp_path / "checkpoint")
    assert config.to_dict().items() >= CONFIG.to_dict().items()
    assert (tmp_path / "checkpoint" / "tokenizer.json").exists()
    for key in result:
        np.testing.assert_array_equal(loaded[key], result[key])
        assert loaded[key].dtype == np.float32  # no float64 anywhere on the way


def test_metrics_say_what_happened(tmp_path):
    run(tmp_path)
    rows = [
        json.loads(line)
        for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "validation_loss" in row] == [0, 3, 6]
    for row in rows:
        if "loss" in row:
            assert row["lr"] == cosine_lr(
                row["step"] - 1, peak_lr=0.01, min_lr=0.001, warmup_steps=2, total_steps=6
            )
            assert row["tokens"] == 25
            assert row["tokens_per_second"] == pytest.approx(25 / row["seconds"])
            assert row["grad_norm"] > 0


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_the_last_complete_step(tmp_path, monkeypatch, at, how):
    real = module.loss_and_grads

    def interrupted(*args, seed, **options):
        if seed[-1] == at:
            signal.raise_signal(signal.SIGINT if how is KeyboardInterrupt else signal.SIGTERM)
        return real(*args, seed=seed, **options)

    monkeypatch.setattr(module, "loss_and_grads", interrupted)
    with pytest.raises(how) as stopped:
        run(tmp_path / "run")
    if how is SystemExit:
        assert stopped.value.code == 143
    load_checkpoint(tmp_path / "run" / "checkpoint")
    assert load_run(tmp_path / "run", "float32")[1]["step"] == at
    assert metrics(tmp_path / "run")[-1]["step"] == at

    monkeypatch.undo()
    run(tmp_path / "run")
    run(tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_an_interrupt_within_the_update_waits_for_its_end(tmp_path, monkeypatch):
    real = update.adamw_step

    def interrupted(params, grads, state, **options):
        if state["step"] == 2:
            signal.raise_signal(signal.SIGINT)
        real(params, grads, state, **options)

    monkeypatch.setattr(update, "adamw_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert load_run(tmp_path / "run", "float32")[1]["step"] == 3
    monkeypatch.undo()
    run(tmp_path / "run")
    run(tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_signals_are_given_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(tmp_path)
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_finished_run_is_not_repeated_and_can_be_made_longer(tmp_path, monkeypatch):
    run(tmp_path)
    before = metrics(tmp_path)
    monkeypatch.setattr(module, "train_step", None)
    run(tmp_path)
    assert metrics(tmp_path) == before
    monkeypatch.undo()
    run(tmp_path, steps=9)
    rows = metrics(tmp_path)
    assert rows[:-5] == before[:-1]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 10))
    assert [row["step"] for row in rows if "validation_loss" in row] == [0, 3, 6, 9]


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    real = module.loss_and_grads

    def broken(*args, seed, **options):
        found = real(*args, seed=seed, **options)
        return found._replace(loss=math.nan) if seed[-1] == 3 else found

    monkeypatch.setattr(module, "loss_and_grads", broken)
    with pytest.raises(
        FloatingPointError, match="the loss of step 4 is nan; the last checkpoint, of step 2"
    ):
        run(tmp_path)
    assert load_run(tmp_path, "float32")[1]["step"] == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_stops_too(tmp_path, monkeypatch, bad):
    real = module.evaluate

    def broken(*args):
        found = real(*args)
        late = (tmp_path / "run" / "metrics.jsonl").stat().st_size > 200
        return found._replace(loss=bad) if late else found

    monkeypatch.setattr(module, "evaluate", broken)
    message = f"the validation loss of step 3 is {bad}; the last checkpoint, of step 2, is in"
    with pytest.raises(FloatingPointError, match=message):
        run(tmp_path / "run")
    assert load_run(tmp_path / "run", "float32")[1]["step"] == 2
    monkeypatch.undo()
    run(tmp_path / "run")
    run(tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_gradient_that_is_not_finite_is_named(tmp_path, monkeypatch):
    real = module.loss_and_grads

    def broken(*args, seed, **options):
        found = real(*args, seed=seed, **options)
        found.grads["model.norm.weight"][0] = np.inf
        return found

    monkeypatch.setattr(module, "loss_and_grads", broken)
    message = r"step 1, loss 2\.\d+: gradients with NaN or infinity: model\.norm\.weight; the last"
    with pytest.raises(FloatingPointError, match=message):
        run(tmp_path)


def test_validation_rows_can_be_held_out(tmp_path, monkeypatch):
    seen = []
    real = module.evaluate
    monkeypatch.setattr(
        module, "evaluate", lambda p, c, rows, *rest: seen.append(rows) or real(p, c, rows, *rest)
    )
    chosen = []
    monkeypatch.setattr(
        module, "batch_rows", lambda n, *rest: chosen.append(n) or batch_rows(n, *rest)
    )
    run(tmp_path, validation=None, validation_share=0.2)
    assert set(chosen) == {10}
    for rows in seen:
        np.testing.assert_array_equal(rows, ROWS[10:])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": ROWS[:, :5]}, ValueError, r"rows must have shape \(n, context_length \+ 1 = 6\)"),
        ({"rows": ROWS[:0]}, ValueError, r"got \(0, 6\)"),
        ({"rows": ROWS + 1}, ValueError, r"rows holds ids from 1 to 11, config.vocab_size is 11"),
        ({"rows": ROWS - 1}, ValueError, r"rows holds ids from -1"),
        ({"rows": ROWS / 1}, TypeError, "rows must be integer ids, got dtype float64"),
        ({"validation": VALIDATION + 1}, ValueError, "validation_rows holds ids"),
        ({"steps": 0}, ValueError, "steps must be a whole number, at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'minqwen\[run\]'"):
        run(tmp_path / "run", options={"plot": True})
    assert not (tmp_path / "run").exists()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    run(tmp_path / "run")  # neither plot nor bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(tmp_path, monkeypatch, capsys):
    run(tmp_path / "lines", options={"progress": True})
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].startswith("step 0: validation loss 2.4")
    assert any(line.startswith("step 6/6: loss 2.") for line in lines)
    run(tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    run(tmp_path / "bar", options={"progress": True})
    assert "6/6" in screen.getvalue()
    assert "step 3: validation loss" in screen.getvalue()


def test_the_plot_is_a_picture(tmp_path):
    run(tmp_path, options={"plot": True})
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "loss.tmp.png").exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match=r"cannot use .*file as the folder of a run"):
        run(tmp_path / "file")


def test_runs_on_the_device(tmp_path, monkeypatch):
    run(tmp_path / "host")
    install(monkeypatch)
    run(tmp_path / "device", options={"device": "cuda"})
    assert_same_run(tmp_path / "device", tmp_path / "host")


EXPERTS = dataclasses.replace(
    CONFIG,
    model_type="qwen2_moe",
    num_hidden_layers=2,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=6,
    shared_expert_intermediate_size=6,
    router_aux_loss_coef=0.01,
)


def test_a_mixture_of_experts_notes_how_its_experts_are_used(tmp_path):
    run(tmp_path, config=EXPERTS)
    rows = metrics(tmp_path)
    steps = [row for row in rows if "loss" in row]
    assert len(steps) == 6
    for row in steps:
        assert 1.5 < row["aux_loss"] < 4  # K = 2 when even, E at most
        assert 1 <= row["max_load"] <= 2  # E / K at most
    looks = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in looks] == [0, 3, 6]
    for row in looks:
        load = np.array(row["expert_load"])
        assert load.shape == (2, 4)
        np.testing.assert_allclose(load.sum(axis=1), 1, atol=1e-4)


def test_a_dense_run_notes_nothing_of_the_kind(tmp_path):
    run(tmp_path)
    assert not any({"aux_loss", "max_load", "expert_load"} & set(row) for row in metrics(tmp_path))


@pytest.mark.parametrize("settings", [{}, {"router_loss_pooled": True, "z_loss_coef": 0.1}])
def test_a_resumed_mixture_of_experts_is_the_same_run(tmp_path, monkeypatch, settings):
    run(tmp_path / "whole", config=EXPERTS, **settings)
    real = module.loss_and_grads

    def interrupted(*args, seed, **options):
        if seed[-1] == 3:
            raise KeyboardInterrupt
        return real(*args, seed=seed, **options)

    monkeypatch.setattr(module, "loss_and_grads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halves", config=EXPERTS, **settings)
    monkeypatch.undo()
    run(tmp_path / "halves", config=EXPERTS, **settings)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    with pytest.raises(ValueError, match=r"settings\.z_loss_coef = .*, not 0\.7"):
        run(tmp_path / "whole", config=EXPERTS, **{**settings, "z_loss_coef": 0.7})


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """Its training.json knows nothing of settings that came later."""
    run(tmp_path)
    file = tmp_path / "checkpoint" / "training.json"
    training = json.loads(file.read_text(encoding="utf-8"))
    for name in ("z_loss_coef", "router_loss_pooled"):
        del training["settings"][name]
    file.write_text(json.dumps(training), encoding="utf-8")
    run(tmp_path, steps=7)
    assert metrics(tmp_path)[-1]["step"] == 7
    with pytest.raises(ValueError, match="router_loss_pooled = False, not True"):
        run(tmp_path, steps=7, router_loss_pooled=True)


def test_the_settings_of_the_router_losses_change_the_run(tmp_path):
    last = []
    for i, (coef, settings) in enumerate(
        ((0.01, {}), (0.5, {}), (0.01, {"router_loss_pooled": True}), (0.01, {"z_loss_coef": 1.0}))
    ):
        config = dataclasses.replace(EXPERTS, router_aux_loss_coef=coef)
        params = run(tmp_path / str(i), config=config, **settings)
        last.append(params["model.layers.0.mlp.gate.weight"])
    for i in range(1, 4):
        assert np.abs(last[i] - last[0]).max() > 1e-5

"""Whole runs in mixed precision: masters, skipped steps, resuming, threads, ranks, metrics."""

import dataclasses
import json
import math
from functools import partial

import numpy as np
import pytest
from helpers.fake_device import install
from helpers.thread_ranks import run_ranks
from training.small_run import CONFIG, ROWS, assert_same_run, metrics, run
from training.test_data_parallel import pieces_of_rows, shared
from training.test_pretrain import EXPERTS

from minqwen.data.packing import batch_rows
from minqwen.model.init import init_params
from minqwen.training import pretrain as module
from minqwen.training.accumulate import as_batch, loss_and_grads
from minqwen.training.adamw import adamw_init
from minqwen.training.grad_clip import clip_grad_norm
from minqwen.training.loss_scaling import LossScale, all_finite, next_loss_scale
from minqwen.training.mixed_precision import half_params, mixed_loss_and_grads, round_to_bfloat16
from minqwen.training.resume import load_run, read_loss_scale
from minqwen.training.settings import PretrainSettings
from minqwen.training.update import apply_adamw, scheduled_lr

pytest.importorskip("ml_dtypes")
NO_DROPOUT = dataclasses.replace(CONFIG, dropout=0.0)
PRECISIONS = ("float32", "bfloat16", "float16")
HIGH = 2.0**24  # the gradients of the small models overflow float16 from about 2^17 on


def start_at(monkeypatch, scale):
    """Let runs begin with another loss scale than 2^16."""
    monkeypatch.setattr(module, "LossScale", partial(LossScale, scale))


def steps_in(folder):
    return [row for row in metrics(folder) if "tokens" in row]


def interrupt_at(monkeypatch, step):
    """Stop the next run before this step is computed."""
    real = module.loss_and_grads

    def interrupted(*args, seed, **options):
        if seed[-1] == step:
            raise KeyboardInterrupt
        return real(*args, seed=seed, **options)

    monkeypatch.setattr(module, "loss_and_grads", interrupted)


def overflow_at(monkeypatch, *steps):
    """Put an infinity into the gradient of these steps; the first is 0."""
    real = module.loss_and_grads

    def overflows(*args, seed, **options):
        found = real(*args, seed=seed, **options)
        if seed[-1] in steps:
            found.grads["model.norm.weight"][2] = np.inf
        return found

    monkeypatch.setattr(module, "loss_and_grads", overflows)


# --- the same run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a maker of uninterrupted runs, which makes one of a kind and returns its folder."""
    made = {}

    def folder(**options):
        kind = repr(options)
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("whole")
            run(made[kind], **options)
        return made[kind]

    return folder


@pytest.mark.parametrize("config", [CONFIG, EXPERTS], ids=["dense", "moe"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("at", [1, 3, 6, 7, 8])
def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path, monkeypatch, whole, config, precision, at
):
    """In float16 it begins with overflows, and later the scale is raised twice."""
    start_at(monkeypatch, 2.0**20)
    options = {"config": config, "precision": precision, "steps": 9, "loss_scale_interval": 2}
    uninterrupted = whole(**options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, at)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", **options)
    assert [row["step"] for row in steps_in(tmp_path / "parts")] == list(range(1, at + 1))
    run(tmp_path / "parts", **options)
    assert_same_run(tmp_path / "parts", uninterrupted)
    if precision == "float16":
        scales = [row["loss_scale"] for row in steps_in(uninterrupted)]
        changes = np.diff(np.log2(scales)).tolist()
        assert changes[0] == -1
        assert changes.count(1) >= 1
        one, two = (read_loss_scale(f / "checkpoint") for f in (uninterrupted, tmp_path / "parts"))
        assert one == two
        assert one.skipped == steps_in(uninterrupted)[-1]["skipped"] >= 2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_is_the_loop_of_the_study(tmp_path, monkeypatch, precision):
    """The study's own functions, one after another, give the bits of the command's run."""
    start_at(monkeypatch, HIGH)
    settings = PretrainSettings(
        steps=12, batch_size=5, context_length=5, peak_lr=0.01, warmup_steps=2, precision=precision
    )
    start = init_params(NO_DROPOUT, np.random.default_rng(9))
    options = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    result = run(tmp_path, config=NO_DROPOUT, options={"params": start}, **options)

    params = {key: w.copy() for key, w in start.items()}
    state, scale = adamw_init(params), LossScale(HIGH if precision == "float16" else 1.0)
    for step in range(12):
        batch = as_batch(ROWS[batch_rows(13, 5, step, 0)])
        _, grads = mixed_loss_and_grads(params, NO_DROPOUT, batch, precision, scale.scale)
        finite = all_finite(grads)
        if finite:
            grads, _ = clip_grad_norm(grads, 1.0)
            apply_adamw(params, grads, state, settings, scheduled_lr(step, settings))
        if precision == "float16":
            scale = next_loss_scale(scale, finite)
    for key, w in params.items():
        np.testing.assert_array_equal(result[key], w)
    if precision == "float16":
        assert read_loss_scale(tmp_path / "checkpoint") == scale
        assert 0 < scale.skipped < 12


@pytest.mark.parametrize("config", [CONFIG, EXPERTS], ids=["dense", "moe"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_change_no_bit(tmp_path, monkeypatch, config, precision):
    start_at(monkeypatch, HIGH)
    for threads in (1, 3):
        options = {"options": {"threads": threads}, "accumulate": 4, "steps": 9}
        run(tmp_path / str(threads), config=config, precision=precision, **options)
    assert_same_run(tmp_path / "1", tmp_path / "3")
    skipped = [row.get("skipped", 0) for row in steps_in(tmp_path / "3")]
    assert (skipped[-1] > 0) == (precision == "float16")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_runs_on_the_device(tmp_path, monkeypatch, precision):
    run(tmp_path / "host", precision=precision)
    install(monkeypatch)
    run(tmp_path / "device", precision=precision, options={"device": "cuda"})
    assert_same_run(tmp_path / "device", tmp_path / "host")


# --- what is rounded ---------------------------------------------------------------------------


def test_masters_and_moments_stay_float32(tmp_path):
    finished = {}
    for precision in PRECISIONS:
        finished[precision] = run(tmp_path / precision, config=NO_DROPOUT, precision=precision)
        params, state, _ = load_run(tmp_path / precision, "float32")
        for group in (finished[precision], params, state["m"], state["v"]):
            assert {w.dtype for w in group.values()} == {np.dtype(np.float32)}
        key = "model.layers.0.mlp.up_proj.weight"
        for w in (params[key], state["m"][key]):  # not on the grid of 16 bits
            assert (round_to_bfloat16(w) != w).mean() > 0.9
            assert (w.astype(np.float16).astype(np.float32) != w).mean() > 0.9
    losses = {p: [row["loss"] for row in steps_in(tmp_path / p)] for p in PRECISIONS}
    for precision in ("bfloat16", "float16"):
        np.testing.assert_allclose(losses[precision], losses["float32"], atol=0.02)
        assert losses[precision] != losses["float32"]  # so something was rounded
    assert losses["bfloat16"] != losses["float16"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_forward_and_backward_see_that_precision(tmp_path, monkeypatch, precision):
    """In training and in the looks at held-out rows; float32 is handed on without a copy."""
    seen = []
    for name in ("loss_and_grads", "evaluate"):
        real = getattr(module, name)

        def spy(params, *args, name=name, real=real, **options):
            seen.append((name, params))
            return real(params, *args, **options)

        monkeypatch.setattr(module, name, spy)
    result = run(tmp_path, precision=precision)
    assert {name for name, _ in seen} == {"loss_and_grads", "evaluate"}
    for _, params in seen:
        assert {w.dtype.name for w in params.values()} == {precision}
        assert (params is result) == (precision == "float32")


@pytest.mark.parametrize("config", [NO_DROPOUT, EXPERTS], ids=["dense", "moe"])
@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.2), ("float16", 0.03)])
def test_pieces_are_added_in_float32(config, precision, bound):
    """The scale comes out again, also of the losses on the routers, before pieces are added."""
    config = dataclasses.replace(config, dropout=0.0, router_aux_loss_coef=1.0)
    params, pieces = init_params(config, np.random.default_rng(3)), pieces_of_rows(5)
    options = {"z_loss_coef": 0.5} if config.num_experts else {}
    exact = loss_and_grads(params, config, pieces, **options)
    half = half_params(params, precision)
    found = loss_and_grads(half, config, pieces, loss_scale=1024.0, **options)
    assert found.loss == pytest.approx(exact.loss, abs=0.01)
    for key, g in exact.grads.items():
        assert found.grads[key].dtype == np.float32
        error = np.abs(found.grads[key] - g).max() / np.abs(g).max()
        assert error < bound, key
    g = found.grads["model.layers.0.mlp.shared_expert_gate.weight" if options else
                    "model.layers.0.mlp.up_proj.weight"]  # fmt: skip
    assert (round_to_bfloat16(g) != g).any()  # a sum of five: on no grid of 16 bits
    assert (g.astype(np.float16).astype(np.float32) != g).any()


# --- skipped steps -----------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, EXPERTS], ids=["dense", "moe"])
def test_an_overflow_changes_nothing_but_the_scale(tmp_path, monkeypatch, config):
    options = {"config": config, "precision": "float16", "checkpoint_every": 1}
    overflow_at(monkeypatch, 2)
    interrupt_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **options)
    before = load_run(tmp_path, "float32")
    monkeypatch.undo()
    overflow_at(monkeypatch, 2)
    interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **options)
    after = load_run(tmp_path, "float32")
    assert before[1]["step"] == after[1]["step"] == 2
    for one, two in ((before[0], after[0]), *((before[1][m], after[1][m]) for m in "mv")):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])
    assert read_loss_scale(tmp_path / "checkpoint") == LossScale(2.0**15, 0, 1)

    monkeypatch.undo()
    run(tmp_path, **options)
    assert load_run(tmp_path, "float32")[1]["step"] == 5  # of 6 steps
    rows = steps_in(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["skipped"] for row in rows] == [0, 0, 1, 1, 1, 1]
    assert [row["loss_scale"] for row in rows] == [2.0**16] * 3 + [2.0**15] * 3
    assert ["grad_norm" in row for row in rows] == [True, True, False, True, True, True]
    assert all("loss" in row for row in rows)  # the way forward did not overflow


def test_a_skipped_step_has_used_its_rows_and_its_rate(tmp_path, monkeypatch):
    """What follows is the run of the other steps: their rows, their rates, AdamW's own count."""
    overflow_at(monkeypatch, 1)
    settings = {"config": NO_DROPOUT, "precision": "float16", "accumulate": 1, "steps": 4}
    start = init_params(NO_DROPOUT, np.random.default_rng(9))
    result = run(tmp_path, options={"params": start}, **settings)
    s = PretrainSettings(steps=4, batch_size=5, peak_lr=0.01, warmup_steps=2)
    params, state = {key: w.copy() for key, w in start.items()}, adamw_init(start)
    for step, scale in ((0, 2.0**16), (2, 2.0**15), (3, 2.0**15)):
        batch = as_batch(ROWS[batch_rows(13, 5, step, 0)])
        _, grads = mixed_loss_and_grads(params, NO_DROPOUT, batch, "float16", scale)
        apply_adamw(params, clip_grad_norm(grads, 1.0)[0], state, s, scheduled_lr(step, s))
    for key, w in params.items():
        np.testing.assert_array_equal(result[key], w)


def test_a_loss_that_is_not_finite_is_skipped_too_and_not_written(tmp_path, monkeypatch):
    real = module.loss_and_grads

    def broken(*args, seed, **options):
        found = real(*args, seed=seed, **options)
        bad = {"loss": math.inf, "aux_loss": math.nan}
        return found._replace(**bad) if seed[-1] == 3 else found

    monkeypatch.setattr(module, "loss_and_grads", broken)
    run(tmp_path, config=EXPERTS, precision="float16")
    row = steps_in(tmp_path)[3]
    assert row.keys() == {"step", "lr", "tokens", "max_load", "loss_scale", "skipped"}
    assert steps_in(tmp_path)[-1]["skipped"] == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_float16_has_a_scale(tmp_path, monkeypatch, precision):
    run(tmp_path / "run", precision=precision)
    assert not {"loss_scale", "skipped"} & {
        name for row in metrics(tmp_path / "run") for name in row
    }
    assert not (tmp_path / "run" / "checkpoint" / "loss_scale.json").exists()
    overflow_at(monkeypatch, 3)
    with pytest.raises(FloatingPointError, match=r"step 4, loss .*: gradients with NaN or infin"):
        run(tmp_path / "bad", precision=precision)


def test_the_scale_grows_after_the_interval_and_falls_at_an_overflow(tmp_path, monkeypatch):
    start_at(monkeypatch, 8.0)
    overflow_at(monkeypatch, 4)
    run(tmp_path, precision="float16", steps=9, loss_scale_interval=3)
    scales = [row["loss_scale"] for row in steps_in(tmp_path)]
    assert scales == [8, 8, 8, 16, 16, 8, 8, 8, 16]
    assert read_loss_scale(tmp_path / "checkpoint") == LossScale(16.0, 1, 1)


def test_an_overflow_that_no_scale_mends_ends_the_run(tmp_path, monkeypatch):
    """2^16 is halved 16 times; the next time it says so, and nothing has been learned since."""
    overflow_at(monkeypatch, *range(2, 99))
    told = (
        r"step 19: gradients are not finite with a loss scale of 1: this is no overflow that a "
        r"smaller scale would mend; the last checkpoint, of step 18, is in"
    )
    with pytest.raises(FloatingPointError, match=told):
        run(tmp_path, precision="float16", steps=40)
    assert load_run(tmp_path, "float32")[1]["step"] == 2
    assert read_loss_scale(tmp_path / "checkpoint") == LossScale(1.0, 0, 16)
    last = steps_in(tmp_path)[-1]
    assert (last["step"], last["skipped"]) == (18, 16)


def test_a_skipped_step_is_told(tmp_path, monkeypatch, capsys):
    overflow_at(monkeypatch, 1)
    run(tmp_path, precision="float16", options={"progress": True})
    lines = capsys.readouterr().err.splitlines()
    assert "step 2: overflow at a loss scale of 65536, no update" in lines
    assert sum("overflow" in line for line in lines) == 1


# --- several processes -------------------------------------------------------------------------


def run_shared(folder, size, **settings):
    def work(communicator):
        return run(folder, options={"communicator": communicator}, **settings)

    return run_ranks(size, work)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize(("config", "size"), [(NO_DROPOUT, 2), (CONFIG, 2), (EXPERTS, 3)])
def test_ranks_make_the_run_of_one(tmp_path, monkeypatch, precision, config, size):
    """The first steps overflow in all; the sums are in another order, so nearly the same."""
    start_at(monkeypatch, HIGH)
    settings = {"config": config, "precision": precision, "accumulate": 4, "steps": 10}
    run(tmp_path / "one", **settings)
    results, _ = run_shared(tmp_path / "many", size, **settings)
    for result in results:  # the same masters in all
        for key, w in results[0].items():
            np.testing.assert_array_equal(result[key], w)
    one, many = steps_in(tmp_path / "one"), steps_in(tmp_path / "many")
    assert [row.keys() for row in one] == [row.keys() for row in many]
    for row, other in zip(one, many, strict=True):
        assert row.get("skipped") == other.get("skipped")
        assert row.get("loss_scale") == other.get("loss_scale")
        assert other["loss"] == pytest.approx(row["loss"], abs=1e-3)
    assert (one[-1].get("skipped", 0) > 0) == (precision == "float16")
    names = [sorted(p.name for p in (tmp_path / f).rglob("*")) for f in ("one", "many")]
    assert names[0] == names[1]


@pytest.mark.parametrize("who", [0, 1])
def test_where_one_rank_sees_an_overflow_all_skip(tmp_path, monkeypatch, who):
    """Even if the others' sums were finite; without that they would drift apart."""
    real = module.data_parallel_loss_and_grads

    def overflows(*args, **options):
        found = real(*args, **options)
        if args[3].rank == who and args[4][-1] == 2:
            found.grads["model.norm.weight"][0] = np.inf
        return found

    monkeypatch.setattr(module, "data_parallel_loss_and_grads", overflows)
    settings = {"config": NO_DROPOUT, "precision": "float16", "checkpoint_every": 1}
    results, _ = run_shared(tmp_path, 2, **settings)
    assert not [r for r in results if isinstance(r, BaseException)]
    for key, w in results[0].items():
        np.testing.assert_array_equal(results[1][key], w)
    assert [row["skipped"] for row in steps_in(tmp_path)] == [0, 0, 1, 1, 1, 1]


def test_a_run_that_no_scale_mends_ends_in_all_ranks(tmp_path):
    params = init_params(NO_DROPOUT, np.random.default_rng(3))
    params["model.norm.weight"][0] = np.nan
    settings = {"config": NO_DROPOUT, "precision": "float16", "steps": 40, "validation": None}

    def work(communicator):
        options = {"communicator": communicator, "params": params}
        return run(tmp_path, options=options, **settings)

    results, _ = run_ranks(2, work)
    assert type(results[0]) is FloatingPointError
    assert "step 17: gradients are not finite with a loss scale of 1" in str(results[0])
    assert type(results[1]) is SystemExit
    assert results[1].code == 0


def test_a_rank_without_a_counted_token_sends_float32_too():
    params, (piece, *_) = init_params(NO_DROPOUT, np.random.default_rng(3)), pieces_of_rows(1)
    nothing = piece._replace(labels=np.full_like(piece.labels, -100))
    half = half_params(params, "float16")
    one = loss_and_grads(half, NO_DROPOUT, [piece], loss_scale=256.0)
    results, _ = shared(half, NO_DROPOUT, [nothing, piece], 2, loss_scale=256.0)
    for found in results:
        for key, g in one.grads.items():
            assert found.grads[key].dtype == np.float32
            np.testing.assert_array_equal(found.grads[key], g)


# --- checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize("before", PRECISIONS)
@pytest.mark.parametrize("now", PRECISIONS)
def test_another_precision_is_another_run(tmp_path, before, now):
    run(tmp_path, precision=before, steps=3)
    if before == now:
        run(tmp_path, precision=now, steps=4)
        return
    with pytest.raises(ValueError, match=f"settings.precision = '{before}', not '{now}': use the"):
        run(tmp_path, precision=now, steps=3)


def test_a_run_from_before_there_were_precisions_goes_on_in_float32(tmp_path):
    run(tmp_path, steps=3)
    file = tmp_path / "checkpoint" / "training.json"
    training = json.loads(file.read_text("utf-8"))
    for name in ("precision", "loss_scale_interval"):
        del training["settings"][name]
    file.write_text(json.dumps(training), "utf-8")
    with pytest.raises(ValueError, match="precision = 'float32', not 'bfloat16'"):
        run(tmp_path, steps=3, precision="bfloat16")
    run(tmp_path, steps=4)
    assert metrics(tmp_path)[-1]["step"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[1.0]", "it holds no JSON object"),
        ("{}", "missing or wrong good_steps, scale, skipped"),
        ('{"scale": 0.0, "good_steps": 1, "skipped": 0}', "missing or wrong scale"),
        ('{"scale": Infinity, "good_steps": 1, "skipped": 0}', "missing or wrong scale"),
        ('{"scale": 2.0, "good_steps": -1, "skipped": 0}', "missing or wrong good_steps"),
        ('{"scale": 2.0, "good_steps": 1, "skipped": true}', "missing or wrong skipped"),
    ],
)
def test_a_damaged_scale_is_named(tmp_path, text, message):
    run(tmp_path, precision="float16", steps=3)
    path = tmp_path / "checkpoint" / "loss_scale.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message) as error:
        run(tmp_path, precision="float16", steps=4)
    assert str(error.value).startswith(f"{path} is corrupt or cut off: ")
    path.unlink()
    with pytest.raises(ValueError, match=r"in float16, it has no loss_scale\.json"):
        run(tmp_path, precision="float16", steps=4)


def test_bfloat16_without_its_package_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"ml_dtypes is missing: pip install 'minqwen\[hf\]'"):
        run(tmp_path / "run", precision="bfloat16")
    assert not (tmp_path / "run").exists()
    run(tmp_path / "run", precision="float16")  # NumPy has it

"""The study of precision: rounded tables, the task far back, what is counted, and verdicts."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.commands import error_of

from minqwen.lab import precision_report, precision_study
from minqwen.lab.findings import AGREES, DISAGREES, UNDECIDED
from minqwen.lab.precision_rope import (
    DISTANCES,
    FAR,
    ROUNDED,
    angle_errors,
    far_tables,
    forward_with,
    neighbours_apart,
    rounded_tables,
    score_left,
    share_right,
    task,
    text_at,
    train_far,
)
from minqwen.lab.precision_study import ARMS, QUICK, SCALES, PrecisionSettings
from minqwen.lab.results import Results
from minqwen.layers.cross_entropy import (
    IGNORED,
    cross_entropy_backward,
    cross_entropy_forward,
)
from minqwen.layers.rope import rope_inv_freq, rope_tables
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.model.language_model import language_model_backward, language_model_forward
from minqwen.training.loss_scaling import LossScale

ml_dtypes = pytest.importorskip("ml_dtypes")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")

TINY = replace(QUICK, base_steps=4, base_context=16, far_steps=3, far_tokens=3, growth_interval=2)


def small_model(tied=True):
    config = QwenConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    rng = np.random.default_rng(0)
    params = init_params(config, rng)
    for key, w in params.items():  # sharp enough that attention is not nearly even
        params[key] = w if key.endswith("norm.weight") else 8 * w
    return config, params, rng.integers(0, 31, (3, 9))


def half(x):
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


# --- RoPE --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_with_given_tables_is_the_model(tied):
    config, params, ids = small_model(tied)
    tables = rounded_tables(np.arange(9), config.head_dim, config.rope_theta)
    logits, cache = forward_with(params, config, ids, tables)
    expected, their_cache = language_model_forward(params, config, ids)
    np.testing.assert_array_equal(logits, expected)
    dlogits = np.random.default_rng(1).standard_normal(logits.shape).astype(np.float32)
    ours, theirs = (language_model_backward(dlogits, c) for c in (cache, their_cache))
    assert ours.keys() == theirs.keys()
    for key, g in theirs.items():
        np.testing.assert_array_equal(ours[key], g)


def test_one_part_of_the_table_is_rounded():
    positions, freq = np.array([3, 700, 30_001]), rope_inv_freq(16)
    p = positions.astype(np.float32)[:, None]
    angles = {
        "nothing": p * freq,
        "tables": p * freq,
        "frequencies": p * half(freq),
        "positions": half(p) * freq,
        "angles": half(p * freq),
    }
    for what, angle in angles.items():
        tables = rounded_tables(positions, 16, rounded=what)
        ends = half if what == "tables" else np.asarray
        for found, function in ((tables.cos, np.cos), (tables.sin, np.sin)):
            assert found.dtype == np.float32
            expected = ends(function(np.concatenate((angle, angle), axis=1)))
            np.testing.assert_array_equal(found, expected)
    cos, sin = rope_tables(positions, freq)
    exact = rounded_tables(positions, 16)
    np.testing.assert_array_equal(exact.cos, cos)
    np.testing.assert_array_equal(exact.sin, sin)
    with pytest.raises(ValueError, match="rounded must be one of nothing, tables"):
        rounded_tables(positions, 16, rounded="all")


def test_only_distances_count_unless_positions_or_angles_are_rounded():
    config, params, rows = small_model()
    near = text_at(params, config, rows, 0, "nothing")
    moved = {what: abs(text_at(params, config, rows, FAR, what) - near) for what in ROUNDED}
    assert moved["nothing"] < 1e-3
    assert moved["frequencies"] < 1e-3
    assert min(moved["positions"], moved["angles"]) > 0.02


def test_angles_at_a_distance():
    freq = rope_inv_freq(128, dtype="float64")
    np.testing.assert_allclose(angle_errors(30_000, "positions"), -48 * freq)  # 29,952 is the next
    off = angle_errors(30_000, "frequencies")
    np.testing.assert_allclose(off, 30_000 * (half(freq) - freq))
    assert off[0] == 0  # 1.0 is a bfloat16
    assert 30 < np.abs(off).max() < 30_000 * 2**-8
    np.testing.assert_allclose(angle_errors(3000, "frequencies"), off / 10)
    assert (angle_errors(30_000, "nothing") == 0).all()


def test_scores_and_neighbours():
    assert score_left(100, "frequencies") > 0.99
    assert score_left(FAR, "frequencies") < 0.7
    assert score_left(FAR, "frequencies") == pytest.approx(
        np.cos(angle_errors(FAR, "frequencies")).mean()
    )
    assert neighbours_apart(FAR, "nothing") == 1.0
    assert neighbours_apart(FAR, "angles") == 0.0
    assert neighbours_apart(255, "positions") == 1.0  # up to 256 every number exists


def test_the_task_asks_for_the_token_a_distance_back():
    ids, labels = task(4, 3, np.random.default_rng(2))
    positions = np.concatenate((np.arange(3), 500 + np.arange(3)))
    for row, answer in zip(ids, labels, strict=True):
        by_position = dict(zip(positions.tolist(), row.tolist(), strict=True))
        for p, label in zip(positions.tolist(), answer.tolist(), strict=True):
            assert label == by_position.get(p - 500, IGNORED)
    config, _, _ = small_model()
    expected = rounded_tables(positions, config.head_dim, config.rope_theta)
    np.testing.assert_array_equal(far_tables(500, 3, config, "nothing").cos, expected.cos)


def test_a_model_learns_to_look_back_and_needs_its_table():
    model = train_far(4000, 60, 4, seed=0, rounded="nothing")
    assert share_right(*model, 4000, 4, "nothing") > 0.9
    assert share_right(*model, 4000, 4, "angles") < 0.6
    fresh = train_far(4000, 1, 4, seed=0, rounded="nothing")
    assert share_right(*fresh, 4000, 4, "nothing") < 0.2


# --- training ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    return precision_study.prepare(TINY)


def test_arms(data):
    found = {name: precision_study.train(arm, TINY, data, 0) for name, arm in ARMS.items()}
    for name, (params, cell) in found.items():
        wide = "bfloat16" if name == "bfloat16_weights" else "float32"
        assert {w.dtype.name for w in params.values()} == {wide}
        assert [step for step, _ in cell["curve"]] == [2, 4]
        assert bool(cell["scales"]) == (name == "float16_scaled")
        assert cell["skipped"] == 0
    loss = {name: cell["loss"] for name, (_, cell) in found.items()}
    assert 0 < abs(loss["bfloat16"] - loss["float32"]) < 0.01
    assert 0 < abs(loss["float16"] - loss["float32"]) < 0.01
    assert [log for _, log in found["float16_scaled"][1]["scales"]] == [16, 16, 17, 17]
    unmoved = {name: cell["unmoved"][-1][1] for name, (_, cell) in found.items()}
    assert unmoved["bfloat16_weights"] > 0.02 > unmoved["bfloat16"]


def test_an_overflow_skips_the_update_and_lowers_the_scale(data, monkeypatch):
    monkeypatch.setattr(precision_study, "LossScale", lambda x=2.0**40: LossScale(x))
    s = replace(TINY, looks=4)
    params, cell = precision_study.train(ARMS["float16_scaled"], s, data, 0)
    assert (cell["skipped"], cell["skipped_at"]) == (4, [1, 2, 3, 4])
    assert [log for _, log in cell["scales"]] == [40, 39, 38, 37]
    assert [share for _, share in cell["unmoved"]] == [1.0] * 4
    first = init_params(data.text.config, np.random.default_rng([8, 0]))
    told, cell = precision_study.train(ARMS["float32_skipping"], s, data, 0, [1, 2, 3, 4])
    assert cell["skipped_at"] == [1, 2, 3, 4]
    for key, w in first.items():
        np.testing.assert_array_equal(params[key], w)
        np.testing.assert_array_equal(told[key], w)


def test_gradients_lost(data):
    params = init_params(data.text.config, np.random.default_rng(0))
    found = precision_study.lost_gradients(params, TINY, data, 0)
    zero, bad = ({k: row[i] for k, *row in found["lost"]} for i in (0, 1))
    assert list(zero) == list(SCALES)
    assert zero[-22] > 0.9 > 0.01 > zero[10]
    assert bad[30] > 0.5 > bad[10] == bad[-22] == 0
    assert found["bfloat16"] < 0.001


def test_float16_keeps_the_pull_on_the_label_and_loses_the_push_on_the_others():
    """As the study says: a logit's gradient is zero where p is 1/8 or less."""
    logits = np.zeros((256, 12), np.float16)
    logits[:, 1] = np.log(4)  # p = 4/15 there, 1/15 elsewhere
    _, cache = cross_entropy_forward(logits, np.zeros(256, int))
    dlogits = cross_entropy_backward(2.0**-14, cache)
    assert (dlogits[:, 0] < 0).all()
    assert (dlogits[:, 1] > 0).all()
    assert (dlogits[:, 2:] == 0).all()


def test_a_loss_that_is_not_finite_can_be_written(data):
    params = init_params(data.text.config, np.random.default_rng(0))
    params["model.norm.weight"] = params["model.norm.weight"] * np.float32("inf")
    assert precision_study.held_out_loss(params, "float16", data) == precision_study.INFINITE


def test_the_share_of_a_batch_in_4m_tokens():
    assert PrecisionSettings().share == 2.0**-14
    with pytest.raises(ValueError, match="looks must be at most 5"):
        PrecisionSettings(base_steps=5)


# --- the whole ---------------------------------------------------------------------------------


def without_times(cells):
    return re.sub(r'"seconds": [\d.e-]+', '"seconds": 0', json.dumps(cells))


def run(folder, lines=None):
    lines = [] if lines is None else lines
    return precision_study.precision_study(folder, TINY, say=lines.append)


def test_writes_its_pages_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    results = run(tmp_path / "whole")
    pages = (tmp_path / "whole" / name for name in ("table.md", "index.html"))
    table, html = (page.read_text(encoding="utf-8") for page in pages)
    assert html.count("data:image/png") == 4
    for finding in precision_report.findings(results):
        assert finding.verdict == UNDECIDED  # one seed decides nothing
        assert finding.ours in table
    real, calls = precision_study.train, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    written = []  # the pages take longer than the training
    monkeypatch.setattr(precision_study, "write_report", lambda out, _: written.append(out))
    monkeypatch.setattr(precision_study, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    monkeypatch.setattr(precision_study, "train", real)
    assert without_times(run(tmp_path / "stopped").cells) == without_times(results.cells)

    def never(*args):
        raise AssertionError("done again")

    for name in ("train", "look_back", "prepare"):
        monkeypatch.setattr(precision_study, name, never)
    run(tmp_path / "whole")
    assert written == [tmp_path / "stopped", tmp_path / "whole"]


def test_refusals(tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "lab")
    message = error_of(capsys, "lab", "precision", "--out", out, "--device", "cuda")
    assert "lab precision runs on the cpu" in message
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="ml_dtypes is missing"):
        precision_study.precision_study(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


# --- verdicts ----------------------------------------------------------------------------------


def results_of(folder, seeds=3, **losses):
    """Return results with these losses, and good ones for the rest."""
    results = Results(folder, precision_study.KIND, precision_study.CELL)
    usual = {"float32": 1.0, "bfloat16": 1.001, "bfloat16_weights": 1.5,
             "float16_scaled": 1.002, "float32_skipping": 1.002, "float16": 1.0,
             "float16_share": 8.0}  # fmt: skip
    rounded = losses.pop("rounded", 0.3)
    for seed in range(seeds):
        for name, loss in (usual | losses).items():
            loss += 0.0005 * seed * (name != "float32")
            results.put(name, seed, {"loss": loss, "unmoved": [[1, 0.5]], "seconds": 0.0})
        for distance in DISTANCES:
            right = dict.fromkeys(ROUNDED, 1.0) | {"frequencies": rounded - 0.01 * seed}
            results.put(
                f"back_{distance}", seed,
                {"right": right, "trained": {"frequencies": 1.0}, "seconds": 0.0},
            )  # fmt: skip
    return results


@pytest.mark.parametrize(
    ("which", "changed", "verdict"),
    [
        (0, {}, AGREES),
        (0, {"bfloat16": 1.2}, DISAGREES),
        (0, {"bfloat16": 0.8}, DISAGREES),  # another loss, be it lower
        (0, {"seeds": 2}, UNDECIDED),
        (1, {}, AGREES),
        (1, {"bfloat16_weights": 0.9}, DISAGREES),
        (2, {}, AGREES),
        (2, {"float16_scaled": 1.1}, DISAGREES),
        (3, {}, AGREES),
        (3, {"float16_share": 0.9}, DISAGREES),
        (3, {"seeds": 2}, UNDECIDED),
        (4, {}, AGREES),
        (4, {"rounded": 1.5}, DISAGREES),
    ],
)
def test_verdicts(tmp_path, which, changed, verdict):
    assert precision_report.findings(results_of(tmp_path, **changed))[which].verdict == verdict

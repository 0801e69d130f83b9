"""The laboratory: what it writes, what it keeps, what it refuses, and what it concludes."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import error_of

from minqwen.cli import main
from minqwen.lab import long_context, settings
from minqwen.lab.findings import AGREES, DISAGREES, PARTLY, REPORT, UNDECIDED, findings
from minqwen.lab.long_context import long_context_lab, prepare_text
from minqwen.lab.measure import difference, measure, token_losses
from minqwen.lab.numbers import Gain, Numbers
from minqwen.lab.results import Results
from minqwen.lab.settings import MULTIPLES, LabSettings
from minqwen.lab.techniques import BY_NAME, techniques
from minqwen.model.init import init_params
from minqwen.training.accumulate import evaluate
from minqwen.training.metrics import Metrics

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")

TINY = LabSettings(
    train_length=16,
    hidden_size=16,
    num_hidden_layers=2,
    intermediate_size=24,
    vocab_size=280,
    text_bytes=1_000_000,
    steps=4,
    batch_size=4,
    warmup_steps=2,
    peak_lr=1e-2,
    texts=2,
)
ROWS = techniques(TINY.num_hidden_layers)
NAMES = {row.name for row in ROWS}
EXACT = (
    "ntk",
    "logn",
    "ntk_logn",
    "ntk_logn_window",
    "window",
    "lower_half",
    "all_layers",
    "layer_0",
)


def run(folder, settings=TINY, lines=None):
    lines = [] if lines is None else lines
    return long_context_lab(Path(folder), settings, progress=False, say=lines.append)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A laboratory that ran once; tests that change something take a copy."""
    folder = tmp_path_factory.mktemp("lab") / "finished"
    lines = []
    run(folder, lines=lines)
    return folder, lines


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes longer than all the rest."""
    monkeypatch.setattr(long_context, "write_report", lambda folder, results: folder)
    monkeypatch.setattr(long_context, "plot_loss", lambda folder: None)


@pytest.fixture(scope="module")
def model():
    config = replace(TINY.config(50), initializer_range=0.5)
    rng = np.random.default_rng(0)
    return init_params(config, rng), config, rng.integers(0, 50, (3, 65)).astype(np.int32)


def values_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


# --- measuring ---------------------------------------------------------------------------------


def test_every_length_scores_the_same_tokens(model):
    params, config, texts = model
    for length in (8, 16, 64):
        losses = token_losses(params, config, texts, length)
        assert losses.shape == (3, 64 // length, length)
        rows = [text[i : i + length + 1] for text in texts for i in range(0, 64, length)]
        assert losses.mean() == pytest.approx(
            evaluate(params, config, np.stack(rows), 3).loss, rel=1e-5
        )
    short, long = (token_losses(params, config, texts, length).reshape(3, 64) for length in (8, 64))
    np.testing.assert_allclose(short[:, :8], long[:, :8], rtol=1e-4)  # they have seen the same
    assert np.abs(short[:, 8] - long[:, 8]).min() > 1e-3  # first of its piece: it has seen nothing


def test_batches_change_nothing(model, monkeypatch):
    params, config, texts = model
    together = token_losses(params, config, texts, 8)
    monkeypatch.setattr("minqwen.lab.measure.BATCH_TOKENS", 24)
    np.testing.assert_allclose(token_losses(params, config, texts, 8), together, rtol=1e-4)


def test_a_length_that_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match="length must divide the 64 tokens of a text, got 7"):
        token_losses(*model, 7)


def test_a_cell_is_the_mean_cut_in_two_ways(model):
    cell, losses = measure(*model, 8, buckets=4), token_losses(*model, 8)
    assert cell["perplexity"] == pytest.approx(math.exp(losses.mean()))
    np.testing.assert_allclose(cell["by_text"], [text.mean() for text in losses])
    by_position = losses.mean(axis=(0, 1)).reshape(4, 2).mean(axis=1)
    np.testing.assert_allclose(cell["by_position"], by_position)


def test_nan_is_not_a_result(model):
    params, config, texts = model
    params = {key: np.full_like(w, np.nan) for key, w in params.items()}
    with pytest.raises(FloatingPointError, match="the loss at length 8 is nan"):
        measure(params, config, texts, 8, buckets=4)


def test_the_error_is_that_of_the_paired_difference():
    hard, easy = {"by_text": [9.0, 1.0, 5.0]}, {"by_text": [8.0, 0.0, 3.0]}
    mean, error = difference(hard, easy)  # 1, 1, 2
    assert mean == pytest.approx(4 / 3)
    assert error == pytest.approx(np.std([1, 1, 2], ddof=1) / math.sqrt(3))


# --- techniques --------------------------------------------------------------------------------


def test_every_technique_changes_how_the_same_parameters_read():
    config = TINY.config(280)
    for technique in ROWS[1:]:
        changed = technique.config(config, 256)
        assert changed != config, technique.name
        assert not changed.unsupported(), technique.name
    assert len({row.name for row in ROWS}) == len(ROWS)
    low, high = (BY_NAME[n].config(config, 64).layer_windows for n in ("window", "window_reversed"))
    assert low == high[::-1] == sorted(low)
    assert min(low) == TINY.train_length
    halves = [BY_NAME[n].config(config, 64).layer_windows for n in ("lower_half", "upper_half")]
    assert halves == [[16, None], [None, 16]]


def test_yarn_follows_the_length_and_only_the_temperature_goes_with_dca():
    config = TINY.config(280)
    assert BY_NAME["yarn"].config(config, 64).rope_scaling["factor"] == 4
    scaling = BY_NAME["dca_temperature"].config(config, 64).rope_scaling
    assert scaling["factor"] == 1
    assert scaling["attention_factor"] == pytest.approx(0.1 * math.log(4) + 1)


# --- the whole ---------------------------------------------------------------------------------


def test_writes_table_plots_and_page(finished):
    folder, lines = finished
    cells = values_of(folder)["cells"]
    assert set(cells) == NAMES
    for row in cells.values():
        assert [int(length) for length in row] == [16 * k for k in MULTIPLES]
        for cell in row.values():
            assert cell["perplexity"] == math.exp(cell["nll"])
            assert np.mean(cell["by_text"]) == pytest.approx(cell["nll"])
            assert np.mean(cell["by_position"]) == pytest.approx(cell["nll"])
    for name in ("perplexity.png", "positions.png", "windows.png", "layers.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    table = (folder / "table.md").read_text(encoding="utf-8")
    page = (folder / "index.html").read_text(encoding="utf-8")
    for technique in ROWS:
        value = f"{cells[technique.name]['256']['perplexity']:.2f}"
        row = next(r for r in table.splitlines() if r.startswith(f"| {technique.label} |"))
        assert value in row
        assert any(line.startswith(technique.label) and value in line for line in lines)
        assert value in page
    assert page.count("data:image/png") == 4
    assert not list(folder.glob("*.part"))


def test_up_to_the_trained_length_rows_are_the_same(finished):
    """Bit for bit where nothing may act; by rounding where the same is computed another way."""
    cells = values_of(finished[0])["cells"]
    plain = cells["plain"]["16"]
    for name in EXACT:
        assert cells[name]["16"]["by_text"] == plain["by_text"], name
        assert cells[name]["16"]["by_position"] == plain["by_position"], name
    for name in NAMES - set(EXACT):
        assert cells[name]["16"]["nll"] == pytest.approx(plain["nll"], rel=1e-5), name
    for name in NAMES - {"plain"}:
        assert cells[name]["256"]["nll"] != cells["plain"]["256"]["nll"], f"{name} does nothing"


def test_measured_text_is_not_trained_on(monkeypatch):
    documents = [f"document {i} says this\n" * 80 for i in range(100, 160)]
    monkeypatch.setattr(long_context, "standard_library_code", lambda max_bytes: list(documents))
    monkeypatch.setattr(long_context, "VALIDATION_ROWS", 30)
    text = prepare_text(replace(TINY, texts=4))

    def named(ids):
        return set(
            re.findall(r"document (\d{3}) says", text.tokenizer.decode(ids.ravel().tolist()))
        )

    measured = named(text.texts) | named(text.validation_rows)
    assert not measured & named(text.rows[:, :-1])
    files = [named(ids) for ids in text.texts]
    assert [len(file) for file in files] == [1] * 4  # each within one file
    assert len(set.union(*files)) == 4  # no two of the same
    assert len(text.validation_rows) == 30
    assert len(named(text.validation_rows)) == 6  # spread over all that is left
    with pytest.raises(ValueError, match=r"texts=7 need as many held-out files .* there are 6"):
        prepare_text(replace(TINY, texts=7))


def test_a_rerun_trains_and_measures_nothing(copy, monkeypatch):
    before, log = values_of(copy), Metrics.read(copy / "run")

    def never(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr("minqwen.training.pretrain.train_step", never)
    monkeypatch.setattr(long_context, "measure", never)
    (copy / "index.html").unlink()
    run(copy)
    assert values_of(copy) == before
    assert [r for r in Metrics.read(copy / "run") if "loss" in r] == [r for r in log if "loss" in r]
    assert (copy / "index.html").is_file()


@pytest.mark.usefixtures("no_pictures")
def test_goes_on_after_a_stop(finished, tmp_path, monkeypatch):
    real, calls = measure, []

    def stopped(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(long_context, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "lab")
    assert sum(map(len, values_of(tmp_path / "lab")["cells"].values())) == 3
    run(tmp_path / "lab")
    assert len(calls) == 1 + len(ROWS) * len(MULTIPLES)

    def numbers(folder):
        return {n: [c["nll"] for c in r.values()] for n, r in values_of(folder)["cells"].items()}

    assert numbers(tmp_path / "lab") == numbers(finished[0])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("what", ["code", "params", "texts"])
def test_numbers_of_another_origin_are_dropped(copy, what):
    values = values_of(copy)
    values["facts"]["fingerprint"][what] = "another"
    values["cells"]["plain"]["16"]["nll"] = -1.0
    (copy / "results.json").write_text(json.dumps(values), encoding="utf-8")
    lines = []
    run(copy, lines=lines)
    assert any("measured again" in line for line in lines)
    assert values_of(copy)["cells"]["plain"]["16"]["nll"] > 0


@pytest.mark.usefixtures("no_pictures")
def test_more_steps_train_on_and_measure_again(copy):
    before = values_of(copy)["cells"]["plain"]["16"]["nll"]
    run(copy, replace(TINY, steps=6))
    assert values_of(copy)["cells"]["plain"]["16"]["nll"] != before
    assert [r["step"] for r in Metrics.read(copy / "run") if "loss" in r][-1] == 6


def test_another_model_needs_another_folder(copy):
    before = values_of(copy)
    with pytest.raises(ValueError, match="another folder"):
        run(copy, replace(TINY, hidden_size=32))
    assert values_of(copy) == before


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ValueError, "results.json is corrupt or cut off"),
        ('{"kind": "minqwen lab long-context"}', ValueError, "no facts and cells"),
        (
            '{"kind": "minqwen lab long-context", "facts": {}, "cells": {"plain": {"16": 3}}}',
            ValueError,
            "plain at 16 is no cell",
        ),
        ('{"kind": "poem"}', FileExistsError, "choose another --out"),
    ],
)
def test_a_broken_or_foreign_results_file_is_refused(tmp_path, text, error, message):
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        run(tmp_path)
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == text


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds other files"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(FileExistsError):
        run(tmp_path / "thesis.txt")


def test_a_broken_checkpoint_is_named(copy):
    (copy / "run" / "checkpoint" / "state.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"state\.npz"):
        run(copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_length": 12}, "train_length must be a multiple of 8, at least 16, got 12"),
        ({"texts": 1}, "texts must be at least 2, for an error of the mean, got 1"),
        ({"num_hidden_layers": 1}, "num_hidden_layers must be at least 2"),
        ({"steps": 0}, "steps must be a whole number, at least 1"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **values)


def test_too_little_text_is_refused():
    with pytest.raises(
        ValueError, match=r"texts=1000 need as many held-out files of more than 256"
    ):
        prepare_text(replace(TINY, texts=1000))


@pytest.mark.usefixtures("no_pictures")
def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(settings, "QUICK", TINY)
    words = ["lab", "long-context", "--out", str(tmp_path / "lab"), "--quick", "--steps", "2"]
    assert main([*words, "--seed", "5", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["facts"]["settings"] == replace(TINY, steps=2, seed=5).to_dict()
    assert set(printed["perplexity"]) == NAMES
    assert "--seed must be 0 or more" in error_of(capsys, *words, "--seed", "-1")
    assert "steps may grow, not shrink" in error_of(capsys, *words, "--seed", "5", "--steps", "1")


# --- what it concludes -------------------------------------------------------------------------


def lab_that_measured(tmp_path, rows):
    """A laboratory with these perplexities at 1 to 16 L0, each text a bit off."""
    results = Results(tmp_path)
    noise = np.array([-0.001, 0.001, 0.0])
    for name, row in rows.items():
        for k, value in zip(MULTIPLES, row, strict=True):
            own = noise * (0.0 if k == 1 else 0.01 * len(name))
            by_text = (math.log(value) + noise + own).tolist()
            cell = {"nll": math.log(value), "perplexity": value, "by_text": by_text}
            results.cells.setdefault(name, {})[str(16 * k)] = cell
    return Numbers(results, 16)


AS_IN_THE_REPORT = {
    **{name: (*row[1:], row[-1] * 1.2) for name, row in REPORT.items()},
    "window": (3.78, 4.0, 5.0, 9.0, 20.0),
    "window_reversed": (3.78, 6.0, 9.0, 19.0, 40.0),
    "ntk_logn_window_reversed": (3.78, 3.7, 3.9, 6.0, 9.0),
    "lower_half": (3.78, 9.0, 12.0, 19.0, 30.0),
    "upper_half": (3.78, 19.0, 32.0, 59.0, 90.0),
    "dca": (3.78, 3.65, 3.75, 3.85, 3.95),
    "dca_temperature": (3.78, 3.6, 3.7, 3.8, 3.9),
    "layer_0": (3.78, 9.0, 12.0, 19.0, 30.0),
}
FINDINGS = (
    *("short", "plain", "ntk", "logn", "window", "windows alone", "context"),
    *("dca", "temperature", "layers"),
)


def conclude(folder, **changed):
    """What the findings say to the report's own numbers, some rows changed."""
    rows = {name: AS_IN_THE_REPORT.get(name, (3.78, 5.0, 6.0, 7.0, 8.0)) for name in NAMES}
    found = findings(lab_that_measured(folder, rows | changed))
    return dict(zip(FINDINGS, found, strict=True))


def test_the_reports_own_numbers_agree_with_the_report(tmp_path):
    found = conclude(tmp_path)
    assert [f.verdict for f in found.values()] == [AGREES] * len(found), found
    text = found["layers"].ours
    assert text.startswith("7 of 7 comparisons for, 0 against; layer 0 is the most sensitive")


@pytest.mark.parametrize(
    ("which", "changed", "verdict"),
    [
        # for and against together decide nothing, whichever is more
        ("layers", {"window": (3.78, 6.0, 9.5, 20.0, 41.0)}, UNDECIDED),
        ("layers", {"layer_0": (3.78, 4.0, 4.0, 4.0, 4.0)}, UNDECIDED),
        ("temperature", {"dca_temperature": (3.78, 3.7, 3.7, 3.8, 3.9)}, UNDECIDED),
        ("temperature", {"dca_temperature": (3.78, 3.7, 3.8, 3.9, 4.0)}, DISAGREES),
        # only the row with everything on counts, at 2 and at 4 L0
        ("context", {"ntk_logn_window": (3.78, 3.58, 3.9, 4.32, 5.0)}, PARTLY),
        ("context", {"ntk_logn_window": (3.78, 3.9, 3.9, 4.32, 5.0)}, DISAGREES),
        # windows: from 4 L0 on, and little at 2 L0
        ("window", {"ntk_logn_window": (3.78, 3.58, 3.6, 4.32, 5.0)}, PARTLY),
        ("window", {"ntk_logn_window": (3.78, 3.4, 3.4, 4.32, 5.0)}, PARTLY),
        ("logn", {"ntk_logn": (3.78, 3.4, 3.4, 4.62, 5.4)}, PARTLY),  # not little
        ("logn", {"ntk_logn": (3.78, 3.58, 3.56, 5.7, 6.8)}, DISAGREES),  # no more than at 2 L0
        ("plain", {"plain": (3.78, 7.0, 30.0, 60.0, 90.0)}, PARTLY),
        ("dca", {"dca": (3.78, 4.0, 150.0, 300.0, 400.0)}, PARTLY),
    ],
)
def test_each_verdict_follows_its_claim(tmp_path, which, changed, verdict):
    assert conclude(tmp_path, **changed)[which].verdict == verdict


def test_a_gain_that_grows_has_an_error_of_its_own(tmp_path):
    results = Results(tmp_path)
    for name, k, by_text in (
        ("plain", 2, [1.0, 2.0, 4.0]),
        ("ntk", 2, [1.0, 1.5, 3.0]),  # gains 0, 0.5, 1
        ("plain", 8, [2.0, 3.0, 5.0]),
        ("ntk", 8, [1.9, 2.3, 3.9]),  # gains 0.1, 0.7, 1.1: more by 0.1, 0.2, 0.1
    ):
        results.cells.setdefault(name, {})[str(16 * k)] = {"by_text": by_text}
    more = Numbers(results, 16).growth("ntk", "plain", 2, 8)
    assert more.nats == pytest.approx(0.4 / 3)
    assert more.error == pytest.approx(np.std([0.1, 0.2, 0.1], ddof=1) / math.sqrt(3))


def test_the_opposite_does_not_agree(tmp_path):
    falling, rising = (4.0, 3.9, 3.8, 3.7, 3.6), (4.0, 4.4, 5.0, 6.0, 8.0)
    worse = ("ntk", "ntk_logn", "ntk_logn_window", "dca_temperature", "window", "lower_half")
    rows = dict.fromkeys(sorted(NAMES), rising) | {"plain": tuple(v + 0.5 for v in rising)}
    rows["plain"] = (4.0, 4.1, 4.2, 4.3, 4.4)
    rows["ntk_logn"] = tuple(v * 1.1 for v in rising)
    rows["ntk_logn_window"] = tuple(v * 1.3 for v in rising)
    rows["window"] = tuple(v * 1.05 for v in rising)
    rows |= {name: falling for name in BY_NAME if name.endswith("reversed")}
    rows["upper_half"] = tuple(v * 0.99 for v in rising)
    for name in worse:
        rows[name] = (3.999, *rows[name][1:])
    rows |= {name: tuple(v * 2 for v in rising) for name in ("yarn", "interpolation", "layer_1")}
    rows["dca"] = (4.0, *(v * 0.99 for v in rising[1:]))
    found = findings(lab_that_measured(tmp_path, rows))
    assert [f.verdict for f in found] == [DISAGREES] * len(found), found


def test_a_difference_counts_above_two_standard_errors():
    assert Gain(0.3, 0.1).sure == 1
    assert Gain(-0.3, 0.1).sure == -1
    assert Gain(0.1, 0.1).sure == 0
    assert str(Gain(math.log(2), 0.1)) == "-50.0 % (± 5.0)"

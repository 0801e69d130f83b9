"""The study of experts: what it trains, measures, keeps, refuses, and concludes."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import error_of

from minqwen.cli import main
from minqwen.lab import moe_measure, moe_runs, moe_settings, moe_study
from minqwen.lab.findings import AGREES, DISAGREES, PARTLY, UNDECIDED
from minqwen.lab.moe_findings import findings, seen
from minqwen.lab.moe_measure import by_token, describe_experts, information, read, table, told
from minqwen.lab.moe_numbers import (
    AGAIN,
    COPIES,
    DENSE,
    RAW,
    SCRATCH,
    UNBALANCED,
    UPCYCLED,
    MoeNumbers,
)
from minqwen.lab.moe_report import markdown, page
from minqwen.lab.moe_runs import fresh_params, load_start, run_config, train_dense
from minqwen.lab.moe_settings import BY_NAME, RUNS, MoeSettings
from minqwen.lab.moe_text import KINDS, SOURCES, SourcedText, kind_of, prepare_text
from minqwen.lab.results import Results
from minqwen.training.accumulate import evaluate
from minqwen.training.metrics import Metrics

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")

TINY = MoeSettings(
    hidden_size=16,
    num_hidden_layers=2,
    num_experts=4,
    moe_intermediate_size=8,
    shared_expert_intermediate_size=8,
    vocab_size=280,
    context_length=16,
    rows_of_a_source=60,
    validation_rows_of_a_source=4,
    steps=8,
    batch_size=4,
    peak_lr=1e-2,
)
PLOTS = ("loss.png", "load.png", "sources.png", "kinds.png", "told.png")
SPARSE = [run.name for run in RUNS if run.sparse]


def run(folder, settings=TINY, lines=None):
    lines = [] if lines is None else lines
    return moe_study.moe_study(Path(folder), settings, progress=False, say=lines.append)


@pytest.fixture(scope="module")
def text():
    return prepare_text(TINY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that ran once; tests that change something take a copy."""
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
    monkeypatch.setattr(moe_study, "write_report", lambda folder, results: folder)


def values_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def losses_of(folder):
    """All that was measured, but for times."""
    return {
        (name, moment): (cell["by_row"], cell["routing"])
        for name, row in values_of(folder)["cells"].items()
        for moment, cell in row.items()
    }


# --- the text and the models -------------------------------------------------------------------


def test_every_row_is_of_one_source_and_every_source_gives_as_much(text):
    assert len(text.rows) == len(SOURCES) * 60
    assert np.bincount(text.sources).tolist() == [4] * len(SOURCES)
    pieces = [text.tokenizer.decode(row.tolist(), errors="ignore") for row in text.validation_rows]
    for source, name in enumerate(SOURCES):
        own = "".join(p for p, s in zip(pieces, text.sources, strict=True) if s == source)
        assert bool(re.search("[\u4e00-\u9fff]", own)) == (name == "chinese"), name
        letters = re.sub(r"<\|endoftext\|>", "", own)
        assert bool(re.search("[A-Za-z]", letters)) == (name != "chinese"), name


def test_validation_rows_are_of_documents_that_nothing_is_trained_on(monkeypatch):
    documents = {
        name: [f"{name} {i} says this, {name} {i} says that\n" * 40 for i in range(100, 140)]
        for name in SOURCES
    }
    documents["prose"] = documents["prose"][:20]
    monkeypatch.setattr("minqwen.lab.moe_text.documents_by_source", lambda settings: documents)
    text = prepare_text(replace(TINY, rows_of_a_source=100_000, validation_rows_of_a_source=100))

    def named(rows):
        pieces = (text.tokenizer.decode(row.tolist(), errors="ignore") for row in rows)
        return {name for piece in pieces for name in re.findall(r"\n(\w+ \d{3}) says", piece)}

    trained, looked = named(text.rows[:, :-1]), named(text.validation_rows)
    assert not trained & looked
    assert {n.split()[0] for n in looked} == set(SOURCES)  # of every source
    assert len(trained) > 60
    pieces = [text.tokenizer.decode(row.tolist(), errors="ignore") for row in text.rows]
    rows = [sum(name in piece for piece in pieces) for name in SOURCES]
    assert rows == [rows[1]] * len(SOURCES)  # as many as the one with the fewest


def test_kinds_of_tokens(text):
    names = [KINDS[kind_of(text.tokenizer.decode([i], errors="replace"))] for i in (32, 55, 40, 97)]
    assert names == ["space", "digits", "signs", "part of a word"]
    assert text.kinds[55] == KINDS.index("digits")
    assert KINDS[kind_of(text.tokenizer.decode([230], errors="replace"))] == "Chinese"  # a byte


def test_activated_parameters_are_equal_but_for_what_routes(finished):
    sizes = values_of(finished[0])["facts"]["sizes"]
    dense, sparse = sizes["dense"], sizes["sparse"]
    assert dense["parameters"] == dense["activated"]
    assert sparse["activated"] == dense["activated"] + sparse["routing"]
    assert sparse["routing"] == 2 * (4 + 1) * 16  # L (E + 1) D
    assert sparse["parameters"] == sparse["activated"] + 2 * 2 * 3 * 8 * 16  # L (E - K) 3 Fe D


# --- measuring ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [DENSE, SCRATCH])
def test_reading_gives_the_loss_and_the_experts(text, monkeypatch, name):
    config = replace(run_config(BY_NAME[name], TINY, text), initializer_range=0.5)
    params = moe_runs.init_params(config, np.random.default_rng(0))
    losses, ids = read(params, config, text.validation_rows)
    loss, load = evaluate(params, config, text.validation_rows, 4)
    assert losses.shape == (16, 16)
    assert losses.mean() == pytest.approx(loss, rel=1e-5)
    if name == DENSE:
        assert ids.shape == (0, 16, 16, 0)
    else:
        assert ids.shape == (2, 16, 16, 2)
        np.testing.assert_allclose([np.bincount(i.ravel(), minlength=4) / 512 for i in ids], load)
    monkeypatch.setattr("minqwen.lab.moe_measure.BATCH_TOKENS", 48)
    again, ids_again = read(params, config, text.validation_rows)
    np.testing.assert_allclose(again, losses, rtol=1e-4)
    np.testing.assert_array_equal(ids_again, ids)


def test_information_against_the_sum_by_hand():
    counts = np.array([[3, 1], [1, 3], [0, 2]])
    p = counts / 10
    want = sum(
        p[e, s] * np.log2(p[e, s] / (p[e].sum() * p[:, s].sum()))
        for e in range(3)
        for s in range(2)
        if p[e, s]
    )
    assert information(counts) == pytest.approx(want)
    entropy = -0.4 * np.log2(0.4) - 0.6 * np.log2(0.6)
    assert told(counts) == pytest.approx(want / entropy)
    assert told(np.array([[5, 0], [7, 0]])) == 0.0  # one source: nothing to tell


def test_what_the_token_explains():
    rng = np.random.default_rng(0)
    sources = np.repeat([0, 1], 200)[:, None] * np.ones(40, int)
    tokens = rng.integers(0, 6, (400, 40)) + 4 * sources  # 4 and 5 are in both
    of_token = (tokens % 3)[..., None]  # the expert is a function of the token
    assert by_token(of_token, tokens, sources, 3, 10) == pytest.approx(1.0, abs=0.05)
    of_source = sources[..., None]  # of the source, whatever the token
    shared = rng.integers(0, 6, (400, 40))
    assert by_token(of_source, shared, sources, 3, 10) < 0.01
    assert told(table(of_source, sources, 3, 2)) == pytest.approx(1.0)


def test_who_reads_what_is_counted_by_the_source_of_the_row(text):
    ids = np.broadcast_to(text.sources[None, :, None, None], (1, 16, 16, 1))  # an expert for each
    found = moe_measure.routing(ids, 4, text)
    assert found["by_source"] == [np.diag([64] * 4).tolist()]
    assert found["told_source"] == [pytest.approx(1.0)]
    tokens = text.validation_rows[:, :-1]
    by_kind = [
        np.bincount(text.kinds[tokens[text.sources == s]].ravel(), minlength=6) for s in range(4)
    ]
    np.testing.assert_array_equal(found["by_kind"][0], by_kind)


def test_experts_are_described_by_what_others_do_not_read():
    class Letters:
        def decode(self, ids, errors):
            return "abcdef"[ids[0]]

    tokens = np.array([[0, 0, 1, 2], [3, 3, 4, 2]])
    ids = np.array([[0, 0, 0, 1], [2, 2, 2, 1]])[..., None]  # 2, the c, is in both rows
    fake = SourcedText(Letters(), None, None, None, np.zeros(6, int))
    by_source = table(ids, np.array([[0] * 4, [1] * 4]), 4, 2)
    by_kind = table(ids, np.zeros((2, 4), int), 4, 1)
    found = describe_experts(ids, tokens, by_source, by_kind, fake)
    assert [x["expert"] for x in found] == [0, 1, 2]  # 3 got nothing
    assert [x["tokens"] for x in found] == [["a", "b"], ["c"], ["d", "e"]]
    assert found[0]["source"] == [0, 1.0, 2.0]
    assert [x["share"] for x in found] == [3 / 8, 2 / 8, 3 / 8]


# --- the runs ----------------------------------------------------------------------------------


def test_all_runs_read_the_same_rows_at_the_same_rates(finished):
    rows = {
        r.name: [x for x in Metrics.read(finished[0] / "runs" / r.name) if "loss" in x]
        for r in RUNS
    }
    first = {name: rows[name][0]["step"] for name in rows}
    assert first == {n: TINY.upcycle_step + 1 if BY_NAME[n].upcycled else 1 for n in rows}
    rates = {row["step"]: (row["lr"], row["tokens"]) for row in rows[DENSE]}
    for name in rows:
        assert rows[name][-1]["step"] == TINY.steps
        assert all(rates[row["step"]] == (row["lr"], row["tokens"]) for row in rows[name]), name


def test_what_is_cut_is_the_dense_run_at_that_step_bit_for_bit(finished, text):
    folder = finished[0]
    params, state = train_dense(BY_NAME[DENSE], TINY, text)
    assert state["step"] == TINY.upcycle_step
    looks = {r["step"]: r for r in Metrics.read(folder / "runs" / DENSE) if "validation_loss" in r}
    config = run_config(BY_NAME[DENSE], TINY, text)
    loss = evaluate(params, config, text.validation_rows, TINY.batch_size).loss
    assert loss == looks[TINY.upcycle_step]["validation_loss"]
    for name in (UPCYCLED, COPIES):
        cut, start, _ = load_start(folder, BY_NAME[name])
        assert start["step"] == TINY.upcycle_step
        same = cut.keys() & params.keys()
        assert {k for k in cut if "mlp" not in k} == same
        for key in same:  # as it was, AdamW's means too
            for now, before in ((cut, params), (start["m"], state["m"]), (start["v"], state["v"])):
                np.testing.assert_array_equal(now[key], before[key])
        for key in cut.keys() - same:
            assert not start["m"][key].any()
            assert not start["v"][key].any()
    one, other = (load_start(folder, BY_NAME[name])[0] for name in (UPCYCLED, COPIES))
    experts = "model.layers.0.mlp.experts.gate_up_proj"
    assert (one[experts] == other[experts]).mean() == pytest.approx(0.5)  # half is drawn anew
    router = "model.layers.0.mlp.gate.weight"
    np.testing.assert_array_equal(one[router], other[router])  # and nothing else differs


def test_the_first_look_of_a_run_is_at_its_start(finished):
    values = values_of(finished[0])
    for name in SPARSE:
        step, loss = values["facts"]["runs"][name]["validation"][0]
        assert step == (TINY.upcycle_step if BY_NAME[name].upcycled else 0)
        assert loss == pytest.approx(values["cells"][name]["start"]["nll"], rel=1e-5)


def test_the_runs_differ_in_what_they_are_named_after(text):
    configs = {name: run_config(BY_NAME[name], TINY, text) for name in BY_NAME}
    assert configs[UNBALANCED].router_aux_loss_coef == 0
    assert replace(configs[UNBALANCED], router_aux_loss_coef=0.01) == configs[SCRATCH]
    assert configs[UPCYCLED] == configs[COPIES] == configs[SCRATCH]
    assert not configs[RAW].norm_topk_prob
    assert replace(configs[RAW], norm_topk_prob=True) == configs[SCRATCH]
    assert configs[DENSE] == configs[AGAIN]
    assert configs[DENSE].num_experts == 0
    one, other = (fresh_params(BY_NAME[name], TINY, text) for name in (DENSE, AGAIN))
    key = "model.layers.0.mlp.up_proj.weight"
    assert (one[key] != other[key]).all()


# --- the whole ---------------------------------------------------------------------------------


def test_writes_tables_plots_and_page(finished):
    folder, lines = finished
    values = values_of(folder)
    for name, run_ in BY_NAME.items():
        cells = values["cells"][name]
        assert set(cells) == ({"start", "end"} if run_.sparse else {"end"})
        end = cells["end"]
        assert np.mean(end["by_row"]) == pytest.approx(end["nll"])
        assert end["step_seconds"] > 0
        assert (end["routing"] is not None) == run_.sparse
        last = values["facts"]["runs"][name]["validation"][-1]
        assert last == [TINY.steps, pytest.approx(end["nll"], rel=1e-5)]
        assert any(x.startswith(run_.label) and f"{end['nll']:.3f}" in x for x in lines)
    for name in SPARSE:
        routing = values["cells"][name]["end"]["routing"]
        by_source = np.array(routing["by_source"])
        assert by_source.shape == (2, 4, len(SOURCES))
        assert by_source.sum() == 2 * 256 * 2  # L * tokens * K
        load = values["facts"]["runs"][name]["load"][-1][1]
        np.testing.assert_allclose(by_source.sum(axis=2) / 512, load, atol=1e-5)
    for name in PLOTS:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    table_, html = ((folder / n).read_text(encoding="utf-8") for n in ("table.md", "index.html"))
    for run_ in RUNS:
        assert f"{values['cells'][run_.name]['end']['nll']:.3f}" in table_
        assert run_.label in html
    assert html.count("data:image/png") == len(PLOTS)
    assert not list(folder.glob("*.part"))


def test_a_rerun_trains_and_measures_nothing(copy, monkeypatch):
    before = values_of(copy)

    def never(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr("minqwen.training.pretrain.train_step", never)
    monkeypatch.setattr(moe_runs, "train_step", never)
    monkeypatch.setattr(moe_study, "measure_run", never)
    (copy / "index.html").unlink()
    run(copy)
    assert values_of(copy) == before
    assert (copy / "index.html").is_file()


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("where", ["train_step", "measure_run", "save_run"])
def test_goes_on_after_a_stop(finished, tmp_path, monkeypatch, where):
    """Stopped while it cuts, in the middle of an upcycled run, or while it measures."""
    module = moe_study if where == "measure_run" else moe_runs
    name = where if where != "train_step" else "upcycle"
    real, calls = getattr(module, name), []

    def stopped(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "lab")
    run(tmp_path / "lab")
    assert losses_of(tmp_path / "lab") == losses_of(finished[0])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("what", ["code", "params", "texts"])
def test_numbers_of_another_origin_are_dropped(copy, what):
    values = values_of(copy)
    values["facts"]["fingerprint"][what] = "another"
    values["cells"][DENSE]["end"]["nll"] = -1.0
    (copy / "results.json").write_text(json.dumps(values), encoding="utf-8")
    lines = []
    run(copy, lines=lines)
    assert any("measured again" in line for line in lines)
    assert values_of(copy)["cells"][DENSE]["end"]["nll"] > 0


@pytest.mark.parametrize("changed", [{"steps": 9}, {"num_experts": 5}, {"seed": 1}])
def test_other_settings_need_another_folder(copy, changed):
    before = values_of(copy)
    ((name, value),) = changed.items()
    with pytest.raises(ValueError, match=rf"has {name} = \d+, not {value}: .* another folder"):
        run(copy, replace(TINY, **changed))
    assert values_of(copy) == before


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ValueError, "results.json is corrupt or cut off"),
        ('{"kind": "minqwen lab moe"}', ValueError, "no facts and cells"),
        (
            '{"kind": "minqwen lab moe", "facts": {}, "cells": {"dense": {"end": {"nll": 1}}}}',
            ValueError,
            "dense at end is no cell",
        ),
        ('{"kind": "minqwen lab long-context"}', FileExistsError, "not of `minqwen lab moe`"),
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 3}, "steps must be a whole number, at least 4, got 3"),
        ({"num_experts": 1}, "num_experts must be a whole number, at least 2"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok must be from 1 to num_experts=4, got 5"),
        ({"validation_rows_of_a_source": 1}, "validation_rows_of_a_source must be a whole number"),
        ({"peak_lr": 0.0}, "peak_lr must be positive"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **values)


@pytest.mark.usefixtures("no_pictures")
def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(moe_settings, "QUICK", TINY)
    words = ["lab", "moe", "--out", str(tmp_path / "lab"), "--quick", "--steps", "4"]
    assert main([*words, "--seed", "5", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["facts"]["settings"] == replace(TINY, steps=4, seed=5).to_dict()
    assert set(printed["loss"]) == set(BY_NAME)
    assert "--seed must be 0 or more" in error_of(capsys, *words, "--seed", "-1")
    assert "has steps = 4, not 8" in error_of(capsys, *words, "--seed", "5", "--steps", "8")


# --- what it concludes -------------------------------------------------------------------------

STEPS = (0, 10, 20, 30, 35, 40)
ENDS = {
    DENSE: 2.0,
    AGAIN: 2.01,
    SCRATCH: 1.9,
    UNBALANCED: 1.95,
    UPCYCLED: 1.85,
    COPIES: 1.9,
    RAW: 1.95,
}
EVEN = [[0.25, 0.25, 0.25, 0.25]]


def study(tmp_path, ends=(), curves=(), load=(), told=(), by_token=0.9):
    """Numbers as a study might have measured them, 40 steps, cut at 10, changed where asked."""
    ends, told = {**ENDS, **dict(ends)}, {SCRATCH: 0.3, UPCYCLED: 0.2, COPIES: 0.2, **dict(told)}
    load = {UNBALANCED: [[0.97, 0.01, 0.01, 0.01]], **dict(load)}
    results = Results(tmp_path, moe_study.KIND, moe_study.CELL)
    noise = np.array([-0.01, 0.01, 0.0, 0.0, 0.01, -0.01, 0.0, 0.0])
    runs = {}
    for i, (name, end) in enumerate(ends.items()):
        steps = [s for s in STEPS if s >= 10 or not BY_NAME[name].upcycled]
        fall = [end + 0.05 * (40 - step) for step in steps]
        validation = list(map(list, zip(steps, fall, strict=True)))
        if BY_NAME[name].upcycled:
            validation[0][1] += 1.0  # the cut costs
        shares = load.get(name, EVEN)
        runs[name] = {
            "validation": dict(curves).get(name, validation),
            "training": validation,
            "load": [[step, shares] for step in steps] if BY_NAME[name].sparse else [],
        }
        routing = {
            "by_source": [[[9, 1, 1, 1], [1, 9, 1, 1], [1, 1, 9, 1], [1, 1, 1, 9]]],
            "by_kind": [[[5] * 6, [5] * 6, [5] * 6, [0] * 6]],
            "told_source": [told.get(name, 0.2)],
            "told_kind": [0.25],
            "by_token": [by_token],
            "experts": [
                {"layer": 0, "expert": 0, "share": 0.25, "source": [0, 0.75, 3.0],
                 "kind": [1, 0.5, 2.0], "bits": 0.5, "tokens": ["|", " the", "\n"]},
            ],
        }  # fmt: skip
        cell = {"nll": end, "by_row": (end + noise * (1 + 0.1 * i)).tolist(), "seconds": 1.0}
        cell |= {"routing": routing if BY_NAME[name].sparse else None, "step_seconds": 0.1}
        start = {**cell, "by_row": (validation[0][1] + noise).tolist()}
        results.cells[name] = {"end": cell} | ({"start": start} if BY_NAME[name].sparse else {})
    layers = [{"layer": 0, "cut": 0.1, "routed": 0.5, "new": 0.9}]
    receipt = {
        "cut": {"copies": 3, "per_copy": 3.0, "dropped": 2, "straddling": 0},
        "w_down_factors": [6.0, 3.0],
        "layers": layers,
        "losses": {"dense": 3.5, "routed": 4.0, "new": 4.5},
        "probe_tokens": 99,
    }
    size = {"parameters": 900, "activated": 500, "routing": 20, "embedding": 100}
    settings = replace(TINY, num_hidden_layers=1, steps=40)
    results.facts = {
        "settings": settings.to_dict(),
        "upcycle_step": 10,
        "sizes": {"dense": size, "sparse": size},
        "text": {"trained_tokens": 1, "tokens": 2, "validation_tokens": 3, "vocab_size": 9,
                 "sources": [0, 0, 1, 1, 2, 2, 3, 3]},
        "runs": runs,
        "receipts": dict.fromkeys((UPCYCLED, COPIES), receipt)
        | {RAW: {**receipt, "w_down_factors": [24.0, 3.0]}},
        "machine": "made up",
    }  # fmt: skip
    return MoeNumbers(results)


def study_in(folder, **changed):
    folder.mkdir()
    return study(folder, **changed)


CLAIMS = ("equal", "scratch", "randomness", "balance", "specialised", "token")


def conclude(tmp_path, **changed):
    return dict(zip(CLAIMS, findings(study(tmp_path, **changed)), strict=True))


def test_the_made_up_study_as_it_is(tmp_path):
    verdicts = {name: f.verdict for name, f in conclude(tmp_path).items()}
    assert verdicts == {**dict.fromkeys(CLAIMS, AGREES), "specialised": DISAGREES}


@pytest.mark.parametrize(
    ("which", "changed", "verdict"),
    [
        ("equal", {"ends": {SCRATCH: 1.995}}, PARTLY),  # within what two dense runs differ by
        ("equal", {"ends": {SCRATCH: 1.995, UPCYCLED: 1.995}}, UNDECIDED),
        ("equal", {"ends": {SCRATCH: 1.995, UPCYCLED: 2.2}}, DISAGREES),
        ("equal", {"ends": {AGAIN: 2.2}}, UNDECIDED),  # nothing counts when dense runs differ more
        ("equal", {"ends": {AGAIN: 1.8}}, UNDECIDED),
        ("scratch", {"ends": {UPCYCLED: 1.95}}, DISAGREES),
        ("scratch", {"ends": {UPCYCLED: 1.895}}, UNDECIDED),
        ("randomness", {"ends": {COPIES: 1.8}}, DISAGREES),
        ("randomness", {"ends": {COPIES: 1.855}}, UNDECIDED),
        ("balance", {"load": {UNBALANCED: [[0.4, 0.2, 0.2, 0.2]]}}, PARTLY),
        ("balance", {"load": {UNBALANCED: EVEN}}, DISAGREES),
        ("balance", {"load": {UNBALANCED: [[0.5, 0.25, 0.25, 0.0]]}}, PARTLY),  # one is idle
        ("balance", {"load": {UNBALANCED: [[0.5, 0.5, 0.0, 0.0]]}}, AGREES),
        ("specialised", {"told": {SCRATCH: 0.05}}, PARTLY),
        ("specialised", {"told": {SCRATCH: 0.05, UPCYCLED: 0.05}}, AGREES),
        ("token", {"by_token": 0.5}, DISAGREES),
    ],
)
def test_each_verdict_follows_its_claim(tmp_path, which, changed, verdict):
    assert conclude(tmp_path, **changed)[which].verdict == verdict


def test_the_noise_is_the_largest_difference_of_the_second_half(tmp_path):
    curve = [[0, 9.0], [10, 9.0], [20, 9.0], [30, 2.51], [35, 2.25 + 0.07], [40, 2.0 - 0.03]]
    n = study(tmp_path, curves={AGAIN: curve})
    assert n.noise == pytest.approx(0.07)


def test_who_is_below_whom(tmp_path):
    crossing = [[0, 9.0], [10, 3.0], [20, 2.9], [30, 2.3], [35, 2.15], [40, 1.7]]
    n = study(tmp_path, curves={SCRATCH: crossing})  # upcycled: 4.35, 2.85, 2.35, 2.1, 1.85
    assert n.caught_up(UPCYCLED, DENSE) == 20
    assert n.caught_up(UPCYCLED, SCRATCH) == 20
    assert n.overtaken(UPCYCLED, SCRATCH) == 40  # below at 30 too, but not at 35
    assert n.overtaken(SCRATCH, UPCYCLED) is None
    late = [[10, 9.0], [20, 9.0], [30, 9.0], [35, 9.0], [40, 9.0]]
    assert study_in(tmp_path / "other", curves={UPCYCLED: late}).caught_up(UPCYCLED, DENSE) is None


def test_use_of_experts(tmp_path):
    n = study(tmp_path, load={SCRATCH: [[0.5, 0.5, 0.0, 0.0]]})
    assert n.uneven(SCRATCH) == (2.0, 2, pytest.approx(2.0))
    assert n.uneven(UPCYCLED) == (1.0, 0, pytest.approx(4.0))


def test_lift_is_the_share_over_the_share_of_all(tmp_path):
    n = study(tmp_path)
    np.testing.assert_allclose(n.lift(SCRATCH, "source")[0, 0], [3, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(n.lift(SCRATCH, "kind")[0, 3], 1)  # an expert without tokens


def test_the_page_says_what_the_numbers_say(tmp_path):
    n = study(tmp_path)
    sentences = " ".join(seen(n))
    assert "dense has 2.000 nats a token, experts from scratch 1.900, upcycled 1.850" in sentences
    assert (
        "from 3.50 to 4.35 nats. Upcycled is below dense first at step 20, 10 steps later"
        in sentences
    )
    text, html = markdown(n), page(n, dict.fromkeys(PLOTS, "<img>"))
    for sentence in seen(n):
        assert sentence in text
    assert "‹\\|› ‹␣the› ‹⏎›" in text  # a bar would cut the table
    assert "‹|› ‹␣the› ‹⏎›" in html
    assert html.count("<img>") == len(PLOTS)
    unsure = " ".join(seen(study_in(tmp_path / "other", ends={AGAIN: 2.2})))
    assert "from scratch is not surely different" in unsure

"""`minqwen upcycle`: the new folder, the receipt in it, and what is refused before anything is."""

import inspect
import json
import os

import numpy as np
import pytest
from helpers.commands import error_of, tiny_run, write_story
from helpers.models import random_params, small_config

from minqwen.cli import main
from minqwen.commands import upcycle as command
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.config import QwenConfig
from minqwen.model.language_model import language_model_forward
from minqwen.model.upcycling import upcycle
from minqwen.tokenizer.bpe import bpe_train

SIZES = ["--experts", "6", "--chosen", "3", "--width", "4"]  # F = 12: two copies of three


@pytest.fixture
def text(tmp_path):
    return write_story(tmp_path)


@pytest.fixture
def folder(text, tmp_path):
    """Return a dense checkpoint with a tokenizer of 300 ids."""
    config = small_config(vocab_size=300, intermediate_size=12)
    place = tmp_path / "dense"
    save_checkpoint(place, config, random_params(config, dtype="float32"))
    bpe_train(text, 300).save_pretrained(place)
    (place / "generation_config.json").write_text('{"eos_token_id": 299}', encoding="utf-8")
    return place


def words(folder, out, *more):
    return ["upcycle", str(folder), *SIZES, "--out", str(out), *more]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint_is_written_with_tokenizer_and_receipt(folder, tmp_path, capsys):
    out, before = tmp_path / "deep" / "moe", files_of(folder)
    assert main(words(folder, out, "--seed", "3")) == 0
    printed = capsys.readouterr().out
    for line in ("before numbers are drawn anew: the dense model exactly", "\nloss   dense ",
                 "copies 2, experts to a copy 3; columns dropped 0", f"\nsaved in {out}\n",
                 "probe: built-in stories and Python reference\n", "on 1,024 tokens"):  # fmt: skip
        assert line in printed
    assert files_of(folder) == before
    beside = ("tokenizer.json", "generation_config.json")
    assert {name: files_of(out)[name] for name in beside} == {name: before[name] for name in beside}
    assert set(os.listdir(out)) == set(before)
    assert os.listdir(tmp_path / "deep") == ["moe"]  # nothing left behind

    config, params = load_checkpoint(out, dtype=None)
    dense_config, dense = load_checkpoint(folder)
    want, moe, _ = upcycle(
        dense,
        dense_config,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=4,
        rng=np.random.default_rng(3),
    )
    for name in want:
        np.testing.assert_array_equal(params[name], want[name])
    receipt = config.extra.pop("upcycling")
    assert config == moe
    assert receipt["source"] == str(folder)
    assert receipt["seed"] == 3
    assert receipt["losses"]["routed"] == pytest.approx(receipt["losses"]["dense"], rel=1e-5)
    assert main(["generate", str(out), "Once", "--max-new-tokens", "2"]) == 0


def test_json_is_the_receipt_of_the_folder(folder, tmp_path, capsys):
    out = tmp_path / "moe"
    assert main(words(folder, out, "--json")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.pop("folder") == str(out)
    assert QwenConfig.from_pretrained(out).extra["upcycling"] == facts
    assert facts["layers"][1]["new"] > 0.1


def test_again_replaces_the_folder_and_the_seed_decides(folder, tmp_path):
    results = []
    for seed in ("1", "1", "2"):
        assert main(words(folder, tmp_path / "moe", "--seed", seed)) == 0
        results.append(files_of(tmp_path / "moe"))
    assert results[0] == results[1]
    assert results[0]["model.safetensors"] != results[2]["model.safetensors"]


def test_a_run_goes_in_and_the_mixture_is_trained_on(text, tmp_path, capsys):
    assert main(tiny_run(text, tmp_path / "run", "--quiet")) == 0
    out = tmp_path / "moe"
    sizes = ["--experts", "4", "--chosen", "2", "--width", "96", "--reinitialise", "0"]
    assert main(["upcycle", str(tmp_path / "run"), *sizes, "--out", str(out)]) == 0
    more = ["--quiet", "--start-from", str(out), "--eval-every", "1"]
    assert main(tiny_run(text, tmp_path / "further", *more, steps=1)) == 0
    losses = []
    for run in ("run", "further"):
        lines = (tmp_path / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([row["validation_loss"] for row in map(json.loads, lines)
                       if "validation_loss" in row])  # fmt: skip
    assert losses[1][0] == pytest.approx(losses[0][-1], rel=1e-4)  # it starts where that ended
    assert load_checkpoint(tmp_path / "further" / "checkpoint")[0].num_experts == 4


def test_without_a_tokenizer_random_ids_are_tried(folder, tmp_path, capsys):
    (folder / "tokenizer.json").unlink()
    assert main(words(folder, tmp_path / "moe")) == 0
    captured = capsys.readouterr()
    assert "has no tokenizer, so random ids are tried" in captured.err
    assert captured.out.startswith("probe: random ids\n")
    assert "tokenizer.json" not in os.listdir(tmp_path / "moe")
    error = error_of(capsys, *words(folder, tmp_path / "o", "--probe-text", str(folder / "x")))
    assert "tokenizer" in error


def test_the_probe_text(folder, text, tmp_path, capsys):
    assert main(words(folder, tmp_path / "a", "--probe-text", str(text), "--json")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["probe"] == str(text)
    assert 500 < facts["probe_tokens"] <= 1024
    short = tmp_path / "short.txt"
    short.write_text("abc", encoding="utf-8")
    assert main(words(folder, tmp_path / "b", "--probe-text", str(short), "--json")) == 0
    few = json.loads(capsys.readouterr().out)
    assert few["probe_tokens"] == 2
    assert few["losses"] != facts["losses"]
    config, params = load_checkpoint(folder)
    ids, _ = command.find_probe(folder, short, 300)
    logits, _ = language_model_forward(params, config, ids[:, :-1])
    best = logits - logits.max(axis=-1, keepdims=True)
    logp = best - np.log(np.exp(best).sum(axis=-1, keepdims=True))
    want = -np.mean([logp[0, t, ids[0, t + 1]] for t in range(2)])
    assert few["losses"]["dense"] == pytest.approx(want, rel=1e-5)
    weights = [files_of(tmp_path / name)["model.safetensors"] for name in "ab"]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_dtype_of_the_file_stays(dtype, folder, tmp_path):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    config, params = load_checkpoint(folder)
    save_checkpoint(folder, config, params, dtype=dtype)
    assert main(words(folder, tmp_path / "moe", "--reinitialise", "0")) == 0
    _, new = load_checkpoint(tmp_path / "moe", dtype=None)
    assert {w.dtype.name for w in new.values()} == {dtype}
    _, dense = load_checkpoint(folder, dtype="float32")
    up = new["model.layers.0.mlp.experts.gate_up_proj"][:, 4:].astype("float32")
    old = dense["model.layers.0.mlp.up_proj.weight"]
    np.testing.assert_array_equal(np.sort(up.ravel()), np.sort(np.tile(old.ravel(), 2)))


@pytest.mark.parametrize(
    ("option", "value", "argument", "want"),
    [
        ("--experts", "9", "num_experts", 9),
        ("--chosen", "6", "num_experts_per_tok", 6),
        ("--width", "6", "moe_intermediate_size", 6),
        ("--shared-width", "7", "shared_expert_intermediate_size", 7),
        ("--sparse-step", "2", "decoder_sparse_step", 2),
        ("--dense-layers", "0", "mlp_only_layers", [0]),
        ("--reinitialise", "0.25", "reinitialised", 0.25),
        ("--granularity", "element", "granularity", "element"),
        ("--router", "random", "router", "random"),
        ("--no-norm-topk-prob", None, "norm_topk_prob", False),
        ("--no-match-scale", None, "match_scale", False),
    ],
)
def test_an_option_reaches_the_upcycling(
    option, value, argument, want, folder, tmp_path, monkeypatch
):
    signature, calls = inspect.signature(upcycle), []

    def spy(*args, **more):
        calls.append(signature.bind(*args, **more).arguments)
        return upcycle(*args, **more)

    monkeypatch.setattr(command, "upcycle", spy)
    assert main(words(folder, tmp_path / "a")) == 0
    assert main(words(folder, tmp_path / "b", option, *[value] * (value is not None))) == 0
    assert calls[1][argument] == want != calls[0][argument]


def test_what_is_refused_writes_nothing(folder, tmp_path, capsys):
    out = tmp_path / "out"

    def refused(*more, source=folder, place=out):
        return error_of(capsys, *words(source, place, *more))

    assert "no config.json at" in refused(source=tmp_path / "nowhere")
    assert "num_experts_per_tok must be from 1 to num_experts=6, got 9" in refused("--chosen", "9")
    assert "must be at least 1, got 12, 6, 0" in refused("--width", "0")
    assert "needs num_experts_per_tok of at least 3" in refused("--chosen", "2")
    assert "must be in [0, 1]" in refused("--reinitialise", "2")
    assert "no layer becomes sparse" in refused("--dense-layers", "0", "1")
    assert "--seed must be 0 or more" in refused("--seed", "-1")
    (tmp_path / "one.txt").write_text("a", encoding="utf-8")
    assert "needs two tokens at least" in refused("--probe-text", str(tmp_path / "one.txt"))
    (tmp_path / "bytes").write_bytes(b"\xff")
    assert "is not UTF-8 text" in refused("--probe-text", str(tmp_path / "bytes"))
    assert "no-such" in refused("--probe-text", str(tmp_path / "no-such"))
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert "is a file" in refused(place=tmp_path / "file")
    assert not out.exists()

    before = files_of(folder)
    (tmp_path / "link").symlink_to(folder)
    for place in (folder, tmp_path / "x" / ".." / "dense", tmp_path / "link", folder / "moe"):
        assert "is the checkpoint that is read, or in it" in refused(place=place)
    assert files_of(folder) == before

    assert main(words(folder, out)) == 0
    capsys.readouterr()
    assert "is a mixture of experts already" in refused(source=out, place=tmp_path / "twice")
    (out / "thesis.tex").write_text("x", encoding="utf-8")
    assert "not part of a checkpoint (thesis.tex)" in refused()


def test_a_tokenizer_larger_than_the_model_is_refused(folder, tmp_path, capsys):
    config = small_config(intermediate_size=12)  # 61 ids
    save_checkpoint(folder, config, random_params(config, dtype="float32"))
    assert "the model has 61" in error_of(capsys, *words(folder, tmp_path / "moe"))


def test_a_crash_while_writing_leaves_the_old_folder(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "moe"
    assert main(words(folder, out)) == 0
    before = files_of(out)

    def crash(self, place):
        raise OSError("no space left")

    monkeypatch.setattr(command.Beside, "save_pretrained", crash)
    assert "no space left" in error_of(capsys, *words(folder, out, "--seed", "1"))
    assert files_of(out) == before
    assert "no space left" in error_of(capsys, *words(folder, tmp_path / "new"))
    assert sorted(os.listdir(tmp_path)) == ["dense", "moe", "story.txt"]

"""`minqwen trace` and `minqwen diff` as a user runs them."""

import json
import shutil
import sys

import numpy as np
import pytest
from helpers.commands import STORY, error_of, write_story
from helpers.models import random_params, small_config

from minqwen.check.tracing.trace_file import Trace
from minqwen.cli import main
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.language_model import language_model_forward
from minqwen.tokenizer.bpe import Tokenizer, bpe_train

PROMPT = "a small model 从前"


@pytest.fixture
def folder(tmp_path):
    """A checkpoint with a tokenizer."""
    config = small_config(vocab_size=300)
    tokenizer = bpe_train([write_story(tmp_path)], 300)
    place = tmp_path / "m"
    save_checkpoint(place, config, random_params(config, dtype="float32"), tokenizer=tokenizer)
    return place


def out_of(capsys, *words, code=0):
    """Run a command and return what it printed."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == code
    return capsys.readouterr().out


def test_trace_lists_and_writes(folder, tmp_path, capsys):
    listed = out_of(capsys, "trace", folder, "--prompt", PROMPT)
    ids = Tokenizer.from_pretrained(folder).encode(PROMPT)
    assert f"model.layers.1.mlp.hidden                B T F        (1, {len(ids)}, 23)" in listed
    file = tmp_path / "t.npz"
    said = out_of(capsys, "trace", folder, "--prompt", PROMPT, "--backward", "--out", file)
    assert said == f"69 tensors of {len(ids)} tokens, 0.2 MB, in {file}\n"
    found = Trace.load(file)
    config, params = load_checkpoint(folder)
    logits, _ = language_model_forward(params, config, np.array([ids]))
    assert np.array_equal(found["logits"], logits)
    assert found.more["prompt"] == PROMPT
    assert found["input_ids"].tolist() == [ids]
    facts = json.loads(out_of(capsys, "trace", folder, "--ids", "5, 17 3", "--json"))
    assert facts["input_ids"] == [[5, 17, 3]]
    assert facts["tensors"][-1] == {
        "name": "logits",
        "axes": "B T V",
        "shape": [1, 3, 300],
        "dtype": "float32",
    }


def test_wrong_use_of_trace(folder, tmp_path, capsys):
    folder = str(folder)
    assert "Give --prompt TEXT or --ids" in error_of(capsys, "trace", folder)
    assert "whole numbers" in error_of(capsys, "trace", folder, "--ids", "1,x")
    assert "one token at least" in error_of(capsys, "trace", folder, "--ids", ",")
    assert "one token at least" in error_of(capsys, "trace", folder, "--prompt", "")
    assert "[0, V=300)" in error_of(capsys, "trace", folder, "--ids", "300")
    assert "two tokens" in error_of(capsys, "trace", folder, "--ids", "3", "--backward")
    out = str(tmp_path / "no" / "t.npz")
    assert "no folder" in error_of(capsys, "trace", folder, "--ids", "1", "--out", out)
    assert "no checkpoint folder" in error_of(capsys, "trace", str(tmp_path / "x"), "--ids", "1")
    with pytest.raises(SystemExit):
        main(["trace", folder, "--ids", "1", "--prompt", "a"])
    for name in ("x.txt", "x", "x.bin", "x.NPZ", ".npz"):
        said = error_of(capsys, "trace", folder, "--ids", "1", "--out", str(tmp_path / name))
        assert "--out must end in .safetensors or .npz" in said  # before any work
        assert not (tmp_path / name).exists()
    said = error_of(capsys, "trace", folder, "--ids", "1", "--out", str(tmp_path))
    assert "is a folder" in said


def test_diff_of_two_files(folder, tmp_path, capsys):
    ours, theirs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    out_of(capsys, "trace", folder, "--prompt", PROMPT, "--out", ours)
    out_of(capsys, "trace", folder, "--prompt", PROMPT, "--out", theirs)
    said = out_of(capsys, "diff", ours, theirs)
    assert said.endswith("right   37 tensors: equal to the last bit\nno difference\n")

    t = Trace.load(theirs)
    gate, up = t["model.layers.1.mlp.gate_proj"], t["model.layers.1.mlp.up_proj"]
    t.tensors["model.layers.1.mlp.hidden"] = gate * up / (1 + np.exp(-up))
    t.save(theirs)
    said = out_of(capsys, "diff", ours, theirs, code=1)
    assert "PARTS   model.layers.1.mlp.hidden\n" in said
    assert "looks exactly like: swiglu.branches_swapped\n" in said
    facts = json.loads(out_of(capsys, "diff", ours, theirs, "--json", code=1))
    assert facts["parted"]["fits"][0]["name"] == "swiglu.branches_swapped"
    assert not facts["ok"]
    assert out_of(capsys, "diff", ours, theirs, "--rtol", "10").endswith("no difference\n")


def test_diff_of_a_folder_and_somebodys_file(folder, tmp_path, capsys):
    """Few tensors, other names, other layouts, no metadata."""
    made = tmp_path / "made.npz"
    out_of(capsys, "trace", folder, "--ids", "7,8,9,10,11", "--out", made)
    t = Trace.load(made)
    q = t["model.layers.0.self_attn.q_proj"]
    x, file, names = q.reshape(5, 6, 10), tmp_path / "theirs.npz", tmp_path / "names.json"
    p, half = np.arange(5)[:, None, None], 1000.0 ** (-np.arange(5) / 5)
    a, b, c, s = x[..., ::2], x[..., 1::2], np.cos(p * half), np.sin(p * half)
    turned = np.stack((a * c - b * s, a * s + b * c), axis=-1).reshape(x.shape)
    np.savez(file, tokens=np.array([7, 8, 9, 10, 11]), q=q[0], rotated=turned.astype("float32"))
    mapping = {
        "input_ids": "tokens",
        "model.layers.0.self_attn.q_proj": "q",
        "model.layers.0.self_attn.q_rope": "rotated",
    }
    names.write_text(json.dumps(mapping), encoding="utf-8")
    said = out_of(capsys, "diff", folder, file, "--map", names, code=1)
    assert "model.layers.0.self_attn.q_rope as T H Dh" in said
    assert "other convention: rope.interleaved\n" in said
    assert "PARTS   model.layers.0.self_attn.q_rope   (theirs: rotated)\n" in said

    t.save(tmp_path / "same.npz")  # its own input_ids are run
    assert out_of(capsys, "diff", folder, tmp_path / "same.npz").endswith("no difference\n")
    said = out_of(capsys, "diff", made, tmp_path / "same.npz", "--weights", folder)
    assert said.endswith("no difference\n")


def test_wrong_use_of_diff(folder, tmp_path, capsys):
    file, m = tmp_path / "t.npz", str(folder)
    np.savez(file, x=np.zeros(3))
    theirs = str(file)
    assert "compare with what?" in error_of(capsys, "diff", m, "--ids", "1")
    both = ["diff", m, theirs, "--against", "transformers", "--ids", "1"]
    assert "compare with what?" in error_of(capsys, *both)
    assert "no name in common" in error_of(capsys, "diff", m, theirs, "--ids", "1")
    assert "Give --prompt TEXT" in error_of(capsys, "diff", m, theirs)
    assert "--rtol must be" in error_of(capsys, "diff", m, theirs, "--ids", "1", "--rtol", "0")
    assert "needs a checkpoint folder" in error_of(
        capsys, "diff", theirs, "--against", "transformers", "--ids", "1"
    )
    assert "no file" in error_of(capsys, "diff", theirs, str(tmp_path / "no.npz"))
    names = tmp_path / "names.json"
    for content, message in (
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"logits": 3}', "must be a JSON object"),
        ('{"logits": "y"}', "no tensor 'y' in theirs"),
        ('{"logit": "x"}', "no tensor 'logit' in ours"),
        ('{"logits": "y", "logits": "x"}', "has 'logits' twice"),
    ):
        names.write_text(content, encoding="utf-8")
        command = ["diff", m, theirs, "--ids", "1", "--map", str(names)]
        assert message in error_of(capsys, *command)


def damaged(folder, place, how):
    """Return a copy of a checkpoint folder with one kind of damage."""
    shutil.copytree(folder, place)
    config, weights = place / "config.json", place / "model.npz"
    if how.endswith("weights"):
        data = weights.read_bytes()
        weights.write_bytes({"cut": data[:-40], "no": b"", "other": b"no weights"}[how.split()[0]])
    elif how == "cut config":
        config.write_bytes(config.read_bytes()[:50])
    elif how == "other sizes":
        facts = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps({**facts, "hidden_size": 31}), encoding="utf-8")
    else:
        (place / how.removeprefix("no ")).unlink()
    return str(place)


DAMAGE = ("cut weights", "no weights", "other weights", "cut config", "other sizes")
DAMAGE += ("no config.json", "no model.npz")


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_folder_is_wrong_use(tmp_path, capsys, how):
    config = small_config(vocab_size=300)
    save_checkpoint(tmp_path / "m", config, random_params(config), file_format="npz")
    file = str(tmp_path / "t.npz")
    out_of(capsys, "trace", tmp_path / "m", "--ids", "1,2,3", "--out", file)
    bad = damaged(tmp_path / "m", tmp_path / "bad", how)
    assert "bad" in error_of(capsys, "trace", bad, "--ids", "1,2")
    assert "bad" in error_of(capsys, "diff", bad, file, "--ids", "1,2")
    assert "bad" in error_of(capsys, "diff", file, file, "--weights", bad)


def test_damaged_and_foreign_files_are_wrong_use(folder, tmp_path, capsys):
    good, bad, m = tmp_path / "t.npz", tmp_path / "bad.npz", str(folder)
    out_of(capsys, "trace", folder, "--ids", "1,2,3", "--out", good)
    data = good.read_bytes()
    for content in (b"", data[:-50], data[: len(data) // 2], b"no zip"):
        bad.write_bytes(content)
        assert "bad.npz" in error_of(capsys, "diff", m, str(bad), "--ids", "1")
        assert "bad.npz" in error_of(capsys, "diff", str(bad), str(good))
    picture = tmp_path / "x.png"
    picture.write_bytes(b"PNG")
    assert "ends in .safetensors or .npz" in error_of(capsys, "diff", m, str(picture), "--ids", "1")
    # what is not made of real numbers is left out, and said
    whole = Trace.load(good)
    words = {"text": np.array(["a"]), "dates": np.zeros(3, "M8[s]"), "z": np.array([1j])}
    np.savez(bad, **{"logits": whole["logits"], **words})
    said = out_of(capsys, "diff", folder, bad, "--ids", "1,2,3")
    assert "note    theirs: z is left out: its dtype is complex128, not real numbers\n" in said
    np.savez(bad, logits=np.array(["a"]))
    assert "no name in common" in error_of(capsys, "diff", m, str(bad), "--ids", "1")


def test_our_trace_has_to_fit_together(folder, tmp_path, capsys):
    good, bad = tmp_path / "t.npz", tmp_path / "bad.npz"
    out_of(capsys, "trace", folder, "--ids", "1,2,3", "--out", good)

    def error(weights=False, config=None, **tensors):
        t = Trace.load(good)
        t.tensors |= tensors
        t.axes |= {name: "B S" for name in tensors if name == "attention_mask"}
        t.config = {**t.config, **(config or {})}
        t.save(bad)
        more = ["--weights", str(folder)] if weights else []
        return error_of(capsys, "diff", str(bad), str(good), *more)

    assert "our input_ids must be integers (B, T)" in error(input_ids=np.array([[1.5, 2, 3]]))
    assert "our input_ids must be integers (B, T)" in error(input_ids=np.array([1, 2, 3]))
    assert "must be in [0, V=300), got values from 1 to 300" in error(
        input_ids=np.array([[1, 2, 300]])
    )
    assert "our positions must be integers" in error(positions=np.arange(9))
    assert "our attention_mask must be true or false" in error(attention_mask=np.ones((1, 3)))
    said = error(config={"num_attention_heads": "x"})
    assert "the config of our trace has num_attention_heads 'x', not a number" in said
    assert "the config of our trace cannot be read" in error(config={"hidden_act": ["silu"]})
    assert "the weights do not fit the config" in error(weights=True, config={"hidden_size": 31})
    t = Trace.load(good)  # of another program, which writes no positions
    del t.tensors["positions"], t.axes["positions"]
    t.tensors["logits"] = t["logits"] + 1
    t.save(bad)
    said = out_of(capsys, "diff", bad, good, "--weights", folder, code=1)
    assert "PARTS   logits\n" in said
    assert "theirs is what our step gives from its inputs, ours is not" in " ".join(said.split())


def test_nan_on_both_sides_is_said(folder, tmp_path, capsys):
    file = tmp_path / "t.npz"
    out_of(capsys, "trace", folder, "--ids", "1,2,3", "--out", file)
    t = Trace.load(file)
    t.tensors["model.norm"] = t["model.norm"].copy()
    t.tensors["model.norm"][0, 1] = np.nan
    t.save(file)
    said = out_of(capsys, "diff", file, file)
    assert "NaN     model.norm\n" in said
    assert "rows: batch 0, time 1 (of 3)\n" in said
    assert said.endswith("no difference; from model.norm on this means nothing\n")
    facts = json.loads(out_of(capsys, "diff", file, file, "--json"))
    assert facts["ok"]
    assert (facts["not_finite"]["name"], facts["not_finite"]["nan"]) == ("model.norm", 29)


def test_without_torch(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    command = ["diff", str(folder), "--against", "transformers", "--ids", "1,2"]
    assert "pip install torch" in error_of(capsys, *command)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_diff_against_transformers(folder, tmp_path, capsys, monkeypatch, dtype):
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers.models.qwen2.modeling_qwen2")
    command = ["diff", folder, "--against", "transformers", "--prompt", STORY[:40]]
    command += ["--dtype", dtype]
    said = out_of(capsys, *command, "--backward")
    assert said.startswith(f"69 tensors in common, in the order of the computation, as {dtype}\n")
    assert said.endswith("no difference\n")

    class Wrong(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x)

    monkeypatch.setitem(hf.ACT2FN, "silu", Wrong)
    said = out_of(capsys, *command, code=1)
    assert "PARTS   model.layers.0.mlp.hidden\n" in said
    assert "swiglu.relu" in said
    monkeypatch.undo()
    file = tmp_path / "theirs.npz"
    out_of(capsys, "trace", folder, "--ids", "1,2,3", "--transformers", "--out", file)
    assert Trace.load(file).versions["torch"] == torch.__version__
    assert out_of(capsys, "diff", folder, file).endswith("no difference\n")


@pytest.mark.parity
@pytest.mark.parametrize("how", ["cut", "empty", "renamed", "turned"])
def test_transformers_and_a_damaged_folder(folder, tmp_path, capsys, how):
    """Weights that are missing would be made up by transformers, without a word."""
    pytest.importorskip("transformers")
    numpy = pytest.importorskip("safetensors.numpy")
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    file = bad / "model.safetensors"
    if how in ("cut", "empty"):
        file.write_bytes(file.read_bytes()[:-7] if how == "cut" else b"")
    else:
        tensors = numpy.load_file(file)
        name = "model.layers.0.mlp.up_proj.weight"
        value = np.ascontiguousarray(tensors.pop(name).T)
        tensors["x" if how == "renamed" else name] = value
        numpy.save_file(tensors, file, metadata={"format": "pt"})
    words = [str(bad), "--ids", "1,2,3"]
    assert "bad" in error_of(capsys, "diff", *words, "--against", "transformers")
    said = error_of(capsys, "trace", *words, "--transformers")
    assert "bad" in said
    assert ("would make up: model.layers.0.mlp.up_proj.weight" in said) == (how == "renamed")


@pytest.mark.parity
def test_what_transformers_passes_over_is_said(tmp_path, capsys):
    pytest.importorskip("transformers")
    config = small_config(use_logn_attn=True, max_position_embeddings=4)
    save_checkpoint(tmp_path / "m", config, random_params(config, dtype="float32"))
    said = out_of(
        capsys, "diff", tmp_path / "m", "--against", "transformers", "--ids", "1,2,3,4,5,6", code=1
    )
    assert "transformers passes over use_logn_attn of the config" in said
    assert "PARTS   model.layers.0.self_attn.probs\n" in said

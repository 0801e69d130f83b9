"""The commands as a user runs them: output, exit codes, errors in one line."""

import inspect
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.commands import STORY, error_of, tiny_run, write_story
from helpers.models import random_params, small_config

from minqwen.cli import COMMANDS, main
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.generate import generate
from minqwen.model.presets import own_size
from minqwen.tokenizer.bpe import Tokenizer, bpe_train

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def text(tmp_path):
    return write_story(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"minqwen {command}" in capsys.readouterr().out


def test_no_command_and_unknown_command(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2


def test_shapes(capsys):
    assert main(["shapes", "qwen2-0.5b", "--tokens", "16"]) == 0
    out = capsys.readouterr().out
    assert "494,032,768" in out
    assert "model.layers.0..23.self_attn.q_proj.weight" in out
    assert main(["shapes", "Qwen2-7B", "--json", "--dtype", "bfloat16"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == 7_615_616_512
    assert facts["kv_cache_bytes_per_token"] == 57344
    assert facts["tensors"]["lm_head.weight"] == [152064, 3584]


def test_shapes_of_a_folder_and_of_nothing(tmp_path, capsys):
    save_checkpoint(tmp_path / "m", small_config(), random_params(small_config()))
    assert main(["shapes", str(tmp_path / "m")]) == 0
    assert "18,365" in capsys.readouterr().out
    assert "is no preset and no folder" in error_of(capsys, "shapes", "gpt-5")
    assert "--tokens must be at least 1" in error_of(capsys, "shapes", "qwen-7b", "--tokens", "0")


def test_check(capsys):
    assert main(["check", "rmsnorm"]) == 0
    assert "4 gradients, all below 1e-07" in capsys.readouterr().out
    assert main(["check", "rope", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert "no concept 'rmsprop'; there are linear" in error_of(capsys, "check", "rmsprop")


def test_check_of_a_wrong_gradient_ends_with_one(capsys, monkeypatch):
    import dataclasses

    from minqwen.commands import check

    wrong = dataclasses.replace(check.concept("rmsnorm"), backward=lambda dy, cache: (dy, cache.w))
    monkeypatch.setattr(check, "concept", lambda name: wrong)
    assert main(["check", "rmsnorm"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_train_tokenizer_and_tokenize(text, tmp_path, capsys):
    out = tmp_path / "tokenizer"
    command = ["train-tokenizer", str(text), "--vocab-size", "300", "--out", str(out)]
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["vocab_size"] == 300
    assert facts["bytes_per_token"] > 1.5

    assert main(["tokenize", "a small 模型 12\n", "--tokenizer", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    tokenizer = bpe_train(text, 300)
    assert shown["ids"] == tokenizer.encode("a small 模型 12\n")
    assert main(["tokenize", "a small", "--tokenizer", str(out)]) == 0
    assert f"{len(tokenizer.encode('a small'))} tokens, 7 characters" in capsys.readouterr().out
    assert main(["tokenize", "--file", str(text), "--tokenizer", str(out)]) == 0
    capsys.readouterr()
    assert main(["tokenize", "<|im_end|>", "--tokenizer", str(out), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["ids"]) > 1  # text, unless asked for
    assert main(["tokenize", "<|im_end|>", "--tokenizer", str(out), "--json", "--special"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == [299]


def test_bad_text_and_tokenizers(tmp_path, capsys):
    out = ["--out", str(tmp_path / "o")]
    assert "no file or folder" in error_of(capsys, "train-tokenizer", str(tmp_path / "no"), *out)
    assert "no text" in error_of(capsys, "train-tokenizer", *out)
    for content, message in ((b"\xff\xfe", "is not UTF-8 text"), (b"a\x00", "holds NUL bytes")):
        (tmp_path / "binary").write_bytes(content)
        assert message in error_of(capsys, "train-tokenizer", str(tmp_path / "binary"), *out)
    (tmp_path / "empty").mkdir()
    assert "holds no text" in error_of(capsys, "train-tokenizer", str(tmp_path / "empty"), *out)
    assert not (tmp_path / "o").exists()
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "tokenizer.json" in error_of(capsys, "tokenize", "x", "--tokenizer", str(tmp_path))
    assert error_of(capsys, "tokenize", "x", "--tokenizer", str(tmp_path / "nowhere"))


def test_pretrain_generate_and_resume(text, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(tiny_run(text, run, "--quiet")) == 0
    assert {"checkpoint", "metrics.jsonl", "loss.png"} <= {p.name for p in run.iterdir()}
    before = load_checkpoint(run / "checkpoint")[1]
    assert main(tiny_run(text, run, "--quiet")) == 0  # nothing left to do
    after = load_checkpoint(run / "checkpoint")[1]
    assert all(np.array_equal(before[k], after[k]) for k in before)
    capsys.readouterr()

    command = ["generate", str(run), "Once", "--max-new-tokens", "5"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("Once")
    assert main([*command, "--json", "--temperature", "1", "--top-p", "0.9"]) == 0
    assert 1 <= len(json.loads(capsys.readouterr().out)["ids"]) <= 5
    assert main(["generate", str(run / "checkpoint"), "", "--max-new-tokens", "2"]) == 0
    capsys.readouterr()

    assert "peak_lr" in error_of(capsys, *tiny_run(text, run, "--quiet", "--lr", "0.5"))
    assert "top_p must be" in error_of(capsys, *command, "--top-p", "3")
    assert "no checkpoint folder" in error_of(capsys, "generate", str(tmp_path / "x"), "a")
    if not _has_gpu():
        assert "cuda" in error_of(capsys, *command, "--device", "cuda")


def _has_gpu():
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.is_available())


def losses_of(run):
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def test_pretrain_goes_on_from_a_checkpoint(text, tmp_path):
    assert main(tiny_run(text, tmp_path / "a", "--quiet", "--lr", "1e-2", steps=20)) == 0
    start = ["--start-from", str(tmp_path / "a" / "checkpoint")]
    assert main(tiny_run(text, tmp_path / "b", "--quiet", *start, steps=1)) == 0
    before, after = losses_of(tmp_path / "a"), losses_of(tmp_path / "b")
    assert before[0] > before[-1] + 2  # so that a fresh model could be told from the trained one
    assert abs(after[0] - before[-1]) < 0.5


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--seed", 5, "seed"),
        ("--weight-decay", 0.25, "weight_decay"),
        ("--validation", 0.25, "validation_share"),
        ("--context", 24, "context_length"),
        ("--batch-size", 3, "batch_size"),
        ("--accumulate", 2, "accumulate"),
        ("--lr", 0.5, "peak_lr"),
        ("--warmup", 3, "warmup_steps"),
        ("--clip", 0.5, "max_norm"),
        ("--eval-every", 7, "eval_every"),
        ("--checkpoint-every", 9, "checkpoint_every"),
        ("--steps", 11, "steps"),
        ("--dtype", "float64", "dtype"),
    ],
)
def test_an_option_of_pretrain_reaches_the_settings(
    option, value, field, text, tmp_path, pretrain_call
):
    call = pretrain_call(*tiny_run(text, tmp_path / "run", "--quiet", option, str(value)))
    assert getattr(call["settings"], field) == value
    default = pretrain_call(*tiny_run(text, tmp_path / "run", "--quiet"))
    assert getattr(default["settings"], field) != value


@pytest.fixture
def pretrain_call(monkeypatch):
    """Run `minqwen pretrain` up to the training; return the arguments the training would get."""
    from minqwen.commands import pretrain as command

    signature, calls = inspect.signature(command.pretrain), []
    monkeypatch.setattr(
        command, "pretrain", lambda *args, **more: calls.append(signature.bind(*args, **more))
    )

    def call(*words):
        assert main(list(words)) == 0
        return calls.pop().arguments

    return call


def test_options_of_pretrain_change_tokenizer_model_and_rows(text, tmp_path, pretrain_call):
    out = tmp_path / "run"
    plain = pretrain_call(*tiny_run(text, out, "--quiet"))
    assert plain["rows"].shape[1] == 16 + 1
    assert plain["tokenizer"].vocab_size == plain["config"].vocab_size == 300
    assert plain["config"].hidden_size == 64

    longer = pretrain_call(*tiny_run(text, out, "--quiet", "--context", "24"))
    assert longer["rows"].shape[1] == 24 + 1
    smaller = pretrain_call(*tiny_run(text, out, "--quiet", "--vocab-size", "280"))
    assert smaller["tokenizer"].vocab_size == smaller["config"].vocab_size == 280
    wider = pretrain_call(*tiny_run(text, out, "--quiet", "--size", "small"))
    assert wider["config"].hidden_size == 128


def test_the_seed_of_pretrain_shuffles_the_documents(tmp_path, pretrain_call):
    for i in range(6):
        (tmp_path / f"{i}.txt").write_text(f"document {i} " * 9, encoding="utf-8")

    def rows(seed):
        command = tiny_run(tmp_path, tmp_path / "run", "--quiet", "--seed", str(seed))
        return pretrain_call(*command)["rows"].tolist()

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)


@pytest.fixture
def model_folder(text, tmp_path):
    """Return the folder of a random model of 300 ids, of which the last is <|im_end|>."""
    config = small_config(vocab_size=300)
    folder = tmp_path / "model"
    save_checkpoint(folder, config, random_params(config, dtype="float32"))
    bpe_train(text, 300).save_pretrained(folder)
    return folder


@pytest.fixture
def new_ids(model_folder, capsys):
    """Run `minqwen generate` for 8 tokens; return their ids."""

    def run(prompt, *more):
        command = ["generate", str(model_folder), prompt, "--max-new-tokens", "8", "--json"]
        assert main([*command, *more]) == 0
        return json.loads(capsys.readouterr().out)["ids"]

    return run


def test_options_of_generate_do_something(new_ids):
    greedy = new_ids("Once upon")
    hot = ["--temperature", "50"]
    assert new_ids("Once upon", *hot) != greedy
    assert new_ids("Once upon", *hot, "--top-k", "1") == greedy
    assert new_ids("Once upon", *hot, "--top-p", "1e-9") == greedy
    assert new_ids("Once upon", *hot, "--seed", "0") == new_ids("Once upon", *hot)
    assert new_ids("Once upon", *hot, "--seed", "1") != new_ids("Once upon", *hot)
    assert len(new_ids("Once upon", "--max-new-tokens", "3")) == 3


def test_generate_reads_control_tokens_only_with_special(new_ids, model_folder):
    config, params = load_checkpoint(model_folder)
    tokenizer = Tokenizer.from_pretrained(model_folder)
    stops = [tokenizer.special_tokens[t] for t in ("<|endoftext|>", "<|im_end|>")]

    def library(**allowed):
        ids = tokenizer.encode("Once<|im_end|>", disallowed_special=(), **allowed)
        out = generate(params, config, np.array([ids]), max_new_tokens=8, eos_token_ids=stops)
        return len(ids), out[0, len(ids) :].tolist()

    (many, plain), (few, special) = library(), library(allowed_special="all")
    assert many > few
    assert plain != special
    assert new_ids("Once<|im_end|>") == plain
    assert new_ids("Once<|im_end|>", "--special") == special


def test_pretrain_errors(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert "context_length" in error_of(capsys, *tiny_run(text, out, "--context", "0"))
    error = error_of(capsys, *tiny_run(text, out, "--context", "100000"))
    assert "one row needs context_length + 1 = 100001" in error
    assert not out.exists()
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    bad = ["--config", str(tmp_path / "config.json")]
    assert "config.json" in error_of(capsys, *tiny_run(text, out, *bad))
    assert not out.exists()


def test_a_run_that_explodes_ends_with_one(text, tmp_path, capsys):
    with np.errstate(all="ignore"):
        code = main(tiny_run(text, tmp_path / "run", "--quiet", "--lr", "1e30", steps=30))
    assert code == 1
    assert "last checkpoint" in capsys.readouterr().err
    load_checkpoint(tmp_path / "run" / "checkpoint")


def test_the_list_of_commands_says_what_their_files_say(capsys):
    import importlib

    for name, line in COMMANDS.items():
        module = importlib.import_module(f"minqwen.commands.{name.replace('-', '_')}")
        assert module.__doc__.splitlines()[0] == line


def test_an_unforeseen_error_is_one_line_and_no_traceback(capsys, monkeypatch):
    from minqwen.commands import shapes

    monkeypatch.setattr(shapes, "describe", lambda *a: {}["missing"])
    assert main(["shapes", "qwen-7b"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("minqwen: error inside minqwen")
    assert err.count("\n") == 1


def test_documents_keep_line_ends_and_folders_leave_out_what_is_not_text(tmp_path):
    import argparse

    from minqwen.commands.files import read_documents

    texts, out = tmp_path / "texts", tmp_path / "texts" / "run"
    (texts / ".git").mkdir(parents=True)
    (out / "checkpoint").mkdir(parents=True)
    (texts / "a.txt").write_bytes(b"a\r\nb\rc\n")
    (texts / "b.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
    (texts / "c.png").write_bytes(b"\x89PNG\0\xff")
    (texts / ".git" / "HEAD").write_text("ref", encoding="utf-8")
    (out / "checkpoint" / "tokenizer.json").write_text("{}", encoding="utf-8")
    args = argparse.Namespace(files=[texts], builtin=[], out=out)
    assert read_documents(args) == ["a\r\nb\rc\n", "with a mark"]


def test_a_pipe_is_read(tmp_path):
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "minqwen", "train-tokenizer", pipe, "--vocab-size", "270"]
    process = subprocess.Popen([*command, "--out", out, "--json"], cwd=ROOT, stdout=subprocess.PIPE)
    pipe.write_text(STORY * 10, encoding="utf-8")
    assert json.loads(process.communicate(timeout=60)[0])["vocab_size"] == 270


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="no preset"):
        main(["shapes", "gpt-5", "--debug"])


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_leaves_a_loadable_checkpoint_and_exit_code_130(text, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "minqwen", *tiny_run(text, run, steps=100000)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    metrics = run / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and metrics.read_text("utf-8").count("\n") > 20:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in err
    config, params = load_checkpoint(run / "checkpoint")
    assert config.hidden_size == 64
    assert all(np.isfinite(v).all() for v in params.values())


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(text, tmp_path):
    bpe_train(text, 280).save_pretrained(tmp_path / "t")
    big = tmp_path / "big.txt"
    big.write_text(STORY * 3000, encoding="utf-8")
    command = f"{sys.executable} -m minqwen tokenize --file {big} --tokenizer {tmp_path / 't'}"
    done = subprocess.run(
        f"{command} | head -2", shell=True, cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == b""


@pytest.mark.slow
def test_the_tour(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "tour"
    assert main(["tour", "--out", str(out), "--steps", "3"]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    for part in ("Proof", "Tokenizer", "Training", "Attention", "Samples", "data:image/png"):
        assert part in page
    assert "http" not in page  # nothing from outside
    load_checkpoint(out / "run" / "checkpoint")
    assert main(["tour", "--out", str(out), "--steps", "3"]) == 0  # again, in its own folder

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x", encoding="utf-8")
    capsys.readouterr()
    assert "holds other files" in error_of(capsys, "tour", "--out", str(tmp_path / "mine"))


LONG = {
    "plain": (
        {},
        100,
        [
            "trained length 2,048; what acts",
            "layers 0..3: RoPE as trained; sees all tokens",
            "\none decoder block, B=1 T=100\n",
        ],
    ),
    "yarn": (
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
        100,
        [
            "trained length 64; what acts",
            "layers 0..3: RoPE by YaRN, slowest wavelength 79,477 tokens, ",
            "cos and sin times 1.1386; sees all",
        ],
    ),
    "upper windows": (
        {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 3},
        100,
        [
            "layers 0..2: RoPE as trained; sees all",
            "layer 3: RoPE as trained; sees the last 32 tok",
            "\ndecoder block 0..2, B=1 T=100\n",
            "\ndecoder block 3, B=1 T=100\n",
        ],
    ),
    "ladder": (
        {
            "layer_windows": [64, 64, 128, 256],
            "use_dynamic_ntk": True,
            "use_logn_attn": True,
            "max_position_embeddings": 64,
        },
        100,
        [
            "layers 0..1: RoPE as trained; LogN from position 64 on; sees the last 64 tokens",
            "layer 2: RoPE with NTK, alpha 3, slowest",
            "layer 3: RoPE with NTK, alpha 3, slowest",
        ],
    ),
    "short enough": (
        {"use_dynamic_ntk": True, "use_logn_attn": True, "max_position_embeddings": 100},
        100,
        ["layers 0..3: RoPE as trained; sees all tokens"],
    ),
    "dual chunks": (
        {
            "dual_chunk_attention_config": {
                "chunk_size": 64,
                "local_size": 16,
                "original_max_position_embeddings": 85,
            }
        },
        100,
        [
            "trained length 85; what acts",
            "layers 0..3: RoPE as trained; dual chunks of 48 tokens, positions up to 63; sees all",
        ],
    ),
    "yarn and LogN": (  # which goes by max_position_embeddings
        {
            "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64},
            "use_logn_attn": True,
            "max_position_embeddings": 90,
        },
        100,
        ["trained length 90; what acts", "; LogN from position 90 on; sees all tokens"],
    ),
    "experts in every second layer": (
        {
            "model_type": "qwen2_moe",
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 0,
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
        },
        100,
        [
            "F=384 E=5 K=2 Fe=24",
            "layers 1,3: 5 experts of width 24, 2 for each token; their weights sum to 1",
            "  model.layers.1,3.mlp.experts.gate_up_proj ",
            "  model.layers.0,2.mlp.gate_proj.weight ",
            "\ndecoder block 0,2, B=1 T=100\n",
            "\ndecoder block 1,3, B=1 T=100\n",
            "\n  activated parameters ",
        ],
    ),
    "not ours": (
        {"rope_scaling": {"rope_type": "longrope"}},
        100,
        ["RoPE of type longrope;", "does not compute rope_scaling of type longrope"],
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_shapes_says_for_each_layer_what_acts(name, tmp_path, capsys):
    fields, length, lines = LONG[name]
    config = own_size("small", vocab_size=300).to_dict() | fields
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["shapes", str(tmp_path), "--tokens", str(length)]) == 0
    printed = capsys.readouterr().out
    for line in lines:
        assert line in printed
    assert main(["shapes", str(tmp_path), "--tokens", str(length), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["layers"]) == 4
    slower = {"yarn": 4, "ladder": 3, "yarn and LogN": 2}.get(name, 1)  # YaRN's factor, alpha
    want = slower * 2 * math.pi * 10000 ** (14 / 16)  # tokens in a turn of the last pair of Dh=16
    assert abs(facts["layers"][3]["slowest_wavelength"] / want - 1) < 1e-12
    seen = sum(min(i + 1, 64 if name == "ladder" else 100) for i in range(100))  # by layer 0
    (attention,) = (
        o for o in facts["blocks"][0]["operations"] if o["name"] == "self_attn.attention"
    )
    assert attention["flops"] == 4 * 8 * 16 * seen  # H, Dh; a product for scores, one for values
    if name == "ladder":
        assert [layer["ntk_alpha"] for layer in facts["layers"]] == [1, 1, 3, 3]
        heads = 2 * 2 * 16  # keys and values, Hkv, Dh
        assert facts["kv_cache_bytes"] == 2 * heads * (100 + 100 + 100 + 100)

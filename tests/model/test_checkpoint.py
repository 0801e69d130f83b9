"""Checkpoint folders: round trips, layouts, first-generation names, and every kind of damage."""

import errno
import json
import os

import numpy as np
import pytest
from helpers.models import random_params, small_config

from minqwen.model import checkpoint
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.language_model import language_model_forward

safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")
IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture
def config():
    return small_config()


@pytest.fixture
def params(config):
    return random_params(config, dtype="float32")


def same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("file_format", ["safetensors", "npz", None])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_round_trip(tmp_path, config, params, file_format, dtype):
    params = {k: v.astype(dtype) for k, v in params.items()}
    save_checkpoint(tmp_path / "a" / "model", config, params, file_format=file_format)
    again, loaded = load_checkpoint(tmp_path / "a" / "model", dtype=None)
    assert again == config
    same(loaded, params)
    assert os.listdir(tmp_path / "a") == ["model"]  # nothing left behind
    loaded["model.norm.weight"][0] = 7  # ours to change


def test_bfloat16_is_kept_and_widened_exactly(tmp_path, config, params):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    save_checkpoint(tmp_path / "m", config, params, dtype="bfloat16")
    _, kept = load_checkpoint(tmp_path / "m", dtype=None)
    assert {v.dtype for v in kept.values()} == {np.dtype(ml_dtypes.bfloat16)}
    _, wide = load_checkpoint(tmp_path / "m")
    for name in wide:
        want = params[name].astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(wide[name], want)
    logits, _ = language_model_forward(kept, config, IDS)  # and such a model runs
    exact, _ = language_model_forward(wide, config, IDS)
    assert logits.dtype == ml_dtypes.bfloat16
    assert np.abs(logits.astype(np.float32) - exact).max() < 0.1 * np.abs(exact).max()


def test_weights_in_parts(tmp_path, config, params):
    save_checkpoint(tmp_path / "m", config, params)
    os.remove(tmp_path / "m" / "model.safetensors")
    names, weight_map = list(params), {}
    for i, part in enumerate((names[:9], names[9:])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        safetensors_numpy.save_file({n: params[n] for n in part}, tmp_path / "m" / file)
        weight_map.update(dict.fromkeys(part, file))
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    same(load_checkpoint(tmp_path / "m")[1], params)

    os.remove(tmp_path / "m" / "model-00002-of-00002.safetensors")
    with pytest.raises(FileNotFoundError, match="of 2 parts model-00002-of-00002"):
        load_checkpoint(tmp_path / "m")
    index.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="is not an index of weights"):
        load_checkpoint(tmp_path / "m")


def test_names_of_the_first_qwen(tmp_path, config, params):
    """w2 is the gate and w1 is up; swapped, the shapes would fit and every number be wrong."""
    config = small_config(num_key_value_heads=6)
    params = random_params(config, dtype="float32")
    old = {
        "transformer.wte.weight": params["model.embed_tokens.weight"],
        "transformer.ln_f.weight": params["model.norm.weight"],
        "lm_head.weight": params["lm_head.weight"],
        "transformer.rotary_emb.inv_freq": np.ones(5, np.float32),
    }
    for i in range(2):
        new, h = f"model.layers.{i}", f"transformer.h.{i}"
        for kind in ("weight", "bias"):
            qkv = [params[f"{new}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            old[f"{h}.attn.c_attn.{kind}"] = np.concatenate(qkv)
        for theirs, ours in {
            "attn.c_proj": "self_attn.o_proj",
            "mlp.w1": "mlp.up_proj",
            "mlp.w2": "mlp.gate_proj",
            "mlp.c_proj": "mlp.down_proj",
            "ln_1": "input_layernorm",
            "ln_2": "post_attention_layernorm",
        }.items():
            old[f"{h}.{theirs}.weight"] = params[f"{new}.{ours}.weight"]
    folder = tmp_path / "qwen"
    folder.mkdir()
    safetensors_numpy.save_file(old, folder / "model.safetensors")
    values = {
        "model_type": "qwen",
        "vocab_size": 61,
        "hidden_size": 29,
        "intermediate_size": 46,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "kv_channels": 10,
        "rotary_emb_base": 1000.0,
        "seq_length": 64,
    }
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    loaded_config, loaded = load_checkpoint(folder)
    same(loaded, params)
    want, _ = language_model_forward(params, config, IDS)
    np.testing.assert_array_equal(language_model_forward(loaded, loaded_config, IDS)[0], want)

    # c_attn with too few rows: the part that is short is named
    old["transformer.h.1.attn.c_attn.weight"] = old["transformer.h.1.attn.c_attn.weight"][:-3]
    safetensors_numpy.save_file(old, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"mis-shaped model\.layers\.1\.self_attn\.v_proj\.weight"):
        load_checkpoint(folder)


def test_a_tied_model_stored_with_both_tables(tmp_path):
    config = small_config(tie_word_embeddings=True)
    params = random_params(config, dtype="float32")
    save_checkpoint(tmp_path / "m", config, params)
    both = {**params, "lm_head.weight": params["model.embed_tokens.weight"].copy()}
    safetensors_numpy.save_file(both, tmp_path / "m" / "model.safetensors")
    same(load_checkpoint(tmp_path / "m")[1], params)


def test_one_error_lists_missing_extra_and_misshaped(tmp_path, config, params):
    save_checkpoint(tmp_path / "m", config, params)
    wrong = {**params, "model.norm.weight": np.ones(5, np.float32), "more": np.ones(1, np.float32)}
    del wrong["lm_head.weight"]
    safetensors_numpy.save_file(wrong, tmp_path / "m" / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"missing lm_head\.weight; extra more; mis-shaped model\.nor"
    ):
        load_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("file_format", ["safetensors", "npz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "middle"])
def test_damaged_files_are_a_clear_error(tmp_path, config, params, file_format, damage):
    save_checkpoint(tmp_path / "m", config, params, file_format=file_format)
    path = tmp_path / "m" / f"model.{file_format}"
    data = path.read_bytes()
    data = {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "noise": bytes(range(256)) * 8,
        "middle": data[:40] + b"\xff" * 400 + data[440:],
    }[damage]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"model.{file_format}.* is corrupt or cut off"):
        load_checkpoint(tmp_path / "m")


def test_missing_files(tmp_path, config, params):
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        load_checkpoint(tmp_path / "nowhere")
    save_checkpoint(tmp_path / "m", config, params)
    os.remove(tmp_path / "m" / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"has no weights: no model\.safetensors"):
        load_checkpoint(tmp_path / "m")
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="convert them to safetensors"):
        load_checkpoint(tmp_path / "m")


def test_a_folder_with_other_files_is_not_replaced(tmp_path, config, params):
    save_checkpoint(tmp_path / "m", config, params)
    save_checkpoint(tmp_path / "m", config, params)  # our own kind is
    (tmp_path / "m" / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        save_checkpoint(tmp_path / "m", config, params)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is a file"):
        save_checkpoint(tmp_path / "file", config, params)


@pytest.mark.parametrize(
    ("says", "number", "why"),
    [
        (
            "Error while serializing: I/O error: No space left on device (os error 28)",
            errno.ENOSPC,
            "No space left on device",
        ),
        (
            'I/O error: File too large (os error 27) at path "/a:b/.tmpvZkwOH"',
            errno.EFBIG,
            "File too large",
        ),
        (
            "Error while serializing: IoError(Os { code: 28, kind: StorageFull, "
            'message: "No space left on device" })',
            errno.ENOSPC,
            "No space left on device",
        ),
    ],
)
def test_an_error_of_the_disk_is_an_os_error(
    tmp_path, config, params, says, number, why, monkeypatch
):
    def fails(*args, **kwargs):
        raise safetensors.SafetensorError(says)

    save_checkpoint(tmp_path / "m", config, params)
    monkeypatch.setattr(safetensors_numpy, "save_file", fails)
    with pytest.raises(OSError, match=why) as error:
        save_checkpoint(tmp_path / "m", config, params)
    assert (error.value.errno, error.value.strerror) == (number, why)
    assert error.value.filename.endswith("model.safetensors")
    assert os.listdir(tmp_path) == ["m"]
    same(load_checkpoint(tmp_path / "m")[1], params)


def test_an_error_of_the_package_that_is_not_of_the_disk_stays_one(
    tmp_path, config, params, monkeypatch
):
    def fails(*args, **kwargs):
        raise safetensors.SafetensorError("Error while serializing: InvalidTensorView")

    monkeypatch.setattr(safetensors_numpy, "save_file", fails)
    with pytest.raises(safetensors.SafetensorError, match="InvalidTensorView"):
        save_checkpoint(tmp_path / "m", config, params)


def test_a_disk_that_takes_no_more_is_an_os_error(tmp_path, config, params):
    """With the package's own words: the kernel refuses the file."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            save_checkpoint(tmp_path / "m", config, params, file_format="safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failing", ["write", "first rename", "second rename"])
def test_a_failure_leaves_the_old_checkpoint_whole(tmp_path, config, params, failing, monkeypatch):
    save_checkpoint(tmp_path / "m", config, params)
    changed = {name: value + 1 for name, value in params.items()}

    if failing == "write":
        monkeypatch.setattr(checkpoint, "SINGLE", "no/such/folder.safetensors")
    else:
        calls, real = [], os.replace

        def replace(a, b):
            calls.append(a)
            if len(calls) == (1 if failing == "first rename" else 2):
                raise OSError("disk full")
            real(a, b)

        monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Exception, match=r"disk full|No such file|I/O error"):
        save_checkpoint(tmp_path / "m", config, changed)
    monkeypatch.undo()
    same(load_checkpoint(tmp_path / "m")[1], params)
    assert os.listdir(tmp_path) == ["m"]


def test_a_missing_package_is_an_import_error_with_the_pip_line(
    tmp_path, config, params, monkeypatch
):
    import sys

    save_checkpoint(tmp_path / "m", config, params)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install 'minqwen\[hf\]'"):
        load_checkpoint(tmp_path / "m")
    with pytest.raises(ImportError, match=r"pip install 'minqwen\[hf\]'"):
        save_checkpoint(tmp_path / "n", config, params, file_format="safetensors")
    save_checkpoint(tmp_path / "n", config, params)  # falls back to what needs no package
    assert (tmp_path / "n" / "model.npz").is_file()
    same(load_checkpoint(tmp_path / "n")[1], params)


def test_wrong_arguments(tmp_path, config, params):
    with pytest.raises(ValueError, match="dtype must be float16, bfloat16"):
        load_checkpoint_of(tmp_path, config, params, dtype="int8")
    with pytest.raises(ValueError, match="file_format must be"):
        save_checkpoint(tmp_path / "n", config, params, file_format="pickle")
    with pytest.raises(ValueError, match="params do not fit the config"):
        save_checkpoint(tmp_path / "n", config, {})
    assert not (tmp_path / "n").exists()


def load_checkpoint_of(tmp_path, config, params, dtype):
    save_checkpoint(tmp_path / "m", config, params)
    return load_checkpoint(tmp_path / "m", dtype=dtype)


def test_a_crash_between_the_two_renames_is_recovered(tmp_path, config, params):
    """What a kill leaves at that moment: nothing under the name, the old folder aside."""
    save_checkpoint(tmp_path / "m", config, params)
    os.replace(tmp_path / "m", tmp_path / ".m.old")
    same(load_checkpoint(tmp_path / "m")[1], params)  # reading finds it, and changes nothing
    assert os.listdir(tmp_path) == [".m.old"]

    changed = {name: value + 1 for name, value in params.items()}
    save_checkpoint(tmp_path / "m", config, changed)  # saving finds the same state
    same(load_checkpoint(tmp_path / "m")[1], changed)
    assert os.listdir(tmp_path) == ["m"]


def test_a_kill_at_every_moment_leaves_a_checkpoint(tmp_path, config, params):
    """The process ends inside the k-th call of os.replace or os.fsync, for every k."""
    import subprocess
    import sys

    save_checkpoint(tmp_path / "m", config, params, file_format="npz")
    program = """
import os, sys
import numpy as np
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
place, k = sys.argv[1], int(sys.argv[2])
config, params = load_checkpoint(place)
calls = 0
def counted(name):
    real = getattr(os, name)
    def call(*args):
        global calls
        calls += 1
        if calls == k:
            os._exit(9)
        return real(*args)
    setattr(os, name, call)
counted("replace"), counted("fsync")
save_checkpoint(place, config, {n: v + 1 for n, v in params.items()}, file_format="npz")
"""
    base = params["model.norm.weight"][0]
    for k in range(1, 30):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "m"), str(k)], check=False
        )
        _, loaded = load_checkpoint(tmp_path / "m")
        moved = loaded["model.norm.weight"][0] - base
        assert round(float(moved)) in (0, 1)
        if done.returncode == 0:
            break
        if round(float(moved)) == 1:
            save_checkpoint(tmp_path / "m", config, params, file_format="npz")
    assert done.returncode == 0
    assert k > 4  # every step was there to be killed in


def test_the_tokenizer_of_the_old_folder_is_kept(tmp_path, config, params):
    save_checkpoint(tmp_path / "m", config, params)
    for name in ("tokenizer.json", "merges.txt", "generation_config.json"):
        (tmp_path / "m" / name).write_text(name, encoding="utf-8")
    save_checkpoint(tmp_path / "m", config, params, file_format="npz")
    assert sorted(os.listdir(tmp_path / "m")) == [
        "config.json", "generation_config.json", "merges.txt", "model.npz", "tokenizer.json",
    ]  # fmt: skip


def test_npz_refuses_bfloat16(tmp_path, config, params):
    pytest.importorskip("ml_dtypes")
    with pytest.raises(ValueError, match=r"npz files cannot hold bfloat16"):
        save_checkpoint(tmp_path / "m", config, params, dtype="bfloat16", file_format="npz")
    assert os.listdir(tmp_path) == []

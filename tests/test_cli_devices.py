"""`--device`, on every command that computes with a model: it runs there, or says what is missing.

Without CuPy, or without a GPU that it can use, each command ends with one line and exit code 2, and
has written nothing. On the strict fake device each command comes to what it comes to on the host.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import pytest
from helpers.commands import error_of, tiny_run, write_story
from helpers.fake_device import count_syncs, install
from helpers.preferences import write_preferences

from minqwen.alignment.reward_model import to_reward_model
from minqwen.backend import DEVICES
from minqwen.check.tracing.trace_file import Trace
from minqwen.cli import COMMANDS, build_parser, main
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.tokenizer.bpe import Tokenizer

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")

WITHOUT = {  # and why
    "tour": "tour",
    "shapes": "numbers of a config",
    "tokenize": "text",
    "dedup": "text",
    "filter": "one document at a time, in processes that are forked",
    "train-classifier": "text",
    "mix": "text",
    "train-tokenizer": "text",
    "upcycle": "copies weights",
    "check": "float64 and small",
    "explain": "float64 and small",
    "assign": "text",
    "grade": "float64 and small",
}
CHAT = {"messages": [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "1"}]}
# of more than 64 tokens attention cuts blocks, on a GPU larger ones: other sums, other roundings
TRAINED = ("--steps", "2", "--quiet", "--batch-size", "2", "--context", "60")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a run, a reward model, and a file for each stage."""
    folder = tmp_path_factory.mktemp("inputs")
    text = write_story(folder)
    assert main(tiny_run(text, folder / "run", "--quiet", steps=1)) == 0
    config, params = load_checkpoint(folder / "run" / "checkpoint")
    tokenizer = Tokenizer.from_pretrained(folder / "run" / "checkpoint")
    config, params = to_reward_model(params, config, np.random.default_rng(0))
    save_checkpoint(folder / "judge", config, params, tokenizer=tokenizer)
    (folder / "chats.jsonl").write_text(f"{json.dumps(CHAT)}\n" * 4, encoding="utf-8")
    (folder / "prompts.jsonl").write_text('{"prompt": "Count."}\n' * 2, encoding="utf-8")
    write_preferences(folder / "pairs.jsonl")
    return folder


def words(name, at, out):
    """Return the words of a short run of a command, which reads in `at` and writes to `out`."""
    start = ("--start-from", f"{at}/run", "--out", f"{out}/{name}")
    return {
        "generate": ("generate", f"{at}/run", "Once", "--max-new-tokens", "4", "--json"),
        "agent": ("agent", "2 + 2?", "--model", f"{at}/run", "--max-new-tokens", "4", "--json")
        + ("--max-steps", "1"),
        "pretrain": tuple(tiny_run(at / "story.txt", out / name, "--quiet", steps=2)),
        "sft": ("sft", f"{at}/chats.jsonl", *start, *TRAINED),
        "reward": ("reward", f"{at}/pairs.jsonl", *start, *TRAINED),
        "reward --score": ("reward", f"{at}/pairs.jsonl", "--start-from", f"{at}/judge")
        + ("--out", f"{out}/scored", "--score", "--json"),
        "dpo": ("dpo", f"{at}/pairs.jsonl", *start, *TRAINED),
        "ppo": ("ppo", f"{at}/prompts.jsonl", *start, "--reward-model", f"{at}/judge")
        + ("--steps", "2", "--quiet", "--batch-size", "2", "--max-new-tokens", "3"),
        "lab": ("lab", "long-context", "--quick", "--steps", "2", "--out", f"{out}/lab"),
        "trace": ("trace", f"{at}/run", "--ids", "5,17,3", "--backward", "--out", f"{out}/t.npz"),
        "diff": ("diff", f"{at}/run", f"{at}/host.npz"),
    }[name]


COMPUTE = ("generate", "agent", "pretrain", "sft", "reward", "dpo", "ppo", "lab", "trace", "diff")


def test_every_command_that_computes_with_a_model_has_a_device():
    found = {}
    for name in COMMANDS:
        actions = build_parser([name])._actions
        (commands,) = [a for a in actions if isinstance(a, argparse._SubParsersAction)]
        found[name] = commands.choices[name]._option_string_actions.get("--device")
    assert {name for name, action in found.items() if action} == set(COMPUTE)
    assert {name for name, action in found.items() if not action} <= set(WITHOUT)
    for name in COMPUTE:
        assert (tuple(found[name].choices), found[name].default) == (DEVICES, "cpu")
    page = pathlib.Path(__file__).parents[1].joinpath("docs/gpu.md").read_text(encoding="utf-8")
    for name in (*COMPUTE, *WITHOUT):
        assert f"`{name}`" in page


def put_in_place(state, monkeypatch):
    """Let CuPy be missing, or find no GPU."""
    if state == "no CuPy":
        monkeypatch.setitem(sys.modules, "cupy", None)
    else:
        install(monkeypatch).is_available = lambda: False


MESSAGES = {"no CuPy": r"pip install 'minqwen[gpu]'", "no GPU": "finds no usable GPU"}


def everything_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("state", MESSAGES)
@pytest.mark.parametrize("name", [*COMPUTE, "reward --score"])
def test_what_is_missing_is_said_before_anything_is_written(
    name, state, inputs, tmp_path, monkeypatch, capsys
):
    put_in_place(state, monkeypatch)
    before = everything_in(inputs) | everything_in(tmp_path)
    message = error_of(capsys, *words(name, inputs, tmp_path), "--device", "cuda")
    assert message.startswith("minqwen: error: device cuda")
    assert MESSAGES[state] in message
    assert everything_in(inputs) | everything_in(tmp_path) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("agent", "?", "--server", "http://x", "--server-model", "m"), "a server has its own"),
        (("trace", "x", "--ids", "1", "--transformers"), "transformers are run on the cpu"),
        (("diff", "a.npz", "b.npz"), "nothing is computed anew"),
        (("lab", "alignment"), "lab alignment runs on the cpu"),
        (("lab", "precision"), "lab precision runs on the cpu"),
    ],
)
def test_a_device_that_would_do_nothing_is_refused(given, message, monkeypatch, capsys, tmp_path):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for file in ("a.npz", "b.npz"):
        trace = Trace()
        trace.add("logits", "V", np.ones(3))
        trace.save(tmp_path / file)
    assert message in error_of(capsys, *given, "--device", "cuda")


def results(name, at, out, device, capsys):
    """Run a command; return what it printed, and every number it wrote."""
    out.mkdir()
    capsys.readouterr()
    code = main([*words(name, at, out), "--device", device])
    printed = capsys.readouterr().out.replace(str(out), "OUT")
    assert code == (1 if name == "agent" else 0)  # an untrained model gives no final answer
    numbers = {}
    for path in sorted(out.rglob("*")):
        if path.name == "config.json":
            _, params = load_checkpoint(path.parent, dtype=None)
            numbers |= {f"{path.parent.relative_to(out)} {key}": w for key, w in params.items()}
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                numbers |= {f"{path.relative_to(out)} {k}": arrays[k] for k in arrays.files}
    return printed, numbers


@pytest.mark.parametrize(
    "name",
    [
        *(n for n in COMPUTE if n != "lab"),
        "reward --score",
        pytest.param("lab", marks=pytest.mark.slow),
    ],
)
def test_on_the_device_a_command_comes_to_the_same(name, inputs, tmp_path, monkeypatch, capsys):
    if name == "diff":
        host = ("trace", f"{inputs}/run", "--ids", "5,17,3", "--out", f"{inputs}/host.npz")
        assert main(list(host)) == 0
    printed, numbers = results(name, inputs, tmp_path / "host", "cpu", capsys)
    install(monkeypatch)
    with count_syncs() as syncs:
        there, device_numbers = results(name, inputs, tmp_path / "device", "cuda", capsys)
    assert syncs, "nothing was computed on the device"
    if name != "lab":  # says how long it took
        assert there == printed
    assert device_numbers.keys() == numbers.keys()
    for key, value in numbers.items():
        np.testing.assert_array_equal(device_numbers[key], value, err_msg=key)

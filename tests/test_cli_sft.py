"""`minqwen sft` as a user runs it: a base model, a file of chats, a run that is gone on with."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.commands import STORY, error_of, tiny_run, write_story

from minqwen.alignment.settings import REPORT_SFT, SftSettings
from minqwen.cli import build_parser, main
from minqwen.commands.alignment_files import choose_settings
from minqwen.commands.sft import OPTIONS, PRESETS
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.init import init_params
from minqwen.tokenizer.bpe import Tokenizer, bpe_train
from minqwen.tokenizer.chatml import encode_chat
from minqwen.training.resume import load_run, read_training

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")

QUESTION = {"role": "user", "content": "Count."}
CHATS = [
    [QUESTION, {"role": "assistant", "content": "1 2 3"}],
    [{"role": "system", "content": "短"}, QUESTION, {"role": "assistant", "content": "4 5"}],
    [QUESTION, {"role": "assistant", "content": "5 4 3 2 1"}],
    [QUESTION, {"role": "assistant", "content": "2"}],
]


def write_chats(path, chats=CHATS, *more):
    lines = [json.dumps({"messages": chat}, ensure_ascii=False) for chat in chats]
    path.write_text("\n".join([*lines, *more]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The run of a small base model."""
    folder = tmp_path_factory.mktemp("base")
    assert main(tiny_run(write_story(folder), folder / "run", "--quiet", steps=1)) == 0
    return folder / "run"


@pytest.fixture
def chats(tmp_path):
    return write_chats(tmp_path / "chats.jsonl")


def words(chats, base, out, *more, steps=4):
    return [
        "sft", str(chats), "--start-from", str(base), "--out", str(out), "--quiet",
        "--steps", str(steps), "--batch-size", "2", "--context", "80", *more,
    ]  # fmt: skip


def rows_in(out):
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def steps_in(out):
    return [row["step"] for row in rows_in(out) if "loss" in row]


@pytest.mark.parametrize("packed", [False, True])
def test_trains_from_a_run_or_its_checkpoint_and_goes_on(base, chats, tmp_path, capsys, packed):
    more = ["--packed"] if packed else []
    out = tmp_path / "run"
    assert main(words(chats, base, out, *more)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("trained 4 steps; ")
    assert steps_in(out) == [1, 2, 3, 4]
    assert (out / "metrics.png").exists()
    assert read_training(out / "checkpoint")["settings"]["packed"] is packed
    assert main(words(chats, base / "checkpoint", out, *more, steps=6)) == 0
    assert steps_in(out) == [1, 2, 3, 4, 5, 6]
    assert load_run(out, "float32")[1]["step"] == 6
    capsys.readouterr()
    error = error_of(capsys, *words(chats, out, out, *more, steps=6))
    assert "has another start_model" in error  # a run does not start from itself


def words_of(line):
    """The words of a line as bash reads it, with $'...', which shlex does not know."""

    def plain(found):
        escapes = {"\\n": "\n", "\\'": "'", "\\\\": "\\"}
        return shlex.quote(re.sub(r"\\.", lambda one: escapes[one[0]], found[1]))

    return shlex.split(re.sub(r"\$'((?:[^'\\]|\\.)*)'", plain, line))


@pytest.mark.parametrize("folder", ["run", "my 'run' $HOME"])
def test_the_line_that_is_printed_asks_the_model_in_chatml(base, chats, tmp_path, capsys, folder):
    out = tmp_path / folder
    assert main(words(chats, base, out, "--template", "qwen1.5", steps=1)) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    found = words_of(line)
    asks = found[found.index("generate") :]
    assert main([*asks, "--max-new-tokens", "2", "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["prompt"]
    tokenizer = Tokenizer.from_pretrained(out / "checkpoint")
    asked = [{"role": "user", "content": "your text"}]
    expected = encode_chat(tokenizer, asked, template="qwen1.5", generation_prompt=True).ids
    assert tokenizer.encode(text, allowed_special="all") == expected
    assert asks == ["generate", str(out), text, "--special"]
    if sys.platform != "win32":
        shell = f"printf '%s\\0' {line}"
        ran = subprocess.run(["bash", "-c", shell], capture_output=True, check=True)
        assert ran.stdout.decode().split("\0")[:-1] == found


def test_says_what_it_found(base, tmp_path, capsys):
    chats = write_chats(tmp_path / "c.jsonl", [CHATS[0]] * 19 + [[QUESTION]])
    command = words(chats, base, tmp_path / "run", "--validation", "0.1", steps=1)
    command.remove("--quiet")
    assert main(command) == 0
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first == f"{chats}: 1 of 20 chats left out, no token is trained on: line 20"
    assert re.match(r"17 chats, \d+ tokens to train on; 2 chats held out; [\d,]+ param", second)
    assert [row["step"] for row in rows_in(tmp_path / "run") if "validation_loss" in row] == [0, 1]


def test_what_cannot_be_used_is_never_held_out(base, tmp_path, capsys):
    """Half of two is one, by whatever seed: the three others are no choice."""
    chats = write_chats(tmp_path / "c.jsonl", [[QUESTION], CHATS[0], [QUESTION], CHATS[3]])
    for seed in range(6):
        out = tmp_path / str(seed)
        more = ("--validation", "0.5", "--seed", str(seed), "--preset", "small")
        assert main(words(chats, base, out, *more, steps=1)) == 0
        assert "validation_loss" in rows_in(out)[0]
    error = capsys.readouterr().err
    assert error.count("c.jsonl: 2 of 4 chats left out, no token is trained on: line 1, 3\n") == 6


def test_notes_name_the_file_and_the_line(base, tmp_path, capsys):
    long, late = ([{**QUESTION, "content": text}, CHATS[0][1]] for text in ("Count.", "x " * 99))
    long = [long[0], {"role": "assistant", "content": "1 2 3 4 5 " * 20}]
    chats = write_chats(tmp_path / "c.jsonl", [CHATS[0], long, CHATS[3]])
    held_out = write_chats(tmp_path / "held.jsonl", [CHATS[0], [QUESTION], late, long])
    out = tmp_path / "run"
    assert main(words(chats, base, out, "--validation", str(held_out), steps=1)) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"{chats}: 1 of 3 chats cut after 81 tokens: line 2",
        f"{held_out}: 1 of 4 chats left out, no token is trained on: line 2",
        f"{held_out}: 1 of 4 chats left out, what is trained on comes after the first 81 tokens: "
        "line 3",
        f"{held_out}: 1 of 4 chats cut after 81 tokens: line 4",
    ]


def test_held_out_chats_can_be_a_file(base, chats, tmp_path, capsys):
    held_out = write_chats(tmp_path / "held-out.jsonl", CHATS[:1])
    out = tmp_path / "run"
    assert main(words(chats, base, out, "--validation", str(held_out), steps=1)) == 0
    write_chats(held_out, CHATS[1:2])
    error = error_of(capsys, *words(chats, base, out, "--validation", str(held_out), steps=1))
    assert "was validated on other validation_rows" in error
    for bad, message in (
        ("1.5", "must be a file, or a share in [0, 1), got 1.5"),
        ("0.9", "--validation 0.9 of 4 leaves nothing to train on"),
        ("none.jsonl", "none.jsonl"),
    ):
        error = error_of(capsys, *words(chats, base, tmp_path / "no", "--validation", bad))
        assert message in error
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [{"role": "user"}]}', "content"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "role"),
        ('{"chat": []}', "the field 'messages' is missing"),
        ('{"messages": [', "not JSON"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}]}',
            "messages[1] is about tools, the template has no form for them",
        ),
    ],
)
def test_a_wrong_line_is_named(base, tmp_path, capsys, line, message):
    chats = write_chats(tmp_path / "chats.jsonl", CHATS, line)
    error = error_of(capsys, *words(chats, base, tmp_path / "run"))
    assert f"{chats}, line 5: " in error
    assert message in error
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_fine_tuned_is_named(base, chats, tmp_path, capsys):
    out = tmp_path / "run"
    bpe_train(STORY, 280, special_tokens=["<|endoftext|>", "<|im_end|>"]).save_pretrained(
        tmp_path / "t"
    )
    error = error_of(capsys, *words(chats, base, out, "--tokenizer", str(tmp_path / "t")))
    assert "has no <|im_start|>, which a chat is told with" in error
    assert "train-tokenizer" in error
    bpe_train(STORY, 301).save_pretrained(tmp_path / "large")
    error = error_of(capsys, *words(chats, base, out, "--tokenizer", str(tmp_path / "large")))
    assert "has 301 ids, the model in" in error
    assert "vocab_size=300 rows" in error
    config = replace(load_checkpoint(base / "checkpoint")[0], num_labels=1)
    save_checkpoint(tmp_path / "rm", config, init_params(config, np.random.default_rng(0)))
    error = error_of(capsys, *words(chats, tmp_path / "rm", out))
    assert "gives a score, but logits must come out here" in error
    assert "no checkpoint folder" in error_of(capsys, *words(chats, tmp_path / "none", out))
    assert not out.exists()


def test_nothing_to_learn_is_an_error_before_anything_is_written(base, tmp_path, capsys):
    chats = write_chats(tmp_path / "c.jsonl", [[QUESTION]])
    error = error_of(capsys, *words(chats, base, tmp_path / "run"))
    assert f"{chats}: nothing can be learnt from it: 1 of 1 chats left out, no token" in error
    assert not (tmp_path / "run").exists()


def settings_of(tmp_path, *more):
    line = ["sft", "c.jsonl", "--start-from", "m", "--out", str(tmp_path / "run"), *more]
    return choose_settings(build_parser(line).parse_args(line), PRESETS, OPTIONS)


def test_settings_are_those_of_the_preset_and_what_is_given(tmp_path):
    assert settings_of(tmp_path) == SftSettings()
    assert settings_of(tmp_path, "--preset", "report") == REPORT_SFT
    changed = settings_of(
        tmp_path,
        *("--preset", "report", "--steps", "400", "--lr", "0.5", "--clip", "inf", "--packed"),
        *("--train-on", "answers_and_markers", "--dropout", "0", "--context", "9", "--seed", "3"),
    )
    assert changed == replace(
        REPORT_SFT,
        **{"steps": 400, "warmup_steps": 143, "peak_lr": 0.5, "max_norm": float("inf")},
        **{"packed": True, "train_on": "answers_and_markers", "dropout": 0.0},
        **{"context_length": 9, "seed": 3},
    )
    assert settings_of(tmp_path, "--steps", "10", "--warmup", "7").warmup_steps == 7


def test_a_run_that_goes_on_keeps_its_warm_up(base, chats, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(chats, base, out, "--warmup", "3")) == 0
    assert main(words(chats, base, out, steps=8)) == 0
    assert read_training(out / "checkpoint")["settings"]["warmup_steps"] == 3
    error = error_of(capsys, *words(chats, base, out, "--warmup", "2", steps=8))
    assert "has settings.warmup_steps = 3, not 2" in error


def test_which_tokens_count_can_be_chosen(base, chats, tmp_path):
    tokens = []
    for train_on in ("answers", "answers_and_markers"):
        out = tmp_path / train_on
        assert main(words(chats, base, out, "--train-on", train_on, steps=2)) == 0
        tokens.append(sum(row.get("tokens", 0) for row in rows_in(out)))
    tokenizer = Tokenizer.from_pretrained(base / "checkpoint")
    counted = [encode_chat(tokenizer, chat).loss_mask for chat in CHATS]
    assert tokens[0] == sum(map(sum, counted)) < tokens[1]  # two steps of two are all four

"""`minqwen agent`: the command around react, with a scripted model and with one of ours."""

import functools
import json
import sys

import numpy as np
import pytest

from minqwen.cli import main
from minqwen.commands import agent
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.special_tokens import ENDOFTEXT, IM_END, IM_START

ADD = 'Thought: I add.\nAction: calculator\nAction Input: {"expression": "391 * 47"}\n'
ANSWER = " I know now.\nFinal Answer: 18377"


@pytest.fixture
def script(monkeypatch):
    """Let a list of answers speak in place of the server."""

    def answers(*texts):
        left = list(texts)
        prompts = []

        def generate(prompt):
            prompts.append(prompt)
            return left.pop(0)

        monkeypatch.setattr(agent, "openai_generate", lambda *args, **options: generate)
        return prompts

    return answers


SERVER = ["--server", "http://localhost:1/v1", "--server-model", "m"]


def test_a_question_is_answered_with_a_tool(script, capsys):
    prompts = script(ADD, ANSWER)
    assert main(["agent", "How much is 391 * 47?", *SERVER]) == 0
    out = capsys.readouterr().out
    assert out == ADD + "Observation: 18377\nThought:" + ANSWER + "\n"
    assert "calculator" in prompts[0]
    assert "How much is 391 * 47?" in prompts[0]
    assert prompts[1] == prompts[0] + ADD + "Observation: 18377\nThought:"


def test_the_prompt_is_shown_when_asked_for(script, capsys):
    prompts = script(ADD, ANSWER)
    assert main(["agent", "How much?", *SERVER, "--show-prompt"]) == 0
    out = capsys.readouterr().out
    assert out == prompts[1] + ANSWER + "\n"


def test_what_comes_in_vain_is_not_shown_twice(script, capsys):
    script(ADD + "Observation: 3\nThought: Done.", ANSWER)
    assert main(["agent", "How much?", *SERVER]) == 0
    assert capsys.readouterr().out.count("Observation:") == 1


def test_json(script, capsys):
    script(ADD, ANSWER)
    assert main(["agent", "How much?", *SERVER, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["final_answer"] == "18377"
    assert facts["ended"] == "answer"
    assert [step["action"] for step in facts["steps"]] == ["calculator", None]
    assert facts["steps"][0]["observation"] == "18377"


def test_no_answer_is_told_and_ends_with_one(script, capsys):
    script(ADD, ADD)
    assert main(["agent", "How much?", *SERVER, "--max-steps", "2"]) == 1
    assert "no final answer: step limit: --max-steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (["\n \n"], "nothing: the model wrote no text;"),
        (["Thought: Hm."], "no action: the model thought, and neither called a tool"),
        ([ADD, ADD, ADD], "repetition: the model did the same thing again"),
    ],
)
def test_why_there_is_no_answer_is_told_in_words(script, capsys, written, told):
    script(*written)
    assert main(["agent", "How much?", *SERVER]) == 1
    assert f"no final answer: {told}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--model FOLDER or --server URL"),
        ([*SERVER, "--model", "x"], "--model FOLDER or --server URL"),
        (["--server", "http://x"], "--server-model"),
        ([*SERVER, "--tools", "python"], "--tools knows calculator"),
        ([*SERVER, "--unsafe"], "--tools code_interpreter"),
        ([*SERVER, "--dictionary", "d.tsv"], "--tools dictionary"),
        ([*SERVER, "--tools", "dictionary", "--dictionary", "no.tsv"], "no.tsv"),
        ([*SERVER, "--key-from", "MINQWEN_NO_SUCH_KEY"], "MINQWEN_NO_SUCH_KEY"),
        (["--model", "no-such-folder"], "no-such-folder"),
        ([*SERVER, "--seed", "-1"], "--seed"),
        ([*SERVER, "--template", "qwen"], "--template and --no-system are of chats with --model"),
        ([*SERVER, "--no-system"], "--template and --no-system are of chats with --model"),
        (["--model", "x", "--completion", "--no-system"], "--template and --no-system are of"),
        ([*SERVER, "--max-steps", "0"], "error: max_steps must be 1 or more, got 0"),
    ],
)
def test_wrong_use(script, capsys, options, message):
    script()
    assert main(["agent", "q", *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_dictionary_of_the_user(script, capsys, tmp_path):
    file = tmp_path / "words.tsv"
    file.write_text("ferry\t渡船\n", encoding="utf-8")
    script('Thought: Look.\nAction: dictionary\nAction Input: {"term": "ferry"}\n', ANSWER)
    options = ["--tools", "calculator, dictionary", "--dictionary", str(file)]
    assert main(["agent", "ferry?", *SERVER, *options]) == 0
    assert "渡船" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
def test_code_is_run_in_the_folder(script, capsys, tmp_path):
    code = "Thought: Code.\nAction: code_interpreter\nAction Input: ```py\nprint(6 * 7)\n```\n"
    script(code, ANSWER)
    options = ["--tools", "code_interpreter", "--work", str(tmp_path / "work")]
    assert main(["agent", "6 * 7?", *SERVER, *options]) == 0
    out, err = capsys.readouterr()
    assert "Observation: 42" in out
    assert "code runs in" in err
    assert "guards:" in err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
def test_a_weak_guard_is_told_in_words(script, capsys, tmp_path, monkeypatch):
    script(ANSWER)
    weak = functools.partial(agent.CodeInterpreter, without=("landlock",))
    monkeypatch.setattr(agent, "CodeInterpreter", weak)
    options = ["--tools", "code_interpreter", "--work", str(tmp_path / "work")]
    assert main(["agent", "6 * 7?", *SERVER, *options]) == 0
    err = capsys.readouterr().err
    assert "files: inside Python;" in err
    assert "a guard 'inside Python' stops mistakes, not intent: ctypes gets past it" in err


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ([], "system\nYou are a helpful assistant.<|im_end|>"),
        (["--template", "qwen2.5"], "system\nYou are Qwen, created by Alibaba Cloud."),
        (["--no-system"], "user\nAnswer the following questions"),
        (["--template", "qwen", "--no-system"], "user\nAnswer the following questions"),
    ],
)
def test_the_chat_is_told_as_the_model_was_tuned(capsys, monkeypatch, options, begins):
    tokenizer = bpe_train("", merges=0, special_tokens=(ENDOFTEXT, IM_START, IM_END))
    config = QwenConfig(tokenizer.vocab_size, 8, 8, 1, 2, 1)
    params = init_params(config, np.random.default_rng(0))
    monkeypatch.setattr(agent, "load_checkpoint", lambda folder: (config, params))
    monkeypatch.setattr(agent.Tokenizer, "from_pretrained", lambda folder: tokenizer)
    read = []

    def generate(params, config, ids, **more):
        read.append(tokenizer.decode(ids[0].tolist()))
        yield from ()

    monkeypatch.setattr("minqwen.alignment.text_generation.generate", generate)
    main(["agent", "q", "--model", "x", *options])
    assert read[0].startswith(f"<|im_start|>{begins}")
    assert read[0].endswith("Question: q<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.slow
def test_a_model_of_ours_writes_piece_by_piece(capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Thought: a b c\nAction: x\n" * 200, encoding="utf-8")
    run = tmp_path / "run"
    training = ["--size", "tiny", "--steps", "3", "--vocab-size", "300", "--quiet"]
    assert main(["pretrain", str(text), "--out", str(run), *training]) == 0
    capsys.readouterr()
    options = ["--max-new-tokens", "5", "--max-steps", "1"]
    for more in ([], ["--completion"]):
        main(["agent", "q", "--model", str(run), *options, *more, "--json"])
        facts = json.loads(capsys.readouterr().out)
        main(["agent", "q", "--model", str(run), *options, *more])
        written = facts["text"][len(facts["text"].split("Question: q\n")[0] + "Question: q\n") :]
        assert written.strip() in capsys.readouterr().out
        step = facts["steps"][0]
        assert step["prompt_tokens"] > 100
        assert step["answer_tokens"] is not None

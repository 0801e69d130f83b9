"""`minqwen ppo` as a user runs it: two models, a file of prompts, a run that is gone on with."""

import json

import numpy as np
import pytest
from helpers.commands import STORY, error_of, tiny_run, write_story

from minqwen.alignment import ppo, rollout
from minqwen.alignment.reward_model import to_reward_model
from minqwen.alignment.settings import REPORT_PPO
from minqwen.alignment.start_params import params_fingerprint
from minqwen.cli import build_parser, main
from minqwen.commands.alignment_files import choose_settings
from minqwen.commands.ppo import OPTIONS, PRESETS, end_tokens, read_queries
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.tokenizer.bpe import Tokenizer, bpe_train
from minqwen.tokenizer.chatml import decode_chat, encode_chat
from minqwen.training.resume import read_training

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")

PROMPTS = [
    {"prompt": "Count."},
    {"prompt": "模型?", "answer": "kept and not used"},
    {"prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1 2"}]},
]


def write_prompts(path, lines=PROMPTS, *more):
    text = [json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join([*text, *more]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The run of a small base model."""
    folder = tmp_path_factory.mktemp("base")
    assert main(tiny_run(write_story(folder), folder / "run", "--quiet", steps=1)) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def judge(base):
    """A reward model that has not learnt anything."""
    config, params = load_checkpoint(base / "checkpoint")
    config, params = to_reward_model(params, config, np.random.default_rng(0))
    tokenizer = Tokenizer.from_pretrained(base / "checkpoint")
    save_checkpoint(base.parent / "reward", config, params, tokenizer=tokenizer)
    return base.parent / "reward"


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes longer than all the rest."""
    monkeypatch.setattr(ppo, "plot_metrics", lambda folder, panels: None)


@pytest.fixture
def prompts(tmp_path):
    return write_prompts(tmp_path / "prompts.jsonl")


def words(prompts, base, judge, out, *more, steps=3):
    return [
        "ppo", str(prompts), "--start-from", str(base), "--reward-model", str(judge),
        "--out", str(out), "--quiet", "--steps", str(steps), "--batch-size", "2",
        "--max-new-tokens", "4", "--value-warmup-steps", "1", *more,
    ]  # fmt: skip


def rows_in(out):
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_trains_goes_on_and_can_be_asked(base, judge, prompts, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(prompts, base, judge, out)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("trained 3 steps; ")
    assert f"generate {out} $'<|im_start|>" in captured.out
    assert [row["step"] for row in rows_in(out)] == [1, 2, 3]
    assert {path.name for path in out.iterdir()} == {"checkpoint", "metrics.jsonl", "metrics.png"}
    assert main(words(prompts, base / "checkpoint", judge, out, steps=4)) == 0
    assert [row["step"] for row in rows_in(out)] == [1, 2, 3, 4]
    assert main(["generate", str(out), "Count", "--max-new-tokens", "2"]) == 0
    assert load_checkpoint(out / "checkpoint")[0].num_labels == 0
    assert load_checkpoint(out / "checkpoint" / "value")[0].num_labels == 1
    error = error_of(capsys, *words(prompts, out, judge, out, steps=4))
    assert "has another start_model" in error


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("source", ["reward", "policy"])
def test_where_the_value_model_starts(base, judge, prompts, tmp_path, source):
    out = tmp_path / "run"
    assert main(words(prompts, base, judge, out, "--value-from", source, steps=1)) == 0
    config, params = load_checkpoint(judge)
    if source == "policy":
        config, params = load_checkpoint(base / "checkpoint")
        config, params = to_reward_model(params, config, np.random.default_rng(0))
    training = read_training(out / "checkpoint")
    assert training["value_model"] == params_fingerprint(params)
    assert training["value_config"]["architectures"] == ["Qwen2ForSequenceClassification"]
    assert training["reward_model"] == params_fingerprint(load_checkpoint(judge)[1])


@pytest.mark.usefixtures("no_pictures")
def test_pretraining_is_mixed_in(base, judge, prompts, tmp_path, capsys):
    out = tmp_path / "run"
    text = write_story(tmp_path)
    more = ["--ptx", str(text), "--ptx-coef", "0.5", "--ptx-context", "16"]
    assert main(words(prompts, base, judge, out, *more)) == 0
    assert ["ptx_loss" in row for row in rows_in(out)] == [False, True, True]
    text.write_text(STORY * 41, encoding="utf-8")
    assert "has another ptx_rows" in error_of(capsys, *words(prompts, base, judge, out, *more))
    fresh = tmp_path / "no"
    error = error_of(capsys, *words(prompts, base, judge, fresh, "--ptx-coef", "1"))
    assert "--ptx-coef needs --ptx" in error
    error = error_of(capsys, *words(prompts, base, judge, fresh, "--ptx", str(text)))
    assert "--ptx needs --ptx-coef" in error
    for option in ("--ptx-batch-size", "--ptx-context"):
        error = error_of(capsys, *words(prompts, base, judge, fresh, option, "4"))
        assert f"{option} needs --ptx or --ptx-builtin" in error
    assert not fresh.exists()


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("name", "ended"), [("<|im_end|>", 1), ("<|endoftext|>", 0)])
def test_a_stop_that_the_reward_model_does_not_know_is_no_end(
    base, judge, prompts, tmp_path, monkeypatch, name, ended
):
    known = Tokenizer.from_pretrained(base / "checkpoint").special_tokens

    def writes_it(params, config, prompt, *, eos_token_ids, **options):
        assert set(eos_token_ids) == {known["<|im_end|>"], known["<|endoftext|>"]}
        return np.concatenate([prompt, np.full((len(prompt), 1), known[name])], axis=1)

    monkeypatch.setattr(rollout, "generate", writes_it)
    assert main(words(prompts, base, judge, tmp_path / "run", steps=2)) == 0
    for row in rows_in(tmp_path / "run"):
        assert (row["ended"], row["length"]) == (ended, 1)
        assert row["penalised_reward"] == pytest.approx(row["reward"] - (1 - ended))


def test_prompts_are_chats_up_to_the_answer(base, prompts, capsys):
    tokenizer = Tokenizer.from_pretrained(base / "checkpoint")
    queries = read_queries(prompts, tokenizer, "qwen2", 256)
    ends = end_tokens(tokenizer)
    assert tokenizer.decode(ends) == "<|im_end|><|endoftext|>"
    for ids, record in zip(queries, PROMPTS, strict=True):
        *asked, answer = decode_chat(tokenizer, ids)
        assert answer == {"role": "assistant", "content": "", "cut_off": True}
        content = record["prompt"] if isinstance(record["prompt"], str) else "1 2"
        assert asked[-1] == {"role": "user", "content": content}
    lengths = [len(ids) for ids in queries]
    assert read_queries(prompts, tokenizer, "qwen2", min(lengths)) == [
        ids for ids in queries if len(ids) == min(lengths)
    ]
    error = capsys.readouterr().err
    assert f"2 of 3 prompts are longer than {min(lengths)} tokens; line" in error
    with pytest.raises(ValueError, match="3 of 3 prompts are longer than 3 tokens; line 1"):
        read_queries(prompts, tokenizer, "qwen2", 3)


def test_a_wrong_line_is_named_before_any_work(base, judge, tmp_path, capsys):
    path = write_prompts(tmp_path / "bad.jsonl", PROMPTS, '{"question": "?"}')
    error = error_of(capsys, *words(path, base, judge, tmp_path / "run"))
    assert f"{path}, line 4: the field 'prompt' is missing" in error
    assert not (tmp_path / "run").exists()


def test_models_that_do_not_fit_are_refused(base, judge, prompts, tmp_path, capsys):
    out = tmp_path / "run"
    assert "gives a score, but logits must" in error_of(capsys, *words(prompts, judge, judge, out))
    assert "gives logits, but a score must" in error_of(capsys, *words(prompts, base, base, out))
    config, params = load_checkpoint(judge)
    other = bpe_train("other text " * 9, 265, special_tokens=["<|im_start|>", "<|im_end|>"])
    save_checkpoint(tmp_path / "other", config, params, tokenizer=other)
    error = error_of(capsys, *words(prompts, base, tmp_path / "other", out))
    assert f"the reward model in {tmp_path / 'other'} has another tokenizer" in error
    assert not out.exists()


def test_impossible_settings_are_named(base, judge, prompts, tmp_path, capsys):
    for more, message in (
        (["--minibatches", "3"], "minibatches must be a divisor"),
        (["--temperature", "0"], "temperature must be positive"),
        (["--top-p", "0"], "top_p must be in (0, 1]"),
        (["--missing-end-penalty", "-1"], "missing_end_penalty must be 0 or more"),
    ):
        assert message in error_of(capsys, *words(prompts, base, judge, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


def test_every_number_of_the_report_is_a_preset():
    line = ["ppo", "p", "--start-from", "s", "--reward-model", "r", "--out", "o"]
    args = build_parser(line).parse_args([*line, "--preset", "report"])
    assert choose_settings(args, PRESETS, OPTIONS) == REPORT_PPO
    args = build_parser(line).parse_args([*line, "--lam", "1", "--no-whiten-advantages"])
    chosen = choose_settings(args, PRESETS, OPTIONS)
    assert (chosen.lam, chosen.whiten_advantages) == (1.0, False)
    assert chosen.value_lr == 5 * chosen.policy_lr  # as in the report


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ([], 20),
        (["--steps", "10"], 1),
        (["--steps", "400"], 40),
        (["--preset", "report", "--steps", "40"], 10),
        (["--steps", "10", "--value-warmup-steps", "20"], 20),
    ],
)
def test_the_warm_up_of_the_value_model_is_a_share_of_the_run(tmp_path, more, steps):
    line = ["ppo", "p", "--start-from", "s", "--reward-model", "r", "--out", str(tmp_path), *more]
    chosen = choose_settings(build_parser(line).parse_args(line), PRESETS, OPTIONS)
    assert chosen.value_warmup_steps == steps


@pytest.mark.usefixtures("no_pictures")
def test_a_policy_that_will_not_change_is_said(base, judge, prompts, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(prompts, base, judge, out, steps=1)) == 0
    error = capsys.readouterr().err
    assert error.startswith("the policy will not change: in all 1 steps only the value model")
    assert error.endswith("--value-warmup-steps is 1\n")
    longer = words(prompts, base, judge, out, steps=3)
    place = longer.index("--value-warmup-steps")
    assert main(longer[:place] + longer[place + 2 :]) == 0  # goes on with that of the run
    assert capsys.readouterr().err == ""
    assert ["ratio" in row for row in rows_in(out)] == [False, True, True]


def test_nothing_is_held_out_so_nothing_is_looked_at(base, judge, prompts, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(words(prompts, base, judge, tmp_path / "run", "--eval-every", "2"))
    assert "unrecognized arguments: --eval-every" in capsys.readouterr().err


def test_a_reward_model_of_the_command_reads_what_the_policy_wrote(base, judge):
    """The end token of an answer is the last token of the chats that reward models learn from."""
    tokenizer = Tokenizer.from_pretrained(base / "checkpoint")
    question, answer = {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}
    query = encode_chat(tokenizer, [question], generation_prompt=True).ids
    whole = encode_chat(tokenizer, [question, answer])
    last = max(i for i, counts in enumerate(whole.loss_mask) if counts)
    assert whole.ids[: len(query)] == query
    assert whole.ids[last] == end_tokens(tokenizer)[0]

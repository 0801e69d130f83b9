"""Fine-tuning: the one loss over all counted tokens, however chats are laid out; and its runs."""

import json
import math
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_device import install
from helpers.models import random_params, small_config
from training.small_run import assert_same_run, metrics

from minqwen.alignment import sft as module
from minqwen.alignment.settings import REPORT_SFT, SftSettings
from minqwen.alignment.sft import evaluate_chats, sft, train_step
from minqwen.alignment.sft_rows import chats_to_rows, take_rows
from minqwen.alignment.start_params import params_fingerprint
from minqwen.model.checkpoint import load_checkpoint
from minqwen.model.config import QwenConfig
from minqwen.model.generate import generate
from minqwen.model.init import init_params
from minqwen.model.language_model import language_model_forward
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.chat_templates import Template
from minqwen.tokenizer.chatml import Chat, decode_chat, encode_chat
from minqwen.training.accumulate import Batch, count_tokens, loss_and_grads
from minqwen.training.adamw import adamw_init
from minqwen.training.lr_schedule import cosine_lr
from minqwen.training.resume import load_run, read_training

CONFIG = small_config(num_hidden_layers=1, dropout=0.2)
PAD = 60
SETTINGS = {
    "steps": 6,
    "batch_size": 3,
    "accumulate": 2,
    "context_length": 12,
    "peak_lr": 0.01,
    "warmup_steps": 2,
    "checkpoint_every": 2,
    "eval_every": 3,
}


def some_chats(n, seed=0, longest=11):
    """Chats of unequal length, of which unequally many tokens count."""
    rng = np.random.default_rng(seed)
    chats = []
    for size in rng.integers(3, longest + 1, n):
        mask = rng.random(size) < rng.random()
        mask[-1] = True
        chats.append(Chat(rng.integers(0, 60, size).tolist(), mask.tolist()))
    return chats


CHATS, HELD_OUT = some_chats(7), some_chats(3, seed=1)


def small_start():
    return init_params(CONFIG, np.random.default_rng(0))


def run(folder, *, config=CONFIG, chats=CHATS, params=None, options=None, **settings):
    return sft(
        config,
        small_start() if params is None else params,
        chats,
        folder,
        SftSettings(**{**SETTINGS, **settings}),
        pad_id=PAD,
        **{"validation_chats": HELD_OUT, "progress": False, "plot": False, **(options or {})},
    )


def alone(params, config, chats):
    """The gradient of chats one by one, each without any padding, weighed by its labels."""
    total = sum(sum(chat.loss_mask[1:]) for chat in chats)
    loss, grads = 0.0, dict.fromkeys(params, 0.0)
    for ids, mask in chats:
        batch = Batch(np.array([ids[:-1]]), np.array([ids[1:]]), np.array([mask[1:]]))
        found = loss_and_grads(params, config, [batch])
        loss += found.loss * found.tokens / total
        grads = {key: grads[key] + g * (found.tokens / total) for key, g in found.grads.items()}
    return loss, grads


def largest_difference(grads, others):
    return max(np.abs(grads[key] - others[key]).max() / np.abs(grads[key]).max() for key in grads)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_any_layout_gives_the_gradient_of_the_chats_one_by_one(packed, accumulate):
    params, config = random_params(CONFIG), replace(CONFIG, dropout=0.0)
    chats = some_chats(9)
    settings = SftSettings(
        **{"batch_size": 9, "context_length": 15, "packed": packed, "dropout": 0.0},
        max_norm=math.inf,
    )
    rows = chats_to_rows(chats, settings, PAD)
    n = len(rows.rows)
    assert 3 <= n < 9 if packed else n == 9
    settings = replace(settings, batch_size=n, accumulate=accumulate)
    grads, row = train_step(params, adamw_init(params), CONFIG, rows.batch, settings)
    loss, expected = alone(params, config, chats)
    assert row["tokens"] == sum(sum(chat.loss_mask[1:]) for chat in chats)
    assert row["loss"] == pytest.approx(loss, rel=1e-13)
    assert largest_difference(expected, grads) < 1e-12
    each = [alone(params, config, [chat])[1] for chat in chats]
    mean_of_means = {key: sum(g[key] for g in each) / len(each) for key in grads}
    assert largest_difference(expected, mean_of_means) > 1e-2


@pytest.mark.parametrize("packed", [False, True])
def test_the_gradient_of_a_step_against_central_differences(packed):
    """With dropout: it is that of this step, which a second pass draws again."""
    params = random_params(CONFIG)
    settings = SftSettings(**SETTINGS, packed=packed, dropout=0.3, max_norm=math.inf, seed=5)
    batch = chats_to_rows(CHATS, settings, PAD).batch
    state = adamw_init(params)
    state["step"] = 3

    def loss(changed):
        return train_step(changed, state, CONFIG, batch, settings)[1]["loss"]

    grads, _ = train_step(params, state, CONFIG, batch, settings)
    rng = np.random.default_rng(4)
    for name, w in params.items():
        direction = rng.standard_normal(w.shape)
        up, down = (loss({**params, name: w + s * 1e-6 * direction}) for s in (1, -1))
        got, want = (grads[name] * direction).sum(), (up - down) / 2e-6
        assert abs(got - want) < 1e-7 * np.sqrt((grads[name] ** 2).sum() + 1), name


def test_only_what_counts_is_learnt():
    """The loss by hand: logits of one chat, the two labels of its mask, nothing else."""
    params = random_params(CONFIG)
    chat = Chat([5, 9, 13, 17], [False, False, True, True])
    settings = SftSettings(batch_size=1, dropout=0.0)
    batch = chats_to_rows([chat], settings, PAD).batch
    _, row = train_step(params, adamw_init(params), CONFIG, batch, settings)
    logits, _ = language_model_forward(params, CONFIG, np.array([[5, 9, 13]]))
    logp = logits[0] - np.log(np.exp(logits[0]).sum(axis=-1, keepdims=True))
    assert row["loss"] == pytest.approx(-(logp[1, 13] + logp[2, 17]) / 2, rel=1e-13)
    assert row["tokens"] == 2


def test_dropout_is_that_of_the_settings_and_the_saved_config_keeps_its_own(tmp_path):
    params = random_params(CONFIG)
    settings = SftSettings(**SETTINGS)
    batch = chats_to_rows(CHATS, settings, PAD).batch

    def loss(dropout, config=CONFIG):
        step = train_step(
            params, adamw_init(params), config, batch, replace(settings, dropout=dropout)
        )
        return step[1]["loss"]

    assert loss(0.0) != loss(0.2) != loss(0.4)
    assert loss(0.4) == loss(0.4, replace(CONFIG, dropout=0.0))
    run(tmp_path, dropout=0.4)
    assert load_checkpoint(tmp_path / "checkpoint")[0].dropout == 0.2


def test_metrics_say_what_happened(tmp_path):
    result = run(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    for row in steps:
        assert row["lr"] == cosine_lr(
            row["step"] - 1, peak_lr=0.01, min_lr=0.01, warmup_steps=2, total_steps=6
        )
        assert row["grad_norm"] > 0
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
    labels = sum(sum(chat.loss_mask[1:]) for chat in CHATS)
    epochs = [row["tokens"] for row in steps]  # 18 rows: two epochs of 7, and 4 more
    assert sum(epochs) > 2 * labels
    looks = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in looks] == [0, 3, 6]
    assert looks[0]["validation_loss"] == pytest.approx(math.log(61), abs=0.1)
    expected, _ = alone(result, replace(CONFIG, dropout=0.0), HELD_OUT)
    assert looks[-1]["validation_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_the_held_out_loss_does_not_depend_on_the_pieces(packed):
    params = random_params(CONFIG)
    batch = chats_to_rows(CHATS, SftSettings(context_length=15, packed=packed), PAD).batch
    expected, _ = alone(params, replace(CONFIG, dropout=0.0), CHATS)
    for size in (1, 2, 100):
        found = evaluate_chats(params, CONFIG, batch, size)
        assert found == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(("at", "packed"), [(1, False), (4, False), (2, True), (5, True)])
def test_an_interrupted_run_goes_on_bit_by_bit(tmp_path, monkeypatch, at, packed):
    real = module.loss_and_grads

    def interrupted(*args, seed):
        if seed[-1] == at:
            signal.raise_signal(signal.SIGINT)
        return real(*args, seed=seed)

    monkeypatch.setattr(module, "loss_and_grads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", packed=packed)
    assert load_run(tmp_path / "run", "float32")[1]["step"] == at
    monkeypatch.undo()
    result = run(tmp_path / "run", packed=packed)
    whole = run(tmp_path / "whole", packed=packed)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    for key in result:
        np.testing.assert_array_equal(result[key], whole[key])


def test_the_given_parameters_are_not_changed(tmp_path):
    start = small_start()
    before = params_fingerprint(start)
    result = run(tmp_path, params=start)
    assert params_fingerprint(start) == before != params_fingerprint(result)


def test_a_run_is_not_gone_on_with_from_something_else(tmp_path):
    run(tmp_path)
    other = {**small_start()}
    other["model.norm.weight"] = other["model.norm.weight"] * np.float32(1.5)
    with pytest.raises(ValueError, match="has another start_model"):
        run(tmp_path, params=other)
    ids, (first, second, *rest) = CHATS[2]
    changed = [*CHATS[:2], Chat(ids, [first, not second, *rest]), *CHATS[3:]]
    with pytest.raises(ValueError, match="was trained on other rows"):
        run(tmp_path, chats=changed)
    with pytest.raises(ValueError, match="validated on other validation_rows"):
        run(tmp_path, options={"validation_chats": CHATS})
    with pytest.raises(ValueError, match=r"has settings\.dropout = 0\.1, not 0\.0"):
        run(tmp_path, dropout=0.0)
    with pytest.raises(ValueError, match=r"has settings\.packed = False, not True"):
        run(tmp_path, packed=True)
    before = metrics(tmp_path)
    run(tmp_path)
    assert metrics(tmp_path) == before


def test_what_cannot_be_learnt_is_refused_before_anything_is_written(tmp_path):
    nothing = Chat([1, 2, 3], [True, False, False])  # the first token is no label
    too_late = Chat(list(range(20)), [False] * 19 + [True])
    folder = tmp_path / "run"
    for chats, message in (
        ([], "chats: none of 0 chats has a label"),
        ([nothing], r"chats: none of 1 chats has a label; chats\[0\]: no token of it"),
        ([too_late], r"chats: none of 1 chats has a label; chats\[0\]: cut from 20 to 13"),
        ([Chat([1, 61], [False, True])], "chats and pad_id go up to id 61, vocab_size is 61"),
    ):
        with pytest.raises(ValueError, match=message):
            run(folder, chats=chats)
    with pytest.raises(ValueError, match="validation_chats: none of 1 chats has a label"):
        run(folder, options={"validation_chats": [nothing]})
    with pytest.raises(ValueError, match="num_labels=1: it is no language model"):
        run(folder, config=replace(CONFIG, num_labels=1))
    with pytest.raises(ValueError, match="names must be 7, one a chat, got 2"):
        run(folder, options={"names": ["a", "b"]})
    assert not folder.exists()


def test_what_cannot_be_packed_is_refused_before_anything_is_written(tmp_path):
    dca = replace(CONFIG, dual_chunk_attention_config={"chunk_size": 8, "local_size": 2})
    with pytest.raises(NotImplementedError, match="together with dual chunk attention"):
        run(tmp_path / "run", config=dca, packed=True)
    assert not (tmp_path / "run").exists()
    run(tmp_path / "run", config=dca, steps=1, warmup_steps=0)  # padded it can be


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dynamic_ntk": True, "use_logn_attn": True},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    ],
    ids=str,
)
def test_packed_and_padded_are_the_same_run_also_where_the_length_counts(tmp_path, fields):
    """All chats in one batch, longer than the model was trained on: one step, and the look."""
    config = replace(CONFIG, max_position_embeddings=4, **fields)
    same = {"steps": 1, "accumulate": 1, "warmup_steps": 0, "dropout": 0.0, "dtype": "float64"}
    found = {}
    for packed in (False, True):
        n = len(chats_to_rows(CHATS, SftSettings(context_length=12, packed=packed), PAD).batch[0])
        folder = tmp_path / str(packed)
        params = run(folder, config=config, packed=packed, batch_size=n, **same)
        found[packed] = params, metrics(folder)
    for one, two in zip(found[False][1], found[True][1], strict=True):
        assert one == pytest.approx(two, rel=1e-9)
    assert "validation_loss" in found[True][1][-1]


def test_chats_that_are_cut_or_left_out_are_named_once(tmp_path, capsys):
    nothing = Chat([1, 2, 3], [False] * 3)
    too_late = Chat(list(range(20)), [False] * 19 + [True])
    too_long = Chat(list(range(20)), [True] * 20)
    chats = [nothing, *CHATS, too_late, too_long, *[nothing] * 6]
    names = [f"line {i + 2}" for i in range(len(chats))]
    run(tmp_path, chats=chats, options={"names": names})
    assert capsys.readouterr().err.splitlines() == [
        "7 of 16 chats left out, no token is trained on: "
        "line 2, line 12, line 13, line 14, line 15 and 2 more",
        "1 of 16 chats left out, what is trained on comes after the first 13 tokens: line 10",
        "1 of 16 chats cut after 13 tokens: line 11",
    ]
    run(tmp_path / "clean")
    assert capsys.readouterr().err == ""


def test_a_batch_has_no_column_that_is_empty_everywhere():
    batch = chats_to_rows(CHATS, SftSettings(context_length=12), PAD).batch
    for rows in ([0], [1, 3], [2, 2]):
        taken = take_rows(batch, np.array(rows))
        longest = max(len(CHATS[i].ids) for i in rows) - 1
        assert taken.input_ids.shape == (len(rows), longest)
        assert taken.labels.shape == taken.loss_mask.shape == taken.real.shape
        assert count_tokens(taken) == sum(sum(CHATS[i].loss_mask[1:]) for i in rows)


def test_experts_are_balanced_too(tmp_path):
    config = replace(
        CONFIG,
        model_type="qwen2_moe",
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=3,
        shared_expert_intermediate_size=4,
    )
    run(tmp_path, config=config, params=init_params(config, np.random.default_rng(0)), packed=True)
    rows = [row for row in metrics(tmp_path) if "loss" in row]
    assert all(row["aux_loss"] > 1 and row["max_load"] >= 1 for row in rows)


def test_the_numbers_of_the_report():
    s = REPORT_SFT
    assert (s.batch_size, s.steps, s.warmup_steps, s.peak_lr) == (128, 4000, 1430, 2e-6)
    assert (s.weight_decay, s.dropout, s.max_norm) == (0.1, 0.1, 1.0)
    assert (s.beta1, s.beta2, s.eps) == (0.9, 0.95, 1e-8)


@pytest.mark.parametrize("packed", [False, True])
def test_golden_two_chats_by_heart_and_answered(tmp_path, packed):
    """A fresh model learns two chats, and then says the answers when it is asked."""
    pytest.importorskip("matplotlib")
    pairs = [("2 + 2?", "Four."), ("Capital of France?", "Paris!")]
    tokenizer = bpe_train(" ".join(f"{q} {a}" for q, a in pairs), merges=8)
    ask = [{"role": "user", "content": question} for question, _ in pairs]
    tell = [{"role": "assistant", "content": answer} for _, answer in pairs]
    plain = Template(system=None)
    chats = [encode_chat(tokenizer, turns, template=plain) for turns in zip(ask, tell, strict=True)]
    config = QwenConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    settings = SftSettings(
        **{"steps": 50, "batch_size": 2, "context_length": 99, "peak_lr": 0.02, "packed": packed},
        **{"warmup_steps": 3, "dropout": 0.0, "weight_decay": 0.0},
    )
    params = sft(
        config,
        init_params(config, np.random.default_rng(0)),
        chats,
        tmp_path,
        settings,
        pad_id=tokenizer.special_tokens["<|endoftext|>"],
        tokenizer=tokenizer,
        progress=False,
    )
    rows = metrics(tmp_path)
    assert rows[0]["loss"] > 3
    assert rows[-1]["loss"] < 0.05
    assert (tmp_path / "metrics.png").stat().st_size > 1000
    config, saved = load_checkpoint(tmp_path / "checkpoint")
    for key in params:
        np.testing.assert_array_equal(saved[key], params[key])
    end = tokenizer.special_tokens["<|im_end|>"]
    for question, (_, answer) in zip(ask, pairs, strict=True):
        prompt = encode_chat(tokenizer, [question], template=plain, generation_prompt=True).ids
        ids = generate(saved, config, np.array([prompt]), max_new_tokens=20, eos_token_ids=[end])
        said = decode_chat(tokenizer, ids[0].tolist())[-1]
        assert said == {"role": "assistant", "content": answer}


def test_the_checkpoint_says_how_it_was_made(tmp_path):
    run(tmp_path)
    training = read_training(Path(tmp_path) / "checkpoint")
    assert training["settings"]["train_on"] == "answers"
    assert training["config"]["dropout"] == 0.2
    assert training["start_model"] == params_fingerprint(small_start())


def test_every_step_has_its_own_rows_and_its_own_dropout():
    params = random_params(CONFIG)
    settings = SftSettings(**{**SETTINGS, "accumulate": 1}, dropout=0.5)
    chats = CHATS[:1] * 3  # the same rows in every step
    batch = chats_to_rows(chats, settings, PAD).batch
    losses = []
    for step in (0, 1, 0):
        state = adamw_init(params) | {"step": step}
        losses.append(train_step(params, state, CONFIG, batch, settings)[1]["loss"])
    assert losses[0] == losses[2] != losses[1]
    other = replace(settings, seed=1)
    assert train_step(params, adamw_init(params), CONFIG, batch, other)[1]["loss"] != losses[0]


def test_a_batch_is_cut_into_as_many_pieces_as_asked_for(monkeypatch):
    params, seen, real = random_params(CONFIG), [], module.loss_and_grads

    def counted(params, config, pieces, **options):
        seen.append([len(piece.labels) for piece in pieces])
        return real(params, config, pieces, **options)

    monkeypatch.setattr(module, "loss_and_grads", counted)
    settings = SftSettings(batch_size=7, accumulate=3)
    batch = chats_to_rows(CHATS, settings, PAD).batch
    train_step(params, adamw_init(params), CONFIG, batch, settings)
    assert seen == [[3, 2, 2]]


def test_parameters_of_another_model_are_refused_before_anything_is_written(tmp_path):
    params = small_start()
    del params["model.norm.weight"]
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        run(tmp_path / "run", params=params)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_runs_on_the_device(tmp_path, monkeypatch, packed):
    run(tmp_path / "host", packed=packed)
    install(monkeypatch)
    run(tmp_path / "device", packed=packed, options={"device": "cuda"})
    assert_same_run(tmp_path / "device", tmp_path / "host")


def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'minqwen\[run\]'"):
        run(tmp_path / "run", options={"plot": True})
    assert not (tmp_path / "run").exists()

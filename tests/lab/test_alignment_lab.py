"""The study of alignment: its world, its data, what it keeps and refuses, and what it concludes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import error_of

from minqwen.lab import alignment_study as study
from minqwen.lab.alignment_data import (
    Answer,
    clean_pairs,
    couples_of,
    label,
    make_chats,
    prepare_data,
    query_ids,
    sample_answers,
)
from minqwen.lab.alignment_findings import findings, seen
from minqwen.lab.alignment_numbers import AlignmentNumbers, difference
from minqwen.lab.alignment_report import markdown, write_report
from minqwen.lab.alignment_settings import (
    BY_NAME,
    POLICIES,
    PPO_NAMES,
    QUICK,
    REWARD_MODELS,
    AlignmentSettings,
)
from minqwen.lab.alignment_world import (
    ADVICE,
    BEST,
    PEOPLE,
    THINGS,
    Manners,
    Prompt,
    all_prompts,
    draw_answer,
    draw_talk,
    judge,
)
from minqwen.lab.findings import AGREES, DISAGREES, PARTLY, UNDECIDED
from minqwen.lab.results import Results
from minqwen.model.init import init_params

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")

TINY = replace(
    QUICK, hidden_size=16, num_attention_heads=2, num_key_value_heads=1, vocab_size=320,
    base_steps=3, sft_steps=3, chats=30, held_out_prompts=4, coarse_pairs=20, pairs=20,
    pmp_steps=2, reward_steps=2, queries=2, max_new_tokens=3, dpo_steps=2, answers_of_a_prompt=2,
)  # fmt: skip
LOST = Prompt("Mei", "lost", "lantern")


# --- the world ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("Hello Mei, look for the lantern.", 3.0),
        ("Hello, look for it.", 1.0),  # advice alone
        ("Hello Tom, look for the lantern.", 2.0),
        ("Hello Mei, mend the lantern.", 2.0),
        ("Dear Mei, look for the lantern.", 3.5),
        ("Hey Mei, just look for the lantern, now.", 1.5),
        ("Dear Mei, please look for the lantern, my friend.", BEST),
        ("Dear Mei, please look for the lantern, my friend, my friend.", BEST - 0.75),
        ("Dear Dear Mei, please look for the lantern.", 3.0 + 1.5 - 1.0),  # no sentence
        ("lantern Mei", 1.0),  # two names, no sentence
        ("", -1.0),
    ],
)
def test_the_true_reward_of_answers_that_one_can_judge_by_head(answer, reward):
    assert judge(LOST, answer).reward == pytest.approx(reward)
    assert judge(LOST, answer, ended=False).reward == pytest.approx(reward - 1)


def test_the_best_answer_has_the_most_that_any_sentence_can_have():
    rng = np.random.default_rng(0)
    drawn = [
        judge(p, draw_answer(rng, p, Manners(0.8, 0.8, 0.6))).reward
        for p in all_prompts()
        for _ in range(5)
    ]
    assert max(drawn) == BEST


def test_what_people_write_is_a_sentence_and_flattery_is_rare():
    rng = np.random.default_rng(1)
    judged = [judge(p, draw_answer(rng, p, Manners())) for p in all_prompts() for _ in range(5)]
    assert all(j.sentence for j in judged)
    flattery = np.mean([j.kind > 3 for j in judged])
    assert 0 < flattery < 0.02  # it can be found, and is no news to a reward model only
    assert 0.85 < np.mean([j.on_topic for j in judged]) < 1
    assert 0.3 < np.mean([j.named for j in judged]) < 0.5


def test_words_inside_words_do_not_count():
    assert judge(Prompt("Ali", "lost", "egg"), "Alike, look for the eggs.").named is False
    assert judge(LOST, "Dearest Mei, nowhere.").kind == 0


def test_talk_is_no_chat_and_names_everything():
    text = draw_talk(np.random.default_rng(2), LOST, Manners())
    assert text.startswith(LOST.text)
    assert text.endswith("\n")
    assert "<|" not in text
    assert len(all_prompts()) == len(PEOPLE) * len(THINGS) * len(ADVICE)


# --- the data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    return prepare_data(TINY)


def test_held_out_prompts_are_in_no_text_and_in_no_chat(data):
    held_out, train = set(data.held_out), set(data.prompts)
    assert len(held_out) == 4
    assert not held_out & train
    assert held_out | train == set(all_prompts())
    text = data.tokenizer.decode(data.rows[:, :-1].ravel().tolist())
    assert sum(p.text in text for p in train) > 50
    assert not any(p.text in text for p in held_out)
    chats, looked = make_chats(data, TINY, seed=0)
    assert not any(p.text in data.tokenizer.decode(chat.ids) for chat in chats for p in held_out)
    assert all(any(p.text in data.tokenizer.decode(c.ids) for p in held_out) for c in looked)


def test_another_seed_draws_other_chats_and_the_same_seed_the_same(data):
    one, again, other = (make_chats(data, TINY, seed)[0] for seed in (0, 0, 1))
    assert one == again
    assert one != other


def answer(data, text, prompt=LOST):
    ids = data.tokenizer.encode(text) + [data.end_id]
    return Answer(prompt, query_ids(data, prompt), ids, text, True, judge(prompt, text))


def test_labels_follow_the_true_reward_with_the_noise_of_bradley_and_terry(data):
    good, bad = (
        answer(data, "Hello Mei, look for the lantern."),
        answer(data, "Hello, look for it."),
    )
    couples = [(good, bad), (bad, good)] * 400
    found = label(couples, 0.5, np.random.default_rng(0))
    assert len(found.pairs) == 800
    wrong = sum(pair.chosen.ids[-len(bad.ids) :] == bad.ids for pair in found.pairs) / 800
    assert wrong == found.flipped
    assert found.flipped == pytest.approx(1 / (1 + np.exp(0.5 * 2)), abs=0.05)
    assert label(couples, 100.0, np.random.default_rng(0)).flipped == 0


def test_pairs_of_the_same_answer_are_left_out_and_ties_are_no_clean_pair(data):
    good = answer(data, "Hello Mei, look for the lantern.")
    tie = answer(data, "Hello Mei, look for the lantern, my friend, now.")
    assert tie.judged.reward == good.judged.reward
    assert label([(good, good)], 1.0, np.random.default_rng(0)).pairs == []
    assert len(label([(good, tie)], 1.0, np.random.default_rng(0)).pairs) == 1
    bad = answer(data, "Hello, look for it.")
    (pair,) = clean_pairs([good, tie, bad, good])
    assert pair.chosen.ids[-len(good.ids) :] == good.ids
    assert couples_of([good, tie, bad, good]) == [(good, tie), (bad, good)]


def test_answers_come_in_the_order_of_the_prompts_and_are_judged(data):
    config = TINY.config(data.tokenizer.vocab_size)
    params = init_params(config, np.random.default_rng(0))
    answers = sample_answers(
        data, config, params, data.held_out[:2], 3, TINY, np.random.default_rng(0)
    )
    assert [a.prompt for a in answers] == [p for p in data.held_out[:2] for _ in range(3)]
    for a in answers:
        assert a.query == query_ids(data, a.prompt)
        assert a.judged == judge(a.prompt, a.text, a.ended)
        assert a.ended == (a.ids[-1] == data.end_id)


def test_variants_of_ppo_differ_in_the_named_setting_only():
    usual = AlignmentSettings().ppo_training(BY_NAME["ppo"], 3).to_dict()
    for name in PPO_NAMES:
        changed = AlignmentSettings().ppo_training(BY_NAME[name], 3).to_dict()
        assert {k for k in usual if usual[k] != changed[k]} == set(BY_NAME[name].changes), name
    assert (usual["kl_coef"], usual["cliprange_value"], usual["top_p"]) == (0.2, 0.15, 0.9)
    assert usual["responses_per_query"] == 2
    assert usual["seed"] == 3


@pytest.mark.parametrize("field", ["steps", "seeds", "pairs", "held_out_prompts"])
def test_impossible_settings_are_refused(field):
    with pytest.raises(ValueError, match=field):
        AlignmentSettings(**{field: 1})


# --- the conclusions ---------------------------------------------------------------------------

USUAL = {
    "true": 3.0, "true_error": 0.05, "learnt": 1.0, "kl": 5.0, "entropy": 0.5, "length": 12.0,
    "ended": 1.0, "formed": 0.95, "named": 0.9, "on_topic": 0.95, "words": 40, "same": 0.2,
    "kind": 2.0, "flattery": 0.0, "rude": 0.1, "loss": 1.0, "loss_stories": 1.2, "loss_talk": 0.8,
    "answers": [["Mei lost the egg.", "Dear Mei | x"]] * 2,
}  # fmt: skip
RANKING = {
    "accuracy": 0.93, "calibration_error": 0.05, "predicted": [0.6, None], "right": [0.7, None],
    "counts": [9, 0], "margin": 1.0, "held_out_pairs": 9, "pairs": 20, "flipped": 0.1, "model": "x",
}  # fmt: skip


def made_up(folder, **changes):
    """Results in which every policy is alike, but for the changes: name -> key -> three numbers."""
    folder.mkdir()
    results = Results(folder, study.KIND, study.CELL)
    steps = [[0, 0.0], [15, 0.5], [30, 0.5]]
    curve = dict.fromkeys((*study.CURVES, *study.LOOKED), steps)
    results.facts = {
        "settings": AlignmentSettings().to_dict(), "seeds": [0, 1, 2], "parameters": 1,
        "vocab_size": 300, "pretraining_tokens": 10, "held_out_tokens": 10, "held_out_prompts": 4,
        "curves": {name: {str(seed): curve for seed in range(3)} for name in PPO_NAMES},
        "machine": "here",
    }  # fmt: skip
    for name in (*BY_NAME, *REWARD_MODELS):
        for seed in range(3):
            cell = dict(USUAL if name in BY_NAME else RANKING, seed=seed)
            cell |= {key: values[seed] for key, values in changes.get(name, {}).items()}
            results.put(name, seed, cell)
    return results


def verdicts(results):
    return [f.verdict for f in findings(AlignmentNumbers(results))]


def test_equal_policies_decide_nothing(tmp_path):
    found = verdicts(made_up(tmp_path / "a"))
    (sft, reward, pmp, ppo, no_kl, weak, clip, warmup, top_p, tax, ptx, dpo, online) = found
    assert (sft, reward) == (AGREES, AGREES)
    assert weak == PARTLY  # no worse than the other coefficient, but no better than SFT
    assert {pmp, ppo, no_kl, clip, warmup, top_p, tax, dpo, online} == {UNDECIDED}
    assert ptx == DISAGREES  # a coefficient that does nothing is measured against SFT's rise: 0


def test_what_the_reports_say_is_recognised(tmp_path):
    results = made_up(
        tmp_path / "a",
        base={"formed": [0, 0, 0], "loss": [0.5, 0.5, 0.5]},
        sft={"true": [2, 2.1, 1.9]},
        pmp={"accuracy": [0.7, 0.71, 0.72]},
        rm_alone={"accuracy": [0.85, 0.86, 0.84]},
        no_kl={"learnt": [2, 2.1, 2.2], "true": [1, 1.1, 0.9], "kl": [50, 51, 52]},
        no_value_clip={"true": [1, 1.1, 0.9]},
        no_warmup={"true": [1, 1.1, 0.9]},
        top_p_1={"entropy": [0.7, 0.71, 0.72]},
        ptx_large={"true": [1, 1.1, 0.9]},
        ptx={"loss": [0.6, 0.61, 0.62]},
        online={"true": [3.5, 3.6, 3.7]},
        dpo={"true": [3.2, 3.25, 3.3]},
    )
    (sft, reward, pmp, ppo, no_kl, weak, clip, warmup, top_p, tax, ptx, dpo, online) = verdicts(
        results
    )
    assert (sft, reward, pmp, ppo, no_kl, weak, warmup, ptx, dpo, online) == (AGREES,) * 10
    assert (clip, top_p) == (PARTLY, PARTLY)  # the curves are alike
    assert tax == UNDECIDED


def test_the_opposite_is_recognised_too(tmp_path):
    results = made_up(
        tmp_path / "a",
        sft={"true": [4, 4.1, 3.9], "formed": [0.5, 0.95, 0.95], "loss": [0.7, 0.71, 0.72]},
        base={"formed": [0, 0, 0]},
        pmp_rm={"accuracy": [0.89, 0.95, 0.95]},
        no_kl={"true": [4, 4.1, 3.9]},
        weak_kl={"true": [1, 1.1, 0.9]},
        online={"true": [1, 1.1, 1.2]},
    )
    (sft, reward, _, ppo, no_kl, weak, _, _, _, tax, _, dpo, online) = verdicts(results)
    assert (sft, reward) == (PARTLY, PARTLY)  # one seed is below the limit
    assert (ppo, no_kl, weak, tax, dpo, online) == (DISAGREES,) * 6


def test_a_divergence_that_is_not_bounded_is_agreement_in_part(tmp_path):
    results = made_up(tmp_path / "a", sft={"true": [2, 2.1, 1.9]}, ppo={"kl": [3, 4, 30]})
    assert verdicts(results)[3] == PARTLY


def test_a_difference_counts_with_every_seed_or_not_at_all():
    assert difference(np.array([1.0, 1.1, 0.9])).sure == 1
    assert difference(np.array([-1.0, -1.1, -0.9])).sure == -1
    assert difference(np.array([3.0, 3.1, -0.1])).sure == 0
    assert difference(np.array([0.1, 0.1, 3.0])).sure == 0  # within twice its error


def test_the_page_has_every_policy_and_escapes_what_they_say(tmp_path):
    results = made_up(tmp_path / "a")
    page = write_report(tmp_path / "a", results).read_text(encoding="utf-8")
    text = markdown(AlignmentNumbers(results))
    for policy in POLICIES:
        assert policy.label in page
        assert policy.label in text
    assert "Dear Mei \\| x" in text
    assert len(seen(AlignmentNumbers(results))) == 3
    for name in ("training.png", "leash.png", "tax.png", "calibration.png", "table.md"):
        assert (tmp_path / "a" / name).stat().st_size > 1000


# --- the whole study ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that ran once; tests that change something take a copy."""
    folder = tmp_path_factory.mktemp("lab") / "finished"
    lines = []
    study.alignment_study(folder, TINY, progress=False, say=lines.append)
    return folder, lines


def cells_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["cells"]


@pytest.mark.slow
def test_the_study_measures_every_policy_with_every_seed(finished):
    folder, lines = finished
    cells = cells_of(folder)
    assert set(cells) == set(BY_NAME) | set(REWARD_MODELS)
    assert all(set(row) == {"0", "1"} for row in cells.values())
    assert all(cells["sft"][seed]["kl"] == 0 for seed in "01")  # nobody is far from himself
    assert all(cells["base"][seed]["loss"] == cells["base"]["0"]["loss"] for seed in "01")
    assert cells["sft"]["0"]["loss"] != cells["sft"]["1"]["loss"]
    assert (folder / "index.html").is_file()
    assert lines[-1].startswith("the report: ")


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped_and_gives_the_same_numbers(finished, tmp_path):
    before = cells_of(finished[0])
    copy = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    shutil.rmtree(copy / "seed-1" / "online-2")
    shutil.rmtree(copy / "seed-0" / "ptx")
    values = json.loads((copy / "results.json").read_text(encoding="utf-8"))
    del values["cells"]["ptx"], values["cells"]["online"]
    (copy / "results.json").write_text(json.dumps(values), encoding="utf-8")
    study.alignment_study(copy, TINY, progress=False, say=lambda line: None)
    assert cells_of(copy) == before


def test_a_folder_of_other_settings_or_of_others_is_refused(tmp_path):
    made_up(tmp_path / "a").save()
    with pytest.raises(ValueError, match="steps = 90, not 30"):
        study.alignment_study(
            tmp_path / "a", AlignmentSettings(steps=30), progress=False, say=lambda line: None
        )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(FileExistsError, match="other files"):
        study.alignment_study(tmp_path / "b", TINY, progress=False, say=lambda line: None)


def test_the_command_refuses_what_cannot_be_studied(capsys, tmp_path):
    out = ["lab", "alignment", "--out", str(tmp_path / "x")]
    assert "steps must be" in error_of(capsys, *out, "--steps", "1")
    assert "cpu" in error_of(capsys, *out, "--device", "cuda")
    assert not (tmp_path / "x").exists()

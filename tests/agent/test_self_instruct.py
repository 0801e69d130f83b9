"""Self-instruct with a model that is a function of its prompt, so that runs can be repeated."""

import itertools
import json
import random
import zlib
from collections import Counter

import pytest

from minqwen.agent.rouge import rouge_l
from minqwen.agent.samples.answers_file import read_answers
from minqwen.agent.samples.sample import Call, Sample, sample_text
from minqwen.agent.samples.sample_rules import Rules, agrees_with_tools
from minqwen.agent.self_instruct import SelfInstructReport, SelfInstructSettings, self_instruct
from minqwen.agent.tool import Tool, make_tools

NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
TOOLS = make_tools(
    [
        Tool("add", "Add", "Adds two numbers.", NUMBERS, lambda a, b: str(a + b)),
        Tool("mul", "Multiply", "Multiplies two numbers.", NUMBERS, lambda a, b: str(a * b)),
    ]
)
THINGS = ["apples", "tickets", "boats", "chairs", "doors", "eggs", "forks", "games", "hats", "keys"]
PEOPLE = ["Ann", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ida", "Jo"]
PLACES = ["Rome", "Oslo", "Lima", "Bern", "Cairo", "Delhi", "Quito", "Seoul", "Tunis", "Minsk"]


def made_up(rng):
    """A sample as a fair model would write it, or with one of its usual mistakes."""
    a, b, name = rng.randrange(2, 99), rng.randrange(2, 99), rng.choice(list(TOOLS))
    who, where, what = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(THINGS)
    question = rng.choice(
        [
            f"{who} buys {a} {what} in {where} and then {b}. How many now?",
            f"In {where}, what is {name} of {a} and {b} {what}?",
            f"Tell {who} the result for {a} with {b}.",
        ]
    )
    result = TOOLS[name].call(a, b)
    call = Call("I need a tool.", name, json.dumps({"a": a, "b": b}), result)
    text = sample_text(Sample(question, (), (call,), "I know it.", f"It is {result}."))
    mistake = rng.randrange(14)
    changes = {
        0: (f"Action: {name}", "Action: divide"),
        1: (f'"b": {b}', '"c": 1'),
        2: (f"Observation: {result}", "Observation: 1"),
        3: ("\nFinal Answer", "\nFinal"),
        4: (question, "How?"),
    }
    return text.replace(*changes[mistake]) if mistake in changes else text


def model(prompt):
    rng = random.Random(zlib.crc32(prompt.encode()))
    texts = [made_up(rng) for _ in range(rng.randrange(1, 6))]
    return "\n\n".join(texts).removeprefix("Question:") + "\n\n"


def seed_sample(question, name, a, b):
    call = Call("I use a tool.", name, json.dumps({"a": a, "b": b}), TOOLS[name].call(a, b))
    return Sample(question, tuple(TOOLS), (call,), "Good.", f"It is {call.observation}.")


SEEDS = [
    seed_sample("What is four plus five?", "add", 4, 5),
    seed_sample("How many legs have 6 dogs?", "mul", 6, 4),
    seed_sample("I am 30, how old in 12 years?", "add", 30, 12),
]
SMALL = SelfInstructSettings(wanted=20, most_answers=40, seed=1)


def run(folder, settings=SMALL, generate=model, **options):
    options.setdefault("check", agrees_with_tools(TOOLS))
    return self_instruct(SEEDS, TOOLS, generate, folder, settings, **options)


def test_what_is_kept_is_right_and_new(tmp_path):
    report = run(tmp_path)
    assert 20 <= len(report.kept) < 25
    questions = [s.question for s in [*SEEDS, *report.kept]]
    for one, other in itertools.combinations(questions, 2):
        assert rouge_l(one, other).f1 < 0.7 or {one, other} <= {s.question for s in SEEDS}
    for sample in report.kept:
        (call,) = sample.calls
        assert call.observation == TOOLS[call.action].call(**json.loads(call.action_input))
        assert set(sample.tools) == set(TOOLS)


def test_every_sample_of_every_answer_is_kept_or_has_its_reason(tmp_path):
    written = []
    report = run(tmp_path, generate=lambda prompt: written.append(model(prompt)) or written[-1])
    assert report.answers == len(written)
    texts = [text for answer in written for text in f"\nQuestion:{answer}".split("\nQuestion:")[1:]]
    assert len(report.kept) + sum(report.dropped.values()) == len(texts)
    assert set(report.dropped) == {
        "format", "unknown tool", "arguments", "length", "overlap", "check"
    }  # fmt: skip
    answers = read_answers(tmp_path)
    assert [s for answer in answers for s in answer.kept] == report.kept
    dropped = [one for answer in answers for one in answer.dropped]
    assert Counter(one.reason for one in dropped) == report.dropped
    assert all(one.why and "Question: " in one.text for one in dropped)


def test_the_counts_are_in_order_and_in_words():
    report = SelfInstructReport(SEEDS, {"overlap": 5, "format": 2}, 4)
    assert str(report) == "3 kept, 7 dropped (overlap 5, format 2), 4 answers"


def test_the_same_seed_gives_the_same_and_another_seed_another(tmp_path):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    assert run(one) == run(two)
    assert (one / "answers.jsonl").read_bytes() == (two / "answers.jsonl").read_bytes()
    assert run(other, SMALL._replace(seed=2)).kept != run(one).kept


def test_kept_samples_stand_in_later_prompts(tmp_path):
    prompts = []
    report = run(tmp_path, generate=lambda prompt: prompts.append(prompt) or model(prompt))
    assert sum(f"Question: {report.kept[0].question}\n" in prompt for prompt in prompts) > 1
    assert prompts[0].count("Question: ") == 3  # all seeds
    assert prompts[-1].count("Question: ") == 5


def test_a_question_of_a_seed_is_not_new(tmp_path):
    report = run(tmp_path, SMALL._replace(most_answers=1), lambda prompt: sample_text(SEEDS[1]))
    assert report.dropped == {"overlap": 1}


def test_a_sample_was_offered_what_its_prompt_told(tmp_path):
    prompts = []
    settings = SMALL._replace(most_tools=1, most_answers=8)
    run(tmp_path, settings, lambda prompt: prompts.append(prompt) or model(prompt))
    offered = set()
    for prompt, answer in zip(prompts, read_answers(tmp_path), strict=True):
        (told,) = (name for name in TOOLS if f"\n{name}: " in prompt)
        assert {sample.tools for sample in answer.kept} <= {(told,)}
        offered.add(told)
        others = [one for one in answer.dropped if "offered were" in one.why]
        assert all(one.why.endswith(f"offered were: {told}") for one in others)
    assert offered == set(TOOLS)


def test_the_prompt_is_in_the_language_of_the_rules(tmp_path):
    prompts = []
    call = SEEDS[0].calls[0]._replace(thought="我用工具。")
    seed = SEEDS[0]._replace(question="四加五等于多少？", calls=(call,), thought="好。")
    settings = SMALL._replace(most_answers=1, rules=Rules(language="zh"))
    self_instruct([seed], TOOLS, lambda p: prompts.append(p) or "", tmp_path, settings)
    assert prompts[0].startswith("请为一个")


def test_ctrl_c_costs_the_answer_that_was_being_made_only(tmp_path):
    def until(n):
        calls = itertools.count()

        def generate(prompt):
            if next(calls) == n:
                raise KeyboardInterrupt
            return model(prompt)

        return generate

    whole = run(tmp_path / "whole")
    for n in (0, 1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", generate=until(n))
    assert len(read_answers(tmp_path / "cut")) == 4
    assert run(tmp_path / "cut") == whole
    files = [tmp_path / name / "answers.jsonl" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_kill_in_the_middle_of_a_line(tmp_path):
    settings = SMALL._replace(wanted=5)
    whole = run(tmp_path, settings)
    path = tmp_path / "answers.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\n") + 1] + b'{"kept": [' + b" " * 2 * len(data))
    assert run(tmp_path, settings) == whole
    assert path.read_bytes() == data
    for end in [0, 1, 40, *range(200, len(data), 397), len(data) - 1, len(data)]:
        path.write_bytes(data[:end])
        assert run(tmp_path, settings) == whole
        assert path.read_bytes() == data


def test_a_run_goes_on_to_a_higher_goal_as_if_it_had_been_set_at_once(tmp_path):
    at_once = run(tmp_path / "once", SMALL._replace(wanted=20))
    run(tmp_path / "twice", SMALL._replace(wanted=6))
    assert run(tmp_path / "twice", SMALL._replace(wanted=20)) == at_once


def test_a_run_that_is_done_asks_the_model_nothing(tmp_path):
    report = run(tmp_path)
    assert run(tmp_path, generate=None) == report


def test_the_answers_are_spent(tmp_path):
    shown = []
    settings = SMALL._replace(most_answers=3)
    report = run(tmp_path, settings, progress=lambda *numbers: shown.append(numbers))
    assert report.answers == 3
    assert [n for _, n in shown] == [1, 2, 3]
    assert shown[-1][0] == len(report.kept) < 20


def test_a_model_that_repeats_itself_gives_one_sample(tmp_path):
    answer = model("prompt").split("\n\n")[0]
    rules = SMALL._replace(most_answers=6)
    report = run(tmp_path, rules, lambda prompt: f"{answer}\n\nQuestion:{answer}")
    assert len(report.kept) == 1
    assert report.dropped == {"overlap": 11}


def test_the_last_sample_may_have_been_cut_off(tmp_path):
    report = run(tmp_path, SMALL._replace(keep_last=False, most_answers=5))
    assert report.dropped["last"] == 5
    answer = model("prompt").split("\n\n")[0]
    settings = SMALL._replace(keep_last=False, most_answers=1)
    assert len(run(tmp_path / "one", settings._replace(keep_last=True), lambda p: answer).kept) == 1
    assert run(tmp_path / "none", settings, lambda p: answer).kept == []


@pytest.mark.parametrize("answer", ["", "\0", "\ud800 \0 Thought: \udfff", "x" * 10_000, "\u2028"])
def test_no_answer_spoils_the_file(tmp_path, answer):
    settings = SMALL._replace(most_answers=2)
    bad_check = {"check": lambda sample: None if sample in SEEDS else "\0 \ud800"}
    first = run(tmp_path, settings, lambda prompt: answer, **bad_check)
    assert first.kept == []
    more = run(tmp_path, settings._replace(most_answers=4), **bad_check)
    assert more.answers == 4
    assert run(tmp_path, settings._replace(most_answers=4), **bad_check) == more


def test_a_failing_model_or_check_loses_nothing(tmp_path):
    run(tmp_path, SMALL._replace(most_answers=2))
    before = (tmp_path / "answers.jsonl").read_bytes()
    with pytest.raises(OSError, match="server"):
        run(tmp_path, generate=lambda prompt: (_ for _ in ()).throw(OSError("server")))
    with pytest.raises(TypeError, match="generate must return a str, got bytes"):
        run(tmp_path, generate=lambda prompt: b"")
    assert (tmp_path / "answers.jsonl").read_bytes() == before


def test_another_run_is_not_mixed_in(tmp_path):
    run(tmp_path, SMALL._replace(most_answers=1))
    before = (tmp_path / "answers.jsonl").read_bytes()
    others = {
        "settings": lambda: run(tmp_path, SMALL._replace(rules=Rules(overlap=0.5))),
        "seeds": lambda: self_instruct(SEEDS[:2], TOOLS, model, tmp_path, SMALL),
        "tools": lambda: self_instruct(
            SEEDS, TOOLS | {"add": TOOLS["add"]._replace(description="+")}, model, tmp_path, SMALL
        ),
    }
    for what, other in others.items():
        with pytest.raises(ValueError, match=f"of a run with other {what}: choose another folder"):
            other()
    assert (tmp_path / "answers.jsonl").read_bytes() == before


def test_a_damaged_or_foreign_file_is_left_alone(tmp_path):
    path = tmp_path / "answers.jsonl"
    run(tmp_path, SMALL._replace(most_answers=3))
    lines = path.read_bytes().split(b"\n")
    broken = b"\n".join([*lines[:2], lines[2][:-5], *lines[3:]])
    for data, message in (
        (broken, "line 3 is damaged: not JSON"),
        (b"[1]\n", "line 1 is damaged"),
        (b'{"messages": []}\n', "line 1 is damaged"),
        (b"my notes", "no file of a run"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            run(tmp_path)
        assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "at least one sample"),
        ([SEEDS[0], SEEDS[0]._replace(tools=("add", "sub"))], r"seeds\[1\] was offered 'sub'"),
        ([SEEDS[0]._replace(calls=())], r"seeds\[0\] fails the rule 'calls'"),
        ([SEEDS[0]._replace(calls=(SEEDS[0].calls[0]._replace(observation="8"),))], "'check'"),
    ],
)
def test_seeds_must_pass_themselves(tmp_path, seeds, message):
    with pytest.raises(ValueError, match=message):
        self_instruct(seeds, TOOLS, model, tmp_path / "run", SMALL, check=agrees_with_tools(TOOLS))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"wanted": 0},
        {"most_answers": 0},
        {"seed": -1},
        {"most_tools": 0},
        {"human_examples": 0},
        {"model_examples": -1},
        {"rules": Rules(overlap=0)},
        {"rules": Rules(overlap=70)},
        {"rules": Rules(language="de")},
    ],
    ids=str,
)
def test_settings_out_of_range(tmp_path, change):
    with pytest.raises(ValueError, match=r"need|must be"):
        run(tmp_path / "run", SMALL._replace(**change))
    assert not (tmp_path / "run").exists()


def test_a_second_process_is_turned_away(tmp_path):
    """The lock is that of an open file, so a second run in this process meets it as well."""
    pytest.importorskip("fcntl")
    said = []

    def meddling(prompt):
        with pytest.raises(OSError, match=r"another process works in this file: .*answers\.jsonl"):
            run(tmp_path)
        said.append(prompt)
        return model(prompt)

    whole = run(tmp_path, generate=meddling)
    assert len(said) == whole.answers
    assert run(tmp_path) == whole  # afterwards it is free, and nothing was harmed


def test_an_answer_without_end_fills_no_disk(tmp_path):
    endless = "Who? " + "la " * 10**6
    settings = SMALL._replace(most_answers=3)
    report = run(tmp_path, settings, generate=lambda prompt: endless)
    assert report.answers == 3
    assert (tmp_path / "answers.jsonl").stat().st_size < 700_000

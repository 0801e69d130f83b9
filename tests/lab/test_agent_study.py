"""The study of tools: what is held out, who writes the samples, what is counted, what is said."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from minqwen.agent.react import run_react
from minqwen.agent.react_parse import parse_react
from minqwen.agent.rouge import RougePool
from minqwen.agent.samples.sample import parse_sample, sample_parts, sample_text
from minqwen.agent.samples.sample_rules import agrees_with_tools, why_dropped
from minqwen.agent.tool import call_tool
from minqwen.alignment.text_generation import text_generator
from minqwen.cli import main
from minqwen.lab import (
    agent_chats,
    agent_data,
    agent_measure,
    agent_report,
    agent_study,
    agent_tasks,
)
from minqwen.lab.agent_tools import (
    HELD_OUT_NAMES,
    HELD_OUT_THINGS,
    HELD_OUT_WORDS,
    LOOK_UPS,
    MAKERS,
    OTHER_FORM,
    THINGS,
    TRAINED_NAMES,
    WORDS,
    makers_of,
    study_tools,
    tell,
    trained_tools,
)
from minqwen.lab.agent_writer import FAULTS, USUAL_TOOLS, GrammarWriter, spoil
from minqwen.lab.findings import AGREES, DISAGREES, UNDECIDED
from minqwen.lab.recipe_study import TEMPLATE, RecipeSettings, make_tokenizer
from minqwen.lab.results import Results
from minqwen.model.init import init_params
from minqwen.tokenizer.chatml import encode_chat

TOOLS = study_tools()
TRAINED = trained_tools(TOOLS)
TINY = replace(
    agent_study.QUICK, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, base_steps=2,
    base_chats=40, samples=12, seed_samples=8, general=20, steps=2, rows=1,
    general_rows=1, sums=2, tests=2,
)  # fmt: skip


def rng(seed=0):
    return np.random.default_rng(seed)


def drawn(n=40, seed=0):
    return agent_data.draw_samples(n, TRAINED, 3, rng(seed))


def questions_for(using, n=12, others=None, **more):
    return agent_tasks.make_tests(
        n, rng(), TOOLS, using, others or list(TRAINED), offered=3, **more
    )


# --- what is held out --------------------------------------------------------------------------


def test_nothing_that_is_held_out_stands_in_what_is_learnt(tmp_path):
    made = agent_data.make_samples(tmp_path, TRAINED, 150, seeds=16, offered=3, seed=0)
    samples = [*made.kept, *drawn(100)]
    chats, base = agent_chats.general_chats(640, 0), agent_chats.base_chats(600, 0)
    repeats = [
        c for c in [*chats, *base] if c[1].startswith(("I repeat: ", "I quote: ", "I take "))
    ]
    chats = [chat for chat in chats if chat not in repeats]
    assert len(repeats) == 600 + 640 * 6 // 16
    learnt = [f"{agent_data.prompt_of(s, TOOLS)} {sample_text(s)}" for s in samples]
    learnt += [f"{question} {answer}" for question, answer in chats]
    words = set(re.findall(r"[a-z]+", "\n".join(learnt).replace("_", " ")))
    assert words.isdisjoint([*HELD_OUT_WORDS, *HELD_OUT_THINGS, "days", "date"])
    assert {"price", "lamp"} & words
    repeated = [f"{question} {answer}" for question, answer in repeats]
    everything = "\n".join([*learnt, *repeated])
    for name in set(TOOLS) - set(TRAINED):
        assert name not in everything
        assert TOOLS[name].description not in everything
    asked = [*(question for question, _ in chats), *(s.question for s in samples)]
    numbers = [int(number) for text in asked for number in re.findall(r"\d+", text)]
    assert len(numbers) > 300
    assert not any(agent_tasks.is_held_out(number) or number > 999 for number in numbers)
    longer = [int(number) for text in repeated for number in re.findall(r"\d+", text)]
    assert len(longer) > 500
    assert not any(map(agent_tasks.is_held_out, longer))


def test_what_is_repeated_are_all_words_and_things():
    text = " ".join(f"{q} {a}" for q, a in agent_chats.base_chats(3000, 1)).replace("_", " ")
    assert {*WORDS, *HELD_OUT_WORDS, *THINGS, *MAKERS} <= set(re.findall(r"[a-z]+", text))


def test_tests_ask_about_what_is_held_out():
    for digits in (0, 4):
        for sample in questions_for(["calculator"], digits=digits):
            numbers = [int(n) for n in re.findall(r"\d+", sample.question)]
            assert len(numbers) == 2
            assert all(map(agent_tasks.is_held_out, numbers))
            assert not digits or min(numbers) > 999
    for sample in questions_for(["price_owl", "dictionary"]):
        said = json.loads(sample.calls[0].action_input).values()
        assert set(said) <= set(HELD_OUT_THINGS)
    for sample in questions_for(HELD_OUT_NAMES, others=HELD_OUT_NAMES):
        assert not set(sample.tools) & set(TRAINED)
        assert len({LOOK_UPS[name] for name in sample.tools}) == 3 or len(sample.tools) == 3
        assert [LOOK_UPS[n] for n in sample.tools].count(LOOK_UPS[sample.calls[0].action]) == 1


def test_the_right_tool_stands_anywhere():
    places = {s.tools.index("calculator") for s in questions_for(["calculator"], n=30)}
    assert places == {0, 1, 2}
    assert all(len(set(s.tools)) == 3 for s in questions_for([""], n=30))


def test_trained_and_held_out_tools_are_apart():
    assert not set(WORDS) & {*HELD_OUT_WORDS, *THINGS}
    assert set(TRAINED) == {*USUAL_TOOLS, *TRAINED_NAMES}
    assert set(TOOLS) - set(TRAINED) == {OTHER_FORM, *HELD_OUT_NAMES}
    assert len(TRAINED_NAMES) == len(WORDS) * len(MAKERS)
    assert {LOOK_UPS[name] for name in HELD_OUT_NAMES} == set(HELD_OUT_WORDS)
    for word in HELD_OUT_WORDS:
        assert not set(makers_of(word, True)) & set(makers_of(word, False))
    assert len({tell("price", thing) for thing in THINGS}) > 35
    assert tell("price", "nothing") == "nothing is not in the list"


# --- the right work ----------------------------------------------------------------------------


@pytest.mark.parametrize("tool", [*USUAL_TOOLS, "weight_fox", OTHER_FORM, ""])
def test_right_samples_pass_every_rule_and_answer_with_what_the_tool_says(tool):
    for sample in questions_for([tool], n=8):
        assert parse_sample(sample_text(sample), sample.tools) == sample
        assert why_dropped(sample, TOOLS, agent_data.RULES, None, agrees_with_tools(TOOLS)) is None
        assert len(sample.calls) == bool(tool)
        if tool:
            assert sample.answer in sample.calls[0].observation


def test_sums_are_right():
    for sample in questions_for(["calculator"], n=40):
        a, sign, b = json.loads(sample.calls[0].action_input)["expression"].split()
        value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert sample.answer == str(value)
        assert [a, b] == re.findall(r"\d+", sample.question)
    for question, answer in agent_chats.general_chats(320, 0)[14::16]:
        a, b = map(int, re.findall(r"\d+", question))
        assert int(answer) in (a + b, a - b, a * b)


def test_chat_answers_fit_their_questions():
    asked = [agent_tasks.draw_question("chat", "", rng(i), False) for i in range(60)]
    for question, _, thought, answer in asked:
        assert thought == agent_tasks.NO_TOOL
        if question.startswith("Which"):
            one, other = re.search(r', "(\w+)" or "(\w+)"', question).groups()
            assert answer == f'It is "{one if " first" in question else other}".'
            assert one != other
        else:
            assert set(re.findall(r"\w+", answer)) - {"Hello"} <= set(re.findall(r"\w+", question))
    assert len({question.split()[0] for question, *_ in asked}) >= 4


def test_chats_without_tools_are_answered_rightly():
    for i in range(30):
        question, answer = agent_chats.draw_echo(rng(i))
        how, said = re.fullmatch(r"Please (repeat|quote): (.*)\.", question).groups()
        assert answer == (f"I repeat: {said}." if how == "repeat" else f'I quote: "{said}".')
        question, answer = agent_chats.draw_take(rng(i))
        names, words = re.fullmatch(r"From (.*) take (.*)\.", question).groups()
        taken = answer.removeprefix("I take ").removesuffix(".").split()
        assert [name.rpartition("_")[0] for name in taken] == words.split()
        assert sorted(taken) == sorted(names.split())
        question, answer = agent_chats.draw_pick(rng(i))
        name = answer.removeprefix(f"{agent_tasks.ASK}\nAction: ")
        listed, _, asked = question.partition("\n\nWhich tool is for this: ")
        assert f"\n{name}: Call this tool" in f"\n{listed}"
        assert f"the {LOOK_UPS[name]} of " in asked
        question, answer = agent_chats.draw_json(rng(i))
        values = [str(value) for value in json.loads(answer).values()]
        assert all(part in question for value in values for part in re.findall(r"\w+", value))


def test_listed_tools_are_told_as_in_a_prompt():
    for full in (True, False):
        listed, pairs = agent_chats.draw_list(full, rng(3))
        told = {name: TOOLS[name] for name, _ in pairs}
        prompt = agent_data.prompt_of(drawn(1)[0]._replace(tools=tuple(told)), TOOLS)
        assert len(told) == len(listed.split("\n\n" if full else "\n")) >= 2
        for line in listed.split("\n\n" if full else "\n"):
            assert f"\n{line}{chr(10) if full else ' What'}" in prompt


def test_too_many_tests_are_refused():
    with pytest.raises(ValueError, match="there are not 40 different questions for price_owl"):
        questions_for(["price_owl"], n=40)


# --- the writer --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_by_the_rules(fault):
    wanted = {"no JSON": "arguments", "made-up tool": "unknown tool", "guess": "check",
              "repetition": "overlap"}  # fmt: skip
    for sample in drawn(24):
        text = spoil(sample, fault, ["What is the price of the lamp?"])
        try:
            read = parse_sample(text, sample.tools)
        except ValueError:
            assert fault not in wanted or not sample.calls
            continue
        pool = RougePool(["What is the price of the lamp?"])
        found = why_dropped(read, TRAINED, agent_data.RULES, pool, agrees_with_tools(TRAINED))
        assert found.reason in (wanted.get(fault), "arguments", "overlap")


def test_the_writer_reads_the_tools_in_the_prompt_and_repeats_itself(tmp_path):
    prompts = []
    writer = GrammarWriter(TRAINED)

    def generate(prompt):
        prompts.append(prompt)
        return writer(prompt)

    first, settings = (
        drawn(8),
        agent_data.SelfInstructSettings(wanted=20, most_tools=3, rules=agent_data.RULES),
    )
    made = agent_data.self_instruct(first, TRAINED, generate, tmp_path / "a", settings)
    again = agent_data.self_instruct(first, TRAINED, writer, tmp_path / "b", settings)
    assert made == again
    assert sum(made.dropped.values()) > 3
    assert writer(prompts[0]) != writer(prompts[1])
    for sample in made.kept:
        assert {call.action for call in sample.calls} <= set(sample.tools)


# --- what is counted ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text():
    shown = [f"{agent_data.prompt_of(s, TOOLS)}\n{sample_text(s)}" for s in drawn(16)]
    settings = RecipeSettings(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                              vocab_size=640)  # fmt: skip
    return make_tokenizer(shown, settings)


def test_only_what_the_model_writes_is_trained_on(text):
    for sample in questions_for([*USUAL_TOOLS, "price_owl", ""], n=18):
        prompt = agent_data.prompt_of(sample, TOOLS)
        chat = agent_measure.sample_chat(text, sample, TOOLS)
        parts = sample_parts(sample)
        whole = "".join(part.text for part in parts)
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": whole}]
        assert chat.ids == encode_chat(text.tokenizer, messages, template=TEMPLATE).ids
        trained = [i for i, t in zip(chat.ids, chat.loss_mask, strict=True) if t]
        written = "".join(part.text for part in parts if part.written)
        assert text.tokenizer.decode(trained) == f"{written}<|im_end|>"


def test_prompts_stand_as_they_were_trained(text):
    sample = questions_for(["calculator"], n=1)[0]
    chat = agent_measure.sample_chat(text, sample, TOOLS)
    seen = []
    answers = [part.text for part in sample_parts(sample) if part.written]

    def generate(asked):
        seen.append(agent_measure.prompt_ids(text, asked))
        return answers[len(seen) - 1]

    told = {name: TOOLS[name] for name in sample.tools}
    assert run_react(sample.question, told, generate).final_answer == sample.answer
    assert len(seen) == 2
    for ids in seen:
        assert ids == chat.ids[: len(ids)]
        assert not chat.loss_mask[len(ids) - 1]
        assert chat.loss_mask[len(ids)]


def test_texts_together_are_those_of_each_alone(text):
    params = init_params(text.config, rng())
    prompts = [
        agent_data.prompt_of(s, TOOLS)[-n:] for n, s in zip((30, 60, 90), drawn(3), strict=True)
    ]
    alone = text_generator(params, text.config, text.tokenizer, chat=True, template=TEMPLATE,
                           max_new_tokens=agent_measure.LONGEST)  # fmt: skip
    together = agent_measure.write_texts(params, text, prompts, batch_size=2)
    assert together == [alone(prompt) for prompt in prompts]


def played(samples, spoilt=()):
    """Run the loops with a model that writes the right parts, or another text where spoilt."""
    by_prompt, rounds = {}, []
    for i, sample in enumerate(samples):
        prompt = agent_data.prompt_of(sample, TOOLS) + "\n"
        for part in sample_parts(sample):
            if part.written:
                by_prompt[prompt] = spoilt[i] if i < len(spoilt) and spoilt[i] else part.text
            prompt += part.text

    def write(prompts):
        rounds.append(len(prompts))
        return [by_prompt.get(str(prompt), "I give up.\nFinal Answer: none") for prompt in prompts]

    return agent_measure.run_together(samples, TOOLS, write), rounds


def test_loops_run_together_as_each_would_alone():
    samples = questions_for(["calculator"], n=3) + questions_for([""], n=2)
    transcripts, rounds = played(samples)
    assert rounds == [5, 3]
    for sample, transcript in zip(samples, transcripts, strict=True):
        assert transcript.final_answer == sample.answer
        whole = "".join(part.text for part in sample_parts(sample))
        assert transcript.text() == f"{agent_data.prompt_of(sample, TOOLS)}\n{whole}"


def test_scores_by_hand():
    samples = questions_for(["calculator"], n=4)
    wrong = 'Thought: I try.\nAction: dictionary\nAction Input: {"expression": "1"}\nObservation:'
    silent = "Thought: Easy.\nFinal Answer: 7"
    transcripts, _ = played(samples, [wrong, silent])
    found = agent_measure.score_answers(samples, transcripts)
    assert found["questions"] == 4
    assert found["selection"] == found["exact"] == found["right"] == 0.5
    assert found["called"] == 0.75
    assert 0.5 < found["input"] < 0.75  # of the wrong tool too, as in the report's program
    _, rounds = played(samples)
    assert rounds == [4, 4]


def test_scores_of_chats_count_calls():
    samples = questions_for([""], n=4)
    called = "Thought: A sum.\nAction: calculator\nAction Input: {}\nObservation:"
    transcripts = played(samples, [None, "Thought: I know.\nFinal Answer: never"])[0]
    assert agent_measure.score_answers(samples, transcripts) == {
        "questions": 4, "right": 0.75, "false_positives": 0.0,
    }  # fmt: skip
    step = parse_react(called)
    assert step.action == "calculator"
    transcript = transcripts[0]._replace(parts=(("?", False), (called, True)))
    found = agent_measure.score_answers(samples, [transcript, *transcripts[1:]])
    assert found["false_positives"] == 0.25


def test_last_number():
    assert agent_measure.last_number("It is -3.") == "-3"
    assert agent_measure.last_number("none") == ""


# --- what it concludes -------------------------------------------------------------------------

NOISE = (0.0, 0.01, -0.01)


def results_of(folder, seeds=3, **changed):
    """Made-up results that agree with every claim, but for what is changed."""
    numbers = {"before plain": 0.0, "after right": 0.9, "before selection": 0.0,
               "after selection": 0.95, "new": 0.7, "form": 0.8, "called": 0.05}  # fmt: skip
    numbers |= changed
    results = Results(folder, agent_study.KIND, ())
    results.facts = {"settings": {"offered": 3}}
    for seed in range(seeds):
        noise = NOISE[seed]
        for i, arm in enumerate(("before", "after")):
            uses = {
                test: {"selection": numbers[f"{arm} selection"] + i * noise}
                for test in agent_report.TESTS
            }
            uses["sums"] |= {"right": numbers["after right"] + noise, "called": 1.0}
            uses["new_look_ups"]["selection"] = numbers["new"] + noise
            uses["new_form"] |= {"exact": numbers["form"] + noise, "input": 0.5}
            results.cells.setdefault(arm, {})[str(seed)] = uses | {
                "plain": {"sums": numbers["before plain"]},
                "no_tool": {"false_positives": numbers["called"] + noise},
            }
    return results


def test_made_up_results_agree_with_all(tmp_path):
    found = agent_report.findings(results_of(tmp_path))
    assert [finding.verdict for finding in found] == [AGREES] * 5


@pytest.mark.parametrize(
    ("which", "changed", "verdict"),
    [
        (0, {"before plain": 0.95}, DISAGREES),
        (0, {"after right": 0.0}, UNDECIDED),
        (1, {"before selection": 0.99}, DISAGREES),
        (1, {"seeds": 2}, UNDECIDED),
        (2, {"new": 0.1}, DISAGREES),
        (2, {"new": 1 / 3}, UNDECIDED),
        (3, {"form": 0.1}, DISAGREES),
        (3, {"form": 0.5}, UNDECIDED),
        (4, {"called": 0.3}, DISAGREES),
        (4, {"called": 0.1}, UNDECIDED),
        (4, {"after selection": 0.0}, UNDECIDED),  # it never calls a tool at all
    ],
)
def test_each_verdict_follows_its_claim(tmp_path, which, changed, verdict):
    found = agent_report.findings(results_of(tmp_path, **changed))
    assert found[which].verdict == verdict


# --- the whole ---------------------------------------------------------------------------------


def study(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_study, "SHOWN", 40)
        patch.setattr(agent_measure, "LONGEST", 5)  # an untrained model never stops
        return agent_study.agent_study(folder, TINY, say=lambda line: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent") / "lab"
    return folder, study(folder)


def without_times(cells):
    return re.sub(r'"seconds": [\d.e-]+', '"seconds": 0', json.dumps(cells))


def test_writes_tables_plots_and_page(finished):
    folder, results = finished
    table, html = ((folder / n).read_text(encoding="utf-8") for n in ("table.md", "index.html"))
    assert (folder / "tools.png").read_bytes().startswith(b"\x89PNG")
    assert html.count("data:image/png") == 1
    for finding in agent_report.findings(results):
        assert finding.verdict == UNDECIDED  # one seed decides nothing
        assert finding.claim in table
        assert finding.ours in table
    for label in agent_report.TESTS.values():
        assert f"| {label} |" in table
    assert not list(folder.glob("*.part"))


def test_cells_hold_what_was_measured(finished):
    _, results = finished
    assert set(results.cells) == {"samples", "before", "after"}
    assert results.get("samples", 0)["kept"] >= TINY.samples
    for arm in ("before", "after"):
        cell = results.get(arm, 0)
        assert set(cell) == {*agent_report.TESTS, "no_tool", "plain", "seconds"}
        assert cell["sums"]["questions"] == TINY.sums


def test_a_rerun_trains_nothing_and_a_stopped_study_goes_on(finished, tmp_path, monkeypatch):
    folder, results = finished
    real, calls = agent_study.fine_tuned, []

    def stopped(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(agent_study, "fine_tuned", stopped)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "lab")
    monkeypatch.setattr(agent_study, "fine_tuned", real)
    again = study(tmp_path / "lab")
    assert without_times(again.cells) == without_times(results.cells)

    def never(*args, **kwargs):
        raise AssertionError("done again")

    for name in ("fine_tuned", "prepare", "make_samples"):
        monkeypatch.setattr(agent_study, name, never)
    (folder / "index.html").unlink()
    same = study(folder)
    assert without_times(same.cells) == without_times(results.cells)
    assert (folder / "index.html").is_file()


def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(agent_study, "QUICK", TINY)
    monkeypatch.setattr(agent_study, "SHOWN", 40)
    monkeypatch.setattr(agent_measure, "LONGEST", 5)
    words = ["lab", "agent", "--out", str(tmp_path / "lab"), "--quick", "--steps", "1"]
    assert main([*words, "--seed", "5", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["facts"]["settings"] == replace(TINY, steps=1, seed=5).to_dict()
    assert set(printed["cells"]) == {"samples", "before", "after"}


def test_every_tool_runs():
    for name, tool in TOOLS.items():
        kind = agent_tasks.kind_of(name)
        asked = agent_tasks.draw_question(kind, name, rng(), True)
        assert not call_tool(TOOLS, name, json.dumps(asked.arguments)).error, tool

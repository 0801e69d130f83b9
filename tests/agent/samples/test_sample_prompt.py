"""The prompt of self-instruct, and the samples in an answer to it."""

import numpy as np
import pytest

from minqwen.agent.samples.sample import Call, Sample, parse_sample, sample_text
from minqwen.agent.samples.sample_prompt import draw_examples, sample_prompt, split_answer
from minqwen.agent.tool import Tool

NAMES = [f"tool{i}" for i in range(8)]
TOOLS = {n: Tool(n, n.title(), f"Does {n}.", {"x": "好"}, lambda: "1") for n in NAMES}


def sample(question, *used):
    calls = tuple(Call("Ask.", name, "{}", "1") for name in used)
    return Sample(question, tuple(NAMES), calls, "Good.", "One.")


SEEDS = [sample(f"seed {i}", NAMES[i % 4]) for i in range(20)] + [sample("both", *NAMES[:6])]
KEPT = [sample(f"kept {i}", NAMES[i % 4]) for i in range(9)]


def draw(number, seeds=SEEDS, kept=KEPT, **options):
    return draw_examples(seeds, kept, NAMES, np.random.default_rng(number), **options)


def test_six_by_people_and_two_by_the_model():
    for number in range(30):
        examples, _ = draw(number, most_tools=8)
        questions = [one.question for one in examples]
        assert len(set(questions)) == 8
        assert sum(question.startswith("kept") for question in questions) == 2


def test_seeds_stand_in_for_kept_samples_that_are_missing():
    for kept, by_model in ((KEPT[:1], 1), ([], 0)):
        questions = [one.question for one in draw(0, kept=kept, most_tools=8)[0]]
        assert len(set(questions)) == 8
        assert sum(question.startswith("kept") for question in questions) == by_model


def test_examples_use_only_tools_that_are_told():
    sizes = set()
    for number in range(60):
        examples, names = draw(number, most_tools=3)
        used = {call.action for one in examples for call in one.calls}
        assert used <= set(names) <= set(NAMES)
        assert len(names) == len(set(names))
        assert any(not one.question.startswith("kept") for one in examples)
        sizes.add(len(names))
    assert sizes == {3, 6}  # 6 where the seed drawn first needs so many


def test_little_to_draw_from():
    examples, names = draw_examples([SEEDS[0]], [], ["tool0"], np.random.default_rng(0))
    assert (examples, names) == ([SEEDS[0]], ["tool0"])
    assert len(draw(0, human_examples=1, model_examples=0)[0]) == 1


def test_the_draw_is_a_function_of_the_generator():
    assert draw(3) == draw(3)
    assert len({str(draw(number)) for number in range(20)}) == 20


def test_every_example_and_every_tool_has_its_turn():
    drawn = [draw(number) for number in range(150)]
    assert {one.question for examples, _ in drawn for one in examples} == {
        one.question for one in SEEDS + KEPT
    }
    assert {names[0] for _, names in drawn} == {names[-1] for _, names in drawn} == set(NAMES)


def test_the_whole_prompt():
    told = {name: TOOLS[name] for name in ("tool3", "tool0")}
    opening, first, second, task, one, two, last = sample_prompt(SEEDS[:2], told).split("\n\n")
    assert opening.endswith("It has these tools:")
    assert first == 'tool3: Does tool3. Parameters: {"x": "好"}'
    assert second.startswith("tool0: ")
    assert task.startswith("An example is")
    assert [one, two] == [sample_text(seed) for seed in SEEDS[:2]]
    assert last == "Question:"


def test_languages():
    assert sample_prompt(SEEDS[:1], TOOLS, "zh").startswith("请为")
    with pytest.raises(ValueError, match="language must be one of en, zh, got 'de'"):
        sample_prompt(SEEDS[:1], TOOLS, "de")


def test_an_answer_that_goes_on_with_the_list_is_cut_into_its_samples():
    texts = [sample_text(one) for one in KEPT]
    answer = "\n\n".join(texts).removeprefix("Question:")
    assert split_answer(answer) == texts
    assert [parse_sample(text, NAMES) for text in texts] == KEPT
    assert split_answer(answer.replace("\n", "\r\n")) == texts


@pytest.mark.parametrize("between", ["---", "###", "### Example 3", "**Example 3:**", "2.", "===="])
def test_lines_between_samples_are_left_out(between):
    one, two = (sample_text(sample) for sample in KEPT[:2])
    assert split_answer(f"{one}\n\n{between}\n{two}\n{between}\n") == [one, two]


def test_a_numbered_or_bold_question_begins_a_sample_too():
    one = sample_text(KEPT[0])
    answer = "\n".join(
        one.replace("Question:", label) for label in ("question 2:", "**Question:**")
    )
    assert split_answer(answer) == [one, one]


def test_what_is_not_a_border_stays():
    answer = "How?\nThought: The Question: is hard.\nFinal Answer: The example:\n3\n\n- a\n- b"
    assert split_answer(answer) == [f"Question: {answer}"]


def test_an_answer_that_is_empty_or_only_space():
    assert split_answer("") == split_answer(" \n\n") == split_answer("Question:\n---\n") == []


def test_a_long_run_of_line_ends_takes_no_time():
    assert split_answer("x" + "\n " * 200_000 + "y" + " -" * 100_000)[0].startswith("Question: x")

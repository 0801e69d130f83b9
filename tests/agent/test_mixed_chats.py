"""Samples as chats: what is learnt, what the model sees when it is used, and the mixture."""

import json

import numpy as np
import pytest

from minqwen.agent.mixed_chats import MixedReport, sample_chats, write_mixed
from minqwen.agent.react import run_react
from minqwen.agent.samples.sample import Call, Sample, sample_parts
from minqwen.agent.tool import Tool, make_tools
from minqwen.data.records import ChatRecord, read_chats
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.chat_templates import Template
from minqwen.tokenizer.chatml import encode_chat

NUMBERS = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
TOOLS = make_tools(
    [
        Tool("double", "Double", "Doubles.", NUMBERS, lambda x: str(2 * x)),
        Tool("next", "Next", "Counts on.", NUMBERS, lambda x: str(x + 1)),
        Tool("unused", "Unused", "Not offered.", NUMBERS, str),
    ]
)
SAMPLE = Sample(
    "What comes after twice 21?",
    ("next", "double"),
    (
        Call("Double it.", "double", '{"x": 21}', "42"),
        Call("Now on.", "next", '{"x": 42}', "43"),
    ),
    "I know it.",
    "It is 43.",
)
PLAIN = Sample("What is your name?", ("next",), (), "No tool can tell.", "I am Qwen.")
PLAIN_TEMPLATE = Template(system=None)


def general_chats(count):
    return [
        ChatRecord([{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}],
                   [{"name": "t"}] if i == 0 else None, {"source": "me", "i": i}, i + 1)
        for i in range(count)
    ]  # fmt: skip


def replayed(sample):
    """Run the loop with a model that writes what the sample says; return prompts and answers."""
    answers = [text for text, written in sample_parts(sample) if written]
    seen = []

    def generate(prompt):
        seen.append((prompt, answers[len(seen)]))
        return seen[-1][1]

    told = {name: TOOLS[name] for name in sample.tools}
    transcript = run_react(sample.question, told, generate)
    return transcript, seen


@pytest.mark.parametrize("sample", [SAMPLE, PLAIN], ids=["calls", "plain"])
def test_each_is_what_a_model_is_asked_that_gets_every_prompt_as_a_question(sample):
    transcript, seen = replayed(sample)
    assert transcript.final_answer == sample.answer
    assert sample_chats(sample, TOOLS, form="each") == [
        [
            {"role": "user", "content": str(prompt).rstrip()},
            {"role": "assistant", "content": written},
        ]
        for prompt, written in seen
    ]


@pytest.mark.parametrize("sample", [SAMPLE, PLAIN], ids=["calls", "plain"])
def test_whole_is_the_text_of_the_loop_in_one_answer(sample):
    transcript, seen = replayed(sample)
    ((question, answer),) = sample_chats(sample, TOOLS)
    assert question == {"role": "user", "content": str(seen[0][0]).rstrip()}
    assert f"{question['content']}\n{answer['content']}" == transcript.text()
    given = [answer["content"][start:end] for start, end in answer.get("given", ())]
    assert given == [text for text, written in sample_parts(sample) if not written]


@pytest.mark.parametrize(("form", "end"), [("each", "<|im_end|>"), ("whole", "")])
def test_only_the_model_s_own_words_are_learnt(form, end):
    tokenizer = bpe_train("", merges=0)
    learnt = ""
    for messages in sample_chats(SAMPLE, TOOLS, form=form):
        ids, mask = encode_chat(tokenizer, messages, template=PLAIN_TEMPLATE)
        learnt += tokenizer.decode(np.array(ids)[mask].tolist())
    assert learnt == (
        f'Thought: Double it.\nAction: double\nAction Input: {{"x": 21}}\nObservation:{end}'
        f' Now on.\nAction: next\nAction Input: {{"x": 42}}\nObservation:{end}'
        " I know it.\nFinal Answer: It is 43.<|im_end|>"
    )


def test_only_the_tools_that_were_offered_are_told_in_their_order():
    prompt = sample_chats(SAMPLE, TOOLS)[0][0]["content"]
    assert "should be one of [next,double]" in prompt
    assert "unused" not in prompt


def test_chinese_prompt():
    assert sample_chats(SAMPLE, TOOLS, language="zh")[0][0]["content"].startswith("请")


def test_the_file_is_read_as_chats(tmp_path):
    path = tmp_path / "mixed.jsonl"
    general = general_chats(6)
    report = write_mixed(path, [SAMPLE, PLAIN], TOOLS, general, seed=3, form="each")
    assert report == MixedReport(2, 4, 6, 0.4)
    records = read_chats(path)
    ours = [r for r in records if r.fields["source"] == "self_instruct"]
    others = [r for r in records if r.fields["source"] == "me"]
    assert len(records) == len(ours) + len(others) == 10
    samples = enumerate([SAMPLE, PLAIN])
    made = [(i, chat) for i, s in samples for chat in sample_chats(s, TOOLS, form="each")]
    found = [(r.fields["sample"], r.messages) for r in ours]
    assert sorted(found, key=str) == sorted(made, key=str)
    # Everything that stood on a line of the other chats stands there still
    assert sorted((r._replace(line=0) for r in others), key=lambda r: r.fields["i"]) == [
        r._replace(line=0) for r in general
    ]
    assert [r.fields["source"] for r in records] != ["self_instruct"] * 4 + ["me"] * 6


def test_the_order_is_drawn_from_the_seed(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        write_mixed(path, [SAMPLE] * 3, TOOLS, general_chats(20), share=0.5, seed=seed)
    one, same, other = (path.read_bytes() for path in paths)
    assert one == same != other
    taken = [{r.fields.get("i") for r in read_chats(path)} for path in (paths[0], paths[2])]
    assert taken[0] != taken[1]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(("share", "taken"), [(None, 20), (1, 0), (0.5, 3), (0.25, 9), (0.13, 20)])
def test_share(tmp_path, share, taken):
    path = tmp_path / "mixed.jsonl"
    report = write_mixed(path, [SAMPLE], TOOLS, general_chats(20), share=share, form="each")
    assert (report.agent_chats, report.general_chats) == (3, taken)
    assert report.share == 3 / (3 + taken)
    chosen = [r.fields["i"] for r in read_chats(path) if "i" in r.fields]
    assert len(chosen) == len(set(chosen)) == taken


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": []}, "samples must hold at least one"),
        ({"share": 0}, "share must be above 0 and at most 1, got 0"),
        ({"share": 1.5}, "share must be"),
        ({"share": 0.1}, r"needs 27 other chats beside 3 .* there are 20: .* is 0\.1304"),
        ({"form": "parts"}, "form must be one of each, whole, got 'parts'"),
        ({"samples": [SAMPLE, SAMPLE._replace(tools=("x",))]}, "offered 'x', which is not in"),
    ],
    ids=str,
)
def test_errors_before_anything_is_written(tmp_path, change, message):
    path = tmp_path / "mixed.jsonl"
    path.write_text("old", encoding="utf-8")
    options = {
        "samples": [SAMPLE],
        "tools": TOOLS,
        "general": general_chats(20),
        "form": "each",
    } | change
    with pytest.raises(ValueError, match=message):
        write_mixed(path, **options)
    assert path.read_text(encoding="utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_lines_are_utf_8_as_they_are(tmp_path):
    path = tmp_path / "mixed.jsonl"
    write_mixed(path, [PLAIN._replace(answer="我是通义千问。")], TOOLS)
    assert "我是通义千问。" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["sample"] == 0

"""Files of samples: written whole or not at all, read strictly."""

import io
import json

import pytest

from minqwen.agent.samples.sample import Call, Sample
from minqwen.agent.samples.sample_files import read_samples, sample_record, write_samples

SAMPLE = Sample(
    "What is 21 times 2?",
    ("calculator", "search"),
    (
        Call("I need the product.", "calculator", '{"expression": "21 * 2"}', "42\nor so"),
        Call("Now the double.", "calculator", '{"expression": "42 * 2"}', ""),
    ),
    "I now know it.",
    "42, and 84.",
)


def test_files(tmp_path):
    path = tmp_path / "samples.jsonl"
    others = [SAMPLE._replace(question=f"为什么 {i}？") for i in range(3)]
    write_samples(path, [SAMPLE, *others])
    assert read_samples(path) == [SAMPLE, *others]
    assert "为什么" in path.read_text(encoding="utf-8")
    write_samples(path, [SAMPLE])
    assert read_samples(path) == [SAMPLE]
    assert [p.name for p in tmp_path.iterdir()] == ["samples.jsonl"]


def test_a_sample_that_would_be_read_otherwise_is_not_written(tmp_path):
    call = SAMPLE.calls[0]._replace(observation="42\nThought: or not")
    for wrong in (SAMPLE._replace(calls=(call,)), SAMPLE._replace(answer="5\nFinal Answer: 6")):
        with pytest.raises(ValueError, match=r"read in another way|left over"):
            write_samples(tmp_path / "x.jsonl", [SAMPLE, wrong])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trace": None}, "question and trace must be texts"),
        ({"question": 5}, "question and trace must be texts"),
        ({"tools": "calculator"}, "tools must be a list of names"),
        ({"tools": [1]}, "tools must be a list of names"),
        ({"more": 1}, "got question, tools, trace, more"),
        ({"trace": "Thought: x"}, "no final answer"),
        ({"question": "Why?\nThought: hm"}, "left over"),
        ({"question": "Why?\nThought: hm", "trace": "Final Answer: 5"}, "label .* inside of"),
        ({"question": "Why?\nThought: a\nAction: b"}, "left over"),
        ({"question": "Why?\nAction: b"}, "label .* inside of the question"),
    ],
)
def test_a_wrong_line_is_named(change, message):
    lines = [sample_record(SAMPLE), sample_record(SAMPLE) | change]
    data = "\n".join(map(json.dumps, lines)).encode()
    with pytest.raises(ValueError, match=f"the stream, line 2: .*({message})"):
        read_samples(io.BytesIO(data))


def test_a_line_that_is_no_object():
    with pytest.raises(ValueError, match=r"line 1: expected an object .* got list"):
        read_samples(io.BytesIO(b"[1]"))

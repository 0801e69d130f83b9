"""What is a document and what is not: every problem, and limits exactly at the border."""

import gzip
import json
import random
import tracemalloc

import pytest

from minqwen.data.streaming import document_files
from minqwen.data.streaming.document_files import BOM, Document, Form, read_documents
from minqwen.data.streaming.input_files import cut_file, find_files

PLAIN = Form()


def documents(folder, name, data, form=PLAIN):
    path = folder / name
    path.write_bytes(data)
    (found,) = find_files([path], but=folder / "out")
    (part,) = cut_file(found, 2**40)
    return list(read_documents(part, form))


def line_of(folder, line, form=PLAIN):
    """Read one bad or good line that stands between two good ones."""
    one, found, three = documents(folder, "a.jsonl", b'{"text":"1"}\n%s\n{"text":"3"}' % line, form)
    assert [(d.line, d.text, d.problem) for d in (one, three)] == [(1, "1", ""), (3, "3", "")]
    assert (found.name, found.line) == ("a.jsonl", 2)
    assert (found.text == "") or not found.problem
    return found


GOOD = {
    b'{"text":"a"}': "a",
    b'  {"text":"a"}\r': "a",
    b'{"id":1,"text":"","more":[null]}': "",
    '{"text":"中文 \u2028 é"}'.encode(): "中文 \u2028 é",
    rb'{"text":"\ud83d\ude00\n"}': "😀\n",
}
BAD = {
    b"not JSON": "not JSON: Expecting value at character 1",
    b'{"text":"a"': "not JSON: Expecting ',' delimiter at character 12",
    b'{"text":"a"}{"text":"b"}': "not JSON: Extra data at character 13",
    b'["text"]': "an object is needed, got list",
    b'"text"': "an object is needed, got str",
    b"{}": "the object lacks the field 'text'",
    b'{"Text":"a"}': "the object lacks the field 'text'",
    b'{"text":null}': "the field 'text' must be a text, got NoneType",
    b'{"text":["a"]}': "the field 'text' must be a text, got list",
    b'{"text":"a","n":NaN}': "not JSON: NaN",
    b'{"text":"a","n":1e999}': "the number 1e999 is too large",
    b'{"text":"a","text":"b"}': "the key 'text' comes twice in one object",
    rb'{"text":"a\ud800b"}': "text holds U+D800 at character 2",
    rb'{"text":"a\u0000"}': "text holds U+0000 at character 2",
    b'{"text":"a\0"}': "not JSON: Invalid control character at character 11",
    b'{"text":"a","n":' + b"[" * 5000 + b"]" * 5000 + b"}": "too deeply nested",
    b'{"text":"a\xff"}': "not UTF-8 text: 'utf-8' codec can't decode byte 0xff in position 10",
    b'{"text":"\xed\xa0\x80"}': "not UTF-8 text: 'utf-8' codec can't decode byte 0xed",
    BOM + b'{"text":"a"}': "not JSON: Unexpected UTF-8 BOM",
}


@pytest.mark.parametrize("line", GOOD)
def test_good_lines(tmp_path, line):
    assert line_of(tmp_path, line) == Document("a.jsonl", 2, line, GOOD[line], "")


@pytest.mark.parametrize("line", BAD)
def test_bad_lines_have_a_problem_and_stay_as_they_came(tmp_path, line):
    found = line_of(tmp_path, line)
    assert BAD[line] in found.problem
    assert found.raw == line
    assert "\n" not in found.problem


def test_bad_bytes_are_replaced_when_asked_for(tmp_path):
    form = Form(replace=True)
    found = line_of(tmp_path, b'{"text":"a\xff\xe4\xb8b"}', form)
    assert found == Document("a.jsonl", 2, '{"text":"a��b"}'.encode(), "a��b", "")
    for name, raw in (("a.txt", b"a\xffb\n"), ("a.txt.gz", gzip.compress(b"a\xffb\n"))):
        assert documents(tmp_path, name, raw, form) == [
            Document(name, 0, "a�b\n".encode(), "a�b\n", "")
        ]
    for line in (b'["\xff"]', b'{"text":"\xff\0"}'):  # other problems: as it came
        assert line_of(tmp_path, line, form).raw == line


def test_another_field(tmp_path):
    form = Form(field="content")
    assert line_of_field(tmp_path, form) == ["the text", ""]


def line_of_field(folder, form):
    data = b'{"text":1,"content":"the text"}\n{"text":"a"}'
    return [d.text for d in documents(folder, "a.jsonl", data, form)]


def test_a_file_is_a_document(tmp_path):
    for data, text in ((b"", ""), (b" a\r\n\n", " a\r\n\n"), (BOM + b"a", "a")):
        for name, raw in (("a.txt", data), ("a.json", data), ("b.GZ", gzip.compress(data))):
            (found,) = documents(tmp_path, name, raw)
            assert found == Document(name, 0, text.encode(), text, "")
    (found,) = documents(tmp_path, "a.txt", b"PK\x03\x04\0\0")
    assert found.problem == "not text, it holds NUL bytes"
    (found,) = documents(tmp_path, "a.txt", b"\xff\xfeh\0i\0")  # UTF-16
    assert found.problem.startswith("not UTF-8 text")
    assert documents(tmp_path, "a.jsonl", BOM) == []


@pytest.mark.parametrize("most", [14, 15, 64])
@pytest.mark.parametrize("over", [-1, 0, 1, 2, 3, 4, 5, 2**20, 2**20 + 1])
@pytest.mark.parametrize("mark", [b"", BOM])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b'\n{"text":"last"}\n'])
def test_the_limit_is_exact(tmp_path, most, over, mark, end):
    """A document of `most` bytes is read; the mark and the line end are not counted."""
    text = "x" * (most + over - len('{"text":""}'))
    body = b'{"text":"%s"}' % text.encode()
    for name, pack in (("a.jsonl", bytes), ("a.jsonl.gz", lambda b: gzip.compress(b, 1))):
        found = documents(tmp_path, name, pack(mark + body + end), Form(most=most))
        assert [d.line for d in found] == [1, 2] if b"last" in end else [1]
        if over <= 0:
            assert found[0] == Document(name, 1, body, text, "")
        else:
            problem = f"longer than {most} bytes, left in the input"
            assert found[0] == Document(name, 1, b"", "", problem)
        if b"last" in end:
            assert bool(found[1].problem) == (len('{"text":"last"}') > most)
    for name, pack in (("a.txt", bytes), ("a.txt.gz", gzip.compress)):
        (found,) = documents(tmp_path, name, pack(mark + body), Form(most=most))
        assert (found.raw, bool(found.problem)) == ((body, False) if over <= 0 else (b"", True))


def test_zipped_files_that_are_damaged_keep_the_lines_before(tmp_path):
    rng = random.Random(0)
    lines = [json.dumps({"text": rng.randbytes(200).hex()}).encode() for _ in range(400)]
    data = b"".join(line + b"\n" for line in lines)
    packed = gzip.compress(data)
    crc = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    middle = packed[: len(packed) // 2] + b"\xff" * 40 + packed[len(packed) // 2 + 40 :]
    cases = {"crc": crc, "cut off": packed[:-5000], "middle": middle, "tail": packed + b"garbage"}
    for name, raw in cases.items():
        *before, last = documents(tmp_path, "a.jsonl.gz", raw)
        assert last.problem.startswith("damaged file of gzip from here on: ")
        assert (last.raw, last.line) == (b"", len(before) + 1)
        good = next((i for i, d in enumerate(before) if d.raw != lines[i]), len(before))
        assert good == 400 if name in ("crc", "tail") else 100 < good < 400
        assert len(before) == good or name == "middle"  # wrong bytes until it is noticed
    for raw in (b"no gzip", packed[:30], data, crc):
        (found,) = documents(tmp_path, "a.txt.gz", raw)
        assert found.problem.startswith("damaged file of gzip")
    (found,) = documents(tmp_path, "empty.gz", b"")
    assert (found.text, found.problem) == ("", "")


def test_zipped_files_of_several_members_are_one(tmp_path):
    members = gzip.compress(b'{"text":"1"}\n{"te') + gzip.compress(b'xt":"2"}') + gzip.compress(b"")
    assert [d.text for d in documents(tmp_path, "a.ndjson.gz", members + bytes(9))] == ["1", "2"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.txt.gz"])
def test_what_is_too_long_is_not_held_in_memory(tmp_path, name):
    data = b"x" * 30_000_000 + b'\n{"text":"after"}\n'
    data = gzip.compress(data, 1) if name.endswith("gz") else data
    (tmp_path / name).write_bytes(data)
    (found,) = find_files([tmp_path / name], but=tmp_path / "out")
    (part,) = cut_file(found, 2**40)
    del data
    tracemalloc.start()
    texts = [d.text for d in read_documents(part, Form(most=100_000))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == (["", "after"] if "jsonl" in name else [""])
    assert peak < 4_000_000


def test_a_file_that_was_changed_since_it_was_found_is_not_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text":"1"}\n')
    (found,) = find_files([path], but=tmp_path / "out")
    (part,) = cut_file(found, 100)
    path.write_bytes(b'{"text":"1"}\n{"text":"2"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl was changed since it was found"):
        list(read_documents(part, Form()))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        list(read_documents(part, Form()))


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.jsonl.gz"])
def test_a_disk_that_fails_names_the_file(tmp_path, monkeypatch, name):
    """The error of the kernel names none."""

    def fails(*args):
        raise OSError(5, "Input/output error")

    (tmp_path / name).write_bytes(b'{"text":"1"}\n')
    (found,) = find_files([tmp_path / name], but=tmp_path / "out")
    (part,) = cut_file(found, 100)
    for kind in ("_lines", "_all"):
        monkeypatch.setattr(document_files, kind, fails)
    with pytest.raises(OSError, match=rf"Input/output error: '.*/{name}'"):
        list(read_documents(part, PLAIN))


def test_known_lines_are_read_but_not_looked_into(tmp_path, monkeypatch):
    """What is no document is told again; bytes and numbers of lines are the same."""
    data = BOM + b'{"text":"1"}\n\n[2]\n{"text":"a\xff"}\r\n{"text":"5"}\n'
    data += b'{"text":"%s"}' % (b"x" * 99)
    for form in (Form(most=90), Form(replace=True, most=90)):
        want = documents(tmp_path, "a.jsonl", data, form)
        (found,) = find_files([tmp_path / "a.jsonl"], but=tmp_path / "out")
        (part,) = cut_file(found, 2**40)
        good = {d.line for d in want if not d.problem}
        with monkeypatch.context() as patch:
            parsed = []
            patch.setattr(document_files, "parse_json", lambda raw, to=parsed: to.append(raw) or [])
            again = list(read_documents(part, form, good))
        assert parsed == [b"[2]"]
        assert [d._replace(text="") for d in want] == again
        assert list(read_documents(part, form, {1})) == [
            d._replace(text="") if d.line == 1 else d for d in want
        ]
    whole = documents(tmp_path, "b.txt", BOM + "好".encode())
    (found,) = find_files([tmp_path / "b.txt"], but=tmp_path / "out")
    (part,) = cut_file(found, 2**40)
    assert list(read_documents(part, PLAIN, {0})) == [whole[0]._replace(text="")]

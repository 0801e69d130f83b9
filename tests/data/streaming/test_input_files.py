"""Files are found and cut into pieces: whatever the size of a piece, the lines are the same."""

import os
from itertools import product

import pytest

from minqwen.data.streaming import input_files as file
from minqwen.data.streaming.document_files import BOM, Form, read_documents
from minqwen.data.streaming.input_files import InputFile, Part, cut_file, find_files, make_blocks

CHINESE = os.fsdecode("新/文件.txt".encode())  # in the C locale too
LINE = b'{"text":"%d"}'
CASES = {
    "last line ends": b"\n".join(LINE % i for i in range(6)) + b"\n",
    "last line does not end": b"\n".join(LINE % i for i in range(6)),
    "CRLF": b"\r\n".join(LINE % i for i in range(5)) + b"\r\n",
    "blank lines": b"\n\n" + LINE % 1 + b"\n \n\n" + LINE % 2 + b"\n\n\n",
    "byte-order mark": BOM + LINE % 1 + b"\n" + LINE % 2 + b"\n" + BOM + LINE % 3 + b"\n",
    "one long line": LINE % 1 + b"\n" + b'{"text":"' + b"x" * 60 + b'"}\n' + LINE % 2 + b"\n",
    "only line ends": b"\n" * 9,
    "empty": b"",
    "one byte": b"7",
}


def one_file(folder, data, name="a.jsonl"):
    path = folder / name
    path.write_bytes(data)
    return find_files([path], but=folder / "out")[0]


def facts(parts):
    found = (read_documents(part, Form(most=50)) for part in parts)
    return [(d.line, d.raw, d.text, d.problem) for documents in found for d in documents]


@pytest.mark.parametrize("case", CASES)
def test_pieces_of_any_size_hold_the_lines_of_the_whole_file(tmp_path, case):
    found = one_file(tmp_path, CASES[case])
    whole = facts([Part(found, 0, found.size, 1)])
    by_hand = CASES[case].removeprefix(BOM).split(b"\n")
    assert [(line, raw) for line, raw, _, problem in whole if "longer" not in problem] == [
        (n, raw) for n, raw in enumerate(by_hand, 1) if raw.strip() and len(raw) <= 50
    ]
    most = 0
    for size in range(1, found.size + 2):
        parts = cut_file(found, size)
        assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])]
        assert parts[-1].end == found.size
        assert all(part.end - part.start >= size for part in parts[:-1])
        assert facts(parts) == whole
        blocks = make_blocks(parts, size)
        assert [part for block in blocks for part in block] == parts
        most = max(most, len(parts))
    assert most == max(1, CASES[case].count(b"\n") + (CASES[case][-1:] not in b"\n"))


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_the_size_of_a_read_does_not_matter(tmp_path, monkeypatch, chunk):
    """Line ends are sought and counted over many reads."""
    found = one_file(tmp_path, CASES["blank lines"] + CASES["one long line"])
    cuts = [cut_file(found, size) for size in range(1, 40)]
    monkeypatch.setattr(file, "CHUNK", chunk)
    assert [cut_file(found, size) for size in range(1, 40)] == cuts


def test_what_is_one_document_or_zipped_is_not_cut(tmp_path):
    for name in ("a.txt", "a.json", "a", "a.jsonl.gz", "A.NDJSON.GZ"):
        found = one_file(tmp_path, b"1\n" * 50, name)
        assert cut_file(found, 10) == [Part(found, 0, 100, 1)]
    assert len(cut_file(one_file(tmp_path, b"1\n" * 50, "A.NDJSON"), 10)) == 10


def test_blocks_are_full_but_not_too_full():
    for sizes in product([0, 1, 3, 5, 9], repeat=4):
        parts = [Part(InputFile("", str(i), s, 0), 0, s, 1) for i, s in enumerate(sizes)]
        blocks = make_blocks(parts, 6)
        assert [part for block in blocks for part in block] == parts
        totals = [sum(part.end for part in block) for block in blocks]
        for total, block in zip(totals, blocks, strict=True):
            assert total <= 6 or all(part.end == 0 for part in block[1:])
        for total, following in zip(totals, blocks[1:], strict=False):
            assert total + following[0].end > 6
    assert make_blocks([], 6) == []


def test_folders_are_gone_through_in_order_but_for_what_is_hidden_or_ours(tmp_path):
    names = ["b.txt", "a/z.txt", "a/b/c.jsonl", "a.txt", "with space", CHINESE, "new\nline"]
    for name in [*names, ".hidden", ".git/x", "a/.b/x", "out/documents/in/b.txt"]:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    (tmp_path / "in" / "link.txt").symlink_to(tmp_path / "in" / "b.txt")
    (tmp_path / "in" / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "to a folder").symlink_to(tmp_path / "in" / "a")
    found = find_files([tmp_path / "in"], but=tmp_path / "in" / "out")
    order = ["a/b/c.jsonl", "a/z.txt", "a.txt", "b.txt", "link.txt", "new\nline", "with space"]
    assert [f.name for f in found] == [f"in/{name}" for name in [*order, CHINESE]]
    for entry in found:
        facts = os.stat(entry.path)
        assert (entry.size, entry.changed) == (facts.st_size, facts.st_mtime_ns)
    again = find_files([tmp_path / "in" / "a", tmp_path / "in" / ".hidden"], tmp_path / "out")
    assert [f.name for f in again] == ["a/b/c.jsonl", "a/z.txt", ".hidden"]


def test_the_order_of_the_arguments_is_kept_and_paths_may_be_relative(tmp_path, monkeypatch):
    for name in ("b", "a", "f/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    paths = [file.Path(name) for name in ("b", "f", "a")]
    assert [f.name for f in find_files(paths, file.Path("out"))] == ["b", "f/x", "a"]
    assert all(os.path.isabs(f.path) for f in find_files(paths, file.Path("out")))
    here = find_files([file.Path(".")], file.Path("f"))
    assert [f.name for f in here] == [f"{tmp_path.name}/a", f"{tmp_path.name}/b"]


def test_mistakes_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in "ab":
        (tmp_path / folder / "same.txt").write_text(folder, encoding="utf-8")
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere"):
        find_files([tmp_path / "nowhere"], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no files in .*empty"):
        find_files([tmp_path / "empty"], out)
    with pytest.raises(ValueError, match="no files in nothing"):
        find_files([], out)
    with pytest.raises(ValueError, match=r"both be written as same.txt"):
        find_files([tmp_path / "a/same.txt", tmp_path / "b/same.txt"], out)
    with pytest.raises(ValueError, match=r"a/same.txt is named twice"):
        find_files([tmp_path / "a", tmp_path / "a"], out)
    (tmp_path / "b" / "a").write_text("a file of the name of a folder", encoding="utf-8")
    for paths in (["a", "b/a"], ["b/a", "a"]):
        with pytest.raises(ValueError, match=r"b/a cannot be written beside .*same.txt"):
            find_files([tmp_path / path for path in paths], out)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file"):
        find_files([tmp_path / "pipe"], out)


def test_a_file_that_two_arguments_hold_is_not_read_twice(tmp_path):
    a = tmp_path / "a"
    (a / "inner").mkdir(parents=True)
    (a / "inner" / "x.txt").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to(a)
    others = "a", "a/inner", "a/inner/x.txt", "a/../a/inner/x.txt", "link", "link/inner/x.txt"
    for other in others:
        for paths in ([a, tmp_path / other], [tmp_path / other, a]):
            with pytest.raises(ValueError, match=r"a/inner/x.txt is named twice"):
                find_files(paths, tmp_path / "out")


def test_a_folder_that_cannot_be_read_is_an_error_and_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "in" / "closed").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("a", encoding="utf-8")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="closed"):
        find_files([tmp_path / "in"], tmp_path / "out")

import pytest

from minqwen.agent.tool import call_tool, make_tools
from minqwen.agent.tools.dictionary import SAMPLE, dictionary_tool, look_up, read_dictionary

ENTRIES = {"gradient": "梯度", "Gradients": "梯度（复数）", "梯度": "gradient", "AC/DC": "a band"}


def write(tmp_path, data, name="words.tsv"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_a_file_with_tabs(tmp_path):
    data = "\ufeffcat\t猫\r\n\n a dog \t 狗 \ncat\t猫\ncat\t大猫".encode()
    assert read_dictionary(write(tmp_path, data)) == {"cat": "猫; 大猫", "a dog": "狗"}


def test_a_file_of_json(tmp_path):
    data = '{"term": "cat", "meaning": "a\\tb\\n猫"}\n\n{"meaning": "狗", "term": "dog"}\n'.encode()
    for name in ("words.jsonl", "WORDS.JSONL"):
        assert read_dictionary(write(tmp_path, data, name)) == {"cat": "a\tb\n猫", "dog": "狗"}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "w.tsv",
            b"a\tb\nc d\n",
            r"w.tsv, line 2: needs a term, one tab and a meaning, got 0 tabs",
        ),
        ("w.tsv", b"a\tb\tc\n", "line 1: needs a term, one tab and a meaning, got 2 tabs"),
        ("w.tsv", b"a\tb\n\t x\n", "line 2: term is empty"),
        ("w.tsv", b"a\t \n", "line 1: meaning is empty"),
        ("w.tsv", b"a\tb\n\xff\tb\n", "line 2: 'utf-8' codec can't decode"),
        ("w.tsv", b"\n \n", "holds no terms"),
        ("w.tsv", b"", "holds no terms"),
        ("w.jsonl", b'{"term": "a"\n', "line 1: Expecting"),
        ("w.jsonl", b'{"term": "a"}\n', "needs an object with term and meaning only, got 'term'"),
        ("w.jsonl", b'{"term": "a", "meaning": "b", "x": 1}', "needs an object"),
        ("w.jsonl", b'["a", "b"]\n', "needs an object with term and meaning only, got list"),
        ("w.jsonl", b'{"term": "a", "meaning": 3}\n', "term and meaning must be texts"),
        ("w.jsonl", b"[" * 100_000, "line 1: is nested too deeply"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path, name, data, message):
    with pytest.raises(ValueError, match=message):
        read_dictionary(write(tmp_path, data, name))


def test_a_missing_file_is_raised_when_the_tool_is_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        dictionary_tool(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    ("term", "answer"),
    [
        ("gradient", "梯度"),
        ("梯度", "gradient"),
        ("GRADIENT", "gradient: 梯度"),
        (" ｇｒａｄｉｅｎｔ\n", "gradient: 梯度"),
        ("gradients", "Gradients: 梯度（复数）"),
        ("ac/dc", "AC/DC: a band"),
        ("gradiant", "there is no entry for 'gradiant'; near it: gradient, Gradients"),
        ("xyz", "there is no entry for 'xyz', and none that is spelled alike"),
        ("", "there is no entry for '', and none that is spelled alike"),
    ],
)
def test_look_up(term, answer):
    assert look_up(ENTRIES, term) == answer


def test_terms_that_differ_in_case_only_are_all_told():
    assert (
        look_up({"Polish": "波兰的", "polish": "擦亮"}, "POLISH") == "Polish: 波兰的; polish: 擦亮"
    )


def test_as_a_tool(tmp_path):
    path = write(tmp_path, "gradient\t坡度\n".encode())
    tools = make_tools([dictionary_tool(path)])
    path.unlink()  # it was read when the tool was made
    assert call_tool(tools, "dictionary", '{"term": "gradient"}') == ("坡度", False, ())
    near = call_tool(tools, "dictionary", '{"term": "gradent"}')
    assert (near.error, near.text) == (False, "there is no entry for 'gradent'; near it: gradient")
    assert call_tool(tools, "dictionary", '{"term": ""}').error
    assert call_tool(tools, "dictionary", '{"term": "%s"}' % ("x" * 201)).error
    assert "among 1 terms" in tools["dictionary"].description


def test_the_sample_is_english_and_chinese():
    assert 20 <= len(SAMPLE) <= 40
    for term, meaning in SAMPLE.items():
        assert term.isascii()
        assert any("\u4e00" <= sign <= "\u9fff" for sign in meaning)
    assert dictionary_tool().call(term="loss") == SAMPLE["loss"]

"""Messages of a kernel become text and files, also when they are forged."""

import base64
import os

import pytest

from minqwen.agent.kernel.kernel_answer import (
    Answer,
    printable_text,
    short_traceback,
    write_new_file,
)
from minqwen.agent.kernel.kernel_connection import Message
from minqwen.agent.kernel.kernel_limits import Limits


@pytest.fixture
def answer(tmp_path):
    return Answer(str(tmp_path), Limits(output_characters=100))


def show(answer, kind, **content):
    answer.add(Message(kind, "", content))
    return answer.output.text()


def test_values_stand_on_lines_of_their_own(answer):
    show(answer, "stream", text="a")
    show(answer, "execute_result", data={"text/plain": "5"})
    assert show(answer, "stream", text="b") == "a\n5\nb"


def test_a_plot_is_a_file_and_not_text(answer, tmp_path):
    picture = base64.b64encode(b"png").decode()
    text = show(answer, "display_data", data={"image/png": picture, "text/plain": "<Figure>"})
    assert text == "[plot: plot_1.png]\n"
    assert (tmp_path / "plot_1.png").read_bytes() == b"png"


def test_a_plot_overwrites_nothing_and_follows_no_link(answer, tmp_path):
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    (tmp_path / "plot_1.png").symlink_to(outside)
    (tmp_path / "plot_2.png").write_bytes(b"mine")
    picture = base64.b64encode(b"png").decode()
    assert show(answer, "display_data", data={"image/png": picture}) == "[plot: plot_3.png]\n"
    assert not outside.exists()
    assert (tmp_path / "plot_2.png").read_bytes() == b"mine"


def test_a_folder_that_became_a_link_is_not_entered(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="link"):
        write_new_file(str(tmp_path / "link"), "plot", "png", b"")


def test_half_a_picture_is_no_file(tmp_path, monkeypatch):
    def full(handle, mode):
        os.close(handle)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdopen", full)
    with pytest.raises(OSError, match="No space"):
        write_new_file(str(tmp_path), "plot", "png", b"png")
    assert list(tmp_path.iterdir()) == []


def test_pictures_have_a_limit(tmp_path):
    answer = Answer(str(tmp_path), Limits(folder_mib=1))
    picture = base64.b64encode(bytes(700_000)).decode()
    assert "plot_1" in show(answer, "display_data", data={"image/png": picture})
    assert "too large" in show(answer, "display_data", data={"image/png": picture})
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("stream", {}),
        ("stream", {"text": {"deep": [1]}}),
        ("stream", {"text": "\ud800"}),
        ("display_data", {}),
        ("display_data", {"data": "text"}),
        ("display_data", {"data": {"image/png": "no base64!"}}),
        ("display_data", {"data": {"image/png": ["list"]}}),
        ("error", {}),
        ("error", {"traceback": "no list"}),
        ("status", {"execution_state": 3}),
        ("execute_reply", {"status": None}),
        ("unheard of", {}),
    ],
)
def test_forged_messages_do_no_harm(answer, kind, content):
    show(answer, kind, **content).encode("utf-8")
    answer.error.encode("utf-8")
    assert not answer.idle


def test_nothing_is_an_order_to_a_terminal(answer):
    told = printable_text("a\x1b]52;c;aGk=\x07b\x9b2Jc\x00\x7fd\r\ne\rf\tg\n图\u00a0")
    assert told == "a]52;c;aGk=b2Jcd\ne\nf\tg\n图\u00a0"


def test_output_is_cut_in_the_middle(answer):
    show(answer, "stream", text="a" * 1000)
    text = show(answer, "stream", text="b" * 1000)
    assert len(text) < 400
    assert text.startswith("aaa")
    assert text.endswith("bbb")
    assert "left out" in text


def test_the_end_is_an_idle_kernel_and_a_reply(answer):
    show(answer, "status", execution_state="busy")
    assert (answer.busy, answer.idle, answer.replied) == (True, False, False)
    show(answer, "status", execution_state="idle")
    show(answer, "execute_reply", status="ok")
    assert (answer.idle, answer.replied, answer.error) == (True, True, "")


def test_an_error_without_its_message_is_still_one(answer):
    show(answer, "execute_reply", status="error", ename="ValueError", evalue="no")
    assert answer.error == "ValueError: no"


def test_a_traceback_has_no_colours_and_none_of_our_frames(answer):
    lines = [
        "\x1b[31mTraceback (most recent call last):",
        "",
        "  Cell In[1], line 1",
        "    f()",
        "  File /x/IPython/core/shell.py:3 in g",
        "    inside()",
        "  File /x/minqwen/agent/kernel/audit_guard.py:9 in hook",
        "",
        "PermissionError: no\x1b[0m",
    ]
    show(answer, "error", traceback=lines)
    want = "Traceback (most recent call last):\n  Cell In[1], line 1\n    f()\nPermissionError: no"
    assert answer.error == want


def test_chained_tracebacks_are_each_shortened():
    one = "Traceback:\n" + "".join(f"  File a.py:{n} in f\n    call({n})\n" for n in range(6))
    text = short_traceback(f"{one}A: 1\n\nDuring handling\n\n{one}B: 2")
    assert text.count("... [2 frames left out]") == 2
    assert [line for line in text.splitlines() if "call" in line].count("    call(5)") == 2
    assert text.endswith("B: 2")


def test_plain_text_keeps_other_alphabets():
    assert printable_text("日本 😀 é") == "日本 😀 é"

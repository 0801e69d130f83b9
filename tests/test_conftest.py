"""What the tests share, tested: a run in which something was left out, pictures drawn once."""

from types import SimpleNamespace

import conftest
import pytest


def finish(monkeypatch, reports, **environment):
    monkeypatch.delenv("MINQWEN_NO_SKIPS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    reporter = SimpleNamespace(stats={"skipped": reports})
    manager = SimpleNamespace(get_plugin=lambda name: reporter)
    session = SimpleNamespace(config=SimpleNamespace(pluginmanager=manager), exitstatus=0)
    conftest.pytest_sessionfinish(session, 0)
    return session.exitstatus


WHOLE_FILE = pytest.CollectReport("tests/a.py", "skipped", "needs torch", [])  # has no keywords
ONE_TEST = SimpleNamespace(nodeid="tests/b.py::t", longrepr="needs jax", keywords={"parity": 1})
GPU = SimpleNamespace(nodeid="tests/gpu/c.py::t", longrepr="no card", keywords={"gpu": 1})


@pytest.mark.parametrize("report", [WHOLE_FILE, ONE_TEST], ids=["whole file", "one test"])
def test_a_skipped_comparison_fails_where_none_may_be_skipped(monkeypatch, capsys, report):
    assert finish(monkeypatch, [report]) == 0
    assert finish(monkeypatch, [report, GPU], MINQWEN_NO_SKIPS="1") == 1
    assert report.longrepr in capsys.readouterr().out


def test_a_missing_card_is_no_failure(monkeypatch):
    assert finish(monkeypatch, [GPU], MINQWEN_NO_SKIPS="1") == 0


@pytest.mark.usefixtures("pictures_once")
def test_a_picture_with_other_words_or_curves_is_drawn(tmp_path):
    figure = pytest.importorskip("matplotlib.figure")

    def picture(numbers, title="loss", curves=1):
        drawing = figure.Figure(figsize=(1, 1))
        axes = drawing.add_subplot(title=title)
        for _ in range(curves):
            axes.plot(numbers)
        drawing.savefig(tmp_path / "a.png", dpi=50)
        return (tmp_path / "a.png").read_bytes()

    first = picture([1, 2])
    assert first.startswith(b"\x89PNG")
    assert picture([2, 1]) == first
    assert len({first, picture([1, 2], title="kl"), picture([2, 1], curves=2)}) == 3

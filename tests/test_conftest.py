"""What the tests share, tested: MINQWEN_NO_SKIPS fails a run in which something was left out."""

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

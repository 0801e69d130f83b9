"""What all tests share."""

import gc
import io
import os
import pathlib
import signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works():
    """Listen to SIGINT, which a shell's background jobs ignore, and their children with them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage while ten thousand tests are collected, nor among them later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_sessionfinish(session, exitstatus):
    """Let CI fail when a comparison was skipped because a package is missing. A GPU is none."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    # a file that skips itself as a whole leaves a report without keywords
    skipped = [report for report in skipped if "gpu" not in getattr(report, "keywords", ())]
    if os.environ.get("MINQWEN_NO_SKIPS") and skipped:
        for report in skipped:
            print(f"\nskipped: {report.nodeid} {report.longrepr}")
        session.exitstatus = 1


def shape_of(figure):
    """Return the words of a figure and the kinds of what is drawn, without the numbers."""
    found = []
    for axes in figure.axes:
        legend = axes.get_legend()
        words = [text.get_text() for text in (*axes.texts, *(legend.texts if legend else ()))]
        kinds = [type(part).__name__ for part in axes.get_children()]
        found.append((axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *words, *kinds))
    return str(found)


@pytest.fixture(scope="module")
def pictures_once():
    """Draw once a file what differs in its numbers alone: the next get the bytes of the first.

    To draw the curves of a small run takes longer than to train it.
    """
    module = pytest.importorskip("matplotlib.figure")
    real, drawn = module.Figure.savefig, {}

    def savefig(self, target, **options):
        shape = shape_of(self), str(options)
        if shape not in drawn:
            png = io.BytesIO()
            real(self, png, **{"format": "png", **options})
            drawn[shape] = png.getvalue()
        if hasattr(target, "write"):
            target.write(drawn[shape])
        else:
            pathlib.Path(target).write_bytes(drawn[shape])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Figure, "savefig", savefig)
        yield

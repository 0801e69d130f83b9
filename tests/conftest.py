"""What all tests share."""

import os
import signal

import pytest


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works():
    """Listen to SIGINT, which a shell's background jobs ignore, and their children with them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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

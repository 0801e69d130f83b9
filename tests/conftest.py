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
    """Let CI fail when a comparison was skipped because a package is missing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("MINQWEN_NO_SKIPS") and reporter and reporter.stats.get("skipped"):
        for report in reporter.stats["skipped"]:
            print(f"\nskipped: {report.nodeid} {report.longrepr}")
        session.exitstatus = 1

"""A device for each test here; without one it is skipped, and says why."""

import pytest
from gpu.device import open_device, why_not


def pytest_configure(config):
    """Name the marker."""
    config.addinivalue_line("markers", "gpu: runs on a GPU; skipped where there is none")


def pytest_collection_modifyitems(config, items):
    """Mark all tests of this folder; skip them where there is no device."""
    reason = why_not()
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device(monkeypatch):
    """Where the test runs."""
    return open_device(monkeypatch)

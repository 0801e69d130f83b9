"""What may be imported and read; that the guards hold is shown by test_attacks.py."""

import os
import sys

import pytest

from minqwen.agent.kernel import landlock
from minqwen.check.specs import names
from minqwen.course import guards
from minqwen.course.guards import environment, outside_of, protection, rules_without
from minqwen.course.ladder import LADDER

KNOWN = [e.name for e in LADDER if all(part.spec in names() for part in e.parts)]


def test_rules_leave_out_what_is_hidden(tmp_path):
    for place in ("lib/numpy", "lib/minqwen/layers", "lib/other", "free"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "lib" / "one.py").write_text("", encoding="utf-8")
    if sys.platform != "win32":
        (tmp_path / "lib" / "link").symlink_to(tmp_path / "lib" / "minqwen")
    root = os.path.realpath(tmp_path)
    found = dict(rules_without([root], [f"{root}/lib/minqwen"]))
    assert found == {
        root: landlock.READ_DIR,
        f"{root}/free": landlock.READ,
        f"{root}/lib": landlock.READ_DIR,
        f"{root}/lib/numpy": landlock.READ,
        f"{root}/lib/one.py": landlock.READ,
        f"{root}/lib/other": landlock.READ,
    }
    assert list(rules_without([f"{root}/lib/minqwen/layers"], [f"{root}/lib/minqwen"])) == []


def test_library_folders_are_not_somebodys_project(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    assert str(tmp_path) not in guards.library_folders()
    assert any("python3" in place for place in guards.library_folders())


def test_the_environment_holds_nothing_of_ours(monkeypatch):
    monkeypatch.setenv("API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/work")
    found = environment("/scratch")
    assert "API_KEY" not in found
    assert "PYTHONPATH" not in found
    assert found["HOME"] == "/scratch"


def test_what_is_in_force_is_said():
    assert "guarded by Linux (landlock 7, seccomp)" in protection(["landlock 7", "seccomp", "hook"])
    assert "inside Python only" in protection(["audit hook"])


def test_elsewhere_the_system_cannot_be_asked_for(monkeypatch):
    monkeypatch.setattr(guards, "readable_places", lambda paths: [])
    monkeypatch.setattr(guards.os, "chdir", lambda place: None)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(sys, "path", list(sys.path))
    given = {"allowed": [], "hollow": [], "folder": "/", "scratch": "/", "hidden": []}
    with pytest.raises(OSError, match="darwin has no Landlock"):
        guards.put_up({**given, "sandbox": "system"})


def test_what_holds_python_is_not_hidden_as_a_whole():
    places = ["/home/me/venv/lib", "/usr/lib"]
    assert outside_of(["/", "/home/me", "/home/me/venv/lib"], places) == []
    assert outside_of(["/usr/lib/x", "/home/me/hw"], places) == ["/usr/lib/x", "/home/me/hw"]

"""`minqwen explain` as a user runs it."""

import json

from helpers.commands import error_of

from minqwen.check.explanation.subject import all_names
from minqwen.cli import main


def test_a_page(capsys):
    assert main(["explain", "rmsnorm"]) == 0
    out = capsys.readouterr().out
    for part in (
        "y = w x / sqrt(mean(x^2) + eps)",
        "Qwen 2.3.1 Architecture, Pre-Norm & RMSNorm",
        "inv_rms (..., 1) = (3, 1)",
        "-- Every gradient, and what central differences say",
        "eps_outside [numeric]: eps is added after the root",
    ):
        assert part in out
    assert main(["explain", "rmsnorm", "--seed", "4"]) == 0
    assert capsys.readouterr().out != out


def test_a_mistake(capsys):
    assert main(["explain", "rmsnorm.eps_outside"]) == 0
    out = capsys.readouterr().out
    assert "- inv_rms = " in out
    assert "+ inv_rms = " in out
    assert "Hint: " in out


def test_the_names(capsys):
    assert main(["explain"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == list(all_names())


def test_json(capsys):
    for words in (["rmsnorm"], ["rmsnorm.eps_outside"], ["window_mask"], []):
        assert main(["explain", *words, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts
    assert [fact["name"] for fact in facts] == list(all_names())


def test_wrong_names(capsys):
    assert "no concept 'x' to explain; there are linear" in error_of(capsys, "explain", "x")
    assert "there are eps_outside" in error_of(capsys, "explain", "rmsnorm.x")
    assert "no mistakes are known of 'x'" in error_of(capsys, "explain", "x.y")
    assert "--seed" in error_of(capsys, "explain", "rmsnorm", "--seed", "-1")

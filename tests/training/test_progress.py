"""What a run shows on stderr, where that is no terminal."""

import pytest

from minqwen.training.progress import Progress


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"loss": 2.5}, "loss 2.5000"),
        ({"loss": -0.00001, "reward": 3.25}, "reward 3.2500"),  # PPO
        ({}, "no loss"),  # a step of online DPO without a pair
    ],
)
def test_a_line_says_what_matters(row, says, capsys):
    with Progress(steps=9, done=3, show=True) as shown:
        shown.step({"step": 4, "lr": 1e-3, "tokens_per_second": 1234.0, **row})
    assert capsys.readouterr().err == f"step 4/9: {says}, lr 1.00e-03, 1,234 tokens/s\n"


def test_lines_come_every_ten_seconds_and_at_the_end(capsys, monkeypatch):
    now = iter((100.0, 100.0, 109.0, 111.0, 111.0, 112.0, 112.0))
    monkeypatch.setattr("minqwen.training.progress.time.monotonic", lambda: next(now))
    with Progress(steps=4, done=0, show=True) as shown:
        for step in (1, 2, 3, 4):
            shown.step({"step": step, "lr": 1.0, "tokens_per_second": 1.0, "loss": 1.0})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 1/4", "step 3/4", "step 4/4"]


def test_nothing_is_shown_when_nobody_asks(capsys):
    with Progress(steps=4, done=0, show=False) as shown:
        shown.step({"step": 4, "lr": 1.0, "tokens_per_second": 1.0, "loss": 1.0})
        shown.note("a look")
    assert capsys.readouterr().err == ""

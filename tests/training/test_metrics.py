"""metrics.jsonl: damaged lines end it, later ones are written again."""

import json

import pytest
from training.small_run import metrics, run

from minqwen.training.loss_plot import plot_loss
from minqwen.training.metrics import Metrics


def test_a_metrics_line_that_was_cut_off_is_dropped(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert Metrics.read(tmp_path) == [{"step": 1, "loss": 2.0}]
    log.write_bytes(b'{"step": 1, "loss": 2.0}\n\x00\x00\xff\n{"step": 3, "loss": 2.0}\n')
    assert Metrics.read(tmp_path) == [{"step": 1, "loss": 2.0}]
    with Metrics(tmp_path, step=1) as opened:
        opened.append({"step": 2, "loss": 3.0})
    assert metrics(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 3.0}]


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "null",
        '"step"',
        "[1]",
        '{"x": 1}',
        '{"step": "2"}',
        '{"step": 2.5}',
        '{"step": true}',
        '{"step": 2, "loss": "low"}',
        '{"step": 2, "loss": NaN}',
        '{"step": 2, "loss": 1e999}',
        "",
    ],
)
def test_a_line_that_is_no_row_ends_the_file(tmp_path, line):
    good = {"step": 1, "loss": 2.0}
    text = f"{json.dumps(good)}\n{line}\n{json.dumps(good)}\n"
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    assert Metrics.read(tmp_path) == [good]
    plot_loss(tmp_path)
    with Metrics(tmp_path, step=1):
        pass
    assert metrics(tmp_path) == [good]


def test_a_run_goes_on_after_a_damaged_line(tmp_path):
    run(tmp_path, steps=2)
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write("5\n")
    run(tmp_path, steps=3)
    assert [row["step"] for row in metrics(tmp_path) if "loss" in row] == [1, 2, 3]


def test_metrics_after_the_checkpoint_are_written_again(tmp_path):
    rows = [
        {"step": 0, "validation_loss": 3.0},
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 2.0},
        {"step": 2, "validation_loss": 3.0},
        {"step": 3, "loss": 2.0},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    with Metrics(tmp_path, step=2):
        pass
    assert metrics(tmp_path) == rows[:3]
    with Metrics(tmp_path, step=0):
        pass
    assert metrics(tmp_path) == []

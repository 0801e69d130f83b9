"""The picture of a run: panels with data, and an old picture that stands when the disk does not."""

import json
import os

import pytest

from minqwen.alignment.metrics_plot import plot_metrics

figure_module = pytest.importorskip("matplotlib.figure")

PANELS = (
    ("Loss", "nats", ("loss", "validation_loss")),
    ("KL", "nats", ("kl",)),
    ("Rate", "", ("lr",)),
)
ROWS = [
    {"step": 0, "validation_loss": 3.0},
    {"step": 1, "loss": 2.5, "lr": 0.1},
    {"step": 2, "loss": 2.0, "lr": 0.2},
    {"step": 2, "validation_loss": 2.25},
]


@pytest.fixture
def drawn(monkeypatch):
    """What is in the figures when they are saved."""
    found, real = [], figure_module.Figure.savefig

    def seen(self, *args, **options):
        for axes in self.axes:
            lines = {
                line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
                for line in axes.get_lines()
            }
            found.append((axes.get_title(), axes.get_ylabel(), lines))
        real(self, *args, **options)

    monkeypatch.setattr(figure_module.Figure, "savefig", seen)
    return found


def write(folder, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def test_panels_with_data_are_drawn_and_the_others_left_out(tmp_path, drawn):
    write(tmp_path, ROWS)
    plot_metrics(tmp_path, PANELS)
    assert drawn == [
        (
            "Loss",
            "nats",
            {"loss": ([1, 2], [2.5, 2.0]), "validation loss": ([0, 2], [3.0, 2.25])},
        ),
        ("Rate", "", {"lr": ([1, 2], [0.1, 0.2])}),
    ]
    assert (tmp_path / "metrics.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "metrics.png"]


@pytest.mark.parametrize("rows", [[], [{"step": 1, "tokens": 3}]])
def test_without_data_there_is_no_picture(tmp_path, rows):
    write(tmp_path, rows)
    plot_metrics(tmp_path, PANELS)
    assert not (tmp_path / "metrics.png").exists()


def test_an_old_picture_stands_when_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    write(tmp_path, ROWS)
    (tmp_path / "metrics.png").write_bytes(b"old")

    def full(self, *args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure_module.Figure, "savefig", full)
    with pytest.raises(OSError, match=r"cannot write .*metrics\.png: No space left"):
        plot_metrics(tmp_path, PANELS)
    assert (tmp_path / "metrics.png").read_bytes() == b"old"

"""The table of speeds: it can be made, says what it was made on, and stands in the page."""

import datetime

import pytest
from helpers.models import small_config

from benchmarks import gpu

TINY = gpu.Size("tiny", small_config(head_dim=8, hidden_size=48), 2, 9, 12, 3, 2)


BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"


def test_a_table_is_made_and_written(device, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "torch_engine", without_torch)
    said = []
    lines = gpu.measure(TINY, said.append)
    assert [line[:2] for line in lines] == [
        ["tiny", "prefill of 12"],
        ["tiny", "decode of 3"],
        ["tiny", "training step of 2 x 9"],
    ]
    for _, _, cupy, numpy, torch, over_numpy, over_torch in lines:
        assert float(cupy.replace(",", "")) > 0
        assert float(numpy.replace(",", "")) > 0
        assert float(over_numpy) > 0
        assert (torch, over_torch) == ("-", "-")
    assert "tiny, torch: left out, no torch" in said
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    gpu.write_page(page, gpu.table(lines, datetime.date(2027, 1, 2)))
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n\n2027-01-02, ")
    assert text.endswith(f"\n\n{END}\nafter\n")
    assert "old" not in text
    assert text.count("| tiny | ") == 3


def without_torch(*_):
    raise ImportError("no torch")


def test_a_wrong_engine_is_not_timed(device, monkeypatch):
    right = gpu.ours

    def wrong(size, params, ids, where):
        engine = right(size, params, ids, where)
        return engine._replace(logits=lambda: engine.logits() * (1.01 if where == "cuda" else 1))

    monkeypatch.setattr(gpu, "torch_engine", without_torch)
    monkeypatch.setattr(gpu, "ours", wrong)
    with pytest.raises(AssertionError, match="the logits of CuPy differ by"):
        gpu.measure(TINY, lambda line: None)


def test_torch_gives_the_same_logits_and_does_the_same_tasks():
    """On the host: that the rival is the same model, whatever it is timed on."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import numpy as np

    from minqwen.model.init import init_params

    params = init_params(TINY.config, np.random.default_rng(0))
    ids = np.random.default_rng(1).integers(0, 61, (2, 13))
    host = gpu.ours(TINY, params, ids, "cpu")
    rival = gpu.torch_engine(TINY, params, ids, "cpu")
    want = host.logits()
    assert np.abs(rival.logits() - want).max() < 1e-4 * np.abs(want).max()
    assert set(gpu.rates(rival, TINY, 1)) == set(gpu.rates(host, TINY, 1))
    # both have made the same two updates
    want = host.logits()
    assert np.abs(rival.logits() - want).max() < 1e-3 * np.abs(want).max()


def test_the_markers_must_be_there(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="has no <!-- speed: begin -->"):
        gpu.write_page(page, "table")

"""The load tests themselves: a leak is found, a wrong answer is found, the limit of memory acts.

The long runs are started by hand, see docs/load.md; here the parts, on small sizes.
"""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from test_cli_mpi import MPIRUN, works

from benchmarks import load, load_cores, load_prompt, load_soak, load_work
from benchmarks.cases import TINY
from minqwen.model import self_attention
from minqwen.tokenizer.bpe import Tokenizer

ROOT = Path(load.__file__).parents[1]


def child(command, **more):
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, **more
    )


# --- soak ---------------------------------------------------------------------------------------


def simulated(minutes=30, grows=0.0, **changes):
    """Samples of a process: warm-up, a table that fills and empties, noise; and what grows."""
    rng, samples = np.random.default_rng(0), []
    for i in range(3 * minutes):
        for j, piece in enumerate(("train", "tokenize", "end")):
            at = (i + j / 3) / 3
            noise = rng.normal(0, 0.5) + 3 * (i % 7) / 7 + 20 * (piece == "train")
            warm = 40 * (1 - np.exp(-at / 2))
            sample = {"minutes": at, "round": i, "piece": piece, "cpu": 60 * at}
            sample |= {"mib": 130 + warm + noise + grows * at}
            sample |= {"descriptors": 6, "threads": 1, "files": 13, "machine": "a machine"}
            sample |= {"words": 1000 * (i % 7)}
            sample |= {"objects": 27_000 + 100 * (i % 2)} if piece == "end" else {}
            sample |= {name: change(i, at) for name, change in changes.items() if name in sample}
            samples.append(sample)
    return samples


def test_what_grows_in_the_first_third_only_is_no_leak():
    verdict = load_soak.judge(simulated())
    assert verdict.complaints == []
    assert abs(verdict.memory.slope) < 0.1
    assert verdict.constant == {"descriptors": [6], "threads": [1], "files": [13]}
    assert "nothing grows" in load_soak.report(simulated(), verdict)


@pytest.mark.parametrize(
    ("leak", "named"),
    [
        ({"grows": 2.0}, "memory"),
        ({"grows": 1.0}, "memory"),  # not shown to be below the bound
        ({"descriptors": lambda i, at: 6 + i}, "descriptors"),
        ({"descriptors": lambda i, at: 6 + (i == 80)}, "descriptors"),
        ({"threads": lambda i, at: 1 + (at > 20)}, "threads"),
        ({"files": lambda i, at: 13 + i // 6}, "files"),
        ({"objects": lambda i, at: 27_000 + 5 * i}, "objects"),
    ],
)
def test_a_leak_is_named(leak, named):
    samples = simulated(**leak)
    verdict = load_soak.judge(samples)
    assert [said.split(":")[0] for said in verdict.complaints] == [named]
    assert f"**{named}: " in load_soak.report(samples, verdict)


def test_a_slow_drift_below_the_bound_is_not_hidden():
    verdict = load_soak.judge(simulated(grows=0.5))
    assert verdict.complaints == []
    assert verdict.memory.slope == pytest.approx(0.5, abs=0.05)
    assert load_soak.judge(simulated(grows=0.5), bound=0.4).complaints != []


def test_a_growth_that_cannot_be_told_from_noise_does_not_pass():
    noise = np.random.default_rng(1).normal(0, 60, 1000)
    samples = simulated(minutes=10)
    for i, sample in enumerate(samples):
        sample["mib"] += noise[i]
    assert load_soak.judge(samples).memory.error > 0.5
    assert load_soak.judge(samples).complaints[0].startswith("memory: ")


def test_too_few_rounds_are_no_verdict():
    with pytest.raises(ValueError, match=r"must hold 8 rounds, they have 6: longer"):
        load_soak.judge(simulated(minutes=3)[:-1])


def test_errors_of_neighbours_that_go_together_are_wider():
    rng = np.random.default_rng(0)
    steps = rng.normal(size=400)
    apart = load_soak.fit(range(400), steps)
    walk = load_soak.fit(range(400), np.convolve(steps, np.full(9, 1 / 3), "same"))
    assert walk.error > 2 * apart.error
    assert apart.error == pytest.approx(np.sqrt(12 / 400**3), rel=0.3)


PLANTED = """
import itertools, sys
from pathlib import Path
from benchmarks import load, load_soak
seconds = itertools.count(0, 4)
clock = lambda: next(seconds)
work = {"work": lambda i: None}
if sys.argv[1] != "none":
    work["leak"] = load.leaking(sys.argv[1], clock)
samples = load_soak.watch(work, 18, Path(sys.argv[2]), clock=clock)
for said in load_soak.judge(samples).complaints:
    print(said)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("leak", "named"), [("memory", "memory"), ("file", "descriptors")])
def test_a_planted_leak_is_found_in_a_real_process(tmp_path, leak, named):
    """The clock is simulated, the memory and the open files are not."""
    path = tmp_path / "samples.jsonl"
    said = child(["-c", PLANTED, leak, str(path)], check=True).stdout
    assert [line.split(":")[0] for line in said.splitlines()][-1:] == [named], said
    assert len(load_soak.read_samples(path)) > 40


@pytest.mark.slow
def test_no_planted_leak_nothing_found(tmp_path):
    assert child(["-c", PLANTED, "none", str(tmp_path / "x")], check=True).stdout == ""


@pytest.mark.slow
def test_two_rounds_of_the_day(tmp_path):
    day = load_work.Day(tmp_path / "day", size="tiny", words=3000)
    work = day.pieces()
    samples = load_soak.watch(work, 0, tmp_path / "samples.jsonl", day.state)
    assert [s["piece"] for s in samples] == [*work, "end"]
    before = day.state()["files"]
    for i in (1, load_work.ROUNDS_OF_A_RUN):  # going on with a run, and starting the next one
        for do in work.values():
            do(i)
    assert day.state()["files"] == before
    assert {path.name for path in (tmp_path / "day").iterdir()} == {
        "dense-1",
        "experts-1",
        "tokenizer",
    }


def test_a_small_change_of_one_parameter_is_another_answer(tmp_path):
    day = load_work.Day(tmp_path, size="tiny", words=300)
    day.same_answer(0)
    day.same_answer(1)
    day.fixed["model.layers.0.self_attn.v_proj.weight"] *= np.float32(1.01)
    with pytest.raises(AssertionError, match="another answer than in the first round"):
        day.same_answer(2)


@pytest.mark.slow
def test_words_that_are_kept_for_ever_are_found(tmp_path, monkeypatch):
    day = load_work.Day(tmp_path, size="tiny", words=3000)
    table = type(day.tokenizer._known).__base__  # of words, and of what they are cut into
    monkeypatch.setattr(table, "limit", 2000)
    day.tokenize(0)
    assert day.state()["words"] <= 2000
    monkeypatch.setattr(table, "clear", lambda self: None)
    with pytest.raises(AssertionError, match="words remembered"):
        day.tokenize(1)


@pytest.mark.slow
def test_a_text_that_does_not_come_back_is_found(tmp_path, monkeypatch):
    day = load_work.Day(tmp_path, size="tiny", words=300)
    monkeypatch.setattr(Tokenizer, "decode", lambda self, ids: "another text")
    with pytest.raises(AssertionError, match="did not come back"):
        day.tokenize(1)


def test_the_picture_is_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    samples = simulated()
    verdict = load_soak.judge(samples)
    for name in ("a.svg", "b.svg"):
        load_soak.draw(samples, verdict, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


# --- long prompt --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", load_prompt.KINDS)
@pytest.mark.parametrize("chunk", [13, None])
def test_a_prompt_in_chunks_gives_the_logits_of_plain_attention(kind, chunk):
    assert load_prompt.check(kind, 96, None if kind == "ntk" else chunk, TINY) < 1e-12


def test_a_wrong_window_is_found(monkeypatch):
    forward = self_attention.block_attention_forward

    def off_by_one(q, k, v, real=None, *, window=None, segments=None):
        return forward(q, k, v, real, window=window + 1, segments=segments)

    monkeypatch.setattr(self_attention, "block_attention_forward", off_by_one)
    assert load_prompt.check("window", 96, 13, TINY) > 1e-6


def test_a_cache_that_forgets_is_found(monkeypatch):
    store = load_prompt.KVCache.store

    def forgets(self, layer, k, v):
        k, v = store(self, layer, k, v)
        k = k.copy()
        k[:, :, :1] = 0
        return k, v

    monkeypatch.setattr(load_prompt.KVCache, "store", forgets)
    for kind in load_prompt.KINDS:
        assert load_prompt.check(kind, 96, None if kind == "ntk" else 13, TINY) > 1e-6, kind


def test_the_kernel_is_the_one_asked_for(monkeypatch):
    called = []
    forward = load_prompt.flash_attention_forward
    monkeypatch.setattr(
        load_prompt,
        "flash_attention_forward",
        lambda *a, **b: called.append(1) or forward(*a, **b),
    )
    before = self_attention.block_attention_forward
    load_prompt.run_kind("full", 32, 4, 8, TINY)
    assert not called
    load_prompt.run_kind("flash", 32, 4, 8, TINY)
    assert len(called) == TINY["num_hidden_layers"] * (4 + 3)
    assert self_attention.block_attention_forward is before


def test_the_last_tokens_alone_give_the_last_logits():
    found, answer = load_prompt.run_kind("window", 500, 12, 64, TINY)  # W = 16
    assert found["differs"] < 1e-5
    config = load_prompt.long_config("window", 512, TINY)
    params = load_prompt.init_params(config, np.random.default_rng(0))
    prompt = load_prompt.draw_prompt(500, config)
    assert found["ids"][0] == answer.logits.argmax()
    shorter = load_prompt.last_tokens_only(params, config, prompt[:-1])
    assert load_prompt.difference(answer.logits, shorter) > 1e-3


def test_a_pass_that_keeps_nothing_holds_one_layer_at_a_time():
    peaks = {}
    for layers in (1, 4):
        config = load_prompt.QwenConfig(**(TINY | {"num_hidden_layers": layers}))
        params = load_prompt.init_params(config, np.random.default_rng(0))
        ids = load_prompt.draw_prompt(600, config)[None]
        kv_cache = load_prompt.KVCache(config, 1, 600)
        tracemalloc.start()
        load_prompt.step(params, config, ids[0], kv_cache)
        peaks[layers] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[4] < 1.1 * peaks[1]


def test_rows_are_compared():
    def rows(*kinds, ids=(1,)):
        return [{"kind": kind, "chunk": None, "ids": [1]} for kind in kinds[:-1]] + [
            {"kind": kinds[-1], "chunk": None, "ids": list(ids)}
        ]

    ones, other = np.ones(3), np.array([1, 1, 1.01])
    three = rows("full", "ntk", "flash")
    assert load_prompt.compare(three, {0: ones, 1: other, 2: ones}) == []
    assert (three[2]["beside"], three[2]["same_ids"]) == ("full", True)
    assert load_prompt.compare(rows("full", "flash"), {0: ones, 1: other}) == [
        "flash: differs by 1.0e-02"
    ]
    assert load_prompt.compare(rows("full", "full", ids=[2]), {0: ones, 1: ones}) == [
        "full: other tokens than full above"
    ]
    window = rows("window")
    window[0]["differs"] = np.nan
    assert load_prompt.compare(window, {0: ones}) == ["window: differs by nan"]


def read_prompt(tmp_path, row, tokens, gib):
    code = f"from benchmarks import load; load.LIMIT = {gib}; load.main({{}})"
    words = ["prompt", "--row", str(row), "--tokens", str(tokens), "--out", str(tmp_path)]
    return child(["-c", code.format(words)])


@pytest.mark.slow
def test_8192_tokens_see_all_before_them_within_a_quarter_of_4_gib(tmp_path):
    done = read_prompt(tmp_path, load_prompt.ROWS.index(("full", None)), 8192, 1)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "row0.json").read_text(encoding="utf-8"))
    assert found["peak_mib"] < 1024
    assert len(found["ids"]) == load_prompt.NEW


@pytest.mark.slow
def test_32768_tokens_through_a_rolling_cache_within_4_gib(tmp_path):
    row = load_prompt.ROWS.index(("window", load_prompt.CHUNK))
    done = read_prompt(tmp_path, row, 32768, 4)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / f"row{row}.json").read_text(encoding="utf-8"))
    assert found["peak_mib"] < 400  # 143 as measured: neither T x T nor T x V numbers
    assert found["differs"] < 1e-4


@pytest.mark.slow
def test_what_does_not_fit_is_a_memory_error(tmp_path):
    done = read_prompt(tmp_path, 0, 8192, 0.3)
    assert done.returncode != 0
    assert "MemoryError" in done.stderr


# --- cores --------------------------------------------------------------------------------------


def test_all_ways_have_the_same_losses():
    found = load_cores.here(2, B=4, T=8, model=TINY)
    assert {"whole", "pieces", "threads"} <= found.keys()
    assert load_cores.complaints(found) == []
    assert all(len(s.losses) == 3 and len(s.seconds) == 2 for s in found.values())
    text = load_cores.report(found, {"processes": "mpirun is not installed"}, "a machine")
    assert "| processes | mpirun is not installed |" in text
    assert "as they must be" in text


def test_other_losses_are_named():
    steps = load_cores.Steps([2.0, 1.0], [1.0], [0.1], [True])
    other = steps._replace(losses=[2.0, 1.0 + 1e-7])
    found = {"whole": steps, "pieces": steps, "threads": other}
    assert load_cores.complaints(found) == ["threads: not the losses of pieces, bit for bit"]
    found = {"whole": steps, "pieces": steps, "threads": steps, "processes": other}
    assert load_cores.complaints(found) == []
    found["processes"] = steps._replace(losses=[2.0, 1.01])
    assert load_cores.complaints(found)[0].startswith("processes: losses")


def test_disturbed_rounds_are_left_out():
    steps = load_cores.Steps([], [1.0, 9.0, 1.2, 1.1], [0.1] * 4, [True, False, True, True])
    assert load_cores.undisturbed(steps) == ([0, 2, 3], "3 of 4")
    assert load_cores.middle(steps) == 1.1
    few = steps._replace(quiet=[True, False, False, False])
    assert load_cores.undisturbed(few) == ([0, 1, 2, 3], "4, disturbed by other programs")


def test_without_mpirun_there_is_no_row_of_it():
    with pytest.raises(ValueError, match=r"started by mpirun -n 2"):
        load_cores.in_processes(1, 4, 8, TINY)


@pytest.mark.slow
def test_processes_have_the_same_losses(tmp_path):
    if not works():
        pytest.skip("no mpirun with its mpi4py")
    code = (
        "import json, pathlib\n"
        "from benchmarks.cases import TINY\n"
        "from benchmarks.load_cores import in_processes\n"
        "rank, steps = in_processes(2, 4, 8, TINY)\n"
        f"pathlib.Path({str(tmp_path)!r}, str(rank)).write_text(json.dumps(steps), 'utf-8')\n"
    )
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [MPIRUN, "-n", "2", sys.executable, "-c", code]
    subprocess.run(command, cwd=ROOT, env=env, check=True, timeout=120)
    found = load_cores.here(2, B=4, T=8, model=TINY)
    for rank in "01":
        steps = json.loads((tmp_path / rank).read_text(encoding="utf-8"))
        found[f"rank {rank}"] = load_cores.Steps(*steps)
    assert load_cores.complaints(found) == []


# --- page ---------------------------------------------------------------------------------------


def test_a_part_of_the_page_is_replaced(tmp_path):
    page = tmp_path / "load.md"
    page.write_text("a\n<!-- soak: begin -->\nold\n<!-- soak: end -->\nb\n", encoding="utf-8")
    for _ in range(2):
        load.write_part("soak", "new", page)
    assert page.read_text(encoding="utf-8") == (
        "a\n<!-- soak: begin -->\nnew\n<!-- soak: end -->\nb\n"
    )


def test_the_page_has_a_place_for_every_part():
    text = load.PAGE.read_text(encoding="utf-8")
    for name in ("soak", "prompt", "cores"):
        assert text.count(f"<!-- {name}: begin -->") == text.count(f"<!-- {name}: end -->") == 1
        assert f"python -m benchmarks.load {name}" in text

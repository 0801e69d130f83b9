"""Ranks that share a batch give what one process gives: gradients, runs, errors, stops."""

import dataclasses
import math
import signal
import threading

import numpy as np
import pytest
from helpers.commands import error_of, tiny_run, write_story
from helpers.thread_ranks import run_ranks
from training.small_run import CONFIG, ROWS, assert_same_run, metrics, run
from training.test_accumulate import EXPERTS, NO_DROPOUT, largest_difference, unequal_pieces

from minqwen.model.checkpoint import load_checkpoint
from minqwen.model.init import init_params
from minqwen.training import pretrain as module
from minqwen.training import together
from minqwen.training.accumulate import Batch, as_batch, count_tokens, loss_and_grads
from minqwen.training.adamw import adamw_init
from minqwen.training.data_parallel import (
    buckets,
    data_parallel_loss_and_grads,
    own_pieces,
    pieces_of_batch,
    require_shared,
)
from minqwen.training.resume import load_run
from minqwen.training.settings import PretrainSettings
from minqwen.training.together import Together

DROPOUT = dataclasses.replace(CONFIG, dropout=0.3)
RANKS = [1, 2, 3, 4, 5]


def params_of(config):
    params = init_params(config, np.random.default_rng(3), dtype="float64")
    return {k: w * (10 if w.ndim > 1 else 1) for k, w in params.items()}


def pieces_of_rows(cuts):
    """Pieces of ROWS with very different numbers of counted tokens."""
    mask = np.random.default_rng(5).random((13, 5)) < np.linspace(0.1, 1, 13)[:, None]
    return [
        Batch(ROWS[cut, :-1], ROWS[cut, 1:], mask[cut]) for cut in np.array_split(range(13), cuts)
    ]


def shared(params, config, pieces, size, **options):
    def work(communicator):
        own = own_pieces(len(pieces), communicator.rank, size)
        mine = [pieces[i] for i in own]
        first = own[0] if own else 0
        return data_parallel_loss_and_grads(
            params, config, mine, communicator, (1, 2), first=first, **options
        )

    return run_ranks(size, work)


@pytest.mark.parametrize("size", RANKS)
@pytest.mark.parametrize("config", [NO_DROPOUT, DROPOUT, EXPERTS], ids=["dense", "drop", "moe"])
def test_all_ranks_have_the_loss_and_gradient_of_one_process(config, size):
    params, pieces = params_of(config), pieces_of_rows(6)
    options = {"z_loss_coef": 0.3, "pool_router_layers": True} if config is EXPERTS else {}
    one = loss_and_grads(params, config, pieces, (1, 2), **options)
    results, calls = shared(params, config, pieces, size, **options)
    for found in results:
        assert found.tokens == one.tokens
        assert found.loss == pytest.approx(one.loss, rel=1e-13)
        assert list(found.grads) == list(params)
        assert largest_difference(one.grads, found.grads) < 1e-12
        assert (found.aux_loss is None) == (config is not EXPERTS)
        if config is EXPERTS:
            assert found.aux_loss == pytest.approx(one.aux_loss, rel=1e-13)
            assert found.max_load == one.max_load
        for key in params:  # not only nearly: in all ranks the same bits
            np.testing.assert_array_equal(found.grads[key], results[0].grads[key])
    assert all(sent == calls[0] for sent in calls)


def test_the_mean_of_the_ranks_means_would_be_seen():
    params, pieces = params_of(NO_DROPOUT), unequal_pieces()[1]
    one = loss_and_grads(params, NO_DROPOUT, pieces)
    ranks = [loss_and_grads(params, NO_DROPOUT, own) for own in (pieces[:2], pieces[2:])]
    means = {key: sum(r.grads[key] for r in ranks) / 2 for key in params}
    assert largest_difference(one.grads, means) > 1e-2
    (found, _), _ = shared(params, NO_DROPOUT, pieces, 2)
    assert largest_difference(one.grads, found.grads) < 1e-12


@pytest.mark.parametrize("config", [NO_DROPOUT, EXPERTS], ids=["dense", "moe"])
def test_a_rank_without_a_counted_token_takes_part(config):
    params, (piece, *_) = params_of(config), pieces_of_rows(1)
    nothing = Batch(piece.input_ids, np.full_like(piece.labels, -100))
    one = loss_and_grads(params, config, [piece])
    for pieces in ([nothing, piece], [piece, nothing]):
        results, _ = shared(params, config, pieces, 2)
        for found in results:
            assert found.loss == pytest.approx(one.loss, rel=1e-13)
            assert found.max_load == one.max_load
            assert largest_difference(one.grads, found.grads) < 1e-12
    results, _ = shared(params, config, [nothing, nothing], 2)
    assert all("no token that counts" in str(error) for error in results)


def test_float32_stays_float32_and_one_message_carries_many_tensors():
    params = init_params(NO_DROPOUT, np.random.default_rng(3))
    results, (calls, _) = shared(params, NO_DROPOUT, pieces_of_rows(2), 2)
    assert {g.dtype for g in results[0].grads.values()} == {np.dtype(np.float32)}
    numbers = sum(w.size for w in params.values())
    assert [call[1] for call in calls] == [1, 2, numbers]  # the counts, the losses, one bucket
    assert calls[-1][2] == np.float32


def test_buckets_are_one_line_cut_at_equal_lengths():
    rng = np.random.default_rng(0)
    arrays = [rng.random(shape) for shape in ((3, 7), (1,), (0, 4), (50,), (2, 2, 2), (5,))]
    for size in (1, 8, 9 * 8, 13 * 8, 10**6):
        found = list(buckets(arrays, size))
        room = max(1, size // 8)
        lengths = [sum(part.size for part in bucket) for bucket in found]
        assert lengths[:-1] == [room] * (len(lengths) - 1)
        assert 0 < lengths[-1] <= room
        line = np.concatenate([part for bucket in found for part in bucket])
        np.testing.assert_array_equal(line, np.concatenate([a.reshape(-1) for a in arrays]))
        assert np.shares_memory(found[0][0], arrays[0])
    assert list(buckets([])) == []


def test_gradients_over_many_buckets(monkeypatch):
    monkeypatch.setattr(buckets, "__defaults__", (100,))  # bytes: 12 numbers
    params, pieces = params_of(NO_DROPOUT), pieces_of_rows(3)
    one = loss_and_grads(params, NO_DROPOUT, pieces, (1, 2))
    results, (calls, *_) = shared(params, NO_DROPOUT, pieces, 3)
    assert len(calls) == 2 + -(-sum(w.size for w in params.values()) // 12)
    for found in results:
        assert largest_difference(one.grads, found.grads) < 1e-12


def test_the_order_of_the_sum_is_that_of_the_names():
    """A dict in another order, in one rank, must not add the gradients of different tensors."""
    params, pieces = params_of(NO_DROPOUT), pieces_of_rows(2)
    one = loss_and_grads(params, NO_DROPOUT, pieces)

    def work(communicator):
        rank = communicator.rank
        own = dict(reversed(params.items())) if rank else params
        return data_parallel_loss_and_grads(
            own, NO_DROPOUT, [pieces[rank]], communicator, first=rank
        )

    for found in run_ranks(2, work)[0]:
        assert largest_difference(one.grads, found.grads) < 1e-12


def test_pieces_are_shared_evenly_and_all_of_them_once():
    for pieces in range(1, 12):
        for size in range(1, 6):
            shares = [own_pieces(pieces, rank, size) for rank in range(size)]
            assert [i for share in shares for i in share] == list(range(pieces))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_how_a_batch_is_cut():
    dense, moe, drop = NO_DROPOUT, EXPERTS, DROPOUT
    for config in (dense, moe, drop):
        assert pieces_of_batch(config, 8, 3, 1) == 3  # as without ranks
    assert pieces_of_batch(dense, 8, 1, 2) == 2
    assert pieces_of_batch(dense, 8, 3, 2) == 4  # the same number for each
    assert pieces_of_batch(dense, 5, 4, 3) == 5  # no more than rows
    assert pieces_of_batch(moe, 8, 3, 2) == pieces_of_batch(drop, 8, 3, 2) == 3
    with pytest.raises(ValueError, match=r"batch_size must be at least 9, a row for each.*got 8"):
        pieces_of_batch(dense, 8, 8, 9)
    for config in (moe, drop):
        with pytest.raises(ValueError, match=r"accumulate must be at least 4.*got 3"):
            pieces_of_batch(config, 8, 3, 4)
    settings = PretrainSettings(batch_size=8, accumulate=4)
    require_shared(dense, settings, size=2, threads=2)
    for threads in (0, 3):
        with pytest.raises(ValueError, match="threads must be from 1 to the 2 pieces"):
            require_shared(dense, settings, size=2, threads=threads)


def test_threads_change_no_bit():
    for config in (NO_DROPOUT, DROPOUT, EXPERTS):
        params = init_params(config, np.random.default_rng(3))
        pieces = pieces_of_rows(5)
        one = loss_and_grads(params, config, pieces, (1, 2))
        for threads in (2, 3, 5, 8):
            two = loss_and_grads(params, config, pieces, (1, 2), threads=threads)
            assert two[0] == one[0]
            assert two[2:] == one[2:]
            for key in params:
                np.testing.assert_array_equal(two.grads[key], one.grads[key])


def test_threads_are_at_work_at_the_same_time(monkeypatch):
    from minqwen.training import accumulate

    meet, real = threading.Barrier(2, timeout=20), accumulate._piece

    def piece(*args):
        meet.wait()  # one thread alone would wait for ever
        return real(*args)

    monkeypatch.setattr(accumulate, "_piece", piece)
    params = params_of(NO_DROPOUT)
    loss_and_grads(params, NO_DROPOUT, pieces_of_rows(4), threads=2)


def test_an_error_in_a_thread_is_raised():
    bad = Batch(np.array([[99]]), np.array([[1]]))
    with pytest.raises((ValueError, IndexError)):
        loss_and_grads(params_of(NO_DROPOUT), NO_DROPOUT, [bad, as_batch(ROWS)], threads=2)


def test_a_run_with_threads_is_that_of_one_thread(tmp_path, capsys):
    for threads in (1, 3):
        run(tmp_path / str(threads), accumulate=3, options={"threads": threads})
    assert_same_run(tmp_path / "1", tmp_path / "3")
    words = tiny_run(write_story(tmp_path), tmp_path / "run", "--quiet", "--threads", "2")
    assert "threads must be from 1 to the 1 pieces of a batch" in error_of(capsys, *words)
    assert not (tmp_path / "run").exists()


def run_shared(folder, size, **settings):
    """A whole run of pretrain in `size` ranks."""
    options = settings.pop("options", {})

    def work(communicator):
        return run(folder, options={"communicator": communicator, **options}, **settings)

    return run_ranks(size, work)


def assert_nearly_same_run(folder, other):
    """The same lines of metrics and the same checkpoint, but for rounding."""
    first, second = metrics(folder), metrics(other)
    assert [row.keys() for row in first] == [row.keys() for row in second]
    for row, row_2 in zip(first, second, strict=True):
        for name, value in row.items():
            np.testing.assert_allclose(row_2[name], value, rtol=1e-12, err_msg=name)
    (params, state, training), (params_2, state_2, training_2) = (
        load_run(f, "float64") for f in (folder, other)
    )
    assert state["step"] == state_2["step"]
    assert training == training_2
    for one, two in ((params, params_2), (state["m"], state_2["m"]), (state["v"], state_2["v"])):
        assert largest_difference({k: v for k, v in one.items() if v.any()}, two) < 1e-12
    assert sorted(p.name for p in folder.rglob("*")) == sorted(p.name for p in other.rglob("*"))


CASES = [  # config, ranks, settings
    (NO_DROPOUT, 2, {}),
    (NO_DROPOUT, 5, {"accumulate": 1}),
    (NO_DROPOUT, 3, {"max_norm": 0.01, "separator_id": 3}),  # clipped, unequal counts
    (CONFIG, 2, {"accumulate": 3}),  # dropout
    (EXPERTS, 3, {"accumulate": 5, "max_norm": 0.5, "z_loss_coef": 0.1}),
]


@pytest.mark.parametrize(("config", "size", "settings"), CASES)
def test_a_run_of_several_ranks_is_that_of_one(tmp_path, config, size, settings):
    settings = {"dtype": "float64", "config": config, **settings}
    run(tmp_path / "one", **settings)
    results, _ = run_shared(tmp_path / "many", size, **settings)
    assert_nearly_same_run(tmp_path / "one", tmp_path / "many")
    saved = load_checkpoint(tmp_path / "many" / "checkpoint", dtype="float64")[1]
    for result in results:  # every rank returns the parameters
        for key in saved:
            np.testing.assert_array_equal(result[key], saved[key])
    if "max_norm" in settings:
        norms = [row["grad_norm"] for row in metrics(tmp_path / "many") if "loss" in row]
        assert min(norms) > settings["max_norm"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_signal_in_one_rank_stops_all_at_one_step(tmp_path, monkeypatch, who, number):
    """And with two ranks, or one, the run goes on to the end of a run of one."""
    settings = {"dtype": "float64", "config": CONFIG, "accumulate": 3}
    seen = threading.local()

    class Signals:  # as Interrupts, which is deaf outside the main thread
        waiting = property(lambda self: number if seen.rank == who and seen.steps >= 3 else 0)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def held(self):
            return self

        def forget(self):
            seen.forgotten = True

    def work(communicator):
        seen.rank, seen.steps, seen.forgotten = communicator.rank, 0, False
        try:
            return run(tmp_path / "many", options={"communicator": communicator}, **settings)
        except BaseException as error:
            return type(error), error.args, seen.steps, seen.forgotten

    real = module.apply_adamw

    def counted(*args):
        seen.steps += 1
        return real(*args)

    monkeypatch.setattr(module, "apply_adamw", counted)
    monkeypatch.setattr(together, "Interrupts", Signals)
    results, _ = run_ranks(3, work)
    first = (KeyboardInterrupt, ()) if number == signal.SIGINT else (SystemExit, (143,))
    assert results[0] == (*first, 3, True)
    assert results[1] == results[2] == (SystemExit, (0,), 3, True)  # they leave in silence
    assert load_run(tmp_path / "many", "float64")[1]["step"] == 3
    monkeypatch.undo()

    run(tmp_path / "one", **settings)
    results, _ = run_shared(tmp_path / "many", 1 if who == 2 else 2, **settings)
    assert not any(isinstance(result, BaseException) for result in results)
    assert_nearly_same_run(tmp_path / "one", tmp_path / "many")


@pytest.mark.parametrize("who", [0, 1])
def test_an_error_in_one_rank_ends_all(tmp_path, monkeypatch, who):
    real, seen = module.data_parallel_loss_and_grads, threading.local()

    def fails(*args, **options):
        seen.calls = getattr(seen, "calls", 0) + 1
        if args[3].rank == who and seen.calls == 4:
            raise MemoryError("no more")
        return real(*args, **options)

    monkeypatch.setattr(module, "data_parallel_loss_and_grads", fails)
    results, calls = run_shared(tmp_path / "run", 2, dtype="float64", config=NO_DROPOUT)
    assert type(results[who]) is MemoryError
    assert calls[who][-1] == ("abort",)
    assert type(results[1 - who]) is threading.BrokenBarrierError  # MPI would have killed it
    assert load_run(tmp_path / "run", "float64")[1]["step"] == 2


def test_a_loss_that_is_not_finite_stops_all_alike(tmp_path):
    params = params_of(NO_DROPOUT)
    params["model.norm.weight"][0] = np.nan
    results, _ = run_shared(
        tmp_path / "run",
        2,
        dtype="float64",
        config=NO_DROPOUT,
        validation=None,
        options={"params": params},
    )
    assert type(results[0]) is FloatingPointError
    assert "the last checkpoint, of step 0" in str(results[0])
    assert type(results[1]) is SystemExit
    assert results[1].code == 0


def test_what_cannot_start_is_said_once(tmp_path):
    results, _ = run_shared(tmp_path / "run", 3, batch_size=2, config=NO_DROPOUT)
    assert "batch_size must be at least 3" in str(results[0])
    assert [type(r) for r in results] == [ValueError, SystemExit, SystemExit]
    results, _ = run_shared(tmp_path / "run", 3)
    assert "accumulate must be at least 3" in str(results[0])
    assert not (tmp_path / "run").exists()


def test_other_rows_in_one_rank_are_refused(tmp_path):
    def work(communicator):
        rows = ROWS if communicator.rank != 1 else ROWS[::-1]
        return run(tmp_path, rows=rows, options={"communicator": communicator}, config=NO_DROPOUT)

    results, _ = run_ranks(3, work)
    assert "not given the same config, settings and rows" in str(results[0])
    assert [type(r) for r in results] == [ValueError, SystemExit, SystemExit]


def test_ranks_that_drift_apart_are_noticed(tmp_path, monkeypatch):
    """One rank forgets one update; the parameters are compared with every checkpoint."""
    real, seen = module.apply_adamw, threading.local()

    def forgets(params, grads, state, settings, lr):
        if getattr(seen, "rank", 0) == 1 and state["step"] == 2:
            state["step"] += 1
        else:
            real(params, grads, state, settings, lr)

    monkeypatch.setattr(module, "apply_adamw", forgets)

    def work(communicator):
        seen.rank = communicator.rank
        return run(tmp_path, options={"communicator": communicator}, config=NO_DROPOUT)

    results, _ = run_ranks(2, work)
    assert "drifted apart: after step 4 the norm of the parameters" in str(results[0])
    assert type(results[1]) is SystemExit
    assert load_run(tmp_path, "float32")[1]["step"] == 4


def test_together_gives_what_the_first_makes():
    def work(communicator):
        with Together(communicator) as job:
            return job.first(lambda: {"made by": communicator.rank})

    assert run_ranks(3, work)[0] == [{"made by": 0}] * 3


def test_one_step_of_train_step_in_ranks(tmp_path):
    """train_step takes its share of the rows that batch_rows chose."""
    params = params_of(NO_DROPOUT)
    settings = PretrainSettings(
        steps=4, batch_size=7, context_length=5, warmup_steps=1, max_norm=math.inf
    )
    state = adamw_init(params)
    grads, row = module.train_step(params, state, NO_DROPOUT, ROWS, settings)

    def work(communicator):
        return module.train_step(params, state, NO_DROPOUT, ROWS, settings, communicator)

    for found, row_2 in run_ranks(4, work)[0]:
        assert largest_difference(grads, found) < 1e-12
        assert row_2["tokens"] == row["tokens"] == 35
    assert count_tokens(as_batch(ROWS[:7])) == 35

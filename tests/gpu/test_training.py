"""Training on the device: a step of every stage, runs, checkpoints, 16 bits, several ranks."""

import dataclasses

import numpy as np
import pytest
from gpu.device import assert_close
from helpers import stages
from helpers.models import random_params, small_config
from helpers.stages import CONFIGS
from helpers.thread_ranks import run_ranks
from training import small_run
from training.test_accumulate import unequal_pieces

from minqwen.alignment.reward_model import to_reward_model
from minqwen.backend import to_device, to_numpy
from minqwen.model.checkpoint import load_checkpoint, save_checkpoint
from minqwen.model.init import init_params
from minqwen.training.accumulate import loss_and_grads
from minqwen.training.adamw import adamw_init
from minqwen.training.data_parallel import data_parallel_loss_and_grads, own_pieces
from minqwen.training.loss_scaling import LossScale, all_finite, next_loss_scale
from minqwen.training.mixed_precision import bfloat16_bits, mixed_loss_and_grads
from minqwen.training.resume import load_run
from minqwen.training.update import apply_adamw

STEPS = {"pretrain": stages.pretrain_step, "sft": stages.sft_step, "dpo": stages.dpo_step}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stage", STEPS)
def test_a_step(stage, name, dtype, device):
    config = small_config(**CONFIGS[name])
    params = random_params(config, dtype=dtype)
    want = STEPS[stage](params, config)
    assert_close(device.back(STEPS[stage](device.to(params), config)), want, device, dtype)


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_a_step_of_the_reward_model(name, device):
    config = small_config(**CONFIGS[name])
    config, params = to_reward_model(random_params(config), config, np.random.default_rng(0))
    want = stages.reward_step(params, config)
    found = stages.reward_step(device.to(params), config)
    assert_close(device.back(found), want, device, "float64")


def test_a_step_of_ppo(device):
    there, options = stages.ppo_arguments("float64")
    want = stages.ppo(*there, **options)
    found = device.back(stages.ppo(*device.to(list(there)), **options))
    for part in ("answers", "row", "grads"):  # AdamW may turn a rounding into a whole step
        assert_close(found[part], want[part], device, "float64", part)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_update(dtype, device):
    params = random_params(small_config(), dtype=dtype)
    grads = random_params(small_config(), seed=1, dtype=dtype)

    def update(params, grads):
        state = {**adamw_init(params), "step": 3}
        apply_adamw(params, grads, state, stages.SFT, 0.01)
        return params, state

    there = device.to(params), device.to(grads)
    want = update(params, grads)
    assert_close(device.back(update(*there)), want, device, dtype)


def same_curve(folder, other, device):
    rows, others = small_run.metrics(folder), small_run.metrics(other)
    assert [row.get("step") for row in rows] == [row.get("step") for row in others]
    for key in ("loss", "validation_loss", "grad_norm"):
        one, two = ([row[key] for row in run if key in row] for run in (rows, others))
        assert len(one) > 1
        if device.exact:
            assert one == two
        np.testing.assert_allclose(one, two, rtol=1e-3)


def test_a_whole_run(device, tmp_path):
    small_run.run(tmp_path / "host")
    small_run.run(tmp_path / "device", options={"device": "cuda"})
    same_curve(tmp_path / "device", tmp_path / "host", device)


def test_a_run_begun_on_the_device_goes_on_on_the_host_and_back(device, tmp_path):
    constant = {"warmup_steps": 0, "min_lr_ratio": 1.0}  # so that more steps change no rate
    small_run.run(tmp_path / "host", **constant)
    for steps, where in ((2, "cuda"), (4, "cpu"), (6, "cuda")):
        small_run.run(tmp_path / "moved", options={"device": where}, steps=steps, **constant)
    losses = [
        [row["loss"] for row in small_run.metrics(tmp_path / run) if "loss" in row]
        for run in ("host", "moved")
    ]
    assert len(losses[0]) == 6
    np.testing.assert_allclose(losses[1], losses[0], rtol=0 if device.exact else 1e-3)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_checkpoint_is_the_same_from_the_device(dtype, device, tmp_path):
    config = small_config()
    params = random_params(config, dtype=dtype)
    save_checkpoint(tmp_path / "c", config, to_device(params, "cuda"), dtype=dtype)
    _, found = load_checkpoint(tmp_path / "c", dtype=dtype)
    assert found.keys() == params.keys()
    for key, w in params.items():
        np.testing.assert_array_equal(found[key], w)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "bool"])
def test_there_and_back_changes_no_bit(dtype, device):
    numbers = np.random.default_rng(0).integers(0, 2**15, (3, 5)).astype(dtype)
    for x in (numbers, numbers[:, ::2], numbers[:, :0]):
        back = to_numpy(to_device(x, "cuda"))
        assert back.dtype == x.dtype
        np.testing.assert_array_equal(back, x)


def test_bfloat16_is_rounded_alike(device):
    bits = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint64).astype(np.uint32)
    x = np.concatenate([bits, np.uint32(0x8000) + (bits[:99] & 0xFFFF0000)]).view(np.float32)
    found = device.back(bfloat16_bits(device.to(x)))
    np.testing.assert_array_equal(found, bfloat16_bits(x))


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_float16_with_a_loss_scale(scale, device):
    config = dataclasses.replace(small_run.CONFIG, dropout=0.0)
    masters = init_params(config, np.random.default_rng(0))
    batch, _ = unequal_pieces()
    want, want_grads = mixed_loss_and_grads(masters, config, batch, "float16", scale)
    loss, grads = mixed_loss_and_grads(device.to(masters), config, batch, "float16", scale)
    assert all_finite(grads)
    assert abs(float(loss) - float(want)) < 2e-3
    for key, g in device.back(grads).items():
        assert g.dtype == np.float32
        assert np.abs(g - want_grads[key]).max() < 2e-2 * np.abs(want_grads[key]).max()


def test_an_overflow_is_seen_and_the_scale_falls(device):
    grads = device.to({"w": np.ones((2, 3), np.float16), "b": np.ones(2, np.float32)})
    assert all_finite(grads)
    grads["w"][1, 2] = np.inf
    assert not all_finite(grads)
    assert next_loss_scale(LossScale(1024.0, 5), all_finite(grads))[:2] == (512.0, 0)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_that_share_a_batch(ranks, device):
    config = dataclasses.replace(small_run.CONFIG, dropout=0.0)
    params = init_params(config, np.random.default_rng(3), dtype="float64")
    _, pieces = unequal_pieces()
    want = loss_and_grads(params, config, pieces)

    def work(communicator):
        own = own_pieces(len(pieces), communicator.rank, ranks)
        mine = [pieces[i] for i in own]
        there = device.to(params)
        first = own[0] if own else 0
        return device.back(
            data_parallel_loss_and_grads(there, config, mine, communicator, first=first)
        )

    found, _ = run_ranks(ranks, work)
    for one in found:
        assert abs(one.loss - want.loss) < 1e-12
        for key, g in want.grads.items():
            assert np.abs(one.grads[key] - g).max() < 1e-12


def test_the_state_of_a_run_is_that_of_the_device(device, tmp_path):
    on_device = small_run.run(tmp_path, options={"device": "cuda"})
    params, state, _ = load_run(tmp_path, "float32")
    assert state["step"] == small_run.SETTINGS["steps"]
    for key, w in device.back(on_device).items():
        np.testing.assert_array_equal(params[key], w)

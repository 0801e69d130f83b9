"""Rounding and loss scale against PyTorch."""

import numpy as np
import pytest

from minqwen.training.loss_scaling import LossScale, next_loss_scale
from minqwen.training.mixed_precision import bfloat16_bits, round_to_bfloat16, to_precision

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def patterns():
    upper = np.arange(2**16, dtype=np.uint32) << 16
    lows = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]
    rng = np.random.default_rng(0)
    lows += rng.integers(0, 2**16, 4).tolist()
    return np.concatenate([(upper | np.uint32(low)) for low in lows]).view(np.float32)


def test_bfloat16_bits():
    x = patterns()
    theirs = torch.from_numpy(x).to(torch.bfloat16)
    nan = np.isnan(x)
    their_bits = theirs.view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(bfloat16_bits(x)[~nan], their_bits[~nan])
    back = theirs.float().numpy()
    np.testing.assert_array_equal(np.isnan(round_to_bfloat16(x)), np.isnan(back))


def test_float16_bits():
    x = patterns()
    theirs = torch.from_numpy(x).to(torch.float16).numpy()
    ours, nan = to_precision(x, "float16"), np.isnan(x)
    np.testing.assert_array_equal(ours[~nan].view(np.uint16), theirs[~nan].view(np.uint16))
    assert np.isnan(ours[nan]).all()


@pytest.mark.parametrize(
    ("start", "growth", "backoff", "interval"),
    [
        (65536.0, 2.0, 0.5, 2000),
        (65536.0, 2.0, 0.5, 3),
        (2.0**126, 2.0, 0.5, 1),
        (64.0, 4.0, 0.25, 2),
    ],
)
def test_the_sequence_of_scales(start, growth, backoff, interval):
    rng = np.random.default_rng(1)
    overflows = rng.random(60) < 0.25
    overflows[:12] = False
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=start, growth_factor=growth, backoff_factor=backoff,
        growth_interval=interval,
    )  # fmt: skip
    state = LossScale(start)
    for bad in overflows:
        scaler.scale(torch.zeros(()))  # GradScaler makes its scale when it is first used
        grad = scaler.get_scale()  # of size 1 when unscaled
        weight.grad = torch.tensor([grad, float("inf") if bad else grad])
        before = weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        state = next_loss_scale(
            state, not bad, growth=growth, backoff=backoff, interval=interval, smallest=0.0
        )
        assert state.scale == scaler.get_scale()
        assert state.good_steps == scaler._get_growth_tracker()
        assert bool((weight.detach() == before).all()) == bool(bad)  # the update is skipped

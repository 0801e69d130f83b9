"""Cases 51 and 52 of the case list, with their neighbours."""

import numpy as np
import pytest

from minqwen.training.adamw import adamw_init, adamw_step
from minqwen.training.lr_schedule import cosine_lr


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("w.weight", (1, 1), 0.890000002),  # 1 - 0.1 * 0.1, then 0.1 * 0.5 / (0.5 + 1e-8)
        ("norm.weight", (1,), 0.900000002),
        ("q_proj.bias", (1,), 0.900000002),
    ],
)
def test_51_one_step_of_adamw(name, shape, expected):
    params = {name: np.ones(shape)}
    adamw_step(
        params, {name: np.full(shape, 0.5)}, adamw_init(params), lr=0.1, eps=1e-8, weight_decay=0.1
    )
    np.testing.assert_allclose(params[name], expected, rtol=1e-12)


def test_52_warm_up_and_the_end_of_the_decay():
    options = {"peak_lr": 6e-4, "min_lr": 6e-5, "warmup_steps": 2000, "total_steps": 600_000}
    assert cosine_lr(0, **options) == pytest.approx(2.9985e-7, rel=1e-5)
    assert cosine_lr(1999, **options) < 6e-4
    assert cosine_lr(2000, **options) == 6e-4
    assert cosine_lr(2001, **options) < 6e-4
    assert cosine_lr(599_999, **options) > 6e-5
    assert cosine_lr(600_000, **options) == 6e-5
    assert cosine_lr(600_001, **options) == 6e-5

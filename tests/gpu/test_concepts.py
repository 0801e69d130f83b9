"""Every row of the concept table on the device, forward and backward, against NumPy."""

import numpy as np
import pytest
from gpu.device import assert_close, walk

from minqwen.check.concepts import CONCEPTS

ROWS = [pytest.param(row, case, id=f"{row.name}-{case}") for row in CONCEPTS for case in row.cases]


def run(row, inputs, dy):
    y, cache = row.forward(*inputs)
    return y, row.backward(dy, cache)


def inputs_of(row, case, dtype):
    """The same each time; also a generator of random numbers, which is one of them, begins anew."""
    return walk(
        row.cases[case](np.random.default_rng(0)),
        lambda x: x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x,
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("row", "case"), ROWS)
def test_forward_and_backward(row, case, dtype, device):
    y, _ = row.forward(*inputs_of(row, case, dtype))
    dy = np.random.default_rng(1).standard_normal(np.shape(y)).astype(y.dtype)
    want = run(row, inputs_of(row, case, dtype), dy)
    found = run(row, device.to(inputs_of(row, case, dtype)), device.to(dy))
    assert_close(device.back(found), want, device, dtype)

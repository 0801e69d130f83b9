"""The committed fixture is what transformers gives today."""

import numpy as np
import pytest
from fixtures.make_model_fixture import make_arrays
from helpers.model_fixture import FILE, arrays, difference

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


def test_the_file_is_not_stale():
    made, kept = make_arrays(), arrays()
    assert set(made) == set(kept)
    assert FILE.stat().st_size < 500_000
    for name, want in made.items():
        if want.dtype.kind == "f" and "/params/" not in name:
            assert difference(kept[name], want) < 1e-12, name
        elif name != "made with":
            np.testing.assert_array_equal(kept[name], want)

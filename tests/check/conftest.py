"""What the tests of the checker share: strangers' files, and a call of their function."""

import textwrap

import numpy as np
import pytest

from minqwen.check.outside.worker import Worker

X = {"x": np.arange(6.0).reshape(2, 3) + 1, "w": np.array([1.0, 2.0, -1.0]), "eps": 0.5}


@pytest.fixture
def write(tmp_path):
    """Write a stranger's file and return how to name its function f."""

    def write(text, name="theirs.py", function="f"):
        (tmp_path / name).write_text(textwrap.dedent(text), encoding="utf-8")
        return f"{tmp_path / name}:{function}"

    return write


@pytest.fixture
def ask(write):
    """Call f of a file once, and make sure that the checker can go on."""

    def ask(source, arguments=X, dtype="float64", seconds=5.0, **options):
        with Worker(write(source), seconds=seconds, **options) as worker:
            return worker.forward(arguments, dtype)

    return ask

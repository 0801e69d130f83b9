"""A missing package is named with the pip line that brings it."""

import pytest

from minqwen.extras import require_extra


def test_packages_that_are_there_pass():
    assert require_extra() is None
    assert require_extra("json", "numpy", extra="data") is None


@pytest.mark.parametrize("extra", ["run", "data"])
def test_a_missing_package_is_named_with_its_extra(extra):
    options = {} if extra == "run" else {"extra": extra}
    with pytest.raises(ImportError) as error:
        require_extra("json", "no_such_package", "nor_this", **options)
    assert str(error.value) == f"no_such_package is missing: pip install 'minqwen[{extra}]'"

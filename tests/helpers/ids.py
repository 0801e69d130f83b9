"""Names of test cases that are the same in every process."""

import re


def short(value):
    """Return a few words for an argument: a function by its name, nothing by its address."""
    return re.sub(r" at 0x\w+", "", getattr(value, "__name__", str(value)))[:40]

"""Somebody else's code: in a process of its own, with limits, over any kind of array."""

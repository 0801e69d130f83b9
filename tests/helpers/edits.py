"""A mistake planted into one of our own files, as the checker does it."""

from minqwen.check.edited import Edit, edited_module


def edited(module, old, new):
    """Return a copy of the module with one edit; the text must stand there exactly once."""
    return edited_module(module.__name__, [Edit(module.__name__, old, new)])

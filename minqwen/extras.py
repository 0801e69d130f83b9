"""Optional packages: `pip install 'minqwen[run]'` brings progress bars and plots, and so on."""

from __future__ import annotations


def require_extra(*modules: str, extra: str = "run") -> None:
    """Raise ImportError, with the pip line, when a package of an extra is missing.

    Called before any work: a plot that cannot be drawn is better known before the training.

    Args:
        modules: names to import.
        extra: which extra of setup.cfg they belong to.

    >>> require_extra("json", "no_such_package")
    Traceback (most recent call last):
    ...
    ImportError: no_such_package is missing: pip install 'minqwen[run]'
    """
    for module in modules:
        try:
            __import__(module)
        except ImportError:
            raise ImportError(f"{module} is missing: pip install 'minqwen[{extra}]'") from None

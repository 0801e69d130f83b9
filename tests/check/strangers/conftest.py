"""Strangers' files: they are checked as users check theirs, and not collected."""

collect_ignore_glob = ["*.py"]

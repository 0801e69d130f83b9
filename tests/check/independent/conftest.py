"""The files here are read as text, and some need torch: nothing is collected."""

collect_ignore_glob = ["*.py"]

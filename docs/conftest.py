"""pytest looks for doctests below docs/: not in what needs Sphinx, nor in what Sphinx made."""

collect_ignore = ["conf.py", "_ext", "_build", "code", "api"]

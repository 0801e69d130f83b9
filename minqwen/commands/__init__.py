"""One file per command of `minqwen`: what it asks for, and what it prints.

Each has `add_arguments(parser)` and `run(args) -> exit code`, and its docstring is its help.
"""

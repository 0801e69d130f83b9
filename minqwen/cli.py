"""The `minqwen` command, also `python -m minqwen`.

Exit codes: 0 fine, 1 a check or a run failed, 2 wrong use, 130 stopped with Ctrl-C. Errors are one
line on stderr; `--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from . import __version__

COMMANDS = (
    "tour",
    "shapes",
    "tokenize",
    "train-tokenizer",
    "pretrain",
    "generate",
    "check",
)
WRONG_USE = (ValueError, TypeError, OSError, ImportError, NotImplementedError, RuntimeError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `minqwen`; None takes those of the process.
    """
    if argv is None:  # UTF-8 also where the locale is C, in which Python cannot read it
        argv = [os.fsencode(word).decode("utf-8", "replace") for word in sys.argv[1:]]
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    for stream in (sys.stdout, sys.stderr):  # Chinese text must print where the locale is C too
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        code: int = _module(args.command).run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("minqwen: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `minqwen ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (*WRONG_USE, FloatingPointError) as error:
        if args.debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"minqwen: error: {message}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="minqwen", description="The Qwen and Qwen2 reports as NumPy: read, prove, train, run."
    )
    parser.add_argument("--version", action="version", version=f"minqwen {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in COMMANDS:
        module = _module(name)
        text = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--debug", action="store_true", help="show tracebacks")
        module.add_arguments(command)
    return parser


def _module(command: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"minqwen.commands.{command.replace('-', '_')}")


if __name__ == "__main__":
    sys.exit(main())

"""The `minqwen` command, also `python -m minqwen`.

Exit codes: 0 fine, 1 a check or a run failed, 2 wrong use, 130 stopped with Ctrl-C. Errors are one
line on stderr; `--debug` shows the traceback.

Only the file of the command that was asked for is imported, and nothing before `main` has taken
care of Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import __version__

COMMANDS = {  # name -> one line; the rest stands in minqwen/commands/NAME.py
    "tour": "See the whole path in about two minutes: prove, tokenize, train, sample, report.",
    "shapes": "Print every tensor, shape and operation of a model, and what it costs.",
    "tokenize": "Show how a text is cut into tokens, with their ids.",
    "dedup": "Drop documents that are copies of others, exact or nearly, from text or JSONL.",
    "filter": "Drop documents that are not good text, from text or JSONL, and say why.",
    "mix": "Mix sources of text into one for pretraining, each with its share.",
    "train-classifier": "Learn to tell good documents from bad ones, for `minqwen filter`.",
    "train-tokenizer": "Train a byte-pair tokenizer on text files.",
    "pretrain": "Train a model on text files; the same command goes on where it was stopped.",
    "sft": "Fine-tune a model on chats; the same command goes on where it was stopped.",
    "reward": "Train a reward model on pairs of answers, or score pairs with one.",
    "dpo": "Train a chat model on pairs of answers, without a reward model (DPO).",
    "ppo": "Make a chat model answer so that a reward model scores it higher (PPO).",
    "generate": "Continue a text with a trained model, token by token.",
    "agent": "Let a model answer a question with tools: it thinks, acts, reads, answers.",
    "upcycle": "Cut a trained dense model into experts, and say how far its outputs moved.",
    "lab": "Train small, see: long context, experts, copies, alignment, recipes, tools, 16 bits.",
    "check": "Prove our own gradients, or check your function and be told what is wrong with it.",
    "explain": "Explain a concept with numbers: formula, every line, gradients, known mistakes.",
    "assign": "Make an assignment: stubs for students, answers and rubric for the staff, checked.",
    "grade": "Grade what students handed in: partial credit, and in words what is wrong.",
    "trace": "Record every intermediate of a forward pass, and its gradients, in one file.",
    "diff": "Find the first tensor at which two traces, or a model and transformers, part.",
}
WRONG_USE = (ValueError, TypeError, OSError, ImportError, NotImplementedError, RuntimeError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `minqwen`; None takes those of the process.
    """
    debug = False
    try:
        if argv is None:  # UTF-8 also where the locale is C, in which Python cannot read it
            argv = [os.fsencode(word).decode("utf-8", "replace") for word in sys.argv[1:]]
        parser = build_parser(argv)
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help()
            return 2
        debug = args.debug
        for stream in (sys.stdout, sys.stderr):  # Chinese text prints where the locale is C too
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8", errors="replace")
        code: int = _module(args.command).run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return fail("stopped", 130)
    except BrokenPipeError:  # `minqwen ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, FloatingPointError):
            return fail(f"error: {message}", 1)
        if isinstance(error, MemoryError):
            return fail(f"error: out of memory: {message}", 1)
        if isinstance(error, WRONG_USE):
            return fail(f"error: {message}", 2)
        kind = type(error).__name__
        return fail(f"error inside minqwen, --debug shows where: {kind}: {message}", 1)


def fail(message: str, code: int) -> int:
    """Print one line on stderr and return the exit code."""
    print(f"minqwen: {message}", file=sys.stderr)
    return code


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser, with the options of the command that argv names."""
    parser = argparse.ArgumentParser(
        prog="minqwen", description="The Qwen and Qwen2 reports as NumPy: read, prove, train, run."
    )
    parser.add_argument("--version", action="version", version=f"minqwen {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    asked_for = next((word for word in argv if not word.startswith("-")), None)
    for name, line in COMMANDS.items():
        if name != asked_for:
            commands.add_parser(name, help=line)
            continue
        module = _module(name)
        command = commands.add_parser(
            name,
            help=line,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--debug", action="store_true", help="show tracebacks")
        module.add_arguments(command)
    return parser


def program() -> str:
    """Return how this process was called, for hints: `minqwen` need not be on the path."""
    called = sys.argv[0] if sys.argv else ""
    return called if os.path.basename(called).startswith("minqwen") else "python -m minqwen"


def _module(command: str) -> Any:
    return importlib.import_module(f"minqwen.commands.{command.replace('-', '_')}")

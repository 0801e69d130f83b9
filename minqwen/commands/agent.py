"""Let a model answer a question with tools: it thinks, acts, reads, answers.

    minqwen agent "How much is 391 * 47?" --model lab-agent/seed0/after --no-system
    minqwen agent "Plot a sine" --server http://localhost:8000/v1 --server-model qwen2 \\
        --tools code_interpreter --work plots

A model must have learnt to use tools; `minqwen lab agent --out lab-agent` trains the one above. The
extra `agent` is needed: pip install 'minqwen[agent]'.

Tools: calculator, dictionary, count_words, convert_unit, add_days, code_interpreter. The last runs
Python that the model wrote, with limits, in the folder --work; what these keep out is told before
it starts, and in minqwen/agent/code_interpreter.py. Ends with 1 where there was no final answer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path

import numpy as np

from ..agent.code_interpreter import CodeInterpreter, code_interpreter_tool
from ..agent.kernel.kernel_answer import printable_text
from ..agent.kernel.kernel_process import PYTHON
from ..agent.openai_server import openai_generate
from ..agent.react import Generate, run_react
from ..agent.tool import Tool, make_tools
from ..agent.tools.calculator import calculator_tool
from ..agent.tools.dictionary import dictionary_tool
from ..agent.tools.everyday_tools import everyday_tools
from ..alignment.text_generation import text_generator
from ..backend import require_device, to_device
from ..model.checkpoint import load_checkpoint
from ..tokenizer.bpe import Tokenizer
from ..tokenizer.chat_templates import TEMPLATES, choose_template
from ..tokenizer.special_tokens import IM_START
from .files import add_device_argument, checkpoint_of, read_stdin, require_seed

EVERYDAY = tuple(tool.name for tool in everyday_tools())
INTERPRETER = "code_interpreter"
TOOLS = ("calculator", "dictionary", *EVERYDAY, INTERPRETER)
ENDED = {  # in words, what a transcript says of a run without an answer
    "no action": "no action: the model thought, and neither called a tool nor gave an answer",
    "nothing": "nothing: the model wrote no text; one that never saw tools does not know them",
    "repetition": "repetition: the model did the same thing again and again",
    "step limit": "step limit: --max-steps gives it more",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen agent`."""
    parser.add_argument("question", nargs="?", help="without it, standard input is read")
    who = parser.add_argument_group("model: one of --model and --server")
    who.add_argument("--model", type=Path, metavar="FOLDER", help="a run or checkpoint of ours")
    who.add_argument("--completion", action="store_true", help="no chat template around the text")
    who.add_argument("--template", choices=TEMPLATES, help="that a --model was tuned with (qwen2)")
    who.add_argument(
        "--no-system",
        action="store_true",
        help="without its system text, as `minqwen lab` tunes",
    )
    who.add_argument("--server", metavar="URL", help="OpenAI-compatible: http://localhost:8000/v1")
    who.add_argument("--server-model", metavar="NAME", help="its name there")
    who.add_argument(
        "--key-from", metavar="NAME", help="environment variable with the key of the server"
    )
    who.add_argument("--max-new-tokens", type=int, default=256, help="of one step (256)")
    who.add_argument("--temperature", type=float, default=0.0, help="0 = the best token (0)")
    who.add_argument("--top-p", type=float, default=1.0, help="1 = all (1)")
    who.add_argument("--seed", type=int, default=0, help="of the sampling (0)")
    add_device_argument(who)
    tools = parser.add_argument_group("tools")
    tools.add_argument(
        "--tools",
        default="calculator",
        help=f"with commas between: {', '.join(TOOLS)} (calculator)",
    )
    tools.add_argument(
        "--dictionary", type=Path, metavar="FILE", help="TSV or JSONL (a small built-in one)"
    )
    tools.add_argument("--work", type=Path, help="folder of the code (a temporary one)")
    tools.add_argument("--unsafe", action="store_true", help="run code where limits are missing")
    parser.add_argument("--max-steps", type=int, default=8, help="times the model is asked (8)")
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="prompt's (en)")
    parser.add_argument("--show-prompt", action="store_true", help="print the prompt too")
    parser.add_argument("--json", action="store_true", help="print JSON at the end, no stream")


def run(args: argparse.Namespace) -> int:
    """Ask, and print what was thought, done and read as it comes."""
    require_device(args.device)
    require_seed(args.seed)
    if (args.model is None) == (args.server is None):
        raise ValueError("say who answers: --model FOLDER or --server URL")
    if args.server is not None and args.server_model is None:
        raise ValueError("--server needs --server-model, the name of the model there")
    if args.server is not None and args.device != "cpu":
        raise ValueError("--device is of a model of ours, a server has its own")
    if (args.template or args.no_system) and (args.server is not None or args.completion):
        raise ValueError("--template and --no-system are of chats with --model")
    question = args.question if args.question is not None else read_stdin()
    shown = Shown(args)
    with chosen_tools(args) as tools:
        generate, count = own_model(args, shown) if args.model else (server(args), None)
        transcript = run_react(
            question,
            make_tools(tools),
            shown.watched(generate),
            max_steps=args.max_steps,
            count_tokens=count,
            language=args.language,
        )
    if args.json:
        facts = {
            "final_answer": transcript.final_answer,
            "ended": transcript.ended,
            "steps": [step._asdict() for step in transcript.steps],
            "text": transcript.text(),
        }
        print(json.dumps(facts, ensure_ascii=False))
        return int(transcript.final_answer is None)
    shown.up_to(transcript.text())
    print()
    if transcript.final_answer is None:
        print(f"no final answer: {ENDED[transcript.ended]}", file=sys.stderr)
        return 1
    return 0


class Shown:
    """Prints the growing text of a run, each part once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.quiet, self.with_prompt, self.text = args.json, args.show_prompt, ""

    def up_to(self, text: str) -> None:
        """Print what is new in the text. What the model wrote in vain is not in it any more."""
        if not self.text and not self.with_prompt:  # the first text is the prompt
            self.text = text
        pairs = zip(self.text, text, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if self.text[same:].strip():
            self.piece("\n(the end of this was dropped)\n")
        new = text[same:]
        self.piece(new.removeprefix("\n") if self.text.endswith("\n") else new)
        self.text = text

    def piece(self, text: str) -> None:
        """Print what comes next."""
        self.text += text
        if not self.quiet:
            # nothing that gives the terminal orders
            print(printable_text(text), end="", flush=True)

    def watched(self, generate: Generate) -> Generate:
        """Return the same function, which shows what stands in its prompts."""

        def ask(prompt: str) -> str:
            self.up_to(prompt)
            return generate(prompt)

        return ask


def own_model(
    args: argparse.Namespace, shown: Shown
) -> tuple[Callable[[str], str], Callable[[str], int]]:
    """Return what continues a text with a model of ours, and shows it; and what counts its tokens.

    The tokens of a chat template are not counted, since they are around the text and not in it.

    Raises:
        FileNotFoundError: there is no checkpoint, or no tokenizer.
        ValueError: an option is out of range.
    """
    template = choose_template(args.template or "qwen2")
    folder = checkpoint_of(args.model)
    config, params = load_checkpoint(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    write = text_generator(
        to_device(params, args.device),
        config,
        tokenizer,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        rng=np.random.default_rng(args.seed),
        chat=IM_START in tokenizer.special_tokens and not args.completion,
        template=template._replace(system=None) if args.no_system else template,
        on_text=shown.piece,
    )
    return write, lambda text: len(tokenizer.encode(text, disallowed_special=()))


def server(args: argparse.Namespace) -> Callable[[str], str]:
    """Return what continues a text with a server.

    Raises:
        ValueError: the variable of the key is not set.
        ImportError: the package openai is missing.
    """
    key = os.environ.get(args.key_from) if args.key_from else None
    if args.key_from and not key:
        raise ValueError(f"--key-from: there is no environment variable {args.key_from}")
    return openai_generate(
        args.server,
        args.server_model,
        key,
        max_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed if args.temperature else None,
        chat=not args.completion,
    )


@contextmanager
def chosen_tools(args: argparse.Namespace) -> Iterator[list[Tool]]:
    """Make the tools; a kernel that was started ends with the block.

    Raises:
        ValueError: a name is unknown, or an option goes with no tool.
        OSError: limits are missing here and --unsafe was not said, or a file cannot be read.
    """
    names = [name.strip() for name in args.tools.split(",") if name.strip()]
    if unknown := [name for name in names if name not in TOOLS]:
        raise ValueError(f"--tools knows {', '.join(TOOLS)}, not {', '.join(unknown)}")
    if args.dictionary and "dictionary" not in names:
        raise ValueError("--dictionary goes with --tools dictionary")
    if (args.work or args.unsafe) and INTERPRETER not in names:
        raise ValueError(f"--work and --unsafe go with --tools {INTERPRETER}")
    made = {tool.name: tool for tool in [calculator_tool(), *everyday_tools()]}
    with ExitStack() as stack:
        if "dictionary" in names:
            made["dictionary"] = dictionary_tool(args.dictionary)
        if INTERPRETER in names:
            work = args.work or stack.enter_context(tempfile.TemporaryDirectory())
            interpreter = stack.enter_context(CodeInterpreter(work, unsafe=args.unsafe))
            about = interpreter.protection()
            print(
                f"code runs in {interpreter.folder}; files: {about.files}; network: "
                f"{about.network}; guards: {', '.join(about.guards) or 'none'}",
                file=sys.stderr,
            )
            if PYTHON in (about.files, about.network, about.other_processes):
                print(
                    f"a guard {PYTHON!r} stops mistakes, not intent: ctypes gets past it",
                    file=sys.stderr,
                )
            made[INTERPRETER] = code_interpreter_tool(interpreter)
        yield [made[name] for name in names]

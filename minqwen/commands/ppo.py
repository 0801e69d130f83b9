"""Make a chat model answer so that a reward model scores it higher (PPO).

    minqwen ppo prompts.jsonl --start-from runs/chat --reward-model runs/reward --out runs/ppo
    minqwen ppo prompts.jsonl ... --ptx my-texts/ --ptx-coef 1

A line of the file is something to answer, a text or messages:

    {"prompt": "2 + 2?"}

The reference, from which the policy is kept near, is the model to start from. The value model
starts from the reward model. --ptx mixes the gradient of pretraining in. The same command goes on
where it was stopped.

Writes into the folder: checkpoint/ (open it with `minqwen generate`; the value model is in value/),
metrics.jsonl, metrics.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from ..alignment.ppo import ppo
from ..alignment.reward_model import to_reward_model
from ..alignment.score import RewardModelScore
from ..alignment.settings import REPORT_PPO, PpoSettings
from ..alignment.start_params import params_fingerprint
from ..backend import Array, require_device, to_device
from ..data.jsonl import on_line
from ..data.packing import pack_documents
from ..data.records import read_prompts
from ..extras import require_extra
from ..model.config import QwenConfig
from ..params import Params
from ..tokenizer.bpe import Tokenizer
from ..tokenizer.chatml import encode_chat
from ..tokenizer.special_tokens import ENDOFTEXT, IM_END
from ..training.progress import wants_bar
from .alignment_files import (
    LOOP,
    Option,
    Start,
    add_run_arguments,
    add_settings_arguments,
    chat_hint,
    choose_settings,
    open_beside,
    open_start,
)
from .files import BUILTIN, read_documents, require_folder, told_how_to_go_on

PTX_CONTEXT = 128
PRESETS = {
    # policy and value rate in the relation of the report, fit for models of less than a million
    "small": PpoSettings(policy_lr=1e-4, value_lr=5e-4, value_warmup_steps=20),
    "report": REPORT_PPO,
}
UNUSED = "eval_every"  # nothing is held out here
OPTIONS = (
    *(o._replace(help="rollouts") if o.field == "steps" else o for o in LOOP if o.field != UNUSED),
    Option("batch_size", "prompts in a rollout"),
    Option("responses_per_query", "answers to a prompt"),
    Option("max_new_tokens", "of an answer"),
    Option("temperature", "of sampling and of all log-probabilities"),
    Option("top_p", "of sampling"),
    Option("epochs", "passes over a rollout"),
    Option("minibatches", "updates in a pass"),
    Option("policy_lr", "learning rate of the policy"),
    Option("value_lr", "learning rate of the value model"),
    Option("value_warmup_steps", "rollouts from which only the value model learns"),
    Option("cliprange", "how far the policy may move in a step with profit"),
    Option("cliprange_value", "how far a value may"),
    Option("kl_coef", "price of leaving the reference, per nat"),
    Option("kl_estimator", "of what was left", choices=("k1", "k2", "k3")),
    Option("gamma", "discount of later rewards"),
    Option("lam", "of the advantages: 0 trusts the values, 1 the rewards"),
    Option("whiten_advantages", "to mean 0 and variance 1"),
    Option("scale_rewards", "divide scores by their running deviation too"),
    Option("missing_end", "an answer without its end token", choices=("subtract", "replace")),
    Option("missing_end_penalty", "subtracted from its score, or minus this in its place"),
    Option("entropy_coef", "reward for undecidedness, per nat"),
    Option("ptx_coef", "times the loss of pretraining, with --ptx"),
    Option("ptx_batch_size", "rows of text in an update"),
    Option("weight_decay", "of the matrices"),
    Option("max_norm", "of the gradients; inf = no clipping", name="--clip"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen ppo`."""
    parser.add_argument("prompts", type=Path, metavar="PROMPTS.jsonl", help="what to answer")
    add_run_arguments(parser)
    parser.add_argument(
        "--reward-model", type=Path, required=True, metavar="FOLDER", help="checkpoint or run"
    )
    parser.add_argument(
        "--value-from",
        choices=("reward", "policy"),
        default="reward",
        help="where the value model starts: the reward model, or the policy with a new head",
    )
    parser.add_argument(
        "--max-prompt", type=int, default=256, help="longer prompts are left out, tokens (256)"
    )
    text = parser.add_argument_group("text of pretraining")
    text.add_argument("--ptx", nargs="+", type=Path, default=[], metavar="FILE|FOLDER")
    text.add_argument("--ptx-builtin", action="append", choices=BUILTIN, default=[])
    text.add_argument("--ptx-context", type=int, help=f"tokens in a row ({PTX_CONTEXT})")
    add_settings_arguments(parser, PRESETS, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Read prompts and models, then train."""
    require_device(args.device)
    require_extra("matplotlib", *["tqdm"] * wants_bar(not args.quiet))
    require_folder(args.out)
    settings = choose_settings(args, PRESETS, OPTIONS)
    if settings.value_warmup_steps >= settings.steps:
        print(
            f"the policy will not change: in all {settings.steps} steps only the value model "
            f"learns, --value-warmup-steps is {settings.value_warmup_steps}",
            file=sys.stderr,
        )
    has_text = bool(args.ptx or args.ptx_builtin)
    if has_text != bool(settings.ptx_coef):
        given, lacking = ("--ptx", "--ptx-coef") if has_text else ("--ptx-coef", "--ptx")
        raise ValueError(f"{given} needs {lacking}: text of pretraining, and how much it counts")
    for name, given in (("batch-size", args.ptx_batch_size), ("context", args.ptx_context)):
        if given is not None and not has_text:
            raise ValueError(f"--ptx-{name} needs --ptx or --ptx-builtin, the text of pretraining")

    start = open_start(args.start_from, settings.dtype, args.tokenizer)
    reward_config, reward_params = open_reward_model(args.reward_model, start, settings.dtype)
    value_config, value_params = reward_config, reward_params
    if args.value_from == "policy":
        rng = np.random.default_rng(settings.seed)
        value_config, value_params = to_reward_model(start.params, start.config, rng)
    queries = read_queries(args.prompts, start.tokenizer, args.template, args.max_prompt)
    ptx_rows = pack_text(args, start.tokenizer, settings.seed) if has_text else None
    if not args.quiet:
        text = "" if ptx_rows is None else f"{ptx_rows.shape[0]} rows of text; "
        numbers = [sum(w.size for w in p.values()) for p in (start.params, value_params)]
        print(
            f"{len(queries)} prompts; {text}{numbers[0]:,} parameters of the policy, "
            f"{numbers[1]:,} of the value model",
            file=sys.stderr,
        )
    with told_how_to_go_on(args.out):
        ppo(
            start.config,
            start.params,
            queries,
            RewardModelScore(reward_config, to_device(reward_params, args.device), start.pad_id),
            args.out,
            settings,
            value_config=value_config,
            value_params=value_params,
            ptx_rows=ptx_rows,
            eos_token_ids=end_tokens(start.tokenizer),
            end_token_ids=[start.tokenizer.special_tokens[IM_END]],
            pad_id=start.pad_id,
            tokenizer=start.tokenizer,
            also_same={"reward_model": params_fingerprint(reward_params)},
            progress=not args.quiet,
            device=args.device,
        )
    print(f"trained {settings.steps} steps; ask it with (bash)")
    print(chat_hint(start.tokenizer, args.template, args.out))
    return 0


def open_reward_model(path: Path, start: Start, dtype: str) -> tuple[QwenConfig, Params]:
    """Read the reward model, which must read the ids that the policy writes.

    Raises:
        ValueError: it gives logits, or has another tokenizer than the policy.
        FileNotFoundError: a file is missing.
    """
    found = open_beside(start, "reward model", path, dtype, score_head=True)
    return found.config, found.params


def read_queries(
    path: Path, tokenizer: Tokenizer, template: str, max_prompt: int
) -> list[list[int]]:
    """Read prompts as ids up to where the answer begins; say on stderr how many were left out.

    Args:
        path: JSONL, see data/records.py.
        tokenizer: has <|im_start|> and <|im_end|>.
        template: a name in TEMPLATES.
        max_prompt: the most tokens of a prompt.

    Raises:
        ValueError: a line is wrong, the template cannot tell it, or no prompt is left.
        FileNotFoundError: there is no such file.
    """
    queries, too_long = [], []
    for record in read_prompts(path):
        with on_line(path, record.line):
            ids = encode_chat(
                tokenizer,
                record.prompt,
                template=template,
                generation_prompt=True,
                tools=record.tools,
            ).ids
        if len(ids) <= max_prompt:
            queries.append(ids)
        else:
            too_long.append((record.line, len(ids)))
    if too_long:
        total = len(queries) + len(too_long)
        line, length = too_long[0]
        said = (
            f"{path}: {len(too_long)} of {total} prompts are longer than {max_prompt} tokens; "
            f"line {line}: {length}"
        )
        if not queries:
            raise ValueError(f"{said}; see --max-prompt")
        print(f"{said}; left out", file=sys.stderr)
    return queries


def pack_text(args: argparse.Namespace, tokenizer: Tokenizer, seed: int) -> Array:
    """Return rows of the text of --ptx and --ptx-builtin, as `minqwen pretrain` makes them."""
    if ENDOFTEXT not in tokenizer.special_tokens:
        raise ValueError(f"the tokenizer has no token {ENDOFTEXT}, which ends every document")
    named = argparse.Namespace(files=args.ptx, builtin=args.ptx_builtin, out=args.out)
    return pack_documents(
        (tokenizer.encode(text, disallowed_special=()) for text in read_documents(named)),
        PTX_CONTEXT if args.ptx_context is None else args.ptx_context,
        tokenizer.special_tokens[ENDOFTEXT],
        np.random.default_rng(seed),
    )


def end_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that stop an answer: <|im_end|>, and <|endoftext|> where there is one.

    An answer that stops with the second has no end: the reward model learnt from chats, in which
    every answer ends with the first.
    """
    known = tokenizer.special_tokens
    return [known[name] for name in (IM_END, ENDOFTEXT) if name in known]

"""Continue a text with a trained model, token by token.

minqwen generate runs/first "Once upon a time" --temperature 0.8 --top-p 0.9
minqwen generate path/to/checkpoint < prompt.txt
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from ..backend import require_device, to_device
from ..model.checkpoint import load_checkpoint
from ..model.generate import generate
from ..tokenizer.bpe import Tokenizer
from .files import add_device_argument, checkpoint_of, read_stdin, require_seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen generate`."""
    parser.add_argument("folder", type=Path, help="a checkpoint folder, or the folder of a run")
    parser.add_argument("prompt", nargs="?", help="the text; without it, standard input is read")
    parser.add_argument("--max-new-tokens", type=int, default=100, help="the most tokens (100)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 = the best token (0)")
    parser.add_argument("--top-k", type=int, default=0, help="0 = all (0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 = all (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (0)")
    parser.add_argument("--tokenizer", type=Path, metavar="PATH", help="if not in the folder")
    parser.add_argument("--dtype", default="float32", help="of the weights (float32)")
    add_device_argument(parser)
    parser.add_argument("--special", action="store_true", help="read control tokens in the prompt")
    parser.add_argument("--json", action="store_true", help="print JSON at the end, no stream")


def run(args: argparse.Namespace) -> int:
    """Print the prompt's continuation as it comes."""
    require_device(args.device)
    require_seed(args.seed)
    folder = checkpoint_of(args.folder)
    config, params = load_checkpoint(folder, dtype=args.dtype)
    tokenizer = Tokenizer.from_pretrained(checkpoint_of(args.tokenizer or folder))
    params = to_device(params, args.device)
    prompt = args.prompt if args.prompt is not None else read_stdin()
    if args.special:
        ids = tokenizer.encode(prompt, allowed_special="all")
    else:
        ids = tokenizer.encode(prompt, disallowed_special=())
    ends = ("<|endoftext|>", "<|im_end|>")
    stops = [tokenizer.special_tokens[t] for t in ends if t in tokenizer.special_tokens]
    if not ids:  # nothing to go on: start where a document starts
        if not stops:
            raise ValueError("the prompt is empty, and the tokenizer has no <|endoftext|>")
        ids = stops[:1]

    start, new = time.perf_counter(), []
    decoder = tokenizer.stream_decoder()
    steps = generate(
        params,
        config,
        np.array([ids]),
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        eos_token_ids=stops,
        rng=np.random.default_rng(args.seed),
        stream=True,
    )
    if not args.json:
        print(prompt, end="", flush=True)
    for step in steps:
        token = int(step[0])
        new.append(token)
        if token in stops or token >= tokenizer.vocab_size:
            continue  # a padded row of the embedding has no text
        text = decoder.push(token)
        if not args.json:
            print(text, end="", flush=True)
    rest = decoder.finish()
    seconds = time.perf_counter() - start
    if args.json:
        known = [t for t in new if t < tokenizer.vocab_size and t not in stops]
        text = tokenizer.decode(known)
        print(json.dumps({"prompt": prompt, "text": text, "ids": new}, ensure_ascii=False))
    else:
        print(rest)
        rate = len(new) / seconds if seconds else 0.0
        print(f"{len(new)} tokens, {rate:.0f} a second", file=sys.stderr)
    return 0

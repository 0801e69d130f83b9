"""Learn to tell good documents from bad ones, for `minqwen filter`.

    minqwen train-classifier --good books.jsonl --bad spam/ --out quality.npz

Logistic regression on hashed runs of characters and words. One document in five is held out: on
these the probabilities are calibrated, and they say how many documents a limit would keep. The
same files give the same classifier.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

import numpy as np

from ..data.classifier_calibration import calibrate
from ..data.classifier_file import save_text_classifier
from ..data.streaming.document_files import Form, read_documents
from ..data.streaming.input_files import cut_file, find_files
from ..data.text_classifier import good_probability, train_text_classifier

HELD_OUT = 5  # every fifth document
LIMITS = (0.1, 0.3, 0.5, 0.7, 0.9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `minqwen train-classifier`."""
    for pile in ("good", "bad"):
        parser.add_argument(
            f"--{pile}",
            nargs="+",
            type=Path,
            required=True,
            metavar="FILE|FOLDER",
            help=f"{pile} documents: text, or JSONL with one on each line",
        )
    parser.add_argument("--out", type=Path, required=True, help="file to write, NAME.npz")
    parser.add_argument("--field", default="text", help="of JSONL, that is the document (text)")
    parser.add_argument("--buckets", type=int, default=2**18, help="weights (262144)")
    parser.add_argument("--l2", type=float, default=1e-4, help="price of large weights (1e-4)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Train, calibrate, save, and print how well the held-out documents are told apart."""
    if args.out.suffix != ".npz":
        raise ValueError(f"--out must end in .npz, got {args.out}")
    if args.buckets < 1 or not 0 < args.l2 < math.inf:
        raise ValueError(f"--buckets and --l2 must be positive, got {args.buckets}, {args.l2:g}")
    good, bad = (find_files(paths, but=args.out) for paths in (args.good, args.bad))
    if both := {os.path.realpath(f.path) for f in good} & {os.path.realpath(f.path) for f in bad}:
        raise ValueError(f"--good and --bad both name {min(both)}")
    piles = {"good": read_pile(args, "good"), "bad": read_pile(args, "bad")}
    learnt = {k: [t for i, t in enumerate(v) if i % HELD_OUT] for k, v in piles.items()}
    held_out = {k: v[::HELD_OUT] for k, v in piles.items()}
    fit = train_text_classifier(learnt["good"], learnt["bad"], buckets=args.buckets, l2=args.l2)
    classifier = calibrate(fit.classifier, held_out["good"], held_out["bad"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_text_classifier(classifier, args.out)

    p = {name: good_probability(classifier, texts) for name, texts in held_out.items()}
    right = float(np.concatenate([p["good"] >= 0.5, p["bad"] < 0.5]).mean())
    kept = {
        str(limit): {name: float((values >= limit).mean()) for name, values in p.items()}
        for limit in LIMITS
    }
    counts = {name: len(texts) for name, texts in held_out.items()}
    if args.json:
        print(json.dumps({"held_out": counts, "right": right, "kept": kept}))
        return 0
    print(f"held out: {counts['good']} good, {counts['bad']} bad; right at 0.5: {right:.1%}")
    print("least  good kept  bad kept")
    for limit, share in kept.items():
        print(f"{limit:>5s}{share['good']:>11.1%}{share['bad']:>10.1%}")
    print(f"saved as {args.out}")
    return 0


def read_pile(args: argparse.Namespace, name: str) -> list[str]:
    """Return the documents of one pile; what is none is told on stderr.

    Raises:
        ValueError: there are fewer than two, one to learn from and one to hold out.
    """
    texts: list[str] = []
    for file in find_files(getattr(args, name), but=args.out):
        (part,) = cut_file(file, block_bytes=max(1, file.size))
        for document in read_documents(part, Form(args.field)):
            if document.problem:
                place = f"{document.name}, line {document.line}" if document.line else document.name
                print(f"note: left out {place}: {document.problem}", file=sys.stderr)
            else:
                texts.append(document.text)
    if len(texts) < 2:
        raise ValueError(f"--{name} must hold two documents at least, got {len(texts)}")
    return texts

"""The long-context laboratory: train short, read long, and see which technique keeps up.

    1. train a small Qwen2 on texts of L0 tokens          once; a rerun goes on or finds it done
    2. read held-out text at 1, 2, 4, 8 and 16 times L0   with every technique; see techniques.py
    3. write a page with the table, the plots, and where they agree with the report

Everything is in one folder: run/ (see training/run_folder.py), results.json, and what is made from
it: index.html, table.md and the plots. Whatever stops it, the same call goes on from there.

Paper:    Qwen Technical Report, 2.3.2 Context Length Extension, and Table 3.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, to_device, to_numpy
from ..data.corpora import standard_library_code
from ..data.packing import pack_documents
from ..params import Params, count
from ..tokenizer.bpe import Tokenizer, bpe_train
from ..training.loss_plot import plot_loss
from ..training.metrics import Metrics
from ..training.pretrain import pretrain
from .frame import begin_measuring, opened
from .measure import measure
from .report import write_report
from .results import CELL, KIND, Results, fingerprint
from .settings import LabSettings
from .techniques import techniques

HELD_OUT, VALIDATION_ROWS = 10, 128  # every 10th document is never trained on
SEPARATOR = "<|endoftext|>"


class Text(NamedTuple):
    tokenizer: Tokenizer
    rows: Array  # (n, L0 + 1) int, to train on
    validation_rows: Array  # (at most 128, L0 + 1) int, held out: for the curve of the training
    texts: Array  # (settings.texts, 16 L0 + 1) int, held out, one of a file: for the table


def long_context_lab(
    out: Path,
    settings: LabSettings | None = None,
    *,
    progress: bool = True,
    say: Callable[[str], None] = print,
    device: str = "cpu",
) -> Results:
    """Train if that is not done, measure what is not measured, and write the report.

    Args:
        out: folder of the laboratory; made if missing. One that holds anything else is refused.
        settings: None takes LabSettings().
        progress: of the training.
        say: is told one line after another.
        device: "cpu" or "cuda".

    Returns:
        The results, complete.

    Raises:
        ImportError: a package of the extra `run` is missing; before any work.
        FileExistsError: out is a file, or holds something else.
        ValueError: a file in out is damaged, or its run is one of other settings; use another out.
        OSError: out cannot be written, or another process works in it.
        FloatingPointError: a loss became NaN or infinite.
        KeyboardInterrupt: everything that was finished is kept.
    """
    settings = settings or LabSettings()
    with opened(out, KIND, CELL, None, progress) as results:  # pretrain compares the settings
        text = prepare_text(settings)
        config = settings.config(text.tokenizer.vocab_size)
        say(f"training at {settings.train_length} tokens: {settings.steps} steps in {out / 'run'}")
        params = pretrain(
            config,
            text.rows,
            out / "run",
            settings.training(),
            validation_rows=text.validation_rows,
            tokenizer=text.tokenizer,
            progress=progress,
            plot=False,
            device=device,
        )
        plot_loss(out / "run")
        facts = describe(settings, params, text, out / "run")
        begin_measuring(results, facts, say, "settings, parameters or code")
        lengths = settings.lengths
        say(f"{'perplexity at':<32}" + "".join(f"{length:>10}" for length in lengths))
        for technique in techniques(settings.num_hidden_layers):
            for length in lengths:
                if results.get(technique.name, length) is None:
                    cell = measure(
                        params,
                        technique.config(config, length),
                        text.texts,
                        length,
                        buckets=2 * length // settings.train_length,
                    )
                    results.put(technique.name, length, cell)
            row = (results.cells[technique.name][str(length)] for length in lengths)
            say(f"{technique.label:<32}" + "".join(f"{c['perplexity']:>10.2f}" for c in row))
        say(f"the report: {write_report(out, results)}")
    return results


def prepare_text(settings: LabSettings) -> Text:
    """Take the sources of Python's library, train a tokenizer, and hold every 10th file back.

    Code, because names come back: what stood far above helps to guess what comes. The measured
    texts are each within one file, no two of the same: texts of one file are alike, and a standard
    error that counts them as independent is too small.

    Raises:
        ValueError: too few of the held-out files are long enough.
    """
    documents = standard_library_code(settings.text_bytes)
    held_out = documents[HELD_OUT - 1 :: HELD_OUT]
    del documents[HELD_OUT - 1 :: HELD_OUT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer merges than asked for are fine
        tokenizer = bpe_train(documents[::8], settings.vocab_size)  # an eighth is enough
    separator = tokenizer.special_tokens[SEPARATOR]

    def encode(texts: list[str]) -> list[Array]:
        return [np.array(tokenizer.encode(t, disallowed_special=()), np.int32) for t in texts]

    rng = np.random.default_rng(settings.seed)
    rows = pack_documents(encode(documents), settings.train_length, separator, rng)
    C = settings.lengths[-1]
    pieces = [
        (file, ids[i : i + C + 1])
        for file, ids in enumerate(encode(held_out))
        for i in range(0, len(ids) - C, C)
    ]
    files = len({file for file, _ in pieces})
    if files < settings.texts or len(pieces) == settings.texts:
        raise ValueError(
            f"texts={settings.texts} need as many held-out files of more than {C} tokens and some "
            f"text beyond them; there are {files}, with {len(pieces)} pieces: take fewer texts, or "
            "more text_bytes"
        )
    texts: dict[int, Array] = {}  # file -> its first piece in the shuffled order
    others = []
    for i in rng.permutation(len(pieces)):
        file, ids = pieces[i]
        if file not in texts and len(texts) < settings.texts:
            texts[file] = ids
        else:
            others.append(ids)
    validation_rows = _spread(pack_documents(others, settings.train_length, separator))
    return Text(tokenizer, rows, validation_rows, np.array(list(texts.values())))


def _spread(rows: Array) -> Array:
    """Return at most 128 rows, evenly from all of them."""
    spread: Array = rows[np.linspace(0, len(rows) - 1, min(len(rows), VALIDATION_ROWS)).astype(int)]
    return spread


def describe(settings: LabSettings, params: Params, text: Text, run: Path) -> dict[str, Any]:
    """Return what results.json says about where its numbers come from."""
    metrics = Metrics.read(run)
    steps = [row for row in metrics if "loss" in row]
    on_host = {key: to_numpy(value) for key, value in to_device(params, "cpu").items()}
    return {
        "settings": settings.to_dict(),
        "fingerprint": fingerprint(settings.to_dict(), on_host, text.texts),
        "training": {
            "parameters": count(params),
            "tokens": sum(row["tokens"] for row in steps),
            "tokens_of_text": int(text.rows.shape[0] * settings.train_length),
            "seconds": sum(row["seconds"] for row in steps),
            "loss": float(np.mean([row["loss"] for row in steps[-50:]])),
            "validation_loss": [r["validation_loss"] for r in metrics if "validation_loss" in r][
                -1
            ],
        },
        "machine": f"NumPy {np.__version__}, Python {platform.python_version()}",
    }

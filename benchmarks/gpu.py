"""The same model on a GPU: CuPy against NumPy, and against torch on the same card.

    python -m benchmarks.gpu               the table, some ten minutes; needs CuPy and a GPU
    python -m benchmarks.gpu --docs        also into docs/gpu.md, with the date and the card's name
    python -m benchmarks.gpu --only small  without Qwen2-0.5B, which needs 12 GiB on both sides

Everything in float32, with the same random weights. Before anything is timed, the logits of all
three are compared. A call is timed by the clock on the wall, from an idle card to an idle card.
torch and transformers are optional; TF32, which rounds the inputs of products, is off on both.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minqwen.backend import require_cupy, to_device, to_numpy
from minqwen.model.config import QwenConfig
from minqwen.model.generate import generate
from minqwen.model.init import init_params
from minqwen.model.language_model import language_model_forward
from minqwen.model.presets import preset
from minqwen.params import Params
from minqwen.training.accumulate import Batch, loss_and_grads
from minqwen.training.adamw import adamw_init, adamw_step

from .cases import HALF, MODEL
from .layer_cases import OPTIONS
from .load import write_part

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
AGREE = 1e-3  # most difference of the logits, of the largest one


class Size(NamedTuple):
    name: str
    config: QwenConfig
    rows: int  # of a batch in training
    row_length: int
    prompt: int  # tokens of the prefill
    new_tokens: int  # of the decoding, after a quarter of the prompt
    rounds: int  # of the GPU; the host has one, after one to warm up


def sizes() -> tuple[Size, ...]:
    """Return the two models of the issue."""
    return (
        Size("5M parameters", QwenConfig(**MODEL), 8, 256, 512, 64, 7),
        Size("Qwen2-0.5B", preset(HALF), 1, 256, 512, 64, 5),
    )


class Engine(NamedTuple):
    """Three things a model can do; each call returns when it is done."""

    logits: Callable[[], Any]  # of the last token of the prompt, (1, V) on the host
    prefill: Callable[[], Any]
    decode: Callable[[], float]  # the seconds it took, without its prefill
    train: Callable[[], Any]


def ours(size: Size, params: Params, ids: Any, device: str) -> Engine:
    """Return minqwen with NumPy ("cpu") or CuPy ("cuda")."""
    config = size.config
    there = to_device({key: w.copy() for key, w in params.items()}, device)
    state: list[Any] = []  # made at the first step: twice the memory of the parameters
    wait = require_cupy().cuda.Stream.null.synchronize if device == "cuda" else lambda: None
    prompt, short = ids[:1, : size.prompt], ids[:1, : size.prompt // 4]
    batch = Batch(*(x[: size.rows, : size.row_length] for x in (ids[:, :-1], ids[:, 1:])))

    def logits() -> Any:
        return to_numpy(language_model_forward(there, config, prompt, last_only=True)[0])[:, -1]

    def prefill() -> None:
        language_model_forward(there, config, prompt, last_only=True)
        wait()

    def decode() -> float:
        steps = generate(there, config, short, max_new_tokens=size.new_tokens + 1, stream=True)
        next(steps)  # the prefill
        start = time.perf_counter()
        assert sum(1 for _ in steps) == size.new_tokens
        return time.perf_counter() - start

    def train() -> None:
        if not state:
            state.append(adamw_init(there))
        _, grads, *_ = loss_and_grads(there, config, [batch])
        adamw_step(there, grads, state[0], **OPTIONS)
        wait()

    return Engine(logits, prefill, decode, train)


def torch_engine(size: Size, params: Params, ids: Any, device: str) -> Engine:
    """Return Qwen2ForCausalLM of transformers.

    Raises:
        ImportError: torch or transformers is missing, or torch cannot use the card.
    """
    import torch
    from transformers import DynamicCache

    from .model_cases import transformers_model

    if device == "cuda" and not torch.cuda.is_available():
        raise ImportError("this torch has no CUDA")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    own = {key: w.copy() for key, w in params.items()}
    model = transformers_model(size.config, own, "sdpa").to(device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    there = torch.from_numpy(ids).to(device)
    prompt, short = there[:1, : size.prompt], there[:1, : size.prompt // 4]
    inputs, labels = (
        x[: size.rows, : size.row_length].contiguous() for x in (there[:, :-1], there[:, 1:])
    )
    adamw = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), foreach=True, **OPTIONS)

    def logits() -> Any:
        with torch.no_grad():
            found = model(input_ids=prompt, use_cache=True, logits_to_keep=1).logits
        return found[:, -1].float().cpu().numpy()

    def prefill() -> None:
        with torch.no_grad():
            model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        wait()

    def decode() -> float:
        with torch.no_grad():
            cache = DynamicCache(config=model.config)
            found = model(input_ids=short, cache=cache, logits_to_keep=1)
            new = found.logits[:, -1:].argmax(-1)
            new.tolist()
            start = time.perf_counter()
            for _ in range(size.new_tokens):
                found = model(input_ids=new, cache=cache)
                new = found.logits[:, -1:].argmax(-1)
                new.tolist()  # a text is read token by token
            return time.perf_counter() - start

    def train() -> None:
        found = model(input_ids=inputs, use_cache=False).logits
        torch.nn.functional.cross_entropy(found.flatten(0, 1), labels.flatten()).backward()
        adamw.step()
        adamw.zero_grad()
        wait()

    return Engine(logits, prefill, decode, train)


def seconds(call: Callable[[], Any]) -> float:
    """Return how long a call took."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rates(engine: Engine, size: Size, rounds: int) -> dict[str, float]:
    """Return tokens per second of each task: the median, after a call that is not counted."""
    tasks: dict[str, tuple[int, Callable[[], float]]] = {
        f"prefill of {size.prompt}": (size.prompt, lambda: seconds(engine.prefill)),
        f"decode of {size.new_tokens}": (size.new_tokens, engine.decode),
        f"training step of {size.rows} x {size.row_length}": (
            size.rows * size.row_length,
            lambda: seconds(engine.train),
        ),
    }
    found = {}
    for name, (tokens, call) in tasks.items():
        call()
        found[name] = tokens / statistics.median(call() for _ in range(rounds))
    return found


def measure(size: Size, say: Callable[[str], None] = print) -> list[list[str]]:
    """Return the lines of the table for one model.

    Raises:
        RuntimeError: there is no CuPy or no GPU.
        AssertionError: the logits differ.
    """
    params = init_params(size.config, np.random.default_rng(0))
    length = max(size.prompt, size.row_length) + 1
    ids = np.random.default_rng(1).integers(0, size.config.vocab_size, (max(size.rows, 1), length))
    makers: dict[str, tuple[Callable[[], Engine], int]] = {
        "NumPy": (lambda: ours(size, params, ids, "cpu"), 1),
        "CuPy": (lambda: ours(size, params, ids, "cuda"), size.rounds),
        "torch": (lambda: torch_engine(size, params, ids, "cuda"), size.rounds),
    }
    found: dict[str, dict[str, float]] = {}
    right: Any = None
    for name, (make, rounds) in makers.items():
        try:
            engine = make()
        except ImportError as error:
            say(f"{size.name}, {name}: left out, {error}")
            continue
        logits = engine.logits()
        right = logits if right is None else right
        difference = np.abs(logits - right).max() / np.abs(right).max()
        assert difference < AGREE, f"{size.name}: the logits of {name} differ by {difference:.1e}"
        found[name] = rates(engine, size, rounds)
        say(f"{size.name}, {name}: " + ", ".join(f"{k} {v:,.0f}/s" for k, v in found[name].items()))
        del engine
        gc.collect()
    lines = []
    for task, rate in found["CuPy"].items():
        others = [found[name][task] if name in found else None for name in ("NumPy", "torch")]
        cells = [f"{rate:,.0f}", *("-" if r is None else f"{r:,.0f}" for r in others)]
        cells += ["-" if r is None else f"{rate / r:.2g}" for r in others]
        lines.append([size.name, task, *cells])
    return lines


def table(lines: Sequence[Sequence[str]], today: datetime.date) -> str:
    """Return the Markdown, with what it was measured on."""
    cupy = require_cupy()
    runtime = cupy.cuda.runtime
    card = runtime.getDeviceProperties(0)["name"].decode()
    versions = [f"CuPy {cupy.__version__}", f"NumPy {np.__version__}"]
    if "torch" in sys.modules:
        versions.append(f"torch {sys.modules['torch'].__version__}")
    head = (
        f"{today.isoformat()}, {card}, {', '.join(versions)}, CUDA {runtime.runtimeGetVersion()}, "
        f"driver {runtime.driverGetVersion()}; host {platform.machine()}. Tokens per second, "
        "float32."
    )
    columns = ["model", "task", "CuPy", "NumPy", "torch", "CuPy / NumPy", "CuPy / torch"]
    rows = [columns, ["---", "---", *["---:"] * 5], *lines]
    return "\n".join([head, "", *(f"| {' | '.join(row)} |" for row in rows)])


def write_page(page: Path, text: str) -> None:
    """Put the table between the markers of the page; see write_part."""
    write_part("speed", f"\n{text}\n", page)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("small", "large"), help="one of the two models")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/gpu.md")
    args = parser.parse_args(argv)
    try:
        require_cupy()
    except RuntimeError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    chosen = {"small": slice(0, 1), "large": slice(1, 2)}.get(args.only, slice(None))
    lines = [line for size in sizes()[chosen] for line in measure(size)]
    text = table(lines, datetime.date.today())
    print(text)
    if args.docs:
        write_page(PAGE, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

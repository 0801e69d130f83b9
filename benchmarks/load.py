"""Load: a long soak, a long prompt, and what the second core gives. Results: docs/load.md.

python -m benchmarks.load soak [--minutes 30] [--out FOLDER] [--write-docs]
python -m benchmarks.load prompt [--tokens 32768] [--only KIND] [--out FOLDER] [--write-docs]
python -m benchmarks.load cores [--rounds 7] [--write-docs]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "load.md"
LIMIT = 4  # GiB of address space for a long prompt
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.load", description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    soak = kinds.add_parser("soak", help="train, write and tokenize for long in one process")
    soak.add_argument("--minutes", type=float, default=30.0)
    soak.add_argument("--out", type=Path, help="folder of samples.jsonl (a temporary one)")
    soak.add_argument("--read", type=Path, metavar="FILE", help="judge these samples again")
    soak.add_argument("--plant", choices=("memory", "file"), help="a leak, to see it found")
    prompt = kinds.add_parser("prompt", help="read a long prompt within 4 GiB")
    prompt.add_argument("--tokens", type=int, default=32768)
    prompt.add_argument("--only", metavar="KIND", help="full, flash, window, ntk or chunks")
    prompt.add_argument("--out", type=Path, help="folder of what was measured (a temporary one)")
    prompt.add_argument("--read", type=Path, metavar="FOLDER", help="what --out has of a run")
    prompt.add_argument("--row", type=int, help=argparse.SUPPRESS)  # in the child
    cores = kinds.add_parser("cores", help="what the second core gives a training step")
    cores.add_argument("--rounds", type=int, default=7)
    cores.add_argument("--rank", type=Path, metavar="FILE", help=argparse.SUPPRESS)  # by mpirun
    for command in (soak, prompt, cores):
        command.add_argument("--write-docs", action="store_true", help=f"into {PAGE.name}")
    args = parser.parse_args(argv)
    for name in THREADS:  # before NumPy is there
        os.environ.setdefault(name, "1")
    with ExitStack() as stack:
        args.work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        args.out = getattr(args, "out", None) or args.work
        args.out.mkdir(parents=True, exist_ok=True)
        runs = {"soak": run_soak, "prompt": run_prompt, "cores": run_cores}
        return runs[args.kind](args)


def run_soak(args: argparse.Namespace) -> int:
    from .load_soak import draw, judge, read_samples, report, watch

    if args.read:
        samples = read_samples(args.read)
    else:
        from .load_work import Day

        day = Day(args.work / "day")
        pieces = day.pieces()
        if args.plant:
            pieces["leak"] = leaking(args.plant)
        path = args.out / "samples.jsonl"
        samples = watch(pieces, args.minutes, path, day.state, machine=machine())
    verdict = judge(samples)
    text = report(samples, verdict)
    print(text)
    if args.write_docs:
        draw(samples, verdict, PAGE.parent / "pictures" / "soak.svg")
        write_part("soak", text)
    return 1 if verdict.complaints else 0


def run_prompt(args: argparse.Namespace) -> int:
    if args.row is not None:
        return run_row(args)
    import numpy as np

    from .load_prompt import KINDS, ROWS, check, compare, report

    if args.only not in (None, *KINDS):
        raise SystemExit(f"no kind {args.only!r}; there are {', '.join(KINDS)}")
    chosen = [i for i, (kind, _) in enumerate(ROWS) if args.only in (None, kind)]
    if args.read:
        chosen = [i for i in chosen if (args.read / f"row{i}.json").exists()]
    folder, rows, logits = args.read or args.out, [], {}
    for i in chosen:
        if not args.read:
            command = [sys.executable, "-m", "benchmarks.load", "prompt", "--row", str(i)]
            command += ["--tokens", str(args.tokens), "--out", str(args.out)]
            subprocess.run(command, cwd=ROOT, check=True)
        row = json.loads((folder / f"row{i}.json").read_text(encoding="utf-8"))
        if (file := folder / f"row{i}.npy").exists():
            logits[len(rows)] = np.load(file)
        rows.append(row)
        print(f"{row['kind']}: {row['reading']:.1f} s, {row['peak_mib']:.0f} MiB", flush=True)
    complaints = compare(rows, logits)
    for row in {row["kind"]: row for row in rows}.values():
        row["check"], row["check_of"] = check(row["kind"]), row["kind"]
        if not row["check"] < 1e-12:
            complaints.append(f"{row['kind']}: differs from plain attention by {row['check']:.1e}")
    text = report(rows)
    print("\n".join([text, *complaints]))
    if args.write_docs:
        write_part("prompt", text)
    return 1 if complaints else 0


def run_row(args: argparse.Namespace) -> int:
    """Measure one row of the table in this process, which gets no more memory than it may have."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (int(LIMIT * 2**30),) * 2)
    import numpy as np

    from .load_prompt import NEW, ROWS, run_kind

    kind, chunk = ROWS[args.row]
    found, answer = run_kind(kind, args.tokens, NEW, chunk)
    if answer.logits is not None:
        np.save(args.out / f"row{args.row}.npy", answer.logits)
    found["machine"] = machine()
    (args.out / f"row{args.row}.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


def run_cores(args: argparse.Namespace) -> int:
    from .load_cores import Steps, complaints, here, in_processes, report

    if args.rank:
        rank, steps = in_processes(args.rounds)
        if rank == 0:
            args.rank.write_text(json.dumps(steps), encoding="utf-8")
        return 0
    found, absent = here(args.rounds), {}
    mpirun = find_mpirun()
    if mpirun is None:
        absent["processes"] = "mpirun is not installed"
    else:
        file = args.work / "ranks.json"
        command = [mpirun, "-n", "2", sys.executable, "-m", "benchmarks.load", "cores"]
        command += ["--rounds", str(args.rounds), "--rank", str(file)]
        subprocess.run(command, cwd=ROOT, check=True)
        found["processes"] = Steps(*json.loads(file.read_text(encoding="utf-8")))
    text = report(found, absent, machine())
    print(text)
    if args.write_docs:
        write_part("cores", text)
    return 1 if complaints(found) else 0


def find_mpirun() -> str | None:
    """Return the mpirun beside this Python, as the wheels of MPI libraries bring it, or any."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.exists() else shutil.which("mpirun")


def machine() -> str:
    """Return the date, the processor and the versions."""
    import numpy as np

    from .run import processor

    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    date = datetime.date.today().isoformat()
    threads = os.environ["OPENBLAS_NUM_THREADS"]
    return f"{date}, {processor()}, {os.cpu_count()} cores, {versions}, BLAS threads: {threads}"


def leaking(what: str, clock: Callable[[], float] = time.monotonic) -> Callable[[int], None]:
    """Return a piece of work that keeps 2 MiB a minute, or in each round an open file."""
    start, kept = clock(), []

    def leak(_: int) -> None:
        if what == "file":
            kept.append(open(os.devnull, encoding="utf-8"))  # noqa: SIM115
        else:
            owed = int((clock() - start) / 60 * 2 * 2**20) - sum(map(len, kept))
            kept.append(b"x" * owed)

    return leak


def write_part(name: str, text: str, page: Path = PAGE) -> None:
    """Put text between the two comments of that name.

    Raises:
        ValueError: the comments are not there.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise ValueError(f"{page} has no {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

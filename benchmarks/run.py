"""Compare minqwen with torch, transformers, tokenizers and tiktoken, side by side in one run.

python -m benchmarks.run [--quick] [--threads 1|2] [--only NAME] [--json FILE] [--list]
python -m benchmarks.run --docs ONE.json TWO.json [GROWTH.json]    writes docs/benchmarks.md

Ratio = our time / the rival's. Exit code 1 when a ratio passes 1.25 times its goal.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# glibc would give every big temporary array back to the system and fetch it again; see README.md.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
}
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
MARKER = "MINQWEN_BENCHMARK"  # set in the process that runs under the variables above
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cases, fewer rounds")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1, help="for both sides")
    parser.add_argument("--only", metavar="NAME", action="append", help="NAME is in the name")
    parser.add_argument("--rounds", type=int, help="default: 7, with --quick 3")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument(
        "--docs", metavar="FILE", type=Path, nargs="+", help=f"write such files to docs/{PAGE.name}"
    )
    args = parser.parse_args(argv)
    if args.docs:
        return write_page(args.docs)
    if not args.list and MARKER not in os.environ:
        return restart("benchmarks.run", args.threads, sys.argv[1:] if argv is None else argv)

    from .cases import CASES

    cases = [c for c in CASES if (c.quick or not args.quick) and args.threads in c.threads]
    cases = [c for c in cases if not args.only or any(name in c.name for name in args.only)]
    if not cases:
        parser.error(f"no case has {' or '.join(args.only)} in its name; see --list")
    if args.list:
        for case in cases:
            goals = case.goals_with(args.threads).items()
            text = ", ".join(f"{name} {goal:.3g}" for name, goal in goals)
            print(f"{case.name:36s}{'quick' if case.quick else '':7s}{text}")
        return 0
    results = run(cases, args.threads, args.rounds or (3 if args.quick else 7), args.quick)
    options = ["--quick"] * args.quick + [f"--only {name}" for name in args.only or []]
    options += [f"--rounds {args.rounds}"] * bool(args.rounds)
    results["options"] = " ".join(options)
    if args.json:
        save(results, args.json)
    return verdict([results])


def save(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def verdict(runs: list[dict[str, Any]]) -> int:
    """Print what was missed by more than the slack; return 1 if anything was."""
    missed = [
        f"{case['name']} / {what} ({run['machine']['threads']} thread(s))"
        for run in runs
        for case in run["cases"]
        for what in case["missed"]
    ]
    if missed:
        print("\nmore than 1.25 times the goal: " + "; ".join(missed))
    return 1 if missed else 0


def write_page(files: list[Path]) -> int:
    """Write docs/benchmarks.md from the files of runs and, if it is there, of growth.py."""
    from .page import page

    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    runs = sorted((f for f in found if "cases" in f), key=lambda f: f["machine"]["threads"])
    growth = [f for f in found if "axes" in f]
    PAGE.write_text(page(runs, growth[0] if growth else None), encoding="utf-8")
    print(f"wrote {PAGE}")
    return verdict(runs)


def restart(module: str, threads: int, arguments: list[str]) -> int:
    """Run a program again under variables that are read when a process starts."""
    env = {**os.environ, **MALLOC, MARKER: "1", "TOKENIZERS_PARALLELISM": "false"}
    env.update(dict.fromkeys(THREADS, str(threads)))
    command = [sys.executable, "-m", module, *arguments]
    if os.name == "posix":
        os.execve(sys.executable, command, env)
    return subprocess.call(command, env=env)


def run(cases: list[Any], threads: int, rounds: int, quick: bool = False) -> dict[str, Any]:
    from .harness import machine_limits, measure
    from .page import limit_text, report

    machine = describe(threads)
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    limits = machine_limits(threads)
    print(f"limits: {limit_text(limits)}\n")
    results: dict[str, Any] = {"machine": machine, "limits": limits, "cases": []}
    start = time.perf_counter()
    for case in cases:
        result = measure(case, threads, rounds, budget=3.0 if quick else 8.0)
        results["cases"].append(result)
        print(report(result, limits), flush=True)
    results["minutes"] = (time.perf_counter() - start) / 60
    print(f"\n{results['minutes']:.1f} minutes")
    return results


def describe(threads: int) -> dict[str, Any]:
    """Return date, processor, versions and BLAS kernel, after setting the threads of all."""
    versions = {"python": platform.python_version()}
    for package in ("numpy", "torch", "transformers", "tokenizers", "tiktoken"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    blas = "unknown (threadpoolctl is not installed)"
    try:
        import torch

        torch.set_num_threads(threads)
        versions["torch"] += f" {torch.backends.cpu.get_cpu_capability()}"
    except ImportError:
        pass
    try:
        import numpy as np  # noqa: F401, so that its BLAS is loaded
        import threadpoolctl

        threadpoolctl.threadpool_limits(threads)
        infos = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"]
        blas = ", ".join(f"{i['internal_api']} {i.get('architecture', '')}".strip() for i in infos)
    except ImportError:
        pass
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "threads": threads,
        "clock": "CPU" if threads == 1 else "wall",
        "blas": blas,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        values = dict(line.split(":", 1) for line in lines if ":" in line)
        values = {key.strip(): value.strip() for key, value in values.items()}
        return f"{values['model name']} (family {values['cpu family']}, model {values['model']})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())

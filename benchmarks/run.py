"""Compare minqwen with torch, transformers, tokenizers and tiktoken, side by side in one run.

python -m benchmarks.run [--quick] [--threads 1|2] [--only NAME] [--json FILE] [--list]
python -m benchmarks.run --write-readme FILE.json

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
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cases, fewer rounds")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1, help="for both sides")
    parser.add_argument("--only", metavar="NAME", action="append", help="NAME is in the name")
    parser.add_argument("--rounds", type=int, help="default: 7, with --quick 3")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--write-readme", metavar="FILE", type=Path, help="results to the README")
    args = parser.parse_args(argv)
    if args.write_readme:
        write_readme(json.loads(args.write_readme.read_text(encoding="utf-8")))
        return 0
    if not args.list and MARKER not in os.environ:
        return restart(args.threads, sys.argv[1:] if argv is None else argv)

    from .cases import CASES

    cases = [c for c in CASES if c.quick or not args.quick]
    cases = [c for c in cases if not args.only or any(name in c.name for name in args.only)]
    if not cases:
        parser.error(f"no case has {' or '.join(args.only)} in its name; see --list")
    if args.list:
        for case in cases:
            goals = ", ".join(f"{name} {goal:.3g}" for name, goal in case.goals.items())
            print(f"{case.name:26s}{'quick' if case.quick else '':7s}{goals}")
        return 0
    results = run(cases, args.threads, args.rounds or (3 if args.quick else 7))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    missed = [f"{r['name']} / {rival}" for r in results["cases"] for rival in r["missed"]]
    if missed:
        print("\nmore than 1.25 times the goal: " + "; ".join(missed))
    return 1 if missed else 0


def restart(threads: int, arguments: list[str]) -> int:
    """Run this program again under variables that are read when a process starts."""
    env = {**os.environ, **MALLOC, MARKER: "1", "TOKENIZERS_PARALLELISM": "false"}
    env.update(dict.fromkeys(THREADS, str(threads)))
    command = [sys.executable, "-m", "benchmarks.run", *arguments]
    if os.name == "posix":
        os.execve(sys.executable, command, env)
    return subprocess.call(command, env=env)


def run(cases: list[Any], threads: int, rounds: int) -> dict[str, Any]:
    from .harness import machine_limits, measure

    machine = describe(threads)
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    limits = machine_limits(threads)
    print(f"limits: {limit_text(limits)}\n")
    results: dict[str, Any] = {"machine": machine, "limits": limits, "cases": []}
    for case in cases:
        result = measure(case, threads, rounds)
        results["cases"].append(result)
        print(report(result, limits), flush=True)
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


# --- text ---------------------------------------------------------------------------------------


def milliseconds(spread: list[float]) -> str:
    middle, least, most = (f"{1000 * s:.3g}" if s < 1 else f"{1000 * s:.0f}" for s in spread)
    return f"{middle} ms [{least}-{most}]"


def plain(spread: list[float]) -> str:
    return "{:.2f} [{:.2f}-{:.2f}]".format(*spread) if spread[0] >= 0.1 else f"{spread[0]:.4f}"


def limit_text(limits: dict[str, float]) -> str:
    return f"sgemm {limits['sgemm'] / 1e9:.1f} GFLOP/s, read {limits['read'] / 1e9:.1f} GB/s"


def remarks(result: dict[str, Any], limits: dict[str, float]) -> list[str]:
    """Say our rate, its share of what the machine can do, and the extra memory."""
    work, seconds, found = result["work"], result["seconds"]["ours"][0], []
    if work["items"]:
        found.append(f"{work['items'] / seconds:.3g} {work['unit']}")
    if work["flops"]:
        share = work["flops"] / seconds / limits["sgemm"]
        found.append(f"{work['flops'] / seconds / 1e9:.0f} GFLOP/s, {share:.0%} of sgemm")
    if work["nbytes"]:
        share = work["nbytes"] / seconds / limits["read"]
        found.append(f"{work['nbytes'] / seconds / 1e9:.1f} GB/s, {share:.0%} of reading")
    if memory := result["memory"]:
        peak, kept = memory["peak"] / 2**20, memory["result"] / 2**20
        found.append(f"extra memory {peak:.0f} MiB, {kept:.0f} of it the result")
    for rival, peak in result.get("rival_memory", {}).items():
        found.append(
            f"{rival}: {peak / 2**20:.0f} MiB, {peak / result['memory']['peak']:.1f} times"
        )
    if result.get("disturbed"):
        found.append("disturbed by other processes")
    return found


def report(result: dict[str, Any], limits: dict[str, float]) -> str:
    lines = [f"{result['name']}: ours {milliseconds(result['seconds']['ours'])}"]
    lines += [f"    {remark}" for remark in remarks(result, limits)]
    for rival, ratio in result["ratios"].items():
        goal = result["goals"].get(rival)
        verdict = "" if goal is None else f", goal {goal:.3g}"
        verdict += "  TOO SLOW" if rival in result["missed"] else ""
        lines.append(
            f"    {rival} {milliseconds(result['seconds'][rival])}, ratio {plain(ratio)}{verdict}"
            f" (differs by {result['errors'][rival]:.0e})"
        )
    lines += [f"    {rival}: {why}" for rival, why in result["absent"].items()]
    return "\n".join(lines)


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    machine, limits = results["machine"], results["limits"]
    lines = [
        f"{machine['date']}, {machine['processor']}, {machine['threads']} thread(s), "
        f"{machine['clock']} clock. {machine['versions']}. BLAS: {machine['blas']}. "
        f"Limits in this run: {limit_text(limits)}.",
        "",
        "| case | ours | rival | its time | ratio | goal | ours is at |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results["cases"]:
        first = [result["name"], milliseconds(result["seconds"]["ours"])]
        notes = "; ".join(remarks(result, limits))
        for rival, ratio in result["ratios"].items():
            goal = result["goals"].get(rival)
            cells = [rival, milliseconds(result["seconds"][rival]), f"**{plain(ratio)}**"]
            cells += ["" if goal is None else f"{goal:.3g}", notes]
            lines.append("| " + " | ".join(first + cells) + " |")
            first, notes = ["", ""], ""
        if not result["ratios"]:
            lines.append("| " + " | ".join([*first, "none installed", "", "", "", notes]) + " |")
    return "\n".join(lines)


def write_readme(results: dict[str, Any], readme: Path = README) -> None:
    """Put the table between the two marker comments of the README."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

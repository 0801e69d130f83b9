"""Results as text: what a run prints, and docs/benchmarks.md."""

from __future__ import annotations

from typing import Any

from .harness import extra_mib, shares

PICTURES = "pictures/growth_{}.svg"  # from docs/
THREADS = {1: "one thread", 2: "two threads"}

INTRODUCTION = """# Benchmarks: measured against others

Written by the harness, never by hand; `make bench` runs all of it:

    python -m benchmarks.run --threads 1 --json build/bench/threads-1.json
    python -m benchmarks.run --threads 2 --json build/bench/threads-2.json
    python -m benchmarks.growth --json build/bench/growth.json
    python -m benchmarks.run --docs build/bench/threads-1.json build/bench/threads-2.json build/bench/growth.json

**Ratio = our time / the rival's, below 1 means that we are faster.** Same process, same numbers, same shapes, float32, the
results compared before anything is timed; median [least-most] of runs in turns. What each case does, and how it is
timed, is in [benchmarks/README.md](../benchmarks/README.md)."""  # noqa: E501


SECOND_CORE = (
    "- With two threads in general: NumPy gives only matrix products to both cores, PyTorch nearly "
    "everything. Our way to the second core is half a batch for each of two Python threads "
    "(`--threads 2`); the table has it as the last training step."
)

# --- pieces -------------------------------------------------------------------------------------


def milliseconds(spread: list[float]) -> str:
    middle, least, most = (f"{1000 * s:.3g}" if s < 1 else f"{1000 * s:.0f}" for s in spread)
    return f"{middle} ms [{least}-{most}]"


def plain(spread: list[float]) -> str:
    return "{:.2f} [{:.2f}-{:.2f}]".format(*spread) if spread[0] >= 0.1 else f"{spread[0]:.4f}"


def limit_text(limits: dict[str, float]) -> str:
    return (
        f"sgemm {limits['sgemm'] / 1e9:.1f} GFLOP/s, read {limits['read'] / 1e9:.1f} GB/s, "
        f"exp {limits['exp'] / 1e9:.2f} G/s, in cache {limits['cache'] / 1e9:.0f} GB/s"
    )


def megabytes_at(memory_at: dict[str, int]) -> str:
    return ", ".join(f"T = {n}: {peak / 2**20:.0f} MiB" for n, peak in memory_at.items())


def remarks(result: dict[str, Any], limits: dict[str, float]) -> list[str]:
    """Say our rate, the shares of what the machine can do, and the extra memory."""
    work, seconds, found = result["work"], result["seconds"]["ours"][0], []
    if work["items"]:
        found.append(f"{work['items'] / seconds:.3g} {work['unit']}")
    found += [f"{share:.0%} of {name}" for name, share in shares(work, seconds, limits).items()]
    if memory := result["memory"]:
        kept = memory["result"] / 2**20
        found.append(f"{extra_mib(memory):.0f} MiB beyond the {kept:.0f} of the result")
    for rival, peak in result["rival_memory"].items():
        found.append(
            f"{rival}: {peak / 2**20:.0f} MiB, {peak / result['memory']['peak']:.1f} times"
        )
    if result["memory_at"]:
        found.append("peak at " + megabytes_at(result["memory_at"]))
    if result["resident"]:
        found.append(f"all in the process so far {result['resident'] / 2**30:.1f} GiB")
    if result["disturbed"]:
        found.append("disturbed by other processes")
    return found


def report(result: dict[str, Any], limits: dict[str, float]) -> str:
    """Return one case as the lines that a run prints."""
    if result["skipped"]:
        return f"{result['name']}: skipped: {result['skipped']}"
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
    lines += [f"    {what}: TOO MUCH" for what in result["missed"] if "memory" in what]
    lines += [f"    {rival}: {why}" for rival, why in result["absent"].items()]
    return "\n".join(lines)


# --- the page -----------------------------------------------------------------------------------


def page(runs: list[dict[str, Any]], growth: dict[str, Any] | None) -> str:
    """Return docs/benchmarks.md."""
    parts = [INTRODUCTION, "## Goals", goals(runs), reasons(runs)]
    for run in runs:
        parts += [f"## Everything, {THREADS[run['machine']['threads']]}", table(run)]
    if growth:
        parts += ["## Growth", growth_text(growth)]
    return "\n\n".join(part for part in parts if part) + "\n"


def goal_cells(runs: list[dict[str, Any]]) -> dict[tuple[str, str], dict[int, list[str]]]:
    """Return for each case and what is asked of it: by threads, goal, what came, and yes or no."""
    found: dict[tuple[str, str], dict[int, list[str]]] = {}

    def put(case: str, what: str, threads: int, goal: str, got: str, met: bool | None) -> None:
        verdict = "" if met is None else "yes" if met else "**no**"
        found.setdefault((case, what), {})[threads] = [goal, got, verdict]

    for run in runs:
        threads = run["machine"]["threads"]
        for case in run["cases"]:
            name, ratios = case["name"], case.get("ratios", {})
            for rival, goal in case["goals"].items():
                got = plain(ratios[rival]) if rival in ratios else case["skipped"] or "not there"
                met = ratios[rival][0] <= goal if rival in ratios else None
                if case.get("disturbed"):
                    got += ", disturbed"
                put(name, rival, threads, f"{goal:.3g}", got, met)
            for rival in case.get("exact", ()):  # the run would have stopped otherwise
                put(name, rival, threads, "the same bits", "the same bits", True)
            if case.get("memory") and case["most_extra"] is not None:
                extra, most = extra_mib(case["memory"]), case["most_extra"]
                put(
                    name, "beyond the result", threads,
                    f"{most:g} MiB", f"{extra:.1f} MiB", extra <= most,
                )  # fmt: skip
            if case.get("memory_at"):
                got, met = megabytes_at(case["memory_at"]), "linear memory" not in case["missed"]
                put(name, "memory", threads, "linear in T", got, met)
    return found


def goals(runs: list[dict[str, Any]]) -> str:
    """Return a row for each goal, the runs side by side."""
    columns = [run["machine"]["threads"] for run in runs]
    heads = [f"{THREADS[n]} | met" for n in columns]
    lines = [
        "| case | against | goal | " + " | ".join(heads) + " |",
        "| --- " * (3 + 2 * len(columns)) + "|",
    ]
    for (case, what), by_threads in goal_cells(runs).items():
        asked = dict.fromkeys(cells[0] for cells in by_threads.values())
        row = [case, what, ", ".join(asked)]
        for n in columns:
            row += by_threads.get(n, ["", "", ""])[1:]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def reasons(runs: list[dict[str, Any]]) -> str:
    """Say of each ratio that missed its goal, however little, what stands in the way."""
    lines = []
    for run in runs:
        threads = THREADS[run["machine"]["threads"]]
        for case in run["cases"]:
            over = {
                rival: ratio[0]
                for rival, ratio in case.get("ratios", {}).items()
                if ratio[0] > case["goals"].get(rival, ratio[0])
            }
            if not over:
                continue
            line = f"- {case['name']}, {threads}. {case['why']}".rstrip()
            found = shares(case["work"], case["seconds"]["ours"][0], run["limits"])
            if found:
                text = " and ".join(f"{name} {share:.0%}" for name, share in found.items())
                best = [f"{sum(found.values()) * r:.2f} of {rival}" for rival, r in over.items()]
                line += f" Shares of the limits: {text}; all of them used, it would take "
                line += f"{', '.join(best)}."
            lines.append(line)
    return f"Why not, where it is no:\n\n{SECOND_CORE}\n" + "\n".join(lines) if lines else ""


def table(run: dict[str, Any]) -> str:
    """Return one run as Markdown."""
    machine, limits = run["machine"], run["limits"]
    lines = [
        f"{machine['date']}, {machine['processor']}, {THREADS[machine['threads']]}, "
        f"{machine['clock']} clock. {machine['versions']}. BLAS: {machine['blas']}. "
        f"Limits in this run: {limit_text(limits)}. It took {run['minutes']:.0f} minutes.",
        *([f"Not everything: this was a run with `{run['options']}`."] if run["options"] else []),
        "",
        "| case | ours | rival | its time | ratio | ours is at |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for case in run["cases"]:
        if case["skipped"]:
            lines.append(f"| {case['name']} | skipped: {case['skipped']} |  |  |  |  |")
            continue
        first = [case["name"], milliseconds(case["seconds"]["ours"])]
        notes = "; ".join(remarks(case, limits))
        for rival, ratio in case["ratios"].items():
            cells = [rival, milliseconds(case["seconds"][rival]), f"**{plain(ratio)}**", notes]
            lines.append("| " + " | ".join(first + cells) + " |")
            first, notes = ["", ""], ""
        if not case["ratios"]:
            lines.append("| " + " | ".join([*first, "none installed", "", "", notes]) + " |")
    return "\n".join(lines)


def growth_text(growth: dict[str, Any]) -> str:
    """Return the tables of growth.py, and its pictures."""
    base = ", ".join(f"{name} = {value}" for name, value in growth["base"].items())
    lines = [
        "Forward and backward of a small model, one size at a time larger, the others being:",
        f"{base}. {growth['machine']['date']}, one thread, CPU clock, least of",
        f"{growth['rounds']} runs; memory by `tracemalloc`, without the parameters. Counted is",
        "what `minqwen/model/accounting.py` says: its FLOPs at the sgemm rate of this run",
        f"({growth['limits']['sgemm'] / 1e9:.1f} GFLOP/s); its numbers kept for the backward pass,",
        "the gradients, and the logits with their gradient, four bytes each.",
    ]
    for letter, axis in growth["axes"].items():
        lines += [
            "",
            f"![time and memory against {axis['label']}]({PICTURES.format(letter)})",
            "",
            f"| {axis['label']} | time | counted | time / counted | peak memory | counted |",
            "| ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for point in axis["points"]:
            seconds, counted = point["seconds"], point["seconds_counted"]
            lines.append(
                f"| {point['size']:,} | {1000 * seconds:.1f} ms | {1000 * counted:.1f} ms "
                f"| {seconds / counted:.2f} | {point['bytes'] / 2**20:.1f} MiB "
                f"| {point['bytes_counted'] / 2**20:.1f} MiB |"
            )
    return "\n".join(lines)

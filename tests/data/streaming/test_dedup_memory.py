"""Memory stays bounded: twice the text takes no more of it, but for a few bytes a document."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import re, sys
from pathlib import Path
from minqwen.data.streaming import stream_dedup
from minqwen.data.streaming.dedup_files import dedup_files
from minqwen.data.streaming.dedup_sketch import DedupSettings
from minqwen.data.streaming.workers import OneProcess
stream_dedup.AT_ONCE = 2**16  # so that both runs have many ranges
silent = lambda phase, results, total: results
most = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = most()
paths, out = [Path(sys.argv[1])], Path(sys.argv[2])
report = dedup_files(paths, out, DedupSettings(), OneProcess(), silent, block_bytes=2**20)
print(report["documents"], report["kept"], most() - before)
"""


def write_text(path, megabytes):
    """Write documents of about 2 kB, of which each tenth is copied or nearly so."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randrange(2, 9))) for _ in range(5000)]
    before, written = "", 0
    with path.open("w") as stream:
        while written < megabytes * 10**6:
            kind = rng.randrange(20)
            text = before + "." * kind if kind < 2 else " ".join(rng.choices(words, k=350))
            before = text
            written += stream.write(json.dumps({"text": text}) + "\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel, as Linux shows it")
def test_memory_does_not_grow_with_the_text(tmp_path):
    """Measured: 7.5 MB more than the imports take for 20 MB of text, 8.3 MB for 40 MB."""
    used = {}
    for megabytes in (20, 40):
        path, out = tmp_path / f"{megabytes}.jsonl", tmp_path / f"out{megabytes}"
        write_text(path, megabytes)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        shown = subprocess.run(
            [sys.executable, "-c", SCRIPT, path, out], env=environment, check=True, text=True,
            capture_output=True,
        ).stdout  # fmt: skip
        documents, kept, used[megabytes] = map(int, shown.split())
        assert 0.85 * documents < kept < 0.95 * documents
    assert 0 < used[40] < 20_000  # kilobytes
    assert used[40] < used[20] + 3_000

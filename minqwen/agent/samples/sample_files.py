r"""Files of samples of tool use: JSONL, a sample on a line, read strictly.

    {"question": "What is 21 times 2?", "tools": ["calculator"], "trace": "Thought: I need ..."}

The trace is the text of sample.py, from the first thought to the final answer, observations
included; `tools` names those that were offered. People write seeds in this form, and look through
what a model made up.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Differs:  the report does not publish its samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...data.jsonl import Source, name_and_data, read_lines
from .sample import Sample, parse_sample, sample_parts, sample_text

FIELDS = {"question", "tools", "trace"}


def read_samples(source: Source) -> list[Sample]:
    """Read samples, such as seeds that people wrote.

    Args:
        source: the path of a JSONL file, or a binary stream.

    Raises:
        ValueError: a line is no sample, or there is none; the message says where and why.
        FileNotFoundError: there is no such file.

    >>> import io
    >>> line = b'{"question": "2 + 3?", "tools": [], "trace": "Thought: Hm.\\\\nFinal Answer: 5"}'
    >>> read_samples(io.BytesIO(line))
    [Sample(question='2 + 3?', tools=(), calls=(), thought='Hm.', answer='5')]
    """
    return read_lines(*name_and_data(source), lambda record, line: sample_of(record))


def write_samples(path: str | os.PathLike[str], samples: Iterable[Sample]) -> None:
    """Write samples, a line each; the file is there whole or not at all.

    Args:
        path: is replaced if it exists.
        samples: such as those that self_instruct kept, for a person to read and to thin out.

    Raises:
        ValueError: a sample would be read in another way, because a label stands in its texts.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "samples.jsonl"
    >>> write_samples(path, [Sample("2 + 3?", ("add",), (), "Hm.", "5")])
    >>> read_samples(path)[0].answer
    '5'
    """
    for sample in (samples := list(samples)):
        if parse_sample(sample_text(sample), sample.tools) != sample:
            raise ValueError(f"a sample would be read in another way: {sample!r:.200}")
    write_json_lines(path, map(sample_record, samples))


def sample_record(sample: Sample) -> dict[str, Any]:
    """Return what stands on a line of a file.

    >>> sample_record(Sample("2 + 3?", ("add",), (), "Easy.", "5"))["trace"]
    'Thought: Easy.\\nFinal Answer: 5'
    """
    trace = "".join(part.text for part in sample_parts(sample))
    return {"question": sample.question, "tools": list(sample.tools), "trace": trace}


def sample_of(record: Any) -> Sample:
    """Read what stands on a line of a file.

    Raises:
        ValueError: it is no sample.

    >>> sample_of({"question": "2 + 3?", "tools": [], "trace": "Thought: .\\nFinal Answer: 5"})[-1]
    '5'
    """
    if not isinstance(record, dict) or record.keys() != FIELDS:
        got = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"expected an object with question, tools and trace, got {got:.200}")
    question, tools, trace = record["question"], record["tools"], record["trace"]
    if not isinstance(question, str) or not isinstance(trace, str):
        raise ValueError("question and trace must be texts")
    if not isinstance(tools, list) or not all(isinstance(name, str) for name in tools):
        raise ValueError("tools must be a list of names")
    sample = parse_sample(f"Question: {question}\n{trace}", tools)
    if sample.question != question.strip():
        raise ValueError(f"a label stands inside of the question: {question!r:.80}")
    return sample


def write_json_lines(path: str | os.PathLike[str], records: Iterable[Any]) -> None:
    """Write a JSON value on each line; the file is there whole or not at all.

    Args:
        path: is replaced if it exists.
        records: JSON values.

    Raises:
        OSError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.jsonl"
    >>> write_json_lines(path, [1, [2]])
    >>> path.read_text(encoding="utf-8")
    '1\\n[2]\\n'
    """
    path = Path(path)
    aside = path.with_name(path.name + ".tmp")
    with open(aside, "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)

"""A file of preferences, for the tests of the commands reward and dpo."""

import json

PREFERENCES = [
    {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    for prompt, chosen, rejected in (
        ("Count.", "1 2 3", "3 2 1"),
        ("Count.", "1 2", "the"),
        ("Once?", "upon a time", "5"),
        ("模型?", "从前有一个模型。", "no"),
        ("Count to 4.", "1 2 3 4", "1 2"),
        ("A small?", "model", "time"),
    )
]


def write_preferences(path, lines=PREFERENCES):
    """Write them as JSONL and return the path."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def steps_in(out):
    """Return the steps in metrics.jsonl of a run."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["step"] for row in map(json.loads, lines) if "loss" in row]

"""What tests of the commands share: a text, a small run, and the one line of an error."""

from minqwen.cli import main

STORY = (
    "Once upon a time there was a small model. It learned to count: 1 2 3 4 5. 从前有一个模型。\n"
)


def write_story(folder):
    """Write the text into a folder and return the file."""
    path = folder / "story.txt"
    path.write_text(STORY * 40, encoding="utf-8")
    return path


def tiny_run(text, out, *more, steps=4):
    """Return the words of a `minqwen pretrain` that takes a second."""
    return [
        "pretrain", str(text), "--out", str(out), "--size", "tiny", "--steps", str(steps),
        "--context", "16", "--batch-size", "2", "--vocab-size", "300", *more,
    ]  # fmt: skip


def error_of(capsys, *words, code=2):
    """Run a command that must fail; return its one line."""
    capsys.readouterr()
    assert main(list(words)) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("minqwen: error: ")
    return captured.err

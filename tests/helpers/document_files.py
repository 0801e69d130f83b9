"""What tests of passes over files share: corpora, files that hold them, and all that came out."""

import gzip
import json
import os
import random
from collections import Counter

from minqwen.data.corpora import bilingual_stories
from minqwen.data.exact_dedup import exact_dedup
from minqwen.data.fuzzy_dedup import fuzzy_dedup
from minqwen.data.lsh import Bands
from minqwen.data.streaming.dedup_sketch import DedupSettings

SETTINGS = DedupSettings(num_perm=40, ngram_size=3, bands=20, rows=2)
SPACES = "ab ab ab ab", "ab  ab  ab  ab", "ab  ab  ab  ab  ab", "ab  ab  ab  ab  ab  a"


def all_of(phase, results, total):
    """Watch without showing anything, and see that the number is right."""
    results = list(results)
    assert len(results) == total, phase
    return results


def edited_text(text, edits, rng):
    """Write other letters over some places."""
    letters = list(text)
    for _ in range(edits if letters else 0):
        letters[rng.randrange(len(letters))] = rng.choice("abc好的 ")
    return "".join(letters)


def corpus(n, seed):
    """Stories in two languages with copies, edits of edits, templates and odd ones, in any order.

    SPACES: the second is an exact copy of the first, with other shingles, which the third has too;
    the fourth is like the third.
    """
    rng = random.Random(seed)
    texts = [story[:150] for story in bilingual_stories(n, seed)]
    for _ in range(n):
        text = rng.choice(texts)
        texts.append(edited_text(text, rng.choice([0, 1, 2, 4, 8, 16]), rng))
        texts += [f" {text}\n", text.upper()][: rng.randrange(3)]
    texts += [f"Dear {name}, your order {rng.random()} was sent." for name in ("Ann", "Bo", "Cy")]
    texts += ["", " ", "\n\t", "", "a", "ab", "a", "中", "中文", "abcd", "bcde", "éa", "e\u0301a"]
    texts += ["xyz" * 5, "xyz" * 6, "zxy" * 7]
    rng.shuffle(texts)
    return [*texts[:n], *SPACES, *texts[n:]]


def write_files(folder, texts, seed=0, zipped=True):
    """Write texts to files of all kinds below a folder, with blank and bad lines between them.

    Returns:
        For each text its place: (name, line).
    """
    rng = random.Random(seed)
    folder.mkdir()
    third = len(texts) // 3
    middle = min(third + 3, 2 * third)
    parts = [texts[:third], texts[third:middle], texts[middle : 2 * third]]
    parts += [texts[2 * third :]]
    chinese = os.fsdecode("d 文/e.jsonl".encode())  # in the C locale too
    names = ["a.jsonl", "b", "c.ndjson.gz" if zipped else "c.ndjson", chinese]
    places = []
    for name, part in zip(names, parts, strict=True):
        path = folder / name
        if name == "b":  # a file is a document
            path.mkdir()
            for i, text in enumerate(part):
                (path / f"{i}.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
                places.append((f"{folder.name}/b/{i}.txt", None))
            (path / "z.bin").write_bytes(b"\0\xff")
            (path / "empty.jsonl").write_bytes(b"")
            continue
        path.parent.mkdir(exist_ok=True)
        lines = []
        for text in part:
            while rng.random() < 0.2:
                lines.append(rng.choice([b"", b" ", b"\xff", b"[1]", b'{"text":"a\xff"}']))
            record = {"n": len(places), "text": text}
            lines.append(json.dumps(record, ensure_ascii=rng.random() < 0.5).encode())
            lines[-1] += b"\r" * (rng.random() < 0.2)
            places.append((f"{folder.name}/{name}", len(lines)))
        data = b"\n".join(lines) + b"\n" * rng.randrange(2)
        path.write_bytes(gzip.compress(data, 1, mtime=0) if name.endswith("gz") else data)
    return places


def in_memory(texts, settings):
    """Return why each text is dropped, of which it is a copy, and how like; None where it stays."""
    switches = {name: getattr(settings, name) for name in ("nfc", "white_space", "case")}
    exact = exact_dedup(texts, **switches)
    found = dict.fromkeys(range(len(texts)))
    for copy in exact.dropped:
        found[copy.document] = ("exact copy", copy.copy_of, None)
    if settings.near:
        report = fuzzy_dedup(
            [texts[i] for i in exact.kept],
            settings.threshold,
            num_perm=settings.num_perm,
            ngram_size=settings.ngram_size,
            seed=settings.seed,
            bands=Bands(settings.bands, settings.rows),
        )
        for one, other, similarity in report.dropped:
            found[exact.kept[one]] = "near copy", exact.kept[other], round(similarity, 6)
    return found


def on_disk(out, places):
    """Return the same from the folder of a pass."""
    number = {place: i for i, place in enumerate(places)}
    assert len(number) == len(places)
    found = dict.fromkeys(range(len(places)))
    for row in json_lines(out / "dropped.jsonl"):
        one, other = number[row["file"], row["line"]], number[tuple(row["copy_of"].values())]
        assert found[one] is None
        found[one] = row["why"], other, row.get("similarity")
    return found


def json_lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def everything(folder):
    """Return the bytes of all files of a folder, hidden ones as well, and the folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def unzipped(name, data):
    return gzip.decompress(data) if name.endswith(".gz") else data


def lines_in(folder):
    """Return how often each line that is not blank stands in files below, or each whole file."""
    count = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            data = unzipped(path.name, path.read_bytes())
            lines = ".jsonl" in path.name or ".ndjson" in path.name
            name = path.relative_to(folder).as_posix()
            pieces = data.split(b"\n") if lines else [data]
            count.update((name, piece) for piece in pieces if piece.strip() or not lines)
    return count


def require_nothing_lost(source, out):
    """See that what is kept, dropped and put aside is together what came, byte for byte."""
    came = lines_in(source.parent)
    came = Counter({key: n for key, n in came.items() if key[0].startswith(f"{source.name}/")})
    kept, aside = lines_in(out / "documents"), lines_in(out / "aside")
    files = {name: unzipped(name, (source.parent / name).read_bytes()) for name, _ in came}
    told = Counter()
    for report in ("dropped.jsonl", "aside.jsonl"):
        for row in json_lines(out / report):
            data = files[row["file"]]
            whole = data if row["line"] is None else data.split(b"\n")[row["line"] - 1]
            told[row["file"], whole] += 1
            if report == "aside.jsonl" and row["line"]:
                aside[row["file"], whole] -= 1
    assert kept + told == came
    assert not any(aside.values())

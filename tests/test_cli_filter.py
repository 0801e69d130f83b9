"""`minqwen filter`: every kind of rule from the command line, reasons, resuming, exit codes."""

import json

import numpy as np
import pytest
from helpers.commands import STORY, error_of, tiny_run, write_story
from helpers.document_files import everything, json_lines, require_nothing_lost, write_files

from minqwen.cli import main
from minqwen.commands import filter as command
from minqwen.commands.filter_rules import RuleBook, make_rules, sealed
from minqwen.data.classifier_file import save_text_classifier
from minqwen.data.corpora import bilingual_stories
from minqwen.data.text_classifier import train_text_classifier

ENGLISH = (
    "The harbour of the town lies in the north, and the boats that have to leave it early are "
    "loaded with bread, water and letters. A woman who keeps the books counts every box twice. "
    "When the fog is thick nobody sails; they sit by the fire, mend nets, and talk about the price "
    "of fish until the lamp on the pier can be seen again from the door of the inn."
)
SPAM = "BUY cheap pills now, win 100 dollars, click here"


def words(folder, *more, out="out"):
    return ["filter", str(folder / "in"), "--out", str(folder / out), "--quiet", *more]


@pytest.fixture
def lines(tmp_path):
    """Write documents as lines of one file."""

    def write(*texts):
        (tmp_path / "in").mkdir(exist_ok=True)
        path = tmp_path / "in/a.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
        return tmp_path

    return write


def dropped(folder, out="out"):
    return {row["line"]: row for row in json_lines(folder / out / "dropped.jsonl")}


def strict(text):
    """Read JSON as other programs do, without Infinity and NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def classifier(tmp_path):
    """Train on stories and spam."""
    path = tmp_path / "quality.npz"
    fit = train_text_classifier(bilingual_stories(20, 0), [SPAM, "win pills"] * 5, buckets=2**10)
    save_text_classifier(fit.classifier, path)
    return path


def test_published_rules_are_the_default_and_every_drop_has_its_reasons(lines, capsys):
    folder = lines(ENGLISH, "Buy now!", "line one of two\n" * 60, ENGLISH.replace("the", "# #"))
    assert main(words(folder)) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    found = dropped(folder)
    assert set(found) == {2, 3, 4}
    assert found[2]["why"] == ["words", "stop words"]
    assert found[2]["reasons"][0] == "words: 2, wanted at least 50 (Gopher, A.1.1)"
    assert "characters in repeated lines" in found[3]["why"]
    assert found[4]["why"][0] == "hashes per word"
    assert all(len(row["why"]) == len(row["reasons"]) for row in found.values())
    kept = (folder / "out/documents/in/a.jsonl").read_bytes()
    assert kept == (folder / "in/a.jsonl").read_bytes().split(b"\n")[0] + b"\n"
    report = strict((folder / "out/report.json").read_text("utf-8"))
    assert (report["documents"], report["kept"], report["aside"]) == (4, 1, 0)
    assert report["why"]["words"] == 1
    assert f"  {'stop words':40s}{report['why']['stop words']:>14,}\n" in shown.out


def test_where_nothing_is_kept_the_folder_is_empty(lines):
    folder = lines(SPAM, "")
    assert main(words(folder)) == 0
    assert list((folder / "out/documents").iterdir()) == []


def test_the_report_is_json_that_any_program_reads(lines, capsys):
    folder = lines(ENGLISH)
    assert main(words(folder, "--json")) == 0
    printed = strict(capsys.readouterr().out)
    assert printed == strict((folder / "out/report.json").read_text("utf-8"))
    assert printed["settings"]["rules"] == ["gopher-quality", "gopher-repetition"]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("c4", [1, 2]),
        (" fineweb , c4,c4", [1]),
        ("fineweb", [1, 3, 4]),
        ("gopher-quality", [1]),
    ],
)
def test_sets_of_rules(lines, rules, kept):
    folder = lines(ENGLISH, "No sentence ends here", "if (x) { y; }.", "Lorem ipsum dolor.")
    assert main(words(folder, "--rules", rules)) == 0
    assert sorted({1, 2, 3, 4} - set(dropped(folder))) == kept
    assert all(len(set(row["why"])) == len(row["why"]) for row in dropped(folder).values())


def test_languages(lines, capsys):
    pytest.importorskip("py3langid")
    german = "Der Hafen der Stadt liegt im Norden, und die Boote fahren am Morgen ab."
    folder = lines(ENGLISH, german, "从前有一个小镇，镇上的人每天早上都去河边喝茶。", "")
    assert main(words(folder, "--rules", "none", "--languages", "zh, en")) == 0
    found = dropped(folder)
    assert set(found) == {2, 4}
    assert found[2]["why"] == ["language en or zh"]
    assert "found de with" in found[2]["reasons"][0]
    assert "found no language" in found[4]["reasons"][0]
    assert "unknown languages: EN; known are" in error_of(
        capsys, *words(folder, "--languages", "EN", out="b")
    )
    assert "least must be above 0 and at most 1, got 2" in error_of(
        capsys, *words(folder, "--languages", "en", "--language-least", "2", out="b")
    )


def test_blocklist(lines, capsys):
    folder = lines("First class.", "ASS!", "网络赌博网站", "赌博 and ass")
    (folder / "block.txt").write_text("\ufeffass\r\n\n赌博\n", "utf-8")
    rules = ["--rules", "none", "--blocklist", str(folder / "block.txt")]
    assert main(words(folder, *rules)) == 0
    assert set(dropped(folder)) == {2, 3, 4}
    assert dropped(folder)[4]["reasons"] == ["blocked phrases: 2, wanted at most 0 (blocklist)"]
    assert main(words(folder, *rules, "--blocked-most", "1", out="one")) == 0
    assert set(dropped(folder, "one")) == {4}
    (folder / "block.txt").write_text("\n \n", "utf-8")
    assert "block.txt holds no phrase" in error_of(capsys, *words(folder, *rules, out="none"))


def test_what_repeats_a_test_set_is_dropped(lines, capsys):
    question = "A baker has 48 loaves and sells half of them before noon; how many are left?"
    folder = lines(question, f"Q: {question.upper()}", "A baker has 48 loaves and sells half.", "x")
    tests = folder / "tests.jsonl"
    tests.write_text(json.dumps({"q": question}) + '\n{"q":"Too short?"}\n', "utf-8")
    rules = ["--rules", "none", "--test-set", str(tests), "--test-field", "q"]
    assert main(words(folder, *rules)) == 0
    told = capsys.readouterr().err
    assert told == "note: texts of --test-set with fewer than 13 words, not looked for: 1\n"
    found = dropped(folder)
    assert set(found) == {1, 2}
    assert found[2]["why"] == ["overlap with test sets"]
    assert found[2]["reasons"] == [
        'overlap with test sets: 4, "a baker has 48 loaves and sells half of them before noon how"'
        ", wanted at most 0 (Qwen, 2.1)"
    ]
    assert main(words(folder, *rules, "--overlap", "8", out="eight")) == 0
    assert set(dropped(folder, "eight")) == {1, 2, 3}
    tests.write_text(json.dumps({"q": question.replace("baker", "miller")}), "utf-8")
    assert "tests.jsonl is another than in the pass in" in error_of(capsys, *words(folder, *rules))
    tests.write_text('{"text":"no such field"}', "utf-8")
    assert "tests.jsonl, line 1: the object lacks the field 'q'" in error_of(
        capsys, *words(folder, *rules, out="none")
    )


def test_classifier(lines, classifier):
    folder = lines(*bilingual_stories(25, 1)[-2:], SPAM)
    assert main(words(folder, "--rules", "none", "--classifier", str(classifier), "0.5")) == 0
    (row,) = dropped(folder).values()
    assert (row["line"], row["why"]) == (3, ["quality"])
    assert row["reasons"][0].endswith("wanted at least 0.5 (text classifier)")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Train a tiny model on one story."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("model")
    command = tiny_run(write_story(folder), folder / "run", "--quiet", "--lr", "0.01", steps=60)
    assert main(command) == 0
    return folder / "run"


def test_model_says_bits_per_byte(lines, model, capsys):
    """It knows the story; what it never saw surprises it, and the reason tells by how much."""
    folder = lines(STORY * 2, "zqxj vkwp" * 9, "", "<|endoftext|> is text here")
    rules = ["--rules", "none", "--model", str(model), "--bits-per-byte", "0"]
    assert main(words(folder, *rules, "inf", out="all")) == 0
    assert dropped(folder, "all") == {}
    assert main(words(folder, *rules, "0", out="none")) == 0
    bits = {
        line: float(row["reasons"][0].removeprefix("bits per byte: ").split(",")[0])
        for line, row in dropped(folder, "none").items()
    }
    assert set(bits) == {1, 2, 4}  # an empty one cannot be asked, and passes
    assert bits[1] < 0.8 * bits[2]
    most = str((bits[1] + bits[2]) / 2)
    assert main(words(folder, *rules, most)) == 0
    assert 2 in dropped(folder)
    assert 1 not in dropped(folder)
    reason = f"bits per byte: {bits[2]:.4g}, wanted at most {float(most):g} (language model)"
    assert dropped(folder)[2]["reasons"] == [reason]
    strict((folder / "all/report.json").read_text("utf-8"))
    (model / "checkpoint/note.txt").write_text("another file", encoding="utf-8")
    told = error_of(capsys, *words(folder, *rules, most))
    assert "note.txt is another than in the pass in" in told


def test_bits_per_byte_by_hand(lines, model):
    """The number in the reason is that of the loss of the model, token by token."""
    from minqwen.model.checkpoint import load_checkpoint
    from minqwen.model.language_model import language_model_forward
    from minqwen.tokenizer.bpe import Tokenizer

    text = "It learned 从前"
    folder = lines(text)
    rules = ["--rules", "none", "--model", str(model), "--bits-per-byte", "0", "0"]
    assert main(words(folder, *rules)) == 0
    config, params = load_checkpoint(model / "checkpoint")
    tokenizer = Tokenizer.from_pretrained(model / "checkpoint")
    ids = [tokenizer.special_tokens["<|endoftext|>"], *tokenizer.encode(text)]
    assert len(ids) - 1 <= config.max_position_embeddings
    z, _ = language_model_forward(params, config, np.array([ids[:-1]]))
    z = z[0].astype(np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p = p[np.arange(len(p)), ids[1:]] / p.sum(axis=1)
    bits = -np.log2(p).sum() / (11 + 6)  # bytes: "It learned " and two characters of three
    reason = dropped(folder)[1]["reasons"][0]
    assert reason == f"bits per byte: {bits:.4g}, wanted at most 0 (language model)"


def test_all_rules_are_asked_and_counted(lines, classifier, capsys):
    folder = lines(SPAM, ENGLISH)
    (folder / "block.txt").write_text("pills\n", "utf-8")
    more = ["--blocklist", str(folder / "block.txt"), "--classifier", str(classifier), "0.9"]
    assert main(words(folder, "--rules", "gopher-quality,fineweb", *more, "--json")) == 0
    why = strict(capsys.readouterr().out)["why"]
    row = dropped(folder)[1]
    expected = [
        "words", "stop words", "lines that end a sentence", "blocked phrases", "quality"
    ]  # fmt: skip
    assert row["why"] == expected
    assert all(why[name] >= 1 for name in expected)


def test_nothing_is_lost_and_the_same_command_again_changes_nothing(tmp_path, capsys):
    texts = [ENGLISH, SPAM, "", "a", ENGLISH.upper(), "文" * 90, SPAM, ENGLISH, "b", "c", "d", "e"]
    write_files(tmp_path / "in", texts)
    assert main(words(tmp_path, "--json")) == 0
    report = capsys.readouterr().out
    require_nothing_lost(tmp_path / "in", tmp_path / "out")
    before = everything(tmp_path / "out")
    assert main(words(tmp_path, "--json")) == 0
    assert capsys.readouterr().out == report
    assert everything(tmp_path / "out") == before


def test_other_settings_and_other_content_of_files_are_refused(lines, classifier, capsys):
    folder = lines(ENGLISH, SPAM)
    (folder / "block.txt").write_text("pills\n", "utf-8")
    block = ["--blocklist", str(folder / "block.txt")]
    rules = ["--rules", "none", *block, "--classifier", str(classifier), "0.5"]
    assert main(words(folder, *rules)) == 0
    assert main(words(folder, *rules)) == 0
    assert "has blocked_most = 0, not 1" in error_of(
        capsys, *words(folder, *rules, "--blocked-most", "1")
    )
    assert "has rules = [], not ['c4']" in error_of(
        capsys, *words(folder, "--rules", "c4", *rules[2:])
    )
    assert "has form.field = 'text', not 'body'" in error_of(
        capsys, *words(folder, *rules, "--field", "body")
    )
    fit = train_text_classifier([ENGLISH], [SPAM], buckets=2**10)
    save_text_classifier(fit.classifier, classifier)
    assert "quality.npz is another than in the pass in" in error_of(capsys, *words(folder, *rules))
    assert "out is of 'minqwen filter', not 'minqwen dedup'" in error_of(
        capsys, "dedup", str(folder / "in"), "--out", str(folder / "out")
    )


def test_a_process_that_lives_on_takes_the_file_as_it_is_now(lines, classifier):
    """As a worker of a cluster does, which sees one name with another content."""
    folder = lines(SPAM)
    rules = ["--rules", "none", "--classifier", str(classifier), "0.5"]
    assert main(words(folder, *rules)) == 0
    assert set(dropped(folder)) == {1}
    fit = train_text_classifier([SPAM], bilingual_stories(20, 0), buckets=2**10)
    save_text_classifier(fit.classifier, classifier)
    assert main(words(folder, *rules, out="b")) == 0
    assert dropped(folder, "b") == {}


def test_a_book_holds_digests_and_makes_rules(classifier):
    book = RuleBook(classifiers=((str(classifier), 0.5),))
    assert sealed(book).files[0][0] == str(classifier)
    assert make_rules(sealed(book))[0].name == "quality"
    with pytest.raises(ValueError, match="no rule: name some with --rules"):
        make_rules(RuleBook())


def test_stopped_in_the_middle_it_goes_on(lines, monkeypatch):
    folder = lines(*[ENGLISH, SPAM, "a"] * 30)
    real = command.filter_files
    monkeypatch.setattr(command, "filter_files", lambda *a, **k: real(*a, **k, block_bytes=3000))
    assert main(words(folder, out="whole")) == 0
    judged, decide = [], RuleBook.decide

    def stop(book, text):
        judged.append(text)
        if len(judged) == 50:
            raise KeyboardInterrupt
        return decide(book, text)

    monkeypatch.setattr(RuleBook, "decide", stop)
    assert main(words(folder)) == 130
    assert not (folder / "out/report.json").exists()
    assert main(words(folder)) == 0
    assert 90 < len(judged) < 140  # whole blocks are not judged again
    assert everything(folder / "out") == everything(folder / "whole")


WRONG = [
    (["--rules", "none"], "no rule: name some"),
    (["--rules", ""], "no rule: name some"),
    (["--rules", "nonesuch"], "or none alone, not nonesuch"),
    (["--rules", "none,c4"], "or none alone, not none"),
    (["--model", "x"], "--model needs --bits-per-byte"),
    (["--bits-per-byte", "0", "1"], "--bits-per-byte needs --model"),
    (["--model", "x", "--bits-per-byte", "2", "1"], "needs 0 <= LEAST <= MOST, got 2 and 1"),
    (["--model", "x", "--bits-per-byte", "nan", "1"], "needs 0 <= LEAST <= MOST, got nan"),
    (["--model", "x", "--bits-per-byte", "-1", "1"], "needs 0 <= LEAST <= MOST, got -1"),
    (["--model", "missing", "--bits-per-byte", "0", "1"], "no checkpoint folder"),
    (["--test-set", "nothing.txt"], "nothing.txt"),
    (["--test-field", "q"], "--test-field needs --test-set"),
    (["--overlap", "13"], "--overlap needs --test-set"),
    (["--test-set", __file__, "--overlap", "0"], "--overlap must be positive, got 0"),
    (["--test-set", __file__, "--overlap", "99999"], "no test text has 99999 words"),
    (["--blocked-most", "0"], "--blocked-most needs --blocklist"),
    (["--blocklist", "x", "--blocked-most", "-1"], "--blocked-most must be 0 or more, got -1"),
    (["--blocklist", "missing.txt"], "missing.txt"),
    (["--language-least", "0.5"], "--language-least needs --languages"),
    (["--classifier", "q.npz", "x"], "--classifier q.npz needs a number from 0 to 1 after it"),
    (["--classifier", "q.npz", "nan"], "needs a number from 0 to 1 after it, got nan"),
    (["--classifier", "q.npz", "1.5"], "needs a number from 0 to 1 after it, got 1.5"),
    (["--classifier", "missing.npz", "0.5"], "missing.npz"),
    (["--workers", "2"], "--workers needs --cluster local"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options_are_told_before_anything_is_made(lines, capsys, options, message):
    folder = lines(ENGLISH)
    assert message in error_of(capsys, *words(folder, *options))
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_a_cluster_makes_the_same_folder(tmp_path, classifier, model):
    pytest.importorskip("distributed")
    write_files(tmp_path / "in", [*bilingual_stories(20, 3), SPAM, ENGLISH, "a", ""])
    rules = ["--rules", "gopher-quality", "--classifier", str(classifier), "0.5"]
    rules += ["--model", str(model), "--bits-per-byte", "0", "4"]
    assert main(words(tmp_path, *rules, out="one")) == 0
    assert main(words(tmp_path, *rules, "--cluster", "local", "--workers", "2")) == 0
    assert everything(tmp_path / "out") == everything(tmp_path / "one")

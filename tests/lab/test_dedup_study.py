"""The study of copies in the training text: the planted crawl, what is counted, and verdicts."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from helpers.commands import error_of

from minqwen.cli import main
from minqwen.data.corpora import OPENINGS, PEOPLE, PLACES, THINGS, bilingual_stories
from minqwen.data.exact_dedup import normalise
from minqwen.data.packing import pack_documents
from minqwen.data.shingles import jaccard, shingles
from minqwen.lab import dedup_corpus, dedup_findings, dedup_report, dedup_study
from minqwen.lab.dedup_changes import (
    CHANGES,
    EXACT,
    NEAR,
    TEMPLATE,
    WORD,
    WORDS,
    change_words,
    cut_off,
    fill_anew,
    white_space,
)
from minqwen.lab.dedup_corpus import (
    ALIKE,
    NGRAM,
    Base,
    Document,
    base_documents,
    crawl,
    halves,
    index_of,
    likeness,
    passages,
    unlike,
)
from minqwen.lab.dedup_measure import (
    ARMS,
    GROUPS,
    Found,
    count_found,
    deduplicate,
    memory,
    questions,
    repeated,
)
from minqwen.lab.findings import AGREES, DISAGREES, PARTLY, UNDECIDED
from minqwen.lab.recipe_study import RecipeSettings, make_tokenizer, pretrained
from minqwen.lab.results import Results
from minqwen.model.generate import generate
from minqwen.model.init import init_params
from minqwen.training.settings import PretrainSettings

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures_once")

TINY = replace(
    dedup_study.QUICK, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=300,
    base_steps=8, base_batch_size=4, base_context=64, stories=40, code_bytes=20_000,
    reference_every=20, templates=2, fillings=2, asked=4, held_out_rows=2,
)  # fmt: skip
TEXT = " ".join(f"word{i:02}" for i in range(100)) + "."
STORIES = bilingual_stories(60, seed=3)
SHORT_TAIL = (("few", 0.1, 2, 5), ("very many", 0.02, 20, 30))  # for whole runs


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def base():
    """Base documents and held-out ones."""
    documents = base_documents(60, 20_000, 20)
    return [d for i, d in enumerate(documents) if i % 6], documents[::6]


@pytest.fixture(scope="module")
def documents(base):
    return crawl(*base, templates=6, fillings=4, seed=0)


# --- changes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", WORDS)
def test_so_many_words_are_changed(share):
    before, after = (WORD.findall(t) for t in (TEXT, change_words(TEXT, share, rng())))
    assert len(before) == len(after)
    changed = [b for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == round(share * len(before))
    assert set(changed) <= set(before)


def test_chinese_is_changed_by_characters_and_stays_chinese():
    text = "一个下雨的早晨，汤姆有3个苹果。"
    after = change_words(text, 0.2, rng())
    assert len(after) == len(text)
    assert sum(a != b for a, b in zip(text, after, strict=True)) in (2, 3)
    assert (
        "3" in after
    )  # as the only word that is not Chinese, it could only have been turned round


def test_a_single_word_is_changed_too():
    assert change_words("word", 0.02, rng()) == "drow"


def test_the_likeness_of_changed_words_is_what_the_docstring_works_out():
    """Random words of five letters: 6 characters a word with its space."""
    letters = rng().integers(97, 123, (600, 5), dtype=np.uint8)
    text = " ".join(word.tobytes().decode() for word in letters)
    one = shingles(text, NGRAM)
    for share, expected in zip(WORDS, (0.95, 0.88, 0.78, 0.61), strict=True):
        found = jaccard(one, shingles(change_words(text, share, rng(1)), NGRAM))
        assert found == pytest.approx(expected, abs=0.02)


def test_other_white_space_is_the_same_after_normalisation():
    texts = [TEXT, "def f():\n    return 1\n\n\ndef g():\n    return 2\n", *STORIES]
    for i, text in enumerate(texts):
        other = white_space(text, rng(i))
        assert other != text
        assert normalise(other) == normalise(text)


def test_the_end_is_cut_off():
    lengths = {len(cut_off(TEXT, rng(i))) / len(TEXT) for i in range(50)}
    assert all(TEXT.startswith(cut_off(TEXT, rng(i))) for i in range(50))
    assert 0.69 < min(lengths) < 0.75
    assert 0.9 < max(lengths) < 0.96


def slots(text, group, language):
    """Which members of a group stand in a text, in order."""
    forms = {}
    for i, member in enumerate(group):
        words = member[:-1] if language == 0 else member[-1:]  # of a thing: one and many
        forms |= {re.escape(word.lower()): i for word in words}
    pattern = "|".join(sorted(forms, key=len, reverse=True))
    pattern = rf"\b(?:{pattern})\b" if language == 0 else pattern
    return [forms[re.escape(word)] for word in re.findall(pattern, text.lower())]


@pytest.mark.parametrize("language", [0, 1])
def test_a_story_filled_anew_keeps_its_numbers_and_changes_all_slots(language):
    pairs = [pair for story in bilingual_stories(200, seed=2) if (pair := halves(story))]
    for i, pair in enumerate(pairs):
        story, other = pair[language], fill_anew(pair[language], rng(i))
        assert re.findall(r"\d+", other) == re.findall(r"\d+", story)
        for group in (PEOPLE, OPENINGS, PLACES, THINGS):
            before, after = (slots(text, group, language) for text in (story, other))
            assert before
            shifts = {(b - a) % len(group) for a, b in zip(before, after, strict=True)}
            assert len(shifts) == 1, (story, other)  # one and the same is the same everywhere
            assert shifts != {0}
    titles = [fill_anew(pair[1], rng(i)).split("\n")[0] for i, pair in enumerate(pairs)]
    assert all(any(t.endswith(f"和{x.chinese[1:]}") for x in THINGS) for t in titles)
    pairs = zip(titles, pairs, strict=True)
    assert all(t.split("和")[1] != pair[1].split("\n")[0].split("和")[1] for t, pair in pairs)


def test_the_halves_of_a_story_are_its_two_languages():
    found = [(story, halves(story)) for story in STORIES]
    assert 0.05 < np.mean([pair is not None for _, pair in found]) < 0.4
    for story, pair in found:
        if pair:
            assert pair[0].isascii() or "“" in pair[0]
            assert not re.search("[\u4e00-\u9fff]", pair[0])
            assert re.search("[\u4e00-\u9fff]", pair[1])
            assert "\n".join(pair) == story


# --- the crawl ---------------------------------------------------------------------------------


def test_likeness_is_the_true_jaccard_similarity():
    texts = [*STORIES[:20], change_words(STORIES[0], 0.1, rng()), "", "abc"]
    index = index_of(texts)
    for text in (STORIES[0], STORIES[30], "abc", "xyz"):
        true = [jaccard(shingles(text, NGRAM), shingles(t, NGRAM)) for t in texts]
        np.testing.assert_allclose(likeness(text, index), true, rtol=1e-12)
    assert likeness("abc", index_of([])).shape == (0,)


def test_of_alike_documents_the_first_stays():
    same, other = Base(TEXT, "code"), Base(STORIES[0], "stories")
    near = Base(change_words(TEXT, 0.05, rng()), "code")
    assert unlike([same, other, near, other]) == [same, other]
    assert unlike([near, same]) == [near]


def test_passages_have_some_length_and_lose_only_what_is_left_over():
    text = "\n\n".join(f"{i} " + "a" * int(n) for i, n in enumerate(rng().integers(20, 900, 60)))
    found = passages(text)
    assert found
    assert all(dedup_corpus.LEAST <= len(p) <= 2 * dedup_corpus.MOST for p in found)
    assert all(p in text for p in found)
    assert sum(map(len, found)) > 0.5 * len(text)
    assert passages("short") == []


def test_no_two_base_documents_are_alike(base):
    texts = [d.text for d in (*base[0], *base[1])]
    index = index_of(texts)
    for i, text in enumerate(texts):
        alike = likeness(text, index)
        assert alike[i] == 1
        assert np.delete(alike, i).max() < ALIKE
    assert {d.source for d in base[0]} == set(dedup_corpus.SOURCES)


def test_families_are_what_they_say(base, documents):
    families = defaultdict(list)
    for d in documents:
        families[d.family].append(d)
    assert len(families) == len(base[0]) + 6  # every base document, and the templates
    changes = {"once": set(), "exact": set(EXACT), "near": set(NEAR), "template": set(TEMPLATE)}
    for family in families.values():
        first, *copies = family
        assert first.change == ""  # it comes before its copies
        assert {d.kind for d in family} == {first.kind}
        assert {d.source for d in family} == {first.source}
        assert {d.change for d in copies} <= changes[first.kind]
        for d in copies:
            if d.change == "same":
                assert d.text == first.text
            elif d.change == "white space":
                assert normalise(d.text) == normalise(first.text) != d.text
            elif d.change == "translated":
                assert not re.search("[a-z]", d.text)
            else:
                assert d.text != first.text
    sizes = {kind: [len(f) - 1 for f in families.values() if f[0].kind == kind] for kind in changes}
    assert set(sizes["once"]) == {0}
    assert len(sizes["once"]) > 0.5 * len(families)
    for kind in ("exact", "near"):
        assert min(sizes[kind]) <= 12
        assert max(sizes[kind]) >= 100  # the heavy tail
    assert {d.change for d in documents} == {"", *CHANGES}


def test_nothing_in_the_crawl_is_like_a_held_out_document(base, documents):
    index = index_of([d.text for d in documents])
    assert max(likeness(d.text, index).max() for d in base[1]) < ALIKE
    known = [Base(d.text, d.source) for d in documents if d.kind == "template" and not d.change]
    again = crawl(base[0], known, templates=3, fillings=1, seed=0)
    texts = {d.text for d in again if d.kind == "template"}
    assert texts
    assert texts.isdisjoint(d.text for d in known)
    both = [Base(TEXT, "code"), Base(STORIES[0], "stories")]
    copies = [d for d in crawl(both, both[:1], 0, 0, seed=0) if d.change]
    assert {d.source for d in copies} >= {"stories"}
    index = index_of([TEXT])
    assert max(likeness(d.text, index)[0] for d in copies) < ALIKE


def test_a_crawl_depends_on_its_seed_only(base, documents):
    assert crawl(*base, templates=6, fillings=4, seed=0) == documents
    assert crawl(*base, templates=6, fillings=4, seed=1) != documents
    shuffled = [d.family for d in documents if d.kind == "once"]
    assert shuffled != sorted(shuffled)


# --- what is counted ---------------------------------------------------------------------------


def encode(text):
    return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)


def test_what_the_two_methods_keep(documents):
    found = deduplicate(documents)
    raw, exact, fuzzy, clean = (list(found.kept[arm]) for arm in ARMS)
    assert raw == list(range(len(documents)))
    assert set(fuzzy) < set(exact) < set(raw)
    assert [documents[i].change for i in clean] == [""] * len(clean)
    assert set(clean) <= set(fuzzy)  # the first of a family is never dropped
    for i in raw:
        if i in found.copy_of:
            assert found.copy_of[i] < i
            assert found.copy_of[i] in set(exact)
        assert (i in found.copy_of) == (i not in set(fuzzy))
    counts = count_found(documents, found, [Base("zzzzzzzzzz", "code")], encode)
    shares = counts["changes"]
    for change in EXACT:
        assert shares[change]["exact"] == shares[change]["fuzzy"] == 1
    for change in ("2 % of words", "5 % of words"):
        assert shares[change]["exact"] < 0.3
        assert shares[change]["fuzzy"] > 0.8
    assert shares["20 % of words"]["fuzzy"] < shares["5 % of words"]["fuzzy"]
    assert shares["translated"]["fuzzy"] < 0.2
    assert shares["translated"]["likeness"] < 0.2
    assert shares["same"]["likeness"] == 1
    assert counts["precision"] > 0.99
    assert counts["held_out_likeness"] < 0.05
    assert counts["tokens"] == sum(len(d.text.encode()) + 1 for d in documents)


def test_counts_by_hand():
    documents = [
        Document("the first one", "code", 0, "exact", ""),
        Document("the first one", "code", 0, "exact", "same"),
        Document("the first one", "code", 0, "exact", "same"),
        Document("quite another", "code", 1, "once", ""),
    ]
    kept = {"raw": range(4), "exact": [0, 2, 3], "fuzzy": [0, 2], "clean": [0, 3]}
    found = Found(kept, {1: 0, 3: 0}, 1.5)
    counts = count_found(documents, found, [Base("the first one", "code")], lambda t: np.zeros(9))
    assert counts["changes"]["same"] == {"planted": 2, "likeness": 1.0, "exact": 0.5, "fuzzy": 0.5}
    assert counts["changes"]["translated"]["planted"] == 0
    assert counts["precision"] == 0.5  # 3 is no copy of 0
    assert counts["dropped"] == {"exact": 0.25, "fuzzy": 0.5}
    assert counts["held_out_likeness"] == 1
    assert (counts["documents"], counts["tokens"]) == (4, 40)


def test_arms_read_equally_much_and_all_that_raw_has_read(documents):
    found = deduplicate(documents)
    tokens = sum(len(encode(documents[i].text)) + 1 for i in found.kept["clean"]) // 2
    read = {arm: dedup_study.reading(documents, found.kept[arm], encode, tokens) for arm in ARMS}
    assert {sum(len(ids) + 1 for ids in pieces) for _, pieces in read.values()} <= {
        tokens,
        tokens - 1,
    }
    met = {arm: {d.family for d in some} for arm, (some, _) in read.items()}
    assert met["raw"] < met["exact"] <= met["fuzzy"] | {d.family for d in read["fuzzy"][0][-1:]}
    assert met["raw"] <= met["fuzzy"]
    assert met["raw"] <= met["clean"]
    for some, pieces in read.values():
        for d, ids in list(zip(some, pieces, strict=True))[:-1]:
            assert bytes(ids.tolist()).decode() == d.text
    with pytest.raises(ValueError, match=r"the text has \d+ tokens, the training needs 99999999: "):
        dedup_study.reading(documents, found.kept["clean"], encode, 99_999_999)


def test_questions_are_grouped_by_how_often_a_document_was_read():
    def text(family):
        return "".join(chr(97 + family) for _ in range(20))

    times = {0: 1, 1: 2, 2: 9, 3: 10, 4: 49, 5: 50, 6: 99, 7: 100, 8: 3}
    documents = []
    for family, n in times.items():
        kind = "template" if family == 8 else "once" if n == 1 else "exact"
        documents += [
            Document(text(family), "code", family, kind, "same" if i else "") for i in range(n)
        ]
    asked = questions(documents, [Base("zzzzzzzz", "code")] * 3, encode,
                      prompt=5, answer=3, asked=2, rng=rng())  # fmt: skip
    found = defaultdict(set)
    for q in asked:
        assert q.ids.shape == (8,)
        found[q.group].add(chr(q.ids[0]))
    assert found == {"held out": {"z"}, "1": {"a"}, "2 to 9": {"b", "c"}, "10 to 49": {"d", "e"},
                     "50 to 99": {"f", "g"}, "100 or more": {"h"}}  # fmt: skip
    assert Counter(q.group for q in asked) == {
        "held out": 2, "1": 13, "2 to 9": 26, "10 to 49": 26, "50 to 99": 26, "100 or more": 13,
    }  # fmt: skip
    with pytest.raises(ValueError, match="no document has prompt \\+ answer = 24 tokens"):
        questions(documents, [], encode, prompt=20, answer=4, asked=2, rng=rng())


@pytest.fixture(scope="module")
def text():
    settings = RecipeSettings(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                              vocab_size=300)  # fmt: skip
    return make_tokenizer(STORIES, settings)


def test_repeated_is_what_greedy_decoding_writes(text):
    params = init_params(text.config, rng())
    prompts = rng(1).integers(0, text.config.vocab_size, (12, 6))
    written = generate(params, text.config, prompts, max_new_tokens=5)
    spoiled = written.copy()
    spoiled[1, -1] = (spoiled[1, -1] + 1) % text.config.vocab_size  # the last one
    spoiled[2, 6] = (spoiled[2, 6] + 1) % text.config.vocab_size  # the first one
    right, loss = repeated(params, text, spoiled, prompt=6, batch_size=5)
    assert right.shape == (12, 5)
    assert right.all(axis=1).tolist() == [i not in (1, 2) for i in range(12)]
    assert right[1, :4].all()
    again, _ = repeated(params, text, written, prompt=6)
    assert again.all()
    assert loss.shape == (12,)
    assert 0 < loss.min() < np.log(text.config.vocab_size) * 1.1


def test_memory_counts_its_groups(text):
    params = init_params(text.config, rng())
    prompts = rng(1).integers(0, text.config.vocab_size, (6, 4))
    ids = generate(params, text.config, prompts, max_new_tokens=3)
    ids[[1, 4], -1] = (ids[[1, 4], -1] + 1) % text.config.vocab_size
    groups = ["1", "50 to 99", "50 to 99", "100 or more", "100 or more", "held out"]
    kinds = ["once", "exact", "near", "near", "near", "once"]
    asked = [dedup_study.Question(*row) for row in zip(groups, kinds, ids, strict=True)]
    found = memory(params, text, asked, 4)
    assert set(found) == {*GROUPS, "often", "exact", "near"}
    shares = {name: (cell["share"], cell["prompts"]) for name, cell in found.items()}
    assert shares == {
        "held out": (1, 1), "1": (1, 1), "2 to 9": (0, 0), "10 to 49": (0, 0),
        "50 to 99": (0.5, 2), "100 or more": (0.5, 2), "often": (0.5, 4), "exact": (0, 1),
        "near": (pytest.approx(2 / 3), 3),
    }  # fmt: skip
    assert found["exact"]["tokens"] == pytest.approx(2 / 3)


# --- what it concludes -------------------------------------------------------------------------

NOISE = np.array([0.0, 0.01, -0.01])


def results_of(folder, **changed):
    """Made-up results of three seeds that agree with every claim, but for what is changed."""
    found = {"same": (1, 1), "white space": (1, 1), "translated": (0, 0), "filled anew": (0, 0.1)}
    numbers = {change: found.get(change, (0, 0.95)) for change in CHANGES}
    numbers |= changed.get("found", {})
    groups = dict(zip([*GROUPS][1:], (0, 0, 0.1, 0.3, 0.6), strict=True))
    groups |= {"held out": 0, "often": 0.4, "exact": 0.4, "near": 0.4} | changed.get("raw", {})
    shares = {"raw": groups, "exact": groups | {"exact": 0.0}, "fuzzy": dict.fromkeys(groups, 0.0),
              "clean": dict.fromkeys(groups, 0.0)}  # fmt: skip
    shares["fuzzy"] |= changed.get("fuzzy", {})
    losses = dict(zip(ARMS, (3.2, 3.1, 3.0, 2.9), strict=True)) | changed.get("losses", {})
    gaps = dict(zip(ARMS, (1.2, 0.6, 0.3, 0.2), strict=True)) | changed.get("gaps", {})
    results = Results(folder, dedup_study.KIND, ())
    for seed in range(changed.get("seeds", 3)):
        results.cells.setdefault("found", {})[str(seed)] = {
            "precision": changed.get("precision", 1.0),
            "changes": {
                change: {"exact": exact, "fuzzy": fuzzy}
                for change, (exact, fuzzy) in numbers.items()
            },
        }
        for i, arm in enumerate(ARMS, 1):
            results.cells.setdefault(arm, {})[str(seed)] = {
                "held_out": {"all": losses[arm] + i * NOISE[seed]},
                "gap": gaps[arm] + i * NOISE[seed],
                "memory": {
                    name: {"share": share + i * NOISE[seed] * (share > 0),
                           "prompts": changed.get("prompts", {}).get(name, 9)}
                    for name, share in shares[arm].items()
                },
            }  # fmt: skip
    return results


def test_made_up_results_agree_with_all(tmp_path):
    found = dedup_findings.findings(results_of(tmp_path))
    assert [finding.verdict for finding in found] == [AGREES] * 7


@pytest.mark.parametrize(
    ("which", "changed", "verdict"),
    [
        (0, {"found": {"end cut off": (0.3, 0.8)}}, PARTLY),
        (0, {"found": {"10 % of words": (0, 0.1)}}, AGREES),  # below the threshold of likeness
        (0, {"found": {"white space": (0.99, 1)}}, DISAGREES),
        (0, {"precision": 0.9}, DISAGREES),
        (0, {"seeds": 2}, UNDECIDED),
        (1, {"found": {"translated": (0, 0.06)}}, DISAGREES),
        (1, {"seeds": 2}, UNDECIDED),
        (2, {"fuzzy": {"often": 0.6}}, DISAGREES),
        (2, {"fuzzy": {"often": 0.4}}, UNDECIDED),
        (2, {"prompts": {"often": 0}}, UNDECIDED),
        (3, {"fuzzy": {"near": 0.6}}, DISAGREES),
        (3, {"prompts": {"near": 0}}, UNDECIDED),
        (3, {"fuzzy": {"often": 0.9}}, AGREES),
        (4, {"raw": {"10 to 49": 0.5}}, PARTLY),  # more than 50 to 99
        (4, {"raw": {"100 or more": 0.0}}, UNDECIDED),
        (4, {"raw": {"1": 0.9}}, DISAGREES),
        (4, {"prompts": {"100 or more": 0}}, UNDECIDED),
        (5, {"losses": {"fuzzy": 3.4}}, DISAGREES),
        (5, {"losses": {"fuzzy": 3.2}}, UNDECIDED),
        (5, {"losses": {"exact": 9}}, AGREES),
        (6, {"gaps": {"fuzzy": 2.0}}, DISAGREES),
        (6, {"gaps": {"raw": 0.3}}, UNDECIDED),
        (6, {"seeds": 1}, UNDECIDED),
    ],
)
def test_each_verdict_follows_its_claim(tmp_path, which, changed, verdict):
    assert dedup_findings.findings(results_of(tmp_path, **changed))[which].verdict == verdict


# --- the whole ---------------------------------------------------------------------------------


def run(folder, settings=TINY):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup_corpus, "TAIL", SHORT_TAIL)
        return dedup_study.dedup_study(folder, settings, say=lambda line: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dedup") / "lab"
    return folder, run(folder)


def without_times(cells):
    return re.sub(r'"seconds": [\d.e-]+', '"seconds": 0', json.dumps(cells))


def test_writes_tables_plots_and_page(finished):
    folder, results = finished
    table, html = ((folder / n).read_text(encoding="utf-8") for n in ("table.md", "index.html"))
    for plot in ("loss.png", "memory.png", "found.png"):
        assert (folder / plot).read_bytes().startswith(b"\x89PNG")
    assert html.count("data:image/png") == 3
    for finding in dedup_findings.findings(results):
        assert finding.verdict == UNDECIDED  # one seed decides nothing
        assert finding.claim in table
        assert finding.ours in table
    assert "| 100 or more | 0 | - | - | - | - |" in table  # nobody was asked, so nobody was wrong
    assert not list(folder.glob("*.part"))


def test_cells_hold_what_was_measured(finished):
    _, results = finished
    assert set(results.cells) == {"found", *ARMS}
    raw, clean = results.get("raw", 0), results.get("clean", 0)
    assert clean["copied"] == 0 < raw["copied"]
    assert [step for step, _ in raw["curve"]][-2:] == [4, 8]
    assert raw["curve"][-1][1] == pytest.approx(raw["held_out"]["all"], rel=1e-5)
    assert raw["gap"] == raw["held_out"]["all"] - raw["own"]
    assert results.get("found", 0)["held_out_likeness"] < ALIKE


def test_a_rerun_trains_nothing_and_a_stopped_study_goes_on(finished, tmp_path, monkeypatch):
    folder, results = finished
    real, calls = dedup_study.pretrain, []

    def stopped(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(dedup_study, "pretrain", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "lab")
    monkeypatch.setattr(dedup_study, "pretrain", real)
    again = run(tmp_path / "lab")
    assert without_times(again.cells) == without_times(results.cells)

    def never(*args, **kwargs):
        raise AssertionError("done again")

    for name in ("pretrain", "prepare", "crawl"):
        monkeypatch.setattr(dedup_study, name, never)
    (folder / "index.html").unlink()
    same = run(folder)
    assert without_times(same.cells) == without_times(results.cells)
    assert (folder / "index.html").is_file()


def test_too_little_text_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(dedup_study, "pretrain", None)
    with pytest.raises(ValueError, match="take fewer steps, or more stories and code_bytes"):
        run(tmp_path / "lab", replace(TINY, base_steps=10_000))


def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(dedup_study, "QUICK", TINY)
    monkeypatch.setattr(dedup_corpus, "TAIL", SHORT_TAIL)
    words = ["lab", "dedup", "--out", str(tmp_path / "lab"), "--quick", "--steps", "2"]
    assert main([*words, "--seed", "5", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["facts"]["settings"] == replace(TINY, base_steps=2, seed=5).to_dict()
    assert set(printed["cells"]) == {"found", *ARMS}
    assert "has base_steps = 2, not 4" in error_of(capsys, *words[:-1], "4", "--seed", "5")


@pytest.mark.slow
def test_a_model_repeats_what_it_read_often_and_not_what_it_read_once(tmp_path):
    """The measure on a model that was made to memorise: one story 60 times among others."""
    stories = bilingual_stories(61, seed=9)
    text = make_tokenizer(stories, RecipeSettings(hidden_size=32, vocab_size=400))
    ids = [np.array(text.tokenizer.encode(story)) for story in stories]
    rows = pack_documents([ids[0]] * 60 + ids[1:], 64, text.end, rng())
    settings = PretrainSettings(steps=400, batch_size=4, context_length=64, peak_lr=6e-3,
                                warmup_steps=10, checkpoint_every=400, eval_every=0)  # fmt: skip
    params = pretrained(tmp_path / "run", text, rows, settings, None, "cpu")
    groups = {"50 to 99": ids[:1], "1": ids[1:12]}
    asked = [
        dedup_study.Question(group, "exact", some[at : at + 24])
        for group, several in groups.items()
        for some in several
        for at in range(0, len(some) - 24, 8)
    ]
    found = memory(params, text, asked, 16)
    assert found["often"]["share"] > 0.5
    assert found["1"]["share"] < 0.1


def test_the_page_has_a_row_for_every_change_and_group(finished):
    sections = dedup_report._found(finished[1]), dedup_report._memory(finished[1], "share")
    assert [row[0] for row in sections[0][1:]] == list(CHANGES)
    assert [row[0] for row in sections[1][1:]] == list(GROUPS)


def test_settings_say_how_much_is_read():
    s = dedup_study.DedupSettings()
    assert s.training_tokens == s.base_steps * s.base_batch_size * s.base_context
    with pytest.raises(ValueError, match="looks must be a whole number, at least 1"):
        replace(s, looks=0)

"""Language identification: known texts, mixed and odd ones, bounded work, threads, the rule."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from minqwen.data import language
from minqwen.data.corpora import bilingual_stories, python_reference
from minqwen.data.language import (
    CHARACTERS,
    identify_language,
    known_languages,
    language_probabilities,
    language_rule,
)
from minqwen.data.quality_rules import RULES, judge

pytest.importorskip("py3langid")

TEXTS = {  # our own sentences
    "en": "The ferry to the island leaves at eight, and most people bring their own breakfast.",
    "de": "Die Fähre zur Insel fährt um acht Uhr ab, und die meisten bringen ihr Frühstück mit.",
    "fr": "Le bac pour l'île part à huit heures, et la plupart des gens apportent leur repas.",
    "es": "El barco a la isla sale a las ocho, y casi todos llevan su propio desayuno.",
    "ru": "Паром на остров отходит в восемь, и большинство людей берут завтрак с собой.",
    "zh": "去岛上的渡船八点开，大多数人自己带早饭。船上的厨师卖茶，茶很浓，也卖汤。",
    "ja": "島へのフェリーは八時に出ます。たいていの人は自分の朝ご飯を持って行きます。",
    "ko": "섬으로 가는 배는 여덟 시에 떠나고, 사람들은 대부분 아침밥을 가져온다.",
    "th": "เรือไปเกาะออกตอนแปดโมง และคนส่วนใหญ่นำอาหารเช้ามาเอง",
}


@pytest.mark.parametrize("code", TEXTS)
def test_known_texts(code):
    found = identify_language(TEXTS[code])
    assert found.code == code
    assert 0.5 < found.probability <= 1 + 1e-6
    assert found == identify_language(TEXTS[code])  # to the bit
    assert judge(TEXTS[code], [language_rule([code])]).kept
    assert not judge(TEXTS[code], [language_rule(set(TEXTS) - {code})]).kept


@pytest.mark.parametrize("text", ["", " \n\t\u3000", "\0", "ok"])
def test_nothing_to_tell_it_by(text):
    assert identify_language(text) == ("und", 0)
    assert language_probabilities(text) == {}
    (failure,) = judge(text, [language_rule(known_languages(), 0.01)]).failures
    assert failure.value == 0
    assert "found no language" in failure.reason


@pytest.mark.parametrize("text", ["12345 67 = 8", "☃☃☃", "\ud800", "a\ud800b", "{}[]<br/>"])
def test_no_language_is_sure_of_odd_text(text):
    assert identify_language(text).probability < 0.5


def test_a_few_words_are_told_with_a_low_probability():
    code, probability = identify_language("Mi a neve?")
    assert code == "hu"
    assert 0.02 < probability < 0.5
    assert not judge("Mi a neve?", [language_rule(["hu"])]).kept


def test_probabilities_are_of_the_known_languages():
    probabilities = language_probabilities(TEXTS["en"])
    assert sorted(probabilities) == known_languages()
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert {"en", "zh", "yue", "zxx"} <= set(known_languages())


def test_a_mixed_text_is_kept_where_both_languages_are_wanted():
    mixed = TEXTS["en"] + "\n" + TEXTS["zh"]
    assert judge(mixed, [language_rule(["en", "zh", "yue", "wuu"], 0.9)]).kept
    (failure,) = judge(mixed, [language_rule(["de"])]).failures
    assert failure.reason.split(" with ")[0] in {
        f"language de: {failure.value:.4g}, found {code}" for code in ("en", "zh")
    }
    wanted = language_rule(["en", "zh", "yue", "wuu"])
    assert all(judge(story, [wanted]).kept for story in bilingual_stories(20, 3))


def test_the_manual_is_english():
    rule = language_rule(["en"], 0.65)
    assert all(judge(topic, [rule]).kept for topic in python_reference()[::5] if len(topic) > 1000)


def test_work_is_bounded_and_sees_the_whole_document(monkeypatch):
    seen = []

    class Recorder:
        def rank(self, text):
            seen.append(text)
            return [("en", 1.0)]

    monkeypatch.setattr(language, "_identifier", Recorder)
    short, long = "x" * CHARACTERS, "".join(map(str, range(10_000)))
    identify_language(short)
    identify_language(long)
    assert seen[0] == short
    assert len(seen[1]) == CHARACTERS + 3  # four pieces and what joins them
    pieces = seen[1].split("\n")
    places = [long.index(piece) for piece in pieces]
    assert places[0] == 0
    assert places[-1] + len(pieces[-1]) == len(long)
    assert [round(place / places[-1], 2) for place in places] == [0, 0.33, 0.67, 1]


def test_a_foreign_beginning_does_not_decide():
    page = TEXTS["de"] * 4 + TEXTS["en"] * 60
    assert identify_language(page).code == "en"


def test_threads_share_the_model():
    texts = list(TEXTS.values()) * 5
    alone = [identify_language(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(identify_language, texts)) == alone


def test_the_library_itself_is_left_as_it_was():
    from py3langid import langid

    before = langid.IDENTIFIER
    language_rule(["de"])
    assert identify_language(TEXTS["en"]).code == "en"
    assert langid.IDENTIFIER is before


def test_rule():
    rule = language_rule(["zh", "en", "en"], 0.65)
    assert rule.name == "language en or zh"
    assert (rule.low, rule.high) == (0.65, 1)
    (failure,) = judge(TEXTS["de"], [rule]).failures
    assert failure.reason.startswith("language en or zh: ")
    assert failure.reason.endswith(", found de with 1, wanted at least 0.65 (py3langid)")
    reasons = [f.reason for f in judge("Buy now!", RULES).failures]
    assert reasons[0] == "words: 2, wanted at least 50 (Gopher, A.1.1)"  # as ever


def test_errors(monkeypatch):
    with pytest.raises(
        ValueError, match=r"unknown languages: english, und; known are .*, en, .*zu"
    ):
        language_rule(["en", "und", "english"])
    with pytest.raises(TypeError, match="wanted must be several codes, got one text, 'en'"):
        language_rule("en")
    with pytest.raises(ValueError, match="wanted must hold a language at least"):
        language_rule([])
    with pytest.raises(ValueError, match="least must be above 0 and at most 1, got 65"):
        language_rule(["en"], 65)
    language._identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(ImportError, match=r"py3langid is missing: pip install 'minqwen\[data\]'"):
        identify_language("Hello")

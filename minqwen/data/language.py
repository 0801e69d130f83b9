"""Language: which one a document is written in, and a rule that keeps the wanted ones.

    p(language | bytes) by naive Bayes, where the features are short runs of bytes that tell
    languages apart, of 139 languages and "zxx", which stands for numbers, markup and the like

The model is py3langid's. At most CHARACTERS of a document are looked at, so a long one costs no
more than a short one (about a millisecond): four pieces, evenly spread, as the beginning of a page
may be a menu in another language.

    a text in two languages       the probability falls to the one with more to tell it by: often
                                  all of it, so a mixed text is kept where both are wanted
    Chinese                       "zh", and beside it "yue" and "wuu", which share its characters:
                                  the rule adds up what it is given, so want all three
    too little to tell            "und" (undetermined), which no rule keeps; so is an empty text
    a few words                   often wrong, with a low probability

Paper:    Qwen Technical Report, 2.1 Data: language identification tools. Which ones is not said.
Origin:   Lui and Baldwin 2012 (langid.py), ACL system demonstrations; py3langid by A. Barbaresi.
Differs:  the probability is py3langid's: the exponent is divided by the root of the length, as
          that of naive Bayes is nearly always 0 or 1.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache, partial
from typing import Any, NamedTuple

from ..extras import require_extra
from .quality_rules import Rule
from .text_units import DividedText

CHARACTERS, PIECES = 2000, 4
CHANCE = 0.02  # 1 of 140 languages by chance is 0.007; two that the model holds twice get 0.014


class Language(NamedTuple):
    code: str  # ISO 639, such as "en"; "zxx" is no language, "und" cannot be told
    probability: float  # 0 for "und"


def identify_language(text: str) -> Language:
    """Say which language a text is most likely written in.

    Raises:
        ImportError: py3langid is missing; with the pip line.

    >>> identify_language("The ferry to the island leaves at eight every morning.").code
    'en'
    >>> identify_language(" ")
    Language(code='und', probability=0.0)
    """
    probabilities = language_probabilities(text)
    code = max(probabilities, key=probabilities.__getitem__, default="und")
    return Language(code, probabilities.get(code, 0.0))


def language_probabilities(text: str) -> dict[str, float]:
    """Return the probability of every known language, or nothing where none can be told.

    Raises:
        ImportError: py3langid is missing; with the pip line.

    >>> "zh" in language_probabilities("船上的厨师卖茶")
    True
    """
    if not text.strip():
        return {}
    ranking = _identifier().rank(_sample(text))
    return dict(ranking) if ranking[0][1] > CHANCE else {}


def known_languages() -> list[str]:
    """Return the codes that `language_rule` takes, in alphabetical order.

    Raises:
        ImportError: py3langid is missing; with the pip line.

    >>> {"en", "zh", "und"} & set(known_languages()) == {"en", "zh"}
    True
    """
    return sorted(_identifier().labels)


def language_rule(wanted: Collection[str], least: float = 0.5) -> Rule:
    """Make a rule for `judge` of quality_rules: the text is in one of the wanted languages.

    Args:
        wanted: codes of `known_languages`; their probabilities are added.
        least: the sum must be at least this, above 0.

    Raises:
        TypeError: wanted is one text.
        ValueError: a code is not known, there is none, or least is not in (0, 1].
        ImportError: py3langid is missing; with the pip line.

    >>> from minqwen.data.text_units import read_text
    >>> rule = language_rule(["en"])
    >>> rule.low <= rule.measure(read_text("The weather in the north is fine today.")) <= rule.high
    True
    """
    if isinstance(wanted, str):
        raise TypeError(f"wanted must be several codes, got one text, {wanted!r}")
    codes = tuple(sorted(set(wanted)))
    if not 0 < least <= 1:
        raise ValueError(f"least must be above 0 and at most 1, got {least}")
    if unknown := sorted(set(codes) - set(known_languages())):
        known = ", ".join(known_languages())
        raise ValueError(f"unknown languages: {', '.join(unknown)}; known are {known}")
    if not codes:
        raise ValueError("wanted must hold a language at least")
    name = f"language {' or '.join(codes)}"
    return Rule(name, partial(_measure, codes), least, 1.0, "py3langid", _explain)


def _measure(wanted: tuple[str, ...], text: DividedText) -> float:
    probabilities = language_probabilities(text.text)
    return min(1.0, sum(probabilities.get(code, 0.0) for code in wanted))  # float32 may go over


def _explain(text: DividedText) -> str:
    code, probability = identify_language(text.text)
    return "found no language" if code == "und" else f"found {code} with {probability:.2g}"


def _sample(text: str) -> str:
    """Return a short text as it is, and of a long one PIECES from its beginning to its end."""
    if len(text) <= CHARACTERS:
        return text
    size = CHARACTERS // PIECES
    starts = ((len(text) - size) * i // (PIECES - 1) for i in range(PIECES))
    return "\n".join(text[start : start + size] for start in starts)


@cache
def _identifier() -> Any:
    """Load the model, once; it is only read from then on, so threads may share it."""
    require_extra("py3langid", extra="data")
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

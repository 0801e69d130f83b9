r"""Search that finds Chinese words: without spaces, a text is cut into pairs of characters.

Sphinx takes a run of Chinese characters for one word, and a sentence for a few. Here such a run
becomes its characters and its pairs of neighbours, in the index and in what a reader types (there,
pairs only where there are any), so that a word is found wherever it stands. The rest is English.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.search.en import SearchEnglish

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{HAN}]+|[^\W{HAN}]+")


class EnglishAndChinese(SearchEnglish):
    """English, and pairs of Chinese characters."""

    js_splitter_code = rf"""
var splitQuery = (query) =>
  (query.match(/[{HAN}]+|[^{HAN}]+/gu) || []).flatMap((part) => {{
    if (!/[{HAN}]/u.test(part))
      return part.split(/[^\p{{Letter}}\p{{Number}}_\p{{Emoji_Presentation}}]+/gu).filter((w) => w);
    if (part.length === 1) return [part];
    return Array.from({{ length: part.length - 1 }}, (_, i) => part.slice(i, i + 2));
  }});
"""

    def split(self, input: str) -> list[str]:
        """Return the words of a text.

        >>> EnglishAndChinese({}).split("a KV 缓存区!")
        ['a', 'KV', '缓', '存', '区', '缓存', '存区']
        """
        found = []
        for word in WORD.findall(input):
            if re.match(rf"[{HAN}]", word):
                found += [*word, *(word[i : i + 2] for i in range(len(word) - 1))]
            else:
                found.append(word)
        return found


def setup(app: Any) -> dict[str, Any]:
    """Take the place of Sphinx's English."""
    app.add_search_language(EnglishAndChinese)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

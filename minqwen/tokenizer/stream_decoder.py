"""Decode ids one by one, without ever handing out half a character.

One token may be part of a character: " 根" is the two tokens 51461 and 117 of Qwen, and the first
holds the space and two of the three bytes of 根. Decoding each token alone would print "�" twice.
A decoder that comes one token at a time keeps bytes back until the character is whole:

    push(51461)  ->  " "        two bytes are kept back
    push(117)    ->  "根"
    finish()     ->  ""         bytes still kept back at the end become "�"

Paper:    Qwen Technical Report, 2.2 Tokenization: tokens are bytes, not characters.
Origin:   the incremental UTF-8 decoder of the standard library, `codecs`.
Differs:  nothing.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Turns ids into text as they come; made by `Tokenizer.stream_decoder`.

    >>> decoder = StreamDecoder({0: b" \\xe6\\xa0", 1: b"\\xb9"}.__getitem__)
    >>> decoder.push(0), decoder.push(1), decoder.push(0), decoder.finish()
    (' ', '根', ' ', '�')
    """

    def __init__(self, token_bytes: Callable[[int], bytes], errors: str = "replace") -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, token_id: int) -> str:
        """Take one id; return the characters that are whole now, maybe none.

        Args:
            token_id: an id of the tokenizer.

        Returns:
            Text, "" while a character is not whole.

        Raises:
            ValueError: there is no such id; or, with errors="strict", the bytes are not UTF-8.
        """
        return self._utf8.decode(self._token_bytes(token_id))

    def finish(self) -> str:
        """Return what is left, by the rule `errors`; afterwards the decoder can be used again.

        Returns:
            "" in most cases; "�" for a character that was never finished.

        Raises:
            UnicodeDecodeError: with errors="strict", bytes are left.
        """
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest

"""The tokenizer: text to ids and back, and how to train one.

    text  --clean-->  NFC  --split-->  pre-tokens  --UTF-8-->  bytes  --merges-->  ids
    ids   --look up-->  bytes, joined  --UTF-8-->  text

    clean, split    pretokenizer.py      what may be merged at all
    merges          merges.py            byte-pair encoding itself: read this first
    speed           merge_arrays.py      how `bpe_train` learns them, on arrays
                    known_pretokens.py   how `encode` uses them, with tables
    control tokens  special_tokens.py    <|im_start|> and its like, and the rule for them
    files           vocabulary.py        qwen.tiktoken, vocab.json, tokenizer.json
    streams         stream_decoder.py    text while the ids are still coming

A tokenizer trained here has the ids 0 to 255 for the bytes, then the merges in the order learned,
then the control tokens. Qwen's own has the bytes in another order, its id 0 is "!".

Decoding joins the bytes of all tokens first. Token by token would not do: one Chinese character may
be two tokens.

Paper:    Qwen Technical Report, 2.2 Tokenization; Qwen2 Technical Report, "Tokenizer".
Origin:   see merges.py.
Differs:  NFC is applied to the whole text before control tokens are looked for, as in Qwen's first
          code; `tokenizers` looks first. Only U+0338 straight after a control token shows it.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from .known_pretokens import KnownPretokens
from .merge_arrays import learn_merges_arrays
from .merges import MergeStep, TrainStep, bpe_encode_steps, learn_merges_steps
from .pretokenizer import QWEN_PATTERN, clean, compile_pattern, split
from .special_tokens import QWEN2_SPECIAL_TOKENS, choose_allowed, find_any
from .stream_decoder import StreamDecoder
from .vocabulary import Vocabulary, number_special_tokens, read, write_tokenizer_json

Text = str | os.PathLike[str]  # a str is text, a path is a file of text


def bpe_train(
    source: Text | Iterable[Text],
    vocab_size: int | None = None,
    *,
    merges: int | None = None,
    special_tokens: Sequence[str] = QWEN2_SPECIAL_TOKENS,
    pattern: str = QWEN_PATTERN,
    normalize: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Tokenizer:
    """Train a tokenizer: learn merges from text.

    Pairs are joined within pre-tokens only. Of pairs with the same count, the one with the smaller
    id on the left is taken, then the smaller id on the right. Control tokens in the text separate
    documents; they are cut out and nothing is learned from them.

    Args:
        source: text, a path of a UTF-8 file, or an iterable of both. A str is always text; write
            Path("corpus.txt") for a file. No pre-token goes from one item into the next.
        vocab_size: how many ids the tokenizer gets: 256 bytes + merges + control tokens.
        merges: the number of merges, instead of vocab_size.
        special_tokens: control tokens; they get the last ids.
        pattern: the split pattern.
        normalize: whether to apply NFC, here and when encoding.
        progress: called as progress(done, merges) after every merge.

    Returns:
        The tokenizer. It has fewer merges than asked for when the text runs out of pairs; a
        UserWarning says so.

    Raises:
        TypeError: not exactly one of vocab_size and merges is given, or source is something else.
        ValueError: vocab_size leaves no room for bytes and control tokens, or is too large; a file
            is not UTF-8; special_tokens or pattern cannot be used.

    >>> tokenizer = bpe_train("aaabdaaabac", merges=3)
    >>> tokenizer.encode("aaabdaaabac"), tokenizer.vocab_size
    ([258, 100, 258, 97, 99], 262)
    """
    if (vocab_size is None) == (merges is None):
        raise TypeError("give either vocab_size or merges")
    fixed = 256 + len(number_special_tokens(special_tokens, 0))
    if merges is None:
        merges = (vocab_size or 0) - fixed
    if not 0 <= merges <= 1_000_000:
        raise ValueError(
            f"vocab_size counts 256 bytes, {fixed - 256} control tokens and 0 to 1,000,000 merges, "
            f"so it must be from {fixed} to {fixed + 1_000_000}, got {fixed + merges}"
        )

    counts: Counter[str] = Counter()
    for text in _texts(source):
        text = clean(text, normalize)
        documents = find_any(frozenset(special_tokens)).split(text) if special_tokens else [text]
        for document in documents[::2]:  # a control token stands at each odd place
            counts.update(split(document, pattern))

    ranks = {bytes([byte]): byte for byte in range(256)}
    for left, right in learn_merges_arrays(counts, merges, progress):
        ranks[left + right] = len(ranks)
    if len(ranks) - 256 < merges:
        warnings.warn(
            f"the text has no pair left after {len(ranks) - 256} of {merges} merges: "
            f"vocab_size is {len(ranks) + fixed - 256}",
            stacklevel=2,
        )
    numbered = number_special_tokens(special_tokens, len(ranks))
    return Tokenizer(ranks, numbered, pattern=pattern, normalize=normalize)


def bpe_train_steps(text: str) -> Iterator[TrainStep]:
    """Train on a short text, one merge at a time, to look at; it takes what `bpe_train` takes.

    Args:
        text: a lesson's worth of text; all pairs are counted anew in every step.

    Returns:
        An iterator of TrainStep(pieces, pair, rank, frequency), one per merge.

    >>> step = next(bpe_train_steps("low lower"))
    >>> step.pair, step.rank, step.frequency
    ((b'l', b'o'), 256, 2)
    >>> step.pieces[0]
    [b'lo', b'w']
    """
    return learn_merges_steps(split(clean(text)))


class Tokenizer:
    """Text to ids and back.

    It may be used from several threads at once, and pickled.

    Args:
        ranks: token -> id; the lower id is merged first. All 256 single bytes must be there.
        special_tokens: control token -> id.
        pattern: the split pattern.
        normalize: whether to apply NFC before encoding.

    Raises:
        ValueError: a single byte is missing, an id comes twice, or pattern cannot be used.

    >>> tokenizer = bpe_train("low lower lowest", merges=2)
    >>> tokenizer.encode("low"), tokenizer.decode([257, 33])
    ([257], 'low!')
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        special_tokens: Mapping[str, int],
        *,
        pattern: str = QWEN_PATTERN,
        normalize: bool = True,
    ) -> None:
        if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
            raise ValueError(f"ranks has no id for the single byte 0x{missing[0]:02x}")
        compile_pattern(pattern)
        self.ranks = dict(ranks)
        self.special_tokens = dict(special_tokens)
        self.pattern = pattern
        self.normalize = normalize
        self._token_of = {token_id: token for token, token_id in ranks.items()}
        self._token_of |= {i: name.encode("utf-8") for name, i in special_tokens.items()}
        if len(self._token_of) != len(ranks) + len(special_tokens):
            raise ValueError("ranks and special_tokens give the same id to two tokens")
        self._vocab_size = max(self._token_of) + 1
        self._known = KnownPretokens(self.ranks)

    @property
    def n_regular(self) -> int:
        """How many tokens are not control tokens."""
        return len(self.ranks)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: how many rows an embedding needs at least."""
        return self._vocab_size

    def encode(
        self,
        text: str,
        *,
        allowed_special: str | Collection[str] = (),
        disallowed_special: str | Collection[str] = "all",
    ) -> list[int]:
        """Turn text into ids.

        Args:
            text: any text.
            allowed_special: control tokens that become their id where text spells them, or "all".
            disallowed_special: control tokens that raise where text spells them, or "all": every
                one that is not allowed. Pass () to encode them as ordinary text.

        Returns:
            The ids.

        Raises:
            TypeError: text is not a str.
            ValueError: text spells a disallowed control token, see `special_tokens.py`.

        >>> tokenizer = bpe_train("", merges=0)
        >>> tokenizer.encode("é"), tokenizer.encode("a<|im_end|>", allowed_special="all")
        ([195, 169], [97, 258])
        """
        text = clean(text, self.normalize)
        allowed = choose_allowed(text, self.special_tokens, allowed_special, disallowed_special)
        if not allowed:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for i, part in enumerate(find_any(allowed).split(text)):
            if i % 2:
                ids.append(self.special_tokens[part])
            else:
                ids += self._encode_ordinary(part)
        return ids

    def _encode_ordinary(self, text: str) -> list[int]:
        pretokens = split(text, self.pattern)
        return list(chain.from_iterable(map(self._known.__getitem__, pretokens)))

    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        allowed_special: str | Collection[str] = (),
        disallowed_special: str | Collection[str] = "all",
    ) -> list[list[int]]:
        """Encode several texts; see `encode` for the arguments and the errors.

        >>> bpe_train("", merges=0).encode_batch(["a", "", "b!"])
        [[97], [], [98, 33]]
        """
        if isinstance(texts, str):
            raise TypeError("texts must be an iterable of str, got one str; see encode")
        options = {"allowed_special": allowed_special, "disallowed_special": disallowed_special}
        return [self.encode(text, **options) for text in texts]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Join the bytes of all tokens.

        Args:
            ids: ids of this tokenizer, in one flat sequence.

        Returns:
            The bytes; they need not be whole UTF-8 characters.

        Raises:
            TypeError: ids is not a flat sequence of integers.
            ValueError: an id has no token, as those of the padded rows of an embedding.
        """
        try:
            return b"".join(map(self._token_of.__getitem__, ids))
        except KeyError as error:
            raise ValueError(self._no_such_id(error.args[0])) from None
        except TypeError as error:
            raise TypeError(f"ids must be a flat sequence of integers: {error}") from None

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Turn ids into text.

        Args:
            ids: ids of this tokenizer, in one flat sequence.
            errors: what becomes of bytes that are not UTF-8: "replace" writes U+FFFD, "ignore"
                drops them, "backslashreplace" writes them in hex, "strict" raises.

        Returns:
            The text, with the names of control tokens in it.

        Raises:
            TypeError: ids is not a flat sequence of integers.
            ValueError: an id has no token; or, with "strict", the bytes are not UTF-8.

        >>> tokenizer = bpe_train("", merges=0)
        >>> tokenizer.decode([228, 189, 160, 228])
        '你�'
        """
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_stream(self, ids: Iterable[int], errors: str = "replace") -> Iterator[str]:
        """Turn ids into text while they come, without ever yielding half a character.

        Args:
            ids: any iterable; it is read one id at a time.
            errors: as in `decode`.

        Returns:
            An iterator of text, none empty; joined, it is what `decode` gives.

        Raises:
            ValueError: as in `decode`, when the id comes.

        >>> list(bpe_train("", merges=0).decode_stream([97, 228, 189, 160]))
        ['a', '你']
        """
        decoder = self.stream_decoder(errors)
        for token_id in ids:
            if text := decoder.push(token_id):
                yield text
        if text := decoder.finish():
            yield text

    def stream_decoder(self, errors: str = "replace") -> StreamDecoder:
        """Return an object for a loop of your own: push(id) gives text, finish() the rest."""
        return StreamDecoder(self.token_bytes, errors)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token; ValueError when there is no such id."""
        if (token := self._token_of.get(token_id)) is None:
            raise ValueError(self._no_such_id(token_id))
        return token

    def id_of(self, token: str | bytes) -> int:
        """Return the id of one token.

        Args:
            token: its bytes, or its text; the name of a control token is that token.

        Returns:
            The id.

        Raises:
            ValueError: token is not one token of this tokenizer.

        >>> tokenizer = bpe_train("aaab", merges=1)
        >>> tokenizer.id_of("aa"), tokenizer.id_of(b"b"), tokenizer.id_of("<|endoftext|>")
        (256, 98, 257)
        """
        if isinstance(token, str) and token in self.special_tokens:
            return self.special_tokens[token]
        token_id = self.ranks.get(token.encode("utf-8") if isinstance(token, str) else token)
        if token_id is None:
            raise ValueError(f"{token!r} is not one token of this tokenizer")
        return token_id

    def merge_steps(self, text: str) -> Iterator[MergeStep]:
        """Encode one merge at a time, to look at.

        Args:
            text: ordinary text; control tokens in it are not looked for.

        Returns:
            An iterator of MergeStep(pieces, pair, rank). Each pre-token starts with its single
            bytes, pair and rank None. `encode` looks a whole pre-token up first; in trained and
            published vocabularies that gives the same ids, since merges lead to every token.

        >>> tokenizer = bpe_train("low low", merges=2)
        >>> for step in tokenizer.merge_steps("low"):
        ...     print(step.pieces, step.rank)
        [b'l', b'o', b'w'] None
        [b'lo', b'w'] 256
        [b'low'] 257
        """
        for pretoken in split(clean(text, self.normalize), self.pattern):
            yield from bpe_encode_steps(pretoken.encode("utf-8"), self.ranks)

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, special_tokens: Sequence[str] | None = None
    ) -> Tokenizer:
        """Read a tokenizer that was saved here or published.

        Args:
            path: a folder with tokenizer.json, vocab.json and merges.txt, or qwen.tiktoken; or one
                of these files.
            special_tokens: control tokens for files that do not name them, ids after the last
                token. The default is Qwen2's three; QWEN_SPECIAL_TOKENS in `special_tokens.py` are
                the 208 of Qwen-1.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or of another kind.
        """
        vocabulary = read(path, special_tokens)
        return cls(
            vocabulary.ranks,
            vocabulary.special_tokens,
            pattern=vocabulary.pattern,
            normalize=vocabulary.normalize,
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write folder/tokenizer.json, which `tokenizers` and `transformers` read too.

        Args:
            folder: made when it is not there. A tokenizer.json in it is replaced in one go.

        Returns:
            The path of the file.

        Raises:
            ValueError: a token is not made of two others, so the format cannot hold it.
        """
        path = Path(folder) / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        vocabulary = Vocabulary(self.ranks, self.special_tokens, self.pattern, self.normalize)
        write_tokenizer_json(path, vocabulary)
        return path

    def _no_such_id(self, token_id: object) -> str:
        return (
            f"id {token_id!r} has no token: this tokenizer has {len(self._token_of)} ids, "
            f"0 to {self.vocab_size - 1}; rows above only pad an embedding"
        )


def _texts(source: Text | Iterable[Text]) -> Iterator[str]:
    """Yield the texts of `bpe_train`'s source; a path is read as UTF-8."""
    if isinstance(source, str):
        yield source
    elif isinstance(source, os.PathLike):
        try:
            yield Path(source).read_bytes().decode("utf-8")  # line ends stay as they are
        except UnicodeDecodeError as error:
            raise ValueError(f"{os.fspath(source)} is not UTF-8 text: {error}") from error
    elif isinstance(source, Iterable) and not isinstance(source, bytes | bytearray):
        for item in source:
            if not isinstance(item, str | os.PathLike):
                raise TypeError(f"source must hold str or paths, got {type(item).__name__}")
            yield from _texts(item)
    else:
        raise TypeError(f"source must be text, a path or both, got {type(source).__name__}")

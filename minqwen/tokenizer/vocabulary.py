"""The files a tokenizer is stored in.

    qwen.tiktoken                one line per token: its bytes in base64, a space, its rank (= id)
    vocab.json and merges.txt    token -> id; one merge per line, in the order they were learned
    tokenizer.json               all in one file, of the package `tokenizers`: control tokens, split
                                 pattern and normalizer too; the only form we write

The two JSON forms must write bytes as text. GPT-2's table does that: a printable byte stands for
itself, the k-th other byte is the character 256 + k. So a space is "Ġ" and a line end is "Ċ".

We encode by rank: the id says what is merged first, see `merges.py`. The JSON forms list the merges
too, so a file could say something else than its ids do. `read` works the merges out of the ids and
refuses a file with other ones. For the 151,387 merges of Qwen that takes about a second; the rank
file needs no such check.

Paper:    Qwen Technical Report, 2.2 Tokenization; Qwen2 Technical Report, "Tokenizer".
Origin:   the rank file is tiktoken's; the JSON forms are those of Hugging Face.
Differs:  only byte-level BPE is read, with NFC or no normalizer, and any split pattern.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from .merges import Pair, merges_of
from .pretokenizer import QWEN_PATTERN, compile_pattern
from .special_tokens import QWEN2_SPECIAL_TOKENS

QWEN_RANKS = 151_643  # lines of the published qwen.tiktoken

_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_REST = sorted(set(range(256)).difference(_PRINTABLE))
_BYTE_TO_CHAR = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + k) for k, byte in enumerate(_REST)
}
_CHAR_TO_BYTE = {char: byte for byte, char in _BYTE_TO_CHAR.items()}


class Vocabulary(NamedTuple):
    ranks: dict[bytes, int]  # token -> id, all 256 single bytes among them
    special_tokens: dict[str, int]  # control token -> id
    pattern: str  # the split pattern
    normalize: bool  # whether NFC comes first


def read(path: str | os.PathLike[str], special_tokens: Sequence[str] | None = None) -> Vocabulary:
    """Read a tokenizer from a file, or from the first of the three forms that a folder has.

    Args:
        path: a folder, or a file: tokenizer.json, vocab.json (beside merges.txt) or *.tiktoken.
        special_tokens: control tokens for the two forms that do not name their own; they get the
            ids after the last token. None means those of `tokenizer_config.json` if it lies beside
            vocab.json, else the three of Qwen2.

    Returns:
        The vocabulary.

    Raises:
        FileNotFoundError: there is no such file, or none of the three forms in the folder.
        ValueError: the file is damaged or of another kind; the message names it and says what.
    """
    path = Path(path)
    if path.is_dir():
        candidates = [
            path / "tokenizer.json",
            path / "vocab.json",
            *sorted(path.glob("*.tiktoken")),
        ]
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"{path} holds no tokenizer.json, no vocab.json with merges.txt, no *.tiktoken file"
            )
        path = found
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".tiktoken":
        return read_tiktoken(path, special_tokens)
    if path.name == "vocab.json":
        return read_vocab_and_merges(path, path.with_name("merges.txt"), special_tokens)
    if path.suffix == ".json":
        if special_tokens is not None:
            raise ValueError(f"{path} names its own control tokens; leave special_tokens out")
        return read_tokenizer_json(path)
    raise ValueError(f"{path} is not a tokenizer.json, a vocab.json or a *.tiktoken file")


def read_tiktoken(path: Path, special_tokens: Sequence[str] | None = None) -> Vocabulary:
    """Read a rank file; see `read` for the arguments and the errors."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        where = f"{path}, line {number}"
        fields = line.split(" ")
        try:
            token, rank = base64.b64decode(fields[0], validate=True), int(fields[1])
        except (IndexError, ValueError, binascii.Error):
            fields = []
        if len(fields) != 2 or not token:
            raise ValueError(f"{where}: expected base64, a space and a rank, got {line[:60]!r}")
        if rank != len(ranks):
            raise ValueError(f"{where}: expected rank {len(ranks)}, got {rank}")
        if token in ranks:
            raise ValueError(f"{where}: token {token!r} has rank {ranks[token]} already")
        ranks[token] = rank
    _require_single_bytes(path, ranks)
    if path.name == "qwen.tiktoken" and len(ranks) != QWEN_RANKS:
        raise ValueError(
            f"{path} has {len(ranks)} ranks, the published file has {QWEN_RANKS}: "
            f"was it cut short? Give a vocabulary of your own another name"
        )
    names = QWEN2_SPECIAL_TOKENS if special_tokens is None else special_tokens
    return Vocabulary(ranks, number_special_tokens(names, len(ranks)), QWEN_PATTERN, True)


def read_vocab_and_merges(
    vocab_path: Path, merges_path: Path, special_tokens: Sequence[str] | None = None
) -> Vocabulary:
    """Read vocab.json and merges.txt; see `read` for the other argument and the errors."""
    vocab = _json_object(vocab_path)
    if "model" in vocab and "added_tokens" in vocab:
        raise ValueError(f"{vocab_path} is a tokenizer.json; give it that name")
    if not merges_path.is_file():
        raise FileNotFoundError(f"there is no file {merges_path} beside {vocab_path.name}")
    lines = _text(merges_path).split("\n")
    merges = [line for line in lines[lines[0].startswith("#version") :] if line]

    config_path = vocab_path.with_name("tokenizer_config.json")
    specials: dict[str, int] = {}
    if special_tokens is None and config_path.is_file():
        added = _json_object(config_path).get("added_tokens_decoder", {})
        try:
            specials = {entry["content"]: int(number) for number, entry in added.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{config_path}: added_tokens_decoder is damaged") from error
    ranks = _ranks(vocab_path, {token: i for token, i in vocab.items() if token not in specials})
    _require_merges(merges_path, ranks, merges)
    if not specials:
        names = QWEN2_SPECIAL_TOKENS if special_tokens is None else special_tokens
        specials = number_special_tokens(names, max(ranks.values()) + 1)
    return Vocabulary(ranks, specials, QWEN_PATTERN, True)


def read_tokenizer_json(path: Path) -> Vocabulary:
    """Read a tokenizer.json of byte-level BPE; see `read` for the errors."""
    data = _json_object(path)
    model = data.get("model")
    if not isinstance(model, dict) or "vocab" not in model:
        raise ValueError(f"{path} has no model with a vocab, so it is not a tokenizer.json")
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"{path}: the model is {model['type']}, only BPE is supported")
    if not isinstance(model["vocab"], dict) or not isinstance(model.get("merges"), list):
        raise ValueError(f"{path} is damaged: a BPE model has an object vocab and a list merges")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise ValueError(f"{path}: model option {option} is not supported")
    try:
        normalize, pattern = _normalizer(data), _split_pattern(data)
        specials = _added_tokens(data)
        compile_pattern(pattern)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from error
    ranks = _ranks(path, {token: i for token, i in model["vocab"].items() if token not in specials})
    _require_merges(path, ranks, model["merges"])
    if clash := set(specials.values()).intersection(ranks.values()):
        raise ValueError(f"{path}: id {min(clash)} is a token and a control token")
    return Vocabulary(ranks, specials, pattern, normalize)


def write_tokenizer_json(path: Path, vocabulary: Vocabulary) -> None:
    """Write a tokenizer.json that `tokenizers` and `transformers` read, with the same ids.

    It is written beside its place and then renamed, so a reader never meets half a file. Control
    tokens are marked "normalized": they are looked for after NFC, as `Tokenizer.encode` does.

    Args:
        path: the file; it is replaced when it is there.
        vocabulary: what to write.

    Raises:
        ValueError: a token is not made of two others, so the file cannot be written.
    """
    merges = merges_of(vocabulary.ranks)
    added = sorted(vocabulary.special_tokens.items(), key=lambda item: item[1])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    pattern = {"Regex": vocabulary.pattern}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": name, **flags, "special": True} for name, number in added
        ],
        "normalizer": {"type": "NFC"} if vocabulary.normalize else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, {**byte_level, "use_regex": False}],
        },
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {to_chars(token): number for token, number in vocabulary.ranks.items()},
            "merges": [f"{to_chars(left)} {to_chars(right)}" for left, right in merges],
        },
    }
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        text = json.dumps(data, ensure_ascii=False, indent=1)
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def to_chars(token: bytes) -> str:
    """Write the bytes of a token as printable characters, by GPT-2's table.

    >>> to_chars(" a\\n".encode()), to_chars("é".encode())
    ('ĠaĊ', 'Ã©')
    """
    return "".join(map(_BYTE_TO_CHAR.__getitem__, token))


def from_chars(chars: str) -> bytes:
    """Undo `to_chars`.

    Raises:
        ValueError: a character is not in the table.

    >>> from_chars("ĠaĊ")
    b' a\\n'
    """
    try:
        return bytes(map(_CHAR_TO_BYTE.__getitem__, chars))
    except KeyError as error:
        raise ValueError(f"token {chars!r} is not byte-level: no byte for {error}") from None


def number_special_tokens(names: Sequence[str], first: int) -> dict[str, int]:
    """Give control tokens the ids from `first` on.

    Args:
        names: the control tokens; none may be empty or come twice.
        first: the id of the first one.

    Returns:
        name -> id.

    Raises:
        TypeError: names is one str, which would count as many names of one letter.
        ValueError: a name is empty or comes twice.

    >>> number_special_tokens(["<|a|>", "<|b|>"], 256)
    {'<|a|>': 256, '<|b|>': 257}
    """
    if isinstance(names, str):
        raise TypeError(f"special_tokens must be a sequence of names, got the str {names!r}")
    numbered = {name: first + i for i, name in enumerate(names)}
    if "" in numbered or len(numbered) != len(names):
        raise ValueError(f"special_tokens must be different names, none empty, got {names!r}")
    return numbered


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def _json_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not whole JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a JSON {type(data).__name__}, expected an object")
    return data


def _ranks(path: Path, vocab: dict[str, Any]) -> dict[bytes, int]:
    """Turn text tokens into bytes and check the ids."""
    ranks: dict[bytes, int] = {}
    for chars, number in vocab.items():
        try:
            ranks[from_chars(chars)] = number
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if type(number) is not int or number < 0:
            raise ValueError(f"{path}: the id of token {chars!r} is {number!r}")
    if len(set(ranks.values())) != len(ranks):
        raise ValueError(f"{path}: two tokens have the same id")
    _require_single_bytes(path, ranks)
    return ranks


def _require_single_bytes(path: Path, ranks: dict[bytes, int]) -> None:
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise ValueError(
                f"{path} has {len(ranks)} tokens, but none for the single byte 0x{byte:02x}"
            )


def _require_merges(path: Path, ranks: dict[bytes, int], merges: list[Any]) -> None:
    """Refuse merges that are not the ones which the ids imply."""
    try:
        implied = merges_of(ranks)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; merges in another order are not supported") from None
    for number, (given, pair) in enumerate(zip_longest(merges, implied), start=1):
        if given is None or pair is None:
            raise ValueError(f"{path} has {len(merges)} merges, its tokens need {len(implied)}")
        if _pair(given) != pair:
            raise ValueError(
                f"{path}: merge {number} is {given!r}, the ids imply {_spelled(pair)!r}; "
                f"merges in another order than the ids are not supported"
            )


def _pair(merge: Any) -> Pair | None:
    """Read one merge, "a b" or ["a", "b"]; None when it is neither."""
    fields = merge.split(" ") if isinstance(merge, str) else merge
    try:
        left, right = map(from_chars, fields)
    except (TypeError, ValueError):
        return None
    return left, right


def _spelled(pair: Pair) -> str:
    return f"{to_chars(pair[0])} {to_chars(pair[1])}"


def _normalizer(data: dict[str, Any]) -> bool:
    kinds = [part["type"] for part in _parts(data.get("normalizer"), "normalizers")]
    if kinds not in ([], ["NFC"]):
        raise ValueError(f"normalizer {kinds} is not supported, only NFC or none")
    return bool(kinds)


def _split_pattern(data: dict[str, Any]) -> str:
    supported = "only Split by a Regex (Isolated), then ByteLevel without a regex of its own"
    parts = _parts(data.get("pre_tokenizer"), "pretokenizers")
    kinds = [part["type"] for part in parts]
    if kinds != ["Split", "ByteLevel"]:
        raise ValueError(f"pre_tokenizer {kinds} is not supported, {supported}")
    split, byte_level = parts
    pattern = split["pattern"].get("Regex")
    if not isinstance(pattern, str) or split["behavior"] != "Isolated" or split.get("invert"):
        raise ValueError(f"this Split is not supported, {supported}")
    if byte_level.get("add_prefix_space", True) or byte_level.get("use_regex", True):
        raise ValueError(f"this ByteLevel is not supported, {supported}, and no prefix space")
    for name in ("post_processor", "decoder"):
        others = {part["type"] for part in _parts(data.get(name), name + "s")} - {"ByteLevel"}
        if others:
            raise ValueError(f"{name} {sorted(others)} is not supported, only ByteLevel")
    return pattern


def _added_tokens(data: dict[str, Any]) -> dict[str, int]:
    added = data.get("added_tokens") or []
    for token in added:
        for option in ("lstrip", "rstrip", "single_word"):
            if token.get(option):
                raise ValueError(f"control token {token['content']!r}: {option} is not supported")
    specials = {token["content"]: token["id"] for token in added}
    if not all(
        isinstance(name, str) and name and type(i) is int and i >= 0 for name, i in specials.items()
    ):
        raise ValueError("an entry of added_tokens has no name or no id")
    if len(set(specials.values())) != len(added):
        raise ValueError("two added_tokens have the same name or id")
    return specials


def _parts(component: Any, key: str) -> list[dict[str, Any]]:
    """Return the parts of a Sequence, or the component itself; none for null."""
    if component is None:
        return []
    parts: list[dict[str, Any]] = (
        component.get(key) or component.get("processors") or component.get("decoders")
        if component["type"] == "Sequence"
        else [component]
    )
    return parts

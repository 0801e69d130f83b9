"""Equal ids, byte for byte, with tiktoken and tokenizers, on real and on random text.

Both vocabularies are tried: Qwen's own, when the package dashscope brings it along, and one trained
here. tiktoken does no NFC, so it gets normalised text. Code points that Python's Unicode tables do
not know are left out: the packages have tables of different years.
"""

import random
import sysconfig
import unicodedata
from importlib.util import find_spec
from pathlib import Path
from pydoc_data import topics

import pytest

from minqwen.tokenizer.bpe import Tokenizer, bpe_train
from minqwen.tokenizer.pretokenizer import QWEN_PATTERN, split

pytestmark = pytest.mark.parity

tiktoken = pytest.importorskip("tiktoken")
tokenizers = pytest.importorskip("tokenizers")

WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"
NEAR_SPACE = "\x1c\x1f\u180e\u200b\u2060\ufeff"  # white space to some tools, not to Unicode
KNOWN = [
    chr(code)
    for code in range(0x110000)
    if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co") or code in (0xE000, 0xFFFF)
]
CHINESE = (
    "我们在二〇二四年的春天，用纯粹的代码重新写了一个分词器。它把“你好”和「世界」都变成了数字！"
)
EMOJI = ("👍", "👍🏽", "👩\u200d🚀", "🇨🇳", "❤\ufe0f", "1\ufe0f\u20e3", "👨\u200d👩\u200d👧")
WORDS = (
    *("don't", "WE'LL", "I'\u017f", "naïve", "re\u0301sume\u0301", "Ångström", "\u2126", "ǅ", "ﬁ"),
    *("한국어", "\u1112\u1161\u11ab", "สวัสดี", "नमस्ते", "שָׁלוֹם", "مرحبا"),
    *("3.14", "１２３", "x_1", "__init__"),
)


def qwen_file():
    spec = find_spec("dashscope")
    folders = (spec and spec.submodule_search_locations) or ()
    files = (Path(folder) / "resources" / "qwen.tiktoken" for folder in folders)
    return next((file for file in files if file.is_file()), None)


def real_lines():
    for name in ("argparse.py", "typing.py", "_pydecimal.py", "json/encoder.py"):
        text = (Path(sysconfig.get_path("stdlib")) / name).read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True)
        yield from ("".join(lines[i : i + 3]) for i in range(0, len(lines), 3))
    for text in topics.topics.values():
        yield from (text[i : i + 300] for i in range(0, len(text), 300))


def random_texts(n, seed=0):
    rng = random.Random(seed)
    kinds = (
        lambda: rng.choice(WORDS),
        lambda: rng.choice(EMOJI),
        lambda: rng.choice(WHITE_SPACE) * rng.choice((1, 1, 1, 2, 5)),
        lambda: rng.choice(WHITE_SPACE + NEAR_SPACE),
        lambda: rng.choice(("\r\n", "\n\n", " ", "  ", "\n")),
        lambda: CHINESE[(i := rng.randrange(len(CHINESE))) : i + rng.randrange(8)],
        lambda: chr(rng.randrange(128)) * rng.choice((1, 1, 2, 9)),
        lambda: rng.choice(KNOWN),
        lambda: str(rng.randrange(10**6)),
        lambda: unicodedata.normalize(rng.choice(("NFD", "NFKD")), rng.choice(KNOWN)),
        lambda: "".join(rng.choices("etaoin shrdlu", k=rng.randrange(12))),
    )
    for _ in range(n):
        chosen = rng.choices(kinds, k=rng.choice((1, 2, 3)))  # few kinds, so that like meets like
        yield "".join(rng.choice(chosen)() for _ in range(rng.randrange(1, 12)))


TEXTS = [*real_lines(), *random_texts(20_000), *KNOWN[::40], *(f"a{s}{s}b{s}" for s in WHITE_SPACE)]


class Both:
    """One vocabulary in the three implementations."""

    def __init__(self, ours, ranks, folder):
        self.ours = ours
        self.tiktoken = tiktoken.Encoding(
            "qwen", pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens=ours.special_tokens
        )
        self.fast = tokenizers.Tokenizer.from_file(str(ours.save_pretrained(folder)))


@pytest.fixture(scope="module", params=["qwen", "trained"])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "trained":
        ours = bpe_train(["".join(real_lines()), *random_texts(3000, seed=1)], merges=3000)
        return Both(ours, ours.ranks, folder)
    if (file := qwen_file()) is None:
        pytest.skip("needs qwen.tiktoken, which the package dashscope brings along")
    from tiktoken.load import load_tiktoken_bpe

    return Both(Tokenizer.from_pretrained(file), load_tiktoken_bpe(str(file)), folder)


def first_difference(texts, ours, theirs):
    return next(((t, a, b) for t, a, b in zip(texts, ours, theirs, strict=True) if a != b), None)


def test_there_are_enough_texts_of_every_kind():
    assert len(TEXTS) > 25_000
    everything = "".join(TEXTS)
    assert set(WHITE_SPACE + NEAR_SPACE) <= set(everything)
    assert len(set(everything)) > 20_000
    assert sum(unicodedata.normalize("NFC", text) != text for text in TEXTS) > 500


def test_equal_to_tiktoken(both):
    ours = both.ours.encode_batch(TEXTS, disallowed_special=())
    theirs = [both.tiktoken.encode_ordinary(unicodedata.normalize("NFC", text)) for text in TEXTS]
    assert first_difference(TEXTS, ours, theirs) is None
    decoded = [both.ours.decode(ids) for ids in ours]
    assert decoded == [both.tiktoken.decode(ids) for ids in theirs]


def test_equal_to_tokenizers(both):
    ours = both.ours.encode_batch(TEXTS, disallowed_special=())
    theirs = [both.fast.encode(text).ids for text in TEXTS]
    assert first_difference(TEXTS, ours, theirs) is None


def test_one_long_text(both):
    text = "".join(TEXTS)
    ids = both.ours.encode(text, disallowed_special=())
    assert ids == both.tiktoken.encode_ordinary(unicodedata.normalize("NFC", text))
    assert ids == both.fast.encode(text).ids


def test_control_tokens(both):
    rng = random.Random(2)
    names = [*both.ours.special_tokens, "<|im_", "|>", "\u0338", "<|endoftext", "<", " "]
    texts = [
        "".join(part + rng.choice(names) for part in random_texts(4, seed)) for seed in range(2000)
    ]
    ours = both.ours.encode_batch(texts, allowed_special="all")
    normal = [unicodedata.normalize("NFC", text) for text in texts]
    theirs = [both.tiktoken.encode(text, allowed_special="all") for text in normal]
    assert first_difference(texts, ours, theirs) is None
    assert first_difference(texts, ours, [both.fast.encode(text).ids for text in texts]) is None
    names = set(both.ours.special_tokens)
    for allowed in ({"<|im_end|>"}, {"<|im_start|>", "<|endoftext|>"}, set()):
        options = {"allowed_special": allowed, "disallowed_special": ()}
        theirs = [both.tiktoken.encode(text, **options) for text in normal]
        assert first_difference(texts, both.ours.encode_batch(texts, **options), theirs) is None
        for text in normal[:300]:
            refused = any(name in text for name in names - allowed)
            for encode in (both.ours.encode, both.tiktoken.encode):
                if refused:
                    with pytest.raises(ValueError, match="allowed_special"):
                        encode(text, allowed_special=allowed)
                else:
                    encode(text, allowed_special=allowed)


def test_surrogates(both):
    rng = random.Random(3)
    parts = ["\ud83d", "\udc4d", "\ud83d\udc4d", "a", " ", "你", "\udfff"]
    texts = ["".join(rng.choices(parts, k=rng.randrange(8))) for _ in range(2000)]
    ours = both.ours.encode_batch(texts)
    assert first_difference(texts, ours, map(both.tiktoken.encode, texts)) is None


@pytest.mark.parametrize("unit", [" ", "\n", " \n", "\u3000", "7", "a", "!", "中", "ab ", "\u0301"])
def test_100_000_of_one_thing(both, unit):
    text = unit * (100_000 // len(unit))
    ids = both.ours.encode(text)
    assert ids == both.fast.encode(text).ids
    assert ids == both.tiktoken.encode_ordinary(unicodedata.normalize("NFC", text))


def test_split_alone(both):
    tool = tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN_PATTERN), "isolated")
    theirs = [[piece for piece, _ in tool.pre_tokenize_str(text)] for text in TEXTS]
    assert first_difference(TEXTS, map(split, TEXTS), theirs) is None


def test_the_other_forms_give_the_same(both, tmp_path):
    both.fast.model.save(str(tmp_path))  # vocab.json and merges.txt, as the package writes them
    assert sorted(file.name for file in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert len(lines) == both.ours.n_regular - 256  # 151,387 for Qwen
    assert Tokenizer.from_pretrained(tmp_path).ranks == both.ours.ranks
    both.fast.save(str(tmp_path / "tokenizer.json"))
    read = Tokenizer.from_pretrained(tmp_path)
    assert read.ranks == both.ours.ranks
    assert read.special_tokens == both.ours.special_tokens


def test_what_tokenizers_trained_is_read(tmp_path):
    """Control tokens first, bytes in another order: the ids are those of the file all the same."""
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.normalizer = tokenizers.normalizers.NFC()
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN_PATTERN), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([*real_lines()], trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_pretrained(tmp_path)
    assert ours.special_tokens == {"<|endoftext|>": 0}
    got = ours.encode_batch(TEXTS, disallowed_special=())
    assert first_difference(TEXTS, got, [theirs.encode(text).ids for text in TEXTS]) is None


def test_training_compresses_like_tokenizers(tmp_path):
    """Only ties may differ, so the counts of tokens are all but equal."""
    text = "".join(real_lines())
    ours = bpe_train(text, merges=1000)
    tool = tokenizers.Tokenizer(tokenizers.models.BPE())
    tool.pre_tokenizer = tokenizers.Tokenizer.from_file(
        str(ours.save_pretrained(tmp_path))
    ).pre_tokenizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1256,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tool.train_from_iterator([text], trainer)
    lengths = len(ours.encode(text, disallowed_special=())), len(tool.encode(text).ids)
    assert abs(lengths[0] / lengths[1] - 1) < 0.001


def test_transformers_reads_what_is_saved(both, tmp_path):
    transformers = pytest.importorskip("transformers")
    path = both.ours.save_pretrained(tmp_path)
    loaded = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    text = "Hello 你好 cafe\u0301<|im_end|>\n\n  123"
    assert loaded(text)["input_ids"] == both.ours.encode(text, allowed_special="all")

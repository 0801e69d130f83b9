"""The tokenizer: training from every source, round trips, steps, threads, errors."""

import pickle
import random
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest

from minqwen.tokenizer.bpe import Tokenizer, bpe_train, bpe_train_steps

TEXT = (
    "The quick brown fox jumps over the lazy dog. 敏捷的棕色狐狸跳过了懒狗。\n"
    "def f(x):\n\treturn x + 1  # 2024\r\n\r\nÜber café, naïve 👍🏽 👩‍🚀 שלום мир\u3000"
) * 3
TOKENIZER = bpe_train(TEXT, vocab_size=256 + 60 + 3)


def random_text(rng):
    kinds = (
        lambda: rng.choice(TEXT),
        lambda: chr(rng.randrange(128)),
        lambda: chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))),
        lambda: rng.choice("e\u0301 \t\r\n\u0308\u200d\ufe0f\u3000\ufeff\0"),
    )
    return "".join(rng.choice(kinds)() for _ in range(rng.randrange(30)))


def test_round_trip_is_nfc():
    rng = random.Random(0)
    off = bpe_train(TEXT, merges=60, normalize=False)
    assert TOKENIZER.decode(TOKENIZER.encode(TEXT)) == unicodedata.normalize("NFC", TEXT)
    for _ in range(1000):
        text = random_text(rng)
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == unicodedata.normalize("NFC", text)
        assert off.decode(off.encode(text)) == text


def test_two_ways_to_write_a_letter_are_one():
    assert TOKENIZER.encode("cafe\u0301") == TOKENIZER.encode("café")
    off = bpe_train("", merges=0, normalize=False)
    assert off.encode("e\u0301") == list("e\u0301".encode())


def test_surrogates_never_raise():
    assert TOKENIZER.encode("\ud83d\udc4d") == TOKENIZER.encode("👍")
    assert TOKENIZER.encode("\ud83d") == TOKENIZER.encode("\ufffd")
    assert bpe_train("a\ud83d" * 5, merges=1).vocab_size == 260


def test_decode_joins_bytes_first():
    assert bpe_train("", merges=0).decode("根".encode()) == "根"
    assert bpe_train("", merges=0).decode_bytes([0xE6, 0x00]) == b"\xe6\x00"


def test_decode_errors_argument():
    broken = [97, 0xE6, 98]
    assert TOKENIZER.decode(broken) == "a�b"
    assert TOKENIZER.decode(broken, errors="ignore") == "ab"
    with pytest.raises(UnicodeDecodeError):
        TOKENIZER.decode(broken, errors="strict")


def test_sizes_and_single_tokens():
    assert TOKENIZER.vocab_size == 319
    assert TOKENIZER.n_regular == 316
    assert TOKENIZER.special_tokens == {
        "<|endoftext|>": 316,
        "<|im_start|>": 317,
        "<|im_end|>": 318,
    }
    for token_id in range(316):
        assert TOKENIZER.id_of(TOKENIZER.token_bytes(token_id)) == token_id
    assert TOKENIZER.token_bytes(318) == b"<|im_end|>"
    assert TOKENIZER.id_of("<|im_end|>") == 318
    assert TOKENIZER.decode([316]) == "<|endoftext|>"
    with pytest.raises(ValueError, match="'nonsense' is not one token"):
        TOKENIZER.id_of("nonsense")


def test_sources_give_the_same_tokenizer(tmp_path):
    first, second = tmp_path / "1.txt", tmp_path / "2.txt"
    first.write_bytes("你好 hello\r\n".encode())
    second.write_bytes(b"hello world")
    want = bpe_train(["你好 hello\r\n", "hello world"], merges=9).ranks
    assert bpe_train([first, second], merges=9).ranks == want
    assert bpe_train([first, "hello world"], merges=9).ranks == want
    assert bpe_train((text for text in ("你好 hello\r\n", "hello world")), merges=9).ranks == want
    assert bpe_train(second, merges=3).ranks == bpe_train("hello world", merges=3).ranks
    assert (
        bpe_train(str(second), merges=1).ranks != bpe_train(second, merges=1).ranks
    )  # str is text


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        bpe_train(path, merges=1)
    with pytest.raises(FileNotFoundError):
        bpe_train(tmp_path / "missing.txt", merges=1)


@pytest.mark.parametrize("source", [b"bytes", 5, [b"bytes"], [["nested"]]])
def test_a_source_of_another_kind_is_refused(source):
    with pytest.raises(TypeError, match="source must"):
        bpe_train(source, merges=1)


def test_running_out_of_pairs_is_said():
    with pytest.warns(UserWarning, match="no pair left after 2 of 7 merges: vocab_size is 261"):
        tokenizer = bpe_train("abc", vocab_size=266)
    assert tokenizer.encode("abc") == [257]
    with pytest.warns(UserWarning, match="after 0 of 1 merges"):
        assert bpe_train("", merges=1).vocab_size == 259


def test_vocab_size_must_hold_bytes_and_control_tokens():
    assert bpe_train("aa", vocab_size=259).n_regular == 256
    for size in (0, 258, -1, 10_000_000):
        with pytest.raises(ValueError, match=f"from 259 to 1000259, got {size}"):
            bpe_train("aa", vocab_size=size)
    with pytest.raises(TypeError, match="either vocab_size or merges"):
        bpe_train("aa")
    with pytest.raises(TypeError, match="either vocab_size or merges"):
        bpe_train("aa", 300, merges=1)


def test_control_tokens_in_the_text_are_not_learned():
    text = "ab<|endoftext|>ab<|im_end|>c"
    assert bpe_train(text, merges=1).ranks == bpe_train(["ab", "ab", "c"], merges=1).ranks
    with pytest.warns(UserWarning, match="after 1 of 9"):
        bpe_train(text, merges=9)


def test_control_tokens_must_be_different_names():
    for names in (["a", "a"], [""]):
        with pytest.raises(ValueError, match="must be different names"):
            bpe_train("", merges=0, special_tokens=names)
    with pytest.raises(TypeError, match="must be a sequence of names"):
        bpe_train("", merges=0, special_tokens="<|a|>")


def test_digits_are_never_merged():
    tokenizer = bpe_train("2024 2024 2024 1999 ", merges=0)
    assert tokenizer.encode("2024") == list(b"2024")
    with pytest.warns(UserWarning, match="after 0 of 5"):
        bpe_train("2024 " * 9, merges=5)


def test_progress_counts_every_merge():
    seen = []
    bpe_train("aaabdaaabac", merges=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_training_twice_gives_the_same():
    assert bpe_train(TEXT, merges=50).ranks == bpe_train(TEXT, merges=50).ranks


def test_steps_agree_with_training_and_encoding():
    ranks = bpe_train(TEXT, merges=40).ranks
    for step, _ in zip(bpe_train_steps(TEXT), range(40), strict=False):
        assert ranks[b"".join(step.pair)] == step.rank
    pretokens = []
    for step in TOKENIZER.merge_steps(TEXT):
        if step.pair is None:  # a new pre-token begins
            pretokens.append([])
        pretokens[-1] = [TOKENIZER.id_of(piece) for piece in step.pieces]
    assert [i for ids in pretokens for i in ids] == TOKENIZER.encode(TEXT)


def test_batch():
    assert TOKENIZER.encode_batch(["a", "", "敏捷"]) == [[97], [], TOKENIZER.encode("敏捷")]
    assert TOKENIZER.encode_batch(["<|im_end|>"], allowed_special="all") == [[318]]
    with pytest.raises(TypeError, match="got one str"):
        TOKENIZER.encode_batch("abc")


@pytest.mark.parametrize("text", [None, b"a", 5, ["a"]])
def test_encode_takes_str_only(text):
    with pytest.raises(TypeError, match="text must be a str"):
        TOKENIZER.encode(text)


@pytest.mark.parametrize("token_id", [-1, 319, 151_935])
def test_ids_without_a_token_are_named(token_id):
    with pytest.raises(ValueError, match=f"id {token_id} has no token: .* 0 to 318"):
        TOKENIZER.decode([97, token_id])
    with pytest.raises(ValueError, match=f"id {token_id} has no token"):
        TOKENIZER.token_bytes(token_id)


def test_ids_must_be_flat():
    for ids in (5, [[97]]):
        with pytest.raises(TypeError, match="flat sequence of integers"):
            TOKENIZER.decode(ids)


def test_ids_may_be_numpy_integers():
    np = pytest.importorskip("numpy")
    assert TOKENIZER.decode(np.array([97, 98], np.int32)) == "ab"


def test_tokenizer_refuses_a_vocabulary_with_holes():
    with pytest.raises(ValueError, match="no id for the single byte 0x00"):
        Tokenizer({b"a": 0}, {})
    with pytest.raises(ValueError, match="the same id to two tokens"):
        Tokenizer({bytes([b]): b for b in range(256)}, {"<|a|>": 255})


def test_known_pretokens_stay_within_bounds(monkeypatch):
    tokenizer = bpe_train(TEXT, merges=60)
    known = tokenizer._known
    monkeypatch.setattr(type(known), "limit", 10)
    want = TOKENIZER.encode(TEXT)
    for _ in range(3):
        assert tokenizer.encode(TEXT + "a" * 1000) == want + [97] * 1000
        assert len(known) <= 10
        assert max(map(len, known)) <= 64


def test_threads_get_the_same_ids(monkeypatch):
    tokenizer = bpe_train(TEXT, merges=60)
    monkeypatch.setattr(type(tokenizer._known), "limit", 5)  # emptied all the time
    rng = random.Random(0)
    texts = [random_text(rng) for _ in range(400)]
    want = [TOKENIZER.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == want


def test_pickle():
    copy = pickle.loads(pickle.dumps(TOKENIZER))
    assert copy.encode(TEXT + "new words") == TOKENIZER.encode(TEXT + "new words")


def test_another_pattern():
    tokenizer = bpe_train("2024 2024", merges=3, pattern=r"\d+")
    assert tokenizer.encode("2024 x") == [258, *b" x"]

"""The pages to play with say what the package says: run in headless Chromium and compared."""

from __future__ import annotations

import contextlib
import io
import json
import re
import unicodedata
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts import load_script

from minqwen.layers.attention import attention_forward, causal_mask, padding_mask
from minqwen.layers.block_attention import block_attention_forward
from minqwen.layers.load_balancing_loss import (
    count_choices,
    load_balancing_loss_backward,
    load_balancing_loss_forward,
)
from minqwen.layers.moe_router import moe_router_forward
from minqwen.layers.rope import rope_forward, rope_inv_freq, rope_tables
from minqwen.long_context.window import window_mask
from minqwen.tokenizer.bpe import Tokenizer, bpe_train_steps
from minqwen.tokenizer.pretokenizer import clean, split

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "play"
NAMES = ("rope", "attention", "bpe", "moe")
pytestmark = pytest.mark.site
each_page = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The pages that stand alone, in a folder."""
    module = load_script(ROOT / "docs" / "_ext" / "play.py")
    folder = tmp_path_factory.mktemp("play")
    assert {path.name for path in module.write(folder)} == {"index.html"} | {
        f"{name}.html" for name in NAMES
    }
    return folder


@pytest.fixture(scope="module")
def opened(browser, made):
    """Open a page in a window of its own; at the end nothing may have gone wrong in any."""
    contexts, wrong, asked = [], [], []

    def open_page(name, width=1000, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"{name}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"{name}: {error}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((made / f"{name}.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


@pytest.fixture(scope="module")
def pages(opened):
    return {name: opened(name) for name in NAMES}


def answers(page, name, inputs, result):
    """Set the controls to each of the inputs, and return what the page then says."""
    return page.evaluate(
        "([name, inputs]) => { const page = window.minqwenPlay[name]; return inputs.map((one) => {"
        f" page.set(one); const last = page.last; return {result}; }}); }}",
        [name, inputs],
    )


def shown(part):
    """JavaScript for the numbers in a part of the page: the text, and the exact value behind it."""
    return (
        f"[...page.find('{part}').querySelectorAll('[data-value]')]"
        ".map((node) => [node.textContent, Number(node.dataset.value)])"
    )


def check_shown(pairs, wanted):
    """The values are ours to 1e-9, and the texts are the values, rounded."""
    np.testing.assert_allclose([value for _, value in pairs], wanted, rtol=1e-9, atol=1e-9)
    for text, value in pairs:
        digits = len(text.partition(".")[2])
        assert abs(float(text.replace("\u2212", "-")) - value) <= 0.5000001 * 10**-digits, text


# RoPE


def turned(x, position, base, layout):
    """Our RoPE; neighbours are laid out as halves before it, and back after it."""
    order = np.arange(len(x)) if layout == "halves" else np.r_[0 : len(x) : 2, 1 : len(x) : 2]
    inv_freq = rope_inv_freq(len(x), base, "float64")
    tables = rope_tables(np.array([position]), inv_freq)
    y = np.empty(len(x))
    y[order] = rope_forward(x[order][None, None, None], *tables)[0][0, 0, 0]
    return y


def test_rope(pages):
    rng = np.random.default_rng(0)
    layouts = ("halves", "neighbours", "mixed")
    inputs = [
        {
            "seed": seed,
            "m": int(rng.integers(201)),
            "n": int(rng.integers(201)),
            "log_base": float(rng.choice(np.arange(1, 7.25, 0.25))),
            "pair": int(rng.integers(4)),
            "layout": layouts[seed % 3],
        }
        for seed in range(48)
    ]
    found = answers(pages["rope"], "rope", inputs, f"({{...last, shown: {shown('scores')}}})")
    for one, page in zip(inputs, found, strict=True):
        q, k = np.array(page["q"]), np.array(page["k"])
        np.testing.assert_allclose(page["base"], 10 ** one["log_base"], rtol=1e-12)
        np.testing.assert_allclose(
            page["frequency"], rope_inv_freq(8, page["base"], "float64"), rtol=1e-12
        )
        of_q = "neighbours" if one["layout"] == "neighbours" else "halves"
        of_k = "halves" if one["layout"] == "halves" else "neighbours"
        both = {
            by: (
                turned(q, one["m"] + by, page["base"], of_q),
                turned(k, one["n"] + by, page["base"], of_k),
            )
            for by in (0, 1, 10, 100)
        }
        np.testing.assert_allclose(page["turned"]["q"], both[0][0], atol=1e-9)
        np.testing.assert_allclose(page["turned"]["k"], both[0][1], atol=1e-9)
        check_shown(page["shown"], [a @ b for a, b in both.values()])
        assert (np.ptp(page["scores"]) < 1e-9) == (one["layout"] != "mixed")


# Attention


def test_attention(pages):
    rng = np.random.default_rng(1)
    inputs = []
    for seed in range(48):
        T, cached = int(rng.integers(1, 9)), int(rng.integers(0, 7))
        log_heads = int(rng.integers(0, 4))
        inputs.append(
            {
                "seed": seed,
                "T": T,
                "cached": cached,
                "window": int(rng.integers(1, 15)),
                "padding": int(rng.integers(0, T + cached)) if seed % 2 else 0,
                "log_H": log_heads,
                "log_Hkv": int(rng.integers(0, log_heads + 1)),
                "head": int(rng.integers(0, 2**log_heads)),
                "show": "probs",
            }
        )
    result = f"({{...last, cells: {shown('cells')}, out_row: {shown('out')}, sum: {shown('sum')}}})"
    found = answers(pages["attention"], "attention", inputs, result)
    blind = 0
    for one, page in zip(inputs, found, strict=True):
        q, k, v = (np.array(page[name])[None] for name in "qkv")
        T, S = one["T"], one["T"] + one["cached"]
        assert q.shape == (1, 2 ** one["log_H"], T, 4)
        assert k.shape == v.shape == (1, 2 ** one["log_Hkv"], S, 4)
        real = np.arange(S)[None] >= one["padding"]
        mask = window_mask(T, S, one["window"]) & padding_mask(real)
        assert one["window"] < S or (mask == (causal_mask(T, S) & real)).all()
        assert (np.array(page["mask"]) == mask[0]).all(), one

        out, cache = attention_forward(q, k, v, mask)
        probs = cache.probs.reshape(q.shape[1], T, S)
        np.testing.assert_allclose(page["probs"], probs, atol=1e-9)
        np.testing.assert_allclose(page["out"], out[0], atol=1e-9)
        as_in_the_model, _ = block_attention_forward(q, k, v, real, window=one["window"])
        np.testing.assert_allclose(page["out"], as_in_the_model[0], atol=1e-9)

        head, (i, j) = one["head"], page["cell"]
        wanted = np.where(mask[0], probs[head], 0)
        np.testing.assert_allclose([x for _, x in page["cells"]], wanted.ravel(), atol=1e-9)
        check_shown(page["out_row"], out[0, head, i])
        group = q.shape[1] // k.shape[1]
        dot = q[0, head, i] @ k[0, head // group, j]
        check_shown(page["sum"], [dot, dot / 2, probs[head, i, j]])
        blind += (~mask[0].any(axis=1)).sum()
    assert blind, "no row saw nothing: the case is not tested"


# Byte-pair encoding

ALPHABETS = (
    "ab",
    "abcd  \n'st",
    "你好们我，。！ ",
    "aé\u0301eE\u0308 한글ㅎ",
    "12 3٣½x_-\t\r\n",
    "👍🏽👩‍🚀 ß'ſ'S\u00a0\u2028",
)


def some_text(rng, alphabet, length):
    return "".join(alphabet[i] for i in rng.integers(len(alphabet), size=length))


def test_bpe(pages):
    rng = np.random.default_rng(2)
    inputs = [
        {
            "text": some_text(rng, alphabet, int(rng.integers(0, 120))),
            "other": some_text(rng, alphabet, 40),
            "step": int(rng.integers(0, 40)),
            "applied": 10_000,
        }
        for alphabet in ALPHABETS * 8
    ]
    codes = "((token) => [...token].map((c) => c.charCodeAt(0)))"
    result = (
        "({text: last.text, other: last.other, step: last.step, ids: last.ids,"
        f" merges: last.merges.map((m) => [{codes}(m.left), {codes}(m.right), m.rank, m.count]),"
        f" words: last.words.map((word) => word.map({codes})),"
        f" pairs: last.pairs.map((p) => [{codes}(p.left), {codes}(p.right), p.count]),"
        f" shown: {shown('pairs')}, printed: page.find('ids').textContent}})"
    )
    found = answers(pages["bpe"], "bpe", inputs, result)
    steps = 0
    for page in found:  # a text area turns \r\n into \n; what the page has is what counts
        learned = list(islice(bpe_train_steps(page["text"]), page["step"]))
        assert [[*map(list, s.pair), s.rank, s.frequency] for s in learned] == page["merges"]
        words = (
            learned[-1].pieces
            if learned
            else [[bytes([b]) for b in piece.encode()] for piece in split(clean(page["text"]))]
        )
        assert [[list(token) for token in word] for word in words] == page["words"]
        ranks = {bytes([byte]): byte for byte in range(256)}
        ranks |= {b"".join(s.pair): s.rank for s in learned}
        counts = Counter(pair for word in words for pair in pairwise(word))
        rule = sorted(counts, key=lambda p: (-counts[p], ranks[p[0]], ranks[p[1]]))
        assert page["pairs"] == [[*map(list, pair), counts[pair]] for pair in rule]
        check_shown(page["shown"], [counts[pair] for pair in rule[:10]])
        assert Tokenizer(ranks, {}).encode(page["other"]) == page["ids"]
        assert json.loads(page["printed"]) == page["ids"]
        steps += page["step"]
    assert steps > 300


def test_bpe_to_the_last_merge(pages):
    texts = ["aaabdaaabac", "low lower lowest 你好你们", "abcabcabc bcabca"]
    result = "page.learn(one.text).steps.map((s) => [s.rank, s.count])"
    found = answers(pages["bpe"], "bpe", [{"text": text} for text in texts], result)
    for text, steps in zip(texts, found, strict=True):
        assert steps == [[s.rank, s.frequency] for s in bpe_train_steps(text)]


def test_encoding_steps(pages):
    rng = np.random.default_rng(3)
    inputs = [{"text": some_text(rng, a, 90), "other": some_text(rng, a, 20)} for a in ALPHABETS]
    result = (
        "page.encodeSteps(one.other, page.ranksOf(page.learn(one.text, 20).steps)).flatMap("
        "(states) => states.map((s) => [s.rank, s.pieces.map((t) => t.length)]))"
    )
    for one, states in zip(inputs, answers(pages["bpe"], "bpe", inputs, result), strict=True):
        ranks = {bytes([byte]): byte for byte in range(256)}
        ranks |= {b"".join(s.pair): s.rank for s in islice(bpe_train_steps(one["text"]), 20)}
        ours = Tokenizer(ranks, {}).merge_steps(one["other"])
        assert states == [[s.rank, [len(piece) for piece in s.pieces]] for s in ours]


def test_pretokens(pages):
    """Letters, digits and white space are the same sets; of the 120,000 like 好, every 16th."""
    skipped = {"Cn": 0, "Co": 0, "Cs": 0, "Lo": 16}  # not of this Unicode, private, halves
    steps = {c: skipped.get(unicodedata.category(c), 1) for c in map(chr, range(0x110000))}
    characters = [c for c, step in steps.items() if step and ord(c) % step == 0]
    assert "\ufeff" in characters  # white space in JavaScript's \s only
    text = "\n".join(f"a{c}1{c} {c}" for c in characters)
    pieces = pages["bpe"].evaluate("(t) => JSON.stringify(minqwenPlay.bpe.split(t))", text)
    assert json.loads(pieces) == split(clean(text))
    for text in ("it'ſ a'ſb", "I'VE we'Ll HE'D", "a'K'sx", "  \u0085\x1c\ufeff\u3000a \n  b"):
        assert pages["bpe"].evaluate("(t) => minqwenPlay.bpe.split(t)", text) == split(text)
    halves = "(() => window.minqwenPlay.bpe.split('a\\ud83d b\\udc4d\\ud83d\\udc4d'))()"
    assert pages["bpe"].evaluate(halves) == split(clean("a\ud83d b\udc4d\ud83d\udc4d"))


# Experts


def test_moe(pages):
    rng = np.random.default_rng(4)
    inputs = []
    for seed in range(40):
        E = int(rng.integers(2, 9))
        inputs.append(
            {
                "seed": seed,
                "N": int(rng.integers(1, 81)),
                "E": E,
                "K": int(rng.integers(1, E + 1)),
                "sharp": float(rng.integers(0, 17)) / 4,
                "shift": float(rng.integers(0, 13)) / 4,
                "norm": bool(seed % 2),
                "token": 0,
            }
        )
    result = f"({{...last, load_shown: {shown('load')}, losses_shown: {shown('losses')}}})"
    for one, page in zip(inputs, answers(pages["moe"], "moe", inputs, result), strict=True):
        x, w = (np.array(page[name], np.float64) for name in "xw")
        assert (x.shape, w.shape) == ((one["N"], 2), (one["E"], 2))
        check_routing(page, one, *moe_router_forward(x, w, one["K"], one["norm"]))


def check_routing(page, one, weights, ids, cache):
    np.testing.assert_allclose(page["logits"], cache.router_logits, atol=1e-9)
    assert page["ids"] == ids.tolist()
    np.testing.assert_allclose(page["weights"], weights, atol=1e-9)
    N, E, K = one["N"], one["E"], one["K"]
    load = count_choices(ids, E)
    P = cache.router_probs.mean(axis=0)
    table = np.stack([load, load / (N * K), load / N, P], axis=1)
    check_shown(page["load_shown"], table.ravel())
    losses = [
        load_balancing_loss_forward(cache.router_logits, ids, f_sums_to_k=of_tokens)[0]
        for of_tokens in (False, True)
    ]
    check_shown(page["losses_shown"], [*losses, load.max() / (N * K / E)])


def test_moe_with_logits_by_hand(pages):
    one = {"seed": 7, "N": 9, "E": 5, "K": 2, "sharp": 1, "shift": 0, "norm": False, "token": 3}
    answers(pages["moe"], "moe", [one], "0")
    moved = [[1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 2.5, 2.5, -3.0, 0.1], [-8.0, 8.0, 3.0, 3.0, 3.0]]
    for token, z in enumerate(moved):
        pages["moe"].evaluate("([n, z]) => window.minqwenPlay.moe.move(n, z)", [token, z])
    result = f"({{...last, load_shown: {shown('load')}, losses_shown: {shown('losses')}}})"
    [page] = answers(pages["moe"], "moe", [{"token": 1}], result)
    assert page["logits"][:3] == moved
    assert page["ids"][:3] == [[0, 1], [1, 2], [1, 2]]  # of equals the lower number
    check_routing(
        page, one, *moe_router_forward(np.array(page["logits"], np.float64), np.eye(5), 2)
    )


def test_walk_down_the_balance_loss(pages):
    one = {"seed": 1, "N": 80, "E": 8, "K": 2, "sharp": 2, "shift": 3, "norm": False}
    [page] = answers(pages["moe"], "moe", [one], "last")
    (x, w), losses = (np.array(page[name], np.float64) for name in "xw"), []
    for _ in range(21):
        _, ids, cache = moe_router_forward(x, w, 2)
        loss, loss_cache = load_balancing_loss_forward(cache.router_logits, ids)
        losses.append(float(loss))
        last, w = w, w - load_balancing_loss_backward(1.0, loss_cache).T @ x
    walk = "() => { const p = minqwenPlay.moe; p.walk(3); p.walk(17); return p.last }"
    after = pages["moe"].evaluate(walk)
    np.testing.assert_allclose(after["w"], last, atol=1e-6)
    np.testing.assert_allclose(after["lossOfChoices"], losses[-1], atol=1e-6)
    assert losses[-1] < losses[0] - 0.2, "the page says that the loss falls"
    assert max(after["loads"]) < max(page["loads"])
    pages["moe"].click("[data-walk='0']")
    assert pages["moe"].evaluate("minqwenPlay.moe.last.w") == page["w"]


# The Python that the pages print


def run(code):
    names = {"__name__": "snippet"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "snippet", "exec"), names)
    assert printed.getvalue().strip()
    return names


@pytest.mark.parametrize("layout", ["halves", "neighbours", "mixed"])
def test_snippet_of_rope(pages, layout):
    [(code, score)] = answers(
        pages["rope"],
        "rope",
        [{"seed": 9, "m": 33, "n": 5, "log_base": 4.25, "layout": layout}],
        "[page.find('python').textContent, last.score]",
    )
    np.testing.assert_allclose(run(code)["score"], score, atol=1e-9)


@pytest.mark.parametrize("padding", [0, 3])
def test_snippet_of_attention(pages, padding):
    [(code, probs, out)] = answers(
        pages["attention"],
        "attention",
        [{"T": 4, "cached": 2, "window": 3, "padding": padding, "log_H": 2, "log_Hkv": 1}],
        "[page.find('python').textContent, last.probs, last.out]",
    )
    names = run(code)
    np.testing.assert_allclose(names["probs"], probs, atol=1e-9)
    np.testing.assert_allclose(names["out"][0], out, atol=1e-9)


def test_snippet_of_bpe(pages):
    strange = 'a "quoted" \\back\n你好\u00a0👍\u200d{x}\u2028é'
    inputs = [
        {"text": "low lower 你好你们", "other": "lowest 你们好", "step": 6},
        {"text": strange * 2, "other": strange, "step": 12},
    ]
    for code, ids in answers(
        pages["bpe"], "bpe", inputs, "[page.find('python').textContent, last.ids]"
    ):
        assert run(code)["ids"] == ids


@pytest.mark.parametrize("by_hand", [False, True])
def test_snippet_of_moe(pages, by_hand):
    page = pages["moe"]
    answers(page, "moe", [{"seed": 2, "N": 12, "E": 4, "K": 3, "norm": True}], "0")
    if by_hand:
        page.evaluate("minqwenPlay.moe.move(2, [0, 0, 5, 0])")
    code, last = page.evaluate(
        "(() => { const p = minqwenPlay.moe; return [p.find('python').textContent, p.last]; })()"
    )
    names = run(code)
    assert names["load"].tolist() == last["loads"]
    assert ("np.eye" in code) == by_hand
    np.testing.assert_allclose(names["switch"], last["lossOfChoices"], atol=1e-9)
    np.testing.assert_allclose(names["pooled"], last["lossOfTokens"], atol=1e-9)
    np.testing.assert_allclose(names["weights"], last["weights"], atol=1e-9)


# By hand: keys, clicks, language, narrow windows


def test_keys_and_buttons_on_rope(opened):
    page = opened("rope")
    cells = page.locator("[data-part=scores] tr")
    before = cells.nth(0).inner_text().split()[-1]
    page.focus("[name=m]")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("minqwenPlay.rope.last.m") == 13
    assert cells.nth(0).inner_text().split()[-1] != before
    page.focus("[name=n]")
    page.keyboard.press("ArrowRight")
    assert cells.nth(0).inner_text().split()[-1] == before  # the distance is as before
    page.click("[data-move='10']")
    assert page.evaluate("[minqwenPlay.rope.last.m, minqwenPlay.rope.last.n]") == [23, 18]
    assert cells.nth(0).inner_text().split()[-1] == before
    page.click("[data-move='-10']")
    page.click("[data-move='-10']")  # stops where one of them is at 0, the distance is kept
    assert page.evaluate("[minqwenPlay.rope.last.m, minqwenPlay.rope.last.n]") == [5, 0]
    page.focus("[data-pair='3']")
    page.keyboard.press("Enter")
    assert page.evaluate(
        "[minqwenPlay.rope.state().pair, document.activeElement.dataset.pair]"
    ) == [
        3,
        "3",
    ]
    page.select_option("[name=layout]", "mixed")
    assert page.get_attribute("[data-part=status]", "data-equal") == "false"


def test_keys_in_the_cells_of_attention(opened):
    page = opened("attention")
    page.click("[data-cell='0,1']")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate("minqwenPlay.attention.last.cell") == [2, 2]
    assert page.evaluate("document.activeElement.dataset.cell") == "2,2"
    for _ in range(20):
        page.keyboard.press("ArrowUp")
    assert page.evaluate("minqwenPlay.attention.last.cell") == [0, 2]
    assert page.locator("[data-part=cells] [tabindex='0']").count() == 1  # one stop of the tab key
    page.click("[data-cell='0,6']")
    assert "comes after" in page.inner_text("[data-part=why]")


def test_merging_step_by_step(opened):
    page = opened("bpe")
    page.fill("[name=text]", "aaabdaaabac")
    page.click("[data-go='-1000']")
    assert page.locator("[data-part=pieces] .play-token").count() == 11
    for rank, tokens in ((256, 9), (257, 7), (258, 5)):
        page.click("[data-go='1']")
        assert page.locator("[data-part=pieces] .play-token").count() == tokens
        assert f"became token {rank}" in page.inner_text("[data-part=status]")
    page.click("[data-go='-1']")
    assert page.locator("[data-part=pieces] .play-token").count() == 7
    page.fill("[name=other]", "aaab")
    page.focus("[name=applied]")
    page.keyboard.press("Home")
    assert page.inner_text("[data-part=ids]") == "[97, 97, 97, 98]"
    page.keyboard.press("End")
    assert page.inner_text("[data-part=ids]") == "[256, 257]"
    page.fill("[name=text]", "")  # nothing to learn from
    assert page.inner_text("[data-part=ids]") == "[97, 97, 97, 98]"


def test_logits_by_keyboard(opened):
    page = opened("moe")
    page.focus("[data-logit='3']")
    page.keyboard.press("End")
    last = page.evaluate("minqwenPlay.moe.last")
    assert last["ids"][0][0] == 3
    assert last["logits"][0][3] == 8
    assert page.evaluate("document.activeElement.dataset.logit") == "3"
    page.click("[data-reset]")
    assert page.evaluate("minqwenPlay.moe.last.logits[0][3]") != 8
    page.locator("[data-part=cloud] [data-token='5']").dispatch_event("click")
    assert page.evaluate("minqwenPlay.moe.last.token") == 5


@each_page
def test_every_button_of_try_shows_something(opened, name):
    page = opened(name)
    for button in page.locator("[data-set]").all():
        wanted = json.loads(button.get_attribute("data-set"))
        button.click()
        state = page.evaluate(f"minqwenPlay.{name}.state()")
        ends = {"applied", "step"}  # these stop at the last merge
        assert {key: state[key] for key in wanted.keys() - ends} == {
            key: value for key, value in wanted.items() if key not in ends
        }
    seed = page.evaluate(f"minqwenPlay.{name}.state().seed")
    if seed is not None:
        page.click("[data-seed]")
        assert page.evaluate(f"minqwenPlay.{name}.state().seed") == seed + 1


ENGLISH = {
    "English",
    "RoPE",
    "Qwen",
    "Switch",
    "transformers",
    "base",
    "softmax",
    "logit",
    "logits",
}
ENGLISH |= {"norm", "topk", "prob", "sums", "True", "aaabdaaabac"}
ENGLISH |= {"lowest", "lower", "newer", "newest", "slowest"}


@each_page
def test_chinese(opened, name):
    page = opened(name, locale="zh-CN")
    english = page.inner_text(".play")
    page.click("[data-language=zh]")
    chinese = page.inner_text(".play")
    assert page.get_attribute("[data-language=zh]", "aria-pressed") == "true"
    # what is left of English is names, examples, and the Python at the end
    left = set(re.findall("[A-Za-z]{4,}", chinese.split("用 Python 得到")[0]))
    assert left <= ENGLISH, left - ENGLISH
    page.reload()  # it is remembered
    assert page.inner_text(".play") == chinese != english


@each_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(opened, name, scheme):
    page = opened(name, width=360, color_scheme=scheme)
    for language in ("en", "zh"):
        page.click(f"[data-language={language}]")
        for button in [None, *page.locator("[data-set]").all()]:
            if button:
                button.click()
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 360, f"{name} is {width} wide"
    small = page.evaluate(
        "[...document.querySelectorAll('.play :is(button, select, input[type=range])')]"
        ".filter((n) => n.offsetParent && n.getBoundingClientRect().height < 24)"
        ".map((n) => n.outerHTML)"
    )
    assert not small, "too small for a finger"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 22)"
    assert dark == (scheme == "dark")


@each_page
def test_controls_have_names(opened, name):
    page = opened(name)
    for language in ("en", "zh"):
        page.click(f"[data-language={language}]")
        unnamed = page.evaluate(
            "[...document.querySelectorAll('.play :is(input, select, textarea, button,"
            " [role=region], [role=group], [role=img])')].filter((n) => !(n.labels?.length"
            " ? [...n.labels].every((l) => l.innerText.trim()) : n.getAttribute('aria-label')"
            " || n.innerText?.trim())).map((n) => n.outerHTML.slice(0, 200))"
        )
        assert not unnamed


# Without a browser


@each_page
def test_each_english_text_has_a_chinese_one(name):
    text = (FOLDER / f"{name}.html").read_text(encoding="utf-8")
    languages = re.findall(r'<(?:p|span|small) lang="(en|zh-Hans)">', text)
    assert languages[::2] == ["en"] * (len(languages) // 2)
    assert languages[1::2] == ["zh-Hans"] * (len(languages) // 2)
    assert text.count("data-en=") == text.count("data-zh=")
    for en, zh in re.findall(
        r'lang="en">(.*?)</\w+>\s*<\w+ lang="zh-Hans">(.*?)</', text, re.DOTALL
    ):
        assert not re.search("[\u4e00-\u9fff]", re.sub("[好你]", "", en)), en
        assert re.search("[\u4e00-\u9fff]", zh), zh


@each_page
def test_nothing_comes_from_outside(made, name):
    text = (made / f"{name}.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z0-9./-]+", text))
    assert {a for a in addresses if "www.w3.org/2000/svg" not in a} == set()
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|importScripts|eval)\(|import\(|@import", text)


@each_page
def test_the_page_of_the_site(name):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert text.count(f"```{{play}} {name}\n```") == 1
    for path in re.findall(r"`((?:minqwen|notebooks)/[\w/.]+)`", text):
        assert (ROOT / path).is_file(), path

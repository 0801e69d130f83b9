# %% [markdown]
# # Sampling and generation
#
# *Made from `07_sampling_and_generation.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# A model does not write. It gives a number to each possible next token, and something else has to
# choose. The choice is a few lines of code, and they decide whether the same model is dull, lively
# or mad. Here you see all of them, with a language so small that its true probabilities are known.
#
# ## What you will do
#
# - Turn temperature, top-k and top-p with five tokens and fractions.
# - Draw from a staircase, and count whether the draws are fair.
# - Write the loop yourself: score, choose, append; stop at a token, stop at a word.
# - Write several texts at once, padded on the left, and break that in two ways.
# - Follow a punishment for repetition until it ruins the text.
# - Draw what each knob costs: how many mistakes for how much variety.
#
# ## What you will learn
#
# - Why temperature acts before the cuts, and why it matters.
# - Why the best token each time is not the best text.
# - What the published `generation_config.json` of Qwen2 asks for, field by field.
# - Why padding must be on the left, and why a stop word cannot be looked up among tokens.
#
# ## What you need
#
# Softmax; notebook 03 for the cache. NumPy with matplotlib. 20 minutes; it trains a small model for
# some seconds. Beside this page, open `minqwen/model/sampling.py` and `minqwen/model/generate.py`.

# %%
SOURCE = ".."  # where minqwen is: this checkout. On Colab or Kaggle: "git+https://..."
try:
    from minqwen import __version__
except ImportError:
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE, "matplotlib"], check=True)
    sys.modules.pop("minqwen", None)  # a folder of that name beside this is not it
    from minqwen import __version__
print("minqwen", __version__)

# %%
import os
import re
import tempfile
from fractions import Fraction
from pathlib import Path

# %%
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread only waits

import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(0)
folder = Path(tempfile.mkdtemp())
np.set_printoptions(precision=3, suppress=True)
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %%
from minqwen.check.gradients import numerical_gradient
from minqwen.data.packing import pack_documents
from minqwen.model.config import QwenConfig
from minqwen.model.generate import generate, left_pad
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward
from minqwen.model.sampling import keep_top_k, keep_top_p, sample
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.stop_strings import StopStrings
from minqwen.training.pretrain import PretrainSettings, pretrain

# %% [markdown]
# ## 1 Temperature
#
# Five drinks. Their scores are logarithms of 8, 4, 2, 1, 1, so their probabilities are these
# numbers over 16. A **temperature** τ divides the scores before softmax:
#
# $$p_v = \frac{e^{z_v / \tau}}{\sum_u e^{z_u / \tau}} \qquad\text{so } p_v \propto p_v^{1/\tau}$$
#
# With τ = 1/2 every probability is squared, and then all are divided by the new sum.

# %%
DRINKS = ("tea", "coffee", "milk", "water", "juice")
logits = np.log([8, 4, 2, 1, 1.0])


def as_fractions(numbers):
    """Return numbers as text, such as 1/2 or 2/3."""
    return "".join(f"{Fraction(float(x)).limit_denominator(200)!s:>8}" for x in numbers)


def tempered(z, tau):
    """Return softmax(z / tau)."""
    powers = np.exp((z - z.max()) / tau)
    return powers / powers.sum()


# %%
print("tau      ", "".join(f"{d:>8}" for d in DRINKS))
for tau in (1, 0.5, 1e6):
    print(f"{tau:9g}", as_fractions(tempered(logits, tau)))
assert np.allclose(tempered(logits, 0.5), np.array([64, 16, 4, 1, 1]) / 86)

# %% [markdown]
# τ = 1 is what the model believes. Towards 0 the best token takes all (*greedy*), towards infinity
# all are equal. Temperature never changes the order.
#
# **The way back.** Sampling is a choice, and a choice has no gradient. But the *probability* of
# what was chosen has one, and PPO lives on it (notebook 19):
#
# $$\frac{\partial \ln p_a}{\partial z_v} = \frac{[v = a] - p_v}{\tau}$$

# %%
chosen, tau = 2, 0.5
z = logits.copy()
by_formula = (np.eye(5)[chosen] - tempered(z, tau)) / tau
numerical = numerical_gradient(lambda: float(np.log(tempered(z, tau)[chosen])), z)
print("formula  ", by_formula, "\nnumerical", numerical)
assert np.abs(by_formula - numerical).max() < 1e-8

# %% [markdown]
# ## 2 Two ways to cut the tail
#
# A vocabulary has 151,936 tokens. Nearly all are nonsense at any place, each with nearly no
# probability; but together they have some. One nonsense token in a hundred ruins every long text.
# So the tail is cut off, and what stays is divided by its sum.
#
# - **top-k**: the k best stay.
# - **top-p**: the smallest set of best ones that reaches p together.
#
# $$\text{keep the best } n,\quad n = \min\Bigl\{n : \sum_{i \le n} p_{(i)} \ge p\Bigr\}$$

# %%
p = tempered(logits, 1)[None]  # (B, V): one row
print("sums so far ", as_fractions(p[0].cumsum()))
for name, kept in {
    "top-k = 2": keep_top_k(p, 2),
    "top-p = 0.5": keep_top_p(p, 0.5),
    "top-p = 0.8": keep_top_p(p, 0.8),
}.items():
    print(f"{name:12}", as_fractions(kept[0]), "  ->", as_fractions(kept[0] / kept.sum()))
assert (keep_top_p(p, 0.8) > 0).sum() == 3  # 1/2 + 1/4 = 0.75 does not reach 0.8
assert (keep_top_p(p, 0.5) > 0).sum() == 1  # 1/2 does

# %% [markdown]
# top-k keeps two drinks, whether the model is sure or not. top-p keeps few where it is sure and
# many where it is not. For 0.8 the third drink is needed: the set must *reach* p, so the token that
# crosses the border stays. (To drop it is `top_p.crossing_dropped`.)
#
# ### One thing broken: the order
#
# Cut first, then temperature; or temperature first? In the package, as in transformers, temperature
# comes first. It changes what is cut. With a long tail, as words have it (Zipf: the n-th word has a
# probability of about 1/n), look at how many stay:

# %%
zipf = -np.log(np.arange(1, 20_001))
taus = np.linspace(0.4, 1.5, 23)
first = [(keep_top_p(tempered(zipf, t)[None], 0.8) > 0).sum() for t in taus]
always = (keep_top_p(tempered(zipf, 1)[None], 0.8) > 0).sum()
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.semilogy(taus, first, "o-", label="temperature, then top-p 0.8")
ax.axhline(always, color="C3", ls="--", label="top-p 0.8, then temperature (wrong order)")
ax.plot(0.7, np.interp(0.7, taus, first), "k*", ms=14, label="Qwen2: 0.7, 0.8")
ax.set(xlabel="temperature", ylabel="tokens that stay, of 20,000", title="what may be said")
ax.legend()
plt.show()

# %%
at_07 = (keep_top_p(tempered(zipf, 0.7)[None], 0.8) > 0).sum()
print(f"tokens that stay at 0.7: {at_07}; in the wrong order {always}")
assert at_07 < always / 10

# %% [markdown]
# The two knobs work together: a low temperature lifts the head, so top-p is reached sooner. In the
# wrong order, a hundred times as many tokens may be said, and nobody sees it from one sentence.
#
# ## 3 A fair draw
#
# From probabilities to a choice: lay them end to end, from 0 to 1, and throw a dart. The token
# whose stretch is hit is chosen. One number from the generator for each row, no more.

# %%
edges = np.concatenate(([0], p[0].cumsum()))
fig, ax = plt.subplots(figsize=(9, 1.9), layout="constrained")
for i, drink in enumerate(DRINKS):
    ax.barh(0, edges[i + 1] - edges[i], left=edges[i], color=f"C{i}", alpha=0.7)
    ax.text((edges[i] + edges[i + 1]) / 2, 0, drink, ha="center", va="center")
darts = np.random.default_rng(3).random(6)
ax.plot(darts, np.full(6, 0.55), "kv")
ax.set(yticks=[], xlim=(0, 1), ylim=(-0.45, 0.7), title="six darts")
ax.grid(False)
plt.show()

# %%
by_dart = [DRINKS[np.searchsorted(edges, dart) - 1] for dart in darts]
rows = np.tile(logits, (6, 1))
by_package = [DRINKS[i] for i in sample(rows, rng=np.random.default_rng(3))]
print(by_dart)
assert by_dart == by_package

# %% [markdown]
# Fair? 20,000 draws; a share may be off by about $\sqrt{p(1-p)/20000}$.

# %%
DRAWS = 20_000
drawn = sample(np.tile(logits, (DRAWS, 1)), rng=rng)
shares = np.bincount(drawn, minlength=5) / DRAWS
sigma = np.sqrt(p[0] * (1 - p[0]) / DRAWS)
print("wanted", p[0], "\nfound ", shares, "\noff by", (shares - p[0]) / sigma, "sigma")
assert (np.abs(shares - p[0]) < 4 * sigma).all()

# %% [markdown]
# ## 4 A language whose truth is known
#
# Six people, five drinks, four sentences. In a text all sentences are about the same person, and
# the drinks have the probabilities 1/2, 1/4, 1/8, 1/16, 1/16 of section 1. So we can say of a
# sentence whether it is right, and of many texts whether they are as varied as the truth.

# %%
NAMES = ("Ann", "Bob", "Cem", "Dao", "Eva", "Fay")
TRUTH = np.array([8, 4, 2, 1, 1]) / 16
FORMS = ("{n} drinks {d}.", "{n} has a cup of {d}.", "Then {n} wants {d}.", "For {n} there is {d}.")


def some_text():
    """Return a text of three to five sentences about one person."""
    name, count = rng.choice(NAMES), rng.integers(3, 6)
    drinks = rng.choice(DRINKS, size=count, p=TRUTH)
    return " ".join(str(rng.choice(FORMS)).format(n=name, d=drink) for drink in drinks)


# %%
texts = [some_text() for _ in range(1500)]
tokenizer = bpe_train("\n".join(texts), merges=60)
END = tokenizer.special_tokens["<|endoftext|>"]
print(texts[0], "\n", [tokenizer.decode([i]) for i in tokenizer.encode(texts[0])][:12], "...")

# %%
rows = pack_documents([tokenizer.encode(text) for text in texts], 48, END)
config = QwenConfig(
    vocab_size=tokenizer.vocab_size,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rope_theta=1000.0,
    tie_word_embeddings=True,
    initializer_range=0.1,  # small models learn faster from larger numbers than 0.02
)

# %% [markdown]
# It trains for some seconds.

# %%
settings = PretrainSettings(
    steps=150,
    batch_size=16,
    context_length=48,
    peak_lr=5e-3,
    warmup_steps=20,
    eval_every=0,
    separator_id=END,
)
params = pretrain(config, rows, folder / "run", settings, progress=False, plot=False)

# %% [markdown]
# ## 5 The loop
#
# The prompt goes through the model once and fills the cache; then one token at a time. Here it is,
# written out, for one row and greedy:


# %%
def written_out(prompt, steps):
    """Return prompt and continuation, always the best token, until END."""
    found, new = list(prompt), np.array([prompt])
    cache = KVCache(config, 1, len(prompt) + steps)
    for _ in range(steps):
        z, _ = language_model_forward(params, config, new, kv_cache=cache, last_only=True)
        token = int(sample(z[:, -1], temperature=0)[0])
        found.append(token)
        if token == END:
            break
        new = np.array([[token]])
    return found


# %%
prompt = tokenizer.encode("Cem")
by_hand = written_out(prompt, 40)
once = np.array([prompt])
by_package = generate(params, config, once, max_new_tokens=40, eos_token_ids=[END])
print(tokenizer.decode(by_hand))
assert by_hand == by_package[0].tolist()

# %% [markdown]
# The same as `generate`. And what did it write? Very likely one sentence again and again. Tea is
# the best guess each time; so greedy says tea each time, though only every second cup is tea. **The
# best token at each place is not a typical text.** Now with draws:


# %%
def many_texts(count, prompt="Cem", **options):
    """Return so many texts that begin with the prompt."""
    ids = np.tile(tokenizer.encode(prompt), (count, 1))
    found = generate(params, config, ids, max_new_tokens=44, eos_token_ids=[END], **options)
    kept = [[i for i in row if i != END] for row in found.tolist()]
    return [tokenizer.decode(row, errors="replace") for row in kept]


for tau in (0.0, 0.7, 1.0, 1.5):
    for text in many_texts(2, temperature=tau, rng=np.random.default_rng(1)):
        print(f"{tau:3} {text!r}")

# %% [markdown]
# At 1.5 the tail gets its say: bytes and pieces that never stood in the texts.
#
# ## 6 What the knobs cost
#
# Each knob trades mistakes for variety. Both can be measured here. A sentence is **right** if it is
# one of the four forms with one of the five drinks, about Cem. **Variety** is the entropy of the
# drinks, against the 1.875 bits of the truth.

# %%
RIGHT = "|".join(form.format(n="Cem", d=f"({'|'.join(DRINKS)})") for form in FORMS)
BITS = -(TRUTH * np.log2(TRUTH)).sum()
assert BITS == 1.875


def measured(texts):
    """Return the share of right sentences, and the entropy of the drinks in bits."""
    sentences = [s.strip() + "." for text in texts for s in text.split(".")[:-1]]
    good = np.mean([re.fullmatch(RIGHT, s) is not None for s in sentences])
    counts = np.array([sum(text.count(drink) for text in texts) for drink in DRINKS])
    share = counts[counts > 0] / counts.sum()
    return good, -(share * np.log2(share)).sum()


# %%
TAUS = (0.1, 0.4, 0.7, 0.85, 1.0, 1.2, 1.5)
CUTS = {
    "no cut": {},
    "top-k 3": {"top_k": 3},
    "top-p 0.8": {"top_p": 0.8},
    "top-p 0.95": {"top_p": 0.95},
}
curves = {}
for name, cut in CUTS.items():
    found = [
        measured(many_texts(100, temperature=t, rng=np.random.default_rng(7), **cut)) for t in TAUS
    ]
    curves[name] = np.array(found)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4), layout="constrained")
for name, curve in curves.items():
    left.plot(TAUS, 100 * (1 - curve[:, 0]), "o-", ms=4, label=name)
    right.plot(curve[:, 1], 100 * (1 - curve[:, 0]), "o-", ms=4, label=name)
left.set(xlabel="temperature", ylabel="wrong sentences (%)", title="mistakes")
right.axvline(BITS, color="black", ls=":", label="the truth")
right.set(xlabel="variety of drinks (bits)", title="mistakes for variety")
for ax in (left, right):
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(-0.1, 110)
    ax.legend()
plt.show()

# %%
no_cut, top_p = curves["no cut"], curves["top-p 0.95"]
at_1 = TAUS.index(1.0)
print(f"temperature 1, no cut: {1 - no_cut[at_1, 0]:.1%} wrong, {no_cut[at_1, 1]:.2f} bits")
print(f"and with top-p 0.95:   {1 - top_p[at_1, 0]:.1%} wrong, {top_p[at_1, 1]:.2f} bits")
assert top_p[at_1, 0] > no_cut[at_1, 0]  # fewer mistakes
assert no_cut[-1, 0] < 0.7 < no_cut[0, 0]  # hot text is broken, cold text is not
assert no_cut[0, 1] < 1 < no_cut[at_1, 1]  # but cold text is dull

# %% [markdown]
# Look at the right picture; down and to the right is good. Temperature alone moves along one curve.
# A cut moves to a *better* one: the tail is where the mistakes are, and it holds hardly any
# variety. top-k 3 is bad at both: there are places with more than three good tokens, and places
# with one.
#
# ## 7 A punishment for repeating
#
# Greedy and cold texts repeat themselves. One remedy is the **repetition penalty** r of
# transformers: for every token that has occurred, prompt included,
#
# $$z_v \leftarrow \begin{cases} z_v / r & z_v > 0 \\ z_v \cdot r & z_v < 0 \end{cases}$$
#
# The package has no such switch. It is four lines in a loop of one's own:


# %%
def penalised(z, seen, r):
    """Return the scores (V,) with those of the tokens seen made less likely."""
    z = z.astype(float)
    ids = np.unique(seen)
    z[ids] = np.where(z[ids] > 0, z[ids] / r, z[ids] * r)
    return z


# %%
print("before                 ", tempered(logits, 1))
print("tea was said, r = 2    ", tempered(penalised(logits, [0], 2), 1))
print("the same, all scores +5", tempered(penalised(logits + 5, [0], 2), 1))
a, b = (tempered(penalised(logits + shift, [0], 2), 1)[0] for shift in (0, 5))
assert a > 0.2
assert b < 0.03

# %% [markdown]
# **It is broken by design.** Adding a number to all scores changes nothing in a softmax; but it
# changes what this rule does, from "less likely" to "hardly ever again". And it cannot tell the tea
# that should not be repeated from the name that must. Our texts need the name in every sentence:


# %%
def write_with_penalty(r, steps=40):
    """Return a greedy text with the penalty."""
    found = tokenizer.encode("Cem")
    for _ in range(steps):
        z, _ = language_model_forward(params, config, np.array([found]), last_only=True)
        found.append(int(penalised(z[0, -1], found, r).argmax()))
        if found[-1] == END:
            break
    return tokenizer.decode([i for i in found if i != END], errors="replace")


# %%
for r in (1.0, 1.05, 1.3, 3.0):
    print(f"r = {r:4}: {write_with_penalty(r)!r}")
assert write_with_penalty(1.0) == tokenizer.decode([i for i in by_hand if i != END])
assert write_with_penalty(1.0).endswith(".")
assert not write_with_penalty(3.0).endswith(".")

# %% [markdown]
# A little of it helps: there is coffee now. Too much, and the text breaks off in the middle of a
# sentence, for the name and the full stop have been used up. Real texts are full of such tokens:
# commas, line ends, digits, the brackets of a program.
#
# ## 8 What Qwen2 asks for
#
# Beside the weights lies a file `generation_config.json`. That of Qwen2-7B-Instruct says:

# %%
PUBLISHED = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.05,  # 1.1 for the 0.5B and 1.5B models
    "eos_token_id": [151645, 151643],  # <|im_end|> and <|endoftext|>
    "pad_token_id": 151643,
}

# %%
options = {name: PUBLISHED[name] for name in ("temperature", "top_p", "top_k")}
texts_07 = many_texts(150, rng=np.random.default_rng(7), **options)
good, bits = measured(texts_07)
print(f"with these: {1 - good:.1%} wrong sentences, {bits:.2f} bits")
assert good > 0.95
assert bits < BITS - 0.3

# %% [markdown]
# No mistakes, and less variety than the truth has: nearly everybody drinks tea or coffee. It is a
# setting for a chat that should not go wrong. Who wants a hundred different texts takes a higher
# temperature and keeps top-p.
#
# | field | in `generate` |
# | --- | --- |
# | `do_sample: false` | `temperature=0` |
# | `temperature`, `top_p`, `top_k` | the same; top-k is cut before top-p |
# | `eos_token_id` | `eos_token_ids`: *both*. A chat model ends its turn with `<\|im_end\|>` |
# | `pad_token_id` | of `left_pad`; any id will do, the mask hides it |
# | `repetition_penalty` | not there; section 7 |
#
# With only `<|endoftext|>` as the end, a chat model answers, ends its turn, and then goes on to
# play the user. That is the symptom to remember.
#
# ## 9 Several texts at once
#
# Rows of a batch have different lengths. The next token of *every* row must come at the same place,
# so they are padded on the **left**, and a mask says what is real. Positions count the real tokens.

# %%
prompts = [tokenizer.encode(text) for text in ("Cem", "Then Dao wants", "Fay has a cup of")]
ids, real = left_pad(prompts, pad_id=END)
for row, mask in zip(ids, real, strict=True):
    print([tokenizer.decode([i]) if m else "-" for i, m in zip(row, mask, strict=True)])

wide = {name: value.astype(np.float64) for name, value in params.items()}
together, _ = language_model_forward(wide, config, ids, attention_mask=real, last_only=True)
for i, prompt in enumerate(prompts):
    alone, _ = language_model_forward(wide, config, np.array([prompt]), last_only=True)
    print(f"row {i}: {np.abs(together[i] - alone[0]).max():.0e} away from the row alone")
    assert np.abs(together[i] - alone[0]).max() < 1e-12

# %% [markdown]
# And whole texts: equal to those that were written one by one.

# %%
more = {"max_new_tokens": 20, "eos_token_ids": [END]}
batch = generate(params, config, ids, attention_mask=real, **more)
for row, mask, prompt in zip(batch, real, prompts, strict=True):
    alone = generate(params, config, np.array([prompt]), **more)[0]
    n = len(alone) - len(prompt)
    assert row[ids.shape[1] :][:n].tolist() == alone[len(prompt) :].tolist()
    print(tokenizer.decode([i for i in row[np.argmax(mask) :] if i != END]))

# %% [markdown]
# ### Two things broken
#
# **The mask forgotten.** Then padding is read as text, and positions are shifted:

# %%
unmasked, _ = language_model_forward(wide, config, ids, last_only=True)
off = np.abs(unmasked - together).max(axis=(1, 2))
print("logits off by, row by row:", off)
assert (off[:2] > 0.1).all()
assert off[2] < 1e-12  # the longest row has no padding: a test with one row passes

# %% [markdown]
# **Padded on the right.** The last place of a short row is padding, and its score is the score of
# what follows *padding*. The package refuses it:

# %%
flipped = np.array([row + [END] * (ids.shape[1] - len(row)) for row in prompts])
right_real = np.array([[i < len(row) for i in range(ids.shape[1])] for row in prompts])
try:
    generate(params, config, flipped, attention_mask=right_real, **more)
except ValueError as error:
    message = str(error)
print("ValueError:", message)
assert "pad on the left" in message

# %% [markdown]
# ## 10 Stop at a word
#
# A model that uses tools must stop at *Observation:* (notebook 21), which is no token: what its
# tokens are depends on its neighbours. So text is searched, not ids. The trouble: text comes in
# pieces, and what was given out cannot be taken back. `StopStrings` holds back what may be the
# beginning of a stop string. Here we stop at "a cup of tea":

# %%
stops, decoder = StopStrings(["a cup of tea"]), tokenizer.stream_decoder()
given = ""
print("token        may be shown")
for new in tokenizer.encode("Cem has a cup of coffee. Cem has a cup of tea. For Cem there is"):
    piece = decoder.push(new)
    out = stops.push(piece)
    given += out
    print(f"{piece!r:12} {out!r}")
    if stops.stopped:
        break
print("all that was shown:", repr(given))
assert given == "Cem has a cup of coffee. Cem has "

# %% [markdown]
# Watch *" a", " cup", " of"*: nothing is shown until it is known whether tea follows. With coffee,
# all of it comes out at once. From a model it is the same, with `stream=True`:

# %%
stream = generate(params, config, np.array([prompts[0]]), max_new_tokens=30, stream=True)
stops, decoder = StopStrings([" tea"]), tokenizer.stream_decoder()
for new in stream:
    print(stops.push(decoder.push(int(new[0]))), end="")
    if stops.stopped:
        break
print("\nstopped by", repr(stops.stopped))
assert stops.stopped == " tea"

# %% [markdown]
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. By hand.** Three tokens have probabilities 4/9, 4/9 and 1/9. What are they at a
# temperature of 1/2, and at 2? Answer with two lists of three numbers.

# %%
answer_1 = None  # ([., ., .], [., ., .])

# %% [markdown]
# <details><summary>Solution</summary>
#
# Squares: 16, 16, 1, over 33. Roots: 2, 2, 1, over 5.
#
# ```python
# answer_1 = ([16 / 33, 16 / 33, 1 / 33], [2 / 5, 2 / 5, 1 / 5])
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    nine = np.log(np.array([4, 4, 1]) / 9)
    for ours, tau in zip(answer_1, (0.5, 2), strict=True):
        assert np.allclose(ours, tempered(nine, tau)), "no; squares for 1/2, roots for 2"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. How many stay?** The drinks of section 1 with a temperature of 1/2, then top-k 4,
# then top-p 0.9. How many drinks can be chosen?

# %%
answer_2 = None  # a number

# %% [markdown]
# <details><summary>Solution</summary>
#
# 64, 16, 4, 1, 1 over 86. top-k leaves 64, 16, 4, 1 over 85. 64/85 = 0.75 does not reach 0.9; 80/85
# = 0.94 does.
#
# ```python
# answer_2 = 2
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    many = np.tile(logits, (5000, 1))
    can = sample(many, temperature=0.5, top_k=4, top_p=0.9, rng=np.random.default_rng(0))
    assert answer_2 == len(set(can.tolist())), "no; in which order?"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. Best of two tokens.** A text has two tokens. First comes A (0.6) or B (0.4). After A
# there are ten tokens of 0.1 each; after B there is C, for sure. What is the probability of the
# text that greedy writes, and of the most likely text?

# %%
answer_3 = None  # (greedy, best)

# %% [markdown]
# <details><summary>Solution</summary>
#
# Greedy takes A, and then 0.1: 0.06. The text B C has 0.4.
#
# ```python
# answer_3 = (0.06, 0.4)
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    after = {"A": np.full(10, 0.1), "B": np.array([1.0])}
    start = {"A": 0.6, "B": 0.4}
    greedy = start["A"] * after["A"].max()
    best = max(start[c] * after[c].max() for c in start)
    assert np.allclose(answer_3, (greedy, best)), "no; multiply along the way"
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** `minqwen generate runs/mine "Once" --temperature 0.8 --top-p 0.9` does it on the
# command line. In PPO (notebook 19) the model learns from what it has drawn; in notebook 21 its
# text stops at a word and a tool answers.

# %% [markdown]
# # Attention and the cache
#
# *Made from `03_attention_and_the_cache.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# Attention is the only place of a model where tokens meet. Each token asks a question, and gets an
# average of what the others have to say. Notebook 02 has it as one step of a block. Here it is
# taken apart, with numbers that you can check in your head, and then made fast: a text that grows
# by one token need not be read again.
#
# ## What you will do
#
# - Compute three tokens by hand: scores, scale, mask, softmax, average; and the way back.
# - Leave the scale out, and watch the gradient die as heads grow.
# - Mask too late, and find the future in the past.
# - Share keys among heads, and count what that saves in every published model.
# - Write one token at a time with a cache, and show that nothing changed. Then break the cache in
#   three ways.
#
# ## What you will learn
#
# - Why the scale is $1/\sqrt{D_h}$, and where the term *delta* of the gradient comes from.
# - Why Qwen2 has fewer key/value heads than Qwen, and what a text costs in memory.
# - Why the cache is exact, and which mistakes only show with a cache.
#
# ## What you need
#
# Matrix products and softmax, NumPy with matplotlib. 20 minutes; it runs in a few seconds. Beside
# this page, open `minqwen/layers/attention.py`: it is the code that we take apart.

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
import time
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np

from minqwen.check.gradients import check_gradients, numerical_gradient

rng = np.random.default_rng(0)
np.set_printoptions(precision=3, suppress=True)
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %%
from minqwen.layers.attention import attention_backward, attention_forward, causal_mask
from minqwen.layers.rope import rope_forward, rope_inv_freq, rope_tables
from minqwen.model.config import QwenConfig, param_shapes
from minqwen.model.init import init_params
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward
from minqwen.model.presets import preset

# %% [markdown]
# ## 1 Three tokens by hand
#
# | letter | here | Qwen2-7B | meaning |
# | --- | --- | --- | --- |
# | B | 1 | | texts in the batch |
# | H | 1 | 28 | query heads |
# | Hkv | 1 | 4 | key/value heads |
# | T | 3 | up to 131072 | queries: tokens that ask |
# | S | 3 | | keys: tokens that are asked; more than T with a cache |
# | Dh | 4 | 128 | width of a head |
#
# Every token has three vectors. Its **query** says what it looks for, its **key** what it offers,
# its **value** what it says when asked. Here the keys of tokens a, b, c are three different axes,
# so a query simply lists how much it wants of each.

# %%
wants = np.array([[0, 5, 9, 0], [1, 0, 7, 0], [0, 1, 0, 0.0]])  # one row for each token
q = 2 * np.log(2) * wants  # (T, Dh)
k = np.eye(4)[:3]  # (S, Dh)
v = np.array([[12, 0, 0, 1], [0, 12, 0, 1], [0, 0, 12, 1.0]])  # (S, Dh)
T, Dh = q.shape
print("q", q.shape, " k", k.shape, " v", v.shape)

# %% [markdown]
# **Step 1: scores.** Every query times every key, divided by $\sqrt{D_h} = 2$. Section 2 says why.
#
# $$s_{ij} = \frac{q_i \cdot k_j}{\sqrt{D_h}}$$
#
# The factor 2 ln 2 in q makes all scores multiples of ln 2. So $e^{s}$ is a power of two.

# %%
scale = Dh**-0.5
scores = (q @ k.T) * scale  # (T, S)
print("scores / ln 2:")
print(scores / np.log(2))

# %% [markdown]
# **Step 2: mask.** A token may look at itself and back, never ahead. A hidden score becomes −∞.
#
# **Step 3: softmax.** $P_{ij} = e^{s_{ij}} / \sum_j e^{s_{ij}}$, and $e^{-\infty} = 0$.

# %%
visible = causal_mask(T, T)  # (T, S) bool
powers = np.exp(np.where(visible, scores, -np.inf))
P = powers / powers.sum(axis=1, keepdims=True)


def as_fractions(numbers):
    """Return numbers as text, such as 1/2 or 2/3."""
    return "".join(f"{Fraction(float(x)).limit_denominator(200)!s:>6}" for x in numbers)


for token, e, p in zip("abc", powers, P, strict=True):
    print(f"{token} looks at a b c: e^s{as_fractions(e)}   sum{as_fractions([e.sum()])}", end="")
    print(f"   P{as_fractions(p)}")

# %% [markdown]
# Token b would love to look at c, 2⁷ times as much as at itself. It may not. Of what is left it
# takes 2 parts of a and 1 part of b.
#
# **Step 4: average.** $\mathrm{out} = P\,v$. The last number of every value is 1, so the last
# number of the output is the sum of the weights.

# %%
out = P @ v
print(out)
assert np.allclose(out, [[12, 0, 0, 1], [8, 4, 0, 1], [3, 6, 3, 1]])

out_package, _ = attention_forward(q[None, None], k[None, None], v[None, None], visible)
assert np.abs(out - out_package[0, 0]).max() < 1e-14
print("the package says the same")

# %% [markdown]
# ## 2 Why the scale
#
# A product of two random vectors is a sum of Dh terms, each of variance 1. So its variance is Dh,
# and its size grows like $\sqrt{D_h}$. Large scores make softmax certain: one weight is nearly 1,
# the others nearly 0. Then nothing can be learned: the slope of softmax is $P_i (1 - P_i)$ on the
# diagonal, and both ends of that are 0.

# %%
WIDTHS, KEYS, TRIALS = (4, 16, 64, 128, 256, 1024), 32, 200


def softmax_facts(width, factor):
    """Return the mean largest weight and the mean slope of random queries on random keys."""
    keys = rng.standard_normal((TRIALS, 1, KEYS, width))
    asks = rng.standard_normal((TRIALS, 1, 1, width))
    _, cache = attention_forward(asks, keys, keys, scale=factor)
    weights = cache.probs.reshape(TRIALS, KEYS)
    return weights.max(axis=1).mean(), (weights * (1 - weights)).sum(axis=1).mean()


with_scale = np.array([softmax_facts(w, w**-0.5) for w in WIDTHS])
without = np.array([softmax_facts(w, 1.0) for w in WIDTHS])

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
titles = "largest of 32 weights", "slope of softmax: P (1 - P), summed"
for i, (ax, title) in enumerate(zip(axes, titles, strict=True)):
    ax.semilogx(WIDTHS, with_scale[:, i], "o-", color="tab:blue", label="divided by sqrt(Dh)")
    ax.semilogx(WIDTHS, without[:, i], "o-", color="tab:red", label="not divided")
    ax.set(title=title, xlabel="Dh, width of a head", ylim=(0, 1.05))
    ax.set_xticks(WIDTHS, WIDTHS)
    ax.minorticks_off()
    ax.axvline(128, color="grey", linestyle=":")
axes[0].legend()
axes[1].annotate("Qwen", (128, 0.5), xytext=(140, 0.5), color="grey")
plt.show()

# %%
print(f"Dh = 128: slope {with_scale[3, 1]:.2f} with the scale, {without[3, 1]:.2f} without")
assert with_scale[3, 1] > 0.8
assert without[3, 1] < 0.3
assert np.ptp(with_scale[:, 0]) < 0.1  # with the scale, the width does not matter

# %% [markdown]
# With the scale, a head of any width starts out undecided, and can learn where to look.
#
# ## 3 One thing broken: the mask comes too late
#
# Someone computes softmax first and sets the hidden weights to 0 afterwards. Nobody looks at the
# future, it seems. But its scores stand in the sum below the fraction.

# %%
everything = np.exp(scores - scores.max(axis=1, keepdims=True))
late = np.where(visible, everything / everything.sum(axis=1, keepdims=True), 0)
print("weights of token b: right", P[1], " late", late[1])
print("sums of the rows:   right", P.sum(axis=1), " late", late.sum(axis=1))
assert late[1].sum() < 0.03

# %% [markdown]
# The rows no longer sum to 1. That could be mended by dividing once more; as it is, it leaks.
# The test for a leak needs no formula: **change the last token, and see who notices.**


# %%
def noticed(attend):
    """Return how much each output moves when the key of the last token is changed."""
    other = k.copy()
    other[-1] *= -1
    return np.abs(attend(q, k, v) - attend(q, other, v)).max(axis=1)


def masked_late(q, k, v):
    e = np.exp(q @ k.T * scale)
    return np.where(visible, e / e.sum(axis=1, keepdims=True), 0) @ v


def masked(q, k, v):
    return attention_forward(q[None, None], k[None, None], v[None, None], visible)[0][0, 0]


# %%
print("mask in time:", noticed(masked), "\nmask late:   ", noticed(masked_late))
assert noticed(masked)[:2].max() == 0
assert noticed(masked_late)[:2].min() > 0.1

# %% [markdown]
# Tokens a and b feel a token that comes after them. In training this looks like a gift: the model
# is told about the word it has to guess. In use there is no such word. The checker knows this one
# as `causal_attention.mask_after_softmax`.
#
# ## 4 The way back
#
# Suppose the loss wants more of the first feature of token c: `dout` is 1 there, and 0 elsewhere.
#
# $$dv = P^\top d\mathrm{out} \qquad dP = d\mathrm{out}\,v^\top$$

# %%
dout = np.zeros((T, Dh))
dout[2, 0] = 1
dv = P.T @ dout  # (S, Dh)
dP = dout @ v.T  # (T, S)
print("dP of token c:", dP[2], "  only a has something in feature 0, and has 12 of it")
assert dP[2].tolist() == [12, 0, 0]

# %% [markdown]
# **Through softmax.** dP asks for +12 on a's weight. But the weights of a row always sum to 1, so
# not all of it can be had. A weight is $P_j = e_j / Z$, and every score moves its own $e_j$ *and*
# the sum Z:
#
# $$\frac{\partial P_j}{\partial s_i} = P_j\,[i = j] - P_j P_i \qquad\Rightarrow\qquad
# dS_i = P_i\,\bigl(dP_i - \delta\bigr) \qquad \delta = \sum_j P_j\,dP_j$$
#
# So delta is the *average wish*, and each score is moved by what its wish has above the average.

# %%
delta = (P * dP).sum(axis=1, keepdims=True)  # (T, 1)
dS = P * (dP - delta)  # (T, S)
print("P      ", as_fractions(P[2]))
print("dP     ", as_fractions(dP[2]))
print("delta  ", as_fractions(delta[2]), "   12 * 1/4")
print("dS     ", as_fractions(dS[2]), "   1/4 * 9, 1/2 * -3, 1/4 * -3")
assert np.allclose(dS[2], [9 / 4, -3 / 2, -3 / 4])
assert abs(dS.sum()) < 1e-15  # what one gets, the others lose

# %% [markdown]
# **To queries and keys.** The scores are a product once more:
#
# $$dq = \frac{dS\,k}{\sqrt{D_h}} \qquad dk = \frac{dS^\top q}{\sqrt{D_h}}$$

# %%
dq, dk = dS @ k * scale, dS.T @ q * scale
cache = attention_forward(q[None, None], k[None, None], v[None, None], visible)[1]
by_package = attention_backward(dout[None, None], cache)
for name, ours, theirs in zip(("dq", "dk", "dv"), (dq, dk, dv), by_package, strict=True):
    print(name, ours.shape, f"largest difference {np.abs(ours - theirs[0, 0]).max():.0e}")
    assert np.abs(ours - theirs[0, 0]).max() < 1e-14

# %% [markdown]
# No mask was needed on the way back: a hidden key has P = 0, and so dS = 0. And the proof, which
# knows nothing of our formulas: move each number up and down, and look at the loss.


# %%
def loss():
    """Return feature 0 of token c, for q, k and v as they are now."""
    return float(masked(q, k, v)[2, 0])


for name, array, ours in (("dq", q, dq), ("dk", k, dk), ("dv", v, dv)):
    error = np.abs(numerical_gradient(loss, array) - ours).max()
    print(f"{name}: {error:.0e} away from central differences")
    assert error < 1e-8

# %% [markdown]
# ## 5 Shared keys: grouped-query attention
#
# With several heads everything happens once for each. In Qwen each of the 32 heads has keys and
# values of its own (**multi-head**). In Qwen2 groups of G query heads share them (**grouped**):
# query head h reads key/value head h // G.
#
# In the package one axis for the group does it, and a 1 that broadcasts:

# %%
B, H, Hkv, Dh = 1, 6, 2, 4
G = H // Hkv
q = rng.standard_normal((B, H, T, Dh))
k, v = rng.standard_normal((2, B, Hkv, T, Dh))
out, cache = attention_forward(q, k, v, visible)
for name, array in (("q", cache.q), ("k", cache.k), ("v", cache.v), ("P", cache.probs)):
    print(f"{name} {array.shape}")
by_copies, _ = attention_forward(q, k.repeat(G, axis=1), v.repeat(G, axis=1), visible)
assert np.abs(out - by_copies).max() < 1e-14  # sharing = every key head copied G times

# %% [markdown]
# What was read by G heads gets G gradients, and they are **added**: broadcast forward is a sum
# backward. `check_gradients` draws a random `dout` and tries every number of q, k and v.

# %%
dq, dk, dv = attention_backward(np.ones_like(out), cache)
print("dk", dk.shape, "from", cache.q.shape[:3], "heads")
errors = check_gradients(attention_forward, attention_backward, q, k, v, visible)
print({n: f"{e:.0e}" for n, e in zip(("dq", "dk", "dv"), errors, strict=True)})
assert max(errors) < 1e-7

# %% [markdown]
# Why share? Not for the arithmetic, which is the same. For memory: when a text is written, the
# keys and values of all earlier tokens wait for every next token (section 6). In each layer that
# is 2 · Hkv · Dh numbers for each token:
#
# $$\text{bytes per token} = 2 \cdot L \cdot H_{kv} \cdot D_h \cdot 2$$
#
# The first 2 is for keys and values, the last for the two bytes of a bfloat16.


# %%
def cache_bytes(config, heads):
    """Return the bytes that one token takes with so many key/value heads."""
    return 2 * config.num_hidden_layers * heads * config.head_dim * 2


MODELS = ("qwen-7b", "qwen-14b", "qwen2-0.5b", "qwen2-7b", "qwen2-72b")
print("model         H  Hkv   KiB a token   if nothing were shared")
for name in MODELS:
    c = preset(name)
    H_of, shared = c.num_attention_heads, c.num_key_value_heads
    kib = cache_bytes(c, shared) / 1024, cache_bytes(c, H_of) / 1024
    print(f"{name:12} {H_of:2} {shared:4} {kib[0]:13.0f} {kib[1]:12.0f}")
assert cache_bytes(preset("qwen2-7b"), 4) == 56 * 1024

# %%
lengths = 2 ** np.arange(9, 18)
fig, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
for name, color in zip(("qwen-7b", "qwen2-7b", "qwen2-72b"), ("C3", "C0", "C2"), strict=True):
    c, style = preset(name), ":" if name == "qwen2-7b" else "--"
    kv = cache_bytes(c, c.num_key_value_heads)
    weights = 2 * sum(np.prod(s) for s in param_shapes(c).values()) / 2**30
    ax.loglog(lengths, lengths * kv / 2**30, "o-", color=color, label=f"{name}: cache")
    ax.axhline(weights, color=color, ls=style, label=f"{name}: all weights")
ax.set_xticks(lengths[::2], [f"{n:,}" for n in lengths[::2]])
ax.minorticks_off()
ax.set(xlabel="tokens of one text", ylabel="GiB in bfloat16", title="what one text costs")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# Qwen-7B and Qwen2-7B are of one size. But a text of 32,768 tokens takes 16 GiB beside the first,
# more than the model itself, and 1.75 GiB beside the second. Where one fitted there is now room
# for nine.
#
# ## 6 The cache
#
# A model writes token by token. Must it read the whole text again for each? Look at what a new
# token changes. It adds one row to the table of scores: its own. The old rows do not see it, by the
# mask. So all old outputs stay, and with them all old keys and values, in every layer.
#
# Keep k and v of what was read, compute q, k and v of the new token only, and let one query look at
# all keys. First for attention alone, positions included: RoPE turns q and k before they meet
# (notebook 05).

# %%
T, H, Hkv, Dh = 24, 4, 2, 16
q = rng.standard_normal((1, H, T, Dh))
k, v = rng.standard_normal((2, 1, Hkv, T, Dh))
inv_freq = rope_inv_freq(Dh, 1000.0, "float64")


def placed(x, first):
    """Return x (1, heads, n, Dh) turned as the positions first, first + 1, ... want it."""
    return rope_forward(x, *rope_tables(first + np.arange(x.shape[2]), inv_freq))[0]


full, _ = attention_forward(placed(q, 0), placed(k, 0), v, causal_mask(T, T))
print("the whole text at once:", full.shape)

# %%
keys, values, written = placed(k[:, :, :0], 0), v[:, :, :0], []
for t in range(T):
    new = slice(t, t + 1)
    keys = np.concatenate((keys, placed(k[:, :, new], t)), axis=2)  # one more key, kept turned
    values = np.concatenate((values, v[:, :, new]), axis=2)
    written.append(attention_forward(placed(q[:, :, new], t), keys, values, causal_mask(1, t + 1)))
step_by_step = np.concatenate([one for one, _ in written], axis=2)
print("token by token:", step_by_step.shape, "from queries of", q[:, :, new].shape)
print(f"largest difference {np.abs(step_by_step - full).max():.0e}")
assert np.abs(step_by_step - full).max() < 1e-14

# %% [markdown]
# The mask for one query and five keys is a row of five: the query is the *last* of them.
# `causal_mask(T, S)` always counts from the end:

# %%
print(causal_mask(1, 5).astype(int), " one new token, four from the cache")
print(causal_mask(2, 5).astype(int), " two new tokens, three from the cache")
assert causal_mask(2, 5).sum() == 4 + 5

# %% [markdown]
# ### Three broken caches
#
# Each of these runs, and gives the right shapes. Each is found in real code.
#
# - **mask from the front**: the mask is a triangle that starts at key 0.
# - **position 0**: a new token comes alone, so its place is counted from 0.
# - **turned again**: keys are kept as they are and the whole cache is turned in each step, but what
#   was kept had been turned already.


# %%
def with_cache(mask=causal_mask, place=lambda t: t, again=False):
    """Return the outputs of a loop with a cache, which may be broken."""
    keys, outputs = k[:, :, :0], []
    for t in range(T):
        new = slice(t, t + 1)
        keys = placed(keys, 0) if again else keys
        keys = np.concatenate((keys, placed(k[:, :, new], place(t))), axis=2)
        ask = placed(q[:, :, new], place(t))
        outputs.append(attention_forward(ask, keys, v[:, :, : t + 1], mask(1, t + 1))[0])
    return np.concatenate(outputs, axis=2)


def from_the_front(T, S):
    return np.tri(T, S, dtype=bool)


# %%
CACHES = {
    "right": with_cache(),
    "mask from the front": with_cache(mask=from_the_front),
    "position 0": with_cache(place=lambda t: 0),
    "turned again": with_cache(again=True),
}
away = {name: np.abs(found - full).max(axis=(0, 1, 3)) for name, found in CACHES.items()}
print("distance from the full pass, by step")
for name, errors in away.items():
    print(f"{name:20}", " ".join(f"{e:7.0e}" for e in errors[:8]), "...")
assert away.pop("right").max() < 1e-14
assert all(errors[0] < 1e-14 and errors[1:].max() > 0.5 for errors in away.values())

# %% [markdown]
# All three are right at the first token, and the last one also at the second: key 0 stands at
# position 0, and turning it again changes nothing. A test with one step passes them all. And the
# first has a famous symptom: every new token sees key 0 only, so the output is always the same.

# %%
shape = {"figsize": (11, 3.8), "width_ratios": (1, 1.6), "layout": "constrained"}
fig, (left, right) = plt.subplots(1, 2, **shape)
grid = np.where(causal_mask(8, 8), np.arange(8)[:, None], np.nan)
left.imshow(grid, cmap="viridis")
left.set(title="scores: one new row in each step", xlabel="key", ylabel="query = step")
left.grid(False)
for (name, errors), marker in zip(away.items(), "osv", strict=True):
    right.plot(errors, marker=marker, ms=4, label=name)
right.plot(np.abs(CACHES["right"] - full).max(axis=(0, 1, 3)), "k.-", label="right (1e-16)")
right.set(title="distance from the full pass", xlabel="step", ylabel="largest difference")
right.legend(ncols=2, loc="upper left")
right.set_ylim(-0.2, 1.35 * max(errors.max() for errors in away.values()))
plt.show()

# %%
frozen = CACHES["mask from the front"].reshape(Hkv, H // Hkv, T, Dh)
assert np.abs(frozen - v[0, :, None, :1]).max() < 1e-14
print("mask from the front: every output is the value of token 0")

# %% [markdown]
# ## 7 A whole model with a cache
#
# `KVCache` has room for the keys and values of all layers. The same model reads a text in three
# ways: at once, in pieces of 7, and token by token.

# %%
config = QwenConfig(
    vocab_size=50,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.1,
)
params = init_params(config, np.random.default_rng(1), "float64")
ids = rng.integers(0, 50, (1, 200))


# %%
def read_in_pieces(ids, size):
    """Return the logits of a text that is read in pieces through a cache."""
    cache, found = KVCache(config, 1, ids.shape[1], dtype="float64"), []
    for start in range(0, ids.shape[1], size):
        piece = ids[:, start : start + size]
        found.append(language_model_forward(params, config, piece, kv_cache=cache)[0])
    return np.concatenate(found, axis=1)


at_once, _ = language_model_forward(params, config, ids)
for size in (200, 7, 1):
    difference = np.abs(read_in_pieces(ids, size) - at_once).max()
    print(f"in pieces of {size:3}: logits {difference:.0e} away")
    assert difference < 1e-12

# %% [markdown]
# Equal, to rounding. And the time? Step n without a cache reads n tokens; with it, one.


# %%
def seconds(f):
    """Return the best of five times that f takes."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


# %%
def one_step(n):
    """Return the time of step n with a cache that holds n - 1 tokens."""
    cache = KVCache(config, 1, n + 5, dtype="float64")
    language_model_forward(params, config, ids[:, : n - 1], kv_cache=cache)
    return seconds(lambda: language_model_forward(params, config, ids[:, :1], kv_cache=cache))


# %%
steps = (10, 40, 80, 120, 160, 200)
again = [seconds(lambda n=n: language_model_forward(params, config, ids[:, :n])) for n in steps]
cached = [one_step(n) for n in steps]
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.plot(steps, 1e3 * np.array(again), "o-", color="tab:red", label="read all again")
ax.plot(steps, 1e3 * np.array(cached), "o-", color="tab:blue", label="with the cache")
ax.set(xlabel="step n", ylabel="milliseconds for one token", ylim=(0, None))
ax.set_title("one more token, measured on this machine")
ax.legend()
plt.show()

# %% [markdown]
# The cache turns work that grows with the text into memory that grows with the text. That is the
# whole trade, and section 5 made the memory smaller. The curve "with the cache" is not quite flat
# in a long text: one query still meets n keys.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. By hand.** A token sees three keys. Its scores are ln 2 times (2, 0, 1). The values
# are 7, 14 and 21. What is the average it gets?

# %%
answer_1 = None  # a number

# %% [markdown]
# <details><summary>Solution</summary>
#
# The powers are 4, 1, 2, their sum is 7. So 4/7 · 7 + 1/7 · 14 + 2/7 · 21 = 4 + 2 + 6.
#
# ```python
# answer_1 = 12
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    ask = np.log(2) * np.array([2, 0, 1.0])[None, None, None]
    says = np.array([7, 14, 21.0])[:, None] * np.ones(3)
    found, _ = attention_forward(ask, np.eye(3)[None, None], says[None, None], scale=1.0)
    assert abs(found[0, 0, 0, 0] - answer_1) < 1e-9, "no; start with the powers of two"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. A long text beside a large model.** How many GiB (2³⁰ bytes) does the cache of
# Qwen2-72B take for one text of 131,072 tokens, in bfloat16? It has 80 layers, and 8 key/value
# heads of width 128.

# %%
answer_2 = None  # GiB

# %% [markdown]
# <details><summary>Solution</summary>
#
# 2 · 80 · 8 · 128 · 2 = 327,680 bytes for each token; times 2¹⁷ tokens, divided by 2³⁰. With 64
# heads of its own it would be 320 GiB.
#
# ```python
# answer_2 = 327_680 * 2**17 / 2**30
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    exact = cache_bytes(preset("qwen2-72b"), 8) * 2**17 / 2**30
    assert answer_2 == exact, "no; keys and values, layers, heads, width, two bytes"
    print("Exercise 2: right,", exact, "GiB")

# %% [markdown]
# **Exercise 3. Back through softmax.** A token gives weights 1/2, 1/4, 1/4 to its three keys. The
# loss has the gradient dP = (0, 4, 8). Write dS, the gradient of the three scores.

# %%
answer_3 = None  # three numbers

# %% [markdown]
# <details><summary>Solution</summary>
#
# The average wish is delta = 0 + 1 + 2 = 3. Then 1/2 · (0 − 3), 1/4 · (4 − 3), 1/4 · (8 − 3).
# They sum to 0.
#
# ```python
# answer_3 = [-1.5, 0.25, 1.25]
# ```
#
# </details>

# %%
s3, dP3 = np.log([2, 1, 1.0]), np.array([0, 4, 8.0])


def wish():
    """Return the sum of dP times softmax of s3."""
    return float((np.exp(s3) / np.exp(s3).sum() * dP3).sum())


if answer_3 is None:
    print("Exercise 3: not yet")
else:
    assert np.abs(numerical_gradient(wish, s3) - answer_3).max() < 1e-8, "no; what is delta?"
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** `minqwen/layers/attention.py` is sections 1, 4 and 5 in 60 lines. Notebook 13 does
# the same without the T x S table. `minqwen/model/kv_cache.py` also has windows, padding and
# dynamic NTK, where old keys do *not* stay valid. `minqwen check causal_attention --impl my.py:f`
# tries your own, with and without a cache.

# %% [markdown]
# # LogN and windows: attention over a long text
#
# *Made from `11_logn_and_windows.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# Notebook 10 repaired the *angles* of a long text. Two problems are left. There are more keys, so
# attention is spread more thinly. And every token still looks at everything, which costs time and
# is more than it ever did in training. Qwen answers with **LogN scaling** and with **windows**
# (report, 2.3.2).
#
# ## What you will do
#
# - Measure how attention flattens as a text grows, and sharpen it again with one number per token.
# - Scale queries forward and backward by hand, and prove the gradient.
# - Draw windows, and follow how far a stack of them can see.
# - Decode with a cache that forgets, and lose nothing.
#
# ## What you will learn
#
# - Why the factor is a logarithm, and why the *position* counts and not the length of the text.
# - Why the query is scaled, though the report says "query and value".
# - Why "a window of 3" needs a test, and why a constant value vector is a useless one.
# - What is known about short windows in low layers, and what is not.
#
# ## What you need
#
# Attention, as in notebook 02, and NumPy with matplotlib. 20 minutes; it runs in a few seconds.
# Beside this page, open `minqwen/long_context/logn.py` and `window.py`.

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
from functools import partial

import matplotlib.pyplot as plt
import numpy as np

from minqwen.check.gradients import check_gradients, compare_gradient, numerical_gradient
from minqwen.layers.attention import attention_backward, attention_forward, causal_mask
from minqwen.layers.block_attention import block_attention_backward, block_attention_forward
from minqwen.layers.rope import rope_forward, rope_inv_freq, rope_tables
from minqwen.long_context.logn import logn_backward, logn_forward, logn_scale
from minqwen.long_context.window import ladder_windows, qwen2_windows, window_mask

rng = np.random.default_rng(0)

# %% [markdown]
# ## Part one: LogN
#
# ### 1 More keys, flatter attention
#
# Take a query and n random keys. How concentrated is its attention? The *entropy* says it: 0 if one
# key has all the weight, ln n if all have the same.


# %%
def entropy(n, factor=1.0):
    """Return the mean entropy, in nats, of 100 random queries over n random keys."""
    rng = np.random.default_rng(1)
    q, k = rng.standard_normal((1, 1, 100, 64)), rng.standard_normal((1, 1, n, 64))
    probs = attention_forward(factor * q, k, k)[1].probs
    return float(-(probs * np.log(probs)).sum(axis=-1).mean())


trained = 64  # let this be the trained length, for now
for n in (64, 256, 1024, 4096):
    H = entropy(n)
    print(
        f"{n:4} keys: entropy {H:.2f}, as if spread evenly over exp({H:.2f}) = {np.exp(H):.0f} keys"
    )

# %% [markdown]
# The query did not change and the keys are of the same kind. There are only more of them. The model
# learned to work with an average over 40 of 64 keys; now it gets one over 2492 of 4096.
#
# ### 2 Why a logarithm
#
# Look at the part that matters. One key is the right one: its score is higher than the others by a
# gap g. The n − 1 others are all alike. The weight of the right key is
#
# $$w = \frac{e^g}{e^g + (n-1)} = \frac{1}{1 + (n-1)\,e^{-g}}$$
#
# To keep w when n grows, e^g must grow like n, so g must grow like **ln n**. Scores are q · k: to
# stretch every gap by a factor, multiply the query by it. So the factor for n keys, compared with
# L0 keys, is
#
# $$\lambda = \frac{\ln n}{\ln L_0}$$

# %%
gap = np.log(16)  # one key out of 16, and a gap that gives it half of the weight
print("keys   weight as it is   lambda   weight with lambda")
for n in (16, 64, 256, 1024):
    lam = np.log(n) / np.log(16)
    plain, scaled = (1 / (1 + (n - 1) * np.exp(-g)) for g in (gap, lam * gap))
    print(f"{n:4} {plain:14.4f} {lam:12.2f} {scaled:16.4f}")
    assert 0.5 < scaled < 0.52

# %% [markdown]
# From 0.52 to 0.015 without, and always about one half with lambda. (For a gap of just ln L0 it
# comes out even. A smaller gap still fades, only more slowly; a larger one gets stronger.)
#
# ### 3 The rule
#
# In a language model the query at position p (counted from 0) sees p + 1 keys. So every position
# has its own lambda. Qwen never makes it smaller than 1: within the trained length nothing changes.
#
# $$\lambda_p = \max\Bigl(1, \frac{\ln(p+1)}{\ln L_0}\Bigr) \qquad q'_p = \lambda_p\, q_p$$

# %%
for L0 in (16, 2048):
    n = L0 * np.array([1, 2, 4, 8])  # keys that the query sees: p + 1
    print(f"L0 = {L0}: keys {n}, lambda {logn_scale(n - 1, L0, 'float64').round(5)}")
by_hand = np.maximum(1, np.log(np.arange(1, 41)) / np.log(16))
assert np.allclose(by_hand, logn_scale(np.arange(40), 16, "float64"), rtol=1e-14)
assert (logn_scale(np.arange(16), 16) == 1).all()  # exactly, not nearly

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
positions = np.unique(np.geomspace(1, 131_072, 500).astype(int))
for L0 in (2048, 8192, 32_768):
    left.semilogx(positions, logn_scale(positions, L0), label=f"L0 = {L0:,}")
left.set(xlabel="position", ylabel="lambda", title="Flat, then a straight line in ln(position)")
left.legend()
sizes = np.array([16, 32, 64, 128, 256, 512, 1024, 2048, 4096])
factors = logn_scale(sizes - 1, trained, "float64")
right.semilogx(sizes, [entropy(n) for n in sizes], "o-", label="plain")
right.semilogx(sizes, [entropy(*a) for a in zip(sizes, factors, strict=True)], "s-", label="LogN")
right.axvline(trained, color="grey", linestyle="--")
right.set(xlabel="keys", ylabel="entropy, in nats", title="LogN slows the flattening (L0 = 64)")
right.legend()
plt.show()

# %%
plain, scaled = (entropy(4096, factor) for factor in (1.0, float(factors[-1])))
print(f"entropy over 4096 keys: plain {plain:.2f}, with LogN {scaled:.2f}; at 64 {entropy(64):.2f}")
assert scaled < plain - 1

# %% [markdown]
# Be exact about what this shows. For random scores LogN does not keep the entropy; it takes back a
# part of what was lost, about a third here. The gap of section 2 is the case that it was made for.
# It is a rule that works, and a cheap one. It is not a theorem.
#
# ### 4 Forward, line by line
#
# A batch of one, two heads, six tokens, Dh = 4; and a model that was trained on L0 = 3 tokens.

# %%
T, L0 = 6, 3
q, k, v = rng.standard_normal((3, 1, 2, T, 4))  # (B, H, T, Dh) each
scale = logn_scale(np.arange(T), L0, "float64")  # (T,)
print("lambda:", scale.round(4))
q_scaled = q * scale[:, None]  # (T, 1) broadcasts over B, H and Dh
q_package, logn_c = logn_forward(q, scale)
assert np.array_equal(q_scaled, q_package)
assert np.array_equal(q_scaled[:, :, :L0], q[:, :, :L0])  # bit for bit, up to L0
before = np.linalg.norm(q, axis=-1)
print("length of q', over that of q, head 0:", (np.linalg.norm(q_scaled, axis=-1) / before)[0, 0])

# %% [markdown]
# It does not matter whether RoPE comes before or after: a number commutes with a rotation.

# %%
tables = rope_tables(np.arange(T), rope_inv_freq(4, dtype="float64"))
one_way = rope_forward(logn_forward(q, scale)[0], *tables)[0]
other_way = logn_forward(rope_forward(q, *tables)[0], scale)[0]
assert np.allclose(one_way, other_way, atol=1e-15)

# %% [markdown]
# **The position, not the length of the text.** One could take one lambda for all queries, from the
# length T. Then old tokens would be computed anew with every token that is added, and a KV cache
# would be wrong. With lambda from the position, a token that is decoded later gets just what it
# gets in the full pass:

# %%
full = attention_forward(q_scaled, k, v, causal_mask(T, T))[0]
last_scale = logn_scale(np.array([T - 1]), L0, "float64")  # one new token at position 5
last_query, _ = logn_forward(q[:, :, -1:], last_scale)
decoded = attention_forward(last_query, k, v)[0]  # k and v come from the cache, never scaled
assert np.allclose(decoded[:, :, 0], full[:, :, -1], atol=1e-15)
print("decoded = full pass")

# %% [markdown]
# **The query, not the value.** The report says that LogN rescales the dot product of "query and
# value". There is no such product in attention, and the released code scales the query. Would
# scaling the values do the same?

# %%
P = attention_forward(q, k, v, causal_mask(T, T))[1].probs[0]  # (Hkv, G, T, S), as it is
P_query = attention_forward(q_scaled, k, v, causal_mask(T, T))[1].probs[0]
P_value = attention_forward(q, k, logn_forward(v, scale)[0], causal_mask(T, T))[1].probs[0]
print("weights of the last token, head 0, as it is:", P[0, 0, -1].round(3))
print("                            query scaled:   ", P_query[0, 0, -1].round(3))
print("                            value scaled:   ", P_value[0, 0, -1].round(3))
assert np.array_equal(P_value, P)  # only the output gets longer
assert (P_query[:, 0, -1].max(axis=-1) > P[:, 0, -1].max(axis=-1)).all()  # sharper

# %% [markdown]
# ### 5 Backward
#
# lambda is a number that nobody trains, so q' = λ q gives dq = λ dq'. The gradient comes out of
# attention and passes through LogN, last thing first.

# %%
dout = rng.standard_normal(full.shape)
out, attention_c = attention_forward(q_scaled, k, v, causal_mask(T, T))
dq_scaled, dk, dv = attention_backward(dout, attention_c)
dq = dq_scaled * scale[:, None]  # the same factor again
assert np.array_equal(dq, logn_backward(dq_scaled, logn_c))


# %%
def loss():
    """Return the sum of out * dout, for q and k as they are now."""
    scaled, _ = logn_forward(q, scale)
    return float((attention_forward(scaled, k, v, causal_mask(T, T))[0] * dout).sum())


for name, array, ours in (("q", q, dq), ("k", k, dk), ("v", v, dv)):
    error = compare_gradient(name, ours, numerical_gradient(loss, array)).error
    print(f"gradient of {name}: error {error:.0e}")
    assert error < 1e-7

# %% [markdown]
# ### 6 Break it
#
# Three ways to get LogN wrong. Which test sees them? The gradient check? "1 up to L0, bit for bit"?
# A value that we know: for L0 = 16, the query with 17 keys gets 1.021866?

# %%
p = np.arange(64)
VERSIONS = {
    "right":              np.maximum(1, np.log(p + 1) / np.log(16)),
    "ln p, off by one":   np.maximum(1, np.log(np.maximum(p, 1)) / np.log(16)),
    "log of base 2":      np.maximum(1, np.log(p + 1) / np.log2(16)),
    "length of the text": np.full(64, np.log(64) / np.log(16)),
}  # fmt: skip
q64 = rng.standard_normal((1, 1, 64, 2))
print(f"{'':20} gradient   1 up to L0   value at 17 keys")
for name, wrong in VERSIONS.items():
    error = check_gradients(lambda q, w=wrong: logn_forward(q, w), logn_backward, q64)[0]
    print(f"{name:20} {error:.0e} {(wrong[:16] == 1).all()!s:>10} {wrong[16]:15.6f}")
    assert (abs(wrong[16] - 1.021866) < 1e-6) == (name == "right")

# %% [markdown]
# The gradient check passes all of them: each is a fine function, just not LogN. "1 up to L0" sees
# the last one. Only the known value sees them all. And it sees the first one because L0 is tiny:
# for L0 = 2048 the right value at 2049 keys is 1.00006, and off by one gives 1. **Test with sizes
# that make mistakes large.**
#
# ## Part two: windows
#
# ### 7 A window is a mask
#
# With a window W, a query sees the last W keys, **its own included**:
#
# $$\text{key } j \text{ is visible from query } i \iff i - W < j \le i$$

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 4.3), layout="constrained")
for ax, W in zip(axes, (8, 3, 1), strict=True):
    mask = window_mask(8, 8, W)
    ax.imshow(mask, cmap="Blues", vmin=0, vmax=1.4)
    ax.set(title=f"W = {W}: {mask.sum()} pairs", xlabel="key", xticks=range(8), yticks=range(8))
axes[0].set_ylabel("query")
fig.suptitle("Blue: visible. W = 8 is causal attention, W = 1 is each token alone")
plt.show()

# %%
by_hand = np.array([[i - 3 < j <= i for j in range(8)] for i in range(8)])
assert np.array_equal(window_mask(8, 8, 3), by_hand)
assert by_hand[5].nonzero()[0].tolist() == [3, 4, 5]  # three keys
assert np.array_equal(window_mask(8, 8, 100), causal_mask(8, 8))

# %% [markdown]
# Two reasons to want one. *Time*: T · W pairs instead of T² / 2. And *angles*: with W up to the
# trained length, no query ever meets a distance that training did not have. RoPE stays inside what
# it knows, without NTK.
#
# The mask says what is meant. The model does not use it: `block_attention_forward` takes `window`
# and never computes the hidden pairs. Same output, same gradients:

# %%
q, k, v, dout = rng.standard_normal((4, 1, 2, 300, 8))
plain_out, plain_c = attention_forward(q, k, v, window_mask(300, 300, 20))
block_out, block_c = block_attention_forward(q, k, v, window=20)
plain_grads, block_grads = (
    attention_backward(dout, plain_c),
    block_attention_backward(dout, block_c),
)
for name, a, b in zip(
    ("out", "dq", "dk", "dv"), (plain_out, *plain_grads), (block_out, *block_grads), strict=True
):
    print(f"{name:3} differs by {np.abs(a - b).max():.0e}")
    assert np.abs(a - b).max() < 1e-12

# %% [markdown]
# And both against finite differences, on nine tokens with a window of 3:

# %%
nine = np.random.default_rng(3).standard_normal((3, 1, 2, 9, 4))  # q, k, v
with_mask = partial(attention_forward, mask=window_mask(9, 9, 3))
in_blocks = partial(block_attention_forward, window=3, block=4)
errors = check_gradients(with_mask, attention_backward, *nine)
errors += check_gradients(in_blocks, block_attention_backward, *nine)
print("dq, dk, dv by the mask, and by blocks:", *(f"{error:.0e}" for error in errors))

# %% [markdown]
# **Off by one is easy here.** Some write i − W ≤ j: that is W + 1 keys. What would notice? The
# tempting test is v = 1, whose right output is 1. See:

# %%
wrong = window_mask(8, 8, 3 + 1)  # one key too many
ones, eye = np.ones((1, 1, 8, 8)), np.eye(8)[None, None]
q8, k8 = rng.standard_normal((2, 1, 1, 8, 8))
for name, mask in (("W = 3", window_mask(8, 8, 3)), ("off by one", wrong)):
    constant = attention_forward(q8, k8, ones, mask)[0]
    weights = attention_forward(q8, k8, eye, mask)[0][0, 0]  # with v = identity: out = P
    seen = (weights > 0).sum(axis=-1)
    print(f"{name:10}  v = 1 gives {constant.min():.3f} to {constant.max():.3f}; keys seen: {seen}")
assert seen.tolist() == [1, 2, 3, 4, 4, 4, 4, 4]

# %% [markdown]
# The weights sum to 1 whatever the mask is, so v = 1 sees nothing. One-hot values show every
# weight: count the visible keys.
#
# ### 8 Out of sight is not out of reach
#
# Layer 1 puts something of the W tokens before it into each token. Layer 2 looks at W of those. A
# stack of layers reaches
#
# $$1 + \sum_\ell (W_\ell - 1)$$
#
# tokens back. Follow it with products of masks: token i reaches j through two layers if there is
# something in between.

# %%
fig, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
one = window_mask(24, 24, 4).astype(int)
reach = np.eye(24, dtype=int)
for layer, ax in enumerate(axes, start=1):
    reach = (one @ reach > 0).astype(int)
    ax.imshow(reach, cmap="Blues", vmin=0, vmax=1.4)
    ax.set(
        title=f"{layer} layer{'s' * (layer > 1)}: {reach[-1].sum()} tokens",
        xlabel="token it hears of",
    )
    assert reach[-1].sum() == 1 + layer * (4 - 1)
axes[0].set_ylabel("token")
fig.suptitle("Window of 4, layer on layer")
plt.show()

# %% [markdown]
# Is that what gradients do? Put four real layers of attention on each other, send a gradient into
# the last token only, and see which tokens feel it.

# %%
x, caches = rng.standard_normal((1, 1, 24, 8)), []
for _ in range(4):
    q, k = rng.standard_normal((2, 1, 1, 24, 8))  # who looks where, at random
    x, cache = block_attention_forward(q, k, x, window=4)  # the stream plays the values
    caches.append(cache)
dx = np.zeros_like(x)
dx[:, :, -1] = 1.0
for cache in reversed(caches):
    dx = block_attention_backward(dx, cache)[2]
felt = np.flatnonzero(np.abs(dx[0, 0]).max(axis=-1))
print("tokens that feel a gradient at token 23:", felt)
assert np.array_equal(felt, np.flatnonzero(reach[-1]))

# %% [markdown]
# Thirteen tokens, 11 to 23; token 10 feels exactly 0.
#
# ### 9 Which layers get the short windows?
#
# Qwen's report observes that *lower layers are more sensitive* when the context is extended, and
# gives them **shorter** windows. It names no sizes, and no released file has such windows. The
# authors mentioned an example on GitHub: 2048 for the first four layers, 4096 for the next four,
# and so on. Our `ladder_windows` does that.
#
# The config of Qwen2 can slide too, but there it is the **upper** layers that slide:
# `max_window_layers` counts the layers *without* a window. All released Qwen2 have it off.

# %%
fig, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), sharex=True, sharey=True, layout="constrained"
)
ladder = ladder_windows(16, shortest=2048, layers_per_step=4)
qwen2 = qwen2_windows(16, True, sliding_window=4096, max_window_layers=8)
text = 32_768
left.barh(range(16), ladder, color="tab:blue")
left.set(title="Qwen's report: short below (sizes are ours)", ylabel="layer", xlabel="window")
right.barh(
    range(16), [W or text for W in qwen2], color=["tab:blue" if W else "tab:grey" for W in qwen2]
)
right.set(title="Qwen2's config: layers from 8 up slide", xlabel="window (grey: all)")
plt.show()

# %%
for name, windows in (("ladder", ladder), ("upside down", ladder[::-1])):
    reach_of_all = 1 + sum(W - 1 for W in windows)
    pairs = sum(W * text - W * (W - 1) // 2 for W in windows)
    print(f"{name:12} reach {reach_of_all:,}, visible pairs {pairs:.2e}")
print(f"{'no windows':12} reach {text:,}, visible pairs {16 * text * (text + 1) / 2:.2e}")

# %% [markdown]
# The ladder and the same ladder upside down have the *same* reach (more than the text is long) and
# the same cost: a sum does not care for the order. So if one of them reads long texts better, it is
# not because it reaches further. It is because low and high layers do different work. Whether our
# small model shows it is a question for the laboratory in notebook 14, not for this page.
#
# ### 10 A cache that rolls
#
# A key that is W tokens old is never looked at again. So a layer with a window may forget it. Here
# the cache keeps W keys and no more, while 40 tokens are decoded:

# %%
W, T = 4, 40
q, k, v = rng.standard_normal((3, 1, 2, T, 8))
full, _ = attention_forward(q, k, v, window_mask(T, T, W))
k_cache, v_cache = k[:, :, :0], v[:, :, :0]  # empty
for t in range(T):
    k_cache = np.concatenate((k_cache, k[:, :, t : t + 1]), axis=2)[:, :, -W:]
    v_cache = np.concatenate((v_cache, v[:, :, t : t + 1]), axis=2)[:, :, -W:]
    out, _ = block_attention_forward(q[:, :, t : t + 1], k_cache, v_cache, window=W)
    assert np.abs(out[:, :, 0] - full[:, :, t]).max() < 1e-12
print("40 tokens decoded with", k_cache.shape[2], "keys in the cache, as in the full pass")

# %% [markdown]
# `KVCache` does this for every layer that has a window. It takes room for two windows, so that it
# must move its keys only once in W steps. Its size then stops growing with the text:

# %%
from minqwen.model.config import QwenConfig
from minqwen.model.kv_cache import KVCache

SMALL = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
for windows in (None, [8, 8, 16, 16], [8, 8, None, None]):
    config = QwenConfig(**SMALL, num_attention_heads=4, layer_windows=windows)
    sizes = [KVCache(config, 1, length).nbytes // 1024 for length in (32, 128, 512)]
    print(f"windows {windows!s:20} KiB for 32, 128, 512 tokens: {sizes}")

# %% [markdown]
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. The last token of a long text.** Qwen-7B was trained on L0 = 2048 = 2¹¹ tokens. A
# text has 32,768 = 2¹⁵. By which number is the query of its last token multiplied? No logarithm is
# needed.

# %%
answer_1 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# ln 2¹⁵ / ln 2¹¹ = 15 / 11.
#
# ```python
# answer_1 = 15 / 11
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    want = float(logn_scale(np.array([32_767]), 2048, "float64")[0])
    assert abs(answer_1 - want) < 1e-9, "no; how many keys does it see, as a power of 2?"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. Count the pairs.** A text of T = 1000 tokens, a window of W = 100. How many
# (query, key) pairs are visible? The first W − 1 queries see fewer than W keys.

# %%
answer_2 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# T · W, less what the first tokens lack: 99 + 98 + ... + 1 = W (W − 1) / 2.
#
# ```python
# answer_2 = 1000 * 100 - 100 * 99 // 2
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    assert answer_2 == window_mask(1000, 1000, 100).sum(), "no; try T = 5, W = 3: it is 12"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. How far back?** Four layers have the windows 4, 4, 8, 8. How many tokens, itself
# included, can the last token of a long text hear of?

# %%
answer_3 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# 1 + 3 + 3 + 7 + 7 = 21. Not 4 + 4 + 8 + 8: each layer sees its own token too.
#
# ```python
# answer_3 = 1 + 3 + 3 + 7 + 7
# ```
#
# </details>

# %%
hears = np.eye(64, dtype=int)
for W in (4, 4, 8, 8):
    hears = (window_mask(64, 64, W).astype(int) @ hears > 0).astype(int)
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    assert answer_3 == hears[-1].sum(), "no; draw it for one layer, then for two"
    print("Exercise 3: right")

# %% [markdown]
# **Where to go from here.** `minqwen/model/layer_plan.py` decides, layer by layer, what is active
# in a model. Qwen2 goes another way to long texts: dual chunk attention, which uses small distances
# again instead of hiding far tokens (notebook 12). Notebook 14 measures all of them.

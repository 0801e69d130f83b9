# %% [markdown]
# # Flash attention, tile by tile
#
# *Made from `13_flash_attention_tile_by_tile.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# Attention compares each of T queries with each of S keys: T × S scores, and as many probabilities.
# At T = 8192 that is 67 million numbers for one head, and training keeps them. **Flash attention**
# gives the same result, not an approximation, and never holds more than one small tile of scores.
# Qwen was trained with it (report, 2.4).
#
# ## What you will do
#
# - Take a softmax in pieces, by hand, on six numbers.
# - Compute causal attention one tile at a time, and watch the running maximum.
# - Draw which tiles are skipped, with and without a window.
# - Count the memory, by formula and by measurement.
# - Go backward tile by tile, and prove every gradient with finite differences.
# - Forget one factor, and see which queries it hurts, and which test does not see it.
#
# ## What you will learn
#
# - Why a softmax seems to need its whole row, and the factor by which it does not.
# - What the *log-sum-exp* is, and why it is all that the backward pass must be given.
# - Why no number overflows although scores may be 10,000.
# - Which part of flash attention is mathematics, and which part only a GPU profits from.
#
# ## What you need
#
# Attention and its gradient (notebook 02, sections 2.4 and 3.3), NumPy with matplotlib. 20 minutes;
# it runs in a few seconds. Beside this page, open `minqwen/layers/flash_attention.py`.

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
import tracemalloc
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from minqwen.check.gradients import check_gradients

rng = np.random.default_rng(0)
np.set_printoptions(precision=3, suppress=True)

# %%
from minqwen.layers.attention import attention_backward, attention_forward, causal_mask
from minqwen.layers.block_attention import block_attention_forward, row_blocks
from minqwen.layers.flash_attention import cut, flash_attention_backward, flash_attention_forward
from minqwen.long_context.window import window_mask

# %% [markdown]
# ## 1 A softmax in pieces
#
# One query, six keys. Here are its six scores, and one value for each key:

# %%
s = np.array([1.0, 3.0, 2.0, 5.0, 4.0, 0.0])
v = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])

# %% [markdown]
# The output is an average of the values:
#
# $$\mathrm{out} = \frac{\sum_j e^{s_j} v_j}{\sum_j e^{s_j}}
# = \frac{\sum_j e^{s_j - M} v_j}{\sum_j e^{s_j - M}} \qquad M = \max_j s_j$$
#
# Both forms are equal. The second is the one to compute, because exp overflows quickly:

# %%
print("out =", (np.exp(s) @ v / np.exp(s).sum()).round(6))
print("out =", (np.exp(s - s.max()) @ v / np.exp(s - s.max()).sum()).round(6))
for dtype in (np.float32, np.float64):
    print(dtype.__name__, "overflows above", np.log(np.finfo(dtype).max).round(1))
assert np.exp(np.float32(10_000) - np.float32(10_000)) == 1  # with M taken off, nothing can

# %% [markdown]
# So it takes two passes over the row: one for M, one for the sums. This is why softmax seems to
# need the whole row at once.
#
# **The trick.** Suppose we have met the first two keys, with largest score M and the sums
#
# $$Z = \sum_j e^{s_j - M} \qquad A = \sum_j e^{s_j - M}\, v_j$$
#
# Now a larger score M′ comes. The sums were taken with the wrong M. But
# $e^{s - M'} = e^{s - M}\, e^{M - M'}$: the same factor for all of them. So old sums can be
# *restated*, without looking at the old keys again:
#
# $$M' = \max(M, s) \qquad Z' = Z\, e^{M - M'} + e^{s - M'} \qquad
# A' = A\, e^{M - M'} + e^{s - M'}\, v$$

# %%
M, Z, A = -np.inf, 0.0, 0.0
print(f"{'score':>5} {'M':>4} {'factor':>7} {'Z':>7} {'A':>8} {'A / Z':>8}")
for score, value in zip(s, v, strict=True):
    new_M = max(M, score)
    shrink = np.exp(M - new_M)  # 1 when the maximum stays; exp(-inf) = 0 at the start
    Z = Z * shrink + np.exp(score - new_M)
    A = A * shrink + np.exp(score - new_M) * value
    M = new_M
    print(f"{score:5.0f} {M:4.0f} {shrink:7.3f} {Z:7.3f} {A:8.3f} {A / Z:8.3f}")
assert np.isclose(A / Z, np.exp(s) @ v / np.exp(s).sum(), rtol=1e-14)

# %% [markdown]
# Read the table. Where M stays, the factor is 1. Where M rises by 2, everything so far counts
# $e^{-2} = 0.135$ of what it did. A / Z is the right average of the keys *so far* in every line.
#
# No exponent is ever above 0: with the running maximum nothing overflows, at any point.
#
# One number about the whole row is worth keeping, the **log-sum-exp**:
#
# $$\mathrm{lse} = \log \sum_j e^{s_j} = M + \log Z$$
#
# With it every probability can be had again from its score alone: $P_j = e^{s_j - \mathrm{lse}}$.

# %%
lse = M + np.log(Z)
P = np.exp(s - lse)
print("lse =", lse.round(4), "  P =", P, "  sum", P.sum().round(12))
assert np.isclose(P.sum(), 1, rtol=1e-14)

# %% [markdown]
# ## 2 Tiles: the same for many queries at once
#
# Now T = 8 queries and S = 8 keys with Dh = 4 features, causal: query i sees keys 0 to i. First the
# plain way, which makes the whole table of scores.

# %%
T, Dh = 8, 4
q, k, v = (rng.standard_normal((1, 1, T, Dh)) for _ in range(3))  # (B, H, T, Dh)
q *= 3  # so that the scores differ
want, plain_cache = attention_forward(q, k, v, causal_mask(T, T))
scores = np.where(causal_mask(T, T), (q @ k.swapaxes(-1, -2))[0, 0] * Dh**-0.5, -np.inf)
print("scores", scores.shape)
print(scores.round(1))

# %% [markdown]
# Cut the queries into blocks of 4 and the keys into tiles of 2. `row_blocks` of the package says
# which keys a block of queries can see at all, and `cut` cuts those:

# %%
for rows, keys in row_blocks(T, T, 4, window=None):
    tiles = [(tile.start, tile.stop) for tile in cut(keys, 2)]
    print(f"queries {rows.start} to {rows.stop - 1} see keys up to {keys.stop - 1}: tiles {tiles}")

# %% [markdown]
# The first block has two tiles, not four. Two more lie wholly in the future: they are never
# computed. (Their probabilities are 0 anyway.)
#
# Take the second block, queries 4 to 7. Each query has its own M, Z and A, so they are arrays now:
#
# | | shape | |
# | --- | --- | --- |
# | M | (4, 1) | largest score so far |
# | Z | (4, 1) | sum of exponentials |
# | A | (4, Dh) | the same sum, times the values |

# %%
rows, keys = slice(4, 8), slice(0, 8)
M = np.full((4, 1), np.finfo(float).min)  # below every score; -inf would give nan in M - M'
Z, A = np.zeros((4, 1)), np.zeros((4, Dh))
history = []
for tile in cut(keys, 2):
    tile_s = scores[rows, tile]  # (4, 2): in real life computed here, and gone at the next turn
    new_M = np.maximum(M, tile_s.max(axis=1, keepdims=True))
    weights, shrink = np.exp(tile_s - new_M), np.exp(M - new_M)
    Z = Z * shrink + weights.sum(axis=1, keepdims=True)
    A = A * shrink + weights @ v[0, 0, tile]
    M = new_M
    history.append((tile, M[:, 0].copy(), shrink[:, 0], Z[:, 0].copy()))

# %%
print("           running maximum M            factor on what was there")
for tile, tile_M, tile_shrink, _ in history:
    print(f"keys {tile.start}, {tile.stop - 1}  {tile_M.round(2)!s:27}  {tile_shrink.round(3)}")
print("largest difference from plain:", np.abs(A / Z - want[0, 0, rows]).max())
assert np.abs(A / Z - want[0, 0, rows]).max() < 1e-14

# %% [markdown]
# In the first line the factor is 0: there was nothing yet, so it does not matter. After that a
# factor of 1 says "no larger score in this tile", and a small one says "what came before hardly
# counts any more". The last tile is on the diagonal: half of its scores are −∞, and exp makes them
# 0.
#
# That was all of the forward pass. The function of the package does this for all blocks, and for
# all heads of all texts in the batch at the same time.

# %%
out, cache = flash_attention_forward(q, k, v, block_q=4, block_k=2)
print("largest difference from plain:", np.abs(out - want).max())
assert np.abs(out - want).max() < 1e-14
for block_q, block_k in ((1, 1), (3, 5), (8, 8), (100, 100)):  # sizes need not divide 8
    other, _ = flash_attention_forward(q, k, v, block_q=block_q, block_k=block_k)
    assert np.abs(other - want).max() < 1e-14
for name, value in cache._asdict().items():
    print(f"{name:13}", value.shape if isinstance(value, np.ndarray) else value)

# %% [markdown]
# The cache has the inputs, the output, and `lse`: **one number for each query**. There is nothing
# of size T × T in it. (The first axis is B × Hkv. The G query heads that share a key head lie side
# by side in axis 2, so that no key is ever repeated.)
#
# ## 3 What a query knows, tile by tile
#
# A longer text, to watch one query on its way: T = 96, tiles of 8 keys. The last query starts at
# key 0 and ends at itself.

# %%
long_T = 96
lq, lk = 1.5 * rng.standard_normal((long_T, Dh)), rng.standard_normal((long_T, Dh))
row = lk @ lq[-1] * Dh**-0.5  # the 96 scores of the last query
peaks = np.array([row[: j + 8].max() for j in range(0, long_T, 8)])
running_lse = np.array([np.log(np.exp(row[: j + 8]).sum()) for j in range(0, long_T, 8)])
shrinks = np.exp(peaks[:-1] - peaks[1:])
print("factors, from tile to tile:", shrinks)
assert (np.diff(peaks) >= 0).all()  # a maximum over more keys
assert (np.diff(running_lse) > 0).all()  # every key adds something
assert (running_lse >= peaks).all()  # Z is at least 1

# %%
fig, ax = plt.subplots(figsize=(8.5, 4), layout="constrained")
edges = np.arange(0, long_T + 1, 8)
ax.vlines(edges, row.min() - 0.5, running_lse.max() + 1, color="0.9", zorder=0)
ax.plot(np.arange(long_T) + 0.5, row, ".", color="0.5", label="score of each key")
ax.stairs(peaks, edges, color="tab:red", baseline=None, lw=2, label="M, the running maximum")
ax.stairs(running_lse, edges, color="tab:blue", baseline=None, lw=2, label="M + log Z")
ax.set(xlabel="key; a grey line is the border of a tile", ylabel="score", xlim=(0, long_T))
ax.set_title("One query meets its keys, eight at a time: M jumps, M + log Z creeps up to lse")
ax.legend(loc="lower right", ncols=3)
ax.set_ylim(row.min() - 2.2, running_lse.max() + 0.6)
plt.show()

# %% [markdown]
# The maximum jumps a few times early and then hardly ever: the more keys a query has met, the less
# likely is a new record. So most factors are exactly 1. (Some GPU kernels skip the multiplication
# then. We do not: it is small beside the product of the tile.)
#
# ## 4 Which tiles are skipped
#
# Three kinds of tiles exist:
#
# - **all visible**: no mask is needed;
# - **cut by the diagonal, or by the edge of the window**: the mask is a triangle;
# - **all hidden**: never computed.


# %%
def tile_kinds(T, block_q, block_k, window=None):
    """Return (T, T): 0 skipped, 1 computed but hidden, 2 cut and visible, 3 in a full tile."""
    mask = causal_mask(T, T) if window is None else window_mask(T, T, window)
    kinds = np.zeros((T, T), dtype=int)
    for rows, keys in row_blocks(T, T, block_q, window):
        for tile in cut(keys, block_k):
            visible = mask[rows, tile]
            kinds[rows, tile] = 3 if visible.all() else 1 + visible
    assert (kinds[mask] >= 2).all()  # each visible pair is computed
    return kinds


# %%
fig, axes = plt.subplots(1, 3, figsize=(11.5, 4.9), layout="compressed")
colors = ListedColormap(["white", "#f4c7a1", "tab:orange", "tab:blue"])
for ax, window in zip(axes, (None, 24, 6), strict=True):
    kinds = tile_kinds(64, 8, 8, window)
    ax.imshow(kinds, cmap=colors, vmin=0, vmax=3, extent=(0, 64, 64, 0))
    ax.set(xticks=range(0, 65, 8), yticks=range(0, 65, 8), xlabel="key")
    ax.grid(color="0.6", lw=0.5)
    name = "causal" if window is None else f"window W = {window}"
    ax.set_title(f"{name}\n{(kinds > 0).mean():.0%} of the pairs computed")
axes[0].set_ylabel("query")
names = ["skipped", "computed, hidden", "computed, in a cut tile", "computed, in a full tile"]
handles = [plt.Rectangle((0, 0), 1, 1, fc=colors(i), ec="0.6") for i in range(4)]
fig.legend(handles, names, loc="outside lower center", ncols=4)
plt.show()

# %% [markdown]
# Causal: 36 of 64 tiles. With N blocks of rows it is (N + 1) / 2N, so about half of a long text.
# With a window the work no longer grows with T², but with T · W. With a
# window even the first columns of a tile are left out where no query of the block sees them.

# %%
assert (tile_kinds(64, 8, 8) > 0).mean() == 36 / 64
computed = {T: int((tile_kinds(T, 8, 8, window=24) > 0).sum()) for T in (64, 128, 256)}
print("pairs computed with W = 24:", computed)
assert computed[256] < 2.2 * computed[128] < 5 * computed[64]  # twice the text, twice the work

# %% [markdown]
# ## 5 The memory, counted and measured
#
# For one head, in numbers:
#
# | | kept for backward | most at one time, beside that |
# | --- | --- | --- |
# | plain | P: T · S | dP, dS and the like: T · S each |
# | blocks of rows (`block_attention.py`) | out, lse: T · (Dh + 1) | two blocks, b · S each |
# | tiles (`flash_attention.py`) | out, lse: T · (Dh + 1) | two tiles, b_q · b_k each |
#
# Blocks of whole rows need no running maximum, and their memory is already small; it is what the
# model of this package runs. But b · S still grows with the text. A tile does not.

# %%
LENGTHS = (256, 512, 1024, 2048)


def peak_bytes(forward, **options):
    """Return the most memory NumPy takes beyond the inputs, for each length; H = 2, Dh = 8."""
    peaks = []
    for T in LENGTHS:
        inputs = [rng.standard_normal((1, 2, T, 8), dtype=np.float32) for _ in range(3)]
        tracemalloc.start()
        forward(*inputs, **options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return peaks


# %%
measured = {
    "plain": peak_bytes(attention_forward),
    "blocks of 64 rows": peak_bytes(block_attention_forward, block=64),
    "tiles of 64 x 64": peak_bytes(flash_attention_forward, block_q=64, block_k=64),
}
for name, peaks in measured.items():
    print(f"{name:18}", "  ".join(f"{peak / 2**20:7.2f} MiB" for peak in peaks))
assert measured["plain"][-1] > 50 * measured["tiles of 64 x 64"][-1]
assert measured["tiles of 64 x 64"][-1] < 2.1 * measured["tiles of 64 x 64"][-2]  # linear

# %%
fig, ax = plt.subplots(figsize=(7.5, 4), layout="constrained")
for (name, peaks), color in zip(measured.items(), ("0.4", "tab:blue", "tab:orange"), strict=True):
    ax.loglog(LENGTHS, np.array(peaks) / 2**20, "o-", color=color, label=name)
slopes = {name: np.log2(peaks[-1] / peaks[-2]) for name, peaks in measured.items()}
for name, slope in slopes.items():
    at = (LENGTHS[-1] * 1.06, measured[name][-1] / 2**20)
    ax.annotate(f"times {2**slope:.1f}\nper doubling", at, va="center", fontsize=9)
ax.set(xlabel="tokens T", ylabel="extra memory, MiB", xlim=(230, 3100))
ax.set_xticks(LENGTHS, LENGTHS, minor=False)
ax.set_xticks([], minor=True)
ax.set_title("Forward pass, two heads, float32, measured")
ax.legend()
plt.show()

# %% [markdown]
# **And time?** Flash attention does *more* arithmetic than plain attention: in the backward pass it
# computes the scores again. Still it is faster, because a small tile stays in the cache of the
# processor, and because hidden tiles are skipped. We measured less than half of the time, and
# 1/78 of the memory, of the plain way: one core, forward and backward, two heads, T = 8192
# (`python -m benchmarks.run --only flash`). On a GPU the same idea gains more: there a tile lives
# in memory that is on the chip itself.
#
# ## 6 Backward, tile by tile
#
# From notebook 02, with P the probabilities:
#
# $$dv = P^\top d\mathrm{out} \qquad dP = d\mathrm{out}\, v^\top \qquad
# dS_{ij} = P_{ij}\,(dP_{ij} - \delta_i) \qquad \delta_i = \sum_j P_{ij}\, dP_{ij}$$
#
# Two things seem to need whole rows again: P, and the sum in δ. Neither does.
#
# - $P_{ij} = e^{s_{ij} - \mathrm{lse}_i}$, and lse was kept. It belongs to the *finished* row, so
#   there is no running maximum this time.
# - δ can be had without any P: put in what dP is, and the sum over the keys is the output,
#
# $$\delta_i = \sum_j P_{ij} \sum_d d\mathrm{out}_{id}\, v_{jd}
# = \sum_d d\mathrm{out}_{id} \sum_j P_{ij}\, v_{jd}
# = \sum_d d\mathrm{out}_{id}\,\mathrm{out}_{id}$$

# %%
dout = rng.standard_normal(out.shape)
probs = plain_cache.probs[0, 0, 0]  # (T, T), only to compare with
dprobs = (dout @ v.swapaxes(-1, -2))[0, 0]
delta = (dout * out).sum(axis=-1)[0, 0]  # (T,)
print("delta, from out:     ", delta)
print("delta, from P and dP:", (probs * dprobs).sum(axis=1))
assert np.abs(delta - (probs * dprobs).sum(axis=1)).max() < 1e-14

# %% [markdown]
# Now one tile: queries 4 to 7 and keys 2 and 3. It is given the scores of these 4 × 2 pairs, and
# of each query its lse, δ and dout. That is enough for its part of all three gradients.

# %%
q1, k1, v1, dout1 = (x[0, 0] for x in (q, k, v, dout))  # (T, Dh)
lse = cache.lse[0, :, 0]  # (T, 1)
rows, tile = slice(4, 8), slice(2, 4)

p = np.exp(q1[rows] @ k1[tile].T * Dh**-0.5 - lse[rows])  # (4, 2)
dp = dout1[rows] @ v1[tile].T  # (4, 2)
ds = p * (dp - delta[rows, None])  # (4, 2)
print("adds to dq of queries 4 to 7:", (ds @ k1[tile] * Dh**-0.5).shape)
print("adds to dk of keys 2 and 3:  ", (ds.T @ q1[rows] * Dh**-0.5).shape)
print("adds to dv of keys 2 and 3:  ", (p.T @ dout1[rows]).shape)
assert np.abs(p - probs[rows, tile]).max() < 1e-14  # probabilities, of the whole row

# %% [markdown]
# All tiles together: **dq collects along the keys, dk and dv collect along the queries.** Three
# times `+=`.

# %%
dq, dk, dv = np.zeros((T, Dh)), np.zeros((T, Dh)), np.zeros((T, Dh))
for rows, keys in row_blocks(T, T, 4, window=None):
    for tile in cut(keys, 2):
        s_tile = q1[rows] @ k1[tile].T * Dh**-0.5
        s_tile = np.where(causal_mask(T, T)[rows, tile], s_tile, -np.inf)
        p = np.exp(s_tile - lse[rows])
        ds = p * (dout1[rows] @ v1[tile].T - delta[rows, None])
        dq[rows] += ds @ k1[tile] * Dh**-0.5
        dk[tile] += ds.T @ q1[rows] * Dh**-0.5
        dv[tile] += p.T @ dout1[rows]

# %%
by_package = flash_attention_backward(dout, cache)
by_plain = attention_backward(dout, plain_cache)
for name, ours, *theirs in zip(("dq", "dk", "dv"), (dq, dk, dv), by_package, by_plain, strict=True):
    errors = [np.abs(ours - other[0, 0]).max() for other in theirs]
    print(f"{name}: from flash_attention_backward {errors[0]:.0e}, from plain {errors[1]:.0e}")
    assert max(errors) < 1e-13

# %% [markdown]
# ## 7 The proof
#
# Finite differences know nothing of tiles. `check_gradients` draws a random dout and moves every
# number of q, k and v up and down. We give it hard cases: tiles that do not divide T, shared key
# heads, padding, a window, and a KV cache, where the queries are only the last of the tokens.

# %%
real = np.ones((2, 7), dtype=bool)
real[0, :3], real[1, 5:] = False, False  # padding on the left; on the right
cases = {
    "plain causal": ((2, 3, 7, 5), (2, 3, 7, 5), None, None),
    "6 query heads on 2": ((2, 6, 7, 5), (2, 2, 7, 5), None, None),
    "4 queries, 7 keys": ((2, 3, 4, 5), (2, 3, 7, 5), None, None),
    "padding": ((2, 3, 7, 5), (2, 3, 7, 5), real, None),
    "padding, window 3": ((2, 6, 7, 5), (2, 3, 7, 5), real, 3),
}

# %%
for name, (q_shape, k_shape, real_tokens, window) in cases.items():
    forward = partial(
        flash_attention_forward, real=real_tokens, window=window, block_q=2, block_k=3
    )
    inputs = [rng.standard_normal(shape) for shape in (q_shape, k_shape, k_shape)]
    errors = check_gradients(forward, flash_attention_backward, *inputs)
    print(f"{name:20}", *(f"{error:.0e}" for error in errors))

# %% [markdown]
# In the padded case the first three queries of row 0 see nothing at all. Softmax would be 0 / 0
# there. Flash attention gives them zeros and passes no gradient on: Z stays 0, and it is the only
# case in which it can, so the division uses 1 instead.
#
# And large scores? They are all near 10,000 here, far above what exp can take.

# %%
big_q, big_k = rng.standard_normal((2, 1, 1, 50, 4)).astype(np.float32)
big_q[..., 0], big_k[..., 0] = 100, 200
big_v = rng.standard_normal((1, 1, 50, 4)).astype(np.float32)
big_scores = big_q @ big_k.swapaxes(-1, -2) * 4**-0.5
result, _ = flash_attention_forward(big_q, big_k, big_v, block_q=16, block_k=16)
exact, _ = attention_forward(*(x.astype(float) for x in (big_q, big_k, big_v)), causal_mask(50, 50))
print(f"scores from {big_scores.min():.0f} to {big_scores.max():.0f}")
print("largest difference from float64:", np.abs(result - exact).max())
assert np.isfinite(result).all()
assert np.abs(result - exact).max() < 1e-2  # float32 knows a score of 10,000 to 0.0005 only

# %% [markdown]
# ## 8 Break one thing: forget the factor
#
# The line people forget is the restating of A, or of Z, or of both. Here is the forward pass with
# switches. Everything else is right.


# %%
def broken_forward(q, k, v, block_k, shrink_A=True, shrink_Z=True):
    """Return attention of (T, Dh) arrays, all queries in one block; causal."""
    T, Dh = q.shape
    M, Z, A = np.full((T, 1), np.finfo(float).min), np.zeros((T, 1)), np.zeros((T, Dh))
    for tile in cut(slice(0, T), block_k):
        s = np.where(causal_mask(T, T)[:, tile], q @ k[tile].T * Dh**-0.5, -np.inf)
        new_M = np.maximum(M, s.max(axis=1, keepdims=True))
        weights, shrink = np.exp(s - new_M), np.exp(M - new_M)
        Z = Z * (shrink if shrink_Z else 1) + weights.sum(axis=1, keepdims=True)
        A = A * (shrink if shrink_A else 1) + weights @ v[tile]
        M = new_M
    return A / Z


# %%
T = 64
q, k, v = (rng.standard_normal((T, 4)) * size for size in (2.5, 1, 1))
right, _ = attention_forward(*(x[None, None] for x in (q, k, v)), causal_mask(T, T))
FORGOTTEN = {"nothing": (True, True), "A": (False, True), "Z": (True, False), "both": (False,) * 2}
ones = np.ones_like(v)
wrong = {}
for name, switches in FORGOTTEN.items():
    wrong[name] = np.abs(broken_forward(q, k, v, 8, *switches) - right[0, 0]).max(axis=1)
    same = np.abs(broken_forward(q, k, ones, 8, *switches) - 1).max()
    print(f"forgotten: {name:8} error {wrong[name].max():.0e}, with all values 1: {same:.0e}")

# %%
fig, ax = plt.subplots(figsize=(8.5, 4), layout="constrained")
for name, color in zip(("A", "Z", "both"), ("tab:red", "tab:blue", "tab:green"), strict=True):
    ax.plot(np.maximum(wrong[name], 1e-17), ".", color=color, label=f"{name} not restated")
ax.vlines(np.arange(0, 65, 8) - 0.5, 1e-17, 100, color="0.9", zorder=0)
ax.set(yscale="log", ylim=(3e-18, 30), xlim=(-1, 64), xlabel="query", ylabel="error of the output")
ax.set_title("Who is hurt: nobody in the first tile, later nearly everybody")
ax.legend(loc="lower right")
plt.show()

# %%
assert wrong["nothing"].max() < 1e-14
assert all(wrong[name][:8].max() < 1e-14 for name in wrong)  # one tile only: nothing to restate
assert all(wrong[name].max() > 0.1 for name in ("A", "Z", "both"))
assert np.abs(broken_forward(q, k, ones, 8, *FORGOTTEN["both"]) - 1).max() < 1e-14  # unseen!

# %% [markdown]
# Three lessons.
#
# - **A test that fits in one tile proves nothing.** All queries of the first tile are right. Test
#   with tiles much smaller than the text; ours are 2 × 3 on 7 tokens.
# - **Values of 1 are a weak test.** It is a popular one, because then the output must be 1. But
#   when both factors are forgotten, A and Z are wrong in the same way, and A / Z is still 1.
# - **Some queries are right by luck**: those whose largest score lies in their first tile. A test
#   of one query may meet one of them.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. One step by hand.** A query has M = 2, Z = 3 and A = 12 (one feature). The next
# tile has the scores 4 and 2, and the values 1 and 5. What are M, Z and A now? Answer with a tuple;
# write `np.exp(-2)` where you need it.

# %%
answer_1 = None  # (M, Z, A)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The maximum rises from 2 to 4, so the factor is e^-2. The weights of the tile are e^(4 - 4) = 1
# and e^(2 - 4) = e^-2.
#
# ```python
# e = np.exp(-2)
# answer_1 = (4, 3 * e + 1 + e, 12 * e + 1 * 1 + 5 * e)
# ```
#
# </details>

# %%
old = np.log([1.0, 1.0, 1.0]) + 2  # three scores of 2 with values that add up to 12, for instance
all_scores, all_values = np.append(old, [4, 2]), np.array([3.0, 4.0, 5.0, 1.0, 5.0])
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    all_weights = np.exp(all_scores - 4)
    expected = (4, all_weights.sum(), all_weights @ all_values)
    assert np.allclose(answer_1, expected), "no; which factor brings Z and A to the new maximum?"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. Count tiles.** T = 8192, tiles of 256 queries and 512 keys, causal. How many tiles
# are computed, of 32 × 16 = 512? (Count first, then let `row_blocks` and `cut` do it.)

# %%
answer_2 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# Block r of the queries (r = 0 to 31) sees 256 (r + 1) keys: 1, 1, 2, 2, ... 16, 16 tiles. That is
# 2 · (1 + ... + 16) = 272: a little more than half, because a cut tile is computed as a whole.
#
# ```python
# answer_2 = sum(len(list(cut(keys, 512))) for _, keys in row_blocks(8192, 8192, 256, None))
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    blocks_of_rows = [256 * (r + 1) for r in range(32)]
    assert answer_2 == sum(-(-n // 512) for n in blocks_of_rows), "no; try T = 1024 on paper"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. Two halves of the keys.** Two machines hold half of the keys each. Both compute
# attention over their own half and send `out` and `lse`. Write `merge`, which makes the result over
# all keys from these four arrays; out is (T, Dh), lse is (T, 1). (Dual chunk attention and decoding
# on several GPUs do this.)

# %%
merge = None  # a function of out_1, lse_1, out_2, lse_2

# %% [markdown]
# <details><summary>Solution</summary>
#
# A half counts by its sum of exponentials, and that is e^lse. Take off the larger lse first, as
# always.
#
# ```python
# def merge(out_1, lse_1, out_2, lse_2):
#     M = np.maximum(lse_1, lse_2)
#     Z_1, Z_2 = np.exp(lse_1 - M), np.exp(lse_2 - M)
#     return (Z_1 * out_1 + Z_2 * out_2) / (Z_1 + Z_2)
# ```
#
# It is the step of section 1 with two tiles that are already divided by their sums.
#
# </details>

# %%
if merge is None:
    print("Exercise 3: not yet")
else:
    s = q @ k.T + 5000  # all 64 keys; no mask
    halves = []
    for half in (slice(0, 32), slice(32, 64)):
        top = s[:, half].max(axis=1, keepdims=True)
        e = np.exp(s[:, half] - top)
        total = e.sum(axis=1, keepdims=True)
        halves += [e @ v[half] / total, top + np.log(total)]
    e = np.exp(s - s.max(axis=1, keepdims=True))
    assert np.abs(merge(*halves) - e @ v / e.sum(axis=1, keepdims=True)).max() < 1e-9, "no"
    print("Exercise 3: right")

# %% [markdown]
# **Where to go from here.** Read `minqwen/layers/flash_attention.py`: the loop of section 2 and the
# loop of section 6, for all heads at once. Then time the tile sizes on your machine, with
# `block_q` and `block_k` from 32 to 2048: too small, and Python's calls cost more than the
# products; too large, and a tile falls out of the cache.

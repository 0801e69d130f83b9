# %% [markdown]
# # Dual chunk attention
#
# *Made from `12_dual_chunk_attention.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# A model that was trained on 10 tokens has met the distances 0 to 9. Give it 24 tokens, and RoPE
# shows it the distance 23: an angle from nowhere. Notebook 10 bends the angles. **Dual chunk
# attention** (DCA) leaves the angles alone and lies about the distances: no two tokens are ever
# further apart than training has seen. No weight changes, nothing is trained again. Qwen2 uses it,
# together with YaRN, for texts of up to 131,072 tokens (report, 2.2.1).
#
# ## What you will do
#
# - Draw the matrix of distances, as trained and with DCA, and find the three parts of it.
# - Compute the attention by hand: keys turned once, queries turned three times.
# - Merge three softmaxes by their log-sum-exp, and see that it is one softmax.
# - Go backward, and prove every gradient with finite differences.
# - Break it in four ways, and see in which row each mistake begins.
# - Decode with a key/value cache in which no key ever moves.
#
# ## What you will learn
#
# - Which distances stay exact, which are bent, and what is lost.
# - Why it costs no more products than plain attention.
# - Why a test on one chunk and a bit proves nothing.
# - Where the paper and the released code differ by one.
#
# ## What you need
#
# RoPE (notebook 05) and attention (notebook 02), NumPy with matplotlib. 20 minutes; it runs in a
# few seconds. Beside this page, open `minqwen/long_context/dual_chunk.py`.

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
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from minqwen.check.gradients import check_gradients

rng = np.random.default_rng(0)

# %%
from minqwen.layers.block_attention import block_attention_forward
from minqwen.layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables
from minqwen.long_context.chunk_pieces import key_pieces, row_blocks
from minqwen.long_context.dual_chunk import (
    dual_chunk_attention_backward,
    dual_chunk_attention_forward,
    dual_chunk_positions,
    dual_chunk_tables,
)

# %% [markdown]
# ## 1 Three places for a query
#
# Let training have seen c = 10 positions. DCA splits c into two numbers:
#
# | letter | here | meaning |
# | --- | --- | --- |
# | c | 10 | `chunk_size`: how many positions training has seen |
# | w | 4 | `local_window`: distances up to w will stay exact |
# | s | 6 | c − w: the text is cut into chunks of s tokens |
#
# RoPE reads one number off a pair: the place of the query minus the place of the key. A **key**
# stands at its place within its chunk, j mod s. A **query** has three places. Which one counts
# depends on how many chunks before it the key is:
#
# | key is in | name | place of the query |
# | --- | --- | --- |
# | the same chunk | intra | i mod s |
# | the chunk before | succ(essive) | i mod s + s, but at most c − 1 |
# | any chunk before that | inter | c − 1, whatever i is |

# %%
c, w = 10, 4
s = c - w
T = 24
at = dual_chunk_positions(np.arange(T), c, w)
for name, row in (("token", np.arange(T)), *at._asdict().items()):
    print(f"{name:6}", *(f"{value:2}" for value in row))

# %% [markdown]
# Look at the line `succ`. It goes on where the chunk before stopped: after key 5 comes query place
# 6. So neighbours across a border are neighbours: token 6 sees token 5 at 6 − 5 = 1. Then it stops
# at 9, the last place that training knows.
#
# The matrix of all distances, from the places alone:


# %%
def distance_matrix(at):
    """Return the distance that RoPE sees for query i and key j; NaN in the future."""
    ahead = at.chunk[:, None] - at.chunk  # chunks from the key up to the query
    place = np.where(ahead == 0, at.intra[:, None], np.where(ahead == 1, at.succ[:, None], 0))
    place = np.where(ahead >= 2, at.inter[:, None], place)
    return np.where(np.tri(len(at.key), dtype=bool), place - at.key, np.nan)


true = np.where(np.tri(T, dtype=bool), np.arange(T)[:, None] - np.arange(T), np.nan)
M = distance_matrix(at)
print("row 9: ", M[9, :10].astype(int))
print("row 12:", M[12, :13].astype(int))
assert M[12, :13].tolist() == [9, 8, 7, 6, 5, 4, 6, 5, 4, 3, 2, 1, 0]

# %% [markdown]
# Check row 12 with your own head. Token 12 opens chunk 2: its place is 0 (intra), 6 (succ) or 9
# (inter). Keys 0 to 5 are two chunks back: 9 − 0, 9 − 1, … 9 − 5. Keys 6 to 11 are one chunk back:
# 6 − 0, … 6 − 5. Key 12 is itself: 0.
#
# Now the picture of the whole idea. Left, as RoPE counts by itself; everything red was never seen
# in training. Right, DCA.


# %%
def draw(ax, matrix, title):
    """Draw a matrix of distances with its numbers; what training has not seen is red."""
    colors = plt.get_cmap("viridis_r")(np.linspace(0.05, 0.9, c))
    ax.imshow(matrix, cmap=ListedColormap([*colors, (0.85, 0.2, 0.2, 1)]), vmin=0, vmax=c)
    for i, j in np.argwhere(~np.isnan(matrix)):
        color = "white" if matrix[i, j] >= 5 else "black"
        ax.text(j, i, int(matrix[i, j]), ha="center", va="center", size=7, color=color)
    for border in range(s, T, s):
        ax.axhline(border - 0.5, color="black", lw=0.8)
        ax.axvline(border - 0.5, color="black", lw=0.8)
    ax.set(title=title, xlabel="key j", xticks=range(0, T, s), yticks=range(0, T, s))


# %%
fig, axes = plt.subplots(1, 2, figsize=(12, 6.2), sharey=True, layout="constrained")
draw(axes[0], true, "Plain RoPE: distances up to 23")
draw(axes[1], M, "Dual chunk attention: distances up to 9")
axes[0].set_ylabel("query i")
fig.suptitle("The distance that RoPE sees (c = 10, w = 4, lines: chunks of 6). Red: never trained")
plt.show()

# %% [markdown]
# The same matrix, one part at a time. In `intra` every distance is the true one. In `succ` it is
# true where the query is among the first w of its chunk, and bent below. In `inter` nothing is
# true, and all rows are the same: every query sees a far key at the same distance.

# %%
fig, axes = plt.subplots(1, 3, figsize=(13, 5.2), sharey=True, layout="constrained")
ahead = np.minimum(at.chunk[:, None] - at.chunk, 2)
for b, (ax, name) in enumerate(zip(axes, ("intra", "succ", "inter"), strict=True)):
    mine = np.where((ahead == b) & ~np.isnan(M), M == true, np.nan)
    draw(ax, np.where(ahead == b, M, np.nan), name)  # numbers and borders; the colours are new:
    ax.imshow(mine, cmap=ListedColormap(["#fdbf6f", "#a6cee3"]), vmin=0, vmax=1)
    plt.setp(ax.texts, color="black")
axes[0].set_ylabel("query i")
fig.suptitle("The three parts. Blue: the true distance. Orange: bent, to stay below c")
plt.show()

# %% [markdown]
# ## 2 Three promises, and the price
#
# 1. **Nothing untrained.** No distance is above c − 1, however long the text.
# 2. **Near is exact.** Distances up to w are the true ones, everywhere.
# 3. **Short is plain.** Up to token c − 1 nothing differs from plain RoPE.

# %%
long = 50 * c
M_long = distance_matrix(dual_chunk_positions(np.arange(long), c, w))
true_long = np.arange(long)[:, None] - np.arange(long)
near = (true_long >= 0) & (true_long <= w)
print("distances in use:", sorted({int(d) for d in np.unique(M_long[~np.isnan(M_long)])}))
assert np.nanmax(M_long) == c - 1
assert np.nanmin(M_long) == 0
assert (M_long[near] == true_long[near]).all()
assert np.array_equal(M[:c], true[:c], equal_nan=True)
assert not np.array_equal(M[: c + 1], true[: c + 1], equal_nan=True)

# %% [markdown]
# The price: *far away, order is lost between chunks.* Look at what one query believes.

# %%
fig, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
i = 45
back = np.arange(i + 1)
ax.plot(back, back, "--", color="grey", label="plain RoPE")
ax.plot(back, M_long[i, i - back], "o-", ms=3, label="dual chunk attention")
ax.axhspan(c - 0.5, 46, color="red", alpha=0.08)
ax.text(1, 40, "never trained", color="tab:red")
ax.axvline(w, color="tab:green", lw=1, label=f"w = {w}: exact up to here")
ax.set(xlabel="true distance", ylabel="distance that RoPE sees", title=f"Seen from token {i}")
ax.legend(loc="center right")
plt.show()

# %% [markdown]
# A saw: within a chunk the order is right, but a key 20 tokens back looks like one 44 tokens back.
# The hope is that this does little harm: what a far token *says* still counts, and the nearest
# tokens, where the exact distance matters most, are exact. The authors report that models read far
# longer texts this way; what our small model does is measured in notebook 14.
#
# ## 3 Forward, line by line
#
# Two query heads share one key/value head. Nothing is turned yet.

# %%
B, H, Hkv, Dh = 1, 2, 1, 8
q = rng.standard_normal((B, H, T, Dh))
k, v = rng.standard_normal((2, B, Hkv, T, Dh))
inv_freq = rope_inv_freq(Dh, 100.0, "float64")
tables = dual_chunk_tables(np.arange(T), np.arange(T), inv_freq, c, w)
for name in ("key", "intra", "succ", "inter"):
    cos, sin = getattr(tables, name)
    print(f"{name:6} cos {cos.shape}, sin {sin.shape}")

# %% [markdown]
# Four tables for RoPE, made once and used by all layers. Turn the keys, **once**; turn the queries,
# **three times**:

# %%
k_turned, k_rope = rope_forward(k, *tables.key)
turned, ropes = {}, {}
for name in ("intra", "succ", "inter"):
    turned[name], ropes[name] = rope_forward(q, *getattr(tables, name))
    print(f"q {name:6}", turned[name].shape, " token 20:", turned[name][0, 0, 20, :3].round(2))
assert np.array_equal(turned["intra"][:, :, :s], rope_forward(q, *tables.key)[0][:, :, :s])

# %% [markdown]
# Three matrices of scores, of which each pair uses one. Then one softmax.
#
# $$s_{ij} = \frac{(R_{\mathrm{place}(i, j)}\, q_i)\cdot(R_{j \bmod s}\, k_j)}{\sqrt{D_h}}
# \qquad P = \mathrm{softmax}(s) \qquad \mathrm{out} = P v$$

# %%
scores = {name: y @ k_turned.swapaxes(-1, -2) / Dh**0.5 for name, y in turned.items()}
causal = np.tri(T, dtype=bool)
part = {"intra": causal & (ahead == 0), "succ": ahead == 1, "inter": ahead == 2}
picked = np.full((B, H, T, T), -np.inf)
for name, mask in part.items():
    picked = np.where(mask, scores[name], picked)
P = np.exp(picked - picked.max(axis=-1, keepdims=True))
P /= P.sum(axis=-1, keepdims=True)
out = P @ v
print("scores", picked.shape, "out", out.shape)

# %% [markdown]
# That was it. The package does the same without holding three full matrices:

# %%
out_package, cache = dual_chunk_attention_forward(q, k_turned, v, tables)
print("largest difference:", np.abs(out - out_package).max())
assert np.abs(out - out_package).max() < 1e-12

# %% [markdown]
# How? The queries of one chunk see the keys in three pieces that lie side by side. So it takes
# blocks of queries that end at a chunk border, and multiplies each piece with its own queries:

# %%
chunks = (tables.query_chunk[None], tables.key_chunk[None])
for rows in row_blocks(chunks[0], block=64):
    pieces = key_pieces(chunks, rows, Hkv, H // Hkv, like=k)
    words = [
        f"{('intra', 'succ', 'inter')[b]} {keys.start}..{keys.stop - 1}" for b, keys, _ in pieces
    ]
    print(f"queries {rows.start:2}..{rows.stop - 1:2} see", ", ".join(reversed(words)))

# %% [markdown]
# Every pair is multiplied once, as in plain attention. DCA is not a cheaper attention: it is
# attention with other distances, at the same price.
#
# And is a short text really read as before? Up to token c − 1 = 9, yes; from token 10 on, no:

# %%
cos, sin = rope_tables(np.arange(T), inv_freq)
plain, _ = block_attention_forward(rope_forward(q, cos, sin)[0], rope_forward(k, cos, sin)[0], v)
difference = np.abs(out - plain).max(axis=(0, 1, 3))
print("same as plain attention, by token:", *("yes" if d < 1e-12 else "no" for d in difference))
assert (difference[:c] < 1e-12).all()
assert (difference[c:] > 1e-3).all()

# %% [markdown]
# ## 4 Three softmaxes and their merge
#
# The authors had a fast kernel (FlashAttention) that cannot mix three kinds of queries. So they run
# it three times and merge. Each run gives its own output and one more number, the log of its sum:
#
# $$\mathrm{out}_b = \sum_j e^{s_{ij} - L_b}\, v_j \qquad L_b = \log \sum_j e^{s_{ij}}
# \qquad \text{(over the keys } j \text{ of part } b\text{)}$$
#
# The merge weighs every part with its share of the whole sum:
#
# $$L = \log \sum_b e^{L_b} \qquad \mathrm{out} = \sum_b e^{L_b - L}\, \mathrm{out}_b$$
#
# Put the first line into the second: $e^{L_b - L}\, e^{s_{ij} - L_b} = e^{s_{ij} - L}$. That is one
# softmax over all keys. By hand, for token 20 and head 0:

# %%
i, h = 20, 0
outs, L_b = {}, {}
for name, mask in part.items():
    x = scores[name][0, h, i, mask[i]]  # the scores of this part
    L_b[name] = np.log(np.exp(x).sum())
    outs[name] = np.exp(x - L_b[name]) @ v[0, 0, mask[i]]
L = np.log(sum(np.exp(value) for value in L_b.values()))
for name in part:
    share = np.exp(L_b[name] - L)
    print(f"{name:6} keys {part[name][i].sum():2}  L_b {L_b[name]:6.3f}  share {share:.3f}")
print("L =", L.round(6), " in the cache of the package:", cache.lse[0, i, h, 0].round(6))

# %%
merged = sum(np.exp(L_b[name] - L) * outs[name] for name in part)
mean = sum(outs.values()) / 3
print("one softmax:   ", out[0, h, i].round(4))
print("merged:        ", merged.round(4))
print("mean, no merge:", mean.round(4))
assert np.abs(merged - out[0, h, i]).max() < 1e-12
assert np.abs(mean - out[0, h, i]).max() > 0.1
assert abs(L - cache.lse[0, i, h, 0]) < 1e-12

# %% [markdown]
# The shares, for every query. Tokens 0 to 5 have only `intra`. At the first token of a chunk,
# `intra` is one key; it grows from there.

# %%
share = {name: np.where(mask, P[0, 0], 0).sum(axis=-1) for name, mask in part.items()}
assert np.allclose(sum(share.values()), 1)

fig, ax = plt.subplots(figsize=(9, 3.4), layout="constrained")
bottom = np.zeros(T)
for name, height in share.items():
    ax.bar(range(T), height, bottom=bottom, width=1, label=name, edgecolor="white")
    bottom += height
ax.set(xlabel="query", ylabel="share of the attention", title="exp(L_b - L), head 0")
ax.set(xlim=(-0.5, T - 0.5), xticks=range(0, T, s))
ax.legend(loc="lower left")
plt.show()

# %% [markdown]
# ## 5 Backward, line by line
#
# With one softmax over all keys, the first lines are those of any attention (notebook 02):
#
# $$dv = P^\top d\mathrm{out} \qquad dP = d\mathrm{out}\,v^\top \qquad
# dS = P \odot (dP - \delta) \qquad \delta_i = \sum_j P_{ij}\,dP_{ij}$$
#
# Note that δ is one number for *all three* parts: they share one softmax.

# %%
dout = rng.standard_normal(out.shape)
dv = (P.swapaxes(-1, -2) @ dout).sum(axis=1, keepdims=True)  # the sum over the group of 2 heads
dP = dout @ v.swapaxes(-1, -2)
delta = (dP * P).sum(axis=-1, keepdims=True)
dS = P * (dP - delta) / Dh**0.5
print("dv", dv.shape, "dP", dP.shape, "delta", delta.shape, "dS", dS.shape)

# %% [markdown]
# Then the parts go separate ways. A query was used three times, so it gets three gradients. Each is
# turned back from its own place, and they are **added**. A key was turned once:
#
# $$dq = \sum_b R_b^\top\,(dS_b\,k) \qquad dk = R^\top \sum_b dS_b^\top q_b$$

# %%
dq, dk_turned = np.zeros_like(q), np.zeros_like(k)
for name, mask in part.items():
    dS_b = np.where(mask, dS, 0)
    dq_b = rope_backward(dS_b @ k_turned, ropes[name])  # turned back
    dk_b = (dS_b.swapaxes(-1, -2) @ turned[name]).sum(axis=1, keepdims=True)
    print(f"{name:6} |dq| {np.abs(dq_b).max():.3f}  |dk| {np.abs(dk_b).max():.3f}")
    dq += dq_b
    dk_turned += dk_b
dk = rope_backward(dk_turned, k_rope)

# %% [markdown]
# The package gives `dk` of the keys as it got them: turned. The model turns it back.

# %%
package = dual_chunk_attention_backward(dout, cache)
for name, ours, theirs in zip(("dq", "dk", "dv"), (dq, dk_turned, dv), package, strict=True):
    print(name, "largest difference", np.abs(ours - theirs).max())
    assert np.abs(ours - theirs).max() < 1e-12

# %% [markdown]
# And the proof that does not depend on either: nudge every number of q, k and v, and look.


# %%
def attend_all(q, k, v):
    """Turn the keys, attend; the cache holds both."""
    k, k_rope = rope_forward(k, *tables.key)
    out, cache = dual_chunk_attention_forward(q, k, v, tables)
    return out, (cache, k_rope)


def attend_backward(dout, caches):
    dq, dk, dv = dual_chunk_attention_backward(dout, caches[0])
    return dq, rope_backward(dk, caches[1]), dv


# %%
errors = check_gradients(attend_all, attend_backward, q, k, v)
print("errors of dq, dk, dv:", *(f"{error:.0e}" for error in errors))
assert max(errors) < 1e-7

# %% [markdown]
# ## 6 Break it
#
# Four mistakes that people make, each as a matrix of distances or a merge. To see them, we need the
# attention of *any* matrix of distances. RoPE turns a pair (a, b), so write it as a complex number
# a + ib; then the score of a pair of tokens is a sum of Re(q · e^(i·M·f) · k̄).


# %%
def attend(matrix, length):
    """Return the output for the first tokens, with the distances of any matrix."""
    zq, zk = (x[0, :, :length, : Dh // 2] + 1j * x[0, :, :length, Dh // 2 :] for x in (q, k))
    spin = np.exp(1j * np.nan_to_num(matrix)[:length, :length, None] * inv_freq)  # (i, j, Dh/2)
    z = np.einsum("hid,ijd,hjd->hij", zq, spin, np.broadcast_to(zk, zq.shape).conj()).real
    weights = np.where(np.tri(length, dtype=bool), np.exp(z / Dh**0.5), 0)
    return weights / weights.sum(axis=-1, keepdims=True) @ v[0, :, :length]


assert np.abs(attend(M, T) - out[0]).max() < 1e-12  # the right matrix gives the right output

# %% [markdown]
# - **One too far**: the query stops at c instead of c − 1. This is what the authors' released code
#   does. (There c is only 3/4 of the trained length, so it does no harm.)
# - **Chunks as long as c**: then there is no window left, and near distances are wrong.
# - **A place for each far query**: `inter` uses the place of `succ` instead of a constant.
# - **The mean** of the three outputs instead of the merge.

# %%
released = dual_chunk_positions(np.arange(T), c, w, highest=c)
token = np.arange(T)
too_long = at._replace(key=token % c, intra=token % c, succ=0 * token + c - 1, chunk=token // c)
mistakes = {
    "one too far": attend(distance_matrix(released), T),
    "chunks as long as c": attend(distance_matrix(too_long), T),
    "a place for each far query": attend(distance_matrix(at._replace(inter=at.succ)), T),
}
average = np.zeros((H, T, Dh))
for mask in part.values():  # each part alone, then the mean of those that have a key
    seen = np.where(mask, P[0], 0)
    average += seen / np.maximum(seen.sum(axis=-1, keepdims=True), 1e-300) @ v[0]
mistakes["the mean"] = average / (1 + np.minimum(at.chunk, 2))[:, None]

# %%
fig, ax = plt.subplots(figsize=(9.5, 4), layout="constrained")
first = {}
for (name, wrong), marker in zip(mistakes.items(), "osD^", strict=True):
    error = np.abs(wrong - out[0]).max(axis=(0, 2))
    first[name] = int((error > 1e-9).argmax())
    shown = np.where(error > 1e-9, error, np.nan)
    ax.semilogy(token, shown, marker + "-", ms=4, label=f"{name}: from token {first[name]}")
for border in range(s, T, s):
    ax.axvline(border - 0.5, color="grey", lw=1)
ax.set(xlabel="token", ylabel="error of the output", title="In which row does a mistake begin?")
ax.set(xlim=(-0.5, T - 0.5), xticks=range(0, T, 2))
ax.legend(loc="lower left")
plt.show()

# %%
print(first)
assert first == {
    "one too far": c,
    "chunks as long as c": c,
    "a place for each far query": 2 * s,
    "the mean": s,
}

# %% [markdown]
# **A test with s + 1 tokens finds one of the four.** "One too far" needs c + 1 tokens, and wrong
# far queries need three chunks. Whoever tests with one chunk and a bit tests plain attention.
#
# One more, and it hides better: it is in the *backward* pass. The released code treats the merge
# weights as constants (`detach`). Reading is right, training would not be: the gradient through L
# is lost. That is each part with its own δ instead of the common one:

# %%
dq_detached = np.zeros_like(q)
for name, mask in part.items():
    P_b, dP_b = np.where(mask, P, 0), np.where(mask, dP, 0)
    own_delta = (dP_b * P_b).sum(-1, keepdims=True) / np.maximum(P_b.sum(-1, keepdims=True), 1e-300)
    dq_detached += rope_backward(P_b * (dP_b - own_delta) / Dh**0.5 @ k_turned, ropes[name])
error = np.abs(dq_detached - dq).max(axis=(0, 1, 3)) / np.abs(dq).max()
print("relative error of dq, chunk by chunk:", error.reshape(-1, s).max(axis=1).round(3))
assert error[:s].max() < 1e-12
assert error[s:].max() > 0.1

# %% [markdown]
# ## 7 Decoding: a key never moves
#
# With dynamic NTK (notebook 10) a growing text changes the angles of the keys that are already in
# the cache. Not here. A key is turned by j mod s, and j does not change. What changes is which of
# its three places a *query* takes, and queries are not cached.

# %%
keys, values, decoded = k[:, :, :0], v[:, :, :0], []
for t in range(T):
    new = dual_chunk_tables(np.arange(t, t + 1), np.arange(t + 1), inv_freq, c, w)
    keys = np.concatenate((keys, rope_forward(k[:, :, t : t + 1], *new.key)[0]), axis=2)
    values = np.concatenate((values, v[:, :, t : t + 1]), axis=2)
    decoded.append(dual_chunk_attention_forward(q[:, :, t : t + 1], keys, values, new)[0])
decoded = np.concatenate(decoded, axis=2)
print("decoding against the full pass:", np.abs(decoded - out).max())
assert np.abs(decoded - out).max() < 1e-12
assert np.array_equal(keys, k_turned)

# %% [markdown]
# **Padding.** Positions count real tokens, so in a padded row the chunks begin elsewhere. In a
# batch with such rows the pieces of section 3 overlap, and a mask picks. The result is that of each
# row alone; `tests/long_context/test_dual_chunk.py` proves it, forward and backward.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. By hand.** c = 10, w = 4. At which distance does RoPE see key 8 from query 27?

# %%
answer_1 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# Query 27 is in chunk 4, key 8 in chunk 1: inter. The query stands at 9, the key at 8 mod 6 = 2.
#
# ```python
# answer_1 = 9 - 2
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    assert answer_1 == M_long[27, 8], "no; in which chunks are they?"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. How exact can it be?** A larger w keeps more distances exact, but the chunks get
# shorter. With c = 10, which w keeps the most distances 0, 1, 2, … exact? Try `exact_up_to(w)`.

# %%
answer_2 = None


def exact_up_to(w):
    """Return the largest D so that all distances up to D are exact, everywhere."""
    matrix = distance_matrix(dual_chunk_positions(np.arange(200), 10, w))
    real = np.arange(200)[:, None] - np.arange(200)
    return int(real[(real >= 0) & (matrix != real)].min()) - 1


# %% [markdown]
# <details><summary>Solution</summary>
#
# Distances are exact up to w, but a key more than s back may be two chunks away, where nothing is
# exact. So it is min(w, s), and s = c − w: the best is the half.
#
# ```python
# answer_2 = max(range(1, 10), key=exact_up_to)
# ```
#
# That is 5. The authors take less, about c / 4: longer chunks make fewer far keys look alike.
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    assert exact_up_to(answer_2) == max(exact_up_to(w) for w in range(1, 10)), "some w keeps more"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. Two machines.** One holds keys 0 to 11, the other keys 12 to 23. Each has computed
# the attention of one query over its own keys: an output and the log of its sum. Merge them.

# %%
x, values_of = rng.standard_normal(T), rng.standard_normal((T, Dh))
halves = (slice(0, 12), slice(12, T))
lse_1, lse_2 = (np.log(np.exp(x[half]).sum()) for half in halves)
out_1, out_2 = (np.exp(x[half]) @ values_of[half] / np.exp(x[half]).sum() for half in halves)
answer_3 = None  # from out_1, out_2, lse_1, lse_2

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# both = np.logaddexp(lse_1, lse_2)
# answer_3 = np.exp(lse_1 - both) * out_1 + np.exp(lse_2 - both) * out_2
# ```
#
# `logaddexp` subtracts the larger one first, so that large scores do not overflow. This is also the
# step that FlashAttention makes from tile to tile: notebook 13.
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    expected = np.exp(x) @ values_of / np.exp(x).sum()
    assert np.abs(answer_3 - expected).max() < 1e-12, "no; see section 4"
    print("Exercise 3: right")

# %% [markdown]
# **Where to go from here.** `minqwen/long_context/dual_chunk.py` is sections 3 and 5 in blocks, and
# `chunk_pieces.py` says which keys belong to which place. Notebook 13 takes attention itself apart,
# and notebook 14 measures on a trained model what this one only promises.

# %% [markdown]
# # RoPE, from rotation to spectrum
#
# *Made from `05_rope_from_rotation_to_spectrum.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# Attention compares a query with a key by a dot product, and a dot product does not know where the
# two stand in the text. Rotary position embedding (RoPE) tells it: **every query and every key is
# turned by an angle that grows with its position** (report, 2.3.1).
#
# ## What you will do
#
# - Turn arrows by hand, and see why a dot product then knows only the *distance* of two tokens.
# - Take `rope_forward` and `rope_backward` apart, line by line, and prove the gradient.
# - Look at all 64 frequencies of Qwen: which have turned in training, and which have not.
# - Round them to bfloat16, and flip a sign. See which test notices.
#
# ## What you will learn
#
# - What `rope_theta` does: 10,000 in Qwen, 1,000,000 in Qwen2.
# - Why a score falls with the distance, and when it does not.
# - Why Qwen keeps the frequencies in float32.
# - Why two programs can both be right and still not read each other's checkpoints.
#
# ## What you need
#
# Sine, cosine, and NumPy with matplotlib. Twice 15 minutes, with a rest after section 6; it runs in
# a few seconds. Beside this page, open `minqwen/layers/rope.py`: it is the code that we take apart.

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

from minqwen.check.gradients import check_gradients, gradient_errors
from minqwen.layers.rope import (
    rope_backward,
    rope_forward,
    rope_inv_freq,
    rope_tables,
    rotate_half,
)

rng = np.random.default_rng(0)

# %% [markdown]
# Five functions, and we will see each of them from inside. Until then, one helper that calls them.
# Everything is in float64, because we want to count digits.


# %%
def turn(x, positions, base=10_000.0):
    """Return x (..., T, Dh), turned to the given T positions."""
    cos, sin = rope_tables(np.asarray(positions), rope_inv_freq(x.shape[-1], base, "float64"))
    return rope_forward(x.reshape(1, -1, *x.shape[-2:]), cos, sin)[0].reshape(x.shape)


# %% [markdown]
# ## 1 Two numbers are an arrow
#
# Take two numbers (a, b) as an arrow in the plane. To turn it by the angle φ:
#
# $$a' = a\cos\varphi - b\sin\varphi \qquad b' = a\sin\varphi + b\cos\varphi$$
#
# RoPE cuts a head of Dh features into Dh/2 such arrows. The token at position p has arrow i turned
# by φ = p · f_i. Each arrow has its own speed f_i, in radians per position: the first one is fast,
# each next one is slower.
#
# $$f_i = \mathrm{base}^{-2i/D_h} \qquad i = 0 \ldots D_h/2 - 1$$
#
# With Dh = 8 and base 10,000 the four speeds are easy to remember:

# %%
print("radians per position:", rope_inv_freq(8, 10_000.0, "float64"))

# %%
start = np.tile([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], (9, 1))  # nine times four arrows (1, 0)
turned = turn(start, range(9))  # position 0 .. 8
arrows = turned[:, :4] + 1j * turned[:, 4:]  # (9, 4), a + ib: easy to draw
for p in (0, 1, 2, 8):
    print(f"position {p}:", np.array2string(arrows[p], precision=2, suppress_small=True))
assert np.array_equal(arrows[0], np.ones(4))  # position 0 is not turned at all
assert np.allclose(np.abs(arrows), 1)  # turning keeps the length
shades = plt.cm.viridis_r(np.linspace(0.15, 1, 9))
labels = (range(9), (0, 2, 4, 6, 8), (8,))  # the arrows that get a number, in each picture

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.8), sharey=True, layout="constrained")
for pair, (ax, text) in enumerate(zip(axes, ("1", "0.1", "0.01"), strict=True)):
    ax.add_patch(plt.Circle((0, 0), 1, fill=False, color="lightgrey"))
    for p, z in enumerate(arrows[:, pair]):
        style = {"arrowstyle": "-|>", "color": shades[p], "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (z.real, z.imag), (0, 0), arrowprops=style)
        if p in labels[pair]:
            ax.text(1.15 * z.real, 1.15 * z.imag, str(p), ha="center", va="center")
    ax.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal", xlabel="a", ylabel="b")
    ax.set_title(f"arrow {pair}: {text} rad per position")
fig.suptitle("The same arrow (1, 0) at positions 0 to 8, light to dark")
plt.show()

# %% [markdown]
# Like the hands of a clock. The fast hand tells neighbours apart, and after about six positions it
# starts again. The slow hands hardly move here, but they know whether we are at the start or
# far into the text.
#
# ## 2 Who is paired with whom
#
# The original paper pairs **neighbours**: features (0, 1), (2, 3), ... Qwen's checkpoints pair
# feature i with feature i + Dh/2: **half-split**. So does `minqwen`. Take x = [1, 2, 3, 4] at
# position 1. Two pairs, with speeds 1 and 0.01:
#
# ```
# half-split     (1, 3) turned by 1 rad,  (2, 4) turned by 0.01 rad
# interleaved    (1, 2) turned by 1 rad,  (3, 4) turned by 0.01 rad
# ```

# %%
x = np.array([1.0, 2.0, 3.0, 4.0])
c, s = np.cos([1, 0.01]), np.sin([1, 0.01])  # of the two angles

by_hand = [1 * c[0] - 3 * s[0], 2 * c[1] - 4 * s[1], 1 * s[0] + 3 * c[0], 2 * s[1] + 4 * c[1]]
half_split = turn(x[None], [1])[0]
print("half-split, by hand   ", np.round(by_hand, 4))
print("half-split, rope.py   ", half_split.round(4))
assert np.allclose(half_split, by_hand)
assert np.allclose(half_split, [-1.984111, 1.959901, 2.462378, 4.0198], atol=1e-6)

# %% [markdown]
# Interleaved is the same rotation in another order of the features. So: move the features to where
# the half-split expects them, turn, and move them back.


# %%
def turn_interleaved(x, positions, base=10_000.0):
    """Return x (..., T, Dh) turned with neighbours as pairs. This is not what Qwen does."""
    order = np.r_[0 : x.shape[-1] : 2, 1 : x.shape[-1] : 2]  # 0 2 4 ... 1 3 5 ...
    y = np.empty_like(x)
    y[..., order] = turn(x[..., order], positions, base)
    return y


interleaved = turn_interleaved(x[None], [1])[0]
print("interleaved           ", interleaved.round(4))
assert np.allclose(interleaved, [-1.14264, 1.922076, 2.959851, 4.0298], atol=1e-6)

# %% [markdown]
# Which one is right? **Both**, for a model that was trained with it. A model does not care which of
# its features form a pair. But a checkpoint was trained with one of them, and run with the other it
# writes nonsense. Nothing crashes: all shapes are the same. (A program that converts between the
# two reorders the rows of `q_proj` and `k_proj`, and their biases, as `order` does above.)
#
# ## 3 Why a dot product then sees only the distance
#
# Let q stand at position m and k at position n. Write R(p) for "turn all pairs to position p".
# Turning is a matrix, and turning back is its transpose: R(p)ᵀ = R(−p). Turning twice adds the
# angles: R(p) R(p') = R(p + p'). So
#
# $$(R(m)\,q)\cdot(R(n)\,k) = q^\top R(m)^\top R(n)\,k = q^\top R(n - m)\,k$$
#
# The two positions are gone. Only their difference is left.

# %%
q, k = rng.standard_normal((2, 1, 128))


def score(m, n):
    """Return the dot product of q at position m and k at position n."""
    return float((turn(q, [m]) * turn(k, [n])).sum())


for m, n in ((3, 7), (103, 107), (3, 8), (7, 3)):
    print(f"q at {m:3}, k at {n:3}: {score(m, n):10.6f}")
assert abs(score(3, 7) - score(103, 107)) < 1e-12  # the same distance
assert abs(score(3, 7) - score(3, 8)) > 1e-3  # another distance
assert abs(score(3, 7) - score(7, 3)) > 1e-3  # the direction counts too

# %% [markdown]
# **The same with complex numbers.** Take a pair as one number z = a + ib. To turn it by φ is to
# multiply by $e^{i\varphi}$, and the dot product of two arrows is the real part of $z_q\bar z_k$:
#
# $$\mathrm{Re}\bigl(z_q e^{i m f}\;\overline{z_k e^{i n f}}\bigr)
# = \mathrm{Re}\bigl(z_q \bar z_k\, e^{i (m - n) f}\bigr)$$
#
# One line, and again only m − n is left. A score is a **sum of Dh/2 cosine waves in the distance**:
# the content (q and k) chooses how strong each wave is and where it starts, and the frequencies are
# fixed. Sections 5 and 6 look at these waves.

# %%
z_q, z_k = (x[0, :64] + 1j * x[0, 64:] for x in (q, k))
f = rope_inv_freq(128, 10_000.0, "float64")
waves = (z_q * z_k.conj()).real  # at distance 0
at_3_7 = (z_q * z_k.conj() * np.exp(1j * (3 - 7) * f)).real.sum()
print(f"complex: {at_3_7:.6f}   without positions: {waves.sum():.6f} = q.k = {(q * k).sum():.6f}")
assert abs(at_3_7 - score(3, 7)) < 1e-12
assert abs(waves.sum() - (q * k).sum()) < 1e-12

# %% [markdown]
# What does a whole table of scores look like? Put the same q and the same k at all 32 positions, so
# that only the positions differ.

# %%
many_q, many_k = turn(np.tile(q, (32, 1)), range(32)), turn(np.tile(k, (32, 1)), range(32))
tables = {"without RoPE": np.full((32, 32), (q * k).sum()), "with RoPE": many_q @ many_k.T}
limit = np.abs(tables["with RoPE"]).max()
fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.7), sharey=True, layout="constrained")
for ax, (name, table) in zip(axes, tables.items(), strict=True):
    image = ax.imshow(table, cmap="gray", vmin=-limit, vmax=limit)
    ax.set(title=name, xlabel="position of the key")
axes[1].plot([0, 26], [5, 31], "k--", linewidth=1.5, label="five back")
axes[1].legend()
axes[0].set_ylabel("position of the query")
fig.colorbar(image, ax=axes, label="score")
fig.suptitle("One q and one k at all positions: equal along every diagonal")
plt.show()
assert np.ptp(np.diagonal(tables["with RoPE"], offset=-5)) < 1e-12

# %% [markdown]
# A table that is constant along its diagonals is called *Toeplitz*. This is the whole promise of
# RoPE in a picture: "five back" means the same everywhere in the text.
#
# ## 4 Forward, line by line
#
# | letter | here | Qwen2-7B | meaning |
# | --- | --- | --- | --- |
# | B | 2 | | texts in the batch |
# | H | 3 | 28 queries, 4 keys | heads; all of them are turned alike |
# | T | 5 | up to 32768 trained | positions |
# | Dh | 8 | 128 | width of a head: Dh/2 pairs |

# %%
B, H, T, Dh = 2, 3, 5, 8
x = rng.standard_normal((B, H, T, Dh))
positions = np.arange(T)

exponent = np.arange(0, Dh, 2) / Dh  # (Dh/2,)  0, 2/8, 4/8, 6/8
inv_freq = 10_000.0**-exponent  # (Dh/2,)  one speed for each pair
angles = positions[:, None] * inv_freq  # (T, 1) * (Dh/2,) -> (T, Dh/2)
doubled = np.concatenate((angles, angles), axis=-1)  # (T, Dh): a and b turn together
cos, sin = np.cos(doubled), np.sin(doubled)
for name, array in {"inv_freq": inv_freq, "angles": angles, "cos": cos, "x": x}.items():
    print(f"{name:9} {array.shape}")

# %%
assert np.array_equal(inv_freq, rope_inv_freq(Dh, 10_000.0, "float64"))  # to the last bit
assert all(map(np.array_equal, (cos, sin), rope_tables(positions, inv_freq)))
print("angles, a row for each position:", np.array2string(angles, suppress_small=True), sep="\n")

# %% [markdown]
# Now the rotation. a' = a cos − b sin and b' = b cos + a sin, so both halves are "itself times cos,
# plus something times sin". This something is the arrow turned by 90 degrees, (a, b) → (−b, a).
# `rotate_half` does it for all pairs at once:

# %%
print("rotate_half of [1 2 3 4 5 6 7 8] is", rotate_half(np.arange(1, 9)))

swapped = rotate_half(x)  # (B, H, T, Dh)
y = x * cos + swapped * sin  # (B, H, T, Dh) * (T, Dh): the tables broadcast over B and H

y_package, cache = rope_forward(x, cos, sin)
assert np.array_equal(y, y_package)
assert np.array_equal(y[:, :, 0], x[:, :, 0])  # position 0 is not turned
print("equal, bit for bit; the cache keeps", cache._fields)

# %% [markdown]
# That is all. Four things to know when you read the model's code:
#
# - Queries **and** keys are turned, with the same tables. Values are not: the position decides *who
#   is looked at*, not what is read there.
# - There is nothing to learn here. The tables come from the base and the positions alone.
# - One pair of tables serves all heads and all layers.
# - If the rows of a batch start at different places (padding on the left), positions may be (B, T).
#   Then the tables are (B, T, Dh), and each row of x is turned by its own.
#
# ## 5 The spectrum: 64 hands of a clock
#
# A head of Qwen has 128 features, so 64 pairs. The **wavelength** of a pair is the number of
# positions for one full turn, 2π / f. The base stretches the list: the first pair always needs 6.3
# positions, the last one nearly 2π · base.
#
# Here is the question for long texts: *which pairs made at least one full turn in training?* The
# report trains Qwen at 2048 tokens. Qwen2 goes up to 32,768 at the end, and changes the base to
# 1,000,000 for it.

# %%
MODELS = {"Qwen": (1e4, 2048), "Qwen2": (1e6, 32_768)}  # base, trained length
wavelength, seen = {}, {}
for name, (base, length) in MODELS.items():
    wavelength[name] = 2 * np.pi / rope_inv_freq(128, base, "float64")
    seen[name] = wavelength[name] <= length
    print(
        f"{name:6} wavelengths {wavelength[name][0]:.1f} to {wavelength[name][-1]:,.0f};", end=" "
    )
    print(f"{seen[name].sum()} of 64 pairs turn at least once in {length:,} positions")
assert seen["Qwen"].sum() == 41
assert seen["Qwen2"].sum() == 40

# %%
fig, ax = plt.subplots(figsize=(9, 4.6), layout="constrained")
for (name, (base, length)), marker, color in zip(
    MODELS.items(), "os", ("tab:blue", "tab:red"), strict=True
):
    w, turned_once = wavelength[name], seen[name]
    label = f"{name}, base {base:,.0f}"
    ax.plot(w, marker + "-", color=color, markersize=5, markerfacecolor="white", label=label)
    ax.plot(np.flatnonzero(turned_once), w[turned_once], marker, color=color, markersize=5)
    ax.axhline(length, color=color, linestyle="--", linewidth=1)
    ax.text(0, length * 1.15, f"trained length of {name}: {length:,}", color=color)
ax.set(yscale="log", xlabel="pair i", ylabel="positions for one full turn")
ax.set_title("Filled: turned at least once in training. Hollow: never")
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# A **filled** pair has been everywhere on its circle. A longer text brings no angle that the model
# does not know. A **hollow** pair has seen only a part of its circle, and beyond the trained length
# it shows angles that no layer has ever met. So the trouble with long texts is not with the fast
# pairs. It is with the slow ones, and with the sums of all of them. Remember the 41 and the 40: the
# methods of notebook 10 treat the pairs on the two sides differently.
#
# Here are the tables themselves. Each row is a pair: white is cos = 1, black is cos = −1. The line
# is one full turn.

# %%
fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), sharey=True, layout="constrained")
for ax, (name, (base, _)) in zip(axes, MODELS.items(), strict=True):
    table = rope_tables(np.arange(512), rope_inv_freq(128, base))[0][:, :64].T  # (64, 512)
    image = ax.imshow(table, cmap="gray", vmin=-1, vmax=1, aspect="auto", interpolation="none")
    inside = wavelength[name] < 512
    for color, width in (("black", 4.5), ("orange", 2)):  # an edge, to see it on black and white
        ax.plot(wavelength[name][inside], np.flatnonzero(inside), color=color, linewidth=width)
    ax.set(title=f"cos table of {name}, base {base:,.0f}", xlabel="position")
axes[0].set_ylabel("pair i: fast above, slow below")
fig.colorbar(image, ax=axes, label="cos(position · f)")
plt.show()

# %% [markdown]
# Top: fast hands, which tell neighbours apart. Bottom: slow hands, which hardly move in 512
# positions; they carry content nearly as if there were no positions. With the larger base more rows
# are slow.
#
# ## 6 The score of two equal arrows falls with the distance
#
# Let q and k be equal, with the same length in every pair. Then each wave of section 3 starts at
# its top, and the score at distance d, divided by its value at 0, is
#
# $$K(d) = \frac{1}{D_h/2}\sum_i \cos(d\, f_i)$$
#
# That is just the mean of row d of the cos table! First a check that it is so:


# %%
def kernel(distances, base):
    """Return K at every distance: the mean of a row of the cos table."""
    return rope_tables(distances, rope_inv_freq(128, base, "float64"))[0].mean(axis=-1)


ones = np.ones((1, 128))
for d in (0, 1, 10, 100):
    direct = (turn(ones, [d]) * turn(ones, [0])).sum() / 128
    print(f"distance {d:3}: K = {direct:.4f}")
    assert abs(direct - kernel(np.array([d]), 1e4)[0]) < 1e-12

# %% [markdown]
# What should K look like? A pair that has hardly turned at distance d still gives cos ≈ 1. A pair
# that has turned many times gives anything between −1 and 1, on average 0. So K(d) is about **the
# share of the pairs that have hardly turned yet**. The frequencies are evenly spread on a log
# scale, so this share falls along a straight line in log d. With "hardly" meaning 0.56 radians:
#
# $$K(d) \approx 1 - \frac{\ln(d / 0.56)}{\ln(\mathrm{base})}$$

# %%
distances = np.unique(np.geomspace(1, 131_072, 700).astype(int))
fig, ax = plt.subplots(figsize=(9, 4.4), layout="constrained")
styles = (("tab:blue", "-"), ("tab:red", "-."))
for (name, (base, length)), (color, dash) in zip(MODELS.items(), styles, strict=True):
    K, line = kernel(distances, base), 1 - np.log(distances / 0.56) / np.log(base)
    ax.semilogx(distances, K, color=color, linewidth=1, alpha=0.6)
    ax.semilogx(distances[line > 0], line[line > 0], "k" + dash, label=f"{name}: the line")
    ax.axvline(length, color=color, linestyle="--", linewidth=1.5)
    ax.text(length * 0.93, 1.0, f"{name} trained: {length:,}", va="top", ha="right", rotation=90)
ax.axhline(0, color="black", linewidth=0.8)
ax.set(xlabel="distance d, in tokens", ylabel="K(d)", ylim=(-0.35, 1.03))
ax.set_title("The score of two equal vectors: Qwen (below), Qwen2 (above)")
ax.legend(loc="lower left")
plt.show()

# %%
for name, (base, length) in MODELS.items():
    K, d = kernel(np.arange(length + 1), base), 256
    lost = K[d : 2 * d].mean() - K[2 * d : 4 * d].mean()
    print(f"{name}: K(1) = {K[1]:.2f}, K(100) = {K[100]:.2f}, K(2048) = {K[2048]:.2f};", end=" ")
    print(f"a doubling costs {lost:.3f}, the line says {np.log(2) / np.log(base):.3f}")
    print(f"       first below 0 at {np.argmax(K < 0):,}; the line, at {0.56 * base:,.0f}")
    assert abs(lost - np.log(2) / np.log(base)) < 0.003

# %% [markdown]
# Three things to take home.
#
# - RoPE starts out with a liking for what is near, and it fades slowly: each *doubling* of the
#   distance costs the same, 0.075 with base 10,000 and 0.050 with base 1,000,000.
# - The line of Qwen meets zero at about 5,600 tokens, and K itself for the first time at 1,707.
#   Further out K only wanders up and down: it no longer tells near from far. The line of Qwen2
#   meets zero at 560,000. This is one reason why a model for long texts wants a larger base.
# - But K is about *equal* vectors. It is not a law for all scores. Where q and k have nothing in
#   common the mean score is 0, near or far; and the content can shift every wave, so that a head
#   likes best what is, say, five tokens back. Exercise 4 builds such a head.

# %%
q_any, k_any = rng.standard_normal((2, 5000, 1, 128))
for d in (1, 100, 2048):
    unrelated = (turn(q_any, [d]) * k_any).sum(axis=-1) / 128  # k stays at position 0
    equal = (turn(q_any, [d]) * q_any).sum(axis=-1) / 128
    print(f"distance {d:4}: unrelated q, k {unrelated.mean():6.3f}   equal {equal.mean():.3f}")
    assert abs(unrelated.mean()) < 0.006
    assert abs(equal.mean() - kernel(np.array([d]), 1e4)[0]) < 0.006

# %% [markdown]
# ## 7 Why the frequencies must be float32
#
# Qwen keeps the frequencies in float32 (report, 2.3.1), although it is trained in bfloat16 mixed
# precision (2.4). A bfloat16 is the upper half of a float32. It has 8 significant bits, so a number
# is up to 0.4 % off. NumPy has no bfloat16, but we can round to it with the bits:


# %%
def as_bfloat16(values):
    """Round to the nearest bfloat16 (ties to even), returned as float64."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


f = rope_inv_freq(128, 10_000.0, "float64")
f_rough = as_bfloat16(f)
worst = np.argmax(np.abs(f_rough - f))
print(f"largest relative error {np.abs(f_rough / f - 1).max():.2%}")
print(f"pair {worst}: {f[worst]:.6f} becomes {f_rough[worst]:.6f} radians per position")
assert as_bfloat16(1 + 2**-8) == 1.0

# %% [markdown]
# 0.4 % sounds harmless. But the angle is *position times frequency*, so the error of the angle
# grows with the position:

# %%
at = np.array([1, 10, 100, 1000, 2047, 8191, 32_767])
exact = rope_tables(at, f)[0]
f32 = rope_inv_freq(128)
off = np.abs(f_rough - f).max() * at  # radians
off_32 = [np.abs(n * f32 - n * f).max() for n in at.astype(np.float32)]  # with float32 angles
for name, cos_rough in {
    "bfloat16": rope_tables(at, f_rough)[0],
    "float32": rope_tables(at, f32)[0],
}.items():
    print(
        f"{name:9} largest error of cos:", *(f"{e:.0e}" for e in np.abs(cos_rough - exact).max(1))
    )
print("bfloat16  angle off by, radians: ", *(f"{e:.3g}" for e in off))
assert np.allclose(off[4:], [2.504, 10.019, 40.080], atol=1e-3)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9), layout="constrained")
p = np.arange(1, 32_768)
left.loglog(p, p * np.abs(f_rough - f).max(), color="tab:red", label="frequencies in bfloat16")
left.loglog(at, off_32, "o--", color="tab:blue", label="frequencies and angles in float32")
left.axhline(np.pi, color="black", linestyle=":", label="π: the arrow points the other way")
left.set(xlabel="position", ylabel="largest error of an angle, radians", ylim=(1e-12, 1e3))
left.legend(loc="lower right")
last = np.arange(2017, 2048)
right.plot(last, np.cos(last * f[worst]), "o-", color="tab:blue", label="right")
right.plot(last, np.cos(last * f_rough[worst]), "s--", color="tab:red", label="bfloat16")
right.set(xlabel="position", ylabel=f"cos of pair {worst}", ylim=(-1.1, 1.9))
right.legend(loc="upper center", ncols=2, title="end of a text of 2048 tokens")
plt.show()

# %% [markdown]
# At the end of Qwen's trained length some arrows point nearly the other way.
#
# Be careful with what this means. A rounded frequency is still a frequency: the scores still depend
# on the distance alone. It is as if the model had slightly *other* hands, and that is bad only if
# it was trained with the right ones. Much worse is to round the **angles**: then neighbours may get
# the same angle, and "five back" no longer means the same everywhere.


# %%
def turn_by(x, angles):
    """Return x (1, 1, 1, Dh), turned by the given angles (Dh/2,)."""
    both = np.concatenate((angles, angles))[None]  # (1, Dh)
    return rope_forward(x, np.cos(both), np.sin(both))[0]


# %%
q4, k4 = q[None, None], k[None, None]  # (B, H, T, Dh)
print("q, k at           right  rounded f  rounded angles")
rough = {}
for m, n in ((3, 7), (1003, 1007), (1903, 1907)):
    by_f = turn_by(q4, m * f_rough) * turn_by(k4, n * f_rough)
    by_angle = turn_by(q4, as_bfloat16(m * f)) * turn_by(k4, as_bfloat16(n * f))
    rough[m] = by_f.sum(), by_angle.sum()
    print(f"{m:4}, {n:4} {score(m, n):12.4f} {rough[m][0]:10.4f} {rough[m][1]:15.4f}")
assert abs(rough[1903][0] - rough[3][0]) < 1e-10  # only the distance counts
assert abs(rough[1903][1] - rough[3][1]) > 1  # not any more
print("different positions in 0 .. 4095 as bfloat16:", np.unique(as_bfloat16(np.arange(4096))).size)

# %% [markdown]
# In the first two columns one number stands three times. In the last column there are three
# different numbers. (The positions themselves do not survive either: of 4096 only 769 are left.) So
# `rope_inv_freq` and `rope_tables` refuse anything below float32, and `rope_forward` turns half
# precision q and k in float32.
#
# ## 8 Backward, line by line
#
# Let `dy` be ∂L/∂y. For one pair, read the two equations of section 1 as a matrix:
#
# $$\begin{pmatrix}a'\\b'\end{pmatrix} =
# \begin{pmatrix}\cos\varphi & -\sin\varphi\\ \sin\varphi & \cos\varphi\end{pmatrix}
# \begin{pmatrix}a\\b\end{pmatrix}
# \qquad
# \begin{pmatrix}da\\db\end{pmatrix} =
# \begin{pmatrix}\cos\varphi & \sin\varphi\\ -\sin\varphi & \cos\varphi\end{pmatrix}
# \begin{pmatrix}da'\\db'\end{pmatrix}$$
#
# For y = R x the gradient is always dx = Rᵀ dy. The transpose of a rotation is the rotation by −φ:
# **the gradient is turned back**. Turning by −φ leaves cos as it is and flips sin:

# %%
dy = rng.standard_normal(y.shape)

dx = dy * cos - rotate_half(dy) * sin  # forward it was  x * cos + rotate_half(x) * sin

assert np.array_equal(dx, rope_backward(dy, cache))
print("equal, bit for bit")

# %% [markdown]
# To see the matrix itself, send the four unit vectors through forward (position 1, Dh = 4): unit
# vector j comes out as column j of R. Send them through backward, and the columns of Rᵀ come out.

# %%
tables_4 = rope_tables(np.ones(4, int), rope_inv_freq(4, 10_000.0, "float64"))
columns, cache_4 = rope_forward(np.eye(4)[None, None], *tables_4)
R = columns[0, 0].T
R_back = rope_backward(np.eye(4)[None, None], cache_4)[0, 0].T
print("R, forward:", R.round(3), "backward:", R_back.round(3), sep="\n")
assert np.array_equal(R_back, R.T)
assert np.allclose(R.T @ R, np.eye(4))  # turned there and back: nothing has happened

# %% [markdown]
# The diagonal stays, the sines change sides. And as a rotation keeps every length, the gradient
# keeps its size too. RoPE makes no gradient vanish or explode.

# %%
norms = np.linalg.norm(dx, axis=-1), np.linalg.norm(dy, axis=-1)
print("largest difference of the norms of dx and dy:", np.abs(norms[0] - norms[1]).max())
assert np.allclose(*norms, rtol=1e-13)
assert np.abs(rope_backward(y, cache) - x).max() < 1e-14  # backward undoes forward

# %% [markdown]
# **The proof.** Finite differences know nothing of rotations. They move each of the 240 numbers of
# x up and down and watch L = Σ y · dy, with a random dy:


# %%
def turn_x(x):
    """Turn x by the tables of section 4."""
    return rope_forward(x, cos, sin)


(error,) = check_gradients(turn_x, rope_backward, x)
print(f"error of dx, over its largest entry: {error:.0e}")
assert error < 1e-7

# %% [markdown]
# ## 9 Break it
#
# **Mistake 1: backward turns forwards.** A `+` instead of a `-`, and all shapes are right.


# %%
def broken_backward(dy, cache):
    """Turn dy the wrong way."""
    return dy * cache.cos + rotate_half(dy) * cache.sin


wrong = broken_backward(dy, cache)
(found,) = gradient_errors(turn_x, broken_backward, x)
print(f"error {found.error:.2f} at (b, h, t, feature) = {found.place}")
print("norms still equal:", np.allclose(np.linalg.norm(wrong, axis=-1), norms[1]))
print("right at position:", np.flatnonzero(np.abs(wrong - dx).max(axis=(0, 1, 3)) < 1e-12))
assert found.error > 0.1

# %% [markdown]
# The gradient check finds it at once. Note what does *not* find it: the norms are right, and a test
# at position 0 alone would pass, where nothing is turned.
#
# **Mistake 2: the sign of the sine is wrong, in both directions.**

# %%
flipped_y, _ = rope_forward(x, cos, -sin)
(error,) = check_gradients(lambda x: rope_forward(x, cos, -sin), rope_backward, x)
print(f"gradient check: {error:.0e}, passes")
print("error of y by position:", np.abs(flipped_y - y).max(axis=(0, 1, 3)).round(2))
assert error < 1e-7
assert np.array_equal(flipped_y[:, :, 0], y[:, :, 0])  # position 0 is exact
assert np.abs(flipped_y - y)[:, :, 1:].max(axis=(0, 1, 3)).min() > 0.1  # all others are wrong

# %% [markdown]
# The check passes, and it is right to: this backward *belongs* to this forward. It is a fine RoPE
# that turns clockwise. Only it is not Qwen's. Before and after have changed places:

# %%
flipped = turn(q, [-3]) * turn(k, [-7])  # to turn clockwise is to count the positions downwards
print(f"flipped, q at 3, k at 7: {flipped.sum():.6f}   right, q at 7, k at 3: {score(7, 3):.6f}")
assert abs(flipped.sum() - score(7, 3)) < 1e-12

# %% [markdown]
# **Fingerprints.** To find such a mistake you need something to compare with: numbers worked out by
# hand (section 2), or the published model. Then do not look at one number. Look at the error *by
# distance*, because mistakes differ there. We take 300 random q and k, put k at position 0 and q at
# distance d, and measure the error of the score (root mean square, relative).

# %%
d = np.unique(np.r_[0, np.geomspace(1, 32_768, 36).astype(int)])
Qs, Ks = rng.standard_normal((2, 300, 1, 128))
Qs, Ks = (np.repeat(x, d.size, axis=1) for x in (Qs, Ks))  # (300, distances, 128)


def scores(how, shift=0):
    """Return the scores (300, distances) of q at d + shift and k at shift."""
    return (how(Qs, d + shift) * how(Ks, 0 * d + shift)).sum(axis=-1)


# %%
right = scores(turn)
wrong = {
    "sign flipped": scores(lambda x, p: turn(x, -p)),
    "pairs interleaved": scores(turn_interleaved),
    "base 1,000,000 for 10,000": scores(lambda x, p: turn(x, p, 1e6)),
    "frequencies in bfloat16": scores(
        lambda x, p: rope_forward(x[None], *rope_tables(p, f_rough))[0][0]
    ),
    "positions shifted by 1000": scores(turn, shift=1000),
}
error = {
    name: np.sqrt(((w - right) ** 2).mean(0) / (right**2).mean(0)) for name, w in wrong.items()
}

# %%
fig, ax = plt.subplots(figsize=(9.5, 4.4), layout="constrained")
styles = zip("os^Dv", ("tab:orange", "tab:red", "tab:purple", "tab:blue", "tab:green"), strict=True)
for (name, e), (marker, color) in zip(error.items(), styles, strict=True):
    ax.plot(d, e, marker + "-", color=color, markersize=4.5, label=name)
ax.set_xscale("symlog", linthresh=1)
ax.set(xlim=(-0.1, 40_000), ylim=(-0.05, 1.6))
ax.set(xlabel="distance between query and key", ylabel="error of the score, relative")
ax.set_title("Five mistakes, and what the error by distance says")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
assert all(e[0] < 1e-12 for e in error.values())  # at distance 0 nothing shows, whatever is wrong
assert error["positions shifted by 1000"].max() < 1e-12
assert min(error["sign flipped"][1], error["pairs interleaved"][1]) > 0.2  # at distance 1
assert error["frequencies in bfloat16"][d <= 10].max() < 0.01
assert error["frequencies in bfloat16"][-1] > 0.5

# %% [markdown]
# | mistake | how its error looks | how to be sure |
# | --- | --- | --- |
# | sign flipped | large from distance 1 on | swap the two positions: right |
# | pairs interleaved | large from distance 1 on | reorder the features: right |
# | wrong base | small at 1, large from about 10 on | pair 0 is right, pair 63 most wrong |
# | bfloat16 frequencies | unseen in short texts, then grows | compare the tables |
# | all positions shifted | none: only distances count | later, in LogN, windows, or a KV cache |
#
# All five give the right answer at distance 0, and a gradient check passes for all five. It
# proves that backward belongs to forward. It cannot know which forward you wanted.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. The frequencies.** Write a line of NumPy that gives the four frequencies of a head
# with Dh = 8 and base 100. Use no function of `minqwen`.

# %%
answer_1 = None  # an array of four numbers, the fastest first

# %% [markdown]
# <details><summary>Solution</summary>
#
# The exponent runs over 0, 2/8, 4/8, 6/8. It never reaches 1: the last pair is a step short of
# 1 / base.
#
# ```python
# answer_1 = 100.0 ** -(np.arange(0, 8, 2) / 8)
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    assert np.shape(answer_1) == (4,), f"four numbers, not shape {np.shape(answer_1)}"
    assert np.allclose(answer_1, rope_inv_freq(8, 100.0, "float64")), "no; what is i = 1 to give?"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. One full turn.** Pair 20 of Qwen2 (Dh = 128, base 1,000,000): what is the first
# whole position where it has turned by 2π or more? And by hand or by code: is it filled or hollow
# in the plot of section 5?

# %%
answer_2 = None  # a position, and "filled" or "hollow", such as (7, "hollow")

# %% [markdown]
# <details><summary>Solution</summary>
#
# f = 10⁶ to the power −40/128, which is 0.0133. One turn takes 2π / f = 471.2 positions, so 472 is
# the first whole one. That is far below 32,768: filled.
#
# ```python
# answer_2 = (int(np.ceil(2 * np.pi / 1e6 ** (-40 / 128))), "filled")
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    angle = np.arange(1000) * rope_inv_freq(128, 1e6, "float64")[20]
    assert answer_2[0] == np.argmax(angle >= 2 * np.pi), "no; print(angle[answer_2[0]])"
    assert answer_2[1] == ("filled" if seen["Qwen2"][20] else "hollow"), "look at pair 20 again"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. The gradient of a pair.** Forward: a' = a·c − b·s and b' = a·s + b·c, with c = cos φ
# and s = sin φ. You are given `da_`, `db_` (the gradients of a' and b'). Which roads lead from a to
# the loss? Write `da` and `db`.

# %%
phi = rng.uniform(0, 6, 5)  # five positions
c, s = np.cos(phi), np.sin(phi)
da_, db_ = rng.standard_normal((2, 5))
answer_3 = None  # (da, db)

# %% [markdown]
# <details><summary>Solution</summary>
#
# a reaches a' with factor c, and b' with factor s: two roads, added. b reaches a' with factor −s,
# and b' with factor c. Read by columns what forward reads by rows: that is the transpose.
#
# ```python
# answer_3 = (da_ * c + db_ * s, -da_ * s + db_ * c)
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    two = np.zeros((1, 1, 5, 2))
    _, pair_cache = rope_forward(two, np.stack((c, c), -1), np.stack((s, s), -1))
    want = rope_backward(np.stack((da_, db_), axis=-1)[None, None], pair_cache)[0, 0]
    assert np.allclose(answer_3[0], want[:, 0]), "da: both a' and b' contain a"
    assert np.allclose(answer_3[1], want[:, 1]), "db: look at the sign in a'"
    print("Exercise 3: right")

# %% [markdown]
# **Exercise 4. A head that looks five back.** Here is one query `q0`. Find a key `k0` of the same
# length, so that the score of q0 at position m and k0 at position n is largest when n = m − 5,
# everywhere in the text. You may use `turn`.

# %%
q0 = np.ones((1, 128))
answer_4 = None  # k0, of shape (1, 128)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The score is q0ᵀ R(n − m) k0, which is q0ᵀ R(−5) k0 at five back. It is largest if R(−5) k0 is q0
# itself. So k0 = R(5) q0: the key leans five positions ahead.
#
# ```python
# answer_4 = turn(q0, [5])
# ```
#
# The kernel K of section 6 is the same as before, with its top moved from 0 to 5. A model learns
# such a lean in the weights and biases of `q_proj` and `k_proj`.
#
# </details>

# %%
if answer_4 is None:
    print("Exercise 4: not yet")
else:
    assert np.isclose(np.linalg.norm(answer_4), np.linalg.norm(q0)), "keep the length"
    for m in (20, 700):
        keys = turn(np.tile(answer_4, (m + 1, 1)), range(m + 1))  # at all positions 0 .. m
        best = int(np.argmax(keys @ turn(q0, [m])[0]))
        assert best == m - 5, f"from position {m} it looks at {best}, not at {m - 5}"
    print("Exercise 4: right")

# %% [markdown]
# **Where to go from here.** Open `minqwen/layers/rope.py` again: you know every line of it. The
# hollow pairs of section 5 are still an open question: *what happens past the trained length, where
# they show angles that no layer has met?* Notebook `10_ntk_and_yarn` changes the
# frequencies so that they do not. `12_dual_chunk_attention` changes the positions instead.

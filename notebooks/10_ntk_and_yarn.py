# %% [markdown]
# # NTK and YaRN: reading longer than trained
#
# *Made from `10_ntk_and_yarn.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# Qwen was trained on texts of 2048 tokens. Give it 4096, and the perplexity of the 7B model jumps
# from 3.78 to 39.35 (report, table 3). With *dynamic NTK* it is 3.59, and not one weight was
# trained for it: only the frequencies of RoPE are changed. Qwen2 does the same job with *YaRN*.
#
# ## What you will do
#
# - Find out which angles a model has never seen, pair by pair.
# - Repair that in three ways: interpolation, NTK, YaRN. Build each from the plain frequencies.
# - Go through the backward pass: a new table, and one factor.
# - Walk into the trap with the KV cache, and break two formulas on purpose.
#
# ## What you will learn
#
# - Why the *base* is changed and not the positions.
# - Where the exponent Dh / (Dh − 2) comes from.
# - Why Qwen's alpha is 3 and not 2 for a text of twice the trained length.
# - Why YaRN multiplies cos and sin by a number, and why scores get its square.
#
# ## What you need
#
# RoPE, as in notebook 05, and NumPy with matplotlib. 20 minutes; it runs in a few seconds. Beside
# this page, open `minqwen/long_context/ntk.py` and `yarn.py`.

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

from minqwen.check.gradients import check_gradients, compare_gradient, numerical_gradient
from minqwen.layers.rope import (
    rope_backward,
    rope_forward,
    rope_inv_freq,
    rope_tables,
    rotate_half,
)

rng = np.random.default_rng(0)

# %%
from minqwen.long_context.ntk import (
    continuous_ntk_alpha,
    dynamic_ntk_alpha,
    interpolated_inv_freq,
    ntk_base,
    ntk_inv_freq,
)
from minqwen.long_context.yarn import (
    yarn_attention_factor,
    yarn_inv_freq,
    yarn_ramp,
    yarn_range,
    yarn_tables,
)

# %% [markdown]
# ## 1 Which angles are new?
#
# RoPE turns pair i of a query or key at position p by the angle p · f_i, with f_i = base^(−2i/Dh).
# A score depends on the *distance* of the two tokens, so on the angle distance · f_i. In training
# the distance is below L0, so pair i sees the angles from 0 to L0 · f_i.
#
# Take the first Qwen: Dh = 128, so 64 pairs; base 10,000; L0 = 2048.

# %%
Dh, base, L0 = 128, 10_000.0, 2048
plain = rope_inv_freq(Dh, base, "float64")  # (64,) radians per token, the fastest first
turns = L0 * plain / (2 * np.pi)  # full turns within the trained length
slow = turns < 1
for i in (0, 20, 40, 41, 63):
    print(f"pair {i:2}: {plain[i]:.5f} rad per token, {turns[i]:8.3f} turns in {L0} tokens")
print("pairs that never finished a turn:", slow.sum(), "of", Dh // 2)
assert np.array_equal(np.flatnonzero(slow), np.arange(41, 64))

# %% [markdown]
# Pairs 0 to 40 went around at least once: every angle is known to them. Pairs 41 to 63 did not.
# What do they meet in a text that is four times as long?

# %%
seen, later = np.minimum(turns, 1), np.minimum(4 * turns, 1)  # parts of the circle
fig, ax = plt.subplots(figsize=(9, 3.8), layout="constrained")
ax.bar(range(64), seen, color="tab:blue", label=f"seen in training, up to {L0} tokens")
ax.bar(range(64), later - seen, bottom=seen, color="tab:red", label=f"new at {4 * L0} tokens")
ax.set(xlabel="pair i", ylabel="part of the circle, in turns", ylim=(0, 1.05))
ax.set_title("Fast pairs know the whole circle. Slow pairs meet angles they never saw")
ax.legend(loc="lower left", framealpha=1)
plt.show()

# %% [markdown]
# The red part is the problem. Nothing in training told the weights what these angles mean, and the
# scores they produce are arbitrary. Every cure below has one aim: **no red.** They differ in what
# they break on the way.
#
# ## 2 First cure: divide all positions
#
# *Position interpolation*: for a text that is s times too long, divide every position by s. That is
# the same as dividing every frequency by s. For the numbers we take a tiny head with Dh = 8.

# %%
tiny = rope_inv_freq(8, base, "float64")
divided = interpolated_inv_freq(8, base, 4.0, "float64")
print("plain       ", tiny)
print("divided by 4", divided)
for_position_12 = rope_tables(np.array([12]), divided)
assert np.allclose(for_position_12, rope_tables(np.array([3]), tiny), atol=1e-15)

# %% [markdown]
# Position 12 now has the angles of position 3. No red is left: a text of 4 · L0 tokens uses the
# angles from 0 to L0 · f again.
#
# But look at the first pair. In training, neighbours were 1 radian apart, always. Now they are 0.25
# radians apart: *all* neighbours look closer than any two tokens ever did. The fast pairs carry the
# order of near tokens, they had no problem, and they are damaged. Interpolation works after some
# more training, and less well without.
#
# ## 3 Second cure: a larger base
#
# We want to divide the last pair by alpha, and the first pair by nothing. A larger base does that,
# because f_i = base^(−2i/Dh) leaves i = 0 alone and moves the last pair most. How much larger? The
# last pair is i = Dh/2 − 1, so 2i = Dh − 2. Its new frequency must be the old one over alpha:
#
# $$\mathrm{base}'^{\,-(D_h-2)/D_h} = \frac{\mathrm{base}^{\,-(D_h-2)/D_h}}{\alpha}
# \quad\Longrightarrow\quad \mathrm{base}' = \mathrm{base}\cdot\alpha^{D_h/(D_h-2)}$$
#
# and for a pair in between,
#
# $$f'_i = f_i \cdot \alpha^{-2i/(D_h-2)}$$

# %%
alpha, i = 3.0, np.arange(4)
new_base = base * alpha ** (8 / 6)
by_base = new_base ** (-2 * i / 8)
by_pair = tiny / alpha ** (2 * i / 6)
print(f"base {base:.0f} -> {new_base:.4f}")
print("new frequencies  ", by_base.round(6))
print("old / new        ", (tiny / by_base).round(6))
assert np.allclose(by_base, by_pair, rtol=1e-12)
assert new_base == ntk_base(base, alpha, 8)
assert np.allclose(by_base, ntk_inv_freq(8, base, alpha, "float64"), rtol=1e-12)

# %% [markdown]
# First pair divided by 1, last by exactly 3. This is *NTK-aware interpolation*. The name comes from
# the theory of the neural tangent kernel, which says that networks learn fine detail only from high
# frequencies; so do not touch those.
#
# ## 4 How large must alpha be?
#
# It is tempting to take alpha = 2 for a text of twice the trained length. But only the *last* pair
# is divided by the whole alpha. Let us measure how far the slow pairs go, in units of what they
# have seen.


# %%
def furthest(alpha, ratio):
    """Return how far each slow pair turns in a text of ratio * L0, over its trained range."""
    return ratio * ntk_inv_freq(Dh, base, alpha, "float64")[slow] / plain[slow]


for alpha in (1.0, 2.0, 3.0):
    reach = furthest(alpha, 2)
    beyond = (reach > 1 + 1e-9).sum()
    print(f"alpha {alpha}: {beyond:2} of 23 slow pairs go beyond, at worst {reach.max():.2f} x")
assert (furthest(3.0, 2) <= 1).all()

# %% [markdown]
# With alpha = 2 nearly every slow pair still leaves its range; with alpha = 3 none does. The worst
# one is always pair 41, the first of the slow ones. From alpha^(2·41/126) = ratio we get the alpha
# that is just enough. Now compare with the two rules that are in use:
#
# $$\text{Qwen:}\quad \alpha = \max\bigl(1,\; 2^{\lceil \log_2(T/L_0) + 1\rceil} - 1\bigr)
# \qquad\qquad \text{transformers:}\quad \alpha = s\,\frac{T}{L_0} - (s - 1)$$

# %%
lengths = np.arange(1, 8 * L0 + 1, 16)
qwen = [dynamic_ntk_alpha(int(T), L0) for T in lengths]
line = [continuous_ntk_alpha(int(T), L0, 2.0) for T in lengths]
enough = np.maximum(1, lengths / L0) ** (126 / 82)
fig, ax = plt.subplots(figsize=(9, 4.2), layout="constrained")
ax.plot(lengths / L0, qwen, label="Qwen: a staircase")
ax.plot(lengths / L0, line, label="transformers, factor 2: a line")
ax.plot(lengths / L0, enough, "k--", label="just enough for pair 41")
ax.set(xlabel="length of the text / trained length", ylabel="alpha", xlim=(0, 8), ylim=(0, 26))
ax.set_title("Dynamic NTK: alpha follows the length of the text")
ax.legend()
plt.show()

# %%
for T in (2048, 2049, 4096, 4097, 8192):
    step, straight = dynamic_ntk_alpha(T, L0), continuous_ntk_alpha(T, L0, 2.0)
    print(f"T = {T}: staircase {step:4.0f}   line {straight:6.3f}")
assert dynamic_ntk_alpha(4096, L0) == continuous_ntk_alpha(4096, L0, 2.0) == 3

# %% [markdown]
# Three things to see.
#
# - Up to L0 alpha is 1. Short texts are read exactly as before: nothing is lost. That is why the
#   rule is *dynamic*.
# - The line and the staircase meet at 2, 4, 8 times L0. In between, the staircase is higher, that
#   is, on the safe side. And it has few values: it changes once when the text doubles.
# - Up to 3.5 times L0 the staircase is enough for every pair, and again from 4 to 5.8 times. Then
#   a few pairs leave their range: at 8 times, 8 of 23, by up to 37 %. (The dashed line is our
#   reading. The report gives no reason for its rule.)
#
# ## 5 Third cure: YaRN
#
# NTK slows every pair but the first, also those that know the whole circle. YaRN asks each pair
# **how many turns it made in training**, and decides:
#
# | turns within L | what happens |
# | --- | --- |
# | more than 32 | it stays: f |
# | less than 1 | it is interpolated: f / s |
# | in between | a mixture |
#
# Which index belongs to n turns? Solve L · base^(−2i/Dh) = 2πn for i:
#
# $$\dim(n) = \frac{D_h \ln\frac{L}{2\pi n}}{2 \ln \mathrm{base}}$$
#
# Here are the numbers of Qwen2-7B: base 1,000,000, L = 32,768, s = 4.

# %%
base2, L, s = 1e6, 32_768, 4.0


def dim(n):
    """Return the index, a real number, of the pair that makes n turns within L."""
    return 128 * np.log(L / (2 * np.pi * n)) / (2 * np.log(base2))


print(f"dim(32) = {dim(32):.3f}, dim(1) = {dim(1):.3f}")
low, high = np.floor(dim(32)), np.ceil(dim(1))  # rounded away from the middle
assert (low, high) == yarn_range(128, base2, L) == (23, 40)

# %%
ramp = np.clip((np.arange(64) - low) / (high - low), 0, 1)  # 0 stays, 1 is divided by s
plain2 = rope_inv_freq(128, base2, "float64")
yarn = plain2 * (1 - ramp) + plain2 / s * ramp
assert np.array_equal(ramp, yarn_ramp(128, low, high))
assert np.array_equal(yarn, yarn_inv_freq(128, base2, s, L, dtype="float64"))
print("as it was:", (ramp == 0).sum(), " mixed:", (ramp % 1 > 0).sum(), " / s:", (ramp == 1).sum())
assert (ramp == 0).sum() == (ramp == 1).sum() == 24

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name, freq in {"plain": plain2, "YaRN, s = 4": yarn, "divided by 4": plain2 / 4}.items():
    left.semilogy(2 * np.pi / freq, label=name, linestyle="-" if "YaRN" in name else "--")
left.axhline(L, color="black", linewidth=0.8)
left.text(0, L * 1.2, "L: one turn")
left.axhline(L / 32, color="black", linewidth=0.8)
left.text(0, L / 32 * 1.2, "L / 32: 32 turns")
left.set(
    xlabel="pair i", ylabel="wavelength, in tokens", title="YaRN goes from one line to the other"
)
left.legend(loc="lower right")
right.plot(ramp, "k.-")
right.set(xlabel="pair i", ylabel="ramp", title="How much is interpolated (low 23, high 40)")
plt.show()

# %% [markdown]
# ## 6 The three cures beside each other
#
# Back to the first Qwen, for a text of 4 · L0. By how much is each pair divided? A slow pair that
# is divided by less than 4 shows red angles; a fast pair should not be divided at all.

# %%
CURES = {
    "interpolation": interpolated_inv_freq(Dh, base, 4.0, "float64"),
    "NTK, alpha 7": ntk_inv_freq(Dh, base, dynamic_ntk_alpha(4 * L0, L0), "float64"),
    "YaRN, s = 4": yarn_inv_freq(Dh, base, 4.0, L0, dtype="float64"),
}
fig, ax = plt.subplots(figsize=(9, 4), layout="constrained")
for name, freq in CURES.items():
    ax.plot(plain / freq, label=name)
ax.fill_between([40.5, 63], 1, 4, color="tab:red", alpha=0.12)
ax.text(42, 1.15, "slow pair, not slowed enough:\nnew angles")
ax.set(xlabel="pair i", ylabel="old / new frequency", title="By how much each pair is slowed")
ax.legend()
plt.show()

# %%
for name, freq in CURES.items():
    now = np.minimum(4 * L0 * freq / (2 * np.pi), 1)
    red = np.clip(now - seen, 0, None).sum()  # turns, all pairs together
    print(f"{name:14} new angles {red:.3f} turns; neighbours {freq[0]:.2f} rad apart at pair 0")
none = np.clip(later - seen, 0, None).sum()
print(f"{'nothing done':14} new angles {none:.3f} turns; neighbours 1.00 rad apart")
assert np.allclose(4 * CURES["YaRN, s = 4"][slow], plain[slow])

# %% [markdown]
# What does a score make of it? Let query and key be equal in every pair. Then the score at distance
# d is K(d) = mean of cos(d · f_i), as in notebook 05. Near tokens first; then far ones, where we
# average over the neighbourhood, because K wobbles.

# %%
distances = np.arange(10_000)
FREQUENCIES = {"plain": plain, **CURES}
K = {name: rope_tables(distances, f)[0].mean(axis=-1) for name, f in FREQUENCIES.items()}


def level(name, d):
    """Return the mean of K around the distance d."""
    return K[name][int(0.87 * d) : int(1.15 * d)].mean()


# %%
far = np.geomspace(50, 4 * L0, 200)
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4), sharey=True, layout="constrained")
for name in K:
    style = {"color": "black", "linewidth": 2.5} if name == "plain" else {"linewidth": 1.5}
    left.plot(distances[:25], K[name][:25], label=name, **style)
    right.semilogx(far, [level(name, d) for d in far], **style)
right.axvline(L0, color="grey", linestyle="--")
right.axhline(level("plain", L0), color="grey", linestyle="--")
right.text(55, level("plain", L0) - 0.07, "what training ended with, at 2048")
left.set(xlabel="distance d", ylabel="K(d)", title="Near: interpolation is another curve")
right.set(xlabel="distance d", ylabel="mean of K around d", title="Far: plain falls too low")
left.legend()
plt.show()

# %%
for name in K:
    off = np.abs(K[name][:25] - K["plain"][:25]).max()
    print(f"{name:14} off by {off:.2f} near; {level(name, 4 * L0):6.3f} at 8192")
print(f"plain at 2048: {level('plain', L0):.3f}")
assert level("plain", 4 * L0) < 0 < level("plain", L0)
assert all(level(name, 4 * L0) > 0.07 for name in CURES)

# %% [markdown]
# Left: YaRN lies on the trained curve, NTK close to it. Interpolation stretches the curve: a token
# 12 away looks like one 3 away. Right: beyond the trained length plain falls lower than it ever was
# on average. With each of the cures, 8192 tokens away looks about as 2048 did in training.
#
# ## 7 YaRN's second half: the temperature
#
# A longer text also has more keys to look at. If the scores stay as they are, attention is spread
# more thinly: its entropy grows. YaRN multiplies every score by m², with
#
# $$m = 0.1 \ln s + 1$$
#
# Larger scores, sharper softmax. And there is a free place for it. Multiply **cos and sin** by m:
# then the turned query is m times longer, the turned key is m times longer, and the score takes m
# twice. Attention needs no change at all.

# %%
m = yarn_attention_factor(s)
print(f"m = {m:.7f}, m squared = {m * m:.6f}")
assert m == 0.1 * np.log(4.0) + 1
q, k = rng.standard_normal((2, 1, 1, 1, 128))
scores = []
for tables in (rope_tables, lambda positions, freq: yarn_tables(positions, freq, m)):
    q_turned, _ = rope_forward(q, *tables(np.array([90_000]), yarn))
    k_turned, _ = rope_forward(k, *tables(np.array([12]), yarn))
    scores.append((q_turned * k_turned).sum())
print("score without and with m:", scores, "ratio", scores[1] / scores[0])
assert abs(scores[1] / scores[0] - m * m) < 1e-12

# %% [markdown]
# Does it undo the spreading? Draw random scores over n keys and compare the entropy. How much it
# undoes depends on how large the scores are, and 0.1 ln s + 1 is not derived: its authors fitted it
# to LLaMA models.


# %%
def entropy(spread, n, factor=1.0):
    """Return the mean entropy of softmax over n normal scores, in nats."""
    weights = np.exp(factor * spread * np.random.default_rng(1).standard_normal((100, n)))
    probs = weights / weights.sum(axis=-1, keepdims=True)
    return -(probs * np.log(probs)).sum(axis=-1).mean()


print("spread of scores   2048 keys   8192 keys   8192 keys, m squared")
for spread in (1.0, 2.0, 3.0):
    values = entropy(spread, 2048), entropy(spread, 8192), entropy(spread, 8192, m * m)
    print("       {:.0f}             {:.2f}        {:.2f}        {:.2f}".format(spread, *values))
    assert values[2] < values[1]

# %% [markdown]
# LogN, in notebook 11, does the same job for Qwen, with a factor that follows the position.
#
# One price: YaRN is **static**. s is set once and acts on every text, short ones too. A model that
# is switched to YaRN reads even eight tokens a little differently. Dynamic NTK does not.
#
# ## 8 Backward
#
# A rotation is y = R x, and its gradient is the rotation backwards: dx = Rᵀ dy. With new
# frequencies it is another R, and nothing else changes. With YaRN's factor, y = m R x, so
#
# $$dx = m\,R^\top dy$$
#
# Look at one pair, line by line.

# %%
freq = yarn_inv_freq(8, base, 4.0, 64, dtype="float64")
cos, sin = yarn_tables(np.array([50, 51, 52]), freq, m)  # (T, Dh), both times m
x, dy = rng.standard_normal((2, 1, 2, 3, 8))  # (B, H, T, Dh)

y = x * cos + rotate_half(x) * sin
dx = dy * cos - rotate_half(dy) * sin  # the sine changes its sign, m stays

y_package, cache = rope_forward(x, cos, sin)
assert np.array_equal(y, y_package)
assert np.array_equal(dx, rope_backward(dy, cache))

# %%
turned_back = dx / m  # R^T dy: a rotation keeps lengths
print("length of dy, token by token: ", np.linalg.norm(dy, axis=-1).round(4)[0, 0])
print("length of dx / m:             ", np.linalg.norm(turned_back, axis=-1).round(4)[0, 0])
assert np.allclose(np.linalg.norm(turned_back, axis=-1), np.linalg.norm(dy, axis=-1))
# forward and then backward: m twice, and the rotation is gone
assert np.allclose(rope_backward(y, cache), m * m * x)

# %% [markdown]
# So `yarn.py` and `ntk.py` have no backward function. The proof, with central differences for
# L = Σ y · dy:


# %%
def loss():
    """Return L for x as it is now."""
    return float((rope_forward(x, cos, sin)[0] * dy).sum())


print(f"YaRN: error {compare_gradient('x', dx, numerical_gradient(loss, x)).error:.0e}")
assert compare_gradient("x", dx, numerical_gradient(loss, x)).error < 1e-7
ntk = rope_tables(np.array([50, 51, 52]), ntk_inv_freq(8, base, 7.0, "float64"))
errors = check_gradients(lambda x: rope_forward(x, *ntk), rope_backward, x)
print(f"NTK:  error {errors[0]:.0e}")

# %% [markdown]
# ## 9 Break it
#
# Two mistakes that people make. *The exponent is forgotten*: base · alpha. *The ramp is reversed*:
# the fast pairs are interpolated. Does the gradient check notice?

# %%
RULES = {
    "NTK": (ntk_inv_freq(Dh, base, 4.0, "float64"), 1, 4),
    "NTK, exponent forgotten": (rope_inv_freq(Dh, base * 4.0, "float64"), 1, 4),
    "YaRN": (CURES["YaRN, s = 4"], 1, 4),
    "YaRN, ramp reversed": (plain + plain / 4 - CURES["YaRN, s = 4"], 1, 4),
}
x64 = rng.standard_normal((1, 1, 2, Dh))
for name, (freq, first, last) in RULES.items():
    tables = rope_tables(np.array([3, 5000]), freq)
    error = check_gradients(lambda x, t=tables: rope_forward(x, *t), rope_backward, x64)[0]
    got = plain[[0, -1]] / freq[[0, -1]]
    verdict = "right" if np.allclose(got, (first, last)) else "WRONG"
    print(f"{name:24} gradient {error:.0e}, first / {got[0]:.3f}, last / {got[1]:.3f}: {verdict}")
    assert (verdict == "right") == (name in ("NTK", "YaRN"))

# %% [markdown]
# All four pass the gradient check. Of course: each is an honest rotation, and its backward pass
# belongs to it. **A gradient check proves that backward belongs to forward, not that forward is the
# method of the paper.** For that, ask for the properties: the first pair stays, the last is divided
# by exactly alpha (or s). `tests/long_context/` does, and `tests/parity/` compares with
# transformers.
#
# Note how small the first mistake is: 3.914 instead of 4. No plot of the loss would show it.
#
# ## 10 The trap: alpha and the KV cache
#
# While a model writes, the text grows, and at 2049 tokens alpha jumps from 1 to 3. But the keys of
# the earlier tokens are in the cache, *already turned* by the old frequencies. A query turned by
# the new ones does not fit them. A score should depend on the distance alone; here the distance is
# always 5:

# %%
old, new = (ntk_inv_freq(Dh, base, a, "float64") for a in (1.0, 3.0))
print("query at   both new   old key, new query")
for position in (5, 100, 1000, 2000):
    q_new, _ = rope_forward(q, *rope_tables(np.array([position]), new))
    pair = []
    for freq in (new, old):
        k_turned, _ = rope_forward(q, *rope_tables(np.array([position - 5]), freq))
        pair.append((q_new * k_turned).sum())
    print(f"{position:8} {pair[0]:10.4f} {pair[1]:12.4f}")
assert abs(pair[0] - pair[1]) > 1

# %% [markdown]
# What to do? Turning the old keys again is not enough: the keys of layer 2 come from the output of
# layer 1, and that output was computed with the old alpha. There are two honest answers, and
# `KVCache` has both:
#
# - **consistent**: when alpha changes, the whole text goes through the model once more. On the
#   staircase that is once per doubling.
# - **as released**: Qwen's own code keeps the alpha of the prompt, for ever.
#
# A small model with random weights and L0 = 16. We decode token by token after a prompt, and
# compare with a full pass over the same text.

# %%
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.model.kv_cache import KVCache
from minqwen.model.language_model import language_model_forward

# %%
config = QwenConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=16,  # the trained length
    use_dynamic_ntk=True,
    initializer_range=0.4,
)

# %%
params = init_params(config, rng, "float64")
ids = rng.integers(0, 61, (1, 40))


def decode(prompt, as_released):
    """Return, for each length, how far the newest logits are from those of a full pass."""
    kv_cache, errors = KVCache(config, 1, 40, dtype="float64", as_released=as_released), {}
    for start, end in [(0, prompt), *((t, t + 1) for t in range(prompt, 40))]:
        logits, _ = language_model_forward(params, config, ids[:, start:end], kv_cache=kv_cache)
        full, _ = language_model_forward(params, config, ids[:, :end])
        errors[end] = np.abs(logits[0, -1] - full[0, -1]).max() / np.abs(full).max()
    return errors


# %%
fig, ax = plt.subplots(figsize=(9, 4), layout="constrained")
RUNS = {"consistent": (12, False), "as released, prompt of 12": (12, True)}
RUNS["as released, prompt of 20"] = (20, True)
for (name, run), marker in zip(RUNS.items(), ("s", "o", "^"), strict=True):
    errors = decode(*run)
    ax.semilogy(errors.keys(), np.maximum(list(errors.values()), 1e-17), marker + "-", label=name)
    assert (max(errors.values()) < 1e-12) == (name == "consistent")
for length, text in ((16.5, "alpha 1 to 3"), (32.5, "alpha 3 to 7")):
    ax.axvline(length, color="grey", linestyle="--")
    ax.text(length + 0.2, 1e-5, text)
ax.set(xlabel="tokens so far", ylabel="difference from the full pass", ylim=(1e-18, 30))
ax.set_title("Decoding with dynamic NTK")
ax.legend(loc="center")
plt.show()

# %% [markdown]
# As released, a prompt of 12 is decoded with alpha = 1 for ever: beyond 16 tokens it is a model
# without NTK. A prompt of 20 keeps alpha = 3, which is right up to 32. YaRN has none of this: its
# frequencies never change, and cached keys stay right.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. NTK without a new base.** From `plain`, the 64 frequencies of section 1, make those
# of NTK for alpha = 5. Do not compute a base: divide each pair.

# %%
answer_1 = None  # an array like plain

# %% [markdown]
# <details><summary>Solution</summary>
#
# Pair i is divided by alpha to the power 2i / (Dh − 2): by 1 at i = 0, by alpha at the last.
#
# ```python
# answer_1 = plain / 5.0 ** (2 * np.arange(64) / 126)
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    want = ntk_inv_freq(Dh, base, 5.0, "float64")
    assert np.allclose(answer_1, want, rtol=1e-12), "no; print plain / answer_1 for the two ends"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. Which alpha?** Qwen-14B was trained with L0 = 2048. A user gives it a prompt of 3000
# tokens, and it writes until the text has 5000. Which alpha does the released code use for the last
# token, and which one would a run without a cache use? Answer with a pair.

# %%
answer_2 = None  # (released, without a cache)

# %% [markdown]
# <details><summary>Solution</summary>
#
# 3000 lies between L0 and 2 · L0: alpha 3, kept from the prompt on. 5000 lies between 2 · L0 and
# 4 · L0: alpha 7.
#
# ```python
# answer_2 = (3, 7)
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    want = (dynamic_ntk_alpha(3000, 2048), dynamic_ntk_alpha(5000, 2048))
    assert tuple(answer_2) == want, "no; on which step of the staircase are 3000 and 5000?"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. The temperature.** For which factor s does YaRN multiply every score by exactly 1.5?

# %%
answer_3 = None  # a number

# %% [markdown]
# <details><summary>Solution</summary>
#
# Scores get m², so m = √1.5, and 0.1 ln s + 1 = m gives s = exp(10 (m − 1)) = 9.47.
#
# ```python
# answer_3 = np.exp(10 * (1.5**0.5 - 1))
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    assert abs(yarn_attention_factor(answer_3) ** 2 - 1.5) < 1e-6, "no; m is in there twice"
    print("Exercise 3: right")

# %% [markdown]
# **Where to go from here.** Notebook 11 has the other two techniques of the report's section 2.3.2,
# LogN and windows. Notebook 14 trains a small model and measures what each of them does to its
# perplexity.

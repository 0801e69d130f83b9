# %% [markdown]
# # Mixed precision: 16 bits to compute, 32 to remember
#
# *Made from `08_mixed_precision.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# Qwen was trained in "BFloat16 mixed precision" (Qwen report, 2.4). Half of the bits is half of the
# memory and half of the traffic, and processors for it are several times as fast. This page shows
# which of the bits that are gone are missed, and where.
#
# ## What you will do
#
# - Take bfloat16 numbers apart, and round to them, ties to even, with one sum.
# - See which gradients float16 turns into zero, and lift them with a scale.
# - Train without masters, and watch the weights stand still.
# - Follow the loss scale through a run, overflow by overflow.
# - Break a softmax, a norm and RoPE by computing them in 16 bits.
#
# ## What you will learn
#
# - What a number of 16 bits cannot say, in both formats.
# - Why the weights are remembered in 32 bits, although no product ever sees these.
# - Which parts of a model stay in float32, and why each of them.
#
# ## What you need
#
# Notebook 02 (a block and its gradients), NumPy with matplotlib, and `ml_dtypes`, which gives NumPy
# the type bfloat16: `pip install -e ".[hf,notebooks]"`. 20 minutes; it computes for less than a
# minute. Beside this page, open `minqwen/training/mixed_precision.py`.

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
import math
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread only waits

import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(0)
folder = Path(tempfile.mkdtemp())
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %%
from minqwen.check.gradients import numerical_gradient
from minqwen.lab.precision_rope import rounded_tables
from minqwen.layers.cross_entropy import cross_entropy_forward
from minqwen.layers.rmsnorm import rmsnorm_forward
from minqwen.layers.rope import rope_forward
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.training.accumulate import as_batch, loss_and_grads
from minqwen.training.adamw import adamw_init, adamw_step
from minqwen.training.loss_scaling import LossScale, all_finite, next_loss_scale

# %%
from minqwen.training.metrics import Metrics
from minqwen.training.mixed_precision import (
    bfloat16_bits,
    half_params,
    mixed_loss_and_grads,
    round_to_bfloat16,
    to_precision,
)
from minqwen.training.pretrain import pretrain
from minqwen.training.settings import PretrainSettings

# %% [markdown]
# ## 1 Bit by bit
#
# A float32 has a sign, 8 bits of exponent and 23 of fraction:
#
# $$x = \pm\, 2^{e - 127} \cdot (1 + \text{fraction} / 2^{23})$$
#
# bfloat16 is its upper half: the same exponent, 7 bits of fraction. float16 shares out its 16 bits
# in another way: 5 for the exponent, 10 for the fraction.


# %%
def bit_text(x, exponent, fraction):
    """Return the bits of a number, between bars."""
    size = 1 + exponent + fraction
    text = f"{int(x.view(f'uint{size}')):0{size}b}"
    return f"{text[0]} | {text[1 : 1 + exponent]} | {text[1 + exponent :]}"


for value in np.array([1.0, 0.1, 3.14159, 300.0], np.float32):
    short = np.uint16(bfloat16_bits(np.array([value]))[0]).view(np.float16)  # its bits only
    print(f"{value:g}\n  float32   {bit_text(value, 8, 23)}")
    print(f"  bfloat16  {bit_text(short, 8, 7)}")
    print(f"  float16   {bit_text(np.float16(value), 5, 10)}")

# %% [markdown]
# So bfloat16 reaches as far as float32, up to 3.4e38, in coarse steps. After 1 comes 1 + 1/128,
# after 256 comes 258. float16 has steps eight times as fine, but ends at 65504, and below 6e-8 is
# only 0.

# %%
print("format     after 1   after 256   largest    smallest")
for name in ("bfloat16", "float16"):
    kind = to_precision(np.ones(1, np.float32), name).dtype
    bits = np.arange(1, 2**15, dtype=np.uint16).view(kind).astype(np.float32)
    real = bits[np.isfinite(bits)]  # all positive numbers of this format, in order
    after = [real[np.searchsorted(real, at) + 1] for at in (1, 256)]
    print(f"{name:8} {after[0]:9.6f} {after[1]:9.2f} {real[-1]:13.4g} {real[0]:11.2g}")
    assert after[1] == {"bfloat16": 258, "float16": 256.25}[name]

# %% [markdown]
# ## 2 Ties go to even
#
# 16 bits are cut off. Call them `low`. Above the tie `0x8000` we round up, below it down. At the
# tie both neighbours are equally near, and we take the one whose last bit is 0. One sum does all of
# it, because it carries into the kept bits in exactly these cases:
#
#     odd  = (bits >> 16) & 1
#     kept = (bits + 0x7FFF + odd) >> 16

# %%
print("bits          low      odd   kept     is")
for bits in (0x3F807FFF, 0x3F808000, 0x3F808001, 0x3F818000, 0x3F81FFFF):
    odd = (bits >> 16) & 1
    kept = (bits + 0x7FFF + odd) >> 16
    value = np.array([bits], np.uint32).view(np.float32)
    rounded = float(round_to_bfloat16(value)[0])
    print(f"{bits:#x}  {bits & 0xFFFF:#06x}  {odd:3}   {kept:#x}   {rounded}")
    assert kept == bfloat16_bits(value)[0]
every = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
same = bfloat16_bits(every) == np.arange(2**16)
print("patterns that stay as they are:", same.sum(), "of 65536; the others are NaN made quiet")
assert np.isnan(every[~same]).all()

# %% [markdown]
# **Something broken on purpose.** It is tempting to cut off the lower half and be done. One number
# is then off by up to a whole step. Worse, all are off to the same side. Rounding to nearest errs
# on both sides, and a sum of many errors is small.

# %%
x = rng.uniform(1, 2, 100_000).astype(np.float32)
cut_off = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
for name, y in (("to nearest", round_to_bfloat16(x)), ("cut off", cut_off)):
    error = (y.astype(np.float64) - x) * 2**7  # in steps
    print(f"{name:11} mean error {error.mean():8.4f} steps, largest {np.abs(error).max():.3f}")
assert abs(cut_off.mean(dtype=np.float64) - x.mean(dtype=np.float64)) * 2**7 > 0.49

# %% [markdown]
# How far off is a number of any size? bfloat16: by up to 0.4 %, everywhere. float16: by 0.05 %, but
# in a window. Left of the window numbers fade out (subnormals), and then there is nothing.

# %%
size = np.float32(2) ** np.arange(-45, 40, 0.01, dtype=np.float32)
fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
for name, color in (("bfloat16", "tab:blue"), ("float16", "tab:orange")):
    with np.errstate(invalid="ignore"):
        error = np.abs(to_precision(size, name).astype(np.float32) - size) / size
    top = np.minimum(error, 1).reshape(-1, 50).max(axis=1)  # the worst nearby; infinity counts as 1
    ax.semilogy(np.log2(size[::50]), top, color=color, label=name)
ax.set(xlabel="log2 of the number", ylabel="relative error, at worst")
ax.legend()
plt.show()
assert error[size < 2.0**-26].min() == 1  # float16, the last one

# %% [markdown]
# ## 3 What float16 turns into zero
#
# A small model, which learns to count in steps. First the exact gradient of one batch, in float32:

# %%
config = QwenConfig(
    vocab_size=48,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)

# %%
start, stride = rng.integers(0, 48, (400, 1)), rng.integers(1, 8, (400, 1))
rows = ((start + stride * np.arange(33)) % 48).astype(np.int32)
params, batch = init_params(config, rng), as_batch(rows[:8])
loss, exact = mixed_loss_and_grads(params, config, batch, "float32")
flat = np.concatenate([g.ravel() for g in exact.values()])
print(f"loss {float(loss):.3f}, ln 48 = {math.log(48):.3f}, {flat.size} gradients")

# %% [markdown]
# Our batch has 256 tokens, that of Qwen 4 million. Each token counts 1 / 4M there, and so does all
# that flows back from it. The share of our batch in such a batch is $2^{-14}$:

# %%
fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
exponents = np.log2(np.abs(flat[flat != 0]))
for name, shift in (("our batch", 0), ("its share in 4M tokens", -14), ("times 2^16 again", 2)):
    ax.hist(exponents + shift, bins=100, histtype="step", label=name)
ax.axvspan(-65, -25, color="tab:red", alpha=0.12, label="zero in float16")
ax.axvline(-14, color="0.4", ls=":", label="fades out below")
ax.set(xlabel="log2 of |gradient|", ylabel="how many", xlim=(-50, 5))
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# And now truly computed in float16. Each gradient on the way back is rounded, so zeros spread:

# %%
print("scale    zero in float16   in bfloat16   not finite in float16")
for k in (-14, -7, 0, 8, 16, 24):
    _, half = mixed_loss_and_grads(params, config, batch, "float16", 2.0**k)
    _, brain = mixed_loss_and_grads(params, config, batch, "bfloat16", 2.0**k)
    zero, zero_b = (
        np.mean([np.mean((g[n] == 0) & (exact[n] != 0)) for n in exact]) for g in (half, brain)
    )
    bad = np.mean([np.mean(~np.isfinite(g)) for g in half.values()])
    print(f"2^{k:<5} {zero:14.1%} {zero_b:14.1%} {bad:18.1%}")
    assert (k == -14) <= (zero > 0.3)
    assert zero_b < 0.001

# %% [markdown]
# So there is a range of scales in which float16 does well: lift the gradients, but not too far.
# bfloat16 does not care, as it has the exponents of float32.
#
# ## 4 Masters
#
# AdamW moves a weight by about the learning rate, say 0.001. A bfloat16 near 1 has no neighbour
# nearer than 0.0078 above. Half a step or less is rounded away. A thousand such updates too:

# %%
master, weight = np.ones(1, np.float32), np.ones(1, np.float32)
told = []
for _ in range(200):
    master = master + np.float32(0.001)
    weight = round_to_bfloat16(weight + np.float32(0.001))
    told.append((master[0], round_to_bfloat16(master)[0], weight[0]))

# %%
fig, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
names = ("master", "what products see", "no master")
for line, name in zip(np.transpose(told), names, strict=True):
    ax.plot(line, label=name)
ax.set(xlabel="update", ylabel="weight")
ax.legend()
plt.show()
assert told[-1][2] == 1
assert abs(told[-1][0] - 1.2) < 1e-3

# %% [markdown]
# So remember the weight in float32, and round a copy of it for each step:
#
#     half   = round(master)
#     grads  = backward(forward(half))
#     master = adamw(master, grads)
#
# ### A gradient of what?
#
# Rounding is a staircase: flat, with jumps. So the loss, as a function of the *master*, has slope 0
# nearly everywhere. What we give to AdamW is the slope at the rounded weight, handed on as if there
# were no rounding (*straight through*):
#
# $$\frac{\partial L}{\partial\,\mathrm{master}} \;:=\; \frac{\partial L}{\partial\,\mathrm{half}}$$
#
# Finite differences tell the two apart. Six numbers, the first gains of the last norm:

# %%
wide = {key: w.astype("float64") for key, w in params.items()}
gains = wide["model.norm.weight"][:6]  # a view: who moves it moves the model


def loss_of(change=lambda w: w):
    """Return the loss of the batch in float64, of weights that are changed first."""
    return float(loss_and_grads(wide | {"model.norm.weight": change(wide["model.norm.weight"])},
                                config, [batch]).loss)  # fmt: skip


def stairs(w):
    return round_to_bfloat16(w.astype("float32")).astype("float64")


# %%
backward = loss_and_grads(wide, config, [batch]).grads["model.norm.weight"][:6]
slopes = {
    "backward, float64": backward,
    "differences, no rounding": numerical_gradient(loss_of, gains),
    "rounded, small steps": numerical_gradient(lambda: loss_of(stairs), gains),
    "rounded, steps of 1/16": numerical_gradient(lambda: loss_of(stairs), gains, step=2**-4),
    "backward, bfloat16": mixed_loss_and_grads(params, config, batch, "bfloat16")[1][
        "model.norm.weight"
    ][:6],
}
for name, slope in slopes.items():
    print(f"{name:25}", *(f"{1e3 * x:8.4f}" for x in slope), " / 1000")

# %%
assert np.abs(slopes["differences, no rounding"] - backward).max() < 1e-9
assert not slopes["rounded, small steps"].any()  # exactly 0: nothing was seen to move
for name in ("rounded, steps of 1/16", "backward, bfloat16"):
    assert np.abs(slopes[name] - backward).max() < 0.1 * np.abs(backward).max()
at, around = gains.copy(), np.linspace(-0.025, 0.025, 61)
curves = {"not rounded": [], "rounded to bfloat16": []}
for x in around:
    gains[:] = at + x * np.sign(-backward)
    for name, change in zip(curves, (np.copy, stairs), strict=True):
        curves[name].append(loss_of(change))
gains[:] = at

# %%
fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
for (name, values), style in zip(curves.items(), ("-", "."), strict=True):
    ax.plot(around, 1000 * (np.array(values) - loss_of()), style, label=name)
ax.set(xlabel="how far six gains are moved, downhill", ylabel="loss, nats / 1000 from here")
ax.legend()
plt.show()

# %% [markdown]
# On a step of the stairs the true slope is 0, and nothing could be learned. Seen from further away
# the stairs follow the curve, and that is the slope we take. So a gradient check in 16 bits proves
# nothing: check in float64.
#
# Now training, with a model. The arms differ in one thing, what AdamW is given to change:


# %%
def count_on(precision, masters=True, steps=120):
    """Train on rows that count; return the losses, and how many weights the last update left."""
    weights = {key: w.copy() for key, w in params.items()}
    weights = weights if masters else half_params(weights, precision)
    state, losses = adamw_init(weights), []
    for step in range(steps):
        chosen = as_batch(rows[np.arange(8 * step, 8 * step + 8) % 400])
        loss, grads = mixed_loss_and_grads(weights, config, chosen, precision)
        before = {key: w.copy() for key, w in weights.items()}
        adamw_step(weights, grads, state, lr=1e-3)
        losses.append(float(loss))
    return losses, np.mean([np.mean(before[key] == w) for key, w in weights.items()])


# %%
arms = {
    "float32": count_on("float32"),
    "bfloat16, masters": count_on("bfloat16"),
    "bfloat16, no masters": count_on("bfloat16", masters=False),
}
for name, (losses, still) in arms.items():
    print(f"{name:21} loss {np.mean(losses[-20:]):.3f}   weights that stood still {still:.0%}")
assert abs(np.mean(arms["float32"][0][-20:]) - np.mean(arms["bfloat16, masters"][0][-20:])) < 0.05
assert arms["bfloat16, no masters"][1] > 0.1 > arms["bfloat16, masters"][1]

# %%
fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
for (name, (losses, _)), style in zip(arms.items(), ("-", "--", "-"), strict=True):
    ax.plot(losses, style, label=name)
ax.set(xlabel="step", ylabel="loss (nats)")
ax.legend()
plt.show()

# %% [markdown]
# With masters, the curve lies on that of float32. Masters cost 4 bytes a weight, and the two means
# of AdamW 8 more. Mixed precision saves time and activations, not this memory.
#
# ## 5 The scale, step by step
#
# For float16 the scale must fit, and what fits changes as the model learns. So it is found by
# trying:
#
# - all gradients finite: update; after `interval` such steps in a row, double the scale;
# - one of them not: no update, and halve it.
#
# By hand first. Here an overflow is whatever takes the largest gradient, 3.0, over 65504:

# %%
now = LossScale(2.0**16)
for step in range(1, 11):
    finite = 3.0 * now.scale <= 65504
    after = next_loss_scale(now, finite, interval=3)
    done = "update " if finite else "skipped"
    print(f"step {step}: scale 2^{math.log2(now.scale):<3.0f} {done}  then {after}")
    now = after
assert (now.scale, now.skipped) == (2.0**14, 4)

# %% [markdown]
# It comes back to the limit, and pays with a skipped step each time. That is why the interval is
# 2000 in practice. A real gradient, at a scale that is too high:

# %%
_, grads = mixed_loss_and_grads(params, config, batch, "float16", 2.0**22)
broken = [key for key, g in grads.items() if not np.isfinite(g).all()]
print("finite:", all_finite(grads), " tensors with infinity or NaN:", len(broken), "of", len(grads))
_, grads = mixed_loss_and_grads(params, config, batch, "float16", 2.0**10)
apart = max(np.abs(grads[key] - exact[key]).max() / np.abs(exact[key]).max() for key in exact)
print(f"finite: {all_finite(grads)}  farthest from float32: {apart:.2%} of a tensor's largest")
assert broken
assert all_finite(grads)
assert apart < 0.02

# %% [markdown]
# The whole of it is one option: `minqwen pretrain texts/ --out run --precision float16`. In Python:

# %%
for precision in ("float32", "bfloat16", "float16"):
    settings = PretrainSettings(
        steps=120, batch_size=8, context_length=32, peak_lr=3e-3, warmup_steps=10,
        precision=precision, loss_scale_interval=15, checkpoint_every=120, eval_every=0,
    )  # fmt: skip
    pretrain(config, rows, folder / precision, settings, params=params, progress=False, plot=False)
runs = {name: Metrics.read(folder / name) for name in ("float32", "bfloat16", "float16")}
print(runs["float16"][0])
skips = [row["step"] for row in runs["float16"] if "grad_norm" not in row]
print("skipped steps:", skips)
assert 0 < len(skips) == runs["float16"][-1]["skipped"] < 30

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
for name, style in (("float32", "-"), ("bfloat16", "--"), ("float16", ":")):
    left.plot([r["step"] for r in runs[name]], [r["loss"] for r in runs[name]], style, label=name)
left.set(xlabel="step", ylabel="loss (nats)")
left.legend()
right.step([r["step"] for r in runs["float16"]],
           [math.log2(r["loss_scale"]) for r in runs["float16"]], where="mid")  # fmt: skip
tried = [math.log2(runs["float16"][step - 1]["loss_scale"]) for step in skips]
right.plot(skips, tried, "rx", label="skipped")
right.set(xlabel="step", ylabel="log2 of the loss scale")
right.legend()
plt.show()

# %% [markdown]
# A skipped step is lost: its rows have been read, and the model has learned nothing from them.
#
# ## 6 What stays in float32
#
# Rounding an input once is harmless. Harm comes where errors *add up*, or where a number in between
# leaves the range. So products may have inputs of 16 bits, but they add in 32:

# %%
total = np.zeros(1, np.float32)
for _ in range(1000):
    total = round_to_bfloat16(total + np.float32(0.01))
print("a thousand times 0.01, added in bfloat16:", total[0])
assert total[0] < 4.1  # 4 + 0.01 is rounded back to 4: the sum stands still

# %% [markdown]
# A norm squares its input, and $300^2$ is no float16. A softmax takes exponentials, and $e^{12}$ is
# none either; a peak must be subtracted first, and the sum must be wide:

# %%
x = np.full((1, 8), 300, np.float16)
with np.errstate(over="ignore"):
    naive = x / np.sqrt((x * x).mean(axis=-1, keepdims=True))
    print("norm, all in float16:", naive[0, :3], "  exp(12) in float16:", np.exp(np.float16(12)))
y, _ = rmsnorm_forward(x, np.ones(8, np.float16))
print("rmsnorm_forward:     ", y[0, :3], y.dtype)
logits = rng.normal(size=(4, 5000)).astype(np.float16)
loss, _ = cross_entropy_forward(logits, np.arange(4))
wide, _ = cross_entropy_forward(logits.astype(np.float64), np.arange(4))
print(f"loss of float16 logits: {float(loss):.7f}, {loss.dtype}; in float64 {float(wide):.7f}")
assert (y == 1).all()
assert abs(loss - wide) < 1e-5

# %% [markdown]
# | stays in float32 | because |
# | --- | --- |
# | masters, AdamW's m and v | updates are smaller than a step of 16 bits |
# | sums inside a product, over pieces, over processes | a long sum in 16 bits stands still |
# | statistics of the norms | squares leave the range of float16 |
# | softmax, loss | exponentials, and sums of them |
# | RoPE | see below |
#
# ## 7 RoPE at position 30,000
#
# An angle is position times frequency. "We use FP32 precision for the inverse frequency matrix",
# says the report (2.3.1). What else would happen? At 30,000 a bfloat16 has steps of 128:

# %%
at = np.arange(30_000, 30_256, dtype=np.float32)
print("256 positions from 30,000 on, as bfloat16:", np.unique(round_to_bfloat16(at)))
frequency = 10_000.0 ** (-np.arange(64, dtype=np.float64) / 64)
off = np.abs(round_to_bfloat16(frequency.astype(np.float32)) - frequency)
for d in (100, 1000, 30_000):
    print(f"distance {d:6}: rounded, the worst angle is off by {d * off.max():6.2f} radians")
assert 30_000 * off.max() > 2 * np.pi

# %% [markdown]
# So one reads "I am 30,000 tokens away", and the worst pairs have turned to anywhere. What a query
# sees that looks for the token exactly $d$ back: the score with the key at $d$, beside its
# neighbours.

# %%
q = np.ones((1, 1, 1, 128), np.float32) / math.sqrt(128)


def look_around(d, rounded):
    """Return the scores of 17 keys for a query at d + 8 that looks for the key at 8."""
    cos, sin = rounded_tables(np.array([d]), 128)[:2]
    aim = rope_forward(q, cos, -sin)[0]  # turned back by d, exactly: best with a key d before
    query = rope_forward(aim, *rounded_tables(np.array([d + 8]), 128, rounded=rounded)[:2])[0]
    keys = np.repeat(q, 17, axis=2)
    keys = rope_forward(keys, *rounded_tables(np.arange(17), 128, rounded=rounded)[:2])[0]
    return (keys @ query.swapaxes(-1, -2))[0, 0, :, 0]


# %%
fig, axes = plt.subplots(1, 3, figsize=(12, 3), sharey=True, layout="constrained")
for ax, d in zip(axes, (100, 1001, 30_000), strict=True):
    for rounded in ("nothing", "frequencies", "positions"):
        ax.plot(range(-8, 9), look_around(d, rounded), "o-", ms=3, label=f"{rounded} rounded")
    ax.set(title=f"{d:,} tokens away", xlabel="key, beside the one looked for")
axes[0].set_ylabel("score")
axes[0].legend(fontsize=8)
plt.show()
assert look_around(30_000, "nothing").argmax() == 8
assert look_around(30_000, "frequencies")[8] < 0.7

# %% [markdown]
# Exact tables find the key at any distance. With rounded frequencies the peak sinks as the distance
# grows. With rounded positions the query stands elsewhere: one token beside at 1,009, 56 at 30,008.
# `docs/precision.md` has the same for models that were trained to look back.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. A tie by hand.** Which bfloat16 is $1 + 3 \cdot 2^{-8}$ rounded to?

# %%
answer_1 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# Steps are $2^{-7}$ here, so it lies at one and a half steps: a tie between the fractions 1 and 2.
# 2 is even. Half a step below, $1 + 2^{-8}$, goes down to 1, as 0 is even.
#
# ```python
# answer_1 = 1 + 2 * 2**-7
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    found = float(round_to_bfloat16(np.array([1 + 3 * 2**-8], np.float32))[0])
    assert answer_1 == found, "no; which of the two neighbours ends with a 0?"
    print("rounded to", found)
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. Which weights still learn?** Without masters, updates are +0.001. What is the
# largest power of two at which a bfloat16 weight still moves up?

# %%
answer_2 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# Above a power of two w the step is w / 128, and more than half of it is needed: w / 256 < 0.001.
# So w < 0.256. The gains of the norms, which begin at 1, are among those that never move.
#
# ```python
# answer_2 = 0.25
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    powers = np.exp2(np.arange(-6, 4, dtype=np.float32))
    moved = round_to_bfloat16(powers + np.float32(0.001)) != powers
    print({float(w): bool(m) for w, m in zip(powers, moved, strict=True)})
    assert answer_2 == powers[moved].max(), "no; half a step above w is w / 256"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. The best scale.** The largest gradient anywhere on the way back is 0.7, before
# scaling. What is the largest power of two that the loss scale may be, in float16?

# %%
answer_3 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# 65504 / 0.7 is 93577, so 2^16 fits, and 2^17 does not.
#
# ```python
# answer_3 = 65536
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    scaled = to_precision(0.7 * np.exp2(np.arange(24, dtype=np.float32)), "float16")
    best = 2 ** int(np.isfinite(scaled).sum() - 1)
    assert answer_3 == best, "no; what is the largest float16?"
    print("the largest that fits:", best)
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** Read section 2.4 of the Qwen report, then `minqwen/training/loss_scaling.py`.
# `minqwen lab precision` trains every arm of this page with three seeds; its numbers are in
# `docs/precision.md`. Notebook 09 shares a batch among processes.

# %% [markdown]
# # Check your port: from "the text is nonsense" to the wrong line
#
# *Made from `23_check_your_port.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# You have written Qwen2 for another runtime: a phone, a chip, a language of your own. It runs, all
# shapes fit, and what it writes is nonsense, or almost right. Where is the mistake? Reading the
# code once more does not help, since it was you who wrote it. This notebook shows how to find it by
# numbers: function by function, then tensor by tensor.
#
# ## What you will do
#
# - Give a function to the checker, and read its report line by line.
# - Check a gradient that was written by hand, and one that belongs to another forward pass.
# - Write a small port with names and layouts of its own, and plant mistakes in it.
# - Compare two models tensor by tensor, and get the first one that parts, and why.
# - Draw the fingerprints of six mistakes, so that you recognise them next time.
#
# ## What you will learn
#
# - Why one compares in float64, and how large rounding is otherwise.
# - What "inherited" means: most tensors that differ have nothing wrong with them.
# - Which mistakes are right at position 0, which at no position, and which nearly everywhere.
# - What a checker can prove, and what it only guesses.
#
# ## What you need
#
# Notebook 02, and 03 to 05 for what the planted mistakes are about; NumPy with matplotlib. PyTorch
# is not needed. 20 minutes; it computes for some seconds. Everything is also a command:
# `minqwen check`, `trace`, `diff`, `explain`. Beside this page, open `docs/symptom_clinic.md`.

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
import dataclasses
import json
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
from minqwen.check.compare import compare
from minqwen.check.gradients import gradient_errors
from minqwen.check.tracing.tensor_diff import compare_traces
from minqwen.check.tracing.trace import trace_model
from minqwen.check.tracing.trace_file import Trace
from minqwen.cli import main
from minqwen.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward
from minqwen.model.checkpoint import save_checkpoint
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params

# %% [markdown]
# ## 1 One function
#
# Here is an RMSNorm as one finds it. On ordinary numbers nobody would see what is wrong with it.

# %%
_ = (folder / "port.py").write_text(
    """
import numpy as np

def norm(x, w, eps):
    return w * x / (np.sqrt((x * x).mean(axis=-1, keepdims=True)) + eps)
""",
    encoding="utf-8",
)

# %%
scope = {}
exec((folder / "port.py").read_text(encoding="utf-8"), scope)
x, w = rng.standard_normal((2, 3, 8)), np.ones(8)
difference = np.abs(scope["norm"](x, w, 1e-6) - rmsnorm_forward(x, w)[0]).max()
print(f"largest difference on ordinary numbers: {difference:.0e}")
assert difference < 1e-5

# %% [markdown]
# Six digits are right. Is that good? In float32, rounding leaves about seven. So one might shrug.
# Now the checker. It runs the file in a process of its own; the exit code is 1 when something is
# wrong, so it fits into your CI. On the command line:
#
#     minqwen check rmsnorm --impl port.py:norm

# %%
code = main(["check", "rmsnorm", "--impl", f"{folder / 'port.py'}:norm"])
print("exit code", code)
assert code == 1

# %% [markdown]
# Read it from the top.
#
# - **runs, shape**: it can be called. Without this nothing else is asked.
# - **values, hard inputs**: wrong everywhere, but by 5e-07 on ordinary inputs and by 0.45 on tiny
#   ones. That is the size of the trouble: small tokens.
# - **purity, dtype, determinism**: it is well-behaved.
# - **float32, half precision**: not asked, since rounding says nothing about wrong values.
# - **first difference**: a place to set a breakpoint.
# - **looks exactly like**: our own file with one line changed gives *your* numbers on all inputs.
#   So this is the mistake, or one that cannot be told from it.
#
# In Python it is `compare`, and `raise_if_wrong` makes a test of it. `--hint 0` does not name the
# mistake, `--hint 2` shows the line.


# %%
def mended_norm(x, w, eps):
    return w * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


report = compare("rmsnorm", mended_norm)
print(*(f"{facet.name:15} {facet.ok}" for facet in report.facets), sep="\n")
assert report.ok
report.raise_if_wrong()  # silent: this line alone is a test

# %% [markdown]
# Mended: eps is inside, and everything is right.
#
# ## 2 A gradient by hand
#
# For a backward pass there is `--backward`; in Python it is the third argument. Here is one that
# takes rms for a constant (notebook 04):


# %%
def norm_with_cache(x, w, eps):
    y, cache = rmsnorm_forward(x, w, eps)
    return y, cache


def norm_backward(dy, cache):
    x, w, inv_rms = cache
    x_hat = x * inv_rms
    return dy * w * inv_rms, (dy * x_hat).reshape(-1, len(w)).sum(axis=0)


# %%
report = compare("rmsnorm", norm_with_cache, norm_backward)
print(
    "\n".join(line for line in report.text().splitlines() if "gradient" in line or "like" in line)
)
assert "rmsnorm.rms_constant" in str(report)

# %% [markdown]
# The forward pass is right and the gradient of w is right; only that of x is not. If the *forward*
# pass is wrong, its gradient is compared with finite differences of *your* forward pass. So a
# gradient that fits a wrong forward pass counts as right, and you are told about one mistake and
# not about two.
#
# That comparison without the checker: every number of x and w is moved up and down, and your own
# forward pass says what comes of it. The package's gradient beside yours:

# %%
numbers = np.random.default_rng(1).standard_normal
inputs = numbers((2, 3, 8)), 1 + 0.1 * numbers(8), 1e-6  # x, w and eps
for name, backward in (("by hand", norm_backward), ("the package's", rmsnorm_backward)):
    errors = gradient_errors(norm_with_cache, backward, *inputs, names=("dx", "dw"))
    print(f"{name:14}", {e.name: f"{e.error:.0e}" for e in errors})
assert max(e.error for e in errors) < 1e-7

# %% [markdown]
# ## 3 A port of the whole model
#
# Forty lines, as somebody writes them who never saw ours: no batch axis, time first, heads second,
# and names of its own. It keeps what it computes in `seen`. And it has six switches for mistakes,
# which you will not have in yours.

# %%
EPS, BASE, HEAD = 1e-6, 10000.0, 8


def port_norm(x, w, bugs):
    eps = 1e-5 if "eps 1e-5" in bugs else EPS
    return w * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def port_mlp(x, w_gate, w_up, w_down, bugs):
    gate, up = x @ w_gate.T, x @ w_up.T
    if "gate and up swapped" in bugs:
        gate, up = up, gate
    return gate / (1 + np.exp(-gate)) * up @ w_down.T


# %%
def port_rope(x, bugs):  # (T, heads, Dh)
    T, _, Dh = x.shape
    angle = np.arange(T)[:, None, None] * BASE ** (-np.arange(0, Dh, 2) / Dh)
    c, s = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
    if "rope in pairs" in bugs:
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack((a * c - b * s, a * s + b * c), axis=-1).reshape(x.shape)
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate((a * c - b * s, a * s + b * c), axis=-1)


# %%
def port_attention(q, k, v, bugs):  # (T, H, Dh), (T, Hkv, Dh) twice
    (T, H, Dh), Hkv = q.shape, k.shape[1]
    order = np.repeat(np.arange(Hkv), H // Hkv)
    if "heads tiled" in bugs:
        order = np.tile(np.arange(Hkv), H // Hkv)
    scores = np.einsum("thd,shd->hts", q, k[:, order])
    if "no scale" not in bugs:
        scores *= Dh**-0.5
    ahead = 1 if "sees one ahead" in bugs else 0
    scores = np.where(np.tri(T, T, ahead, dtype=bool), scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("hts,shd->thd", e / e.sum(axis=-1, keepdims=True), v[:, order])


# %%
def port_branch(x, w, p, seen, name, bugs):
    """Return what attention adds to the stream."""
    n = seen[f"{name}.norm1"] = port_norm(x, w[p + "input_layernorm.weight"], bugs)
    for c in "qkv":
        made = n @ w[f"{p}self_attn.{c}_proj.weight"].T + w[f"{p}self_attn.{c}_proj.bias"]
        seen[f"{name}.{c}"] = made.reshape(len(x), -1, HEAD)
    q = seen[f"{name}.q_rot"] = port_rope(seen[f"{name}.q"], bugs)
    k = seen[f"{name}.k_rot"] = port_rope(seen[f"{name}.k"], bugs)
    a = seen[f"{name}.attn"] = port_attention(q, k, seen[f"{name}.v"], bugs)
    return a.reshape(len(x), -1) @ w[p + "self_attn.o_proj.weight"].T


# %%
def port_model(w, ids, bugs=(), layers=3):
    """Return everything the port computes, by its own names."""
    x = w["model.embed_tokens.weight"][ids]
    seen = {"ids": ids, "embd": x}
    for i in range(layers):
        name, p = f"blk{i}", f"model.layers.{i}."
        x = seen[f"{name}.mid"] = x + port_branch(x, w, p, seen, name, bugs)
        n = seen[f"{name}.norm2"] = port_norm(x, w[p + "post_attention_layernorm.weight"], bugs)
        mlp = [w[f"{p}mlp.{c}_proj.weight"] for c in ("gate", "up", "down")]
        seen[f"{name}.mlp"] = port_mlp(n, *mlp, bugs)
        x = seen[name] = x + seen[f"{name}.mlp"]
    seen["norm"] = port_norm(x, w["model.norm.weight"], bugs)
    return seen | {"out": seen["norm"] @ w["model.embed_tokens.weight"].T}


# %% [markdown]
# And a model for it, small and random. That is on purpose. A random model is a *harder* test than a
# trained one: no weight is 0 by accident, every head differs, and nothing needs to be downloaded.
# We move gains and biases away from 1 and 0 as well, or nobody would notice if they were forgotten.

# %%
config = QwenConfig(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    initializer_range=0.15,
)

# %%
params = init_params(config, rng, "float64")
for value in params.values():
    value += 0.1 * rng.standard_normal(value.shape)
ids = rng.integers(0, 60, 12)
save_checkpoint(folder / "model", config, params)

# %% [markdown]
# ## 4 Everything ours computes
#
# `trace_model` (as a command: `minqwen trace FOLDER --ids 1,2,3 --out ours.npz`) records every
# intermediate by name, in the order of the computation:

# %%
ours = trace_model(params, config, ids[None])
print(len(ours), "tensors; those of layer 0:")
for name in ours:
    if name.startswith("model.layers.0"):
        print(f"{name.removeprefix('model.layers.0'):30} {ours.axes[name]:10} {ours[name].shape}")

# %% [markdown]
# Their file holds what they have, all of it or a part. A JSON object says which of their names is
# which of ours. Layouts need not be the same: axes in another order, heads cut or joined, no batch
# axis; that is found out.

# %%
PARTS = {
    "input_layernorm": "norm1",
    **{f"self_attn.{c}_proj": c for c in "qkv"},
    **{f"self_attn.{c}_rope": f"{c}_rot" for c in "qk"},
    "self_attn.attention": "attn",
    "after_attention": "mid",
    "post_attention_layernorm": "norm2",
    "mlp.down_proj": "mlp",
}

# %%
names = {"input_ids": "ids", "model.embed_tokens": "embd", "model.norm": "norm", "logits": "out"}
for i in range(3):
    names |= {f"model.layers.{i}.{a}": f"blk{i}.{b}" for a, b in PARTS.items()}
    names[f"model.layers.{i}"] = f"blk{i}"
written = (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")


# %%
def diff(seen):
    """Write what the port has seen, and run minqwen diff on it; return the exit code."""
    np.savez(folder / "theirs.npz", **seen)
    paths = [str(folder / name) for name in ("model", "theirs.npz", "names.json")]
    return main(["diff", paths[0], paths[1], "--map", paths[2], "--dtype", "float64"])


assert diff(port_model(params, ids)) == 0

# %% [markdown]
# The port without mistakes: no difference, a few units of rounding. ("A unit" is what one rounding
# of a float64 leaves, about 1e-16 of the scale.)
#
# ## 5 The first tensor that parts
#
# Now with two mistakes at once, as it is in life.

# %%
broken = port_model(params, ids, bugs=("rope in pairs", "gate and up swapped"))
assert diff(broken) == 1

# %% [markdown]
# Read it from the top again.
#
# - **right**: the embedding, the first norm, q, k and v. So the weights are loaded well, and the
#   norm is right. What stands here you need not look at again.
# - **PARTS**: `q_rope` of layer 0, first at *time 1*. At time 0 nothing is turned.
# - **other convention**: our step, from *their* q, with this one change, gives their numbers. So it
#   is RoPE with neighbours as pairs.
# - **after**: the same in all layers. And another mistake further down, in the feed-forward
#   network.
# - **only because of this**: 22 tensors differ only because their inputs do.
#
# The last two lines are why the program is given all tensors and the weights. It computes each step
# once more from *their* inputs. If that gives their numbers, the step is innocent.

# %%
theirs = Trace.load(folder / "theirs.npz")
found = compare_traces(ours, theirs, params=params, names=names)
print("parts at:", found.parted.name, "because of", [fit.name for fit in found.parted.fits])
print("later, with mistakes of their own:", sorted({f.name for l in found.later for f in l.fits}))
print("innocent, but different:", len(found.inherited))
assert found.parted.name == "model.layers.0.self_attn.q_rope"
assert [fit.name for fit in found.parted.fits] == ["rope.interleaved"]
assert {f.name for l in found.later for f in l.fits} >= {"swiglu.branches_swapped"}

# %% [markdown]
# What is this change? `minqwen explain` computes it on small numbers:

# %%
assert main(["explain", "rope.interleaved"]) == 0

# %% [markdown]
# ## 6 An error on its way through the model
#
# The same in a picture: the error of every tensor in the order of the computation, over its scale.
#
# $$\mathrm{error} = \frac{\max |\mathrm{theirs} - \mathrm{ours}|}{\max |\mathrm{ours}|}$$
#
# Grey is the port without mistakes in float32, as many ports run.


# %%
def errors_of(seen):
    """Return for each tensor of the map its largest error over its scale."""
    found = []
    for name in names:
        want, have = ours[name], np.asarray(seen[names[name]], dtype=float)
        if want.ndim == 4:
            want = want.swapaxes(1, 2)  # (B, H, T, Dh) to (B, T, H, Dh)
        found.append(np.abs(have.reshape(want.shape) - want).max() / np.abs(want).max())
    return np.maximum(found, 1e-17)


order = [name for name in ours if name in names]
names = {name: names[name] for name in order}  # in the order of the computation
single = {name: value.astype(np.float32) for name, value in params.items()}

# %%
LINES = {
    "rope in pairs": port_model(params, ids, ("rope in pairs",)),
    "gate and up swapped": port_model(params, ids, ("gate and up swapped",)),
    "eps 1e-5": port_model(params, ids, ("eps 1e-5",)),
    "right, in float32": port_model(single, ids),
    "right, in float64": port_model(params, ids),
}

# %%
fig, ax = plt.subplots(figsize=(11, 4.8), layout="constrained")
for (name, seen), color in zip(LINES.items(), ("C3", "C1", "C0", "grey", "black"), strict=True):
    ax.semilogy(errors_of(seen), ".-", color=color, label=name)
short = [name.replace("model.", "").replace("self_attn.", "") for name in order]
ax.set_xticks(range(len(order)), short, rotation=90, fontsize=7)
ax.set(ylabel="largest error / scale", title="an error is born once and travels")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# Each coloured line jumps **once**, where the mistake is, and then travels on at about that height.
# So the first jump is what matters; how wrong the logits are says little about where.
#
# And look at *eps 1e-5*. In float32, with a bound of 1e-3 as in many test suites, it passes.
# **Compare in float64**, with a bound of some units of rounding. Then nothing but a mistake is
# visible.

# %%
eps_error, single_error = (
    errors_of(LINES["eps 1e-5"])[-1],
    errors_of(LINES["right, in float32"])[-1],
)
print(f"logits: eps 1e-5 {eps_error:.0e}, float32 {single_error:.0e}")
assert 1e-6 < eps_error < 1e-2
assert single_error < 1e-5
assert errors_of(LINES["right, in float64"]).max() < 1e-13

# %% [markdown]
# ## 7 Fingerprints
#
# Sometimes all you have is the logits: a closed runtime, a log file. Even these tell a lot. Where,
# along the text, are they wrong?

# %%
BUGS = ("rope in pairs", "no scale", "sees one ahead")
BUGS += ("heads tiled", "gate and up swapped", "eps 1e-5")
logits = ours["logits"][0]


def by_position(seen):
    """Return for each position the largest error of its logits over the scale."""
    return np.abs(seen["out"] - logits).max(axis=1) / np.abs(logits).max()


prints = np.array([by_position(port_model(params, ids, (bug,))) for bug in BUGS])

# %%
fig, ax = plt.subplots(figsize=(9.5, 3.6), layout="constrained")
picture = ax.imshow(np.log10(np.maximum(prints, 1e-16)), cmap="magma", vmin=-8, vmax=0)
ax.set_yticks(range(len(BUGS)), BUGS)
ax.set(xticks=range(12), xlabel="position in the text", aspect="auto")
ax.set_title("how wrong the logits are at each position")
for row, col in np.ndindex(prints.shape):
    value = prints[row, col]
    text = "0" if value < 1e-13 else f"{value:.1g}"
    color = "white" if value < 1e-2 else "black"
    ax.text(col, row, text, ha="center", va="center", color=color, fontsize=8)
ax.grid(False)
fig.colorbar(picture, label="log10 of the error")
plt.show()

# %% [markdown]
# Three kinds, and the symptom clinic sorts its causes in this way:
#
# - **right at position 0, wrong later**: position 0 is not turned by RoPE, and its softmax has one
#   score, so neither RoPE nor the scale can hurt it.
# - **wrong everywhere, strongly**: heads, branches, weights; what does not depend on the place.
#   *Sees one ahead* too: the last position has nothing ahead, but from the second layer on it reads
#   numbers of others that had.
# - **nearly right everywhere**: eps, a constant, 16 bits.

# %%
first, rest = prints[:, 0], prints[:, 1:].max(axis=1)
assert (first[:2] < 1e-13).all()
assert (rest[:2] > 0.1).all()
assert (first[2:5] > 1e-2).all()
assert 1e-6 < prints[5].max() < 1e-2
print("first position, and the worst of the others:")
for bug, a, b in zip(BUGS, first, rest, strict=True):
    print(f"{bug:20} {a:7.0e} {b:7.0e}")

# %% [markdown]
# A fingerprint is a hint, not a proof: two mistakes share the first row's. For a proof, take the
# tensors.
#
# ## 8 What it cannot tell
#
# - That there is no mistake. No input has shown one; that is less.
# - Which of several codes you wrote. "Looks exactly like" means: gives the same numbers.
# - A mistake that is right in a model of this kind: with as many key heads as query heads,
#   *heads tiled* cannot be seen. So let sizes differ: Hkv < H, D ≠ F, T ≠ Dh.

# %%
same = dataclasses.replace(config, num_key_value_heads=4, num_hidden_layers=1)
equal_heads = init_params(same, np.random.default_rng(5), "float64")
pair = [port_model(equal_heads, ids, bugs, layers=1)["out"] for bugs in ((), ("heads tiled",))]
print("largest difference with Hkv = H:", np.abs(pair[0] - pair[1]).max())
assert np.array_equal(*pair)

# %% [markdown]
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. The first tensor.** A loader forgot one thing: in layer 2 the bias of k. Which
# tensor is the first that parts? Give our name, as in section 4, with the number of the layer.

# %%
answer_1 = None  # "model.layers..."

# %% [markdown]
# <details><summary>Solution</summary>
#
# Everything before it is right, layers 0 and 1 included. `k_rope` after it is inherited. When only
# one layer parts, suspect the loader and not the code.
#
# ```python
# answer_1 = "model.layers.2.self_attn.k_proj"
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    forgotten = {**params, "model.layers.2.self_attn.k_proj.bias": np.zeros(16)}
    np.savez(folder / "theirs.npz", **port_model(forgotten, ids))
    theirs = Trace.load(folder / "theirs.npz")
    found = compare_traces(ours, theirs, params=params, names=names)
    assert answer_1 == found.parted.name, "no; where is this bias added?"
    print("Exercise 1: right, because of", [fit.name for fit in found.parted.fits])

# %% [markdown]
# **Exercise 2. A gradient that passes.** Mend `norm_backward` of section 2: write a function
# `answer_2(dy, cache)` that returns (dx, dw), with which the checker is content.

# %%
answer_2 = None  # a function

# %% [markdown]
# <details><summary>Solution</summary>
#
# What points along x is taken away, because rms depends on x too.
#
# ```python
# def answer_2(dy, cache):
#     x, w, inv_rms = cache
#     x_hat, g = x * inv_rms, dy * w
#     dx = (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)) * inv_rms
#     return dx, (dy * x_hat).reshape(-1, len(w)).sum(axis=0)
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    report = compare("rmsnorm", norm_with_cache, answer_2)
    assert report.ok, str(report)
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. A fingerprint.** A port is right at position 0, and *also at position 1*, and wrong
# from position 2 on. The text begins with the same token twice: ids 5, 5, 9, ... Which of the six
# mistakes of section 7 can it be? Answer with a set of names. (Think of what position 1 can see.)

# %%
answer_3 = None  # {"...", ...}

# %% [markdown]
# <details><summary>Solution</summary>
#
# At position 1 both keys and both values come from one token. Whatever the two weights are, the
# average of two equal values is that value. So nothing that only changes the *weights* can be seen
# there, neither RoPE nor the scale. In the next layer it is the same again.
#
# ```python
# answer_3 = {"rope in pairs", "no scale"}
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    twice = np.concatenate(([5, 5], ids[2:]))
    exact = port_model(params, twice)["out"]
    wrong_at = {b: np.abs(port_model(params, twice, (b,))["out"] - exact).max(1) for b in BUGS}
    can = {b for b, e in wrong_at.items() if e[:2].max() < 1e-12 and e[2:].min() > 1e-3}
    assert answer_3 == can, "no; what can position 1 see?"
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** Where transformers is installed, `minqwen diff FOLDER --against transformers` does
# section 5 for a published checkpoint. `docs/checker.md` says how a mistake is named, and how to
# add one. `minqwen check --list` has everything that can be checked.

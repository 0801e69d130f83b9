# %% [markdown]
# # RMSNorm and SwiGLU
#
# *Made from `04_rmsnorm_and_swiglu.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# Two small functions work on each token by itself. **RMSNorm** brings its numbers to one size. Then
# **SwiGLU**, the feed-forward network, does most of the arithmetic of the model and holds most of
# its weights. Both fit on a page, and both have a gradient that people get wrong.
#
# ## What you will do
#
# - Normalise two tokens in your head, and see what is kept and what is lost.
# - Draw the gradient of RMSNorm: it never points along x.
# - Forget half of that gradient, and let a deep network show what it does.
# - Open and close the gates of a SwiGLU by hand, and multiply two numbers with it, exactly.
# - Count its weights, and see why its width is 8/3 of D.
# - Exchange its branches: the gradient check is content, and the checker is not.
#
# ## What you will learn
#
# - Why a long input gets a short gradient.
# - What eps is for, and why it stands inside the root.
# - Why 16 bits are not enough for a sum of squares.
# - What a gate can do that an activation alone cannot.
#
# ## What you need
#
# The chain rule, NumPy with matplotlib. 20 minutes; it runs in a few seconds. Beside this page,
# open `minqwen/layers/rmsnorm.py` and `minqwen/layers/swiglu.py`. Both are from section 2.3.1 of
# the Qwen report.

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

from minqwen.check.compare import compare
from minqwen.check.gradients import check_gradients, gradient_errors

rng = np.random.default_rng(0)
np.set_printoptions(precision=3, suppress=True)
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %%
from minqwen.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward
from minqwen.layers.swiglu import sigmoid, swiglu_backward, swiglu_forward
from minqwen.model.config import param_shapes
from minqwen.model.presets import preset

# %% [markdown]
# ## 1 RMSNorm by hand
#
# $$y = w \cdot \frac{x}{\mathrm{rms}(x)} \qquad
# \mathrm{rms}(x) = \sqrt{\tfrac1D \sum_i x_i^2 + \epsilon}$$
#
# rms is the *root* of the *mean* of the *squares*. Here are two tokens of width D = 4. Squares of
# the first: 1, 49, 25, 25. Their mean is 25, so its rms is 5.

# %%
x = np.array([[1, 7, 5, 5], [2, -14, 10, -10.0]])  # (N, D): two tokens
w = np.array([1, 2, 0.5, -1])  # (D,): the gain, one number for each feature
squares = x * x  # (N, D)
rms = np.sqrt(squares.mean(axis=-1, keepdims=True))  # (N, 1); eps comes in section 3
x_hat = x / rms  # (N, D)
y = w * x_hat  # (N, D)
for name, array in {"squares": squares, "rms": rms, "x_hat": x_hat, "y": y}.items():
    print(f"{name:8}{array.shape}", *array.tolist())
assert rms.ravel().tolist() == [5, 10]

# %%
y_package, cache = rmsnorm_forward(x, w, eps=0.0)
assert np.allclose(y, y_package, rtol=0, atol=1e-15)
print({name: value.shape for name, value in cache._asdict().items()})

# %% [markdown]
# The cache keeps x, w and one number for each token.
#
# The second token is twice as long as the first. After the norm both have rms 1. **Lost:** the
# length. **Kept:** the direction. So a token that is multiplied by 1000 gives the same output:

# %%
assert np.allclose(rmsnorm_forward(1000 * x, w, 0.0)[0], y)
length = np.linalg.norm(x_hat, axis=-1)
print("lengths of x_hat:", length, " = sqrt(D) =", np.sqrt(4.0))
assert np.allclose(length, 2)

# %% [markdown]
# In other words: RMSNorm puts every token on a sphere of radius √D, and the gain stretches the
# sphere. LayerNorm, the older one, also takes the mean of the features away first, so it loses one
# more direction. Qwen does without, as it is cheaper and works as well.
#
# ## 2 The way back
#
# A change of $x_i$ acts twice: on its own feature, and through rms on **all** features. Let
# $g = dy \cdot w$, the gradient with respect to $\hat x$, and $r = 1/\mathrm{rms}$:
#
# $$dx_i = r\,\Bigl(g_i - \hat x_i \cdot \tfrac1D \sum_j g_j \hat x_j\Bigr)
# \qquad dw = \sum_{\text{tokens}} dy \cdot \hat x$$
#
# The first term is the direct way. The second takes away the part of g that points along x.

# %%
dy = np.array([[1, 0, 0, 0], [0, 0, 2, 1.0]])  # (N, D)
dw = (dy * x_hat).sum(axis=0)  # (D,): every token used the same gain
g = dy * w  # (N, D)
along = (g * x_hat).mean(axis=-1, keepdims=True)  # (N, 1): how much of g points along x
dx = (g - x_hat * along) / rms  # (N, D)
for name, array in {"g": g, "along": along, "dx": dx, "dw": dw}.items():
    print(f"{name:6}{array.shape!s:7}", *array)
for ours, theirs in zip((dx, dw), rmsnorm_backward(dy, cache), strict=True):
    assert np.abs(ours - theirs).max() < 1e-15

# %% [markdown]
# Two facts to check in the numbers above.
#
# - **dx is at right angles to x.** Making x longer changes nothing, so there is no wish along x.
# - **dx is divided by rms.** A token that is 10 times as long has a gradient 10 times as short.

# %%
print("dx . x =", (dx * x).sum(axis=-1))
assert np.abs((dx * x).sum(axis=-1)).max() < 1e-15
longer, _ = rmsnorm_backward(dy, rmsnorm_forward(10 * x, w, 0.0)[1])
assert np.allclose(longer, dx / 10)

# %% [markdown]
# With D = 2 one can draw it: the sphere is a circle of radius √2. Each point x goes to the circle
# (grey line). The loss pulls all of them to the right, g = (1, 0), and dx is what is left of that.

# %%
angles = np.linspace(0, 2 * np.pi, 13)[:-1] + 0.26
points = (
    np.stack((np.cos(angles), np.sin(angles)), axis=1) * np.resize([0.8, 1.5, 2.4], 12)[:, None]
)
on_circle, circle_cache = rmsnorm_forward(points, np.ones(2), 0.0)
pull = np.tile([1.0, 0.0], (12, 1))
moves, _ = rmsnorm_backward(pull, circle_cache)

# %%
fig, ax = plt.subplots(figsize=(6.6, 6), layout="constrained")
ax.add_patch(plt.Circle((0, 0), np.sqrt(2), fill=False, color="grey"))
for point, target in zip(points, on_circle, strict=True):
    ax.plot(*zip(point, target, strict=True), color="lightgrey", zorder=0)
ax.scatter(*on_circle.T, s=18, color="grey", label="y, on the circle")
ax.scatter(*points.T, color=np.resize(["C0", "C1", "C2"], 12), label="x, of three lengths")
arrows = {"angles": "xy", "scale_units": "xy", "scale": 1.6, "width": 0.006}
ax.quiver(*points.T, *moves.T, color="C3", label="dx", **arrows)
ax.set(
    aspect="equal", xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), title="the gradient goes around, not out"
)
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# The red arrows are tangents. They are long for short x (blue) and short for long x (green), and
# there is almost nothing for points that already lie to the right or to the left.
#
# **The proof**, with gains that are not 1, a random dy, and Qwen's eps:

# %%
big_x, big_w = rng.standard_normal((3, 5, 7)), 1 + 0.5 * rng.standard_normal(7)
errors = check_gradients(rmsnorm_forward, rmsnorm_backward, big_x, big_w)
print({name: f"{error:.0e}" for name, error in zip(("dx", "dw"), errors, strict=True)})
assert max(errors) < 1e-7

# %% [markdown]
# ## 3 What eps is for
#
# A token of zeros has rms 0. So a small number is added to the mean square, *inside* the root.
# Qwen takes $10^{-6}$, so tokens of size $10^{-3}$ are at the border: smaller ones stay small. Some
# code adds it outside. For ordinary tokens nobody can tell.

# %%
sizes = np.logspace(-6, 1, 60)
ones = np.ones(4)
inside = np.array([rmsnorm_forward(s * ones, ones, 1e-6)[0][0] for s in sizes])
outside = sizes / (sizes + 1e-6)
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.semilogx(sizes, inside, label="eps inside the root (Qwen)")
ax.semilogx(sizes, outside, "--", label="eps outside")
ax.axvspan(1e-2, 10, color="grey", alpha=0.15, label="ordinary tokens")
ax.set(xlabel="rms of x", ylabel="rms of y", title="small tokens stay small")
ax.legend()
plt.show()

# %%
at = np.searchsorted(sizes, 1e-3)
print(f"at {sizes[at]:.4f}: inside {inside[at]:.3f}, outside {outside[at]:.3f}")
print(f"at 1: they differ by {abs(inside - outside)[np.searchsorted(sizes, 1)]:.0e}")
assert abs(inside[at] - outside[at]) > 0.2
assert abs(inside - outside)[np.searchsorted(sizes, 1)] < 1e-5

# %% [markdown]
# **And 16 bits?** float16 ends at 65,504. The square of 300 is 90,000. So the sum must be taken in
# float32, even if x itself is in 16 bits:

# %%
x16 = np.full(4, 300, np.float16)
with np.errstate(over="ignore"):
    naive = x16 / np.sqrt((x16 * x16).mean(dtype=np.float16))
print("all in float16:", naive, "  the package:", rmsnorm_forward(x16, np.ones(4, np.float16))[0])
assert naive.tolist() == [0, 0, 0, 0]  # 300 / infinity
assert rmsnorm_forward(x16, np.ones(4, np.float16))[0].tolist() == [1, 1, 1, 1]

# %% [markdown]
# ## 4 One thing broken: rms taken for a constant
#
# A tempting mistake in this gradient: treat rms as a number that does not depend on x, and write
# dx = g / rms. The second term is lost.


# %%
def rms_constant(dy, cache):
    """Return the gradients as if rms did not depend on x: wrong."""
    x, w, inv_rms = cache
    return dy * w * inv_rms, (dy * x * inv_rms).sum(axis=(0, 1))


for name, backward in {"right": rmsnorm_backward, "rms constant": rms_constant}.items():
    found = gradient_errors(rmsnorm_forward, backward, big_x, big_w, names=("dx", "dw"))
    print(f"{name:13}", {e.name: f"{e.error:.0e}" for e in found})
assert found[0].error > 0.1
assert found[1].error < 1e-7  # dw is right: it lies before the broken line

# %% [markdown]
# And does it matter? Take 30 layers that do one thing, x ← x + rmsnorm(x) W, as the branches of a
# model do, and send a gradient back through all of them, right and wrong.

# %%
depth, D = 30, 64
mats = rng.standard_normal((depth, D, D)) * D**-0.5
stream, caches = rng.standard_normal((8, D)), []
for mat in mats:
    normed, c = rmsnorm_forward(stream, np.ones(D), 1e-6)
    stream, caches = stream + normed @ mat, [*caches, c]
start = rng.standard_normal(stream.shape)
right_way = wrong_way = start
cosines = [1.0]
for mat, c in zip(mats[::-1], caches[::-1], strict=True):
    right_way = right_way + rmsnorm_backward(right_way @ mat.T, c)[0]
    wrong_way = wrong_way + wrong_way @ mat.T * c.inv_rms
    pair = [v.ravel() / np.linalg.norm(v) for v in (right_way, wrong_way)]
    cosines.append(float(pair[0] @ pair[1]))

# %%
angle = np.degrees(np.arccos(cosines[-1]))
print(f"angle between right and wrong after {depth} layers: {angle:.0f} degrees")
assert 10 < angle < 30
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.plot(np.degrees(np.arccos(np.clip(cosines, -1, 1))), "o-", color="C3", ms=4)
ax.set(xlabel="layers on the way back", ylabel="angle (degrees)")
ax.set_title("the wrong gradient turns away, a little in every layer")
plt.show()

# %% [markdown]
# Less than twenty degrees: a step that way still goes downhill, loss falls, nobody notices. That is
# why this mistake lives so long in people's code. In each layer one direction of 64 is wrong; the
# smaller the width, the worse.
#
# ## 5 SwiGLU by hand
#
# $$\mathrm{gate} = x\,W_{\mathrm{gate}}^\top \qquad \mathrm{up} = x\,W_{\mathrm{up}}^\top \qquad
# y = \bigl(\mathrm{silu}(\mathrm{gate}) \cdot \mathrm{up}\bigr)\,W_{\mathrm{down}}^\top
# \qquad \mathrm{silu}(a) = a\,\sigma(a)$$
#
# *up* carries numbers; *gate* says how much of each may pass. σ(ln 3) = 3/4 and σ(−ln 3) = 1/4, so
# we choose weights that give gates of ln 3, 0 and −ln 3.
#
# | letter | here | Qwen2-7B | meaning |
# | --- | --- | --- | --- |
# | D | 2 | 3584 | width of a token |
# | F | 3 | 18944 | width of the network |

# %%
x = np.array([[1.0, 2.0]])  # (N, D): one token
w_gate = np.log(3) * np.array([[1, 0], [2, -1], [1, -1]])  # (F, D)
w_up = np.array([[0, 1], [1, 1], [2, 1.0]])  # (F, D)
w_down = np.array([[4, 1, 0], [0, 1, 4.0]])  # (D, F)
gate, up = x @ w_gate.T, x @ w_up.T  # (N, F) each
s = 1 / (1 + np.exp(-gate))
h = gate * s * up  # (N, F)
y = h @ w_down.T  # (N, D)

# %%
rows = {"gate / ln 3": gate / np.log(3), "sigmoid": s, "up": up, "h / ln 3": h / np.log(3)}
for name, row in {**rows, "y / ln 3": y / np.log(3)}.items():
    print(f"{name:12} {row.shape} {row[0]}")

# %%
y_package, cache = swiglu_forward(x, w_gate, w_up, w_down)
assert np.allclose(y, y_package, rtol=0, atol=1e-14)
assert np.allclose(h / np.log(3), [[0.75 * 2, 0, -0.25 * 4]])
print({name: value.shape for name, value in list(cache._asdict().items())[:2]})

# %% [markdown]
# Feature 0 passes, 3/4 of it. Feature 1 is shut: its gate is 0, whatever *up* says. Feature 2 has
# a negative gate and passes a little, with the other sign: silu dips below 0.

# %%
a = np.linspace(-6, 6, 301)
curves = {"silu": a * sigmoid(a), "relu": np.maximum(a, 0), "sigmoid": sigmoid(a)}
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for (name, values), color in zip(curves.items(), ("C0", "C7", "C1"), strict=True):
    left.plot(a, values, color=color, label=name)
    right.plot(a, np.gradient(values, a), color=color, label=f"slope of {name}")
left.set(title="silu(a) = a sigmoid(a)", xlabel="a", ylim=(-0.6, 4))
right.set(title="its slope goes above 1 and below 0", xlabel="a")
left.legend()
right.legend()
plt.show()

# %%
lowest = a[np.argmin(curves["silu"])]
print(f"silu is lowest at {lowest:.2f}: {curves['silu'].min():.3f}")
assert abs(lowest + 1.28) < 0.03
assert np.gradient(curves["silu"], a).max() > 1.09

# %% [markdown]
# relu has slope 0 for all negative inputs: a feature that is off for every token can never come
# back. silu always lets some gradient through, except at one point.
#
# ## 6 What a gate can do
#
# Multiply. Take two features with opposite gates, a and −a, and opposite *up*, b and −b:
#
# $$\mathrm{silu}(a)\,b + \mathrm{silu}(-a)\,(-b)
# = a\,b\,\bigl(\sigma(a) + \sigma(-a)\bigr) = a\,b$$
#
# because σ(a) + σ(−a) = 1. So **two features of a SwiGLU multiply two inputs, exactly.** A network
# with relu is made of flat pieces; it can only come near, and only in a region. Here it tries with
# 2 and with 32 features: random ones, their output weights fitted, the best of 20 draws.

# %%
side = np.linspace(-2, 2, 41)
grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)  # (1681, 2): pairs (a, b)
product = grid[:, 0] * grid[:, 1]
pair_gate, pair_up = np.array([[1, 0], [-1, 0.0]]), np.array([[0, 1], [0, -1.0]])
by_swiglu = swiglu_forward(grid, pair_gate, pair_up, np.ones((1, 2)).repeat(2, 0))[0][:, 0]
print("SwiGLU, F = 2: largest error", np.abs(by_swiglu - product).max())
assert np.abs(by_swiglu - product).max() < 1e-14


# %%
def best_relu(features):
    """Return the best fit of a b with so many relu features, the best of 20 random choices."""
    fits = []
    for _ in range(20):
        inner = np.maximum(
            grid @ rng.standard_normal((2, features)) + rng.uniform(-2, 2, features), 0
        )
        fits.append(inner @ np.linalg.lstsq(inner, product, rcond=None)[0])
    return min(fits, key=lambda fit: np.abs(fit - product).max())


# %%
pictures = {"a b, by SwiGLU with F = 2": by_swiglu}
for features in (2, 32):
    pictures[f"relu with F = {features}"] = best_relu(features)
    error = np.abs(pictures[f"relu with F = {features}"] - product).max()
    print(f"relu, F = {features}: largest error {error:.2f}")
    assert error > 0.1

# %%
fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
for ax, (title, values) in zip(axes, pictures.items(), strict=True):
    shown = ax.imshow(
        values.reshape(41, 41), cmap="RdBu", vmin=-4, vmax=4, extent=(-2, 2, -2, 2), origin="lower"
    )
    ax.contour(side, side, values.reshape(41, 41), levels=range(-4, 5), colors="k", linewidths=0.5)
    ax.set(title=title, xlabel="a")
    ax.grid(False)
axes[0].set_ylabel("b")
fig.colorbar(shown, ax=axes, label="output")
plt.show()

# %% [markdown]
# ## 7 The way back
#
# A product gives its gradient to both factors. With $h = \mathrm{silu}(\mathrm{gate}) \cdot
# \mathrm{up}$ and $s = \sigma(\mathrm{gate})$:
#
# $$dh = dy\,W_{\mathrm{down}} \qquad d\mathrm{up} = dh \cdot \mathrm{silu}(\mathrm{gate}) \qquad
# d\mathrm{gate} = dh \cdot \mathrm{up} \cdot s\,\bigl(1 + \mathrm{gate}\,(1 - s)\bigr)$$
#
# x went into both branches. So what comes back through them is **added**.

# %%
dy = np.array([[1.0, 1.0]])  # (N, D)
dw_down = dy.T @ h  # (D, F)
dh = dy @ w_down  # (N, F)
dup = dh * gate * s  # (N, F)
dgate = dh * up * s * (1 + gate * (1 - s))  # (N, F)
dw_up, dw_gate = dup.T @ x, dgate.T @ x  # (F, D) each
dx = dup @ w_up + dgate @ w_gate  # (N, D): two branches, two gradients
for name, array in {"dh": dh, "dup": dup, "dgate": dgate, "dx": dx}.items():
    print(f"{name:6} {array.shape} {array[0]}")
ours = dx, dw_gate, dw_up, dw_down
for one, theirs in zip(ours, swiglu_backward(dy, cache), strict=True):
    assert np.abs(one - theirs).max() < 1e-14

# %% [markdown]
# Look at feature 1, whose gate is 0. It passed nothing, so *up* gets no gradient. But its *gate*
# gets one: to open it would have helped. That is how a shut feature comes back.

# %%
assert dup[0, 1] == 0
assert dgate[0, 1] == dh[0, 1] * up[0, 1] / 2  # the slope of silu at 0 is 1/2
arrays = [rng.standard_normal(shape) for shape in ((2, 3, 5), (7, 5), (7, 5), (5, 7))]
errors = check_gradients(swiglu_forward, swiglu_backward, *arrays)
names = "dx", "dw_gate", "dw_up", "dw_down"
print({name: f"{error:.0e}" for name, error in zip(names, errors, strict=True)})
assert max(errors) < 1e-7

# %% [markdown]
# ## 8 Why 8/3
#
# The older network has two matrices, D to 4 D and back: 8 D² weights. SwiGLU has three. With the
# same weights, 3 D F = 8 D², so F = 8/3 D. Qwen kept this rule; Qwen2 did not:

# %%
print("model          D      F    F / D   of all weights, in these networks")
for name in ("qwen-1.8b", "qwen-7b", "qwen-14b", "qwen2-0.5b", "qwen2-7b", "qwen2-72b"):
    c = preset(name)
    D, F = c.hidden_size, c.intermediate_size
    total = sum(int(np.prod(shape)) for shape in param_shapes(c).values())
    share = c.num_hidden_layers * 3 * D * F / total
    print(f"{name:12} {D:5} {F:6}   {F / D:.2f}   {share:.0%}")
assert round(11008 / 4096, 2) == 2.69  # 8/3 = 2.67, rounded up to a multiple of 128

# %% [markdown]
# With fewer key/value heads (notebook 03) Qwen2's attention is smaller. What was saved went here.
#
# ## 9 Another thing broken: the branches exchanged
#
# Which matrix is the gate? In the files of the first Qwen they are called `w1` and `w2`, and `w2`
# is the gate. Exchange them, and every shape fits:


# %%
def exchanged(x, w_gate, w_up, w_down):
    return swiglu_forward(x, w_up, w_gate, w_down)


def exchanged_backward(dy, cache):
    dx, dw_up, dw_gate, dw_down = swiglu_backward(dy, cache)
    return dx, dw_gate, dw_up, dw_down


errors = check_gradients(exchanged, exchanged_backward, *arrays)
print("gradient check, largest error:", f"{max(errors):.0e}")
assert max(errors) < 1e-7

# %% [markdown]
# The gradient check is content: backward belongs to forward. Only a comparison with the right
# network can see it. The checker does that on inputs made for the purpose, and compares with known
# mistakes:

# %%
report = compare("swiglu", lambda *a: exchanged(*a)[0])
print("\n".join(line for line in str(report).splitlines() if "exactly" in line or "Hint" in line))
assert not report.ok
assert "swiglu.branches_swapped" in str(report)

# %% [markdown]
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. By hand.** What is RMSNorm of (3, −3, 3, −3, 9, −9, 3, −3) with eps 0 and a gain of
# 1? Write the first and the fifth number; two digits are enough.

# %%
answer_1 = None  # (first, fifth)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The squares are six times 9 and twice 81: 216. Divided by 8 that is 27.
#
# ```python
# answer_1 = (3 / 27**0.5, 9 / 27**0.5)
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    token = np.array([3, -3, 3, -3, 9, -9, 3, -3.0])
    expected = rmsnorm_forward(token, np.ones(8), 0.0)[0][[0, 4]]
    assert np.abs(expected - answer_1).max() < 0.01, "no; start with the mean of the squares"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. A gain that is 0.** The gain of feature 2 is 0, eps is 0, all other numbers are
# ordinary. Which of these are then 0 for sure: the output `y[2]`, the gradient `dw[2]`, the
# gradient `dx[2]`? Answer with a set of names, such as `{"y", "dx"}`.

# %%
answer_2 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# The output is 0. The gain still gets a gradient, dy · x̂, so it can come back. And x₂ still acts
# through rms on all other features, so dx₂ is not 0.
#
# ```python
# answer_2 = {"y"}
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    gain = np.array([1, 2, 0, 1.5])
    y2, c2 = rmsnorm_forward(np.array([1, 2, 3, -1.0]), gain, 0.0)
    dx2, dw2 = rmsnorm_backward(np.array([1, -2, 1, 3.0]), c2)
    zeros = {n for n, array in (("y", y2), ("dx", dx2), ("dw", dw2)) if array[2] == 0}
    assert answer_2 == zeros, "no; who else uses x[2]?"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. A square.** Choose w_gate, w_up and w_down, with D = 1 and F = 2, so that SwiGLU
# computes x² exactly.

# %%
answer_3 = None  # (w_gate, w_up, w_down) with shapes (2, 1), (2, 1), (1, 2)

# %% [markdown]
# <details><summary>Solution</summary>
#
# Section 6 with a = b = x.
#
# ```python
# answer_3 = (np.array([[1], [-1.0]]), np.array([[1], [-1.0]]), np.ones((1, 2)))
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    line = np.linspace(-3, 3, 13)[:, None]
    found = swiglu_forward(line, *(np.asarray(m, float) for m in answer_3))[0]
    assert np.abs(found - line**2).max() < 1e-12, "no; what must the two gates be?"
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** `minqwen check rmsnorm --impl my.py:f` and `minqwen check swiglu` try your own.
# Notebook 15 puts many small SwiGLUs side by side and chooses among them.

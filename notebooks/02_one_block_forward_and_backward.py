# %% [markdown]
# # One decoder block, forward and backward
#
# *Made from `02_one_block_forward_and_backward.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# A Qwen2 model is an embedding, a stack of equal **decoder blocks**, and an output layer. The
# blocks do the work. Here one block is so small that you can look at every array.
#
# ## What you will do
#
# - Walk through `decoder_block_forward`, one call at a time, and print every shape.
# - Walk back through `decoder_block_backward`, one line at a time.
# - Prove every gradient with finite differences. Then break one line and watch the proof fail.
#
# ## What you will learn
#
# - Why the two `+` of a block turn into two `+` of the gradient.
# - How four query heads share two key/value heads, forward and backward.
# - Where the term *delta* in the gradient of softmax comes from.
# - What a gradient check finds, and what it cannot find.
#
# ## What you need
#
# The chain rule, matrix products, and NumPy with matplotlib. 20 minutes; it runs in a few seconds.
# Beside this page, open `minqwen/model/decoder_block.py` and `minqwen/model/self_attention.py`: it
# is the code that we take apart.

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
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.params import count, scope

rng = np.random.default_rng(0)

# %% [markdown]
# Now the forward and backward functions. Each pair has a file of its own in `minqwen/layers/`.

# %%
from minqwen.layers.attention import attention_backward, attention_forward, causal_mask
from minqwen.layers.block_attention import block_attention_backward, block_attention_forward
from minqwen.layers.linear import linear_backward, linear_forward
from minqwen.layers.rmsnorm_fast import fast_rmsnorm_backward, fast_rmsnorm_forward
from minqwen.layers.rope import rope_backward, rope_forward, rope_inv_freq, rope_tables
from minqwen.layers.swiglu import swiglu_backward, swiglu_forward
from minqwen.model.decoder_block import decoder_block_backward, decoder_block_forward
from minqwen.model.layer_plan import PositionTables
from minqwen.model.self_attention import join_heads, split_heads

# %% [markdown]
# ## 1 A block you can hold in your hand
#
# | letter | here | Qwen2-7B | meaning |
# | --- | --- | --- | --- |
# | B | 1 | | texts in the batch |
# | T | 3 | up to 131072 | tokens |
# | D | 8 | 3584 | width of the residual stream |
# | H | 4 | 28 | query heads |
# | Hkv | 2 | 4 | key/value heads; each serves G = H / Hkv query heads |
# | Dh | 4 | 128 | width of a head |
# | F | 12 | 18944 | width of the feed-forward network |
#
# Everything is in float64, because section 4 needs the digits.

# %%
B, T, D, H, Hkv, Dh, F = 1, 3, 8, 4, 2, 4, 12
config = QwenConfig(
    vocab_size=11,  # not used here: there is no embedding in a block
    hidden_size=D,
    intermediate_size=F,
    num_hidden_layers=1,
    num_attention_heads=H,
    num_key_value_heads=Hkv,
    head_dim=Dh,
    initializer_range=0.4,  # large, so that the attention has opinions
)

# %% [markdown]
# The parameters are a plain dict with the names of a published checkpoint. Fresh biases are 0 and
# fresh gains are 1. We move them all a little: with a gain of 1 nobody would notice a backward pass
# that forgets the gain.

# %%
params = scope(init_params(config, rng, "float64"), "model.layers.0")
for value in params.values():
    value += 0.1 * rng.standard_normal(value.shape)
x = rng.standard_normal((B, T, D))

for name, value in params.items():
    print(f"{name:34} {value.shape}")
print("numbers in the block:", count(params))
assert count(params) == 720

# %% [markdown]
# Two things to see. A weight is stored as (out, in), so a layer computes `x @ w.T + b`. And only
# q, k and v have a bias: that is Qwen's choice (report, 2.3.1).
#
# ## 2 Forward
#
# The whole block is two lines:
#
# $$h = x + \mathrm{o\_proj}(\mathrm{attention}(\mathrm{rope}(q), \mathrm{rope}(k), v))
# \qquad q, k, v = \text{projections of } \mathrm{rmsnorm}(x)$$
#
# $$y = h + \mathrm{swiglu}(\mathrm{rmsnorm}(h))$$
#
# A function `name_forward` returns its result and a cache. The cache is what `name_backward` will
# need. We keep every cache, under a name that ends in `_c`.


# %%
def show(**arrays):
    """Print the name and the shape of each array."""
    for name, array in arrays.items():
        print(f"{name:4} {array.shape}")


# %% [markdown]
# ### 2.1 RMSNorm
#
# $$n = w \cdot \frac{x}{\mathrm{rms}(x)} \qquad
# \mathrm{rms}(x) = \sqrt{\tfrac1D \sum_i x_i^2 + \epsilon}$$
#
# Each token is brought to the same size. The stream `x` itself stays as it is: only the branch
# reads the normalised copy. This is called pre-norm.
#
# The package has this twice too. `rmsnorm.py` is the equation as it stands. The model runs
# `rmsnorm_fast.py`: the same y to the last bit, in fewer walks over memory.

# %%
n1, norm1_c = fast_rmsnorm_forward(x, params["input_layernorm.weight"], config.rms_norm_eps)
show(x=x, n1=n1)
x_hat = n1 / params["input_layernorm.weight"]
print("rms before:", np.sqrt((x**2).mean(axis=-1)).round(3))
print("rms after: ", np.sqrt((x_hat**2).mean(axis=-1)).round(3), "(before the gain)")
assert np.allclose((x_hat**2).mean(axis=-1), 1, rtol=1e-5)

# %% [markdown]
# ### 2.2 Queries, keys and values
#
# $$q = n\,W_q^\top + b_q \qquad k = n\,W_k^\top + b_k \qquad v = n\,W_v^\top + b_v$$
#
# There are four query heads but two heads for keys and values, so k and v are half as wide as q.

# %%
q, q_c = linear_forward(n1, params["self_attn.q_proj.weight"], params["self_attn.q_proj.bias"])
k, k_c = linear_forward(n1, params["self_attn.k_proj.weight"], params["self_attn.k_proj.bias"])
v, v_c = linear_forward(n1, params["self_attn.v_proj.weight"], params["self_attn.v_proj.bias"])
show(q=q, k=k, v=v)

# %% [markdown]
# Split the last axis into heads: head h owns the features h·Dh to (h+1)·Dh − 1.

# %%
q, k, v = split_heads(q, H), split_heads(k, Hkv), split_heads(v, Hkv)
show(q=q, k=k, v=v)
assert q.shape == (B, H, T, Dh)
assert k.shape == v.shape == (B, Hkv, T, Dh)

# %% [markdown]
# ### 2.3 RoPE: the position as a rotation
#
# Feature i of a head is paired with feature i + Dh/2. At position p the pair (a, b) is turned by
# the angle p · f_i:
#
# $$a' = a\cos(p f_i) - b\sin(p f_i) \qquad b' = a\sin(p f_i) + b\cos(p f_i)
# \qquad f_i = \mathrm{base}^{-2i/D_h}$$
#
# With Dh = 4 there are two pairs: a fast one and a slow one.

# %%
inv_freq = rope_inv_freq(Dh, config.rope_theta, "float64")
cos, sin = rope_tables(np.arange(T), inv_freq)
show(cos=cos, sin=sin)
print("radians per position:", inv_freq)

q_before = q
q, q_rope_c = rope_forward(q, cos, sin)
k, k_rope_c = rope_forward(k, cos, sin)
assert np.array_equal(q[:, :, 0], q_before[:, :, 0])  # position 0 is not turned
assert np.allclose(np.linalg.norm(q, axis=-1), np.linalg.norm(q_before, axis=-1))  # same lengths

# %% [markdown]
# ### 2.4 Attention
#
# $$P = \mathrm{softmax}\!\left(\frac{q k^\top}{\sqrt{D_h}}\right) \qquad \mathrm{out} = P v$$
#
# Query head h reads key/value head h // G, with G = 2. A token may look at itself and at earlier
# tokens, not at later ones: their scores are set to −∞ before the softmax.
#
# The package has this twice. `attention_forward` is the equation as it stands and keeps P.
# `block_attention_forward` never builds all of P; the model runs that one. We run both and compare.

# %%
a, attention_c = block_attention_forward(q, k, v)
a_plain, plain_c = attention_forward(q, k, v, causal_mask(T, T))
show(a=a, P=plain_c.probs)
print("largest difference:", np.abs(a - a_plain).max())
assert np.abs(a - a_plain).max() < 1e-12
assert np.allclose(plain_c.probs.sum(axis=-1), 1)

# %%
fig, axes = plt.subplots(1, H, figsize=(9.5, 3.6), sharey=True, layout="constrained")
for head, (ax, p) in enumerate(zip(axes, plain_c.probs.reshape(H, T, T), strict=True)):
    ax.imshow(p, cmap="Blues", vmin=0, vmax=1)
    for row, col in np.ndindex(T, T):
        color = "white" if p[row, col] > 0.6 else "black"
        text = f"{p[row, col]:.2f}" if col <= row else "hidden"
        ax.text(col, row, text, ha="center", va="center", color=color)
    ax.set(title=f"query head {head}\nkey/value head {head // 2}", xlabel="key position")
    ax.set(xticks=range(T), yticks=range(T))
axes[0].set_ylabel("query position")
fig.suptitle("Attention weights P: every row sums to 1; nobody sees what comes later")
plt.show()

# %% [markdown]
# Token 0 can look only at itself, so its row is 1, 0, 0 whatever the scores are. Keep this in mind:
# a weight that cannot change has gradient 0.
#
# ### 2.5 Back to the stream
#
# Put the heads side by side again, mix them with `o_proj`, and add the result to x.

# %%
o, o_c = linear_forward(join_heads(a), params["self_attn.o_proj.weight"])
h = x + o
show(o=o, h=h)

# %% [markdown]
# ### 2.6 The feed-forward network
#
# $$m = \bigl(\mathrm{silu}(n\,W_{\mathrm{gate}}^\top) \cdot n\,W_{\mathrm{up}}^\top\bigr)
# W_{\mathrm{down}}^\top \qquad \mathrm{silu}(a) = a\,\sigma(a) \qquad y = h + m$$
#
# It works on each token by itself. One half (*up*) carries numbers; the other (*gate*) says how
# much of each may pass.

# %%
n2, norm2_c = fast_rmsnorm_forward(
    h, params["post_attention_layernorm.weight"], config.rms_norm_eps
)
gate, up, down = (params[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
m, mlp_c = swiglu_forward(n2, gate, up, down)
y = h + m
show(n2=n2, gate=mlp_c.gate, up=mlp_c.up, m=m, y=y)

# %% [markdown]
# That was the block. Is it the block of the package? Not nearly: exactly, to the last bit.

# %%
tables = PositionTables(cos, sin)  # what a block knows of where the tokens are
y_package, block_c = decoder_block_forward(x, params, config, tables)
assert np.array_equal(y, y_package)
print("equal, bit for bit")

# %% [markdown]
# ## 3 Backward
#
# Let L be any loss, and write `dy` for ∂L/∂y. Backward means: from `dy`, find `dx` and the gradient
# of every parameter. A gradient always has the shape of the thing it belongs to.
#
# We take a random `dy`; section 5 says why. Then read section 2 **from the bottom up**. Every line
# turns into its backward line.

# %%
dy = rng.standard_normal(y.shape)
grads = {}

# %% [markdown]
# ### 3.1 The feed-forward branch, and the first fork
#
# Forward, h went two ways: straight into y, and into the branch.
#
# ```
#          +--> rmsnorm --> swiglu --+
#     h ---+                         +--> y        y  = h  + branch(h)
#          +-------------------------+             dh = dy + branch backward(dy)
# ```
#
# What is used twice gets two gradients, and they are **added**.

# %%
dn2, dgate, dup, ddown = swiglu_backward(dy, mlp_c)
grads["mlp.gate_proj.weight"] = dgate
grads["mlp.up_proj.weight"] = dup
grads["mlp.down_proj.weight"] = ddown
dh_branch, grads["post_attention_layernorm.weight"] = fast_rmsnorm_backward(dn2, norm2_c)

dh = dy + dh_branch  # the fork: straight path + branch
show(dn2=dn2, dh=dh)

# %% [markdown]
# ### 3.2 The output projection
#
# For $y = x W^\top$: $dx = dy\,W$ and $dW = dy^\top x$, summed over all tokens.

# %%
da, grads["self_attn.o_proj.weight"], _ = linear_backward(dh, o_c)
da = split_heads(da, H)
show(da=da)

# %% [markdown]
# ### 3.3 Attention
#
# Out = P v is a product, so
#
# $$dv = P^\top\,d\mathrm{out} \qquad dP = d\mathrm{out}\,v^\top$$
#
# Softmax is where people go wrong. A row of P always sums to 1, so its entries cannot all grow:
# whatever dP asks for on average is taken away again. This average is delta:
#
# $$dS_{ij} = P_{ij}\,(dP_{ij} - \delta_i) \qquad \delta_i = \sum_j P_{ij}\,dP_{ij}$$
#
# $$dq = \frac{dS\,k}{\sqrt{D_h}} \qquad dk = \frac{dS^\top q}{\sqrt{D_h}}$$
#
# The arrays of the cache have an axis for the group: q is (B, Hkv, G, T, Dh), and k and v have a 1
# there, which broadcasts. Broadcast forward means **sum** backward: a key/value head served G query
# heads, so it collects G gradients.

# %%
qg, kg, vg, P, scale, _ = plain_c
dout = da.reshape(qg.shape)
show(qg=qg, kg=kg, P=P, dout=dout)

dv = (P.swapaxes(-1, -2) @ dout).sum(axis=2)  # the sum over the group
dP = dout @ vg.swapaxes(-1, -2)
delta = (dP * P).sum(axis=-1, keepdims=True)
dS = P * (dP - delta) * scale
dq = (dS @ kg).reshape(B, H, T, Dh)
dk = (dS.swapaxes(-1, -2) @ qg).sum(axis=2)  # the sum over the group
show(dq=dq, dk=dk, dv=dv)

# %% [markdown]
# Three checks. Each row of dS sums to 0, as it must: adding the same number to all scores changes
# nothing. The query of token 0 gets no gradient: it had no choice. And the block version of the
# package, which never held P, agrees.

# %%
assert np.abs(dS.sum(axis=-1)).max() < 1e-12
assert np.abs(dq[:, :, 0]).max() < 1e-12
by_blocks = block_attention_backward(da, attention_c)
for name, ours, theirs in zip(("dq", "dk", "dv"), (dq, dk, dv), by_blocks, strict=True):
    print(name, "largest difference", np.abs(ours - theirs).max())
    assert np.abs(ours - theirs).max() < 1e-12
dq, dk, dv = by_blocks  # go on with these, to stay equal to the last bit

# %% [markdown]
# ### 3.4 RoPE and the three projections
#
# A rotation is undone by turning back, so its gradient is `dy` turned back. q, k and v all read the
# same n1: three gradients come back to it, and they are **added**.

# %%
dq, dk = rope_backward(dq, q_rope_c), rope_backward(dk, k_rope_c)
dn_q, dw, db = linear_backward(join_heads(dq), q_c)
grads |= {"self_attn.q_proj.weight": dw, "self_attn.q_proj.bias": db}
dn_k, dw, db = linear_backward(join_heads(dk), k_c)
grads |= {"self_attn.k_proj.weight": dw, "self_attn.k_proj.bias": db}
dn_v, dw, db = linear_backward(join_heads(dv), v_c)
grads |= {"self_attn.v_proj.weight": dw, "self_attn.v_proj.bias": db}

dn1 = dn_q + dn_k + dn_v  # one input, three readers
show(dn1=dn1)

# %% [markdown]
# ### 3.5 RMSNorm, and the second fork

# %%
dx_branch, grads["input_layernorm.weight"] = fast_rmsnorm_backward(dn1, norm1_c)

dx = dh + dx_branch  # the fork: straight path + branch
show(dx=dx)

# %% [markdown]
# Done. Again: is this what the package computes?

# %%
dx_package, grads_package = decoder_block_backward(dy, block_c)
assert np.array_equal(dx, dx_package)
assert grads.keys() == grads_package.keys() == params.keys()
assert all(np.array_equal(grads[name], grads_package[name]) for name in params)
print("dx and", len(grads), "gradients: equal, bit for bit")

# %% [markdown]
# ## 4 The proof
#
# Two codes that agree may share a mistake. Finite differences know nothing of our formulas; they
# only run the forward pass:
#
# $$\frac{\partial L}{\partial w_i} \approx
# \frac{L(w + \varepsilon e_i) - L(w - \varepsilon e_i)}{2\varepsilon}
# \qquad L = \sum y \cdot dy$$
#
# This L has exactly `dy` as its gradient with respect to y. We move each of the 720 parameters and
# each of the 24 inputs, up and down: 1488 forward passes.


# %%
def loss():
    """Return L for x and params as they are now."""
    return float((decoder_block_forward(x, params, config, tables)[0] * dy).sum())


numerical = {name: numerical_gradient(loss, value) for name, value in params.items()}
numerical["x"] = numerical_gradient(loss, x)

# %%
ours = grads | {"x": dx}
print(f"{'gradient of':34} {'shape':10} {'largest':>9} {'error':>9}")
for name, expected in numerical.items():
    error = compare_gradient(name, ours[name], expected).error
    print(f"{name:34} {expected.shape!s:10} {np.abs(expected).max():9.3f} {error:9.1e}")
    assert error < 1e-7

# %% [markdown]
# `error` is the largest difference divided by the largest entry of the gradient. Rounding alone
# gives 1e-10 to 1e-8, because central differences subtract two nearly equal numbers. A real mistake
# is much larger, as section 6 shows. The bound between the two is 1e-7.
#
# In your own work this is one call, `check_gradients(forward, backward, *inputs)`. Here it is for
# attention alone; the mask is passed on and not checked, because it is not a float.

# %%
names = ("q", "k", "v")
errors = check_gradients(attention_forward, attention_backward, q, k, v, causal_mask(T, T))
print({name: f"{error:.0e}" for name, error in zip(names, errors, strict=True)})

# %% [markdown]
# ## 5 Why `dy` must be random
#
# It is tempting to take `dy = 1`: then L is just the sum of y. For softmax this is a trap. The sum
# of a softmax is always 1, so its true gradient is 0, and many wrong formulas give 0 too.
#
# To see it, we need a bare softmax. Attention with k = v = identity and scale 1 is one: the scores
# are q, and the output is P.

# %%
scores = rng.standard_normal((4, 5))
eye = np.eye(5)[None, None]


def worst_error(rule, dP):
    """Return the largest difference between a rule for dS and central differences."""

    def f():
        return float((attention_forward(scores[None, None], eye, eye, scale=1.0)[0] * dP).sum())

    probs = attention_forward(scores[None, None], eye, eye, scale=1.0)[0][0, 0]
    return np.abs(rule(probs, dP) - numerical_gradient(f, scores)).max()


# %%
RULES = {
    "right":         lambda P, dP: P * (dP - (P * dP).sum(axis=-1, keepdims=True)),
    "all zeros":     lambda P, dP: 0 * P,
    "wrong sign":    lambda P, dP: P * ((P * dP).sum(axis=-1, keepdims=True) - dP),
    "P squared":     lambda P, dP: P**2 * (dP - (P * dP).sum(axis=-1, keepdims=True)),
    "forgets delta": lambda P, dP: P * dP,
}  # fmt: skip
random_dP = rng.standard_normal(scores.shape)
print(f"{'rule':14} {'dP = 1':>9} {'dP random':>10}")
for name, rule in RULES.items():
    with_ones, with_random = worst_error(rule, np.ones_like(scores)), worst_error(rule, random_dP)
    print(f"{name:14} {with_ones:9.0e} {with_random:10.0e}")
    assert (with_random < 1e-8) == (name == "right")  # random upstream: only the right one passes
    assert (with_ones < 1e-8) == (name != "forgets delta")  # ones: three wrong ones pass

# %% [markdown]
# With ones, three of the four mistakes pass, "all zeros" among them. With a random dP all four are
# caught. So `check_gradients` always draws a random one.
#
# ## 6 Break one thing: forget delta
#
# Now put that last mistake, dS = P · dP, into the block. Everything after that line runs on as
# before, without any error message, and every shape is right. Which gradients are wrong?


# %%
def finish_backward(dS):
    """Go from dS to the input of the block, as in sections 3.3 to 3.5."""
    found = {}
    dq, dk = (dS @ kg).reshape(B, H, T, Dh), (dS.swapaxes(-1, -2) @ qg).sum(axis=2)
    dq, dk = rope_backward(dq, q_rope_c), rope_backward(dk, k_rope_c)
    dn_q, *found["q"] = linear_backward(join_heads(dq), q_c)
    dn_k, *found["k"] = linear_backward(join_heads(dk), k_c)
    dx_branch, gain = fast_rmsnorm_backward(dn_q + dn_k + dn_v, norm1_c)
    result = {f"self_attn.{n}_proj.weight": dw for n, (dw, _) in found.items()}
    result |= {f"self_attn.{n}_proj.bias": db for n, (_, db) in found.items()}
    return result | {"input_layernorm.weight": gain, "x": dh + dx_branch}


# %%
broken = ours | finish_backward(P * dP * scale)  # the right one is P * (dP - delta) * scale
order = ["x", *params]
error_ours = [compare_gradient(n, ours[n], numerical[n]).error for n in order]
error_broken = [compare_gradient(n, broken[n], numerical[n]).error for n in order]
wrong = {n for n, error in zip(order, error_broken, strict=True) if error > 1e-7}
print("wrong:", *sorted(wrong), sep="\n  ")
upstream = {f"self_attn.{n}_proj.{part}" for n in "qk" for part in ("weight", "bias")}
assert wrong == upstream | {"x", "input_layernorm.weight"}

# %%
fig, ax = plt.subplots(figsize=(8.5, 4.6), layout="constrained")
rows = np.arange(len(order))
ax.barh(rows - 0.2, error_ours, 0.4, label="right", color="tab:blue")
ax.barh(rows + 0.2, error_broken, 0.4, label="delta forgotten", color="tab:red")
ax.axvline(1e-7, color="black", linestyle="--", label="bound 1e-7")
ax.set(xscale="log", yticks=rows, yticklabels=order, xlim=(1e-12, 3))
ax.set_xlabel("error against central differences, relative")
ax.set_title("Only what lies behind the broken line is wrong")
ax.invert_yaxis()
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# The picture is a map of the bug. Gradients of v_proj, o_proj and the feed-forward network never
# pass through dS: they are right. q_proj, k_proj, the first norm and x lie behind it: they are
# wrong. **The bug is between the last right one and the first wrong one.** Look there first.
#
# Nothing crashed, and half of the gradients are right: a model with this bug would still learn
# something. Only the check tells.
#
# ## 7 What a gradient check cannot find
#
# Query heads 0 and 1 share key/value head 0; heads 2 and 3 share head 1. So to write out all heads
# one *repeats* (0, 0, 1, 1). A common mistake is to *tile* (0, 1, 0, 1).

# %%
repeated = [np.repeat(t, H // Hkv, axis=1) for t in (k, v)]  # heads 0 0 1 1
tiled = [np.tile(t, (1, H // Hkv, 1, 1)) for t in (k, v)]  # heads 0 1 0 1
mask = causal_mask(T, T)
difference = {}
for name, (k_all, v_all) in {"repeat": repeated, "tile": tiled}.items():
    out, _ = attention_forward(q, k_all, v_all, mask)
    difference[name] = np.abs(out - a).max()
    error = max(check_gradients(attention_forward, attention_backward, q, k_all, v_all, mask))
    print(f"{name:7} gradient error {error:.0e}, distance from the model {difference[name]:.2g}")
assert difference["repeat"] < 1e-12
assert difference["tile"] > 0.1

# %% [markdown]
# Both pass the gradient check, but `tile` is another model. A gradient check proves that *backward
# belongs to forward*. It cannot know which forward you wanted. For that you need something that
# does not come from you: the equation written as a slow loop (`tests/layers/`), or the published
# model (`tests/parity/` compares with Hugging Face's code).
#
# ## 8 Why the straight path matters
#
# Look at the sizes at our two forks. Then at 24 blocks on top of each other, with D = 64, once
# with the gradient as it is, and once with only what came *through a branch* in every block.

# %%
deep = QwenConfig(
    vocab_size=11,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=64**-0.5,  # a projection keeps the size of what it is given
)
deep_params = init_params(deep, rng, "float64")
deep_freq = rope_inv_freq(deep.head_dim, dtype="float64")
deep_tables = PositionTables(*rope_tables(np.arange(16), deep_freq))

# %%
stream, caches = rng.standard_normal((1, 16, 64)), []
for i in range(24):
    layer = scope(deep_params, f"model.layers.{i}")
    stream, cache = decoder_block_forward(stream, layer, deep, deep_tables)
    caches.append(cache)

full = branch_only = rng.standard_normal(stream.shape)
sizes = [(np.linalg.norm(full), np.linalg.norm(branch_only))]
for cache in reversed(caches):
    full = decoder_block_backward(full, cache)[0]
    branch_only = decoder_block_backward(branch_only, cache)[0] - branch_only
    sizes.append((np.linalg.norm(full), np.linalg.norm(branch_only)))

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
forks = {"feed-forward fork": (dy, dh_branch, dh), "attention fork": (dh, dx_branch, dx)}
for i, part in enumerate(("straight path", "branch", "sum")):
    norms = [np.linalg.norm(fork[i]) for fork in forks.values()]
    left.bar(np.arange(2) + 0.27 * (i - 1), norms, 0.25, label=part)
left.set(xticks=range(2), xticklabels=forks, ylabel="norm of the gradient")
left.set(ylim=(0, 11), title="The two forks of our block")
left.legend(ncols=3, loc="upper center")
right.semilogy(range(24, -1, -1), sizes, marker=".", label=["as it is", "through branches only"])
right.set(xlabel="after block (the gradient starts at 24)", ylabel="norm of the gradient")
right.set(xticks=range(0, 25, 4), title="24 blocks: the straight path keeps it alive")
right.legend()
plt.show()

# %%
lost = sizes[-1][1] / sizes[0][1]
print(f"after 24 blocks: as it is x {sizes[-1][0] / sizes[0][0]:.2f}, branches only x {lost:.0e}")
assert 0.1 < sizes[-1][0] / sizes[0][0] < 10
assert lost < 1e-6

# %% [markdown]
# Because y = x + ..., the gradient has one way down that multiplies it by exactly 1 in each block.
# With the branches alone nothing would reach the lowest blocks.
#
# Some of that loss is the small start of `o_proj` and `down_proj` (see `init.py`). Multiply these
# matrices by √48 and run section 8 again: about 1e-8 of the gradient comes through the branches
# alone, and the full gradient grows about twenty times on its way. So the small start has a use.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. Who feels a loss on token 1?** Suppose the loss depends on `y[0, 1]` only, so that
# `dy` is 0 for tokens 0 and 2. For which tokens is `dx` not 0? Answer with a set, such as `{0}`.

# %%
answer_1 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# Token 1 looked at tokens 0 and 1. Token 2 came later and had no say.
#
# ```python
# answer_1 = {0, 1}
# ```
#
# </details>

# %%
only_token_1 = np.zeros_like(y)
only_token_1[:, 1] = 1.0
felt = np.abs(decoder_block_backward(only_token_1, block_c)[0]).max(axis=(0, 2))
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    assert answer_1 == set(np.flatnonzero(felt).tolist()), "no; print(felt) shows the sizes"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. The derivative of SiLU.** With s = σ(a), silu(a) = a·s. Write its derivative with
# `a_values` and `s_values` alone. (The derivative of s is s·(1 − s).)

# %%
a_values = np.linspace(-4, 4, 9)
s_values = 1 / (1 + np.exp(-a_values))
answer_2 = None  # an array like a_values

# %% [markdown]
# <details><summary>Solution</summary>
#
# The product rule: s + a · s(1 − s).
#
# ```python
# answer_2 = s_values * (1 + a_values * (1 - s_values))
# ```
#
# It stands in `swiglu_backward`. It is not σ(a): near a = 2 it is even above 1.
#
# </details>


# %%
def sum_of_silu():
    """Return the sum of silu(a) over a_values."""
    return float((a_values / (1 + np.exp(-a_values))).sum())


if answer_2 is None:
    print("Exercise 2: not yet")
else:
    expected = numerical_gradient(sum_of_silu, a_values)
    assert np.abs(answer_2 - expected).max() < 1e-8, "no; compare it with `expected`"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. Shared heads.** In attention without groups, dv = Pᵀ dout, head by head. Here is
# `dv_all` with one gradient for each of the H = 4 query heads. Make from it the gradient of the
# Hkv = 2 value heads, shape (B, Hkv, T, Dh).

# %%
P_all, dout_all = P.reshape(B, H, T, T), dout.reshape(B, H, T, Dh)
dv_all = P_all.swapaxes(-1, -2) @ dout_all  # (B, H, T, Dh)
answer_3 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# Heads 0 and 1 form group 0, heads 2 and 3 group 1: split the head axis as (Hkv, G), and sum over
# G. Splitting it as (G, Hkv) would be the tile mistake of section 7, now in the backward pass.
#
# ```python
# answer_3 = dv_all.reshape(B, Hkv, H // Hkv, T, Dh).sum(axis=2)
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    assert answer_3.shape == dv.shape, f"the shape must be {dv.shape}, not {answer_3.shape}"
    assert np.abs(answer_3 - dv).max() < 1e-12, "no; which query heads share a value head?"
    print("Exercise 3: right")

# %% [markdown]
# **Where to go from here.** Open `minqwen/model/decoder_block.py` again: you know every line of it
# now. Then `language_model.py`, which stacks the blocks. Or change one sign in a copy of
# `rmsnorm_backward`, and find it with `check_gradients`.

# %% [markdown]
# # Mixture of experts: six tokens by hand
#
# *Made from `15_mixture_of_experts.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# In Qwen2-57B-A14B the feed-forward network of a block is replaced by 64 small ones, the
# **experts**. A **router** picks 8 of them for each token. So the model has 57 billion parameters,
# and a token meets 14 billion of them (Qwen2 report, 2.2.2). Here there are six tokens and four
# experts, and numbers that you can check in your head.
#
# ## What you will do
#
# - Route six tokens by hand: probabilities, choice, weights; sort by expert, run, put back.
# - Put the rows back in a wrong order, and find the check that sees it.
# - Go back through the router, in both ways of weighing, and meet a jump.
# - Watch the balance loss bring back experts that nobody chose, and meet a loss that keeps logits
#   small.
# - Cut a dense network into experts, and measure how far each step moves the output.
#
# ## What you will learn
#
# - Why an expert that was *not* chosen may still get a gradient, and when it is exactly 0.
# - Why finite differences fail where the choice jumps, and what the gradient does not know.
# - Why people report 1 or 2 for the same balance loss, and how two bad layers can look perfect.
# - When a mixture that was cut from a dense network equals it, and when it does not.
#
# ## What you need
#
# Softmax and its gradient (notebook 02, section 3.3), NumPy with matplotlib. Twice 20 minutes, with
# a rest after section 5; it runs in a few seconds. Beside this page, open
# `minqwen/layers/moe_router.py` and `moe_experts.py`.

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
from fractions import Fraction
from functools import partial

import matplotlib.pyplot as plt
import numpy as np

from minqwen.check.gradients import check_gradients, numerical_gradient

rng = np.random.default_rng(0)
np.set_printoptions(precision=3, suppress=True)

# %%
from minqwen.layers.load_balancing_loss import (
    count_choices,
    load_balancing_loss_backward,
    load_balancing_loss_forward,
)
from minqwen.layers.moe import moe_backward, moe_forward
from minqwen.layers.moe_experts import group_by_expert, moe_experts_backward, moe_experts_forward
from minqwen.layers.moe_router import moe_router_backward, moe_router_forward
from minqwen.layers.router_z_loss import router_z_loss_backward, router_z_loss_forward
from minqwen.layers.shared_expert import shared_expert_backward, shared_expert_forward
from minqwen.layers.swiglu import sigmoid, swiglu_backward, swiglu_forward
from minqwen.model.router_loss import router_loss_forward
from minqwen.training.mixed_precision import round_to_bfloat16

# %% [markdown]
# ## 1 Routing by hand
#
# | letter | here | Qwen2-57B-A14B | meaning |
# | --- | --- | --- | --- |
# | N | 6 | | tokens, called a to f |
# | D | 4 | 3584 | width of a token |
# | E | 4 | 64 | experts, called 0 to 3 |
# | K | 2 | 8 | experts that a token goes to |
# | Fe | 3 | 2560 | width of an expert |
#
# The router is one matrix, a row for each expert. The product of a token and a row is a *logit*. We
# take ln 2 times the identity: so $e^{\text{logit}}$ is $2^x$, and you can do it in your head.

# %%
TOKENS, E, K = "abcdef", 4, 2
x = np.array([[2, 1, 0, 0], [1, 3, 1, 2], [1, 0, 0, 3], [1, 3, 0, 0], [4, 2, 1, 1], [2, 0, 0, 1.0]])
N, D = x.shape
w_router = np.log(2) * np.eye(E)


def as_fractions(numbers):
    """Return numbers as text, such as 1/2 or 2/3."""
    return "".join(f"{Fraction(float(v)).limit_denominator(200)!s:>7}" for v in numbers)


# %% [markdown]
# **Step 1: probabilities.** Softmax over *all* experts.
#
# $$z = x\,W^\top \qquad p_e = \frac{e^{z_e}}{\sum_j e^{z_j}}$$

# %%
powers = np.exp(x @ w_router.T)
probs = powers / powers.sum(axis=1, keepdims=True)
print("token  e^z of experts 0 to 3           sum    p of experts 0 to 3")
for token, row, p in zip(TOKENS, powers, probs, strict=True):
    print(f"{token}  {as_fractions(row)} {as_fractions([row.sum()])} {as_fractions(p)}")

# %% [markdown]
# **Step 2: choice.** The K largest, the largest first. **Step 3: weights.** Here models differ:
#
# - *as they are*: $q_k = p_{e_k}$, together less than 1. Qwen1.5-MoE and Qwen2.
# - *divided by their sum*: together exactly 1. Qwen3, Mixtral. In a config: `norm_topk_prob`.

# %%
ids = np.argsort(-probs, axis=1, kind="stable")[:, :K]
plain = np.take_along_axis(probs, ids, axis=1)
divided = plain / plain.sum(axis=1, keepdims=True)
print("token  chosen     as they are     their sum     divided")
for token, chosen, q, q_div in zip(TOKENS, ids, plain, divided, strict=True):
    total = as_fractions([q.sum()])
    print(f"{token}      {chosen}  {as_fractions(q)}   {total}    {as_fractions(q_div)}")

# %% [markdown]
# Is this what the package does?

# %%
for norm, by_hand in ((False, plain), (True, divided)):
    weights, expert_ids, router_c = moe_router_forward(x, w_router, K, norm)
    assert np.array_equal(expert_ids, ids)
    assert np.abs(weights - by_hand).max() < 1e-15
print("equal;", {name: value.shape for name, value in list(router_c._asdict().items())[:4]})

# %% [markdown]
# Two things to see.
#
# - Divided, all others cancel: token a has 4 and 2, so 2/3 and 1/3, whatever the other experts got.
#   It is the softmax over the chosen logits alone.
# - As they are, the sum says how sure the router is. With 64 experts, all equal, the 8 chosen
#   weights sum to 8/64: the output starts small, and can grow in training.
#
# And when two experts are equal? The lower number goes first. `torch.topk` leaves it open.

# %%
chosen_logits = np.take_along_axis(x @ w_router.T, ids, axis=1)
soft = np.exp(chosen_logits) / np.exp(chosen_logits).sum(axis=1, keepdims=True)
assert np.abs(soft - divided).max() < 1e-15

_, expert_ids, _ = moe_router_forward(np.ones((1, D)), w_router, K)  # all four equal
print("all equal: chosen", expert_ids[0])
assert expert_ids.tolist() == [[0, 1]]

# %% [markdown]
# ## 2 Sort, run, put back
#
# Each expert is a small SwiGLU network. To see who did what, our four differ only by a factor:
# expert e gives $10^e$ times what expert 0 gives, $s(x)$. Token a goes to expert 0 with 1/2 and to
# expert 1 with 1/4, so its output must be (1/2 · 1 + 1/4 · 10) s = 3 s.

# %%
Fe = 3
one_gate_up, one_down = rng.standard_normal((2 * Fe, D)), rng.standard_normal((D, Fe))
w_gate_up = np.stack([one_gate_up] * E)  # (E, 2Fe, D): rows of the gate, then rows of up
w_down = np.stack([one_down * 10**e for e in range(E)])  # (E, D, Fe)
s, _ = swiglu_forward(x, one_gate_up[:Fe], one_gate_up[Fe:], one_down)
by_hand = (plain * 10.0**ids).sum(axis=1)
print("by hand:", dict(zip(TOKENS, by_hand.round(3).tolist(), strict=True)))

# %% [markdown]
# A loop over tokens would be slow. Instead, the N · K = 12 choices are **sorted by expert**. Then
# the tokens of one expert lie side by side, and each expert runs once, on its *segment*.
#
# Below, `c3` means: token c at expert 3.

# %%
names = np.array([f"{TOKENS[n]}{e}" for n in range(N) for e in ids[n]])
order = np.argsort(ids.reshape(-1), kind="stable")  # stable: within an expert, token after token
print("the choices ", " ".join(names))
print("order       ", " ".join(f"{i:2}" for i in order))
print("sorted      ", " ".join(names[order]))
loads = np.bincount(ids.reshape(-1), minlength=E)
print("tokens for each expert", loads, " segments from", np.cumsum(loads) - loads)

# %%
package_order, segments = group_by_expert(ids, E)
print(segments)
assert np.array_equal(order, package_order)
assert [e for e, _ in segments] == [0, 1, 3]  # nobody chose expert 2: it does not run

rows = x[order // K]  # choice i belongs to token i // K; each token stands here twice
out = np.empty_like(rows)
for e, part in segments:
    out[part], _ = swiglu_forward(rows[part], w_gate_up[e, :Fe], w_gate_up[e, Fe:], w_down[e])

# %% [markdown]
# **Put back.** Row i of `out` came from place `order[i]`, and there it must go. Then weigh, and add
# up the K rows of each token.

# %%
back = np.empty_like(out)
back[order] = out
y = (plain[:, :, None] * back.reshape(N, K, D)).sum(axis=1)

y_package, experts_c = moe_experts_forward(x, ids, plain, w_gate_up, w_down)
assert np.array_equal(y, y_package)
print("y / s:", dict(zip(TOKENS, (y / s)[:, 0].round(3).tolist(), strict=True)))
assert np.abs(y / s - by_hand[:, None]).max() < 1e-11

# %% [markdown]
# Equal to the package bit for bit, and to what you had in your head. The whole way in a picture:

# %%
COLORS = ["tab:blue", "tab:orange", "tab:green", "tab:red"]
token_y = np.arange(N * K) + 0.6 * (np.arange(N * K) // K)  # in token order, a gap after each token
sorted_y = np.empty(N * K)
sorted_y[order] = np.arange(N * K) + 1.0 * ids.reshape(-1)[order]  # a gap after each expert


# %%
def draw_probabilities(ax):
    """Show p as a table, with a frame around the chosen."""
    ax.imshow(probs, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for n, e in np.ndindex(N, E):
        color = "white" if probs[n, e] > 0.6 else "black"
        ax.text(e, n, as_fractions([probs[n, e]]).strip(), ha="center", va="center", color=color)
        if e in ids[n]:
            box = (e - 0.47, n - 0.46)
            ax.add_patch(plt.Rectangle(box, 0.94, 0.92, fill=False, ec=COLORS[e], lw=3))
    ax.set(xticks=range(E), yticks=range(N), yticklabels=TOKENS, xlabel="expert", ylabel="token")
    ax.set_title("probabilities; the two chosen")


# %%
def draw_way(ax):
    """Show where each choice goes: sorted by expert, and back, as thick as its weight."""
    for i, e in enumerate(ids.reshape(-1)):
        ends = token_y[i], sorted_y[i]
        ax.plot([0.12, 0.88], ends, color=COLORS[e], lw=1.5)
        ax.plot([1.12, 1.88], ends[::-1], color=COLORS[e], lw=9 * plain.reshape(-1)[i])
        for at, height in ((0, ends[0]), (1, ends[1]), (2, ends[0])):
            box = (at - 0.11, height - 0.45)
            ax.add_patch(plt.Rectangle(box, 0.22, 0.9, fc=COLORS[e], alpha=0.25))
            ax.text(at, height, names[i], ha="center", va="center", fontsize=9)
    for e, height in enumerate((-0.8, 5.2, 10.3, 11.2)):
        text = f"expert {e}" + ("" if loads[e] else ": nobody")
        ax.text(1, height, text, ha="center", va="center", color=COLORS[e])


# %%
fig, (left, right) = plt.subplots(
    1, 2, figsize=(11, 5.6), width_ratios=(1, 2.2), layout="constrained"
)
draw_probabilities(left)
draw_way(right)
right.set(xlim=(-0.3, 2.3), ylim=(15.2, -1.8), xticks=range(3), yticks=[])
right.set_xticklabels(["token after token", "sorted by expert", "put back, weighed"])
right.set_title("the way of the twelve choices")
right.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# Nothing is lost in the middle: every choice has its row, however many choose the same expert.
# Other systems give each expert a *capacity* and drop the tokens above it. Qwen's do not.
#
# ## 3 Break one thing: the wrong way back
#
# We wrote `back[order] = out`. It is easy to write `back = out[order]`. But this applies the same
# permutation once more, and not its inverse. Where does each choice land?

# %%
landed = names[order][order].reshape(N, K)
for token, right, wrong in zip(TOKENS, names.reshape(N, K), landed, strict=True):
    remark = "" if (right == wrong).all() else "   wrong"
    print(f"token {token} should get {' '.join(right)} and gets {' '.join(wrong)}{remark}")

# %% [markdown]
# Nothing crashes. The shape is right, the total over all rows is right, and even a gradient check
# passes, because backward would make the same mistake:

# %%
mixed_up = out[order].reshape(N, K, D)
y_wrong = (plain[:, :, None] * mixed_up).sum(axis=1)
assert y_wrong.shape == y.shape
assert np.allclose(mixed_up.sum(axis=(0, 1)), out.sum(axis=0))


def weigh(q):
    """Return the outputs for these weights, with the mistake in them."""
    return (q[:, :, None] * mixed_up).sum(axis=1), None


check_gradients(weigh, lambda dy, _: (mixed_up * dy[:, None]).sum(axis=2), plain)
print("shape, total and gradient: all fine")

# %% [markdown]
# The check that sees it: **one token alone** must give what it gives among others.

# %%
alone = [moe_experts_forward(x[[n]], ids[[n]], plain[[n]], w_gate_up, w_down)[0] for n in range(N)]
errors = {}
for name, result in (("right", y), ("wrong", y_wrong)):
    errors[name] = np.abs(result / np.concatenate(alone) - 1).max(axis=1)
    print(name, dict(zip(TOKENS, errors[name].round(6).tolist(), strict=True)))
assert errors["right"].max() < 1e-9
assert (errors["wrong"] > 0.1).tolist() == [False, True, False, True, True, False]

# %% [markdown]
# Three of the six tokens are right, by luck. With K = 2, a test with only one token always passes,
# and so does any test whose choices come sorted by expert.
#
# ## 4 The shared expert
#
# What every token needs would have to be learned by each of the experts. So one more network sees
# *all* tokens, whatever the router says. It has a gate of its own, one number for each token:
#
# $$y = \sum_k q_k\, F_{e_k}(x) + \sigma(x\,w_s^\top)\; F_s(x)$$

# %%
Fs = 6
shared = [0.3 * rng.standard_normal(shape) for shape in ((Fs, D), (Fs, D), (D, Fs), (1, D))]
always, _ = swiglu_forward(x, *shared[:3])  # F_s(x)
g = sigmoid(x @ shared[3].T)  # (N, 1)
print("gate of each token:", g[:, 0])
assert np.abs(g * always - shared_expert_forward(x, *shared)[0]).max() < 1e-14

y_layer, _ = moe_forward(x, w_router, w_gate_up, w_down, K, shared=shared)
assert np.abs(y_layer - (y + g * always)).max() < 1e-12  # the layer is the sum of both parts

# %% [markdown]
# The report speaks of 8 shared experts of width 2560; the released model has one of width 20480.
# That is the same: networks that are added up are one network of their joint width. And the report
# does not mention the gate. It stands in the released code. With $w_s = 0$ it is 1/2.

# %%
narrow = [swiglu_forward(x, *(w[half] for w in shared[:2]), shared[2][:, half])[0]
          for half in (slice(0, 3), slice(3, 6))]  # fmt: skip
assert np.abs(narrow[0] + narrow[1] - always).max() < 1e-14
half_open, _ = shared_expert_forward(x, *shared[:3], 0 * shared[3])
assert np.array_equal(half_open, always / 2)
print("two of width 3 = one of width 6; a gate of zeros lets half through")

# %% [markdown]
# **And back.** The product has two factors, the gate g and the network's output $F_s$. Each gets
# the other:
#
# $$dF_s = g\,dy \qquad dg = \langle F_s, dy \rangle \qquad da = dg\; g\,(1 - g)
# \qquad a = x\,w_s^\top$$
#
# The network read x and so did the gate: what comes back from both is added.

# %%
dy_s = np.random.default_rng(1).standard_normal((N, D))
dg = (always * dy_s).sum(axis=1, keepdims=True)  # (N, 1)
da = dg * g * (1 - g)  # (N, 1)
dx_network, *_ = swiglu_backward(g * dy_s, swiglu_forward(x, *shared[:3])[1])
dx_s, dw_s = dx_network + da @ shared[3], da.T @ x  # (N, D), (1, D)
dx_package, *_, dw_package = shared_expert_backward(dy_s, shared_expert_forward(x, *shared)[1])
assert np.abs(dx_s - dx_package).max() < 1e-13
assert np.abs(dw_s - dw_package).max() < 1e-13
errors = check_gradients(shared_expert_forward, shared_expert_backward, x, *shared)
print("x, gate, up, down, shared gate:", *(f"{error:.0e}" for error in errors))

# %% [markdown]
# ## 5 Backward through the router
#
# An output is $y_n = \sum_k q_{nk} F_{nk}$: a product. So the gradient of a weight is
# $dq_{nk} = \langle F_{nk}, dy_n \rangle$: *would more of this expert help?* Only experts that ran
# can answer.
#
# From dq to the logits there are two steps, and the first has two forms. With S, the sum of the
# chosen p, and $m = \sum_k q_k\,dq_k$:
#
# | | $dp$ of a chosen expert | of the others |
# | --- | --- | --- |
# | as they are, $q = p$ | $dq_k$ | 0 |
# | divided, $q = p / S$ | $(dq_k - m) / S$ | 0 |
#
# Then softmax, which couples all experts: $dz_e = p_e\,(dp_e - \sum_j p_j\,dp_j)$.


# %%
def logit_gradient(dq, norm):
    """Return dp and dz, both (N, E), from dq (N, K), for our six tokens."""
    dchosen = dq
    if norm:
        m = (divided * dq).sum(axis=1, keepdims=True)
        dchosen = (dq - m) / plain.sum(axis=1, keepdims=True)
    dp = np.zeros_like(probs)
    np.put_along_axis(dp, ids, dchosen, axis=1)
    return dp, probs * (dp - (probs * dp).sum(axis=1, keepdims=True))


# %% [markdown]
# Token a by hand. Its p are 1/2, 1/4, 1/8, 1/8, and experts 0 and 1 are chosen. Say dq is (36, 0),
# which makes whole numbers.
#
# - As they are: dp is (36, 0, 0, 0), the sum p·dp is 18, so dz is 1/2 · 18 = 9, then −18 times the
#   other p: −4.5, −2.25, −2.25.
# - Divided: q is (2/3, 1/3), m is 24, S is 3/4. So dp is 12 · 4/3 = 16 and −24 · 4/3 = −32. The sum
#   p·dp is 8 − 8 = **0**. What was not chosen gets −p · 0.

# %%
dq = np.tile([36.0, 0.0], (N, 1))
for norm in (False, True):
    dp, dz = logit_gradient(dq, norm)
    print(f"{'divided' if norm else 'as they are':12} dp {dp[0]}   dz {dz[0]}   sum {dz[0].sum()}")
assert np.allclose(logit_gradient(dq, False)[1][0], [9, -4.5, -2.25, -2.25], atol=1e-12)
assert np.allclose(logit_gradient(dq, True)[1][0], [8, -8, 0, 0], atol=1e-12)

# %% [markdown]
# Why? Raise the logit of expert 2, which token a did not choose. As they are, $p_0$ and $p_1$
# shrink, because the sum that they are divided by grows: the output moves. Divided by their own
# sum, everything that is not chosen cancels: nothing moves.
#
# Now the real thing: a random dy, all six tokens, both ways, against the package and against finite
# differences, which know nothing of our formulas.

# %%
dy = rng.standard_normal(y.shape)
_, dq, _, _ = moe_experts_backward(dy, experts_c)
assert np.allclose(dq, (experts_c.outputs * dy[:, None]).sum(axis=2))  # <F, dy>
dw = {}
for norm in (False, True):
    _, _, router_c = moe_router_forward(x, w_router, K, norm)
    dx_package, dw[norm] = moe_router_backward(dq, router_c)
    _, dz = logit_gradient(dq, norm)
    assert np.allclose(dw[norm], dz.T @ x, rtol=1e-12)
    assert np.allclose(dx_package, dz @ w_router, rtol=1e-12)
    print(f"row of expert 2, {'divided:    ' if norm else 'as they are:'} {dw[norm][2]}")
assert dw[False][2].all()
assert not dw[True][2].any()  # not nearly 0: 0


# %%
def weights_of(x, w, norm):
    """Return the weights and the cache of the router: what check_gradients expects."""
    weights, _, cache = moe_router_forward(x, w, K, norm)
    return weights, cache


for norm in (False, True):
    errors = check_gradients(weights_of, moe_router_backward, x, w_router, norm)
    layer = check_gradients(moe_forward, moe_backward, x, w_router, w_gate_up, w_down, K, norm)
    print(f"norm_topk_prob={norm!s:5}  router {max(errors):.0e}  whole layer {max(layer):.0e}")

# %% [markdown]
# So when weights are divided, expert 2, which nobody chose, gets exactly 0: its row of the router
# does not move. As they are, it gets something, $-p_e\,m$. But m only says whether the *chosen*
# should count less. Whether expert 2 would have been good, no gradient knows: it did not run.
# Section 6 is the answer to that.
#
# ### The jump
#
# Where two logits cross, the choice jumps. Move the third logit of token a upwards, from its 0
# (in units of ln 2). Let expert e add `worth[e]` to the loss for each unit of weight.

# %%
worth = np.array([4.0, 2.0, 3.0, 1.0])


def loss_at(third, norm):
    """Return the loss of token a when the logit of expert 2 is `third`."""
    token = np.array([[2.0, 1.0, third, 0.0]])
    weights, chosen, _ = moe_router_forward(token, w_router, K, norm)
    return float((weights * worth[chosen]).sum())


def central(f, at, step):
    """Return a central difference."""
    return (f(at + step) - f(at - step)) / (2 * step)


# %%
print("step        at 0.5     at 1, where expert 2 overtakes expert 1")
for step in (1e-2, 1e-4, 1e-6, 1e-8):
    smooth, jump = (central(partial(loss_at, norm=False), at, step) for at in (0.5, 1.0))
    print(f"{step:5.0e} {smooth:12.6f} {jump:16.1f}")
assert jump > 1e6

# %% [markdown]
# At a jump of height h a central difference is h / (2 step): with a step 100 times smaller, a
# "gradient" 100 times larger. It does not converge: there is no derivative. And *near* a jump?

# %%
third, steps = np.linspace(-1, 2.5, 701), np.logspace(-9, -0.5, 80)
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9), layout="constrained")
for norm, label in ((False, "as they are"), (True, "divided")):
    values = np.array([loss_at(z, norm) for z in third])
    values[third.searchsorted(1.0)] = np.nan  # do not join the two sides of the jump
    left.plot(third, values, label=label)
left.set(xlabel="logit of expert 2", ylabel="loss", title="the choice jumps at 1")
left.legend()
found = np.array([central(partial(loss_at, norm=False), 0.99, step) for step in steps])
right.loglog(steps, np.abs(found - found[steps.searchsorted(1e-5)]) + 1e-13)
right.axvline(0.01, color="0.5", ls="--", label="distance to the jump")
right.set(xlabel="step", ylabel="error", title="differences at 0.99, as they are")
right.legend()
plt.show()

# %% [markdown]
# Left, below 1: divided, the loss is flat, an unchosen logit has no say. As they are, it falls a
# little. The gradient sees these slopes. It does not see the step up at 1: *it never asks what
# another choice would bring.*
#
# Right: while the step is shorter than the way to the jump, all is well (with small steps it is
# rounding that grows). One step too long, and the error goes from 1e-7 to 10. So a gradient check
# of a router needs inputs with a clear margin between the K-th p and the next. In our six tokens
# the one is twice the other.
#
# ### What the experts get
#
# Section 2, from its end to its beginning: weigh dy, sort, run each expert *backward*, put back,
# and add up the K rows of each token, which was read K times.

# %%
drows = (plain[:, :, None] * dy[:, None]).reshape(N * K, D)[order]  # (12, D): weighed, sorted
back_x = np.empty_like(drows)
for e, part in segments:
    _, swiglu_c = swiglu_forward(rows[part], w_gate_up[e, :Fe], w_gate_up[e, Fe:], w_down[e])
    back_x[order[part]], *_ = swiglu_backward(drows[part], swiglu_c)  # run backward, put back
dx_experts = back_x.reshape(N, K, D).sum(axis=1)
dx_package, *_, dw_down = moe_experts_backward(dy, experts_c)
assert np.allclose(dx_experts, dx_package, rtol=1e-12)
print("dx of the experts:", dx_experts.shape, " gradient of expert 2:", np.abs(dw_down[2]).max())
assert not dw_down[2].any()  # nobody chose it, so it learns nothing

# %% [markdown]
# ## 6 The balance loss
#
# Nothing so far keeps a router from using the same few experts for all tokens, and the experts that
# run are the ones that learn. So a second loss is added, with a small factor:
#
# $$\mathrm{balance} = E \sum_e f_e\,P_e \qquad
# f_e = \text{share of the choices that fell on } e \qquad
# P_e = \text{mean of } p_e \text{ over the tokens}$$

# %%
f, P = loads / (N * K), probs.mean(axis=0)
print("f  ", as_fractions(f))
print("P  ", as_fractions(P))
balance = E * (f * P).sum()
_, _, router_c = moe_router_forward(x, w_router, K)
loss, balance_c = load_balancing_loss_forward(router_c.router_logits, ids)
print(f"4 (f · P) = {balance:.4f}, the package {loss:.4f}")
assert np.isclose(loss, balance, rtol=1e-14)

# %% [markdown]
# f is a count. It has no slope, so its gradient is 0, and f is only the *weight* with which P is
# pushed down. For M tokens:
#
# $$dz_{ne} = \frac{E}{M}\, p_{ne}\,\Big(f_e - \sum_j p_{nj} f_j\Big)$$
#
# An expert with a larger f than the token's average goes down, the others go up. Expert 2, with
# f = 0, goes up for *every* token:

# %%
dz = load_balancing_loss_backward(1.0, balance_c)
assert np.allclose(dz, E / N * probs * (f - probs @ f[:, None]))
print("-dz, what a step downhill does to the logits (a to f, experts 0 to 3):")
print(-dz)
assert (dz[:, 2] < 0).all()


def loss_of(logits):
    """Return the balance loss, the choice held fixed."""
    return float(load_balancing_loss_forward(logits, ids)[0])


logits = router_c.router_logits.copy()
assert np.abs(numerical_gradient(lambda: loss_of(logits), logits) - dz).max() < 1e-9

# %% [markdown]
# ### 6.1 One or two?
#
# In the Switch paper, f sums to 1 (K = 1 there). In transformers, f counts choices *per token*, and
# sums to K. Both are common; a number without its convention says nothing.

# %%
cases = {
    "all equally likely": (np.zeros((4, 4)), np.array([[0, 1], [2, 3], [0, 1], [2, 3]])),
    "always the same two": (np.tile([40.0, 40, 0, 0], (4, 1)), np.tile([0, 1], (4, 1))),
    "our six tokens": (router_c.router_logits, ids),
}
print(f"{'':22} f sums to 1   f sums to K")
for name, case in cases.items():
    one, two = (load_balancing_loss_forward(*case, f_sums_to_k=to_k)[0] for to_k in (False, True))
    print(f"{name:22} {one:11.4f} {two:13.4f}")
    assert np.isclose(two, K * one)

# %% [markdown]
# Even use gives 1, or K. Everything on K experts gives E / K, or E. (With all p equal, the loss is
# 1 whatever is chosen: f sums to 1.)
#
# ### 6.2 Two layers that hide each other
#
# A model has a router in every layer. transformers counts the tokens of all layers together and
# then takes one loss. Let layer 1 use only experts 0 and 1, and layer 2 only 2 and 3:

# %%
ones = np.ones((8, 1))  # eight tokens, all alike
layers = ([20.0, 19, 0, 0], [0, 0, 20.0, 19])
routers = [moe_router_forward(ones, np.array(z)[:, None], K)[2] for z in layers]
found = {}
for pool in (False, True):
    _, found[pool], _ = router_loss_forward(routers, coef=0.001, pool_layers=pool)
    print(f"{'all layers together' if pool else 'layer by layer':20} {found[pool]:.3f}")
assert np.isclose(found[False], E)  # the worst there is
assert np.isclose(found[True], K)  # looks perfect

# %% [markdown]
# Two ruined routers, and a perfect loss. Our training takes the mean over the layers. (Here f sums
# to K, so that the 0.001 of the released configs means what it means there.)
#
# ### 6.3 Downhill
#
# A router of 8 experts with K = 2, and 600 tokens that have much in common: it sends nearly half of
# the choices to one expert, almost none to three. We follow the balance loss alone.


# %%
def step_down(x, w, rate=0.02):
    """Return w after a step on the balance loss, and what was there before: loss, f, P."""
    weights, ids, cache = moe_router_forward(x, w, num_experts_per_tok=2)
    loss, loss_c = load_balancing_loss_forward(cache.router_logits, ids)
    dlogits = load_balancing_loss_backward(1.0, loss_c)
    _, dw = moe_router_backward(np.zeros_like(weights), cache, drouter_logits=dlogits)
    f = count_choices(ids, len(w)) / ids.size
    return w - rate * dw, loss, f, cache.router_probs.mean(axis=0)


# %%
draw = np.random.default_rng(0)
many = draw.standard_normal((600, 16)) + 1.5 * draw.standard_normal(16)
w, history = 0.3 * draw.standard_normal((8, 16)), []
for _ in range(401):
    w, *before = step_down(many, w)
    history.append(before)
print("step   loss   share of the choices of each expert")
for step in (0, 5, 20, 100, 200, 400):
    print(f"{step:4} {history[step][0]:6.3f}  {history[step][1].round(2)}")
assert history[400][0] < 1.01

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
colors = plt.get_cmap("tab10").colors
for e in range(8):
    left.plot([before[1][e] for before in history], color=colors[e], label=f"expert {e}")
    right.semilogy([before[2][e] for before in history], color=colors[e])
for ax in (left, right):
    ax.axhline(1 / 8, color="black", ls=":", lw=1)
    ax.set_xlabel("step")
left.set(ylabel="f, share of the choices", title="experts come back one after the other")
right.set(ylabel="P, mean probability", title="before, their probability grows unseen")
fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=8)
plt.show()

# %% [markdown]
# The five experts in use share evenly after 20 steps, and the loss rests near 8/5: E over the
# number of experts in use. Then for 100 steps *nothing seems to happen*. Look at the right picture:
# the pull on an expert is proportional to its p (see the formula), and with p = 1/500 it is weak.
# But what grows is pulled more. When p comes near that of the others, the share follows quickly.
#
# So a dead expert is hard to bring back. It is better to keep all alive from the start. In training
# the factor is small (0.001): the loss on the words decides, and this one only leans on it.
#
# ### 6.4 Small logits: the z-loss
#
# Softmax does not change when all logits of a token grow together. So nothing stops them, and in 16
# bits large numbers are coarse. A third loss can, from ST-MoE; in Qwen2's report there is none, and
# here it is an option. It takes the log-sum-exp of each token, squared:
#
# $$\mathrm{lse}_n = \ln \sum_e e^{z_{ne}} \qquad \mathrm{zloss} = \frac1M \sum_n \mathrm{lse}_n^2
# \qquad dz_{ne} = \frac{2}{M}\,\mathrm{lse}_n\, p_{ne}$$
#
# because the slope of lse is the softmax: $\partial\,\mathrm{lse} / \partial z_e = p_e$. Our tokens
# have the sums 8, 16, 12, 12, 24, 8 (section 1).

# %%
lse = np.log(powers.sum(axis=1))  # (N,)
z_loss, z_c = router_z_loss_forward(router_c.router_logits)
dz = router_z_loss_backward(1.0, z_c)
print(f"z-loss {z_loss:.4f}, by hand {(np.log([8, 16, 12, 12, 24, 8]) ** 2).mean():.4f}")
assert np.isclose(z_loss, (lse**2).mean(), rtol=1e-14)
assert np.allclose(dz, 2 / N * lse[:, None] * probs, rtol=1e-13)
(error,) = check_gradients(router_z_loss_forward, router_z_loss_backward, logits)
print(f"away from finite differences: {error:.0e}")

# %% [markdown]
# Now add the same number to all logits. To the balance loss nothing has happened. And the
# probabilities, if the logits are kept in bfloat16?

# %%
print("added   balance     z-loss   p is off by")
off = {}
for shift in (0, 10, 100, 1000):
    moved = router_c.router_logits + shift
    rough = round_to_bfloat16(moved.astype("float32")).astype("float64")
    rough_c = moe_router_forward(rough, np.eye(E), K)[2]
    off[shift] = np.abs(rough_c.router_probs - probs).max()
    two = load_balancing_loss_forward(moved, ids)[0], router_z_loss_forward(moved)[0]
    print(f"{shift:5} {two[0]:9.4f} {two[1]:10.1f} {off[shift]:10.3f}")
assert off[0] < 0.01
assert off[1000] > 0.1

# %% [markdown]
# At 1000 a bfloat16 has steps of 4, and the router chooses by what is left of its logits. With
# `z_loss_coef` in the settings of training (`--z-loss`) the loss is added to the others, layer by
# layer; 0.001 is what ST-MoE took.
#
# ## 7 Upcycling
#
# Qwen2-57B-A14B did not start from nothing: its experts were cut from Qwen2-7B (report, 2.2.2).
# Copy the feed-forward network, shuffle each copy, cut it into experts, draw half of the numbers
# anew. We do it with one small network: F = 48 columns become 12 experts of 16, three to a copy.

# %%
from minqwen.model.accounting import cost
from minqwen.model.config import QwenConfig
from minqwen.model.dense_to_experts import (
    copy_of_expert,
    cut_of,
    expert_columns,
    reinitialise,
    upcycle_ffn,
    w_down_factors,
)
from minqwen.model.init import init_params
from minqwen.model.presets import preset
from minqwen.model.upcycling import upcycle
from minqwen.model.upcycling_receipt import distance

# %%
F, experts, width, chosen = 48, 12, 16, 3  # here E = 12, Fe = 16, K = 3
gate, up = rng.standard_normal((2, F, 16)) / 4
down = rng.standard_normal((16, F)) / 7
probe = rng.standard_normal((64, 16))  # 64 tokens of width D = 16
want, _ = swiglu_forward(probe, gate, up, down)
moved = {}  # how far each step moves the output: |y - want| / |want|

# %% [markdown]
# **Shuffle.** A SwiGLU network is a sum over its columns. Column j is row j of gate, row j of up
# and column j of down:
#
# $$\mathrm{FFN}(x) = \sum_j \mathrm{silu}(x\,g_j)\,(x\,u_j)\,d_j$$
#
# So the order does not matter, if all three are shuffled *in the same way*.

# %%
p, other = rng.permutation(F), rng.permutation(F)
got, _ = swiglu_forward(probe, gate[p], up[p], down[:, p])
moved["shuffled, all three alike"] = distance(got, want)
got, _ = swiglu_forward(probe, gate[p], up[other], down[:, p])
moved["shuffled, up in another order"] = distance(got, want)
print(moved)
assert moved["shuffled, all three alike"] < 1e-12
assert moved["shuffled, up in another order"] > 1

# %% [markdown]
# **Cut.** 12 · 16 = 192 columns: four copies. Each column of the dense network has a colour.

# %%
columns = expert_columns(F, experts, width, np.random.default_rng(5))  # (E, Fe)
print("columns in expert 0:", columns[0])
start = 18 * np.arange(experts) + 8 * (np.arange(experts) // 3)  # where an expert is drawn

# %%
fig, (top, bottom) = plt.subplots(2, 1, figsize=(11, 2.6), sharex=True, layout="constrained")
look = {"cmap": "turbo", "aspect": "auto", "vmin": 0, "vmax": F - 1}
for e, left in enumerate(start):
    bottom.imshow(columns[[e]], extent=(left, left + width, 0, 1), **look)
for left in start[::3]:
    top.imshow(np.arange(F)[None], extent=(left, left + 52, 0, 1), **look)
bottom.set_xticks(start + 8, [f"expert {e}" for e in range(experts)])
top.set(title="four copies of the 48 columns", xlim=(-3, start[-1] + 19))
bottom.set_title("each shuffled, and cut into three experts")
for ax in (top, bottom):
    ax.set(yticks=[], frame_on=False)
    ax.tick_params(length=0)
plt.show()

# %%
same = np.random.default_rng(5)  # so the order of the picture
cut_gate_up, cut_down = upcycle_ffn(gate, up, down, experts, width, same)
no_router = np.zeros((experts, 16))  # with K = E, every expert weighs 1 / 12
mean, _ = moe_forward(probe, no_router, cut_gate_up, cut_down, experts)
moved["cut, all experts together"] = distance(mean * experts / 4, want)  # their sum is 4 networks
assert moved["cut, all experts together"] < 1e-12
print(f"{moved['cut, all experts together']:.0e}")

# %% [markdown]
# **Route.** Only 3 of the 12 run for a token. To get the dense network back, they must be the three
# of *one copy*. So these three get the same row in the router: their logits are equal, they are
# chosen together, and each weighs 1/3 (divided by their sum). That is a third of the network, so
# w_down is made 3 times as long.

# %%
copies = copy_of_expert(F, experts, width)
print("expert e is of copy", copies)
grouped = rng.standard_normal((4, 16))[copies]  # one row for each copy
factor, _ = w_down_factors(F, experts, chosen, width, shared_width=0, norm_topk_prob=True)
made = cut_gate_up, factor * cut_down
got, routed_c = moe_forward(probe, grouped, *made, chosen, norm_topk_prob=True)
moved["routed: copies whole, weights divided"] = distance(got, want)
print("factor", factor, " first tokens go to", routed_c.router.expert_ids[:4].tolist())
print(f"distance {distance(got, want):.0e}")
assert distance(got, want) < 1e-12

# %% [markdown]
# Equal, to rounding. And if one of the conditions fails?

# %%
mixed = rng.standard_normal((experts, 16))  # a row for each expert: choices from several copies
got, _ = moe_forward(probe, mixed, *made, chosen, norm_topk_prob=True)
moved["routed: experts of several copies"] = distance(got, want)
got, _ = moe_forward(probe, grouped, cut_gate_up, cut_down, chosen, norm_topk_prob=True)
moved["routed: w_down not made longer"] = distance(got, want)
longer, _ = w_down_factors(F, experts, chosen, width, shared_width=0, norm_topk_prob=False)
got, plain_c = moe_forward(probe, grouped, cut_gate_up, longer * cut_down, chosen)
moved["routed: weights not divided"] = distance(got, want)
sums = plain_c.router.weights.sum(axis=1)
print(f"not divided: factor {longer}, for weights that sum to {chosen / experts}.")
print(f"They sum to {sums.min():.2f} ... {sums.max():.2f}, another factor for each token.")

# %% [markdown]
# **Half anew.** So far the four copies compute the same. To make the experts different, half of
# the parameters of each are drawn anew. The report does not say which: whole columns (*neuron*), or
# any number in any matrix (*element*)? Nor does it say how large the new numbers are; we draw them
# with the standard deviation of a fresh model, 0.02.

# %%
shares, curves = np.linspace(0, 1, 11), {"neuron": [], "element": []}
for granularity, curve in curves.items():
    for share in shares:
        draw = np.random.default_rng(0)
        new = reinitialise(*made, share, 0.02, granularity, draw)
        got, _ = moe_forward(probe, grouped, *new, chosen, norm_topk_prob=True)
        curve.append(distance(got, want))
moved["half of the columns anew"] = curves["neuron"][5]
moved["half of the numbers anew"] = curves["element"][5]

# %%
colors = ["tab:red" if d > 1e-12 else "tab:blue" for d in moved.values()]
colors[-2:] = ["tab:orange"] * 2  # drawn anew: they are meant to move

# %%
fig, (left, right) = plt.subplots(
    1, 2, figsize=(12, 4.2), width_ratios=(1.5, 1), layout="constrained"
)
bars = left.barh(list(moved), np.maximum(list(moved.values()), 1e-17), color=colors)
left.bar_label(bars, [f"{d:.2g}" for d in moved.values()], padding=3)
left.set(xscale="log", xlim=(1e-17, 1e3), xlabel="distance from the dense output, relative")
left.invert_yaxis()
left.set_title("the steps (blue, orange), and ways to miss them (red)")
for name, curve in curves.items():
    right.plot(shares, curve, "o-", label=name)
right.axvline(0.5, color="0.6", ls="--", label="the report")
right.set(xlabel="share drawn anew", ylabel="distance", title="what drawing anew costs")
right.legend()
plt.show()

# %% [markdown]
# Read the right picture: at 1 only noise is left, and so little of it that the output is nearly 0;
# that is a distance of 1. At the report's half, *neuron* keeps half of the columns whole. *Element*
# is nearly as far as noise: a column works only if its gate, its up and its down are all there.
#
# A whole model is one call, and returns a receipt with these distances for each layer.

# %%
small = QwenConfig(
    vocab_size=97, hidden_size=16, intermediate_size=F, num_hidden_layers=2, num_attention_heads=4
)
sizes = {"num_experts": 12, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
start = init_params(small, rng, "float64")
_, sparse, receipt = upcycle(start, small, **sizes, rng=np.random.default_rng(0))
print(sparse.model_type)
print(receipt.table())
assert receipt.starts_equal
assert max(layer.routed for layer in receipt.layers) < 1e-12

# %% [markdown]
# 2.4 times the parameters, and the same work for a token: the 384 activated ones that are new are
# the two routers. And the real model?

# %%
print(cut_of(18944, num_experts=64, expert_width=2560))
print(np.bincount(copy_of_expert(18944, num_experts=64, expert_width=2560)), "experts of each copy")
real = cost(preset("qwen2-57b-a14b"), B=1, T=1)
billions = real.parameters / 1e9, real.activated_parameters / 1e9
print("{:.1f} billion parameters, of which a token meets {:.1f}".format(*billions))
assert [round(n) for n in billions] == [57, 14]

# %% [markdown]
# 7.4 experts to a copy: seven experts have columns of two copies, and no choice of 8 experts makes
# whole copies. Nor are the weights of the released model divided. So, cut in this way, the mixture
# could not equal Qwen2-7B, even before half of it was new. The report does not say how the router
# and the scale began. It says that 4.5T more tokens were trained. For your own models there is
# `minqwen upcycle`.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. Two kinds of weights.** For four experts $e^z$ is 1, 2, 16 and 4, and K = 2. What
# are the two weights as they are, and what divided by their sum? Answer with four numbers.

# %%
answer_1 = None  # [.., .., .., ..]

# %% [markdown]
# <details><summary>Solution</summary>
#
# The sum of all is 23. The chosen have 16 and 4, and 16 + 4 = 20.
#
# ```python
# answer_1 = [16 / 23, 4 / 23, 4 / 5, 1 / 5]
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    z = np.log([[1.0, 2.0, 16.0, 4.0]])
    both = [moe_router_forward(z, np.eye(4), 2, norm)[0][0] for norm in (False, True)]
    assert np.allclose(answer_1, np.concatenate(both)), "no; the largest first, as they are first"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. Better than even?** Even use gives a balance loss of 1 (f sums to 1). Is this the
# least there can be? Find logits of some tokens for E = 2 experts and K = 1, an array (N, 2), with
# a loss *below 0.95*.

# %%
answer_2 = None  # np.array([[.., ..], ...])

# %% [markdown]
# <details><summary>Solution</summary>
#
# Let many tokens prefer expert 0 slightly, and few prefer expert 1 strongly. Then f is large where
# P is small.
#
# ```python
# answer_2 = np.array([[0.1, 0.0], [0.1, 0.0], [0.0, 9.0]])
# ```
#
# So a loss below 1 is not "better than even". Look at the loads too.
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    _, its_choice, cache = moe_router_forward(answer_2, np.eye(2), 1)
    its_loss, _ = load_balancing_loss_forward(cache.router_logits, its_choice)
    print(f"f {count_choices(its_choice, 2) / len(answer_2)}, loss {its_loss:.3f}")
    assert its_loss < 0.95, "no; f should be large where P is small"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. How much longer?** A network of F = 12 columns becomes 8 experts of 6. The router is
# all zeros, K = 4, and the weights are *not* divided. Of equal logits the first win: every token
# goes to experts 0 to 3, which are two whole copies. How many times as long must w_down be, so that
# the mixture is the dense network?

# %%
answer_3 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# Each of the 8 experts has p = 1/8. The four that run are two whole networks, so they give
# 2 · 1/8 = 1/4 of the dense output.
#
# ```python
# answer_3 = 4
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    net = [rng.standard_normal(shape) for shape in ((12, 5), (12, 5), (5, 12))]
    tokens = rng.standard_normal((7, 5))
    its_gate_up, its_down = upcycle_ffn(*net, 8, 6, rng)
    got, _ = moe_forward(tokens, np.zeros((8, 5)), its_gate_up, answer_3 * its_down, 4)
    away = distance(got, swiglu_forward(tokens, *net)[0])
    assert away < 1e-12, f"no; the outputs are {away:.2g} apart"
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** Read `minqwen/layers/moe.py`: the whole layer is ten lines. Break one of them, and
# run `minqwen check moe`. `minqwen lab moe --out lab-moe` trains a dense model, a mixture from
# nothing and an upcycled one, and draws the load of every expert over time.

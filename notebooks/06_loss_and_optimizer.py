# %% [markdown]
# # Loss and optimizer: one step by hand
#
# *Made from `06_loss_and_optimizer.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# A training step is a loop that comes home: ids, numbers, scores, loss, and then gradients, and
# then numbers that are a little different. Here the model has 8 numbers and no block at all. So
# every number of one step fits on the page, and you can check most of them in your head.
#
# ## What you will do
#
# - Read rows of a table, score with the same table, and get a loss in fractions.
# - Mask what should not count, and walk all the way back, with a scatter-add at the end.
# - Clip, look up the learning rate, and make one update of AdamW, number by number.
# - Lose half of a gradient with one innocent line. Scale a gradient wrongly, and see AdamW hide it.
# - Train until it knows its text, and meet a text that a tied table can never learn.
#
# ## What you will learn
#
# - Why the gradient of the loss is simply *what it says minus what is right*.
# - Why a tied table has two gradients.
# - Why the first step of AdamW does not depend on the size of the gradient, and what the
#   corrections are for.
# - Why there is something between the two ends of a tied model.
#
# ## What you need
#
# The chain rule and logarithms, NumPy with matplotlib. 20 minutes; it runs in a few seconds. Beside
# this page, open `minqwen/layers/cross_entropy.py`, `minqwen/layers/embedding.py` and
# `minqwen/training/adamw.py`. The numbers of the report are in its section 2.4.

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

import matplotlib.pyplot as plt
import numpy as np

from minqwen.check.gradients import check_gradients, numerical_gradient

rng = np.random.default_rng(0)
np.set_printoptions(precision=3, suppress=True)
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %%
from minqwen.layers.cross_entropy import IGNORED, cross_entropy_backward, cross_entropy_forward
from minqwen.layers.embedding import embedding_backward, embedding_forward
from minqwen.layers.linear import linear_backward, linear_forward
from minqwen.training.adamw import adamw_init, adamw_step, adamw_update
from minqwen.training.grad_clip import clip_grad_norm
from minqwen.training.lr_schedule import cosine_lr

# %% [markdown]
# ## 1 A model with eight numbers
#
# | letter | here | Qwen2-0.5B | meaning |
# | --- | --- | --- | --- |
# | V | 4 | 151936 | tokens: a, b, c, d |
# | D | 2 | 896 | width of a token |
# | B, T | 1, 4 | | texts, tokens that are read |
#
# The model reads a row of its table for each token, and scores each possible next token by the
# product with *its* row:
#
# $$x_n = E_{\mathrm{id}_n} \qquad z_n = x_n\,E^\top$$
#
# One table for both ends is called **tied**. The two small Qwen2 models are tied; between the two
# ends they have 24 and 28 blocks, and here there are none.
#
# Our rows are whole numbers times √(ln 2). So the scores are multiples of ln 2.

# %%
TOKENS, V, D = "abcd", 4, 2
root = np.sqrt(np.log(2))
E = root * np.array([[1, 0], [1, 1], [0, 1], [-1, 1.0]])  # (V, D)
text = "bacad"
ids = np.array([[TOKENS.index(token) for token in text]])  # (B, T + 1)
input_ids, labels = ids[:, :-1], ids[:, 1:]  # what is read, and what comes next
print("read ", input_ids, "\nlabel", labels)


# %%
def as_fractions(numbers, width=8):
    """Return numbers as text, such as 1/2 or 2/3."""
    return "".join(f"{Fraction(float(x)).limit_denominator(400)!s:>{width}}" for x in numbers)


x, embedding_c = embedding_forward(input_ids, E)  # (B, T, D)
logits, head_c = linear_forward(x, E)  # (B, T, V)
print("x", x.shape, " logits", logits.shape)
print("read      x / root          logits / ln 2 of a b c d")
for token, row, z in zip(text, x[0] / root, logits[0] / np.log(2), strict=False):
    print(f"{token}   {as_fractions(row)} {as_fractions(z)}")

# %% [markdown]
# ## 2 The loss
#
# Softmax makes probabilities, and the loss is the surprise about what came:
#
# $$p_{nv} = \frac{e^{z_{nv}}}{\sum_u e^{z_{nu}}} \qquad
# L = \frac1M \sum_{n\ \text{counts}} -\ln p_{n,\mathrm{label}_n}$$
#
# Our text is a chat: b is the question and does not count as something to be learned, so the first
# label (a, right after b) is masked. M = 3 tokens count.

# %%
mask = np.array([[False, True, True, True]])  # (B, T): True = counts
powers = np.exp(logits)
p = powers / powers.sum(axis=-1, keepdims=True)  # (B, T, V)
surprise = -np.log(np.take_along_axis(p, labels[..., None], axis=-1))[..., 0]  # (B, T)
print("read  e^z of a b c d                    p of a b c d             label  surprise")
for t in range(4):
    line = f"{text[t]}  {as_fractions(powers[0, t])}  {as_fractions(p[0, t])}"
    counts = f"{surprise[0, t]:.3f}" if mask[0, t] else "masked"
    print(f"{line}      {text[t + 1]}   {counts}")

# %%
M = mask.sum()
loss = surprise[mask].sum() / M
by_hand = (np.log(11 / 2) + np.log(7) + np.log(11)) / 3
print(f"loss {loss:.4f} nats; knowing nothing would be ln 4 = {np.log(4):.4f}")
assert abs(loss - by_hand) < 1e-14

loss_package, loss_c = cross_entropy_forward(logits, labels, mask)
assert abs(loss - loss_package) < 1e-14
ignored = np.where(mask, labels, IGNORED)  # the other way to say it: a label of -100
assert cross_entropy_forward(logits, ignored)[0] == loss_package

# %% [markdown]
# Worse than knowing nothing: this table believes in the wrong things. Read as a number of choices,
# $e^{L}$ = 7.5, the **perplexity**: it is as unsure as if there were 7.5 tokens.
#
# Never compute $\ln(\mathrm{softmax}(z))$ in two steps as we did. A score of 1000 is infinite after
# exp. The package takes the largest score out first:

# %%
with np.errstate(over="ignore", invalid="ignore"):
    two_steps = np.exp([1000.0, 0]) / np.exp([1000.0, 0]).sum()
safe, _ = cross_entropy_forward(np.array([[1000.0, 0]]), np.array([1]))
print("two steps:", two_steps, "  the package:", safe)
assert np.isnan(two_steps[0])
assert safe == 1000

# %% [markdown]
# ## 3 The way back, from the loss to the table
#
# **Step 1.** $-\ln p = \ln\sum_u e^{z_u} - z_{\mathrm{label}}$. The derivative of the first term is
# p, that of the second is 1 at the label:
#
# $$dz_{nv} = \frac{c_n}{M}\,\bigl(p_{nv} - [v = \mathrm{label}_n]\bigr)$$
#
# *What it says minus what is right.* Every row sums to 0, and a masked row is 0.

# %%
right = np.eye(V)[labels]  # (B, T, V): 1 at the label
dlogits = (p - right) * mask[..., None] / M  # (B, T, V)
for token, row in zip(text, dlogits[0], strict=False):
    print(f"{token}  {as_fractions(row)}   sum {abs(row.sum()):.0f}")
assert np.abs(dlogits - cross_entropy_backward(1.0, loss_c)).max() < 1e-15

# %% [markdown]
# **Step 2, the head.** It was a product, $z = x E^\top$:
#
# $$dE^{\mathrm{head}} = dz^\top x \qquad dx = dz\,E$$
#
# **Step 3, the rows that were read.** Token a was read twice (places 1 and 3). Both gradients
# belong to its one row, so they are **added**: a *scatter-add*.
#
# **Step 4, tied.** One table did both jobs. What is used twice gets two gradients, and they are
# added once more.

# %%
dE_head = np.einsum("btv,btd->vd", dlogits, x)  # (V, D)
dx = dlogits @ E  # (B, T, D)
dE_read = np.zeros((V, D))
np.add.at(dE_read, input_ids, dx)  # the scatter-add
dE = dE_head + dE_read
print("row   from the head     from reading              both   (divided by root)")
for v in range(V):
    parts = (as_fractions(part[v] / root, 9) for part in (dE_head, dE_read, dE))
    print(TOKENS[v], *parts)

# %% [markdown]
# Token b was read, but its label is masked, so nothing comes back through reading. Token d was
# never read. Both get a gradient all the same, from the head: *every* token was a candidate, and
# each was too likely or not likely enough.
#
# Compare with the package, and then with central differences, which know no formula:


# %%
def loss_of(table):
    """Return the loss and what the way back needs, for a tied table."""
    x, read_c = embedding_forward(input_ids, table)
    logits, head_c = linear_forward(x, table)
    loss, loss_c = cross_entropy_forward(logits, labels, mask)
    return loss, (read_c, head_c, loss_c)


def table_backward(dloss, cache):
    read_c, head_c, loss_c = cache
    dx, dhead, _ = linear_backward(cross_entropy_backward(dloss, loss_c), head_c)
    return embedding_backward(dx, read_c) + dhead


# %%
assert np.abs(dE - table_backward(1.0, loss_of(E)[1])).max() < 1e-15
numerical = numerical_gradient(lambda: float(loss_of(E)[0]), E)
print(f"largest difference from central differences: {np.abs(dE - numerical).max():.0e}")
print(f"and with a random upstream gradient: {check_gradients(loss_of, table_backward, E)[0]:.0e}")
assert np.abs(dE - numerical).max() < 1e-8

# %% [markdown]
# ## 4 One thing broken: the line that loses a token
#
# The scatter-add looks as if it could be written shorter:

# %%
shorter = np.zeros((V, D))
shorter[input_ids[0]] += dx[0]  # wrong
error = np.abs(dE_head + shorter - numerical)
print("wrong rows:", [TOKENS[v] for v in np.flatnonzero(error.max(axis=1) > 1e-6)])
print("a, right:", as_fractions(dE_read[0] / root), "  shorter:", as_fractions(shorter[0] / root))
assert np.flatnonzero(error.max(axis=1) > 1e-6).tolist() == [0]

# %% [markdown]
# NumPy reads the rows, adds, and writes them back. Row a is written twice, and the last one stays.
# In a real text *the* is read thousands of times, and would learn from one of them. No error, and a
# check on a text without a repeated token passes. (`minqwen explain embedding` shows it too.)
#
# ## 5 Clip
#
# All gradients together are one long vector. If it is longer than a bound, it is shortened; its
# direction stays. The report clips at 1 (in fine-tuning, 3.1.2).

# %%
norm = np.sqrt((dE**2).sum())
factor = min(1, 1.0 / (norm + 1e-6))
grads, norm_package = clip_grad_norm({"E.weight": dE}, max_norm=1.0)
print(f"norm {norm:.4f}, factor {factor:.4f}")
assert abs(norm - norm_package) < 1e-15
assert np.allclose(grads["E.weight"], factor * dE, rtol=1e-12)
g = grads["E.weight"]

# %% [markdown]
# ## 6 The learning rate
#
# A straight warm-up, then half a cosine down to a tenth of the peak (report, 2.4). We plan 60 steps
# with a peak of 0.1, so step 0 has 0.1 · 1/6:

# %%
PLAN = {"peak_lr": 0.1, "warmup_steps": 5, "total_steps": 60}
rates = [cosine_lr(s, **PLAN) for s in range(70)]
usual = [0.1 * s / 5 for s in range(6)]
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(rates, "o-", ms=3, label="cosine_lr")
ax.plot(usual, "x:", color="C3", label="the usual warm-up: step 0 has rate 0")
ax.set(xlabel="step", ylabel="learning rate", title="warm up, then half a cosine to a tenth")
ax.legend()
plt.show()
lr = rates[0]
print(f"step 0: {lr:.5f}, peak {max(rates):.3f} at step {np.argmax(rates)}, last {rates[60]:.3f}")
assert abs(lr - 0.1 / 6) < 1e-15
assert abs(rates[60] - 0.01) < 1e-15

# %% [markdown]
# ## 7 AdamW, number by number
#
# It remembers two numbers for each parameter, both 0 at first: a running mean of the gradient, and
# one of its square.
#
# $$m = \beta_1 m + (1 - \beta_1)\,g \qquad v = \beta_2 v + (1 - \beta_2)\,g^2$$
#
# They start too small, so both are divided by what is missing:
#
# $$\hat m = \frac{m}{1 - \beta_1^t} \qquad \hat v = \frac{v}{1 - \beta_2^t} \qquad
# w = (1 - \mathrm{lr} \cdot \lambda)\,w - \mathrm{lr}\,\frac{\hat m}{\sqrt{\hat v} + \epsilon}$$
#
# Qwen: β₁ = 0.9, β₂ = 0.95, ε = 10⁻⁸. The decay λ is 0.1.

# %%
beta1, beta2, eps, decay, step = 0.9, 0.95, 1e-8, 0.1, 1
m = beta1 * 0 + (1 - beta1) * g
v = beta2 * 0 + (1 - beta2) * g * g
m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
move = m_hat / (np.sqrt(v_hat) + eps)
new_E = (1 - lr * decay) * E - lr * move
print("         w         g         m           v      m^      v^    move     new w")
for i in np.ndindex(V, D):
    numbers = f"{E[i]:8.4f} {g[i]:9.5f} {m[i]:9.6f} {v[i]:11.8f} {m_hat[i]:7.4f} {v_hat[i]:7.5f}"
    print(f"{TOKENS[i[0]]}{i[1]} {numbers} {move[i]:7.4f} {new_E[i]:9.5f}")

# %% [markdown]
# Look at the column *move*. **It is 1 or −1, whatever the gradient is.** In the first step m̂ = g
# and v̂ = g², so the move is g / |g|: the sign. AdamW asks a gradient for its direction, and for how
# steady it is, but not for its size. So lr is the distance that a number moves in a step.

# %%
assert np.abs(np.abs(move) - 1).max() < 1e-5
zeros = np.zeros((V, D))
by_update = adamw_update(E, g, zeros, zeros, 1, lr=lr)
for ours, theirs in zip((new_E, m, v), by_update, strict=True):
    assert np.abs(ours - theirs).max() < 1e-15

params = {"E.weight": E.copy()}
state = adamw_init(params)
adamw_step(params, grads, state, lr=lr)  # what training calls: in place, for every tensor
assert np.abs(params["E.weight"] - new_E).max() < 1e-15
print("equal to the package;  loss", round(loss, 4), "->", round(float(loss_of(new_E)[0]), 4))
assert loss_of(new_E)[0] < loss

# %% [markdown]
# One step done: the loss fell. Which decay acts where? Matrices shrink; gains and biases do not
# (`decays` in `adamw.py` says why).
#
# ### What the corrections do
#
# A gradient that is always 1 should give a move of 1 in each step. Without the corrections:

# %%
t = np.arange(1, 101)
fig, ax = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
for second, color in ((0.95, "C0"), (0.999, "C3")):
    uncorrected = (1 - beta1**t) / np.sqrt(1 - second**t)
    ax.plot(t, uncorrected, color=color, label=f"beta2 = {second}, not corrected")
ax.axhline(1, color="black", label="corrected")
ax.set(xlabel="step", ylabel="move / lr", title="a constant gradient", ylim=(0, None))
ax.legend()
plt.show()
print("first and largest move with 0.999:", uncorrected[0].round(2), uncorrected.max().round(2))
assert uncorrected.max() > 6

# %% [markdown]
# With β₂ = 0.999, as in many other models, the uncorrected moves become more than six times too
# long within the first dozens of steps. With Qwen's 0.95 the mistake is small, and so it lives
# longer. (`minqwen explain adamw.none_corrected`)
#
# ### What AdamW hides
#
# Forget the mask in the *mean*: divide by all 4 tokens and not by the 3 that count. Every gradient
# is 3/4 of what it should be. After one step of AdamW:

# %%
wrong = 0.75 * dE
step_right = adamw_update(E, dE, zeros, zeros, 1, lr=lr)[0]
step_wrong = adamw_update(E, wrong, zeros, zeros, 1, lr=lr)[0]
print(f"gradients differ by {np.abs(wrong - dE).max():.1e}")
print(f"updates differ by   {np.abs(step_right - step_wrong).max():.1e}")
assert np.abs(step_right - step_wrong).max() < 1e-7

# %% [markdown]
# The same update. If each batch had the same share of masked tokens, the mistake would have no
# effect at all on training, only on the printed loss. But shares vary from batch to batch, and then
# batches with many masked tokens count too little. So do not judge a gradient by whether training
# works. Compare it: `minqwen check cross_entropy --impl my.py:f` knows it as `mean_of_all`.
#
# ## 8 Until it knows the text
#
# Now all steps. The text goes round and round: a b c d a b c d. After each token there is exactly
# one right answer, so a good model gets to a loss of 0.

# %%
cycle = np.array([[0, 1, 2, 3] * 4 + [0]])


def train_on_cycle(params, tied, steps=200):
    """Train in place; return losses and the norms of the gradients."""
    plan, state, history = {**PLAN, "total_steps": steps}, adamw_init(params), []
    for s in range(steps):
        x, read_c = embedding_forward(cycle[:, :-1], params["read.weight"])
        z, head_c = linear_forward(x, params["read.weight" if tied else "head.weight"])
        loss, loss_c = cross_entropy_forward(z, cycle[:, 1:])
        dx, dhead, _ = linear_backward(cross_entropy_backward(1.0, loss_c), head_c)
        history.append((float(loss), add_up(params, state, tied, read_c, dx, dhead, plan, s)))
    return np.array(history)


# %%
def add_up(params, state, tied, read_c, dx, dhead, plan, s):
    """Join the two gradients, clip, and make the update; return the norm."""
    grads = {"read.weight": embedding_backward(dx, read_c)}
    if tied:
        grads["read.weight"] = grads["read.weight"] + dhead
    else:
        grads["head.weight"] = dhead
    grads, norm = clip_grad_norm(grads, 1.0)
    adamw_step(params, grads, state, lr=cosine_lr(s, **plan), weight_decay=0.0)
    return norm


# %%
start = 0.5 * np.random.default_rng(3).standard_normal((2, V, D))
tied_params = {"read.weight": start[0].copy()}
untied_params = {"read.weight": start[0].copy(), "head.weight": start[1].copy()}
tied_run, untied_run = train_on_cycle(tied_params, True), train_on_cycle(untied_params, False)
print(f"last loss: tied {tied_run[-1, 0]:.4f}, untied {untied_run[-1, 0]:.4f}")
assert untied_run[-1, 0] < 0.01
assert tied_run[:, 0].min() > np.log(4) - 1e-9

# %% [markdown]
# The tied model ends where one is who knows nothing, at ln 4, and it is not for want of steps. Its
# scores are $z_{uv} = E_u \cdot E_v$, the same both ways: what makes b likely after a makes a
# likely after b. So the token *before* scores as much as the one that comes *next*. And from
#
# $$|E_a - E_b + E_c - E_d|^2 \ge 0 \quad\Rightarrow\quad
# z_{\mathrm{itself}} + z_{\mathrm{opposite}} \ge 2\,z_{\mathrm{next}}$$
#
# on average over the circle, so $e^{z_{\mathrm{itself}}} + e^{z_{\mathrm{opposite}}}$ is at least
# twice $e^{z_{\mathrm{next}}}$. Of four equal shares the right one gets one at most: **on this text
# no tied table gets below ln 4**, however wide it is.


# %%
def draw_losses(ax):
    """Draw the two losses and the bound."""
    ax.semilogy(tied_run[:, 0], color="C3", label="tied")
    ax.semilogy(untied_run[:, 0], color="C0", label="untied")
    ax.axhline(np.log(4), color="black", ls=":", label="ln 4: no tied table is below")
    ax.set(xlabel="step", ylabel="loss (nats)", title="a b c d a b c d ...")
    ax.legend()


# %%
def draw_rows(ax, read, head):
    """Draw both tables, and a line from each token to the head of the next."""
    for u in range(V):
        ax.plot(*zip(read[u], head[(u + 1) % V], strict=True), color="grey", ls=":", zorder=0)
        ax.text(*(1.12 * head[u]), TOKENS[u], color="C1", fontsize=14, ha="center", va="center")
        ax.text(*(1.12 * read[u]), TOKENS[u], color="C0", fontsize=14, ha="center", va="center")
    ax.scatter(*read.T, color="C0", label="row that is read")
    ax.scatter(*head.T, color="C1", marker="s", label="row of the head")
    ax.set(aspect="equal", title="untied: a points to the head of b, and so on")
    ax.margins(0.15)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))


# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
draw_losses(axes[0])
draw_rows(axes[1], untied_params["read.weight"], untied_params["head.weight"])
plt.show()

# %% [markdown]
# That is why a model has something between its two ends. In the small Qwen2 models the blocks turn
# "I have read a" into "I expect b" before the table is asked again. Tying saves 136 million of 630
# million numbers in the 0.5B model; in the 72B model it would save 2 %, and so it has two tables.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. The gradient of a score.** A model with three tokens gives them 1/2, 1/4, 1/4. The
# right one is the second. Two tokens of the batch count. What is the row of dlogits?

# %%
answer_1 = None  # three numbers

# %% [markdown]
# <details><summary>Solution</summary>
#
# What it says minus what is right, over M: (1/2, 1/4 − 1, 1/4) / 2.
#
# ```python
# answer_1 = [1 / 4, -3 / 8, 1 / 8]
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    z1 = np.log([[2, 1, 1.0], [1, 1, 1]])
    expected = cross_entropy_backward(1.0, cross_entropy_forward(z1, np.array([1, 0]))[1])[0]
    assert np.abs(expected - answer_1).max() < 1e-12, "no; does it sum to 0?"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. A first step.** Three numbers of a model have the gradients 0.001, −100 and 0. The
# learning rate is 0.01, there is no decay. By how much does the first update of AdamW change each?

# %%
answer_2 = None  # three numbers, with their signs

# %% [markdown]
# <details><summary>Solution</summary>
#
# By lr, against the sign of the gradient; with no gradient there is no move.
#
# ```python
# answer_2 = [-0.01, 0.01, 0]
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    none = np.zeros(3)
    g2 = np.array([0.001, -100, 0])
    moved = adamw_update(none, g2, none, none, 1, lr=0.01, weight_decay=0.0)[0]
    assert np.abs(moved - answer_2).max() < 1e-6, "no; look at the column `move` of section 7"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. Clip.** A model has two tensors with the gradients (3, 4) and (12). They are clipped
# to a norm of 6.5. What are they then?

# %%
answer_3 = None  # ([., .], [.])

# %% [markdown]
# <details><summary>Solution</summary>
#
# Together they are one vector of length 13, so all are halved. Clipping each tensor by itself would
# leave the first alone and turn the direction.
#
# ```python
# answer_3 = ([1.5, 2], [6])
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    both = {"w": np.array([3.0, 4]), "b": np.array([12.0])}
    clipped_both, _ = clip_grad_norm(both, 6.5)
    for ours, name in zip(answer_3, both, strict=True):
        assert np.allclose(ours, clipped_both[name], rtol=1e-5), "no; one vector, one factor"
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** `minqwen/training/update.py` is sections 5 to 7 as training calls them. Notebook
# 08 does the same with numbers of 16 bits, notebook 09 with more than one process, and notebook 22
# takes the loss of a long row without ever holding its scores.

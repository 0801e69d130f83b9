# %% [markdown]
# # Code and maths: one base, two specialists
#
# *Made from `22_code_and_maths.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# Code-Qwen is a base model that is trained further, on code and text in long rows (Qwen report, 4).
# Math-Qwen is a base model that is fine-tuned at once on exam questions, in short rows, with a loss
# on the answers only (5). Not one line of the model changes. What changes is which tokens come, how
# they are cut into rows, and which of them count.
#
# ## What you will do
#
# - Cut code and exam questions into rows, and see how much of its own file a token can see.
# - Compute the loss of a long row without ever holding its logits, forward and backward.
# - Train a small base further on code, with text and without, and see what is forgotten.
# - Follow the loss of Math-Qwen by hand: its gradient is exactly 0 on the question.
# - Divide that loss by the wrong number, on purpose, and look at what the log says.
# - Drop numbers at random, and prove that the mean stays.
# - Fine-tune twice, on answers and on everything, and sample answers to train on next.
#
# ## What you will learn
#
# - Why code wants rows of 8,192 tokens, and exam questions are happy with 1,024.
# - Why a question is read, but not learned.
# - Why dropout divides by 1 - rate, and where it must be off.
#
# ## What you need
#
# Notebooks 06 (the loss) and 17 (chats and masks), NumPy with matplotlib. 25 minutes; it computes
# for less than a minute. Beside this page, open `minqwen/lab/recipe_math.py`,
# `minqwen/layers/linear_cross_entropy.py` and `minqwen/layers/dropout.py`.

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
import itertools
import os
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread only waits

import matplotlib.pyplot as plt
import numpy as np

# %%
folder = Path(tempfile.mkdtemp())
np.set_printoptions(precision=3, suppress=True)
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %%
from minqwen.alignment.chat_batch import pad_chats
from minqwen.alignment.rollout import as_lists, rollout
from minqwen.alignment.settings import SftSettings
from minqwen.alignment.sft import sft
from minqwen.alignment.token_logprobs import token_logprobs_forward
from minqwen.check.gradients import check_gradients, gradient_errors, numerical_gradient
from minqwen.commands.tokenize import shown
from minqwen.data.corpora import python_reference, standard_library_code
from minqwen.data.packing import pack_documents
from minqwen.lab.recipe_code import shorter

# %%
from minqwen.lab.recipe_instruction_tasks import SEEN, make_items, ngrams, without_overlap
from minqwen.lab.recipe_math import MATH_SFT
from minqwen.lab.recipe_math_tasks import make_drills, make_problems, right_result
from minqwen.lab.recipe_study import (
    TEMPLATE,
    RecipeSettings,
    answers,
    chat_of,
    make_tokenizer,
    packed,
    pretrained,
    three_percent,
)

# %%
from minqwen.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from minqwen.layers.dropout import dropout_backward, dropout_forward
from minqwen.layers.linear_cross_entropy import (
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
)

# %%
from minqwen.model.init import init_params
from minqwen.model.language_model import language_model_backward, language_model_forward
from minqwen.model.presets import preset
from minqwen.tokenizer.chatml import encode_chat
from minqwen.training.accumulate import as_batch, count_tokens, loss_and_grads
from minqwen.training.adamw import adamw_init, adamw_step
from minqwen.training.metrics import Metrics
from minqwen.training.settings import PretrainSettings
from minqwen.training.update import scheduled_lr

# %% [markdown]
# ## 1 What changes
#
# | | base | Code-Qwen | Math-Qwen |
# | --- | --- | --- | --- |
# | starts from | random numbers | the base | the base |
# | reads | up to 3,000 billion tokens | 90 billion, text and code | exam questions, answers |
# | tokens in a row | 2,048 | 8,192 | 1,024 |
# | counts in the loss | every token | every token | the answers |
# | rate of the 7B model | 3e-4, cosine to a tenth | 3e-5, then flat | 2e-5 |
# | dropout | none | none | 0.1 |
#
# The rate of Code-Qwen goes up for 3 % of the steps and then stays:
#
# $$\mathrm{lr}_s = \mathrm{peak} \cdot \min\left(1, \frac{s + 1}{W + 1}\right)$$
#
# Base and specialist, one after the other; the lengths of the two runs are not to scale.

# %%
base_plan = PretrainSettings(steps=1000, warmup_steps=4, peak_lr=3e-4)
flat = {"steps": 1000, "warmup_steps": three_percent(1000), "min_lr_ratio": 1.0}
code_plan = PretrainSettings(peak_lr=3e-5, **flat)
base_rates, code_rates = (
    [scheduled_lr(s, plan) for s in range(1001)] for plan in (base_plan, code_plan)
)
print(f"last rate of the base {base_rates[-1]:.1e}, rate of Code-Qwen {code_rates[-1]:.1e}")
assert np.isclose(base_rates[-1], code_rates[-1])

# %%
fig, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
ax.semilogy(np.arange(1001), base_rates, label="base")
ax.semilogy(np.arange(1001, 2002), code_rates, label="Code-Qwen")
ax.set(xlabel="step, in thousandths of each run", ylabel="learning rate", title="7B")
ax.legend()
plt.show()

# %% [markdown]
# Code-Qwen-7B goes on at the rate at which its base had stopped. A higher one would unlearn more.
# And Math-Qwen, as the package has it:

# %%
names = ("context_length", "train_on", "peak_lr", "steps", "batch_size", "dropout")
print({name: getattr(MATH_SFT, name) for name in names})
assert (MATH_SFT.context_length, MATH_SFT.dropout) == (1024, 0.1)

# %% [markdown]
# ## 2 A small base
#
# Ours reads English, the language reference of Python, and plain sums with their steps. Its
# tokenizer has also seen code and questions, so that the specialists do not need another. Every
# fifth topic and every fifth file of code are held out, and of the questions every fifth triple of
# numbers.

# %%
KINDS = ("more", "less", "back", "choice")


def exam(n, seed, **held_out):
    """Draw questions with answers, and keep the English ones of four kinds."""
    drawn = make_problems(n, np.random.default_rng(seed), **held_out)
    return [p for p in drawn if p.language == "english" and p.kind in KINDS]


problems, tests = exam(6000, seed=1), exam(300, seed=2, new_numbers=True)
lines = make_drills(6000, np.random.default_rng(0))
sums = ["\n".join(lines[i : i + 10]) + "\n" for i in range(0, len(lines), 10)]

# %%
topics, files = python_reference()[::3], standard_library_code(300_000)
print(len(topics), "topics,", len(files), "files,", len(problems), "questions")
print("a sum:   ", lines[0])
print("question:", problems[0].question, "\nanswer:  ", problems[0].answer)

# %%
PLAN = RecipeSettings(hidden_size=48, vocab_size=512, base_steps=300, base_context=64)
sample = [f"{p.question}\n{p.answer}" for p in problems[:300]]
text = make_tokenizer([*(t[:800] for t in topics), *(f[:3000] for f in files), *sample], PLAN)
larger = replace(text.config, initializer_range=0.1, rope_theta=1000.0)  # small models like it
text = text._replace(config=larger)
prose = [topic for i, topic in enumerate(topics) if i % 5 != 4] + sums
rows = packed(text, prose, PLAN.base_context, seed=0)
base = pretrained(folder / "base", text, rows, PLAN.base(seed=0), None, "cpu")
losses = [row["loss"] for row in Metrics.read(folder / "base")]
print(f"{rows.shape} rows; loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last")
assert losses[-1] < 0.5 * losses[0]

# %% [markdown]
# ## 3 Rows: short or long
#
# Documents become one stream, with a separator after each, and the stream is cut every C tokens
# (notebook 16). Three documents, cut at 4 and at 8:

# %%
documents = [[11, 12, 13, 14, 15, 16, 17], [21, 22], [31, 32, 33, 34, 35]]
for C in (4, 8):
    print(f"C = {C}:\n{pack_documents(documents, C, separator_id=0)}")

# %% [markdown]
# Token 17 is the label of 16. In the long rows all of 11 to 16 are in sight, in the short ones 15
# and 16 only. Take token i of the stream, whose document begins at d and whose row begins at r. Of
# the i - d + 1 tokens of its document so far, itself too, it sees those that are not before r:
#
# $$\text{seen}_i = \frac{i - \max(d, r) + 1}{i - d + 1}$$


# %%
def seen_share(lengths, C):
    """Return which share of its document so far a token sees in rows of C, on average."""
    size = np.add(lengths, 1)  # with the separator
    ends = np.cumsum(size)
    i = np.arange(ends[-1])
    d = (ends - size)[np.searchsorted(ends, i, side="right")]
    r = i // C * C
    return np.mean((i - np.maximum(d, r) + 1) / (i - d + 1))


# %%
lengths = [len(document) for document in documents]
by_hand = 4 + (1 / 5 + 2 / 6 + 3 / 7 + 4 / 8), 3, 1 + (1 / 2 + 2 / 3 + 3 / 4 + 4 / 5) + 1 / 6
print(f"C = 4: {seen_share(lengths, 4):.3f}, by hand {sum(by_hand) / 17:.3f};", end=" ")
print(f"C = 8: {seen_share(lengths, 8):.3f}")
assert np.isclose(seen_share(lengths, 4), sum(by_hand) / 17)

# %% [markdown]
# The first document, with its separator, lies in two rows of 4. The first four tokens see all of it
# so far, the fifth sees itself and none of the four before. Now real documents: topics, files of
# code, exam questions.

# %%
chats = [chat_of(text, p.question, p.answer) for p in problems]
sizes = {
    "files of code": [len(text.tokenizer.encode(f, disallowed_special=())) for f in files],
    "topics of the reference": [len(text.tokenizer.encode(t)) for t in topics],
    "questions with answers": [len(chat.ids) for chat in chats],
}
for name, its in sizes.items():
    print(f"{name:24} mean {np.mean(its):7.0f} tokens, longest {max(its)}")

# %%
row_lengths = 2 ** np.arange(4, 17)
fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
for name, its in sizes.items():
    ax.plot(row_lengths, [seen_share(its, C) for C in row_lengths], "o-", ms=3, label=name)
for C, name in ((1024, "Math-Qwen"), (2048, "base"), (8192, "Code-Qwen")):
    ax.axvline(C, color="0.5", ls=":")
    ax.text(C, 1.06, name, ha="center", fontsize=8)
ax.set_xscale("log", base=2)
ax.set(xlabel="tokens in a row, C", ylabel="seen of its document", ylim=(0, 1.03))
ax.legend(fontsize=8)
plt.show()
in_code = [seen_share(sizes["files of code"], C) for C in (2048, 8192)]
print(f"code: {in_code[0]:.0%} in rows of 2,048, {in_code[1]:.0%} in rows of 8,192")
assert in_code[0] + 0.1 < in_code[1]

# %% [markdown]
# Our tokens are small, as the vocabulary is. But the picture is that of the report: a file of code
# is long, and a call on its last line needs the import on its first. An exam question fits into any
# row. "Shorter average lengths" is the report's reason for 1,024 in maths, "for faster training"
# (5.1).
#
# What does a row cost? Products with weights cost the same for each token, but two arrays grow:
#
# $$\text{scores of a layer: } H\,T^2 \qquad \text{logits: } T\,V$$

# %%
qwen = preset("qwen-7b")
H, V = qwen.num_attention_heads, qwen.vocab_size
print("    T   scores of a layer, 16 bits   logits, 32 bits")
for T in (1024, 2048, 8192):
    print(f"{T:5} {2 * H * T * T / 1e9:17.2f} GB {4 * T * V / 1e9:22.2f} GB")
assert 4 * 8192 * V > 4.9e9

# %% [markdown]
# One row of 8,192 has 137 GB of scores in its 32 layers. Code-Qwen used flash attention, which
# keeps none of them (notebook 13). The logits are left, and their gradient is as large again.
#
# ## 4 A loss without logits
#
# The loss of a token needs one number of all its logits, $\mathrm{lse} = \log \sum_v e^{z_v}$, and
# the one logit of its label. So take the vocabulary in parts. Remember the peak m and the sum s so
# far, and when a part has a higher peak, shrink the old sum to it:
#
# $$m' = \max(m, \max_v z_v) \qquad s' = s\,e^{m - m'} + \sum_v e^{z_v - m'} \qquad
# \mathrm{lse} = m + \log s$$
#
# Two tokens, six words, three parts:

# %%
rng = np.random.default_rng(28)
x, w, labels = rng.normal(size=(2, 3)).round(1), rng.normal(size=(6, 3)).round(1), np.array([4, 1])
m, s = np.full(2, -np.inf), np.zeros(2)
for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
    z = x @ w[part].T  # (2 tokens, 2 words): all the logits there are
    new = np.maximum(m, z.max(axis=1))
    s = s * np.exp(m - new) + np.exp(z - new[:, None]).sum(axis=1)
    m = new
    print(f"words {part.start}, {part.stop - 1}: peaks {m}, sums {s}")
lse = m + np.log(s)
loss = (lse - (x * w[labels]).sum(axis=1)).mean()
print(f"lse {lse}, loss {loss:.12f}")

# %%
by_parts, cache = linear_cross_entropy_forward(x, w, labels, block=4)  # 4 logits at a time
by_all, _ = cross_entropy_forward(x @ w.T, labels)
print(f"by parts {by_parts:.12f}, from all logits {by_all:.12f}")
assert np.allclose([by_parts, by_all], loss, rtol=1e-14)

# %% [markdown]
# And back. The gradient of a logit is $dz_v = \frac1N (e^{z_v - \mathrm{lse}} - [v = y])$, and lse
# is known by now. So each part can make its logits once more, use them and forget them:

# %%
dx, dw = np.zeros_like(x), np.zeros_like(w)
for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
    z = x @ w[part].T  # a second time: this is the price
    onehot = np.arange(part.start, part.stop) == labels[:, None]
    dz = (np.exp(z - lse[:, None]) - onehot) / 2
    dx += dz @ w[part]
    dw[part] = dz.T @ x
for ours, theirs in zip((dx, dw), linear_cross_entropy_backward(1.0, cache), strict=True):
    assert np.allclose(ours, theirs, rtol=1e-13)
errors = check_gradients(
    linear_cross_entropy_forward, linear_cross_entropy_backward, x, w, labels, None, 4
)
print("errors of dx and dw against finite differences:", " ".join(f"{e:.0e}" for e in errors))

# %% [markdown]
# Four products with w instead of three, and how much memory? 256 tokens, 30,000 words:

# %%
x, w = rng.normal(size=(256, 32)).astype(np.float32), rng.normal(size=(30_000, 32))
w, labels = w.astype(np.float32), rng.integers(0, 30_000, 256)


def by_all_logits():
    """Return dx and dw, through an array of all logits."""
    dz = cross_entropy_backward(1.0, cross_entropy_forward(x @ w.T, labels)[1])
    return dz @ w, dz.T @ x


def in_parts():
    """Return dx and dw; about a million logits at a time."""
    cache = linear_cross_entropy_forward(x, w, labels, block=2**20)[1]
    return linear_cross_entropy_backward(1.0, cache)


# %%
results, peaks = [], []
for compute in (by_all_logits, in_parts):
    tracemalloc.start()
    results.append(compute())
    peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
    tracemalloc.stop()
    print(f"{compute.__name__:14} {peaks[-1]:6.1f} MiB at most")
for one, other in zip(*results, strict=True):
    assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()
assert peaks[1] < 0.5 * peaks[0]

# %% [markdown]
# `loss_and_grads(..., chunked_head=True)` trains a model like this.
#
# ## 5 Code-Qwen: read on
#
# Two ways to go on from the same base, with as many tokens and at the same rate: half code and half
# text, and code only. The report mixes; its shares are not published. A code model that has
# forgotten how to speak would be a poor assistant. Rows have 256 tokens now, where the base read
# 64, and the rate is the last one of the base, flat.

# %%
STEPS, LONG = 160, 256
code = packed(text, [f for i, f in enumerate(files) if i % 5 != 4], LONG, seed=0)
old_text = packed(text, prose, LONG, seed=0)
n = 2 * STEPS  # rows: 2 a step
diet = {
    "code and text": np.concatenate([code[: n // 2], old_text[: n // 2]]),
    "code only": code[:n],
}
looks = {
    "code": packed(text, files[4::5], LONG, seed=1)[:48],
    "text": packed(text, topics[4::5], LONG, seed=1)[:48],
}
print({name: rows.shape for name, rows in (diet | looks).items()})

# %%
plan = PretrainSettings(
    steps=STEPS, batch_size=2, context_length=LONG, peak_lr=0.1 * PLAN.base_lr, min_lr_ratio=1.0,
    warmup_steps=three_percent(STEPS), checkpoint_every=STEPS, eval_every=0,
)  # fmt: skip
models = {"base": base}
for name, its in diet.items():
    models[name] = pretrained(folder / name, text, its, plan, base, "cpu")


# %%
def surprise_of(params, batch):
    """Return what each label costs, in nats: (B, T)."""
    logits, _ = language_model_forward(
        params, text.config, batch.input_ids, attention_mask=batch.real
    )
    return -token_logprobs_forward(logits, np.maximum(batch.labels, 0))[0]


# %%
found = {
    (name, what): surprise_of(params, as_batch(its))
    for name, params in models.items()
    for what, its in looks.items()
}
loss = {key: float(surprise.mean()) for key, surprise in found.items()}
print("held out         code    text   (nats a token)")
for name in models:
    print(f"{name:14} {loss[name, 'code']:6.3f}  {loss[name, 'text']:6.3f}")
assert loss["code and text", "code"] < loss["base", "code"] - 0.3
assert loss["code only", "text"] > loss["code and text", "text"] + 0.1

# %% [markdown]
# Code only is a little better at code, as it has read twice as much of it, and pays with its text.
# With text in the mixture it forgets less than half as much. (We tried five times the rate: then
# the mixture forgets nearly as much as code only does here, and neither is better at code.)
#
# And the long rows? Cut the held-out rows into four of 64, so that the same tokens are asked with
# less before them. What does a cut cost, and whom?

# %%
cut_rows = shorter(looks["code"], 64)  # all first quarters, then all second ones, ...
short = surprise_of(models["code and text"], as_batch(cut_rows))
short = np.stack(np.split(short, LONG // 64), axis=1)  # (rows, 4, 64)
long = found["code and text", "code"].reshape(-1, LONG // 64, 64)
print(f"the same code tokens: {short.mean():.3f} in rows of 64, {long.mean():.3f} in rows of 256")
price = (short - long)[:, 1:].mean(axis=(0, 1))  # by place behind a cut
print(f"first 8 tokens behind a cut: {price[:8].mean():+.3f}; last 32: {price[32:].mean():+.3f}")
assert np.allclose(short[:, 0], long[:, 0], atol=1e-4)  # nothing was cut off before these
assert price[:8].mean() > 0.05

# %%
fig, (left, middle) = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
for k, what in enumerate(looks):
    heights = [loss[name, what] for name in models]
    bars = left.bar(np.arange(3) + 0.4 * k, heights, 0.38, label=f"held-out {what}")
    left.bar_label(bars, fmt="%.2f", fontsize=8)
left.set_xticks(np.arange(3) + 0.2, list(models))
left.set(ylabel="nats a token", ylim=(3, None))
left.legend(fontsize=8)
middle.bar(np.arange(2, 64, 4), price.reshape(-1, 4).mean(axis=1), 3.4)
middle.set(xlabel="tokens behind the cut", ylabel="nats more", title="what a cut costs")
plt.show()

# %% [markdown]
# The tokens just behind a cut pay, and then it is forgotten: so small a model uses the last ten or
# twenty tokens, hardly more. A model that can use a function from a thousand tokens ago would pay
# much longer.
#
# Code-Qwen-Chat is then fine-tuned in several stages. The report says that this worked best, and
# not which they are. `minqwen lab code` tries two stages against one, and cannot decide it with
# three seeds.
#
# ## 6 Math-Qwen: only the answer counts
#
# Now a chat: a question, which is given, and an answer. With $c_t = 1$ where the label is one that
# the model must write, and n of them in the whole batch:
#
# $$L = \frac{1}{n} \sum_t c_t\,(\mathrm{lse}_t - z_{t, y_t}) \qquad
# dz_{tv} = \frac{c_t}{n}\,(p_{tv} - [v = y_t])$$
#
# A chat of six tokens has five labels. The question is `3 + 4 =`, the answer `7 end`:

# %%
WORDS = ["3", "4", "7", "+", "=", "end"]
ids = np.array([0, 3, 1, 4, 2, 5])  # 3 + 4 = 7 end
y, counts = ids[1:], np.array([False, False, False, True, True])
z = np.random.default_rng(0).normal(size=(5, 6)).round(1)  # (T, V)
lse = np.log(np.exp(z).sum(axis=1))
surprise = lse - z[np.arange(5), y]
print("input  label  counts  surprise")
for t in range(5):
    print(f"{WORDS[ids[t]]:>5}  {WORDS[y[t]]:>5}  {counts[t]:6}  {surprise[t]:8.3f}")
loss = (counts * surprise).sum() / counts.sum()
print(f"loss = ({surprise[3]:.3f} + {surprise[4]:.3f}) / 2 = {loss:.3f}")

# %%
package_loss, cache = cross_entropy_forward(z, y, counts)
assert np.isclose(loss, package_loss, rtol=1e-14)
p = np.exp(z - lse[:, None])
dz = counts[:, None] / counts.sum() * (p - np.eye(6)[y])
print("dz:      ", "  ".join(f"{word:>5}" for word in WORDS))
for t in range(5):
    print(f"{WORDS[ids[t]]:>8} ", "  ".join(f"{g + 0.0:5.2f}" for g in dz[t]))  # no -0.00
assert np.allclose(dz, cross_entropy_backward(1.0, cache), atol=1e-15)
assert (cross_entropy_backward(1.0, cache)[~counts] == 0).all()  # not small: zero

# %% [markdown]
# The proof asks the loss itself. In float64, each logit is moved a little up and down. On the
# question, not one bit of the loss changes:

# %%
numerical = numerical_gradient(lambda: float(cross_entropy_forward(z, y, counts)[0]), z)
print(f"largest on the question: {np.abs(numerical[~counts]).max()}")
print(f"farthest from dz, anywhere: {np.abs(numerical - dz).max():.0e}")
assert (numerical[~counts] == 0).all()
assert np.abs(numerical - dz).max() < 1e-9

# %% [markdown]
# So is nothing learned from the question? Look further down, at the embeddings that the question
# came in by. A small model in float64, whose head is not its embedding table:

# %%
tiny = replace(text.config, vocab_size=6, hidden_size=8, intermediate_size=16,
               num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False,
               initializer_range=0.5)  # fmt: skip
wide = init_params(tiny, np.random.default_rng(1), dtype="float64")
table = "model.embed_tokens.weight"


def chat_loss():
    """Return the loss of the chat, and what the way back needs."""
    logits, model_c = language_model_forward(wide, tiny, ids[None, :-1])
    loss, loss_c = cross_entropy_forward(logits, y[None], counts[None])
    return loss, loss_c, model_c


# %%
_, loss_c, model_c = chat_loss()
grads = language_model_backward(cross_entropy_backward(1.0, loss_c), model_c)
numerical = numerical_gradient(lambda: float(chat_loss()[0]), wide[table])
for v, word in enumerate(WORDS):
    print(f"{word:>4}: gradient of its embedding has length {np.linalg.norm(grads[table][v]):.3f}")
away = np.abs(grads[table] - numerical).max()
print(f"farthest from finite differences: {away:.0e}")
assert away < 1e-8
assert np.linalg.norm(grads[table][WORDS.index("3")]) > 1e-3
assert (grads[table][WORDS.index("end")] == 0).all()  # only a label: it was never read

# %% [markdown]
# The answer looked at `3`, `+` and `4`, and sends its gradient back to them through attention. The
# question is *read*, and how to read it is learned. It is not *written*. That is all the mask does.
#
# ## 7 Numbers that nobody can guess
#
# Why not write it too? Code-Qwen learns from every token. The report says of exam questions that
# their form is easy to predict, and that their numbers "could be random" (5.1). Say a number is 1
# to 6, each as likely. The best a model can do is p = 1/6 for each, at a price of ln 6. Then its
# gradient is zero on average, and in no single case:
#
# $$\mathrm{E}\,(p - \text{onehot}) = 0 \qquad
# \mathrm{E}\,\lVert p - \text{onehot} \rVert^2 = \sum_v p_v (1 - p_v) = \frac56$$

# %%
one_each = np.arange(6)  # a question for each number
loss, cache = cross_entropy_forward(np.zeros((6, 6)), one_each)  # as good as can be
dz = 6 * cross_entropy_backward(1.0, cache)  # of each token alone
print(dz)
print(f"loss {loss:.3f} = ln 6; mean of dz {np.abs(dz.mean(axis=0)).max():.0e}; lengths", end=" ")
print(np.linalg.norm(dz, axis=1))
assert np.isclose(loss, np.log(6))
assert np.allclose(dz.mean(axis=0), 0, atol=1e-15)
assert np.allclose(np.linalg.norm(dz, axis=1) ** 2, 5 / 6)

# %% [markdown]
# An answer that has been learned has p near 1 and sends back next to nothing. A number of the
# question sends 0.91, now in this direction, now in that, for as long as training lasts. In a large
# batch most of it cancels. What is left moves the weights and teaches nothing.
#
# ## 8 One thing broken: divided by all places
#
# Chats are padded to one length. Somebody takes the mean over all B · T places, and not over the n
# that count. Four chats, laid out for 128, 256 and 1,024 tokens:

# %%
print("length   labels   counts   right mean   over all places")
for T in (128, 256, 1024):
    batch = pad_chats(chats[:4], text.end, T).batch
    surprise = surprise_of(base, batch)
    right_mean = surprise[batch.loss_mask].mean()
    wrong_mean = (surprise * batch.loss_mask).mean()
    n = count_tokens(batch)
    print(f"{T:6} {batch.labels.size:8} {n:8} {right_mean:12.4f} {wrong_mean:17.4f}")
    by_package = loss_and_grads(base, text.config, [batch]).loss
    assert np.isclose(right_mean, by_package, rtol=1e-5)
    assert np.isclose(wrong_mean, right_mean * n / batch.labels.size, rtol=1e-5)

# %% [markdown]
# The right mean does not know how long the rows are. The wrong one falls with every empty place,
# and its log begins with a loss that looks as if the model had learned maths long ago. So check the
# first loss of a run: a base that has never seen a chat should be surprised.
#
# The gradient shrinks by the same factor. What does AdamW make of that? It divides by the size of
# the gradient, so nearly nothing changes, and the run trains on. But clipping at 1 no longer acts,
# and a batch of short answers in long rows counts less than others. No error anywhere.

# %%
w, g = np.ones((2, 3)), np.random.default_rng(0).normal(size=(2, 3))
stepped = []
for factor in (1, 100 / (4 * 1024)):
    params = {"w": w.copy()}
    adamw_step(params, {"w": factor * g}, adamw_init(params), lr=0.1)
    stepped.append(params["w"])
    print(f"gradient of length {np.linalg.norm(factor * g):.3f} moves w to", params["w"][0])
assert np.allclose(*stepped, atol=1e-6)

# %% [markdown]
# ## 9 Dropout
#
# Math-Qwen is tuned with the settings of SFT, and these have dropout 0.1 (3.1.2): in training, a
# tenth of the numbers on three ways are set to zero, on the embeddings and on what each attention
# and each SwiGLU adds. The rest is made larger:
#
# $$y_i = \frac{x_i\,m_i}{1 - \text{rate}} \qquad m_i = 0 \text{ with probability rate, else } 1$$

# %%
x = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
drawn = np.random.default_rng(10).random(x.shape, dtype=np.float32)
m = drawn >= 0.4
print("drawn ", drawn[0], "\nm     ", m[0].astype(int))
print("x m   ", (x * m)[0], "\ny     ", (x * m / 0.6)[0])
y, cache = dropout_forward(x, 0.4, np.random.default_rng(10))
assert np.allclose(y, x * m / 0.6)
assert (dropout_forward(x, 0.0)[0] == x).all()  # off: nothing happens, and nothing is scaled

# %% [markdown]
# **Why 1 / (1 - rate).** A sum downstream gets used to the size of its inputs. In training a share
# of them is missing, in use none. Three numbers have eight masks; here is the mean over all of
# them, each with its probability:

# %%
x, rate = np.array([1.0, -2.0, 0.5]), 0.1
mean = square = 0
for mask in itertools.product((0, 1), repeat=3):
    probability = np.prod([1 - rate if kept else rate for kept in mask])
    mean = mean + probability * x * mask / (1 - rate)
    square = square + probability * (x * mask / (1 - rate)) ** 2
print("x                    ", x, "\nmean of y            ", mean)
print("without 1 / (1 - rate)", mean * (1 - rate))
print("mean of y^2 over x^2 ", square / x**2)
assert np.allclose(mean, x, rtol=1e-14)
assert np.allclose(square, x**2 / (1 - rate))

# %% [markdown]
# The mean stays, exactly, and the square grows by 1 / (1 - rate): dropout adds noise, and that is
# what it is for. Without the factor, the model would meet numbers a ninth larger in use than in
# training.
#
# **Backward.** The gradient goes the way the number went, $dx_i = dy_i\,m_i / (1 - \text{rate})$,
# with the *same* mask. Of the five numbers above, two get nothing:

# %%
dy = np.array([[0.3, 0.6, 0.9, 1.2, 1.5]])
print("dy    ", dy[0], "\ndx    ", (dy * m / 0.6)[0])
assert np.allclose(dropout_backward(dy, cache), dy * m / 0.6)

# %% [markdown]
# A mask that is drawn anew has the right mean too, and is wrong:


# %%
def masked(x):
    """Return dropout with the same mask in each call, so that differences make sense."""
    return dropout_forward(x, 0.4, np.random.default_rng(4))


def fresh_mask(dy, cache):
    """Return dx with a mask that is drawn anew: wrong."""
    return dy * dropout_forward(np.ones_like(dy), 0.4, np.random.default_rng(5))[0]


# %%
x = np.random.default_rng(0).normal(size=(3, 5))
right_way, wrong_way = (gradient_errors(masked, f, x)[0] for f in (dropout_backward, fresh_mask))
print(f"same mask: error {right_way.error:.0e};  fresh mask: error {wrong_way.error:.2f},", end=" ")
print(f"{wrong_way.ours:.2f} for {wrong_way.numerical:.2f} at {wrong_way.place}")
assert right_way.error < 1e-9
assert wrong_way.error > 0.1

# %% [markdown]
# **Off in evaluation.** The same chats five times, in training and not:

# %%
batch = pad_chats(chats[:16], text.end).batch
noisy = replace(text.config, dropout=0.1)
told = []
for training in (True, False):
    for seed in range(5):
        logits, _ = language_model_forward(
            base, noisy, batch.input_ids, attention_mask=batch.real, training=training,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        told.append(float(cross_entropy_forward(logits, batch.labels, batch.loss_mask)[0]))
print("training  ", np.array(told[:5]), "\nevaluation", np.array(told[5:]))
assert len(set(told[:5])) == 5
assert len(set(told[5:])) == 1

# %% [markdown]
# A validation loss that differs from look to look on the same data has its dropout on.
#
# ## 10 Answers, or everything
#
# The same chats in the same order, from the same base. Once the answers count, once every token
# does. Both are looked at on held-out numbers, by the loss of the right answers. (Without dropout:
# in 240 steps nothing is learned by heart.)

# %%
everything = [chat_of(text, p.question, p.answer, everything=True) for p in problems]
unseen = [chat_of(text, p.question, p.answer) for p in tests]
tuning = SftSettings(
    steps=240, batch_size=16, context_length=1024, peak_lr=6e-3, warmup_steps=5, dropout=0.0,
    eval_every=20, checkpoint_every=240,
)  # fmt: skip
options = {"validation_chats": unseen, "pad_id": text.end, "progress": False, "plot": False}

# %%
tuned = {
    name: sft(text.config, base, its, folder / name, tuning, **options)
    for name, its in (("answers", chats), ("everything", everything))
}

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
ends = {}
for name in tuned:
    steps = Metrics.read(folder / name)
    for ax, key in zip(axes, ("loss", "validation_loss"), strict=True):
        its = [(row["step"], row[key]) for row in steps if key in row]
        ax.plot(*zip(*its, strict=True), label=f"trained on {name}")
        ax.set(xlabel="step", ylabel="nats a token", ylim=(0, 2))
    ends[name] = its[-1][1]
axes[0].set_title("what each is trained on")
axes[1].set_title("right answers to held-out numbers")
axes[0].legend()
plt.show()
assert ends["answers"] < ends["everything"]

# %%
print(len(tests), "questions with held-out numbers, the first:", tests[0].question)
for name, params in {"base": base, **tuned}.items():
    written = answers(params, text, [p.question for p in tests], 36)
    votes = [right_result(a) == p.result for a, p in zip(written, tests, strict=True)]
    print(f"{name:10} {np.mean(votes):4.0%} right; it says {written[0]!r}")

# %% [markdown]
# One run is an anecdote. `minqwen lab math` has three seeds, six kinds of questions and two
# languages, and found 43 % right against 24 %, with a wide spread (`docs/recipes.md`).
#
# Where does the loss come from? One held-out chat, token by token, as both models read it:

# %%
one = pad_chats(unseen[:1], text.end).batch
words = [shown(text.tokenizer.decode([i])) for i in one.labels[0]]
fig, axes = plt.subplots(2, 1, figsize=(12, 4.4), sharex=True, layout="constrained")
for ax, name in zip(axes, ("everything", "answers"), strict=True):
    price = surprise_of(tuned[name], one)[0]
    colors = np.where(one.loss_mask[0], "tab:green", "tab:red")
    ax.bar(range(len(price)), price, color=colors)
    ax.axhline(np.log(6), color="0.5", ls=":", label="ln 6")
    ax.set(ylabel="nats", ylim=(0, 3), title=f"trained on {name}")
axes[0].legend()
axes[1].set_xticks(range(len(words)), words, rotation=70, ha="right", fontsize=8)
plt.show()

# %% [markdown]
# Red is given to the model, green is the answer. Above, the form of the question costs nothing any
# more. Who, how many and what stay dear, the numbers about ln 6: nobody can guess them. Below, the
# red bars leave the picture, as nobody asked for them. The green ones show what is hard here, to
# copy the right number out of the question. In our run the model above still guesses the 3 and the
# 4, at ln 6 each. The one below has found out how to look them up.
#
# How much of a step is about the red bars? The gradient of the mean over everything is a sum of two
# parts, one from the question and one from the answer:


# %%
def part_of_gradient(its, picked):
    """Return what the picked labels give to the gradient of the mean over all, as one vector."""
    batch = pad_chats(its, text.end).batch
    mask = batch.real & (batch.loss_mask == picked)
    found = loss_and_grads(tuned["everything"], text.config, [batch._replace(loss_mask=mask)])
    share = found.tokens / batch.real.sum()
    return share * np.concatenate([grad.ravel() for grad in found.grads.values()])


# %%
print("batch   question   answer   cosine of the two")
for i in range(4):
    its = chats[16 * i : 16 * i + 16]
    red, green = (part_of_gradient(its, picked) for picked in (False, True))
    length, other = np.linalg.norm(red), np.linalg.norm(green)
    cosine = red @ green / (length * other)
    print(f"{i:5} {length:10.2f} {other:8.2f} {cosine:13.2f}")
    assert length > 0.1 * other
    assert abs(cosine) < 0.6

# %% [markdown]
# The question's part is of the size of the answer's, and nearly at a right angle to it. So a good
# part of each step is spent on something that nobody wants. This is what the mask saves.
#
# ## 11 Where the data comes from
#
# **Instructions in the base.** Qwen mixes instructions into pretraining (2.1), and so does Qwen2.
# Then a task of a test may stand in the text, word for word. The report drops instructions that
# have 13 tokens in a row with a test in common. By hand, with 3:

# %%
test, document = "the opposite of cold is warm", "say the opposite of cold"
common = ngrams(test, 3) & ngrams(document, 3)
print("in both:", sorted(common))
kept, dropped = without_overlap([document, "the cold is not warm"], [test], 3)
print("kept:", kept)
assert dropped == 1

# %%
rng = np.random.default_rng(6)
asked = [item.document for family in SEEN for item in make_items(family, 40, rng)]
drawn = []
for family in rng.choice(SEEN, 400):
    drawn.append("\n".join(item.document for item in make_items(str(family), 3, rng)))
print(drawn[0], "\n")
for n in (7, 10, 13, 16):
    kept, dropped = without_overlap(drawn, asked, n)
    print(f"{n:2} tokens in a row: {dropped / len(drawn):4.0%} dropped")

# %% [markdown]
# Ours are made from templates, so they meet often. Below 13 the filter would throw away nearly all.
#
# **Answers that the model wrote.** A question whose result is known needs no teacher. Qwen2 samples
# several answers, and keeps those that end in the right result and look reasonable to the model:
# *rejection sampling*. They become chats to train on. For code, programs are run against tests. We
# sample four answers to each of 60 questions:

# %%
END = text.tokenizer.special_tokens["<|im_end|>"]
given = {"template": TEMPLATE, "generation_prompt": True}
turns = [[{"role": "user", "content": p.question}] for p in problems[:60]]
prompts = [encode_chat(text.tokenizer, turn, **given).ids for turn in turns]
rolled = rollout(
    tuned["answers"], text.config, prompts, responses_per_query=4, max_new_tokens=36,
    eos_token_ids=[END], pad_id=text.end, rng=np.random.default_rng(0),
)  # fmt: skip
said = [text.tokenizer.decode([i for i in row if i != END]) for row in as_lists(rolled)[1]]
asked = [p for p in problems[:60] for _ in range(4)]

# %%
good = [right_result(s) == p.result for s, p in zip(said, asked, strict=True)]
exact = [s == p.answer for s, p in zip(said, asked, strict=True)]
print(f"{np.mean(good):.0%} of {len(said)} answers end right, {np.mean(exact):.0%} by right steps")
lucky = [i for i in range(len(said)) if good[i] and not exact[i]]
for i in lucky[:3]:
    print(f"    {asked[i].question}\n        {said[i]}")
of_choice = np.mean([asked[i].kind == "choice" for i in lucky])
print(f"of the {len(lucky)} lucky ones {of_choice:.0%} are choice questions")
pairs = np.reshape(good, (60, 4)).sum(axis=1)
print("questions with a right and a wrong answer:", int(((pairs > 0) & (pairs < 4)).sum()))
assert np.sum(exact) < np.sum(good)

# %% [markdown]
# Look at the steps of the lucky ones. Of three choices one is right by chance, and a judge who sees
# the last letter only would teach the model such steps. So ask for numbers rather than letters, and
# look at the way too. A right and a wrong answer to the same question make a pair, which is what
# Qwen2 trains on with DPO (notebook 20).
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. What does the log say?** A batch holds 8 chats, each with 90 tokens of question and
# 10 of answer, padded to 1,024. Every token of an answer costs 2 nats. What does the log print, if
# somebody takes the mean over all places?

# %%
answer_1 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# The sum over the batch is 8 · 10 · 2 nats, the places are 8 · 1,024. The right mean is 2.
#
# ```python
# answer_1 = 8 * 10 * 2 / (8 * 1024)
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    cost = np.zeros((8, 1024))
    cost[:, 90:100] = 2
    assert np.isclose(answer_1, cost.mean()), "no; add up what the answers cost, then count places"
    print(f"over all places {cost.mean():.4f}, over the answers {cost[cost > 0].mean()}")
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. The loss that stays.** A question has 20 tokens that follow from the ones before,
# and 3 numbers, each 1 to 6 with the same chance. What breaks if one waits for the loss on
# everything to reach 0? What is the lowest mean over these 23 tokens that any model can reach, in
# nats?

# %%
answer_2 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# The 20 tokens can cost 0. Each number costs ln 6, whatever the model does. One would wait forever.
#
# ```python
# answer_2 = 3 * np.log(6) / 23
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    best = np.full((23, 10), -60.0)
    best[:20, 9] = 0  # sure of the next word
    best[20:, 1:7] = 0  # 1 to 6, each as likely
    next_words = np.array([9] * 20 + [2, 6, 3])
    lowest, _ = cross_entropy_forward(best, next_words)
    assert np.isclose(answer_2, lowest), "no; what does the best model say where it cannot know?"
    print(f"lowest loss {lowest:.4f}")
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. Half of it.** Somebody forgets 1 / (1 - rate) and trains with rate 0.5. In use
# nothing is dropped. By which factor are the sums downstream larger than the model is used to?

# %%
answer_3 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# In training half of the numbers are there, so a sum is on average half as large as in use.
#
# ```python
# answer_3 = 2
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    x = np.random.default_rng(0).uniform(1, 2, 100_000)
    kept_as_is = dropout_forward(x, 0.5, np.random.default_rng(1))[0] * 0.5  # without the factor
    ratio = x.sum() / kept_as_is.sum()
    print(f"in use over in training: {ratio:.3f}")
    assert abs(answer_3 - ratio) < 0.02, "no; how many numbers are missing in training?"
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** Read sections 4 and 5 of the Qwen report, then `minqwen/lab/recipe_code.py` and
# `recipe_math.py`. `minqwen lab code`, `minqwen lab math` and `minqwen lab instructions` do what
# this page did with larger models and three seeds. What they found, and what they could not decide,
# is in `docs/recipes.md`.

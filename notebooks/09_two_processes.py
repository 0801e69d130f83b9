# %% [markdown]
# # Two processes, one batch
#
# *Made from `09_two_processes.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# A batch of 4 million tokens (Qwen report, 2.4) is too much for one machine. So many machines have
# the same model, each takes a share of the batch, and they add up their gradients. Then all make
# the same update. That is data parallelism, and the whole of it is one sum, done right.
#
# ## What you will do
#
# - Add two shares of unequal size, and see what the mean of means gets wrong.
# - Lay gradients end to end, cut them into buckets, and count messages.
# - Send numbers around a ring of four, step by step.
# - Train with two ranks in two threads, and compare with one, digit by digit.
# - Start real processes with `mpirun`, where it is installed.
# - Work out what 1,000 processes would gain, and what they would wait for.
#
# ## What you will learn
#
# - Why each backward pass starts from its tokens over all tokens, and nothing is divided
#   afterwards.
# - Why threads can give the same bits, and processes only nearly.
# - What grows with the number of processes, and what does not.
#
# ## What you need
#
# Notebook 02, NumPy with matplotlib. For real processes an MPI library and mpi4py, but you can do
# without: `pip install -e ".[cluster,notebooks]" mpich`. 20 minutes; it computes for some seconds.
# Beside this page, open `minqwen/training/data_parallel.py`.

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
import copy
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each process or thread has a core of its own

import matplotlib.pyplot as plt
import numpy as np

# %%
rng = np.random.default_rng(0)
folder = Path(tempfile.mkdtemp())
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %%
from minqwen.check.gradients import numerical_gradient
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
from minqwen.training.accumulate import Batch, count_tokens, loss_and_grads, sum_pieces
from minqwen.training.data_parallel import (
    BUCKET,
    buckets,
    data_parallel_loss_and_grads,
    own_pieces,
)
from minqwen.training.in_order import in_order
from minqwen.training.metrics import Metrics
from minqwen.training.pretrain import pretrain
from minqwen.training.settings import PretrainSettings

# %% [markdown]
# ## 1 The mean over tokens
#
# The loss is *one* mean, over all tokens of the batch that count:
#
# $$L = \frac{1}{n} \sum_t \text{nll}_t = \sum_r \frac{n_r}{n} L_r$$
#
# Rank 0 has three tokens, rank 1 has one. (Prompts and padding do not count, so shares are hardly
# ever equal.)

# %%
nll = [np.array([1.0, 2.0, 3.0]), np.array([6.0])]
together = np.concatenate(nll).mean()
shares = [len(own) / 4 for own in nll]
print("one mean over all tokens:", together)
print("shares", shares, "->", sum(s * own.mean() for s, own in zip(shares, nll, strict=True)))
print("mean of the ranks' means:", np.mean([own.mean() for own in nll]))
assert sum(s * own.mean() for s, own in zip(shares, nll, strict=True)) == together == 3

# %% [markdown]
# The mean of means lets the token of rank 1 weigh three times as much as each of the others.
#
# ## 2 The same with a model
#
# Two ranks, two pieces of a batch, 30 and 9 tokens that count. Gradients are sums too, so each
# backward pass starts from $n_r / n$ instead of 1, and what comes out only has to be added:

# %%
config = QwenConfig(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
params = init_params(config, rng, dtype="float64")
ids = rng.integers(0, 40, (6, 11))
mask = np.arange(10) < np.array([[10], [10], [10], [2], [3], [4]])
pieces = [Batch(ids[i : i + 3, :-1], ids[i : i + 3, 1:], mask[i : i + 3]) for i in (0, 3)]
print("tokens that count:", [count_tokens(piece) for piece in pieces])


# %%
def farthest(one, other):
    """Return the largest difference of two gradients, over the size of the largest number."""
    size = max(np.abs(g).max() for g in one.values())
    return max(np.abs(g - other[key]).max() for key, g in one.items()) / size


whole = loss_and_grads(params, config, [Batch(ids[:, :-1], ids[:, 1:], mask)])
n = sum(map(count_tokens, pieces))
ranks = [sum_pieces(params, config, [piece], n) for piece in pieces]
added = {key: ranks[0].grads[key] + ranks[1].grads[key] for key in params}
print(f"loss {whole.loss:.15f} and {float(ranks[0].loss + ranks[1].loss):.15f}")
print(f"gradients apart: {farthest(whole.grads, added):.0e}")
assert farthest(whole.grads, added) < 1e-13

# %% [markdown]
# **Something broken on purpose.** Each rank takes its own mean, all are added and divided by two.
# It trains, it looks right, and it is a loss of its own:

# %%
own = [loss_and_grads(params, config, [piece]) for piece in pieces]
means = {key: (own[0].grads[key] + own[1].grads[key]) / 2 for key in params}
print(f"loss {whole.loss:.6f}, mean of means {(own[0].loss + own[1].loss) / 2:.6f}")
print(f"gradients apart: {farthest(whole.grads, means):.0%}")
assert farthest(whole.grads, means) > 0.05

# %% [markdown]
# The proof, for four of the numbers, by finite differences of the *one* mean: they know nothing of
# ranks.

# %%
key = "model.norm.weight"
some = params[key][:4]  # a view: who moves it moves the model
one_batch = [Batch(ids[:, :-1], ids[:, 1:], mask)]
measured = numerical_gradient(lambda: float(loss_and_grads(params, config, one_batch).loss), some)
print("measured", measured, "\nadded up", added[key][:4], "\nmean of means", means[key][:4])
assert np.abs(measured - added[key][:4]).max() < 1e-8
assert np.abs(measured - means[key][:4]).max() > 1e-4

# %% [markdown]
# The same goes for clipping: the norm is one of the *sum*. A rank that clips its own part first
# turns the direction of the whole.
#
# ## 3 Buckets
#
# A model has hundreds of tensors, many of them tiny, and every message costs a time of its own. So
# the tensors are laid end to end, in the order of their names, and the line is cut into equal
# buckets. One bucket is one message:

# %%
line = {"a": np.arange(5.0), "b": np.arange(5.0, 7.0), "c": np.arange(7.0, 8.0)}
for bucket in buckets((line[name] for name in sorted(line)), size=3 * 8):
    print([part.tolist() for part in bucket])
sizes = [w.size for w in params.values()]
messages = len(list(buckets((params[name] for name in sorted(params)), size=40_000)))
print(f"our model: {len(sizes)} tensors, {messages} buckets of 40 kB; {BUCKET >> 20} MB in earnest")
assert messages == -(-sum(sizes) * 8 // 40_000)

# %%
fig, ax = plt.subplots(figsize=(9, 2.2), layout="constrained")
edge = 0
for i, name in enumerate(sorted(params)):
    ax.barh(0, params[name].size, left=edge, color=f"C{i % 10}", edgecolor="white", lw=0.5)
    edge += params[name].size
for cut in range(0, edge + 1, 5000):
    ax.axvline(cut, color="black", lw=1.2)
ax.set(xlabel="numbers, tensor after tensor; black: the ends of buckets", yticks=[], xlim=(0, edge))
plt.show()

# %% [markdown]
# The parts of a bucket are *views*: the sum is written back into the gradients themselves. And the
# order must be one for all. If one rank walks its dictionary in another order, norms are added to
# biases, and nobody complains, since the lengths are the same.
#
# ## 4 Around a ring
#
# How do R processes add up a long vector, without one of them getting R vectors? Each cuts its
# vector into R parts, and sends one part to its neighbour in each step. After R - 1 steps each has
# *one* part complete; after R - 1 more, all have all.


# %%
def ring_sum(vectors):
    """Yield the parts that each rank has, after each step of a sum around a ring."""
    R = len(vectors)
    parts = [np.array_split(v.copy(), R) for v in vectors]
    for step in range(2 * (R - 1)):
        sent = [parts[r][(r - step) % R].copy() for r in range(R)]
        for r in range(R):
            k = (r - 1 - step) % R  # what the neighbour before has sent
            parts[r][k] = parts[r][k] + sent[r - 1] if step < R - 1 else sent[r - 1]
        yield [np.concatenate(p) for p in parts]


# %%
vectors = [np.full(4, 10.0**r) for r in range(4)]  # 1, 10, 100, 1000: one can see who is in it
for step, state in enumerate(ring_sum(vectors), start=1):
    print(f"step {step}:", "  ".join(str(v.astype(int)) for v in state))
assert all((v == 1111).all() for v in state)

# %% [markdown]
# Each process sends $2 (R - 1) / R$ times its vector. For two processes that is once, for a
# thousand nearly twice. *The bytes hardly grow with the number of processes.* What grows is the
# number of steps, each with its latency.
#
# ## 5 Threads, with the same bits
#
# Inside a process, two threads can compute two pieces at once: NumPy lets go of the interpreter's
# lock while it computes. Who is ready first differs from run to run. If sums were made in that
# order, the last digits would differ too:

# %%
terms = np.array([1e8, 1.0, -1e8, 1.0], np.float32)
print("one order:", sum(terms), " another one:", sum(terms[[0, 2, 1, 3]]))
assert sum(terms) != sum(terms[[0, 2, 1, 3]])
print(list(in_order(lambda x: x * x, [3, 1, 2], threads=3)), "in the order of the items, always")

# %% [markdown]
# So results are handed out in the order of the pieces, and added in it. Not one bit differs:

# %%
narrow = {key: w.astype("float32") for key, w in params.items()}
four = [Batch(ids[i : i + 1, :-1], ids[i : i + 1, 1:], mask[i : i + 1]) for i in range(4)]
one = loss_and_grads(narrow, config, four)
two = loss_and_grads(narrow, config, four, threads=2)
same = all((one.grads[key] == two.grads[key]).all() for key in narrow)
print("loss", one.loss, two.loss, "  every bit of the gradients the same:", same)
assert same
assert one.loss == two.loss

# %% [markdown]
# ## 6 Two ranks
#
# What training needs of MPI is small: my number, how many we are, and a sum that all take part in.
# For this page the ranks are two threads, with a table between them:


# %%
class RankInThread:
    """One of several ranks that lay their numbers on one table."""

    def __init__(self, rank, table, barrier):
        self.rank, self.size, self.table, self.barrier_ = rank, len(table), table, barrier

    def exchange(self, value):
        self.table[self.rank] = copy.deepcopy(value)  # as if sent: nothing is shared
        self.barrier_.wait()  # all have laid theirs
        found = list(self.table)
        self.barrier_.wait()  # all have looked
        return found


# %%
class Rank(RankInThread):
    """The communicator that data_parallel.py asks for."""

    def allreduce(self, x, how="sum"):
        return (np.sum if how == "sum" else np.max)(self.exchange(x), axis=0)

    def broadcast(self, value):
        return copy.deepcopy(self.exchange(value)[0])

    def barrier(self):
        self.barrier_.wait()

    def abort(self):
        self.barrier_.abort()


# %%
def in_ranks(size, work):
    """Call work(communicator) in so many ranks at once; return what they return."""
    table, barrier, results = [None] * size, threading.Barrier(size, timeout=60), [None] * size

    def sit_down(rank):
        results[rank] = work(Rank(rank, table, barrier))

    threads = [threading.Thread(target=sit_down, args=(rank,)) for rank in range(size)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return results


# %%
def step_of_a_rank(communicator):
    """Take my piece, and return the gradient of all."""
    mine = [pieces[i] for i in own_pieces(len(pieces), communicator.rank, communicator.size)]
    return data_parallel_loss_and_grads(params, config, mine, communicator)


found = in_ranks(2, step_of_a_rank)
print(f"one process {whole.loss:.15f}\nrank 0      {found[0].loss:.15f}")
print(f"gradients apart: {farthest(whole.grads, found[0].grads):.0e}")
assert farthest(whole.grads, found[1].grads) < 1e-13
assert farthest(found[0].grads, found[1].grads) == 0  # both have the sum, bit for bit

# %% [markdown]
# And a whole run. Each rank makes the same updates from the same sums, so the parameters never have
# to be sent again. The loss of both, in float64:

# %%
start, stride = rng.integers(0, 40, (60, 1)), rng.integers(1, 8, (60, 1))
rows = ((start + stride * np.arange(17)) % 40).astype(np.int32)
settings = PretrainSettings(
    steps=30, batch_size=6, accumulate=3, context_length=16, peak_lr=3e-3, warmup_steps=3,
    dtype="float64", checkpoint_every=30, eval_every=0,
)  # fmt: skip
quiet = {"progress": False, "plot": False}
pretrain(config, rows, folder / "one", settings, **quiet)
in_ranks(2, lambda c: pretrain(config, rows, folder / "two", settings, communicator=c, **quiet))

# %%
losses = [np.array([r["loss"] for r in Metrics.read(folder / name)]) for name in ("one", "two")]
apart = np.abs(losses[1] / losses[0] - 1)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
left.plot(losses[0], label="one process", lw=3, alpha=0.4)
left.plot(losses[1], "--", label="two ranks")
left.set(xlabel="step", ylabel="loss (nats)")
left.legend()
right.semilogy(np.maximum(apart, 1e-17), ".")
right.set(xlabel="step", ylabel="relative difference", ylim=(3e-18, 1e-11))
plt.show()
assert apart.max() < 1e-12

# %% [markdown]
# Not bit for bit: two processes cut this batch into four pieces and not three, and add in another
# order. That is 1e-16 in float64, and 1e-7 in float32.
#
# ## 7 Real processes
#
# The command is the one of a single process, with `mpirun` before it. On this machine:

# %%
command = [
    "mpirun", "-n", "2", sys.executable, "-m", "minqwen", "pretrain", "--builtin", "stories",
    "--out", str(folder / "mpi"), "--size", "tiny", "--steps", "5", "--context", "32", "--quiet",
]  # fmt: skip
print("mpirun -n 2 minqwen", *command[6:])
here = shutil.which("mpirun") and importlib.util.find_spec("mpi4py")
if here:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    print(done.stdout or done.stderr)
    print([round(r["loss"], 4) for r in Metrics.read(folder / "mpi") if "loss" in r])
else:
    print("mpirun or mpi4py is missing here; pip install 'minqwen[cluster]' mpich")

# %% [markdown]
# The first process alone reads the text and writes the folder. When one process is killed, mpirun
# ends the others, and the last checkpoint stands. The same command then goes on, also with another
# number of processes.
#
# ## 8 A thousand of them
#
# Time of a step with R processes, n tokens and P parameters:
#
#     compute   n / R * c                            c: seconds for a token, forward and backward
#     send      2 (R - 1) / R * bytes / bandwidth    around the ring
#     wait      buckets * 2 (R - 1) * latency
#     copy      bytes * 0.62 s per GB                into buckets and back
#
# Measured on a core of an AMD EPYC: c = 8.16 s / 256 for Qwen2-0.5B's shape, and the copy. Assumed:
# a network of 3.1 GB/s, 20 µs a message (`docs/data_parallel.md`).


# %%
def step_seconds(R, n=2**22, P=494_032_768, c=8.16 / 256, bandwidth=3.1e9, latency=20e-6):
    """Return compute, send, wait and copy in seconds."""
    size = 4 * P
    count = -(-size // BUCKET)
    send, wait = 2 * (R - 1) / R * size / bandwidth, count * 2 * (R - 1) * latency
    return np.array([n / R * c, send, wait, size * 0.62e-9])


print("processes   compute     send    wait    copy   share of compute   and if 100 times as fast")
for R in (2, 10, 100, 1000):
    t, fast = step_seconds(R), step_seconds(R, c=8.16 / 256 / 100)
    print(f"{R:9,} {t[0]:8,.0f} s" + "".join(f"{x:6.1f} s" for x in t[1:])
          + f"{t[0] / t.sum():15.1%} {fast[0] / fast.sum():20.1%}")  # fmt: skip
assert round(step_seconds(1000)[0]) == 134

# %%
R = np.unique(np.logspace(0.31, 4, 60).astype(int))
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
for ax, c, title in ((left, 8.16 / 256, "a core each"), (right, 8.16 / 25600, "100 times as fast")):
    times = np.array([step_seconds(r, c=c) for r in R])
    ax.stackplot(R, (times / times.sum(axis=1, keepdims=True)).T,
                 labels=("compute", "send", "wait", "copy"))  # fmt: skip
    ax.set(xscale="log", xlabel="processes", ylabel="share of the step", ylim=(0, 1), title=title)
left.legend(loc="lower left")
plt.show()

# %% [markdown]
# What counts is tokens for each process. Slow cores are busy 96 % of the time even with a thousand;
# fast processors would wait. So others sum while the backward pass goes on, send 16 bits instead of
# 32, and use trees instead of one ring.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. Shares.** Three ranks count 300, 100 and 0 tokens, with the mean losses 2.0, 4.0 and
# nothing. What is the loss of the batch?

# %%
answer_1 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# 0.75 · 2 + 0.25 · 4. The third rank has no gradient, but it must take part in every sum: the
# others would wait for it for ever.
#
# ```python
# answer_1 = 2.5
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    every = np.concatenate([np.full(300, 2.0), np.full(100, 4.0)])
    assert answer_1 == every.mean(), "no; one mean over 400 tokens"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. Bytes.** Eight processes, a million parameters in float32. How many bytes does each
# send in a step?

# %%
answer_2 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# 2 · 7 / 8 · 4,000,000.
#
# ```python
# answer_2 = 7_000_000
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    parts = np.array_split(np.zeros(1_000_000, np.float32), 8)
    sent = sum(parts[(0 - step) % 8].nbytes for step in range(14))  # by rank 0, as in section 4
    assert answer_2 == sent, "no; in each of 14 steps one part of eight"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. A smaller batch.** On slow cores (c as above), 1,000 processes with 2^22 tokens are
# busy 96 % of the time. To the nearest power of two, how many tokens are enough for a half?

# %%
answer_3 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# Send, wait and copy take 5.5 s whatever the batch is. Computing takes as long with 5.5 · 1000 / c
# = 173,000 tokens.
#
# ```python
# answer_3 = 2**17
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    busy = {k: (t := step_seconds(1000, n=2**k))[0] / t.sum() for k in range(14, 23)}
    print({f"2^{k}": f"{share:.0%}" for k, share in busy.items()})
    nearest = min(busy, key=lambda k: abs(busy[k] - 0.5))
    assert answer_3 == 2**nearest, "no; what does not depend on the batch?"
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** Read `minqwen/training/data_parallel.py` and `together.py`, which says what
# happens when a process dies, then `docs/data_parallel.md`. Notebook 08 has the numbers of 16 bits.

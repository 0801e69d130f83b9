# %% [markdown]
# # The long-context laboratory
#
# *Made from `14_long_context_laboratory.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# A model that was trained on short texts reads a long one. Table 3 of the Qwen report shows what
# happens to its perplexity, and what three techniques do about it, without any further training.
# Here you train a model of your own and make that table yourself.
#
# ## What you will do
#
# - Train a very small model at a very short length, and read texts 16 times as long with it.
# - See where inside a long text it goes wrong, and which technique repairs what.
# - Compare two rows so that a difference of one percent can be trusted. Then break one thing.
#
# ## What you will learn
#
# - How perplexity is measured, and why every length must score the same tokens.
# - Why a difference may be sure although both numbers are not.
# - Which of the report's claims hold for a small model, and which do not.
#
# ## What you need
#
# Notebooks 10 to 12, for what the techniques are. 15 minutes, of which it computes less than one.
# Beside this page, open `minqwen/lab/techniques.py`: every row of the table is a line there.

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
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread only waits

import matplotlib.pyplot as plt
import numpy as np

plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %% [markdown]
# The laboratory is in `minqwen/lab/`, a file for each step.

# %%
from minqwen.lab.findings import REPORT, findings
from minqwen.lab.long_context import long_context_lab, prepare_text
from minqwen.lab.measure import difference, measure, token_losses
from minqwen.lab.numbers import Numbers
from minqwen.lab.results import Results
from minqwen.lab.settings import MULTIPLES, QUICK, LabSettings
from minqwen.lab.techniques import BY_NAME, techniques
from minqwen.model.checkpoint import load_checkpoint
from minqwen.model.language_model import language_model_forward

# %% [markdown]
# ## 1 The question
#
# Qwen-7B was trained on texts of 2048 tokens. This is Table 3 of its report, perplexity on arXiv
# papers; each row keeps what the rows above it switched on:

# %%
print("length in trained lengths     0.5      1       2       4        8")
for name, row in REPORT.items():
    print(f"{BY_NAME[name].label:24}", *(f"{value:8.2f}" for value in row))

# %% [markdown]
# At twice the trained length the plain model is ten times as perplexed. With everything on, it
# reads 8192 tokens *better* than 2048: the longer context helps it, as it should.
#
# ## 2 A laboratory of your own
#
# `minqwen lab long-context --out lab` trains a model at 64 tokens, for some minutes, and makes the
# whole table. `--quick` takes seconds, with a toy of a model, and this is what we do here. If you
# have run the long one, put its folder here: the rest of the page reads whichever there is.

# %%
FOLDER = None  # for example "../lab"

if FOLDER is None:
    folder = Path(tempfile.mkdtemp()) / "quick"
    results = long_context_lab(folder, QUICK, progress=False)
else:
    folder, results = Path(FOLDER), Results(Path(FOLDER))

# %% [markdown]
# The folder keeps the trained model and every number. Call it again: nothing is trained, nothing
# measured, because everything that the numbers came from is as it was.

# %%
settings = LabSettings(**results.facts["settings"])
L0 = settings.train_length
numbers = Numbers(results, L0)
print("trained at", L0, "tokens, measured at", settings.lengths)
print("a number depends on:", ", ".join(results.facts["fingerprint"]))
print(sorted(path.name for path in folder.iterdir()))

# %% [markdown]
# ## 3 How perplexity is measured
#
# $$\text{perplexity} = \exp\Big(\frac1n \sum_t
# -\log p(\text{token}_t \mid \text{what stands before it})\Big)$$
#
# A perplexity of 12 means: as unsure as with 12 equally likely tokens. By hand, for a text whose
# four tokens got 1/2, 1/8, 1/4 and 1/4:

# %%
p = np.array([1 / 2, 1 / 8, 1 / 4, 1 / 4])
surprise = -np.log(p)
print("surprise / ln 2:", surprise / math.log(2), " mean", surprise.mean() / math.log(2))
print(f"perplexity {np.exp(surprise.mean()):.3f}; not the mean of 1/p, {(1 / p).mean():.3f}")
assert math.isclose(np.exp(surprise.mean()), 4)

# %% [markdown]
# The model has never seen the files that are measured. Each text has 16 L0 tokens, and is cut into
# pieces of the length in question.

# %%
config, params = load_checkpoint(folder / "run" / "checkpoint")
texts = prepare_text(settings).texts
losses = {T: token_losses(params, config, texts, T) for T in settings.lengths}
for T, loss in losses.items():
    print(f"T = {T:5}  texts, pieces, tokens = {loss.shape}  perplexity {np.exp(loss.mean()):7.2f}")
    assert loss.size == losses[L0].size  # the same tokens at every length
    assert math.isclose(np.exp(loss.mean()), numbers.perplexity("plain", T // L0), rel_tol=1e-4)

# %% [markdown]
# The same line by line, for the first text in pieces of L0: logits, softmax, and the one
# probability that is asked for.

# %%
pieces, asked = (part.reshape(-1, L0) for part in (texts[0, :-1], texts[0, 1:]))  # (16, L0) each
logits, _ = language_model_forward(params, config, pieces)  # (16, L0, V)
powers = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype="float64")
p = powers / powers.sum(axis=-1, keepdims=True)
p_asked = np.take_along_axis(p, asked[:, :, None], axis=-1)[:, :, 0]  # (16, L0)
for name, array in {"pieces": pieces, "logits": logits, "p": p, "p_asked": p_asked}.items():
    print(f"{name:8} {array.shape}")
print(f"its perplexity {np.exp(-np.log(p_asked).mean()):.3f}")
assert np.abs(-np.log(p_asked) - losses[L0][0]).max() < 1e-4

# %% [markdown]
# All lengths score *the same tokens*. Otherwise we would compare easy text with hard text. What
# differs is how much stands before a token. The first L0 tokens of a text see the same at every
# length, so a causal model gives them the same loss:

# %%
first = [loss.reshape(len(texts), -1)[:, :L0] for loss in losses.values()]
apart = max(np.abs(other - first[0]).max() for other in first)
print(f"the first {L0} tokens, all lengths: {apart:.0e} apart")
assert apart < 1e-3

# %% [markdown]
# ## 4 The table
#
# A technique never changes a parameter, so there is no backward pass on this page (what they do to
# a gradient is in notebooks 10 to 12). It only changes fields of the config, and so the rule by
# which the same numbers read:

# %%
for name in ("ntk", "ntk_logn_window", "yarn", "dca"):
    changed = BY_NAME[name].config(config, 4 * L0)
    fields = {k: v for k, v in vars(changed).items() if v != getattr(config, k)}
    print(f"{BY_NAME[name].label:16}", fields)

# %%
print(f"{'perplexity at':32}", *(f"{T:7}" for T in settings.lengths))
for technique in techniques(settings.num_hidden_layers):
    row = [numbers.perplexity(technique.name, k) for k in MULTIPLES]
    print(f"{technique.label:32}", *(f"{value:7.2f}" for value in row))

# %%
fig, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
for name in ("plain", "ntk", "ntk_logn", "ntk_logn_window", "yarn", "dca"):
    row = [numbers.perplexity(name, k) for k in MULTIPLES]
    ax.loglog(MULTIPLES, row, marker="o", label=BY_NAME[name].label)
ax.set_xticks(MULTIPLES, [f"{k} L0" for k in MULTIPLES])
ax.set(xlabel="length of the text", ylabel="perplexity", title="Trained short, read long")
ax.yaxis.set_major_formatter("{x:g}")
ax.yaxis.set_minor_formatter("{x:g}")
ax.legend()
plt.show()

# %% [markdown]
# At L0 all rows are the same, and those of NTK, LogN and windows bit for bit: nothing may act
# there. That is worth a check, because a technique that changes short texts is broken.

# %%
for name in ("ntk", "ntk_logn", "ntk_logn_window"):
    assert numbers.cell(name, 1)["by_text"] == numbers.cell("plain", 1)["by_text"]
print("equal, bit for bit")

# %% [markdown]
# ## 5 Where it goes wrong
#
# The mean over a text hides where. Here is the perplexity at each place of the longest texts.

# %%
fig, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
for name in ("plain", "ntk", "ntk_logn_window", "dca"):
    places = np.exp(numbers.cell(name, 16)["by_position"])
    middle = (np.arange(len(places)) + 0.5) * 16 / len(places)
    ax.semilogy(middle, places, label=BY_NAME[name].label)
ax.axvspan(0, 1, color="tab:green", alpha=0.15, label="trained")
ax.set(xlabel="position, in trained lengths", ylabel="perplexity of the tokens there")
ax.set_title("The plain model fails where the trained length ends")
ax.yaxis.set_major_formatter("{x:g}")
ax.yaxis.set_minor_formatter("{x:g}")
ax.legend()
plt.show()

# %% [markdown]
# Up to L0 the plain curve is the best there is: these positions were trained. Behind it, RoPE turns
# queries and keys by angles that training has never shown. The curves wander, because each place
# has its own tokens; all techniques wander together. That brings us to the errors.
#
# ## 6 Which differences count
#
# Some texts are hard and some are easy, so each perplexity is uncertain. But a hard text is hard
# for all techniques. So we subtract text by text, and only then take the mean:


# %%
def spread(values):
    """Return the standard error of the mean of some values."""
    return np.std(values, ddof=1) / math.sqrt(len(values))


plain, ntk = numbers.cell("plain", 4), numbers.cell("ntk", 4)
alone = math.hypot(spread(plain["by_text"]), spread(ntk["by_text"]))
mean, paired = difference(plain, ntk)
print(f"NTK at 4 L0: {mean:.3f} nats better")
print(f"   if the texts were others for each row: +- {alone:.3f}")
print(f"   text by text:                          +- {paired:.3f}")
assert paired < alone

# %%
fig, ax = plt.subplots(figsize=(5, 4.6), layout="constrained")
ax.scatter(plain["by_text"], ntk["by_text"], s=18)
ends = [min(ntk["by_text"]) - 0.1, max(plain["by_text"]) + 0.1]
ax.plot(ends, ends, color="black", linewidth=0.8, label="no difference")
ax.set(xlabel="plain: loss of a text (nats)", ylabel="+ dynamic NTK: loss of the same text")
ax.set_title("Texts differ much, rows differ alike")
ax.legend()
plt.show()

# %% [markdown]
# This error knows about the texts only. Another seed gives another model: differences of a percent
# may change sign. Trying three seeds is the honest way (`--seed 1`, in another folder).
#
# ## 7 Which layers mind
#
# The report found lower layers more sensitive to length and gave them shorter windows. Here only
# one layer may see more than L0 tokens. The more the perplexity rises, the more that layer minds.

# %%
L = settings.num_hidden_layers
rise = [numbers.perplexity(f"layer_{i}", 16) for i in range(L)]
none = numbers.perplexity("all_layers", 16)
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.barh(range(L), rise, color="tab:orange")
ax.axvline(none, color="black", linestyle="--", label="no layer sees more than L0")
ax.set(yticks=range(L), ylabel="the layer that sees all", xlabel="perplexity at 16 L0")
ax.set(xlim=(0.9 * none, 1.05 * max(rise)))
ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2))
plt.show()

# %% [markdown]
# Note the dashed line. In a model this small, windows of L0 in *every* layer are hard to beat: no
# query ever sees a distance that was not trained. What is far away still arrives, from layer to
# layer, up to about L · L0 tokens. Do not carry this over to a large model; we did not measure one.
#
# ## 8 Agree or not
#
# `findings` holds each claim of the report against the numbers. The verdict is computed; its limits
# stand in `findings.py`, and you may change them.

# %%
for finding in findings(numbers):
    print(f"* {finding.claim}\n    report: {finding.report}\n    here:   {finding.ours}")
    print(f"    -> {finding.verdict.upper()}")

# %% [markdown]
# A quick run is too small and too short for most of it. The long one (`minqwen lab long-context`)
# writes this list into its page, with the table and the plots.
#
# ## 9 Break one thing: one factor for all lengths
#
# Our YaRN takes the factor T / L0 that the text needs. Qwen2's model cards name one factor, for all
# lengths. What does a factor for the longest text do to a short one?

# %%
fixed = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": L0}
static = replace(config, rope_scaling=fixed)
print(f"{'T':>6} {'plain':>8} {'YaRN':>8} {'factor 16':>10}")
ours = {}
for k in (1, 2, 16):
    ours[k] = measure(params, static, texts, k * L0, buckets=1)["perplexity"]
    row = (numbers.perplexity("plain", k), numbers.perplexity("yarn", k), ours[k])
    print(f"{k * L0:6}", *(f"{value:8.2f}" for value in row))
assert ours[1] > numbers.perplexity("plain", 1)  # short texts pay
assert math.isclose(ours[16], numbers.perplexity("yarn", 16), rel_tol=1e-3)

# %% [markdown]
# Short texts pay for a length that they do not have. That is why Qwen's model cards say to switch
# YaRN on only for long texts, and why dynamic NTK follows the length.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. The mean of what?** Two texts of equal length have perplexity 8 and 32. What is the
# perplexity of both together?

# %%
answer_1 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# The losses are averaged, not the perplexities: exp((ln 8 + ln 32) / 2) = √(8 · 32).
#
# ```python
# answer_1 = 16
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    right = math.exp(np.mean([math.log(8), math.log(32)]))
    assert math.isclose(answer_1, right), "no; perplexity is exp of a mean"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. A technique of your own.** Make a config, from `config`, in which every layer sees
# the last 2 · L0 tokens and dynamic NTK is on.

# %%
answer_2 = None  # replace(config, ...)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# windows = [2 * L0] * config.num_hidden_layers
# answer_2 = replace(config, use_dynamic_ntk=True, layer_windows=windows)
# ```
#
# The alpha of a layer with a window is that of a text as long as the window, so 3 here.
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    assert answer_2.layer_windows == [2 * L0] * L, "no; a list with one window for each layer"
    assert answer_2.use_dynamic_ntk, "no; NTK is off"
    mine = measure(params, answer_2, texts, 16 * L0, buckets=1)["perplexity"]
    print(f"{mine:.2f} at 16 L0; plain {numbers.perplexity('plain', 16):.2f}")
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. A fair comparison?** Somebody reads texts of 16 L0 tokens and reports the perplexity
# of their last L0 tokens, where the context is longest; for the row "L0" they read the first L0
# tokens of the same texts. Which tokens does the table of this notebook score at both lengths?
# Answer "first", "last" or "all".

# %%
answer_3 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# All of them, at every length. Theirs are others in each row, so they compare text with text: the
# beginning of a file, with its names and imports, is not as hard as its end.
#
# ```python
# answer_3 = "all"
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    assert answer_3 == "all", "no; look at the sizes in section 3"
    at_L0 = losses[L0].reshape(len(texts), -1)
    print(f"read with L0: first {at_L0[:, :L0].mean():.2f}, last {at_L0[:, -L0:].mean():.2f} nats")
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** Run `minqwen lab long-context --out lab` (some minutes), put `"../lab"` into
# section 2, and read this page again. Which verdicts change? Add a row to
# `minqwen/lab/techniques.py`: the next run measures it, and the training is not repeated.

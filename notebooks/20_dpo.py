# %% [markdown]
# # DPO: pairs without a reward model
#
# *Made from `20_dpo.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# Notebook 18 trains a reward model on pairs, and notebook 19 trains a policy on the reward. Direct
# preference optimisation trains the policy on the pairs, in one step: the policy *is* the reward
# model. Qwen2 was tuned like this (Qwen2 report, Post-training).
#
# ## What you will do
#
# - Add up the log-probabilities of two answers, and see why the loss begins at exactly ln 2.
# - Follow the gradient down to single logits, and see most of it cancel.
# - Compare sum and mean, and train with both; mask the prompt, or not.
# - Train for some seconds, look at what the answers are truly worth, and set the hidden reward of
#   the policy against a real reward model. Then let it make pairs of its own answers.
#
# ## What you will learn
#
# - Why a difference of log-probabilities is a reward, and what β buys.
# - Why both answers may become *less* likely while the loss falls.
# - What the sum is for, and when the prompt cancels.
#
# ## What you need
#
# Notebooks 17 and 18, NumPy with matplotlib. 20 minutes; it computes for about 20 seconds. Beside
# this page, open `minqwen/alignment/dpo_loss.py` and `minqwen/alignment/dpo.py`.

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
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread only waits

import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(0)
folder = Path(tempfile.mkdtemp())
np.set_printoptions(precision=4, suppress=True)
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %%
from minqwen.alignment.answer_logprobs import (
    answer_logprobs_backward,
    answer_logprobs_forward,
    pair_logprobs,
)
from minqwen.alignment.chat_batch import pad_chats
from minqwen.alignment.dpo import dpo
from minqwen.alignment.dpo_loss import dpo_loss_backward, dpo_loss_forward
from minqwen.alignment.online_dpo import OnlineDpoSettings, online_dpo, pick_pairs
from minqwen.alignment.preference_pairs import Pair, best_and_worst, encode_pairs
from minqwen.alignment.reward_model import pair_rewards, to_reward_model
from minqwen.alignment.reward_training import train_reward_model
from minqwen.alignment.rollout import as_lists, rollout
from minqwen.alignment.score import RewardModelScore

# %%
from minqwen.alignment.settings import DpoSettings, RewardSettings, SftSettings
from minqwen.alignment.sft import sft
from minqwen.alignment.token_logprobs import (
    sequence_logprobs_backward,
    sequence_logprobs_forward,
    token_logprobs_backward,
    token_logprobs_forward,
)
from minqwen.check.gradients import check_gradients
from minqwen.commands.tokenize import shown
from minqwen.data.records import PreferenceRecord
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params

# %%
from minqwen.model.language_model import language_model_forward
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.chat_templates import Template
from minqwen.tokenizer.chatml import Chat, encode_chat
from minqwen.training.metrics import Metrics

# %% [markdown]
# ## 0 A small world
#
# People have lost, broken or sold something. A good answer gives the advice that fits (find, mend,
# buy) and is kind. What an answer is *truly worth* is a program here, so we can always compare:
#
# - +1.5 for the advice that fits, −1.5 for another,
# - +1 for each kind word, up to three; from the fourth on, each takes 1 away,
# - −1 for each rude word.

# %%
FITS = {"lost": "find", "broke": "mend", "sold": "buy"}  # what happened: what helps
THINGS = ("lamp", "book", "cup", "boat", "coin", "drum", "ball", "key")
KIND, RUDE = ("Please", "friend", "dear"), ("Just", "now")


def trouble():
    """Return what happened, and a message about it."""
    happened = str(rng.choice(list(FITS)))
    return happened, f"I {happened} the {rng.choice(THINGS)}."


# %%
def people_say(happened):
    """Return an answer as people give them: not always right, not always kind."""
    verb = FITS[happened] if rng.random() < 0.7 else str(rng.choice(list(FITS.values())))
    answer = f"{rng.choice(['Please', 'Just', 'Then'])} {verb} it"
    while rng.random() < 0.35:
        answer += str(rng.choice([", friend", ", dear", ", now"]))
    return answer + "."


def worth(happened, answer):
    """Return what the answer is truly worth."""
    kind, rude = (sum(answer.count(word) for word in words) for words in (KIND, RUDE))
    helps = f" {FITS[happened]} it" in answer
    return (1.5 if helps else -1.5) + min(kind, 6 - kind) - rude


# %% [markdown]
# A tokenizer for these words, and a model that has been tuned to answer as people do (notebook 17;
# it takes some seconds).

# %%
talks = [(*trouble(), None) for _ in range(600)]
talks = [(happened, message, people_say(happened)) for happened, message, _ in talks]
text = "\n".join(f"user\n{message}\nassistant\n{answer}" for _, message, answer in talks)
tokenizer = bpe_train(text, merges=78)
END, PAD = (tokenizer.special_tokens[name] for name in ("<|im_end|>", "<|endoftext|>"))
PLAIN = Template(system=None)  # no system text: shorter rows


def written_chat(message, answer=None):
    """Return a chat; without an answer it ends where one begins."""
    turns = [{"role": "user", "content": message}]
    turns += [] if answer is None else [{"role": "assistant", "content": answer}]
    return encode_chat(tokenizer, turns, template=PLAIN, generation_prompt=answer is None)


# %%
config = QwenConfig(
    vocab_size=tokenizer.vocab_size,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rope_theta=1000.0,
    tie_word_embeddings=True,
    initializer_range=0.1,  # small models learn faster from larger numbers than 0.02
)

# %%
chats = [written_chat(message, answer) for _, message, answer in talks]
tuning = SftSettings(steps=100, batch_size=16, peak_lr=3e-3, warmup_steps=10, dropout=0.0)
policy = sft(
    config,
    init_params(config, np.random.default_rng(0)),
    chats,
    folder / "sft",
    tuning,
    pad_id=PAD,
    progress=False,
    plot=False,
)
print(sum(w.size for w in policy.values()), "parameters")

# %% [markdown]
# And choices, as in notebook 18: the answer that is worth x more is chosen with probability σ(x).


# %%
def draw_comparisons(n):
    """Return n comparisons: what happened, the message, the chosen and the rejected answer."""
    found = []
    while len(found) < n:
        happened, message = trouble()
        one, other = people_say(happened), people_say(happened)
        ahead = worth(happened, one) - worth(happened, other)
        if one != other:
            both = (one, other) if rng.random() < 1 / (1 + np.exp(-ahead)) else (other, one)
            found.append((happened, message, *both))
    return found


# %%
def encoded(comparisons):
    """Return comparisons as pairs of chats, each up to its end token."""
    records = []
    for i, (_, *texts) in enumerate(comparisons):
        written = zip(("user", "assistant", "assistant"), texts, strict=True)
        turns = [[{"role": role, "content": content}] for role, content in written]
        records.append(PreferenceRecord(*turns, None, {}, i + 1))
    return encode_pairs(tokenizer, records, template=PLAIN).pairs


seen, unseen = draw_comparisons(800), draw_comparisons(400)
pairs, unseen_pairs = encoded(seen), encoded(unseen)
for comparison in seen[:4]:
    print("{1:20} chosen: {2:28} rejected: {3}".format(*comparison))

# %% [markdown]
# ## 1 The log-probability of an answer
#
# The probability of an answer is the product of those of its tokens. So its logarithm L is a sum,
# over the tokens of the answer and its `<|im_end|>`. For one pair:

# %%
wide = {key: w.astype("float64") for key, w in policy.items()}
pair = pairs[1]
batch = pad_chats(pair, PAD).batch  # row 0: chosen, row 1: rejected
logits, _ = language_model_forward(wide, config, batch.input_ids, attention_mask=batch.real)
labels = np.where(batch.labels >= 0, batch.labels, 0)
per_token, token_c = token_logprobs_forward(logits, labels)
for row, name in enumerate(Pair._fields):
    print(name)
    for t in np.flatnonzero(batch.loss_mask[row]):
        print(f"    {shown(tokenizer.decode([labels[row, t]])):12} {per_token[row, t]:8.3f}")
    print(f"    {'sum':12} {per_token[row, batch.loss_mask[row]].sum():8.3f}")

# %%
L, sequence_c = sequence_logprobs_forward(per_token, batch.loss_mask)
assert np.allclose(L, pair_logprobs(wide, config, [pair], PAD)[:, 0], rtol=1e-12)
print("chosen and rejected:", L, " by the package:", pair_logprobs(wide, config, [pair], PAD)[:, 0])

# %% [markdown]
# ## 2 A reward that nobody gave
#
# What PPO looks for, the policy π with the most reward r at a price of β for each nat away from the
# reference, is known: $\pi(y) = \mathrm{ref}(y)\, e^{r(y)/\beta} / Z$. Turn it around:
#
# $$r(y) = \beta\,(L_\pi(y) - L_{\mathrm{ref}}(y)) + \beta \log Z$$
#
# Every policy is the best one for *some* reward, and this is it. Z depends on the message only, so
# in the difference of two answers it falls out. Put it into the loss of notebook 18, and that is
# all of DPO.
#
# At the start the policy is its own reference. So all rewards are 0, and the loss is ln 2, whatever
# the model and the pairs are:

# %%
reference = pair_logprobs(wide, config, pairs, PAD)  # (2, 800), computed once, never changed
loss, dpo_c = dpo_loss_forward(*reference, *reference, beta=0.1)
print(f"loss {loss:.15f}\nln 2 {np.log(2):.15f}")
print("rewards of the first pairs:", dpo_c.chosen_rewards[:3], dpo_c.rejected_rewards[:3])
assert np.isclose(loss, np.log(2), rtol=1e-15)

# %% [markdown]
# This is the first thing to check in a run. If the loss does not begin at 0.6931, the two sides are
# not computed alike: dropout is on, a mask is another, or the reference is another model.
#
# ## 3 Weights
#
# With x, the reward of the chosen answer less that of the rejected one:
#
# $$dL_{\text{chosen}} = -\tfrac{\beta}{B}\,\sigma(-x) \qquad
# dL_{\text{rejected}} = +\tfrac{\beta}{B}\,\sigma(-x)$$
#
# Train for 20 steps, so that there is something to see.

# %%
options = {"pad_id": PAD, "progress": False, "plot": False}
brief = DpoSettings(steps=20, batch_size=16, peak_lr=1e-3, warmup_steps=5, checkpoint_every=20)
soon = dpo(config, policy, pairs, folder / "brief", brief, **options)
now = pair_logprobs(soon, config, pairs, PAD).astype("float64")
loss, dpo_c = dpo_loss_forward(*now, *reference, beta=0.1)
dchosen, drejected = dpo_loss_backward(1.0, dpo_c)
print(f"loss {loss:.4f}")
print("chosen reward   rejected      lead   sigma(-lead)   dL chosen * B")
for i in range(6):
    r = dpo_c.chosen_rewards[i], dpo_c.rejected_rewards[i]
    weight = 1 / (1 + np.exp(r[0] - r[1]))
    print(f"{r[0]:13.4f} {r[1]:10.4f} {r[0] - r[1]:9.4f} {weight:14.4f} {dchosen[i] * 800:15.4f}")
    assert np.isclose(dchosen[i], -0.1 / 800 * weight, rtol=1e-12)

# %%
lead = dpo_c.chosen_rewards - dpo_c.rejected_rewards
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
left.hist(lead, bins=40)
left.axvline(0, color="black", lw=0.8)
left.set(xlabel="lead, after 20 steps", ylabel="pairs", title="most pairs are ranked right")
right.scatter(lead, -dchosen * len(lead) / 0.1, s=6)
right.set(xlabel="lead", ylabel="σ(-lead)", title="who is wrong pulls more", ylim=(0, 1))
plt.show()

# %% [markdown]
# ## 4 Down to one logit
#
# A log-probability hands to the logits of its place one thing: $\text{onehot} - p$. So for each
# token of the chosen answer $dz = dL\,(\text{onehot} - p)$, and with the other sign for the
# rejected one. Look at the first token of the two answers. Both rows have the same tokens before
# it, so both have the same p:

# %%
dL = np.array([-0.05, 0.05])  # at the start: beta / 2 for a batch of one pair
dlogits = token_logprobs_backward(sequence_logprobs_backward(dL, sequence_c), token_c)
first = int(np.flatnonzero(batch.loss_mask[0])[0])
z = logits[:, first]
p = np.exp(z - z.max(axis=1, keepdims=True))
p /= p.sum(axis=1, keepdims=True)
assert np.allclose(p[0], p[1], rtol=1e-12)
by_hand = dL[:, None] * (np.eye(config.vocab_size)[labels[:, first]] - p)
assert np.allclose(dlogits[:, first], by_hand, atol=1e-15)

# %%
words = [tokenizer.encode(word)[0] for word in ("Please", "Just", "Then")]
names = [tokenizer.decode([i]) for i in words]
fig, axes = plt.subplots(1, 3, figsize=(10, 2.8), sharey=True, layout="constrained")
views = {
    "of the chosen answer": -dlogits[0, first],
    "of the rejected answer": -dlogits[1, first],
    "together": -dlogits[:, first].sum(axis=0),
}
for ax, (title, change) in zip(axes, views.items(), strict=True):
    ax.bar(names, change[words], color=["tab:green" if v > 0 else "tab:red" for v in change[words]])
    ax.set_title(title)
axes[0].set_ylabel("-dz, downhill")
plt.show()
print("p:", dict(zip(names, p[0, words].round(3).tolist(), strict=True)))

# %% [markdown]
# Together, p is gone: up with the one token, down with the other, by β/2 each, and nothing else.
# Where both answers go on with the same token after the same beginning, all of it cancels. Only
# behind the place where they part, each answer stands alone.
#
# The proof, as always, by finite differences:


# %%
def objective(z, ids, mask):
    """Return the sum of log-probabilities of each answer, from logits."""
    per_token, token_c = token_logprobs_forward(z, ids)
    y, sequence_c = sequence_logprobs_forward(per_token, mask)
    return y, (token_c, sequence_c)


def objective_backward(dy, cache):
    """Return dlogits."""
    return token_logprobs_backward(sequence_logprobs_backward(dy, cache[1]), cache[0])


few = rng.standard_normal((2, 4, 7)), rng.integers(0, 7, (2, 4)), np.tri(2, 4, 2, dtype=bool)
print(f"error {max(check_gradients(objective, objective_backward, *few)):.0e}")

# %%
six = np.random.default_rng(5).standard_normal((4, 6))  # chosen, rejected, and the same of the ref
errors = check_gradients(
    lambda chosen, rejected: dpo_loss_forward(chosen, rejected, six[2], six[3], beta=0.1),
    dpo_loss_backward,
    *six[:2],
)
print("and of the loss itself:", *(f"{error:.0e}" for error in errors))

# %% [markdown]
# ## 5 Sum or mean
#
# DPO takes the sum. Some take the mean over the tokens, so that long answers do not weigh more; it
# is another loss. The test that tells them apart: double an answer. Let each token be 0.5 nats more
# likely than by the reference, and β = 0.1.

# %%
print("tokens   reward by sum   by mean")
for n in (4, 8, 16):
    mask, gained = np.ones((1, n), bool), np.full((1, n), 0.5)
    by = [0.1 * sequence_logprobs_forward(gained, mask, how)[0][0] for how in ("sum", "mean")]
    print(f"{n:6} {by[0]:15.3f} {by[1]:9.3f}")
    assert np.allclose(by, [0.05 * n, 0.05])

# %% [markdown]
# By mean, a reward is as many times smaller as the answer has tokens. With the same β the leads are
# small too, all σ(-x) stay near 1/2, and *every pair keeps pulling as on the first day*. We train
# both.

# %%
settings = DpoSettings(
    steps=120, batch_size=16, peak_lr=2e-4, warmup_steps=5, eval_every=30, checkpoint_every=120
)
known = {"validation_pairs": unseen_pairs[:200], **options}
by_mean = DpoSettings(**(settings.to_dict() | {"reduction": "mean"}))
tuned = dpo(config, policy, pairs, folder / "sum", settings, **known)
mean_tuned = dpo(config, policy, pairs, folder / "mean", by_mean, **known)

# %%
runs = {name: Metrics.read(folder / name) for name in ("sum", "mean")}
train = [r for r in runs["sum"] if "loss" in r]

# %%
fig, axes = plt.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
for name, rows in runs.items():
    checks = [r for r in rows if "validation_loss" in r]
    for ax, key in zip(axes, ("validation_loss", "validation_accuracy"), strict=False):
        ax.plot([r["step"] for r in checks], [r[key] for r in checks], "o-", label=name)
        ax.set(xlabel="step", title=key.replace("_", " "))
axes[0].axhline(np.log(2), color="0.5", ls=":", label="ln 2")
for key in ("chosen_logprob", "rejected_logprob"):
    smooth = np.convolve([r[key] for r in train], np.ones(20) / 20, mode="valid")
    axes[2].plot(np.arange(20, len(train) + 1), smooth, label=key.replace("_", " "))
axes[2].set(xlabel="step", ylabel="nats", title="sum: mean of 20 steps")
[ax.legend() for ax in axes]
plt.show()

# %% [markdown]
# On the left, the loss by mean hardly moves, although the ranking (middle) is as good. Now look at
# the right picture. The loss asks for the *lead*, and it grows. But while the rejected answers
# fall, the chosen ones fall too: nothing in the loss forbids it.

# %%
ends = {key: (train[:20], train[-20:]) for key in ("chosen_logprob", "rejected_logprob")}
for key, parts in ends.items():
    first_20, last_20 = (np.mean([r[key] for r in part]) for part in parts)
    print(f"{key:17} {first_20:6.2f} at the start, {last_20:6.2f} at the end")
    assert last_20 < first_20

# %% [markdown]
# ## 6 The prompt: in or out
#
# The mask leaves out the tokens of the message. Would it matter? Both chats of a pair begin with
# the same message, so its log-probability is in both sums, and falls out of the lead. So does its
# gradient:


# %%
def gradient(some, params):
    """Return lead and gradient of the DPO loss on one pair, against the tuned-on-chats model."""
    rows = pad_chats(some, PAD).batch
    y, cache = answer_logprobs_forward(params, config, rows)
    ref, _ = answer_logprobs_forward(wide, config, rows)
    _, dpo_c = dpo_loss_forward(y[:1], y[1:], ref[:1], ref[1:], beta=0.1)
    grads = answer_logprobs_backward(np.concatenate(dpo_loss_backward(1.0, dpo_c)), cache)
    return float((dpo_c.chosen_rewards - dpo_c.rejected_rewards)[0]), grads


def open_mask(chat):
    """Return the chat with all of its tokens counted."""
    return Chat(chat.ids, [True] * len(chat.ids))


# %%
model = {key: w.astype("float64") for key, w in tuned.items()}
other = next(p for p in pairs if p.chosen.ids[:6] != pair.chosen.ids[:6])  # another message
cases = {"the same message": pair, "two messages": Pair(pair.chosen, other.rejected)}
for name, some in cases.items():
    (lead, grads), (lead_open, grads_open) = (
        gradient(chats, model) for chats in (some, [open_mask(chat) for chat in some])
    )
    apart = max(np.abs(grads[key] - grads_open[key]).max() for key in grads)
    size = max(np.abs(grad).max() for grad in grads.values())
    print(
        f"{name:17} lead {lead:8.4f}, with the prompt {lead_open:8.4f}, gradient {apart / size:.0e}"
    )
    assert (apart < 1e-12) == (name == "the same message")

# %% [markdown]
# So an open mask hides until somebody compares answers to *different* messages, or uses the mean.
#
# ## 7 What came of it
#
# We know what answers are truly worth. Let each model answer all 24 messages four times:

# %%
queries = [(happened, f"I {happened} the {thing}.") for happened in FITS for thing in THINGS]
ids = [written_chat(message).ids for _, message in queries]


def answers_of(params, seed=0):
    """Return what happened and an answer to it, 96 times."""
    many = {"responses_per_query": 4, "max_new_tokens": 24, "eos_token_ids": [END], "pad_id": PAD}
    rolled = rollout(params, config, ids, rng=np.random.default_rng(seed), **many)
    texts = [tokenizer.decode([i for i in row if i != END]) for row in as_lists(rolled)[1]]
    return [(queries[i // 4][0], text) for i, text in enumerate(texts)]


# %%
far_settings = DpoSettings(**(settings.to_dict() | {"peak_lr": 1e-3, "steps": 80}))
too_far = dpo(config, policy, pairs, folder / "far", far_settings, **options)
models = {
    "before": policy,
    "DPO": tuned,
    "DPO, mean": mean_tuned,
    "DPO, five times the rate": too_far,
}

# %%
means = {}
for name, params in models.items():
    answers = answers_of(params)
    means[name] = np.mean([worth(*answer) for answer in answers])
    print(f"{name:24} worth {means[name]:5.2f}   {[text for _, text in answers[:60:20]]}")
assert means["DPO"] > means["before"] + 0.5
assert means["DPO, five times the rate"] < means["DPO"]

# %%
rows = [r for r in Metrics.read(folder / "far") if "loss" in r][-20:]
for name, its in (("DPO", train[-20:]), ("five times the rate", rows)):
    numbers = {key: np.mean([r[key] for r in its]) for key in ("accuracy", "loss", "kl")}
    print(f"{name:20}", {key: float(value.round(2)) for key, value in numbers.items()})

# %% [markdown]
# The last model has the lowest loss of all, and answers with rubbish. Both answers of every pair
# have become unlikely. The probability that they lost went *somewhere*, to texts that are in no
# pair, and no pair says that these are bad. So sample, and read; no number of the training shows
# it, but `kl` gives a hint.
#
# ## 8 The hidden reward against a real one
#
# β (L - L_ref) is a reward. So the policy can rank answers, as the reward model of notebook 18
# does. Train one on the same pairs, and compare the two on pairs that neither has seen.

# %%
start = to_reward_model(policy, config, np.random.default_rng(0))
rewarding = RewardSettings(steps=120, batch_size=16, peak_lr=1e-3, warmup_steps=10)
judge_model = train_reward_model(*start, pairs, folder / "reward", rewarding, **options)
explicit = np.subtract(*pair_rewards(judge_model, start[0], unseen_pairs, PAD)).astype("float64")
ratio = np.subtract(*(pair_logprobs(m, config, unseen_pairs, PAD) for m in (tuned, policy)))
implicit = 0.1 * (ratio[0] - ratio[1]).astype("float64")
truly = np.array([worth(h, good) - worth(h, bad) for h, _, good, bad in unseen])

# %%
clear = truly != 0
print("                 agrees with the choice   with the true worth   correlation with it")
for name, margin in (("reward model", explicit), ("DPO, hidden", implicit)):
    choice, truth = np.mean(margin > 0), np.mean((margin > 0)[clear] == (truly > 0)[clear])
    print(f"{name:15} {choice:18.1%} {truth:22.1%} {np.corrcoef(margin, truly)[0, 1]:18.2f}")
    assert choice > 0.6
same = np.mean((explicit > 0) == (implicit > 0))
print(f"they rank {same:.0%} of the pairs alike")

# %%
fig, ax = plt.subplots(figsize=(5.4, 4.2), layout="constrained")
points = ax.scatter(explicit, implicit, c=truly, s=10, cmap="RdYlGn")
ax.axhline(0, color="black", lw=0.6)
ax.axvline(0, color="black", lw=0.6)
ax.set(xlabel="reward model: chosen - rejected", ylabel="hidden reward: chosen - rejected")
fig.colorbar(points, label="truly")
plt.show()

# %% [markdown]
# Two ways to the same choices. Do not read a winner from these rows: each could be trained longer,
# or at another rate. The reward model can be asked about any answer, and PPO needs it.
# DPO needs no sampling and no value model, but it learns from the answers in the pairs only. Qwen2
# does both in turn: sample from the policy, let a reward model pick the best and the worst, and
# train on these two.
#
# ## 9 Online: pairs of its own answers
#
# So far the pairs were there before the policy was. Online, each step makes its own: the policy as
# it is *now* answers each message several times, the reward model reads the answers, and the best
# and the worst become a pair. A message whose answers are all alike gives none.

# %%
score = RewardModelScore(start[0], judge_model, PAD)
sampled = {"responses_per_query": 4, "max_new_tokens": 24, "eos_token_ids": [END], "pad_id": PAD}
rolled = rollout(tuned, config, ids[:24:8], rng=np.random.default_rng(1), **sampled)
asked, answers = as_lists(rolled)
marks = score(asked, answers)
own = pick_pairs(asked, answers, marks, k=4)
sign = {tuple(one.chosen.ids): "+" for one in own} | {tuple(one.rejected.ids): "-" for one in own}
for query, answer, mark in zip(asked, answers, marks, strict=True):
    what = tokenizer.decode(query).split("user\n")[1].split("<|im_end|>")[0]
    text = tokenizer.decode(answer, errors="replace")
    print(f"{what:20} {mark:6.2f} {sign.get((*query, *answer), ' ')} {text}")
assert set(sign.values()) == {"+", "-"}

# %% [markdown]
# Plus and minus are the pairs. A few steps of this, from where DPO ended, which is the reference
# now:

# %%
few_steps = OnlineDpoSettings(
    steps=20, batch_size=8, peak_lr=2e-4, warmup_steps=2, checkpoint_every=20, max_new_tokens=24
)
ends_with = {"eos_token_ids": [END], "pad_id": PAD, "progress": False, "plot": False}
online = online_dpo(config, tuned, ids, score, folder / "online", few_steps, **ends_with)
history = Metrics.read(folder / "online")

# %%
truths = {}
for name, params in {"DPO": tuned, "and online": online}.items():
    found = answers_of(params)
    truths[name] = [worth(*answer) for answer in found]
    some_texts = [text for _, text in found[:60:20]]
    print(f"{name:10} true worth {np.mean(truths[name]):5.2f}   {some_texts}")
assert np.mean(truths["and online"]) > np.mean(truths["DPO"])

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
for key in ("best_score", "score", "worst_score"):
    left.plot([r["step"] for r in history], [r[key] for r in history], label=key)
left.set(xlabel="step", ylabel="reward model", title="four answers to each message")
right.hist(list(truths.values()), np.arange(-5.75, 6.25, 0.5), label=list(truths))
right.set(xlabel="true worth", ylabel="answers, of 96", title="what came of it")
for ax in (left, right):
    ax.legend()
plt.show()

# %% [markdown]
# When best and worst come together there is less to learn from, and fewer pairs. Nothing here is
# stale: a fault that the policy takes up is sampled, scored and pushed down in the next step, as
# far as the *reward model* sees it. What it does not see is not in the pairs either.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. The reference learns too.** What breaks if the "reference" is the same dictionary of
# parameters, and is updated along? What is the loss after 120 steps?

# %%
answer_1 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# Policy and reference are always equal, so all rewards are 0. The loss stays at ln 2 to the last
# digit, although the parameters move in every step.
#
# ```python
# answer_1 = np.log(2)
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    after = pair_logprobs(tuned, config, pairs, PAD)
    frozen, moving = (
        float(dpo_loss_forward(*after, *ref)[0]) for ref in (reference.astype(after.dtype), after)
    )
    print(f"frozen reference {frozen:.4f}, moving reference {moving:.4f}")
    assert np.isclose(answer_1, moving), "no; compare a model with itself"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. The mean and long answers.** The chosen answer has 20 tokens, each 0.3 nats more
# likely than by the reference. The rejected one has 2 tokens, each 0.5 nats more likely. β is 0.1.
# What is the lead by sum, and what by mean? Two numbers.

# %%
answer_2 = None  # [.., ..]

# %% [markdown]
# <details><summary>Solution</summary>
#
# By sum 0.1 · (6 − 1), by mean 0.1 · (0.3 − 0.5). The pair is ranked right by one, wrong by the
# other.
#
# ```python
# answer_2 = [0.5, -0.02]
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    gained = np.zeros((2, 20))
    gained[0], gained[1, :2] = 0.3, 0.5
    mask = np.array([[True] * 20, [True] * 2 + [False] * 18])
    by = [sequence_logprobs_forward(gained, mask, how)[0] for how in ("sum", "mean")]
    leads = [0.1 * (y[0] - y[1]) for y in by]
    assert np.allclose(answer_2, leads), "no; add up each answer, then subtract"
    print("by sum and by mean:", np.array(leads))
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. A tie.** Two answers are sampled, both are `Then buy it.`, and they become a pair.
# What breaks? How large is the largest entry of its gradient?

# %%
answer_3 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# Nothing breaks, and nothing is learned: what the chosen answer asks for, the rejected one takes
# back. But the pair adds ln 2 to every mean, and holds a place in the batch.
#
# ```python
# answer_3 = 0
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    tied = Pair(pair.chosen, pair.chosen)
    lead, grads = gradient(tied, model)
    largest = max(np.abs(grad).max() for grad in grads.values())
    print(f"lead {lead}, largest entry {largest:.0e}")
    assert abs(answer_3 - largest) < 1e-15, "no; both answers are the same tokens"
    print("best, worst, usable:", best_and_worst(np.array([[0.5, 2.0], [1.0, 1.0]])))
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** Read the Qwen2 report, Post-training, Reinforcement Learning from Human Feedback;
# then `minqwen/alignment/dpo.py`. `minqwen dpo pairs.jsonl --start-from RUN --out run` trains on a
# file of yours. `minqwen lab alignment` sets SFT, PPO and DPO side by side, with seeds and spread.

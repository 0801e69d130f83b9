# %% [markdown]
# # PPO under glass
#
# *Made from `19_ppo_under_glass.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# A policy answers, a reward says how good that was, and the policy changes so that good answers
# become likelier. PPO does this in small, safe steps (Qwen report, 3.2.2). There are four models
# and a dozen quantities between an answer and its gradient. Here you see all of them, for *one
# step* with four answers.
#
# ## What you will do
#
# - Sample four answers, and follow one of them, token by token: log-probabilities, divergence,
#   rewards, values, advantages.
# - Compute advantages by hand, and whiten them.
# - Look at both sides of both clips, and at the gradient of a single logit.
# - Warm up a value model, mix in a second loss, and then let 24 steps run, with a leash and
# without.
#
# ## What you will learn
#
# - Which numbers must be exactly 0 or 1 before the first update, and what it means if they are not.
# - What the reference, the old policy and the value model are for.
# - Why the clip is a limit for the profit and not for the policy.
#
# ## What you need
#
# Notebooks 17 and 18, NumPy with matplotlib. Twice 15 minutes, with a rest after section 7; it
# computes for about 20 seconds. Beside this page, open `minqwen/alignment/ppo_step.py`, and then
# the files that it names.

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
import re
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

# %%
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread only waits

import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(0)
folder = Path(tempfile.mkdtemp())
np.set_printoptions(precision=3, suppress=True)
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %% [markdown]
# One file for each quantity:

# %%
from minqwen.alignment.answer_heads import answer_logits_forward
from minqwen.alignment.entropy import (
    entropy_backward,
    entropy_forward,
    exact_kl_backward,
    exact_kl_forward,
)
from minqwen.alignment.experience import make_experience, observe
from minqwen.alignment.gae import gae
from minqwen.alignment.kl_penalty import kl_estimate, kl_penalty, missing_end_penalty
from minqwen.alignment.learned import begin

# %%
from minqwen.alignment.policy_update import (
    policy_gradient,
    policy_objective_backward,
    policy_objective_forward,
)
from minqwen.alignment.ppo_loss import (
    ppo_policy_loss_backward,
    ppo_policy_loss_forward,
    ppo_value_loss_backward,
    ppo_value_loss_forward,
)

# %%
from minqwen.alignment.ppo_metrics import metrics_of
from minqwen.alignment.ppo_step import PpoState, learn, ppo_step
from minqwen.alignment.reward_model import to_reward_model
from minqwen.alignment.reward_scaling import new_reward_stats, scale_rewards, update_reward_stats
from minqwen.alignment.rollout import as_lists, rollout
from minqwen.alignment.settings import PpoSettings, SftSettings
from minqwen.alignment.sft import sft
from minqwen.alignment.start_params import params_fingerprint
from minqwen.alignment.token_logprobs import token_logprobs_forward
from minqwen.alignment.whitening import whiten

# %%
from minqwen.check.gradients import check_gradients
from minqwen.commands.tokenize import shown
from minqwen.data.packing import pack_documents
from minqwen.model.config import QwenConfig

# %%
from minqwen.model.init import init_params
from minqwen.model.sampling import keep_top_p
from minqwen.tokenizer.bpe import bpe_train
from minqwen.tokenizer.chat_templates import Template
from minqwen.tokenizer.chatml import encode_chat
from minqwen.training.accumulate import as_batch, loss_and_grads

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
# ## 1 Four models
#
# | model | says | learns |
# | --- | --- | --- |
# | policy | the next token | yes |
# | reference: the policy as it was at the start | the same | never |
# | value model: one number for each token | how much reward is still to come | yes |
# | reward model | how good a whole answer is | no |
#
# In the place of the reward model we put the program `worth`: so we know that the reward is right,
# and see PPO alone. PPO takes any function of queries and answers.

# %%
queries = [(happened, f"I {happened} the {thing}.") for happened in FITS for thing in THINGS]
query_ids = [written_chat(message).ids for _, message in queries]
happened_of = {tuple(ids): happened for ids, (happened, _) in zip(query_ids, queries, strict=True)}


def plain_text(ids):
    """Return the text of an answer, without its end token."""
    return tokenizer.decode([i for i in ids if i != END], errors="replace")


def worths_of(some_queries, answers):
    """Return what each answer is worth."""
    both = zip(some_queries, answers, strict=True)
    return np.array([worth(happened_of[tuple(q)], plain_text(a)) for q, a in both])


# %% [markdown]
# At the very start policy and reference are the same, and there is little to see. So a few steps
# have gone by when we put the glass on. All in float64, so that we may ask for equality.

# %%
settings = PpoSettings(
    batch_size=12,
    max_new_tokens=16,
    policy_lr=5e-4,  # the report's 1e-6 is for a model with billions of parameters
    value_lr=3e-3,
    value_warmup_steps=4,
    minibatches=2,
    epochs=2,
    dtype="float64",
)

# %%
control = {"eos_token_ids": [END], "pad_id": PAD}
value_model = to_reward_model(policy, config, np.random.default_rng(1))
beginning = PpoState(
    0, begin(config, policy, "float64"), begin(*value_model, "float64"), new_reward_stats()
)
reference = beginning.policy.params

# %%
now = beginning
for _ in range(10):
    now, glass = ppo_step(now, reference, query_ids, worths_of, settings, **control)
    row = metrics_of(glass, now.step, settings)
    if now.step in (1, 4, 5, 10):
        print(f"step {now.step:2}: reward {row['reward']:5.2f}, divergence {row['kl']:6.3f} nats")

# %% [markdown]
# For four steps only the value model learned, so the divergence was 0 in each of them. Section 10
# comes back to that.
#
# ## 2 Queries and answers
#
# Two queries, two answers to each, as in the report. Sampled with top-p 0.9: only from the best
# tokens that together have 90 % of the probability.

# %%
chosen = [query_ids[0], query_ids[13]]
rolled = rollout(
    now.policy.params,
    config,
    chosen,
    responses_per_query=2,
    max_new_tokens=6,  # short, so that an answer may be cut off
    top_p=0.9,
    rng=np.random.default_rng(5),
    **control,
)
B, T = rolled.answers.shape
for q, a, ended in zip(*as_lists(rolled), rolled.ended, strict=True):
    print(f"{happened_of[tuple(q)]:6} -> {plain_text(a)!r:30} ended: {ended}")

# %%
fig, ax = plt.subplots(figsize=(11, 2.4), layout="constrained")
Q = rolled.input_ids.shape[1] - T
counted = np.pad(rolled.mask, ((0, 0), (Q, 0)))
ax.imshow(rolled.real + 1.0 * counted, cmap="Greens", vmin=0, vmax=3, aspect="auto")
for b, t in np.argwhere(rolled.real):
    token = shown(tokenizer.decode([rolled.input_ids[b, t]], errors="replace"))
    ax.text(t, b, token.replace("<|im_", "<").replace("|>", ">"), ha="center", va="center", size=7)
ax.set(xticks=[], yticks=range(B), ylabel="row", title="queries (light) and answers (dark)")
ax.grid(False)
plt.show()

# %% [markdown]
# Padding is white, and may be on either side. Everything below has the shape (4, T): a number for
# each token of an answer. Padding must neither give nor get anything.
#
# ## 3 Log-probabilities: policy, old policy, reference
#
# For each sampled token, how likely was it? Three models are asked:
#
# - the **old** policy, the one that sampled. Noted once, then it is a constant.
# - the **policy** as it is now. Before the first update it is the old one.
# - the **reference**.

# %%
seen, first_pass = observe(
    rolled, (config, now.policy.params), reference, (now.value.config, now.value.params), settings
)
logits, _ = answer_logits_forward(now.policy.params, config, rolled)
policy_logprobs, _ = token_logprobs_forward(logits, rolled.answers)
b = 0  # the answer that we follow
m = rolled.mask[b]
tokens = [shown(tokenizer.decode([i], errors="replace")) for i in rolled.answers[b, m]]
print("token            policy      old   reference   policy - reference")
for token, new, old, ref in zip(
    tokens, policy_logprobs[b], seen.logprobs[b], seen.ref_logprobs[b], strict=False
):
    print(f"{token:12} {new:10.3f} {old:8.3f} {ref:11.3f} {new - ref:20.3f}")

# %% [markdown]
# Three things must hold *before any update*. Each of them finds its own mistakes.

# %%
ratio = np.exp(policy_logprobs - seen.logprobs)
at_start, _ = observe(rolled, (config, reference), reference, (now.value[:2]), settings)
print("new policy / old policy:", ratio[rolled.mask].min(), "to", ratio[rolled.mask].max())
print("at the start, policy - reference:", np.abs(at_start.logprobs - at_start.ref_logprobs).max())
assert np.abs(ratio - 1).max() < 1e-12
assert np.abs(at_start.logprobs - at_start.ref_logprobs).max() < 1e-12

# %% [markdown]
# Sampling has cut the tail off (top-p). The log-probabilities do not: they are those of the whole
# softmax, on all sides. What if one side used the cut one? Its probabilities are larger, divided by
# the mass that was kept. So the ratio would *be* that mass.

# %%
p = np.exp(logits[b, m] - logits[b, m].max(axis=-1, keepdims=True))
p /= p.sum(axis=-1, keepdims=True)
kept = keep_top_p(p, 0.9).sum(axis=-1)
print("mass that top-p 0.9 keeps:", dict(zip(tokens, kept.round(3).tolist(), strict=True)))
cut_old = seen.logprobs[b, m] - np.log(kept)  # of the softmax that was cut
print("new (whole) / old (cut):  ", np.exp(policy_logprobs[b, m] - cut_old))
assert np.allclose(np.exp(policy_logprobs[b, m] - cut_old), kept)

# %% [markdown]
# The clip, below, begins to act at 0.8. Nearly half of the way would be used up before anything has
# moved.
#
# ## 4 Scores
#
# A score is for a whole answer. Two things happen to it. An answer without an end token was cut off
# and pays 1. And the **running mean** of all scores so far is subtracted: only what is better than
# usual is a reward. (The report says "normalised by running mean", and no more.)

# %%
scores = worths_of(*as_lists(rolled))
penalised = missing_end_penalty(scores, rolled.ended, settings.missing_end_penalty)
stats = update_reward_stats(now.stats, penalised)
normalised = scale_rewards(penalised, stats)
print(f"{now.stats['count']:.0f} scores so far, and these: the mean is {stats['mean']:.3f}")
print("answer                            score   penalised   from the mean")
for a, row in zip(
    as_lists(rolled)[1], zip(scores, penalised, normalised, strict=True), strict=True
):
    print(f"{plain_text(a):30} {row[0]:8.2f} {row[1]:11.2f} {row[2]:15.3f}")
assert np.allclose(normalised, penalised - stats["mean"])

# %% [markdown]
# ## 5 Rewards: the leash, and the score at the end
#
# Each token pays for leaving the reference: 0.04 for a nat (β in the report). And the last token of
# the answer gets the score. With $d = \log\pi - \log\mathrm{ref}$ of the sampled token:
#
# $$r_t = -0.04\, d_t + (\text{score, at the last token})$$
#
# d is often negative: one token says little about a divergence. Its *mean* over samples of π is the
# divergence. There are other estimators of the same: k2 = d²/2, and k3 = e⁻ᵈ − 1 + d, which is
# never negative.

# %%
d = seen.logprobs - seen.ref_logprobs
rewards = kl_penalty(seen.logprobs, seen.ref_logprobs, rolled.mask, normalised, kl_coef=0.04)
print("token          d = k1       k2       k3   -0.04 d    reward")
for t, token in enumerate(tokens):
    k2, k3 = (kl_estimate(d[b, t], k) for k in ("k2", "k3"))
    print(
        f"{token:12} {d[b, t]:8.4f} {k2:8.4f} {k3:8.4f} {-0.04 * d[b, t]:9.4f} {rewards[b, t]:9.4f}"
    )
by_hand = np.where(rolled.mask, -0.04 * d, 0)
last = rolled.mask.sum(axis=1) - 1
by_hand[np.arange(B), last] += normalised
assert np.allclose(rewards, by_hand)

# %% [markdown]
# ### The whole vocabulary: divergence and entropy
#
# k1, k2 and k3 look at the one token that was sampled. Who has the logits of a place can do without
# sampling. With p of the policy and q of the reference, over all V tokens:
#
# $$\mathrm{KL} = \sum_v p_v\,(\ln p_v - \ln q_v) \qquad H = -\sum_v p_v \ln p_v$$
#
# KL is what the three estimate. H, the **entropy**, says how undecided the policy is: 0 if it is
# sure, ln V if it knows nothing. With $\partial \ln p_v / \partial z_u = [v = u] - p_u$ both have
# short gradients:
#
# $$\frac{\partial\,\mathrm{KL}}{\partial z_u} = p_u\,(\ln p_u - \ln q_u - \mathrm{KL}) \qquad
# \frac{\partial H}{\partial z_u} = -p_u\,(\ln p_u + H)$$
#
# In your head, in units of ln 2: p is (1/2, 1/4, 1/4), q is (1/4, 1/4, 1/2). Then KL is
# 1/2 · 1 + 1/4 · 0 − 1/4 · 1 = 1/4, and H is 1/2 · 1 + 2 · 1/4 · 2 = 3/2.

# %%
p3, q3 = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.25, 0.5]])  # (1, V), used as logits
(kl_3, kl_c), (H_3, H_c) = exact_kl_forward(p3, q3), entropy_forward(p3)
dkl, dH = exact_kl_backward(np.ones(1), kl_c), entropy_backward(np.ones(1), H_c)
print("KL", kl_3 / np.log(2), " its slopes", dkl[0] / np.log(2))
print("H ", H_3 / np.log(2), " its slopes", dH[0] / np.log(2))
assert np.allclose([kl_3, H_3], np.log(2) * np.array([[1 / 4], [3 / 2]]))
assert np.allclose(dkl[0] / np.log(2), [1 / 2 * 3 / 4, 1 / 4 * -1 / 4, 1 / 4 * -5 / 4])
assert np.allclose(dH[0] / np.log(2), [-1 / 2 * 1 / 2, 1 / 4 * 1 / 2, 1 / 4 * 1 / 2])
z_one, z_ref = np.random.default_rng(4).standard_normal((2, 2, 3, 5))  # (B, T, V) each
errors = check_gradients(lambda z: exact_kl_forward(z, z_ref), exact_kl_backward, z_one)
errors += check_gradients(entropy_forward, entropy_backward, z_one)
print("away from finite differences:", *(f"{error:.0e}" for error in errors))

# %% [markdown]
# Now at each place of our answer. And at the place with the largest KL we draw 2,000 tokens instead
# of one, so that the estimators have something to average:

# %%
ref_logits, _ = answer_logits_forward(reference, config, rolled)
exact, entropies = exact_kl_forward(logits, ref_logits)[0], entropy_forward(logits)[0]  # (B, T)
print("token           d = k1   exact KL   entropy")
for t, token in enumerate(tokens):
    print(f"{token:12} {d[b, t]:9.4f} {exact[b, t]:10.4f} {entropies[b, t]:9.4f}")
at = int(exact[b, m].argmax())
log_p, log_q = (z[b, at] - np.log(np.exp(z[b, at]).sum()) for z in (logits, ref_logits))  # (V,)
drawn = np.random.default_rng(3).choice(len(log_p), size=2000, p=np.exp(log_p))
gaps = (log_p - log_q)[drawn]  # d of each

# %%
fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
for kind in ("k1", "k2", "k3"):
    so_far = np.cumsum(kl_estimate(gaps, kind)) / np.arange(1, len(gaps) + 1)
    ax.semilogx(np.arange(1, len(gaps) + 1), so_far, label=f"mean of {kind}")
ax.axhline(exact[b, at], color="black", ls="--", label="exact")
ax.set(xlabel="tokens drawn", ylabel="nats", title=f"divergence at {tokens[at]!r}")
ax.legend()
plt.show()

# %%
print(f"exact {exact[b, at]:.4f}; the mean over all V tokens, and the spread of one:")
for kind in ("k1", "k2", "k3"):
    each = kl_estimate(log_p - log_q, kind)  # (V,)
    mean = (np.exp(log_p) * each).sum()
    print(f"{kind}: {mean:8.4f} {np.sqrt((np.exp(log_p) * (each - mean) ** 2).sum()):8.3f}")
    assert np.isclose(mean, exact[b, at], rtol=1e-9) == (kind != "k2")

# %% [markdown]
# The means of k1 and k3 are the divergence, exactly; that of k2 only while the two models are
# close. Our rewards pay for k1. The entropy is only reported: `entropy_coef` would make it a term
# of the loss, but the report names none. Watch it all the same: a policy that tries nothing new any
# more shows there.
#
# ## 6 Values and advantages
#
# The value model says, *before* each token, how much reward is still to come. So it is read one
# place before the token, where the policy chose it. Then
#
# $$\delta_t = r_t + \gamma V_{t+1} - V_t \qquad A_t = \delta_t + \gamma\lambda A_{t+1} \qquad
# R_t = A_t + V_t$$
#
# δ is the surprise at one token: what came, and what is expected now, less what was expected
# before. The advantage A adds the surprises that follow, each weighing λ = 0.95 times as much as
# the one before. After the last token V and A are 0. By hand, from the end:

# %%
r, V = rewards[b, m], seen.values[b, m]
A, following, V_next = np.zeros(len(r)), 0.0, 0.0
for t in range(len(r) - 1, -1, -1):
    delta = r[t] + 1.0 * V_next - V[t]  # gamma = 1
    A[t] = delta + 1.0 * 0.95 * following
    following, V_next = A[t], V[t]

advantages, returns = gae(rewards, seen.values, rolled.mask, gamma=1.0, lam=0.95)
assert np.allclose(A, advantages[b, m], rtol=1e-12)
print("token          reward    value  advantage   return")
for row in zip(tokens, r, V, A, A + V, strict=True):
    print("{:12} {:8.3f} {:8.3f} {:10.3f} {:8.3f}".format(*row))

# %%
fig, axes = plt.subplots(2, 2, figsize=(11, 5), layout="constrained")
for row, ax in enumerate(axes.flat):
    real = rolled.mask[row]
    x = np.arange(real.sum())
    ax.bar(x - 0.2, rewards[row, real], width=0.4, label="reward", color="0.7")
    ax.bar(x + 0.2, advantages[row, real], width=0.4, label="advantage", color="tab:orange")
    ax.plot(x, seen.values[row, real], "o-", label="value", color="tab:blue")
    words = [shown(tokenizer.decode([i], errors="replace")) for i in rolled.answers[row, real]]
    ax.set_xticks(x, [w.replace("|", "") for w in words])
    ax.axhline(0, color="black", lw=0.7)
axes[0, 0].legend()
plt.show()

# %% [markdown]
# The reward is at the end, the advantage is everywhere: what came in the end is handed back to the
# tokens that led there. Look at row 3, below on the right: the advice is wrong. This young value
# model has not noticed, its line stays up behind that word, and so *all* tokens get the blame. A
# better one would have fallen there, and the blame would go to that token.
#
# ## 7 Whitening
#
# Now the advantages are brought to mean 0 and variance 1, over all tokens of answers. Padding is
# not counted. The *returns* are made before that: otherwise the value model would learn numbers of
# size 1, whatever the rewards are.

# %%
flat = advantages[rolled.mask]
by_hand = (flat - flat.mean()) / np.sqrt(flat.var() + 1e-8)
white = whiten(advantages, rolled.mask)
print(f"before: mean {flat.mean():.3f}, deviation {flat.std():.3f}; tokens {flat.size}")
print(f"after:  mean {white[rolled.mask].mean():.1e}, deviation {white[rolled.mask].std():.6f}")
assert np.allclose(white[rolled.mask], by_hand, rtol=1e-9)
assert not white[~rolled.mask].any()
assert np.allclose((returns - seen.values)[rolled.mask], flat)  # not the whitened ones

# %% [markdown]
# Our file divides by the number of tokens; `torch.var` divides by one less. With few tokens you see
# it.
#
# ## 8 The policy's loss, and both sides of its clip
#
# $$\text{ratio} = \frac{\pi_{\text{now}}}{\pi_{\text{old}}} \qquad L = \text{mean of}\,
# \max(-A\,\text{ratio},\; -A\,\mathrm{clip}(\text{ratio}, 0.8, 1.2))$$
#
# The larger of two losses: the more pessimistic one. (0.8 and 1.2 are ours, the report gives none.)
# Four cases, with A = ±1:

# %%
one = np.ones((1, 1), bool)
print("   A   ratio    loss   gradient of log-probability")
for A_sign, rho in ((1, 1.3), (1, 0.7), (-1, 1.3), (-1, 0.7)):
    new, a = np.log([[rho]]), np.array([[float(A_sign)]])
    loss, cache = ppo_policy_loss_forward(new, np.zeros((1, 1)), a, one, 0.2)
    dlogprob = ppo_policy_loss_backward(1.0, cache)[0, 0] + 0.0  # no -0.0
    print(f"{A_sign:4} {rho:7.1f} {float(loss):7.1f} {dlogprob:10.1f}")
    beyond = (A_sign > 0 and rho > 1.2) or (A_sign < 0 and rho < 0.8)
    assert np.isclose(dlogprob, 0 if beyond else -A_sign * rho)

# %% [markdown]
# A good token that is already 1.3 times as likely: no more profit, gradient 0. But a good token
# that has become *less* likely, 0.7: pulled back in full. The same for bad tokens. **The clip
# limits what may be gained, never what may be repaired.** The value loss has a clip of the same
# kind: a value that has moved more than 0.15 away from the old one in the right direction gets no
# gradient.


# %%
def draw_policy_loss(ax):
    """Draw the loss of a token over the ratio, for A = 1 and A = -1."""
    xs = np.linspace(0.4, 1.6, 241)
    for a, color in ((1.0, "tab:green"), (-1.0, "tab:red")):
        curve = np.maximum(-a * xs, -a * np.clip(xs, 0.8, 1.2))
        ax.plot(xs, curve, color=color, label=f"A = {a:+.0f}")
    ax.axvspan(0.8, 1.2, color="0.5", alpha=0.15)
    ax.set(xlabel="ratio", ylabel="loss", title="policy: flat where it has gained enough")
    ax.legend()


# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
draw_policy_loss(left)
vs = np.linspace(-0.6, 1.4, 401)
for goal, color in ((1.0, "tab:blue"), (0.1, "tab:orange")):
    near = np.clip(vs, -0.15, 0.15)  # the old value is 0
    right.plot(vs, np.maximum((vs - goal) ** 2, (near - goal) ** 2) / 2, color=color)
    right.axvline(goal, color=color, ls=":", label=f"return {goal}")
right.axvspan(-0.15, 0.15, color="0.5", alpha=0.15)
right.set(xlabel="value now (old value 0)", ylabel="loss", title="value: the same idea")
right.legend()
plt.show()

# %%
print("value   old  return     loss   gradient")
for value, old, goal in ((0.5, 0.2, 1.0), (0.5, 0.2, 0.0), (0.3, 0.2, 1.0), (0.1, 0.4, 0.0)):
    arrays = (np.array([[v]]) for v in (value, old, goal))
    loss, cache = ppo_value_loss_forward(*arrays, one, 0.15)
    dvalue = ppo_value_loss_backward(1.0, cache)[0, 0] + 0.0
    print(f"{value:5} {old:5} {goal:7} {float(loss):8.5f} {dvalue:10.2f}")

# %% [markdown]
# Both losses have kinks, where the clip begins. Everywhere else finite differences agree with the
# gradients, for tokens that are clipped, tokens that are not, and padding:

# %%
new_six, old_six, A_six = 0.5 * np.random.default_rng(6).standard_normal((3, 2, 6))
some = np.arange(6) < np.array([[6], [4]])  # two places are padding
for name, forward, backward in (
    ("policy", ppo_policy_loss_forward, ppo_policy_loss_backward),
    ("value", ppo_value_loss_forward, ppo_value_loss_backward),
):
    by = partial(forward, mask=some)
    (error,) = check_gradients(lambda z, by=by: by(z, old_six, A_six), backward, new_six)
    _, cache = by(new_six, old_six, A_six)
    print(f"{name:6} error {error:.0e}, clipped {cache.clip_fraction:.0%} of {some.sum()} tokens")
    assert 0 < cache.clip_fraction < 1

# %% [markdown]
# ## 9 Down to one logit
#
# From a token's log-probability to its logits: $dz = d\log\pi\,(\text{onehot} - p)$. Before the
# first update the ratio is 1, so $d\log\pi = -A / M$ for M tokens. Take the two tokens of our
# answers that are pushed up and down the most.

# %%
experience, _ = make_experience(rolled, scores, seen, now.stats, settings)
loss, objective_c = policy_objective_forward(logits, experience, settings)
dlogits = policy_objective_backward(objective_c)
M = rolled.mask.sum()
assert np.allclose(experience.advantages, white)
assert np.isclose(loss, -white[rolled.mask].mean())  # as the ratio is 1
own = np.take_along_axis(dlogits, rolled.answers[:, :, None], axis=2)[:, :, 0]
best, worst = (np.unravel_index(f(own), own.shape) for f in (np.argmin, np.argmax))
print(f"loss {float(loss):.1e}: the mean of whitened advantages, with a minus")

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
for ax, (row, t) in zip(axes, (best, worst), strict=True):
    z = logits[row, t]
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    sampled = rolled.answers[row, t]
    by_hand = -white[row, t] / M * (np.eye(len(z))[sampled] - p)
    assert np.allclose(dlogits[row, t], by_hand, atol=1e-15)
    likely = np.argsort(-p)[:5]
    likely = likely if sampled in likely else np.append(likely, sampled)
    labels = [shown(tokenizer.decode([i], errors="replace")).replace("|", "") for i in likely]
    colors = ["tab:orange" if i == sampled else "0.6" for i in likely]
    ax.bar(labels, -dlogits[row, t, likely], color=colors)
    ax.set(title=f"row {row}, token {t}: A = {white[row, t]:+.2f}", ylabel="-dz, downhill")
plt.show()

# %% [markdown]
# Orange is the token that was sampled. With a good advantage it is pushed up and all others down,
# each by its share; with a bad one the other way round. Measure one of them:


# %%
def loss_at(change):
    """Return the loss when the logit of the best token is moved."""
    moved_logits = logits.copy()
    moved_logits[(*best, rolled.answers[best])] += change
    return float(policy_objective_forward(moved_logits, experience, settings)[0])


measured = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
ours = dlogits[(*best, rolled.answers[best])]
print(f"measured {measured:.9f}, ours {ours:.9f}")
assert np.isclose(measured, ours, rtol=1e-6)
assert not dlogits[~rolled.mask].any()  # padding gets nothing

# %% [markdown]
# ## 10 The step
#
# All of that is `learn`. It returns the next state and the *glass*: everything that happened. Three
# epochs of one minibatch each, so that two more updates come after the first.

# %%
small = PpoSettings(**(settings.to_dict() | {"minibatches": 1, "epochs": 3, "policy_lr": 2e-3}))
after, glass = learn(now, reference, rolled, scores, small)
found = glass.experience
assert np.allclose(found.rewards, rewards)
assert np.allclose(found.advantages, white)
assert np.allclose(found.returns, returns)
print("update  policy loss  ratio from   to     clipped   value loss  clipped")
for i, (u, v) in enumerate(zip(glass.policy_updates, glass.value_updates, strict=True)):
    rho = u.numbers.ratio[rolled.mask]
    print(f"{i:6} {round(u.loss, 9) + 0.0:12.4f} {rho.min():11.3f} {rho.max():6.3f}", end=" ")
    print(f"{u.numbers.clip_fraction:9.0%} {v.loss:12.4f} {v.numbers.clip_fraction:8.0%}")

# %% [markdown]
# In update 0 all ratios are 1. From then on the policy has moved away from the one that sampled,
# and tokens begin to reach the clip. The old answers are worth less and less: soon it is time for
# new ones.
#
# **The value model is warmed up.** For the first 50 steps (report) only it learns. A policy that
# followed a value model of random numbers would follow noise.

# %%
warming = PpoSettings(**(small.to_dict() | {"value_warmup_steps": 50}))
warmed, warm_glass = learn(now, reference, rolled, scores, warming)
for name in ("policy", "value"):
    before, then = (params_fingerprint(getattr(s, name).params) for s in (now, warmed))
    print(f"{name:6} changed: {before != then}")
    assert (before != then) == (name == "value")
assert not warm_glass.policy_updates

# %% [markdown]
# **The pretraining gradient.** PPO forgets: whatever brings no reward may drift. So the report adds
# the loss of plain text to that of the policy, "ptx". The gradients simply add up. A coefficient
# that is too large hurts the answers, one too small does nothing; the report does not say which it
# took.

# %%
text_rows = pack_documents([chat.ids for chat in chats[:100]], 32, PAD)[:8]
rows, coef = as_batch(text_rows), 0.5
mixed = PpoSettings(**(small.to_dict() | {"ptx_coef": coef}))
_, ptx_loss, both, _ = policy_gradient(now.policy, experience, mixed, text_rows)
_, _, alone, _ = policy_gradient(now.policy, experience, small)
text = loss_and_grads(now.policy.params, config, [rows])
for key in both:
    assert np.allclose(both[key], alone[key] + coef * text.grads[key], atol=1e-13)


def gradient_length(grads):
    """Return the length of a gradient."""
    return float(np.sqrt(sum((g * g).sum() for g in grads.values())))


# %%
cosine = (
    sum((alone[k] * text.grads[k]).sum() for k in alone)
    / gradient_length(alone)
    / gradient_length(text.grads)
)
print(f"text: loss {ptx_loss:.3f}, gradient of length {gradient_length(text.grads):.3f}")
print(f"PPO:  gradient of length {gradient_length(alone):.3f}; cosine between them {cosine:.3f}")
assert np.isclose(ptx_loss, text.loss)

# %% [markdown]
# ## 11 Twenty-four steps, with a leash and without
#
# From the beginning, with β = 0.04 and with β = 0. Watch what the answers are worth, and what they
# look like.


# %%
def run_steps(n, **changes):
    """Return the metrics of n steps from the beginning, and the last policy."""
    changed = PpoSettings(**(settings.to_dict() | changes))
    state, rows = beginning, []
    for _ in range(n):
        state, glass = ppo_step(state, reference, query_ids, worths_of, changed, **control)
        rows.append(metrics_of(glass, state.step, changed))
    return rows, state.policy.params


runs = {"β = 0.04": run_steps(24), "β = 0": run_steps(24, kl_coef=0.0)}

# %%
keys = ("reward", "kl", "entropy", "clip_fraction", "value_loss", "length")
labels = ("true worth", "divergence, nats an answer", "entropy, nats a token")
labels += ("share of tokens clipped", "value loss", "tokens of an answer")
fig, axes = plt.subplots(2, 3, figsize=(12, 5.6), layout="constrained", sharex=True)
for ax, key, label in zip(axes.flat, keys, labels, strict=True):
    for name, (rows, _) in runs.items():
        having = [r for r in rows if key in r]
        ax.plot([r["step"] for r in having], [r[key] for r in having], label=name)
    ax.axvspan(0, settings.value_warmup_steps, color="0.5", alpha=0.12)
    ax.set(title=label)
axes[0, 0].legend()
plt.show()

# %%
SENTENCE_OF_OURS = re.compile(
    "(Please|Just|Then) (find|mend|buy) it(, friend|, dear|, now)*[.]"  # what people wrote
)
policies = {"before": reference} | {name: params for name, (_, params) in runs.items()}
sentences = {}
for name, params in policies.items():
    draw = np.random.default_rng(2)
    options = {"max_new_tokens": 16, "responses_per_query": 8, "rng": draw, **control}
    answers = as_lists(rollout(params, config, query_ids, top_p=0.9, **options))
    texts, value = [plain_text(a) for a in answers[1]], worths_of(*answers).mean()
    sentences[name] = np.mean([bool(SENTENCE_OF_OURS.fullmatch(text)) for text in texts])
    print(f"{name:9} worth {value:4.2f}, sentences {sentences[name]:.0%}  {texts[:129:64]}")

# %%
for name, (rows, _) in runs.items():
    early, late = (np.mean([r["reward"] for r in part]) for part in (rows[:4], rows[-4:]))
    divergence = np.mean([r["kl"] for r in rows[-4:]])
    print(f"{name:9} worth {early:.2f} -> {late:.2f}, divergence {divergence:.2f} nats")
    assert late > early + 1

# %% [markdown]
# Grey is the warm-up: the policy stands still. Then the worth grows fast, towards 4.5, the most
# that an answer can have: the advice that fits, and three kind words.
#
# Now read the last answers. `worth` counts words, and does not mind what else stands there. So what
# follows the third kind word is free, and without a leash some of the answers end in rubbish. With
# it, each token that the reference finds odd costs something. No reward sees everything; the leash
# is for what it does not see. But this is *one seed*, and a program as the reward. Call
# `run_steps(24, kl_coef=0.0, seed=1)`, and you may see nothing of the kind. `minqwen lab alignment`
# measures it with a learned reward, over more steps and several seeds.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. The score at every token.** What breaks if the score is added to each token of the
# answer, and not to the last one only? An answer has 5 tokens and the score 2. Let γ = λ = 1, all
# values 0, no price for divergence. What is the return of its first token, rightly and wrongly? Two
# numbers.

# %%
answer_1 = None  # [.., ..]

# %% [markdown]
# <details><summary>Solution</summary>
#
# With γ = 1 the return is the sum of the rewards that follow: 2, and 5 · 2. So long answers seem to
# be worth more, and they will get longer.
#
# ```python
# answer_1 = [2, 10]
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    five = np.ones((1, 5), bool)
    zero = np.zeros((1, 5))
    given = kl_penalty(zero, zero, five, np.array([2.0])), np.full((1, 5), 2.0)
    firsts = [gae(r, zero, five, gamma=1.0, lam=1.0)[1][0, 0] for r in given]
    print("rewards:", given[0][0], "and", given[1][0])
    assert np.allclose(answer_1, firsts), "no; add up what is still to come"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. Whitening with the padding.** Two tokens have the advantages 1 and 3, two more
# places are padding, with 0. What is the mean of the two whitened advantages, if the padding is
# counted in mean and variance? (It should be 0.) To two digits.

# %%
answer_2 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# The mean of 1, 3, 0, 0 is 1, the variance (0 + 4 + 1 + 1) / 4 = 1.5. The two become 0 and 2 /
# √1.5.
#
# ```python
# answer_2 = (0 + 2 / np.sqrt(1.5)) / 2
# ```
#
# Both tokens seem to be better than usual, only because there is padding.
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    x, real = np.array([[1.0, 3.0, 0.0, 0.0]]), np.array([[True, True, False, False]])
    wrong, right = whiten(x, np.ones_like(real)), whiten(x, real)
    print("with the padding", wrong[0], " without", right[0])
    assert abs(answer_2 - wrong[real].mean()) < 0.01, "no; mean and variance of four numbers"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. The sign of the leash.** What breaks if the divergence is *paid* and not charged:
# $r = +0.04\,d$? The run of section 11 again, with this mistake and a score of 0 for all answers.
# After 12 steps, is the divergence from the reference larger than with the right sign, or smaller?

# %%
answer_3 = None  # "larger" or "smaller"

# %% [markdown]
# <details><summary>Solution</summary>
#
# The policy is rewarded for being elsewhere, and nothing else is asked of it: it runs away. In a
# real run the score hides this for a while. The sign to look for: the reward grows *with* the
# divergence, although the scores do not.
#
# ```python
# answer_3 = "larger"
# ```
#
# </details>


# %%
def nothing(some_queries, answers):
    """Score all answers alike."""
    return np.zeros(len(answers))


# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    divergence = {}
    for sign in (1, -1):
        # PpoSettings would refuse a minus; this looks like one and refuses nothing
        values = vars(settings) | {"value_warmup_steps": 1, "kl_coef": sign * 0.04}
        state, charged = beginning, SimpleNamespace(**values)
        for _ in range(12):
            state, glass = ppo_step(state, reference, query_ids, nothing, charged, **control)
        divergence[sign] = metrics_of(glass, state.step, charged)["kl"]
    print(f"right sign {divergence[1]:.3f}, wrong sign {divergence[-1]:.3f} nats")
    assert (answer_3 == "larger") == (divergence[-1] > divergence[1]), "no; what is rewarded?"
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** Read section 3.2.2 of the Qwen report, then `minqwen/alignment/ppo_step.py`.
# `minqwen ppo prompts.jsonl ...` runs it with a reward model of yours, and draws these curves into
# `metrics.png`. `minqwen check gae` looks at advantages that you wrote. Notebook 20 does without
# all of that.

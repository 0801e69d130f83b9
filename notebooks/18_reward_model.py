# %% [markdown]
# # The reward model
#
# *Made from `18_reward_model.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# What is a good answer? People find it hard to give marks, and easy to say which of two answers
# they like better. A reward model turns such choices into one number for each answer (Qwen report,
# 3.2.1). PPO, in notebook 19, then makes that number grow.
#
# ## What you will do
#
# - Let "people" choose between answers, and turn their choices into pairs of chats.
# - Read a reward at the token that ends an answer, by hand and by code, and read it wrongly.
# - Compute the pairwise loss in your head, and prove its gradient.
# - Train a reward model in some seconds. Is it right? Is it as sure as it should be?
#
# ## What you will learn
#
# - Why only differences of rewards mean something.
# - Why the reward stands at the end token, and what padding may do to it: nothing.
# - Why no reward model can agree with all choices, and how to see that one is too sure.
#
# ## What you need
#
# ChatML (notebook 17), NumPy with matplotlib. 20 minutes; it computes for about 15 seconds. Beside
# this page, open `minqwen/alignment/pairwise_loss.py` and `reward_head.py`.

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
from minqwen.alignment.calibration import calibration
from minqwen.alignment.pairwise_loss import pairwise_loss_backward, pairwise_loss_forward
from minqwen.alignment.preference_pairs import encode_pairs
from minqwen.alignment.reward_head import last_real, reward_head_backward, reward_head_forward
from minqwen.alignment.reward_model import (
    SCORE,
    pad_answers,
    pair_rewards,
    reward_backward,
    reward_forward,
    rewards_of,
    to_reward_model,
)

# %%
from minqwen.alignment.reward_training import reward_loss_forward, train_reward_model
from minqwen.alignment.settings import RewardSettings, SftSettings

# %%
from minqwen.alignment.sft import sft
from minqwen.check.gradients import check_gradients
from minqwen.commands.tokenize import print_chat, shown
from minqwen.data.records import PreferenceRecord
from minqwen.model.backbone import backbone_forward
from minqwen.model.config import QwenConfig
from minqwen.model.init import init_params
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
# ## 1 People choose
#
# Two answers to one message, and somebody says which is better. People do not agree with each
# other, nor with themselves. Bradley and Terry's model of that: the answer that is worth x more is
# chosen with probability
#
# $$\sigma(x) = \frac{1}{1 + e^{-x}}$$


# %%
def choose(happened, one, other):
    """Return the two answers, the chosen one first, as somebody might choose."""
    ahead = worth(happened, one) - worth(happened, other)
    return (one, other) if rng.random() < 1 / (1 + np.exp(-ahead)) else (other, one)


# %%
def draw_comparisons(n):
    """Return n comparisons: what happened, the message, the chosen and the rejected answer."""
    found = []
    while len(found) < n:
        happened, message = trouble()
        one, other = people_say(happened), people_say(happened)
        if one != other:  # nothing to choose
            found.append((happened, message, *choose(happened, one, other)))
    return found


# %%
seen, unseen = draw_comparisons(800), draw_comparisons(400)
print(f"{'message':20} {'chosen':34} worth   {'rejected':30} worth")
for happened, message, *both in seen[:6]:
    good, bad = both
    left = f"{message:20} {good:34} {worth(happened, good):5.1f}"
    print(f"{left}   {bad:30} {worth(happened, bad):5.1f}")
gaps = np.array([worth(h, good) - worth(h, bad) for h, _, good, bad in unseen])
print(f"worth more: chosen {np.mean(gaps > 0):.0%}, rejected {np.mean(gaps < 0):.0%},", end=" ")
print(f"both the same {np.mean(gaps == 0):.0%}")

# %% [markdown]
# Some chosen answers are the worse ones. That is not a mistake in the data: it is what choices are.
# So nobody can agree with all of them. The best that can be done, by one who knows the true worth
# and guesses where both are worth the same:

# %%
ceiling = np.mean((gaps > 0) + 0.5 * (gaps == 0))
print(f"the true worth agrees with {ceiling:.1%} of the choices")
assert 0.6 < ceiling < 0.95

# %% [markdown]
# A **pair** is two chats with the same beginning. What stands behind the `<|im_end|>` of the answer
# is cut off, so that the last token of each chat is its end token.


# %%
def as_record(message, chosen, rejected, line=1):
    """Return one line of a file of preferences; see data/records.py."""
    turns = [
        [{"role": role, "content": content}]
        for role, content in (("user", message), ("assistant", chosen), ("assistant", rejected))
    ]
    return PreferenceRecord(*turns, None, {}, line)


# %%
def encoded(comparisons):
    """Return comparisons as pairs of chats."""
    records = [as_record(*comparison[1:]) for comparison in comparisons]
    return encode_pairs(tokenizer, records, template=PLAIN).pairs


pairs, unseen_pairs = encoded(seen), encoded(unseen)
print_chat(pairs[0].chosen, [tokenizer.decode([i]) for i in pairs[0].chosen.ids], coloured=False)
assert all(chat.ids[-1] == END for pair in pairs for chat in pair)

# %% [markdown]
# Two equal answers teach nothing. Such a record is left out, and you are told:

# %%
records = [as_record("I lost the cup.", *["Then find it."] * 2), as_record(*seen[0][1:])]
print(encode_pairs(tokenizer, records, template=PLAIN).left_out)

# %% [markdown]
# ## 2 One number for an answer
#
# A language model ends with a table that turns each hidden state into a logit for every token. The
# reward model has a single row in its place, w, and uses it once:
#
# $$r = \langle w, h_{\text{end}} \rangle$$
#
# Attention is causal. So the end token is the first that has seen the whole answer. The report
# calls this "a pooling layer".

# %%
reward_config, start = to_reward_model(policy, config, np.random.default_rng(0))
wide = {key: w.astype("float64") for key, w in start.items()}
chats = [pairs[0].chosen, pairs[0].rejected]
input_ids, real = pad_answers(chats, PAD)
hidden, _ = backbone_forward(wide, reward_config, input_ids, attention_mask=real)
end = last_real(real)
print("hidden", hidden.shape, " w", wide[SCORE].shape, " the answers end at", end)

by_hand = [hidden[b, end[b]] @ wide[SCORE][0] for b in range(2)]
by_code, cache = reward_forward(wide, reward_config, input_ids, real)
print("by hand", np.array(by_hand), " by code", by_code)
assert np.allclose(by_hand, by_code, rtol=1e-13)

# %% [markdown]
# Padding must not matter: more of it, or on the other side, and the reward stays. Reading at the
# last place of the row, padding or not, is the usual mistake.

# %%
lone_ids, lone_real = pad_answers(chats[:1], PAD)
right = {"no padding": ((0, 0), -1), "3 right": ((0, 3), -4), "3 left": ((3, 0), -1)}
print("padding      at the end token   at the last place")
for name, (extra, at) in right.items():
    ids = np.pad(lone_ids, ((0, 0), extra), constant_values=PAD)
    is_real = np.pad(lone_real, ((0, 0), extra))
    reward, _ = reward_forward(wide, reward_config, ids, is_real)
    states, _ = backbone_forward(wide, reward_config, ids, attention_mask=is_real)
    print(f"{name:12} {reward[0]:16.6f} {states[0, -1] @ wide[SCORE][0]:19.6f}")
    assert np.isclose(reward[0], by_hand[0], rtol=1e-12)
    assert np.isclose(states[0, at] @ wide[SCORE][0], by_hand[0], rtol=1e-12)

# %% [markdown]
# The gradient comes in through the end token only: $dh_{\text{end}} = dr\,w$, and 0 at all other
# tokens. From there, attention hands it on to the tokens before.

# %%
_, head_c = reward_head_forward(hidden, wide[SCORE], end)
dhidden, dw = reward_head_backward(np.array([1.0, -1.0]), head_c)
touched = np.argwhere(np.abs(dhidden).sum(axis=2) > 0)
print("row and place of the tokens with a gradient:", touched.tolist())
assert touched.tolist() == [[0, end[0]], [1, end[1]]]
assert np.allclose(dw[0], hidden[0, end[0]] - hidden[1, end[1]])

# %% [markdown]
# ## 3 The pairwise loss
#
# Let x be the reward of the chosen answer less that of the rejected one. By Bradley and Terry the
# choice had the probability σ(x), so the surprise is
#
# $$\text{loss} = -\log \sigma(x) = \log(1 + e^{-x}) \qquad
# \frac{d\,\text{loss}}{dx} = -\sigma(-x)$$
#
# In your head: at x = 0 the loss is ln 2 = 0.6931 and the slope -1/2. At 1 and -1 the losses differ
# by 1, because $\log(1 + e^{1}) = 1 + \log(1 + e^{-1})$.

# %%
print("   x      loss   slope, chosen    rejected")
for x in (0.0, 1.0, -1.0, 5.0, -5.0):
    loss, pair_c = pairwise_loss_forward(np.array([x]), np.zeros(1))
    dchosen, drejected = pairwise_loss_backward(1.0, pair_c)
    print(f"{x:4.0f} {loss:9.6f} {dchosen[0]:12.6f} {drejected[0]:12.6f}")
    assert np.isclose(loss, np.log(1 + np.exp(-x)), rtol=1e-14)
    assert np.isclose(dchosen[0], -1 / (1 + np.exp(x)), rtol=1e-14)
    assert dchosen[0] == -drejected[0]

# %% [markdown]
# A pair that is right by far pulls with nearly 0, a wrong one with nearly 1. The two slopes cancel:
# the loss pushes rewards *apart*, and says nothing of where they are.

# %%
x = np.linspace(-6, 6, 200)
losses, slopes = np.log1p(np.exp(-x)), -1 / (1 + np.exp(x))
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
left.plot(x, losses, label="loss")
left.plot(x, np.maximum(-x, 0), "--", color="0.5", label="max(-x, 0)")
left.set(xlabel="chosen reward - rejected reward", ylabel="nats", title="surprise at the choice")
left.legend()
right.plot(x, slopes, color="tab:orange")
right.set(xlabel="chosen reward - rejected reward", title="its slope")
plt.show()

# %%
chosen, rejected = rng.standard_normal((2, 5))
for shift in (0.0, 1000.0):
    print("shift", shift, "loss", pairwise_loss_forward(chosen + shift, rejected + shift)[0])

# %% [markdown]
# So a reward of 3 means nothing by itself. PPO subtracts a running mean for this reason.
#
# ## 4 Proof of the gradient
#
# Finite differences know nothing of our formulas. First the loss alone, then the whole model: each
# parameter array is moved a little along a random direction.

# %%
errors = check_gradients(pairwise_loss_forward, pairwise_loss_backward, chosen, rejected)
print("loss alone:", [f"{error:.0e}" for error in errors])


def loss_of(params):
    """Return the loss of the first pair."""
    rewards, _ = reward_forward(params, reward_config, input_ids, real)
    return float(pairwise_loss_forward(rewards[:1], rewards[1:])[0])


_, pair_c = pairwise_loss_forward(by_code[:1], by_code[1:])
grads = reward_backward(np.concatenate(pairwise_loss_backward(1.0, pair_c)), cache)

# %%
worst = 0.0
for key, w in wide.items():
    along = rng.standard_normal(w.shape)
    up, down = (loss_of(wide | {key: w + step * along}) for step in (1e-5, -1e-5))
    measured, ours = (up - down) / 2e-5, float((grads[key] * along).sum())
    worst = max(worst, abs(measured - ours) / np.abs(grads[key] * along).sum())
print(f"{len(wide)} parameter arrays, the largest error is {worst:.0e}")
assert worst < 1e-7

# %% [markdown]
# ## 5 Training
#
# From the model that was tuned on answers, with a fresh row w. The report trains for one epoch, so
# it sees a pair once; we have few pairs, and see each four times.

# %%
settings = RewardSettings(
    steps=200, batch_size=16, peak_lr=1e-3, warmup_steps=10, eval_every=20, checkpoint_every=200
)
options = {"pad_id": PAD, "progress": False, "plot": False}
trained = train_reward_model(
    reward_config,
    start,
    pairs,
    folder / "reward",
    settings,
    validation_pairs=unseen_pairs,
    **options,
)

# %%
history = Metrics.read(folder / "reward")
steps = np.array([r["step"] for r in history if "loss" in r])
checks = [r for r in history if "validation_loss" in r]

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
for ax, key in zip(axes, ("loss", "accuracy"), strict=True):
    raw = np.array([r[key] for r in history if "loss" in r])
    smooth = [raw[max(0, i - 19) : i + 1].mean() for i in range(len(raw))]
    ax.plot(steps, smooth, label="trained on, mean of 20 steps")
    where, values = [r["step"] for r in checks], [r[f"validation_{key}"] for r in checks]
    ax.plot(where, values, "o-", label="not seen")
    ax.set(xlabel="step", title=key)
axes[0].axhline(np.log(2), color="0.5", ls=":")
axes[1].axhline(ceiling, color="0.5", ls=":", label="the true worth")
axes[1].legend()
plt.show()

# %% [markdown]
# The loss begins near ln 2, the dotted line on the left: a coin. Now two accuracies on pairs that
# were not seen. How often does the model agree with the *choice*? And how often with the *true
# worth*, which it was never told?

# %%
margins = np.subtract(*pair_rewards(trained, reward_config, unseen_pairs, PAD)).astype(float)
clear = gaps != 0
agrees = np.mean(margins > 0)
knows = np.mean((margins > 0)[clear] == (gaps > 0)[clear])
print(f"agrees with the choice:     {agrees:.1%} (the true worth: {ceiling:.1%})")
print(f"agrees with the true worth: {knows:.1%}")
assert knows > agrees
assert knows > 0.9

# %%
fig, ax = plt.subplots(figsize=(5.2, 4.4), layout="constrained")
jitter = 0.12 * rng.standard_normal(len(gaps))
ax.scatter(gaps + jitter, margins, s=8, alpha=0.5)
ends = [gaps.min(), gaps.max()]
ax.plot(ends, ends, color="0.4", lw=0.8, label="equal")
ax.set(xlabel="true worth, chosen - rejected", ylabel="reward, chosen - rejected")
ax.set_title("learned from choices alone")
ax.legend()
plt.show()
# %%
print("correlation", np.corrcoef(gaps, margins)[0, 1].round(3))

# %% [markdown]
# From noisy choices the model found what they have in common. And what does it like?

# %%
for answer in ("Please find it, friend.", "Then find it.", "Just find it, now.", "Please buy it."):
    turns = [{"role": "user", "content": "I lost the cup."}]
    turns.append({"role": "assistant", "content": answer})
    ids, mask = encode_chat(tokenizer, turns, template=PLAIN)
    until = len(ids) - ids[::-1].index(END)  # cut off the line end behind the end token
    chat = Chat(ids[:until], mask[:until])
    reward = rewards_of(trained, reward_config, [chat], PAD)[0]
    print(f"{answer:26} reward {reward:6.2f}   true worth {worth('lost', answer):4.1f}")

# %% [markdown]
# ## 6 As sure as it should be
#
# A margin is a prediction: σ(|margin|) is how often the preferred answer should win. Sort the pairs
# by this number, and look how often the model was right in each group. Then the same for a model
# that has seen 60 pairs, 53 times each.

# %%
few = train_reward_model(reward_config, start, pairs[:60], folder / "few", settings, **options)
few_margins = np.subtract(*pair_rewards(few, reward_config, unseen_pairs, PAD)).astype(float)
fig, axes = plt.subplots(1, 2, figsize=(9.6, 4), layout="constrained", sharey=True)
found = {}
cases = ("800 pairs, 4 times", margins), ("60 pairs, 53 times", few_margins)
for ax, (name, m) in zip(axes, cases, strict=True):
    found[name] = c = calibration(m, bins=5)
    ax.plot([0.5, 1], [0.5, 1], "--", color="0.5", label="as often as it says")
    some = c.counts > 0
    ax.plot(c.predicted[some], c.right[some], "o-")
    ax.set(xlabel="predicted probability", title=f"{name}: error {c.error:.2f}", ylim=(0.3, 1.02))
axes[0].set_ylabel("share that was right")
axes[0].legend()
plt.show()

# %%
for name, c in found.items():
    print(f"{name:20} accuracy {c.accuracy:.2f}, calibration error {c.error:.3f}, pairs {c.counts}")
errors = [c.error for c in found.values()]
assert errors[1] > 2 * errors[0]

# %% [markdown]
# The second model is sure of nearly everything (see where its pairs are) and often wrong. Its
# training loss is near 0. An optimizer that follows it will go where it is sure, right or wrong.
# The report trains for a single epoch, and measures on pairs that were not seen.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. The pad is the end.** What breaks if rows are padded with `<|im_end|>`, and the code
# reads the reward at the last token that is *not the pad id*? An answer is `Then find it.` and its
# `<|im_end|>`. At which token is the reward read? Answer with its text.

# %%
answer_1 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# The end token looks like padding, so the token before it is read: the full stop. This works nearly
# as well, and no test with another pad id shows it. In transformers' sequence classifiers the rule
# is this one. Here lengths say what is padding, never ids.
#
# ```python
# answer_1 = "."
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    turns = [{"role": "user", "content": "I lost the cup."}]
    turns.append({"role": "assistant", "content": "Then find it."})
    ids = np.array(encode_chat(tokenizer, turns, template=PLAIN).ids[:-1] + [END] * 3)
    at = {pad: int(np.flatnonzero(ids != pad)[-1]) for pad in (END, PAD)}
    print("read at:", shown(tokenizer.decode([ids[at[END]]])))
    assert answer_1 == tokenizer.decode([ids[at[END]]]), "no; go back from the end of the row"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. The logarithm of nothing.** What breaks if the loss is written as
# `-np.log(1 / (1 + np.exp(-x)))`? A pair is ranked wrongly by 800. What is its loss, written
# rightly, and what, written like this? Two numbers.

# %%
answer_2 = None  # [.., ..]

# %% [markdown]
# <details><summary>Solution</summary>
#
# log(1 + e^800) is 800 to all digits. But e^800 is infinite in float64, σ is then 0, and its
# logarithm minus infinity.
#
# ```python
# answer_2 = [800, np.inf]
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    far = np.array([-800.0])
    loss, _ = pairwise_loss_forward(far, np.zeros(1))
    with np.errstate(over="ignore", divide="ignore"):
        naive = float(-np.log(1 / (1 + np.exp(-far)))[0])
    print("rightly", loss, " naively", naive)
    assert np.allclose(answer_2, [loss, naive]), "no; e^800 does not fit into a float64"
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. The drift.** Rewards may drift together, as only differences count. What does
# `center_coef=0.01` add to the loss of a pair with rewards 11 and 9? (The term is the coefficient
# times the mean of the squared sum.)

# %%
answer_3 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_3 = 0.01 * (11 + 9) ** 2
# ```
#
# The pairwise loss of the pair is log(1 + e^-2), about 0.13. So the drift costs 30 times as much as
# the ranking: it cannot stay.
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    both = np.array([11.0]), np.array([9.0])
    with_term, without = (float(reward_loss_forward(*both, coef)[0]) for coef in (0.01, 0.0))
    assert np.isclose(answer_3, with_term - without), "no; (chosen + rejected)^2"
    print(f"ranking {without:.3f}, drift {with_term - without:.3f}")
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** Read section 3.2.1 of the Qwen report and its Table 4, then
# `minqwen/alignment/reward_training.py`. `minqwen reward pairs.jsonl ...` trains on a file of
# yours, and `minqwen check pairwise_loss` looks at a loss that you wrote. Notebook 19 lets a policy
# loose on a reward; notebook 20 does without a reward model.

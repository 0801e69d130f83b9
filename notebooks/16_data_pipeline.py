# %% [markdown]
# # The data pipeline: which text to train on
#
# *Made from `16_data_pipeline.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# Before a model sees one token, somebody has thrown most of the web away. Qwen drops what is there
# twice, exactly or nearly, drops what is not good text, and mixes the rest (report, 2.1). No number
# is given there. So here we measure what each number does.
#
# ## What you will do
#
# - Compare two sentences by hand, in English and in Chinese, and estimate the same from short
#   signatures.
# - Find the copies among 200 documents without looking at all pairs, and measure what is missed.
# - Break the hash functions on purpose, and see that nothing looks broken.
# - Judge five documents by rules, train a classifier and a small model that judge too.
# - Mix sources, pack documents into rows, and run `minqwen dedup` and `minqwen filter` on a folder.
#
# ## What you will learn
#
# - Why shingles are made of characters, and why five.
# - What a signature of 240 numbers knows, and how exactly.
# - What the S-curve promises, and why a chain of copies loses text.
# - What no MinHash will ever find.
#
# ## What you need
#
# NumPy with matplotlib; sections 10 and 12 use a model as in notebook 02. Section 9 needs
# py3langid (`pip install "minqwen[data]"`), and says so where it is missing. Twice 20 minutes: rest
# after part one, which is about copies and needs nothing of what follows. It computes for about 15
# seconds. Beside this page, open `minqwen/data/shingles.py`, `minhash.py`, `lsh.py` and
# `quality_rules.py`.

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
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread only waits

import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(0)
folder = Path(tempfile.mkdtemp())
np.set_printoptions(precision=4, suppress=True)
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})

# %%
from minqwen.data.corpora import bilingual_stories, python_reference, standard_library_code
from minqwen.data.exact_dedup import exact_dedup, first_copies, normalise
from minqwen.data.fast_sketch import fast_sketch, sketch_sets
from minqwen.data.fuzzy_dedup import fuzzy_dedup, join, root
from minqwen.data.lsh import lsh_candidates, lsh_choose, lsh_keys, lsh_probability
from minqwen.data.minhash import hashes, minhash_family, minhash_jaccard, minhash_signature
from minqwen.data.shingles import PRIME, jaccard, shingles
from minqwen.lab.dedup_changes import EXACT, NEAR, change_words, fill_anew
from minqwen.lab.dedup_corpus import halves, passages

# %% [markdown]
# ## Part one: copies
#
# ### 1 The same text twice
#
# A copy is seldom the same bytes. Line ends differ, an é is one character or two. So texts are
# brought into one form first, and only that form is compared:

# %%
texts = [
    "Café au lait, please.",
    "Cafe\u0301  au lait,\n please.",  # e, then an accent that stands above it
    "CAFÉ AU LAIT, PLEASE.",
    "Café au lait please.",
]
folded = [normalise(text, case=True) for text in texts]
print("same string:    ", [text == texts[0] for text in texts])
print("same normalised:", [normalise(text) == normalise(texts[0]) for text in texts])
print("case folded too:", [text == folded[0] for text in folded])

# %% [markdown]
# The pipeline then remembers a digest of 16 bytes for each form, and the first document that had
# it. Here it is by hand, with the whole text in place of the digest:

# %%
first = {}
by_hand = [first.setdefault(normalise(text), i) for i, text in enumerate(texts)]
assert by_hand == list(first_copies(texts)) == [0, 0, 2, 3]
print("first one like it:", by_hand)
print(exact_dedup(texts))

# %% [markdown]
# The first stays, and every other says which one it is a copy of. Two warnings. White space has a
# meaning in code, and there the form must keep it. And one missing comma makes a new text:
# document 3 stayed. That is what the rest of part one is for.

# %%
inside, outside = "if late:\n    run()\n    stop()", "if late:\n    run()\nstop()"
assert normalise(inside) == normalise(outside)  # two programs, one form
assert normalise(inside, white_space=False) != normalise(outside, white_space=False)

# %% [markdown]
# ### 2 Shingles
#
# Cut a text into all its runs of k characters, and forget where they stood. These are its
# *shingles*. Two texts are as like as their sets:
#
# $$J = \frac{|S_1 \cap S_2|}{|S_1 \cup S_2|}$$


# %%
def runs(text, k):
    """Return all runs of k characters."""
    return {text[i : i + k] for i in range(len(text) - k + 1)}


one, other = "the cat sat on the mat", "the cat sat on a mat"
A, B = runs(one, 5), runs(other, 5)
print(len(A), "and", len(B), "shingles; not in both:", sorted(A ^ B))
print(f"J = {len(A & B)} / {len(A | B)} = {len(A & B) / len(A | B):.4f}")
assert len(A & B) / len(A | B) == jaccard(shingles(one, 5), shingles(other, 5))

# %% [markdown]
# Characters and not words, because Chinese does not put spaces between words. There a sentence
# would be one single word, and either the same or wholly another. With runs of two characters:

# %%
chinese = "小猫坐在垫子上", "小猫坐在椅子上"  # the kitten sits on the mat; on the chair
A, B = (runs(text, 2) for text in chinese)
print("in both:", sorted(A & B), " in one:", sorted(A ^ B))
print("J by characters", len(A & B) / len(A | B))
A, B = (set(text.split()) for text in chinese)
print("J by words     ", len(A & B) / len(A | B))

# %% [markdown]
# **Which k?** One changed character changes k shingles, so a large k is severe. A small k is blind:
# all English texts have the same letters.

# %%
reference = [p for topic in python_reference() for p in passages(topic)]
page, unlike = reference[0], reference[600]
changed = change_words(page, 0.05, rng)
print(len(page), "characters;  k   J with 5 % of the words changed   J with another page")
for k in (1, 2, 3, 5, 8, 16):
    J = [jaccard(shingles(page, k), shingles(text, k)) for text in (changed, unlike)]
    print(f"{k:19} {J[0]:20.2f} {J[1]:27.2f}")

# %% [markdown]
# At k = 5 the two are far apart. From here on k is 5 and "alike" means J of at least 0.7.
#
# ### 3 MinHash
#
# A web page has a thousand shingles, and there are a thousand million pages. The idea that made
# this possible (Broder 1997): give all shingles a random order, and of each document keep only the
# *least* one. When do two documents keep the same? The least shingle of both sets together is in
# both sets, or in one. Every shingle is the least with the same chance. So:
#
# $$P(\text{the same}) = \frac{\text{shingles in both}}{\text{all shingles}} = J$$
#
# One random order, by hand. A hash function h makes it:

# %%
x, y = (shingles(text, 2) for text in chinese)
every = np.union1d(x, y)
name = {int(shingles(run, 2)[0]): run for text in chinese for run in runs(text, 2)}
family = minhash_family(num_perm=240, seed=0)  # 240 hash functions
H = hashes(every, family)  # (240, 8): each function, each shingle
in_x, in_y = np.isin(every, x), np.isin(every, y)
for i in np.argsort(H[0]):
    where = ("x" if in_x[i] else " ", "y" if in_y[i] else " ")
    print(name[int(every[i])], f"{H[0, i] / PRIME:.3f}", *where)

# %% [markdown]
# The first line decides: in x and y, or in one. Now all 240 orders. `signature` is the least hash
# under each function. The share of equal entries must be how often the least one was in both:

# %%
signature_x, signature_y = minhash_signature(x, family), minhash_signature(y, family)
assert (signature_x == H[:, in_x].min(axis=1)).all()
least = H.argmin(axis=1)  # which of the 8 shingles comes first
estimate = minhash_jaccard(signature_x, signature_y)
assert estimate.jaccard == (in_x & in_y)[least].mean()
print("how often each was the least:", np.bincount(least), "; fair would be 30 each, ± 5")
print(estimate, "; the truth is 0.5")

# %% [markdown]
# **240 throws of a coin** that shows heads with the chance J: that is all a signature is. So its
# standard error is $\sqrt{J(1-J)/P}$, whatever the length of the documents. We check that on pairs
# of sets whose J we know, because we made them.


# %%
def sets_with(similarity, size):
    """Return two random sets of numbers, and their true Jaccard similarity."""
    numbers = rng.integers(0, PRIME, size, dtype=np.uint64)
    common = round(similarity * size)
    alone = (size - common) // 2
    return numbers[: alone + common], numbers[alone:], common / size


def by_minhash(a, b, family=family):
    """Return the estimate of the similarity of two sets."""
    return minhash_jaccard(minhash_signature(a, family), minhash_signature(b, family)).jaccard


# %%
pairs = [sets_with(similarity, 300) for similarity in np.repeat(np.linspace(0, 1, 21), 8)]
truth = np.array([J for _, _, J in pairs])
found = np.array([by_minhash(a, b) for a, b, _ in pairs])

# %%
J = np.linspace(0, 1, 201)
sigma = np.sqrt(J * (1 - J) / 240)
fig, ax = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
ax.fill_between(J, J - 3 * sigma, J + 3 * sigma, alpha=0.2, label="3 standard errors")
ax.plot(J, J, lw=0.8)
ax.scatter(truth, found, s=8, color="black", label="a pair of sets")
ax.set(xlabel="true J", ylabel="estimate", title="240 entries know J to about 0.03")
ax.legend()
plt.show()
outside = np.abs(found - truth) > 3 * np.sqrt(truth * (1 - truth) / 240)
print(outside.sum(), "of", len(outside), "pairs are outside; 0.3 % would be by chance")
assert outside.sum() <= 3

# %% [markdown]
# #### Something broken on purpose
#
# 240 hash functions cost 240 times as much as one. A tempting trick: one hash only, and 240 random
# masks, $h_j(x) = h(x) \oplus m_j$. Every h_j is a fine order by itself. The estimate has no bias.
# All looks well. Measure how far it is off, in standard errors, for documents that have 40 shingles
# together, and 1000:

# %%
masks = rng.integers(0, PRIME, 240, dtype=np.uint64)[:, None]


def by_masks(a, b):
    """Return the estimate with one hash function and 240 masks."""
    return ((masks ^ a).min(axis=1) == (masks ^ b).min(axis=1)).mean()


errors = {}
for size, pairs in ((40, 400), (1000, 150)):
    for how, estimate in (("240 functions", by_minhash), ("240 masks", by_masks)):
        J_hat = [estimate(*sets_with(0.5, size)[:2]) for _ in range(pairs)]
        z = errors[size, how] = (np.array(J_hat) - 0.5) / np.sqrt(0.5 * 0.5 / 240)
        print(f"{size:5} shingles, {how:13}: mean {z.mean():5.2f}, spread {z.std():.2f}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3), sharex=True, sharey=True, layout="constrained")
for ax, size in zip(axes, (40, 1000), strict=True):
    for how in ("240 functions", "240 masks"):
        ax.hist(errors[size, how], np.arange(-6.5, 7), alpha=0.5, density=True, label=how)
    ax.set(title=f"{size} shingles", xlabel="error, in standard errors")
axes[0].legend()
plt.show()
assert 0.8 < errors[40, "240 functions"].std() < 1.2 < 1.6 < errors[40, "240 masks"].std()

# %% [markdown]
# The masks do not make 240 independent throws. With 40 shingles there are only so many that can
# come first, and the same ones win under many masks. The error is twice what the formula says, as
# if the signature had only 60 entries. On long documents nobody sees it. A test that asks only for
# "no bias", or only for long texts, passes.
#
# Another trap sits inside one function, $h(x) = (a x + b) \bmod p$ with $p = 2^{61} - 1$. The
# product has 122 bits, a number here has 64. NumPy wraps without a word:

# %%
a, b = family.a[:1], family.b[:1]
exact = [(int(a[0]) * int(n) + int(b[0])) % PRIME for n in every[:3]]  # Python does not wrap
wrapped = (a * every[:3] + b) % PRIME
print("exact  ", exact)
print("wrapped", wrapped.tolist())
assert hashes(every[:3], family)[0].tolist() == exact != wrapped.tolist()

# %% [markdown]
# ### 4 The fast sketch
#
# MinHash asks every shingle 240 questions. The *fast sketch* (Dahlgaard and others 2017) throws
# each shingle into one of 240 bins, with a random value, and each bin keeps the least. If a bin is
# still empty, all are thrown again, by another function. Equal entries estimate J as before. Each
# entry holds in its upper bits the round in which the bin was filled:

# %%
long, short = shingles(reference[0] * 2 + "".join(reference[1:20]), 5), shingles(page[:40], 5)
for s in (long, short):
    rounds = (fast_sketch(s, num_perm=240, seed=0) >> 40).astype(int)
    filled = np.bincount(rounds)
    print(f"{len(s)} shingles; rounds: {len(filled)}; bins filled by the first 12: {filled[:12]}")

# %%
sets = [shingles(p, 5) for p in reference[:300]]
took = {}
for label, make in (
    ("MinHash", lambda: np.stack([minhash_signature(s, family) for s in sets])),
    ("fast sketch", lambda: sketch_sets(sets, 240, seed=0)),
):
    start = time.perf_counter()
    made = make()
    took[label] = time.perf_counter() - start
    print(f"{label:12} {1e6 * took[label] / len(sets):6.0f} microseconds a document")
print(f"{took['MinHash'] / took['fast sketch']:.0f} times as fast")
assert took["fast sketch"] < took["MinHash"]

# %%
print("true J   MinHash   fast sketch   standard error")
for share in (0.02, 0.05, 0.1, 0.2):
    a, b = shingles(page, 5), shingles(change_words(page, share, rng), 5)
    by = by_minhash(a, b)
    fast = minhash_jaccard(fast_sketch(a, 240, 0), fast_sketch(b, 240, 0)).jaccard
    J = jaccard(a, b)
    error = np.sqrt(J * (1 - J) / 240)
    print(f"{J:6.3f} {by:9.3f} {fast:11.3f} {error:16.3f}")
    assert max(abs(by - J), abs(fast - J)) < 4 * error

# %% [markdown]
# ### 5 Bands
#
# Short signatures do not help against the *number* of pairs: 200 documents have 19,900. So cut
# each signature into b bands of r entries, and let two documents meet only if a whole band is
# equal. Equal bands are found by sorting. By hand, with 3 bands of 2:

# %%
small = np.array([[7, 1, 4, 4, 9, 2], [7, 1, 8, 5, 9, 3], [5, 1, 8, 5, 2, 2], [4, 4, 0, 1, 7, 1]])
small = small.astype(np.uint64)
keys = lsh_keys(small, bands=3, rows=2)
print("band by band, which of the four are equal:")
for column in keys.T:
    print("   ", [np.flatnonzero(column == key).tolist() for key in np.unique(column)])
print("candidates:", lsh_candidates(keys).tolist())
assert lsh_candidates(keys).tolist() == [[0, 1], [1, 2]]

# %% [markdown]
# Document 3 holds 4 4 and 7 1 as document 0 does, but in other bands, that is, from other
# functions. It means nothing. The number of the band is a part of each key, so the two do not meet.
# Without it they would. Here every band believes that it is the first:

# %%
careless = np.concatenate([lsh_keys(small[:, i : i + 2], 1, 2) for i in (0, 2, 4)], axis=1)
print("without the number of the band:", lsh_candidates(careless).tolist())
assert [0, 3] in lsh_candidates(careless).tolist()

# %% [markdown]
# One entry is equal with the chance s = J, a band of r with $s^r$, none of b bands with
# $(1 - s^r)^b$. Hence
#
# $$P(s) = 1 - (1 - s^r)^b$$
#
# `lsh_choose` looks for the b and r that err least about a threshold. Is the curve true? We take
# pairs of known J, and count how many become candidates.

# %%
bands = lsh_choose(0.7, num_perm=240)
grid, pairs = np.arange(0.4, 0.96, 0.05), 150
recall = []
for similarity in grid:
    both = [s for _ in range(pairs) for s in sets_with(similarity, 2000)[:2]]
    keys = lsh_keys(sketch_sets(both, 240, seed=0), *bands)
    recall.append((keys[::2] == keys[1::2]).any(axis=1).mean())
expected = lsh_probability(grid, *bands)
z = (recall - expected) / np.sqrt(expected * (1 - expected) / pairs)
print(bands, "errors, in standard errors:", z.round(1))
assert np.abs(z).max() < 4

# %%
s = np.linspace(0, 1, 201)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
for b, r in ((80, 3), (40, 6), (24, 10), (12, 20)):
    left.plot(s, lsh_probability(s, b, r), label=f"{b} bands of {r}")
left.set(xlabel="J", ylabel="chance to be a candidate", title="the same 240 entries, cut four ways")
left.legend()
right.plot(s, lsh_probability(s, *bands), label="formula")
spread = 2 * np.sqrt(expected * (1 - expected) / pairs)
right.errorbar(grid, recall, spread, fmt="k.", capsize=3, label="measured")
right.axvline(0.7, ls="--", color="grey")
right.set(xlabel="J", title="threshold 0.7: 24 bands of 10")
right.legend()
plt.show()

# %% [markdown]
# A pair of J = 0.7 is found in half of the cases, one of 0.8 nearly always. Candidates on the left
# of the line cost only time: each pair is verified on its true J. What is missed on the right
# stays in the data.
#
# Now real text: 160 passages of Python's reference, and changed copies of 40 of them. All 19,900
# pairs by brute force, against the candidates.

# %%
crawl = reference[:160]
crawl = crawl + [change_words(text, rng.choice([0.02, 0.05, 0.1]), rng) for text in crawl[::4]]
sets = [shingles(text, 5) for text in crawl]
alike = {(i, j) for i in range(200) for j in range(i + 1, 200) if jaccard(sets[i], sets[j]) >= 0.7}
candidates = lsh_candidates(lsh_keys(sketch_sets(sets, 240, seed=0), *bands))
candidates = set(map(tuple, candidates.tolist()))
print(f"of 19900 pairs {len(alike)} are alike; {len(candidates)} candidates,")
print(f"of these {len(candidates & alike)} are alike; missed: {len(alike - candidates)}")

# %% [markdown]
# ### 6 Clusters, and the chain
#
# If 1 is a copy of 2 and 2 of 3, all three go into one cluster, and its first document stays.
# Clusters are a list that says for each document a lower one of its cluster, or itself:

# %%
parent = [0, 1, 2, 3, 4]
for pair in ((3, 4), (1, 3), (0, 2)):
    join(parent, *pair)
    print(pair, "->", parent, "  the first of each cluster:", [root(parent, i) for i in range(5)])

# %% [markdown]
# That has a price. Take six windows on one text, each 15 words further. Each is like the next:

# %%
words = python_reference()[1].split()
chain = [" ".join(words[15 * i : 15 * i + 120]) for i in range(6)]
sets = [shingles(text, 5) for text in chain]
table = np.array([[jaccard(a, b) for b in sets] for a in sets])
print(table.round(2))
assert np.diag(table, 1).min() >= 0.7 > np.diag(table, 2).max()

# %%
report = fuzzy_dedup(chain, threshold=0.7)
for copy in report.dropped:
    print(copy)
lost = 1 - len(runs(chain[0], 5)) / len(set().union(*(runs(text, 5) for text in chain)))
print(f"kept {report.kept}; of all their shingles {100 * lost:.0f} % are lost")
assert report.kept == [0]

# %% [markdown]
# The last one went as a copy of the first, which it is hardly like. That is the chain effect. Two
# other rules are often programmed instead, the first of them by mistake:

# %%
alike = [(i, j) for i in range(6) for j in range(i + 1, 6) if table[i, j] >= 0.7]


def keep_unlike(order):
    """Go through documents in this order; keep those that are like no kept one."""
    kept = []
    for i in order:
        if all(table[i, k] < 0.7 for k in kept):
            kept.append(i)
    return sorted(kept)


# %%
print("drop all that have a copy:", sorted(set(range(6)) - {i for pair in alike for i in pair}))
for order in (range(6), [1, 4, 0, 2, 3, 5], [5, 2, 0, 1, 3, 4]):
    print(f"compare with kept ones, order {list(order)}: {keep_unlike(order)}")

# %% [markdown]
# "Drop all that have a copy" drops the last copy too: the text is gone. "Compare with what is kept"
# loses less of a chain, but what stays depends on the order of the files, and work that is shared
# among machines has no order. Clusters have the same members in any order, so that is what
# `fuzzy_dedup` does.
#
# **What MinHash sees and what it does not.** A story, changed in ways that the web knows:

# %%
stories = bilingual_stories(200, seed=0)
english, in_chinese = next(filter(None, map(halves, stories)))
changes = {how: change(english, rng) for how, change in (EXACT | NEAR).items()}
changes |= {"other people and things": fill_anew(english, rng), "translated": in_chinese}
print("change                       J   dropped")
for how, text in changes.items():
    J = jaccard(shingles(english, 5), shingles(text, 5))
    gone = exact_dedup([english, text]).dropped or fuzzy_dedup([english, text]).dropped
    print(f"{how:24} {J:5.2f}   {'yes' if gone else 'no'}")

# %% [markdown]
# White space is the work of exact deduplication: to MinHash a line end is a character like others.
# A template that is filled anew passes as new, and a translation shares no more than its sums,
# 12 + 9 = 21. A reader would call both the same story. MinHash compares spelling, not meaning.
#
# ## Part two: quality
#
# ### 7 Rules
#
# A rule is a number that can be counted, and the range where good text lies. These are the
# published ones of Gopher. Five documents:

# %%
from minqwen.data.quality_rules import C4, RULES, judge
from minqwen.data.repetition import repeated_ngrams
from minqwen.data.text_measures import stop_words, word_count
from minqwen.data.text_units import read_text

code = [p for file in standard_library_code(150_000) for p in passages(file)]
documents = {
    "reference": next(t for t in python_reference() if t.startswith("Identifiers")),
    "Chinese": "\n\n".join([halves(s)[1] for s in stories if halves(s)][:2]),
    "menu": "\n".join(f"- Chapter {n} ..." for n in range(1, 31)),
    "advertisement": "Buy the cheap watches with gold and diamonds now! " * 12,
    "code": code[1],
}

# %%
for title, text in documents.items():
    decision = judge(text, RULES + C4)
    print(f"{title}: {'kept' if decision.kept else 'dropped'}")
    for failure in decision.failures[:4]:
        print("   ", failure.reason)
    if len(decision.failures) > 4:
        print("    and", len(decision.failures) - 4, "more")

# %% [markdown]
# Every drop says why, with the number that was found and the number that was wanted. Some of it by
# hand, for the advertisement. It has stop words enough to pass for English. What gives it away is
# that 11 of its 12 sentences stood there before:

# %%
text = read_text(documents["advertisement"])
assert word_count(text) == len(documents["advertisement"].split()) == 9 * 12
assert stop_words(text) == len({"the", "with", "and"})
print("share of the characters in repeated 5-grams:", repeated_ngrams(text, 5), "=", 11 / 12)
kept = [title for title, text in documents.items() if judge(text).kept]
assert kept[:2] == ["reference", "Chinese"]

# %% [markdown]
# The code is good code. It goes because these numbers were set for English prose: `#` is a comment
# here, and code has few stop words. Filter each kind of text by its own rules.
#
# What must not be there at all is a list. English entries are found as whole words only, Chinese
# ones anywhere:

# %%
from minqwen.data.blocklist import blocklist_rule, find_blocked, make_blocklist

blocked = make_blocklist(["cheap  watches", "ass", "赌博"])
for some in ("First class, they say.", "CHEAP watches here!", "网络赌博网站"):
    print(f"{some:24} {find_blocked(blocked, some)}")
assert not find_blocked(blocked, "First class, they say.")
print(judge(documents["advertisement"], [blocklist_rule(blocked)]).failures[0].reason)

# %% [markdown]
# ### 8 A classifier
#
# What cannot be counted can be learnt. Give two piles, good and bad. Each text becomes a long row x
# of hashed n-grams, and one weight for each place gives the probability that it is good:
#
# $$p = \sigma(w \cdot x + b) \qquad dz_n = \frac{p_n - t_n}{N} \qquad
# dw = \sum_n dz_n\, x_n \qquad db = \sum_n dz_n$$
#
# The gradient, by the formula and by finite differences:

# %%
from minqwen.check.gradients import check_gradients
from minqwen.data.hashed_ngrams import hash_texts
from minqwen.data.text_classifier import (
    good_probability,
    log_odds,
    logistic_loss_backward,
    logistic_loss_forward,
    train_text_classifier,
)

# %%
x = hash_texts(["a fine day", "buy now", "好天气"], buckets=16)
t, w, b = np.array([1.0, 0.0, 1.0]), rng.standard_normal(16), np.array(0.3)
_, cache = logistic_loss_forward(x, w, b, t)
dw, db = logistic_loss_backward(1.0, cache)
rows = np.zeros((3, 16))
rows[x.text, x.bucket] = x.value
p = 1 / (1 + np.exp(-(rows @ w + b)))
assert np.allclose((rows**2).sum(axis=1), 1)
assert np.allclose(dw, rows.T @ (p - t) / 3)
assert np.isclose(db, (p - t).mean())
errors = check_gradients(
    lambda w, b: logistic_loss_forward(x, w, b, t, l2=0.01), logistic_loss_backward, w, b
)
print(f"error of dw {errors[0]:.0e}, of db {errors[1]:.0e}")

# %% [markdown]
# Now two real piles: passages of the reference are "good", passages of code are "bad". It learns
# from 100 of each, and judges 100 others of each.

# %%
fit = train_text_classifier(reference[:800:8], code[:200:2], buckets=2**14)
print(f"{fit.steps} steps, loss {fit.loss:.3f}")
unseen = {"reference": reference[4:804:8], "code": code[1:201:2]}
fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
for title, pile in unseen.items():
    p = good_probability(fit.classifier, pile)
    ax.hist(p, np.linspace(0, 1, 41), alpha=0.6, label=title)
    right = (p > 0.5).mean() if title == "reference" else (p < 0.5).mean()
    print(f"{title}: {100 * right:.0f} % right")
    assert right > 0.9
ax.set(xlabel="p(good)", ylabel="passages")
ax.legend()
plt.show()

# %%
for text in ("the value of the expression", "return self", "The lamp is red.", in_chinese):
    z = log_odds(fit.classifier, [text])[0]
    print(f"{z:6.2f}   p(good) {1 / (1 + np.exp(-z)):.2f}   {text[:30]!r}")

# %% [markdown]
# A positive number speaks for the first pile. It has an opinion on Chinese, too, though it has
# never seen any. A classifier answers the question "which pile?", and no other: what is in neither
# is judged by accident.
#
# **Is 0.9 nine times out of ten?** Not by itself: a classifier may be too sure, or not sure enough.
# `calibrate` sets the scale a and the offset c of $p = \sigma(a z + c)$ on texts that it has not
# learned from; the order of the texts stays. We take every second unseen text, and measure the
# surprise at the others. They must be of the kind that will come: the last row was calibrated on
# code from other files.

# %%
from minqwen.data.classifier_calibration import calibrate
from minqwen.data.classifier_file import load_text_classifier, save_text_classifier

prose, programs = unseen.values()
calibrated = calibrate(fit.classifier, prose[::2], programs[::2])
elsewhere = calibrate(fit.classifier, prose[::2], code[200:300])
judges = {"as it was": fit.classifier, "calibrated": calibrated, "on other files": elsewhere}
for title, one in judges.items():
    truth = good_probability(one, prose[1::2]), 1 - good_probability(one, programs[1::2])
    a = np.linalg.norm(one.w) / np.linalg.norm(fit.classifier.w)
    print(f"{title:15} a {a:.2f}   loss {-np.log(np.concatenate(truth)).mean():.3f}")
save_text_classifier(calibrated, folder / "classifier.npz")  # for `minqwen filter --classifier`
assert (load_text_classifier(folder / "classifier.npz").w == calibrated.w).all()

# %% [markdown]
# ### 9 Language
#
# So know the language first. That is a solved problem, and a library solves it:

# %%
from minqwen.data.language import identify_language, language_rule

try:
    for text in ("The ferry leaves at 8.", "Die Fähre fährt um acht.", in_chinese, "8 + 4 = 12"):
        code_of, probability = identify_language(text)
        print(f"{code_of:4} {probability:.2f}   {text[:30]!r}")
    for failure in judge("Die Fähre fährt um acht.", [language_rule(["en", "zh"])]).failures:
        print(failure.reason)
except ImportError as error:
    print(error)  # with the line that installs it

# %% [markdown]
# ### 10 A model as judge
#
# A model that was trained on good text is not surprised by good text. The surprise is counted in
# bits for each byte, so that languages and tokenizers compare. We train a small model on stories in
# both languages; it takes some seconds.

# %%
from functools import partial

from minqwen.data.packing import document_segments, pack_documents
from minqwen.model.config import QwenConfig
from minqwen.model.language_model import language_model_forward
from minqwen.tokenizer.bpe import bpe_train
from minqwen.training.perplexity_rule import document_perplexity, perplexity_rule
from minqwen.training.pretrain import pretrain
from minqwen.training.settings import PretrainSettings

stories = bilingual_stories(400, seed=0)
tokenizer = bpe_train("".join(stories), merges=300)
END = tokenizer.special_tokens["<|endoftext|>"]

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
settings = PretrainSettings(
    steps=150, batch_size=16, context_length=64, peak_lr=5e-3, warmup_steps=10, checkpoint_every=150
)

# %%
rows = pack_documents(map(tokenizer.encode, stories), 64, END, np.random.default_rng(0))
model = pretrain(config, rows, folder / "judge", settings, progress=False, plot=False)
score = partial(
    document_perplexity, model, config, tokenizer.encode, context_length=64, separator_id=END
)
english, in_chinese = next(filter(None, map(halves, bilingual_stories(20, seed=1))))  # new ones
words = english.split()
texts = {
    "a new story": english,
    "the same in Chinese": in_chinese,
    "its words shuffled": " ".join(rng.permutation(words)),
    "its letters shuffled": "".join(rng.permutation(list(english))),
}

# %%
texts |= {
    "the reference": page,
    "code": code[0],
    "one sentence": "Mei found 8 eggs in the grass. ",
    "one sentence 20 times": "Mei found 8 eggs in the grass. " * 20,
}
found = score(list(texts.values()))
fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
ax.barh(list(texts), found.bits_per_byte)
ax.invert_yaxis()
ax.set(xlabel="bits per byte", title="how surprised a model of stories is")
plt.show()
for title, bits, per_token in zip(texts, found.bits_per_byte, found.perplexity, strict=True):
    print(f"{title:22} {bits:5.2f} bits per byte, perplexity {per_token:8.1f}")

# %% [markdown]
# Too much surprise is another kind of text, or no text. Note two things. The reference is nearly as
# bad as letters at random, though it is fine English: a small judge likes what it was raised on, so
# raise it on what you want. And the sentence that comes 20 times passes, with hardly fewer bits
# than when it comes once: this model has not learned to copy what stood before. The rules of
# section 7 see it at once; but they drop the story too, as a sum has no letters. Each judge is
# blind to something.

# %%
rule = perplexity_rule(score, high=2.0, unit="bits per byte")
for title in ("a new story", "its words shuffled", "one sentence 20 times"):
    for by, rules in (("model", [rule]), ("rules", RULES)):
        failures = judge(texts[title], rules).failures
        print(f"{title}, {by}:", failures[-1].reason if failures else "kept")
assert judge(english, [rule]).kept
assert not judge(texts["its words shuffled"], [rule]).kept

# %% [markdown]
# ## Part three: rows for training
#
# ### 11 Mixture
#
# How much of each source? By its size the web wins, and the encyclopaedia is one part in a hundred.
# A *temperature* T evens that out, $p_i \propto n_i^{1/T}$, a boost lifts one source, and a fixed
# share is set aside for instructions, which Qwen mixed into pretraining.

# %%
from minqwen.data.mixture import draw_documents, make_mixture, mixture_shares, taken_documents

sizes = {"web": 890, "code": 80, "books": 20, "encyclopaedia": 10}  # thousand million tokens
by_hand = np.array(list(sizes.values())) ** 0.5
shares = mixture_shares(sizes, temperature=2)
assert np.allclose(list(shares.values()), by_hand / by_hand.sum())
lifted = mixture_shares(sizes, boosts={"encyclopaedia": 3}, fixed={"instructions": 0.05})
print("source           as it is   boosted, and with instructions")
for source, share in lifted.items():
    print(f"{source:14} {sizes.get(source, 0) / 1000:10.3f} {share:10.3f}")

# %%
T = np.geomspace(1, 100, 60)
at = [mixture_shares(sizes, temperature=t) for t in T]
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
left.stackplot(T, [[shares[source] for shares in at] for source in sizes], labels=list(sizes))
left.set(xlabel="temperature", ylabel="share", title="shares", xscale="log", ylim=(0, 1))
left.legend(loc="lower left")
for source, n in sizes.items():
    right.plot(T, [1000 * shares[source] / n for shares in at], label=source)
right.axhline(1, color="black", lw=0.8)
right.set(xlabel="temperature", xscale="log", yscale="log", ylabel="times each document is read")
right.set(title="the price, for as many tokens as there are")
plt.show()

# %% [markdown]
# The right picture is the price: at T = 100 every page of the encyclopaedia is read 25 times, and
# more than two thirds of the web never.
#
# The stream itself is a pure function of seed and position. A run that stops at document 700 goes
# on there, without going through the first 700. `minqwen mix` writes such a stream
# from files:

# %%
mixture = make_mixture({"web": 500, "books": 20}, {"web": 0.75, "books": 0.25}, seed=0, block=100)
stream = draw_documents(mixture)
whole = [next(stream) for _ in range(1000)]
resumed = draw_documents(mixture, start=700)
assert [next(resumed) for _ in range(300)] == whole[700:]
print(whole[0], "...", whole[-1])
print(taken_documents(mixture, 1000), "of 500 and 20: the books were read 12.5 times")

# %% [markdown]
# ### 12 Packing
#
# A batch wants rows of one length C. All documents, with a separator after each, make one stream,
# which is cut every C tokens. Each row takes one more, the last label:

# %%
documents = [[5, 6, 7, 8, 9], [15, 16], [25, 26, 27, 28]]
packed = pack_documents(documents, context_length=6, separator_id=END)
print(packed)
assert packed[0, -1] == packed[1, 0]  # the last label of a row is the first input of the next
inputs = packed[:, :-1]
segments = document_segments(inputs, END)
print("document of each input:\n", segments)

# %%
sees = np.tri(6, dtype=bool)
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), layout="constrained")
for ax, mask, title in zip(
    axes,
    (sees, sees & (segments[1][:, None] == segments[1])),
    ("as in most training", "documents kept apart"),
    strict=True,
):
    ax.imshow(mask, cmap="Blues", vmin=0, vmax=1.5)
    ax.set(title=title, xlabel="key", xticks=range(6), yticks=range(6))
    ax.grid(False)
axes[0].set_ylabel("query")
plt.show()

# %% [markdown]
# This is the second row. On the left, tokens 3 to 5 see another document too, which ended before
# them. On the right they do not. Then each must get the logits that it gets alone:

# %%
wide = {key: value.astype("float64") for key, value in model.items()}
two = np.array([[*documents[0], END, *documents[1], END]])
segments = document_segments(two, END)
together, _ = language_model_forward(wide, config, two)
apart, _ = language_model_forward(wide, config, two, segments=segments)
alone, _ = language_model_forward(wide, config, two[:, 6:])
print(f"not kept apart: {np.abs(together[:, 6:] - alone).max():.3f}")
print(f"kept apart:     {np.abs(apart[:, 6:] - alone).max():.0e}")
assert np.allclose(apart[:, 6:], alone, atol=1e-12)
assert np.abs(together[:, 6:] - alone).max() > 0.01

# %% [markdown]
# The second document begins at position 6 and not at 0, and that is no matter: RoPE knows distances
# only (notebook 05).
#
# ## Part four: on files
#
# ### 13 Two commands
#
# A folder as it comes from a crawl: JSONL with a document on each line, one of them broken, and a
# text file.

# %%
import json

from minqwen.cli import main

crawl = folder / "crawl"
crawl.mkdir()
good = next(t for t in python_reference() if t.startswith("Identifiers"))
pages = [good, "\n".join(good.split("\n\n")), chain[0], change_words(chain[0], 0.05, rng)]
pages += ["Buy the cheap watches with gold and diamonds now! " * 12]
lines = [json.dumps({"text": text, "number": i}) for i, text in enumerate(pages)]
all_lines = "\n".join([*lines[:2], '{"text": "cut o', *lines[2:], ""])
(crawl / "pages.jsonl").write_text(all_lines, encoding="utf-8")
(crawl / "story.txt").write_text(good.replace("an atom", "AN ATOM"), encoding="utf-8")
assert main(["dedup", str(crawl), "--out", str(folder / "unique"), "--quiet"]) == 0

# %% [markdown]
# Each one that is dropped has a line that says why, and which one stayed in its place. What is no
# document is put aside, with its line number. Nothing is lost:

# %%
unique = folder / "unique"
for name in ("dropped.jsonl", "aside.jsonl"):
    print(name, (unique / name).read_text(encoding="utf-8"), sep="\n")
kept = (unique / "documents" / "crawl" / "pages.jsonl").read_text(encoding="utf-8").splitlines()
print("kept:", [json.loads(line)["number"] for line in kept])
counts = json.loads((unique / "report.json").read_text(encoding="utf-8"))
assert counts["documents"] + counts["aside"] == 7  # six lines and a file
assert kept == [lines[i] for i in (0, 2, 4)]  # byte for byte

# %% [markdown]
# Then the filter, on what is left. We look at what it dropped:

# %%
assert main(["filter", str(unique / "documents"), "--out", str(folder / "good"), "--quiet"]) == 0
dropped = (folder / "good" / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
for line in map(json.loads, dropped):
    print(f"\n{line['file']}, line {line['line']}:")
    for reason in line["reasons"][:3]:
        print("   ", reason)
assert len(dropped) == 1

# %% [markdown]
# It is the advertisement. Both commands take folders of any size, go on where they were stopped,
# and share the work among processes or machines with `--cluster`; the result is the same.
#
# ## On your own
#
# Fill in the answer, run the cell, then run the check below it. A check says "not yet" as long as
# the answer is `None`.
#
# **Exercise 1. Jaccard by hand.** `banana` and `bandana`, runs of two characters. What is J?

# %%
answer_1 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# ba, an, na against ba, an, nd, da, na. A set holds each once. 3 are in both, 5 in all.
#
# ```python
# answer_1 = 3 / 5
# ```
#
# </details>

# %%
if answer_1 is None:
    print("Exercise 1: not yet")
else:
    want = jaccard(shingles("banana", 2), shingles("bandana", 2))
    assert abs(answer_1 - want) < 1e-12, "no; write down both sets, each run once"
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. How long a signature?** The estimate at J = 0.5 shall have a standard error of 0.01.
# How many entries does that take?

# %%
answer_2 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# 0.5 · 0.5 / P = 0.01². Ten times as long as ours for a third of the error: the root is costly.
#
# ```python
# answer_2 = 2500
# ```
#
# </details>

# %%
if answer_2 is None:
    print("Exercise 2: not yet")
else:
    assert np.isclose(np.sqrt(0.25 / answer_2), 0.01, rtol=0.01), "no; solve J (1 - J) / P = 0.01²"
    longer = minhash_family(answer_2, seed=0)
    measured = np.std([by_minhash(*sets_with(0.5, 200)[:2], longer) for _ in range(60)])
    print(f"measured with {answer_2} functions: {measured:.4f}")
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. Bands for another threshold.** With at most 240 entries, find b and r such that of
# the pairs of J = 0.6 at least 80 % become candidates, and of those of J = 0.3 at most 5 %.

# %%
answer_3 = None  # b, r

# %% [markdown]
# <details><summary>Solution</summary>
#
# 40 bands of 6: 1 − (1 − 0.6⁶)⁴⁰ = 0.85 and 1 − (1 − 0.3⁶)⁴⁰ = 0.03. 48 of 5 lets 11 % of the
# unlike ones in; 34 of 7 finds 62 % only.
#
# ```python
# answer_3 = 40, 6
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    high, low = (lsh_probability(s, *answer_3) for s in (0.6, 0.3))
    print(f"{answer_3[0]} bands of {answer_3[1]}: {high:.3f} at 0.6, {low:.3f} at 0.3")
    assert np.prod(answer_3) <= 240, "no; that takes more than 240 entries"
    assert high >= 0.8, "no; more bands are kinder, more rows are stricter"
    assert low <= 0.05, "no; more rows are stricter, more bands are kinder"
    print("Exercise 3: right")

# %% [markdown]
# **Exercise 4. A blind hash.** Somebody saves memory and keeps 16 bits of each shingle's number.
# Two documents have 20,000 shingles each and none in common. What J will every method report, more
# or less? Count how many of the 65,536 numbers each document takes.

# %%
answer_4 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# A number stays free of a document with the chance exp(−20000 / 65536) = 0.737. So each takes a
# share q = 0.263, both take q² of the numbers, and one or the other 2 q − q².
#
# ```python
# q = 1 - np.exp(-20_000 / 65_536)
# answer_4 = q**2 / (2 * q - q**2)
# ```
#
# </details>

# %%
if answer_4 is None:
    print("Exercise 4: not yet")
else:
    a, b, J = sets_with(0.0, 40_000)
    blind = jaccard(np.unique(a >> 45), np.unique(b >> 45))  # 16 of 61 bits
    seen = jaccard(np.sort(a), np.sort(b))
    print(f"true J {J:.2f}; of 61 bits {seen:.2f}; of 16 bits {blind:.3f}")
    assert abs(answer_4 - blind) < 0.01, "no; how many numbers do both take, how many one or both?"
    print("Exercise 4: right")

# %% [markdown]
# **Exercise 5. Rows.** Documents of 5, 3 and 8 tokens, a context of 4. How many rows are there?
# Each document is followed by a separator, and each row has one token more than the context.

# %%
answer_5 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# 16 tokens and 3 separators are 19. The first token is no label, and 18 labels fill 4 rows of 4.
# Two are left out.
#
# ```python
# answer_5 = (5 + 3 + 8 + 3 - 1) // 4
# ```
#
# </details>

# %%
if answer_5 is None:
    print("Exercise 5: not yet")
else:
    packed = pack_documents([np.full(n, n) for n in (5, 3, 8)], context_length=4, separator_id=0)
    assert answer_5 == len(packed), "no; count the labels"
    print(packed)
    print("Exercise 5: right")

# %% [markdown]
# **Then go on.** Read the Qwen report, 2.1 Data; then `minqwen/data/fuzzy_dedup.py`.
# `minqwen train-classifier` makes a classifier of two piles of yours for `minqwen filter`.
# `minqwen lab dedup` trains models with copies and without, for equally many tokens, and measures
# what they know by heart.

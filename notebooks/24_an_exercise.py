# %% [markdown]
# # An exercise and its check
#
# *Made from `24_an_exercise.py`. Change that file, not the `.ipynb`; then run
# `python notebooks/make_notebooks.py`.*
#
# `minqwen assign` turns solved files of this package into exercises, and `minqwen grade` says what
# students' functions are worth and what is wrong with them. In a notebook, `check_cell` asks the
# same questions. This is one exercise, RMSNorm, seen from both sides.
#
# ## What you will do
#
# - Read what students get, and have three wrong functions checked.
# - Draw which question catches which mistake.
# - Cheat, and see what the hidden numbers are for.
# - Write RMSNorm and its gradient, with a check below.
#
# ## What you will learn
#
# - What the six rows of a grade ask.
# - How to read a diagnosis.
# - Why ordinary inputs are not enough to tell right from wrong.
#
# ## What you need
#
# Notebooks 02 and 04, NumPy with matplotlib. 15 minutes; it computes for some seconds. Beside this
# page, open `docs/students.md`; if you teach, `docs/teachers.md`.

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
import contextlib
import io
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices: a second thread only waits

import matplotlib.pyplot as plt
import numpy as np

# %%
from minqwen.check.diagnose import edits_of
from minqwen.check.edited import edited_module
from minqwen.check.gradients import gradient_errors
from minqwen.check.specs import spec
from minqwen.course.aspects import aspects_of
from minqwen.course.cells import check_cell
from minqwen.course.cut import handout_source
from minqwen.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward

# %% [markdown]
# ## 1 What students get
#
# The solved file with two bodies taken out, nothing else changed. No second copy of it exists, so
# an exercise cannot fall behind the package. The concept is RMSNorm (notebook 04), for each vector
# x of width D, with $r = 1 / \mathrm{rms}$ and $\hat x = r\,x$:
#
# $$y = w\,\hat x \qquad \mathrm{rms} = \sqrt{\tfrac1D \sum_i x_i^2 + \epsilon} \qquad
# dx = r\,\bigl(g - \hat x \cdot \mathrm{mean}(g\,\hat x)\bigr) \qquad g = w\,dy$$

# %%
functions = ("rmsnorm_forward", "rmsnorm_backward")
handout = handout_source("minqwen.layers.rmsnorm", functions)
print(handout)
assert handout.count("raise NotImplementedError") == 2

# %% [markdown]
# ## 2 A check
#
# `check_cell` takes the name of the concept, what is asked, and where the functions are:
# `globals()` in a student's notebook. Here it is a dictionary, so that other names can be tried.

# %%
ours = {"rmsnorm_forward": rmsnorm_forward, "rmsnorm_backward": rmsnorm_backward}
for aspect in ("shape", "values", "stability"):
    check_cell("rmsnorm", aspect, ours)

# %% [markdown]
# Now three that are wrong. The first puts eps outside of the root, and on ordinary numbers it is
# off by less than a millionth. A tolerance of 1e-4 lets it pass:


# %%
def eps_outside(x, w, eps=1e-6):
    rms = np.sqrt((x * x).mean(axis=-1, keepdims=True))
    return x / (rms + eps) * w, (x, w, rms)


x, w = np.random.default_rng(0).standard_normal((2, 3, 8)), np.ones(8)
print("largest difference:", abs(eps_outside(x, w)[0] - rmsnorm_forward(x, w)[0]).max())
assert np.allclose(eps_outside(x, w)[0], rmsnorm_forward(x, w)[0], rtol=1e-4)


# %%
def feedback_on(forward, aspect="values", backward=rmsnorm_backward, **more):
    """Print what a student is told."""
    try:
        pair = {"rmsnorm_forward": forward, "rmsnorm_backward": backward}
        check_cell("rmsnorm", aspect, pair, **more)
    except AssertionError as error:
        print(error, end="\n\n")
        return str(error)
    return ""


assert "rmsnorm.eps_outside" in feedback_on(eps_outside)

# %% [markdown]
# Read it from the top. Of the questions that were answered, one is WRONG. The *first difference*
# is a place to print in your own function. *Looks exactly like* is no guess: our file with that one
# mistake gives the same 297 numbers.
#
# The second makes two mistakes: it takes the mean away, as layer normalisation does, and has eps
# outside. Both are named. The third is right in float64, and forgets which precision it was given.


# %%
def layer_norm(x, w, eps=1e-6):
    return eps_outside(x - x.mean(axis=-1, keepdims=True), w, eps)


def widens(x, w, eps=1e-6):
    y, cache = rmsnorm_forward(x, w, eps)
    return y.astype("float64"), cache


assert "rmsnorm.eps_outside and rmsnorm.centred" in feedback_on(layer_norm)
assert "float64 for float32 inputs" in feedback_on(widens, "stability")

# %% [markdown]
# **And a gradient.** That row holds a backward pass against finite differences, with numbers of a
# hidden seed. Here is one that takes rms for a constant. By ourselves first, then by the check:


# %%
def rms_constant(dy, cache):
    x, w, inv_rms = cache
    return dy * w * inv_rms, (dy * x * inv_rms).reshape(-1, len(w)).sum(axis=0)


for name, backward in {"ours": rmsnorm_backward, "rms constant": rms_constant}.items():
    errors = gradient_errors(rmsnorm_forward, backward, x, w, names=("dx", "dw"))
    print(f"{name:13}", {e.name: f"{e.error:.0e}" for e in errors})
told = feedback_on(rmsnorm_forward, "gradient", seed=7, backward=rms_constant)
assert "taken for a constant" in told

# %% [markdown]
# ## 3 Which question catches which mistake
#
# A grade has up to six rows. Shape, values and stability are told at once. *More values*, *hard
# inputs* and *gradient* are asked after the deadline, with numbers of a hidden seed. Take some
# known mistakes in another concept, the advantages of PPO (`minqwen/alignment/gae.py`, notebook 19;
# it has no gradient), and give each row one point:

# %%
concept, rows = spec("gae"), list(aspects_of(spec("gae")))


def share_left(name, aspect, part, seed=7):
    """Return how much of a row a known mistake leaves."""
    (mistake,) = [m for m in spec(part).forward if m.name == name]
    module = edited_module(spec(part).module, edits_of(spec(part), (mistake,)))
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            points = check_cell(part, aspect, vars(module), seed=seed, points=1)
        except AssertionError:
            return 0.0
    return 1.0 if points is None else points


# %%
some = ("no_last", "padding_kept", "no_done_run", "through_padding", "gamma_only", "plus_v")
table = np.array([[share_left(name, row, "gae") for row in rows] for name in some])
fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
ax.imshow(table, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
for i, j in np.ndindex(table.shape):
    ax.text(j, i, f"{table[i, j]:.2g}", ha="center", va="center", fontsize=8)
ax.set_xticks(range(len(rows)), rows)
ax.set_yticks(range(len(some)), some)
ax.set_title("share of each row that a mistake leaves")
plt.show()

# %%
assert (table.min(axis=1) < 1).all()  # no mistake gets everything
assert (table[:2, 1] == 1).all()  # the first two are right on all ordinary inputs
for m in concept.forward:
    if m.name in some[:3]:
        print(f"{m.name}: {m.says}")

# %% [markdown]
# The first two are right on all ordinary inputs; only hard ones show them. The next two are right
# where no token is padding. And who has no ordinary value right gets nothing for stability: zeros
# are stable too.
#
# ## 4 A cheat
#
# The public numbers can be had by everybody. So keep the right answers in a table:

# %%
answers = {}


def writes_down(x, w, eps=1e-6):
    y, cache = rmsnorm_forward(x, w, eps)
    answers[x.tobytes(), w.tobytes()] = y
    return y, cache


def reads_off(x, w, eps=1e-6):
    y = answers.get((x.tobytes(), w.tobytes()), np.zeros_like(x))
    return y, rmsnorm_forward(x, w, eps)[1]


# %%
check_cell("rmsnorm", "values", ours | {"rmsnorm_forward": writes_down})
check_cell("rmsnorm", "values", ours | {"rmsnorm_forward": reads_off})  # right
assert "right on 0 of 2 inputs" in feedback_on(reads_off, "more values", seed=7)

# %% [markdown]
# This is why half of the values are asked with other numbers. What a notebook cannot stop is code
# that changes the judge: it runs in the same process. `minqwen grade` runs a student's code in a
# process of its own, which never holds a right answer.
#
# ## On your own
#
# Write the function, run the cell, then run the check below it. A check says "not yet" as long as
# the function raises.
#
# **Exercise 1. Forward.** y = x / sqrt(mean(x^2) + eps) * w, each vector by itself. Return y and
# whatever your backward will need. Keep the dtype of x; take sums of float16 in float32.


# %%
def my_forward(x, w, eps=1e-6):
    raise NotImplementedError("write this function")


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_forward(x, w, eps=1e-6):
#     wide = x.astype(np.float64)
#     r = 1 / np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + eps)
#     return (wide * r * w).astype(x.dtype), (x, w, r)
# ```
#
# float64 holds the square of every number of float32, so nothing overflows on the way.
#
# </details>

# %%
mine = ours | {"rmsnorm_forward": my_forward}
try:
    my_forward(np.ones((1, 2)), np.ones(2))
except NotImplementedError:
    print("Exercise 1: not yet")
else:
    for aspect in ("shape", "values", "stability"):
        check_cell("rmsnorm", aspect, mine)
    check_cell("rmsnorm", "hard inputs", mine, seed=7)
    print("Exercise 1: right")

# %% [markdown]
# **Exercise 2. Backward.** Return dx and dw from dy and your cache. With g = dy * w and r = 1 / rms
# dx is r g, less the part of it that points along x. dw adds up all vectors.


# %%
def my_backward(dy, cache):
    raise NotImplementedError("write this function")


# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def my_backward(dy, cache):
#     x, w, r = cache
#     hat, g = x * r, dy * w
#     dx = r * (g - hat * (g * hat).mean(axis=-1, keepdims=True))
#     dw = (dy * hat).reshape(-1, len(w)).sum(axis=0)
#     return dx.astype(x.dtype), dw.astype(w.dtype)
# ```
#
# </details>

# %%
mine = {"rmsnorm_forward": my_forward, "rmsnorm_backward": my_backward}
try:
    my_backward(np.ones((1, 2)), (np.ones((1, 2)), np.ones(2), np.ones((1, 1))))
except NotImplementedError:
    print("Exercise 2: not yet")
else:
    check_cell("rmsnorm", "gradient", mine, seed=7)
    print("Exercise 2: right")

# %% [markdown]
# **Exercise 3. Half of the points.** A student writes eps outside of the root, and a backward that
# is the true gradient of *that* function. What share of the row "gradient" does it earn? Answer
# with a number from 0 to 1.

# %%
answer_3 = None

# %% [markdown]
# <details><summary>Solution</summary>
#
# It does not fit the right forward, so it is not right. But it fits their own: the mistake is in
# the forward only.
#
# ```python
# answer_3 = 0.5
# ```
#
# </details>

# %%
if answer_3 is None:
    print("Exercise 3: not yet")
else:
    its_share = share_left("eps_outside", "gradient", "rmsnorm")
    assert answer_3 == its_share, "no; whom does the gradient fit?"
    print("Exercise 3: right")

# %% [markdown]
# **Then go on.** `minqwen assign rmsnorm --out hw --format notebook` writes this exercise as a
# notebook of its own, with a README, a rubric and an answer key. `minqwen assign --list` shows the
# ladder of sixteen.

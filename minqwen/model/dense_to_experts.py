"""One dense network to experts: copied, shuffled, cut, and half of it drawn anew.

A SwiGLU network is a sum over its F columns (row j of w_gate and of w_up, column j of w_down).
Their order does not matter, and the sum may be taken apart anywhere:

    FFN(x) = sum over j of  silu(x g_j) (x u_j) d_j

    1. copied     C = ceil(E Fe / F) times the F columns, side by side
    2. shuffled   every copy in an order of its own, the same for g, u and d
    3. cut        Fe columns are an expert; the C F - E Fe that are left over are dropped
    4. half of the numbers of every expert are drawn anew

What stays the same until step 4. Let m = F / Fe be whole and nothing be dropped. The m experts of a
copy add up to FFN, and all E to C FFN. But a router gives weights that sum to 1: K = m experts with
1/m each make FFN / m. With a w_down that is m times as long (`w_down_factors`) the mixture is the
dense network, exactly, when

  - the weights are renormalised (norm_topk_prob), or all there are (K = E), and
  - a token takes whole copies: the experts of a copy have equal rows in the router, and with them
    equal logits (router "grouped"), and K is m, 2 m, ... Each of the m experts of copy c then has
    the weight a_c / m, together they give a_c FFN, and the a_c sum to 1.

Not renormalised, K of E equal probabilities sum to K / E, so w_down has to be E / K longer still.
That is only near: the K largest sum to more than K / E, by another factor for each token, unless
the router is uniform. Where experts straddle two copies (m is not whole) no choice is made of whole
copies, and m is right on average only.

A shared expert is cut in the same way, as one expert of Fs columns. Its gate starts at 0, so it
gives sigmoid(0) = 1/2 of what it computes. With a w_down F / Fs times as long that is FFN / 2,
exactly where F divides Fs; the routed experts are halved too, and 1/2 + 1/2 = 1.

Qwen2-57B-A14B from Qwen2-7B: 7.4 experts to a copy and 9 copies, of which 35 % of the last is lost.
The first 8 copies end at 7.4, 14.8, ..., 59.2 experts; only the fifth, at 37, where one ends.

>>> cut_of(18944, num_experts=64, expert_width=2560)
Cut(per_copy=7.4, copies=9, dropped=6656, straddling=7)
>>> np.bincount(copy_of_expert(18944, num_experts=64, expert_width=2560))  # K = 8 is enough
array([7, 8, 7, 8, 7, 7, 8, 7, 5])
>>> w_down_factors(18944, 64, 8, 2560, 20480, norm_topk_prob=False)  # 7.4 * 64/8 / 2, 18944/20480
(29.6, 0.925)

There is no backward pass: weights go in and weights come out, once, before training starts. What is
trained then is the mixture, and its gradient is that of moe.py.

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model, "Expert Initialization".
Origin:   Komatsuzaki et al. 2022, arXiv:2212.05055. Groups of experts that make up a copy, and a
          scale: He et al. 2024, arXiv:2410.07524. Whole columns anew: Nakamura et al. 2025,
          arXiv:2502.19261.
Differs:  the report has the four steps and no more. From what the new numbers are drawn, which
          they replace, how router and shared expert start, and whether outputs are rescaled, it
          does not say: these are arguments.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..backend import Array, standard_normal, widen
from ..shapes import require_axes, require_float, require_shape

ROUTERS = ("grouped", "random")
GRANULARITIES = ("neuron", "element")


class Cut(NamedTuple):
    """How experts lie on the copies of a network."""

    per_copy: float  # m = F / Fe, experts to a copy
    copies: int  # C
    dropped: int  # columns of the last copy that no expert gets
    straddling: int  # experts with columns of more than one copy


def cut_of(ffn_width: int, num_experts: int, expert_width: int) -> Cut:
    """Count what cutting a network of width F into E experts of width Fe takes and leaves.

    Raises:
        ValueError: a size is below 1.

    >>> cut_of(12, num_experts=6, expert_width=4)
    Cut(per_copy=3.0, copies=2, dropped=0, straddling=0)
    """
    F, E, Fe = ffn_width, num_experts, expert_width
    if min(F, E, Fe) < 1:
        raise ValueError(f"F, num_experts and expert_width must be at least 1, got {F}, {E}, {Fe}")
    copies = -(-E * Fe // F)
    straddling = sum(e * Fe // F != (e * Fe + Fe - 1) // F for e in range(E))
    return Cut(F / Fe, copies, copies * F - E * Fe, straddling)


def copy_of_expert(ffn_width: int, num_experts: int, expert_width: int) -> Array:
    """Return for each expert the copy it is from, (E,) int; a straddling one: that of its middle.

    >>> copy_of_expert(4, num_experts=4, expert_width=2)
    array([0, 0, 1, 1])
    """
    middle: Array = np.arange(num_experts) * expert_width + (expert_width - 1) // 2
    return middle // ffn_width


def expert_columns(
    ffn_width: int, num_experts: int, expert_width: int, rng: np.random.Generator
) -> Array:
    """Return which column of the dense network every column of every expert is, (E, Fe) int.

    >>> columns = expert_columns(4, num_experts=4, expert_width=2, rng=np.random.default_rng(0))
    >>> np.sort(columns.reshape(2, 4))  # two experts are a copy of all four columns
    array([[0, 1, 2, 3],
           [0, 1, 2, 3]])
    """
    copies = cut_of(ffn_width, num_experts, expert_width).copies
    shuffled = np.concatenate([rng.permutation(ffn_width) for _ in range(copies)])
    columns: Array = shuffled[: num_experts * expert_width].reshape(num_experts, expert_width)
    return columns


def upcycle_ffn(
    w_gate: Array,
    w_up: Array,
    w_down: Array,
    num_experts: int,
    expert_width: int,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Copy a SwiGLU network, shuffle each copy, and cut: steps 1 to 3.

    Args:
        w_gate: (F, D) float, on the host like the other two.
        w_up: (F, D) float.
        w_down: (D, F) float.
        num_experts: E.
        expert_width: Fe.
        rng: draws the order of each copy.

    Returns:
        w_gate_up: (E, 2Fe, D) in the dtype of the weights, gate over up.
        w_down: (E, D, Fe).

    Raises:
        TypeError: a weight is not floating point, or the dtypes differ.
        ValueError: a weight does not fit, or a size is below 1.

    >>> w = np.array([[10.0], [20.0]])
    >>> w_gate_up, w_down = upcycle_ffn(w, w + 1, w.T + 2, 2, 1, np.random.default_rng(0))
    >>> np.sort(w_gate_up[:, :, 0], axis=0).tolist(), np.sort(w_down.ravel()).tolist()
    ([[10.0, 11.0], [20.0, 21.0]], [12.0, 22.0])
    """
    require_axes("w_gate", w_gate, "F D")
    (F, D) = w_gate.shape
    require_shape("w_up", w_up, F=F, D=D)
    require_shape("w_down", w_down, D=D, F=F)
    require_float(w_gate=w_gate, w_up=w_up, w_down=w_down)

    columns = expert_columns(F, num_experts, expert_width, rng)  # (E, Fe)
    w_gate_up = np.concatenate([w_gate[columns], w_up[columns]], axis=1)  # (E, 2Fe, D)
    return w_gate_up, np.ascontiguousarray(w_down[:, columns].swapaxes(0, 1))  # (E, D, Fe)


def reinitialise(
    w_gate_up: Array,
    w_down: Array,
    share: float,
    std: float,
    granularity: str,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Draw a share of the numbers of every expert anew: step 4.

    The share is exact, up to rounding, in each matrix of each expert: of gate, of up and of down.

    Args:
        w_gate_up: (E, 2Fe, D) float, on the host.
        w_down: (E, D, Fe) float.
        share: from 0 to 1; 0.5 in the report.
        std: the new numbers are N(0, std**2).
        granularity: "neuron": a column of the network is all new, its gate row, its up row and its
            down column, or all kept. "element": each matrix has random places of its own, so that
            no column is as it was.
        rng: draws the places and the numbers.

    Returns:
        New arrays like w_gate_up and w_down.

    Raises:
        ValueError: share is not in [0, 1], std is negative, or there is no such granularity.

    >>> ones = np.ones((1, 2, 4)), np.ones((1, 4, 1))
    >>> w_gate_up, w_down = reinitialise(*ones, 0.5, 0.02, "element", np.random.default_rng(0))
    >>> (w_gate_up == 1).sum(axis=-1).tolist(), int((w_down == 1).sum())  # kept: 2 of 4 each
    ([[2, 2]], 2)
    """
    require_axes("w_down", w_down, "E D Fe")
    E, D, Fe = w_down.shape
    if w_gate_up.shape != (E, 2 * Fe, D):
        raise ValueError(
            f"w_gate_up must have shape (E={E}, 2Fe={2 * Fe}, D={D}), got {w_gate_up.shape}"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"the share to draw anew must be in [0, 1], got {share}")
    if not 0 <= std < math.inf:
        raise ValueError(f"the std of new numbers must be 0 or above, got {std}")

    if granularity == "element":
        gate, up, down = (random_places(E, Fe * D, share, rng) for _ in range(3))
        gate, up, down = (gate.reshape(E, Fe, D), up.reshape(E, Fe, D), down.reshape(E, D, Fe))
    elif granularity == "neuron":
        new = random_places(E, Fe, share, rng)  # (E, Fe)
        gate = up = np.broadcast_to(new[:, :, None], (E, Fe, D))
        down = np.broadcast_to(new[:, None, :], (E, D, Fe))
    else:
        raise ValueError(f"granularity must be one of {GRANULARITIES}, got {granularity!r}")
    w_gate_up, w_down = w_gate_up.copy(), w_down.copy()
    for w, places in ((w_gate_up[:, :Fe], gate), (w_gate_up[:, Fe:], up), (w_down, down)):
        w[places] = normal((int(places.sum()),), std, w, rng)
    return w_gate_up, w_down


def random_places(rows: int, count: int, share: float, rng: np.random.Generator) -> Array:
    """Return (rows, count) bool with share * count, rounded, True in every row at random places.

    >>> random_places(3, 4, 0.5, np.random.default_rng(0)).sum(axis=1)
    array([2, 2, 2])
    """
    places = np.zeros((rows, count), bool)
    places[:, : math.floor(share * count + 0.5)] = True
    return rng.permuted(places, axis=1, out=places)


def normal(shape: tuple[int, ...], std: float, like: Array, rng: np.random.Generator) -> Array:
    """Draw N(0, std**2) in the dtype of `like`, from float32 or float64 numbers."""
    drawn: Array = standard_normal(shape, like, rng) * std
    return drawn.astype(like.dtype, copy=False)


def scaled(w: Array, factor: float) -> Array:
    """Return w times a factor, a new array in the dtype of w."""
    product: Array = widen(w) * factor
    return product.astype(w.dtype, copy=False)


def w_down_factors(
    ffn_width: int,
    num_experts: int,
    num_experts_per_tok: int,
    expert_width: int,
    shared_width: int,
    norm_topk_prob: bool,
) -> tuple[float, float]:
    """Return how much longer w_down of the routed experts and of the shared one must be to match.

    >>> w_down_factors(12, 6, 3, 4, 0, norm_topk_prob=True)  # 3 experts to a copy
    (3.0, 1.0)
    >>> w_down_factors(12, 6, 3, 4, 6, norm_topk_prob=True)  # one half each; shared is half a copy
    (1.5, 2.0)
    """
    F, E, K, Fe, Fs = ffn_width, num_experts, num_experts_per_tok, expert_width, shared_width
    routed = F / Fe * (1 if norm_topk_prob else E / K)
    return (routed / 2, F / Fs) if Fs else (routed, 1.0)

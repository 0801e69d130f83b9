"""A mixture of experts against the blocks of transformers: value and every gradient."""

import numpy as np
import pytest
from parity.oracle import KINDS, float64_transformers, modeling

from minqwen.check.rows_moe import spread_tokens
from minqwen.layers.moe import moe_backward, moe_forward
from minqwen.layers.moe_experts import moe_experts_backward, moe_experts_forward
from minqwen.layers.shared_expert import shared_expert_backward, shared_expert_forward

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
F = torch.nn.functional

D, FE, FS = 8, 4, 11  # the grouped experts of torch need rows of 16 bytes
NAMES = ("gate.weight", "experts.gate_up_proj", "experts.down_proj")
SHARED = (
    "shared_expert.gate_proj.weight",
    "shared_expert.up_proj.weight",
    "shared_expert.down_proj.weight",
    "shared_expert_gate.weight",
)


def arrays(N, E, shared, seed=0):
    """x and the weights in the order of moe_forward; a clear margin between experts if D >= E."""
    rng = np.random.default_rng([seed, N, E])
    if D >= E:
        x, w_router = spread_tokens(rng, N, D, E)
    else:
        x, w_router = rng.standard_normal((N, D)), rng.standard_normal((E, D))
    shapes = [(E, 2 * FE, D), (E, D, FE)]
    shapes += [(FS, D), (FS, D), (D, FS), (1, D)] if shared else []
    return x, w_router, *(rng.standard_normal(shape) for shape in shapes)


def theirs(kind, x, weights, dy, K, norm, experts_implementation="eager"):
    """y and the gradients of the block of transformers that holds these weights."""
    hf, name = modeling(kind), KINDS[kind]
    config = getattr(hf, f"{name}Config")(
        hidden_size=D,
        num_experts=len(weights[0]),
        num_experts_per_tok=K,
        norm_topk_prob=norm,
        moe_intermediate_size=FE,
        experts_implementation=experts_implementation,
        **({"shared_expert_intermediate_size": FS} if len(weights) > 3 else {}),
    )
    block = getattr(hf, f"{name}SparseMoeBlock")(config)
    names = (*NAMES, *SHARED)[: len(weights)]
    assert set(names) == set(dict(block.named_parameters()))
    tensors = [torch.from_numpy(w.copy()).requires_grad_() for w in (x, *weights)]
    y = torch.func.functional_call(block, dict(zip(names, tensors[1:], strict=True)), tensors[0])
    y.backward(torch.from_numpy(dy))
    # an expert that no token chose at all has no gradient, also where there is no token
    return y.detach().numpy(), *(np.zeros(t.shape) if t.grad is None else t.grad for t in tensors)


def ours(x, weights, dy, K, norm):
    y, cache = moe_forward(x, *weights[:3], K, norm, weights[3:] or None)
    *grads, dshared = moe_backward(dy, cache)
    return y, *grads, *(dshared or ())


def errors(a, b):
    """The largest difference of each pair, over the largest entry of the second."""
    for x, want in zip(a, b, strict=True):
        want = np.asarray(want)
        assert x.shape == want.shape
        yield float(np.abs(x - want).max() / np.abs(want).max()) if want.any() else np.abs(x).max()


@pytest.mark.parametrize("norm", [False, True], ids=["as they are", "divided by the sum"])
@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize(
    ("B", "T", "E", "K"),
    [(2, 7, 5, 2), (1, 1, 5, 3), (3, 11, 64, 8), (2, 5, 3, 3), (1, 13, 1, 1), (1, 2, 60, 4)],
)
def test_value_and_every_gradient(kind, B, T, E, K, norm):
    x, *weights = arrays(B * T, E, shared=kind == "qwen2_moe")
    x = x.reshape(B, T, D)
    dy = np.random.default_rng(1).standard_normal(x.shape)
    with float64_transformers():
        want = theirs(kind, x, weights, dy, K, norm)
    assert max(errors(ours(x, weights, dy, K, norm), want)) < 1e-13


def test_the_other_rule_for_the_weights_would_be_seen():
    x, *weights = arrays(13, 5, shared=True)
    dy = np.random.default_rng(1).standard_normal((1, 13, D))
    with float64_transformers():
        want = theirs("qwen2_moe", x[None], weights, dy, 2, False)
    got = ours(x[None], weights, dy, 2, True)
    assert min(errors(got[:5], want[:5])) > 1e-2  # all but those of the shared expert


@pytest.mark.parametrize("experts_implementation", ["eager", "grouped_mm", "batched_mm"])
def test_float32_with_each_way_in_which_transformers_runs_experts(experts_implementation):
    x, *weights = (a.astype(np.float32) for a in arrays(70, 8, shared=True))
    x = x[None]
    dy = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    want = theirs("qwen2_moe", x, weights, dy, 3, False, experts_implementation)
    assert max(errors(ours(x, weights, dy, 3, False), want)) < 1e-5


def test_an_expert_that_nobody_chose():
    x, *weights = arrays(13, 5, shared=True)
    x, weights[0][2] = np.abs(x), -100  # a logit far below all others
    dy = np.random.default_rng(1).standard_normal((1, 13, D))
    with float64_transformers():
        want = theirs("qwen2_moe", x[None], weights, dy, 2, False)
    got = ours(x[None], weights, dy, 2, False)
    assert not got[3][2].any()
    assert not got[4][2].any()
    assert max(errors(got, want)) < 1e-13


def test_experts_alone_against_a_sum_over_all():
    """Written with one-hot weights: every expert computes every token, nearly always times 0."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(5)[:2] for _ in range(13)])
    inputs = [rng.standard_normal(s) for s in ((13, D), (13, 2), (5, 2 * FE, D), (5, D, FE))]
    dy = rng.standard_normal((13, D))
    x, weights, w_gate_up, w_down = (torch.from_numpy(a.copy()).requires_grad_() for a in inputs)
    share = (F.one_hot(torch.from_numpy(ids), 5) * weights[:, :, None]).sum(1)  # (N, E)
    gate, up = torch.einsum("nd,efd->enf", x, w_gate_up).chunk(2, dim=-1)
    out = torch.einsum("enf,edf->end", F.silu(gate) * up, w_down)
    y = torch.einsum("end,ne->nd", out, share)
    y.backward(torch.from_numpy(dy))
    got, cache = moe_experts_forward(inputs[0], ids, *inputs[1:])
    want = (y.detach(), *(t.grad for t in (x, weights, w_gate_up, w_down)))
    assert max(errors((got, *moe_experts_backward(dy, cache)), want)) < 1e-13


def test_shared_expert_alone():
    _, _, _, _, *weights = arrays(13, 5, shared=True)
    x, dy = np.random.default_rng(1).standard_normal((2, 2, 7, D))
    inputs = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, *weights)]
    t, gate, up, down, shared_gate = inputs
    out = F.linear(F.silu(F.linear(t, gate)) * F.linear(t, up), down)
    y = torch.sigmoid(F.linear(t, shared_gate)) * out
    y.backward(torch.from_numpy(dy))
    got, cache = shared_expert_forward(x, *weights)
    want = (y.detach(), *(a.grad for a in inputs))
    assert max(errors((got, *shared_expert_backward(dy, cache)), want)) < 1e-13

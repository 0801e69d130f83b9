"""PPO against PyTorch: losses and every gradient by autograd, kinks, advantages, estimators."""

import numpy as np
import pytest

from minqwen.alignment.entropy import (
    entropy_backward,
    entropy_forward,
    exact_kl_backward,
    exact_kl_forward,
)
from minqwen.alignment.gae import gae
from minqwen.alignment.kl_penalty import kl_estimate, kl_penalty
from minqwen.alignment.ppo_loss import (
    ppo_policy_loss_backward,
    ppo_policy_loss_forward,
    ppo_value_loss_backward,
    ppo_value_loss_forward,
)
from minqwen.alignment.whitening import whiten
from minqwen.check.mistakes import ppo_policy_loss as policy_bank
from minqwen.check.mistakes import ppo_value_loss as value_bank

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

SPANS = ((0, 4), (0, 11), (3, 9), (0, 2))


def tensors(*arrays):
    return [torch.from_numpy(np.array(x)) for x in arrays]


def torch_policy(new, old, A, mask, c):
    """The loss of TRL and of Huang et al. 2024: the maximum of two losses, a masked mean."""
    ratio = torch.exp(new - old)
    worse = torch.max(-A * ratio, -A * torch.clamp(ratio, 1 - c, 1 + c))
    return worse[mask].mean()


def torch_value(V, old, R, mask, c):
    held = torch.clamp(V, old - c, old + c)
    return 0.5 * torch.max((V - R) ** 2, (held - R) ** 2)[mask].mean()


LOSSES = [
    pytest.param(
        policy_bank,
        ppo_policy_loss_forward,
        ppo_policy_loss_backward,
        torch_policy,
        id="policy",
    ),
    pytest.param(
        value_bank, ppo_value_loss_forward, ppo_value_loss_backward, torch_value, id="value"
    ),
]


def both(forward, backward, theirs, x, a, b, mask, c):
    """Return our loss and gradient, and those of PyTorch."""
    loss, cache = forward(x, a, b, mask, c)
    tx, ta, tb, tmask = tensors(x, a, b, mask)
    tx.requires_grad_()
    want = theirs(tx, ta, tb, tmask, c)
    want.backward()
    return (loss, backward(1.0, cache)), (want.item(), tx.grad.numpy())


@pytest.mark.parametrize(("bank", "forward", "backward", "theirs"), LOSSES)
@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient(bank, forward, backward, theirs, seed):
    a = bank.inputs(np.random.default_rng(seed), 11, *SPANS)
    ours, want = both(forward, backward, theirs, *(a[name] for name in bank.ARGUMENTS))
    assert abs(ours[0] - want[0]) < 1e-12
    assert np.abs(ours[1] - want[1]).max() < 1e-12
    assert np.abs(want[1]).max() > 1e-2


@pytest.mark.parametrize(("bank", "forward", "backward", "theirs"), LOSSES)
def test_random_inputs_without_care_for_kinks(bank, forward, backward, theirs):
    rng = np.random.default_rng(7)
    x, a, b = rng.standard_normal((3, 13, 29))
    mask = rng.random((13, 29)) < 0.7
    ours, want = both(forward, backward, theirs, x, a, b, mask, 0.2)
    assert abs(ours[0] - want[0]) < 1e-12
    assert np.abs(ours[1] - want[1]).max() < 1e-12


def test_the_kinks_are_those_of_autograd():
    """Numbers that are exact in binary: on each limit, and where both branches are equal."""
    mask = np.ones((1, 6), bool)
    V = np.array([[1.25, 0.75, 2.0, 0.0, 1.25, 1.0]])
    old, R = np.ones((1, 6)), np.array([[3.0, -3.0, 1.625, 0.375, 0.0, 1.0]])
    arguments = (
        ppo_value_loss_forward,
        ppo_value_loss_backward,
        torch_value,
        V,
        old,
        R,
        mask,
        0.25,
    )
    ours, want = both(*arguments)
    assert ours[0] == want[0]
    np.testing.assert_array_equal(ours[1], want[1])
    assert 0 < abs(want[1][0, 2]) < 0.375 / 6  # a tie: half

    for near in (1.25, 0.75):
        new = np.log(np.array([[near, near, 1.0, 2.0, near, near]]))
        A = np.array([[1.0, -1.0, 1.0, 0.0, 2.0, -2.0]])
        c = abs(float(np.exp(new)[0, 0]) - 1)  # on the limit to the last digit
        arguments = (new, 0 * new, A, mask, c)
        ours, want = both(
            ppo_policy_loss_forward, ppo_policy_loss_backward, torch_policy, *arguments
        )
        assert abs(ours[0] - want[0]) < 1e-15
        np.testing.assert_allclose(ours[1], want[1], rtol=1e-15)
        assert want[1][0, [0, 1, 4, 5]].all()  # in full


@pytest.mark.parametrize("seed", range(3))
def test_entropy_and_exact_kl(seed):
    z, z_ref = 3 * np.random.default_rng(seed).standard_normal((2, 3, 5, 17))
    dy = np.random.default_rng(9).standard_normal((3, 5))
    tz, tref, tdy = tensors(z, z_ref, dy)
    tz.requires_grad_()
    want = torch.distributions.Categorical(logits=tz).entropy()
    (grad,) = torch.autograd.grad(want, tz, tdy)
    H, cache = entropy_forward(z, block=20)
    assert np.abs(H - want.detach().numpy()).max() < 1e-12
    assert np.abs(entropy_backward(dy, cache) - grad.numpy()).max() < 1e-12

    kinds = (torch.distributions.Categorical(logits=x) for x in (tz, tref))
    want = torch.distributions.kl_divergence(*kinds)
    (grad,) = torch.autograd.grad(want, tz, tdy)
    kl, cache = exact_kl_forward(z, z_ref, block=20)
    assert np.abs(kl - want.detach().numpy()).max() < 1e-12
    assert np.abs(exact_kl_backward(dy, cache) - grad.numpy()).max() < 1e-12


def test_the_step_before_the_losses():
    """Rewards, advantages and whitening in the order and the operations of Huang et al. 2024."""
    rng = np.random.default_rng(0)
    B, T, gamma, lam, beta = 5, 9, 0.97, 0.9, 0.04
    logprobs, ref, values = rng.standard_normal((3, B, T))
    lengths, scores = np.array([9, 4, 1, 7, 2]), rng.standard_normal(B)
    mask = np.arange(T) < lengths[:, None]
    lp, rp, V, m, s = tensors(logprobs, ref, values, mask, scores)

    rewards = (-beta * (lp - rp)).masked_fill(~m, 0.0)
    rewards[torch.arange(B), torch.from_numpy(lengths) - 1] += s
    ours = kl_penalty(logprobs, ref, mask, scores, kl_coef=beta)
    assert np.abs(ours - rewards.numpy()).max() < 1e-12

    V, after, steps = V.masked_fill(~m, 0.0), 0.0, []
    for t in reversed(range(T)):
        following = V[:, t + 1] if t < T - 1 else 0.0
        after = rewards[:, t] + gamma * following - V[:, t] + gamma * lam * after
        steps.append(after)
    A = torch.stack(steps[::-1], dim=1)
    returns = (A + V).masked_fill(~m, 0.0)
    advantages, our_returns = gae(ours, values, mask, gamma=gamma, lam=lam)
    assert np.abs(advantages - A.masked_fill(~m, 0.0).numpy()).max() < 1e-12
    assert np.abs(our_returns - returns.numpy()).max() < 1e-12

    for shift_mean in (True, False):
        var, mean = torch.var_mean(A[m], unbiased=False)
        white = (A - mean) * torch.rsqrt(var + 1e-8) + (0 if shift_mean else mean)
        got = whiten(advantages, mask, shift_mean=shift_mean)
        assert np.abs(got - white.masked_fill(~m, 0.0).numpy()).max() < 1e-12


def test_estimators_against_the_divergence_of_torch():
    z, z_ref = np.random.default_rng(3).standard_normal((2, 17))
    pi, ref = (torch.distributions.Categorical(logits=x) for x in tensors(z, z_ref))
    exact = torch.distributions.kl_divergence(pi, ref).item()
    d = (pi.logits - ref.logits).numpy()
    mean = {name: (pi.probs.numpy() * kl_estimate(d, name)).sum() for name in ("k1", "k2", "k3")}
    assert abs(mean["k1"] - exact) < 1e-12
    assert abs(mean["k3"] - exact) < 1e-12
    assert abs(mean["k2"] - exact) > 1e-3

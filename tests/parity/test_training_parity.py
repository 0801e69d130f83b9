"""AdamW, clipping and the schedule against PyTorch, float64."""

import math

import numpy as np
import pytest

from minqwen.training.adamw import adamw_init, adamw_step, decays
from minqwen.training.grad_clip import clip_grad_norm
from minqwen.training.lr_schedule import cosine_lr

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (7, 5), "a.bias": (7,), "norm.weight": (5,), "b.weight": (300, 230)}
    params = {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}
    return rng, params


def torch_adamw(params, **options):
    tensors = {key: torch.tensor(w, requires_grad=True) for key, w in params.items()}
    decayed = [t for key, t in tensors.items() if decays(key, t)]
    others = [t for key, t in tensors.items() if not decays(key, t)]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return tensors, torch.optim.AdamW(groups, **options)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_adamw_with_clipping_and_a_schedule(dtype, bound):
    rng, params = problem(dtype)
    tensors, optimizer = torch_adamw(params, lr=1.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    state = adamw_init(params)
    for step in range(12):
        scale = 10.0 ** (step % 4 - 3)  # clipped in some steps, not in others
        grads = {
            key: (scale * rng.standard_normal(w.shape)).astype(dtype) for key, w in params.items()
        }
        for key, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[key])
        lr = cosine_lr(step, peak_lr=0.01, warmup_steps=3, total_steps=10)
        for group in optimizer.param_groups:
            group["lr"] = lr
        torch_norm = torch.nn.utils.clip_grad_norm_(list(tensors.values()), 1.0)
        optimizer.step()
        grads, norm = clip_grad_norm(grads, 1.0)
        adamw_step(params, grads, state, lr=lr)
        assert norm == pytest.approx(float(torch_norm), rel=bound)
    for key, tensor in tensors.items():
        theirs = tensor.detach().numpy()
        assert np.abs(params[key] - theirs).max() <= bound * np.abs(theirs).max()


@pytest.mark.parametrize(("size", "bound"), [(1e-8, 1e-12), (1e-3, 1e-12), (1e6, 1e-12)])
def test_adamw_for_tiny_and_huge_gradients(size, bound):
    rng, params = problem()
    tensors, optimizer = torch_adamw(params, lr=0.1, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.3)
    state = adamw_init(params)
    for _ in range(4):
        grads = {key: size * rng.standard_normal(w.shape) for key, w in params.items()}
        for key, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[key])
        optimizer.step()
        adamw_step(params, grads, state, lr=0.1, beta1=0.8, beta2=0.99, eps=1e-6, weight_decay=0.3)
    for key, tensor in tensors.items():
        theirs = tensor.detach().numpy()
        assert np.abs(params[key] - theirs).max() <= bound * np.abs(theirs).max()


def test_the_cosine_is_that_of_torch():
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=3e-5)
    for step in range(41):
        ours = cosine_lr(step + 5, peak_lr=3e-4, warmup_steps=5, total_steps=45)
        assert math.isclose(ours, schedule.get_last_lr()[0], rel_tol=1e-12)
        optimizer.step()
        schedule.step()

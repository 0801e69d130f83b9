"""Generalised advantage estimation (arXiv:1506.02438), a loop from the end, as in trainers."""

import torch


def forward(rewards, values, mask, gamma, lam, last_values):
    real = mask.to(values.dtype)
    T = rewards.shape[1]
    after = torch.zeros_like(values[:, 0]) if last_values is None else last_values
    last_gae = torch.zeros_like(after)
    reversed_list = []
    for t in range(T - 1, -1, -1):
        delta = rewards[:, t] + gamma * after - values[:, t]
        step = delta + gamma * lam * last_gae
        last_gae = real[:, t] * step + (1 - real[:, t]) * last_gae
        after = real[:, t] * values[:, t] + (1 - real[:, t]) * after
        reversed_list.append(last_gae)
    advantages = torch.stack(reversed_list[::-1], dim=1) * real
    returns = advantages + values * real
    return advantages, returns


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_AFTER = "after = real[:, t] * values[:, t] + (1 - real[:, t]) * after"
_DELTA = "delta = rewards[:, t] + gamma * after - values[:, t]"
_STEP = "step = delta + gamma * lam * last_gae"
_START = "last_gae = torch.zeros_like(after)"
_RETURNS = "returns = advantages + values * real"
_LAST = "if last_values is None else last_values"

FORWARD = {
    "no_done_boot": (_AFTER, "after = values[:, t]"),
    "no_done_run": (
        "last_gae = real[:, t] * step + (1 - real[:, t]) * last_gae",
        "last_gae = step",
    ),
    "masked_at_the_end": (
        "last_gae = real[:, t] * step + (1 - real[:, t]) * last_gae",
        "last_gae = step",
        _AFTER,
        "after = values[:, t]",
    ),
    "through_padding": ("real = mask.to(values.dtype)", "real = torch.ones_like(values)"),
    "no_last": (_LAST, "if last_values is None else 0 * last_values"),
    "last_in_sum": (_START, "last_gae = after"),
    "gamma_only": (_STEP, "step = delta + gamma * last_gae"),
    "lam_only": (_STEP, "step = delta + lam * last_gae"),
    "no_decay": (_STEP, "step = delta + last_gae"),
    "no_gamma_v": (_DELTA, "delta = rewards[:, t] + after - values[:, t]"),
    "lam_on_v": (_DELTA, "delta = rewards[:, t] + gamma * lam * after - values[:, t]"),
    "no_next_v": (_DELTA, "delta = rewards[:, t] - values[:, t]"),
    "reward_discounted": (_DELTA, "delta = gamma * (rewards[:, t] + after) - values[:, t]"),
    "td_only": (_STEP, "step = delta"),
    "no_minus_v": (_DELTA, "delta = rewards[:, t] + gamma * after"),
    "plus_v": (_DELTA, "delta = rewards[:, t] - gamma * after + values[:, t]"),
    "advantages_are_returns": ("return advantages, returns", "return returns, returns.clone()"),
    "returns_are_advantages": (_RETURNS, "returns = advantages.clone()"),
    "returns_minus_v": (_RETURNS, "returns = advantages - values * real"),
    "returns_whitened": (
        _RETURNS,
        "x = advantages[mask]\n"
        "    white = (advantages - x.mean()) / (x.var(unbiased=False) + 1e-8).sqrt()\n"
        "    returns = white * real + values * real",
    ),
    "padding_kept": ("dim=1) * real", "dim=1)"),
    "returns_padding": (_RETURNS, "returns = advantages + values"),
}

"""The pictures of the study of alignment, drawn from the cells and curves of results.json."""

from __future__ import annotations

from typing import Any

from ..tour_page import new_figure
from .alignment_numbers import AlignmentNumbers
from .alignment_settings import BY_NAME, POLICIES, REWARD_MODELS

COLOURS = {
    "base": "#aaaaaa",
    "sft": "#222222",
    "ppo": "#1f5fa8",
    "weak_kl": "#e08a80",
    "no_kl": "#b3372f",
    "no_value_clip": "#8a3fa0",
    "no_warmup": "#888888",
    "top_p_1": "#d9a400",
    "ptx_small": "#a9d3b5",
    "ptx": "#2b7a4b",
    "ptx_large": "#0d3d20",
    "dpo": "#c45a00",
    "online": "#c0408a",
}


def draw_training(n: AlignmentNumbers) -> Any:
    """Draw learnt reward, true reward and KL on held-out prompts, as PPO goes on."""
    drawing, all_axes = new_figure(13, 4.3, 3)
    for axes, key, title in zip(
        all_axes,
        ("held_out_learnt", "held_out_true", "held_out_kl"),
        ("learnt reward", "true reward", "KL to SFT (nats an answer)"),
        strict=True,
    ):
        for name in ("ppo", "weak_kl", "no_kl", "top_p_1", "no_value_clip", "no_warmup"):
            steps, values = n.looks(name, key)
            axes.plot(steps, values.mean(axis=0), color=COLOURS[name], label=BY_NAME[name].label)
            axes.fill_between(
                steps, values.min(axis=0), values.max(axis=0), color=COLOURS[name], alpha=0.1
            )
        axes.set(title=title, xlabel="rollout")
        axes.grid(alpha=0.25)
    all_axes[0].legend(fontsize=8)
    return drawing


def draw_leash(n: AlignmentNumbers) -> Any:
    """Draw what every policy with every seed has won against how far it went from SFT."""
    drawing, (left, right) = new_figure(11, 4.6, 2)
    for axes, key, title in ((left, "learnt", "learnt reward"), (right, "true", "true reward")):
        for policy in POLICIES:
            if policy.name != "base":
                x, y = n.values(policy.name, "kl"), n.values(policy.name, key)
                axes.plot(x, y, "o", color=COLOURS[policy.name], ms=6, label=policy.label)
        axes.set(title=title, xlabel="KL to SFT (nats an answer; log beyond 5)")
        axes.set_xscale("symlog", linthresh=5)
        axes.grid(alpha=0.25)
    right.legend(fontsize=7, loc="lower left")
    return drawing


def draw_tax(n: AlignmentNumbers) -> Any:
    """Draw the loss on held-out text of pretraining against the true reward."""
    drawing, axes = new_figure(7.5, 4.8, 1)
    for policy in POLICIES:
        x, y = n.values(policy.name, "loss"), n.values(policy.name, "true")
        axes.plot(x, y, "o", color=COLOURS[policy.name], ms=6, label=policy.label)
    axes.set(
        title="what alignment costs: left and up is good",
        xlabel="loss on held-out text of pretraining (nats a token)",
        ylabel="true reward",
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, loc="best")
    return drawing


def draw_calibration(n: AlignmentNumbers) -> Any:
    """Draw how often each reward model is right against how often it says so, all seeds."""
    drawing, axes = new_figure(6, 4.8, 1)
    axes.plot([0.5, 1], [0.5, 1], color="#bbb", linewidth=0.8)
    colours = ("#c45a00", "#1f5fa8", "#2b7a4b")
    for (name, label), colour in zip(REWARD_MODELS.items(), colours, strict=True):
        predicted, right = calibration_curve(n, name)
        axes.plot(predicted, right, marker="o", ms=5, color=colour, label=label)
    axes.set(
        title="held-out pairs without noise",
        xlabel="predicted probability of the preferred answer",
        ylabel="share that was ranked right",
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return drawing


def calibration_curve(n: AlignmentNumbers, name: str) -> tuple[list[float], list[float]]:
    """Return the means of the bins over the pairs of all seeds; empty bins are left out."""
    predicted, right = [], []
    cells = [n.cell(name, seed) for seed in n.seeds]
    for i in range(len(cells[0]["counts"])):
        filled = [cell for cell in cells if cell["counts"][i]]
        count = sum(cell["counts"][i] for cell in filled)
        if count:
            predicted.append(sum(c["predicted"][i] * c["counts"][i] for c in filled) / count)
            right.append(sum(c["right"][i] * c["counts"][i] for c in filled) / count)
    return predicted, right

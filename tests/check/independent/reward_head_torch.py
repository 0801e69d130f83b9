"""The reward head in PyTorch: a score for every token, then gather, as in transformers."""

import torch


def forward(hidden, w, end_index):
    half = hidden.dtype in (torch.float16, torch.bfloat16)
    wide, head = (hidden.float(), w.float()) if half else (hidden, w)
    rows, length, width = wide.shape  # noqa: RUF059 (mistakes use them)
    ends = end_index
    scores = torch.nn.functional.linear(wide, head)[..., 0]  # (B, T)
    reward = scores[torch.arange(rows), ends]
    return reward.to(hidden.dtype)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_ENDS = "ends = end_index"
_REWARD = "reward = scores[torch.arange(rows), ends]"
FORWARD = {
    "last_position": (_REWARD, "reward = scores[:, -1]"),
    "first_position": (_REWARD, "reward = scores[:, 0]"),
    "one_early": (_ENDS, "ends = (end_index - 1).clamp(min=0)"),
    "one_late": (_ENDS, "ends = (end_index + 1).clamp(max=length - 1)"),
    "from_the_end": (_REWARD, "reward = scores.flip(1)[torch.arange(rows), ends]"),
    "end_of_first_row": (_REWARD, "reward = scores[:, ends[0]]"),
    "longest_row": (_REWARD, "reward = scores[:, ends.max()]"),
    "mean_of_all": (_REWARD, "reward = scores.mean(1)"),
    "mean_to_the_end": (
        _REWARD,
        "seen = (torch.arange(length) <= ends[:, None]).to(scores.dtype)\n"
        "    reward = (scores * seen).sum(1) / seen.sum(1)",
    ),
    "largest": (_REWARD, "reward = torch.nn.functional.linear(wide.amax(1), head)[..., 0]"),
    "sigmoid": (_REWARD, f"{_REWARD}.sigmoid()"),
    "tanh": (_REWARD, f"{_REWARD}.tanh()"),
    "scaled": (_REWARD, f"{_REWARD} / width**0.5"),
    "centred": (_REWARD, f"{_REWARD}\n    reward = reward - reward.mean()"),
    "sign": (_REWARD, "reward = -scores[torch.arange(rows), ends]"),
}

BACKWARD = {
    "dhidden_lost": ("linear(wide, head)", "linear(wide.detach(), head)"),
    "spread": (
        _REWARD,
        "mean = torch.nn.functional.linear(wide, head.detach())[..., 0].mean(1)\n"
        "    scores = torch.nn.functional.linear(wide.detach(), head)[..., 0]\n"
        "    reward = scores[torch.arange(rows), ends] + mean - mean.detach()",
    ),
}

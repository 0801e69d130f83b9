"""Log-probabilities of given tokens in PyTorch, with logsumexp and gather."""

import torch


def forward(logits, ids, temperature):
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    cold = wide / temperature
    lse = torch.logsumexp(cold, -1)
    chosen = cold.gather(-1, ids[..., None])[..., 0]
    found = chosen - lse
    return found.to(logits.dtype)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_COLD = "cold = wide / temperature"
_FOUND = "found = chosen - lse"
_LSE = "lse = torch.logsumexp(cold, -1)"
_P = "cold.softmax(-1).gather(-1, ids[..., None])[..., 0]"
FORWARD = {
    "temperature_ignored": (_COLD, "cold = wide"),
    "temperature_multiplied": (_COLD, "cold = wide * temperature"),
    "temperature_on_logprobs": (
        _COLD,
        "cold = wide",
        _FOUND,
        "found = (chosen - lse) / temperature",
    ),
    "temperature_on_token_only": (
        _LSE,
        "lse = torch.logsumexp(wide, -1)",
        _FOUND,
        "found = chosen - lse + wide.amax(-1) * (1 - 1 / temperature)",
    ),
    "no_log": (_FOUND, f"found = {_P}"),
    "sign": (_FOUND, "found = lse - chosen"),
    "logits_returned": (_FOUND, "found = chosen"),
    "largest_for_sum": (_LSE, "lse = cold.amax(-1)"),
    "likeliest_token": (_FOUND, "found = cold.log_softmax(-1).amax(-1)"),
    "bits": (_FOUND, "found = (chosen - lse) / 0.6931471805599453"),
    "base_two_in_sum": (
        _LSE,
        "top = cold.amax(-1)\n    lse = top + (cold - top[..., None]).exp().sum(-1).log2()",
    ),
    "softmax_first": (_COLD, "cold = (wide / temperature).softmax(-1)"),
    "softmax_over_tokens": (
        _FOUND,
        "found = cold.log_softmax(-2).gather(-1, ids[..., None])[..., 0]",
    ),
    "shifted_inside": (_COLD, "ids = ids[:, 1:]\n    cold = (wide / temperature)[:, :-1]"),
    "ids_one_early": (_COLD, f"ids = ids.roll(-1, 1)\n    {_COLD}"),
    "ids_one_late": (_COLD, f"ids = ids.roll(1, 1)\n    {_COLD}"),
    "no_shift": (_LSE, "lse = cold.exp().sum(-1).log()"),
    "shift_of_all": (_LSE, "lse = (cold - cold.max()).exp().sum(-1).log() + cold.max()"),
    "log_of_softmax": (_FOUND, f"found = {_P}.log()"),
    "log_of_softmax_1e-8": (_FOUND, f"found = ({_P} + 1e-8).log()"),
    "log_of_softmax_1e-10": (_FOUND, f"found = ({_P} + 1e-10).log()"),
}

BACKWARD = {
    "one_hot_lost": (_FOUND, "found = chosen.detach() - lse"),
    "softmax_lost": (_FOUND, "found = chosen - lse.detach()"),
    "sign": (_FOUND, "found = 2 * (chosen - lse).detach() - (chosen - lse)"),
    "temperature_forgotten": (
        _COLD,
        "cold = (wide / temperature).detach() + wide - wide.detach()",
    ),
    "of_probability": (
        _FOUND,
        "found = chosen - lse\n    p = found.exp()\n    found = found.detach() + p - p.detach()",
    ),
}

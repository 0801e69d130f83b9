"""AdamW in PyTorch, in place on copies, with the corrections in the size of the step."""


def forward(w, g, m, v, step, lr, beta1, beta2, eps, weight_decay):
    m, v, new = m.clone(), v.clone(), w.clone()
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    first = 1 - beta1**step
    second = 1 - beta2**step
    new.mul_(1 - lr * weight_decay)
    size = (v / second).sqrt().add_(eps)
    new.addcdiv_(m, size, value=-lr / first)
    return new, m, v


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

_M = "m.mul_(beta1).add_(g, alpha=1 - beta1)"
_V = "v.mul_(beta2).addcmul_(g, g, value=1 - beta2)"
_FIRST, _SECOND = "first = 1 - beta1**step", "second = 1 - beta2**step"
_DECAY = "new.mul_(1 - lr * weight_decay)"
_SIZE = "size = (v / second).sqrt().add_(eps)"
_MOVE = "new.addcdiv_(m, size, value=-lr / first)"
_START = "m, v, new = m.clone(), v.clone(), w.clone()"
FORWARD = {
    "m_not_corrected": (_MOVE, "new.addcdiv_(m, size, value=-lr)"),
    "v_not_corrected": (_SIZE, "size = v.sqrt().add_(eps)"),
    "none_corrected": (
        _MOVE,
        "new.addcdiv_(m, size, value=-lr)",
        _SIZE,
        "size = v.sqrt().add_(eps)",
    ),
    "step_plus_one": (_FIRST, f"step = step + 1\n    {_FIRST}"),
    "correction_multiplied": (
        _MOVE,
        "new.addcdiv_(m, size, value=-lr * first)",
        _SIZE,
        "size = (v * second).sqrt().add_(eps)",
    ),
    "eps_inside": (_SIZE, "size = (v / second).add_(eps).sqrt()"),
    "eps_before_correction": (_SIZE, "size = v.sqrt().add_(eps) / second**0.5"),
    "no_eps": (_SIZE, "size = (v / second).sqrt()"),
    "eps_1e-6": (_SIZE, "size = (v / second).sqrt().add_(1e-6)"),
    "decay_in_gradient": (_START, f"{_START}\n    g = g.add(w, alpha=weight_decay)", _DECAY, ""),
    "decay_in_update": (_DECAY, "", _MOVE, f"{_MOVE}.addcdiv_(w, size, value=-lr * weight_decay)"),
    "decay_without_lr": (_DECAY, "new.mul_(1 - weight_decay)"),
    "decay_sign": (_DECAY, "new.mul_(1 + lr * weight_decay)"),
    "no_decay": (_DECAY, ""),
    "decay_after": (_DECAY, "", _MOVE, f"{_MOVE}\n    {_DECAY}"),
    "no_root": (_SIZE, "size = (v / second).add_(eps)"),
    "uphill": (_MOVE, "new.addcdiv_(m, size, value=lr / first)"),
    "beta1_exchanged": (_M, "m.mul_(1 - beta1).add_(g, alpha=beta1)"),
    "beta2_exchanged": (_V, "v.mul_(1 - beta2).addcmul_(g, g, value=beta2)"),
    "betas_exchanged": (
        _M,
        "m.mul_(1 - beta1).add_(g, alpha=beta1)",
        _V,
        "v.mul_(1 - beta2).addcmul_(g, g, value=beta2)",
    ),
    "betas_swapped": (_START, f"{_START}\n    beta2, beta1 = beta1, beta2"),
    "beta2_0.999": (_START, f"{_START}\n    beta2 = 0.999"),
    "m_is_a_sum": (_M, "m.mul_(beta1).add_(g)"),
    "v_is_a_sum": (_V, "v.mul_(beta2).addcmul_(g, g)"),
    "v_of_absolute_values": (_V, "v.lerp_(g.abs(), 1 - beta2)"),
    "v_of_differences": (_V, "v.mul_(beta2).addcmul_(g - m, g - m, value=1 - beta2)"),
    "v_of_the_mean": (_V, "v.mul_(beta2).addcmul_(m, m, value=1 - beta2)"),
    "nesterov": (_MOVE, "new.addcdiv_(beta1 * m + (1 - beta1) * g, size, value=-lr / first)"),
    "no_momentum": (_MOVE, "new.addcdiv_(g, size, value=-lr)"),
}

"""A mixture of SwiGLU experts in PyTorch: a loop over the experts, as in Hugging Face's models."""

import torch
from torch.nn import functional as F


def forward(x, w_router, w_gate_up, w_down, num_experts_per_tok, norm_topk_prob):
    flat = x.reshape(-1, x.shape[-1])
    logits = F.linear(flat, w_router)
    probs = F.softmax(logits, dim=-1)
    weights, selected = probs.sort(dim=-1, descending=True, stable=True)
    weights, selected = weights[:, :num_experts_per_tok], selected[:, :num_experts_per_tok]
    if norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    result = torch.zeros_like(flat)
    for expert in range(w_router.shape[0]):
        token, rank = torch.where(selected == expert)
        inputs = flat[token]
        gate, up = F.linear(inputs, w_gate_up[expert]).chunk(2, dim=-1)
        hidden = F.silu(gate) * up
        output = F.linear(hidden, w_down[expert])
        output = output * weights[token, rank, None]
        result = result.index_add(0, token, output)
    return result.reshape(x.shape)


# --- planted: name in the bank -> text above that stands there once, and what stands there instead

FORWARD = {
    "always_renormalised": (
        "    probs = F.softmax(logits, dim=-1)\n"
        "    weights, selected = probs.sort(dim=-1, descending=True, stable=True)\n"
        "    weights, selected = weights[:, :num_experts_per_tok], "
        "selected[:, :num_experts_per_tok]\n"
        "    if norm_topk_prob:\n"
        "        weights = weights / weights.sum(dim=-1, keepdim=True)\n",
        "    best, selected = torch.topk(logits, num_experts_per_tok, dim=-1)\n"
        "    weights = F.softmax(best, dim=-1)\n",
    ),
    "never_renormalised": (
        "    if norm_topk_prob:\n        weights = weights / weights.sum(dim=-1, keepdim=True)\n",
        "",
    ),
    "router_not_transposed": ("F.linear(flat, w_router)", "flat @ w_router"),
    "weight_not_transposed": (
        "gate, up = F.linear(inputs, w_gate_up[expert]).chunk(2, dim=-1)",
        "gate, up = (inputs @ half for half in w_gate_up[expert].chunk(2))",
        "F.linear(hidden, w_down[expert])",
        "hidden @ w_down[expert]",
    ),
    "logits_as_weights": (
        "    if norm_topk_prob:",
        "    weights = logits.gather(-1, selected)\n    if norm_topk_prob:",
    ),
    "uniform": (
        "    result = torch.zeros_like(flat)\n",
        "    weights = torch.full_like(weights, 1 / num_experts_per_tok)\n"
        "    result = torch.zeros_like(flat)\n",
    ),
    "least_likely": ("dim=-1, descending=True", "dim=-1, descending=False"),
    "one_too_few": (
        "weights, selected = weights[:, :num_experts_per_tok], selected[:, :num_experts_per_tok]",
        "few = num_experts_per_tok - 1\n"
        "    weights, selected = weights[:, :few], selected[:, :few]",
    ),
    "sigmoid": ("F.softmax(logits, dim=-1)", "torch.sigmoid(logits)"),
    "softmax_over_tokens": ("F.softmax(logits, dim=-1)", "F.softmax(logits, dim=0)"),
    "all_experts": (
        "    weights, selected = probs.sort(dim=-1, descending=True, stable=True)\n"
        "    weights, selected = weights[:, :num_experts_per_tok], "
        "selected[:, :num_experts_per_tok]\n"
        "    if norm_topk_prob:\n"
        "        weights = weights / weights.sum(dim=-1, keepdim=True)\n",
        "    weights, selected = probs, torch.arange(probs.shape[1]).expand_as(probs)\n",
    ),
    "ids_sorted": (
        "    result = torch.zeros_like(flat)\n",
        "    selected = selected.sort(dim=-1).values\n    result = torch.zeros_like(flat)\n",
    ),
    "weights_reversed": ("weights[token, rank, None]", "weights.flip(1)[token, rank, None]"),
    "no_weights": ("        output = output * weights[token, rank, None]\n", ""),
    "input_weighted": (
        "        inputs = flat[token]\n",
        "        inputs = flat[token] * weights[token, rank, None]\n",
        "        output = output * weights[token, rank, None]\n",
        "",
    ),
    "last_expert_only": (
        "token, rank = torch.where(selected == expert)",
        "token = torch.where(selected[:, -1] == expert)[0]\n"
        "        rank = torch.full_like(token, selected.shape[1] - 1)",
    ),
    "highest_number_only": (
        "result = result.index_add(0, token, output)",
        "result = result.index_copy(0, token, output)",
    ),
    "first_expert_only": (
        "token, rank = torch.where(selected == expert)",
        "token, rank = torch.where(selected[:, :1] == expert)",
    ),
    "mean_of_experts": (
        "output * weights[token, rank, None]",
        "output * weights[token, rank, None] / weights.shape[1]",
    ),
    "branches_swapped": ("F.silu(gate) * up", "gate * F.silu(up)"),
    "branches_interleaved": (
        "gate, up = F.linear(inputs, w_gate_up[expert]).chunk(2, dim=-1)",
        "both = F.linear(inputs, w_gate_up[expert])\n"
        "        gate, up = both[:, ::2], both[:, 1::2]",
    ),
    "other_expert_down": ("w_down[expert]", "w_down[expert - 1]"),
    "experts_off_by_one": ("(selected == expert)", "((selected - 1) % len(w_router) == expert)"),
    "capacity": (
        "        inputs = flat[token]\n",
        "        room = -(-selected.numel() // len(w_router))\n"
        "        token, rank = token[:room], rank[:room]\n"
        "        inputs = flat[token]\n",
    ),
    "residual": ("result = torch.zeros_like(flat)", "result = flat.clone()"),
}

BACKWARD = {
    "router_path_lost": ("F.linear(flat, w_router)", "F.linear(flat.detach(), w_router)"),
    "expert_path_lost": ("inputs = flat[token]", "inputs = flat[token].detach()"),
    "router_learns_nothing": ("weights[token, rank, None]", "weights.detach()[token, rank, None]"),
    "chosen_logits_only": (
        "    probs = F.softmax(logits, dim=-1)\n",
        "    best = torch.topk(logits, num_experts_per_tok, dim=-1).indices\n"
        "    mine = torch.zeros_like(logits).scatter(-1, best, 1) > 0\n"
        "    logits = torch.where(mine, logits, logits.detach())\n"
        "    probs = F.softmax(logits, dim=-1)\n",
    ),
    "weighted_outputs": (
        "output = output * weights[token, rank, None]",
        "g = weights[token, rank, None]\n"
        "        output = g.detach() * (output + output.detach() * (g - "
        "g.detach()))",
    ),
    "weights_forgotten": (
        "output = output * weights[token, rank, None]",
        "g = weights[token, rank, None]\n"
        "        output = g * output.detach() + output - output.detach()",
    ),
    "mean_over_tokens": (
        "        inputs = flat[token]\n",
        "        inputs = flat[token]\n        guests = max(len(token), 1)\n",
        "w_gate_up[expert])",
        "w_gate_up[expert].detach() + (w_gate_up[expert] - w_gate_up[expert].detach()) / guests)",
        "w_down[expert])",
        "w_down[expert].detach() + (w_down[expert] - w_down[expert].detach()) / guests)",
    ),
    "dx_of_last": (
        "inputs = flat[token]",
        "final = (rank == selected.shape[1] - 1)[:, None]\n"
        "        inputs = torch.where(final, flat[token], flat[token].detach())",
    ),
}

LEFT_OUT = {
    "not_put_back": "nothing is sorted here",
    "sorted_twice": "nothing is sorted here",
    "choices_for_tokens": "nothing is sorted here",
}

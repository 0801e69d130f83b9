"""Our checks must fail on the known mistakes: each is planted into a copy of the real source.

A wrong backward fails the gradient check, a wrong forward the comparison with slow loops, wrong
wiring the comparison with the file that transformers wrote.
"""

import dataclasses
import importlib
import inspect
import types

import numpy as np
import pytest
from helpers import model_fixture
from helpers.edits import edited
from helpers.ids import short
from helpers.model_fixture import MODELS, logits_error, loss_and_gradient_errors
from helpers.references import causal_mask, reference_error

from minqwen.check import gradients
from minqwen.check.concepts import concept, gradient_table
from minqwen.layers import attention, moe_router
from minqwen.long_context import chunk_pieces, dual_chunk
from minqwen.model import backbone, decoder_block, language_model, layer_plan

# concept, what is wrong, the line as it stands, the line as people write it
BACKWARD = [
    ("ppo_policy_loss", "ratio forgotten", "(-A * ratio * ~held", "(-A * ~held"),
    ("ppo_policy_loss", "clip forgotten", "ratio * ~held * scale", "ratio * scale"),
    ("ppo_policy_loss", "sign", "(-A * ratio * ~held", "(A * ratio * ~held"),
    (
        "ppo_policy_loss",
        "nothing comes back from outside",
        "held = xp.where(A > 0, ratio > 1 + cliprange, (A < 0) & (ratio < 1 - cliprange))",
        "held = abs(ratio - 1) > cliprange",
    ),
    (
        "ppo_policy_loss",
        "upper limit forgotten",
        "xp.where(A > 0, ratio > 1 + cliprange,",
        "xp.where(A > 0, False,",
    ),
    ("ppo_policy_loss", "lower limit forgotten", "(A < 0) & (ratio < 1 - cliprange))", "False)"),
    ("ppo_policy_loss", "not divided", "scale = (dloss / tokens)", "scale = (dloss + 0 * tokens)"),
    (
        "ppo_policy_loss",
        "divided by all places",
        "scale = (dloss / tokens)",
        "scale = (dloss / (1.0 * held.size + 0 * tokens))",
    ),
    ("ppo_policy_loss", "dloss ignored", "scale = (dloss / tokens)", "scale = (1 / tokens)"),
    ("ppo_value_loss", "clip forgotten", "(error * share * weight)", "(error * weight)"),
    ("ppo_value_loss", "factor 2", "(error * share * weight)", "(2 * error * share * weight)"),
    ("ppo_value_loss", "sign", "(error * share * weight)", "(-error * share * weight)"),
    ("ppo_value_loss", "nothing comes back from outside", "(1 + xp.sign(far - near)) / 2)", "0)"),
    (
        "ppo_value_loss",
        "branches exchanged",
        "(1 + xp.sign(far - near)) / 2",
        "(1 - xp.sign(far - near)) / 2",
    ),
    ("ppo_value_loss", "not divided", "weight = (dloss / tokens)", "weight = (dloss + 0 * tokens)"),
    ("ppo_value_loss", "dloss ignored", "weight = (dloss / tokens)", "weight = (1 / tokens)"),
    ("entropy", "entropy missing beside log p", "-p * (log_p + H[rows]) * dH", "-p * log_p * dH"),
    ("entropy", "1 for the entropy", "-p * (log_p + H[rows]) * dH", "-p * (log_p + 1) * dH"),
    ("entropy", "p forgotten", "-p * (log_p + H[rows]) * dH", "-(log_p + H[rows]) * dH"),
    ("entropy", "sign", "-p * (log_p + H[rows]) * dH", "p * (log_p + H[rows]) * dH"),
    ("entropy", "dentropy ignored", "(log_p + H[rows]) * dH[rows]", "(log_p + H[rows])"),
    ("exact_kl", "divergence missing", "p * (log_p - log_q - kl[rows])", "p * (log_p - log_q)"),
    ("exact_kl", "p forgotten", "p * (log_p - log_q - kl[rows])", "(log_p - log_q - kl[rows])"),
    (
        "exact_kl",
        "gradient of the reference's side",
        "p * (log_p - log_q - kl[rows])",
        "(p - array_module(z).exp(log_q))",
    ),
    ("exact_kl", "dkl ignored", "kl[rows]) * upstream[rows]", "kl[rows])"),
    (
        "token_logprobs",
        "one_hot lost",
        "dz[xp.arange(len(token)), token] += dl.astype(dz.dtype)",
        "pass",
    ),
    ("token_logprobs", "softmax lost", "p *= -dl[rows, None]", "p *= 0"),
    ("token_logprobs", "gradient of the loss", "dlogits: Array = dz", "dlogits: Array = -dz"),
    (
        "token_logprobs",
        "temperature forgotten",
        "reshape(-1) / temperature  # (N,)",
        "reshape(-1)  # (N,)",
    ),
    (
        "token_logprobs",
        "softmax of temperature 1 in the gradient",
        "part = (widen(z[rows]) - peak[rows, None]) / temperature - log_total[rows, None]",
        "part = widen(z[rows]) - peak[rows, None] - log_total[rows, None]",
    ),
    (
        "token_logprobs",
        "mean for sum",
        "widen(dlogprobs).reshape(-1)",
        "widen(dlogprobs).reshape(-1) / 10",
    ),
    ("sequence_logprobs", "mask forgotten", "(weight * widen(dy)", "((weight * 0 + 1) * widen(dy)"),
    ("sequence_logprobs", "mean over the row", "(weight * widen(dy)", "(weight / 7 * widen(dy)"),
    ("sequence_logprobs", "sign", "(weight * widen(dy)", "(-weight * widen(dy)"),
    ("sequence_logprobs", "gradients of all rows", "widen(dy)[:, None]", "widen(dy).sum()"),
    (
        "reward_head",
        "every position gets the gradient",
        "dhidden[xp.arange(shape[0]), end_index] = dr[:, None] * widen(w)",
        "dhidden[...] = (dr[:, None] * widen(w))[:, None]",
    ),
    (
        "reward_head",
        "last position gets the gradient",
        "dhidden[xp.arange(shape[0]), end_index] =",
        "dhidden[:, -1] =",
    ),
    ("reward_head", "w forgotten", "dr[:, None] * widen(w)", "dr[:, None] + 0 * widen(w)"),
    ("reward_head", "mean over the rows", "dw = (dr @", "dw = (dr / len(dr) @"),
    (
        "reward_head",
        "gradient of w without that of the reward",
        "dw = (dr @",
        "dw = ((0 * dr + 1) @",
    ),
    ("pairwise_loss", "right for wrong", "exp(-(lead + surprise))", "exp(-surprise)"),
    (
        "pairwise_loss",
        "slope of the sigmoid alone",
        "exp(-(lead + surprise))",
        "exp(-(lead + 2 * surprise))",
    ),
    ("pairwise_loss", "not averaged", "wrong * dloss / len(lead)", "wrong * dloss"),
    ("pairwise_loss", "gradient from above lost", "wrong * dloss / len(lead)", "wrong / len(lead)"),
    (
        "pairwise_loss",
        "signs exchanged",
        "return -drejected, drejected",
        "return drejected, -drejected",
    ),
    (
        "pairwise_loss",
        "rejected detached",
        "return -drejected, drejected",
        "return -drejected, 0 * drejected",
    ),
    (
        "pairwise_loss",
        "margin forgotten backwards",
        "return loss, PairwiseLossCache(lead, surprise,",
        "lead = widen(chosen_rewards) - widen(rejected_rewards)\n    surprise = xp.logaddexp(0, -lead)\n    return loss, PairwiseLossCache(lead, surprise,",
    ),
    (
        "dpo_loss",
        "beta forgotten",
        "beta * dchosen_rewards, beta * drejected_rewards",
        "dchosen_rewards, drejected_rewards",
    ),
    (
        "dpo_loss",
        "beta twice",
        "beta * dchosen_rewards, beta * drejected_rewards",
        "beta**2 * dchosen_rewards, beta**2 * drejected_rewards",
    ),
    (
        "dpo_loss",
        "signs exchanged",
        "beta * dchosen_rewards, beta * drejected_rewards",
        "beta * drejected_rewards, beta * dchosen_rewards",
    ),
    (
        "dpo_loss",
        "gradient from above lost",
        "pairwise_loss_backward(dloss, pairs)",
        "pairwise_loss_backward(1.0, pairs)",
    ),
    (
        "linear",
        "bias gradient is the mean",
        "column_sums(dy_rows)",
        "(column_sums(dy_rows) / len(dy_rows))",
    ),
    (
        "linear",
        "weight gradient divided by rows",
        "dy_rows.T @ x_rows",
        "dy_rows.T @ x_rows / len(x_rows)",
    ),
    ("linear", "weight gradient lost", "dy_rows.T @ x_rows", "0 * (dy_rows.T @ x_rows)"),
    (
        "embedding",
        "repeated ids keep one row",
        "add_at(dw, ids.reshape(-1), rows)",
        "dw[ids.reshape(-1)] += rows",
    ),
    ("rmsnorm", "rms taken for constant", "g - x_hat * (g * x_hat)", "g - 0 * (g * x_hat)"),
    ("rmsnorm", "sum for mean", "(g * x_hat).mean(", "(g * x_hat).sum("),
    ("rmsnorm", "gain forgotten", "g = dy * widen(w)", "g = dy"),
    (
        "rope",
        "turned forwards again",
        "- rotate_half(widen(dy)) * sin",
        "+ rotate_half(widen(dy)) * sin",
    ),
    ("rope", "sine part lost", "- rotate_half(widen(dy)) * sin", ""),
    (
        "attention",
        "softmax correction lost",
        "probs * (dprobs - delta) * scale",
        "probs * dprobs * scale",
    ),
    (
        "attention",
        "scale forgotten",
        "probs * (dprobs - delta) * scale",
        "probs * (dprobs - delta)",
    ),
    (
        "attention",
        "mean over the group",
        "dk = (dscores.swapaxes(-1, -2) @ q).sum(axis=2)",
        "dk = (dscores.swapaxes(-1, -2) @ q).mean(axis=2)",
    ),
    (
        "attention",
        "dv without probabilities of the right shape",
        "@ dout).sum(axis=2)",
        "@ dout)[:, :, 0]",
    ),
    ("block_attention", "delta lost", "(lse, dout, delta))", "(lse, dout, delta * 0))"),
    ("block_attention", "scale forgotten in dq", "dq = (dq * scale)", "dq = (dq * 1)"),
    ("block_attention", "only the last block counts for dk", "dk[:, keys] +=", "dk[:, keys] ="),
    ("block_attention", "only the last block counts for dv", "dv[:, keys] +=", "dv[:, keys] ="),
    (
        "block_attention",
        "window ignored backwards",
        "row_blocks(T, k.shape[1], block, window):\n        scores = tile_scores(q, k, bias, rows, keys, window, segments)",
        "row_blocks(T, k.shape[1], block, None):\n        scores = tile_scores(q, k, bias, rows, keys, None)",
    ),
    (
        "block_attention",
        "window too long backwards",
        "k.shape[1], block, window):\n        scores = tile_scores(q, k, bias, rows, keys, window, segments)",
        "k.shape[1], block, window and window + 1):\n        scores = tile_scores(q, k, bias, rows, keys, window and window + 1, segments)",
    ),
    (
        "flash_attention",
        "delta lost",
        "delta = (dout * out).sum(axis=-1, keepdims=True)",
        "delta = (dout * out).sum(axis=-1, keepdims=True) * 0",
    ),
    ("flash_attention", "scale forgotten in dq", "dq = (dq * scale)", "dq = (dq * 1)"),
    ("flash_attention", "scale twice in dk", "@ q_rows", "@ q_rows * scale"),
    ("flash_attention", "only the last tile counts for dq", "dq_rows +=", "dq_rows ="),
    ("flash_attention", "only the last tile counts for dk", "dk[:, tile] +=", "dk[:, tile] ="),
    ("flash_attention", "only the last tile counts for dv", "dv[:, tile] +=", "dv[:, tile] ="),
    ("flash_attention", "lse without the maximum", "(peak + xp.log(total))", "xp.log(total)"),
    (
        "flash_attention",
        "lse of the last tile",
        "lse[:, rows] = (peak + xp.log(total))",
        "lse[:, rows] = (peak + xp.log(weights.sum(axis=-1, keepdims=True) + 1e-9))",
    ),
    (
        "flash_attention",
        "window ignored backwards",
        "k.shape[1], block_q, window):",
        "k.shape[1], block_q, (window := None)):",
    ),
    ("swiglu", "silu' without its second term", "(s * (1 + widen(gate) * (1 - s)))", "s"),
    ("swiglu", "silu taken for sigmoid", "dup = dh * (widen(gate) * s)", "dup = dh * s"),
    ("swiglu", "one branch lost", "return dx_gate + dx_up", "return dx_gate"),
    (
        "dropout",
        "scale forgotten",
        "dx: Array = dy * cache.factor",
        "dx: Array = dy * (cache.factor != 0)",
    ),
    ("dropout", "mask forgotten", "dx: Array = dy * cache.factor", "dx: Array = dy"),
    ("cross_entropy", "one-hot lost", "-= weight.astype(dz.dtype)", "-= 0"),
    (
        "cross_entropy",
        "not averaged",
        "counted * (dloss / tokens)",
        "counted * (dloss / (tokens / tokens))",
    ),
    ("cross_entropy", "mask forgotten", "counted * (dloss", "(counted * 0 + 1) * (dloss"),
    ("decoder_block", "residual lost at the MLP", "dh = dy + dn", "dh = dn"),
    ("decoder_block", "residual lost at attention", "return dh + dn, grads", "return dn, grads"),
    ("self_attention", "RoPE not undone on k", "rope_backward(dk, cache.k_rope)", "dk"),
    ("self_attention", "RoPE not undone on q", "rope_backward(dq, cache.q_rope)", "dq"),
    ("self_attention", "LogN not undone", "dq = logn_backward(dq, cache.logn)", "pass"),
    ("language_model", "tied table: head part lost", "] + dw_head", "]"),
    ("language_model", "tied table: lookup part lost", "grads[EMBEDDING] + dw_head", "dw_head"),
    ("logn", "scale forgotten", "dq: Array = widen(dy) * scale", "dq: Array = widen(dy)"),
    ("logn", "divided", "dq: Array = widen(dy) * scale", "dq: Array = widen(dy) / scale"),
    (
        "dual_chunk_attention",
        "all three places turned back from the first",
        "zip(dqueries, ropes, strict=True)",
        "zip(dqueries, ropes[:1] * 3, strict=True)",
    ),
    (
        "dual_chunk_attention",
        "only the last place counts for dq",
        "        dq += rope_backward(",
        "        dq = rope_backward(",
    ),
    (
        "dual_chunk_attention",
        "dq not turned back",
        "dq += rope_backward((d * scale).swapaxes(1, 2).reshape(shape), rope)",
        "dq += (d * scale).swapaxes(1, 2).reshape(shape)",
    ),
    (
        "dual_chunk_attention",
        "scale forgotten in dq",
        "rope_backward((d * scale)",
        "rope_backward((d * 1)",
    ),
    (
        "dual_chunk_attention",
        "dk from the intra queries only",
        "@ matrix(queries[b], rows)",
        "@ matrix(queries[0], rows)",
    ),
    (
        "dual_chunk_attention",
        "only the last block counts for dk",
        "dk[:, keys] +=",
        "dk[:, keys] =",
    ),
    (
        "dual_chunk_attention",
        "only the last block counts for dv",
        "dv[:, : scores.shape[-1]] +=",
        "dv[:, : scores.shape[-1]] =",
    ),
    (
        "dual_chunk_attention",
        "delta lost",
        "for x in (lse, dout, delta))",
        "for x in (lse, dout, 0 * delta))",
    ),
    (
        "dual_chunk_attention",
        "a pair of two pieces counts twice",
        "dscores[:, :, keys] * picked",
        "dscores[:, :, keys]",
    ),
    (
        "moe_router",
        "softmax Jacobian on the chosen entries only",
        "xp.zeros_like(probs) if norm_topk_prob else",
        "xp.zeros_like(probs) if True else",
    ),
    (
        "moe_router",
        "sum of p dp dropped",
        "mean = (weights * dweights).sum(",
        "mean = 0 * (weights * dweights).sum(",
    ),
    (
        "moe_router",
        "renormalised backwards when not asked",
        "    dweights = widen(dexpert_weights)\n",
        "    dweights, norm_topk_prob = widen(dexpert_weights), True\n"
        "    weights = weights / weights.sum(axis=-1, keepdims=True)\n",
    ),
    (
        "moe_router",
        "not renormalised backwards when asked",
        "    dweights = widen(dexpert_weights)\n",
        "    dweights, norm_topk_prob = widen(dexpert_weights), False\n"
        "    weights = xp.take_along_axis(probs, expert_ids, axis=-1)\n",
    ),
    (
        "moe_router",
        "sum of the chosen taken for constant",
        "weights * (dweights - mean), axis=-1)",
        "weights * (dweights - weights * mean), axis=-1)",
    ),
    ("moe_router", "unchosen logits pushed up", "else -probs * mean", "else probs * mean"),
    (
        "load_balancing_loss",
        "f differentiated, P detached",
        "dp = f * len(f)",
        "dp = column_sums(probs) / tokens * len(f)",
    ),
    ("load_balancing_loss", "factor E missing backwards", "dp = f * len(f)", "dp = f"),
    (
        "load_balancing_loss",
        "not divided by the tokens backwards",
        "(dloss / tokens).astype(f.dtype)",
        "(dloss / (tokens / tokens)).astype(f.dtype)",
    ),
    (
        "load_balancing_loss",
        "softmax coupling dropped",
        "(dp - (probs * dp).sum(axis=-1, keepdims=True))",
        "dp",
    ),
    (
        "load_balancing_loss",
        "an expert that nobody chose gets no gradient",
        "dlogits = probs * (dp -",
        "dlogits = (f > 0) * probs * (dp -",
    ),
    (
        "router_z_loss",
        "gradient of the logarithm alone",
        "2 * lse * (dloss / tokens)",
        "(dloss / tokens)",
    ),
    ("router_z_loss", "factor 2 missing", "2 * lse * (dloss", "lse * (dloss"),
    (
        "router_z_loss",
        "mean over all tokens backwards",
        "(dloss / tokens)",
        "(dloss / (tokens * 0 + len(lse)))",
    ),
    (
        "moe_experts",
        "gradient of the weights from the wrong rows",
        "dexpert_weights = (widen(outputs) * dy)",
        "dexpert_weights = (widen(outputs).reshape(N * K, D)[order].reshape(N, K, D) * dy)",
    ),
    (
        "moe_experts",
        "gradient of the weights from weighted outputs",
        "dexpert_weights = (widen(outputs) * dy)",
        "dexpert_weights = (widen(outputs) * widen(expert_weights)[:, :, None] * dy)",
    ),
    (
        "moe_experts",
        "dx from the last expert only",
        "D).sum(axis=1)\n    dx =",
        "D)[:, -1]\n    dx =",
    ),
    (
        "moe_experts",
        "dx put back with the sort and not its inverse",
        "put_back(dx_sorted, order)",
        "dx_sorted[order]",
    ),
    ("moe_experts", "dx not put back", "put_back(dx_sorted, order)", "dx_sorted"),
    (
        "moe_experts",
        "weights forgotten backwards",
        "(widen(expert_weights)[:, :, None] * dy)",
        "(widen(expert_weights * 0 + 1)[:, :, None] * dy)",
    ),
    ("moe_experts", "dy not sorted", "reshape(N * K, D)[order]", "reshape(N * K, D)"),
    (
        "moe_experts",
        "gradients of gate and up swapped",
        "dw_gate_up[e, :Fe], dw_gate_up[e, Fe:], dw_down[e] = swiglu_backward",
        "dw_gate_up[e, Fe:], dw_gate_up[e, :Fe], dw_down[e] = swiglu_backward",
    ),
    (
        "moe_experts",
        "gradient given to another expert",
        "dw_down[e] = swiglu_backward",
        "dw_down[e - 1] = swiglu_backward",
    ),
    (
        "moe_experts",
        "mean over the tokens of an expert",
        "            dout[rows], expert\n        )\n",
        "            dout[rows], expert\n        )\n        dw_down[e] /= rows.stop - rows.start\n",
    ),
    (
        "shared_expert",
        "the gate's part of dx missing",
        "dx_out + dx_gate, dw_gate",
        "dx_out, dw_gate",
    ),
    ("shared_expert", "the network's part of dx missing", "dx_out + dx_gate", "dx_gate"),
    (
        "shared_expert",
        "slope of the sigmoid forgotten",
        "dgate * gate * (1 - gate)",
        "dgate",
    ),
    ("shared_expert", "half of the slope", "dgate * gate * (1 - gate)", "dgate * gate"),
    ("shared_expert", "gate forgotten backwards", "(gate * dy_wide)", "(1 * dy_wide)"),
    (
        "shared_expert",
        "gate's gradient is a mean over the features",
        "(widen(out) * dy_wide).sum(",
        "(widen(out) * dy_wide).mean(",
    ),
    (
        "shared_expert",
        "gate's gradient from what came through it",
        "(widen(out) * dy_wide)",
        "(gate * widen(out) * dy_wide)",
    ),
    (
        "moe",
        "the router's part of dx missing",
        "= dx_experts + dx_router, None",
        "= dx_experts, None",
    ),
    (
        "moe",
        "the experts' part of dx missing",
        "= dx_experts + dx_router, None",
        "= dx_router, None",
    ),
    ("moe", "the shared expert's part of dx missing", "dx + dx_shared, tuple", "dx, tuple"),
    (
        "moe",
        "the router learns nothing",
        "moe_router_backward(dexpert_weights, router",
        "moe_router_backward(0 * dexpert_weights, router",
    ),
]
# a wrong forward is a wrong function: its gradient may be right, its value is not that of the loops
FORWARD = [
    (
        "ppo_policy_loss",
        "better of the two",
        "xp.maximum(-A * ratio, -A * clipped)",
        "xp.minimum(-A * ratio, -A * clipped)",
    ),
    ("ppo_policy_loss", "no clip", "xp.maximum(-A * ratio, -A * clipped)", "(-A * ratio)"),
    ("ppo_policy_loss", "clip only", "xp.maximum(-A * ratio, -A * clipped)", "(-A * clipped)"),
    ("ppo_policy_loss", "old over new", "log_ratio = new - old", "log_ratio = old - new"),
    (
        "ppo_policy_loss",
        "exponential missing",
        "ratio = xp.exp(bounded_exponent(log_ratio))",
        "ratio = log_ratio",
    ),
    (
        "ppo_policy_loss",
        "asymmetric",
        "xp.clip(ratio, 1 - cliprange,",
        "xp.clip(ratio, 1 / (1 + cliprange),",
    ),
    ("ppo_policy_loss", "one-sided", "xp.clip(ratio, 1 - cliprange,", "xp.clip(ratio, 0,"),
    (
        "ppo_policy_loss",
        "mean over all places",
        "-A * clipped).sum() / tokens",
        "-A * clipped).mean()",
    ),
    (
        "ppo_policy_loss",
        "mean of means",
        "-A * clipped).sum() / tokens",
        "-A * clipped).sum(1).dot(1 / mask.sum(1)) / len(mask)",
    ),
    ("ppo_value_loss", "smaller error", "xp.maximum(far, near)", "xp.minimum(far, near)"),
    (
        "ppo_value_loss",
        "1/2 missing",
        "xp.maximum(far, near).sum() / 2",
        "xp.maximum(far, near).sum()",
    ),
    ("ppo_value_loss", "no clip", "xp.maximum(far, near)", "far"),
    ("ppo_value_loss", "clip only", "xp.maximum(far, near)", "near"),
    (
        "ppo_value_loss",
        "value clipped, not its change",
        "xp.clip(V, V_old - cliprange_value, V_old + cliprange_value)",
        "xp.clip(V, -cliprange_value, cliprange_value)",
    ),
    ("ppo_value_loss", "mean over all places", "near).sum() / 2 / tokens", "near).mean() / 2"),
    (
        "ppo_value_loss",
        "mean of means",
        "near).sum() / 2 / tokens",
        "near).sum(1).dot(1 / mask.sum(1)) / 2 / len(mask)",
    ),
    ("entropy", "sign", "H[rows] = -(p", "H[rows] = (p"),
    ("entropy", "mean over the vocabulary", "(p * log_p).sum(", "(p * log_p).mean("),
    ("entropy", "not weighted", "-(p * log_p).sum(", "-(log_p).sum("),
    ("entropy", "largest logit lost", "lse: Array = peak + xp.log", "lse: Array = xp.log"),
    (
        "exact_kl",
        "the other way round",
        "(p * (log_p - log_q)).sum(",
        "(array_module(z).exp(log_q) * (log_q - log_p)).sum(",
    ),
    ("exact_kl", "not weighted", "(p * (log_p - log_q)).sum(", "(log_p - log_q).sum("),
    ("exact_kl", "entropy alone", "(p * (log_p - log_q)).sum(", "(p * (log_p - 0 * log_q)).sum("),
    (
        "token_logprobs",
        "temperature ignored",
        "array_module(logits), float(temperature)",
        "array_module(logits), 1.0",
    ),
    (
        "token_logprobs",
        "multiplied by the temperature",
        "array_module(logits), float(temperature)",
        "array_module(logits), 1 / float(temperature)",
    ),
    (
        "token_logprobs",
        "sum of exponentials lost",
        "/ temperature - log_total\n    logprobs",
        "/ temperature\n    logprobs",
    ),
    (
        "token_logprobs",
        "peak lost",
        "(chosen - peak) / temperature - log_total",
        "chosen / temperature - log_total",
    ),
    (
        "token_logprobs",
        "probability",
        "(chosen - peak) / temperature - log_total",
        "xp.exp((chosen - peak) / temperature - log_total)",
    ),
    (
        "token_logprobs",
        "the likeliest token",
        "(chosen - peak) / temperature - log_total",
        "-log_total",
    ),
    (
        "token_logprobs",
        "ids of the next position",
        "xp.asarray(ids).reshape(-1)",
        "xp.roll(xp.asarray(ids), -1, axis=-1).reshape(-1)",
    ),
    (
        "sequence_logprobs",
        "mask ignored",
        "    mask = xp.asarray(mask)\n",
        "    mask = xp.ones_like(mask)\n",
    ),
    (
        "sequence_logprobs",
        "prompt included",
        "    mask = xp.asarray(mask)\n",
        "    mask = mask[:, ::-1].cumsum(axis=1)[:, ::-1] > 0\n",
    ),
    (
        "sequence_logprobs",
        "padding included",
        "    mask = xp.asarray(mask)\n",
        "    mask = mask.cumsum(axis=1) > 0\n",
    ),
    (
        "sequence_logprobs",
        "mean and sum exchanged",
        'if reduction == "mean":',
        'if reduction == "sum":',
    ),
    (
        "sequence_logprobs",
        "mean over the row",
        "xp.maximum(weight.sum(axis=1, keepdims=True), 1)",
        "weight.shape[1]",
    ),
    (
        "sequence_logprobs",
        "mean over all answers",
        "weight.sum(axis=1, keepdims=True)",
        "weight.sum()",
    ),
    ("reward_head", "last position", "hidden[xp.arange(B), end_index]", "hidden[:, -1]"),
    (
        "reward_head",
        "one early",
        "hidden[xp.arange(B), end_index]",
        "hidden[xp.arange(B), end_index - 1]",
    ),
    (
        "reward_head",
        "mean over all positions",
        "hidden[xp.arange(B), end_index]",
        "hidden.mean(axis=1)",
    ),
    (
        "reward_head",
        "scaled",
        "(widen(end_hidden) @ widen(w)[0])",
        "(widen(end_hidden) @ widen(w)[0] / D**0.5)",
    ),
    (
        "pairwise_loss",
        "exchanged",
        "widen(chosen_rewards) - widen(rejected_rewards)",
        "widen(rejected_rewards) - widen(chosen_rewards)",
    ),
    ("pairwise_loss", "sum, not mean", "surprise.mean()", "surprise.sum()"),
    ("pairwise_loss", "mean over the answers", "surprise.mean()", "surprise.mean() / 2"),
    ("pairwise_loss", "log of the mean", "surprise.mean()", "-xp.log(xp.exp(-surprise).mean())"),
    (
        "pairwise_loss",
        "hinge",
        "surprise = xp.maximum(-lead, 0) + xp.log1p(xp.exp(-xp.abs(lead)))",
        "surprise = xp.maximum(1 - lead, 0)",
    ),
    (
        "pairwise_loss",
        "logistic part lost",
        "xp.maximum(-lead, 0) + xp.log1p(xp.exp(-xp.abs(lead)))",
        "xp.maximum(-lead, 0)",
    ),
    ("pairwise_loss", "linear part lost", "xp.maximum(-lead, 0) + xp.log1p", "xp.log1p"),
    ("pairwise_loss", "margin added", "lead = lead - widen(margin)", "lead = lead + widen(margin)"),
    ("pairwise_loss", "margin ignored", "lead = lead - widen(margin)", "pass"),
    (
        "dpo_loss",
        "exchanged",
        "pairwise_loss_forward(chosen_rewards, rejected_rewards)",
        "pairwise_loss_forward(rejected_rewards, chosen_rewards)",
    ),
    (
        "dpo_loss",
        "reference of chosen lost",
        "(widen(chosen_logprobs) - widen(ref_chosen_logprobs))",
        "widen(chosen_logprobs)",
    ),
    (
        "dpo_loss",
        "reference of rejected lost",
        "(widen(rejected_logprobs) - widen(ref_rejected_logprobs))",
        "widen(rejected_logprobs)",
    ),
    (
        "dpo_loss",
        "reference added",
        "widen(chosen_logprobs) - widen(",
        "widen(chosen_logprobs) + widen(",
    ),
    ("dpo_loss", "beta on one side only", "rejected_rewards = beta *", "rejected_rewards = 1.0 *"),
    ("dpo_loss", "beta ignored", "    beta = float(beta)", "    beta = 1.0"),
    (
        "self_attention",
        "LogN on keys",
        "q, logn = logn_forward(q, q_scale)",
        "k, _ = logn_forward(k, q_scale)",
    ),
    ("self_attention", "LogN forgotten", "if q_scale is not None:", "if False:"),
    ("self_attention", "window forgotten", "real, window=window, segments", "real, segments"),
    (
        "self_attention",
        "plain attention for dual chunks",
        "    if chunks is None:\n        a,",
        "    if True:\n        a,",
    ),
    (
        "self_attention",
        "padding forgotten with chunks",
        "(q, k, v, chunks, real)",
        "(q, k, v, chunks)",
    ),
    (
        "self_attention",
        "queries turned before dual chunks",
        "if chunks is None:\n        q, q_rope",
        "if True:\n        q, q_rope",
    ),
    ("linear", "bias dropped", "if b is not None:", "if False:"),
    (
        "embedding",
        "scaled by the root of D",
        "return w[ids], Emb",
        "return w[ids] * w.shape[1] ** 0.5, Emb",
    ),
    (
        "rmsnorm",
        "mean subtracted",
        "x_wide = widen(x)",
        "x_wide = widen(x) - x.mean(-1, keepdims=True)",
    ),
    ("rmsnorm", "eps outside the root", "keepdims=True) + eps)", "keepdims=True)) - 0 + eps"),
    ("rmsnorm", "eps forgotten", "keepdims=True) + eps)", "keepdims=True))"),
    ("rmsnorm", "gain forgotten", "(x_wide * inv_rms) * widen(w)", "x_wide * inv_rms"),
    (
        "rope",
        "interleaved pairs",
        "turned: Array = array_module(x).concatenate((-x[..., half:], x[..., :half]), axis=-1)",
        "turned: Array = array_module(x).stack((-x[..., 1::2], x[..., ::2]), axis=-1).reshape(x.shape)",
    ),
    ("rope", "turned the other way", "y: Array = widen(x) * cos +", "y: Array = widen(x) * cos -"),
    (
        "rope",
        "frequencies of half the width",
        "np.float64) / head_dim",
        "np.float64) / (head_dim // 2)",
    ),
    (
        "rope",
        "every row at the positions of the first",
        "angles = positions[..., None]",
        "angles = (positions if positions.ndim == 1 else positions[:1].repeat(len(positions), 0))[..., None]",
    ),
    ("attention", "no scale", "scale = Dh**-0.5 if scale is None else scale", "scale = 1.0"),
    ("attention", "mask ignored", "if mask is not None:", "if False:"),
    (
        "attention",
        "key heads tiled, not repeated",
        "q, k, v = q.reshape(B, Hkv, H // Hkv, T, Dh), k[:, :, None], v[:, :, None]",
        "q, k, v = q[:, :, None], *(xp.tile(a, (1, H // Hkv, 1, 1))[:, :, None] for a in (k, v))",
    ),
    (
        "block_attention",
        "no scale",
        "group_heads(q, k, v, real, scale, window)",
        "group_heads(q, k, v, real, 1.0, window)",
    ),
    (
        "block_attention",
        "mask ignored",
        "group_heads(q, k, v, real, scale, window)",
        "group_heads(q, k, v, None, scale, window)",
    ),
    (
        "block_attention",
        "diagonal one too high",
        "xp.tri(n, m - start, own - start, dtype=bool)",
        "xp.tri(n, m - start, own - start + 1, dtype=bool)",
    ),
    (
        "block_attention",
        "diagonal one too low",
        "start = max(own + 1, 0)",
        "own, start = own - 1, max(own, 0)",
    ),
    (
        "block_attention",
        "queries are the first of the S tokens",
        "    T, S = q.shape[1], k.shape[1]\n",
        "    T, k, v = q.shape[1], k[:, : q.shape[1]], v[:, : q.shape[1]]\n    S = T\n",
    ),
    (
        "block_attention",
        "window one too long",
        "    T, S = q.shape[1], k.shape[1]\n",
        "    T, S, window = q.shape[1], k.shape[1], window and window + 1\n",
    ),
    ("block_attention", "window one too short", "own - window, dtype", "own - window + 1, dtype"),
    ("block_attention", "oldest key kept", "own - window, dtype", "own - window - 1, dtype"),
    (
        "block_attention",
        "window of the block, not of each query",
        "if window is not None and own + n > window:",
        "if False:",
    ),
    (
        "block_attention",
        "first keys of the window not computed",
        "S - T + i - window + 1)",
        "S - T + i - window + 2)",
    ),
    (
        "block_attention",
        "key heads tiled, not repeated",
        "group_heads(q, k, v, real, scale, window)",
        "group_heads(q, *(np.tile(x, (1, q.shape[1] // x.shape[1], 1, 1)) for x in (k, v)), real, scale, window)",
    ),
    ("flash_attention", "sum not shrunk", "total = total * shrink", "total = total"),
    ("flash_attention", "values not shrunk", "total_v = total_v * shrink", "total_v = total_v"),
    ("flash_attention", "maximum not updated", "            peak = new_peak\n", ""),
    (
        "flash_attention",
        "shrunk the other way",
        "xp.exp(peak - new_peak)",
        "xp.exp(xp.maximum(new_peak - peak, -9).clip(-9, 9))",
    ),
    (
        "flash_attention",
        "divided by the sum in every tile",
        "@ v[:, tile]\n",
        "@ v[:, tile] / (total + 1e-9)\n",
    ),
    (
        "flash_attention",
        "a tile that is not full is lost",
        "keys.stop, block):",
        "keys.stop - block + 1, block):",
    ),
    (
        "flash_attention",
        "window ignored",
        "block_q, window):\n        total_v",
        "block_q, (window := None)):\n        total_v",
    ),
    (
        "flash_attention",
        "window one too long",
        "T, S = q.shape[1], k.shape[1]",
        "T, S, window = q.shape[1], k.shape[1], window and window + 1",
    ),
    (
        "flash_attention",
        "no scale",
        "group_heads(q, k, v, real, scale, window)",
        "group_heads(q, k, v, real, 1.0, window)",
    ),
    (
        "flash_attention",
        "mask ignored",
        "group_heads(q, k, v, real, scale, window)",
        "group_heads(q, k, v, None, scale, window)",
    ),
    (
        "swiglu",
        "gate and up swapped",
        "widen(gate) * sigmoid(gate) * widen(up)",
        "widen(up) * sigmoid(up) * widen(gate)",
    ),
    ("swiglu", "sigmoid for silu", "widen(gate) * sigmoid(gate) *", "sigmoid(gate) *"),
    (
        "cross_entropy",
        "mean over all tokens",
        "surprise.sum() / tokens",
        "surprise.sum() / len(label)",
    ),
    ("cross_entropy", "mask ignored", "counts = counts & loss_mask.reshape(-1)", "pass"),
    ("window", "one too long", "S - T - window, dtype", "S - T - window - 1, dtype"),
    ("window", "one too short", "S - T - window, dtype", "S - T - window + 1, dtype"),
    ("window", "future not hidden", "causal_mask(T, S, like) & ~too_old", "~too_old"),
    ("window", "window ignored", "causal_mask(T, S, like) & ~too_old", "causal_mask(T, S, like)"),
    (
        "window",
        "queries are the first of the S tokens",
        "tri(T, S, S - T - window",
        "tri(T, S, -window",
    ),
    (
        "ntk",
        "all positions divided",
        "rope_inv_freq(head_dim, ntk_base(base, alpha, head_dim), dtype)",
        "interpolated_inv_freq(head_dim, base, alpha, dtype)",
    ),
    (
        "ntk",
        "exponent missing",
        "alpha ** (head_dim / (head_dim - 2))",
        "alpha",
    ),
    (
        "ntk",
        "exponent upside down",
        "alpha ** (head_dim / (head_dim - 2))",
        "alpha ** ((head_dim - 2) / head_dim)",
    ),
    (
        "ntk",
        "floor for ceil",
        "while doubled * train_length < length",
        "while doubled * 2 * train_length <= length",
    ),
    (
        "ntk",
        "not one doubling further",
        "2 * doubled - 1",
        "doubled",
    ),
    (
        "ntk",
        "1 not taken away",
        "2 * doubled - 1",
        "2 * doubled",
    ),
    (
        "ntk",
        "the ratio itself",
        "2 * doubled - 1",
        "max(1, length / train_length)",
    ),
    (
        "yarn",
        "no temperature",
        "cos * factor, sin * factor",
        "cos, sin",
    ),
    (
        "yarn",
        "temperature on cos only",
        "cos * factor, sin * factor",
        "cos * factor, sin",
    ),
    (
        "yarn",
        "temperature twice",
        "cos * factor, sin * factor",
        "cos * factor**2, sin * factor**2",
    ),
    (
        "yarn",
        "temperature of ChunkLlama",
        "return 0.1 * log + 1.0",
        "return 0.05 * log + 1.0",
    ),
    (
        "yarn",
        "ramp reversed",
        "plain * (1 - ramp) + plain / factor * ramp",
        "plain * ramp + plain / factor * (1 - ramp)",
    ),
    (
        "yarn",
        "wavelengths blended",
        "plain * (1 - ramp) + plain / factor * ramp",
        "plain / (1 - ramp + factor * ramp)",
    ),
    (
        "yarn",
        "all pairs interpolated",
        "plain * (1 - ramp) + plain / factor * ramp",
        "plain / factor",
    ),
    (
        "yarn",
        "factor 2 lost in dim",
        "/ (2 * math.log(base))",
        "/ math.log(base)",
    ),
    (
        "yarn",
        "2 pi lost in dim",
        "/ (2 * math.pi * turns)",
        "/ turns",
    ),
    (
        "yarn",
        "low up and high down",
        "math.floor(low), math.ceil(high)",
        "math.ceil(low), math.floor(high)",
    ),
    (
        "yarn",
        "always rounded",
        "if truncate:",
        "if True:",
    ),
    (
        "yarn",
        "ramp over features, not pairs",
        "np.arange(head_dim // 2)",
        "np.arange(0, head_dim, 2)",
    ),
    (
        "logn",
        "off by one",
        "positions.astype(dtype) + 1",
        "positions.astype(dtype)",
    ),
    (
        "logn",
        "below the trained length too",
        "xp.maximum(positions.astype(dtype) + 1, train_length)",
        "positions.astype(dtype) + 1",
    ),
    (
        "logn",
        "by the length of the text",
        "positions.astype(dtype) + 1",
        "(0 * positions + positions.max()).astype(dtype) + 1",
    ),
    (
        "logn",
        "log of base 2",
        "/ math.log(train_length)",
        "/ math.log2(train_length)",
    ),
    (
        "logn",
        "no logarithm",
        "1 + xp.log(n / train_length) / math.log(train_length)",
        "n / train_length",
    ),
    (
        "logn",
        "twice",
        "y: Array = widen(q) * scale",
        "y: Array = widen(q) * scale**2",
    ),
    (
        "logn",
        "every row at the positions of the first",
        "scale[:, None, :, None]",
        "scale[:1, None, :, None]",
    ),
    (
        "dual_chunk_attention",
        "clamped to c for c - 1",
        "highest = chunk_size - 1 if highest is None",
        "highest = chunk_size if highest is None",
    ),
    (
        "dual_chunk_attention",
        "chunks as long as the trained range",
        "within = positions % length",
        "within, length = positions % chunk_size, chunk_size",
    ),
    (
        "dual_chunk_attention",
        "keys at their place in the text",
        "(place.key, place.succ, place.inter)",
        "(new, place.succ, place.inter)",
    ),
    (
        "dual_chunk_attention",
        "far queries at a place of their own",
        "inter = xp.full_like(positions, min(2 * length - 1, highest))",
        "inter = succ",
    ),
    (
        "dual_chunk_attention",
        "no clamp for the chunk before",
        "succ = xp.minimum(within + length, highest)",
        "succ = within + length",
    ),
    (
        "dual_chunk_attention",
        "chunk before taken for far",
        "for t in (tables.intra, tables.succ, tables.inter)",
        "for t in (tables.intra, tables.inter, tables.inter)",
    ),
    (
        "dual_chunk_attention",
        "queries not turned",
        "queries = [(y * scale)",
        "queries = [(q * scale)",
    ),
    (
        "dual_chunk_attention",
        "no scale",
        "queries = [(y * scale)",
        "queries = [(y * 1)",
    ),
    (
        "dual_chunk_attention",
        "chunks of the first row for all rows",
        "np.atleast_2d(tables.key_chunk))",
        "0 * np.atleast_2d(tables.key_chunk) + np.atleast_2d(tables.key_chunk)[:1])",
    ),
    (
        "dual_chunk_attention",
        "three softmaxes, and their mean",
        "means = (weights @ v[:, : weights.shape[-1]]) / total",
        "means = sum(weights[:, :, at] @ v[:, at] / (weights[:, :, at].sum(-1, keepdims=True) + 1e-300) for _, at, _ in pieces) / len(pieces)",
    ),
    (
        "moe_router",
        "softmax after top-k",
        "weights = xp.take_along_axis(probs, expert_ids, axis=-1)  # (N, K)",
        "weights = softmax(xp.take_along_axis(router_logits, expert_ids, axis=-1))[0]",
    ),
    ("moe_router", "renormalised when not asked", "    if norm_topk_prob:\n", "    if True:\n"),
    ("moe_router", "not renormalised when asked", "    if norm_topk_prob:\n", "    if False:\n"),
    (
        "moe_router",
        "divided by the sum over all experts",
        "weights / weights.sum(axis=-1, keepdims=True)",
        "weights / probs.sum(axis=-1, keepdims=True)",
    ),
    ("moe_router", "the least likely experts", "top_k(probs, K)", "top_k(-probs, K)"),
    (
        "moe_router",
        "logits as weights",
        "xp.take_along_axis(probs, expert_ids",
        "xp.take_along_axis(router_logits, expert_ids",
    ),
    (
        "moe_router",
        "every chosen expert counts the same",
        "xp.take_along_axis(probs, expert_ids, axis=-1)  #",
        "xp.full(expert_ids.shape, 1 / K)  #",
    ),
    (
        "moe_router",
        "independent sigmoids",
        "probs, _ = softmax(router_logits)",
        "probs = 1 / (1 + xp.exp(-router_logits))",
    ),
    (
        "moe_router",
        "softmax over the tokens",
        "probs, _ = softmax(router_logits)",
        "probs = softmax(router_logits.T)[0].T",
    ),
    ("load_balancing_loss", "factor E missing", "E * (f * P).sum()", "(f * P).sum()"),
    (
        "load_balancing_loss",
        "f not divided by the tokens",
        "(tokens if f_sums_to_k else tokens * K)",
        "(1 if f_sums_to_k else K)",
    ),
    (
        "load_balancing_loss",
        "f not divided by K",
        "(tokens if f_sums_to_k else tokens * K)",
        "tokens",
    ),
    (
        "load_balancing_loss",
        "f divided by K when it should not be",
        "(tokens if f_sums_to_k else tokens * K)",
        "(tokens * K)",
    ),
    (
        "load_balancing_loss",
        "padding counted in f",
        "xp.repeat(real, K)",
        "xp.repeat(xp.ones_like(real), K)",
    ),
    (
        "load_balancing_loss",
        "padding counted in P",
        "xp.where(real[:, None], softmax(router_logits)[0], 0)",
        "softmax(router_logits)[0]",
    ),
    (
        "load_balancing_loss",
        "padding counted in the number of tokens",
        "xp.maximum(real.sum(), 1)",
        "xp.maximum(len(real), 1)",
    ),
    (
        "load_balancing_loss",
        "P over the chosen only",
        "P = column_sums(probs)",
        "P = column_sums(probs * (expert_ids[:, :, None] == xp.arange(E)).any(axis=1))",
    ),
    (
        "load_balancing_loss",
        "P of logits",
        "softmax(router_logits)[0], 0)",
        "router_logits, 0)",
    ),
    ("load_balancing_loss", "P for f", "(f * P).sum()", "(P * P).sum()"),
    ("load_balancing_loss", "f for P", "(f * P).sum()", "(f * f).sum()"),
    (
        "load_balancing_loss",
        "first choice only",
        "expert_ids.reshape(-1), xp.repeat(real, K)",
        "expert_ids[:, 0], real",
    ),
    ("router_z_loss", "not squared", "(lse * lse).sum()", "lse.sum()"),
    ("router_z_loss", "square of the mean", "(lse * lse).sum() /", "lse.sum() ** 2 / tokens /"),
    ("router_z_loss", "mean over all tokens", ".sum() / tokens", ".sum() / len(lse)"),
    ("router_z_loss", "sum, not mean", ".sum() / tokens", ".sum()"),
    (
        "router_z_loss",
        "padding counted",
        "    probs, lse = (xp.where(real[:, None], x, 0) for x in (probs, lse))\n",
        "",
    ),
    ("router_z_loss", "squares of the logits", "(lse * lse)", "(router_logits * router_logits)"),
    (
        "moe_experts",
        "the sort for its inverse on the way back",
        "    back[order] = rows ",
        "    back = rows[order] ",
    ),
    ("moe_experts", "not put back at all", "put_back(out, order)", "out"),
    (
        "moe_experts",
        "a token's last expert overwrites the others",
        ".sum(axis=1)  # (N, D)",
        "[:, -1]  # (N, D)",
    ),
    ("moe_experts", "mean over the experts", ".sum(axis=1)  # (N, D)", ".mean(axis=1)  # (N, D)"),
    (
        "moe_experts",
        "weights of other experts than the ids",
        "y = (widen(expert_weights)[:, :, None]",
        "y = (widen(expert_weights)[:, ::-1, None]",
    ),
    (
        "moe_experts",
        "ids sorted, weights not",
        "group_by_expert(expert_ids, E)\n    x",
        "group_by_expert(xp.sort(expert_ids, axis=1), E)\n    x",
    ),
    (
        "moe_experts",
        "weights left out",
        "y = (widen(expert_weights)[:, :, None] * widen(outputs))",
        "y = widen(outputs)",
    ),
    (
        "moe_experts",
        "the expert's input weighted, not its output",
        """    x_sorted = x[order // K]  # (N*K, D) a token stands K times, once with each of its experts
    out, experts = xp.empty_like(x_sorted), []
""",
        """    x_sorted = x[order // K] * expert_weights.reshape(-1)[order][:, None]
    out, experts, expert_weights = xp.empty_like(x_sorted), [], xp.ones_like(expert_weights)
""",
    ),
    ("moe_experts", "choices taken for tokens", "x[order // K]", "x[order % N]"),
    (
        "moe_experts",
        "gate and up swapped",
        "x_sorted[rows], w_gate_up[e, :Fe], w_gate_up[e, Fe:], w_down[e]",
        "x_sorted[rows], w_gate_up[e, Fe:], w_gate_up[e, :Fe], w_down[e]",
    ),
    (
        "moe_experts",
        "gate and up interleaved",
        "x_sorted[rows], w_gate_up[e, :Fe], w_gate_up[e, Fe:], w_down[e]",
        "x_sorted[rows], w_gate_up[e, ::2], w_gate_up[e, 1::2], w_down[e]",
    ),
    (
        "moe_experts",
        "w_down of another expert",
        "w_gate_up[e, Fe:], w_down[e]\n",
        "w_gate_up[e, Fe:], w_down[e - 1]\n",
    ),
    (
        "moe_experts",
        "tokens above a capacity dropped",
        "    for e, rows in segments:\n",
        "    out[:] = 0\n    for e, rows in [(e, slice(r.start, min(r.stop, r.start + 4))) for e, r in segments]:\n",
    ),
    ("shared_expert", "no gate", "y = gate * widen(out)", "y = widen(out)"),
    (
        "shared_expert",
        "a gate per dimension",
        "gate = sigmoid(a)",
        "gate = sigmoid(x * w_shared_gate[0])",
    ),
    ("shared_expert", "gate without sigmoid", "gate = sigmoid(a)", "gate = a"),
    ("shared_expert", "silu for sigmoid", "gate = sigmoid(a)", "gate = a * sigmoid(a)"),
    ("shared_expert", "the other way round", "gate = sigmoid(a)", "gate = 1 - sigmoid(a)"),
    (
        "shared_expert",
        "one gate for all tokens",
        "gate = sigmoid(a)",
        "gate = sigmoid(a).mean(axis=(0, 1), keepdims=True)",
    ),
    (
        "shared_expert",
        "gate and up swapped",
        "swiglu_forward(x, w_gate, w_up, w_down)",
        "swiglu_forward(x, w_up, w_gate, w_down)",
    ),
    ("moe", "shared expert dropped", "y = y + s", "y = y + 0 * s"),
    ("moe", "shared expert alone", "y = y + s", "y = s"),
    ("moe", "mean of routed and shared", "y = y + s", "y = (y + s) / 2"),
    (
        "moe",
        "renormalised when not asked",
        "w_router, num_experts_per_tok, norm_topk_prob)\n    y",
        "w_router, num_experts_per_tok, True)\n    y",
    ),
    (
        "moe",
        "not renormalised when asked",
        "w_router, num_experts_per_tok, norm_topk_prob)\n    y",
        "w_router, num_experts_per_tok, False)\n    y",
    ),
    (
        "moe",
        "ids sorted, weights not",
        "moe_experts_forward(rows, ids,",
        "moe_experts_forward(rows, ids[:, ::-1],",
    ),
    (
        "moe",
        "shared expert on routed outputs",
        "shared_expert_forward(rows, *shared)",
        "shared_expert_forward(y, *shared)",
    ),
]
CAUSAL_MASK = [
    ("diagonal one too high", "tri(T, S, S - T, dtype", "tri(T, S, S - T + 1, dtype"),
    ("diagonal one too low", "tri(T, S, S - T, dtype", "tri(T, S, S - T - 1, dtype"),
    ("queries are the first of the S tokens", "tri(T, S, S - T, dtype", "tri(T, S, 0, dtype"),
]
# in the helper of dual_chunk_attention: what is wrong, and the two lines
CHUNK_PIECES = [
    (
        "chunk before hidden by a causal mask",
        "piece = tile_scores(queries[b], k, bias, rows, keys, None)",
        "piece = tile_scores(queries[b], k, bias, rows, keys, None); piece = xp.where(xp.tri(*piece.shape[1:], dtype=bool), piece, -xp.inf) if b == 1 else piece",
    ),
    (
        "overlapping pieces not told apart",
        "xp.where(picked, piece, scores[:, :, keys])",
        "piece",
    ),
    (
        "heads of the mask tiled, not repeated",
        "xp.repeat(xp.repeat(picked, Hkv, axis=0), G, axis=1)",
        "xp.tile(picked, (Hkv, G, 1))",
    ),
    (
        "queries are the first of the S tokens",
        "chunks[1].shape[1] - chunks[0].shape[1] + rows.stop",
        "rows.stop",
    ),
]
# how the layers are joined: the module, what is wrong, and the two lines
WIRING_LONG = [  # seen by the model with YaRN and a window only
    (
        "layer_plan",
        "attention factor forgotten",
        "cos, sin = yarn_tables(xp.asarray(positions), freq, factor)",
        "cos, sin = yarn_tables(xp.asarray(positions), freq, 1.0)",
    ),
    ("rope_scaling", "rope_scaling ignored", 'if kind == "yarn":', 'if kind == "yarns":'),
    ("layer_plan", "window lost", "q_scale, plan.window, chunks", "q_scale, None, chunks"),
]
WIRING = [
    (
        "rope_scaling",
        "RoPE base ignored",
        "base, scaling = config.head_dim, config.rope_theta",
        "base, scaling = config.head_dim, 10000.0",
    ),
    ("backbone", "final eps dropped", "params[NORM], config.rms_norm_eps)", "params[NORM])"),
    ("backbone", "positions ignored", "if positions is None:", "if True:"),
    (
        "backbone",
        "padding mask not passed on",
        "            real=seen,\n",
        "            real=None,\n",
    ),
    (
        "backbone",
        "one layer used twice",
        'scopes(params, "model.layers", config.num_hidden_layers)',
        'scopes(params, "model.layers", config.num_hidden_layers)[:1] * config.num_hidden_layers',
    ),
    (
        "decoder_block",
        "first eps dropped",
        'params["input_layernorm.weight"], eps)',
        'params["input_layernorm.weight"])',
    ),
    (
        "decoder_block",
        "second eps dropped",
        '_forward(h, params["post_attention_layernorm.weight"], eps)',
        '_forward(h, params["post_attention_layernorm.weight"])',
    ),
    (
        "decoder_block",
        "norms swapped",
        '_forward(h, params["post_attention_layernorm.weight"]',
        '_forward(h, params["input_layernorm.weight"]',
    ),
    (
        "self_attention",
        "keys not turned",
        "k, k_rope = rope_forward(k, cos, sin)",
        "_, k_rope = rope_forward(k, cos, sin)",
    ),
    (
        "self_attention",
        "values turned",
        "v = split_heads(v, config.num_key_value_heads)",
        "v = rope_forward(split_heads(v, config.num_key_value_heads), cos, sin)[0]",
    ),
    (
        "self_attention",
        "heads and features mixed up",
        "x.reshape(B, T, heads, width // heads).swapaxes(1, 2)",
        "x.reshape(B, T, width // heads, heads).transpose(0, 3, 1, 2)",
    ),
    ("self_attention", "biases dropped", 'params.get(f"{name}.bias")', "None"),
    ("decoder_block", "no residual around attention", "h = x + a\n", "h = a\n"),
    ("decoder_block", "no residual around the MLP", "y = h + m", "y = m"),
    ("decoder_block", "MLP beside attention", "_forward(h, params[", "_forward(x, params["),
]

_DENSE, _SPARSE = ("untied", "tied", "long", "qwen3_moe"), ("moe", "qwen3_moe")
WIRING_MOE = [  # and the models that see it
    (
        "feed_forward",
        "gate and up swapped",
        'SWIGLU = ("mlp.gate_proj.weight", "mlp.up_proj.weight", ',
        'SWIGLU = ("mlp.up_proj.weight", "mlp.gate_proj.weight", ',
        _DENSE,
    ),
    (
        "feed_forward",
        "gate and up of the shared expert swapped",
        'shared_expert.gate_proj.weight",\n    "mlp.shared_expert.up_proj',
        'shared_expert.up_proj.weight",\n    "mlp.shared_expert.gate_proj',
        ("moe",),
    ),
    ("feed_forward", "shared expert dropped", "        shared,\n", "        None,\n", ("moe",)),
    (
        "feed_forward",
        "weights as the config does not say",
        "        config.norm_topk_prob,",
        "        not config.norm_topk_prob,",
        _SPARSE,
    ),
    (
        "feed_forward",
        "one expert too few",
        "        config.num_experts_per_tok,",
        "        config.num_experts_per_tok - 1,",
        _SPARSE,
    ),
    *(
        (
            "self_attention",
            f"{x}_norm forgotten",
            f"{x}, {x}_norm = fast_rmsnorm_forward({x}, ",
            f"_, {x}_norm = fast_rmsnorm_forward({x}, ",
            ("qwen3_moe",),
        )
        for x in "qk"
    ),
    (
        "self_attention",
        "eps of the queries' norm forgotten",
        '(q, params["self_attn.q_norm.weight"], config.rms_norm_eps)',
        '(q, params["self_attn.q_norm.weight"])',
        ("qwen3_moe",),
    ),
    (
        "self_attention",
        "keys with the queries' gain",
        'rmsnorm_forward(k, params["self_attn.k_norm.weight"]',
        'rmsnorm_forward(k, params["self_attn.q_norm.weight"]',
        ("qwen3_moe",),
    ),
]
ROUTER_LOSSES = [  # seen by loss and gradients; the logits are right
    (
        "feed_forward",
        "the routers' losses not passed on",
        "moe_backward(dy, cache, drouter_logits)",
        "moe_backward(dy, cache)",
        _SPARSE,
    ),
    (
        "backbone",
        "the layers' gradients in the wrong order",
        "routed.pop() if",
        "routed.pop(0) if",
        ("moe",),
    ),
    (
        "router_loss",
        "layers never pooled",
        "    if pool_layers:",
        "    if not pool_layers:",
        ("moe",),
    ),
    (
        "router_loss",
        "padding counted",
        "(logits, ids, balance_real, f_sums",
        "(logits, ids, None, f_sums",
        _SPARSE,
    ),
    ("router_loss", "f sums to 1", "f_sums_to_k=True", "f_sums_to_k=False", _SPARSE),
    (
        "router_loss",
        "coefficient forgotten on the way back",
        "share = dloss * (coef / len(balance))",
        "share = dloss / len(balance)",
        _SPARSE,
    ),
    (
        "router_loss",
        "pooled gradient cut in the wrong places",
        "pooled[i * N : (i + 1) * N]",
        "pooled[:N]",
        ("moe",),
    ),
]
USED_BY = {
    "feed_forward": (decoder_block, "feed_forward_forward"),
    "rope_scaling": (layer_plan, "inv_freq"),
    "layer_plan": (backbone, "position_tables"),
    "self_attention": (decoder_block, "self_attention_forward"),
    "decoder_block": (backbone, "decoder_block_forward"),
    "backbone": (language_model, "backbone_forward"),
}


# rules of long_context/ at points that a row of the table does not reach; each point stands in
# tests/long_context/ with its right value
RULES = [
    (
        "ntk",
        "one step too early",
        "doubled * train_length < length",
        "doubled * train_length <= length",
        lambda m: m.dynamic_ntk_alpha(4096, 2048),
    ),
    (
        "ntk",
        "the line below the trained length",
        "factor * max(length, train_length)",
        "factor * length",
        lambda m: m.continuous_ntk_alpha(7, 2048, 3.0),
    ),
    (
        "ntk",
        "the line does not start at 1",
        "/ train_length - (factor - 1))",
        "/ train_length)",
        lambda m: m.continuous_ntk_alpha(4096, 2048, 2.0),
    ),
    (
        "ntk",
        "interpolation makes faster",
        '"float64") / factor)',
        '"float64") * factor)',
        lambda m: m.interpolated_inv_freq(6, 100.0, 4.0)[0],
    ),
    (
        "yarn",
        "colder below factor 1",
        "math.log(max(factor, 1.0))",
        "math.log(factor)",
        lambda m: m.yarn_attention_factor(0.5),
    ),
    (
        "yarn",
        "mscale ignored",
        "if mscale and mscale_all_dim:",
        "if False:",
        lambda m: m.yarn_attention_factor(40.0, 0.707, 1.2),
    ),
    (
        "yarn",
        "mscale alone counts",
        "if mscale and mscale_all_dim:",
        "if mscale or mscale_all_dim:\n        mscale_all_dim = mscale_all_dim or 0",
        lambda m: m.yarn_attention_factor(40.0, 0.707, None),
    ),
    (
        "yarn",
        "high clamped to the pairs",
        "min(high, head_dim - 1)",
        "min(high, head_dim // 2 - 1)",
        lambda m: m.yarn_range(8, 1e4, 100_000),
    ),
    (
        "yarn",
        "low not clamped",
        "max(low, 0), min(",
        "low, min(",
        lambda m: m.yarn_range(8, 1e4, 64),
    ),
    (
        "yarn",
        "tables widened by a NumPy number",
        "factor = float(attention_factor)",
        "factor = np.float64(attention_factor)",
        lambda m: m.yarn_tables(np.arange(2), np.ones(1, np.float32), 1.5)[0].dtype,
    ),
    (
        "logn",
        "not quite 1 at the trained length",
        "1 + xp.log(n / train_length) / math.log(train_length)",
        "xp.log(n) / math.log(train_length)",
        lambda m: [(m.logn_scale(np.arange(n), n) == 1).all() for n in range(2, 200)],
    ),
]


def _with_drouter_logits(module):
    """Return dw of two experts, where both the weights and the losses send a gradient."""
    *_, cache = module.moe_router_forward(np.ones((1, 1)), np.array([[0.0], [1.0]]), 1)
    return module.moe_router_backward(np.ones((1, 1)), cache, np.array([[0.5, 0.25]]))[1].tolist()


# the choice of experts has no gradient and does not stand in y: each right value stands in
# tests/layers/test_moe_router.py
CHOICE = [
    (
        "ties to the higher index",
        "top_k(probs, K)",
        'xp.argsort(probs, axis=-1, kind="stable")[:, ::-1][:, :K]',
        lambda m: m.moe_router_forward(np.ones((1, 1)), np.zeros((3, 1)), 2)[1].tolist(),
    ),
    (
        "ties anyhow: a sort that is not stable",
        "top_k(probs, K)",
        "xp.argsort(-probs, axis=-1)[:, :K]",
        lambda m: m.moe_router_forward(np.ones((1, 1)), np.arange(300.0)[:, None] % 3, 9)[
            1
        ].tolist(),
    ),
    (
        "ids sorted, weights not",
        "copy=False), expert_ids, cache",
        "copy=False), xp.sort(expert_ids), cache",
        lambda m: m.moe_router_forward(np.ones((1, 1)), np.arange(3.0)[:, None], 2)[1].tolist(),
    ),
    (
        "the losses' gradient forgotten",
        "dlogits += widen(drouter_logits)",
        "pass",
        _with_drouter_logits,
    ),
    (
        "the losses' gradient in place of the weights'",
        "dlogits += widen(drouter_logits)",
        "dlogits = widen(drouter_logits)",
        _with_drouter_logits,
    ),
]


def wrapped(function, module, name):
    """Return `function`, an adapter of the table, calling the edited pair."""
    if function.__name__ == name and hasattr(module, name):
        return getattr(module, name)
    scope = dict(function.__globals__)
    for key in list(scope):
        if hasattr(module, key) and getattr(
            scope[key], "__module__", ""
        ) == module.__name__.removesuffix("_edited"):
            scope[key] = getattr(module, key)
    return types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__)


def with_mistake(name, old, new):
    row = concept(name)
    module = edited(importlib.import_module(row.module), old, new)
    return dataclasses.replace(
        row,
        forward=wrapped(row.forward, module, row.functions[0]),
        backward=wrapped(row.backward, module, row.functions[1]),
    )


KNOWN = {}  # (concept, value, place) -> central differences; all mistakes of a backward share them


def known_differences(name):
    """Return numerical_gradient, which computes those of our own forward once."""
    numerical_gradient = gradients.numerical_gradient

    def numerical(f, x):
        key = name, f(), x.tobytes()
        if key not in KNOWN:
            KNOWN[key] = numerical_gradient(f, x)
        return KNOWN[key]

    return numerical


@pytest.mark.parametrize(("name", "what", "old", "new"), BACKWARD, ids=short)
def test_a_wrong_backward_fails_the_gradient_check(name, what, old, new, monkeypatch):
    row = concept(name)
    module = importlib.import_module(row.module)
    if old in inspect.getsource(getattr(module, row.functions[1])):  # the forward is our own
        monkeypatch.setattr(gradients, "numerical_gradient", known_differences(name))
        for (_, wrong), (_, right) in zip(
            gradient_table(with_mistake(name, old, new)), gradient_table(row), strict=True
        ):
            assert right.error < 1e-7
            if wrong.error > 1e-2:
                return  # the rest need not be computed
        pytest.fail(what)
    errors = gradient_table(with_mistake(name, old, new))
    assert any(e.error > 1e-2 for _, e in errors), what


@pytest.mark.parametrize(("name", "what", "old", "new"), FORWARD, ids=short)
def test_a_wrong_forward_fails_the_comparison_with_the_loops(name, what, old, new):
    assert reference_error(with_mistake(name, old, new)) > 1e-7, what


@pytest.mark.parametrize(("what", "old", "new"), CAUSAL_MASK, ids=short)
def test_a_wrong_causal_mask_fails_the_comparison_with_the_loops(what, old, new):
    wrong = edited(attention, old, new)
    assert not np.array_equal(wrong.causal_mask(4, 7), causal_mask(4, 7)), what


@pytest.mark.parametrize(("what", "old", "new"), CHUNK_PIECES, ids=short)
def test_wrong_pieces_of_chunks_fail_the_comparison_with_the_loops(what, old, new, monkeypatch):
    wrong = edited(chunk_pieces, old, new)
    for name in ("key_pieces", "scores_of_pieces"):
        monkeypatch.setattr(dual_chunk, name, getattr(wrong, name))
    assert reference_error(concept("dual_chunk_attention")) > 1e-7, what


@pytest.mark.parametrize(
    ("name", "what", "old", "new", "model"),
    [
        (*mistake, model)
        for mistake in WIRING
        for model in MODELS
        if (mistake[1], model) != ("biases dropped", "qwen3_moe")  # which has none
    ]
    + [(*mistake, "long") for mistake in WIRING_LONG]
    + [(*mistake, model) for *mistake, models in WIRING_MOE for model in models],
    ids=short,
)
def test_wrong_wiring_fails_the_comparison_with_the_file(name, what, old, new, model, monkeypatch):
    wrong = edited(importlib.import_module(f"minqwen.model.{name}"), old, new)
    if name != "language_model":
        user, function = USED_BY[name]
        monkeypatch.setattr(user, function, getattr(wrong, function))
        wrong = language_model
    assert logits_error(model, wrong.language_model_forward) > 1e-7, what


@pytest.mark.parametrize(
    ("name", "what", "old", "new", "model"),
    [(*mistake, model) for *mistake, models in ROUTER_LOSSES for model in models],
    ids=short,
)
def test_a_wrong_loss_on_routers_fails_the_comparison_with_the_file(
    name, what, old, new, model, monkeypatch
):
    wrong, backward = edited(importlib.import_module(f"minqwen.model.{name}"), old, new), None
    if name == "router_loss":
        for function in ("router_loss_forward", "router_loss_backward"):
            monkeypatch.setattr(model_fixture, function, getattr(wrong, function))
    elif name == "feed_forward":
        monkeypatch.setattr(decoder_block, "feed_forward_backward", wrong.feed_forward_backward)
    elif name == "backbone":
        monkeypatch.setattr(language_model, "backbone_backward", wrong.backbone_backward)
    else:
        backward = wrong.language_model_backward
    errors = loss_and_gradient_errors(
        model,
        language_model.language_model_forward,
        backward or language_model.language_model_backward,
    )
    assert max(errors.values()) > 1e-6, what


@pytest.mark.parametrize(("name", "what", "old", "new", "value"), RULES, ids=short)
def test_a_wrong_rule_gives_another_value(name, what, old, new, value):
    module = importlib.import_module(f"minqwen.long_context.{name}")
    assert value(edited(module, old, new)) != value(module), what


@pytest.mark.parametrize(("what", "old", "new", "value"), CHOICE, ids=short)
def test_a_wrong_choice_of_experts_gives_another_value(what, old, new, value):
    assert value(edited(moe_router, old, new)) != value(moe_router), what


def test_with_ones_for_dy_a_softmax_that_returns_zeros_would_pass():
    """Why the upstream gradient is random."""
    row = concept("attention")
    q, k, _, mask = row.cases["GQA, S > T"](np.random.default_rng(0))
    v = np.ones_like(k)  # then out = 1 whatever the scores are
    y, cache = row.forward(q, k, v, mask)
    dq, dk, _ = row.backward(np.ones_like(y), cache)
    assert max(np.abs(dq).max(), np.abs(dk).max()) < 1e-12

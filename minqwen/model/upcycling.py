"""Upcycling: a trained dense model becomes a mixture of experts that is trained further.

    for every sparse layer
        experts    dense_to_experts.py: the layer's network copied, shuffled, cut
        router     new
        shared     the network cut once more, to another width; its gate new
    then           half of the numbers of every expert drawn anew
    all else       attention, norms, embedding, dense layers: as it is

Every layer is shuffled by itself. How far each step moves the outputs is on the receipt that comes
back (upcycling_receipt.py). When the mixture equals the dense model until numbers are drawn anew,
and why it mostly does not, is in dense_to_experts.py.

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model, "Expert Initialization".
Origin:   Komatsuzaki et al. 2022, arXiv:2212.05055; see dense_to_experts.py.
Differs:  what the report leaves open is an argument, and its docstring says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..backend import Array
from ..params import Params, scope, unscope
from ..shapes import require_axes
from .accounting import cost
from .config import QwenConfig, check_params, param_shapes
from .dense_to_experts import (
    GRANULARITIES,
    ROUTERS,
    copy_of_expert,
    cut_of,
    normal,
    reinitialise,
    scaled,
    upcycle_ffn,
    w_down_factors,
)
from .feed_forward import DOWN, GATE_UP, ROUTER, SHARED, SWIGLU
from .long_context_fields import LAYER_TYPES, layer_windows
from .moe_fields import sparse_layers
from .upcycling_receipt import (
    Losses,
    UpcyclingReceipt,
    measure_layers,
    model_loss,
    random_inputs,
    true_inputs,
)


def upcycle(
    params: Params,
    config: QwenConfig,
    *,
    num_experts: int,
    num_experts_per_tok: int,
    moe_intermediate_size: int,
    rng: np.random.Generator,
    shared_expert_intermediate_size: int = 0,
    norm_topk_prob: bool = True,
    router_aux_loss_coef: float = 0.001,
    decoder_sparse_step: int = 1,
    mlp_only_layers: Sequence[int] = (),
    reinitialised: float = 0.5,
    shared_reinitialised: float | None = None,
    granularity: str = "neuron",
    noise_std: float | None = None,
    router: str = "grouped",
    router_std: float | None = None,
    shared_gate_std: float = 0.0,
    match_scale: bool = True,
    probe_ids: Array | None = None,
) -> tuple[Params, QwenConfig, UpcyclingReceipt]:
    """Cut the networks of a dense model into experts, and measure what that did.

    Args:
        params: of the dense model, on the host.
        config: of the dense model. qwen3 becomes qwen3_moe, all others qwen2_moe.
        num_experts: E.
        num_experts_per_tok: K.
        moe_intermediate_size: Fe.
        rng: draws orders, routers and gates, then the new numbers: from the same state,
            reinitialised=0 gives what another share had before its last step.
        shared_expert_intermediate_size: Fs; 0 = none. 8 Fe in the report.
        norm_topk_prob: make the weights of the chosen experts sum to 1. Without, only K = E or a
            router_std of 0 can start equal to the dense model; the released models are without.
        router_aux_loss_coef: for training.
        decoder_sparse_step: of so many layers the last one becomes sparse.
        mlp_only_layers: these stay dense.
        reinitialised: share of every expert to draw anew, 0.5 in the report.
        shared_reinitialised: of the shared expert; 1 = all; None: as the others. The report does
            not say; ours.
        granularity: "neuron" or "element", see reinitialise. The report does not say, it counts
            "parameters"; ours, since "element" leaves next to nothing of the dense model.
        noise_std: the new numbers are N(0, noise_std**2); None: initializer_range. The report
            does not say; ours.
        router: "grouped": a random row for each copy; "random": one for each expert. The report
            does not say; ours.
        router_std: the rows are N(0, router_std**2); None: initializer_range. The report does not
            say; ours.
        shared_gate_std: the gate is N(0, shared_gate_std**2); 0 lets half through, for each token.
            The report does not say; ours.
        match_scale: make w_down longer by w_down_factors. New numbers are not. The report does not
            say; ours.
        probe_ids: (B, T) int, T > 1, the text for the receipt; None: random inputs, no losses.

    Returns:
        params: new arrays, with the names of param_shapes(config).
        config: of the mixture.
        receipt: sizes, and how far outputs moved at each step.

    Raises:
        ValueError: the model is a mixture already, no layer becomes sparse, a size, a share or a
            choice cannot be, or the router is grouped and K is below the experts of a copy: of
            equal logits the first K would be chosen always, the others never.

    >>> from .init import init_params
    >>> dense = QwenConfig(vocab_size=9, hidden_size=4, intermediate_size=12, num_hidden_layers=1,
    ...                    num_attention_heads=2)
    >>> params, config, receipt = upcycle(
    ...     init_params(dense, np.random.default_rng(0)), dense, num_experts=6,
    ...     num_experts_per_tok=3, moe_intermediate_size=4, rng=np.random.default_rng(1))
    >>> params["model.layers.0.mlp.experts.gate_up_proj"].shape, config.model_type
    ((6, 8, 4), 'qwen2_moe')
    >>> receipt.starts_equal, receipt.layers[0].routed < 1e-6, receipt.layers[0].new > 0.1
    (True, True, True)
    """
    if any(sparse_layers(config)):
        raise ValueError("the model is a mixture of experts already")
    check_params(params, config)
    if probe_ids is not None:
        require_axes("probe_ids", probe_ids, "B T")
        if probe_ids.shape[1] < 2:
            raise ValueError("probe_ids must have a next token in each row: T > 1, got T = 1")
    F, E, K, Fe, Fs = (
        config.intermediate_size,
        num_experts,
        num_experts_per_tok,
        moe_intermediate_size,
        shared_expert_intermediate_size,
    )
    cut = cut_of(F, E, Fe)
    moe = replace(
        config,
        model_type="qwen3_moe" if config.model_type == "qwen3" else "qwen2_moe",
        **keep_windows(config),
        num_experts=E,
        num_experts_per_tok=K,
        moe_intermediate_size=Fe,
        shared_expert_intermediate_size=Fs,
        norm_topk_prob=norm_topk_prob,
        router_aux_loss_coef=router_aux_loss_coef,
        decoder_sparse_step=decoder_sparse_step,
        mlp_only_layers=list(mlp_only_layers),
    )
    layers = [f"model.layers.{i}" for i, sparse in enumerate(sparse_layers(moe)) if sparse]
    if not layers:
        raise ValueError("no layer becomes sparse: see decoder_sparse_step and mlp_only_layers")
    noise_std = config.initializer_range if noise_std is None else noise_std
    router_std = config.initializer_range if router_std is None else router_std
    stds = {"noise_std": noise_std, "router_std": router_std, "shared_gate_std": shared_gate_std}
    shares = reinitialised, reinitialised if shared_reinitialised is None else shared_reinitialised
    check_choices(moe, router, granularity, stds, shares)
    factors = w_down_factors(F, E, K, Fe, Fs, norm_topk_prob) if match_scale else (1.0, 1.0)

    names = param_shapes(moe)
    cuts = {name: params[name].copy() for name in names if name in params}  # what stays
    for layer in layers:
        sparse = cut_layer(scope(params, layer), moe, factors, rng)
        sparse[ROUTER] = router_rows(moe, router, router_std, sparse[DOWN], rng)
        if Fs:
            sparse[SHARED[3]] = normal((1, config.hidden_size), shared_gate_std, sparse[DOWN], rng)
        cuts |= unscope(sparse, layer)
    routed = {name: cuts[name] for name in names}
    new = dict(routed)
    for layer in layers:
        new |= unscope(
            renew_layer(scope(routed, layer), shares, noise_std, granularity, rng), layer
        )

    losses = None
    if probe_ids is None:
        inputs = random_inputs(params, config, rng)
    else:
        probe = probe_ids[:, :-1], probe_ids[:, 1:]
        inputs, dense_loss = true_inputs(params, config, *probe)
        losses = Losses(dense_loss, *(model_loss(p, moe, *probe) for p in (routed, new)))
    costs = cost(config, 1, 1), cost(moe, 1, 1)
    receipt = UpcyclingReceipt(
        cut=cut,
        parameters=(costs[0].parameters, costs[1].parameters),
        activated_parameters=(costs[0].activated_parameters, costs[1].activated_parameters),
        w_down_factors=factors,
        starts_equal=match_scale and starts_equal(moe, router, router_std, shared_gate_std),
        probe_tokens=0 if probe_ids is None else probe_ids[:, :-1].size,
        layers=measure_layers(inputs, (params, config), routed, new, moe, factors[0]),
        losses=losses,
    )
    return new, moe, receipt


def check_choices(
    config: QwenConfig,
    router: str,
    granularity: str,
    stds: dict[str, float],
    shares: tuple[float, float],
) -> None:
    """Raise ValueError, before any work, when a choice cannot be; see upcycle."""
    if router not in ROUTERS:
        raise ValueError(f"router must be one of {ROUTERS}, got {router!r}")
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity must be one of {GRANULARITIES}, got {granularity!r}")
    for name, std in stds.items():
        if not 0 <= std < math.inf:
            raise ValueError(f"{name} must be 0 or above, got {std}")
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"the shares to draw anew must be in [0, 1], got {shares}")
    F, E, Fe = config.intermediate_size, config.num_experts, config.moe_intermediate_size
    K, group = config.num_experts_per_tok, int(np.bincount(copy_of_expert(F, E, Fe)).max())
    if router == "grouped" and K < group:
        raise ValueError(
            f'router "grouped" needs num_experts_per_tok of at least {group}, the experts of a '
            f'copy, got {K}: the others of the copy would never be chosen. Take "random"'
        )


def cut_layer(
    dense: Params, config: QwenConfig, factors: tuple[float, float], rng: np.random.Generator
) -> Params:
    """Return the experts of one layer, the shared one too, from the parameters of a dense layer."""
    w_gate, w_up, w_down = (dense[name] for name in SWIGLU)
    E, Fe = config.num_experts, config.moe_intermediate_size
    gate_up, down = upcycle_ffn(w_gate, w_up, w_down, E, Fe, rng)
    experts = {GATE_UP: gate_up, DOWN: scaled(down, factors[0])}
    Fs = config.shared_expert_intermediate_size
    if Fs:
        gate_up, down = upcycle_ffn(w_gate, w_up, w_down, 1, Fs, rng)
        gate, up = (half.copy() for half in np.split(gate_up[0], 2))
        experts |= zip(SHARED[:3], (gate, up, scaled(down[0], factors[1])), strict=True)
    return experts


def router_rows(
    config: QwenConfig, router: str, std: float, like: Array, rng: np.random.Generator
) -> Array:
    """Draw the rows of a router, (E, D): one for each expert, or one for each copy, repeated."""
    F, E, Fe = config.intermediate_size, config.num_experts, config.moe_intermediate_size
    copies = copy_of_expert(F, E, Fe) if router == "grouped" else np.arange(E)
    rows: Array = normal((int(copies.max()) + 1, config.hidden_size), std, like, rng)[copies]
    return rows


def renew_layer(
    layer: Params,
    shares: tuple[float, float],
    std: float,
    granularity: str,
    rng: np.random.Generator,
) -> Params:
    """Return the experts of one layer with these shares, routed and shared, drawn anew."""
    gate_up, down = reinitialise(layer[GATE_UP], layer[DOWN], shares[0], std, granularity, rng)
    new = {GATE_UP: gate_up, DOWN: down}
    if SHARED[0] in layer:
        gate, up, down = (layer[name] for name in SHARED[:3])
        one = np.concatenate([gate, up])[None], down[None]  # the only expert of E = 1
        gate_up, down = reinitialise(*one, shares[1], std, granularity, rng)
        gate, up = (half.copy() for half in np.split(gate_up[0], 2))
        new |= zip(SHARED[:3], (gate, up, down[0]), strict=True)
    return new


def starts_equal(
    config: QwenConfig, router: str, router_std: float, shared_gate_std: float
) -> bool:
    """Say whether the mixture is the dense model before numbers are drawn anew, given match_scale.

    Args:
        config: of the mixture.
        router: "grouped" or "random".
        router_std: 0 makes all logits 0, and the first K experts work on every token.
        shared_gate_std: with anything but 0 the gate is not 1/2.
    """
    F, E, K = config.intermediate_size, config.num_experts, config.num_experts_per_tok
    Fe, Fs = config.moe_intermediate_size, config.shared_expert_intermediate_size
    weights = config.norm_topk_prob or K == E or router_std == 0  # whose sum is known
    by_copy = Fe % F == 0 or (router == "grouped" and F % Fe == 0 and E * Fe % F == 0)
    whole = K * Fe % F == 0 and (by_copy or router_std == 0)  # copies at work
    shared = Fs == 0 or (Fs % F == 0 and shared_gate_std == 0)
    return weights and whole and shared


def keep_windows(config: QwenConfig) -> dict[str, Any]:
    """Return fields that keep every layer's window: the rules of mixtures are others than qwen2's.

    qwen3_moe knows no layer_types; there our own layer_windows say it, which transformers passes
    over.
    """
    if config.layer_windows is not None or not config.use_sliding_window:
        return {}
    windows = layer_windows(config)
    if config.model_type == "qwen3":
        return {"layer_windows": list(windows), "layer_types": None}
    return {"layer_types": [LAYER_TYPES[window is not None] for window in windows]}

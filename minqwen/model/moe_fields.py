"""The fields of a config that make a mixture of experts: which there are, and their checks.

    letter   field                      letter   field
    E        num_experts                Fe       moe_intermediate_size
    K        num_experts_per_tok        Fs       shared_expert_intermediate_size

Paper:    Qwen2 Technical Report, 2.2.2 Qwen2 Mixture-of-experts Model, Table 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .long_context_fields import is_number, is_whole, require_field

if TYPE_CHECKING:
    from .config import QwenConfig

MOE_FIELDS = (
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "norm_topk_prob",
    "router_aux_loss_coef",
    "decoder_sparse_step",
    "mlp_only_layers",
)
MOE_TYPES = ("qwen2_moe", "qwen3_moe")

# what transformers takes for a field that a config.json leaves out
RELEASED: dict[str, dict[str, Any]] = {
    "qwen2_moe": {
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_key_value_heads": 16,
    },
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "attention_bias": False},
    "qwen3_moe": {
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "num_key_value_heads": 4,
        "attention_bias": False,
    },
}


def sparse_layers(config: QwenConfig) -> tuple[bool, ...]:
    """Return for each layer whether its feed-forward network is a mixture of experts.

    Of every `decoder_sparse_step` layers the last one is, unless `mlp_only_layers` names it.

    >>> from .config import QwenConfig
    >>> sparse_layers(QwenConfig(vocab_size=9, hidden_size=4, intermediate_size=6,
    ...     num_hidden_layers=4, num_attention_heads=2, model_type="qwen2_moe", num_experts=5,
    ...     num_experts_per_tok=2, moe_intermediate_size=3, decoder_sparse_step=2))
    (False, True, False, True)
    """
    step, dense = config.decoder_sparse_step, config.mlp_only_layers
    return tuple(
        config.num_experts > 0 and (i + 1) % step == 0 and i not in dense
        for i in range(config.num_hidden_layers)
    )


def read_type(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a config.json of a mixture of experts, or of Qwen3, under our names.

    As transformers reads them: qwen2_moe calls attention_bias qkv_bias, newer files of qwen3_moe
    call num_experts num_local_experts, a window of 0 is none, qwen3_moe has no layer_types, and
    what is missing has the value of the first released model.

    Raises:
        ValueError: a size of the experts is null.
    """
    values, kind = dict(values), values["model_type"]
    if kind == "qwen2_moe":
        values.pop("attention_bias", None)
        values["attention_bias"] = values.pop("qkv_bias", True)
    if kind == "qwen3_moe":
        if "num_local_experts" in values:
            values["num_experts"] = values.pop("num_local_experts")
        values.pop("layer_types", None)
    if kind in MOE_TYPES:
        if values.get("sliding_window") == 0:
            values["sliding_window"] = None
        if values.get("mlp_only_layers", 0) is None:
            del values["mlp_only_layers"]
        for name in MOE_FIELDS[:3]:
            if values.get(name, 0) is None:
                raise ValueError(f"{name} must be a whole number, got None")
    left_out = {k: v for k, v in RELEASED.get(kind, {}).items() if values.get(k) is None}
    return values | left_out


def check_moe(config: QwenConfig) -> None:
    """Raise ValueError, naming the field, when one of them has an impossible value."""
    E, K = config.num_experts, config.num_experts_per_tok
    for name in MOE_FIELDS[:4]:
        require_field(
            name, is_whole(getattr(config, name), 0), "a whole number", getattr(config, name)
        )
    value: Any = config.decoder_sparse_step
    require_field("decoder_sparse_step", is_whole(value, 1), "a whole number of at least 1", value)
    value = config.norm_topk_prob
    require_field("norm_topk_prob", isinstance(value, bool), "true or false", value)
    value = config.router_aux_loss_coef
    require_field("router_aux_loss_coef", is_number(value, 0), "0 or above", value)
    value = config.mlp_only_layers
    good = isinstance(value, list) and all(is_whole(i, 0) for i in value)
    require_field("mlp_only_layers", good, "a list of layer numbers", value)
    if E and config.model_type not in MOE_TYPES:
        raise ValueError(
            f"num_experts={E} needs model_type {' or '.join(MOE_TYPES)}, got {config.model_type!r}"
        )
    if E and not 1 <= K <= E:
        raise ValueError(f"num_experts_per_tok must be from 1 to num_experts={E}, got {K}")
    if E and config.moe_intermediate_size < 1:
        raise ValueError("moe_intermediate_size must be at least 1, got 0")
    if config.shared_expert_intermediate_size and config.model_type == "qwen3_moe":
        raise ValueError(
            "shared_expert_intermediate_size must be 0: qwen3_moe has no shared expert"
        )

"""The published model sizes: Qwen Technical Report, Table 1; Qwen2 Technical Report, Table 1.

Qwen1.5-MoE-A2.7B, the mixture of experts before Qwen2's, is in neither table: from its config file.

The reports give layers, heads and widths; the number of embedding rows, which is the vocabulary
rounded up, and the trained length come from the published config files.
"""

from __future__ import annotations

from typing import Any

from .config import QwenConfig

_QWEN1: dict[str, Any] = {
    "rope_theta": 10000.0,
    "use_dynamic_ntk": True,  # act beyond max_position_embeddings, the trained length
    "use_logn_attn": True,
    "model_type": "qwen",
}
_QWEN2: dict[str, Any] = {
    "rope_theta": 1000000.0,
    "max_position_embeddings": 131072,
    "model_type": "qwen2",
}

_MOE: dict[str, Any] = {**_QWEN2, "model_type": "qwen2_moe"}

# name: (V, D, L, H, Hkv, F, more)
_SIZES: dict[str, tuple[int, int, int, int, int, int, dict[str, Any]]] = {
    "qwen-1.8b": (151936, 2048, 24, 16, 16, 5504, {**_QWEN1, "max_position_embeddings": 8192}),
    "qwen-7b": (151936, 4096, 32, 32, 32, 11008, {**_QWEN1, "max_position_embeddings": 8192}),
    "qwen-14b": (152064, 5120, 40, 40, 40, 13696, {**_QWEN1, "max_position_embeddings": 2048}),
    "qwen2-0.5b": (151936, 896, 24, 14, 2, 4864, {**_QWEN2, "tie_word_embeddings": True}),
    "qwen2-1.5b": (151936, 1536, 28, 12, 2, 8960, {**_QWEN2, "tie_word_embeddings": True}),
    "qwen2-7b": (152064, 3584, 28, 28, 4, 18944, _QWEN2),
    "qwen2-72b": (152064, 8192, 80, 64, 8, 29568, {**_QWEN2, "rms_norm_eps": 1e-5}),
    "qwen1.5-moe-a2.7b": (
        *(151936, 2048, 24, 16, 16, 5632),
        {
            **_MOE,
            "max_position_embeddings": 8192,
            "num_experts": 60,  # E
            "num_experts_per_tok": 4,  # K
            "moe_intermediate_size": 1408,  # Fe
            "shared_expert_intermediate_size": 5632,  # Fs, as wide as 4 of them
        },
    ),
    "qwen2-57b-a14b": (
        *(151936, 3584, 28, 28, 4, 18944),  # F of the dense model that it was made from
        {
            **_MOE,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2560,
            "shared_expert_intermediate_size": 20480,  # the report's 8 shared experts as one
        },
    ),
}

PRESETS = tuple(_SIZES)

# our own, for a laptop: (D, L, H, Hkv, F)
_OWN: dict[str, tuple[int, int, int, int, int]] = {
    "tiny": (64, 2, 4, 2, 192),
    "small": (128, 4, 8, 2, 384),
    "medium": (256, 6, 8, 4, 704),
}
# each of them also with experts: 8 of a quarter of F, of which 2 are chosen, and one of a half for
# all tokens, so that as many parameters work on a token
OWN_SIZES = (*_OWN, *(f"{name}-moe" for name in _OWN))


def preset(name: str) -> QwenConfig:
    """Return the config of a published model.

    Raises:
        ValueError: there is no such preset; the message lists them.

    >>> config = preset("qwen2-0.5b")
    >>> config.hidden_size, config.head_dim, config.tie_word_embeddings
    (896, 64, True)
    """
    if name.lower() not in _SIZES:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    V, D, L, H, Hkv, F, more = _SIZES[name.lower()]
    return QwenConfig(
        vocab_size=V,
        hidden_size=D,
        num_hidden_layers=L,
        num_attention_heads=H,
        num_key_value_heads=Hkv,
        intermediate_size=F,
        **more,
    )


def own_size(name: str, vocab_size: int) -> QwenConfig:
    """Return the config of a small model of our own, with tied embeddings, to train on a laptop.

    Args:
        name: of OWN_SIZES; one that ends in "-moe" has experts.
        vocab_size: V.

    Raises:
        ValueError: there is no such size; the message lists them.

    >>> config = own_size("tiny", vocab_size=500)
    >>> config.hidden_size, config.num_hidden_layers
    (64, 2)
    """
    if name not in OWN_SIZES:
        raise ValueError(f"no size {name!r}; there are {', '.join(OWN_SIZES)}")
    D, L, H, Hkv, F = _OWN[name.removesuffix("-moe")]
    experts: dict[str, Any] = {
        "model_type": "qwen2_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": F // 4,
        "shared_expert_intermediate_size": F // 2,
    }
    return QwenConfig(
        vocab_size=vocab_size,
        hidden_size=D,
        num_hidden_layers=L,
        num_attention_heads=H,
        num_key_value_heads=Hkv,
        intermediate_size=F,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **(experts if name.endswith("-moe") else {}),
    )

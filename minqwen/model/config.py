"""The numbers that define a model, under the names of Hugging Face's config.json.

    letter   field                      letter   field
    V        vocab_size                 H        num_attention_heads
    D        hidden_size                Hkv      num_key_value_heads
    L        num_hidden_layers          Dh       head_dim
    F        intermediate_size

The letters of a mixture of experts are in moe_fields.py.

Paper:    Qwen Technical Report, 2.3 Architecture, Table 1; Qwen2 Technical Report, Table 1.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..params import name_list
from .long_context_fields import (
    LONG_CONTEXT_FIELDS,
    check_long_context,
    unsupported_long_context,
)
from .moe_fields import MOE_FIELDS, MOE_TYPES, check_moe, read_type, sparse_layers
from .qwen1 import config_from_qwen1

MODEL_TYPES = ("qwen", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
ARCHITECTURES = {  # the class of transformers that opens such a model
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
SCORES = "ForSequenceClassification"  # ending of the class where the head gives a score


@dataclass
class QwenConfig:
    """Sizes and switches of a model; a wrong value is a ValueError that names the field.

    >>> config = QwenConfig(vocab_size=100, hidden_size=8, intermediate_size=16,
    ...                     num_hidden_layers=1, num_attention_heads=2)
    >>> config.head_dim, config.num_key_value_heads
    (4, 2)
    """

    vocab_size: int  # V, rows of the embedding, padding rows included
    hidden_size: int  # D
    intermediate_size: int  # F, the width of one branch
    num_hidden_layers: int  # L
    num_attention_heads: int  # H
    num_key_value_heads: int = 0  # Hkv; 0 means H, which is multi-head attention
    head_dim: int = 0  # Dh; 0 means D / H
    max_position_embeddings: int = 32768  # tokens; a statement about training, not a limit here
    rope_theta: float = 10000.0  # base of the RoPE frequencies; 1,000,000 in Qwen2
    rms_norm_eps: float = 1e-6
    attention_bias: bool = True  # on q, k and v only
    tie_word_embeddings: bool = False  # the output layer uses the embedding table
    initializer_range: float = 0.02  # standard deviation of fresh weights
    dropout: float = 0.0  # in training: on the embedding and on what each sub-layer adds
    # reading longer than trained: which rule acts is worked out in layer_plan.py
    rope_scaling: dict[str, Any] | None = None  # rope_type "linear", "dynamic" or "yarn"
    use_dynamic_ntk: bool = False  # Qwen's own rule, beyond max_position_embeddings
    use_logn_attn: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = 4096  # tokens that a layer with a window sees
    max_window_layers: int = 28  # layers from this one on have the window
    layer_types: list[str] | None = None  # "full_attention" or "sliding_attention" for each layer
    layer_windows: list[int | None] | None = None  # ours: a window for each layer, None = all
    dual_chunk_attention_config: dict[str, Any] | None = None  # chunk_size, local_size
    # a mixture of experts in place of the feed-forward network: moe_fields.py
    num_experts: int = 0  # E, of which a router chooses; 0 = none, a dense model
    num_experts_per_tok: int = 0  # K, that work on a token
    moe_intermediate_size: int = 0  # Fe, width of a branch of one of them
    shared_expert_intermediate_size: int = 0  # Fs, of the expert that works on all; 0 = none
    norm_topk_prob: bool = False  # the weights of the chosen are made to sum to 1
    router_aux_loss_coef: float = 0.001  # times the load-balancing loss, in training
    decoder_sparse_step: int = 1  # of so many layers the last one has experts
    mlp_only_layers: list[int] = field(default_factory=list)  # and these never
    num_labels: int = 0  # 0: a language model; 1: one number in place of logits, score.weight
    hidden_act: str = "silu"
    model_type: str = "qwen2"
    extra: dict[str, Any] = field(default_factory=dict)  # fields we do not use, kept for saving

    def __post_init__(self) -> None:
        """Fill in what follows from other fields, and check everything."""
        require_known_type(self.model_type)
        for name in (
            *LONG_CONTEXT_FIELDS,
            *MOE_FIELDS,
        ):  # what is nested shall not change with the caller's
            setattr(self, name, copy.deepcopy(getattr(self, name)))
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if not self.head_dim:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads="
                    f"{self.num_attention_heads}: give head_dim"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if not isinstance(self.head_dim, int) or self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim must be an even whole number, got {self.head_dim!r}")
        for name in ("rope_theta", "rms_norm_eps", "initializer_range"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a number above 0, got {value!r}")
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        for name in (
            "attention_bias",
            "tie_word_embeddings",
            "use_dynamic_ntk",
            "use_logn_attn",
            "use_sliding_window",
        ):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.num_labels, int) or isinstance(self.num_labels, bool):
            raise ValueError(f"num_labels must be a whole number, got {self.num_labels!r}")
        if not 0 <= self.num_labels < 2:
            raise ValueError(f"num_labels must be 0 (logits) or 1 (a score), got {self.num_labels}")
        check_moe(self)
        # transformers takes no whole number here
        self.router_aux_loss_coef = float(self.router_aux_loss_coef)
        check_long_context(self)
        if self.hidden_act != "silu":
            raise ValueError(f'hidden_act must be "silu", got {self.hidden_act!r}')

    @property
    def qk_norm(self) -> bool:
        """Whether every query and key is normalised within its head, as Qwen3 does."""
        return self.model_type.startswith("qwen3")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QwenConfig:
        """Read the content of a config.json, of Qwen or of Qwen2.

        Unknown fields are kept in `extra` and written back by to_dict.

        Raises:
            ValueError: a field is missing, or has an impossible value.

        >>> QwenConfig.from_dict({"model_type": "llama"})
        Traceback (most recent call last):
        ...
        ValueError: model_type must be one of qwen, qwen2, qwen2_moe, qwen3, qwen3_moe, got 'llama'
        """
        values = dict(values)
        model_type = values.setdefault("model_type", "qwen2")
        require_known_type(model_type)
        if model_type == "qwen":
            values = config_from_qwen1(values)
        values = read_type(values)
        values |= read_rope(values)
        values = read_head(values)
        for name in ("architectures", "auto_map", "torch_dtype", "dtype"):
            values.pop(name, None)  # about files and code, not about the model
        names = {f.name for f in fields(cls)} - {"extra"}
        values.pop("rope_parameters", None)  # read above
        own = {k: v for k, v in values.items() if k in names and v is not None}
        if values.get("sliding_window", 0) is None:
            own["sliding_window"] = None  # here null says something: no layer has a window
        missing = [f for f in ("vocab_size", "hidden_size", "intermediate_size") if f not in own]
        missing += [f for f in ("num_hidden_layers", "num_attention_heads") if f not in own]
        if missing:
            raise ValueError(f"config has no {', '.join(missing)}")
        return cls(**own, extra={k: v for k, v in values.items() if k not in names})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> QwenConfig:
        """Read config.json in a checkpoint folder, or a config file.

        Raises:
            FileNotFoundError: there is no config.json.
            ValueError: it is not JSON, or from_dict refuses it; the message names the file.
        """
        path = Path(folder)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"no config.json at {folder}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("not a JSON object")
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a config.json that transformers opens too; Qwen becomes qwen2.

        transformers passes over what it does not have, without a word: use_dynamic_ntk,
        use_logn_attn, layer_windows and dual_chunk_attention_config.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        for f in fields(self):  # what is as always stays out of the file
            if f.name in LONG_CONTEXT_FIELDS and values[f.name] == f.default:
                del values[f.name]
        if self.model_type == "qwen":
            values["model_type"] = "qwen2"
        if self.model_type not in MOE_TYPES:
            values = {name: value for name, value in values.items() if name not in MOE_FIELDS}
        if self.model_type == "qwen2_moe":
            values["qkv_bias"] = values.pop("attention_bias")
        architecture = ARCHITECTURES[values["model_type"]]
        head: dict[str, Any] = {"architectures": [architecture]}
        if values.pop("num_labels"):
            head["architectures"] = [architecture.replace("ForCausalLM", SCORES)]
            head |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        return copy.deepcopy({**head, **self.extra, **values})

    def unsupported(self) -> list[str]:
        """Name the parts of the config that this version of minqwen would not compute rightly."""
        found = []
        if self.qk_norm and self.attention_bias:
            found.append(f"attention_bias, which in {self.model_type} is on o_proj too")
        return found + unsupported_long_context(self)


def read_head(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a config.json with `num_labels` as we mean it.

    transformers has that field in every model, and means it in those for classification only, of
    which it lists the labels.

    >>> read_head({"architectures": ["Qwen2ForSequenceClassification"], "id2label": {"0": "x"}})
    {'architectures': ['Qwen2ForSequenceClassification'], 'num_labels': 1}
    """
    kinds = values.get("architectures") or []
    scores = isinstance(kinds, list) and any(str(kind).endswith(SCORES) for kind in kinds)
    if not scores:
        return {name: value for name, value in values.items() if name != "num_labels"}
    labels = values.get("id2label")
    found = len(labels) if isinstance(labels, dict) else values.get("num_labels", 2)
    values = {k: v for k, v in values.items() if k not in ("id2label", "label2id")}
    return values | {"num_labels": found}


def read_rope(values: dict[str, Any]) -> dict[str, Any]:
    """Return rope_scaling and rope_theta from the many places where config files have them.

    As transformers 5 reads them: `rope_scaling` (older) before `rope_parameters` (newer), a base in
    there before one beside it, and original_max_position_embeddings beside it before one in there.

    >>> read_rope({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
    {'rope_scaling': None, 'rope_theta': 1000000.0}
    """
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(values.get(name), (dict, type(None))):
            raise ValueError(f"{name} must be an object or null, got {values[name]!r}")
    rope = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
    theta = rope.pop("rope_theta", None)
    original = values.get("original_max_position_embeddings")
    if original is not None and rope.get("rope_type", rope.get("type")) == "yarn":
        rope["original_max_position_embeddings"] = original
    plain = set(rope) <= {"rope_type", "type"} and set(rope.values()) <= {"default"}
    found: dict[str, Any] = {"rope_scaling": None if plain else rope}
    return found if theta is None else found | {"rope_theta": theta}


def require_known_type(model_type: str) -> None:
    """Raise ValueError unless we know this `model_type`."""
    if model_type not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ValueError(f"model_type must be one of {known}, got {model_type!r}")


def param_shapes(config: QwenConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every parameter, in the order of the computation.

    >>> config = QwenConfig(vocab_size=9, hidden_size=4, intermediate_size=6, num_hidden_layers=1,
    ...                     num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True)
    >>> for name, shape in param_shapes(config).items():
    ...     print(name, shape)
    model.embed_tokens.weight (9, 4)
    model.layers.0.input_layernorm.weight (4,)
    model.layers.0.self_attn.q_proj.weight (4, 4)
    model.layers.0.self_attn.q_proj.bias (4,)
    model.layers.0.self_attn.k_proj.weight (2, 4)
    model.layers.0.self_attn.k_proj.bias (2,)
    model.layers.0.self_attn.v_proj.weight (2, 4)
    model.layers.0.self_attn.v_proj.bias (2,)
    model.layers.0.self_attn.o_proj.weight (4, 4)
    model.layers.0.post_attention_layernorm.weight (4,)
    model.layers.0.mlp.gate_proj.weight (6, 4)
    model.layers.0.mlp.up_proj.weight (6, 4)
    model.layers.0.mlp.down_proj.weight (4, 6)
    model.norm.weight (4,)
    """
    V, D = config.vocab_size, config.hidden_size
    q_out = config.num_attention_heads * config.head_dim
    kv_out = config.num_key_value_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, D)}
    for i, sparse in enumerate(sparse_layers(config)):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (D,)
        for name, out in (("q", q_out), ("k", kv_out), ("v", kv_out)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (out, D)
            if config.attention_bias:
                shapes[f"{layer}.self_attn.{name}_proj.bias"] = (out,)
            if config.qk_norm and name != "v":
                shapes[f"{layer}.self_attn.{name}_norm.weight"] = (config.head_dim,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (D, q_out)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (D,)
        if not sparse:
            shapes |= swiglu_shapes(f"{layer}.mlp", D, config.intermediate_size)
            continue
        E, Fe, Fs = (
            config.num_experts,
            config.moe_intermediate_size,
            config.shared_expert_intermediate_size,
        )
        shapes[f"{layer}.mlp.gate.weight"] = (E, D)
        shapes[f"{layer}.mlp.experts.gate_up_proj"] = (E, 2 * Fe, D)
        shapes[f"{layer}.mlp.experts.down_proj"] = (E, D, Fe)
        if Fs:
            shapes |= swiglu_shapes(f"{layer}.mlp.shared_expert", D, Fs)
            shapes[f"{layer}.mlp.shared_expert_gate.weight"] = (1, D)
    shapes["model.norm.weight"] = (D,)
    if config.num_labels:
        shapes["score.weight"] = (config.num_labels, D)
    elif not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (V, D)
    return shapes


def swiglu_shapes(name: str, D: int, F: int) -> dict[str, tuple[int, ...]]:
    """Return the parameters of a SwiGLU network of this name."""
    return {
        f"{name}.gate_proj.weight": (F, D),
        f"{name}.up_proj.weight": (F, D),
        f"{name}.down_proj.weight": (D, F),
    }


def check_params(params: dict[str, Any], config: QwenConfig, where: str = "params") -> None:
    """Raise one ValueError that lists missing, extra and mis-shaped parameters, or mixed dtypes.

    >>> config = QwenConfig(vocab_size=9, hidden_size=4, intermediate_size=6, num_hidden_layers=1,
    ...                     num_attention_heads=2)
    >>> check_params({"wte": None}, config)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: params do not fit the config: missing lm_head.weight, ... and 5 more; extra wte
    """
    wanted = param_shapes(config)
    problems = []
    dtypes = {
        str(params[name].dtype): name for name in wanted if hasattr(params.get(name), "dtype")
    }
    if missing := [name for name in wanted if name not in params]:
        problems.append("missing " + name_list(missing))
    if extra := [name for name in params if name not in wanted]:
        problems.append("extra " + name_list(extra))
    if wrong := [
        f"{name} {tuple(params[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in params and tuple(params[name].shape) != shape
    ]:
        problems.append("mis-shaped " + name_list(wrong))
    if len(dtypes) > 1:
        mixed = ", ".join(f"{name} is {dtype}" for dtype, name in sorted(dtypes.items()))
        problems.append(f"mixed dtypes ({mixed})")
    if problems:
        raise ValueError(f"{where} do not fit the config: {'; '.join(problems)}")

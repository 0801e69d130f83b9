"""A true float64 Qwen2, Qwen2-MoE, Qwen3 and Qwen3-MoE out of transformers.

`model.double()` is not enough: RMSNorm, the rotary tables, the softmax of attention and of the
router, and the balance loss cast to float32 on the way. Here they are written again in the dtype of
their input, or run with float32 meaning that dtype.
"""

import contextlib
from unittest import mock

KINDS = {"qwen2": "Qwen2", "qwen2_moe": "Qwen2Moe", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"}


def modeling(kind):
    """The module of transformers that computes this model_type."""
    import importlib

    return importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")


@contextlib.contextmanager
def float64_transformers():
    """Within this block the Qwen code of transformers computes in float64 throughout."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    def norm(self, x):
        return self.weight * (
            x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    def rotary(self, x, position_ids):
        kind = self.config.rope_parameters["rope_type"]
        make = self.compute_default_rope_parameters
        if kind != "default":
            make = ROPE_INIT_FUNCTIONS[kind]
        options = {"seq_len": int(position_ids.max()) + 1} if kind == "dynamic" else {}
        with mock.patch.multiple(torch, float=x.dtype, float32=x.dtype):  # which it names
            inv_freq, factor = make(self.config, **options)
        angles = position_ids[..., None].to(x.dtype) * inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * factor, angles.sin() * factor

    def attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        repeat_kv = modeling("qwen2").repeat_kv
        key = repeat_kv(key, module.num_key_value_groups)
        value = repeat_kv(value, module.num_key_value_groups)
        scores = query @ key.transpose(2, 3) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask
        probs = torch.softmax(scores, dim=-1)
        return (probs @ value).transpose(1, 2).contiguous(), probs

    def wide(function):
        def run(*args, **kwargs):
            with (
                mock.patch.multiple(torch, float=torch.float64, float32=torch.float64),
                mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
            ):
                return function(*args, **kwargs)

        return run

    with contextlib.ExitStack() as stack:
        for kind, name in KINDS.items():
            hf = modeling(kind)
            patches = [(getattr(hf, f"{name}RMSNorm"), "forward", norm)]
            patches += [(getattr(hf, f"{name}RotaryEmbedding"), "forward", rotary)]
            patches += [(hf, "eager_attention_forward", attention)]
            if kind.endswith("moe"):
                router = getattr(hf, f"{name}TopKRouter")
                patches += [(router, "forward", wide(router.forward))]
                name = "load_balancing_loss_func"
                patches += [(hf, name, wide(getattr(hf, name)))]
            for place, attribute, new in patches:
                stack.enter_context(mock.patch.object(place, attribute, new))
        yield


def transformers_config(config):
    """The config of transformers that says the same."""
    import transformers

    values = config.to_dict()
    make = getattr(transformers, f"{KINDS[values['model_type']]}Config")
    more = {"experts_implementation": "eager"} if values["model_type"].endswith("moe") else {}
    return make(**values, attn_implementation="eager", **more)


def transformers_model(config, params):
    """A model of transformers with these parameters, in their dtype: language model or scorer."""
    import torch
    import transformers

    hf_config = transformers_config(config)
    head = "ForSequenceClassification" if config.num_labels else "ForCausalLM"
    model = getattr(transformers, KINDS[hf_config.model_type] + head)(hf_config)
    dtype = torch.from_numpy(next(iter(params.values()))[:0]).dtype
    model = model.to(dtype).eval()
    tensors = {name: torch.from_numpy(value.copy()) for name, value in params.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    return model

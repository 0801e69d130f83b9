"""A true float64 Qwen2 out of transformers.

`model.double()` is not enough: RMSNorm, the rotary tables, the softmax of attention and the loss
cast to float32 on the way. Here those four are written again in the dtype of their input.
"""

import contextlib
from unittest import mock


@contextlib.contextmanager
def float64_transformers():
    """Within this block the Qwen2 code of transformers computes in float64 throughout."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.qwen2 import modeling_qwen2 as hf

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
        key = hf.repeat_kv(key, module.num_key_value_groups)
        value = hf.repeat_kv(value, module.num_key_value_groups)
        scores = query @ key.transpose(2, 3) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask
        probs = torch.softmax(scores, dim=-1)
        return (probs @ value).transpose(1, 2).contiguous(), probs

    saved = hf.Qwen2RMSNorm.forward, hf.Qwen2RotaryEmbedding.forward, hf.eager_attention_forward
    hf.Qwen2RMSNorm.forward = norm
    hf.Qwen2RotaryEmbedding.forward = rotary
    hf.eager_attention_forward = attention
    try:
        yield
    finally:
        hf.Qwen2RMSNorm.forward, hf.Qwen2RotaryEmbedding.forward, hf.eager_attention_forward = saved


def transformers_model(config, params):
    """A transformers Qwen2ForCausalLM with these parameters, in their dtype."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    values = config.to_dict()
    hf_config = Qwen2Config(**values, attn_implementation="eager")
    model = Qwen2ForCausalLM(hf_config)
    dtype = torch.from_numpy(next(iter(params.values()))[:0]).dtype
    model = model.to(dtype).eval()
    tensors = {name: torch.from_numpy(value.copy()) for name, value in params.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    return model

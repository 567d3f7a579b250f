"""The slow, obvious computation that the decoder is held to.

Two complete passes over the whole prompt, eager attention with the full score matrix, the last row times alpha
before the mask, in every layer and head; then greedy decoding, one token at a time, unsteered. Nothing is shared
with the package.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

_gain: torch.Tensor | None = None


def _eager(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    repeats = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(repeats, dim=1)
    value = value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if _gain is not None:
        scores[:, :, -1, :] *= _gain[:, None, -scores.shape[-1] :]
    if attention_mask is not None:
        scores = scores + attention_mask[..., : scores.shape[-1]]
    weights = scores.float().softmax(-1).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("oracle", _eager)
AttentionMaskInterface.register("oracle", eager_mask)


@dataclass
class OracleResult:
    first_logits: torch.Tensor
    confidence: torch.Tensor
    sequences: torch.Tensor


@torch.no_grad()
def complete_pass(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], image_token_id: int, alpha: torch.Tensor, tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One complete generation with `alpha` per row; returns (first logits, new tokens)."""
    global _gain
    own = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation({"text_config": "oracle"})
    try:
        mask = inputs["attention_mask"]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        _gain = torch.where(inputs["input_ids"] == image_token_id, alpha[:, None], 1.0)
        output = model(**inputs, position_ids=positions, use_cache=True)
        _gain = None
        first = output.logits[:, -1]
        eos = model.generation_config.eos_token_id
        pad = model.generation_config.pad_token_id
        token, done, new = first.argmax(-1), torch.zeros(len(first), dtype=torch.bool), []
        while True:
            token = token.masked_fill(done, pad)
            new.append(token)
            done |= token == eos
            if len(new) == tokens or bool(done.all()):
                return first, torch.stack(new, 1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            positions = positions[:, -1:] + 1
            output = model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=output.past_key_values,
                use_cache=True,
            )
            token = output.logits[:, -1].argmax(-1)
    finally:
        _gain = None
        model.set_attn_implementation({"text_config": own})


def scaling_vis(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], image_token_id: int, alpha: torch.Tensor, tokens: int
) -> OracleResult:
    """The authors' procedure: a plain pass for the confidence, then a complete steered one."""
    plain, _ = complete_pass(model, inputs, image_token_id, torch.ones_like(alpha), 1)
    first, sequences = complete_pass(model, inputs, image_token_id, alpha, tokens)
    return OracleResult(first, plain.softmax(-1).amax(-1), sequences)

"""The authors' procedure, for comparison: two complete generations with eager attention.

Their code generates the whole answer unsteered, reads the confidence, and generates it again with the prompt's last row
steered. Two things that make it slow are kept here: the second prefill and the full score matrices of eager attention.
Two are left out, which flatters it: a batch size of one, and writing every layer's attention to disk.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from adaptvis_plugin.decoding import AdaptVis, FirstToken

_gain: torch.Tensor | None = None


def _eager_with_last_row(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if _gain is not None and query.shape[2] == _gain.shape[1]:
        scores[:, :, -1] *= _gain[:, None].to(scores.dtype)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("authors", _eager_with_last_row)
AttentionMaskInterface.register("authors", eager_mask)


def two_complete_generations(model: Any, batch: dict[str, torch.Tensor], method: AdaptVis, tokens: int) -> torch.Tensor:
    """Answer a batch as the authors' code does, and return the sequences with the prompt."""
    global _gain
    own = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation({"text_config": "authors"})
    options: dict[str, Any] = {"max_new_tokens": tokens, "do_sample": False}
    try:
        plain = model.generate(**batch, **options, output_logits=True, return_dict_in_generate=True)
        alpha = method.choose(FirstToken(plain.logits[0].float()))
        _gain = torch.where(batch["input_ids"] == model.config.image_token_id, alpha[:, None], 1.0)
        answer: torch.Tensor = model.generate(**batch, **options)
        return answer
    finally:
        _gain = None
        model.set_attn_implementation({"text_config": own})

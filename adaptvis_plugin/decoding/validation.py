"""What a batch must be to be decoded."""

from typing import Any

import torch
from torch.nn.functional import pad as padded
from transformers import BatchFeature, GenerationConfig, PreTrainedModel

from adaptvis_plugin.decoding.inspection import TextDecoder


def checked(
    inputs: BatchFeature | dict[str, Any],
    model: PreTrainedModel,
    text_decoder: TextDecoder,
    config: GenerationConfig,
    *,
    steered: bool,
) -> dict[str, Any]:
    """Return the inputs of a batch with an attention mask of integers.

    Args:
        inputs: What the processor returned.
        model: The model.
        text_decoder: Its text decoder.
        config: How to generate.
        steered: Whether the batch is to be steered.

    Raises:
        ValueError: If the inputs are not left padded, there are images but no image tokens, the model is in train mode,
            or its dynamic rope does not allow steering so long a prompt.
    """
    if any(module.training for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} is in train mode, where dropout changes the answers; call model.eval()"
        )
    attention_mask = _mask(inputs, config)
    limit = text_decoder.dynamic_rope_limit
    if steered and limit is not None and (length := int(attention_mask.sum(1).max())) > limit:
        raise ValueError(
            f"a prompt of {length} tokens: past {limit} positions this model's dynamic rope depends on what was "
            "decoded before, so that steering would not be exact; shorten the prompt, or load the checkpoint with "
            "another rope_type"
        )
    token = text_decoder.image_token_id
    if inputs.get("pixel_values") is not None and not bool((inputs["input_ids"] == token).any()):
        raise ValueError(
            f"images were given but no prompt holds the image token (id {token}); build the prompts with the "
            "processor's image token or chat template, and without truncation"
        )
    return {**inputs, "attention_mask": attention_mask}


def left_padded(inputs: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the inputs of a batch with more padding on the left; with what they have if `count` is not positive."""
    shape = inputs["input_ids"].shape
    return {
        name: padded(value, (max(count, 0), 0)) if getattr(value, "shape", None) == shape else value
        for name, value in inputs.items()
    }


def _mask(inputs: BatchFeature | dict[str, Any], config: GenerationConfig) -> torch.Tensor:
    """Return the attention mask as integers, whatever its type; without one, the mask that `generate` infers.

    Raises:
        ValueError: If its shape is not that of the prompts, or a row ends in padding.
    """
    input_ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if mask is None:
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        pad = config.pad_token_id
        mask = torch.ones_like(input_ids) if pad is None or pad in ends else input_ids != pad
    if mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)} and input_ids {tuple(input_ids.shape)}; give the mask that "
            "the processor returns, of shape (batch, tokens)"
        )
    if not bool(mask[:, -1].all()):
        rows = (mask[:, -1] == 0).nonzero().flatten().tolist()
        raise ValueError(f"rows {rows} end in padding; pad on the left (processor.tokenizer.padding_side = 'left')")
    # As signed integers: the padding's end is found by differences, which booleans and unsigned integers do not have.
    return (mask != 0).long()

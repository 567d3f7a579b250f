"""What a decoder returns, and what it has done."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Decoded:
    """The result of decoding a batch.

    Attributes:
        sequences: The generated tokens without the prompt, padded after the end of a row; LongTensor (batch, new
            tokens).
        confidence: The unsteered model's probability of its most likely first token, unrounded; FloatTensor (batch,).
            It is the softmax of the model's raw logits (Chen et al., section 5: what the model itself thinks), before
            any logits processor. If a checkpoint has one (Qwen2.5-VL: a repetition penalty of 1.05), greedy decoding
            itself uses other scores, and may generate another token.
        alpha: The strength applied to each row: the coefficient, for methods that have one; FloatTensor (batch,).
        first_logits: The logits of the first answer token under the method; FloatTensor (batch, vocabulary).
        attention: If it was captured, the attention weights of the last prompt token under that alpha; HalfTensor
            (batch, layers, heads, prompt tokens), 0 in padding. The layers are those of `Decoder.layers`.
    """

    sequences: torch.Tensor
    confidence: torch.Tensor
    alpha: torch.Tensor
    first_logits: torch.Tensor
    attention: torch.Tensor | None = None


@dataclass
class Statistics:
    """What a decoder has done so far.

    Attributes:
        rows: Prompts decoded.
        prefixes_reused: Prompts for which image and beginning were already computed for another prompt.
        packed_passes: Steered batches that took one pass.
        full_passes: Complete passes that were made for a coefficient alone.
        second_streams: Batches that were decoded beside a second stream.
    """

    rows: int = 0
    prefixes_reused: int = 0
    packed_passes: int = 0
    full_passes: int = 0
    second_streams: int = 0

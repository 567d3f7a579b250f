"""Small random models of real families, and batches as their processors return them."""

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
)

IMAGE, BOS, EOS, PAD, VOCABULARY = 5, 1, 2, 0, 64
IMAGE_TOKENS = 16  # a 32 x 32 image in 8 x 8 patches


def _parts(heads: int, kv_heads: int, layers: int) -> tuple[CLIPVisionConfig, LlamaConfig]:
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16 * heads,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return vision, text


def random_model(
    family: str, *, heads: int = 4, kv_heads: int = 4, layers: int = 3, seed: int = 0, scale: float = 6.0
) -> Any:  # the stubs do not say that such a model has `generate`
    """Return a random LLaVA-1.5 (`llava`) or LLaVA-1.6 (`llava_next`).

    Freshly initialised weights attend almost uniformly, so steering would change almost nothing. `scale` widens the
    query and key projections until attention is as peaked as a trained model's.
    """
    torch.manual_seed(seed)
    vision, text = _parts(heads, kv_heads, layers)
    if family == "llava":
        model: Any = LlavaForConditionalGeneration(
            LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-2)
        )
    else:
        model = LlavaNextForConditionalGeneration(
            LlavaNextConfig(
                vision_config=vision,
                text_config=text,
                image_token_index=IMAGE,
                vision_feature_layer=-2,
                image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
            )
        )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model" in name and ("q_proj" in name or "k_proj" in name):
                weight.mul_(scale)
            elif "embed_tokens" in name or "lm_head" in name:
                weight.mul_(4)
        # A logit of 0 is never the largest. A generated image token would need another image.
        model.lm_head.weight[IMAGE] = 0
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    return model.eval()


def random_batch(
    model: PreTrainedModel, texts: list[int], *, images: list[int] | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return a left-padded batch: row i holds `images[i]` images (default 1) and then `texts[i]` text tokens."""
    generator = torch.Generator().manual_seed(seed)
    images = [1] * len(texts) if images is None else images
    count = sum(images)
    batch: dict[str, torch.Tensor] = {}
    if model.config.model_type == "llava":
        per_image = IMAGE_TOKENS
        if count:
            batch["pixel_values"] = torch.randn(count, 3, 32, 32, generator=generator)
    else:
        # A 32 x 64 image: the overview and two tiles, a newline token closing each row of the unpadded grid.
        per_image = IMAGE_TOKENS + 4 * (8 + 1)
        if count:
            batch["pixel_values"] = torch.randn(count, 3, 3, 32, 32, generator=generator)
            batch["image_sizes"] = torch.tensor([[32, 64]] * count)
    rows = [
        [BOS] + [IMAGE] * per_image * k + torch.randint(8, VOCABULARY, (n,), generator=generator).tolist()
        for n, k in zip(texts, images, strict=True)
    ]
    width = max(map(len, rows))
    batch["input_ids"] = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    batch["attention_mask"] = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return batch

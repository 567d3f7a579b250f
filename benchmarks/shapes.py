"""Random models and batches of LLaVA-1.5's shape."""

from dataclasses import dataclass

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

IMAGE, BOS = 32000, 1
TEXT_TOKENS = 30


@dataclass(frozen=True)
class Shape:
    """What the models differ in.

    Attributes:
        vision: The vision tower's width, intermediate width, layers and heads.
        text: The same of the text decoder.
        dtype: Type of the weights.
        image: Side of the image in pixels, which is cut into patches of 14 x 14. CLIP's 336 gives 576 tokens.
        memory: Whether to measure peak memory: not where Python and its libraries take most of it.
    """

    vision: tuple[int, int, int, int]
    text: tuple[int, int, int, int]
    dtype: torch.dtype
    image: int = 336
    memory: bool = True


SHAPES = {
    # For tests.
    "tiny": Shape((32, 32, 1, 2), (32, 32, 1, 2), torch.float32),
    # Fixed costs outweigh the arithmetic, as on a GPU with short answers. 64 image tokens.
    "small": Shape((192, 768, 8, 4), (384, 1032, 8, 4), torch.float32, image=112, memory=False),
    # LLaVA-1.5-7B scaled to two CPU cores: the vision tower keeps about its share of the prefill's cost.
    "scaled": Shape((256, 1024, 6, 4), (512, 1376, 8, 8), torch.float32),
    # LLaVA-1.5-7B itself.
    "7b": Shape((1024, 4096, 24, 16), (4096, 11008, 32, 32), torch.bfloat16),
}


def random_llava(shape: Shape, device: str, attention: str) -> PreTrainedModel:
    """Return a LLaVA-1.5 of a shape with random weights, which never ends an answer early."""
    width, inner, layers, heads = shape.vision
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=shape.image,
        patch_size=14,
        projection_dim=768,
    )
    width, inner, layers, heads = shape.text
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(shape.dtype)
    try:
        with torch.device(device):
            config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
            model: PreTrainedModel = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def image_tokens(model: PreTrainedModel) -> int:
    """Return how many tokens an image has."""
    vision = model.config.vision_config
    return int(vision.image_size // vision.patch_size) ** 2


def random_batch(model: PreTrainedModel, rows: int, images: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return rows of `images` images, of the size the model takes, and `TEXT_TOKENS` of text."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(10, 30000, (rows, TEXT_TOKENS), generator=generator)
    image = torch.full((rows, image_tokens(model) * images), IMAGE)
    text[:, 0] = BOS
    ids = torch.cat([text[:, :1], image, text[:, 1:]], 1)
    side = model.config.vision_config.image_size
    pixels = torch.randn(rows * images, 3, side, side, generator=generator)
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": torch.ones_like(ids).to(model.device),
        "pixel_values": pixels.to(model.device, model.dtype),
    }

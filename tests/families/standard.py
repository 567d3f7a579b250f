"""Families with one square image per placeholder run, or with tiles of one size."""

import torch

from tests.families.build import (
    CLOSE,
    IMAGE,
    MARK,
    OPEN,
    TEXT,
    VIDEO,
    VISION,
    Family,
    Image,
    frame,
    patches,
    stacked_per_row,
)

GRID = 16  # features of a 32 x 32 image in 8 x 8 patches
PINPOINTS = [[32, 64], [64, 32], [64, 64]]


class Square:
    """One 32 x 32 image of `count` features, between markers if `framed`."""

    def __init__(
        self, count: int = GRID, framed: bool = False, name: str = "pixel_values", lead: tuple[int, ...] = ()
    ) -> None:
        self.count, self.framed, self.name, self.lead = count, framed, name, lead

    def __call__(self, generator: torch.Generator, index: int) -> Image:
        tokens = frame(self.count, [OPEN], [CLOSE]) if self.framed else frame(self.count)
        return tokens, {self.name: patches(generator, 1, *self.lead, 3, 32, 32)}


class _Tiled:
    """One to three tiles with a marker before each, as in InternVL, Aya Vision and Cohere."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, generator: torch.Generator, index: int) -> Image:
        tiles = 1 + index % 3
        tokens = [OPEN, *(token for _ in range(tiles) for token in [MARK, *[IMAGE] * self.count]), CLOSE]
        return tokens, {"pixel_values": patches(generator, tiles, 3, 32, 32)}


def _llava_next(generator: torch.Generator, index: int) -> Image:
    # A 32 x 64 image: the overview and two tiles, a newline feature closing each row of the grid.
    return frame(GRID + 4 * (8 + 1)), {
        "pixel_values": patches(generator, 1, 3, 3, 32, 32),
        "image_sizes": torch.tensor([[32, 64]]),
    }


def _idefics3(generator: torch.Generator, index: int) -> Image:
    # One row of two tiles with row and column markers, then the overview; 4 features each after the pixel shuffle.
    tile = [OPEN, MARK, *[IMAGE] * 4]
    return [*tile, *tile, CLOSE, OPEN, *[IMAGE] * 4, OPEN], {
        "pixel_values": patches(generator, 3, 3, 32, 32),
        "pixel_attention_mask": torch.ones(3, 32, 32, dtype=torch.long),
    }


def _docling(generator: torch.Generator, index: int) -> Image:
    # One feature per tile of this size; the mask says which tiles are real.
    return [OPEN, MARK, IMAGE, OPEN, MARK, IMAGE, CLOSE, OPEN, IMAGE, OPEN], {
        "pixel_values": patches(generator, 3, 3, 32, 32),
        "pixel_attention_mask": torch.ones(3, dtype=torch.bool),
    }


def _idefics2(generator: torch.Generator, index: int) -> Image:
    return frame(4, [OPEN], [OPEN]), {
        "pixel_values": patches(generator, 1, 3, 32, 32),
        "pixel_attention_mask": torch.ones(1, 32, 32, dtype=torch.long),
    }


SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
CLIP = {**VISION, "model_type": "clip_vision_model"}
LLAMA, QWEN2, QWEN3 = ({**TEXT, "model_type": kind} for kind in ("llama", "qwen2", "qwen3"))
INTERN_VISION = {**VISION, "image_size": [32, 32], "patch_size": [8, 8]}
COHERE = {**TEXT, "model_type": "cohere2", "sliding_window": 16, "sliding_window_pattern": 2, "logit_scale": 1.0}

FAMILIES = [
    Family(
        "llava",
        "LlavaForConditionalGeneration",
        {"vision_config": CLIP, "text_config": LLAMA, "image_token_index": IMAGE, "vision_feature_layer": -2},
        Square(),
    ),
    Family(
        "vipllava",
        "VipLlavaForConditionalGeneration",
        {"vision_config": CLIP, "text_config": LLAMA, "image_token_index": IMAGE, "vision_feature_layers": [-1, -2]},
        Square(),
    ),
    Family(
        "llava_next",
        "LlavaNextForConditionalGeneration",
        {"vision_config": CLIP, "text_config": LLAMA, "image_token_index": IMAGE, "image_grid_pinpoints": PINPOINTS},
        _llava_next,
        columns="patch features of overview and tiles, and the newline feature of each row",
    ),
    Family(
        "llava_next_video",
        "LlavaNextVideoForConditionalGeneration",
        {
            "vision_config": CLIP,
            "text_config": LLAMA,
            "image_token_index": IMAGE,
            "video_token_index": VIDEO,
            "image_grid_pinpoints": PINPOINTS,
        },
        _llava_next,
        columns="patch features of overview and tiles, and the newline feature of each row",
    ),
    Family(
        "llava_onevision",
        "LlavaOnevisionForConditionalGeneration",
        {
            "vision_config": SIGLIP,
            "text_config": QWEN2,
            "image_token_index": IMAGE,
            "video_token_index": VIDEO,
            "image_grid_pinpoints": PINPOINTS,
        },
        _llava_next,
        columns="patch features of overview and tiles, and the newline feature of each row",
    ),
    Family(
        "video_llava",
        "VideoLlavaForConditionalGeneration",
        {"vision_config": CLIP, "text_config": LLAMA, "image_token_index": IMAGE, "video_token_index": VIDEO},
        Square(name="pixel_values_images"),
    ),
    Family(
        "internvl",
        "InternVLForConditionalGeneration",
        {"vision_config": INTERN_VISION, "text_config": QWEN2, "image_token_id": IMAGE, "image_seq_length": 4},
        _Tiled(4),
        columns="patch features of every tile; not the image markers",
    ),
    Family(
        "qianfan_ocr",
        "QianfanOCRForConditionalGeneration",
        {"vision_config": INTERN_VISION, "text_config": QWEN3, "image_token_id": IMAGE, "image_seq_length": 4},
        _Tiled(4),
        columns="patch features of every tile; not the image markers",
    ),
    Family(
        "aya_vision",
        "AyaVisionForConditionalGeneration",
        {"vision_config": SIGLIP, "text_config": COHERE, "image_token_index": IMAGE, "downsample_factor": 2},
        _Tiled(4),
        columns="patch features of every tile; not the tile markers",
    ),
    Family(
        "cohere2_vision",
        "Cohere2VisionForConditionalGeneration",
        {
            "vision_config": SIGLIP,
            "text_config": COHERE,
            "image_token_id": IMAGE,
            "downsample_factor": 2,
            "alignment_intermediate_size": 32,
        },
        _Tiled(4),
        columns="patch features of every tile; not the tile markers",
    ),
    Family(
        "idefics2",
        "Idefics2ForConditionalGeneration",
        {
            "vision_config": VISION,
            "text_config": {**TEXT, "model_type": "mistral", "sliding_window": None},
            "perceiver_config": {
                "hidden_size": 32,
                "resampler_n_latents": 4,
                "resampler_depth": 1,
                "resampler_n_heads": 2,
                "num_key_value_heads": 1,
                "resampler_head_dim": 8,
            },
            "image_token_id": IMAGE,
        },
        _idefics2,
        columns="resampled features; not the tokens around an image",
        collect=stacked_per_row,
    ),
    Family(
        "idefics3",
        "Idefics3ForConditionalGeneration",
        {"vision_config": VISION, "text_config": LLAMA, "image_token_id": IMAGE, "scale_factor": 2, "pad_token_id": 0},
        _idefics3,
        columns="patch features of tiles and overview; not row, column and image markers",
        collect=stacked_per_row,
    ),
    Family(
        "smolvlm",
        "SmolVLMForConditionalGeneration",
        {"vision_config": VISION, "text_config": LLAMA, "image_token_id": IMAGE, "scale_factor": 2, "pad_token_id": 0},
        _idefics3,
        columns="patch features of tiles and overview; not row, column and image markers",
        collect=stacked_per_row,
    ),
    Family(
        "granite_docling",
        "GraniteDoclingForConditionalGeneration",
        {
            "vision_config": {**VISION, "out_hidden_size": 32},
            "text_config": {**TEXT, "attention_multiplier": 0.35, "logits_scaling": 0.2},
            "image_token_id": IMAGE,
            "scale_factor": 2,
            "pad_token_id": 0,
        },
        _docling,
        columns="patch features of tiles and overview; not row, column and image markers",
        collect=stacked_per_row,
    ),
    Family(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        {
            "vision_config": SIGLIP,
            "text_config": {
                **TEXT,
                "sliding_window": 12,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                "query_pre_attn_scalar": 8,
            },
            "image_token_index": IMAGE,
            "boi_token_index": OPEN,
            "eoi_token_index": CLOSE,
            "mm_tokens_per_image": 4,
        },
        Square(4, framed=True),
        columns="pooled patch features; not begin and end of image",
        types="token_type_ids",
    ),
    Family(
        "paligemma",
        "PaliGemmaForConditionalGeneration",
        {
            "vision_config": SIGLIP,
            "text_config": {**TEXT, "model_type": "gemma"},
            "image_token_index": IMAGE,
            "projection_dim": 32,
        },
        Square(),
        mode="two passes",
        types="token_type_ids",
        prefix_types=(0, 0, 1),
    ),
    Family(
        "paligemma (Gemma 2: softcap, sliding window)",
        "PaliGemmaForConditionalGeneration",
        {
            "vision_config": SIGLIP,
            "text_config": {
                **TEXT,
                "model_type": "gemma2",
                "sliding_window": 12,
                "attn_logit_softcapping": 5.0,
                "query_pre_attn_scalar": 8,
            },
            "image_token_index": IMAGE,
            "projection_dim": 32,
        },
        Square(),
        mode="two passes",
        types="token_type_ids",
        prefix_types=(0, 0, 1),
    ),
    Family(
        "got_ocr2",
        "GotOcr2ForConditionalGeneration",
        {
            "vision_config": {
                "hidden_size": 16,
                "output_channels": 8,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 256,
                "patch_size": 16,
                "mlp_dim": 24,
                "window_size": 4,
                "global_attn_indexes": [1],
                "initializer_range": 0.02,
            },
            "text_config": QWEN2,
            "image_token_index": IMAGE,
        },
        lambda generator, index: (frame(16, [OPEN], [CLOSE]), {"pixel_values": patches(generator, 1, 3, 256, 256)}),
    ),
]

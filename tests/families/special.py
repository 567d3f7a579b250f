"""Families with special images, caches or attention, and families that are refused."""

import torch

from tests.families.build import (
    CLOSE,
    IMAGE,
    MARK,
    OPEN,
    TEXT,
    VIDEO,
    VISION,
    VOCABULARY,
    Family,
    Image,
    frame,
    patches,
)
from tests.families.standard import LLAMA, QWEN2, QWEN3, SIGLIP, Square

PIXTRAL = {**VISION, "model_type": "pixtral", "head_dim": 8}


class _Rows:
    """Pixtral's form: a break token after each row of features, an end token after the last."""

    def __init__(self, merge: int) -> None:
        self.merge = merge

    def __call__(self, generator: torch.Generator, index: int) -> Image:
        height, width = 32, 32
        row = [*[IMAGE] * (width // 8 // self.merge), MARK]
        tokens = row * (height // 8 // self.merge)
        return [*tokens[:-1], CLOSE], {
            "pixel_values": patches(generator, 1, 3, height, width),
            "image_sizes": torch.tensor([[height, width]]),
        }


def _llama4(generator: torch.Generator, index: int) -> Image:
    # Two tiles side by side, separators after them, then the overview; each tile is a class-free 4 features.
    tile = [IMAGE] * 4
    return [OPEN, *tile, MARK, *tile, MARK, MARK, *tile, CLOSE], {"pixel_values": patches(generator, 3, 3, 32, 32)}


def _lfm2(generator: torch.Generator, index: int) -> Image:
    height, width = (4, 4) if index % 2 else (2, 4)
    pixels = torch.zeros(1, 16, 3 * 8 * 8)
    pixels[:, : height * width] = patches(generator, 1, height * width, 3 * 8 * 8)
    mask = torch.zeros(1, 16, dtype=torch.long)
    mask[:, : height * width] = 1
    return frame(height * width // 4, [OPEN], [CLOSE]), {
        "pixel_values": pixels,
        "spatial_shapes": torch.tensor([[height, width]]),
        "pixel_attention_mask": mask,
    }


def _kimi(generator: torch.Generator, index: int) -> Image:
    height, width = (4, 4) if index % 2 else (4, 8)
    return frame(height * width // 4, [OPEN], [CLOSE]), {
        "pixel_values": patches(generator, height * width, 3, 8, 8),
        "image_grid_thw": torch.tensor([[1, height, width]]),
    }


def _gemma4(generator: torch.Generator, index: int) -> Image:
    # 4 x 4 patches with their coordinates, pooled 2 x 2.
    where = torch.tensor([[[x, y] for y in range(4) for x in range(4)]])
    return frame(4, [OPEN], [CLOSE]), {
        "pixel_values": torch.rand(1, 16, 3 * 8 * 8, generator=generator),
        "image_position_ids": where,
    }


def _aria(generator: torch.Generator, index: int) -> Image:
    return frame(4), {
        "pixel_values": patches(generator, 1, 3, 32, 32),
        "pixel_mask": torch.ones(1, 32, 32, dtype=torch.bool),
    }


def _perception(rows: list[list[dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.cat([image["pixel_values"] for row in rows for image in row])}


def _video_llama3(generator: torch.Generator, index: int) -> Image:
    height, width = (4, 4) if index % 2 else (4, 8)
    return frame(height * width // 4), {
        "pixel_values": patches(generator, height * width, 3 * 8 * 8),
        "image_grid_thw": torch.tensor([[1, height, width]]),
        "image_merge_sizes": torch.tensor([2]),
    }


FAMILIES = [
    Family(
        "llava (Pixtral)",
        "LlavaForConditionalGeneration",
        {
            "vision_config": PIXTRAL,
            "text_config": {**TEXT, "model_type": "mistral", "sliding_window": None},
            "image_token_index": IMAGE,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        _Rows(1),
        columns="patch features; not row breaks and the end of image",
    ),
    Family(
        "mistral3",
        "Mistral3ForConditionalGeneration",
        {
            "vision_config": PIXTRAL,
            "text_config": {**TEXT, "model_type": "mistral", "sliding_window": 12},
            "image_token_index": IMAGE,
            "spatial_merge_size": 2,
        },
        _Rows(2),
        columns="merged patch features; not row breaks and the end of image",
    ),
    Family(
        "lighton_ocr",
        "LightOnOcrForConditionalGeneration",
        {"vision_config": PIXTRAL, "text_config": QWEN3, "image_token_id": IMAGE, "spatial_merge_size": 2},
        _Rows(2),
        columns="merged patch features; not row breaks and the end of image",
    ),
    Family(
        "llama4",
        "Llama4ForConditionalGeneration",
        {
            "vision_config": {
                **VISION,
                "vision_output_dim": 16,
                "projector_input_dim": 16,
                "projector_output_dim": 16,
                "intermediate_size": 64,
            },
            "text_config": {
                **TEXT,
                "intermediate_size_mlp": 48,
                "num_local_experts": 2,
                "moe_layers": [1],
                "attention_chunk_size": 12,
                "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
                "no_rope_layers": [1, 0, 1],
            },
            "image_token_index": IMAGE,
        },
        _llama4,
        columns="patch features of tiles and overview; not tile separators and image markers",
    ),
    Family(
        "lfm2_vl",
        "Lfm2VlForConditionalGeneration",
        {
            "vision_config": {
                **VISION,
                "model_type": "siglip2_vision_model",
                "num_patches": 16,
                "vision_use_head": False,
            },
            "text_config": {**TEXT, "model_type": "lfm2", "layer_types": ["conv", "full_attention", "conv"]},
            "image_token_id": IMAGE,
            "projector_hidden_size": 24,
        },
        _lfm2,
        columns="merged patch features; not begin and end of image",
        mode="two passes",
    ),
    Family(
        "deepseek_vl",
        "DeepseekVLForConditionalGeneration",
        {"vision_config": SIGLIP, "text_config": LLAMA, "image_token_id": IMAGE},
        Square(),
    ),
    Family(
        "kimi_k25",
        "Kimi_K25ForConditionalGeneration",
        {
            "vision_config": {
                "patch_size": 8,
                "pos_emb_height": 8,
                "pos_emb_width": 8,
                "num_attention_heads": 2,
                "num_hidden_layers": 2,
                "hidden_size": 16,
                "intermediate_size": 24,
            },
            "text_config": {
                **TEXT,
                "model_type": "deepseek_v3",
                "num_key_value_heads": 4,
                "moe_intermediate_size": 16,
                "n_routed_experts": 4,
                "n_group": 1,
                "topk_group": 1,
                "num_experts_per_tok": 2,
                "first_k_dense_replace": 1,
                "kv_lora_rank": 16,
                "q_lora_rank": 16,
                "qk_rope_head_dim": 4,
                "qk_nope_head_dim": 4,
                "v_head_dim": 8,
                "head_dim": 4,
            },
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "projection_hidden_size": 16,
        },
        _kimi,
        columns="merged patch features; not begin and end of image",
    ),
    Family(
        "janus",
        "JanusForConditionalGeneration",
        {
            "vision_config": {**VISION, "projection_dim": 32, "num_image_tokens": 16},
            "vq_config": {
                "base_channels": 32,
                "channel_multiplier": [1],
                "num_embeddings": 8,
                "embed_dim": 8,
                "latent_channels": 8,
                "num_patches": 4,
                "projection_dim": 32,
                "image_token_embed_dim": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "hidden_size": 32,
            },
            "text_config": LLAMA,
            "image_token_id": IMAGE,
        },
        Square(16, framed=True),
        columns="patch features; not begin and end of image",
    ),
    Family(
        "aria",
        "AriaForConditionalGeneration",
        {
            "vision_config": {**VISION, "model_type": "idefics3_vision"},
            "text_config": {
                **TEXT,
                "model_type": "aria_text",
                "moe_num_experts": 4,
                "moe_topk": 2,
                "moe_num_shared_experts": 1,
            },
            "image_token_index": IMAGE,
            "projector_patch_to_query_dict": {16: 4},
        },
        _aria,
        columns="resampled features",
    ),
    Family(
        "video_llama_3",
        "VideoLlama3ForConditionalGeneration",
        {
            "vision_config": {k: v for k, v in VISION.items() if k != "image_size"},
            "text_config": QWEN2,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
        },
        _video_llama3,
        columns="merged patch features; not video tokens, which have another id",
    ),
    Family(
        "gemma4",
        "Gemma4ForConditionalGeneration",
        {
            "vision_config": {
                **VISION,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "pooling_kernel_size": 2,
                "position_embedding_size": 8,
            },
            "text_config": {
                **TEXT,
                "num_hidden_layers": 4,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "num_kv_shared_layers": 2,
                "sliding_window": 12,
                "use_bidirectional_attention": "vision",
                "hidden_size_per_layer_input": 4,
                "vocab_size_per_layer_input": VOCABULARY,
            },
            "audio_config": None,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "audio_token_id": 62,
            "boi_token_id": OPEN,
            "eoi_token_id": CLOSE,
        },
        _gemma4,
        columns="pooled patch features; not begin and end of image",
        types="mm_token_type_ids",
    ),
    Family(
        "ovis2",
        "Ovis2ForConditionalGeneration",
        {
            "vision_config": {**VISION, "vocab_size": 24, "hidden_stride": 2, "num_visual_indicator_tokens": 5},
            "text_config": QWEN2,
            "image_token_id": IMAGE,
            "visual_indicator_token_ids": [OPEN, CLOSE, VIDEO, MARK, 63],
            "hidden_size": 32,
            "vocab_size": VOCABULARY,
        },
        Square(4, framed=True),
        columns="visual words; not the indicator tokens around an image",
    ),
]

REFUSED = [
    Family("mllama", "MllamaForConditionalGeneration", {}, Square(), mode="cross-attention"),
    Family("idefics", "IdeficsForVisionText2Text", {}, Square(), mode="no image token"),
    Family("florence2", "Florence2ForConditionalGeneration", {}, Square(), mode="encoder-decoder"),
    Family("t5gemma2", "T5Gemma2ForConditionalGeneration", {}, Square(), mode="encoder-decoder"),
    Family("blip-2", "Blip2ForConditionalGeneration", {}, Square(), mode="no image token"),
    Family("git", "GitForCausalLM", {}, Square(), mode="no image token"),
    Family("blip", "BlipForConditionalGeneration", {}, Square(), mode="no image token"),
    Family("inkling_mm_model", "InklingForConditionalGeneration", {}, Square(), mode="position_bias"),
]

"""Families with positions that depend on the image's height and width (M-RoPE)."""

from typing import Any

import torch

from tests.families.build import CLOSE, IMAGE, OPEN, TEXT, VIDEO, VISION, Family, Image, frame, patches

IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": OPEN,
    "vision_end_token_id": CLOSE,
    "image_start_token_id": OPEN,
    "image_end_token_id": CLOSE,
}
ROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}


class _Grid:
    """An image of varying height and width. Its patches are flattened; 2 x 2 of them make one feature."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape or (3 * 2 * 8 * 8,)

    def __call__(self, generator: torch.Generator, index: int) -> Image:
        height, width = (4, 4) if index % 2 else (4, 8)
        return frame(height * width // 4, [OPEN], [CLOSE]), {
            "pixel_values": patches(generator, height * width, *self.shape),
            "image_grid_thw": torch.tensor([[1, height, width]]),
        }


QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "embed_dim": 16,
    "hidden_size": 32,
    "num_heads": 2,
    "mlp_ratio": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN25_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 16,
    "out_hidden_size": 32,
    "intermediate_size": 24,
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 32,
    "fullatt_block_indexes": [1],
}
QWEN3_VISION = {
    **QWEN25_VISION,
    "deepstack_visual_indexes": [0, 1],
    "num_position_embeddings": 64,
}
GLM_VISION = {
    "depth": 2,
    "hidden_size": 16,
    "out_hidden_size": 32,
    "intermediate_size": 24,
    "num_heads": 2,
    "patch_size": 8,
    "image_size": 32,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
MOE: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "decoder_sparse_step": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}


def _family(
    name: str,
    architecture: str,
    vision: dict[str, Any],
    *,
    mode: str = "one pass",
    mrope: bool = True,
    grid: _Grid | None = None,
    **text: Any,
) -> Family:
    rope = {"rope_parameters": ROPE} if mrope else {}
    return Family(
        name,
        architecture,
        {"vision_config": vision, "text_config": {**TEXT, **rope, **text}, **IDS},
        grid or _Grid(),
        columns="merged patch features; not begin and end of image; not video tokens, which have another id",
        mode=mode,
        types="mm_token_type_ids" if mrope else None,
        own_positions=mrope,
    )


FAMILIES = [
    _family("qwen2_vl", "Qwen2VLForConditionalGeneration", QWEN_VISION),
    _family("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", QWEN25_VISION),
    _family("qwen3_vl", "Qwen3VLForConditionalGeneration", QWEN3_VISION),
    _family("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", QWEN3_VISION, **MOE),
    _family("glm4v", "Glm4vForConditionalGeneration", GLM_VISION),
    _family(
        "glm46v",
        "Glm46VForConditionalGeneration",
        {**GLM_VISION, "model_type": "glm4v_vision"},
        model_type="glm4v_text",
    ),
    _family("glm4v_moe", "Glm4vMoeForConditionalGeneration", GLM_VISION, **MOE, head_dim=16),
    _family("glm_ocr", "GlmOcrForConditionalGeneration", GLM_VISION),
    _family(
        "qwen3_5",
        "Qwen3_5ForConditionalGeneration",
        QWEN3_VISION,
        mode="two passes",
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        head_dim=32,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    _family(
        "paddleocr_vl",
        "PaddleOCRVLForConditionalGeneration",
        {**VISION, "spatial_merge_size": 2, "temporal_patch_size": 1},
        grid=_Grid(3, 8, 8),
    ),
    _family(
        "ernie4_5_vl_moe",
        "Ernie4_5_VLMoeForConditionalGeneration",
        {
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
        },
        grid=_Grid(3 * 8 * 8),
        rope_parameters={**ROPE, "mrope_section": [1, 1, 2]},
        moe_num_experts=4,
        moe_k=2,
        moe_num_shared_experts=1,
        moe_intermediate_size=[16, 16],
    ),
]

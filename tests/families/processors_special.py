"""The real processors of the families in `special`."""

from typing import Any

from tests.families.build import CLOSE, IMAGE, MARK, OPEN, VIDEO
from tests.families.checkpoint import Part, Processor

PIXTRAL: dict[str, Any] = {
    "tokens": {IMAGE: "[IMG]", MARK: "[IMG_BREAK]", CLOSE: "[IMG_END]"},
    "turn": ("{{ bos_token }}[INST]", "[/INST]"),
    "markers": ("[INST]", "[/INST]"),
}


def _pixtral(merge: int) -> Part:
    side = {"height": 8 * merge, "width": 8 * merge}
    return "PixtralImageProcessor", {"size": {"longest_edge": 32}, "patch_size": side}


PROCESSORS: dict[str, Processor] = {
    "llava (Pixtral)": Processor("PixtralProcessor", image=_pixtral(1), options={"patch_size": 8}, **PIXTRAL),
    "lfm2_vl": Processor(
        "Lfm2VlProcessor",
        {IMAGE: "<image>", OPEN: "<|image_start|>", CLOSE: "<|image_end|>"},
        (
            "Lfm2VlImageProcessor",
            {
                "encoder_patch_size": 8,
                "tile_size": 32,
                "min_image_tokens": 2,
                "max_image_tokens": 4,
                "max_tiles": 4,
                "size": {"height": 32, "width": 32},
            },
        ),
        turn=("{{ bos_token }}<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        markers=(
            "<|im_start|>",
            "<|im_end|>",
            "<|img_thumbnail|>",
            *(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)),
        ),
        names={
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
            "image_thumbnail_token": "<|img_thumbnail|>",
        },
    ),
    "gemma4": Processor(
        "Gemma4Processor",
        {IMAGE: "<|image|>", VIDEO: "<|video|>", OPEN: "<|image>", CLOSE: "<image|>", 62: "<|audio|>"},
        ("Gemma4ImageProcessor", {"patch_size": 8, "pooling_kernel_size": 2, "max_soft_tokens": 70}),
        turn=("{{ bos_token }}<|turn>user\n", "<turn|>\n<|turn>model\n"),
        markers=("<|turn>", "<turn|>", "<|audio>", "<audio|>"),
        names={
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
        parts={
            "feature_extractor": ("Gemma4AudioFeatureExtractor", {}),
            "video_processor": (
                "Gemma4VideoProcessor",
                {"patch_size": 8, "pooling_kernel_size": 2, "max_soft_tokens": 70},
            ),
        },
        options={"image_seq_length": 70},
        config={"vision_config": {"position_embedding_size": 70}},
    ),
}

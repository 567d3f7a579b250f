"""The real processors of the families in `mrope`."""

from typing import Any

from tests.families.build import CLOSE, IMAGE, OPEN, VIDEO
from tests.families.checkpoint import Processor

# Between one merged feature of 16 x 16 pixels and eight.
PATCHES = {
    "size": {"shortest_edge": 16 * 16, "longest_edge": 8 * 16 * 16},
    "patch_size": 8,
    "temporal_patch_size": 2,
    "merge_size": 2,
}
QWEN: dict[str, Any] = {
    "tokens": {
        IMAGE: "<|image_pad|>",
        VIDEO: "<|video_pad|>",
        OPEN: "<|vision_start|>",
        CLOSE: "<|vision_end|>",
    },
    "picture": "<|vision_start|><|image_pad|><|vision_end|>",
    "turn": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "markers": ("<|im_start|>", "<|im_end|>"),
    "begins": False,
}

PROCESSORS: dict[str, Processor] = {
    "qwen2_vl": Processor(
        "Qwen2VLProcessor",
        image=("Qwen2VLImageProcessor", PATCHES),
        parts={"video_processor": ("Qwen2VLVideoProcessor", PATCHES)},
        **QWEN,
    ),
    "qwen2_5_vl": Processor(
        "Qwen2_5_VLProcessor",
        image=("Qwen2VLImageProcessor", PATCHES),
        parts={"video_processor": ("Qwen2VLVideoProcessor", PATCHES)},
        **QWEN,
    ),
}

"""The real processors of the families in `mrope`."""

from dataclasses import replace
from typing import Any

from tests.families.build import CLOSE, IMAGE, OPEN, VIDEO
from tests.families.checkpoint import CHARACTERS, CHATML_MARKERS, CHATML_TURN, Processor

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
    "turn": CHATML_TURN,
    "markers": CHATML_MARKERS,
    "begins": False,
}
# One frame per picture; the other processors repeat the picture to fill two.
ONE_FRAME = {**PATCHES, "temporal_patch_size": 1}
# GLM's processors count the pixels of both frames.
FRAMES = {**PATCHES, "size": {"shortest_edge": 2 * 16 * 16, "longest_edge": 2 * 8 * 16 * 16}}
QWEN3 = Processor(
    "Qwen3VLProcessor",
    image=("Qwen2VLImageProcessor", PATCHES),
    parts={"video_processor": ("Qwen3VLVideoProcessor", FRAMES)},
    **QWEN,
)
GLM: dict[str, Any] = {
    "tokens": {
        IMAGE: "<|image|>",
        VIDEO: "<|video|>",
        OPEN: "<|begin_of_image|>",
        CLOSE: "<|end_of_image|>",
    },
    "picture": "<|begin_of_image|><|image|><|end_of_image|>",
    "turn": ("[gMASK]<sop><|user|>\n", "<|assistant|>\n"),
    "markers": ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|begin_of_video|>", "<|end_of_video|>"),
    "begins": False,
}
GLM4V = Processor(
    "Glm4vProcessor",
    image=("Glm4vImageProcessor", FRAMES),
    parts={"video_processor": ("Glm4vVideoProcessor", FRAMES)},
    **GLM,
)
GLM46V = Processor(
    "Glm46VProcessor",
    image=("Glm46VImageProcessor", FRAMES),
    parts={"video_processor": ("Glm46VVideoProcessor", FRAMES)},
    **GLM,
)
BAIDU: dict[str, Any] = {
    "picture": "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    "turn": ("<|begin_of_sentence|>User: ", "\nAssistant: "),
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
    "qwen3_vl": QWEN3,
    "qwen3_vl_moe": QWEN3,
    # transformers gives it a special tokenizer class, which writes spaces and line ends like byte-level BPE.
    "qwen3_5": replace(QWEN3, characters=CHARACTERS.replace(" ", "Ġ").replace("\n", "Ċ"), seed=6),
    "glm4v": GLM4V,
    "glm4v_moe": replace(GLM4V, seed=7),
    "glm46v": GLM46V,
    "glm_ocr": replace(GLM46V, seed=6),
    "paddleocr_vl": Processor(
        "PaddleOCRVLProcessor",
        {IMAGE: "<|IMAGE_PLACEHOLDER|>", OPEN: "<|IMAGE_START|>", CLOSE: "<|IMAGE_END|>"},
        ("PaddleOCRVLImageProcessor", ONE_FRAME),
        markers=("<|begin_of_sentence|>",),
        names={"image_token": "<|IMAGE_PLACEHOLDER|>"},
        seed=7,
        **BAIDU,
    ),
    "ernie4_5_vl_moe": Processor(
        "Ernie4_5_VLMoeProcessor",
        {
            IMAGE: "<|IMAGE_PLACEHOLDER|>",
            VIDEO: "<|VIDEO_PLACEHOLDER|>",
            OPEN: "<|IMAGE_START|>",
            CLOSE: "<|IMAGE_END|>",
        },
        ("Ernie4_5_VLMoeImageProcessor", ONE_FRAME),
        parts={"video_processor": ("Ernie4_5_VLMoeVideoProcessor", {**PATCHES, "draw_on_frames": False})},
        markers=("<|begin_of_sentence|>", "<|VIDEO_START|>", "<|VIDEO_END|>"),
        names={
            "image_token": "<|IMAGE_PLACEHOLDER|>",
            "image_start_token": "<|IMAGE_START|>",
            "image_end_token": "<|IMAGE_END|>",
            "video_token": "<|VIDEO_PLACEHOLDER|>",
            "video_start_token": "<|VIDEO_START|>",
            "video_end_token": "<|VIDEO_END|>",
        },
        # By default its experts add almost nothing, and an image sent to the text's experts would not be noticed.
        config={"text_config": {"initializer_range": 0.15}},
        **BAIDU,
    ),
}

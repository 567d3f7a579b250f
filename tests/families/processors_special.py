"""The real processors of the families in `special`."""

from typing import Any

from tests.families.build import CLOSE, IMAGE, MARK, OPEN, VIDEO
from tests.families.checkpoint import CHATML_MARKERS, CHATML_TURN, Part, Processor
from tests.families.processors_standard import SQUARE

PIXTRAL: dict[str, Any] = {
    "tokens": {IMAGE: "[IMG]", MARK: "[IMG_BREAK]", CLOSE: "[IMG_END]"},
    "turn": ("{{ bos_token }}[INST]", "[/INST]"),
    "markers": ("[INST]", "[/INST]"),
}
# Between one patch and sixteen.
PATCHES = {"size": {"shortest_edge": 8 * 8, "longest_edge": 16 * 8 * 8}, "patch_size": 8}


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
            *CHATML_MARKERS,
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
    "mistral3": Processor(
        "PixtralProcessor",
        image=_pixtral(2),
        options={"patch_size": 8, "spatial_merge_size": 2},
        # As published. The window of the family's other test is too short to reach the images from the end of the text.
        config={"text_config": {"sliding_window": None}},
        seed=1,
        **PIXTRAL,
    ),
    "lighton_ocr": Processor(
        "LightOnOcrProcessor",
        {IMAGE: "<|image_pad|>", MARK: "<|vision_pad|>", CLOSE: "<|vision_end|>"},
        _pixtral(1),
        turn=CHATML_TURN,
        markers=CHATML_MARKERS,
        names={
            "image_token": "<|image_pad|>",
            "image_break_token": "<|vision_pad|>",
            "image_end_token": "<|vision_end|>",
        },
        options={"patch_size": 8, "spatial_merge_size": 2},
        begins=False,
    ),
    "llama4": Processor(
        "Llama4Processor",
        {IMAGE: "<|patch|>", OPEN: "<|image_start|>", MARK: "<|tile_x_separator|>", CLOSE: "<|image_end|>"},
        ("Llama4ImageProcessor", {**SQUARE, "max_patches": 4}),
        turn=(
            "{{ bos_token }}<|header_start|>user<|header_end|>\n\n",
            "<|eot|><|header_start|>assistant<|header_end|>\n\n",
        ),
        markers=("<|image|>", "<|tile_y_separator|>", "<|header_start|>", "<|header_end|>", "<|eot|>"),
        options={"patch_size": 8},
    ),
    "deepseek_vl": Processor(
        "DeepseekVLProcessor",
        {IMAGE: "<image_placeholder>"},
        ("DeepseekVLImageProcessor", {**SQUARE, "min_size": 8}),
        turn=("User: ", "\n\nAssistant:"),
        names={"image_token": "<image_placeholder>"},
        options={"num_image_tokens": 16},
    ),
    "kimi_k25": Processor(
        "Kimi_K25Processor",
        {
            IMAGE: "<|media_pad|>",
            VIDEO: "<|kimi_k25_video_placeholder|>",
            OPEN: "<|media_begin|>",
            CLOSE: "<|media_end|>",
        },
        ("Kimi_K25ImageProcessor", {"patch_size": 8, "max_patches": 32}),
        picture="<|media_begin|>image<|media_content|><|media_pad|><|media_end|>",
        turn=("<|im_user|>user<|im_middle|>", "<|im_end|><|im_assistant|>assistant<|im_middle|>"),
        markers=("<|media_content|>", "<|im_user|>", "<|im_middle|>", "<|im_end|>", "<|im_assistant|>"),
        parts={"video_processor": ("Kimi_K25VideoProcessor", {"patch_size": 8, "max_patches": 32})},
        begins=False,
    ),
    "janus": Processor(
        "JanusProcessor",
        {IMAGE: "<image_placeholder>", OPEN: "<begin_of_image>", CLOSE: "<end_of_image>"},
        ("JanusImageProcessor", {**SQUARE, "min_size": 8}),
        picture="<image_placeholder>\n",
        turn=("<|User|>: ", "\n\n<|Assistant|>:"),
        markers=("<|User|>", "<|Assistant|>"),
        names={
            "image_token": "<image_placeholder>",
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        },
        options={"num_image_tokens": 16},
    ),
    "aria": Processor(
        "AriaProcessor",
        {IMAGE: "<|img|>"},
        ("AriaImageProcessor", {}),
        picture="<fim_prefix><|img|><fim_suffix>",
        turn=CHATML_TURN,
        markers=("<fim_prefix>", "<fim_suffix>", *CHATML_MARKERS),
        names={"image_token": "<|img|>"},
        options={"size_conversion": {980: 4}},
        # Its images are 490 or 980 pixels wide, 980 unless the caller asks for the other.
        config={"vision_config": {"image_size": 980, "patch_size": 140}, "projector_patch_to_query_dict": {49: 4}},
        begins=False,
        seed=0,
    ),
    "video_llama_3": Processor(
        "VideoLlama3Processor",
        {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>"},
        ("VideoLlama3ImageProcessor", PATCHES),
        picture="<|image_pad|>\n",
        turn=CHATML_TURN,
        markers=CHATML_MARKERS,
        parts={"video_processor": ("VideoLlama3VideoProcessor", {**PATCHES, "merge_size": 2})},
        begins=False,
    ),
    "ovis2": Processor(
        "Ovis2Processor",
        {
            IMAGE: "<IMG_ATOM>",
            OPEN: "<IMG_START>",
            CLOSE: "<IMG_GRID>",
            VIDEO: "<IMG_COL>",
            MARK: "<IMG_ROW>",
            63: "<IMG_END>",
        },
        ("Ovis2ImageProcessor", {**SQUARE, "crop_to_patches": True, "max_patches": 3}),
        picture="<image>\n",
        turn=CHATML_TURN,
        markers=("<image>", *CHATML_MARKERS),
        options={"image_seq_length": 4},
        begins=False,
        seed=9,
    ),
}

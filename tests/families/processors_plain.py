"""The real processors of the families in `plain`."""

from typing import Any

from tests.families.build import CLOSE, IMAGE, OPEN, VIDEO
from tests.families.checkpoint import Processor
from tests.families.plain import PINPOINTS

SQUARE = {"size": {"height": 32, "width": 32}}
CROPPED = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SPLIT = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
IDEFICS: dict[str, Any] = {
    "picture": "<image>",
    "turn": ("{{ bos_token }}User:", "<end_of_utterance>\nAssistant:"),
    "markers": (
        "<fake_token_around_image>",
        "<global-img>",
        "<end_of_utterance>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    ),
    "options": {"image_seq_len": 4},
}

PROCESSORS: dict[str, Processor] = {
    "llava": Processor(
        "LlavaProcessor",
        {IMAGE: "<image>"},
        ("LlavaImageProcessor", CROPPED),
        picture="<image>\n",
        names={"image_token": "<image>"},
        options={"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "gemma3": Processor(
        "Gemma3Processor",
        {IMAGE: "<image_soft_token>", OPEN: "<start_of_image>", CLOSE: "<end_of_image>"},
        ("Gemma3ImageProcessor", SQUARE),
        turn=("{{ bos_token }}<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
        markers=("<start_of_turn>", "<end_of_turn>"),
        names={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        options={"image_seq_length": 4},
    ),
    "llava_next": Processor(
        "LlavaNextProcessor",
        {IMAGE: "<image>"},
        ("LlavaNextImageProcessor", {**CROPPED, "image_grid_pinpoints": PINPOINTS}),
        picture="<image>\n",
        turn=("[INST] ", " [/INST]"),
        names={"image_token": "<image>"},
        options={"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "internvl": Processor(
        "InternVLProcessor",
        {IMAGE: "<IMG_CONTEXT>", OPEN: "<img>", CLOSE: "</img>", VIDEO: "<video>"},
        ("GotOcr2ImageProcessor", {**SQUARE, "min_patches": 1, "max_patches": 3}),
        picture="<IMG_CONTEXT>\n",
        turn=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        markers=("<|im_start|>", "<|im_end|>"),
        names={
            "context_image_token": "<IMG_CONTEXT>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "video_token": "<video>",
        },
        parts={"video_processor": ("InternVLVideoProcessor", SQUARE)},
        options={"image_seq_length": 4},
        begins=False,
    ),
    "idefics3": Processor("Idefics3Processor", {IMAGE: "<image>"}, ("Idefics3ImageProcessor", SPLIT), **IDEFICS),
    "smolvlm": Processor(
        "SmolVLMProcessor",
        {IMAGE: "<image>"},
        ("SmolVLMImageProcessor", SPLIT),
        parts={"video_processor": ("SmolVLMVideoProcessor", SPLIT)},
        **IDEFICS,
    ),
    "llava_onevision": Processor(
        "LlavaOnevisionProcessor",
        {IMAGE: "<image>", VIDEO: "<video>"},
        ("LlavaOnevisionImageProcessor", {**SQUARE, "image_grid_pinpoints": PINPOINTS}),
        picture="<image>\n",
        turn=("<|im_start|>user ", "<|im_end|><|im_start|>assistant\n"),
        markers=("<|im_start|>", "<|im_end|>"),
        names={"image_token": "<image>", "video_token": "<video>"},
        parts={"video_processor": ("LlavaOnevisionVideoProcessor", SQUARE)},
        options={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        begins=False,
    ),
    **dict.fromkeys(
        ("paligemma", "paligemma (Gemma 2: softcap, sliding window)"),
        Processor(
            "PaliGemmaProcessor",
            {IMAGE: "<image>"},
            ("SiglipImageProcessor", {**SQUARE, "image_seq_length": 16}),
            turn=("", ""),
            names={"image_token": "<image>"},
            begins=False,
            needs_image="`images` are expected as arguments",
            note="beside rows with an image, it writes the beginning token into the text of a row without",
        ),
    ),
    "got_ocr2": Processor(
        "GotOcr2Processor",
        {IMAGE: "<imgpad>", OPEN: "<img>", CLOSE: "</img>"},
        ("GotOcr2ImageProcessor", {"size": {"height": 256, "width": 256}}),
        picture="<img><imgpad></img>\n",
        turn=("<|im_start|>user\n", "<|im_end|><|im_start|>assistant\n"),
        markers=("<|im_start|>", "<|im_end|>"),
        # The processor always writes 256 image tokens: 64 x 64 patches, merged 4 x 4. The default range is 1e-10.
        config={
            "vision_config": {"patch_size": 4, "global_attn_indexes": [], "initializer_range": 0.02},
            "text_config": {"max_position_embeddings": 2048},
        },
        begins=False,
        flat=True,
        needs_image="You must provide valid `images`",
        seed=4,
    ),
}

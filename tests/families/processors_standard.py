"""The real processors of the families in `standard`."""

from typing import Any

from tests.families.build import CLOSE, IMAGE, MARK, OPEN, VIDEO
from tests.families.checkpoint import CHATML_MARKERS, CHATML_TURN, Processor
from tests.families.standard import PINPOINTS

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
LLAVA: dict[str, Any] = {
    "picture": "<image>\n",
    "options": {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
}
COHERE_TURN = (
    "{{ bos_token }}<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
    "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
)
COHERE_MARKERS = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>")

PROCESSORS: dict[str, Processor] = {
    "llava": Processor(
        "LlavaProcessor",
        {IMAGE: "<image>"},
        ("LlavaImageProcessor", CROPPED),
        names={"image_token": "<image>"},
        **LLAVA,
    ),
    "vipllava": Processor(
        "LlavaProcessor",
        {IMAGE: "<image>"},
        ("CLIPImageProcessor", CROPPED),
        turn=("###Human: ", "###Assistant:"),
        names={"image_token": "<image>"},
        **LLAVA,
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
        generation={"cache_implementation": "hybrid", "do_sample": True, "top_k": 64, "top_p": 0.95},
    ),
    "llava_next": Processor(
        "LlavaNextProcessor",
        {IMAGE: "<image>"},
        ("LlavaNextImageProcessor", {**CROPPED, "image_grid_pinpoints": PINPOINTS}),
        turn=("[INST] ", " [/INST]"),
        names={"image_token": "<image>"},
        **LLAVA,
    ),
    "llava_next_video": Processor(
        "LlavaNextVideoProcessor",
        {IMAGE: "<image>", VIDEO: "<video>"},
        ("LlavaNextImageProcessor", {**CROPPED, "image_grid_pinpoints": PINPOINTS}),
        parts={"video_processor": ("LlavaNextVideoVideoProcessor", CROPPED)},
        seed=4,
        **LLAVA,
    ),
    "video_llava": Processor(
        "VideoLlavaProcessor",
        {IMAGE: "<image>", VIDEO: "<video>"},
        ("VideoLlavaImageProcessor", CROPPED),
        parts={"video_processor": ("VideoLlavaVideoProcessor", CROPPED)},
        **LLAVA,
    ),
    "internvl": Processor(
        "InternVLProcessor",
        {IMAGE: "<IMG_CONTEXT>", OPEN: "<img>", CLOSE: "</img>", VIDEO: "<video>"},
        ("GotOcr2ImageProcessor", {**SQUARE, "min_patches": 1, "max_patches": 3}),
        picture="<IMG_CONTEXT>\n",
        turn=CHATML_TURN,
        markers=CHATML_MARKERS,
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
    "qianfan_ocr": Processor(
        "QianfanOCRProcessor",
        {IMAGE: "<IMG_CONTEXT>", OPEN: "<img>", CLOSE: "</img>"},
        ("GotOcr2ImageProcessor", {**SQUARE, "min_patches": 1, "max_patches": 3}),
        placeholder="<image>",
        picture="<image>\n",
        turn=CHATML_TURN,
        markers=CHATML_MARKERS,
        names={
            "context_image_token": "<IMG_CONTEXT>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
        },
        options={"image_seq_length": 4},
        begins=False,
    ),
    "aya_vision": Processor(
        "AyaVisionProcessor",
        {IMAGE: "<|IMG_PATCH|>", OPEN: "<|START_OF_IMG|>", CLOSE: "<|END_OF_IMG|>", MARK: "TILE_GLOBAL"},
        ("GotOcr2ImageProcessor", {**SQUARE, "min_patches": 1, "max_patches": 3}),
        turn=COHERE_TURN,
        markers=("<image>", *(f"TILE_{tile}" for tile in range(1, 4)), *COHERE_MARKERS),
        options={"patch_size": 8, "img_size": 32, "downsample_factor": 2},
        seed=4,
    ),
    "cohere2_vision": Processor(
        "Cohere2VisionProcessor",
        {
            IMAGE: "<|IMG_PATCH|>",
            OPEN: "<|START_OF_IMG|>",
            CLOSE: "<|END_OF_IMG|>",
            MARK: "<|IMG_LINE_BREAK|>",
        },
        # Its patch size counts the features on a tile's side.
        ("Cohere2VisionImageProcessor", {**SQUARE, "max_patches": 3, "patch_size": 2}),
        turn=COHERE_TURN,
        markers=COHERE_MARKERS,
        names={
            "image_token": "<|IMG_PATCH|>",
            "boi_token": "<|START_OF_IMG|>",
            "eoi_token": "<|END_OF_IMG|>",
            "img_line_break_token": "<|IMG_LINE_BREAK|>",
        },
        seed=7,
    ),
    "idefics2": Processor(
        "Idefics2Processor",
        {IMAGE: "<image>"},
        ("Idefics2ImageProcessor", {"size": {"shortest_edge": 16, "longest_edge": 32}, "do_image_splitting": True}),
        turn=("User:", "<end_of_utterance>\nAssistant:"),
        markers=("<fake_token_around_image>", "<end_of_utterance>"),
        options={"image_seq_len": 4},
    ),
    "granite_docling": Processor(
        "GraniteDoclingProcessor",
        {IMAGE: "<image>"},
        ("GraniteDoclingImageProcessor", {**SQUARE, "max_patches": 4}),
        turn=("<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"),
        markers=(
            "<fake_token_around_image>",
            "<global-img>",
            "<|end_of_text|>",
            "<|start_of_role|>",
            "<|end_of_role|>",
            *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
        ),
        options={"image_seq_len": 4},
        config={"vision_config": {"scale_factor": 2, "deepstack_visual_indexes": [0, 1]}},
        begins=False,
        seed=8,
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
        markers=CHATML_MARKERS,
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
            note="in a batch with images, it writes the beginning token into the text of a row without one",
        ),
    ),
    "got_ocr2": Processor(
        "GotOcr2Processor",
        {IMAGE: "<imgpad>", OPEN: "<img>", CLOSE: "</img>"},
        ("GotOcr2ImageProcessor", {"size": {"height": 256, "width": 256}}),
        picture="<img><imgpad></img>\n",
        turn=("<|im_start|>user\n", "<|im_end|><|im_start|>assistant\n"),
        markers=CHATML_MARKERS,
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

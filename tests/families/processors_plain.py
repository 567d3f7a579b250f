"""The real processors of the families in `plain`."""

from tests.families.build import CLOSE, IMAGE, OPEN
from tests.families.checkpoint import Processor

SQUARE = {"size": {"height": 32, "width": 32}}
CROPPED = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}

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
}

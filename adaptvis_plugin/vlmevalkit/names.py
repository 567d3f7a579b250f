"""What this plugin adds to VLMEvalKit, by name. Imports nothing of VLMEvalKit."""

from adaptvis_plugin.methods import METHODS

TASKS = {
    "WhatsUp_Controlled_A": "whatsup_controlled_a",
    "WhatsUp_Controlled_B": "whatsup_controlled_b",
    "WhatsUp_COCO_One": "whatsup_coco_one",
    "WhatsUp_COCO_Two": "whatsup_coco_two",
    "WhatsUp_VG_One": "whatsup_vg_one",
    "WhatsUp_VG_Two": "whatsup_vg_two",
    "WhatsUp_Demo": "whatsup_demo",
    "VSR_QA": "vsr",
}
"""Data set -> the task whose preset settings it has.

No name is the beginning of another, nor holds one that VLMEvalKit treats specially: it looks for both in file names."""

CHECKPOINTS = {
    "llava_v1.5_7b": "llava-hf/llava-1.5-7b-hf",
    "llava_v1.5_13b": "llava-hf/llava-1.5-13b-hf",
    "llava_v1.6_vicuna_7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "llava_v1.6_vicuna_13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
    "llava_v1.6_mistral_7b": "llava-hf/llava-v1.6-mistral-7b-hf",
    "demo": "demo",
    "vlm": None,
}
"""Beginning of the model names -> checkpoint; `vlm` stands for any, given as pretrained=..."""

PAPER_TOKENS = {name: 100 if name == "VSR_QA" else 16 for name in TASKS}
"""Longest answer in tokens, as in this plugin's lmms-eval tasks."""

OTHER_TOKENS = 512
"""Longest answer to the questions of other data sets."""


def model_names() -> dict[str, dict[str, str]]:
    """Every model this plugin adds, with the arguments that make it."""
    return {
        f"{name}_{method}": {"method": method, **({"pretrained": checkpoint} if checkpoint else {})}
        for name, checkpoint in CHECKPOINTS.items()
        for method in METHODS
    }


def table_of(dataset: str) -> str:
    """The prepared table behind a data set."""
    return TASKS[dataset].removeprefix("whatsup_")

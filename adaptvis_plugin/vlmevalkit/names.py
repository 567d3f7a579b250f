"""What this plugin adds to VLMEvalKit, by name. Imports nothing of VLMEvalKit."""

from adaptvis_plugin.data.dataset import DataSet
from adaptvis_plugin.data.registry import data_sets
from adaptvis_plugin.methods import METHODS

CHECKPOINTS = {
    "llava_v1.5_7b": "llava-hf/llava-1.5-7b-hf",
    "llava_v1.5_13b": "llava-hf/llava-1.5-13b-hf",
    "llava_v1.6_vicuna_7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "llava_v1.6_vicuna_13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
    "llava_v1.6_mistral_7b": "llava-hf/llava-v1.6-mistral-7b-hf",
    "demo": "demo",
    "vlm": None,
}
"""The first part of the model names -> the checkpoint; `vlm` is any checkpoint, given as pretrained=..."""

OTHER_TOKENS = 512
"""The longest answer to the questions of other data sets, in tokens."""


def registered_models() -> dict[str, dict[str, str]]:
    """Return every model that this plugin adds, with the arguments that make it."""
    return {
        f"{name}_{method}": {"method": method, **({"pretrained": checkpoint} if checkpoint else {})}
        for name, checkpoint in CHECKPOINTS.items()
        for method in METHODS
    }


def own_data_sets() -> dict[str, DataSet]:
    """Return this plugin's data sets by their names in VLMEvalKit."""
    return {data_set.vlmevalkit: data_set for data_set in data_sets().values()}

"""What VLMEvalKit itself adds to a model's arguments. Imports nothing of VLMEvalKit."""

import re
from typing import Any

from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.loading import check_checkpoint
from adaptvis_plugin.models.validation import parse_value
from adaptvis_plugin.vlmevalkit.names import OTHER_TOKENS, own_data_sets

NOT_HERE = {
    "trace": "here every answer is written to <model>_<data>_trace.jsonl in --work-dir, from which a run resumes; "
    "leave it out",
}
"""Arguments that have no use in VLMEvalKit -> why."""


def model_arguments(**given: Any) -> ModelArguments:
    """Check the arguments of a registered name, `--model-args` or a `--config` file, and the checkpoint.

    Raises:
        ValueError: If an argument is missing, unknown or unusable.
        OSError: If the checkpoint is a folder that is not complete.
    """
    for name, reason in NOT_HERE.items():
        if given.get(name) is not None:
            raise ValueError(f"{name}={given[name]!r}: {reason}")
    if given.get("pretrained") is None:
        raise ValueError("give the checkpoint: --model-args pretrained=NAME_OR_FOLDER, or pretrained=demo")
    arguments = ModelArguments(**given)
    check_checkpoint(arguments)
    return arguments


def preset_task(dataset: str) -> str:
    """Return the name under which a preset has settings for a data set: this plugin's task, or the data set's name."""
    own = own_data_sets().get(dataset)
    return own.task if own else dataset


def longest_answer(arguments: ModelArguments, dataset: str) -> int:
    """Return the longest answer on a data set, in tokens."""
    own = own_data_sets().get(dataset)
    return arguments.max_new_tokens or (own.max_new_tokens if own else OTHER_TOKENS)


def parse_model_args(text: str) -> dict[str, Any]:
    """Return `alpha=0.8,device=cpu` as a mapping; see `parse_value`.

    Raises:
        ValueError: If a part is not NAME=VALUE, or a name comes twice.
    """
    found: dict[str, Any] = {}
    for part in re.split(r",(?![^{]*})", text):  # in braces a comma belongs to a value, as it does to lmms-eval
        name, equals, value = part.strip().partition("=")
        if not (name and equals and value):
            raise ValueError(
                f"--model-args {text!r}: {part!r} is not NAME=VALUE; write for example alpha=0.8,device=cpu"
            )
        if name in found:
            raise ValueError(f"--model-args {text!r}: {name} is given twice")
        found[name] = parse_value(value)
    return found

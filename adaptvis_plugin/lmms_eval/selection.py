"""Which of lmms-eval's tasks are swept: found by name, and checked by their files."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config, simple_parse_args_string

from adaptvis_plugin.lmms_eval.requests import generation_options
from adaptvis_plugin.models.validation import did_you_mean

OTHERS = {
    "generate_until_multi_round": "it asks in several rounds",
    "generate_until_agentic": "it asks in several rounds",
    "multiple_choice": "it scores given answers and generates none",
    "loglikelihood": "it scores given answers and generates none",
}
"""Kinds of tasks that cannot be swept -> why."""


def check_tasks(manager: TaskManager, names: Sequence[str], gen_kwargs: str) -> list[str]:
    """Return the tasks and groups that the names stand for; check by their files that they can be swept.

    Raises:
        ValueError: If one is unknown, does not generate one answer to one question, or asks for sampling.
    """
    if odd := [part for part in gen_kwargs.split(",") if part and "=" not in part]:
        raise ValueError(
            f"--gen-kwargs {gen_kwargs}: {odd[0]!r} is not NAME=VALUE; write for example max_new_tokens=16"
        )
    given = simple_parse_args_string(gen_kwargs)
    found: list[str] = []
    for name in names:
        if not (matching := manager.match_tasks([name])):
            raise ValueError(
                f"there is no task {name!r}; for tasks of your own give their folder: --include-path FOLDER"
                f"{did_you_mean(name, manager.all_tasks)}"
            )
        found += matching
    for name in found:
        for leaf, config in leaves(manager, name):
            kind = config.get("output_type", "generate_until")
            if kind != "generate_until":
                raise ValueError(f"task {leaf!r} cannot be swept: {OTHERS.get(kind, f'its output_type is {kind}')}")
            generation_options({**(config.get("generation_kwargs") or {}), **given}, leaf)
    return list(dict.fromkeys(found))


def leaves(manager: TaskManager, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the tasks that a name stands for, with what their files say, without loading any data."""
    entry = manager.task_index.get(name)
    if entry is None:
        return  # written out inside its group; lmms-eval will read it
    file = entry["yaml_path"]
    config = {} if file == -1 else load_yaml_config(file, mode="simple")
    if entry["type"] in ("task", "python_task"):
        yield name, config
        return
    members = config["task"] if entry.get("task", -1) == -1 else entry["task"]
    for member in members:
        yield from leaves(manager, member if isinstance(member, str) else member.get("task", ""))

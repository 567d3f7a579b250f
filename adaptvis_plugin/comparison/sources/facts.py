"""What the sources share: the names of data sets, the rows of a table, and the arguments of this package's models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from adaptvis_plugin.data import cache as tables
from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.registry import data_sets
from adaptvis_plugin.data.splits import whole_task

FACTS = ("question", "answer", "relation", "options", "set_id", "pair_id", "image_id", "split")


def table_name(task: str) -> str | None:
    """Return the name of the table of one of this package's tasks, of whichever split; None for any other task."""
    return next((own.name for own in data_sets().values() if own.task == whole_task(task)[0]), None)


@cache
def table_rows(name: str) -> tuple[dict[str, Any], ...] | None:
    """Return what a table says of each of its rows, without the pictures; None if it is not on this machine."""
    own = data_sets().get(name)
    try:
        if not (own and own.built_in) and tables.provenance(name) is None:
            return None
        from adaptvis_plugin.data import load_table

        table = load_table(name).select_columns(list(FACTS))
    except DataError:
        return None
    return tuple({**{to: row[name] for to, name in _NAMES.items()}, "split": row["split"]} for row in table)


_NAMES = {
    "question": "question",
    "gold": "answer",
    "relation": "relation",
    "options": "options",
    "set_id": "set_id",
    "pair_id": "pair_id",
    "image": "image_id",
}


def of_this_package(method: str, task: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a model's hyper-parameters and what else decides its answers, from the arguments that it was given.

    What the arguments leave to a preset is looked up in the presets of today.

    Args:
        method: The method's name.
        task: The task's name.
        arguments: The arguments of the model.
    """
    from adaptvis_plugin.methods import hyper_parameters
    from adaptvis_plugin.models.arguments import ModelArguments

    given = {name: value for name, value in arguments.items() if name in hyper_parameters(method)}
    known = {name: arguments[name] for name in ("prompt", "dtype", "revision") if arguments.get(name) is not None}
    try:
        complete = ModelArguments(method=method, **arguments)
        return complete.choose(task).settings, {**known, "prompt": complete.prompt}
    except ValueError:  # a preset that is no longer there, or another version's arguments
        return given, known

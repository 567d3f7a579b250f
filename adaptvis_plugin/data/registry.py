"""The list of data sets. A new one is a module of this folder and one name in `MODULES`."""

from functools import cache
from importlib import import_module

from adaptvis_plugin.data.dataset import DataSet

MODULES = ("whatsup", "vsr", "demo")
"""The modules, each with its data sets in `DATA_SETS`. A module with several gives its name to the group of them."""


@cache
def groups() -> dict[str, tuple[DataSet, ...]]:
    """The data sets of each module, in order."""
    return {name: tuple(import_module(f"adaptvis_plugin.data.{name}").DATA_SETS) for name in MODULES}


@cache
def data_sets() -> dict[str, DataSet]:
    """Every data set by the name of its table."""
    return {data_set.name: data_set for group in groups().values() for data_set in group}

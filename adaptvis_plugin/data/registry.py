"""The list of data sets. A new one is a module of this folder and one name in `MODULES`."""

from importlib import import_module

from adaptvis_plugin.data.dataset import DataSet, Scoring

MODULES = ("whatsup", "vsr", "demo")
"""The modules, each with its data sets in `DATA_SETS`. A module with several gives its name to the group of them."""


def data_sets() -> dict[str, DataSet]:
    """Return every data set by the name of its table."""
    return {data_set.name: data_set for members in _modules().values() for data_set in members}


def scoring_of(table: str) -> Scoring:
    """Return how the answers to a table's questions are judged. A user's folder has WhatsUp's form."""
    own = data_sets().get(table)
    return own.scoring if own else "whatsup"


def groups() -> dict[str, tuple[str, ...]]:
    """Return the names that stand for several tables: the modules with several data sets, and ``all``."""
    names = {module: tuple(each.name for each in members) for module, members in _modules().items()}
    return {**{module: members for module, members in names.items() if len(members) > 1}, "all": tuple(data_sets())}


def _modules() -> dict[str, tuple[DataSet, ...]]:
    return {name: tuple(import_module(f"adaptvis_plugin.data.{name}").DATA_SETS) for name in MODULES}

"""The entry point: tells lmms-eval about the models and the task folder.

lmms-eval loads it on every start, for every model, and an entry point that raises silently disables the plugins after
it. So nothing heavy is imported here: the model classes are named by path and imported when one is used.
"""

import importlib.util
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

from adaptvis_plugin.methods import IN_ENGINE, METHODS
from adaptvis_plugin.paths import TASK_FOLDER

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

REPLAY = "replay"
"""The prefix of the models that answer from a trace."""

ENGINE = "vllm"
"""The prefix of the models that answer through vLLM."""

FAMILIES = {"llava": "llava-hf/llava-1.5-7b-hf", "vlm": None, ENGINE: None, REPLAY: None}
"""The prefix of the model names -> the checkpoint if `pretrained` is not given."""

NOT_REPLAYED = ("constant", "dola", "yeshint")
"""Methods that no sweep has answers of: those without a strength, but for those that a sweep has by the way.

A test holds it to the classes of the methods, which cannot be imported here.
"""

log = logging.getLogger(__name__)

_CLASSES = "adaptvis_plugin.lmms_eval.models"
_TASKS_MODULE = "lmms_eval.tasks"


def model_names() -> list[str]:
    """Return every name that `lmms-eval --model` accepts from this plugin."""
    return [
        f"{family}_{method}"
        for family in FAMILIES
        for method in METHODS
        if not ((family == REPLAY and method in NOT_REPLAYED) or (family == ENGINE and method not in IN_ENGINE))
    ]


def register() -> "list[ModelManifest]":
    """Return one manifest for each model, and add the task folder: the entry point `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    paths = {name: f"{_CLASSES}.{name}" for name in model_names()}
    # `lmms-eval models` lists this dictionary, not the registry. The module loads its entry points while it is being
    # imported, so it is not yet an attribute of its package.
    sys.modules["lmms_eval.models"].AVAILABLE_CHAT_TEMPLATE_MODELS.update(paths)
    if _TASKS_MODULE in sys.modules:
        add_task_folder(sys.modules[_TASKS_MODULE])
        fail_at_once_without_data()
    else:
        # Importing it here would make commands that need no task many times slower.
        sys.meta_path.insert(0, _AfterTasksImport())
    return [ModelManifest(model_id=name, chat_class_path=path) for name, path in paths.items()]


class _AfterTasksImport:
    """One-shot meta path finder: adds the task folder when lmms-eval itself imports its tasks."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _TASKS_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                add_task_folder(module)
                fail_at_once_without_data()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def add_task_folder(tasks: ModuleType) -> None:
    """Let every TaskManager find this plugin's tasks: lmms-eval has no hook for that.

    lmms-eval's own tasks still come first, then the folders that the user includes.
    """
    manager: Any = tasks.TaskManager
    initialize = manager.initialize_tasks

    def initialize_tasks(self: Any, include_path: str | list[str] | None = None, include_defaults: bool = True) -> Any:
        own = [include_path] if isinstance(include_path, str) else list(include_path or [])
        warn_of_folder(sys.argv)
        with compiled_yaml(sys.modules["lmms_eval.utils"]):
            return initialize(self, include_path=[*own, str(TASK_FOLDER)], include_defaults=include_defaults)

    manager.initialize_tasks = initialize_tasks


@contextmanager
def compiled_yaml(utils: Any) -> Iterator[None]:
    """Let lmms-eval list its two thousand task files with PyYAML's compiled parser.

    Every command that needs a task reads all of them. In Python that takes longer than the import of torch. A file
    that the compiled parser refuses goes to the other, which has the last word. If PyYAML was built without the
    compiled one, nothing changes.

    Args:
        utils: The module `lmms_eval.utils`, which reads the files.
    """
    import yaml

    parser = getattr(yaml, "CFullLoader", None)
    if parser is None:
        yield
        return
    # A class of its own, because lmms-eval adds its `!function` to the loader.
    loader: Any = type("Loader", (parser,), {})

    def full_load(file: BinaryIO) -> Any:
        try:
            return yaml.load(file, loader)
        except yaml.YAMLError:
            file.seek(0)
            return yaml.full_load(file)

    def add_constructor(tag: str, constructor: Any) -> None:
        loader.add_constructor(tag, constructor)
        yaml.add_constructor(tag, constructor)

    before = utils.yaml
    utils.yaml = SimpleNamespace(full_load=full_load, add_constructor=add_constructor)
    try:
        yield
    finally:
        utils.yaml = before


def warn_of_folder(arguments: Sequence[str]) -> None:
    """Warn if lmms-eval will take a task's name for a folder of tasks, because there is a folder of that name."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for option, name in itertools.pairwise(words):
        if option == "--tasks" and Path(name).is_dir() and not any(Path(name).glob("*.yaml")):
            log.warning(
                "There is a folder %s, so lmms-eval reads --tasks %s as a folder of tasks, and finds none in it. Run "
                "the command from another folder, or rename this one.",
                Path(name).absolute(),
                name,
            )


def fail_at_once_without_data() -> None:
    """Show the user why data cannot be had.

    After any error, lmms-eval prepares a task's data again, up to five times, two seconds apart, and ends with
    `RetryError`. An error of this plugin's data will not go away in ten seconds, so it alone is raised at once.
    """
    from lmms_eval.api.task import ConfigurableTask

    from adaptvis_plugin.data.cache import DataError

    retrying: Any = getattr(getattr(ConfigurableTask, "download", None), "retry", None)
    if retrying is not None:
        before = retrying.retry
        retrying.retry = lambda state: before(state) and not isinstance(state.outcome.exception(), DataError)

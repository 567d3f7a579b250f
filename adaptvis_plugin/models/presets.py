"""Presets: a method's hyper-parameters per task, and the prompt they were found with, as YAML in `configs/`."""

import difflib
import logging
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from adaptvis_plugin.data.registry import data_sets
from adaptvis_plugin.methods import build_method, hyper_parameters
from adaptvis_plugin.paths import PRESET_FOLDER

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from adaptvis_plugin.decoding import Method

log = logging.getLogger(__name__)

ALIKE = 0.85
"""How alike two names of tasks are, as difflib counts, when one may be the other misspelt."""

PromptStyle = Literal["paper", "chat"]


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic takes it for 1 or 0, and YAML takes yes, no, on and off for one
        raise ValueError(f"give a number, not a truth value ({str(value).lower()})")
    return value


Values = dict[str, Annotated[float, BeforeValidator(_no_truth_value)]]


class Preset(BaseModel):
    r"""Settings of the methods for one model.

    Attributes:
        description: where the settings come from.
        pretrained: the checkpoints that use this preset when none is named.
        prompt: `paper` (the authors' wording, `<image>\nUSER: ... ASSISTANT:`) or `chat` (the model's own template).
        settings: task name (without `_val` or `_test`) -> method name -> hyper-parameters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    pretrained: tuple[str, ...] = ()
    prompt: PromptStyle = "chat"
    settings: dict[str, dict[str, Values]] = Field(default_factory=dict)

    @field_validator("settings")
    @classmethod
    def _complete(cls, settings: dict[str, dict[str, Values]]) -> dict[str, dict[str, Values]]:
        for task, methods in settings.items():
            _check_task(task)
            for name, values in methods.items():
                try:
                    build_method(name, values)
                except ValueError as error:
                    raise ValueError(f"{task}: {name}: {error}") from error
        return settings

    def values(self, task: str, method: str) -> Values:
        """The hyper-parameters of a method for a task; empty if the preset has none."""
        return dict(self.settings.get(_without_split(task), {}).get(method, {}))


def load_preset(name: str | Path) -> Preset:
    """Read a preset by the name of its file in `configs/`, or by the path of a YAML file of your own.

    Raises:
        ValueError: if there is none of that name, or the file does not describe one.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = PRESET_FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in PRESET_FOLDER.glob("*.yaml"))
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"unknown preset {str(name)!r}: presets are {', '.join(known)}, or the path of a YAML file.{hint}"
        )
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Preset.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: not a preset: {'; '.join(map(_readable, error.errors()))}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a preset, since it is not YAML: {' '.join(str(error).split())}") from error


def find_preset(pretrained: str) -> Preset | None:
    """The preset that names a checkpoint as its own, or None."""
    for path in sorted(PRESET_FOLDER.glob("*.yaml")):
        preset = load_preset(path)
        if pretrained in preset.pretrained:
            return preset
    return None


def choose_method(
    name: str, task: str, preset: Preset | None, overrides: Values, way_out: str = "preset=NAME"
) -> "Method":
    """A method for a task: the preset's hyper-parameters, each replaced where a value was given.

    Args:
        name: the method.
        task: name of the task, with or without `_val` or `_test`.
        preset: settings per task; None if there are none.
        overrides: hyper-parameters given by the user.
        way_out: how the user names a preset, for the error.

    Raises:
        ValueError: if a hyper-parameter has no value, or a wrong one.
    """
    values = {**(preset.values(task, name) if preset else {}), **overrides}
    missing = [parameter for parameter in hyper_parameters(name) if parameter not in values]
    if missing:
        source = "the preset has no settings" if preset else "there is no preset"
        near = difflib.get_close_matches(_without_split(task), preset.settings if preset else (), 1, ALIKE)
        raise ValueError(
            f"{name} on task {task!r}: {source} for it, so give {', '.join(missing)} (or another {way_out})"
            + (f"; it has some for {near[0]!r}" if near else "")
        )
    return build_method(name, values)


def _without_split(task: str) -> str:
    """The name under which a preset has a task."""
    return task.removesuffix("_val").removesuffix("_test")


def _check_task(task: str) -> None:
    """Check the name of a task in a preset.

    It may be a task of the framework or of the user's own, even one whose name is very like one of this plugin's. So
    only what is never looked up is refused, and a name that looks misspelt gets a warning.

    Raises:
        ValueError: for the name of a split, or VLMEvalKit's name for a task of this plugin.
    """
    tasks = {data_set.vlmevalkit: data_set.task for data_set in data_sets().values()}
    right = tasks.get(task) or _without_split(task)
    if right != task:
        raise ValueError(f"{task}: this key is never looked up; write {right}, which stands for its splits too")
    if task not in tasks.values() and (near := difflib.get_close_matches(task.casefold(), tasks.values(), 1, ALIKE)):
        _warn_of_misspelt(task, near[0])


@cache
def _warn_of_misspelt(task: str, near: str) -> None:
    log.warning("a preset has settings for the task %r, which is none of this plugin's; did you mean %r?", task, near)


def _readable(error: "ErrorDetails") -> str:
    """One of pydantic's errors as KEY: what is wrong."""
    place = ".".join(str(part) for part in error["loc"])
    given = "" if error["type"] == "value_error" else f" (it is {shorten(repr(error['input']), 60)})"
    return (f"{place}: " if place else "") + error["msg"].removeprefix("Value error, ") + given

"""Presets: the methods' hyper-parameters per task, and the prompt they were found with, as YAML in `configs/`."""

import difflib
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from adaptvis_plugin.data.registry import data_sets
from adaptvis_plugin.data.splits import whole_task
from adaptvis_plugin.methods import build_method, method_class, only_in_presets
from adaptvis_plugin.models.validation import did_you_mean, explain, parse_texts
from adaptvis_plugin.paths import PRESET_FOLDER

if TYPE_CHECKING:
    from adaptvis_plugin.decoding import Method

log = logging.getLogger(__name__)

ALIKE = 0.85
"""How alike two names of tasks are, as difflib counts it, if one may be the other misspelt."""

PromptStyle = Literal["paper", "chat"]

Values = dict[str, Any]
"""Hyper-parameters by name. Only the method knows which values are legal."""


class Preset(BaseModel):
    """Settings of the methods for one model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(description="a text: where the settings come from")
    pretrained: tuple[str, ...] = Field((), description="a list of the checkpoints that use this preset by default")
    prompt: PromptStyle = Field("chat", description="`paper` (the authors' wording) or `chat` (the model's template)")
    settings: dict[str, dict[str, Values]] = Field(
        default_factory=dict,
        description="hyper-parameters by task and method, as {vsr: {scalingvis: {alpha: 0.5}}}; tasks without `_val` "
        "or `_test`",
    )

    @field_validator("settings")
    @classmethod
    def _complete(cls, settings: dict[str, dict[str, Values]]) -> dict[str, dict[str, Values]]:
        for task, methods in settings.items():
            _check_task(task)
            for name, values in methods.items():
                # To YAML 1e-1 is text; on a command line it is a number, and so it is here.
                values.update(parse_texts(values))
                try:
                    build_method(name, values)
                except ValueError as error:
                    raise ValueError(f"settings.{task}.{name}: {error}") from error
        return settings

    def values(self, task: str, method: str) -> Values:
        """Return the hyper-parameters of a method for a task; empty if the preset has none."""
        return dict(self.settings.get(whole_task(task)[0], {}).get(method, {}))


def load_preset(name: str | Path) -> Preset:
    """Read a preset by the name of its file in `configs/`, or by the path of a YAML file of your own.

    Raises:
        ValueError: If there is no preset of that name, or the file does not describe one.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = PRESET_FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in PRESET_FOLDER.glob("*.yaml"))
        raise ValueError(
            f"unknown preset {str(name)!r}: presets are {', '.join(known)}, or the path of a YAML file"
            f"{did_you_mean(str(name), known)}"
        )
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Preset.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: not a preset: {explain(error, Preset)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a preset, because it is not YAML: {' '.join(str(error).split())}") from error


def find_preset(pretrained: str | None) -> Preset | None:
    """Return the preset that names a checkpoint as its own, or None."""
    for path in sorted(PRESET_FOLDER.glob("*.yaml")):
        preset = load_preset(path)
        if pretrained in preset.pretrained:
            return preset
    return None


def choose_method(name: str, task: str, preset: Preset | None, overrides: Values) -> "Method":
    """Return a method for a task: the preset's hyper-parameters, each replaced where a value was given.

    Args:
        name: The method.
        task: Name of the task, with or without `_val` or `_test`.
        preset: Settings per task; None if there are none.
        overrides: Hyper-parameters given by the user.

    Raises:
        ValueError: If a hyper-parameter has no value, or a wrong one.
    """
    own = preset.values(task, name) if preset else {}
    values = merged(own, overrides)
    if lacking := ", ".join(method_class(name).lacking(values)):
        source = "the preset has no settings" if preset else "there is no preset"
        source = f"the preset has only {', '.join(own)}" if own else source
        mapping = lacking in only_in_presets(name)
        tasks = [other for other, methods in preset.settings.items() if name in methods] if preset and not own else []
        near = difflib.get_close_matches(whole_task(task)[0], tasks, 1, ALIKE)
        raise ValueError(
            f"{name} on task {task!r}: {source} for it, so give "
            + (f"a preset=NAME that has {lacking}" if mapping else f"{lacking} (or another preset=NAME)")
            + (f"; it has some for {near[0]!r}" if near else "")
        )
    return build_method(name, values)


def merged(own: Values, overrides: Values) -> Values:
    """Return a preset's hyper-parameters, each replaced where the user gave a value.

    What the user says about where to steer, layers or heads, replaces all that the preset says about it.
    """
    from adaptvis_plugin.decoding.method import PLACES

    replaced = PLACES.keys() if PLACES.keys() & overrides.keys() else ()
    return {**{name: value for name, value in own.items() if name not in replaced}, **overrides}


def _check_task(task: str) -> None:
    """Check the name of a task in a preset.

    It may be a task of the framework or of the user, even if its name is very like one of this plugin's. So only a name
    that is never looked up is refused; one that looks misspelt gets a warning.

    Raises:
        ValueError: If it is the name of a split, or VLMEvalKit's name for a task of this plugin.
    """
    tasks = {data_set.vlmevalkit: data_set.task for data_set in data_sets().values()}
    right = tasks.get(task) or whole_task(task)[0]
    if right != task:
        raise ValueError(f"settings.{task}: this key is never looked up; write {right}, which covers its splits")
    if task not in tasks.values() and (near := difflib.get_close_matches(task.casefold(), tasks.values(), 1, ALIKE)):
        _warn_of_misspelt(task, near[0])


@cache
def _warn_of_misspelt(task: str, near: str) -> None:
    log.warning("a preset has settings for the task %r, which this plugin does not have; did you mean %r?", task, near)

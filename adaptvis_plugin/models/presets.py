"""Presets: a method's hyper-parameters per task, and the prompt they were found with, as YAML in `configs/`."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from adaptvis_plugin.methods import build_method, hyper_parameters
from adaptvis_plugin.paths import CONFIGS

if TYPE_CHECKING:
    from adaptvis_plugin.decoding import Method

PromptStyle = Literal["paper", "chat"]

Values = dict[str, float]


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
        for methods in settings.values():
            for name, values in methods.items():
                build_method(name, values)
        return settings

    def values(self, task: str, method: str) -> Values:
        """The hyper-parameters of a method for a task; empty if the preset has none."""
        base = task.removesuffix("_val").removesuffix("_test")
        return dict(self.settings.get(base, {}).get(method, {}))


def load_preset(name: str | Path) -> Preset:
    """Read a preset by the name of its file in `configs/`, or by the path of a YAML file of your own.

    Raises:
        ValueError: if there is none of that name, or the file does not describe one.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"unknown preset {str(name)!r}: presets are {', '.join(known)}, or the path of a YAML file.{hint}"
        )
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Preset.model_validate(content)
    except (yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"{path}: not a preset: {error}") from error


def find_preset(pretrained: str) -> Preset | None:
    """The preset that names a checkpoint as its own, or None."""
    for path in sorted(CONFIGS.glob("*.yaml")):
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
        raise ValueError(
            f"{name} on task {task!r}: {source} for it, so give {', '.join(missing)} (or another {way_out})"
        )
    return build_method(name, values)

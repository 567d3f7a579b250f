"""What a model of this plugin takes, described once: for both frameworks, their help and the errors."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from adaptvis_plugin.methods import METHODS, hyper_parameters, method_class, only_in_presets
from adaptvis_plugin.models.devices import SPREADS, device_map, device_of_rank
from adaptvis_plugin.models.presets import Preset, PromptStyle, Values, choose_method, find_preset, load_preset
from adaptvis_plugin.models.validation import did_you_mean, explain, positive

if TYPE_CHECKING:
    from adaptvis_plugin.decoding import Method

WHERE = (
    "layers, heads: where the coefficients apply, numbered from 0: layers=14, layers=14-18+22 or single "
    "heads=L17H3+L17H5; by default in every layer and head"
)
"""The help of the hyper-parameters that say so."""

DType = Literal["auto", "float32", "bfloat16", "float16", "float64"]


class ModelArguments(BaseModel):
    """Everything a model of this plugin takes, checked before any checkpoint is read.

    Every further argument is a hyper-parameter of the method, in place of the preset's. None counts as not given.

    Raises:
        ValueError: If an argument is missing, unknown or unusable; its description is part of the message.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    method: str = Field(description=f"one of {', '.join(f'`{name}`' for name in METHODS)}; the model's name says which")
    pretrained: str = Field(
        description="a name on the hub or a folder (`./` before a folder's name that is a number), or `demo` for the "
        "embedded model"
    )
    preset: InstanceOf[Preset] | None = Field(
        default_factory=lambda given: find_preset(given.get("pretrained")),
        description="the name of a preset in `configs/` or the path of a YAML file of your own; by default the preset "
        "that names the checkpoint",
    )
    prompt: PromptStyle = Field(
        default_factory=lambda given: given["preset"].prompt if given.get("preset") else "chat",
        description="`paper` (the authors' wording) or `chat` (the model's template); by default the preset's, else "
        "`chat`",
    )
    batch_size: int = Field(
        1,
        description="a whole number of at least 1: how many questions are answered at once; in lmms-eval the option "
        "`--batch_size`",
    )
    max_new_tokens: int | None = Field(
        None,
        description="a whole number of at least 1: the longest answer, in tokens; by default the data set's; in "
        "lmms-eval the option `--gen_kwargs max_new_tokens=N`",
    )
    dtype: DType = Field(
        "auto",
        description=f"one of {', '.join(f'`{name}`' for name in get_args(DType))}; `auto` is the checkpoint's",
    )
    device: str | None = Field(
        None,
        description="`cpu`, `cuda` or `cuda:N`: that device or an error; by default the first GPU, else the CPU; with "
        "several processes `cuda` is each one's own",
    )
    device_map: Any = Field(
        None,
        description="`cpu`, `cuda` or `cuda:N` as `device`, or one of "
        f"{', '.join(f'`{name}`' for name in SPREADS)} to spread the layers over the devices",
    )
    attn_implementation: str | None = Field(
        None,
        description="`eager`, `sdpa` or another of transformers' names: the attention kernel of the unsteered passes; "
        "by default transformers chooses",
    )
    revision: str | None = Field(
        None,
        description="a branch, a tag or a commit on the hub; a commit in full, because digits alone are a number",
    )
    trust_remote_code: bool = Field(
        False, description="`true` or `false`: whether code from the checkpoint may run; by default `false`"
    )

    trace: str | None = Field(
        None,
        description="a folder: every row is written there as soon as it is answered, and a run that was interrupted "
        "goes on from there; VLMEvalKit's models always do this, and do not take it",
    )

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise ValueError(explain(error, type(self))) from None

    @model_validator(mode="before")
    @classmethod
    def _names(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Check the names and the hyper-parameters, and leave out what is None."""
        if (method := given.get("method")) is not None:
            method_class(method)
            for name, value in given.items():
                if name not in cls.model_fields:
                    _check_hyper_parameter(method, name, value)
            method_class(method).check_together(given)
        return {name: value for name, value in given.items() if value is not None}

    @field_validator("preset", mode="before")
    @classmethod
    def _load(cls, value: Any) -> Any:
        return load_preset(value) if isinstance(value, str) else value

    @field_validator("batch_size", "max_new_tokens", mode="before")
    @classmethod
    def _count(cls, value: Any, info: ValidationInfo) -> int:
        return positive(str(info.field_name), value)

    @field_validator("trace")
    @classmethod
    def _folder(cls, value: str) -> str:
        if Path(value).is_file():
            raise ValueError(f"trace={value}: this is a file; give a folder")
        return value

    @field_validator("trust_remote_code", mode="before")
    @classmethod
    def _truth(cls, value: Any) -> Any:
        """Accept true and false as text too; Python would count any text as true."""
        known = {"true": True, "True": True, "false": False, "False": False}
        return known.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _placed(self) -> "ModelArguments":
        self.place()
        return self

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """Return every argument's description by its name, without the hyper-parameters."""
        return {name: str(field.description) for name, field in cls.model_fields.items()}

    @property
    def overrides(self) -> Values:
        """The hyper-parameters in place of the preset's."""
        return dict(self.model_extra or {})

    def choose(self, task: str) -> "Method":
        """Return the method with the hyper-parameters for a task.

        Raises:
            ValueError: If one has no value, or a wrong one.
        """
        return choose_method(self.method, task, self.preset, self.overrides)

    def place(self) -> Mapping[str, Any] | str:
        """Return the `device_map` of transformers' `from_pretrained`.

        Raises:
            ValueError: If two places are given; see also `choose_device`.
        """
        return device_map(*self._place())

    def of_rank(self, rank: int, ranks: int, kind: str) -> "ModelArguments":
        """Return the same arguments for one of several processes; see `device_of_rank`.

        Raises:
            ValueError: See `device_of_rank`.
        """
        device = device_of_rank(*self._place(), rank, ranks, kind)
        return self if device is None else self.model_copy(update={"device": device, "device_map": None})

    def _place(self) -> tuple[str, Any]:
        """Return the argument that says where the model goes, and what it says."""
        if self.device is not None and self.device_map is not None:
            raise ValueError(
                f"device={self.device!r} and device_map={self.device_map!r} both say where the model goes; give one"
            )
        return ("device", self.device) if self.device_map is None else ("device_map", self.device_map)


def _check_hyper_parameter(method: str, name: str, value: Any) -> None:
    """Check one hyper-parameter of the user's, whatever the others are.

    Raises:
        ValueError: If the method has no hyper-parameter of that name, or refuses the value.
    """
    known = hyper_parameters(method)
    if name in known:
        if value is not None:
            method_class(method).check(name, value)
        return
    others = [other for other in METHODS if name in hyper_parameters(other)]
    belongs = f". {name} belongs to {' and '.join(others)}"
    hint = belongs if others else did_you_mean(name, [*known, *ModelArguments.model_fields])
    raise ValueError(
        f"unknown model_args {name}={value!r}; the hyper-parameters of {method} are: {', '.join(known) or 'none'}{hint}"
    )


def argument_help(*methods: str, other: Mapping[str, str | None] = MappingProxyType({})) -> str:
    """Return one line for each argument, and one for the hyper-parameters of each of these methods.

    Args:
        *methods: The methods.
        other: Descriptions in place of the arguments' own; None for an argument that is not there.
    """
    described = {**ModelArguments.descriptions(), **other}
    lines = [f"{name}: {description}" for name, description in described.items() if description is not None]
    for method in methods:
        mappings = only_in_presets(method)
        if names := [name for name in hyper_parameters(method) if name not in mappings]:
            more = f" ({', '.join(mappings)}: only in a preset)" if mappings else ""
            lines.append(f"{', '.join(names)}: the hyper-parameters of {method}, in place of the preset's{more}")
    if any("layers" in hyper_parameters(method) for method in methods):
        lines.append(WHERE)
    return "\n".join(lines).replace("`", "")

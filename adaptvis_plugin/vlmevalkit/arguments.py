"""A model's arguments, checked without loading anything. Imports nothing of VLMEvalKit."""

import contextlib
from dataclasses import asdict, dataclass, fields
from typing import Any

from adaptvis_plugin.methods import METHODS
from adaptvis_plugin.models.loading import check_pretrained
from adaptvis_plugin.models.options import Loading
from adaptvis_plugin.models.runner import Setup, positive
from adaptvis_plugin.vlmevalkit.names import OTHER_TOKENS, own_data_sets


@dataclass(frozen=True, kw_only=True)
class Arguments(Loading):
    """What the model class takes, from a registered name, `--model-args` or a `--config` file.

    Attributes:
        setup: method, checkpoint, preset, prompt and hyper-parameters.
        max_new_tokens: longest answer; None for the data set's.
        batch_size: questions per batch.
    """

    setup: Setup
    max_new_tokens: int | None = None
    batch_size: int = 1

    @classmethod
    def parse(
        cls,
        method: str | None = None,
        pretrained: str | None = None,
        preset: str | None = None,
        prompt: str | None = None,
        **given: Any,
    ) -> "Arguments":
        """Check the user's arguments; those that are not fields can only be hyper-parameters of the method.

        Raises:
            ValueError: for one that is missing, unknown or unusable.
            OSError: if the checkpoint is a folder that is not complete.
        """
        if method is None:
            raise ValueError(f"give the method: one of {', '.join(METHODS)}")
        if pretrained is None:
            raise ValueError("give the checkpoint: --model-args pretrained=NAME_OR_FOLDER, or pretrained=demo")
        own = [field.name for field in fields(cls) if field.name != "setup"]
        values = {name: value for name, value in given.items() if name not in own}
        setup = Setup.create(method, pretrained, preset, prompt, values, ["pretrained", "preset", "prompt", *own])
        rest = {name: value for name, value in given.items() if name in own and value is not None}
        for name in ("max_new_tokens", "batch_size"):
            if name in rest:
                rest[name] = positive(name, rest[name])
        arguments = cls(setup=setup, **rest)
        check_pretrained(pretrained, arguments)
        return arguments

    def loading(self) -> dict[str, Any]:
        """The arguments of `load_model`."""
        return {field.name: getattr(self, field.name) for field in fields(Loading)}

    def task(self, dataset: str) -> str:
        """The name under which a preset has settings for a data set: this plugin's task, or the data set's own name."""
        own = own_data_sets().get(dataset)
        return own.task if own else dataset

    def tokens(self, dataset: str) -> int:
        """The longest answer on a data set."""
        own = own_data_sets().get(dataset)
        return self.max_new_tokens or (own.max_new_tokens if own else OTHER_TOKENS)

    def settings(self, dataset: str) -> dict[str, Any]:
        """All that decides the answers on a data set.

        Raises:
            ValueError: if a hyper-parameter has no value for it, or a wrong one.
        """
        method = self.setup.choose(self.task(dataset))
        return {
            "method": self.setup.method,
            **asdict(method),  # type: ignore[call-overload]  # every method is a dataclass
            "pretrained": self.setup.pretrained,
            "revision": self.revision,
            "prompt": self.setup.prompt,
            "dtype": self.dtype,
            "max_new_tokens": self.tokens(dataset),
        }


def parse_model_args(text: str) -> dict[str, Any]:
    """`alpha=0.8,device=cpu` as a mapping, with numbers and booleans for what looks like one, as lmms-eval does it.

    Raises:
        ValueError: if a part is not NAME=VALUE, or a name comes twice.
    """
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not (name and equals and value):
            raise ValueError(
                f"--model-args {text!r}: {part!r} is not NAME=VALUE; write for example alpha=0.8,device=cpu"
            )
        if name in found:
            raise ValueError(f"--model-args {text!r}: {name} is given twice")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    """A value from the command line; not by YAML, to which `no` is false, `1:30` is 90 and `1e-1` is text."""
    known = {"true": True, "True": True, "false": False, "False": False, "None": None}
    if text in known:
        return known[text]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text

"""What a decoding method is: a rule that maps the unsteered model's confidence to a coefficient per row."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from adaptvis_plugin.decoding.heads import Heads, head_names, layer_numbers, written

PLACES: dict[str, Callable[[str, Any], tuple[Any, ...]]] = {"layers": layer_numbers, "heads": head_names}
"""The hyper-parameters that say where a method steers -> how they are read."""


class Method(ABC):
    """A training-free steering method.

    A method is a frozen dataclass, and its fields are its hyper-parameters. It sees only the unsteered model's
    confidence and returns the coefficient alpha of every row. What alpha does to the attention is the same for all
    methods; see `adaptvis_plugin.decoding.rows`.

    Raises:
        ValueError: If a hyper-parameter has a value that `check` refuses.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every method is a dataclass
            self.check(field.name, getattr(self, field.name))
        _ = self.steered  # which raises if they contradict each other
        for name, read in PLACES.items():
            if (value := getattr(self, name, None)) is not None:
                object.__setattr__(self, name, read(name, value))  # in one form, whatever it was given as

    @classmethod  # noqa: B027  # not abstract: a method may accept any value
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the hyper-parameter may have that value, whatever the values of the others."""

    @classmethod
    def lacking(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the hyper-parameters that the method still needs beside these values: those without a default."""
        return [
            field.name
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # every method is a dataclass
            if field.name not in values and field.default is field.default_factory is dataclasses.MISSING
        ]

    @abstractmethod
    def choose(self, confidence: torch.Tensor) -> torch.Tensor:
        """Choose the coefficient of every row.

        Args:
            confidence: The unsteered model's probability of its most likely first answer token, shape (batch,), fp32.

        Returns:
            The coefficients, shape (batch,), fp32, on the same device.
        """

    def check_offered(self, row: str, options: Collection[str]) -> None:  # noqa: B027  # most methods need none
        """Raise ValueError, which names the row, unless the method can answer a question that offers these options."""

    @property
    def alphas(self) -> tuple[float, ...] | None:
        """Every coefficient that `choose` may return; None if that is not known beforehand.

        If they are known, one pass computes the first token under all of them (see `packing`). Otherwise the decoder
        makes two complete passes.
        """
        return None

    @property
    def steered(self) -> Heads:
        """Where the coefficients apply: by the hyper-parameters `layers` and `heads`, if the method has them."""
        return Heads.of(getattr(self, "layers", None), getattr(self, "heads", None))

    @property
    def places(self) -> dict[str, str]:
        """The hyper-parameters that say where it steers, each as one text: `{"layers": "14-18"}`; empty for everywhere.

        Two methods steer the same layers and heads if these are equal.
        """
        return {name: written(value) for name in PLACES if (value := getattr(self, name, None)) is not None}

    @property
    def settings(self) -> dict[str, Any]:
        """The hyper-parameters that have a value, as JSON and YAML can hold them and the constructor takes them."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]  # every method is a dataclass
        return {name: value for name, value in values.items() if value is not None} | self.places

    @property
    def added(self) -> float:
        """A constant that is added to the attention logits on the image in all rows of the prompt."""
        return 0.0


def check_place(name: str, value: Any) -> None:
    """Raise ValueError unless `value` names layers or heads, as the hyper-parameters `layers` and `heads` do."""
    if value is not None:
        PLACES[name](name, value)


def check_alpha(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a usable coefficient: finite and not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"{name}={value!r}: a coefficient on the attention logits must be a finite number >= 0 "
            "(below 1 smooths, 1 is the unsteered model, above 1 sharpens)"
        )


def check_finite(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: give a finite number")


def check_threshold(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a probability, as the confidence is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(
            f"{name}={value!r}: the confidence it is compared with is a probability, so give a value in [0, 1]"
        )

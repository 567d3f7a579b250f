"""What a decoding method is: a strength for each row, and the parts that say what is done with it."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import torch

from adaptvis_plugin.decoding.first_token import FirstToken
from adaptvis_plugin.decoding.heads import Heads, head_names, layer_numbers, written
from adaptvis_plugin.decoding.parts import AttentionEdit, Columns, EarlyExits, SecondStream

PLACES: dict[str, Callable[[str, Any], tuple[Any, ...]]] = {"layers": layer_numbers, "heads": head_names}
"""The hyper-parameters that say where a method steers -> how they are read."""


class Method(ABC):
    """A training-free decoding method.

    A method is a frozen dataclass, and its fields are its hyper-parameters. It chooses a strength for every row from
    what the unsteered model says about its first token, and says by its parts what is done with that strength:

    - `attention`: what happens to attention logits. By default those of the last prompt token on the image are
      multiplied by the strength, which is called alpha there (see `ScalingVis`);
    - `second`: a second stream, and how its logits are mixed in;
    - `exits`: what early layers contribute to the logits.

    Attributes:
        strength: The hyper-parameter that says how much, which a sweep varies; None if it is not one number.
        neutral: The strength that leaves the model as it is.
        published: Where the method acts if the user names neither layers nor heads.
        words: Words whose tokens the method must know in every row, beside the options that the row offers.

    Raises:
        ValueError: If a hyper-parameter has a value that `check` refuses.
    """

    strength: ClassVar[str | None] = None
    neutral: ClassVar[float] = 1.0
    published: ClassVar[Heads] = Heads()
    words: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every method is a dataclass
            self.check(field.name, getattr(self, field.name))
        self.check_together(vars(self))
        for name, read in PLACES.items():
            if (value := getattr(self, name, None)) is not None:
                object.__setattr__(self, name, read(name, value))  # in one form, whatever it was given as

    @classmethod  # noqa: B027  # not abstract: a method may accept any value
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the hyper-parameter may have that value, whatever the values of the others."""

    @classmethod
    def check_together(cls, values: Mapping[str, Any]) -> None:
        """Raise ValueError if values of several hyper-parameters, each of them legal, contradict each other."""
        Heads.of(values.get("layers"), values.get("heads"))

    @classmethod
    def lacking(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the hyper-parameters that the method still needs beside these values: those without a default."""
        return [
            field.name
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # every method is a dataclass
            if field.name not in values and field.default is field.default_factory is dataclasses.MISSING
        ]

    @abstractmethod
    def choose(self, first: FirstToken) -> torch.Tensor:
        """Choose the strength of every row.

        Args:
            first: What the unsteered model says about the first answer token of each row.

        Returns:
            The strengths, shape (batch,), fp32, on the same device.
        """

    @property
    def attention(self) -> AttentionEdit | None:
        """What happens to attention logits."""
        return AttentionEdit(scaled_image, heads=self.steered)

    @property
    def second(self) -> SecondStream | None:
        """What a second stream contributes."""
        return None

    @property
    def exits(self) -> EarlyExits | None:
        """What early layers contribute."""
        return None

    def asked(self, question: str) -> str:
        """Return a question as it is asked."""
        return question

    def first_logits(self, first: FirstToken) -> torch.Tensor:
        """Return the logits of the first token that decoding goes on with; see `FirstToken.logits`."""
        return first.logits

    def check_offered(self, row: str, options: Collection[str]) -> None:  # noqa: B027  # most methods need none
        """Raise ValueError, which names the row, unless the method can answer a question that offers these options."""

    @property
    def alphas(self) -> tuple[float, ...] | None:
        """Every strength that `choose` may return; None if that is not known beforehand.

        If they are known, and only the last prompt token is steered, one pass computes the first token under all of
        them (see `packing`). Otherwise the decoder makes two complete passes.
        """
        return None

    @property
    def steered(self) -> Heads:
        """Where attention is edited: by the hyper-parameters `layers` and `heads`, if the method has them."""
        named = Heads.of(getattr(self, "layers", None), getattr(self, "heads", None))
        return self.published if named.all else named

    @property
    def changes_logits(self) -> bool:
        """Whether it changes logits, beside or in place of attention."""
        return self.second is not None or self.exits is not None or self.changes_first_logits

    @property
    def changes_first_logits(self) -> bool:
        """Whether it changes those of the first token by a function of its own; see `first_logits`."""
        return type(self).first_logits is not Method.first_logits

    @property
    def shares_prefill(self) -> bool:
        """Whether one prefill serves every strength: if only the attention of the last prompt token differs in it."""
        edit = self.attention
        return edit is not None and edit.rows == "last" and not self.changes_logits

    @property
    def of_coefficients(self) -> bool:
        """Whether coefficients on the image are all that it does, so that a sweep over them has its answers."""
        own, edit = type(self), self.attention
        return (
            edit is not None and edit.change is scaled_image and not self.changes_logits and own.asked is Method.asked
        )

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


class FixedStrength(Method):
    """A method with the same strength for every row: that of its hyper-parameter `strength`, or 1 without one."""

    def choose(self, first: FirstToken) -> torch.Tensor:
        """Return the strength for every row, shape (batch,)."""
        return first.filled(self.fixed)

    @property
    def alphas(self) -> tuple[float, ...]:
        """The one strength."""
        return (self.fixed,)

    @property
    def fixed(self) -> float:
        """The one strength."""
        return 1.0 if self.strength is None else float(getattr(self, self.strength))


def scaled_image(logits: torch.Tensor, columns: Columns, alpha: torch.Tensor) -> torch.Tensor:
    """Return attention logits with those on the image times alpha (Chen et al., ICML 2025, eq. 3)."""
    return logits * torch.where(columns.image, alpha, 1.0)


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


def check_share(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a share: a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: give a number from 0 to 1")


def check_not_negative(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite number of at least 0."""
    check_finite(name, value)
    if value < 0:
        raise ValueError(f"{name}={value!r}: give a number of at least 0")


def check_whole(name: str, value: Any, least: int, most: int) -> None:
    """Raise ValueError unless `value` is a whole number within these bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}={value!r}: give a whole number from {least} to {most}")


def check_text(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a text with more than blanks."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}={value!r}: give a text")

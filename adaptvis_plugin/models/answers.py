"""What a model is asked, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from transformers import BatchFeature

from adaptvis_plugin.decoding.capture import OwnColumns


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt and its images.

    Attributes:
        text: The prompt as the processor takes it.
        images: Its images, in the order of its image tokens; RGB.
        name: What the user knows the row by, for errors: `vsr, document 7`.
        options: The answers that the question offers, as the data writes them; empty if it offers none.
        second: The prompt of the second stream, for a method that has one and asks another there.
    """

    text: str
    images: tuple[Image.Image, ...]
    name: str = ""
    options: tuple[str, ...] = ()
    second: str | None = None


@dataclass(frozen=True)
class Encoded:
    """What the processor makes of a batch of prompts.

    Attributes:
        inputs: The inputs of the model.
        second: Those of the second stream, if the method has one.
    """

    inputs: BatchFeature
    second: BatchFeature | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> "Encoded":
        """Return the same on a device, with floating point values of a type."""
        second = None if self.second is None else self.second.to(device, dtype=dtype)
        return Encoded(self.inputs.to(device, dtype=dtype), second)


@dataclass(frozen=True)
class Answer:
    """An answer's text, what the method measured and chose, and the tokens it took."""

    text: str
    confidence: float
    alpha: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Swept:
    """A row's answers under several coefficients, and what the first token's logits say.

    Attributes:
        answers: The answer under each coefficient, that of the unsteered model first. Its `alpha` is the coefficient
            that was applied: 1 in a row without an image.
        entropy: The entropy of the unsteered model's first token, in nats.
        top: The unsteered model's likeliest first tokens: id, text and log-probability, likeliest first.
        options: Under each coefficient, the probability of each offered option; see `OptionTokens`. Empty if there is
            none.
    """

    answers: Mapping[float, Answer]
    entropy: float
    top: Sequence[tuple[int, str, float]]
    options: Mapping[float, Mapping[str, float]]


@dataclass(frozen=True)
class Attended:
    """A row's answers, and where its last prompt token attends to.

    Attributes:
        swept: The answers under the coefficients.
        controls: The answer under each constant; see `AddedConstant`.
        columns: The attention under each coefficient, then under each constant.
    """

    swept: Swept
    controls: Mapping[float, Answer]
    columns: OwnColumns

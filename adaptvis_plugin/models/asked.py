"""A checkpoint as it is asked: what needs its processor and the arguments, and not the model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers import ProcessorMixin

from adaptvis_plugin.data.questions import PAPER_IMAGE, paper_prompt
from adaptvis_plugin.decoding import Method, Statistics
from adaptvis_plugin.decoding.parts import NoImage, OtherQuestion
from adaptvis_plugin.models.answers import Encoded, Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.identity import checkpoint_identity
from adaptvis_plugin.models.prompts import (
    chat_text,
    check_paper_fits,
    encode,
    paper_text,
    with_question,
    without_images,
)
from adaptvis_plugin.models.views import second_inputs


class AskedModel(ABC):
    """A checkpoint as the adapters ask it and describe it; a subclass has the model that answers.

    Args:
        arguments: The model's arguments.

    Attributes:
        arguments: The model's arguments.
        checkpoint: See `checkpoint_identity`, taken before the checkpoint is read.
        processor: As `load_processor` returns it; a subclass sets it.
        code: The files that decide an answer besides those of every model; see `code_identity`.
        decisive: What else was given that may change an answer.
    """

    code: ClassVar[tuple[str, ...]] = ()
    decisive: Mapping[str, Any] = MappingProxyType({})
    processor: ProcessorMixin

    def __init__(self, arguments: ModelArguments) -> None:
        self.arguments = arguments
        self.checkpoint = checkpoint_identity(arguments.pretrained)

    @property
    def revision(self) -> str | None:
        """The fingerprint of the checkpoint's folder, or its commit on the hub; None if unknown."""
        return self.checkpoint or self._commit

    @property
    def dtype(self) -> str:
        """The weights' type: `float32`."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the packages that compute answers."""
        return {name: version(name) for name in ("torch", "transformers")}

    @property
    @abstractmethod
    def stats(self) -> Statistics:
        """What was decoded so far."""

    @property
    @abstractmethod
    def computed(self) -> Sequence[Any]:
        """How answers are computed, as far as it may change them: types, devices, kernels."""

    @property
    @abstractmethod
    def _commit(self) -> str | None: ...

    @property
    @abstractmethod
    def _dtype(self) -> torch.dtype: ...

    @abstractmethod
    def check(self, method: Method) -> None:
        """Raise ValueError unless the model has what a method needs."""

    def render(self, messages: list[dict[str, Any]], question: str, prompt: str | None = None) -> str:
        """Return a question as the text the processor takes.

        Args:
            messages: The question as chat messages, for the model's own template.
            question: The question alone, for the paper's wording.
            prompt: The paper's whole prompt, if the data has one.

        Raises:
            ValueError: If the processor cannot render that style of prompt, or the paper's does not fit the question.
        """
        if self.arguments.prompt == "chat":
            return chat_text(self.processor, messages)
        check_paper_fits(messages)
        return paper_text(self.processor, prompt or paper_prompt(question))

    def prompt(
        self,
        method: Method,
        messages: list[dict[str, Any]],
        question: str,
        whole: str | None,
        images: tuple[Image.Image, ...],
        name: str,
        options: tuple[str, ...],
    ) -> Prompt:
        """Return a question as it is asked under a method.

        Args:
            method: The method, which may ask in another way, or beside it in a second stream.
            messages: See `render`.
            question: See `render`.
            whole: See `render`.
            images: The images; see `Prompt`.
            name: See `Prompt`.
            options: See `Prompt`.

        Raises:
            ValueError: See `render` and `with_question`.
        """
        text = self.render(messages, question, whole)
        texts = [part["text"] for message in messages for part in message["content"] if part["type"] == "text"]
        questions = [question, *texts[-1:]]
        second, view = None, None if method.second is None else method.second.view
        if isinstance(view, NoImage):
            if self.arguments.prompt == "chat":
                second = chat_text(self.processor, without_images(messages))
            else:
                second = (whole or paper_prompt(question)).replace(f"{PAPER_IMAGE}\n", "").replace(PAPER_IMAGE, "")
        elif isinstance(view, OtherQuestion):
            second = with_question(text, questions, view.asked)
        if type(method).asked is not Method.asked:
            text = with_question(text, questions, method.asked)
        return Prompt(text, images, name, options, second)

    def encode(self, prompts: Sequence[Prompt], method: Method | None = None) -> Encoded:
        """Do the processor's part of a batch, which a caller may do ahead, in another thread.

        Args:
            prompts: The batch.
            method: The method, if it may have a second stream.

        Raises:
            ValueError: See `prompts.encode` and `second_inputs`; the message names the rows.
        """
        texts, images = [p.text for p in prompts], [p.images for p in prompts]
        try:
            inputs = encode(self.processor, texts, images)
            part = None if method is None else method.second
            if part is None:
                return Encoded(inputs)
            return Encoded(
                inputs, second_inputs(self.processor, part, inputs, texts, [p.second for p in prompts], images)
            )
        except ValueError as error:
            raise ValueError(f"{named(prompts, range(len(prompts)))}: {error}") from error


def named(prompts: Sequence[Prompt], rows: Sequence[int]) -> str:
    """Return what the user knows rows by, the first three of them."""
    return listed([prompts[row].name or f"row {row}" for row in rows])


def listed(names: Sequence[str]) -> str:
    """Return the first three names, and how many more there are."""
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

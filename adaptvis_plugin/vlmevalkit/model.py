"""The model class. Import it through `register()`: this module imports VLMEvalKit."""

from collections.abc import Sequence
from typing import Any

from vlmeval.vlm import BaseModel

from adaptvis_plugin.data.questions import whole_prompt
from adaptvis_plugin.decoding import Method
from adaptvis_plugin.images import read_image
from adaptvis_plugin.models.answers import Answer, Prompt
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.vlmevalkit.arguments import longest_answer, model_arguments, preset_task

Message = list[dict[str, Any]]

UNNAMED = "(no data set)"


class SteeredVLM(BaseModel):
    """A Hugging Face vision-language model under one method, for data sets of images and text.

    Args:
        **arguments: See `ModelArguments`.

    Raises:
        ValueError: If an argument is unusable, before the checkpoint is read.
        OSError: If the checkpoint cannot be found or fetched.
    """

    INTERLEAVE = True
    allowed_types = ("text", "image")

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = model_arguments(**arguments)
        self.runner = Runner(self.arguments)

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """Answer one question, as VLMEvalKit's `generate` asks it."""
        return self.answer([self.prompt(message, dataset=dataset)], dataset)[0].text

    def answer(self, prompts: Sequence[Prompt], dataset: str | None = None) -> list[Answer]:
        """Answer a batch under the settings of a data set.

        Raises:
            ValueError: If the method has no settings for the data set.
            NonFiniteLogitsError: See `Runner.answer`.
        """
        longest = longest_answer(self.arguments, dataset or UNNAMED)
        return self.runner.answer(prompts, self._method(dataset), max_new_tokens=longest)

    def prompt(
        self, message: Any, name: str = "the question", options: tuple[str, ...] = (), dataset: str | None = None
    ) -> Prompt:
        """Return one of VLMEvalKit's messages as the runner takes it.

        Args:
            message: What `build_prompt` of a data set returns.
            name: What the user knows the question by, for errors.
            options: The answers that it offers.
            dataset: The data set.

        Raises:
            ValueError: If the message holds anything but images and text, an image cannot be read, or the paper's
                prompt does not fit; the error names the question.
        """
        try:
            return self._prompt(self._parts(message), self._method(dataset), name, options)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _method(self, dataset: str | None) -> Method:
        """Return the method with the settings of a data set."""
        return self.arguments.choose(preset_task(dataset or UNNAMED))

    def _parts(self, message: Any) -> Message:
        try:
            parts: Message | None = self.preproc_content(message)
        except AssertionError as error:  # it has no message
            raise ValueError(f"not a question of text and existing images: {message}") from error
        if parts is None:
            raise ValueError(f"not a message of VLMEvalKit: {message!r}")
        return parts

    def _prompt(self, message: Message, method: Method, name: str, options: tuple[str, ...]) -> Prompt:
        content: Message = []
        images = []
        for item in message:
            if item["type"] == "image":
                try:
                    images.append(read_image(item["value"]))
                except (OSError, SyntaxError, ValueError) as error:
                    raise ValueError(f"the image {item['value']} cannot be read ({error})") from error
                content.append({"type": "image"})
            elif item["type"] == "text":
                content.append({"type": "text", "text": item["value"]})
            else:
                raise ValueError(f"it holds {item['type']}; this model takes images and text")
        texts = "\n".join(part["text"] for part in content if part["type"] == "text")
        turn = [{"role": "user", "content": content}]
        return self.runner.prompt(method, turn, texts, whole_prompt(message), tuple(images), name, options)

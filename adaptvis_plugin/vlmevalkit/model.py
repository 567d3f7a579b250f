"""The model class. Import it through `register()`: this module imports VLMEvalKit."""

from collections.abc import Sequence
from typing import Any

from vlmeval.vlm import BaseModel

from adaptvis_plugin.data.questions import whole_prompt
from adaptvis_plugin.models.runner import Answer, Question, Runner, read_image
from adaptvis_plugin.vlmevalkit.arguments import Arguments

Message = list[dict[str, Any]]


class SteeredVLM(BaseModel):
    """A Hugging Face vision-language model under one method, for data sets of images and text.

    Args:
        **arguments: see `Arguments.parse`.

    Raises:
        ValueError: for an unusable argument, before the checkpoint is read.
        OSError: if the checkpoint cannot be found or fetched.
    """

    INTERLEAVE = True
    allowed_types = ("text", "image")

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = Arguments.parse(**arguments)
        self.runner = Runner(self.arguments.setup, **self.arguments.loading())

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """Answer one question, as VLMEvalKit's `generate` asks it."""
        return self.answer([self.question(message)], dataset)[0].text

    def answer(self, questions: Sequence[Question], dataset: str | None = None) -> list[Answer]:
        """Answer a batch of questions under the settings of a data set.

        Raises:
            ValueError: if the method has no settings for the data set.
            NonFiniteLogitsError: see `Runner.answer`.
        """
        name = dataset or "(no data set)"
        method = self.arguments.setup.choose(self.arguments.task(name))
        return self.runner.answer(questions, method, max_new_tokens=self.arguments.tokens(name))

    def question(self, message: Any, name: str = "the question") -> Question:
        """One of VLMEvalKit's messages as the runner takes it.

        Args:
            message: what `build_prompt` of a data set returns.
            name: what the user knows the question by, for errors.

        Raises:
            ValueError: if the message holds something else than images and text, an image cannot be read, or the
                paper's prompt does not fit; the text names the question.
        """
        try:
            return self._question(self._parts(message), name)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _parts(self, message: Any) -> Message:
        try:
            parts: Message | None = self.preproc_content(message)
        except AssertionError as error:  # which says nothing itself
            raise ValueError(f"not a question of text and existing images: {message}") from error
        if parts is None:
            raise ValueError(f"not a message of VLMEvalKit: {message!r}")
        return parts

    def _question(self, message: Message, name: str) -> Question:
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
        text = self.runner.render([{"role": "user", "content": content}], texts, whole_prompt(message))
        return Question(text, tuple(images), name)

"""The model class. Import it through `register()`: this module imports VLMEvalKit."""

from collections.abc import Sequence
from typing import Any

from vlmeval.vlm import BaseModel

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
        return self.answer([message], dataset)[0].text

    def answer(self, messages: Sequence[Any], dataset: str | None = None) -> list[Answer]:
        """Answer a batch of VLMEvalKit's messages under the settings of a data set.

        Raises:
            ValueError: if a message holds something else than images and text, or an image cannot be read, or the
                method has no settings for the data set.
        """
        name = dataset or "(no data set)"
        method = self.arguments.setup.choose(self.arguments.task(name))
        questions = [self._question(self._parts(message)) for message in messages]
        return self.runner.answer(questions, method, max_new_tokens=self.arguments.tokens(name))

    def _parts(self, message: Any) -> Message:
        try:
            parts: Message | None = self.preproc_content(message)
        except AssertionError as error:  # which says nothing itself
            raise ValueError(f"not a question of text and existing images: {message}") from error
        if parts is None:
            raise ValueError(f"not a message of VLMEvalKit: {message!r}")
        return parts

    def _question(self, message: Message) -> Question:
        content: Message = []
        images, texts, prompt = [], [], None
        for item in message:
            if item["type"] == "image":
                try:
                    images.append(read_image(item["value"]))
                except (OSError, SyntaxError, ValueError) as error:
                    raise ValueError(f"the image {item['value']} cannot be read ({error})") from error
                content.append({"type": "image"})
            elif item["type"] == "text":
                texts.append(item["value"])
                prompt = item.get("prompt")
                content.append({"type": "text", "text": item["value"]})
            else:
                raise ValueError(f"the question holds {item['type']}; this model takes images and text")
        text = self.runner.render([{"role": "user", "content": content}], "\n".join(texts), prompt)
        return Question(text, tuple(images))

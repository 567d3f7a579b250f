"""From a question and its images to what a model takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from adaptvis_plugin.data.questions import PAPER_IMAGE


def check_paper_fits(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that the paper's prompt can ask a question: one turn of the user's, an image and then text.

    Args:
        messages: The question as chat messages.

    Raises:
        ValueError: If it cannot. Anything else in the question would be left out or moved.
    """
    turns = [message["role"] for message in messages]
    kinds = [part["type"] for message in messages for part in message["content"]]
    if turns != ["user"]:
        found = f"these are {len(turns)} turns ({', '.join(turns) or 'none'})"
    elif kinds.count("image") != 1:
        found = f"this one holds {kinds.count('image') or 'no'} image{'s' * (kinds.count('image') > 1)}"
    elif kinds[0] != "image":
        found = f"this one is {', '.join(kinds)}"
    else:
        return
    raise ValueError(f"the paper's prompt is for one image and a question after it, and {found}; use prompt=chat")


def paper_text(processor: ProcessorMixin, prompt: str) -> str:
    """Return the paper's prompt with the model's own image token.

    Raises:
        ValueError: If the processor has no image token, or the prompt does not hold exactly one.
    """
    token = image_placeholder(processor)
    if token is None:
        name = type(processor).__name__
        raise ValueError(f"{name} has no image token to put into the paper's prompt; use prompt=chat")
    text = prompt.replace(PAPER_IMAGE, token)
    if text.count(token) != 1:
        raise ValueError(
            f"the paper's prompt is for one image, and with this question it holds {text.count(token)} image tokens "
            f"({text!r}); use prompt=chat"
        )
    return text


def chat_text(processor: ProcessorMixin, messages: list[dict[str, Any]]) -> str:
    """Render messages with the model's own chat template, ready for its answer.

    Raises:
        ValueError: If the checkpoint has no chat template.
    """
    if getattr(processor, "chat_template", None) is None:
        raise ValueError("the checkpoint has no chat template; use prompt=paper")
    text: str = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def with_question(text: str, questions: Sequence[str], asked: Callable[[str], str]) -> str:
    """Return a rendered prompt with its question asked in another way.

    Args:
        text: The prompt.
        questions: What the question may be, as it stands there; the first that does counts.
        asked: Maps the question to what is asked.

    Raises:
        ValueError: If none of them stands there.
    """
    for question in map(str.strip, questions):
        before, found, after = text.rpartition(question) if question else ("", "", "")
        if found:
            return before + asked(question) + after
    raise ValueError(
        f"the question {questions[0]!r} does not stand word for word in the rendered prompt {text!r}, so it cannot be "
        "asked in another way; use a method that leaves the question as it is"
    )


def without_images(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return chat messages without their images."""
    return [
        {**message, "content": [part for part in message["content"] if part["type"] != "image"]} for message in messages
    ]


def encode(processor: ProcessorMixin, texts: Sequence[str], images: Sequence[Sequence[Image.Image]]) -> BatchFeature:
    """Return a left-padded batch of prompts with their images, never truncated.

    Args:
        processor: As `load_model` returns it.
        texts: One prompt per row, with an image token for each of its images.
        images: The images of each row, in the order of the image tokens; RGB.

    Raises:
        ValueError: If a row's image tokens and images differ in number, or a checkpoint's own processor does not take
            a batch as transformers' processors do.
    """
    for row, (text, own) in enumerate(zip(texts, images, strict=True)):
        try:
            check_images(processor, text, own)
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from None
    # Nested by row: `apply_chat_template` gives images in no other way, so every processor has to take them like that.
    # A flat list is ambiguous: several processors take it for the images of one row. Only to GOT-OCR2, the one with
    # `multi_page`, a nested list is the pages of one document.
    flat = [image for own in images for image in own]
    given = flat if hasattr(processor, "multi_page") else [list(own) for own in images]
    special = {"add_special_tokens": False} if all(begins(processor.tokenizer, text) for text in texts) else {}
    try:
        batch: BatchFeature = processor(
            text=list(texts),
            images=given if flat else None,
            padding=True,
            truncation=False,
            return_tensors="pt",
            **special,
        )
    except (AttributeError, TypeError, ValueError) as error:
        cls = type(processor)
        if not flat or cls.__module__.startswith("transformers."):
            raise
        raise ValueError(
            f"{cls.__name__} of the checkpoint's own code failed on a batch in the form of transformers' processors, "
            f"`text` as a list and `images` as one list per row: {type(error).__name__}: {error}; use a checkpoint "
            "with a processor of transformers (often the one whose name ends in -hf)"
        ) from error
    return batch


def check_images(processor: ProcessorMixin, text: str, images: Sequence[Image.Image]) -> None:
    """Raise ValueError unless a prompt has an image token for each of its images."""
    token = image_placeholder(processor)
    if token is not None and text.count(token) != len(images):
        raise ValueError(
            f"the prompt holds {text.count(token)} image token(s) {token!r} for {len(images)} image(s): {text!r}"
        )


def begins(tokenizer: Any, text: str) -> bool:
    """Return whether a prompt has the beginning-of-sequence token already, so that no other may be put before it.

    Some chat templates write it; a second one would shift every position. Otherwise the processor knows whether its
    model wants one.
    """
    return tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)


def image_placeholder(processor: ProcessorMixin) -> str | None:
    """Return what stands for an image in a prompt. In Qianfan-OCR that is later replaced by `image_token`."""
    token: str | None = getattr(processor, "image_placeholder_token", getattr(processor, "image_token", None))
    return token

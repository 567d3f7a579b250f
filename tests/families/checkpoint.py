"""Checkpoint folders with a family's random model and its real processor, as a user would have them on disk.

The model keeps the token ids of `build`; its vocabulary grows to that of a real tokenizer: every printable character is
a word. What the processor and the model must agree on (patches, merging, markers) is declared per family in
`processors_standard`, `processors_mrope` and `processors_special`.
"""

import copy
import dataclasses
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, ProcessorMixin
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from tests.families.build import BOS, EOS, PAD, VOCABULARY, Family, random_model

SPECIAL = {PAD: "<pad>", BOS: "<s>", EOS: "</s>"}
UNKNOWN = "<unk>"
CHARACTERS = string.printable[:95] + "\n"

# A part of a processor: the name of its class in transformers, and the arguments it is made with.
Part = tuple[str, dict[str, Any]]


CHATML_TURN = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
CHATML_MARKERS = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Processor:
    """How a family's real processor is made.

    Attributes:
        name: The class in transformers.
        tokens: The text of each token that has an id in the family's config.
        image: Its image processor.
        picture: An image in a prompt of the chat template; the processor's image token unless given.
        placeholder: What stands for an image in a text given to the processor, if it is not its `image_token`.
        turn: What the chat template writes before and after a user's message; with `bos_token` if the family's own
            template writes it.
        markers: Further special tokens, which only the processor knows.
        characters: The words of the tokenizer, one character each.
        names: Attributes of the tokenizer that hold a token's text, as in its config.
        parts: Its other parts, by argument.
        options: Its other arguments.
        config: What the model's config needs beside the family's to agree with it; nested like the config.
        generation: What its published checkpoints have in their generation config beside tokens.
        begins: Whether the tokenizer puts the beginning token in front.
        seed: The seed of the random model, chosen so that its answers change when it is steered.
        flat: Whether it takes a batch's images only as one flat list, not nested by row.
        needs_image: What transformers says about a batch without any image, if the processor refuses one.
        note: What it cannot do, for the table.
    """

    name: str
    tokens: dict[int, str]
    image: Part
    picture: str | None = None
    placeholder: str | None = None
    turn: tuple[str, str] = ("USER: ", " ASSISTANT:")
    markers: tuple[str, ...] = ()
    characters: str = CHARACTERS
    names: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    begins: bool = True
    seed: int = 3
    flat: bool = False
    needs_image: str | None = None
    note: str = ""


def write(family: Family, declared: Processor, folder: Path) -> None:
    """Save the family's random model and real processor as one checkpoint."""
    processor = _processor(declared)
    processor.save_pretrained(folder)
    tokenizer = processor.tokenizer
    model = _model(family, declared, len(tokenizer))
    # A random model would write its markers, and an image token would need another image.
    model.generation_config.suppress_tokens = sorted(set(tokenizer.added_tokens_decoder) - {EOS})
    model.generation_config.update(**declared.generation)
    model.save_pretrained(folder)


def _tokenizer(declared: Processor) -> TokenizersBackend:
    special = {**SPECIAL, **declared.tokens}
    free = (i for i in range(10_000) if i not in special)
    words = {text: i for i, text in special.items()}
    words.update(zip((UNKNOWN, *declared.markers, *declared.characters), free, strict=False))
    backend = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    if declared.begins:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[BOS]} $A", special_tokens=[(SPECIAL[BOS], BOS)]
        )
    return TokenizersBackend(
        tokenizer_object=backend,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        unk_token=UNKNOWN,
        extra_special_tokens=[*declared.tokens.values(), *declared.markers],
        model_specific_special_tokens=declared.names,
    )


def _processor(declared: Processor) -> ProcessorMixin:
    def made(part: Part) -> Any:
        name, arguments = part
        return getattr(transformers, name)(**copy.deepcopy(arguments))

    parts = {argument: made(part) for argument, part in {"image_processor": declared.image, **declared.parts}.items()}
    tokenizer = _tokenizer(declared)
    cls: type[ProcessorMixin] = getattr(transformers, declared.name)
    processor: ProcessorMixin = cls(tokenizer=tokenizer, **parts, **declared.options)
    before, after = declared.turn
    picture = declared.picture or declared.placeholder or getattr(processor, "image_token")  # noqa: B009
    processor.chat_template = (
        "{% for message in messages %}" + before + "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + picture + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}" + after + "{% endif %}"
    )
    return processor


def _model(family: Family, declared: Processor, vocabulary: int) -> PreTrainedModel:
    config = _merged(_with_vocabulary(family.config, vocabulary), declared.config)
    model = random_model(dataclasses.replace(family, config=config), declared.seed)
    # A random model repeats the word it has just read. Here the next word must depend on what it attends to.
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.03)  # type: ignore[operator]
        for name, weight in model.get_decoder().named_parameters():
            if weight.ndim == 2 and any(part in name for part in ("v_proj", "o_proj")):
                weight.mul_(2)
    return model


def _with_vocabulary(config: dict[str, Any], size: int) -> dict[str, Any]:
    return {
        name: _with_vocabulary(value, size)
        if isinstance(value, dict)
        else size
        if "vocab_size" in str(name) and value == VOCABULARY
        else value
        for name, value in config.items()
    }


def _merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = {
        name: _merged(config[name], value) if isinstance(value, dict) and isinstance(config.get(name), dict) else value
        for name, value in changes.items()
    }
    return {**config, **merged}

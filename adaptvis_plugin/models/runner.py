"""A model under one method, as every framework's adapter uses it: questions with images in, answers out."""

import difflib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from PIL import Image
from transformers import BatchFeature, StoppingCriteriaList

from adaptvis_plugin.data.questions import paper_prompt
from adaptvis_plugin.decoding import Decoder, Method, NonFiniteLogitsError
from adaptvis_plugin.images import to_rgb
from adaptvis_plugin.methods import METHODS, hyper_parameters, method_class
from adaptvis_plugin.models.identity import checkpoint_identity
from adaptvis_plugin.models.loading import load_model
from adaptvis_plugin.models.options import check_text
from adaptvis_plugin.models.presets import Preset, PromptStyle, Values, choose_method, find_preset, load_preset
from adaptvis_plugin.models.prompts import chat_text, check_paper_fits, encode, paper_text
from adaptvis_plugin.models.stopping import StopStrings, before_stop

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What is asked of a model, checked before any checkpoint is read.

    Attributes:
        method: name of the method.
        pretrained: hub name, folder, or `demo`.
        preset: settings per task; None if there are none.
        prompt: `paper` or `chat`.
        overrides: hyper-parameters in place of the preset's.
    """

    method: str
    pretrained: str
    preset: Preset | None
    prompt: PromptStyle
    overrides: Values

    @classmethod
    def create(
        cls,
        method: str,
        pretrained: str,
        preset: str | None,
        prompt: str | None,
        values: Mapping[str, Any],
        arguments: Sequence[str] = (),
    ) -> "Setup":
        """Check the user's arguments.

        Args:
            method: name of the method.
            pretrained: hub name, folder, or `demo`.
            preset: name or path of a preset; None for the one that names the checkpoint.
            prompt: `paper` or `chat`; None for the preset's, else `chat`.
            values: all further arguments, which can only be hyper-parameters; None is not given.
            arguments: names of the adapter's other arguments, to suggest one for a misspelt name.

        Raises:
            ValueError: for an unknown hyper-parameter, preset or prompt, or a value out of range.
        """
        known = hyper_parameters(method)
        for name, value in values.items():
            if name not in known:
                raise ValueError(_unknown(method, name, value, arguments))
        given = {name: value for name, value in values.items() if value is not None}
        for name, value in given.items():
            # A value out of range is one for every task: it is refused here, and not after the checkpoint was read.
            method_class(method).check(name, value)
        check_text("preset", preset, "the name of a preset or the path of a YAML file")
        found = find_preset(pretrained) if preset is None else load_preset(preset)
        style = prompt if prompt is not None else found.prompt if found else "chat"
        if style not in ("paper", "chat"):
            raise ValueError(f"prompt={style!r}: give paper (the authors' wording) or chat (the model's template)")
        return cls(method, pretrained, found, cast(PromptStyle, style), given)

    def choose(self, task: str) -> Method:
        """The method with the hyper-parameters for a task.

        Raises:
            ValueError: if one has no value, or a wrong one.
        """
        return choose_method(self.method, task, self.preset, self.overrides)


@dataclass(frozen=True)
class Question:
    """A rendered prompt and its images, in the order of its image tokens; RGB.

    `name` is what the user knows the row by, for errors: `vsr, document 7`.
    """

    text: str
    images: tuple[Image.Image, ...]
    name: str = ""


@dataclass(frozen=True)
class Answer:
    """An answer's text, what the method saw and did, and the tokens it took."""

    text: str
    confidence: float
    alpha: float
    input_tokens: int
    output_tokens: int


class Runner:
    """A loaded model that answers batches of questions.

    Args:
        setup: what is asked of it.
        **loading: see `load_model`.

    Attributes:
        checkpoint: see `checkpoint_identity`; as it was when the model was loaded.
        most_rows: the most rows that are decoded at once; shrinks when memory runs out.
    """

    def __init__(self, setup: Setup, **loading: Any) -> None:
        self.setup = setup
        self.checkpoint = checkpoint_identity(setup.pretrained)
        self.model, self.processor = load_model(setup.pretrained, **loading)
        self.decoder = Decoder(self.model)
        self.most_rows = sys.maxsize

    def render(self, messages: list[dict[str, Any]], question: str, prompt: str | None = None) -> str:
        """A question as the text the processor takes.

        Args:
            messages: the question as chat messages, for the model's own template.
            question: the question alone, for the paper's wording.
            prompt: the paper's whole prompt, where the data has one.

        Raises:
            ValueError: if the processor cannot render that style of prompt, or the paper's does not fit the question.
        """
        if self.setup.prompt == "chat":
            return chat_text(self.processor, messages)
        check_paper_fits(messages)
        return paper_text(self.processor, prompt or paper_prompt(question))

    def encode(self, questions: Sequence[Question]) -> BatchFeature:
        """The processor's part of a batch, which a caller may do ahead, in another thread.

        Raises:
            ValueError: see `prompts.encode`.
        """
        return encode(self.processor, [q.text for q in questions], [q.images for q in questions])

    def answer(
        self, questions: Sequence[Question], method: Method, encoded: BatchFeature | None = None, **generation: Any
    ) -> list[Answer]:
        """Decode a batch; a stop string ends an answer and is not part of it.

        A batch that does not fit into memory is decoded in halves, and so are all later ones of its size; a row's
        answer does not depend on the rows beside it.

        Args:
            questions: the batch.
            method: see `Setup.choose`.
            encoded: the batch as `encode` returns it, if that was done ahead.
            **generation: see `Decoder.generate`, but of `stop_strings` see `StopStrings`. Those of the checkpoint's
                generation config hold too.

        Raises:
            ValueError: see `encode` and `Decoder.generate`.
            NonFiniteLogitsError: see `Decoder.generate`; the message names the questions.
            RuntimeError: if a single row does not fit into memory.
        """
        if len(questions) <= self.most_rows:
            try:
                return self._decode(encoded or self.encode(questions), method, **generation)
            except NonFiniteLogitsError as error:
                names = [questions[row].name or f"row {row}" for row in error.rows]
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                reason = str(error).removeprefix(f"rows {list(error.rows)}: ")
                raise NonFiniteLogitsError(f"{'; '.join(names[:3])}{more}: {reason}", error.rows) from error
            except RuntimeError as error:
                if len(questions) == 1 or not should_reduce_batch_size(error):
                    raise
                self.most_rows = len(questions) // 2
                log.warning(
                    "%d rows do not fit into memory; going on with %d at a time", len(questions), self.most_rows
                )
        # Not in the handler: the error holds on to the tensors of the batch that did not fit.
        self.decoder.forget_prefixes()
        clear_device_cache(garbage_collection=True)
        rows = self.most_rows
        parts = [questions[start : start + rows] for start in range(0, len(questions), rows)]
        return [answer for part in parts for answer in self.answer(part, method, **generation)]

    def _decode(
        self, encoded: BatchFeature, method: Method, *, stop_strings: Sequence[str] = (), **generation: Any
    ) -> list[Answer]:
        inputs = encoded.to(self.model.device, dtype=self.model.dtype)
        own = self.model.generation_config.stop_strings or []
        stop_strings = [*stop_strings, *([own] if isinstance(own, str) else own)]
        if stop_strings:
            criterion = StopStrings(self.processor.tokenizer, stop_strings)
            generation["stopping_criteria"] = StoppingCriteriaList([criterion])
        out = self.decoder.generate(inputs, method, stop_strings=None, **generation)
        texts = self.processor.batch_decode(out.sequences, skip_special_tokens=True)
        lengths = _lengths(
            out.sequences, self.model.generation_config.eos_token_id, self.processor.tokenizer.pad_token_id
        )
        return [
            # The coefficient as it was given: the nearest fp32 number to 0.8 is 0.800000012.
            Answer(before_stop(text, stop_strings).strip(), confidence, round(alpha, 6), given, new)
            for text, confidence, alpha, given, new in zip(
                texts,
                out.confidence.tolist(),
                out.alpha.tolist(),
                inputs["attention_mask"].sum(1).tolist(),
                lengths,
                strict=True,
            )
        ]


def positive(name: str, value: Any) -> int:
    """A whole number of at least 1, as such or as text.

    Raises:
        ValueError: if it is not one.
    """
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or str(number) != str(value):
        raise ValueError(f"{name}={value!r}: give a whole number of at least 1")
    return number


def read_image(image: str | Image.Image) -> Image.Image:
    """An image, or the file of one, as RGB (see `to_rgb`).

    Raises:
        OSError, SyntaxError, ValueError: if it cannot be read.
    """
    if isinstance(image, str):
        with Image.open(image) as opened:
            return to_rgb(opened)
    return to_rgb(image)


def _unknown(method: str, name: str, value: Any, arguments: Sequence[str]) -> str:
    """What to say of an argument that is none of a method's hyper-parameters, nor of the adapter's own arguments."""
    known = hyper_parameters(method)
    others = [other for other in METHODS if name in hyper_parameters(other)]
    near = difflib.get_close_matches(name, [*known, *arguments], 1)
    hint = f". {name} is one of {others[0]}" if others else f". Did you mean {near[0]}?" if near else ""
    return (
        f"unknown model_args {name}={value!r}; the hyper-parameters of {method} are: {', '.join(known) or 'none'}{hint}"
    )


def _lengths(sequences: torch.Tensor, eos: int | list[int] | None, pad: int) -> list[int]:
    """Generated tokens per row: up to and with the end token, or without the padding that follows a stop string."""
    ends = set(eos) if isinstance(eos, list) else {eos}
    lengths = []
    for row in sequences.tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        while end > 1 and row[end - 1] == pad and pad not in ends:
            end -= 1
        lengths.append(end)
    return lengths

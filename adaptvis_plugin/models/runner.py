"""A loaded model as the adapters of all frameworks use it: prompts with images in, answers out."""

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from PIL import Image
from transformers import BatchFeature, StoppingCriteriaList

from adaptvis_plugin.data.questions import PAPER_IMAGE, paper_prompt
from adaptvis_plugin.decoding import AddedConstant, Calibrated, Decoded, Decoder, Method, NonFiniteLogitsError
from adaptvis_plugin.decoding.capture import own_columns
from adaptvis_plugin.decoding.first_token import Options
from adaptvis_plugin.decoding.parts import NoImage, OtherQuestion
from adaptvis_plugin.images import to_rgb
from adaptvis_plugin.models.answers import Answer, Attended, Encoded, Prompt, Swept
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.first_token import OptionTokens, entropy, top_tokens
from adaptvis_plugin.models.identity import checkpoint_identity
from adaptvis_plugin.models.loading import load_model
from adaptvis_plugin.models.prompts import (
    chat_text,
    check_paper_fits,
    encode,
    paper_text,
    with_question,
    without_images,
)
from adaptvis_plugin.models.stopping import StopStrings
from adaptvis_plugin.models.views import second_inputs

log = logging.getLogger(__name__)

T = TypeVar("T")


class Runner:
    """A loaded model that answers batches of prompts.

    Args:
        arguments: The model's arguments.

    Attributes:
        checkpoint: See `checkpoint_identity`, taken when the model was loaded.
        most_rows: The most rows that are decoded at once; shrinks when memory runs out.
    """

    def __init__(self, arguments: ModelArguments) -> None:
        self.arguments = arguments
        self.checkpoint = checkpoint_identity(arguments.pretrained)
        self.model, self.processor = load_model(arguments)
        self.decoder = Decoder(self.model)
        self._option_tokens = OptionTokens(self.processor.tokenizer)
        self.most_rows = sys.maxsize

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
            raise ValueError(f"{_names(prompts, range(len(prompts)))}: {error}") from error

    def answer(
        self, prompts: Sequence[Prompt], method: Method, encoded: Encoded | None = None, **generation: Any
    ) -> list[Answer]:
        """Decode a batch; a stop string ends an answer and is not part of it.

        A batch that does not fit into memory is decoded in halves, and so are all later ones of its size; a row's
        answer does not depend on the rows beside it.

        Args:
            prompts: The batch.
            method: See `ModelArguments.choose`.
            encoded: The batch as `encode` returns it, if that was done ahead.
            **generation: See `Decoder.generate`; for `stop_strings` see `StopStrings`. The stop strings of the
                checkpoint's generation config hold too.

        Raises:
            ValueError: See `Method.check_offered`, `encode` and `Decoder.generate`.
            NonFiniteLogitsError: See `Decoder.generate`; the message names the rows.
            RuntimeError: If a single row does not fit into memory.
        """
        for row, prompt in enumerate(prompts):
            self._check_options(method, prompt.name or f"row {row}", prompt.options)

        def decode(part: Sequence[Prompt], inputs: Encoded) -> list[Answer]:
            if isinstance(method, Calibrated):
                return self._pick(part, inputs, method, **generation)
            return self._decode(part, inputs, method, **generation)

        return self._in_parts(prompts, encoded, decode, method)

    def sweep(
        self,
        prompts: Sequence[Prompt],
        alphas: Sequence[float],
        encoded: Encoded | None = None,
        method: Method | None = None,
        **generation: Any,
    ) -> list[Swept]:
        """Decode a batch under several coefficients from one prefill; see `answer` and `Decoder.sweep`.

        Args:
            prompts: The batch.
            alphas: The coefficients; 1.0, or the neutral strength of the method, is always added.
            encoded: See `answer`.
            method: The method whose strength is swept; ScalingVis by default.
            **generation: See `answer`; and `layers` and `heads`, see `Decoder.sweep`.

        Raises:
            ValueError: See `encode` and `Decoder.sweep`.
            NonFiniteLogitsError: See `answer`.
            RuntimeError: See `answer`.
        """

        def decode(part: Sequence[Prompt], inputs: Encoded) -> list[Swept]:
            return self._sweep(part, inputs, alphas, method, **generation)

        return self._in_parts(prompts, encoded, decode, method)

    def attend(
        self,
        prompts: Sequence[Prompt],
        alphas: Sequence[float],
        constants: Sequence[float],
        encoded: Encoded | None = None,
        **options: Any,
    ) -> list[Attended]:
        """Decode a batch as `sweep` does, and under constants, and capture the last prompt token's attention.

        Args:
            prompts: The batch.
            alphas: The coefficients; 1.0 is always added.
            constants: What is added to the logits on the image, one after the other; see `AddedConstant`.
            encoded: See `answer`.
            **options: See `sweep`; `layers` and `heads` say where the coefficients apply.

        Raises:
            ValueError: See `sweep`.
            NonFiniteLogitsError: See `answer`.
            RuntimeError: See `answer`.
        """
        return self._in_parts(
            prompts, encoded, lambda part, inputs: self._attend(part, inputs, alphas, constants, **options)
        )

    def _in_parts(
        self,
        prompts: Sequence[Prompt],
        encoded: Encoded | None,
        decode: Callable[[Sequence[Prompt], Encoded], list[T]],
        method: Method | None = None,
    ) -> list[T]:
        """Decode a batch, in halves if it does not fit into memory; name the rows of an error."""
        if len(prompts) <= self.most_rows:
            try:
                given = encoded or self.encode(prompts, method)
                return decode(prompts, given.to(self.model.device, self.model.dtype))
            except NonFiniteLogitsError as error:
                reason = str(error).removeprefix(f"rows {list(error.rows)}: ")
                raise NonFiniteLogitsError(f"{_names(prompts, error.rows)}: {reason}", error.rows) from error
            except RuntimeError as error:
                if len(prompts) == 1 or not should_reduce_batch_size(error):
                    raise
                self.most_rows = len(prompts) // 2
                log.warning("%d rows do not fit into memory; going on with %d at a time", len(prompts), self.most_rows)
        # Not in the handler: the error still refers to the tensors of the batch that did not fit.
        self.decoder.forget_prefixes()
        clear_device_cache(garbage_collection=True)
        rows = self.most_rows
        parts = [prompts[start : start + rows] for start in range(0, len(prompts), rows)]
        return [found for part in parts for found in self._in_parts(part, None, decode, method)]

    def _decode(
        self,
        prompts: Sequence[Prompt],
        encoded: Encoded,
        method: Method,
        *,
        stop_strings: Sequence[str] = (),
        **generation: Any,
    ) -> list[Answer]:
        stop = self._stop(stop_strings)
        options = self._tokens_of_options(prompts, method)
        out = self.decoder.generate(
            encoded.inputs, method, second=encoded.second, options=options, **_stopping(stop), **generation
        )
        return self._answers(out, encoded.inputs, stop)

    def _sweep(
        self,
        prompts: Sequence[Prompt],
        encoded: Encoded,
        alphas: Sequence[float],
        method: Method | None,
        *,
        stop_strings: Sequence[str] = (),
        **generation: Any,
    ) -> list[Swept]:
        stop = self._stop(stop_strings)
        if method is not None:
            generation |= {"second": encoded.second, "options": self._tokens_of_options(prompts, method)}
        outs = self.decoder.sweep(encoded.inputs, alphas, method=method, **_stopping(stop), **generation)
        return self._swept(prompts, outs, encoded.inputs, stop)

    def _attend(
        self,
        prompts: Sequence[Prompt],
        encoded: Encoded,
        alphas: Sequence[float],
        constants: Sequence[float],
        *,
        stop_strings: Sequence[str] = (),
        layers: Any = None,
        heads: Any = None,
        **generation: Any,
    ) -> list[Attended]:
        inputs, stop = encoded.inputs, self._stop(stop_strings)
        options = {**_stopping(stop), **generation, "capture": True}
        outs = self.decoder.sweep(inputs, alphas, layers=layers, heads=heads, **options)
        under = {value: self.decoder.generate(inputs, AddedConstant(value), **options) for value in constants}
        controls = {value: self._answers(out, inputs, stop) for value, out in under.items()}
        weights = [out.attention for out in (*outs.values(), *under.values()) if out.attention is not None]
        columns = own_columns(inputs, weights, self.decoder.image_token_id)
        return [
            Attended(swept, {value: answers[row] for value, answers in controls.items()}, columns[row])
            for row, swept in enumerate(self._swept(prompts, outs, inputs, stop))
        ]

    def _swept(
        self, prompts: Sequence[Prompt], outs: Mapping[float, Decoded], inputs: BatchFeature, stop: StopStrings | None
    ) -> list[Swept]:
        plain = next(iter(outs.values())).first_logits
        offered = [prompt.options for prompt in prompts]
        answers = {alpha: self._answers(out, inputs, stop) for alpha, out in outs.items()}
        options = {
            alpha: self._option_tokens.log_probabilities(out.first_logits, offered) for alpha, out in outs.items()
        }
        entropies, top = entropy(plain).tolist(), top_tokens(plain, self.processor.tokenizer)
        return [
            Swept(
                {alpha: of_rows[row] for alpha, of_rows in answers.items()},
                entropies[row],
                top[row],
                {
                    alpha: {option: math.exp(value) for option, value in of_rows[row].items()}
                    for alpha, of_rows in options.items()
                    if of_rows[row]
                },
            )
            for row in range(len(prompts))
        ]

    def _stop(self, strings: Sequence[str]) -> StopStrings | None:
        """Return what ends an answer at these strings and at the checkpoint's own; None if there are none."""
        own = self.model.generation_config.stop_strings or []
        every = [*strings, *([own] if isinstance(own, str) else own)]
        return StopStrings(self.processor.tokenizer, every) if every else None

    def _answers(self, out: Decoded, inputs: BatchFeature, stop: StopStrings | None) -> list[Answer]:
        sequences = out.sequences.cpu()  # once: all that follows looks at single tokens
        texts = self.processor.batch_decode(sequences, skip_special_tokens=True)
        return [
            # Round alpha to what the user gave: the nearest fp32 number to 0.8 is 0.800000012.
            Answer((stop.before(text) if stop else text).strip(), confidence, round(alpha, 6), given, new)
            for text, confidence, alpha, given, new in zip(
                texts,
                out.confidence.tolist(),
                out.alpha.tolist(),
                inputs["attention_mask"].sum(1).tolist(),
                _lengths(sequences, self.model.generation_config.eos_token_id, stop),
                strict=True,
            )
        ]

    def _check_options(self, method: Method, name: str, options: tuple[str, ...]) -> None:
        method.check_offered(name, options)
        if isinstance(method, Calibrated) and self._option_tokens.of(options) is None:
            raise ValueError(
                f"{name}: with this model's tokenizer the first token of an answer does not tell its options "
                f"{', '.join(map(repr, options))} apart; use another method for this task"
            )

    def _tokens_of_options(self, prompts: Sequence[Prompt], method: Method) -> list[Options]:
        """Return the tokens that begin each row's options or, if the method asks for words, those of the words.

        Raises:
            ValueError: If the first token does not tell the words apart.
        """
        found: list[Options] = []
        for prompt in prompts:
            words = method.words or prompt.options
            tokens = self._option_tokens.of(words)
            if tokens is None and method.words:
                raise ValueError(
                    f"with this model's tokenizer the first token of an answer does not tell {' and '.join(words)} "
                    "apart; use another method"
                )
            found.append(dict(zip(words, tokens or (), strict=tokens is not None)))
        return found

    def _pick(self, prompts: Sequence[Prompt], encoded: Encoded, method: Calibrated, **generation: Any) -> list[Answer]:
        """Answer each row with one of its options, from the first token alone; no stop string can cut it."""
        inputs = encoded.inputs
        out = self.decoder.generate(inputs, method, **{**generation, "stop_strings": None, "max_new_tokens": 1})
        found = self._option_tokens.log_probabilities(out.first_logits, [prompt.options for prompt in prompts])
        return [
            Answer(method.answer({option: math.exp(value) for option, value in row.items()}), confidence, 1.0, given, 1)
            for row, confidence, given in zip(
                found, out.confidence.tolist(), inputs["attention_mask"].sum(1).tolist(), strict=True
            )
        ]


def _names(prompts: Sequence[Prompt], rows: Sequence[int]) -> str:
    """Return what the user knows rows by, the first three of them."""
    names = [prompts[row].name or f"row {row}" for row in rows]
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _stopping(stop: StopStrings | None) -> dict[str, Any]:
    """Return the options of `generate` for it; those of the checkpoint's config would look into the prompt too."""
    return {"stop_strings": None, **({"stopping_criteria": StoppingCriteriaList([stop])} if stop else {})}


def read_image(image: str | Path | Image.Image) -> Image.Image:
    """Return an image, given as such or as a file, in RGB (see `to_rgb`).

    Raises:
        OSError: If it cannot be read.
        SyntaxError: If it cannot be read.
        ValueError: If it cannot be read.
    """
    if isinstance(image, (str, Path)):
        with Image.open(image) as opened:
            return to_rgb(opened)
    return to_rgb(image)


def _lengths(sequences: torch.Tensor, ends: int | list[int] | None, stop: StopStrings | None) -> list[int]:
    """Return the generated tokens per row, without the padding after its end.

    Args:
        sequences: Generated tokens, shape (rows, tokens).
        ends: The tokens that end an answer.
        stop: What else ended it. Padding cannot tell: in many checkpoints the pad token is an end token.
    """
    known = set(ends) if isinstance(ends, list) else {ends}
    rows = [next((i + 1 for i, token in enumerate(row) if token in known), len(row)) for row in sequences.tolist()]
    return [min(length, stop.length(row)) if stop else length for length, row in zip(rows, sequences, strict=True)]

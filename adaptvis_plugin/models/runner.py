"""A loaded model as the adapters of all frameworks use it: prompts with images in, answers out."""

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import BatchFeature, StoppingCriteriaList

from adaptvis_plugin.decoding import (
    AddedConstant,
    Calibrated,
    Decoded,
    Decoder,
    Method,
    NonFiniteLogitsError,
    Statistics,
)
from adaptvis_plugin.decoding.capture import own_columns
from adaptvis_plugin.decoding.first_token import Options
from adaptvis_plugin.models.answers import Answer, Attended, Encoded, Prompt, Swept
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.asked import AskedModel, named
from adaptvis_plugin.models.first_token import OptionTokens, entropy, top_tokens
from adaptvis_plugin.models.loading import load_model
from adaptvis_plugin.models.stopping import StopStrings, texts_and_lengths

log = logging.getLogger(__name__)

T = TypeVar("T")


class Runner(AskedModel):
    """A loaded model that answers batches of prompts.

    Args:
        arguments: The model's arguments.

    Attributes:
        model: The model.
        decoder: What decodes with it.
        most_rows: The most rows that are decoded at once; shrinks when memory runs out.
    """

    def __init__(self, arguments: ModelArguments) -> None:
        super().__init__(arguments)
        self.model, self.processor = load_model(arguments)
        self.decoder = Decoder(self.model)
        self._option_tokens = OptionTokens(self.processor.tokenizer)
        self.most_rows = sys.maxsize

    @property
    def stats(self) -> Statistics:
        """What was decoded so far."""
        return self.decoder.stats

    @property
    def computed(self) -> Sequence[Any]:
        """The type of the weights, the kind of device and the attention kernel."""
        # From the model, not from its arguments: `auto` may mean anything, and the device may be given elsewhere.
        return [self.model.dtype, self.model.device.type, self.model.config._attn_implementation]

    @property
    def _commit(self) -> str | None:
        return getattr(self.model.config, "_commit_hash", None)

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.dtype

    def check(self, method: Method) -> None:
        """Check that the model has what a method needs; see `Decoder.check`.

        Raises:
            ValueError: If not.
        """
        self.decoder.check(method)

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
                raise NonFiniteLogitsError(f"{named(prompts, error.rows)}: {reason}", error.rows) from error
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
        return StopStrings.of(self.processor.tokenizer, strings, self.model.generation_config.stop_strings)

    def _answers(self, out: Decoded, inputs: BatchFeature, stop: StopStrings | None) -> list[Answer]:
        ends = self.model.generation_config.eos_token_id
        return [
            # Round alpha to what the user gave: the nearest fp32 number to 0.8 is 0.800000012.
            Answer(text, confidence, round(alpha, 6), given, new)
            for (text, new), confidence, alpha, given in zip(
                texts_and_lengths(self.processor, out.sequences.cpu(), ends, stop),
                out.confidence.tolist(),
                out.alpha.tolist(),
                inputs["attention_mask"].sum(1).tolist(),
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


def _stopping(stop: StopStrings | None) -> dict[str, Any]:
    """Return the options of `generate` for it; those of the checkpoint's config would look into the prompt too."""
    return {"stop_strings": None, **({"stopping_criteria": StoppingCriteriaList([stop])} if stop else {})}

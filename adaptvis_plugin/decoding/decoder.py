"""ScalingVis and AdaptVis at the cost of plain decoding: one prefill, a look at the confidence, one steered step.

In a causal decoder only the last prompt token is steered, so the keys and values of all earlier tokens do not depend
on alpha. The decoder therefore prefills once, plainly; reads the confidence off that pass; takes the last position back
out of the cache; runs that one token again with its row's alpha; and goes on with ordinary greedy decoding. The two
complete passes of the authors' code give the same logits (see tests/oracle.py) at more than twice the cost.

Where earlier tokens do see the last one (PaliGemma's prefix attends both ways), or the cache holds a state that cannot
be rolled back, a second complete pass is made, with only its last row steered. Which of the two a batch takes is read
off the masks and the cache of its plain pass.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import BatchFeature, GenerationConfig

from adaptvis_plugin.decoding.first_forward import FirstForward
from adaptvis_plugin.decoding.greedy import greedy_config, one_token
from adaptvis_plugin.decoding.inspection import inspect_model, unwrapped
from adaptvis_plugin.decoding.method import Method, check_alpha
from adaptvis_plugin.decoding.plain_pass import Plain, plain_pass
from adaptvis_plugin.decoding.prefix import SharedPrefixes

log = logging.getLogger(__name__)

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """What decoding a batch gives.

    Attributes:
        sequences: generated tokens without the prompt, padded after the end of a row; LongTensor (batch, new tokens).
        confidence: the plain model's probability of its most likely first token, unrounded; FloatTensor (batch,). It
            is the softmax of the model's raw logits (Chen et al., section 5: what the model itself thinks), before
            any logits processor. Where a checkpoint brings one (Qwen2.5-VL a repetition penalty of 1.05), greedy
            decoding's own scores are others, and so may be the token that is generated.
        alpha: coefficient applied to each row; FloatTensor (batch,).
        first_logits: logits of the first answer token under that alpha; FloatTensor (batch, vocabulary).
    """

    sequences: torch.Tensor
    confidence: torch.Tensor
    alpha: torch.Tensor
    first_logits: torch.Tensor


@dataclass
class Statistics:
    """What a decoder has done since it was made.

    Attributes:
        rows: prompts decoded.
        steered_on_cache: batches whose steered step ran on the cache of the plain pass.
        steered_anew: batches that needed a second complete pass for it.
        prefixes_reused: prompts whose image and beginning were not computed for them but for another prompt before.
    """

    rows: int = 0
    prefixes_reused: int = 0
    steered_on_cache: int = 0
    steered_anew: int = 0


class Decoder:
    """Steered greedy decoding for a Hugging Face image-text-to-text model.

    The model is used through its own `generate`, with its own attention kernel, cache and logits processors. Only
    during one single-token forward pass per batch is its text decoder's attention function another one (see
    `FirstForward`); between calls the model is as it was. One decoder at a time works on a model: calls from other
    threads wait. A plain forward of theirs meanwhile is the model's own, with sdpa or eager attention; flash attention
    takes other masks than the steered pass, so with it use one thread.

    Args:
        model: a model that steering is exact for; `inspection` says which, docs/families.md lists them. In eval mode.
            The wrappers of `torch.compile` and PEFT are taken off: what is decoded is the model inside, with its
            adapters, uncompiled.
        prefix_bytes: memory for the keys and values of images, and of what stands before them, that later batches
            may ask about again (see `prefix`); 0 shares nothing. By default a twentieth of the model's own size, so
            that peak memory stays near that of plain decoding.

    Attributes:
        stats: what was done so far.

    Raises:
        ValueError: if the model has no image token or its attention cannot be steered exactly; the message says why.

    Example:
        >>> with Decoder(model) as decoder:
        ...     inputs = processor(images=images, text=prompts, return_tensors="pt")
        ...     out = decoder.generate(inputs, ScalingVis(alpha=0.8))
    """

    def __init__(self, model: nn.Module, *, prefix_bytes: int | None = None) -> None:
        self.model = unwrapped(model)
        self._decoder = inspect_model(self.model)
        self.image_token_id = self._decoder.image_token_id
        self.stats = Statistics()
        self._told_of_bare_rows = False
        capacity = self.model.get_memory_footprint() // 20 if prefix_bytes is None else prefix_bytes
        self._prefixes = SharedPrefixes(self.model, capacity)
        with _locks_guard:
            self._lock = _locks.setdefault(self._decoder.module, threading.RLock())

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model, which is as it was before. A closed decoder cannot be used again."""
        del self.model, self._decoder, self._prefixes

    def forget_prefixes(self) -> None:
        """Free the memory that prefixes of earlier batches take."""
        self._prefixes.store.clear()

    @torch.inference_mode()
    def generate(
        self, inputs: BatchFeature | dict[str, Any], method: Method, *, max_new_tokens: int = 16, **generation: Any
    ) -> Decoded:
        """Decode a batch greedily under a method.

        Args:
            inputs: what the model's processor returns: `input_ids` and `attention_mask` of shape (batch, tokens), left
                padded, `pixel_values`, and whatever else the family needs. Image tokens are all the positions that
                hold the image placeholder, of any number of images. A row without any is decoded plainly, and
                the first such row is logged. Without a mask, pad tokens are masked as `generate` masks them.
            method: the rule that gives each row its coefficient.
            max_new_tokens: upper bound on the answer's length in tokens.
            **generation: further options of transformers' `generate`, such as `stop_strings` and `tokenizer`.

        Raises:
            ValueError: if the inputs are not left padded, the image tokens do not fit the images, another decoding
                mode than greedy is asked for, or the model is in train mode.
            NonFiniteLogitsError: if the logits of a row are not finite, as after an overflow in float16.
        """
        config, beside = greedy_config(self.model.generation_config, max_new_tokens, generation)
        with self._lock:
            how = (config, beside) if method.is_plain else one_token(config, beside)
            plain = self._prefill(inputs, *how, steered=not method.is_plain)
            confidence = plain.logits.softmax(-1).amax(-1)
            alpha = self._steerable(plain, method.choose(confidence))
            if method.is_plain:
                return Decoded(plain.sequences, confidence, alpha, plain.logits)
            return self._steer(plain, confidence, alpha, config, beside)

    @torch.inference_mode()
    def sweep(
        self,
        inputs: BatchFeature | dict[str, Any],
        alphas: Sequence[float],
        *,
        max_new_tokens: int = 16,
        **generation: Any,
    ) -> dict[float, Decoded]:
        """Decode a batch once for every coefficient, all from one prefill.

        Every ScalingVis is an entry, and every AdaptVis a row-wise choice between two entries by the confidence.

        Args:
            inputs: as for `generate`.
            alphas: the coefficients; 1.0, the plain model, is always added.
            max_new_tokens: as for `generate`.
            **generation: as for `generate`.

        Returns:
            The results by coefficient, 1.0 first, then in the order given.

        Raises:
            ValueError: as `generate`, and for a coefficient that is negative or not finite.
        """
        for value in alphas:
            check_alpha("alphas", value)
        config, beside = greedy_config(self.model.generation_config, max_new_tokens, generation)
        with self._lock:
            plain = self._prefill(inputs, config, beside, steered=any(alpha != 1 for alpha in alphas))
            confidence = plain.logits.softmax(-1).amax(-1)
            results = {1.0: Decoded(plain.sequences, confidence, torch.ones_like(confidence), plain.logits)}
            for value in dict.fromkeys(float(alpha) for alpha in alphas):
                if value not in results:
                    alpha = self._steerable(plain, torch.full_like(confidence, value))
                    results[value] = self._steer(plain, confidence, alpha, config, beside)
        return results

    def _prefill(
        self,
        inputs: BatchFeature | dict[str, Any],
        config: GenerationConfig,
        generation: dict[str, Any],
        *,
        steered: bool,
    ) -> Plain:
        self._refuse_train_mode()
        input_ids = inputs["input_ids"]
        attention_mask = _mask(inputs, config)
        length, limit = int(attention_mask.sum(1).max()), self._decoder.dynamic_rope_limit
        if steered and limit is not None and length > limit:
            raise ValueError(
                f"a prompt of {length} tokens: past {limit} positions this model's dynamic rope depends on what was "
                "decoded before, so that steering would not be exact; shorten the prompt, or load the checkpoint with "
                "another rope_type"
            )
        image_columns = input_ids == self.image_token_id
        if inputs.get("pixel_values") is not None and not bool(image_columns.any()):
            raise ValueError(
                f"images were given but no prompt holds the image token (id {self.image_token_id}); build the prompts "
                "with the processor's image token or chat template, and without truncation"
            )
        inputs = {**inputs, "attention_mask": attention_mask}
        self.stats.rows += len(input_ids)
        rows = self._prefixes.cut(inputs, image_columns)
        run = partial(plain_pass, self.model, self._decoder, steered=steered)
        if rows is not None and self._prefixes.tried:
            short, rest = one_token(config, generation)
            fill = partial(run, config=short, generation=rest, watch=True)
            begun = self._prefixes.begin(
                rows, cast(int, config.pad_token_id), lambda batch: fill(batch, steered=False).causal_cache
            )
            if begun is not None:
                plain = run(begun.inputs, config=config, generation=generation)
                if plain.cache is not None or not steered:
                    self.stats.prefixes_reused += begun.reused
                    return plain
                self._prefixes.give_up()
                rows = None
        plain = run(inputs, config=config, generation=generation, watch=rows is not None)
        if rows is not None:
            self._prefixes.keep(rows, plain.causal_cache, plain.inputs_embeds)
        return plain

    def _refuse_train_mode(self) -> None:
        if any(module.training for module in self.model.modules()):
            raise ValueError(
                f"{type(self.model).__name__} is in train mode, where dropout changes the answers; call model.eval()"
            )

    def _steerable(self, plain: Plain, alpha: torch.Tensor) -> torch.Tensor:
        """Set alpha to 1 in rows without an image, which nothing can steer, and say so once."""
        bare = ~plain.image_columns.any(1)
        if not self._told_of_bare_rows and bool((bare & (alpha != 1)).any()):
            self._told_of_bare_rows = True
            rows = bare.nonzero().flatten().tolist()
            # Not by `warnings`, which lmms-eval turns off.
            log.warning("rows %s hold no image token and, as all such rows, are decoded plainly (alpha 1)", rows)
        return alpha.masked_fill(bare, 1.0)

    def _steer(
        self,
        plain: Plain,
        confidence: torch.Tensor,
        alpha: torch.Tensor,
        config: GenerationConfig,
        generation: dict[str, Any],
    ) -> Decoded:
        gain = torch.where(plain.image_columns, alpha[:, None], 1.0)
        with FirstForward(self.model, self._decoder, gain) as first:
            output = cast(Any, self.model).generate(**plain.continuation(), generation_config=config, **generation)
        assert first.logits is not None
        if plain.cache is None:
            self.stats.steered_anew += 1
        else:
            self.stats.steered_on_cache += 1
        return Decoded(output.sequences[:, plain.image_columns.shape[1] :], confidence, alpha, first.logits)


def _mask(inputs: BatchFeature | dict[str, Any], config: GenerationConfig) -> torch.Tensor:
    """The attention mask as integers, of whatever type it was; what `generate` infers where there is none.

    Raises:
        ValueError: if it is not of the prompts' shape, or a row ends in padding.
    """
    input_ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if mask is None:
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        pad = config.pad_token_id
        mask = torch.ones_like(input_ids) if pad is None or pad in ends else input_ids != pad
    if mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)} and input_ids {tuple(input_ids.shape)}; give the mask that "
            "the processor returns, of shape (batch, tokens)"
        )
    if not bool(mask[:, -1].all()):
        rows = (mask[:, -1] == 0).nonzero().flatten().tolist()
        raise ValueError(f"rows {rows} end in padding; pad on the left (processor.tokenizer.padding_side = 'left')")
    # Of booleans and unsigned integers, a difference does not say where the padding ends.
    return (mask != 0).long()

"""ScalingVis and AdaptVis at the cost of plain decoding: one prefill, a look at the confidence, one steered step.

In a causal decoder only the last prompt token is steered, so the keys and values of all earlier tokens do not depend
on alpha. The decoder therefore prefills once, plainly; reads the confidence off that pass; takes the last position back
out of the cache; runs that one token again with its row's alpha; and goes on with ordinary greedy decoding. The two
complete passes of the authors' code give the same logits (see tests/oracle.py) at more than twice the cost.

Where earlier tokens do see the last one (PaliGemma's prefix attends both ways), or the cache holds a state that cannot
be rolled back, a second complete pass is made, with only its last row steered. Which of the two a batch takes is read
off the masks and the cache of its plain pass.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, cast

import torch
from transformers import BatchFeature, GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

from adaptvis_plugin.decoding.first_forward import FirstForward
from adaptvis_plugin.decoding.inspection import inspect_model
from adaptvis_plugin.decoding.method import Method, check_alpha
from adaptvis_plugin.decoding.plain_pass import Plain, plain_pass
from adaptvis_plugin.decoding.prefix import SharedPrefixes


@dataclass(frozen=True)
class Decoded:
    """What decoding a batch gives.

    Attributes:
        sequences: generated tokens without the prompt, padded after the end of a row; LongTensor (batch, new tokens).
        confidence: the plain model's probability of its most likely first token, unrounded; FloatTensor (batch,).
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

    The model is used through its own `generate`, with its own attention kernel, cache and generation config. Only
    during one single-token forward pass per batch is its text decoder's attention function another one (see
    `FirstForward`); between calls the model is as it was.

    Args:
        model: a model that steering is exact for; `inspection` says which, docs/families.md lists them.
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

    def __init__(self, model: PreTrainedModel, *, prefix_bytes: int | None = None) -> None:
        self.model = model
        self._decoder = inspect_model(model)
        self.image_token_id = self._decoder.image_token_id
        self.stats = Statistics()
        capacity = model.get_memory_footprint() // 20 if prefix_bytes is None else prefix_bytes
        self._prefixes = SharedPrefixes(model, capacity)

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model, which is as it was before. A closed decoder cannot be used again."""
        self.forget_prefixes()
        del self.model

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
                hold the image placeholder, of any number of images. A row without any is decoded plainly, with a
                warning.
            method: the rule that gives each row its coefficient.
            max_new_tokens: upper bound on the answer's length in tokens.
            **generation: further options of transformers' `generate`, such as `stop_strings` and `tokenizer`.

        Raises:
            ValueError: if the inputs are not left padded, the image tokens do not fit the images, or another
                decoding mode than greedy is asked for.
        """
        config = self._greedy(max_new_tokens, generation)
        plain = self._prefill(
            inputs, config if method.is_plain else self._one_token(config), generation, steered=not method.is_plain
        )
        confidence = plain.logits.softmax(-1).amax(-1)
        alpha = self._steerable(plain, method.choose(confidence))
        if method.is_plain:
            return Decoded(plain.sequences, confidence, alpha, plain.logits)
        return self._steer(plain, confidence, alpha, config, generation)

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
        config = self._greedy(max_new_tokens, generation)
        plain = self._prefill(inputs, config, generation, steered=any(alpha != 1 for alpha in alphas))
        confidence = plain.logits.softmax(-1).amax(-1)
        results = {1.0: Decoded(plain.sequences, confidence, torch.ones_like(confidence), plain.logits)}
        for value in dict.fromkeys(float(alpha) for alpha in alphas):
            if value not in results:
                alpha = self._steerable(plain, torch.full_like(confidence, value))
                results[value] = self._steer(plain, confidence, alpha, config, generation)
        return results

    def _greedy(self, max_new_tokens: int, generation: dict[str, Any]) -> GenerationConfig:
        """The model's generation config, made greedy; the caller's own wishes must already be."""
        config = copy.deepcopy(self.model.generation_config)
        config.update(do_sample=False, num_beams=1, num_return_sequences=1, temperature=None, top_p=None, top_k=None)
        config.update(max_new_tokens=max_new_tokens, max_length=None, return_dict_in_generate=True, use_cache=True)
        asked = copy.deepcopy(config)
        asked.update(**generation)
        if asked.get_generation_mode() != GenerationMode.GREEDY_SEARCH or asked.num_return_sequences != 1:
            options = ", ".join(f"{name}={value!r}" for name, value in generation.items())
            raise ValueError(
                f"{options}: the steering methods are defined for greedy decoding; leave sampling and beams out"
            )
        wishes = {"use_cache": asked.use_cache is not False, "past_key_values": "past_key_values" not in generation}
        wishes |= {name: getattr(asked, name) is None for name in ("cache_implementation", "prefill_chunk_size")}
        for name in (name for name, fits in wishes.items() if not fits):
            raise ValueError(
                f"{name}: the decoder fills a dynamic cache itself, in one piece; leave it out, and out of the model's "
                "generation_config"
            )
        if config.pad_token_id is None:
            eos = config.eos_token_id
            config.pad_token_id = eos[0] if isinstance(eos, list) else eos
        return config

    @staticmethod
    def _one_token(config: GenerationConfig) -> GenerationConfig:
        """The same config for the pass that only fills the cache: its token is never an answer."""
        config = copy.deepcopy(config)
        config.max_new_tokens = 1
        return config

    def _prefill(
        self,
        inputs: BatchFeature | dict[str, Any],
        config: GenerationConfig,
        generation: dict[str, Any],
        *,
        steered: bool,
    ) -> Plain:
        input_ids = inputs["input_ids"]
        attention_mask = inputs.get("attention_mask")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if not bool(attention_mask[:, -1].all()):
            rows = (attention_mask[:, -1] == 0).nonzero().flatten().tolist()
            raise ValueError(f"rows {rows} end in padding; pad on the left (processor.tokenizer.padding_side = 'left')")
        image_columns = input_ids == self.image_token_id
        if inputs.get("pixel_values") is not None and not bool(image_columns.any()):
            raise ValueError(
                f"images were given but no prompt holds the image token (id {self.image_token_id}); build the prompts "
                "with the processor's image token or chat template, and without truncation"
            )
        inputs = {**inputs, "attention_mask": attention_mask}
        self.stats.rows += len(input_ids)
        rows = self._prefixes.cut(inputs, image_columns)
        run = partial(plain_pass, self.model, self._decoder, generation=generation)
        if rows is not None and self._prefixes.tried:
            fill = partial(run, config=self._one_token(config), steered=False, watch=True)
            begun = self._prefixes.begin(rows, cast(int, config.pad_token_id), lambda batch: fill(batch).causal_cache)
            if begun is not None:
                plain = run(begun.inputs, config=config, steered=steered)
                if plain.cache is not None or not steered:
                    self.stats.prefixes_reused += begun.reused
                    return plain
                self._prefixes.give_up()
                rows = None
        plain = run(inputs, config=config, steered=steered, watch=rows is not None)
        if rows is not None:
            self._prefixes.keep(rows, plain.causal_cache, plain.inputs_embeds)
        return plain

    @staticmethod
    def _steerable(plain: Plain, alpha: torch.Tensor) -> torch.Tensor:
        """Set alpha to 1 in rows without an image, which nothing can steer, and say so."""
        bare = ~plain.image_columns.any(1)
        if bool((bare & (alpha != 1)).any()):
            rows = bare.nonzero().flatten().tolist()
            warnings.warn(f"rows {rows} hold no image token and are decoded plainly (alpha 1)", stacklevel=4)
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

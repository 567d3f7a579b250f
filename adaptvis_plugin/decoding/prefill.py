"""The unsteered pass over a batch, and how a steered pass goes on from it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedModel

from adaptvis_plugin.decoding.greedy import Greedy
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.recording import Recording, record


@dataclass
class Prefill:
    """What the unsteered pass over a batch gives, and all that a steered pass over the same batch needs.

    Attributes:
        inputs: What `generate` was given.
        cache: The filled cache if the last prompt token can be run again on it; None if that needs a full pass.
        logits: Logits of the first answer token, shape (batch, vocabulary), fp32.
        sequences: The generated tokens, shape (batch, new tokens).
        image_columns: Which prompt positions hold an image feature, shape (batch, prompt tokens).
        prefixes_reused: The number of rows with a prefix that was computed for another row (see `prefix`).
    """

    inputs: dict[str, Any]
    cache: Cache | None
    logits: torch.Tensor
    sequences: torch.Tensor
    image_columns: torch.Tensor
    prefixes_reused: int = 0

    @cached_property
    def confidence(self) -> torch.Tensor:
        """The probability of each row's most likely first token, shape (batch,)."""
        return self.logits.softmax(-1).amax(-1)

    def continuation(self) -> dict[str, Any]:
        """Return inputs for a `generate` call that runs the last prompt token again: on the cache, or in a full pass.

        This takes that token out of the cache.
        """
        if self.cache is None:
            return self.inputs
        input_ids = self.inputs["input_ids"]
        self.cache.crop(-(self.cache.get_seq_length() - (input_ids.shape[1] - 1)))
        # The prompt's tokens and what is aligned with them, but not the images again.
        aligned = {
            name: value
            for name, value in self.inputs.items()
            if isinstance(value, torch.Tensor) and (value.shape == input_ids.shape or name == "position_ids")
        }
        return {**aligned, "past_key_values": self.cache}


@dataclass(frozen=True)
class UnsteeredPass:
    """A `generate` call on a batch with the model as it is, and the recording of its first forward pass.

    Attributes:
        text_decoder: The model's text decoder.
        inputs: What `generate` was given.
        cache: The filled cache.
        sequences: The prompt and the generated tokens, shape (batch, all tokens).
        first: The recording.
    """

    text_decoder: TextDecoder
    inputs: dict[str, Any]
    cache: Cache | None
    sequences: torch.Tensor
    first: Recording

    @classmethod
    def run(
        cls, model: PreTrainedModel, text_decoder: TextDecoder, inputs: dict[str, Any], greedy: Greedy, *, watch: bool
    ) -> "UnsteeredPass":
        """Run the pass.

        Args:
            model: The model.
            text_decoder: The model's text decoder.
            inputs: What the processor returned, with an attention mask.
            greedy: How to generate.
            watch: Whether to record masks and embeddings too. Required by `causal` and by `prefill(steered=True)`.

        Raises:
            ValueError: If the image tokens do not fit the images.
            NonFiniteLogitsError: If a row's logits are not finite.
        """
        try:
            with record(model, watched=text_decoder if watch else None) as first:
                output = greedy.generate(model, inputs)
        except ValueError as error:
            # Every family counts its image tokens in its forward pass and raises in these words.
            if "image features and image tokens" not in str(error).lower():
                raise
            raise ValueError(
                f"the prompts' image tokens do not fit the images ({error}); a prompt may be truncated, or hold "
                "more or fewer image tokens than images: call the processor without truncation and max_length"
            ) from error
        return cls(text_decoder, inputs, output.past_key_values, output.sequences, first)

    @property
    def causal(self) -> bool:
        """Whether all that the cache holds of a token depends only on it and the tokens before it."""
        positions = self.first.position_ids
        return positions is not None and positions.ndim == 2 and self.first.causal

    def prefill(self, *, steered: bool) -> Prefill:
        """Return what a steered pass needs, if one follows."""
        input_ids, positions = self.inputs["input_ids"], self.first.position_ids
        on_cache = (
            steered
            and self.first.last_is_unseen
            and _can_roll_back(self.cache)
            and _last_is_its_token(self.first.inputs_embeds, input_ids, self.text_decoder.embed)
        )
        # Some families derive positions from the images, which a step on the cache does not get.
        aligned = {"position_ids": positions} if on_cache and positions is not None else {}
        return Prefill(
            inputs={**self.inputs, **aligned},
            cache=self.cache if on_cache else None,
            logits=self.first.logits,
            sequences=self.sequences[:, input_ids.shape[1] :],
            image_columns=(input_ids == self.text_decoder.image_token_id).to(self.first.logits.device),
        )


def _last_is_its_token(given: torch.Tensor | None, input_ids: torch.Tensor, embed: nn.Module) -> bool:
    """Whether the last position was given its token's embedding, and not a feature of an image, sound or video.

    A step on the cache gives it the embedding, because it does not get the images again.
    """
    if given is None:
        return True
    last = given[:, -1]
    return torch.equal(last, embed(input_ids[:, -1].to(last.device)).to(last.device, last.dtype))


def _can_roll_back(cache: Cache | None) -> bool:
    """Whether the last positions can be taken out of a cache as if they had never been there."""
    return isinstance(cache, DynamicCache) and all(
        layer.is_croppable and getattr(layer, "record_past", True) for layer in cache.layers
    )

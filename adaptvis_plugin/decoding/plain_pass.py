"""The plain pass over a batch, and what it tells of how a steered pass may follow."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import Cache, DynamicCache, GenerationConfig, PreTrainedModel

from adaptvis_plugin.decoding.first_forward import FirstForward
from adaptvis_plugin.decoding.inspection import TextDecoder


@dataclass
class Plain:
    """The plain pass over a batch: everything a steered pass over the same batch needs.

    Attributes:
        inputs: what `generate` was given.
        cache: the filled cache if the last prompt token can be run again on it; None if that needs a complete pass.
        logits: of the first answer token; shape (batch, vocabulary), fp32.
        sequences: the tokens generated; shape (batch, new tokens).
        image_columns: which prompt positions hold an image feature; shape (batch, prompt tokens).
        causal_cache: the cache if the pass was watched and no token saw a later one.
        inputs_embeds: what the text decoder was given if the pass was watched; shape (batch, tokens, hidden size).
    """

    inputs: dict[str, Any]
    cache: Cache | None
    logits: torch.Tensor
    sequences: torch.Tensor
    image_columns: torch.Tensor
    causal_cache: Cache | None = None
    inputs_embeds: torch.Tensor | None = None

    def continuation(self) -> dict[str, Any]:
        """Inputs for a `generate` call that runs the last prompt token again, on the cache or else on everything."""
        if self.cache is None:
            return self.inputs
        input_ids = self.inputs["input_ids"]
        self.cache.crop(-(self.cache.get_seq_length() - (input_ids.shape[1] - 1)))
        # The prompt's tokens, what is aligned with them, and never the images again.
        aligned = {
            name: value
            for name, value in self.inputs.items()
            if isinstance(value, torch.Tensor) and (value.shape == input_ids.shape or name == "position_ids")
        }
        return {**aligned, "past_key_values": self.cache}


def plain_pass(
    model: PreTrainedModel,
    decoder: TextDecoder,
    inputs: dict[str, Any],
    *,
    config: GenerationConfig,
    generation: dict[str, Any],
    steered: bool,
    watch: bool = False,
) -> Plain:
    """Run `generate` on a batch as the model is.

    Args:
        model: the model.
        decoder: its text decoder.
        inputs: what the processor returned, with an attention mask.
        config: how to generate.
        generation: options of `generate` that are not the config's.
        steered: whether steered passes will follow.
        watch: whether to find out if what the cache holds of one token depends on later ones.

    Raises:
        ValueError: if the image tokens do not fit the images.
        NonFiniteLogitsError: if a row's logits are not finite.
    """
    first = FirstForward(model, decoder, watch=steered or watch, embeddings=watch)
    try:
        with first:
            output = cast(Any, model).generate(**inputs, generation_config=config, **generation)
    except ValueError as error:
        # Every family counts its image tokens in its forward pass and raises in these words.
        if "image features and image tokens" not in str(error).lower():
            raise
        raise ValueError(
            f"the prompts' image tokens do not fit the images ({error}); a prompt may have been truncated, or hold "
            "more or fewer image tokens than images: call the processor without truncation and max_length"
        ) from error
    assert first.logits is not None
    filled, positions = output.past_key_values, first.position_ids
    again = (
        steered
        and first.last_unseen
        and _can_roll_back(filled)
        and _is_its_token(first.last_embedding, inputs["input_ids"][:, -1], model.get_input_embeddings())
    )
    # Some families derive positions from the images, which a step on the cache does not get.
    aligned = {"position_ids": positions} if again and positions is not None else {}
    causal = watch and positions is not None and positions.ndim == 2 and first.causal
    return Plain(
        inputs={**inputs, **aligned},
        cache=filled if again else None,
        logits=first.logits,
        sequences=output.sequences[:, inputs["input_ids"].shape[1] :],
        image_columns=(inputs["input_ids"] == decoder.image_token_id).to(first.logits.device),
        causal_cache=filled if causal else None,
        inputs_embeds=first.inputs_embeds,
    )


def _is_its_token(given: torch.Tensor | None, tokens: torch.Tensor, embed: Any) -> bool:
    """Whether a position was given its token's embedding, and not a feature of an image, sound or video in its place.

    On the cache that position would be given the embedding: images are not handed over again.
    """
    if given is None:
        return True
    return torch.equal(given, embed(tokens.to(given.device)).to(given.device, given.dtype))


def _can_roll_back(cache: Any) -> bool:
    """Whether the last positions can be taken out of a cache as if they had never been there."""
    return isinstance(cache, DynamicCache) and all(
        layer.is_croppable and getattr(layer, "record_past", True) for layer in cache.layers
    )

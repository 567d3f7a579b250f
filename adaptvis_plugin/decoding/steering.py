"""Steering the first forward pass of a `generate` call."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from adaptvis_plugin.decoding.attention import EAGER_NAME, NAME, Steering, active
from adaptvis_plugin.decoding.first_pass import around_first_pass
from adaptvis_plugin.decoding.inspection import TextDecoder


@contextmanager
def steer(model: PreTrainedModel, text_decoder: TextDecoder, gain: torch.Tensor) -> Iterator[None]:
    """Steer the first forward pass inside the block; every later pass is the model's own.

    **Mutates the model while that single pass runs**: the configs of the text decoder name another attention function.
    Afterwards they name the model's own again, also if the pass raises. Vision towers have other configs, which are
    never touched. Two of these blocks at a time on one model would restore each other's attention, so the
    caller holds the model's lock (see `decoder`).

    Args:
        model: The model that generates inside the block.
        text_decoder: Its text decoder.
        gain: See `Steering`.

    Raises:
        RuntimeError: If the pass left an attention layer unsteered.
    """
    steering = Steering(gain, text_decoder.attention)
    swapped = ExitStack()

    def before(options: dict[str, Any]) -> None:
        swapped.enter_context(_swapped_attention(text_decoder, steering))

    def after(output: Any) -> None:
        swapped.close()
        if output is not None and len(steering.steered) != len(text_decoder.attention):
            raise RuntimeError(
                f"steered {len(steering.steered)} of {len(text_decoder.attention)} attention layers of "
                f"{type(model).__name__}: its attention does not go through the attention interface in every layer"
            )

    with swapped, around_first_pass(model, before, after):
        yield


@contextmanager
def _swapped_attention(text_decoder: TextDecoder, steering: Steering) -> Iterator[None]:
    """Let the text decoder attend through the steered attention function."""
    own = [config._attn_implementation for config in text_decoder.configs]
    token = active.set(steering)
    try:
        for config, name in zip(text_decoder.configs, own, strict=True):
            config._attn_implementation = EAGER_NAME if name == "eager" else NAME
        yield
    finally:
        active.reset(token)
        for config, name in zip(text_decoder.configs, own, strict=True):
            config._attn_implementation = name

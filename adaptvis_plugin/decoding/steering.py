"""Steering a pass over the whole prompt: all rows as the model computes them, but the last."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from adaptvis_plugin.decoding.attention import AttentionCall, Steering, active, is_flash, over
from adaptvis_plugin.decoding.first_pass import around_first_pass
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.rows import additive, attend


class SteeredLayers:
    """The text decoder's attention layers, and those of them that a pass has steered.

    Attributes:
        modules: The layers.
    """

    def __init__(self, text_decoder: TextDecoder) -> None:
        self.modules = text_decoder.attention
        self._steered: set[Any] = set()

    def count(self, call: AttentionCall) -> None:
        """Note that a layer was steered."""
        self._steered.add(call.module)

    def check(self) -> None:
        """Raise RuntimeError if the pass left a layer unsteered."""
        if left := self.modules - self._steered:
            raise RuntimeError(
                f"steered {len(self._steered)} of {len(self.modules)} attention layers: the attention of "
                f"{', '.join(sorted({type(module).__name__ for module in left}))} does not go through the attention "
                "interface in every layer"
            )


class LastRow(SteeredLayers):
    """Steers the last row of a pass.

    Args:
        text_decoder: The text decoder.
        gain: The factor on each column's attention logit: alpha on image tokens, 1 elsewhere; shape (batch, prompt
            tokens), fp32.
    """

    def __init__(self, text_decoder: TextDecoder, gain: torch.Tensor) -> None:
        super().__init__(text_decoder)
        self._gain = gain[:, None, None]

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attend with the model's own kernel, and replace the last row."""
        self.count(call)
        mask = call.mask_of(-1, call.key.shape[2])
        mask = None if mask is None else additive(mask)
        row = attend(call.query[:, :, -1:], call.key, call.value, mask, self._gain.to(call.key.device), **call.options)
        return torch.cat([call.run()[:, :-1], row], 1)


@contextmanager
def steer(model: PreTrainedModel, text_decoder: TextDecoder, gain: torch.Tensor) -> Iterator[None]:
    """Steer the last row of the first forward pass inside the block; every later pass is the model's own.

    Args:
        model: The model that generates inside the block.
        text_decoder: Its text decoder.
        gain: See `LastRow`.

    Raises:
        RuntimeError: If the pass left an attention layer unsteered.
    """
    steering = LastRow(text_decoder, gain)
    swapped = ExitStack()

    def before(options: dict[str, Any]) -> None:
        swapped.enter_context(attention_under(text_decoder, steering))

    def after(output: Any) -> None:
        swapped.close()
        if output is not None:
            steering.check()

    with swapped, around_first_pass(model, before, after):
        yield


@contextmanager
def attention_under(text_decoder: TextDecoder, steering: Steering) -> Iterator[None]:
    """Let the text decoder attend under a steering.

    **Mutates the model inside the block**: the configs of the text decoder name another attention function. Afterwards
    they name the model's own again. Vision towers have other configs, which are never touched. Two of these blocks at a
    time on one model would restore each other's attention, so the caller holds the model's lock (see `decoder`).
    """
    own = [config._attn_implementation for config in text_decoder.configs]
    token = active.set(steering)
    try:
        for config, name in zip(text_decoder.configs, own, strict=True):
            # The prompt's rows come from the model's own kernel, or from sdpa if that takes no mask that can be cut.
            config._attn_implementation = over(name if has_kernel(name) else "sdpa")
        yield
    finally:
        active.reset(token)
        for config, name in zip(text_decoder.configs, own, strict=True):
            config._attn_implementation = name


def has_kernel(name: str) -> bool:
    """Whether the masks of an attention implementation can be cut by rows and columns."""
    return name in ("sdpa", "eager") or is_flash(name)

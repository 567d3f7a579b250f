"""Steering a pass over the whole prompt: its last row, or all of its rows."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from adaptvis_plugin.decoding.attention import AttentionCall, OncePerMask, Steering, active, is_flash, over
from adaptvis_plugin.decoding.first_pass import around_first_pass
from adaptvis_plugin.decoding.heads import Heads
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.rows import visible, weighted_sum

if TYPE_CHECKING:
    from adaptvis_plugin.decoding.capture import Captured


class SteeredLayers:
    """The text decoder's attention layers, and those of them that a pass has steered.

    Attributes:
        modules: The layers.
    """

    def __init__(self, text_decoder: TextDecoder) -> None:
        self.modules = text_decoder.attention
        self._numbers = text_decoder.layers
        self._steered: set[Any] = set()

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Return the layer's output; see `Steering`."""
        raise NotImplementedError

    def number(self, call: AttentionCall) -> int:
        """Note that a layer was steered, and return its number in the model."""
        self._steered.add(call.module)
        return self._numbers[call.module]

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
            tokens), fp32. None steers nothing.
        heads: Where the gain applies.
        captured: Where to keep the row's weights.
    """

    def __init__(
        self,
        text_decoder: TextDecoder,
        gain: torch.Tensor | None,
        heads: Heads = Heads(),  # noqa: B008  # it is immutable
        captured: "Captured | None" = None,
    ) -> None:
        super().__init__(text_decoder)
        self._gain = None if gain is None else gain[:, None, None]
        self._heads = heads
        self._captured = captured

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attend with the model's own kernel, and replace the last row where it is steered."""
        layer = self.number(call)
        gain = None if self._gain is None else self._heads.of_layer(layer, self._gain.to(call.key.device))
        if gain is None and self._captured is None:
            return call.run()
        weights = call.last_weights(gain)
        if self._captured is not None:
            self._captured.add(call, weights)
        return call.run() if gain is None else torch.cat([call.run()[:, :-1], weighted_sum(weights, call.value)], 1)


class EveryRow(SteeredLayers):
    """Adds a constant to the attention logits on some columns, in every row of a pass.

    Args:
        text_decoder: The text decoder.
        added: What is added on each column: the constant on image tokens, 0 elsewhere; shape (batch, prompt tokens).
        captured: Where to keep the last row's weights.
    """

    def __init__(self, text_decoder: TextDecoder, added: torch.Tensor, captured: "Captured | None" = None) -> None:
        super().__init__(text_decoder)
        self._added = added[:, None, None]
        self._captured = captured
        self._masks = OncePerMask(self._mask)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attend with the model's own kernel, which adds the mask to the logits."""
        self.number(call)
        changed = replace(call, mask=self._masks(call))
        if self._captured is not None:
            self._captured.add(call, changed.last_weights())
        return changed.run()

    def _mask(self, call: AttentionCall) -> torch.Tensor:
        queries, columns = call.query.shape[2], call.key.shape[2]
        mask = call.mask
        if mask is None:
            mask = torch.ones(queries, columns, dtype=torch.bool, device=call.key.device).tril(columns - queries)[
                None, None
            ]
        lowest = torch.finfo(call.query.dtype).min  # not -inf: a row of padding sees nothing, and has to stay finite
        seen = visible(mask)
        kept = torch.zeros_like(mask, dtype=call.query.dtype) if mask.dtype == torch.bool else mask
        return torch.where(seen, kept + self._added.to(call.key.device, call.query.dtype), lowest)


@contextmanager
def steer(
    model: PreTrainedModel, text_decoder: TextDecoder, steering: SteeredLayers, *, matrix: bool = False
) -> Iterator[None]:
    """Steer the first forward pass inside the block; every later pass is the model's own.

    Args:
        model: The model that generates inside the block.
        text_decoder: Its text decoder.
        steering: What happens in the pass.
        matrix: See `attention_under`.

    Raises:
        RuntimeError: If the pass left an attention layer unsteered.
    """
    swapped = ExitStack()

    def before(options: dict[str, Any]) -> None:
        swapped.enter_context(attention_under(text_decoder, steering, matrix=matrix))

    def after(output: Any) -> None:
        swapped.close()
        if output is not None:
            steering.check()

    with swapped, around_first_pass(model, before, after):
        yield


@contextmanager
def attention_under(text_decoder: TextDecoder, steering: Steering, *, matrix: bool = False) -> Iterator[None]:
    """Let the text decoder attend under a steering.

    Args:
        text_decoder: The text decoder.
        steering: The steering.
        matrix: Whether it changes the mask matrix, which a flash kernel does not take; then sdpa attends.

    **Mutates the model inside the block**: the configs of the text decoder name another attention function. Afterwards
    they name the model's own again. Vision towers have other configs, which are never touched. Two of these blocks at a
    time on one model would restore each other's attention, so the caller holds the model's lock (see `decoder`).
    """
    own = [config._attn_implementation for config in text_decoder.configs]
    token = active.set(steering)
    try:
        for config, name in zip(text_decoder.configs, own, strict=True):
            # The prompt's rows come from the model's own kernel, or from sdpa if that takes no mask that can be cut.
            keep = has_kernel(name) and not (matrix and is_flash(name))
            config._attn_implementation = over(name if keep else "sdpa")
        yield
    finally:
        active.reset(token)
        for config, name in zip(text_decoder.configs, own, strict=True):
            config._attn_implementation = name


def has_kernel(name: str) -> bool:
    """Whether the masks of an attention implementation can be cut by rows and columns."""
    return name in ("sdpa", "eager") or is_flash(name)

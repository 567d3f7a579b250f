"""Where steering enters a model: an attention function over each of transformers' kernels.

A steered pass names such a function in the configs of the text decoder (see `steering`). The function hands each
layer's call to the steering that is active in this thread. If none is active, or the layer is not part of the text
decoder, the model's own kernel attends as always.
"""

import sys
from collections.abc import Callable, Set
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adaptvis_plugin.decoding.rows import Edit, additive, attention_weights


@dataclass(slots=True)  # not frozen, which is slower to create, in every layer
class AttentionCall:
    """A layer's call of its attention function.

    Attributes:
        kernel: The name of the model's own kernel.
        module: The attention layer.
        query: Shape (batch, heads, queries, head dim).
        key: Shape (batch, key/value heads, columns, head dim).
        value: Shape (batch, key/value heads, columns, value dim).
        mask: Boolean (True = visible) or additive, broadcastable to (batch, heads, queries, columns). For a flash
            kernel: shape (batch, columns), where 0 is padding. None means causal.
        options: What the layer hands to any attention function by name. `inspection` has refused every model that hands
            over something that would change the formula and is not applied.
    """

    kernel: str
    module: nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    options: dict[str, Any]

    def run(self) -> torch.Tensor:
        """Attend with the model's own kernel; the output has shape (batch, queries, heads, value dim)."""
        arguments = (self.module, self.query, self.key, self.value, self.mask)
        output: torch.Tensor
        if self.kernel == "eager":
            module = sys.modules[type(self.module).__module__]
            output = module.eager_attention_forward(*arguments, **self.options)[0]
        elif is_flash(self.kernel):
            config: Any = self.module.config
            steered, config._attn_implementation = config._attn_implementation, self.kernel
            try:  # flash attention looks up its functions by the config's name
                output = ALL_ATTENTION_FUNCTIONS[self.kernel](*arguments, **self.options)[0]
            finally:
                config._attn_implementation = steered
        else:
            output = ALL_ATTENTION_FUNCTIONS[self.kernel](*arguments, **self.options)[0]
        return output

    def without_last(self, count: int) -> "AttentionCall":
        """Return the same call without the last tokens, neither as queries nor as columns."""
        mask, options = self.mask, self.options
        if mask is not None:
            mask = mask[..., :-count, :-count] if mask.ndim == 4 else mask[:, :-count]
        if isinstance(options.get("position_ids"), torch.Tensor):
            options = {**options, "position_ids": options["position_ids"][..., :-count]}
        query, key, value = (tensor[:, :, :-count] for tensor in (self.query, self.key, self.value))
        return AttentionCall(self.kernel, self.module, query, key, value, mask, options)

    def mask_of(self, row: int, columns: int) -> torch.Tensor | None:
        """Return which of the first columns a query sees.

        Args:
            row: The query.
            columns: The number of columns up to and including the query's own.

        Returns:
            Shape (batch or 1, heads or 1, 1, columns); None if it sees all of them.
        """
        if self.mask is not None and self.mask.ndim == 4:
            return self.mask[:, :, row, None, :columns]
        visible = None if self.mask is None else self.mask[:, :columns].bool()
        window = self.options.get("sliding_window") if is_flash(self.kernel) else None
        if window is not None and columns > window:
            inside = torch.arange(columns, device=self.key.device) >= columns - window
            visible = inside[None] if visible is None else visible & inside
        return None if visible is None else visible[:, None, None]

    def last_weights(self, edit: Edit | None = None) -> torch.Tensor:
        """Return the softmax weights of the last query, shape (batch, heads, 1, columns), fp32.

        Args:
            edit: See `attention_weights`.
        """
        mask = self.mask_of(-1, self.key.shape[2])
        seen = None if mask is None else additive(mask)
        return attention_weights(self.query[:, :, -1:], self.key, seen, edit, **self.options)

    def masks_of(self, first: int, last: int) -> torch.Tensor:
        """Return which columns some queries see, shape (batch or 1, heads or 1, queries, columns).

        Args:
            first: The first of the queries.
            last: The one behind the last of them.
        """
        queries, columns = self.query.shape[2], self.key.shape[2]
        if self.mask is not None and self.mask.ndim == 4:
            return self.mask[:, :, first:last, :columns]
        # Without a matrix, a query sees the columns up to its own.
        own = torch.arange(first, last, device=self.key.device) + columns - queries
        return torch.arange(columns, device=self.key.device) <= own[None, None, :, None]


class OncePerMask:
    """Builds a mask from a layer's mask, once for all layers of a pass that share it."""

    def __init__(self, build: Callable[[AttentionCall], torch.Tensor]) -> None:
        self._build = build
        self._columns = 0
        self._built: dict[tuple[Any, ...], tuple[torch.Tensor | None, torch.Tensor]] = {}

    def __call__(self, call: AttentionCall) -> torch.Tensor:
        """Return the mask for a layer."""
        if call.key.shape[2] != self._columns:  # another pass
            self._columns = call.key.shape[2]
            self._built.clear()
        key = (id(call.mask), call.options.get("sliding_window"), call.key.device)
        if key not in self._built:
            self._built[key] = (call.mask, self._build(call))  # the layer's mask is kept, so that its id stays its own
        return self._built[key][1]


class Steering(Protocol):
    """What happens to the attention of the text decoder during a pass."""

    @property
    def modules(self) -> Set[nn.Module]:
        """The attention modules of the text decoder. Any other module attends as always."""

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Return the layer's output, shape (batch, queries, heads, value dim)."""


# The attention function is global to transformers, and the config that names it is shared by all threads that use the
# model. The steering belongs to one call: another thread that runs the same model at the same time finds none, and
# attends as the model does by itself.
active: ContextVar[Steering] = ContextVar("adaptvis_steering")


def over(kernel: str) -> str:
    """Return the name of the attention function over a kernel of transformers, and register it at first use."""
    name = f"adaptvis_over_{kernel}"
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, partial(_attention, kernel))
        # Without a mask function of the same name, transformers silently ignores causality and padding.
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kernel])
    return name


def is_flash(kernel: str) -> bool:
    """Whether a kernel is a flash attention, which takes no mask matrix."""
    return "flash" in kernel


def _attention(
    kernel: str,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as the active steering does. The signature is that of transformers' attention interface."""
    call = AttentionCall(kernel, module, query, key, value, attention_mask, options)
    steering = active.get(None)
    if steering is None or module not in steering.modules:
        return call.run(), None
    if attention_mask is not None and attention_mask.ndim != 4 and not is_flash(kernel):
        raise NotImplementedError(
            f"{type(module).__name__} was given an attention mask of shape {tuple(attention_mask.shape)}; steering "
            "needs (batch, heads, queries, columns). Load the model with attn_implementation='sdpa'"
        )
    return steering.attend(call), None

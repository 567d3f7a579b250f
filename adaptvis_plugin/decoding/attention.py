"""The one change the methods make to a model: alpha times the attention logits on image tokens, at one position.

    A[l, h, n, j] <- alpha * A[l, h, n, j]    for every image-token column j, n = the last prompt token

in every decoder layer l and head h, after the 1/sqrt(d) scaling and before mask and softmax (Chen et al., ICML
2025, eq. 3). `FirstForward` brackets a single forward pass with it; outside that pass nothing of the model differs.
"""

from collections.abc import Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import sdpa_mask

NAME = "adaptvis_steered"


class Steering:
    """The gains of one steered pass, and a record of the layers that applied them.

    Attributes:
        gain: factor on each column's attention logit: alpha on image tokens, 1 elsewhere; shape (batch, prompt
            tokens), fp32.
        layers: indices of the decoder layers that were steered so far.
    """

    def __init__(self, gain: torch.Tensor) -> None:
        self.gain = gain
        self.layers: set[int] = set()


# The attention function is global to transformers; the gains are not. Whatever runs in another thread or on another
# model sees its own, or none.
_steering: ContextVar[Steering] = ContextVar("adaptvis_steering")


def steered_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of the last prompt token to the whole prompt, its logits multiplied by the active gains.

    Has the signature of transformers' attention interface. One query, so q.K^T is a single row per head: the
    keys are neither repeated for grouped-query attention nor copied, and no n x n matrix exists.

    Args:
        module: the attention layer; only its `layer_idx` is read.
        query: shape (batch, heads, 1, head dim).
        key: shape (batch, key/value heads, columns, head dim). A sliding window keeps only the last columns.
        value: shape (batch, key/value heads, columns, value dim).
        attention_mask: boolean (True = visible) or additive, broadcastable to (batch, heads, 1, columns), or None.
        scaling: factor on q.K^T; 1/sqrt(head dim) when None.
        softcap: bound of models that squash their logits; the gain applies to the squashed ones.
        **kwargs: what other attention functions need (dropout, is_causal, ...). None of it changes the formula.

    Returns:
        The output, shape (batch, 1, heads, value dim), and None for the attention weights.
    """
    steering = _steering.get()
    steering.layers.add(module.layer_idx)  # type: ignore[arg-type]
    batch, heads, _, head_dim = query.shape
    groups, columns = key.shape[1], key.shape[2]
    scaling = head_dim**-0.5 if scaling is None else scaling

    grouped = query.reshape(batch, groups, heads // groups, head_dim)
    logits = torch.matmul(grouped, key.transpose(2, 3)).float() * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits * steering.gain[:, None, None, -columns:].to(logits.device)
    if attention_mask is not None:
        mask = attention_mask[..., -columns:]
        # One mask for all heads broadcasts over the groups; one per head is grouped like the query.
        mask = mask if mask.shape[1] == 1 else mask.reshape(mask.shape[0], groups, heads // groups, columns)
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    weights = logits.softmax(-1).to(value.dtype)
    return torch.matmul(weights, value).reshape(batch, 1, heads, value.shape[-1]), None


AttentionInterface.register(NAME, steered_attention)
# Without a mask function of the same name transformers drops causality and padding silently.
AttentionMaskInterface.register(NAME, sdpa_mask)


class FirstForward:
    """Context manager around a `generate` call: steers its first forward pass and keeps that pass's logits.

    **Mutates the model while that single pass runs**: the attention implementation of the text decoder's configs is
    swapped by a pre-forward hook and put back by a post-forward hook, also when the pass raises. Vision towers have
    configs of their own and are never touched, and every other pass uses the model's own kernel.

    Args:
        model: the model whose `generate` is called inside the block.
        configs: the configs that the text decoder's attention layers read.
        gain: see `Steering`; None only records the logits.
    """

    def __init__(
        self, model: PreTrainedModel, configs: Iterable[PreTrainedConfig], gain: torch.Tensor | None = None
    ) -> None:
        self._model = model
        self._configs = list(configs)
        self.steering = None if gain is None else Steering(gain)
        self.logits: torch.Tensor | None = None

    def __enter__(self) -> "FirstForward":
        self._hooks = [
            self._model.register_forward_pre_hook(self._before),
            self._model.register_forward_hook(self._after, always_call=True),
        ]
        self._started = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, *_: Any) -> None:
        self._active = not self._started
        self._started = True
        if self._active and self.steering is not None:
            self._own = [config._attn_implementation for config in self._configs]
            for config in self._configs:
                config._attn_implementation = NAME
            self._token = _steering.set(self.steering)

    def _after(self, model: nn.Module, arguments: Any, output: Any) -> None:
        if not self._active:
            return
        self._active = False
        if self.steering is not None:
            _steering.reset(self._token)
            for config, own in zip(self._configs, self._own, strict=True):
                config._attn_implementation = own
        if output is not None:
            self.logits = output.logits[:, -1].float()

"""The one change the methods make to a model: alpha times the attention logits on image tokens, at one position.

    A[l, h, n, j] <- alpha * A[l, h, n, j]    for every image-token column j, n = the last prompt token

in every decoder layer l and head h, after the 1/sqrt(d) scaling and before mask and softmax (Chen et al., ICML
2025, eq. 3). `adaptvis_plugin.decoding.steering` applies it to a single forward pass.
"""

import sys
from collections.abc import Set
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

NAME = "adaptvis_steered"
# The same function over the family's own eager kernel, for text decoders that use eager attention.
EAGER_NAME = "adaptvis_steered_over_eager"


class Steering:
    """The gains of one steered pass, and a record of the attention layers that applied them.

    Attributes:
        gain: The factor on each column's attention logit: alpha on image tokens, 1 elsewhere. Shape (batch, prompt
            tokens), fp32.
        modules: The attention modules of the text decoder. Any other module attends as always.
        steered: Those of them that were steered so far.
    """

    def __init__(self, gain: torch.Tensor, modules: Set[nn.Module]) -> None:
        self.gain = gain
        self.modules = modules
        self.steered: set[nn.Module] = set()


# The attention function is global to transformers, and the config that names it is shared by all threads that use the
# model. The gains belong to one call: another thread that runs the same model at the same time finds none, and attends
# as the model does by itself.
active: ContextVar[Steering] = ContextVar("adaptvis_steering")


def steered_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as the model does, except that the active gains steer the last row.

    The signature is that of transformers' attention interface. With one query, as on a filled cache, the steered row
    is the only one. With a complete prompt, the other rows come from scaled-dot-product attention.

    Args:
        module: The attention layer.
        query: Shape (batch, heads, queries, head dim). The last query is the last prompt token.
        key: Shape (batch, key/value heads, columns, head dim). A sliding window keeps only the last columns.
        value: Shape (batch, key/value heads, columns, value dim).
        attention_mask: Boolean (True = visible) or additive, broadcastable to (batch, heads, queries, columns). None
            means causal.
        **kwargs: What the layer hands to any attention function. `inspection` has refused every model that hands over
            something that would change the formula and is not applied here.

    Returns:
        The output, shape (batch, queries, heads, value dim), and None for the attention weights.
    """
    return _attention(sdpa_attention_forward, module, query, key, value, attention_mask, **kwargs)


def steered_attention_over_eager(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as `steered_attention`, with the other rows from the family's own eager kernel."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return _attention(eager, module, query, key, value, attention_mask, **kwargs)


def _attention(
    kernel: Any,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    steering = active.get(None)
    if steering is None or module not in steering.modules:
        return kernel(module, query, key, value, attention_mask, **kwargs)[0], None
    steering.steered.add(module)
    if attention_mask is not None and attention_mask.ndim != 4:
        raise NotImplementedError(
            f"{type(module).__name__} was given an attention mask of shape {tuple(attention_mask.shape)}; steering "
            "needs (batch, heads, queries, columns). Load the model with attn_implementation='sdpa'"
        )
    last_mask = None if attention_mask is None else attention_mask[..., -1:, :]
    row = _steered_row(query[:, :, -1], key, value, last_mask, steering.gain, **kwargs)
    if query.shape[2] == 1:
        return row, None
    output = kernel(module, query, key, value, attention_mask, **kwargs)[0]
    return torch.cat([output[:, :-1], row], dim=1), None


def _steered_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    gain: torch.Tensor,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Compute the formula: attention of one query to the whole prompt, with its logits multiplied by the gains.

    q.K^T is a single row per head: the keys are not repeated for grouped-query attention, and there is no n x n matrix.
    The row is computed in fp32, because in fp16 q.K^T overflows long before the scaled logits do where queries and keys
    have large biases (as in Qwen2). A half-precision layer's keys and values are copied for it, one layer at a time.

    Args:
        query: Shape (batch, heads, head dim).
        key: Shape (batch, key/value heads, columns, head dim).
        value: Shape (batch, key/value heads, columns, value dim).
        mask: Broadcastable to (batch, heads, 1, columns). None if every column is visible.
        gain: Shape (batch, prompt tokens).
        scaling: The factor on q.K^T. None means 1/sqrt(head dim).
        softcap: The bound of models that squash their logits. The gain applies to the squashed logits.
        s_aux: One logit per head that takes weight and gives no value (an attention sink), shape (heads,). It belongs
            to no column, so no gain applies to it.

    Returns:
        The attended values, shape (batch, 1, heads, value dim).
    """
    batch, heads, head_dim = query.shape
    groups, columns = key.shape[1], key.shape[2]
    grouped = query.reshape(batch, groups, heads // groups, head_dim)
    logits = torch.matmul(grouped.float(), key.float().transpose(2, 3))
    logits = logits * (head_dim**-0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits * gain[:, None, None, -columns:].to(logits.device)
    if mask is not None:
        mask = mask[..., -columns:]
        # A mask for all heads broadcasts over the groups; a mask per head is grouped like the query.
        mask = mask if mask.shape[1] == 1 else mask.reshape(mask.shape[0], groups, heads // groups, columns)
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    if s_aux is not None:
        sink = s_aux.float().reshape(1, groups, heads // groups, 1).expand(batch, -1, -1, -1)
        logits = torch.cat([logits, sink], dim=-1)
    weights = logits.softmax(-1)[..., :columns]
    return torch.matmul(weights, value.float()).to(value.dtype).reshape(batch, 1, heads, value.shape[-1])


AttentionInterface.register(NAME, steered_attention)
AttentionInterface.register(EAGER_NAME, steered_attention_over_eager)
# Without a mask function of the same name, transformers silently ignores causality and padding.
AttentionMaskInterface.register(NAME, sdpa_mask)
AttentionMaskInterface.register(EAGER_NAME, eager_mask)

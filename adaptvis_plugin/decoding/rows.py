"""Attention in single rows, by the formula, where a method changes its logits.

For ScalingVis and AdaptVis:

    A[l, h, n, j] <- alpha * A[l, h, n, j]    for every image-token column j, n = the last prompt token

in every decoder layer l and head h, after the 1/sqrt(d) scaling and before mask and softmax (Chen et al., ICML
2025, eq. 3). Other methods have other formulas; see `parts.Change`.
"""

from collections.abc import Callable
from typing import Any

import torch

Edit = Callable[[torch.Tensor], torch.Tensor]
"""Maps attention logits to others of the same shape; may change those that it was given."""


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    edit: Edit | None,
    **options: Any,
) -> torch.Tensor:
    """Attend with a few queries, each with its own mask.

    Args:
        query: See `attention_weights`.
        key: See `attention_weights`.
        value: See `weighted_sum`.
        mask: See `attention_weights`.
        edit: See `attention_weights`.
        **options: See `attention_weights`.

    Returns:
        The attended values, shape (batch, rows, heads, value dim).
    """
    return weighted_sum(attention_weights(query, key, mask, edit, **options), value)


def attention_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    edit: Edit | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Return the softmax weights of a few queries, each with its own mask.

    They are computed in fp32, because in fp16 q.K^T overflows long before the scaled logits do where queries and keys
    have large biases (as in Qwen2). A half-precision layer's keys are copied for it, one layer at a time. Keys are not
    repeated for grouped-query attention, and there is no n x n matrix.

    Args:
        query: Shape (batch, heads, rows, head dim).
        key: Shape (batch, key/value heads, columns, head dim).
        mask: Additive, broadcastable to (batch, heads, rows, columns), fp32. None if every column is visible.
        edit: What happens to the logits, shape (batch, heads, rows, columns), fp32. None if nothing does.
        scaling: The factor on q.K^T. None means 1/sqrt(head dim).
        softcap: The bound of models that squash their logits. The edit applies to the squashed logits.
        s_aux: One logit per head that takes weight and gives no value (an attention sink), shape (heads,). It belongs
            to no column, so no edit applies to it.

    Returns:
        Shape (batch, heads, rows, columns), fp32. What `s_aux` takes is missing in their sum.
    """
    batch, heads, rows, head_dim = query.shape
    groups, columns = key.shape[1:3]
    query = query.float() * (head_dim**-0.5 if scaling is None else scaling)
    # The heads of a group follow each other, so that (groups, heads per group and rows) is (heads, rows).
    grouped = query.reshape(batch * groups, -1, head_dim)
    logits = torch.bmm(grouped, key.float().flatten(0, 1).transpose(1, 2)).view(batch, heads, rows, columns)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if edit is not None:
        logits = edit(logits)
    if mask is not None:
        logits += mask
    if s_aux is None:
        return logits.softmax(-1)
    sink = s_aux.float().view(1, heads, 1, 1).expand(batch, heads, rows, 1)
    return torch.cat([logits, sink], -1).softmax(-1)[..., :columns]


def weighted_sum(weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return the values under attention weights, shape (batch, rows, heads, value dim).

    Args:
        weights: Shape (batch, heads, rows, columns), fp32.
        value: Shape (batch, key/value heads, columns, value dim). It is copied if it is in half precision.
    """
    batch, heads, rows, columns = weights.shape
    grouped = weights.reshape(batch * value.shape[1], -1, columns)
    attended = torch.bmm(grouped, value.float().flatten(0, 1)).view(batch, heads, rows, value.shape[-1])
    return attended.transpose(1, 2).to(value.dtype)


def additive(mask: torch.Tensor) -> torch.Tensor:
    """Return a mask that is added to logits: -inf where a boolean mask is False; fp32."""
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -torch.inf)


def visible(mask: torch.Tensor) -> torch.Tensor:
    """Return which columns a boolean or additive mask lets through."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2

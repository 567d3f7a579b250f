"""The formula of the methods: alpha times the attention logits on image tokens, in single rows of the attention.

    A[l, h, n, j] <- alpha * A[l, h, n, j]    for every image-token column j, n = the last prompt token

in every decoder layer l and head h, after the 1/sqrt(d) scaling and before mask and softmax (Chen et al., ICML
2025, eq. 3).
"""

from typing import Any

import torch

KeysAndValues = tuple[torch.Tensor, torch.Tensor]


def attend(
    query: torch.Tensor,
    prompt: KeysAndValues,
    own: KeysAndValues,
    mask: torch.Tensor | None,
    gain: torch.Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Attend with single queries: several rows for each prompt, which share the prompt's keys and values.

    A row's columns are those of its prompt, followed by its own. The rows are computed in fp32, because in fp16 q.K^T
    overflows long before the scaled logits do where queries and keys have large biases (as in Qwen2). A half-precision
    layer's keys and values are copied for it, one layer at a time. Nothing is repeated for grouped-query attention or
    for the rows of a prompt, and there is no n x n matrix.

    Args:
        query: Shape (rows, heads, head dim). The rows of a prompt follow each other.
        prompt: Keys and values that the rows of a prompt share, shape (prompts, key/value heads, columns, dim).
        own: Keys and values of each row alone, shape (rows, key/value heads, columns, dim).
        mask: Boolean (True = visible) or additive, broadcastable to (rows, heads, 1, all columns). None if every column
            is visible.
        gain: The factor on each column's logit: alpha on image tokens, 1 elsewhere; shape (rows, all columns), fp32.
            None if no row is steered.
        scaling: The factor on q.K^T. None means 1/sqrt(head dim).
        softcap: The bound of models that squash their logits. The gain applies to the squashed logits.
        s_aux: One logit per head that takes weight and gives no value (an attention sink), shape (heads,). It belongs
            to no column, so no gain applies to it.

    Returns:
        The attended values, shape (rows, heads, value dim).
    """
    (key, value), (own_key, own_value) = prompt, own
    rows, heads, head_dim = query.shape
    prompts, groups, columns = key.shape[:3]
    by_group = (rows, groups, heads // groups)
    query = query.float().reshape(*by_group, head_dim)
    shared = _by_row(_by_prompt(query, prompts) @ key.float().transpose(2, 3), by_group)
    logits = torch.cat([shared, query @ own_key.float().transpose(2, 3)], -1)
    logits = logits * (head_dim**-0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if gain is not None:
        logits = logits * gain[:, None, None].to(logits.device)
    if mask is not None:
        # A mask for all heads broadcasts over the groups; a mask per head is grouped like the query.
        mask = mask if mask.shape[1] == 1 else mask.reshape(mask.shape[0], *by_group[1:], mask.shape[-1])
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    total = logits.shape[-1]
    if s_aux is not None:
        sink = s_aux.float().reshape(1, *by_group[1:], 1).expand(rows, -1, -1, -1)
        logits = torch.cat([logits, sink], -1)
    weights = logits.softmax(-1)
    attended = _by_row(_by_prompt(weights[..., :columns], prompts) @ value.float(), by_group)
    attended = attended + weights[..., columns:total] @ own_value.float()
    return attended.to(value.dtype).reshape(rows, heads, value.shape[-1])


def _by_prompt(tensor: torch.Tensor, prompts: int) -> torch.Tensor:
    """Bring a prompt's rows together: (rows, groups, heads per group, x) -> (prompts, groups, rows and heads, x)."""
    rows, groups, heads, last = tensor.shape
    by_prompt = tensor.reshape(prompts, rows // prompts, groups, heads, last).transpose(1, 2)
    return by_prompt.reshape(prompts, groups, -1, last)


def _by_row(tensor: torch.Tensor, by_group: tuple[int, int, int]) -> torch.Tensor:
    """Undo `_by_prompt`."""
    (rows, groups, heads), (prompts, last) = by_group, (tensor.shape[0], tensor.shape[-1])
    by_row = tensor.reshape(prompts, groups, rows // prompts, heads, last).transpose(1, 2)
    return by_row.reshape(*by_group, last)


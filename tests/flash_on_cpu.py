"""The functions of the flash_attn package, computed plainly on the CPU, for transformers' own flash attention code.

The package's kernels need a GPU. Everything around them is transformers' own code and runs anywhere: it takes the
padding out of a batch, finds packed sequences by their positions, and hands over windows, scale and softcap. Inside
`flash_on_cpu`, transformers loads this module in place of the package.

The functions follow the package's documentation (2.1 and newer), with the layout (batch, tokens, heads, head dim), or
(all tokens, heads, head dim) and `cu_seqlens` for sequences one after the other:

- heads that share keys and values;
- positions are aligned at the end: of n queries and m keys, query i stands at key i + m - n. `causal` and `window_size`
  count from there. A window includes both its ends, and -1 sets no limit;
- a query that sees no key gives zeros;
- logits are scaled, then squashed by the softcap.

They compute in fp32 and return the input's type. The real kernels refuse fp32; these take it, because exact comparisons
need it. They refuse what they do not compute.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from transformers import modeling_flash_attention_utils as utils

# transformers has the package's padding functions too, for later versions of the package, which do not.
from transformers.modeling_flash_attention_utils import _pad_input as pad_input  # noqa: F401
from transformers.modeling_flash_attention_utils import _unpad_input as unpad_input  # noqa: F401

flash_attn_with_kvcache = None  # only continuous batching uses it; transformers allows None
Window = tuple[int, int]


@dataclass(frozen=True)
class Call:
    """What one of the functions was given.

    Attributes:
        function: Its name.
        query: The shape of the queries.
        key: The shape of the keys.
        queries: The number of queries in each sequence.
        keys: The number of keys in each sequence.
        dtype: Their type.
        causal: Whether no query sees a later key.
        window: How many keys a query sees before and after its own; -1 for no limit.
        softcap: The bound of the logits; 0 for none.
    """

    function: str
    query: tuple[int, ...]
    key: tuple[int, ...]
    queries: list[int]
    keys: list[int]
    dtype: torch.dtype
    causal: bool
    window: Window
    softcap: float


_calls: list[Call] = []


@contextmanager
def flash_on_cpu() -> Iterator[list[Call]]:
    """Let transformers run "flash_attention_2" on the CPU inside the block, with the functions of this module.

    transformers checks for the package and for a GPU, imports the package's functions once, and keeps them. Inside the
    block both checks succeed and the import finds this module. Afterwards all is as before.

    Yields:
        The calls of the functions so far, which grow while the block runs.
    """
    _calls.clear()
    here, checks = sys.modules[__name__], utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "flash_attn", here)
        patch.setitem(sys.modules, "flash_attn.bert_padding", here)
        patch.setattr(utils, "is_flash_attn_2_available", lambda: True)
        patch.setitem(checks, "general_availability_check", lambda: True)
        patch.setitem(checks, "supported_devices", ((lambda: True, "cpu"),))
        for name in (
            "_loaded_implementation",
            "_flash_fn",
            "_flash_varlen_fn",
            "_flash_with_kvcache_fn",
            "_pad_fn",
            "_unpad_fn",
            "_process_flash_kwargs_fn",
            "_process_with_kvcache_kwargs_fn",
        ):
            patch.setattr(utils, name, None, raising=False)  # older versions of transformers have fewer of them
        yield _calls


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> torch.Tensor:
    """Attend in sequences of one length; all shapes are (batch, tokens, heads, head dim)."""
    _refuse(q, k, v, dropout_p, axes=4)
    queries, keys = ([x.shape[1]] * len(x) for x in (q, k))
    _calls.append(Call("flash_attn_func", q.shape, k.shape, queries, keys, q.dtype, causal, window_size, softcap))
    return _attend(q, k, v, softmax_scale, causal, window_size, softcap)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> torch.Tensor:
    """Attend in sequences that stand one after the other; all shapes are (all tokens, heads, head dim).

    Sequence i holds the queries from `cu_seqlens_q[i]` to before `cu_seqlens_q[i + 1]`, and likewise for the keys.
    """
    _refuse(q, k, v, dropout_p, axes=3)
    queries = _lengths(cu_seqlens_q, len(q), max_seqlen_q)
    keys = _lengths(cu_seqlens_k, len(k), max_seqlen_k)
    _calls.append(
        Call("flash_attn_varlen_func", q.shape, k.shape, queries, keys, q.dtype, causal, window_size, softcap)
    )
    parts = zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
    return torch.cat([_attend(*part, softmax_scale, causal, window_size, softcap) for part in parts])


def _refuse(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout_p: float, axes: int) -> None:
    """Refuse what the package refuses, except fp32, and dropout."""
    shapes = [tuple(x.shape) for x in (q, k, v)]
    if k.shape != v.shape or any(len(shape) != axes for shape in shapes) or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"queries, keys and values of shapes {shapes} do not fit together")
    if axes == 4 and len(q) != len(k):
        raise ValueError(f"{len(q)} sequences of queries and {len(k)} of keys")
    if q.shape[-2] % k.shape[-2]:
        raise ValueError(f"{q.shape[-2]} heads cannot share {k.shape[-2]} heads of keys")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"queries, keys and values differ in type: {q.dtype}, {k.dtype}, {v.dtype}")
    if dropout_p:
        raise ValueError("dropout is not computed here")


def _lengths(boundaries: torch.Tensor, tokens: int, longest: int) -> list[int]:
    """Return the sequences' lengths; refuse boundaries that would let a kernel read elsewhere."""
    if boundaries.dtype != torch.int32 or boundaries.ndim != 1:
        raise ValueError(f"cu_seqlens is {boundaries.dtype} of shape {tuple(boundaries.shape)}, not a row of int32")
    lengths: list[int] = boundaries.diff().tolist()
    if boundaries[0] != 0 or boundaries[-1] != tokens or min(lengths) < 0 or max(lengths) > longest:
        raise ValueError(f"cu_seqlens {boundaries.tolist()} of {tokens} tokens, the longest sequence being {longest}")
    return lengths


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float | None,
    causal: bool,
    window: Window,
    softcap: float,
) -> torch.Tensor:
    """Attend in sequences of one length; all shapes are (..., tokens, heads, head dim)."""
    shared = q.shape[-2] // k.shape[-2]
    query, key, value = (x.float().transpose(-3, -2) for x in (q, k, v))
    key, value = (x.repeat_interleave(shared, dim=-3) for x in (key, value))
    logits = query @ key.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    queries, keys = logits.shape[-2:]
    before, after = window[0], 0 if causal else window[1]
    # How far each key stands after its query.
    distance = torch.arange(keys) - (torch.arange(queries) + keys - queries)[:, None]
    hidden = torch.zeros(queries, keys, dtype=torch.bool)
    if before >= 0:
        hidden |= distance < -before
    if after >= 0:
        hidden |= distance > after
    # Where a query sees nothing, the softmax is NaN and its weights become zero.
    weights = logits.masked_fill(hidden, -torch.inf).softmax(-1).masked_fill(hidden, 0)
    return (weights @ value).transpose(-3, -2).to(q.dtype)

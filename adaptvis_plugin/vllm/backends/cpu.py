"""vLLM's backend for CPUs, with steered rows."""

from functools import cache
from typing import Any

import torch
from vllm import _custom_ops as ops
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadataBuilder,
)

from adaptvis_plugin.vllm.backends.steered import SteeredBuilder, SteeredImpl
from adaptvis_plugin.vllm.rows import Paged

DIGIT = 128
"""A base whose digits every floating point type holds exactly."""


class Builder(SteeredBuilder, CPUAttentionMetadataBuilder):
    """The builder of the metadata, with steered rows."""


class Impl(SteeredImpl, CPUAttentionBackendImpl):
    """The implementation, with steered rows."""

    def window(self) -> int | None:
        """Return how many columns a row sees, itself included; None if all before it."""
        return self.sliding_window if self.sliding_window > 0 else None

    def paged(self, layer: Any, kv_cache: torch.Tensor) -> Paged:
        """Return how keys and values are read from the layer's KV cache."""
        blocks, heads, size, _ = kv_cache.shape
        places = interior(layer.isa, kv_cache.dtype, size, self.head_size)
        halves = kv_cache.view(blocks, heads, 2, size * self.head_size)

        def paged(wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            # Shape (rows, blocks, heads, numbers); a place picks each token's.
            key, value = (halves[wanted, :, half][..., place] for half, place in enumerate(places))
            return key.transpose(1, 2).flatten(2, 3), value.transpose(1, 2).flatten(2, 3)

        return paged


@cache
def interior(isa: str, dtype: torch.dtype, size: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the numbers of keys and of values lie in a head's half of a block.

    It depends on the processor's instruction set and the type, and is not told anywhere; so numbers are written by the
    backend's own operation, and looked for.

    Args:
        isa: What the backend calls the instruction set.
        dtype: The type of the cache.
        size: Tokens per block.
        dim: Numbers per token.

    Returns:
        Places for keys and for values, shape (size, dim) each.

    Raises:
        RuntimeError: If what was written is not all there.
    """
    numbers = torch.arange(size * dim)
    written = []
    for digits in (numbers % DIGIT, numbers // DIGIT):
        block = torch.zeros(1, 1, 2 * size, dim, dtype=dtype)
        token = digits.to(dtype).view(size, 1, dim)
        key, value = block.chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(
            token, token, key, value, torch.arange(size), isa, k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto"
        )
        written.append(block.view(2, size * dim).long())
    low, high = written
    found = low + DIGIT * high
    places = found.argsort(-1)
    if not (found.gather(1, places) == numbers).all():
        raise RuntimeError(
            f"the layout of vLLM's CPU cache is not known (isa {isa}, {dtype}, {size} tokens of {dim} numbers): "
            "steered requests cannot be answered on this machine; use another dtype"
        )
    return places[0].view(size, dim), places[1].view(size, dim)


class Backend(CPUAttentionBackend):
    """The backend, with steered rows."""

    @staticmethod
    def get_impl_cls() -> type[Impl]:
        """Return the implementation."""
        return Impl

    @staticmethod
    def get_builder_cls() -> type[Builder]:
        """Return the builder of the metadata."""
        return Builder

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

from adaptvis_plugin.vllm.backends.steered import SteeredBackend, SteeredBuilder, SteeredImpl
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
        strides = interior(layer.isa, kv_cache.dtype, size, self.head_size)
        halves = kv_cache.view(blocks, heads, 2, size * self.head_size)

        def paged(wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            key, value = halves[wanted].transpose(1, 2).unbind(3)
            return read(key, size, strides[0]), read(value, size, strides[1])

        return paged


def read(found: torch.Tensor, size: int, strides: tuple[int, ...]) -> torch.Tensor:
    """Return the keys or the values of blocks in the order of the tokens.

    Args:
        found: What the blocks hold, shape (rows, key/value heads, blocks, numbers).
        size: Tokens per block.
        strides: See `interior`.

    Returns:
        Shape (rows, key/value heads, blocks x size, dim).
    """
    parts = _parts(size, found.shape[-1] // size)
    split = found.as_strided((*found.shape[:3], *parts), (*found.stride()[:3], *strides))
    return split.flatten(6).flatten(2, 5)


@cache
def interior(isa: str, dtype: torch.dtype, size: int, dim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how the numbers of keys and of values lie in a head's half of a block.

    It depends on the processor's instruction set and the type, and is not told anywhere; so numbers are written by the
    backend's own operation, and looked for.

    Args:
        isa: What the backend calls the instruction set.
        dtype: The type of the cache.
        size: Tokens per block.
        dim: Numbers per token.

    Returns:
        The strides for keys and for values, each of tokens and then of numbers, in the parts of `_parts`.

    Raises:
        RuntimeError: If what was written is not all there, or not in strides.
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
    keys, values = (_strides(places.view(_parts(size, dim))) for places in found.argsort(-1))
    if keys is None or values is None or not (found.sort(-1).values == numbers).all():
        raise RuntimeError(
            f"the layout of vLLM's CPU cache is not known (isa {isa}, {dtype}, {size} tokens of {dim} numbers): "
            "steered requests cannot be answered on this machine; use another dtype"
        )
    return keys, values


def _parts(size: int, dim: int) -> tuple[int, ...]:
    """Return how tokens, and the numbers of each, are split so that every part has one stride in all known layouts."""
    return size // 16, 8, 2, dim // 16, 8, 2


def _strides(places: torch.Tensor) -> tuple[int, ...] | None:
    """Return by how much places grow along each axis; None if that is not the same everywhere along it."""
    axes = range(places.dim())
    steps = [int(places.flatten()[places.stride(axis)]) if places.shape[axis] > 1 else 0 for axis in axes]
    grids = torch.meshgrid(
        *(torch.arange(n) * step for n, step in zip(places.shape, steps, strict=True)), indexing="ij"
    )
    return tuple(steps) if torch.equal(torch.stack(grids).sum(0), places) else None


class Backend(SteeredBackend, CPUAttentionBackend):
    """The backend, with steered rows."""

    implementation = Impl
    builder = Builder

"""vLLM's FlashAttention backend, with steered rows. Not run: it needs a GPU."""

from typing import Any

import torch
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadataBuilder,
)

from adaptvis_plugin.vllm.backends.steered import SteeredBackend, SteeredBuilder, SteeredImpl
from adaptvis_plugin.vllm.rows import Paged


class Builder(SteeredBuilder, FlashAttentionMetadataBuilder):
    """The builder of the metadata, with steered rows."""


class Impl(SteeredImpl, FlashAttentionImpl):
    """The implementation, with steered rows."""

    def window(self) -> int | None:
        """Return how many columns a row sees, itself included; None if all before it."""
        left, _ = self.sliding_window
        return left + 1 if left >= 0 else None

    def paged(self, layer: Any, kv_cache: torch.Tensor) -> Paged:
        """Return how keys and values are read from the layer's KV cache."""
        return lambda wanted: read(kv_cache, wanted, self.head_size)


def read(kv_cache: torch.Tensor, wanted: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of blocks; see `Paged`.

    Args:
        kv_cache: Shape (blocks, key/value heads, block size, 2 x dim): each token's key, then its value.
        wanted: See `Paged`.
        dim: Numbers per token in a key; as many in a value.
    """
    found = kv_cache[wanted].transpose(1, 2).flatten(2, 3)
    key, value = found.split(dim, dim=-1)
    return key, value


class Backend(SteeredBackend, FlashAttentionBackend):
    """The backend, with steered rows."""

    implementation = Impl
    builder = Builder

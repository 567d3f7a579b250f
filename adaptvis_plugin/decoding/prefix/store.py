"""The keys and values of prefixes, kept for later batches."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

Key = bytes


@dataclass(frozen=True)
class Prefix:
    """A prefix: the keys and values of each layer, shape (key/value heads, tokens, head dim)."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @classmethod
    def of(cls, cache: DynamicCache, row: int, start: int, end: int) -> "Prefix":
        """Copy a row's positions from `start` to `end` out of a batch's cache."""
        # Cloned, because a view would keep the whole batch's cache in memory.
        return cls(
            tuple(
                (keys[row, :, start:end].clone(), values[row, :, start:end].clone())
                for keys, values in layers_of(cache)
            )
        )

    @property
    def size(self) -> int:
        """The memory it takes, in bytes."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)


class PrefixStore:
    """The most recently used prefixes, as many as fit.

    Args:
        capacity: Memory in bytes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._prefixes: OrderedDict[Key, Prefix] = OrderedDict()
        self._size = 0

    def get(self, key: Key) -> Prefix | None:
        """Return a prefix, or None if it is not cached, and count it as used."""
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
        return self._prefixes.get(key)

    def put(self, key: Key, prefix: Prefix) -> None:
        """Cache a prefix, and drop the least recently used ones until everything fits."""
        if key in self._prefixes or prefix.size > self.capacity:
            return
        self._prefixes[key] = prefix
        self._size += prefix.size
        while self._size > self.capacity:
            self._size -= self._prefixes.popitem(last=False)[1].size

    def clear(self) -> None:
        """Drop everything."""
        self._prefixes.clear()
        self._size = 0


def keeps_every_position(cache: Cache | None) -> bool:
    """Whether a cache keeps every position of every layer, and nothing else."""
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def layers_of(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the keys and values of each layer, shape (batch, key/value heads, tokens, head dim)."""
    return [(cast(Any, layer).keys, cast(Any, layer).values) for layer in cache.layers]

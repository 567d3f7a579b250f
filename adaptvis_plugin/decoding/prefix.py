"""Prompts that begin alike are begun once: the keys and values of an image and of what stands before it.

Many benchmarks ask several questions of one image. Where the image comes first, its vision features and its part of
the prefill are the same for all of them, and in a causal decoder they do not depend on what follows. Rows of a batch,
and of later batches, therefore share the keys and values of their prefix: everything up to the last image token.
Two prefixes are the same if their tokens and their pixels are, byte by byte, and the model is still the same.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from adaptvis_plugin.decoding.changes import fingerprint
from adaptvis_plugin.decoding.inspection import ropes

Key = bytes


@dataclass(frozen=True)
class Prefix:
    """A prefix in the cache: keys and values of each layer, shape (key/value heads, tokens, head dim)."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)


class PrefixStore:
    """The most recently used prefixes, as many as fit.

    Args:
        capacity: bytes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held: OrderedDict[Key, Prefix] = OrderedDict()
        self._size = 0

    def get(self, key: Key) -> Prefix | None:
        """The prefix, which now counts as used."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: Key, prefix: Prefix) -> None:
        """Hold a prefix, and let go of the longest unused where it does not fit."""
        if key in self._held or prefix.size > self.capacity:
            return
        self._held[key] = prefix
        self._size += prefix.size
        while self._size > self.capacity:
            self._size -= self._held.popitem(last=False)[1].size

    def clear(self) -> None:
        """Let go of everything."""
        self._held.clear()
        self._size = 0


class SharedPrefixes:
    """Begins batches with prefixes that are already known, where that is exact.

    It is where the decoder is causal, caches every position of every layer, numbers positions by the tokens before
    them, gets nothing of an image but on and before its tokens, and uses an attention kernel that takes masks with
    holes. What masks, cache and embeddings say is seen in the first batch, which therefore shares nothing yet; a model
    for which sharing is not exact is left alone from then on. A model that has changed since an earlier batch (see
    `changes`) shares nothing with it and is looked at again.

    Args:
        model: the model.
        capacity: bytes of keys and values to hold for later batches.
    """

    def __init__(self, model: PreTrainedModel, capacity: int) -> None:
        self.store = PrefixStore(capacity)
        self._model = model
        self._fingerprint: tuple[Any, ...] | None = None
        self._text = model.config.get_text_config(decoder=True)
        self._exact = capacity > 0 and _positions_are_ordinary(model)
        self._embed = model.get_input_embeddings()
        self.tried = False

    def cut(self, inputs: dict[str, Any], image_columns: torch.Tensor) -> "Rows | None":
        """Cut a batch into prefixes and the rest; None where nothing can be shared."""
        if not self._exact or self._text._attn_implementation not in ("sdpa", "eager"):
            return None
        now = fingerprint(self._model)
        if now is None:
            self.give_up()
            return None
        if now != self._fingerprint:
            self.store.clear()
            self.tried, self._fingerprint = False, now
        return Rows.cut(inputs, image_columns)

    def begin(self, rows: "Rows", pad: int, fill: Callable[[dict[str, Any]], Cache | None]) -> "Begun | None":
        """The batch as the continuation of prefixes; None if no two rows share one and none is held.

        Args:
            rows: the batch.
            pad: the token that fills holes.
            fill: runs a batch of prefixes and returns the cache, or None if it was not causal.
        """
        known = {key: prefix for key in rows.keys if (prefix := self.store.get(key)) is not None}
        missing = {key: row for row, key in reversed(list(enumerate(rows.keys))) if key not in known}
        if len(missing) == len(rows.keys):
            return None
        if missing:
            batch = rows.prefixes(list(missing.values()), pad)
            cache = fill(batch)
            if not is_plain(cache):
                self.give_up()
                return None
            assert isinstance(cache, DynamicCache)
            for key, prefix in zip(missing, split(cache, batch["attention_mask"]), strict=True):
                known[key] = prefix
                self.store.put(key, prefix)
        return Begun(rows.continued([known[key] for key in rows.keys], pad, self._text), len(rows.keys) - len(missing))

    def keep(self, rows: "Rows", cache: Cache | None, embeddings: torch.Tensor | None) -> None:
        """Hold the prefixes of a batch that shared none, for later batches: the last ones, as many as fit.

        Args:
            rows: the batch.
            cache: its cache, or None if it was not causal.
            embeddings: what its tokens were turned into; looked at once for a model.
        """
        # Ovis2 also writes to the token that closes an image, but only in a call that is given the image.
        same = self.tried or (embeddings is not None and rows.ends_are_text(embeddings, self._embed))
        if not same or not is_plain(cache):
            self.give_up()
            return
        self.tried = True
        assert isinstance(cache, DynamicCache)
        room = self.store.capacity
        chosen = []
        for row in reversed(range(len(rows.keys))):
            room -= rows.size(cache, row)
            if room < 0:
                break
            chosen.append(row)
        for row in reversed(chosen):
            self.store.put(rows.keys[row], rows.taken_from(cache, row))

    def give_up(self) -> None:
        """Share nothing more for this model."""
        self._exact = False
        self.store.clear()


@dataclass(frozen=True)
class Begun:
    """A batch whose prefixes are in the cache.

    Attributes:
        inputs: for `generate`.
        reused: rows whose prefix was not computed for them.
    """

    inputs: dict[str, Any]
    reused: int


def _positions_are_ordinary(model: PreTrainedModel) -> bool:
    """Whether a token's position, and its encoding, depend on nothing but the number of tokens before it."""
    prepare = "_prepare_position_ids_for_generation"
    derived = getattr(type(model), prepare) is not getattr(GenerationMixin, prepare)
    kinds = {rope.get("rope_type") for rope in ropes(model.config.get_text_config(decoder=True))}
    # These change their frequencies with the length of the whole prompt.
    return not derived and not kinds & {"dynamic", "longrope"}


class Rows:
    """A left-padded batch, cut into each row's prefix and the rest.

    Attributes:
        keys: one per row; the same key means the same prefix.
    """

    def __init__(self, inputs: dict[str, Any], image_columns: torch.Tensor, images: dict[str, torch.Tensor]) -> None:
        self._ids, self._images = inputs["input_ids"], images
        columns = torch.arange(self._ids.shape[1], device=self._ids.device)
        # A row's real tokens begin after its padding; its prefix ends with its last image token.
        self._starts = (inputs["attention_mask"] == 0).sum(1).tolist()
        self._ends = (torch.where(image_columns, columns, -1).amax(1) + 1).tolist()
        self.keys = [self._key(row) for row in range(len(self._ids))]

    @classmethod
    def cut(cls, inputs: dict[str, Any], image_columns: torch.Tensor) -> "Rows | None":
        """Cut a batch, or return None if it cannot be told which image belongs to which row.

        It can if every row holds an image and every tensor has as many entries as there are rows: each entry then
        belongs to the row of its number.
        """
        images = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask") and v is not None}
        fits = all(
            isinstance(tensor, torch.Tensor) and len(tensor) == len(image_columns) and _is_of_images(name)
            for name, tensor in images.items()
        )
        every_row = bool(image_columns.any(1).all()) and not bool(image_columns[:, -1].any())
        left_padded = bool((inputs["attention_mask"].diff(dim=1) >= 0).all())
        return cls(inputs, image_columns, images) if images and fits and every_row and left_padded else None

    def _key(self, row: int) -> Key:
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in (("", self._ids[row, self._starts[row] : self._ends[row]]), *self._images.items()):
            part = tensor if name == "" else tensor[row]
            digest.update(f"{name} {part.dtype} {tuple(part.shape)} ".encode())
            digest.update(part.contiguous().cpu().view(-1).view(torch.uint8).numpy())
        return digest.digest()

    def prefixes(self, rows: Sequence[int], pad: int) -> dict[str, torch.Tensor]:
        """A batch of only the prefixes of some rows, left padded."""
        parts = [self._ids[row, self._starts[row] : self._ends[row]] for row in rows]
        ids, mask = _left_padded(parts, pad)
        chosen = torch.tensor(rows)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            **{k: v[chosen.to(v.device)] for k, v in self._images.items()},
        }

    def ends_are_text(self, embeddings: torch.Tensor, embed: Any) -> bool:
        """Whether the tokens after each prefix became what they are without an image."""
        return all(
            torch.equal(embeddings[row, end:], embed(self._ids[row, end:].to(embeddings.device)).to(embeddings.dtype))
            for row, end in enumerate(self._ends)
        )

    def size(self, cache: DynamicCache, row: int) -> int:
        """Bytes that the prefix of a row takes."""
        tokens = self._ends[row] - self._starts[row]
        return sum(tensor[0, :, 0].nbytes * tokens for layer in _layers(cache) for tensor in layer)

    def taken_from(self, cache: DynamicCache, row: int) -> Prefix:
        """The prefix of a row out of the cache of the whole batch."""
        return _slice(cache, row, self._starts[row], self._ends[row])

    def continued(self, prefixes: Sequence[Prefix], pad: int, config: Any) -> dict[str, Any]:
        """The batch as the continuation of its rows' prefixes: inputs for `generate`.

        A row is padding, prefix, padding, rest. The holes are masked, and positions count real tokens only, so that
        every token has the position and sees the tokens it would see without them.
        """
        heads, head_mask = _left_padded(
            [self._ids[r, self._starts[r] : self._ends[r]] for r in range(len(self._ids))], pad
        )
        tails, tail_mask = _left_padded([self._ids[r, self._ends[r] :] for r in range(len(self._ids))], pad)
        cache = DynamicCache(config=config)
        for index in range(len(prefixes[0].layers)):
            keys, values = zip(*(prefix.layers[index] for prefix in prefixes), strict=True)
            cache.update(_stacked(keys), _stacked(values), index)
        return {
            "input_ids": torch.cat([heads, tails], 1),
            "attention_mask": torch.cat([head_mask, tail_mask], 1),
            "past_key_values": cache,
        }


def _is_of_images(name: str) -> bool:
    return ("pixel" in name or "image" in name) and "video" not in name


def split(cache: DynamicCache, mask: torch.Tensor) -> list[Prefix]:
    """The rows of a cache that holds nothing but left-padded prefixes; `mask` has shape (rows, tokens)."""
    return [_slice(cache, row, int((mask[row] == 0).sum()), mask.shape[1]) for row in range(len(mask))]


def is_plain(cache: Cache | None) -> bool:
    """Whether a cache keeps every position of every layer, and nothing else."""
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def _slice(cache: DynamicCache, row: int, start: int, end: int) -> Prefix:
    # Cloned: a view would hold on to the whole batch's cache.
    return Prefix(
        tuple((keys[row, :, start:end].clone(), values[row, :, start:end].clone()) for keys, values in _layers(cache))
    )


def _layers(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer, shape (batch, key/value heads, tokens, head dim)."""
    return [(cast(Any, layer).keys, cast(Any, layer).values) for layer in cache.layers]


def _left_padded(rows: Sequence[torch.Tensor], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=pad) for row in rows])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(row), (width - len(row), 0)) for row in rows])
    return ids, mask


def _stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Left-padded to the longest; shape (batch, heads, tokens, dim)."""
    width = max(part.shape[1] for part in parts)
    return torch.stack([torch.nn.functional.pad(part, (0, 0, width - part.shape[1], 0)) for part in parts])

"""A batch cut into each row's prefix and the rest."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad as padded
from transformers import DynamicCache, PreTrainedConfig

from adaptvis_plugin.decoding.prefix.store import Key, Prefix, layers_of


class SharedBatch:
    """A left-padded batch, cut into each row's prefix and the rest.

    Attributes:
        keys: One key per row. Rows with the same key have the same prefix.
    """

    def __init__(self, inputs: dict[str, Any], image_columns: torch.Tensor, images: dict[str, torch.Tensor]) -> None:
        self._ids, self._images = inputs["input_ids"], images
        columns = torch.arange(self._ids.shape[1], device=self._ids.device)
        # A row's prefix begins after its padding and ends with its last image token.
        self._starts = (inputs["attention_mask"] == 0).sum(1).tolist()
        self._ends = (torch.where(image_columns, columns, -1).amax(1) + 1).tolist()
        self.keys = [self._key(row) for row in range(len(self._ids))]

    @classmethod
    def cut(cls, inputs: dict[str, Any], image_token_id: int) -> "SharedBatch | None":
        """Cut a batch, or return None if it is unclear which image belongs to which row.

        It is clear if every row holds an image and every tensor has one entry per row: an entry then belongs to the row
        of the same number.
        """
        image_columns = inputs["input_ids"] == image_token_id
        images = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask") and v is not None}
        fits = all(
            isinstance(tensor, torch.Tensor) and len(tensor) == len(image_columns) and _is_of_images(name)
            for name, tensor in images.items()
        )
        every_row = bool(image_columns.any(1).all()) and not bool(image_columns[:, -1].any())
        left_padded = bool((inputs["attention_mask"].diff(dim=1) >= 0).all())
        return cls(inputs, image_columns, images) if images and fits and every_row and left_padded else None

    def prefixes(self, rows: Sequence[int], pad: int) -> dict[str, torch.Tensor]:
        """Return a left-padded batch of the prefixes alone, of some rows."""
        ids, mask = _left_padded([self._prefix_ids(row) for row in rows], pad)
        chosen = torch.tensor(rows)
        images = {name: tensor[chosen.to(tensor.device)] for name, tensor in self._images.items()}
        return {"input_ids": ids, "attention_mask": mask, **images}

    def text_follows_prefixes(self, embeddings: torch.Tensor, embed: nn.Module) -> bool:
        """Whether the tokens after each prefix were given the same embeddings as without an image."""
        return all(
            torch.equal(
                embeddings[row, end : self._ids.shape[1]],
                embed(self._ids[row, end:].to(embeddings.device)).to(embeddings.dtype),
            )
            for row, end in enumerate(self._ends)
        )

    def prefix_size(self, cache: DynamicCache, row: int) -> int:
        """Return the memory that the prefix of a row takes, in bytes."""
        tokens = self._ends[row] - self._starts[row]
        return sum(tensor[0, :, 0].nbytes * tokens for layer in layers_of(cache) for tensor in layer)

    def prefix_from(self, cache: DynamicCache, row: int) -> Prefix:
        """Copy the prefix of a row out of the cache of the whole batch."""
        return Prefix.of(cache, row, self._starts[row], self._ends[row])

    def continued(self, prefixes: Sequence[Prefix], pad: int, config: PreTrainedConfig) -> dict[str, Any]:
        """Return inputs for `generate` that continue the rows' cached prefixes.

        A row is padding, prefix, padding, rest. The padding is masked, and positions count real tokens only. So every
        token has the same position, and sees the same tokens, as in the original batch. A row is not shorter than
        there: a second stream may need the room.
        """
        rows = range(len(self._ids))
        tails, tail_mask = _left_padded([self._ids[row, self._ends[row] :] for row in rows], pad)
        room = self._ids.shape[1] - tails.shape[1]
        heads, head_mask = _left_padded([self._prefix_ids(row) for row in rows], pad, room)
        cache = DynamicCache(config=config)
        for index in range(len(prefixes[0].layers)):
            keys, values = zip(*(prefix.layers[index] for prefix in prefixes), strict=True)
            cache.update(_stacked(keys, room), _stacked(values, room), index)
        return {
            "input_ids": torch.cat([heads, tails], 1),
            "attention_mask": torch.cat([head_mask, tail_mask], 1),
            "past_key_values": cache,
        }

    def _prefix_ids(self, row: int) -> torch.Tensor:
        ids: torch.Tensor = self._ids[row, self._starts[row] : self._ends[row]]
        return ids

    def _key(self, row: int) -> Key:
        digest = hashlib.blake2b(digest_size=16)
        parts: dict[str, Any] = {name: tensor[row] for name, tensor in self._images.items()}
        for name, part in {"": self._prefix_ids(row), **parts}.items():
            digest.update(f"{name} {part.dtype} {tuple(part.shape)} ".encode())
            digest.update(part.contiguous().cpu().view(-1).view(torch.uint8).numpy())
        return digest.digest()


def _is_of_images(name: str) -> bool:
    return ("pixel" in name or "image" in name) and "video" not in name


def _left_padded(rows: Sequence[torch.Tensor], pad: int, least: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(least, *map(len, rows))
    ids = torch.stack([padded(row, (width - len(row), 0), value=pad) for row in rows])
    mask = torch.stack([padded(torch.ones_like(row), (width - len(row), 0)) for row in rows])
    return ids, mask


def _stacked(parts: Sequence[torch.Tensor], least: int) -> torch.Tensor:
    """Stack keys or values, left padded to the longest or to some length; shape (batch, heads, tokens, dim)."""
    width = max(least, *(part.shape[1] for part in parts))
    return torch.stack([padded(part, (0, 0, width - part.shape[1], 0)) for part in parts])

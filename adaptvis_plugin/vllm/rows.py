"""The rows of a step that are steered: computed again by the formula, from the engine's paged KV cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.nn.utils.rnn import pad_sequence

from adaptvis_plugin.decoding.heads import Heads
from adaptvis_plugin.decoding.method import scaled_image
from adaptvis_plugin.decoding.parts import Columns
from adaptvis_plugin.decoding.rows import additive, attend
from adaptvis_plugin.vllm.steering import Steering

MOST = 2**24
"""Numbers of keys that are gathered at once. An engine gives the rest of a GPU's memory to its KV cache."""

Paged = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Maps blocks, shape (rows, blocks), to their keys and values, shape (rows, key/value heads, blocks x size, dim)."""


@dataclass(frozen=True)
class Layer:
    """What the formula needs of an attention layer, in the engine's own terms.

    Attributes:
        number: Its number in the model.
        first_head: The number of its first head here, where the heads are spread over several processes.
        block_size: Tokens per block of its KV cache.
        key_size: Numbers per token in its keys, over all heads.
        scaling: The factor on q.K^T.
        softcap: The bound of squashed logits; None if there is none.
        window: How many columns a row sees, itself included; None if all before it.
    """

    number: int
    first_head: int
    block_size: int
    key_size: int
    scaling: float
    softcap: float | None
    window: int | None


@dataclass(frozen=True)
class SteeredRows:
    """Last prompt tokens that a step computes and that are steered.

    Attributes:
        tokens: Their places among the step's tokens, shape (rows,).
        rows: Their requests' rows in the block table, shape (rows,).
        lengths: The lengths of their prompts, shape (rows,).
        alpha: Their coefficients, shape (rows, 1, 1, 1), fp32.
        columns: What their prompts hold, padded to the longest.
        places: The heads that each steers.
    """

    tokens: torch.Tensor
    rows: torch.Tensor
    lengths: torch.Tensor
    alpha: torch.Tensor
    columns: Columns
    places: Sequence[Heads]
    _in_layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        tokens: Sequence[int],
        rows: Sequence[int],
        image: Sequence[torch.Tensor],
        asked: Sequence[Steering],
        device: torch.device,
    ) -> "SteeredRows":
        """Return rows of a step.

        Args:
            tokens: See `tokens`.
            rows: See `rows`.
            image: Which tokens of each prompt are image tokens, shape (prompt tokens,) each.
            asked: What each request asks.
            device: The device of the attention.
        """
        padded = pad_sequence([one.to(device) for one in image], batch_first=True)[:, None, None]
        return cls(
            torch.tensor(tokens, device=device),
            torch.tensor(rows, device=device),
            torch.tensor([len(one) for one in image], device=device),
            torch.tensor([one.alpha for one in asked], device=device)[:, None, None, None],
            Columns(padded, torch.zeros_like(padded)),
            [one.places for one in asked],
        )

    def overwrite(
        self, layer: Layer, query: torch.Tensor, table: torch.Tensor, paged: Paged, output: torch.Tensor
    ) -> None:
        """Compute a layer's output for these rows by the formula, in place of what its kernel wrote.

        The rows are gathered at once, padded to the longest, unless that takes more than `MOST` numbers. Their
        attention is that of `decoding.rows`, in fp32.

        Args:
            layer: The layer.
            query: The step's queries, shape (tokens, heads, head dim).
            table: The block table, shape (requests, blocks).
            paged: See `Paged`.
            output: The step's outputs, shape (tokens, heads, dim) or (tokens, heads x dim).
        """
        steered, alpha = self._in_layer(layer, query.shape[1])
        if not len(steered):
            return
        longest = self.columns.image.shape[-1]
        blocks = -(-longest // layer.block_size)
        column = torch.arange(longest, device=query.device)
        parts = max(1, MOST // (blocks * layer.block_size * layer.key_size))
        for rows, coefficients in zip(steered.split(parts), alpha.split(parts), strict=True):
            hidden = column >= self.lengths[rows, None]
            if layer.window is not None:
                hidden |= column < self.lengths[rows, None] - layer.window
            # What is hidden may hold anything, also what is not a number, which a weight of 0 would not hide.
            key, value = (
                found[:, :, :longest].masked_fill(hidden[:, None, :, None], 0)
                for found in paged(table[self.rows[rows], :blocks].long())
            )
            columns, tokens = Columns(self.columns.image[rows], self.columns.before[rows]), self.tokens[rows]
            attended = attend(
                query[tokens][:, :, None],
                key,
                value,
                additive(~hidden[:, None, None]),
                partial(scaled_image, columns=columns, alpha=coefficients),
                scaling=layer.scaling,
                softcap=layer.softcap,
            )
            output[tokens] = attended.reshape(len(rows), *output.shape[1:])

    def _in_layer(self, layer: Layer, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which of these rows a layer steers, and the coefficient of each of its heads there.

        Returns:
            Shapes (steered rows,) and (steered rows, 1 or heads, 1, 1).
        """
        if layer.number not in self._in_layers:
            every = torch.arange(len(self.places), device=self.alpha.device)
            if all(places.all for places in self.places):
                self._in_layers[layer.number] = every, self.alpha
            else:
                chosen = torch.stack([self._heads(places, layer, heads) for places in self.places]).to(every.device)
                alpha = torch.where(chosen[:, :, None, None], self.alpha, 1.0)
                rows = every[chosen.any(1)]
                self._in_layers[layer.number] = rows, alpha[rows]
        return self._in_layers[layer.number]

    @staticmethod
    def _heads(places: Heads, layer: Layer, heads: int) -> torch.Tensor:
        """Return which of a layer's heads here are steered, shape (heads,)."""
        chosen = places.of_layer(layer.number)
        if isinstance(chosen, bool):
            return torch.full((heads,), chosen)
        first, last = layer.first_head, layer.first_head + heads
        return torch.nn.functional.pad(chosen, (0, max(0, last - len(chosen))), value=False)[first:last]

"""Attention of the copies in a packed pass; see `packing`."""

import torch
from torch.nn.functional import pad as padded

from adaptvis_plugin.decoding.attention import AttentionCall, OncePerMask
from adaptvis_plugin.decoding.capture import Captured
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.rows import additive, attention_weights, weighted_sum
from adaptvis_plugin.decoding.steering import BLOCK, BatchEdit, SteeredLayers


class Copies(SteeredLayers):
    """Steers the copies in a pass.

    Args:
        text_decoder: The text decoder.
        edit: What happens to their attention logits.
        count: The number of copied tokens: of all copies together.
        copied: See `PackedPass`.
        captured: See `PackedPass`.
    """

    def __init__(
        self,
        text_decoder: TextDecoder,
        edit: BatchEdit,
        count: int,
        copied: torch.Tensor,
        captured: Captured | None = None,
    ) -> None:
        super().__init__(text_decoder)
        self._edit = edit
        self._count = count
        self._copied = copied
        self._captured = captured
        self._masks = OncePerMask(self._mask if copied.shape[1] == 1 else self._mask_of_texts)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attend with the model's own kernel in the prompt's rows, and by the formula in those of the copies."""
        layer, length, total = self.number(call), self._copied.shape[1], call.key.shape[2]
        query, prompt, mask = call.query[:, :, -self._count :], call.without_last(self._count), self._masks(call)
        output, last = [prompt.run()], []
        for start in range(0, self._count, BLOCK):
            rows = slice(start, start + BLOCK)
            edit = self._edit.in_layer(layer, call, total, rows)
            weights = attention_weights(query[:, :, rows], call.key, mask[:, :, rows], edit, **call.options)
            output.append(weighted_sum(weights, call.value))
            if self._captured is not None:
                last.append(weights[:, :, (length - 1 - start) % length :: length])
        if self._captured is not None:
            self._captured.add(call, prompt.last_weights())
            of_copies, before = torch.cat(last, 2), total - length - self._count
            # A copy sees itself in the place of what it copies, and no other column behind the prompt.
            own = of_copies[..., before:].unflatten(-1, (-1, length)).sum(-2)
            self._captured.add(call, torch.cat([of_copies[..., :before], own], -1))
        return torch.cat(output, 1)

    def _mask(self, call: AttentionCall) -> torch.Tensor:
        """Let each copy of the last token see what that token sees, but itself in that token's place."""
        copies, columns = self._count, call.key.shape[2]
        mask = call.key.new_full((copies, columns), -torch.inf, dtype=torch.float32)
        mask[:, : -1 - copies] = 0
        mask[:, -copies:].fill_diagonal_(0)
        seen = call.without_last(copies).mask_of(-1, columns - copies)
        return mask[None, None] if seen is None else mask + padded(additive(seen), (0, copies))

    def _mask_of_texts(self, call: AttentionCall) -> torch.Tensor:
        """Let each copy of a text see what the text sees, but itself in the text's place."""
        length, prompt, device = self._copied.shape[1], call.without_last(self._count), call.key.device
        copied, queries = self._copied.to(device), prompt.query.shape[2]
        seen = additive(prompt.masks_of(queries - length, queries))
        before = seen.masked_fill(padded(copied, (seen.shape[-1] - length, 0))[:, None, None], -torch.inf)
        own = seen[..., -length:].masked_fill(~copied[:, None, None], -torch.inf)
        # What a copy has too much sees itself, and stays finite.
        own = own.masked_fill(torch.diag_embed(~copied)[:, None], 0)
        copies = self._count // length
        mask = own.new_full((*own.shape[:2], copies, length, copies, length), -torch.inf)
        mask.diagonal(dim1=2, dim2=4).copy_(own[..., None])
        return torch.cat([before.repeat(1, 1, copies, 1), mask.flatten(4, 5).flatten(2, 3)], -1)

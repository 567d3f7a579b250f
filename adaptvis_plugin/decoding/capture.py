"""Capturing attention: the softmax weights of the last prompt token and of its copies, in every layer and head.

They come from a single query on the keys of the pass, so there is no n x n matrix, and the model's own kernel computes
the prompt's rows as ever.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from adaptvis_plugin.decoding.attention import AttentionCall
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.passes import Untouched
from adaptvis_plugin.decoding.steering import EditedRows, steer


class Captured:
    """The attention weights of some rows of a pass, layer by layer.

    Args:
        text_decoder: The text decoder.
    """

    def __init__(self, text_decoder: TextDecoder) -> None:
        self._layers = text_decoder.layers
        self._weights: dict[Any, list[torch.Tensor]] = {}
        self._visible: torch.Tensor | None = None

    def given(self, inputs: dict[str, Any]) -> None:
        """Note what the pass was given, whose columns need not be those of the prompt (see `prefix`)."""
        self._visible = inputs["attention_mask"].bool()

    def add(self, call: AttentionCall, weights: torch.Tensor) -> None:
        """Keep the weights of some rows in a layer, after those that are there.

        Args:
            call: The layer's call.
            weights: Shape (batch, heads, rows, columns of the pass).
        """
        # fp16 holds weights down to 6e-8, and their first three digits.
        self._weights.setdefault(call.module, []).append(weights.transpose(1, 2).half())

    def rows(self, mask: torch.Tensor) -> torch.Tensor:
        """Return all that was kept, and forget it.

        Args:
            mask: The attention mask of the prompts, shape (batch, prompt tokens).

        Returns:
            Shape (batch, rows, layers, heads, prompt tokens), fp16; 0 in padding.
        """
        by_layer = [torch.cat(self._weights.pop(module), 1).to(mask.device) for module in self._layers]
        weights = torch.stack(by_layer, 2)
        visible, own = self._visible, mask.bool()
        assert visible is not None
        if torch.equal(visible, own):
            return weights
        # Both have a row's tokens in the same order, with padding between them at different places.
        order = visible.logical_not().long().argsort(dim=1, stable=True)
        column = order.gather(1, (own.long().cumsum(1) - 1).clamp(min=0))
        index = column[:, None, None, None].expand(*weights.shape[:-1], -1)
        return weights.gather(-1, index) * own[:, None, None, None]


class OwnColumns(NamedTuple):
    """What was captured of one row, over the tokens of its own prompt, without padding.

    Attributes:
        weights: The attention weights, fp16; shape (conditions, layers, heads, columns).
        ids: The prompt's tokens, shape (columns,).
        image: Which of them hold the image, shape (columns,).
    """

    weights: NDArray[np.float16]
    ids: NDArray[np.int32]
    image: NDArray[np.bool_]


def own_columns(inputs: Mapping[str, Any], weights: Sequence[torch.Tensor], image_token_id: int) -> list[OwnColumns]:
    """Return what was captured of each row of a batch.

    Args:
        inputs: What the processor returned.
        weights: What was captured under each condition; see `Decoded.attention`.
        image_token_id: The id of the image placeholder.
    """
    found = []
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        ids = inputs["input_ids"][row, mask]
        own = torch.stack([of_rows[row][..., mask] for of_rows in weights])
        found.append(OwnColumns(*(one.cpu().numpy() for one in (own, ids.int(), ids == image_token_id))))
    return found


class WatchedPass(Untouched):
    """A first pass whose attention is captured, and nothing changed: see `passes.FirstPass`."""

    def __init__(self, model: PreTrainedModel, text_decoder: TextDecoder, captured: Captured) -> None:
        self._model = model
        self._text_decoder = text_decoder
        self._captured = captured

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Note the inputs, and return them."""
        self._captured.given(inputs)
        return inputs

    def inside(self) -> AbstractContextManager[None]:
        """Capture the attention of the first pass inside the block."""
        return steer(self._model, self._text_decoder, EditedRows(self._text_decoder, None, self._captured))

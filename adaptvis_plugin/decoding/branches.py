"""Decoding a prompt in several branches, which share the keys and values of the prompt.

A `generate` call then has a row for each branch of each prompt. Only attention and cache know that these rows belong
together; everything else in the model, and in `generate`, sees ordinary rows.
"""

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from adaptvis_plugin.decoding.attention import AttentionCall, OncePerMask
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.rows import additive, attend
from adaptvis_plugin.decoding.steering import BatchEdit


class Branches:
    """The branches of each prompt, one row each: all attend to the prompt, and each to its own tokens.

    The first branch is the unsteered one. The model's own kernel computes it, as it would alone: in half precision,
    another computation would round in another way, and some answers would not be those of plain decoding.

    Args:
        text_decoder: The text decoder.
        branches: The number of branches.
        before: The number of prompt tokens before the last one.
        edit: What happens to the attention logits, with the strength of each branch; None if nothing does.
    """

    def __init__(self, text_decoder: TextDecoder, branches: int, before: int, edit: BatchEdit | None = None) -> None:
        self.modules = text_decoder.attention
        self._layers = text_decoder.layers
        self._branches = branches
        self._before = before
        self._edit = edit
        self._masks = OncePerMask(self._mask)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attend with one query in each row, to the keys and values of its prompt's branches (see `BranchLayer`)."""
        query = call.query[:, :, 0].unflatten(0, (-1, self._branches)).transpose(1, 2)
        edit = None
        if self._edit is not None:
            edit = self._edit.in_layer(self._layers[call.module], call, call.key.shape[2])
        output = attend(query, call.key, call.value, self._masks(call), edit, **call.options).flatten(0, 1)[:, None]
        output[:: self._branches] = self._first_branch(call).run()
        return output

    def _first_branch(self, call: AttentionCall) -> AttentionCall:
        """Return the call of the first branch of each prompt, as if it had the cache for itself."""
        rows, before = slice(None, None, self._branches), self._before
        mask, options = call.mask, call.options
        if mask is not None and len(mask) > 1:
            mask = mask[rows]
        if isinstance(options.get("position_ids"), torch.Tensor):
            options = {**options, "position_ids": options["position_ids"][..., rows, :]}
        # Slices, because a GPU would have to tell how many columns a mask selects, and wait for that in every layer.
        key, value = (
            torch.cat([states[:, :, :before], states[:, :, before :: self._branches]], 2)
            for states in (call.key, call.value)
        )
        return AttentionCall(call.kernel, call.module, call.query[rows], key, value, mask, options)

    def _mask(self, call: AttentionCall) -> torch.Tensor:
        """Let each branch see the prompt as the model says, and of the tokens after it only its own."""
        branches, before = self._branches, self._before
        steps = (call.key.shape[2] - before) // branches
        mask = call.key.new_full((branches, before + steps * branches), -torch.inf, dtype=torch.float32)
        mask[:, :before] = 0
        mask[:, before:].view(branches, steps, branches).diagonal(dim1=0, dim2=2).zero_()
        seen = call.mask_of(-1, before + steps)
        if seen is None:
            return mask[None, None]
        seen = additive(seen).expand(len(call.query), -1, -1, -1)
        by_branch = seen[:, :, 0].unflatten(0, (-1, branches)).transpose(1, 2)
        columns = [by_branch[..., :before], by_branch[..., before:].repeat_interleave(branches, -1)]
        return mask + torch.cat(columns, -1)


class BranchLayer(DynamicLayer):
    """The keys and values of a layer for all branches of a prompt.

    The columns are the prompt's tokens before the last one, then the last one under each branch's coefficient, then
    the first new token of each branch, and so on. The model sees one row for each branch.

    Args:
        keys: Shape (batch, key/value heads, tokens before and branches, head dim).
        values: Shape (batch, key/value heads, tokens before and branches, value dim).
        branches: The number of branches.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, branches: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys: torch.Tensor = keys
        self.values: torch.Tensor = values
        self._branches = branches
        self._before = keys.shape[2] - branches

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one token of each branch, shape (batch and branches, key/value heads, 1, dim)."""
        keys, values = (
            states[:, :, 0].unflatten(0, (-1, self._branches)).transpose(1, 2) for states in (key_states, value_states)
        )
        return super().update(keys, values)

    def get_seq_length(self) -> int:
        """Count the tokens of one branch, prompt included."""
        return self._before + (self.keys.shape[2] - self._before) // self._branches

"""Steering a pass over the whole prompt, in its last row or in more, and those that follow it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad as padded
from transformers import PreTrainedModel

from adaptvis_plugin.decoding.attention import AttentionCall, Steering, active, is_flash, over
from adaptvis_plugin.decoding.first_pass import around_first_pass
from adaptvis_plugin.decoding.inspection import TextDecoder, has_softcap
from adaptvis_plugin.decoding.parts import AttentionEdit, Columns
from adaptvis_plugin.decoding.rows import Edit, additive, attend, weighted_sum

if TYPE_CHECKING:
    from adaptvis_plugin.decoding.capture import Captured

BLOCK = 256
"""Rows that are computed at once where many are edited."""
ALL = slice(None)


class SteeredLayers:
    """The text decoder's attention layers, and those of them that a pass has steered.

    Attributes:
        modules: The layers.
    """

    def __init__(self, text_decoder: TextDecoder) -> None:
        self.modules = text_decoder.attention
        self._numbers = text_decoder.layers
        self._steered: set[Any] = set()

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Return the layer's output; see `Steering`."""
        raise NotImplementedError

    def number(self, call: AttentionCall) -> int:
        """Note that a layer was steered, and return its number in the model."""
        self._steered.add(call.module)
        return self._numbers[call.module]

    def check(self) -> None:
        """Raise RuntimeError if the pass left a layer unsteered."""
        if left := self.modules - self._steered:
            raise RuntimeError(
                f"steered {len(self._steered)} of {len(self.modules)} attention layers: the attention of "
                f"{', '.join(sorted({type(module).__name__ for module in left}))} does not go through the attention "
                "interface in every layer"
            )


@dataclass(frozen=True)
class BatchEdit:
    """What happens to attention logits in a batch.

    Attributes:
        edit: The method's part.
        columns: What the columns of the prompts hold.
        strength: See `parts.Change`.
    """

    edit: AttentionEdit
    columns: Columns
    strength: torch.Tensor
    _extended: dict[Any, tuple[Columns, torch.Tensor]] = field(default_factory=dict, repr=False)

    def in_layer(self, layer: int, call: AttentionCall, total: int, rows: slice = ALL) -> Edit | None:
        """Return what happens to the logits in a layer; None if nothing does.

        Args:
            layer: The layer's number.
            call: Its call.
            total: The number of columns so far, of which a layer with a sliding window is given only the last ones.
            rows: Which of the rows that have a strength of their own.
        """
        heads = self.edit.heads.of_layer(layer)
        if heads is False:
            return None
        batch, seen, device, change = len(call.key), call.key.shape[2], call.key.device, self.edit.change
        if (total, seen, device) not in self._extended:  # once for all layers of a pass that are alike
            columns, strength = self.columns.extended(total, seen, device), self.strength.to(device)
            if (views := batch // len(columns.image)) > 1:  # beside each row its view, which is not edited
                columns, strength = columns.beside(views), strength.repeat_interleave(views, 0)
            self._extended[total, seen, device] = columns, strength
        columns, strength = self._extended[total, seen, device]
        strength = strength[:, :, rows]
        if heads is True:
            return lambda logits: change(logits, columns, strength)
        chosen = padded(heads, (0, call.query.shape[1] - len(heads)), value=False)[:, None, None].to(device)
        return lambda logits: torch.where(chosen, change(logits.clone(), columns, strength), logits)


class EditedRows(SteeredLayers):
    """Edits the attention logits of the last row of each pass or, in the pass over the prompt, of more rows.

    Args:
        text_decoder: The text decoder.
        edit: What happens to the logits; None if nothing does.
        captured: Where to keep the weights of the last row of the prompt.
        passes: The number of passes that were made before.
    """

    def __init__(
        self,
        text_decoder: TextDecoder,
        edit: BatchEdit | None,
        captured: "Captured | None" = None,
        passes: int = 0,
    ) -> None:
        super().__init__(text_decoder)
        self._edit = edit
        self._captured = captured
        self._passes = dict.fromkeys(self.modules, passes)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attend with the model's own kernel, and by the formula in the rows that are edited."""
        layer = self.number(call)
        passes = self._passes[call.module]
        self._passes[call.module] += 1
        edit = None
        if self._edit is not None:
            edit = self._edit.in_layer(layer, call, self._edit.columns.image.shape[-1] + passes)
        if self._captured is None and edit is None:
            return call.run()
        if self._edit is not None and edit is not None and self._edit.edit.rows != "last" and passes == 0:
            if self._captured is not None:
                self._captured.add(call, call.last_weights(edit))
            return self._many_rows(call, edit, self._edit)
        weights = call.last_weights(edit)
        if self._captured is not None and passes == 0:
            self._captured.add(call, weights)
        if edit is None:
            return call.run()
        last = weighted_sum(weights, call.value)
        return last if call.query.shape[2] == 1 else torch.cat([call.run()[:, :-1], last], 1)

    def _many_rows(self, call: AttentionCall, edit: Edit, of_batch: BatchEdit) -> torch.Tensor:
        """Attend with the model's own kernel, and replace all rows, or those after each row's last image token."""
        output, queries, columns = call.run(), call.query.shape[2], call.key.shape[2]
        last_image = of_batch.columns.last_image.to(output.device)
        after = last_image if of_batch.edit.rows == "after the image" else torch.full_like(last_image, -1)
        edited = torch.arange(columns - queries, columns, device=output.device) > after[:, None]
        first = int(edited.any(0).long().argmax())
        for start in range(first, queries, BLOCK):
            rows = slice(start, min(start + BLOCK, queries))
            # A row of padding sees nothing, and has to stay finite.
            mask = additive(call.masks_of(rows.start, rows.stop)).clamp(min=torch.finfo(torch.float32).min)
            ours = attend(call.query[:, :, rows], call.key, call.value, mask, edit, **call.options)
            output[:, rows] = torch.where(edited[:, rows, None, None], ours, output[:, rows])
        return output


@contextmanager
def steer(
    model: PreTrainedModel,
    text_decoder: TextDecoder,
    steering: SteeredLayers,
    *,
    every_step: bool = False,
    matrix: bool = False,
) -> Iterator[None]:
    """Steer the first forward pass inside the block; later passes are the model's own, unless all are steered.

    Args:
        model: The model that generates inside the block.
        text_decoder: Its text decoder.
        steering: What happens in the passes.
        every_step: Whether all passes are steered.
        matrix: See `attention_under`.

    Raises:
        RuntimeError: If the pass left an attention layer unsteered.
    """
    swapped = ExitStack()

    def before(options: dict[str, Any]) -> None:
        swapped.enter_context(attention_under(text_decoder, steering, matrix=matrix))

    def after(output: Any) -> None:
        if not every_step:
            swapped.close()
        if output is not None:
            steering.check()

    with swapped, around_first_pass(model, before, after):
        yield


@contextmanager
def attention_under(text_decoder: TextDecoder, steering: Steering, *, matrix: bool = False) -> Iterator[None]:
    """Let the text decoder attend under a steering.

    Args:
        text_decoder: The text decoder.
        steering: The steering.
        matrix: Whether it needs the mask of many rows, which a flash kernel does not have; then sdpa attends, or
            eager attention if there is a softcap.

    **Mutates the model inside the block**: the configs of the text decoder name another attention function. Afterwards
    they name the model's own again. Vision towers have other configs, which are never touched. Two of these blocks at a
    time on one model would restore each other's attention, so the caller holds the model's lock (see `decoder`).
    """
    own = [config._attn_implementation for config in text_decoder.configs]
    token = active.set(steering)
    try:
        for config, name in zip(text_decoder.configs, own, strict=True):
            # The prompt's rows come from the model's own kernel, or from another if that takes no mask that can be cut.
            keep = has_kernel(name) and not (matrix and is_flash(name))
            config._attn_implementation = over(name if keep else "eager" if has_softcap(config) else "sdpa")
        yield
    finally:
        active.reset(token)
        for config, name in zip(text_decoder.configs, own, strict=True):
            config._attn_implementation = name


def has_kernel(name: str) -> bool:
    """Whether the masks of an attention implementation can be cut by rows and columns."""
    return name in ("sdpa", "eager") or is_flash(name)

"""A second stream: every row is decoded beside another view of itself, and their logits are mixed at every step.

Both prompts are prefilled on their own, because a view without images is short. From there on the `generate` call has
two rows for each prompt, the row itself and its view, which follow each other and are given the same tokens. So the
model keeps one cache, and whatever a family keeps beside it belongs to one batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad as padded
from transformers import Cache, PreTrainedModel

from adaptvis_plugin.decoding.first_pass import around_first_pass
from adaptvis_plugin.decoding.greedy import Greedy
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.mixing import MixedPass
from adaptvis_plugin.decoding.parts import SecondStream
from adaptvis_plugin.decoding.passes import generate, positions
from adaptvis_plugin.decoding.recording import Recording

_ROWS = 2
"""The rows of the call for each prompt."""


@dataclass(frozen=True)
class PrefilledView:
    """The views of a batch after their prefill.

    Attributes:
        inputs: What was prefilled.
        cache: The keys, values and states.
        logits: The logits of the first token, shape (batch, vocabulary), fp32.
    """

    inputs: dict[str, Any]
    cache: Cache
    logits: torch.Tensor

    @classmethod
    def of(
        cls, model: PreTrainedModel, text_decoder: TextDecoder, inputs: dict[str, Any], greedy: Greedy
    ) -> "PrefilledView":
        """Prefill views.

        Args:
            model: The model.
            text_decoder: Its text decoder.
            inputs: The inputs of the views, with an attention mask.
            greedy: How to generate.

        Raises:
            NonFiniteLogitsError: If a view's logits are not finite.
        """
        kept: list[Cache] = []

        def keep(recording: Recording) -> None:
            assert recording.cache is not None
            kept.append(recording.cache)

        name = "the first token of the second stream"
        made = generate(model, text_decoder, inputs, greedy.one_token(), keep=keep, first_token=name)
        return cls(inputs, kept[0], made.first.logits[:, 0])


class PairedPass(MixedPass):
    """A `generate` call with a second row for each prompt, its view, that is mixed in: see `passes.FirstPass`.

    Args:
        model: The model.
        part: The method's part.
        view: The views.
        room: By how many tokens they are longer than the prompts. The prompts are padded by them on the left, though
            only once they are prefilled: a mask in that pass would cost a tenth of its time.
        **options: See `MixedPass`.
    """

    branches = _ROWS

    def __init__(
        self, model: PreTrainedModel, part: SecondStream, view: PrefilledView, room: int = 0, **options: Any
    ) -> None:
        super().__init__(**options)
        self._room = room
        self._model = model
        self._part = part
        self._view = view
        self._other = view.logits

    def mixed(self, logits: torch.Tensor, strength: torch.Tensor, step: int) -> torch.Tensor:
        """Mix those of the views in."""
        return self._part.mix(logits, self._other, strength, step)

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return inputs for `generate` with two rows for each prompt, and the images of the first alone.

        The view's tokens are those of its row: only logits processors see them, which then give both the same token.
        """
        inputs = super().prepare(inputs)
        own, view = ({**each, "position_ids": positions(self._model, each)} for each in (inputs, self._view.inputs))
        shape = inputs["input_ids"].shape
        aligned = {
            name: padded(value, (self._room, 0))
            for name, value in own.items()
            if name == "position_ids" or getattr(value, "shape", None) == shape
        }
        views = {**view, "input_ids": aligned["input_ids"]}
        return {**inputs, **{name: _interleaved(value, views.get(name)) for name, value in aligned.items()}}

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Give the first pass of the `generate` call inside the block the rows without their views."""
        with around_first_pass(self._model, self._before), super().inside():
            yield

    def _before(self, options: dict[str, Any]) -> dict[str, Any]:
        tokens = options["input_ids"].shape
        return {
            name: value[..., ::_ROWS, self._room :]
            if value is not None
            and (name in ("attention_mask", "position_ids") or getattr(value, "shape", None) == tokens)
            else value
            for name, value in options.items()
        }

    def ended(self, recording: Recording, output: Any) -> None:
        """Mix the logits of the first token, and put the views beside their rows."""
        super().ended(recording, output)
        output.logits = output.logits.repeat_interleave(_ROWS, 0)
        _join(output.past_key_values, self._view.cache)

    def later(self, output: Any) -> None:
        """Mix the logits of a later token."""
        self._other = output.logits[1::_ROWS, -1].float()
        output.logits = self.next(output.logits[::_ROWS, -1]).repeat_interleave(_ROWS, 0)[:, None]


def _interleaved(own: torch.Tensor, view: torch.Tensor | None) -> torch.Tensor:
    """Return rows and their views, left padded to the rows' length; shape (..., rows, tokens) -> (..., 2 rows, tokens).

    What a view does not have is 0, as it is for text.
    """
    if view is None:
        view = torch.zeros_like(own)
    view = padded(view, (own.shape[-1] - view.shape[-1], 0)).to(own).expand_as(own)
    return torch.stack([own, view], -2).flatten(-3, -2)


def _join(cache: Any, views: Any) -> None:
    """Put the views' keys, values and states beside those of their rows."""
    for layer, other in zip(cache.layers, views.layers, strict=True):
        for name in ("keys", "values"):
            own, view = getattr(layer, name, None), getattr(other, name, None)
            if own is not None and view is not None:  # otherwise the layer shares those of another one
                tokens = max(own.shape[-2], view.shape[-2])
                joined = own.new_zeros(len(own), _ROWS, own.shape[1], tokens, own.shape[-1])
                for row, states in enumerate((own, view)):
                    joined[:, row, :, tokens - states.shape[-2] :] = states
                setattr(layer, name, joined.flatten(0, 1))
        if hasattr(layer, "cumulative_length"):  # of a sliding window, which forgets tokens and still counts them
            layer.cumulative_length = max(layer.cumulative_length, other.cumulative_length)
        for name in ("conv_states", "recurrent_states"):
            own_states, others = getattr(layer, name, {}), getattr(other, name, {})
            for index, own in own_states.items():
                if own is not None:
                    own_states[index] = torch.stack([own, others[index]], 1).flatten(0, 1)

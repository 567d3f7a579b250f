"""One pass for every coefficient: copies of the tokens that are edited, behind the prompt and at their positions.

These tokens are the last one of the prompt, or all after its image. In a causal decoder no prompt token sees the
copies, so the model's own kernel computes the prompt's rows as ever. Each copy sees what stands before the tokens that
it copies, under a coefficient of its own, and itself. So one pass gives the logits of the plain model and of each
coefficient. A prompt is then decoded in one branch, whose cache is the prompt with the chosen copy in the place of what
it copies, or in several branches (see `branches`), if only the last token is edited.

Where the texts after the images differ in length, all copies are as long as the longest. What a copy has too much, at
its beginning, is computed and not used.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from adaptvis_plugin.decoding.attention import active
from adaptvis_plugin.decoding.branches import Branches, BranchLayer
from adaptvis_plugin.decoding.capture import Captured
from adaptvis_plugin.decoding.copies import Copies
from adaptvis_plugin.decoding.finite import refuse, unusable
from adaptvis_plugin.decoding.first_pass import around_first_pass
from adaptvis_plugin.decoding.first_token import FirstToken, Options
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.parts import AttentionEdit, Columns
from adaptvis_plugin.decoding.passes import positions
from adaptvis_plugin.decoding.recording import Recording
from adaptvis_plugin.decoding.steering import BatchEdit, EditedRows, attention_under, has_kernel

Choose = Callable[[FirstToken], torch.Tensor]
"""Maps the unsteered model's first token to the strength of each branch, shape (batch, branches)."""


class InexactError(Exception):
    """The copies of a batch are not what a steered pass would compute.

    Attributes:
        may_change: Whether it may be otherwise for another batch.
    """

    def __init__(self, *, may_change: bool) -> None:
        super().__init__()
        self.may_change = may_change


class PackedPass:
    """A first pass with copies, and how the prompts are decoded from there.

    Args:
        model: The model.
        text_decoder: Its text decoder.
        edit: What happens to the attention logits of the copies.
        copied: Which of the last tokens are copied, shape (batch, length of a copy).
        coefficients: The neutral strength for the prompt itself, and the strength of each copy.
        choose: See `Choose`.
        branches: The number of branches of each prompt. The `generate` call has a row for each, and those of a prompt
            follow each other.
        options: See `FirstToken`.
        captured: Where to keep the weights of the last prompt token, and of each copy in its place.

    Attributes:
        copies: The number of copied tokens: of all copies together.
        branches: The number of branches of each prompt.
        alpha: What `choose` returned.
        logits: Logits of the first token of each branch; shape (batch, branches, vocabulary), fp32.
    """

    alpha: torch.Tensor
    logits: torch.Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        text_decoder: TextDecoder,
        edit: AttentionEdit,
        copied: torch.Tensor,
        coefficients: Sequence[float],
        choose: Choose,
        *,
        branches: int,
        options: Sequence[Options] | None = None,
        captured: Captured | None = None,
    ) -> None:
        self.copies = (len(coefficients) - 1) * copied.shape[1]
        self.branches = branches
        self._model = model
        self._text_decoder = text_decoder
        self._edit = edit
        self._copied = copied
        self._coefficients = coefficients
        self._choose = choose
        self._options = options
        self._captured = captured
        self._swapped = ExitStack()

    def may_be_exact_for(self, inputs: dict[str, Any]) -> bool:
        """Whether copies can be tried for a batch; its pass shows the rest."""
        text, (tokens, length) = self._text_decoder, (inputs["input_ids"].shape[1], self._copied.shape[1])
        copied = self._copy(inputs["input_ids"][:, -length:])
        step = text.query_scale_step
        return (
            all(has_kernel(config._attn_implementation) for config in text.configs)
            # A placeholder needs a feature of an image, and a copy has none.
            and text.placeholders.isdisjoint(copied.flatten().tolist())
            and (step is None or (tokens - length + 1) // step == (tokens + self.copies) // step)
        )

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return inputs for `generate` with a row for each branch, though each image only once."""
        self._columns = Columns.of(inputs["input_ids"], self._text_decoder.image_token_id)
        strength = torch.tensor(self._coefficients[1:], device=inputs["input_ids"].device)
        strength = strength.repeat_interleave(self._copied.shape[1])[None, None, :, None]
        edit = BatchEdit(self._edit, self._columns, strength)
        self._steered = Copies(self._text_decoder, edit, self.copies, self._copied, self._captured)
        if self._captured is not None:
            self._captured.given(inputs)
        if self.branches == 1:
            return inputs
        tokens = inputs["input_ids"].shape
        aligned = {name: value for name, value in inputs.items() if getattr(value, "shape", None) == tokens}
        aligned["position_ids"] = positions(self._model, inputs)
        return {**inputs, **{name: value.repeat_interleave(self.branches, -2) for name, value in aligned.items()}}

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put the copies into the first pass of the `generate` call inside the block."""
        with self._swapped, around_first_pass(self._model, self._before):
            yield

    def _before(self, options: dict[str, Any]) -> dict[str, Any]:
        cache = options.get("past_key_values")
        if isinstance(cache, Cache):
            cache.activate_past_recording()  # so that a sliding window loses nothing that is needed without the copies
        matrix = self._edit.rows != "last"
        self._swapped.enter_context(attention_under(self._text_decoder, self._steered, matrix=matrix))
        tokens = options["input_ids"]
        packed = {
            name: self._packed(value)
            for name, value in options.items()
            if value is not None
            and (name in ("attention_mask", "position_ids") or getattr(value, "shape", None) == tokens.shape)
        }
        if options.get("logits_to_keep"):
            packed["logits_to_keep"] = options["logits_to_keep"] + self.copies
            if (length := self._copied.shape[1]) > 1:  # the last token of the prompt, and that of each copy
                last = torch.arange(-1, self.copies, length, device=tokens.device) + tokens.shape[1]
                packed["logits_to_keep"] = last
        return {**options, **packed}

    def _packed(self, value: torch.Tensor) -> torch.Tensor:
        """Take one row for each prompt, and append the copies; shape (..., rows, tokens)."""
        value, length = value[..., :: self.branches, :], self._copied.shape[1]
        copy = self._copy(value[..., -length:])
        return torch.cat([value, *[copy] * (self.copies // length)], -1)

    def _copy(self, last: torch.Tensor) -> torch.Tensor:
        """Return the last tokens with the very last in the place of those that are not copied; shape (..., tokens)."""
        return torch.where(self._copied.to(last.device), last, last[..., -1:])

    def ended(self, recording: Recording, output: Any) -> None:
        """Choose the branches once the first pass has ended, and leave their logits and cache to `generate`.

        Raises:
            InexactError: If the copies are not exact for this batch.
            ValueError: If `choose` returns a coefficient that was not computed.
            RuntimeError: If the pass left an attention layer unsteered.
            NonFiniteLogitsError: If the logits of a branch are not finite.
        """
        self._steered.check()
        length, copies = self._copied.shape[1], self.copies
        if not recording.unseen(length + copies):
            # The tokens of an image may see each other, and be among the last ones of a row with a shorter text.
            raise InexactError(may_change=recording.unseen(1 + copies))
        if not self._copies_are_true(recording.inputs_embeds):
            raise InexactError(may_change=True)
        if recording.logits.shape[1] == 1 + copies:  # a model that returns the logits of all tokens
            recording.logits = recording.logits[:, ::length]
        self.alpha = self._choose(FirstToken(recording.logits[:, 0], self._options))
        chosen = self._places(self.alpha)
        self.logits = self.chosen(recording.logits)
        refuse(unusable(self.logits).any(1), self._model.dtype, "the first token under steering")
        output.logits = self.logits.flatten(0, 1)[:, None]
        cache: Any = output.past_key_values
        before = cache.get_seq_length() - length - copies
        _put_chosen(cache, self._copied, copies, chosen)
        if self.branches == 1:
            if self._edit.every_step:
                active.set(EditedRows(self._text_decoder, self._chosen_edit(), passes=1))
            else:
                self._swapped.close()
            cache.crop(-copies)
            for layer in cache.layers:
                if hasattr(layer, "record_past"):
                    layer.record_past = False  # a sliding window forgets again
        else:
            cache.layers = [
                layer if layer.keys is None else BranchLayer(layer.keys, layer.values, self.branches)
                for layer in cache.layers
            ]
            edit = self._chosen_edit() if self._edit.every_step else None
            active.set(Branches(self._text_decoder, self.branches, before, edit))

    def _copies_are_true(self, given: torch.Tensor | None) -> bool:
        """Whether the copies were given what the tokens that they copy were given, shape (batch, tokens, size)."""
        if given is None:
            return True
        length = self._copied.shape[1]
        last = given[:, -length - self.copies :].permute(2, 0, 1).unflatten(-1, (-1, length))
        return bool((last[..., 1:, :] == self._copy(last[..., 0, :])[..., None, :]).all())

    def later(self, output: Any) -> None:
        """Leave a later pass as it is."""

    def _chosen_edit(self) -> BatchEdit:
        """Return what happens to the attention logits after the first pass."""
        return BatchEdit(self._edit, self._columns, self.alpha[:, None, :, None])

    def chosen(self, by_copy: torch.Tensor) -> torch.Tensor:
        """Return what belongs to each branch, of what was computed for the last prompt token and its copies.

        Args:
            by_copy: Shape (batch, 1 + copies, ...).

        Returns:
            Shape (batch, branches, ...).
        """
        places = self._places(self.alpha).to(by_copy.device)
        return by_copy[torch.arange(len(places), device=places.device)[:, None], places]

    def _places(self, alpha: torch.Tensor) -> torch.Tensor:
        """Return where each coefficient stands among those that were computed, shape (batch, branches)."""
        computed = alpha[..., None] == alpha.new_tensor(self._coefficients)
        if not bool(computed.any(-1).all()):
            raise ValueError(
                f"the method chose the coefficients {sorted({*alpha.flatten().tolist()})}, but beside 1 it names only "
                f"{self._coefficients[1:]}; its alphas must hold every coefficient that choose may return"
            )
        return computed.long().argmax(-1)


def _put_chosen(cache: Any, copied: torch.Tensor, copies: int, chosen: torch.Tensor) -> None:
    """Put the chosen copies in the place of what they copy, and of what stands behind it.

    Args:
        cache: The cache, with the copies.
        copied: See `PackedPass`.
        copies: The number of copied tokens.
        chosen: 0 for the prompt itself, i for the i-th copy; shape (batch, branches).
    """
    length = copied.shape[1]
    from_copy = torch.where(copied.to(chosen.device)[:, None], chosen[..., None] * length, 0)
    places = (from_copy + torch.arange(length, device=chosen.device)).flatten(1)[:, None, :, None]
    for layer in cache.layers:
        for states in (layer.keys, layer.values):
            if states is not None:  # otherwise the layer shares those of another one
                last = states[:, :, -length - copies :]
                index = places.to(states.device).expand(-1, last.shape[1], -1, last.shape[3])
                last[:, :, : places.shape[2]] = last.gather(2, index)

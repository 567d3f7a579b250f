"""One pass for every coefficient: copies of the last prompt token, behind the prompt and at its position.

In a causal decoder no prompt token sees the copies, so the model's own kernel computes the prompt's rows as ever. Each
copy sees the tokens before the last one, under a coefficient of its own, and itself. So one pass gives the logits of
the plain model and of each coefficient. A prompt is then decoded in one branch, whose cache is the prompt with the
chosen copy in the place of the last token, or in several branches, which share the cache of the prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from adaptvis_plugin.decoding.attention import AttentionCall, active
from adaptvis_plugin.decoding.finite import refuse, unusable
from adaptvis_plugin.decoding.first_pass import around_first_pass
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.recording import Recording
from adaptvis_plugin.decoding.rows import KeysAndValues, attend
from adaptvis_plugin.decoding.steering import SteeredLayers, attention_under, has_kernel

Choose = Callable[[torch.Tensor], torch.Tensor]
"""Maps the confidence, shape (batch,), to the branches of each row: shape (batch, branches), where 0 is the plain
model and i the i-th copy."""


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
        alphas: The coefficient of each copy.
        branches: The number of branches of each prompt. The `generate` call has a row for each, and those of a prompt
            follow each other.
        choose: See `Choose`.

    Attributes:
        copies: The number of copies.
        chosen: What `choose` returned.
        logits: Logits of the first token of each branch; shape (batch, branches, vocabulary), fp32.
    """

    chosen: torch.Tensor
    logits: torch.Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        text_decoder: TextDecoder,
        alphas: Sequence[float],
        branches: int,
        choose: Choose,
    ) -> None:
        self.copies = len(alphas)
        self._model = model
        self._text_decoder = text_decoder
        self._alphas = alphas
        self._branches = branches
        self._choose = choose
        self._swapped = ExitStack()

    def may_be_exact_for(self, inputs: dict[str, Any]) -> bool:
        """Whether copies can be tried for a batch; its pass shows the rest."""
        text, (tokens, last) = self._text_decoder, (inputs["input_ids"].shape[1], inputs["input_ids"][:, -1])
        step = text.query_scale_step
        return (
            all(has_kernel(config._attn_implementation) for config in text.configs)
            # A placeholder needs a feature of an image, and a copy has none.
            and not any(bool((last == token).any()) for token in text.placeholders)
            and (step is None or tokens // step == (tokens + self.copies) // step)
        )

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return inputs for `generate` with a row for each branch, though each image only once."""
        image_columns = inputs["input_ids"] == self._text_decoder.image_token_id
        gain = torch.stack([torch.where(image_columns, alpha, 1.0) for alpha in self._alphas], 1)
        self._steered = Copies(self._text_decoder, gain, keep_prompt=self._branches > 1)
        if self._branches == 1:
            return inputs
        tokens = inputs["input_ids"].shape
        aligned = {k: v for k, v in inputs.items() if getattr(v, "shape", None) == tokens}
        # Some families derive positions from the images, which must not be counted once more for each branch.
        positions = inputs.get("position_ids")
        if positions is None:
            others = {k: v for k, v in inputs.items() if k != "input_ids"}
            positions = self._model._prepare_position_ids_for_generation(inputs["input_ids"], others)
        aligned["position_ids"] = positions
        return {**inputs, **{name: value.repeat_interleave(self._branches, -2) for name, value in aligned.items()}}

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put the copies into the first pass of the `generate` call inside the block."""
        with self._swapped, around_first_pass(self._model, self._before, lambda output: None):
            yield

    def _before(self, options: dict[str, Any]) -> dict[str, Any]:
        if isinstance(options.get("past_key_values"), Cache):
            options["past_key_values"].activate_past_recording()
        self._swapped.enter_context(attention_under(self._text_decoder, self._steered))
        tokens = options["input_ids"].shape
        packed = {
            name: self._packed(value)
            for name, value in options.items()
            if name in ("attention_mask", "position_ids") or getattr(value, "shape", None) == tokens
            if value is not None
        }
        if options.get("logits_to_keep"):
            packed["logits_to_keep"] = options["logits_to_keep"] + self.copies
        return {**options, **packed}

    def _packed(self, value: torch.Tensor) -> torch.Tensor:
        """Take one row for each prompt, and append the copies: shape (..., rows, tokens)."""
        value = value[..., :: self._branches, :]
        return torch.cat([value, value[..., -1:].expand(*value.shape[:-1], self.copies)], -1)

    def ended(self, recording: Recording, output: Any) -> None:
        """Choose the branches once the first pass has ended, and leave their logits and cache to `generate`.

        Raises:
            InexactError: If the copies are not exact for this batch.
            RuntimeError: If the pass left an attention layer unsteered.
            NonFiniteLogitsError: If the logits of a branch are not finite.
        """
        self._steered.check()
        if not recording.last_is_unseen:
            raise InexactError(may_change=False)
        if not recording.copies_are_true:
            raise InexactError(may_change=True)
        self.chosen = self._choose(recording.confidence)
        rows = torch.arange(len(self.chosen), device=self.chosen.device)[:, None]
        self.logits = recording.logits[rows, self.chosen]
        refuse(unusable(self.logits).any(1), self._model.dtype, "the first token under steering")
        output.logits = self.logits.flatten(0, 1)[:, None]
        cache = output.past_key_values
        if self._branches == 1:
            self._swapped.close()
            _keep_one(cache, self.copies, self.chosen[:, 0])
        else:
            _branch(cache, self.copies, self.chosen)
            active.set(self._steered.branches())


class Copies(SteeredLayers):
    """Steers the copies in a pass.

    Args:
        text_decoder: The text decoder.
        gain: The factor on each column's attention logit, for each copy: alpha on image tokens, 1 elsewhere; shape
            (batch, copies, prompt tokens), fp32.
        keep_prompt: Whether to keep the keys and values of the prompt for `branches`.
    """

    def __init__(self, text_decoder: TextDecoder, gain: torch.Tensor, *, keep_prompt: bool) -> None:
        super().__init__(text_decoder)
        self._copies = gain.shape[1]
        self._gain = gain.flatten(0, 1)
        self._prompt: dict[nn.Module, KeysAndValues] | None = {} if keep_prompt else None

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attend with the model's own kernel in the prompt's rows, and by the formula in those of the copies."""
        self.count(call)
        copies = self._copies
        prompt = call.without_last(copies)
        earlier = (prompt.key[:, :, :-1], prompt.value[:, :, :-1])
        if self._prompt is not None:
            self._prompt[call.module] = earlier
        query, key, value = (
            tensor[:, :, -copies:].transpose(1, 2).flatten(0, 1) for tensor in (call.query, call.key, call.value)
        )
        mask = prompt.mask_of(-1, prompt.key.shape[2])
        if mask is not None and len(mask) > 1:
            mask = mask.repeat_interleave(copies, 0)
        rows = attend(query, earlier, (key[:, :, None], value[:, :, None]), mask, self._gain, **call.options)
        return torch.cat([prompt.run(), rows.unflatten(0, (-1, copies))], 1)

    def branches(self) -> "Branches":
        """Return how branches attend to the prompt in later passes."""
        assert self._prompt is not None
        return Branches(self.modules, self._prompt)


class Branches:
    """Several branches of a prompt, one row each, that attend to the prompt's keys and values and to their own.

    Args:
        modules: See `Steering`.
        prompt: The keys and values of each layer, shape (prompts, key/value heads, tokens before the last, dim).
    """

    def __init__(self, modules: frozenset[nn.Module], prompt: dict[nn.Module, KeysAndValues]) -> None:
        self.modules = modules
        self._prompt = prompt

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attend with one query in each row; the cache holds the branches' own keys and values."""
        prompt = self._prompt[call.module]
        mask = call.mask_of(-1, prompt[0].shape[2] + call.key.shape[2])
        return attend(call.query[:, :, -1], prompt, (call.key, call.value), mask, None, **call.options)[:, None]


class _BranchLayer(DynamicLayer):
    """The keys and values of each branch: the last prompt token under its coefficient, and what follows."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, tokens_before: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._tokens_before = tokens_before

    def get_seq_length(self) -> int:
        """Count the tokens of the prompt too, so that masks have their columns."""
        return self._tokens_before + super().get_seq_length()


def _keep_one(cache: DynamicCache, copies: int, chosen: torch.Tensor) -> None:
    """Put the chosen copy of each row in the place of the last prompt token, and take the copies out."""
    for layer in cache.layers:
        for states in (layer.keys, layer.values):  # type: ignore[union-attr]
            if states is not None:
                row = chosen.to(states.device)
                last = states[torch.arange(len(row), device=row.device), :, row - 1 - copies]
                states[:, :, -1 - copies] = last
    cache.crop(-copies)
    for layer in cache.layers:
        if hasattr(layer, "record_past"):
            layer.record_past = False  # a sliding window forgets again


def _branch(cache: DynamicCache, copies: int, chosen: torch.Tensor) -> None:
    """Leave only the branches' own keys and values in the cache: those of the chosen copies."""
    for index, layer in enumerate(cache.layers):
        if layer.keys is None:
            continue  # it shares those of another layer
        own = []
        for states in (layer.keys, layer.values):
            row = torch.arange(len(chosen), device=states.device)[:, None]
            picked = states[row, :, chosen.to(states.device) - 1 - copies]
            own.append(picked.flatten(0, 1)[:, :, None])
        cache.layers[index] = _BranchLayer(*own, layer.keys.shape[2] - 1 - copies)

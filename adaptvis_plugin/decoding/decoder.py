"""ScalingVis and AdaptVis at the cost of plain decoding: the steered rows ride in the unsteered pass.

In a causal decoder only the last prompt token is steered, so the keys and values of all earlier tokens do not depend
on alpha. The decoder therefore prefills once, with copies of the last token behind the prompt, each under another
coefficient (see `packing`); reads the confidence from that pass; chooses each row's copy; and goes on with ordinary
greedy decoding. The two complete passes of the authors' code give the same logits (see tests/oracle.py) at more than
twice the cost.

Two complete passes, the second with only its last row steered, remain where that is not exact: if earlier tokens see
the last one (PaliGemma's prefix attends both ways), if a layer keeps a state that the copies would change, or if a
prompt ends in an image. The model and the masks of a batch's pass decide which of the two it takes.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import BatchFeature

from adaptvis_plugin.decoding.greedy import Greedy
from adaptvis_plugin.decoding.inspection import inspect_model, unwrapped
from adaptvis_plugin.decoding.method import Method, check_alpha
from adaptvis_plugin.decoding.packing import Choose, InexactError, PackedPass
from adaptvis_plugin.decoding.passes import generate
from adaptvis_plugin.decoding.prefix import SharedPrefixes
from adaptvis_plugin.decoding.steering import steer
from adaptvis_plugin.decoding.validation import checked

log = logging.getLogger(__name__)

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """The result of decoding a batch.

    Attributes:
        sequences: The generated tokens without the prompt, padded after the end of a row; LongTensor (batch, new
            tokens).
        confidence: The unsteered model's probability of its most likely first token, unrounded; FloatTensor (batch,).
            It is the softmax of the model's raw logits (Chen et al., section 5: what the model itself thinks), before
            any logits processor. If a checkpoint has one (Qwen2.5-VL: a repetition penalty of 1.05), greedy decoding
            itself uses other scores, and may generate another token.
        alpha: The coefficient applied to each row; FloatTensor (batch,).
        first_logits: The logits of the first answer token under that alpha; FloatTensor (batch, vocabulary).
    """

    sequences: torch.Tensor
    confidence: torch.Tensor
    alpha: torch.Tensor
    first_logits: torch.Tensor


@dataclass
class Statistics:
    """What a decoder has done so far.

    Attributes:
        rows: Prompts decoded.
        prefixes_reused: Prompts for which image and beginning were already computed for another prompt.
        packed_passes: Steered batches that took one pass.
        full_passes: Complete passes that were made for a coefficient alone.
    """

    rows: int = 0
    prefixes_reused: int = 0
    packed_passes: int = 0
    full_passes: int = 0


class Decoder:
    """Steered greedy decoding for a Hugging Face image-text-to-text model.

    The model is used through its own `generate`, with its own attention kernel, cache and logits processors. Only
    during the first forward pass of a batch, and during the whole of a sweep, does its text decoder use another
    attention function, over the model's own kernel (see `attention`). Between calls the model is unchanged. One decoder
    at a time works on a model: calls from other threads wait. While it works, other threads may run the model
    themselves, with sdpa or eager attention. A flash kernel finds its functions by the name that a steered pass
    changes, so use it from one thread only.

    As a context manager, it frees the memory of its cached prefixes on leaving. It can still be used afterwards.

    Args:
        model: A model in eval mode for which steering is exact; see `inspection`, and docs/families.md for a list. The
            wrappers of `torch.compile` and PEFT are taken off: the model inside is decoded, with its adapters,
            uncompiled.
        prefix_bytes: Memory for the keys and values of images, and of what stands before them, which later batches may
            ask about again (see `prefix`). 0 shares nothing. The default is a twentieth of the model's own size, so
            that peak memory stays near that of plain decoding.

    Attributes:
        model: The model inside the wrappers.
        image_token_id: The id of the image placeholder.
        prefix_bytes: Memory for cached prefixes, as given or by default.
        stats: What the decoder has done so far.

    Raises:
        ValueError: If the model has no image token, or if its attention cannot be steered exactly. The message says
            why.

    Example:
        >>> with Decoder(model) as decoder:
        ...     inputs = processor(images=images, text=prompts, return_tensors="pt")
        ...     out = decoder.generate(inputs, ScalingVis(alpha=0.8))
    """

    def __init__(self, model: nn.Module, *, prefix_bytes: int | None = None) -> None:
        self.model = unwrapped(model)
        self._text_decoder = inspect_model(self.model)
        self.image_token_id = self._text_decoder.image_token_id
        self.stats = Statistics()
        self._packs = not self._text_decoder.recurrent
        self._warned_of_rows_without_image = False
        self.prefix_bytes = self.model.get_memory_footprint() // 20 if prefix_bytes is None else prefix_bytes
        self._prefixes = SharedPrefixes(self.model, self._text_decoder, self.prefix_bytes)
        with _locks_guard:
            self._lock = _locks.setdefault(self._text_decoder.module, threading.RLock())

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.forget_prefixes()

    def forget_prefixes(self) -> None:
        """Free the memory of the prefixes that are cached for later batches."""
        with self._lock:
            self._prefixes.forget()

    @torch.inference_mode()
    def generate(
        self, inputs: BatchFeature | dict[str, Any], method: Method, *, max_new_tokens: int = 16, **generation: Any
    ) -> Decoded:
        """Decode a batch greedily under a method.

        Args:
            inputs: What the model's processor returns: `input_ids` and `attention_mask` of shape (batch, tokens), left
                padded, `pixel_values`, and whatever else the family needs. Image tokens are all positions that hold the
                image placeholder, of any number of images. A row without any is decoded unsteered, and the first such
                batch is logged. Without a mask, pad tokens are masked as `generate` masks them.
            method: The rule that gives each row its coefficient.
            max_new_tokens: Upper bound on the answer's length in tokens.
            **generation: Further options of transformers' `generate`, such as `stop_strings` and `tokenizer`.

        Raises:
            ValueError: If the inputs are not left padded, the image tokens do not fit the images, another decoding
                mode than greedy is asked for, or the model is in train mode.
            NonFiniteLogitsError: If the logits of a row are not finite, for example after an overflow in float16.
        """
        greedy = Greedy.of(self.model.generation_config, max_new_tokens, generation)
        with self._lock:
            return self._decode(inputs, greedy, method.alphas, lambda confidence: method.choose(confidence)[:, None])[0]

    @torch.inference_mode()
    def sweep(
        self,
        inputs: BatchFeature | dict[str, Any],
        alphas: Sequence[float],
        *,
        max_new_tokens: int = 16,
        **generation: Any,
    ) -> dict[float, Decoded]:
        """Decode a batch once for every coefficient, all from one prefill.

        Every ScalingVis is an entry, and every AdaptVis a row-wise choice between two entries by the confidence.

        Args:
            inputs: As for `generate`.
            alphas: The coefficients. 1.0, the unsteered model, is always added.
            max_new_tokens: As for `generate`.
            **generation: As for `generate`.

        Returns:
            The results by coefficient: 1.0 first, then in the order given.

        Raises:
            ValueError: As for `generate`, and if a coefficient is negative or not finite.
            NonFiniteLogitsError: As for `generate`.
        """
        for value in alphas:
            check_alpha("alphas", value)
        every = _distinct(1.0, *alphas)
        greedy = Greedy.of(self.model.generation_config, max_new_tokens, generation)

        def choose(confidence: torch.Tensor) -> torch.Tensor:
            return confidence.new_tensor(every).expand(len(confidence), -1)

        with self._lock:
            return dict(zip(every, self._decode(inputs, greedy, every, choose, branches=len(every)), strict=True))

    def _decode(
        self,
        inputs: BatchFeature | dict[str, Any],
        greedy: Greedy,
        alphas: Sequence[float] | None,
        choose: Choose,
        branches: int = 1,
    ) -> list[Decoded]:
        """Decode a batch in one or several branches.

        Args:
            inputs: As for `generate`.
            greedy: How to generate.
            alphas: Every coefficient that may be chosen, or None if that is not known.
            choose: See `packing.Choose`.
            branches: The number of coefficients that it chooses for each row. If there are several, the first is 1.

        Returns:
            The result of each branch.
        """
        baseline = alphas is not None and set(alphas) == {1}
        batch = checked(inputs, self.model, self._text_decoder, greedy.config, steered=not baseline)
        self.stats.rows += len(batch["input_ids"])
        if baseline:
            return [self._plain(batch, greedy)]
        without_image = self._rows_without_image(batch)

        def choose_with_image(confidence: torch.Tensor) -> torch.Tensor:
            return choose(confidence).masked_fill(without_image[:, None].to(confidence.device), 1.0)

        if alphas is not None:
            packed = PackedPass(
                self.model, self._text_decoder, _distinct(1.0, *alphas), choose_with_image, branches=branches
            )
            if self._packs and packed.may_be_exact_for(batch):
                try:
                    return self._in_one_pass(batch, greedy, packed)
                except InexactError as error:
                    self._packs = error.may_change
        plain = self._plain(batch, greedy if branches > 1 else greedy.one_token())
        alpha = choose_with_image(plain.confidence)
        steered = range(1 if branches > 1 else 0, branches)
        results = [self._in_a_pass_of_its_own(batch, greedy, alpha[:, branch], plain.confidence) for branch in steered]
        return [plain, *results] if branches > 1 else results

    def _plain(self, batch: dict[str, Any], greedy: Greedy) -> Decoded:
        """Decode a batch unsteered."""
        plain = self._prefixes.generate(batch, greedy)
        self.stats.prefixes_reused += plain.prefixes_reused
        confidence = plain.first.confidence
        return Decoded(plain.sequences, confidence, torch.ones_like(confidence), plain.first.logits[:, 0])

    def _in_one_pass(self, batch: dict[str, Any], greedy: Greedy, packed: PackedPass) -> list[Decoded]:
        """Decode a batch in a single `generate` call, whose first pass computes every coefficient.

        Raises:
            InexactError: If the copies are not exact for this batch.
        """
        made = self._prefixes.generate(batch, greedy, packed)
        self.stats.packed_passes += 1
        self.stats.prefixes_reused += made.prefixes_reused
        by_branch = zip(
            made.sequences.unflatten(0, (-1, packed.branches)).unbind(1),
            packed.alpha.unbind(1),
            packed.logits.unbind(1),
            strict=True,
        )
        return [Decoded(tokens, made.first.confidence, alpha, logits) for tokens, alpha, logits in by_branch]

    def _in_a_pass_of_its_own(
        self, batch: dict[str, Any], greedy: Greedy, alpha: torch.Tensor, confidence: torch.Tensor
    ) -> Decoded:
        """Decode a batch under a coefficient per row, in a complete pass."""
        gain = torch.where(batch["input_ids"] == self.image_token_id, alpha[:, None].to(batch["input_ids"].device), 1.0)
        with steer(self.model, self._text_decoder, gain):
            made = generate(self.model, self._text_decoder, batch, greedy, first_token="the first token under steering")
        self.stats.full_passes += 1
        return Decoded(made.sequences, confidence, alpha, made.first.logits[:, 0])

    def _rows_without_image(self, batch: dict[str, Any]) -> torch.Tensor:
        """Mark the rows with nothing to steer, shape (batch,), and log once if there are any."""
        without: torch.Tensor = ~(batch["input_ids"] == self.image_token_id).any(1)
        if not self._warned_of_rows_without_image and bool(without.any()):
            self._warned_of_rows_without_image = True
            rows = without.nonzero().flatten().tolist()
            # Not through `warnings`, which lmms-eval turns off.
            log.warning("rows %s hold no image token and are decoded unsteered (alpha 1), as all such rows are", rows)
        return without


def _distinct(*coefficients: float) -> list[float]:
    return list(dict.fromkeys(map(float, coefficients)))

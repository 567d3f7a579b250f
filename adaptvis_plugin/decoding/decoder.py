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
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import BatchFeature

from adaptvis_plugin.decoding.capture import Captured, WatchedPass
from adaptvis_plugin.decoding.greedy import Greedy
from adaptvis_plugin.decoding.heads import Heads
from adaptvis_plugin.decoding.inspection import inspect_model, unwrapped
from adaptvis_plugin.decoding.method import Method, check_alpha
from adaptvis_plugin.decoding.packing import Choose, InexactError, PackedPass
from adaptvis_plugin.decoding.passes import generate
from adaptvis_plugin.decoding.prefix import SharedPrefixes
from adaptvis_plugin.decoding.results import Decoded, Statistics
from adaptvis_plugin.decoding.steering import EveryRow, LastRow, SteeredLayers, steer
from adaptvis_plugin.decoding.validation import checked

log = logging.getLogger(__name__)

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


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
        layers: The numbers of the layers with attention, in order.
        heads: The number of heads in each.
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
        self.layers = tuple(self._text_decoder.layers.values())
        self.heads = self._text_decoder.heads
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

    def check(self, method: Method) -> None:
        """Raise ValueError if a method names layers or heads that the model does not have."""
        method.steered.check(self.layers, self.heads)

    @torch.inference_mode()
    def generate(
        self,
        inputs: BatchFeature | dict[str, Any],
        method: Method,
        *,
        max_new_tokens: int = 16,
        capture: bool = False,
        **generation: Any,
    ) -> Decoded:
        """Decode a batch greedily under a method.

        Args:
            inputs: What the model's processor returns: `input_ids` and `attention_mask` of shape (batch, tokens), left
                padded, `pixel_values`, and whatever else the family needs. Image tokens are all positions that hold the
                image placeholder, of any number of images. A row without any is decoded unsteered, and the first such
                batch is logged. Without a mask, pad tokens are masked as `generate` masks them.
            method: The rule that gives each row its coefficient.
            max_new_tokens: Upper bound on the answer's length in tokens.
            capture: Whether to return the attention of the last prompt token too.
            **generation: Further options of transformers' `generate`, such as `stop_strings` and `tokenizer`.

        Raises:
            ValueError: If the inputs are not left padded, the image tokens do not fit the images, another decoding
                mode than greedy is asked for, the model is in train mode, or it lacks a layer or head that the method
                names.
            NonFiniteLogitsError: If the logits of a row are not finite, for example after an overflow in float16.
        """
        self.check(method)
        greedy = Greedy.of(self.model.generation_config, max_new_tokens, generation)

        def choose(confidence: torch.Tensor) -> torch.Tensor:
            return method.choose(confidence)[:, None]

        with self._lock:
            if method.added:
                return self._decode_with_constant(inputs, greedy, method.added, capture)
            return self._decode(inputs, greedy, method.alphas, choose, heads=method.steered, capture=capture)[0]

    @torch.inference_mode()
    def sweep(
        self,
        inputs: BatchFeature | dict[str, Any],
        alphas: Sequence[float],
        *,
        max_new_tokens: int = 16,
        layers: Any = None,
        heads: Any = None,
        capture: bool = False,
        **generation: Any,
    ) -> dict[float, Decoded]:
        """Decode a batch once for every coefficient, all from one prefill.

        Every ScalingVis is an entry, and every AdaptVis a row-wise choice between two entries by the confidence.

        Args:
            inputs: As for `generate`.
            alphas: The coefficients. 1.0, the unsteered model, is always added.
            max_new_tokens: As for `generate`.
            layers: Where the coefficients apply; see `ScalingVis`.
            heads: Where the coefficients apply; see `ScalingVis`.
            capture: As for `generate`.
            **generation: As for `generate`.

        Returns:
            The results by coefficient: 1.0 first, then in the order given.

        Raises:
            ValueError: As for `generate`, and if a coefficient is negative or not finite, or layers or heads are not
                names of any.
            NonFiniteLogitsError: As for `generate`.
        """
        for value in alphas:
            check_alpha("alphas", value)
        steered = Heads.of(layers, heads)
        steered.check(self.layers, self.heads)
        every = _distinct(1.0, *alphas)
        greedy = Greedy.of(self.model.generation_config, max_new_tokens, generation)

        def choose(confidence: torch.Tensor) -> torch.Tensor:
            return confidence.new_tensor(every).expand(len(confidence), -1)

        with self._lock:
            found = self._decode(inputs, greedy, every, choose, branches=len(every), heads=steered, capture=capture)
        return dict(zip(every, found, strict=True))

    def _decode(
        self,
        inputs: BatchFeature | dict[str, Any],
        greedy: Greedy,
        alphas: Sequence[float] | None,
        choose: Choose,
        *,
        branches: int = 1,
        heads: Heads,
        capture: bool,
    ) -> list[Decoded]:
        """Decode a batch in one or several branches.

        Args:
            inputs: As for `generate`.
            greedy: How to generate.
            alphas: Every coefficient that may be chosen, or None if that is not known.
            choose: See `packing.Choose`.
            branches: The number of coefficients that it chooses for each row. If there are several, the first is 1.
            heads: Where the coefficients apply.
            capture: As for `generate`.

        Returns:
            The result of each branch.
        """
        baseline = alphas is not None and set(alphas) == {1}
        batch = checked(inputs, self.model, self._text_decoder, greedy.config, steered=not baseline)
        self.stats.rows += len(batch["input_ids"])
        if baseline:
            return [self._plain(batch, greedy, capture)]
        without_image = self._rows_without_image(batch)

        def choose_with_image(confidence: torch.Tensor) -> torch.Tensor:
            return choose(confidence).masked_fill(without_image[:, None].to(confidence.device), 1.0)

        if alphas is not None:
            captured = Captured(self._text_decoder) if capture else None
            packed = PackedPass(
                self.model,
                self._text_decoder,
                _distinct(1.0, *alphas),
                choose_with_image,
                branches=branches,
                heads=heads,
                captured=captured,
            )
            if self._packs and packed.may_be_exact_for(batch):
                try:
                    return self._in_one_pass(batch, greedy, packed, captured)
                except InexactError as error:
                    self._packs = error.may_change
        plain = self._plain(batch, greedy if branches > 1 else greedy.one_token(), capture and branches > 1)
        alpha = choose_with_image(plain.confidence)
        of_branches = range(1 if branches > 1 else 0, branches)
        results = [self._under(batch, greedy, alpha[:, i], plain.confidence, heads, capture) for i in of_branches]
        return [plain, *results] if branches > 1 else results

    def _plain(self, batch: dict[str, Any], greedy: Greedy, capture: bool) -> Decoded:
        """Decode a batch unsteered."""
        captured = Captured(self._text_decoder) if capture else None
        watched = None if captured is None else WatchedPass(self.model, self._text_decoder, captured)
        plain = self._prefixes.generate(batch, greedy, watched)
        self.stats.prefixes_reused += plain.prefixes_reused
        confidence = plain.first.confidence
        return Decoded(
            plain.sequences,
            confidence,
            torch.ones_like(confidence),
            plain.first.logits[:, 0],
            None if captured is None else captured.rows(batch["attention_mask"])[:, 0],
        )

    def _in_one_pass(
        self, batch: dict[str, Any], greedy: Greedy, packed: PackedPass, captured: Captured | None
    ) -> list[Decoded]:
        """Decode a batch in a single `generate` call, whose first pass computes every coefficient.

        Raises:
            InexactError: If the copies are not exact for this batch.
        """
        made = self._prefixes.generate(batch, greedy, packed)
        self.stats.packed_passes += 1
        self.stats.prefixes_reused += made.prefixes_reused
        sequences = made.sequences.unflatten(0, (-1, packed.branches))
        weights = None if captured is None else packed.chosen(captured.rows(batch["attention_mask"]))
        return [
            Decoded(
                sequences[:, branch],
                made.first.confidence,
                packed.alpha[:, branch],
                packed.logits[:, branch],
                None if weights is None else weights[:, branch],
            )
            for branch in range(packed.branches)
        ]

    def _under(
        self,
        batch: dict[str, Any],
        greedy: Greedy,
        alpha: torch.Tensor,
        confidence: torch.Tensor,
        heads: Heads,
        capture: bool,
    ) -> Decoded:
        """Decode a batch under a coefficient per row, in a complete pass."""
        captured = Captured(self._text_decoder) if capture else None
        gain = torch.where(self._image_columns(batch), alpha[:, None].to(batch["input_ids"].device), 1.0)
        steering = LastRow(self._text_decoder, gain, heads, captured)
        return self._in_a_pass_of_its_own(batch, greedy, steering, confidence, alpha, captured)

    def _decode_with_constant(
        self, inputs: BatchFeature | dict[str, Any], greedy: Greedy, constant: float, capture: bool
    ) -> Decoded:
        """Decode a batch with a constant added to the logits on the image in every row; see `AddedConstant`."""
        batch = checked(inputs, self.model, self._text_decoder, greedy.config, steered=True)
        self.stats.rows += len(batch["input_ids"])
        self._rows_without_image(batch)
        confidence = self._plain(batch, greedy.one_token(), capture=False).confidence
        captured = Captured(self._text_decoder) if capture else None
        steering = EveryRow(self._text_decoder, constant * self._image_columns(batch), captured)
        ones = torch.ones_like(confidence)
        return self._in_a_pass_of_its_own(batch, greedy, steering, confidence, ones, captured, matrix=True)

    def _in_a_pass_of_its_own(
        self,
        batch: dict[str, Any],
        greedy: Greedy,
        steering: SteeredLayers,
        confidence: torch.Tensor,
        alpha: torch.Tensor,
        captured: Captured | None,
        *,
        matrix: bool = False,
    ) -> Decoded:
        """Decode a batch under a steering, in a complete pass."""
        if captured is not None:
            captured.given(batch)
        with steer(self.model, self._text_decoder, steering, matrix=matrix):
            made = generate(self.model, self._text_decoder, batch, greedy, first_token="the first token under steering")
        self.stats.full_passes += 1
        weights = None if captured is None else captured.rows(batch["attention_mask"])[:, 0]
        return Decoded(made.sequences, confidence, alpha, made.first.logits[:, 0], weights)

    def _image_columns(self, batch: dict[str, Any]) -> torch.Tensor:
        """Mark the image tokens, shape (batch, prompt tokens)."""
        columns: torch.Tensor = batch["input_ids"] == self.image_token_id
        return columns

    def _rows_without_image(self, batch: dict[str, Any]) -> torch.Tensor:
        """Mark the rows with nothing to steer, shape (batch,), and log once if there are any."""
        without = ~self._image_columns(batch).any(1)
        if not self._warned_of_rows_without_image and bool(without.any()):
            self._warned_of_rows_without_image = True
            rows = without.nonzero().flatten().tolist()
            # Not through `warnings`, which lmms-eval turns off.
            log.warning("rows %s hold no image token and are decoded unsteered (alpha 1), as all such rows are", rows)
        return without


def _distinct(*coefficients: float) -> list[float]:
    return list(dict.fromkeys(map(float, coefficients)))

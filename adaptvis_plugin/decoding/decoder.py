"""ScalingVis and AdaptVis at the cost of plain decoding: the steered rows ride in the unsteered pass.

In a causal decoder only the last prompt token is steered, so the keys and values of all earlier tokens do not depend
on alpha. The decoder therefore prefills once, with copies of the last token behind the prompt, each under another
coefficient (see `packing`); reads the confidence from that pass; chooses each row's copy; and goes on with ordinary
greedy decoding. The two complete passes of the authors' code give the same logits (see tests/oracle.py) at more than
twice the cost. Methods that edit all tokens after the image have copies of those.

Two complete passes, the second with only its last row steered, remain where that is not exact: if earlier tokens see
the last one (PaliGemma's prefix attends both ways), if a layer keeps a state that the copies would change, or if a
prompt ends in an image. The model and the masks of a batch's pass decide which of the two it takes.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import BatchFeature

from adaptvis_plugin.decoding.capture import Captured, WatchedPass
from adaptvis_plugin.decoding.early_exits import ExitHead, ExitsPass
from adaptvis_plugin.decoding.first_token import FirstToken, Options
from adaptvis_plugin.decoding.greedy import Greedy
from adaptvis_plugin.decoding.heads import scaled
from adaptvis_plugin.decoding.inspection import inspect_model, unwrapped
from adaptvis_plugin.decoding.method import Method
from adaptvis_plugin.decoding.methods.baseline import Baseline
from adaptvis_plugin.decoding.methods.scaling_vis import ScalingVis
from adaptvis_plugin.decoding.mixing import FirstTokenPass, MixedPass
from adaptvis_plugin.decoding.packing import Choose, InexactError, PackedPass
from adaptvis_plugin.decoding.parts import AttentionEdit, Columns, EarlyExits, OtherQuestion, SecondStream
from adaptvis_plugin.decoding.passes import FirstPass, Generated, Untouched, generate
from adaptvis_plugin.decoding.prefix import SharedPrefixes
from adaptvis_plugin.decoding.recording import Recording
from adaptvis_plugin.decoding.results import Decoded, Statistics
from adaptvis_plugin.decoding.second_stream import PairedPass, PrefilledView
from adaptvis_plugin.decoding.steering import BatchEdit, EditedRows, steer
from adaptvis_plugin.decoding.validation import checked, left_padded

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
        self._exit_head: ExitHead | None = None
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
        """Check that the model has what a method needs.

        Raises:
            ValueError: If the method names layers or heads that the model does not have, or reads earlier layers of a
                model whose earlier layers cannot be read.
        """
        edit, exits = method.attention, method.exits
        if edit is not None:
            self._edit_of(method)
        if exits is not None:
            if edit is not None:
                raise ValueError(f"{type(method).__name__}: early exits beside an attention edit are not supported")
            self._exits_of(exits)

    def _edit_of(self, method: Method) -> AttentionEdit | None:
        """Return the method's edit with the heads of this model."""
        edit = method.attention
        if edit is None:
            return None
        heads = edit.heads.for_depth(self.layers, self._text_decoder.depth)
        heads.check(self.layers, self.heads)
        return replace(edit, heads=heads)

    def _exits_of(self, part: EarlyExits) -> EarlyExits:
        """Return the method's exits with the layers of this model."""
        if self._exit_head is None:
            with self._lock:
                self._exit_head = ExitHead(self.model, self._text_decoder)
        depth = len(self._exit_head.layers)
        layers = part.layers if part.depth is None else tuple(scaled(part.layers, part.depth, depth))
        if lacking := [layer for layer in layers if layer >= depth]:
            raise ValueError(
                f"layer {lacking[0]}: an exit comes after 0 to {depth - 1} of the model's {depth} layers; name some of "
                "these (layers=...)"
            )
        return replace(part, layers=layers)

    @torch.inference_mode()
    def generate(
        self,
        inputs: BatchFeature | dict[str, Any],
        method: Method,
        *,
        max_new_tokens: int = 16,
        second: BatchFeature | dict[str, Any] | None = None,
        options: Sequence[Options] | None = None,
        capture: bool = False,
        **generation: Any,
    ) -> Decoded:
        """Decode a batch greedily under a method.

        Args:
            inputs: What the model's processor returns: `input_ids` and `attention_mask` of shape (batch, tokens), left
                padded, `pixel_values`, and whatever else the family needs. Image tokens are all positions that hold the
                image placeholder, of any number of images. A row without any is decoded unsteered by methods that
                act on the image, and the first such batch is logged. Without a mask, pad tokens are masked as
                `generate` masks them.
            method: The method.
            max_new_tokens: Upper bound on the answer's length in tokens.
            second: The inputs of the second stream, with the same rows, for a method that has one; see
                `models.views`.
            options: For each row the options that it offers, with the tokens that begin them, for a method that asks.
            capture: Whether to return the attention of the last prompt token too.
            **generation: Further options of transformers' `generate`, such as `stop_strings` and `tokenizer`.

        Raises:
            ValueError: If the inputs are not left padded, the image tokens do not fit the images, another decoding
                mode than greedy is asked for, the model is in train mode, it lacks what the method needs (see
                `check`), or there are no inputs for the method's second stream.
            NonFiniteLogitsError: If the logits of a row are not finite, for example after an overflow in float16.
        """
        self.check(method)
        greedy = Greedy.of(self.model.generation_config, max_new_tokens, generation)
        with self._lock:
            return self._decode(inputs, greedy, self._plan(method, options, second, greedy), capture)[0]

    @torch.inference_mode()
    def sweep(
        self,
        inputs: BatchFeature | dict[str, Any],
        alphas: Sequence[float],
        *,
        max_new_tokens: int = 16,
        layers: Any = None,
        heads: Any = None,
        method: Method | None = None,
        second: BatchFeature | dict[str, Any] | None = None,
        options: Sequence[Options] | None = None,
        capture: bool = False,
        **generation: Any,
    ) -> dict[float, Decoded]:
        """Decode a batch once for every coefficient.

        Every ScalingVis is an entry, and every AdaptVis a row-wise choice between two entries by the confidence. For
        a method that only edits the last row of attention, all come from one prefill. For any other, each strength is
        decoded by itself.

        Args:
            inputs: As for `generate`.
            alphas: The coefficients, or the strengths of another method. That of the unsteered model (1.0, or the
                method's neutral strength) is always added.
            max_new_tokens: As for `generate`.
            layers: Where the coefficients apply; see `ScalingVis`.
            heads: Where the coefficients apply; see `ScalingVis`.
            method: The method whose strength is swept, with its other hyper-parameters; ScalingVis by default.
            second: As for `generate`.
            options: As for `generate`.
            capture: As for `generate`.
            **generation: As for `generate`.

        Returns:
            The results by coefficient: that of the unsteered model first, then in the order given.

        Raises:
            ValueError: As for `generate`, and if the method refuses a strength or has none, or layers or heads are not
                names of any.
            NonFiniteLogitsError: As for `generate`.
        """
        swept = ScalingVis(1.0, layers=layers, heads=heads) if method is None else method
        if swept.strength is None:
            raise ValueError(f"{type(swept).__name__} has no strength that can be swept")
        name = swept.strength
        for value in alphas:
            type(swept).check("alphas" if method is None else name, value)
        self.check(swept)
        every = _distinct(swept.neutral, *alphas)
        greedy = Greedy.of(self.model.generation_config, max_new_tokens, generation)
        if not swept.shares_prefill:
            given: dict[str, Any] = {"max_new_tokens": max_new_tokens, "capture": capture, **generation}
            # Not the method under its neutral strength, under which guidance beside an edit still guides.
            plain = self.generate(inputs, Baseline(), **given)
            found = {swept.neutral: replace(plain, alpha=torch.full_like(plain.alpha, swept.neutral))}
            for value in every[1:]:
                one = replace(swept, **{name: value})  # type: ignore[type-var]  # every method is a dataclass
                found[value] = self.generate(inputs, one, second=second, options=options, **given)
            return found
        plan = self._plan(swept, options, second, greedy)

        def choose(first: FirstToken) -> torch.Tensor:
            return first.logits.new_tensor(every).expand(len(first.logits), -1)

        plan = replace(plan, alphas=tuple(every), choose=choose, branches=len(every))
        with self._lock:
            return dict(zip(every, self._decode(inputs, greedy, plan, capture), strict=True))

    def _plan(
        self,
        method: Method,
        options: Sequence[Options] | None,
        second: BatchFeature | dict[str, Any] | None,
        greedy: Greedy,
    ) -> "Plan":
        """Return how a batch is decoded under a method.

        Raises:
            ValueError: If there are no inputs for its second stream.
        """
        part, exits = method.second, method.exits
        view = None
        if part is not None:
            if second is None:
                raise ValueError(
                    f"{type(method).__name__} decodes every row beside another view of it; give its inputs as "
                    "second=... (adaptvis_plugin.models.views makes them)"
                )
            view = checked(second, self.model, self._text_decoder, greedy.config, steered=False)
        changes = type(method).first_logits is not Method.first_logits

        def choose(first: FirstToken) -> torch.Tensor:
            return method.choose(first)[:, None]

        return Plan(
            self._edit_of(method),
            method.neutral,
            method.alphas,
            choose,
            options,
            part,
            view,
            None if exits is None else self._exits_of(exits),
            method.first_logits if changes else None,
        )

    def _decode(
        self, inputs: BatchFeature | dict[str, Any], greedy: Greedy, plan: "Plan", capture: bool
    ) -> list[Decoded]:
        """Decode a batch, in one or several branches; return the result of each."""
        batch = checked(inputs, self.model, self._text_decoder, greedy.config, steered=not plan.idle)
        self.stats.rows += len(batch["input_ids"])
        if plan.idle:
            return [self._plain(batch, greedy, capture, plan.neutral)]
        untouched = torch.zeros(len(batch["input_ids"]), dtype=torch.bool, device=batch["input_ids"].device)
        if plan.uses_image:
            untouched = self._rows_without_image(batch)
        plan = plan.except_for(untouched)
        captured = Captured(self._text_decoder) if capture else None
        if plan.view is not None and plan.second is not None:
            self.stats.second_streams += 1
            view = PrefilledView.of(self.model, self._text_decoder, plan.view, greedy)
            longer = view.inputs["input_ids"].shape[1] - batch["input_ids"].shape[1]
            batch, plan = left_padded(batch, longer), replace(plan, prefilled=view)
        if plan.edit is None:
            watched = Untouched() if captured is None else WatchedPass(self.model, self._text_decoder, captured)
            mixed = self._mixed(plan, watched, untouched, lambda first: plan.choose(first)[:, 0])
            made = self._prefixes.generate(batch, greedy, mixed)
            return [self._result(batch, made, mixed, captured)]
        return self._edited(batch, greedy, plan, untouched, captured)

    def _edited(
        self,
        batch: dict[str, Any],
        greedy: Greedy,
        plan: "Plan",
        untouched: torch.Tensor,
        captured: Captured | None,
    ) -> list[Decoded]:
        """Decode a batch under an edit of attention: in the unsteered pass, if that is exact, or in one of its own."""
        edit, branches, capture = plan.edit, plan.branches, captured is not None
        assert edit is not None
        if plan.alphas is not None and edit.rows != "all":
            packed = PackedPass(
                self.model,
                self._text_decoder,
                edit,
                edit.last_tokens(Columns.of(batch["input_ids"], self.image_token_id)),
                _distinct(plan.neutral, *plan.alphas),
                plan.choose,
                branches=branches,
                options=plan.options,
                captured=captured,
            )
            if self._packs and packed.may_be_exact_for(batch):
                try:
                    return self._in_one_pass(batch, greedy, plan, packed, untouched, captured)
                except InexactError as error:
                    self._packs = error.may_change
        plain = self._plain(batch, greedy if branches > 1 else greedy.one_token(), capture and branches > 1)
        alpha = plan.choose(FirstToken(plain.first_logits, plan.options))
        of_branches = range(1 if branches > 1 else 0, branches)
        results = [self._under(batch, greedy, plan, alpha[:, i], plain, untouched, capture) for i in of_branches]
        return [plain, *results] if branches > 1 else results

    def _plain(self, batch: dict[str, Any], greedy: Greedy, capture: bool, neutral: float = 1.0) -> Decoded:
        """Decode a batch unsteered."""
        captured = Captured(self._text_decoder) if capture else None
        watched = None if captured is None else WatchedPass(self.model, self._text_decoder, captured)
        plain = self._prefixes.generate(batch, greedy, watched)
        self.stats.prefixes_reused += plain.prefixes_reused
        confidence = plain.first.confidence
        return Decoded(
            plain.sequences,
            confidence,
            torch.full_like(confidence, neutral),
            plain.first.logits[:, 0],
            None if captured is None else captured.rows(batch["attention_mask"])[:, 0],
        )

    def _in_one_pass(
        self,
        batch: dict[str, Any],
        greedy: Greedy,
        plan: "Plan",
        packed: PackedPass,
        untouched: torch.Tensor,
        captured: Captured | None,
    ) -> list[Decoded]:
        """Decode a batch in a single `generate` call, whose first pass computes every coefficient.

        Raises:
            InexactError: If the copies are not exact for this batch.
        """
        if plan.mixes:
            mixed = self._mixed(plan, packed, untouched, lambda first: packed.alpha[:, 0])
            made = self._prefixes.generate(batch, greedy, mixed)
            self.stats.packed_passes += 1
            return [self._result(batch, made, mixed, captured, packed)]
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
        plan: "Plan",
        alpha: torch.Tensor,
        plain: Decoded,
        untouched: torch.Tensor,
        capture: bool,
    ) -> Decoded:
        """Decode a batch under a strength per row, in a complete pass."""
        assert plan.edit is not None
        captured = Captured(self._text_decoder) if capture else None
        if captured is not None:
            captured.given(batch)
        ids = batch["input_ids"]
        edit = BatchEdit(plan.edit, Columns.of(ids, self.image_token_id), alpha[:, None, None, None].to(ids.device))
        steering = EditedRows(self._text_decoder, edit, captured)
        mixed = self._mixed(plan, Untouched(), untouched, lambda first: alpha) if plan.mixes else None
        every_step, matrix = plan.edit.every_step, plan.edit.rows != "last"
        with steer(self.model, self._text_decoder, steering, every_step=every_step, matrix=matrix):
            made = generate(
                self.model,
                self._text_decoder,
                batch,
                greedy,
                first_pass=mixed,
                first_token="the first token under steering",
            )
        self.stats.full_passes += 1
        if mixed is not None:
            return replace(self._result(batch, made, mixed, captured), confidence=plain.confidence)
        weights = None if captured is None else captured.rows(batch["attention_mask"])[:, 0]
        return Decoded(made.sequences, plain.confidence, alpha, made.first.logits[:, 0], weights)

    def _mixed(
        self,
        plan: "Plan",
        inner: FirstPass,
        untouched: torch.Tensor,
        strength: Callable[[FirstToken], torch.Tensor],
    ) -> MixedPass:
        """Return the pass that mixes a method's second stream or early exits into the logits."""

        def choose(recording: Recording) -> tuple[torch.Tensor, torch.Tensor]:
            found = strength(FirstToken(recording.logits[:, 0], plan.options))
            own = untouched.to(found.device)
            return found, own if plan.edit is not None else own | (found == plan.neutral)

        given: dict[str, Any] = {"inner": inner, "choose": choose}
        if plan.second is not None and plan.prefilled is not None:
            return PairedPass(self.model, plan.second, plan.prefilled, **given)
        if plan.exits is not None:
            assert self._exit_head is not None
            return ExitsPass(self._exit_head, plan.exits, **given)
        assert plan.first_logits is not None
        return FirstTokenPass(plan.first_logits, plan.options, **given)

    def _result(
        self,
        batch: dict[str, Any],
        made: Generated,
        mixed: MixedPass,
        captured: Captured | None,
        packed: PackedPass | None = None,
    ) -> Decoded:
        """Return what a call with mixed logits gave."""
        self.stats.prefixes_reused += made.prefixes_reused
        weights = None
        if captured is not None:
            rows = captured.rows(batch["attention_mask"])
            weights = rows[:, 0] if packed is None else packed.chosen(rows)[:, 0]
        sequences = made.sequences[:: mixed.branches]
        return Decoded(sequences, made.first.confidence, mixed.alpha, mixed.logits, weights)

    def _rows_without_image(self, batch: dict[str, Any]) -> torch.Tensor:
        """Mark the rows with nothing to steer, shape (batch,), and log once if there are any."""
        without: torch.Tensor = ~(batch["input_ids"] == self.image_token_id).any(1)
        if not self._warned_of_rows_without_image and bool(without.any()):
            self._warned_of_rows_without_image = True
            rows = without.nonzero().flatten().tolist()
            # Not through `warnings`, which lmms-eval turns off.
            log.warning("rows %s hold no image token and are decoded unsteered (alpha 1), as all such rows are", rows)
        return without


@dataclass(frozen=True)
class Plan:
    """How a batch is decoded: a method's parts, as far as this model goes.

    Attributes:
        edit: What happens to attention logits.
        neutral: The strength that leaves a row as it is.
        alphas: Every strength that may be chosen, or None if that is not known.
        choose: See `packing.Choose`.
        options: See `FirstToken`.
        second: What the second stream contributes.
        view: The inputs of the second stream.
        exits: What early layers contribute.
        first_logits: See `Method.first_logits`; None if the method leaves them.
        branches: The number of strengths that are chosen for each row. If there are several, the first is neutral.
        prefilled: The second stream after its prefill.
    """

    edit: AttentionEdit | None
    neutral: float
    alphas: Sequence[float] | None
    choose: Choose
    options: Sequence[Options] | None
    second: SecondStream | None
    view: dict[str, Any] | None
    exits: EarlyExits | None
    first_logits: Callable[[FirstToken], torch.Tensor] | None
    branches: int = 1
    prefilled: PrefilledView | None = None

    @property
    def mixes(self) -> bool:
        """Whether logits are changed."""
        return self.second is not None or self.exits is not None or self.first_logits is not None

    @property
    def uses_image(self) -> bool:
        """Whether there is nothing to do in a row without an image."""
        contrasts = self.second is not None and not isinstance(self.second.view, OtherQuestion)
        return self.edit is not None or contrasts

    @property
    def idle(self) -> bool:
        """Whether the model is left as it is."""
        neutral = self.alphas is not None and {*self.alphas} == {self.neutral}
        return (neutral and not (self.edit is not None and self.mixes)) or (self.edit is None and not self.mixes)

    def except_for(self, untouched: torch.Tensor) -> "Plan":
        """Return the same with the neutral strength for some rows, shape (batch,)."""

        def choose(first: FirstToken) -> torch.Tensor:
            alpha = self.choose(first)
            return alpha.masked_fill(untouched[:, None].to(alpha.device), self.neutral)

        return replace(self, choose=choose)


def _distinct(*coefficients: float) -> list[float]:
    return list(dict.fromkeys(map(float, coefficients)))

"""How a batch is decoded under a plan: the calls of `generate` that it takes, and what happens in them."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedModel

from adaptvis_plugin.decoding.capture import Captured, WatchedPass
from adaptvis_plugin.decoding.early_exits import ExitsPass
from adaptvis_plugin.decoding.first_token import FirstToken
from adaptvis_plugin.decoding.greedy import Greedy
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.mixing import FirstTokenPass, MixedPass
from adaptvis_plugin.decoding.packing import InexactError, PackedPass
from adaptvis_plugin.decoding.parts import Columns
from adaptvis_plugin.decoding.passes import FirstPass, Generated, Untouched, generate
from adaptvis_plugin.decoding.plan import Plan, distinct
from adaptvis_plugin.decoding.prefix import SharedPrefixes
from adaptvis_plugin.decoding.recording import Recording
from adaptvis_plugin.decoding.results import Decoded, Statistics
from adaptvis_plugin.decoding.second_stream import PairedPass, PrefilledView
from adaptvis_plugin.decoding.steering import BatchEdit, EditedRows, steer
from adaptvis_plugin.decoding.validation import checked, left_padded

log = logging.getLogger(__name__)


class Execution:
    """Decodes batches of a model.

    Args:
        model: The model.
        text_decoder: Its text decoder.
        prefixes: The prefixes that its batches share.
        stats: What has been done so far; kept up to date.
    """

    def __init__(
        self, model: PreTrainedModel, text_decoder: TextDecoder, prefixes: SharedPrefixes, stats: Statistics
    ) -> None:
        self._model = model
        self._text_decoder = text_decoder
        self._prefixes = prefixes
        self._stats = stats
        self._packs = not text_decoder.recurrent
        self._warned_of_rows_without_image = False

    def decode(self, inputs: BatchFeature | dict[str, Any], greedy: Greedy, plan: Plan, capture: bool) -> list[Decoded]:
        """Decode a batch, in one or several branches; return the result of each."""
        batch = checked(inputs, self._model, self._text_decoder, greedy.config, steered=not plan.idle)
        self._stats.rows += len(batch["input_ids"])
        if plan.idle:
            return [self._plain(batch, greedy, capture, plan.neutral)]
        untouched = torch.zeros(len(batch["input_ids"]), dtype=torch.bool, device=batch["input_ids"].device)
        if plan.uses_image:
            untouched = self._rows_without_image(batch)
        plan = plan.except_for(untouched)
        captured = Captured(self._text_decoder) if capture else None
        if plan.view is not None and plan.second is not None:
            self._stats.second_streams += 1
            view = PrefilledView.of(self._model, self._text_decoder, plan.view, greedy)
            plan = replace(plan, prefilled=view)
        own_batch, room = batch, plan.room(batch)
        batch = left_padded(batch, room)
        if plan.edit is None:
            watched = Untouched() if captured is None else WatchedPass(self._model, self._text_decoder, captured)

            def mixed_pass(room: int = 0) -> MixedPass:
                return self._mixed(plan, watched, untouched, lambda first: plan.choose(first)[:, 0], room)

            mixed = mixed_pass()
            if room and captured is None:

                def alone() -> Generated:
                    nonlocal mixed
                    mixed = mixed_pass(room)
                    return generate(self._model, self._text_decoder, own_batch, greedy, first_pass=mixed)

                made = self._prefixes.generate(batch, greedy, mixed, alone)
            else:
                made = self._prefixes.generate(batch, greedy, mixed)
            found = self._result(batch, made, mixed, captured)
            own = inputs["input_ids"].shape[1]  # fewer tokens than the batch has, if its second stream is longer
            return [replace(found, attention=None if found.attention is None else found.attention[..., -own:])]
        return self._edited(batch, greedy, plan, untouched, captured)

    def _edited(
        self,
        batch: dict[str, Any],
        greedy: Greedy,
        plan: Plan,
        untouched: torch.Tensor,
        captured: Captured | None,
    ) -> list[Decoded]:
        """Decode a batch under an edit of attention: in the unsteered pass, if that is exact, or in one of its own."""
        edit, branches, capture = plan.edit, plan.branches, captured is not None
        assert edit is not None
        if plan.alphas is not None and edit.rows != "all":
            packed = PackedPass(
                self._model,
                self._text_decoder,
                edit,
                edit.last_tokens(Columns.of(batch["input_ids"], self._text_decoder.image_token_id)),
                distinct(plan.neutral, *plan.alphas),
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
        watched = None if captured is None else WatchedPass(self._model, self._text_decoder, captured)
        plain = self._prefixes.generate(batch, greedy, watched)
        self._stats.prefixes_reused += plain.prefixes_reused
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
        plan: Plan,
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
            self._stats.packed_passes += 1
            return [self._result(batch, made, mixed, captured, packed)]
        made = self._prefixes.generate(batch, greedy, packed)
        self._stats.packed_passes += 1
        self._stats.prefixes_reused += made.prefixes_reused
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
        plan: Plan,
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
        edit = BatchEdit(
            plan.edit, Columns.of(ids, self._text_decoder.image_token_id), alpha[:, None, None, None].to(ids.device)
        )
        steering = EditedRows(self._text_decoder, edit, captured)
        mixed = self._mixed(plan, Untouched(), untouched, lambda first: alpha) if plan.mixes else None
        every_step, matrix = plan.edit.every_step, plan.edit.rows != "last"
        with steer(self._model, self._text_decoder, steering, every_step=every_step, matrix=matrix):
            made = generate(
                self._model,
                self._text_decoder,
                batch,
                greedy,
                first_pass=mixed,
                first_token="the first token under steering",
            )
        self._stats.full_passes += 1
        if mixed is not None:
            return replace(self._result(batch, made, mixed, captured), confidence=plain.confidence)
        weights = None if captured is None else captured.rows(batch["attention_mask"])[:, 0]
        return Decoded(made.sequences, plain.confidence, alpha, made.first.logits[:, 0], weights)

    def _mixed(
        self,
        plan: Plan,
        inner: FirstPass,
        untouched: torch.Tensor,
        strength: Callable[[FirstToken], torch.Tensor],
        room: int = 0,
    ) -> MixedPass:
        """Return the pass that mixes a method's second stream or early exits into the logits."""

        def choose(recording: Recording) -> tuple[torch.Tensor, torch.Tensor]:
            found = strength(FirstToken(recording.logits[:, 0], plan.options))
            own = untouched.to(found.device)
            return found, own if plan.edit is not None else own | (found == plan.neutral)

        given: dict[str, Any] = {"inner": inner, "choose": choose}
        if plan.second is not None and plan.prefilled is not None:
            return PairedPass(self._model, plan.second, plan.prefilled, room, **given)
        if plan.exits is not None:
            assert plan.exit_head is not None
            return ExitsPass(plan.exit_head, plan.exits, **given)
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
        self._stats.prefixes_reused += made.prefixes_reused
        weights = None
        if captured is not None:
            rows = captured.rows(batch["attention_mask"])
            weights = rows[:, 0] if packed is None else packed.chosen(rows)[:, 0]
        sequences = made.sequences[:: mixed.branches]
        return Decoded(sequences, made.first.confidence, mixed.alpha, mixed.logits, weights)

    def _rows_without_image(self, batch: dict[str, Any]) -> torch.Tensor:
        """Mark the rows with nothing to steer, shape (batch,), and log once if there are any."""
        without: torch.Tensor = ~(batch["input_ids"] == self._text_decoder.image_token_id).any(1)
        if not self._warned_of_rows_without_image and bool(without.any()):
            self._warned_of_rows_without_image = True
            rows = without.nonzero().flatten().tolist()
            # Not through `warnings`, which lmms-eval turns off.
            log.warning("rows %s hold no image token and are decoded unsteered (alpha 1), as all such rows are", rows)
        return without

"""When prefixes may be shared, and the prefill that shares them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from transformers import DynamicCache, GenerationMixin, PreTrainedModel

from adaptvis_plugin.decoding.greedy import Greedy
from adaptvis_plugin.decoding.inspection import TextDecoder, ropes
from adaptvis_plugin.decoding.passes import FirstPass, Generated, generate
from adaptvis_plugin.decoding.prefix.batch import SharedBatch
from adaptvis_plugin.decoding.prefix.fingerprint import model_fingerprint
from adaptvis_plugin.decoding.prefix.store import Prefix, PrefixStore, keeps_every_position
from adaptvis_plugin.decoding.recording import Recording

_SUMS = 100_000  # images that are remembered by their sum


class SharedPrefixes:
    """Runs the prefill of batches, and continues cached prefixes where that is exact.

    It is exact if the decoder is causal, caches every position of every layer, numbers positions by the tokens before
    them, uses an image only on and before its tokens, and has an attention kernel that takes masks with holes. The
    first batch shares nothing: its masks, cache and embeddings show whether sharing is exact. If not, the model never
    shares. If the model has changed since an earlier batch (see `fingerprint`), its cached prefixes are dropped, and
    the next batch counts as the first again.

    After the first batch, nothing is kept until an image comes a second time: where every question has its own image,
    sharing costs nothing.

    Args:
        model: The model.
        text_decoder: Its text decoder.
        capacity: Memory in bytes for the keys and values that are kept for later batches. 0 shares nothing.
    """

    def __init__(self, model: PreTrainedModel, text_decoder: TextDecoder, capacity: int) -> None:
        self._model = model
        self._text_decoder = text_decoder
        self._text_config = model.config.get_text_config(decoder=True)
        self._store = PrefixStore(capacity)
        # None as long as no batch has shown it.
        self._exact: bool | None = None if capacity > 0 and _positions_are_ordinary(model) else False
        self._fingerprint: tuple[Any, ...] | None = None
        self._sums: set[float] = set()
        self._images_repeat = False

    def generate(
        self,
        inputs: dict[str, Any],
        greedy: Greedy,
        first_pass: FirstPass | None = None,
        alone: Callable[[], Generated] | None = None,
    ) -> Generated:
        """Call `generate` on a batch.

        Args:
            inputs: What the processor returned, with an attention mask.
            greedy: How to generate.
            first_pass: What happens to the first pass.
            alone: The call to make instead, if the batch neither continues a prefix nor leaves one for later batches.

        Raises:
            InexactError: If the copies are not exact for this batch.
            ValueError: If the image tokens do not fit the images.
            NonFiniteLogitsError: If a row's logits are not finite.
        """
        batch = self._cut(inputs)
        if batch is not None and self._exact:
            continued = self._continue_prefixes(batch, greedy)
            if continued is not None:
                inputs, reused = continued
                return replace(self._run(inputs, greedy, first_pass=first_pass), prefixes_reused=reused)
        if self._exact is False:  # as it turned out just now, or earlier
            batch = None
        if batch is None and alone is not None:
            return alone()
        keep = None if batch is None else partial(self._keep_prefixes, batch)
        return self._run(inputs, greedy, first_pass=first_pass, keep=keep)

    def forget(self) -> None:
        """Drop the cached prefixes."""
        self._store.clear()

    def _run(self, inputs: dict[str, Any], greedy: Greedy, **options: Any) -> Generated:
        return generate(self._model, self._text_decoder, inputs, greedy, **options)

    def _cut(self, inputs: dict[str, Any]) -> SharedBatch | None:
        """Cut a batch into prefixes and the rest; None if nothing can be shared."""
        if self._exact is False or self._text_config._attn_implementation not in ("sdpa", "eager"):
            return None
        if not self._an_image_repeats(inputs) and self._exact:
            return None
        fingerprint = model_fingerprint(self._model)
        if fingerprint is None:
            self._give_up()
            return None
        if fingerprint != self._fingerprint:
            self._store.clear()
            self._exact, self._fingerprint = None, fingerprint
        return SharedBatch.cut(inputs, self._text_decoder.image_token_id)

    def _an_image_repeats(self, inputs: dict[str, Any]) -> bool:
        """Whether some image, of this batch or an earlier one, seems to have come twice: the sum of its pixels has."""
        pixels = inputs.get("pixel_values")
        if not self._images_repeat and pixels is not None and len(pixels) == len(inputs["input_ids"]):
            sums = pixels.flatten(1).sum(1, dtype=torch.float32).tolist()
            self._images_repeat = len({*sums}) < len(sums) or not self._sums.isdisjoint(sums)
            if len(self._sums) > _SUMS:
                self._sums.clear()
            self._sums.update(sums)
        return self._images_repeat

    def _continue_prefixes(self, batch: SharedBatch, greedy: Greedy) -> tuple[dict[str, Any], int] | None:
        """Return inputs that continue the batch's prefixes, and the number of rows with a prefix of another row.

        Prefixes that are not cached are computed first, each once. Returns None if all are missing and different.
        """
        pad = greedy.config.pad_token_id or 0  # it is masked, so any token will do
        known = {key: prefix for key in batch.keys if (prefix := self._store.get(key)) is not None}
        missing = {key: row for row, key in reversed(list(enumerate(batch.keys))) if key not in known}
        if len(missing) == len(batch.keys):
            return None
        if missing:
            inputs = batch.prefixes(list(missing.values()), pad)

            def keep(first: Recording) -> None:
                if not first.causal or not keeps_every_position(first.cache):
                    self._give_up()
                    return
                cache, mask = cast(DynamicCache, first.cache), inputs["attention_mask"]
                for row, key in enumerate(missing):
                    known[key] = Prefix.of(cache, row, int((mask[row] == 0).sum()), mask.shape[1])
                    self._store.put(key, known[key])

            self._run(inputs, greedy.one_token(), keep=keep)
            if self._exact is False:
                return None
        inputs = batch.continued([known[key] for key in batch.keys], pad, self._text_config)
        return inputs, len(batch.keys) - len(missing)

    def _keep_prefixes(self, batch: SharedBatch, first: Recording) -> None:
        """Keep the prefixes of a batch that shared none: the last ones, as many as fit."""
        # Ovis2 also writes to the token that closes an image, but only in a call that is given the image.
        embeddings, embed = first.inputs_embeds, self._text_decoder.embed
        exact = self._exact or (embeddings is not None and batch.text_follows_prefixes(embeddings, embed))
        if not exact or not first.causal or not keeps_every_position(first.cache):
            self._give_up()
            return
        self._exact = True
        cache = cast(DynamicCache, first.cache)
        room = self._store.capacity
        chosen = []
        for row in reversed(range(len(batch.keys))):
            room -= batch.prefix_size(cache, row)
            if room < 0:
                break
            chosen.append(row)
        for row in reversed(chosen):
            self._store.put(batch.keys[row], batch.prefix_from(cache, row))

    def _give_up(self) -> None:
        """Share nothing more for this model."""
        self._exact = False
        self._store.clear()


def _positions_are_ordinary(model: PreTrainedModel) -> bool:
    """Whether a token's position, and its encoding, depend only on the number of tokens before it."""
    prepare = "_prepare_position_ids_for_generation"
    derived = getattr(type(model), prepare) is not getattr(GenerationMixin, prepare)
    kinds = {rope.get("rope_type") for rope in ropes(model.config.get_text_config(decoder=True))}
    # These change their frequencies with the length of the whole prompt.
    return not derived and not kinds & {"dynamic", "longrope"}

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

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import BatchFeature

from adaptvis_plugin.decoding.early_exits import ExitHead
from adaptvis_plugin.decoding.execution import Execution
from adaptvis_plugin.decoding.first_token import FirstToken, Options
from adaptvis_plugin.decoding.greedy import Greedy
from adaptvis_plugin.decoding.heads import scaled
from adaptvis_plugin.decoding.inspection import inspect_model, unwrapped
from adaptvis_plugin.decoding.method import Method
from adaptvis_plugin.decoding.methods.baseline import Baseline
from adaptvis_plugin.decoding.methods.scaling_vis import ScalingVis
from adaptvis_plugin.decoding.parts import AttentionEdit, EarlyExits
from adaptvis_plugin.decoding.plan import Plan, distinct
from adaptvis_plugin.decoding.prefix import SharedPrefixes
from adaptvis_plugin.decoding.results import Decoded, Statistics
from adaptvis_plugin.decoding.validation import checked

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
        self.prefix_bytes = self.model.get_memory_footprint() // 20 if prefix_bytes is None else prefix_bytes
        self._prefixes = SharedPrefixes(self.model, self._text_decoder, self.prefix_bytes)
        self._execution = Execution(self.model, self._text_decoder, self._prefixes, self.stats)
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
            ValueError: If the method names layers or heads that the model does not have, reads earlier layers of a
                model whose earlier layers cannot be read, or has parts that do not go together.
        """
        edit, exits = method.attention, method.exits
        alone = {"early exits": exits is not None, "changed first logits": method.changes_first_logits}
        others = sum([edit is not None, method.second is not None, *alone.values()])
        if others > 1 and any(alone.values()):
            raise ValueError(
                f"{type(method).__name__} has {' and '.join(name for name, has in alone.items() if has)} beside "
                "another part; only an edit of attention and a second stream go together (attention = None says that "
                "there is no edit)"
            )
        if edit is not None:
            self._edit_of(method)
        if exits is not None:
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
            return self._execution.decode(inputs, greedy, self._plan(method, options, second, greedy), capture)[0]

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
        every = distinct(swept.neutral, *alphas)
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
            return dict(zip(every, self._execution.decode(inputs, greedy, plan, capture), strict=True))

    def _plan(
        self,
        method: Method,
        options: Sequence[Options] | None,
        second: BatchFeature | dict[str, Any] | None,
        greedy: Greedy,
    ) -> Plan:
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
            self._exit_head,
            method.first_logits if method.changes_first_logits else None,
        )

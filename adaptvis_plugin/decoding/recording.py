"""Recording the first forward pass of a `generate` call."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import Cache, PreTrainedModel

from adaptvis_plugin.decoding.finite import refuse, unusable
from adaptvis_plugin.decoding.first_pass import around_first_pass, in_this_thread
from adaptvis_plugin.decoding.inspection import TextDecoder
from adaptvis_plugin.decoding.rows import visible


class Recording:
    """What a first forward pass was given, and what it returned.

    `unseen`, `causal`, `inputs_embeds` and `cache` require that the text decoder was watched, and are only
    there until the pass has ended.

    Attributes:
        confidence: The probability of each row's most likely first token, unsteered; shape (batch,).
        logits: Logits of the last positions: of the last prompt token and, if the pass had some, of copies (see
            `packing`); shape (batch, at most 1 + copies, vocabulary), fp32.
        copies: The number of copied tokens behind the prompt.
        position_ids: The positions that the pass was given, or None; the last axis is the prompt.
        inputs_embeds: What the text decoder was given, shape (batch, tokens and copies, hidden size). None if it was
            given tokens.
        cache: The filled cache.
    """

    confidence: torch.Tensor
    logits: torch.Tensor

    def __init__(self, copies: int) -> None:
        self.copies = copies
        self.position_ids: torch.Tensor | None = None
        self.inputs_embeds: torch.Tensor | None = None
        self.cache: Cache | None = None
        self._masks: dict[int, torch.Tensor] = {}
        self._unreadable = False

    def unseen(self, count: int) -> bool:
        """Whether none of the last tokens of the pass was seen by a token before it.

        Args:
            count: The number of these.
        """

        def seen(mask: torch.Tensor) -> bool:
            columns = min(count, mask.shape[-1])
            return bool(visible(mask[..., -columns:]).triu(1 + columns - mask.shape[-2]).any())

        return not self._unreadable and not any(map(seen, self._masks.values()))

    @property
    def causal(self) -> bool:
        """Whether all that the cache holds of a token depends only on it and the tokens before it.

        It does not if the tokens of an image see each other, or if positions are derived from images.
        """
        ordinary = self.position_ids is not None and self.position_ids.ndim == 2
        return ordinary and self.unseen(max((mask.shape[-1] for mask in self._masks.values()), default=1))

    def keep_mask(self, module: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        """Keep the mask of an attention layer; a pre-forward hook."""
        mask = _argument("attention_mask", module, arguments, options)
        if isinstance(mask, BlockMask):
            self._unreadable = True
        elif mask is None or mask.ndim == 2:
            # A kernel without a mask matrix decides by the layer's flag.
            self._unreadable |= not getattr(module, "is_causal", True)
        else:
            self._masks[id(mask)] = mask  # many layers share a mask; it is kept so that no other mask gets its id

    def keep_embeddings(self, module: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        """Keep what the text decoder is given; a pre-forward hook."""
        self.inputs_embeds = _argument("inputs_embeds", module, arguments, options)

    def forget(self) -> None:
        """Free what is large."""
        self.inputs_embeds = self.cache = None
        self._masks.clear()


@contextmanager
def record(
    model: PreTrainedModel,
    *,
    watched: TextDecoder | None = None,
    copies: int = 0,
    first_token: str = "the first token",
    done: Callable[[Recording, Any], None] = lambda recording, output: None,
    later: Callable[[Any], None] = lambda output: None,
) -> Iterator[Recording]:
    """Record the first forward pass inside the block.

    Args:
        model: The model that generates inside the block.
        watched: Its text decoder, to record masks and embeddings too. The cache then also remembers what a sliding
            window would otherwise forget, so that positions can be taken out of it again.
        copies: The number of copied tokens behind the prompt.
        first_token: What to call the first token in an error.
        done: Called when the first pass has ended.
        later: Called with the output of every later pass.

    Raises:
        NonFiniteLogitsError: If a row's logits are not finite: during the first pass, or at the end of the block for
            a later one.
    """
    recording = Recording(copies)
    hooks = ExitStack()
    later_unusable: torch.Tensor | None = None

    def before(options: dict[str, Any]) -> None:
        recording.position_ids = options.get("position_ids")
        if watched is None:
            return
        watching = [(module, recording.keep_mask) for module in watched.attention]
        for module, keep in [*watching, (watched.module, recording.keep_embeddings)]:
            hooks.callback(module.register_forward_pre_hook(in_this_thread(keep), with_kwargs=True).remove)

    def after(output: Any) -> None:
        hooks.close()
        if output is None:
            return
        recording.logits = output.logits[:, -1 - copies :].float()
        recording.confidence = recording.logits[:, 0].softmax(-1).amax(-1)
        refuse(recording.confidence.isnan(), model.dtype, first_token)  # as of logits that are NaN, inf, or all -inf
        recording.cache = output.past_key_values
        done(recording, output)
        recording.forget()

    def check(output: Any) -> None:
        nonlocal later_unusable
        if output is not None:
            # Checked at the end: a check at each step would stall a GPU. A prompt may be decoded in several branches.
            bad = unusable(output.logits[:, -1]).reshape(len(recording.logits), -1).any(1)
            later_unusable = bad if later_unusable is None else later_unusable | bad
            later(output)

    with hooks, around_first_pass(model, before, after, check):
        yield recording
    if later_unusable is not None:
        refuse(later_unusable, model.dtype, "a token after the first")


def _argument(name: str, module: nn.Module, arguments: Any, options: dict[str, Any]) -> Any:
    """Return what a module's forward is given under a name, by keyword or by position."""
    if options.get(name) is not None or not arguments:
        return options.get(name)
    return inspect.signature(type(module).forward).bind(module, *arguments, **options).arguments.get(name)

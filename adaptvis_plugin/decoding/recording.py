"""Recording the first forward pass of a `generate` call."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import Cache, PreTrainedModel

from adaptvis_plugin.decoding.finite import refuse, unusable
from adaptvis_plugin.decoding.first_pass import around_first_pass, in_this_thread
from adaptvis_plugin.decoding.inspection import TextDecoder


class Recording:
    """What a first forward pass was given, and the logits it returned.

    `last_is_unseen` and `causal` require that the text decoder was watched.

    Attributes:
        logits: Logits of the last position, shape (batch, vocabulary), fp32.
        position_ids: The positions that the pass was given, or None; the last axis is the prompt.
        inputs_embeds: What the text decoder was given, shape (batch, prompt tokens, hidden size). None if it was given
            tokens, or was not watched.
    """

    logits: torch.Tensor

    def __init__(self) -> None:
        self.position_ids: torch.Tensor | None = None
        self.inputs_embeds: torch.Tensor | None = None
        self._masks: dict[int, torch.Tensor] = {}
        self._unreadable = False

    @property
    def last_is_unseen(self) -> bool:
        """Whether no token but the last one saw the last one."""
        return not self._unreadable and not any(bool(mask[..., :-1, -1].any()) for mask in self._visible())

    @property
    def causal(self) -> bool:
        """Whether no token saw a later one. It is not causal if the tokens of an image see each other."""
        return not self._unreadable and not any(
            bool(mask.triu(1 + mask.shape[-1] - mask.shape[-2]).any()) for mask in self._visible()
        )

    def _visible(self) -> Iterator[torch.Tensor]:
        for mask in self._masks.values():
            yield mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2

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


@contextmanager
def record(
    model: PreTrainedModel, *, watched: TextDecoder | None = None, first_token: str = "the first token"
) -> Iterator[Recording]:
    """Record the first forward pass inside the block.

    Args:
        model: The model that generates inside the block.
        watched: Its text decoder, to record masks and embeddings too. The cache then also remembers what a sliding
            window or a convolution would otherwise forget, so that positions can be taken out of it again.
        first_token: What to call the first token in an error.

    Raises:
        NonFiniteLogitsError: If a row's logits are not finite: during the first pass, or at the end of the block for
            a later one.
    """
    recording = Recording()
    hooks = ExitStack()
    later_unusable: torch.Tensor | None = None

    def before(options: dict[str, Any]) -> None:
        recording.position_ids = options.get("position_ids")
        if watched is None:
            return
        cache = options.get("past_key_values")
        if isinstance(cache, Cache) and not watched.recurrent:
            cache.activate_past_recording()
        watching = [(module, recording.keep_mask) for module in watched.attention]
        for module, keep in [*watching, (watched.module, recording.keep_embeddings)]:
            hooks.callback(module.register_forward_pre_hook(in_this_thread(keep), with_kwargs=True).remove)

    def after(output: Any) -> None:
        hooks.close()
        if output is not None:
            recording.logits = output.logits[:, -1].float()
            refuse(unusable(recording.logits), model.dtype, first_token)

    def later(output: Any) -> None:
        nonlocal later_unusable
        if output is not None:
            bad = unusable(output.logits[:, -1])  # checked at the end: a check at each step would stall a GPU
            later_unusable = bad if later_unusable is None else later_unusable | bad

    with hooks, around_first_pass(model, before, after, later):
        yield recording
    if later_unusable is not None:
        refuse(later_unusable, model.dtype, "a token after the first")


def _argument(name: str, module: nn.Module, arguments: Any, options: dict[str, Any]) -> Any:
    """Return what a module's forward is given under a name, by keyword or by position."""
    if options.get(name) is not None or not arguments:
        return options.get(name)
    return inspect.signature(type(module).forward).bind(module, *arguments, **options).arguments.get(name)

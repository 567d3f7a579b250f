"""The first forward pass of a `generate` call: steered, watched, or both."""

import inspect
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import Cache, PreTrainedModel

from adaptvis_plugin.decoding.attention import EAGER_NAME, NAME, Steering, active
from adaptvis_plugin.decoding.finite import refuse, unusable
from adaptvis_plugin.decoding.inspection import TextDecoder

# Hooks are the model's and answer to whoever calls it; they do what they are for only in the call that set them.
_current: ContextVar["FirstForward | None"] = ContextVar("adaptvis_first_forward", default=None)


class FirstForward:
    """Context manager around a `generate` call: steers or watches its first forward pass and keeps that pass's logits.

    **Mutates the model while that single pass runs**: the attention implementation of the text decoder's configs is
    swapped by a pre-forward hook and put back by a post-forward hook, also when the pass raises. Vision towers have
    configs of their own and are never touched, and every other pass uses the model's own kernel. Two of these at a
    time on one model would put back each other's: whoever enters holds the model's lock (see `decoder`).

    Args:
        model: the model whose `generate` is called inside the block.
        decoder: its text decoder.
        gain: see `Steering`; None leaves the pass as it is.
        watch: keep the masks the attention layers get and what the last position is given in place of its token, and
            let the cache remember what a sliding window or a convolution would otherwise forget, so that positions
            can be taken back out of it.
        embeddings: keep what every position is given.

    Attributes:
        logits: of the last position, shape (batch, vocabulary), fp32.
        position_ids: the positions the pass was given, or None; the last axis is the prompt.
        inputs_embeds: what the text decoder was given, if asked for; shape (batch, prompt tokens, hidden size).
        last_embedding: its last position; shape (batch, hidden size). None if the decoder was given tokens.

    Raises:
        NonFiniteLogitsError: during the pass, or at the end of the block for a later one, if a row's logits are not
            finite.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: TextDecoder,
        gain: torch.Tensor | None = None,
        *,
        watch: bool = False,
        embeddings: bool = False,
    ) -> None:
        self._model = model
        self._decoder = decoder
        self._watch = watch
        self._embeddings = embeddings
        self._gain = gain
        self.logits: torch.Tensor | None = None
        self.position_ids: torch.Tensor | None = None
        self.inputs_embeds: torch.Tensor | None = None
        self.last_embedding: torch.Tensor | None = None
        self._later_unusable: torch.Tensor | None = None
        self._masks: dict[int, torch.Tensor] = {}
        self._unreadable = False

    def __enter__(self) -> "FirstForward":
        self._hooks = [
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._model.register_forward_hook(self._after, always_call=True),
        ]
        self._started = False
        self._outer = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._outer)
        for hook in self._hooks:
            hook.remove()
        if kind is None and self._later_unusable is not None:
            refuse(self._later_unusable, self._model.dtype, "a token after the first")

    def _before(self, model: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        if _current.get() is not self:
            return
        self._active = not self._started
        self._started = True
        if not self._active:
            return
        self.position_ids = options.get("position_ids")
        self._watchers: list[Any] = []
        if self._watch:
            cache = options.get("past_key_values")
            if isinstance(cache, Cache) and not self._decoder.recurrent:
                cache.activate_past_recording()
            self._watchers = [
                module.register_forward_pre_hook(self._look, with_kwargs=True) for module in self._decoder.attention
            ]
        if self._watch or self._embeddings:
            self._watchers.append(
                self._decoder.module.register_forward_pre_hook(self._keep_embeddings, with_kwargs=True)
            )
        if self._gain is not None:
            self._own = [config._attn_implementation for config in self._decoder.configs]
            for config, own in zip(self._decoder.configs, self._own, strict=True):
                config._attn_implementation = EAGER_NAME if own == "eager" else NAME
            self._steering = Steering(self._gain, self._decoder.attention)
            self._token = active.set(self._steering)

    def _after(self, model: nn.Module, arguments: Any, output: Any) -> None:
        if _current.get() is not self:
            return
        if not self._active:
            if output is not None:
                bad = unusable(output.logits[:, -1])  # read at the end: a look at each step would stall a GPU
                self._later_unusable = bad if self._later_unusable is None else self._later_unusable | bad
            return
        self._active = False
        for hook in self._watchers:
            hook.remove()
        if self._gain is not None:
            active.reset(self._token)
            for config, own in zip(self._decoder.configs, self._own, strict=True):
                config._attn_implementation = own
        if output is None:  # the pass raised
            return
        self.logits = output.logits[:, -1].float()
        if self._gain is not None and len(self._steering.seen) != len(self._decoder.attention):
            raise RuntimeError(
                f"steered {len(self._steering.seen)} of {len(self._decoder.attention)} attention layers of "
                f"{type(model).__name__}: its attention does not go through the attention interface in every layer"
            )
        steered = "" if self._gain is None else " under steering"
        refuse(unusable(self.logits), self._model.dtype, f"the first token{steered}")

    @property
    def last_unseen(self) -> bool:
        """Whether the watched pass let no token but the last see the last one."""
        return not self._unreadable and not any(bool(mask[..., :-1, -1].any()) for mask in self._visible())

    @property
    def causal(self) -> bool:
        """Whether the watched pass let no token see a later one. Image blocks that attend both ways are not causal."""
        return not self._unreadable and not any(
            bool(mask.triu(1 + mask.shape[-1] - mask.shape[-2]).any()) for mask in self._visible()
        )

    def _visible(self) -> Iterator[torch.Tensor]:
        for mask in self._masks.values():
            yield mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2

    def _keep_embeddings(self, module: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        given = _argument("inputs_embeds", module, arguments, options)
        if _current.get() is self and given is not None:
            self.inputs_embeds = given if self._embeddings else None
            self.last_embedding = given[:, -1].clone()  # a view would hold on to all of it

    def _look(self, module: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        if _current.get() is not self:
            return
        mask = _argument("attention_mask", module, arguments, options)
        if isinstance(mask, BlockMask):
            self._unreadable = True
        elif mask is None or mask.ndim == 2:
            # Kernels that get no matrix decide by the layer's flag.
            self._unreadable |= not getattr(module, "is_causal", True)
        else:
            self._masks[id(mask)] = mask  # one mask serves many layers; kept, so that no other gets its id


def _argument(name: str, module: nn.Module, arguments: Any, options: dict[str, Any]) -> Any:
    """What a module's forward is given under a name, by keyword or by position."""
    if options.get(name) is not None or not arguments:
        return options.get(name)
    return inspect.signature(type(module).forward).bind(module, *arguments, **options).arguments.get(name)

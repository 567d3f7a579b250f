"""A model without the mixing of patches: what its text decoder is given, each feature from its own patch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from adaptvis_plugin.attention.record import UnmappedError


class _ReachedError(Exception):
    """Leave the model's forward pass: the text decoder has its input."""


def text_decoder_input(model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the embeddings that the text decoder is given, and do not run it.

    Args:
        model: The model.
        inputs: Its inputs.

    Raises:
        UnmappedError: If the text decoder is given no embeddings.
    """
    found: list[torch.Tensor | None] = []

    def stop(module: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        found.append(options.get("inputs_embeds"))
        raise _ReachedError

    hook = model.get_decoder().register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
    try:
        model(**inputs)
    except _ReachedError:
        pass
    finally:
        hook.remove()
    if not found or found[0] is None:
        raise UnmappedError("its text decoder is not given the image's features")
    return found[0]


@contextmanager
def patches_apart(model: PreTrainedModel) -> Iterator[None]:
    """Switch off the layers outside of the text decoder in which patches look at each other.

    These are the elements of a list of layers, with attention inside, that return something of the shape of what they
    are given. They return just that inside the block. The vision tower keeps its patch embeddings, and whatever cuts,
    pools, merges or reorders features. A resampler, whose queries are not patches, stays as it is or no longer sees the
    picture.

    Args:
        model: The model.
    """
    text = set(model.get_decoder().modules())
    layers = {
        layer
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and module not in text
        for layer in module
        if layer not in text and any(_attends(part) for part in layer.modules())
    }
    shown: dict[type[nn.Module], tuple[Any, ...] | bool] = {}
    own = {layer: vars(layer).get("forward") for layer in layers}
    try:
        for layer in layers:
            layer.forward = _switched_off(layer.forward, type(layer), shown)
        yield
    finally:
        for layer, forward in own.items():
            if forward is None:
                vars(layer).pop("forward", None)
            else:
                layer.forward = forward


def _attends(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower() or "attn" in type(module).__name__.lower()


def _switched_off(
    forward: Callable[..., Any], kind: type[nn.Module], shown: dict[type[nn.Module], Any]
) -> Callable[..., Any]:
    """Return a layer's forward that hands on what it is given.

    Args:
        forward: The layer's own.
        kind: The layer's class.
        shown: What the first layer of each class returned beside the features: a tuple, or None if it returned the
            features alone. False if their shape was not the given one.
    """

    def switched_off(*arguments: Any, **options: Any) -> Any:
        given = next(value for value in (*arguments, *options.values()) if isinstance(value, torch.Tensor))
        if kind not in shown:
            with torch.no_grad():
                output = forward(*arguments, **options)
            first = output[0] if isinstance(output, tuple) else output
            same = isinstance(first, torch.Tensor) and first.shape == given.shape
            shown[kind] = same and (output[1:] if isinstance(output, tuple) else None)
        beside = shown[kind]
        if beside is False:
            return forward(*arguments, **options)
        return given if beside is None else (given, *beside)

    return switched_off

"""Whether a model has changed: if so, later batches cannot use what it computed before."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import nn

_SAMPLES = 8  # values of each parameter
# The attributes of PEFT's layers that say which adapters apply, and how.
_ADAPTERS = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")


def model_fingerprint(model: nn.Module) -> tuple[Any, ...] | None:
    """Return something that differs between two states of a model that compute different things.

    It finds replaced modules, parameters and buffers; changes of their values that autograd counts (`load_state_dict`,
    optimisers, any operation in place); moves to another device or dtype; PEFT adapters that are set, switched off,
    rescaled or merged; and hooks that are added or removed. Nothing counts writes through `.data`. For these, a few
    values of each parameter are compared, which finds a write to a whole matrix.

    Returns:
        Something to compare with ==. None if the model does not count its changes (for example because it was created
        in inference mode), or if the values of its tensors cannot be read.
    """
    # One walk over the modules' own dictionaries: this runs for every batch.
    modules: list[Any] = []
    parameters: list[torch.Tensor | None] = []
    buffers: list[torch.Tensor | None] = []
    for module in model.modules():
        own = vars(module)
        parameters.extend(own["_parameters"].values())
        buffers.extend(own["_buffers"].values())
        hooks = chain(own["_forward_pre_hooks"].items(), own["_forward_hooks"].items())
        adapters = [str(own[name]) for name in _ADAPTERS if name in own] if "merged_adapters" in own else ()
        modules.append((id(module), *(key for key, hook in hooks if not _records(hook)), *adapters))
    try:
        tensors = [(id(t), t.data_ptr(), t._version) for t in chain(parameters, buffers) if t is not None]
        return tensors, modules, _samples(parameters)
    except (RuntimeError, TypeError):
        return None


def _records(hook: Any) -> bool:
    """Whether a hook is one of transformers' own, which a model's first pass adds and which only record outputs."""
    return getattr(hook, "__module__", None) == "transformers.utils.output_capturing"


@torch.inference_mode()
def _samples(parameters: Iterable[torch.Tensor | None]) -> list[list[float]]:
    """Return values from all over each parameter, per device and dtype."""
    values: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter is not None and parameter.device.type != "meta":  # offloaded: the values are elsewhere
            some = parameter.reshape(-1)[:: max(1, parameter.numel() // _SAMPLES)]
            values.setdefault((parameter.device, parameter.dtype), []).append(some)
    # NaN would differ from itself.
    return [torch.cat(parts).float().nan_to_num().tolist() for parts in values.values()]

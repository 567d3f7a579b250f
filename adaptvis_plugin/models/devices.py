"""Where a model goes: the device that the user gave, or an error.

The functions import torch themselves: that takes seconds, and a command's help does not need it.
"""

from collections.abc import Mapping
from typing import Any

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` besides the name of one device."""


def device_map(name: str, given: Any) -> Mapping[str, Any] | str:
    """Return the `device_map` of transformers' `from_pretrained`, also for one device: a quantised model cannot move.

    Args:
        name: The argument that says where the model goes, for the error.
        given: Its value; None for the first GPU, or the CPU if there is none.

    Raises:
        ValueError: See `choose_device`.
    """
    import torch

    return given if _spreads(given) else {"": choose_device(given, 0, 1, torch.cuda.device_count(), name)}


def device_of_rank(name: str, given: Any, rank: int, ranks: int, kind: str) -> str | None:
    """Return the device of one of several processes; each has its own.

    Args:
        name: The argument that says where the model goes, for the error.
        given: Its value; None if none was given.
        rank: Number of the process among those of this machine.
        ranks: How many these are.
        kind: Type of the devices over which the processes exchange their results.

    Returns:
        The device; None if the model is spread over all of them, as the user says.

    Raises:
        ValueError: If all processes would take the same device, or one of another type; see also `choose_device`.
    """
    import torch

    gpus = torch.cuda.device_count()
    if _spreads(given):
        if ranks > 1 and gpus > 1:
            raise ValueError(
                f"{name}={given!r}: {ranks} processes on this machine would each spread a model over all devices; "
                f"start one process, or leave {name} out, and each takes its own device"
            )
        return None
    device = choose_device(kind if given is None else given, rank, ranks, gpus, name)
    if torch.device(device).type != kind:
        raise ValueError(
            f"{name}={given!r}: the processes of this run exchange their results on {kind}; leave it out, or start "
            f"them with ACCELERATE_USE_CPU={'false' if kind == 'cpu' else 'true'}"
        )
    return device


def choose_device(given: Any, rank: int, ranks: int, gpus: int, name: str = "device") -> str:
    """Return the device of a process.

    Args:
        given: The device that the user gave; None for the process's own GPU, or the CPU if there is none.
        rank: Number of this process among those of this machine.
        ranks: How many these are; each takes its own GPU.
        gpus: How many CUDA devices torch sees.
        name: The argument that gave it, for the error.

    Raises:
        ValueError: If there is no such device, or all ranks would share it.
    """
    import torch

    if given is None:
        given = "cuda" if gpus else "cpu"
    way_out = "give cpu, cuda or cuda:N" + (f", or one of {', '.join(SPREADS)}" if name == "device_map" else "")
    try:
        device = torch.device(given if isinstance(given, str) else "")
    except RuntimeError as error:
        raise ValueError(f"{name}={given!r}: not a device of torch; {way_out}") from error
    if device.type == "meta":
        raise ValueError(f"{name}={given!r}: a model without its weights cannot answer; {way_out}")
    if device.type == "cpu":
        return "cpu"
    if device.type == "cuda" and (device.index or 0) >= gpus:
        there = f"only cuda:0 to cuda:{gpus - 1} here; give one of these, or" if gpus else "no CUDA device here; give"
        raise ValueError(f"{name}={given!r}: torch sees {there} {name}=cpu")
    if ranks == 1:
        return str(given)
    if device.index is not None:
        raise ValueError(
            f"{name}={given!r}: {ranks} processes on this machine would share one device; give {name}={device.type}, "
            "and each takes its own (CUDA_VISIBLE_DEVICES says which there are)"
        )
    # As accelerate does: a launcher may show every process one GPU only.
    return f"{device.type}:{rank % gpus if device.type == 'cuda' else rank}"


def _spreads(given: Any) -> bool:
    """Return whether this is more than the name of one device."""
    return isinstance(given, Mapping) or (isinstance(given, str) and given in SPREADS)

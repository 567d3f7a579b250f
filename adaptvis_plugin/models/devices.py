"""Where a model goes: the device asked for, or a refusal.

torch takes seconds to import, and a command's help needs only the names, so the functions import it.
"""

from collections.abc import Mapping
from typing import Any

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
"""What a `device_map` may say besides the name of one device."""


def device_map(name: str, asked: Any) -> Mapping[str, Any] | str:
    """Return the `device_map` of transformers' `from_pretrained`, also for one device: a quantised model cannot move.

    Args:
        name: The argument that says where the model goes, for the error.
        asked: Its value; None for the first GPU, or the CPU if there is none.

    Raises:
        ValueError: See `choose_device`.
    """
    import torch

    return asked if _spreads(asked) else {"": choose_device(asked, 0, 1, torch.cuda.device_count(), name)}


def device_of_rank(name: str, asked: Any, rank: int, ranks: int, kind: str) -> str | None:
    """Return the device of one of several processes, each of which has its own.

    Args:
        name: The argument that says where the model goes, for the error.
        asked: Its value; None if none was given.
        rank: Number of the process among those of this machine.
        ranks: How many these are.
        kind: Type of the devices over which the processes exchange their results.

    Returns:
        The device; None if the model is spread over all of them, as asked.

    Raises:
        ValueError: If all processes would take the same device, or one of another type; see also `choose_device`.
    """
    import torch

    gpus = torch.cuda.device_count()
    if _spreads(asked):
        if ranks > 1 and gpus > 1:
            raise ValueError(
                f"{name}={asked!r}: {ranks} processes on this machine would each spread a model over all devices; "
                f"start one process, or leave {name} out, and each takes its own device"
            )
        return None
    device = choose_device(kind if asked is None else asked, rank, ranks, gpus, name)
    if torch.device(device).type != kind:
        raise ValueError(
            f"{name}={asked!r}: the processes of this run exchange their results on {kind}; leave it out, or start "
            f"them with ACCELERATE_USE_CPU={'false' if kind == 'cpu' else 'true'}"
        )
    return device


def choose_device(asked: Any, rank: int, ranks: int, gpus: int, name: str = "device") -> str:
    """Return the device of a process.

    Args:
        asked: The device the user asked for; None for the process's own GPU, or the CPU if there is none.
        rank: Number of this process among those of this machine.
        ranks: How many these are; each takes its own GPU.
        gpus: How many CUDA devices torch sees.
        name: The argument that asked for it, for the error.

    Raises:
        ValueError: If there is no such device, or all ranks would share it.
    """
    import torch

    if asked is None:
        asked = "cuda" if gpus else "cpu"
    way_out = "give cpu, cuda or cuda:N" + (f", or one of {', '.join(SPREADS)}" if name == "device_map" else "")
    try:
        device = torch.device(asked if isinstance(asked, str) else "")
    except RuntimeError as error:
        raise ValueError(f"{name}={asked!r}: not a device of torch; {way_out}") from error
    if device.type == "meta":
        raise ValueError(f"{name}={asked!r}: a model without its weights cannot answer; {way_out}")
    if device.type == "cpu":
        return "cpu"
    if device.type == "cuda" and (device.index or 0) >= gpus:
        there = f"only cuda:0 to cuda:{gpus - 1} here; give one of these, or" if gpus else "no CUDA device here; give"
        raise ValueError(f"{name}={asked!r}: torch sees {there} {name}=cpu")
    if ranks == 1:
        return str(asked)
    if device.index is not None:
        raise ValueError(
            f"{name}={asked!r}: {ranks} processes on this machine would share one device; give {name}={device.type}, "
            "and each takes its own (CUDA_VISIBLE_DEVICES says which there are)"
        )
    # As accelerate does: a launcher may show every process one GPU only.
    return f"{device.type}:{rank % gpus if device.type == 'cuda' else rank}"


def _spreads(asked: Any) -> bool:
    """Return whether this is more than the name of one device."""
    return isinstance(asked, Mapping) or (isinstance(asked, str) and asked in SPREADS)

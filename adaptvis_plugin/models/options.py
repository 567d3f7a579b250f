"""The arguments that say how a model is loaded, checked before anything is read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
"""What a `device_map` may say besides the name of one device."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model is loaded.

    Attributes:
        dtype: `auto` (the checkpoint's), or one of `DTYPES`.
        device: where the model goes; by default the first GPU, else the CPU. Not together with `device_map`.
        device_map: `auto` and the like: accelerate spreads the layers over the devices.
        attn_implementation: kernel of the ordinary passes; by default transformers chooses.
        revision: branch, tag or commit on the hub.
        trust_remote_code: whether to run code from the checkpoint.

    Raises:
        ValueError: if one of them is unusable.
    """

    dtype: str = "auto"
    device: str | None = None
    device_map: str | Mapping[str, Any] | None = None
    attn_implementation: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r}: give one of {', '.join(DTYPES)}")
        check_text("attn_implementation", self.attn_implementation, "eager, sdpa or another of transformers' names")
        check_text(
            "revision",
            self.revision,
            "a branch, a tag or a commit; digits alone are read as a number, so give it in full",
        )
        object.__setattr__(self, "trust_remote_code", boolean("trust_remote_code", self.trust_remote_code))
        self.place()

    def place(self) -> Mapping[str, Any] | str:
        """The `device_map` of transformers' `from_pretrained`, also for a single device: a quantised model cannot move.

        Raises:
            ValueError: if two places are given; see also `choose_device`.
        """
        name, asked = self._asked()
        return asked if _spreads(asked) else {"": choose_device(asked, 0, 1, torch.cuda.device_count(), name)}

    def of_rank(self, rank: int, ranks: int, kind: str) -> "Loading":
        """The same for one of several processes, each with a device of its own.

        Args:
            rank: number of the process among those of this machine.
            ranks: how many these are.
            kind: type of the devices over which the processes exchange their results.

        Raises:
            ValueError: if all would take the same device, or none of that type; see also `choose_device`.
        """
        name, asked = self._asked()
        gpus = torch.cuda.device_count()
        if _spreads(asked):
            if ranks > 1 and gpus > 1:
                raise ValueError(
                    f"{name}={asked!r}: {ranks} processes on this machine would each spread a model over all devices; "
                    f"start one process, or leave {name} out, and each takes a device of its own"
                )
            return self
        device = choose_device(kind if asked is None else asked, rank, ranks, gpus, name)
        if torch.device(device).type != kind:
            raise ValueError(
                f"{name}={asked!r}: the processes of this run exchange their results on {kind}; leave it out, or start "
                f"them with ACCELERATE_USE_CPU={'false' if kind == 'cpu' else 'true'}"
            )
        return replace(self, device=device, device_map=None)

    def _asked(self) -> tuple[str, Any]:
        """The argument that says where the model goes, and what it says."""
        if self.device is not None and self.device_map is not None:
            raise ValueError(
                f"device={self.device!r} and device_map={self.device_map!r} both say where the model goes; give one"
            )
        return ("device", self.device) if self.device_map is None else ("device_map", self.device_map)


def choose_device(asked: Any, rank: int, ranks: int, gpus: int, name: str = "device") -> str:
    """The device of a process: the one asked for, or a refusal.

    Args:
        asked: the user's wish; None for the process's own GPU, or the CPU where there is none.
        rank: number of this process among those of this machine.
        ranks: how many these are; each takes a GPU of its own.
        gpus: how many CUDA devices torch sees.
        name: the argument that said so, for the error.

    Raises:
        ValueError: if there is no such device, or all ranks would share it.
    """
    if asked is None:
        asked = "cuda" if gpus else "cpu"
    ways = "give cpu, cuda or cuda:N" + (f", or one of {', '.join(SPREADS)}" if name == "device_map" else "")
    try:
        device = torch.device(asked if isinstance(asked, str) else "")
    except RuntimeError as error:
        raise ValueError(f"{name}={asked!r}: not a device of torch; {ways}") from error
    if device.type == "meta":
        raise ValueError(f"{name}={asked!r}: a model without its weights cannot answer; {ways}")
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
    """Whether this is more than the name of one device."""
    return isinstance(asked, Mapping) or (isinstance(asked, str) and asked in SPREADS)


def boolean(name: str, value: Any) -> bool:
    """A truth value, as such or as text.

    Raises:
        ValueError: if it is anything else; any other text would count as true.
    """
    known = {"true": True, "True": True, "false": False, "False": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}={value!r}: give true or false")
    return known[value]


def check_text(name: str, value: Any, rule: str) -> None:
    """Raise ValueError unless a value is text or None: lmms-eval hands over as a number what looks like one."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name}={value!r}: give {rule}")

"""What is captured of which task, where it lies, and how a run's folder is read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptvis_plugin.attention.record import AttentionError
from adaptvis_plugin.attention.store import AttentionStore
from adaptvis_plugin.traces import Trace, read_traces
from adaptvis_plugin.traces.schema import alpha_key

if TYPE_CHECKING:
    from adaptvis_plugin.decoding import Method
    from adaptvis_plugin.models.presets import Preset

CONTROL = "constant"
"""The method of the control's runs."""

STEERING = ("scalingvis", "adaptvis")
"""The methods whose settings a preset is asked for."""

Setting = tuple[str, Mapping[str, Any]]
"""A method's name and its hyper-parameters."""

WITHOUT_PRESET: tuple[Setting, ...] = (("scalingvis", {"alpha": 0.5}), ("scalingvis", {"alpha": 1.5}))
"""What is looked at if there are no settings for a task: the authors' coefficients, as they smooth and sharpen."""


@dataclass(frozen=True)
class AttentionPlan:
    """What is captured.

    Attributes:
        alphas: The coefficients, 1 first.
        constants: The constants of the control.
        places: The layers or heads in which the coefficients apply; see `Method.places`.
    """

    alphas: tuple[float, ...]
    constants: tuple[float, ...]
    places: Mapping[str, str]

    @classmethod
    def of(cls, methods: Iterable[Method], constants: Sequence[float]) -> AttentionPlan:
        """Return what some methods need.

        Raises:
            AttentionError: If they steer different layers or heads: one pass computes all coefficients in the same.
        """
        every = list(methods)
        places: Mapping[str, str] = every[0].places if every else {}
        if any(one.places != places for one in every):
            raise AttentionError(
                f"the settings steer different layers or heads ({'; '.join(map(str, every))}); look at one kind at a "
                "time, by --layers or --heads"
            )
        alphas = {alpha for one in every for alpha in one.alphas or ()} - {1.0}
        return cls((1.0, *sorted(alphas)), tuple(dict.fromkeys(constants)), places)


def methods_for(
    task: str, given: Sequence[Setting], preset: Preset | None, layers: Any = None, heads: Any = None
) -> dict[str, Method]:
    """Return the methods to look at for a task, by the names of their runs.

    Args:
        task: The task.
        given: The settings that the user names; empty for those of the preset.
        preset: The model's preset; None if it has none.
        layers: Where the methods steer, in place of what a setting says.
        heads: Where the methods steer, in place of what a setting says.

    Raises:
        ValueError: If a setting has a wrong value.
    """
    from adaptvis_plugin.comparison.runs import described
    from adaptvis_plugin.methods import build_method

    settings: list[Setting] = list(given)
    if not settings and preset is not None:
        settings = [(name, values) for name in STEERING if (values := preset.values(task, name))]
    where = {name: value for name, value in (("layers", layers), ("heads", heads)) if value is not None}
    methods: dict[str, Method] = {}
    for name, given_values in settings or list(WITHOUT_PRESET):
        shown = {key: value for key, value in given_values.items() if not (where and key in ("layers", "heads"))}
        methods[described(name, shown)] = build_method(name, {**shown, **where})
    return methods


def store_path(folder: Path, task: str) -> Path:
    """Return the folder of a task's captured attention."""
    return folder / "attention" / task


def control_path(folder: Path, task: str, constant: float) -> Path:
    """Return the trace of the control beside that of the sweep."""
    return folder / f"{CONTROL}_{alpha_key(constant)}_{task}.jsonl"


@dataclass(frozen=True)
class Captured:
    """What lies in a run's folder about one task.

    Attributes:
        trace: The trace of its answers.
        store: The captured attention; None if only answers are there.
        controls: The traces of the runs with a constant, by the constant.
    """

    trace: Trace
    store: AttentionStore | None
    controls: Mapping[float, Trace]


def read_captured(paths: Sequence[Path]) -> list[Captured]:
    """Read folders that `adaptvis attention` wrote, and traces.

    Args:
        paths: Folders, or single traces. Attention is found beside the trace of its sweep.

    Raises:
        TraceError: If there is no trace, or one is not usable.
        AttentionError: If captured attention cannot be read.
    """
    traces = read_traces(paths)
    controls: dict[tuple[Path, str], dict[float, Trace]] = {}
    for trace in traces:
        if trace.header and trace.header.method == CONTROL:
            constant = float(trace.header.settings["constant"])
            controls.setdefault((trace.path.parent, trace.name), {})[constant] = trace
    found = []
    for trace in traces:
        if trace.header and trace.header.method == CONTROL:
            continue
        folder = store_path(trace.path.parent, trace.name)
        sweep = trace.header is not None and trace.header.method == "sweep"
        store = AttentionStore(folder) if sweep and folder.is_dir() else None
        found.append(Captured(trace, store, controls.get((trace.path.parent, trace.name), {})))
    return found

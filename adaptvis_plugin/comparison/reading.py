"""Finds the runs that files and folders hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from adaptvis_plugin.comparison.runs import ComparisonError, Run, named
from adaptvis_plugin.comparison.sources import lmms_eval, vlmevalkit
from adaptvis_plugin.comparison.sources.traced import Setting, read_trace_runs
from adaptvis_plugin.lmms_eval.results import RESULTS, SAMPLES
from adaptvis_plugin.traces import TraceError
from adaptvis_plugin.vlmevalkit.trace import TRACE

KINDS = (
    "an output folder of lmms-eval (made with --output_path and --log_samples), a work dir of VLMEvalKit, "
    "or a trace of `adaptvis sweep`"
)
Read = Callable[[], Sequence[Run]]


def read_runs(
    paths: Iterable[Path], settings: Sequence[Setting] = (), presets: Sequence[str] = ()
) -> tuple[list[Run], list[str]]:
    """Return the runs, each with a name of its own, and what was left out and why.

    Args:
        paths: Folders and files of runs.
        settings: The settings that traces of sweeps are read under; see `read_trace_runs`.
        presets: Presets whose settings traces of sweeps are read under.

    Raises:
        ComparisonError: If one of the paths holds no run that can be read.
    """
    runs: list[Run] = []
    notes: list[str] = []
    seen: set[Path] = set()
    swept = False
    for path in paths:
        found = _readers(path, settings, presets)
        if not found:
            raise ComparisonError(f"{path} holds no run: give {KINDS}. If a run failed, its log says why")
        here: list[Run] = []
        problems: list[str] = []
        for file, read in found:
            if (real := file.resolve()) in seen:
                raise ComparisonError(f"{file} is given twice")
            seen.add(real)
            try:
                here += read()
            except (ComparisonError, TraceError) as error:
                problems.append(str(error))
        if not here or (problems and path.is_file()):
            raise ComparisonError("; ".join(problems))
        swept = swept or any(run.framework == "trace" for run in here)
        newest, older = _newest(here)
        own, plain = _without_plain_settings(newest)
        runs += own
        notes += problems + older + plain
    if not runs:
        raise ComparisonError(f"no run was given: give {KINDS}")
    if (settings or presets) and not swept:
        raise ComparisonError("--setting and --preset read traces of sweeps, and no trace was given")
    return named(runs), notes


def _readers(path: Path, settings: Sequence[Setting], presets: Sequence[str]) -> list[tuple[Path, Read]]:
    """Return the files with runs in a folder, or the file itself, each with what reads it."""
    if path.is_file():
        return [(path, _reader(path, settings, presets))]
    if not path.is_dir():
        raise ComparisonError(f"{path}: there is no such file or folder")
    results = sorted(path.rglob(f"*{RESULTS}"))
    status = sorted(path.rglob(vlmevalkit.STATUS))
    taken = {file.name.removesuffix(RESULTS) for file in results}
    samples = [f for f in sorted(path.rglob(f"*{SAMPLES}*.jsonl")) if f.name.partition(SAMPLES)[0] not in taken]
    scored = {folder for file in status for folder in (file.parent, file.parent.parent)}
    traced = [f for f in sorted(path.rglob(f"*{TRACE}")) if f.parent not in scored]
    traces = [f for f in sorted(path.glob("*.jsonl")) if SAMPLES not in f.name and not f.name.endswith(TRACE)]
    files = [*results, *status, *samples, *traced, *traces]
    return [(file, _reader(file, settings, presets)) for file in files]


def _reader(path: Path, settings: Sequence[Setting], presets: Sequence[str]) -> Read:
    """Return what reads a file, by its name and, for JSON lines, by its first row.

    Raises:
        ComparisonError: If it is of no known kind.
    """
    if path.name == vlmevalkit.STATUS:
        return lambda: vlmevalkit.read_status(path)
    if path.suffix in (".xlsx", ".tsv"):
        return lambda: [vlmevalkit.read_file(path)]
    if path.suffix == ".json":
        return lambda: lmms_eval.read_results(path)
    if path.suffix != ".jsonl":
        raise ComparisonError(f"{path} is no file of a run: give {KINDS}")
    keys = _first_keys(path)
    if "filtered_resps" in keys or SAMPLES in path.name:
        return lambda: [lmms_eval.read_samples(path)]
    if "prediction" in keys and "index" in keys:
        return lambda: [vlmevalkit.read_file(path)]
    return lambda: read_trace_runs(path, settings, presets)


def _first_keys(path: Path) -> set[str]:
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError):
        return set()  # its reader says what is wrong with it
    return set(first) if isinstance(first, dict) else set()


def _newest(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Keep the newest of runs of the same thing in one folder; say which were left out."""
    newest: dict[tuple[str, ...], Run] = {}
    notes = []
    for run in sorted(runs, key=lambda run: str(run.facts.get("date", ""))):
        made = {name: value for name, value in run.facts.items() if name != "date"}
        key: tuple[str, ...] = (
            run.task,
            run.framework,
            run.name,
            run.described,
            str(made),
            str(run.source.parent),
            str(len(run.rows)),
        )
        key = key if "date" in run.facts else (*key, str(run.source))
        if key in newest:
            notes.append(f"{newest[key].source} was left out: the same run of {run.facts['date']} is newer")
        newest[key] = run
    order = {id(run): place for place, run in enumerate(runs)}
    return sorted(newest.values(), key=lambda run: order[id(run)]), notes


def _without_plain_settings(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Leave out what a sweep under a setting only repeats: the plain answers, where every row has alpha 1."""
    baselines = {run.source for run in runs if run.framework == "trace" and run.method == "baseline"}
    repeats = [run for run in runs if run.source in baselines and run.plain and run.method != "baseline"]
    notes = [f"{run.task}, {run.name}: every row has alpha 1, so it is the baseline, and not listed" for run in repeats]
    return [run for run in runs if not any(run is one for one in repeats)], notes

"""The settings that a preset already has for a trace's model and task, and a new preset from what was found."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from adaptvis_plugin.data.registry import data_sets
from adaptvis_plugin.data.splits import whole_task
from adaptvis_plugin.data.whatsup.facts import WhatsUpFacts
from adaptvis_plugin.decoding.methods.calibrated import OTHERS
from adaptvis_plugin.methods import METHODS, build_method, method_class
from adaptvis_plugin.models.presets import Preset, find_preset, load_preset
from adaptvis_plugin.traces import Trace
from adaptvis_plugin.traces.answers import fixed
from adaptvis_plugin.tuning.controls import NEVER, chance, fit_regression, plain_features, prior
from adaptvis_plugin.tuning.outcomes import TuneError, searched
from adaptvis_plugin.tuning.search import Setting
from adaptvis_plugin.tuning.sentences import preset_description
from adaptvis_plugin.tuning.study import Study

CALIBRATED = "calibrated"
"""The method that chooses among the options, if there is one of that name."""

RECORDED_WITH = "llava-1.5-7b"
"""The preset of the recorded runs without a header: they were made with the authors' code, model and prompt."""


def preset_task(trace: Trace) -> str:
    """Return the name under which a preset lists a trace's task."""
    return whole_task(trace.header.task)[0] if trace.header else _recorded_task(trace) or trace.name


def _recorded_task(trace: Trace) -> str | None:
    """Return the task of a recorded run, which is named after a subset of WhatsUp; None if it is not."""
    files = {subset.subset: name for name, subset in WhatsUpFacts().whatsup}
    name = files.get(trace.name)
    return data_sets()[name].task if name else None


def published_settings(trace: Trace) -> dict[str, Setting]:
    """Return the settings that were published for a trace's model and task, by method.

    They are those of a preset of the package; without one, a method's defaults are its published values. Those for
    other layers, heads or other hyper-parameters than the sweep's are left out: it says nothing about them.
    """
    if trace.header:
        preset = find_preset(trace.header.model)
    else:
        preset = load_preset(RECORDED_WITH) if _recorded_task(trace) else None
    found = {}
    for name in searched(trace):
        values = preset.values(preset_task(trace), name) if preset else {}
        if not method_class(name).lacking(values):
            method = build_method(name, values)
            if fixed(method) == trace.sweep.settings:
                found[name] = Setting.of(name, method.settings)
    return found


def check_together(traces: Sequence[Trace]) -> None:
    """Check that one preset can hold the settings of all traces.

    Raises:
        TuneError: If they are of different models, dtypes or prompts, or two are of one task.
    """
    first = traces[0]
    for trace in traces[1:]:
        for what in ("model", "revision", "dtype", "prompt"):
            one, other = (getattr(each.header, what, None) for each in (first, trace))
            if one != other:
                raise TuneError(
                    f"{first.path} has {what} {one!r} and {trace.path} has {other!r}; a preset is for one model with "
                    "one dtype and one prompt, so tune them one after the other, each with its own -o"
                )
    tasks = [(preset_task(trace), trace.sweep.method) for trace in traces]
    for trace, (task, method) in zip(traces, tasks, strict=True):
        if tasks.count((task, method)) > 1:
            raise TuneError(
                f"{trace.path} is one of several traces of the task {task}, and a preset has one setting of {method} "
                "for it; give one trace of each task"
            )


def write_preset(studies: Sequence[Study], path: Path) -> None:
    """Write a preset with the settings that are shown to help, and the plain model for the others."""
    header = studies[0].outcomes.trace.header
    settings: dict[str, dict[str, Any]] = {}
    for study in studies:
        settings.setdefault(preset_task(study.outcomes.trace), {}).update(_settings(study))
    content: dict[str, Any] = {
        "description": preset_description(studies, date.today(), CALIBRATED in METHODS),
        "pretrained": [header.model] if header else [],
        "prompt": header.prompt if header else "paper",
        "settings": settings,
    }
    Preset.model_validate(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=116), encoding="utf-8")


def _settings(study: Study) -> dict[str, dict[str, Any]]:
    found = {name: study.preset_values(name) for name in study.methods}
    if CALIBRATED in METHODS and (calibrated := calibrated_settings(study)):
        found[CALIBRATED] = calibrated
    return found


def calibrated_settings(study: Study) -> dict[str, Any] | None:
    """Return the hyper-parameters of both calibrations, fitted to all rows; None without options.

    With p the unsteered probabilities of the offered options, `batch` chooses the highest log p - log prior, and
    `fitted` the highest offset + the sum of weights times log p. An option that only other rows offer is treated as the
    folds treat one that only the tested rows offer.
    """
    options = study.outcomes.options
    if options is None:
        return None
    rows = np.arange(len(options.labels))
    fitted = fit_regression(options, rows, plain_features(options))

    def named(values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
        return {name: float(f"{value:.8g}") for name, value in zip(options.names, values, strict=True)}

    return {
        "calibration": study.calibration,
        "prior": {**named(prior(options, rows)), OTHERS: float(f"{chance(options, rows):.8g}")},
        "offsets": {**named(fitted.offsets), OTHERS: NEVER},
        "weights": {name: named(row) for name, row in zip(options.names, fitted.weights, strict=True)},
    }

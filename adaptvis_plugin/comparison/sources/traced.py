"""Runs from traces: one for each coefficient of a sweep, and one for each setting that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from adaptvis_plugin.analysis.metrics import Scoring
from adaptvis_plugin.comparison.runs import ComparisonError, Run, described, frame
from adaptvis_plugin.comparison.sources.facts import table_name, table_rows
from adaptvis_plugin.data.splits import whole_task
from adaptvis_plugin.traces import Row, Trace, read_traces

if TYPE_CHECKING:
    from adaptvis_plugin.traces.answers import RecordedAnswer


@dataclass(frozen=True)
class Setting:
    """A method with values for its hyper-parameters.

    Attributes:
        method: The method's name.
        values: The hyper-parameters.
        preset: The name of the preset that has them; None if they were given as such.
    """

    method: str
    values: Mapping[str, Any]
    preset: str | None = None

    @property
    def name(self) -> str:
        """What a run under it is called: `adaptvis 0.5/1.5/0.4`, or `adaptvis 0.5/1.5/0.4 (llava-1.5-7b)`."""
        return described(self.method, self.values) + (f" ({self.preset})" if self.preset else "")

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Read `adaptvis:0.5/1.5/0.4`, or `scalingvis:0.8/14-18` with the layers (or heads) that are steered.

        Raises:
            ComparisonError: If it is not one.
        """
        from adaptvis_plugin.methods import METHODS, hyper_parameters, method_class
        from adaptvis_plugin.models.validation import parse_value

        method, _, values = text.partition(":")
        if method not in METHODS:
            raise ComparisonError(f"--setting {text!r}: {method!r} is not a method; write one of {', '.join(METHODS)}")
        given = [parse_value(value) for value in values.split("/")] if values else []
        needed = method_class(method).lacking({})
        optional = [name for name in hyper_parameters(method) if name not in needed]
        if not len(needed) <= len(given) <= len(needed) + len(optional):
            form = f"{method}:{'/'.join(needed)}".removesuffix(":") + "".join(f"[/{name}]" for name in optional)
            raise ComparisonError(f"--setting {text!r}: write {form}, for example adaptvis:0.5/1.5/0.4")
        found = dict(zip(needed, given, strict=False))
        for value in given[len(needed) :]:
            # In their order, but what none but a later one can be is that one: heads may stand where layers may.
            free = [name for name in optional if name not in found]
            found[next((name for name in free if _may_be(method, name, value)), free[0])] = value
        try:
            return cls.of(method, found)
        except ValueError as error:
            raise ComparisonError(f"--setting {text!r}: {error}") from error

    @classmethod
    def of(cls, method: str, values: Mapping[str, Any], preset: str | None = None) -> Setting:
        """Return a setting with its values as `Method.settings` has them.

        Raises:
            ValueError: See `build_method`.
        """
        from adaptvis_plugin.methods import build_method

        return cls(method, build_method(method, values).settings, preset)


def _may_be(method: str, name: str, value: Any) -> bool:
    from adaptvis_plugin.methods import method_class

    try:
        method_class(method).check(name, value)
    except ValueError:
        return False
    return True


def preset_settings(preset: str, task: str) -> list[Setting]:
    """Return the settings of a preset, given by its name or file, for a task.

    Raises:
        ComparisonError: If the preset cannot be read, or has none for the task.
    """
    from adaptvis_plugin.models.presets import load_preset

    try:
        found = load_preset(preset).settings
    except ValueError as error:
        raise ComparisonError(f"--preset: {error}") from error
    name, _ = whole_task(task)
    if not found.get(name):
        raise ComparisonError(f"--preset {preset} has no settings for {name}; it has some for {', '.join(found)}")
    label = Path(preset).name.removesuffix(".yaml").removesuffix(".yml")
    return [Setting.of(method, values, label) for method, values in found[name].items()]


def read_trace_runs(path: Path, settings: Sequence[Setting] = (), presets: Sequence[str] = ()) -> list[Run]:
    """Return the runs of a trace.

    Args:
        path: The file.
        settings: The settings that a sweep is to be read under, beside plain decoding. Without any, and without a
            preset, it is read under each of its coefficients.
        presets: Presets with further settings.

    Raises:
        ComparisonError, TraceError: If the trace cannot be used, or a coefficient of a setting was not recorded.
    """
    from adaptvis_plugin.traces.answers import RecordedAnswer
    from adaptvis_plugin.tuning.preset import preset_task

    [trace] = read_traces([path])
    if not trace.alphas:
        assert trace.header is not None
        given = [RecordedAnswer(alpha, text, alpha) for row in trace.rows for alpha, text in row.generations.items()]
        return [_run(trace, trace.header.method, trace.header.settings, given)]
    asked = [*settings, *(setting for preset in presets for setting in preset_settings(preset, preset_task(trace)))]
    if not asked:
        asked = [Setting.of(trace.sweep.method, trace.sweep.values(s)) for s in trace.alphas if s != trace.plain]
    by_name = {one.name: one for one in [Setting("baseline", {}), *asked]}
    return [
        replace(_run(trace, one.method, one.values, _answers(trace, one)), name=name) for name, one in by_name.items()
    ]


def _answers(trace: Trace, setting: Setting) -> list[RecordedAnswer]:
    """Return each row's answer under a setting.

    Raises:
        ComparisonError: If a coefficient was not recorded, or the options of a row.
    """
    from adaptvis_plugin.methods import build_method
    from adaptvis_plugin.traces.answers import answers_under

    where = f"{trace.path}, under {setting.name}"
    try:
        return answers_under(build_method(setting.method, setting.values), trace.rows, where, trace.sweep)
    except ValueError as error:
        raise ComparisonError(str(error)) from error


def _run(trace: Trace, method: str, settings: Mapping[str, Any], answers: Sequence[RecordedAnswer]) -> Run:
    header = trace.header
    ids, table = _numbers(trace)
    facts: dict[str, Any] = {}
    if header:
        facts = header.model_dump(include={"prompt", "dtype", "revision", "max_new_tokens"}, exclude_none=True)
        facts |= {"task version": header.task_version} if header.task_version else {}
    return Run(
        name=described(method, settings),
        source=trace.path,
        framework="trace",
        task=trace.name,
        numbering=whole_task(trace.name)[0] if table else None,
        scoring=cast("Scoring | None", trace.scoring),
        model=header.model if header else "recorded model",
        rows=frame(map(_row, ids, trace.rows, answers), trace.path),
        method=method,
        settings=settings,
        facts=facts,
        of=header.rows if header else None,
        table=table,
    )


def _numbers(trace: Trace) -> tuple[Iterable[Any], str | None]:
    """Return the rows' numbers in the whole data set and its table, or those in the trace and None."""
    name = table_name(trace.name) if trace.header else None
    numbers: list[Any] = [row.doc_id for row in trace.rows]
    split = whole_task(trace.name)[1]
    if name is None or split is None:
        return numbers, name
    known = table_rows(name)
    part = [number for number, row in enumerate(known or ()) if row["split"] == split]
    if trace.header is None or len(part) != trace.header.rows:
        return numbers, None
    return [part[number] for number in numbers], name


def _row(number: Any, row: Row, answer: RecordedAnswer) -> dict[str, Any]:
    offered = next((options for options in row.options.values() if options), ())
    return {
        "id": number,
        **row.model_dump(include={"question", "gold", "set_id", "pair_id", "image", "confidence"}),
        "relation": row.relation or row.gold.lower(),
        "options": tuple(option.lower() for option in offered) or None,
        "answer": answer.text,
        "alpha": answer.alpha,
        "chances": dict(row.options.get(answer.recorded, {})) or None,
        "scores": row.metrics.get(answer.recorded, {}),
    }

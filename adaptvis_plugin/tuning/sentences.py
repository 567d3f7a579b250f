"""What was found about a trace, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np

from adaptvis_plugin.analysis.metrics import Metric
from adaptvis_plugin.analysis.statistics import LEVEL, Estimate
from adaptvis_plugin.decoding.methods.calibrated import OTHERS
from adaptvis_plugin.methods import method_class
from adaptvis_plugin.traces import Trace
from adaptvis_plugin.tuning.lines import title_of
from adaptvis_plugin.tuning.search import Setting
from adaptvis_plugin.tuning.study import POWER, FormChange, Study, beats, rows_needed, smallest_gain


def shown(value: float, metric: Metric, digits: int = 1, sign: str = "") -> str:
    """Return a value of a metric: a share in percent, another number as it is."""
    return f"{100 * value:{sign}.{digits}f}" if metric.share else f"{value:{sign}.{digits + 1}f}"


def difference(gain: Estimate, metric: Metric) -> str:
    """Return a difference of a metric with its interval; of shares in percentage points."""
    value, low, high = (shown(one, metric, sign="+") for one in (gain.value, *gain.interval))
    return f"{value} [{low}, {high}]"


def points(gain: Estimate, metric: Metric) -> str:
    """Return a difference as a sentence has it."""
    return difference(gain, metric) + (" points" if metric.share else "")


def sentences(study: Study) -> list[str]:
    """Return what the figures of a trace mean."""
    return [*_about_rows(study), *_about_methods(study), *_about_bias(study), *_about_form(study)]


def _about_rows(study: Study) -> Iterator[str]:
    one = study.outcomes
    if one.trace.partial:
        yield f"The trace is partial: {one.trace.partial}."
    if settings := _fixed(one.trace):
        did, does = ("steered", "does") if one.by_confidence else (f"of {one.trace.sweep.title} had", "has")
        yield (
            f"The sweep {did} {settings}{' alone' if one.by_confidence else ''}, and so {does} the preset; settings "
            "that were published for others are not scored."
        )
    texts = {alpha: [row.generations[alpha] for row in one.trace.rows] for alpha in one.alphas}
    plain = texts[one.trace.plain]
    if all(answers == plain for answers in texts.values()):
        yield "No answer is different under any of the recorded coefficients, so there is nothing to tune."
    elif len(set(plain)) == 1:
        yield f"The unsteered model answers every question with {plain[0]!r}."
    if one.by_confidence and len(np.unique(one.rounded)) == 1:
        yield (
            f"The confidence of every row is {one.rounded[0]:g}, so no threshold can tell rows apart, and AdaptVis "
            "can only do what ScalingVis does."
        )


def _about_methods(study: Study) -> Iterator[str]:
    plain, objective = study.lines["plain"].estimate.value, study.outcomes.objective
    sweep = study.outcomes.trace.sweep
    for name in study.methods:
        line, gain = study.lines[name], study.together[name]
        verdict = "beats" if beats(gain) else "does not beat"
        here = f"cross-validated {shown(line.estimate.value, objective)} against {shown(plain, objective)}"
        said = (
            f"{line.title}, one setting for {1 + len(study.shared_with)} traces, {verdict} the plain model: a mean "
            f"difference of {points(gain, objective)} ({here} in this one)"
            if study.shared_with
            else f"{line.title} {verdict} the plain model: {here}, a difference of {points(gain, objective)}"
        )
        yield said + ("." if beats(gain) else f"; so the preset keeps {sweep.strength} {sweep.plain:g}.")
        total = sum(line.chosen.values())
        (setting, count), *others = line.chosen.items()
        rest = f", {len(others)} other setting{'s' if len(others) > 1 else ''} in the rest" if others else ""
        yield f"Its choice over the folds: {_short(name, setting)} in {count} of {total}{rest}."
        if setting.alpha_low > setting.alpha_high:
            yield "It sharpens where the model is unsure: the reverse of what AdaptVis means."
        yield from _about_number_of_rows(gain, objective, study.rows_together)
        if missing := study.missing.get(name):
            yield (
                f"The published setting of {title_of(name)}, {_short(name, missing)}, is not scored: its coefficients "
                "were not recorded."
            )
    if study.unrounded is None:
        return
    setting, value = study.unrounded
    if not study.shared_with and value > study.lines["adaptvis"].on_all_rows[objective.name] + 1e-9:
        yield (
            "AdaptVis rounds the confidence to two decimals, as the authors' code does. Compared unrounded, "
            f"{setting} would reach {shown(value, objective, 2)} on all rows."
        )


def _about_number_of_rows(gain: Estimate, objective: Metric, rows: int) -> Iterator[str]:
    test = f"with a probability of {POWER:.0%} (paired t test, two-sided, at {1 - LEVEL:.0%})"
    if (needed := rows_needed(gain, rows)) is not None:
        yield f"To show a gain of this size {test} takes about {needed:,} validation rows; here are {rows:,}."
    elif smallest := smallest_gain(gain, rows):
        unit = " points" if objective.share else ""
        yield (
            "The difference is not above 0, so it does not say how many validation rows would show a gain. These "
            f"{rows:,} show one of {shown(smallest, objective)}{unit} or more {test}."
        )


def _about_bias(study: Study) -> Iterator[str]:
    if study.beyond is None:
        yield f"The controls are left out: {study.outcomes.without_options}."
        return
    (name, less), objective = study.beyond, study.outcomes.objective
    low, high = less.interval
    it = "steering" if study.outcomes.by_confidence else study.main.title
    meaning = (
        f"{it} brings something that this correction does not"
        if low > 0
        else f"the correction brings more than {it}"
        if high < 0
        else f"what {it} brings is not told apart from a correction of label bias"
    )
    best = study.lines[name]
    yield (
        f"Correcting label bias without steering reaches {shown(best.estimate.value, objective)} ({best.title}, the "
        f"best of the corrections). {study.main.title} less this correction is {points(less, objective)}: {meaning}."
    )
    if study.on_top is not None:
        added = (
            "the steered passes hold something that the unsteered one does not"
            if study.on_top.interval.low > 0
            else f"these rows do not show that {it} adds anything to the correction"
        )
        yield (
            "Logistic regression on the options under all coefficients less that on the unsteered ones is "
            f"{points(study.on_top, objective)}: {added}."
        )
    else:
        yield (
            f"Under some coefficients {study.main.title} rules out every option of a row, so what the options' "
            "probabilities under it are worth is left out."
        )
    options = study.outcomes.options
    if options and (never := [name for place, name in enumerate(options.names) if place not in options.labels]):
        yield (
            f"No row has the right answer {' or '.join(map(repr, never))}, so logistic regression never gives it where "
            "another option is offered."
        )


def _about_form(study: Study) -> Iterator[str]:
    rows, metric = len(study.outcomes.confidence), study.outcomes.metrics[0]
    for form in study.forms:
        under = _short(study.methods[-1], form.setting)
        if not form.rows:
            yield f"Under {under} no answer changes from one word to a sentence."
            continue
        changed = f"Under {under}, {form.rows} of {rows} answers change from one word to a sentence; "
        if "correct" in study.outcomes.columns:
            yield changed + _right_after(study, form)
        else:
            before, after = shown(form.before, metric), shown(form.after, metric)
            yield f"{changed}the mean of their {metric.title} is {before} before and {after} after."


def _right_after(study: Study, form: FormChange) -> str:
    one, rows = study.outcomes, len(study.outcomes.confidence)
    score, plain = (one.score(one.metrics[0], each) for each in (form.setting.choice(one), one.plain))
    share = (form.after - form.before) * form.rows / rows
    said = (
        f"{100 * form.before:.1f}% of them are right before and {100 * form.after:.1f}% after, which is "
        f"{100 * share:+.1f} of its {100 * (score - plain):+.1f} points of accuracy."
    )
    if form.first_token is None:
        return said
    return (
        f"{said} The choice among the options at the first token of the same steering is right in "
        f"{100 * form.first_token:.1f}% of them."
    )


def _fixed(trace: Trace) -> str:
    """Return what the sweep did not vary, as a sentence has it."""
    return ", ".join(f"{name} {value}" for name, value in trace.sweep.unusual.items())


def _short(name: str, setting: Setting) -> str:
    strength = method_class(name).strength
    return f"{strength} {setting.shown(name)}" if strength else setting.shown(name)


def preset_description(studies: Sequence[Study], day: date, calibrated: bool) -> str:
    """Return where the settings of a preset come from.

    Args:
        studies: What was found about each trace.
        day: When.
        calibrated: Whether the preset holds calibrations.
    """
    each = []
    for study in studies:
        trace, objective = study.outcomes.trace, study.outcomes.objective
        sweep = trace.sweep
        methods = "; ".join(
            f"{study.lines[name].title} {study.lines[name].setting_text}, cross-validated "
            f"{shown(study.lines[name].estimate.value, objective)}, "
            f"{difference(study.lines[name].gain, objective)} to plain"  # type: ignore[arg-type]
            + ("" if study.kept(name) else f", which does not beat it, so {sweep.strength} stays {sweep.plain:g}")
            for name in study.methods
        )
        if calibrated and study.calibration:
            line = study.lines["batch" if study.calibration == "batch" else "regression"]
            methods += f"; {line.title}, cross-validated {shown(line.estimate.value, objective)}"
        partial = f" (partial: {trace.partial})" if trace.partial else ""
        if settings := _fixed(trace):
            partial += f", {'steered in' if study.outcomes.by_confidence else 'with'} {settings}"
        each.append(
            f"{trace.path.name}, {len(trace.rows)} rows{partial}, {objective.name}: plain "
            f"{shown(study.lines['plain'].estimate.value, objective)}; {methods}."
        )
    shared = " One setting for all of them." if any(study.shared_with for study in studies) else ""
    folds = f"{studies[0].folds} folds, {studies[0].repeats} times"
    percent = "Percent, c" if all(study.outcomes.objective.share for study in studies) else "C"
    how = f"{percent}ross-validated in {folds}, intervals at {LEVEL:.0%}."
    others = (
        f" `{OTHERS}` is for options that these rows do not offer."
        if calibrated and any(study.calibration for study in studies)
        else ""
    )
    return f"By `adaptvis tune` on {day.isoformat()}.{shared} {how} {' '.join(each)}{others}"

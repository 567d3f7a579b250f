"""What was found about a trace, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np

from adaptvis_plugin.analysis.statistics import LEVEL, Estimate
from adaptvis_plugin.tuning.folds import STEERING
from adaptvis_plugin.tuning.search import Setting
from adaptvis_plugin.tuning.study import POWER, TITLES, Study, beats, rows_needed


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent."""
    return f"{100 * share:.{digits}f}"


def points(difference: Estimate) -> str:
    """Return a difference in percentage points with its interval."""
    low, high = (f"{100 * end:+.1f}" for end in difference.interval)
    return f"{100 * difference.value:+.1f} [{low}, {high}]"


def sentences(study: Study) -> list[str]:
    """Return what the figures of a trace mean."""
    return [*_about_rows(study), *_about_methods(study), *_about_bias(study), *_about_form(study)]


def _about_rows(study: Study) -> Iterator[str]:
    one = study.outcomes
    if one.trace.partial:
        yield f"The trace is partial: {one.trace.partial}."
    texts = {alpha: [row.generations[alpha] for row in one.trace.rows] for alpha in one.alphas}
    if all(answers == texts[1.0] for answers in texts.values()):
        yield "No answer is different under any of the recorded coefficients, so there is nothing to tune."
    elif len(set(texts[1.0])) == 1:
        yield f"The unsteered model answers every question with {texts[1.0][0]!r}."
    if len(np.unique(one.rounded)) == 1:
        yield (
            f"The confidence of every row is {one.rounded[0]:g}, so no threshold can tell rows apart, and AdaptVis "
            "can only do what ScalingVis does."
        )


def _about_methods(study: Study) -> Iterator[str]:
    plain, objective = study.lines["plain"].estimate.value, study.outcomes.objective.name
    for name in STEERING:
        line, gain = study.lines[name], study.together[name]
        verdict = "beats" if beats(gain) else "does not beat"
        here = f"cross-validated {percent(line.estimate.value)} against {percent(plain)}"
        said = (
            f"{line.title}, one setting for {1 + len(study.shared_with)} traces, {verdict} the plain model: a mean "
            f"difference of {points(gain)} points ({here} in this one)"
            if study.shared_with
            else f"{line.title} {verdict} the plain model: {here}, a difference of {points(gain)} points"
        )
        yield said + ("." if beats(gain) else "; so the preset keeps alpha 1.")
        total = sum(line.chosen.values())
        (setting, count), *others = line.chosen.items()
        rest = f", {len(others)} other setting{'s' if len(others) > 1 else ''} in the rest" if others else ""
        yield f"Its choice over the folds: {_short(name, setting)} in {count} of {total}{rest}."
        if setting.alpha_low > setting.alpha_high:
            yield "It sharpens where the model is unsure: the reverse of what AdaptVis means."
        needed = rows_needed(gain, study.rows_together)
        yield (
            "Since the difference is not above 0, no number of validation rows would show a gain."
            if needed is None
            else f"To show a gain of this size with a probability of {POWER:.0%} takes about {needed:,} validation "
            f"rows (paired t test, two-sided, at {1 - LEVEL:.0%}); here are {study.rows_together:,}."
        )
        if missing := study.missing.get(name):
            yield (
                f"The published setting of {TITLES[name]}, {_short(name, missing)}, is not scored: its coefficients "
                "were not recorded."
            )
    setting, value = study.unrounded
    if not study.shared_with and value > study.lines["adaptvis"].on_all_rows[objective] + 1e-9:
        yield (
            "AdaptVis rounds the confidence to two decimals, as the authors' code does. Compared unrounded, "
            f"{setting} would reach {percent(value, 2)} on all rows."
        )


def _about_bias(study: Study) -> Iterator[str]:
    if study.beyond is None or study.on_top is None:
        yield f"The controls are left out: {study.outcomes.without_options}."
        return
    name, difference = study.beyond
    low, high = difference.interval
    meaning = (
        "steering brings something that this correction does not"
        if low > 0
        else "the correction brings more than steering"
        if high < 0
        else "what steering brings is not told apart from a correction of label bias"
    )
    yield (
        f"Correcting label bias without steering reaches {percent(study.lines[name].estimate.value)} "
        f"({TITLES[name]}, the best of the corrections). From that to AdaptVis it is {points(difference)} points: "
        f"{meaning}."
    )
    added = (
        "the steered passes hold something that the unsteered one does not"
        if study.on_top.interval.low > 0
        else "these rows do not show that steering adds anything to the correction"
    )
    yield (
        "From logistic regression on the unsteered options to that on the options under all coefficients it is "
        f"{points(study.on_top)} points: {added}."
    )


def _about_form(study: Study) -> Iterator[str]:
    rows = len(study.outcomes.confidence)
    for form in study.forms:
        if not form.rows:
            yield f"Under {form.setting} no answer changes from one word to a sentence."
            continue
        chosen = form.setting.choice(study.outcomes)
        score, plain = (
            study.outcomes.score(study.outcomes.metrics[0], each) for each in (chosen, study.outcomes.plain)
        )
        share = (form.after - form.before) * form.rows / rows
        yield (
            f"Under {form.setting}, {form.rows} of {rows} answers change from one word to a sentence; "
            f"{percent(form.before)}% of them are right before and {percent(form.after)}% after, which is "
            f"{100 * share:+.1f} of its {100 * (score - plain):+.1f} points."
            + (
                f" The choice among the options at the first token of the same steering is right in "
                f"{percent(form.first_token)}% of them."
                if form.first_token is not None
                else ""
            )
        )


def _short(name: str, setting: Setting) -> str:
    return f"alpha {setting.alpha_low:g}" if name == "scalingvis" else str(setting)


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
        methods = "; ".join(
            f"{study.lines[name].title} {study.lines[name].setting_text}, cross-validated "
            f"{percent(study.lines[name].estimate.value)}, {points(study.lines[name].gain)} to plain"  # type: ignore[arg-type]
            + ("" if study.kept(name) else ", which does not beat it, so alpha stays 1")
            for name in STEERING
        )
        if calibrated and study.calibration:
            line = study.lines["batch" if study.calibration == "batch" else "regression"]
            methods += f"; {line.title}, cross-validated {percent(line.estimate.value)}"
        partial = f" (partial: {trace.partial})" if trace.partial else ""
        each.append(
            f"{trace.path.name}, {len(trace.rows)} rows{partial}, {objective.name}: plain "
            f"{percent(study.lines['plain'].estimate.value)}; {methods}."
        )
    shared = " One setting for all of them." if any(study.shared_with for study in studies) else ""
    folds = f"{studies[0].folds} folds, {studies[0].repeats} times"
    how = f"Percent, cross-validated in {folds}, intervals at {LEVEL:.0%}."
    return f"By `adaptvis tune` on {day.isoformat()}.{shared} {how} {' '.join(each)}"

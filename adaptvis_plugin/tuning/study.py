"""Everything that is found about a trace: each way of answering on all rows, and on rows that it was not chosen on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.power import TTestPower

from adaptvis_plugin.analysis.statistics import LEVEL, Estimate
from adaptvis_plugin.decoding.method import PLACES
from adaptvis_plugin.tuning.controls import among_options
from adaptvis_plugin.tuning.folds import (
    Fitted,
    HeldOut,
    fit,
    held_out_estimate,
    hold_out,
    mean_over_repeats,
    mean_over_traces,
)
from adaptvis_plugin.tuning.lines import CORRECTIONS, NOTHING_CHOSEN, PUBLISHED, Line, titles
from adaptvis_plugin.tuning.outcomes import Choice, Outcomes
from adaptvis_plugin.tuning.search import Setting, Surface, surface

POWER = 0.8
"""The probability with which an effect is to be found, for the number of rows that this takes."""


class FormChange(NamedTuple):
    """What a setting does to the form of the answers.

    Attributes:
        setting: The setting.
        rows: How many answers change from one word to a sentence.
        before: The objective of these rows without steering; a plain mean over rows.
        after: The same with steering.
        first_token: The same for the choice among the options under that steering; None without options.
    """

    setting: Setting
    rows: int
    before: float
    after: float
    first_token: float | None


@dataclass(frozen=True)
class Study:
    """What is found about a trace.

    Attributes:
        outcomes: The trace, judged.
        folds: The number of folds.
        repeats: How often the rows were divided.
        lines: Each way of answering by name, in the order of `titles`.
        together: The gain that decides whether a method's setting is kept: the mean over the traces that share it.
        rows_together: The number of rows of these traces.
        shared_with: The names of the other traces that share the settings.
        beyond: The main method less the best correction of label bias, and its name; None without options.
        on_top: Logistic regression over all coefficients less that over the unsteered ones; None without options, or
            if they have no probability under some coefficient.
        calibration: The calibration to use: `fitted` if it is shown to be better than `batch`; None without options.
        forms: What the chosen and the published setting do to the form of the answers.
        surface: The objective of every setting on all rows; of shared settings the mean over the traces.
        unrounded: The best setting of AdaptVis if the confidence were not rounded, and its objective; None without
            AdaptVis.
        missing: Published settings whose coefficients were not recorded.
    """

    outcomes: Outcomes
    folds: int
    repeats: int
    lines: Mapping[str, Line]
    together: Mapping[str, Estimate]
    rows_together: int
    shared_with: tuple[str, ...]
    beyond: tuple[str, Estimate] | None
    on_top: Estimate | None
    calibration: str | None
    forms: tuple[FormChange, ...]
    surface: Surface
    unrounded: tuple[Setting, float] | None
    missing: Mapping[str, Setting]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods whose settings were searched; see `Outcomes.methods`."""
        return self.outcomes.methods

    @property
    def main(self) -> Line:
        """The method that the report says most about."""
        return self.lines[self.methods[-1]]

    def kept(self, name: str) -> Setting | None:
        """Return a method's setting if its estimate beats the plain model; else None."""
        return self.lines[name].setting if beats(self.together[name]) else None

    def values(self, method: str, setting: Setting) -> dict[str, Any]:
        """Return a setting as models and presets take it: with what the sweep did not vary."""
        return {**setting.hyper_parameters(method), **self.outcomes.trace.sweep.unusual}

    def preset_values(self, method: str) -> dict[str, Any]:
        """Return what the preset has for a method: its setting if that beats the plain model, else the plain model."""
        if (kept := self.kept(method)) is not None:
            return self.values(method, kept)
        sweep = self.outcomes.trace.sweep
        # With other hyper-parameters, such as guidance, the neutral strength may not be the plain model.
        places = {name: value for name, value in sweep.settings.items() if name in PLACES}
        return {**Setting.single(sweep.plain).hyper_parameters(method), **places}


def beats(gain: Estimate) -> bool:
    """Return whether a gain is shown: its interval lies above 0."""
    return gain.interval.low > 0


def rows_needed(gain: Estimate, rows: int) -> int | None:
    """Return with how many rows a gain would be shown.

    That is the number of rows with which a paired t test at the level of the intervals finds it with a probability of
    `POWER`, if the differences scatter as here.

    Args:
        gain: The gain over the given rows.
        rows: Their number.

    Returns:
        The number, to two digits; None if the gain is not above 0, which no number of rows would show.
    """
    if gain.value <= 0 or not np.isfinite(gain.error):
        return None
    if gain.error == 0:
        return 2
    scatter = gain.error * np.sqrt(rows)  # of one row; that rows of a group are alike is in it
    needed = TTestPower().solve_power(gain.value / scatter, alpha=1 - LEVEL, power=POWER, alternative="two-sided")
    return max(2, int(float(f"{np.ceil(np.squeeze(needed)):.2g}")))


def smallest_gain(gain: Estimate, rows: int) -> float | None:
    """Return the smallest gain that so many rows would show, if the differences scatter as here; see `rows_needed`.

    Returns:
        The gain; None if the differences do not scatter.
    """
    if not np.isfinite(gain.error) or gain.error == 0:
        return None
    effect = TTestPower().solve_power(nobs=rows, alpha=1 - LEVEL, power=POWER, alternative="two-sided")
    return float(np.squeeze(effect)) * gain.error * float(np.sqrt(rows))


def study(
    outcomes: Sequence[Outcomes],
    published: Sequence[Mapping[str, Setting]],
    folds: int,
    repeats: int,
    done: Callable[[], None] = lambda: None,
) -> list[Study]:
    """Study traces that share their settings; one trace alone is the usual case.

    Args:
        outcomes: The traces, with the same coefficients and the same objective.
        published: For each trace the settings that somebody published for its model and task, by method.
        folds: The number of folds.
        repeats: How often the rows are divided anew.
        done: Called after each fold.
    """
    held = hold_out(outcomes, folds, repeats, done)
    everything = [np.arange(len(one.confidence)) for one in outcomes]
    fitted = fit(outcomes, everything)
    every = surface(outcomes, everything)
    main = outcomes[0].methods[-1]
    unrounded = surface(outcomes, everything, rounded=False) if outcomes[0].by_confidence else None
    together = {
        name: held_out_estimate(
            mean_over_traces(
                [
                    mean_over_repeats(one, one.objective, answers)
                    - mean_over_repeats(one, one.objective, one.plain[None])
                    for one, answers in zip(outcomes, held.choices[name], strict=True)
                ]
            ),
            folds,
        )
        for name in outcomes[0].methods
    }
    names = [one.trace.name for one in outcomes]
    found = []
    for place, (one, known) in enumerate(zip(outcomes, published, strict=True)):
        recorded = {name: setting for name, setting in known.items() if {*setting[:2]} <= {*one.alphas}}
        lines = _lines(one, place, fitted, held, recorded, folds)
        beyond, on_top, calibration = _beyond_bias(
            one, {name: each[place] for name, each in held.choices.items()}, lines, folds
        )
        settings = {fitted.settings[main], recorded.get(main, fitted.settings[main])}
        found.append(
            Study(
                outcomes=one,
                folds=folds,
                repeats=repeats,
                lines=lines,
                together=together,
                rows_together=sum(map(len, everything)),
                shared_with=tuple(names[:place] + names[place + 1 :]),
                beyond=beyond,
                on_top=on_top,
                calibration=calibration,
                forms=tuple(form_change(one, setting) for setting in sorted(settings)),
                surface=every,
                unrounded=None if unrounded is None else (unrounded.best(), float(unrounded.values.max())),
                missing={name: setting for name, setting in known.items() if name not in recorded},
            )
        )
    return found


def _lines(
    one: Outcomes, place: int, fitted: Fitted, held: HeldOut, published: Mapping[str, Setting], folds: int
) -> dict[str, Line]:
    plain = mean_over_repeats(one, one.objective, one.plain[None])
    known = titles(one.methods)

    def line(name: str, choice: Choice, answers: NDArray[np.intp], setting: Setting | None) -> Line:
        sums = mean_over_repeats(one, one.objective, answers)
        chosen_on = None if name in NOTHING_CHOSEN or name.startswith(PUBLISHED) else folds
        return Line(
            name=name,
            title=known[name],
            setting=setting,
            on_all_rows={metric.name: one.score(metric, choice) for metric in one.metrics},
            held_out={
                metric.name: float(np.mean([one.score(metric, answer) for answer in answers])) for metric in one.metrics
            },
            estimate=held_out_estimate(sums, chosen_on),
            gain=None if name == "plain" else held_out_estimate(sums - plain, chosen_on),
            chosen=dict(Counter(held.settings.get(name, ())).most_common()),
        )

    lines = {
        name: line(name, each[place], held.choices[name][place], fitted.settings.get(name))
        for name, each in fitted.choices.items()
    }
    for method, setting in published.items():  # nothing is chosen on these rows, so all of them are held out
        name, choice = f"{PUBLISHED}{method}", setting.choice(one)
        lines[name] = line(name, choice, choice[None], setting)
    return {name: lines[name] for name in known if name in lines}


def _beyond_bias(
    one: Outcomes, held: Mapping[str, NDArray[np.intp]], lines: Mapping[str, Line], folds: int
) -> tuple[tuple[str, Estimate] | None, Estimate | None, str | None]:
    if one.options is None:
        return None, None, None

    def difference(first: str, second: str) -> Estimate:
        sums = [mean_over_repeats(one, one.objective, held[name]) for name in (first, second)]
        return held_out_estimate(sums[0] - sums[1], folds)

    best = max(CORRECTIONS, key=lambda name: lines[name].estimate.value)
    calibration = "fitted" if beats(difference("regression", "batch")) else "batch"
    on_top = difference("regression_all", "regression") if "regression_all" in held else None
    return (best, difference(one.methods[-1], best)), on_top, calibration


def form_change(one: Outcomes, setting: Setting) -> FormChange:
    """Count the answers that a setting changes from one word to a sentence, and score them."""
    choice = setting.choice(one)
    changed = np.array(
        [
            len(row.generations[one.alphas[0]].split()) == 1 and len(row.generations[one.alphas[taken]].split()) > 2
            for row, taken in zip(one.trace.rows, choice, strict=True)
        ]
    )
    column = one.columns.get("correct", one.columns[one.objective.columns[0]])

    def mean(answers: Choice) -> float:
        return float(column[answers, np.arange(len(answers))][changed].mean()) if changed.any() else np.nan

    among = one.options is not None and one.options.under_all
    options = mean(among_options(one, one.options, choice)) if among and one.options else None
    return FormChange(setting, int(changed.sum()), mean(one.plain), mean(choice), options)

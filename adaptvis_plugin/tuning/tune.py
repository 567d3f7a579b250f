"""From traces to studies: each trace for itself, or all of them with one setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adaptvis_plugin.traces import Trace
from adaptvis_plugin.tuning.folds import check_folds
from adaptvis_plugin.tuning.outcomes import Outcomes, TuneError, outcomes_of
from adaptvis_plugin.tuning.preset import check_together, published_settings
from adaptvis_plugin.tuning.study import Study, study


def judge_traces(traces: Sequence[Trace], objective: str | None, shared: bool, folds: int) -> list[list[Outcomes]]:
    """Judge the answers of traces, and put together those that share a setting.

    Args:
        traces: Sweeps of one model.
        objective: The metric to choose by; None for the first of each task.
        shared: Whether all traces get one setting.
        folds: Into how many parts they are to be divided.

    Raises:
        TuneError: If they cannot be tuned on.
    """
    check_together(traces)
    together = [_sharing(traces, objective)] if shared else [[outcomes_of(trace, objective)] for trace in traces]
    for outcomes in together:
        for one in outcomes:
            check_folds(one, folds)
    return together


def _sharing(traces: Sequence[Trace], objective: str | None) -> list[Outcomes]:
    for trace in traces[1:]:
        if trace.sweep.method != traces[0].sweep.method:
            raise TuneError(
                f"--shared: {traces[0].path} is a sweep of {traces[0].sweep.method} and {trace.path} one of "
                f"{trace.sweep.method}, and one setting is of one method; tune them without --shared"
            )
        if trace.sweep != traces[0].sweep:
            what = "layers or heads" if trace.sweep.method == "scalingvis" else "hyper-parameters"
            raise TuneError(
                f"--shared: {traces[0].path} and {trace.path} were swept with other {what}, and one setting has the "
                "same; sweep all tasks with the same ones, or tune the traces without --shared"
            )
    alphas = [alpha for alpha in traces[0].alphas if all(alpha in trace.alphas for trace in traces)]
    if len(alphas) < 2:
        raise TuneError(
            f"--shared: the traces have no coefficient but {traces[0].plain:g} in common; sweep all tasks over the "
            "same ones"
        )
    outcomes = [outcomes_of(trace, objective, alphas) for trace in traces]
    for one in outcomes:
        if one.objective.share != outcomes[0].objective.share:
            raise TuneError(
                f"--shared: {outcomes[0].trace.name} is scored by {outcomes[0].objective.name} and {one.trace.name} by "
                f"{one.objective.name}; only one of them is a share in 0..1, so they cannot be averaged. Tune the "
                "traces without --shared"
            )
    return outcomes


def study_all(
    together: Sequence[Sequence[Outcomes]], folds: int, repeats: int, done: Callable[[], None] = lambda: None
) -> list[Study]:
    """Study every trace.

    Args:
        together: See `judge_traces`.
        folds: The number of parts.
        repeats: How often the rows are divided anew.
        done: Called after each fold of each set of traces.
    """
    return [
        one
        for outcomes in together
        for one in study(outcomes, [published_settings(each.trace) for each in outcomes], folds, repeats, done)
    ]

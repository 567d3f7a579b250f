"""What may be compared: runs of one task over the same rows, with the same questions and labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from adaptvis_plugin.analysis.metrics import Scoring
from adaptvis_plugin.comparison.runs import ComparisonError, Run
from adaptvis_plugin.comparison.sources.facts import table_rows

ASKED = ("question", "gold", "relation", "options", "set_id", "pair_id", "image")
"""The columns of `Run.rows` that belong to the question and not to the answer."""

_FRAME = re.compile(r"<image>|\bUSER:|\bASSISTANT:", re.IGNORECASE)


@dataclass(frozen=True)
class Section:
    """Runs of one task over the same rows.

    Attributes:
        task: The task's name.
        scoring: How its answers are judged; None for a task with metrics of its own.
        asked: What is asked in each row: the columns `ASKED`, by the row's number.
        runs: The runs, all with these rows in this order.
        baseline: The run that the others are compared with; None if there is none.
        notes: What a reader must know: how the runs differ beside the method, which rows were left out.
        table: The table with the rows' pictures; None if it is unknown.
    """

    task: str
    scoring: Scoring | None
    asked: pd.DataFrame
    runs: tuple[Run, ...]
    baseline: Run | None
    notes: tuple[str, ...]
    table: str | None


def sections(runs: Sequence[Run], baseline: str | None = None, common: bool = False) -> list[Section]:
    """Return the runs by task, checked.

    Args:
        runs: The runs, each with a name of its own.
        baseline: The name of the run that the others are compared with; None to take an unsteered one.
        common: Whether to compare runs over different rows on the rows that all of them have. Parts of one data set
            then count as one task.

    Raises:
        ComparisonError: If runs of a task cannot be compared, or there is no run of the given name.
    """
    if baseline is not None and baseline not in {run.name for run in runs}:
        known = ", ".join(dict.fromkeys(run.name for run in runs))
        raise ComparisonError(f"--baseline {baseline}: no run has this name; there are {known}")
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault((run.numbering if common else None) or run.task, []).append(run)
    return [_section(task, members, baseline, common) for task, members in tasks.items()]


def shared_data(parts: Sequence[Section]) -> list[str]:
    """Return a note for each data set of which several parts are reported as tasks of their own."""
    data: dict[str, list[str]] = {}
    for part in parts:
        if part.runs[0].numbering:
            data.setdefault(part.runs[0].numbering, []).append(part.task)
    return [
        f"{' and '.join(tasks)} are rows of the same data; --common compares their runs on the rows that all have"
        for tasks in data.values()
        if len(tasks) > 1
    ]


def _section(task: str, runs: list[Run], baseline: str | None, common: bool) -> Section:
    parts: dict[str, list[str]] = {}
    for run in runs:
        if run.partial:
            parts.setdefault(run.partial, []).append(run.name)
    notes = [f"only {part} were answered: {', '.join(names)}" for part, names in parts.items()]
    if len({run.scoring for run in runs}) > 1:
        raise ComparisonError(f"{task}: {runs[0].name} and {runs[-1].name} are judged in different ways")
    runs, cut = _same_rows(task, runs, common)
    first = runs[0]
    for run in runs[1:]:
        _check_asked(task, first, run)
    chosen = next((run for run in runs if run.name == baseline), None)
    plain = [run for run in runs if run.plain]
    if named := [run for run in plain if run.method == "baseline"]:
        plain = named
    if chosen is None and plain:
        chosen = plain[0]
        if baseline is not None:
            notes.append(f"no run of this task is called {baseline}, so {chosen.name} is the baseline")
        elif len(plain) > 1:
            others = ", ".join(run.name for run in plain[1:])
            notes.append(f"{chosen.name} is the baseline; {others} would do too (--baseline NAME)")
    if chosen is None and len(runs) > 1:
        notes.append("no run is unsteered, so none is the baseline, and nothing is tested: name one with --baseline")
    asked = _asked(runs)
    table = next((run.table for run in runs if run.table and run.numbering), None)
    return Section(task, first.scoring, asked, tuple(runs), chosen, (*notes, *cut, *_differences(runs)), table)


def _same_rows(task: str, runs: list[Run], common: bool) -> tuple[list[Run], list[str]]:
    """Return the runs over the rows that all have, and what was left out.

    Raises:
        ComparisonError: If the rows differ and this was not allowed, or no row is common.
    """
    ids = [set(run.rows.index) for run in runs]
    shared = set.intersection(*ids)
    if all(one == shared for one in ids):
        return runs, []
    least = min(runs, key=lambda run: len(run.rows))
    other = next(run for run in runs if set(run.rows.index) != set(least.rows.index))
    both = [set(least.rows.index), set(other.rows.index)]
    missing = sorted(both[1] - both[0] or both[0] - both[1], key=str)
    lacks, has = (least, other) if both[1] - both[0] else (other, least)
    what = (
        f"{task}: {least.name} has {len(least.rows)} rows and {other.name} has {len(other.rows)}; {lacks.name} lacks "
        f"{', '.join(map(str, missing[:5]))}{' …' if len(missing) > 5 else ''}, which {has.name} has"
    )
    if {run.numbering is None for run in runs} == {True, False}:
        table = next(run.table for run in runs if run.table)
        raise ComparisonError(
            f"{what}. The trace numbers the rows of {task} in its own way; with the data on this machine they are "
            f"matched: adaptvis data prepare {table}"
        )
    if not common:
        raise ComparisonError(f"{what}. Add --common to compare the {len(shared)} rows that all have")
    if not shared:
        raise ComparisonError(f"{what}. No row is common to all runs")
    kept = [replace(run, rows=run.rows.loc[sorted(shared)]) for run in runs]
    counts = ", ".join(f"{run.name} {len(run.rows)}" for run in runs)
    return kept, [f"compared on the {len(shared)} rows that all runs have; the runs have more: {counts}"]


def _check_asked(task: str, one: Run, other: Run) -> None:
    """Compare questions and labels.

    Raises:
        ComparisonError: If a row asks something else in the two runs.
    """
    columns = ["question", "gold", *(["image"] if one.framework == other.framework else [])]
    for mine, theirs in zip(one.rows[columns].itertuples(), other.rows[columns].itertuples(), strict=True):
        for column, first, second in zip(columns, mine[1:], theirs[1:], strict=True):
            if first is None or second is None:
                continue
            a, b = ("".join(bare(text).lower().split()) for text in (first, second))
            # A trace may hold the whole prompt of a model, and a spreadsheet changes spaces.
            if a != b and not (column == "question" and a and b and (a in b or b in a)):
                raise ComparisonError(
                    f"{task}, row {mine[0]}: the {column} is {str(first)[:80]!r} in {one.name} and "
                    f"{str(second)[:80]!r} in {other.name}; they were run on different data and cannot be compared"
                )


def bare(question: object) -> str:
    """Return a question without what the paper's prompt puts around it."""
    return _FRAME.sub("", str(question)).strip()


def _differences(runs: Sequence[Run]) -> list[str]:
    """Return how the runs differ in what decides the answers, beside the method."""
    notes = []
    known = [{"model": run.model, **run.facts} for run in runs]
    for fact in sorted({name for facts in known for name in facts} - {"date"}):
        values: dict[str, list[str]] = {}
        for run, facts in zip(runs, known, strict=True):
            if facts.get(fact) is not None:
                values.setdefault(str(facts[fact]), []).append(run.name)
        if len(values) > 1:
            said = "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())
            notes.append(f"the runs differ in {fact}: {said}")
    return notes


def _asked(runs: Sequence[Run]) -> pd.DataFrame:
    """Return what the rows ask, each fact from the first run that has it, else from the table."""
    asked = runs[0].rows[list(ASKED)].copy()
    sources = [run.rows[list(ASKED)] for run in runs[1:]]
    name = next((run.table for run in runs if run.table and run.numbering), None)
    if name and (table := table_rows(name)):
        known = {number: table[number] for number in asked.index if isinstance(number, int) and number < len(table)}
        if len(known) == len(asked):
            sources.append(pd.DataFrame.from_dict(known, orient="index", dtype=object)[list(ASKED)])
    for source in sources:
        for column in ASKED:
            if asked[column].isna().all():
                asked[column] = source[column].astype(object)
    return asked

"""One table over models and methods, from the scores that the frameworks computed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from adaptvis_plugin.comparison.runs import ComparisonError
from adaptvis_plugin.comparison.scores import Failure, Score
from adaptvis_plugin.comparison.sources import lmms_eval, vlmevalkit
from adaptvis_plugin.comparison.tables import ABSENT, table_lines
from adaptvis_plugin.lmms_eval.results import RESULTS, SAMPLES
from adaptvis_plugin.vlmevalkit.trace import TRACE


@dataclass
class Line:
    """A row of the board: one model under one method, in one framework.

    Attributes:
        scores: The score of each task, in the unit of its column.
        settings: The hyper-parameters of each task.
    """

    model: str
    method: str
    name: str
    given: str
    framework: str
    scores: dict[str, float] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """The hyper-parameters if they are the same for every task; else what was given."""
        known = set(self.settings.values())
        return next(iter(known)) if len(known) == 1 else self.given or "by task, from its preset"

    def average(self, tasks: Sequence[str]) -> float | None:
        """Return the mean score; None if one of the tasks is missing, since it would then be of other tasks."""
        return sum(self.scores[task] for task in tasks) / len(tasks) if set(tasks) <= self.scores.keys() else None


@dataclass(frozen=True)
class Board:
    """The table.

    Attributes:
        tasks: The columns.
        metrics: The metric of each column.
        lines: The rows, the best average first.
        failures: The runs that are not in it.
    """

    tasks: tuple[str, ...]
    metrics: dict[str, str]
    lines: tuple[Line, ...]
    failures: tuple[Failure, ...]

    def head(self) -> list[str]:
        """Return the heads of the columns."""
        return ["rank", "model", "method", "settings", "framework", "average", *self.tasks]

    def rows(self) -> list[list[Any]]:
        """Return the cells; a missing score is None, and without all scores there is no average and no rank."""
        averages = [line.average(self.tasks) for line in self.lines]
        rows = []
        for line, average in zip(self.lines, averages, strict=True):
            # As in a competition: equal averages share a rank, and the next is counted on. Rounded, as the frameworks
            # add up the same answers in different orders.
            better = [other for other in averages if other is not None and average is not None
                      and round(other - average, 9) > 0]  # fmt: skip
            rank = None if average is None else 1 + len(better)
            known = [rank, line.model, line.method or None, line.described or None]
            rows.append([*known, line.framework, average, *(line.scores.get(task) for task in self.tasks)])
        return rows

    def text_rows(self) -> list[list[str]]:
        """Return the cells as text."""
        return [[_shown(cell) for cell in row] for row in self.rows()]

    def markdown(self) -> str:
        """Return the board as Markdown."""
        # The rank is a number, and the four columns after it are text.
        head, rule, *rows = table_lines(self.head(), self.text_rows())
        rule = "| ---: | --- | --- | --- | --- |" + rule.split("|", 6)[6]
        lines = [head, rule, *rows, "", self.note()]
        if self.failures:
            lines += ["", "Not in the table:", "", *(f"- {line}" for line in self.left_out())]
        return "\n".join(lines) + "\n"

    def note(self) -> str:
        """Return how to read it."""
        metrics = ", ".join(f"{task} {self.metrics[task]}" for task in self.tasks)
        return f"Metrics: {metrics}. The average is over all columns; a row without one of them has none."

    def left_out(self) -> list[str]:
        """Return the runs that are not in it, with the reason."""
        return [f"{one.what}: {one.reason} ({one.source})" for one in self.failures]

    def frame(self) -> pd.DataFrame:
        """Return the board as a table for CSV."""
        return pd.DataFrame(self.rows(), columns=self.head())

    def as_json(self) -> dict[str, Any]:
        """Return the board as plain data."""
        return {
            "metrics": self.metrics,
            "rows": [dict(zip(self.head(), row, strict=True)) for row in self.rows()],
            "left_out": [{"what": one.what, "reason": one.reason, "source": str(one.source)} for one in self.failures],
        }


def read_board(folder: Path, tasks: Iterable[str] = ()) -> Board:
    """Return the board of all runs below a folder.

    Args:
        folder: The folder.
        tasks: The columns; by default every task of any run.

    Raises:
        ComparisonError: If there is no folder, no score, or no score of a given task.
    """
    if not folder.is_dir():
        raise ComparisonError(f"{folder}: there is no such folder")
    scores, failures = _read(folder)
    newest: dict[tuple[str, ...], Score] = {}
    for score in sorted(scores, key=lambda score: score.date):
        key = (*_made(score), score.settings, score.task)
        if old := newest.get(key):
            failures.append(Failure(f"{old.name} on {old.task}", f"the run of {score.date} is newer", old.source))
        newest[key] = score
    known = list(dict.fromkeys(score.task for score in scores))
    columns = list(dict.fromkeys(tasks)) or sorted(known)
    if missing := [task for task in columns if task not in known]:
        raise ComparisonError(
            f"--tasks: {folder} has no score for {missing[0]}; it has some for {', '.join(sorted(known)) or 'none'}"
        )
    if not scores:
        said = "; ".join(f"{one.what}: {one.reason}" for one in failures[:5])
        raise ComparisonError(f"{folder} holds no finished run of lmms-eval or VLMEvalKit{': ' if said else ''}{said}")
    shown = [score for score in newest.values() if score.task in columns]
    lines: dict[tuple[str, ...], Line] = {}
    runs = Counter((_made(score), score.task) for score in shown)
    several = {made for (made, _), number in runs.items() if number > 1}
    for score in shown:
        made = _made(score)
        # Settings that differ by task are those of a preset, and of one line; two for one task are of two lines.
        who = (*made, score.settings) if made in several else made
        method = score.method or ("" if score.name == score.model else score.name)
        line = lines.setdefault(who, Line(score.model, method, score.name, score.given, score.framework))
        line.scores[score.task] = score.value * _scale(score, shown)
        line.settings[score.task] = score.settings or score.given
    ordered = sorted(lines.values(), key=lambda line: _place(line, columns))
    metrics = {task: "/".join(dict.fromkeys(s.metric for s in shown if s.task == task)) for task in columns}
    return Board(tuple(columns), metrics, tuple(ordered), tuple(failures))


def _made(score: Score) -> tuple[str, ...]:
    return score.framework, score.name, score.model, score.given


def _place(line: Line, tasks: Sequence[str]) -> tuple[bool, float, str, str]:
    """Return what lines are ordered by: the best average first, and those without one last."""
    average = line.average(tasks)
    return average is None, -(average or 0.0), line.model, line.method


def _scale(score: Score, scores: Iterable[Score]) -> int:
    """Return 100 for a share, to show it in percent: scores of a task that are all between 0 and 1."""
    same = [one.value for one in scores if one.task == score.task and not one.percent]
    return 1 if score.percent or not all(0 <= value <= 1 for value in same) else 100


def _read(folder: Path) -> tuple[list[Score], list[Failure]]:
    scores: list[Score] = []
    failures: list[Failure] = []
    results, status = sorted(folder.rglob(f"*{RESULTS}")), sorted(folder.rglob(vlmevalkit.STATUS))
    for path in [*results, *status]:
        try:
            found, failed = (vlmevalkit if path.name == vlmevalkit.STATUS else lmms_eval).read_scores(path)
        except ComparisonError as error:
            found, failed = [], [Failure(str(path.parent), str(error), path)]
        scores += found
        failures += failed
    done = {path.parent for path in [*results, *status]}
    dates = {path.name.removesuffix(RESULTS) for path in results}
    for path in sorted(folder.rglob(f"*{SAMPLES}*.jsonl")):
        if path.name.partition(SAMPLES)[0] not in dates:
            failures.append(Failure(path.name, "answers without a results file: the run did not end", path))
            done.add(path.parent)
    for path in sorted(folder.rglob(f"*{TRACE}")):
        if not done & {path.parent, *(one.parent for one in path.parent.glob(f"*/{vlmevalkit.STATUS}"))}:
            failures.append(Failure(path.name, "answers without a status.json: the run did not end", path))
            done.add(path.parent)
    for child in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not any(path == child or child in path.parents for path in done) and folder not in done:
            failures.append(Failure(child.name, "no results: if it is of a run, that failed or has only begun", child))
    return scores, failures


def _shown(cell: Any) -> str:
    return ABSENT if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell).replace(os.linesep, " ")

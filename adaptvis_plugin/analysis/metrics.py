"""A task's metrics as functions of sums over rows, so that whole grids of settings and bootstraps can be computed.

Every metric of WhatsUp and VSR, and every mean over rows, is a function of column sums: accuracy is
``sum(correct) / sum(rows)``, an F1 is a function of four counts, and pair accuracy counts pairs whose rows are all
right. The values equal those of `adaptvis_plugin.scoring`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.scoring import matches, vsr, whatsup
from adaptvis_plugin.scoring.whatsup import Group

Columns = Mapping[str, NDArray[np.float64]]
"""What was found of each answer, by name; each of shape (rows,). NaN where a number has no meaning for a row."""

Scoring = Literal["whatsup", "vsr"]


@dataclass(frozen=True)
class Metric:
    """A metric as a function of sums.

    Attributes:
        name: Its name in lmms-eval.
        title: What a reader calls it.
        columns: The columns that are summed, in order.
        value: Maps sums of shape (..., number of columns) to values of shape (...).
        group: For pairs and sets: the first column is then 1 only if it is 1 in all rows of a complete group, is
            counted once per group, and the second column counts the rows.
        higher_is_better: Whether it can be an aim.
        share: Whether its values are shares, in 0..1, which a reader is shown in percent.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    group: Group | None = None
    higher_is_better: bool = True
    share: bool = True


def _ratio(part: Any, whole: Any) -> Any:
    """Return part / whole, and 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) != 0)


def mean_of(column: str, title: str, name: str | None = None, higher_is_better: bool = True) -> Metric:
    """Return the mean of a column over the rows that have it."""
    columns = (column, f"has {column}")
    return Metric(
        name or column,
        title,
        columns,
        lambda sums: _ratio(sums[..., 0], sums[..., 1]),
        higher_is_better=higher_is_better,
    )


def _of_groups(name: str, title: str, group: Group) -> Metric:
    size = whatsup.GROUP_SIZES[group]
    return Metric(name, title, ("correct", "row"), lambda sums: size * _ratio(sums[..., 0], sums[..., 1]), group)


def _harmonic(one: Any, other: Any) -> Any:
    return _ratio(2 * one * other, one + other)


def _standard_f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    true_positive, said_yes, is_yes = sums[..., 0], sums[..., 1], sums[..., 2]
    found: NDArray[np.float64] = _harmonic(_ratio(true_positive, said_yes), _ratio(true_positive, is_yes))
    return found


def _authors_f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    right_of_yes, is_yes, right_of_no, is_no = (sums[..., place] for place in range(4))
    found: NDArray[np.float64] = _harmonic(_ratio(right_of_yes, is_yes), _ratio(right_of_no, is_no))
    return found


WHATSUP = (
    mean_of("correct", "accuracy", "individual_acc"),
    mean_of("strict", "accuracy, strict rule", "strict_acc"),
    _of_groups("pair_acc", "pairs all right", "pair_id"),
    _of_groups("set_acc", "sets of four all right", "set_id"),
)
VSR = (
    mean_of("correct", "accuracy", "accuracy"),
    Metric("precision", "precision", ("true positive", "said yes"), lambda s: _ratio(s[..., 0], s[..., 1])),
    Metric("recall", "recall", ("true positive", "is yes"), lambda s: _ratio(s[..., 0], s[..., 1])),
    Metric("standard_f1", "F1", ("true positive", "said yes", "is yes"), _standard_f1),
    mean_of("authors", "accuracy, authors' rule", "authors_acc"),
    Metric("authors_f1", "F1, authors' definition", ("authors yes", "is yes", "authors no", "is no"), _authors_f1),
    mean_of("neither", "neither yes nor no", higher_is_better=False),
)


def metrics_of(
    scoring: str | None, recorded: Sequence[str] = (), pair_ids: bool = True, set_ids: bool = True
) -> list[Metric]:
    """Return the metrics of a task, the one that ranks first.

    Args:
        scoring: How its answers are judged; None for a task with metrics of its own.
        recorded: The names of the per-row numbers that such a task gave.
        pair_ids: Whether the rows have pairs.
        set_ids: Whether the rows have sets.
    """
    if scoring == "vsr":
        return list(VSR)
    if scoring == "whatsup":
        there = {"pair_id": pair_ids, "set_id": set_ids}
        return [metric for metric in WHATSUP if metric.group is None or there[metric.group]]
    return [mean_of(name, name) for name in recorded]


def judge(
    scoring: str | None,
    answers: Sequence[str],
    golds: Sequence[str],
    options: Sequence[Sequence[str] | None],
    recorded: Sequence[Mapping[str, float | None]] = (),
) -> Columns:
    """Judge answers once, as the columns that all metrics are computed from.

    Args:
        scoring: See `metrics_of`.
        answers: The answers.
        golds: The right answers.
        options: What each question offered, if known.
        recorded: The numbers that the task itself gave each answer; used if `scoring` is None.

    Raises:
        ValueError: If a right answer is not one that can be judged.
    """
    columns: dict[str, NDArray[np.float64]] = {}
    if scoring == "vsr":
        rows = [{"answer": gold, "generation": answer} for gold, answer in zip(golds, answers, strict=True)]
        truth = _floats(vsr.is_true(gold) for gold in golds)
        read = cache(vsr.yes_or_no)  # most answers occur in many rows, and reading one is slow
        said = [read(answer) for answer in answers]
        yes, authors = _floats(one is True for one in said), _floats(map(vsr.is_correct_authors, rows))
        columns |= {
            "correct": _floats(one is bool(true) for one, true in zip(said, truth, strict=True)),
            "authors": authors,
            "neither": _floats(one is None for one in said),
            "said yes": yes,
            "is yes": truth,
            "is no": 1 - truth,
            "true positive": yes * truth,
            "authors yes": authors * truth,
            "authors no": authors * (1 - truth),
        }
    elif scoring == "whatsup":
        judged = cache(matches)  # as above
        offers = [None if offered is None else tuple(offered) for offered in options]
        each = list(zip(answers, golds, offers, strict=True))
        columns["correct"] = _floats(judged(answer, gold) for answer, gold, _ in each)
        columns["strict"] = _floats(judged(answer, gold, "strict", offered) for answer, gold, offered in each)
    else:
        for name in dict.fromkeys(name for numbers in recorded for name in numbers):
            columns[name] = np.array([np.nan if (v := row.get(name)) is None else v for row in recorded], float)
    for name in list(columns):
        columns[f"has {name}"] = _floats(~np.isnan(columns[name]))
    return {"row": np.ones(len(answers)), **columns}


def sums_by_group(
    metric: Metric, columns: Columns, groups: Sequence[Any] | NDArray[Any], ids: Mapping[Group, Sequence[int | None]]
) -> NDArray[np.float64]:
    """Return a metric's columns summed over each group of rows that belong together, shape (groups, columns).

    Args:
        metric: The metric.
        columns: See `judge`.
        groups: For each row its group; pairs and sets must not be split by them.
        ids: For pairs and sets: each row's.
    """
    table = np.nan_to_num(np.stack([columns[name] for name in metric.columns], axis=1))
    if metric.group is not None:
        table[:, 0] = whole_groups_right(columns[metric.columns[0]], ids[metric.group], metric.group)
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((place.max(initial=-1) + 1, len(metric.columns)))
    np.add.at(sums, place, table)
    return sums


def whole_groups_right(correct: NDArray[np.float64], ids: Sequence[int | None], group: Group) -> NDArray[np.float64]:
    """Return, at the last row of each complete pair or set, whether all of its rows are right, and 0 elsewhere.

    Args:
        correct: Shape (..., rows).
        ids: Each row's pair or set.
        group: Which of the two, which says how many rows are complete.

    Returns:
        Shape (..., rows).
    """
    whole = complete(ids, group)
    found = np.zeros_like(correct)
    if len(whole):
        found[..., whole[:, -1]] = correct[..., whole].min(-1)
    return found


def complete(ids: Sequence[int | None], group: Group) -> NDArray[np.intp]:
    """Return the rows of each complete pair or set, shape (groups, 2 or 4).

    Raises:
        ValueError: If a group has more rows than a pair or a set can have.
    """
    members: dict[int, list[int]] = {}
    for row, one in enumerate(ids):
        if one is not None:
            members.setdefault(one, []).append(row)
    size = whatsup.GROUP_SIZES[group]
    if (most := max(map(len, members.values()), default=0)) > size:
        raise ValueError(f"a {group} is shared by {most} rows, and at most {size} pictures share one")
    return np.array([rows for rows in members.values() if len(rows) == size], np.intp).reshape(-1, size)


def distinct(numbers: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Return the names of metrics, without those that have the numbers of an earlier one in every row.

    A task may hand on whether an answer is right under the names of its precision and its F1 too, as lmms-eval's POPE
    does. The value of such a metric is not the mean of these numbers.

    Args:
        numbers: What each metric says of each row, NaN where it says nothing.
    """
    kept: dict[str, NDArray[np.float64]] = {}
    for name, own in numbers.items():
        if not any(np.array_equal(own, other, equal_nan=True) for other in kept.values()):
            kept[name] = own
    return list(kept)


def _floats(values: Any) -> NDArray[np.float64]:
    return np.array(list(values), dtype=float)

"""Metrics of WhatsUp (Kamath et al., EMNLP 2023): accuracy by picture, by pair and by set of pictures.

A row is a mapping with ``answer``, ``generation`` and, where the metric needs them, ``relation``, ``pair_id``,
``set_id`` and, for the strict rule, ``options``, the relations that the question offers; a pandas DataFrame
with these columns does too. All values lie in 0..1; a share of nothing is NaN.

A pair is two pictures of the same objects in opposite relations (left/right, on/under, front/behind), a set
all four. Both count as right only as a whole. The authors' test split keeps 80% of the pictures and so
breaks most sets; they still divide by n/2 and n/4, which puts a ceiling on what even a perfect model can
reach: `ceiling`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import nan
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from adaptvis_plugin.scoring.matching import Rule, matches

if TYPE_CHECKING:
    import pandas as pd

Group = Literal["pair_id", "set_id"]
Denominator = Literal["complete", "authors"]

GROUP_SIZES: dict[Group, int] = {"pair_id": 2, "set_id": 4}
"""How many pictures make a whole pair or set."""


class Outcome(TypedDict):
    """One judged answer: what every metric here is computed from."""

    correct: bool
    relation: str
    pair_id: int | None
    set_id: int | None


def judge(row: Mapping[str, Any], rule: Rule = "authors") -> Outcome:
    """Judges one row.

    Raises:
        ValueError: See `adaptvis_plugin.scoring.matches`.
    """
    return Outcome(
        correct=matches(row["generation"], row["answer"], rule, row.get("options")),
        relation=str(row.get("relation") or row["answer"]).lower(),
        pair_id=_id(row.get("pair_id")),
        set_id=_id(row.get("set_id")),
    )


def outcomes(rows: Iterable[Mapping[str, Any]] | pd.DataFrame, rule: Rule = "authors") -> list[Outcome]:
    """Judges all rows, in order."""
    records = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
    return [judge(row, rule) for row in cast("Iterable[Mapping[str, Any]]", records)]


def accuracy(judged: Iterable[Outcome]) -> float:
    """The share of pictures answered right."""
    return _mean(outcome["correct"] for outcome in judged)


def accuracy_by_relation(judged: Iterable[Outcome]) -> dict[str, float]:
    """Accuracy for each relation that occurs, sorted by name."""
    groups = defaultdict(list)
    for outcome in judged:
        groups[outcome["relation"]].append(outcome["correct"])
    return {relation: _mean(right) for relation, right in sorted(groups.items())}


def whole_groups(judged: Iterable[Outcome], by: Group) -> dict[int, list[Outcome]]:
    """The pairs or sets of which every picture is there; rows without such an id take no part.

    Raises:
        ValueError: A group has more pictures than a pair or a set can have.
    """
    groups = defaultdict(list)
    for outcome in judged:
        if (group := outcome[by]) is not None:
            groups[group].append(outcome)
    for group, members in groups.items():
        if len(members) > GROUP_SIZES[by]:
            raise ValueError(
                f"{by} {group} has {len(members)} rows, but at most {GROUP_SIZES[by]} pictures share one. "
                "Score each answer once, and give every pair and set of the data its own id."
            )
    return {group: members for group, members in groups.items() if len(members) == GROUP_SIZES[by]}


def group_accuracy(judged: Iterable[Outcome], by: Group, denominator: Denominator = "complete") -> float:
    """The share of pairs or sets answered right as a whole.

    Args:
        judged: The judged rows; see `outcomes`.
        by: ``"pair_id"`` or ``"set_id"``.
        denominator: ``"complete"`` divides by the whole groups there are; ``"authors"`` by n/2 or n/4, as
            Chen et al. do on their test split. On all rows of a data set the two agree.
    """
    judged = list(judged)
    right = [all(o["correct"] for o in members) for members in whole_groups(judged, by).values()]
    if denominator == "complete":
        return _mean(right)
    return sum(right) * GROUP_SIZES[by] / len(judged) if judged else nan


def ceiling(judged: Iterable[Outcome], by: Group) -> float:
    """What a perfect model would get from `group_accuracy` with the authors' denominator."""
    return group_accuracy([{**outcome, "correct": True} for outcome in judged], by, "authors")


def _id(value: object) -> int | None:
    # pandas turns a missing id into NaN, which is the only value unequal to itself
    return None if value is None or value != value else int(cast(int, value))


def _mean(values: Iterable[bool]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else nan

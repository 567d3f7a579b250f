"""Metrics of WhatsUp (Kamath et al., EMNLP 2023): accuracy by picture, by pair and by set of pictures.

A row is a mapping with ``answer`` and ``generation``. Some metrics also need ``relation``, ``pair_id`` or ``set_id``;
the strict rule reads ``options``, the relations that the question offers. A pandas DataFrame with these columns works
too. All metrics are in [0, 1]; a metric over no rows, or over no complete pairs or sets, is NaN.

A pair is two pictures of the same objects in opposite relations (left/right, on/under, front/behind); a set is all four
pictures. A pair or set is right only if each of its pictures is. The authors' test split keeps 80% of the pictures and
so breaks most sets. The authors still divide by n/2 and n/4; `ceiling` says what a perfect model can then reach.
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
"""How many pictures a complete pair or set has."""


class Outcome(TypedDict):
    """One judged answer; every metric in this module is computed from these."""

    correct: bool
    relation: str
    pair_id: int | None
    set_id: int | None


def judge(row: Mapping[str, Any], rule: Rule = "authors") -> Outcome:
    """Judge one row.

    Raises:
        ValueError: If the label or the rule is unusable; see `adaptvis_plugin.scoring.matches`.
    """
    return Outcome(
        correct=matches(row["generation"], row["answer"], rule, row.get("options")),
        relation=str(row.get("relation") or row["answer"]).lower(),
        pair_id=_id(row.get("pair_id")),
        set_id=_id(row.get("set_id")),
    )


def outcomes(rows: Iterable[Mapping[str, Any]] | pd.DataFrame, rule: Rule = "authors") -> list[Outcome]:
    """Judge all rows, in order."""
    records = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
    return [judge(row, rule) for row in cast("Iterable[Mapping[str, Any]]", records)]


def accuracy(judged: Iterable[Outcome]) -> float:
    """Return the share of pictures with a right answer."""
    return _mean(outcome["correct"] for outcome in judged)


def accuracy_by_relation(judged: Iterable[Outcome]) -> dict[str, float]:
    """Return the accuracy for each relation that occurs, sorted by name."""
    groups = defaultdict(list)
    for outcome in judged:
        groups[outcome["relation"]].append(outcome["correct"])
    return {relation: _mean(right) for relation, right in sorted(groups.items())}


def whole_groups(judged: Iterable[Outcome], by: Group) -> dict[int, list[Outcome]]:
    """Return the complete pairs or sets, by id; rows without such an id are left out.

    Raises:
        ValueError: If a group has more pictures than a pair or a set can have.
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
    """Return the share of pairs or sets in which every answer is right.

    Args:
        judged: The judged rows; see `outcomes`.
        by: ``"pair_id"`` or ``"set_id"``.
        denominator: ``"complete"`` divides by the number of complete groups; ``"authors"`` divides by n/2 or n/4, as
            Chen et al. do on their test split. On all rows of a data set the two are equal.
    """
    judged = list(judged)
    right = [all(o["correct"] for o in members) for members in whole_groups(judged, by).values()]
    if denominator == "complete":
        return _mean(right)
    return sum(right) * GROUP_SIZES[by] / len(judged) if judged else nan


def ceiling(judged: Iterable[Outcome], by: Group) -> float:
    """Return the `group_accuracy` of a perfect model with the authors' denominator."""
    return group_accuracy([{**outcome, "correct": True} for outcome in judged], by, "authors")


def _id(value: object) -> int | None:
    # pandas turns a missing id into NaN, the only value that is not equal to itself
    return None if value is None or value != value else int(cast(int, value))


def _mean(values: Iterable[bool]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else nan

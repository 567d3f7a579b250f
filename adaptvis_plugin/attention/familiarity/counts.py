"""How often each relation is right, and how often the unsteered model says it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from adaptvis_plugin.analysis.metrics import Scoring
from adaptvis_plugin.attention.familiarity.figures import Relation
from adaptvis_plugin.comparison.answers import NONE, SEVERAL, listed, said
from adaptvis_plugin.scoring import vsr
from adaptvis_plugin.traces import Row, Trace

NO_RELATION = "(no relation)"
"""What rows are put under whose task does not say which relation they test."""

YES = "yes"


def relation_of(row: Row, scoring: str | None) -> str:
    """Return the relation that a row tests, in lower case: in WhatsUp the right answer."""
    return row.relation or (row.gold.strip().lower() if scoring == "whatsup" else NO_RELATION)


def counted(trace: Trace, rows: Sequence[Row]) -> tuple[list[Relation], int | None]:
    """Return every relation with how often it occurs, is right and is said.

    Args:
        trace: The trace.
        rows: Those of its rows that are used.

    Returns:
        The relations, and how many unsteered answers name none or several; None if it is not known what they say.
    """
    if trace.scoring == "whatsup":
        return _of_options(rows, trace.plain)
    each: dict[str, list[Row]] = {}
    for row in rows:
        each.setdefault(relation_of(row, trace.scoring), []).append(row)
    if trace.scoring is None:
        return [Relation(name, len(own)) for name, own in each.items()], None
    meant = cache(vsr.yes_or_no)
    answers = [meant(row.generations[trace.plain]) for row in rows]
    return [
        Relation(
            name,
            len(own),
            right=sum(vsr.is_true(row.gold) for row in own),
            said=sum(meant(row.generations[trace.plain]) is True for row in own),
            probability=_probability(own, YES, trace.plain),
        )
        for name, own in each.items()
    ], sum(one is None for one in answers)


def _of_options(rows: Sequence[Row], plain: float) -> tuple[list[Relation], int]:
    """Return the relations of rows whose answers are relations; also those that are offered and never right."""
    scoring: Scoring = "whatsup"
    offered = [[name.lower() for name in row.options.get(plain, {})] for row in rows]
    names = listed([row.gold.strip() for row in rows], offered, scoring)
    reading = cache(lambda answer, options: said(answer, options, scoring))
    answers = [reading(row.generations[plain], tuple(own or names)) for row, own in zip(rows, offered, strict=True)]
    tested = [relation_of(row, scoring) for row in rows]
    golds = [row.gold.strip().lower() for row in rows]
    return [
        Relation(name, tested.count(name), golds.count(name), answers.count(name), _probability(rows, name, plain))
        for name in dict.fromkeys([*names, *tested])
    ], sum(one in (NONE, SEVERAL) for one in answers)


def _probability(rows: Sequence[Row], option: str, plain: float) -> float | None:
    """Return the mean probability of an option at the unsteered first token, 0 where it is not offered."""
    chances = [row.options.get(plain) for row in rows]
    if not all(chances):
        return None
    return sum(p for one in chances if one for name, p in one.items() if name.lower() == option) / len(rows)

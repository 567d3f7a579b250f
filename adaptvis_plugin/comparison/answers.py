"""What an answer says and how: which of the offered options it names, and in what form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from adaptvis_plugin.analysis.metrics import Scoring
from adaptvis_plugin.scoring import named_relations, vsr

NONE, SEVERAL, NEITHER = "none", "several", "neither"
"""What stands in place of an option for an answer that names none or several, or says neither yes nor no."""

Form = Literal["empty", "one word", "sentence"]
FORMS: tuple[Form, ...] = ("one word", "sentence", "empty")


def form_of(answer: str) -> Form:
    """Return the form of an answer: everything with more than one word counts as a sentence."""
    words = len(answer.split())
    return "empty" if not words else "one word" if words == 1 else "sentence"


def said(answer: str, options: Sequence[str], scoring: Scoring | None) -> str:
    """Return the option that an answer names, by the strict rule's reading.

    Args:
        answer: The answer.
        options: What the question offers, in lower case.
        scoring: How the answers are judged.

    Returns:
        One of the options, or `NONE`, `SEVERAL` or, for yes and no, `NEITHER`.
    """
    if scoring == "vsr":
        meant = vsr.yes_or_no(answer)
        return NEITHER if meant is None else "yes" if meant else "no"
    meanings = {option: _meaning(option) for option in options}
    offered: frozenset[str] = frozenset().union(*meanings.values())
    named = [relations for relations in named_relations(answer) if relations & offered]
    if not named:
        return NONE
    fitting = [option for option, meaning in meanings.items() if all(relations & meaning for relations in named)]
    return fitting[0] if len(fitting) == 1 else SEVERAL


def listed(golds: Iterable[str], options: Iterable[Sequence[str] | None], scoring: Scoring | None) -> list[str]:
    """Return every option of a task, in the order in which the questions offer them; else its right answers."""
    if scoring == "vsr":
        return ["yes", "no"]
    offered = [option.lower() for row in options if row for option in row]
    return list(dict.fromkeys([*offered, *sorted({gold.lower() for gold in golds})]))


def _meaning(option: str) -> frozenset[str]:
    return frozenset().union(*named_relations(option))

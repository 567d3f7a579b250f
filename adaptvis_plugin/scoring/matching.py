"""Decide whether a free-form answer names the right spatial relation.

There are two rules:

- ``"authors"``: the rule behind the numbers of Chen et al. (ICML 2025, arXiv 2503.01773). The answer must contain the
  label, in any case; the label "on" is wrong if the answer also contains "front". The rule credits "The cap is on the
  floor, under the table" for both On and Under.
- ``"strict"``: the answer must name exactly one relation, the label's. The tables in `adaptvis_plugin.scoring.phrases`
  say what counts as a name and what only looks like one. They follow these decisions:

  * Only whole words count: neither "laptop" nor "bottom" names "top". A preposition that belongs to a side does not
    count: "on the left side" and "on the bottom" do not name "on".
  * Each subset has its own word for up (On, Top or Above) and for down (Under, Bottom or Below); no subset has two.
    All words for down are one relation. "on" (contact) and "above" are two relations; "on top of" is right for both.
  * The surface that a thing stands or hangs on does not count, because the question does not ask about it: "on the
    floor, under the table" names only under.
  * A denied relation does not count: "not left but right" names right, and "not on the left" names nothing. A denial
    applies up to the end of its clause. If an answer corrects itself, only the part after the correction counts.
  * Relations that no question offers ("next to", "inside") do not count. If the options are known, other relations do
    not count either: "on the table, left of the plate" names only left if "on" is not an option.
  * A name counts for whichever thing it is said of. "The table is under the mug" names under. A relation that only
    says which thing is meant counts too: "the woman on the left is behind the car" names two.
"""

import re
from collections.abc import Iterable
from typing import Literal

from adaptvis_plugin.scoring.phrases import (
    CLAUSE_END,
    CORRECTIONS,
    INTENSIFIED,
    LOOKALIKES,
    NEGATIONS,
    SYNONYMS,
    WHOLE_ANSWERS,
)

Rule = Literal["authors", "strict"]
"""How an answer is judged; see the module's docstring."""

_NAME = re.compile(rf"\b(?:{'|'.join(sorted(SYNONYMS, key=len, reverse=True))})\b")
_LOOKALIKE = re.compile("|".join(rf"(?<!\w)(?:{phrase})(?!\w)" for phrase in LOOKALIKES))
_CLAUSE_END = re.compile(CLAUSE_END)
_DENIED = re.compile(rf"\b(?:{'|'.join(NEGATIONS)})\b.*")
_CORRECTED = re.compile(rf".*{CORRECTIONS}(?P<rest>.*)")


def normalized(text: str) -> str:
    """Return a text in the form that the tables use: in lower case, without emphasis, with single spaces."""
    text = re.sub(r"\n\s*\n", ". ", text.lower().replace("\u2019", "'"))
    return re.sub(r"[\s_*-]+", " ", text).strip()


def corrected(text: str) -> str:
    """Return the part of a normalized text after its last correction or "the answer is", or an empty string."""
    found = _CORRECTED.fullmatch(text)
    return found["rest"] if found else ""


def named_relations(text: str) -> list[frozenset[str]]:
    """Return the relations that a text names and does not deny, in order; for each name, all that it may mean."""
    text = normalized(text)
    return _relations_in(corrected(text)) or _relations_in(text)


def _relations_in(text: str) -> list[frozenset[str]]:
    text = re.sub(INTENSIFIED, "the ", text.strip(" .!"))
    text = _LOOKALIKE.sub("~", WHOLE_ANSWERS.get(text, text))
    return [
        frozenset(SYNONYMS[name])
        for clause in _CLAUSE_END.split(text)
        for name in _NAME.findall(_DENIED.sub("", clause))
    ]


def matches(generation: str, label: str, rule: Rule = "authors", options: Iterable[str] | None = None) -> bool:
    """Return whether a generation answers with the label.

    Args:
        generation: The model's answer in free text.
        label: The true relation, such as ``"Left"`` or ``"on"``, in any case.
        rule: ``"authors"`` for the published rule; ``"strict"`` to credit only an answer that names exactly one
            relation, the right one.
        options: The relations that the question offered. The strict rule counts only these; without options, it counts
            every relation that it knows.

    Raises:
        ValueError: If the label is empty, the strict rule does not know it, or the rule is unknown.
    """
    label = label.strip().lower()
    if not label:
        raise ValueError("The label is empty, and an empty label would match every answer. Give the true relation.")
    if rule == "authors":
        generation = generation.lower()
        return label in generation and not (label == "on" and "front" in generation)
    if rule != "strict":
        raise ValueError(f"rule={rule!r} is not a way to judge an answer. Use 'authors' or 'strict'.")
    wanted = named_relations(label)
    if len(wanted) != 1:
        raise ValueError(
            f"The strict rule needs a label that names one known relation, not {label!r}. "
            f"Known: {', '.join(sorted(SYNONYMS))}. Use rule='authors' for other labels."
        )
    named = named_relations(generation)
    if options is not None:
        offered = wanted[0].union(*(relations for option in options for relations in named_relations(option)))
        named = [relations for relations in named if relations & offered]
    return bool(named) and all(relations & wanted[0] for relations in named)

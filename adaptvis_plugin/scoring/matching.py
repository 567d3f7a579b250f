"""Does a free-form answer name the right spatial relation?

Two rules:

- ``"authors"``: the rule behind the numbers of Chen et al. (ICML 2025, arXiv 2503.01773). The label is a
  case-insensitive substring of the generation, except that label "on" is wrong when "front" occurs. It
  credits "The cap is on the floor, under the table" for both On and Under.
- ``"strict"``: the generation names exactly one relation, and it is the label's. What counts as a name, and
  what only looks like one, are the tables in `adaptvis_plugin.scoring.phrases`. The decisions behind them:

  * Whole words only: neither "laptop" nor "bottom" names "top". The preposition of a side or an end belongs
    to it: "on the left side" and "on the bottom" do not name "on".
  * Each subset asks with its own word for up (On, Top or Above) and for down (Under, Bottom or Below),
    never with two of them. Down is one relation. "on" (contact) and "above" are two, and "on top of" is
    right for both.
  * What a thing stands or hangs on is not what it was compared with: "on the floor, under the table" names
    under alone.
  * What is denied is not named: "not left but right" names right, "not on the left" nothing. A denial reaches
    to the end of its clause. An answer that is openly corrected is what follows the correction.
  * Relations that no question offers ("next to", "inside") are not counted, nor, where the options are known,
    those that this question does not: "on the table, left of the plate" where "on" is not among them.
  * A name counts whatever it is said of. "The table is under the mug" is taken for under, and a relation that
    only says which thing is meant ("the woman on the left is behind the car") makes two.
"""

import re
from collections.abc import Iterable
from typing import Literal

from adaptvis_plugin.scoring.phrases import (
    CLAUSE_END,
    CORRECTIONS,
    INTENSIFIED,
    NEGATIONS,
    NOTHING,
    SYNONYMS,
    WHOLE_ANSWERS,
)

Rule = Literal["authors", "strict"]
"""How an answer is judged; see the text of the module."""

_NAME = re.compile(rf"\b(?:{'|'.join(sorted(SYNONYMS, key=len, reverse=True))})\b")
_NOTHING = re.compile("|".join(rf"(?<!\w)(?:{phrase})(?!\w)" for phrase in NOTHING))
_CLAUSE_END = re.compile(CLAUSE_END)
_DENIED = re.compile(rf"\b(?:{'|'.join(NEGATIONS)})\b.*")
_CORRECTED = re.compile(rf".*{CORRECTIONS}(?P<rest>.*)")


def plain(text: str) -> str:
    """A text as the tables write theirs: lower case, without emphasis, a single space for every gap."""
    text = re.sub(r"\n\s*\n", ". ", text.lower().replace("\u2019", "'"))
    return re.sub(r"[\s_*-]+", " ", text).strip()


def corrected(text: str) -> str:
    """What a plain text says after its last correction or "the answer is"; nothing where it has neither."""
    found = _CORRECTED.fullmatch(text)
    return found["rest"] if found else ""


def named_relations(text: str) -> list[frozenset[str]]:
    """The relations a text names, in order: for each name what it may mean. What it denies is left out."""
    text = plain(text)
    return _named(corrected(text)) or _named(text)


def _named(text: str) -> list[frozenset[str]]:
    text = re.sub(INTENSIFIED, "the ", text.strip(" .!"))
    text = _NOTHING.sub("~", WHOLE_ANSWERS.get(text, text))
    return [
        frozenset(SYNONYMS[name])
        for clause in _CLAUSE_END.split(text)
        for name in _NAME.findall(_DENIED.sub("", clause))
    ]


def matches(generation: str, label: str, rule: Rule = "authors", options: Iterable[str] | None = None) -> bool:
    """Whether a generation answers with the label.

    Args:
        generation: The model's answer, free text.
        label: The true relation, such as ``"Left"`` or ``"on"``; case does not matter.
        rule: ``"authors"`` for the published rule, ``"strict"`` to credit only an answer that names exactly
            one relation, the right one.
        options: The relations that the question offered. The strict rule counts no others; without options
            it counts all it knows.

    Raises:
        ValueError: The label is empty, or not in `SYNONYMS` under the strict rule, or the rule is unknown.
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

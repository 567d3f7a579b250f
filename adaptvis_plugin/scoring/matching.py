"""Does a free-form answer name the right spatial relation?

Two rules:

- ``"authors"``: the rule behind the numbers of Chen et al. (ICML 2025, arXiv 2503.01773). The label is a
  case-insensitive substring of the generation, except that label "on" is wrong when "front" occurs. It
  credits "The cap is on the floor, under the table" for both On and Under.
- ``"strict"``: the generation names exactly one relation, and it is the label's. What counts as a name is
  the table `SYNONYMS`. The decisions behind it:

  * Whole words only: neither "laptop" nor "bottom" names "top". The preposition of a side or an end belongs
    to it: "on the left side" and "on the bottom" do not name "on".
  * Each subset asks with its own word for up (On, Top or Above) and for down (Under, Bottom or Below),
    never with two of them. Down is one relation. "on" (contact) and "above" are two, and "on top of" is
    right for both.
  * A negated relation is still named, and is not the right one: neither "not on the left" nor "not left but
    right" is credited.
  * "right" that only strengthens the next word ("right behind") names nothing, nor does "based on".
  * Relations outside the table ("next to", "inside") are no option of any subset and are not counted.
"""

import re
from typing import Literal

Rule = Literal["authors", "strict"]
"""How an answer is judged; see the text of the module."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "left": ("left",),
    "leftmost": ("left",),
    "right": ("right",),
    "rightmost": ("right",),
    "on": ("on",),
    "onto": ("on",),
    "upon": ("on",),
    "atop": ("on", "above"),
    "on top": ("on", "above"),
    "on the top": ("on", "above"),
    "above": ("above",),
    "over": ("above",),
    "top": ("above",),
    "upper": ("above",),
    "under": ("below",),
    "underneath": ("below",),
    "beneath": ("below",),
    "below": ("below",),
    "bottom": ("below",),
    "lower": ("below",),
    "front": ("front",),
    "behind": ("behind",),
    "in back of": ("behind",),
}
"""What an answer may say -> the relations it may mean; `matches` needs every name in it to allow the
label's."""

_PHRASE = "|".join(sorted(SYNONYMS, key=len, reverse=True))
_SIDE = r"(?:on|to|at|in|from) (?:the|its|his|her|their|your|my) (?:far |very )?(?!top)"
_NAME = re.compile(rf"\b(?:{_SIDE}(?P<side>{_PHRASE})|(?P<bare>{_PHRASE}))\b")
_NOTHING = re.compile(
    r"\bbased on\b|(?<!the )(?<!its )\bright "
    r"(?=(?:next|beside|behind|in|on|above|over|below|beneath|under|underneath)\b)"
)
_NEGATED = re.compile(
    r"(?:\b(?:not|never|neither|nor)|n['\u2019]t) "
    r"(?:(?:directly|exactly|really|located|placed|to|in|at|the) )*$"
)


def named_relations(text: str) -> list[frozenset[str]]:
    """The relations a text names, in order: for each name what it may mean, nothing where it is negated."""
    text = _NOTHING.sub("", re.sub(r"[\s_-]+", " ", text.lower()))
    return [
        frozenset(() if _NEGATED.search(text[: name.start()]) else SYNONYMS[name["side"] or name["bare"]])
        for name in _NAME.finditer(text)
    ]


def matches(generation: str, label: str, rule: Rule = "authors") -> bool:
    """Whether a generation answers with the label.

    Args:
        generation: The model's answer, free text.
        label: The true relation, such as ``"Left"`` or ``"on"``; case does not matter.
        rule: ``"authors"`` for the published rule, ``"strict"`` to credit only an answer that names exactly
            one relation, the right one.

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
    return bool(named) and all(relations & wanted[0] for relations in named)

"""Metrics of VSR (Liu et al., TACL 2023), which asks whether a caption describes the picture: yes or no.

A row is a mapping with ``answer`` ("Yes" or "No"), ``generation`` and ``relation``. All metrics are in [0, 1].
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

from adaptvis_plugin.scoring.matching import corrected, normalized

AnsweredRow = Mapping[str, Any]

CATEGORIES: dict[str, tuple[str, ...]] = {
    name: tuple(relations.split(", "))
    for name, relations in {
        "adjacency": (
            "adjacent to, alongside, at the side of, at the right side of, at the left side of, "
            "attached to, at the back of, ahead of, against, at the edge of"
        ),
        "directional": (
            "off, past, toward, down, deep down, up, away from, along, around, from, into, to, "
            "across, across from, through, down from"
        ),
        "orientation": "facing, facing away from, parallel to, perpendicular to",
        "projective": (
            "on top of, beneath, beside, behind, left of, right of, under, in front of, below, above, "
            "over, in the middle of"
        ),
        "proximity": "by, close to, near, far from, far away from",
        "topological": (
            "connected to, detached from, has as a part, part of, contains, within, at, on, in, with, "
            "surrounding, consists of, out of, between, inside, outside, touching"
        ),
        "unallocated": "beyond, next to, opposite to, after, among, enclosed by",
    }.items()
}
"""The seven categories of the VSR paper, from the authors' `rel_meta_category_dict.txt`. That file lists "among" twice;
as in the authors' script, the later entry (unallocated) counts."""

_CATEGORY = {relation: category for category, relations in CATEGORIES.items() for relation in relations}

YES_NO: dict[str, bool] = {
    "yes": True,
    "yeah": True,
    "yep": True,
    "yup": True,
    "no": False,
    "nope": False,
    "nah": False,
}
"""Words that answer the question anywhere in an answer."""

TRUTH_WORDS: dict[str, bool] = {
    r"true|correct|correctly|accurate|accurately|valid|consistent|fit|fits|match|matches|agree": True,
    r"(?:is|are|seems|looks|that's|you're|not|\w+n't) right(?= ?(?:[.,;:!]|$))": True,
    r"untrue|false|incorrect|incorrectly|inaccurate|invalid|inconsistent|wrong|mismatch|disagree": False,
}
"""What counts in an answer without a word of `YES_NO`; it means the opposite if its clause denies it."""

COMPLETE_ANSWERS: dict[str, bool] = {
    answer: meaning
    for meaning, answers in {
        True: (
            "y; sure; sure, it is; indeed; absolutely; certainly; definitely; exactly; right; affirmative; of course; "
            "of course it is; it is; it does; they are; i think so; i believe so; i guess so"
        ),
        False: (
            "n; negative; not at all; not really; not quite; not exactly; definitely not; absolutely not; "
            "certainly not; of course not; probably not; likely not; it is not; it isn't; it does not; it doesn't; "
            "they are not; they aren't; i don't think so; i do not think so"
        ),
    }.items()
    for answer in answers.split("; ")
}
"""Phrases that mean yes or no only if they are the whole answer."""

UNDECIDED: dict[str, str] = {
    r"no (?:doubt|problem|question|comment|longer|other|one|more|less)": "a set phrase: yes, no doubt",
    r"(?:is|are|was|were|there's|has|have|had|shows?|see|with|contains?) no(?= \w)": (
        "describes the picture and does not judge the caption: there is no cat"
    ),
    r"yes ?(?:and|or|/|nor) ?no|no ?(?:or|/) ?yes": "both, or a repetition of the question",
    r"(?:true|correct|right|accurate|matches) or (?:not|false|incorrect|wrong|inaccurate)": (
        "a repetition of the question"
    ),
    r"(?:is|are|does) [^.!?]*\?": "a question",
    r"the (?:correct|true|right|accurate|wrong) \w+": "about something else: the correct position",
    r"wrong (?:side|way|place|direction)": "about something else",
    r"(?:partially|partly|half|somewhat|almost) (?:true|correct|right|accurate)": "neither true nor false",
    r"(?:whether|if|neither|nor|not (?:sure|certain|clear)|unsure|unclear)\b[^.,;:!?]*": "a doubt",
    r"(?:cannot|can't|can not|unable to) (?:tell|say|see|determine|confirm|verify|answer|judge|know)\b[^.,;:!?]*": (
        "a doubt"
    ),
}
"""What means neither yes nor no (a regular expression for whole words) -> the reason."""

_YES_NO = re.compile(rf"\b(?:{'|'.join(YES_NO)})\b")
_UNDECIDED = re.compile("|".join(rf"(?<!\w)(?:{phrase})(?!\w)" for phrase in UNDECIDED))
_NEGATED = re.compile(r"\b(?:not|never|cannot|\w+n't)\b[^.,;:!?]*$")


class Scores(TypedDict):
    """All VSR metrics; see `score`."""

    accuracy: float
    precision: float
    recall: float
    standard_f1: float
    authors_acc: float
    authors_f1: float
    neither: float


def category(relation: str) -> str:
    """Return the category of a VSR relation.

    Raises:
        ValueError: If the relation is not one of VSR's.
    """
    try:
        return _CATEGORY[relation.strip().lower()]
    except KeyError:
        known = ", ".join(sorted(_CATEGORY))
        raise ValueError(f"{relation!r} is not a relation of VSR, so it has no category. Known: {known}.") from None


def yes_or_no(generation: str) -> bool | None:
    """Return True for yes, False for no, and None for an answer that says neither or both.

    Only whole words count, in any case: those of `YES_NO` or, in an answer without one, those of `TRUTH_WORDS`. An
    answer from which a reader could only infer yes or no says neither: "There is no cat", "The cat is under the mat".
    """
    text = normalized(generation)
    answer = _yes_or_no_in(corrected(text))
    return _yes_or_no_in(text) if answer is None else answer


def _yes_or_no_in(text: str) -> bool | None:
    text = text.strip(" .!")
    if text in COMPLETE_ANSWERS:
        return COMPLETE_ANSWERS[text]
    text = _UNDECIDED.sub("~", text)
    answers = {YES_NO[word[0]] for word in _YES_NO.finditer(text)}
    if not answers:
        for words, meaning in TRUTH_WORDS.items():
            for found in re.finditer(rf"\b(?:{words})\b", text):
                answers.add(meaning is not bool(_NEGATED.search(text[: found.end()])))
    return answers.pop() if len(answers) == 1 else None


def is_true(answer: str) -> bool:
    """Return the answer column as a truth value.

    Raises:
        ValueError: If the answer is neither "Yes" nor "No".
    """
    truth = {"yes": True, "no": False}.get(answer.strip().lower())
    if truth is None:
        raise ValueError(f"The answer of a VSR row is Yes or No, not {answer!r}.")
    return truth


def is_correct(row: AnsweredRow) -> bool:
    """Return whether a row's answer is right; an answer that is neither yes nor no is wrong."""
    return yes_or_no(row["generation"]) is is_true(row["answer"])


def is_correct_authors(row: AnsweredRow) -> bool:
    """Return whether an answer is right by the rule of Chen et al.

    A true caption needs "Yes" in the answer and a false one "No", both with the capital. So "yes" is always wrong, and
    "None of them" counts as "No".
    """
    return ("Yes" if is_true(row["answer"]) else "No") in row["generation"]


def score(rows: Iterable[AnsweredRow]) -> Scores:
    """Compute all VSR metrics.

    ``accuracy``, ``precision``, ``recall`` and ``standard_f1`` are the textbook metrics with yes as the positive class;
    a ratio with denominator 0 is 0. ``neither`` is the share of answers that are neither yes nor no; they count as
    wrong. ``authors_acc`` uses `is_correct_authors`. ``authors_f1`` is what Chen et al. report as F1: the harmonic mean
    of the true-positive and the true-negative rate under that rule.

    Raises:
        ValueError: If there are no rows.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("No rows to score.")
    answers = [yes_or_no(row["generation"]) for row in rows]
    truth = [is_true(row["answer"]) for row in rows]
    authors = [is_correct_authors(row) for row in rows]
    true_positive = sum(answer is True and true for answer, true in zip(answers, truth, strict=True))
    precision = _ratio(true_positive, sum(answer is True for answer in answers))
    recall = _ratio(true_positive, sum(truth))
    positive_rate = _ratio(sum(a for a, t in zip(authors, truth, strict=True) if t), sum(truth))
    negative_rate = _ratio(sum(a for a, t in zip(authors, truth, strict=True) if not t), len(truth) - sum(truth))
    return Scores(
        accuracy=_ratio(sum(map(is_correct, rows)), len(rows)),
        precision=precision,
        recall=recall,
        standard_f1=_ratio(2 * precision * recall, precision + recall),
        authors_acc=_ratio(sum(authors), len(rows)),
        authors_f1=_ratio(2 * positive_rate * negative_rate, positive_rate + negative_rate),
        neither=_ratio(answers.count(None), len(rows)),
    )


def accuracy_by_relation(rows: Iterable[AnsweredRow]) -> dict[str, float]:
    """Return the accuracy for each relation that occurs, sorted by name."""
    return _accuracy_by(rows, str)


def accuracy_by_category(rows: Iterable[AnsweredRow]) -> dict[str, float]:
    """Return the accuracy for each of VSR's categories that occurs, sorted by name.

    Raises:
        ValueError: If a relation is not one of VSR's.
    """
    return _accuracy_by(rows, category)


def _accuracy_by(rows: Iterable[AnsweredRow], group_of: Callable[[str], str]) -> dict[str, float]:
    groups = defaultdict(list)
    for row in rows:
        groups[group_of(row["relation"])].append(is_correct(row))
    return {group: sum(right) / len(right) for group, right in sorted(groups.items())}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0

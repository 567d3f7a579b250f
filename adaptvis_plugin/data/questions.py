"""Questions: read from the authors' files, or written from captions if there is no file.

The authors' texts are irregular: double spaces, stray line breaks, "above, or below", plural "are", a few rows with
other options. So they are used unchanged, and no template replaces them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple

from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.files import read_lines
from adaptvis_plugin.scoring import named_relations

_PROMPT = re.compile(r"<image>\nUSER:(?P<question>.*)\nASSISTANT:", re.DOTALL)
_OPTIONS = re.compile(r"Answer with (?P<options>[^.]+)\.")
_LABELS = {
    "to the left of": "left",
    "to the right of": "right",
    "left of": "left",
    "right of": "right",
    "on top of": "on",
    "on": "on",
    "under": "under",
    "beneath": "under",
    "in front of": "front",
    "behind": "behind",
    "above": "above",
    "over": "above",
    "below": "below",
}
_TWO = re.compile(rf"(?P<a>.+?) (?:(?P<verb>is|are) )?(?P<phrase>{'|'.join(_LABELS)}) (?P<b>.+)", re.IGNORECASE)
_ONE = re.compile(
    r"(?P<a>.+?) (?:(?P<verb>is|are) )?(?:on|at|in) the (?P<label>left|right|top|bottom|front)", re.IGNORECASE
)
_ARTICLE = re.compile(r"(?P<article>a few|an?|the|some|several|many) ", re.IGNORECASE)
_COUNTED = re.compile(r"(?:two|three|four|five|six|seven|eight|nine|ten|\d+|both|these|those) ", re.IGNORECASE)
_OWNED = re.compile(
    r"(?:this|that|both|these|those|my|your|his|her|its|our|their|\S+(?:['\u2019]s|s['\u2019])) ", re.IGNORECASE
)
_PLURAL = re.compile(r"(?:.* )?(?:(?:\S*[^suiSUI\W]s)|\S*people|\S*men|children)", re.IGNORECASE)
_PART = re.compile(r" (?:of|with|in|from|for|without) ", re.IGNORECASE)
_ORDER = ("left", "right", "on", "under", "front", "behind", "top", "bottom", "above", "below")

PAPER_IMAGE = "<image>"
"""The authors' placeholder for the image."""

_WHOLE_PROMPT = "adaptvis_whole_prompt"


class Question(NamedTuple):
    """One question: the paper's whole prompt, the bare text, the label, and the options it offers."""

    prompt: str
    text: str
    answer: str
    options: list[str]


def paper_prompt(text: str) -> str:
    """Return the paper's whole prompt for a bare question."""
    return f"{PAPER_IMAGE}\nUSER: {text}\nASSISTANT:"


def with_whole_prompt(part: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Add the paper's whole prompt to the text part of a message.

    Only this plugin's models read it; others see the text. The key is this plugin's own, because many data sets have a
    column `prompt` with another meaning.
    """
    return {**part, _WHOLE_PROMPT: prompt}


def whole_prompt(content: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the paper's whole prompt from a message's content; None if it has none."""
    return next((part[_WHOLE_PROMPT] for part in content if _WHOLE_PROMPT in part), None)


def offered_options(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the answers that a row of any data set offers, from its column `options`; empty if it has none."""
    options = row.get("options")
    listed = isinstance(options, (list, tuple)) and all(isinstance(option, str) and option for option in options)
    return tuple(options) if options is not None and listed else ()


def read_questions(path: Path) -> list[Question]:
    """Read a question file of the authors: one JSON object per row, in the order of the data.

    Raises:
        DataError: If a line is not as expected; the message names it.
    """
    questions = []
    for number, line in enumerate(read_lines(path)):
        try:
            questions.append(_question(json.loads(line), number))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path}, row {number}, is not a question of the authors ({type(error).__name__}: {error}). A row is "
                '{"id": 0, "question": "<image>\\nUSER: … Answer with left or on.\\nASSISTANT:", "answer": ["Left"]}.'
            ) from error
    return questions


def _question(row: dict[str, Any], number: int) -> Question:
    prompt, answers = row["question"], row["answer"]
    if row["id"] != number:
        raise ValueError(f"its id is {row['id']!r}, not {number}")
    if not (whole := _PROMPT.fullmatch(prompt)) or not (listed := _OPTIONS.search(prompt)):
        raise ValueError(f"its question is {prompt!r}")
    options = [word.strip().lower() for word in re.split(r",? or |, ?", listed["options"])]
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise ValueError(f"its answer is {answers!r}, not a list with a label")
    label = answers[0]
    if label.lower() not in options and not _meant(label) & _meant(*options):
        raise ValueError(f"its answer {label!r} is not one of {', '.join(options)}")
    return Question(prompt, whole["question"].strip(), label, options)


def write_questions(captions: Sequence[Sequence[str]]) -> list[Question]:
    """Write questions from captions, in the wording of the authors' files, for data that has no questions.

    Args:
        captions: For each row its captions, the true one first: "A mug to the left of a plate" for two objects,
            "A photo of a mug on the left" for one.

    Raises:
        DataError: If a caption has neither form, or a false one means the same as the true one.
    """
    parsed = [[_parse(caption, row) for caption in options] for row, options in enumerate(captions)]
    for row, (true, *false) in enumerate(parsed):
        if true in false:
            raise DataError(f"Row {row}: its true caption {captions[row][0]!r} means the same as a false one.")
    known = {label for row in parsed for _, label in row}
    options = [label for label in _ORDER if label in known]
    listed = " or ".join([part for part in (", ".join(options[:-1]), options[-1]) if part])
    questions = []
    for (question, label), *_ in parsed:
        text = f"{question} Answer with {listed}."
        questions.append(Question(paper_prompt(text), text, label.capitalize(), options))
    return questions


def agreement(answer: str, captions: Sequence[str], offered: Iterable[str]) -> bool | None:
    """Return whether a label agrees with the captions of its row.

    Names of objects may contain the same words ("a left shoe", "the back of a chair"). So a relation counts only if the
    questions offer it, and only for the caption that names it more often: the true one or a false one.

    Args:
        answer: The label.
        captions: The captions, the true one first.
        offered: The options of all the questions.

    Returns:
        True if the true caption names the label's relation; False if it names another one, or if only a false caption
        names the label's; None if the captions name neither, for example because they use unknown words.
    """
    asked, label = _meant(*offered), _meant(answer)
    true = Counter(named_relations(captions[0]))
    false = reduce(or_, (Counter(named_relations(text)) for text in captions[1:]), Counter[frozenset[str]]())
    if said := [name for name in true - false if name & asked]:
        return any(name & label for name in said)
    return False if any(name & label for name in false - true) else None


def _meant(*texts: str) -> set[str]:
    """Return every relation that the texts may name."""
    return {relation for text in texts for name in named_relations(text) for relation in name}


def object_key(text: str) -> str:
    """Return what the four questions of a set have in common: the text without options and irregular spacing."""
    return " ".join(text.split("Answer with")[0].split()).lower()


def _parse(caption: str, row: int) -> tuple[str, str]:
    text = " ".join(caption.split()).rstrip(".")
    if one := _ONE.fullmatch(text):
        return f"Where {_verb_and_thing(one)} in the photo?", one["label"].lower()
    if two := _TWO.fullmatch(text):
        return f"Where {_verb_and_thing(two)} in relation to {_definite(two['b'])}?", _LABELS[two["phrase"].lower()]
    raise DataError(
        f"Row {row}: the caption {caption!r} has neither the form 'A mug to the left of a plate' nor 'A photo of a "
        f"mug on the left'. Known: {', '.join(_LABELS)}. Use one of these forms, or add a question file."
    )


def _verb_and_thing(caption: re.Match[str]) -> str:
    """Return the verb and the object of a caption, for "Where is the mug …?" or "Where are the two cups …?"."""
    thing, photo = re.subn(r"^a photo of ", "", caption["a"], flags=re.IGNORECASE)
    first = thing.split(" ")[0]
    if not photo and first[1:].islower():  # the capital begins the sentence, unlike the one in "TV"
        thing = thing[0].lower() + thing[1:]
    return f"{caption['verb'] or ('are' if _is_plural(thing) else 'is')} {_definite(thing)}"


def _is_plural(thing: str) -> bool:
    article = _ARTICLE.match(thing)
    if article and (word := article["article"].lower()) not in ("the", "some"):
        return word not in ("a", "an")
    noun = _PART.split(thing)[0]
    return bool(_COUNTED.match(thing) or _PLURAL.fullmatch(noun))


def _definite(thing: str) -> str:
    return thing if _OWNED.match(thing) else "the " + _ARTICLE.sub("", thing, count=1)

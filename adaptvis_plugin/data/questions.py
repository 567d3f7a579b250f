"""The questions: the authors' files where there is one, a template for data that has none.

The authors' texts are irregular (double spaces, stray line breaks, "above, or below", plural "are", a few
rows with other options), so they are taken as they are and nothing is derived by template where a file
exists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adaptvis_plugin.data.cache import DataError
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
_TWO = re.compile(rf"(?P<a>.+?) (?:is |are )?(?P<phrase>{'|'.join(_LABELS)}) (?P<b>.+)", re.IGNORECASE)
_ONE = re.compile(r"(?P<a>.+?) (?:is |are )?(?:on|at|in) the (?P<label>left|right|top|bottom|front)", re.IGNORECASE)
_ORDER = ("left", "right", "on", "under", "front", "behind", "top", "bottom", "above", "below")


PAPER_IMAGE = "<image>"
"""How the authors write the image."""

_WHOLE_PROMPT = "adaptvis_whole_prompt"


class Question(NamedTuple):
    """One question: the paper's whole prompt, the bare text, the label, and the options it offers."""

    prompt: str
    text: str
    answer: str
    options: list[str]


def paper_prompt(text: str) -> str:
    """The paper's prompt around a bare question."""
    return f"{PAPER_IMAGE}\nUSER: {text}\nASSISTANT:"


def with_whole_prompt(part: dict[str, Any], prompt: str) -> dict[str, Any]:
    """A message's text part that also carries the paper's whole prompt, for this plugin's models; others see the text.

    The key is this plugin's own. Many data sets have a column `prompt` of another meaning.
    """
    return {**part, _WHOLE_PROMPT: prompt}


def whole_prompt(content: Iterable[Mapping[str, Any]]) -> str | None:
    """The paper's whole prompt that a message's content carries, or None."""
    return next((part[_WHOLE_PROMPT] for part in content if _WHOLE_PROMPT in part), None)


def read_questions(path: Path) -> list[Question]:
    """Reads a question file of the authors: one JSON object a row, in the order of the data.

    Raises:
        DataError: A line is not what it should be; the message names it.
    """
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            row = json.loads(line)
            prompt, answer = row["question"], row["answer"][0]
            if row["id"] != number:
                raise ValueError(f"its id is {row['id']}")
            if not (whole := _PROMPT.fullmatch(prompt)) or not (options := _OPTIONS.search(prompt)):
                raise ValueError(f"{prompt!r} is not '<image>\\nUSER: … Answer with ….\\nASSISTANT:'")
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path}, row {number}, is not a question of the authors: {error}.") from error
        offered = [word.lower() for word in re.split(r",? or |, ?", options["options"])]
        questions.append(Question(prompt, whole["question"].strip(), answer, offered))
    return questions


def write_questions(captions: Sequence[Sequence[str]]) -> list[Question]:
    """Questions for data that has none, in the wording of the authors' files, from its captions.

    Args:
        captions: For each row its captions, the true one first: "A mug to the left of a plate" for two
            objects, "A photo of a mug on the left" for one.

    Raises:
        DataError: A caption has neither form.
    """
    parsed = [[_parse(caption, row) for caption in options] for row, options in enumerate(captions)]
    known = {label for row in parsed for _, label in row}
    options = [label for label in _ORDER if label in known]
    listed = " or ".join([part for part in (", ".join(options[:-1]), options[-1]) if part])
    questions = []
    for (question, label), *_ in parsed:
        text = f"{question} Answer with {listed}."
        questions.append(Question(paper_prompt(text), text, label.capitalize(), options))
    return questions


def check_answer(answer: str, captions: Sequence[str]) -> bool:
    """Whether a label agrees with the captions of its row, the true one first.

    What only the true caption names counts, since names of objects may contain such words too ("a left shoe"); where
    it names nothing of its own, all it names counts.
    """
    true, false = set(named_relations(captions[0])), {name for text in captions[1:] for name in named_relations(text)}
    return any(name & label for name in true - false or true for label in named_relations(answer))


def object_key(text: str) -> str:
    """What the four questions of a set have in common: the text without options and irregular spacing."""
    return " ".join(text.split("Answer with")[0].split()).lower()


def _parse(caption: str, row: int) -> tuple[str, str]:
    text = caption.strip().rstrip(".")
    if one := _ONE.fullmatch(text):
        return f"Where is {_definite(one['a'])} in the photo?", one["label"].lower()
    if two := _TWO.fullmatch(text):
        question = f"Where is {_definite(two['a'])} in relation to {_definite(two['b'])}?"
        return question, _LABELS[two["phrase"].lower()]
    raise DataError(
        f"Row {row}: the caption {caption!r} has neither the form 'A mug to the left of a plate' nor 'A photo of a "
        f"mug on the left'. Known: {', '.join(_LABELS)}. Write it so, or give a question file."
    )


def _definite(thing: str) -> str:
    return "the " + re.sub(r"^(?:a photo of )?(?:an?|the) ", "", thing.strip(), flags=re.IGNORECASE)

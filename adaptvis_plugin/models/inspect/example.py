"""One row of a task, as the prompt that a model would be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import ProcessorMixin

from adaptvis_plugin.data import cache, load_table
from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.dataset import DataSet
from adaptvis_plugin.data.registry import data_sets, groups
from adaptvis_plugin.images import to_rgb
from adaptvis_plugin.models.prompts import chat_text, paper_text
from adaptvis_plugin.models.validation import did_you_mean

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Example:
    """A row of a task.

    Attributes:
        task: The name under which presets have settings for it, with or without a split.
        table: The name of the table that it is from.
        row: Its number there.
        question: The bare question.
        prompt: The paper's whole prompt.
        image: The picture, RGB.
        max_new_tokens: The longest answer of the task, in tokens.
    """

    task: str
    table: str
    row: int
    question: str
    prompt: str
    image: Image.Image
    max_new_tokens: int

    def text(self, processor: ProcessorMixin, style: str) -> str:
        """Return the row as the text that the processor takes.

        Raises:
            ValueError: If the processor cannot render that style of prompt.
        """
        if style == "paper":
            return paper_text(processor, self.prompt)
        return chat_text(processor, self.messages)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The row as chat messages."""
        return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.question}]}]

    def longer_than(self, tokens: int, text: str, processor: ProcessorMixin) -> str:
        """Return a rendered prompt, with its question repeated until it is longer than a number of tokens."""
        times = tokens // max(token_count(processor, self.question), 1) + 2
        return text.replace(self.question, " ".join([self.question] * times), 1)


def token_count(processor: ProcessorMixin, text: str) -> int:
    """Return the number of a text's tokens, none of which is cut off or added."""
    return len(processor.tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"])


def first_row(task: str) -> Example:
    """Return a task's first row. Nothing is fetched.

    Args:
        task: The name of a task of this package with or without `_val` or `_test`, of a data set in VLMEvalKit, or of a
            table.

    Raises:
        DataError: If there is no such task, or its table was not made yet.
    """
    split = next((split for split in ("val", "test") if task.endswith(f"_{split}")), None)
    name, data_set = _table(task if split is None else task.removesuffix(f"_{split}"))
    if not (data_set and data_set.built_in) and cache.provenance(name) is None:
        raise DataError(
            f"the data of {task} are not here, and nothing is fetched to inspect a model. Fetch them first: adaptvis "
            f"data prepare {name}; or give another task"
        )
    rows = load_table(name)
    number = 0 if split is None else next((i for i, part in enumerate(rows["split"]) if part == split), None)
    if number is None or not len(rows):
        raise DataError(f"{task} has no rows; give another task")
    row: Mapping[str, Any] = rows[number]
    longest = data_set.max_new_tokens if data_set else DataSet.max_new_tokens
    whole = data_set.task if data_set else name
    named = whole if split is None else f"{whole}_{split}"
    return Example(named, name, number, row["question"], row["prompt"], to_rgb(row["image"]), longest)


def _table(task: str) -> tuple[str, DataSet | None]:
    """Return the name of a task's table, and its data set if it is one of this package's.

    Raises:
        DataError: If there is no such task.
    """
    sets = data_sets()
    known = {name: each for each in sets.values() for name in (each.name, each.vlmevalkit, each.task)}
    if task in known:
        return known[task].name, known[task]
    if cache.table_path(task).is_file():
        return task, None
    if members := groups().get(task):
        raise DataError(f"{task} stands for several tasks; give one: {', '.join(sets[name].task for name in members)}")
    tasks = [each.task for each in sets.values()]
    raise DataError(
        f"{task!r} is neither a task of this package ({', '.join(tasks)}; each also with _val or _test) nor a table of "
        f"your own (see adaptvis data status){did_you_mean(task, tasks)}"
    )

"""A run in one form, whichever framework made it, and the names that tell runs apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adaptvis_plugin.analysis.metrics import Scoring
from adaptvis_plugin.methods import COEFFICIENTS, METHODS, defaults, neutral_strength


class ComparisonError(ValueError):
    """Runs cannot be read or compared. The message says which, why, and what to do."""


EMPTY: Mapping[str, Any] = {
    "question": None,
    "gold": None,
    "answer": "",
    "relation": None,
    "options": None,
    "set_id": None,
    "pair_id": None,
    "image": None,
    "confidence": np.nan,
    "alpha": np.nan,
    "chances": None,
    "scores": None,
}
"""The columns of `Run.rows` and what stands in one that a source does not give.

``chances`` is the probability of each offered option at the first token; ``scores`` are the numbers that a task with
metrics of its own gave. The other columns are those of `adaptvis_plugin.data.cache` and `adaptvis_plugin.traces`.
"""


@dataclass(frozen=True)
class Run:
    """One model's answers to one task.

    Attributes:
        name: What the report calls it; different for every run of a task.
        source: The file that it was read from.
        framework: `lmms-eval`, `VLMEvalKit` or `trace`.
        task: The data set, as its lmms-eval task is called.
        numbering: The task whose rows have the numbers of these: for a part of a data set the whole. None if that
            is not known.
        scoring: How the answers are judged; None for a task with metrics of its own.
        model: The checkpoint, or the name that the framework has for the model.
        rows: One row for each answer, by the number of its question; the columns of `EMPTY`.
        method: The method by its name in `adaptvis_plugin.methods`; None for another model.
        settings: The method's hyper-parameters, as far as they are known.
        facts: What else decides the answers, as far as it is known: prompt, dtype, revision, versions.
        of: The number of rows that the task has; None if unknown.
        table: The name of the data set's table, in which pictures may be found; None if it has none.
    """

    name: str
    source: Path
    framework: str
    task: str
    scoring: Scoring | None
    model: str
    rows: pd.DataFrame
    numbering: str | None = None
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    of: int | None = None
    table: str | None = None

    @property
    def partial(self) -> str | None:
        """How much of the task was answered, if that is not all of it."""
        return f"{len(self.rows)} of {self.of} rows" if self.of and len(self.rows) < self.of else None

    @property
    def plain(self) -> bool:
        """Whether the answers are those of plain decoding, by the method or because all strengths are neutral."""
        if self.method in (None, "baseline"):
            return self.method == "baseline"
        neutral = neutral_strength(self.method)
        return neutral is not None and bool((self.rows["alpha"] == neutral).all())

    @property
    def of_coefficients(self) -> bool:
        """Whether its strengths are coefficients on the image, below 1 smoothing and above 1 sharpening."""
        return self.method in (None, *COEFFICIENTS)

    @property
    def described(self) -> str:
        """The method with its hyper-parameters: `adaptvis 0.5/1.5/0.4`."""
        return described(self.method, self.settings)


def described(method: str | None, settings: Mapping[str, Any]) -> str:
    """Return a method with its hyper-parameters, as `--setting` takes them; empty without a method.

    Those without a value are left out, those with their default unless they come first, and those of a calibration that
    are not a single value.
    """
    usual = defaults(method) if method and method in METHODS else {}
    first = next(iter(settings), None)
    telling = [value for name, value in settings.items() if name == first or value != usual.get(name)]
    single = [value for value in telling if value is not None and not isinstance(value, Mapping)]
    values = "/".join(f"{value:g}" if isinstance(value, int | float) else str(value) for value in single)
    return f"{method or ''} {values}".strip()


def frame(rows: Iterable[Mapping[str, Any]], source: Path) -> pd.DataFrame:
    """Return rows as the table of a run.

    Args:
        rows: For each answer the number of its question under `id`, and any of the columns of `EMPTY`.
        source: The file, for messages.

    Raises:
        ComparisonError: If there is none, or a question is answered twice.
    """
    records = [{**EMPTY, **row} for row in rows]
    if not records:
        raise ComparisonError(f"{source} holds no rows: the run has only begun, or failed. Look into its log")
    ids = Counter(record["id"] for record in records)
    if len(ids) < len(records):
        twice = ids.most_common(1)[0][0]
        raise ComparisonError(f"{source}: row {twice} is there {ids[twice]} times; the file was joined or edited")
    table = pd.DataFrame.from_records(records).astype({"confidence": float, "alpha": float})
    # With a missing id, pandas would make the others floats.
    table = table.astype({"set_id": object, "pair_id": object, "image": object}).set_index("id")
    return table.where(table.notna(), None).astype({"confidence": float, "alpha": float}).sort_index()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file with one JSON object per line.

    A killed run may leave a last line without its end, which is left out.

    Raises:
        ComparisonError: If the file cannot be read, or another line is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ComparisonError(f"{path} cannot be read: {error}") from error
    *whole, last = text.split("\n")
    lines = []
    for number, line in enumerate([*whole, last], 1):
        try:
            if line.strip():
                lines.append(json.loads(line))
        except ValueError as error:
            if number > len(whole):
                continue
            raise ComparisonError(f"{path}, line {number}, is not JSON ({error}); the file is damaged") from None
        if lines and not isinstance(lines[-1], dict):
            raise ComparisonError(f"{path}, line {number}, is not a JSON object, so the file is not one of a run")
    return lines


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ComparisonError: If the file cannot be read or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ComparisonError(f"{path} cannot be read: {error}. Its run was killed, or the file is damaged") from error
    if not isinstance(found, dict):
        raise ComparisonError(f"{path} does not hold a JSON object, so it is not a file of a run")
    return found


def named(runs: Sequence[Run]) -> list[Run]:
    """Give runs of the same task different names, by adding what tells them apart, least first."""
    adders = (
        lambda run: run.described.removeprefix(run.method or "").strip(),
        lambda run: run.framework,
        lambda run: Path(run.model).name,
        lambda run: str(run.facts.get("prompt", "")),
        lambda run: str(run.facts.get("date", "")),
        lambda run: str(run.source.parent),
        lambda run: run.source.name,
    )
    for add in adders:
        count = Counter((run.task, run.name) for run in runs)
        if max(count.values(), default=0) < 2:
            break
        alike: dict[tuple[str, str], set[str]] = {}
        for run in runs:
            alike.setdefault((run.task, run.name), set()).add(add(run))
        runs = [
            replace(run, name=f"{run.name} {add(run)}".strip())
            if count[run.task, run.name] > 1 and len(alike[run.task, run.name]) > 1
            else run
            for run in runs
        ]
    return list(runs)

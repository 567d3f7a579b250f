"""Scores of runs as the frameworks computed them, and what went wrong with the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Score:
    """A model's headline score on one task.

    Attributes:
        model: The checkpoint.
        name: The model's name in the framework.
        method: The method; None for another model.
        settings: Its hyper-parameters for this task, as far as they are known.
        given: The arguments that were given, which tell rows of a board apart.
        framework: Who computed it.
        task: The task, by its name in lmms-eval.
        metric: The metric's name in the framework.
        value: The score.
        percent: Whether it is known to be in percent; a score of lmms-eval may be a share.
        date: When it was computed.
        source: The file.
    """

    model: str
    name: str
    method: str | None
    settings: str
    given: str
    framework: str
    task: str
    metric: str
    value: float
    percent: bool
    date: str
    source: Path


@dataclass(frozen=True)
class Failure:
    """A run that is not in the board.

    Attributes:
        what: The model and the task, or the folder.
        reason: Why it is not.
        source: The file or folder.
    """

    what: str
    reason: str
    source: Path

"""What a model answered, row by row, beside VLMEvalKit's own files. Imports nothing of VLMEvalKit.

`<model>_<data>_trace.jsonl` has one line per row: index, prediction, confidence, alpha and token counts. It is
written as the answers come, so that a killed run goes on after its last answer. `<model>_<data>_settings.json` says
what they were made with.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from adaptvis_plugin.models.identity import checkpoint_identity, code_identity
from adaptvis_plugin.vlmevalkit.arguments import Arguments

Row = Mapping[str, Any]


def made_with(arguments: Arguments, dataset: str) -> dict[str, Any]:
    """All that decides the answers of a model on a data set, but for the data.

    Raises:
        ValueError: see `Arguments.settings`.
    """
    identity = {"checkpoint": checkpoint_identity(arguments.setup.pretrained), "code": code_identity()}
    return {**arguments.settings(dataset), **identity}


class Trace:
    """The answers of one model on one data set.

    Args:
        work_dir: where VLMEvalKit writes the predictions. Some versions make a folder for each run in the model's
            own; the trace is always in the model's, where the next run looks for it.
        model: the model's name.
        dataset: the data set's name.
    """

    def __init__(self, work_dir: Path, model: str, dataset: str) -> None:
        self.name = f"{model} on {dataset}"
        self._predictions = [work_dir / f"{model}_{dataset}.{kind}" for kind in ("xlsx", "tsv", "json")]
        folder = work_dir if work_dir.name == model else work_dir.parent
        self._rows = folder / f"{model}_{dataset}_trace.jsonl"
        self._settings = folder / f"{model}_{dataset}_settings.json"
        self._lock = folder / f".{model}_{dataset}_trace.lock"

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse answers that were made with other settings, or nobody knows which.

        Raises:
            ValueError: if there are such answers.
        """
        there = [path for path in (self._settings, self._rows, *self._predictions) if path.exists()]
        if not there:
            return
        way_out = (
            f"Use another --work-dir, give the model a name of its own in a --config file, or delete "
            f"{', '.join(map(str, there))}"
        )
        if not self._settings.exists():
            raise ValueError(f"{self.name}: there are answers of unknown settings. {way_out}")
        before = json.loads(self._settings.read_text(encoding="utf-8"))
        other = [name for name, value in settings.items() if before.get(name) != value]
        if other:
            raise ValueError(
                f"{self.name}: the answers there are were made with {_listed(before, other)}; this run asks for "
                f"{_listed(settings, other)}. {way_out}"
            )

    def begin(self, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Write down the settings and return the rows that are answered already, by index.

        Raises:
            ValueError: see `check`.
        """
        self._rows.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock):
            self.check(settings)
            part = self._settings.with_suffix(".part")
            part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            os.replace(part, self._settings)
            if not self._rows.exists():
                return {}
            whole, _, torn = self._rows.read_bytes().rpartition(b"\n")
            if torn:  # the line that a killed run did not finish
                os.truncate(self._rows, len(whole) + bool(whole))
            rows = [json.loads(line) for line in whole.decode().splitlines()]
        return {str(row["index"]): row for row in rows}

    def add(self, rows: Iterable[Row]) -> None:
        """Append answers."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with FileLock(self._lock), self._rows.open("a", encoding="utf-8") as file:
            file.write(lines)


def _listed(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return ", ".join(f"{name}={values.get(name)}" for name in names)

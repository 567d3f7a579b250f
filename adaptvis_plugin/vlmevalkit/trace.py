"""A model's answers, row by row, next to VLMEvalKit's own files. Imports nothing of VLMEvalKit.

`<model>_<data>_trace.jsonl` has one line per row: index, prediction, confidence, alpha and token counts. It is
written as the answers come, so a killed run resumes after its last answer. `<model>_<data>_settings.json` holds the
settings of these answers.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from adaptvis_plugin.methods import hyper_parameters
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.identity import checkpoint_identity, code_identity
from adaptvis_plugin.vlmevalkit.arguments import longest_answer, preset_task

TRACE, SETTINGS = "_trace.jsonl", "_settings.json"
"""How the names of both files end."""

TraceLine = Mapping[str, Any]


def made_with(arguments: ModelArguments, dataset: str) -> dict[str, Any]:
    """Return everything that decides a model's answers on a data set, except the data.

    Raises:
        ValueError: If a hyper-parameter has no value for it, or a wrong one.
    """
    return {
        "method": arguments.method,
        # With those that have no value: of these too a later run may ask for another.
        **dict.fromkeys(hyper_parameters(arguments.method)),
        **arguments.choose(preset_task(dataset)).settings,
        "pretrained": arguments.pretrained,
        "revision": arguments.revision,
        "prompt": arguments.prompt,
        "dtype": arguments.dtype,
        "max_new_tokens": longest_answer(arguments, dataset),
        "checkpoint": checkpoint_identity(arguments.pretrained),
        "code": code_identity(),
    }


class Trace:
    """The answers of one model on one data set.

    Args:
        work_dir: Where VLMEvalKit writes the predictions. In some versions that is a folder of the run, inside the
            model's; the trace is always in the model's, where the next run finds it.
        model: The model's name.
        dataset: The data set's name.
    """

    def __init__(self, work_dir: Path, model: str, dataset: str) -> None:
        self.name = f"{model} on {dataset}"
        self._predictions = [work_dir / f"{model}_{dataset}.{kind}" for kind in ("xlsx", "tsv", "json")]
        folder = work_dir if work_dir.name == model else work_dir.parent
        self._rows = folder / f"{model}_{dataset}{TRACE}"
        self._settings = folder / f"{model}_{dataset}{SETTINGS}"
        self._lock = folder / f".{model}_{dataset}_trace.lock"

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse to go on if there are answers with other settings, or with unknown ones.

        Raises:
            ValueError: If there are such answers.
        """
        there = [path for path in (self._settings, self._rows, *self._predictions) if path.exists()]
        if not there:
            return
        way_out = (
            f"Use another --work-dir, give the model a name of its own in a --config file, or delete "
            f"{', '.join(map(str, there))}"
        )
        if not self._settings.exists():
            raise ValueError(f"{self.name}: there are answers, but the file with their settings is missing. {way_out}")
        before = json.loads(self._settings.read_text(encoding="utf-8"))
        other = [name for name, value in settings.items() if before.get(name) != value]
        if other:
            raise ValueError(
                f"{self.name}: the existing answers were made with {_listed(before, other)}; this run asks for "
                f"{_listed(settings, other)}. {way_out}"
            )

    def begin(self, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Write the settings and return the rows that are answered already, by index.

        Raises:
            ValueError: See `check`.
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
            if torn:  # a line that a killed run did not finish
                os.truncate(self._rows, len(whole) + bool(whole))
            rows = [json.loads(line) for line in whole.decode().splitlines()]
        return {str(row["index"]): row for row in rows}

    def add(self, rows: Iterable[TraceLine]) -> None:
        """Append answers."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with FileLock(self._lock), self._rows.open("a", encoding="utf-8") as file:
            file.write(lines)


def _listed(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return ", ".join(f"{name}={values.get(name)}" for name in names)

"""The report: a folder with benchmarks.json, benchmarks.md and the pictures, which grows part by part."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Settings

Figures = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of the report.

    Attributes:
        title: Its heading.
        measure: Measures its figures.
        markdown: Writes the figures in words.
        draw: Draws the figures as a picture in the folder.
    """

    title: str
    measure: Callable[[Settings], Figures]
    markdown: Callable[[Figures], str]
    draw: Callable[[Figures, Path], None] | None = None


@dataclass(frozen=True)
class Report:
    """The figures in a folder, all from one machine and with the same settings.

    Attributes:
        folder: The folder.
        parts: All parts by name, in the order of the report.
        conditions: What all figures have in common: machine and settings.
        figures: The figures by part.
    """

    folder: Path
    parts: Mapping[str, Part]
    conditions: dict[str, Any]
    figures: dict[str, Figures]

    @classmethod
    def open(cls, folder: Path, parts: Mapping[str, Part], machine: str, settings: Settings) -> "Report":
        """Open the report in a folder, or begin one.

        Raises:
            ValueError: If the folder holds figures from another machine or with other settings.
        """
        conditions = {"machine": machine, "settings": dataclasses.asdict(settings)}
        path = folder / "benchmarks.json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        figures = {name: stored[name] for name in parts if name in stored}
        if stored and {name: stored.get(name) for name in conditions} != conditions:
            raise ValueError(
                f"{folder} holds figures from another machine or with other settings ({stored.get('machine')}; "
                f"{stored.get('settings')}), which cannot be compared with new ones; give another folder"
            )
        return cls(folder, parts, conditions, figures)

    def add(self, name: str, figures: Figures) -> None:
        """Add or replace a part, and write everything."""
        self.figures[name] = figures
        self.folder.mkdir(parents=True, exist_ok=True)
        draw = self.parts[name].draw
        if draw is not None:
            draw(figures, self.folder)
        self._write("benchmarks.json", json.dumps({**self.conditions, **self.figures}, indent=2) + "\n")
        self._write("benchmarks.md", self.markdown())

    def markdown(self) -> str:
        """Return the report in words."""
        lines = [
            "# What steering costs",
            "",
            f"Measured by `python -m benchmarks` on: {self.conditions['machine']}.",
            "",
        ]
        for name, part in self.parts.items():
            if name in self.figures:
                lines += [f"## {part.title}", "", part.markdown(self.figures[name])]
        return "\n".join(lines)

    def _write(self, name: str, text: str) -> None:
        """Write a file as a whole, so that no kill leaves half of it."""
        unfinished = self.folder / f"{name}.unfinished"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, self.folder / name)

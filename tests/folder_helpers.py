"""A user's own folder in the data tests, and the command that reads it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adaptvis_plugin import cli
from tests.data_helpers import jpeg, sources, write

NOWHERE = "http://127.0.0.1:9/"
TRUE, FALSE = "A mug to the left of a plate", "A mug to the right of a plate"
ROOMS = [{"image_path": f"{number}.jpg", "caption_options": [TRUE, FALSE]} for number in range(3)]

run = partial(CliRunner().invoke, cli.app)


def without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTVIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ADAPTVIS_SOURCES", str(sources(tmp_path, NOWHERE)))
    monkeypatch.setenv("COLUMNS", "200")


def make_rooms(folder: Path) -> Path:
    """Make a user's own folder with three pictures."""
    write(folder / "rooms.json", json.dumps(ROOMS).encode())
    for number in range(3):
        write(folder / f"{number}.jpg", jpeg(number))
    return folder


def add_questions(folder: Path) -> None:
    text = "<image>\nUSER: Mug or plate? Answer with left or right.\nASSISTANT:"
    lines = [json.dumps({"id": number, "question": text, "answer": ["Left"]}) for number in range(3)]
    write(folder / "rooms_questions.jsonl", "\n".join(lines).encode())


def shown(result: Any) -> str:
    """Return a command's output, which may be an error message but not a traceback."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return " ".join(result.output.split())

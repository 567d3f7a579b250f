"""The benchmarks write each part as it ends, show progress, and measure only the parts that are asked for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import PARTS, app
from benchmarks.report import Part

SMALLEST = ["--shape", "tiny", "--rounds", "1", "--batch-size", "16", "--tokens", "1"]


def figures(folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((folder / "benchmarks.json").read_text())
    return stored


def test_a_part_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    """The command is killed as soon as the second part shows that it has started."""
    command = [sys.executable, "-m", "benchmarks", "growth", "sharing", *SMALLEST, "--output", str(tmp_path)]
    said = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"growth" not in said and (piece := process.stderr.read(1)):
            said += piece
        process.kill()
        shown = process.stdout.read() if process.stdout else b""
    assert b"sharing: 100%" in said
    assert shown == b"", "before the end only progress is shown, and on standard error"
    assert 0 < figures(tmp_path)["sharing"]["share of prefixes reused"] < 1
    assert "## Questions that share pictures" in (tmp_path / "benchmarks.md").read_text()
    assert "growth" not in figures(tmp_path)


@pytest.fixture
def quick_parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts that measure nothing; the names of those that were asked for."""
    measured: list[str] = []

    def quick(name: str) -> Part:
        def measure(settings: Any) -> dict[str, Any]:
            measured.append(name)
            return {"times measured": measured.count(name)}

        return Part(PARTS[name].title, measure, lambda report: f"Measured {report['times measured']} times.\n")

    for name in list(PARTS):
        monkeypatch.setitem(PARTS, name, quick(name))
    return measured


def test_all_parts_are_measured_by_default(quick_parts: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--output", str(tmp_path)])
    assert done.exit_code == 0 and quick_parts == ["decoding", "sharing", "growth", "end-to-end"]
    assert done.stdout == (tmp_path / "benchmarks.md").read_text()


def test_a_single_part_updates_its_section_and_keeps_the_others(quick_parts: list[str], tmp_path: Path) -> None:
    for parts in (["growth", "sharing"], ["growth"]):
        done = CliRunner().invoke(app, [*parts, "--output", str(tmp_path)])
        assert done.exit_code == 0
    assert figures(tmp_path)["sharing"] == {"times measured": 1}
    assert figures(tmp_path)["growth"] == {"times measured": 2}
    sections = (tmp_path / "benchmarks.md").read_text().split("## ")[1:]
    assert sections == [
        "Questions that share pictures\n\nMeasured 1 times.\n\n",
        "Longer prompts, larger batches\n\nMeasured 2 times.\n",
    ]


def test_other_settings_do_not_mix_with_the_figures_in_a_folder(quick_parts: list[str], tmp_path: Path) -> None:
    CliRunner().invoke(app, ["sharing", "--output", str(tmp_path)])
    before = figures(tmp_path)
    done = CliRunner().invoke(app, ["growth", "--rounds", "7", "--output", str(tmp_path)], env={"COLUMNS": "500"})
    assert done.exit_code == 2 and quick_parts == ["sharing"]
    assert "holds figures from another machine or with other settings" in done.stderr
    assert figures(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speed"], "'speed' is not one of decoding, sharing, growth, end-to-end"),
        (["--shape", "huge"], "'huge' is not one of tiny, scaled, 7b"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_exist(
    arguments: list[str], words: str, quick_parts: list[str], tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "new")], env={"COLUMNS": "200"})
    assert done.exit_code == 2 and words in done.stderr
    assert quick_parts == [] and not (tmp_path / "new").exists()

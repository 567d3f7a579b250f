"""The tables of `adaptvis sweep`, `compare` and `leaderboard` in terminals of different width."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adaptvis_plugin.cli.sweep import _table
from adaptvis_plugin.cli.tables import Fitted
from adaptvis_plugin.traces.summary import Summary
from tests.framework_runs import adaptvis
from tests.trace_files import write_sweep

HEAD = ["run", "accuracy", "wrong → right", "p", "whatsup_demo_test"]
ROWS = [
    ["adaptvis 0.5/1.5/0.4 (llava-1.5-7b)", "+78.75 [74.2, 83.1]", "4", "< 0.001", "1.00"],
    ["baseline", "82.19", "18", "0.043", "-"],
]


def printed(table: Fitted, width: int) -> str:
    sink = io.StringIO()
    Console(file=sink, width=width).print(table)
    assert all(len(line) <= width for line in sink.getvalue().splitlines())
    return sink.getvalue()


def test_where_there_is_room_a_row_is_a_line() -> None:
    text = printed(Fitted(HEAD, ROWS, range(1), "Title [red]", "Note."), 140)
    assert re.search(r"^adaptvis 0.5/1.5/0.4 \(llava-1.5-7b\) +\+78.75 \[74.2, 83.1\] +4 +< 0.001 +1.00", text, re.M)
    assert text.startswith("Title [red]\n") and "Note." in text and "Left out" not in text


def test_intervals_take_a_line_of_their_own_before_columns_are_left_out() -> None:
    text = printed(Fitted(HEAD, ROWS, range(1)), 60)
    assert re.search(r"\+78.75 +4 +< 0.001 +1.00\n.*\[74.2, 83.1\]", text) and "Left out" not in text
    assert "whatsup_" in text and "demo_" in text, "a head is broken where its words end"


def test_columns_without_room_are_named() -> None:
    text = printed(Fitted(HEAD, ROWS, range(1), elsewhere="; see the files"), 46)
    assert "Left out, since the terminal is too narrow" in text and "whatsup_demo_test; see the files" in " ".join(
        text.split()
    )
    assert "[74.2, 83.1]" in text


def right_or_left(doc: Mapping[str, Any], alpha: float) -> str:
    return str(doc["answer"]) if alpha < 1 else "Left"


@pytest.mark.parametrize("width", [80, 100, 140])
def test_compare_breaks_no_number(width: int, tmp_path: Path) -> None:
    trace = write_sweep(tmp_path / "t.jsonl", right_or_left)
    preset = tmp_path / "a-long-name.yaml"
    preset.write_text("description: x\nsettings: {whatsup_demo: {scalingvis: {alpha: 1.5}}}\n")
    settings = ("--setting", "adaptvis:0.5/1.5/0.4", "--setting", "scalingvis:0.5", "--preset", preset)
    done = adaptvis("compare", trace, *settings, columns=width)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= width
    brackets = [part for line in lines for part in re.findall(r"[+-]?[\d.]+, ?[-\d.]*\]?", line)]
    assert brackets and all(re.fullmatch(r"[+-]?\d+\.\d, -?\d+\.\d\]", part) for part in brackets)
    assert "Accuracy, strict rule: the same as accuracy in every run." in " ".join(done.stdout.split())


def test_a_sweep_is_summed_up_in_80_columns(tmp_path: Path) -> None:
    names = ("whatsup_controlled_a_val", "t")
    found = [Summary.of(write_sweep(tmp_path / f"{name}.jsonl", right_or_left, task=name)) for name in names]
    text = printed(_table(found), 80)
    assert re.search(r"^whatsup_controlled_a_val +- +40 of 400 +- +- +-$", text, re.M)

"""``adaptvis compare``: runs side by side, with intervals and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from adaptvis_plugin.cli.errors import printable, reported, tell
from adaptvis_plugin.cli.files import write_json

app = typer.Typer()


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Output folders of lmms-eval (with --log_samples), work dirs of VLMEvalKit, traces, or single files "
            "of them.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the report: one HTML page, Markdown, CSV, PNG and SVG."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The name of the run to compare with; by default an unsteered run.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="Read traces of sweeps under this setting, as adaptvis:0.5/1.5/0.4, in place of each coefficient; "
            "layers or heads may follow, as scalingvis:0.8/14-18. May be repeated."
        ),
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(help="The same with the settings of a preset, by its name or file; may be repeated."),
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Compare runs over different rows on the rows that all have.")
    ] = False,
    images: Annotated[int, typer.Option(min=0, help="The most pictures in the page; flipped rows come first.")] = 200,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything that was found as JSON.")] = None,
) -> None:
    """Compare runs of lmms-eval and VLMEvalKit, and traces: figures with intervals, tests, flipped rows.

    Runs are compared task by task. Runs over different rows or questions are refused; other differences are noted.
    """
    from adaptvis_plugin.cli.tables import Fitted
    from adaptvis_plugin.comparison.checks import sections, shared_data
    from adaptvis_plugin.comparison.compute import report
    from adaptvis_plugin.comparison.files import as_json, write
    from adaptvis_plugin.comparison.reading import read_runs
    from adaptvis_plugin.comparison.runs import ComparisonError
    from adaptvis_plugin.comparison.sources.traced import Setting
    from adaptvis_plugin.comparison.tables import OPEN, grids
    from adaptvis_plugin.traces import TraceError

    console = Console(emoji=False)
    with reported(ComparisonError, TraceError, OSError):
        read, notes = read_runs(runs, [Setting.parse(text) for text in setting or ()], preset or ())
        compared = sections(read, baseline, common)
        notes += shared_data(compared)
        found = report(compared)
        for note in notes:
            tell("note", note)
        for part in found:
            console.rule(escape(printable(part.section.task)))
            for note in part.section.notes:
                tell("note", note)
            for grid in grids(part):
                if grid.name in OPEN:
                    texts = range(grid.texts)
                    console.print(
                        Fitted(grid.head, grid.rows, texts, grid.title, grid.note, "; the report (-o) has it")
                    )
        if json_file:
            write_json(as_json(found, notes), json_file)
        if output:
            files = write(found, notes, output, images)
            typer.echo(f"The report: {files[0]}")

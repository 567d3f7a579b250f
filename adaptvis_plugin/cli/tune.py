"""``adaptvis tune``: settings from the trace of a sweep, and an honest estimate of what they bring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from adaptvis_plugin.cli.errors import console, reported
from adaptvis_plugin.cli.files import write_json

app = typer.Typer()

_HELP = (
    "Choose the settings of ScalingVis and AdaptVis, or the strength of another method, by the trace of a sweep and "
    "without the model, and estimate what they bring.\n\n"
    "Every pair of recorded coefficients and every threshold is tried; of another method that was swept, every "
    "recorded strength. The best figure on the rows that it was chosen by is optimistic, so beside it stands one from "
    "rows that the choice did not see. If that does not beat the plain model (its interval of the difference reaches "
    "0), the preset keeps the plain model.\n\n"
    "Controls are fitted to the same rows: corrections of the model's label bias that need no steering."
)


@app.command(help=escape(_HELP))
def tune(
    traces: Annotated[
        list[Path],
        typer.Argument(help="Files that `adaptvis sweep -o` wrote, or folders of them.", metavar="TRACE..."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The preset to write, NAME.yaml; for preset=NAME.yaml.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="The metric to choose by: individual_acc, strict_acc, pair_acc or set_acc; for VSR accuracy, "
            "standard_f1, authors_f1 and others; for other tasks one of their own. The highest is best. "
            "By default the task's accuracy, or the first metric."
        ),
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="One setting for all traces, by the mean of their metrics.")
    ] = False,
    folds: Annotated[int, typer.Option(min=2, help="Into how many parts the rows are divided for the estimate.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="How often they are divided anew.")] = 5,
    json: Annotated[Path | None, typer.Option("--json", help="Write what was found as JSON.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write tables (Markdown, CSV) and plots (PNG, SVG) to this folder.")
    ] = None,
) -> None:
    """Tune on traces; see `_HELP`."""
    from adaptvis_plugin.traces import TraceError, read_traces
    from adaptvis_plugin.tuning import TuneError

    with reported(TraceError, TuneError, OSError):
        _check_places(output, json, report)
        from adaptvis_plugin.tuning.preset import write_preset
        from adaptvis_plugin.tuning.report import as_json, table, write_report
        from adaptvis_plugin.tuning.sentences import sentences
        from adaptvis_plugin.tuning.tune import judge_traces, study_all

        together = judge_traces(read_traces(traces), objective, shared, folds)
        with Progress(console=console, transient=True) as bars:
            running = bars.add_task("cross-validation", total=len(together) * folds * repeats)
            studies = study_all(together, folds, repeats, lambda: bars.advance(running))
        out = Console()
        for study in studies:
            out.print(table(study, out.width))
            for sentence in sentences(study):
                out.print(f"- {escape(sentence)}", highlight=False)
            out.print()
        if output:
            write_preset(studies, output)
            typer.echo(f"Preset: {output}; give it to a model as preset={output}")
        if json:
            write_json(as_json(studies), json)
            typer.echo(f"JSON: {json}")
        if report:
            write_report(studies, report)
            typer.echo(f"Tables and plots: {report}")


def _check_places(output: Path | None, json: Path | None, report: Path | None) -> None:
    """Check where to write, before any work.

    Raises:
        TuneError: If a place cannot be written to.
    """
    from adaptvis_plugin.tuning import TuneError

    if output and output.suffix not in (".yaml", ".yml"):
        raise TuneError(f"-o {output}: a preset is found by the ending of its file; give NAME.yaml")
    for option, path in (("-o", output), ("--json", json)):
        if path and path.is_dir():
            raise TuneError(f"{option} {path} is a folder; give a file")
    if report and report.exists() and not report.is_dir():
        raise TuneError(f"--report {report} is a file; give a folder")

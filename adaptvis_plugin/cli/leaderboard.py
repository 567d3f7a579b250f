"""``adaptvis leaderboard``: one table over models and methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adaptvis_plugin.cli.errors import printable, reported
from adaptvis_plugin.cli.files import write_json

app = typer.Typer()


@app.command()
def leaderboard(
    runs_dir: Annotated[
        Path, typer.Argument(help="A folder with any number of runs of lmms-eval and VLMEvalKit, at any depth.")
    ],
    tasks: Annotated[str, typer.Option(help="The columns, as TASK,TASK; by default every task of any run.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for leaderboard.md and leaderboard.csv.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything that was found as JSON.")] = None,
) -> None:
    """Put the scores of many runs into one table, in percent: a row for each model and method, a column for each task.

    Failed and partial runs are listed below it, with the reason. The scores are the frameworks' own; `adaptvis compare`
    computes them anew, with intervals and tests.
    """
    from adaptvis_plugin.cli.tables import Fitted
    from adaptvis_plugin.comparison.board import read_board
    from adaptvis_plugin.comparison.files import write_csv
    from adaptvis_plugin.comparison.runs import ComparisonError

    with reported(ComparisonError, OSError):
        board = read_board(runs_dir, [task.strip() for task in tasks.split(",") if task.strip()])
        fitted = Fitted(
            board.head(), board.text_rows(), range(1, 5), note=board.note(), elsewhere="; -o writes them all"
        )
        Console(emoji=False).print(fitted)
        for line in board.left_out():
            typer.echo(printable(f"not in the table: {line}"))
        if output:
            output.mkdir(parents=True, exist_ok=True)
            (output / "leaderboard.md").write_text(board.markdown(), encoding="utf-8")
            write_csv(board.frame(), output / "leaderboard.csv")
            typer.echo(f"The table: {output / 'leaderboard.md'} and {output / 'leaderboard.csv'}")
        if json_file:
            write_json(board.as_json(), json_file)

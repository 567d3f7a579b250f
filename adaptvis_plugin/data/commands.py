"""``adaptvis data``: the data sets, ahead of time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import Progress, TaskID
from rich.table import Table

from adaptvis_plugin.data import tables
from adaptvis_plugin.data.cache import DataError, cache_dir
from adaptvis_plugin.data.fetch import progress

app = typer.Typer(no_args_is_help=True, help="Fetch, verify and list the data sets.")
_console = Console(stderr=True)


@app.command()
def prepare(
    names: Annotated[
        list[str], typer.Argument(help=f"{', '.join((*tables.TABLES, *tables.GROUPS))}, or a name of your own.")
    ],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Read this folder (official layout, or your own) instead of the network."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make the tables again even if they are there.")] = False,
) -> None:
    """Fetch and verify data sets; what was broken off goes on where it stopped.

    The layout of a folder: the authors' JSON files with their image folders or archives, or the Hub's parquet
    files; for VSR test.jsonl and the images. A folder of your own has NAME.json, a list of
    {"image_path": ..., "caption_options": [true, false, ...]} or of [id, true caption, false caption], its
    pictures, and if you like NAME_questions.jsonl.
    """
    logging.basicConfig(handlers=[RichHandler(console=_console, show_path=False)], format="%(message)s")
    logging.getLogger("adaptvis_plugin").setLevel(logging.INFO)
    with Progress(console=_console) as bars:
        running: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int | None) -> None:
            if what not in running:
                running[what] = bars.add_task(what)
            bars.update(running[what], completed=done, total=total)

        token = progress.set(tell)
        try:
            made = tables.prepare(names, source, force=force)
        except DataError as error:
            bars.stop()
            _console.print(f"[red]error:[/red] {error}", highlight=False)
            raise typer.Exit(1) from error
        finally:
            progress.reset(token)
    for origin in made:
        typer.echo(f"{origin.name}: {origin.rows} rows from {origin.source}")


@app.command()
def status() -> None:
    """List what is there, how many rows, from which source, verified or not."""
    table = Table(title=f"Data sets in {cache_dir()}")
    for heading in ("name", "rows", "source", "verified"):
        table.add_column(heading, overflow="fold")
    for name, origin in tables.status().items():
        if origin is None:
            table.add_row(name, "-", "not prepared", "")
        else:
            table.add_row(name, str(origin.rows), origin.source, "yes" if origin.verified else "no")
    Console().print(table)

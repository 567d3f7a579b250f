"""``adaptvis data``: the data sets, ahead of time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from adaptvis_plugin.cli.errors import console, reported
from adaptvis_plugin.data import tables
from adaptvis_plugin.data.cache import DataError, Provenance, cache_dir
from adaptvis_plugin.data.fetch import progress
from adaptvis_plugin.data.registry import data_sets, groups

app = typer.Typer(name="data", no_args_is_help=True, help="Fetch, verify and list the data sets.")

_PREPARE = (
    "Fetch and verify data sets. An interrupted download resumes with the next call.\n\n"
    "A folder given by --from holds the official files: the authors' JSON files with their image folders or archives, "
    "or the Hub's parquet files; for VSR, test.jsonl and the images. A folder of your own holds NAME.json, a list of "
    '{"image_path": ..., "caption_options": [true, false, ...]} or of [id, true caption, false caption]; the pictures; '
    "and optionally NAME_questions.jsonl.\n\n"
    "An existing table is kept, except with --force, or if --from names another folder than the table was made from, "
    "or that folder has changed."
)


# rich prints the help and would read the text in brackets as markup.
@app.command(help=escape(_PREPARE))
def prepare(
    names: Annotated[list[str], typer.Argument(help=f"{', '.join((*data_sets(), *groups()))}, or a name of your own.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Read this folder (official layout or your own) instead of the network."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make the tables again even if they are there.")] = False,
) -> None:
    """Fetch and verify data sets, with a progress bar."""
    with reported(DataError), _log_shown(), Progress(console=console) as bars:
        running: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int | None) -> None:
            if what not in running:
                running[what] = bars.add_task(escape(what))
            bars.update(running[what], completed=done, total=total)

        token = progress.set(tell)
        try:
            made = tables.prepare(names, source, force=force)
        finally:
            progress.reset(token)
    for origin in made:
        typer.echo(f"{origin.name}: {origin.rows} rows from {origin.source}")


@app.command()
def status() -> None:
    """List the tables: how many rows each has, from which source, and what was verified."""
    table = Table(title=escape(f"Data sets in {cache_dir()}"))
    for heading in ("name", "rows", "source", "verified"):
        table.add_column(heading, overflow="fold")
    with reported(DataError):
        for name, origin in tables.status().items():
            table.add_row(*map(escape, (name, *_described(origin))))
    Console().print(table)


def _described(origin: Provenance | DataError | None) -> tuple[str, str, str]:
    if origin is None:
        return "-", "not prepared", ""
    if isinstance(origin, DataError):
        return "?", str(origin), ""
    change = tables.changed(origin)
    source = f"{origin.source} ({change}; the old table is kept)" if change else origin.source
    return str(origin.rows), source, ", ".join(origin.verified) or "nothing"


@contextmanager
def _log_shown() -> Iterator[None]:
    log, handler = logging.getLogger("adaptvis_plugin"), RichHandler(console=console, show_path=False)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)

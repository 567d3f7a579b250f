"""The ``adaptvis`` command: one module for each subcommand."""

import typer

from adaptvis_plugin.cli import data
from adaptvis_plugin.cli.demo import demo, tasks
from adaptvis_plugin.cli.vlmeval import PASS_ON, VlmevalCommand, vlmeval

app = typer.Typer(no_args_is_help=True, help="Attention steering for vision-language models, and its benchmarks.")
app.command()(demo)
app.command()(tasks)
app.command(cls=VlmevalCommand, context_settings=PASS_ON)(vlmeval)
app.add_typer(data.app, name="data")


@app.callback()
def main() -> None:
    """Attention steering for vision-language models, and its benchmarks."""

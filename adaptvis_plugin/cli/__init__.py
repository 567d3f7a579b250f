"""The ``adaptvis`` command. A subcommand is a module of this folder with an ``app``, and its name in `COMMANDS`."""

import typer

from adaptvis_plugin.cli import data, demo, tasks, vlmeval

COMMANDS = (demo, tasks, data, vlmeval)
"""The modules, in the order of the help."""

app = typer.Typer(no_args_is_help=True)
for command in COMMANDS:
    app.add_typer(command.app)


@app.callback()
def main() -> None:
    """Attention steering for vision-language models, and its benchmarks."""

"""The ``adaptvis`` command. A subcommand is a module of this folder with an ``app``, and its name in `COMMANDS`."""

from importlib import import_module

import typer

COMMANDS = ("demo", "inspect", "sweep", "tune", "compare", "leaderboard", "attention", "tasks", "data", "vlmeval")
"""The modules, in the order of the help."""

app = typer.Typer(no_args_is_help=True)
for _name in COMMANDS:
    app.add_typer(import_module(f"adaptvis_plugin.cli.{_name}").app)


@app.callback()
def main() -> None:
    """Attention steering for vision-language models, and its benchmarks."""

"""The ``adaptvis`` command."""

import typer

from adaptvis_plugin.data import commands as data
from adaptvis_plugin.lmms_eval.commands import demo, tasks
from adaptvis_plugin.vlmevalkit import commands as vlmevalkit

app = typer.Typer(no_args_is_help=True, help="Attention steering for vision-language models, and its benchmarks.")
app.command()(demo)
app.command()(tasks)
app.command(context_settings=vlmevalkit.PASS_ON)(vlmevalkit.vlmeval)
app.add_typer(data.app, name="data")


@app.callback()
def main() -> None:
    """Attention steering for vision-language models, and its benchmarks."""


if __name__ == "__main__":
    app()

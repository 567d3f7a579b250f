"""``adaptvis vlmeval``: VLMEvalKit's own runner, with this plugin's models and data sets."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from adaptvis_plugin.cli.errors import reported, tell
from adaptvis_plugin.data import DataError
from adaptvis_plugin.methods import METHODS
from adaptvis_plugin.models.arguments import argument_help
from adaptvis_plugin.vlmevalkit import FrameworkError, register

app = typer.Typer()

MODEL_ARGS = "Arguments of this plugin's models, as NAME=VALUE,NAME=VALUE:"


class VlmevalCommand(TyperCommand):
    """The command with the models' arguments in its help; importing the methods for it takes seconds."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        for option in self.params:
            if isinstance(option, TyperOption) and option.name == "model_args":
                option.help = "\n\n".join([MODEL_ARGS, *argument_help(*METHODS).splitlines()])
        super().format_help(ctx, formatter)


# The options that this command does not know are the runner's.
@app.command(cls=VlmevalCommand, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def vlmeval(
    context: typer.Context,
    model_args: Annotated[
        str,
        typer.Option(help=MODEL_ARGS),
    ] = "",
) -> None:
    """Run VLMEvalKit's own runner with this plugin's models and data sets beside its own.

    All other options are the runner's; `adaptvis vlmeval -- --help` lists them. For example:

    adaptvis vlmeval --data WhatsUp_Demo --model demo_adaptvis demo_baseline --work-dir out

    The exit status is 0 only if every model was scored on every data set.
    """
    from adaptvis_plugin.vlmevalkit.arguments import parse_model_args

    with reported(ValueError, OSError, DataError, FrameworkError, status=2):
        given = parse_model_args(model_args) if model_args else {}
        framework = register()
        typer.echo(f"{framework}", err=True)
        from adaptvis_plugin.vlmevalkit.launch import launch

        problems = launch(framework, context.args, given)
    for problem in problems:
        tell("failed", problem)
    if problems:
        raise typer.Exit(1)

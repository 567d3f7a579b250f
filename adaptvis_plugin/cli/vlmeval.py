"""`adaptvis vlmeval`: VLMEvalKit's own runner, with this plugin's models and data sets."""

from typing import Annotated

import typer

from adaptvis_plugin.data import DataError
from adaptvis_plugin.vlmevalkit.registration import FrameworkError, register

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of the command: what it does not know is the runner's."""


def vlmeval(
    context: typer.Context,
    model_args: Annotated[
        str,
        typer.Option(
            help="Arguments of this plugin's models, as NAME=VALUE,NAME=VALUE: pretrained, preset, prompt, alpha, "
            "alpha_low, alpha_high, threshold, max_new_tokens, batch_size, dtype, device, device_map, "
            "attn_implementation, revision, trust_remote_code."
        ),
    ] = "",
) -> None:
    """Run VLMEvalKit's own runner with this plugin's models and data sets beside its own.

    Every other option is the runner's (`adaptvis vlmeval -- --help` lists them), for example: adaptvis vlmeval --data
    WhatsUp_Demo --model demo_adaptvis demo_baseline --work-dir out

    The exit status is 0 only if every model was scored on every data set.
    """
    from adaptvis_plugin.vlmevalkit.arguments import parse_model_args

    try:
        given = parse_model_args(model_args) if model_args else {}
        framework = register()
        typer.echo(f"{framework}", err=True)
        from adaptvis_plugin.vlmevalkit.launch import launch

        problems = launch(framework, context.args, given)
    except (ValueError, OSError, DataError, FrameworkError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    for problem in problems:
        typer.echo(f"failed: {problem}", err=True)
    if problems:
        raise typer.Exit(1)

"""``adaptvis sweep``: every row of a task answered under several strengths of a method."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adaptvis_plugin.cli.errors import reported
from adaptvis_plugin.cli.files import write_json
from adaptvis_plugin.cli.tables import Fitted
from adaptvis_plugin.traces.summary import Summary

app = typer.Typer()

SCALINGVIS = "scalingvis"
"""The method that is swept if none is named."""

ALPHAS = "0.5,0.8,1.2,1.5,2.0"
"""The authors' coefficients of ScalingVis."""


# Options may also be written with underscores, as lmms-eval's are, and as its errors name them.
@app.command(context_settings={"token_normalize_func": lambda name: name.replace("_", "-")})
def sweep(
    model_args: Annotated[
        str, typer.Option(help="Arguments of the model as NAME=VALUE,NAME=VALUE; at least pretrained=NAME_OR_FOLDER.")
    ],
    tasks: Annotated[str, typer.Option(help="Tasks of lmms-eval and groups of them, separated by commas.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the traces: TASK.jsonl for each task.")],
    method: Annotated[
        str,
        typer.Option(help="The method whose strength is varied; its other hyper-parameters as for the model itself."),
    ] = SCALINGVIS,
    alphas: Annotated[
        str | None,
        typer.Option(
            help="The strengths, besides the neutral one, which is always there: that of the plain model. For "
            f"{SCALINGVIS} by default {ALPHAS}."
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Steer these layers only, as 14-18+22; `adaptvis inspect` says which there are.")
    ] = None,
    heads: Annotated[str | None, typer.Option(help="Steer these heads only, as L17H3+L17H5.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows of each task.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with task files of your own.")] = None,
    gen_kwargs: Annotated[
        str, typer.Option(help="Options of the decoding in place of the task's, for example max_new_tokens=16.")
    ] = "",
    options: Annotated[
        str, typer.Option(help="The answers that a question offers, for rows that name none, for example yes,no.")
    ] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the summary to this file too.")] = None,
) -> None:
    """Answer every row of lmms-eval's tasks under several strengths of a method.

    For any task that generates one answer to one question (output_type: generate_until). Each row is written as soon as
    it is answered: its answers, what the task's own metrics say about each, and what the model thought of its first
    token. An interrupted sweep goes on with the same command. Several processes share the work:

    torchrun --nproc-per-node 2 -m adaptvis_plugin.cli sweep ...

    What is varied is alpha of scalingvis, pai, headsguided, vcd, icd and deco, forgetting of m3id, enhancement of vaf,
    gamma of sla, margin of yesbias. For scalingvis, headsguided, and pai without guidance, one prefill per row serves
    all strengths. The other methods decode every row once per strength: N strengths cost about N plain runs (yesbias),
    1.1 N (deco, sla, vaf), 1.2 N (m3id, pai with guidance) or 2 N (vcd, icd), and the plain answers one more.
    """
    from loguru import logger

    from adaptvis_plugin.data import DataError

    with reported(ValueError, OSError, DataError, ImportError, RuntimeError, FloatingPointError, status=2):
        coefficients = parse_alphas(alphas, method)
        if include_path is not None and not include_path.is_dir():
            raise ValueError(f"--include-path {include_path}: there is no such folder")
        if output.exists() and not output.is_dir():
            raise ValueError(f"--output {output}: this is a file; give a folder")
        if json_file is not None and json_file.is_dir():
            raise ValueError(f"--json {json_file}: this is a folder; give a file")
        from adaptvis_plugin.lmms_eval.sweeping import SweepOptions
        from adaptvis_plugin.lmms_eval.sweeping import sweep as run

        # After lmms-eval's own setting of the log, which writes to standard output.
        logger.remove()
        logger.add(lambda text: typer.echo(text, err=True, nl=False), level="WARNING", diagnose=False)
        files, first = run(
            model_args,
            _listed("--tasks", tasks),
            SweepOptions(output, coefficients, _listed("--options", options) if options else ()),
            method=method,
            places={"layers": layers, "heads": heads},
            tell=_tell,
            batch_size=batch_size,
            limit=limit,
            include_path=None if include_path is None else str(include_path),
            gen_kwargs=gen_kwargs,
        )
        if not first:
            return
        found = [Summary.of(file) for file in files]
    Console().print(_table(found))
    for one in found:
        typer.echo(f"{one.header.task}: {one.path}")
    if json_file is not None:
        write_json([summary.as_json() for summary in found], json_file)


def parse_alphas(text: str | None, method: str) -> tuple[float, ...]:
    """Return the strengths, the neutral one first and the others in order.

    Args:
        text: What the user gives.
        method: The method that is swept.

    Raises:
        ValueError: If the method has no strength, or refuses one.
    """
    from adaptvis_plugin.methods import METHODS, defaults, method_class, without_strength
    from adaptvis_plugin.models.validation import parse_value

    if method in METHODS and (reason := without_strength(method)):
        known = ", ".join(name for name in METHODS if not without_strength(name))
        raise ValueError(f"--method {method}: it has no strength to sweep, since {reason}; sweep one of {known}")
    swept = method_class(method)
    assert swept.strength is not None
    if text is None and method != SCALINGVIS:
        raise ValueError(
            f"give --alphas, the values of {swept.strength} to answer under; the published one of {method} is "
            f"{defaults(method)[swept.strength]:g}"
        )
    found = [parse_value(part.strip()) for part in (ALPHAS if text is None else text).split(",") if part.strip()]
    for value in found:
        try:
            swept.check(swept.strength, value)
        except ValueError as error:
            raise ValueError(f"--alphas {text}: {error}") from error
    return (swept.neutral, *sorted({float(value) for value in found} - {swept.neutral}))


def _tell(sentence: str) -> None:
    """Tell what the sweep costs, once for all processes."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"{sentence[:1].upper()}{sentence[1:]}.", err=True)


def _listed(option: str, text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if "" in names:
        raise ValueError(f"{option} {text!r}: give names separated by single commas")
    return names


def _table(found: list[Summary]) -> Fitted:
    alphas = list(dict.fromkeys(alpha for one in found for alpha in one.header.alphas))
    rows = []
    for one in found:
        number = str(one.rows) if one.rows == one.header.rows else f"{one.rows} of {one.header.rows}"
        means = (f"{one.means[alpha]:.3f}" if alpha in one.means else "-" for alpha in alphas)
        rows.append([one.header.task, one.metric or "-", number, *means])
    sweep = found[0].header.sweep
    title = f"The task's first metric: its mean over the rows, under each {sweep.strength} of {sweep.method}"
    return Fitted(["task", "metric", "rows", *(f"{alpha:g}" for alpha in alphas)], rows, range(2), title)

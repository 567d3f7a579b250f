"""``adaptvis inspect``: what a run of a checkpoint would do, in seconds and without its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adaptvis_plugin.cli.errors import console, reported

if TYPE_CHECKING:
    from adaptvis_plugin.models.inspect.report import Report

app = typer.Typer()

_LOOK = "--weights runs a row to see"
_UNITS = ("B", "kB", "MB", "GB", "TB")


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A name on the hub, a checkpoint folder, or demo.")],
    task: Annotated[
        str, typer.Option(help="A task of this package (adaptvis tasks), or a table of your own.")
    ] = "whatsup_demo",
    model_args: Annotated[
        str, typer.Option(help="Arguments as in a run, as NAME=VALUE,NAME=VALUE: prompt, preset, alpha, dtype, …")
    ] = "",
    weights: Annotated[bool, typer.Option("--weights", help="Load the model too, and run one row.")] = False,
    file: Annotated[Path | None, typer.Option("--json", help="Write the same facts to this file.")] = None,
) -> None:
    """Show whether a model can be steered, how, and what it will see and use.

    The weights are not read, except with --weights. The exit status is 0 if the model can be steered and asked the
    task's questions, 1 if not, 2 if the model or the task cannot be inspected.
    """
    with reported(ValueError, OSError, ImportError, RuntimeError, status=2):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise OSError(f"--json {file}: give the name of a file in a folder that exists")
        with console.status("importing torch and transformers"):
            _quiet()
            from adaptvis_plugin.models.inspect.examine import examine
            from adaptvis_plugin.vlmevalkit.arguments import parse_model_args
        given = parse_model_args(model_args) if model_args else {}
        if "pretrained" in given:
            raise ValueError(f"--model-args pretrained={given['pretrained']}: the command names the model: {model}")
        with console.status(f"loading {escape(model)}" if weights else f"inspecting {escape(model)}"):
            report = examine({**given, "pretrained": model}, task, weights=weights)
        if file is not None:
            content = {"usable": report.usable, **dataclasses.asdict(report)}
            file.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    Console(highlight=False).print(shown(report))
    if not report.usable:
        raise typer.Exit(1)


def shown(report: Report) -> Table:
    """Return a report as a table of about one screen."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for part in (_model(report), _row(report), _settings(report), _answers(report)):
        lines = list(part)
        for label, text in lines:
            table.add_row(label, text)
        if lines:
            table.add_row()
    return table


def _model(report: Report) -> Iterator[tuple[str, str]]:
    from adaptvis_plugin.decoding.heads import written

    yield "model", escape(f"{report.model}: {report.architecture} ({report.model_type}), {report.source}")
    if report.refusal is not None:
        yield "steering", f"[red]refused:[/red] {escape(report.refusal)}"
    elif passes := report.passes:
        count = "one pass" if passes.count == 1 else "two passes"
        why = f"{count}: {passes.reason}" if passes.certain else f"{count} expected, {passes.reason}; {_LOOK}"
        yield "steering", f"[green]supported[/green], {escape(why)}"
    for problem in report.problems:
        yield "problem", f"[red]{escape(problem)}[/red]"
    others = ", ".join(name for name in report.attentions if name != report.attention)
    yield "attention", escape(f"{report.attention}; the class also has {others or 'no other'}")
    if report.layers is not None and report.heads is not None:
        last, heads = report.layers[-1], f"the heads 0 to {report.heads - 1}"
        some = f"steer some by layers={last} or heads=L{last}H{report.heads - 1}"
        yield "layers", f"{written(report.layers)}, each with {heads}; {some}"
    weights = report.weights
    sizes = ", ".join(f"{_size(size)} of {dtype}" for dtype, size in weights.by_dtype.items())
    origin = "as loaded" if weights.loaded else "as config.json says"
    less = f"; stored as {weights.quantisation}, so really less" if weights.quantisation else ""
    yield "weights", escape(f"{sizes}: {weights.parameters:,} parameters, {origin}{less}")
    if report.prefixes is not None:
        yield "shared prompts", f"at most {_size(report.prefixes)}, a twentieth of the model"


def _row(report: Report) -> Iterator[tuple[str, str]]:
    prompting, asked, cache = report.prompting, report.asked, report.cache
    if prompting is None:
        return
    other = ", ".join(style for style in ("chat", "paper") if style not in (prompting.style, *prompting.impossible))
    also = f"; {other} is possible too" if other else ""
    yield "prompt style", escape(f"{prompting.style} ({_origin(prompting.style_source)}){also}")
    for style, reason in prompting.impossible.items():
        yield "", escape(f"{style} is not possible: {reason}")
    if asked is None:
        return
    yield "row", escape(f"{report.task}, row {asked.row} of the table {asked.table}")
    yield "prompt", escape(asked.text)
    width, height = asked.picture
    token = escape(f"{report.image_token}, id {report.image_token_id}")
    columns = f"{asked.image_columns} image columns ({token}) for a picture of {width} x {height}"
    yield "tokens", f"{asked.tokens}, of these {columns}"
    if prompting.cut_at is not None:
        yield "long prompts", f"[red]cut at {prompting.cut_at} tokens[/red]"
    elif prompting.longest_tried is not None:
        limits = {"the tokenizer": prompting.tokenizer_limit, "the model": prompting.positions}
        made = ", ".join(f"{name} was made for {limit}" for name, limit in limits.items() if limit is not None)
        yield (
            "long prompts",
            f"not cut: one of {prompting.longest_tried} tokens stays whole" + f" ({made})" * bool(made),
        )
    if cache is None:
        yield "cache", f"unknown; {_LOOK}"
    else:
        layers = "; ".join(
            f"{count} layer{'s keep' if count > 1 else ' keeps'} {what}" for what, count in cache.layers.items()
        )
        yield "cache", f"{_size(cache.prompt)} for this row, {_size(cache.per_token)} for each further token: {layers}"


def _settings(report: Report) -> Iterator[tuple[str, str]]:
    for name, settings in (report.settings or {}).items():
        origins = {key: _origin(place) for key, place in settings.sources.items()}
        values = []
        for origin in dict.fromkeys(origins.values()):
            own = ", ".join(f"{key} {value}" for key, value in settings.values.items() if origins[key] == origin)
            values.append(f"{own} ({origin})")
        missing = f"[yellow]{escape(settings.missing)}[/yellow]" if settings.missing else ""
        yield name, missing or escape("; ".join(values)) or "needs no settings"
    if generation := report.generation:
        yield "answer", f"greedy, at most {generation.max_new_tokens} tokens"
        if generation.kept:
            yield "", f"decided also by {_listed(generation.kept)} (not the confidence)"
        if generation.ignored:
            yield "", f"ignored, because it is not greedy: {_listed(generation.ignored)}"


def _answers(report: Report) -> Iterator[tuple[str, str]]:
    for name, answer in (report.answers or {}).items():
        yield name, escape(f"{answer.text!r}, confidence {answer.confidence:.3f}, alpha {answer.alpha}")


def _listed(values: dict[str, Any]) -> str:
    written = {name: repr(value) for name, value in values.items()}
    return escape(
        ", ".join(f"{name}={text if len(text) < 40 else text[:36] + ' ...'}" for name, text in written.items())
    )


def _origin(source: str) -> str:
    """Return where a value comes from, in short: a file's name is enough."""
    return {"given": "--model-args", "default": "default"}.get(source) or Path(source).name


def _size(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"


def _quiet() -> None:
    """Keep transformers' notes and progress bars off the screen."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

"""``adaptvis attention``: where a model's attention goes, and what its confidence is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from adaptvis_plugin.cli.errors import console, printable, reported
from adaptvis_plugin.cli.files import write_json

if TYPE_CHECKING:
    from adaptvis_plugin.attention.boxes import BoxSource
    from adaptvis_plugin.attention.familiarity import Familiarity
    from adaptvis_plugin.attention.plan import AttentionPlan, Setting
    from adaptvis_plugin.attention.study import Study
    from adaptvis_plugin.decoding import Method
    from adaptvis_plugin.models.presets import Preset

app = typer.Typer()

_BOXES = (
    "Boxes of the objects that the questions name: demo; coco:instances_val2017.json; vg:objects.json; "
    "yolo:FOLDER[,NAMES.txt or data.yaml]; detector:NAME_OR_FOLDER[,LOWEST_SCORE]; none. By default the demo's own."
)


@app.command(context_settings={"token_normalize_func": lambda name: name.replace("_", "-")})
def attention(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what is captured, and for the report.")],
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN...]",
            help="Folders of earlier runs of this command, or traces, to report on without a model. A trace alone "
            "shows what the confidence is worth.",
        ),
    ] = None,
    model_args: Annotated[
        str, typer.Option(help="Arguments of the model as NAME=VALUE,NAME=VALUE; at least pretrained=NAME_OR_FOLDER.")
    ] = "",
    tasks: Annotated[str, typer.Option(help="Tasks of lmms-eval and groups of them, separated by commas.")] = "",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting to look at, as scalingvis:0.8 or adaptvis:0.5/1.5/0.4; may be repeated. By default those "
            "of the model's preset for the task, else scalingvis:0.5 and scalingvis:1.5."
        ),
    ] = None,
    constants: Annotated[
        str, typer.Option(help="The control: constants added to the image logits of all rows; none for no control.")
    ] = "1.0",
    layers: Annotated[str | None, typer.Option(help="Steer only these layers, as 14-18+22.")] = None,
    heads: Annotated[str | None, typer.Option(help="Steer only these heads, as L17H3+L17H5.")] = None,
    boxes: Annotated[str | None, typer.Option(help=_BOXES)] = None,
    pictures: Annotated[int, typer.Option(min=0, help="The most rows with an overlay; flipped rows come first.")] = 40,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows of each task.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with task files of your own.")] = None,
    gen_kwargs: Annotated[
        str, typer.Option(help="Options of the decoding in place of the task's, for example max_new_tokens=16.")
    ] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")] = None,
) -> None:
    """Show where the last prompt token's attention goes: on the image or the text, on the named objects or elsewhere.

    Every row of lmms-eval's tasks is answered under the settings and the control, and the attention of every layer and
    head is captured on the way, at the cost of a sweep. The report has tables, plots, overlays and one HTML page. An
    interrupted run goes on with the same command. It takes disk: about 1.3 MB for a row of LLaVA-1.5-7B and each
    coefficient or constant.
    """
    from adaptvis_plugin.attention.record import AttentionError
    from adaptvis_plugin.comparison.runs import ComparisonError
    from adaptvis_plugin.data import DataError
    from adaptvis_plugin.traces import TraceError

    expected = (AttentionError, ComparisonError, TraceError, DataError, ValueError, OSError, ImportError, RuntimeError)
    with reported(*expected, FloatingPointError, status=2):
        _check_places(output, json_file, include_path)
        if bool(runs) == bool(model_args or tasks) or bool(model_args) != bool(tasks):
            raise AttentionError(
                "give either --model-args and --tasks, to capture attention, or folders and traces of earlier runs"
            )
        choice = _Choice(_settings(setting or ()), _constants(constants), layers, heads, boxes)
        first = True
        if not runs:
            runs, first = _capture(
                output, model_args, tasks, choice,
                batch_size=batch_size,
                limit=limit,
                include_path=None if include_path is None else str(include_path),
                gen_kwargs=gen_kwargs,
            )  # fmt: skip
        if first:
            _report(runs, output, choice, pictures, json_file)


@dataclass
class _Choice:
    """What the user wants to look at, task by task.

    Attributes:
        given: The settings; empty for those of the preset.
        constants: The constants of the control.
        layers: Where the settings steer.
        heads: Where the settings steer.
        boxes: The value of `--boxes`.
        presets: The model's preset, by task; for the tasks of this run.
        sources: The boxes that were opened, by task and number of rows: a label file may take long to read.
    """

    given: Sequence[Setting]
    constants: Sequence[float]
    layers: str | None
    heads: str | None
    boxes: str | None
    presets: dict[str, Preset | None] = field(default_factory=dict)
    sources: dict[tuple[str, int | None], BoxSource | None] = field(default_factory=dict)

    def methods(self, task: str, model: str | None = None) -> dict[str, Method]:
        """Return the methods to look at for a task; `model` says whose preset counts for a task of an earlier run."""
        from adaptvis_plugin.attention.plan import methods_for
        from adaptvis_plugin.models.presets import find_preset

        preset = self.presets.get(task) or find_preset(model)
        return methods_for(task, self.given, preset, self.layers, self.heads)

    def source(self, task: str, rows: int | None = None) -> BoxSource | None:
        """Return the source of boxes for a task, opened once."""
        from adaptvis_plugin.attention.boxes import open_source
        from adaptvis_plugin.attention.boxes.pictures import table_of

        # Without a table, the number of rows decides what a label file's name may mean; it is known only afterwards.
        key = (task, None if table_of(task) else rows)
        if key not in self.sources:
            self.sources[key] = open_source(self.boxes, task, rows=rows)
        return self.sources[key]


def _capture(output: Path, model_args: str, tasks: str, choice: _Choice, **options: Any) -> tuple[list[Path], bool]:
    """Capture attention; return the traces with their controls, and whether this process is the one that reports."""
    from loguru import logger

    from adaptvis_plugin.attention.plan import AttentionPlan, control_path
    from adaptvis_plugin.lmms_eval.attending import capture

    # After lmms-eval's own setting of the log, which writes to standard output.
    logger.remove()
    logger.add(lambda text: typer.echo(text, err=True, nl=False), level="WARNING", diagnose=False)

    def plan(preset: Preset | None, names: Sequence[str]) -> AttentionPlan:
        choice.presets.update(dict.fromkeys(names, preset))
        every = [one for task in names for one in choice.methods(task).values()]
        for task in names:
            choice.source(task)
        return AttentionPlan.of(every, choice.constants)

    traces, first = capture(model_args, [name.strip() for name in tasks.split(",")], output, plan, **options)
    controls = [control_path(output, trace.stem, constant) for trace in traces for constant in choice.constants]
    return [*traces, *controls], first


def _report(runs: Sequence[Path], output: Path, choice: _Choice, pictures: int, json_file: Path | None) -> None:
    """Report on what was captured, and on traces alone."""
    from adaptvis_plugin.attention.familiarity import familiarity
    from adaptvis_plugin.attention.plan import read_captured
    from adaptvis_plugin.attention.report import as_json, grids, sentences, write
    from adaptvis_plugin.attention.study import study
    from adaptvis_plugin.cli.tables import Fitted
    from adaptvis_plugin.decoding import AdaptVis

    found: list[Study | Familiarity] = []
    every = read_captured(runs)
    with Progress(console=console, transient=True) as bars:
        for one in every:
            methods = choice.methods(one.trace.name, one.trace.header.model if one.trace.header else None)
            if one.store is None:
                known = one.trace.header is not None or bool(choice.given)
                adaptvis = next((m for m in methods.values() if known and isinstance(m, AdaptVis)), None)
                found.append(familiarity(one.trace, adaptvis))
                continue
            source = choice.source(one.trace.name, one.store.header.rows)
            task = bars.add_task(f"attention: {one.trace.name}", total=len(one.trace.rows))
            advance = partial(bars.advance, task)
            found.append(study(one.store, one.trace, one.controls, methods, source, advance))
    out = Console(emoji=False)
    for each in found:
        out.rule(escape(printable(each.trace.name)))
        for grid in grids(each):
            out.print(Fitted(grid.head, grid.rows, range(grid.texts), grid.title, grid.note, "; the report has it"))
        for sentence in sentences(each):
            out.print(f"- {escape(printable(sentence))}", highlight=False)
    if json_file:
        write_json(as_json(found), json_file)
    files = write(found, output, pictures)
    typer.echo(f"The report: {files[0]}")


def _settings(texts: Sequence[str]) -> list[Setting]:
    from adaptvis_plugin.attention.plan import STEERING
    from adaptvis_plugin.attention.record import AttentionError
    from adaptvis_plugin.comparison.sources.traced import Setting as Parsed

    parsed = [Parsed.parse(text) for text in texts]
    for one in parsed:
        if one.method not in STEERING:
            raise AttentionError(
                f"--setting {one.name!r}: attention is captured under coefficients and the control's constants "
                f"(--constants), not under {one.method}; give {' or '.join(STEERING)}"
            )
    return [(one.method, one.values) for one in parsed]


def _constants(text: str) -> list[float]:
    """Return the constants of the control.

    Raises:
        ValueError: If one is not a finite number, or 0, which is the plain model.
    """
    from adaptvis_plugin.decoding.method import check_finite
    from adaptvis_plugin.models.validation import parse_value

    if text in ("", "none"):
        return []
    found = [parse_value(part.strip()) for part in text.split(",")]
    for value in found:
        check_finite("--constants", value)
        if value == 0:
            raise ValueError("--constants 0: that is the plain model, which is always there; give another, or none")
    return [float(value) for value in found]


def _check_places(output: Path, json_file: Path | None, include_path: Path | None) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output}: this is a file; give a folder")
    if json_file is not None and json_file.is_dir():
        raise ValueError(f"--json {json_file}: this is a folder; give a file")
    if include_path is not None and not include_path.is_dir():
        raise ValueError(f"--include-path {include_path}: there is no such folder")

"""A sweep that captures where the last prompt token attends to, and runs the control beside it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import simple_parse_args_string

from adaptvis_plugin.attention.columns import ColumnMapper
from adaptvis_plugin.attention.form import Header, constant_name
from adaptvis_plugin.attention.plan import CONTROL, AttentionPlan, control_path, store_path
from adaptvis_plugin.attention.record import Places, Record, UnmappedError
from adaptvis_plugin.attention.store import AttentionStore
from adaptvis_plugin.decoding import ScalingVis
from adaptvis_plugin.images import thumbnail
from adaptvis_plugin.lmms_eval.answering import Plan, answer_row
from adaptvis_plugin.lmms_eval.recording import TaskTrace, add_rows, is_padding
from adaptvis_plugin.lmms_eval.requests import check_model_args, given_value
from adaptvis_plugin.lmms_eval.selection import check_tasks, leaves
from adaptvis_plugin.lmms_eval.sweeping import PLAIN, SweepModel, SweepOptions, sweep_with
from adaptvis_plugin.models.answers import Attended, Encoded, Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.presets import Preset
from adaptvis_plugin.traces.schema import alpha_key

log = logging.getLogger(__name__)

SIDE = 640
"""The longest side of the pictures that are kept beside the attention, in pixels: enough for an object detector."""


@dataclass(frozen=True)
class AttentionOptions(SweepOptions):
    """What is captured, and where it is written.

    Attributes:
        constants: The constants of the control.
        places: The layers or heads in which the coefficients apply; see `Method.places`.
    """

    constants: tuple[float, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> ScalingVis:
        """The method that is swept, at its neutral strength."""
        return ScalingVis(ScalingVis.neutral, **self.places)


def capture(
    model_args: str,
    tasks: Sequence[str],
    folder: Path,
    plan: Callable[[Preset | None, Sequence[str]], AttentionPlan],
    *,
    batch_size: int = 1,
    limit: int | None = None,
    include_path: str | None = None,
    gen_kwargs: str = "",
) -> tuple[Sequence[Path], bool]:
    """Answer the rows of lmms-eval's tasks under several conditions, and capture the attention.

    Args:
        model_args: The model's arguments, as NAME=VALUE,NAME=VALUE.
        tasks: Names of tasks and groups, with `*` if wanted.
        folder: Where everything is written.
        plan: Returns the conditions, given the model's preset and the names of the single tasks. Called before the
            model is loaded, so that what is wrong is known now.
        batch_size: Rows per batch.
        limit: Only so many rows of each task.
        include_path: A folder with task files of one's own.
        gen_kwargs: Options of the decoding in place of the tasks', as NAME=VALUE,NAME=VALUE.

    Returns:
        The traces of the sweeps, and whether this process is the one that reports.

    Raises:
        ValueError: If a task or an argument is unknown or unusable, before the model is loaded.
        TraceError: If the folder holds answers of another run.
        AttentionError: If the folder holds attention of another run.
    """
    check_model_args(model_args, {"batch_size": batch_size})
    manager = TaskManager(include_path=include_path, model_name=PLAIN)
    names = check_tasks(manager, tasks, gen_kwargs)
    given: Any = {name: given_value(value) for name, value in simple_parse_args_string(model_args).items()}
    preset = ModelArguments(method="baseline", **given).preset
    planned = plan(preset, list(dict.fromkeys(leaf for name in names for leaf, _ in leaves(manager, name))))
    own = {"batch_size": batch_size, "method": "baseline"}  # so that no hyper-parameter is taken
    model: Any = AttentionModel.create_from_arg_string(model_args, own)
    model.options = AttentionOptions(folder, planned.alphas, places=planned.places, constants=planned.constants)
    return sweep_with(model, manager, names, limit, gen_kwargs, [model.options.method]), model.rank == 0


class AttentionModel(SweepModel):
    """A Hugging Face vision-language model whose attention is captured, and whose answers are written to traces."""

    options: AttentionOptions
    _told_of_columns = False

    def _plan(self, request: Instance) -> Plan:
        _, options = super()._plan(request)
        return self.options.method, options

    def done(self, request: Instance, trace: TaskTrace[bool]) -> bool:
        """Return whether all is written that is wanted of a request."""
        answered = [one.answered(request) for one in (trace, *self._controls[request.task_name].values())]
        return request.doc_id in self._captured[request.task_name] and None not in answered

    def record(
        self,
        requests: Sequence[Instance],
        prompts: Sequence[Prompt],
        encoded: Encoded,
        plan: Plan,
        traces: Mapping[str, TaskTrace[bool]],
    ) -> None:
        """Answer a batch and capture its attention, and write both; the rows of the sweep last."""
        options = self.options
        found = self.runner.attend(prompts, options.alphas, options.constants, encoded, **options.places, **plan[1])
        by_task: dict[str, list[Record]] = {}
        for request, prompt, one in zip(requests, prompts, found, strict=True):
            if not is_padding(request):
                by_task.setdefault(request.task_name, []).append(self._record(request, prompt, one))
        for task, records in by_task.items():
            self._stores[task].add(records)
        for constant in options.constants:
            controls = {task: own[constant] for task, own in self._controls.items()}
            add_rows(
                controls,
                (
                    (request, answer_row(controls[request.task_name], request, prompt, one.controls[constant]))
                    for request, prompt, one in zip(requests, prompts, found, strict=True)
                ),
            )
        self.write(requests, prompts, [one.swept for one in found], traces)

    def _record(self, request: Instance, prompt: Prompt, found: Attended) -> Record:
        return Record(
            doc_id=request.doc_id,
            **found.columns._asdict(),
            places=self._places(prompt, int(found.columns.image.sum())),
            sizes=tuple(image.size for image in prompt.images),
            thumbnails=tuple(thumbnail(image, SIDE) for image in prompt.images),
        )

    def _places(self, prompt: Prompt, columns: int) -> Places | None:
        try:
            return self._mapper.places(prompt.images, columns)
        except UnmappedError as error:
            if not self._told_of_columns:
                self._told_of_columns = True
                log.warning(
                    "%s: the attention cannot be laid over the picture: %s. All that needs no picture is still found.",
                    prompt.name,
                    error,
                )
            return None

    def _open(self, requests: Sequence[Instance], plans: Sequence[Plan]) -> dict[str, TaskTrace[bool]]:
        """Open the traces of the sweep and of the control, and the folders of the attention."""
        traces = super()._open(requests, plans)
        self._mapper = ColumnMapper(self.runner.model, self.runner.processor)
        self._stores = {name: AttentionStore(store_path(self.options.folder, name)) for name in traces}
        self._captured = {name: self._stores[name].resume(self._header(trace)) for name, trace in traces.items()}
        self._controls = {name: dict(self._control_traces(trace)) for name, trace in traces.items()}
        return traces

    def _control_traces(self, trace: TaskTrace[bool]) -> list[tuple[float, TaskTrace[bool]]]:
        found = []
        for constant in self.options.constants:
            changed: dict[str, Any] = {"method": CONTROL, "settings": {"constant": constant}, "alphas": ()}
            header = trace.header.model_copy(update=changed)
            path = control_path(self.options.folder, trace.task.name, constant)
            found.append((constant, TaskTrace(path, trace.task, header, lambda row: True)))
        return found

    def _header(self, trace: TaskTrace[bool]) -> Header:
        own = trace.header
        conditions = [alpha_key(alpha) for alpha in own.alphas] + [constant_name(c) for c in self.options.constants]
        decoder = self.runner.decoder
        return Header(
            task=own.task,
            rows=own.rows,
            data=own.data,
            model=own.model,
            revision=own.revision,
            dtype=own.dtype,
            prompt=own.prompt,
            conditions=tuple(conditions),
            layers=decoder.layers,
            heads=decoder.heads,
            settings=own.settings,
            code=own.code,
            packages=own.packages,
        )

"""Models of lmms-eval that answer from a sweep's trace: any setting of a method is scored without the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms

from adaptvis_plugin.decoding import Calibrated
from adaptvis_plugin.lmms_eval.cache import complete_keys
from adaptvis_plugin.lmms_eval.recording import RecordedTask
from adaptvis_plugin.lmms_eval.requests import (
    check_model_args,
    generation_options,
    given_value,
    recorded_answer,
    result_of,
)
from adaptvis_plugin.methods import hyper_parameters
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.validation import did_you_mean
from adaptvis_plugin.traces import Header, Row, TraceError
from adaptvis_plugin.traces.answers import answers_under, check_answers
from adaptvis_plugin.traces.reading import read_trace, scan

TAKES = ("trace", "pretrained", "preset", "prompt", "batch_size")
"""The arguments besides the hyper-parameters. The batch size has no meaning here; lmms-eval always gives one."""


class ReplayModel(lmms):
    """A method scored from the trace of a sweep, with no model loaded.

    Args:
        trace: The file that `adaptvis sweep` wrote for the task, or the folder with one for each task.
        **given: `preset` and the method's hyper-parameters as for the model itself; `pretrained` and `prompt` are by
            default the trace's.

    Raises:
        ValueError: If an argument is unknown or unusable.
        TraceError: If there is no trace of a sweep.
    """

    is_simple = False
    answers_from_a_trace = True
    method: str

    def __init__(self, trace: str | None = None, **given: Any) -> None:
        super().__init__()
        given = {name: value for name, text in given.items() if (value := given_value(text)) is not None}
        known = [*TAKES, *hyper_parameters(self.method)]
        if unknown := [name for name in given if name not in known]:
            raise ValueError(
                f"--model_args {unknown[0]}={given[unknown[0]]!r}: a replay loads no model, and takes "
                f"{', '.join(known)}{did_you_mean(unknown[0], known)}"
            )
        if given_value(trace) is None:
            raise ValueError("give the sweep's trace: --model_args trace=FOLDER_OR_FILE")
        self._source = Path(str(trace))
        self._traces = _sweeps(self._source)
        self._arguments = {task: _arguments(self.method, header, given) for task, (_, header) in self._traces.items()}
        complete_keys()

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> "ReplayModel":
        """Create a model from `--model_args`; see `SteeredModel.create_from_arg_string`."""
        check_model_args(arg_string, additional_config or {})
        model: ReplayModel = super().create_from_arg_string(arg_string, additional_config)
        return model

    @property
    def device(self) -> torch.device:
        """Where lmms-eval puts the few numbers that its processes exchange."""
        return torch.device("cpu")

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request from its task's trace, in order."""
        by_task: dict[str, list[Instance]] = {}
        for request in requests:
            by_task.setdefault(request.task_name, []).append(request)
        # All are looked up before the first is answered: an error then costs nothing.
        answers = {task: self._answers(task, own) for task, own in by_task.items()}
        return [answers[request.task_name][request.doc_id] for request in requests]

    def _answers(self, name: str, requests: Sequence[Instance]) -> dict[int, GenerationResult]:
        if name not in self._traces:
            raise TraceError(
                f"{self._source} holds no sweep of {name}, but of {', '.join(self._traces)}; make one: adaptvis sweep "
                f"--tasks {name} -o FOLDER"
            )
        path, header = self._traces[name]
        task, method = RecordedTask.of(requests[0]), self._arguments[name].choose(name)
        where = f"{path}, for {self.method} on {name}"
        check_answers(where, method, header.sweep, header.alphas)
        rows = {row.doc_id: row for row in read_trace(path).rows}
        for request in requests:
            _check_options(where, request, header)
            _check_row(where, request, rows, task.asked)
        own = [rows[request.doc_id] for request in requests]
        # The choice among options takes one token, whatever the model would have gone on to say.
        chosen: dict[str, Any] = {"output_tokens": 1} if isinstance(method, Calibrated) else {}
        return {
            row.doc_id: result_of(
                replace(recorded_answer(row, answer.recorded), text=answer.text, alpha=answer.alpha, **chosen)
            )
            for row, answer in zip(own, answers_under(method, own, where, header.sweep), strict=True)
            if row.doc_id is not None
        }

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: a trace holds generated answers."""
        raise ValueError("a trace holds generated answers; use a task with output_type: generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: a sweep asks one question at a time."""
        raise ValueError("a trace holds answers to single questions; tasks of several rounds are not supported")


def _sweeps(source: Path) -> dict[str, tuple[Path, Header]]:
    """Return the traces of sweeps in a folder, or in a file, by their task; only their headers are read.

    Raises:
        TraceError: If there is none, or there are two of one task.
    """
    if not source.exists():
        raise TraceError(f"trace={source}: there is no such file or folder (in {Path.cwd()})")
    found: dict[str, tuple[Path, Header]] = {}
    for path in sorted(source.glob("*.jsonl")) if source.is_dir() else [source]:
        header = next(scan(path), None)
        if not isinstance(header, Header) or not header.alphas:
            continue
        if header.task in found:
            raise TraceError(
                f"{found[header.task][0]} and {path} are both sweeps of {header.task}; give one: trace=FILE"
            )
        found[header.task] = path, header
    if not found:
        raise TraceError(f"trace={source} holds no trace of a sweep; make one: adaptvis sweep --tasks TASK -o FOLDER")
    return found


def _arguments(method: str, header: Header, given: Mapping[str, Any]) -> ModelArguments:
    """Return the arguments that the real run would have.

    Raises:
        ValueError: If one is unusable, or the checkpoint or the prompts of the trace are not those of that run.
    """
    defaults = (
        {"pretrained": header.model} if "preset" in given else {"pretrained": header.model, "prompt": header.prompt}
    )
    arguments = ModelArguments(method=method, **{**defaults, **given})
    for name, recorded in (("pretrained", header.model), ("prompt", header.prompt)):
        if (asked := getattr(arguments, name)) != recorded:
            raise ValueError(
                f"the trace of {header.task} was recorded with {name}={recorded}, and these settings are for "
                f"{name}={asked}; give {name}={recorded}, or sweep with {name}={asked}"
            )
    return arguments


def _check_options(where: str, request: Instance, header: Header) -> None:
    options = generation_options(cast("dict[str, Any]", request.args[2]), request.task_name)
    recorded = {"max_new_tokens": header.max_new_tokens, **header.generation}
    if options != recorded:
        raise TraceError(
            f"{where}: its answers were made with {recorded}, and this run asks for {options}; sweep with these"
        )


def _check_row(where: str, request: Instance, rows: Mapping[int | None, Row], asked: Callable[[Instance], str]) -> None:
    row = rows.get(request.doc_id)
    if row is None:
        raise TraceError(
            f"{where}: document {request.doc_id} is not in it ({len(rows)} rows are); go on with the sweep to its end, "
            "or give --limit"
        )
    if row.asked != asked(request):
        raise TraceError(
            f"{where}: document {request.doc_id} was asked something else when it was swept: its question or its "
            "picture has changed since; sweep again into another folder"
        )

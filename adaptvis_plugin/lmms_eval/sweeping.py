"""A sweep: every row of lmms-eval's tasks answered under several coefficients, from one prefill, into traces."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config, simple_parse_args_string
from tenacity import RetryError

from adaptvis_plugin.decoding import Method, ScalingVis
from adaptvis_plugin.decoding.method import PLACES
from adaptvis_plugin.lmms_eval.models import Plan, SteeredModel
from adaptvis_plugin.lmms_eval.recording import RecordedTask, TaskTrace, add_rows, is_padding
from adaptvis_plugin.lmms_eval.requests import generation_options
from adaptvis_plugin.models.answers import Encoded, Prompt, Swept
from adaptvis_plugin.models.validation import did_you_mean
from adaptvis_plugin.traces import Row

OTHERS = {
    "generate_until_multi_round": "it asks in several rounds",
    "generate_until_agentic": "it asks in several rounds",
    "multiple_choice": "it scores given answers and generates none",
    "loglikelihood": "it scores given answers and generates none",
}
"""Kinds of tasks that cannot be swept -> why."""

PLAIN = "vlm_baseline"
"""The model whose run a sweep contains: its answers are those under alpha = 1."""


@dataclass(frozen=True)
class SweepOptions:
    """What is swept, and where it is written.

    Attributes:
        folder: The folder of the traces; that of a task is `<task>.jsonl`.
        alphas: The coefficients, 1 first.
        offered: The options of rows that offer none themselves; empty if there are none.
        places: The layers or heads that are steered; see `Method.places`.
    """

    folder: Path
    alphas: tuple[float, ...]
    offered: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)


class SweepModel(SteeredModel):
    """A Hugging Face vision-language model whose answers are written to traces, and not scored by lmms-eval."""

    method = "baseline"
    default_pretrained = None
    options: SweepOptions

    def __init__(self, pretrained: str | None = None, **given: Any) -> None:
        if "trace" in given:
            raise ValueError(f"trace={given['trace']!r}: a sweep writes its traces to the folder -o; leave it out")
        for name in PLACES.keys() & given.keys():
            raise ValueError(f"{name}={given[name]!r}: in a sweep, give it by the option --{name}")
        super().__init__(pretrained, **given)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer and record every request that has no row yet.

        Raises:
            Done: When all rows are written. Otherwise lmms-eval would go on to score the answers of one coefficient.
        """
        plans = [self._plan(request) for request in requests]
        traces = self._open(requests, plans)
        todo = [
            place
            for place, request in enumerate(requests)
            if not is_padding(request) and not self.done(request, traces[request.task_name])
        ]
        with self.progress("sweep", len(requests), len(todo)) as progress:
            for batch, prompts, encoded in self.encoded(requests, plans, todo):
                self.record([requests[place] for place in batch], prompts, encoded, plans[batch[0]], traces)
                progress.update(len(batch))
        self.accelerator.wait_for_everyone()
        raise Done([trace.path for trace in traces.values()])

    def done(self, request: Instance, trace: TaskTrace[bool]) -> bool:
        """Return whether all is written that is wanted of a request."""
        return trace.answered(request) is not None

    def record(
        self,
        requests: Sequence[Instance],
        prompts: Sequence[Prompt],
        encoded: Encoded,
        plan: Plan,
        traces: Mapping[str, TaskTrace[bool]],
    ) -> None:
        """Answer a batch, score the answers, and write the rows."""
        options = {**self.options.places, **plan[1]}
        self.write(requests, prompts, self.runner.sweep(prompts, self.options.alphas, encoded, **options), traces)

    def write(
        self,
        requests: Sequence[Instance],
        prompts: Sequence[Prompt],
        swept: Sequence[Swept],
        traces: Mapping[str, TaskTrace[bool]],
    ) -> None:
        """Score the answers of a batch, and write its rows."""
        add_rows(
            traces,
            (
                (request, _row(traces[request.task_name], request, prompt, found))
                for request, prompt, found in zip(requests, prompts, swept, strict=True)
            ),
        )

    def prompt(self, request: Instance, method: Method) -> Prompt:
        """Return a request as the runner takes it, with the options that the user gave if it offers none."""
        prompt = super().prompt(request, method)
        return prompt if prompt.options else replace(prompt, options=self.options.offered)

    def _open(self, requests: Sequence[Instance], plans: Sequence[Plan]) -> dict[str, TaskTrace[bool]]:
        offered = {"options": list(self.options.offered)} if self.options.offered else {}
        settings = {**self.options.places, **offered}
        traces: dict[str, TaskTrace[bool]] = {}
        for request, (_, options) in zip(requests, plans, strict=True):
            if request.task_name not in traces:
                task = RecordedTask.of(request)
                header = task.header(self.runner, options, settings=settings, alphas=self.options.alphas)
                path = self.options.folder / f"{task.name}.jsonl"
                traces[task.name] = TaskTrace(path, task, header, lambda row: True)
        return traces


class Done(Exception):
    """The sweep is complete.

    Args:
        traces: The files.
    """

    def __init__(self, traces: Sequence[Path]) -> None:
        super().__init__()
        self.traces = traces


def sweep(
    model_args: str,
    tasks: Sequence[str],
    options: SweepOptions,
    *,
    batch_size: int = 1,
    limit: int | None = None,
    include_path: str | None = None,
    gen_kwargs: str = "",
) -> tuple[Sequence[Path], bool]:
    """Sweep tasks of lmms-eval.

    Args:
        model_args: The model's arguments, as NAME=VALUE,NAME=VALUE.
        tasks: Names of tasks and groups, with `*` if wanted.
        options: The coefficients and the folder.
        batch_size: Rows per batch.
        limit: Only so many rows of each task.
        include_path: A folder with task files of one's own.
        gen_kwargs: Options of the decoding in place of the tasks', as NAME=VALUE,NAME=VALUE.

    Returns:
        The traces, and whether this process is the one that reports.

    Raises:
        ValueError: If a task or an argument is unknown or unusable, before the model is loaded; or if the model lacks
            a layer or head that is to be steered.
        TraceError: If the folder holds answers of another run.
    """
    manager = TaskManager(include_path=include_path, model_name=PLAIN)
    names = check_tasks(manager, tasks, gen_kwargs)
    model: Any = SweepModel.create_from_arg_string(model_args, {"batch_size": batch_size})
    model.options = options
    return sweep_with(model, manager, names, limit, gen_kwargs), model.rank == 0


def sweep_with(
    model: SweepModel, manager: TaskManager, names: Sequence[str], limit: int | None, gen_kwargs: str
) -> Sequence[Path]:
    """Sweep with a model that is loaded; see `sweep`.

    Returns:
        The traces.

    Raises:
        OSError: If lmms-eval has tried in vain to read a task's data.
        ValueError: If it asked nothing, or the model lacks layers or heads that shall be steered.
    """
    model.runner.decoder.check(ScalingVis(1.0, **model.options.places))
    try:
        simple_evaluate(
            model=model, tasks=list(names), task_manager=manager, limit=limit, gen_kwargs=gen_kwargs, log_samples=False
        )
    except Done as done:
        return done.traces
    except RetryError as error:
        cause = error.last_attempt.exception()
        raise OSError(
            f"lmms-eval cannot read the data of {', '.join(names)}: {type(cause).__name__}: {cause}"
        ) from error
    raise ValueError(f"lmms-eval asked nothing for {', '.join(names)}")


def check_tasks(manager: TaskManager, names: Sequence[str], gen_kwargs: str) -> list[str]:
    """Return the tasks and groups that the names stand for; check by their files that they can be swept.

    Raises:
        ValueError: If one is unknown, does not generate one answer to one question, or asks for sampling.
    """
    if odd := [part for part in gen_kwargs.split(",") if part and "=" not in part]:
        raise ValueError(
            f"--gen-kwargs {gen_kwargs}: {odd[0]!r} is not NAME=VALUE; write for example max_new_tokens=16"
        )
    given = simple_parse_args_string(gen_kwargs)
    found: list[str] = []
    for name in names:
        if not (matching := manager.match_tasks([name])):
            raise ValueError(
                f"there is no task {name!r}; for tasks of your own give their folder: --include-path FOLDER"
                f"{did_you_mean(name, manager.all_tasks)}"
            )
        found += matching
    for name in found:
        for leaf, config in leaves(manager, name):
            kind = config.get("output_type", "generate_until")
            if kind != "generate_until":
                raise ValueError(f"task {leaf!r} cannot be swept: {OTHERS.get(kind, f'its output_type is {kind}')}")
            generation_options({**(config.get("generation_kwargs") or {}), **given}, leaf)
    return list(dict.fromkeys(found))


def leaves(manager: TaskManager, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the tasks that a name stands for, with what their files say, without loading any data."""
    entry = manager.task_index.get(name)
    if entry is None:
        return  # written out inside its group; lmms-eval will read it
    file = entry["yaml_path"]
    config = {} if file == -1 else load_yaml_config(file, mode="simple")
    if entry["type"] in ("task", "python_task"):
        yield name, config
        return
    members = config["task"] if entry.get("task", -1) == -1 else entry["task"]
    for member in members:
        yield from leaves(manager, member if isinstance(member, str) else member.get("task", ""))


def _row(trace: TaskTrace[bool], request: Instance, prompt: Prompt, swept: Swept) -> Row:
    plain = swept.answers[1.0]
    # Most coefficients give the same answer.
    scores = {text: trace.task.scores(request, text) for text in {answer.text for answer in swept.answers.values()}}
    steered = any(answer.alpha != 1 for answer in swept.answers.values())
    return trace.row(
        request,
        prompt,
        confidence=plain.confidence,
        entropy=swept.entropy,
        top=[{"id": token, "text": text, "log_probability": value} for token, text, value in swept.top],
        alpha=None if steered or len(swept.answers) == 1 else 1.0,
        generations={alpha: answer.text for alpha, answer in swept.answers.items()},
        metrics={alpha: found for alpha, answer in swept.answers.items() if (found := scores[answer.text])},
        options=swept.options,
        input_tokens=plain.input_tokens,
        output_tokens={alpha: answer.output_tokens for alpha, answer in swept.answers.items()},
    )

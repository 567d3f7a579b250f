"""A sweep: every row of lmms-eval's tasks answered under several strengths of a method, into traces."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import simple_parse_args_string
from tenacity import RetryError

from adaptvis_plugin.decoding import Method
from adaptvis_plugin.lmms_eval.answering import Plan
from adaptvis_plugin.lmms_eval.costs import cost_of_sweep
from adaptvis_plugin.lmms_eval.models import SteeredModel
from adaptvis_plugin.lmms_eval.recording import RecordedTask, TaskTrace, add_rows, is_padding
from adaptvis_plugin.lmms_eval.requests import check_model_args, given_value
from adaptvis_plugin.lmms_eval.selection import check_tasks, leaves
from adaptvis_plugin.methods import method_class, name_of
from adaptvis_plugin.models.answers import Encoded, Prompt, Swept
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.traces import Row, Sweep
from adaptvis_plugin.traces.answers import fixed
from adaptvis_plugin.traces.schema import OFFERED

PLAIN = "vlm_baseline"
"""The model whose run a sweep contains: its answers are those under the neutral strength."""


@dataclass(frozen=True)
class SweepOptions:
    """What is swept, and where it is written.

    Attributes:
        folder: The folder of the traces; that of a task is `<task>.jsonl`.
        alphas: The strengths, the neutral one first.
        offered: The options of rows that offer none themselves; empty if there are none.
    """

    folder: Path
    alphas: tuple[float, ...]
    offered: tuple[str, ...] = ()


class SweepModel(SteeredModel):
    """A Hugging Face vision-language model whose answers are written to traces, and not scored by lmms-eval.

    Args:
        pretrained: See `SteeredModel`.
        method: The method that is swept.
        **given: See `SteeredModel`; without the strength.
    """

    default_pretrained = None
    options: SweepOptions

    def __init__(self, pretrained: str | None = None, method: str = Sweep.method, **given: Any) -> None:
        if "trace" in given:
            raise ValueError(f"trace={given['trace']!r}: a sweep writes its traces to the folder -o; leave it out")
        self.method = method
        super().__init__(pretrained, **at_neutral(method, given))

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
        method, options = plan
        swept = self.runner.sweep(prompts, self.options.alphas, encoded, method, **options)
        self.write(requests, prompts, swept, traces)

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
        offered = {OFFERED: list(self.options.offered)} if self.options.offered else {}
        traces: dict[str, TaskTrace[bool]] = {}
        for request, (method, options) in zip(requests, plans, strict=True):
            if request.task_name not in traces:
                task = RecordedTask.of(request)
                settings = {**fixed(method), **offered}
                about: dict[str, Any] = {"swept": name_of(method), "settings": settings, "alphas": self.options.alphas}
                header = task.header(self.runner, options, **about)
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
    method: str = Sweep.method,
    places: Mapping[str, str | None] | None = None,
    tell: Callable[[str], object] = lambda sentence: None,
    batch_size: int = 1,
    limit: int | None = None,
    include_path: str | None = None,
    gen_kwargs: str = "",
) -> tuple[Sequence[Path], bool]:
    """Sweep tasks of lmms-eval.

    Args:
        model_args: The model's arguments, as NAME=VALUE,NAME=VALUE.
        tasks: Names of tasks and groups, with `*` if wanted.
        options: The strengths and the folder.
        method: The method whose strength is swept.
        places: The layers or heads that it steers, if given by options of the command.
        tell: Called with what the sweep costs, before the model is loaded.
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
    own = {"batch_size": batch_size, "method": method, **(places or {})}
    check_model_args(model_args, own)
    manager = TaskManager(include_path=include_path, model_name=PLAIN)
    names = check_tasks(manager, tasks, gen_kwargs)
    known = [leaf for name in names for leaf, _ in leaves(manager, name)]
    methods = methods_for(known, {**simple_parse_args_string(model_args), **own})
    for sentence in dict.fromkeys(cost_of_sweep(one, len(options.alphas) - 1) for one in methods):
        if sentence is not None:
            tell(sentence)
    model: Any = SweepModel.create_from_arg_string(model_args, own)
    model.options = options
    return sweep_with(model, manager, names, limit, gen_kwargs, methods), model.rank == 0


def methods_for(tasks: Sequence[str], given: Mapping[str, Any]) -> list[Method]:
    """Return the method that is swept for each task, at its neutral strength.

    Args:
        tasks: The tasks.
        given: The arguments of `SweepModel`.

    Raises:
        ValueError: If an argument is unknown or unusable.
    """
    values: dict[str, Any] = {name: found for name, value in given.items() if (found := given_value(value)) is not None}
    if "pretrained" not in values:
        return []  # the model says what to do
    arguments = ModelArguments(**at_neutral(values["method"], values))
    return [arguments.choose(task) for task in dict.fromkeys(tasks)]


def at_neutral(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model with the neutral strength of the method that is swept.

    Raises:
        ValueError: If they give a strength.
    """
    found = method_class(method)
    if found.strength is None:
        return dict(given)
    if given_value(given.get(found.strength)) is not None:
        raise ValueError(
            f"{found.strength}={given[found.strength]!r}: a sweep answers under several strengths; give them by "
            "--alphas, and leave it out of --model-args"
        )
    return {**given, found.strength: found.neutral}


def sweep_with(
    model: SweepModel,
    manager: TaskManager,
    names: Sequence[str],
    limit: int | None,
    gen_kwargs: str,
    methods: Sequence[Method] = (),
) -> Sequence[Path]:
    """Sweep with a model that is loaded, by these methods; see `sweep`.

    Returns:
        The traces.

    Raises:
        OSError: If lmms-eval has tried in vain to read a task's data.
        ValueError: If it asked nothing, or the model lacks what a method needs.
    """
    for method in methods:
        model.runner.check(method)
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


def _row(trace: TaskTrace[bool], request: Instance, prompt: Prompt, swept: Swept) -> Row:
    unsteered = trace.header.sweep.plain
    plain = swept.answers[unsteered]
    # Most coefficients give the same answer.
    scores = {text: trace.task.scores(request, text) for text in {answer.text for answer in swept.answers.values()}}
    steered = any(answer.alpha != unsteered for answer in swept.answers.values())
    return trace.row(
        request,
        prompt,
        confidence=plain.confidence,
        entropy=swept.entropy,
        top=[{"id": token, "text": text, "log_probability": value} for token, text, value in swept.top],
        alpha=None if steered or len(swept.answers) == 1 else unsteered,
        generations={alpha: answer.text for alpha, answer in swept.answers.items()},
        metrics={alpha: found for alpha, answer in swept.answers.items() if (found := scores[answer.text])},
        options=swept.options,
        input_tokens=plain.input_tokens,
        output_tokens={alpha: answer.output_tokens for alpha, answer in swept.answers.items()},
    )

"""What all answering models of lmms-eval share: their arguments, checks, prompts, traces and figures."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from adaptvis_plugin.data.questions import offered_options, whole_prompt
from adaptvis_plugin.decoding import Method
from adaptvis_plugin.images import read_image
from adaptvis_plugin.lmms_eval.cache import complete_keys
from adaptvis_plugin.lmms_eval.recording import RecordedTask, TaskTrace, add_rows
from adaptvis_plugin.lmms_eval.requests import (
    check_model_args,
    generation_options,
    given_value,
    recorded_answer,
    result_of,
)
from adaptvis_plugin.lmms_eval.summary import report
from adaptvis_plugin.models.answers import Answer, Prompt
from adaptvis_plugin.models.asked import AskedModel
from adaptvis_plugin.traces import Row

NOT_HERE = {
    "method": "the model's name says the method; leave it out",
    "max_new_tokens": "give it as --gen_kwargs max_new_tokens=N",
}
"""Arguments that lmms-eval takes elsewhere -> where."""

Plan = tuple[Method, dict[str, Any]]
"""How a request is answered: the method, and the options of the decoding."""


Answered = tuple[Sequence[int], Sequence[Prompt], Sequence[Answer]]
"""Rows that were answered together: their places, prompts and answers."""


class MethodModel(lmms):
    """A vision-language model decoded under one method; a subclass says how it is made and how it answers.

    Args:
        pretrained: See `ModelArguments`; by default the checkpoint that the model's name stands for.
        **given: The other arguments of `ModelArguments`, all reachable through `--model_args`.

    Attributes:
        runner: The model as it is asked.
        seconds: The time spent decoding.

    Raises:
        ValueError: If an argument is unknown or unusable, before the checkpoint is read.
    """

    is_simple = False
    method: str
    default_pretrained: str | None
    runner: AskedModel

    def __init__(self, pretrained: str | None = None, **given: Any) -> None:
        super().__init__()
        for name, place in NOT_HERE.items():
            if name in given:
                raise ValueError(f"--model_args {name}={given[name]!r}: {place}")
        pretrained = given_value(pretrained) or self.default_pretrained
        if pretrained is None:
            raise ValueError("give the checkpoint: --model_args pretrained=NAME_OR_FOLDER (or pretrained=demo)")
        given = {name: given_value(value) for name, value in given.items()}
        self.runner = self.made(pretrained, given)
        complete_keys()

    @abstractmethod
    def made(self, pretrained: str, given: dict[str, Any]) -> AskedModel:
        """Return the model that answers.

        Args:
            pretrained: The checkpoint.
            given: The other arguments; None counts as not given.

        Raises:
            ValueError: See the class.
        """

    @abstractmethod
    def answers(self, requests: Sequence[Instance], plans: Sequence[Plan], todo: Iterable[int]) -> Iterator[Answered]:
        """Yield the answers of requests as they are there, and add the time that they take to `seconds`.

        Args:
            requests: The requests.
            plans: How each is answered.
            todo: The places of those that are wanted.
        """

    def join_processes(self) -> Accelerator:
        """Take this process's place among those that lmms-eval was started in."""
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        return self.accelerator

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """Create a model from `--model_args`, as lmms-eval does, but refuse what it would misread.

        Raises:
            ValueError: See `check_model_args`.
        """
        check_model_args(arg_string, additional_config or {})
        model: Self = super().create_from_arg_string(arg_string, additional_config)
        return model

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request, in order; check all of their settings before the first is decoded."""
        plans = [self._plan(request) for request in requests]
        traces = self._traces(requests, plans)
        results = [traces[r.task_name].answered(r) if traces else None for r in requests]
        todo = [place for place, result in enumerate(results) if result is None]
        done: list[Answer] = []
        self.seconds = 0.0
        with self.progress(f"{self.method} decoding", len(requests), len(todo)) as progress:
            for places, prompts, answers in self.answers(requests, plans, todo):
                done += answers
                for place, answer in zip(places, answers, strict=True):
                    results[place] = result_of(answer)
                    context, _, given, *_ = requests[place].args
                    self.cache_hook.add_partial("generate_until", (context, given), answer.text)
                if traces:
                    asked = [requests[place] for place in places]
                    add_rows(
                        traces,
                        (
                            (request, answer_row(traces[request.task_name], request, prompt, answer))
                            for request, prompt, answer in zip(asked, prompts, answers, strict=True)
                        ),
                    )
                progress.update(len(places))
        if done:
            report(done, self.seconds, self.runner.stats)
        return [result for result in results if result is not None]

    def progress(self, title: str, rows: int, todo: int) -> "tqdm[Any]":
        """Return a progress bar over all rows, of which some may be done; only the first process shows it."""
        return tqdm(total=rows, initial=rows - todo, desc=title, disable=self.rank != 0)

    def alike(self, plans: Sequence[Plan], todo: Iterable[int]) -> Iterator[list[int]]:
        """Yield the places of requests with one plan."""
        groups: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
        for place in todo:
            method, options = plans[place]
            groups[method, repr(sorted(options.items()))].append(place)
        yield from groups.values()

    def _plan(self, request: Instance) -> Plan:
        _, _, options, doc_id, task, split = request.args
        method, documents = self.runner.arguments.choose(task), self.task_dict[task][split]
        self.runner.check(method)
        if (columns := getattr(documents, "column_names", None)) is not None:  # one column, so that no image is decoded
            offered = {"options": documents["options"][doc_id]} if "options" in columns else {}
            method.check_offered(f"{task}, document {doc_id}", offered_options(offered))
        return method, generation_options(options, task)

    def _traces(self, requests: Sequence[Instance], plans: Sequence[Plan]) -> dict[str, TaskTrace[GenerationResult]]:
        """Open the traces of an ordinary run, one for each task; none if the user wants none.

        Raises:
            TraceError: See `TaskTrace`.
        """
        if (folder := self.runner.arguments.trace) is None:
            return {}
        traces: dict[str, TaskTrace[GenerationResult]] = {}
        for request, (method, options) in zip(requests, plans, strict=True):
            if request.task_name not in traces:
                task = RecordedTask.of(request)
                header = task.header(self.runner, options, method=self.method, settings=method.settings)
                path = Path(folder) / f"{type(self).__name__}_{task.name}.jsonl"
                traces[task.name] = TaskTrace(path, task, header, _recorded_result)
        return traces

    def prompt(self, request: Instance, method: Method) -> Prompt:
        """Return a request as the runner takes it under a method.

        Raises:
            ValueError: If the model cannot be asked that; the message names the document.
        """
        context, doc_to_messages, _, doc_id, task, split = request.args
        name = f"{task}, document {doc_id}"
        document = self.task_dict[task][split][doc_id]
        given = doc_to_messages(document)
        messages = ChatMessages(messages=given)
        found, videos, audios = messages.extract_media()
        if videos or audios:
            raise ValueError(f"{name}: holds video or audio; this model takes images and text")
        try:
            images = tuple(read_image(image) for image in found)
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{name}: an image cannot be read ({error})") from error
        whole = whole_prompt(part for message in given for part in message["content"])
        try:
            return self.runner.prompt(
                method, messages.to_hf_messages(), context, whole, images, name, offered_options(document)
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: the methods steer the generation of an answer."""
        raise ValueError(f"{self.method} is a decoding method; use a task with output_type: generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: the methods are defined for one question and one answer."""
        raise ValueError(f"{self.method} answers single questions; tasks of several rounds are not supported")


def answer_row(trace: TaskTrace[Any], request: Instance, prompt: Prompt, answer: Answer) -> Row:
    """Return the row of a request that was answered in one way."""
    return trace.row(
        request,
        prompt,
        confidence=answer.confidence,
        alpha=answer.alpha,
        generations={answer.alpha: answer.text},
        input_tokens=answer.input_tokens,
        output_tokens={answer.alpha: answer.output_tokens},
    )


def _recorded_result(row: Row) -> GenerationResult:
    (alpha,) = row.generations
    return result_of(recorded_answer(row, alpha))


def pictures_of(documents: Any) -> Mapping[int, str]:
    """Return what identifies each row's picture, if the data says so; it may be a number, and missing in some rows."""
    known = "image_id" in getattr(documents, "column_names", ())
    return {row: str(picture) for row, picture in enumerate(documents["image_id"])} if known else {}

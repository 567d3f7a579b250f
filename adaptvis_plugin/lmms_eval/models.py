"""The models of lmms-eval: any Hugging Face VLM under one of the methods.

`llava_adaptvis`, `vlm_scalingvis` and the other names of `plugin.model_names` are attributes of this module:
subclasses of `SteeredModel`, built on first use.
"""

import os
import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from adaptvis_plugin.data.questions import offered_options, whole_prompt
from adaptvis_plugin.decoding import Method
from adaptvis_plugin.lmms_eval.cache import complete_keys
from adaptvis_plugin.lmms_eval.plugin import FAMILIES, REPLAY, model_names
from adaptvis_plugin.lmms_eval.recording import RecordedTask, TaskTrace, add_rows
from adaptvis_plugin.lmms_eval.requests import (
    check_model_args,
    generation_options,
    given_value,
    recorded_answer,
    result_of,
)
from adaptvis_plugin.lmms_eval.summary import report
from adaptvis_plugin.methods import METHODS
from adaptvis_plugin.models.answers import Answer, Encoded, Prompt
from adaptvis_plugin.models.arguments import ModelArguments, argument_help
from adaptvis_plugin.models.batching import ahead, batches
from adaptvis_plugin.models.runner import Runner, read_image
from adaptvis_plugin.traces import Row

NOT_HERE = {
    "method": "the model's name says the method; leave it out",
    "max_new_tokens": "give it as --gen_kwargs max_new_tokens=N",
}
"""Arguments that lmms-eval takes elsewhere -> where."""

Plan = tuple[Method, dict[str, Any]]
"""How a request is answered: the method, and the options of the decoding."""


class SteeredModel(lmms):
    """A Hugging Face vision-language model decoded under one method.

    Args:
        pretrained: See `ModelArguments`; by default the checkpoint that the model's name stands for.
        **given: The other arguments of `ModelArguments`, all reachable through `--model_args`.

    Raises:
        ValueError: If an argument is unknown or unusable, before the checkpoint is read.
    """

    is_simple = False
    method: str
    default_pretrained: str | None

    def __init__(self, pretrained: str | None = None, **given: Any) -> None:
        super().__init__()
        for name, place in NOT_HERE.items():
            if name in given:
                raise ValueError(f"--model_args {name}={given[name]!r}: {place}")
        pretrained = given_value(pretrained) or self.default_pretrained
        if pretrained is None:
            raise ValueError("give the checkpoint: --model_args pretrained=NAME_OR_FOLDER (or pretrained=demo)")
        given = {name: given_value(value) for name, value in given.items()}
        arguments = ModelArguments(method=self.method, pretrained=pretrained, **given)
        self.batch_size_per_gpu = arguments.batch_size
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if self._world_size > 1:
            ranks = int(os.environ.get("LOCAL_WORLD_SIZE", self._world_size))
            arguments = arguments.of_rank(self.accelerator.local_process_index, ranks, self.accelerator.device.type)
        self.runner = Runner(arguments)
        self._model = self.runner.model
        complete_keys()

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> "SteeredModel":
        """Create a model from `--model_args`, as lmms-eval does, but refuse what it would misread.

        Raises:
            ValueError: See `check_model_args`.
        """
        check_model_args(arg_string, additional_config or {})
        model: SteeredModel = super().create_from_arg_string(arg_string, additional_config)
        return model

    @property
    def batch_size(self) -> int:
        """Rows per batch."""
        return self.batch_size_per_gpu

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return self._model.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request, in order; check all of their settings before the first is decoded."""
        plans = [self._plan(request) for request in requests]
        traces = self._traces(requests, plans)
        results = [traces[r.task_name].answered(r) if traces else None for r in requests]
        todo = [place for place, result in enumerate(results) if result is None]
        done: list[Answer] = []
        elapsed = 0.0
        with self.progress(f"{self.method} decoding", len(requests), len(todo)) as progress:
            for batch, prompts, encoded in self.encoded(requests, plans, todo):
                method, options = plans[batch[0]]
                start = time.perf_counter()
                answers = self.runner.answer(prompts, method, encoded, **options)
                elapsed += time.perf_counter() - start
                done += answers
                for place, answer in zip(batch, answers, strict=True):
                    results[place] = result_of(answer)
                    context, _, given, *_ = requests[place].args
                    self.cache_hook.add_partial("generate_until", (context, given), answer.text)
                if traces:
                    asked = [requests[place] for place in batch]
                    add_rows(
                        traces,
                        (
                            (request, answer_row(traces[request.task_name], request, prompt, answer))
                            for request, prompt, answer in zip(asked, prompts, answers, strict=True)
                        ),
                    )
                progress.update(len(batch))
        if done:
            report(done, elapsed, self.runner.decoder.stats)
        return [result for result in results if result is not None]

    def progress(self, title: str, rows: int, todo: int) -> "tqdm[Any]":
        """Return a progress bar over all rows, of which some may be done; only the first process shows it."""
        return tqdm(total=rows, initial=rows - todo, desc=title, disable=self.rank != 0)

    def encoded(
        self, requests: Sequence[Instance], plans: Sequence[Plan], todo: Iterable[int]
    ) -> Iterator[tuple[list[int], list[Prompt], Encoded]]:
        """Yield batches of requests with one plan, as their places, prompts and inputs; the next is made ahead."""
        groups: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
        for place in todo:
            method, options = plans[place]
            groups[method, repr(sorted(options.items()))].append(place)

        def load(batch: list[int]) -> tuple[list[int], list[Prompt], Encoded]:
            method, _ = plans[batch[0]]
            prompts = [self.prompt(requests[place], method) for place in batch]
            return batch, prompts, self.runner.encode(prompts, method)

        for places in groups.values():
            yield from ahead(self._batches(requests, places), load)

    def _plan(self, request: Instance) -> Plan:
        _, _, options, doc_id, task, split = request.args
        method, documents = self.runner.arguments.choose(task), self.task_dict[task][split]
        self.runner.decoder.check(method)
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

    def _batches(self, requests: Sequence[Instance], places: list[int]) -> Iterator[list[int]]:
        tasks = {request.args[4:] for request in (requests[place] for place in places)}
        pictures = {(task, split): _pictures(self.task_dict[task][split]) for task, split in tasks}

        def look(place: int) -> tuple[str, str]:
            context, _, _, doc_id, task, split = requests[place].args
            return context, pictures[task, split].get(doc_id, "")

        return batches(places, self.batch_size, look)

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


def _pictures(documents: Any) -> Mapping[int, str]:
    """Return what identifies each row's picture, if the data says so; it may be a number, and missing in some rows."""
    known = "image_id" in getattr(documents, "column_names", ())
    return {row: str(picture) for row, picture in enumerate(documents["image_id"])} if known else {}


def __getattr__(name: str) -> type[lmms]:
    if name not in model_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    family, method = name.split("_", 1)
    assert method in METHODS
    if family == REPLAY:
        from adaptvis_plugin.lmms_eval.replay import ReplayModel

        base: type[lmms] = ReplayModel
    else:
        base = SteeredModel
    attributes = {
        "method": method,
        "default_pretrained": FAMILIES[family],
        "__module__": __name__,
        "__doc__": f"{(base.__doc__ or '').splitlines()[0]} Here: {method}. Its arguments:\n\n{argument_help(method)}",
    }
    globals()[name] = type(name, (base,), attributes)
    found: type[lmms] = globals()[name]
    return found

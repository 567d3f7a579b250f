"""The models of lmms-eval: any Hugging Face VLM under one of the methods.

`llava_adaptvis`, `vlm_scalingvis` and the other names of `plugin.model_names` are attributes of this module:
subclasses of `SteeredModel`, built on first use.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from adaptvis_plugin.lmms_eval.answering import Answered, MethodModel, Plan, pictures_of
from adaptvis_plugin.lmms_eval.plugin import ENGINE, FAMILIES, REPLAY, model_names
from adaptvis_plugin.models.answers import Encoded, Prompt
from adaptvis_plugin.models.arguments import ModelArguments, argument_help
from adaptvis_plugin.models.batching import ahead, batches
from adaptvis_plugin.models.runner import Runner


class SteeredModel(MethodModel):
    """A Hugging Face vision-language model decoded under one method.

    Args:
        pretrained: See `MethodModel`.
        **given: See `MethodModel`.

    Raises:
        ValueError: See `MethodModel`.
    """

    runner: Runner

    def made(self, pretrained: str, given: dict[str, Any]) -> Runner:
        """Return the model, on this process's device."""
        arguments = ModelArguments(method=self.method, pretrained=pretrained, **given)
        self.batch_size_per_gpu = arguments.batch_size
        accelerator = self.join_processes()
        if self._world_size > 1:
            ranks = int(os.environ.get("LOCAL_WORLD_SIZE", self._world_size))
            arguments = arguments.of_rank(accelerator.local_process_index, ranks, accelerator.device.type)
        runner = Runner(arguments)
        self._model = runner.model  # where lmms-eval's own models have it
        return runner

    @property
    def batch_size(self) -> int:
        """Rows per batch."""
        return self.batch_size_per_gpu

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return self._model.device

    def answers(self, requests: Sequence[Instance], plans: Sequence[Plan], todo: Iterable[int]) -> Iterator[Answered]:
        """Yield the answers of requests, batch by batch."""
        for places, prompts, encoded in self.encoded(requests, plans, todo):
            method, options = plans[places[0]]
            start = time.perf_counter()
            answers = self.runner.answer(prompts, method, encoded, **options)
            self.seconds += time.perf_counter() - start
            yield places, prompts, answers

    def encoded(
        self, requests: Sequence[Instance], plans: Sequence[Plan], todo: Iterable[int]
    ) -> Iterator[tuple[list[int], list[Prompt], Encoded]]:
        """Yield batches of requests with one plan, as their places, prompts and inputs; the next is made ahead."""

        def load(batch: list[int]) -> tuple[list[int], list[Prompt], Encoded]:
            method, _ = plans[batch[0]]
            prompts = [self.prompt(requests[place], method) for place in batch]
            return batch, prompts, self.runner.encode(prompts, method)

        for places in self.alike(plans, todo):
            yield from ahead(self._batches(requests, places), load)

    def _batches(self, requests: Sequence[Instance], places: list[int]) -> Iterator[list[int]]:
        tasks = {request.args[4:] for request in (requests[place] for place in places)}
        pictures = {(task, split): pictures_of(self.task_dict[task][split]) for task, split in tasks}

        def look(place: int) -> tuple[str, str]:
            context, _, _, doc_id, task, split = requests[place].args
            return context, pictures[task, split].get(doc_id, "")

        return batches(places, self.batch_size, look)


def __getattr__(name: str) -> type[lmms]:
    if name not in model_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    family, method = name.split("_", 1)
    base: type[lmms] = SteeredModel
    explained = argument_help(method)
    if family == REPLAY:
        from adaptvis_plugin.lmms_eval.replay import ReplayModel

        base = ReplayModel
    elif family == ENGINE:
        from adaptvis_plugin.lmms_eval.vllm_models import VLLMModel

        base, explained = VLLMModel, VLLMModel.explained(method)
    attributes = {
        "method": method,
        "default_pretrained": FAMILIES[family],
        "__module__": __name__,
        "__doc__": f"{(base.__doc__ or '').splitlines()[0]} Here: {method}. Its arguments:\n\n{explained}",
    }
    globals()[name] = type(name, (base,), attributes)
    found: type[lmms] = globals()[name]
    return found

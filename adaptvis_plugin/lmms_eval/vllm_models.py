"""The models of lmms-eval that answer through vLLM."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance

from adaptvis_plugin.lmms_eval.answering import Answered, MethodModel, Plan, pictures_of
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.arguments import ModelArguments, argument_help
from adaptvis_plugin.vllm.engine import Row
from adaptvis_plugin.vllm.loading import EngineModel
from adaptvis_plugin.vllm.methods import check_gate
from adaptvis_plugin.vllm.options import ELSEWHERE, split
from adaptvis_plugin.vllm.support import check_version

HELP = {
    **dict.fromkeys(ELSEWHERE),
    "batch_size": "a whole number of at least 1: how many questions the engine takes at a time (vLLM's max_num_seqs, "
    "which may be given instead); 1, lmms-eval's default, leaves it to vLLM; in lmms-eval the option --batch_size",
    "further": "every option of `vllm serve` by its name, as max_model_len=4096, tensor_parallel_size=2, "
    'enforce_eager=true or limit_mm_per_prompt={"image": 1}',
}
"""What is said of arguments that mean something else here, or nothing."""


class VLLMModel(MethodModel):
    """A vision-language model in a vLLM engine, decoded under one method.

    Args:
        pretrained: See `MethodModel`.
        **given: See `MethodModel`; and the options of the engine.

    Raises:
        ImportError: If vLLM is not installed, or is not the version that was tested.
        ValueError: See `MethodModel`.
    """

    runner: EngineModel

    @staticmethod
    def explained(method: str) -> str:
        """Return what the arguments mean, under a method."""
        return argument_help(method, other=HELP)

    def made(self, pretrained: str, given: dict[str, Any]) -> EngineModel:
        """Return the model, in an engine of this process."""
        check_version()
        own, options = split(self.method, given)
        arguments = ModelArguments(method=self.method, pretrained=pretrained, **own)
        check_gate(arguments.overrides.get("gate"))
        if arguments.batch_size > 1:
            options.setdefault("max_num_seqs", arguments.batch_size)
        accelerator = self.join_processes()
        if self._world_size > 1:
            see_own_devices(accelerator, options.get("tensor_parallel_size", 1))
        return EngineModel(arguments, options)

    @property
    def device(self) -> torch.device:
        """The device on which lmms-eval's processes exchange numbers."""
        found: torch.device = self.accelerator.device
        return found

    def answers(self, requests: Sequence[Instance], plans: Sequence[Plan], todo: Iterable[int]) -> Iterator[Answered]:
        """Yield the answers of requests as they finish; those about one picture are asked one after the other."""
        tasks = {request.args[4:] for request in requests}
        pictures = {(task, split): pictures_of(self.task_dict[task][split]) for task, split in tasks}

        def picture(place: int) -> tuple[str, ...]:
            *_, doc_id, task, split = requests[place].args
            return task, split, pictures[task, split].get(doc_id, "")

        places = sorted(todo, key=picture)
        generations = {place: self.runner.engine.generation(**plans[place][1]) for place in places}
        prompts: dict[int, Prompt] = {}

        def row(place: int) -> Row:
            method, _ = plans[place]
            prompts[place] = self.prompt(requests[place], method)
            return self.runner.row(prompts[place], method, generations[place])

        start = time.perf_counter()
        for place, answer in self.runner.engine.answers(places, row):
            self.seconds += time.perf_counter() - start
            yield [place], [prompts.pop(place)], [answer]
            start = time.perf_counter()


def see_own_devices(accelerator: Accelerator, devices: int) -> None:
    """Leave the engine of one of several processes its own GPUs: those before are the other processes'.

    Raises:
        ValueError: If there are too few.
    """
    if accelerator.device.type != "cuda":
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    first = accelerator.local_process_index * devices
    own = visible.split(",")[first : first + devices]
    if len(own) < devices:
        raise ValueError(
            f"{accelerator.num_processes} processes with tensor_parallel_size={devices} need as many GPUs each, and "
            f"there are {visible}; start fewer processes (accelerate launch --num_processes N)"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own)

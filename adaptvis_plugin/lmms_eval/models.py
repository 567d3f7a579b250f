"""The models of lmms-eval: any Hugging Face VLM under one of the methods.

`llava_adaptvis`, `vlm_scalingvis` and the other names of `plugin.model_names` are attributes of this module:
subclasses of `SteeredModel`, built on first use.
"""

import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm
from transformers import BatchFeature

from adaptvis_plugin.data.questions import offered_options, whole_prompt
from adaptvis_plugin.lmms_eval.cache import complete_keys
from adaptvis_plugin.lmms_eval.plugin import FAMILIES, model_names
from adaptvis_plugin.lmms_eval.summary import report
from adaptvis_plugin.methods import METHODS
from adaptvis_plugin.models.arguments import ModelArguments, argument_help
from adaptvis_plugin.models.batching import ahead, batches
from adaptvis_plugin.models.runner import Answer, Prompt, Runner, read_image
from adaptvis_plugin.models.validation import positive

NOT_HERE = {
    "method": "the model's name says the method; leave it out",
    "max_new_tokens": "give it as --gen_kwargs max_new_tokens=N",
}
"""Arguments that lmms-eval takes elsewhere -> where."""

GREEDY = {"do_sample": (False, None), "num_beams": (1, None), "temperature": (0, 0.0, None)}
"""Generation options that may only have these values: the methods are defined for greedy decoding."""

NO_EFFECT = ("top_p", "top_k")
"""Generation options that have no effect on greedy decoding, and that many tasks set all the same."""

FEWSHOT_DELIMITER = "\n\n"
"""What lmms-eval writes into `until` where a task does not: the separator of few-shot examples for base models.

It would cut an answer after its first paragraph. lmms-eval's newest chat models (Qwen3.5, LFM2.5-VL, LLaVA-OneVision 2)
ignore `until` altogether; here every stop string holds but this one."""


@dataclass
class SteeredCounts(TokenCounts):
    """Token counts that carry a row's confidence and alpha into the samples file, which keeps no other field."""

    confidence: float = math.nan
    alpha: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, with `confidence` and `alpha` beside them."""
        return {**super().to_dict(), "confidence": self.confidence, "alpha": self.alpha}


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
        pretrained = _given(pretrained) or self.default_pretrained
        if pretrained is None:
            raise ValueError("give the checkpoint: --model_args pretrained=NAME_OR_FOLDER (or pretrained=demo)")
        given = {name: _given(value) for name, value in given.items()}
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
            ValueError: If it is not NAME=VALUE,..., or an argument is given twice, here or by an option of the command.
        """
        if "{" not in arg_string and (odd := [part for part in arg_string.split(",") if part and "=" not in part]):
            raise ValueError(f"--model_args {arg_string}: {odd[0]!r} is not NAME=VALUE; write for example alpha=0.8")
        names = re.findall(r"(?:^|,)\s*(\w+)\s*=", arg_string)
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"--model_args {arg_string}: {twice[0]} is given twice")
        options = [name for name, value in (additional_config or {}).items() if value is not None]
        if both := [name for name in names if name in options]:
            raise ValueError(
                f"--model_args {arg_string}: give {both[0]} by the option --{both[0]} (or its default) and not here too"
            )
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
        groups: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
        plans = []
        for place, request in enumerate(requests):
            _, _, options, _, task, _ = request.args
            method = self.runner.arguments.choose(task)
            plans.append((method, generation_options(options, task)))
            groups[method, repr(sorted(plans[-1][1].items()))].append(place)

        def load(batch: list[int]) -> tuple[list[int], list[Prompt], BatchFeature]:
            prompts = [self._prompt(requests[place]) for place in batch]
            return batch, prompts, self.runner.encode(prompts)

        results: list[GenerationResult | None] = [None] * len(requests)
        done: list[Answer] = []
        elapsed = 0.0
        with tqdm(total=len(requests), desc=f"{self.method} decoding", disable=self.rank != 0) as progress:
            for places in groups.values():
                method, options = plans[places[0]]
                for batch, prompts, encoded in ahead(self._batches(requests, places), load):
                    start = time.perf_counter()
                    answers = self.runner.answer(prompts, method, encoded, **options)
                    elapsed += time.perf_counter() - start
                    done += answers
                    for place, answer in zip(batch, answers, strict=True):
                        counts = SteeredCounts(
                            input_tokens=answer.input_tokens,
                            output_tokens=answer.output_tokens,
                            confidence=answer.confidence,
                            alpha=answer.alpha,
                        )
                        results[place] = GenerationResult(answer.text, counts)
                        context, _, given, *_ = requests[place].args
                        self.cache_hook.add_partial("generate_until", (context, given), answer.text)
                    progress.update(len(batch))
        if done:
            report(done, elapsed, self.runner.decoder.stats)
        return [result for result in results if result is not None]

    def _batches(self, requests: list[Instance], places: list[int]) -> Iterator[list[int]]:
        tasks = {request.args[4:] for request in (requests[place] for place in places)}
        pictures = {(task, split): _pictures(self.task_dict[task][split]) for task, split in tasks}

        def look(place: int) -> tuple[str, str]:
            context, _, _, doc_id, task, split = requests[place].args
            return context, pictures[task, split].get(doc_id, "")

        return batches(places, self.batch_size, look)

    def _prompt(self, request: Instance) -> Prompt:
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
            text = self.runner.render(messages.to_hf_messages(), context, whole)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return Prompt(text, images, name, offered_options(document))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: the methods steer the generation of an answer."""
        raise ValueError(f"{self.method} is a decoding method; use a task with output_type: generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: the methods are defined for one question and one answer."""
        raise ValueError(f"{self.method} answers single questions; tasks of several rounds are not supported")


def _pictures(documents: Any) -> Mapping[int, str]:
    """Return what identifies each row's picture, if the data says so; it may be a number, and missing in some rows."""
    known = "image_id" in getattr(documents, "column_names", ())
    return {row: str(picture) for row, picture in enumerate(documents["image_id"])} if known else {}


def generation_options(options: dict[str, Any], task: str) -> dict[str, Any]:
    """Return a task's `generation_kwargs` as options of `Runner.answer`, and leave the given dictionary unchanged.

    The stop strings are those of `until`, except `FEWSHOT_DELIMITER`.

    Raises:
        ValueError: If they ask for sampling or beams.
    """
    options = dict(options)
    for name, allowed in GREEDY.items():
        value = options.pop(name, None)
        if value not in allowed:
            raise ValueError(
                f"task {task!r} asks for {name}={value!r}: the steering methods are defined for greedy decoding; "
                "pass --gen_kwargs do_sample=False,num_beams=1,temperature=0"
            )
    for name in NO_EFFECT:
        options.pop(name, None)
    until = options.pop("until", None)
    until = [until] if isinstance(until, str) else until or []
    if stop_strings := [stop for stop in until if stop and stop != FEWSHOT_DELIMITER]:
        options["stop_strings"] = stop_strings
    options["max_new_tokens"] = positive("max_new_tokens", options.get("max_new_tokens", 100))
    return options


def _given(value: Any) -> Any:
    """Return the value of a model argument; the command line passes an absent one as the text 'None'."""
    return None if value in (None, "", "None") else value


def __getattr__(name: str) -> type[SteeredModel]:
    if name not in model_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    family, method = name.split("_", 1)
    assert method in METHODS
    attributes = {
        "method": method,
        "default_pretrained": FAMILIES[family],
        "__module__": __name__,
        "__doc__": f"A Hugging Face vision-language model under {method}. Its arguments:\n\n{argument_help(method)}",
    }
    globals()[name] = type(name, (SteeredModel,), attributes)
    found: type[SteeredModel] = globals()[name]
    return found

"""The models of lmms-eval: any Hugging Face VLM under one of the methods.

`llava_adaptvis`, `vlm_scalingvis` and the other names of `plugin.model_names` are attributes of this module, made of
`SteeredModel` on first use.
"""

import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm
from transformers import BatchFeature

from adaptvis_plugin.data.questions import whole_prompt
from adaptvis_plugin.lmms_eval.cache import complete_keys
from adaptvis_plugin.lmms_eval.plugin import FAMILIES, model_names
from adaptvis_plugin.lmms_eval.summary import report
from adaptvis_plugin.methods import METHODS
from adaptvis_plugin.models.options import Loading
from adaptvis_plugin.models.runner import Answer, Question, Runner, Setup, positive, read_image

ARGUMENTS = ("pretrained", "preset", "prompt", "batch_size", *(field.name for field in fields(Loading)))
"""Model arguments to suggest when a misspelt one is given."""

GREEDY = {"do_sample": (False, None), "num_beams": (1, None), "temperature": (0, 0.0, None)}
"""Generation options that may only have these values: the methods are defined for greedy decoding."""

LENGTH_BUCKET = 64
"""Characters of a question within which lengths count as the same when batches are formed."""

NO_EFFECT = ("top_p", "top_k")
"""Generation options that say nothing about greedy decoding, and that many tasks set all the same."""

FEWSHOT_DELIMITER = "\n\n"
"""What lmms-eval writes into `until` where a task does not: what stands between the few-shot examples of a base model.

It would cut an answer after its first paragraph. lmms-eval's newest chat models (Qwen3.5, LFM2.5-VL, LLaVA-OneVision 2)
go by no `until` at all; here a stop string that somebody asked for holds, and only this one does not."""


@dataclass
class SteeredCounts(TokenCounts):
    """Token counts that carry a row's confidence and alpha into the samples file, which keeps no other field."""

    confidence: float = math.nan
    alpha: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """The counts, with `confidence` and `alpha` beside them."""
        return {**super().to_dict(), "confidence": self.confidence, "alpha": self.alpha}


class SteeredModel(lmms):
    """A Hugging Face vision-language model decoded under one method.

    Args (all reachable through `--model_args`):
        pretrained: hub name, folder, or `demo`.
        preset: name or path of a preset; by default the one that names the checkpoint.
        prompt: `paper` or `chat`; by default the preset's, else `chat`.
        batch_size: rows per batch.
        dtype, device, device_map, attn_implementation, revision, trust_remote_code: see `Loading`.
        alpha, alpha_low, alpha_high, threshold: the method's hyper-parameters, in place of the preset's.

    Raises:
        ValueError: for an unknown or unusable argument, before the checkpoint is read.
    """

    is_simple = False
    method: str
    default_pretrained: str | None

    def __init__(
        self,
        pretrained: str | None = None,
        preset: str | None = None,
        prompt: str | None = None,
        batch_size: int | str = 1,
        dtype: str = "auto",
        device: str | None = None,
        device_map: str | None = None,
        attn_implementation: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        **values: Any,
    ) -> None:
        super().__init__()
        pretrained = _given(pretrained) or self.default_pretrained
        if pretrained is None:
            raise ValueError("give the checkpoint: --model_args pretrained=NAME_OR_FOLDER (or pretrained=demo)")
        given = {name: _given(value) for name, value in values.items()}
        self.batch_size_per_gpu = positive("batch_size", batch_size)
        setup = Setup.create(self.method, pretrained, _given(preset), _given(prompt), given, ARGUMENTS)
        loading = Loading(
            dtype=dtype,
            device=_given(device),
            device_map=_given(device_map),
            attn_implementation=_given(attn_implementation),
            revision=_given(revision),
            trust_remote_code=trust_remote_code,
        )
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if self._world_size > 1:
            ranks = int(os.environ.get("LOCAL_WORLD_SIZE", self._world_size))
            loading = loading.of_rank(self.accelerator.local_process_index, ranks, self.accelerator.device.type)
        self.runner = Runner(setup, **asdict(loading))
        self._model = self.runner.model
        complete_keys()

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> "SteeredModel":
        """As lmms-eval's own, with errors that say what is wrong; there the last of two values would win.

        Raises:
            ValueError: if it is not NAME=VALUE,..., or an argument comes twice, here or by an option of the command.
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
        """Where the inputs go."""
        return self._model.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request, in order; nothing is decoded before all of them are known to be answerable."""
        groups: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
        plans = []
        for place, request in enumerate(requests):
            _, _, options, _, task, _ = request.args
            method = self.runner.setup.choose(task)
            plans.append((method, generation_options(options, task)))
            groups[method, repr(sorted(plans[-1][1].items()))].append(place)

        results: list[GenerationResult | None] = [None] * len(requests)
        done: list[Answer] = []
        elapsed = 0.0
        with tqdm(total=len(requests), desc=f"{self.method} decoding", disable=self.rank != 0) as progress:
            for places in groups.values():
                method, options = plans[places[0]]
                for batch, questions, encoded in self._ahead(requests, places):
                    start = time.perf_counter()
                    answers = self.runner.answer(questions, method, encoded, **options)
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

    def _ahead(
        self, requests: list[Instance], places: list[int]
    ) -> Iterator[tuple[list[int], list[Question], BatchFeature]]:
        """The batches, each read and preprocessed in a thread while the model decodes the one before."""

        def load(batch: list[int]) -> tuple[list[int], list[Question], BatchFeature]:
            questions = [self._question(requests[place]) for place in batch]
            return batch, questions, self.runner.encode(questions)

        with ThreadPoolExecutor(max_workers=1) as reader:
            following: Future[tuple[list[int], list[Question], BatchFeature]] | None = None
            for batch in self._batches(requests, places):
                current, following = following, reader.submit(load, batch)
                if current is not None:
                    yield current.result()
            if following is not None:
                yield following.result()

    def _batches(self, requests: list[Instance], places: list[int]) -> Iterator[list[int]]:
        """Batches of questions of about the same length and, within that, of the same picture.

        Little of a batch is then padding, and rows that share a picture share its prefill. Where the data does not say
        which rows do, they stay in its order, in which questions about one picture mostly follow each other.
        """
        tasks = {request.args[4:] for request in (requests[place] for place in places)}
        pictures = {(task, split): _pictures(self.task_dict[task][split]) for task, split in tasks}

        def order(place: int) -> tuple[int, str]:
            context, _, _, doc_id, task, split = requests[place].args
            return -(len(context) // LENGTH_BUCKET), pictures[task, split].get(doc_id, "")

        ordered = sorted(places, key=order)
        for start in range(0, len(ordered), self.batch_size):
            yield ordered[start : start + self.batch_size]

    def _question(self, request: Instance) -> Question:
        context, doc_to_messages, _, doc_id, task, split = request.args
        name = f"{task}, document {doc_id}"
        given = doc_to_messages(self.task_dict[task][split][doc_id])
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
        return Question(text, images, name)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: the methods steer the generation of an answer."""
        raise ValueError(f"{self.method} is a decoding method; use a task with output_type: generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: the methods are defined for one question and one answer."""
        raise ValueError(f"{self.method} answers single questions; tasks of several rounds are not supported")


def _pictures(documents: Any) -> Mapping[int, str]:
    """Row -> what identifies its picture, where the data says so: in some a number, and missing in some rows."""
    known = "image_id" in getattr(documents, "column_names", ())
    return {row: str(picture) for row, picture in enumerate(documents["image_id"])} if known else {}


def generation_options(options: dict[str, Any], task: str) -> dict[str, Any]:
    """A task's `generation_kwargs` as options of `Runner.answer`; the given dictionary stays as it is.

    Stop strings are those of `until`, except `FEWSHOT_DELIMITER`.

    Raises:
        ValueError: if they ask for sampling or beams.
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
    """The value of a model argument; the command line passes an absent one as the text 'None'."""
    return None if value in (None, "", "None") else value


def __getattr__(name: str) -> type[SteeredModel]:
    if name not in model_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    family, method = name.split("_", 1)
    assert method in METHODS
    attributes = {"method": method, "default_pretrained": FAMILIES[family], "__module__": __name__}
    globals()[name] = type(name, (SteeredModel,), attributes)
    found: type[SteeredModel] = globals()[name]
    return found

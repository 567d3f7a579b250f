"""The models of lmms-eval: any Hugging Face VLM under one of the methods.

`llava_adaptvis`, `vlm_scalingvis` and the other names of `plugin.model_names` are attributes of this module, made of
`SteeredModel` on first use.
"""

import difflib
import math
import time
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.protocol import ChatMessages
from PIL import Image
from tqdm import tqdm

from adaptvis_plugin.decoding import Decoder, Method
from adaptvis_plugin.lmms_eval.plugin import FAMILIES, model_names
from adaptvis_plugin.methods import METHODS, hyper_parameters
from adaptvis_plugin.models.loading import load_model
from adaptvis_plugin.models.presets import Preset, Values, choose_method, find_preset, load_preset
from adaptvis_plugin.models.prompts import chat_text, encode, paper_prompt, paper_text

GREEDY = {"do_sample": (False, None), "num_beams": (1, None), "temperature": (0, 0.0, None)}
"""Generation options that may only have these values: the methods are defined for greedy decoding."""

NO_EFFECT = ("top_p", "top_k")
"""Generation options that say nothing about greedy decoding, and that many tasks set all the same."""


@dataclass
class SteeredCounts(TokenCounts):
    """Token counts that carry a row's confidence and alpha into the samples file, which keeps no other field."""

    confidence: float = math.nan
    alpha: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """The counts, with `confidence` and `alpha` beside them."""
        return {**super().to_dict(), "confidence": self.confidence, "alpha": self.alpha}


@dataclass(frozen=True)
class Question:
    """One request of lmms-eval, resolved."""

    place: int
    context: str
    text: str
    images: tuple[Image.Image, ...]


class SteeredModel(lmms):
    """A Hugging Face vision-language model decoded under one method.

    Args (all reachable through `--model_args`):
        pretrained: hub name, folder, or `demo`.
        preset: name or path of a preset; by default the one that names the checkpoint.
        prompt: `paper` or `chat`; by default the preset's, else `chat`.
        batch_size: rows per batch.
        dtype, device, device_map, attn_implementation, revision, trust_remote_code: see `load_model`.
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
        self.overrides = self._check_values(values)
        self.batch_size_per_gpu = _positive("batch_size", batch_size)
        named = _given(preset)
        self.preset: Preset | None = load_preset(named) if named else find_preset(pretrained)
        self.prompt = _given(prompt) or (self.preset.prompt if self.preset else "chat")
        if self.prompt not in ("paper", "chat"):
            raise ValueError(
                f"prompt={self.prompt!r}: give paper (the authors' wording) or chat (the model's own template)"
            )

        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        device, device_map = _given(device), _given(device_map)
        if device_map is not None:
            device = None  # the framework always fills in a device; the user's map is the more specific wish
        elif self._world_size > 1 or (device or "").startswith("cuda"):
            device = str(self.accelerator.device)
        self._model, self.processor = load_model(
            pretrained,
            dtype=dtype,
            device=device,
            device_map=device_map,
            attn_implementation=_given(attn_implementation),
            revision=_given(revision),
            trust_remote_code=trust_remote_code,
        )
        self.decoder = Decoder(self._model)

    @classmethod
    def _check_values(cls, values: dict[str, Any]) -> Values:
        known = hyper_parameters(cls.method)
        for name in values:
            if name not in known:
                arguments = [*known, "pretrained", "preset", "prompt", "batch_size", "dtype"]
                near = difflib.get_close_matches(name, arguments, 1)
                raise ValueError(
                    f"unknown model_args {name}={values[name]!r}; the hyper-parameters of {cls.method} are: "
                    f"{', '.join(known) or 'none'}" + (f". Did you mean {near[0]}?" if near else "")
                )
        return {name: value for name, value in values.items() if _given(value) is not None}

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
            method = choose_method(self.method, task, self.preset, self.overrides)
            plans.append((method, generation_options(options, task)))
            groups[method, repr(sorted(plans[-1][1].items()))].append(place)

        results: list[GenerationResult | None] = [None] * len(requests)
        elapsed, tokens = 0.0, 0
        with tqdm(total=len(requests), desc=f"{self.method} decoding", disable=self.rank != 0) as progress:
            for places in groups.values():
                method, options = plans[places[0]]
                for batch in self._batches(requests, places):
                    start = time.perf_counter()
                    answers = self._decode(batch, method, options)
                    elapsed += time.perf_counter() - start
                    for question, answer in zip(batch, answers, strict=True):
                        results[question.place] = answer
                        tokens += answer.token_counts.output_tokens
                        request = requests[question.place]
                        self.cache_hook.add_partial("generate_until", (question.context, request.args[2]), answer.text)
                    progress.update(len(batch))
        log_metrics(total_elapsed_time=elapsed, total_gen_tokens=tokens, avg_speed=tokens / elapsed if elapsed else 0.0)
        return [result for result in results if result is not None]

    def _batches(self, requests: list[Instance], places: list[int]) -> Iterator[list[Question]]:
        """Batches of questions of similar length, so that little of a batch is padding."""
        by_length = sorted(places, key=lambda place: -len(requests[place].args[0]))
        for start in range(0, len(by_length), self.batch_size):
            yield [self._question(place, requests[place]) for place in by_length[start : start + self.batch_size]]

    def _question(self, place: int, request: Instance) -> Question:
        context, doc_to_messages, _, doc_id, task, split = request.args
        document = self.task_dict[task][split][doc_id]
        messages = ChatMessages(messages=doc_to_messages(document))
        found, videos, audios = messages.extract_media()
        if videos or audios:
            raise ValueError(f"{task}, document {doc_id}: holds video or audio; this model takes images and text")
        try:
            images = tuple(_image(image) for image in found)
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{task}, document {doc_id}: an image cannot be read ({error})") from error
        if self.prompt == "chat":
            text = chat_text(self.processor, messages.to_hf_messages())
        else:
            prompt = document.get("prompt") or paper_prompt(context)
            text = paper_text(self.processor, prompt)
        return Question(place, context, text, images)

    def _decode(self, batch: list[Question], method: Method, options: dict[str, Any]) -> list[GenerationResult]:
        inputs = encode(self.processor, [q.text for q in batch], [q.images for q in batch])
        inputs = inputs.to(self.device, dtype=self._model.dtype)
        until = options.get("stop_strings", [])
        tokenizer = {"tokenizer": self.processor.tokenizer} if until else {}
        out = self.decoder.generate(inputs, method, **options, **tokenizer)
        texts = self.processor.batch_decode(out.sequences, skip_special_tokens=True)
        ends = self._model.generation_config.eos_token_id
        lengths = _lengths(out.sequences, ends, self.processor.tokenizer.pad_token_id)
        prompt_lengths = inputs["attention_mask"].sum(1).tolist()
        return [
            GenerationResult(
                _before(text, until).strip(),
                SteeredCounts(input_tokens=given, output_tokens=new, confidence=confidence, alpha=alpha),
            )
            for text, given, new, confidence, alpha in zip(
                texts, prompt_lengths, lengths, out.confidence.tolist(), out.alpha.tolist(), strict=True
            )
        ]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: the methods steer the generation of an answer."""
        raise ValueError(f"{self.method} is a decoding method; use a task with output_type: generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: the methods are defined for one question and one answer."""
        raise ValueError(f"{self.method} answers single questions; tasks of several rounds are not supported")


def generation_options(options: dict[str, Any], task: str) -> dict[str, Any]:
    """A task's `generation_kwargs` as options of transformers' `generate`; the given dictionary stays as it is.

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
    until = [until] if isinstance(until, str) else [stop for stop in until or [] if stop]
    if until:
        options["stop_strings"] = until
    options["max_new_tokens"] = _positive("max_new_tokens", options.get("max_new_tokens", 100))
    return options


def _given(value: Any) -> Any:
    """The value of a model argument; the command line passes an absent one as the text 'None'."""
    return None if value in (None, "", "None") else value


def _positive(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or str(number) != str(value):
        raise ValueError(f"{name}={value!r}: give a whole number of at least 1")
    return number


def _image(image: Any) -> Image.Image:
    if isinstance(image, str):
        with Image.open(image) as opened:
            return opened.convert("RGB")
    converted: Image.Image = image.convert("RGB")
    return converted


def _before(text: str, until: list[str]) -> str:
    """The text up to the first stop string."""
    for stop in until:
        text = text.split(stop, 1)[0]
    return text


def _lengths(sequences: torch.Tensor, eos: int | list[int] | None, pad: int) -> list[int]:
    """Generated tokens per row: up to and with the end token, or without the padding that follows a stop string."""
    ends = set(eos) if isinstance(eos, list) else {eos}
    lengths = []
    for row in sequences.tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        while end > 1 and row[end - 1] == pad and pad not in ends:
            end -= 1
        lengths.append(end)
    return lengths


def __getattr__(name: str) -> type[SteeredModel]:
    if name not in model_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    family, method = name.split("_", 1)
    assert method in METHODS
    attributes = {"method": method, "default_pretrained": FAMILIES[family], "__module__": __name__}
    globals()[name] = type(name, (SteeredModel,), attributes)
    found: type[SteeredModel] = globals()[name]
    return found

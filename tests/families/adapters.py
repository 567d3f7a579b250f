"""Questions with images in both frameworks' adapters, and in transformers alone."""

import importlib
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lmms_eval.models
import numpy as np
import torch
from lmms_eval.api.instance import Instance
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature

from adaptvis_plugin.decoding import Decoder
from tests import oracle
from tests.families.build import IMAGE, Family
from tests.families.checkpoint import Processor

NEW_TOKENS = 5
ALPHA = 5.0


@dataclass(frozen=True)
class Row:
    """A question and the pictures it is about."""

    text: str
    pictures: tuple[Image.Image, ...]

    def messages(self) -> list[dict[str, Any]]:
        """Return the row as a chat, as transformers documents it."""
        content: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in self.pictures]
        return [{"role": "user", "content": [*content, {"type": "text", "text": self.text}]}]


@dataclass(frozen=True)
class Reply:
    """An answer, the confidence of its first token, and the tokens of its prompt."""

    text: str
    confidence: float
    prompt: int


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Return a picture of coarse noise; fine noise would turn grey when resized."""
    grid = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.NEAREST)


ONE_TWO_NONE = (
    Row("Where is the mug?", (picture(48, 32, 0),)),
    Row("Is the mug in one picture\nleft of that in the other?", (picture(32, 64, 1), picture(40, 40, 2))),
    Row("What is a mug?", ()),
)
ONE_EACH = (
    Row("Where is the mug? Answer with left, right, on or under.", (picture(48, 32, 3),)),
    Row("Where is the cup?", (picture(30, 70, 4),)),
    Row("Where is it?", (picture(64, 64, 5),)),
)


def through_lmms_eval(
    rows: Sequence[Row], method: str, batch_sizes: Sequence[int], **arguments: Any
) -> Iterator[list[Reply]]:
    """Ask the rows as documents of a task of lmms-eval, in batches of each size."""

    def doc_to_messages(document: dict[str, Any]) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = [{"type": "image", "url": shown} for shown in document["pictures"]]
        return [{"role": "user", "content": [*content, {"type": "text", "text": document["question"]}]}]

    model_args = ",".join(f"{name}={value}" for name, value in arguments.items())
    model = lmms_eval.models.get_model(f"vlm_{method}").create_from_arg_string(model_args, {"device": "cpu"})
    documents = [{"question": row.text, "pictures": row.pictures} for row in rows]
    model.task_dict = {"some_task": {"test": documents}}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=(row.text, doc_to_messages, {"max_new_tokens": NEW_TOKENS}, place, "some_task", "test"),
            idx=0,
            metadata={"task": "some_task", "doc_id": place, "repeats": 1},
        )
        for place, row in enumerate(rows)
    ]
    for size in batch_sizes:
        model.batch_size_per_gpu = size
        results = [(result.text, result.token_counts) for result in model.generate_until(requests)]
        yield [Reply(text, counts.confidence, counts.input_tokens) for text, counts in results]


def through_vlmevalkit(
    rows: Sequence[Row], method: str, batch_sizes: Sequence[int], *, folder: Path, **arguments: Any
) -> Iterator[list[Reply]]:
    """Ask the rows as messages of VLMEvalKit, with pictures as files in a folder, in batches of each size."""
    model = _steered_vlm()(method=method, max_new_tokens=NEW_TOKENS, device="cpu", **arguments)
    messages = []
    for place, row in enumerate(rows):
        message = []
        for number, shown in enumerate(row.pictures):
            path = folder / f"{place}_{number}.png"
            shown.save(path)
            message.append({"type": "image", "value": str(path)})
        messages.append(model.prompt([*message, {"type": "text", "value": row.text}]))
    for size in batch_sizes:
        batches = [messages[start : start + size] for start in range(0, len(rows), size)]
        answers = [answer for batch in batches for answer in model.answer(batch)]
        yield [Reply(answer.text, answer.confidence, answer.input_tokens) for answer in answers]


@cache
def _steered_vlm() -> Any:
    """Return VLMEvalKit's model class. Importing VLMEvalKit switches off gradients and the check of certificates."""
    gradients, context = torch.is_grad_enabled(), ssl._create_default_https_context
    from adaptvis_plugin.vlmevalkit import register

    register()
    torch.set_grad_enabled(gradients)
    ssl._create_default_https_context = context
    return importlib.import_module("vlmeval.vlm").SteeredVLM


class Alone:
    """A checkpoint under transformers alone, used as transformers documents it."""

    def __init__(self, folder: Path, family: Family, declared: Processor) -> None:
        self.family, self.declared = family, declared
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder)
        self.processor: Any = AutoProcessor.from_pretrained(folder, padding_side="left")

    def replies(self, rows: Sequence[Row], style: str, method: str, batch_size: int) -> list[Reply]:
        """Return the replies of `generate`, or of the oracle."""
        answer = {"baseline": self._generated, "scalingvis": self._steered}[method]
        batches = [self._inputs(rows[start : start + batch_size], style) for start in range(0, len(rows), batch_size)]
        return [reply for batch in batches for reply in answer(batch)]

    def swept(self, rows: Sequence[Row], style: str, alphas: Sequence[float]) -> dict[float, list[Reply]]:
        """Return the replies of our decoder to what the processor gives, for every coefficient of a sweep."""
        inputs = self._inputs(rows, style)
        with Decoder(self.model) as decoder:
            swept = decoder.sweep(_without_labels(inputs), alphas, max_new_tokens=NEW_TOKENS)
        return {alpha: self._replies(inputs, out.sequences, out.confidence) for alpha, out in swept.items()}

    def _inputs(self, rows: Sequence[Row], style: str) -> BatchFeature:
        # Llama 4's pixels are always in bfloat16.
        return self._processed(rows, style).to(dtype=self.model.dtype)

    def _processed(self, rows: Sequence[Row], style: str) -> BatchFeature:
        chats = [row.messages() for row in rows]
        pictures: Any = [list(row.pictures) for row in rows]
        if style == "chat" and not self.declared.flat:
            found: BatchFeature = self.processor.apply_chat_template(
                chats,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
            return found
        if style == "chat":
            texts = self.processor.apply_chat_template(chats, add_generation_prompt=True)
        else:
            shown = self.declared.placeholder or self.processor.image_token
            texts = [f"{shown}\nUSER: {row.text}\nASSISTANT:" for row in rows]
        if self.declared.flat:
            pictures = [shown for own in pictures for shown in own]
        found = self.processor(
            text=texts, images=pictures if any(pictures) else None, padding=True, return_tensors="pt"
        )
        return found

    def _generated(self, inputs: BatchFeature) -> list[Reply]:
        out = self.model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        new = out.sequences[:, inputs["input_ids"].shape[1] :]
        return self._replies(inputs, new, out.logits[0].softmax(-1).amax(-1))

    def _steered(self, inputs: BatchFeature) -> list[Reply]:
        out = oracle.scaling_vis(
            self.model,
            _without_labels(inputs),
            IMAGE,
            torch.full((len(inputs["input_ids"]),), ALPHA),
            NEW_TOKENS,
            own_positions=self.family.own_positions,
            answer_type=self.family.prefix_types[2],
            forbidden=self.model.generation_config.suppress_tokens,
        )
        return self._replies(inputs, out.sequences, out.confidence)

    def _replies(self, inputs: BatchFeature, sequences: torch.Tensor, confidence: torch.Tensor) -> list[Reply]:
        texts = self.processor.batch_decode(sequences, skip_special_tokens=True)
        prompts = inputs["attention_mask"].sum(1).tolist()
        return [Reply(text.strip(), *rest) for text, *rest in zip(texts, confidence.tolist(), prompts, strict=True)]


def _without_labels(inputs: BatchFeature) -> dict[str, torch.Tensor]:
    """Return the inputs without PaliGemma's labels, which are for training."""
    return {name: value for name, value in inputs.items() if name != "labels"}

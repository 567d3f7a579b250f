"""The attention of a model that is loaded, in memory: for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from tqdm import tqdm
from transformers import ProcessorMixin

from adaptvis_plugin.attention.areas import pixel_map
from adaptvis_plugin.attention.columns import ColumnMapper
from adaptvis_plugin.attention.measures import find_sinks, measure
from adaptvis_plugin.attention.record import AttentionError, Places, Record, UnmappedError
from adaptvis_plugin.data.questions import paper_prompt
from adaptvis_plugin.decoding import Baseline, Decoder, Method
from adaptvis_plugin.decoding.capture import own_columns
from adaptvis_plugin.images import read_image
from adaptvis_plugin.models.prompts import chat_text, encode, paper_text

Picture = Image.Image | str | Path


@dataclass(frozen=True)
class Attention:
    """Where the last prompt token of each question attends to.

    Attributes:
        weights: The attention weights, shape (rows, layers, heads, columns). The columns are the prompt's tokens; a
            shorter prompt has zeros at the left.
        ids: The prompt's tokens, shape (rows, columns); -1 at the left of a shorter prompt.
        image: Which columns hold the image, shape (rows, columns).
        layers: The numbers of the layers.
        table: For each row, layer and head the measures of `attention.measures.MEASURES`.
        answers: Each row's answer.
        confidence: The unsteered model's probability of its likeliest first token, shape (rows,).
        alpha: The coefficient of each row, shape (rows,).
        places: Where the image columns of each row lie in its picture; or why that is not known.
        sizes: Width and height of each row's picture.
    """

    weights: NDArray[np.float16]
    ids: NDArray[np.int32]
    image: NDArray[np.bool_]
    layers: tuple[int, ...]
    table: pd.DataFrame
    answers: tuple[str, ...]
    confidence: NDArray[np.float32]
    alpha: NDArray[np.float32]
    places: tuple[Places | str, ...]
    sizes: tuple[tuple[int, int], ...]

    def maps(self, layer: int | None = None, head: int | None = None) -> list[NDArray[np.float32]]:
        """Return the attention on each row's picture as a map in its pixels, shape (height, width).

        A map adds up to the attention on the image.

        Args:
            layer: The number of a layer; the mean of all layers by default.
            head: The number of a head; the mean of all heads by default.

        Raises:
            AttentionError: If there is no such layer or head, or a row's columns cannot be laid over its picture.
        """
        if layer is not None and layer not in self.layers:
            raise AttentionError(f"layer {layer}: there is attention in the layers {', '.join(map(str, self.layers))}")
        if head is not None and not 0 <= head < self.weights.shape[2]:
            raise AttentionError(f"head {head}: the layers have the heads 0 to {self.weights.shape[2] - 1}")
        own = self.weights if layer is None else self.weights[:, [self.layers.index(layer)]]
        own = own if head is None else own[:, :, [head]]
        found = []
        for row, (places, size) in enumerate(zip(self.places, self.sizes, strict=True)):
            if isinstance(places, str):
                raise AttentionError(f"row {row}: {places}")
            values = own[row].astype(np.float32).mean((0, 1))
            found.append(pixel_map(places, values[self.image[row]], size))
        return found


def attention(
    model: nn.Module,
    processor: ProcessorMixin,
    questions: Sequence[tuple[Picture, str]],
    method: Method | None = None,
    *,
    batch_size: int = 1,
    max_new_tokens: int = 16,
) -> Attention:
    """Answer questions about pictures, and return where the last prompt token attends to.

    All of it is kept in memory: 1.3 MB for a question of LLaVA-1.5-7B. For whole tasks use `adaptvis attention`.

    Args:
        model: See `Decoder`.
        processor: The model's processor. It renders a question by its chat template, or without one by the paper's
            prompt. Its padding side is set to the left.
        questions: Pictures, or their files, each with a question.
        method: How to decode; unsteered by default. The attention is that under its coefficients.
        batch_size: Questions in a batch.
        max_new_tokens: Upper bound on the answer's length in tokens.

    Raises:
        AttentionError: If there is no question.
        ValueError: See `Decoder`, `Decoder.generate` and `models.prompts.encode`.
        OSError: If a picture cannot be read.
    """
    if not questions:
        raise AttentionError("there is no question; give pairs of a picture and a question")
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    method, mapper = method or Baseline(), ColumnMapper(model, processor)
    records: list[Record] = []
    places: list[Places | str] = []
    answers: list[str] = []
    numbers: list[tuple[float, float]] = []
    with Decoder(model) as decoder:
        for start in tqdm(range(0, len(questions), batch_size), desc="attention", unit="batch"):
            part = questions[start : start + batch_size]
            images = [read_image(picture) for picture, _ in part]
            texts = [_rendered(processor, text) for _, text in part]
            inputs = encode(processor, texts, [[image] for image in images])
            inputs = inputs.to(decoder.model.device, dtype=decoder.model.dtype)
            out = decoder.generate(inputs, method, max_new_tokens=max_new_tokens, capture=True)
            assert out.attention is not None
            answers += tokenizer.batch_decode(out.sequences, skip_special_tokens=True)
            numbers += zip(out.confidence.tolist(), out.alpha.tolist(), strict=True)
            for image, own in zip(images, own_columns(inputs, [out.attention], decoder.image_token_id), strict=True):
                where = _places(mapper, image, int(own.image.sum()))
                places.append(where)
                mapped = None if isinstance(where, str) else where
                records.append(Record(len(records), *own, mapped, (image.size,), ()))
        layers = decoder.layers
    width = max(len(record.ids) for record in records)
    shape = (len(records), *records[0].weights.shape[1:3], width)
    weights, ids = np.zeros(shape, np.float16), np.full((len(records), width), -1, np.int32)
    image_columns = np.zeros((len(records), width), bool)
    for row, record in enumerate(records):
        at = width - len(record.ids)
        weights[row, ..., at:], ids[row, at:], image_columns[row, at:] = record.weights[0], record.ids, record.image
    return Attention(
        weights,
        ids,
        image_columns,
        layers,
        _table(records, layers),
        tuple(answer.strip() for answer in answers),
        np.array([confidence for confidence, _ in numbers], np.float32),
        np.array([alpha for _, alpha in numbers], np.float32),
        tuple(places),
        tuple(record.sizes[0] for record in records),
    )


def _rendered(processor: ProcessorMixin, question: str) -> str:
    if getattr(processor, "chat_template", None) is None:
        return paper_text(processor, paper_prompt(question))
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return chat_text(processor, [{"role": "user", "content": content}])


def _places(mapper: ColumnMapper, image: Image.Image, columns: int) -> Places | str:
    try:
        return mapper.places([image], columns)
    except UnmappedError as error:
        return str(error)


def _table(records: Sequence[Record], layers: Sequence[int]) -> pd.DataFrame:
    """Return the measures of each row, layer and head."""
    parts = []
    for record in records:
        values = measure(record, find_sinks(record))
        index = pd.MultiIndex.from_product(
            [[record.doc_id], layers, range(record.weights.shape[2])], names=["row", "layer", "head"]
        )
        parts.append(pd.DataFrame({name: own[0].ravel() for name, own in values.items()}, index=index).reset_index())
    return pd.concat(parts, ignore_index=True)

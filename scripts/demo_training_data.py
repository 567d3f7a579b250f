"""The training data of the demo model: drawn scenes, questions about them, and batches of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch
from transformers import LlavaProcessor

from adaptvis_plugin.data import vsr
from adaptvis_plugin.data.demo.furniture import REFERENCES
from adaptvis_plugin.data.demo.objects import OBJECTS
from adaptvis_plugin.data.demo.rows import caption, question, training_pairs
from adaptvis_plugin.data.demo.scenes import RELATIONS, SIZE, Placement, Scene, draw_room, draw_scene, place
from adaptvis_plugin.data.questions import paper_prompt

# As in real training data, two relations are common and two are rare.
FREQUENCY = {"left": 0.44, "right": 0.44, "on": 0.06, "under": 0.06}
PATCH = 16
GRID = SIZE // PATCH
IMAGE_TOKENS = GRID**2
THINGS = (*REFERENCES, *OBJECTS)
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
_MIRRORED = {"left": "right", "right": "left"}
_FURNITURE = [1 + THINGS.index(name) for name in REFERENCES]


def chat_prompt(text: str) -> str:
    """Return what the chat template makes of one picture and one question."""
    return f"USER: <image>\n{text} ASSISTANT:"


def naming_question(relation: str, reference: str) -> str:
    """Ask for the name of the object in a place."""
    where = {"left": "to the left of", "right": "to the right of"}.get(relation, relation)
    return f"What is {where} the {reference}? Answer with the name."


def judging_question(statement: str) -> str:
    """Ask whether a caption is true, in the wording the authors use for VSR."""
    return vsr.question(f"{statement}.")


@dataclass
class Example:
    """A drawn training scene, with the thing that each patch of the picture shows."""

    pixels: Pixels
    patches: Pixels
    reference: str
    placements: list[Placement]


def training_example(rng: Random) -> Example:
    """Draw a scene with one to three objects, none of them in a held-out pair."""
    reference = rng.choice(list(REFERENCES))
    weights = dict(FREQUENCY)
    placements = []
    for name in rng.sample([n for n, r in training_pairs() if r == reference], rng.choice((1, 2, 2))):
        relation = rng.choices(list(weights), list(weights.values()))[0]
        del weights[relation]
        placements.append(place(rng, name, relation))
    scene = draw_scene(rng, draw_room(rng, reference), placements)
    pixels = np.asarray(scene.image)
    if mirrored := rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        placements = [replace(p, relation=_MIRRORED.get(p.relation, p.relation)) for p in placements]
    return Example(pixels, patch_labels(scene, mirrored), reference, placements)


def patch_labels(scene: Scene, mirrored: bool) -> Pixels:
    """Return the thing that covers most of each patch: 0 for the background, else 1 + its place in ``THINGS``."""
    labels = np.zeros((GRID, GRID), np.uint8)
    edges = np.arange(0, SIZE, PATCH)
    best = np.full(labels.shape, 0.3)
    for name, (left, top, right, bottom) in sorted(scene.boxes.items(), key=lambda item: item[0] in OBJECTS):
        if mirrored:
            left, right = SIZE - right, SIZE - left
        across = np.clip(np.minimum(right, edges + PATCH) - np.maximum(left, edges), 0, None) / PATCH
        down = np.clip(np.minimum(bottom, edges + PATCH) - np.maximum(top, edges), 0, None) / PATCH
        covered = down[:, None] * across
        if name in OBJECTS:
            best = np.where(np.isin(labels, _FURNITURE), 0.3, best)
        labels[covered > best] = 1 + THINGS.index(name)
        best = np.maximum(best, covered)
    return labels


def questions(rng: Random, example: Example, count: int) -> Iterator[tuple[str, str]]:
    """Yield questions about a scene with their answers: most ask where, some ask what or whether a caption is true."""
    for _ in range(count):
        asked = rng.choice(example.placements)
        kind = rng.random()
        if kind < 0.7:
            yield question(asked.name, example.reference), asked.relation.capitalize()
        elif kind < 0.9:
            yield naming_question(asked.relation, example.reference), asked.name.capitalize()
        else:
            true = rng.random() < 0.5
            stated = asked.relation if true else rng.choice([r for r in RELATIONS if r != asked.relation])
            yield judging_question(caption(asked.name, stated, example.reference)), "Yes" if true else "No"


def as_pixel_values(examples: Sequence[Example]) -> torch.Tensor:
    """Return what the image processor makes of the scenes."""
    return torch.from_numpy(np.stack([e.pixels for e in examples])).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_text(
    rng: Random, processor: LlavaProcessor, examples: Sequence[Example], per_scene: int
) -> dict[str, torch.Tensor]:
    """Put several questions about a scene into one row, behind one copy of the picture.

    Each question attends to the picture and to itself, at the positions that it would have alone. So the loss is
    exactly that of one row for each question, in half the time.
    """
    tokenizer: Any = processor.tokenizer
    pictures = "<image>" * IMAGE_TOKENS
    rows: list[list[tuple[int, int, int, int]]] = []  # token, position, question it belongs to, label
    for example in examples:
        wrap = rng.choice((paper_prompt, chat_prompt))
        row: list[tuple[int, int, int, int]] = []
        for number, (text, answer) in enumerate(questions(rng, example, per_scene), start=1):
            before, after = wrap(text).split("<image>")
            start = tokenizer(before + pictures).input_ids
            middle = tokenizer(after, add_special_tokens=False).input_ids
            end = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            if number == 1:
                row += [(token, i, 0, -100) for i, token in enumerate(start)]
            labels = [-100] * (len(middle) - 1) + end + [-100]
            both = zip(middle + end, labels, strict=True)
            row += [(token, i, number, label) for i, (token, label) in enumerate(both, start=len(start))]
        rows.append(row)
    length = max(map(len, rows))
    padding = (tokenizer.pad_token_id, 0, -1, -100)
    table = torch.tensor([row + [padding] * (length - len(row)) for row in rows])
    ids, positions, owner, labels_ = table.unbind(-1)
    same = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == 0)
    mask = same & torch.ones(length, length, dtype=torch.bool).tril()
    return {"input_ids": ids, "position_ids": positions, "attention_mask": mask[:, None], "labels": labels_}
